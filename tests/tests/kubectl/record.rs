//! `kubectl sniff record`: what is to be recorded, as a person says it.

use sniff_apiserver::ApiServer;
use sniff_tests::client::Client;

use super::{
    door::NODE,
    recordings::{folder, guarded, list, wait_until_recorded},
};

fn kubectl(cluster: &ApiServer, args: &[&str]) -> sniff_tests::client::Outcome {
    Client::start(cluster, &[&["record"], args].concat()).outcome()
}

#[test]
fn an_object_has_pods_recorded_until_it_is_removed() {
    let folder = folder();
    let place = guarded(&folder);
    let cluster = &place.shop.cluster;
    let made = kubectl(cluster, &["-l", "app=web", "-n", "shop", "--memory", "8MiB", "--name", "web"]);
    made.assert_success();
    let said = made.stderr.join("\n");
    assert!(said.contains("shop/web has pods recorded") && said.contains("1 pods by now: web-0"), "{said}");
    wait_until_recorded(&place, "web-0");
    let recorders = list(&place, NODE).recorders;
    assert_eq!((recorders[0].by.as_str(), recorders[0].memory), ("the recording shop/web", 8 << 20));
    let listed = kubectl(cluster, &["--list", "-n", "shop"]);
    listed.assert_success();
    let lines = String::from_utf8(listed.stdout).expect("text");
    let words: Vec<&str> = lines.lines().nth(1).expect("a line").split_whitespace().collect();
    assert_eq!(words[..5], ["shop", "web", "app=web", "8.0", "MiB"], "{lines}");
    kubectl(cluster, &["--stop", "web", "-n", "shop"]).assert_success();
    sniff_tests::wait::until("the end", std::time::Duration::from_secs(20), || {
        list(&place, NODE).recorders.is_empty().then_some(())
    });
    kubectl(cluster, &["--stop", "web", "-n", "shop"]).assert_failure(&["there is no recording shop/web"]);
}

#[test]
fn what_cannot_be_recorded_is_refused_with_what_to_do() {
    let place = super::Shop::new();
    let fails = |args: &[&str], words: &str| kubectl(&place.cluster, args).assert_failure(&[words]);
    fails(&["web-0", "-n", "shop"], "kubectl annotate pod web-0 -n shop sniff/record=64MiB");
    fails(&["bank/web-0"], "kubectl annotate pod web-0 -n bank sniff/record=64MiB");
    fails(&["node/n1"], "the interfaces of a node are not recorded");
    fails(&[], "name whom to record");
    place.cluster.deny("create", "recordings");
    fails(&["-l", "app=web", "-n", "shop"], "create and delete recordings.sniff.internal in namespace shop");
}
