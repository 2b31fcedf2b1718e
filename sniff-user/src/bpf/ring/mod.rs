//! The reader's end of the ring: finished pcapng blocks, handed out in runs.
//!
//! Two steps: [`Ring::look`] sees what is there, [`Ring::take`] hands it out. Between the two, whoever reads can find
//! out about the interfaces that the blocks belong to: their descriptions were sent before their packets came.
//!
//! - `regions`: one region a CPU at a time, mapped; nothing is copied.
//! - `buffer`: the BPF ring buffer.
//! - `records`: the BPF ring buffer's own protocol.
//! - `gauge`: what anybody can see of it.

pub(super) mod buffer;
pub(super) mod gauge;
pub(super) mod records;
pub(super) mod regions;

use std::{
    io, mem,
    os::fd::{AsFd, BorrowedFd},
    sync::{
        Arc,
        atomic::{Ordering, fence},
    },
};

use anyhow::Result;
use clap::ValueEnum;
use sniff_common::regions::Cpu;

pub use self::gauge::Gauge;
use self::{buffer::Buffer, regions::Regions};
use super::mapping::Mapping;
use crate::system::clock::Clock;

/// Which ring to use: `--ring`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Kind {
    /// Regions where the kernel can have them
    #[default]
    Auto,
    /// Memory of its own for each CPU, mapped (Linux 5.12, not PREEMPT_RT)
    Regions,
    /// The BPF ring buffer
    Ringbuf,
}

/// How much a CPU writes before it wakes the reader, in a ring large enough.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Batch {
    /// A packet.
    Packet,
    /// For a pipe: so little that the processor's cache has most of it when it is copied.
    Small,
    /// For a file, where fewer and larger writes are what counts.
    Large,
}

impl Batch {
    /// In bytes.
    pub const fn bytes(self) -> u64 {
        match self {
            Self::Packet => 1,
            Self::Small => 256 << 10,
            Self::Large => 1 << 20,
        }
    }
}

/// In which order blocks are handed out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sorting {
    /// By their times, over all CPUs.
    Time,
    /// As they lie in the ring, CPU by CPU.
    Unsorted,
}

/// How far to hand out blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Until {
    /// What nothing older can follow any more. What is newer stays until the next time.
    Settled,
    /// Everything: the classifiers are gone.
    End,
}

/// The reader's end.
pub struct Ring {
    memory: Memory,
    /// Where each CPU is told that we sleep.
    cpus: Mapping,
    gauge: Arc<Gauge>,
    sorting: Sorting,
    /// That of the blocks.
    clock: Clock,
    horizon: Horizon,
}

/// How far in time what was seen goes, in nanoseconds since the epoch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Horizon {
    /// Blocks before this time are all there.
    complete: u64,
    /// Blocks before this time are handed out.
    wanted: u64,
}

impl Horizon {
    /// That of a look at the time `now`, which was all that had begun before if it `is_settled`.
    fn of_look(self, until: Until, sorting: Sorting, is_settled: bool, now: u64) -> Self {
        let complete = match until {
            Until::End => now,
            Until::Settled if is_settled => now - sniff_common::regions::SETTLE_NS,
            Until::Settled => self.complete,
        };
        let wanted = match (until, sorting) {
            (Until::End, _) | (_, Sorting::Unsorted) => u64::MAX,
            (Until::Settled, Sorting::Time) => complete,
        };
        Self { complete, wanted }
    }
}

/// Where the blocks are.
pub(super) enum Memory {
    Regions(Regions),
    Buffer(Buffer),
}

impl Ring {
    /// `cpus` is an entry for each possible CPU.
    pub(super) fn new(memory: Memory, cpus: Mapping, gauge: Gauge, sorting: Sorting, clock: Clock) -> Self {
        Self { memory, cpus, gauge: Arc::new(gauge), sorting, clock, horizon: Horizon::default() }
    }

    /// What can be seen of it from elsewhere.
    pub fn gauge(&self) -> Arc<Gauge> {
        Arc::clone(&self.gauge)
    }

    /// Packets that were lost so far.
    pub fn lost(&self) -> u64 {
        self.gauge.lost()
    }

    /// Has the next packet on each CPU wake us. What came before that is found by another look.
    pub fn sleep(&self) {
        for entry in (0..self.cpus.len()).step_by(size_of::<Cpu>()) {
            self.cpus.u64(entry + mem::offset_of!(Cpu, asleep)).store(1, Ordering::Relaxed);
        }
        // A CPU publishes, as a full barrier, and then reads this word; we write it, and then look at what is published.
        fence(Ordering::SeqCst);
    }

    /// Sees what is there. Returns whether that was not all.
    ///
    /// # Errors
    ///
    /// When the ring does not follow its protocol, or the clock fails.
    pub fn look(&mut self, until: Until) -> Result<bool> {
        let now = self.clock.now()?;
        let (settled, more) = match &mut self.memory {
            Memory::Regions(regions) => (regions.look()?, false),
            Memory::Buffer(buffer) => buffer.look(self.sorting)?,
        };
        self.horizon = self.horizon.of_look(until, self.sorting, settled, now);
        Ok(more)
    }

    /// Hands out what was seen, in runs of whole blocks that may be changed, and gives its room back. Returns whether
    /// something is held back.
    ///
    /// # Errors
    ///
    /// That of `deliver`, which has dealt with its run all the same; or when a block is broken.
    pub fn take(&mut self, deliver: impl FnMut(&mut [u8]) -> io::Result<()>) -> io::Result<bool> {
        match &mut self.memory {
            Memory::Regions(regions) => regions.take(self.sorting, self.horizon.wanted, deliver),
            Memory::Buffer(buffer) => buffer.take(self.horizon.wanted, deliver),
        }
    }

    /// What was taken is all that is older than this, in nanoseconds since the epoch, by the clock of the blocks.
    pub fn complete_until(&self) -> u64 {
        self.horizon.complete
    }

    /// The largest part of the ring that was ever in use, 0 to 1.
    pub fn fullest(&self) -> f64 {
        match &self.memory {
            Memory::Regions(regions) => regions.fullest(),
            Memory::Buffer(buffer) => buffer.fullest(),
        }
    }
}

impl AsFd for Ring {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.memory {
            Memory::Regions(regions) => regions.as_fd(),
            Memory::Buffer(buffer) => buffer.as_fd(),
        }
    }
}

#[cfg(test)]
mod tests {
    use sniff_common::regions::SETTLE_NS;

    use super::*;

    #[test]
    fn what_is_complete_is_a_time_of_the_clock_whatever_is_handed_out() {
        let now = 10 * SETTLE_NS;
        let before = Horizon { complete: SETTLE_NS, wanted: SETTLE_NS };
        let settled = now - SETTLE_NS;
        for (until, sorting, is_settled, complete, wanted) in [
            (Until::Settled, Sorting::Time, true, settled, settled),
            (Until::Settled, Sorting::Time, false, SETTLE_NS, SETTLE_NS),
            (Until::Settled, Sorting::Unsorted, true, settled, u64::MAX),
            (Until::Settled, Sorting::Unsorted, false, SETTLE_NS, u64::MAX),
            (Until::End, Sorting::Time, false, now, u64::MAX),
            (Until::End, Sorting::Unsorted, true, now, u64::MAX),
        ] {
            let expected = Horizon { complete, wanted };
            assert_eq!(before.of_look(until, sorting, is_settled, now), expected, "{until:?} {sorting:?}");
        }
    }
}
