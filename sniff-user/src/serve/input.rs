//! What the client says, by way of the front half, which reads its frames.

use std::{collections::VecDeque, future, thread, time::Duration};

use anyhow::{Result, bail};
use sniff_protocol::{Broken, Frame as _, ToNode};
use tokio::{sync::mpsc, time::timeout};

use crate::halves::{link, message::Heard};

/// Messages that wait to be handled; a client that sends more has to wait too. Each may have a MiB.
const QUEUED: usize = 4;
/// Those that may come while something else is waited for.
const EARLY: usize = 64;

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
    /// Starts to listen. The thread ends with the input, or with the process.
    pub(super) fn start(talk: link::Receiver, lease: Duration) -> Result<Self> {
        let (sender, receiver) = mpsc::channel(QUEUED);
        thread::Builder::new().name("input".to_owned()).spawn(move || listen(talk, &sender))?;
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

fn listen(mut talk: link::Receiver, messages: &mpsc::Sender<Result<ToNode, Broken>>) {
    loop {
        let message = match talk.next() {
            Ok(Some(Heard::Said(kind, payload))) => {
                ToNode::from_payload(kind, payload.into()).map_err(Broken::Malformed)
            }
            Ok(Some(Heard::Broken(broken))) => Err(broken),
            Ok(Some(Heard::Closed) | None) => return,
            Err(error) => Err(Broken::Malformed(error.to_string())),
        };
        let is_last = message.is_err();
        if messages.blocking_send(message).is_err() || is_last {
            return;
        }
    }
}
