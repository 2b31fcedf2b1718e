//! Protocols above IP and beside it, and what the options of lines do.

use std::net::IpAddr;

use sniff_pcapng::Names;

use super::*;

/// A datagram from a port to another.
fn datagram(source_port: u16, destination_port: u16, payload: &[u8]) -> String {
    let frame = udp(source_port, destination_port, payload);
    let summary = summary(&frame);
    let start = format!("IP 10.1.2.3.{source_port} > 10.1.2.9.{destination_port}: ");
    summary.strip_prefix(&start).expect(&summary).to_owned()
}

/// What is told of a segment's payload.
fn carried(payload: &[u8]) -> String {
    let summary = summary(&tcp(40312, 443, payload));
    summary.split_once(&format!(", length {}", payload.len())).expect(&summary).1.to_owned()
}

/// An IP packet of a protocol.
fn ip(protocol: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = udp(0, 0, b"");
    frame.truncate(IP + 20);
    frame[IP + 9] = protocol;
    frame[TOTAL_LEN..TOTAL_LEN + 2].copy_from_slice(&(20 + payload.len() as u16).to_be_bytes());
    [&frame, payload].concat()
}

/// What is told behind the addresses.
fn of_ip(protocol: u8, payload: &[u8]) -> String {
    let summary = summary(&ip(protocol, payload));
    summary.strip_prefix("IP 10.1.2.3 > 10.1.2.9: ").expect(&summary).to_owned()
}

/// A list as TLS and others have it: a length of so many bytes in front.
fn counted(len_bytes: usize, content: &[u8]) -> Vec<u8> {
    let len = (content.len() as u32).to_be_bytes();
    [&len[4 - len_bytes..], content].concat()
}

fn extension(kind: u16, value: &[u8]) -> Vec<u8> {
    [&kind.to_be_bytes()[..], &counted(2, value)].concat()
}

/// A handshake's message in a record of its own.
fn handshake(kind: u8, body: &[u8]) -> Vec<u8> {
    [&[22, 3, 1][..], &counted(2, &[&[kind][..], &counted(3, body)].concat())].concat()
}

fn client_hello() -> Vec<u8> {
    let name = counted(2, &[&[0][..], &counted(2, b"api.shop.example")].concat());
    let extensions = [
        extension(0x3a3a, b""),
        extension(0, &name),
        extension(16, &counted(2, &[counted(1, b"h2"), counted(1, b"http/1.1")].concat())),
        extension(43, &counted(1, &[0x3a, 0x3a, 3, 4, 3, 3])),
    ];
    let body = [
        &[3, 3][..],
        &[7; 32],
        &counted(1, &[9; 32]),
        &counted(2, &[0x13, 1]),
        &[1, 0],
        &counted(2, &extensions.concat()),
    ];
    handshake(1, &body.concat())
}

