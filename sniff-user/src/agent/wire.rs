//! What the agent and the sessions on its node say to each other: lines of JSON over a Unix socket. Both ends are the
//! same program, often in the same container.

use std::{
    collections::{BTreeMap, BTreeSet},
    env, fmt, io,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use sniff_common::MAX_SNAPLEN;
use sniff_protocol::message::{Reason, Recordings};
use tokio::{
    net::UnixStream,
    time::{Instant, sleep, timeout},
};

use super::{
    AGENT_SOCKET,
    audit::{Captured, Outcome, PodId, words},
};

/// Most bytes of a line to the agent, and of one from it, which may tell of all that is recorded.
const MAX_LINE: usize = 64 << 10;
const MAX_ANSWER: usize = 16 << 20;
/// How long the agent may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long the agent may take to start, and the time between two looks.
const START: Duration = Duration::from_secs(3);
const PAUSE: Duration = Duration::from_millis(20);

/// To the agent.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ToAgent {
    /// Are you well?
    Check,
    /// May I?
    Register(Registration),
    /// I capture this, too.
    Captures(Captured),
    /// I capture this pod no more.
    Leaves(PodId),
    /// I was asked for this, and do not capture it.
    Denied {
        /// Whom, in words.
        what: String,
        /// Why not.
        why: String,
    },
    /// What is recorded that I may have?
    Recorded,
    /// What I have done.
    Report(Report),
    /// I end.
    End {
        /// How.
        outcome: Outcome,
        /// The same in words.
        why: String,
    },
}

/// What a session is going to be.
#[derive(Debug, Serialize, Deserialize)]
pub struct Registration {
    /// What it does.
    #[serde(default)]
    pub kind: Kind,
    /// Who asks for it, by their own word.
    pub who: String,
    /// What is to be captured, in words.
    pub what: String,
    /// Which packets; `None` is all of them.
    pub filter: Option<String>,
    /// Bytes of its buffer.
    pub buffer_bytes: u64,
    /// How long it is to last, if that is known.
    pub duration: Option<Duration>,
    /// Why, in the words of whoever asks.
    pub reason: Option<String>,
    /// Most bytes kept of a packet.
    pub snaplen: u32,
    /// Whether only headers are kept.
    pub headers: bool,
    /// Whether pods are to be captured that a label denies.
    pub override_deny: bool,
    /// Whether it keeps to a policy.
    pub keeps_policy: bool,
}

impl Registration {
    /// That of a session which nobody has asked for from afar, with everything else left open.
    pub fn of_this_process() -> Self {
        let who = env::args().next().unwrap_or_else(|| "sniff".to_owned());
        Self {
            kind: Kind::Capture,
            who: format!("{who}, run in this pod"),
            what: String::new(),
            filter: None,
            buffer_bytes: 0,
            duration: None,
            reason: None,
            snaplen: MAX_SNAPLEN,
            headers: false,
            override_deny: false,
            keeps_policy: false,
        }
    }
}

/// What a session does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// It captures.
    #[default]
    Capture,
    /// It hands out what was recorded.
    Past,
    /// It records; the agent has started it.
    Recorder,
}

/// What a session has done so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// Packets that matched.
    pub matched: u64,
    /// Packets that were sent.
    pub delivered: u64,
    /// Packets that were lost.
    pub dropped: u64,
    /// Packets left out behind the cutoff of their flow.
    #[serde(default)]
    pub cut_off: u64,
    /// Bytes that were sent.
    pub bytes: u64,
    /// What is held, of a recorder.
    #[serde(default)]
    pub held: Option<Holding>,
    /// Packets a second that its alarm is about, when they begin to be more than they should.
    #[serde(default)]
    pub alarm: Option<u64>,
}

/// What a recorder holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holding {
    /// Bytes of packets.
    pub bytes: u64,
    /// From then on all is held, in nanoseconds since the epoch.
    pub oldest: u64,
    /// Packets that are not held any more, about.
    pub aged_out: u64,
    /// Their bytes.
    pub aged_out_bytes: u64,
}

/// What is recorded on a node that a session may have.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Recorded {
    /// For whoever asked.
    pub recordings: Recordings,
    /// Recorders that hold something.
    pub sources: Vec<Source>,
    /// Where files that triggers had saved are, and others may be for a while that have no name; none where nothing is recorded.
    pub folder: Option<PathBuf>,
}

/// A recorder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Source {
    /// Its process.
    pub pid: i32,
    /// Whom it records.
    pub pod: PodId,
    /// The pod's labels, as they were last.
    pub labels: BTreeMap<String, String>,
}

