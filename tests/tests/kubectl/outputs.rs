//! Files, lines and Wireshark.

use std::{
    collections::HashSet,
    fs,
    net::{IpAddr, SocketAddr, TcpListener},
    os::unix::fs::symlink,
    thread,
    time::{Duration, Instant},
};

use nix::sys::signal::Signal;
use serde_json::json;
use sniff_apiserver::ApiServer;
use sniff_tests::{
    client::Client,
    pcap::Direction,
    terminal::Terminal,
    traffic::{self, UdpFlow},
    wait, wireshark,
};

use super::{GONE, LISTENING, Shop, assert_pings, ping_much};

#[test]
fn the_first_packet_is_told_of_when_it_comes() {
    let place = Shop::new();
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
fn a_terminal_shows_how_it_goes_in_all_and_at_each_node() {
    let place = Shop::new();
    let (terminal, stderr) = Terminal::open();
    let args = ["shop/web-0", "-v", "-w", "FILE", "--", "icmp"];
    let client = Client::start_on_terminal(&place.cluster, &args, stderr);
    terminal.wait_for("listening after");
    place.ping(20);
    terminal.wait_for("  40 packets  0 dropped  ");
    terminal.wait_for("40          0 dropped  ");
    let outcome = client.stop();
    assert_eq!(outcome.code, Some(0));
    let came = terminal.all();
    let (_, last) = came.rsplit_once("\x1b[J").expect("lines that were taken away");
    assert!(last.contains("40 packets captured\r\n") && !last.contains("waiting"), "{came:?}");
}

#[test]
fn packets_between_two_pods_of_a_node_are_written_once_or_told_apart() {
    let place = Shop::new();
    let db = place.node.pod("shop", "db-0").start();
    place.cluster.add_pod("shop", "db-0", &db.sandbox.uid, "n1", &json!({"app": "db"}));
    traffic::ping(&place.web.netns, db.ipv4.into(), 1, 56);
    for (args, packets, left_out) in [(&["--one-side"][..], 10, 10), (&[], 20, 0)] {
        let targets = ["shop/web-0", "shop/db-0", "-w", "FILE", "-f", "icmp"];
        let client = place.listen(&[args, &targets].concat());
        traffic::ping(&place.web.netns, db.ipv4.into(), 5, 56);
        client.wait_for_packets(packets);
        let outcome = client.stop();
        outcome.assert_success();
        let file = outcome.file();
        let ids: HashSet<u64> = file.packets.iter().map(|packet| packet.packet_id.expect("an id")).collect();
        assert_eq!((file.packets.len(), ids.len()), (packets, 10), "{args:?}");
        let sent = file.packets.iter().filter(|packet| packet.direction == Some(Direction::Out));
        assert_eq!(sent.count(), 10, "{args:?}");
        let seen = "10 packets seen at both ends, 0 only where sent, between pods of one node";
        assert!(outcome.said(seen), "{:#?}", outcome.stderr);
        assert!(outcome.said("20 packets received by filter"), "{:#?}", outcome.stderr);
        let is_told =
            outcome.said(&format!("{left_out} packets left out, which are here where they were sent"));
        assert_eq!(is_told, left_out > 0, "{:#?}", outcome.stderr);
        assert!(!outcome.said("not written"), "{:#?}", outcome.stderr);
    }
    // One pod alone has no other end.
    let client = place.listen_to_pings(&["shop/web-0"]);
    let outcome = client.stop();
    assert!(outcome.file().packets.iter().all(|packet| packet.packet_id.is_none()));
    assert!(!outcome.said("both ends"), "{:#?}", outcome.stderr);
}

#[test]
fn what_a_cutoff_leaves_out_at_the_nodes_is_counted_and_not_missed() {
    let place = Shop::new();
    let args = ["shop/web-0", "--cutoff", "1000,none", "-w", "FILE", "-f", "udp dst port 7777"];
    let client = place.listen(&args);
    let to = SocketAddr::new(place.web.ipv4.into(), 7777);
    UdpFlow::open(&place.node.netns, &place.web.netns, to).send(100, 500);
    client.wait_for_packets(2);
    let outcome = client.stop();
    outcome.assert_success();
    let file = outcome.file();
    let lengths: Vec<usize> = file.packets.iter().map(|packet| packet.data.len()).collect();
    assert_eq!(lengths, [542, 458]);
    let comment = file.interfaces[0].comment.as_deref().unwrap_or_default();
    assert!(comment.contains("of each flow the first 1000 bytes are kept, then nothing"), "{comment}");
    for told in ["2 packets captured", "100 packets received by filter", "98 packets left out by the cutoff"]
    {
        assert!(outcome.said(told), "{:#?}", outcome.stderr);
    }
    assert!(!outcome.said("not written"), "{:#?}", outcome.stderr);
}

#[test]
fn a_terminal_shows_what_is_waited_for() {
    let place = Shop::without_daemonset();
    place.cluster.set_pod_start(Duration::from_secs(4));
    let (terminal, stderr) = Terminal::open();
    let args = ["shop/web-0", "--image", "sniff:test", "-w", "FILE", "--", "icmp"];
    let client = Client::start_on_terminal(&place.cluster, &args, stderr);
    terminal.wait_for("node n1: waiting for its pod: ContainerCreating: test (");
    let pod = place.cluster.pods("sniff").pop().expect("a pod");
    let event = json!({
        "metadata": {"namespace": "sniff", "name": "pulling"},
        "involvedObject": {"kind": "Pod", "name": pod},
        "reason": "Pulling",
        "message": "Pulling image \"sniff:test\"",
    });
    place.cluster.put("events", "sniff", "pulling", event);
    terminal.wait_for("node n1: waiting for its pod: Pulling image \"sniff:test\" (1 s)");
    terminal.wait_for("listening after");
    place.ping(2);
    terminal.wait_for("  4 packets  0 dropped  ");
    assert_eq!(client.stop().code, Some(0));
    let came = terminal.all();
    let (_, behind) = came.split_once("  4 packets  0 dropped  ").expect("the status line");
    assert!(!behind.contains("waiting for"), "{came:?}");
}

#[test]
fn a_terminal_shows_that_pods_are_looked_for() {
    // It takes connections and says nothing.
    let listener = TcpListener::bind("127.0.0.1:0").expect("a listener");
    let server = format!("--server=http://{}", listener.local_addr().expect("an address"));
    let cluster = ApiServer::without_nodes();
    let (terminal, stderr) = Terminal::open();
    let client = Client::start_on_terminal(&cluster, &["shop/web-0", "-w", "FILE", &server], stderr);
    terminal.wait_for("0:01  finding what is to be captured");
    client.signal(Signal::SIGINT);
    assert_eq!(client.outcome().code, Some(0));
    terminal.wait_for("finding what is to be captured\r\x1b[J");
}

#[test]
fn lines_are_printed_where_there_is_no_wireshark() {
    let place = Shop::new();
    let client = place.listen(&["shop/web-0", "--print", "--count", "2", "--", "icmp"]);
    place.ping(3);
    let outcome = client.outcome();
    outcome.assert_success();
    assert!(outcome.said("the packets of shop/web-0/eth0"), "{:#?}", outcome.stderr);
    let lines = String::from_utf8(outcome.stdout).expect("text");
    assert_eq!(lines.lines().count(), 2, "{lines}");
    assert!(lines.lines().all(|line| line.contains("ICMP echo")), "{lines}");
}

#[test]
fn wireshark_gets_the_packets_and_ends_the_capture_when_it_is_closed() {
    let place = Shop::new();
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
    // Its last words may find nobody who takes them.
    place.assert_nothing_runs(GONE);
}

#[test]
fn the_clients_file_is_not_written_through_a_link() {
    let place = Shop::new();
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
fn a_full_disk_leaves_whole_blocks_and_what_is_in_them_is_counted() {
    let place = Shop::new();
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
    let place = Shop::new();
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
fn the_api_tells_who_pods_are_and_what_addresses_are_called() {
    let place = Shop::new();
    let pod = |name: &str, address: &str| {
        let metadata = json!({"namespace": "shop", "name": name, "uid": name});
        json!({"metadata": metadata, "spec": {"containers": []}, "status": {"phase": "Running", "podIP": address}})
    };
    place.cluster.put("pods", "shop", "other-0", pod("other-0", "10.1.1.1"));
    let db = json!({"metadata": {"namespace": "shop", "name": "db"}, "spec": {"clusterIP": "10.96.0.1"}});
    place.cluster.put("services", "shop", "db", db);
    let mut web = place.cluster.pod("shop", "web-0").expect("the pod");
    web["status"]["podIPs"] = json!([{"ip": place.web.ipv4}, {"ip": place.web.ipv6}]);
    web["metadata"]["ownerReferences"] = json!([
        {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web-5d4f", "uid": "r", "controller": true}
    ]);
    web["metadata"]["labels"]["pod-template-hash"] = json!("5d4f");
    web["spec"]["containers"][0]["image"] = json!("docker.io/library/nginx:1.27");
    let app = json!({"name": "app", "image": "", "imageID": "", "ready": true, "restartCount": 3});
    web["status"]["containerStatuses"] = json!([app]);
    place.cluster.put("pods", "shop", "web-0", web);
    let args = ["shop/web-0", "--dns-names", "-w", "FILE", "-f", "icmp or udp port 53"];
    let client = place.listen(&args);
    // One that nobody else names, and one that has a name.
    for (name, address) in [("api.example", place.web.gateway4), ("evil.example", place.web.ipv4)] {
        traffic::dns(&place.node.netns, &place.web.netns, place.web.gateway4.into(), name, address);
    }
    place.ping(2);
    client.wait_for_packets(8);
    let is_told = || fs::read(client.file()).is_ok_and(|file| file.windows(6).any(|it| it == b"db.sho"));
    wait::until("the names of others", Duration::from_secs(10), || is_told().then_some(()));
    // One that comes while it runs, and one that changes.
    place.cluster.put("pods", "shop", "other-1", pod("other-1", "10.1.1.2"));
    let db = json!({"metadata": {"namespace": "shop", "name": "db"}, "spec": {"clusterIP": "10.96.0.2"}});
    place.cluster.put("services", "shop", "db", db);
    let are_told = || {
        let file = fs::read(client.file()).unwrap_or_default();
        [&[10, 1, 1, 2][..], &[10, 96, 0, 2]].iter().all(|it| file.windows(4).any(|bytes| bytes == *it))
    };
    wait::until("names that come later", Duration::from_secs(10), || are_told().then_some(()));
    let outcome = client.stop();
    outcome.assert_success();
    assert!(!outcome.said("some pods or services"), "{:#?}", outcome.stderr);
    wireshark::assert_clean(&outcome.path());
    let file = outcome.file();
    let facts = "labels: app=web, pod-template-hash=5d4f\nowner: Deployment/web\nnode: n1\n\
                 images: app=docker.io/library/nginx:1.27\nrestarts: app 3";
    let [interface] = &file.interfaces[..] else { panic!("{:?}", file.interfaces) };
    assert_eq!((interface.facts.as_deref(), &interface.comment), (Some(facts), &None));
    let mut names = file.names;
    names.sort();
    let mut expected: Vec<(IpAddr, String)> = vec![
        (place.web.ipv4.into(), "web-0.shop".to_owned()),
        (place.web.ipv6.into(), "web-0.shop".to_owned()),
        ([10, 1, 1, 1].into(), "other-0.shop".to_owned()),
        ([10, 1, 1, 2].into(), "other-1.shop".to_owned()),
        ([10, 96, 0, 1].into(), "db.shop.svc".to_owned()),
        ([10, 96, 0, 2].into(), "db.shop.svc".to_owned()),
        (place.web.gateway4.into(), "api.example".to_owned()),
    ];
    expected.sort();
    assert_eq!(names, expected);
}

#[test]
fn names_that_are_refused_are_told_of_once_and_the_capture_goes_on() {
    let place = Shop::new();
    place.cluster.deny("list", "services");
    place.cluster.deny("watch", "services");
    let mut client = Client::start(&place.cluster, &["shop/web-0", "-w", "FILE", "-f", "icmp"]);
    client.wait_for("some pods or services have no names: you may not list services in namespace shop: ");
    client.wait_for(LISTENING);
    place.ping(2);
    client.wait_for_packets(4);
    let outcome = client.stop();
    outcome.assert_success();
    let said = outcome.stderr.iter().filter(|line| line.contains("have no names")).count();
    assert_eq!(said, 1, "{:#?}", outcome.stderr);
    assert_pings(&outcome.file(), 56, 2);
}

#[test]
fn losses_are_told_when_they_happen() {
    let place = Shop::new();
    place.cluster.slow_execs(400_000, 256 << 10);
    let mut client =
        place.listen(&["shop/web-0", "-w", "FILE", "--compress", "never", "-B", "512KiB", "-f", "icmp"]);
    place.ping_of(200, 60_000);
    let line = client.wait_for("packets are being lost");
    assert!(line.contains("node n1"), "{line}");
    assert!(line.contains("the connection from there") && line.contains("--headers"), "{line}");
}
