//! What is left of a capture in the kernel: nothing, or what the kernel keeps by itself.

use nix::sys::signal::Signal;
use sniff_tests::{
    kernel,
    leftovers::{BpfObjects, Snapshot},
    machine::Machine,
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
