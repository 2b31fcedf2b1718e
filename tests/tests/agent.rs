//! `sniff agent`: limits, metrics, and the ends of sessions, with real sessions.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::TcpStream,
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use sniff_protocol::{
    ToNode,
    message::{CapturePlan, ClientHello, Code, Reason},
};
use sniff_tests::{
    leftovers::BpfObjects,
    machine::{FakePod, Machine},
    netns::{Netns, tool},
    serve::{Outcome, Serving, hello, node_interface},
    sniff::{self, Sniff},
    traffic, wait,
};

/// Where it serves metrics unless told otherwise.
const METRICS: &str = "127.0.0.1:9469";

/// A machine with one fake pod and an agent; killed on drop.
struct AgentNode {
    node: Netns,
    pod: FakePod,
    agent: Child,
    log: tempfile::NamedTempFile,
    _machine: Machine,
}

impl Drop for AgentNode {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.agent.kill().and_then(|()| self.agent.wait());
    }
}

impl AgentNode {
    fn with(args: &[&str]) -> Self {
        let machine = Machine::boot();
        let (node, pod) = (machine.netns(), machine.fake_pod("blue", 1));
        let log = tempfile::NamedTempFile::new().expect("a file");
        let stderr = log.reopen().expect("a file");
        let agent = node.spawn(agent().args(args).stderr(stderr));
        let place = Self { node, pod, agent, log, _machine: machine };
        wait::until("an agent that is well", Duration::from_secs(10), || place.is_well().then_some(()));
        place
    }

    fn is_well(&self) -> bool {
        self.node.spawn(agent().arg("--check").stderr(Stdio::null())).wait().expect("its end").success()
    }

    fn hello(&self, plan: CapturePlan) -> ClientHello {
        ClientHello { plan, ..hello(vec![node_interface(&self.pod.veth.name)]) }
    }

    fn begin(&self) -> Serving {
        let mut serving = Serving::start(&self.node);
        // Pings alone: now and then neighbours look for each other.
        let plan = CapturePlan { filter: Some("icmp".to_owned()), ..CapturePlan::default() };
        assert_eq!(serving.begin(self.hello(plan)), 1);
        serving
    }

    /// The outcome of a session that must not begin.
    fn refused(&self, plan: CapturePlan) -> Outcome {
        let mut serving = Serving::start(&self.node);
        serving.send(&ToNode::Hello(Box::new(self.hello(plan))));
        let outcome = serving.wait();
        assert_eq!((outcome.status.code(), outcome.end().reason), (Some(1), Reason::Failed));
        outcome
    }

    /// Waits until the agent has logged a line with all of `parts`.
    fn wait_for_log(&self, parts: &[&str]) {
        let log = || fs::read_to_string(self.log.path()).expect("the agent's words");
        let is_there = || log().lines().any(|line| parts.iter().all(|part| line.contains(part)));
        wait::until(&parts.join(", "), Duration::from_secs(5), || is_there().then_some(()));
    }

    /// A `sniff` beside the agent that captures pings of its pod.
    fn sniff(&self) -> Sniff<'_> {
        Sniff::in_netns(&self.node).args(["-i", &self.pod.veth.name, "-w", "-", "icmp"])
    }

    fn ping(&self, count: u32) {
        traffic::ping(&self.node, self.pod.ipv4.into(), count, 56);
    }

    fn get(&self, request: &str) -> String {
        let mut stream = self.node.enter(|| TcpStream::connect(METRICS)).expect("a connection");
        stream.set_read_timeout(Some(Duration::from_secs(10))).expect("a time-out");
        stream.write_all(request.as_bytes()).expect("asking");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("an answer");
        answer
    }

    fn metric(&self, name: &str) -> u64 {
        let metrics = self.get("GET /metrics HTTP/1.1\r\nHost: test\r\n\r\n");
        let value = metrics.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        value.and_then(|value| value.parse().ok()).unwrap_or_else(|| panic!("no {name} in {metrics}"))
    }

    fn wait_for_metric(&self, name: &str, value: u64) {
        wait::until(name, Duration::from_secs(5), || (self.metric(name) == value).then_some(()));
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.agent.id().cast_signed()), signal).expect("a running agent");
    }
}

fn agent() -> Command {
    let mut command = tool(sniff::binary());
    command.arg("agent").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command
}

#[test]
fn an_idle_agent_is_not_woken_up_and_is_small() {
    let place = AgentNode::with(&[]);
    let status = |key: &str| -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", place.agent.id())).expect("a live agent");
        let value = status.lines().find_map(|line| line.strip_prefix(key)?.split_whitespace().next());
        value.and_then(|value| value.parse().ok()).expect("a number")
    };
    let scheduled =
        || fs::read_to_string(format!("/proc/{}/schedstat", place.agent.id())).expect("schedstat");
    // The check before this one has just gone.
    thread::sleep(Duration::from_millis(200));
    let before = (status("voluntary_ctxt_switches:"), scheduled());
    thread::sleep(Duration::from_secs(10));
    assert_eq!(before, (status("voluntary_ctxt_switches:"), scheduled()));
    assert_eq!(status("Threads:"), 1);
    // Its own. How much of the program is in memory beside that is the kernel's choice, which reads ahead.
    let own = status("RssAnon:");
    assert!(own <= 3 << 10, "{own} KiB");
}

