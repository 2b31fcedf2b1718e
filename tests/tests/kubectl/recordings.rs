//! The minutes before: pods that the agent records, and what is had of them later.

use std::{ops::Range, time::Duration};

use serde_json::{Value, json};
use sniff_protocol::{
    ToClient, ToNode,
    message::{ClientHello, Event, Past, Reason, RecorderState, Recording, Recordings, TargetId},
};
use sniff_tests::{
    client::{Client, Outcome},
    cri,
    pcap::{Direction, Packet, PcapNg, parse_pcapng},
    serve::{awaited, hello},
    traffic::UdpFlow,
    wait, wireshark,
};

use super::{
    Shop, assert_pings,
    door::{BANK, Come, Guarded, NODE, SHOP},
};
use crate::packaging::role_of_recorder;

const PATIENCE: Duration = Duration::from_secs(20);
/// What the agent may use.
const MEMORY: &str = "48MiB";

/// A shop whose agent records.
pub(super) fn guarded(folder: &tempfile::TempDir) -> Guarded {
    let shop = Shop::new();
    shop.cluster.apply(role_of_recorder());
    guarded_with(shop, folder, &[])
}

fn guarded_with(shop: Shop, folder: &tempfile::TempDir, more: &[&str]) -> Guarded {
    let folder = folder.path().join("recordings");
    let args = ["--record-memory", MEMORY, "--recordings", folder.to_str().expect("a plain path")];
    Guarded::of(shop, &[&args, more].concat())
}

pub(super) fn folder() -> tempfile::TempDir {
    tempfile::tempdir().expect("a folder")
}

/// Has all pods of a namespace recorded.
fn record(place: &Guarded, namespace: &str, memory: &str) {
    let labels = json!({"sniff/record": memory});
    let object = json!({"metadata": {"name": namespace, "labels": labels}});
    place.shop.cluster.put("namespaces", "", namespace, object);
}

fn past(past: Past, namespace: &str) -> ClientHello {
    ClientHello { past: Some(past), awaited: vec![awaited(namespace, "")], ..hello(vec![]) }
}

const ALL: Past = Past::Held { last_ms: None, follow: false };

/// What is recorded, as the agent tells whoever has this account.
pub(super) fn list(place: &Guarded, account: (&'static str, &'static str)) -> Recordings {
    let mut come = place.knock_with(&[account]);
    come.open(past(Past::List, "shop"));
    come.wait_for("the end", |message| matches!(message, ToClient::End(_)));
    let list = |message: &ToClient| match message {
        ToClient::Recordings(recordings) => Some(recordings.clone()),
        _ => None,
    };
    come.said.iter().find_map(list).unwrap_or_else(|| panic!("{:#?}\n{}", come.said, place.log()))
}

pub(super) fn wait_for_state(place: &Guarded, pod: &str, wanted: impl Fn(&RecorderState) -> bool) {
    wait::until("the recorder's state", PATIENCE, || {
        let recorders = list(place, NODE).recorders;
        recorders.iter().find(|it| it.pod == pod && wanted(&it.state)).map(drop)
    });
}

pub(super) fn wait_until_recorded(place: &Guarded, pod: &str) {
    wait_for_state(place, pod, |state| *state == RecorderState::Recording);
}

/// Has the shop's pod go, and waits until what was recorded of it is all there will be.
fn remove_pod(place: &Guarded) {
    place.shop.web.sandbox.stop();
    place.shop.cluster.remove_pod("shop", "web-0");
    wait_for_state(place, "web-0", |state| *state == RecorderState::Ended);
}

/// What comes of a session about the past, to its end.
fn fetch(
    place: &Guarded,
    account: (&'static str, &'static str),
    hello: ClientHello,
) -> (PcapNg, Vec<ToClient>) {
    let mut come = place.knock_with(&[account]);
    come.open(hello);
    come.wait_for("the end", |message| matches!(message, ToClient::End(_)));
    file(come)
}

