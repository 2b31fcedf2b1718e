//! What the client is told: stdout, shared by the thread that writes messages and the one that passes packets on. The
//! session itself never waits for a client that does not read.

use std::{
    fs::File,
    io::{self, IsTerminal as _, Write as _},
    os::fd::AsFd as _,
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{self, Receiver, SyncSender},
    },
    thread,
    time::Duration,
};

use anyhow::{Result, ensure};
use tokio::{sync::oneshot, time::timeout};

use crate::stream::{PREFACE, ToClient, encode};

/// Messages that may wait; a client that lets more come together does not read.
const QUEUED: usize = 4096;

/// Stdout, one whole frame at a time.
#[derive(Clone)]
pub(super) struct Stdout(Arc<Mutex<File>>);

impl Stdout {
    /// Writes whole frames.
    pub(super) fn write(&self, frames: &[u8]) -> io::Result<()> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).write_all(frames)
    }
}

/// A way to tell the client something, from anywhere.
#[derive(Clone)]
pub(super) struct Teller {
    messages: SyncSender<ToClient>,
    broken: Arc<Mutex<Option<oneshot::Sender<()>>>>,
}

impl Teller {
    /// Has a message sent; it never waits. Nothing comes after [`ToClient::End`].
    pub(super) fn tell(&self, message: ToClient) {
        if let Err(mpsc::TrySendError::Full(_)) = self.messages.try_send(message) {
            self.give_up();
        }
    }

    /// Says that the client cannot be reached.
    fn give_up(&self) {
        let broken = self.broken.lock().unwrap_or_else(PoisonError::into_inner).take();
        // Whoever would hear of it may have ended.
        let _ = broken.map(|broken| broken.send(()));
    }
}

/// The way to the client.
pub(super) struct Output {
    teller: Teller,
    stdout: Stdout,
    is_broken: oneshot::Receiver<()>,
    ended: oneshot::Receiver<()>,
}

impl Output {
    /// Says the preface, and starts the thread that writes messages.
    pub(super) fn start() -> Result<Self> {
        let stdout = io::stdout();
        ensure!(
            !stdout.is_terminal(),
            "sniff serve is the far side of kubectl sniff and speaks to it through pipes: run that, or sniff --help"
        );
        let stdout = Stdout(Arc::new(Mutex::new(File::from(stdout.as_fd().try_clone_to_owned()?))));
        let (messages, receiver) = mpsc::sync_channel(QUEUED);
        let (broken, is_broken) = oneshot::channel();
        let (done, ended) = oneshot::channel();
        let teller = Teller { messages, broken: Arc::new(Mutex::new(Some(broken))) };
        thread::Builder::new().name("control".to_owned()).spawn({
            let (stdout, teller) = (stdout.clone(), teller.clone());
            move || {
                if write(&receiver, &stdout).is_err() {
                    teller.give_up();
                }
                // Nobody waits for it when the session was given up.
                let _ = done.send(());
            }
        })?;
        Ok(Self { teller, stdout, is_broken, ended })
    }

    /// As [`Teller::tell`].
    pub(super) fn tell(&self, message: ToClient) {
        self.teller.tell(message);
    }

    /// One more way to tell.
    pub(super) fn teller(&self) -> Teller {
        self.teller.clone()
    }

    /// Where packets go.
    pub(super) fn stdout(&self) -> Stdout {
        self.stdout.clone()
    }

    /// Returns when the client cannot be reached any more. Not to be asked again then.
    pub(super) async fn broken(&mut self) {
        // The sender cannot go away before it has sent: this holds a teller.
        let _ = (&mut self.is_broken).await;
    }

    /// Waits until all is written, up to and with [`ToClient::End`], but not for ever.
    pub(super) async fn close(self, patience: Duration) {
        let _ = timeout(patience, self.ended).await;
    }
}

/// Writes messages up to the last one.
fn write(messages: &Receiver<ToClient>, stdout: &Stdout) -> io::Result<()> {
    stdout.write(&PREFACE)?;
    let mut frames = Vec::new();
    for message in messages {
        frames.clear();
        if encode(&message, &mut frames).is_err() {
            // A message that is too long, as the error of a filter can be; the next ones are as good as ever.
            continue;
        }
        stdout.write(&frames)?;
        if matches!(message, ToClient::End(_)) {
            break;
        }
    }
    Ok(())
}
