//! What an interface hands back to itself is captured once.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};

use sniff_tests::{
    machine::Machine,
    netns::Netns,
    pcap::{Direction, PcapNg},
    sniff::Sniff,
    traffic, wait,
};

use super::ways;
use crate::Capture;

const GROUP: Ipv4Addr = Ipv4Addr::new(239, 1, 2, 3);
const PORT: u16 = 7004;

#[test]
fn packets_of_the_loopback_device_are_written_once() {
    let machine = Machine::boot();
    let node = machine.netns();
    for way in ways() {
        for (wanted, direction, words) in [
            (&[][..], Direction::In, "comes in"),
            (&["-Q", "in"], Direction::In, "comes in"),
            (&["-Q", "out"], Direction::Out, "goes out"),
        ] {
            let capture = Capture::new();
            let args = [&["-i", "lo", "-w", capture.arg(), "icmp"], wanted, &way].concat();
            let sniff = Sniff::in_netns(&node).args(args).start();
            traffic::ping(&node, Ipv4Addr::LOCALHOST.into(), 3, 56);
            let counts = sniff.stop().success();
            let file = capture.read();
            assert_eq!((counts.received, file.packets.len()), (6, 6), "{way:?} {wanted:?}");
            assert!(
                file.packets.iter().all(|packet| packet.direction == Some(direction)),
                "{way:?} {wanted:?}"
            );
            let described = file.interfaces[0].description.as_deref().expect("a description");
            let once = format!(", each packet once, as it {words}");
            assert!(described.ends_with(&once), "{described}");
        }
    }
}

#[test]
fn multicast_that_comes_back_to_its_sender_is_written_once() {
    const SENT: u8 = 3;
    let machine = Machine::boot();
    let node = machine.netns();
    let pod = machine.fake_pod("blue", 1);
    let filter = format!("(udp and host {GROUP}) or (not arp and not ip and not ip6)");
    for way in ways() {
        for (place, from, address, direction) in
            [("pod", &pod.netns, pod.ipv4, Direction::Out), ("host", &node, pod.gateway4, Direction::In)]
        {
            let capture = Capture::new();
            let args = ["--netns", "blue", "--attach", place, "-w", capture.arg(), &filter];
            let sniff = Sniff::in_netns(&node).args(args).args(&way).start();
            talk_to_oneself(from, address, SENT);
            sniff.stop().success();
            let file: PcapNg = capture.read();
            let sent: Vec<u8> =
                file.packets.iter().map(|packet| packet.data[packet.data.len() - 1]).collect();
            assert_eq!(sent, (0..SENT).collect::<Vec<u8>>(), "{place} {way:?}: {:?}", file.packets);
            assert!(file.packets.iter().all(|packet| packet.direction == Some(direction)), "{place} {way:?}");
        }
    }
}

/// Sends datagrams to a group that the sender has joined, and receives each.
fn talk_to_oneself(netns: &Netns, address: Ipv4Addr, count: u8) {
    let socket = netns.enter(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, PORT))).expect("a socket");
    socket.join_multicast_v4(&GROUP, &address).expect("joining");
    let sender = netns.enter(|| UdpSocket::bind((address, 0))).expect("a socket");
    socket.set_read_timeout(Some(wait::patience(std::time::Duration::from_secs(10)))).expect("a time-out");
    for number in 0..count {
        sender.send_to(&[number; 26], SocketAddr::new(GROUP.into(), PORT)).expect("sending");
        let mut buffer = [0; 64];
        assert_eq!(socket.recv(&mut buffer).expect("what was sent"), 26);
    }
}
