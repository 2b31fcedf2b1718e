//! Where the headers of a packet end: behind VLAN tags, IPv4 options, IPv6 extension headers, and the header of the
//! transport protocol with its options.
//!
//! A header that is not understood ends the search, and so do bytes that cannot be read: everything from there on
//! counts as payload.

/// Reads a packet. Offsets are in bytes from its first one; numbers are in network order.
pub trait Bytes {
    /// One byte, or nothing behind the end.
    fn u8(&self, offset: u32) -> Option<u8>;
    /// Two bytes, or nothing behind the end.
    fn u16(&self, offset: u32) -> Option<u16>;
    /// The same offset, as one that nothing is known of. Each way through the headers leads to an offset of its own, and
    /// a verifier that knows them all follows what comes after once for each.
    #[inline(always)]
    fn forgotten(&self, offset: u32) -> u32 {
        offset
    }
}

const ETHERNET: u32 = 14;
const ETHERTYPE_IPV4: u16 = 0x0800;
const ETHERTYPE_ARP: u16 = 0x0806;
const ETHERTYPE_IPV6: u16 = 0x86dd;
/// 802.1Q, 802.1ad, and what was used before it.
const ETHERTYPES_VLAN: [u16; 3] = [0x8100, 0x88a8, 0x9100];
const VLAN: u32 = 4;
const MAX_VLANS: u32 = 3;
/// ARP for IPv4 over Ethernet: all of it is header.
const ARP: u32 = 28;
const IPV4: u32 = 20;
const IPV6: u32 = 40;
/// More than any real packet has; RFC 8200 section 4.1 orders seven.
const MAX_EXTENSIONS: u32 = 8;

/// TCP's number, and where its flags are in the header (RFC 9293, section 3.1).
pub const TCP: u8 = 6;
/// Offset of the byte with TCP's flags in its header.
pub const TCP_FLAGS: u32 = 13;
const UDP: u8 = 17;
const SCTP: u8 = 132;

/// What tells the flow of a packet from others, and how it stands in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ends {
    /// Source and destination; of IPv4 in the first two words. As they are in the packet, as are the ports.
    pub addresses: [u32; 8],
    /// Source and destination port.
    pub ports: u32,
    /// IP version.
    pub version: u8,
    /// TCP, UDP or SCTP, by number.
    pub protocol: u8,
    /// TCP's flags; 0 of others.
    pub tcp_flags: u8,
}

/// Bytes that [`usual_ipv4`] looks at.
pub const USUAL_IPV4: usize = 40;
/// And [`usual_ipv6`].
pub const USUAL_IPV6: usize = 60;

/// From the IP header on: the length of the headers, and the ends, of most packets, with IPv4 without options and TCP or UDP.
/// `None` of others, and of fragments: [`find`] knows.
#[inline(always)]
pub fn usual_ipv4(ip: &[u8; USUAL_IPV4]) -> Option<(u32, Ends)> {
    if ip[0] != 0x45 || (u16::from(ip[6]) << 8 | u16::from(ip[7])) & 0x3fff != 0 {
        return None;
    }
    let (header, tcp_flags) = usual_transport(ip[9], ip[IPV4 as usize + 12], ip[IPV4 as usize + 13])?;
    let word = |at: usize| u32::from_ne_bytes([ip[at], ip[at + 1], ip[at + 2], ip[at + 3]]);
    let addresses = [word(12), word(16), 0, 0, 0, 0, 0, 0];
    Some((IPV4 + header, Ends { addresses, ports: word(20), version: 4, protocol: ip[9], tcp_flags }))
}

/// As [`usual_ipv4`], of IPv6 without extension headers.
#[inline(always)]
pub fn usual_ipv6(ip: &[u8; USUAL_IPV6]) -> Option<(u32, Ends)> {
    if ip[0] >> 4 != 6 {
        return None;
    }
    let (header, tcp_flags) = usual_transport(ip[6], ip[IPV6 as usize + 12], ip[IPV6 as usize + 13])?;
    let word = |at: usize| u32::from_ne_bytes([ip[at], ip[at + 1], ip[at + 2], ip[at + 3]]);
    let addresses = [word(8), word(12), word(16), word(20), word(24), word(28), word(32), word(36)];
    Some((IPV6 + header, Ends { addresses, ports: word(40), version: 6, protocol: ip[6], tcp_flags }))
}

/// The length of the transport header, and TCP's flags.
#[inline(always)]
fn usual_transport(protocol: u8, tcp_words: u8, tcp_flags: u8) -> Option<(u32, u8)> {
    match protocol {
        TCP => Some(((u32::from(tcp_words >> 4) * 4).max(20), tcp_flags)),
        UDP => Some((8, 0)),
        _ => None,
    }
}