#[test]
fn a_session_too_many_is_refused_with_the_names_of_the_others() {
    let place = AgentNode::with(&["--max-sessions", "1"]);
    let first = place.begin();
    let outcome = place.refused(CapturePlan::default());
    let [error] = outcome.errors()[..] else { panic!("{outcome:#?}") };
    assert_eq!(error.code, Code::RefusedLimit);
    assert!(error.message.contains("(--max-sessions): ada@laptop (process "), "{}", error.message);
    assert_eq!(place.metric("sniff_sessions_refused_total"), 1);
    assert_eq!(first.stop().end().reason, Reason::Stopped);
    place.begin().stop();
    assert_eq!(place.metric("sniff_sessions_started_total"), 2);
}

#[test]
fn sniff_itself_asks_the_agent_that_it_is_beside() {
    let place = AgentNode::with(&["--max-sessions", "1"]);
    let session = place.begin();
    for refused in [place.sniff(), Sniff::in_netns(&place.node).args(["--list"])] {
        let outcome = refused.run();
        let line = outcome.refusal(1);
        assert!(line.contains("(--max-sessions): ada@laptop (process "), "{line}");
    }
    session.stop();
    place.wait_for_metric("sniff_sessions", 0);
    let capture = place.sniff().start();
    assert_eq!((place.metric("sniff_sessions"), place.metric("sniff_buffer_bytes")), (1, 64 << 20));
    place.wait_for_log(&["begins", &place.pod.veth.name, "filter: icmp"]);
    place.ping(3);
    assert_eq!(capture.stop().success().captured, 6);
    place.wait_for_metric("sniff_sessions", 0);
    assert_eq!(place.metric("sniff_packets_delivered_total"), 6);
    Sniff::in_netns(&place.node).args(["--list"]).run();
    place.wait_for_log(&["begins", "the list of this node's pods"]);
    drop(place);

    let place = AgentNode::with(&["--max-duration", "1s"]);
    let outcome = place.sniff().start().wait();
    assert_eq!(outcome.status.code(), Some(1), "{outcome:#?}");
    assert!(outcome.stderr.iter().any(|line| line.contains("1s (--max-duration)")), "{outcome:#?}");
    assert_eq!(place.metric("sniff_sessions_cut_short_total"), 1);
}

#[test]
fn what_sniff_captures_beside_an_agent_ends_with_its_last_interface() {
    let place = AgentNode::with(&[]);
    let sniff = Sniff::in_netns(&place.node).args(["--netns", "blue", "-w", "-", "icmp"]).start();
    place.ping(2);
    place.node.run("ip netns delete blue");
    assert_eq!(sniff.wait().success().captured, 4);
    place.wait_for_log(&["session 0", "ended", "by itself"]);
}

#[test]
fn the_agent_logs_who_was_captured_how_and_why_that_ended() {
    let place = AgentNode::with(&[]);
    let serving = place.begin();
    place.wait_for_log(&["session 0 of ada@laptop (process ", "begins: the node itself", "filter: icmp"]);
    place.wait_for_log(&["session 0 captures the node itself"]);
    place.ping(3);
    assert_eq!(serving.stop().end().captured, 6);
    place.wait_for_log(&[
        "session 0 has ended: its client said so",
        "6 packets received",
        "6 delivered, 0 dropped",
    ]);
    let serving = place.begin();
    serving.signal(Signal::SIGKILL);
    place.wait_for_log(&["session 1 has ended: its process has gone without a word"]);
}

#[test]
fn those_who_connect_and_are_silent_hold_nobody_up() {
    let place = AgentNode::with(&[]);
    let connect = || place.node.enter(|| TcpStream::connect(METRICS)).expect("a connection");
    let silent: Vec<TcpStream> = (0..40).map(|_| connect()).collect();
    assert!(place.get("GET /healthz HTTP/1.1\r\n\r\n").ends_with("\r\n\r\nok\n"));
    drop(silent);
}

#[test]
fn memory_is_limited_over_all_sessions() {
    let place = AgentNode::with(&["--max-memory", "100MiB"]);
    let first = place.begin();
    assert_eq!(place.metric("sniff_buffer_bytes"), 64 << 20);
    let outcome = place.refused(CapturePlan::default());
    assert!(outcome.errors()[0].message.contains("--buffer-size"), "{outcome:#?}");
    let mut second = Serving::start(&place.node);
    second.begin(place.hello(CapturePlan { buffer_bytes: Some(32 << 20), ..CapturePlan::default() }));
    first.stop();
    second.stop();
    place.wait_for_metric("sniff_buffer_bytes", 0);
}

