//! Short-lived pods: made, waited for, and gone whatever happens.

use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::{Value, json};
use sniff_tests::{client::Client, wait};

use super::{GONE, LISTENING, Shop, assert_pings};
use crate::packaging::daemon_set;

#[test]
fn without_a_daemonset_a_pod_is_made_and_removed() {
    let place = Shop::without_daemonset();
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

/// Who follows the advice about one keeps the other.
#[test]
fn the_daemonset_is_used_wherever_short_lived_pods_would_be_made() {
    let place = Shop::new();
    let args = ["shop/web-0", "--image", "sniff:test", "--job-namespace", "tools", "-w", "FILE"];
    place.listen(&args).stop().assert_success();
    assert_eq!(place.execs(), ["sniff/sniff-n1"]);
    place.assert_made_no_pod();
}

#[test]
fn a_short_lived_pod_takes_the_buffer_that_is_asked_for() {
    let place = Shop::without_daemonset();
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
    let place = Shop::without_daemonset();
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
    let place = Shop::without_daemonset();
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
    let place = Shop::without_daemonset();
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
    let place = Shop::without_daemonset();
    place.cluster.set_pod_start(Duration::from_secs(17));
    let mut client = Client::start(&place.cluster, &["shop/web-0", "--image", "sniff:test", "-w", "FILE"]);
    let deadline = || match &place.cluster.jobs("sniff")[..] {
        [job] => job["spec"]["activeDeadlineSeconds"].as_u64(),
        jobs => panic!("not one job: {jobs:#?}"),
    };
    client.wait_for("waiting for");
    assert_eq!(deadline(), Some(60));
    wait::until("a keep-alive", GONE, || deadline().is_some_and(|seconds| seconds >= 75).then_some(()));
    client.wait_for(LISTENING);
    assert_eq!(deadline(), None, "the pod's own holds from here");
    client.stop().assert_success();
    assert!(place.cluster.jobs("sniff").is_empty());
}

#[test]
fn pods_that_cannot_start_say_why_and_go() {
    let place = Shop::without_daemonset();
    let run = |args: &[&str]| {
        Client::start(&place.cluster, &[&["shop/web-0", "-w", "FILE"], args].concat()).outcome()
    };
    run(&["--image", "missing"]).assert_failure(&["ImagePullBackOff", "cannot start", "n1"]);
    run(&[]).assert_failure(&["--image", "SNIFF_IMAGE", "n1"]);
    place.cluster.restrict("sniff");
    for rights in [&[][..], &["--privileged"]] {
        run(&[&["--image", "sniff:test"], rights].concat()).assert_failure(&[
            "namespace sniff takes no pod",
            "violates PodSecurity",
            "whoever may patch namespaces, as cluster administrators",
            "kubectl label --overwrite namespace sniff pod-security.kubernetes.io/enforce=privileged",
            "--job-namespace",
        ]);
    }
    wait::until("the end of the pods", GONE, || place.cluster.pods("sniff").is_empty().then_some(()));
}

#[test]
fn an_interrupt_while_a_pod_starts_removes_it() {
    let place = Shop::without_daemonset();
    place.cluster.set_pod_start(Duration::from_secs(3));
    let mut client = Client::start(&place.cluster, &["shop/web-0", "--image", "sniff:test", "-w", "FILE"]);
    client.wait_for("waiting for");
    client.stop().assert_success();
    assert!(place.cluster.pods("sniff").is_empty());
}

#[test]
fn a_dry_run_makes_nothing() {
    let place = Shop::without_daemonset();
    let args = ["shop/web-0", "--image", "sniff:test", "--dry-run", "-B", "1GiB"];
    let outcome = Client::start(&place.cluster, &args).outcome();
    outcome.assert_success();
    let pod: Value = serde_json::from_slice(&outcome.stdout).expect("a pod");
    let template = &pod["spec"]["template"];
    assert_eq!((&pod["kind"], &template["spec"]["nodeName"]), (&json!("Job"), &json!("n1")));
    assert_eq!(template["spec"]["containers"][0]["resources"]["limits"]["memory"], "1152Mi");
    // Short-lived pods have the rights that the DaemonSet's have, which are tried in real containers.
    for (rights, overlay) in [(None, Some("least-privilege")), (Some("--privileged"), None)] {
        let args: Vec<_> = args.iter().copied().chain(rights).collect();
        let outcome = Client::start(&place.cluster, &args).outcome();
        let job: Value = serde_json::from_slice(&outcome.stdout).expect("a Job");
        let rights = |workload: &Value| {
            let spec = &workload["spec"]["template"]["spec"];
            let container = &spec["containers"][0];
            let mut context = container["securityContext"].clone();
            if let Some(capabilities) = context["capabilities"]["add"].as_array_mut() {
                capabilities.sort_unstable_by_key(Value::to_string);
            }
            let of_pod = ["hostPID", "volumes"].map(|field| spec[field].clone());
            (context, container["volumeMounts"].clone(), of_pod)
        };
        assert_eq!(rights(&job), rights(&daemon_set(overlay)), "{overlay:?}");
    }
    let log = place.cluster.log();
    assert!(log.iter().all(|line| !line.starts_with("create") && !line.starts_with("delete")), "{log:#?}");
}

#[test]
fn an_image_that_is_not_used_is_said_not_to_be() {
    let place = Shop::new();
    let mut client = place.listen(&["shop/web-0", "--image", "sniff:test", "-w", "FILE"]);
    client.wait_for("node n1: --image is for short-lived pods");
    client.stop().assert_success();
    place.assert_made_no_pod();
}

#[test]
fn cleanup_lists_and_ends_what_somebody_else_has_left() {
    let place = Shop::without_daemonset();
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
