//! The packets that filters are compared on: a few thousand, the same in every run.
//!
//! Valid ones of every protocol that the expressions name, with the addresses and ports that they
//! name; the same in tags, labels and tunnels; cut at every length; changed at random; noise; and
//! long ones, which end in zeros so that a test run can make those up to 15 kB.

use std::net::{Ipv4Addr, Ipv6Addr};

use fastrand::Rng;

use super::{LinkType, headers::*};

/// Where the random choices start from.
pub const SEED: u64 = 0x5eed_f117;

const ETHERNET_HEADER: usize = 14;

const US: Mac = [0x00, 0x11, 0x22, 0x33, 0x44, 0x55];
const THEM: Mac = [0x66, 0x77, 0x88, 0x99, 0xaa, 0xbb];
const EVERYBODY: Mac = [0xff; 6];
const GROUP: Mac = [0x01, 0x00, 0x5e, 0x00, 0x00, 0xfb];
const GROUP6: Mac = [0x33, 0x33, 0, 0, 0, 1];
const BRIDGES: Mac = [0x01, 0x80, 0xc2, 0, 0, 0];

const V4: [Ipv4Addr; 13] = [
    Ipv4Addr::new(192, 0, 2, 1),
    Ipv4Addr::new(192, 0, 2, 2),
    Ipv4Addr::new(192, 0, 2, 9),
    Ipv4Addr::new(198, 51, 100, 7),
    Ipv4Addr::new(203, 0, 113, 200),
    Ipv4Addr::new(10, 1, 2, 3),
    Ipv4Addr::new(10, 200, 0, 1),
    Ipv4Addr::new(172, 16, 5, 4),
    Ipv4Addr::new(192, 168, 1, 1),
    Ipv4Addr::new(127, 0, 0, 1),
    Ipv4Addr::new(224, 0, 0, 251),
    Ipv4Addr::BROADCAST,
    Ipv4Addr::new(192, 0, 2, 248),
];

/// What libpcap takes `net loopback` for: a network's name has no length.
const LOOPBACK_NET: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 0);

const V6: [Ipv6Addr; 7] = [
    Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1),
    Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 2),
    Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 7),
    Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1),
    Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 5),
    Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1),
    Ipv6Addr::new(0, 0, 0, 0, 0, 0xffff, 0xc000, 0x0201),
];

const PORTS: [u16; 20] =
    [0, 20, 21, 22, 25, 53, 67, 68, 80, 123, 179, 443, 445, 1024, 3868, 5353, 6081, 8080, 33000, 65535];

/// TCP options: maximum segment size, SACK permitted, timestamps, padding.
const TCP_OPTIONS: [u8; 20] = [2, 4, 5, 0xb4, 4, 2, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2, 1, 3, 3, 7];

/// IPv4 router alert, and a record route of three addresses with padding.
const IP_OPTIONS: [&[u8]; 2] = [&[0x94, 4, 0, 0], &[7, 15, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]];

/// The packets of a link type.
pub fn packets(link_type: LinkType) -> Vec<Vec<u8>> {
    let frames = frames();
    match link_type {
        LinkType::Ethernet => frames,
        LinkType::Raw => frames.iter().filter_map(|frame| without_header(frame)).collect(),
    }
}

/// Frames of more than a page, up to the longest that a veth pair carries. Behind its headers each
/// byte tells its place.
pub fn long_frames() -> Vec<Vec<u8>> {
    let valid = valid_ip().into_iter();
    let giants = [20_000, 32_767, 32_768, 32_770, 60_000, 65_000]
        .into_iter()
        .flat_map(|length| valid.clone().step_by(13).map(move |frame| (frame, length)));
    let whole = frames().into_iter().filter(|frame| frame.len() >= 60);
    giants
        .chain(whole.step_by(23).map(|frame| (frame, 4200)))
        .map(|(mut frame, length)| {
            let places = frame.len()..length.max(frame.len());
            frame.extend(places.map(|place| (place ^ (place >> 8)) as u8));
            frame
        })
        .collect()
}

