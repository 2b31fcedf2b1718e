//! How a recorder is asked for what it holds: by `sniff save`, over a socket of the network namespace that both are in.
//!
//! The socket has a name but no file (unix(7), "abstract"), so that nothing stays of a recorder that was killed. Anybody can
//! connect to such a name, or take one: each side looks at who the other one is.

use std::{
    future, io,
    os::{
        fd::OwnedFd,
        linux::net::SocketAddrExt as _,
        unix::net::{SocketAddr, UnixListener, UnixStream},
    },
    process, thread,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context as _, Result, anyhow, ensure};
use bytesize::ByteSize;
use log::debug;
use nix::{
    sys::socket::{UnixCredentials, getsockopt, sockopt::PeerCredentials},
    unistd::geteuid,
};
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot};

use crate::halves::{
    SaveEnded,
    link::{Receiver, Sender},
    message::{Fault, Saved},
};

/// What the sockets' names begin with.
pub const NAME: &str = "sniff-recorder-";
/// Which form the messages have.
pub const FORM: u32 = 1;
/// How long somebody may take to say what is wanted, or to hear what became of it.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long to wait where the system has no descriptor left.
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
#[derive(Debug, Serialize, Deserialize)]
pub struct Request {
    /// What the file is called, whose ending tells the format; none of standard output.
    pub name: Option<String>,
    /// How far back it is to go; as far as it can otherwise.
    pub last: Option<Duration>,
}

/// What became of it.
pub type Answer = Result<Saved, Fault>;

/// A file that somebody wants.
pub struct Wish {
    pub request: Request,
    pub file: OwnedFd,
    /// Where to tell what became of it.
    pub answer: oneshot::Sender<Answer>,
}

/// Listens for those who want a file.
///
/// # Errors
///
/// When the system has no descriptor or thread left.
pub fn listen(what: String) -> Result<mpsc::UnboundedReceiver<Wish>> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    // Processes of several PID namespaces may share the network namespace.
    let name = format!("{NAME}{}-{}", process::id(), now.as_nanos());
    let listener = UnixListener::bind_addr(&SocketAddr::from_abstract_name(name)?)
        .context("cannot listen for `sniff save`")?;
    let (wishes, wished) = mpsc::unbounded_channel();
    thread::Builder::new().name("saves".to_owned()).spawn(move || {
        for stream in listener.incoming() {
            match stream.map_err(anyhow::Error::from).and_then(|stream| attend(stream, &what, &wishes)) {
                Ok(()) => {}
                Err(error) => {
                    debug!("somebody wanted what is recorded: {error:#}");
                    thread::sleep(PAUSE);
                }
            }
        }
    })?;
    Ok(wished)
}

