//! What the client is told, by way of the front half, which also passes packets on. The session itself never waits for a
//! client that does not read.

use std::{
    io::{self, IsTerminal as _},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
        mpsc::{self, Receiver, Sender},
    },
    thread,
    time::Duration,
};

use anyhow::{Result, ensure};
use sniff_protocol::{PREFACE, ToClient, encode};
use tokio::{sync::oneshot, time::timeout};

use crate::halves::{Board, Receipts, link, message::Tell};

/// Bytes of messages that may wait; a client that lets more come together does not read.
const QUEUED: usize = 4 << 20;

/// A message as a frame.
struct Message {
    frame: Vec<u8>,
    is_last: bool,
    /// Who waits until it is out.
    sent: Option<oneshot::Sender<()>>,
}

/// A way to tell the client something, from anywhere.
#[derive(Clone)]
pub(super) struct MessageSender {
    messages: Sender<Message>,
    /// Bytes of the messages that wait.
    queued: Arc<AtomicUsize>,
    broken: Arc<Mutex<Option<oneshot::Sender<()>>>>,
}

impl MessageSender {
    /// Has a message sent; it never waits. Nothing comes after [`ToClient::End`].
    pub(super) fn tell(&self, message: ToClient) {
        self.send(&message, None);
    }

    fn send(&self, message: &ToClient, sent: Option<oneshot::Sender<()>>) {
        let mut frame = Vec::new();
        if encode(message, &mut frame).is_err() {
            // A message that is too long, as the error of a filter can be; the next ones are as good as ever.
            return;
        }
        let len = frame.len();
        let is_last = matches!(message, ToClient::End(_));
        if self.queued.fetch_add(len, Ordering::Relaxed) + len > QUEUED && !is_last {
            self.queued.fetch_sub(len, Ordering::Relaxed);
            return self.give_up();
        }
        // Nobody takes it once the last one is out.
        let _ = self.messages.send(Message { frame, is_last, sent });
    }

    /// Says that the client cannot be reached.
    fn give_up(&self) {
        let broken = self.broken.lock().unwrap_or_else(PoisonError::into_inner).take();
        // Whoever would hear of it may have ended.
        let _ = broken.map(|broken| broken.send(()));
    }
}

/// The way to the client.
pub(super) struct ClientWriter {
    sender: MessageSender,
    board: &'static Board,
    is_broken: oneshot::Receiver<()>,
    ended: oneshot::Receiver<()>,
}

impl ClientWriter {
    /// Says the preface, and starts the thread that writes messages.
    pub(super) fn start(talk: link::Sender, receipts: Receipts, board: &'static Board) -> Result<Self> {
        ensure!(
            !io::stdout().is_terminal(),
            "sniff serve is the node's side of kubectl sniff and speaks to it through pipes: run that, or sniff --help"
        );
        let (messages, receiver) = mpsc::channel();
        let queued = Arc::new(AtomicUsize::new(0));
        let (broken, is_broken) = oneshot::channel();
        let (done, ended) = oneshot::channel();
        let sender = MessageSender {
            messages,
            queued: Arc::clone(&queued),
            broken: Arc::new(Mutex::new(Some(broken))),
        };
        thread::Builder::new().name("control".to_owned()).spawn({
            let sender = sender.clone();
            move || {
                if write(&receiver, &queued, &talk, &receipts).is_err() {
                    sender.give_up();
                }
                // Nobody waits for it when the session was given up.
                let _ = done.send(());
            }
        })?;
        Ok(Self { sender, board, is_broken, ended })
    }

    /// As [`MessageSender::tell`].
    pub(super) fn tell(&self, message: ToClient) {
        self.sender.tell(message);
    }

    /// As [`MessageSender::tell`], and waits until it is out: what is captured from then on comes behind it.
    pub(super) async fn tell_first(&self, message: ToClient) {
        let (sent, is_sent) = oneshot::channel();
        self.sender.send(&message, Some(sent));
        // When it cannot be sent, the session is over.
        let _ = is_sent.await;
    }

    /// One more way to tell.
    pub(super) fn sender(&self) -> MessageSender {
        self.sender.clone()
    }

    /// Returns when the client cannot be reached any more. Not to be asked again then.
    pub(super) async fn broken(&mut self) {
        // The sender cannot go away before it has sent: this holds a sender.
        let _ = (&mut self.is_broken).await;
    }

    /// Waits until all is written, up to and with [`ToClient::End`], but not for ever: only for as long as bytes move.
    pub(super) async fn close(self, patience: Duration) {
        let Self { board, mut ended, .. } = self;
        loop {
            let before = board.moved();
            if timeout(patience, &mut ended).await.is_ok() || board.moved() == before {
                return;
            }
        }
    }
}

/// Writes messages up to the last one, and waits until that is out.
fn write(
    messages: &Receiver<Message>,
    queued: &AtomicUsize,
    talk: &link::Sender,
    receipts: &Receipts,
) -> io::Result<()> {
    receipts.expect(None);
    talk.send(&Tell(PREFACE.to_vec()), &[])?;
    for Message { frame, is_last, sent } in messages {
        let (is_out, out) = oneshot::channel();
        receipts.expect(if is_last { Some(is_out) } else { sent });
        let len = frame.len();
        talk.send(&Tell(frame), &[])?;
        queued.fetch_sub(len, Ordering::Relaxed);
        if is_last {
            // Without an answer, it never will be.
            let _ = out.blocking_recv();
            break;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use sniff_protocol::message::{Event, Level};

    #[test]
    fn what_waits_for_a_client_that_does_not_read_is_bounded_in_bytes() {
        let (messages, receiver) = mpsc::channel();
        let (broken, mut is_broken) = oneshot::channel();
        let sender =
            MessageSender { messages, queued: Arc::default(), broken: Arc::new(Mutex::new(Some(broken))) };
        for _ in 0..1000 {
            sender.tell(ToClient::Event(Event::Note { level: Level::Warn, text: "x".repeat(100_000) }));
        }
        assert_eq!(is_broken.try_recv(), Ok(()));
        drop(sender);
        let waiting: usize = receiver.iter().map(|message| message.frame.len()).sum();
        assert!((QUEUED - 200_000..=QUEUED).contains(&waiting), "{waiting}");
    }
}
