//! The thread that empties the ring into the outputs. It alone touches them, so a slow disk or a full pipe holds up
//! nothing but itself; the ring then fills, and the kernel side counts what it cannot take.

use std::{
    io, mem,
    net::IpAddr,
    os::fd::{AsFd as _, BorrowedFd},
    sync::{Arc, mpsc},
    thread::{self, JoinHandle},
};

use anyhow::{Result, anyhow};
use log::info;
use nix::{
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::eventfd::{EfdFlags, EventFd},
};
use sniff_output::{Full, Output};
use sniff_pcapng::{InterfaceDescription, Names, PacketHead, Watermark, blocks};
use sniff_protocol::request::BothEnds;

use super::{ends::Ends, losses::Losses, unsummed::Unsummed};
use crate::{
    bpf::ring::{Held, Ring, Until},
    halves::{
        Board,
        message::{Draining, End},
    },
};

/// Longest that a packet waits in the ring while less than a batch is there, in milliseconds.
const TIMEOUT_MS: u16 = 100;
/// The same for packets that are held back, to be in order, where somebody waits for them.
const SHORT_TIMEOUT_MS: u16 = 1;
/// Time between two looks while there are no packets. The first one wakes us; this is for what nobody thought of.
const IDLE_TIMEOUT_MS: u16 = 2000;

/// Tells the thread something.
pub enum Message {
    /// This is the next interface.
    Interface(Box<InterfaceDescription>),
    /// What goes to these addresses comes in there, since then in nanoseconds since the epoch.
    Captured { interface: u32, addresses: Vec<IpAddr>, since: u64 },
    /// And until then.
    Left { interface: u32, until: u64 },
    /// What addresses are called.
    Names(Names),
    /// How far all is there is to be written.
    Watermark,
    /// What a recorder holds is to be written, whose CPUs have filled these regions.
    Save(Vec<u32>),
    /// The ring is to be emptied once more. The classifiers are detached by now.
    Stop,
}

/// What the thread leaves behind.
pub struct Drained {
    /// With what is still to be written there.
    pub output: Output,
    /// What the packets in it tell of those that were lost.
    pub losses: Losses,
    /// Which of them were seen at both ends, where that was asked for.
    pub ends: Option<Ends>,
    /// What a recorder held of all packets.
    pub held: Option<Held>,
    /// Why it ended.
    pub end: End,
}

/// The running thread.
pub struct Drain {
    thread: JoinHandle<Drained>,
    messages: mpsc::Sender<Message>,
    wake: Arc<EventFd>,
}

impl Drain {
    /// Starts the thread, which tells when it takes no more packets.
    ///
    /// # Errors
    ///
    /// When the system has no thread or descriptor left.
    pub fn start(
        ring: Ring,
        output: Output,
        how: Draining,
        board: &'static Board,
        ended: impl FnOnce() + Send + 'static,
    ) -> Result<Self> {
        let wake = Arc::new(EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?);
        let (messages, receiver) = mpsc::channel();
        let delivery = Delivery {
            output,
            losses: Losses::default(),
            unsummed: how.marks_unsummed.then(Unsummed::default),
            any_lost: false,
            ends: how.both_ends.map(|_| Ends::default()),
            one_side: how.both_ends == Some(BothEnds::OneSide),
            left: how.count.unwrap_or(u64::MAX),
            stopping: false,
            watermark: false,
            to_save: None,
            messages: receiver,
            described: 0,
            board,
            hurried: false,
        };
        let worker = Worker {
            ring,
            delivery,
            wake: Arc::clone(&wake),
            packet_buffered: how.packet_buffered,
            more: false,
            held: false,
            asleep: false,
        };
        let thread = thread::Builder::new().name("drain".to_owned()).spawn(move || worker.run(ended))?;
        Ok(Self { thread, messages, wake })
    }

    /// Tells the thread something. It never waits, since the output may be stuck; what describes an interface is written before
    /// the first of its packets.
    pub fn tell(&self, message: Message) {
        // A thread that has ended needs to know nothing more.
        let _ = self.messages.send(message);
        let _ = self.wake.write(1);
    }

    /// Waits for the end.
    ///
    /// # Errors
    ///
    /// When the thread panicked.
    pub fn join(self) -> Result<Drained> {
        self.thread.join().map_err(|_| anyhow!("the thread that writes the packets panicked"))
    }
}

/// What the thread works with.
struct Worker {
    ring: Ring,
    delivery: Delivery,
    wake: Arc<EventFd>,
    packet_buffered: bool,
    /// Whether not all of the ring was seen the last time.
    more: bool,
    /// Whether packets were held back.
    held: bool,
    /// Whether the kernel side was told that the next packet is to wake us.
    asleep: bool,
}

