//! A recorder: what came last is in the file, without a gap up to the moment that was asked for, and the rest is counted.

use std::{
    collections::HashMap,
    fs,
    io::Read as _,
    net,
    ops::Range,
    os::{
        linux::net::SocketAddrExt as _,
        unix::net::{SocketAddr, UnixListener, UnixStream},
    },
    path::Path,
    thread,
    time::Duration,
};

use nix::sys::{
    signal::Signal,
    socket::{Backlog, listen},
};
use rustix::thread::{Uid, set_thread_uid};
use sniff_tests::{
    kernel,
    machine::Machine,
    netns::Netns,
    pcap::{self, Packet, PcapNg},
    sniff::{Counts, Running, Sniff},
    traffic::UdpFlow,
    wait,
};

use crate::Capture;

/// Each sender's own port; no other packet goes there.
const PORTS: [u16; 2] = [7005, 7006];
const FILTER: &str = "udp and (dst port 7005 or dst port 7006)";
/// Bytes of an Ethernet, an IPv4 and a UDP header.
const HEADERS: usize = 14 + 20 + 8;
/// Bytes of a datagram.
const SIZE: usize = 1000;
/// More than what both senders send fits into it.
const MEMORY: &str = "8MiB";
const MEMORY_BYTES: usize = 8 << 20;
const SENT: u32 = 8000;

#[test]
fn what_came_last_is_written_at_the_end_and_what_is_older_counted() {
    if !can_record() {
        return;
    }
    let (machine, capture) = (Machine::boot(), Capture::new());
    let node = machine.netns();
    let flows = flows(&node, &machine);
    let sniff = record(&node, &capture);
    send(&flows, 0..SENT);
    let outcome = sniff.stop();
    let (counts, file) = (outcome.success(), capture.read());
    assert_eq!((counts.received, counts.dropped), (2 * u64::from(SENT), 0));
    assert_eq!(counts.captured, file.packets.len() as u64);
    let aged_out = counts.received - counts.captured;
    assert!(aged_out > 0, "made to write over, and has not");
    let told = format!("{aged_out} packets too old to be held");
    assert!(outcome.stderr.contains(&told), "{outcome:#?}");
    // What it may hold, but for what CPUs' last regions have left, and not more.
    let bytes: usize = file.packets.iter().map(|packet| packet.data.len()).sum();
    assert!((MEMORY_BYTES / 2..=MEMORY_BYTES).contains(&bytes), "{bytes} bytes are held");
    let ends = assert_are_unbroken(&file.packets);
    assert!(PORTS.iter().all(|port| ends.get(port) == Some(&SENT)), "not up to the end: {ends:?}");
    let [statistics] = file.statistics.as_slice() else { panic!("not one: {file:?}") };
    assert_eq!(statistics.filteraccept, Some(counts.received));
    assert_eq!((statistics.usrdeliv, statistics.osdrop), (Some(counts.captured), Some(0)));
    let comment = statistics.comment.as_deref().unwrap_or_default();
    assert!(
        comment.contains(&format!("{aged_out} of the received packets were too old to be held")),
        "{comment}"
    );
}

