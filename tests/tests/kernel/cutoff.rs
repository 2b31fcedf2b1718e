//! A cutoff: of each flow the first bytes are whole, what comes later is cut or left out, and all are counted.

use std::{
    collections::HashMap,
    io::{Read as _, Write as _},
    net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream},
    thread,
};

use sniff_tests::{
    frame::Sender,
    kernel,
    machine::{FakePod, Machine},
    netns::Netns,
    pcap::{Packet, PcapNg},
    sniff::{Counts, Outcome, Sniff},
    traffic::{self, UdpFlow},
};

use super::ways;
use crate::Capture;

const PORT: u16 = 7777;
/// Bytes of the headers of a UDP datagram.
const UDP4: usize = 14 + 20 + 8;
const UDP6: usize = 14 + 40 + 8;

const FIN: u8 = 1;
const SYN: u8 = 2;
const RST: u8 = 4;
const ACK: u8 = 16;

#[test]
fn the_first_bytes_of_each_flow_are_whole_and_then_there_are_headers() {
    for way in ways() {
        let (_machine, node, pod) = place();
        let to = [(pod.ipv4.into(), UDP4), (pod.ipv6.into(), UDP6)];
        let filter = "udp port 7777 or udp port 7778";
        let (file, counts, outcome) = capture_all(&node, "2000", &way, filter, || {
            // Two of each kind, which take turns.
            let flows = to.map(|(to, _)| {
                [PORT, PORT + 1].map(|port| UdpFlow::open(&node, &pod.netns, SocketAddr::new(to, port)))
            });
            for _ in 0..6 {
                flows.iter().flatten().for_each(|flow| flow.send(1, 500));
            }
        });
        assert_eq!((counts.received, counts.captured, counts.dropped), (24, 24, 0), "{way:?}");
        assert_eq!(cut_off(&outcome), 0, "{way:?}");
        let flows = flows(&file.packets);
        assert_eq!(flows.len(), 4, "{way:?}");
        for packets in flows.values() {
            let headers = if packets[0].data[12..14] == [0x08, 0] { UDP4 } else { UDP6 };
            let whole = headers + 500;
            // Where the bytes end is in the fourth one.
            let expected = [whole, whole, whole, 2000 - 3 * whole, headers, headers];
            assert_eq!(lengths(packets), expected, "{way:?}");
            assert!(packets.iter().all(|packet| packet.original_len as usize == whole), "{way:?}");
        }
        let comment = file.interfaces[0].comment.as_deref().unwrap_or_default();
        assert!(comment.contains("of each flow the first 2000 bytes are kept, then headers"), "{comment}");
    }
}

#[test]
fn what_is_behind_the_cutoff_is_left_out_and_counted() {
    for way in ways() {
        for (then, beyond) in [("none", vec![]), ("every=3", vec![UDP4; 32])] {
            let (_machine, node, pod) = place();
            let flow = UdpFlow::open(&node, &pod.netns, SocketAddr::new(pod.ipv4.into(), PORT));
            let (file, counts, outcome) =
                capture(&node, &format!("2000,{then}"), &way, || flow.send(100, 500));
            let whole = UDP4 + 500;
            let expected = [vec![whole, whole, whole, 2000 - 3 * whole], beyond].concat();
            assert_eq!(lengths(&file.packets.iter().collect::<Vec<_>>()), expected, "{way:?} {then}");
            assert_eq!((counts.received, counts.dropped), (100, 0), "{way:?} {then}");
            assert_eq!(cut_off(&outcome), 100 - expected.len() as u64, "{way:?} {then}");
            let [statistics] = file.statistics.as_slice() else { panic!("not one: {file:?}") };
            assert_eq!((statistics.filteraccept, statistics.osdrop), (Some(100), Some(0)));
            let told = format!("{} of the received packets are left out by the cutoff", 100 - expected.len());
            assert!(
                statistics.comment.as_deref().is_some_and(|comment| comment.contains(&told)),
                "{statistics:?}"
            );
        }
    }
}

