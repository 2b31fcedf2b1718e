//! Pods of a node whose container runtime cannot be asked: found through the Kubernetes API and `/proc`.

use std::{
    fs,
    net::TcpListener,
    process::{Child, Stdio},
};

use serde_json::json;
use sniff_apiserver::ApiServer;
use sniff_tests::{
    cgroup::{Cgroup, random_uuid},
    machine::{FakePod, HOSTNAME, Machine},
    netns::{Netns, tool},
    pcap::Direction,
    sniff::Sniff,
    traffic,
};

use crate::{Capture, echoes};

pub(crate) const KUBECONFIG: &str = "/run/kubeconfig";

/// A node with one pod, `shop/web`, and an API server that also knows `shop/db` on another node. The
/// fields are dropped in this order: the cgroup can go when the process has.
pub(crate) struct Cluster {
    pub(crate) netns: Netns,
    pub(crate) api: ApiServer,
    pub(crate) pod: FakePod,
    pub(crate) uid: String,
    process: Process,
    pub(crate) machine: Machine,
    _cgroup: Cgroup,
}

/// The pod's only process; killed on drop.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.0.kill().and_then(|()| self.0.wait());
    }
}

impl Cluster {
    pub(crate) fn start() -> Self {
        let machine = Machine::boot();
        let netns = machine.netns();
        let pod = machine.fake_pod("blue", 1);
        let cgroup = Cgroup::named_at_random();
        let process = Process(pod.netns.spawn(tool("sleep").arg("1000").stdout(Stdio::null())));
        let uid = random_uuid();
        cgroup.add_to_pod(&uid, process.0.id());
        let api = ApiServer::on(netns.enter(|| TcpListener::bind("127.0.0.1:0")).expect("a listener"));
        api.add_pod("shop", "web", &uid, HOSTNAME, &json!({}));
        api.add_pod("shop", "db", &random_uuid(), "node-2", &json!({}));
        fs::write(machine.path(KUBECONFIG), api.kubeconfig()).expect("a kubeconfig");
        Self { netns, api, pod, uid, process, machine, _cgroup: cgroup }
    }

    /// What sniff's service account may read on a node, and nothing else.
    fn assert_asked_for_pods_alone(&self) {
        let log = self.api.log();
        let is_allowed = |line: &String| ["get pods ", "list pods "].iter().any(|it| line.starts_with(it));
        assert!(!log.is_empty() && log.iter().all(is_allowed), "{log:#?}");
    }

    fn sniff(&self, pod: &str) -> Sniff<'_> {
        Sniff::in_netns(&self.netns).env("KUBECONFIG", KUBECONFIG).args(["--pod", pod])
    }
}

#[test]
fn a_pod_is_captured_by_the_uid_that_the_api_tells() {
    let cluster = Cluster::start();
    let capture = Capture::new();
    let sniff = cluster.sniff("shop/web").args(["-w", capture.arg()]).start();
    traffic::ping(&cluster.netns, cluster.pod.ipv4.into(), 3, 56);
    let file = capture.read_whole(&sniff.stop());
    assert_eq!(echoes(&file.packets, Direction::In, 56), 3);
    assert_eq!(echoes(&file.packets, Direction::Out, 56), 3);
    let [interface] = file.interfaces.as_slice() else { panic!("not one: {file:?}") };
    assert_eq!(interface.name.as_deref(), Some("shop/web/eth0"));
    let description = interface.description.as_deref().expect("a description");
    for part in [&cluster.uid, HOSTNAME, &cluster.pod.veth.name] {
        assert!(description.contains(part), "no {part} in {description}");
    }
}

#[test]
fn a_pod_on_another_node_is_refused_with_the_name_of_that_node() {
    let outcome = Cluster::start().sniff("shop/db").run();
    let line = outcome.refusal(1);
    assert!(line.contains("shop/db") && line.contains("node-2"), "{line}");
}

#[test]
fn a_pod_that_the_api_does_not_know_is_refused_with_one_like_it() {
    let cluster = Cluster::start();
    let outcome = cluster.sniff("shop/wbe").run();
    let line = outcome.refusal(1);
    assert!(line.contains("shop/wbe") && line.contains("shop/web"), "{line}");
    cluster.assert_asked_for_pods_alone();
}

#[test]
fn a_pod_without_a_process_here_asks_for_the_nodes_processes() {
    let mut cluster = Cluster::start();
    cluster.process.0.kill().and_then(|()| cluster.process.0.wait()).expect("the end of sleep");
    let outcome = cluster.sniff("shop/web").run();
    let line = outcome.refusal(1);
    assert!(line.contains("shop/web") && line.contains("hostPID"), "{line}");
}