#[test]
fn each_signal_has_a_whole_run_of_packets_written_while_more_come() {
    const SAVES: u64 = 8;
    if !can_record() {
        return;
    }
    let (machine, capture) = (Machine::boot(), Capture::new());
    let node = machine.netns();
    let flows = flows(&node, &machine);
    let mut sniff = record(&node, &capture);
    let mut written = Vec::new();
    thread::scope(|scope| {
        let sending = scope.spawn(|| send(&flows, 0..SENT * SAVES as u32));
        for _ in 0..SAVES {
            sniff.signal(Signal::SIGUSR1);
            let line = sniff.wait_for_line("what was held is written");
            let count =
                line.split_whitespace().zip(line.split_whitespace().skip(1)).find(|(_, it)| *it == "packets");
            written.push(count.expect("a count").0.parse::<usize>().expect("a number"));
        }
        sending.join().expect("the senders");
    });
    let outcome = sniff.stop();
    let (counts, file) = (outcome.success(), capture.read());
    assert_eq!((counts.received, counts.dropped), (2 * SAVES * u64::from(SENT), 0));
    assert_eq!(counts.captured, file.packets.len() as u64);
    let adds_up = |line: &&String| line.contains("do not add up");
    assert_eq!(outcome.stderr.iter().find(adds_up), None);
    // As of each signal, and at the end.
    written.push(file.packets.len());
    for (at, two) in file.packets.windows(2).enumerate() {
        let [before, after] = [&two[0], &two[1]].map(|packet| packet.timestamp_ns);
        assert!(before <= after, "{at}: {} ns too late, of {written:?}", before - after);
    }
    let (mut begin, mut before) = (0, HashMap::new());
    for end in written {
        let run = &file.packets[begin..end];
        let firsts = PORTS.map(|port| run.iter().map(number).find(|&(of, _)| of == port));
        for (port, first) in firsts.into_iter().flatten() {
            assert!(
                before.get(&port).is_none_or(|&before| first >= before),
                "{port}: {first} is there twice"
            );
        }
        before.extend(assert_are_unbroken(run));
        begin = end;
    }
    assert!(PORTS.iter().all(|port| before.get(port) == Some(&(SENT * SAVES as u32))), "not up to the end");
}

#[test]
fn what_was_saved_is_held_as_before() {
    if !can_record() {
        return;
    }
    let machine = Machine::boot();
    let node = machine.netns();
    let flows = flows(&node, &machine);
    let sniff = record_unwritten(&node);
    let mut last = None;
    for round in 0..3 {
        send(&flows, round * SENT..(round + 1) * SENT);
        let [once, again] = [0; 2].map(|_| save(&node, &[]));
        for (file, counts) in [&once, &again] {
            let sent = u64::from((round + 1) * SENT);
            assert_eq!((counts.received, counts.dropped), (2 * sent, 0));
            assert_eq!(assert_are_unbroken(&file.packets), PORTS.map(|port| (port, sent as u32)).into());
            let comment = file.section.comment.as_deref().unwrap_or_default();
            assert!(comment.starts_with("saved from a recording in memory: the packets since "), "{comment}");
            assert_eq!(file.statistics[0].filteraccept, Some(counts.received));
            assert_eq!(file.statistics[0].usrdeliv, Some(counts.captured));
            let bytes: usize = file.packets.iter().map(|packet| packet.data.len()).sum();
            assert!((MEMORY_BYTES / 2..=MEMORY_BYTES).contains(&bytes), "{bytes} bytes are held");
        }
        let data = |file: &PcapNg| {
            file.packets.iter().map(|it| (it.timestamp_ns, it.data.clone())).collect::<Vec<_>>()
        };
        // Of the second one, what CPUs go on with meanwhile may be missing.
        let (once, again) = (data(&once.0), data(&again.0));
        assert!(once.ends_with(&again), "{} packets, and then {}", once.len(), again.len());
        assert!(again.len() > once.len() / 4 * 3, "{} packets, and then {}", once.len(), again.len());
        assert_ne!(last.replace(once.clone()), Some(once));
    }
    let outcome = sniff.stop();
    let counts = outcome.success();
    assert_eq!((counts.captured, counts.received, counts.dropped), (0, 6 * u64::from(SENT), 0));
    let kept = outcome.stderr.iter().find(|line| line.ends_with(" packets received but not written"));
    assert!(kept.is_some(), "{outcome:#?}");
}

