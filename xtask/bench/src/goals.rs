//! What sniff is meant to reach, beside what it reached.

use serde::Serialize;

use crate::{
    scenario::RECORDED_A_SECOND,
    summary::{MedianCost, Summary, find},
    tools::{DUMPCAP, TCPDUMP, TCPDUMP_IMMEDIATE},
};

/// What a goal that is checked may be missed by: a run is never quite like the one before.
const TOLERANCE: f64 = 0.1;

/// One goal.
#[derive(Debug, Serialize)]
pub struct Goal {
    /// The build of sniff that it is for.
    pub tool: String,
    /// What is measured.
    pub measure: String,
    /// Where the value is to be.
    pub bound: Bound,
    /// What comes after the bound is met.
    pub next: Option<f64>,
    /// The value, where the run has what it takes.
    pub value: Option<f64>,
}

/// Where a value is to be.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Bound {
    /// This or less.
    AtMost(f64),
    /// This or more.
    AtLeast(f64),
    /// This and no other: no noise excuses another one.
    Exactly(f64),
}

impl Bound {
    /// By what part of the bound `value` is on the wrong side of it; 0 when it is on the right one.
    fn missed_by(self, value: f64) -> f64 {
        match self {
            Self::AtMost(most) => (value / most - 1.0).max(0.0),
            Self::AtLeast(least) => (1.0 - value / least).max(0.0),
            Self::Exactly(wanted) if value == wanted => 0.0,
            Self::Exactly(_) => f64::INFINITY,
        }
    }

    fn with(self, value: f64) -> Self {
        match self {
            Self::AtMost(_) => Self::AtMost(value),
            Self::AtLeast(_) => Self::AtLeast(value),
            Self::Exactly(_) => Self::Exactly(value),
        }
    }
}

impl Goal {
    /// Whether the value misses its bound by more than noise explains.
    pub fn is_missed(&self) -> bool {
        self.value.is_some_and(|value| self.bound.missed_by(value) > TOLERANCE)
    }

    /// The outcome in words.
    pub fn verdict(&self) -> String {
        let Some(value) = self.value else { return "not measured".into() };
        match self.bound.missed_by(value) {
            0.0 => match self.next {
                Some(next) if self.bound.with(next).missed_by(value) == 0.0 => "met, the next too".into(),
                _ => "met".into(),
            },
            by if by.is_finite() => format!("missed by {:.0} %", by * 100.0),
            _ => "missed".into(),
        }
    }
}

/// The goals of a build of sniff, against the figures of one run.
///
/// `write_bytes_per_s` is what a second of CPU time can write on the machine.
pub fn goals(sniff: &str, summaries: &[Summary], write_bytes_per_s: Option<f64>) -> Vec<Goal> {
    Goals { sniff, summaries, list: Vec::new() }.all(write_bytes_per_s)
}

struct Goals<'run> {
    sniff: &'run str,
    summaries: &'run [Summary],
    list: Vec<Goal>,
}

