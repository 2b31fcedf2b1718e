//! Whose word counts: pods, nodes, and words from afar.

use std::fs;

use serde_json::json;
use sniff_apiserver::ApiServer;
use sniff_pcapng::{InterfaceDescription, LinkType, SectionHeader, Watermark};
use sniff_protocol::{
    MAX_PAYLOAD, PREFACE, ToClient, encode,
    message::{End, Event, NodeHello, Reason, TargetId},
};
use sniff_tests::{client::Client, cluster::Impostor, machine::Machine};

use super::{Shop, assert_pings, names};

#[test]
fn a_pod_that_only_has_the_labels_of_the_daemonsets_is_told_nothing() {
    let place = Shop::without_daemonset();
    let of_another = json!([{"apiVersion": "apps/v1", "kind": "DaemonSet", "name": "sniff", "uid": "0-0",
        "controller": true}]);
    // Listed before the real one.
    place.cluster.add_pod_like_agent("a-pod", "n1", &json!([]));
    place.cluster.add_pod_like_agent("b-pod", "n1", &of_another);
    let outcome = Client::start(&place.cluster, &["shop/web-0", "-w", "FILE"]).outcome();
    outcome.assert_failure(&["node n1", "no running pod here"]);
    assert!(place.execs().is_empty());

    place.cluster.add_agent("n1");
    let outcome = place.listen(&["shop/web-0", "-w", "FILE"]).stop();
    outcome.assert_success();
    for name in ["a-pod", "b-pod"] {
        assert!(outcome.said(&format!("pod sniff/{name} on node n1 has the labels")), "{outcome:#?}");
    }
    assert_eq!(place.execs(), ["sniff/sniff-n1"]);
    let doctor = Client::start(&place.cluster, &["doctor"]).outcome();
    let said = String::from_utf8(doctor.stdout).expect("text");
    assert!(said.contains("pod sniff/a-pod has its labels, but is not one of its pods"), "{said}");
    assert!(said.contains("runs on 1 of 1 nodes"), "{said}");
}

#[test]
fn a_pod_that_only_has_the_labels_of_a_jobs_is_told_nothing() {
    let place = Shop::without_daemonset();
    place.cluster.add_impostors();
    place.listen(&["shop/web-0", "--image", "sniff:test", "-w", "FILE"]).stop().assert_success();
    let [pod] = &place.execs()[..] else { panic!("{:?}", place.execs()) };
    assert!(pod.starts_with("sniff/sniff-"), "{pod}");
}

/// The start of what a node says, and then what it should not.
fn lie(messages: &[ToClient]) -> Vec<u8> {
    let hello = NodeHello { version: "test".into(), node: "n2".into(), ..NodeHello::default() };
    let mut bytes = PREFACE.to_vec();
    let beginning = [ToClient::Hello(hello), ToClient::Event(Event::Listening { interfaces: 1 })];
    for message in beginning.iter().chain(messages) {
        encode(message, &mut bytes).expect("a frame");
    }
    bytes
}

/// A frame of a few hundred bytes that is larger than any payload once it is decompressed: one byte, again and again.
fn bomb() -> Vec<u8> {
    const BLOCK: usize = 128 << 10;
    const BLOCKS: usize = (MAX_PAYLOAD / BLOCK) + 1;
    // A frame's header (RFC 8878, section 3.1.1.1): no checksum, no dictionary, a window of 4 MiB.
    let mut packed = vec![0x28, 0xb5, 0x2f, 0xfd, 0, 12 << 3];
    for number in 1..=BLOCKS {
        let is_last = u32::from(number == BLOCKS);
        let header = (BLOCK as u32) << 3 | 1 << 1 | is_last;
        packed.extend(&header.to_le_bytes()[..3]);
        packed.push(0);
    }
    let mut frame = lie(&[]);
    // Kind and flags: packets, compressed.
    frame.extend([2, 1, 0, 0]);
    frame.extend((packed.len() as u32).to_le_bytes());
    frame.extend(packed);
    frame
}

/// Blocks that describe an interface of this name.
fn described(name: &str) -> Vec<u8> {
    let mut blocks = Vec::new();
    SectionHeader::default().write(&mut blocks);
    let description = InterfaceDescription::new(LinkType::Ethernet, 0, name);
    description.write(&mut blocks);
    blocks
}

