//! Filters on live captures: whose packets they are for, changing them, and what is wrong with them.

use std::{
    collections::HashMap,
    fs,
    net::SocketAddr,
    sync::atomic::{AtomicBool, AtomicU32, Ordering},
    thread,
    time::{Duration, Instant},
};

use nix::sys::signal::Signal;
use sniff_tests::{
    machine::Machine,
    netns::tool,
    pcap::{Direction, Packet},
    sniff::Sniff,
    traffic::{self, UdpFlow},
};

use super::ways;
use crate::{Capture, echoes};

const FAILURE: i32 = 1;
const UDP_DESTINATION: usize = 14 + 20 + 2;
const UDP_PAYLOAD: usize = 14 + 20 + 8;

#[test]
fn each_pod_has_the_filter_of_its_own_or_the_general_one() {
    let machine = Machine::boot();
    let node = machine.netns();
    let (own, general) = (machine.fake_pod("own", 1), machine.fake_pod("general", 2));
    let mut sleeper = own.netns.spawn(tool("sleep").arg("60"));
    let named = format!("{}=udp port 7001", machine.pid_inside(sleeper.id()));
    let capture = Capture::new();
    let sniff = Sniff::in_netns(&node)
        .args([
            "--pid",
            &named,
            "--netns",
            "general",
            "-w",
            capture.arg(),
            "icmp[icmptype]",
            "=",
            "icmp-echo",
        ])
        .start();
    for pod in [&own, &general] {
        traffic::ping(&node, pod.ipv4.into(), 4, 56);
        for port in [7001, 7002] {
            UdpFlow::open(&node, &pod.netns, SocketAddr::new(pod.ipv4.into(), port)).send(5, 100);
        }
    }
    let outcome = sniff.stop();
    sleeper.kill().and_then(|()| sleeper.wait()).expect("the end of sleep");
    outcome.success();
    let file = capture.read();
    let filters: Vec<_> = file.interfaces.iter().map(|interface| interface.name.clone()).collect();
    let own = file.packets_of(filters[0].as_deref().expect("a name"));
    assert_eq!(own.len(), 5, "{filters:?}");
    assert!(own.iter().all(|packet| packet.data[UDP_DESTINATION..][..2] == 7001_u16.to_be_bytes()));
    let general = file.packets_of("netns:general/eth0");
    assert_eq!((general.len(), echoes(&general, Direction::In, 56)), (4, 4));
    assert_eq!(outcome.counts().received, 9, "what does not match is not received");
}

#[test]
fn while_filters_alternate_a_packet_that_matches_both_is_there_exactly_once() {
    // The verifier takes its time on an emulated machine.
    const CHANGES: std::ops::RangeInclusive<usize> = 40..=1000;
    const ENOUGH: Duration = Duration::from_secs(20);
    let machine = Machine::boot();
    let node = machine.netns();
    let pod = machine.fake_pod("blue", 1);
    let path = machine.path("/run/filter");
    let filters = ["udp port 7777 # one", "udp and dst port 7777 and greater 60 # other"];
    fs::write(&path, filters[0]).expect("a filter");
    let capture = Capture::new();
    let mut sniff =
        Sniff::in_netns(&node).args(["--netns", "blue", "-F", "/run/filter", "-w", capture.arg()]).start();
    let flow = UdpFlow::open(&node, &pod.netns, SocketAddr::new(pod.ipv4.into(), 7777));
    let (done, sent) = (AtomicBool::new(false), AtomicU32::new(0));
    thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                let number = sent.fetch_add(1, Ordering::Relaxed).to_be_bytes();
                flow.send_payload(&[number, [0; 4], [0; 4], [0; 4], [0; 4]].concat());
                thread::sleep(Duration::from_micros(200));
            }
        });
        let start = Instant::now();
        for change in 1..=*CHANGES.end() {
            if CHANGES.contains(&change) && start.elapsed() > ENOUGH {
                break;
            }
            fs::write(&path, filters[change % 2]).expect("a filter");
            sniff.signal(Signal::SIGUSR2);
            sniff.wait_for_line("the filter is now: ");
        }
        done.store(true, Ordering::Relaxed);
    });
    sniff.stop().success();
    let mut times = HashMap::new();
    for Packet { data, .. } in capture.read().packets {
        let number = data[UDP_PAYLOAD..][..4].try_into().expect("a number");
        *times.entry(u32::from_be_bytes(number)).or_insert(0) += 1;
    }
    let sent = sent.into_inner();
    assert!(sent > 1000, "only {sent} packets");
    let wrong: Vec<_> = (0..sent).filter(|number| times.get(number) != Some(&1)).collect();
    assert!(
        wrong.is_empty(),
        "{} of {sent} not exactly once: {:?}",
        wrong.len(),
        &wrong[..wrong.len().min(9)]
    );
}

