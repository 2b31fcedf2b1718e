//! Interfaces that come to a target while it is captured.

use std::time::Duration;

use sniff_protocol::{ToClient, message::Event};
use sniff_tests::{
    frame,
    machine::{FakePod, Machine},
    netns::Netns,
    node::Node,
    pcap::Direction,
    serve::{Serving, hello, pod},
    sniff::Sniff,
    traffic, wait,
};

use crate::{Capture, echoes};

/// A second pair between the machine and a namespace at this path on it, down.
fn add_pair(node: &Netns, pod: &Netns, name: &str, net: u8) {
    let path = pod.path().display();
    node.run(&format!("ip link add host-{name} type veth peer name {name} netns {path}"));
    node.run(&format!("ip address add 10.79.{net}.1/24 dev host-{name}"));
    pod.run(&format!("ip address add 10.79.{net}.2/24 dev {name}"));
    node.run(&format!("ip link set host-{name} up"));
}

fn names(file: &sniff_tests::pcap::PcapNg) -> Vec<&str> {
    file.interfaces.iter().map(|interface| interface.name.as_deref().expect("a name")).collect()
}

#[test]
fn an_interface_that_comes_later_is_captured_from_then_on() {
    let machine = Machine::boot();
    let node = machine.netns();
    let FakePod { netns: blue, ipv4, .. } = machine.fake_pod("blue", 1);
    let capture = Capture::new();
    let mut sniff = Sniff::in_netns(&node).args(["--netns", "blue", "-w", capture.arg()]).start();
    add_pair(&node, &blue, "net1", 1);
    // One that is down is not meant, as when a capture starts.
    blue.run("ip link add idle type bridge");
    blue.run("ip link set net1 up");
    let line = sniff.wait_for_line("has come");
    assert!(line.contains("netns:blue/net1"), "{line}");
    traffic::ping(&blue, [10, 79, 1, 1].into(), 3, 56);
    traffic::ping(&node, ipv4.into(), 2, 57);
    let file = capture.read_whole(&sniff.stop());
    assert_eq!(names(&file), ["netns:blue/eth0", "netns:blue/net1"]);
    let comment = file.interfaces[1].comment.as_deref().expect("a comment");
    assert!(comment.starts_with("joined the running capture at 2"), "{comment}");
    for direction in [Direction::In, Direction::Out] {
        assert_eq!(echoes(&file.packets_of("netns:blue/net1"), direction, 56), 3);
        assert_eq!(echoes(&file.packets_of("netns:blue/eth0"), direction, 57), 2);
    }
}

#[test]
fn an_interface_that_was_named_and_is_made_anew_is_captured_again() {
    let machine = Machine::boot();
    let node = machine.netns();
    let FakePod { netns: blue, .. } = machine.fake_pod("blue", 1);
    add_pair(&node, &blue, "net1", 1);
    blue.run("ip link set net1 up");
    let capture = Capture::new();
    let args = ["--netns", "blue", "-i", "net1", "-w", capture.arg()];
    let mut sniff = Sniff::in_netns(&node).args(args).start();
    traffic::ping(&blue, [10, 79, 1, 1].into(), 2, 56);
    blue.run("ip link del net1");
    sniff.wait_for_line("waiting for one to come");
    // Another one is none of ours.
    add_pair(&node, &blue, "net2", 2);
    blue.run("ip link set net2 up");
    add_pair(&node, &blue, "net1", 1);
    let line = sniff.wait_for_line("has come");
    assert!(line.contains("netns:blue/net1"), "{line}");
    blue.run("ip link set net1 up");
    traffic::ping(&blue, [10, 79, 1, 1].into(), 3, 57);
    let file = capture.read_whole(&sniff.stop());
    assert!(names(&file).iter().all(|name| *name == "netns:blue/net1"), "{:?}", names(&file));
    let of = |interface: usize| -> Vec<_> {
        file.packets.iter().filter(|packet| packet.interface as usize == interface).cloned().collect()
    };
    let last = file.interfaces.len() - 1;
    assert!(last > 0, "one interface block for both");
    for direction in [Direction::In, Direction::Out] {
        assert_eq!((echoes(&of(0), direction, 56), echoes(&of(last), direction, 57)), (2, 3));
    }
}

#[test]
fn an_interface_of_the_host_is_made_anew_and_the_capture_goes_on() {
    let machine = Machine::boot();
    let node = machine.netns();
    let blue = machine.add_netns("blue");
    add_pair(&node, &blue, "net1", 1);
    let capture = Capture::new();
    let mut sniff = Sniff::in_netns(&node).args(["-i", "host-net1", "-w", capture.arg()]).start();
    node.run("ip link del host-net1");
    add_pair(&node, &blue, "net1", 1);
    sniff.wait_for_line("host-net1: has come");
    blue.run("ip link set net1 up");
    traffic::ping(&blue, [10, 79, 1, 1].into(), 3, 56);
    let file = capture.read_whole(&sniff.stop());
    assert!(names(&file).iter().all(|name| *name == "host-net1"), "{:?}", names(&file));
    assert_eq!(echoes(&file.packets, Direction::In, 56), 3);
}