impl Worker {
    fn run(mut self, ended: impl FnOnce()) -> Drained {
        let end = loop {
            match self.turn() {
                Ok(None) => {}
                Ok(Some(end)) => break end,
                Err(error) => break failed(error),
            }
        };
        ended();
        self.account_for_the_rest();
        let held = self.ring.held();
        let Delivery { output, losses, ends, .. } = self.delivery;
        Drained { output, losses, ends, held, end }
    }

    /// Waits for something to do, and does it.
    fn turn(&mut self) -> Result<Option<End>> {
        let reader_is_gone = self.wait(self.delivery.output.reader())?;
        self.delivery.take_messages()?;
        self.empty()?;
        self.delivery.output.flush()?;
        Ok(if self.delivery.left == 0 {
            Some(End::Count)
        } else if self.delivery.stopping && !self.more {
            Some(if self.delivery.hurried { End::Hurried } else { End::Asked })
        } else if reader_is_gone {
            Some(End::Closed)
        } else {
            None
        })
    }

    /// Packets are matched until the classifiers are detached. Nobody will have those that are left, but they must be
    /// accounted for. With nothing to write, no error here is news.
    fn account_for_the_rest(&mut self) {
        let _ = self.delivery.output.flush();
        self.delivery.left = 0;
        loop {
            let stopping = self.delivery.stopping;
            let _ = self.delivery.take_messages();
            if self.empty().is_err() {
                self.more = false;
            }
            if stopping && !self.more {
                return;
            }
            let _ = self.wait(None);
        }
    }

