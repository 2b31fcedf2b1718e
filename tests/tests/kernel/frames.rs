//! Frames that are unlike others: tagged, odd, cut; and the choice of a direction.

use std::net::SocketAddr;

use sniff_tests::{
    frame, kernel,
    machine::{FakePod, Machine},
    pcap::{Direction, Packet},
    sniff::Sniff,
    traffic::{self, UdpFlow},
};

use crate::{Capture, echoes};

/// An EtherType for experiments (IEEE 802), which no host answers.
const EXPERIMENT: [u8; 2] = [0x88, 0xb5];

/// A frame between the two ends of a pod's pair, with `between` (tags) before the EtherType.
fn frame(from: [u8; 6], to: [u8; 6], between: &[u8], payload: usize) -> Vec<u8> {
    let payload: Vec<u8> = (0..payload).map(|n| n as u8).collect();
    [&to, &from, between, &EXPERIMENT, &payload].concat()
}

#[test]
fn frames_have_their_vlan_tags_and_lengths_wherever_they_are_captured() {
    let vlan_100 = [0x81, 0x00, 0x00, 100];
    let priority_5_vlan_4094 = [0x81, 0x00, 0xaf, 0xfe];
    let two_tags = [0x88, 0xa8, 0x00, 7, 0x81, 0x00, 0x00, 100];
    let machine = Machine::boot();
    let node = machine.netns();
    let FakePod { netns, eth0, veth, .. } = machine.fake_pod("blue", 1);
    let captures = ["host", "pod"].map(|end| {
        let capture = Capture::new();
        let args = ["--netns", "blue", "--attach", end, "-w", capture.arg()];
        (Sniff::in_netns(&node).args(args).start(), capture)
    });
    let (mut sent, mut received) = (Vec::new(), Vec::new());
    for tags in [&[][..], &vlan_100, &priority_5_vlan_4094, &two_tags] {
        for payload in [2, 46, 1400] {
            sent.push(frame(eth0.mac, veth.mac, tags, payload));
            received.push(frame(veth.mac, eth0.mac, tags, payload));
        }
    }
    for frame in &sent {
        frame::send(&netns, eth0.index, frame);
    }
    for frame in &received {
        frame::send(&node, veth.index, frame);
    }
    for (sniff, capture) in captures {
        sniff.stop().success();
        let packets = capture.read().packets;
        assert_eq!(experiments(&packets, Direction::Out), sent);
        assert_eq!(experiments(&packets, Direction::In), received);
    }
}

/// The bytes of our own frames; their lengths must agree with the bytes.
fn experiments(packets: &[Packet], direction: Direction) -> Vec<Vec<u8>> {
    let ours = |packet: &&Packet| {
        let tagged = packet.data.iter().take(22).collect::<Vec<_>>();
        let experiment = tagged.windows(2).skip(12).any(|two| [*two[0], *two[1]] == EXPERIMENT);
        packet.direction == Some(direction) && experiment
    };
    let bytes = |packet: &Packet| {
        assert_eq!(packet.original_len as usize, packet.data.len(), "{packet:?}");
        packet.data.clone()
    };
    packets.iter().filter(ours).map(bytes).collect()
}

#[test]
fn small_frames_are_whole_whatever_their_length_and_are_cut_anywhere() {
    let machine = Machine::boot();
    let node = machine.netns();
    let FakePod { netns, eth0, veth, .. } = machine.fake_pod("blue", 1);
    let lengths = [14, 15, 16, 17, 31, 32, 33, 34, 48, 60, 63, 64, 65, 96, 97, 127, 128, 129, 130, 200];
    let sent = lengths.map(|len| frame(eth0.mac, veth.mac, &[], len - 14));
    for ring in kernel::rings() {
        for snaplen in [1000, 1, 15, 17, 61, 96, 128, 129] {
            let capture = Capture::new();
            let value = snaplen.to_string();
            let args = ["--netns", "blue", "-Q", "out", "--ring", ring, "-s", &value, "-w", capture.arg()];
            let sniff = Sniff::in_netns(&node).args(args).args(["ether proto 0x88b5"]).start();
            for frame in &sent {
                frame::send(&netns, eth0.index, frame);
            }
            sniff.stop().success();
            let packets = capture.read().packets;
            let kept: Vec<_> =
                packets.iter().map(|packet| (packet.original_len as usize, &packet.data[..])).collect();
            let expected: Vec<_> =
                sent.iter().map(|frame| (frame.len(), &frame[..frame.len().min(snaplen)])).collect();
            assert_eq!(kept, expected, "snaplen {snaplen}, {ring}");
        }
    }
}

#[test]
fn the_snapshot_length_cuts_bytes_and_not_lengths() {
    let machine = Machine::boot();
    let node = machine.netns();
    let pod = machine.fake_pod("blue", 1);
    let flow = UdpFlow::open(&node, &pod.netns, SocketAddr::new(pod.ipv4.into(), 7777));
    for (option, snaplen) in [("-s", 96), ("--snapshot-length", 60), ("--snaplen", 1000)] {
        let capture = Capture::new();
        let value = snaplen.to_string();
        let args = ["--netns", "blue", option, &value, "-w", capture.arg()];
        let sniff = Sniff::in_netns(&node).args(args).start();
        flow.send(3, 1300);
        flow.send(2, 4);
        sniff.stop().success();
        let file = capture.read();
        assert_eq!(file.interfaces[0].snaplen, snaplen);
        let lengths = |original: u32| {
            let packets = file.packets.iter().filter(move |packet| packet.original_len == original);
            packets.map(|packet| packet.data.len()).collect::<Vec<_>>()
        };
        assert_eq!(lengths(14 + 20 + 8 + 1300), [snaplen as usize; 3]);
        assert_eq!(lengths(14 + 20 + 8 + 4), [46; 2]);
    }
}

#[test]
fn one_direction_can_be_asked_for() {
    let machine = Machine::boot();
    let node = machine.netns();
    let pod = machine.fake_pod("blue", 1);
    for (direction, expected) in [("in", (3, 0)), ("out", (0, 3)), ("inout", (3, 3))] {
        let capture = Capture::new();
        let args = ["--netns", "blue", "-Q", direction, "-w", capture.arg()];
        let sniff = Sniff::in_netns(&node).args(args).start();
        traffic::ping(&node, pod.ipv4.into(), 3, 56);
        sniff.stop().success();
        let packets = capture.read().packets;
        let found = [Direction::In, Direction::Out].map(|way| echoes(&packets, way, 56));
        assert_eq!((found[0], found[1]), expected, "{direction}");
    }
}
