//! Tests of which packets are found to be one, on blocks as the kernel side writes them.

use sniff_pcapng::{EnhancedPacket, testing::RingPacket};

use super::*;

const A: u32 = 0;
const B: u32 = 1;
const C: u32 = 2;
/// A multicast group's.
const GROUP: [u8; 4] = [239, 1, 2, 3];
const TCP: u8 = 6;
const UDP: u8 = 17;
const MS: u64 = 1_000_000;

/// The last octet of each interface's address.
const ADDRESSES: [u8; 3] = [10, 11, 12];

fn address(interface: u32) -> [u8; 4] {
    [10, 0, 0, ADDRESSES[interface as usize]]
}

/// Three pods that are captured from the start, with the same filter.
fn ends() -> Ends {
    let mut ends = Ends::default();
    for interface in [A, B, C] {
        ends.interface(&InterfaceDescription::new(LinkType::Ethernet, 0, "eth0"));
        ends.captured(interface, [IpAddr::from(address(interface))], 0);
    }
    ends
}

/// An IPv4 packet without a link-layer header, with all there is in it that a router changes.
fn ipv4(protocol: u8, from: [u8; 4], to: [u8; 4], payload: &[u8]) -> Vec<u8> {
    let len = (20 + payload.len()) as u16;
    let mut ip = vec![0x45, 0x02, 0, 0, 0, 0, 0x40, 0, 64, protocol, 0xab, 0xcd];
    ip[2..4].copy_from_slice(&len.to_be_bytes());
    ip.extend(from.into_iter().chain(to));
    ip.extend(payload);
    ip
}

fn framed(mac: u8, tags: &[u8], ip: &[u8]) -> Vec<u8> {
    let ethertype: [u8; 2] = if ip[0] >> 4 == 4 { [8, 0] } else { [0x86, 0xdd] };
    [&[mac; 12], tags, &ethertype, ip].concat()
}

/// A datagram between two of the pods.
fn datagram(from: u32, to: u32, text: &[u8]) -> Vec<u8> {
    let payload = [&[0, 7, 0, 8, 0, 0, 0xaa, 0xbb], text].concat();
    framed(2, &[], &ipv4(UDP, address(from), address(to), &payload))
}

struct Seeing {
    ends: Ends,
    time_ns: u64,
}

/// What became of a packet: its id, and whether it is a copy.
type Told = (u64, bool);

impl Seeing {
    fn new() -> Self {
        Self { ends: ends(), time_ns: 1_000_000 * MS }
    }

    fn see(&mut self, packet: RingPacket<'_>) -> Told {
        self.time_ns += 1000;
        let mut block = RingPacket { time_ns: self.time_ns, has_packetid: true, ..packet }.block();
        let head = PacketHead::parse(&block).unwrap();
        let is_copy = self.ends.mark(head, &mut block);
        let packet = EnhancedPacket::parse(&block).unwrap();
        assert!(!packet.has_foreign_options);
        (packet.packet_id.expect("an id"), is_copy)
    }

    fn send(&mut self, interface: u32, data: &[u8]) -> u64 {
        let (id, is_copy) = self.see(RingPacket { interface, data, is_sent: true, ..RingPacket::default() });
        assert!(!is_copy, "it is where it was sent");
        id
    }

    fn come(&mut self, interface: u32, data: &[u8]) -> Told {
        self.see(RingPacket { interface, data, ..RingPacket::default() })
    }

    /// Checks that what comes in is the packet that was sent, or no other one.
    #[track_caller]
    fn pass(&mut self, sent: &[u8], come: &[u8], is_same: bool) {
        let id = self.send(A, sent);
        let (other, is_copy) = self.come(B, come);
        assert_eq!((id == other, is_copy), (is_same, is_same));
    }

    fn seen(self) -> (u64, u64) {
        let Seen { at_both, only_sent, forgotten } = self.ends.all_seen();
        assert_eq!(forgotten, 0);
        (at_both, only_sent)
    }
}

