//! How a recorder is asked for what it holds: by `sniff save`, over a socket of the network namespace that both are in.
//!
//! The socket has a name but no file (unix(7), "abstract"), so that nothing stays of a recorder that was killed. Anybody can
//! connect to such a name, or take one: each side looks at who the other one is, and a recorder at what that one may.

pub mod ask;

use std::{
    fmt, fs, future, io,
    os::{
        fd::OwnedFd,
        linux::net::SocketAddrExt as _,
        unix::net::{SocketAddr, UnixListener, UnixStream},
    },
    process,
    sync::Arc,
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use bytesize::ByteSize;
use log::debug;
use nix::{
    sys::socket::{UnixCredentials, getsockopt, sockopt::PeerCredentials},
    unistd::geteuid,
};
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot};

use crate::{
    halves::{
        SaveEnded,
        link::{Receiver, Sender},
        message::{Fault, Saved},
    },
    system::{clock, privileges},
};

/// What the sockets' names begin with.
pub const NAME: &str = "sniff-recorder-";
/// Which form the messages have.
pub const FORM: u32 = 2;
/// How long whoever has connected may take to say what is wanted: there may be a FIFO to be opened first, which waits for a
/// reader.
const PATIENCE: Duration = Duration::from_secs(600);
/// How long somebody may take to hear something.
const HEARING: Duration = Duration::from_secs(5);
/// How long to wait where the system has no descriptor or thread left.
const PAUSE: Duration = Duration::from_millis(200);

/// What whoever connects is told first.
#[derive(Debug, Serialize, Deserialize)]
pub struct Greeting {
    /// [`FORM`]; no other message can be understood where it differs.
    pub form: u32,
    /// What is recorded, for a person.
    pub what: String,
}

/// What is wanted; the file comes with it.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Request {
    /// What the file is called, whose ending tells the format; none of standard output.
    pub name: Option<String>,
    /// How far back it is to go; as far as it can otherwise.
    pub last: Option<Duration>,
    /// Only what is behind an earlier file, by its [`Saved::place`].
    pub after: Option<u64>,
    /// What the file says of itself besides.
    pub note: Option<String>,
}

/// What became of it.
pub type Answer = Result<Saved, Fault>;

/// A file that somebody wants.
pub struct Wish {
    pub request: Request,
    pub file: OwnedFd,
    /// Who is to be told what became of it.
    pub asker: Asker,
}

/// Who wants a file.
pub struct Asker(Sender);

impl Asker {
    fn tell(&self, answer: &Answer) {
        // Whoever asked may have gone.
        let _ = self.0.send(answer, &[]);
    }
}

/// What the name of a process's socket begins with.
fn name_of(pid: impl fmt::Display) -> String {
    format!("{NAME}{pid}-")
}

/// Listens for those who want a file.
///
/// # Errors
///
/// When the system has no descriptor or thread left.
pub fn listen(what: String) -> Result<mpsc::UnboundedReceiver<Wish>> {
    // Processes of several PID namespaces may share the network namespace.
    let name = format!("{}{}", name_of(process::id()), clock::now());
    let listener = UnixListener::bind_addr(&SocketAddr::from_abstract_name(name)?)
        .context("cannot listen for `sniff save`")?;
    let (wishes, wished) = mpsc::unbounded_channel();
    let what: Arc<str> = what.into();
    thread::Builder::new().name("saves".to_owned()).spawn(move || {
        for stream in listener.incoming() {
            if let Err(error) = stream.map_err(anyhow::Error::from).and_then(|it| admit(it, &what, &wishes)) {
                debug!("nobody can be heard who wants what is recorded: {error:#}");
                thread::sleep(PAUSE);
            }
        }
    })?;
    Ok(wished)
}

/// Hears what somebody wants, aside, who may have it.
fn admit(stream: UnixStream, what: &Arc<str>, wishes: &mpsc::UnboundedSender<Wish>) -> Result<()> {
    // Before anything is read, and without a pause: nobody else is to hold up those who may.
    if let Err(error) = peer(&stream).and_then(|peer| may_have(peer.pid())) {
        debug!("somebody may not have what is recorded: {error:#}");
        return Ok(());
    }
    let (what, wishes) = (Arc::clone(what), wishes.clone());
    thread::Builder::new().name("save".to_owned()).spawn(move || {
        if let Err(error) = hear(stream, &what, &wishes) {
            debug!("somebody wanted what is recorded: {error:#}");
        }
    })?;
    Ok(())
}

fn hear(stream: UnixStream, what: &str, wishes: &mpsc::UnboundedSender<Wish>) -> Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(HEARING))?;
    let (sender, mut receiver) = (Sender::new(stream.try_clone()?), Receiver::new(stream));
    sender.send(&Greeting { form: FORM, what: what.to_owned() }, &[])?;
    if let Some(request) = receiver.next::<Request>()? {
        wishes.send(Wish { request, file: receiver.descriptor()?, asker: Asker(sender) })?;
    }
    Ok(())
}

