//! The front half as the other one sees it: what takes packets out of the ring, writes them, and tells what became of them.
//! Nothing here waits for an output but what says so.

use std::{
    collections::{HashMap, VecDeque},
    net::IpAddr,
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
        mpsc,
    },
    thread,
};

use anyhow::{Context as _, Result, anyhow};
use log::debug;
use nix::{
    sys::{
        signal::{Signal, kill},
        wait::{WaitStatus, waitpid},
    },
    unistd::Pid,
};
use sniff_filter::{
    cbpf::{Encoded, Program},
    expression,
};
use sniff_output::file::{Files, Made};
use sniff_pcapng::{InterfaceDescription, LinkType, Names};
use sniff_protocol::request::Compress;
use tokio::sync::oneshot;

use super::{
    board::Board,
    fork::Halves,
    link,
    message::{Drained, Draining, Fault, FromFront, Play, Played, SaveTo, Saved, ToFront},
};
use crate::bpf::{object::FreeRegions, ring::Maps};

/// What became of a save.
pub type SaveEnded = Result<Option<Saved>, Fault>;
/// What became of an expression.
type Compiled = Result<Vec<(u16, u8, u8, u32)>, String>;

/// The front half.
pub struct Writer {
    orders: Orders,
    replies: Mutex<mpsc::Receiver<Reply>>,
    desk: Arc<Desk>,
    ended: Option<oneshot::Receiver<()>>,
    pub board: &'static Board,
}

/// A way to tell the front half what to do, that never waits.
#[derive(Clone)]
struct Orders(mpsc::Sender<(ToFront, Vec<OwnedFd>)>);

impl Orders {
    fn give(&self, order: ToFront, with: Vec<OwnedFd>) -> Result<()> {
        self.0.send((order, with)).map_err(|_| anyhow!("the output has ended"))
    }
}

/// What is answered once.
enum Reply {
    Opened(Result<(), Fault>),
    Draining(Result<(), String>),
    Drained(Drained),
    Played(Result<Played, Fault>),
    Finished(Result<(), Fault>),
}

/// What the front half asks for, and who waits for it.
#[derive(Default)]
struct Desk {
    files: Mutex<Option<Box<dyn Files>>>,
    free: Mutex<Option<FreeRegions>>,
    /// Who waits for a program.
    programs: Mutex<HashMap<u64, mpsc::Sender<Compiled>>>,
    /// Who waits until what a recorder holds is saved.
    saving: Mutex<Option<oneshot::Sender<SaveEnded>>>,
    /// Who waits until a message has gone out to the client, in order.
    told: Mutex<VecDeque<Option<oneshot::Sender<()>>>>,
    /// How it ended.
    end: Mutex<Option<String>>,
}

impl Writer {
    fn start(orders: link::Sender, news: link::Receiver, board: &'static Board, pid: Pid) -> Result<Self> {
        let (give, given) = mpsc::channel::<(ToFront, Vec<OwnedFd>)>();
        // One is waited for at a time.
        let (reply, replies) = mpsc::sync_channel(1);
        let (over, ended) = oneshot::channel();
        let (desk, give) = (Arc::<Desk>::default(), Orders(give));
        thread::Builder::new().name("to front".to_owned()).spawn(move || {
            for (order, with) in given {
                let with: Vec<BorrowedFd<'_>> = with.iter().map(|it| it.as_fd()).collect();
                // Whoever has ended is heard of below.
                let _ = orders.send(&order, &with);
            }
        })?;
        let attendant = Attendant { desk: Arc::clone(&desk), orders: give.clone(), reply, over: Some(over) };
        thread::Builder::new().name("from front".to_owned()).spawn(move || attendant.run(news, pid))?;
        Ok(Self { orders: give, replies: Mutex::new(replies), desk, ended: Some(ended), board })
    }

    /// Makes the files that it asks for.
    pub fn with_files(self, files: Option<Box<dyn Files>>) -> Self {
        *lock(&self.desk.files) = files;
        self
    }

    /// Waits until the output is open and has these blocks.
    ///
    /// # Errors
    ///
    /// When it cannot be opened or written.
    pub fn open(&self, compress: Compress, section: Vec<u8>, names: &Names) -> Result<()> {
        self.orders.give(ToFront::Open { compress, section, names: block_of(names) }, Vec::new())?;
        match self.reply()? {
            Reply::Opened(opened) => Ok(opened?),
            _ => Err(self.astray()),
        }
    }

