//! `sniff serve`, spoken to as kubectl sniff does: pods that join and leave, and every way for a session to end.

use std::{
    fs,
    io::Read as _,
    net::SocketAddr,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use nix::sys::signal::Signal;
use sniff_pcapng::BlockType;
use sniff_protocol::{
    PROTOCOL, ToClient, ToNode,
    message::{CapturePlan, ClientHello, Code, Event, Reason, Stats, Target, Targets},
    request::Compress,
};
use sniff_tests::{
    bpf::tcx_programs,
    cri,
    leftovers::{BpfObjects, Snapshot},
    machine::HOSTNAME,
    netns::tool,
    node::Node,
    pcap::Direction,
    serve::{Outcome, Serving, awaited, hello, node_interface, pod},
    sniff,
    traffic::{self, UdpFlow},
    wait, wireshark,
};

use crate::{Capture, OnePod, echoes};

impl OnePod {
    fn hello(&self, plan: CapturePlan) -> ClientHello {
        ClientHello { plan, ..hello(vec![node_interface(&self.pod.veth.name)]) }
    }

    fn begin(&self, plan: CapturePlan) -> Serving {
        let mut serving = Serving::start(&self.node);
        assert_eq!(serving.begin(self.hello(plan)), 1);
        serving
    }

    fn flood(&self, count: u32) {
        let to = SocketAddr::new(self.pod.ipv4.into(), 7777);
        UdpFlow::open(&self.node, &self.pod.netns, to).send(count, 1000);
    }
}

/// A plan for pings alone: now and then neighbours look for each other.
fn pings() -> CapturePlan {
    CapturePlan { filter: Some("icmp".to_owned()), ..CapturePlan::default() }
}

/// Writes what a session captured into a file, and has Wireshark judge it.
fn assert_clean(outcome: &Outcome) {
    let capture = Capture::new();
    fs::write(capture.path(), &outcome.packets).expect("a file");
    wireshark::assert_clean(capture.path());
}

#[test]
fn pods_join_and_leave_a_running_capture() {
    let node = Node::start();
    let (web, db) = (node.pod("shop", "web").start(), node.pod("shop", "db").cni("bridge").start());
    let target = |name, sandbox: &sniff_tests::node::Sandbox<'_>| pod("shop", name, &sandbox.uid);
    let (first, second) = (target("web", &web.sandbox), target("db", &db.sandbox));
    let mut serving = Serving::start(&node.netns);
    assert_eq!(serving.begin(hello(vec![first.clone()])), 1);
    traffic::ping(&node.netns, web.ipv4.into(), 2, 56);
    traffic::ping(&node.netns, db.ipv4.into(), 2, 56);

    // Twice the same, and one that is not there: neither disturbs.
    serving.change(vec![first.clone(), pod("shop", "none", ""), second.clone()], vec![]);
    traffic::ping(&node.netns, db.ipv4.into(), 3, 57);
    serving.change(vec![], vec![second.id.clone(), first.id.clone()]);
    traffic::ping(&node.netns, web.ipv4.into(), 4, 58);
    traffic::ping(&node.netns, db.ipv4.into(), 4, 58);
    serving.change(vec![first.clone()], vec![]);
    traffic::ping(&node.netns, web.ipv4.into(), 5, 59);

    let outcome = serving.stop();
    assert_eq!((outcome.status.code(), outcome.end().reason), (Some(0), Reason::Stopped), "{outcome:#?}");
    assert_eq!(outcome.end().dropped, 0);
    assert_clean(&outcome);
    let file = outcome.file();
    let names: Vec<_> = file.interfaces.iter().map(|it| it.name.as_deref().expect("a name")).collect();
    assert_eq!(names, ["shop/web/eth0", "shop/db/eth0", "shop/web/eth0"]);
    let comments: Vec<_> = file.interfaces.iter().map(|it| it.comment.as_deref()).collect();
    assert_eq!(comments, [None, Some("joined the running capture"), Some("joined the running capture")]);
    for (size, count) in [(56, 2), (57, 3), (58, 0), (59, 5)] {
        for direction in [Direction::In, Direction::Out] {
            assert_eq!(echoes(&file.packets, direction, size), count, "{size} {direction:?}");
        }
    }
    let events = outcome.events();
    let failed = events.iter().find_map(|event| match event {
        Event::TargetFailed { error, .. } => Some(error.as_str()),
        _ => None,
    });
    assert!(failed.expect("a failure").contains("no pod shop/none"), "{failed:?}");
    let gone = events.iter().filter(|event| matches!(event, Event::TargetGone { .. })).count();
    assert_eq!(gone, 2, "{events:#?}");
}

#[test]
fn an_interface_that_no_pod_has_is_refused_at_once_with_those_that_are_there() {
    let node = Node::start();
    let web = node.pod("shop", "web").start();
    let target = Target { interfaces: vec!["eth7".into()], ..pod("shop", "web", &web.sandbox.uid) };
    let of_node = node_interface("veth-none");
    let mut serving = Serving::start(&node.netns);
    assert_eq!(serving.begin(hello(vec![target, of_node])), 0);
    let outcome = serving.stop();
    let failed = outcome.events().into_iter().filter_map(|event| match event {
        Event::TargetFailed { error, .. } => Some(error.clone()),
        _ => None,
    });
    let failed: Vec<String> = failed.collect();
    let [of_pod, of_node] = &failed[..] else { panic!("{failed:?}") };
    assert_eq!(of_pod, "shop/web has no interface \"eth7\"; it has lo, eth0");
    assert!(of_node.contains("\"veth-none\"") && of_node.contains(&web.veth.name), "{of_node}");
}

#[test]
fn any_is_every_interface_of_a_pod_and_of_the_node() {
    let node = Node::start();
    let web = node.pod("shop", "web").start();
    let any = |target: Target| Target { interfaces: vec!["any".into()], ..target };
    let mut serving = Serving::start(&node.netns);
    let of_pod = any(pod("shop", "web", &web.sandbox.uid));
    assert_eq!(serving.begin(hello(vec![of_pod.clone()])), 2);
    serving.change(vec![], vec![of_pod.id]);
    serving.change(vec![any(node_interface(""))], vec![]);
    traffic::ping(&node.netns, web.ipv4.into(), 3, 56);
    let file = serving.stop().file();
    let mut names: Vec<_> = file.interfaces.iter().map(|it| it.name.clone().expect("a name")).collect();
    let of_node = names.split_off(2);
    names.sort_unstable();
    assert_eq!(names, ["shop/web/eth0", "shop/web/lo"]);
    for name in [&web.veth.name, "lo"] {
        assert!(of_node.iter().any(|it| it == name), "{name} in {of_node:?}");
    }
    assert_eq!(echoes(&file.packets_of(&web.veth.name), Direction::Out, 56), 3);
}

#[test]
fn a_pod_that_was_made_anew_is_not_taken_for_the_old_one() {
    let node = Node::start();
    let web = node.pod("shop", "web").start();
    let mut serving = Serving::start(&node.netns);
    let old = pod("shop", "web", "11111111-2222-3333-4444-555555555555");
    assert_eq!(serving.begin(hello(vec![old.clone()])), 0);
    serving.change(vec![pod("shop", "web", &web.sandbox.uid)], vec![]);
    web.sandbox.stop();
    let why = serving.wait_for("the pod's end", |message| match message {
        ToClient::Event(Event::TargetGone { why, .. }) => Some(why.clone()),
        _ => None,
    });
    assert!(why.contains("the pod has ended"), "{why}");
    let outcome = serving.stop();
    let failed = outcome.events().into_iter().find_map(|event| match event {
        Event::TargetFailed { target, error, .. } if *target == old.id => Some(error),
        _ => None,
    });
    let error = failed.expect("a failure");
    assert!(error.contains("made anew"), "{error}");
    assert!(!error.contains(&web.sandbox.uid), "whoever asks by a wrong UID learns the right one: {error}");
    assert_eq!(outcome.end().reason, Reason::Stopped);
}

#[test]
fn hostile_names_are_names_and_nothing_else() {
    let place = OnePod::new();
    let mut serving = Serving::start(&place.node);
    let names = ["$(reboot)", "../../etc", "a b", "\u{1b}[2J", "-w", ""];
    let targets: Vec<Target> = names.iter().map(|name| pod("shop", name, "x")).collect();
    assert_eq!(serving.begin(hello(targets)), 0);
    let outcome = serving.stop();
    let failures: Vec<&String> = outcome
        .events()
        .into_iter()
        .filter_map(|event| match event {
            Event::TargetFailed { error, .. } => Some(error),
            _ => None,
        })
        .collect();
    assert_eq!(failures.len(), names.len());
    let is_plain = |error: &&String| error.contains("is not a pod name") && !error.contains(char::is_control);
    assert!(failures.iter().all(is_plain), "{failures:#?}");
}

#[test]
fn what_makes_no_sense_is_refused_with_a_code() {
    let place = OnePod::new();
    let refused = |plan: CapturePlan| {
        let mut serving = Serving::start(&place.node);
        serving.send(&ToNode::Hello(Box::new(place.hello(plan))));
        let outcome = serving.wait();
        assert_eq!((outcome.status.code(), outcome.end().reason), (Some(1), Reason::Failed));
        assert!(outcome.packets.is_empty());
        let [error] = outcome.errors()[..] else { panic!("{outcome:#?}") };
        (error.code, error.message.clone())
    };
    let plan = CapturePlan::default;
    let (code, message) = refused(CapturePlan { filter: Some("tcp prot 80".into()), ..plan() });
    assert!(code == Code::Filter && message.contains("tcp prot 80"), "{message}");
    for bad in [
        CapturePlan { snaplen: Some(0), ..plan() },
        CapturePlan { snaplen: Some(u32::MAX), ..plan() },
        CapturePlan { buffer_bytes: Some(1), ..plan() },
        CapturePlan { buffer_bytes: Some(u32::MAX), ..plan() },
        CapturePlan { count: Some(0), ..plan() },
    ] {
        assert_eq!(refused(bad.clone()).0, Code::Usage, "{bad:?}");
    }
}

/// As in a container with named capabilities, of which the node wants more than there are.
#[test]
fn what_a_process_with_few_rights_is_refused_is_said_with_what_gives_more() {
    let place = OnePod::new();
    let mut command = tool("setpriv");
    command.args(["--bounding-set=-sys_ptrace", "--"]).arg(sniff::binary()).arg("serve");
    let mut serving = Serving::launch(&place.node, &mut command);
    serving.send(&ToNode::Hello(Box::new(place.hello(CapturePlan::default()))));
    let outcome = serving.wait();
    let [error] = outcome.errors()[..] else { panic!("{outcome:#?}") };
    assert_eq!(error.code, Code::Kernel);
    for part in ["the node may want more rights", "--privileged", "deploy/base", "CAP_SYS_PTRACE"] {
        assert!(error.message.contains(part), "no {part}: {}", error.message);
    }
}

#[test]
fn names_that_nobody_has_are_not_repeated() {
    let place = OnePod::new();
    let mut serving = place.begin(pings());
    let add = vec![pod("shop", &"x".repeat(200_000), "")];
    serving.send(&ToNode::Targets(Targets { add, remove: Vec::new() }));
    let error = serving.wait_for("an error", |message| match message {
        ToClient::Error(error) => Some(error.clone()),
        _ => None,
    });
    assert_eq!(error.code, Code::Usage);
    assert_eq!(error.message, "a target with a name of more than 253 bytes");
    place.ping(2);
    let outcome = serving.stop();
    assert_eq!((outcome.end().reason, outcome.end().captured), (Reason::Stopped, 4));
}

/// Each takes some 40 ms to attach; a client that has gone is not kept waiting for all of them.
#[test]
fn many_interfaces_do_not_hold_up_the_conversation() {
    let place = OnePod::new();
    let mut names = Vec::new();
    for pair in 0..32 {
        place.node.run(&format!("ip link add many{pair}a type veth peer name many{pair}b"));
        names.extend([format!("many{pair}a"), format!("many{pair}b")]);
    }
    let target = Target { interfaces: names, ..node_interface("") };
    let mut serving = Serving::start(&place.node);
    serving.begin(hello(vec![]));
    serving.send(&ToNode::Targets(Targets { add: vec![target], remove: Vec::new() }));
    let outcome = serving.stop();
    assert_eq!(outcome.end().reason, Reason::Stopped);
    let is_refused = |event: &&&Event| matches!(event, Event::TargetFailed { .. });
    assert_eq!((outcome.errors(), outcome.events().iter().find(is_refused)), (vec![], None));
    let described = outcome.file().interfaces.len();
    assert!(described < 64, "{described} interfaces were attached for nobody");
}

/// The session of a client that says goodbye is there until it does.
#[test]
fn a_session_waits_for_the_goodbye_of_a_client_that_says_it() {
    let place = OnePod::new();
    let mut serving = Serving::start(&place.node);
    serving.begin(ClientHello { says_goodbye: true, ..place.hello(pings()) });
    place.ping(2);
    serving.send(&ToNode::Stop);
    serving.wait_for("the end", |message| matches!(message, ToClient::End(_)).then_some(()));
    assert!(!serving.ends_within(Duration::from_secs(1)), "it has not heard a goodbye");
    serving.send(&ToNode::Goodbye);
    assert!(serving.ends_within(Duration::from_secs(5)), "it has");
    assert_eq!(serving.wait().end().captured, 4);
}

#[test]
fn whoever_is_no_client_is_told_so() {
    let place = OnePod::new();
    let talk = |bytes: &[u8]| {
        let mut child = place.node.spawn(
            tool(sniff::binary())
                .arg("serve")
                .stdin(std::process::Stdio::piped())
                .stdout(std::process::Stdio::piped())
                .stderr(std::process::Stdio::null()),
        );
        let mut stdin = child.stdin.take().expect("a piped stdin");
        std::io::Write::write_all(&mut stdin, bytes).expect("sending");
        drop(stdin);
        let mut said = Vec::new();
        child.stdout.take().expect("a piped stdout").read_to_end(&mut said).expect("reading");
        assert_eq!(child.wait().expect("its end").code(), Some(1));
        String::from_utf8_lossy(&said).into_owned()
    };
    let newer = [b"SNIFF\0\0".as_slice(), &[PROTOCOL + 1]].concat();
    let said = talk(&newer);
    assert!(said.contains("version-skew") && said.contains("update "), "{said}");
    for (bytes, answer) in [(&b"GET / HTTP/1.1\r\n"[..], "it says: GET"), (b"", "nobody is at the other end")]
    {
        let said = talk(bytes);
        assert!(said.starts_with("SNIFF") && said.contains(answer), "{said}");
    }
}

#[test]
fn count_and_duration_end_a_session_by_themselves() {
    let place = OnePod::new();
    let serving = place.begin(CapturePlan { count: Some(4), ..pings() });
    place.ping(4);
    let outcome = serving.wait();
    assert_eq!((outcome.end().reason, outcome.end().captured), (Reason::Count, 4));
    assert_eq!(outcome.file().packets.len(), 4);

    let serving = place.begin(CapturePlan { duration_ms: Some(700), ..pings() });
    place.ping(2);
    let outcome = serving.wait();
    assert_eq!((outcome.end().reason, outcome.end().captured), (Reason::Duration, 4));
}

/// Captures until `end` has ended it, in at most `limit`, and checks that nothing is left.
fn ends(limit: u64, end: impl FnOnce(&mut Serving)) -> Outcome {
    let place = OnePod::new();
    let binary = sniff::binary();
    let before = Snapshot::take(&place.machine, &[&place.node, &place.pod.netns], &binary);
    let mut serving = Serving::start(&place.node);
    serving.begin(ClientHello { lease_seconds: 2, ..place.hello(pings()) });
    let objects = BpfObjects::held_by(serving.pid());
    place.ping(3);
    end(&mut serving);
    assert!(serving.ends_within(Duration::from_secs(limit)), "does not end");
    objects.assert_gone();
    before.assert_unchanged(&binary);
    serving.wait()
}

/// Who is asked has no younger packet to show, and says how far it is, behind all that is older.
#[test]
fn a_client_hears_how_far_the_packets_are_complete() {
    let place = OnePod::new();
    let mut serving = place.begin(pings());
    place.ping(2);
    let first = serving.ask_for_watermark();
    let between = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock");
    place.ping(3);
    let second = serving.ask_for_watermark();
    assert!(Duration::from_nanos(first) < between && between < Duration::from_nanos(second));

    let outcome = serving.stop();
    assert_eq!(outcome.end().reason, Reason::Stopped);
    let file = outcome.file();
    let before = |time| file.packets.iter().filter(|packet| packet.timestamp_ns < time).count();
    assert_eq!((before(first), before(second), file.packets.len()), (4, 10, 10));
    let kinds = outcome.block_types();
    let watermarks: Vec<_> = (0..kinds.len()).filter(|&at| kinds[at] == BlockType::Watermark).collect();
    let packets_before = |at: usize| kinds[..at].iter().filter(|kind| **kind == BlockType::Packet).count();
    assert_eq!(watermarks.iter().map(|&at| packets_before(at)).collect::<Vec<_>>(), [4, 10]);
}

#[test]
fn a_client_that_closes_its_pipe_ends_the_session() {
    let outcome = ends(2, Serving::close_input);
    assert_eq!((outcome.status.code(), outcome.end().reason), (Some(0), Reason::InputClosed));
    assert_eq!(outcome.file().packets.len(), 6);
}

#[test]
fn a_client_that_is_silent_loses_its_lease_and_signs_of_life_keep_it() {
    let outcome = ends(4, |serving| {
        for _ in 0..3 {
            serving.send(&ToNode::KeepAlive);
            assert!(!serving.ends_within(Duration::from_secs(1)), "ended before its lease was over");
        }
    });
    assert_eq!((outcome.status.code(), outcome.end().reason), (Some(0), Reason::Lease));
}

#[test]
fn signals_end_a_session_well() {
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
        let outcome = ends(2, |serving| serving.signal(signal));
        assert_eq!((outcome.status.code(), outcome.end().reason), (Some(0), Reason::Signal), "{signal}");
        assert_eq!(outcome.file().packets.len(), 6);
    }
}

