//! The agent's door: where a client comes in that may forward a port of the agent's pod, and show tokens. What they let it
//! capture is what its session may, which the agent starts itself.
//!
//! A session is a `sniff serve` with the connection as stdin and stdout. It asks the agent as every session does, is known
//! by its process, and gets its remit with the permission: nothing that comes over the connection has a say in that.

use std::{
    collections::HashMap,
    env,
    net::SocketAddr,
    os::fd::OwnedFd,
    path::PathBuf,
    process::Stdio,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use log::{debug, info, warn};
use sniff_kubernetes::{Cluster, Login, Reviewed};
use sniff_protocol::{
    Decoder, HEADER_LEN, PREFACE,
    door::{Admitted, Answer, Credentials, MAX_CREDENTIALS, Refusal, Refused},
    encode,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    process::Command,
    time::timeout,
};

use super::{
    audit, crowd,
    judge::{Authority, Judge, Reviewer, refused},
    note,
};
use crate::system::clock;

/// How long a client may take to show its tokens, which it may still be asking for.
const PATIENCE: Duration = Duration::from_secs(15);
/// How long the API server may take to review them, and the client to hear what comes of that.
const REVIEW: Duration = Duration::from_secs(20);
/// How long a refusal may take to be heard.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// Most sessions at a time that have come in and not asked for permission yet.
const MAX_STARTING: usize = 16;
/// This program, also when its file was replaced.
pub(super) const THIS: &str = "/proc/self/exe";

/// The sessions that the agent has started and that have not asked for permission yet, by their processes.
#[derive(Debug, Default)]
pub struct Started(Mutex<HashMap<i32, Origin>>);

/// Why the agent has started a session.
#[derive(Debug)]
pub enum Origin {
    /// Somebody has come in by the door.
    Door(Authority),
    /// It records a pod of this namespace.
    Recorder { namespace: String },
}

impl Started {
    /// Why the agent has started the session in this process, if it has; it is asked once.
    pub(super) fn take(&self, pid: i32) -> Option<Origin> {
        self.lock().remove(&pid)
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, HashMap<i32, Origin>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The door.
pub(super) struct Door {
    judge: Judge,
    started: Arc<Started>,
    /// Where sessions ask the agent.
    socket: PathBuf,
    node: String,
}

impl Door {
    /// One of the agent of a node that listens for sessions at a socket.
    ///
    /// # Errors
    ///
    /// When no Kubernetes API is configured that could be asked about tokens.
    pub(super) async fn new(node: &str, socket: PathBuf, started: Arc<Started>) -> Result<Self> {
        let namespace = cluster().await?.default_namespace().to_owned();
        let since = Duration::from_nanos(clock::now()).as_secs();
        let judge = Judge::new(node, namespace, since);
        Ok(Self { judge, started, socket, node: node.to_owned() })
    }

    /// Lets in who may come in.
    pub(super) async fn serve(self, listener: TcpListener) {
        let this = Arc::new(self);
        let attend = |stream, peer| {
            let this = Arc::clone(&this);
            async move {
                if let Err(error) = this.attend(stream, peer).await {
                    info!("{peer} came to the door for nothing: {error:#}");
                }
            }
        };
        crowd::attend(listener, PATIENCE + REVIEW + LAST_WORDS, attend).await;
    }

    async fn attend(&self, mut stream: TcpStream, peer: SocketAddr) -> Result<()> {
        stream.set_nodelay(true)?;
        let authority =
            match timeout(PATIENCE, credentials(&mut stream)).await.context("it shows no tokens")? {
                Ok(Some(credentials)) => self.judge(&credentials).await,
                // As of whoever has found out meanwhile that he may have no token.
                Ok(None) => {
                    debug!("{peer} leaves the door without a word");
                    return Ok(());
                }
                Err(error) => Err(refused(Refusal::Malformed, format!("{error:#}"))),
            };
        let authority = authority.and_then(|authority| match self.started.lock().len() {
            MAX_STARTING.. => {
                Err(refused(Refusal::Busy, format!("{MAX_STARTING} sessions begin at once: try again")))
            }
            _ => Ok(authority),
        });
        match authority {
            Ok(authority) => {
                let remit = &authority.remit;
                let namespaces = remit.namespaces.iter().cloned().collect();
                say(&mut stream, &Answer::Admitted(Admitted { namespaces, node: remit.node })).await?;
                let shown: Vec<String> = authority.shown.iter().map(ToString::to_string).collect();
                info!("{peer} comes in and may capture {remit}: {}", shown.join(", "));
                self.start(stream, authority)
            }
            Err(refused) => {
                warn!("{peer} is not let in: {}", refused.message);
                note(audit::turned_away(&self.node, &refused.message));
                say(&mut stream, &Answer::Refused(refused)).await?;
                hang_up(stream).await;
                Ok(())
            }
        }
    }

    async fn judge(&self, credentials: &Credentials) -> Result<Authority, Refused> {
        // No connection is kept for the next one: an idle agent has nothing to attend to.
        let cluster = cluster().await;
        let cluster = cluster.map_err(|error| refused(Refusal::Unavailable, format!("{error:#}")))?;
        match timeout(REVIEW, self.judge.judge(credentials, &cluster)).await {
            Ok(judged) => judged,
            Err(_) => {
                Err(refused(Refusal::Unavailable, format!("tokens are not reviewed within {REVIEW:?}")))
            }
        }
    }

    /// Starts a session that has this connection.
    fn start(&self, stream: TcpStream, authority: Authority) -> Result<()> {
        let stream = stream.into_std()?;
        stream.set_nonblocking(false)?;
        let stdout = OwnedFd::from(stream.try_clone()?);
        let mut command = Command::new(THIS);
        command
            .arg0(env::args_os().next().unwrap_or_else(|| "sniff".into()))
            .args(["serve", "--authorised", "--node-name", &self.node, "--agent-socket"])
            .arg(&self.socket)
            .stdin(Stdio::from(OwnedFd::from(stream)))
            .stdout(Stdio::from(stdout))
            .kill_on_drop(true);
        let mut started = self.started.lock();
        let mut child = command.spawn().context("cannot start a session")?;
        let pid =
            child.id().and_then(|pid| i32::try_from(pid).ok()).context("a session has ended at once")?;
        started.insert(pid, Origin::Door(authority));
        drop(started);
        let sessions = Arc::clone(&self.started);
        tokio::spawn(async move {
            // The number is the session's until it is waited for.
            if let Err(error) = child.wait().await {
                warn!("process {pid}: {error}");
            }
            sessions.take(pid);
        });
        Ok(())
    }
}

impl Reviewer for Cluster {
    async fn review(&self, token: &str, audience: &str) -> Result<Option<Reviewed>> {
        self.review_token(token, audience).await
    }
}

async fn cluster() -> Result<Cluster> {
    let cluster = Cluster::configured(&Login::default()).await?;
    cluster.context(
        "the door (--door) takes a Kubernetes API to have tokens reviewed by, and none is configured",
    )
}

/// What a client shows: a preface and one frame, and nothing behind them; `None` when it leaves before that is whole.
async fn credentials(stream: &mut (impl AsyncRead + Unpin)) -> Result<Option<Credentials>> {
    let mut decoder = Decoder::new();
    let mut left = PREFACE.len() + HEADER_LEN + MAX_CREDENTIALS;
    let mut buffer = [0; 4 << 10];
    loop {
        if let Some(credentials) = decoder.next()? {
            ensure!(decoder.rest().is_empty(), "more than tokens is said before they are answered");
            return Ok(Some(credentials));
        }
        ensure!(left > 0, "more than {MAX_CREDENTIALS} bytes of tokens");
        let most = left.min(buffer.len());
        match stream.read(&mut buffer[..most]).await? {
            0 => return Ok(None),
            len => {
                decoder.push(&buffer[..len]);
                left -= len;
            }
        }
    }
}

async fn say(stream: &mut TcpStream, answer: &Answer) -> Result<()> {
    let mut bytes = PREFACE.to_vec();
    encode(answer, &mut bytes)?;
    Ok(stream.write_all(&bytes).await?)
}

/// Closes a connection so that what was said last is heard: what is unread would have it reset.
async fn hang_up(mut stream: TcpStream) {
    let mut rest = [0; 4 << 10];
    let heard = async {
        stream.shutdown().await?;
        let mut left = 4 * MAX_CREDENTIALS;
        while left > 0 {
            match stream.read(&mut rest).await? {
                0 => break,
                len => left = left.saturating_sub(len),
            }
        }
        std::io::Result::Ok(())
    };
    // Whoever does not listen misses it.
    let _ = timeout(LAST_WORDS, heard).await;
}
