//! sniff's filters against libpcap's interpreter and the kernel's classic BPF: the same verdict on
//! every packet, whatever its shape.

use std::{
    collections::BTreeSet,
    fmt::Write as _,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    thread,
    time::{Duration, Instant},
};

use fastrand::Rng;
use sniff_tests::{
    bpf::{Counters, Hook, Insn, Kind, Link, Program},
    filter::{
        LinkType,
        corpus::{self, SEED},
        engines::{self, Classic, Kernel, Libpcap, Sniff},
        expressions::{Entry, Expected, table},
        random::{self, Manners},
    },
    frame::Sender,
    machine::{FakePod, Machine},
    netns::Netns,
    tcpdump::Tcpdump,
    wait,
};

/// Mismatches that a failed test shows.
const SHOWN: usize = 20;

/// Random programs of each kind, and packets that each of them judges.
const PROGRAMS: usize = 3000;
const PACKETS_PER_PROGRAM: usize = 40;

/// Of how many packets one is judged by unoptimised programs, too.
const UNOPTIMISED: usize = 4;

/// What sniff says of a filter that no packet can match.
const NO_PACKET: &str = "the filter matches no packet";

/// Where engines disagreed.
#[derive(Debug, Default)]
struct Mismatches(Vec<String>);

impl Mismatches {
    fn add(&mut self, mismatch: String) {
        self.0.push(mismatch);
    }

    #[track_caller]
    fn assert_none(self) {
        let Self(all) = self;
        let shown = all.iter().take(SHOWN).fold(String::new(), |text, one| text + "- " + one + "\n");
        assert!(all.is_empty(), "{} mismatches:\n{shown}", all.len());
    }
}

#[test]
fn the_corpus_is_large_and_has_every_length() {
    for link_type in [LinkType::Ethernet, LinkType::Raw] {
        let packets: BTreeSet<_> = corpus::packets(link_type).into_iter().collect();
        assert!(packets.len() >= 2000, "{link_type:?}: {}", packets.len());
        let lengths: BTreeSet<_> = packets.iter().map(Vec::len).collect();
        assert!((1..=100).all(|length| lengths.contains(&length)));
        assert!(lengths.last() > Some(&9000));
        assert!(packets.iter().all(|packet| engines::can_run(packet)));
    }
    let frames = corpus::packets(LinkType::Ethernet);
    let tagged = frames.iter().filter_map(|frame| engines::take_tag(frame));
    assert!(tagged.count() >= 500);
}

#[test]
fn the_table_is_large() {
    for (link_type, least) in [(LinkType::Ethernet, 500), (LinkType::Raw, 300)] {
        let runs = |entry: &Entry| entry.expected(link_type).runs();
        let texts: BTreeSet<_> = table().into_iter().filter(runs).map(|entry| entry.text).collect();
        assert!(texts.len() >= least, "{link_type:?}: {}", texts.len());
    }
}

#[test]
fn expressions_mean_the_same_to_three_engines_on_ethernet() {
    compare_expressions(LinkType::Ethernet);
}

#[test]
fn expressions_mean_the_same_to_three_engines_on_raw_ip() {
    compare_expressions(LinkType::Raw);
}

/// Judges every packet by every expression, optimised and not, with every engine.
fn compare_expressions(link_type: LinkType) {
    let packets = corpus::packets(link_type);
    let kernel = Kernel::open();
    let mut mismatches = Mismatches::default();
    for entry in table() {
        for optimise in [true, false] {
            let result = compare_expression(entry, link_type, optimise, &packets, &kernel);
            if let Err(mismatch) = result {
                let how = if optimise { "" } else { ", not optimised" };
                mismatches.add(format!("{:?} on {link_type:?}{how}: {mismatch}", entry.text));
            }
        }
    }
    mismatches.assert_none();
}

