//! Packets between two captured pods are seen where they are sent and where they come in, and are one packet all the same.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
};

use sniff_tests::{
    kernel,
    machine::{FakePod, Machine},
    pcap::{self, Direction, Packet, PcapNg},
    sniff::{Counts, Outcome, Sniff, read_aside},
    traffic::{self, UdpFlow},
};

use super::ways;
use crate::{Capture, two_pods};

const PORT: u16 = 7001;
/// Datagrams to this port are lost between the pods.
const LOST_PORT: u16 = 7002;
const TARGETS: [&str; 4] = ["--netns", "a", "--netns", "b"];
const FILTER: &str = "icmp or udp dst portrange 7001-7002";

fn flow(from: &FakePod, to: &FakePod, port: u16) -> UdpFlow {
    UdpFlow::open(&from.netns, &to.netns, SocketAddr::new(to.ipv4.into(), port))
}

/// A machine with two pods, between which some packets are lost.
fn place() -> (Machine, FakePod, FakePod) {
    let machine = Machine::boot();
    let (a, b) = two_pods(&machine);
    machine.netns().run(&format!("ip rule add dport {LOST_PORT} blackhole"));
    (machine, a, b)
}

/// 12 packets that arrive and 5 that do not, some of them alike.
fn exchange(a: &FakePod, b: &FakePod) {
    let (there, lost) = (flow(a, b, PORT), flow(b, a, LOST_PORT));
    for text in [&b"one"[..], b"again", b"again", b"again", b"", b"last"] {
        there.deliver(text);
    }
    for text in [b"lost"; 5] {
        lost.send_payload(text);
    }
    traffic::ping(&a.netns, b.ipv4.into(), 3, 56);
}

fn direction(packet: &Packet) -> Direction {
    packet.direction.expect("a direction")
}

/// Checks that it said a line.
#[track_caller]
fn assert_said(outcome: &Outcome, line: &str) {
    assert!(outcome.stderr.iter().any(|it| it == line), "{line:?}: {outcome:#?}");
}

#[test]
fn a_packet_has_one_id_at_both_ends_and_every_other_its_own() {
    let (machine, a, b) = place();
    let node = machine.netns();
    for way in ways() {
        let capture = Capture::new();
        let args = [&TARGETS[..], &["-w", capture.arg(), FILTER], &way].concat();
        let sniff = Sniff::in_netns(&node).args(args).start();
        exchange(&a, &b);
        let outcome = sniff.stop();
        let file = capture.read_counted(&outcome);
        let mut seen: HashMap<u64, Vec<&Packet>> = HashMap::new();
        for packet in &file.packets {
            seen.entry(packet.packet_id.expect("an id")).or_default().push(packet);
        }
        let (pairs, alone): (Vec<_>, Vec<_>) = seen.into_values().partition(|copies| copies.len() == 2);
        assert_eq!((pairs.len(), alone.len()), (12, 5), "{way:?}");
        for pair in pairs {
            let [sent, come] = pair[..] else { panic!("{way:?}: {pair:?}") };
            assert_eq!((direction(sent), direction(come)), (Direction::Out, Direction::In), "{way:?}");
            assert_ne!(sent.interface, come.interface, "{way:?}");
            // But for what a router changes: the addresses of the link, the hops that are left, and the checksum.
            assert_eq!(sent.data[26..], come.data[26..], "{way:?}");
        }
        assert!(alone.iter().all(|one| direction(one[0]) == Direction::Out), "{way:?}: {alone:?}");
        assert_said(&outcome, "12 packets seen at both ends, 5 only where sent");
        assert_eq!(outcome.success(), Counts { captured: 29, received: 29, dropped: 0 }, "{way:?}");
    }
}

#[test]
fn a_pod_alone_has_no_other_end() {
    let (machine, a, b) = place();
    let node = machine.netns();
    for ring in kernel::rings() {
        for args in [&["--netns", "a"][..], &["--netns", "a", "--netns", "b", "--unsorted"]] {
            let capture = Capture::new();
            let args = [args, &["--ring", ring, "-w", capture.arg(), FILTER]].concat();
            let sniff = Sniff::in_netns(&node).args(&args).start();
            exchange(&a, &b);
            let outcome = sniff.stop();
            let file = capture.read_counted(&outcome);
            assert!(file.packets.iter().all(|packet| packet.packet_id.is_none()), "{args:?}");
            assert!(!outcome.stderr.iter().any(|line| line.contains("both ends")), "{outcome:#?}");
        }
    }
}

#[test]
fn one_side_writes_what_is_sent_and_counts_the_rest() {
    let (machine, a, b) = place();
    let node = machine.netns();
    for way in ways() {
        let capture = Capture::new();
        let args = [&TARGETS[..], &["--one-side", "-w", capture.arg(), FILTER], &way].concat();
        let sniff = Sniff::in_netns(&node).args(args).start();
        exchange(&a, &b);
        // From somebody who is not captured: this is where it is seen.
        traffic::ping(&node, b.ipv4.into(), 2, 57);
        let outcome = sniff.stop();
        let file = capture.read_counted(&outcome);
        let came: Vec<&Packet> = file.packets.iter().filter(|it| direction(it) == Direction::In).collect();
        assert_eq!((came.len(), file.packets.len()), (2, 12 + 5 + 4), "{way:?}: {came:?}");
        let mut ids: Vec<u64> = file.packets.iter().filter_map(|packet| packet.packet_id).collect();
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), file.packets.len(), "{way:?}");
        let gateway: [u8; 4] = b.gateway4.octets();
        assert!(came.iter().all(|packet| packet.data[26..30] == gateway), "{way:?}: {came:?}");
        assert_said(&outcome, "12 packets left out, which are here where they were sent");
        assert_said(&outcome, "12 packets seen at both ends, 5 only where sent");
        assert_eq!(outcome.success(), Counts { captured: 21, received: 33, dropped: 0 }, "{way:?}");
        let left_out: Vec<u64> = file.statistics.iter().map(left_out).collect();
        assert_eq!(left_out, [3, 9], "{way:?}");
        assert_all_add_up(&file);
    }
}

