//! What was recorded, from nodes that say what a test has written for them, of pods that nobody else knows any more.

use std::{
    fs, io,
    net::TcpStream,
    path::PathBuf,
    process::{Child, Command},
    thread,
    time::Duration,
};

use nix::sys::signal::Signal;
use sniff_apiserver::{ApiServer, Container, Node};
use sniff_common::{MAX_SNAPLEN, epb};
use sniff_pcapng::{InterfaceDescription, InterfaceStatistics, LinkType, SectionHeader};
use sniff_protocol::{
    Decoder, MAX_PAYLOAD, PREFACE, ToClient, ToNode, encode,
    message::{
        Awaited, AwaitedBy, ClientHello, End, Event, Level, NodeHello, Past, Reason, Recorder, RecorderState,
        Recording, Recordings, TargetId,
    },
};
use sniff_tests::{
    client::{Client, Outcome},
    machine::Machine,
    netns::{Netns, tool},
    wait, wireshark,
};
use tempfile::TempDir;

use super::names;

const PATIENCE: Duration = Duration::from_secs(20);
/// 2023-11-14T22:13:20Z, in nanoseconds since the epoch.
const THEN: u64 = 1_700_000_000_000_000_000;

/// Says what is next in the folder `$0`, notes what it hears, and has a last word once that is there.
const TELL: &str = r#"
for next in "$0"/says.*; do number="${next##*.}"; mv "$next" "$0/said.$number" || exit 1; break; done
cat "$0/said.$number" && touch "$0/has-said"
exec 3<&0
cat <&3 > "$0/heard.$number" &
until [ -e "$0/last" ]; do kill -0 $! 2> /dev/null || exit 0; sleep 0.05; done
cat "$0/last"
wait
"#;

#[derive(Debug)]
struct Teller {
    netns: Netns,
    folder: TempDir,
}

impl Node for Teller {
    fn command(&self, _: &[&str], _: &Container<'_>) -> Option<Command> {
        let mut command = tool("sh");
        command.args(["-c", TELL]).arg(self.folder.path());
        Some(command)
    }

    fn spawn(&self, command: &mut Command) -> Child {
        self.netns.spawn(command)
    }

    fn connect(&self, port: u16) -> io::Result<TcpStream> {
        self.netns.connect(port)
    }
}

/// A cluster whose nodes are `n1`, `n2` and so on; each says in its sessions, one after the other, what is given.
struct Place {
    cluster: ApiServer,
    folders: Vec<PathBuf>,
    _machine: Machine,
}

impl Place {
    fn new(nodes: &[&[Vec<ToClient>]]) -> Self {
        let machine = Machine::boot();
        let cluster = ApiServer::without_nodes();
        let mut folders = Vec::new();
        for (number, sessions) in (1..).zip(nodes) {
            let (name, folder) = (format!("n{number}"), tempfile::tempdir().expect("a folder"));
            for (number, session) in sessions.iter().enumerate() {
                let said = [PREFACE.to_vec(), frames(session)].concat();
                fs::write(folder.path().join(format!("says.{number}")), said).expect("a file");
            }
            folders.push(folder.path().to_owned());
            cluster.add_node(&name, Teller { netns: machine.netns(), folder });
            cluster.add_agent(&name);
        }
        Self { cluster, folders, _machine: machine }
    }

    fn run(&self, args: &[&str]) -> Outcome {
        Client::start(&self.cluster, args).outcome()
    }

    /// The last word of a node, by its place.
    fn have_last(&self, node: usize, messages: &[ToClient]) {
        let folder = &self.folders[node];
        fs::write(folder.join("last.new"), frames(messages)).expect("a file");
        fs::rename(folder.join("last.new"), folder.join("last")).expect("a file");
    }

    /// What a node has heard in one of its sessions, once `word` was among it.
    fn heard(&self, node: usize, session: usize, word: &ToNode) -> Vec<ToNode> {
        let path = self.folders[node].join(format!("heard.{session}"));
        wait::until(&format!("{word:?} at {}", path.display()), PATIENCE, || {
            let heard = heard(&fs::read(&path).ok()?);
            heard.contains(word).then_some(heard)
        })
    }
}