type Figure = (&'static str, fn(&MedianCost) -> f64);
const TOTAL: Figure = ("total CPU a packet", |cost| cost.total);
const IN_PATH: Figure = ("CPU a packet in the sender's path", |cost| cost.in_path);

impl Goals<'_> {
    fn all(mut self, write_bytes_per_s: Option<f64>) -> Vec<Goal> {
        for (scenario, tcpdump, next, dumpcap) in
            [("64", 0.40, 0.35, 0.13), ("1514", 0.55, 0.50, 0.37), ("1514-snap96", 0.45, 0.40, 0.15)]
        {
            self.ratio(TOTAL, scenario, TCPDUMP, tcpdump, Some(next));
            self.ratio(TOTAL, scenario, DUMPCAP, dumpcap, None);
        }
        for (scenario, tcpdump, dumpcap) in
            [("64", 0.40, 0.40), ("1514", 0.60, 0.60), ("no-match", 0.50, 0.35)]
        {
            self.ratio(IN_PATH, scenario, TCPDUMP, tcpdump, None);
            self.ratio(IN_PATH, scenario, DUMPCAP, dumpcap, None);
        }
        self.ratio(IN_PATH, "2-senders", TCPDUMP, 0.35, None);
        self.pods();
        self.tcp();
        self.loss();
        self.write_bandwidth(write_bytes_per_s);
        self.streams();
        self.recordings();
        let idle = self.of("idle", self.sniff).and_then(|summary| summary.idle);
        self.add("part of a CPU used without traffic", Bound::AtMost(0.0005), None, idle);
        self.list
    }

    fn of(&self, scenario: &str, tool: &str) -> Option<&Summary> {
        find(self.summaries, scenario, tool)
    }

    fn add(&mut self, measure: impl Into<String>, bound: Bound, next: Option<f64>, value: Option<f64>) {
        self.list.push(Goal { tool: self.sniff.into(), measure: measure.into(), bound, next, value });
    }

    /// A cost as a part of what it is with another tool.
    fn ratio(
        &mut self,
        (name, figure): Figure,
        scenario: &str,
        other: &str,
        at_most: f64,
        next: Option<f64>,
    ) {
        let cost = |tool| self.of(scenario, tool)?.cost.as_ref().map(figure);
        let value = quotient(cost(self.sniff), cost(other));
        self.add(format!("{scenario}: {name}, of {other}'s"), Bound::AtMost(at_most), next, value);
    }

    fn pods(&mut self) {
        let cost = |scenario| Some(self.of(scenario, self.sniff)?.cost?.total);
        let value = quotient(cost("pods-250"), cost("pods-1"));
        self.add("total CPU a packet with 250 pods, of that with one", Bound::AtMost(1.05), None, value);
    }

    fn tcp(&mut self) {
        let kept = |scenario, tool| Some(self.of(scenario, tool)?.tcp?.kept_rate);
        let snap96 = kept("tcp-snap96", self.sniff);
        let [full, tcpdump, dumpcap] = [self.sniff, TCPDUMP, DUMPCAP].map(|tool| kept("tcp", tool));
        self.add("tcp-snap96: part of the bare rate", Bound::AtLeast(0.95), None, snap96);
        self.add("tcp: part of the bare rate", Bound::AtLeast(0.85), None, full);
        let printed = |tool| Some(self.of("tcp-lines", tool)?.tcp?.process_s);
        let value = quotient(printed(self.sniff), printed(TCPDUMP));
        let measure = format!("tcp-lines: CPU of the process, of {TCPDUMP}'s");
        self.add(measure, Bound::AtMost(0.33), None, value);
        for (name, other) in [(TCPDUMP, tcpdump), (DUMPCAP, dumpcap)] {
            let value = quotient(full, other);
            self.add(format!("tcp: rate, of that with {name}"), Bound::AtLeast(1.0), None, value);
        }
    }

    fn streams(&mut self) {
        for scenario in ["stream-random", "stream-text"] {
            let cost = |tool| Some(self.of(scenario, tool)?.stream?.process_ns);
            let values = [TCPDUMP, TCPDUMP_IMMEDIATE].map(|it| (it, quotient(cost(self.sniff), cost(it))));
            for (other, value) in values {
                let measure = format!("{scenario}: process CPU a byte, of {other}'s");
                self.add(measure, Bound::AtMost(1.0), None, value);
            }
        }
        let quiet = self.of("stream-quiet", self.sniff).and_then(|summary| summary.stream);
        let mib = quiet.map(|stream| stream.resident_bytes / f64::from(1 << 20));
        self.add("stream-quiet: resident memory in MiB", Bound::AtMost(20.0), None, mib);
    }

    fn recordings(&mut self) {
        for scenario in ["record-64", "record-1514"] {
            self.ratio(TOTAL, scenario, TCPDUMP, 0.40, None);
            self.ratio(TOTAL, scenario, DUMPCAP, 0.40, None);
        }
        let process = self.of("record-paced", self.sniff).and_then(|summary| summary.cost);
        let part = process.map(|cost| cost.process * f64::from(RECORDED_A_SECOND) / 1e9);
        self.add("record-paced: part of a CPU used by the process", Bound::AtMost(0.001), None, part);
    }

    fn loss(&mut self) {
        let mine = || self.summaries.iter().filter(|summary| summary.tool == self.sniff);
        let tcpdump_loses_none = |scenario| self.of(scenario, TCPDUMP)?.loss.map(|loss| loss.packets == 0);
        let lost = mine()
            .filter(|summary| tcpdump_loses_none(summary.scenario) == Some(true))
            .filter_map(|summary| Some(summary.loss?.packets as f64))
            .reduce(|sum, packets| sum + packets);
        let inexact = mine()
            .filter_map(|summary| Some(summary.loss?.inexact_rounds as f64))
            .reduce(|sum, rounds| sum + rounds);
        self.add("packets lost where tcpdump loses none", Bound::Exactly(0.0), None, lost);
        let measure = "rounds in which offered = kept + reported does not hold";
        self.add(measure, Bound::Exactly(0.0), None, inexact);
    }

    fn write_bandwidth(&mut self, write_bytes_per_s: Option<f64>) {
        let written = self.of("1514", self.sniff).and_then(|summary| summary.written_bytes_per_cpu_s);
        let value = quotient(written, write_bytes_per_s);
        let measure = "1514: bytes written a second of the process's CPU, of what write() can";
        self.add(measure, Bound::AtLeast(0.90), None, value);
    }
}

/// `None` also where there is nothing to compare with: noise can make a small cost vanish.
fn quotient(value: Option<f64>, of: Option<f64>) -> Option<f64> {
    let of = of.filter(|of| *of > 0.0)?;
    value.map(|value| value / of)
}