fn compare_expression(
    entry: Entry,
    link_type: LinkType,
    optimise: bool,
    packets: &[Vec<u8>],
    kernel: &Kernel,
) -> Result<(), String> {
    let expected = entry.expected(link_type);
    let program = engines::compile(link_type, entry.text, optimise);
    let fragment = engines::fragment(link_type, entry.text, optimise);
    let (program, fragment) = match (program, fragment) {
        (Ok(program), Ok(fragment)) => (program, fragment),
        (Err(words), Err(ours)) if ours.contains(&words) => {
            // What rejects all packets is refused by libpcap's optimiser.
            let fits = expected == Expected::Refused;
            return if fits { Ok(()) } else { Err(format!("refused: {words}")) };
        }
        (Ok(program), Err(ours)) if expected == Expected::NotForKernel => {
            let refused = kernel.attach(&program).is_err();
            return if refused { Ok(()) } else { Err(format!("the kernel does not refuse it: {ours}")) };
        }
        (Ok(program), Err(ours)) if ours.contains(NO_PACKET) => {
            let matches = |packet: &Vec<u8>| Libpcap(&program).matches(packet);
            return match packets.iter().find(|packet| matches(packet)) {
                None => Ok(()),
                Some(packet) => Err(format!("{ours}, but libpcap's matches {}", hex(packet))),
            };
        }
        (theirs, ours) => {
            return Err(format!(
                "libpcap says {:?} and sniff {:?}",
                theirs.map(|program| program.len()),
                ours.map(|fragment| fragment.len())
            ));
        }
    };
    if expected == Expected::MetaData {
        // What they mean has a test of its own.
        return Sniff::load(&fragment).map(|_| ());
    }
    if optimise && !expected.runs() {
        return Err("not refused".to_owned());
    }
    let disputed = expected == Expected::Disputed;
    let judges = Judges::new(kernel, &program, &fragment, disputed)?;
    if !optimise {
        return judges.compare(packets.iter().step_by(UNOPTIMISED)).map(|_| ());
    }
    let count = judges.compare(packets)?;
    let fits = match expected {
        Expected::All => count == packets.len(),
        Expected::None => count == 0,
        Expected::Disputed => true,
        _ => (1..packets.len()).contains(&count),
    };
    if !fits {
        return Err(format!("matches {count} of {}", packets.len()));
    }
    // A dispute that has gone, or is not seen, is not one.
    let differs = |packet: &Vec<u8>| kernel.matches(packet) != Libpcap(&program).matches(packet);
    if disputed && !packets.iter().any(differs) {
        return Err("not disputed".to_owned());
    }
    Ok(())
}

/// The three engines, about to judge by the same filter.
struct Judges<'a> {
    libpcap: Libpcap<'a>,
    /// Left out where it differs from libpcap by design.
    kernel: Option<&'a Kernel>,
    sniff: Sniff,
}

impl<'a> Judges<'a> {
    fn new(
        kernel: &'a Kernel,
        program: &'a [Classic],
        fragment: &[Insn],
        disputed: bool,
    ) -> Result<Self, String> {
        kernel
            .attach(program)
            .map_err(|error| format!("the kernel does not take libpcap's program: {error}"))?;
        let sniff = Sniff::load(fragment)
            .map_err(|error| format!("the kernel does not take sniff's program: {error}"))?;
        Ok(Self { libpcap: Libpcap(program), kernel: (!disputed).then_some(kernel), sniff })
    }

    /// Compares the verdicts on all packets and returns how many match.
    fn compare<'p>(&self, packets: impl IntoIterator<Item = &'p Vec<u8>>) -> Result<usize, String> {
        let mut count = 0;
        for packet in packets {
            let verdicts = self.verdicts(packet);
            if !verdicts.agree() {
                let packet = reduce(packet, |packet| !self.verdicts(packet).agree());
                let verdicts = self.verdicts(&packet);
                return Err(format!("{verdicts:?} on {}", hex(&packet)));
            }
            count += usize::from(verdicts.libpcap);
        }
        Ok(count)
    }

    fn verdicts(&self, packet: &[u8]) -> Verdicts {
        Verdicts {
            libpcap: self.libpcap.matches(packet),
            kernel: self.kernel.map(|kernel| kernel.matches(packet)),
            sniff: self.sniff.matches(packet),
            sniff_untagged: self.sniff.matches_untagged(packet),
        }
    }
}

