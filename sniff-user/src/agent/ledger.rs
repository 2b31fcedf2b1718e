//! The agent's book of sessions: who may begin, who must end, and the sums for `/metrics`.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    time::Duration,
};

use bytesize::ByteSize;
use tokio::sync::watch;

use super::{
    audit::Outcome,
    metrics::Text,
    wire::{Granted, Kind, Registration, Report},
};

/// Most namespaces that ends are counted for apart: each is a series of its own.
const MAX_NAMESPACES: usize = 200;
/// What stands for sessions beyond them, for those that captured the node, and for those that captured nothing. No namespace
/// can be called so.
const OF_OTHERS: &str = "_others";
const OF_NODE: &str = "_node";
const OF_NOBODY: &str = "_none";

/// What the sessions of a node may take.
#[derive(Clone, Copy, Debug, clap::Args)]
pub struct Limits {
    /// Most sessions at a time
    #[arg(long, value_name = "N", env = "SNIFF_MAX_SESSIONS", default_value_t = 8, help_heading = "Limits")]
    pub max_sessions: u32,

    /// Most memory of all sessions' buffers together
    #[arg(
        long,
        value_name = "SIZE",
        env = "SNIFF_MAX_MEMORY",
        default_value = "512MiB",
        help_heading = "Limits"
    )]
    pub max_memory: ByteSize,

    /// Most bytes that one session may send (default: any number)
    #[arg(long, value_name = "SIZE", env = "SNIFF_MAX_BYTES", help_heading = "Limits")]
    pub max_bytes: Option<ByteSize>,

    /// Longest time that a session may last
    #[arg(long, value_name = "TIME", env = "SNIFF_MAX_DURATION", default_value = "24h",
        value_parser = sniff_cli::options::duration, help_heading = "Limits")]
    pub max_duration: Duration,
}

/// A session's number; none is used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct SessionId(u64);

impl SessionId {
    pub(super) fn number(self) -> u64 {
        self.0
    }
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A session that runs.
#[derive(Debug)]
struct Entry {
    kind: Kind,
    who: String,
    pid: i32,
    buffer_bytes: u64,
    report: Report,
}

#[derive(Debug)]
pub(super) struct Ledger {
    limits: Limits,
    sessions: BTreeMap<SessionId, Entry>,
    started: u64,
    refused: u64,
    cut_short: u64,
    /// Of all sessions, those that have ended included.
    sum: Report,
    /// How many have ended, by namespace and outcome.
    ended: BTreeMap<String, BTreeMap<Outcome, u64>>,
    count: watch::Sender<usize>,
}

impl Ledger {
    /// An empty one.
    pub(super) fn new(limits: Limits) -> Self {
        Self {
            limits,
            sessions: BTreeMap::new(),
            started: 0,
            refused: 0,
            cut_short: 0,
            sum: Report::default(),
            ended: BTreeMap::new(),
            count: watch::Sender::new(0),
        }
    }

    /// How many sessions run, and every change of that.
    pub(super) fn changes(&self) -> watch::Receiver<usize> {
        self.count.subscribe()
    }

    /// Lets a session begin; the error says which limit is in the way.
    pub(super) fn admit(
        &mut self,
        pid: i32,
        registration: &Registration,
    ) -> Result<(SessionId, Granted), String> {
        // What recorders take has its own budget.
        let is_recorder = registration.kind == Kind::Recorder;
        if let Some(why) = self.objection(registration).filter(|_| !is_recorder) {
            self.refused += 1;
            return Err(why);
        }
        let Registration { kind, who, buffer_bytes, duration, .. } = registration;
        let id = SessionId(self.started);
        self.started += 1;
        let (kind, buffer_bytes, report) = (*kind, *buffer_bytes, Report::default());
        self.sessions.insert(id, Entry { kind, who: who.clone(), pid, buffer_bytes, report });
        self.count.send_replace(self.captures().count());
        let limit = self.limits.max_duration;
        let note = (*duration > Some(limit)).then(|| {
            format!("this node ends captures after {} (--max-duration)", humantime::format_duration(limit))
        });
        Ok((id, Granted { limit: (!is_recorder).then_some(limit), note, policy: None, remit: None }))
    }

    fn objection(&self, registration: &Registration) -> Option<String> {
        let Limits { max_sessions, max_memory, .. } = self.limits;
        let count = self.captures().count();
        if count >= max_sessions as usize {
            return Some(format!(
                "{count} capture(s) run on this node, and {max_sessions} may (--max-sessions): {}",
                self.who()
            ));
        }
        let used: u64 = self.captures().map(|session| session.buffer_bytes).sum();
        let wanted = registration.buffer_bytes;
        (used.saturating_add(wanted) > max_memory.as_u64()).then(|| {
            format!(
                "a buffer of {} is more than is left of the {max_memory} for captures on this node (--max-memory): {} \
                 in use; ask for a smaller one with --buffer-size",
                ByteSize(wanted),
                ByteSize(used)
            )
        })
    }

