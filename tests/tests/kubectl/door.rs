//! The agent's door: who may capture what, by tokens and RBAC, with the real agent on a real node.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{Ipv4Addr, TcpListener, TcpStream},
    process::{Child, Stdio},
    time::Duration,
};

use serde_json::{Value, json};
#[cfg(target_arch = "x86_64")]
use sniff_protocol::HEADER_LEN;
use sniff_protocol::{
    Decoder, PREFACE, ToClient, ToNode,
    door::{Admitted, Answer, Credentials, Refusal, Refused, audience},
    encode,
    message::{Awaited, ClientHello, Code, Event, Target, TargetId, Targets},
};
use sniff_tests::{
    client::Client,
    netns::tool,
    node::Sandbox,
    serve::{Serving, awaited, hello, node_interface, pod},
    sniff::{self, Sniff},
    traffic, wait,
};
#[cfg(target_arch = "x86_64")]
use sniff_tests::{
    intruder::{Intruder, front_of},
    sniff::children_of,
};

use super::{LISTENING, Shop, assert_pings, names};
use crate::packaging::{of_namespace, role_of_agent};

const DOOR: u16 = 9470;
const KUBECONFIG: &str = "/run/kubeconfig";
/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// A shop whose node has an agent with a door; its developers may capture it. There are another namespace with a pod of
/// the same name, and a pod on the node's network.
pub(super) struct Guarded {
    agent: Child,
    log: tempfile::NamedTempFile,
    audit: tempfile::NamedTempFile,
    bank: Sandbox<'static>,
    host: Sandbox<'static>,
    pub(super) shop: Shop,
}

impl Drop for Guarded {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.agent.kill().and_then(|()| self.agent.wait());
    }
}

impl Guarded {
    fn new() -> Self {
        Self::with(&[])
    }

    pub(super) fn with(args: &[&str]) -> Self {
        Self::of(Shop::new(), args)
    }

    pub(super) fn of(shop: Shop, args: &[&str]) -> Self {
        let bank = shop.node.pod("bank", "web-0").run_sandbox();
        let host = shop.node.host_network_pod("shop", "host-0");
        let cluster = &shop.cluster;
        for namespace in ["bank", "shop"] {
            cluster.put("namespaces", "", namespace, json!({"metadata": {"name": namespace}}));
        }
        cluster.add_pod("bank", "web-0", &bank.uid, "n1", &json!({"app": "web"}));
        cluster.apply(role_of_agent().into_iter().chain(of_namespace()));
        cluster.add_account("bank", "sniff-capture");
        cluster.add_account("sniff", "sniff-node");
        cluster.add_user("dev", &["shop-developers"]);
        cluster.add_door("n1", DOOR);
        let netns = &shop.node.netns;
        let listener = netns.enter(|| TcpListener::bind((Ipv4Addr::LOCALHOST, 0))).expect("a listener");
        let kubeconfig = cluster.kubeconfig_of_account(listener, "sniff", "sniff");
        fs::write(shop.node.machine.path(KUBECONFIG), kubeconfig).expect("a kubeconfig");
        let [log, audit] = [(); 2].map(|()| tempfile::NamedTempFile::new().expect("a file"));
        let mut command = tool(sniff::binary());
        command
            .args(["agent", "--door", &format!("127.0.0.1:{DOOR}")])
            .args(args)
            .env("KUBECONFIG", KUBECONFIG)
            .env("NODE_NAME", "n1")
            .stdin(Stdio::null())
            .stdout(audit.reopen().expect("a file"))
            .stderr(log.reopen().expect("a file"));
        let agent = netns.spawn(&mut command);
        let place = Self { agent, log, audit, bank, host, shop };
        let is_open = || place.connect().is_ok().then_some(());
        wait::until("an open door", PATIENCE, is_open);
        place
    }