/// Valid IP packets of all kinds in plain Ethernet frames.
fn valid_ip() -> Vec<Vec<u8>> {
    let mut rng = Rng::with_seed(SEED);
    [transport(&mut rng), ipv4_special(), ipv6_special()].concat()
}

fn frames() -> Vec<Vec<u8>> {
    let mut rng = Rng::with_seed(SEED);
    let ip = valid_ip();
    let conversations: Vec<_> = (0..700).map(|_| conversation(&mut rng)).collect();
    let wrapped: Vec<_> = (0..500).map(|_| wrapped(&mut rng)).collect();
    let mut frames = [ip, conversations, tunnels(), wrapped, link_layer()].concat();
    let cut: Vec<_> = samples().iter().flat_map(|frame| every_length(frame)).collect();
    let changed: Vec<_> = (0..700).map(|_| changed(&mut rng, &frames)).collect();
    let noise = (0..200).map(|_| noise(&mut rng));
    let long: Vec<_> = [1514, 1518, 2999, 4000, 4096, 9014, 15_000]
        .into_iter()
        .flat_map(|length| samples().into_iter().map(move |frame| grown(frame, length)))
        .collect();
    frames.extend(cut);
    frames.extend(changed);
    frames.extend(noise);
    frames.extend(long);
    frames
}

/// The packet that a frame of more than a header carries.
fn without_header(frame: &[u8]) -> Option<Vec<u8>> {
    let packet = frame.get(ETHERNET_HEADER..)?;
    (!packet.is_empty()).then(|| packet.to_vec())
}

fn conversation(rng: &mut Rng) -> Vec<u8> {
    let macs = [US, THEM, EVERYBODY, GROUP, GROUP6];
    let (to, from) = (pick(rng, &macs), pick(rng, &macs));
    let (payload, protocol) = segment(rng);
    if rng.bool() {
        let mut header = Ipv4::new(pick(rng, &V4), pick(rng, &V4), protocol);
        header.ttl = pick(rng, &[1, 4, 32, 63, 64, 128, 255]);
        header.tos = pick(rng, &[0, 0, 0x10, 0xb8]);
        header.id = rng.u16(..);
        header.fragment = pick(rng, &[0, 0, 0x4000, 0x4000, 0x2000, 0x00b9, 0x20b9]);
        if rng.u8(..4) == 0 {
            header.options = pick(rng, &IP_OPTIONS).to_vec();
        }
        ethernet(to, from, IPV4, &header.packet(&payload))
    } else {
        let packet = ipv6(pick(rng, &V6), pick(rng, &V6), protocol, &payload);
        ethernet(to, from, IPV6, &packet)
    }
}

fn segment(rng: &mut Rng) -> (Vec<u8>, u8) {
    let (from, to) = (pick(rng, &PORTS), pick(rng, &PORTS));
    let length = pick(rng, &[0, 0, 1, 4, 18, 64, 512, 1400]);
    let payload: Vec<u8> = (0..length).map(|_| rng.u8(..)).collect();
    match rng.u8(..5) {
        0 => {
            let options = if rng.bool() { &TCP_OPTIONS[..] } else { &[] };
            (tcp(from, to, rng.u8(..), options, &payload), TCP)
        }
        1 => (udp(from, to, &payload), UDP),
        2 => (sctp(from, to, rng.u8(..15), &payload), SCTP),
        3 => (icmp(rng.u8(..19), rng.u8(..6), &payload), ICMP),
        _ => (icmp(rng.u8(128..155), 0, &payload), ICMP6),
    }
}

