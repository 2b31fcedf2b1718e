//! What each signal does to a capture, at each stage of it.

use std::{
    fs,
    io::Read as _,
    net::SocketAddr,
    os::unix::net::UnixListener,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use nix::{
    sys::{signal::Signal, stat::Mode},
    unistd::mkfifo,
};
use sniff_protocol::message::{CapturePlan, ClientHello};
use sniff_tests::{
    leftovers::BpfObjects,
    pcap::Direction,
    serve::{Serving, hello},
    sniff::{self, Running, Sniff, cpu_time},
    traffic::UdpFlow,
    wait, wireshark,
};

use crate::{Capture, OnePod, echoes};

const FAILURE: i32 = 1;
/// How many pings each capture holds.
const PINGS: usize = 3;

impl OnePod {
    fn flow(&self) -> UdpFlow {
        UdpFlow::open(&self.node, &self.pod.netns, SocketAddr::new(self.pod.ipv4.into(), 7777))
    }
}

/// A filter that libpcap would take minutes to compile.
fn endless_filter() -> String {
    let hosts = (0..3000).map(|number| format!("host 10.{}.{}.7", number / 250, number % 250));
    hosts.collect::<Vec<_>>().join(" or ")
}

/// Waits until a process has computed for a while from now on.
fn wait_for_work(pid: u32) {
    let enough = cpu_time(pid) + Duration::from_millis(500);
    wait::until("work", Duration::from_secs(60), || (cpu_time(pid) >= enough).then_some(()));
}

/// Sends a signal that has only a number or a name that `kill` knows.
fn send(sniff: &Running, signal: &str) {
    let sent = Command::new("kill").args(["-s", signal, &sniff.pid().to_string()]).status();
    assert!(sent.expect("kill").success(), "{signal}");
}

#[test]
fn a_signal_that_is_sent_twice_is_one_wish() {
    let place = OnePod::new();
    let capture = Capture::new();
    let sniff = place.sniff(&["-w", capture.arg()]).start();
    place.ping(PINGS as u32);
    // As `timeout` does, once to the process and once to its group; and for as long as the end takes.
    let first = Instant::now();
    while first.elapsed() < Duration::from_millis(500) {
        sniff.signal(Signal::SIGTERM);
        thread::sleep(Duration::from_millis(1));
    }
    let file = capture.read_whole(&sniff.wait());
    assert_eq!(echoes(&file.packets, Direction::In, 56), PINGS);
}

#[test]
fn timeout_ends_a_capture_well() {
    let place = OnePod::new();
    let capture = Capture::new();
    let args = ["2".into(), sniff::binary().into_os_string()];
    let sniff = Sniff::in_netns(&place.node).program("timeout").args(args);
    let sniff = sniff.args(["--netns", "blue", "-w", capture.arg()]).start();
    place.ping(PINGS as u32);
    let outcome = sniff.wait();
    assert_eq!(outcome.status.code(), Some(124), "timeout's own: {outcome:#?}");
    let file = capture.read_ended();
    assert_eq!(file.packets.len() as u64, outcome.counts().captured);
    assert_eq!(echoes(&file.packets, Direction::In, 56), PINGS);
}

#[test]
fn every_signal_that_would_end_a_process_ends_a_capture_well() {
    let place = OnePod::new();
    let before = place.snapshot();
    for signal in
        ["QUIT", "ABRT", "TRAP", "SYS", "ALRM", "VTALRM", "PROF", "XCPU", "IO", "PWR", "STKFLT", "40", "64"]
    {
        // By clsact, whose filters outlive the process.
        let capture = Capture::new();
        let sniff = place.sniff(&["--hook", "clsact", "-w", capture.arg()]).start();
        let objects = BpfObjects::held_by(sniff.pid());
        place.ping(PINGS as u32);
        send(&sniff, signal);
        let file = capture.read_whole(&sniff.wait());
        assert_eq!(echoes(&file.packets, Direction::In, 56), PINGS, "{signal}");
        objects.assert_gone();
        before.assert_unchanged(&sniff::binary());
    }
}

#[test]
fn some_signals_do_not_end_a_capture() {
    let place = OnePod::new();
    let capture = Capture::new();
    let mut sniff = place.sniff(&["-w", capture.arg()]).start();
    for signal in ["USR1", "USR2", "XFSZ", "PIPE", "WINCH", "CHLD", "URG", "CONT"] {
        send(&sniff, signal);
    }
    sniff.wait_for_line("SIGUSR2");
    place.ping(PINGS as u32);
    let file = capture.read_whole(&sniff.stop());
    assert_eq!(echoes(&file.packets, Direction::In, 56), PINGS);
}

#[test]
fn sigusr1_tells_the_counts_so_far() {
    let place = OnePod::new();
    let capture = Capture::new();
    for quiet in [&[][..], &["-q"]] {
        let args = [&["-w", capture.arg(), "icmp"], quiet].concat();
        let mut sniff = place.sniff(&args).launch();
        wait::until("an interface in the file", Duration::from_secs(20), || {
            let file = fs::read(capture.path()).unwrap_or_default();
            let section = u32::from_ne_bytes(*file.get(4..)?.first_chunk()?);
            (file.len() > section as usize).then_some(())
        });
        let counts = |count| {
            format!("{count} packets captured, {count} received by filter, 0 dropped by kernel so far")
        };
        sniff.signal(Signal::SIGUSR1);
        sniff.wait_for_line(&counts(0));
        place.ping(PINGS as u32);
        // Packets are handed on in batches.
        let line = wait::until("all packets in the file", Duration::from_secs(5), || {
            sniff.signal(Signal::SIGUSR1);
            Some(sniff.wait_for_line("so far")).filter(|line| line.contains(&counts(2 * PINGS)))
        });
        assert!(line.starts_with("sniff: "), "{line}");
        sniff.stop().success();
        fs::remove_file(capture.path()).expect("the file");
    }
}

#[test]
fn a_limit_on_file_sizes_is_a_full_disk() {
    let place = OnePod::new();
    let capture = Capture::new();
    let before = place.snapshot();
    let script = "ulimit -f 40 && exec \"$0\" \"$@\"";
    let sniff = Sniff::in_netns(&place.node).program("sh").args(["-c", script]).args([sniff::binary()]);
    let sniff = sniff.args(["--netns", "blue", "--hook", "clsact", "-w", capture.arg()]).start();
    place.flow().send(200, 1000);
    let outcome = sniff.wait();
    assert_eq!(outcome.status.code(), Some(FAILURE), "{outcome:#?}");
    let explained = |line: &String| {
        line.starts_with("sniff: ") && line.contains(capture.arg()) && line.contains("too large")
    };
    assert!(outcome.stderr.iter().any(explained), "{outcome:#?}");
    wireshark::assert_clean(capture.path());
    let written = capture.read().packets.len();
    assert!((5..200).contains(&written), "{written} packets");
    assert_eq!(outcome.counts().captured, written as u64);
    assert_eq!(outcome.counts().dropped, 0);
    before.assert_unchanged(&sniff::binary());
}

#[test]
fn a_file_goes_on_when_nobody_reads_the_lines_any_more() {
    let place = OnePod::new();
    let capture = Capture::new();
    let (sniff, mut stdout) = place.sniff(&["--print", "-w", capture.arg(), "icmp"]).start_unread();
    place.ping(PINGS as u32);
    stdout.read_exact(&mut [0; 12]).expect("the start of a line");
    drop(stdout);
    for _ in 0..2 {
        place.ping(PINGS as u32);
    }
    let file = capture.read_whole(&sniff.stop());
    assert_eq!(echoes(&file.packets, Direction::In, 56), 3 * PINGS);
}

#[test]
fn a_person_who_insists_leaves_a_whole_file_that_says_what_is_missing() {
    let place = OnePod::new();
    // A pipe that takes very little at a time, as a slow disk does.
    let (sniff, mut stdout) = place.sniff(&["-w", "-"]).start_unread();
    place.flow().send(4000, 1000);
    sniff.wait_for_stuck_output();
    sniff.signal(Signal::SIGINT);
    thread::sleep(Duration::from_millis(1100));
    sniff.signal(Signal::SIGINT);
    let mut bytes = Vec::new();
    stdout.read_to_end(&mut bytes).expect("reading the capture");
    let outcome = sniff.wait();
    assert_eq!(outcome.status.code(), Some(FAILURE), "{outcome:#?}");
    let counts = outcome.counts();
    let file = sniff_tests::pcap::parse_pcapng(&bytes);
    assert_eq!(file.packets.len() as u64, counts.captured);
    assert!(counts.captured < counts.received, "{counts:?}");
    assert!(outcome.stderr.iter().any(|line| line.contains("ended at once")), "{outcome:#?}");
    assert_eq!(file.statistics.len(), 1);
}

#[test]
fn a_fifo_that_nobody_reads_does_not_keep_sniff_from_ending() {
    let place = OnePod::new();
    let before = place.snapshot();
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        let path = place.machine.path("/run/fifo");
        mkfifo(&path, Mode::S_IRWXU).expect("a FIFO");
        let sniff = place.sniff(&["-w", "/run/fifo"]).launch();
        sniff.wait_for_fifo();
        sniff.signal(signal);
        let outcome = sniff.wait();
        let line = outcome.refusal(FAILURE);
        assert!(line.contains("nothing was captured"), "{line}");
        before.assert_unchanged(&sniff::binary());
        fs::remove_file(path).expect("the FIFO");
    }
}

