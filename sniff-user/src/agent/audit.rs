//! The audit: what sessions have captured, as lines of JSON on the agent's stdout, one for each start, change and end. The
//! log is for people, and on stderr.
//!
//! What somebody claims is in fields of its own, whose names say so; all others are what the agent or the session on its
//! node has found. No line is longer than container runtimes keep in one piece.

use std::{
    collections::BTreeSet,
    io::{self, Write as _},
    time::{Duration, Instant, SystemTime},
};

use serde::{Deserialize, Serialize};
use sniff_cli::sanitize::sanitize_line;
use sniff_protocol::message::Reason;

use super::{
    judge::{Authority, Shown},
    ledger::SessionId,
    wire::{Registration, Report},
};
use crate::targets::PodRef;

/// Most bytes of a claim, a reason to end, and a filter: runtimes cut lines of 16 KiB.
const MAX_CLAIM: usize = 512;
const MAX_WHY: usize = 1024;
const MAX_EXPRESSION: usize = 2048;
/// Most of a policy's demands that are named for one pod.
const MAX_DEMANDS: usize = 8;
/// Most bytes of the accounts, and of the id of a token.
const MAX_ACCOUNTS: usize = 2048;
const MAX_ID: usize = 128;
/// Most bytes of the pods in the line of an end; the lines before have named each.
const MAX_PODS: usize = 4096;

/// A pod, as the node knows it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct PodId {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its UID, as the kubelet knows it.
    pub uid: String,
}

impl From<&PodRef> for PodId {
    fn from(pod: &PodRef) -> Self {
        Self { namespace: pod.namespace.clone(), name: pod.name.clone(), uid: pod.uid.clone() }
    }
}

/// On what terms something is captured.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Terms {
    /// Which packets; `None` is all of them.
    pub filter: Option<String>,
    /// Most bytes kept of a packet.
    pub snaplen: u32,
    /// Whether only headers are kept.
    pub headers: bool,
    /// What of that a policy demands, in words.
    pub policy: Vec<String>,
    /// What denies the capture, and was overridden.
    pub overridden: Option<String>,
}

/// Something that a session captures.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Captured {
    /// Whom, in words.
    pub what: String,
    /// The pod, if it is one.
    pub pod: Option<PodId>,
    /// How.
    #[serde(flatten)]
    pub terms: Terms,
}

impl Captured {
    /// As much of it as a line has room for, in words that are plain.
    pub(super) fn bounded(self) -> Self {
        let Self { what, pod, terms: Terms { filter, snaplen, headers, policy, overridden } } = self;
        let terms = Terms {
            filter: filter.map(|filter| plain(&filter, MAX_EXPRESSION)),
            snaplen,
            headers,
            policy: policy.iter().take(MAX_DEMANDS).map(|words| plain(words, MAX_CLAIM)).collect(),
            overridden: overridden.map(|words| plain(&words, MAX_CLAIM)),
        };
        Self { what: plain(&what, MAX_CLAIM), pod, terms }
    }
}

/// How a session ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// Its client said so.
    Stopped,
    /// As many packets as asked for.
    Count,
    /// As long as asked for.
    Duration,
    /// Its client was not heard of.
    Lease,
    /// Its client has closed the connection.
    InputClosed,
    /// A limit of time that the node has.
    Deadline,
    /// The session, or the agent, was told to end.
    Signal,
    /// It failed, or has sent too much.
    Failed,
    /// It did not end when it was told to.
    Killed,
    /// Its process has gone without a word.
    Vanished,
}

impl From<Reason> for Outcome {
    fn from(reason: Reason) -> Self {
        match reason {
            Reason::Stopped => Self::Stopped,
            Reason::Count => Self::Count,
            Reason::Duration => Self::Duration,
            Reason::Lease => Self::Lease,
            Reason::InputClosed => Self::InputClosed,
            Reason::Deadline => Self::Deadline,
            Reason::Signal => Self::Signal,
            Reason::Failed | Reason::Other => Self::Failed,
        }
    }
}