/// What was found of a packet's headers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Headers {
    /// Bytes up to their end.
    pub len: u32,
    /// Where the source address begins, which the destination follows; nothing is known of it where there are no ports.
    pub addresses: u32,
    /// Where the transport header begins, likewise.
    pub transport: u32,
    /// IP version, likewise.
    pub version: u8,
    /// TCP, UDP or SCTP, by number, of a packet that is no fragment: it begins with two ports. 0 of any other.
    pub protocol: u8,
}

impl Headers {
    #[inline(always)]
    fn without_ports(len: u32) -> Self {
        Self { len, ..Self::default() }
    }
}

/// The headers of a packet that starts with an Ethernet header, or with its IP header.
#[inline(always)]
pub fn find(bytes: &impl Bytes, ethernet: bool) -> Headers {
    if ethernet { of_ethernet(bytes) } else { of_ip(bytes, 0) }
}

#[inline(always)]
fn of_ethernet(bytes: &impl Bytes) -> Headers {
    let mut offset = ETHERNET;
    for _ in 0..=MAX_VLANS {
        let Some(ethertype) = bytes.u16(offset - 2) else {
            return Headers::without_ports(offset);
        };
        match ethertype {
            ETHERTYPE_IPV4 | ETHERTYPE_IPV6 => return of_ip(bytes, offset),
            ETHERTYPE_ARP => return Headers::without_ports(offset + ARP),
            _ if ETHERTYPES_VLAN.contains(&ethertype) => offset += VLAN,
            _ => return Headers::without_ports(offset),
        }
    }
    Headers::without_ports(offset)
}

#[inline(always)]
fn of_ip(bytes: &impl Bytes, offset: u32) -> Headers {
    let offset = bytes.forgotten(offset);
    match bytes.u8(offset).map(|byte| byte >> 4) {
        Some(4) => of_ipv4(bytes, offset),
        Some(6) => of_ipv6(bytes, offset),
        _ => Headers::without_ports(offset),
    }
}

/// RFC 791, section 3.1.
#[inline(always)]
fn of_ipv4(bytes: &impl Bytes, offset: u32) -> Headers {
    let header = bytes.u8(offset).map_or(0, |byte| u32::from(byte & 0xf) * 4).max(IPV4);
    let end = offset + header;
    // One after the other: that both are there is more than an old verifier can tell from a pair.
    let Some(fragment) = bytes.u16(offset + 6) else {
        return Headers::without_ports(end);
    };
    let Some(protocol) = bytes.u8(offset + 9) else {
        return Headers::without_ports(end);
    };
    // Only the first fragment has the transport header.
    if fragment & 0x1fff != 0 {
        return Headers::without_ports(end);
    }
    let is_fragment = fragment & 0x2000 != 0;
    of_transport(bytes, end, protocol, is_fragment, offset + 12, 4)
}

/// RFC 8200, section 4; RFC 4302 for the authentication header.
#[inline(always)]
fn of_ipv6(bytes: &impl Bytes, offset: u32) -> Headers {
    let (mut end, mut is_fragment) = (offset + IPV6, false);
    let Some(mut protocol) = bytes.u8(offset + 6) else {
        return Headers::without_ports(end);
    };
    for _ in 0..MAX_EXTENSIONS {
        end = bytes.forgotten(end);
        let (Some(next), Some(len)) = (bytes.u8(end), bytes.u8(end + 1)) else {
            return of_transport(bytes, end, protocol, is_fragment, offset + 8, 6);
        };
        let len = u32::from(len);
        match protocol {
            // Hop-by-hop options, routing, destination options, mobility, HIP, Shim6.
            0 | 43 | 60 | 135 | 139 | 140 => end += (len + 1) * 8,
            // Authentication.
            51 => end += (len + 2) * 4,
            // Fragment.
            44 => {
                let is_first = bytes.u16(end + 2).is_some_and(|field| field & 0xfff8 == 0);
                end += 8;
                if !is_first {
                    return Headers::without_ports(end);
                }
                is_fragment = true;
            }
            _ => return of_transport(bytes, end, protocol, is_fragment, offset + 8, 6),
        }
        protocol = next;
    }
    Headers::without_ports(end)
}