#[test]
fn kill_9_leaves_nothing() {
    let outcome = ends(2, |serving| serving.signal(Signal::SIGKILL));
    assert_eq!(outcome.status.code(), None);
}

/// A session whose client reads nothing, with more packets on the way than fit into any pipe.
fn stuck(place: &OnePod, lease_seconds: u32) -> (Serving, std::process::ChildStdout) {
    let (mut serving, stdout) = Serving::launch_unread(&place.node, tool(sniff::binary()).arg("serve"));
    let plan = CapturePlan { buffer_bytes: Some(512 << 10), ..CapturePlan::default() };
    let hello = ClientHello { lease_seconds, ..place.hello(plan) };
    serving.send(&ToNode::Hello(Box::new(hello)));
    wait::until("an attached capture", Duration::from_secs(20), || {
        let programs = tcx_programs(&place.node, place.pod.veth.index);
        programs.iter().any(|programs| !programs.is_empty()).then_some(())
    });
    place.flood(20_000);
    (serving, stdout)
}

#[test]
fn a_client_that_reads_no_more_and_goes_ends_the_session() {
    let place = OnePod::new();
    for way in ["closes stdout", "closes stdin", "says stop", "is silent"] {
        let (mut serving, stdout) = stuck(&place, 2);
        let objects = BpfObjects::held_by(serving.pid());
        let mut stdout = Some(stdout);
        match way {
            "closes stdout" => stdout = None,
            "closes stdin" => serving.close_input(),
            "says stop" => serving.send(&ToNode::Stop),
            _ => {}
        }
        assert!(serving.ends_within(Duration::from_secs(12)), "a client that {way}");
        objects.assert_gone();
        drop(stdout);
    }
}

