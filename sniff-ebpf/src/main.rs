//! The classifier: copies every packet that reaches it into the ring as a finished pcapng block, and lets it go on.
//!
//! It is never loaded as it stands here. For each direction of each captured interface the loader puts a prologue
//! of its own in front, which sets the arguments after `skb` to constants and falls into this function.
#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]

mod atomic;
mod capture;
mod counters;
mod cutoff;
mod packet;
mod ring;
mod verifier;

use aya_ebpf::{
    bindings::{__sk_buff, TC_ACT_UNSPEC},
    programs::TcContext,
};
use capture::Arguments;
use sniff_common::{CUTOFF_SHIFT, INTERFACE_FLAGS_SHIFT, SNAP_EVERY_SHIFT};

use crate::{
    cutoff::Cutoff,
    ring::{Buffer, Recorder, Regions, Ring},
};

/// Captures into the regions; arguments as for [`capture_into`].
#[unsafe(no_mangle)]
#[unsafe(link_section = "classifier/regions")]
extern "C" fn sniff_regions(
    skb: *mut __sk_buff,
    interface: u64,
    direction: u64,
    snaplen: u64,
    clock_offset: u64,
) -> i32 {
    capture_into::<Regions>(skb, interface, direction, snaplen, clock_offset)
}

/// Captures into regions that are written over; arguments as for [`capture_into`].
#[unsafe(no_mangle)]
#[unsafe(link_section = "classifier/recorder")]
extern "C" fn sniff_recorder(
    skb: *mut __sk_buff,
    interface: u64,
    direction: u64,
    snaplen: u64,
    clock_offset: u64,
) -> i32 {
    capture_into::<Recorder>(skb, interface, direction, snaplen, clock_offset)
}

/// Captures into the BPF ring buffer; arguments as for [`capture_into`].
#[unsafe(no_mangle)]
#[unsafe(link_section = "classifier/buffer")]
extern "C" fn sniff_buffer(
    skb: *mut __sk_buff,
    interface: u64,
    direction: u64,
    snaplen: u64,
    clock_offset: u64,
) -> i32 {
    capture_into::<Buffer>(skb, interface, direction, snaplen, clock_offset)
}

/// Whatever happens to the capture, the packet goes on to the next program: [`TC_ACT_UNSPEC`], which is also
/// `TCX_NEXT`.
///
/// - `interface`: pcapng interface id, and from bit [`sniff_common::INTERFACE_FLAGS_SHIFT`] on what the prologue adds to the
///   packet's `epb_flags`. Of all arguments the only one that is no constant.
/// - `direction`: [`sniff_common::Direction`] as a number, and from bit [`CUTOFF_SHIFT`] on the bytes before the cutoff of a
///   flow, or 0 where there is none.
/// - `snaplen`: 1 to [`sniff_common::MAX_SNAPLEN`] bytes, and above them [`sniff_common::SNAP_HEADERS`],
///   [`sniff_common::SNAP_RAW_IP`], [`sniff_common::SNAP_PACKETID`], and from bit [`SNAP_EVERY_SHIFT`] on of which packets
///   behind the cutoff headers are kept.
/// - `clock_offset`: nanoseconds from the kernel's boot clock to the Unix epoch.
#[inline(always)]
fn capture_into<R: Ring>(
    skb: *mut __sk_buff,
    interface: u64,
    direction: u64,
    snaplen: u64,
    clock_offset: u64,
) -> i32 {
    let flags = (interface >> INTERFACE_FLAGS_SHIFT) as u32;
    let cutoff = Cutoff { bytes: direction >> CUTOFF_SHIFT, every: (snaplen >> SNAP_EVERY_SHIFT) as u32 };
    let (interface, direction) = (interface as u32, direction as u32);
    let arguments = Arguments { interface, flags, direction, snaplen, cutoff, clock_offset };
    capture::capture::<R>(&TcContext::new(skb), &arguments);
    TC_ACT_UNSPEC
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

/// The verifier gives most helpers only to programs under a GPL-compatible licence.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
