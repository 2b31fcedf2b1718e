//! Packets and statistics have the time of the wall clock, whatever clocks sniff is shown.

use std::{
    ops::RangeInclusive,
    time::{SystemTime, UNIX_EPOCH},
};

use sniff_tests::{
    kernel,
    machine::Machine,
    sniff::{Sniff, binary},
    traffic,
};

use crate::{Capture, time_in};

/// In another time namespace the boot clock is another. Kernels before 6.6 may not enter it when a program is started, and
/// then allow that program no threads (`copy_process`, kernel/fork.c): there, only the machine's own is looked at.
#[test]
fn times_are_right_in_a_time_namespace() {
    let machine = Machine::boot();
    let node = machine.netns();
    let pod = machine.fake_pod("blue", 1);
    for ring in kernel::rings() {
        // Seconds; not further back than the machine is up.
        for shift in ["10000000", "-3"] {
            let capture = Capture::new();
            let mut sniff = Sniff::in_netns(&node);
            if kernel::has_tcx() {
                sniff = sniff.program("unshare").args(["--time", "--boottime", shift]).args([binary()]);
            }
            let args = ["--netns", "blue", "--ring", ring, "-w", capture.arg(), "icmp"];
            let start = now_ns();
            let sniff = sniff.args(args).start();
            traffic::ping(&node, pod.ipv4.into(), 2, 56);
            let sent = start..=now_ns();
            assert_eq!(sniff.stop().success().captured, 4, "{ring} {shift}");
            let ended = start..=now_ns();

            let file = capture.read();
            assert_all(&sent, file.packets.iter().map(|packet| packet.timestamp_ns), ring, shift);
            let statistics = &file.statistics[0];
            let times = [statistics.start_ns, statistics.end_ns].map(|time| time.expect("a time"));
            assert_all(&ended, times.into_iter(), ring, shift);
            // Each direction has been complete from some time between these on.
            let comment = statistics.comment.as_deref().expect("a comment");
            let since = ["in from ", "out from "].map(|words| time_in(comment, words));
            let attached = times[0]..=*sent.end();
            assert_all(&attached, since.into_iter(), ring, shift);
            assert_ne!(since[0], since[1], "one is attached after the other");
            let captured = times[0]..=times[1];
            assert_all(&captured, file.packets.iter().map(|packet| packet.timestamp_ns), ring, shift);
        }
    }
}

fn assert_all(range: &RangeInclusive<u64>, times: impl Iterator<Item = u64>, ring: &str, shift: &str) {
    for time in times {
        assert!(range.contains(&time), "{ring} {shift}: {time} is not in {range:?}");
    }
}

fn now_ns() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("a time after 1970");
    now.as_nanos().try_into().expect("a time before 2554")
}