    /// Has it empty the ring, whose regions it gives back.
    ///
    /// # Errors
    ///
    /// When it cannot.
    pub fn drain(&self, how: Draining, maps: Maps, free: FreeRegions) -> Result<()> {
        *lock(&self.desk.free) = Some(free);
        let Maps { buffer, cpus, regions } = maps;
        self.orders.give(ToFront::Drain(how), vec![buffer, cpus, regions])?;
        match self.reply()? {
            Reply::Draining(draining) => draining.map_err(anyhow::Error::msg),
            _ => Err(self.astray()),
        }
    }

    /// Resolves when it takes no more packets; to be taken once.
    pub fn take_ended(&mut self) -> oneshot::Receiver<()> {
        self.ended.take().unwrap_or_else(|| oneshot::channel().1)
    }

    /// Describes one more interface in the output. Its packets may come as soon as this returns: the description is written
    /// before the first of them. It does not wait for that, since the output may be stuck.
    ///
    /// # Errors
    ///
    /// When it has ended.
    pub fn add_interface(&self, description: &InterfaceDescription) -> Result<()> {
        let mut block = Vec::new();
        description.write(&mut block);
        self.orders.give(ToFront::Interface(block), Vec::new())?;
        self.board.announce();
        Ok(())
    }

    /// Tells that what goes to these addresses is seen as it comes into an interface, `since` then in nanoseconds since the
    /// epoch.
    ///
    /// # Errors
    ///
    /// When it has ended.
    pub fn captured(&self, interface: u32, addresses: Vec<IpAddr>, since: u64) -> Result<()> {
        self.orders.give(ToFront::Captured { interface, addresses, since }, Vec::new())
    }

    /// Tells that this is over, from `until` on.
    ///
    /// # Errors
    ///
    /// When it has ended.
    pub fn left(&self, interface: u32, until: u64) -> Result<()> {
        self.orders.give(ToFront::Left { interface, until }, Vec::new())
    }

    /// Has the output tell what addresses are called, as far as that is news.
    ///
    /// # Errors
    ///
    /// When it has ended.
    pub fn name(&self, names: &Names) -> Result<()> {
        self.orders.give(ToFront::Names(block_of(names)), Vec::new())
    }

    /// Has a [`Watermark`](sniff_pcapng::Watermark) written behind what is in the ring by now.
    ///
    /// # Errors
    ///
    /// When it has ended.
    pub fn watermark(&self) -> Result<()> {
        self.orders.give(ToFront::Watermark, Vec::new())
    }

    /// Has it write what a recorder holds: what is new to the output, or all to a file of its own. One save is to have ended
    /// before the next is begun, which what is returned tells.
    ///
    /// # Errors
    ///
    /// When it has ended, or the kernel refuses.
    pub fn save(&self, to: Option<(SaveTo, OwnedFd)>) -> Result<oneshot::Receiver<SaveEnded>> {
        let filled = match lock(&self.desk.free).as_mut() {
            Some(free) => free.take_filled()?,
            None => Vec::new(),
        };
        let (saved, is_saved) = oneshot::channel();
        *lock(&self.desk.saving) = Some(saved);
        self.desk.forget_if_ended();
        let (to, file) = to.unzip();
        self.orders.give(ToFront::Save { filled, to }, file.into_iter().collect())?;
        Ok(is_saved)
    }

    /// Has it get ready to hand on what was recorded, once the output is open.
    ///
    /// # Errors
    ///
    /// When it has ended.
    pub fn begin_to_play(&self, play: Play) -> Result<()> {
        self.orders.give(ToFront::Play(play), Vec::new())
    }

    /// Has it hand on the packets before `horizon`, in nanoseconds since the epoch, of these files, each of a source, and of
    /// what was left of those before; waits until it has, however long the client takes.
    ///
    /// # Errors
    ///
    /// When a file is no recording, nobody takes the packets, or it has ended.
    pub fn play(&self, files: Vec<(u32, OwnedFd)>, horizon: u64) -> Result<Played> {
        for (source, file) in files {
            self.orders.give(ToFront::Source(source), vec![file])?;
        }
        self.orders.give(ToFront::PlayUntil(horizon), Vec::new())?;
        match self.reply()? {
            Reply::Played(played) => Ok(played?),
            _ => Err(self.astray()),
        }
    }

