//! Messages survive the way however it is cut, and nothing that is not one gets through.

mod releases;

use bytes::Bytes;

use super::{
    Broken, Decoder, Frame, MAX_JSON, MAX_PAYLOAD, PREFACE, PROTOCOL, ToClient, ToNode, encode,
    message::{
        CapturePlan, ClientHello, Code, End, Event, Level, NodeError, NodeHello, Past, Reason, Recorder,
        RecorderState, Recording, Recordings, Seen, Stats, Target, TargetId, Targets,
    },
};
use crate::request::{AttachAt, BothEnds, Directions};

fn pod(name: &str) -> TargetId {
    TargetId::Pod { namespace: "shop".into(), name: name.into(), uid: "u-1".into() }
}

fn to_client() -> Vec<ToClient> {
    vec![
        ToClient::Hello(NodeHello { node: "n-1".into(), kernel: "6.18".into(), ..NodeHello::default() }),
        ToClient::Event(Event::TargetAdded {
            target: pod("web-0"),
            interfaces: vec!["shop/web-0/eth0".into()],
        }),
        ToClient::Event(Event::TargetGone { target: TargetId::Node, why: "asked".into() }),
        ToClient::Event(Event::Note { level: Level::Warn, text: "\u{1b}[31m$(reboot)\n".into() }),
        ToClient::Packets(Bytes::from(vec![7; 100_000])),
        ToClient::Packets(Bytes::new()),
        ToClient::Stats(Stats {
            matched: u64::MAX,
            delivered: 1,
            dropped: 2,
            fullest_percent: 100,
            unreadable: 3,
            held_up: 4,
            left_out: 5,
            cut_off: 6,
        }),
        ToClient::Error(NodeError { code: Code::RefusedLimit, message: "8 sessions run".into() }),
        ToClient::Recordings(Recordings {
            recorders: vec![Recorder {
                state: RecorderState::Refused("no memory is left".into()),
                ..Recorder::default()
            }],
            saved: vec![Recording { name: "shop_web-0.pcapng".into(), ..Recording::default() }],
            ..Recordings::default()
        }),
        ToClient::End(End {
            reason: Reason::Stopped,
            captured: 1,
            matched: 4,
            dropped: 2,
            left_out: 1,
            cut_off: 1,
            seen: Some(Seen { at_both: 1, only_sent: 2, forgotten: 3 }),
        }),
    ]
}

fn to_node() -> Vec<ToNode> {
    let target = Target {
        interfaces: vec!["eth0".into()],
        filter: Some("tcp".into()),
        again: true,
        ..Target::new(pod("a"))
    };
    let plan = CapturePlan {
        filter: Some("tcp[13] = 2; rm -rf /".into()),
        direction: Directions::In,
        attach: AttachAt::Pod,
        both_ends: Some(BothEnds::OneSide),
        ..CapturePlan::default()
    };
    let past = Some(Past::Held { last_ms: Some(300_000), follow: true });
    let hello = ClientHello {
        plan,
        targets: vec![target.clone()],
        lease_seconds: 15,
        past,
        ..ClientHello::default()
    };
    vec![
        ToNode::Hello(Box::new(hello)),
        ToNode::Targets(Targets { add: vec![target], remove: vec![TargetId::Node] }),
        ToNode::KeepAlive,
        ToNode::Watermark,
        ToNode::Stop,
        ToNode::Goodbye,
    ]
}

fn written(messages: &[impl Frame]) -> Vec<u8> {
    let mut bytes = PREFACE.to_vec();
    messages.iter().for_each(|message| encode(message, &mut bytes).unwrap());
    bytes
}

/// Reads a stream that comes in pieces of `piece` bytes.
fn read<M: Frame>(stream: &[u8], piece: usize) -> Result<Vec<M>, Broken> {
    let mut decoder = Decoder::new();
    let mut messages = Vec::new();
    for bytes in stream.chunks(piece) {
        decoder.push(bytes);
        while let Some(message) = decoder.next()? {
            messages.push(message);
        }
    }
    decoder.finish().map(|()| messages)
}

/// A stream of one frame.
fn frame(header: [u8; 4], len: u32, payload: &[u8]) -> Vec<u8> {
    [&PREFACE[..], &header, &len.to_le_bytes(), payload].concat()
}

#[track_caller]
fn assert_malformed(stream: &[u8], says: &str) {
    match read::<ToClient>(stream, stream.len()) {
        Err(Broken::Malformed(what)) if what.contains(says) => {}
        other => panic!("{other:?}"),
    }
}