    /// Whose sessions run.
    fn who(&self) -> String {
        let one = |session: &Entry| format!("{} (process {})", session.who, session.pid);
        self.captures().map(one).collect::<Vec<_>>().join(", ")
    }

    /// The sessions that somebody else holds.
    fn captures(&self) -> impl Iterator<Item = &Entry> {
        self.sessions.values().filter(|session| session.kind != Kind::Recorder)
    }

    /// Takes a session's report; the error says why it must end.
    pub(super) fn report(&mut self, id: SessionId, report: &Report) -> Result<(), String> {
        let Some(session) = self.sessions.get_mut(&id) else {
            return Ok(());
        };
        let before = std::mem::replace(&mut session.report, *report);
        let Report { matched, delivered, dropped, cut_off, bytes, .. } = &mut self.sum;
        // A session is not trusted to count upwards.
        *matched += report.matched.saturating_sub(before.matched);
        *delivered += report.delivered.saturating_sub(before.delivered);
        *dropped += report.dropped.saturating_sub(before.dropped);
        *cut_off += report.cut_off.saturating_sub(before.cut_off);
        *bytes += report.bytes.saturating_sub(before.bytes);
        match self.limits.max_bytes {
            Some(limit) if report.bytes > limit.as_u64() => {
                Err(format!("a capture on this node may send {limit} (--max-bytes)"))
            }
            _ => Ok(()),
        }
    }

    /// Notes that a session was told to end.
    pub(super) fn cut_short(&mut self) {
        self.cut_short += 1;
    }

    /// Notes that a session has ended; returns what it reported last.
    pub(super) fn leave(&mut self, id: SessionId) -> Report {
        let session = self.sessions.remove(&id);
        self.count.send_replace(self.captures().count());
        session.map(|session| session.report).unwrap_or_default()
    }

    /// Counts how a session has ended that has captured pods of these namespaces, or the node itself: once in each.
    pub(super) fn count_end(&mut self, (namespaces, has_node): (BTreeSet<&str>, bool), outcome: Outcome) {
        let node = has_node.then_some(OF_NODE);
        let nobody = (namespaces.is_empty() && !has_node).then_some(OF_NOBODY);
        for namespace in namespaces.into_iter().chain(node).chain(nobody) {
            let has_room = self.ended.contains_key(namespace) || self.ended.len() < MAX_NAMESPACES;
            let namespace = if has_room { namespace } else { OF_OTHERS };
            *self.ended.entry(namespace.to_owned()).or_default().entry(outcome).or_default() += 1;
        }
    }

    /// All in Prometheus' text format.
    pub(super) fn metrics(&self) -> String {
        let buffers: u64 = self.captures().map(|session| session.buffer_bytes).sum();
        let Report { matched, delivered, dropped, cut_off, bytes, .. } = self.sum;
        let mut text = Text::default();
        text.gauge("sniff_sessions", "Captures that run.").sample(&[], self.captures().count() as u64);
        text.counter("sniff_sessions_started_total", "Captures that were begun.").sample(&[], self.started);
        text.counter("sniff_sessions_refused_total", "Captures that a limit refused.")
            .sample(&[], self.refused);
        text.counter("sniff_sessions_cut_short_total", "Captures that were told to end.")
            .sample(&[], self.cut_short);
        text.gauge("sniff_buffer_bytes", "Memory of the captures' buffers.").sample(&[], buffers);
        text.counter("sniff_packets_matched_total", "Packets that matched a filter.").sample(&[], matched);
        text.counter("sniff_packets_delivered_total", "Packets that were sent to clients.")
            .sample(&[], delivered);
        text.counter("sniff_packets_dropped_total", "Packets that were lost.").sample(&[], dropped);
        text.counter("sniff_packets_cut_off_total", "Packets left out behind the cutoff of their flow.")
            .sample(&[], cut_off);
        text.counter("sniff_sent_bytes_total", "Bytes that were sent to clients.").sample(&[], bytes);
        if !self.ended.is_empty() {
            self.measure_ends(&mut text);
        }
        text.finish()
    }