/// What the engines say of a packet; those that were asked.
#[derive(Clone, Copy, Debug)]
struct Verdicts {
    libpcap: bool,
    kernel: Option<bool>,
    sniff: Option<bool>,
    /// sniff again, with the packet's VLAN tag in its meta-data.
    sniff_untagged: Option<bool>,
}

impl Verdicts {
    fn agree(self) -> bool {
        let Self { libpcap, kernel, sniff, sniff_untagged } = self;
        let others = [kernel, sniff, sniff_untagged];
        others.into_iter().flatten().all(|verdict| verdict == libpcap)
    }
}

#[test]
fn a_difference_is_found() {
    let packets = corpus::packets(LinkType::Ethernet);
    let kernel = Kernel::open();
    for (theirs, ours) in [
        ("tcp port 443", "udp port 443"),
        ("vlan 5", "vlan 7"),
        ("len > 100", "len > 101"),
        ("len >= 15000", "len >= 15001"),
        ("ip6[7] = 255", "ip6[7] = 254"),
        ("ether[13] = 0", "ether[13] = 0 and len != 14"),
    ] {
        let program = engines::compile(LinkType::Ethernet, theirs, true).expect("a program");
        let fragment = engines::fragment(LinkType::Ethernet, ours, true).expect("a fragment");
        let judges = Judges::new(&kernel, &program, &fragment, false).expect("valid programs");
        let found = judges.compare(&packets).expect_err(ours);
        assert!(found.contains("sniff"), "{found}");
    }
}

#[test]
fn direction_and_interface_are_those_of_the_hook() {
    // A test run's packets come from interface 1, lo.
    for (text, outgoing, expected) in [
        ("inbound", false, true),
        ("inbound", true, false),
        ("outbound", false, false),
        ("outbound", true, true),
        ("not inbound and len > 0", true, true),
        ("ifindex 1", false, true),
        ("ifindex 2", false, false),
    ] {
        for link_type in [LinkType::Ethernet, LinkType::Raw] {
            let surroundings = engines::Surroundings { link_type, outgoing };
            let fragment = engines::fragment_at(surroundings, text, true).expect(text);
            let sniff = Sniff::load(&fragment).expect(text);
            for packet in corpus::packets(link_type).iter().step_by(50) {
                let verdicts = [sniff.matches(packet), sniff.matches_untagged(packet)];
                let verdicts: Vec<_> = verdicts.into_iter().flatten().collect();
                assert!(!verdicts.is_empty());
                assert!(
                    verdicts.iter().all(|verdict| *verdict == expected),
                    "{text}, outgoing: {outgoing}, {link_type:?}: {verdicts:?} on {}",
                    hex(packet)
                );
            }
        }
    }
}

#[test]
fn random_programs_mean_the_same_to_all_three_engines() {
    compare_random_programs(Manners::Tame);
}

#[test]
fn random_programs_mean_the_same_to_libpcap_where_it_and_the_kernel_differ() {
    compare_random_programs(Manners::Wild);
}

