//! A file says of each packet whether its checksum is still to be filled in.

use std::net::{IpAddr, SocketAddr};

use sniff_tests::{
    frame,
    machine::{FakePod, Machine},
    netns::Netns,
    pcap::{Direction, Packet},
    sniff::Sniff,
    traffic::{self, UdpFlow},
};

use super::ways;
use crate::Capture;

const PORT: u16 = 7001;
/// Bytes of an Ethernet header.
const ETHERNET: usize = 14;

#[test]
fn what_a_pod_sends_without_its_checksum_is_marked_and_nothing_else() {
    let machine = Machine::boot();
    let node = machine.netns();
    let pod = machine.fake_pod("blue", 1);
    for way in ways() {
        let unfinished = capture(&node, &way, || exchange(&node, &pod));
        // UDP over either family and TCP, each both ways.
        for direction in [Direction::In, Direction::Out] {
            let kinds = [(4, 17), (6, 17), (4, 6)];
            for (version, protocol) in kinds {
                let is_one = |packet: &Packet| {
                    let segment = segment(&packet.data);
                    segment.is_some_and(|it| (it.version, it.protocol) == (version, protocol))
                };
                let mut found = unfinished.iter().filter(|packet| packet.direction == Some(direction));
                assert!(
                    found.any(is_one),
                    "{way:?}: {direction:?}: none of IPv{version}, protocol {protocol}"
                );
            }
        }
        for packet in &unfinished {
            let expected = segment(&packet.data).is_some_and(|segment| !segment.is_finished());
            assert_eq!(packet.checksum_not_ready, expected, "{way:?}: {packet:?}");
        }
        // Those that the pod sent once more, finished.
        let sent = unfinished.iter().filter(|packet| packet.direction == Some(Direction::Out));
        let frames: Vec<Vec<u8>> = sent.filter_map(|packet| finished(&packet.data)).collect();
        let captured = capture(&node, &way, || {
            for bytes in &frames {
                frame::send(&pod.netns, pod.eth0.index, bytes);
            }
        });
        let again: Vec<&Packet> = captured.iter().filter(|packet| frames.contains(&packet.data)).collect();
        assert!(again.len() >= frames.len(), "{way:?}");
        assert!(again.iter().all(|packet| !packet.checksum_not_ready), "{way:?}: {again:#?}");
    }
}

fn capture(node: &Netns, way: &[&str], work: impl FnOnce()) -> Vec<Packet> {
    let capture = Capture::new();
    let sniff = Sniff::in_netns(node).args(["--netns", "blue", "-w", capture.arg()]).args(way).start();
    work();
    capture.read_counted(&sniff.stop()).packets
}

/// Datagrams both ways over both families, a request over TCP, and echoes, which have no such checksum.
fn exchange(node: &Netns, pod: &FakePod) {
    let node_addresses: [IpAddr; 2] = [pod.gateway4.into(), pod.gateway6.into()];
    let pod_addresses: [IpAddr; 2] = [pod.ipv4.into(), pod.ipv6.into()];
    for address in pod_addresses {
        UdpFlow::open(node, &pod.netns, SocketAddr::new(address, PORT)).deliver(b"to the pod");
    }
    for address in node_addresses {
        UdpFlow::open(&pod.netns, node, SocketAddr::new(address, PORT)).deliver(b"from the pod");
    }
    traffic::http(&pod.netns, node, pod.ipv4.into());
    traffic::ping(node, pod.ipv4.into(), 1, 56);
}

/// A TCP segment or UDP datagram in a frame.
struct Segment<'a> {
    version: u8,
    protocol: u8,
    /// Of the IP header.
    addresses: &'a [u8],
    bytes: &'a [u8],
    /// Where its checksum is in the frame.
    field: usize,
}

fn segment(frame: &[u8]) -> Option<Segment<'_>> {
    let ip = &frame[ETHERNET..];
    let (version, protocol, addresses, header) = match frame[ETHERNET - 2..][..2] {
        [0x08, 0x00] => (4, ip[9], &ip[12..20], 20),
        [0x86, 0xdd] => (6, ip[6], &ip[8..40], 40),
        _ => return None,
    };
    let field = match protocol {
        6 => 16,
        17 => 6,
        _ => return None,
    };
    Some(Segment { version, protocol, addresses, bytes: &ip[header..], field: ETHERNET + header + field })
}

impl Segment<'_> {
    /// The sum over all that the checksum covers, itself included (RFC 1071).
    fn sum(&self) -> u16 {
        let length = (self.bytes.len() as u32).to_be_bytes();
        let covered = [self.addresses, &length, &[0, self.protocol], self.bytes].concat();
        covered.chunks(2).fold(0, |sum: u16, pair| {
            let word = u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or_default()]);
            let (sum, carry) = sum.overflowing_add(word);
            sum + u16::from(carry)
        })
    }

    fn is_finished(&self) -> bool {
        self.sum() == u16::MAX
    }
}

/// A frame with its checksum filled in; none without one.
fn finished(frame: &[u8]) -> Option<Vec<u8>> {
    let mut frame = frame.to_vec();
    let field = segment(&frame)?.field;
    frame[field..][..2].fill(0);
    let sum = segment(&frame)?.sum();
    frame[field..][..2].copy_from_slice(&(!sum).to_be_bytes());
    Some(frame)
}