fn file(come: Come) -> (PcapNg, Vec<ToClient>) {
    let packets = |message: &ToClient| match message {
        ToClient::Packets(blocks) => Some(blocks.to_vec()),
        _ => None,
    };
    let blocks: Vec<u8> = come.said.iter().filter_map(packets).flatten().collect();
    let file = parse_pcapng(&blocks);
    let end = |message: &ToClient| match message {
        ToClient::End(end) => Some(end.clone()),
        _ => None,
    };
    let end = come.said.iter().find_map(end).expect("an end");
    assert_eq!((end.reason, end.captured), (Reason::Stopped, file.packets.len() as u64));
    assert!(file.packets.is_sorted_by_key(|packet| packet.timestamp_ns));
    (file, come.said)
}

fn arrived(said: &[ToClient]) -> Vec<String> {
    let pod = |message: &ToClient| match message {
        ToClient::Event(Event::TargetArrived { target: TargetId::Pod { namespace, name, .. } }) => {
            Some(format!("{namespace}/{name}"))
        }
        _ => None,
    };
    said.iter().filter_map(pod).collect()
}

#[test]
fn what_was_recorded_is_had_again_and_again_also_when_the_pod_is_gone() {
    let folder = folder();
    let place = guarded(&folder);
    record(&place, "shop", "16MiB");
    wait_until_recorded(&place, "web-0");
    place.shop.ping(3);
    for _ in 0..2 {
        let (file, said) = fetch(&place, SHOP, past(ALL, "shop"));
        assert_pings(&file, 56, 3);
        assert_eq!(arrived(&said), ["shop/web-0"]);
        assert_eq!(super::names(&file), ["shop/web-0/eth0"]);
    }
    // Some of it: by time, and by a filter and a length of the client's own.
    let last = Past::Held { last_ms: Some(1), follow: false };
    assert_eq!(fetch(&place, SHOP, past(last, "shop")).0.packets, []);
    let mut some = past(ALL, "shop");
    (some.plan.filter, some.plan.snaplen) = (Some("icmp and outbound".to_owned()), Some(20));
    let (file, _) = fetch(&place, SHOP, some);
    assert_eq!(file.packets.len(), 3);
    assert!(file.packets.iter().all(|packet| packet.data.len() == 20 && packet.original_len == 98));
    remove_pod(&place);
    let (file, _) = fetch(&place, SHOP, past(ALL, "shop"));
    assert_pings(&file, 56, 3);
}

#[test]
fn nobody_has_the_past_of_a_namespace_that_they_may_not_capture() {
    let folder = folder();
    let place = guarded(&folder);
    record(&place, "shop", "8MiB");
    record(&place, "bank", "8MiB");
    wait_until_recorded(&place, "web-0");
    wait::until("both recorders", PATIENCE, || {
        let recorders = list(&place, NODE).recorders;
        (recorders.iter().filter(|it| it.state == RecorderState::Recording).count() == 2).then_some(())
    });
    place.shop.ping(2);
    for (account, namespace) in [(SHOP, "shop"), (BANK, "bank")] {
        let seen: Vec<String> = list(&place, account).recorders.into_iter().map(|it| it.namespace).collect();
        // One that cannot be recorded, on the node's network, is told of, too.
        assert!(!seen.is_empty() && seen.iter().all(|it| it == namespace), "{seen:?}");
    }
    for (account, namespace, pods) in [
        (SHOP, "shop", vec!["shop/web-0"]),
        (SHOP, "bank", vec![]),
        (BANK, "shop", vec![]),
        (BANK, "bank", vec!["bank/web-0"]),
        (NODE, "bank", vec!["bank/web-0"]),
    ] {
        let (_, said) = fetch(&place, account, past(ALL, namespace));
        assert_eq!(arrived(&said), pods, "{account:?} {namespace}");
    }
}

