//! The results of a run: as tables for people, and as JSON.

use std::fmt::Write as _;

use comfy_table::{CellAlignment, Table, presets::ASCII_MARKDOWN};
use serde::Serialize;

use crate::{
    goals::{Bound, Goal, goals},
    limits::Limits,
    machine::Machine,
    measure::Sample,
    median::median,
    scenario,
    summary::{Loss, Summary, find, summarise},
    tools::{DUMPCAP, TCPDUMP, TCPDUMP_IMMEDIATE},
};

/// All that a run found out.
#[derive(Debug, Serialize)]
pub struct Report {
    /// The command that made it.
    pub command: String,
    /// Where it was made.
    pub machine: Machine,
    /// Each tool's name and version.
    pub tools: Vec<(String, String)>,
    /// Medians over the rounds.
    pub limits: Option<Limits>,
    /// A line for each tool in each scenario.
    pub summaries: Vec<Summary>,
    /// Of each build of sniff.
    pub goals: Vec<Goal>,
    /// What it all comes from.
    pub samples: Vec<Sample>,
}

impl Report {
    /// Puts the results together; `sniffs` are the names of the builds of sniff.
    pub fn new(
        command: String,
        machine: Machine,
        tools: Vec<(String, String)>,
        sniffs: &[String],
        limits: &[Limits],
        samples: Vec<Sample>,
    ) -> Self {
        let limits = median_limits(limits);
        let summaries = summarise(&samples);
        let write = limits.map(|limits| limits.write_bytes_per_s);
        let goals = sniffs.iter().flat_map(|sniff| goals(sniff, &summaries, write)).collect();
        Self { command, machine, tools, limits, summaries, goals, samples }
    }

    /// The tables, in Markdown.
    pub fn text(&self) -> String {
        let mut text = format!("`{}`\n\n", self.command);
        let _ = writeln!(text, "{}.", self.machine);
        if let Some(limits) = &self.limits {
            let _ = writeln!(text, "At best: {}.", describe(limits));
        }
        let versions: Vec<_> =
            self.tools.iter().map(|(name, version)| format!("{name}: {version}")).collect();
        let _ = writeln!(text, "Tools: {}.", versions.join("; "));
        let tables = [
            ("Packets", self.packets()),
            ("TCP, forwarded from the pod to its peer", self.tcp()),
            ("Into a pipe: sniff serve, tcpdump -w -", self.streams()),
            ("The last packets, in 64 MiB: sniff --record, files in turns", self.recordings()),
            ("Without traffic", self.idle()),
            ("Goals", self.goals()),
        ];
        for (title, table) in tables.into_iter().filter_map(|(title, table)| Some((title, table?))) {
            let _ = writeln!(text, "\n### {title}\n\n{table}");
        }
        let unmeasured = self.goals.iter().filter(|goal| goal.value.is_none()).count();
        if unmeasured > 0 {
            let _ =
                writeln!(text, "\n{unmeasured} more goals take scenarios or tools that are not in this run.");
        }
        let failures = self.failures();
        if !failures.is_empty() {
            let _ = writeln!(text, "\n### What did not work\n\n{}", failures.join("\n"));
        }
        text
    }

    /// Whether all went well enough for a check: no goal of sniff missed, and no failures.
    pub fn is_good(&self) -> bool {
        self.failures().is_empty() && !self.goals.iter().any(Goal::is_missed)
    }

    fn packets(&self) -> Option<Table> {
        let mut table = table(&[
            "Scenario",
            "Tool",
            "In path, ns",
            "Process, ns",
            "Total, ns",
            "Of tcpdump",
            "Of dumpcap",
            "Lost",
            "Worst",
            "Lost, packets",
            "Reported",
            "Ready, ms",
            "Memory, MiB",
        ]);
        for summary in &self.summaries {
            let (Some(cost), Some(loss)) = (summary.cost, summary.loss) else { continue };
            let [lost, worst, packets, reported] = losses(loss);
            let of = |other| self.total_of(cost.total, summary.scenario, other);
            table.add_row([
                title(summary.scenario),
                summary.tool.clone(),
                format!("{:.0}", cost.in_path),
                format!("{:.0}", cost.process),
                format!("{:.0}", cost.total),
                of(TCPDUMP).unwrap_or_default(),
                of(DUMPCAP).unwrap_or_default(),
                lost,
                worst,
                packets,
                reported,
                format!("{:.0}", summary.ready_s * 1e3),
                format!("{:.0}", summary.memory_bytes / f64::from(1 << 20)),
            ]);
        }
        filled(table)
    }

