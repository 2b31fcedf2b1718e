//! A recorder: what came last is in the file, without a gap up to the moment that was asked for, and the rest is counted.

use std::{collections::HashMap, net::SocketAddr, ops::Range, thread};

use nix::sys::signal::Signal;
use sniff_tests::{
    kernel,
    machine::Machine,
    netns::Netns,
    pcap::Packet,
    sniff::{Running, Sniff},
    traffic::UdpFlow,
};

use crate::Capture;

/// Each sender's own port; no other packet goes there.
const PORTS: [u16; 2] = [7005, 7006];
const FILTER: &str = "udp and (dst port 7005 or dst port 7006)";
/// Bytes of an Ethernet, an IPv4 and a UDP header.
const HEADERS: usize = 14 + 20 + 8;
/// Bytes of a datagram.
const SIZE: usize = 1000;
/// More than what both senders send fits into it.
const MEMORY: &str = "8MiB";
const MEMORY_BYTES: usize = 8 << 20;
const SENT: u32 = 8000;

#[test]
fn what_came_last_is_written_at_the_end_and_what_is_older_counted() {
    if !can_record() {
        return;
    }
    let (machine, capture) = (Machine::boot(), Capture::new());
    let node = machine.netns();
    let flows = flows(&node, &machine);
    let sniff = record(&node, &capture);
    send(&flows, 0..SENT);
    let outcome = sniff.stop();
    let (counts, file) = (outcome.success(), capture.read());
    assert_eq!((counts.received, counts.dropped), (2 * u64::from(SENT), 0));
    assert_eq!(counts.captured, file.packets.len() as u64);
    let aged_out = counts.received - counts.captured;
    assert!(aged_out > 0, "made to write over, and has not");
    let told = format!("{aged_out} packets too old to be held");
    assert!(outcome.stderr.contains(&told), "{outcome:#?}");
    // What it may hold, but for what CPUs' last regions have left, and not more.
    let bytes: usize = file.packets.iter().map(|packet| packet.data.len()).sum();
    assert!((MEMORY_BYTES / 2..=MEMORY_BYTES).contains(&bytes), "{bytes} bytes are held");
    let ends = assert_are_unbroken(&file.packets);
    assert!(PORTS.iter().all(|port| ends.get(port) == Some(&SENT)), "not up to the end: {ends:?}");
    let [statistics] = file.statistics.as_slice() else { panic!("not one: {file:?}") };
    assert_eq!(statistics.filteraccept, Some(counts.received));
    assert_eq!((statistics.usrdeliv, statistics.osdrop), (Some(counts.captured), Some(0)));
    let comment = statistics.comment.as_deref().unwrap_or_default();
    assert!(
        comment.contains(&format!("{aged_out} of the received packets were too old to be held")),
        "{comment}"
    );
}

#[test]
fn each_signal_has_a_whole_run_of_packets_written_while_more_come() {
    const SAVES: u64 = 8;
    if !can_record() {
        return;
    }
    let (machine, capture) = (Machine::boot(), Capture::new());
    let node = machine.netns();
    let flows = flows(&node, &machine);
    let mut sniff = record(&node, &capture);
    let mut written = Vec::new();
    thread::scope(|scope| {
        let sending = scope.spawn(|| send(&flows, 0..SENT * SAVES as u32));
        for _ in 0..SAVES {
            sniff.signal(Signal::SIGUSR1);
            let line = sniff.wait_for_line("what was held is written");
            let count =
                line.split_whitespace().zip(line.split_whitespace().skip(1)).find(|(_, it)| *it == "packets");
            written.push(count.expect("a count").0.parse::<usize>().expect("a number"));
        }
        sending.join().expect("the senders");
    });
    let outcome = sniff.stop();
    let (counts, file) = (outcome.success(), capture.read());
    assert_eq!((counts.received, counts.dropped), (2 * SAVES * u64::from(SENT), 0));
    assert_eq!(counts.captured, file.packets.len() as u64);
    let adds_up = |line: &&String| line.contains("do not add up");
    assert_eq!(outcome.stderr.iter().find(adds_up), None);
    // As of each signal, and at the end.
    written.push(file.packets.len());
    for (at, two) in file.packets.windows(2).enumerate() {
        let [before, after] = [&two[0], &two[1]].map(|packet| packet.timestamp_ns);
        assert!(before <= after, "{at}: {} ns too late, of {written:?}", before - after);
    }
    let (mut begin, mut before) = (0, HashMap::new());
    for end in written {
        let run = &file.packets[begin..end];
        let firsts = PORTS.map(|port| run.iter().map(number).find(|&(of, _)| of == port));
        for (port, first) in firsts.into_iter().flatten() {
            assert!(
                before.get(&port).is_none_or(|&before| first >= before),
                "{port}: {first} is there twice"
            );
        }
        before.extend(assert_are_unbroken(run));
        begin = end;
    }
    assert!(PORTS.iter().all(|port| before.get(port) == Some(&(SENT * SAVES as u32))), "not up to the end");
}

#[test]
fn recording_is_refused_with_words_where_it_cannot_be() {
    let (machine, capture) = (Machine::boot(), Capture::new());
    let node = machine.netns();
    machine.fake_pod("blue", 1);
    let run = |memory: &str| {
        let args = ["--netns", "blue", "--duration", "100ms", "--record", memory, "-w", capture.arg()];
        Sniff::in_netns(&node).args(args).run()
    };
    let outcome = run("512KiB");
    let refusal = outcome.refusal(1);
    if can_record() {
        assert!(refusal.contains("--record takes ") && refusal.contains(" at least"), "{refusal}");
        run(MEMORY).success();
    } else {
        assert!(refusal.contains("no --record on this kernel: "), "{refusal}");
    }
}

/// Whether this kernel has what that takes, which the test above checks.
fn can_record() -> bool {
    kernel::rings().contains(&"regions")
}

fn flows(node: &Netns, machine: &Machine) -> [UdpFlow; 2] {
    let pod = machine.fake_pod("blue", 1);
    sniff_tests::traffic::ping(node, pod.ipv4.into(), 1, 56);
    PORTS.map(|port| UdpFlow::open(node, &pod.netns, SocketAddr::new(pod.ipv4.into(), port)))
}

fn record(node: &Netns, capture: &Capture) -> Running {
    let args = ["--netns", "blue", "--record", MEMORY, "-w", capture.arg(), FILTER];
    let mut sniff = Sniff::in_netns(node).args(args).start();
    sniff.wait_for_line("recording in memory");
    sniff
}

/// Sends the datagrams of these numbers.
fn send(flows: &[UdpFlow; 2], numbers: Range<u32>) {
    super::send(flows, &numbers, payload);
}

/// A datagram that begins with its number.
fn payload(_: usize, number: u32) -> Vec<u8> {
    let mut payload = vec![0x5a; SIZE];
    payload[..4].copy_from_slice(&number.to_be_bytes());
    payload
}

/// The port and the number of a datagram.
fn number(packet: &Packet) -> (u16, u32) {
    let port = u16::from_be_bytes(*packet.data[HEADERS - 6..].first_chunk().expect("a port"));
    (port, u32::from_be_bytes(*packet.data[HEADERS..].first_chunk().expect("a number")))
}

/// Checks that each sender's numbers follow each other; returns the number that would come next.
fn assert_are_unbroken(packets: &[Packet]) -> HashMap<u16, u32> {
    let mut next = HashMap::new();
    for (port, number) in packets.iter().map(number) {
        let expected = next.insert(port, number + 1).unwrap_or(number);
        assert_eq!(number, expected, "{port}: a gap, or one that is there twice");
    }
    next
}
