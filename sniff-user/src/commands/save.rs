//! `sniff save`.

use std::{
    fs,
    io::{self, IsTerminal as _, Write as _},
    os::{
        fd::{AsFd as _, BorrowedFd},
        linux::net::SocketAddrExt as _,
        unix::net::{SocketAddr, UnixStream},
    },
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use log::{info, warn};
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
/// How long a recorder that is one of several may take to say what it records: it may be busy with another save.
const PATIENCE: Duration = Duration::from_millis(500);

#[derive(Debug, clap::Args)]
pub struct SaveArgs {
    /// Write to a file, or to standard output with `-`: pcapng, or what the name ends with of .pcap, .zst and .gz
    #[arg(short, long, visible_short_alias = 'o', value_name = "FILE|-", required = true)]
    pub write: To,

    /// Only the packets of the last time, as in 5m or 30s (default: all that is held)
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub last: Option<Duration>,

    /// The recorder's process, where there are several
    #[arg(long, value_name = "PID")]
    pub recorder: Option<i32>,

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
    let recorder = choose(running()?, recorder)?;
    let saved = match write {
        To::StandardOutput => {
            let to = io::stdout();
            ensure!(!to.is_terminal(), "packets are not for a terminal: write to a file or a pipe");
            recorder.save(Request { name: None, last }, to.as_fd())?
        }
        To::File(path) => {
            let mut files = NamedFiles::new(path, Rotation::default());
            let made = files.next(0)?;
            let saved = recorder.save(Request { name: Some(made.name), last }, made.file.as_fd());
            let is_empty = made.file.metadata().is_ok_and(|file| file.is_file() && file.len() == 0);
            if saved.is_err() && is_empty {
                files.abandon();
            }
            saved?
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
    let wanted = last.map(|last| until.saturating_sub(last.as_nanos() as u64));
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
    stream: UnixStream,
}

/// The recorders of this user in this network namespace.
fn running() -> Result<Vec<Recorder>> {
    let sockets = fs::read_to_string(SOCKETS).with_context(|| format!("cannot read {SOCKETS}"))?;
    let connect = |name| {
        let stream = UnixStream::connect_addr(&SocketAddr::from_abstract_name(name).ok()?).ok()?;
        // Somebody else may call a socket like that.
        let pid = peer(&stream).ok()?.pid();
        Some(Recorder { pid, stream })
    };
    Ok(names(&sockets).filter_map(connect).collect())
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
fn choose(mut running: Vec<Recorder>, pid: Option<i32>) -> Result<Recorder> {
    if let Some(pid) = pid {
        running.retain(|recorder| recorder.pid == pid);
    }
    match (running.len(), pid) {
        (1, _) => Ok(running.remove(0)),
        (0, None) => bail!(
            "no recorder runs here: `sniff --pod NS/POD --record 256MiB` is one, in the same network namespace"
        ),
        (_, Some(pid)) => bail!("process {pid} is no recorder here"),
        (count, None) => {
            let lines = running.into_iter().map(|recorder| format!("\n  --recorder {}", recorder.describe()));
            bail!("{count} recorders run here: say which one is meant{}", lines.collect::<String>())
        }
    }
}

impl Recorder {
    /// Has it write what is wanted to a file, and waits until it has.
    fn save(self, request: Request, file: BorrowedFd<'_>) -> Result<Saved> {
        let (sender, mut receiver) = (Sender::new(self.stream.try_clone()?), Receiver::new(self.stream));
        let gone = "the recorder has ended";
        let Greeting { form, .. } = receiver.next()?.context(gone)?;
        ensure!(form == FORM, "the recorder (process {}) is another version of sniff", self.pid);
        sender.send(&request, &[file])?;
        Ok(receiver.next::<Answer>()?.context(gone)??)
    }

    /// For a person: which process it is, and what it records.
    fn describe(self) -> String {
        let Self { pid, stream } = self;
        let greeting = stream.set_read_timeout(Some(PATIENCE)).and_then(|()| Receiver::new(stream).next());
        match greeting {
            Ok(Some(Greeting { what, .. })) => format!("{pid}: {what}"),
            _ => format!("{pid}: busy"),
        }
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
