//! Who is recorded, within the node's budget; pure. Times come from whoever asks.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use bytesize::ByteSize;
use sniff_protocol::{
    message::{Recorder, RecorderState, Recordings},
    request::Alarm,
};
use tokio::time::Instant;

use super::wanted::{Refused, Wanted};
use crate::agent::{
    audit::PodId,
    metrics::{Metric, Text},
    wire::{Holding, Remit, Report, Source},
};

/// Memory that a recorder takes besides what it records in: its two processes.
pub(super) const OVERHEAD: u64 = 8 << 20;
/// Pauses before one that failed is tried again: the first and the longest.
const PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// What is said of a recorder that waits for others to end.
const NO_ROOM: &str = "the node's memory for recordings is in use (SNIFF_RECORD_MEMORY)";

/// What is to be done about a recorder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Order {
    /// Have one record this pod.
    Start(Wanted),
    /// Have the one with this number end.
    End(Number),
    /// Tell of a pod that it is not recorded, and why.
    Tell(PodId, String),
}

/// A recorder's number; none is used twice.
pub(super) type Number = u64;

/// A pod that is recorded, or is to be.
#[derive(Debug)]
struct Entry {
    wanted: Wanted,
    state: RecorderState,
    /// The recorder that runs, and its process once that is known.
    number: Option<Number>,
    pid: Option<i32>,
    /// In nanoseconds since the epoch.
    since: Option<u64>,
    last_saved: Option<u64>,
    report: Report,
    /// When its pod was gone.
    ended: Option<Instant>,
    /// How often it failed since it recorded, and when it is tried again.
    failures: u32,
    again: Option<Instant>,
}

impl Entry {
    fn new(wanted: Wanted, state: RecorderState) -> Self {
        Self {
            wanted,
            state,
            number: None,
            pid: None,
            since: None,
            last_saved: None,
            report: Report::default(),
            ended: None,
            failures: 0,
            again: None,
        }
    }

    /// Bytes of the budget that it has.
    fn takes(&self) -> u64 {
        if self.number.is_some() { self.wanted.memory + OVERHEAD } else { 0 }
    }

    fn is_for(&self, remit: Option<&Remit>) -> bool {
        remit.is_none_or(|remit| remit.covers(&self.wanted.pod.namespace))
    }

    /// The pod's namespace and name.
    fn name(&self) -> (&str, &str) {
        (&self.wanted.pod.namespace, &self.wanted.pod.name)
    }

    fn describe(&self) -> Recorder {
        let Wanted { pod: PodId { namespace, name, uid }, memory, by, .. } = self.wanted.clone();
        let Report { matched, dropped, cut_off, held, .. } = self.report;
        let Holding { bytes, oldest, aged_out, aged_out_bytes } = held.unwrap_or_default();
        Recorder {
            namespace,
            pod: name,
            uid,
            by,
            state: self.state.clone(),
            memory,
            held: bytes,
            since: self.since,
            oldest: held.map(|_| oldest),
            matched,
            aged_out,
            aged_out_bytes,
            dropped,
            cut_off,
            last_saved: self.last_saved,
        }
    }
}

/// All of them.
#[derive(Debug)]
pub(super) struct Book {
    budget: u64,
    /// How long what was recorded of a pod that is gone is held at most.
    keep: Duration,
    /// By the pods' UIDs.
    entries: BTreeMap<String, Entry>,
    numbers: Number,
    /// How often a pod was not recorded.
    refused: u64,
}

impl Book {
    /// An empty one.
    pub(super) fn new(budget: u64, keep: Duration) -> Self {
        Self { budget, keep, entries: BTreeMap::new(), numbers: 0, refused: 0 }
    }

    /// Takes in who is to be recorded of the pods that are `there`, and says what is to be done.
    pub(super) fn heed(
        &mut self,
        wanted: &BTreeMap<String, Result<Wanted, Refused>>,
        there: &BTreeSet<String>,
        now: Instant,
    ) -> Vec<Order> {
        let mut orders = Vec::new();
        self.part(wanted, there, now, &mut orders);
        for (uid, wanted) in wanted {
            match wanted {
                Ok(wanted) => self.want(uid, wanted, now, &mut orders),
                Err(Refused { wanted, why }) => self.refuse(uid, wanted, why.clone(), &mut orders),
            }
        }
        orders
    }