/// To a session.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ToSession {
    /// I am well.
    Healthy,
    /// You may.
    Granted(Granted),
    /// You may not.
    Refused {
        /// Which limit, and what to do.
        why: String,
    },
    /// You may not, whatever the limits.
    NotAuthorised {
        /// Which right is missing.
        why: String,
    },
    /// This is recorded.
    Recorded(Box<Recorded>),
    /// You must end now.
    End {
        /// What kind of reason.
        cause: Cause,
        /// The reason.
        why: String,
    },
}

/// What a session may do.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Granted {
    /// The longest that it may last.
    pub limit: Option<Duration>,
    /// What of its wishes is not granted.
    pub note: Option<String>,
    /// The policy that it keeps to, in YAML.
    pub policy: Option<String>,
    /// What may be captured; `None` is all, for whoever may exec into the agent's pod.
    pub remit: Option<Remit>,
}

impl Granted {
    /// Where there is nobody who could refuse anything: whoever starts a session there is root.
    fn by_nobody() -> Self {
        Self { limit: None, note: None, policy: None, remit: None }
    }
}

/// What may be captured.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Remit {
    /// The pods of these namespaces.
    pub namespaces: BTreeSet<String>,
    /// Whether the node's interfaces may be, and with them all pods, whose packets pass there.
    pub node: bool,
    /// The agent's namespace, where the account for the latter is.
    pub sniff_namespace: String,
}

impl Remit {
    /// That of a recorder: the pods of one namespace.
    pub(super) fn of(namespace: &str) -> Self {
        let namespaces = BTreeSet::from([namespace.to_owned()]);
        Self { namespaces, node: false, sniff_namespace: String::new() }
    }

    /// Whether the pods of a namespace may be captured.
    pub(crate) fn covers(&self, namespace: &str) -> bool {
        self.node || self.namespaces.contains(namespace)
    }
}

impl fmt::Display for Remit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.node {
            return f.write_str("all that its node has");
        }
        let namespaces: Vec<&str> = self.namespaces.iter().map(String::as_str).collect();
        write!(f, "pods of {}", namespaces.join(", "))
    }
}

/// A session may not be, or may not capture something, whatever the limits.
#[derive(Debug)]
pub struct NotAuthorised(pub String);

impl fmt::Display for NotAuthorised {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for NotAuthorised {}

/// Why a session must end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// It has lasted as long as it may.
    Duration,
    /// It has sent as much as it may.
    Bytes,
    /// The agent itself ends.
    Shutdown,
}

impl From<Cause> for Reason {
    fn from(cause: Cause) -> Self {
        match cause {
            Cause::Duration => Self::Deadline,
            Cause::Bytes => Self::Failed,
            Cause::Shutdown => Self::Signal,
        }
    }
}

/// One end of a connection.
pub struct Wire {
    stream: UnixStream,
    buffered: Vec<u8>,
    max_line: usize,
}

impl Wire {
    /// The agent's end that is connected by `stream`.
    pub fn new(stream: UnixStream) -> Self {
        Self { stream, buffered: Vec::new(), max_line: MAX_LINE }
    }

    /// A session's.
    fn of_session(stream: UnixStream) -> Self {
        Self { max_line: MAX_ANSWER, ..Self::new(stream) }
    }