    fn measure_ends(&self, text: &mut Text) {
        let help = "Captures that have ended; once for each namespace they had pods of.";
        let mut metric = text.counter("sniff_sessions_ended_total", help);
        for (namespace, ends) in &self.ended {
            for (outcome, count) in ends {
                // In quotes, as a string in JSON is.
                let outcome = serde_json::to_string(outcome).expect("a word");
                let labels = [("namespace", namespace.as_str()), ("outcome", outcome.trim_matches('"'))];
                metric.sample(&labels, *count);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn ledger() -> Ledger {
        Ledger::new(Limits {
            max_sessions: 2,
            max_memory: ByteSize::mib(100),
            max_bytes: Some(ByteSize::kib(1)),
            max_duration: Duration::from_secs(60),
        })
    }

    fn registration(mib: u64, duration: Option<u64>) -> Registration {
        let duration = duration.map(Duration::from_secs);
        Registration {
            who: "ada@laptop".to_owned(),
            what: "shop/web".to_owned(),
            buffer_bytes: mib << 20,
            duration,
            ..Registration::of_this_process()
        }
    }

    #[test]
    fn sessions_and_their_memory_are_limited_and_given_back() {
        let mut ledger = ledger();
        let (first, _) = ledger.admit(7, &registration(64, None)).unwrap();
        let why = ledger.admit(8, &registration(64, None)).unwrap_err();
        assert!(why.contains("64.0 MiB is more than is left of the 100.0 MiB"), "{why}");
        let (second, _) = ledger.admit(8, &registration(32, None)).unwrap();
        assert_ne!(first, second);
        let why = ledger.admit(9, &registration(1, None)).unwrap_err();
        assert!(why.contains("ada@laptop (process 7), ada@laptop (process 8)"), "{why}");
        ledger.leave(first);
        ledger.admit(9, &registration(64, None)).unwrap();
        assert!(ledger.admit(9, &registration(u64::MAX >> 20, None)).is_err());
        assert!(ledger.metrics().contains("\nsniff_sessions_refused_total 3\n"));
    }

    #[test]
    fn whoever_wants_more_time_than_there_is_gets_a_note() {
        let mut ledger = ledger();
        let (_, granted) = ledger.admit(7, &registration(1, Some(61))).unwrap();
        assert_eq!(granted.note.unwrap(), "this node ends captures after 1m (--max-duration)");
        let (_, granted) = ledger.admit(7, &registration(1, None)).unwrap();
        assert_eq!((granted.note, granted.limit), (None, Some(Duration::from_secs(60))));
    }

    #[test]
    fn reports_add_up_over_sessions_and_too_many_bytes_end_one() {
        let mut ledger = ledger();
        let (first, _) = ledger.admit(7, &registration(1, None)).unwrap();
        let (second, _) = ledger.admit(8, &registration(1, None)).unwrap();
        let report = |delivered, bytes| Report {
            matched: delivered + 1,
            delivered,
            dropped: 1,
            bytes,
            ..Report::default()
        };
        ledger.report(first, &report(10, 100)).unwrap();
        ledger.report(first, &report(15, 1000)).unwrap();
        ledger.leave(first);
        ledger.report(second, &report(5, 24)).unwrap();
        ledger.report(second, &report(1, 24)).unwrap();
        let why = ledger.report(second, &report(7, 1025)).unwrap_err();
        assert!(why.contains("1.0 KiB"), "{why}");
        let metrics = ledger.metrics();
        for line in ["sniff_sessions 1", "sniff_packets_dropped_total 2", "sniff_sent_bytes_total 2025"] {
            assert!(metrics.lines().any(|it| it == line), "{line} in {metrics}");
        }
    }

    #[test]
    fn ends_are_counted_by_namespace_and_outcome_for_so_many_namespaces() {
        let mut ledger = ledger();
        ledger.count_end((BTreeSet::from(["shop", "tools"]), false), Outcome::InputClosed);
        ledger.count_end((BTreeSet::from(["shop"]), true), Outcome::InputClosed);
        ledger.count_end((BTreeSet::new(), false), Outcome::Failed);
        let metrics = ledger.metrics();
        for line in [
            "sniff_sessions_ended_total{namespace=\"shop\",outcome=\"input-closed\"} 2",
            "sniff_sessions_ended_total{namespace=\"tools\",outcome=\"input-closed\"} 1",
            "sniff_sessions_ended_total{namespace=\"_node\",outcome=\"input-closed\"} 1",
            "sniff_sessions_ended_total{namespace=\"_none\",outcome=\"failed\"} 1",
        ] {
            assert!(metrics.lines().any(|it| it == line), "{line} in {metrics}");
        }
        let many: Vec<String> = (0..1000).map(|at| format!("ns{at}")).collect();
        ledger.count_end((many.iter().map(String::as_str).collect(), false), Outcome::Stopped);
        ledger.count_end((BTreeSet::from(["shop"]), false), Outcome::InputClosed);
        let metrics = ledger.metrics();
        let series = metrics.lines().filter(|line| line.starts_with("sniff_sessions_ended_total{"));
        assert_eq!(series.count(), MAX_NAMESPACES + 1);
        let others = "sniff_sessions_ended_total{namespace=\"_others\",outcome=\"stopped\"} 804";
        assert!(metrics.lines().any(|it| it == others), "{metrics}");
        assert!(metrics.contains("{namespace=\"shop\",outcome=\"input-closed\"} 3\n"), "{metrics}");
    }

    #[test]
    fn metrics_are_lines_of_help_type_and_value() {
        let metrics = ledger().metrics();
        for lines in metrics.lines().collect::<Vec<_>>().chunks(3) {
            let [help, kind, value] = lines else { panic!("{lines:?}") };
            let name = value.split(' ').next().unwrap();
            assert!(help.starts_with(&format!("# HELP {name} ")) && help.ends_with('.'), "{help}");
            assert!(kind.starts_with(&format!("# TYPE {name} ")), "{kind}");
            assert_eq!(kind.ends_with(" counter"), name.ends_with("_total"), "{kind}");
        }
    }
}
