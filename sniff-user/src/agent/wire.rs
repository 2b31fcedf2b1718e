//! What the agent and the sessions on its node say to each other: lines of JSON over a Unix socket. Both ends are the
//! same program, often in the same container.

use std::{env, io, path::Path, time::Duration};

use anyhow::{Context as _, Result, bail, ensure};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tokio::{
    net::UnixStream,
    time::{Instant, sleep, timeout},
};

use super::AGENT_SOCKET;

/// Most bytes of a line.
const MAX_LINE: usize = 64 << 10;
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
    Captures {
        /// Whom, in words.
        what: String,
    },
    /// What I have done.
    Report(Report),
    /// I end.
    End { why: String },
}

/// What a session is going to be.
#[derive(Debug, Serialize, Deserialize)]
pub struct Registration {
    /// Who asks for it.
    pub who: String,
    /// What is to be captured, in words.
    pub what: String,
    /// Which packets; `None` is all of them.
    pub filter: Option<String>,
    /// Bytes of its buffer.
    pub buffer_bytes: u64,
    /// How long it is to last, if that is known.
    pub duration: Option<Duration>,
}

impl Registration {
    /// That of a session which nobody has asked for from afar, with everything else left open.
    pub fn of_this_process() -> Self {
        let who = env::args().next().unwrap_or_else(|| "sniff".to_owned());
        Self {
            who: format!("{who}, run in this pod"),
            what: String::new(),
            filter: None,
            buffer_bytes: 0,
            duration: None,
        }
    }
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
    /// Bytes that were sent.
    pub bytes: u64,
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
    /// You must end now.
    End {
        /// What kind of reason.
        cause: Cause,
        /// The reason.
        why: String,
    },
}

/// What a session may do.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Granted {
    /// The longest that it may last.
    pub limit: Option<Duration>,
    /// What of its wishes is not granted.
    pub note: Option<String>,
}

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

/// One end of a connection.
pub struct Wire {
    stream: UnixStream,
    buffered: Vec<u8>,
}

impl Wire {
    /// The end that is connected by `stream`.
    pub fn new(stream: UnixStream) -> Self {
        Self { stream, buffered: Vec::new() }
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
            ensure!(self.buffered.len() <= MAX_LINE, "a message of more than {MAX_LINE} bytes");
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
            Ok(stream) => Wire::new(stream),
            Err(error) if socket.is_none() && error.kind() == io::ErrorKind::NotFound => {
                return Ok(Self { wire: None, granted: Granted::default() });
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

    /// Tells the agent what was done.
    pub async fn report(&mut self, report: &Report) {
        self.tell(&ToAgent::Report(*report)).await;
    }

    /// Tells the agent whom the session captures besides, in words.
    pub async fn captures(&mut self, what: String) {
        self.tell(&ToAgent::Captures { what }).await;
    }

    /// Tells the agent why the session ends: its last words.
    pub async fn end(mut self, why: String) {
        self.tell(&ToAgent::End { why }).await;
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
