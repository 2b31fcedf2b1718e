//! Nodes that are lost and joined again.

use std::{
    thread,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use nix::sys::signal::Signal;
use serde_json::json;
use sniff_apiserver::ApiServer;
use sniff_tests::{client::Client, node::Node, traffic, wait};

use super::{GONE, LISTENING, Shop, assert_pings, comments, names};

#[test]
fn a_node_is_joined_again_after_its_connection_was_cut() {
    let place = Shop::new();
    let client = place.listen_to_pings(&["shop/web-0"]);
    place.cluster.cut_execs();
    let outcome = place.assert_joined_again(client, "cut");
    assert!(outcome.said("10 packets captured; no final counts from node n1"), "{outcome:#?}");
}

#[test]
fn a_connection_that_carries_nothing_any_more_is_noticed_at_both_ends() {
    let place = Shop::new();
    let client = place.listen_to_pings(&["shop/web-0"]);
    place.cluster.freeze_execs();
    place.assert_joined_again(client, "nothing was heard");
}

#[test]
fn a_session_that_is_told_to_end_by_its_daemonset_is_followed_by_another() {
    let place = Shop::new();
    let client = place.listen_to_pings(&["shop/web-0"]);
    let running = place.node.netns.run("ps -e -o pid=,args=");
    let serving = running.lines().find(|line| line.ends_with(" serve")).expect("a session");
    let pid = serving.split_whitespace().next().expect("a PID");
    place.node.netns.run(&format!("kill -TERM {pid}"));
    let outcome = place.assert_joined_again(client, "the pod that captures is going away");
    assert!(outcome.said("10 packets received by filter"), "its counts were final: {outcome:#?}");
}

/// While there is none on the node, a pod comes.
#[test]
fn a_node_is_joined_again_in_the_pod_that_a_rollout_makes() {
    let place = Shop::new();
    let mut client = place.listen_to_pings(&["-l", "app=web", "-n", "shop", "--image", "sniff:test"]);
    place.cluster.remove_pod("sniff", "sniff-n1");
    place.cluster.cut_execs();
    client.wait_for("node n1: sniff's DaemonSet has no running pod here; joining again in");
    let more = place.node.pod("shop", "web-1").start();
    place.cluster.add_pod("shop", "web-1", &more.sandbox.uid, "n1", &json!({"app": "web"}));
    client.wait_for("shop/web-1 on node n1 joins");
    place.cluster.add_agent("n1");
    client.wait_for("capturing shop/web-1 on node n1");
    traffic::ping(&place.node.netns, more.ipv4.into(), 1, 58);
    let outcome = place.assert_joined_again(client, "cut");
    let file = outcome.file();
    assert_pings(&file, 58, 1);
    assert!(comments(&file, "shop/web-1/eth0")[0].contains("joined the running capture"));
    place.assert_made_no_pod();
}

#[test]
fn pods_that_are_not_followed_are_joined_again_as_far_as_they_live() {
    let place = Shop::new();
    let other = place.node.pod("shop", "web-1").start();
    place.cluster.add_pod("shop", "web-1", &other.sandbox.uid, "n1", &json!({"app": "web"}));
    let mut client = place.listen_to_pings(&["-l", "app=web", "-n", "shop", "--no-follow"]);
    place.cluster.remove_pod("sniff", "sniff-n1");
    place.cluster.cut_execs();
    client.wait_for("has no running pod here");
    other.sandbox.stop();
    place.cluster.add_agent("n1");
    let outcome = place.assert_joined_again(client, "cut");
    assert_eq!(comments(&outcome.file(), "shop/web-1/eth0").len(), 1);
}

#[test]
fn a_count_holds_for_a_node_before_and_after_it_was_lost() {
    let place = Shop::new();
    let mut client = place.listen_to_pings(&["shop/web-0", "--count", "6"]);
    place.cluster.cut_execs();
    client.wait_for("node n1: joined again");
    place.ping_of(3, 57);
    let outcome = client.outcome();
    outcome.assert_failure(&["node n1", "cut", "joining again in"]);
    let file = outcome.file();
    assert_eq!(file.packets.len(), 6);
    assert_eq!(file.statistics[0].usrdeliv, Some(2), "the node itself has not counted from the start");
}

#[test]
fn a_node_that_refuses_is_not_joined_again() {
    let place = Shop::new();
    let mut client = place.listen_to_pings(&["shop/web-0"]);
    place.cluster.deny("create", "pods/exec");
    place.cluster.cut_execs();
    client.wait_for("joining again in");
    let outcome = client.outcome();
    outcome.assert_failure(&["node n1", "you may not create pods/exec"]);
    assert_eq!(outcome.stderr.iter().filter(|line| line.contains("joining again")).count(), 1);
    assert_pings(&outcome.file(), 56, 2);
}

#[test]
fn ctrl_c_ends_a_capture_that_waits_for_its_node() {
    let place = Shop::new();
    let mut client = place.listen_to_pings(&["shop/web-0"]);
    place.cluster.remove_pod("sniff", "sniff-n1");
    place.cluster.cut_execs();
    client.wait_for("has no running pod here; joining again in");
    let outcome = client.stop();
    outcome.assert_failure(&["node n1", "cut"]);
    assert_pings(&outcome.file(), 56, 2);
}

#[test]
fn a_short_lived_pod_that_is_lost_is_made_anew() {
    let place = Shop::without_daemonset();
    let client = place.listen_to_pings(&["shop/web-0", "--image", "sniff:test"]);
    let [pod] = &place.cluster.pods("sniff")[..] else { panic!("not one pod") };
    // As an operator does who takes no pod's word for it.
    let pid = place.cluster.pod("sniff", pod).expect("the pod")["status"]["pid"].as_u64().expect("a PID");
    place.cluster.cut_execs();
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid as i32), Signal::SIGKILL)
        .expect("the pod's process");
    place.assert_joined_again(client, "cut");
    wait::until("the end of the pods", GONE, || place.cluster.pods("sniff").is_empty().then_some(()));
}

