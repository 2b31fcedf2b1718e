//! Where sniff attaches, and that it leaves nothing out there.

use std::{net::Ipv4Addr, process::Stdio};

use nix::sys::signal::Signal;
use sniff_tests::{
    kernel,
    leftovers::{BpfObjects, Snapshot},
    machine::Machine,
    netns::tool,
    pcap::{Direction, PcapNg, assert_same},
    sniff::{self, Sniff},
    tcpdump::Tcpdump,
    traffic,
};

use crate::{Capture, echoes, redirect_peer, time_in, two_pods};

const FAILURE: i32 = 1;
const MOVED: &str = "was moved to another network namespace";

/// Echoes into and out of the pod.
fn both_ways(file: &PcapNg, size: u32) -> (usize, usize) {
    let packets = &file.packets;
    (echoes(packets, Direction::In, size), echoes(packets, Direction::Out, size))
}

#[test]
fn both_ends_of_a_veth_pair_carry_the_same_packets() {
    let machine = Machine::boot();
    let node = machine.netns();
    let pod = machine.fake_pod("blue", 1);
    let captures = ["host", "pod", "auto"].map(|end| {
        let capture = Capture::new();
        let args = ["--netns", "blue", "--attach", end, "-w", capture.arg()];
        (Sniff::in_netns(&node).args(args).start(), capture)
    });
    traffic::ping(&node, pod.ipv4.into(), 10, 56);
    traffic::ping(&pod.netns, pod.gateway4.into(), 10, 57);
    let [host, inside, auto] = captures.map(|(sniff, capture)| {
        sniff.stop().success();
        capture.read()
    });
    for file in [&host, &inside, &auto] {
        assert_eq!(both_ways(file, 56), (10, 10));
        assert_eq!(both_ways(file, 57), (10, 10));
    }
    let place = |file: &PcapNg| file.interfaces[0].description.clone().expect("a description");
    assert!(place(&host).contains(&pod.veth.name), "{}", place(&host));
    assert!(place(&inside).contains("inside the pod"), "{}", place(&inside));
    assert_eq!(place(&auto), place(&host));
}

#[test]
fn behind_a_redirect_peer_cni_both_directions_are_captured() {
    let machine = Machine::boot();
    let node = machine.netns();
    let (a, b) = two_pods(&machine);
    let _cni = redirect_peer(&node, &a, &b);
    let tcpdump = Tcpdump::start(&node, &b.veth.name, &["icmp"]);
    let captures = ["host", "pod", "auto"].map(|end| {
        let capture = Capture::new();
        let args = ["--netns", "b", "--attach", end, "-w", capture.arg()];
        (Sniff::in_netns(&node).args(args).start(), capture)
    });
    traffic::ping(&a.netns, b.ipv4.into(), 20, 56);
    let [host, inside, auto] = captures.map(|(sniff, capture)| {
        sniff.stop().success();
        capture.read()
    });
    // The premise: at the host's end, nothing that goes into the pod is seen by anyone.
    let from_b = |packet: &sniff_tests::pcap::Packet| source(&packet.data) == Some(b.ipv4);
    let seen = tcpdump.stop();
    assert!(seen.len() == 20 && seen.iter().all(from_b), "{seen:?}");
    assert_eq!(both_ways(&host, 56), (0, 20));

    assert_eq!(both_ways(&inside, 56), (20, 20));
    assert_eq!(both_ways(&auto, 56), (20, 20));
}

#[test]
fn a_redirect_peer_cni_that_comes_later_is_noticed() {
    let machine = Machine::boot();
    let node = machine.netns();
    let (a, b) = two_pods(&machine);
    let capture = Capture::new();
    let mut sniff = Sniff::in_netns(&node).args(["--netns", "b", "-w", capture.arg()]).start();
    traffic::ping(&a.netns, b.ipv4.into(), 5, 56);
    let _cni = redirect_peer(&node, &a, &b);
    traffic::ping(&a.netns, b.ipv4.into(), 5, 57);
    let line = sniff.wait_for_line("inside the pod eth0");
    assert!(line.contains("netns:b/eth0"), "{line}");
    traffic::ping(&a.netns, b.ipv4.into(), 20, 58);
    sniff.stop().success();
    let file = capture.read();
    assert_eq!(both_ways(&file, 56), (5, 5));
    // The pod's own packets pass the host's end as before: the move must not lose them. At the
    // seam, one may be seen at both ends.
    let leaving = both_ways(&file, 57).1;
    assert!(leaving >= 5, "{leaving} of 5 that left the pod during the move");
    assert_eq!(both_ways(&file, 58), (20, 20), "each once, at the pod's end");
    // What came past the host's end did so after a time that is told.
    let comment = file.interfaces[1].comment.as_deref().expect("a comment");
    let since = time_in(comment, "packets into the pod may be missing since ");
    let start = file.statistics[0].start_ns.expect("a time");
    let first = file.packets.iter().find(|packet| packet.original_len == 14 + 20 + 8 + 57).expect("one");
    assert!((start..first.timestamp_ns).contains(&since), "{start}, {}: {comment}", first.timestamp_ns);
    let told = file.statistics[0].comment.as_deref().unwrap_or_default();
    assert_eq!(time_in(told, "packets into the pod may be missing since "), since, "{told}");
}