#[test]
fn messages_survive_however_the_stream_is_cut() {
    for piece in [1, 7, 4096, usize::MAX] {
        assert_eq!(read::<ToClient>(&written(&to_client()), piece).unwrap(), to_client());
        assert_eq!(read::<ToNode>(&written(&to_node()), piece).unwrap(), to_node());
    }
}

#[test]
fn the_layout_is_pinned() {
    let mut bytes = PREFACE.to_vec();
    encode(&ToNode::Targets(Targets::default()), &mut bytes).unwrap();
    let json = br#"{"add":[],"remove":[]}"#;
    let expected = [b"SNIFF\0\0\x01".as_slice(), b"\x82\0\0\0\x16\0\0\0", json].concat();
    assert_eq!(bytes, expected);
    let target = Target::new(pod("a"));
    let short: Target =
        serde_json::from_str(r#"{"kind":"pod","namespace":"shop","name":"a","uid":"u-1"}"#).unwrap();
    assert_eq!(short, target);
}

#[test]
fn another_end_is_named() {
    let foreign = read::<ToClient>(b"OCI runtime exec failed: \x1b[31mno sniff\n", 3).unwrap_err();
    assert_eq!(foreign, Broken::Foreign("OCI".into()), "known from its first bytes");
    let whole = read::<ToClient>(b"OCI runtime: \x1b[31mno\n", 99).unwrap_err();
    assert_eq!(whole, Broken::Foreign("OCI runtime: \\x1b[31mno".into()));
    assert_eq!(read::<ToClient>(b"SNI", 99).unwrap_err(), Broken::Foreign("SNI".into()));
    assert_eq!(read::<ToClient>(b"", 99).unwrap_err(), Broken::Cut);
    let other = [b"SNIFF\0\0".as_slice(), &[PROTOCOL + 1]].concat();
    assert_eq!(read::<ToClient>(&other, 99).unwrap_err(), Broken::Protocol(PROTOCOL + 1));
    let newer = Broken::Protocol(PROTOCOL + 1).to_string();
    assert!(newer.contains("protocol 2") && newer.ends_with("update this one"), "{newer}");
    assert!(Broken::Protocol(PROTOCOL - 1).to_string().ends_with("update the other end"));
}

#[test]
fn the_other_direction_is_refused() {
    assert_malformed(&written(&to_node()), "unknown frame of kind 0x81");
}

#[test]
fn lengths_are_checked_before_memory_is_taken() {
    assert_malformed(&frame([2, 0, 0, 0], u32::MAX, b""), "claims 4294967295 bytes");
    assert_malformed(&frame([2, 0, 0, 0], MAX_PAYLOAD as u32 + 1, b""), "claims");
    let json = vec![b' '; MAX_JSON + 1];
    assert_malformed(&frame([3, 0, 0, 0], json.len() as u32, &json), "bytes of JSON");
    let mut out = Vec::new();
    let large = ToClient::Packets(Bytes::from(vec![0; MAX_PAYLOAD + 1]));
    assert!(encode(&large, &mut out).is_err());
    let add = vec![Target::new(pod(&"x".repeat(MAX_JSON)))];
    let long = ToNode::Targets(Targets { add, remove: vec![] });
    assert!(encode(&long, &mut out).is_err());
    assert_eq!(out, b"");
}

#[test]
fn what_is_unknown_or_garbled_is_refused() {
    assert_malformed(&frame([0x77, 0, 0, 0], 0, b""), "unknown frame of kind 0x77");
    assert_malformed(&frame([2, 2, 0, 0], 0, b""), "unknown flags");
    assert_malformed(&frame([2, 0, 0, 1], 0, b""), "unknown flags");
    for bad in [&b"{"[..], b"[]", b"\xff", br#"{"event":3}"#, br#"{"event":"target_gone"}"#] {
        assert_malformed(&frame([3, 0, 0, 0], bad.len() as u32, bad), "kind 0x03");
    }
    let stop = frame([0x85, 0, 0, 0], 1, b"x");
    assert!(matches!(read::<ToNode>(&stop, 99), Err(Broken::Malformed(_))));
}

#[test]
fn a_cut_stream_is_told_from_a_finished_one() {
    let stream = written(&to_client());
    let mut ends = 0;
    for len in 0..stream.len() {
        match read::<ToClient>(&stream[..len], usize::MAX) {
            Ok(_) => ends += 1,
            Err(Broken::Cut | Broken::Foreign(_)) => {}
            Err(other) => panic!("{other}"),
        }
    }
    assert_eq!(ends, to_client().len(), "after the preface, and between frames");
}

#[test]
fn what_a_newer_version_adds_is_passed_over() {
    let event: Event = serde_json::from_str(r#"{"event":"moved","to":"n-2"}"#).unwrap();
    assert_eq!(event, Event::Unknown);
    let hello = r#"{"version":"9","node":"n","kernel":"k","colour":"red"}"#;
    assert_eq!(serde_json::from_str::<NodeHello>(hello).unwrap().kernel, "k");
    assert_eq!(serde_json::from_str::<Code>(r#""out-of-luck""#).unwrap(), Code::Other);
    assert_eq!(serde_json::from_str::<Reason>(r#""bored""#).unwrap(), Reason::Other);
}

#[cfg(target_os = "linux")]
mod compressed {
    use super::{super::*, *};
    use crate::request::Compress;

    fn compressed(blocks: &[u8], policy: Compress) -> Vec<u8> {
        let mut compressor = Compressor::new(policy).unwrap();
        let (header, payload) = frame_packets(blocks, Some(&mut compressor)).unwrap();
        [&PREFACE[..], &header, payload].concat()
    }

    /// Bytes that do not compress.
    fn noise(len: usize) -> Vec<u8> {
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let mut next = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state as u8
        };
        (0..len).map(|_| next()).collect()
    }

    #[test]
    fn packets_are_the_same_whether_compressed_or_not() {
        for blocks in [vec![3; 200_000], noise(200_000), vec![9; MAX_PAYLOAD], b"short".to_vec(), vec![]] {
            for policy in [Compress::Auto, Compress::Always, Compress::Never] {
                let stream = compressed(&blocks, policy);
                let read = read::<ToClient>(&stream, 8192).unwrap();
                assert_eq!(read, [ToClient::Packets(blocks.clone().into())], "{policy:?} {}", blocks.len());
            }
        }
    }

    #[test]
    fn compression_is_done_where_it_saves() {
        let zeros = vec![0; 100_000];
        assert!(compressed(&zeros, Compress::Auto).len() < 1000);
        assert!(compressed(&zeros, Compress::Never).len() > zeros.len());
        assert_eq!(compressed(&noise(100_000), Compress::Auto).len(), 16 + 100_000, "sent as it is");
        let mut compressor = Compressor::new(Compress::Auto).unwrap();
        let mut sizes = |blocks: &[u8], times: usize| {
            let mut frame_len = || {
                let (header, payload) = frame_packets(blocks, Some(&mut compressor)).unwrap();
                header.len() + payload.len()
            };
            (0..times).map(|_| frame_len()).sum::<usize>()
        };
        assert_eq!(sizes(&noise(1000), 1), 1008);
        let thousand = &zeros[..1000];
        assert_eq!(sizes(thousand, 32), 32 * 1008, "not tried for a while");
        assert!(sizes(thousand, 1) < 100, "then tried again");
        assert_eq!(sizes(&noise(100_000), 1), 100_008);
        assert_eq!(sizes(thousand, 3200), 3200 * 1008, "for as long a while as it took to try");
        assert!(sizes(thousand, 1) < 100);
    }

    #[test]
    fn bombs_and_garbage_are_refused() {
        let bomb = zstd::bulk::compress(&vec![0; MAX_PAYLOAD + 1], 1).unwrap();
        assert_malformed(&frame([2, 1, 0, 0], bomb.len() as u32, &bomb), "");
        let huge_window = [0x28, 0xb5, 0x2f, 0xfd, 0x00, 0xf8];
        assert_malformed(&frame([2, 1, 0, 0], 6, &huge_window), "");
        let good = zstd::bulk::compress(&[5; 1000], 1).unwrap();
        for cut in 0..good.len() {
            assert_malformed(&frame([2, 1, 0, 0], cut as u32, &good[..cut]), "");
        }
        let followed = [&good[..], b"tail"].concat();
        assert_malformed(&frame([2, 1, 0, 0], followed.len() as u32, &followed), "follow");
        let mut checked = good.clone();
        for at in 0..checked.len() {
            checked[at] ^= 0x41;
            // Whatever comes of it, it is bounded and no panic.
            let _ = read::<ToClient>(&frame([2, 1, 0, 0], checked.len() as u32, &checked), 999);
            checked[at] ^= 0x41;
        }
    }

    #[test]
    fn control_messages_are_not_compressed() {
        let json = zstd::bulk::compress(br#"{"event":"target_arrived"}"#, 1).unwrap();
        let stream = frame([3, 1, 0, 0], json.len() as u32, &json);
        assert_malformed(&stream, "compressed");
    }
}