/// What is whole of it.
fn heard(bytes: &[u8]) -> Vec<ToNode> {
    let mut decoder = Decoder::<ToNode>::new();
    decoder.push(bytes);
    std::iter::from_fn(|| decoder.next().expect("frames")).collect()
}

fn frames(messages: &[ToClient]) -> Vec<u8> {
    let mut bytes = Vec::new();
    messages.iter().for_each(|message| encode(message, &mut bytes).expect("a frame"));
    bytes
}

fn hello(node: &str) -> ToClient {
    ToClient::Hello(NodeHello {
        version: "0.9.0".into(),
        node: node.into(),
        waits_for_goodbye: true,
        knows_the_past: true,
        ..NodeHello::default()
    })
}

/// A node tells of pods of the namespace `shop` and their UIDs, each with `eth0`.
fn told(pods: &[(&str, &str)]) -> Vec<ToClient> {
    let target =
        |pod: &str, uid: &str| TargetId::Pod { namespace: "shop".into(), name: pod.into(), uid: uid.into() };
    let each = pods.iter().flat_map(|(pod, uid)| {
        let interfaces = vec![format!("shop/{pod}/eth0")];
        [
            Event::TargetArrived { target: target(pod, uid) },
            Event::TargetAdded { target: target(pod, uid), interfaces },
        ]
    });
    let listening = Event::Listening { interfaces: pods.len() as u32 };
    each.chain([listening]).map(ToClient::Event).collect()
}

/// The beginning of a stream, with an interface of each of these pods.
fn described(pods: &[(&str, &str)]) -> Vec<u8> {
    let mut blocks = Vec::new();
    SectionHeader::default().write(&mut blocks);
    for (pod, _) in pods {
        InterfaceDescription::new(LinkType::Ethernet, MAX_SNAPLEN, &format!("shop/{pod}/eth0"))
            .write(&mut blocks);
    }
    blocks
}

fn packet(interface: u32, time: u64, data: &[u8]) -> Vec<u8> {
    let padded = data.len().next_multiple_of(4);
    let len = (epb::DATA_OFFSET + padded + 4) as u32;
    let (high, low) = ((time >> 32) as u32, time as u32);
    let words = [epb::BLOCK_TYPE, len, interface, high, low, data.len() as u32, data.len() as u32];
    let mut block = words.map(u32::to_ne_bytes).concat();
    block.extend(data);
    block.resize(epb::DATA_OFFSET + padded, 0);
    block.extend(len.to_ne_bytes());
    block
}

fn statistics(interface: u32) -> Vec<u8> {
    let mut block = Vec::new();
    InterfaceStatistics { interface, osdrop: Some(0), ..InterfaceStatistics::default() }.write(&mut block);
    block
}

fn ended(captured: u64) -> ToClient {
    ToClient::End(End { reason: Reason::Stopped, captured, matched: captured, ..End::default() })
}

/// All that a node says that holds packets of these pods, at these seconds and interfaces.
fn held(node: &str, pods: &[(&str, &str)], packets: &[(u64, u32)]) -> Vec<ToClient> {
    let packet =
        |&(second, interface): &(u64, u32)| packet(interface, THEN + second * 1_000_000_000, b"data");
    let blocks = [described(pods), packets.iter().flat_map(packet).collect()].concat();
    [vec![hello(node)], told(pods), vec![ToClient::Packets(blocks.into())]].concat()
}

/// The same, and that this was all.
fn held_in_all(node: &str, pods: &[(&str, &str)], packets: &[(u64, u32)]) -> Vec<ToClient> {
    let statistics = (0..pods.len() as u32).flat_map(statistics).collect::<Vec<u8>>();
    let end = [ToClient::Packets(statistics.into()), ended(packets.len() as u64)];
    [held(node, pods, packets), end.into()].concat()
}

/// The seconds of a file's packets.
fn seconds(outcome: &Outcome) -> Vec<u64> {
    outcome.file().packets.iter().map(|packet| (packet.timestamp_ns - THEN) / 1_000_000_000).collect()
}

