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

/// Bytes up to the end of the headers of a packet that starts with an Ethernet header, or with its IP header.
#[inline(always)]
pub fn len(bytes: &impl Bytes, ethernet: bool) -> u32 {
    if ethernet { of_ethernet(bytes) } else { of_ip(bytes, 0) }
}

#[inline(always)]
fn of_ethernet(bytes: &impl Bytes) -> u32 {
    let mut offset = ETHERNET;
    for _ in 0..=MAX_VLANS {
        let Some(ethertype) = bytes.u16(offset - 2) else {
            return offset;
        };
        match ethertype {
            ETHERTYPE_IPV4 | ETHERTYPE_IPV6 => return of_ip(bytes, offset),
            ETHERTYPE_ARP => return offset + ARP,
            _ if ETHERTYPES_VLAN.contains(&ethertype) => offset += VLAN,
            _ => return offset,
        }
    }
    offset
}

#[inline(always)]
fn of_ip(bytes: &impl Bytes, offset: u32) -> u32 {
    let offset = bytes.forgotten(offset);
    match bytes.u8(offset).map(|byte| byte >> 4) {
        Some(4) => of_ipv4(bytes, offset),
        Some(6) => of_ipv6(bytes, offset),
        _ => offset,
    }
}

/// RFC 791, section 3.1.
#[inline(always)]
fn of_ipv4(bytes: &impl Bytes, offset: u32) -> u32 {
    let header = bytes.u8(offset).map_or(0, |byte| u32::from(byte & 0xf) * 4).max(IPV4);
    let end = offset + header;
    let (Some(fragment), Some(protocol)) = (bytes.u16(offset + 6), bytes.u8(offset + 9)) else {
        return end;
    };
    // Only the first fragment has the transport header.
    if fragment & 0x1fff != 0 { end } else { of_transport(bytes, end, protocol) }
}

/// RFC 8200, section 4; RFC 4302 for the authentication header.
#[inline(always)]
fn of_ipv6(bytes: &impl Bytes, offset: u32) -> u32 {
    let mut end = offset + IPV6;
    let Some(mut protocol) = bytes.u8(offset + 6) else {
        return end;
    };
    for _ in 0..MAX_EXTENSIONS {
        end = bytes.forgotten(end);
        let (Some(next), Some(len)) = (bytes.u8(end), bytes.u8(end + 1)) else {
            return of_transport(bytes, end, protocol);
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
                    return end;
                }
            }
            _ => return of_transport(bytes, end, protocol),
        }
        protocol = next;
    }
    end
}

#[inline(always)]
fn of_transport(bytes: &impl Bytes, offset: u32, protocol: u8) -> u32 {
    let offset = bytes.forgotten(offset);
    offset
        + match protocol {
            // TCP, RFC 9293 section 3.1.
            6 => bytes.u8(offset + 12).map_or(0, |byte| u32::from(byte >> 4) * 4).max(20),
            // ICMP, UDP, ESP (up to its sequence number), ICMPv6, UDP-Lite.
            1 | 17 | 50 | 58 | 136 => 8,
            // IGMP.
            2 => 8,
            // SCTP.
            132 => 12,
            _ => 0,
        }
}

#[cfg(test)]
mod tests {
    extern crate std;

    use std::{vec, vec::Vec};

    use super::*;

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
    fn cut_packets_end_where_reading_ends() {
        let whole = ethernet(&[0x0800], &[&ipv4(5, 0, 6), &tcp(8)]).0;
        for end in 0..whole.len() {
            let cut = Packet(whole[..end].to_vec());
            assert!(len(&cut, true) <= 14 + 20 + 32, "cut at {end}");
        }
    }
}
