//! A command in a container, over a WebSocket.
//!
//! Each message is a byte that names the channel, and data: 0 is stdin, 1 stdout, 2 stderr, 3 the result as a
//! `Status`, and 255 closes the channel that its one byte of data names, which `v5.channel.k8s.io` added (kubernetes
//! `apimachinery/pkg/util/remotecommand/constants.go`). Reading and writing are independent: a reader that is slow holds
//! up the command, but no keep-alive to it.

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

/// What a command writes, and how it ends.
pub struct CommandOutput(Receiving);

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
        let connection = self
            .ask(request, self.client.connect(upgrade))
            .await?
            .with_context(|| format!("pod {namespace}/{pod} is gone"))?;
        let (sink, stream) = connection.into_stream().split();
        Ok(Process { input: Input(Box::pin(sink)), output: CommandOutput(Box::pin(stream)) })
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
    /// The next piece; `None` when the connection is closed.
    ///
    /// # Errors
    ///
    /// When the connection is broken.
    pub async fn next(&mut self) -> Result<Option<Piece>> {
        while let Some(message) = self.0.next().await {
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
            return Ok(Some(match data[0] {
                STDOUT => Piece::Stdout(payload),
                STDERR => Piece::Stderr(payload),
                RESULT => Piece::Ended(result(&payload)?),
                _ => continue,
            }));
        }
        Ok(None)
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