#[test]
fn the_past_of_pods_that_are_gone_comes_from_all_nodes_by_time() {
    let two_of_one_name = [("web-0", "u-1"), ("web-0", "u-2")];
    let note = Event::Note { level: Level::Warn, text: "3 packets are too old to be held".into() };
    let mut first = held_in_all("n1", &two_of_one_name, &[(10, 0), (40, 1), (50, 1)]);
    first.insert(1, ToClient::Event(note));
    let old =
        ToClient::Hello(NodeHello { version: "0.8.1".into(), node: "n3".into(), ..NodeHello::default() });
    let place = Place::new(&[
        &[first],
        &[held_in_all("n2", &[("web-1", "u-3")], &[(20, 0), (30, 0), (60, 0)])],
        &[vec![old]],
    ]);
    let args = ["-n", "shop", "-l", "app=web", "--last", "5m", "-f", "tcp", "-s", "96", "-w", "FILE"];
    let outcome = place.run(&args);
    outcome.assert_success();
    assert_eq!(seconds(&outcome), [10, 20, 30, 40, 50, 60]);
    let file = outcome.file();
    let mut names = names(&file);
    names.sort_unstable();
    assert_eq!(names, ["shop/web-0/eth0", "shop/web-0/eth0", "shop/web-1/eth0"]);
    assert_eq!(file.statistics.len(), 3);
    let comment = file.section.comment.expect("a comment");
    assert!(comment.starts_with("shop/app=web, what was recorded in the last 5m, as of 20"), "{comment}");
    for line in [
        "6 packets captured",
        "6 packets received by filter",
        "0 packets dropped by kernel",
        "sniff: node n1: 3 packets are too old to be held",
        "sniff: node n3: sniff 0.8.1 there does not record pods: nothing comes from there",
    ] {
        assert!(outcome.stderr.contains(&line.to_owned()), "{line}: {:#?}", outcome.stderr);
    }
    for unsaid in ["out of order", "clock", "still to be written"] {
        assert!(!outcome.said(unsaid), "{unsaid}: {:#?}", outcome.stderr);
    }
    wireshark::assert_clean(&outcome.path());

    let heard = place.heard(0, 0, &ToNode::Goodbye);
    let ToNode::Hello(asked) = &heard[0] else { panic!("{heard:?}") };
    let ClientHello { past, targets, awaited, plan, .. } = &**asked;
    assert_eq!(*past, Some(Past::Held { last_ms: Some(300_000), follow: false }));
    let by = AwaitedBy::Labels { selector: "app=web".into() };
    assert_eq!(awaited[..], [Awaited { namespace: Some("shop".into()), by, interfaces: Vec::new() }]);
    assert!(targets.is_empty());
    assert_eq!((plan.filter.as_deref(), plan.snaplen, plan.duration_ms), (Some("tcp"), Some(96), None));
    assert_eq!(
        fs::read(place.folders[2].join("heard.0")).unwrap_or_default(),
        Vec::<u8>::new(),
        "it would capture"
    );
}

#[test]
fn where_nothing_was_recorded_an_older_file_is_left_alone() {
    let place = Place::new(&[&[held_in_all("n1", &[], &[])], &[held_in_all("n2", &[], &[])]]);
    let older = tempfile::NamedTempFile::new().expect("a file");
    fs::write(older.path(), "as it was").expect("a file");
    let outcome =
        place.run(&["shop/web-0", "--last", "all", "-w", older.path().to_str().expect("a plain path")]);
    outcome.assert_failure(&[
        "no node holds anything",
        "shop/web-0",
        "`kubectl sniff record`",
        "sniff/record",
    ]);
    assert_eq!(fs::read_to_string(older.path()).expect("a file"), "as it was");

    let follow = Place::new(&[&[[vec![hello("n1")], told(&[])].concat()]]);
    follow.have_last(0, &[ended(0)]);
    let outcome = follow.run(&["shop/web-0", "--last", "all", "--follow", "-w", "FILE"]);
    outcome.assert_failure(&["no node holds anything"]);
}