#[test]
fn who_follows_gets_each_packet_once_without_a_gap() {
    const PORT: u16 = 7005;
    const BEFORE: u32 = 3000;
    const ALL: u32 = 60_000;
    const HEADERS: usize = 14 + 20 + 8;
    let folder = folder();
    let place = guarded(&folder);
    record(&place, "shop", "16MiB");
    wait_until_recorded(&place, "web-0");
    let web = &place.shop.web;
    let flow = UdpFlow::open(&place.shop.node.netns, &web.netns, (web.ipv4, PORT).into());
    let send = |numbers: Range<u32>| numbers.for_each(|number| flow.send_payload(&number.to_be_bytes()));
    send(0..BEFORE);
    let mut come = place.knock_with(&[SHOP]);
    let mut hello = past(Past::Held { last_ms: None, follow: true }, "shop");
    hello.plan.filter = Some(format!("udp dst port {PORT}"));
    come.begin(hello);
    send(BEFORE..ALL);
    come.send(&ToNode::Stop);
    come.wait_for("the end", |message| matches!(message, ToClient::End(_)));
    let (file, said) = file(come);
    let number = |packet: &Packet| packet.data[HEADERS..].first_chunk().copied().map(u32::from_be_bytes);
    let numbers: Vec<u32> = file.packets.iter().filter_map(number).collect();
    assert!(numbers.iter().copied().eq(0..ALL), "{} of {ALL}", numbers.len());
    let dropped = |message: &ToClient| matches!(message, ToClient::End(end) if end.dropped > 0);
    assert_eq!(said.iter().find(|message| dropped(message)), None);
    let [statistics] = &file.statistics[..] else { panic!("{:?}", file.statistics) };
    assert_eq!((statistics.usrdeliv, statistics.osdrop), (Some(ALL.into()), Some(0)));
}

#[test]
fn what_a_recorder_left_out_by_its_cutoff_is_told_of_its_past_and_of_what_follows() {
    const PORT: u16 = 7006;
    const SENT: u32 = 3000;
    // Of 1042 bytes each, the last of them cut.
    const KEPT: u32 = 16;
    let folder = folder();
    let place = guarded(&folder);
    let only = format!("udp dst port {PORT}");
    let record = ["record", "-l", "app=web", "-n", "shop", "--memory", "8MiB", "-f", &only];
    Client::start(&place.shop.cluster, &[&record[..], &["--cutoff", "16KiB,none"]].concat())
        .outcome()
        .assert_success();
    wait_until_recorded(&place, "web-0");
    let web = &place.shop.web;
    let flow = UdpFlow::open(&place.shop.node.netns, &web.netns, (web.ipv4, PORT).into());
    flow.send(SENT, 1000);
    let cut_off = |said: &[ToClient]| {
        let end = said.iter().find_map(|message| match message {
            ToClient::End(end) => Some((end.captured, end.dropped, end.matched - end.captured, end.cut_off)),
            _ => None,
        });
        let (captured, dropped, others, cut_off) = end.expect("an end");
        assert_eq!((captured, dropped, others), (KEPT.into(), 0, cut_off));
        cut_off
    };
    let (file, said) = fetch(&place, SHOP, past(ALL, "shop"));
    assert_eq!(file.packets.len(), KEPT as usize);
    // It is not of the packets that were asked for, and told with them.
    assert_eq!(cut_off(&said), 0);
    let left_out = format!("{} packets left out by the cutoff", SENT - KEPT);
    let is_told = |message: &ToClient| matches!(message, ToClient::Event(Event::Note { text, .. }) if text.contains(&left_out));
    assert!(said.iter().any(is_told), "{said:#?}");
    let comment = file.interfaces[0].comment.as_deref().unwrap_or_default();
    assert!(comment.contains("of each flow the first 16384 bytes are kept, then nothing"), "{comment}");
    let comment = file.statistics[0].comment.as_deref().unwrap_or_default();
    assert!(comment.contains(&left_out), "{comment}");
    let mut come = place.knock_with(&[SHOP]);
    come.begin(past(Past::Held { last_ms: None, follow: true }, "shop"));
    flow.send(SENT, 1000);
    come.send(&ToNode::Stop);
    come.wait_for("the end", |message| matches!(message, ToClient::End(_)));
    let (file, said) = self::file(come);
    assert_eq!(file.statistics[0].filteraccept, Some((2 * SENT).into()));
    assert!(cut_off(&said) <= SENT.into());
}

