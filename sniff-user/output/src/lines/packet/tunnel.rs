//! Packets in packets: GRE (RFC 2784, RFC 2890), IP in IP, VXLAN (RFC 7348), Geneve (RFC 8926); and WireGuard, which only
//! its peers can look into.

use etherparse::{EtherType, IpNumber, ether_type, ip_number};

use super::{Context, ip as ip_packet, link, split, u16_at, u24_at, u32_at, udp::Datagram};
use crate::lines::out::{Hex, Out};

/// VXLAN's port, and that of Linux, which flannel and Cilium use.
const VXLAN_PORTS: [u16; 2] = [4789, 8472];
const GENEVE_PORT: u16 = 6081;
/// WireGuard's own, Calico's for IPv6, and Cilium's.
const WIREGUARD_PORTS: [u16; 3] = [51820, 51821, 51871];
/// What Ethernet in GRE and Geneve is called.
const ETHERNET: EtherType = EtherType(0x6558);
const VXLAN_HEADER: usize = 8;
const GENEVE_HEADER: usize = 8;

/// Describes an IP packet in another, of which `len` bytes were in the kernel.
pub(super) fn ip(
    out: &mut impl Out,
    context: &mut Context<'_>,
    protocol: IpNumber,
    bytes: &[u8],
    len: usize,
) {
    context.inner(out, |out, context| match protocol {
        ip_number::IPV6 => ip_packet::describe(out, context, ip_packet::Packet::v6(bytes, len), len),
        _ => ip_packet::describe(out, context, ip_packet::Packet::v4(bytes, len), len),
    });
}

/// Describes a GRE packet, of which `len` bytes were in the kernel.
pub(super) fn gre(out: &mut impl Out, context: &mut Context<'_>, bytes: &[u8], len: usize) {
    const CHECKSUM: u16 = 1 << 15;
    const KEY: u16 = 1 << 13;
    const SEQUENCE: u16 = 1 << 12;
    const VERSION: u16 = 7;
    /// A routing header is long out of use, and version 1 is another protocol.
    const NOT_LOOKED_INTO: u16 = 1 << 14 | VERSION;
    out.open("gre");
    let (Some(flags), Some(protocol)) = (u16_at(bytes, 0), u16_at(bytes, 2)) else {
        out.words("GRE, ");
        out.cut_off("gre");
        out.say(", length ", "length", len);
        return out.close();
    };
    out.say("GREv", "version", flags & VERSION);
    let mut header_len = 4;
    if flags & NOT_LOOKED_INTO != 0 {
        out.say(", proto ", "protocol", Hex::<4>(protocol.into()));
        out.say(", length ", "length", len);
        return out.close();
    }
    if flags & CHECKSUM != 0 {
        header_len += 4;
    }
    for (flag, words, name) in [(KEY, ", key ", "key"), (SEQUENCE, ", seq ", "seq")] {
        if flags & flag != 0 {
            if let Some(value) = u32_at(bytes, header_len) {
                out.say(words, name, value);
            }
            header_len += 4;
        }
    }
    out.say(", length ", "length", len);
    out.close();
    out.words(": ");
    let (_, payload) = split(bytes, header_len);
    any(out, context, EtherType(protocol), payload, len.saturating_sub(header_len));
}

/// Describes what is in a tunnel by its type.
fn any(out: &mut impl Out, context: &mut Context<'_>, kind: EtherType, bytes: &[u8], len: usize) {
    match kind {
        ETHERNET => context.inner(out, |out, context| link::ethernet(out, context, bytes, len)),
        ether_type::IPV4 => ip(out, context, ip_number::IPV4, bytes, len),
        ether_type::IPV6 => ip(out, context, ip_number::IPV6, bytes, len),
        EtherType(other) => {
            out.open("payload");
            out.say("ethertype ", "ether_type", Hex::<4>(other.into()));
            out.say(", length ", "length", len);
            out.close();
        }
    }
}

