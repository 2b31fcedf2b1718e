//! A network namespace without a name: it goes with the last descriptor or process that holds it,
//! so that nothing stays behind however this program ends.

use std::{fs::File, os::fd::AsRawFd as _, panic::resume_unwind, path::PathBuf, process, thread};

use anyhow::{Context as _, Result};
use nix::sched::{CloneFlags, setns, unshare};

/// The namespace behind an open `/proc/…/ns/net`.
pub struct Netns(File);

impl Netns {
    /// A new, empty namespace.
    ///
    /// # Errors
    /// Not root.
    pub fn new() -> Result<Self> {
        on_a_thread(|| {
            unshare(CloneFlags::CLONE_NEWNET)
                .context("cannot make a network namespace (it takes CAP_SYS_ADMIN)")?;
            File::open("/proc/thread-self/ns/net").context("cannot open a network namespace")
        })
        .map(Self)
    }

    /// Where other processes find the namespace while this value lives.
    pub fn path(&self) -> PathBuf {
        let Self(file) = self;
        format!("/proc/{}/fd/{}", process::id(), file.as_raw_fd()).into()
    }

    /// Runs `work` inside; the sockets and children it makes stay inside.
    ///
    /// # Errors
    /// The namespace cannot be entered, or `work` failed.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        let Self(file) = self;
        on_a_thread(|| {
            setns(file, CloneFlags::CLONE_NEWNET).context("cannot enter a network namespace")?;
            work()
        })
    }
}

/// A thread has its own namespace, and there is nothing to restore when it ends.
fn on_a_thread<T: Send>(work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    thread::scope(|scope| scope.spawn(work).join().unwrap_or_else(|panic| resume_unwind(panic)))
}
