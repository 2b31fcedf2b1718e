//! One recorder: a `sniff serve` that the agent has started, and whose client it is. Packets do not come here; what it holds is
//! had by its socket.

use std::{env, path::PathBuf, process::Stdio, sync::Arc, time::Duration};

use anyhow::{Context as _, Result, bail, ensure};
use log::debug;
use sniff_protocol::{
    Decoder, PREFACE, ToClient, ToNode, encode,
    message::{CapturePlan, ClientHello, Event, Target, TargetId},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    process::{Child, ChildStdin, ChildStdout, Command},
    sync::oneshot,
    time::{sleep, timeout},
};

use super::wanted::Wanted;
use crate::agent::{
    audit::PodId,
    door::{Origin, Started, THIS},
};

/// Between two signs of life. The session waits for longer.
const KEEP_ALIVE: Duration = Duration::from_secs(100);
const LEASE_SECONDS: u32 = 300;
/// How long one that was told to end may take.
const GRACE: Duration = Duration::from_secs(10);
/// Bytes that are read at once.
const READ_BYTES: usize = 16 << 10;

/// Where recorders are started.
#[derive(Clone)]
pub struct Nursery {
    pub node: Arc<str>,
    /// Where sessions ask the agent.
    pub socket: Arc<PathBuf>,
    pub started: Arc<Started>,
}

/// A recorder that has been started.
pub(super) struct Recorder {
    child: Child,
    stdin: ChildStdin,
    stdout: ChildStdout,
    decoder: Decoder<ToClient>,
}

impl Nursery {
    /// Starts a recorder of a pod; returns its process, too.
    ///
    /// # Errors
    ///
    /// When the system does not start it.
    pub(super) async fn start(&self, wanted: &Wanted) -> Result<(Recorder, i32)> {
        let (child, pid) = {
            // It asks for its permission at once.
            let mut started = self.started.lock();
            let mut command = Command::new(THIS);
            command
                .arg0(env::args_os().next().unwrap_or_else(|| "sniff".into()))
                .args(["serve", "--authorised", "--node-name", &self.node, "--agent-socket"])
                .arg(&*self.socket)
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .kill_on_drop(true);
            let child = command.spawn().context("a recorder cannot be started")?;
            let pid =
                child.id().and_then(|pid| i32::try_from(pid).ok()).context("a recorder has ended at once")?;
            started.insert(pid, Origin::Recorder { namespace: wanted.pod.namespace.clone() });
            (child, pid)
        };
        let mut recorder = Recorder::new(child).inspect_err(|_| drop(self.started.take(pid)))?;
        let greeted = recorder.greet(wanted).await;
        greeted.inspect_err(|_| drop(self.started.take(pid)))?;
        Ok((recorder, pid))
    }
}

impl Recorder {
    fn new(mut child: Child) -> Result<Self> {
        let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
        let (stdin, stdout) = stdin.zip(stdout).context("a recorder without pipes")?;
        Ok(Self { child, stdin, stdout, decoder: Decoder::new() })
    }

    async fn greet(&mut self, wanted: &Wanted) -> Result<()> {
        let Wanted {
            pod: PodId { namespace, name, uid },
            memory,
            filter,
            snaplen,
            headers,
            cutoff,
            alarm,
            by,
            ..
        } = wanted.clone();
        let plan = CapturePlan {
            filter,
            snaplen: Some(snaplen),
            headers,
            cutoff,
            alarm,
            record_bytes: Some(u32::try_from(memory).context("too much memory for one recorder")?),
            ..CapturePlan::default()
        };
        let hello = ClientHello {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            who: format!("sniff's agent, by {by}"),
            plan,
            targets: vec![Target::new(TargetId::Pod { namespace, name, uid })],
            lease_seconds: LEASE_SECONDS,
            ..ClientHello::default()
        };
        let mut bytes = PREFACE.to_vec();
        encode(&ToNode::Hello(Box::new(hello)), &mut bytes)?;
        Ok(self.stdin.write_all(&bytes).await?)
    }

    /// Keeps it going until it ends by itself, which is an error that says why, or is to `stop`; `records` is called when it
    /// records.
    ///
    /// # Errors
    ///
    /// Why it has ended.
    pub(super) async fn attend(
        mut self,
        mut stop: oneshot::Receiver<()>,
        mut records: impl FnMut(),
    ) -> Result<()> {
        loop {
            let message = tokio::select! {
                message = next(&mut self.stdout, &mut self.decoder) => message?,
                () = sleep(KEEP_ALIVE) => {
                    self.say(&ToNode::KeepAlive).await?;
                    continue;
                }
                _ = &mut stop => break,
            };
            match message {
                Some(ToClient::Event(Event::TargetAdded { .. })) => records(),
                Some(ToClient::Event(Event::TargetFailed { error, .. })) => bail!("{error}"),
                Some(ToClient::Error(error)) => bail!("{}", error.message),
                Some(ToClient::End(end)) => bail!("it has ended: {:?}", end.reason),
                None => bail!("its process has ended"),
                Some(_) => {}
            }
        }
        // It detaches, and lets go of what it holds.
        let ending = async {
            self.say(&ToNode::Stop).await?;
            while !matches!(next(&mut self.stdout, &mut self.decoder).await?, Some(ToClient::End(_)) | None) {
            }
            drop(self.stdin);
            self.child.wait().await.map_err(anyhow::Error::from)
        };
        match timeout(GRACE, ending).await {
            Ok(Ok(status)) => debug!("a recorder has ended: {status}"),
            Ok(Err(error)) => debug!("a recorder that was to end has: {error:#}"),
            // Dropped, it is killed.
            Err(_) => debug!("a recorder does not end within {GRACE:?}, and is killed"),
        }
        Ok(())
    }

    async fn say(&mut self, message: &ToNode) -> Result<()> {
        let mut bytes = Vec::new();
        encode(message, &mut bytes)?;
        self.stdin.write_all(&bytes).await.context("its process has ended")
    }
}

/// What it says next; none where it has ended. It may be given up half-way and asked again.
async fn next(stdout: &mut ChildStdout, decoder: &mut Decoder<ToClient>) -> Result<Option<ToClient>> {
    let mut buffer = [0; READ_BYTES];
    loop {
        if let Some(message) = decoder.next()? {
            ensure!(!matches!(message, ToClient::Recordings(_)), "a recorder says what it was not asked");
            return Ok(Some(message));
        }
        match stdout.read(&mut buffer).await? {
            0 => return Ok(None),
            len => decoder.push(&buffer[..len]),
        }
    }
}