/// Who is at the other end: a process of the same user, or it is an error.
///
/// # Errors
///
/// When it is somebody else's.
pub fn peer(stream: &UnixStream) -> Result<UnixCredentials> {
    let peer = getsockopt(stream, PeerCredentials).map_err(io::Error::from)?;
    ensure!(peer.uid() == geteuid().as_raw(), "process {} is of user {}", peer.pid(), peer.uid());
    Ok(peer)
}

/// Makes sure that a process could capture by itself: a container's root may have the same user and no right.
fn may_have(pid: i32) -> Result<()> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))
        .with_context(|| format!("process {pid} cannot be seen"))?;
    ensure!(privileges::are_in(&status), "process {pid} could not capture");
    Ok(())
}

/// How long to watch how much comes before it is said how much memory a time takes.
pub const OBSERVATION: Duration = Duration::from_secs(10);
/// Most bytes of a recording.
const MOST: u64 = 2 << 30;

/// The memory of a recorder.
#[derive(Clone, Copy, Debug)]
pub struct Room {
    pub bytes: u64,
    /// Those among them that are not for packets, but for what is known of their flows.
    pub of_flows: u64,
}

/// What it takes to hold the packets of a time, at the rate of `recorded` bytes in [`OBSERVATION`], for a recorder with this
/// room; and whether that is enough. `None` while hardly anything comes.
pub fn estimate(time: Duration, room: Room, recorded: u64) -> Option<(bool, String)> {
    let Room { bytes: memory, of_flows } = room;
    let rate = recorded.checked_div(OBSERVATION.as_secs()).filter(|&rate| rate > 0)?;
    let packets = u64::try_from(time.as_secs_f64().ceil() as u128 * u128::from(rate)).unwrap_or(u64::MAX);
    let takes = packets.saturating_add(of_flows);
    let goes_back = humantime::format_duration(Duration::from_secs((memory - of_flows) / rate));
    let time = humantime::format_duration(time);
    let far = format!(
        "at the present rate ({} a second), {} go back {goes_back}",
        ByteSize(rate),
        ByteSize(memory)
    );
    Some(match takes {
        _ if takes <= memory => (true, format!("{far}: enough for {time}")),
        _ if takes <= MOST => (false, format!("{far}, and {time} take {0}: --record {0}", ByteSize(takes))),
        _ => {
            let takes = ByteSize(takes);
            (
                false,
                format!(
                    "{far}, and {time} take {takes}: a --cutoff, a smaller -s, --headers or a narrower filter help"
                ),
            )
        }
    })
}

/// What is to be saved next.
pub enum Due {
    /// What is new, to the output.
    New,
    /// All that is held, to a file of its own.
    All(Wish),
}

/// Saves, one after the other.
pub struct Saves {
    wishes: Option<mpsc::UnboundedReceiver<Wish>>,
    /// The one that goes on, and who wants to hear of its end.
    running: Option<(oneshot::Receiver<SaveEnded>, Option<Asker>)>,
    /// Whether what is new is wanted.
    new_is_due: bool,
}

impl Saves {
    /// Those of whoever wishes for one; no recorder has none.
    pub fn of(wishes: Option<mpsc::UnboundedReceiver<Wish>>) -> Self {
        Self { wishes, running: None, new_is_due: false }
    }

    /// Has what is new be due.
    pub fn want_new(&mut self) {
        self.new_is_due = true;
    }

    /// What is to be saved, as soon as nothing else is being saved.
    pub async fn due(&mut self) -> Due {
        if let Some((ended, _)) = &mut self.running {
            let ended = ended.await.ok();
            self.answer(ended);
        }
        if self.new_is_due {
            self.new_is_due = false;
            return Due::New;
        }
        if let Some(wishes) = &mut self.wishes
            && let Some(wish) = wishes.recv().await
        {
            return Due::All(wish);
        }
        future::pending().await
    }

    /// Notes that a save goes on.
    pub fn begun(&mut self, ended: oneshot::Receiver<SaveEnded>, asker: Option<Asker>) {
        self.running = Some((ended, asker));
    }

    /// Nothing is saved any more: tells of the last one, if it has ended.
    pub fn end(mut self) {
        if let Some((ended, _)) = &mut self.running {
            let ended = ended.try_recv().ok();
            self.answer(ended);
        }
    }