/// Each packet belongs to an interface of the file that names the filter it was judged by.
#[test]
fn after_a_change_the_file_says_which_filter_holds_from_when() {
    const UDP: u8 = 17;
    const PROTOCOL: usize = 14 + 9;
    let machine = Machine::boot();
    let node = machine.netns();
    let (pod, own) = (machine.fake_pod("blue", 1), machine.fake_pod("own", 2));
    let mut sleeper = own.netns.spawn(tool("sleep").arg("60"));
    let own = format!("{}=udp port 9", machine.pid_inside(sleeper.id()));
    let path = machine.path("/run/filter");
    for way in ways() {
        fs::write(&path, "icmp").expect("a filter");
        let capture = Capture::new();
        let args = ["--netns", "blue", "--pid", &own, "-F", "/run/filter", "-w", capture.arg()];
        let mut sniff = Sniff::in_netns(&node).args(args).args(way).start();
        let flow = UdpFlow::open(&node, &pod.netns, SocketAddr::new(pod.ipv4.into(), 7001));
        let traffic = || {
            traffic::ping(&node, pod.ipv4.into(), 2, 56);
            flow.send(3, 100);
        };
        traffic();
        fs::write(&path, "udp port 7001").expect("a filter");
        sniff.signal(Signal::SIGUSR2);
        sniff.wait_for_line("the filter is now: udp port 7001");
        traffic();
        // Nothing changes, and nothing is said of it in the file.
        sniff.signal(Signal::SIGUSR2);
        sniff.wait_for_line("the filter is now: udp port 7001");
        let outcome = sniff.stop();
        let file = capture.read_counted(&outcome);
        let filters: Vec<_> = file.interfaces.iter().map(|it| it.filter.as_deref()).collect();
        assert_eq!(filters, [Some("udp port 9"), Some("icmp"), Some("udp port 7001")]);
        assert_eq!(file.interfaces[1].name, file.interfaces[2].name);
        let comment = file.interfaces[2].comment.as_deref().expect("a comment");
        assert!(comment.ends_with("; before: icmp"), "{comment}");
        let of = |interface| file.packets.iter().filter(move |packet| packet.interface == interface);
        assert_eq!((of(0).count(), of(1).count(), of(2).count()), (0, 4, 3));
        assert!(of(2).all(|packet| packet.data[PROTOCOL] == UDP));
        let counted: Vec<_> = file.statistics.iter().map(|it| it.filteraccept).collect();
        assert_eq!(counted, [Some(0), Some(4), Some(3)]);
        let [_, before, after] = &file.statistics[..] else { panic!("{:?}", file.statistics) };
        let (end, start) = (before.end_ns.expect("an end"), after.start_ns.expect("a start"));
        assert!(of(1).all(|packet| packet.timestamp_ns <= end));
        assert!(of(2).all(|packet| packet.timestamp_ns >= start));
    }
    sleeper.kill().and_then(|()| sleeper.wait()).expect("the end of sleep");
}

#[test]
fn an_interface_that_has_gone_is_no_reason_to_keep_the_filter() {
    let machine = Machine::boot();
    let node = machine.netns();
    let (blue, _green) = (machine.fake_pod("blue", 1), machine.fake_pod("green", 2));
    let path = machine.path("/run/filter");
    for (way, netns) in ways().into_iter().zip((0..).map(|at| format!("red{at}"))) {
        let red = machine.fake_pod(&netns, 3);
        fs::write(&path, "udp").expect("a filter");
        let capture = Capture::new();
        let args = ["--netns", "blue", "--netns", &netns, "--netns", "green", "-F", "/run/filter"];
        let mut sniff = Sniff::in_netns(&node).args(args).args(["-w", capture.arg()]).args(way).start();
        fs::write(&path, "icmp").expect("a filter");
        node.run(&format!("ip link del {}", red.veth.name));
        sniff.signal(Signal::SIGUSR2);
        sniff.wait_for_line("the filter is now: icmp");
        traffic::ping(&node, blue.ipv4.into(), 3, 56);
        let outcome = sniff.stop();
        let packets = capture.read_counted(&outcome).packets;
        let counts = (echoes(&packets, Direction::In, 56), echoes(&packets, Direction::Out, 56));
        assert_eq!(counts, (3, 3));
    }
}

