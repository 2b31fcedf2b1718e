//! Two CPUs write at the same time, while the ring wraps, fills and is emptied; each record is looked at.

use std::{net::SocketAddr, ops::Range, thread, time::Duration};

use sniff_tests::{
    kernel,
    machine::{FakePod, Machine},
    netns::Netns,
    pcap::{self, Packet},
    sniff::{Sniff, read_aside},
    traffic::{self, UdpFlow},
};

use crate::Capture;

/// Each sender's own port; no other packet goes there.
const PORTS: [u16; 2] = [7001, 7002];
const FILTER: &str = "udp and (dst port 7001 or dst port 7002)";
/// Bytes of an Ethernet, an IPv4 and a UDP header.
const HEADERS: usize = 14 + 20 + 8;

#[test]
fn packets_of_two_cpus_are_in_order_and_each_is_as_it_was_sent() {
    for ring in kernel::rings() {
        let file = capture(&["--ring", ring], |flows| send(flows, 0..3000));
        assert!(file.packets.is_sorted_by_key(|packet| packet.timestamp_ns), "{ring}: not by time");
        assert_eq!(file.written, [3000; 2], "{ring}");
        assert_eq!(file.dropped, 0, "{ring}");
    }
}

#[test]
fn unsorted_packets_of_two_cpus_are_all_there() {
    for ring in kernel::rings() {
        let file = capture(&["--ring", ring, "--unsorted"], |flows| send(flows, 0..3000));
        assert_eq!(file.written, [3000; 2], "{ring}");
        assert_eq!(file.dropped, 0, "{ring}");
    }
}

#[test]
fn the_summary_tells_how_full_the_ring_got() {
    for ring in kernel::rings() {
        let machine = Machine::boot();
        let node = machine.netns();
        let flows = flows(&node, &machine.fake_pod("blue", 1));
        let fullness = |count| {
            let args = ["--netns", "blue", "-B", "512KiB", "--ring", ring, "-w", "-", FILTER];
            let (sniff, stdout) = Sniff::in_netns(&node).args(args).start_unread();
            send(&flows, 0..count);
            let reader = read_aside(stdout);
            let outcome = sniff.stop();
            reader.join().expect("the reader");
            let line = outcome.stderr.iter().find(|line| line.contains("the buffer was at most"));
            let line = line.unwrap_or_else(|| panic!("not told: {outcome:#?}"));
            let memory = if *ring == "regions" { " regions)" } else { "in a BPF ring buffer)" };
            assert!(line.ends_with(memory), "{line}");
            let words = line.split_whitespace().collect::<Vec<_>>();
            let percent = words.windows(2).find(|two| two[1] == "%").expect("a part of the buffer")[0];
            percent.parse::<u32>().expect("a number")
        };
        assert_eq!(fullness(3000), 100, "{ring}: more than fits");
        assert!((0..100).contains(&fullness(10)), "{ring}: hardly anything");
    }
}

#[test]
fn regions_are_refused_where_the_kernel_cannot_have_them() {
    let machine = Machine::boot();
    let node = machine.netns();
    machine.fake_pod("blue", 1);
    let args = ["--netns", "blue", "--ring", "regions", "--duration", "100ms"];
    let outcome = Sniff::in_netns(&node).args(args).run();
    if kernel::rings().contains(&"regions") {
        outcome.success();
    } else {
        let line = outcome.stderr.last().expect("a reason");
        assert!(line.contains("no --ring regions on this kernel: "), "{line}");
        assert!(line.contains("5.12") || line.contains("PREEMPT_RT"), "{line}");
        assert_eq!(outcome.status.code(), Some(1), "{outcome:#?}");
    }
}

