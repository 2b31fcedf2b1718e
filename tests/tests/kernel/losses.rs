//! Where packets are missing, the file says how many: at the first packet behind the gap, whatever CPU and whichever way
//! the packets around it came.

use std::{collections::HashSet, iter, net::SocketAddr, ops::Range, thread};

use sniff_tests::{
    cpu, kernel,
    machine::{FakePod, Machine},
    netns::Netns,
    pcap::{self, PcapNg},
    sniff::{Counts, Sniff, read_aside},
    traffic::UdpFlow,
};

/// The port that all counted datagrams go to.
const PORT: u16 = 7003;
const FILTER: &str = "udp and dst port 7003";
/// Bytes of an Ethernet, an IPv4 and a UDP header.
const HEADERS: usize = 14 + 20 + 8;
/// Datagrams that one CPU sends one way before the next comes.
const BURST: u32 = 20;

#[test]
fn the_first_packet_behind_a_gap_tells_how_many_are_missing() {
    const UNREAD: Range<u32> = 0..2000;
    const READ: Range<u32> = UNREAD.end..5000;
    for ring in kernel::rings() {
        for order in [&["--ring", ring][..], &["--ring", ring, "--unsorted"]] {
            let (file, counts) = capture(order, |sender, start_to_read| {
                sender.send(UNREAD);
                start_to_read();
                sender.send(READ);
            });
            let numbers: Vec<u32> = numbers(&file).collect();
            let (mut told, mut gaps, mut missing, mut next) = (0, 0, 0, 0);
            let there: HashSet<u32> = numbers.iter().copied().collect();
            for (packet, &number) in file.packets.iter().zip(&numbers) {
                let dropcount = packet.dropcount.unwrap_or_default();
                told += dropcount;
                gaps += u32::from(dropcount > 0);
                missing += (next..number).filter(|number| !there.contains(number)).count() as u64;
                next = next.max(number + 1);
                assert_eq!(told, missing, "{order:?}: at {number}");
            }
            assert!(gaps > 0, "{order:?}: made to have packets behind gaps, and has none");
            assert_all_are_told(&file, counts, READ.end);
        }
    }
}

#[test]
fn what_is_lost_behind_the_last_packet_is_told_in_the_statistics() {
    const SENT: u32 = 3000;
    for ring in kernel::rings() {
        let (file, counts) = capture(&["--ring", ring], |sender, _| sender.send(0..SENT));
        let behind = u64::from(SENT - 1 - numbers(&file).last().expect("packets"));
        assert!(behind > 0, "{ring}: made to lose the last packets, and has not");
        let told: u64 = file.packets.iter().filter_map(|packet| packet.dropcount).sum();
        assert_eq!(told, counts.dropped - behind, "{ring}");
        assert_all_are_told(&file, counts, SENT);
    }
}

#[test]
fn a_person_is_warned_once_while_the_output_stands_still() {
    for ring in kernel::rings() {
        let machine = Machine::boot();
        let node = machine.netns();
        let sender = Sender::new(&node, &machine.fake_pod("blue", 1));
        let args = ["--netns", "blue", "-B", "4MiB", "--ring", ring, "-w", "-", FILTER];
        let (mut sniff, stdout) = Sniff::in_netns(&node).args(args).start_unread();
        // More than the buffer, and what the output takes before it is stuck.
        sender.send(0..6000);
        sniff.wait_for_line(" % full: packets come faster than they are taken");
        let line = sniff.wait_for_line("packets are being lost, ");
        assert!(line.contains(" so far: the buffer is full"), "{line}");
        sender.send(6000..6100);
        let reader = read_aside(stdout);
        let outcome = sniff.stop();
        assert!(outcome.success().dropped > 100, "{ring}: {outcome:#?}");
        let warnings = outcome.stderr.iter().filter(|line| line.contains("packets are being lost"));
        assert_eq!(warnings.count(), 1, "{ring}: {outcome:#?}");
        reader.join().expect("the reader");
    }
}

/// Sends numbered datagrams one after the other: a few from one CPU into the pod, a few from the next one out of it.
struct Sender {
    flows: [UdpFlow; 2],
}

impl Sender {
    fn new(node: &Netns, pod: &FakePod) -> Self {
        let into = SocketAddr::new(pod.ipv4.into(), PORT);
        let out = SocketAddr::new(pod.gateway4.into(), PORT);
        Self { flows: [UdpFlow::open(node, &pod.netns, into), UdpFlow::open(&pod.netns, node, out)] }
    }

    fn send(&self, numbers: Range<u32>) {
        let cpus = cpu::allowed();
        let places =
            iter::repeat_with(|| cpus.iter().flat_map(|&cpu| self.flows.iter().map(move |flow| (cpu, flow))));
        thread::scope(|scope| {
            scope.spawn(|| {
                for (start, (cpu, flow)) in numbers.clone().step_by(BURST as usize).zip(places.flatten()) {
                    cpu::stay_on(cpu);
                    for number in start..numbers.end.min(start + BURST) {
                        flow.deliver(&[&number.to_be_bytes()[..], &[0x5a; 996]].concat());
                    }
                }
            });
        });
    }
}

/// Captures into a pipe that is read once `work` says so, or else at the end.
fn capture(args: &[&str], work: impl FnOnce(&Sender, &mut dyn FnMut())) -> (PcapNg, Counts) {
    let machine = Machine::boot();
    let node = machine.netns();
    let sender = Sender::new(&node, &machine.fake_pod("blue", 1));
    let args = [&["--netns", "blue", "-B", "512KiB", "-w", "-", FILTER], args].concat();
    let (sniff, stdout) = Sniff::in_netns(&node).args(args).start_unread();
    let (mut stdout, mut reader) = (Some(stdout), None);
    let mut start_to_read = || reader = reader.take().or_else(|| stdout.take().map(read_aside));
    work(&sender, &mut start_to_read);
    start_to_read();
    let counts = sniff.stop().success();
    (pcap::parse_pcapng(&reader.expect("a reader").join().expect("the reader")), counts)
}

/// The numbers of the datagrams, in the order of the file.
fn numbers(file: &PcapNg) -> impl Iterator<Item = u32> {
    file.packets.iter().map(|packet| {
        let number = packet.data[HEADERS..].first_chunk().expect("a number");
        u32::from_be_bytes(*number)
    })
}

/// Checks that the packets, and the statistics for those behind the last one, tell of as many as were dropped.
fn assert_all_are_told(file: &PcapNg, counts: Counts, sent: u32) {
    assert_eq!((counts.received, counts.captured + counts.dropped), (sent.into(), sent.into()));
    let [statistics] = file.statistics.as_slice() else { panic!("not one: {file:?}") };
    assert_eq!(statistics.osdrop, Some(counts.dropped));
    let told: u64 = file.packets.iter().filter_map(|packet| packet.dropcount).sum();
    let behind = counts.dropped - told;
    let comment = format!("{behind} of the dropped packets were lost behind the last packet in this file");
    let comments = statistics.comment.as_deref().unwrap_or_default();
    assert_eq!(comments.contains(&comment), behind > 0, "{behind} untold: {comments}");
}
