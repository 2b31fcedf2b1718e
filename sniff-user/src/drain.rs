//! The thread that empties the ring into the outputs. It alone touches them, so a slow disk or a full pipe holds up
//! nothing but itself; the ring then fills, and the kernel side counts what it cannot take.

use std::{
    io,
    os::fd::{AsFd as _, BorrowedFd},
    sync::{Arc, mpsc},
    thread::{self, JoinHandle},
};

use anyhow::{Context as _, Result, anyhow};
use nix::{
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::eventfd::{EfdFlags, EventFd},
};
use tokio::sync::oneshot;

use crate::{
    bpf::ring::Ring,
    output::Output,
    pcapng::{EnhancedPacket, InterfaceDescription},
};

/// Longest that a packet waits in the ring while less than a batch is there, in milliseconds.
const TIMEOUT_MS: u16 = 100;

/// Why the thread ended.
#[derive(Debug)]
pub enum End {
    /// It was told to.
    Asked,
    /// `--count` packets were delivered.
    Count,
    /// Nobody reads the output any more.
    Closed,
    /// The output, or the ring, failed.
    Failed(anyhow::Error),
}

/// Tells the thread something.
enum Message {
    Interface {
        description: Box<InterfaceDescription>,
        done: mpsc::Sender<()>,
    },
    Stop,
}

/// The running thread.
pub struct Drain {
    thread: JoinHandle<(Output, End)>,
    messages: mpsc::Sender<Message>,
    wake: Arc<EventFd>,
}

/// The thread's side of it.
struct Worker {
    ring: Ring,
    output: Output,
    /// Packets that still may be delivered.
    left: u64,
    /// Whether the classifiers are detached and the thread was told to stop.
    stopping: bool,
    messages: mpsc::Receiver<Message>,
    wake: Arc<EventFd>,
}

impl Drain {
    /// Starts the thread; the receiver hears when it ended by itself.
    ///
    /// # Errors
    ///
    /// When the system has no thread or descriptor left.
    pub fn start(
        ring: Ring,
        output: Output,
        count: Option<u64>,
    ) -> Result<(Self, oneshot::Receiver<()>)> {
        let wake = Arc::new(EventFd::from_flags(
            EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK,
        )?);
        let (messages, receiver) = mpsc::channel();
        let (ended, has_ended) = oneshot::channel();
        let worker = Worker {
            ring,
            output,
            left: count.unwrap_or(u64::MAX),
            stopping: false,
            messages: receiver,
            wake: Arc::clone(&wake),
        };
        let thread = thread::Builder::new()
            .name("drain".to_owned())
            .spawn(move || worker.run(ended))?;
        Ok((
            Self {
                thread,
                messages,
                wake,
            },
            has_ended,
        ))
    }

    /// Describes one more interface in the output; when this returns, its packets may come.
    ///
    /// # Errors
    ///
    /// When the thread has ended.
    pub fn add_interface(&self, description: InterfaceDescription) -> Result<()> {
        let (done, is_done) = mpsc::channel();
        self.send(Message::Interface {
            description: Box::new(description),
            done,
        })?;
        is_done.recv().context("the output has ended")
    }

    /// Tells the thread to empty the ring once more and to end.
    pub fn stop(&self) {
        // If it has ended already, that is as well.
        let _ = self.send(Message::Stop);
    }

    /// Waits for the end, and gives back the output with what is still to be written there.
    ///
    /// # Errors
    ///
    /// When the thread panicked.
    pub fn join(self) -> Result<(Output, End)> {
        self.thread
            .join()
            .map_err(|_| anyhow!("the thread that writes the packets panicked"))
    }

    fn send(&self, message: Message) -> Result<()> {
        self.messages
            .send(message)
            .map_err(|_| anyhow!("the output has ended"))?;
        self.wake.write(1)?;
        Ok(())
    }
}

impl Worker {
    fn run(mut self, ended: oneshot::Sender<()>) -> (Output, End) {
        let end = loop {
            match self.turn() {
                Ok(None) => {}
                Ok(Some(end)) => break end,
                Err(error) => break failed(error),
            }
        };
        // Nobody listens any more when the capture is being stopped.
        let _ = ended.send(());
        self.account_for_the_rest();
        (self.output, end)
    }

    /// Packets are matched until the classifiers are detached. Nobody will have those that are left, but they must be
    /// accounted for.
    fn account_for_the_rest(&mut self) {
        self.left = 0;
        while !self.stopping {
            // With nothing to write, these cannot fail for the output's sake.
            let _ = self.wait();
            let _ = self.obey();
            let _ = self.empty();
        }
        let _ = self.empty();
    }

    /// Waits for something to do, and does it.
    fn turn(&mut self) -> io::Result<Option<End>> {
        let reader_is_gone = self.wait()?;
        // The order matters: whoever says stop has detached before, so what is in the ring now is all.
        self.obey()?;
        self.empty()?;
        self.output.flush()?;
        Ok(if self.left == 0 {
            Some(End::Count)
        } else if self.stopping {
            Some(End::Asked)
        } else if reader_is_gone {
            Some(End::Closed)
        } else {
            None
        })
    }

    /// Returns whether the output's reader is gone.
    fn wait(&self) -> io::Result<bool> {
        let mut fds = vec![
            watch(self.ring.as_fd(), PollFlags::POLLIN),
            watch(self.wake.as_fd(), PollFlags::POLLIN),
        ];
        fds.extend(self.output.reader().map(|fd| watch(fd, PollFlags::empty())));
        match poll(&mut fds, PollTimeout::from(TIMEOUT_MS)) {
            Ok(_) | Err(nix::Error::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
        // It counts the wake-ups; the messages say it all.
        let _ = self.wake.read();
        Ok(fds
            .get(2)
            .and_then(PollFd::revents)
            .is_some_and(|events| events.contains(PollFlags::POLLERR)))
    }

    fn obey(&mut self) -> io::Result<()> {
        while let Ok(message) = self.messages.try_recv() {
            match message {
                Message::Stop => self.stopping = true,
                Message::Interface { description, done } => {
                    self.output.interface(&description)?;
                    let _ = done.send(());
                }
            }
        }
        Ok(())
    }

    /// Takes everything out of the ring.
    fn empty(&mut self) -> io::Result<()> {
        let Self {
            ring, output, left, ..
        } = self;
        while let Some(result) = ring.next(|record| deliver(record, output, left)) {
            result?;
        }
        Ok(())
    }
}

fn deliver(record: &[u8], output: &mut Output, left: &mut u64) -> io::Result<()> {
    let packet = EnhancedPacket::parse(record).map_err(io::Error::other)?;
    if *left == 0 {
        output.discard(packet.interface);
        return Ok(());
    }
    *left -= 1;
    let result = output.packet(&packet, &record[..packet.total_len]);
    if result.is_err() {
        output.discard(packet.interface);
    }
    result
}

fn watch(fd: BorrowedFd<'_>, events: PollFlags) -> PollFd<'_> {
    PollFd::new(fd, events)
}

/// A closed pipe is the reader's way to say enough.
fn failed(error: io::Error) -> End {
    if error.kind() == io::ErrorKind::BrokenPipe {
        End::Closed
    } else {
        End::Failed(error.into())
    }
}
