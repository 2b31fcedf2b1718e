//! What addresses are called: Wireshark knows it from the file alone.

use std::{fs, net::IpAddr, path::Path, time::Duration};

use sniff_pcapng::{InterfaceDescription, LinkType, Names, SectionHeader};
use sniff_tests::{
    machine::{self, Machine},
    netns::tool,
    node::{IMAGE, Node},
    sniff::{Running, Sniff},
    traffic, wait, wireshark,
};

use crate::Capture;

/// What Wireshark calls source and destination of each packet that a filter lets through, from the file and nothing else.
fn hosts(file: &Path, filter: &str) -> Vec<String> {
    let fields = ["ip.src_host", "ip.dst_host", "ipv6.src_host", "ipv6.dst_host"];
    let mut tshark = tool("tshark");
    tshark.args(["-N", "n", "-T", "fields", "-E", "separator=/s", "-Y", filter, "-r"]).arg(file);
    tshark.args(fields.iter().flat_map(|field| ["-e", field]));
    let output = tshark.output().expect("tshark");
    assert!(output.status.success(), "{output:?}");
    String::from_utf8_lossy(&output.stdout).lines().map(|line| line.trim().to_owned()).collect()
}

#[test]
fn a_file_tells_who_pods_are_and_what_their_addresses_are_called() {
    let node = Node::start();
    let web = |namespace: &str| {
        let web = node.pod(namespace, "web-0").label("app", "web").label("canary", "");
        web.label("statefulset.kubernetes.io/pod-name", "web-0").start()
    };
    let [shop, test] = ["shop", "test"].map(web);
    shop.sandbox.container_again("main", 3);
    let other = node.pod("shop", "db-0").start();
    let [named, bare] = [Capture::new(), Capture::new()];
    let args = ["--pod", "shop/web-0", "--pod", "test/web-0", "-f", "icmp or icmp6", "-w"];
    let start = |more: &[&str]| Sniff::in_netns(&node.netns).args(args).args(more).start();
    let running = [start(&[named.arg()]), start(&[bare.arg(), "--no-names"])];
    for address in [IpAddr::from(shop.ipv4), test.ipv4.into(), shop.ipv6.into()] {
        traffic::ping(&node.netns, address, 1, 56);
    }
    // The runtime tells of others meanwhile.
    let is_told = || fs::read(named.path()).is_ok_and(|file| file.windows(9).any(|it| it == b"db-0.shop"));
    wait::until("the names of other pods", Duration::from_secs(10), || is_told().then_some(()));
    let outcomes = running.map(Running::stop);
    let file = named.read_whole(&outcomes[0]);
    assert!(bare.read_whole(&outcomes[1]).names.is_empty());
    let facts = file.interfaces.iter().map(|interface| interface.facts.as_deref().unwrap_or_default());
    let facts: Vec<_> = facts.collect();
    let labels = "labels: app=web, canary=, statefulset.kubernetes.io/pod-name=web-0";
    let of_both = format!("{labels}\nowner: StatefulSet/web by its labels\nnode: {}", machine::HOSTNAME);
    assert_eq!(facts, [&format!("{of_both}\nimages: main={IMAGE}\nrestarts: main 3"), &of_both]);
    let called = |address: IpAddr| {
        let names = file.names.iter().filter(|(it, _)| *it == address);
        names.map(|(_, name)| name.as_str()).collect::<Vec<_>>()
    };
    assert_eq!(called(shop.ipv4.into()), ["web-0.shop"]);
    assert_eq!(called(shop.ipv6.into()), ["web-0.shop"]);
    assert_eq!(called(test.ipv4.into()), ["web-0.test"]);
    // One that is not captured, from the runtime.
    assert_eq!(called(other.ipv4.into()), ["db-0.shop"]);
    let requests = hosts(named.path(), "icmp.type == 8 or icmpv6.type == 128");
    assert_eq!(requests.len(), 3, "{requests:?}");
    for (request, name) in requests.iter().zip(["web-0.shop", "web-0.test", "web-0.shop"]) {
        assert!(request.ends_with(&format!(" {name}")), "{request}");
    }
}

