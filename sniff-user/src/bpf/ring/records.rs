//! The reader's side of `BPF_MAP_TYPE_RINGBUF` (Documentation/bpf/ringbuf.rst, kernel/bpf/ringbuf.c).
//!
//! aya has one too. This one tells an empty ring from one whose next record is still being written, which is what
//! sorting by time needs to know, and gives room back once for many records.
#![expect(unsafe_code, reason = "memory that is shared with the kernel")]

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::{Arc, atomic::Ordering},
};

use nix::unistd::{SysconfVar, sysconf};

use super::gauge::Room;
use crate::bpf::mapping::Mapping;

/// In a record's length: it is still being written (`BPF_RINGBUF_BUSY_BIT`, include/uapi/linux/bpf.h).
const BUSY: u32 = 1 << 31;
/// In a record's length: it is to be skipped (`BPF_RINGBUF_DISCARD_BIT`).
const DISCARD: u32 = 1 << 30;
/// Length of a record's header (`BPF_RINGBUF_HDR_SZ`).
const HEADER: usize = 8;

/// Why there were no more records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pause {
    /// All that had been reserved were read.
    Empty,
    /// The next one is still being written.
    Busy,
    /// As many bytes were read as were asked for.
    Enough,
}

/// The records of a ring buffer.
pub struct Records {
    map: OwnedFd,
    /// The page with our position, and the pages with the kernel's and the data, which are mapped twice in a row so
    /// that each record is in one piece.
    ours: Arc<Mapping>,
    theirs: Arc<Mapping>,
    page: usize,
    size: usize,
}

impl Records {
    /// Maps the ring, which has `size` bytes.
    ///
    /// # Errors
    ///
    /// When it cannot be mapped.
    pub fn new(map: OwnedFd, size: usize) -> io::Result<Self> {
        let page = sysconf(SysconfVar::PAGE_SIZE)?.map_or(4096, |size| size as usize);
        let ours = Arc::new(Mapping::new(&map, 0, page, true)?);
        let theirs = Arc::new(Mapping::new(&map, page, page + 2 * size, false)?);
        Ok(Self { map, ours, theirs, page, size })
    }

    /// Hands out records until there is none or `enough` bytes were read, and gives their room back.
    ///
    /// # Errors
    ///
    /// When a record is longer than the ring.
    pub fn read(&mut self, enough: usize, mut take: impl FnMut(&[u8])) -> io::Result<Pause> {
        let (ours, theirs) = (self.ours.u64(0), self.theirs.u64(0));
        let start = ours.load(Ordering::Relaxed);
        // What is reserved later is newer than any clock that was read before.
        let end = theirs.load(Ordering::Acquire);
        let mut position = start;
        let pause = loop {
            if position >= end {
                break Pause::Empty;
            }
            if position - start >= enough as u64 {
                break Pause::Enough;
            }
            let at = self.page + position as usize % self.size;
            let word = self.theirs.u32(at).load(Ordering::Acquire);
            if word & BUSY != 0 {
                break Pause::Busy;
            }
            let len = (word & !DISCARD) as usize;
            if len > self.size {
                return Err(io::Error::other("the BPF ring buffer is broken"));
            }
            if word & DISCARD == 0 {
                // SAFETY: a record that is not busy is ours until its room is given back, below.
                take(unsafe { self.theirs.bytes(at + HEADER..at + HEADER + len) });
            }
            position += (HEADER + len).next_multiple_of(8) as u64;
        };
        ours.store(position, Ordering::Release);
        Ok(pause)
    }

    /// Bytes in use.
    pub fn used(&self) -> usize {
        let ours = self.ours.u64(0).load(Ordering::Relaxed);
        self.theirs.u64(0).load(Ordering::Relaxed).saturating_sub(ours) as usize
    }

    /// Where to see how full it is.
    pub fn room(&self) -> Room {
        Room::Buffer { ours: Arc::clone(&self.ours), theirs: Arc::clone(&self.theirs), size: self.size }
    }

    /// Size of the ring in bytes.
    pub fn size(&self) -> usize {
        self.size
    }
}

impl AsFd for Records {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.map.as_fd()
    }
}
