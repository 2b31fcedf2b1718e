//! The pcapng blocks of a capture file (draft-ietf-opsawg-pcapng): what userspace writes around the packets, and a
//! view of the packets that the kernel side wrote.
//!
//! A file is one section: a [`SectionHeader`], an [`InterfaceDescription`] for each interface before its first packet,
//! the Enhanced Packet Blocks out of the ring as they are, [`Names`] as they become known, and an
//! [`InterfaceStatistics`] for each interface at the end. Blocks are host-endian, as the draft's section 3.6.1 has it, and
//! end up in a `Vec<u8>`: nothing here does I/O or asks for the time.

mod block;
mod interface;
pub mod merge;
mod names;
mod packet;
mod pod;
mod read;
mod section;
#[cfg(feature = "testing")]
pub mod testing;
mod watermark;

use std::time::{Duration, UNIX_EPOCH};

pub use block::{blocks, parts};
pub use interface::{InterfaceDescription, InterfaceStatistics, LinkType};
pub use names::{MAX_NAMES, Names};
pub use packet::{EnhancedPacket, NoPacket, PacketHead, change_each, cut_packet, heads};
pub use pod::{ContainerFacts, Owner, PodFacts};
pub use read::{AnyBlock, BlockType};
pub use section::SectionHeader;
pub use watermark::Watermark;

/// A time in nanoseconds since the epoch as comments tell it: UTC, to the nanosecond.
pub fn time(time_ns: u64) -> String {
    humantime::format_rfc3339_nanos(UNIX_EPOCH + Duration::from_nanos(time_ns)).to_string()
}

#[cfg(test)]
mod tests;