/// A session's end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Ending {
    pub(super) outcome: Outcome,
    /// The same in words.
    pub(super) why: String,
}

/// How a session came, and as whom, by what the agent knows for itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Caller {
    /// Over what.
    pub(super) via: Via,
    /// Whose tokens were shown; none where the API server alone knows who it was.
    pub(super) accounts: Vec<Account>,
    /// Those that are not named here.
    pub(super) more_accounts: usize,
}

/// A service account whose token was shown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Account {
    pub(super) namespace: String,
    pub(super) name: String,
    /// The token's id.
    pub(super) token_id: String,
}

/// Over what a session came.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Via {
    /// A process that was started in the agent's pod: by exec. Whose that was is in the API server's audit.
    Exec,
    /// The agent's door, with tokens.
    Door,
    /// The agent itself.
    Agent,
}

impl Caller {
    /// Whoever has started a process beside the agent.
    pub(super) fn exec() -> Self {
        Self { via: Via::Exec, accounts: Vec::new(), more_accounts: 0 }
    }

    /// The agent, which records.
    pub(super) fn agent() -> Self {
        Self { via: Via::Agent, ..Self::exec() }
    }

    /// Whoever was let in at the door.
    pub(super) fn door(authority: &Authority) -> Self {
        let accounts = authority.shown.iter().map(|Shown { account, id }| Account {
            namespace: account.namespace.clone(),
            name: account.name.clone(),
            token_id: plain(id, MAX_ID),
        });
        let len =
            |Account { namespace, name, token_id }: &Account| namespace.len() + name.len() + token_id.len();
        let accounts = first_of(accounts, MAX_ACCOUNTS, len);
        let more_accounts = authority.shown.len() - accounts.len();
        Self { via: Via::Door, accounts, more_accounts }
    }
}

/// The words of somebody, as one line of plain characters that is not too long.
pub fn claim(words: &str) -> String {
    plain(words.trim(), MAX_CLAIM)
}

/// What a session does, for the audit.
pub(super) struct Record {
    node: String,
    session: Option<SessionId>,
    pid: i32,
    caller: Caller,
    claimed_by: String,
    claimed_reason: Option<String>,
    began: Instant,
    /// Whom it captures now, and whom it ever did.
    pods: BTreeSet<PodId>,
    ever: BTreeSet<PodId>,
    has_node: bool,
}

impl Record {
    /// That of a session, without a number if it does not begin.
    pub(super) fn new(
        node: &str,
        session: Option<SessionId>,
        pid: i32,
        caller: Caller,
        registration: &Registration,
    ) -> Self {
        let Registration { who, reason, .. } = registration;
        Self {
            node: node.to_owned(),
            session,
            pid,
            caller,
            claimed_by: claim(who),
            claimed_reason: reason.as_deref().map(claim),
            began: Instant::now(),
            pods: BTreeSet::new(),
            ever: BTreeSet::new(),
            has_node: false,
        }
    }

    /// It begins: only if that could be written.
    pub(super) fn start(&self, registration: &Registration) -> io::Result<()> {
        write(&self.line(Event::start(registration)))
    }

    /// It does not begin.
    pub(super) fn refuse(&self, registration: &Registration, why: &str) -> io::Result<()> {
        let asked_for = Some(plain(&registration.what, MAX_EXPRESSION));
        write(&self.line(Event::Refused { asked_for, why: words(why) }))
    }

    /// Something is captured from now on.
    pub(super) fn joined(&mut self, captured: &Captured) -> io::Result<()> {
        match &captured.pod {
            Some(pod) => {
                self.pods.insert(pod.clone());
                self.ever.insert(pod.clone());
            }
            None => self.has_node = true,
        }
        write(&self.line(Event::Joined(&captured.clone().bounded())))
    }

    /// Something that was asked for is not captured, or not any more.
    pub(super) fn denied(&self, what: &str, why: &str) -> io::Result<()> {
        write(&self.line(Event::Denied { what: plain(what, MAX_CLAIM), why: words(why) }))
    }

