//! The thread that empties the ring into the outputs. It alone touches them, so a slow disk or a full pipe holds up
//! nothing but itself; the ring then fills, and the kernel side counts what it cannot take.

use std::{
    io,
    os::fd::{AsFd as _, BorrowedFd},
    sync::{Arc, mpsc},
    thread::{self, JoinHandle},
};

use anyhow::{Result, anyhow};
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
/// Most bytes of records taken in a row, so that messages are heard under any load.
const TURN_BYTES: usize = 16 << 20;

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
    Interface(Box<InterfaceDescription>),
    Stop,
}

/// The running thread.
pub struct Drain {
    thread: JoinHandle<(Output, End)>,
    messages: mpsc::Sender<Message>,
    wake: Arc<EventFd>,
}

impl Drain {
    /// Starts the thread; the receiver hears when it ended by itself.
    ///
    /// # Errors
    ///
    /// When the system has no thread or descriptor left.
    pub fn start(ring: Ring, output: Output, count: Option<u64>) -> Result<(Self, oneshot::Receiver<()>)> {
        let wake = Arc::new(EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?);
        let (messages, receiver) = mpsc::channel();
        let (ended, has_ended) = oneshot::channel();
        let left = count.unwrap_or(u64::MAX);
        let desk = Desk { output, left, stopping: false, messages: receiver };
        let worker = Worker { ring, desk, wake: Arc::clone(&wake), more: false };
        let thread = thread::Builder::new().name("drain".to_owned()).spawn(move || worker.run(ended))?;
        Ok((Self { thread, messages, wake }, has_ended))
    }

    /// Describes one more interface in the output. Its packets may come as soon as this returns: the thread writes
    /// the description before the first of them. It does not wait for that, since the output may be stuck.
    ///
    /// # Errors
    ///
    /// When the thread has ended.
    pub fn add_interface(&self, description: InterfaceDescription) -> Result<()> {
        self.send(Message::Interface(Box::new(description)))
    }

    /// Tells the thread to empty the ring once more and to end. The classifiers are detached by now.
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
        self.thread.join().map_err(|_| anyhow!("the thread that writes the packets panicked"))
    }

    fn send(&self, message: Message) -> Result<()> {
        self.messages.send(message).map_err(|_| anyhow!("the output has ended"))?;
        self.wake.write(1)?;
        Ok(())
    }
}

/// What the thread works with.
struct Worker {
    ring: Ring,
    desk: Desk,
    wake: Arc<EventFd>,
    /// Whether the ring was left before it was empty.
    more: bool,
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
        (self.desk.output, end)
    }

    /// Waits for something to do, and does it.
    fn turn(&mut self) -> io::Result<Option<End>> {
        let reader_is_gone = self.wait(self.desk.output.reader())?;
        self.desk.obey()?;
        self.more = self.empty()?;
        self.desk.output.flush()?;
        Ok(if self.desk.left == 0 {
            Some(End::Count)
        } else if self.desk.stopping && !self.more {
            Some(End::Asked)
        } else if reader_is_gone {
            Some(End::Closed)
        } else {
            None
        })
    }

    /// Packets are matched until the classifiers are detached. Nobody will have those that are left, but they must be
    /// accounted for. With nothing to write, no error here is news.
    fn account_for_the_rest(&mut self) {
        let _ = self.desk.output.flush();
        self.desk.left = 0;
        while !self.desk.stopping || self.more {
            let _ = self.wait(None);
            let _ = self.desk.obey();
            self.more = self.empty().unwrap_or(true);
        }
    }

    /// Returns whether the output's reader is gone.
    fn wait(&self, reader: Option<BorrowedFd<'_>>) -> io::Result<bool> {
        let mut fds = vec![
            PollFd::new(self.ring.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.wake.as_fd(), PollFlags::POLLIN),
        ];
        fds.extend(reader.map(|fd| PollFd::new(fd, PollFlags::empty())));
        let timeout = if self.more { PollTimeout::ZERO } else { PollTimeout::from(TIMEOUT_MS) };
        match poll(&mut fds, timeout) {
            Ok(_) | Err(nix::Error::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
        // It counts the wake-ups; the messages say it all.
        let _ = self.wake.read();
        let events = fds.get(2).and_then(PollFd::revents);
        Ok(events.is_some_and(|events| events.contains(PollFlags::POLLERR)))
    }

    /// Takes what is in the ring, up to a limit. Returns whether there may be more.
    fn empty(&mut self) -> io::Result<bool> {
        let Self { ring, desk, .. } = self;
        let mut taken = 0;
        while taken < TURN_BYTES {
            let delivered = ring.next(|record| {
                taken += record.len();
                desk.deliver(record)
            });
            match delivered {
                Some(result) => result?,
                None => return Ok(false),
            }
        }
        Ok(true)
    }
}

/// Where records are handed over, and what the thread was told.
struct Desk {
    output: Output,
    /// Packets that still may be delivered.
    left: u64,
    /// Whether the thread was told to stop. Whoever says so has detached before: what is in the ring then is all.
    stopping: bool,
    messages: mpsc::Receiver<Message>,
}

impl Desk {
    fn obey(&mut self) -> io::Result<()> {
        while let Ok(message) = self.messages.try_recv() {
            match message {
                Message::Stop => self.stopping = true,
                Message::Interface(description) => self.output.interface(&description)?,
            }
        }
        Ok(())
    }

    fn deliver(&mut self, record: &[u8]) -> io::Result<()> {
        let packet = EnhancedPacket::parse(record).map_err(io::Error::other)?;
        if !self.output.knows(packet.interface) {
            // Its description was sent before it was attached to.
            self.obey()?;
        }
        if self.left == 0 {
            self.output.discard(packet.interface);
            return Ok(());
        }
        self.left -= 1;
        self.output.packet(&packet, &record[..packet.total_len])
    }
}

/// A closed pipe is the reader's way to say enough.
fn failed(error: io::Error) -> End {
    if error.kind() == io::ErrorKind::BrokenPipe { End::Closed } else { End::Failed(error.into()) }
}