#[test]
fn a_pod_for_which_there_is_no_room_is_told_of() {
    let folder = folder();
    let place = guarded(&folder);
    record(&place, "shop", "24MiB");
    wait_until_recorded(&place, "web-0");
    record(&place, "bank", "24MiB");
    wait::until("the refusal", PATIENCE, || {
        let recorders = list(&place, BANK).recorders;
        let refused = |state: &RecorderState| matches!(state, RecorderState::Refused(why) if why.contains("SNIFF_RECORD_MEMORY"));
        recorders.iter().any(|it| refused(&it.state)).then_some(())
    });
    assert_eq!(wait_for_event(&place, "bank", "PacketRecordingFailed")["type"], "Warning");
}

/// Has the API tell how a container of the shop's pod is, as the kubelet would.
fn tell_status(place: &Guarded, status: &Value) {
    let uid = &place.shop.web.sandbox.uid;
    let pod = json!({
        "metadata": {"namespace": "shop", "name": "web-0", "uid": uid, "labels": {"app": "web"}},
        "spec": {"nodeName": "n1", "containers": [{"name": "app"}]},
        "status": {"phase": "Running", "containerStatuses": [status]},
    });
    place.shop.cluster.put("pods", "shop", "web-0", pod);
}

/// How a container is that was restarted so often, and has ended like this before.
fn restarted(count: u32, last: &Value) -> Value {
    json!({"name": "app", "ready": true, "restartCount": count, "image": "", "imageID": "",
        "state": {"running": {"startedAt": "2026-01-01T00:00:00Z"}}, "lastState": last})
}

#[test]
fn packets_that_come_too_fast_have_the_minutes_before_saved() {
    const PORT: u16 = 7007;
    let folder = folder();
    let place = guarded(&folder);
    // What is counted is not what is recorded.
    let counted = format!("udp dst port {PORT}");
    let record = ["record", "-l", "app=web", "-n", "shop", "--memory", "8MiB", "-f", "icmp"];
    Client::start(
        &place.shop.cluster,
        &[&record[..], &["--save-when", &counted, "--save-rate", "100"]].concat(),
    )
    .outcome()
    .assert_success();
    wait_until_recorded(&place, "web-0");
    place.shop.ping(3);
    let web = &place.shop.web;
    let flow = UdpFlow::open(&place.shop.node.netns, &web.netns, (web.ipv4, PORT).into());
    for _ in 0..3 {
        flow.send(30, 100);
        std::thread::sleep(Duration::from_secs(1));
    }
    assert_eq!(list(&place, SHOP).saved, []);
    flow.send(5000, 100);
    let saved = wait_for_saved(&place, "rate");
    let file = fetch_saved(&place, &saved);
    assert_pings(&file, 56, 3);
    let on_disk = folder.path().join("recordings").join(&saved.name);
    let comment = sniff_tests::pcap::read_pcapng(&on_disk).section.comment.expect("a comment");
    let words = format!(" packets a second match '{counted}', more than 100 at ");
    assert!(comment.contains(&words), "{comment}");
}

/// Waits for an event that the agent writes, which it does beside everything else.
fn wait_for_event(place: &Guarded, namespace: &str, reason: &str) -> Value {
    wait::until("an event", PATIENCE, || {
        let events = place.shop.cluster.events(namespace);
        events.into_iter().find(|event| event["reason"] == reason)
    })
}

/// Waits for a file that a trigger has saved.
fn wait_for_saved(place: &Guarded, reason: &str) -> Recording {
    wait::until("a saved file", PATIENCE, || {
        list(place, SHOP).saved.into_iter().find(|saved| saved.reason == reason)
    })
}

/// The file, with what its section says of itself.
fn fetch_saved(place: &Guarded, saved: &Recording) -> PcapNg {
    let named = Past::Saved { name: saved.name.clone() };
    let (file, said) = fetch(place, SHOP, past(named, "shop"));
    assert_eq!(arrived(&said), ["shop/web-0"]);
    file
}