    fn tcp(&self) -> Option<Table> {
        let mut table = table(&[
            "Scenario",
            "Tool",
            "Bare, Gbit/s",
            "Rate kept",
            "Process, s",
            "Lost",
            "Worst",
            "Lost, packets",
            "Reported",
        ]);
        for summary in &self.summaries {
            let (Some(tcp), Some(loss)) = (summary.tcp, summary.loss) else { continue };
            let [lost, worst, packets, reported] = losses(loss);
            table.add_row([
                title(summary.scenario),
                summary.tool.clone(),
                format!("{:.1}", tcp.bare_bits_per_s / 1e9),
                format!("{:.2}", tcp.kept_rate),
                format!("{:.2}", tcp.process_s),
                lost,
                worst,
                packets,
                reported,
            ]);
        }
        filled(table)
    }

    fn streams(&self) -> Option<Table> {
        let mut table = table(&[
            "Scenario",
            "Tool",
            "Process, ns/B",
            "Of tcpdump",
            "Of tcpdump-immediate",
            "Lost",
            "Worst",
            "Lost, packets",
            "Reported",
            "Resident, MiB",
        ]);
        for summary in &self.summaries {
            let (Some(stream), Some(loss)) = (summary.stream, summary.loss) else { continue };
            let [lost, worst, packets, reported] = losses(loss);
            let of = |other| {
                let other = find(&self.summaries, summary.scenario, other)?.stream?.process_ns;
                Some(format!("{:.2}", stream.process_ns / other))
            };
            table.add_row([
                title(summary.scenario),
                summary.tool.clone(),
                format!("{:.2}", stream.process_ns),
                of(TCPDUMP).unwrap_or_default(),
                of(TCPDUMP_IMMEDIATE).unwrap_or_default(),
                lost,
                worst,
                packets,
                reported,
                format!("{:.1}", stream.resident_bytes / f64::from(1 << 20)),
            ]);
        }
        filled(table)
    }

    fn recordings(&self) -> Option<Table> {
        let mut table = table(&[
            "Scenario",
            "Tool",
            "In path, ns",
            "Process, ns",
            "Total, ns",
            "Of tcpdump",
            "Of dumpcap",
            "Kept, packets/MiB",
            "Memory, MiB",
        ]);
        for summary in &self.summaries {
            let (Some(cost), Some(kept)) = (summary.cost, summary.kept_per_mib) else { continue };
            let of = |other| self.total_of(cost.total, summary.scenario, other);
            table.add_row([
                title(summary.scenario),
                summary.tool.clone(),
                format!("{:.0}", cost.in_path),
                format!("{:.1}", cost.process),
                format!("{:.0}", cost.total),
                of(TCPDUMP).unwrap_or_default(),
                of(DUMPCAP).unwrap_or_default(),
                format!("{kept:.0}"),
                format!("{:.0}", summary.memory_bytes / f64::from(1 << 20)),
            ]);
        }
        filled(table)
    }

    /// A cost of a packet as a part of what another tool takes.
    fn total_of(&self, total: f64, scenario: &str, other: &str) -> Option<String> {
        let other = find(&self.summaries, scenario, other)?.cost?.total;
        Some(format!("{:.2}", total / other))
    }

    fn idle(&self) -> Option<Table> {
        let mut table = table(&["Tool", "Part of a CPU", "Memory, MiB"]);
        for summary in &self.summaries {
            let Some(idle) = summary.idle else { continue };
            let memory = format!("{:.0}", summary.memory_bytes / f64::from(1 << 20));
            table.add_row([summary.tool.clone(), format!("{:.3} %", idle * 100.0), memory]);
        }
        filled(table)
    }

