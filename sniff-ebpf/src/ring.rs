//! The BPF ring buffer that takes the records, and when to wake its reader.
//!
//! The reader is not woken for each packet, which would cost several times the capture itself, but each time a
//! CPU has written [`SNIFF_WAKE_BYTES`]; what stays below that it finds by itself at its next time-out.

use core::mem::MaybeUninit;

use aya_ebpf::{
    bindings::{BPF_RB_FORCE_WAKEUP, BPF_RB_NO_WAKEUP},
    macros::map,
    maps::{PerCpuArray, RingBuf, ring_buf::RingBufEntry},
};

/// The records; the loader sets the size.
#[map]
static SNIFF_RING: RingBuf = RingBuf::with_byte_size(1 << 20, 0);

/// Bytes that this CPU has written since it last woke the reader.
#[map]
static SNIFF_UNWOKEN: PerCpuArray<u64> = PerCpuArray::with_max_entries(1, 0);

/// How many bytes a CPU writes between two wake-ups; the loader sets it from the ring's size.
#[unsafe(no_mangle)]
static SNIFF_WAKE_BYTES: u64 = 1 << 20;

/// A record of one size class, reserved and still to be written. The alignment is what the ring buffer gives.
#[repr(C, align(8))]
pub struct Record<const N: usize>(MaybeUninit<[u8; N]>);

/// Reserves a record, or nothing when the ring has no room.
#[inline(always)]
pub fn reserve<const N: usize>() -> Option<RingBufEntry<Record<N>>> {
    SNIFF_RING.reserve::<Record<N>>(0)
}

/// Hands a written record to the reader.
#[inline(always)]
pub fn submit<const N: usize>(record: RingBufEntry<Record<N>>) {
    let flags = if wake_is_due(N as u64) { BPF_RB_FORCE_WAKEUP } else { BPF_RB_NO_WAKEUP };
    record.submit(u64::from(flags));
}

/// Gives a record back unused: the reader skips it.
#[inline(always)]
pub fn discard<const N: usize>(record: RingBufEntry<Record<N>>) {
    record.discard(u64::from(BPF_RB_NO_WAKEUP));
}

#[inline(always)]
fn wake_is_due(bytes: u64) -> bool {
    let Some(unwoken) = SNIFF_UNWOKEN.get_ptr_mut(0) else {
        return true;
    };
    // SAFETY: a valid pointer from the map, this CPU's own; the loader's value is read as it is at run time.
    unsafe {
        *unwoken += bytes;
        let due = *unwoken >= core::ptr::read_volatile(&raw const SNIFF_WAKE_BYTES);
        if due {
            *unwoken = 0;
        }
        due
    }
}
