//! `sniff save`.

use std::{
    fs::{self, File},
    io::{self, IsTerminal as _, Write as _},
    os::{
        fd::{AsFd as _, BorrowedFd},
        unix::net::UnixStream,
    },
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use log::{info, warn};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};
use sniff_cli::{logging, options::duration, summary::Summary};
use sniff_output::{
    To,
    file::{Files as _, NamedFiles},
    rotate::Rotation,
};
use sniff_pcapng::time;

use crate::{
    capture::recorder::{Answer, FORM, Greeting, NAME, Request, peer},
    halves::{
        link::{Receiver, Sender},
        message::Saved,
    },
    system::privileges,
};

/// The Unix sockets of this network namespace.
const SOCKETS: &str = "/proc/self/net/unix";
/// What stands before the name of a socket that is no file.
const ABSTRACT: char = '@';
/// The flag of a socket that listens (`__SO_ACCEPTCON`, include/linux/net.h).
const LISTENS: &str = "00010000";
/// How long a recorder may take to say what it records.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long the reader of a pipe may take nothing, until what is held for it goes its way again.
const STANDSTILL: Duration = Duration::from_secs(10);

#[derive(Debug, clap::Args)]
pub struct SaveArgs {
    /// Write to a file, or to standard output with `-`: pcapng, or what the name ends with of .pcap, .zst and .gz
    #[arg(short, long, visible_short_alias = 'o', value_name = "FILE|-", required = true)]
    pub write: To,

    /// Only the packets of the last time, as in 5m or 30s (default: all that is held)
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub last: Option<Duration>,

    /// The recorder's process, where there are several, or the name of its socket
    #[arg(long, value_name = "PID|NAME")]
    pub recorder: Option<String>,

    /// Say only what is wrong, and the counts
    #[arg(short, long)]
    pub quiet: bool,
}

/// Has a recorder write a file.
///
/// # Errors
///
/// When there is none, it is not clear which one is meant, or the file cannot be written.
pub(super) fn run(args: SaveArgs) -> Result<()> {
    let SaveArgs { write, last, recorder, quiet } = args;
    logging::start(quiet, 0);
    privileges::check()?;
    let asked = choose(running()?, recorder.as_deref())?.greet()?;
    let saved = match write {
        To::StandardOutput => {
            let to = io::stdout();
            ensure!(!to.is_terminal(), "packets are not for a terminal: write to a file or a pipe");
            asked.save_through(Request { name: None, last }, to.as_fd().try_clone_to_owned()?.into())?
        }
        To::File(path) => {
            let is_new = !path.exists();
            let mut files = NamedFiles::new(path, Rotation::default());
            let made = files.next(0)?;
            let request = Request { name: Some(made.name), last };
            if made.file.metadata()?.is_file() {
                let saved = asked.save(request, made.file.as_fd());
                let is_empty = made.file.metadata().is_ok_and(|file| file.len() == 0);
                if saved.is_err() && is_new && is_empty {
                    files.abandon();
                }
                saved?
            } else {
                asked.save_through(request, made.file)?
            }
        }
    };
    tell(&saved, last);
    Ok(())
}

/// Says what is in the file, and what is not.
fn tell(saved: &Saved, last: Option<Duration>) {
    let Saved { packets, left_out, older, aged_out, lost, since, until } = *saved;
    let from = since.map_or_else(|| "the recording began".to_owned(), time);
    info!("saved: the packets since {from} up to {}", time(until));
    let wanted = last.map(|last| until.saturating_sub(u64::try_from(last.as_nanos()).unwrap_or(u64::MAX)));
    if let (Some(wanted), Some(since)) = (wanted, since)
        && since > wanted
    {
        warn!("what was wanted begins at {}, which is not held any more: it takes more memory", time(wanted));
    }
    let matched = saved.matched();
    let summary = Summary { captured: packets, matched, dropped: lost, unwritten: 0, left_out, aged_out };
    let mut lines = summary.lines("", "");
    if older > 0 {
        lines += &format!("{older} packets older than what was asked for\n");
    }
    // A closed stderr is no reason to fail.
    let _ = io::stderr().write_all(lines.as_bytes());
}

/// A recorder that runs.
struct Recorder {
    pid: i32,
    name: String,
    stream: UnixStream,
}

/// The recorders of this user in this network namespace.
fn running() -> Result<Vec<Recorder>> {
    let sockets = fs::read_to_string(SOCKETS).with_context(|| format!("cannot read {SOCKETS}"))?;
    // Somebody else may call a socket like that.
    let mine = |name: &str| {
        let stream = connect_to(name).ok()?;
        Some(Recorder { pid: peer(&stream).ok()?.pid(), name: name.to_owned(), stream })
    };
    Ok(names(&sockets).filter_map(mine).collect())
}

