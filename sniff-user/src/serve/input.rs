//! What the client says: a thread that reads frames from stdin.

use std::{
    collections::VecDeque,
    future,
    io::{self, Read as _},
    thread,
    time::Duration,
};

use anyhow::{Result, bail};
use sniff_protocol::{Broken, Decoder, ToNode};
use tokio::{sync::mpsc, time::timeout};

/// Messages that wait to be handled; a client that sends more has to wait too. Each may have a MiB.
const QUEUED: usize = 4;
/// Those that may come while something else is waited for.
const EARLY: usize = 64;
/// Bytes read at a time.
const READ_BYTES: usize = 64 << 10;

/// The client's messages.
pub(super) struct Input {
    messages: mpsc::Receiver<Result<ToNode, Broken>>,
    /// Those that came while something else was waited for.
    early: VecDeque<Result<ToNode, Broken>>,
    /// How long a client may be silent.
    lease: Duration,
    /// Whether it says goodbye when it has heard the end.
    says_goodbye: bool,
}

impl Input {
    /// Starts to read. The thread ends with the input, or with the process.
    pub(super) fn start(lease: Duration) -> Result<Self> {
        let (sender, receiver) = mpsc::channel(QUEUED);
        thread::Builder::new().name("input".to_owned()).spawn(move || read(&sender))?;
        Ok(Self { messages: receiver, early: VecDeque::new(), lease, says_goodbye: false })
    }

    /// The next message; `None` when the client has closed its pipe. After an error there is nothing more.
    pub(super) async fn next(&mut self) -> Option<Result<ToNode, Broken>> {
        match self.early.pop_front() {
            Some(message) => Some(message),
            None => self.messages.recv().await,
        }
    }

    /// From now on the client may be silent for so long; and whether it says goodbye when it has heard the end.
    pub(super) fn agree(&mut self, lease: Duration, says_goodbye: bool) {
        (self.lease, self.says_goodbye) = (lease, says_goodbye);
    }

    /// Waits until the client has heard the end, as far as it says so, or is gone.
    pub(super) async fn goodbye(&mut self) {
        while self.says_goodbye {
            match timeout(self.lease, self.next()).await {
                Ok(Some(Ok(ToNode::Goodbye) | Err(_)) | None) | Err(_) => return,
                Ok(Some(Ok(_))) => {}
            }
        }
    }

    /// Does some work, which may take long, unless the client goes meanwhile.
    ///
    /// # Errors
    ///
    /// Those of the work, or that the client has gone: [`Self::next`] then says how, unless it has been silent for its
    /// lease.
    pub(super) async fn unless_gone<T>(&mut self, work: impl Future<Output = Result<T>>) -> Result<T> {
        tokio::select! {
            result = work => result,
            () = self.gone() => bail!("the client has gone"),
        }
    }

    /// Whether the client has said stop, which is still to be handled.
    pub(super) fn is_told_to_stop(&self) -> bool {
        self.early.iter().any(|message| matches!(message, Ok(ToNode::Stop)))
    }

    /// Returns when the client does not wait any more; keeps what else it says.
    async fn gone(&mut self) {
        while self.early.len() < EARLY {
            let Ok(message) = timeout(self.lease, self.messages.recv()).await else {
                return;
            };
            let is_last = matches!(message, None | Some(Ok(ToNode::Stop | ToNode::Goodbye) | Err(_)));
            self.early.extend(message);
            if is_last {
                return;
            }
        }
        future::pending::<()>().await;
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
