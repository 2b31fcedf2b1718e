//! What the client says: a thread that reads frames from stdin.

use std::{
    io::{self, Read as _},
    thread,
};

use anyhow::Result;
use tokio::sync::mpsc;

use crate::stream::{Broken, Decoder, ToNode};

/// Messages that wait to be obeyed; a client that sends more has to wait too.
const QUEUED: usize = 64;
/// Bytes read at a time.
const READ_BYTES: usize = 64 << 10;

/// The client's messages.
pub(super) struct Input(mpsc::Receiver<Result<ToNode, Broken>>);

impl Input {
    /// Starts to read. The thread ends with the input, or with the process.
    pub(super) fn start() -> Result<Self> {
        let (sender, receiver) = mpsc::channel(QUEUED);
        thread::Builder::new().name("input".to_owned()).spawn(move || read(&sender))?;
        Ok(Self(receiver))
    }

    /// The next message; `None` when the client has closed its pipe. After an error there is nothing more.
    pub(super) async fn next(&mut self) -> Option<Result<ToNode, Broken>> {
        self.0.recv().await
    }
}

fn read(messages: &mpsc::Sender<Result<ToNode, Broken>>) {
    let mut decoder = Decoder::new();
    let mut buffer = vec![0; READ_BYTES];
    let mut stdin = io::stdin().lock();
    loop {
        loop {
            match decoder.next() {
                Ok(Some(message)) => {
                    if messages.blocking_send(Ok(message)).is_err() {
                        return;
                    }
                }
                Ok(None) => break,
                Err(broken) => return drop(messages.blocking_send(Err(broken))),
            }
        }
        match stdin.read(&mut buffer) {
            Ok(0) => break,
            Ok(len) => decoder.push(&buffer[..len]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            // As good as closed.
            Err(_) => break,
        }
    }
    // A pipe that breaks in the middle of a frame was closed, too; only what never was a client is worth words.
    if let Err(broken @ Broken::Foreign(_)) = decoder.finish() {
        drop(messages.blocking_send(Err(broken)));
    }
}
