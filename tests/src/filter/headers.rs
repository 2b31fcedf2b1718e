//! Packets piece by piece: each function returns one header, with what it carries behind it.
//!
//! Lengths are true; checksums, which no filter looks at, are zero.

use std::net::{Ipv4Addr, Ipv6Addr};

/// EtherType of IPv4.
pub const IPV4: u16 = 0x0800;
/// EtherType of IPv6.
pub const IPV6: u16 = 0x86dd;
/// EtherType of ARP.
pub const ARP: u16 = 0x0806;
/// EtherType of RARP.
pub const RARP: u16 = 0x8035;
/// EtherType of a customer's VLAN tag.
pub const VLAN: u16 = 0x8100;
/// EtherType of a provider's VLAN tag.
pub const QINQ: u16 = 0x88a8;
/// EtherType of MPLS.
pub const MPLS: u16 = 0x8847;
/// EtherType of PPPoE discovery.
pub const PPPOE_DISCOVERY: u16 = 0x8863;
/// EtherType of a PPPoE session.
pub const PPPOE_SESSION: u16 = 0x8864;

/// IP protocol number of TCP.
pub const TCP: u8 = 6;
/// IP protocol number of UDP.
pub const UDP: u8 = 17;
/// IP protocol number of ICMP.
pub const ICMP: u8 = 1;
/// IP protocol number of ICMPv6.
pub const ICMP6: u8 = 58;
/// IP protocol number of SCTP.
pub const SCTP: u8 = 132;

/// A link-layer address.
pub type Mac = [u8; 6];

/// An Ethernet frame.
pub fn ethernet(to: Mac, from: Mac, ethertype: u16, payload: &[u8]) -> Vec<u8> {
    [&to, &from, &ethertype.to_be_bytes()[..], payload].concat()
}

/// An IEEE 802.3 frame: with a length in place of a type.
pub fn ieee_802_3(to: Mac, from: Mac, payload: &[u8]) -> Vec<u8> {
    ethernet(to, from, length(payload), payload)
}

/// An LLC header (IEEE 802.2) with a control field of one byte or two.
pub fn llc(dsap: u8, ssap: u8, control: &[u8], payload: &[u8]) -> Vec<u8> {
    [&[dsap, ssap], control, payload].concat()
}

/// An LLC header with a SNAP extension.
pub fn snap(organisation: [u8; 3], ethertype: u16, payload: &[u8]) -> Vec<u8> {
    let extension = [&organisation, &ethertype.to_be_bytes()[..], payload].concat();
    llc(0xaa, 0xaa, &[0x03], &extension)
}

/// Puts a tag between a frame's addresses and its type.
pub fn tagged(tpid: u16, tci: u16, frame: &[u8]) -> Vec<u8> {
    let (addresses, rest) = frame.split_at(12);
    let tag = [tpid.to_be_bytes(), tci.to_be_bytes()].concat();
    [addresses, &tag, rest].concat()
}

/// A stack of MPLS labels.
pub fn mpls(labels: &[u32], payload: &[u8]) -> Vec<u8> {
    let entry = |(depth, label): (usize, &u32)| {
        let bottom = u32::from(depth + 1 == labels.len());
        (label << 12 | bottom << 8 | 64).to_be_bytes()
    };
    let stack: Vec<_> = labels.iter().enumerate().flat_map(entry).collect();
    [&stack, payload].concat()
}

/// A PPPoE header; in a session, `payload` begins with the protocol's number.
pub fn pppoe(code: u8, session: u16, payload: &[u8]) -> Vec<u8> {
    let numbers = [session.to_be_bytes(), length(payload).to_be_bytes()].concat();
    [&[0x11, code], &numbers[..], payload].concat()
}

/// An ARP or RARP packet for IPv4 over Ethernet.
pub fn arp(
    operation: u16,
    (sender_mac, sender): (Mac, Ipv4Addr),
    (target_mac, target): (Mac, Ipv4Addr),
) -> Vec<u8> {
    let mut packet = vec![0, 1, 8, 0, 6, 4];
    packet.extend(operation.to_be_bytes());
    packet.extend(sender_mac);
    packet.extend(sender.octets());
    packet.extend(target_mac);
    packet.extend(target.octets());
    packet
}

/// What of an IPv4 header a packet may want to choose.
#[derive(Clone, Debug)]
pub struct Ipv4 {
    /// Source.
    pub from: Ipv4Addr,
    /// Destination.
    pub to: Ipv4Addr,
    /// Protocol number.
    pub protocol: u8,
    /// DSCP and ECN.
    pub tos: u8,
    /// Identification.
    pub id: u16,
    /// Flags and fragment offset.
    pub fragment: u16,
    /// Time to live.
    pub ttl: u8,
    /// Options, a multiple of four bytes.
    pub options: Vec<u8>,
}

