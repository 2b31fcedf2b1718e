//! The BPF ring buffer: right on every kernel, and one for all CPUs.

use core::mem::MaybeUninit;

use aya_ebpf::{
    bindings::{BPF_RB_FORCE_WAKEUP, BPF_RB_NO_WAKEUP},
    maps::ring_buf::RingBufEntry,
};
use sniff_common::RECORD_CLASSES;

use super::{Block, Lost, Ring, SNIFF_RING, below, this_cpu, wake_is_due};

/// A record of one size class, reserved and still to be written. The alignment is what the ring buffer gives.
#[repr(C, align(8))]
struct Record<const N: usize>(MaybeUninit<[u8; N]>);

/// Records of constant classes: `bpf_ringbuf_reserve` takes no other sizes.
pub struct Buffer;

impl Ring for Buffer {
    // Under PREEMPT_RT another classifier may run on this CPU in between.
    const EXCLUSIVE: bool = false;

    #[inline(always)]
    fn put(block: &impl Block) -> Result<(), Lost> {
        macro_rules! smallest_class_of {
            ($($i:literal)*) => {
                $(if block.bound() <= RECORD_CLASSES[$i] as u64 {
                    return record::<{ RECORD_CLASSES[$i] }, { below(&RECORD_CLASSES, $i) }>(block);
                })*
            };
        }
        smallest_class_of!(0 1 2 3 4 5 6 7 8 9 10 11);
        // Not reached: the last class takes the largest snaplen.
        Err(Lost::RingFull)
    }
}

#[inline(always)]
fn record<const N: usize, const BELOW: usize>(block: &impl Block) -> Result<(), Lost> {
    let Some(mut record) = SNIFF_RING.reserve::<Record<N>>(0) else {
        return Err(Lost::RingFull);
    };
    let to: *mut Record<N> = record.as_mut_ptr();
    // SAFETY: the record has N bytes, and the block was asked for its bound.
    match unsafe { block.write::<N, BELOW>(to.cast()) } {
        Ok(_) => {
            submit(record);
            Ok(())
        }
        Err(unreadable) => {
            // The reader skips it.
            record.discard(u64::from(BPF_RB_NO_WAKEUP));
            Err(unreadable.into())
        }
    }
}

#[inline(always)]
fn submit<const N: usize>(record: RingBufEntry<Record<N>>) {
    let due = this_cpu().is_none_or(|cpu| wake_is_due(cpu, N as u64));
    record.submit(u64::from(if due { BPF_RB_FORCE_WAKEUP } else { BPF_RB_NO_WAKEUP }));
}