#[test]
fn a_transfer_has_its_handshake_its_first_bytes_and_its_end() {
    const SIZE: usize = 16 << 10;
    let (_machine, node, pod) = place();
    for (to, ip) in [(SocketAddr::from((pod.ipv4, PORT)), 20), (SocketAddr::from((pod.ipv6, PORT)), 40)] {
        for then in ["headers", "none"] {
            let (file, counts, outcome) =
                capture(&node, &format!("16KiB,{then}"), &[], || transfer(&node, &pod, to));
            assert_eq!(counts.received, counts.captured + cut_off(&outcome), "{then}");
            assert_eq!(counts.dropped, 0, "{then}");
            let flows = flows(&file.packets);
            assert_eq!(flows.len(), 2, "{then}");
            for packets in flows.values() {
                let mut seen = 0;
                for packet in packets {
                    let headers = 14 + ip + usize::from(packet.data[14 + ip + 12] >> 4) * 4;
                    let original = packet.original_len as usize;
                    let expected = original.min(headers.max(SIZE.saturating_sub(seen)));
                    assert_eq!(packet.data.len(), expected, "{then}: behind {seen} bytes");
                    if then == "none" && seen >= SIZE {
                        assert_ne!(flags(packet, ip) & (FIN | RST), 0, "behind {seen} bytes");
                    }
                    seen += original;
                }
                assert_eq!(flags(packets[0], ip) & SYN, SYN, "{then}");
                assert!(packets.iter().any(|packet| flags(packet, ip) & FIN != 0), "{then}: no end");
            }
            let left_out = cut_off(&outcome);
            assert_eq!(left_out > 0, then == "none", "{then}: {left_out}");
        }
    }
}

#[test]
fn a_syn_begins_a_flow_anew_and_its_end_is_always_there() {
    for way in ways() {
        let (_machine, node, pod) = place();
        let sender = Sender::open(&pod.netns, pod.eth0.index);
        let headers = 14 + 20 + 20;
        let (file, counts, outcome) = capture(&node, "1000,none", &way, || {
            for (flags, payload) in [
                (SYN, 0),
                (ACK, 900),
                (ACK, 200),
                (ACK, 200),
                (ACK | FIN, 300),
                (ACK, 0),
                (RST, 0),
                (SYN | ACK, 500),
                (ACK, 600),
                (ACK, 1),
            ] {
                sender.send(&tcp(flags, payload), 0);
            }
        });
        // The first 1000 bytes, then FIN and RST, then as much again.
        let expected = [headers, 1000 - headers, headers, headers, headers + 500, 1000 - (headers + 500)];
        assert_eq!(lengths(&file.packets.iter().collect::<Vec<_>>()), expected, "{way:?}");
        assert_eq!((counts.received, cut_off(&outcome)), (10, 4), "{way:?}");
    }
}

#[test]
fn what_has_no_ports_and_fragments_are_never_cut_off() {
    let (_machine, node, pod) = place();
    let flow = UdpFlow::open(&node, &pod.netns, SocketAddr::new(pod.ipv4.into(), PORT));
    let (file, counts, outcome) = capture_all(&node, "100,none", &[], "", || {
        traffic::ping(&node, pod.ipv4.into(), 10, 500);
        traffic::ping(&node, pod.ipv6.into(), 10, 3000);
        (0..10).for_each(|_| flow.send(1, 4000));
    });
    assert_eq!((counts.received, counts.dropped, cut_off(&outcome)), (counts.captured, 0, 0));
    assert!(counts.captured >= 20 + 2 * 30 + 30, "{counts:?}");
    assert!(file.packets.iter().all(|packet| packet.data.len() == packet.original_len as usize));
}

#[test]
fn of_more_flows_than_there_is_room_for_none_loses_its_first_bytes() {
    const EACH: u64 = 3;
    for way in ways() {
        let (_machine, node, pod) = place();
        let way: Vec<&str> = way.iter().copied().chain(["-B", "8MiB"]).collect();
        let room = 4096_u16;
        for flows in [room / 4, 2 * room] {
            let sender = Sender::open(&pod.netns, pod.eth0.index);
            let (file, counts, outcome) = capture(&node, "10,none", &way, || {
                for _ in 0..EACH {
                    (0..flows).for_each(|flow| sender.send(&udp(flow), 0));
                }
            });
            assert_eq!((counts.received, counts.dropped), (EACH * u64::from(flows), 0), "{way:?}");
            assert_eq!(counts.received, counts.captured + cut_off(&outcome), "{way:?}");
            let found = self::flows(&file.packets);
            assert_eq!(found.len(), usize::from(flows), "{way:?}");
            if flows < room {
                assert_eq!(counts.captured, u64::from(flows), "{way:?}");
            } else {
                assert!(counts.captured > u64::from(flows), "{way:?}: all were known");
            }
        }
    }
}

