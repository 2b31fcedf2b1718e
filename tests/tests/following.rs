//! Pods that come to a capture of `sniff` itself: created again under their names, or with labels that were asked for.

use std::{net::Ipv4Addr, time::Duration};

use sniff_tests::{
    cri::ContainerConfig,
    leftovers::BpfObjects,
    machine::HOSTNAME,
    node::Node,
    pcap::{Direction, Packet, PcapNg},
    sniff::Sniff,
    traffic, wait,
};

use crate::{Capture, echoes, time_in};

/// The node's address in its pods' network.
const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 88, 0, 1);
/// Neighbours look for each other now and then.
const PINGS: &str = "icmp[icmptype] == icmp-echo or icmp[icmptype] == icmp-echoreply";

fn of(file: &PcapNg, interface: u32) -> Vec<Packet> {
    file.packets.iter().filter(|packet| packet.interface == interface).cloned().collect()
}

fn names(file: &PcapNg) -> Vec<&str> {
    file.interfaces.iter().map(|interface| interface.name.as_deref().expect("a name")).collect()
}

#[test]
fn a_pod_that_is_created_again_is_captured_from_its_first_containers_first_packet() {
    let node = Node::start();
    let web = node.pod("shop", "web-0").start();
    let (capture, other) = (Capture::new(), Capture::new());
    let args = ["--pod", "shop/web-0", "-w", capture.arg(), "--count", "12", PINGS];
    let mut sniff = Sniff::in_netns(&node.netns).args(args).start();
    let args = ["--pod", "shop/web-0", "--no-follow", "-w", other.arg(), PINGS];
    let not_following = Sniff::in_netns(&node.netns).args(args).start();
    traffic::ping(&node.netns, web.ipv4.into(), 3, 56);
    let uid = web.sandbox.uid.clone();
    drop(web);
    let line = sniff.wait_for_line("shop/web-0 is gone; waiting for it to be created again");
    assert!(line.contains("--no-follow"), "{line}");
    let file = other.read_whole(&not_following.wait());
    assert_eq!((file.interfaces.len(), file.packets.len()), (1, 6));

    let again = node.pod("shop", "web-0").run_sandbox();
    again.run_container("main", ContainerConfig::pinging(GATEWAY, 57));
    sniff.wait_for_line(&format!("shop/web-0 was created again: the one with the UID {uid}"));
    let file = capture.read_whole(&sniff.wait());
    assert_eq!(names(&file), ["shop/web-0/eth0"; 2]);
    for (interface, size) in [(0, 56), (1, 57)] {
        for direction in [Direction::In, Direction::Out] {
            assert_eq!(echoes(&of(&file, interface), direction, size), 3, "{interface} {direction:?}");
        }
    }
    let [before, after] = &file.interfaces[..] else { panic!("two interfaces") };
    assert_eq!(before.comment, None);
    assert!(after.description.as_ref().expect("a description").contains(&again.uid), "{after:?}");
    let comment = after.comment.as_deref().expect("a comment");
    assert!(comment.contains(" ms after the pod's sandbox was made"), "{comment}");
    let until = time_in(comment, &format!("the one with the UID {uid} was captured until "));
    let last = of(&file, 0).last().expect("packets").timestamp_ns;
    let first = of(&file, 1).first().expect("packets").timestamp_ns;
    assert!(last < until && until < first, "{last} {until} {first}: {comment}");
}

#[test]
fn labels_take_the_pods_that_are_there_and_those_that_come_and_no_others() {
    let node = Node::start();
    let there = node.pod("shop", "web-1").label("app", "web").start();
    let _stranger = node.pod("shop", "db").label("app", "db").start();
    let capture = Capture::new();
    let mut sniff = Sniff::in_netns(&node.netns)
        .args(["-l", "app=web", "-n", "shop", "-w", capture.arg(), "--count", "12", PINGS])
        .start();
    // Nobody is there yet.
    let waiting = Sniff::in_netns(&node.netns).args(["-l", "app=none", "-w", "-"]).start();
    traffic::ping(&node.netns, there.ipv4.into(), 3, 56);
    let _strangers = [
        node.pod("shop", "cache").label("app", "cache").run_sandbox(),
        node.pod("office", "web-2").label("app", "web").run_sandbox(),
    ];
    let comes = node.pod("shop", "web-2").label("app", "web").run_sandbox();
    comes.run_container("main", ContainerConfig::pinging(GATEWAY, 57));
    sniff.wait_for_line("shop/web-2/eth0: has come, and is captured too");
    let file = capture.read_whole(&sniff.wait());
    assert_eq!(names(&file), ["shop/web-1/eth0", "shop/web-2/eth0"]);
    for (interface, size) in [(0, 56), (1, 57)] {
        assert_eq!(echoes(&of(&file, interface), Direction::In, size), 3, "{interface}");
        let facts = file.interfaces[interface as usize].facts.as_deref();
        assert_eq!(facts, Some(format!("labels: app=web\nnode: {HOSTNAME}").as_str()), "{interface}");
    }
    assert_eq!(waiting.stop().success().captured, 0);
}

#[test]
fn a_pod_that_is_created_again_while_the_old_one_is_there_is_captured_beside_it() {
    let node = Node::start();
    let old = node.pod("shop", "web-0").start();
    let capture = Capture::new();
    let args = ["--pod", "shop/web-0", "-w", capture.arg(), PINGS];
    let mut sniff = Sniff::in_netns(&node.netns).args(args).start();
    let maps = BpfObjects::held_by(sniff.pid()).maps();
    let new = node.pod("shop", "web-0").start();
    let line = sniff.wait_for_line("was created again");
    assert!(line.contains(&format!("the one with the UID {} is still there", old.sandbox.uid)), "{line}");
    traffic::ping(&node.netns, new.ipv4.into(), 2, 57);
    traffic::ping(&node.netns, old.ipv4.into(), 3, 56);
    drop(old);
    sniff.wait_for_line("shop/web-0/eth0: the interface is gone");
    wait::until("maps for one interface", Duration::from_secs(10), || {
        (BpfObjects::held_by(sniff.pid()).maps() == maps).then_some(())
    });
    traffic::ping(&node.netns, new.ipv4.into(), 4, 58);
    let outcome = sniff.stop();
    assert!(!outcome.stderr.iter().any(|line| line.contains("waiting")), "{outcome:#?}");
    let file = capture.read_whole(&outcome);
    let (old, new) = (of(&file, 0), of(&file, 1));
    assert_eq!(old.len() + new.len(), 2 * (2 + 3 + 4));
    for direction in [Direction::In, Direction::Out] {
        assert_eq!(echoes(&old, direction, 56), 3);
        assert_eq!((echoes(&new, direction, 57), echoes(&new, direction, 58)), (2, 4));
    }
}