    /// Ends those that are not wanted any more. What was recorded of a pod that is gone is held for a while.
    fn part(
        &mut self,
        wanted: &BTreeMap<String, Result<Wanted, Refused>>,
        there: &BTreeSet<String>,
        now: Instant,
        orders: &mut Vec<Order>,
    ) {
        let keep = self.keep;
        self.entries.retain(|uid, entry| {
            let is_there = there.contains(uid);
            if !is_there && entry.state == RecorderState::Recording {
                (entry.state, entry.ended) = (RecorderState::Ended, Some(now));
            }
            let is_held = entry.ended.is_some_and(|ended| now < ended + keep);
            let stays = match wanted.get(uid) {
                Some(Ok(wanted)) => entry.number.is_none() || wanted.is_as(&entry.wanted),
                Some(Err(_)) => entry.number.is_none(),
                None => !is_there && is_held,
            };
            if !stays {
                orders.extend(entry.number.map(Order::End));
            }
            stays
        });
    }

    fn want(&mut self, uid: &str, wanted: &Wanted, now: Instant, orders: &mut Vec<Order>) {
        if let Some(entry) = self.entries.get_mut(uid) {
            entry.wanted.labels.clone_from(&wanted.labels);
            if entry.number.is_some() || entry.again.is_some_and(|again| now < again) {
                return;
            }
            entry.again = None;
        }
        if !self.make_room(wanted.memory + OVERHEAD, orders) {
            let left = ByteSize(self.budget.saturating_sub(self.used()));
            let why = format!("{NO_ROOM}: {left} of {} are left", ByteSize(self.budget));
            return self.refuse(uid, wanted, why, orders);
        }
        self.numbers += 1;
        let entry = self.entries.entry(uid.to_owned());
        let entry = entry.or_insert_with(|| Entry::new(wanted.clone(), RecorderState::Starting));
        entry.wanted = wanted.clone();
        entry.number = Some(self.numbers);
        if entry.failures == 0 {
            entry.state = RecorderState::Starting;
        }
        orders.push(Order::Start(wanted.clone()));
    }

    /// Has recorders of pods that are gone end, those that went first, until there is room.
    fn make_room(&mut self, bytes: u64, orders: &mut Vec<Order>) -> bool {
        if bytes > self.budget {
            return false;
        }
        while self.used() + bytes > self.budget {
            let gone = self.entries.iter().filter_map(|(uid, it)| Some((it.ended?, uid))).min();
            let Some(uid) = gone.map(|(_, uid)| uid.clone()) else { return false };
            let number = self.entries.remove(&uid).and_then(|entry| entry.number);
            orders.extend(number.map(Order::End));
        }
        true
    }

    /// Notes that a pod is not recorded; it is told when that is news.
    fn refuse(&mut self, uid: &str, wanted: &Wanted, why: String, orders: &mut Vec<Order>) {
        let entry = self.entries.entry(uid.to_owned());
        let entry = entry.or_insert_with(|| Entry::new(wanted.clone(), RecorderState::Starting));
        if !matches!(entry.state, RecorderState::Refused(_)) {
            self.refused += 1;
            orders.push(Order::Tell(wanted.pod.clone(), why.clone()));
        }
        entry.state = RecorderState::Refused(why);
    }

    /// The number of the recorder of a pod.
    pub(super) fn number(&self, uid: &str) -> Option<Number> {
        self.entries.get(uid)?.number
    }

    fn of(&mut self, number: Number) -> Option<&mut Entry> {
        self.entries.values_mut().find(|entry| entry.number == Some(number))
    }

    /// Notes the process of a recorder.
    pub(super) fn runs(&mut self, number: Number, pid: i32) {
        if let Some(entry) = self.of(number) {
            entry.pid = Some(pid);
        }
    }