#[test]
fn a_restarted_container_has_the_minutes_before_saved() {
    let folder = folder();
    let place = guarded(&folder);
    tell_status(&place, &restarted(0, &json!({})));
    record(&place, "shop", "16MiB");
    wait_until_recorded(&place, "web-0");
    place.shop.ping(3);
    let ended =
        json!({"terminated": {"exitCode": 1, "reason": "Error", "finishedAt": "2026-01-01T00:00:01Z"}});
    tell_status(&place, &restarted(1, &ended));
    // The second joins the first.
    tell_status(&place, &restarted(2, &ended));
    let saved = wait_for_saved(&place, "restarted");
    assert!(
        saved.name.starts_with("shop_web-0_") && saved.name.ends_with("_restarted.pcapng"),
        "{}",
        saved.name
    );
    let file = fetch_saved(&place, &saved);
    assert_pings(&file, 56, 3);
    let on_disk = folder.path().join("recordings").join(&saved.name);
    let comment = sniff_tests::pcap::read_pcapng(&on_disk).section.comment.expect("a comment");
    for words in [
        "saved by a trigger (restarted): container app has ended (exit 1) and was restarted",
        "and 1 more",
        "the packets since",
    ] {
        assert!(comment.contains(words), "{comment}");
    }
    for (reason, words) in [
        ("PacketRecording", "from now on, and none from before are held; "),
        ("PacketRecordingSaved", &saved.name),
    ] {
        let told = wait_for_event(&place, "shop", reason);
        assert!(told["message"].as_str().expect("words").contains(words), "{told}");
    }
    // Nobody else has it.
    let mut come = place.knock_with(&[BANK]);
    come.open(past(Past::Saved { name: saved.name.clone() }, "shop"));
    come.wait_for("the refusal", |message| matches!(message, ToClient::Error(_)));
    assert_eq!(list(&place, BANK).saved, []);
}

/// Has the API tell of an event of a pod, as its kubelet would.
fn tell_event(shop: &Shop, name: &str, reason: &str, pod: (&str, &str, &str), message: &str) {
    let (namespace, pod, uid) = pod;
    let of = json!({"kind": "Pod", "namespace": namespace, "name": pod, "uid": uid});
    let event = json!({"metadata": {"name": name, "namespace": namespace}, "involvedObject": of, "reason": reason,
        "message": message, "type": "Warning", "count": 3, "lastTimestamp": "2026-01-01T00:00:02Z"});
    shop.cluster.put("events", namespace, name, event);
}

fn wait_for_watches_of_events(place: &Guarded, count: usize) {
    wait::until("watches of events", PATIENCE, || {
        let log = place.shop.cluster.log();
        (log.iter().filter(|line| *line == "watch events /").count() == count).then_some(())
    });
}

#[test]
fn an_event_whose_reason_was_named_has_the_minutes_before_saved() {
    let folder = folder();
    let shop = Shop::new();
    shop.cluster.apply(role_of_recorder());
    let uid = shop.web.sandbox.uid.clone();
    let web = ("shop", "web-0", uid.as_str());
    tell_event(&shop, "old", "Unhealthy", web, "long ago");
    let place = guarded_with(shop, &folder, &["--record-events", "Unhealthy"]);
    record(&place, "shop", "16MiB");
    wait_until_recorded(&place, "web-0");
    place.shop.ping(3);
    // It is listed again.
    wait_for_watches_of_events(&place, 1);
    place.shop.cluster.forget_versions();
    wait_for_watches_of_events(&place, 2);
    let shop = &place.shop;
    tell_event(shop, "other", "Pulled", web, "of another reason");
    tell_event(shop, "bank", "Unhealthy", ("bank", "web-0", "another"), "of a pod that is not recorded");
    tell_event(shop, "forged", "Unhealthy", ("bank", "web-0", &uid), "in a namespace that the pod is not in");
    tell_event(
        shop,
        "misnamed",
        "Unhealthy",
        ("shop", "web-1", &uid),
        "of a name that the pod does not have",
    );
    let message = "Liveness probe failed: HTTP 503\n\u{1b}[2J";
    tell_event(shop, "new", "Unhealthy", web, message);
    let saved = wait_for_saved(&place, "event-Unhealthy");
    assert!(saved.name.ends_with("_event-Unhealthy.pcapng"), "{}", saved.name);
    assert_pings(&fetch_saved(&place, &saved), 56, 3);
    let on_disk = folder.path().join("recordings").join(&saved.name);
    let comment = sniff_tests::pcap::read_pcapng(&on_disk).section.comment.expect("a comment");
    let words = "saved by a trigger (event-Unhealthy): event Unhealthy: Liveness probe failed: HTTP 503\\n\\u{1b}[2J at \
                 2026-01-01T00:00:02.000000000Z; saved from a recording in memory: ";
    assert!(comment.starts_with(words), "{comment}");
    assert_eq!(list(&place, NODE).saved.len(), 1);
    let listed = kubectl(&place, &["recordings", "-n", "shop"]);
    listed.assert_success();
    let lines = String::from_utf8_lossy(&listed.stdout).into_owned();
    assert!(lines.contains(&saved.name) && lines.contains("event-Unhealthy "), "{lines}");
    let told = wait_for_event(&place, "shop", "PacketRecordingSaved");
    assert!(told["message"].as_str().expect("words").contains("(event-Unhealthy)"), "{told}");
}