/// The second interface refuses: somebody has deleted the filter whose program is to change.
#[test]
fn a_filter_that_one_interface_refuses_changes_at_none() {
    let machine = Machine::boot();
    let node = machine.netns();
    let pods = [machine.fake_pod("first", 1), machine.fake_pod("second", 2)];
    let path = machine.path("/run/filter");
    fs::write(&path, "icmp[icmptype] = icmp-echo").expect("a filter");
    let capture = Capture::new();
    let args = ["--netns", "first", "--netns", "second", "--hook", "clsact", "-F", "/run/filter"];
    let mut sniff = Sniff::in_netns(&node).args(args).args(["-w", capture.arg()]).start();
    fs::write(&path, "icmp[icmptype] = icmp-echoreply").expect("a filter");
    node.run(&format!("tc filter del dev {} ingress", pods[1].veth.name));
    sniff.signal(Signal::SIGUSR2);
    let line = sniff.wait_for_line("the filter ");
    for pod in &pods {
        traffic::ping(&node, pod.ipv4.into(), 3, 56);
    }
    let outcome = sniff.stop();
    // Packets may be missing where the filter was away.
    assert_eq!(outcome.status.code(), Some(1), "{outcome:#?}");
    let file = capture.read();
    assert_eq!(file.packets.len() as u64, outcome.counts().captured);
    // Unless sniff has noticed the loss by then, and has made up for it.
    let expected = if line.contains("stays as it is") { (3, 0) } else { (0, 3) };
    for name in ["netns:first/eth0", "netns:second/eth0"] {
        let of = file.packets_of(name);
        let counts = (echoes(&of, Direction::In, 56), echoes(&of, Direction::Out, 56));
        assert_eq!(counts, expected, "{name}: {line} {outcome:#?}");
    }
}

#[test]
fn a_filter_that_does_not_compile_leaves_the_old_one_running() {
    let machine = Machine::boot();
    let node = machine.netns();
    let pod = machine.fake_pod("blue", 1);
    let path = machine.path("/run/filter");
    fs::write(&path, "icmp").expect("a filter");
    let capture = Capture::new();
    let mut sniff =
        Sniff::in_netns(&node).args(["--netns", "blue", "-F", "/run/filter", "-w", capture.arg()]).start();
    fs::write(&path, "icmp and prot 5").expect("a filter");
    sniff.signal(Signal::SIGUSR2);
    let line = sniff.wait_for_line("the filter stays as it is");
    assert!(line.contains("syntax error"), "{line}");
    traffic::ping(&node, pod.ipv4.into(), 3, 56);
    sniff.stop().success();
    let packets = capture.read().packets;
    assert_eq!(echoes(&packets, Direction::In, 56), 3);
    assert_eq!(echoes(&packets, Direction::Out, 56), 3);
}

#[test]
fn an_expression_that_is_none_is_pointed_at_and_nothing_is_attached() {
    let machine = Machine::boot();
    machine.fake_pod("blue", 1);
    let capture = Capture::new();
    let outcome =
        Sniff::in_netns(&machine.netns()).args(["--netns", "blue", "-w", capture.arg(), "tcp prot 80"]).run();
    assert_eq!(outcome.status.code(), Some(FAILURE), "{outcome:#?}");
    let [said, text, caret] = outcome.stderr.as_slice() else { panic!("{outcome:#?}") };
    assert!(said.starts_with("sniff: ") && said.contains("syntax error"), "{said}");
    assert_eq!(text.find("prot"), caret.find('^'), "{outcome:#?}");
    assert!(!capture.path().exists(), "a file, though nothing could be captured");
}

#[test]
fn headers_are_kept_and_payload_is_not_and_lengths_stay_true() {
    let machine = Machine::boot();
    let node = machine.netns();
    let pod = machine.fake_pod("blue", 1);
    let to = [pod.ipv4.into(), pod.ipv6.into()];
    // The neighbours are known from here on, so that no datagram waits for them.
    to.iter().for_each(|&to| traffic::ping(&node, to, 1, 16));
    let capture = Capture::new();
    let args = ["--netns", "blue", "--headers", "-w", capture.arg(), "udp port 7777"];
    let sniff = Sniff::in_netns(&node).args(args).start();
    for to in to {
        UdpFlow::open(&node, &pod.netns, SocketAddr::new(to, 7777)).send(3, 500);
    }
    sniff.stop().success();
    let lengths: Vec<_> =
        capture.read().packets.iter().map(|packet| (packet.data.len(), packet.original_len)).collect();
    let (v4, v6) = (14 + 20 + 8, 14 + 40 + 8);
    assert_eq!(lengths, [[(v4, v4 as u32 + 500); 3], [(v6, v6 as u32 + 500); 3]].concat());
}
