//! Pods that come while a capture runs.

use serde_json::json;
use sniff_apiserver::ApiServer;
use sniff_tests::{
    client::Client,
    node::{Node, Pod},
    traffic,
};

use super::{LISTENING, Shop, assert_pings, comments, names};

/// The node sees it come long before the API says so, which then changes nothing.
#[test]
fn a_pod_that_its_node_sees_coming_joins_once() {
    let place = Shop::new();
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
fn follow_web(nodes: &[Node; 2]) -> (ApiServer, Pod<'_>, Client) {
    let cluster = ApiServer::start([("n1", &nodes[0].netns), ("n2", &nodes[1].netns)]);
    let first = nodes[0].pod("shop", "web-0").start();
    cluster.add_pod("shop", "web-0", &first.sandbox.uid, "n1", &json!({"app": "web"}));
    cluster.add_agent("n1");
    cluster.add_agent("n2");
    let mut client = Client::start(&cluster, &["-l", "app=web", "-n", "shop", "-w", "FILE", "-f", "icmp"]);
    client.wait_for(LISTENING);
    (cluster, first, client)
}

/// Has the API tell that `shop/web-1` is to run on a node, and does not yet.
fn assign_web_1(cluster: &ApiServer, uid: &str, node: &str) {
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
    let facts: Vec<_> = file.interfaces.iter().filter_map(|it| it.facts.as_deref()).collect();
    assert_eq!(facts, ["labels: app=web\nnode: n1", "labels: app=web\nnode: n2"]);
    assert!(names(&file).iter().all(|name| *name != "shop/db-0/eth0"));
}

#[test]
fn it_is_said_that_all_listen_once_somebody_is_captured() {
    let place = Shop::new();
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