/// A conversation within tags, labels or a tunnel.
fn wrapped(rng: &mut Rng) -> Vec<u8> {
    let frame = conversation(rng);
    let ethertype = u16::from_be_bytes([frame[12], frame[13]]);
    let packet = &frame[ETHERNET_HEADER..];
    let tci = pick(rng, &[0, 5, 7, 100, 200, 300, 4095, 0xa005, 0xe064]);
    let labels: Vec<u32> =
        (0..rng.usize(1..4)).map(|_| pick(rng, &[100, 200, 1024, 100_000, 1_048_575])).collect();
    let session = pick(rng, &[0x27, 1, 65535]);
    match rng.u8(..7) {
        0 => tagged(VLAN, tci, &frame),
        1 => tagged(QINQ, tci, &frame),
        2 => tagged(QINQ, tci, &tagged(VLAN, pick(rng, &[200, 300, 7]), &frame)),
        3 => tagged(VLAN, tci, &tagged(VLAN, pick(rng, &[200, 300, 7]), &frame)),
        4 => ethernet(THEM, US, MPLS, &mpls(&labels, packet)),
        5 => {
            let protocol: u16 = if ethertype == IPV4 { 0x0021 } else { 0x0057 };
            let payload = [&protocol.to_be_bytes()[..], packet].concat();
            ethernet(THEM, US, PPPOE_SESSION, &pppoe(0, session, &payload))
        }
        _ => {
            let vni = pick(rng, &[0xb, 1, 0xff_ffff]);
            let inner = if rng.bool() { (0x6558, &frame[..]) } else { (ethertype, packet) };
            let payload = geneve(vni, inner.0, inner.1);
            ethernet(THEM, US, IPV4, &Ipv4::new(V4[5], V4[7], UDP).packet(&payload))
        }
    }
}

/// Each transport protocol between named ports, over both versions of IP, and messages of each
/// kind of ICMP.
fn transport(rng: &mut Rng) -> Vec<Vec<u8>> {
    let syn = 0x02;
    let flags = [syn, 0x12, 0x10, 0x18, 0x11, 0x14, 0x04, 0x01, 0x20, 0x42, 0x80, 0];
    let mut segments = Vec::new();
    for flags in flags {
        segments.push((tcp(80, 1024, flags, &[], &[]), TCP));
        segments.push((tcp(33000, 443, flags, &TCP_OPTIONS, &[]), TCP));
    }
    segments.push((tcp(33000, 80, 0x18, &[], b"GET / HTTP/1.0\r\n\r\n"), TCP));
    segments.push((tcp(33000, 80, 0x18, &TCP_OPTIONS, b"GET / HTTP/1.0\r\n\r\n"), TCP));
    for port in PORTS {
        let other = pick(rng, &PORTS);
        segments.push((tcp(port, other, 0x10, &[], &[7; 3]), TCP));
        segments.push((udp(other, port, &[0x80, 0, 0x81, 1]), UDP));
        segments.push((sctp(port, other, 1, &[0; 16]), SCTP));
        segments.push((udp(port, port, &[0; 100]), UDP));
    }
    segments.push((sctp(3868, 3868, 0, &[0; 12]), SCTP));
    let messages = (0..=18).flat_map(|kind| [(kind, 0), (kind, 4)]);
    segments.extend(messages.map(|(kind, code)| (icmp(kind, code, &[0, 1, 0, 2, 9]), ICMP)));
    let messages = (1..=4).chain(128..=153).flat_map(|kind| [(kind, 0), (kind, 4)]);
    let messages6 = messages.map(|(kind, code)| (icmp(kind, code, &[0, 1, 0, 2, 9]), ICMP6));
    segments.extend(messages6);
    segments
        .iter()
        .flat_map(|(segment, protocol)| {
            let header = Ipv4::new(V4[0], pick(rng, &V4), *protocol);
            let packet = ipv6(V6[0], pick(rng, &V6), *protocol, segment);
            [ethernet(THEM, US, IPV4, &header.packet(segment)), ethernet(US, THEM, IPV6, &packet)]
        })
        .collect()
}

