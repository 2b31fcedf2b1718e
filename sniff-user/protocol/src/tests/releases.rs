//! What releases say is understood by this version, and the other way round: their frames are kept as they were sent,
//! in `data`, a file for each release and direction.
//!
//! A release that has another [`PROTOCOL`] is told which end to update; its files go.

use std::{fs, path::PathBuf};

use serde_json::Value;

use super::*;
use crate::{
    HEADER_LEN,
    door::{Admitted, Answer, Credentials, Refusal, Refused},
    frame::PACKETS,
    message::{Awaited, AwaitedBy},
    request::{Alarm, Compress, Cutoff},
};

const TO_CLIENT: &str = "to-client";
const TO_NODE: &str = "to-node";
const TO_DOOR: &str = "to-door";
const FROM_DOOR: &str = "from-door";
/// All that a node can say, with nothing left out.
fn all_to_client() -> Vec<ToClient> {
    let hello = NodeHello {
        version: "0.1.0".into(),
        commit: Some("0123456789ab".into()),
        node: "n-1".into(),
        kernel: "6.18".into(),
        has_watermarks: true,
        waits_for_goodbye: true,
        has_both_ends: true,
        has_cutoffs: true,
        knows_reasons: true,
        knows_the_past: true,
    };
    let events = [
        Event::TargetArrived { target: pod("web-1") },
        Event::TargetFailed { target: pod("web-2"), error: "no such pod".into(), refused: true },
        Event::Listening { interfaces: 1 },
    ];
    let codes = [
        Code::Usage,
        Code::VersionSkew,
        Code::Target,
        Code::Filter,
        Code::Kernel,
        Code::Output,
        Code::RefusedLimit,
        Code::NotAuthorised,
        Code::Other,
    ];
    let reasons = [
        Reason::Count,
        Reason::Duration,
        Reason::Lease,
        Reason::InputClosed,
        Reason::Deadline,
        Reason::Signal,
        Reason::Failed,
        Reason::Other,
    ];
    let mut messages = vec![ToClient::Hello(hello)];
    messages.extend(events.map(ToClient::Event));
    messages.extend(codes.map(|code| ToClient::Error(NodeError { code, message: "why".into() })));
    messages.push(ToClient::Packets(Bytes::from_static(b"packets")));
    messages.extend(reasons.map(|reason| ToClient::End(End { reason, ..End::default() })));
    messages.extend(to_client().into_iter().filter(|it| !matches!(it, ToClient::Packets(_))));
    messages
}

/// All that a client can say, with nothing left out.
fn all_to_node() -> Vec<ToNode> {
    let plan = CapturePlan {
        filter: Some("tcp".into()),
        snaplen: Some(96),
        headers: true,
        cutoff: Some(Cutoff { bytes: 16 << 10, every: 1 }),
        direction: Directions::Out,
        count: Some(5),
        duration_ms: Some(1500),
        buffer_bytes: Some(1 << 20),
        attach: AttachAt::Host,
        both_ends: Some(BothEnds::Marked),
        compress: Compress::Never,
        record_bytes: Some(64 << 20),
        alarm: Some(Alarm { filter: "icmp".into(), per_second: 10 }),
    };
    let awaited = |by| Awaited { namespace: Some("shop".into()), by, interfaces: vec!["eth0".into()] };
    let hello = ClientHello {
        version: "0.1.0".into(),
        who: "ann@laptop".into(),
        plan,
        targets: vec![Target {
            container: Some("app".into()),
            interfaces: vec!["eth0".into()],
            filter: Some("udp".into()),
            kubelet_port: Some(10250),
            comment: Some("joined later".into()),
            again: true,
            ..Target::new(pod("web-0"))
        }],
        awaited: vec![
            awaited(AwaitedBy::Name { name: "web-1".into() }),
            awaited(AwaitedBy::Labels { selector: "app=web".into() }),
        ],
        lease_seconds: 15,
        says_goodbye: true,
        reason: Some("INC-7".into()),
        override_deny: true,
        past: Some(Past::List),
    };
    let saved = Past::Saved { name: "shop_web-0.pcapng".into() };
    let of_a_file = ClientHello { past: Some(saved), ..hello.clone() };
    let mut messages = vec![ToNode::Hello(Box::new(hello)), ToNode::Hello(Box::new(of_a_file))];
    messages.extend(to_node());
    messages
}

/// All that a client can say at a door.
fn all_to_door() -> Vec<Credentials> {
    vec![Credentials { version: "0.1.0".into(), tokens: vec!["a.b.c".into(), "d.e.f".into()] }]
}

/// All that can be said to it there.
fn all_from_door() -> Vec<Answer> {
    let codes = [
        Refusal::Malformed,
        Refusal::BadToken,
        Refusal::UsedToken,
        Refusal::WrongAccount,
        Refusal::Busy,
        Refusal::Unavailable,
        Refusal::Other,
    ];
    let admitted = Admitted { namespaces: vec!["bank".into(), "shop".into()], node: true };
    let mut answers = vec![Answer::Admitted(admitted)];
    answers.extend(codes.map(|code| Answer::Refused(Refused { code, message: "why".into() })));
    answers
}

fn data() -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "src/tests/data"].iter().collect()
}

