//! Asking a recorder for what it holds.

use std::{
    fs::{self, File},
    io,
    os::{
        fd::{AsFd as _, BorrowedFd},
        unix::net::UnixStream,
    },
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow, ensure};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};

use super::{Answer, FORM, Greeting, NAME, Request, name_of, peer};
use crate::halves::{
    link::{Receiver, Sender},
    message::Saved,
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

/// A recorder that runs.
pub struct Recorder {
    /// Its process; 0 of one that is out of sight.
    pub pid: i32,
    name: String,
    stream: UnixStream,
}

/// The recorders of this user in this network namespace.
///
/// # Errors
///
/// When the system does not tell its sockets.
pub fn running() -> Result<Vec<Recorder>> {
    Ok(names(&sockets()?, NAME).filter_map(Recorder::called).collect())
}

/// The recorder in this process, which is of this PID namespace, ready to hear what is wanted. Others are left in peace.
///
/// # Errors
///
/// When there is none, and those of [`Recorder::greet`].
pub fn of(pid: i32) -> Result<Asked> {
    let sockets = sockets()?;
    let its_name = name_of(pid);
    let mut found = names(&sockets, &its_name).filter_map(Recorder::called);
    found.find(|recorder| recorder.pid == pid).context("its recorder has ended")?.greet()
}

fn sockets() -> Result<String> {
    fs::read_to_string(SOCKETS).with_context(|| format!("cannot read {SOCKETS}"))
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

/// The names of sockets that begin like this.
fn names<'a>(sockets: &'a str, beginning: &'a str) -> impl Iterator<Item = &'a str> {
    sockets.lines().filter_map(move |line| {
        let mut words = line.split_whitespace();
        let (flags, name) = (words.nth(3)?, words.nth(3)?);
        let name = name.strip_prefix(ABSTRACT)?;
        (flags == LISTENS && name.starts_with(beginning)).then_some(name)
    })
}

impl Recorder {
    /// The one with a socket of this name, unless it is somebody else who calls one like that.
    fn called(name: &str) -> Option<Self> {
        let stream = connect_to(name).ok()?;
        Some(Self { pid: peer(&stream).ok()?.pid(), name: name.to_owned(), stream })
    }

    /// What tells it from others: its process, or its socket, where that one is out of sight.
    pub fn id(&self) -> String {
        if self.pid > 0 { self.pid.to_string() } else { self.name.clone() }
    }

    /// For a person: which one it is, and what it records.
    pub fn describe(self) -> String {
        let id = self.id();
        match self.greet() {
            Ok(Asked { what, .. }) => format!("{id}: {what}"),
            Err(_) => format!("{id}: does not answer"),
        }
    }

    /// Hears what it records.
    ///
    /// # Errors
    ///
    /// When it does not answer, or is another version.
    pub fn greet(self) -> Result<Asked> {
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
pub struct Asked {
    what: String,
    sender: Sender,
    receiver: Receiver,
}

impl Asked {
    /// Has it write what is wanted to a file, and waits until it has.
    ///
    /// # Errors
    ///
    /// When it cannot, or has ended.
    pub fn save(mut self, request: Request, file: BorrowedFd<'_>) -> Result<Saved> {
        let gone = || anyhow!("the recorder has ended");
        // Whatever the system says of the socket, it says nothing of the file.
        self.sender.send(&request, &[file]).map_err(|_| gone())?;
        let answer = self.receiver.next::<Answer>().map_err(|_| gone())?;
        Ok(answer.ok_or_else(gone)??)
    }

    /// Has it write what is wanted to whoever reads slowly, or not at all: by way of this process, with which that ends.
    ///
    /// # Errors
    ///
    /// As [`Self::save`], and when what is written cannot be passed on.
    pub fn save_through(self, request: Request, mut to: File) -> Result<Saved> {
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
0000000000000000: 00000002 00000000 00010000 0001 01 7155 @sniff-recorder-129-99
";
        let of = |beginning| names(sockets, beginning).collect::<Vec<_>>();
        assert_eq!(of(NAME), ["sniff-recorder-12-99", "sniff-recorder-129-99"]);
        assert_eq!(of(&name_of(12)), ["sniff-recorder-12-99"]);
    }
}