impl Ipv4 {
    /// A plain header.
    pub fn new(from: Ipv4Addr, to: Ipv4Addr, protocol: u8) -> Self {
        Self { from, to, protocol, tos: 0, id: 0x1234, fragment: 0x4000, ttl: 64, options: Vec::new() }
    }

    /// The header, with `payload` behind it.
    pub fn packet(&self, payload: &[u8]) -> Vec<u8> {
        let Self { from, to, protocol, tos, id, fragment, ttl, options } = self;
        let header = 20 + options.len();
        let total = u16::try_from(header + payload.len()).unwrap_or(0);
        let words = u8::try_from(header / 4).expect("a header of at most 60 bytes");
        let mut packet = vec![0x40 | words, *tos];
        packet.extend(total.to_be_bytes());
        packet.extend(id.to_be_bytes());
        packet.extend(fragment.to_be_bytes());
        packet.extend([*ttl, *protocol, 0, 0]);
        packet.extend(from.octets());
        packet.extend(to.octets());
        packet.extend(options);
        packet.extend(payload);
        packet
    }
}

/// An IPv6 header.
pub fn ipv6(from: Ipv6Addr, to: Ipv6Addr, next: u8, payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x60, 0, 0, 0];
    packet.extend(u16::try_from(payload.len()).unwrap_or(0).to_be_bytes());
    packet.extend([next, 64]);
    packet.extend(from.octets());
    packet.extend(to.octets());
    packet.extend(payload);
    packet
}

/// An IPv6 extension header of `8 * (1 + more)` bytes (hop-by-hop, routing, destination options).
pub fn extension(next: u8, more: u8, payload: &[u8]) -> Vec<u8> {
    // One PadN option fills it.
    let pad = 8 * (usize::from(more) + 1) - 4;
    let mut packet = vec![next, more, 1, pad as u8];
    packet.resize(4 + pad, 0);
    packet.extend(payload);
    packet
}

/// An IPv6 fragment header; `offset` counts units of 8 bytes.
pub fn fragment(next: u8, offset: u16, more: bool, payload: &[u8]) -> Vec<u8> {
    let place = offset << 3 | u16::from(more);
    let mut packet = vec![next, 0];
    packet.extend(place.to_be_bytes());
    packet.extend([0xde, 0xad, 0xbe, 0xef]);
    packet.extend(payload);
    packet
}

/// A TCP segment; `options` is a multiple of four bytes.
pub fn tcp(from: u16, to: u16, flags: u8, options: &[u8], payload: &[u8]) -> Vec<u8> {
    let words = u8::try_from(5 + options.len() / 4).expect("a header of at most 60 bytes");
    let mut packet = ports(from, to);
    packet.extend([1, 2, 3, 4, 0, 0, 0, 9, words << 4, flags, 0xff, 0xff, 0, 0, 0, 0]);
    packet.extend(options);
    packet.extend(payload);
    packet
}

/// A UDP datagram.
pub fn udp(from: u16, to: u16, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(8 + payload.len()).unwrap_or(0);
    [&ports(from, to), &length.to_be_bytes()[..], &[0, 0], payload].concat()
}

/// An SCTP packet of one chunk.
pub fn sctp(from: u16, to: u16, chunk: u8, payload: &[u8]) -> Vec<u8> {
    let head = [0, 0, 0, 7, 0, 0, 0, 0, chunk, 0];
    let length = length(payload).saturating_add(4).to_be_bytes();
    [&ports(from, to), &head[..], &length, payload].concat()
}

/// An ICMP or ICMPv6 message.
pub fn icmp(kind: u8, code: u8, payload: &[u8]) -> Vec<u8> {
    [&[kind, code, 0, 0], payload].concat()
}

/// A Geneve header without options (RFC 8926) in its UDP datagram.
pub fn geneve(vni: u32, ethertype: u16, payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![0, 0];
    packet.extend(ethertype.to_be_bytes());
    packet.extend((vni << 8).to_be_bytes());
    packet.extend(payload);
    udp(49152, 6081, &packet)
}

/// A DECnet routing header of the long format, with its addresses as `area << 10 | node`.
pub fn decnet(from: u16, to: u16, payload: &[u8]) -> Vec<u8> {
    let mut packet = length(payload).saturating_add(21).to_le_bytes().to_vec();
    packet.extend([0x06, 0, 0, 0xaa, 0, 4, 0]);
    packet.extend(to.to_le_bytes());
    packet.extend([0, 0, 0xaa, 0, 4, 0]);
    packet.extend(from.to_le_bytes());
    packet.extend([0, 0, 0, 0]);
    packet.extend(payload);
    packet
}

fn ports(from: u16, to: u16) -> Vec<u8> {
    [from.to_be_bytes(), to.to_be_bytes()].concat()
}

fn length(payload: &[u8]) -> u16 {
    payload.len().try_into().unwrap_or(u16::MAX)
}
