//! Where the IP header of a captured packet is.

use sniff_pcapng::LinkType;

const ETHERTYPE_IPV4: u16 = 0x0800;
const ETHERTYPE_IPV6: u16 = 0x86dd;
/// 802.1Q, and 802.1ad around it.
const ETHERTYPES_VLAN: [u16; 2] = [0x8100, 0x88a8];

/// A packet from where its IP header is to be on; `None` when it says that it has none, or is cut before it says so.
pub fn of(packet: &[u8], link_type: LinkType) -> Option<&[u8]> {
    match link_type {
        LinkType::Ethernet => behind_ethernet(packet),
        LinkType::Raw => Some(packet),
    }
}

fn behind_ethernet(frame: &[u8]) -> Option<&[u8]> {
    let mut at = 12;
    while ETHERTYPES_VLAN.contains(&u16_at(frame, at)?) {
        at += 4;
    }
    let is_ip = [ETHERTYPE_IPV4, ETHERTYPE_IPV6].contains(&u16_at(frame, at)?);
    is_ip.then(|| &frame[at + 2..])
}

/// The big-endian word of 16 bits at an offset.
pub fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..)?.first_chunk().map(|bytes| u16::from_be_bytes(*bytes))
}