/// One of two nodes speaks of what is not its own.
#[test]
fn a_node_has_no_say_in_what_is_anothers() {
    let place = Shop::new();
    let machine = Machine::boot();
    let elsewhere = machine.netns();
    let web = || TargetId::Pod {
        namespace: "shop".into(),
        name: "web-0".into(),
        uid: place.web.sandbox.uid.clone(),
    };
    let of_another = Event::TargetGone { target: web(), why: "it ended".into() };
    let failed = Event::TargetFailed { target: web(), error: "it ended".into(), refused: false };
    let alias = Event::TargetAdded { target: web(), interfaces: vec!["shop/web-0/eth0".into()] };
    let ended = |reason| ToClient::End(End { reason, ..End::default() });
    let other = || NodeHello { node: "n1".into(), ..NodeHello::default() };
    let mut other_node = PREFACE.to_vec();
    encode(&ToClient::Hello(other()), &mut other_node).expect("a frame");
    let mut unknown_link = described("shop/db-0/eth0");
    let section_len = u32::from_ne_bytes(unknown_link[4..8].try_into().expect("4 bytes")) as usize;
    unknown_link[section_len + 8..][..2].copy_from_slice(&147_u16.to_ne_bytes());
    let watermark = Watermark { time_ns: 1 }.block().to_vec();
    let unasked = (0..100).flat_map(|_| watermark.clone()).collect::<Vec<u8>>();
    let mut section = Vec::new();
    SectionHeader::default().write(&mut section);
    let lies = [
        (bomb(), "decompress to more than 4194304"),
        (lie(&[ToClient::Packets([section, unasked].concat().into())]), "a watermark that was not asked for"),
        (lie(&[ToClient::Event(of_another)]), "it speaks of shop/web-0"),
        (lie(&[ToClient::Event(failed)]), "it speaks of shop/web-0"),
        (lie(&[ToClient::Event(alias)]), "it speaks of shop/web-0"),
        (lie(&[ToClient::Packets(described("shop/web-0/eth0").into())]), "the interface shop/web-0/eth0"),
        (lie(&[ToClient::Packets(unknown_link.into())]), "link type 147"),
        (lie(&[ended(Reason::Stopped)]), "it was not told to"),
        (lie(&[ended(Reason::Count)]), "it was not told to"),
        (lie(&[ended(Reason::Duration)]), "it was not told to"),
        (other_node, "it calls itself n1"),
    ];
    for (lie, why) in lies {
        let file = tempfile::NamedTempFile::new().expect("a file");
        fs::write(file.path(), lie).expect("a file");
        let cluster = ApiServer::start([("n1", &place.node.netns)]);
        cluster.add_node("n2", Impostor { netns: elsewhere.clone(), says: file.path().to_owned() });
        cluster.add_agent("n1");
        cluster.add_agent("n2");
        cluster.add_pod("shop", "web-0", &place.web.sandbox.uid, "n1", &json!({}));
        cluster.add_pod("shop", "db-0", "u-2", "n2", &json!({}));
        let mut client = Client::start(&cluster, &["-n", "shop", "-l", "", "-w", "FILE", "-f", "icmp"]);
        client.wait_for("node n1: listening");
        let said = client.wait_for(why);
        assert!(said.contains("node n2"), "{said}");
        place.ping(2);
        client.wait_for_packets(4);
        let outcome = client.stop();
        outcome.assert_failure(&["node n2", why]);
        let file = outcome.file();
        assert_pings(&file, 56, 2);
        assert_eq!(names(&file), ["shop/web-0/eth0"], "{why}");
    }
}

/// Whoever runs a registry, a node or an admission controller has words on a person's terminal.
#[test]
fn words_from_afar_cannot_pass_for_sniffs_own() {
    let place = Shop::without_daemonset();
    place.cluster.set_kubelet_words("no\u{1b}[1A\u{1b}[2K\nsniff: all is well\n0 packets dropped by kernel");
    let outcome =
        Client::start(&place.cluster, &["shop/web-0", "--image", "missing", "-w", "FILE"]).outcome();
    outcome.assert_failure(&["ImagePullBackOff", r"no\u{1b}[1A\u{1b}[2K"]);
    assert!(outcome.stderr.contains(&"  sniff: all is well".to_owned()), "{:#?}", outcome.stderr);
    let fakes = ["sniff: all is well", "0 packets dropped by kernel"];
    assert!(outcome.stderr.iter().all(|line| !fakes.contains(&line.as_str())), "{:#?}", outcome.stderr);
    assert!(outcome.stderr.iter().all(|line| !line.contains(char::is_control)), "{:#?}", outcome.stderr);

    let info = json!({"kernelVersion": "6.18\u{1b}[2K\nok    all is well", "operatingSystem": "linux"});
    place.cluster.put("nodes", "", "n1", json!({"metadata": {"name": "n1"}, "status": {"nodeInfo": info}}));
    let doctor = Client::start(&place.cluster, &["doctor", "--image", "sniff:test"]).outcome();
    let said = String::from_utf8(doctor.stdout).expect("text");
    assert!(said.contains(r"kernel 6.18\u{1b}[2K\nok    all is well"), "{said}");
}

#[test]
fn hostile_words_stay_words() {
    let place = Shop::new();
    let run = |args: &[&str]| Client::start(&place.cluster, args).outcome();
    for name in ["$(reboot)", "../secrets/x", "a?watch=1", "a b", "web-0\n"] {
        let outcome = run(&[name, "-w", "FILE"]);
        assert_eq!(outcome.code, Some(2), "{name}: {outcome:#?}");
    }
    let filter = "port 80; touch /tmp/owned $(reboot)";
    run(&["shop/web-0", "-w", "FILE", "-f", filter]).assert_failure(&["node n1", "filter"]);
    assert!(place.cluster.log().iter().any(|line| line.contains(r#"["sniff", "serve"]"#)));
    run(&["shop/none", "-w", "FILE"]).assert_failure(&["shop/none"]);
    run(&["shop/web-0", "-c", "none", "-w", "FILE"]).assert_failure(&["shop/web-0"]);
}