#[test]
fn a_packet_has_one_id_at_both_ends_and_every_other_its_own() {
    let mut seeing = Seeing::new();
    let mut ids = Vec::new();
    for text in [b"one", b"two"] {
        let id = seeing.send(A, &datagram(A, B, text));
        assert_eq!(seeing.come(B, &datagram(A, B, text)), (id, true));
        ids.push(id);
    }
    // From and to somebody else, and what is no IP.
    ids.push(seeing.come(B, &datagram(C, B, b"from nobody")).0);
    let away = framed(2, &[], &ipv4(UDP, address(A), [8, 8, 8, 8], &[0; 20]));
    ids.push(seeing.send(A, &away));
    let arp = [&[0xff; 12], &[8, 6][..], &[0; 28]].concat();
    ids.push(seeing.send(A, &arp));
    ids.push(seeing.come(B, &arp).0);
    let count = ids.len();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), count);
    assert_eq!(seeing.seen(), (2, 0));
}

#[test]
fn packets_that_are_alike_come_in_as_they_were_sent() {
    let mut seeing = Seeing::new();
    let same = datagram(A, B, b"again");
    let sent: Vec<u64> = (0..3).map(|_| seeing.send(A, &same)).collect();
    let come: Vec<Told> = (0..3).map(|_| seeing.come(B, &same)).collect();
    assert_eq!(come, [(sent[0], true), (sent[1], true), (sent[2], true)]);
    // A fourth, that somebody else has made of it, is no copy of what was sent.
    assert!(!seeing.come(B, &same).1);
    // One after the other.
    for _ in 0..3 {
        let id = seeing.send(A, &same);
        assert_eq!(seeing.come(B, &same), (id, true));
    }
    assert_eq!(seeing.seen(), (6, 0));
}

#[test]
fn what_is_lost_on_the_way_is_seen_only_where_it_is_sent() {
    let mut seeing = Seeing::new();
    let texts: Vec<Vec<u8>> = (0..10_u8).map(|number| datagram(A, B, &[number; 30])).collect();
    let sent: Vec<u64> = texts.iter().map(|text| seeing.send(A, text)).collect();
    // Others overtake each other.
    for number in [3, 1, 2, 9, 7, 8] {
        assert_eq!(seeing.come(B, &texts[number]), (sent[number], true));
    }
    assert_eq!(seeing.seen(), (6, 4));
}

#[test]
fn one_that_comes_too_late_is_no_copy() {
    let mut seeing = Seeing::new();
    let text = datagram(A, B, b"late");
    let id = seeing.send(A, &text);
    seeing.time_ns += WINDOW_NS - 1000;
    assert_eq!(seeing.come(B, &text), (id, true));
    let id = seeing.send(A, &text);
    seeing.time_ns += WINDOW_NS;
    let (other, is_copy) = seeing.come(B, &text);
    assert_eq!((other == id, is_copy), (false, false));
    assert_eq!(seeing.ends.sent.len(), 0);
    assert_eq!(seeing.ends.alike.len(), 0);
    assert_eq!(seeing.seen(), (1, 1));
}

#[test]
fn a_packet_does_not_come_in_where_it_is_sent() {
    let mut seeing = Seeing::new();
    let text = datagram(A, B, b"mine");
    let id = seeing.send(A, &text);
    assert!(!seeing.come(A, &text).1);
    assert_eq!(seeing.come(B, &text), (id, true));
    assert_eq!(seeing.seen(), (1, 0));
}

#[test]
fn a_pod_that_routes_has_each_hop_of_its_own() {
    let mut seeing = Seeing::new();
    let text = datagram(A, C, b"by way of B");
    let first = seeing.send(A, &text);
    assert_eq!(seeing.come(B, &text), (first, true));
    let second = seeing.send(B, &text);
    assert_ne!(first, second);
    assert_eq!(seeing.come(C, &text), (second, true));
    assert_eq!(seeing.seen(), (2, 0));
}