#[test]
fn each_save_has_a_whole_run_of_packets_whatever_comes_meanwhile() {
    const SAVES: u32 = 25;
    if !can_record() {
        return;
    }
    let (machine, capture) = (Machine::boot(), Capture::new());
    let node = machine.netns();
    let flows = flows(&node, &machine);
    let mut sniff = record(&node, &capture);
    thread::scope(|scope| {
        let sending = scope.spawn(|| send(&flows, 0..SENT * SAVES));
        let (mut before, mut are_compared) = (HashMap::new(), 0);
        for at in 0..SAVES {
            let (file, counts) = save(&node, &[]);
            assert_eq!(counts.dropped, 0, "{at}: {counts:?}");
            assert!(file.packets.is_sorted_by_key(|packet| packet.timestamp_ns));
            let ends = assert_are_unbroken(&file.packets);
            // What is not in the file is counted, up to the same moment. How far a sender was whose packets have all aged out
            // is not known.
            if ends.len() == PORTS.len() {
                assert_eq!(counts.received, ends.values().map(|&end| u64::from(end)).sum::<u64>());
                are_compared += 1;
            }
            for (port, end) in ends {
                let before = before.insert(port, end).unwrap_or_default();
                assert!(end >= before, "{port}: {end} after {before}");
            }
            if at % 5 == 0 {
                sniff.signal(Signal::SIGUSR1);
                sniff.wait_for_line("what was held is written");
            }
        }
        assert!(are_compared > 0, "one sender alone is in each of the files");
        sending.join().expect("the senders");
    });
    let outcome = sniff.stop();
    let (counts, file) = (outcome.success(), capture.read());
    assert_eq!((counts.received, counts.dropped), (2 * u64::from(SAVES * SENT), 0));
    assert_eq!(counts.captured, file.packets.len() as u64);
    assert!(!outcome.stderr.iter().any(|line| line.contains("do not add up")), "{outcome:#?}");
    // Nothing twice, whatever was saved meanwhile.
    let mut next = HashMap::new();
    for (port, number) in file.packets.iter().map(number) {
        let before = next.insert(port, number + 1).unwrap_or_default();
        assert!(number >= before, "{port}: {number} after {before}");
    }
    assert_eq!(next, PORTS.map(|port| (port, SENT * SAVES)).into());
}

#[test]
fn a_save_goes_as_far_back_as_is_wanted() {
    if !can_record() {
        return;
    }
    let machine = Machine::boot();
    let node = machine.netns();
    let flows = flows(&node, &machine);
    let _sniff = record_unwritten(&node);
    send(&flows, 0..100);
    let last = wait::patience(Duration::from_secs(3));
    thread::sleep(last);
    send(&flows, 100..200);
    let (file, counts) = save(&node, &["--last", &format!("{}s", last.as_secs())]);
    assert_eq!((counts.captured, counts.received), (200, 400));
    assert!(file.packets.iter().map(number).all(|(_, number)| number >= 100));
    let comment = file.statistics[0].comment.as_deref().unwrap_or_default();
    assert!(comment.starts_with("200 packets older than what was asked for"), "{comment}");
    let (file, counts) = save(&node, &["--last", "1h"]);
    assert_eq!((counts.captured, file.packets.len()), (400, 400));
    let comment = file.section.comment.as_deref().unwrap_or_default();
    assert!(comment.contains(" since the recording began up to "), "{comment}");
    // More than there is room for: what is held is less than what was wanted.
    send(&flows, 200..2 * SENT);
    let seconds = format!("{}s", last.as_secs());
    let outcome = Sniff::in_netns(&node).args(["save", "-w", Capture::new().arg(), "--last", &seconds]).run();
    assert!(outcome.success().received > outcome.success().captured);
    assert!(outcome.stderr.iter().any(|line| line.contains("is not held any more")), "{outcome:#?}");
}