    /// Returns whether the output's reader is gone.
    fn wait(&self, reader: Option<BorrowedFd<'_>>) -> io::Result<bool> {
        let mut fds = vec![
            PollFd::new(self.ring.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.wake.as_fd(), PollFlags::POLLIN),
        ];
        fds.extend(reader.map(|fd| PollFd::new(fd, PollFlags::empty())));
        let timeout = if self.more || self.delivery.stopping {
            0
        } else if self.held && (self.packet_buffered || self.asleep) {
            SHORT_TIMEOUT_MS
        } else if self.asleep {
            IDLE_TIMEOUT_MS
        } else {
            TIMEOUT_MS
        };
        match poll(&mut fds, PollTimeout::from(timeout)) {
            Ok(_) | Err(nix::Error::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
        // It counts the wake-ups; the messages say it all.
        let _ = self.wake.read();
        let events = fds.get(2).and_then(PollFd::revents);
        Ok(events.is_some_and(|events| events.contains(PollFlags::POLLERR)))
    }

    /// Takes what is in the ring.
    fn empty(&mut self) -> Result<()> {
        let Self { ring, delivery, .. } = self;
        let until = if delivery.stopping { Until::End } else { Until::Settled };
        let filled = delivery.to_save.take().filter(|_| until == Until::Settled);
        let saves = filled.is_some();
        match filled {
            Some(filled) => ring.look_at_held(filled)?,
            None => self.more = ring.look(until)?,
        }
        delivery.board.note_fullest((ring.fullest() * 100.0).ceil() as u8);
        // The interfaces of all packets that were seen just now were announced before.
        delivery.take_descriptions()?;
        delivery.any_lost = delivery.any_lost || ring.lost() > 0;
        let mut any = false;
        self.held = ring.take(|run| {
            any = true;
            delivery.deliver(run)
        })?;
        if saves {
            delivery.output.flush()?;
            tell_of_saved(delivery.board.written.packets(), ring.held());
        }
        if !self.more && mem::take(&mut delivery.watermark) {
            delivery.output.block(&Watermark { time_ns: ring.complete_until() }.block())?;
        }
        if any {
            self.asleep = false;
        } else if !self.asleep && !self.held && !self.more {
            ring.sleep();
            // Once more, for what came before that.
            (self.asleep, self.more) = (true, true);
        }
        Ok(())
    }
}

/// Where records are handed over, and what the thread was told.
struct Delivery {
    output: Output,
    losses: Losses,
    /// Where the kernel does not say which packets' checksums are not ready.
    unsummed: Option<Unsummed>,
    /// Whether packets may have something to tell of losses. They are not looked at until then.
    any_lost: bool,
    /// Where packets that are seen at both ends are told.
    ends: Option<Ends>,
    /// Whether those that come in are left out then.
    one_side: bool,
    /// Packets that may still be delivered.
    left: u64,
    /// Whether the thread was told to stop. Whoever says so has detached before: what is in the ring then is all.
    stopping: bool,
    /// Whether somebody waits to hear how far the output is complete.
    watermark: bool,
    /// Filled regions of a recorder, where somebody wants what it holds.
    to_save: Option<Vec<u32>>,
    messages: mpsc::Receiver<Message>,
    /// Interfaces whose descriptions have come.
    described: u64,
    board: &'static Board,
    /// Whether packets were left because a person insists on the end.
    hurried: bool,
}

impl Delivery {
    fn take_messages(&mut self) -> io::Result<()> {
        while let Ok(message) = self.messages.try_recv() {
            self.take(message)?;
        }
        Ok(())
    }

    /// Waits for the descriptions of all interfaces that were announced. They are never far: no output holds them up.
    fn take_descriptions(&mut self) -> io::Result<()> {
        self.take_messages()?;
        let announced = self.board.announced();
        while self.described < announced
            && let Ok(message) = self.messages.recv()
        {
            self.take(message)?;
        }
        Ok(())
    }

    fn take(&mut self, message: Message) -> io::Result<()> {
        match message {
            Message::Stop => self.stopping = true,
            Message::Names(names) => self.output.names(&names)?,
            Message::Captured { interface, addresses, since } => {
                if let Some(ends) = &mut self.ends {
                    ends.captured(interface, addresses, since);
                }
            }
            Message::Left { interface, until } => {
                if let Some(ends) = &mut self.ends {
                    ends.left(interface, until);
                }
            }
            Message::Watermark => self.watermark = true,
            Message::Save(filled) => self.to_save.get_or_insert_default().extend(filled),
            Message::Interface(description) => {
                self.described += 1;
                if let Some(unsummed) = &mut self.unsummed {
                    unsummed.interface(&description);
                }
                if let Some(ends) = &mut self.ends {
                    ends.interface(&description);
                }
                self.output.interface(&description)?;
            }
        }
        Ok(())
    }

    fn deliver(&mut self, run: &mut [u8]) -> io::Result<()> {
        if self.board.is_in_a_hurry() {
            self.hurried = true;
            self.output.discard(run);
            return Ok(());
        }
        match self.ends.take() {
            Some(mut ends) => {
                let delivered = self.deliver_marked(run, &mut ends);
                self.ends = Some(ends);
                delivered
            }
            None => {
                let (wanted, beyond) = run.split_at_mut(self.wanted(run));
                self.output.discard(beyond);
                self.hand_on(wanted)
            }
        }
    }

    /// Hands on a run whose packets have ids, without those to be left out. They are no part of what may be delivered.
    fn deliver_marked(&mut self, run: &mut [u8], ends: &mut Ends) -> io::Result<()> {
        let (mut begin, mut end) = (0, 0);
        while self.left > 0
            && let Ok(head) = PacketHead::parse(&run[end..])
        {
            let next = end + head.total_len;
            if ends.mark(head, &mut run[end..next]) && self.one_side {
                self.output.leave_out(&run[end..next]);
                self.hand_on(&mut run[begin..end]).inspect_err(|_| self.output.discard(&run[next..]))?;
                begin = next;
            } else if self.left != u64::MAX {
                self.left -= 1;
            }
            end = next;
        }
        self.output.discard(&run[end..]);
        self.hand_on(&mut run[begin..end])
    }

    /// Hands packets that come next to the output.
    fn hand_on(&mut self, run: &mut [u8]) -> io::Result<()> {
        if self.any_lost {
            self.losses.tell(run);
        }
        if let Some(unsummed) = &self.unsummed {
            unsummed.mark(run);
        }
        if run.is_empty() { Ok(()) } else { self.output.packets(run) }
    }

    /// How much of a run may still be delivered. Nothing is counted without a limit.
    fn wanted(&mut self, run: &[u8]) -> usize {
        if self.left == u64::MAX {
            return run.len();
        }
        let mut end = 0;
        for block in blocks(run) {
            if self.left == 0 {
                break;
            }
            self.left -= 1;
            end += block.len();
        }
        end
    }
}

/// Says that what a recorder held is written; `packets` of all that it ever held.
fn tell_of_saved(packets: u64, held: Option<Held>) {
    let since = held.and_then(|held| held.complete_since);
    let since = since.map_or_else(String::new, |since| format!(", all since {}", sniff_pcapng::time(since)));
    info!("what was held is written{since}; {packets} packets in all so far");
}

/// A closed pipe is the reader's way to say enough, and an output may have been told how much that is.
fn failed(error: anyhow::Error) -> End {
    match error.downcast_ref::<io::Error>() {
        Some(error) if error.kind() == io::ErrorKind::BrokenPipe => End::Closed,
        Some(error) if Full::is(error) => End::Count,
        _ => End::Failed(format!("{error:#}")),
    }
}
