//! The lines of common packets, and packets that lie.

use etherparse::{
    ArpHardwareId, ArpOperation, ArpPacket, EtherType, Icmpv4Type, Icmpv6Type, PacketBuilder, VlanId,
    icmpv4::{DestUnreachableHeader, TimeExceededCode},
    icmpv6,
};
use sniff_common::epb::FLAGS_DIRECTION;
use sniff_pcapng::LinkType;

use super::*;

const MAC_A: [u8; 6] = [2, 0, 0, 0, 0, 0xa];
const MAC_B: [u8; 6] = [2, 0, 0, 0, 0, 0xb];
const A: [u8; 4] = [10, 1, 2, 3];
const B: [u8; 4] = [10, 1, 2, 9];
const A6: [u8; 16] = [0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xa];
const B6: [u8; 16] = [0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xb];
/// Offset of the IPv4 header in a frame without a VLAN tag, and of fields in it.
const IP: usize = 14;
const TOTAL_LEN: usize = IP + 2;
const FRAGMENT: usize = IP + 6;

macro_rules! frame {
    ($builder:expr) => {
        frame!($builder, b"")
    };
    ($builder:expr, $payload:expr) => {{
        let mut frame = Vec::new();
        $builder.write(&mut frame, $payload).unwrap();
        frame
    }};
}

// Behind the macro that they use.
mod peer;
mod protocols;

fn ethernet() -> etherparse::PacketBuilderStep<etherparse::Ethernet2Header> {
    PacketBuilder::ethernet2(MAC_A, MAC_B)
}

fn tcp(source_port: u16, destination_port: u16, payload: &[u8]) -> Vec<u8> {
    let ip = ethernet().ipv4(A, B, 64);
    let tcp = ip.tcp(source_port, destination_port, 1000, 64_240);
    frame!(tcp.ack(77).psh(), payload)
}

fn udp(source_port: u16, destination_port: u16, payload: &[u8]) -> Vec<u8> {
    let ip = ethernet().ipv4(A, B, 64);
    frame!(ip.udp(source_port, destination_port), payload)
}

/// A DNS message: header, then whatever follows.
fn dns(flags: u16, counts: [u16; 4], rest: &[&[u8]]) -> Vec<u8> {
    let shorts = [4711, flags].into_iter().chain(counts);
    let mut message: Vec<u8> = shorts.flat_map(u16::to_be_bytes).collect();
    message.extend(rest.concat());
    message
}

fn question(labels: &[&[u8]], kind: u8) -> Vec<u8> {
    let mut question = Vec::new();
    for label in labels {
        question.push(label.len() as u8);
        question.extend(*label);
    }
    question.extend([0, 0, kind, 0, 1]);
    question
}

/// A resource record whose name is a pointer to the question.
fn record(kind: u8, data: &[u8]) -> Vec<u8> {
    let fixed = [0xc0, 12, 0, kind, 0, 1, 0, 0, 0, 60, 0, data.len() as u8];
    [&fixed, data].concat()
}

fn packet(data: &[u8], original_len: usize) -> EnhancedPacket<'_> {
    EnhancedPacket {
        total_len: 0,
        interface: 0,
        // 2025-10-09 08:53:20.000000789 UTC.
        timestamp_ns: 1_760_000_000_000_000_789,
        original_len: original_len as u32,
        data,
        flags: Direction::In as u32,
        dropcount: 0,
        packet_id: None,
        has_foreign_options: false,
    }
}

/// A printer that has interfaces of these names.
fn printer(style: Style, zone: TimeZone, link_type: LinkType, names: &[&str]) -> Printer {
    let mut printer = Printer::new(style, zone, false);
    for name in names {
        printer.interface(&InterfaceDescription::new(link_type, 0, name));
    }
    printer
}

/// A line of text with times to the nanosecond, in a capture of two interfaces.
fn line(interface: &str, link_type: LinkType, packet: &EnhancedPacket<'_>) -> String {
    let style = Style { nanoseconds: true, ..Style::default() };
    print(&mut printer(style, TimeZone::UTC, link_type, &[interface, "x/y"]), packet)
}

fn print(printer: &mut Printer, packet: &EnhancedPacket<'_>) -> String {
    let mut line = Vec::new();
    printer.print(&mut line, packet);
    String::from_utf8(line).unwrap()
}

/// The line of a packet without what stands in front of all of them.
fn summary_of(link_type: LinkType, data: &[u8], original_len: usize) -> String {
    let line = line("eth0", link_type, &packet(data, original_len));
    let summary = line.strip_prefix("08:53:20.000000789 eth0 In  ").unwrap();
    summary.strip_suffix('\n').unwrap().to_owned()
}

fn summary(frame: &[u8]) -> String {
    summary_of(LinkType::Ethernet, frame, frame.len())
}

#[test]
fn line_begins_with_time_interface_and_direction() {
    let frame = udp(1234, 9, b"hello");
    let mut packet = packet(&frame, frame.len());
    let tail = "IP 10.1.2.3.1234 > 10.1.2.9.9: UDP, length 5\n";
    for (flags, direction) in [(1, "In "), (2, "Out"), (0, "?  "), (FLAGS_DIRECTION, "?  ")] {
        packet.flags = flags | 1 << 9;
        assert_eq!(
            line("shop/cart-0/eth0", LinkType::Ethernet, &packet),
            format!("08:53:20.000000789 shop/cart-0/eth0 {direction} {tail}")
        );
    }
    packet.timestamp_ns = 86_399_999_999_999;
    assert!(line("x", LinkType::Ethernet, &packet).starts_with("23:59:59.999999999 x "));
}

