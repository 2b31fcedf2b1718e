//! Every way of ending a capture: the file is whole, the exit status is right, nothing is left.

use std::{io::Read as _, net::SocketAddr, path::Path, thread, time::Duration};

use nix::sys::signal::Signal;
use sniff_tests::{
    bpf::tcx_programs,
    leftovers::{BpfObjects, Snapshot},
    machine::Machine,
    netns::{Link, Netns},
    node::Node,
    pcap::{self, Direction},
    sniff::{self, Outcome, Running, Sniff},
    traffic::{self, UdpFlow},
    wait, wireshark,
};

use crate::{Capture, echoes, redirect_peer, two_pods};

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

fn assert_signal_ends_well(signal: Signal) {
    let (outcome, capture) = capture_until(&[], |sniff, _| {
        sniff.signal(signal);
        sniff.wait()
    });
    let file = capture.read_whole(&outcome);
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
fn a_terminal_that_hangs_up_several_times_ends_a_capture_well() {
    for more in [&[][..], &["--hook", "clsact"]] {
        let (outcome, capture) = capture_until(more, |sniff, _| {
            // For longer than the end takes, so that they come at every stage of it.
            for _ in 0..100 {
                sniff.signal(Signal::SIGHUP);
                thread::sleep(Duration::from_millis(4));
            }
            sniff.wait()
        });
        let file = capture.read_whole(&outcome);
        assert_eq!(echoes(&file.packets, Direction::In, 56), PINGS, "{more:?}");
    }
}

#[test]
fn under_nohup_a_hang_up_does_not_end_a_capture_and_ctrl_c_does() {
    let machine = Machine::boot();
    let node = machine.netns();
    let pod = machine.fake_pod("blue", 1);
    let capture = Capture::new();
    let args = ["--netns", "blue", "-w", capture.arg()];
    let mut sniff = Sniff::in_netns(&node).program("nohup").args([sniff::binary()]).args(args).start();
    sniff.signal(Signal::SIGHUP);
    assert!(!sniff.ends_within(Duration::from_millis(300)), "ended by SIGHUP");
    traffic::ping(&node, pod.ipv4.into(), PINGS as u32, 56);
    let file = capture.read_whole(&sniff.stop());
    assert_eq!(echoes(&file.packets, Direction::In, 56), PINGS);
}

#[test]
fn count_ends_a_capture_by_itself_after_exactly_so_many_packets() {
    let (outcome, capture) = capture_until(&["--count", "4"], |sniff, _| sniff.wait());
    assert_eq!(capture.read_whole(&outcome).packets.len(), 4);
}

#[test]
fn duration_ends_a_capture_by_itself() {
    let (outcome, capture) = capture_until(&["--duration", "1s"], |sniff, _| sniff.wait());
    let file = capture.read_whole(&outcome);
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
    let (mut sniff, stdout) = Sniff::in_netns(&node).args(["--netns", "blue", "-w", "-"]).start_unread();
    let objects = BpfObjects::held_by(sniff.pid());
    // Far more than fits into a pipe, so that the drain after the first one has to wait.
    flow.send(4000, 1000);
    sniff.signal(Signal::SIGINT);
    assert!(!sniff.ends_within(Duration::from_millis(1500)), "the drain has waited");
    sniff.signal(Signal::SIGINT);
    let outcome = sniff.wait();
    assert!(outcome.status.code().is_some(), "{outcome:#?}");
    objects.assert_gone();
    drop(stdout);
}

#[test]
fn an_output_that_nobody_reads_keeps_a_capture_neither_from_going_inside_the_pod_nor_from_ending() {
    let machine = Machine::boot();
    let node = machine.netns();
    let (a, b) = two_pods(&machine);
    let flow = UdpFlow::open(&node, &b.netns, SocketAddr::new(b.ipv4.into(), 7777));
    let args = ["--netns", "b", "--duration", "4s", "-w", "-"];
    let (mut sniff, stdout) = Sniff::in_netns(&node).args(args).start_unread();
    let objects = BpfObjects::held_by(sniff.pid());
    flow.send(4000, 1000);
    sniff.wait_for_stuck_output();
    let _cni = redirect_peer(&node, &a, &b);
    traffic::ping(&a.netns, b.ipv4.into(), 5, 56);
    sniff.wait_for_line("inside the pod eth0");
    wait_for_detachment(&b.netns, &b.eth0);
    for _ in 0..2 {
        sniff.signal(Signal::SIGINT);
        if sniff.ends_within(Duration::from_millis(1500)) {
            break;
        }
    }
    let outcome = sniff.wait();
    assert_eq!(outcome.status.code(), Some(1), "packets were lost: {outcome:#?}");
    objects.assert_gone();
    drop(stdout);
}

#[test]
fn one_ctrl_c_after_the_duration_leaves_sniff_the_time_to_finish() {
    let machine = Machine::boot();
    let node = machine.netns();
    let pod = machine.fake_pod("blue", 1);
    let flow = UdpFlow::open(&node, &pod.netns, SocketAddr::new(pod.ipv4.into(), 7777));
    let args = ["--netns", "blue", "--duration", "1s", "-w", "-"];
    let (mut sniff, mut stdout) = Sniff::in_netns(&node).args(args).start_unread();
    flow.send(4000, 1000);
    sniff.wait_for_stuck_output();
    wait_for_detachment(&node, &pod.veth);
    sniff.signal(Signal::SIGINT);
    assert!(!sniff.ends_within(Duration::from_millis(1500)), "ended before all was written");
    let mut bytes = Vec::new();
    stdout.read_to_end(&mut bytes).expect("reading the capture");
    let counts = sniff.wait().success();
    let file = pcap::parse_pcapng(&bytes);
    assert_eq!((file.packets.len() as u64, counts.dropped), (counts.captured, 0));
    assert!(counts.captured >= 4000, "{counts:?}");
    assert_eq!(file.statistics.len(), 1);
}

/// Waits until no program is at the interface's hooks any more.
fn wait_for_detachment(netns: &Netns, link: &Link) {
    wait::until("an interface without programs", Duration::from_secs(10), || {
        tcx_programs(netns, link.index).iter().all(Vec::is_empty).then_some(())
    });
}

#[test]
fn a_pod_that_is_deleted_ends_a_capture_that_went_inside_for_one_direction() {
    let machine = Machine::boot();
    let node = machine.netns();
    let (a, b) = two_pods(&machine);
    let capture = Capture::new();
    let args = ["--netns", "b", "-Q", "in", "-w", capture.arg()];
    let mut sniff = Sniff::in_netns(&node).args(args).start();
    let _cni = redirect_peer(&node, &a, &b);
    traffic::ping(&a.netns, b.ipv4.into(), 3, 56);
    sniff.wait_for_line("inside the pod eth0");
    traffic::ping(&a.netns, b.ipv4.into(), 5, 57);
    node.run("ip netns delete b");
    let file = capture.read_whole(&sniff.wait());
    assert_eq!(echoes(&file.packets, Direction::In, 57), 5);
    assert_eq!(echoes(&file.packets, Direction::Out, 57), 0);
}

#[test]
fn a_pod_that_is_deleted_ends_its_capture_well() {
    let node = Node::start();
    let pod = node.pod("shop", "web").start();
    let capture = Capture::new();
    let args = ["--pod", "shop/web", "--no-follow", "-w", capture.arg()];
    let sniff = Sniff::in_netns(&node.netns).args(args).start();
    let objects = BpfObjects::held_by(sniff.pid());
    traffic::ping(&node.netns, pod.ipv4.into(), 3, 56);
    pod.sandbox.stop();
    let outcome = sniff.wait();
    let file = capture.read_whole(&outcome);
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
    let file = capture.read_whole(&outcome);
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
