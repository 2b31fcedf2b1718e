//! What is left of a capture in the kernel: nothing, or what the kernel keeps by itself.

use nix::sys::signal::Signal;
use sniff_tests::{
    kernel,
    leftovers::{BpfObjects, Snapshot},
    machine::Machine,
    netns::Netns,
    pcap::Direction,
    sniff::{self, Sniff},
    traffic,
};

use super::ways;
use crate::{Capture, echoes};

#[test]
fn a_capture_leaves_nothing_behind() {
    let machine = Machine::boot();
    let node = machine.netns();
    let pod = machine.fake_pod("blue", 1);
    let binary = sniff::binary();
    for way in ways() {
        let before = Snapshot::take(&machine, &[&node, &pod.netns], &binary);
        let capture = Capture::new();
        let sniff = Sniff::in_netns(&node).args(["--netns", "blue", "-w", capture.arg()]).args(&way).start();
        let objects = BpfObjects::held_by(sniff.pid());
        traffic::ping(&node, pod.ipv4.into(), 3, 56);
        sniff.stop().success();
        objects.assert_gone();
        before.assert_unchanged(&binary);
        assert_eq!(echoes(&capture.read().packets, Direction::Out, 56), 3, "{way:?}");
    }
}

#[test]
fn after_kill_9_links_are_gone_and_filters_stay_but_are_in_nobodys_way() {
    let machine = Machine::boot();
    let node = machine.netns();
    let pod = machine.fake_pod("blue", 1);
    let binary = sniff::binary();
    let start = |capture: &Capture| {
        let args = ["--netns", "blue", "--attach", "host", "-w", capture.arg()];
        Sniff::in_netns(&node).args(args).start()
    };
    let before = Snapshot::take(&machine, &[&node, &pod.netns], &binary);
    let killed = start(&Capture::new());
    let objects = BpfObjects::held_by(killed.pid());
    killed.signal(Signal::SIGKILL);
    killed.wait();
    let filters = || node.run(&format!("tc filter show dev {} ingress", pod.veth.name));
    let left = filters();
    if kernel::has_tcx() {
        objects.assert_gone();
        before.assert_unchanged(&binary);
    } else {
        assert!(left.contains("sniff_capture"), "{left}");
    }
    let capture = Capture::new();
    let sniff = start(&capture);
    traffic::ping(&node, pod.ipv4.into(), 3, 56);
    sniff.stop().success();
    let packets = capture.read().packets;
    assert_eq!((echoes(&packets, Direction::In, 56), echoes(&packets, Direction::Out, 56)), (3, 3));
    assert_eq!(filters(), left);
}

#[test]
fn filters_that_somebody_deletes_are_attached_again_and_the_gap_is_told() {
    let machine = Machine::boot();
    let node = machine.netns();
    let pod = machine.fake_pod("blue", 1);
    let veth = &pod.veth.name;
    let binary = sniff::binary();
    let before = Snapshot::take(&machine, &[&node, &pod.netns], &binary);
    let capture = Capture::new();
    let args = ["--netns", "blue", "--attach", "host", "--hook", "clsact", "-w", capture.arg()];
    let mut sniff = Sniff::in_netns(&node).args(args).start();
    let objects = BpfObjects::held_by(sniff.pid());
    traffic::ping(&node, pod.ipv4.into(), 5, 56);
    let deeds = [format!("tc filter del dev {veth} ingress"), format!("tc qdisc del dev {veth} clsact")];
    for (deed, size) in deeds.iter().zip([57, 58]) {
        node.run(deed);
        sniff.wait_for_line("attached again");
        traffic::ping(&node, pod.ipv4.into(), 5, size);
    }
    let outcome = sniff.stop();
    assert_eq!(outcome.status.code(), Some(1), "{outcome:#?}");
    let file = capture.read();
    assert_eq!(outcome.counts().captured, file.packets.len() as u64);
    for size in [56, 57, 58] {
        let echoes = |direction| echoes(&file.packets, direction, size);
        assert_eq!((echoes(Direction::In), echoes(Direction::Out)), (5, 5), "{size}");
    }
    let comment = file.statistics[0].comment.as_deref().unwrap_or_default();
    assert_eq!(
        comment.matches("may be missing: somebody deleted sniff's clsact filters").count(),
        2,
        "{comment}"
    );
    objects.assert_gone();
    before.assert_unchanged(&binary);
}