#[test]
fn a_ring_that_wraps_and_fills_loses_whole_packets_and_counts_them() {
    const UNREAD: Range<u32> = 0..3000;
    const READ: Range<u32> = 3000..9000;
    for ring in kernel::rings() {
        for order in [&["--ring", ring][..], &["--ring", ring, "--unsorted"]] {
            let args = [order, &["-B", "1MiB"]].concat();
            let file = capture_in_two_parts(&args, UNREAD, READ);
            let sent = 2 * u64::from(READ.end);
            assert!(file.dropped > 0, "{args:?}: made to drop, and has not");
            assert_eq!(file.written.iter().sum::<u64>() + file.dropped, sent, "{args:?}");
            assert!(file.written.iter().all(|&written| written > 0), "{args:?}: {:?}", file.written);
            let told: u64 = file.packets.iter().filter_map(|packet| packet.dropcount).sum();
            assert!((1..=file.dropped).contains(&told), "{args:?}: {told} of {} told", file.dropped);
        }
    }
}

/// A capture whose packets were found to be as they were sent, each once, and in order for each sender.
struct Checked {
    packets: Vec<Packet>,
    /// Of each sender.
    written: [u64; 2],
    dropped: u64,
}

/// Two flows into a pod.
fn flows(node: &Netns, pod: &FakePod) -> [UdpFlow; 2] {
    let address = pod.ipv4.into();
    // What waits for a neighbour's address is overtaken by what comes when it is known.
    traffic::ping(node, address, 1, 56);
    PORTS.map(|port| UdpFlow::open(node, &pod.netns, SocketAddr::new(address, port)))
}

/// Captures while `work` sends, into a file.
fn capture(args: &[&str], work: impl FnOnce(&[UdpFlow; 2])) -> Checked {
    let machine = Machine::boot();
    let node = machine.netns();
    let flows = flows(&node, &machine.fake_pod("blue", 1));
    let capture = Capture::new();
    let sniff =
        Sniff::in_netns(&node).args(["--netns", "blue", "-w", capture.arg(), FILTER]).args(args).start();
    work(&flows);
    let counts = sniff.stop().success();
    check(capture.read().packets, counts.dropped)
}

/// Captures into a pipe that is read only once the first part is sent.
fn capture_in_two_parts(args: &[&str], unread: Range<u32>, read: Range<u32>) -> Checked {
    let machine = Machine::boot();
    let node = machine.netns();
    let flows = flows(&node, &machine.fake_pod("blue", 1));
    let sniff = Sniff::in_netns(&node).args(["--netns", "blue", "-w", "-", FILTER]).args(args);
    let (sniff, stdout) = sniff.start_unread();
    send(&flows, unread);
    let reader = read_aside(stdout);
    // In pieces, so that there is room again in between.
    for start in read.clone().step_by(100) {
        send(&flows, start..read.end.min(start + 100));
        thread::sleep(Duration::from_millis(5));
    }
    let counts = sniff.stop().success();
    let file = pcap::parse_pcapng(&reader.join().expect("the reader"));
    assert_eq!(counts.received, counts.captured + counts.dropped, "{args:?}");
    check(file.packets, counts.dropped)
}

/// Sends the datagrams of these numbers.
fn send(flows: &[UdpFlow; 2], numbers: Range<u32>) {
    super::send(flows, &numbers, payload);
}

/// A datagram that tells its sender and number, and of which no two are alike.
fn payload(sender: usize, number: u32) -> Vec<u8> {
    let filler = (0..number * 37 % 1300).map(|at| (at * 7 + number + sender as u32) as u8);
    number.to_be_bytes().into_iter().chain(filler).collect()
}

fn check(packets: Vec<Packet>, dropped: u64) -> Checked {
    let mut written = [0; 2];
    let mut next = [0; 2];
    for packet in &packets {
        let port = u16::from_be_bytes([packet.data[36], packet.data[37]]);
        let sender = PORTS.iter().position(|&known| known == port).expect("a packet of ours");
        let payload_of = &packet.data[HEADERS..];
        let number = u32::from_be_bytes(payload_of[..4].try_into().expect("four bytes"));
        assert!(number >= next[sender], "{number} of sender {sender} comes behind {}", next[sender]);
        assert!(payload_of == payload(sender, number), "{number} of sender {sender} is not as it was sent");
        assert_eq!(packet.original_len as usize, packet.data.len());
        next[sender] = number + 1;
        written[sender] += 1;
    }
    Checked { packets, written, dropped }
}
