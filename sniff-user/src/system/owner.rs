//! Whose the files are: `-Z USER` has them made and written with that user's rights, and no others.

use std::{io, os::fd::BorrowedFd};

use anyhow::{Context as _, Result};
use nix::unistd::{Gid, Uid, User, setfsgid, setfsuid, setgroups};
use sniff_output::Sink;
use sniff_pcapng::InterfaceDescription;

/// A user whose the files are.
#[derive(Clone, Debug)]
pub struct Owner {
    name: String,
    uid: Uid,
    gid: Gid,
}

impl Owner {
    /// A user of this machine by name.
    ///
    /// # Errors
    ///
    /// When there is none.
    pub fn find(name: &str) -> Result<Self> {
        let user = User::from_name(name).ok().flatten();
        let User { uid, gid, .. } = user.with_context(|| format!("-Z: there is no user {name} here"))?;
        Ok(Self { name: name.to_owned(), uid, gid })
    }

    /// Opens an output that is opened and written to with this user's rights. Attaching and detaching take more, so the
    /// process keeps them for that, but for its groups.
    ///
    /// # Errors
    ///
    /// When it cannot be opened so, or this process may not become anybody else.
    pub fn open(self, open: impl FnOnce() -> Result<Box<dyn Sink>>) -> Result<Box<dyn Sink>> {
        setgroups(&[]).with_context(|| self.cannot())?;
        let sink = self.act(open).with_context(|| self.cannot())??;
        Ok(Box::new(Owned { sink, owner: self }))
    }

    /// Does something with this user's rights to files and no others: with the user ID the thread gives up the
    /// capabilities for files until it has its own again (capabilities(7)).
    fn act<T>(&self, act: impl FnOnce() -> T) -> io::Result<T> {
        let own = (Uid::effective(), Gid::effective());
        become_for_files(self.uid, self.gid);
        let is_owner = become_for_files(self.uid, self.gid) == (self.uid, self.gid);
        let done = is_owner.then(act);
        become_for_files(own.0, own.1);
        done.ok_or_else(|| io::ErrorKind::PermissionDenied.into())
    }

    fn cannot(&self) -> String {
        format!("-Z: cannot become {} (that takes CAP_SETUID and CAP_SETGID)", self.name)
    }
}

/// Has this thread's files be of a user and group; returns whose they were before. Neither call tells whether it worked.
fn become_for_files(uid: Uid, gid: Gid) -> (Uid, Gid) {
    let gid = setfsgid(gid);
    (setfsuid(uid), gid)
}

/// An output that is written to with its owner's rights.
struct Owned {
    sink: Box<dyn Sink>,
    owner: Owner,
}

impl Sink for Owned {
    fn interface(&mut self, description: &InterfaceDescription) {
        self.sink.interface(description);
    }

    fn write(&mut self, blocks: &[u8]) -> (usize, io::Result<()>) {
        self.owner.act(|| self.sink.write(blocks)).unwrap_or_else(|error| (0, Err(error)))
    }

    fn reader(&self) -> Option<BorrowedFd<'_>> {
        self.sink.reader()
    }
}
