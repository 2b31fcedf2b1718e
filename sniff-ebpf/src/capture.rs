//! From a packet to a finished Enhanced Packet Block in the ring.

use aya_ebpf::{helpers::generated::bpf_ktime_get_boot_ns, programs::TcContext};
use aya_log_ebpf::debug;
use sniff_common::{Counters, MAX_SNAPLEN, SNAP_HEADERS, SNAP_PACKETID, SNAP_RAW_IP, epb};

use crate::{
    counters::{self, LostPackets},
    cutoff::{self, Cutoff, Passing},
    packet::Packet,
    ring::{Block, Lost, Ring, Unreadable, note_cut_off, note_loss},
    verifier::{at_least_one, at_most, with_sound_bounds},
};

/// Version of the contract that this object was built with; the loader reads it from the object.
#[unsafe(no_mangle)]
#[used]
static SNIFF_ABI_VERSION: u32 = sniff_common::ABI_VERSION;

/// Where the classifier runs and what it is to do there; constants of the program, but for `flags`.
pub struct Arguments {
    /// pcapng interface id.
    pub interface: u32,
    /// Bits of the packet's `epb_flags` that the prologue knows.
    pub flags: u32,
    /// [`sniff_common::Direction`] as a number.
    pub direction: u32,
    /// Most bytes kept of a packet, and the flags above.
    pub snaplen: u64,
    /// How much is kept of a flow, if its `bytes` are not 0.
    pub cutoff: Cutoff,
    /// Nanoseconds from the boot clock to the Unix epoch.
    pub clock_offset: u64,
}

/// Captures one packet, and counts it: matched, and left out or lost if it did not get into the ring.
#[inline(always)]
pub fn capture<R: Ring>(ctx: &TcContext, arguments: &Arguments) {
    let (Some(counters), Some(lost)) = (counters::of(arguments.direction - 1), LostPackets::of_interface())
    else {
        return;
    };
    counters::add(R::EXCLUSIVE, &mut counters.matched, 1);

    let packet = Packet::new(ctx);
    let original = packet.original_len();
    let Some(kept) = kept(&packet, original, arguments) else {
        note_cut_off::<R>();
        counters::add(R::EXCLUSIVE, &mut counters.cut_off, 1);
        return;
    };
    let captured = original.min(kept);
    // Before the packet is stamped: what it tells of was lost before.
    let lost_before = lost.count();
    let tells = lost_before != counters.told;
    let capture =
        Capture { packet, arguments, captured, original, lost_before: tells.then_some(lost_before) };
    match R::put(&capture) {
        // Where another classifier has come in between, the worst is that the same is told once more.
        Ok(()) => counters.told = lost_before,
        Err(why) => count::<R>(ctx, arguments, counters, lost, &why),
    }
}

/// Most bytes to keep, or `None` where the packet is left out. The arguments are constants of the program, so the verifier
/// takes away what they do not ask for.
#[inline(always)]
fn kept(packet: &Packet<'_>, original: u64, arguments: &Arguments) -> Option<u64> {
    let &Arguments { interface, direction, snaplen, cutoff, .. } = arguments;
    let bytes = snaplen & u64::from(u32::MAX);
    if snaplen & SNAP_HEADERS == 0 && cutoff.bytes == 0 {
        return Some(bytes);
    }
    let ethernet = snaplen & SNAP_RAW_IP == 0;
    let (len, ends) = match packet.usual(ethernet) {
        Some((len, ends)) => (len, Some(ends)),
        None => {
            let headers = packet.headers(ethernet);
            (headers.len, if cutoff.bytes == 0 { None } else { packet.ends(&headers) })
        }
    };
    let headers_len = packet.with_tag(len);
    let kept = if snaplen & SNAP_HEADERS == 0 { bytes } else { at_most(headers_len, bytes) };
    if cutoff.bytes == 0 {
        return Some(kept);
    }
    let Some(ends) = ends else { return Some(kept) };
    let passing = Passing { ends, interface, direction, len: original, headers_len };
    Some(kept.min(cutoff::kept(&passing, cutoff)?))
}

