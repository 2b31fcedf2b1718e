//! What readers make of packets between two captured pods.

use sniff_tests::{
    machine::{FakePod, Machine},
    sniff::Sniff,
    traffic, wireshark,
};

use crate::Capture;

/// Two pods on one bridge of the machine, the second with an address in the first one's network.
fn on_a_bridge(machine: &Machine) -> (FakePod, FakePod) {
    let node = machine.netns();
    let (a, mut b) = (machine.fake_pod("a", 1), machine.fake_pod("b", 2));
    node.run("ip link add br0 type bridge");
    node.run("ip link set br0 up");
    for pod in [&a, &b] {
        node.run(&format!("ip address flush dev {}", pod.veth.name));
        node.run(&format!("ip link set {} master br0", pod.veth.name));
    }
    b.ipv4 = "10.77.1.3".parse().expect("an address");
    b.netns.run(&format!("ip address add {}/24 dev eth0", b.ipv4));
    traffic::ping(&a.netns, b.ipv4.into(), 1, 16);
    (a, b)
}

#[test]
fn wireshark_takes_no_packet_for_sent_again_that_is_written_once() {
    let machine = Machine::boot();
    let (a, b) = on_a_bridge(&machine);
    let node = machine.netns();
    for (args, copies) in [(&[][..], 2), (&["--one-side"], 1)] {
        let capture = Capture::new();
        let args = [args, &["--netns", "a", "--netns", "b", "-w", capture.arg(), "tcp"]].concat();
        let sniff = Sniff::in_netns(&node).args(&args).start();
        traffic::http(&b.netns, &a.netns, b.ipv4.into());
        let outcome = sniff.stop();
        let file = capture.read_whole(&outcome);
        let mut ids: Vec<u64> = file.packets.iter().filter_map(|packet| packet.packet_id).collect();
        assert_eq!(ids.len(), file.packets.len(), "{args:?}");
        ids.sort_unstable();
        assert!(ids.chunk_by(PartialEq::eq).all(|same| same.len() == copies), "{args:?}: {ids:x?}");
        let seen = format!("{} packets seen at both ends, 0 only where sent", ids.len() / copies);
        assert!(outcome.stderr.contains(&seen), "{seen}: {outcome:#?}");
        let again = wireshark::count(
            capture.path(),
            "tcp.analysis.retransmission or tcp.analysis.duplicate_ack or tcp.analysis.out_of_order",
        );
        assert_eq!(again > 0, copies > 1, "{args:?}: {again}");
    }
}

#[test]
fn files_that_rotate_tell_what_is_left_out_of_them() {
    let machine = Machine::boot();
    let (a, b) = on_a_bridge(&machine);
    let node = machine.netns();
    let folder = tempfile::tempdir().expect("a folder");
    let name = folder.path().join("x.pcapng");
    let args = ["--netns", "a", "--netns", "b", "--one-side", "--file-packets", "4", "icmp", "-w"];
    let sniff = Sniff::in_netns(&node).args(args).args([&name]).start();
    traffic::ping(&a.netns, b.ipv4.into(), 5, 56);
    let outcome = sniff.stop();
    assert_eq!(outcome.success().captured, 10);
    let mut files: Vec<_> =
        folder.path().read_dir().expect("files").map(|it| it.expect("a file").path()).collect();
    files.sort();
    assert_eq!(files.len(), 3, "{files:?}");
    let (mut packets, mut accepted, mut written) = (0, 0, 0);
    for file in &files {
        wireshark::assert_clean(file);
        let file = sniff_tests::pcap::read_pcapng(file);
        packets += file.packets.len();
        accepted += file.statistics.iter().filter_map(|it| it.filteraccept).sum::<u64>();
        written += file.statistics.iter().filter_map(|it| it.usrdeliv).sum::<u64>();
    }
    assert_eq!((packets, accepted, written), (10, 20, 10));
}