    /// Notes that a recorder records since `since`, in nanoseconds since the epoch.
    pub(super) fn records(&mut self, number: Number, since: u64) {
        if let Some(entry) = self.of(number)
            && entry.ended.is_none()
        {
            (entry.state, entry.failures) = (RecorderState::Recording, 0);
            entry.since.get_or_insert(since);
        }
    }

    /// Notes that a recorder has ended by itself; what it held is gone. It is tried again after a pause.
    pub(super) fn failed(&mut self, number: Number, why: String, now: Instant) -> Vec<Order> {
        let mut orders = Vec::new();
        let found = self.entries.iter().find(|(_, entry)| entry.number == Some(number));
        let Some(uid) = found.map(|(uid, _)| uid.clone()) else { return orders };
        let Some(entry) = self.entries.get_mut(&uid) else { return orders };
        if entry.ended.is_some() {
            self.entries.remove(&uid);
            return orders;
        }
        let pause = PAUSE.saturating_mul(1 << entry.failures.min(16)).min(LONGEST_PAUSE);
        entry.failures += 1;
        (entry.number, entry.pid, entry.since, entry.report) = (None, None, None, Report::default());
        entry.again = Some(now + pause);
        let wanted = entry.wanted.clone();
        self.refuse(&uid, &wanted, why, &mut orders);
        orders
    }

    /// When something is to be heeded again, though nobody says so.
    pub(super) fn next(&self) -> Option<Instant> {
        let again = self.entries.values().filter_map(|entry| entry.again);
        let gone = self.entries.values().filter_map(|entry| Some(entry.ended? + self.keep));
        again.chain(gone).min()
    }

    /// Takes in what a recorder's process reports.
    pub(super) fn report(&mut self, pid: i32, report: &Report) {
        if let Some(entry) = self.entries.values_mut().find(|entry| entry.pid == Some(pid)) {
            entry.report = Report { held: report.held.or(entry.report.held), ..*report };
        }
    }

    /// The pod that this process records, and what has it saved at once.
    pub(super) fn alarm(&self, pid: i32) -> Option<(PodId, Alarm)> {
        let Wanted { pod, alarm, .. } = &self.entries.values().find(|entry| entry.pid == Some(pid))?.wanted;
        Some((pod.clone(), alarm.clone()?))
    }

    /// Notes that what is held of a pod was saved, in nanoseconds since the epoch.
    pub(super) fn saved(&mut self, uid: &str, time: u64) {
        if let Some(entry) = self.entries.get_mut(uid) {
            entry.last_saved = Some(time);
        }
    }

    /// The process that records a pod, which has begun to, or did until the pod was gone; and how many bytes it
    /// holds, as it said last.
    pub(super) fn process(&self, uid: &str) -> Option<(i32, u64)> {
        let entry = self.entries.get(uid)?;
        let holds = matches!(entry.state, RecorderState::Recording | RecorderState::Ended);
        let held = entry.report.held.unwrap_or_default().bytes;
        Some((entry.pid.filter(|_| holds)?, held))
    }

    /// Whether this pod is recorded: one of its UID that is in another namespace, or has another name, is none.
    pub(super) fn has(&self, pod: &PodId) -> bool {
        self.entries.get(&pod.uid).is_some_and(|entry| entry.wanted.pod == *pod)
    }

    /// The pod of this name that is recorded; of several, one that has not ended.
    pub(super) fn called(&self, namespace: &str, name: &str) -> Option<PodId> {
        self.by_name().get(&(namespace, name)).map(|entry| entry.wanted.pod.clone())
    }

    /// One entry of each namespace and name: of several, one that has not ended, or else the last that has.
    fn by_name(&self) -> BTreeMap<(&str, &str), &Entry> {
        let mut entries: Vec<&Entry> = self.entries.values().collect();
        entries.sort_by_key(|entry| (entry.ended.is_none(), entry.ended));
        // Of one name, the last is taken.
        entries.into_iter().map(|entry| (entry.name(), entry)).collect()
    }

    /// What whoever has this remit may know.
    pub(super) fn recordings(&self, remit: Option<&Remit>) -> Recordings {
        let mine = self.entries.values().filter(|entry| entry.is_for(remit));
        Recordings {
            budget: Some(self.budget),
            used: self.used(),
            recorders: mine.map(Entry::describe).collect(),
            ..Recordings::default()
        }
    }

