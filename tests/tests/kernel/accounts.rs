//! Every packet is accounted for: written, or counted as dropped.

use std::{net::SocketAddr, thread, time::Duration};

use sniff_tests::{
    machine::Machine,
    pcap::{self, Packet},
    sniff::{Sniff, read_aside},
    traffic::UdpFlow,
};

use super::ways;
use crate::Capture;

/// The port that all counted datagrams go to.
const PORT: u16 = 7777;

#[test]
fn without_drops_every_packet_sent_is_written() {
    const SENT: u32 = 5000;
    let machine = Machine::boot();
    let node = machine.netns();
    let pod = machine.fake_pod("blue", 1);
    let flow = UdpFlow::open(&node, &pod.netns, SocketAddr::new(pod.ipv4.into(), PORT));
    for way in ways() {
        let capture = Capture::new();
        let sniff = Sniff::in_netns(&node).args(["--netns", "blue", "-w", capture.arg()]).args(&way).start();
        flow.send(SENT, 100);
        let counts = sniff.stop().success();
        let file = capture.read();
        assert_eq!(counted(&file.packets), SENT as usize, "{way:?}");
        assert_eq!(counts.dropped, 0, "{way:?}");
        assert_eq!(counts.captured, counts.received, "{way:?}");
        assert_eq!(counts.captured, file.packets.len() as u64, "{way:?}");
        assert!(file.packets.iter().all(|packet| packet.dropcount.is_none_or(|count| count == 0)), "{way:?}");
    }
}

#[test]
fn with_a_small_buffer_and_a_slow_reader_the_rest_is_counted_as_dropped() {
    for way in ways() {
        assert_the_rest_is_counted(&way);
    }
}

fn assert_the_rest_is_counted(way: &[&str]) {
    const BURST: u32 = 8000;
    const AFTERWARDS: u32 = 50;
    const SENT: u32 = BURST + AFTERWARDS;
    let machine = Machine::boot();
    let node = machine.netns();
    let pod = machine.fake_pod("blue", 1);
    let flow = UdpFlow::open(&node, &pod.netns, SocketAddr::new(pod.ipv4.into(), PORT));
    let crossed = || {
        let (received, sent) = node.packet_counts(&pod.veth.name);
        received + sent
    };
    let before = crossed();
    let args = ["--netns", "blue", "-B", "512KiB", "-w", "-"].iter().chain(way);
    let (sniff, stdout) = Sniff::in_netns(&node).args(args).start_unread();
    flow.send(BURST, 1000);
    let reader = read_aside(stdout);
    // With a reader there is room again, and so a packet to carry the number of those lost.
    for _ in 0..AFTERWARDS {
        flow.send(1, 1000);
        thread::sleep(Duration::from_millis(10));
    }
    let counts = sniff.stop().success();
    let after = crossed();
    let file = pcap::parse_pcapng(&reader.join().expect("the reader"));

    assert!(counts.dropped > 0, "{way:?}: made to drop, and has not: {counts:?}");
    assert_eq!(counts.received, counts.captured + counts.dropped, "{way:?}");
    assert_eq!(counts.captured, file.packets.len() as u64, "{way:?}");
    // Nothing else is on the wire, but for a rare router solicitation.
    assert!((u64::from(SENT)..=after - before).contains(&counts.received), "{way:?}: {counts:?}");
    let written = counted(&file.packets) as u64;
    assert!(written + counts.dropped >= u64::from(SENT), "{way:?}: {written} written, {counts:?}");

    let [statistics] = file.statistics.as_slice() else { panic!("not one: {file:?}") };
    assert_eq!(statistics.filteraccept, Some(counts.received));
    assert_eq!(statistics.osdrop, Some(counts.dropped));
    assert_eq!(statistics.usrdeliv, Some(counts.captured));
    let gaps: u64 = file.packets.iter().filter_map(|packet| packet.dropcount).sum();
    assert!((1..=counts.dropped).contains(&gaps), "{way:?}: {gaps} dropped between packets, {counts:?}");
}

fn counted(packets: &[Packet]) -> usize {
    const UDP_DESTINATION: usize = 14 + 20 + 2;
    let to_port =
        |packet: &&Packet| packet.data.get(UDP_DESTINATION..UDP_DESTINATION + 2) == Some(&PORT.to_be_bytes());
    packets.iter().filter(to_port).count()
}