/// IPv4 with options, in fragments, to groups, and with other protocols.
fn ipv4_special() -> Vec<Vec<u8>> {
    let segment = tcp(33000, 443, 0x18, &[], b"GET / HTTP/1.0\r\n\r\n");
    let datagram = udp(53, 53, &[0x80, 0, 0x81, 1, 2, 3]);
    let mut packets = Vec::new();
    for (payload, protocol) in [(&segment, TCP), (&datagram, UDP)] {
        for options in IP_OPTIONS {
            let mut header = Ipv4::new(V4[0], V4[1], protocol);
            header.options = options.to_vec();
            packets.push(header.packet(payload));
        }
        // Options of the greatest length, and a header whose length is a lie.
        let mut header = Ipv4::new(V4[3], V4[0], protocol);
        header.options = vec![1; 40];
        packets.push(header.packet(payload));
        for words in [0, 1, 4, 15] {
            let mut packet = Ipv4::new(V4[3], V4[0], protocol).packet(payload);
            packet[0] = 0x40 | words;
            packets.push(packet);
        }
        // First, middle and last fragment.
        for fragment in [0x2000, 0x2001, 0x20b9, 0x00b9, 0x1fff] {
            let mut header = Ipv4::new(V4[0], V4[1], protocol);
            header.fragment = fragment;
            packets.push(header.packet(payload));
        }
        for ttl in [0, 1, 4, 31, 32, 33, 63, 255] {
            let mut header = Ipv4::new(V4[1], V4[0], protocol);
            header.ttl = ttl;
            header.tos = ttl;
            packets.push(header.packet(payload));
        }
    }
    packets.push(Ipv4::new(V4[9], V4[9], UDP).packet(&datagram));
    // To itself, to groups, to all.
    for to in [V4[0], V4[10], V4[11], Ipv4Addr::UNSPECIFIED, LOOPBACK_NET] {
        packets.push(Ipv4::new(V4[0], to, UDP).packet(&datagram));
    }
    let igmp = [&[0x16, 0, 0, 0][..], &V4[10].octets()].concat();
    for (protocol, payload) in [
        (2, &igmp[..]),                                 // IGMPv2 report
        (103, &[0x20, 0, 0, 0, 0, 1]),                  // PIM hello
        (112, &[0x21, 7, 100, 1, 0, 1]),                // VRRP (and CARP)
        (50, &[0, 0, 0x10, 0, 0, 0, 0, 1, 0xaa, 0xbb]), // ESP
        (51, &[6, 4, 0, 0, 0, 0, 0x10, 0, 0, 0, 0, 1]), // AH
        (47, &[0, 0, 8, 0]),                            // GRE
        (89, &[2, 1, 0, 44]),                           // OSPF
        (88, &[2, 5, 0, 0]),                            // EIGRP
        (9, &[0x11, 0, 0, 0]),                          // IGRP
        (255, &[0; 8]),
        (0, &[0; 8]),
    ] {
        packets.push(Ipv4::new(V4[0], V4[10], protocol).packet(payload));
        packets.push(Ipv4::new(V4[5], V4[0], protocol).packet(payload));
    }
    packets.iter().map(|packet| ethernet(GROUP, US, IPV4, packet)).collect()
}

/// IPv6 with chains of extension headers, in fragments, and with other protocols.
fn ipv6_special() -> Vec<Vec<u8>> {
    let (hop_by_hop, routing, fragmented, options) = (0, 43, 44, 60);
    let segment = tcp(33000, 443, 0x18, &TCP_OPTIONS, b"GET / HTTP/1.0\r\n\r\n");
    let datagram = udp(53, 33000, &[0x80, 0, 0x81, 1, 2, 3]);
    let mut payloads: Vec<(u8, Vec<u8>)> = Vec::new();
    for (payload, protocol) in [(&segment, TCP), (&datagram, UDP)] {
        let last = extension(protocol, 0, payload);
        payloads.push((hop_by_hop, last.clone()));
        payloads.push((routing, extension(protocol, 2, payload)));
        payloads.push((options, extension(protocol, 1, payload)));
        payloads.push((hop_by_hop, extension(routing, 0, &extension(options, 1, &last))));
        for (offset, more) in [(0, true), (5, true), (185, false), (0, false)] {
            payloads.push((fragmented, fragment(protocol, offset, more, payload)));
            let inner = fragment(protocol, offset, more, payload);
            payloads.push((hop_by_hop, extension(fragmented, 0, &inner)));
        }
    }
    for protocol in [50, 51, 59, 89, 103, 112, 2, 255, ICMP] {
        payloads.push((protocol, vec![0x20, 7, 0, 0, 0, 1, 0, 2, 0, 0, 0, 0]));
    }
    let mut packets: Vec<_> = payloads
        .iter()
        .flat_map(|(next, payload)| {
            [(V6[0], V6[1]), (V6[3], V6[5])].map(|(from, to)| ipv6(from, to, *next, payload))
        })
        .collect();
    // Neighbour discovery has the greatest hop limit.
    for kind in 133..=137 {
        let mut packet = ipv6(V6[3], V6[5], ICMP6, &icmp(kind, 0, &[0; 20]));
        packet[7] = 255;
        packets.push(packet);
    }
    packets.iter().map(|packet| ethernet(GROUP6, US, IPV6, packet)).collect()
}