#[test]
fn a_filter_that_takes_long_to_compile_does_not_keep_sniff_from_ending() {
    let place = OnePod::new();
    fs::write(place.machine.path("/run/filter"), endless_filter()).expect("a file");
    let capture = Capture::new();
    let sniff = place.sniff(&["-F", "/run/filter", "-w", capture.arg()]).launch();
    wait_for_work(sniff.pid());
    sniff.signal(Signal::SIGTERM);
    let outcome = sniff.wait();
    let line = outcome.refusal(FAILURE);
    assert!(line.contains("nothing was captured"), "{line}");
}

#[test]
fn a_new_filter_that_takes_long_to_compile_holds_up_neither_the_capture_nor_its_end() {
    let place = OnePod::new();
    let filter = place.machine.path("/run/filter");
    fs::write(&filter, "icmp").expect("a file");
    let capture = Capture::new();
    let mut sniff = place.sniff(&["-F", "/run/filter", "-w", capture.arg()]).start();
    fs::write(&filter, endless_filter()).expect("a file");
    sniff.signal(Signal::SIGUSR2);
    wait_for_work(sniff.pid());
    place.ping(PINGS as u32);
    sniff.signal(Signal::SIGUSR1);
    sniff.wait_for_line("received by filter");
    let file = capture.read_whole(&sniff.stop());
    assert_eq!(echoes(&file.packets, Direction::In, 56), PINGS);
    assert_eq!(file.packets.len(), 2 * PINGS);
}