#[test]
fn tls_handshakes_and_alerts() {
    let hello = client_hello();
    assert_eq!(carried(&hello), ": TLS ClientHello, SNI api.shop.example, ALPN h2,http/1.1, version 1.3");
    // Cut off behind the name, as in a segment that is too short for the hello.
    let name_end = hello.windows(7).position(|part| part == b"example").unwrap() + 7;
    assert_eq!(carried(&hello[..name_end]), ": TLS ClientHello, SNI api.shop.example, version 1.2");
    assert_eq!(carried(&hello[..name_end - 1]), ": TLS ClientHello, version 1.2");
    let server = [&[3, 3][..], &[7; 32], &[0], &[0x13, 1, 0], &counted(2, &extension(43, &[3, 4]))].concat();
    let many = [handshake(2, &server), vec![20, 3, 3, 0, 1, 1], vec![23, 3, 3, 0, 1, 1]].concat();
    assert_eq!(carried(&many), ": TLS ServerHello, version 1.3");
    let tls12 =
        [handshake(2, &[&[3, 3][..], &[7; 32], &[0], &[0, 0x2f, 0]].concat()), handshake(11, &[0; 40])];
    assert_eq!(carried(&tls12.concat()), ": TLS ServerHello, Certificate, version 1.2");
    assert_eq!(carried(&[21, 3, 3, 0, 2, 2, 40]), ": TLS Alert fatal handshake_failure");
    assert_eq!(carried(&[21, 3, 3, 0, 2, 1, 0]), ": TLS Alert warning close_notify");
    assert_eq!(carried(&[21, 3, 3, 0, 2, 2, 199]), ": TLS Alert fatal 199");
    assert_eq!(carried(&[&[21, 3, 3, 0, 26][..], &[5; 26]].concat()), ": TLS encrypted Alert");
    assert_eq!(carried(&[&[22, 3, 3, 0, 40][..], &[0xee; 40]].concat()), ": TLS encrypted Handshake");
    for no_record in [&[23, 3, 3, 0, 2, 1, 1][..], &[22, 9, 3, 0, 2, 1, 1], &[22, 3, 3, 0, 0], &[22, 3], b""]
    {
        assert_eq!(carried(no_record), "");
    }
    let hostile = client_hello();
    let at = name_end - 7;
    let hostile = [&hostile[..at], b"\x1b[2J\"\n\xff", &hostile[at + 7..]].concat();
    assert!(carried(&hostile).contains(r#"SNI api.shop.\x1b[2J\"\n\xff, ALPN"#));
}

#[test]
fn quic_long_headers() {
    let packet = |first, version: u32| {
        [&[first][..], &version.to_be_bytes(), &counted(1, &[0xab; 8]), &counted(1, &[0xcd; 4]), &[0; 8]]
            .concat()
    };
    let ids = "dcid abababababababab, scid cdcdcdcd";
    assert_eq!(datagram(5, 443, &packet(0xc0, 1)), format!("QUIC v1 Initial, {ids}, length 27"));
    assert_eq!(datagram(5, 8443, &packet(0xe0, 1)), format!("QUIC v1 Handshake, {ids}, length 27"));
    assert_eq!(datagram(443, 5, &packet(0xf0, 1)), format!("QUIC v1 Retry, {ids}, length 27"));
    assert_eq!(datagram(5, 443, &packet(0xd0, 0x6b33_43cf)), format!("QUIC v2 Initial, {ids}, length 27"));
    assert_eq!(
        datagram(5, 443, &packet(0xd0, 0xff00_001d)),
        format!("QUIC draft-29 0-RTT, {ids}, length 27")
    );
    let negotiation = format!("QUIC Version Negotiation, {ids}, versions 0x00000000 0x00000000, length 27");
    assert_eq!(datagram(443, 5, &packet(0x80, 0)), negotiation);
    // A short header, an unknown version, an id that is too long, and a packet that ends in it.
    for other in [packet(0x40, 1), packet(0xc0, 77), [&packet(0xc0, 1)[..5], &[21; 22]].concat()] {
        assert!(datagram(5, 443, &other).starts_with("UDP, length"));
    }
    assert_eq!(datagram(5, 443, &packet(0xc0, 1)[..9]), "UDP, length 9");
}

#[test]
fn packets_in_packets() {
    let inner = udp(7, 8, b"xyz");
    let told = "IP 10.1.2.3.7 > 10.1.2.9.8: UDP, length 3";
    let vxlan = [&[8, 0, 0, 0, 0, 1, 0, 0][..], &inner].concat();
    for port in [4789, 8472] {
        assert_eq!(datagram(5, port, &vxlan), format!("VXLAN, vni 256: {told}"));
    }
    let flagged = [&[0x88, 0, 0, 0, 0, 0, 9, 0][..], &inner].concat();
    assert_eq!(datagram(5, 4789, &flagged), format!("VXLAN, flags 0x88, vni 9: {told}"));
    assert_eq!(datagram(5, 4789, &vxlan[..7]), "UDP, length 7");
    assert_eq!(datagram(4789, 5, &vxlan), "UDP, length 53");
    let geneve = [&[1, 0x40, 0x65, 0x58, 0, 0, 42, 0, 1, 2, 3, 4][..], &inner].concat();
    assert_eq!(datagram(5, 6081, &geneve), format!("Geneve, C, vni 42, options 4: {told}"));
    let gre = [&[0x30, 0, 8, 0, 0, 0, 0, 7, 0, 0, 0, 9][..], &inner[IP..]].concat();
    assert_eq!(of_ip(47, &gre), format!("GREv0, key 7, seq 9, length 43: {told}"));
    let bridged = [&[0, 0, 0x65, 0x58][..], &inner].concat();
    assert_eq!(of_ip(47, &bridged), format!("GREv0, length 49: {told}"));
    assert_eq!(of_ip(47, &[0, 0, 0x88, 0x47, 1]), "GREv0, length 5: ethertype 0x8847, length 1");
    assert_eq!(of_ip(47, &[0, 1, 0x88, 0x0b, 1]), "GREv1, proto 0x880b, length 5");
    assert_eq!(of_ip(47, &[0, 0]), "GRE, [|gre], length 2");
    assert_eq!(of_ip(4, &inner[IP..]), told);
    let inner6 = frame!(ethernet().ipv6(A6, B6, 64).udp(7, 8), b"xyz");
    assert_eq!(of_ip(41, &inner6[IP..]), "IP6 fd00::a.7 > fd00::b.8: UDP, length 3");
    // Ten deep.
    let nested = (0..10).fold(inner[IP..].to_vec(), |packet, _| ip(4, &packet)[IP..].to_vec());
    assert_eq!(of_ip(4, &nested), format!("{}...", "IP 10.1.2.3 > 10.1.2.9: ".repeat(4)));
}

#[test]
fn wireguard_messages() {
    let message = |kind, len| {
        let mut message = vec![0x11; len];
        message[..12].copy_from_slice(&[kind, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0]);
        message
    };
    let of = |port, kind, len| datagram(5, port, &message(kind, len));
    assert_eq!(of(51820, 1, 148), "WireGuard Handshake Initiation, sender 0x00000001, length 148");
    assert_eq!(
        of(999, 2, 92),
        "WireGuard Handshake Response, sender 0x00000001, receiver 0x00000002, length 92"
    );
    assert_eq!(of(51820, 3, 64), "WireGuard Cookie Reply, receiver 0x00000001, length 64");
    assert_eq!(of(51871, 4, 32), "WireGuard Keepalive, receiver 0x00000001, length 32");
    assert_eq!(of(51820, 4, 96), "WireGuard Transport Data, receiver 0x00000001, length 96");
    for (port, kind, len) in [(999, 4, 96), (51820, 1, 147), (51820, 5, 148), (51820, 4, 31)] {
        assert_eq!(of(port, kind, len), format!("UDP, length {len}"));
    }
}

fn dhcp_message(op: u8, options: &[u8]) -> Vec<u8> {
    let mut message = vec![0; 236];
    message[..8].copy_from_slice(&[op, 1, 6, 0, 0, 0, 0x12, 0x34]);
    message[16..20].copy_from_slice(&if op == 2 { [10, 1, 2, 77] } else { [0; 4] });
    message[28..34].copy_from_slice(&MAC_A);
    [&message, &[0x63, 0x82, 0x53, 0x63][..], options].concat()
}

#[test]
fn dhcp_and_ntp() {
    let discover = dhcp_message(1, b"\x35\x01\x01\0\0\x0c\x04w\x1bb0\x32\x04\x0a\x01\x02\x4d\xff\x0c\x01x");
    assert_eq!(
        datagram(68, 67, &discover),
        "BOOTP/DHCP, Request from 02:00:00:00:00:0a, xid 0x00001234, Discover, hostname w\\x1bb0, requested 10.1.2.77, length 261"
    );
    let ack = dhcp_message(2, b"\x35\x01\x05\x36\x04\x0a\x01\x02\x01\x33\x04\0\0\x0e\x10\x0c\xffx");
    assert_eq!(
        datagram(67, 68, &ack),
        "BOOTP/DHCP, Reply to 02:00:00:00:00:0a, xid 0x00001234, yiaddr 10.1.2.77, ACK, server 10.1.2.1, lease 3600s, length 258"
    );
    assert_eq!(datagram(68, 67, &discover[..20]), "UDP, length 20");
    assert_eq!(datagram(546, 547, &[1, 0xab, 0xcd, 0xef]), "DHCPv6, solicit, xid 0xabcdef, length 4");
    assert_eq!(
        datagram(547, 546, &[7, 0, 0, 1, 0, 1, 0, 1, 9, 0, 13, 0, 2, 0, 2]),
        "DHCPv6, reply, xid 0x000001, status 2, length 15"
    );
    let ntp = |head, stratum| [&[head, stratum][..], &[0; 46]].concat();
    assert_eq!(datagram(5, 123, &ntp(0x23, 0)), "NTPv4, Client, length 48");
    assert_eq!(datagram(123, 5, &ntp(0x24, 2)), "NTPv4, Server, stratum 2, length 48");
    assert_eq!(datagram(123, 5, &ntp(0xdc, 0)), "NTPv3, Server, stratum 0, unsynchronised, length 48");
}

#[test]
fn multicast_dns() {
    let name = question(&[b"web", b"local"], 1);
    let mut unicast = name.clone();
    let class = unicast.len() - 2;
    unicast[class] = 0x80;
    assert_eq!(datagram(5353, 5353, &dns(0, [1, 0, 0, 0], &[&name])), "4711 A? web.local. (27)");
    assert_eq!(datagram(5353, 5353, &dns(0, [1, 0, 0, 0], &[&unicast])), "4711 A (QU)? web.local. (27)");
    assert_eq!(datagram(5, 5355, &dns(0, [1, 0, 0, 0], &[&name])), "4711 A? web.local. (27)");
}

#[test]
fn sctp_chunks() {
    let of = |chunks: &[&[u8]]| {
        let header = [0x8e, 0x3c, 0, 9, 0, 0, 0, 1, 0, 0, 0, 0];
        let summary = summary(&ip(132, &[&header[..], &chunks.concat()].concat()));
        summary.strip_prefix("IP 10.1.2.3.36412 > 10.1.2.9.9: SCTP").expect(&summary).to_owned()
    };
    let init = [1, 0, 0, 28, 0, 0, 0, 5, 0, 1, 0, 0, 0, 10, 0, 11, 0, 0, 0, 7, 0, 5, 0, 8, 10, 0, 0, 1];
    let told = " [INIT tag 5 rwnd 65536 OS 10 MIS 11 TSN 7 10.0.0.1]";
    assert_eq!(of(&[&init]), format!("{told}, length 40"));
    let data = [0, 3, 0, 17, 0, 0, 0, 9, 0, 1, 0, 2, 0, 0, 0, 60, b'x', 0, 0, 0];
    let sack = [3, 0, 0, 16, 0, 0, 0, 9, 0, 0, 0, 100, 0, 0, 0, 1];
    let told = " [DATA TSN 9 SID 1 SSEQ 2 PPID 60 length 1], [SACK TSN 9 rwnd 100 gaps 0 dups 1]";
    assert_eq!(of(&[&data, &sack]), format!("{told}, length 48"));
    assert_eq!(of(&[&[0, 2, 0, 16, 0, 0, 0, 9]]), " [DATA TSN 9 length 0 first], length 20");
    assert_eq!(
        of(&[&[14, 0, 0, 4], &[77, 0, 0, 4], &[4, 0, 0, 3]]),
        " [SHUTDOWN COMPLETE], [type 77], length 24"
    );
    assert_eq!(of(&[&[11, 0, 0, 4][..]; 20]).matches("COOKIE ACK").count(), 8);
    assert_eq!(of(&[]), ", length 12");
}

#[test]
fn groups_routers_and_ipsec() {
    assert_eq!(of_ip(2, &[0x11, 0, 0, 0, 0, 0, 0, 0]), "IGMP query v1, length 8");
    assert_eq!(of_ip(2, &[0x11, 100, 0, 0, 224, 0, 0, 7]), "IGMP query v2 for 224.0.0.7, length 8");
    assert_eq!(of_ip(2, &[0x11, 100, 0, 0, 0, 0, 0, 0, 2, 125, 0, 0]), "IGMP query v3, length 12");
    assert_eq!(of_ip(2, &[0x16, 0, 0, 0, 224, 0, 0, 7]), "IGMP report v2 224.0.0.7, length 8");
    assert_eq!(of_ip(2, &[0x17, 0, 0, 0, 224, 0, 0, 7]), "IGMP leave 224.0.0.7, length 8");
    let v3 = [
        &[0x22, 0, 0, 0, 0, 0, 0, 2][..],
        &[4, 0, 0, 1, 224, 0, 0, 7, 10, 0, 0, 1],
        &[3, 0, 0, 0, 224, 0, 0, 8],
    ];
    let told = "IGMP report v3, 224.0.0.7 to_ex, sources 1, 224.0.0.8 to_in, length 28";
    assert_eq!(of_ip(2, &v3.concat()), told);
    assert_eq!(of_ip(2, &[0x22, 0, 0, 0, 0, 0, 0xff, 0xff]), "IGMP report v3, length 8");

    let v2 = [0x21, 1, 100, 1, 0, 1, 0, 0, 10, 0, 0, 1];
    let told = "VRRPv2, Advertisement, (ttl 64), vrid 1, prio 100, authtype none, intvl 1s, addrs 10.0.0.1, length 12";
    assert_eq!(of_ip(112, &v2), told);
    let mut neighbour = ip(112, &[0x31, 7, 255, 1, 0, 100, 0, 0, 10, 0, 0, 1]);
    neighbour[IP + 8] = 255;
    let told = "VRRPv3, Advertisement, vrid 7, prio 255, intvl 1000ms, addrs 10.0.0.1, length 12";
    assert_eq!(summary(&neighbour), format!("IP 10.1.2.3 > 10.1.2.9: {told}"));
    assert_eq!(of_ip(112, &v2[..5]), "VRRP, [|vrrp], length 5");

    assert_eq!(of_ip(50, &[0, 0, 1, 2, 0, 0, 0, 0x1f, 9]), "ESP(spi=0x00000102,seq=0x1f), length 9");
    assert_eq!(of_ip(50, &[0; 7]), "ESP, [|esp], length 7");
    assert_eq!(of_ip(51, &[6, 4, 0, 0, 0, 0, 1, 2, 0, 0, 0, 3]), "AH(spi=0x00000102,seq=0x3), length 12");
}

#[test]
fn neighbours_and_listeners_of_ipv6() {
    let of = |kind, four: [u8; 4], rest: &[u8]| {
        let summary = summary(&frame!(ethernet().ipv6(A6, B6, 255).icmpv6_raw(kind, 0, four), rest));
        summary.strip_prefix("IP6 fd00::a > fd00::b: ICMP6, ").expect(&summary).to_owned()
    };
    assert_eq!(of(143, [0, 0, 0, 2], &[0; 40]), "multicast listener report v2, 2 group record(s), length 48");
    assert_eq!(of(130, [0, 10, 0, 0], &B6), "multicast listener query, addr fd00::b, length 24");
    assert_eq!(of(130, [0, 10, 0, 0], &[0; 16]), "multicast listener query, length 24");
    assert_eq!(of(131, [0; 4], &B6), "multicast listener report, addr fd00::b, length 24");
    assert_eq!(of(132, [0; 4], &B6[..9]), "multicast listener done, length 17");
    assert_eq!(of(137, [0; 4], &[A6, B6].concat()), "redirect, fd00::b to fd00::a, length 40");
    assert_eq!(of(137, [0; 4], &A6[..9]), "redirect, [|icmp6] to [|icmp6], length 17");
}

#[test]
fn bridges_and_switches() {
    let to_bridges = [1, 0x80, 0xc2, 0, 0, 0];
    let stp = [
        &to_bridges[..],
        &MAC_A,
        &[0, 38, 0x42, 0x42, 3, 0, 0, 0, 0, 1, 0x80, 0],
        &MAC_A,
        &[0, 0, 0, 4, 0x80, 1],
        &MAC_B,
        &[0x80, 2, 0, 1, 0, 20, 0, 2, 0, 15],
        &[0; 8],
    ]
    .concat();
    let told = "STP 802.1d, Config, Flags [Topology change], bridge-id 8001.02:00:00:00:00:0b.8002, root 8000.02:00:00:00:00:0a, cost 4, length 35";
    assert_eq!(summary(&stp), told);
    let change = [&to_bridges[..], &MAC_A, &[0, 7, 0x42, 0x42, 3, 0, 0, 0, 0x80]].concat();
    assert_eq!(summary(&change), "STP 802.1d, Topology Change, length 4");
    assert_eq!(summary(&stp[..30]), "STP 802.1d [|stp], length 35");

    let lldp =
        [&to_bridges[..], &MAC_A, &[0x88, 0xcc, 2, 7, 4], &MAC_A, b"\x04\x05\x05eth\x07\x0a\x03sw1\0\0"];
    let told = r"LLDP, chassis 02:00:00:00:00:0a, port eth\x07, name sw1, length 23";
    assert_eq!(summary(&lldp.concat()), told);
    assert_eq!(summary(&lldp.concat()[..20]), "LLDP [|lldp], length 6");
}

/// A segment from A to B or back, with its numbers.
fn segment(is_back: bool, numbers: (u32, u32), flags: &str, payload: &[u8], options: &[u8]) -> Vec<u8> {
    let ends = if is_back { ((B, 80), (A, 40_000)) } else { ((A, 40_000), (B, 80)) };
    let ((source, source_port), (destination, destination_port)) = ends;
    let mut tcp = ethernet().ipv4(source, destination, 64).tcp(source_port, destination_port, numbers.0, 500);
    for flag in flags.chars() {
        tcp = match flag {
            'S' => tcp.syn(),
            'F' => tcp.fin(),
            'R' => tcp.rst(),
            _ => tcp.ack(numbers.1),
        };
    }
    frame!(tcp.options_raw(options).unwrap(), payload)
}

/// What a printer tells of each segment behind the addresses.
fn told(printer: &mut Printer, frames: &[Vec<u8>]) -> Vec<String> {
    let tell = |frame: &Vec<u8>| {
        let line = print(printer, &packet(frame, frame.len()));
        line.trim_end().split_once("Flags ").unwrap().1.replace("win 500, ", "")
    };
    frames.iter().map(tell).collect()
}

#[test]
fn numbers_count_from_where_the_connection_began() {
    let sack = [1, 1, 5, 10, 0, 0, 0x13, 0xeb, 0, 0, 0x13, 0xf0];
    let frames = [
        segment(false, (u32::MAX, 0), "S", b"", b""),
        segment(true, (5000, 0), "S.", b"", b""),
        segment(false, (0, 5001), ".", b"", b""),
        segment(false, (0, 5001), ".", b"hello", b""),
        segment(true, (5001, 5), ".", b"", b""),
        segment(false, (5, 5001), ".", b"", &sack),
        segment(false, (5, 5001), "F.", b"", b""),
        segment(true, (5001, 0), "R", b"", b""),
    ];
    let printer = |style| printer(style, TimeZone::UTC, LinkType::Ethernet, &["eth0"]);
    let expected = [
        "[S], seq 4294967295, length 0",
        "[S.], seq 5000, ack 0, length 0",
        "[.], ack 1, length 0",
        "[.], seq 1:6, ack 1, length 5",
        "[.], ack 6, length 0",
        "[.], ack 1, options [sack 1 {99:104}], length 0",
        "[F.], seq 6, ack 1, length 0",
        "[R], seq 5001, length 0",
    ];
    assert_eq!(told(&mut printer(Style::default()), &frames), expected);
    let absolute = Style { absolute_numbers: true, ..Style::default() };
    let expected = [
        "[S], seq 4294967295, length 0",
        "[S.], seq 5000, ack 0, length 0",
        "[.], ack 5001, length 0",
        "[.], seq 0:5, ack 5001, length 5",
        "[.], ack 5, length 0",
        "[.], ack 5001, options [sack 1 {5099:5104}], length 0",
        "[F.], seq 5, ack 5001, length 0",
        "[R], seq 5001, length 0",
    ];
    assert_eq!(told(&mut printer(absolute), &frames), expected);
    // From the middle of a connection on.
    let expected = ["[.], ack 5001, length 0", "[.], seq 0:5, ack 1, length 5", "[.], ack 5, length 0"];
    assert_eq!(told(&mut printer(Style::default()), &frames[2..5]), expected);
}

#[test]
fn each_option_of_tcp_is_told() {
    let of = |options: &[u8]| {
        let summary = summary(&segment(false, (1, 0), "S", b"", options));
        let (_, told) = summary.split_once("win 500, ").unwrap();
        told.strip_suffix("length 0").unwrap().to_owned()
    };
    let syn = [2, 4, 5, 0xb4, 4, 2, 8, 10, 0, 0, 0, 111, 0, 0, 0, 0, 1, 3, 3, 7];
    assert_eq!(of(&syn), "options [mss 1460,sackOK,TS val 111 ecr 0,wscale 7], ");
    assert_eq!(of(&[1, 1, 1, 1]), "");
    assert_eq!(of(&[0, 9, 9, 9]), "");
    assert_eq!(of(&[30, 12, 0x21, 0, 0, 0, 0, 0, 0, 0, 0, 0]), "options [mptcp dss], ");
    assert_eq!(of(&[34, 2, 34, 4, 0xab, 0xcd, 1, 1]), "options [tfo cookiereq,tfo cookie abcd], ");
    assert_eq!(of(&[28, 4, 0x80, 5, 28, 4, 0, 9]), "options [uto 5m,uto 9s], ");
    assert_eq!(of(&[30, 3, 0xf1, 1]), "options [mptcp 15], ");
    assert_eq!(of(&[253, 4, 1, 2]), "options [unknown-253 0x0102], ");
    // Lengths that lie.
    for lie in [[2, 9, 1, 1], [2, 0, 1, 1], [2, 1, 1, 1], [1, 1, 1, 2]] {
        assert_eq!(of(&lie), "options [[|tcp]], ", "{lie:?}");
    }
    assert_eq!(of(&[5, 5, 1, 2, 3, 1, 1, 1]), "options [unknown-5 0x010203], ");
}

#[test]
fn verbose_tells_all_of_ip_and_whether_checksums_are_right() {
    let style = Style { verbose: true, ..Style::default() };
    let mut printer = printer(style, TimeZone::UTC, LinkType::Ethernet, &["eth0"]);
    let mut tell = |frame: &[u8]| {
        let line = print(&mut printer, &packet(frame, frame.len()));
        line.strip_prefix("08:53:20.000000 In  ").unwrap().trim_end().to_owned()
    };
    let mut frame = segment(false, (1, 0), "S", b"", b"");
    let ip = "IP (tos 0x0, ttl 64, id 0, offset 0, flags [DF], proto TCP (6), length 40)";
    let tcp = "10.1.2.3.40000 > 10.1.2.9.80: Flags [S], cksum";
    let right = u16::from_be_bytes([frame[IP + 36], frame[IP + 37]]);
    assert_eq!(tell(&frame), format!("{ip}\n    {tcp} {right:#06x} (correct), seq 1, win 500, length 0"));
    frame[IP + 36..IP + 38].copy_from_slice(&[0x12, 0x34]);
    let wrong = format!("0x1234 (incorrect -> {right:#06x})");
    assert_eq!(tell(&frame), format!("{ip}\n    {tcp} {wrong}, seq 1, win 500, length 0"));
    // 0a01 + 0203 + 0a01 + 0209 + 6 + 20: the pseudo-header.
    frame[IP + 36..IP + 38].copy_from_slice(&[0x18, 0x28]);
    assert!(tell(&frame).contains("cksum 0x1828 (not filled in yet), seq 1"));
    frame[IP + 8] = 63;
    assert!(tell(&frame).contains("length 40, bad cksum 0x") && tell(&frame).contains("ttl 63"));
    let unverified = Style { verbose: true, unverified: true, ..Style::default() };
    let mut unverified = super::printer(unverified, TimeZone::UTC, LinkType::Ethernet, &["eth0"]);
    let line = print(&mut unverified, &packet(&frame, frame.len()));
    assert!(line.contains("length 40)\n") && line.contains("cksum 0x1828, seq 1"), "{line}");

    let udp = frame!(ethernet().ipv6(A6, B6, 7).udp(5, 9), b"x");
    let ip6 = "IP6 (hlim 7, next-header UDP (17) payload length: 9) fd00::a.5 > fd00::b.9:";
    let checksum = u16::from_be_bytes([udp[IP + 46], udp[IP + 47]]);
    assert_eq!(tell(&udp), format!("{ip6} [cksum {checksum:#06x} (correct)] UDP, length 1"));
    let mut none = super::udp(5, 9, b"x");
    none[IP + 26..IP + 28].fill(0);
    assert!(tell(&none).ends_with("10.1.2.3.5 > 10.1.2.9.9: [no cksum] UDP, length 1"));
    // Of what was cut off nothing can be said.
    let cut = &super::udp(5, 9, &[1; 100])[..100];
    let line = print(
        &mut super::printer(
            Style { verbose: true, ..Style::default() },
            TimeZone::UTC,
            LinkType::Ethernet,
            &["eth0"],
        ),
        &packet(cut, 142),
    );
    assert!(line.contains("[cksum 0x") && !line.contains("correct"), "{line}");
}

#[test]
fn brief_tells_who_sends_how_much() {
    let style = Style { brief: true, ..Style::default() };
    let mut printer = printer(style, TimeZone::UTC, LinkType::Ethernet, &["eth0"]);
    let mut tell = |frame: &[u8]| print(&mut printer, &packet(frame, frame.len()));
    assert_eq!(tell(&tcp(5, 80, b"GET / ")), "08:53:20.000000 In  IP 10.1.2.3.5 > 10.1.2.9.80: tcp 6\n");
    let query = udp(5, 53, &dns(0x100, [1, 0, 0, 0], &[&question(&[b"a"], 1)]));
    assert_eq!(tell(&query), "08:53:20.000000 In  IP 10.1.2.3.5 > 10.1.2.9.53: UDP, length 19\n");
}

#[test]
fn the_link_level_header_can_be_shown() {
    let style = Style { link_header: true, time: Time::None, ..Style::default() };
    let mut printer = printer(style, TimeZone::UTC, LinkType::Ethernet, &["eth0"]);
    let mut tell = |frame: &[u8]| print(&mut printer, &packet(frame, frame.len()));
    let macs = "In  02:00:00:00:00:0a > 02:00:00:00:00:0b,";
    assert_eq!(
        tell(&udp(5, 9, b"x")),
        format!("{macs} ethertype IPv4 (0x0800), length 43: 10.1.2.3.5 > 10.1.2.9.9: UDP, length 1\n")
    );
    let tagged = frame!(ethernet().single_vlan(VlanId::try_new(42).unwrap()).ipv4(A, B, 64).udp(5, 9), b"x");
    assert_eq!(
        tell(&tagged),
        format!(
            "{macs} ethertype 802.1Q (0x8100), length 47: vlan 42, p 0, ethertype IPv4 (0x0800), 10.1.2.3.5 > 10.1.2.9.9: UDP, length 1\n"
        )
    );
}

#[test]
fn addresses_with_names_carry_them() {
    let mut names = Names::default();
    names.insert(IpAddr::from(B), "db-0.shop");
    names.insert(IpAddr::from(B6), "db-0.shop");
    let tell = |style, frame: &[u8]| {
        let mut printer = printer(style, TimeZone::UTC, LinkType::Ethernet, &["eth0"]);
        let mut blocks = Vec::new();
        names.write(&mut blocks);
        printer.learn(&blocks);
        printer.learn(b"no block");
        print(&mut printer, &packet(frame, frame.len()))
    };
    let style = Style { time: Time::None, ..Style::default() };
    let frame = udp(5, 9, b"x");
    assert_eq!(tell(style.clone(), &frame), "In  IP 10.1.2.3.5 > db-0.shop.9: UDP, length 1\n");
    let v6 = frame!(ethernet().ipv6(A6, B6, 7).udp(5, 9), b"x");
    assert_eq!(tell(style.clone(), &v6), "In  IP6 fd00::a.5 > db-0.shop.9: UDP, length 1\n");
    let numeric = Style { numeric: true, ..style.clone() };
    assert_eq!(tell(numeric, &frame), "In  IP 10.1.2.3.5 > 10.1.2.9.9: UDP, length 1\n");
    let json = tell(Style { form: Form::Json, ..style }, &frame);
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!((&json["ip"]["dst"], &json["ip"]["dst_name"]), (&"10.1.2.9".into(), &"db-0.shop".into()));
    assert_eq!(json["ip"]["src_name"], serde_json::Value::Null);
}

#[test]
fn json_has_the_id_that_a_packet_has_at_both_ends() {
    let style = Style { form: Form::Json, ..Style::default() };
    let mut printer = printer(style, TimeZone::UTC, LinkType::Ethernet, &["shop/web/eth0"]);
    let frame = udp(5, 53, b"");
    let packet = EnhancedPacket { packet_id: Some(u64::MAX - 1), ..packet(&frame, frame.len()) };
    let json: serde_json::Value = serde_json::from_str(&print(&mut printer, &packet)).unwrap();
    assert_eq!(json["packet_id"], "0xfffffffffffffffe");
}

#[test]
fn json_has_what_text_has() {
    let style = Style { form: Form::Json, dump: Dump::of_options(1, 0, 0), ..Style::default() };
    let mut printer =
        printer(style, TimeZone::posix("NPT-5:45").unwrap(), LinkType::Ethernet, &["shop/web/eth0"]);
    let mut of = |frame: &[u8]| -> serde_json::Value {
        serde_json::from_str(&print(&mut printer, &packet(frame, frame.len() + 1))).unwrap()
    };
    let json = of(&udp(5, 53, &dns(0x100, [1, 0, 0, 0], &[&question(&[b"a\"\xff"], 1)])));
    assert_eq!(json["time"], "2025-10-09T08:53:20.000000789Z");
    assert_eq!(json["interface"], "shop/web/eth0");
    assert_eq!(
        (&json["direction"], &json["length"], &json["captured"]),
        (&"in".into(), &64.into(), &63.into())
    );
    assert_eq!(json["packet_id"], serde_json::Value::Null);
    assert_eq!(json["dns"]["name"], r#"a\"\xff."#);
    assert_eq!((&json["dns"]["id"], &json["udp"]["dst_port"]), (&4711.into(), &53.into()));
    assert!(json["bytes"].as_str().unwrap().starts_with("45000031"), "{json}");

    let sack = [1, 1, 5, 10, 0, 0, 0, 3, 0, 0, 0, 4];
    let json = of(&segment(false, (7, 3), ".", b"", &sack));
    assert_eq!(json["tcp"]["options"]["sack"], serde_json::json!([[3, 4]]));
    let vxlan = [&[8, 0, 0, 0, 0, 1, 0, 0][..], &udp(7, 8, b"xyz")].concat();
    let json = of(&udp(5, 4789, &vxlan));
    assert_eq!((&json["vxlan"]["vni"], &json["inner"]["udp"]["dst_port"]), (&256.into(), &8.into()));
    let json = of(&client_hello_frame());
    assert_eq!(json["tls"]["sni"], "api.shop.example");
    assert_eq!(json["tls"]["alpn"], serde_json::json!(["h2", "http/1.1"]));
    assert_eq!(json["tls"]["handshake"], serde_json::json!(["ClientHello"]));
}

fn client_hello_frame() -> Vec<u8> {
    tcp(40312, 443, &client_hello())
}

/// A packet of each kind that is not in the file.
pub(super) fn samples() -> Vec<Vec<u8>> {
    let vxlan = [&[8, 0, 0, 0, 0, 1, 0, 0][..], &client_hello_frame()].concat();
    let nested = (0..6).fold(udp(7, 8, b"xyz")[IP..].to_vec(), |packet, _| ip(4, &packet)[IP..].to_vec());
    let syn = [2, 4, 5, 0xb4, 4, 2, 8, 10, 0, 0, 0, 111, 0, 0, 0, 0, 1, 3, 3, 7];
    let sacks = [1, 1, 5, 18, 0, 0, 0, 3, 0, 0, 0, 4, 0, 0, 0, 9, 0, 0, 0, 12];
    let options = b"\x35\x01\x05\x0c\x04name\x36\x04abcd\x33\x04abcd";
    vec![
        udp(5, 4789, &vxlan),
        ip(4, &nested),
        segment(false, (1, 1), "S", b"", &syn),
        segment(true, (1, 1), ".", b"", &sacks),
        udp(67, 68, &dhcp_message(2, options)),
        udp(547, 546, &[7, 0, 0, 1, 0, 1, 0, 1, 9, 0, 13, 0, 2, 0, 2]),
        udp(5, 443, &[&[0xc0, 0, 0, 0, 1][..], &counted(1, &[1; 8]), &counted(1, &[2; 4]), &[0; 9]].concat()),
        ip(
            2,
            &[&[0x22, 0, 0, 0, 0, 0, 0, 2][..], &[4, 0, 0, 0, 224, 0, 0, 7, 3, 0, 0, 0, 224, 0, 0, 8]]
                .concat(),
        ),
        ip(
            132,
            &[&[0; 12][..], &[1, 0, 0, 28], &[5; 16], &[0, 5, 0, 8, 10, 0, 0, 1], &[0, 3, 0, 17], &[9; 16]]
                .concat(),
        ),
    ]
}