#[test]
fn packets_pass_on_to_the_programs_behind_sniff() {
    let machine = Machine::boot();
    let node = machine.netns();
    let (a, b) = two_pods(&machine);
    let capture = Capture::new();
    let args = ["--netns", "a", "--attach", "host", "-w", capture.arg()];
    let sniff = Sniff::in_netns(&node).args(args).start();
    // Attached later and at the tail, so sniff runs first; what it sees must still get here.
    let _cni = redirect_peer(&node, &a, &b);
    let tcpdump = Tcpdump::start(&node, &b.veth.name, &["icmp[icmptype] = icmp-echo"]);
    let in_pod = Tcpdump::start(&b.netns, "eth0", &["icmp[icmptype] = icmp-echo"]);
    traffic::ping(&a.netns, b.ipv4.into(), 5, 56);
    sniff.stop().success();
    assert_eq!(tcpdump.stop(), [], "redirected");
    let at_pod = in_pod.stop();
    let ours = capture.read().packets;
    let requests: Vec<_> =
        ours.into_iter().filter(|packet| at_pod.iter().any(|p| p.data == packet.data)).collect();
    assert_same(("sniff, out of a", &requests), ("tcpdump in b", &at_pod));
}

#[test]
fn through_clsact_the_same_is_captured_and_only_what_is_its_own_is_removed() {
    let machine = Machine::boot();
    let node = machine.netns();
    let (fresh, shared) = (machine.fake_pod("fresh", 1), machine.fake_pod("shared", 2));
    // Somebody else's qdisc and filter; the filter passes everything.
    let veth = &shared.veth.name;
    node.run(&format!("tc qdisc add dev {veth} clsact"));
    node.run(&format!("tc filter add dev {veth} ingress pref 7 protocol all u32 match u32 0 0"));
    let filters = || node.run(&format!("tc filter show dev {veth} ingress"));
    let filter = filters();
    let binary = sniff::binary();
    let before = Snapshot::take(&machine, &[&node, &fresh.netns, &shared.netns], &binary);

    let capture = Capture::new();
    let args = ["--netns", "fresh", "--netns", "shared", "--hook", "clsact", "-w", capture.arg()];
    let sniff = Sniff::in_netns(&node).args(args).start();
    let objects = BpfObjects::held_by(sniff.pid());
    assert_ne!(filters(), filter, "not attached through clsact");
    for pod in [&fresh, &shared] {
        traffic::ping(&node, pod.ipv4.into(), 5, 56);
    }
    sniff.stop().success();
    let file = capture.read();
    for name in ["netns:fresh/eth0", "netns:shared/eth0"] {
        let packets = file.packets_of(name);
        assert_eq!(echoes(&packets, Direction::In, 56), 5, "{name}");
        assert_eq!(echoes(&packets, Direction::Out, 56), 5, "{name}");
    }
    objects.assert_gone();
    before.assert_unchanged(&binary);
    assert_eq!(filters(), filter);
}

#[test]
fn two_captures_of_one_interface_do_not_disturb_each_other() {
    for &hook in kernel::hooks() {
        let machine = Machine::boot();
        let node = machine.netns();
        let pod = machine.fake_pod("blue", 1);
        let captures = [&["--hook", hook][..], &["--attach", "auto"]].map(|more| {
            let capture = Capture::new();
            let args = ["--netns", "blue", "-w", capture.arg()].into_iter().chain(more.iter().copied());
            (Sniff::in_netns(&node).args(args).start(), capture)
        });
        traffic::ping(&node, pod.ipv4.into(), 5, 56);
        // The first one ends first, with the second one in front of it.
        for (sniff, capture) in captures {
            let outcome = sniff.stop();
            let file = capture.read_counted(&outcome);
            assert_eq!(both_ways(&file, 56), (5, 5), "{hook}");
            let place = file.interfaces[0].description.as_deref().expect("a description");
            assert!(place.contains("host veth"), "{hook}: {place}");
            let in_front = |line: &String| line.contains("in front");
            assert!(!outcome.stderr.iter().any(in_front), "{hook}: {outcome:#?}");
        }
    }
}

