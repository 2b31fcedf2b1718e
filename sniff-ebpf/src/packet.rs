//! Reading the packet. `bpf_skb_load_bytes` reads the linear part and the fragments of a GSO packet alike; only a
//! small packet is copied without it.

use core::ptr;

use aya_ebpf::{EbpfContext as _, helpers::generated::bpf_skb_load_bytes, programs::TcContext};
use sniff_common::epb;
use sniff_ebpf::headers::{self, Bytes, Ends, Headers, TCP, TCP_FLAGS, USUAL_IPV4, USUAL_IPV6};

use crate::{
    ring::Unreadable,
    verifier::{as_computed, forgotten},
};

/// Where a VLAN tag belongs: behind the two MAC addresses.
const VLAN_OFFSET: u64 = 12;
/// Length of a VLAN tag, in bytes.
const VLAN_LEN: u64 = 4;
/// Length of an Ethernet header, in bytes.
const ETHERNET: usize = 14;

/// Bytes that are copied with two loads and two stores.
const PIECE: u64 = 16;
/// Most bytes that are copied in pieces. For so few, to call a helper takes longer than to copy them.
const SMALL: u64 = 8 * PIECE;

/// What the kernel's `__sk_buff` tells of a packet.
pub struct Packet<'a> {
    ctx: &'a TcContext,
    /// The 802.1Q or 802.1ad tag that the kernel took out of the bytes, as it stood there.
    vlan: Option<[u8; VLAN_LEN as usize]>,
}

impl<'a> Packet<'a> {
    /// Looks at the packet's meta-data.
    #[inline(always)]
    pub fn new(ctx: &'a TcContext) -> Self {
        // SAFETY: the kernel hands the classifier a valid `__sk_buff`.
        let skb = unsafe { &*ctx.skb.skb };
        let vlan = (skb.vlan_present != 0).then(|| {
            // vlan_proto is in network order already, the TCI is not.
            let proto = (skb.vlan_proto as u16).to_ne_bytes();
            let tci = (skb.vlan_tci as u16).to_be_bytes();
            [proto[0], proto[1], tci[0], tci[1]]
        });
        Self { ctx, vlan }
    }

    /// Length on the wire, VLAN tag included. Not taken from the IP header, which super-packets leave at 0.
    #[inline(always)]
    pub fn original_len(&self) -> u64 {
        let len = u64::from(self.ctx.len());
        if self.vlan.is_some() { len + VLAN_LEN } else { len }
    }

    /// Bits of `epb_flags` that tell of work left to the device. A packet that waits for segmentation always
    /// waits for its checksum too (`skb_gso_segment` fills in both).
    #[inline(always)]
    pub fn offload_flags(&self) -> u32 {
        // SAFETY: as in `new`.
        let gso_size = unsafe { (*self.ctx.skb.skb).gso_size };
        if gso_size == 0 { 0 } else { epb::FLAGS_CHECKSUM_NOT_READY | epb::FLAGS_SEGMENTATION_OFFLOADED }
    }

    /// The length of the packet's headers, in its bytes, and its ends, where it is a usual one whose headers are in one piece.
    #[inline(always)]
    pub fn usual(&self, ethernet: bool) -> Option<(u32, Ends)> {
        // SAFETY: the kernel hands the classifier a valid `__sk_buff`.
        let skb = unsafe { &*self.ctx.skb.skb };
        let link = if ethernet { ETHERNET } else { 0 };
        let start = as_computed(skb.data as usize);
        let end = skb.data_end as usize;
        if start + link + USUAL_IPV4 > end {
            return None;
        }
        // SAFETY: inside the packet.
        let ethertype = || unsafe { ptr::read_unaligned((start + link - 2) as *const [u8; 2]) };
        if ethernet && !matches!(u16::from_be_bytes(ethertype()), 0x0800 | 0x86dd) {
            return None;
        }
        // SAFETY: inside the packet, which does not change meanwhile.
        let usual = unsafe { headers::usual_ipv4(&*((start + link) as *const [u8; USUAL_IPV4])) };
        let usual = usual.or_else(|| {
            if start + link + USUAL_IPV6 > end {
                return None;
            }
            // SAFETY: as above.
            unsafe { headers::usual_ipv6(&*((start + link) as *const [u8; USUAL_IPV6])) }
        });
        usual.map(|(len, ends)| (link as u32 + len, ends))
    }

    /// The packet's headers, as they are in its bytes.
    #[inline(always)]
    pub fn headers(&self, ethernet: bool) -> Headers {
        headers::find(self, ethernet)
    }

    /// The packet's ends, by these headers, where it has ports.
    #[inline(always)]
    pub fn ends(&self, headers: &Headers) -> Option<Ends> {
        let &Headers { addresses, transport, version, protocol, .. } = headers;
        if protocol == 0 {
            return None;
        }
        let addresses = if version == 4 {
            let [source, destination] = self.ctx.load::<[u32; 2]>(addresses as usize).ok()?;
            [source, destination, 0, 0, 0, 0, 0, 0]
        } else {
            self.ctx.load(addresses as usize).ok()?
        };
        let ports = self.ctx.load(transport as usize).ok()?;
        let tcp_flags = if protocol == TCP { self.u8(transport + TCP_FLAGS).unwrap_or(0) } else { 0 };
        Some(Ends { addresses, ports, version, protocol, tcp_flags })
    }