#[test]
fn a_client_is_told_of_interfaces_that_come_to_its_targets_and_to_no_others() {
    let node = Node::start();
    let (web, db) = (node.pod("shop", "web").start(), node.pod("shop", "db").start());
    let targets = [("web", &web), ("db", &db)].map(|(name, it)| pod("shop", name, &it.sandbox.uid));
    let mut serving = Serving::start(&node.netns);
    assert_eq!(serving.begin(hello(targets.to_vec())), 2);
    serving.change(vec![], vec![targets[1].id.clone()]);
    for (pod, name, net) in [(&db, "net1", 1), (&web, "net2", 2)] {
        add_pair(&node.netns, &pod.netns, name, net);
        pod.netns.run(&format!("ip link set {name} up"));
    }
    let (target, interfaces) = serving.wait_for("a new interface", |message| match message {
        ToClient::Event(Event::TargetAdded { target, interfaces }) => {
            interfaces.iter().any(|it| it.contains("net")).then(|| (target.clone(), interfaces.clone()))
        }
        _ => None,
    });
    assert_eq!((target, interfaces), (targets[0].id.clone(), vec!["shop/web/net2".to_owned()]));
    traffic::ping(&web.netns, [10, 79, 2, 1].into(), 3, 56);
    let outcome = serving.stop();
    let file = outcome.file();
    assert_eq!(names(&file), ["shop/web/eth0", "shop/db/eth0", "shop/web/net2"]);
    assert_eq!(echoes(&file.packets_of("shop/web/net2"), Direction::Out, 56), 3);
}

const NOT_CAPTURED: &str = "has come, and is not captured: it has link-layer type 778 (GRE)";

#[test]
fn an_interface_that_comes_and_cannot_be_captured_is_told_of_once() {
    let machine = Machine::boot();
    let node = machine.netns();
    let FakePod { netns: blue, ipv4, .. } = machine.fake_pod("blue", 1);
    // It is told of at the start.
    frame::tun_device(&blue, "gre6", 778);
    let capture = Capture::new();
    let mut sniff = Sniff::in_netns(&node).args(["--netns", "blue", "-w", capture.arg()]).start();
    frame::tun_device(&blue, "gre7", 778);
    let line = sniff.wait_for_line(NOT_CAPTURED);
    assert!(line.contains("netns:blue/gre7"), "{line}");
    blue.run("ip link set gre7 down");
    blue.run("ip link set gre7 up");
    // What is heard of later was looked at later.
    add_pair(&node, &blue, "net1", 1);
    blue.run("ip link set net1 up");
    sniff.wait_for_line("netns:blue/net1: has come, and is captured");
    traffic::ping(&node, ipv4.into(), 3, 56);
    let outcome = sniff.stop();
    let file = capture.read_whole(&outcome);
    for name in ["gre6", "gre7"] {
        let told = outcome.stderr.iter().filter(|line| line.contains(name)).count();
        assert_eq!(told, 1, "{name}: {outcome:#?}");
    }
    let comment = file.statistics[0].comment.as_deref().unwrap_or_default();
    assert!(comment.contains(": netns:blue/gre7 (link-layer type 778 (GRE))"), "{comment}");
    assert_eq!(echoes(&file.packets_of("netns:blue/eth0"), Direction::In, 56), 3);
}

#[test]
fn a_client_is_told_of_an_interface_that_comes_and_cannot_be_captured() {
    let node = Node::start();
    let web = node.pod("shop", "web").start();
    let mut serving = Serving::start(&node.netns);
    assert_eq!(serving.begin(hello(vec![pod("shop", "web", &web.sandbox.uid)])), 1);
    frame::tun_device(&web.netns, "gre7", 778);
    let text = serving.wait_for("a note", |message| match message {
        ToClient::Event(Event::Note { text, .. }) if text.contains("gre7") => Some(text.clone()),
        _ => None,
    });
    assert!(text.contains("shop/web/gre7") && text.contains(NOT_CAPTURED), "{text}");
    serving.stop();
}

/// While a target is watched for interfaces that may come, its network namespace is held by nobody.
#[test]
fn a_pod_that_gets_interfaces_and_is_deleted_is_gone() {
    let machine = Machine::boot();
    let node = machine.netns();
    let FakePod { netns: blue, veth, .. } = machine.fake_pod("blue", 1);
    let capture = Capture::new();
    let mut sniff = Sniff::in_netns(&node).args(["--netns", "blue", "-w", capture.arg()]).start();
    add_pair(&node, &blue, "net1", 1);
    blue.run("ip link set net1 up");
    sniff.wait_for_line("netns:blue/net1: has come");
    node.run("ip netns delete blue");
    wait::until("the end of the pair", Duration::from_secs(10), || {
        node.links().iter().all(|link| link.name != veth.name).then_some(())
    });
    capture.read_whole(&sniff.wait());
}