    /// The recorders that whoever has this remit may ask for what they hold.
    pub(super) fn sources(&self, remit: Option<&Remit>) -> Vec<Source> {
        let mine = self.entries.iter().filter(|(_, entry)| entry.is_for(remit));
        let source = |(uid, entry): (&String, &Entry)| {
            let Wanted { pod, labels, .. } = entry.wanted.clone();
            Some(Source { pid: self.process(uid)?.0, pod, labels })
        };
        mine.filter_map(source).collect()
    }

    /// Bytes of the budget that recorders have.
    fn used(&self) -> u64 {
        self.entries.values().map(Entry::takes).sum()
    }

    /// All in Prometheus' text format.
    pub(super) fn metrics(&self, now_ns: u64) -> String {
        let mut text = Text::default();
        text.gauge("sniff_record_budget_bytes", "Memory that recorders may have.").sample(&[], self.budget);
        text.gauge("sniff_record_used_bytes", "Memory that recorders have.").sample(&[], self.used());
        text.counter("sniff_record_refused_total", "Times that a pod was not recorded.")
            .sample(&[], self.refused);
        let named = self.by_name();
        let each = |mut metric: Metric<'_>, value: fn(&Entry, u64) -> Option<u64>| {
            for ((namespace, pod), entry) in &named {
                if let Some(value) = value(entry, now_ns) {
                    metric.sample(&[("namespace", namespace), ("pod", pod)], value);
                }
            }
        };
        each(
            text.gauge(
                "sniff_recorder_alive",
                "Whether a pod that is to be recorded is, or was until it ended.",
            ),
            |entry, _| {
                Some(u64::from(matches!(entry.state, RecorderState::Recording | RecorderState::Ended)))
            },
        );
        each(text.gauge("sniff_recorder_held_bytes", "Packets that are held."), |entry, _| {
            Some(entry.report.held?.bytes)
        });
        each(text.gauge("sniff_recorder_window_seconds", "How far back what is held goes."), |entry, now| {
            Some(now.saturating_sub(entry.report.held?.oldest) / 1_000_000_000)
        });
        each(text.counter("sniff_recorder_matched_packets_total", "Packets that matched."), |entry, _| {
            Some(entry.report.matched)
        });
        each(
            text.counter("sniff_recorder_aged_out_packets_total", "Packets that are not held any more."),
            |entry, _| Some(entry.report.held?.aged_out),
        );
        each(text.counter("sniff_recorder_dropped_packets_total", "Packets that were lost."), |entry, _| {
            Some(entry.report.dropped)
        });
        each(
            text.counter(
                "sniff_recorder_cut_off_packets_total",
                "Packets left out behind the cutoff of their flow.",
            ),
            |entry, _| Some(entry.report.cut_off),
        );
        each(
            text.gauge(
                "sniff_recorder_last_saved_seconds",
                "When a trigger last had it saved, in seconds since 1970.",
            ),
            |entry, _| Some(entry.last_saved? / 1_000_000_000),
        );
        text.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEEP: Duration = Duration::from_secs(600);
    const MIB: u64 = 1 << 20;

    fn wanted(name: &str, mib: u64) -> Wanted {
        let pod = PodId { namespace: "shop".into(), name: name.into(), uid: format!("uid-{name}") };
        Wanted { memory: mib * MIB, ..Wanted::of(pod, "a test") }
    }

    /// A book with a budget, and the pods that are there and wanted.
    struct Trial {
        book: Book,
        now: Instant,
        wanted: BTreeMap<String, Result<Wanted, Refused>>,
        there: BTreeSet<String>,
    }

    impl Trial {
        fn new(budget: u64) -> Self {
            let book = Book::new(budget * MIB, KEEP);
            Self { book, now: Instant::now(), wanted: BTreeMap::new(), there: BTreeSet::new() }
        }

        fn want(&mut self, wanted: Wanted) -> Vec<String> {
            self.there.insert(wanted.pod.uid.clone());
            self.wanted.insert(wanted.pod.uid.clone(), Ok(wanted));
            self.heed()
        }