    /// Has it empty the ring once more, and waits until it has, however long the output takes. The classifiers are detached
    /// by now.
    ///
    /// # Errors
    ///
    /// When it has ended before, and with it what was in the ring.
    pub fn stop(&self) -> Result<Drained> {
        // If it has ended already, the answer says so.
        let _ = self.orders.give(ToFront::Stop, Vec::new());
        match self.reply()? {
            Reply::Drained(drained) => Ok(drained),
            _ => Err(self.astray()),
        }
    }

    /// Has it write these blocks behind all others, and waits until it has.
    ///
    /// # Errors
    ///
    /// When it cannot.
    pub fn end(&self, blocks: Vec<u8>) -> Result<()> {
        self.orders.give(ToFront::End(blocks), Vec::new())?;
        match self.reply()? {
            Reply::Finished(finished) => Ok(finished?),
            _ => Err(self.astray()),
        }
    }

    /// What has it compile expressions.
    pub fn compiler(&self) -> Compiler {
        Compiler { orders: self.orders.clone(), desk: Arc::clone(&self.desk), next: Arc::default() }
    }

    /// Who waits for messages to go out to a client.
    pub fn receipts(&self) -> Receipts {
        Receipts(Arc::clone(&self.desk))
    }

    fn reply(&self) -> Result<Reply> {
        lock(&self.replies).recv().map_err(|_| self.desk.gone())
    }

    fn astray(&self) -> anyhow::Error {
        anyhow!("the process that writes packets has answered what it was not asked")
    }
}

/// Has expressions compiled.
#[derive(Clone)]
pub struct Compiler {
    orders: Orders,
    desk: Arc<Desk>,
    next: Arc<AtomicU64>,
}

impl Compiler {
    /// What libpcap makes of an expression, checked.
    ///
    /// # Errors
    ///
    /// Why it is none.
    pub fn compile(&self, text: &str, link_type: LinkType, optimise: bool) -> Result<Program> {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let (done, is_done) = mpsc::channel();
        self.desk.await_program(id, done);
        let order = ToFront::Compile { id, text: text.to_owned(), link_type: link_type as u16, optimise };
        self.orders.give(order, Vec::new())?;
        let program = is_done.recv().map_err(|_| self.desk.gone())?.map_err(anyhow::Error::msg)?;
        let encoded: Vec<Encoded> =
            program.into_iter().map(|(code, jt, jf, k)| Encoded { code, jt, jf, k }).collect();
        Ok(expression::decode(&encoded, text)?)
    }
}

/// Tells when messages have gone out to the client.
#[derive(Clone)]
pub struct Receipts(Arc<Desk>);

impl Receipts {
    /// One more message is on its way; who waits for it, if anybody does, hears when it is out.
    pub fn expect(&self, sent: Option<oneshot::Sender<()>>) {
        lock(&self.0.told).push_back(sent);
        self.0.forget_if_ended();
    }
}

impl Desk {
    fn await_program(&self, id: u64, done: mpsc::Sender<Compiled>) {
        lock(&self.programs).insert(id, done);
        self.forget_if_ended();
    }

    /// Nobody will answer any more.
    fn end(&self, how: String) {
        *lock(&self.end) = Some(how);
        self.forget_if_ended();
    }

    /// Whoever waits finds out that nobody will answer, also one who has begun to wait just behind the end.
    fn forget_if_ended(&self) {
        if lock(&self.end).is_some() {
            lock(&self.programs).clear();
            drop(lock(&self.saving).take());
            lock(&self.told).clear();
        }
    }

    fn gone(&self) -> anyhow::Error {
        let end = lock(&self.end).clone().unwrap_or_else(|| "has ended".to_owned());
        anyhow!("the process that takes packets out of the buffer {end}: what it had not written is lost")
    }

    fn next_file(&self, begun_ns: u64) -> Result<Made> {
        let mut files = lock(&self.files);
        files.as_mut().context("there is no file to be made")?.next(begun_ns)
    }

    fn give_back(&self, regions: Vec<u32>) -> Result<()> {
        let mut free = lock(&self.free);
        let free = free.as_mut().context("there is no ring")?;
        regions.into_iter().try_for_each(|region| free.give_back(region))
    }
}

/// Does what the front half asks for.
struct Attendant {
    desk: Arc<Desk>,
    orders: Orders,
    reply: mpsc::SyncSender<Reply>,
    /// Hears when no more packets are taken.
    over: Option<oneshot::Sender<()>>,
}