/// Tags, labels and tunnels around packets that the expressions look for.
fn tunnels() -> Vec<Vec<u8>> {
    let web = Ipv4::new(V4[0], V4[2], TCP).packet(&tcp(33000, 443, 0x18, &[], &[1; 60]));
    let dns = Ipv4::new(V4[2], V4[0], UDP).packet(&udp(53, 33000, &[0; 20]));
    let echo = Ipv4::new(V4[0], V4[1], ICMP).packet(&icmp(8, 0, &[0; 40]));
    let mut old = Ipv4::new(V4[3], V4[4], UDP);
    old.ttl = 3;
    let old = old.packet(&udp(8080, 5353, &[]));
    let web6 = ipv6(V6[0], V6[2], TCP, &tcp(443, 33000, 0x12, &TCP_OPTIONS, &[]));
    let question = arp(1, (US, V4[0]), ([0; 6], V4[1]));
    let inner = [(IPV4, &web), (IPV4, &dns), (IPV4, &echo), (IPV4, &old), (IPV6, &web6), (ARP, &question)];
    let mut frames = Vec::new();
    for (ethertype, packet) in inner {
        let frame = ethernet(THEM, US, ethertype, packet);
        for tci in [0, 5, 100, 4095, 0xa005] {
            frames.push(tagged(VLAN, tci, &frame));
            frames.push(tagged(QINQ, tci, &frame));
            frames.push(tagged(QINQ, tci, &tagged(VLAN, 200, &frame)));
            frames.push(tagged(VLAN, tci, &tagged(VLAN, 300, &frame)));
            let three = tagged(VLAN, 1, &tagged(VLAN, 2, &frame));
            frames.push(tagged(VLAN, tci, &three));
            frames.push(tagged(0x9100, tci, &frame));
        }
        for labels in [&[100][..], &[100, 200], &[100_000, 1024], &[3, 2, 1], &[1_048_575]] {
            let labelled = ethernet(THEM, US, MPLS, &mpls(labels, packet));
            frames.push(tagged(VLAN, 5, &labelled));
            frames.push(labelled);
        }
        for vni in [0xb, 0xff_ffff] {
            let plain = geneve(vni, ethertype, packet);
            let bridged = geneve(vni, 0x6558, &frame);
            let bridged_vlan = geneve(vni, 0x6558, &tagged(VLAN, 5, &frame));
            let labelled = geneve(vni, MPLS, &mpls(&[100], packet));
            let twice = Ipv4::new(V4[0], V4[1], UDP).packet(&geneve(1, 0x6558, &frame));
            let bridged_llc = geneve(vni, 0x6558, &ieee_802_3(THEM, US, &llc(0x42, 0x42, &[3], &[0; 20])));
            for payload in [plain, bridged, bridged_vlan, labelled, geneve(vni, IPV4, &twice), bridged_llc] {
                let outer = ethernet(THEM, US, IPV4, &Ipv4::new(V4[5], V4[7], UDP).packet(&payload));
                frames.push(tagged(VLAN, 7, &outer));
                frames.push(outer);
                frames.push(ethernet(THEM, US, IPV6, &ipv6(V6[1], V6[2], UDP, &payload)));
            }
        }
    }
    for (protocol, packet) in [(0x21_u16, &web), (0x21, &dns), (0x57, &web6), (0xc021, &echo)] {
        for session in [0x27, 1, 65535] {
            let payload = [&protocol.to_be_bytes()[..], packet].concat();
            let frame = ethernet(THEM, US, PPPOE_SESSION, &pppoe(0, session, &payload));
            frames.push(tagged(VLAN, 5, &frame));
            frames.push(frame);
        }
    }
    frames.push(ethernet(EVERYBODY, US, PPPOE_DISCOVERY, &pppoe(9, 0, &[1, 1, 0, 0])));
    frames
}

