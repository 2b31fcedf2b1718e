//! The connections that carry a capture of a node are left out of it.

use std::{
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    os::fd::OwnedFd,
    process::Stdio,
};

use serde_json::json;
use sniff_tests::{netns::tool, pcap::PcapNg};

use super::{Shop, assert_pings, comments};

/// The test plays the kubelet, and whoever connects to it.
#[test]
fn the_stream_of_a_nodes_capture_is_left_out_of_it_and_nothing_else() {
    const PORT: u16 = 10443;
    let place = Shop::new();
    let info = json!({"kernelVersion": "6.18.0-test", "operatingSystem": "linux"});
    let status = json!({"nodeInfo": info, "daemonEndpoints": {"kubeletEndpoint": {"Port": PORT}}});
    place.cluster.put("nodes", "", "n1", json!({"metadata": {"name": "n1"}, "status": status}));
    let kubelet =
        place.node.netns.enter(|| TcpListener::bind(("0.0.0.0", PORT))).expect("a port of the node");
    let connect = || {
        let client =
            place.web.netns.enter(|| TcpStream::connect((place.web.gateway4, PORT))).expect("a connection");
        (client, kubelet.accept().expect("its other end").0)
    };
    let ports = |file: &PcapNg, port: u16| {
        let frames = file.packets.iter().map(|packet| &packet.data);
        // Source and destination port stand behind an IPv4 header without options.
        let both = |frame: &Vec<u8>| [34, 36].map(|at| u16::from_be_bytes([frame[at], frame[at + 1]]));
        frames.filter(|frame| frame.len() > 38 && both(frame).contains(&port)).count()
    };
    let talk = |(client, server): &(TcpStream, TcpStream)| {
        for (mut from, mut to) in [(client, server), (server, client)] {
            from.write_all(b"words").expect("room");
            to.read_exact(&mut [0; 5]).expect("words");
        }
    };
    let capture = |more: &[&str]| {
        let before = connect();
        let args = ["node/n1", "-i", &place.web.veth.name, "-w", "FILE", "-f", "tcp or icmp"];
        let client = place.listen(&[&args[..], more].concat());
        let after = connect();
        talk(&before);
        talk(&after);
        place.ping(1);
        client.wait_for_packets(2);
        let outcome = client.stop();
        outcome.assert_success();
        let file = outcome.file();
        assert_pings(&file, 56, 1);
        let counts = [before, after].map(|(client, _)| {
            let port = client.local_addr().expect("an address").port();
            (port, ports(&file, port))
        });
        (outcome, file, counts)
    };

    let (outcome, file, [(before, of_before), (_, of_after)]) = capture(&[]);
    assert_eq!(of_before, 0);
    assert!(of_after >= 6, "{of_after} of a handshake and two segments with their acknowledgements");
    let left_out = format!("and host {} and port {before})", place.web.ipv4);
    let comment = &comments(&file, &place.web.veth.name)[0];
    assert!(
        comment.contains("one of which carries this capture: tcp and (") && comment.contains(&left_out),
        "{comment}"
    );
    assert!(outcome.said("left out are the kubelet's connections") && outcome.said("--include-own-stream"));

    let (_, file, [(_, of_before), (_, of_after)]) = capture(&["--include-own-stream"]);
    assert!(of_before >= 2 && of_after >= 6, "{of_before}, {of_after}");
    assert_eq!(comments(&file, &place.web.veth.name), [""]);
}

/// A process of the node has the kubelet's sockets: the port that it serves, and a connection to the container runtime.
#[test]
fn what_goes_on_to_the_runtime_is_left_out_of_any() {
    const PORT: u16 = 10443;
    let place = Shop::new();
    let info = json!({"kernelVersion": "6.18.0-test", "operatingSystem": "linux"});
    let status = json!({"nodeInfo": info, "daemonEndpoints": {"kubeletEndpoint": {"Port": PORT}}});
    place.cluster.put("nodes", "", "n1", json!({"metadata": {"name": "n1"}, "status": status}));
    let node = &place.node.netns;
    let listen = |address| node.enter(|| TcpListener::bind(address)).expect("a port of the node");
    let (kubelet, runtime) = (listen(("0.0.0.0", PORT)), listen(("127.0.0.1", 0)));
    let at = runtime.local_addr().expect("an address");
    let to_runtime = node.enter(|| TcpStream::connect(at)).expect("a connection");
    let port = to_runtime.local_addr().expect("an address").port();
    let _served = place.web.netns.enter(|| TcpStream::connect((place.web.gateway4, PORT))).expect("another");
    let [serves, asks] = [OwnedFd::from(kubelet), OwnedFd::from(to_runtime)].map(Stdio::from);
    let mut owner = node.spawn(tool("sleep").arg("1000").stdin(serves).stdout(asks));

    let client = place.listen(&["node/n1", "-i", "any", "-w", "FILE", "-f", "icmp"]);
    place.ping(1);
    client.wait_for_packets(2);
    let outcome = client.stop();
    owner.kill().and_then(|()| owner.wait()).expect("the end of sleep");
    outcome.assert_success();
    let comment = &comments(&outcome.file(), "lo")[0];
    let left_out = format!("(host 127.0.0.1 and port {port} and host 127.0.0.1 and port {})", at.port());
    assert!(comment.contains(&left_out), "{comment}: {left_out}");
}
