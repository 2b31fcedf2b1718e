//! The limit of locked memory, which maps and programs count as before Linux 5.11.

use sniff_tests::{
    kernel,
    machine::Machine,
    pcap::Direction,
    sniff::{self, Sniff},
    traffic,
};

use crate::{Capture, echoes};

const FAILURE: i32 = 1;

/// What starts a program with little memory to lock.
const LOW: [&str; 2] = ["--memlock=65536:65536", "--"];

/// Enough for the maps, and not for programs. Not above what kernels set by themselves (8 MiB), which takes a capability.
const ENOUGH_FOR_MAPS: [&str; 2] = ["--memlock=8388608:8388608", "--"];

#[test]
fn root_raises_a_low_limit() {
    let machine = Machine::boot();
    let node = machine.netns();
    let pod = machine.fake_pod("blue", 1);
    for limit in [LOW, ENOUGH_FOR_MAPS] {
        let capture = Capture::new();
        let sniff = Sniff::in_netns(&node).program("prlimit").args(limit).args([sniff::binary()]);
        let sniff = sniff.args(["--netns", "blue", "-B", "512KiB", "-w", capture.arg()]).start();
        traffic::ping(&node, pod.ipv4.into(), 3, 56);
        sniff.stop().success();
        assert_eq!(echoes(&capture.read().packets, Direction::In, 56), 3, "{limit:?}");
    }
}

#[test]
fn a_limit_that_cannot_be_raised_is_named() {
    let machine = Machine::boot();
    let node = machine.netns();
    machine.fake_pod("blue", 1);
    let without = ["setpriv", "--bounding-set=-sys_resource", "--"];
    let sniff = Sniff::in_netns(&node).program("prlimit").args(LOW).args(without).args([sniff::binary()]);
    let outcome = sniff.args(["--netns", "blue", "--duration", "100ms"]).run();
    if kernel::version() >= (5, 11) {
        outcome.success();
    } else {
        assert_eq!(outcome.status.code(), Some(FAILURE), "{outcome:#?}");
        let line = outcome.stderr.last().expect("a reason");
        assert!(line.contains("locked memory") && line.contains("ulimit -l"), "{line}");
    }
}
