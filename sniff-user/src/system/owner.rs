//! Whose the files are: `-Z USER` has them made and written with that user's rights, and no others.

use std::io;

use anyhow::{Context as _, Result};
use nix::unistd::{Gid, Uid, User, setfsgid, setfsuid, setgroups};
use sniff_output::file::{Files, Made};

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

    /// The user's and the group's numbers.
    pub fn ids(&self) -> (u32, u32) {
        (self.uid.as_raw(), self.gid.as_raw())
    }

    /// Has files be made and deleted with this user's rights. Attaching and detaching take more, so the process keeps them for
    /// that, but for its groups.
    pub fn files(self, files: Box<dyn Files>) -> Box<dyn Files> {
        Box::new(Owned { files, owner: self })
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

/// Files that are made with their owner's rights.
struct Owned {
    files: Box<dyn Files>,
    owner: Owner,
}

impl Files for Owned {
    fn next(&mut self, begun_ns: u64) -> Result<Made> {
        setgroups(&[]).with_context(|| self.owner.cannot())?;
        let Self { files, owner } = self;
        owner.act(|| files.next(begun_ns)).with_context(|| owner.cannot())?
    }

    fn abandon(&mut self) {
        let Self { files, owner } = self;
        // What cannot be deleted is empty.
        let _ = owner.act(|| files.abandon());
    }
}