#[test]
fn an_agent_that_may_not_hear_of_events_says_so_once() {
    let folder = folder();
    let place = guarded_with(Shop::new(), &folder, &["--record-events", "Unhealthy,BackOff"]);
    let told = "nothing is heard of events of pods: you may not list events in all namespaces: ask for a role that allows it";
    wait::until("the refusal", PATIENCE, || place.log().contains(told).then_some(()));
    wait::until("both", PATIENCE, || {
        let log = place.shop.cluster.log();
        (log.iter().filter(|line| *line == "list events /").count() == 2).then_some(())
    });
    assert_eq!(place.log().matches(told).count(), 1, "{}", place.log());
}

/// In a real container with a real limit.
#[test]
fn the_last_second_of_an_oom_killed_container_is_in_the_file_that_is_saved() {
    const PAYLOAD: u32 = 57;
    const EXITED: i32 = 2;
    let folder = folder();
    let place = guarded(&folder);
    tell_status(&place, &restarted(0, &json!({})));
    record(&place, "shop", "16MiB");
    wait_until_recorded(&place, "web-0");
    let gateway = place.shop.web.gateway4;
    let command = format!(
        "while true; do /bin/busybox ping -c 1 -s {PAYLOAD} {gateway}; done > /dev/null & /bin/busybox sleep 2; \
         a=xxxxxxxx; while true; do a=$a$a; done"
    );
    let config = cri::ContainerConfig {
        command: vec!["/bin/sh".to_owned(), "-c".to_owned(), command],
        linux: Some(cri::LinuxContainerConfig {
            resources: Some(cri::LinuxContainerResources { memory_limit_in_bytes: 16 << 20 }),
            ..cri::LinuxContainerConfig::default()
        }),
        ..cri::ContainerConfig::pinging(gateway, PAYLOAD)
    };
    let sandbox = &place.shop.web.sandbox;
    let container = sandbox.run_container("app", config);
    let status = wait::until("the end of the container", PATIENCE, || {
        Some(place.shop.node.status_of(&container)).filter(|status| status.state == EXITED)
    });
    assert_eq!(status.reason, "OOMKilled", "{status:?}");
    let finished = u64::try_from(status.finished_at).expect("a time");
    let at =
        humantime::format_rfc3339_seconds(std::time::UNIX_EPOCH + Duration::from_nanos(finished)).to_string();
    let ended =
        json!({"terminated": {"exitCode": status.exit_code, "reason": status.reason, "finishedAt": at}});
    tell_status(&place, &restarted(1, &ended));
    let file = fetch_saved(&place, &wait_for_saved(&place, "oom-killed"));
    let last_second = finished - 1_000_000_000..finished;
    let sent = |packet: &&Packet| last_second.contains(&packet.timestamp_ns);
    let requests = crate::echoes(
        &file.packets.iter().filter(sent).cloned().collect::<Vec<_>>(),
        Direction::Out,
        PAYLOAD,
    );
    assert!(requests > 0, "{requests} of {} packets", file.packets.len());
}

