//! What the file says besides packets: section header, interface descriptions and statistics.

use std::net::Ipv4Addr;

use sniff_tests::{machine::HOSTNAME, node::Node, pcap::Direction, sniff::Sniff, traffic, wireshark};

use crate::{Capture, echoes};

/// LINKTYPE_ETHERNET.
const ETHERNET: i32 = 1;

#[test]
fn the_file_describes_machine_pod_interface_and_counts() {
    let node = Node::start();
    let pod = node.pod("shop", "web").start();
    let capture = Capture::new();
    let sniff = Sniff::in_netns(&node.netns).args(["--pod", "shop/web", "-w", capture.arg()]).start();
    traffic::ping(&node.netns, pod.ipv4.into(), 3, 56);
    let counts = sniff.stop().success();
    wireshark::assert_clean(capture.path());
    let file = capture.read();

    let section = &file.section;
    assert!(section.application.as_ref().is_some_and(|a| a.starts_with("sniff ")), "{section:?}");
    assert!(section.os.as_ref().is_some_and(|os| os.contains("Linux")), "{section:?}");
    assert!(section.hardware.is_some(), "{section:?}");

    let [interface] = file.interfaces.as_slice() else { panic!("not one: {file:?}") };
    assert_eq!(interface.name.as_deref(), Some("shop/web/eth0"));
    assert_eq!(interface.link_type, ETHERNET);
    assert_eq!(interface.snaplen, 262_144);
    assert_eq!(interface.tsresol, Some(9));
    assert_eq!(interface.mac.as_deref(), Some(pod.eth0.mac.as_slice()));
    assert!(interface.os.as_ref().is_some_and(|os| os.contains("Linux")), "{interface:?}");
    let description = interface.description.as_deref().expect("a description");
    for part in [&pod.sandbox.uid, HOSTNAME, &pod.veth.name, "host veth"] {
        assert!(description.contains(part), "no {part} in {description}");
    }
    for &(address, prefix) in &pod.eth0.ipv4 {
        let mask = Ipv4Addr::from(u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0));
        assert!(interface.ipv4.contains(&(address, mask)), "{interface:?}");
    }
    assert!(interface.ipv6.contains(&(pod.ipv6, 64)), "{interface:?}");

    let [statistics] = file.statistics.as_slice() else { panic!("not one: {file:?}") };
    assert_eq!(statistics.interface, 0);
    assert_eq!(statistics.ifdrop, Some(0));
    assert!(statistics.ifrecv >= statistics.filteraccept, "{statistics:?}");
    assert_eq!(statistics.filteraccept, Some(counts.received));
    assert_eq!(statistics.osdrop, Some(counts.dropped));
    assert_eq!(statistics.usrdeliv, Some(counts.captured));
    assert_eq!(counts.captured, file.packets.len() as u64);
    let (start, end) = (statistics.start_ns.expect("a start"), statistics.end_ns.expect("an end"));
    assert!(file.packets.iter().all(|packet| (start..=end).contains(&packet.timestamp_ns)));
    assert_eq!(echoes(&file.packets, Direction::In, 56), 3);
    assert_eq!(echoes(&file.packets, Direction::Out, 56), 3);
}