#[test]
fn a_save_that_fails_leaves_the_recording_as_it_was() {
    if !can_record() {
        return;
    }
    let machine = Machine::boot();
    let node = machine.netns();
    let asked = |args: &[&str]| Sniff::in_netns(&node).args(["save"]).args(args.iter().copied());
    let refusal = |args: &[&str]| asked(args).run().refusal(1).to_owned();
    let folder = tempfile::tempdir().expect("a folder");
    let [file, missing] = ["file.pcapng", "missing/file.pcapng"].map(|name| folder.path().join(name));
    let [file, missing] = [&file, &missing].map(|path| path.to_str().expect("a name"));
    let none = refusal(&["-w", file]);
    assert!(none.contains("no recorder runs here"), "{none}");

    let flows = flows(&node, &machine);
    let sniff = record_unwritten(&node);
    send(&flows, 0..SENT / 10);
    let full = refusal(&["-w", "/dev/full"]);
    assert!(full.contains("cannot write /dev/full: No space left on device"), "{full}");
    let missing = refusal(&["-w", missing]);
    assert!(missing.contains("No such file or directory"), "{missing}");
    let another = record_unwritten(&node);
    let which = asked(&["-w", file]).run();
    assert_eq!(which.status.code(), Some(1), "{which:#?}");
    assert!(which.stderr[0].contains("2 recorders run here: say which one is meant"), "{which:#?}");
    let choices =
        which.stderr.iter().filter(|line| line.contains("--recorder ") && line.contains(": netns:blue/eth0"));
    assert_eq!(choices.count(), 2, "{which:#?}");
    assert!(!Path::new(file).exists());
    let none = refusal(&["-w", file, "--recorder", "1"]);
    assert!(none.contains("1 is no recorder here"), "{none}");
    // As they are numbered where they run.
    let pid_of = |line: &String| Some(line.split_once("--recorder ")?.1.split_once(':')?.0.to_owned());
    let each = which.stderr.iter().filter_map(pid_of);
    let mut each: Vec<_> = each.map(|pid| asked(&["-w", file, "--recorder", &pid]).run().success()).collect();
    each.sort_by_key(|counts| counts.captured);
    let [none, counts] = each.as_slice() else { panic!("not two: {which:#?}") };
    let sent = 2 * u64::from(SENT / 10);
    assert_eq!((none.received, counts.captured, counts.received), (0, sent, sent));
    drop(another);
    let (compressed, classic) = (folder.path().join("file.pcapng.zst"), folder.path().join("file.pcap"));
    for path in [&compressed, &classic] {
        assert_eq!(&asked(&["-w", path.to_str().expect("a name")]).run().success(), counts);
    }
    assert_eq!(pcap::read_pcap(&classic).len() as u64, counts.captured);
    let [compressed, classic] = [compressed, classic].map(|path| fs::metadata(path).expect("a file").len());
    assert!(compressed < classic / 2, "{compressed} of {classic} bytes");
    let piped = asked(&["-w", "-"]).run();
    assert_eq!(&piped.success(), counts);
    assert_eq!(pcap::parse_pcapng(&piped.stdout).packets.len() as u64, counts.captured);
    sniff.stop().success();
}

#[test]
fn strangers_are_told_nothing_and_hold_up_nobody() {
    if !can_record() {
        return;
    }
    let machine = Machine::boot();
    let node = machine.netns();
    machine.fake_pod("blue", 1);
    let _sniff = record_unwritten(&node);
    let sockets = node.enter(|| fs::read_to_string("/proc/thread-self/net/unix")).expect("the sockets");
    let name =
        sockets.split_whitespace().find_map(|word| word.strip_prefix('@')).expect("a recorder's socket");
    assert!(name.starts_with("sniff-recorder-"), "{name}");
    let recorder = SocketAddr::from_abstract_name(name).expect("a name");
    let told = node.enter(|| {
        become_nobody();
        let mut stream = UnixStream::connect_addr(&recorder).expect("anybody can connect");
        let mut told = Vec::new();
        stream.read_to_end(&mut told).expect("an end");
        told
    });
    assert!(told.is_empty(), "{told:?}");

    // Two of a stranger's that are called like recorders: one has no room for anybody.
    let (listeners, _waiting) = node.enter(|| {
        become_nobody();
        let listeners = ["sniff-recorder-1-1", "sniff-recorder-1-2"].map(|name| {
            let address = SocketAddr::from_abstract_name(name).expect("a name");
            (UnixListener::bind_addr(&address).expect("anybody can listen"), address)
        });
        let (full, address) = &listeners[0];
        listen(full, Backlog::new(0).expect("a backlog")).expect("less room");
        let waiting = UnixStream::connect_addr(address).expect("the only one");
        (listeners, waiting)
    });
    assert_eq!(save(&node, &[]).1.captured, 0);
    drop(listeners);
}

