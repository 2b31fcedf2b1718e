//! What a process gives up before it reads what strangers wrote: its user, its capabilities, files, signals to others,
//! and all system calls but those that it takes to read, to write and to wait.

mod calls;
mod capabilities;
mod files;
#[cfg(test)]
mod tests;

use std::{fmt, path::PathBuf, process};

use anyhow::{Context as _, Result, ensure};
use nix::{
    errno::Errno,
    sys::{
        prctl,
        resource::{Resource, getrlimit, setrlimit},
        signal::Signal,
    },
    unistd::{Gid, Uid, getppid, setgroups, setresgid, setresuid},
};

/// The user and group that nothing belongs to (`overflowuid`, Documentation/admin-guide/sysctl/fs.rst), and most
/// systems call nobody.
pub const NOBODY: u32 = 65534;

/// What a process keeps when it gives up all else. The descriptors that it has are its own, and stay what they are.
#[derive(Clone, Debug)]
pub struct Sandbox {
    /// The process that started this one, and does not outlive it.
    pub parent: u32,
    /// Whose rights it has from then on.
    pub uid: u32,
    /// And as what group; it has no others.
    pub gid: u32,
    /// Files that it may open to read, and folders that stand for all files in them; without any it opens nothing. What
    /// is not there is passed over.
    pub readable: Vec<PathBuf>,
    /// Whether it may send datagrams and ask for the machine's addresses, as looking up names takes.
    pub names: bool,
}

/// Something that could not be given up.
#[derive(Debug, PartialEq, Eq)]
pub enum Kept {
    /// Whose rights it has: there is no way to become another.
    User {
        /// Who it is.
        uid: u32,
        /// What it takes to become another.
        lacks: Lack,
    },
    /// The groups that it has from its parent.
    Groups(Errno),
    /// Files that anybody may read, where some are to be read: the kernel has no Landlock.
    Files,
    /// All system calls: the kernel filters none.
    Calls(String),
}

/// What it takes to become another user.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lack {
    /// `CAP_SETUID`, or an id that there is in its user namespace.
    ToBecome(Errno),
    /// `CAP_KILL`: the parent could not end a process of another user.
    ToBeEnded,
}

impl Sandbox {
    /// A sandbox in which no file is opened and no name looked up.
    ///
    /// `parent` is the id of the process that starts the sandboxed one, as it is before the fork.
    pub fn new(parent: u32) -> Self {
        Self { parent, uid: NOBODY, gid: NOBODY, readable: Vec::new(), names: false }
    }

    /// Gives up all else, for good. Returns what could not be given up.
    ///
    /// The process has one thread so far: others that it has would keep what they have. From here on it dies with the
    /// thread that it was forked from.
    ///
    /// # Errors
    ///
    /// When the parent has ended, or the kernel refuses what it allows everybody.
    pub fn enter(self) -> Result<Vec<Kept>> {
        let mut kept = Vec::new();
        limit().context("cannot limit the sandboxed process")?;
        // Opens the files, which another user may not be able to find.
        let files = files::Rules::new(&self)?;

        capabilities::bound();
        prctl::set_keepcaps(false)?;
        kept.extend(self.become_another());
        capabilities::give_up().context("cannot give up capabilities")?;

        prctl::set_no_new_privs()?;
        // Else another sandboxed process of this user could look into this one.
        prctl::set_dumpable(false)?;
        // A change of the user takes this back (commit_creds, kernel/cred.c), so it comes behind that. What happened
        // before it is seen by who the parent is.
        prctl::set_pdeathsig(Signal::SIGKILL)?;
        ensure!(
            u32::try_from(getppid().as_raw()) == Ok(self.parent),
            "the process that started this one has ended"
        );

        kept.extend(files.enforce()?);
        kept.extend(calls::allow(&self, process::id())?);
        Ok(kept)
    }

    /// Becomes the other user and group; what it could not.
    fn become_another(&self) -> Vec<Kept> {
        let (uid, gid) = (Uid::from_raw(self.uid), Gid::from_raw(self.gid));
        // The user last: nobody else may change groups.
        let groups = setgroups(&[]).and_then(|()| setresgid(gid, gid, gid)).err().map(Kept::Groups);
        // The kernel sends the signal for its parent with the parent's rights, which are those that this one has.
        let can_be_ended = capabilities::can_signal_others() || Uid::current() == uid;
        let become_user = || setresuid(uid, uid, uid).map_err(Lack::ToBecome);
        let lacks = if can_be_ended { become_user().err() } else { Some(Lack::ToBeEnded) };
        let user = lacks.map(|lacks| Kept::User { uid: Uid::current().as_raw(), lacks });
        groups.into_iter().chain(user).collect()
    }
}

/// No memory of it is written to a file when it crashes, packets included; and the threads of others who are the same
/// user, such as other sandboxed processes, leave room for its own as far as may be.
fn limit() -> nix::Result<()> {
    setrlimit(Resource::RLIMIT_CORE, 0, 0)?;
    let (_, most) = getrlimit(Resource::RLIMIT_NPROC)?;
    setrlimit(Resource::RLIMIT_NPROC, most, most)
}

impl fmt::Display for Kept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::User { uid, lacks } => write!(f, "it runs as user {uid} ({lacks})"),
            Self::Groups(error) => write!(f, "it keeps its groups (no CAP_SETGID: {})", error.desc()),
            Self::Files => {
                f.write_str("it can read the files that its user can (the kernel has no Landlock)")
            }
            Self::Calls(error) => {
                write!(f, "it can make any system call (the kernel takes no filter of them: {error})")
            }
        }
    }
}

impl fmt::Display for Lack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ToBecome(error) => write!(f, "no CAP_SETUID: {}", error.desc()),
            Self::ToBeEnded => f.write_str("no CAP_KILL, which it takes to end another user's process"),
        }
    }
}