#[cfg(test)]
mod tests {
    use super::{Bound, Goal, goals};
    use crate::{
        measure::{Account, Cost, Figures, Outcome, Sample, Stream},
        summary::summarise,
    };

    fn goal(bound: Bound, next: Option<f64>, value: Option<f64>) -> Goal {
        Goal { tool: "sniff".into(), measure: "a figure".into(), bound, next, value }
    }

    #[test]
    fn a_goal_is_met_or_missed_by_a_part_of_it() {
        let at_most = |value| goal(Bound::AtMost(0.40), Some(0.35), Some(value));
        assert_eq!(at_most(0.38).verdict(), "met");
        assert_eq!(at_most(0.35).verdict(), "met, the next too");
        assert_eq!(at_most(0.50).verdict(), "missed by 25 %");
        assert_eq!([0.40, 0.42, 0.50].map(|value| at_most(value).is_missed()), [false, false, true]);

        let at_least = |value| goal(Bound::AtLeast(0.80), None, Some(value));
        assert_eq!(at_least(0.81).verdict(), "met");
        assert_eq!(at_least(0.60).verdict(), "missed by 25 %");
        assert!(at_least(0.60).is_missed() && !at_least(0.79).is_missed());

        let exactly = |value| goal(Bound::Exactly(0.0), None, Some(value));
        assert_eq!((exactly(0.0).verdict(), exactly(1.0).verdict()), ("met".into(), "missed".into()));
        assert!(exactly(1.0).is_missed() && !exactly(0.0).is_missed());

        let unknown = goal(Bound::Exactly(0.0), None, None);
        assert_eq!((unknown.verdict(), unknown.is_missed()), ("not measured".into(), false));
    }

    fn sample(scenario: &'static str, tool: &str, in_path_ns: f64, kept: u64, reported: u64) -> Sample {
        let account = Account { offered: 100, kept, reported: Some(reported), file_bytes: 1_000 };
        let figures = Figures {
            cost: Some(Cost { bare_ns: 1_000.0, in_path_ns, process_ns: 100.0 }),
            account: Some(account),
            ..Figures::default()
        };
        Sample { scenario, tool: tool.into(), round: 1, outcome: Outcome::Measured(figures) }
    }

    #[test]
    fn a_stream_is_compared_by_the_byte() {
        let stream = |scenario, tool: &str, process_ns| {
            let stream = Some(Stream { process_ns, resident_bytes: 18 << 20 });
            let outcome = Outcome::Measured(Figures { stream, ..Figures::default() });
            Sample { scenario, tool: tool.into(), round: 1, outcome }
        };
        let samples = [
            stream("stream-random", "sniff", 0.5),
            stream("stream-random", "tcpdump", 1.0),
            stream("stream-random", "tcpdump-immediate", 2.0),
            stream("stream-quiet", "sniff", 9.0),
        ];
        let goals = goals("sniff", &summarise(&samples), None);
        let found: Vec<_> = goals
            .iter()
            .filter_map(|goal| Some((goal.measure.as_str(), goal.value?)))
            .filter(|(measure, _)| measure.starts_with("stream-"))
            .collect();
        assert_eq!(
            found,
            [
                ("stream-random: process CPU a byte, of tcpdump's", 0.5),
                ("stream-random: process CPU a byte, of tcpdump-immediate's", 0.25),
                ("stream-quiet: resident memory in MiB", 18.0),
            ]
        );
    }

    #[test]
    fn values_come_from_the_right_lines() {
        let samples = [
            sample("64", "sniff", 100.0, 99, 1),
            sample("64", "tcpdump", 300.0, 100, 0),
            sample("1514", "sniff", 100.0, 90, 5),
            sample("1514", "tcpdump", 400.0, 90, 10),
            sample("pods-1", "sniff", 100.0, 100, 0),
            sample("pods-250", "sniff", 120.0, 100, 0),
        ];
        let goals = goals("sniff", &summarise(&samples), Some(2e8));
        let value = |measure: &str| {
            let goal = goals.iter().find(|goal| goal.measure.starts_with(measure));
            let value = goal.unwrap_or_else(|| panic!("no goal {measure:?}")).value;
            value.map(|value| (value * 1e6).round() / 1e6)
        };
        assert_eq!(value("64: total CPU a packet, of tcpdump's"), Some(0.5));
        assert_eq!(value("64: total CPU a packet, of dumpcap's"), None);
        assert_eq!(value("1514: CPU a packet in the sender's path, of tcpdump's"), Some(0.25));
        assert_eq!(value("total CPU a packet with 250 pods"), Some(1.1));
        assert_eq!(value("packets lost where tcpdump loses none"), Some(1.0));
        assert_eq!(value("rounds in which offered"), Some(1.0));
        assert_eq!(value("1514: bytes written"), Some(0.5));
        assert_eq!(value("part of a CPU used without traffic"), None);
    }
}
