//! Who denies captures, what a policy demands of them, and what is told of each: with an agent, and an API that knows labels.

use std::{
    fs,
    net::SocketAddr,
    process::{Child, Command, Stdio},
    time::Duration,
};

use serde_json::{Value, json};
use sniff_protocol::{
    ToClient, ToNode,
    message::{CapturePlan, ClientHello, Code, Event, Reason, Target, TargetId},
};
use sniff_tests::{
    leftovers::BpfObjects,
    netns::tool,
    node::Node,
    pcap::Direction,
    serve::{Outcome, Serving, awaited, hello, node_interface, pod},
    sniff::{self, Sniff},
    traffic::{self, UdpFlow},
    wait, wireshark,
};

use crate::{
    Capture, echoes,
    kubernetes_api::{Cluster, KUBECONFIG},
};

const LABEL: &str = "sniff/capture";
const POLICY: &str = "/run/policy.yaml";
/// Where an agent listens for sessions unless told otherwise.
const SOCKET: &str = "/var/lib/sniff/agent.sock";
const PATIENCE: Duration = Duration::from_secs(10);

/// A node with the pod `shop/web`, an API that knows it, and maybe an agent; that one is killed on drop.
struct Place {
    agent: Option<Child>,
    audit: tempfile::NamedTempFile,
    log: tempfile::NamedTempFile,
    cluster: Cluster,
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(agent) = &mut self.agent {
            // It may have ended already.
            let _ = agent.kill().and_then(|()| agent.wait());
        }
    }
}

impl Place {
    fn without_agent() -> Self {
        let file = || tempfile::NamedTempFile::new().expect("a file");
        Self { agent: None, audit: file(), log: file(), cluster: Cluster::start() }
    }

    fn with_agent(args: &[&str]) -> Self {
        let mut place = Self::without_agent();
        let [audit, log] = [&place.audit, &place.log].map(|file| file.reopen().expect("a file"));
        let mut agent = place.command("agent");
        let agent = place.cluster.netns.spawn(agent.args(args).stdout(audit).stderr(log));
        place.agent = Some(agent);
        let is_there = || place.cluster.machine.path(SOCKET).exists().then_some(());
        wait::until("the agent's socket", PATIENCE, is_there);
        place
    }

    /// Both know the API.
    fn command(&self, name: &str) -> Command {
        let mut command = tool(sniff::binary());
        command.arg(name).env("KUBECONFIG", KUBECONFIG).stdin(Stdio::null());
        command
    }

    fn start(&self) -> Serving {
        Serving::launch(&self.cluster.netns, &mut self.command("serve"))
    }

    fn web(&self) -> Target {
        pod("shop", "web", &self.cluster.uid)
    }

    fn label_pod(&self, labels: &Value) {
        self.cluster.api.add_pod("shop", "web", &self.cluster.uid, "test-node", labels);
    }

    fn label_namespace(&self, labels: &Value) {
        self.cluster.api.put(
            "namespaces",
            "",
            "shop",
            json!({"metadata": {"name": "shop", "labels": labels}}),
        );
    }

    fn set_policy(&self, text: &str) {
        fs::write(self.cluster.machine.path(POLICY), text).expect("a policy");
    }

    fn ping(&self, count: u32, size: u32) {
        traffic::ping(&self.cluster.netns, self.cluster.pod.ipv4.into(), count, size);
    }

    /// Has a session capture the pod for pings alone, and ends it.
    fn try_once(&self, change: impl FnOnce(&mut ClientHello)) -> Outcome {
        let mut hello = ClientHello { plan: pings(), ..hello(vec![self.web()]) };
        change(&mut hello);
        let mut serving = self.start();
        serving.begin(hello);
        serving.stop()
    }

    /// The lines of the audit so far, each of which is JSON.
    fn audit(&self) -> Vec<Value> {
        let text = fs::read_to_string(self.audit.path()).expect("the audit");
        text.lines()
            .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}")))
            .collect()
    }

    /// The audit once so many sessions have ended in it.
    fn audit_of(&self, sessions: usize) -> Vec<Value> {
        let ended =
            |lines: &Vec<Value>| lines.iter().filter(|line| line["event"] == "end").count() == sessions;
        wait::until("the end in the audit", PATIENCE, || Some(self.audit()).filter(ended))
    }
}

