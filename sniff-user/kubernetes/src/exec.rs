//! A command in a container, or a connection to one of a pod's ports, over a WebSocket.
//!
//! Each message is a byte that names the channel, and data. Of a command, 0 is stdin, 1 stdout, 2 stderr, 3 the result as
//! a `Status`, and 255 closes the channel that its one byte of data names, which `v5.channel.k8s.io` added (kubernetes
//! `apimachinery/pkg/util/remotecommand/constants.go`). Of a port, 0 is what goes there and comes from there, 1 what went
//! wrong, and each of them begins with the port's number (`kubelet/pkg/cri/streaming/portforward/websocket.go`). Reading
//! and writing are independent: a reader that is slow holds up the other end, but no keep-alive to it.

use std::pin::Pin;

use anyhow::{Context as _, Result, anyhow};
use bytes::Bytes;
use futures_util::{Sink, SinkExt as _, Stream, StreamExt as _};
use k8s_openapi::api::core::v1;
use kube::{
    Resource as _,
    api::AttachParams,
    core::{self, Status, response::StatusSummary},
};
use tokio_tungstenite::tungstenite::{self, Message};

use crate::{Cluster, Request, refusal::root};

const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const RESULT: u8 = 3;
/// Of a port.
const DATA: u8 = 0;
const ERROR: u8 = 1;
/// Bytes of the number that each channel of a port begins with.
const PORT_LEN: usize = 2;

type Sending = Pin<Box<dyn Sink<Message, Error = tungstenite::Error> + Send>>;
type Receiving = Pin<Box<dyn Stream<Item = Result<Message, tungstenite::Error>> + Send>>;

/// A running command. Its two sides are apart, for who writes to it need not be who reads.
pub struct Process {
    /// Towards the command.
    pub input: Input,
    /// From the command.
    pub output: CommandOutput,
}

/// The stdin of a command.
pub struct Input(Sending);

/// What a command writes, and how it ends; or what comes from a port, as if a command wrote it.
pub struct CommandOutput {
    messages: Receiving,
    channels: Channels,
    /// What was taken too early.
    unread: Bytes,
}

/// What the channels are.
enum Channels {
    Command,
    Port {
        /// Bytes of its number that are still to come, by channel.
        numbers: [usize; 2],
    },
}

/// A piece of what a command writes.
#[derive(Debug, PartialEq, Eq)]
pub enum Piece {
    /// Never empty.
    Stdout(Bytes),
    /// Never empty.
    Stderr(Bytes),
    /// The command has ended: well, or as the text says. Nothing comes behind this.
    Ended(Result<(), String>),
}

impl Cluster {
    /// Runs `command`, a program and its arguments, in a container. No shell is involved.
    ///
    /// # Errors
    ///
    /// When the API server or the kubelet refuses, or does not answer within 10 seconds.
    pub async fn exec(
        &self,
        namespace: &str,
        pod: &str,
        container: &str,
        command: &[&str],
    ) -> Result<Process> {
        let request =
            Request { verb: "get", resource: "pods/exec", namespace: Some(namespace), name: Some(pod) };
        let parameters =
            AttachParams { stdin: true, ..AttachParams::default() }.container(container).stderr(true);
        let url = v1::Pod::url_path(&(), Some(namespace));
        let upgrade = core::Request::new(url).exec(pod, command.iter().copied(), &parameters)?;
        self.connect(request, upgrade, Channels::Command).await
    }

    /// Connects to a port of a pod, on its loopback; what comes from there is [`Piece::Stdout`].
    ///
    /// # Errors
    ///
    /// When the API server or the kubelet refuses, or does not answer within 10 seconds. That nobody listens there is
    /// told later, by [`Piece::Ended`].
    pub async fn forward(&self, namespace: &str, pod: &str, port: u16) -> Result<Process> {
        let request = Request {
            verb: "get",
            resource: "pods/portforward",
            namespace: Some(namespace),
            name: Some(pod),
        };
        let url = v1::Pod::url_path(&(), Some(namespace));
        let upgrade = core::Request::new(url).portforward(pod, &[port])?;
        self.connect(request, upgrade, Channels::Port { numbers: [PORT_LEN; 2] }).await
    }