impl Attendant {
    fn run(mut self, mut news: link::Receiver, pid: Pid) {
        let attended = self.attend(&mut news);
        if attended.is_err() {
            // Whatever it is by now, it is of no use any more.
            let _ = kill(pid, Signal::SIGKILL);
        }
        let status = waitpid(pid, None);
        let end = match (attended, status) {
            (Err(error), _) => format!("has said what makes no sense ({error:#})"),
            (Ok(()), Ok(WaitStatus::Signaled(_, signal, _))) => format!("was killed by {signal}"),
            (Ok(()), _) => "has ended".to_owned(),
        };
        debug!("the front half {end}");
        self.desk.end(end);
        self.end();
    }

    fn attend(&mut self, news: &mut link::Receiver) -> Result<()> {
        while let Some(told) = news.next()? {
            match told {
                FromFront::Read(regions) => self.desk.give_back(regions)?,
                FromFront::NextFile { begun_ns } => self.make_file(begun_ns)?,
                FromFront::Abandon => {
                    if let Some(files) = lock(&self.desk.files).as_mut() {
                        files.abandon();
                    }
                }
                FromFront::Ended => self.end(),
                FromFront::Compiled { id, program } => {
                    let waiting = lock(&self.desk.programs).remove(&id);
                    drop(waiting.map(|waiting| waiting.send(program)));
                }
                FromFront::Told => {
                    let waiting = lock(&self.desk.told).pop_front();
                    let _ = waiting.flatten().map(|waiting| waiting.send(()));
                }
                FromFront::Saved(saved) => {
                    let waiting = lock(&self.desk.saving).take().context("an answer to nothing")?;
                    // Nobody listens any more when the capture is being stopped.
                    let _ = waiting.send(saved);
                }
                FromFront::Opened(opened) => self.answer(Reply::Opened(opened))?,
                FromFront::Draining(draining) => self.answer(Reply::Draining(draining))?,
                FromFront::Played(played) => self.answer(Reply::Played(played))?,
                FromFront::Drained(drained) => self.answer(Reply::Drained(drained))?,
                FromFront::Finished(finished) => self.answer(Reply::Finished(finished))?,
            }
        }
        Ok(())
    }

    fn answer(&self, reply: Reply) -> Result<()> {
        self.reply.try_send(reply).map_err(|_| anyhow!("an answer to nothing"))
    }

    fn make_file(&self, begun_ns: u64) -> Result<()> {
        match self.desk.next_file(begun_ns) {
            Ok(Made { file, name }) => self.orders.give(ToFront::Made(Ok(name)), vec![file.into()]),
            Err(error) => self.orders.give(ToFront::Made(Err(format!("{error:#}"))), Vec::new()),
        }
    }

    fn end(&mut self) {
        // Nobody listens any more when the capture is being stopped.
        let _ = self.over.take().map(|over| over.send(()));
    }
}

impl Halves {
    /// The front half, and a client's words both ways.
    ///
    /// # Errors
    ///
    /// When the system has no thread left.
    pub fn writer(self) -> Result<(Writer, (link::Receiver, link::Sender))> {
        let Self { orders, news, talk, board, pid } = self;
        Ok((Writer::start(orders, news, board, pid)?, talk))
    }
}

fn block_of(names: &Names) -> Vec<u8> {
    let mut block = Vec::new();
    names.write(&mut block);
    block
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::{os::unix::net::UnixStream, process::Command, time::Duration};

    use super::*;

    #[test]
    fn whoever_waits_for_one_that_has_ended_is_told_so() {
        let mut front = Command::new("true").spawn().unwrap();
        let [orders, news] = [0; 2].map(|_| UnixStream::pair().unwrap().0);
        let (orders, news) = (link::Sender::new(orders), link::Receiver::without_descriptors(news));
        let pid = Pid::from_raw(front.id().cast_signed());
        let mut writer = Writer::start(orders, news, Box::leak(Box::default()), pid).expect("two threads");
        writer.take_ended().blocking_recv().expect("the end");
        let (answered, answer) = mpsc::channel();
        let (compiler, receipts) = (writer.compiler(), writer.receipts());
        thread::spawn(move || {
            let compiled = compiler.compile("tcp", LinkType::Ethernet, true).map(drop);
            let (sent, is_sent) = oneshot::channel();
            receipts.expect(Some(sent));
            answered.send((compiled, is_sent.blocking_recv()))
        });
        let (compiled, is_sent) = answer.recv_timeout(Duration::from_secs(10)).expect("answers");
        assert!(compiled.unwrap_err().to_string().contains("has ended: what it had not written is lost"));
        assert!(is_sent.is_err());
        assert!(writer.stop().is_err());
        // That was done for the test.
        assert!(front.wait().is_err());
    }
}