#[test]
fn two_captures_of_a_pod_have_each_their_own_cutoff() {
    let (_machine, node, pod) = place();
    let flow = UdpFlow::open(&node, &pod.netns, SocketAddr::new(pod.ipv4.into(), PORT));
    let (inner, outer) = (Capture::new(), Capture::new());
    let start = |cutoff: &[&str], capture: &Capture| {
        let args = ["--netns", "blue", "-w", capture.arg(), "udp dst port 7777"];
        Sniff::in_netns(&node).args(args.into_iter().chain(cutoff.iter().copied())).start()
    };
    let captures = [
        start(&["--cutoff", "1000,none"], &inner),
        start(&["--cutoff", "5000,headers"], &outer),
        start(&[], &Capture::new()),
    ];
    flow.send(100, 500);
    let counts = captures.map(|sniff| sniff.stop().success());
    assert_eq!(counts.map(|counts| (counts.received, counts.captured)), [(100, 2), (100, 100), (100, 100)]);
    let kept =
        |capture: &Capture| capture.read().packets.iter().map(|packet| packet.data.len()).sum::<usize>();
    assert_eq!(kept(&inner), 1000);
    // Of the tenth there is less than its headers.
    assert_eq!(kept(&outer), 9 * (UDP4 + 500) + (5000 - 9 * (UDP4 + 500)) + 90 * UDP4);
}

#[test]
fn a_recorder_holds_more_and_its_files_tell_what_was_left_out() {
    if !kernel::rings().contains(&"regions") {
        return;
    }
    const SENT: u64 = 40_000;
    let (_machine, node, pod) = place();
    let flow = UdpFlow::open(&node, &pod.netns, SocketAddr::new(pod.ipv4.into(), PORT));
    let mut recorder = Sniff::in_netns(&node)
        .args(["--netns", "blue", "--record", "8MiB", "--cutoff", "16KiB,every=4", "udp dst port 7777"])
        .start();
    let line = recorder.wait_for_line("recording in memory");
    assert!(line.contains(", and 512.0 KiB for 4096 flows"), "{line}");
    flow.send(SENT as u32, 1000);
    let whole = 16;
    let every_fourth = (SENT - whole) / 4;
    let saved = Capture::new();
    let outcome = Sniff::in_netns(&node).args(["save", "-w", saved.arg()]).run();
    let (counts, file) = (outcome.success(), saved.read());
    assert_eq!((counts.received, counts.dropped), (SENT, 0));
    // All that was sent fits, though it is five times the memory.
    assert_eq!((counts.captured, cut_off(&outcome)), (whole + every_fourth, SENT - whole - every_fourth));
    assert_eq!(counts.captured, file.packets.len() as u64);
    let [statistics] = file.statistics.as_slice() else { panic!("not one: {file:?}") };
    assert_eq!(statistics.filteraccept, Some(SENT));
    let comment = statistics.comment.as_deref().unwrap_or_default();
    assert!(comment.contains(&format!("{} packets left out by the cutoff", cut_off(&outcome))), "{comment}");
    let ended = recorder.stop();
    assert_eq!((ended.success().received, cut_off(&ended)), (SENT, cut_off(&outcome)));
    assert!(!ended.stderr.iter().any(|line| line.contains("do not add up")), "{ended:#?}");
}

fn place() -> (Machine, Netns, FakePod) {
    let machine = Machine::boot();
    let node = machine.netns();
    let pod = machine.fake_pod("blue", 1);
    // The neighbours are known from here on.
    [pod.ipv4.into(), pod.ipv6.into()].iter().for_each(|&to| traffic::ping(&node, to, 1, 16));
    (machine, node, pod)
}

/// What is captured with a cutoff of the packets to or from [`PORT`] while this is sent.
fn capture(node: &Netns, cutoff: &str, way: &[&str], send: impl FnOnce()) -> (PcapNg, Counts, Outcome) {
    capture_all(node, cutoff, way, "port 7777", send)
}