    fn connect(&self) -> std::io::Result<TcpStream> {
        self.shop.node.netns.enter(|| TcpStream::connect((Ipv4Addr::LOCALHOST, DOOR)))
    }

    /// A token as `kubectl sniff` asks for it.
    fn token(&self, namespace: &str, account: &str) -> String {
        self.shop.cluster.token(namespace, account, &audience("n1"), 0, 600)
    }

    /// What the agent says to these bytes.
    fn says_to(&self, bytes: &[u8]) -> Result<(Come, Admitted), Refused> {
        let mut stream = self.connect().expect("a connection");
        stream.set_read_timeout(Some(PATIENCE)).expect("a time-out");
        // It may hang up on what is too long.
        let _ = stream.write_all(bytes);
        let mut decoder = Decoder::<Answer>::new();
        let mut buffer = [0; 1 << 12];
        loop {
            match decoder.next().expect("frames") {
                Some(Answer::Admitted(admitted)) => {
                    let mut session = Decoder::new();
                    session.push(&decoder.rest());
                    return Ok((Come { stream, session, said: Vec::new() }, admitted));
                }
                Some(Answer::Refused(refused)) => return Err(refused),
                None => match stream.read(&mut buffer).expect("an answer") {
                    0 => panic!("no answer"),
                    len => decoder.push(&buffer[..len]),
                },
            }
        }
    }

    fn knock(&self, tokens: &[String]) -> Result<(Come, Admitted), Refused> {
        let mut bytes = PREFACE.to_vec();
        encode(&shown(tokens), &mut bytes).expect("a frame");
        self.says_to(&bytes)
    }

    /// A session of these accounts that captures these targets.
    fn come_in(&self, accounts: &[Account], hello: ClientHello) -> Come {
        let mut come = self.knock_with(accounts);
        come.begin(hello);
        come
    }

    /// A session of these accounts that has not begun.
    pub(super) fn knock_with(&self, accounts: &[Account]) -> Come {
        let tokens: Vec<String> =
            accounts.iter().map(|(namespace, name)| self.token(namespace, name)).collect();
        self.knock(&tokens).expect("good tokens").0
    }

    /// The lines of this kind in the agent's audit.
    fn audit(&self, event: &str) -> Vec<Value> {
        let audit = fs::read_to_string(self.audit.path()).expect("the agent's audit");
        let lines = audit.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
        lines.filter(|line| line["event"] == event).collect()
    }

    pub(super) fn log(&self) -> String {
        fs::read_to_string(self.log.path()).expect("the agent's words")
    }
}

/// Whoever stays outside is in the audit, and whoever has come in is in the pod's events.
#[test]
fn what_comes_to_the_door_is_told_of() {
    let place = Guarded::new();
    let refused = place.knock(&[]).err().expect("a refusal");
    let is_it = |line: &Value| line["via"] == "door" && line["why"] == *refused.message;
    let lines = place.audit("refused");
    assert!(lines.iter().any(is_it), "{lines:#?}");
    let web = pod("shop", "web-0", &place.shop.web.sandbox.uid);
    let mut come = place.come_in(&[SHOP], hello(vec![web.clone()]));
    assert_eq!(come.outcome_of(&web.id), None);
    let events = || {
        let all = place.shop.cluster.events("shop");
        let begun = all.iter().find(|event| event["reason"] == "PacketCapture")?;
        Some(begun["message"].as_str().expect("a message").to_owned())
    };
    let message = wait::until("the pod's event", PATIENCE, events);
    assert!(message.contains("with the right of account shop/sniff-capture"), "{message}");
    come.stop();
}

fn shown(tokens: &[String]) -> Credentials {
    Credentials { version: "test".to_owned(), tokens: tokens.to_vec() }
}

/// Somebody who has come in.
pub(super) struct Come {
    stream: TcpStream,
    session: Decoder<ToClient>,
    pub(super) said: Vec<ToClient>,
}