fn file(version: &str, direction: &str) -> PathBuf {
    data().join(format!("{version}.{direction}"))
}

/// The releases on record.
fn releases() -> Vec<String> {
    let files = fs::read_dir(data()).unwrap();
    let names = files.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter_map(|name| name.strip_suffix(&format!(".{TO_NODE}")).map(str::to_owned)).collect()
}

/// The frames of a stream: their kinds and payloads.
fn frames(mut stream: &[u8]) -> Vec<(u8, &[u8])> {
    stream = &stream[PREFACE.len()..];
    let mut frames = Vec::new();
    while let Some((header, rest)) = stream.split_first_chunk::<HEADER_LEN>() {
        let len = u32::from_le_bytes(header[4..].try_into().unwrap()) as usize;
        frames.push((header[0], &rest[..len]));
        stream = &rest[len..];
    }
    frames
}

/// What is in `theirs` and not, or otherwise, in `ours`.
fn differences(theirs: &Value, ours: &Value, at: &str, found: &mut Vec<String>) {
    match (theirs, ours) {
        (Value::Object(theirs), Value::Object(ours)) => {
            for (name, theirs) in theirs {
                differences(theirs, ours.get(name).unwrap_or(&Value::Null), &format!("{at}.{name}"), found);
            }
        }
        (Value::Array(theirs), Value::Array(ours)) if theirs.len() == ours.len() => {
            for (at_item, (theirs, ours)) in theirs.iter().zip(ours).enumerate() {
                differences(theirs, ours, &format!("{at}[{at_item}]"), found);
            }
        }
        _ if theirs == ours => {}
        _ => found.push(format!("{at}: {theirs} became {ours}")),
    }
}

/// What a release said, read and said anew by this version, has all that was in it: this understands it, and what this
/// says has what the release asks for.
#[track_caller]
fn assert_kept<M: Frame>(version: &str, direction: &str) {
    let recorded = fs::read(file(version, direction)).unwrap();
    let anew = written(&read::<M>(&recorded, usize::MAX).unwrap());
    let (recorded, anew) = (frames(&recorded), frames(&anew));
    assert_eq!(recorded.len(), anew.len());
    let mut found = Vec::new();
    for (place, (&(kind, theirs), &(ours_kind, ours))) in recorded.iter().zip(&anew).enumerate() {
        assert_eq!(kind, ours_kind);
        if theirs.is_empty() || kind == PACKETS {
            assert_eq!(theirs, ours);
            continue;
        }
        let [theirs, ours] = [theirs, ours].map(|json| serde_json::from_slice(json).unwrap());
        differences(&theirs, &ours, &format!("{version} {direction} {place} {kind:#04x}"), &mut found);
    }
    assert_eq!(found, [""; 0]);
}

#[test]
fn what_releases_say_is_understood_and_said_as_they_do() {
    let releases = releases();
    assert!(releases.iter().any(|release| release == env!("CARGO_PKG_VERSION")), "{releases:?}");
    for version in releases {
        assert_kept::<ToClient>(&version, TO_CLIENT);
        assert_kept::<ToNode>(&version, TO_NODE);
        assert_kept::<Credentials>(&version, TO_DOOR);
        assert_kept::<Answer>(&version, FROM_DOOR);
    }
}

/// What a later version has changed is not in the frames that are kept: it needs a version of its own, and its frames.
#[test]
fn the_frames_of_this_version_are_those_on_record() {
    let advice = "another version? cargo test -p sniff-protocol -- --ignored record";
    let version = env!("CARGO_PKG_VERSION");
    assert!(fs::read(file(version, TO_CLIENT)).unwrap() == written(&all_to_client()), "{advice}");
    assert!(fs::read(file(version, TO_NODE)).unwrap() == written(&all_to_node()), "{advice}");
    assert!(fs::read(file(version, TO_DOOR)).unwrap() == written(&all_to_door()), "{advice}");
    assert!(fs::read(file(version, FROM_DOOR)).unwrap() == written(&all_from_door()), "{advice}");
}

#[test]
#[ignore = "writes the frames of this version, which are to be those of its release"]
fn record() {
    let version = env!("CARGO_PKG_VERSION");
    fs::create_dir_all(data()).unwrap();
    fs::write(file(version, TO_CLIENT), written(&all_to_client())).unwrap();
    fs::write(file(version, TO_NODE), written(&all_to_node())).unwrap();
    fs::write(file(version, TO_DOOR), written(&all_to_door())).unwrap();
    fs::write(file(version, FROM_DOOR), written(&all_from_door())).unwrap();
}

#[test]
fn what_is_lost_between_versions_is_found() {
    let json = |text: &str| serde_json::from_str::<Value>(text).unwrap();
    let mut found = Vec::new();
    let theirs = json(r#"{"a":1,"b":[{"c":true}],"d":"x"}"#);
    differences(&theirs, &json(r#"{"a":1,"b":[{"c":true}],"d":"x","new":1}"#), "", &mut found);
    assert_eq!(found, [""; 0]);
    differences(&theirs, &json(r#"{"a":2,"b":[{}],"d":"x"}"#), "", &mut found);
    assert_eq!(found, [".a: 1 became 2", ".b[0].c: true became null"]);
}
