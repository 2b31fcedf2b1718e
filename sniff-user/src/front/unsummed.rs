//! Packets whose checksum is still to be filled in, on kernels whose classifiers cannot see the kernel's own word
//! (`bpf::checksum`). Until the device or the receiver sees to it, the field of TCP and UDP holds the sum of the
//! pseudo-header alone (`CHECKSUM_PARTIAL`, include/linux/skbuff.h). About one finished packet in 65,536 has the same
//! there by chance. Unmarked stay packets cut before the field, fragments, IPv6 with extension headers, and
//! what is inside tunnels.

use sniff_common::epb::{self, DATA_OFFSET, FLAGS_CHECKSUM_NOT_READY};
use sniff_pcapng::{InterfaceDescription, LinkType, PacketHead, change_each};

use super::network_layer::{self, u16_at};

const PROTOCOL_TCP: u8 = 6;
const PROTOCOL_UDP: u8 = 17;
/// Offset and "more fragments" in the word of IPv4 that has them (RFC 791, section 3.1).
const FRAGMENT: u16 = 0x3fff;

/// Finds them.
#[derive(Debug, Default)]
pub struct Unsummed {
    /// By pcapng interface id.
    link_types: Vec<LinkType>,
}

impl Unsummed {
    /// Learns of the next interface.
    pub fn interface(&mut self, description: &InterfaceDescription) {
        self.link_types.push(description.link_type);
    }

    /// Goes over whole blocks out of the ring, and marks those packets.
    pub fn mark(&self, run: &mut [u8]) {
        change_each(run, |head, block| {
            self.mark_one(head, block);
        });
    }

    fn mark_one(&self, head: PacketHead, block: &mut [u8]) -> Option<()> {
        let link_type = self.link_types.get(head.interface as usize)?;
        let data = block.get(DATA_OFFSET..)?.get(..head.captured_len as usize)?;
        if !is_unsummed(data, *link_type)? {
            return None;
        }
        let at = epb::flags_at(head.captured_len);
        let flags = block.get_mut(at..)?.first_chunk_mut()?;
        *flags = (u32::from_ne_bytes(*flags) | FLAGS_CHECKSUM_NOT_READY).to_ne_bytes();
        Some(())
    }
}

/// Whether a packet's checksum is that of its pseudo-header (RFC 9293, section 3.1; RFC 8200, section 8.1); none when it
/// does not show.
fn is_unsummed(packet: &[u8], link_type: LinkType) -> Option<bool> {
    let ip = network_layer::of(packet, link_type)?;
    let (protocol, payload_len, addresses, payload) = match ip.first()? >> 4 {
        4 => {
            let header = ip.first_chunk::<20>()?;
            let header_len = usize::from(header[0] & 0xf) * 4;
            let is_whole = u16::from_be_bytes([header[6], header[7]]) & FRAGMENT == 0;
            let len = usize::from(u16::from_be_bytes([header[2], header[3]]));
            let payload_len = len.checked_sub(header_len).filter(|_| is_whole)?;
            (header[9], payload_len, sum(&header[12..20]), ip.get(header_len..)?)
        }
        6 => {
            let (header, payload) = ip.split_first_chunk::<40>()?;
            let payload_len = usize::from(u16::from_be_bytes([header[4], header[5]]));
            (header[6], payload_len, sum(&header[8..40]), payload)
        }
        _ => return None,
    };
    let field = match protocol {
        PROTOCOL_TCP => u16_at(payload, 16)?,
        PROTOCOL_UDP => u16_at(payload, 6)?,
        _ => return None,
    };
    Some(folded(addresses + payload_len as u64 + u64::from(protocol)) == field)
}

/// The sum of words of 32 bits, which folds to that of words of 16.
fn sum(addresses: &[u8]) -> u64 {
    let words = addresses.as_chunks::<4>().0.iter();
    words.map(|word| u64::from(u32::from_be_bytes(*word))).sum()
}

/// A sum of a few words of 32 bits in one's complement of 16.
fn folded(sum: u64) -> u16 {
    let fold = |sum: u64| (sum >> 16) + (sum & 0xffff);
    fold(fold(fold(sum))) as u16
}

#[cfg(test)]
mod tests {
    use sniff_common::Direction;
    use sniff_pcapng::{EnhancedPacket, testing::RingPacket};

    use super::*;

    const TCP_FIELD: usize = 16;
    const UDP_FIELD: usize = 6;

    /// The start of an IPv4 packet with a transport header and 5 bytes behind it, no checksum filled in.
    fn ipv4(protocol: u8) -> Vec<u8> {
        let mut ip =
            vec![0x45, 0, 0, 45, 0, 1, 0x40, 0, 64, protocol, 0, 0, 10, 244, 1, 200, 192, 168, 255, 9];
        ip.extend([0x30, 0x39, 0, 80, 0, 25]);
        ip.resize(45, 0x5a);
        ip
    }