    /// A pod is captured no more.
    pub(super) fn left(&mut self, pod: &PodId) -> io::Result<()> {
        match self.pods.remove(pod) {
            true => write(&self.line(Event::Left { pod })),
            false => Ok(()),
        }
    }

    /// All is over.
    pub(super) fn end(&self, report: Report, ending: &Ending) -> io::Result<()> {
        write(&self.line(Event::end(report, ending, &self.ever, self.began.elapsed())))
    }

    /// The pods that are captured now.
    pub(super) fn pods(&self) -> &BTreeSet<PodId> {
        &self.pods
    }

    /// The namespaces of all pods that it has captured, and whether it has captured the node.
    pub(super) fn namespaces(&self) -> (BTreeSet<&str>, bool) {
        (self.ever.iter().map(|pod| pod.namespace.as_str()).collect(), self.has_node)
    }

    /// Who asks, in words for people: what the agent knows, and what is a claim.
    pub(super) fn on_whose_behalf(&self) -> String {
        let account = |it: &Account| format!("with the right of account {}/{}, ", it.namespace, it.name);
        let accounts: String = self.caller.accounts.iter().map(account).collect();
        let reason =
            self.claimed_reason.as_deref().map(|reason| format!("; the reason that is given: {reason}"));
        format!("{accounts}by somebody who says to be {}{}", self.claimed_by, reason.unwrap_or_default())
    }

    fn line(&self, event: Event<'_>) -> Vec<u8> {
        let Self { node, session, pid, caller, claimed_by, claimed_reason, .. } = self;
        let line = Line {
            time: now(),
            event,
            node,
            session: session.map(SessionId::number),
            pid: Some(*pid),
            caller,
            claimed_by: Some(claimed_by),
            claimed_reason: claimed_reason.as_deref(),
        };
        line.into_bytes()
    }
}

/// Somebody was not let in at the door: as whom cannot be believed.
pub(super) fn turned_away(node: &str, why: &str) -> io::Result<()> {
    let (caller, event) =
        (Caller { via: Via::Door, ..Caller::exec() }, Event::Refused { asked_for: None, why: words(why) });
    let line = Line {
        time: now(),
        event,
        node,
        session: None,
        pid: None,
        caller: &caller,
        claimed_by: None,
        claimed_reason: None,
    };
    write(&line.into_bytes())
}

fn now() -> String {
    humantime::format_rfc3339_millis(SystemTime::now()).to_string()
}

/// A line: what is the same in all of a session's, and what happened.
#[derive(Serialize)]
struct Line<'a> {
    time: String,
    #[serde(flatten)]
    event: Event<'a>,
    node: &'a str,
    /// None has begun where it was refused.
    session: Option<u64>,
    /// None was started where somebody was not let in.
    pid: Option<i32>,
    #[serde(flatten)]
    caller: &'a Caller,
    claimed_by: Option<&'a str>,
    claimed_reason: Option<&'a str>,
}

impl Line<'_> {
    fn into_bytes(self) -> Vec<u8> {
        let mut line = serde_json::to_vec(&self).expect("plain structures of strings and numbers");
        line.push(b'\n');
        line
    }
}

#[derive(Serialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
enum Event<'a> {
    Start {
        asked_for: String,
        filter: Option<String>,
        snaplen: u32,
        headers: bool,
        buffer_bytes: u64,
        seconds: Option<f64>,
        override_deny: bool,
    },
    Refused {
        asked_for: Option<String>,
        why: String,
    },
    Joined(&'a Captured),
    Left {
        pod: &'a PodId,
    },
    Denied {
        what: String,
        why: String,
    },
    End {
        outcome: Outcome,
        why: String,
        seconds: f64,
        matched: u64,
        delivered: u64,
        dropped: u64,
        /// Neither: beyond what was asked for, delivered as seen at the other end, or behind the cutoff of its flow.
        left_out: u64,
        bytes: u64,
        pods: Vec<&'a PodId>,
        /// Those that are not named here.
        more_pods: usize,
    },
}

