//! What an output has by now.

use std::sync::atomic::{AtomicU64, Ordering};

/// What was written or printed so far, of all interfaces; others may look at it meanwhile.
#[derive(Debug, Default)]
#[repr(C)]
pub struct Written {
    packets: AtomicU64,
    bytes: AtomicU64,
    left_out: AtomicU64,
}

impl Written {
    /// Packets.
    pub fn packets(&self) -> u64 {
        self.packets.load(Ordering::Relaxed)
    }

    /// Bytes of blocks, before they are compressed or made into lines.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Packets that are left out, since another copy of each is there.
    pub fn left_out(&self) -> u64 {
        self.left_out.load(Ordering::Relaxed)
    }

    /// Notes that there are more of those.
    pub fn leave_out(&self, packets: u64) {
        self.left_out.fetch_add(packets, Ordering::Relaxed);
    }

    /// Notes that there are more.
    pub fn add(&self, packets: u64, bytes: usize) {
        self.packets.fetch_add(packets, Ordering::Relaxed);
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }
}