impl Come {
    pub(super) fn send(&mut self, message: &ToNode) {
        let mut frame = Vec::new();
        encode(message, &mut frame).expect("a frame");
        self.stream.write_all(&frame).expect("a session");
    }

    /// Says what is wanted.
    pub(super) fn open(&mut self, hello: ClientHello) {
        self.stream.write_all(&PREFACE).expect("a session");
        self.send(&ToNode::Hello(Box::new(hello)));
    }

    pub(super) fn begin(&mut self, hello: ClientHello) {
        self.open(hello);
        self.wait_for("listening", |message| matches!(message, ToClient::Event(Event::Listening { .. })));
    }

    /// Waits for a message, one that came before included.
    pub(super) fn wait_for(&mut self, what: &str, wanted: impl Fn(&ToClient) -> bool) {
        let mut buffer = [0; 1 << 16];
        while !self.said.iter().any(&wanted) {
            match self.session.next().expect("frames") {
                Some(message) => self.said.push(message),
                None => match self.stream.read(&mut buffer) {
                    Ok(len @ 1..) => self.session.push(&buffer[..len]),
                    other => panic!("{what}: {other:?}: {:#?}", self.said),
                },
            }
        }
    }

    /// What became of a target: `None` when it is captured, otherwise why not.
    fn outcome_of(&mut self, id: &TargetId) -> Option<String> {
        let of = |message: &ToClient| match message {
            ToClient::Event(Event::TargetAdded { target, .. }) if target == id => Some(None),
            ToClient::Event(Event::TargetFailed { target, error, .. }) if target == id => {
                Some(Some(error.clone()))
            }
            _ => None,
        };
        self.wait_for("what became of a target", |message| of(message).is_some());
        self.said.iter().find_map(of).expect("it was waited for")
    }

    fn stop(mut self) -> Vec<ToClient> {
        self.send(&ToNode::Stop);
        self.wait_for("the end", |message| matches!(message, ToClient::End(_)));
        self.said
    }
}

/// A service account: namespace and name.
pub(super) type Account = (&'static str, &'static str);

pub(super) const SHOP: Account = ("shop", "sniff-capture");
pub(super) const BANK: Account = ("bank", "sniff-capture");
pub(super) const NODE: Account = ("sniff", "sniff-node");

/// Who has come in with which tokens captures what, and which right is missing for the rest.
#[test]
fn a_session_captures_what_its_tokens_are_for() {
    let place = Guarded::new();
    let uid = &place.shop.web.sandbox.uid;
    let web = pod("shop", "web-0", uid);
    let bank = pod("bank", "web-0", &place.bank.uid);
    let host = pod("shop", "host-0", &place.host.uid);
    let veth = node_interface(&place.shop.web.veth.name);
    let of_bank = "create serviceaccounts/token named sniff-capture in namespace bank";
    let of_node = "create serviceaccounts/token named sniff-node in namespace sniff";
    let anew = "ask for it again";
    let rows: [(&[Account], &Target, Option<&str>); 15] = [
        (&[SHOP], &web, None),
        (&[SHOP], &bank, Some(of_bank)),
        (&[SHOP], &veth, Some(of_node)),
        (&[SHOP], &host, Some(of_node)),
        (&[SHOP], &pod("shop", "web-0", &place.bank.uid), Some(anew)),
        (&[SHOP], &pod("shop", "web-0", ""), Some(anew)),
        (&[SHOP], &pod("shop", "none", uid), Some("no pod shop/none")),
        (&[SHOP], &pod("bank", "web-0", uid), Some(of_bank)),
        (&[SHOP], &pod("sniff", "sniff-n1", "u"), Some("named sniff-capture in namespace sniff")),
        (&[BANK], &bank, None),
        (&[BANK], &web, Some("named sniff-capture in namespace shop")),
        (&[SHOP, BANK], &web, None),
        (&[SHOP, BANK], &veth, Some(of_node)),
        (&[NODE], &veth, None),
        (&[NODE], &bank, None),
    ];
    for (accounts, target, missing) in rows {
        let mut come = place.come_in(accounts, hello(vec![target.clone()]));
        let outcome = come.outcome_of(&target.id);
        match (missing, &outcome) {
            (None, None) => {}
            (Some(words), Some(why)) if why.contains(words) => {}
            _ => panic!("{accounts:?}, {:?}: {outcome:?}", target.id),
        }
        come.stop();
    }
    // What a pod is called elsewhere is not told to whoever guesses.
    let _vault = place.shop.node.pod("bank", "vault-0").run_sandbox();
    let vault = pod("shop", "vault-0", "u");
    for (account, is_told) in [(SHOP, false), (NODE, true)] {
        let mut come = place.come_in(&[account], hello(vec![vault.clone()]));
        let why = come.outcome_of(&vault.id).expect("there is no such pod");
        assert!(why.contains("no pod shop/vault-0") && why.contains("bank/vault-0") == is_told, "{why}");
        come.stop();
    }
    // Each has had a session of its own, and nothing is left of them.
    place.shop.node.netns.run("true");
    let sessions = || {
        let running = place.shop.node.netns.run("ps -e -o args=");
        (!running.contains(" serve ")).then_some(())
    };
    wait::until("the end of all sessions", PATIENCE, sessions);
    assert!(
        place
            .log()
            .contains("may capture pods of bank, shop: system:serviceaccount:shop:sniff-capture (token JTI=")
    );
}