/// What is not IP.
fn link_layer() -> Vec<Vec<u8>> {
    let mut frames = Vec::new();
    for operation in [1, 2] {
        for (from, to) in [(V4[0], V4[1]), (V4[1], V4[0]), (V4[5], V4[7])] {
            frames.push(ethernet(EVERYBODY, US, ARP, &arp(operation, (US, from), ([0; 6], to))));
            let reverse = arp(operation + 2, (US, from), (THEM, to));
            frames.push(ethernet(EVERYBODY, THEM, RARP, &reverse));
        }
    }
    let (ten, other) = (10 << 10 | 123, 3 << 10 | 1);
    for (from, to) in [(ten, other), (other, ten), (ten, ten), (other, other)] {
        frames.push(ethernet(THEM, US, 0x6003, &decnet(from, to, &[0; 30])));
        frames.push(ethernet(THEM, US, 0x6003, &decnet(from, to, &[0; 235])));
    }
    // MOP, LAT, SCA, AppleTalk and its ARP, IPX, loopback, LLDP, 802.1X, an unknown one.
    for ethertype in
        [0x6001, 0x6002, 0x6004, 0x6007, 0x809b, 0x80f3, 0x8137, 0x9000, 0x88cc, 0x888e, 0x88b5, 1501]
    {
        frames.push(ethernet(THEM, US, ethertype, &[0; 46]));
        frames.push(ethernet(THEM, US, ethertype, &[0x5a; 46]));
    }
    let mut bodies = vec![
        llc(0x42, 0x42, &[0x03], &[0; 35]),    // spanning tree
        llc(0xf0, 0xf0, &[0x03], &[0x2c; 40]), // NetBEUI
        llc(0xe0, 0xe0, &[0x03], &[0xff; 30]), // IPX
        vec![0xff; 40],                        // IPX without LLC
        snap([0, 0, 0], 0x8137, &[0; 30]),     // IPX
        snap([8, 0, 7], 0x809b, &[0; 30]),     // AppleTalk
        snap([0, 0, 0], 0x80f3, &[0; 30]),     // AppleTalk ARP
        snap([0, 0, 0], IPV4, &Ipv4::new(V4[0], V4[1], UDP).packet(&udp(53, 53, &[]))),
        snap([0, 0, 0x0c], 0x2000, &[2, 180, 0, 0]), // CDP
        llc(0x64, 0x64, &[0x03], &[0; 9]),
    ];
    // Unnumbered PDUs: UI, UA, DISC, SABME, TEST, XID, FRMR; then supervisory and information.
    for control in [0x03, 0x73, 0x53, 0x7f, 0xf3, 0xbf, 0x97, 0x63, 0x43, 0x6f, 0xe3, 0xaf, 0x87] {
        bodies.push(llc(0x04, 0x04, &[control], &[1, 2, 3]));
    }
    for control in [[0x01, 0], [0x05, 2], [0x09, 4], [0x00, 0], [0x02, 0x10]] {
        bodies.push(llc(0x04, 0x05, &control, &[1, 2, 3]));
    }
    // CLNP, ES-IS, and IS-IS with each type of PDU.
    bodies.push(llc(0xfe, 0xfe, &[0x03], &[0x81, 10, 1, 0]));
    bodies.push(llc(0xfe, 0xfe, &[0x03], &[0x82, 10, 1, 0, 2]));
    for pdu in [15, 16, 17, 18, 20, 24, 25, 26, 27] {
        bodies.push(llc(0xfe, 0xfe, &[0x03], &[0x83, 27, 1, 0, pdu, 1, 0, 0, 0, 0]));
    }
    for body in &bodies {
        let frame = ieee_802_3(BRIDGES, US, body);
        frames.push(tagged(VLAN, 5, &frame));
        frames.push(frame);
    }
    frames
}

