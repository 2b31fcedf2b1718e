//! The counters of each classifier, one set a CPU.

use aya_ebpf::{macros::map, maps::PerCpuArray};
use sniff_common::Counters;

use crate::atomic;

/// One entry a direction. The loader makes each interface such a map of its own, and puts it into its programs.
#[map]
static SNIFF_COUNTERS: PerCpuArray<Counters> = PerCpuArray::with_max_entries(2, 0);

/// The counters of a direction on this CPU, or none when the index is out of bounds.
#[inline(always)]
pub fn of(index: u32) -> Option<&'static mut Counters> {
    let counters = SNIFF_COUNTERS.get_ptr_mut(index)?;
    // SAFETY: the map's value lives as long as the program; what may happen to it meanwhile is what `add` is for.
    Some(unsafe { &mut *counters })
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
