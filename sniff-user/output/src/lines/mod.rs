//! One line of text for a packet, in the manner of tcpdump.
//!
//! ```text
//! 13:59:04.123456789 shop/cart-0/eth0 Out IP 10.1.2.3.40312 > 10.1.2.9.80: Flags [S], seq 7, win 64240, length 0
//! ```
//!
//! It differs from `tcpdump -nn` in this: the time of day is in nanoseconds; the interface and the pod-relative
//! direction come next; sequence numbers are absolute (tcpdump's `-S`), for no state is kept between packets; TCP
//! options are left out; and where the length in the IP header cannot be right, as in a super-packet (GSO, BIG TCP), where
//! it may be 0, it is that of the packet in the kernel. Parts that were cut off or make no sense read `[|tcp]` and the like.
//!
//! A packet is never trusted: whatever it holds, the line is printable ASCII and the parser does not panic.

mod dns;
mod icmp;
mod ip;
mod stdout;
mod transport;

use std::{
    fmt,
    io::{self, Write},
    net::Ipv4Addr,
};

use etherparse::{ArpOperation, ArpPacketSlice, EtherType, Ethernet2Slice, SingleVlanSlice, ether_type};
use jiff::{Timestamp, tz::TimeZone};
use sniff_common::Direction;
use sniff_pcapng::{EnhancedPacket, LinkType};

pub use stdout::Lines;

/// Most VLAN tags that are looked through.
const MAX_TAGS: usize = 4;
/// Ether types below this one are lengths of IEEE 802.3 frames.
const FIRST_ETHER_TYPE: EtherType = EtherType(0x0600);

/// Writes the line of a packet, with its newline, in many small writes: `out` had better be buffered.
///
/// The time of day is that of `zone`. `interface` is the name in the interface's description and `link_type` the one
/// declared there.
///
/// # Errors
///
/// Those of `out`.
fn write_line(
    out: &mut impl Write,
    zone: &TimeZone,
    interface: &str,
    link_type: LinkType,
    packet: &EnhancedPacket<'_>,
) -> io::Result<()> {
    let direction = match packet.direction() {
        Some(Direction::In) => "In",
        Some(Direction::Out) => "Out",
        None => "?",
    };
    let time = TimeOfDay::new(packet.timestamp_ns, zone);
    let interface = interface.as_bytes().escape_ascii();
    write!(out, "{time} {interface} {direction:<3} ")?;
    match link_type {
        LinkType::Ethernet => write_ethernet(out, packet)?,
        LinkType::Raw => write_raw(out, packet)?,
    }
    writeln!(out)
}

fn write_ethernet(out: &mut impl Write, packet: &EnhancedPacket<'_>) -> io::Result<()> {
    let frame_len = len_on_wire(packet);
    let Ok(frame) = Ethernet2Slice::from_slice_without_fcs(packet.data) else {
        return write!(out, "[|ether], length {frame_len}");
    };
    let (mut ether_type, mut payload) = (frame.ether_type(), frame.payload_slice());
    for _ in 0..MAX_TAGS {
        if !matches!(ether_type, ether_type::VLAN_TAGGED_FRAME | ether_type::PROVIDER_BRIDGING) {
            break;
        }
        let Ok(tag) = SingleVlanSlice::from_slice(payload) else {
            break;
        };
        write!(out, "vlan {}, ", tag.vlan_identifier().value())?;
        (ether_type, payload) = (tag.ether_type(), tag.payload_slice());
    }
    let on_wire = frame_len - (packet.data.len() - payload.len());
    match ether_type {
        ether_type::ARP => write_arp(out, payload, on_wire),
        ether_type::IPV4 => ip::write(out, ip::Packet::v4(payload, on_wire), on_wire),
        ether_type::IPV6 => ip::write(out, ip::Packet::v6(payload, on_wire), on_wire),
        EtherType(other) => {
            let (source, destination) = (Mac(frame.source()), Mac(frame.destination()));
            write!(out, "{source} > {destination}, ")?;
            if ether_type < FIRST_ETHER_TYPE {
                write!(out, "802.3, length {frame_len}")
            } else {
                write!(out, "ethertype {other:#06x}, length {frame_len}")
            }
        }
    }
}

fn write_raw(out: &mut impl Write, packet: &EnhancedPacket<'_>) -> io::Result<()> {
    let on_wire = len_on_wire(packet);
    ip::write(out, ip::Packet::of_any_version(packet.data, on_wire), on_wire)
}

fn write_arp(out: &mut impl Write, payload: &[u8], on_wire: usize) -> io::Result<()> {
    let Ok(arp) = ArpPacketSlice::from_slice(payload) else {
        return write!(out, "ARP, [|arp], length {on_wire}");
    };
    let addresses = (
        arp.sender_hw_addr().try_into().map(Mac),
        arp.sender_protocol_addr().try_into().map(|octets: [u8; 4]| Ipv4Addr::from(octets)),
        arp.target_protocol_addr().try_into().map(|octets: [u8; 4]| Ipv4Addr::from(octets)),
    );
    match (arp.operation(), addresses) {
        (ArpOperation::REQUEST, (Ok(_), Ok(sender), Ok(target))) => {
            write!(out, "ARP, Request who-has {target} tell {sender}")?;
        }
        (ArpOperation::REPLY, (Ok(mac), Ok(sender), Ok(_))) => {
            write!(out, "ARP, Reply {sender} is-at {mac}")?;
        }
        (ArpOperation(operation), _) => write!(out, "ARP, operation {operation}")?,
    }
    write!(out, ", length {on_wire}")
}

/// The packet's length in the kernel, which is never less than what was captured of it.
fn len_on_wire(packet: &EnhancedPacket<'_>) -> usize {
    packet.data.len().max(packet.original_len as usize)
}

/// A MAC address, printed with colons.
struct Mac([u8; 6]);

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

/// A time of day: `HH:MM:SS.nnnnnnnnn`.
struct TimeOfDay {
    seconds: i64,
    nanoseconds: u64,
}

impl TimeOfDay {
    /// Of nanoseconds since 1970.
    fn new(timestamp_ns: u64, zone: &TimeZone) -> Self {
        let (seconds, nanoseconds) = ((timestamp_ns / 1_000_000_000) as i64, timestamp_ns % 1_000_000_000);
        let offset = Timestamp::from_second(seconds).map_or(0, |time| zone.to_offset(time).seconds());
        Self { seconds: (seconds + i64::from(offset)).rem_euclid(24 * 3600), nanoseconds }
    }
}

impl fmt::Display for TimeOfDay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { seconds, nanoseconds } = self;
        let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
        write!(f, "{hour:02}:{minute:02}:{second:02}.{nanoseconds:09}")
    }
}

#[cfg(test)]
mod tests;