fn compare_random_programs(manners: Manners) {
    println!("seed {SEED:#x}");
    let mut rng = Rng::with_seed(SEED);
    let packets = corpus::packets(LinkType::Ethernet);
    let is_tagged = |frame: &&Vec<u8>| engines::take_tag(frame).is_some();
    let tagged: Vec<_> = packets.iter().filter(is_tagged).cloned().collect();
    let kernel = Kernel::open();
    let mut mismatches = Mismatches::default();
    let (mut matched, mut rejected) = (0, 0);
    for _ in 0..PROGRAMS {
        let program = random::program(&mut rng, manners);
        let sample: Vec<_> = (0..PACKETS_PER_PROGRAM)
            .map(|_| {
                let packets = if rng.bool() { &packets } else { &tagged };
                packets[rng.usize(..packets.len())].clone()
            })
            .collect();
        let result = match engines::fragment_of(&program) {
            Err(error) if error == NO_PACKET => {
                let matches = |packet: &&Vec<u8>| Libpcap(&program).matches(packet);
                Ok(sample.iter().filter(matches).count())
                    .and_then(|count| if count == 0 { Ok(0) } else { Err(error) })
            }
            fragment => fragment
                .and_then(|fragment| Judges::new(&kernel, &program, &fragment, manners == Manners::Wild))
                .and_then(|judges| judges.compare(&sample)),
        };
        match result {
            Ok(count) => {
                matched += count;
                rejected += sample.len() - count;
            }
            Err(error) => mismatches.add(format!("{error}\n{}", listing(&program))),
        }
    }
    mismatches.assert_none();
    // Programs that nearly all say the same would show nothing.
    let tenth = PROGRAMS * PACKETS_PER_PROGRAM / 10;
    assert!(matched > tenth && rejected > tenth, "{matched} and {rejected}");
}

#[test]
fn packets_that_are_not_linear_are_judged_alike_at_both_ends_of_a_veth() {
    let wire = Wire::new();
    let frames = corpus::long_frames();
    let kernel = Kernel::open();
    let mut mismatches = Mismatches::default();
    let runs = |entry: &Entry| entry.expected(LinkType::Ethernet).runs();
    for entry in table().into_iter().filter(runs) {
        let program = engines::compile(LinkType::Ethernet, entry.text, true);
        let program = program.expect("the table says that it compiles");
        let disputed = entry.expected(LinkType::Ethernet) == Expected::Disputed;
        kernel.attach(&program).expect("the kernel takes it");
        let result = engines::fragment(LinkType::Ethernet, entry.text, true).and_then(|fragment| {
            wire.compare(&program, &fragment, frames.iter().enumerate(), |frame| {
                (!disputed).then(|| kernel.matches(frame))
            })
        });
        if let Err(mismatch) = result {
            mismatches.add(format!("{:?}: {mismatch}", entry.text));
        }
    }
    mismatches.assert_none();
}

#[test]
fn random_programs_judge_packets_that_are_not_linear_as_libpcap_does() {
    println!("seed {SEED:#x}");
    let mut rng = Rng::with_seed(SEED);
    let wire = Wire::new();
    let frames = corpus::long_frames();
    let mut mismatches = Mismatches::default();
    for _ in 0..PROGRAMS {
        let program = random::program(&mut rng, Manners::Wild);
        let sample: Vec<_> =
            (0..PACKETS_PER_PROGRAM).map(|number| (number, &frames[rng.usize(..frames.len())])).collect();
        let result = match engines::fragment_of(&program) {
            // That no packet does match is shown by the other tests.
            Err(error) if error == NO_PACKET => Ok(()),
            fragment => fragment.and_then(|fragment| wire.compare(&program, &fragment, sample, |_| None)),
        };
        if let Err(mismatch) = result {
            mismatches.add(format!("{mismatch}\n{}", listing(&program)));
        }
    }
    mismatches.assert_none();
}

/// A pod's veth pair with a classifier at both ends. Where a packet leaves, its VLAN tag is in its
/// bytes; where it arrives, the kernel has taken the tag out.
struct Wire {
    /// Keeps the pair alive.
    _machine: Machine,
    sender: Sender,
    links: [Link; 2],
    counted: [Counted; 2],
}

impl Wire {
    /// How much of each packet in turn is in its first buffer.
    const LINEAR: [usize; 11] = [14, 15, 16, 23, 26, 34, 37, 54, 66, 200, 4150];