/// At each join: also of who is named later, and of pods that the node sees coming.
#[test]
fn whoever_joins_later_is_asked_for_likewise() {
    let place = Guarded::new();
    let uid = &place.shop.web.sandbox.uid;
    let (web, bank) = (pod("shop", "web-0", uid), pod("bank", "web-0", &place.bank.uid));
    let awaits: Vec<Awaited> =
        ["bank", "shop"].iter().map(|namespace| awaited(namespace, "app=new")).collect();
    let mut come = place.come_in(&[SHOP], ClientHello { awaited: awaits, ..hello(vec![web.clone()]) });
    assert_eq!(come.outcome_of(&web.id), None);
    come.send(&ToNode::Targets(Targets { add: vec![bank.clone()], remove: vec![] }));
    let why = come.outcome_of(&bank.id).expect("a refusal");
    assert!(why.contains("named sniff-capture in namespace bank"), "{why}");
    let theirs = place.shop.node.pod("bank", "web-1").label("app", "new").run_sandbox();
    let ours = place.shop.node.pod("shop", "web-1").label("app", "new").run_sandbox();
    come.wait_for("the pod of the shop", |message| {
        matches!(message, ToClient::Event(Event::TargetArrived { target: TargetId::Pod { namespace, uid, .. } })
            if namespace == "shop" && *uid == ours.uid)
    });
    let said = come.stop();
    let is_theirs = |message: &&ToClient| format!("{message:?}").contains(&theirs.uid);
    assert_eq!(said.iter().find(is_theirs), None);
    assert_eq!(said.iter().filter(|message| matches!(message, ToClient::Error(_))).count(), 0, "{said:?}");
}