fn pings() -> CapturePlan {
    CapturePlan { filter: Some("icmp".to_owned()), ..CapturePlan::default() }
}

/// Why targets were refused, for good.
fn refusals(outcome: &Outcome) -> Vec<&str> {
    let refused = outcome.events().into_iter().filter_map(|event| match event {
        Event::TargetFailed { error, refused: true, .. } => Some(error.as_str()),
        Event::TargetFailed { error, .. } => panic!("not refused: {error}"),
        _ => None,
    });
    refused.collect()
}

fn notes(outcome: &Outcome) -> Vec<&str> {
    let notes = outcome.events().into_iter().filter_map(|event| match event {
        Event::Note { text, .. } => Some(text.as_str()),
        _ => None,
    });
    notes.collect()
}

#[track_caller]
fn assert_refused(outcome: &Outcome, parts: &[&str]) {
    let [why] = refusals(outcome)[..] else { panic!("{outcome:#?}") };
    parts.iter().for_each(|part| assert!(why.contains(part), "{part}: {why}"));
    assert_eq!(outcome.end().captured, 0);
    assert!(outcome.file().interfaces.is_empty(), "{outcome:#?}");
}

fn captured(outcome: &Outcome) -> bool {
    outcome.events().iter().any(|event| matches!(event, Event::TargetAdded { .. }))
}

#[test]
fn a_pod_is_refused_that_denies_captures_or_whose_namespace_does() {
    let place = Place::without_agent();
    place.label_pod(&json!({LABEL: "allow"}));
    assert!(captured(&place.try_once(|_| {})));
    place.label_pod(&json!({LABEL: "deny"}));
    assert_refused(
        &place.try_once(|_| {}),
        &["pod shop/web must not be captured", "sniff/capture: deny", "--override-deny"],
    );
    // What is not known is no consent.
    place.label_pod(&json!({LABEL: "No"}));
    assert_refused(&place.try_once(|_| {}), &["sniff/capture: \"No\", which is neither allow nor deny"]);
    place.label_pod(&json!({LABEL: "allow"}));
    place.label_namespace(&json!({LABEL: "deny"}));
    assert_refused(&place.try_once(|_| {}), &["its namespace shop has the label sniff/capture: deny"]);
    let overridden = place.try_once(|hello| hello.override_deny = true);
    assert!(captured(&overridden) && refusals(&overridden).is_empty());
    assert!(notes(&overridden).iter().any(|note| note.contains("(--override-deny)")), "{overridden:#?}");
}

#[test]
fn an_api_that_does_not_tell_is_no_consent() {
    let place = Place::without_agent();
    place.cluster.api.deny("list", "namespaces");
    let parts = ["not known whether it denies that (label sniff/capture)", "you may not list namespaces"];
    assert_refused(&place.try_once(|_| {}), &parts);
    assert!(captured(&place.try_once(|hello| hello.override_deny = true)));
}

#[test]
fn a_label_that_comes_ends_the_capture_of_its_pod() {
    let place = Place::with_agent(&[]);
    let mut serving = place.start();
    assert_eq!(serving.begin(ClientHello { plan: pings(), ..hello(vec![place.web()]) }), 1);
    let objects = BpfObjects::held_by(serving.pid());
    place.ping(2, 56);
    place.label_namespace(&json!({LABEL: "deny"}));
    serving.wait_for("the end of its capture", |message| match message {
        ToClient::Event(Event::TargetFailed { refused: true, .. }) => Some(()),
        _ => None,
    });
    place.ping(3, 57);
    let outcome = serving.stop();
    objects.assert_gone();
    assert_eq!(outcome.end().reason, Reason::Stopped);
    let [why] = refusals(&outcome)[..] else { panic!("{outcome:#?}") };
    assert!(why.contains("must not be captured any more: its namespace shop has"), "{why}");
    let file = outcome.file();
    assert_eq!(echoes(&file.packets, Direction::In, 56), 2);
    assert_eq!(file.packets.len(), 4, "none from then on");
    let audit = place.audit_of(1);
    let events: Vec<_> = audit.iter().map(|line| line["event"].as_str().expect("a word")).collect();
    assert_eq!(events, ["start", "joined", "left", "denied", "end"]);
}