#[test]
fn a_node_that_is_lost_is_not_asked_again() {
    let cut = held("n2", &[("web-1", "u-2")], &[(20, 0)]);
    let lies = [held("n3", &[("web-2", "u-3")], &[(30, 0)]), vec![ended(7)]].concat();
    let all = held_in_all("n1", &[("web-0", "u-1")], &[(10, 0), (40, 0)]);
    let place = Place::new(&[&[all], &[cut.clone(), cut], &[lies.clone(), lies]]);
    let broken = [0xff; 64];
    fs::write(place.folders[1].join("last"), broken).expect("a file");
    let outcome = place.run(&["-n", "shop", "-l", "app=web", "--last", "5m", "-w", "FILE"]);
    outcome.assert_failure(&["node n2: ", "packets since 2023-11-14T22:13:40.000Z may be missing"]);
    outcome.assert_failure(&["node n3: 6 of its 7 packets have not come"]);
    assert!(!outcome.said("joining again"), "{:#?}", outcome.stderr);
    assert_eq!(seconds(&outcome), [10, 20, 30, 40]);
    assert!(place.folders[1].join("says.1").exists() && place.folders[2].join("says.1").exists());
}

#[test]
fn what_follows_the_past_comes_until_the_end() {
    let place = Place::new(&[
        &[held("n1", &[("web-0", "u-1")], &[(10, 0), (30, 0)])],
        &[held("n2", &[("web-1", "u-2")], &[(20, 0), (50, 0)])],
    ]);
    let mut client = Client::start(
        &place.cluster,
        &["-n", "shop", "-l", "app=web", "--last", "5m", "--follow", "-w", "FILE"],
    );
    client.wait_for("listening after");
    // That of the second waits for those of the first to come.
    client.wait_for_packets(3);
    let later = packet(0, THEN + 40_000_000_000, b"data");
    client.signal(Signal::SIGINT);
    (0..2).for_each(|node| drop(place.heard(node, 0, &ToNode::Stop)));
    place.have_last(0, &[ToClient::Packets([later, statistics(0)].concat().into()), ended(3)]);
    place.have_last(1, &[ToClient::Packets(statistics(0).into()), ended(2)]);
    let outcome = client.outcome();
    outcome.assert_success();
    assert_eq!(seconds(&outcome), [10, 20, 30, 40, 50]);
    let comment = outcome.file().section.comment.expect("a comment");
    assert!(comment.contains(", and what came after that"), "{comment}");
}

/// More than is held here waits at the node that is ahead, and all comes out sorted.
#[test]
fn a_node_that_is_far_ahead_waits_for_the_others() {
    const PACKETS: u64 = 800;
    let data = vec![0; MAX_SNAPLEN as usize];
    let pods = [("web-0", "u-1")];
    let mut ahead =
        [vec![hello("n1")], told(&pods), vec![ToClient::Packets(described(&pods).into())]].concat();
    let per_frame = (MAX_PAYLOAD / packet(0, 0, &data).len()) as u64;
    for first in (0..PACKETS).step_by(per_frame as usize) {
        let numbers = first..PACKETS.min(first + per_frame);
        let blocks = numbers.flat_map(|number| packet(0, THEN + 100_000_000_000 + number, &data));
        ahead.push(ToClient::Packets(blocks.collect::<Vec<u8>>().into()));
    }
    ahead.extend([ToClient::Packets(statistics(0).into()), ended(PACKETS)]);
    let place = Place::new(&[&[ahead], &[held("n2", &[("web-1", "u-2")], &[])]]);
    place.have_last(0, &[]);
    let mut client =
        Client::start(&place.cluster, &["-n", "shop", "-l", "app=web", "--last", "5m", "-w", "FILE"]);
    client.wait_for("shop/web-0 was recorded on node n1");
    client.wait_for("shop/web-1 was recorded on node n2");
    thread::sleep(Duration::from_secs(3));
    assert!(!place.folders[0].join("has-said").exists(), "200 MB are on their way");
    let early = packet(0, THEN, b"data");
    place.have_last(1, &[ToClient::Packets([early, statistics(0)].concat().into()), ended(1)]);
    let outcome = client.outcome();
    outcome.assert_success();
    let file = outcome.file();
    assert_eq!(file.packets.len() as u64, PACKETS + 1);
    assert!(file.packets.is_sorted_by_key(|packet| packet.timestamp_ns));
}