#[test]
fn many_interfaces_do_not_keep_sniff_from_ending() {
    const INTERFACES: usize = 60;
    let place = OnePod::new();
    let pod = &place.pod.netns;
    for number in 0..INTERFACES / 2 {
        pod.run(&format!("ip link add a{number} type veth peer name b{number}"));
        pod.run(&format!("ip link set a{number} up"));
        pod.run(&format!("ip link set b{number} up"));
    }
    let before = place.snapshot();
    let capture = Capture::new();
    // By clsact, whose filters outlive the process.
    let mut sniff = place.sniff(&["--hook", "clsact", "-w", capture.arg()]).launch();
    // Among the first of them.
    sniff.wait_for_line("clsact");
    sniff.signal(Signal::SIGTERM);
    let outcome = sniff.wait();
    capture.read_whole(&outcome);
    let attached = outcome.stderr.iter().filter(|line| line.contains("clsact")).count();
    assert!(attached < INTERFACES, "{attached} interfaces were attached to");
    before.assert_unchanged(&sniff::binary());
}

#[test]
fn a_runtime_that_does_not_answer_does_not_keep_sniff_from_ending() {
    let place = OnePod::new();
    let socket = UnixListener::bind(place.machine.path("/run/slow.sock")).expect("a socket");
    let args = ["--pod", "shop/web", "--cri-socket", "/run/slow.sock"];
    let sniff = Sniff::in_netns(&place.node).args(args).launch();
    let _connection = socket.accept().expect("a connection");
    sniff.signal(Signal::SIGTERM);
    let outcome = sniff.wait();
    let line = outcome.refusal(FAILURE);
    assert!(line.contains("nothing was captured"), "{line}");
}

#[test]
fn a_client_that_goes_ends_a_session_whose_filter_still_compiles() {
    let place = OnePod::new();
    let plan = CapturePlan { filter: Some(endless_filter()), ..CapturePlan::default() };
    let mut serving = Serving::start(&place.node);
    let hello = ClientHello { plan, ..hello(vec![]) };
    serving.send(&sniff_protocol::ToNode::Hello(Box::new(hello)));
    wait_for_work(serving.pid());
    serving.close_input();
    let outcome = serving.wait();
    assert_eq!(outcome.status.code(), Some(FAILURE), "{outcome:#?}");
}