#[test]
fn whoever_shows_no_good_token_stays_outside() {
    let place = Guarded::new();
    let cluster = &place.shop.cluster;
    let token =
        |account: (&str, &str), to: &str, age, seconds| cluster.token(account.0, account.1, to, age, seconds);
    let here = audience("n1");
    let good = token(SHOP, &here, 0, 600);
    let used = token(SHOP, &here, 0, 600);
    let (first, admitted) = place.knock(std::slice::from_ref(&used)).expect("a good token");
    assert_eq!(admitted, Admitted { namespaces: vec!["shop".to_owned()], node: false });
    // The last letter of a signature of 32 bytes has two bits that do not count.
    let mut rewritten = used.clone();
    let last = rewritten.pop().expect("a letter");
    rewritten.push(if last == 'A' { 'B' } else { char::from(last as u8 + 1) });
    let of_another = |token: &str| {
        let parts: Vec<&str> = good.split('.').collect();
        let theirs: Vec<&str> = token.split('.').collect();
        format!("{}.{}.{}", theirs[0], theirs[1], parts[2])
    };
    let forged = of_another(&token(BANK, &here, 0, 600));
    for (what, token, code, words) in [
        ("expired", token(SHOP, &here, 0, 0), Refusal::BadToken, "it has expired"),
        (
            "for another node",
            token(SHOP, "sniff/n2", 0, 600),
            Refusal::BadToken,
            "for sniff/n2, and not for sniff/n1",
        ),
        (
            "for the API server",
            token(SHOP, "https://kubernetes.default.svc", 0, 600),
            Refusal::BadToken,
            "not for sniff/n1",
        ),
        (
            "another account",
            token(("shop", "default"), &here, 0, 600),
            Refusal::WrongAccount,
            "named sniff-capture in the pods'",
        ),
        (
            "the node's account of another namespace",
            token(("shop", "sniff-node"), &here, 0, 600),
            Refusal::WrongAccount,
            "in namespace sniff",
        ),
        (
            "with the signature of another",
            forged,
            Refusal::BadToken,
            "does not stand for a token of system:serviceaccount:bank",
        ),
        ("good for long", token(SHOP, &here, 0, 86_400), Refusal::BadToken, "ask for one of 600 s"),
        ("from before the agent", token(SHOP, &here, 300, 600), Refusal::UsedToken, "ask for a new one"),
        ("a second session with the first one's", used.clone(), Refusal::UsedToken, "was used before"),
        ("the same, written otherwise", rewritten, Refusal::UsedToken, "was used before"),
        ("a person's", "token-of-dev".to_owned(), Refusal::BadToken, "three parts"),
    ] {
        let Err(refused) = place.knock(&[token]) else { panic!("{what}: let in") };
        assert_eq!(refused.code, code, "{what}: {refused:?}");
        assert!(refused.message.contains(words), "{what}: {refused:?}");
    }
    drop(first);
    let Err(refused) = place.knock(&[used]) else { panic!("let in") };
    assert!(refused.message.contains("was used before"), "replayed: {refused:?}");
    let Err(refused) = place.knock(&[]) else { panic!("let in") };
    assert!(
        refused.message.contains("no token is shown: it takes the right to create serviceaccounts/token"),
        "{refused:?}"
    );

    let frame = |kind: u8, len: u32, payload: &[u8]| {
        [&PREFACE[..], &[kind, 0, 0, 0], &len.to_le_bytes(), payload].concat()
    };
    let mut followed = PREFACE.to_vec();
    encode(&shown(std::slice::from_ref(&good)), &mut followed).expect("a frame");
    let credentials = followed.clone();
    followed.extend(&PREFACE);
    let mut session = PREFACE.to_vec();
    encode(&ToNode::Hello(Box::new(hello(vec![node_interface("lo")]))), &mut session).expect("a frame");
    let many = serde_json::to_vec(&shown(&vec!["x".repeat(1000); 1000])).expect("JSON");
    for (what, bytes, words) in [
        ("another protocol", b"GET / HTTP/1.1\r\n\r\n".to_vec(), "not sniff"),
        ("a session at once", session, "unknown frame of kind 0x81"),
        ("a length that is too large", frame(0x88, u32::MAX, b""), "claims 4294967295 bytes"),
        ("a large frame", frame(0x88, many.len() as u32, &many), "bytes of tokens"),
        ("no object", frame(0x88, 2, b"[]"), "kind 0x88"),
        ("more behind it", followed, "before they are answered"),
    ] {
        let Err(refused) = place.says_to(&bytes) else { panic!("{what}: let in") };
        assert_eq!(refused.code, Refusal::Malformed, "{what}: {refused:?}");
        assert!(refused.message.contains(words), "{what}: {refused:?}");
    }
    // Whoever is silent holds nobody up, and what was refused with others is not used up.
    let silent: Vec<TcpStream> = (0..40).map(|_| place.connect().expect("a connection")).collect();
    place.says_to(&credentials).expect("a good token");
    drop(silent);
    cluster.deny("create", "tokenreviews");
    let Err(refused) = place.knock(&[place.token("shop", "sniff-capture")]) else { panic!("let in") };
    assert_eq!(refused.code, Refusal::Unavailable, "{refused:?}");
    assert!(refused.message.contains("you may not create tokenreviews"), "{refused:?}");
}