/// Connects, and waits for nobody: whoever listens may be a stranger who takes no one.
fn connect_to(name: &str) -> io::Result<UnixStream> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    connect(&socket, &SocketAddrUnix::new_abstract_name(name.as_bytes())?)?;
    let stream = UnixStream::from(socket);
    stream.set_nonblocking(false)?;
    Ok(stream)
}

/// The names of recorders' sockets.
fn names(sockets: &str) -> impl Iterator<Item = &str> {
    sockets.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        let (flags, name) = (words.nth(3)?, words.nth(3)?);
        let name = name.strip_prefix(ABSTRACT)?;
        (flags == LISTENS && name.starts_with(NAME)).then_some(name)
    })
}

/// The one that is meant.
fn choose(mut running: Vec<Recorder>, meant: Option<&str>) -> Result<Recorder> {
    if let Some(meant) = meant {
        running.retain(|recorder| recorder.id() == meant);
    }
    match (running.len(), meant) {
        (1, _) => Ok(running.remove(0)),
        (0, None) => bail!(
            "no recorder runs here: `sniff --pod NS/POD --record 256MiB` is one, in the same network namespace"
        ),
        (0, Some(meant)) => bail!("{meant} is no recorder here"),
        (count, _) => {
            let lines = running.into_iter().map(|recorder| format!("\n  --recorder {}", recorder.describe()));
            bail!("{count} recorders run here: say which one is meant{}", lines.collect::<String>())
        }
    }
}

impl Recorder {
    /// What tells it from others: its process, or its socket, where that one is out of sight.
    fn id(&self) -> String {
        if self.pid > 0 { self.pid.to_string() } else { self.name.clone() }
    }

    /// For a person: which one it is, and what it records.
    fn describe(self) -> String {
        let id = self.id();
        match self.greet() {
            Ok(Asked { what, .. }) => format!("{id}: {what}"),
            Err(_) => format!("{id}: does not answer"),
        }
    }

    /// Hears what it records.
    fn greet(self) -> Result<Asked> {
        let id = self.id();
        self.stream.set_read_timeout(Some(PATIENCE))?;
        let (sender, mut receiver) =
            (Sender::new(self.stream.try_clone()?), Receiver::new(self.stream.try_clone()?));
        let greeting = receiver.next().with_context(|| format!("recorder {id} does not answer"))?;
        let Greeting { form, what } = greeting.with_context(|| {
            format!(
                "recorder {id} tells nothing: it is ending, or does not see that this process could capture"
            )
        })?;
        ensure!(form == FORM, "recorder {id} is another version of sniff: use the same for both");
        self.stream.set_read_timeout(None)?;
        Ok(Asked { what, sender, receiver })
    }
}

/// A recorder that waits to hear what is wanted.
struct Asked {
    what: String,
    sender: Sender,
    receiver: Receiver,
}

impl Asked {
    /// Has it write what is wanted to a file, and waits until it has.
    fn save(mut self, request: Request, file: BorrowedFd<'_>) -> Result<Saved> {
        let gone = || anyhow!("the recorder has ended");
        // Whatever the system says of the socket, it says nothing of the file.
        self.sender.send(&request, &[file]).map_err(|_| gone())?;
        let answer = self.receiver.next::<Answer>().map_err(|_| gone())?;
        Ok(answer.ok_or_else(gone)??)
    }

    /// Has it write what is wanted to whoever reads slowly, or not at all: by way of this process, with which that ends.
    fn save_through(self, request: Request, mut to: File) -> Result<Saved> {
        let (into, mut from) = UnixStream::pair()?;
        into.set_write_timeout(Some(STANDSTILL))?;
        let copying =
            thread::Builder::new().name("copy".to_owned()).spawn(move || io::copy(&mut from, &mut to))?;
        let name = request.name.clone().unwrap_or_else(|| "standard output".to_owned());
        let saved = self.save(request, into.as_fd());
        // With it ends what is to be copied.
        drop(into);
        let copied = copying.join().map_err(|_| anyhow!("the thread that copies panicked"))?;
        copied.with_context(|| format!("cannot write {name}"))?;
        saved
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recorders_are_known_by_the_names_of_their_sockets() {
        let sockets = "\
Num       RefCount Protocol Flags    Type St Inode Path
0000000000000000: 00000002 00000000 00010000 0001 01 7151 @sniff-recorder-12-99
0000000000000000: 00000003 00000000 00000000 0001 03 7152 @sniff-recorder-12-99
0000000000000000: 00000002 00000000 00010000 0001 01 7153 /run/@sniff-recorder-13-99
0000000000000000: 00000003 00000000 00000000 0001 03 7154
";
        assert_eq!(names(sockets).collect::<Vec<_>>(), ["sniff-recorder-12-99"]);
    }
}
