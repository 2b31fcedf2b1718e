//! What is on its way at the end, and signals.

use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::json;
use sniff_apiserver::ApiServer;
use sniff_tests::{
    client::{Client, Outcome},
    machine::Machine,
    pcap,
};

use super::{GONE, LISTENING, Shop, assert_pings, ping_much};

/// The counts in the file and on stderr are those of its packets, and nothing is missing.
#[track_caller]
fn assert_complete(outcome: &Outcome) {
    let file = outcome.file();
    let matched: u64 = file.statistics.iter().filter_map(|it| it.filteraccept).sum();
    assert_eq!(file.packets.len() as u64, matched, "{:#?}", outcome.stderr);
    assert!(matched > 0 && outcome.said(&format!("{matched} packets captured")), "{:#?}", outcome.stderr);
    assert!(outcome.said("0 packets dropped by kernel"), "{:#?}", outcome.stderr);
}

#[test]
fn what_is_on_its_way_at_the_end_comes_over_a_slow_connection() {
    let place = Shop::new();
    place.cluster.slow_execs(400_000, 8 << 20);
    let client = place.listen(&["shop/web-0", "-w", "FILE", "--compress", "never", "-f", "icmp"]);
    ping_much(&place);
    let outcome = client.stop();
    outcome.assert_success();
    assert_complete(&outcome);
    assert!(outcome.said("; Ctrl-C once more ends without that"));
    place.assert_nothing_runs(Duration::from_secs(5));
}

/// More than waits for an output here, so that the node is held up, too.
#[test]
fn a_slow_reader_gets_all_of_a_capture_that_is_told_to_end() {
    let place = Shop::new();
    let args = ["shop/web-0", "-w", "-", "--compress", "never", "-f", "icmp"];
    let mut client = Client::start_read_slowly(&place.cluster, &args, 900_000);
    client.wait_for(LISTENING);
    place.ping_of(250, 30_000);
    let outcome = client.stop();
    outcome.assert_success();
    let file = pcap::parse_pcapng(&outcome.stdout);
    let matched: u64 = file.statistics.iter().filter_map(|it| it.filteraccept).sum();
    assert!(matched >= 500, "{matched}");
    assert_eq!(file.packets.len() as u64, matched, "{:#?}", outcome.stderr);
    assert!(outcome.said(&format!("{matched} packets captured")), "{:#?}", outcome.stderr);
}

#[test]
fn a_person_who_insists_gets_a_whole_file_and_hears_what_is_missing() {
    let place = Shop::new();
    place.cluster.slow_execs(50_000, 8 << 20);
    let mut client = place.listen(&["shop/web-0", "-w", "FILE", "--compress", "never", "-f", "icmp"]);
    ping_much(&place);
    client.signal(Signal::SIGINT);
    client.wait_for("; Ctrl-C once more ends without that");
    let outcome = client.stop();
    outcome.assert_failure(&["packets that were on their way are left out", "node n1 has not told how many"]);
    assert!(outcome.said("no final counts from node n1"), "{:#?}", outcome.stderr);
    let file = outcome.file();
    assert!(outcome.said(&format!("{} packets captured", file.packets.len())), "{:#?}", outcome.stderr);
    let [statistics] = &file.statistics[..] else { panic!("{:?}", file.statistics) };
    let why = statistics.comment.as_deref().unwrap_or_default();
    assert!(why.contains("nothing more was heard of node n1"), "{why}");
    place.assert_nothing_runs(GONE);
}

/// As GNU `timeout` does: to the process and to its group.
#[test]
fn a_signal_that_comes_twice_at_once_is_one() {
    let place = Shop::new();
    let client = place.listen_to_pings(&["shop/web-0"]);
    client.signal(Signal::SIGTERM);
    client.signal(Signal::SIGTERM);
    let outcome = client.outcome();
    outcome.assert_success();
    assert_complete(&outcome);
}

#[test]
fn what_nohup_ignores_is_ignored() {
    let place = Shop::new();
    let mut client = Client::start_under_nohup(&place.cluster, &["shop/web-0", "-w", "FILE", "-f", "icmp"]);
    client.wait_for(LISTENING);
    client.signal(Signal::SIGHUP);
    place.ping(2);
    client.wait_for_packets(4);
    let outcome = client.stop();
    outcome.assert_success();
    assert_pings(&outcome.file(), 56, 2);
}

/// One of two nodes says hello and then nothing of use.
#[test]
fn a_duration_ends_whatever_nodes_do() {
    let place = Shop::new();
    let machine = Machine::boot();
    let elsewhere = machine.netns();
    let cluster = ApiServer::start([("n1", &place.node.netns), ("n2", &elsewhere)]);
    cluster.add_agent("n1");
    cluster.add_pod("shop", "web-0", &place.web.sandbox.uid, "n1", &json!({}));
    cluster.add_pod("shop", "db-0", "u-2", "n2", &json!({}));
    let mut client =
        Client::start(&cluster, &["-n", "shop", "-l", "", "--duration", "2s", "-w", "FILE", "-f", "icmp"]);
    client.wait_for("node n1: listening");
    place.ping(2);
    let outcome = client.outcome();
    outcome.assert_failure(&["node n2"]);
    assert_pings(&outcome.file(), 56, 2);
}
