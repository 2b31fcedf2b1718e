//! Where finished blocks go. There are two rings, and one classifier for each; everything else is the same for both.
//!
//! The reader is not woken for each packet, which would cost several times the capture itself, but each time a
//! CPU has written [`SNIFF_WAKE_BYTES`]; what stays below that it finds by itself at its next time-out. Only a reader
//! that found nothing for a while, and has said so, is woken by the next packet.

mod buffer;
mod regions;

use core::ptr;

use aya_ebpf::{
    bindings::BPF_F_MMAPABLE,
    macros::map,
    maps::{Array, RingBuf},
};

pub use self::{buffer::Buffer, regions::Regions};

/// How many bytes a CPU writes between two wake-ups; the loader sets it.
#[unsafe(no_mangle)]
static SNIFF_WAKE_BYTES: u64 = 1 << 20;

/// The BPF ring buffer: the records of [`Buffer`], or only the wake-ups of [`Regions`]. The loader sets the size.
#[map]
static SNIFF_RING: RingBuf = RingBuf::with_byte_size(1 << 20, 0);

/// Not 0 while the reader sleeps until it is woken.
#[map]
static SNIFF_ASLEEP: Array<u64> = Array::with_max_entries(1, BPF_F_MMAPABLE);

/// A ring that takes blocks.
pub trait Ring {
    /// Whether nothing else on this CPU can be in a classifier meanwhile. Only then are plain additions exact.
    const EXCLUSIVE: bool;

    /// Makes room for `block`, has it written there, and hands it to the reader.
    fn put(block: &impl Block) -> Result<(), Lost>;
}

/// Something that writes itself as a block.
pub trait Block {
    /// Most bytes that it can take.
    fn bound(&self) -> u64;

    /// Writes it, and returns its length in bytes, a multiple of 4.
    ///
    /// # Safety
    ///
    /// `to` points to `N` writable bytes, aligned to 4, and [`Self::bound`] is not more than `N`.
    unsafe fn write<const N: usize>(&self, to: *mut u8) -> Result<u64, Unreadable>;
}

/// The kernel would not give the packet's bytes.
pub struct Unreadable;

/// Why a packet is not in the ring.
pub enum Lost {
    /// The ring had no room.
    RingFull,
    /// The kernel would not give its bytes.
    Unreadable,
}

impl From<Unreadable> for Lost {
    #[inline(always)]
    fn from(_: Unreadable) -> Self {
        Self::Unreadable
    }
}

/// Whether the reader is to be woken, after `bytes` more. `unwoken` is this CPU's count.
#[inline(always)]
fn wake_is_due(unwoken: &mut u64, bytes: u64) -> bool {
    *unwoken += bytes;
    // SAFETY: read as it is at run time, since the loader changes it.
    let due = *unwoken >= unsafe { ptr::read_volatile(&raw const SNIFF_WAKE_BYTES) };
    if due || reader_sleeps() {
        *unwoken = 0;
        return true;
    }
    false
}

/// Whether the reader sleeps, of which it is woken now.
#[inline(always)]
fn reader_sleeps() -> bool {
    let Some(asleep) = SNIFF_ASLEEP.get_ptr_mut(0) else {
        return false;
    };
    // SAFETY: a valid pointer from the map. The reader writes it at any time; two CPUs that both wake it do no harm.
    unsafe {
        let sleeps = ptr::read_volatile(asleep) != 0;
        if sleeps {
            ptr::write_volatile(asleep, 0);
        }
        sleeps
    }
}