#[inline(always)]
fn count<R: Ring>(
    ctx: &TcContext,
    arguments: &Arguments,
    counters: &mut Counters,
    lost: LostPackets,
    why: &Lost,
) {
    let is_first = counters.lost() == 0;
    note_loss::<R>();
    lost.add_one();
    let counter = match why {
        Lost::RingFull => &mut counters.ring_full,
        Lost::Unreadable => &mut counters.unreadable,
    };
    counters::add(R::EXCLUSIVE, counter, 1);
    // Last, when both kinds of loss are one to the verifier: this is the longest part of the program.
    if is_first {
        debug!(ctx, "interface {}: first lost packet on this CPU", arguments.interface);
    }
}

impl Arguments {
    /// Whether blocks have room for a packet's id. A constant of the program, as are all arguments that this asks for.
    #[inline(always)]
    fn has_packetid(&self) -> bool {
        self.snaplen & SNAP_PACKETID != 0
    }
}

/// A packet on its way to become a block.
struct Capture<'a> {
    packet: Packet<'a>,
    arguments: &'a Arguments,
    captured: u64,
    original: u64,
    /// Packets that the interface has lost so far, when no block of this classifier on this CPU has said so.
    lost_before: Option<u64>,
}

impl Block for Capture<'_> {
    #[inline(always)]
    fn bound(&self) -> u64 {
        let packetid = if self.arguments.has_packetid() { epb::PACKETID } else { 0 };
        self.captured + u64::from(epb::OVERHEAD + packetid)
    }

    #[inline(always)]
    unsafe fn write<const N: usize, const BELOW: usize>(&self, to: *mut u8) -> Result<u64, Unreadable> {
        // Only now that the block has its place: blocks in the ring are in order of time but for what other CPUs do
        // between here and there.
        // SAFETY: a helper without arguments.
        let timestamp = unsafe { bpf_ktime_get_boot_ns() } + self.arguments.clock_offset;
        let has_packetid = self.arguments.has_packetid();
        let most = if has_packetid { room::<N>(epb::PACKETID) } else { room::<N>(0) };
        // Known already, but not to the verifier.
        let captured = at_most(with_sound_bounds(self.captured), most);
        let padded = (captured + 3) & !3;
        let total = epb::block_len(captured as u32, has_packetid, self.lost_before.is_some());
        // SAFETY: DATA_OFFSET + padded + trailer with all options <= N, because captured <= most.
        unsafe {
            let data = to.add(epb::DATA_OFFSET);
            // Zeroes the padding; the data and the options then overwrite what is theirs.
            data.add((captured & !3) as usize).cast::<u32>().write(0);
            self.packet.copy(data, at_least_one(captured), room::<BELOW>(0), room::<N>(0))?;
            let flags = self.arguments.direction | self.arguments.flags | self.packet.offload_flags();
            let end = write_options(data.add(padded as usize).cast(), flags, has_packetid, self.lost_before);
            end.write(total);
            let words = [
                epb::BLOCK_TYPE,
                total,
                self.arguments.interface,
                (timestamp >> 32) as u32,
                timestamp as u32,
                captured as u32,
                self.original as u32,
            ];
            to.cast::<[u32; 7]>().write(words);
        }
        Ok(u64::from(total))
    }
}

/// Bytes of a packet that a block of at most `N` bytes takes, where options take so many besides.
const fn room<const N: usize>(options: u32) -> u64 {
    let room = (N as u64).saturating_sub((epb::OVERHEAD + options) as u64);
    if room < MAX_SNAPLEN as u64 { room } else { MAX_SNAPLEN as u64 }
}

/// Writes the options and returns where the word behind them goes.
///
/// # Safety
///
/// `at` points to 28 writable bytes, aligned to 4, and to 12 more for a packet's id.
#[inline(always)]
unsafe fn write_options(at: *mut u32, flags: u32, has_packetid: bool, dropcount: Option<u64>) -> *mut u32 {
    // SAFETY: at most 6 words and the id's 3, and the caller's one word more.
    unsafe {
        at.write(epb::option_header(epb::OPT_FLAGS, 4));
        at.add(1).write(flags);
        let mut next = at.add(2);
        if has_packetid {
            next.cast::<[u32; 3]>().write([epb::option_header(epb::OPT_PACKETID, 8), 0, 0]);
            next = next.add(3);
        }
        if let Some(dropcount) = dropcount {
            next.write(epb::option_header(epb::OPT_DROPCOUNT, 8));
            let halves: [u32; 2] = core::mem::transmute(dropcount);
            next.add(1).write(halves[0]);
            next.add(2).write(halves[1]);
            next = next.add(3);
        }
        next.write(0);
        next.add(1)
    }
}
