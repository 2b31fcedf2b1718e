//! How one process becomes two.
#![expect(unsafe_code, reason = "fork(2), and memory that two processes share")]

use std::{
    ffi::OsString,
    fs, io,
    num::NonZero,
    os::{
        fd::{AsRawFd, RawFd},
        unix::net::UnixStream,
    },
    process,
};

use anyhow::{Context as _, Result, ensure};
use log::error;
use nix::{
    sys::{
        mman::{MapFlags, ProtFlags, mmap_anonymous},
        signal::{SigSet, SigmaskHow},
    },
    unistd::{ForkResult, Pid, close, fork, getppid},
};

use super::{board::Board, link};
use crate::{system::signals, targets::proc};

/// What the front half has of the other one.
pub struct Ends {
    /// Where it hears what to do.
    pub orders: link::Receiver,
    /// Where it tells what it does.
    pub news: link::Sender,
    /// A client's words, both ways.
    pub talk: (link::Receiver, link::Sender),
    /// What both see.
    pub board: &'static Board,
    /// The other half.
    pub parent: Pid,
}

/// What the other one has of the front half.
pub struct Halves {
    /// Where it is told what to do.
    pub orders: link::Sender,
    /// Where it tells what it does.
    pub news: link::Receiver,
    /// A client's words, both ways.
    pub talk: (link::Receiver, link::Sender),
    /// What both see.
    pub board: &'static Board,
    /// The front half.
    pub pid: Pid,
}

/// Makes a process that does `front`, and ends with it. It hears no signals that it can be spared.
///
/// # Errors
///
/// When the system has no process, memory or descriptor left, or this process has more threads than one.
pub fn split(front: impl FnOnce(Ends) -> Result<()>) -> Result<Halves> {
    let board = board().context("cannot share memory between processes")?;
    let (orders, ordered) = UnixStream::pair()?;
    let (news, told) = UnixStream::pair()?;
    let (talk, talked) = UnixStream::pair()?;
    let status = proc::own_status()?;
    // Another thread's locks would be held for ever in the new process.
    ensure!(status.lines().any(|line| line == "Threads:\t1"), "a process with threads cannot become two");
    let parent = Pid::this();
    // Until the new process has its own mask, no signal is to end one of the two alone.
    let mask = signals::all().thread_swap_mask(SigmaskHow::SIG_BLOCK)?;
    // SAFETY: there is one thread, so that no lock and no half-changed state of another is taken along.
    match unsafe { fork() }.context("cannot make a process")? {
        ForkResult::Parent { child } => {
            restore(&mask)?;
            drop((ordered, told, talked));
            Ok(Halves {
                orders: link::Sender::new(orders),
                news: link::Receiver::without_descriptors(news),
                talk: link::without_descriptors(talk)?,
                board,
                pid: child,
            })
        }
        ForkResult::Child => {
            drop((orders, news, talk));
            let ours = [&ordered, &told, &talked].map(AsRawFd::as_raw_fd);
            let ends = || {
                close_all_but(&ours).context("cannot tell which files are open")?;
                let (orders, news) = (link::Receiver::new(ordered), link::Sender::new(told));
                front(Ends { orders, news, talk: link::without_descriptors(talked)?, board, parent })
            };
            let ended = ends();
            // One that has ended meanwhile has said why.
            if let (Err(error), true) = (&ended, getppid() == parent) {
                error!("{error:#}");
            }
            process::exit(i32::from(ended.is_err()))
        }
    }
}

/// Closes what is open in this process because whoever started it left it open, but for standard input, output and error.
fn close_all_but(ours: &[RawFd]) -> io::Result<()> {
    let open = fs::read_dir("/proc/self/fd")?.map(|entry| Ok(entry?.file_name()));
    let open: Vec<OsString> = open.collect::<io::Result<_>>()?;
    let open = open.iter().filter_map(|name| name.to_str()?.parse::<RawFd>().ok());
    for descriptor in
        open.filter(|descriptor| *descriptor > libc::STDERR_FILENO && !ours.contains(descriptor))
    {
        // The one by which they were listed is closed already.
        let _ = close(descriptor);
    }
    Ok(())
}

fn restore(mask: &SigSet) -> Result<()> {
    mask.thread_set_mask().context("cannot hear signals again")
}

/// Memory that stays shared by this process and those that it becomes, as long as they are.
fn board() -> nix::Result<&'static Board> {
    let size = NonZero::new(size_of::<Board>()).unwrap_or(NonZero::<usize>::MIN);
    let access = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
    // SAFETY: a new mapping, at a place that the kernel chooses, which is a page's beginning and so aligned.
    let at = unsafe { mmap_anonymous(None, size, access, MapFlags::MAP_SHARED) }?;
    // SAFETY: large enough, never unmapped, and zeros are a board: it has nothing but atomics, which others may write to.
    Ok(unsafe { at.cast::<Board>().as_ref() })
}
