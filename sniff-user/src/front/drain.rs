//! The thread that empties the ring into the outputs. It alone touches them, so a slow disk or a full pipe holds up
//! nothing but itself; the ring then fills, and the kernel side counts what it cannot take.

use std::{
    fs::File,
    io, mem,
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
use sniff_pcapng::Watermark;

use super::{
    delivery::{Delivery, Told},
    ends::Ends,
    losses::Losses,
    past::{Moment, Past},
};
use crate::{
    bpf::ring::{Held, Ring, Until, Wanted},
    halves::{
        Board,
        message::{Draining, End, Fault, SaveTo, Saved},
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
    /// This holds from now on.
    Told(Told),
    /// How far all is there is to be written.
    Watermark,
    /// What a recorder holds is to be written.
    Save(Save),
    /// The ring is to be emptied once more. The classifiers are detached by now.
    Stop,
}

/// What of a recorder is wanted, and where.
pub struct Save {
    /// Regions that its CPUs have filled.
    pub filled: Vec<u32>,
    /// A file of its own, for all that is held; what is new goes to the output.
    pub to: Option<(SaveTo, File)>,
}

/// Hears what became of it.
pub type Report = Box<dyn FnMut(Result<Option<Saved>, Fault>) + Send>;

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
        past: Option<(Past, Report)>,
        ended: impl FnOnce() + Send + 'static,
    ) -> Result<Self> {
        let wake = Arc::new(EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?);
        let (messages, receiver) = mpsc::channel();
        let inbox = Inbox { messages: receiver, stopping: false, watermark: false, save: None, described: 0 };
        let worker = Worker {
            ring,
            delivery: Delivery::new(output, &how, board),
            inbox,
            past,
            board,
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
    inbox: Inbox,
    /// Of a recorder.
    past: Option<(Past, Report)>,
    board: &'static Board,
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
        self.take_messages()?;
        // What comes while the ring is emptied is for the next time.
        let stopping = self.inbox.stopping;
        self.empty()?;
        self.delivery.output.flush()?;
        Ok(if self.delivery.is_enough() {
            Some(End::Count)
        } else if stopping && !self.more {
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
        self.delivery.end();
        loop {
            let stopping = self.inbox.stopping;
            let _ = self.take_messages();
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
        let timeout = if self.more || self.inbox.stopping {
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
        if let Some(save) = self.inbox.save.take() {
            return self.save(save);
        }
        self.more = self.ring.look(if self.inbox.stopping { Until::End } else { Until::Settled })?;
        let any = self.hand_out()?;
        if !self.more && mem::take(&mut self.inbox.watermark) {
            let time_ns = self.ring.complete_until();
            self.delivery.output.block(&Watermark { time_ns }.block())?;
        }
        if any {
            self.asleep = false;
        } else if !self.asleep && !self.held && !self.more {
            self.ring.sleep();
            // Once more, for what came before that.
            (self.asleep, self.more) = (true, true);
        }
        Ok(())
    }

    /// Hands out what was seen in the ring. Returns whether there was any.
    fn hand_out(&mut self) -> Result<bool> {
        self.board.note_fullest((self.ring.fullest() * 100.0).ceil() as u8);
        // The interfaces of all packets that were seen just now were announced before.
        self.take_descriptions()?;
        let Self { ring, delivery, past, .. } = self;
        delivery.any_lost = delivery.any_lost || ring.lost() > 0;
        let (mut any, mut copy) = (false, Vec::new());
        self.held = ring.take(|run| {
            any = true;
            if past.is_none() {
                return delivery.deliver(run);
            }
            // It is changed on its way, and stays held as it is.
            copy.clear();
            copy.extend_from_slice(run);
            delivery.deliver(&mut copy)
        })?;
        Ok(any)
    }

    /// Writes what a recorder holds. What is behind it is looked at the next time.
    fn save(&mut self, Save { filled, to }: Save) -> Result<()> {
        self.more = true;
        let Self { ring, past: Some((past, _)), .. } = self else { return Ok(()) };
        let saved = match to {
            Some((to, file)) => {
                let mut begin = past.begin(to.after);
                let Some(held) = ring.look_at_held(Wanted::From(begin.place()), &filled)? else {
                    return Ok(());
                };
                let (lost, cut_off) = (ring.lost(), ring.cut_off());
                self.take_descriptions()?;
                let Self { ring, past: Some((past, _)), .. } = self else { return Ok(()) };
                past.save(ring, begin, Moment { held, lost, cut_off }, &to, file)?.map(Some)
            }
            None => {
                let Some(held) = ring.look_at_held(Wanted::New, &filled)? else { return Ok(()) };
                self.hand_out()?;
                self.delivery.output.flush()?;
                tell_of_saved(self.board.written.packets(), held);
                Ok(None)
            }
        };
        if let Some((_, ended)) = &mut self.past {
            ended(saved.map_err(Into::into));
        }
        Ok(())
    }

    fn take_messages(&mut self) -> io::Result<()> {
        while let Ok(message) = self.inbox.messages.try_recv() {
            self.take(message)?;
        }
        Ok(())
    }

    /// Waits for the descriptions of all interfaces that were announced. They are never far: no output holds them up.
    fn take_descriptions(&mut self) -> io::Result<()> {
        self.take_messages()?;
        let announced = self.board.announced();
        while self.inbox.described < announced
            && let Ok(message) = self.inbox.messages.recv()
        {
            self.take(message)?;
        }
        Ok(())
    }

    fn take(&mut self, message: Message) -> io::Result<()> {
        match message {
            Message::Stop => self.inbox.stopping = true,
            Message::Watermark => self.inbox.watermark = true,
            Message::Save(save) => self.inbox.save = Some(save),
            Message::Told(told) => {
                self.inbox.described += u64::from(matches!(told, Told::Interface(_)));
                if let Some((past, _)) = &mut self.past {
                    past.note(&told);
                }
                self.delivery.hear(&told)?;
            }
        }
        Ok(())
    }
}

/// What the thread was told, and has not done yet.
struct Inbox {
    messages: mpsc::Receiver<Message>,
    /// Whether the thread was told to stop. Whoever says so has detached before: what is in the ring then is all.
    stopping: bool,
    /// Whether somebody waits to hear how far the output is complete.
    watermark: bool,
    /// What of a recorder is to be written. One is asked for at a time.
    save: Option<Save>,
    /// Interfaces whose descriptions have come.
    described: u64,
}

/// Says that what a recorder held is written; `packets` of all that it ever held.
fn tell_of_saved(packets: u64, held: Held) {
    let since = held
        .complete_since
        .map_or_else(String::new, |since| format!(", all since {}", sniff_pcapng::time(since)));
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
