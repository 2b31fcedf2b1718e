//! The reader's end of the BPF ring buffer.

use std::os::fd::{AsFd, BorrowedFd};

use aya::maps::{MapData, RingBuf};

/// Finished pcapng blocks, in the order in which the kernel side reserved them.
pub struct Ring(RingBuf<MapData>);

impl Ring {
    pub(super) fn new(ring: RingBuf<MapData>) -> Self {
        Self(ring)
    }

    /// Hands the oldest record to `take` and gives its room back, or returns `None` when the ring is empty.
    ///
    /// The record is as large as its size class; the block at its start tells its own length.
    pub fn next<T>(&mut self, take: impl FnOnce(&[u8]) -> T) -> Option<T> {
        self.0.next().map(|record| take(&record))
    }
}

impl AsFd for Ring {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
