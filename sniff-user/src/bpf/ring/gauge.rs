//! What can be seen of a ring at any time and from any thread, without asking the kernel: also while its reader waits for
//! an output.

use std::{
    mem,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use sniff_common::{
    recorder,
    regions::{Cpu, REGION_BYTES},
};

use crate::bpf::mapping::Mapping;

/// The losses and the fullness of a ring.
pub struct Gauge {
    /// A [`Cpu`] for each possible CPU.
    cpus: Mapping,
    room: Room,
}

/// Where to see how full the ring is.
pub(in crate::bpf) enum Room {
    Regions {
        /// How often the reader has given a region back.
        given_back: Arc<AtomicU64>,
        count: usize,
    },
    /// One that is written over: what is in it does not wait for anybody.
    Recorder,
    Buffer {
        ours: Arc<Mapping>,
        theirs: Arc<Mapping>,
        size: usize,
    },
}

impl Gauge {
    pub(in crate::bpf) fn new(cpus: Mapping, room: Room) -> Self {
        Self { cpus, room }
    }

    /// Packets that were lost so far, on all CPUs.
    pub fn lost(&self) -> u64 {
        words(&self.cpus, mem::offset_of!(Cpu, lost)).sum()
    }

    /// Packets that were left out so far behind the cutoff of their flow, on all CPUs.
    pub fn cut_off(&self) -> u64 {
        words(&self.cpus, mem::offset_of!(Cpu, cut_off)).sum()
    }

    /// Bytes that a recorder's CPUs have written so far, with what their regions had left.
    pub fn recorded(&self) -> u64 {
        let words = |offset| words(&self.cpus, offset);
        let taken = words(mem::offset_of!(Cpu, taken)).filter(|&taken| taken > 0);
        let full: u64 = taken.map(|taken| (taken - 1) * REGION_BYTES as u64).sum();
        full + words(mem::offset_of!(Cpu, offset)).map(recorder::bytes).sum::<u64>()
    }

    /// How much of the room waits for the reader, 0 to 1.
    pub fn fullness(&self) -> f64 {
        match &self.room {
            Room::Regions { given_back, count } => {
                let taken = words(&self.cpus, mem::offset_of!(Cpu, taken));
                // The last one that a CPU has taken is its own, to be written to.
                let full: u64 = taken.clone().map(|taken| taken.saturating_sub(1)).sum();
                let owners = taken.filter(|&taken| taken > 0).count();
                let waiting = full.saturating_sub(given_back.load(Ordering::Relaxed));
                waiting as f64 / count.saturating_sub(owners).max(1) as f64
            }
            Room::Recorder => 0.0,
            Room::Buffer { ours, theirs, size } => {
                let read = ours.u64(0).load(Ordering::Relaxed);
                theirs.u64(0).load(Ordering::Relaxed).saturating_sub(read) as f64 / *size as f64
            }
        }
    }
}

/// The word at this offset of each [`Cpu`].
fn words(cpus: &Mapping, offset: usize) -> impl Iterator<Item = u64> + Clone {
    (0..cpus.len()).step_by(size_of::<Cpu>()).map(move |cpu| cpus.u64(cpu + offset).load(Ordering::Acquire))
}