    /// A length of the packet's bytes, with the VLAN tag.
    #[inline(always)]
    pub fn with_tag(&self, len: u32) -> u64 {
        let len = u64::from(self.forgotten(len));
        if self.vlan.is_some() { len + VLAN_LEN } else { len }
    }

    /// Copies the packet's first `len` bytes to `to`, with the VLAN tag back in its place. No packet of at most `below`
    /// bytes, a constant, is expected: where that leaves no small ones, the way for them is left out.
    ///
    /// # Safety
    ///
    /// `to` has room for `room` bytes, a constant, and for 16 at least. `len` is not 0 and not more than `room`, and the
    /// verifier can see that from the code before the call.
    #[inline(always)]
    pub unsafe fn copy(&self, to: *mut u8, len: u64, below: u64, room: u64) -> Result<(), Unreadable> {
        match self.vlan {
            // SAFETY: the caller's promise.
            None if below < SMALL && unsafe { self.copy_small(to, len, room) } => Ok(()),
            // SAFETY: the caller's promise.
            None => unsafe { self.load(0, to, len) },
            // SAFETY: the caller's promise.
            Some(tag) => unsafe { self.copy_tagged(tag, to, len) },
        }
    }

    /// Copies a small packet, or the start of one, in pieces, the last two of which overlap. Tells whether it did; if not,
    /// some may be copied.
    ///
    /// # Safety
    ///
    /// As for [`Self::copy`].
    #[inline(always)]
    unsafe fn copy_small(&self, to: *mut u8, len: u64, room: u64) -> bool {
        if !(PIECE..=SMALL).contains(&len) {
            return false;
        }
        let last = len - PIECE;
        // SAFETY: `last` and the pieces before it are within `len`.
        let copy = |at| unsafe { self.copy_piece(at, to.add(at as usize)) };
        macro_rules! copy_pieces {
            ($($i:literal)*) => {
                // Old verifiers do not see that a piece beyond the room is never asked for.
                $(if $i * PIECE >= last || ($i + 1) * PIECE > room {
                    return true;
                }
                if !copy($i * PIECE) {
                    return false;
                })*
            };
        }
        if !copy(last) {
            return false;
        }
        copy_pieces!(0 1 2 3 4 5 6);
        true
    }

    /// Copies [`PIECE`] bytes from `at` on, if they are in the packet's linear part.
    ///
    /// # Safety
    ///
    /// `to` has room for them.
    #[inline(always)]
    unsafe fn copy_piece(&self, at: u64, to: *mut u8) -> bool {
        // SAFETY: the kernel hands the classifier a valid `__sk_buff`.
        let skb = unsafe { &*self.ctx.skb.skb };
        let from = as_computed(skb.data as usize + at as usize);
        if from + PIECE as usize > skb.data_end as usize {
            return false;
        }
        // SAFETY: inside the packet, and inside what the caller promises. Neither is aligned, which these instructions do
        // not ask for, but the language would.
        unsafe {
            core::arch::asm!(
                "{0} = *(u64 *)({2} + 0)",
                "{1} = *(u64 *)({2} + 8)",
                "*(u64 *)({3} + 0) = {0}",
                "*(u64 *)({3} + 8) = {1}",
                out(reg) _,
                out(reg) _,
                in(reg) from,
                in(reg) to,
                options(nostack),
            );
        }
        true
    }

    /// As [`Self::copy`], for a packet with a tag. Kept apart because it is rare.
    ///
    /// # Safety
    ///
    /// As for [`Self::copy`].
    #[inline(always)]
    unsafe fn copy_tagged(&self, tag: [u8; 4], to: *mut u8, len: u64) -> Result<(), Unreadable> {
        // SAFETY: 16 bytes are there; behind them, `len` bounds the rest.
        unsafe {
            self.load(0, to, VLAN_OFFSET)?;
            to.add(VLAN_OFFSET as usize).cast::<u32>().write(u32::from_ne_bytes(tag));
            let done = VLAN_OFFSET + VLAN_LEN;
            if len > done {
                return self.load(VLAN_OFFSET, to.add(done as usize), len - done);
            }
            // A snaplen this small cut into what was just written: the padding must be zero all the same.
            for pad in 0..3 {
                to.add((len + pad) as usize).write(0);
            }
        }
        Ok(())
    }

    /// # Safety
    ///
    /// `to` has room for `len` bytes; `len` is not 0.
    #[inline(always)]
    unsafe fn load(&self, from: u64, to: *mut u8, len: u64) -> Result<(), Unreadable> {
        // SAFETY: the caller's promise, which the verifier checks again.
        let status = unsafe { bpf_skb_load_bytes(self.ctx.as_ptr(), from as u32, to.cast(), len as u32) };
        if status == 0 { Ok(()) } else { Err(Unreadable) }
    }
}

/// The packet's bytes without the VLAN tag that the kernel keeps beside them.
impl Bytes for Packet<'_> {
    #[inline(always)]
    fn u8(&self, offset: u32) -> Option<u8> {
        self.ctx.load(offset as usize).ok()
    }

    #[inline(always)]
    fn u16(&self, offset: u32) -> Option<u16> {
        self.ctx.load(offset as usize).ok().map(u16::from_be)
    }

    #[inline(always)]
    fn forgotten(&self, offset: u32) -> u32 {
        forgotten(u64::from(offset), u64::from(self.ctx.len())) as u32
    }
}
