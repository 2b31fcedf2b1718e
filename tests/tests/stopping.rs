//! Every way of ending a capture: the file is whole, the exit status is right, nothing is left.

use std::{io::Read as _, net::SocketAddr, path::Path, thread, time::Duration};

use nix::sys::signal::Signal;
use sniff_tests::{
    leftovers::{BpfObjects, Snapshot},
    machine::Machine,
    node::Node,
    pcap::{self, Direction, PcapNg},
    sniff::{self, Outcome, Running, Sniff},
    traffic::{self, UdpFlow},
    wait, wireshark,
};

use crate::{Capture, echoes};

/// How many pings each capture holds.
const PINGS: usize = 3;

/// Captures a pod with `args` into a file, has pings sent, lets `end` end it, and checks that
/// nothing is left on the machine.
fn capture_until(args: &[&str], end: impl FnOnce(Running, &Path) -> Outcome) -> (Outcome, Capture) {
    let machine = Machine::boot();
    let node = machine.netns();
    let pod = machine.fake_pod("blue", 1);
    let capture = Capture::new();
    let binary = sniff::binary();
    let before = Snapshot::take(&machine, &[&node, &pod.netns], &binary);
    let all = ["--netns", "blue", "-w", capture.arg()].into_iter().chain(args.iter().copied());
    let running = Sniff::in_netns(&node).args(all).start();
    let objects = BpfObjects::held_by(running.pid());
    traffic::ping(&node, pod.ipv4.into(), PINGS as u32, 56);
    let outcome = end(running, capture.path());
    objects.assert_gone();
    before.assert_unchanged(&binary);
    (outcome, capture)
}

/// Checks a file that was ended in good order.
fn assert_whole(capture: &Capture, outcome: &Outcome) -> PcapNg {
    let counts = outcome.success();
    wireshark::assert_clean(capture.path());
    let file = capture.read();
    assert_eq!(file.packets.len() as u64, counts.captured);
    assert_eq!(file.statistics.len(), file.interfaces.len());
    file
}

fn assert_signal_ends_well(signal: Signal) {
    let (outcome, capture) = capture_until(&[], |sniff, _| {
        sniff.signal(signal);
        sniff.wait()
    });
    let file = assert_whole(&capture, &outcome);
    assert_eq!(echoes(&file.packets, Direction::In, 56), PINGS, "{signal}");
    assert_eq!(echoes(&file.packets, Direction::Out, 56), PINGS, "{signal}");
}

#[test]
fn ctrl_c_ends_a_capture_well() {
    assert_signal_ends_well(Signal::SIGINT);
}

#[test]
fn sigterm_ends_a_capture_well() {
    assert_signal_ends_well(Signal::SIGTERM);
}

#[test]
fn sighup_ends_a_capture_well() {
    assert_signal_ends_well(Signal::SIGHUP);
}

#[test]
fn count_ends_a_capture_by_itself_after_exactly_so_many_packets() {
    let (outcome, capture) = capture_until(&["--count", "4"], |sniff, _| sniff.wait());
    assert_eq!(assert_whole(&capture, &outcome).packets.len(), 4);
}

#[test]
fn duration_ends_a_capture_by_itself() {
    let (outcome, capture) = capture_until(&["--duration", "1s"], |sniff, _| sniff.wait());
    let file = assert_whole(&capture, &outcome);
    assert_eq!(echoes(&file.packets, Direction::In, 56), PINGS);
    let statistics = &file.statistics[0];
    let (start, end) = (statistics.start_ns.expect("a start"), statistics.end_ns.expect("an end"));
    let lasted = Duration::from_nanos(end - start);
    assert!((Duration::from_millis(900)..Duration::from_secs(5)).contains(&lasted), "{lasted:?}");
}

#[test]
fn kill_9_leaves_nothing_in_the_kernel_and_a_readable_file() {
    let (outcome, capture) = capture_until(&["-U"], |sniff, file| {
        wait::until("packets in the file", Duration::from_secs(5), || {
            let written = pcap::read_cut_pcapng(file).packets;
            (echoes(&written, Direction::Out, 56) == PINGS).then_some(())
        });
        sniff.signal(Signal::SIGKILL);
        sniff.wait()
    });
    assert_eq!(outcome.signal(), Some(9));
    wireshark::assert_clean(capture.path());
    assert_eq!(echoes(&capture.read().packets, Direction::In, 56), PINGS);
}

#[test]
fn a_reader_that_closes_the_pipe_ends_a_capture_well() {
    let machine = Machine::boot();
    let node = machine.netns();
    let pod = machine.fake_pod("blue", 1);
    let binary = sniff::binary();
    let before = Snapshot::take(&machine, &[&node, &pod.netns], &binary);
    let (sniff, mut stdout) = Sniff::in_netns(&node).args(["--netns", "blue", "-w", "-"]).start_unread();
    let objects = BpfObjects::held_by(sniff.pid());
    traffic::ping(&node, pod.ipv4.into(), 3, 56);
    stdout.read_exact(&mut [0; 12]).expect("the start of a section header");
    drop(stdout);
    traffic::ping(&node, pod.ipv4.into(), 3, 56);
    let outcome = sniff.wait();
    assert_eq!(outcome.status.code(), Some(0), "{outcome:#?}");
    objects.assert_gone();
    before.assert_unchanged(&binary);
}