/// What `kubectl sniff` of a developer of the shop says to this.
fn kubectl(place: &Guarded, args: &[&str]) -> Outcome {
    Client::start_as(&place.shop.cluster, "dev", args).outcome()
}

#[test]
fn a_person_fetches_the_minutes_before_lists_what_was_saved_and_gets_it() {
    let folder = folder();
    let place = guarded(&folder);
    tell_status(&place, &restarted(0, &json!({})));
    let nothing = kubectl(&place, &["web-0", "-n", "shop", "--last", "5m", "-w", "FILE"]);
    nothing.assert_failure(&["no node holds anything that was recorded of shop/web-0"]);
    record(&place, "shop", "16MiB");
    wait_until_recorded(&place, "web-0");
    place.shop.ping(3);
    let fetched = kubectl(&place, &["-l", "app=web", "-n", "shop", "--last", "5m", "-w", "FILE"]);
    fetched.assert_success();
    let file = fetched.file();
    assert_pings(&file, 56, 3);
    assert_eq!(super::names(&file), ["shop/web-0/eth0"]);
    let captured = format!("{} packets captured", file.packets.len());
    assert!(fetched.said(&captured), "{:#?}", fetched.stderr);
    wireshark::assert_clean(&fetched.path());
    let comment = file.section.comment.expect("a comment");
    assert!(comment.contains("what was recorded in the last 5m, as of"), "{comment}");
    // A filter, of what was recorded without one.
    let some =
        kubectl(&place, &["web-0", "-n", "shop", "--last", "all", "-w", "FILE", "-f", "icmp[icmptype] = 8"]);
    some.assert_success();
    assert_eq!(some.file().packets.len(), 3);
    let ended =
        json!({"terminated": {"exitCode": 1, "reason": "Error", "finishedAt": "2026-01-01T00:00:01Z"}});
    tell_status(&place, &restarted(1, &ended));
    let saved = wait_for_saved(&place, "restarted");
    let listed = kubectl(&place, &["recordings", "-n", "shop"]);
    listed.assert_success();
    let lines = String::from_utf8_lossy(&listed.stdout).into_owned();
    assert!(lines.contains(&saved.name) && lines.contains("restarted"), "{lines}");
    let status = kubectl(&place, &["recordings", "--status", "-n", "shop"]);
    status.assert_success();
    let lines = String::from_utf8_lossy(&status.stdout).into_owned();
    assert!(lines.contains("web-0") && lines.contains("the label sniff/record of its namespace"), "{lines}");
    let got = kubectl(&place, &["recordings", "get", &saved.name, "-n", "shop", "-w", "FILE"]);
    got.assert_success();
    assert_pings(&got.file(), 56, 3);
    // The pod is gone, and nobody but the node knows that it was there.
    remove_pod(&place);
    let fetched = kubectl(&place, &["web-0", "-n", "shop", "--last", "5m", "-w", "FILE"]);
    fetched.assert_success();
    assert_pings(&fetched.file(), 56, 3);
    let others = kubectl(&place, &["web-0", "-n", "bank", "--last", "5m", "-w", "FILE"]);
    others.assert_failure(&["you may not create serviceaccounts/token sniff-capture in namespace bank"]);
}

#[test]
fn a_person_follows_from_the_past_on() {
    let folder = folder();
    let place = guarded(&folder);
    record(&place, "shop", "16MiB");
    wait_until_recorded(&place, "web-0");
    place.shop.ping(2);
    let args = ["web-0", "-n", "shop", "--last", "5m", "--follow", "-w", "FILE"];
    let client = Client::start_as(&place.shop.cluster, "dev", &args);
    client.wait_for_packets(4);
    place.shop.ping(3);
    client.wait_for_packets(10);
    let outcome = client.stop();
    outcome.assert_success();
    assert_pings(&outcome.file(), 56, 5);
}