fn recordings(saved: &[(&str, &str)], recorders: &[&str]) -> Recordings {
    let saved = saved.iter().map(|(pod, name)| Recording {
        name: (*name).into(),
        namespace: "shop".into(),
        pod: (*pod).into(),
        reason: "oom-killed".into(),
        time: THEN,
        bytes: 5 << 20,
    });
    let recorders = recorders.iter().map(|pod| Recorder {
        namespace: "shop".into(),
        pod: (*pod).into(),
        by: "annotation\u{1b}[2J of the pod".into(),
        state: RecorderState::Recording,
        memory: 64 << 20,
        ..Recorder::default()
    });
    Recordings {
        budget: Some(256 << 20),
        recorders: recorders.collect(),
        saved: saved.collect(),
        ..Recordings::default()
    }
}

/// A session with somebody who asks what there is.
fn listed(node: &str, recordings: Recordings) -> Vec<ToClient> {
    vec![hello(node), ToClient::Recordings(recordings), ended(0)]
}

#[test]
fn saved_files_are_listed_over_the_nodes_and_one_is_fetched() {
    const NAME: &str = "shop_web-1_20231114T221320Z_oom-killed.pcapng";
    let lists = || {
        [
            listed("n1", recordings(&[("web-0", "a.pcapng")], &["web-0"])),
            listed("n2", recordings(&[("web-1", NAME)], &[])),
        ]
    };
    let ([one, other], [again, once_more], [third, last]) = (lists(), lists(), lists());
    let file = held_in_all("n2", &[("web-1", "u-2")], &[(10, 0)]);
    let place = Place::new(&[&[one, again, third], &[other, once_more, last, file]]);
    let outcome = place.run(&["recordings", "-n", "shop"]);
    outcome.assert_success();
    let table = String::from_utf8(outcome.stdout).expect("text");
    let expected = format!("n2    shop       web-1  oom-killed  2023-11-14T22:13:20Z  5.0 MiB  {NAME}\n");
    assert!(table.contains(&expected) && table.lines().count() == 3, "{table}");
    let heard = place.heard(0, 0, &ToNode::Goodbye);
    let ToNode::Hello(asked) = &heard[0] else { panic!("{heard:?}") };
    assert_eq!(asked.past, Some(Past::List));
    assert_eq!(asked.awaited[0].namespace.as_deref(), Some("shop"));

    let outcome = place.run(&["recordings", "-A", "--status"]);
    outcome.assert_success();
    let table = String::from_utf8(outcome.stdout).expect("text");
    assert!(table.contains(r"annotation\u{1b}[2J of the pod") && table.contains("BUDGET"), "{table}");

    let outcome = place.run(&["recordings", "get", NAME, "-n", "shop", "-w", "FILE"]);
    outcome.assert_success();
    assert_eq!((seconds(&outcome), names(&outcome.file())), (vec![10], vec!["shop/web-1/eth0"]));
    let comment = outcome.file().section.comment.expect("a comment");
    assert!(comment.starts_with(&format!("shop/web-1 on n2, what was saved as {NAME}, by ")), "{comment}");
    let heard = place.heard(1, 3, &ToNode::Goodbye);
    let ToNode::Hello(asked) = &heard[0] else { panic!("{heard:?}") };
    assert_eq!(asked.past, Some(Past::Saved { name: NAME.into() }));
}

#[test]
fn a_node_that_tells_nothing_of_what_was_saved_is_missed() {
    let first = listed("n1", recordings(&[("web-0", "a.pcapng")], &[]));
    let place = Place::new(&[&[first.clone(), first], &[vec![hello("n2"), ended(0)]]]);
    let outcome = place.run(&["recordings", "-n", "shop"]);
    outcome.assert_failure(&["node n2: it ended without a word"]);
    assert!(String::from_utf8_lossy(&outcome.stdout).contains("a.pcapng"));
    let outcome = place.run(&["recordings", "get", "b.pcapng", "-n", "shop", "--node", "n1", "-w", "FILE"]);
    outcome.assert_failure(&["no node has a saved file b.pcapng"]);
}