#[test]
fn a_session_ends_when_it_has_lasted_or_sent_too_much() {
    let place = AgentNode::with(&["--max-duration", "1s", "--max-bytes", "100KiB"]);
    let outcome = place.begin().wait();
    assert_eq!(outcome.end().reason, Reason::Deadline);
    assert!(outcome.errors()[0].message.contains("1s (--max-duration)"), "{outcome:#?}");
    drop(place);

    let place = AgentNode::with(&["--max-bytes", "100KiB"]);
    let serving = place.begin();
    traffic::ping(&place.node, place.pod.ipv4.into(), 200, 1000);
    let outcome = serving.wait();
    assert_eq!((outcome.errors()[0].code, outcome.end().reason), (Code::RefusedLimit, Reason::Failed));
    assert!(outcome.errors()[0].message.contains("100.0 KiB (--max-bytes)"), "{outcome:#?}");
    assert_eq!(place.metric("sniff_sessions_cut_short_total"), 1);
    let captured = outcome.file().packets.len();
    assert!((100..=400).contains(&captured), "{captured}");
}

#[test]
fn a_session_that_does_not_end_is_killed() {
    let place = AgentNode::with(&["--max-duration", "1s"]);
    let mut serving = place.begin();
    serving.signal(Signal::SIGSTOP);
    assert!(serving.ends_within(Duration::from_secs(20)), "it still runs");
    place.wait_for_metric("sniff_sessions", 0);
}

#[test]
fn metrics_count_what_sessions_captured() {
    let place = AgentNode::with(&[]);
    let serving = place.begin();
    assert_eq!(place.metric("sniff_sessions"), 1);
    place.ping(5);
    place.wait_for_metric("sniff_packets_delivered_total", 10);
    place.ping(5);
    let outcome = serving.stop();
    assert_eq!(outcome.end().captured, 20);
    place.wait_for_metric("sniff_sessions", 0);
    for name in ["sniff_packets_matched_total", "sniff_packets_delivered_total"] {
        assert_eq!(place.metric(name), 20, "{name}");
    }
    assert_eq!(place.metric("sniff_packets_dropped_total"), 0);
    assert!(place.metric("sniff_sent_bytes_total") > outcome.packets.len() as u64);
    assert!(place.get("GET /healthz HTTP/1.1\r\n\r\n").ends_with("\r\n\r\nok\n"));
    assert!(place.get("DELETE /metrics HTTP/1.1\r\n\r\n").starts_with("HTTP/1.1 405 "));
}

#[test]
fn kill_9_of_a_session_is_noticed() {
    let place = AgentNode::with(&[]);
    let serving = place.begin();
    serving.signal(Signal::SIGKILL);
    place.wait_for_metric("sniff_sessions", 0);
}

#[test]
fn sigterm_ends_the_sessions_and_then_the_agent() {
    let mut place = AgentNode::with(&[]);
    let serving = place.begin();
    let objects = BpfObjects::held_by(serving.pid());
    place.ping(3);
    place.signal(Signal::SIGTERM);
    let outcome = serving.wait();
    assert_eq!((outcome.end().reason, outcome.end().captured), (Reason::Signal, 6), "{outcome:#?}");
    objects.assert_gone();
    let status = wait::exit_within(&mut place.agent, Duration::from_secs(5)).expect("the agent's end");
    assert!(status.success() && !place.is_well());
    // Without a socket there is no agent to ask; one that is named must be there.
    place.begin().stop();
    let mut command = tool(sniff::binary());
    let mut serving =
        Serving::launch(&place.node, command.arg("serve").env("SNIFF_AGENT_SOCKET", "/run/none.sock"));
    serving.send(&ToNode::Hello(Box::new(place.hello(CapturePlan::default()))));
    let outcome = serving.wait();
    assert!(outcome.errors()[0].message.contains("/run/none.sock"), "{outcome:#?}");
}

#[test]
fn an_agent_that_dies_takes_its_sessions_along() {
    let mut place = AgentNode::with(&[]);
    let serving = place.begin();
    place.agent.kill().and_then(|()| place.agent.wait()).expect("the agent's end");
    assert_eq!(serving.wait().end().reason, Reason::Signal);
    // The socket is still there: a session must not slip in past the limits.
    let outcome = place.refused(CapturePlan::default());
    assert!(outcome.errors()[0].message.contains("start it anew"), "{outcome:#?}");
    let next = place.node.spawn(&mut agent());
    place.agent = next;
    wait::until("the next agent", Duration::from_secs(10), || place.is_well().then_some(()));
}

#[test]
fn once_ends_with_the_last_session() {
    let mut place = AgentNode::with(&["--once"]);
    let (first, second) = (place.begin(), place.begin());
    first.stop();
    assert!(wait::exit_within(&mut place.agent, Duration::from_millis(300)).is_none(), "one is left");
    second.stop();
    assert!(wait::exit_within(&mut place.agent, Duration::from_secs(5)).expect("its end").success());
}