        fn heed(&mut self) -> Vec<String> {
            let orders = self.book.heed(&self.wanted, &self.there, self.now);
            let numbers: Vec<Number> = self.book.entries.values().filter_map(|it| it.number).collect();
            let in_words = orders.into_iter().map(|order| match order {
                Order::Start(wanted) => format!("start {}", wanted.pod.name),
                Order::End(number) => {
                    assert!(!numbers.contains(&number));
                    "end".to_owned()
                }
                Order::Tell(pod, why) => format!("{}: {why}", pod.name),
            });
            assert!(self.book.used() <= self.book.budget);
            in_words.collect()
        }

        fn leave(&mut self, name: &str) -> Vec<String> {
            self.there.remove(&format!("uid-{name}"));
            self.wanted.remove(&format!("uid-{name}"));
            self.heed()
        }

        fn records(&mut self, name: &str) {
            let uid = format!("uid-{name}");
            let number = self.book.number(&uid).unwrap();
            self.book.runs(number, 100 + number as i32);
            self.book.records(number, 5);
        }

        fn state(&self, name: &str) -> RecorderState {
            self.book.entries[&format!("uid-{name}")].state.clone()
        }
    }

    #[test]
    fn a_pod_is_known_by_its_namespace_name_and_uid_together() {
        let mut trial = Trial::new(100);
        let wanted = wanted("a", 32);
        trial.want(wanted.clone());
        let pod = wanted.pod;
        assert!(trial.book.has(&pod));
        assert!(!trial.book.has(&PodId { namespace: "evil".into(), ..pod.clone() }));
        assert!(!trial.book.has(&PodId { name: "b".into(), ..pod.clone() }));
        assert!(!trial.book.has(&PodId { uid: "uid-b".into(), ..pod }));
    }

    #[test]
    fn pods_are_recorded_as_long_as_there_is_room_and_who_is_not_is_told_once() {
        let mut trial = Trial::new(100);
        assert_eq!(trial.want(wanted("a", 32)), ["start a"]);
        assert_eq!(trial.want(wanted("b", 32)), ["start b"]);
        assert_eq!(trial.want(wanted("c", 32)).len(), 1);
        assert!(
            matches!(trial.state("c"), RecorderState::Refused(why) if why.contains("20.0 MiB of 100.0 MiB"))
        );
        assert_eq!(trial.heed(), [""; 0]);
        // One that is not wanted any more makes room.
        trial.wanted.remove("uid-a");
        assert_eq!(trial.heed(), ["end", "start c"]);
    }

    #[test]
    fn what_was_recorded_of_a_pod_that_is_gone_is_held_until_it_is_old_or_the_room_is_needed() {
        let mut trial = Trial::new(100);
        for name in ["a", "b"] {
            trial.want(wanted(name, 32));
            trial.records(name);
        }
        assert_eq!(trial.leave("a"), [""; 0]);
        assert_eq!(trial.state("a"), RecorderState::Ended);
        assert_eq!(trial.book.sources(None).len(), 2);
        trial.now += Duration::from_secs(1);
        trial.leave("b");
        assert_eq!(trial.want(wanted("c", 32)), ["end", "start c"]);
        assert!(!trial.book.entries.contains_key("uid-a"));
        assert_eq!(trial.book.next(), Some(trial.now + KEEP));
        trial.now += KEEP;
        assert_eq!(trial.heed(), ["end"]);
        assert_eq!(trial.book.entries.len(), 1);
    }

    #[test]
    fn another_wish_for_a_pod_is_another_recorder() {
        let mut trial = Trial::new(100);
        trial.want(wanted("a", 32));
        assert_eq!(trial.want(wanted("a", 32)), [""; 0]);
        assert_eq!(trial.want(wanted("a", 64)), ["end", "start a"]);
        assert_eq!(trial.want(Wanted { filter: Some("tcp".into()), ..wanted("a", 64) }), ["end", "start a"]);
    }

