//! What the client is told: stdout, shared by the thread that writes messages and the one that passes packets on. The
//! session itself never waits for a client that does not read.

use std::{
    fs::File,
    io::{self, IsTerminal as _, Write as _},
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
        mpsc::{self, Receiver, Sender},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use sniff_protocol::{PREFACE, ToClient, encode};
use tokio::{sync::oneshot, time::timeout};

/// Bytes of messages that may wait; a client that lets more come together does not read.
const QUEUED: usize = 4 << 20;
/// Bytes that are written at once: what a pipe holds. So it shows that they move, however slowly.
const PIECE: usize = 64 << 10;

/// Stdout, one whole frame at a time.
#[derive(Clone)]
pub(super) struct Stdout {
    file: Arc<Mutex<File>>,
    /// Held while waiting for the file: whoever has just had it is behind whoever waits.
    turn: Arc<Mutex<()>>,
    moved: Arc<AtomicU64>,
    packets: Arc<Mutex<HeldUp>>,
    /// The same pipe, for whoever does not write.
    reader: Arc<OwnedFd>,
}

impl Stdout {
    /// Writes a whole frame.
    pub(super) fn write(&self, header: &[u8], payload: &[u8]) -> io::Result<()> {
        let turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        drop(turn);
        [header].into_iter().chain(payload.chunks(PIECE)).try_for_each(|piece| {
            file.write_all(piece)?;
            self.moved.fetch_add(piece.len() as u64, Ordering::Relaxed);
            Ok(())
        })
    }

    /// As [`Self::write`], for packets; returns for how long they were held up. `lost` is how many were lost so far.
    pub(super) fn write_packets(
        &self,
        header: &[u8],
        payload: &[u8],
        lost: impl Fn() -> u64,
    ) -> io::Result<Duration> {
        let start = Instant::now();
        self.packets().begin(lost());
        let result = self.write(header, payload);
        self.packets().end(lost());
        result.map(|()| start.elapsed())
    }

    /// Of `lost` packets, how many were lost while others were held up here.
    pub(super) fn lost_meanwhile(&self, lost: u64) -> u64 {
        self.packets().lost_meanwhile(lost)
    }

    fn packets(&self) -> MutexGuard<'_, HeldUp> {
        self.packets.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The descriptor that tells when nobody reads any more.
    pub(super) fn reader(&self) -> BorrowedFd<'_> {
        self.reader.as_fd()
    }

    /// Bytes that have gone out.
    pub(super) fn moved(&self) -> u64 {
        self.moved.load(Ordering::Relaxed)
    }
}

/// What was lost while packets were held up: the buffer fills then.
#[derive(Debug, Default)]
struct HeldUp {
    lost: u64,
    /// What had been lost before those were held up that are still to go out.
    lost_before: Option<u64>,
}

impl HeldUp {
    fn begin(&mut self, lost: u64) {
        self.lost_before = Some(lost);
    }

    fn end(&mut self, lost: u64) {
        self.lost = self.lost_meanwhile(lost);
        self.lost_before = None;
    }

    fn lost_meanwhile(&self, lost: u64) -> u64 {
        self.lost + self.lost_before.map_or(0, |before| lost.saturating_sub(before))
    }
}

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
    stdout: Stdout,
    is_broken: oneshot::Receiver<()>,
    ended: oneshot::Receiver<()>,
}

impl ClientWriter {
    /// Says the preface, and starts the thread that writes messages.
    pub(super) fn start() -> Result<Self> {
        let stdout = io::stdout();
        ensure!(
            !stdout.is_terminal(),
            "sniff serve is the node's side of kubectl sniff and speaks to it through pipes: run that, or sniff --help"
        );
        let file = File::from(stdout.as_fd().try_clone_to_owned()?);
        let reader = Arc::new(stdout.as_fd().try_clone_to_owned()?);
        let file = Arc::new(Mutex::new(file));
        let stdout =
            Stdout { file, turn: Arc::default(), moved: Arc::default(), packets: Arc::default(), reader };
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
            let (stdout, sender) = (stdout.clone(), sender.clone());
            move || {
                if write(&receiver, &queued, &stdout).is_err() {
                    sender.give_up();
                }
                // Nobody waits for it when the session was given up.
                let _ = done.send(());
            }
        })?;
        Ok(Self { sender, stdout, is_broken, ended })
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

    /// Where packets go.
    pub(super) fn stdout(&self) -> Stdout {
        self.stdout.clone()
    }

    /// Returns when the client cannot be reached any more. Not to be asked again then.
    pub(super) async fn broken(&mut self) {
        // The sender cannot go away before it has sent: this holds a sender.
        let _ = (&mut self.is_broken).await;
    }

    /// Waits until all is written, up to and with [`ToClient::End`], but not for ever: only for as long as bytes move.
    pub(super) async fn close(self, patience: Duration) {
        let Self { stdout, mut ended, .. } = self;
        loop {
            let before = stdout.moved();
            if timeout(patience, &mut ended).await.is_ok() || stdout.moved() == before {
                return;
            }
        }
    }
}

/// Writes messages up to the last one.
fn write(messages: &Receiver<Message>, queued: &AtomicUsize, stdout: &Stdout) -> io::Result<()> {
    stdout.write(&PREFACE, &[])?;
    for Message { frame, is_last, sent } in messages {
        stdout.write(&frame, &[])?;
        queued.fetch_sub(frame.len(), Ordering::Relaxed);
        // Nobody may wait for it any more.
        let _ = sent.map(|sent| sent.send(()));
        if is_last {
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
    fn what_is_lost_while_packets_are_held_up_is_told_from_the_rest() {
        let mut held_up = HeldUp::default();
        assert_eq!(held_up.lost_meanwhile(7), 0);
        held_up.begin(7);
        assert_eq!(held_up.lost_meanwhile(10), 3, "while they still are");
        held_up.end(11);
        assert_eq!(held_up.lost_meanwhile(20), 4);
        held_up.begin(20);
        held_up.end(21);
        assert_eq!(held_up.lost_meanwhile(30), 5);
    }

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
