//! From a packet to a finished Enhanced Packet Block in the ring.

use aya_ebpf::{helpers::generated::bpf_ktime_get_boot_ns, programs::TcContext};
use aya_log_ebpf::debug;
use sniff_common::{Counters, MAX_SNAPLEN, RECORD_CLASSES, SNAP_HEADERS, SNAP_RAW_IP, epb};

use crate::{
    counters,
    packet::{Packet, Unreadable},
    ring::{self, Record},
};

/// Version of the contract that this object was built with; the loader reads it from the object.
#[unsafe(no_mangle)]
#[used]
static SNIFF_ABI_VERSION: u32 = sniff_common::ABI_VERSION;

/// Where the classifier runs and what it is to do there; constants of the program.
pub struct Place {
    /// pcapng interface id.
    pub interface: u32,
    /// [`sniff_common::Direction`] as a number.
    pub direction: u32,
    /// Most bytes kept of a packet, and the flags above.
    pub snaplen: u64,
    /// Nanoseconds from the boot clock to the Unix epoch.
    pub clock_offset: u64,
}

/// Why a packet is not in the ring.
enum Lost {
    RingFull,
    Unreadable,
}

/// What a block says of its packet, apart from the bytes.
struct Header {
    interface: u32,
    timestamp: u64,
    captured: u64,
    original: u64,
    flags: u32,
    dropcount: u64,
}

/// Captures one packet, and counts it: matched, and lost if it did not get into the ring.
#[inline(always)]
pub fn capture(ctx: &TcContext, place: &Place) {
    // SAFETY: a helper without arguments.
    let timestamp = unsafe { bpf_ktime_get_boot_ns() } + place.clock_offset;
    let Some(counters) = counters::of(place.interface * 2 + place.direction - 1) else {
        return;
    };
    counters.matched += 1;

    let packet = Packet::new(ctx);
    let original = packet.original_len();
    let header = Header {
        interface: place.interface,
        timestamp,
        captured: original.min(kept(&packet, place.snaplen)),
        original,
        flags: place.direction | packet.offload_flags(),
        dropcount: counters.untold,
    };
    match record(&packet, &header) {
        Ok(()) => counters.untold = 0,
        Err(lost) => count(ctx, place, counters, &lost),
    }
}

/// Most bytes to keep. The argument is a constant of the program, so the verifier takes away what it does not ask for.
#[inline(always)]
fn kept(packet: &Packet<'_>, snaplen: u64) -> u64 {
    let bytes = snaplen & u64::from(u32::MAX);
    if snaplen & SNAP_HEADERS == 0 {
        return bytes;
    }
    bytes.min(packet.headers_len(snaplen & SNAP_RAW_IP == 0))
}

#[inline(always)]
fn count(ctx: &TcContext, place: &Place, counters: &mut Counters, lost: &Lost) {
    if counters.untold == 0 && counters.lost() == 0 {
        debug!(ctx, "interface {}: first lost packet on this CPU", place.interface);
    }
    counters.untold += 1;
    match lost {
        Lost::RingFull => counters.ring_full += 1,
        Lost::Unreadable => counters.unreadable += 1,
    }
}

/// Writes the block into a record of the smallest class that takes it.
#[inline(always)]
fn record(packet: &Packet<'_>, header: &Header) -> Result<(), Lost> {
    macro_rules! smallest_class_of {
        ($($i:literal)*) => {
            $(if header.captured <= room::<{ RECORD_CLASSES[$i] }>() {
                return write::<{ RECORD_CLASSES[$i] }>(packet, header);
            })*
        };
    }
    smallest_class_of!(0 1 2 3 4 5 6 7 8 9 10 11);
    // Not reached: the last class takes the largest snaplen.
    Err(Lost::RingFull)
}

/// Bytes of a packet that a record of size `N` takes.
const fn room<const N: usize>() -> u64 {
    let room = N as u64 - epb::OVERHEAD as u64;
    if room < MAX_SNAPLEN as u64 { room } else { MAX_SNAPLEN as u64 }
}

#[inline(always)]
fn write<const N: usize>(packet: &Packet<'_>, header: &Header) -> Result<(), Lost> {
    let Some(mut record) = ring::reserve::<N>() else {
        return Err(Lost::RingFull);
    };
    let block: *mut Record<N> = record.as_mut_ptr();
    // SAFETY: `fill` stays inside N bytes.
    match unsafe { fill::<N>(block.cast(), packet, header) } {
        Ok(()) => {
            ring::submit(record);
            Ok(())
        }
        Err(Unreadable) => {
            ring::discard(record);
            Err(Lost::Unreadable)
        }
    }
}

/// Writes the block.
///
/// # Safety
///
/// `block` points to `N` writable bytes, aligned to 4.
#[inline(always)]
unsafe fn fill<const N: usize>(
    block: *mut u8,
    packet: &Packet<'_>,
    header: &Header,
) -> Result<(), Unreadable> {
    // The verifier forgets bounds that were checked on another copy of the value. Checked again here, out of the
    // compiler's sight so that it cannot take the check away.
    let captured = opaque(header.captured);
    if captured > room::<N>() {
        return Err(Unreadable);
    }
    let padded = (captured + 3) & !3;
    // SAFETY: DATA_OFFSET + padded + trailer with all options <= N, because captured <= room::<N>().
    unsafe {
        let data = block.add(epb::DATA_OFFSET);
        // Zeroes the padding; the data and the options then overwrite what is theirs.
        data.add((captured & !3) as usize).cast::<u32>().write(0);
        packet.copy(data, at_least_one(captured))?;
        let options = write_options(data.add(padded as usize).cast(), header);
        let total = epb::block_len(captured as u32, header.dropcount != 0);
        options.write(total);
        let words = [
            epb::BLOCK_TYPE,
            total,
            header.interface,
            (header.timestamp >> 32) as u32,
            header.timestamp as u32,
            captured as u32,
            header.original as u32,
        ];
        block.cast::<[u32; 7]>().write(words);
    }
    Ok(())
}

/// Writes the options and returns where the word behind them goes.
///
/// # Safety
///
/// `at` points to 28 writable bytes, aligned to 4.
#[inline(always)]
unsafe fn write_options(at: *mut u32, header: &Header) -> *mut u32 {
    // SAFETY: at most 6 words, and the caller's one word more.
    unsafe {
        at.write(epb::option_header(epb::OPT_FLAGS, 4));
        at.add(1).write(header.flags);
        let mut next = at.add(2);
        if header.dropcount != 0 {
            next.write(epb::option_header(epb::OPT_DROPCOUNT, 8));
            let halves: [u32; 2] = core::mem::transmute(header.dropcount);
            next.add(1).write(halves[0]);
            next.add(2).write(halves[1]);
            next = next.add(3);
        }
        next.write(0);
        next.add(1)
    }
}

/// The same value, of which verifiers before Linux 6.3 see that it is not 0: they learn that from `>`, not from `!=`,
/// which is what the compiler would make of it. (No packet is empty.)
#[inline(always)]
fn at_least_one(mut value: u64) -> u64 {
    // SAFETY: a comparison and a move.
    unsafe {
        core::arch::asm!(
            "if {0} > 0 goto +1",
            "{0} = 1",
            inout(reg) value,
            options(nomem, nostack, preserves_flags),
        );
    }
    value
}

/// The same value, about which the compiler knows nothing any more.
#[inline(always)]
fn opaque(mut value: u64) -> u64 {
    // SAFETY: no instruction at all.
    unsafe { core::arch::asm!("/* {0} */", inout(reg) value, options(nomem, nostack, preserves_flags)) };
    value
}