    fn new() -> Self {
        let machine = Machine::boot();
        let (node, pod) = (machine.netns(), machine.fake_pod("blue", 1));
        // The pair carries frames of any length, and nothing but what the test sends.
        for (netns, link) in [(&node, &pod.veth.name), (&pod.netns, &pod.eth0.name)] {
            netns.sysctl(&format!("net/ipv6/conf/{link}/disable_ipv6"), "1");
            netns.sysctl(&format!("net/ipv4/conf/{link}/arp_ignore"), "8");
            netns.run(&format!("ip link set {link} mtu 65535"));
        }
        let idle = Counted::new().program(&[]);
        Self {
            sender: Sender::open(&pod.netns, pod.eth0.index),
            links: [
                idle.attach(&pod.netns, pod.eth0.index, Hook::Egress),
                idle.attach(&node, pod.veth.index, Hook::Ingress),
            ],
            counted: [Counted::new(), Counted::new()],
            _machine: machine,
        }
    }

    /// Sends numbered frames and compares the verdicts on them, also with that of `third`, if it
    /// has one.
    fn compare<'f>(
        &self,
        program: &[Classic],
        fragment: &[Insn],
        frames: impl IntoIterator<Item = (usize, &'f Vec<u8>)>,
        third: impl Fn(&[u8]) -> Option<bool>,
    ) -> Result<(), String> {
        for (link, counted) in self.links.iter().zip(&self.counted) {
            link.replace(&counted.program(fragment));
        }
        for (number, frame) in frames {
            let linear = Self::LINEAR[number % Self::LINEAR.len()];
            let libpcap = Libpcap(program).matches(frame);
            let third = third(frame).unwrap_or(libpcap);
            let verdicts = self.verdicts(frame, linear);
            if [third, verdicts[0], verdicts[1]] != [libpcap; 3] {
                return Err(format!(
                    "libpcap {libpcap}, kernel {third}, sniff {verdicts:?} on {} bytes, {linear} \
                     of them linear, {}",
                    frame.len(),
                    hex(&frame[..100])
                ));
            }
        }
        Ok(())
    }

    /// The verdicts of both ends.
    fn verdicts(&self, frame: &[u8], linear: usize) -> [bool; 2] {
        let before = self.counted.each_ref().map(Counted::read);
        self.sender.send(frame, linear);
        [0, 1].map(|end| self.counted[end].verdict_since(before[end]))
    }
}

#[test]
fn segments_that_await_segmentation_are_judged_as_tcpdump_shows_them() {
    const EXPRESSIONS: [&str; 13] = [
        "tcp port 7777",
        "tcp dst port 7777 and greater 20000",
        "tcp port 7777 and len > 40000",
        "tcp port 7777 and less 100",
        "tcp dst port 7777 and ip[2:2] > 30000",
        "tcp dst port 7777 and ether[5000] = 0x5a",
        "tcp dst port 7777 and ether[20001:2] = 0x5a5a",
        "tcp dst port 7777 and ether[len - 4:4] = 0x5a5a5a5a",
        "tcp dst port 7777 and tcp[((tcp[12] & 0xf0) >> 2) + 1000:4] = 0x5a5a5a5a",
        "tcp port 7777 and tcp[tcpflags] & tcp-push != 0",
        "tcp port 7777 and tcp[tcpflags] & (tcp-syn|tcp-fin) != 0",
        "tcp port 7777 and ip[2:2] = len - 14",
        "tcp port 7777 and not greater 1514",
    ];
    let machine = Machine::boot();
    let (node, pod) = (machine.netns(), machine.fake_pod("blue", 1));
    let programs = EXPRESSIONS.map(|text| {
        let fragment = engines::fragment(LinkType::Ethernet, text, true);
        let counted = Counted::new();
        let program = counted.program(&fragment.expect("a fragment"));
        (counted, program.attach(&node, pod.veth.index, Hook::Ingress))
    });
    let tcpdump = Tcpdump::start(&node, &pod.veth.name, &["-Q", "in", "tcp", "port", "7777"]);
    send_over_tcp(&node, &pod, 3_000_000);
    // The last acknowledgement may be delayed: tcpdump and the classifiers must both have it.
    settle(&programs[0].0);
    let packets = tcpdump.stop();
    let longest = packets.iter().map(|packet| packet.original_len).max();
    assert!(longest > Some(40_000), "no segmentation offload: {longest:?}");
    let mut mismatches = Mismatches::default();
    for (text, (counted, _)) in EXPRESSIONS.iter().zip(&programs) {
        let program = engines::compile(LinkType::Ethernet, text, true).expect("a program");
        let matches = packets.iter().filter(|packet| Libpcap(&program).matches(&packet.data));
        let (expected, [_, found]) = (matches.count() as u64, counted.read());
        assert!(expected > 0, "{text:?} matches nothing");
        if found != expected {
            mismatches.add(format!("{text:?}: sniff {found}, libpcap {expected}"));
        }
    }
    mismatches.assert_none();
}

