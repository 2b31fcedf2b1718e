//! `kubectl sniff` against a cluster of test machines: from a name to packets in one file, and every end.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    os::{
        fd::OwnedFd,
        unix::fs::{PermissionsExt as _, symlink},
    },
    process::Stdio,
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use nix::sys::signal::Signal;
use serde_json::{Value, json};
use sniff_tests::{
    client::{Client, Outcome},
    cluster::Cluster,
    frame,
    machine::Machine,
    netns::tool,
    node::{Node, Pod},
    pcap::{self, Direction, PcapNg},
    sniff, traffic, wait, wireshark,
};

use sniff_pcapng::{InterfaceDescription, LinkType, SectionHeader, Watermark};
use sniff_protocol::{
    MAX_PAYLOAD, PREFACE, ToClient, encode,
    message::{End, Event, NodeHello, Reason, TargetId},
};

use crate::echoes;

const LISTENING: &str = "listening after";
/// A far side whose client is gone ends within its lease, and then its pod goes.
const GONE: Duration = Duration::from_secs(30);

/// A node with one pod, `shop/web-0`, and a cluster that knows both.
struct Place {
    web: Pod<'static>,
    node: &'static Node,
    cluster: Cluster,
}

impl Place {
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
        let cluster = Cluster::start([("n1", &node.netns)]);
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

#[test]
fn a_pod_is_captured_by_name_through_the_daemonset() {
    let place = Place::new();
    let client =
        place.listen(&["web-0", "-n", "shop", "-c", "app", "-i", "eth0", "-f", "icmp", "-o", "FILE"]);
    place.ping(3);
    client.wait_for_packets(6);
    let outcome = client.stop();
    outcome.assert_success();
    assert!(
        outcome.said("6 packets captured") && outcome.said("0 packets dropped by kernel"),
        "{outcome:#?}"
    );
    wireshark::assert_clean(&outcome.path());
    let file = outcome.file();
    assert_pings(&file, 56, 3);
    assert_eq!(names(&file), ["shop/web-0/eth0"]);
    assert!(file.section.application.as_deref().is_some_and(|it| it.starts_with("kubectl-sniff")));
    assert_eq!(file.statistics[0].usrdeliv, Some(6));
    place.assert_made_no_pod();
    place.assert_nothing_runs(Duration::from_secs(5));
}

#[test]
fn what_may_be_wrong_with_a_pods_interfaces_reaches_the_client_and_the_file() {
    let place = Place::new();
    let (pod, inner) = (&place.web.netns, place.node.machine.add_netns("inner"));
    pod.run("ip link set eth0 netns inner");
    pod.run("ip link add eth0 type veth peer name forged netns inner");
    inner.run("ip link set forged up");
    pod.run("ip link set eth0 up");
    frame::tun_device(pod, "gre7", 778);
    let client = place.listen(&["web-0", "-n", "shop", "-w", "FILE"]);
    let outcome = client.stop();
    outcome.assert_success();
    let [comment] = &comments(&outcome.file(), "shop/web-0/eth0")[..] else { panic!("{outcome:#?}") };
    let doubts = [
        "neither in this namespace nor on the node",
        "not captured of shop/web-0: gre7 (link-layer type 778 (GRE))",
    ];
    for doubt in doubts {
        assert!(comment.contains(doubt), "{comment}");
        let lines = outcome.stderr.iter().filter(|line| line.contains(doubt)).count();
        assert_eq!(lines, 1, "{doubt}: {outcome:#?}");
    }
    let mode = fs::metadata(outcome.path()).expect("a file").permissions().mode();
    assert_eq!(mode & 0o777, 0o600, "{mode:o}");
}

#[test]
fn the_clients_file_is_not_written_through_a_link() {
    let place = Place::new();
    let folder = tempfile::tempdir().expect("a folder");
    let [secret, laid] = ["secret", "laid"].map(|name| folder.path().join(name));
    fs::write(&secret, "secret").expect("a file");
    symlink(&secret, &laid).expect("a link");
    let laid = laid.to_str().expect("a plain path");
    let outcome = Client::start(&place.cluster, &["web-0", "-n", "shop", "-w", laid]).outcome();
    outcome.assert_failure(&[laid, "symbolic link"]);
    assert_eq!(fs::read_to_string(&secret).expect("a file"), "secret");
}

#[test]
fn the_first_packet_is_told_of_when_it_comes() {
    let place = Place::new();
    let began = Instant::now();
    let mut client = Client::start(&place.cluster, &["shop/web-0", "-w", "FILE", "--", "icmp"]);
    // Packets all the time.
    let flood = thread::scope(|scope| {
        let pinging = scope.spawn(|| {
            while began.elapsed() < Duration::from_secs(3) {
                place.ping(1);
            }
        });
        let line = client.wait_for("first packet after");
        pinging.join().expect("pings");
        line
    });
    let seconds = flood.split("after ").nth(1).and_then(|rest| rest.split(' ').next());
    let seconds: f64 = seconds.expect("a time").parse().expect("a number");
    assert!(seconds > 0.0 && seconds <= client.age().as_secs_f64(), "{flood}");
    client.wait_for(LISTENING);
    client.stop().assert_success();
}

#[test]
fn lines_are_printed_where_there_is_no_wireshark() {
    let place = Place::new();
    let client = place.listen(&["shop/web-0", "--print", "--count", "2", "--", "icmp"]);
    place.ping(3);
    let outcome = client.outcome();
    outcome.assert_success();
    let lines = String::from_utf8(outcome.stdout).expect("text");
    assert_eq!(lines.lines().count(), 2, "{lines}");
    assert!(
        lines.lines().all(|line| line.contains("shop/web-0/eth0") && line.contains("ICMP echo")),
        "{lines}"
    );
}

#[test]
fn wireshark_gets_the_packets_and_ends_the_capture_when_it_is_closed() {
    let place = Place::new();
    let mut client =
        Client::start_with_wireshark(&place.cluster, &["shop/web-0", "--", "icmp"], "head -c 1500");
    client.wait_for(LISTENING);
    wait::until("Wireshark", Duration::from_secs(20), || client.file().exists().then_some(()));
    place.ping(20);
    let args = fs::read_to_string(client.file().with_extension("args")).expect("arguments");
    let outcome = client.outcome();
    outcome.assert_success();
    assert_eq!(args, "-k\n-i\n-\n-o\ngui.window_title:shop/web-0\n");
    let got = fs::read(outcome.path()).expect("what it got");
    assert_eq!((got.len(), &got[..4]), (1500, &[0x0a, 0x0d, 0x0d, 0x0a][..]));
    place.assert_nothing_runs(Duration::from_secs(5));
}

/// Ten pods on two nodes by label; one is restarted, one added, one deleted.
#[test]
fn pods_of_two_nodes_are_followed_into_one_file() {
    let nodes = [Node::start(), Node::start()];
    let cluster = Cluster::start([("n1", &nodes[0].netns), ("n2", &nodes[1].netns)]);
    cluster.add_agent("n1");
    cluster.add_agent("n2");
    let labels = json!({"app": "web"});
    let add = |name: &str, at: usize| {
        let pod = nodes[at].pod("shop", name).start();
        cluster.add_pod("shop", name, &pod.sandbox.uid, ["n1", "n2"][at], &labels);
        pod
    };
    let mut pods: Vec<(usize, Pod<'_>)> =
        (0..10).map(|at| (at % 2, add(&format!("web-{at}"), at % 2))).collect();
    let deployment = json!({"metadata": {"name": "web", "namespace": "shop"},
        "spec": {"selector": {"matchLabels": labels}, "template": {"metadata": {}, "spec": {"containers": []}}}});
    cluster.put("deployments", "shop", "web", deployment);
    cluster.add_pod("shop", "other", "0-0", "n1", &json!({"app": "other"}));

    let mut client = Client::start(&cluster, &["deploy/web", "-n", "shop", "-w", "FILE", "-f", "icmp"]);
    client.wait_for(LISTENING);
    let ping =
        |(at, pod): &(usize, Pod<'_>), size| traffic::ping(&nodes[*at].netns, pod.ipv4.into(), 2, size);
    pods.iter().for_each(|pod| ping(pod, 56));

    // The server forgets where the watch was, which then lists anew.
    cluster.forget_versions();
    // Deleted.
    cluster.remove_pod("shop", "web-9");
    client.wait_for("shop/web-9 leaves");
    drop(pods.pop());
    // Restarted: the same name, another pod.
    cluster.remove_pod("shop", "web-8");
    client.wait_for("shop/web-8 leaves");
    drop(pods.pop());
    let again = (1, add("web-8", 1));
    client.wait_for("capturing shop/web-8 on node n2");
    ping(&again, 57);
    // Added.
    let more = (0, add("web-10", 0));
    client.wait_for("capturing shop/web-10 on node n1");
    ping(&more, 58);
    ping(&pods[0], 59);
    client.wait_for_packets(52);

    let outcome = client.stop();
    outcome.assert_success();
    wireshark::assert_clean(&outcome.path());
    let file = outcome.file();
    assert_pings(&file, 56, 20);
    for size in [57, 58, 59] {
        assert_pings(&file, size, 2);
    }
    assert_eq!(file.interfaces.len(), 12);
    let restarted = comments(&file, "shop/web-8/eth0");
    assert!(restarted[0].is_empty() && restarted[1].contains("in place of an earlier pod"), "{restarted:?}");
    assert!(comments(&file, "shop/web-10/eth0")[0].contains("joined the running capture"));
    assert_eq!(file.packets_of("shop/web-0/eth0").len(), 8);
    assert!(names(&file).iter().all(|name| *name != "shop/other/eth0"));
    let watches = cluster.log().iter().filter(|line| line.starts_with("watch")).count();
    assert!(watches <= 3, "one watch, and one after each time it was lost: {:#?}", cluster.log());
}

/// A pod whose init container hangs has a network all the same, as soon as it has a sandbox.
#[test]
fn a_pod_is_captured_in_its_init_containers() {
    let place = Place::new();
    let init = place.web.sandbox.container("wait-for-db");
    let status_of_init = |state: &Value| {
        json!([{"name": "wait-for-db", "image": "", "imageID": "", "ready": false, "restartCount": 0,
            "containerID": format!("containerd://{}", init.id), "state": state}])
    };
    let spec = json!({"nodeName": "n1", "initContainers": [{"name": "wait-for-db"}], "containers": [{"name": "app"}]});
    let set = |name: &str, uid: &str, spec: &Value, status: &Value| {
        let metadata = json!({"namespace": "shop", "name": name, "uid": uid, "labels": {"app": "web"}});
        place.cluster.put(
            "pods",
            "shop",
            name,
            json!({"metadata": metadata, "spec": spec, "status": status}),
        );
    };
    let set_web = |status: &Value| set("web-0", &place.web.sandbox.uid, &spec, status);
    let address = json!({"phase": "Pending", "podIP": "10.88.0.2"});

    set_web(&json!({"phase": "Pending", "initContainerStatuses": status_of_init(&json!({"waiting": {}}))}));
    let mut client = Client::start(
        &place.cluster,
        &["-l", "app=web", "-n", "shop", "-c", "wait-for-db", "-w", "FILE", "-f", "icmp"],
    );
    client.wait_for("no pod matches that runs; waiting for one");
    let mut of_node = spec.clone();
    of_node["hostNetwork"] = json!(true);
    set("proxy", "0-0", &of_node, &address);
    client.wait_for("shop/proxy uses the network of its node");
    set_web(&json!({"phase": "Pending", "initContainerStatuses": status_of_init(&json!({"running": {}}))}));
    client.wait_for("capturing shop/web-0 on node n1");
    place.ping(2);
    // Between two init containers, and then past them.
    set_web(&address);
    set_web(&json!({"phase": "Running", "podIP": "10.88.0.2"}));
    place.ping(2);
    client.wait_for_packets(8);

    let outcome = client.stop();
    outcome.assert_success();
    let file = outcome.file();
    assert_pings(&file, 56, 4);
    assert_eq!(names(&file), ["shop/web-0/eth0"]);
    // A name alone, without waiting for anything.
    set_web(&address);
    place.listen(&["shop/web-0", "--no-follow", "-w", "FILE"]).stop().assert_success();
}

#[test]
fn no_follow_keeps_to_the_pods_of_the_start() {
    let place = Place::new();
    let mut client = place.listen(&["-l", "app=web", "-A", "--no-follow", "-w", "FILE"]);
    place.web.sandbox.stop();
    client.wait_for("nothing is left to capture");
    let outcome = client.outcome();
    outcome.assert_success();
    assert_eq!(names(&outcome.file()), ["shop/web-0/eth0"]);
    assert!(place.cluster.log().iter().all(|line| !line.starts_with("watch")));
}

#[test]
fn a_node_is_captured_at_its_interface() {
    let place = Place::new();
    let client = place.listen(&["node/n1", "-i", &place.web.veth.name, "-w", "FILE", "--", "icmp"]);
    place.ping(2);
    client.wait_for_packets(4);
    let outcome = client.stop();
    outcome.assert_success();
    assert_eq!(outcome.file().packets.len(), 4);
}

/// The test plays the kubelet, and whoever connects to it.
#[test]
fn the_stream_of_a_nodes_capture_is_left_out_of_it_and_nothing_else() {
    const PORT: u16 = 10443;
    let place = Place::new();
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
    let place = Place::new();
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

#[test]
fn without_a_daemonset_a_pod_is_made_and_removed() {
    let place = Place::without_daemonset();
    place.cluster.set_pod_start(Duration::from_millis(300));
    let mut client = place.listen(&["shop/web-0", "--image", "sniff:test", "-w", "FILE", "-f", "icmp"]);
    let [pod] = &place.cluster.pods("sniff")[..] else { panic!("not one pod") };
    let pod = place.cluster.pod("sniff", pod).expect("the pod");
    assert_eq!(pod["spec"]["nodeName"], "n1");
    assert_eq!(pod["metadata"]["annotations"]["sniff/who"], "jane");
    assert_eq!(pod["metadata"]["annotations"]["sniff/what"], "shop/web-0");
    client.wait_for("made job sniff/sniff-");
    place.ping(2);
    client.wait_for_packets(4);
    let outcome = client.stop();
    outcome.assert_success();
    assert_pings(&outcome.file(), 56, 2);
    wait::until("the end of the pod", Duration::from_secs(5), || {
        place.cluster.pods("sniff").is_empty().then_some(())
    });
    place.assert_nothing_runs(Duration::from_secs(1));
}

#[test]
fn a_short_lived_pod_takes_the_buffer_that_is_asked_for() {
    let place = Place::without_daemonset();
    let client =
        place.listen(&["shop/web-0", "--image", "sniff:test", "-B", "600MiB", "-w", "FILE", "-f", "icmp"]);
    let [pod] = &place.cluster.pods("sniff")[..] else { panic!("not one pod") };
    let pod = place.cluster.pod("sniff", pod).expect("the pod");
    assert_eq!(pod["spec"]["containers"][0]["resources"]["limits"]["memory"], "728Mi");
    place.ping(1);
    client.wait_for_packets(2);
    let outcome = client.stop();
    outcome.assert_success();
    assert_pings(&outcome.file(), 56, 1);
}

#[test]
fn a_killed_client_leaves_neither_capture_nor_pod() {
    let place = Place::without_daemonset();
    let client = place.listen(&["shop/web-0", "--agentless", "--image", "sniff:test", "-w", "FILE"]);
    place.ping(1);
    assert_eq!(place.cluster.pods("sniff").len(), 1);
    client.signal(Signal::SIGKILL);
    assert_eq!(client.outcome().code, None);
    wait::until("the end of the pod", GONE, || place.cluster.pods("sniff").is_empty().then_some(()));
    place.assert_nothing_runs(GONE);
}

#[test]
fn a_client_that_is_killed_while_its_pod_starts_leaves_nothing() {
    let place = Place::without_daemonset();
    place.cluster.set_pod_start(Duration::from_secs(1));
    let mut client = Client::start(&place.cluster, &["shop/web-0", "--image", "sniff:test", "-w", "FILE"]);
    client.wait_for("waiting for");
    client.signal(Signal::SIGKILL);
    client.outcome();
    assert_eq!(place.cluster.pods("sniff").len(), 1);
    wait::until("the end of the pod", GONE, || place.cluster.pods("sniff").is_empty().then_some(()));
    place.assert_nothing_runs(GONE);
}

#[test]
fn a_job_whose_client_is_killed_before_its_pod_runs_goes_within_a_minute() {
    let place = Place::without_daemonset();
    place.cluster.set_pod_start(Duration::from_secs(3600));
    place.cluster.set_job_second(Duration::from_millis(100));
    let mut client = Client::start(&place.cluster, &["shop/web-0", "--image", "sniff:test", "-w", "FILE"]);
    client.wait_for("waiting for");
    client.signal(Signal::SIGKILL);
    client.outcome();
    let [job] = &place.cluster.jobs("sniff")[..] else { panic!("not one job") };
    assert_eq!(job["spec"]["activeDeadlineSeconds"], 60);
    let all_gone = || place.cluster.jobs("sniff").is_empty() && place.cluster.pods("sniff").is_empty();
    wait::until("the end of the job and its pod", GONE, || all_gone().then_some(()));
}

#[test]
fn a_pod_that_takes_long_to_start_is_waited_for_and_then_lives_as_long_as_its_capture() {
    let place = Place::without_daemonset();
    place.cluster.set_pod_start(Duration::from_secs(17));
    let mut client = Client::start(&place.cluster, &["shop/web-0", "--image", "sniff:test", "-w", "FILE"]);
    let deadline = || match &place.cluster.jobs("sniff")[..] {
        [job] => job["spec"]["activeDeadlineSeconds"].as_u64(),
        jobs => panic!("not one job: {jobs:#?}"),
    };
    client.wait_for("waiting for");
    assert_eq!(deadline(), Some(60));
    wait::until("a sign of life", GONE, || deadline().is_some_and(|seconds| seconds >= 75).then_some(()));
    client.wait_for(LISTENING);
    assert_eq!(deadline(), None, "the pod's own holds from here");
    client.stop().assert_success();
    assert!(place.cluster.jobs("sniff").is_empty());
}

#[test]
fn a_pod_that_only_has_the_labels_of_the_daemonsets_is_told_nothing() {
    let place = Place::without_daemonset();
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
    let place = Place::without_daemonset();
    place.cluster.add_impostors();
    place.listen(&["shop/web-0", "--image", "sniff:test", "-w", "FILE"]).stop().assert_success();
    let [pod] = &place.execs()[..] else { panic!("{:?}", place.execs()) };
    assert!(pod.starts_with("sniff/sniff-"), "{pod}");
}

#[test]
fn nodes_are_not_exposed_to_whoever_may_exec_into_a_namespace() {
    let place = Place::without_daemonset();
    let args = ["shop/web-0", "--image", "sniff:test", "-w", "FILE", "--agent-namespace", "tools"];
    for more in [&[][..], &["--dry-run"]] {
        let outcome = Client::start(&place.cluster, &[&args, more].concat()).outcome();
        outcome.assert_failure(&["namespace tools", "would rule node n1", "--expose-nodes"]);
    }
    place.assert_made_no_pod();
    let doctor = Client::start(&place.cluster, &["doctor", "--agent-namespace", "tools"]).outcome();
    let said = String::from_utf8(doctor.stdout).expect("text");
    assert!(said.contains("namespace tools is not known to be sniff's own"), "{said}");

    let client = place.listen(&[&args[..], &["--expose-nodes"]].concat());
    assert_eq!(place.cluster.pods("tools").len(), 1);
    client.stop().assert_success();

    let labels = json!({"app.kubernetes.io/name": "sniff"});
    place.cluster.put("namespaces", "", "tools", json!({"metadata": {"name": "tools", "labels": labels}}));
    place.listen(&args).stop().assert_success();

    let outcome = Client::start(&place.cluster, &[&args[..6], &["none"]].concat()).outcome();
    outcome.assert_failure(&["there is no namespace none", "kubectl create namespace none"]);
}

#[test]
fn a_node_is_joined_again_after_its_connection_was_cut() {
    let place = Place::new();
    let client = place.listen_to_pings(&["shop/web-0"]);
    place.cluster.cut_execs();
    let outcome = place.assert_joined_again(client, "cut");
    assert!(outcome.said("10 packets captured; no final counts from node n1"), "{outcome:#?}");
}

#[test]
fn a_connection_that_carries_nothing_any_more_is_noticed_at_both_ends() {
    let place = Place::new();
    let client = place.listen_to_pings(&["shop/web-0"]);
    place.cluster.freeze_execs();
    place.assert_joined_again(client, "nothing was heard");
}

#[test]
fn a_session_that_is_told_to_end_by_its_daemonset_is_followed_by_another() {
    let place = Place::new();
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
    let place = Place::new();
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
    let place = Place::new();
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
    let place = Place::new();
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
    let place = Place::new();
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
    let place = Place::new();
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
    let place = Place::without_daemonset();
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

/// Three MB of pings, which a slow connection has still to bring when the capture is told to end.
fn ping_much(place: &Place) {
    place.ping_of(50, 30_000);
}

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
    let place = Place::new();
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
    let place = Place::new();
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
    let place = Place::new();
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
    let place = Place::new();
    let client = place.listen_to_pings(&["shop/web-0"]);
    client.signal(Signal::SIGTERM);
    client.signal(Signal::SIGTERM);
    let outcome = client.outcome();
    outcome.assert_success();
    assert_complete(&outcome);
}

#[test]
fn what_nohup_ignores_is_ignored() {
    let place = Place::new();
    let mut client = Client::start_under_nohup(&place.cluster, &["shop/web-0", "-w", "FILE", "-f", "icmp"]);
    client.wait_for(LISTENING);
    client.signal(Signal::SIGHUP);
    place.ping(2);
    client.wait_for_packets(4);
    let outcome = client.stop();
    outcome.assert_success();
    assert_pings(&outcome.file(), 56, 2);
}

#[test]
fn a_full_disk_leaves_whole_blocks_and_what_is_in_them_is_counted() {
    let place = Place::new();
    let client = place.listen(&["shop/web-0", "-w", "FILE", "-f", "icmp"]);
    client.limit_file_size(100_001);
    ping_much(&place);
    let outcome = client.outcome();
    outcome.assert_failure(&["cannot write", "File too large"]);
    let file = outcome.file();
    assert!(file.packets.len() > 50, "{}", file.packets.len());
    assert!(outcome.said(&format!("{} packets captured", file.packets.len())), "{:#?}", outcome.stderr);
    place.assert_nothing_runs(GONE);
}

#[test]
fn a_file_goes_on_when_nobody_reads_the_lines() {
    let place = Place::new();
    let args = ["shop/web-0", "-w", "FILE", "--print", "-f", "icmp"];
    let mut client = Client::start_unread(&place.cluster, &args);
    client.wait_for(LISTENING);
    place.ping(2);
    client.wait_for("nobody reads the lines any more");
    place.ping(3);
    client.wait_for_packets(10);
    let outcome = client.stop();
    outcome.assert_success();
    assert_pings(&outcome.file(), 56, 5);
}

#[test]
fn losses_are_told_when_they_happen() {
    let place = Place::new();
    place.cluster.slow_execs(400_000, 256 << 10);
    let mut client =
        place.listen(&["shop/web-0", "-w", "FILE", "--compress", "never", "-B", "512KiB", "-f", "icmp"]);
    place.ping_of(200, 60_000);
    let line = client.wait_for("packets are being lost");
    assert!(line.contains("node n1"), "{line}");
}

#[test]
fn what_cannot_be_captured_ends_and_is_not_waited_for() {
    let place = Place::new();
    let run = |args: &[&str]| Client::start(&place.cluster, &[args, &["-w", "FILE"]].concat()).outcome();
    run(&["--node", "n7"]).assert_failure(&["there is no node n7", "n1"]);
    run(&["shop/web-0", "-i", "eth7"]).assert_failure(&["shop/web-0", "eth7"]);
    run(&["-n", "shop", "-l", "app=web", "-i", "eth7"]).assert_failure(&["shop/web-0", "eth7"]);
    let why = ["shop/web-0 on node n1 was not captured: ", "eth7"];
    run(&["-n", "shop", "-l", "app=web", "-i", "eth7", "--duration", "1s"]).assert_failure(&why);

    let old = tempfile::NamedTempFile::new().expect("a file");
    fs::write(old.path(), "the capture of yesterday").expect("a file");
    let path = old.path().to_str().expect("a plain path");
    let args = ["-n", "shop", "-l", "app=nope", "--duration", "1s", "-w", path];
    let outcome = Client::start(&place.cluster, &args).outcome();
    outcome.assert_success();
    assert!(outcome.said("0 packets captured"), "{:#?}", outcome.stderr);
    assert!(!outcome.said("waiting for the last word"), "of no node: {:#?}", outcome.stderr);
    let file = pcap::read_pcapng(old.path());
    assert_eq!((file.packets.len(), file.interfaces.len()), (0, 0));

    fs::write(old.path(), "the capture of yesterday").expect("a file");
    let wrong = ["shop/web-0", "-w", path, "-f", "tcp prot 80"];
    Client::start(&place.cluster, &wrong).outcome().assert_failure(&["node n1", "the filter"]);
    assert_eq!(fs::read(old.path()).expect("a file"), b"the capture of yesterday");
}

#[test]
fn a_node_that_fails_at_the_start_is_tried_again_with_all_who_were_announced() {
    let nodes = [Node::start(), Node::start()];
    let cluster = Cluster::start([("n1", &nodes[0].netns), ("n2", &nodes[1].netns)]);
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

/// One of two nodes says hello and then nothing of use.
#[test]
fn a_duration_ends_whatever_nodes_do() {
    let place = Place::new();
    let machine = Machine::boot();
    let elsewhere = machine.netns();
    let cluster = Cluster::start([("n1", &place.node.netns), ("n2", &elsewhere)]);
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

/// A frame of a few hundred bytes that is larger than any payload once it is unpacked: one byte, again and again.
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
    // Kind and flags: packets, packed.
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
    let place = Place::new();
    let machine = Machine::boot();
    let elsewhere = machine.netns();
    let web = || TargetId::Pod {
        namespace: "shop".into(),
        name: "web-0".into(),
        uid: place.web.sandbox.uid.clone(),
    };
    let of_another = Event::TargetGone { target: web(), why: "it ended".into() };
    let failed = Event::TargetFailed { target: web(), error: "it ended".into() };
    let alias = Event::TargetAdded { target: web(), interfaces: vec!["shop/web-0/eth0".into()] };
    let ended = |reason| ToClient::End(End { reason, captured: 0, matched: 0, dropped: 0 });
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
        (bomb(), "unpack to more than 4194304"),
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
        let cluster = Cluster::start([("n1", &place.node.netns), ("n2", &elsewhere)]);
        cluster.add_agent("n1");
        cluster.add_agent("n2");
        cluster.add_pod("shop", "web-0", &place.web.sandbox.uid, "n1", &json!({}));
        cluster.add_pod("shop", "db-0", "u-2", "n2", &json!({}));
        let file = tempfile::NamedTempFile::new().expect("a file");
        fs::write(file.path(), lie).expect("a file");
        cluster.let_impostor_speak("n2", file.path().to_owned());
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

#[test]
fn pods_that_cannot_start_say_why_and_go() {
    let place = Place::without_daemonset();
    let run = |args: &[&str]| {
        Client::start(&place.cluster, &[&["shop/web-0", "-w", "FILE"], args].concat()).outcome()
    };
    run(&["--image", "missing"]).assert_failure(&["ImagePullBackOff", "cannot start", "n1"]);
    run(&[]).assert_failure(&["--image", "SNIFF_IMAGE", "n1"]);
    place.cluster.restrict("sniff");
    run(&["--image", "sniff:test"]).assert_failure(&["PodSecurity", "sniff", "--agent-namespace"]);
    wait::until("the end of the pods", GONE, || place.cluster.pods("sniff").is_empty().then_some(()));
}

#[test]
fn an_interrupt_while_a_pod_starts_removes_it() {
    let place = Place::without_daemonset();
    place.cluster.set_pod_start(Duration::from_secs(3));
    let mut client = Client::start(&place.cluster, &["shop/web-0", "--image", "sniff:test", "-w", "FILE"]);
    client.wait_for("waiting for");
    client.stop().assert_success();
    assert!(place.cluster.pods("sniff").is_empty());
}

#[test]
fn a_dry_run_makes_nothing() {
    let place = Place::without_daemonset();
    let args = ["shop/web-0", "--image", "sniff:test", "--dry-run", "-B", "1GiB"];
    let outcome = Client::start(&place.cluster, &args).outcome();
    outcome.assert_success();
    let pod: Value = serde_json::from_slice(&outcome.stdout).expect("a pod");
    let template = &pod["spec"]["template"];
    assert_eq!((&pod["kind"], &template["spec"]["nodeName"]), (&json!("Job"), &json!("n1")));
    assert_eq!(template["spec"]["containers"][0]["resources"]["limits"]["memory"], "1152Mi");
    let log = place.cluster.log();
    assert!(log.iter().all(|line| !line.starts_with("create") && !line.starts_with("delete")), "{log:#?}");
}

/// Each step is forbidden in turn; the message names what is missing.
#[test]
fn what_rbac_forbids_is_named() {
    let place = Place::without_daemonset();
    let deployment = json!({"metadata": {"name": "web"}, "spec": {"selector": {"matchLabels": {"app": "web"}},
        "template": {"metadata": {}, "spec": {"containers": []}}}});
    place.cluster.put("deployments", "shop", "web", deployment);
    let refused = |verb, resource, args: &[&str], parts: &[&str]| {
        let cluster = Cluster::start([("n1", &place.node.netns)]);
        cluster.add_pod("shop", "web-0", &place.web.sandbox.uid, "n1", &json!({"app": "web"}));
        cluster.deny(verb, resource);
        let outcome = Client::start(&cluster, &[args, &["-w", "FILE"]].concat()).outcome();
        outcome.assert_failure(parts);
        let gone = || cluster.pods("sniff").is_empty().then_some(());
        wait::until("the end of the pods", GONE, gone);
    };
    let image = ["shop/web-0", "--agentless", "--image", "sniff:test"];
    refused("list", "pods", &["-l", "app=web", "-n", "shop"], &["list pods in namespace shop"]);
    refused(
        "get",
        "deployments",
        &["deploy/web", "-n", "shop"],
        &["get deployments.apps web in namespace shop"],
    );
    refused("list", "pods", &["shop/web-0"], &["list pods", "namespace sniff"]);
    refused("create", "jobs", &image, &["create jobs.batch in namespace sniff"]);
    refused("patch", "jobs", &image, &["patch jobs.batch sniff-", "in namespace sniff"]);
    refused("get", "nodes", &["node/n1", "-i", "eth0"], &["get nodes n1"]);
    refused("get", "pods/exec", &image, &["get pods/exec", "namespace sniff"]);
    refused("create", "pods/exec", &image, &["create pods/exec", "namespace sniff"]);
    refused("list", "pods", &["-A", "-l", "app=web"], &["list pods in all namespaces"]);
    for (kind, resource) in [
        ("sts", "statefulsets.apps"),
        ("ds", "daemonsets.apps"),
        ("rs", "replicasets.apps"),
        ("job", "jobs.batch"),
        ("svc", "services"),
    ] {
        let denied = resource.split('.').next().expect("a name");
        let missing = format!("get {resource} web in namespace shop");
        refused("get", denied, &[&format!("{kind}/web"), "-n", "shop"], &[&missing]);
    }
}

#[test]
fn a_pod_that_may_not_be_removed_is_named() {
    let place = Place::without_daemonset();
    place.cluster.deny("delete", "jobs");
    let client = place.listen(&["shop/web-0", "--image", "sniff:test", "-w", "FILE"]);
    let cleanup = Client::start(&place.cluster, &["cleanup"]).outcome();
    cleanup.assert_failure(&["delete jobs.batch sniff-"]);
    let outcome = client.stop();
    let stderr = outcome.stderr.join("\n");
    assert!(stderr.contains("is left to go by itself, or by kubectl sniff cleanup: you may not"), "{stderr}");
    wait::until("the end of the pod", GONE, || place.cluster.pods("sniff").is_empty().then_some(()));
}

#[test]
fn a_pod_that_may_not_be_watched_is_captured_all_the_same() {
    let place = Place::new();
    place.cluster.deny("watch", "pods");
    let mut client = place.listen(&["shop/web-0", "-w", "FILE"]);
    client.wait_for("you may not watch pods web-0 in namespace shop");
    client.stop().assert_success();
}

#[test]
fn it_is_said_why_what_is_named_is_not_captured() {
    let place = Place::new();
    let deployment = json!({"metadata": {"name": "web", "namespace": "shop"}, "spec": {"selector": {"matchLabels":
        {"app": "web"}}, "template": {"metadata": {}, "spec": {"containers": []}}}});
    place.cluster.put("deployments", "shop", "web", deployment);
    let put = |name: &str, spec: Value, status: Value| {
        let metadata = json!({"namespace": "shop", "name": name, "uid": "0-0"});
        let pod = json!({"metadata": metadata, "spec": spec, "status": status});
        place.cluster.put("pods", "shop", name, pod);
    };
    let spec = || json!({"nodeName": "n1", "containers": [{"name": "app"}]});
    put("done", spec(), json!({"phase": "Succeeded"}));
    put("failed", spec(), json!({"phase": "Failed"}));
    let full = json!([{"type": "PodScheduled", "status": "False", "reason": "Unschedulable"}]);
    put("full", json!({"containers": [{"name": "app"}]}), json!({"phase": "Pending", "conditions": full}));
    let mut of_node = spec();
    of_node["hostNetwork"] = json!(true);
    put("proxy", of_node, json!({"phase": "Running"}));

    for (args, parts) in [
        (&["shop/frontend"][..], &["there is no pod shop/frontend"][..]),
        (&["shop/wbe-0"], &["there is no pod shop/wbe-0; did you mean shop/web-0?"]),
        (&["web", "-n", "shop"], &["there is no pod shop/web; did you mean shop/web-0?"]),
        (&["shpo/web-0"], &["there is no namespace shpo; did you mean shop?"]),
        (&["cm/settings"], &["there is no namespace cm", "a target is POD, NS/POD, or one of deploy"]),
        (&["-l", "app=web", "-n", "shpo"], &["there is no namespace shpo; did you mean shop?"]),
        (&["deploy/wbe", "-n", "shop"], &["there is no deployment wbe in namespace shop; did you mean web?"]),
        (&["node/n2", "-i", "eth0"], &["there is no node n2; did you mean n1?"]),
        (&["deploy/web", "-n", "shop", "--node", "n7"], &["there is no node n7; did you mean n1?"]),
        (&["shop/done"], &["pod shop/done has completed"]),
        (&["shop/failed"], &["pod shop/failed has failed"]),
        (&["shop/full"], &["pod shop/full is Pending (Unschedulable)"]),
        (&["shop/proxy"], &["pod shop/proxy uses the network of its node", "node/n1"]),
        (&["shop/web-0", "-c", "ap"], &["pod shop/web-0 has no container ap, but app; did you mean app?"]),
        (&["shop/web-0", "--node", "n7"], &["pod shop/web-0 is on node n1, not on n7"]),
    ] {
        let outcome = Client::start(&place.cluster, &[args, &["-w", "FILE"]].concat()).outcome();
        outcome.assert_failure(parts);
        assert_eq!(outcome.stderr.len(), 1, "{args:?}: once, and no counts: {:#?}", outcome.stderr);
    }
    // The others are captured all the same.
    let client = place.listen(&["shop/web-0", "shop/wbe-0", "-w", "FILE"]);
    let outcome = client.stop();
    outcome.assert_success();
    assert!(outcome.said("there is no pod shop/wbe-0; did you mean shop/web-0?"), "{outcome:#?}");
}

#[test]
fn an_image_that_is_not_used_is_said_not_to_be() {
    let place = Place::new();
    let mut client = place.listen(&["shop/web-0", "--image", "sniff:test", "-w", "FILE"]);
    client.wait_for("node n1: --image is for short-lived pods");
    client.stop().assert_success();
    place.assert_made_no_pod();
}

#[test]
fn a_pods_service_account_takes_the_place_of_a_kubeconfig() {
    let home = tempfile::tempdir().expect("a folder");
    let run = |variables: &[(&str, &str)]| {
        let mut command = tool(sniff::binary().with_file_name("kubectl-sniff"));
        command.args(["shop/web-0", "-w", "/dev/null"]).env_remove("KUBECONFIG").env("HOME", home.path());
        let output = command.envs(variables.iter().copied()).output().expect("kubectl-sniff");
        assert_eq!(output.status.code(), Some(1));
        String::from_utf8(output.stderr).expect("text")
    };
    let said = run(&[]);
    assert!(said.contains("there is no kubeconfig: name one with --kubeconfig or KUBECONFIG"), "{said}");
    // Its files are where kubelet puts them, and here they are not.
    let said = run(&[("KUBERNETES_SERVICE_HOST", "127.0.0.1"), ("KUBERNETES_SERVICE_PORT", "1")]);
    assert!(
        said.contains("the service account of this pod: ") && said.contains("/var/run/secrets/"),
        "{said}"
    );
}

/// Whoever runs a registry, a node or an admission controller has words on a person's terminal.
#[test]
fn words_from_afar_cannot_pass_for_sniffs_own() {
    let place = Place::without_daemonset();
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
    let place = Place::new();
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

#[test]
fn cleanup_lists_and_ends_what_somebody_else_has_left() {
    let place = Place::without_daemonset();
    let client = place.listen(&["shop/web-0", "--image", "sniff:test", "-w", "FILE"]);
    let run = |args: &[&str]| {
        let outcome = Client::start(&place.cluster, args).outcome();
        outcome.assert_success();
        String::from_utf8(outcome.stdout).expect("text")
    };
    let listed = run(&["cleanup", "--dry-run"]);
    assert!(
        listed.contains("would remove sniff/sniff-") && listed.contains(" on n1: shop/web-0"),
        "{listed}"
    );
    assert_eq!(place.cluster.pods("sniff").len(), 1);
    assert!(run(&["cleanup"]).contains("removed sniff/sniff-"));
    wait::until("the end of the pod", GONE, || place.cluster.pods("sniff").is_empty().then_some(()));
    client.outcome().assert_failure(&["n1", "the pod that captures is going away"]);
    assert_eq!(place.cluster.pods("shop"), ["web-0"], "nothing else is touched");
    assert!(run(&["cleanup"]).contains("nothing"));
    place.assert_nothing_runs(GONE);
}

#[test]
fn doctor_says_what_works_and_what_to_do() {
    let place = Place::new();
    let fine = Client::start(&place.cluster, &["doctor"]).outcome();
    fine.assert_success();
    let said = String::from_utf8(fine.stdout).expect("text");
    for part in
        ["v1.36.0", "you may watch pods in namespace tools", "kernel 6.18.0-test", "runs on 1 of 1 nodes"]
    {
        assert!(said.contains(part), "no {part}: {said}");
    }
    place.cluster.deny("create", "pods/exec");
    let bad = Client::start(&place.cluster, &["doctor"]).outcome();
    assert_eq!(bad.code, Some(1));
    let said = String::from_utf8(bad.stdout).expect("text");
    assert!(said.contains("you may not create pods/exec in namespace sniff: ask for a role"), "{said}");
}

#[test]
fn doctor_knows_the_daemonsets_pods_without_the_nodes_and_names_those_that_do_not_run() {
    let place = Place::new();
    let doctor = |code| {
        let outcome = Client::start(&place.cluster, &["doctor"]).outcome();
        assert_eq!(outcome.code, Some(code), "{outcome:#?}");
        String::from_utf8(outcome.stdout).expect("text")
    };
    place.cluster.deny("list", "nodes");
    let said = doctor(0);
    assert!(said.contains("DaemonSet: 1 pod(s) run"), "{said}");

    let waiting = json!({"waiting": {"reason": "CrashLoopBackOff"}});
    let owners =
        place.cluster.pod("sniff", "sniff-n1").expect("the agent")["metadata"]["ownerReferences"].clone();
    let crashing = json!({
        "metadata": {"namespace": "sniff", "name": "sniff-2", "labels": {"app.kubernetes.io/name": "sniff"},
            "ownerReferences": owners},
        "spec": {"nodeName": "n2", "containers": [{"name": "sniff"}]},
        "status": {"phase": "Running", "containerStatuses": [{"name": "sniff", "image": "", "imageID": "",
            "ready": false, "restartCount": 3, "state": waiting}]},
    });
    place.cluster.put("pods", "sniff", "sniff-2", crashing);
    let said = doctor(1);
    for part in [
        "pod sniff/sniff-2 on node n2 does not run (CrashLoopBackOff)",
        "namespace sniff has no PodSecurity label",
    ] {
        assert!(said.contains(part), "no {part}: {said}");
    }
}

/// The node sees it come long before the API says so, which then changes nothing.
#[test]
fn a_pod_that_its_node_sees_coming_joins_once() {
    let place = Place::new();
    let labels = json!({"app": "web"});
    let mut client = place.listen(&["-l", "app=web", "-n", "shop", "-w", "FILE", "-f", "icmp"]);
    let more = place.node.pod("shop", "web-1").label("app", "web").start();
    client.wait_for("capturing shop/web-1 on node n1");
    traffic::ping(&place.node.netns, more.ipv4.into(), 2, 57);
    place.cluster.add_pod("shop", "web-1", &more.sandbox.uid, "n1", &labels);
    // What is told later shows that the API's word has come.
    let last = place.node.pod("shop", "web-2").start();
    place.cluster.add_pod("shop", "web-2", &last.sandbox.uid, "n1", &labels);
    client.wait_for("capturing shop/web-2 on node n1");
    traffic::ping(&place.node.netns, more.ipv4.into(), 3, 58);
    place.cluster.remove_pod("shop", "web-1");
    client.wait_for("shop/web-1 leaves");
    let outcome = client.stop();
    outcome.assert_success();
    let file = outcome.file();
    assert_eq!(comments(&file, "shop/web-1/eth0").len(), 1);
    assert!(comments(&file, "shop/web-1/eth0")[0].contains("after the pod's sandbox was made"));
    // Its node could not know whose it is.
    assert!(comments(&file, "shop/web-2/eth0")[0].contains("ms before, packets of that time may be missing"));
    assert_pings(&file, 57, 2);
    assert_pings(&file, 58, 3);
}

/// Follows `app=web` over two nodes; the first has `shop/web-0`, the second none yet.
fn follow_web(nodes: &[Node; 2]) -> (Cluster, Pod<'_>, Client) {
    let cluster = Cluster::start([("n1", &nodes[0].netns), ("n2", &nodes[1].netns)]);
    let first = nodes[0].pod("shop", "web-0").start();
    cluster.add_pod("shop", "web-0", &first.sandbox.uid, "n1", &json!({"app": "web"}));
    cluster.add_agent("n1");
    cluster.add_agent("n2");
    let mut client = Client::start(&cluster, &["-l", "app=web", "-n", "shop", "-w", "FILE", "-f", "icmp"]);
    client.wait_for(LISTENING);
    (cluster, first, client)
}

/// Has the API tell that `shop/web-1` is to run on a node, and does not yet.
fn assign_web_1(cluster: &Cluster, uid: &str, node: &str) {
    let pending = json!({
        "metadata": {"name": "web-1", "namespace": "shop", "uid": uid, "labels": {"app": "web"}},
        "spec": {"nodeName": node, "containers": []},
        "status": {"phase": "Pending"},
    });
    cluster.put("pods", "shop", "web-1", pending);
}

/// A session is there before the pod is: its node has had none.
#[test]
fn where_a_pod_is_about_to_start_its_node_looks_out_for_it() {
    let nodes = [Node::start(), Node::start()];
    let (cluster, _web_0, mut client) = follow_web(&nodes);
    assign_web_1(&cluster, "0-0", "n2");
    client.wait_for("node n2: listening on 0 interface(s)");
    // No runtime says when it has begun to tell of pods: it has by the time that it has made one.
    let _stranger = nodes[1].pod("shop", "other").start();
    let web = nodes[1].pod("shop", "web-1").label("app", "web").start();
    client.wait_for("capturing shop/web-1 on node n2");
    traffic::ping(&nodes[1].netns, web.ipv4.into(), 2, 57);
    let outcome = client.stop();
    outcome.assert_success();
    assert_pings(&outcome.file(), 57, 2);
}

/// The runtime has told of it to nobody.
#[test]
fn a_pod_that_was_made_before_its_nodes_session_joins() {
    let nodes = [Node::start(), Node::start()];
    let (cluster, _web_0, mut client) = follow_web(&nodes);
    let web = nodes[1].pod("shop", "web-1").label("app", "web").start();
    let _other = nodes[1].pod("shop", "db-0").label("app", "db").start();
    // The API has not heard of its sandbox.
    assign_web_1(&cluster, &web.sandbox.uid, "n2");
    client.wait_for("capturing shop/web-1 on node n2");
    traffic::ping(&nodes[1].netns, web.ipv4.into(), 2, 57);
    client.wait_for_packets(4);
    let outcome = client.stop();
    outcome.assert_success();
    let file = outcome.file();
    assert_pings(&file, 57, 2);
    let comments = comments(&file, "shop/web-1/eth0");
    let [comment] = &comments[..] else { panic!("{comments:?}") };
    assert!(comment.contains("joined the running capture"), "{comment}");
    assert!(names(&file).iter().all(|name| *name != "shop/db-0/eth0"));
}

#[test]
fn it_is_said_that_all_listen_once_somebody_is_captured() {
    let place = Place::new();
    place.cluster.remove_pod("shop", "web-0");
    let mut client = Client::start(&place.cluster, &["-l", "app=web", "-n", "shop", "-w", "FILE"]);
    client.wait_for("no pod matches that runs; waiting for one");
    assign_web_1(&place.cluster, "0-0", "n1");
    client.wait_for("node n1: listening on 0 interface(s); waiting for one");
    place.cluster.add_pod("shop", "web-0", &place.web.sandbox.uid, "n1", &json!({"app": "web"}));
    client.wait_for(LISTENING);
    let outcome = client.stop();
    outcome.assert_success();
    let at = |part: &str| outcome.stderr.iter().position(|line| line.contains(part)).expect("said");
    assert!(at(LISTENING) > at("capturing shop/web-0"), "{:#?}", outcome.stderr);
}

#[test]
fn an_outage_of_the_api_is_told_of_and_whoever_came_meanwhile_joins_behind_it() {
    let place = Place::new();
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
    let place = Place::new();
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
    let cluster = Cluster::start([("n1", &nodes[0].netns), ("n2", &nodes[1].netns)]);
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
