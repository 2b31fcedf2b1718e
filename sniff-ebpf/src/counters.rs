//! The counters of each classifier, one set a CPU; and one for all CPUs, of the packets that an interface has lost.

use core::ptr;

use aya_ebpf::{
    macros::map,
    maps::{Array, PerCpuArray},
};
use sniff_common::Counters;

use crate::atomic;

/// One entry a direction. The loader makes each interface such a map of its own, and puts it into its programs.
#[map]
static SNIFF_COUNTERS: PerCpuArray<Counters> = PerCpuArray::with_max_entries(2, 0);

/// One entry, of which the same is true.
#[map]
static SNIFF_LOST: Array<u64> = Array::with_max_entries(1, 0);

/// The counters of a direction on this CPU, or none when the index is out of bounds.
#[inline(always)]
pub fn of(index: u32) -> Option<&'static mut Counters> {
    let counters = SNIFF_COUNTERS.get_ptr_mut(index)?;
    // SAFETY: the map's value lives as long as the program; what may happen to it meanwhile is what `add` is for.
    Some(unsafe { &mut *counters })
}

/// The packets that an interface has lost, on all CPUs and in both directions. Written only when one is lost, so reading
/// it costs no CPU its cache line until then.
#[derive(Clone, Copy)]
pub struct LostPackets(*mut u64);

impl LostPackets {
    /// Those of the program's interface; always there, but not to the verifier.
    #[inline(always)]
    pub fn of_interface() -> Option<Self> {
        SNIFF_LOST.get_ptr_mut(0).map(Self)
    }

    /// How many so far.
    #[inline(always)]
    pub fn count(self) -> u64 {
        // SAFETY: the map's value lives as long as the program; others add to it at any time.
        unsafe { ptr::read_volatile(self.0) }
    }

    /// One more.
    #[inline(always)]
    pub fn add_one(self) {
        // SAFETY: a valid, aligned pointer.
        unsafe { atomic::add(self.0, 1) };
    }
}

/// Adds to a counter of this CPU. Where another classifier may run on the same CPU in between, nothing is `exclusive`,
/// and the addition must be atomic.
#[inline(always)]
pub fn add(exclusive: bool, counter: &mut u64, value: u64) {
    if exclusive {
        *counter = counter.wrapping_add(value);
    } else {
        // SAFETY: a valid, aligned pointer.
        unsafe { atomic::add(counter, value) };
    }
}