/// Hears what is wanted, and tells what became of it.
fn attend(stream: UnixStream, what: &str, wishes: &mpsc::UnboundedSender<Wish>) -> Result<()> {
    // Before anything is read: nobody else is to hold up those who may.
    peer(&stream)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let (sender, mut receiver) = (Sender::new(stream.try_clone()?), Receiver::new(stream));
    sender.send(&Greeting { form: FORM, what: what.to_owned() }, &[])?;
    let Some(request) = receiver.next::<Request>()? else { return Ok(()) };
    let (answer, answered) = oneshot::channel();
    wishes.send(Wish { request, file: receiver.descriptor()?, answer })?;
    let answer = answered.blocking_recv().unwrap_or_else(|_| Err(anyhow!("the recorder has ended").into()));
    Ok(sender.send(&answer, &[])?)
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

/// How long to watch how much comes before it is said how much memory a time takes.
pub const OBSERVATION: Duration = Duration::from_secs(10);

/// What it takes to hold the packets of a time, at the rate of `recorded` bytes in [`OBSERVATION`], for a recorder of
/// `memory` bytes; and whether that is enough.
pub fn estimate(time: Duration, memory: u64, recorded: u64) -> (bool, String) {
    let rate = recorded / OBSERVATION.as_secs();
    let held = ByteSize(memory);
    if rate == 0 {
        return (true, format!("hardly anything comes: {held} may hold any time"));
    }
    let takes = u64::try_from(time.as_secs_f64().ceil() as u128 * u128::from(rate)).unwrap_or(u64::MAX);
    let goes_back = humantime::format_duration(Duration::from_secs(memory / rate));
    let (time, rate) = (humantime::format_duration(time), ByteSize(rate));
    let far = format!("at the present rate ({rate} a second), {held} go back {goes_back}");
    if takes <= memory {
        (true, format!("{far}: enough for {time}"))
    } else {
        let more = ByteSize(takes);
        (
            false,
            format!(
                "{far}, and {time} take {more}: --record SIZE, a smaller -s, --headers or a narrower filter"
            ),
        )
    }
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
    running: Option<(oneshot::Receiver<SaveEnded>, Option<oneshot::Sender<Answer>>)>,
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
    pub fn begun(&mut self, ended: oneshot::Receiver<SaveEnded>, answer: Option<oneshot::Sender<Answer>>) {
        self.running = Some((ended, answer));
    }

    /// Nothing is saved any more: tells of the last one, if it has ended.
    pub fn end(mut self) {
        if let Some((ended, _)) = &mut self.running {
            let ended = ended.try_recv().ok();
            self.answer(ended);
        }
    }

    fn answer(&mut self, ended: Option<SaveEnded>) {
        let waiting = self.running.take().and_then(|(_, answer)| answer);
        if let (Some(answer), Some(ended)) = (waiting, ended) {
            // Whoever asked may have gone.
            let _ = answer.send(ended.map(Option::unwrap_or_default));
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
    fn ask(stream: UnixStream) -> thread::JoinHandle<Answer> {
        thread::spawn(move || {
            let (sender, mut receiver) = (Sender::new(stream.try_clone().unwrap()), Receiver::new(stream));
            let greeting: Greeting = receiver.next().unwrap().expect("a greeting");
            assert_eq!((greeting.form, greeting.what.as_str()), (FORM, "shop/web-0/eth0"));
            let (_, file) = io::pipe().unwrap();
            let request = Request { name: None, last: Some(SOON) };
            sender.send(&request, &[file.as_fd()]).unwrap();
            receiver.next().unwrap().expect("an answer")
        })
    }

    #[tokio::test]
    async fn one_save_is_due_when_the_one_before_has_ended() {
        let (wishes, wished) = mpsc::unbounded_channel();
        let mut saves = Saves::of(Some(wished));
        let (here, there) = UnixStream::pair().unwrap();
        let asking = ask(there);
        thread::spawn(move || attend(here, "shop/web-0/eth0", &wishes));
        let Due::All(wish) = timeout(SOON, saves.due()).await.unwrap() else { panic!("not what was wished") };
        assert_eq!((wish.request.name, wish.request.last), (None, Some(SOON)));
        let (ended, end) = oneshot::channel();
        saves.begun(end, Some(wish.answer));
        saves.want_new();
        assert!(timeout(NEVER, saves.due()).await.is_err());
        let saved = Saved { packets: 7, ..Saved::default() };
        assert!(ended.send(Ok(Some(saved))).is_ok());
        assert!(matches!(timeout(SOON, saves.due()).await, Ok(Due::New)));
        assert_eq!(asking.join().unwrap().expect("a file"), saved);
        assert!(timeout(NEVER, saves.due()).await.is_err());
    }

    #[tokio::test]
    async fn a_recorder_that_ends_tells_what_became_of_the_last_save() {
        for has_ended in [true, false] {
            let (answer, answered) = oneshot::channel();
            let (ended, end) = oneshot::channel();
            let mut saves = Saves::of(None);
            saves.begun(end, Some(answer));
            if has_ended {
                assert!(ended.send(Ok(Some(Saved::default()))).is_ok());
            }
            saves.end();
            assert_eq!(answered.await.is_ok(), has_ended);
        }
    }

    #[test]
    fn what_a_time_takes_is_known_by_the_rate() {
        let of = |recorded| estimate(Duration::from_secs(1800), 256 << 20, recorded);
        assert_eq!(of(0), (true, "hardly anything comes: 256.0 MiB may hold any time".to_owned()));
        let (is_enough, text) = of(1 << 20);
        assert!(is_enough, "{text}");
        assert_eq!(
            text,
            "at the present rate (102.4 KiB a second), 256.0 MiB go back 42m 40s: enough for 30m"
        );
        let (is_enough, text) = of(100 << 20);
        assert!(!is_enough, "{text}");
        assert!(text.contains("go back 25s, and 30m take 17.6 GiB"), "{text}");
    }

    #[test]
    fn whoever_asks_for_nothing_is_let_go() {
        let (wishes, _wished) = mpsc::unbounded_channel();
        let (here, mut there) = UnixStream::pair().unwrap();
        there.shutdown(Shutdown::Write).unwrap();
        attend(here, "web", &wishes).expect("nothing is wrong with that");
        let mut greeting = Vec::new();
        there.read_to_end(&mut greeting).unwrap();
        assert!(!greeting.is_empty());
    }
}
