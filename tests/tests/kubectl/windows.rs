//! The client for Windows under Wine, against a cluster of test machines. Not part of the other tests, as it takes Wine and
//! a build for Windows: `cargo xtask test --windows` runs them.

use sniff_tests::{
    client::{Client, WINDOWS_CLIENT, windows_client},
    wait, wireshark,
};

use super::{GONE, LISTENING, Shop, assert_pings, names};

#[test]
#[ignore = "takes Wine"]
fn a_capture_to_a_file_ends_by_ctrl_c() {
    let place = Shop::new();
    let client = place.listen_to_pings(&["shop/web-0"]);
    let outcome = client.stop();
    outcome.assert_success();
    assert!(
        outcome.said("4 packets captured") && outcome.said("0 packets dropped by kernel"),
        "{outcome:#?}"
    );
    wireshark::assert_clean(&outcome.path());
    let file = outcome.file();
    assert_pings(&file, 56, 2);
    assert_eq!(names(&file), ["shop/web-0/eth0"]);
    place.assert_nothing_runs(GONE);
}

#[test]
#[ignore = "takes Wine"]
fn a_short_lived_pod_is_made_and_removed() {
    let place = Shop::without_daemonset();
    let client = place.listen_to_pings(&["shop/web-0", "--image", "sniff:test"]);
    client.stop().assert_success();
    wait::until("the end of the pod", GONE, || place.cluster.pods("sniff").is_empty().then_some(()));
    place.assert_nothing_runs(GONE);
}

#[test]
#[ignore = "takes Wine"]
fn doctor_and_cleanup_say_what_there_is() {
    let place = Shop::new();
    let run = |command: &str| {
        let outcome = Client::start(&place.cluster, &[command]).outcome();
        outcome.assert_success();
        String::from_utf8(outcome.stdout).expect("text")
    };
    let said = run("doctor");
    assert!(said.contains("runs on 1 of 1 nodes") && said.contains(") in 1 pod(s)"), "{said}");
    assert!(run("cleanup").contains("nothing"));
}

#[test]
#[ignore = "takes Wine"]
fn a_reader_that_closes_its_pipe_ends_the_capture() {
    let place = Shop::new();
    let mut client = Client::start_unread(&place.cluster, &["shop/web-0", "-w", "-"]);
    client.wait_for(LISTENING);
    place.ping(1);
    let outcome = client.outcome();
    outcome.assert_success();
    place.assert_nothing_runs(GONE);
}

/// A Wireshark that ends at once: the client itself, which does not know the arguments.
#[test]
#[ignore = "takes Wine"]
fn a_wireshark_that_is_closed_ends_the_capture() {
    let place = Shop::new();
    let program = windows_client().expect(WINDOWS_CLIENT);
    let program = program.to_str().expect("a plain path");
    let mut client = Client::start(&place.cluster, &["shop/web-0", "--wireshark-path", program]);
    client.wait_for(LISTENING);
    place.ping(1);
    let outcome = client.outcome();
    outcome.assert_success();
    place.assert_nothing_runs(GONE);
}