    async fn connect(
        &self,
        request: Request<'_>,
        upgrade: http::Request<Vec<u8>>,
        channels: Channels,
    ) -> Result<Process> {
        let connection = self.ask(request, self.client.connect(upgrade)).await?;
        let gone = || {
            format!(
                "pod {}/{} is gone",
                request.namespace.unwrap_or_default(),
                request.name.unwrap_or_default()
            )
        };
        let (sink, stream) = connection.with_context(gone)?.into_stream().split();
        let output = CommandOutput { messages: Box::pin(stream), channels, unread: Bytes::new() };
        Ok(Process { input: Input(Box::pin(sink)), output })
    }
}

impl Input {
    /// Writes to the command's stdin.
    ///
    /// # Errors
    ///
    /// When the connection is broken.
    pub async fn write(&mut self, bytes: &[u8]) -> Result<()> {
        let mut message = Vec::with_capacity(bytes.len() + 1);
        message.push(STDIN);
        message.extend(bytes);
        self.0.send(Message::binary(message)).await.map_err(broken)
    }
}

impl CommandOutput {
    /// Has these bytes come again, before all others.
    pub fn unread(&mut self, bytes: Bytes) {
        self.unread = bytes;
    }

    /// The next piece; `None` when the connection is closed.
    ///
    /// # Errors
    ///
    /// When the connection is broken.
    pub async fn next(&mut self) -> Result<Option<Piece>> {
        if !self.unread.is_empty() {
            return Ok(Some(Piece::Stdout(std::mem::take(&mut self.unread))));
        }
        while let Some(message) = self.messages.next().await {
            let mut data = match message.map_err(broken)? {
                Message::Binary(data) => data,
                Message::Close(_) => return Ok(None),
                Message::Text(_) | Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => continue,
            };
            if data.len() < 2 {
                // Servers open each channel with an empty message.
                continue;
            }
            let payload = data.split_off(1);
            if let Some(piece) = self.channels.piece(data[0], payload)? {
                return Ok(Some(piece));
            }
        }
        Ok(None)
    }
}

impl Channels {
    fn piece(&mut self, channel: u8, mut payload: Bytes) -> Result<Option<Piece>> {
        Ok(match self {
            Self::Command => match channel {
                STDOUT => Some(Piece::Stdout(payload)),
                STDERR => Some(Piece::Stderr(payload)),
                RESULT => Some(Piece::Ended(result(&payload)?)),
                _ => None,
            },
            Self::Port { numbers } => {
                let Some(left) = numbers.get_mut(usize::from(channel)) else { return Ok(None) };
                let number = payload.split_to(payload.len().min(*left));
                *left -= number.len();
                match channel {
                    _ if payload.is_empty() => None,
                    DATA => Some(Piece::Stdout(payload)),
                    ERROR => Some(Piece::Ended(Err(String::from_utf8_lossy(&payload).into_owned()))),
                    _ => None,
                }
            }
        })
    }
}

fn broken(error: tungstenite::Error) -> anyhow::Error {
    anyhow!(root(&error.into()))
}

fn result(payload: &[u8]) -> Result<Result<(), String>> {
    let status: Status = serde_json::from_slice(payload).context("the result of a command")?;
    Ok(match status.status {
        Some(StatusSummary::Success) => Ok(()),
        _ => Err(status.message),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_channel_of_a_port_begins_with_its_number() {
        let mut channels = Channels::Port { numbers: [PORT_LEN; 2] };
        let mut piece =
            |channel, bytes: &'static [u8]| channels.piece(channel, Bytes::from_static(bytes)).unwrap();
        assert_eq!(piece(DATA, b"\xfe"), None);
        assert_eq!(piece(ERROR, b"\xfe\x24"), None);
        assert_eq!(piece(DATA, b"\x24SNIFF"), Some(Piece::Stdout(Bytes::from_static(b"SNIFF"))));
        assert_eq!(piece(DATA, b"\xfe\x24"), Some(Piece::Stdout(Bytes::from_static(b"\xfe\x24"))));
        assert_eq!(piece(2, b"another port's"), None);
        assert_eq!(piece(ERROR, b"refused"), Some(Piece::Ended(Err("refused".to_owned()))));
    }
}