impl<'a> Event<'a> {
    fn start(registration: &Registration) -> Self {
        let Registration { what, filter, buffer_bytes, duration, snaplen, headers, override_deny, .. } =
            registration;
        Self::Start {
            asked_for: plain(what, MAX_EXPRESSION),
            filter: filter.as_deref().map(|filter| plain(filter, MAX_EXPRESSION)),
            snaplen: *snaplen,
            headers: *headers,
            buffer_bytes: *buffer_bytes,
            seconds: duration.as_ref().map(Duration::as_secs_f64),
            override_deny: *override_deny,
        }
    }

    fn end(report: Report, ending: &Ending, all: &'a BTreeSet<PodId>, time: Duration) -> Self {
        let Report { matched, delivered, dropped, bytes, .. } = report;
        let left_out = matched.saturating_sub(delivered).saturating_sub(dropped);
        let len = |PodId { namespace, name, uid }: &&PodId| namespace.len() + name.len() + uid.len();
        let pods = first_of(all.iter(), MAX_PODS, len);
        let more_pods = all.len() - pods.len();
        let (outcome, why, seconds) = (ending.outcome, words(&ending.why), time.as_secs_f64());
        Self::End { outcome, why, seconds, matched, delivered, dropped, left_out, bytes, pods, more_pods }
    }
}

/// As many of all as have room in so many bytes; `len` tells how many one takes.
fn first_of<T>(all: impl Iterator<Item = T>, mut room: usize, len: impl Fn(&T) -> usize) -> Vec<T> {
    let has_room = |one: &T| {
        let left = room.checked_sub(len(one));
        room = left.unwrap_or(0);
        left.is_some()
    };
    all.take_while(has_room).collect()
}

/// Why something is not captured, as much as a line has room for.
pub(super) fn words(why: &str) -> String {
    plain(why, MAX_WHY)
}

/// As much of a text as these bytes hold, with nothing in it that a terminal obeys.
fn plain(text: &str, bytes: usize) -> String {
    let shown = sanitize_line(&text[..text.floor_char_boundary(bytes)]);
    match text.len().max(shown.len()) > bytes {
        true => format!("{}...", &shown[..shown.floor_char_boundary(bytes)]),
        false => shown,
    }
}