#[test]
fn a_node_that_fails_at_the_start_is_tried_again_with_all_who_were_announced() {
    let nodes = [Node::start(), Node::start()];
    let cluster = ApiServer::start([("n1", &nodes[0].netns), ("n2", &nodes[1].netns)]);
    cluster.add_agent("n1");
    let add = |name: &str, at: usize| {
        let pod = nodes[at].pod("shop", name).start();
        cluster.add_pod("shop", name, &pod.sandbox.uid, ["n1", "n2"][at], &json!({"app": "web"}));
        pod
    };
    let pods = [(0, add("web-0", 0)), (1, add("web-1", 1))];
    let mut client = Client::start(&cluster, &["-n", "shop", "-l", "app=web", "-w", "FILE", "-f", "icmp"]);
    client.wait_for("node n1: listening");
    let line = client.wait_for("has no running pod here");
    assert!(line.contains("node n2") && line.contains("; joining again in"), "{line}");
    let more = (1, add("web-2", 1));
    client.wait_for("shop/web-2 on node n2 joins");
    cluster.add_agent("n2");
    client.wait_for("node n2: listening on 2 interface(s)");
    for (at, pod) in pods.iter().chain([&more]) {
        traffic::ping(&nodes[*at].netns, pod.ipv4.into(), 2, 56);
    }
    client.wait_for_packets(12);
    let outcome = client.stop();
    outcome.assert_failure(&["node n2"]);
    let file = outcome.file();
    let mut captured = names(&file);
    captured.sort_unstable();
    assert_eq!(captured, ["shop/web-0/eth0", "shop/web-1/eth0", "shop/web-2/eth0"]);
    assert!(captured.iter().all(|name| file.packets_of(name).len() == 4));
    let late = &comments(&file, "shop/web-1/eth0")[0];
    assert!(late.contains("its node could not be captured before"), "{late}");
}

#[test]
fn an_outage_of_the_api_is_told_of_and_whoever_came_meanwhile_joins_behind_it() {
    let place = Shop::new();
    let mut client = place.listen_to_pings(&["-l", "app=web", "-n", "shop"]);
    place.cluster.go_down();
    let told = client.wait_for("the watch of shop/app=web is interrupted");
    assert!(told.contains("pods that start meanwhile are captured later"), "{told}");
    // Its node cannot know whose it is.
    let more = place.node.pod("shop", "web-1").start();
    place.cluster.add_pod("shop", "web-1", &more.sandbox.uid, "n1", &json!({"app": "web"}));
    wait::until("tries", GONE, || (place.cluster.unanswered() >= 6).then_some(()));
    place.cluster.come_up();
    client.wait_for("the watch of shop/app=web goes on");
    client.wait_for("capturing shop/web-1 on node n1");
    traffic::ping(&place.node.netns, more.ipv4.into(), 1, 58);
    let outcome = place.assert_joined_again(client, "cut");
    assert_pings(&outcome.file(), 58, 1);
    let told = outcome.stderr.iter().filter(|line| line.contains("is interrupted")).count();
    assert_eq!(told, 1, "once for each outage: {:#?}", outcome.stderr);
}

/// It has sent nothing for a while, and was heard all the same.
#[test]
fn the_loss_of_a_quiet_node_is_dated_from_what_it_said_last() {
    let place = Shop::new();
    let mut client = place.listen_to_pings(&["shop/web-0"]);
    // Longer than a quiet node is left alone.
    thread::sleep(Duration::from_secs(5));
    place.cluster.cut_execs();
    let lost = SystemTime::now();
    let line = client.wait_for("; joining again in");
    client.wait_for("node n1: joined again");
    let outcome = client.stop();
    outcome.assert_failure(&["node n1: ", "cut"]);
    let file = outcome.file();
    let last = file.packets.iter().map(|packet| packet.timestamp_ns).max().expect("a packet");
    let last = UNIX_EPOCH + Duration::from_nanos(last);
    let again = &comments(&file, "shop/web-0/eth0")[1];
    let (_, since) = again.split_once("packets since ").expect(again);
    let since = since.split(' ').next().expect("a time");
    let time = humantime::parse_rfc3339(since).expect(since);
    assert!(time > last + Duration::from_secs(1) && time <= lost, "{again}; last packet {last:?}, {lost:?}");
    assert!(line.contains(&format!("packets since {since} may be missing")), "{line}; {again}");
}

/// Each calls itself by the same word.
#[test]
fn two_nodes_that_are_targets_are_joined_again_both() {
    let nodes = [Node::start(), Node::start()];
    let cluster = ApiServer::start([("n1", &nodes[0].netns), ("n2", &nodes[1].netns)]);
    cluster.add_agent("n1");
    cluster.add_agent("n2");
    for node in &nodes {
        node.netns.run("ip link add of-node type veth peer name of-none");
        node.netns.run("ip link set of-none up");
        node.netns.run("ip link set of-node up");
    }
    let mut client = Client::start(&cluster, &["node/n1", "node/n2", "-i", "of-node", "-w", "FILE"]);
    client.wait_for(LISTENING);
    cluster.cut_execs();
    client.wait_for("node n1: joined again");
    client.wait_for("node n2: joined again");
    let outcome = client.stop();
    outcome.assert_failure(&["node n2: ", "cut"]);
    assert_eq!(names(&outcome.file()), ["of-node"; 4]);
}
