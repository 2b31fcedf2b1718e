//! What a user may do, and as whom the API server is asked.

use serde_json::json;
use sniff_apiserver::ApiServer;
use sniff_tests::{
    client::{self, Client},
    netns::tool,
    wait,
};

use super::{GONE, Shop};

#[test]
fn nodes_are_not_exposed_to_whoever_may_exec_into_a_namespace() {
    let place = Shop::without_daemonset();
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

/// Each step is forbidden in turn; the message names what is missing.
#[test]
fn what_rbac_forbids_is_named() {
    let place = Shop::without_daemonset();
    let deployment = json!({"metadata": {"name": "web"}, "spec": {"selector": {"matchLabels": {"app": "web"}},
        "template": {"metadata": {}, "spec": {"containers": []}}}});
    place.cluster.put("deployments", "shop", "web", deployment);
    let refused = |verb, resource, args: &[&str], parts: &[&str]| {
        let cluster = ApiServer::start([("n1", &place.node.netns)]);
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
    let place = Shop::without_daemonset();
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
    let place = Shop::new();
    place.cluster.deny("watch", "pods");
    let mut client = place.listen(&["shop/web-0", "-w", "FILE"]);
    client.wait_for("you may not watch pods web-0 in namespace shop");
    client.stop().assert_success();
}

#[test]
fn a_pods_service_account_takes_the_place_of_a_kubeconfig() {
    let home = tempfile::tempdir().expect("a folder");
    let run = |variables: &[(&str, &str)]| {
        let mut command = tool(client::binary());
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