    #[test]
    fn a_recorder_that_fails_is_tried_again_after_pauses_that_grow() {
        let mut trial = Trial::new(100);
        trial.want(wanted("a", 32));
        for pause in [1, 2, 4] {
            let number = trial.book.number("uid-a").unwrap();
            let told = trial.book.failed(number, "it broke".to_owned(), trial.now);
            assert_eq!(told.len(), usize::from(pause == 1));
            assert_eq!((trial.book.used(), trial.heed().len()), (0, 0));
            trial.now += Duration::from_secs(pause);
            assert_eq!(trial.heed(), ["start a"]);
            assert_eq!(trial.state("a"), RecorderState::Refused("it broke".to_owned()));
        }
        trial.records("a");
        assert_eq!(trial.state("a"), RecorderState::Recording);
    }

    #[test]
    fn nobody_hears_of_pods_of_a_namespace_that_they_may_not_capture() {
        let mut trial = Trial::new(100);
        trial.want(wanted("a", 32));
        trial.records("a");
        let remit = |namespaces: &[&str], node| Remit {
            namespaces: namespaces.iter().map(|&it| it.to_owned()).collect(),
            node,
            sniff_namespace: "sniff".into(),
        };
        for (remit, count) in [
            (None, 1),
            (Some(remit(&["shop"], false)), 1),
            (Some(remit(&["bank"], false)), 0),
            (Some(remit(&[], false)), 0),
            (Some(remit(&[], true)), 1),
        ] {
            assert_eq!(trial.book.sources(remit.as_ref()).len(), count);
            assert_eq!(trial.book.recordings(remit.as_ref()).recorders.len(), count);
        }
    }

    #[test]
    fn what_is_reported_is_told_and_measured() {
        let mut trial = Trial::new(100);
        trial.want(wanted("a", 32));
        trial.records("a");
        let held = Holding { bytes: 7, oldest: 3_000_000_000, aged_out: 4, aged_out_bytes: 5 };
        let (pid, _) = trial.book.process("uid-a").unwrap();
        trial.book.report(
            pid,
            &Report { matched: 9, dropped: 1, cut_off: 2, held: Some(held), ..Report::default() },
        );
        trial.book.saved("uid-a", 8_000_000_000);
        let [told] = &trial.book.recordings(None).recorders[..] else { panic!("not one") };
        assert_eq!((told.held, told.oldest, told.matched, told.aged_out), (7, Some(3_000_000_000), 9, 4));
        let metrics = trial.book.metrics(10_000_000_000);
        let of = |name: &str| metrics.lines().find_map(|line| line.strip_prefix(name)?.rsplit(' ').next());
        assert_eq!(of("sniff_recorder_window_seconds{"), Some("7"));
        assert_eq!(of("sniff_recorder_cut_off_packets_total{"), Some("2"));
        assert_eq!(of("sniff_recorder_alive{namespace=\"shop\",pod=\"a\"}"), Some("1"));
        assert_eq!(of("sniff_recorder_last_saved_seconds{"), Some("8"));
        assert_eq!(of("sniff_record_used_bytes "), Some("41943040"));
    }

    #[test]
    fn of_pods_of_one_name_one_is_measured_and_meant_by_alerts() {
        let mut trial = Trial::new(200);
        for (matched, suffix) in (1..).zip(["2", "1", "3"]) {
            let mut wanted = wanted(suffix, 32);
            wanted.pod.name = "a".to_owned();
            let uid = wanted.pod.uid.clone();
            trial.want(wanted);
            trial.records(suffix);
            let (pid, _) = trial.book.process(&uid).unwrap();
            trial.book.report(pid, &Report { matched, ..Report::default() });
            for is_there in [true, false] {
                if !is_there {
                    trial.leave(suffix);
                }
                let metrics = trial.book.metrics(0);
                let series = metrics.lines().filter(|line| line.contains("_matched_packets_total{"));
                let expected =
                    format!("sniff_recorder_matched_packets_total{{namespace=\"shop\",pod=\"a\"}} {matched}");
                assert_eq!(series.collect::<Vec<_>>(), [expected]);
                assert_eq!(trial.book.called("shop", "a").unwrap().uid, uid);
            }
            trial.now += Duration::from_secs(1);
        }
    }
}