#[inline(always)]
fn of_transport(
    bytes: &impl Bytes,
    offset: u32,
    protocol: u8,
    is_fragment: bool,
    addresses: u32,
    version: u8,
) -> Headers {
    let transport = bytes.forgotten(offset);
    let len = transport
        + match protocol {
            TCP => bytes.u8(transport + 12).map_or(0, |byte| u32::from(byte >> 4) * 4).max(20),
            // ICMP, UDP, ESP (up to its sequence number), ICMPv6, UDP-Lite.
            1 | UDP | 50 | 58 | 136 => 8,
            // IGMP.
            2 => 8,
            SCTP => 12,
            _ => 0,
        };
    let has_ports = !is_fragment && matches!(protocol, TCP | UDP | SCTP);
    Headers { len, addresses, transport, version, protocol: if has_ports { protocol } else { 0 } }
}

#[cfg(test)]
mod tests {
    extern crate std;

    use std::{vec, vec::Vec};

    use super::*;

    fn len(packet: &Packet, ethernet: bool) -> u32 {
        find(packet, ethernet).len
    }

    struct Packet(Vec<u8>);

    impl Bytes for Packet {
        fn u8(&self, offset: u32) -> Option<u8> {
            self.0.get(offset as usize).copied()
        }

        fn u16(&self, offset: u32) -> Option<u16> {
            Some(u16::from_be_bytes([self.u8(offset)?, self.u8(offset + 1)?]))
        }
    }

    fn ethernet(ethertypes: &[u16], rest: &[&[u8]]) -> Packet {
        let mut bytes = vec![2; 12];
        for (i, ethertype) in ethertypes.iter().enumerate() {
            if i > 0 {
                bytes.extend([0, 7]);
            }
            bytes.extend(ethertype.to_be_bytes());
        }
        bytes.extend(rest.concat());
        bytes.extend([0xaa; 100]);
        Packet(bytes)
    }

    fn ipv4(words: u8, fragment: u16, protocol: u8) -> Vec<u8> {
        let mut header = vec![0; usize::from(words) * 4];
        header[0] = 0x40 | words;
        header[6..8].copy_from_slice(&fragment.to_be_bytes());
        header[9] = protocol;
        header
    }

    fn ipv6(next: u8) -> Vec<u8> {
        let mut header = vec![0; 40];
        header[0] = 0x60;
        header[6] = next;
        header
    }

    fn tcp(words: u8) -> Vec<u8> {
        let mut header = vec![0; usize::from(words) * 4];
        header[12] = words << 4;
        header
    }

    #[test]
    fn ends_behind_the_transport_header_and_its_options() {
        let cases: &[(&[u8], u32)] = &[(&tcp(5), 20), (&tcp(15), 60)];
        for (header, len_of_tcp) in cases {
            let packet = ethernet(&[0x0800], &[&ipv4(5, 0, 6), header]);
            assert_eq!(len(&packet, true), 14 + 20 + len_of_tcp);
        }
        assert_eq!(len(&ethernet(&[0x0800], &[&ipv4(5, 0, 17)]), true), 14 + 20 + 8);
        assert_eq!(len(&ethernet(&[0x0800], &[&ipv4(5, 0, 132)]), true), 14 + 20 + 12);
        assert_eq!(len(&ethernet(&[0x0800], &[&ipv4(5, 0, 47)]), true), 14 + 20);
    }

    #[test]
    fn goes_through_tags_and_ip_options() {
        let packet = ethernet(&[0x88a8, 0x8100, 0x0800], &[&ipv4(15, 0, 17)]);
        assert_eq!(len(&packet, true), 14 + 8 + 60 + 8);
    }