const DETACHED: &str = "may be missing: somebody detached sniff's TCX links";

fn detach(node: &Netns, links: &[u64]) {
    for link in links {
        node.run(&format!("bpftool link detach id {link}"));
    }
}

#[test]
fn links_that_somebody_detaches_are_attached_again_and_the_gap_is_told() {
    if !kernel::has_tcx() {
        return;
    }
    let machine = Machine::boot();
    let node = machine.netns();
    let pod = machine.fake_pod("blue", 1);
    let binary = sniff::binary();
    let before = Snapshot::take(&machine, &[&node, &pod.netns], &binary);
    for end in ["host", "pod"] {
        let capture = Capture::new();
        let args = ["--netns", "blue", "--attach", end, "-w", capture.arg()];
        let mut sniff = Sniff::in_netns(&node).args(args).start();
        traffic::ping(&node, pod.ipv4.into(), 5, 56);
        let mut all = Vec::new();
        // One of the two, the other, and both.
        for (picked, size) in [(0..1, 57), (1..2, 58), (0..2, 59)] {
            let objects = BpfObjects::held_by(sniff.pid());
            // On a slow machine it would attach one again before the other is detached.
            sniff.signal(Signal::SIGSTOP);
            detach(&node, &objects.links()[picked]);
            sniff.signal(Signal::SIGCONT);
            let line = sniff.wait_for_line("attached again");
            assert!(line.contains("netns:blue/eth0") && line.contains(DETACHED), "{line}");
            traffic::ping(&node, pod.ipv4.into(), 5, size);
            all.push(objects);
        }
        let outcome = sniff.stop();
        assert_eq!(outcome.status.code(), Some(1), "{outcome:#?}");
        let file = capture.read();
        assert_eq!(outcome.counts().captured, file.packets.len() as u64);
        for size in [56, 57, 58, 59] {
            let echoes = |direction| echoes(&file.packets, direction, size);
            assert_eq!((echoes(Direction::In), echoes(Direction::Out)), (5, 5), "{end}: {size}");
        }
        let comment = file.statistics[0].comment.as_deref().unwrap_or_default();
        assert_eq!(comment.matches(DETACHED).count(), 3, "{end}: {comment}");
        all.iter().for_each(BpfObjects::assert_gone);
    }
    before.assert_unchanged(&binary);
}

#[test]
fn links_that_somebody_detaches_just_before_the_end_are_told_of() {
    if !kernel::has_tcx() {
        return;
    }
    let machine = Machine::boot();
    let node = machine.netns();
    machine.fake_pod("blue", 1);
    let capture = Capture::new();
    let sniff = Sniff::in_netns(&node).args(["--netns", "blue", "-w", capture.arg()]).start();
    sniff.signal(Signal::SIGSTOP);
    detach(&node, &BpfObjects::held_by(sniff.pid()).links());
    sniff.signal(Signal::SIGINT);
    sniff.signal(Signal::SIGCONT);
    let outcome = sniff.wait();
    assert_eq!(outcome.status.code(), Some(1), "{outcome:#?}");
    let comment = capture.read().statistics[0].comment.clone().unwrap_or_default();
    assert_eq!(comment.matches(DETACHED).count(), 1, "{comment}");
}

#[test]
fn a_qdisc_that_somebody_made_anew_stays() {
    let machine = Machine::boot();
    let node = machine.netns();
    let pod = machine.fake_pod("blue", 1);
    let veth = &pod.veth.name;
    let args = ["--netns", "blue", "--attach", "host", "--hook", "clsact", "-w", "/dev/null"];
    let mut sniff = Sniff::in_netns(&node).args(args).start();
    sniff.signal(Signal::SIGSTOP);
    node.run(&format!("tc qdisc del dev {veth} clsact"));
    node.run(&format!("tc qdisc add dev {veth} clsact"));
    sniff.signal(Signal::SIGCONT);
    sniff.wait_for_line("attached again");
    sniff.stop();
    assert!(node.run(&format!("tc qdisc show dev {veth}")).contains("clsact"));
    assert_eq!(node.run(&format!("tc filter show dev {veth} ingress")), "");
}