#[test]
fn time_of_day_is_that_of_the_zone() {
    let frame = udp(1234, 9, b"hello");
    let of = |zone: &str, timestamp_ns| {
        let zone = TimeZone::posix(zone).unwrap();
        let style = Style { nanoseconds: true, ..Style::default() };
        let packet = EnhancedPacket { timestamp_ns, ..packet(&frame, frame.len()) };
        print(&mut printer(style, zone, LinkType::Ethernet, &["x"]), &packet)[..18].to_owned()
    };
    const SECOND: u64 = 1_000_000_000;
    assert_eq!(of("NPT-5:45", 1_760_000_000 * SECOND + 789), "14:38:20.000000789");
    assert_eq!(of("EST5", 3600 * SECOND), "20:00:00.000000000");
    // Either side of a change to summer time.
    let berlin = "CET-1CEST,M3.5.0,M10.5.0/3";
    assert_eq!(of(berlin, 1_774_745_999 * SECOND), "01:59:59.000000000");
    assert_eq!(of(berlin, 1_774_746_000 * SECOND), "03:00:00.000000000");
    assert_eq!(of("UTC0", u64::MAX), "23:34:33.709551615");
}

#[test]
fn arp() {
    let arp = |operation, target_mac| {
        let packet =
            ArpPacket::new(ArpHardwareId::ETHERNET, EtherType::IPV4, operation, &MAC_A, &A, target_mac, &B);
        {
            let mut frame = Vec::new();
            ethernet().arp(packet.unwrap()).write(&mut frame).unwrap();
            frame
        }
    };
    assert_eq!(
        summary(&arp(ArpOperation::REQUEST, &[0; 6])),
        "ARP, Request who-has 10.1.2.9 tell 10.1.2.3, length 28"
    );
    assert_eq!(
        summary(&arp(ArpOperation::REPLY, &MAC_B)),
        "ARP, Reply 10.1.2.3 is-at 02:00:00:00:00:0a, length 28"
    );
    assert_eq!(
        summary(&arp(ArpOperation::REQUEST, &MAC_B)),
        "ARP, Request who-has 10.1.2.9 (02:00:00:00:00:0b) tell 10.1.2.3, length 28"
    );
    assert_eq!(summary(&arp(ArpOperation(9), &MAC_B)), "ARP, operation 9, length 28");
    // Addresses that are not IPv4's.
    let mut odd = arp(ArpOperation::REQUEST, &[0; 6]);
    odd[IP + 5] = 3;
    assert_eq!(summary(&odd), "ARP, operation 1, length 28");
}

#[test]
fn tcp_flags_and_numbers() {
    let ip = || ethernet().ipv4(A, B, 64);
    let tcp_v4 = || ip().tcp(40312, 80, u32::MAX, 64_240);
    let start = "IP 10.1.2.3.40312 > 10.1.2.9.80: Flags";
    assert_eq!(summary(&frame!(tcp_v4().syn())), format!("{start} [S], seq 4294967295, win 64240, length 0"));
    assert_eq!(
        summary(&frame!(tcp_v4().syn().ack(5))),
        format!("{start} [S.], seq 4294967295, ack 5, win 64240, length 0")
    );
    assert_eq!(summary(&frame!(tcp_v4().ack(5))), format!("{start} [.], ack 5, win 64240, length 0"));
    assert_eq!(
        summary(&frame!(tcp_v4().ack(5).psh(), b"abc")),
        format!("{start} [P.], seq 4294967295:2, ack 5, win 64240, length 3")
    );
    assert_eq!(summary(&frame!(tcp_v4())), format!("{start} [none], win 64240, length 0"));
    let all = tcp_v4().fin().syn().rst().psh().ack(1).urg(9).ece().cwr();
    assert_eq!(
        summary(&frame!(all)),
        format!("{start} [FSRP.UEW], seq 4294967295, ack 1, win 64240, urg 9, length 0")
    );
    assert_eq!(
        summary(&frame!(ethernet().ipv6(A6, B6, 64).tcp(1, 2, 3, 4).fin().ack(5))),
        "IP6 fd00::a.1 > fd00::b.2: Flags [F.], seq 3, ack 5, win 4, length 0"
    );
}

#[test]
fn http_first_line() {
    let start = "IP 10.1.2.3.40312 > 10.1.2.9.8080: Flags [P.], seq 1000:";
    let of = |payload: &[u8]| {
        let summary = summary(&tcp(40312, 8080, payload));
        let (_, tail) = summary.strip_prefix(start).unwrap().split_once(", length ").unwrap();
        tail.to_owned()
    };
    assert_eq!(of(b"GET /a?b=c HTTP/1.1\r\nHost: x\r\n\r\n"), "32: HTTP: GET /a?b=c HTTP/1.1");
    assert_eq!(of(b"HTTP/1.0 200 OK\n"), "16: HTTP: HTTP/1.0 200 OK");
    assert_eq!(of(b"PRI * HTTP/2.0\r\n\r\nSM"), "20: HTTP: PRI * HTTP/2.0");
    assert_eq!(of(b"GETTING "), "8");
    assert_eq!(of(b"\x16\x03\x01GET "), "7");
    let long = [&b"GET /"[..], &[b'x'; 1000]].concat();
    assert_eq!(of(&long), format!("1005: HTTP: GET /{}", "x".repeat(195)));
}

