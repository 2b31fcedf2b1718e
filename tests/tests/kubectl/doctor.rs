//! `kubectl sniff doctor`.

use serde_json::json;
use sniff_tests::client::Client;

use super::Shop;

#[test]
fn doctor_says_what_works_and_what_to_do() {
    let place = Shop::new();
    let fine = Client::start(&place.cluster, &["doctor"]).outcome();
    fine.assert_success();
    let said = String::from_utf8(fine.stdout).expect("text");
    let build = concat!(env!("CARGO_PKG_VERSION"), " (protocol ");
    for part in [
        "v1.36.0",
        &format!("this is kubectl sniff {build}"),
        "you may watch pods in namespace tools",
        "kernel 6.18.0-test",
        "runs on 1 of 1 nodes",
        &format!("DaemonSet: sniff {build}"),
        ") in 1 pod(s)",
    ] {
        assert!(said.contains(part), "no {part}: {said}");
    }
    place.cluster.deny("create", "pods/exec");
    let bad = Client::start(&place.cluster, &["doctor"]).outcome();
    assert_eq!(bad.code, Some(1));
    let said = String::from_utf8(bad.stdout).expect("text");
    assert!(said.contains("you may not create pods/exec in namespace sniff: ask for a role"), "{said}");
}

#[test]
fn doctor_says_who_lets_no_pod_of_the_daemonset_in() {
    let place = Shop::without_daemonset();
    let says = r#"pods "sniff-x" is forbidden: violates PodSecurity "baseline:latest": hostPath volumes"#;
    let event = json!({
        "metadata": {"namespace": "sniff", "name": "sniff.1"},
        "involvedObject": {"kind": "DaemonSet", "name": "sniff"},
        "reason": "FailedCreate",
        "message": says,
    });
    place.cluster.put("events", "sniff", "sniff.1", event);
    let outcome = Client::start(&place.cluster, &["doctor", "--image", "sniff:test"]).outcome();
    assert_eq!(outcome.code, Some(1), "{outcome:#?}");
    let said = String::from_utf8(outcome.stdout).expect("text");
    for part in [
        "BAD   DaemonSet: namespace sniff takes none of its pods (pods \"sniff-x\" is forbidden",
        "kubectl label --overwrite namespace sniff pod-security.kubernetes.io/enforce=privileged",
    ] {
        assert!(said.contains(part), "no {part}: {said}");
    }
}

#[test]
fn doctor_knows_the_daemonsets_pods_without_the_nodes_and_names_those_that_do_not_run() {
    let place = Shop::new();
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