/// Who has taken over what reads a client's words can say what a client can, and its tokens count.
#[cfg(target_arch = "x86_64")]
#[test]
fn who_has_taken_over_a_session_is_no_more_than_its_client() {
    let place = Guarded::new();
    let web = pod("shop", "web-0", &place.shop.web.sandbox.uid);
    let bank = pod("bank", "web-0", &place.bank.uid);
    let mut come = place.come_in(&[SHOP], hello(vec![web.clone()]));
    assert_eq!(come.outcome_of(&web.id), None);
    let session = || children_of(place.agent.id()).pop();
    let mut intruder = Intruder::of(front_of(wait::until("a session", PATIENCE, session)));
    let words = forged(&ToNode::Targets(Targets { add: vec![bank.clone()], remove: vec![] }));
    let (at, len) = (intruder.place(&words), words.len() as u64);
    // A client's words go by the last one.
    let way = *intruder.unix_sockets().last().expect("a way to the other half");
    assert_eq!(intruder.call(libc::SYS_write, &[way, at, len]), Ok(len));
    drop(intruder);
    let why = come.outcome_of(&bank.id).expect("a refusal");
    assert!(why.contains("named sniff-capture in namespace bank"), "{why}");
    come.stop();
}

/// What a client says as the other half hears of it: a length, a variant of `Heard`, and a frame's kind and payload.
#[cfg(target_arch = "x86_64")]
fn forged(message: &ToNode) -> Vec<u8> {
    let mut frame = Vec::new();
    encode(message, &mut frame).expect("a frame");
    let (header, payload) = frame.split_at(HEADER_LEN);
    assert!((1 << 7..1 << 14).contains(&payload.len()), "a length that postcard writes in two bytes");
    let len = [payload.len() as u8 | 0x80, (payload.len() >> 7) as u8];
    let body = [&[0, header[0]], &len[..], payload].concat();
    [&(body.len() as u32).to_le_bytes()[..], &body].concat()
}

#[test]
fn sessions_that_others_start_are_refused_where_there_is_a_door() {
    let place = Guarded::new();
    let netns = &place.shop.node.netns;
    let mut serving = Serving::start(netns);
    let web = pod("shop", "web-0", &place.shop.web.sandbox.uid);
    serving.send(&ToNode::Hello(Box::new(hello(vec![web]))));
    let outcome = serving.wait();
    let [error] = outcome.errors()[..] else { panic!("{outcome:#?}") };
    assert_eq!(error.code, Code::NotAuthorised);
    let rights = ["--allow-exec-sessions", "pods/portforward", "sniff-capture", "sniff-node"];
    assert!(rights.iter().all(|right| error.message.contains(right)), "{}", error.message);
    // What somebody runs there by hand is no other.
    let line = Sniff::in_netns(netns).args(["--list"]).run().refusal(1).to_owned();
    assert!(line.contains("--allow-exec-sessions"), "{line}");
    let refused = place.audit("refused");
    assert_eq!(refused.len(), 2, "{refused:#?}");
    assert!(refused.iter().all(|line| line["via"] == "exec" && line["session"].is_null()), "{refused:#?}");
    // Nobody can pass for a session of the agent's.
    let mut command = tool(sniff::binary());
    let mut serving = Serving::launch(netns, command.args(["serve", "--authorised"]));
    serving.send(&ToNode::Hello(Box::new(hello(vec![node_interface("lo")]))));
    assert_eq!(serving.wait().errors()[0].code, Code::NotAuthorised);
}