#[test]
fn a_pod_that_was_made_with_the_label_is_refused_without_an_api() {
    let node = Node::start();
    let web = node.pod("shop", "web").label(LABEL, "deny").run_sandbox();
    let mut serving = Serving::start(&node.netns);
    let awaited = vec![awaited("shop", "app=db")];
    assert_eq!(serving.begin(ClientHello { plan: pings(), awaited, ..hello(vec![]) }), 0);
    serving.change(vec![pod("shop", "web", &web.uid)], vec![]);
    // One that comes is not captured either, and another is.
    let _denied = node.pod("shop", "db-0").label("app", "db").label(LABEL, "deny").run_sandbox();
    let _allowed = node.pod("shop", "db-1").label("app", "db").run_sandbox();
    serving.wait_for("the pod that consents", |message| match message {
        ToClient::Event(Event::TargetAdded { target: TargetId::Pod { name, .. }, .. }) => {
            (name == "db-1").then_some(())
        }
        _ => None,
    });
    let outcome = serving.stop();
    let [why] = refusals(&outcome)[..] else { panic!("{outcome:#?}") };
    assert!(
        why.contains("shop/web must not be captured: it was made with the label sniff/capture: deny"),
        "{why}"
    );
    let interfaces = outcome.file().interfaces;
    let names: Vec<_> = interfaces.iter().map(|it| it.name.as_deref().expect("a name")).collect();
    assert_eq!(names, ["shop/db-1/eth0"]);
    let said = outcome.stderr.iter().any(|line| line.contains("shop/db-0 has come and is not captured"));
    assert!(said, "{outcome:#?}");
}

#[test]
fn a_policy_demands_a_filter_of_its_own_another_one_less_of_packets_and_less_time() {
    let place = Place::with_agent(&["--policy", POLICY]);
    let udp = UdpFlow::open(
        &place.cluster.netns,
        &place.cluster.pod.netns,
        SocketAddr::new(place.cluster.pod.ipv4.into(), 7777),
    );
    let all = CapturePlan { filter: Some("icmp or udp port 7777".into()), ..CapturePlan::default() };
    let capture = |targets: Vec<Target>| {
        let mut serving = place.start();
        serving.begin(ClientHello { plan: all.clone(), ..hello(targets) });
        place.ping(3, 56);
        udp.send(2, 1000);
        let outcome = serving.stop();
        let file = Capture::new();
        fs::write(file.path(), &outcome.packets).expect("a file");
        wireshark::assert_clean(file.path());
        (outcome, file)
    };
    let longest =
        |outcome: &Outcome| outcome.file().packets.iter().map(|it| it.data.len()).max().expect("a packet");

    place.set_policy("rules: [{namespaces: [shop], require_filter: true, snaplen: 100}]");
    let none = place.try_once(|hello| hello.plan = CapturePlan::default());
    assert_refused(&none, &["pods of shop are captured with a filter only", "-f"]);
    let (outcome, file) = capture(vec![place.web()]);
    assert_eq!((wireshark::count(file.path(), "icmp"), wireshark::count(file.path(), "udp")), (6, 2));
    assert_eq!(longest(&outcome), 100);

    // The file is read anew for each session. Half of an expression does not have another one made of the policy's.
    place.set_policy("rules: [{namespaces: ['sh*'], filter: not udp}]");
    let evil = Target { filter: Some("icmp) or (udp".into()), ..place.web() };
    let (outcome, _) = capture(vec![evil]);
    assert!(!captured(&outcome) && outcome.end().captured == 0, "{outcome:#?}");
    let (outcome, file) = capture(vec![place.web()]);
    assert_eq!((wireshark::count(file.path(), "icmp"), wireshark::count(file.path(), "udp")), (6, 0));
    assert_eq!((outcome.end().matched, outcome.end().dropped), (6, 0), "the kernel does not count it either");
    let comment = outcome.file().interfaces[0].comment.clone().expect("a comment");
    assert!(comment.starts_with("by the node's policy only packets that match 'not udp'"), "{comment}");
    assert!(
        notes(&outcome)
            .iter()
            .any(|note| note.contains("of pods of shop: only packets that match 'not udp'"))
    );

    place.set_policy("rules: [{namespaces: [shop], headers: true}]");
    assert_eq!(longest(&capture(vec![place.web()]).0), 14 + 20 + 8);

    place.set_policy("rules: [{namespaces: [shop], duration: 1s}]");
    let mut serving = place.start();
    serving.begin(ClientHello { plan: pings(), ..hello(vec![place.web()]) });
    let outcome = serving.wait();
    assert_eq!((outcome.end().reason, outcome.errors()[0].code), (Reason::Deadline, Code::RefusedLimit));
    let why = &outcome.errors()[0].message;
    assert_eq!(why, "the longest capture of pods of shop is 1s, by the policy of this node");

    // Nobody else is meant, and the node where it is named.
    let others = "rules: [{namespaces: [other], require_filter: true}, {node: true, require_filter: true}]";
    place.set_policy(others);
    let veth = node_interface(&place.cluster.pod.veth.name);
    let outcome = place.try_once(|it| *it = hello(vec![place.web(), veth]));
    assert!(captured(&outcome), "{outcome:#?}");
    let [why] = refusals(&outcome)[..] else { panic!("{outcome:#?}") };
    assert!(why.starts_with("the node is captured with a filter only"), "{why}");
}