    fn answer(&mut self, ended: Option<SaveEnded>) {
        let asker = self.running.take().and_then(|(_, asker)| asker);
        if let (Some(asker), Some(ended)) = (asker, ended) {
            asker.tell(&ended.map(Option::unwrap_or_default));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{io::Read as _, net::Shutdown, os::fd::AsFd as _};

    use tokio::time::timeout;

    use super::*;

    const SOON: Duration = Duration::from_secs(10);
    const NEVER: Duration = Duration::from_millis(50);

    /// Asks as `sniff save` does; a pipe is the file. What becomes of it comes later.
    fn ask(stream: UnixStream) -> thread::JoinHandle<Option<Answer>> {
        thread::spawn(move || {
            let (sender, mut receiver) = (Sender::new(stream.try_clone().unwrap()), Receiver::new(stream));
            let greeting: Greeting = receiver.next().unwrap().expect("a greeting");
            assert_eq!((greeting.form, greeting.what.as_str()), (FORM, "shop/web-0/eth0"));
            let (_, file) = io::pipe().unwrap();
            let request = Request { last: Some(SOON), ..Request::default() };
            sender.send(&request, &[file.as_fd()]).unwrap();
            receiver.next().unwrap()
        })
    }

    /// Somebody who has asked, and who is to be told.
    async fn asked(
        saves: &mut Saves,
        wishes: &mpsc::UnboundedSender<Wish>,
    ) -> (thread::JoinHandle<Option<Answer>>, Asker) {
        let (here, there) = UnixStream::pair().unwrap();
        let asking = ask(there);
        hear(here, "shop/web-0/eth0", wishes).unwrap();
        let Due::All(wish) = timeout(SOON, saves.due()).await.unwrap() else { panic!("not what was wished") };
        assert_eq!((wish.request.name, wish.request.last), (None, Some(SOON)));
        (asking, wish.asker)
    }

    #[tokio::test]
    async fn one_save_is_due_when_the_one_before_has_ended() {
        let (wishes, wished) = mpsc::unbounded_channel();
        let mut saves = Saves::of(Some(wished));
        let (asking, asker) = asked(&mut saves, &wishes).await;
        let (ended, end) = oneshot::channel();
        saves.begun(end, Some(asker));
        saves.want_new();
        assert!(timeout(NEVER, saves.due()).await.is_err());
        let saved = Saved { packets: 7, ..Saved::default() };
        assert!(ended.send(Ok(Some(saved))).is_ok());
        assert!(matches!(timeout(SOON, saves.due()).await, Ok(Due::New)));
        assert_eq!(asking.join().unwrap().expect("an answer").expect("a file"), saved);
        assert!(timeout(NEVER, saves.due()).await.is_err());
    }

    #[tokio::test]
    async fn a_recorder_that_ends_tells_what_became_of_the_last_save() {
        for has_ended in [true, false] {
            let (wishes, wished) = mpsc::unbounded_channel();
            let mut saves = Saves::of(Some(wished));
            let (asking, asker) = asked(&mut saves, &wishes).await;
            let (ended, end) = oneshot::channel();
            saves.begun(end, Some(asker));
            if has_ended {
                assert!(ended.send(Ok(Some(Saved::default()))).is_ok());
            }
            saves.end();
            assert_eq!(asking.join().unwrap().is_some(), has_ended);
        }
    }

    #[test]
    fn what_a_time_takes_is_known_by_the_rate() {
        let room = Room { bytes: 256 << 20, of_flows: 0 };
        let of = |recorded| estimate(Duration::from_secs(1800), room, recorded);
        assert_eq!(of(9), None);
        let (is_enough, text) = of(1 << 20).unwrap();
        assert!(is_enough, "{text}");
        assert_eq!(
            text,
            "at the present rate (102.4 KiB a second), 256.0 MiB go back 42m 40s: enough for 30m"
        );
        let (is_enough, text) = of(2 << 20).unwrap();
        assert!(!is_enough, "{text}");
        assert!(text.ends_with("go back 21m 20s, and 30m take 360.0 MiB: --record 360.0 MiB"), "{text}");
        let room = Room { bytes: 256 << 20, of_flows: 8 << 20 };
        let (_, text) = estimate(Duration::from_secs(1800), room, 2 << 20).unwrap();
        assert!(text.ends_with("go back 20m 40s, and 30m take 368.0 MiB: --record 368.0 MiB"), "{text}");
        let (is_enough, text) = of(100 << 20).unwrap();
        assert!(!is_enough, "{text}");
        assert!(
            text.ends_with(
                "and 30m take 17.6 GiB: a --cutoff, a smaller -s, --headers or a narrower filter help"
            ),
            "{text}"
        );
    }

    #[test]
    fn whoever_could_capture_may_have_what_is_recorded() {
        let own = process::id().cast_signed();
        assert_eq!(may_have(own).is_ok(), privileges::check().is_ok());
        // A process of another PID namespace.
        assert!(may_have(0).is_err());
    }

    #[test]
    fn whoever_asks_for_nothing_is_let_go() {
        let (wishes, _wished) = mpsc::unbounded_channel();
        let (here, mut there) = UnixStream::pair().unwrap();
        there.shutdown(Shutdown::Write).unwrap();
        hear(here, "web", &wishes).expect("nothing is wrong with that");
        let mut greeting = Vec::new();
        there.read_to_end(&mut greeting).unwrap();
        assert!(!greeting.is_empty());
    }
}