#[test]
fn dns_queries() {
    let name = question(&[b"cart", b"shop"], 1);
    let of = |message: &[u8]| {
        let summary = summary(&udp(1234, 53, message));
        summary.strip_prefix("IP 10.1.2.3.1234 > 10.1.2.9.53: ").unwrap().to_owned()
    };
    let query = dns(0x100, [1, 0, 0, 0], &[&name]);
    assert_eq!(of(&query), "4711+ A? cart.shop. (27)");
    let no_recursion = dns(0, [1, 0, 0, 1], &[&question(&[], 2), &[0; 11]]);
    assert_eq!(of(&no_recursion), "4711 [1au] NS? . (28)");
    let update = dns(0x2800, [1, 1, 2, 0], &[&question(&[b"x"], 65)]);
    assert_eq!(of(&update), "4711 update [1a] [2n] HTTPS? x. (19)");
    assert_eq!(of(&dns(0x100, [1, 0, 0, 0], &[&name[..4]])), "4711+ [|domain] (16)");
    assert_eq!(of(&dns(0x100, [1, 0, 0, 0], &[&[0xc0, 12, 0, 1, 0, 1]])), "4711+ [|domain] (18)");
    assert_eq!(of(b"short"), "UDP, length 5");
    let long = question(&[&[b'y'; 63][..]; 5], 1);
    assert_eq!(of(&dns(0, [1, 0, 0, 0], &[&long])), "4711 [|domain] (337)");
}

#[test]
fn dns_responses() {
    let name = question(&[b"cart", b"shop"], 1);
    let of = |message: &[u8]| {
        let summary = summary(&udp(53, 1234, message));
        summary.strip_prefix("IP 10.1.2.3.53 > 10.1.2.9.1234: ").unwrap().to_owned()
    };
    let records = [record(5, b"\xc0\x0c"), record(1, &B), record(28, &B6), record(99, b"?")];
    let answers: Vec<&[u8]> = records.iter().map(Vec::as_slice).collect();
    let message = dns(0x8180, [1, 4, 0, 0], &[&name, &answers.concat()]);
    assert_eq!(
        of(&message),
        "4711 q: A? cart.shop. 4/0/0 CNAME cart.shop., A 10.1.2.9, AAAA fd00::b, TYPE99 (98)"
    );
    assert_eq!(of(&dns(0x8583, [1, 0, 1, 2], &[&name])), "4711 NXDomain* q: A? cart.shop. 0/1/2 (27)");
    assert_eq!(of(&dns(0x8605, [0, 0, 0, 0], &[])), "4711 Refused*-| 0/0/0 (12)");
    // A record that ends early, an address of the wrong length, and a name of a kind that does not exist.
    for bad in [&record(1, &B)[..13], &record(1, &B6), &[0x80; 16]] {
        let text = of(&dns(0x8180, [1, 2, 0, 0], &[&name, bad]));
        assert!(text.starts_with("4711 q: A? cart.shop. 2/0/0 [|domain] ("), "{text}");
    }
    let many = dns(0x8180, [1, 500, 0, 0], &[&name, &record(1, &B).repeat(500)]);
    assert_eq!(of(&many).matches("A 10.1.2.9").count(), 8);
}

/// A name of one label and a pointer to the question's name.
fn below_the_question(label: &[u8]) -> Vec<u8> {
    [&[label.len() as u8], label, &[0xc0, 12]].concat()
}

