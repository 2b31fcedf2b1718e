//! What the kernel side and the user side of sniff agree on: the records in the ring, the counters beside it,
//! and the version of both.
//!
//! The kernel side writes finished pcapng blocks, so the layout of a record is that of an Enhanced Packet Block
//! ([`epb`]). Everything here is host-endian: both sides run on one machine.
#![no_std]

pub mod epb;
pub mod flow;
pub mod recorder;
pub mod regions;

/// Version of this contract. The loader refuses an object that carries another one.
///
/// Raise it with every change of a record, of [`Counters`], or of the classifier's arguments.
pub const ABI_VERSION: u32 = 12;

/// Largest part of a packet that a record holds, in bytes; also pcapng's usual largest snaplen.
///
/// Above what BIG TCP is set to anywhere (192 KiB); a larger super-packet is cut, and its original length told.
pub const MAX_SNAPLEN: u32 = 256 * 1024;

/// How far above the pcapng interface id, in the classifier's interface argument, begin the bits of `epb_flags` that a
/// packet has besides its direction.
pub const INTERFACE_FLAGS_SHIFT: u32 = 32;

/// In the classifier's snaplen argument: keep only what belongs to headers.
pub const SNAP_HEADERS: u64 = 1 << 32;
/// In the classifier's snaplen argument: packets start with the IP header.
pub const SNAP_RAW_IP: u64 = 1 << 33;
/// In the classifier's snaplen argument: blocks have room for [`epb::OPT_PACKETID`].
pub const SNAP_PACKETID: u64 = 1 << 34;
/// How far up in the classifier's snaplen argument stands of which packets behind a cutoff headers are kept: of every so
/// many-th, up to [`flow::MAX_EVERY`]; 0 is none.
pub const SNAP_EVERY_SHIFT: u32 = 40;

/// How far above the direction, in the classifier's direction argument, stands how many bytes of a [flow] are kept
/// whole, up to [`flow::MAX_CUTOFF`]; 0 is no cutoff.
pub const CUTOFF_SHIFT: u32 = 32;

/// Sizes of the records that the kernel side reserves, in bytes, ascending.
///
/// `bpf_ringbuf_reserve` takes only constants, so a record takes the smallest class that its block fits in.
/// The steps follow real packet sizes: bare ACKs, the Ethernet MTU (1514), jumbo frames (9014), GSO (64 KiB).
pub const RECORD_CLASSES: [usize; 12] =
    [128, 256, 512, 1024, 1600, 4096, 9216, 16_640, 33_024, 66_560, 132_096, 262_272];

/// Smallest ring, in bytes: the power of two that takes the largest record.
pub const MIN_RING_BYTES: u32 = 512 * 1024;

/// Where a classifier sits, seen from whatever the capture is about: a pod, or a plain host interface.
///
/// The values are those of the direction bits of pcapng's `epb_flags` (draft-ietf-opsawg-pcapng, section 4.3.1).
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    /// Into the pod.
    In = 1,
    /// Out of the pod.
    Out = 2,
}

impl Direction {
    /// Both directions.
    pub const BOTH: [Self; 2] = [Self::In, Self::Out];

    /// Index of this direction's [`Counters`] in its interface's map; each interface has a map of its own.
    pub const fn counters_index(self) -> u32 {
        self as u32 - 1
    }
}

/// What one classifier counted on one CPU. A packet that it matched is either in the ring or in one of the
/// other counts: `matched == records + ring_full + unreadable + cut_off`, exactly.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Packets that the classifier's filter accepted.
    pub matched: u64,
    /// Packets refused because the ring had no room for their record.
    pub ring_full: u64,
    /// Packets whose bytes `bpf_skb_load_bytes` would not give.
    pub unreadable: u64,
    /// Packets left out behind the cutoff of their [flow].
    pub cut_off: u64,
    /// How many lost packets of the interface the last record told of, by whomever they were lost. The kernel side's own.
    pub told: u64,
    /// Packets that an alarm is about, matched or not.
    pub alarms: u64,
}

impl Counters {
    /// Packets that got into the ring, or that are about to, since others count meanwhile.
    pub const fn recorded(&self) -> u64 {
        self.matched.saturating_sub(self.lost() + self.cut_off)
    }

    /// Packets that were to be in the ring, and are not.
    pub const fn lost(&self) -> u64 {
        self.ring_full + self.unreadable
    }
}

impl core::ops::AddAssign for Counters {
    fn add_assign(&mut self, other: Self) {
        // What was told is of use on its own CPU only.
        let Self { matched, ring_full, unreadable, cut_off, told: _, alarms } = other;
        self.matched += matched;
        self.ring_full += ring_full;
        self.unreadable += unreadable;
        self.cut_off += cut_off;
        self.alarms += alarms;
    }
}

#[cfg(feature = "user")]
#[expect(unsafe_code, reason = "aya::Pod is an unsafe trait")]
mod user {
    // SAFETY: repr(C), six u64 without padding, and every bit pattern is a value.
    unsafe impl aya::Pod for super::Counters {}
}

#[cfg(test)]
mod tests {
    use core::mem::{align_of, offset_of, size_of};

    use super::*;

    #[test]
    fn counters_keep_their_layout() {
        assert_eq!(size_of::<Counters>(), 48);
        assert_eq!(align_of::<Counters>(), 8);
        assert_eq!(offset_of!(Counters, matched), 0);
        assert_eq!(offset_of!(Counters, ring_full), 8);
        assert_eq!(offset_of!(Counters, unreadable), 16);
        assert_eq!(offset_of!(Counters, cut_off), 24);
        assert_eq!(offset_of!(Counters, told), 32);
        assert_eq!(offset_of!(Counters, alarms), 40);
    }

    #[test]
    fn every_direction_has_counters_of_its_own() {
        assert_eq!(Direction::BOTH.map(Direction::counters_index), [0, 1]);
    }

    #[test]
    fn classes_ascend_and_hold_the_largest_packet() {
        assert!(RECORD_CLASSES.is_sorted());
        let largest = RECORD_CLASSES[RECORD_CLASSES.len() - 1];
        assert!(largest >= epb::block_len(MAX_SNAPLEN, true, true) as usize);
        // The ring buffer adds a header of 8 bytes and refuses a record as large as itself.
        assert!(largest + 8 < MIN_RING_BYTES as usize);
        assert!(RECORD_CLASSES.iter().all(|size| size % 8 == 0));
    }

    #[test]
    fn counters_add_up_field_by_field() {
        let mut sum = Counters { matched: 1, ring_full: 2, unreadable: 3, cut_off: 4, told: 0, alarms: 5 };
        sum += Counters { matched: 10, ring_full: 20, unreadable: 30, cut_off: 40, told: 50, alarms: 60 };
        assert_eq!(
            sum,
            Counters { matched: 11, ring_full: 22, unreadable: 33, cut_off: 44, told: 0, alarms: 65 }
        );
        assert_eq!(sum.lost(), 55);
    }
}
