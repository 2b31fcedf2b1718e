//! The reader's end of the ring: finished pcapng blocks, handed out in runs.
//!
//! Two steps: [`Ring::look`] sees what is there, [`Ring::take`] hands it out. Between the two, whoever reads can find
//! out about the interfaces that the blocks belong to: their descriptions were sent before their packets came.
//!
//! - `regions`: one region a CPU at a time, mapped; nothing is copied.
//! - `recorder`: the same where they are written over.
//! - `buffer`: the BPF ring buffer.
//! - `records`: the BPF ring buffer's own protocol.
//! - `gauge`: what anybody can see of it.

mod buffer;
pub(super) mod gauge;
mod recorder;
pub(super) mod records;
mod regions;

use std::{
    io, mem,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::{
        Arc,
        atomic::{Ordering, fence},
    },
};

use anyhow::{Context as _, Result};
use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use sniff_common::regions::Cpu;

use self::{buffer::Buffer, gauge::Room, recorder::Owned, records::Records, regions::Regions};
pub use self::{
    gauge::Gauge,
    recorder::{Held, Place, Wanted},
    regions::GiveBack,
};
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
    /// Regions that are written over: `--record`
    #[value(skip)]
    Recorder,
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
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
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

/// A ring as its reader is told of it, which may be another process: with it go the descriptors of its maps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shape {
    /// Bytes of the BPF ring buffer.
    pub buffer_bytes: u32,
    /// How many regions there are; none, where the blocks are in the BPF ring buffer.
    pub regions: Option<u32>,
    /// Whether they are written over.
    pub records: bool,
    /// How many CPUs there may be.
    pub cpus: u32,
}

/// The descriptors of a ring's maps.
#[derive(Debug)]
pub struct Maps {
    /// The BPF ring buffer.
    pub buffer: OwnedFd,
    /// A [`Cpu`] for each possible CPU.
    pub cpus: OwnedFd,
    /// The regions, if there are any.
    pub regions: OwnedFd,
}

impl Shape {
    /// Maps where each CPU stands.
    pub(super) fn map_cpus(&self, maps: &Maps, writable: bool) -> io::Result<Mapping> {
        Mapping::new(&maps.cpus, 0, self.cpus as usize * size_of::<Cpu>(), writable)
    }
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
    /// What a recorder has held.
    held: Option<Held>,
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
enum Memory {
    Regions(Regions),
    Buffer(Buffer),
}

impl Ring {
    /// The reader's end of a ring; there is only one. `clock` is what the classifiers stamp with, and regions that were
    /// read go to `give_back`.
    ///
    /// # Errors
    ///
    /// When it cannot be mapped.
    pub fn open(
        shape: Shape,
        maps: Maps,
        sorting: Sorting,
        clock: Clock,
        give_back: GiveBack,
    ) -> Result<Self> {
        let open = || {
            let (seen, told) = (shape.map_cpus(&maps, false)?, shape.map_cpus(&maps, true)?);
            let records = Records::new(maps.buffer, shape.buffer_bytes as usize)?;
            let (memory, room, held) = match shape.regions {
                Some(count) => {
                    let cpus = Mapping::new(&maps.cpus, 0, seen.len(), false)?;
                    let regions = Regions::new(maps.regions, count as usize, cpus, records, give_back);
                    let room = if shape.records { Room::Recorder } else { regions.room() };
                    let held = shape.records.then(Held::default);
                    (Memory::Regions(regions), room, held)
                }
                None => {
                    let buffer = Buffer::new(records);
                    let room = buffer.room();
                    (Memory::Buffer(buffer), room, None)
                }
            };
            let gauge = Arc::new(Gauge::new(seen, room));
            let horizon = Horizon::default();
            Ok::<_, io::Error>(Self { memory, cpus: told, gauge, sorting, clock, horizon, held })
        };
        open().context("cannot map the ring")
    }

    /// What can be seen of it from elsewhere.
    pub fn gauge(&self) -> Arc<Gauge> {
        Arc::clone(&self.gauge)
    }

    /// Packets that were lost so far.
    pub fn lost(&self) -> u64 {
        self.gauge.lost()
    }

    /// Packets that were left out so far behind the cutoff of their flow.
    pub fn cut_off(&self) -> u64 {
        self.gauge.cut_off()
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
            Memory::Regions(regions) => match (&mut self.held, until) {
                (None, _) => (regions.look()?, false),
                // What is held when it is wanted is not known before.
                (Some(_), Until::Settled) => (false, false),
                (Some(held), Until::End) => {
                    regions.look_at_new(held, Owned::All, u64::MAX)?;
                    (true, false)
                }
            },
            Memory::Buffer(buffer) => buffer.look(self.sorting)?,
        };
        self.horizon = self.horizon.of_look(until, self.sorting, settled, now);
        Ok(more)
    }

    /// Sees what a recorder holds as of now, whose `filled` regions were taken from its CPUs, the oldest first. They are given back when they
    /// are handed out. Returns how much of what was wanted is not held any more; `None` for another ring.
    ///
    /// # Errors
    ///
    /// When the ring does not follow its protocol, or the clock fails.
    pub fn look_at_held(&mut self, wanted: Wanted<'_>, filled: &[u32]) -> Result<Option<Held>> {
        let complete = self.clock.now()?;
        let (Memory::Regions(regions), Some(held)) = (&mut self.memory, &mut self.held) else {
            return Ok(None);
        };
        regions.settle();
        self.horizon = Horizon { complete, wanted: u64::MAX };
        let owned = Owned::These(filled);
        Ok(Some(match wanted {
            Wanted::From(place) => regions.look_from(place, owned, complete)?,
            Wanted::New => {
                regions.look_at_new(held, owned, complete)?;
                *held
            }
        }))
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

    /// What a recorder has held; none of another ring.
    pub fn held(&self) -> Option<Held> {
        self.held
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
