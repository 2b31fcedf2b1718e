//! `kubectl sniff` against a cluster of test machines: from a name to packets in one file, and every end.

mod doctor;
mod door;
mod ending;
mod login;
mod newcomers;
mod outputs;
mod own_stream;
mod past;
mod record;
mod recordings;
mod rejoin;
mod rights;
mod short_lived;
mod targets;
mod trust;
mod windows;

use std::time::{Duration, UNIX_EPOCH};

use serde_json::json;
use sniff_apiserver::ApiServer;
use sniff_tests::{
    client::{Client, Outcome},
    node::{Node, Pod},
    pcap::{Direction, PcapNg},
    sniff, traffic, wait, wireshark,
};

use crate::echoes;

const LISTENING: &str = "listening after";
/// A session whose client is gone ends within its lease, and then its pod goes.
const GONE: Duration = Duration::from_secs(30);

/// A node with one pod, `shop/web-0`, and a cluster that knows both.
struct Shop {
    web: Pod<'static>,
    node: &'static Node,
    cluster: ApiServer,
}

impl Shop {
    /// With the DaemonSet's pod on the node.
    fn new() -> Self {
        let place = Self::without_daemonset();
        place.cluster.add_agent("n1");
        place
    }

    fn without_daemonset() -> Self {
        // It lives as long as the test process: pods borrow it.
        let node: &'static Node = Box::leak(Box::new(Node::start()));
        let web = node.pod("shop", "web-0").start();
        let cluster = ApiServer::start([("n1", &node.netns)]);
        cluster.add_pod("shop", "web-0", &web.sandbox.uid, "n1", &json!({"app": "web"}));
        Self { web, node, cluster }
    }

    fn ping(&self, count: u32) {
        self.ping_of(count, 56);
    }

    fn ping_of(&self, count: u32, size: u32) {
        traffic::ping(&self.node.netns, self.web.ipv4.into(), count, size);
    }

    /// Runs it until it listens.
    fn listen(&self, args: &[&str]) -> Client {
        let mut client = Client::start(&self.cluster, args);
        client.wait_for(LISTENING);
        client
    }

    /// Captures two pings of 56 bytes, until they have reached the client.
    fn listen_to_pings(&self, args: &[&str]) -> Client {
        let client = self.listen(&[args, &["-w", "FILE", "-f", "icmp"]].concat());
        self.ping(2);
        client.wait_for_packets(4);
        client
    }

    /// Sends three pings of 57 bytes to a capture that has joined the node again, and ends it.
    #[track_caller]
    fn assert_joined_again(&self, mut client: Client, why: &str) -> Outcome {
        client.wait_for("node n1: joined again");
        self.ping_of(3, 57);
        client.wait_for_packets(10);
        let outcome = client.stop();
        outcome.assert_failure(&["node n1: ", why, "; joining again in "]);
        wireshark::assert_clean(&outcome.path());
        let file = outcome.file();
        assert_pings(&file, 56, 2);
        assert_pings(&file, 57, 3);
        let comments = comments(&file, "shop/web-0/eth0");
        let [first, again] = &comments[..] else { panic!("{comments:?}") };
        assert!(first.is_empty() && again.contains("joined again: its node was lost at"), "{comments:?}");
        // Who it is, is told each time.
        let of_name = file.interfaces.iter().filter(|it| it.name.as_deref() == Some("shop/web-0/eth0"));
        let facts: Vec<_> = of_name.map(|it| it.facts.as_deref()).collect();
        assert_eq!(facts, [Some("labels: app=web\nnode: n1"); 2]);
        // What it sent when it was young is in the file.
        assert!(!again.contains("sandbox was made"), "{again}");
        let last = file.packets.iter().filter(|packet| packet.interface == 0).map(|it| it.timestamp_ns).max();
        let last = UNIX_EPOCH + Duration::from_nanos(last.expect("a packet"));
        let since = format!("packets since {} may be missing", humantime::format_rfc3339_millis(last));
        assert!(again.contains(&since), "{again}: {since}");
        self.assert_nothing_runs(GONE);
        outcome
    }

    #[track_caller]
    fn assert_made_no_pod(&self) {
        let log = self.cluster.log();
        assert!(log.iter().all(|line| !line.starts_with("create jobs ")), "{log:#?}");
    }

    /// Whom exec was asked of.
    fn execs(&self) -> Vec<String> {
        let of = |line: String| Some(line.strip_prefix("create pods/exec ")?.split(' ').next()?.to_owned());
        self.cluster.log().into_iter().filter_map(of).collect()
    }

    /// Waits until no process of sniff is left on the node.
    fn assert_nothing_runs(&self, within: Duration) {
        wait::until("the end of sniff on the node", within, || {
            let running = self.node.netns.run("ps -e -o args=");
            let ours = sniff::binary();
            let ours = ours.to_str().expect("a plain path");
            (!running.lines().any(|line| line.starts_with(ours))).then_some(())
        });
    }
}

#[track_caller]
fn assert_pings(file: &PcapNg, size: u32, count: usize) {
    for direction in [Direction::In, Direction::Out] {
        assert_eq!(echoes(&file.packets, direction, size), count, "{direction:?} of {size} bytes");
    }
}

fn names(file: &PcapNg) -> Vec<&str> {
    file.interfaces.iter().filter_map(|interface| interface.name.as_deref()).collect()
}

/// The comment of each interface of this name.
fn comments(file: &PcapNg, name: &str) -> Vec<String> {
    let of_name = file.interfaces.iter().filter(|it| it.name.as_deref() == Some(name));
    of_name.map(|it| it.comment.clone().unwrap_or_default()).collect()
}

/// Three MB of pings, which a slow connection has still to bring when the capture is told to end.
fn ping_much(place: &Shop) {
    place.ping_of(50, 30_000);
}
