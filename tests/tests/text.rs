//! Lines for people, and which stream carries what.

use std::{
    net::Ipv4Addr,
    time::{SystemTime, UNIX_EPOCH},
};

use serde_json::Value;
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
fn each_packet_is_a_json_object_beside_the_file() {
    let machine = Machine::boot();
    let node = machine.netns();
    let (blue, red) = (machine.fake_pod("blue", 1), machine.fake_pod("red", 2));
    let capture = Capture::new();
    let args = ["--netns", "blue", "--netns", "red", "--lines", "json", "-o", capture.arg(), "icmp"];
    let sniff = Sniff::in_netns(&node).args(args).start();
    traffic::ping(&node, blue.ipv4.into(), 2, 56);
    traffic::ping(&node, red.ipv4.into(), 1, 56);
    let outcome = sniff.stop();
    outcome.success();
    let lines = String::from_utf8(outcome.stdout).expect("UTF-8");
    let told: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).expect(line)).collect();
    let packets = capture.read().packets;
    assert_eq!((told.len(), packets.len()), (6, 6), "{lines}");
    let out_of = |pod: &str, address: Ipv4Addr| {
        let is_reply = |told: &&Value| {
            told["interface"] == pod
                && told["direction"] == "out"
                && told["ip"]["src"] == address.to_string()
                && told["icmp"]["message"] == "echo reply"
                && told["length"] == 98
        };
        told.iter().filter(is_reply).count()
    };
    assert_eq!(out_of("netns:blue/eth0", blue.ipv4), 2, "{lines}");
    assert_eq!(out_of("netns:red/eth0", red.ipv4), 1, "{lines}");
}

#[test]
fn lines_of_several_pods_begin_with_what_tells_them_apart() {
    let machine = Machine::boot();
    let node = machine.netns();
    let (blue, red) = (machine.fake_pod("blue", 1), machine.fake_pod("red", 2));
    let args = ["--netns", "blue", "--netns", "red", "-t", "icmp"];
    let sniff = Sniff::in_netns(&node).args(args).start();
    traffic::ping(&node, blue.ipv4.into(), 1, 56);
    traffic::ping(&node, red.ipv4.into(), 1, 56);
    let outcome = sniff.stop();
    outcome.success();
    let common = outcome.stderr.iter().filter(|line| line.contains("the star in */eth0"));
    assert_eq!(common.count(), 1, "{:#?}", outcome.stderr);
    let lines = String::from_utf8(outcome.stdout).expect("UTF-8");
    for (start, to) in [("netns:blue In  IP ", blue.ipv4), ("netns:red  In  IP ", red.ipv4)] {
        let is_request =
            |line: &&str| line.starts_with(start) && line.contains(&format!("> {to}: ICMP echo request"));
        assert_eq!(lines.lines().filter(is_request).count(), 1, "{lines}");
    }
    assert!(!lines.contains('\x1b'), "a pipe has no colours: {lines:?}");
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