#[test]
fn nothing_is_captured_by_a_policy_that_is_none() {
    let place = Place::with_agent(&["--policy", POLICY]);
    let refused = |part: &str| {
        let mut serving = place.start();
        serving.send(&ToNode::Hello(Box::new(hello(vec![place.web()]))));
        let outcome = serving.wait();
        assert_eq!(outcome.errors()[0].code, Code::RefusedLimit);
        let why = &outcome.errors()[0].message;
        assert!(why.contains("nothing is captured on this node until its policy is mended"), "{why}");
        assert!(why.contains(POLICY) && why.contains(part), "{why}");
    };
    refused("No such file");
    place.set_policy("rules: [{namespaces: [shop], heders: true}]");
    refused("heders");
    assert_eq!(place.audit().iter().filter(|line| line["event"] == "refused").count(), 2);
    // What keeps to no policy is refused where there is one.
    place.set_policy("rules: []");
    let by_hand =
        Sniff::in_netns(&place.cluster.netns).args(["-i", &place.cluster.pod.veth.name, "-w", "-"]).run();
    let line = by_hand.refusal(1);
    assert!(line.contains("capture by kubectl sniff"), "{line}");
}

#[test]
fn the_audit_says_who_captured_whom_why_and_how_much() {
    let place = Place::with_agent(&[]);
    let mut serving = place.start();
    let evil = "INC-7\n{\"event\":\"end\",\"claimed_by\":\"root\"}\r\u{1b}[2J";
    let hello = ClientHello { plan: pings(), reason: Some(evil.to_owned()), ..hello(vec![place.web()]) };
    assert_eq!(serving.begin(hello), 1);
    place.ping(3, 56);
    let outcome = serving.stop();
    let audit = place.audit_of(1);
    let [start, joined, end] = &audit[..] else { panic!("{audit:#?}") };
    for line in &audit {
        assert_eq!(
            (&line["session"], &line["node"], &line["via"]),
            (&json!(0), &json!("test-node"), &json!("exec"))
        );
        assert_eq!((&line["claimed_by"], &line["accounts"]), (&json!("ada@laptop"), &json!([])));
        let reason = line["claimed_reason"].as_str().expect("a reason");
        assert!(reason.starts_with("INC-7\\n{") && !reason.contains(char::is_control), "{reason}");
        humantime::parse_rfc3339(line["time"].as_str().expect("a time")).expect("a time");
    }
    assert_eq!(
        (&start["event"], &start["asked_for"], &start["filter"]),
        (&json!("start"), &json!("shop/web"), &json!("icmp"))
    );
    let who = json!({"namespace": "shop", "name": "web", "uid": place.cluster.uid});
    assert_eq!(
        (&joined["event"], &joined["pod"], &joined["filter"]),
        (&json!("joined"), &who, &json!("icmp"))
    );
    assert_eq!(
        (&end["event"], &end["outcome"], &end["pods"]),
        (&json!("end"), &json!("stopped"), &json!([who]))
    );
    let packets = outcome.file().packets.len() as u64;
    assert_eq!(packets, 6);
    assert_eq!(
        [&end["matched"], &end["delivered"], &end["dropped"], &end["left_out"]],
        [&json!(packets), &json!(packets), &json!(0), &json!(0)]
    );
    assert!(end["bytes"].as_u64().expect("a number") > outcome.packets.len() as u64, "{end}");

    // Which interfaces of the node, and whom it waits for.
    let mut serving = place.start();
    let awaited = vec![awaited("shop", "app=web")];
    let veth = &place.cluster.pod.veth.name;
    serving.begin(ClientHello { awaited, ..self::hello(vec![node_interface(veth)]) });
    serving.stop();
    let audit = place.audit_of(2);
    let [start, joined, _] = &audit[3..] else { panic!("{audit:#?}") };
    let node = format!("the node itself ({veth})");
    assert_eq!(start["asked_for"], json!(format!("{node}, pods of shop with 'app=web'")));
    assert_eq!((&joined["what"], &joined["pod"]), (&json!(node), &Value::Null));

    // Who overrides a label, and how a process went that says nothing.
    place.label_pod(&json!({LABEL: "deny"}));
    let mut serving = place.start();
    serving.begin(ClientHello { override_deny: true, ..self::hello(vec![place.web()]) });
    serving.signal(nix::sys::signal::Signal::SIGKILL);
    let audit = place.audit_of(3);
    let [start, joined, end] = &audit[6..] else { panic!("{audit:#?}") };
    assert_eq!((&start["override_deny"], &end["outcome"]), (&json!(true), &json!("vanished")));
    assert_eq!(joined["overridden"], json!("it has the label sniff/capture: deny"));
}