#[test]
fn a_kernel_without_tcx_is_told_from_other_failures() {
    let machine = Machine::boot();
    let node = machine.netns();
    machine.fake_pod("blue", 1);
    let outcome =
        Sniff::in_netns(&node).args(["--netns", "blue", "--hook", "tcx", "--duration", "100ms"]).run();
    if kernel::has_tcx() {
        outcome.success();
    } else {
        let line = outcome.refusal(FAILURE);
        assert!(line.contains("TCX") && line.contains("6.6"), "{line}");
    }
}

#[test]
fn a_process_that_ends_neither_ends_the_capture_in_its_namespace_nor_leaves_filters_there() {
    let machine = Machine::boot();
    let node = machine.netns();
    // Its name keeps the namespace when the process has gone.
    let pod = machine.fake_pod("blue", 1);
    let mut process = pod.netns.spawn(tool("sleep").arg("1000").stdout(Stdio::null()));
    let pid = machine.pid_inside(process.id()).to_string();
    let binary = sniff::binary();
    let before = Snapshot::take(&machine, &[&node, &pod.netns], &binary);
    let capture = Capture::new();
    let args = ["--pid", &pid, "--attach", "pod", "--hook", "clsact", "-w", capture.arg()];
    let sniff = Sniff::in_netns(&node).args(args).start();
    let objects = BpfObjects::held_by(sniff.pid());
    process.kill().and_then(|()| process.wait()).expect("the end of sleep");
    // For long enough that sniff has looked after the interface.
    traffic::ping(&node, pod.ipv4.into(), 150, 56);
    let file = capture.read_counted(&sniff.stop());
    assert_eq!(both_ways(&file, 56), (150, 150));
    objects.assert_gone();
    before.assert_unchanged(&binary);
}

#[test]
fn a_device_that_moves_to_another_namespace_is_not_followed() {
    for &hook in kernel::hooks() {
        let machine = Machine::boot();
        let node = machine.netns();
        let (first, second) = (machine.fake_pod("first", 1), machine.add_netns("second"));
        // sniff is stopped while the device moves: whatever it does in time is not what keeps the packets out.
        let capture = Capture::new();
        let args = ["--netns", "first", "--attach", "pod", "--hook", hook, "-w", capture.arg()];
        let mut sniff = Sniff::in_netns(&node).args(args).start();
        traffic::ping(&node, first.ipv4.into(), 5, 56);
        sniff.signal(Signal::SIGSTOP);
        first.netns.run("ip link set eth0 netns second");
        second.run(&format!("ip address add {}/24 dev eth0", first.ipv4));
        second.run("ip link set eth0 up");
        traffic::ping(&node, first.ipv4.into(), 5, 57);
        sniff.signal(Signal::SIGCONT);

        // With clsact, its filters have gone when it moves.
        sniff.wait_for_line(if hook == "tcx" { MOVED } else { "the interface is gone" });
        let file = capture.read_counted(&sniff.stop());
        assert_eq!(both_ways(&file, 56), (5, 5), "{hook}");
        assert_eq!(both_ways(&file, 57), (0, 0), "{hook}");
        if hook == "tcx" {
            let comment = file.statistics[0].comment.as_deref().unwrap_or_default();
            assert!(comment.contains(MOVED), "{comment}");
        }
    }
}

#[test]
fn a_pods_end_that_moves_ends_the_capture_at_the_hosts_end() {
    let machine = Machine::boot();
    let node = machine.netns();
    let (first, _second) = (machine.fake_pod("first", 1), machine.add_netns("second"));
    for &hook in kernel::hooks() {
        let capture = Capture::new();
        let args = ["--netns", "first", "--attach", "host", "--hook", hook, "-w", capture.arg()];
        let mut sniff = Sniff::in_netns(&node).args(args).start();
        first.netns.run("ip link set eth0 netns second");
        sniff.wait_for_line(MOVED);
        let file = capture.read_counted(&sniff.stop());
        let comment = file.statistics[0].comment.as_deref().unwrap_or_default();
        assert!(comment.contains(MOVED), "{hook}: {comment}");
        machine.netns_at("/run/netns/second").run("ip link set eth0 netns first");
        first.netns.run("ip link set eth0 up");
    }
}