    fn ipv6(protocol: u8) -> Vec<u8> {
        let mut ip = vec![0x60, 0, 0, 0, 0, 25, protocol, 64];
        ip.extend((0..32).map(|byte| byte * 7));
        ip.resize(65, 0x33);
        ip
    }

    /// With a value in the field of a transport header that begins at `at`.
    fn with(mut packet: Vec<u8>, at: usize, field: usize, value: u16) -> Vec<u8> {
        packet[at + field..][..2].copy_from_slice(&value.to_be_bytes());
        packet
    }

    /// The pseudo-header's sum, added up as the RFC describes it.
    fn pseudo(addresses: &[u8], protocol: u8) -> u16 {
        let header = [addresses, &[0, protocol, 0, 25]].concat();
        let mut sum = 0_u32;
        for pair in header.chunks(2) {
            sum += u32::from(pair[0]) << 8 | u32::from(pair[1]);
            sum = (sum & 0xffff) + (sum >> 16);
        }
        sum as u16
    }

    fn samples() -> Vec<(Vec<u8>, usize, usize, u16)> {
        let mut samples = Vec::new();
        for (protocol, field) in [(PROTOCOL_TCP, TCP_FIELD), (PROTOCOL_UDP, UDP_FIELD)] {
            let (four, six) = (ipv4(protocol), ipv6(protocol));
            let (sum_4, sum_6) = (pseudo(&four[12..20], protocol), pseudo(&six[8..40], protocol));
            samples.extend([(four, 20, field, sum_4), (six, 40, field, sum_6)]);
        }
        samples
    }

    fn framed(tags: &[u8], packet: &[u8]) -> Vec<u8> {
        let ethertype = if packet[0] >> 4 == 4 { [8, 0] } else { [0x86, 0xdd] };
        [&[2; 12], tags, &ethertype, packet].concat()
    }

    #[test]
    fn the_sum_of_the_pseudo_header_alone_is_found() {
        for (packet, at, field, sum) in samples() {
            let unsummed = with(packet.clone(), at, field, sum);
            assert_eq!(is_unsummed(&unsummed, LinkType::Raw), Some(true));
            for tags in [&[][..], &[0x81, 0, 0, 7], &[0x88, 0xa8, 0, 7, 0x81, 0, 0, 8]] {
                assert_eq!(is_unsummed(&framed(tags, &unsummed), LinkType::Ethernet), Some(true));
            }
            // What a finished one has, whose data adds up to 1.
            assert_eq!(is_unsummed(&with(packet, at, field, !(sum + 1)), LinkType::Raw), Some(false));
        }
    }

    #[test]
    fn the_file_says_so_of_the_packet_and_of_no_other() {
        let (packet, at, field, sum) = samples().swap_remove(0);
        let [unsummed, finished] = [sum, !sum].map(|sum| framed(&[], &with(packet.clone(), at, field, sum)));
        let block =
            |interface, data, lost| RingPacket { interface, data, lost, ..RingPacket::default() }.block();
        let mut run = [
            block(0, &unsummed[..], None),
            block(0, &finished, None),
            block(0, &unsummed, Some(7)),
            block(1, &unsummed, None),
        ]
        .concat();
        let mut of_ethernet = Unsummed::default();
        of_ethernet.interface(&InterfaceDescription::new(LinkType::Ethernet, 0, "eth0"));
        of_ethernet.mark(&mut run);
        let packets = sniff_pcapng::blocks(&run).map(|block| EnhancedPacket::parse(block).unwrap());
        let told: Vec<_> = packets.map(|packet| (packet.flags, packet.dropcount)).collect();
        let marked = Direction::In as u32 | FLAGS_CHECKSUM_NOT_READY;
        assert_eq!(told, [(marked, 0), (1, 0), (marked, 7), (1, 0)]);
    }

    #[test]
    fn what_does_not_show_is_not_guessed() {
        let (packet, at, field, sum) = samples().swap_remove(0);
        let unsummed = with(packet, at, field, sum);
        for len in 0..at + field + 2 {
            assert_eq!(is_unsummed(&unsummed[..len], LinkType::Raw), None, "{len}");
        }
        let mut fragment = unsummed.clone();
        fragment[6] = 0x20;
        assert_eq!(is_unsummed(&fragment, LinkType::Raw), None);
        let mut icmp = unsummed;
        icmp[9] = 1;
        assert_eq!(is_unsummed(&icmp, LinkType::Raw), None);
        let arp = [&[0xff; 12], &[8, 6][..], &[0; 28]].concat();
        assert_eq!(is_unsummed(&arp, LinkType::Ethernet), None);
    }
}