#[test]
fn recording_is_refused_with_words_where_it_cannot_be() {
    let (machine, capture) = (Machine::boot(), Capture::new());
    let node = machine.netns();
    machine.fake_pod("blue", 1);
    let run = |memory: &str| {
        let args = ["--netns", "blue", "--duration", "100ms", "--record", memory, "-w", capture.arg()];
        Sniff::in_netns(&node).args(args).run()
    };
    let outcome = run("512KiB");
    let refusal = outcome.refusal(1);
    if can_record() {
        assert!(refusal.contains("--record takes ") && refusal.contains(" at least"), "{refusal}");
        run(MEMORY).success();
    } else {
        assert!(refusal.contains("no --record on this kernel: "), "{refusal}");
    }
}

/// Makes this thread alone, and what it opens, another user's.
fn become_nobody() {
    set_thread_uid(Uid::from_raw(65534)).expect("becoming nobody, which takes root");
}

/// Whether this kernel has what that takes, which the test above checks.
fn can_record() -> bool {
    kernel::rings().contains(&"regions")
}

/// Has the recorder of this namespace write a file.
fn save(node: &Netns, args: &[&str]) -> (PcapNg, Counts) {
    let capture = Capture::new();
    let outcome = Sniff::in_netns(node).args(["save", "-w", capture.arg()]).args(args.iter().copied()).run();
    let (counts, file) = (outcome.success(), capture.read());
    assert_eq!(counts.captured, file.packets.len() as u64);
    let count = |what: &str| {
        let mut counts =
            outcome.stderr.iter().filter_map(|line| line.strip_suffix(what)?.parse::<u64>().ok());
        counts.next().unwrap_or_default()
    };
    let others = count(" packets too old to be held") + count(" packets older than what was asked for");
    assert_eq!(counts.received, counts.captured + counts.dropped + others, "{outcome:#?}");
    (file, counts)
}

fn flows(node: &Netns, machine: &Machine) -> [UdpFlow; 2] {
    let pod = machine.fake_pod("blue", 1);
    sniff_tests::traffic::ping(node, pod.ipv4.into(), 1, 56);
    PORTS.map(|port| UdpFlow::open(node, &pod.netns, net::SocketAddr::new(pod.ipv4.into(), port)))
}

fn record(node: &Netns, capture: &Capture) -> Running {
    start(node, &["-w", capture.arg()])
}

/// Records what only a save writes.
fn record_unwritten(node: &Netns) -> Running {
    start(node, &[])
}

fn start(node: &Netns, args: &[&str]) -> Running {
    let all = ["--netns", "blue", "--record", MEMORY].into_iter().chain(args.iter().copied()).chain([FILTER]);
    let mut sniff = Sniff::in_netns(node).args(all).start();
    sniff.wait_for_line("recording in memory");
    sniff
}

/// Sends the datagrams of these numbers.
fn send(flows: &[UdpFlow; 2], numbers: Range<u32>) {
    super::send(flows, &numbers, payload);
}

/// A datagram that begins with its number.
fn payload(_: usize, number: u32) -> Vec<u8> {
    let mut payload = vec![0x5a; SIZE];
    payload[..4].copy_from_slice(&number.to_be_bytes());
    payload
}

/// The port and the number of a datagram.
fn number(packet: &Packet) -> (u16, u32) {
    let port = u16::from_be_bytes(*packet.data[HEADERS - 6..].first_chunk().expect("a port"));
    (port, u32::from_be_bytes(*packet.data[HEADERS..].first_chunk().expect("a number")))
}

/// Checks that each sender's numbers follow each other; returns the number that would come next.
fn assert_are_unbroken(packets: &[Packet]) -> HashMap<u16, u32> {
    let mut next = HashMap::new();
    for (port, number) in packets.iter().map(number) {
        let expected = next.insert(port, number + 1).unwrap_or(number);
        assert_eq!(number, expected, "{port}: a gap, or one that is there twice");
    }
    next
}