#[test]
fn a_captured_pods_events_say_by_whom() {
    let place = Place::with_agent(&[]);
    let mut serving = place.start();
    let reason = Some("INC-7".to_owned());
    serving.begin(ClientHello { plan: pings(), reason, ..hello(vec![place.web()]) });
    let events = |count: usize| {
        let all = || Some(place.cluster.api.events("shop")).filter(|events| events.len() == count);
        wait::until("events", PATIENCE, all)
    };
    let begun = events(1);
    assert_eq!(begun[0]["reason"], "PacketCapture");
    let object = &begun[0]["involvedObject"];
    assert_eq!(
        (&object["kind"], &object["name"], &object["uid"]),
        (&json!("Pod"), &json!("web"), &json!(place.cluster.uid))
    );
    let message = begun[0]["message"].as_str().expect("a message");
    for part in ["on node test-node", "who says to be ada@laptop", "INC-7"] {
        assert!(message.contains(part), "{part}: {message}");
    }
    serving.stop();
    let all = events(2);
    assert!(all.iter().any(|event| event["reason"] == "PacketCaptureEnded"), "{all:#?}");

    // Those that may not be written hold nobody up, and that is said once.
    place.cluster.api.deny("create", "events");
    for _ in 0..2 {
        place.ping(1, 56);
        assert!(captured(&place.try_once(|_| {})));
    }
    place.audit_of(3);
    let log = || fs::read_to_string(place.log.path()).expect("the log");
    let said = || log().lines().filter(|line| line.contains("you may not create events")).count();
    wait::until("the words for it", PATIENCE, || (said() > 0).then_some(()));
    assert_eq!((said(), place.cluster.api.events("shop").len()), (1, 2));
}

#[test]
fn no_events_are_written_where_they_are_off() {
    let place = Place::with_agent(&["--events", "off"]);
    assert!(captured(&place.try_once(|_| {})));
    place.audit_of(1);
    assert!(place.cluster.api.log().iter().all(|line| !line.contains("events")));
}
