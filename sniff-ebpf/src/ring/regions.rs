//! The regions: memory that the reader has mapped, one region a CPU at a time, and no lock. Their protocol, and why it
//! is safe, is in [`sniff_common::regions`]; that of a recorder, which writes them over, in [`sniff_common::recorder`].

use core::{mem::MaybeUninit, ptr};

use aya_ebpf::{
    bindings::{BPF_F_MMAPABLE, BPF_RB_FORCE_WAKEUP},
    helpers::generated::bpf_get_smp_processor_id,
    macros::map,
    maps::{Array, Queue, Stack},
};
use sniff_common::{
    recorder,
    regions::{self, Cpu, CpuWord, Header, Memory, REGION_BYTES, ROOMS, Word},
};

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

/// The full regions of a recorder that a reader has read, in that order: what is in them is older than what others hold.
#[map]
static SNIFF_READ: Queue<u32> = Queue::with_max_entries(1, 0);

/// Its others, in the order in which they were left.
#[map]
static SNIFF_LEFT: Queue<u32> = Queue::with_max_entries(1, 0);

/// A CPU's own region of the map.
pub struct Regions;

impl Ring for Regions {
    const EXCLUSIVE: bool = true;

    #[inline(always)]
    fn put(block: &impl Block) -> Result<(), Lost> {
        work(|cpu| append(cpu, block))
    }
}

/// Has this CPU's state changed, which the sequence tells meanwhile.
#[inline(always)]
fn work(change: impl FnOnce(&mut Cpu) -> Result<(), Lost>) -> Result<(), Lost> {
    let cpu = this_cpu().ok_or(Lost::RingFull)?;
    work_on(cpu);
    let result = change(cpu);
    work_on(cpu);
    result
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
    write(cpu, region, bound, block, |cpu, len| {
        regions::publish(region, &mut cpu.offset, len);
        if wake_is_due(cpu, len) {
            // Full of wake-ups that were not heard yet is as good.
            let _ = SNIFF_RING.output::<u64>(0, u64::from(BPF_RB_FORCE_WAKEUP));
        }
    })
}

/// Regions that are written over.
pub struct Recorder;

impl Ring for Recorder {
    const EXCLUSIVE: bool = true;

    #[inline(always)]
    fn put(block: &impl Block) -> Result<(), Lost> {
        work(|cpu| record(cpu, block))
    }
}

#[inline(always)]
fn record(cpu: &mut Cpu, block: &impl Block) -> Result<(), Lost> {
    // SAFETY: a helper without arguments.
    let number = unsafe { bpf_get_smp_processor_id() };
    let bound = block.bound();
    let Cpu { current, offset, taken, .. } = cpu;
    let region = recorder::region_with_room(&Recorded, number, current, offset, taken, room_for(bound))
        .ok_or(Lost::RingFull)?;
    write(cpu, region, bound, block, |cpu, len| recorder::publish(region, &mut cpu.offset, len))
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

/// Writes a block of at most `bound` bytes behind what is in the region, and has it handed over, whose length is given.
#[inline(always)]
fn write(
    cpu: &mut Cpu,
    region: RegionPointer,
    bound: u64,
    block: &impl Block,
    hand_over: impl FnOnce(&mut Cpu, u64),
) -> Result<(), Lost> {
    macro_rules! smallest_room_of {
        ($($i:literal)*) => {
            $(if bound <= ROOMS[$i] as u64 {
                let len = write_into::<{ ROOMS[$i] }, { below(&ROOMS, $i) }>(cpu.offset, region, block)?;
                hand_over(cpu, len);
                return Ok(());
            })*
        };
    }
    smallest_room_of!(0 1 2 3);
    // Not reached: the last room takes the largest snaplen.
    Err(Lost::RingFull)
}

/// Writes a block that fits into the room `N`; returns its length.
#[inline(always)]
fn write_into<const N: usize, const BELOW: usize>(
    offset: u64,
    region: RegionPointer,
    block: &impl Block,
) -> Result<u64, Lost> {
    let offset = with_sound_bounds(offset);
    // Known already, but not to the verifier.
    if offset > (REGION_BYTES - N) as u64 {
        return Err(Lost::RingFull);
    }
    // SAFETY: N bytes are left behind the offset, and the caller knows the block's bound.
    Ok(unsafe { block.write::<N, BELOW>(region.0.cast::<u8>().add(offset as usize)) }?)
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

/// The maps, as a recorder asks for them.
struct Recorded;

impl Memory for Recorded {
    type Word = Shared;
    type Region = RegionPointer;

    #[inline(always)]
    fn region(&self, index: u32) -> Option<RegionPointer> {
        Maps.region(index)
    }

    #[inline(always)]
    fn take(&self) -> Option<u32> {
        let oldest = || SNIFF_READ.pop().ok().flatten().or_else(|| SNIFF_LEFT.pop().ok().flatten());
        Maps.take().or_else(oldest)
    }
}

impl recorder::Memory for Recorded {
    #[inline(always)]
    fn leave(&self, region: u32) {
        // There is room for all. One that the kernel does not take all the same is held for ever.
        let _ = SNIFF_LEFT.push(region, 0);
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

impl recorder::Region for RegionPointer {
    #[inline(always)]
    fn tag(self) -> Shared {
        // SAFETY: as above.
        Shared(unsafe { &raw mut (*self.0.cast::<Header>()).tag })
    }

    #[inline(always)]
    fn before(self) -> Shared {
        // SAFETY: as above.
        Shared(unsafe { &raw mut (*self.0.cast::<Header>()).before })
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
