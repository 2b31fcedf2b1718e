//! What is named, and what is captured of it.

use std::{fs, os::unix::fs::PermissionsExt as _, time::Duration};

use serde_json::{Value, json};
use sniff_apiserver::ApiServer;
use sniff_tests::{
    client::Client,
    frame,
    node::{Node, Pod},
    pcap, traffic, wireshark,
};

use super::{LISTENING, Shop, assert_pings, comments, names};

#[test]
fn a_pod_is_captured_by_name_through_the_daemonset() {
    let place = Shop::new();
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
fn a_pod_that_denies_it_is_refused_once_and_the_file_says_why_others_are_captured() {
    let place = Shop::new();
    let db = place.node.pod("shop", "db-0").label("sniff/capture", "deny").start();
    place.cluster.add_pod(
        "shop",
        "db-0",
        &db.sandbox.uid,
        "n1",
        &json!({"app": "web", "sniff/capture": "deny"}),
    );
    let args = ["-l", "app=web", "-n", "shop", "--reason", "INC-7", "-f", "icmp", "-w", "FILE"];
    let mut client = place.listen(&args);
    client.wait_for("must not be captured");
    // Whatever is told of it later: it is not asked for again.
    let more = json!({"app": "web", "sniff/capture": "deny", "more": "1"});
    place.cluster.add_pod("shop", "db-0", &db.sandbox.uid, "n1", &more);
    place.ping(3);
    traffic::ping(&place.node.netns, db.ipv4.into(), 3, 56);
    client.wait_for_packets(6);
    let outcome = client.stop();
    outcome
        .assert_failure(&["shop/db-0 on node n1: pod shop/db-0 must not be captured", "sniff/capture: deny"]);
    let lines = outcome.stderr.iter().filter(|line| line.contains("must not be captured"));
    assert_eq!(lines.count(), 1, "{outcome:#?}");
    let file = outcome.file();
    assert_pings(&file, 56, 3);
    assert_eq!(names(&file), ["shop/web-0/eth0"]);
    let comment = file.section.comment.expect("a comment");
    assert!(
        comment.starts_with("shop/app=web, by ") && comment.ends_with(", because of: INC-7"),
        "{comment}"
    );

    let db = ["shop/db-0", "-f", "icmp", "-w", "FILE"];
    let outcome = Client::start(&place.cluster, &db).outcome();
    outcome.assert_failure(&["must not be captured"]);
    assert!(outcome.said("nobody who is there can be captured"), "{outcome:#?}");
    let client = place.listen(&[&db[..], &["--override-deny"]].concat());
    let outcome = client.stop();
    outcome.assert_success();
    assert!(outcome.said("is captured though it was made with the label"), "{outcome:#?}");
    let outcome = Client::start(&place.cluster, &["shop/web-0", "--reason", "a\nb", "-w", "FILE"]).outcome();
    assert_eq!(outcome.code, Some(2), "{outcome:#?}");
}

#[test]
fn what_may_be_wrong_with_a_pods_interfaces_reaches_the_client_and_the_file() {
    let place = Shop::new();
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

/// Ten pods on two nodes by label; one is restarted, one added, one deleted.
#[test]
fn pods_of_two_nodes_are_followed_into_one_file() {
    let nodes = [Node::start(), Node::start()];
    let cluster = ApiServer::start([("n1", &nodes[0].netns), ("n2", &nodes[1].netns)]);
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
    let watches = cluster.log().iter().filter(|line| line.starts_with("watch pods shop/")).count();
    assert!(watches <= 3, "one watch, and one after each time it was lost: {:#?}", cluster.log());
}

/// A pod whose init container hangs has a network all the same, as soon as it has a sandbox.
#[test]
fn a_pod_is_captured_in_its_init_containers() {
    let place = Shop::new();
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
    let place = Shop::new();
    let mut client = place.listen(&["-l", "app=web", "-A", "--no-follow", "--no-names", "-w", "FILE"]);
    place.web.sandbox.stop();
    client.wait_for("nothing is left to capture");
    let outcome = client.outcome();
    outcome.assert_success();
    assert_eq!(names(&outcome.file()), ["shop/web-0/eth0"]);
    assert!(place.cluster.log().iter().all(|line| !line.starts_with("watch")));
}

#[test]
fn a_node_is_captured_at_its_interface() {
    let place = Shop::new();
    let client = place.listen(&["node/n1", "-i", &place.web.veth.name, "-w", "FILE", "--", "icmp"]);
    place.ping(2);
    client.wait_for_packets(4);
    let outcome = client.stop();
    outcome.assert_success();
    assert_eq!(outcome.file().packets.len(), 4);
}

#[test]
fn what_cannot_be_captured_ends_and_is_not_waited_for() {
    let place = Shop::new();
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
fn it_is_said_why_what_is_named_is_not_captured() {
    let place = Shop::new();
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
