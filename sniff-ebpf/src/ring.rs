//! Where finished blocks go. There are two rings, one of which a recorder writes over, and a classifier for each; everything
//! else is the same for all.
//!
//! The reader is not woken for each packet, which would cost several times the capture itself, but each time a
//! CPU has written [`SNIFF_WAKE_BYTES`]; what stays below that it finds by itself at its next time-out. Only a reader
//! that found nothing for a while, and has said so, is woken by the next packet.

mod buffer;
mod regions;

use core::ptr;

use aya_ebpf::{
    bindings::BPF_F_MMAPABLE,
    helpers::generated::bpf_get_smp_processor_id,
    macros::map,
    maps::{Array, RingBuf},
};
use sniff_common::regions::Cpu;

pub use self::{
    buffer::Buffer,
    regions::{Recorder, Regions},
};
use crate::counters;

/// How many bytes a CPU writes between two wake-ups; the loader sets it.
#[unsafe(no_mangle)]
static SNIFF_WAKE_BYTES: u64 = 1 << 20;

/// The BPF ring buffer: the records of [`Buffer`], or only the wake-ups of [`Regions`]. The loader sets the size.
#[map]
static SNIFF_RING: RingBuf = RingBuf::with_byte_size(1 << 20, 0);

/// One entry a possible CPU; the loader sets how many.
#[map]
static SNIFF_CPUS: Array<Cpu> = Array::with_max_entries(1, BPF_F_MMAPABLE);

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

    /// Writes it, and returns its length in bytes, a multiple of 4. What only blocks of at most `BELOW` bytes need is left
    /// out: they are written with a smaller `N`.
    ///
    /// # Safety
    ///
    /// `to` points to `N` writable bytes, aligned to 4, and [`Self::bound`] is not more than `N`.
    unsafe fn write<const N: usize, const BELOW: usize>(&self, to: *mut u8) -> Result<u64, Unreadable>;
}

/// The size before this one; 0 before the first.
const fn below(sizes: &[usize], i: usize) -> usize {
    if i == 0 { 0 } else { sizes[i - 1] }
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

/// What is kept of the CPU that we run on.
#[inline(always)]
fn this_cpu() -> Option<&'static mut Cpu> {
    // SAFETY: a helper without arguments.
    let cpu = SNIFF_CPUS.get_ptr_mut(unsafe { bpf_get_smp_processor_id() })?;
    // SAFETY: the map's value lives as long as the program. No other CPU writes to it; where another classifier may run
    // on this one in between (PREEMPT_RT), only what decides about wake-ups is used, which may then come early or late.
    Some(unsafe { &mut *cpu })
}

/// Notes for whoever watches the ring that a packet was lost on this CPU.
#[inline(always)]
pub fn note_loss<R: Ring>() {
    if let Some(cpu) = this_cpu() {
        counters::add(R::EXCLUSIVE, &mut cpu.lost, 1);
    }
}

/// Notes likewise that a packet was left out.
#[inline(always)]
pub fn note_cut_off<R: Ring>() {
    if let Some(cpu) = this_cpu() {
        counters::add(R::EXCLUSIVE, &mut cpu.cut_off, 1);
    }
}

/// Whether the reader is to be woken, after `bytes` more from this CPU.
#[inline(always)]
fn wake_is_due(cpu: &mut Cpu, bytes: u64) -> bool {
    cpu.unwoken += bytes;
    // SAFETY: valid pointers. One is read as it is at run time, since the loader changes it; the other since the reader
    // writes there at any time.
    let (enough, asleep) = unsafe {
        (ptr::read_volatile(&raw const SNIFF_WAKE_BYTES), ptr::read_volatile(&raw const cpu.asleep))
    };
    if cpu.unwoken < enough && asleep == 0 {
        return false;
    }
    cpu.unwoken = 0;
    cpu.asleep = 0;
    true
}