/// Nothing but the kernel's word that it left tells of the one among many, once its old namespace has gone too.
#[test]
fn a_device_whose_old_namespace_ends_when_it_has_moved_is_told_of_among_many() {
    let machine = Machine::boot();
    let node = machine.netns();
    let pods: Vec<_> = (1..=8).map(|net| machine.fake_pod(&format!("pod{net}"), net)).collect();
    let second = machine.add_netns("second");
    let (moved, others) = pods.split_last().expect("some");
    for end in if kernel::has_tcx() { &["pod", "host"][..] } else { &["host"] } {
        let capture = Capture::new();
        let names = (1..=8).flat_map(|net| ["--netns".to_owned(), format!("pod{net}")]);
        let args = ["--attach", end, "-w", capture.arg()].map(str::to_owned);
        let mut sniff = Sniff::in_netns(&node).args(names.chain(args)).start();
        // Once this is heard of, so is what happens next.
        moved.netns.run("ip link add late type veth peer name late-peer");
        moved.netns.run("ip link set late up");
        sniff.wait_for_line("netns:pod8/late: has come");
        moved.netns.run("ip link set eth0 netns second");
        node.run("ip netns delete pod8");
        let line = sniff.wait_for_line(MOVED);
        assert!(line.contains("netns:pod8/eth0"), "{end}: {line}");
        second.run(&format!("ip address add {}/24 dev eth0", moved.ipv4));
        second.run("ip link set eth0 up");
        traffic::ping(&node, moved.ipv4.into(), 5, 57);
        traffic::ping(&node, others[0].ipv4.into(), 5, 56);
        let file = capture.read_counted(&sniff.stop());
        assert_eq!((both_ways(&file, 56), both_ways(&file, 57)), ((5, 5), (0, 0)), "{end}");
        let comment = file.statistics[7].comment.as_deref().unwrap_or_default();
        assert!(comment.contains(MOVED), "{end}: {comment}");
        // As before, for the next.
        node.run("ip netns add pod8");
        second.run("ip link set eth0 netns pod8");
        for command in [&format!("address add {}/24 dev eth0", moved.ipv4), "link set eth0 up"] {
            moved.netns.run(&format!("ip {command}"));
        }
    }
}

/// A container's end takes away the path to its pod's namespace, not the pod's interface.
#[test]
fn a_pod_whose_namespace_no_path_leads_to_is_captured_until_its_interface_is_gone() {
    for &hook in kernel::hooks() {
        let machine = Machine::boot();
        let node = machine.netns();
        let pod = machine.fake_pod("blue", 1);
        let mut process = pod.netns.spawn(tool("sleep").arg("1000").stdout(Stdio::null()));
        let pid = machine.pid_inside(process.id()).to_string();
        let capture = Capture::new();
        let args = ["--pid", &pid, "--attach", "host", "--hook", hook, "-w", capture.arg()];
        let mut sniff = Sniff::in_netns(&node).args(args).start();
        process.kill().and_then(|()| process.wait()).expect("the end of sleep");
        // What is heard of has the pod's interfaces looked at, before what is heard of later.
        pod.netns.run("ip link add late type veth peer name late-peer");
        pod.netns.run("ip link set late up");
        traffic::ping(&node, pod.ipv4.into(), 5, 56);
        pod.netns.run("ip link delete eth0");
        sniff.wait_for_line("no interface is left to capture");
        let outcome = sniff.wait();
        let said = |what: &str| outcome.stderr.iter().filter(|line| line.contains(what)).count();
        assert_eq!((said(MOVED), said("eth0: the interface is gone")), (0, 1), "{:#?}", outcome.stderr);
        assert_eq!(both_ways(&capture.read_counted(&outcome), 56), (5, 5), "{hook}");
    }
}

/// However far the end of its namespace has got when somebody looks, a pod that was deleted has moved nowhere.
#[test]
fn a_pod_that_is_deleted_is_gone_and_has_not_moved() {
    const PODS: u8 = 50;
    let machine = Machine::boot();
    let node = machine.netns();
    let name = |net: u8| format!("pod{net}");
    let _pods: Vec<_> = (1..=PODS).map(|net| machine.fake_pod(&name(net), net)).collect();
    let capture = Capture::new();
    let names = (1..=PODS).flat_map(|net| ["--netns".to_owned(), name(net)]);
    let args = ["--attach", "host", "-w", capture.arg()].map(str::to_owned);
    let mut sniff = Sniff::in_netns(&node).args(names.chain(args)).start();
    for net in 1..=PODS {
        // What is heard of has it looked at in the middle of its end.
        let pod = machine.netns_at(&format!("/run/netns/{}", name(net)));
        pod.run("ip link add late type veth peer name late-peer");
        pod.run("ip link set late up");
        node.run(&format!("ip netns delete {}", name(net)));
    }
    sniff.wait_for_line("no interface is left to capture");
    let outcome = sniff.wait();
    let said = |what: &str| outcome.stderr.iter().filter(|line| line.contains(what)).count();
    assert_eq!(said(MOVED), 0, "{:#?}", outcome.stderr);
    assert_eq!(said("eth0: the interface is gone"), usize::from(PODS), "{:#?}", outcome.stderr);
    let file = capture.read_counted(&outcome);
    let comments: Vec<_> = file.statistics.iter().filter_map(|it| it.comment.as_deref()).collect();
    assert!(!comments.iter().any(|comment| comment.contains(MOVED)), "{comments:#?}");
}

fn source(frame: &[u8]) -> Option<Ipv4Addr> {
    let octets: [u8; 4] = frame.get(26..30)?.try_into().ok()?;
    Some(octets.into())
}