#[test]
fn sessions_end_with_their_connection_and_with_the_agent() {
    let mut place = Guarded::new();
    let web = pod("shop", "web-0", &place.shop.web.sandbox.uid);
    let gone = |place: &Guarded, what: &str| {
        let netns = place.shop.node.netns.clone();
        wait::until(what, PATIENCE, || (!netns.run("ps -e -o args=").contains(" serve ")).then_some(()));
    };
    let come = place.come_in(&[SHOP], hello(vec![web.clone()]));
    drop(come);
    gone(&place, "the end with the connection");
    // Before it has said anything.
    drop(place.knock(&[place.token("shop", "sniff-capture")]).expect("a good token"));
    gone(&place, "the end of who says nothing");
    let mut come = place.come_in(&[SHOP], hello(vec![web]));
    place.agent.kill().and_then(|()| place.agent.wait()).expect("the agent's end");
    come.wait_for("the end", |message| matches!(message, ToClient::End(_)));
    drop(come);
    gone(&place, "the end with the agent");
}

/// A developer of the shop, from a name to packets in a file, with no right to exec into anything.
#[test]
fn a_developer_captures_the_shop_and_nothing_else() {
    let place = Guarded::new();
    let cluster = &place.shop.cluster;
    let start = |args: &[&str]| {
        Client::start_as(cluster, "dev", &[args, &["-w", "FILE", "-f", "icmp", "-v"]].concat())
    };
    let mut client = start(&["shop/web-0"]);
    client.wait_for(LISTENING);
    place.shop.ping(2);
    client.wait_for_packets(4);
    let outcome = client.stop();
    outcome.assert_success();
    assert!(outcome.said("by its agent's door, which is open to shop"), "{outcome:#?}");
    assert_pings(&outcome.file(), 56, 2);
    assert!(place.shop.execs().is_empty(), "{:?}", place.shop.execs());

    let refused = |args: &[&str], parts: &[&str]| start(args).outcome().assert_failure(parts);
    refused(&["bank/web-0"], &["you may not", "pods web-0 in namespace bank"]);
    cluster.apply([
        json!({"kind": "Role", "metadata": {"name": "view", "namespace": "bank"},
            "rules": [{"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list", "watch"]}]}),
        json!({"kind": "RoleBinding", "metadata": {"name": "view", "namespace": "bank"},
            "roleRef": {"kind": "Role", "name": "view"}, "subjects": [{"kind": "User", "name": "dev"}]}),
        json!({"kind": "ClusterRole", "metadata": {"name": "nodes"},
            "rules": [{"apiGroups": [""], "resources": ["nodes"], "verbs": ["get"]}]}),
        json!({"kind": "ClusterRoleBinding", "metadata": {"name": "nodes"},
            "roleRef": {"kind": "ClusterRole", "name": "nodes"}, "subjects": [{"kind": "User", "name": "dev"}]}),
    ]);
    let token =
        |name: &str, namespace: &str| format!("create serviceaccounts/token {name} in namespace {namespace}");
    let no_way = ["there is no way in", "by exec: you may not get pods/exec sniff-n1 in namespace sniff"];
    refused(&["bank/web-0"], &[&no_way[..], &[&token("sniff-capture", "bank")]].concat());
    refused(&["node/n1", "-i", "lo"], &[&no_way[..], &[&token("sniff-node", "sniff")]].concat());
    assert!(place.log().contains("may capture pods of shop"), "{}", place.log());

    let doctor = Client::start_as(cluster, "dev", &["doctor", "-n", "shop"]).outcome();
    let said = String::from_utf8(doctor.stdout.clone()).expect("text");
    for part in [
        "ok    door: you may create pods/portforward in namespace sniff",
        "ok    door: pods of namespace shop: you may create serviceaccounts/token sniff-capture in namespace shop",
        "note  door: not the interfaces of nodes: you may not create serviceaccounts/token sniff-node in namespace sniff",
        "note  DaemonSet: you may not create pods/exec in namespace sniff",
        "ok    DaemonSet: sniff ",
    ] {
        assert!(said.contains(part), "no {part}: {said}");
    }
    let doctor = Client::start_as(cluster, "dev", &["doctor", "-n", "bank"]).outcome();
    let said = String::from_utf8(doctor.stdout.clone()).expect("text");
    assert!(
        said.contains("BAD   door: pods of namespace bank: you may not create serviceaccounts/token"),
        "{said}"
    );
    // Who has found out that he may have no token has said nothing to the agent.
    assert_eq!(place.audit("refused"), Vec::<Value>::new());
}

