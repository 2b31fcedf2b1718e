//! Outputs that misbehave: readers that leave early, and files without room.

use std::{
    fs::{self, File},
    io::{self, BufRead as _, BufReader},
    net::SocketAddr,
};

use nix::sys::signal::Signal;
use sniff_tests::{
    machine::Machine, pcap::Direction, sniff::Sniff, terminal::Terminal, traffic, traffic::UdpFlow,
};

use crate::{Capture, echoes};

/// The type of a section header block, which begins every pcapng file.
const SECTION_HEADER: [u8; 4] = [0x0a, 0x0d, 0x0d, 0x0a];

#[test]
fn a_file_goes_on_when_nobody_reads_the_printed_lines_any_more() {
    let machine = Machine::boot();
    let node = machine.netns();
    let pod = machine.fake_pod("blue", 1);
    let capture = Capture::new();
    let args = ["--netns", "blue", "--print", "-w", capture.arg()];
    let (sniff, stdout) = Sniff::in_netns(&node).args(args).start_unread();
    traffic::ping(&node, pod.ipv4.into(), 3, 56);
    let mut line = String::new();
    BufReader::new(stdout).read_line(&mut line).expect("a line");
    assert!(line.contains(" In  ") || line.contains(" Out "), "{line}");
    // The reader is gone; far more lines than any buffer between would take.
    let flow = UdpFlow::open(&node, &pod.netns, SocketAddr::new(pod.ipv4.into(), 7777));
    flow.send(4000, 100);
    traffic::ping(&node, pod.ipv4.into(), 3, 57);
    let outcome = sniff.stop();
    let file = capture.read_whole(&outcome);
    let counts = outcome.counts();
    assert_eq!((counts.received, counts.dropped), (counts.captured, 0));
    assert!(counts.captured >= 4000 + 12, "{counts:?}");
    assert_eq!(echoes(&file.packets, Direction::Out, 57), 3);
}

#[test]
fn a_capture_goes_on_when_nobody_reads_its_messages_any_more() {
    let machine = Machine::boot();
    let node = machine.netns();
    let pod = machine.fake_pod("blue", 1);
    let capture = Capture::new();
    let (reader, stderr) = io::pipe().expect("a pipe");
    let args = ["--netns", "blue", "-w", capture.arg()];
    let sniff = Sniff::in_netns(&node).args(args).stderr(stderr.into()).launch();
    let mut lines = BufReader::new(reader).lines().map_while(Result::ok);
    assert!(lines.any(|line| line.contains("listening on")), "sniff does not listen");
    drop(lines);
    traffic::ping(&node, pod.ipv4.into(), 3, 56);
    let outcome = sniff.stop();
    assert_eq!(outcome.status.code(), Some(0), "{outcome:#?}");
    let file = capture.read_ended();
    assert_eq!(echoes(&file.packets, Direction::In, 56), 3);
    assert_eq!(echoes(&file.packets, Direction::Out, 56), 3);
}

#[test]
fn a_full_disk_leaves_what_was_in_a_file_that_is_appended_to() {
    // Larger than all that can be added to it.
    let old = [0x5a; 200 << 10];
    let machine = Machine::boot();
    let node = machine.netns();
    let pod = machine.fake_pod("blue", 1);
    node.run("mkdir /run/small");
    node.run("mount -t tmpfs -o size=256k tmpfs /run/small");
    let path = machine.path("/run/small/f");
    fs::write(&path, old).expect("an older file");
    let appended = File::options().append(true).open(&path).expect("the file");
    let flow = UdpFlow::open(&node, &pod.netns, SocketAddr::new(pod.ipv4.into(), 7777));
    let args = ["--netns", "blue", "-w", "-"];
    let sniff = Sniff::in_netns(&node).args(args).stdout(appended.into()).start();
    flow.send(2000, 1000);
    let outcome = sniff.wait();
    assert_eq!(outcome.status.code(), Some(1), "{outcome:#?}");
    let explained = |line: &String| line.contains("standard output") && line.contains("No space left");
    assert!(outcome.stderr.iter().any(explained), "{outcome:#?}");
    let bytes = fs::read(&path).expect("the file");
    let added = bytes.strip_prefix(&old).expect("the old content, untouched");
    assert!(added.starts_with(&SECTION_HEADER), "{:?}", added.get(..4));
}

#[test]
fn lines_that_cannot_be_printed_are_a_failure_and_not_captured() {
    let machine = Machine::boot();
    let node = machine.netns();
    let pod = machine.fake_pod("blue", 1);
    let full = File::options().write(true).open("/dev/full").expect("/dev/full");
    let sniff = Sniff::in_netns(&node).args(["--netns", "blue"]).stdout(full.into()).start();
    traffic::ping(&node, pod.ipv4.into(), 3, 56);
    let outcome = sniff.wait();
    assert_eq!(outcome.status.code(), Some(1), "{outcome:#?}");
    let explained = |line: &String| {
        line.starts_with("sniff: ") && line.contains("standard output") && line.contains("No space left")
    };
    assert!(outcome.stderr.iter().any(explained), "{outcome:#?}");
    let counts = outcome.counts();
    assert_eq!(counts.captured, 0);
    assert!(counts.received > 0, "{counts:?}");
}

#[test]
fn a_terminal_shows_how_it_goes_while_a_file_is_written() {
    /// Takes away a line that is shown.
    const CLEAR: &str = "\r\x1b[J";
    let machine = Machine::boot();
    let node = machine.netns();
    let pod = machine.fake_pod("blue", 1);
    let capture = Capture::new();
    let (terminal, stderr) = Terminal::open();
    let args = ["--netns", "blue", "-w", capture.arg(), "icmp"];
    let sniff = Sniff::in_netns(&node).args(args).stderr(stderr).launch();
    terminal.wait_for("listening on 1 interface(s)");
    terminal.wait_for("  0 packets  0 dropped  ");
    traffic::ping(&node, pod.ipv4.into(), 600, 56);
    terminal.wait_for("  1,200 packets  0 dropped  ");
    sniff.signal(Signal::SIGUSR1);
    terminal.wait_for(&format!("{CLEAR}sniff: 1200 packets captured, 1200 received by filter"));
    let status = sniff.stop().status;
    assert!(status.success(), "{status}");
    let came = terminal.all();
    let (_, last) = came.rsplit_once(CLEAR).expect("a line that was taken away");
    assert!(last.starts_with("1200 packets captured\r\n"), "{came:?}");
}

#[test]
fn nothing_moves_where_no_terminal_is_or_quiet_is_asked_for() {
    let machine = Machine::boot();
    let node = machine.netns();
    machine.fake_pod("blue", 1);
    let capture = Capture::new();
    let args = ["--netns", "blue", "--duration", "1200ms", "-w", capture.arg()];
    let said = Sniff::in_netns(&node).args(args).run().stderr.concat();
    let (terminal, stderr) = Terminal::open();
    Sniff::in_netns(&node).args(args).args(["-q"]).stderr(stderr).run();
    for said in [said, terminal.all()] {
        assert!(!said.contains('\x1b') && said.contains("packets captured"), "{said:?}");
    }
}