    fn goals(&self) -> Option<Table> {
        let mut table = table(&["Tool", "Goal", "Wanted", "Then", "Reached", ""]);
        for goal in self.goals.iter().filter(|goal| goal.value.is_some()) {
            let bound = match goal.bound {
                Bound::AtMost(value) => format!("≤ {value}"),
                Bound::AtLeast(value) => format!("≥ {value}"),
                Bound::Exactly(value) => value.to_string(),
            };
            table.add_row([
                goal.tool.clone(),
                goal.measure.clone(),
                bound,
                goal.next.map(|next| next.to_string()).unwrap_or_default(),
                goal.value.map(significant).unwrap_or_default(),
                goal.verdict(),
            ]);
        }
        filled(table)
    }

    fn failures(&self) -> Vec<String> {
        let of = |summary: &Summary| {
            let line = |reason: &String| format!("- {}, {}: {reason}", title(summary.scenario), summary.tool);
            summary.failures.iter().map(line).collect::<Vec<_>>()
        };
        let mut lines: Vec<_> = self.summaries.iter().flat_map(of).collect();
        lines.dedup();
        lines
    }
}

fn title(scenario: &str) -> String {
    scenario::find(scenario).map_or(scenario, |scenario| scenario.title).into()
}

/// What every table of packets tells of losses: the median, the worst, how many packets, and how many the tool told of.
fn losses(loss: Loss) -> [String; 4] {
    let reported = loss.reported.map_or("nothing".into(), |reported| reported.to_string());
    [percent(loss.median), percent(loss.worst), loss.packets.to_string(), reported]
}

fn percent(share: f64) -> String {
    match share * 100.0 {
        0.0 => "0".into(),
        percent if percent < 0.01 => "< 0.01 %".into(),
        percent => format!("{percent:.2} %"),
    }
}

/// Whole numbers as they are, parts with three digits that count.
fn significant(value: f64) -> String {
    if value.fract() == 0.0 || value >= 100.0 {
        format!("{value:.0}")
    } else if value >= 0.1 {
        format!("{value:.2}")
    } else {
        format!("{value:.5}")
    }
}

fn describe(limits: &Limits) -> String {
    format!(
        "write() {:.2} GB/s of CPU time, memcpy {:.1} GB/s ({:.1} in the cache), system call {:.0} ns",
        limits.write_bytes_per_s / 1e9,
        limits.memcpy_bytes_per_s / 1e9,
        limits.memcpy_cached_bytes_per_s / 1e9,
        limits.syscall_ns
    )
}

fn median_limits(all: &[Limits]) -> Option<Limits> {
    let of = |figure: fn(&Limits) -> f64| median(all.iter().map(figure));
    Some(Limits {
        write_bytes_per_s: of(|limits| limits.write_bytes_per_s)?,
        memcpy_cached_bytes_per_s: of(|limits| limits.memcpy_cached_bytes_per_s)?,
        memcpy_bytes_per_s: of(|limits| limits.memcpy_bytes_per_s)?,
        syscall_ns: of(|limits| limits.syscall_ns)?,
    })
}

/// A table whose columns hold numbers, after those of words.
fn table(header: &[&str]) -> Table {
    const WORDS: &[&str] = &["Scenario", "Tool", "Goal", ""];
    let mut table = Table::new();
    table.load_style(ASCII_MARKDOWN).set_header(header);
    for (column, name) in table.column_iter_mut().zip(header) {
        if !WORDS.contains(name) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}

fn filled(table: Table) -> Option<Table> {
    (!table.is_empty()).then_some(table)
}

#[cfg(test)]
mod tests {
    use super::{percent, significant};

    #[test]
    fn figures_are_short_and_never_rounded_to_nothing() {
        assert_eq!(
            (significant(3.0), significant(0.345), significant(0.00049)),
            ("3".into(), "0.34".into(), "0.00049".into())
        );
        assert_eq!([0.0, 0.000_01, 0.0123].map(percent), ["0", "< 0.01 %", "1.23 %"]);
    }
}