/// What went by exec goes by the door: pods that come, and a node that is joined again.
#[test]
fn a_developer_follows_and_joins_again_by_the_door() {
    let place = Guarded::new();
    let cluster = &place.shop.cluster;
    let args = ["-l", "app=web", "-n", "shop", "-w", "FILE", "-f", "icmp"];
    let mut client = Client::start_as(cluster, "dev", &args);
    client.wait_for(LISTENING);
    place.shop.ping(2);
    client.wait_for_packets(4);
    let more = place.shop.node.pod("shop", "web-1").label("app", "web").start();
    cluster.add_pod("shop", "web-1", &more.sandbox.uid, "n1", &json!({"app": "web"}));
    client.wait_for("capturing shop/web-1 on node n1");
    cluster.cut_execs();
    client.wait_for("node n1: joined again");
    traffic::ping(&place.shop.node.netns, more.ipv4.into(), 3, 57);
    client.wait_for_packets(10);
    let outcome = client.stop();
    let file = outcome.file();
    assert_pings(&file, 56, 2);
    assert_pings(&file, 57, 3);
    assert!(names(&file).contains(&"shop/web-1/eth0"), "{:?}", names(&file));
    assert!(place.shop.execs().is_empty(), "{:?}", place.shop.execs());
}

/// An administrator has the node's account, and with it all namespaces; who may only exec comes in that way if it is let.
#[test]
fn the_way_that_works_is_taken() {
    let place = Guarded::with(&["--allow-exec-sessions"]);
    let cluster = &place.shop.cluster;
    cluster.apply([
        json!({"kind": "ClusterRole", "metadata": {"name": "all"},
            "rules": [{"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}]}),
        json!({"kind": "ClusterRoleBinding", "metadata": {"name": "all"},
            "roleRef": {"kind": "ClusterRole", "name": "all"}, "subjects": [{"kind": "User", "name": "root"}]}),
    ]);
    cluster.add_user("root", &[]);
    for args in [&["-A", "-l", "app=web"][..], &["node/n1", "-i", &place.shop.web.veth.name]] {
        let mut client = Client::start_as(cluster, "root", &[args, &["-w", "FILE", "-v"]].concat());
        client.wait_for(LISTENING);
        let outcome = client.stop();
        outcome.assert_success();
        assert!(outcome.said("by its agent's door, which is open to all that it has"), "{outcome:#?}");
    }
    assert!(place.shop.execs().is_empty(), "{:?}", place.shop.execs());
    // No namespace has the account any more, and he who may all may exec.
    cluster.deny("create", "serviceaccounts/token");
    let mut client = Client::start_as(cluster, "root", &["shop/web-0", "-w", "FILE"]);
    client.wait_for("by exec, since its agent's door is shut: you may not create serviceaccounts/token");
    client.wait_for(LISTENING);
    client.stop().assert_success();
    assert_eq!(place.shop.execs(), ["sniff/sniff-n1"]);
}