/// Whole lines, each at once.
fn write(line: &[u8]) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(line)?;
    stdout.flush()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::agent::wire::Remit;

    fn registration() -> Registration {
        Registration {
            who: "ada@laptop".into(),
            what: "shop/web".into(),
            filter: Some("tcp port 80".into()),
            buffer_bytes: 1 << 20,
            duration: Some(Duration::from_secs(90)),
            reason: Some("INC-7".into()),
            snaplen: 96,
            ..Registration::of_this_process()
        }
    }

    fn record(registration: &Registration) -> Record {
        Record::new("n1", None, 7, Caller::exec(), registration)
    }

    fn pod(name: &str) -> PodId {
        PodId { namespace: "shop".into(), name: name.into(), uid: format!("uid-of-{name}") }
    }

    /// What a line says; it must be one.
    fn said(line: &[u8]) -> Value {
        let text = std::str::from_utf8(line).unwrap();
        assert!(text.ends_with('\n') && text.lines().count() == 1, "{text}");
        assert!(text.len() < 16 << 10, "{} bytes", text.len());
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn a_line_says_what_was_found_and_what_is_claimed_apart() {
        let registration = registration();
        let line = said(&record(&registration).line(Event::start(&registration)));
        assert!(line["time"].as_str().unwrap().ends_with('Z'), "{line}");
        let expected = json!({
            "time": line["time"], "event": "start", "node": "n1", "session": null, "pid": 7, "via": "exec",
            "accounts": [], "more_accounts": 0, "claimed_by": "ada@laptop", "claimed_reason": "INC-7", "asked_for": "shop/web", "filter": "tcp port 80", "snaplen": 96,
            "headers": false, "buffer_bytes": 1 << 20, "seconds": 90.0, "override_deny": false,
        });
        assert_eq!(line, expected);
    }

    #[test]
    fn an_end_names_all_that_was_captured_and_how_much_of_it() {
        let mut record = record(&registration());
        for name in ["web-1", "web-0"] {
            let captured =
                Captured { what: format!("shop/{name}"), pod: Some(pod(name)), terms: Terms::default() };
            record.joined(&captured).unwrap();
        }
        record.left(&pod("web-1")).unwrap();
        assert_eq!(record.pods().iter().map(|pod| &*pod.name).collect::<Vec<_>>(), ["web-0"]);
        assert_eq!(record.namespaces(), (BTreeSet::from(["shop"]), false));
        let report = Report { matched: 12, delivered: 7, dropped: 2, bytes: 1000, ..Report::default() };
        let ending = Ending { outcome: Outcome::InputClosed, why: "it was closed".into() };
        let line = said(&record.line(Event::end(report, &ending, &record.ever, Duration::from_millis(1500))));
        let of = |key: &str| line[key].clone();
        assert_eq!(
            [of("matched"), of("delivered"), of("dropped"), of("left_out"), of("bytes")],
            [12, 7, 2, 3, 1000].map(|it| json!(it))
        );
        assert_eq!((of("event"), of("outcome")), (json!("end"), json!("input-closed")));
        assert_eq!((of("seconds"), of("more_pods")), (json!(1.5), json!(0)));
        let of = |name: &str| json!({"namespace": "shop", "name": name, "uid": format!("uid-of-{name}")});
        assert_eq!(line["pods"], json!([of("web-0"), of("web-1")]));
    }

    #[test]
    fn nobodys_words_make_a_line_of_their_own_or_a_long_one() {
        let evil = "x\",\"accounts\":[\"root\"]}\n{\"event\":\"end\"}\r\u{1b}[2J\u{202e}";
        let registration = Registration {
            who: evil.into(),
            reason: Some(format!("{evil}{}", "\u{1}".repeat(100_000))),
            what: "\u{0}".repeat(100_000),
            filter: Some("ü".repeat(50_000)),
            ..registration()
        };
        let line = said(&record(&registration).line(Event::start(&registration)));
        assert_eq!((&line["event"], &line["accounts"]), (&json!("start"), &json!([])));
        for claim in ["claimed_by", "claimed_reason"] {
            let claim = line[claim].as_str().unwrap();
            assert!(claim.starts_with("x\",\"accounts\"") && !claim.contains(char::is_control), "{claim}");
            assert!(!claim.contains('\u{202e}') && claim.len() <= MAX_CLAIM + 3, "{claim}");
        }
    }

    #[test]
    fn a_crowd_of_tokens_is_counted_and_not_all_named() {
        let shown = (0..64).map(|at| Shown {
            account: sniff_kubernetes::Account {
                namespace: format!("{at:063}"),
                name: "sniff-capture".into(),
            },
            id: "x".repeat(1000),
        });
        let remit = Remit { namespaces: BTreeSet::new(), node: false, sniff_namespace: "sniff".into() };
        let caller = Caller::door(&Authority { remit, shown: shown.collect() });
        let registration = Registration { filter: Some("\\".repeat(10_000)), ..registration() };
        let record = Record::new("n1", None, 7, caller, &registration);
        let line = said(&record.line(Event::start(&registration)));
        let named = line["accounts"].as_array().unwrap().len();
        assert!(named >= 8, "{named}");
        assert_eq!(line["more_accounts"], json!(64 - named));
    }

    #[test]
    fn a_crowd_of_pods_is_counted_and_not_all_named() {
        let long = "p".repeat(253);
        let all = (0..1000).map(|at| PodId {
            namespace: format!("ns{at:04}"),
            name: long.clone(),
            uid: "u".repeat(36),
        });
        let all: BTreeSet<PodId> = all.collect();
        let ending = Ending { outcome: Outcome::Stopped, why: "\u{1}".repeat(100_000) };
        let record = record(&registration());
        let line = said(&record.line(Event::end(Report::default(), &ending, &all, Duration::ZERO)));
        let named = line["pods"].as_array().unwrap().len();
        assert!(named >= 10, "{named}");
        assert_eq!(line["more_pods"], json!(1000 - named));
    }
}