#[test]
fn what_goes_to_many_is_one_packet_at_all_of_them() {
    let to_group = |mac, number| framed(mac, &[], &ipv4(UDP, address(A), GROUP, &[number; 20]));
    let to_all = framed(0xff, &[], &ipv4(UDP, address(A), [10, 0, 0, 255], &[7; 20]));
    let unicast_frame = framed(2, &[], &ipv4(UDP, address(A), [255; 4], &[9; 20]));
    let mut seeing = Seeing::new();
    for text in [to_group(1, 5), to_all, unicast_frame] {
        let (one, two) = (seeing.send(A, &text), seeing.send(A, &text));
        for interface in [B, C] {
            assert_eq!(seeing.come(interface, &text), (one, true));
            assert_eq!(seeing.come(interface, &text), (two, true));
            assert!(!seeing.come(interface, &text).1);
        }
    }
    // That nobody has heard of it says nothing.
    seeing.send(A, &to_group(1, 6));
    assert_eq!(seeing.seen(), (6, 0));
}

#[test]
fn bridges_and_routers_do_not_make_another_packet() {
    let ip = ipv4(UDP, address(A), address(B), &[3; 40]);
    let sent = framed(2, &[], &ip);
    let mut routed = ip.clone();
    // Marked as congested, one hop further, with a checksum to that.
    (routed[1], routed[8], routed[11]) = (0x03, 63, 0xce);
    let mut seeing = Seeing::new();
    seeing.pass(&sent, &framed(6, &[], &routed), true);
    for tags in [&[0x81, 0, 0, 7][..], &[0x88, 0xa8, 0, 7, 0x81, 0, 0, 8]] {
        seeing.pass(&sent, &framed(6, tags, &routed), true);
        seeing.pass(&framed(6, tags, &routed), &sent, true);
    }
    // A frame of the least length.
    seeing.pass(&sent, &[&sent[..], &[0; 9]].concat(), true);
    seeing.ends.interface(&InterfaceDescription::new(LinkType::Raw, 0, "tun0"));
    let id = seeing.send(A, &sent);
    assert_eq!(seeing.come(3, &routed), (id, true));
}

#[test]
fn ipv6_is_told_apart_as_ipv4_is() {
    let packet = |to: u8, hop_limit, class: u8, text: &[u8]| {
        let mut ip = vec![0x60 | class >> 4, class << 4 | 5, 1, 2, 0, text.len() as u8, 58, hop_limit];
        ip.extend([[0xfd; 15], [0xfd; 15]].map(|net| [&net[..], &[to]].concat()).concat());
        ip.extend(text);
        framed(2, &[], &ip)
    };
    let mut seeing = Seeing::new();
    seeing.ends.captured(B, ["fdfd:fdfd:fdfd:fdfd:fdfd:fdfd:fdfd:fd07".parse().unwrap()], 0);
    seeing.pass(&packet(7, 64, 0, &[1; 30]), &packet(7, 63, 0xb9, &[1; 30]), true);
    seeing.pass(&packet(7, 64, 0, &[1; 30]), &packet(7, 64, 0, &[2; 30]), false);
    seeing.pass(&packet(7, 64, 0, &[1; 30]), &packet(8, 64, 0, &[1; 30]), false);
    let whole = packet(7, 64, 0, &[1; 30]);
    // The flow label.
    let mut other = whole.clone();
    other[17] ^= 1;
    seeing.pass(&whole, &other, false);
    assert_eq!(seeing.seen(), (1, 3));
}

#[test]
fn what_nat_has_changed_is_another_packet() {
    let service = [10, 96, 0, 10];
    let mut seeing = Seeing::new();
    let asked = |from: [u8; 4], to| framed(2, &[], &ipv4(TCP, from, to, &[4; 32]));
    // A Service's address becomes the pod's; it was no captured pod's.
    seeing.pass(&asked(address(A), service), &asked(address(A), address(B)), false);
    // The sender's becomes the node's.
    seeing.pass(&asked(address(A), address(B)), &asked([10, 0, 0, 1], address(B)), false);
    // A port.
    let mut other = asked(address(A), address(B));
    other[14 + 20 + 3] ^= 1;
    seeing.pass(&asked(address(A), address(B)), &other, false);
    assert_eq!(seeing.seen(), (0, 2));
}

