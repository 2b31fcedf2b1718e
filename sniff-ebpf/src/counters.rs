//! The counters of each classifier, one set a CPU.
//!
//! A classifier runs with bottom halves off, so nothing else on its CPU touches the entry meanwhile, and plain
//! additions are exact.

use aya_ebpf::{macros::map, maps::PerCpuArray};
use sniff_common::Counters;

/// Two entries an interface; the loader sets the size.
#[map]
static SNIFF_COUNTERS: PerCpuArray<Counters> = PerCpuArray::with_max_entries(2, 0);

/// The counters of the classifier with this index on this CPU, or none when the index is out of bounds.
#[inline(always)]
pub fn of(index: u32) -> Option<&'static mut Counters> {
    let counters = SNIFF_COUNTERS.get_ptr_mut(index)?;
    // SAFETY: the map's value lives as long as the program, and this CPU's copy is ours while we run.
    Some(unsafe { &mut *counters })
}