fn capture_all(
    node: &Netns,
    cutoff: &str,
    way: &[&str],
    filter: &str,
    send: impl FnOnce(),
) -> (PcapNg, Counts, Outcome) {
    let capture = Capture::new();
    let args = ["--netns", "blue", "--cutoff", cutoff, "-w", capture.arg(), "-f", filter];
    let sniff = Sniff::in_netns(node).args(args).args(way.iter().copied()).start();
    send();
    let outcome = sniff.stop();
    let (counts, file) = (outcome.success(), capture.read());
    assert_eq!(counts.captured, file.packets.len() as u64);
    assert!(!outcome.stderr.iter().any(|line| line.contains("do not add up")), "{outcome:#?}");
    (file, counts, outcome)
}

/// Packets that were left out by a cutoff, as told at the end.
fn cut_off(outcome: &Outcome) -> u64 {
    let told = outcome.stderr.iter().find_map(|line| line.strip_suffix(" packets left out by the cutoff"));
    told.map_or(0, |count| count.parse().expect("a number"))
}

/// Packets by what tells flows apart: the addresses and the ports.
fn flows(packets: &[Packet]) -> HashMap<Vec<u8>, Vec<&Packet>> {
    let mut flows = HashMap::<_, Vec<_>>::new();
    for packet in packets {
        let flow = if packet.data[12..14] == [0x08, 0] { 26..38 } else { 22..58 };
        flows.entry(packet.data[flow].to_vec()).or_default().push(packet);
    }
    flows
}

fn lengths(packets: &[&Packet]) -> Vec<usize> {
    packets.iter().map(|packet| packet.data.len()).collect()
}

fn flags(packet: &Packet, ip: usize) -> u8 {
    packet.data[14 + ip + 13]
}

/// Sends a megabyte each way and ends the connection at both ends.
fn transfer(node: &Netns, pod: &FakePod, to: SocketAddr) {
    const BYTES: usize = 1 << 20;
    let listener = pod.netns.enter(|| TcpListener::bind(to)).expect("a listener");
    let exchange = |mut stream: TcpStream| {
        let mut reading = stream.try_clone().expect("a clone");
        thread::scope(|scope| {
            scope.spawn(move || {
                stream.write_all(&vec![0x5a; BYTES]).expect("sending");
                stream.shutdown(Shutdown::Write).expect("an end");
            });
            let mut all = Vec::new();
            reading.read_to_end(&mut all).expect("receiving");
            assert_eq!(all.len(), BYTES);
        });
    };
    thread::scope(|scope| {
        scope.spawn(|| exchange(listener.accept().expect("a client").0));
        exchange(node.enter(|| TcpStream::connect(to)).expect("a connection"));
    });
}

/// A frame for nobody.
fn ipv4(protocol: u8, rest: &[u8]) -> Vec<u8> {
    let mut frame = vec![0x02, 0, 0, 0, 0, 9, 0x02, 0, 0, 0, 0, 8, 0x08, 0x00];
    let len = (20 + rest.len()) as u16;
    frame.extend([0x45, 0, len.to_be_bytes()[0], len.to_be_bytes()[1], 0, 0, 0, 0, 64, protocol, 0, 0]);
    frame.extend(Ipv4Addr::new(192, 0, 2, 1).octets());
    frame.extend(Ipv4Addr::new(192, 0, 2, 2).octets());
    frame.extend(rest);
    frame
}

/// One of a connection to [`PORT`].
fn tcp(flags: u8, payload: usize) -> Vec<u8> {
    let mut header = vec![0; 20];
    header[..2].copy_from_slice(&4444_u16.to_be_bytes());
    header[2..4].copy_from_slice(&PORT.to_be_bytes());
    (header[12], header[13]) = (5 << 4, flags);
    header.extend(vec![0x5a; payload]);
    ipv4(6, &header)
}

/// One from this port to [`PORT`].
fn udp(port: u16) -> Vec<u8> {
    let len = (8 + 100_u16).to_be_bytes();
    let mut datagram = [port.to_be_bytes(), PORT.to_be_bytes(), len, [0, 0]].concat();
    datagram.extend([0x5a; 100]);
    ipv4(17, &datagram)
}