    /// The next message; `None` at the end. It may be given up half-way and asked again.
    ///
    /// # Errors
    ///
    /// When what comes is no message, or the connection breaks.
    pub async fn next<M: DeserializeOwned>(&mut self) -> Result<Option<M>> {
        loop {
            if let Some(end) = self.buffered.iter().position(|&byte| byte == b'\n') {
                let line: Vec<u8> = self.buffered.drain(..=end).collect();
                return Ok(Some(serde_json::from_slice(&line).context("not a message")?));
            }
            let most = self.max_line;
            ensure!(self.buffered.len() <= most, "a message of more than {most} bytes");
            self.stream.readable().await?;
            match self.stream.try_read_buf(&mut self.buffered) {
                Ok(0) => return Ok(None),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Sends a message.
    ///
    /// # Errors
    ///
    /// When the connection breaks.
    pub async fn send(&mut self, message: &impl Serialize) -> Result<()> {
        let mut line = serde_json::to_vec(message)?;
        line.push(b'\n');
        let mut rest = &line[..];
        while !rest.is_empty() {
            self.stream.writable().await?;
            match self.stream.try_write(rest) {
                Ok(len) => rest = &rest[len..],
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}

/// A session's permission, and its line to whom it has it from. Where there is no agent, nobody is asked.
pub struct Grant {
    wire: Option<Wire>,
    granted: Granted,
}

impl Grant {
    /// Asks the agent at this socket; without one, that at the usual place if there is any.
    ///
    /// # Errors
    ///
    /// When it refuses, or there should be an agent and none answers.
    pub async fn ask(socket: Option<&Path>, registration: Registration) -> Result<Self> {
        let path = socket.unwrap_or(Path::new(AGENT_SOCKET));
        let connected = match socket {
            // It may be starting at this moment, as this is.
            Some(_) => connect_soon(path).await,
            None => UnixStream::connect(path).await,
        };
        let mut wire = match connected {
            Ok(stream) => Wire::of_session(stream),
            Err(error) if socket.is_none() && error.kind() == io::ErrorKind::NotFound => {
                return Ok(Self { wire: None, granted: Granted::by_nobody() });
            }
            Err(error) => {
                let what = format!("sniff agent does not listen on {}: start it anew", path.display());
                return Err(error).context(what);
            }
        };
        let asking = async {
            wire.send(&ToAgent::Register(registration)).await?;
            wire.next().await
        };
        let answer = timeout(PATIENCE, asking).await.context("sniff agent does not answer")?;
        match answer.context("asking sniff agent")? {
            Some(ToSession::Granted(granted)) => Ok(Self { wire: Some(wire), granted }),
            Some(ToSession::Refused { why }) => bail!("{why}"),
            Some(ToSession::NotAuthorised { why }) => Err(NotAuthorised(why).into()),
            _ => bail!("sniff agent on {} gives no clear answer", path.display()),
        }
    }

    /// Whether there is an agent, whose permission this is.
    pub fn is_of_an_agent(&self) -> bool {
        self.wire.is_some()
    }

    /// What of the session's wishes was not granted.
    pub fn note(&self) -> Option<&str> {
        self.granted.note.as_deref()
    }

    /// The policy that the session keeps to, in YAML.
    pub fn policy(&self) -> Option<&str> {
        self.granted.policy.as_deref()
    }

    /// What may be captured; `None` is all.
    pub fn remit(&self) -> Option<&Remit> {
        self.granted.remit.as_ref()
    }

    /// Whether it may capture what may be captured of the node, and so pods that a label denies, too.
    pub fn may_override(&self) -> bool {
        self.remit().is_none_or(|remit| remit.node)
    }

    /// Returns when the session must end, with the reason. It may be given up half-way and asked again.
    pub async fn revoked(&mut self) -> (Cause, String) {
        let Some(wire) = &mut self.wire else {
            return std::future::pending().await;
        };
        match wire.next().await {
            Ok(Some(ToSession::End { cause, why })) => (cause, why),
            _ => (Cause::Shutdown, "sniff's agent on this node has ended".to_owned()),
        }
    }

    /// What is recorded that the session may have.
    ///
    /// # Errors
    ///
    /// When there is no agent, or it has the session end.
    pub async fn recorded(&mut self) -> Result<Recorded> {
        let wire = self
            .wire
            .as_mut()
            .context("nothing is recorded here: it is sniff's agent that records, and none runs")?;
        let asking = async {
            wire.send(&ToAgent::Recorded).await?;
            wire.next().await
        };
        match timeout(PATIENCE, asking).await.context("sniff agent does not answer")?? {
            Some(ToSession::Recorded(recorded)) => Ok(*recorded),
            Some(ToSession::End { why, .. }) => bail!("{why}"),
            _ => bail!("sniff agent gives no clear answer: it may be another version"),
        }
    }

    /// Tells the agent what was done.
    pub async fn report(&mut self, report: &Report) {
        self.tell(&ToAgent::Report(*report)).await;
    }

    /// Tells the agent whom the session captures besides.
    pub async fn captures(&mut self, captured: Captured) {
        self.tell(&ToAgent::Captures(captured.bounded())).await;
    }

    /// Tells the agent whom the session captures no more.
    pub async fn leaves(&mut self, pod: PodId) {
        self.tell(&ToAgent::Leaves(pod)).await;
    }

    /// Tells the agent whom the session was asked for and does not capture, and why.
    pub async fn denied(&mut self, what: String, why: &str) {
        self.tell(&ToAgent::Denied { what, why: words(why) }).await;
    }

    /// Tells the agent how the session ends: its last words.
    pub async fn end(mut self, outcome: Outcome, why: String) {
        self.tell(&ToAgent::End { outcome, why }).await;
    }

    /// When the agent has gone, [`Self::revoked`] says so.
    async fn tell(&mut self, message: &ToAgent) {
        if let Some(wire) = &mut self.wire {
            let _ = wire.send(message).await;
        }
    }
}

/// Connects to a socket that may still have to come.
async fn connect_soon(socket: &Path) -> io::Result<UnixStream> {
    let deadline = Instant::now() + START;
    loop {
        match UnixStream::connect(socket).await {
            Err(_) if Instant::now() < deadline => sleep(PAUSE).await,
            connected => return connected,
        }
    }
}