#[test]
fn a_slow_client_costs_packets_and_they_are_counted() {
    let place = OnePod::new();
    let (mut serving, stdout) = stuck(&place, 15);
    serving.read(stdout);
    // Not all that is sent is matched: the kernel's own queue in front of the interface may overflow, too.
    serving.wait_for("losses", |message| {
        matches!(message, ToClient::Stats(Stats { dropped: 10_000.., .. })).then_some(())
    });
    let outcome = serving.stop();
    let end = outcome.end();
    assert_eq!(end.matched, end.captured + end.dropped, "{end:?}");
    let lost: u64 = outcome.file().statistics.iter().filter_map(|it| it.osdrop).sum();
    assert_eq!(lost, end.dropped);
}

#[test]
fn compressed_packets_are_the_same_packets() {
    let place = OnePod::new();
    let mut sizes = Vec::new();
    for compress in [Compress::Never, Compress::Always, Compress::Auto] {
        let serving = place.begin(CapturePlan { compress, ..CapturePlan::default() });
        place.flood(2000);
        let outcome = serving.stop();
        let file = outcome.file();
        assert!(file.packets.len() >= 2000, "{compress:?}");
        sizes.push(file.packets.iter().filter(|packet| packet.data.len() == 1042).count());
    }
    assert_eq!(sizes, [2000; 3]);
}

