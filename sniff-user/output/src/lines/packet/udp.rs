//! UDP (RFC 768) and what is recognised inside it, mostly by its ports.

use std::net::IpAddr;

use etherparse::{UdpSlice, ip_number};

use super::{Context, checksum, dhcp, dns, ip, ntp, quic, tunnel};
use crate::lines::out::{Hex, Out};

const DNS_PORT: u16 = 53;
/// DNS among neighbours: Multicast DNS (RFC 6762) and LLMNR (RFC 4795).
const MDNS_PORT: u16 = 5353;
const LLMNR_PORT: u16 = 5355;
/// Length of a UDP header, in bytes, and where it has its checksum.
const UDP_HEADER: usize = 8;
const CHECKSUM: usize = 6;
/// Most bytes that a datagram's length field can tell of.
const MAX_DATAGRAM: usize = 65_535;

/// What a datagram carries.
pub(super) struct Datagram<'a> {
    pub(super) source_port: u16,
    pub(super) destination_port: u16,
    /// What was captured of it.
    pub(super) payload: &'a [u8],
    /// Its length in the kernel.
    pub(super) len: usize,
}

impl Datagram<'_> {
    /// Whether one of the ports is this one.
    pub(super) fn is_of(&self, port: u16) -> bool {
        self.source_port == port || self.destination_port == port
    }
}

/// Describes the datagram in a packet.
pub(super) fn describe(out: &mut impl Out, context: &mut Context<'_>, packet: &ip::Packet<'_>) {
    let (bytes, len) = (packet.payload, packet.payload_len);
    let Ok(udp) = UdpSlice::from_slice_lax(bytes) else {
        out.cut_off("udp");
        return out.say(", length ", "length", len);
    };
    // What stands behind the datagram in its packet is not its payload.
    let payload_len = match usize::from(udp.length()) {
        claimed @ UDP_HEADER.. if claimed < len && len <= MAX_DATAGRAM => claimed - UDP_HEADER,
        _ => len.saturating_sub(UDP_HEADER),
    };
    out.open("udp");
    out.detail("src_port", udp.source_port());
    out.detail("dst_port", udp.destination_port());
    out.detail("length", payload_len);
    if out.is_verbose() {
        describe_checksum(out, packet, udp.checksum(), payload_len + UDP_HEADER);
    }
    out.close();
    let datagram = Datagram {
        source_port: udp.source_port(),
        destination_port: udp.destination_port(),
        payload: udp.payload(),
        len: payload_len,
    };
    if out.is_brief() || !describe_payload(out, context, &datagram) {
        out.words("UDP, length ");
        out.aside(payload_len);
    }
}

fn describe_checksum(out: &mut impl Out, packet: &ip::Packet<'_>, checksum: u16, len: usize) {
    if checksum == 0 {
        out.words("[no cksum] ");
        return;
    }
    out.say("[cksum ", "checksum", Hex::<4>(checksum.into()));
    let bytes = &packet.payload[..packet.payload.len().min(len)];
    checksum::verify(out, || checksum::judge(packet.ends(), ip_number::UDP.0, bytes, len, CHECKSUM));
    out.words("] ");
}

/// Describes what is known; returns whether it is.
fn describe_payload(out: &mut impl Out, context: &mut Context<'_>, datagram: &Datagram<'_>) -> bool {
    let is_name_service = [DNS_PORT, MDNS_PORT, LLMNR_PORT].into_iter().any(|port| datagram.is_of(port));
    if is_name_service && dns::describe(out, "", datagram.payload) {
        out.words(" (");
        out.aside(datagram.len);
        out.words(")");
        return true;
    }
    dhcp::describe(out, datagram)
        || ntp::describe(out, datagram)
        || tunnel::udp(out, context, datagram)
        || quic::describe(out, datagram)
}

/// What a response of DNS in a packet says: the name that was asked for, and its addresses.
pub(super) fn dns_addresses(packet: &ip::Packet<'_>) -> Option<(String, Vec<IpAddr>)> {
    let is_udp = packet.protocol == ip_number::UDP;
    packet.ports().filter(|(source, _)| is_udp && *source == DNS_PORT)?;
    dns::addresses(UdpSlice::from_slice_lax(packet.payload).ok()?.payload())
}

/// Whether one of the ports is that of DNS.
pub(super) fn is_dns(source_port: u16, destination_port: u16) -> bool {
    source_port == DNS_PORT || destination_port == DNS_PORT
}