/// Waits until no packet came by for a while.
fn settle(counted: &Counted) {
    let quiet = Duration::from_millis(500);
    let mut last = (counted.read(), Instant::now());
    wait::until("silence", Duration::from_secs(10), || {
        let now = counted.read();
        if now != last.0 {
            last = (now, Instant::now());
        }
        (last.1.elapsed() > quiet).then_some(())
    });
}

/// Sends bytes of 0x5a from the pod to its node's port 7777, in large writes, until they are read.
fn send_over_tcp(node: &Netns, pod: &FakePod, bytes: usize) {
    let address = SocketAddr::new(pod.gateway4.into(), 7777);
    let listener = node.enter(|| TcpListener::bind(address)).expect("a listener");
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut stream = pod.netns.enter(|| TcpStream::connect(address)).expect("a connection");
            stream.write_all(&vec![0x5a; bytes]).expect("sending");
        });
        let (mut stream, _) = listener.accept().expect("the connection");
        let mut received = Vec::new();
        stream.read_to_end(&mut received).expect("receiving");
        assert_eq!(received.len(), bytes);
    });
}

/// A classifier that counts the packets that it sees, and those that match.
struct Counted(Counters);

impl Counted {
    const SEEN: u8 = 0;
    const MATCHED: u8 = 1;

    fn new() -> Self {
        Self(Counters::new())
    }

    fn program(&self, fragment: &[Insn]) -> Program {
        let next = [Insn::new(0xb7, 0, 0, -1), Insn::new(0x95, 0, 0, 0)]; // return TCX_NEXT
        let counting = [&self.0.add_one(Self::SEEN), fragment, &self.0.add_one(Self::MATCHED), &next];
        Program::load(Kind::Classifier, &counting.concat()).expect("a valid program")
    }

    fn read(&self) -> [u64; 2] {
        self.0.read()
    }

    /// The verdict on the one packet since then, once it has come by.
    fn verdict_since(&self, [seen, matched]: [u64; 2]) -> bool {
        wait::until("one packet", Duration::from_secs(5), || {
            let [now_seen, now_matched] = self.read();
            assert!(now_seen <= seen + 1, "a packet that was not sent");
            (now_seen == seen + 1).then_some(now_matched > matched)
        })
    }
}

/// The shortest and plainest packet that `shows` what `packet` shows.
fn reduce(packet: &[u8], shows: impl Fn(&[u8]) -> bool) -> Vec<u8> {
    let mut packet = packet.to_vec();
    while packet.len() > 1 && shows(&packet[..packet.len() - 1]) {
        packet.pop();
    }
    for place in 0..packet.len() {
        let byte = std::mem::take(&mut packet[place]);
        if !shows(&packet) {
            packet[place] = byte;
        }
    }
    packet
}

fn hex(packet: &[u8]) -> String {
    packet.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").expect("writing to a string");
        text
    })
}

/// A program as `tcpdump -ddd` shows it.
fn listing(program: &[Classic]) -> String {
    program.iter().fold(String::new(), |mut text, Classic { code, jt, jf, k }| {
        writeln!(text, "  {code:#04x} {jt} {jf} {k:#x}").expect("writing to a string");
        text
    })
}