#[test]
fn a_second_ctrl_c_ends_at_once_though_nobody_reads() {
    let machine = Machine::boot();
    let node = machine.netns();
    let pod = machine.fake_pod("blue", 1);
    let flow = UdpFlow::open(&node, &pod.netns, SocketAddr::new(pod.ipv4.into(), 7777));
    let (sniff, stdout) = Sniff::in_netns(&node).args(["--netns", "blue", "-w", "-"]).start_unread();
    let objects = BpfObjects::held_by(sniff.pid());
    // Far more than fits into a pipe, so that the drain after the first one has to wait.
    flow.send(4000, 1000);
    sniff.signal(Signal::SIGINT);
    thread::sleep(Duration::from_millis(500));
    assert!(Path::new(&format!("/proc/{}/fd/2", sniff.pid())).exists(), "the drain has waited");
    sniff.signal(Signal::SIGINT);
    let outcome = sniff.wait();
    assert!(outcome.status.code().is_some(), "{outcome:#?}");
    objects.assert_gone();
    drop(stdout);
}

#[test]
fn a_pod_that_is_deleted_ends_its_capture_well() {
    let node = Node::start();
    let pod = node.pod("shop", "web").start();
    let capture = Capture::new();
    let sniff = Sniff::in_netns(&node.netns).args(["--pod", "shop/web", "-w", capture.arg()]).start();
    let objects = BpfObjects::held_by(sniff.pid());
    traffic::ping(&node.netns, pod.ipv4.into(), 3, 56);
    pod.sandbox.stop();
    let outcome = sniff.wait();
    let file = assert_whole(&capture, &outcome);
    assert_eq!(echoes(&file.packets, Direction::In, 56), 3);
    objects.assert_gone();
    let gone = node.netns.links().iter().all(|link| link.index != pod.veth.index);
    assert!(gone, "the pod's veth is still there");
}

#[test]
fn a_pod_that_is_deleted_does_not_end_the_capture_of_another() {
    let machine = Machine::boot();
    let node = machine.netns();
    let (blue, red) = (machine.fake_pod("blue", 1), machine.fake_pod("red", 2));
    let capture = Capture::new();
    let args = ["--netns", "blue", "--netns", "red", "-w", capture.arg()];
    let mut sniff = Sniff::in_netns(&node).args(args).start();
    traffic::ping(&node, blue.ipv4.into(), 2, 56);
    node.run("ip netns delete blue");
    sniff.wait_for_line("netns:blue/eth0");
    traffic::ping(&node, red.ipv4.into(), 3, 57);
    let outcome = sniff.stop();
    let file = assert_whole(&capture, &outcome);
    assert_eq!(echoes(&file.packets_of("netns:blue/eth0"), Direction::In, 56), 2);
    assert_eq!(echoes(&file.packets_of("netns:red/eth0"), Direction::In, 57), 3);
}

#[test]
fn a_full_disk_is_a_failure_that_leaves_a_whole_file() {
    let machine = Machine::boot();
    let node = machine.netns();
    let pod = machine.fake_pod("blue", 1);
    let binary = sniff::binary();
    node.run("mkdir /run/small");
    node.run("mount -t tmpfs -o size=256k tmpfs /run/small");
    let before = Snapshot::take(&machine, &[&node, &pod.netns], &binary);
    let flow = UdpFlow::open(&node, &pod.netns, SocketAddr::new(pod.ipv4.into(), 7777));
    let sniff = Sniff::in_netns(&node).args(["--netns", "blue", "-w", "/run/small/f.pcapng"]).start();
    let objects = BpfObjects::held_by(sniff.pid());
    flow.send(2000, 1000);
    let outcome = sniff.wait();
    assert_eq!(outcome.status.code(), Some(1), "{outcome:#?}");
    let explained = |line: &String| {
        line.starts_with("sniff: ") && line.contains("/run/small/f.pcapng") && line.contains("No space left")
    };
    assert!(outcome.stderr.iter().any(explained), "{outcome:#?}");
    let copy = Capture::new();
    std::fs::copy(machine.path("/run/small/f.pcapng"), copy.path()).expect("the file");
    wireshark::assert_clean(copy.path());
    let written = copy.read().packets.len();
    assert!((50..2000).contains(&written), "{written} packets in 256 KiB");
    assert_eq!(outcome.counts().captured, written as u64);
    objects.assert_gone();
    before.assert_unchanged(&binary);
}
