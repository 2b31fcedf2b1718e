//! The regions: memory that the reader has mapped, one region a CPU at a time, and no lock. Their protocol, and why it
//! is safe, is in [`sniff_common::regions`].

use core::{mem::MaybeUninit, ptr};

use aya_ebpf::{
    bindings::{BPF_F_MMAPABLE, BPF_RB_FORCE_WAKEUP},
    macros::map,
    maps::{Array, Stack},
};
use sniff_common::regions::{self, Cpu, CpuWord, Header, Memory, REGION_BYTES, ROOMS, Word};

use super::{Block, Lost, Ring, SNIFF_RING, below, this_cpu, wake_is_due};
use crate::{atomic, verifier::with_sound_bounds};

/// A region: a [`Header`] and blocks.
#[repr(C, align(64))]
struct Region(MaybeUninit<[u8; REGION_BYTES]>);

/// The loader sets how many.
#[map]
static SNIFF_REGIONS: Array<Region> = Array::with_max_entries(1, BPF_F_MMAPABLE);

/// The free regions.
#[map]
static SNIFF_FREE: Stack<u32> = Stack::with_max_entries(1, 0);

/// A CPU's own region of the map.
pub struct Regions;

impl Ring for Regions {
    const EXCLUSIVE: bool = true;

    #[inline(always)]
    fn put(block: &impl Block) -> Result<(), Lost> {
        let cpu = this_cpu().ok_or(Lost::RingFull)?;
        work_on(cpu);
        let result = append(cpu, block);
        work_on(cpu);
        result
    }
}

/// Makes the sequence odd, or even again. Volatile, so that the compiler keeps it where it is.
#[inline(always)]
fn work_on(cpu: &mut Cpu) {
    // SAFETY: a valid pointer.
    unsafe { ptr::write_volatile(&raw mut cpu.sequence, cpu.sequence + 1) };
}

#[inline(always)]
fn append(cpu: &mut Cpu, block: &impl Block) -> Result<(), Lost> {
    let bound = block.bound();
    let first = Shared(&raw mut cpu.first);
    let Cpu { current, offset, taken, .. } = cpu;
    let region = regions::region_with_room(&Maps, current, offset, taken, first, room_for(bound))
        .ok_or(Lost::RingFull)?;
    macro_rules! smallest_room_of {
        ($($i:literal)*) => {
            $(if bound <= ROOMS[$i] as u64 {
                return write::<{ ROOMS[$i] }, { below(&ROOMS, $i) }>(cpu, region, block);
            })*
        };
    }
    smallest_room_of!(0 1 2 3);
    // Not reached: the last room takes the largest snaplen.
    Err(Lost::RingFull)
}

/// The smallest of [`ROOMS`] that takes a block.
#[inline(always)]
fn room_for(bound: u64) -> u64 {
    let mut room = ROOMS[ROOMS.len() - 1] as u64;
    for smaller in ROOMS.iter().rev() {
        if bound <= *smaller as u64 {
            room = *smaller as u64;
        }
    }
    room
}

/// Writes a block that fits into the room `N` behind what is in the region, and hands it over.
#[inline(always)]
fn write<const N: usize, const BELOW: usize>(
    cpu: &mut Cpu,
    region: RegionPointer,
    block: &impl Block,
) -> Result<(), Lost> {
    let offset = with_sound_bounds(cpu.offset);
    // Known already, but not to the verifier.
    if offset > (REGION_BYTES - N) as u64 {
        return Err(Lost::RingFull);
    }
    // SAFETY: N bytes are left behind the offset, and the caller knows the block's bound.
    let len = unsafe { block.write::<N, BELOW>(region.0.cast::<u8>().add(offset as usize)) }?;
    regions::publish(region, &mut cpu.offset, len);
    if wake_is_due(cpu, len) {
        // Full of wake-ups that were not heard yet is as good.
        let _ = SNIFF_RING.output::<u64>(0, u64::from(BPF_RB_FORCE_WAKEUP));
    }
    Ok(())
}

/// The maps, as the protocol asks for them.
struct Maps;

impl Memory for Maps {
    type Word = Shared;
    type Region = RegionPointer;

    #[inline(always)]
    fn region(&self, index: u32) -> Option<RegionPointer> {
        SNIFF_REGIONS.get_ptr_mut(index).map(RegionPointer)
    }

    #[inline(always)]
    fn take(&self) -> Option<u32> {
        SNIFF_FREE.pop().ok().flatten()
    }
}

/// A region in its map.
#[derive(Clone, Copy)]
struct RegionPointer(*mut Region);

impl regions::Region for RegionPointer {
    type Word = Shared;

    #[inline(always)]
    fn used(self) -> Shared {
        // SAFETY: a region begins with its header.
        Shared(unsafe { &raw mut (*self.0.cast::<Header>()).len })
    }

    #[inline(always)]
    fn next(self) -> Shared {
        // SAFETY: as above.
        Shared(unsafe { &raw mut (*self.0.cast::<Header>()).next })
    }
}

/// A word in the mapped memory.
struct Shared(*mut u64);

impl Word for Shared {
    #[inline(always)]
    fn load(&self) -> u64 {
        // SAFETY: made from valid pointers only. What must come after is ordered by the exchanges.
        unsafe { ptr::read_volatile(self.0) }
    }
}

impl CpuWord for Shared {
    #[inline(always)]
    fn publish(&self, value: u64) {
        // SAFETY: as above.
        unsafe { atomic::exchange(self.0, value) };
    }
}