/// Describes a datagram that carries a packet; returns whether it does.
pub(super) fn udp(out: &mut impl Out, context: &mut Context<'_>, datagram: &Datagram<'_>) -> bool {
    // A reply comes from the port that a tunnel of this kind listens at only by chance: its source port is the inner
    // packet's hash.
    match datagram.destination_port {
        port if VXLAN_PORTS.contains(&port) => vxlan(out, context, datagram),
        GENEVE_PORT => geneve(out, context, datagram),
        _ => wireguard(out, datagram),
    }
}

fn vxlan(out: &mut impl Out, context: &mut Context<'_>, datagram: &Datagram<'_>) -> bool {
    const HAS_VNI: u8 = 1 << 3;
    let (header, frame) = split(datagram.payload, VXLAN_HEADER);
    let (Some(flags), Some(vni)) = (header.first(), u24_at(header, 4)) else { return false };
    if header.len() < VXLAN_HEADER {
        return false;
    }
    out.open("vxlan");
    out.words("VXLAN, ");
    if *flags != HAS_VNI {
        out.say("flags ", "flags", Hex::<2>((*flags).into()));
        out.words(", ");
    }
    out.say("vni ", "vni", vni);
    out.close();
    out.words(": ");
    let len = datagram.len.saturating_sub(VXLAN_HEADER);
    context.inner(out, |out, context| link::ethernet(out, context, frame, len));
    true
}

fn geneve(out: &mut impl Out, context: &mut Context<'_>, datagram: &Datagram<'_>) -> bool {
    let bytes = datagram.payload;
    let (Some(head), Some(kind), Some(vni)) = (u16_at(bytes, 0), u16_at(bytes, 2), u24_at(bytes, 4)) else {
        return false;
    };
    let options_len = usize::from(head >> 8 & 0x3f) * 4;
    if head >> 14 != 0 {
        return false;
    }
    out.open("geneve");
    out.words("Geneve, ");
    for (flag, letter, name) in [(1 << 7, "O, ", "is_control"), (1 << 6, "C, ", "has_critical_options")] {
        if head & flag != 0 {
            out.words(letter);
            out.detail(name, true);
        }
    }
    out.say("vni ", "vni", vni);
    if options_len > 0 {
        out.say(", options ", "options_length", options_len);
    }
    out.close();
    out.words(": ");
    let header_len = GENEVE_HEADER + options_len;
    let (_, payload) = split(bytes, header_len);
    any(out, context, EtherType(kind), payload, datagram.len.saturating_sub(header_len));
    true
}

/// Describes a message of WireGuard: only its kind and the indices of its session can be read (section 5.4 of its paper).
fn wireguard(out: &mut impl Out, datagram: &Datagram<'_>) -> bool {
    /// Bytes of a message without any data.
    const LEAST: usize = 32;
    let [kind, 0, 0, 0, ..] = datagram.payload else { return false };
    let is_at_home = WIREGUARD_PORTS.iter().any(|port| datagram.is_of(*port));
    let name = match (kind, datagram.len) {
        (1, 148) => "Handshake Initiation",
        (2, 92) => "Handshake Response",
        (3, 64) if is_at_home => "Cookie Reply",
        (4, LEAST) if is_at_home => "Keepalive",
        (4, LEAST..) if is_at_home => "Transport Data",
        _ => return false,
    };
    let index = |at: usize| {
        datagram.payload.get(at..).and_then(|bytes| bytes.first_chunk()).copied().map(u32::from_le_bytes)
    };
    out.open("wireguard");
    out.say("WireGuard ", "message", name);
    let own = matches!(kind, 1 | 2);
    if let Some(sender) = index(4).filter(|_| own) {
        out.say(", sender ", "sender", Hex::<8>(sender.into()));
    }
    if let Some(receiver) = index(if *kind == 2 { 8 } else { 4 }).filter(|_| *kind != 1) {
        out.say(", receiver ", "receiver", Hex::<8>(receiver.into()));
    }
    out.close();
    out.words(", length ");
    out.aside(datagram.len);
    true
}
