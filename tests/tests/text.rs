//! Lines for people, and which stream carries what.

use std::time::{SystemTime, UNIX_EPOCH};

use sniff_tests::{
    machine::Machine,
    pcap::{self, Direction},
    sniff::Sniff,
    traffic,
};

use crate::{Capture, echoes};

#[test]
fn without_a_file_each_packet_is_a_line_on_stdout_and_all_else_is_on_stderr() {
    let machine = Machine::boot();
    let node = machine.netns();
    let pod = machine.fake_pod("blue", 1);
    let sniff = Sniff::in_netns(&node).args(["--netns", "blue"]).start();
    traffic::ping(&node, pod.ipv4.into(), 3, 56);
    let outcome = sniff.stop();
    let counts = outcome.success();
    // What all lines have in common is said once.
    let of_whom = outcome.stderr.iter().filter(|line| line.contains("the packets of netns:blue/eth0"));
    assert_eq!(of_whom.count(), 1, "{:#?}", outcome.stderr);
    let lines = String::from_utf8(outcome.stdout).expect("UTF-8");
    assert!(!lines.contains("netns:blue/eth0"), "{lines}");
    assert_eq!(lines.lines().count() as u64, counts.captured, "{lines}");
    for (direction, from, to) in [("In", pod.gateway4, pod.ipv4), ("Out", pod.ipv4, pod.gateway4)] {
        let route = format!("{from} > {to}");
        let is_echo = |line: &&str| {
            line.contains(&route)
                && line.split_whitespace().any(|word| word == direction)
                && line.contains("echo")
        };
        assert_eq!(lines.lines().filter(is_echo).count(), 3, "{direction}:\n{lines}");
    }
}

#[test]
fn print_gives_lines_besides_the_file() {
    let machine = Machine::boot();
    let node = machine.netns();
    let pod = machine.fake_pod("blue", 1);
    let capture = Capture::new();
    let args = ["--netns", "blue", "--print", "-o", capture.arg()];
    let sniff = Sniff::in_netns(&node).args(args).start();
    traffic::ping(&node, pod.ipv4.into(), 3, 56);
    let outcome = sniff.stop();
    let counts = outcome.success();
    let lines = String::from_utf8(outcome.stdout).expect("UTF-8");
    assert_eq!(lines.lines().count() as u64, counts.captured, "{lines}");
    assert_eq!(capture.read().packets.len() as u64, counts.captured);
}

#[test]
fn a_capture_on_stdout_is_pcapng_and_nothing_else() {
    let machine = Machine::boot();
    let node = machine.netns();
    let pod = machine.fake_pod("blue", 1);
    let sniff = Sniff::in_netns(&node).args(["--netns", "blue", "-w", "-"]).start();
    traffic::ping(&node, pod.ipv4.into(), 3, 56);
    let outcome = sniff.stop();
    outcome.success();
    let file = pcap::parse_pcapng(&outcome.stdout);
    assert_eq!(echoes(&file.packets, Direction::In, 56), 3);
}

#[test]
fn quiet_leaves_the_counts() {
    let machine = Machine::boot();
    let node = machine.netns();
    machine.fake_pod("blue", 1);
    let outcome = Sniff::in_netns(&node).args(["--netns", "blue", "-q", "--duration", "200ms"]).run();
    outcome.success();
    assert_eq!(outcome.stderr.len(), 3, "{outcome:#?}");
}

#[test]
fn lines_show_the_time_of_day_where_the_person_is() {
    /// As a TZ of POSIX has it, and in seconds: a quarter of an hour off all others.
    const ZONE: (&str, u64) = ("NPT-5:45", 20_700);
    const DAY: u64 = 86_400;
    let machine = Machine::boot();
    let node = machine.netns();
    let pod = machine.fake_pod("blue", 1);
    let now = || SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock").as_secs();
    let before = now();
    let sniff = Sniff::in_netns(&node).env("TZ", ZONE.0).args(["--netns", "blue", "icmp"]).start();
    traffic::ping(&node, pod.ipv4.into(), 1, 56);
    let outcome = sniff.stop();
    outcome.success();
    let lines = String::from_utf8(outcome.stdout).expect("UTF-8");
    let time = lines.split(['.', ' ']).next().expect("a time");
    let fields: Vec<u64> = time.split(':').map(|field| field.parse().expect("a number")).collect();
    let [hour, minute, second] = fields[..] else { panic!("no time of day: {lines}") };
    let shown = hour * 3600 + minute * 60 + second;
    let since = (shown + DAY - (before + ZONE.1) % DAY) % DAY;
    assert!(since <= now() - before, "{time} is {since} s after the start");
}