#[test]
fn a_checksum_may_be_filled_in_on_the_way_of_a_whole_packet() {
    for (protocol, at, len) in [(TCP, 16, 2), (UDP, 6, 2), (132, 8, 4)] {
        let packet = framed(2, &[], &ipv4(protocol, address(A), address(B), &[5; 40]));
        let mut filled = packet.clone();
        filled[14 + 20 + at..][..len].fill(0x77);
        let mut seeing = Seeing::new();
        seeing.pass(&packet, &filled, true);
        for around in [at - 1, at + len] {
            let mut other = packet.clone();
            other[14 + 20 + around] ^= 0xff;
            seeing.pass(&packet, &other, false);
        }
        // Where the packet is cut, nothing else tells of what is not there.
        seeing.pass(&packet[..60], &packet[..60], true);
        seeing.pass(&packet[..60], &filled[..60], false);
        // No such field is in what continues a datagram.
        let (mut fragment, mut other) = (packet.clone(), filled);
        (fragment[14 + 7], other[14 + 7]) = (9, 9);
        Seeing::new().pass(&fragment, &other, false);
        Seeing::new().pass(&fragment, &fragment, true);
    }
}

#[test]
fn headers_that_are_cut_are_nobodys() {
    let whole = datagram(A, B, &[6; 100]);
    let least = 14 + 20 + TRANSPORT;
    for len in 0..whole.len() {
        let mut seeing = Seeing::new();
        seeing.pass(&whole[..len], &whole[..len], len >= least);
        let is_seen = u64::from(len >= least);
        assert_eq!(seeing.seen(), (is_seen, 0), "{len}");
    }
    // One that ends there is all there.
    let short = framed(2, &[], &ipv4(UDP, address(A), address(B), &[1, 2]));
    Seeing::new().pass(&short, &short, true);
}

#[test]
fn lengths_that_lie_are_no_ones_either() {
    let whole = datagram(A, B, &[6; 100]);
    let with = |at: usize, value: u8| {
        let mut packet = whole.clone();
        packet[14 + at] = value;
        packet
    };
    // Headers longer than the packet or shorter than a header, a packet shorter than its header, other versions.
    for (packet, is_same) in [
        (with(0, 0x40), false),
        (with(0, 0x44), false),
        (with(3, 19), false),
        (with(0, 0x50), false),
        (with(0, 0xf5), false),
        (with(2, 0xff), true),
        (with(0, 0x4f), true),
    ] {
        Seeing::new().pass(&packet, &packet, is_same);
    }
    let mut super_packet = whole.clone();
    super_packet[16..18].fill(0);
    Seeing::new().pass(&super_packet, &super_packet, true);
    for tags in [&[0x81, 0, 0, 7, 0x81, 0][..], &[0x81]] {
        let frame = [&[2; 12], tags].concat();
        Seeing::new().pass(&frame, &frame, false);
    }
    // Blocks that do not hold what they say.
    let mut seeing = Seeing::new();
    let block =
        RingPacket { data: &whole, has_packetid: true, is_sent: true, ..RingPacket::default() }.block();
    for captured in [whole.len() as u32 + 400, u32::MAX, u32::MAX - 3] {
        let mut block = block.clone();
        block[20..24].copy_from_slice(&captured.to_ne_bytes());
        let before = block.clone();
        let head = PacketHead::parse(&block).unwrap();
        assert!(!seeing.ends.mark(head, &mut block));
        assert_eq!(block, before);
    }
    // An interface that nobody has described.
    let mut unknown =
        RingPacket { interface: 9, data: &whole, has_packetid: true, ..RingPacket::default() }.block();
    let head = PacketHead::parse(&unknown).unwrap();
    assert!(!seeing.ends.mark(head, &mut unknown));
}

#[test]
fn a_block_without_room_stays_as_it_is() {
    let whole = datagram(A, B, &[6; 100]);
    for lost in [None, Some(7)] {
        let mut block = RingPacket { data: &whole, lost, is_sent: true, ..RingPacket::default() }.block();
        let before = block.clone();
        let mut ends = ends();
        let head = PacketHead::parse(&block).unwrap();
        assert!(!ends.mark(head, &mut block));
        assert_eq!(block, before);
        assert_eq!(ends.all_seen(), Seen::default());
    }
}

