//! The same run seen by sniff and by tcpdump on the pod's host veth: the same packets, byte for
//! byte, in the same directions, at the same times.

use std::{
    net::{IpAddr, SocketAddr},
    time::{SystemTime, UNIX_EPOCH},
};

use sniff_tests::{
    node::{Node, Pod},
    pcap::{Direction, Packet, assert_same},
    sniff::Sniff,
    tcpdump::Tcpdump,
    traffic::{self, UdpFlow},
    wireshark,
};

use crate::Capture;

/// Goes both ways where the comparison begins.
const BEGIN: &[u8] = b"sniff-test: begin";
/// Goes both ways where the comparison ends.
const END: &[u8] = b"sniff-test: end";

/// Most nanoseconds between two observers' timestamps of one packet.
const NEAR_NS: u64 = 50_000_000;

#[test]
fn a_ptp_pod_is_captured_as_tcpdump_captures_its_veth() {
    captured_as_by_tcpdump("ptp");
}

#[test]
fn a_bridge_pod_is_captured_as_tcpdump_captures_its_veth() {
    captured_as_by_tcpdump("bridge");
}

fn captured_as_by_tcpdump(cni: &'static str) {
    let node = Node::start();
    let pod = node.pod("shop", "web").cni(cni).start();
    let capture = Capture::new();

    let begin = nanoseconds_now();
    let tcpdump = |more: &[&str]| Tcpdump::start(&node.netns, &pod.veth.name, more);
    let [all, veth_in, veth_out] = [tcpdump(&[]), tcpdump(&["-Q", "in"]), tcpdump(&["-Q", "out"])];
    let sniff = Sniff::in_netns(&node.netns).args(["--pod", "shop/web", "-w", capture.arg()]).start();
    let flow = |from, to, address| UdpFlow::open(from, to, SocketAddr::new(address, 9));
    let marked =
        [flow(&node.netns, &pod.netns, pod.ipv4.into()), flow(&pod.netns, &node.netns, pod.gateway4.into())];
    marked.iter().for_each(|flow| flow.send_payload(BEGIN));
    exchange(&node, &pod);
    marked.iter().for_each(|flow| flow.send_payload(END));
    let counts = sniff.stop().success();
    let [all, veth_in, veth_out] = [all, veth_in, veth_out].map(|tcpdump| between_markers(tcpdump.stop()));
    let end = nanoseconds_now();

    assert_eq!(counts.dropped, 0, "{counts:?}");
    let packets = capture.read().packets;
    let going = |direction| {
        let that_way = packets.iter().filter(|packet| packet.direction == Some(direction));
        between_markers(that_way.cloned().collect())
    };
    // What enters the host's end has left the pod.
    let (out, into) = (going(Direction::Out), going(Direction::In));
    assert_same(("sniff, out of the pod", &out), ("tcpdump -Q in", &veth_in));
    assert_same(("sniff, into the pod", &into), ("tcpdump -Q out", &veth_out));
    let ours = between_markers(packets);
    for (packet, twin) in assert_same(("sniff", &ours), ("tcpdump", &all)) {
        assert!((begin..end).contains(&packet.timestamp_ns), "not of this run: {packet:?}");
        let apart = packet.timestamp_ns.abs_diff(twin.timestamp_ns);
        assert!(apart < NEAR_NS, "{apart} ns apart:\n{packet:?}\n{twin:?}");
    }

    wireshark::assert_clean(capture.path());
    for (kind, least) in [
        ("icmp.type == 8", 10),
        ("icmpv6.type == 128", 10),
        ("ip && tcp && frame.len > 1514", 100),
        ("ipv6 && tcp && frame.len > 1514", 100),
        ("ip && udp.port == 7777", 500),
        ("ipv6 && udp.port == 7777", 500),
        ("dns.qry.name == \"web.shop.svc\"", 4),
        ("http.request.uri == \"/hello\"", 2),
    ] {
        let count = wireshark::count(capture.path(), kind);
        assert!(count >= least, "{count} packets of {kind}, not {least}");
    }
}

/// Every kind of traffic, over both protocols.
fn exchange(node: &Node, pod: &Pod<'_>) {
    for (ours, theirs) in [
        (IpAddr::from(pod.gateway4), IpAddr::from(pod.ipv4)),
        (IpAddr::from(pod.gateway6), IpAddr::from(pod.ipv6)),
    ] {
        traffic::ping(&node.netns, theirs, 5, 56);
        traffic::ping(&pod.netns, ours, 5, 1200);
        let to_pod = SocketAddr::new(theirs, 7777);
        UdpFlow::open(&node.netns, &pod.netns, to_pod).send(250, 700);
        let from_pod = SocketAddr::new(ours, 7777);
        UdpFlow::open(&pod.netns, &node.netns, from_pod).send(250, 4);
        traffic::dns(&pod.netns, &node.netns, theirs, "web.shop.svc", [192, 0, 2, 1].into());
        traffic::http(&pod.netns, &node.netns, theirs);
        traffic::iperf3(&pod.netns, &node.netns, theirs);
    }
}

/// The packets from the first marker to the last: before and after, not all observers were there.
fn between_markers(mut packets: Vec<Packet>) -> Vec<Packet> {
    packets.sort_by_key(|packet| packet.timestamp_ns);
    let first = packets.iter().position(|packet| packet.data.ends_with(BEGIN)).expect("the beginning");
    let last = packets.iter().rposition(|packet| packet.data.ends_with(END)).expect("the end");
    packets[first..=last].to_vec()
}

fn nanoseconds_now() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock after 1970");
    now.as_nanos().try_into().expect("a clock before 2554")
}