#[test]
fn dns_answers_say_what_is_in_them() {
    let name = question(&[b"cart", b"shop"], 1);
    let of = |kind, data: &[u8]| {
        let summary = summary(&udp(53, 1234, &dns(0x8180, [1, 1, 0, 0], &[&name, &record(kind, data)])));
        let (_, tail) = summary.split_once("1/0/0 ").unwrap();
        tail.rsplit_once(" (").unwrap().0.to_owned()
    };
    let web = below_the_question(b"web");
    assert_eq!(of(5, &web), "CNAME web.cart.shop.");
    assert_eq!(of(2, &web), "NS web.cart.shop.");
    assert_eq!(of(12, b"\x03a.b\0"), r"PTR a\.b.");
    assert_eq!(of(39, b"\0"), "DNAME .");
    assert_eq!(of(15, &[&[0, 10], &web[..]].concat()), "MX web.cart.shop. 10");
    assert_eq!(of(33, &[&[0, 1, 0, 2, 0x1f, 0x90], &web[..]].concat()), "SRV web.cart.shop.:8080 1 2");
    assert_eq!(of(16, b"\x03a b\x02\x1b["), r#"TXT "a b" "\x1b[""#);
    let alpn =
        [&b"\0\x01\0\0\x01\0\x06\x02h2\x02h3"[..], b"\0\x03\0\x02\x01\xbb", b"\0\x04\0\x04", &B].concat();
    assert_eq!(of(65, &alpn), "HTTPS 1 . alpn=h2,h3 port=443 ipv4hint=10.1.2.9");
    assert_eq!(of(64, &[&[0, 0], &web[..]].concat()), "SVCB 0 web.cart.shop.");
    assert_eq!(of(64, b"\0\x01\0\0\x07\0\x01x\0\x02\0\0"), "SVCB 1 . key7 no-default-alpn");
    // Cut off, and pointers that go nowhere good: to themselves, forward, and into the header.
    for bad in [&web[..3], &[0xc0, 41], &[0xc0, 200], &[0xc0, 0], &[]] {
        assert_eq!(of(5, bad), "[|domain]", "{bad:?}");
    }
    assert_eq!(of(33, &[0, 1, 0, 2]), "[|domain]");
    assert_eq!(of(16, b"\x05abc"), "[|domain]");
    let many = dns(0x8180, [1, 9, 0, 0], &[&name, &record(1, &B).repeat(9)]);
    assert!(summary(&udp(53, 1234, &many)).contains("A 10.1.2.9, ... ("));
}

#[test]
fn dns_errors_beyond_the_header_are_told() {
    let name = question(&[b"cart"], 1);
    let of = |flags, upper_code, options: &[u8]| {
        let opt = [&[0, 0, 41, 4, 0xd0, upper_code, 0, 0, 0, 0, options.len() as u8][..], options].concat();
        let authority = record(6, &[0; 20]);
        let message = dns(flags, [1, 1, 1, 2], &[&name, &record(1, &B), &authority, &record(1, &B), &opt]);
        let summary = summary(&udp(53, 1234, &message));
        let text = summary.strip_prefix("IP 10.1.2.3.53 > 10.1.2.9.1234: 4711").unwrap();
        text.rsplit_once(" (").unwrap().0.to_owned()
    };
    let tail = "q: A? cart. 1/1/2 A 10.1.2.9";
    assert_eq!(of(0x8180, 0, &[]), format!(" {tail}"));
    assert_eq!(of(0x8180, 1, &[]), format!(" BadVers {tail}"));
    assert_eq!(of(0x8187, 1, &[]), format!(" BadCookie {tail}"));
    assert_eq!(of(0x8189, 2, &[]), format!(" Resp41 {tail}"));
    let cookie = [0, 10, 0, 2, 1, 2];
    let error = [&[0, 15, 0, 5, 0, 22][..], b"no\n"].concat();
    let bare = [0, 15, 0, 2, 0xff, 0xff];
    assert_eq!(
        of(0x8182, 0, &[&cookie[..], &error, &bare].concat()),
        format!(r#" ServFail {tail} EDE 22 (No Reachable Authority) "no\n" EDE 65535"#)
    );
    // A length that lies.
    assert_eq!(of(0x8182, 0, &[0, 15, 0, 99, 0, 22]), format!(" ServFail {tail}"));
}

#[test]
fn dns_over_tcp() {
    let query = dns(0x100, [1, 0, 0, 0], &[&question(&[b"cart"], 1)]);
    let message = [&(query.len() as u16).to_be_bytes()[..], &query].concat();
    assert_eq!(
        summary(&tcp(1234, 53, &message)),
        "IP 10.1.2.3.1234 > 10.1.2.9.53: Flags [P.], seq 1000:1024, ack 77, win 64240, length 24: 4711+ A? cart."
    );
}

#[test]
fn icmp_echo_and_errors() {
    let ip = || ethernet().ipv4(A, B, 64);
    let start = "IP 10.1.2.3 > 10.1.2.9: ICMP";
    assert_eq!(
        summary(&frame!(ip().icmpv4_echo_request(7, 1), &[0; 56])),
        format!("{start} echo request, id 7, seq 1, length 64")
    );
    assert_eq!(
        summary(&frame!(ip().icmpv4_echo_reply(7, 1))),
        format!("{start} echo reply, id 7, seq 1, length 8")
    );

    let quoted_frame = udp(5, 33434, b"");
    let quoted = &quoted_frame[IP..];
    let unreachable =
        |why, quoted: &[u8]| summary(&frame!(ip().icmpv4(Icmpv4Type::DestinationUnreachable(why)), quoted));
    assert_eq!(
        unreachable(DestUnreachableHeader::Port, quoted),
        format!("{start} 10.1.2.9 udp port 33434 unreachable, length 36")
    );
    assert_eq!(
        unreachable(DestUnreachableHeader::Port, &quoted[..20]),
        format!("{start} 10.1.2.9 unreachable, length 28")
    );
    assert_eq!(
        unreachable(DestUnreachableHeader::Host, &quoted[..19]),
        format!("{start} host [|ip] unreachable, length 27")
    );
    assert_eq!(
        unreachable(DestUnreachableHeader::FragmentationNeeded { next_hop_mtu: 1400 }, quoted),
        format!("{start} 10.1.2.9 udp port 33434 unreachable - need to frag (mtu 1400), length 36")
    );
    assert_eq!(
        summary(&frame!(ip().icmpv4_raw(42, 3, [0; 4]))),
        format!("{start} type 42, code 3, length 8")
    );
    let exceeded = Icmpv4Type::TimeExceeded(TimeExceededCode::TtlExceededInTransit);
    assert_eq!(
        summary(&frame!(ip().icmpv4(exceeded), quoted)),
        format!("{start} time exceeded in-transit, length 36")
    );
}

#[test]
fn every_code_of_icmp_errors_is_told_apart() {
    let quoted = &udp(5, 33434, b"")[IP..];
    let of = |kind, code| {
        let frame = frame!(ethernet().ipv4(A, B, 64).icmpv4_raw(kind, code, [10, 0, 0, 1]), quoted);
        let summary = summary(&frame);
        let text = summary.strip_prefix("IP 10.1.2.3 > 10.1.2.9: ICMP ").unwrap();
        text.strip_suffix(", length 36").unwrap().to_owned()
    };
    let unreachable = [
        "net 10.1.2.9 unreachable",
        "host 10.1.2.9 unreachable",
        "10.1.2.9 protocol 17 unreachable",
        "10.1.2.9 udp port 33434 unreachable",
        "10.1.2.9 udp port 33434 unreachable - need to frag (mtu 1)",
        "10.1.2.9 unreachable - source route failed",
        "net 10.1.2.9 unreachable - unknown",
        "host 10.1.2.9 unreachable - unknown",
        "10.1.2.9 unreachable - source host isolated",
        "net 10.1.2.9 unreachable - admin prohibited",
        "host 10.1.2.9 unreachable - admin prohibited",
        "net 10.1.2.9 unreachable - tos prohibited",
        "host 10.1.2.9 unreachable - tos prohibited",
        "host 10.1.2.9 unreachable - admin prohibited filter",
        "host 10.1.2.9 unreachable - host precedence violation",
        "host 10.1.2.9 unreachable - precedence cutoff",
        "type 3, code 16",
    ];
    for (code, expected) in (0..).zip(unreachable) {
        assert_eq!(of(3, code), expected);
    }
    let redirect = [
        "redirect 10.1.2.9 to net 10.0.0.1",
        "redirect 10.1.2.9 to host 10.0.0.1",
        "redirect-tos 10.1.2.9 to net 10.0.0.1",
        "redirect-tos 10.1.2.9 to host 10.0.0.1",
    ];
    for (code, expected) in (0..).zip(redirect) {
        assert_eq!(of(5, code), expected);
    }
    assert_eq!(of(12, 0), "parameter problem - octet 10");
    assert_eq!(of(12, 1), "parameter problem - required option missing");
    assert_eq!(of(11, 1), "ip reassembly time exceeded");
}

#[test]
fn every_code_of_icmpv6_errors_is_told_apart() {
    let quoted_frame = frame!(ethernet().ipv6(A6, B6, 64).udp(5, 9));
    let of = |kind, code| {
        let frame =
            frame!(ethernet().ipv6(A6, B6, 64).icmpv6_raw(kind, code, [0, 0, 0, 40]), &quoted_frame[IP..]);
        let summary = summary(&frame);
        let text = summary.strip_prefix("IP6 fd00::a > fd00::b: ICMP6, ").unwrap();
        text.strip_suffix(", length 56").unwrap().to_owned()
    };
    let unreachable = [
        "route, fd00::b",
        "prohibited, fd00::b",
        "beyond scope, fd00::b",
        "address, fd00::b",
        "port, fd00::b udp port 9",
        "source address failed policy, fd00::b",
        "reject route, fd00::b",
    ];
    for (code, expected) in (0..).zip(unreachable) {
        assert_eq!(of(1, code), format!("destination unreachable, unreachable {expected}"));
    }
    assert_eq!(of(1, 7), "type 1, code 7");
    assert_eq!(of(3, 1), "ip reassembly time exceeded");
    assert_eq!(of(4, 0), "parameter problem, erroneous header - octet 40");
    assert_eq!(of(4, 1), "parameter problem, next header - octet 40");
    assert_eq!(of(4, 2), "parameter problem, option - octet 40");
    assert_eq!(of(4, 3), "parameter problem, code 3 - octet 40");
}

#[test]
fn icmpv6_echo_neighbours_and_errors() {
    let ip = || ethernet().ipv6(A6, B6, 255);
    let start = "IP6 fd00::a > fd00::b: ICMP6,";
    assert_eq!(
        summary(&frame!(ip().icmpv6_echo_request(7, 1), &[0; 56])),
        format!("{start} echo request, id 7, seq 1, length 64")
    );
    assert_eq!(
        summary(&frame!(ip().icmpv6_echo_reply(7, 2))),
        format!("{start} echo reply, id 7, seq 2, length 8")
    );
    assert_eq!(
        summary(&frame!(ip().icmpv6(Icmpv6Type::NeighborSolicitation), &B6)),
        format!("{start} neighbor solicitation, who has fd00::b, length 24")
    );
    assert_eq!(
        summary(&frame!(ip().icmpv6(Icmpv6Type::NeighborSolicitation), &B6[..15])),
        format!("{start} neighbor solicitation, who has [|icmp6], length 23")
    );
    let quoted_frame = frame!(ip().udp(5, 9));
    let port = Icmpv6Type::DestinationUnreachable(icmpv6::DestUnreachableCode::Port);
    assert_eq!(
        summary(&frame!(ip().icmpv6(port), &quoted_frame[IP..])),
        format!("{start} destination unreachable, unreachable port, fd00::b udp port 9, length 56")
    );
    assert_eq!(
        summary(&frame!(ip().icmpv6(Icmpv6Type::PacketTooBig { mtu: 1280 }))),
        format!("{start} packet too big, mtu 1280, length 8")
    );
    assert_eq!(
        summary(&frame!(ip().icmpv6_raw(143, 0, [0; 4]))),
        format!("{start} multicast listener report v2, length 8")
    );
}

#[test]
fn fragments() {
    let mut first = udp(5, 9, &[0; 24]);
    first[FRAGMENT] = 0x20;
    first[FRAGMENT - 1] = 77;
    assert_eq!(summary(&first), "IP 10.1.2.3.5 > 10.1.2.9.9: UDP, frag 77:32@0+");
    let mut last = first;
    last[FRAGMENT..FRAGMENT + 2].copy_from_slice(&[0, 4]);
    assert_eq!(summary(&last), "IP 10.1.2.3 > 10.1.2.9: UDP, frag 77:32@32");

    let mut v6 = frame!(ethernet().ipv6(A6, B6, 64).udp(5, 9), b"padpadpa");
    let fragment_header = [17, 0, 0, 8 << 3 | 1, 0, 0, 0, 78];
    v6[IP + 6] = 44;
    v6[IP + 5] += 8;
    v6.splice(IP + 40..IP + 40, fragment_header);
    assert_eq!(summary(&v6), "IP6 fd00::a > fd00::b: UDP, frag 78:16@64+");
    v6[IP + 40] = 58;
    assert_eq!(summary(&v6), "IP6 fd00::a > fd00::b: ICMP6, frag 78:16@64+");
    // What is in the middle of a packet is no extension header.
    v6[IP + 40] = 60;
    v6[IP + 48..IP + 50].copy_from_slice(&[17, 0]);
    assert_eq!(summary(&v6), "IP6 fd00::a > fd00::b: IPv6-Opts, frag 78:16@64+");
}

#[test]
fn other_protocols_and_frames() {
    let mut frame = udp(5, 9, b"hello");
    frame[IP + 9] = 132;
    assert_eq!(summary(&frame), "IP 10.1.2.3.5 > 10.1.2.9.9: SCTP, length 13");
    frame[IP + 9] = 2;
    assert_eq!(summary(&frame), "IP 10.1.2.3 > 10.1.2.9: IGMP, length 13");
    frame[IP + 9] = 200;
    assert_eq!(summary(&frame), "IP 10.1.2.3 > 10.1.2.9: ip-proto-200, length 13");

    let macs = "02:00:00:00:00:0a > 02:00:00:00:00:0b";
    frame[12..14].copy_from_slice(&[0x88, 0xb5]);
    assert_eq!(summary(&frame), format!("{macs}, ethertype 0x88b5, length 47"));
    frame[12..14].copy_from_slice(&[0, 0x26]);
    assert_eq!(summary(&frame), format!("{macs}, 802.3, length 47"));
    assert_eq!(summary(&frame[..13]), "[|ether], length 13");
}

#[test]
fn vlan_tags() {
    let id = |id| VlanId::try_new(id).unwrap();
    let tagged = frame!(ethernet().single_vlan(id(42)).ipv4(A, B, 64).udp(5, 9), b"x");
    assert_eq!(summary(&tagged), "vlan 42, IP 10.1.2.3.5 > 10.1.2.9.9: UDP, length 1");
    let twice = frame!(ethernet().double_vlan(id(42), id(7)).ipv6(A6, B6, 64).udp(5, 9));
    assert_eq!(summary(&twice), "vlan 42, vlan 7, IP6 fd00::a.5 > fd00::b.9: UDP, length 0");
    assert_eq!(summary(&tagged[..16]), "02:00:00:00:00:0a > 02:00:00:00:00:0b, ethertype 0x8100, length 16");
}

#[test]
fn raw_link_begins_with_ip() {
    let frame = udp(5, 9, b"hello");
    let raw = |data| summary_of(LinkType::Raw, data, data.len());
    assert_eq!(raw(&frame[IP..]), "IP 10.1.2.3.5 > 10.1.2.9.9: UDP, length 5");
    let frame = frame!(ethernet().ipv6(A6, B6, 64).udp(5, 9));
    assert_eq!(raw(&frame[IP..]), "IP6 fd00::a.5 > fd00::b.9: UDP, length 0");
    assert_eq!(raw(&frame[IP..IP + 10]), "IP6, [|ip6], length 10");
    assert_eq!(raw(b""), "IP, [|ip], length 0");
    assert_eq!(raw(&[0xff; 40]), "IP, bad header, length 40");
}

#[test]
fn lengths_are_those_of_the_kernel() {
    let flags = "IP 10.1.2.3.5 > 10.1.2.9.9: Flags [P.], seq 1000:";
    let big = tcp(5, 9, &[0; 100]);
    // Cut off by the snaplen; then BIG TCP, with lengths that a header cannot hold, and lies.
    let on_wire = 54 + 190_000;
    for total_len in [0u16, 19, 20, 41, 60, 140, u16::MAX] {
        let mut frame = big.clone();
        frame[TOTAL_LEN..TOTAL_LEN + 2].copy_from_slice(&total_len.to_be_bytes());
        assert_eq!(
            summary_of(LinkType::Ethernet, &frame, on_wire),
            format!("{flags}191000, ack 77, win 64240, length 190000"),
            "total_len {total_len}"
        );
    }
    // Nothing captured may be longer than the packet.
    assert_eq!(
        summary_of(LinkType::Ethernet, &big, 0),
        format!("{flags}1100, ack 77, win 64240, length 100")
    );

    let mut big6 = frame!(ethernet().ipv6(A6, B6, 64).tcp(5, 9, 1000, 1).ack(7), &[0; 100]);
    for payload_len in [0u16, 7, 50, u16::MAX] {
        big6[IP + 4..IP + 6].copy_from_slice(&payload_len.to_be_bytes());
        assert_eq!(
            summary_of(LinkType::Ethernet, &big6, 74 + 180_000),
            "IP6 fd00::a.5 > fd00::b.9: Flags [.], seq 1000:181000, ack 7, win 1, length 180000",
            "payload_len {payload_len}"
        );
    }
}

#[test]
fn padding_of_small_frames_is_not_payload() {
    let mut frame = tcp(5, 9, b"");
    frame.resize(60, 0);
    assert_eq!(summary(&frame), "IP 10.1.2.3.5 > 10.1.2.9.9: Flags [P.], ack 77, win 64240, length 0");
}

#[test]
fn what_stands_behind_a_packet_is_not_payload() {
    // A trailer, behind frames of any size; a request of one byte, padded further than Ethernet asks for.
    for trailer in [4, 20, 500, 9000] {
        let with_trailer = |mut frame: Vec<u8>| {
            frame.resize(frame.len() + trailer, 0xee);
            summary(&frame)
        };
        assert_eq!(
            with_trailer(tcp(5, 9, &[0; 100])),
            "IP 10.1.2.3.5 > 10.1.2.9.9: Flags [P.], seq 1000:1100, ack 77, win 64240, length 100"
        );
        assert_eq!(with_trailer(udp(5, 9, b"x")), "IP 10.1.2.3.5 > 10.1.2.9.9: UDP, length 1");
        let v6 = frame!(ethernet().ipv6(A6, B6, 64).udp(5, 9), &[0; 100]);
        assert_eq!(with_trailer(v6), "IP6 fd00::a.5 > fd00::b.9: UDP, length 100");
        let echo = frame!(ethernet().ipv4(A, B, 64).icmpv4_echo_request(7, 1), &[0; 56]);
        assert!(with_trailer(echo).ends_with("seq 1, length 64"));
    }
    // Behind a datagram, inside its packet.
    let mut frame = udp(5, 9, b"hello");
    frame[IP + 25] = 8 + 2;
    assert_eq!(summary(&frame), "IP 10.1.2.3.5 > 10.1.2.9.9: UDP, length 2");
}

#[test]
fn what_is_cut_off_says_so() {
    let tcp = frame!(ethernet().ipv4(A, B, 64).tcp(5, 9, 1, 2).syn());
    let of = |len| summary_of(LinkType::Ethernet, &tcp[..len], tcp.len());
    assert_eq!(of(IP + 39), "IP 10.1.2.3.5 > 10.1.2.9.9: [|tcp], length 20");
    assert_eq!(of(IP + 23), "IP 10.1.2.3 > 10.1.2.9: [|tcp], length 20");
    assert_eq!(of(IP + 19), "IP, [|ip], length 40");
    assert_eq!(of(13), "[|ether], length 54");
    // Some of TCP's options are missing.
    let mut with_options = ethernet().ipv4(A, B, 64).tcp(5, 9, 1, 2).syn();
    with_options = with_options.options_raw(&[1; 20]).unwrap();
    let frame = frame!(with_options, b"GET /");
    assert_eq!(
        summary_of(LinkType::Ethernet, &frame[..IP + 40], frame.len()),
        "IP 10.1.2.3.5 > 10.1.2.9.9: Flags [S], seq 1:6, win 2, options [[|tcp]], length 5"
    );
    let v6 = frame!(ethernet().ipv6(A6, B6, 64).udp(5, 9));
    let of_v6 = |len| summary_of(LinkType::Ethernet, &v6[..len], v6.len());
    assert_eq!(of_v6(IP + 39), "IP6, [|ip6], length 48");
    assert_eq!(of_v6(IP), "IP6, [|ip6], length 48");
    assert_eq!(of_v6(IP + 40), "IP6 fd00::a > fd00::b: [|udp], length 8");
    let mut bad = tcp.clone();
    bad[IP] = 0x41;
    assert_eq!(summary(&bad), "IP, bad header, length 40");
}

#[test]
fn nothing_unprintable_reaches_the_terminal() {
    let http = tcp(5, 80, b"GET /\x1b[2J\x07\xc3\xa4\0 HTTP/1.1\r\n");
    assert!(summary(&http).ends_with(r"HTTP: GET /\x1b[2J\x07\xc3\xa4\x00 HTTP/1.1"));
    let name = question(&[b"a\x1b]0;\n", b"\xff"], 1);
    let query = udp(5, 53, &dns(0x100, [1, 0, 0, 0], &[&name]));
    assert!(summary(&query).contains(r"A? a\x1b]0;\n.\xff. ("));
    let line = line("pod\x1b\n/eth0", LinkType::Ethernet, &packet(&query, 0));
    assert!(line.contains(r" pod\x1b\n/eth0 In"));
}

/// One packet of every kind.
fn samples() -> Vec<Vec<u8>> {
    let name = question(&[b"cart", b"shop"], 1);
    let ip = || ethernet().ipv4(A, B, 64);
    let ip6 = || ethernet().ipv6(A6, B6, 64);
    let unreachable = Icmpv4Type::DestinationUnreachable(DestUnreachableHeader::Port);
    let quoted = udp(1, 2, b"abc");
    let mut fragment = frame!(ip6().udp(5, 9), b"padpadpa");
    fragment[IP + 6] = 44;
    let mut options = frame!(ip6().udp(5, 9), &[0; 64]);
    options[IP + 6] = 0;
    let web = below_the_question(b"web");
    let names = [
        record(5, &web),
        record(15, &[&[0, 1], &web[..]].concat()),
        record(33, &[&[0; 6], &web[..]].concat()),
        record(16, &[&[120][..], &[0xff; 120]].concat()),
        record(65, b"\0\x01\0\0\x01\0\x06\x02h2\x02h3\0\x04\0\x04abcd"),
        b"\0\0\x29\x04\xd0\x01\0\0\0\0\x0b\0\x0f\0\x07\0\x16error".to_vec(),
    ];
    let names = names.concat();
    let mut samples = vec![
        tcp(5, 80, b"GET / HTTP/1.1\r\n\r\n"),
        tcp(5, 53, &dns(0x100, [1, 0, 0, 0], &[&name])),
        udp(5, 53, &dns(0x100, [1, 0, 0, 0], &[&name])),
        udp(53, 5, &dns(0x8180, [1, 2, 0, 0], &[&name, &record(1, &B), &record(28, &B6)])),
        udp(53, 5, &dns(0x8182, [1, 5, 0, 1], &[&name, &names])),
        frame!(ip6().tcp(1, 2, 3, 4).options_raw(&[1; 20]).unwrap(), b"HTTP/1.1 200 OK\r\n"),
        frame!(ip().icmpv4(unreachable), &quoted[IP..]),
        frame!(ip6().icmpv6(Icmpv6Type::NeighborSolicitation), &B6),
        frame!(ethernet().single_vlan(VlanId::try_new(1).unwrap()).ipv4(A, B, 64).udp(1, 2)),
        fragment,
        options,
        [&MAC_B[..], &MAC_A, &[8, 6, 0, 1, 8, 0, 6, 4, 0, 1], &[1; 20]].concat(),
        [&MAC_B[..], &MAC_A, &[0x88, 0xe5], &[0x0c; 40]].concat(),
    ];
    samples.extend(protocols::samples());
    samples.extend(peer::samples());
    samples
}

/// Printers of all styles, for both link types.
fn printers() -> Vec<Printer> {
    let text = Style { nanoseconds: true, ..Style::default() };
    let full = Style { verbose: true, link_header: true, absolute_numbers: true, ..Style::default() };
    let dump = |as_what| Some(Dump { as_what, link_header: true });
    let styles = [
        text.clone(),
        Style { brief: true, dump: dump(DumpForm::Ascii), ..text.clone() },
        Style { dump: dump(DumpForm::HexAndAscii), time: Time::SincePrevious, ..full.clone() },
        full,
        Style { form: Form::Json, ..text },
    ];
    let of = |(style, link_type): (&Style, _)| printer(style.clone(), TimeZone::UTC, link_type, &["eth0"]);
    let link_types = [LinkType::Ethernet, LinkType::Raw];
    styles.iter().flat_map(|style| link_types.map(|link_type| (style, link_type))).map(of).collect()
}

/// Nothing but printable ASCII, in lines of bounded length of which only the first begins with anything but blanks; or one
/// JSON object, in which no field is there twice.
fn assert_printable(printers: &mut [Printer], data: &[u8], original_len: usize) {
    for printer in printers {
        let printed = print(printer, &packet(data, original_len));
        let text = printed.strip_suffix('\n').unwrap();
        let is_line = |line: &str| line.bytes().all(|byte| matches!(byte, b'\t' | b' '..=b'~'));
        assert!(text.split('\n').all(is_line), "{text:?}");
        assert!(text.split('\n').skip(1).all(|line| line.starts_with(['\t', ' '])), "{text:?}");
        assert!(text.split('\n').all(|line| line.len() < MAX_LINE + 4 || printer.style.form == Form::Json));
        if printer.style.form == Form::Json {
            assert!(!text.contains(['\n', '\t']) && text.len() < 16_000, "{} bytes: {text}", text.len());
            let read: serde_json::Value = serde_json::from_str(text).expect(text);
            let written = serde_json::to_string(&read).unwrap();
            // serde_json keeps one of several and sorts, so what is left is as long only if there was one.
            assert_eq!(fields(&written), fields(text), "{text}");
        }
    }
}

/// How many fields there are: their colons stand behind a quote that ends a name.
fn fields(json: &str) -> usize {
    json.matches("\":").count()
}

#[test]
fn every_cut_of_every_packet_gives_a_line() {
    let mut printers = printers();
    for sample in samples() {
        for len in 0..=sample.len() {
            for original_len in [0, sample.len(), u32::MAX as usize] {
                assert_printable(&mut printers, &sample[..len], original_len);
            }
            // Where a raw link's packet begins.
            let raw = sample[..len].get(IP..).unwrap_or_default();
            assert_printable(&mut printers, raw, sample.len());
        }
    }
}

#[test]
fn every_garbled_packet_gives_a_line() {
    // xorshift, so that a failure can be repeated.
    let mut state = 0x5eed_u64;
    let mut random = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as usize
    };
    let mut printers = printers();
    for sample in samples() {
        for _ in 0..100 {
            let mut garbled = sample.clone();
            for _ in 0..1 + random() % 8 {
                let at = random() % garbled.len();
                garbled[at] = random() as u8;
            }
            garbled.truncate(random() % (garbled.len() * 2));
            assert_printable(&mut printers, &garbled, random() % 300_000);
        }
    }
    for _ in 0..2_000 {
        let noise: Vec<u8> = (0..random() % 120).map(|_| random() as u8).collect();
        assert_printable(&mut printers, &noise, noise.len());
    }
}