    #[test]
    fn goes_through_ipv6_extension_headers() {
        let hop_by_hop = [44, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        let first_fragment = [51, 0, 0, 1, 0, 0, 0, 0];
        let authentication = [6, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        let packet = ethernet(&[0x86dd], &[&ipv6(0), &hop_by_hop, &first_fragment, &authentication, &tcp(8)]);
        assert_eq!(len(&packet, true), 14 + 40 + 16 + 8 + 24 + 32);
    }

    #[test]
    fn later_fragments_have_no_transport_header() {
        assert_eq!(len(&ethernet(&[0x0800], &[&ipv4(5, 185, 6), &tcp(5)]), true), 14 + 20);
        let later_fragment = [6, 0, 0, 8, 0, 0, 0, 0];
        assert_eq!(len(&ethernet(&[0x86dd], &[&ipv6(44), &later_fragment]), true), 14 + 40 + 8);
    }

    #[test]
    fn what_is_not_understood_is_payload() {
        assert_eq!(len(&ethernet(&[0x88cc], &[]), true), 14);
        assert_eq!(len(&ethernet(&[0x0806], &[]), true), 14 + 28);
        assert_eq!(len(&ethernet(&[0x0800], &[&[0x55; 20]]), true), 14);
        assert_eq!(len(&ethernet(&[0x8100; 9], &[]), true), 14 + 4 * 4);
    }

    #[test]
    fn without_ethernet_the_packet_starts_with_ip() {
        assert_eq!(len(&Packet([ipv4(5, 0, 6), tcp(6)].concat()), false), 20 + 24);
        assert_eq!(len(&Packet([ipv6(58), vec![0; 64]].concat()), false), 40 + 8);
    }

    #[test]
    fn most_packets_are_found_at_once_to_be_what_they_are() {
        let udp = [0x1f, 0x90, 0x00, 0x50, 0, 8, 0, 0].to_vec();
        let mut syn = tcp(10);
        syn[..4].copy_from_slice(&[0x1f, 0x90, 0x00, 0x50]);
        syn[13] = 2;
        for (protocol, header, tcp_flags) in [(UDP, &udp, 0), (TCP, &syn, 2)] {
            let (v4, v6) = (ipv4(5, 0x4000, protocol), ipv6(protocol));
            let packets = [
                (14 + 12, [&v4[..], header, &[9; 64]].concat()),
                (14 + 8, [&v6[..], header, &[9; 64]].concat()),
            ];
            for (addresses, ip) in packets {
                let usual = match ip[0] >> 4 {
                    4 => usual_ipv4(ip.first_chunk().unwrap()),
                    _ => usual_ipv6(ip.first_chunk().unwrap()),
                };
                let (len, ends) = usual.expect("usual");
                let slow = find(&ethernet(&[if addresses == 26 { 0x0800 } else { 0x86dd }], &[&ip]), true);
                assert_eq!((14 + len, ends.version, ends.protocol), (slow.len, slow.version, slow.protocol));
                assert_eq!((ends.ports.to_ne_bytes(), ends.tcp_flags), ([0x1f, 0x90, 0, 0x50], tcp_flags));
                let len = if ends.version == 4 { 8 } else { 32 };
                let from = addresses as usize - 14;
                let bytes: Vec<u8> = ends.addresses.iter().flat_map(|word| word.to_ne_bytes()).collect();
                assert_eq!((slow.addresses, &bytes[..len]), (addresses, &ip[from..from + len]));
            }
        }
        for other in [ipv4(6, 0, TCP), ipv4(5, 0x2000, UDP), ipv4(5, 1, UDP), ipv4(5, 0, SCTP), ipv6(UDP)] {
            assert_eq!(usual_ipv4([&other[..], &[0; 64]].concat().first_chunk().unwrap()), None);
        }
        for other in [ipv6(44), ipv6(SCTP), ipv4(5, 0, UDP)] {
            assert_eq!(usual_ipv6([&other[..], &[0; 64]].concat().first_chunk().unwrap()), None);
        }
    }

    #[test]
    fn ports_are_told_of_whole_packets_that_have_some() {
        let of = |packet: &Packet| {
            let Headers { addresses, transport, version, protocol, .. } = find(packet, true);
            (protocol > 0).then_some((addresses, transport, version, protocol))
        };
        for protocol in [6, 17, 132] {
            let packet = ethernet(&[0x0800], &[&ipv4(6, 0, protocol)]);
            assert_eq!(of(&packet), Some((14 + 12, 14 + 24, 4, protocol)));
            let destination_options = [protocol, 0, 0, 0, 0, 0, 0, 0];
            let packet = ethernet(&[0x8100, 0x86dd], &[&ipv6(60), &destination_options]);
            assert_eq!(of(&packet), Some((18 + 8, 18 + 48, 6, protocol)));
            for fragment in [0x2000, 0x2001, 1] {
                assert_eq!(of(&ethernet(&[0x0800], &[&ipv4(5, fragment, protocol)])), None);
                let fragment = [protocol, 0, (fragment >> 5) as u8, 1, 0, 0, 0, 0];
                assert_eq!(of(&ethernet(&[0x86dd], &[&ipv6(44), &fragment])), None);
            }
        }
        for protocol in [1, 47, 50, 58] {
            assert_eq!(of(&ethernet(&[0x0800], &[&ipv4(5, 0, protocol)])), None);
        }
        assert_eq!(of(&ethernet(&[0x0806], &[])), None);
    }

    #[test]
    fn cut_packets_end_where_reading_ends() {
        let whole = ethernet(&[0x0800], &[&ipv4(5, 0, 6), &tcp(8)]).0;
        for end in 0..whole.len() {
            let cut = Packet(whole[..end].to_vec());
            assert!(len(&cut, true) <= 14 + 20 + 32, "cut at {end}");
        }
    }
}