#[test]
fn what_is_remembered_has_a_bound() {
    let mut seeing = Seeing::new();
    let text = |number: u32| datagram(A, B, &number.to_be_bytes());
    let more = 100;
    for number in 0..MOST_SENT as u32 + more {
        seeing.send(A, &text(number));
    }
    assert_eq!(seeing.ends.sent.len(), MOST_SENT);
    assert_eq!(seeing.ends.alike.len(), MOST_SENT);
    assert!(!seeing.come(B, &text(0)).1);
    assert!(seeing.come(B, &text(more)).1);
    let seen = seeing.ends.all_seen();
    let expected = Seen { at_both: 1, only_sent: MOST_SENT as u64 - 1, forgotten: more.into() };
    assert_eq!(seen, expected);
}

#[test]
fn who_sends_the_same_again_and_again_is_looked_at_so_far() {
    let mut seeing = Seeing::new();
    let (to_many, mine) = (framed(1, &[], &ipv4(UDP, address(A), GROUP, &[1; 20])), datagram(B, A, b"mine"));
    for _ in 0..MOST_ALIKE + 1 {
        seeing.send(A, &to_many);
        seeing.send(B, &mine);
    }
    let copies = (0..MOST_ALIKE + 1).filter(|_| seeing.come(B, &to_many).1).count();
    assert_eq!(copies, MOST_ALIKE);
    seeing.send(A, &mine);
    assert!(!seeing.come(B, &mine).1, "it is behind too many of B's own");
    assert!(seeing.come(A, &mine).1);
}

#[test]
fn a_packet_is_awaited_where_its_address_is_captured_meanwhile() {
    let mut seeing = Seeing::new();
    let (start, text) = (seeing.time_ns, |number: u8| datagram(A, B, &[number; 9]));
    seeing.ends.addresses.clear();
    seeing.send(A, &text(0));
    seeing.ends.captured(B, [IpAddr::from(address(B))], start + 100 * MS);
    seeing.send(A, &text(1));
    seeing.time_ns = start + 100 * MS;
    seeing.send(A, &text(2));
    seeing.ends.left(B, start + 200 * MS);
    seeing.time_ns = start + 150 * MS;
    seeing.send(A, &text(3));
    seeing.time_ns = start + 200 * MS;
    seeing.send(A, &text(4));
    // To itself, as seen from the outside.
    seeing.ends.captured(A, [IpAddr::from(address(A))], 0);
    seeing.send(A, &datagram(A, A, b"self"));
    assert_eq!(seeing.seen(), (0, 2));
}

#[test]
fn interfaces_that_were_left_are_forgotten_in_time() {
    let mut ends = ends();
    ends.left(B, 5);
    ends.left(C, 6 + LEFT_NS);
    assert_eq!(ends.addresses.len(), 2);
    assert!(!ends.addresses.contains_key(&IpAddr::from(address(B))));
}

#[test]
fn where_another_filter_is_nothing_is_awaited() {
    let mut seeing = Seeing::new();
    let filter = Some("tcp".to_owned());
    let description = InterfaceDescription::new(LinkType::Ethernet, 0, "eth0");
    seeing.ends.interface(&InterfaceDescription { filter, ..description });
    let to = [10, 0, 0, 13];
    seeing.ends.captured(3, [IpAddr::from(to)], 0);
    let text = framed(2, &[], &ipv4(UDP, address(A), to, &[1; 20]));
    seeing.send(A, &text);
    let id = seeing.send(A, &text);
    seeing.come(3, &text);
    assert_eq!(seeing.come(3, &text), (id, true));
    seeing.send(A, &text);
    assert_eq!(seeing.seen(), (2, 0));
}

#[test]
fn without_another_end_nothing_is_remembered() {
    let mut seeing = Seeing { ends: Ends::default(), time_ns: MS };
    seeing.ends.interface(&InterfaceDescription::new(LinkType::Ethernet, 0, "eth0"));
    let ids: Vec<u64> = (0..3).map(|_| seeing.send(A, &datagram(A, B, b"alone"))).collect();
    assert_eq!(ids, [ids[0], ids[0].wrapping_add(1), ids[0].wrapping_add(2)]);
    assert!(seeing.ends.sent.is_empty());
}