#[test]
fn the_first_words_say_who_serves() {
    let place = OnePod::new();
    let serving = place.begin(CapturePlan::default());
    let outcome = serving.stop();
    let ToClient::Hello(hello) = &outcome.said[0] else { panic!("{outcome:#?}") };
    assert_eq!(hello.node, HOSTNAME);
    assert_eq!(hello.kernel, place.node.run("uname -r").trim());
    assert!(outcome.stderr.iter().any(|line| line.contains("ada@laptop")), "{outcome:#?}");
}

#[test]
fn a_pod_that_is_awaited_is_captured_from_its_first_containers_first_packet() {
    let node = Node::start();
    let mut serving = Serving::start(&node.netns);
    let awaited = vec![awaited("shop", "app in (web, db),!canary")];
    // Sandboxes take their time where many run.
    let hello = ClientHello { plan: pings(), awaited, lease_seconds: 120, ..hello(vec![]) };
    assert_eq!(serving.begin(hello), 0);
    let _strangers = [
        node.pod("shop", "other").label("app", "other").run_sandbox(),
        node.pod("shop", "canary").label("app", "web").label("canary", "").run_sandbox(),
        node.pod("office", "web").label("app", "web").run_sandbox(),
    ];
    let web = node.pod("shop", "web").label("app", "web").run_sandbox();
    web.run_container("main", cri::ContainerConfig::pinging([10, 88, 0, 1].into(), 56));
    let target = pod("shop", "web", &web.uid);
    serving.wait_for("its interface", |message| match message {
        ToClient::Event(Event::TargetAdded { target: it, interfaces }) => {
            (*it == target.id && *interfaces == ["shop/web/eth0"]).then_some(())
        }
        _ => None,
    });
    // The client names it too, once the API has told of it.
    serving.send(&ToNode::Targets(Targets { add: vec![target.clone()], remove: Vec::new() }));
    serving.wait_for("all of its pings", |message| {
        matches!(message, ToClient::Stats(Stats { matched: 6.., .. })).then_some(())
    });
    let outcome = serving.stop();
    let arrived = |event: &&Event| matches!(event, Event::TargetArrived { .. });
    let events = outcome.events();
    let told: Vec<_> = events.into_iter().filter(arrived).collect();
    assert_eq!(told, [&Event::TargetArrived { target: target.id }]);
    assert_clean(&outcome);
    let file = outcome.file();
    let names: Vec<_> = file.interfaces.iter().map(|it| it.name.as_deref()).collect();
    assert_eq!(names, [Some("shop/web/eth0")]);
    let comment = file.interfaces[0].comment.as_deref().expect("a comment");
    assert!(comment.starts_with("joined the running capture at 2"), "{comment}");
    assert!(comment.contains(" ms after the pod's sandbox was made"), "{comment}");
    for direction in [Direction::Out, Direction::In] {
        assert_eq!(echoes(&file.packets, direction, 56), 3, "{direction:?}");
    }
}

#[test]
fn interfaces_that_come_in_a_crowd_do_not_hold_up_their_session() {
    const PAIRS: usize = 500;
    let place = OnePod::new();
    let mut serving = Serving::start(&place.node);
    serving.begin(hello(vec![node_interface("any")]));
    let batch = tempfile::NamedTempFile::new().expect("a file");
    let pair = |number: usize| {
        format!(
            "link add a{number} type veth peer name b{number}\nlink set a{number} up\nlink set b{number} up\n"
        )
    };
    fs::write(batch.path(), (0..PAIRS).map(pair).collect::<String>()).expect("a file");
    place.node.run(&format!("ip -batch {}", batch.path().display()));
    serving.wait_for("the first of them", |message| match message {
        ToClient::Event(Event::TargetAdded { .. }) => Some(()),
        _ => None,
    });
    for _ in 0..3 {
        serving.send(&ToNode::KeepAlive);
        serving.wait_for("a keep-alive", |message| matches!(message, ToClient::Stats(_)).then_some(()));
    }
    let outcome = serving.stop();
    assert_eq!(outcome.end().reason, Reason::Stopped);
    let interfaces = outcome.file().interfaces.len();
    assert!(interfaces < 2 * PAIRS, "it has waited for all {interfaces}");
}