#[test]
fn a_count_is_of_packets_that_are_written() {
    let (machine, a, b) = place();
    let node = machine.netns();
    let capture = Capture::new();
    let args = [&TARGETS[..], &["--one-side", "--count", "4", "-w", capture.arg(), "icmp"]].concat();
    let sniff = Sniff::in_netns(&node).args(args).start();
    traffic::ping(&a.netns, b.ipv4.into(), 20, 56);
    let outcome = sniff.wait();
    let file = capture.read_counted(&outcome);
    assert_eq!(file.packets.len(), 4);
    assert!(file.packets.iter().all(|packet| direction(packet) == Direction::Out), "{:?}", file.packets);
    assert!(!outcome.stderr.iter().any(|line| line.contains("do not add up")), "{outcome:#?}");
    // The copy of the last one is beyond it, as all that follows.
    assert_said(&outcome, "3 packets left out, which are here where they were sent");
    assert_said(&outcome, "3 packets seen at both ends, 0 only where sent");
}

#[test]
fn the_accounts_add_up_where_packets_are_lost_to_a_slow_output() {
    const SENT: u32 = 3000;
    let (machine, a, b) = place();
    let node = machine.netns();
    let flows = [flow(&a, &b, PORT), flow(&b, &a, PORT)];
    for ring in kernel::rings() {
        let args = [&TARGETS[..], &["--one-side", "-B", "512KiB", "--ring", ring, "-w", "-", "udp"]].concat();
        let (sniff, stdout) = Sniff::in_netns(&node).args(args).start_unread();
        for flow in &flows {
            flow.send(SENT, 1000);
        }
        let reader = read_aside(stdout);
        let outcome = sniff.stop();
        let (file, counts) = (pcap::parse_pcapng(&reader.join().expect("the reader")), outcome.success());
        assert!(counts.dropped > 0, "{ring}: made to lose packets, and has not");
        assert_eq!(counts.received, 4 * u64::from(SENT), "{ring}");
        let left_out: u64 = file.statistics.iter().map(left_out).sum();
        assert!(left_out > 0, "{ring}: {outcome:#?}");
        assert_eq!(file.packets.len() as u64, counts.captured, "{ring}");
        assert_eq!(counts.captured + left_out + counts.dropped, counts.received, "{ring}");
        assert_said(&outcome, &format!("{left_out} packets left out, which are here where they were sent"));
        assert_all_add_up(&file);
        let told: u64 = file.packets.iter().filter_map(|packet| packet.dropcount).sum();
        let untold: u64 = file.statistics.iter().map(|it| number_before(it, " of the dropped packets")).sum();
        assert_eq!(told + untold, counts.dropped, "{ring}");
    }
}

#[test]
fn addresses_of_either_family_are_awaited() {
    let machine = Machine::boot();
    let (a, b) = two_pods(&machine);
    let node = machine.netns();
    node.sysctl("net/ipv6/conf/all/forwarding", "1");
    for pod in [&a, &b] {
        pod.netns.run(&format!("ip -6 route add default via {}", pod.gateway6));
    }
    let to: IpAddr = b.ipv6.into();
    traffic::ping(&a.netns, to, 1, 16);
    node.run(&format!("ip -6 rule add dport {LOST_PORT} blackhole"));
    let capture = Capture::new();
    let args = [&TARGETS[..], &["-w", capture.arg(), "icmp6[0] >= 128 and icmp6[0] < 130 or udp"]].concat();
    let sniff = Sniff::in_netns(&node).args(args).start();
    UdpFlow::open(&a.netns, &b.netns, SocketAddr::new(to, LOST_PORT)).send_payload(b"lost");
    traffic::ping(&a.netns, to, 2, 56);
    let outcome = sniff.stop();
    capture.read_counted(&outcome);
    assert_said(&outcome, "4 packets seen at both ends, 1 only where sent");
}

/// Checks that each interface's counts say what became of all that it received.
fn assert_all_add_up(file: &PcapNg) {
    for statistics in &file.statistics {
        let told = [statistics.osdrop, statistics.usrdeliv].map(|count| count.expect("a count"));
        let sum = told.iter().sum::<u64>() + left_out(statistics);
        assert_eq!(statistics.filteraccept, Some(sum), "{statistics:?}");
    }
}

/// What the statistics of an interface say that is left out.
fn left_out(statistics: &pcap::Statistics) -> u64 {
    number_before(statistics, " of the received packets are left out")
}

/// A number in the comment of statistics in front of these words; 0 where they are not.
fn number_before(statistics: &pcap::Statistics, words: &str) -> u64 {
    let comment = statistics.comment.as_deref().unwrap_or_default();
    let before = comment.split_once(words).and_then(|(before, _)| before.rsplit(' ').next());
    before.map_or(0, |number| number.parse().expect("a number"))
}