#[test]
fn dns_answers_name_addresses_for_those_who_ask() {
    let machine = Machine::boot();
    let (node, pod) = (machine.netns(), machine.fake_pod("blue", 1));
    let [named, bare] = [Capture::new(), Capture::new()];
    let start = |more: &[&str]| {
        let args = ["--netns", "blue", "-f", "icmp or udp port 53", "-w"];
        Sniff::in_netns(&node).args(args).args(more).start()
    };
    let running = [start(&[named.arg(), "--dns-names", "--print"]), start(&[bare.arg()])];
    traffic::dns(&node, &pod.netns, pod.gateway4.into(), "API.example.test", pod.gateway4);
    traffic::ping(&node, pod.ipv4.into(), 1, 56);
    let [outcome, other] = running.map(Running::stop);
    assert!(bare.read_whole(&other).names.is_empty());
    let name = "api.example.test".to_owned();
    assert_eq!(named.read_whole(&outcome).names, [(pod.gateway4.into(), name)]);
    let (from, to) = (pod.gateway4, pod.ipv4);
    let requests = "icmp.type == 8";
    assert_eq!(hosts(named.path(), requests), [format!("api.example.test {to}")]);
    assert_eq!(hosts(bare.path(), requests), [format!("{from} {to}")]);
    let lines = String::from_utf8(outcome.stdout).expect("text");
    assert!(lines.contains(&format!(" api.example.test > {to}: ICMP echo request")), "{lines}");
    assert!(lines.contains(&format!(" {to}.")) && !lines.contains(&format!("{from} > ")), "{lines}");
}

#[test]
fn an_address_is_called_what_it_was_called_then() {
    let mut file = Vec::new();
    SectionHeader { application: "sniff".into(), ..SectionHeader::default() }.write(&mut file);
    InterfaceDescription::new(LinkType::Raw, 262_144, "a").write(&mut file);
    for name in ["web-0.shop", "web-1.shop"] {
        let mut names = Names::default();
        names.insert([10, 0, 0, 1].into(), name);
        names.write(&mut file);
        // An IPv4 header and nothing else, of protocol 59.
        let packet = [0x45, 0, 0, 20, 0, 0, 0, 0, 64, 59, 0x26, 0xb0, 10, 0, 0, 1, 10, 0, 0, 2];
        let len = packet.len() as u32;
        file.extend([6, 32 + len, 0, 0, 0, len, len].into_iter().flat_map(u32::to_ne_bytes));
        file.extend(packet);
        file.extend((32 + len).to_ne_bytes());
    }
    let capture = Capture::new();
    fs::write(capture.path(), file).expect("a file");
    wireshark::assert_clean(capture.path());
    assert_eq!(hosts(capture.path(), "ip"), ["web-0.shop 10.0.0.2", "web-1.shop 10.0.0.2"]);
}

#[test]
fn wireshark_shows_pods_and_ways_by_the_profile() {
    let machine = Machine::boot();
    let (node, pod) = (machine.netns(), machine.fake_pod("blue", 1));
    let folder = tempfile::tempdir().expect("a folder");
    let profile = folder.path().join("profiles/sniff");
    let args = ["--wireshark-profile", profile.to_str().expect("a plain path")];
    assert!(Sniff::in_netns(&node).args(args).run().status.success());
    let capture = Capture::new();
    let sniff = Sniff::in_netns(&node).args(["--netns", "blue", "-f", "icmp", "-w", capture.arg()]).start();
    traffic::ping(&node, pod.ipv4.into(), 1, 56);
    sniff.stop().success();
    let mut tshark = tool("tshark");
    tshark.env("WIRESHARK_CONFIG_DIR", folder.path()).args(["-C", "sniff", "-P", "-r"]).arg(capture.path());
    let output = tshark.output().expect("tshark");
    let lines = String::from_utf8_lossy(&output.stdout);
    assert!(
        lines.contains("netns:blue/eth0 Inbound") && lines.contains("netns:blue/eth0 Outbound"),
        "{output:?}"
    );
    tshark.args(["--color", "-T", "fields", "-e", "frame.coloring_rule.name"]);
    let output = tshark.output().expect("tshark");
    assert_eq!(String::from_utf8_lossy(&output.stdout).matches("Pod 1").count(), 2, "{output:?}");
}