/// A frame of each kind of layout, for cutting and growing.
fn samples() -> Vec<Vec<u8>> {
    let web = tcp(33000, 443, 0x18, &TCP_OPTIONS, &[3; 12]);
    let dns = udp(53, 53, &[0x80, 0, 0x81, 1, 2, 3, 4, 5]);
    let plain = Ipv4::new(V4[0], V4[1], TCP).packet(&web);
    let mut with_options = Ipv4::new(V4[5], V4[0], UDP);
    with_options.options = IP_OPTIONS[1].to_vec();
    let with_options = with_options.packet(&dns);
    let plain6 = ipv6(V6[0], V6[1], TCP, &web);
    let chain = ipv6(V6[3], V6[5], 0, &extension(60, 0, &extension(UDP, 1, &dns)));
    let frame = ethernet(THEM, US, IPV4, &plain);
    let frame6 = ethernet(US, THEM, IPV6, &plain6);
    let session = [&[0, 0x21][..], &plain].concat();
    vec![
        ethernet(GROUP, US, IPV4, &with_options),
        ethernet(THEM, US, IPV4, &Ipv4::new(V4[0], V4[1], ICMP).packet(&icmp(8, 0, &[0; 24]))),
        ethernet(THEM, US, IPV4, &Ipv4::new(V4[0], V4[1], SCTP).packet(&sctp(3868, 3868, 1, &[0; 8]))),
        ethernet(GROUP6, US, IPV6, &chain),
        ethernet(THEM, US, IPV6, &ipv6(V6[0], V6[1], ICMP6, &icmp(135, 0, &[0; 20]))),
        ethernet(EVERYBODY, US, ARP, &arp(1, (US, V4[0]), ([0; 6], V4[1]))),
        tagged(VLAN, 5, &frame),
        tagged(QINQ, 100, &tagged(VLAN, 200, &frame6)),
        tagged(VLAN, 100, &ethernet(THEM, US, MPLS, &mpls(&[100, 200], &plain))),
        ethernet(THEM, US, MPLS, &mpls(&[1, 2, 3], &plain6)),
        ethernet(THEM, US, PPPOE_SESSION, &pppoe(0, 0x27, &session)),
        ethernet(THEM, US, IPV4, &Ipv4::new(V4[5], V4[7], UDP).packet(&geneve(0xb, 0x6558, &frame))),
        ieee_802_3(BRIDGES, US, &llc(0x42, 0x42, &[0x03], &[0; 35])),
        ieee_802_3(THEM, US, &snap([0, 0, 0], 0x8137, &[0; 30])),
        ieee_802_3(THEM, US, &llc(0xfe, 0xfe, &[0x03], &[0x83, 27, 1, 0, 18, 1, 0, 0])),
        ethernet(THEM, US, 0x6003, &decnet(10 << 10 | 123, 3 << 10, &[0; 8])),
        frame,
        frame6,
    ]
}

fn every_length(frame: &[u8]) -> impl Iterator<Item = Vec<u8>> {
    (1..frame.len()).map(|length| frame[..length].to_vec())
}

/// A frame with a few bytes changed, mostly among its headers, or cut, or doubled.
fn changed(rng: &mut Rng, frames: &[Vec<u8>]) -> Vec<u8> {
    let mut frame = frames[rng.usize(..frames.len())].clone();
    for _ in 0..rng.usize(1..5) {
        let place = rng.usize(..frame.len().min(80));
        let any = rng.u8(..);
        frame[place] = pick(rng, &[0, 1, 0x0f, 0x40, 0x7f, 0x80, 0xff, any]);
    }
    match rng.u8(..4) {
        0 => frame.truncate(rng.usize(1..=frame.len())),
        1 if frame.len() <= 1000 => frame.extend_from_within(..),
        _ => {}
    }
    frame
}

fn noise(rng: &mut Rng) -> Vec<u8> {
    let length = rng.usize(1..200);
    (0..length).map(|_| rng.u8(..)).collect()
}

/// A frame with zeros behind it up to a length.
fn grown(mut frame: Vec<u8>, length: usize) -> Vec<u8> {
    frame.resize(length, 0);
    frame
}

fn pick<T: Copy>(rng: &mut Rng, choices: &[T]) -> T {
    choices[rng.usize(..choices.len())]
}
