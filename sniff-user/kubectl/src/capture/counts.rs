//! The counts at the end.

use std::{
    collections::BTreeSet,
    io::{self, Write as _},
};

use sniff_cli::{
    sanitize::sanitize_line,
    summary::{self, Summary},
};
use sniff_protocol::message::Seen;

use super::{
    Capture,
    sessions::{Accounts, Running},
};

impl Capture {
    /// A count of all sessions together.
    pub(super) fn sum(&self, count: impl Fn(&Running) -> u64) -> u64 {
        self.sessions.iter().map(count).fold(0, u64::saturating_add)
    }

    pub(super) fn say_counts(&self) {
        if self.failed && self.sessions.iter().all(|it| it.accounts == Accounts::NotBegun) {
            return;
        }
        let silent = self.sessions.iter().filter(|it| it.accounts == Accounts::Open);
        let silent: BTreeSet<&str> = silent.map(|it| it.session.node.as_str()).collect();
        let counts = Counts {
            captured: self.progress.written().packets(),
            matched: self.sum(|it| it.matched(&self.merger)),
            dropped: self.sum(|it| it.stats.dropped),
            left_out: self.sum(|it| it.stats.left_out),
            cut_off: self.sum(|it| it.stats.cut_off),
        };
        let counts = counts.say(&Vec::from_iter(silent));
        let mut stderr = io::stderr();
        // A closed stderr is no reason to fail.
        let _ = stderr.write_all(counts.as_bytes());
        let _ = stderr.write_all(seen(self.sessions.iter().filter_map(|it| it.seen)).as_bytes());
        if self.merger.late() > 0 {
            let _ = writeln!(stderr, "{} packets written out of order", self.merger.late());
        }
    }
}

/// Packets, over all sessions.
#[derive(Clone, Copy, Default)]
struct Counts {
    captured: u64,
    matched: u64,
    dropped: u64,
    left_out: u64,
    cut_off: u64,
}

impl Counts {
    /// The counts at the end, as tcpdump has them. What `silent` nodes said before they broke off is the least that it was;
    /// so is what came from them.
    fn say(self, silent: &[&str]) -> String {
        let Self { captured, matched, dropped, left_out, cut_off } = self;
        let (least, missing, matched) = match silent {
            [] => ("", String::new(), matched),
            nodes => {
                let nodes = sanitize_line(&nodes.join(", "));
                ("at least ", format!("; no final counts from node {nodes}"), matched.max(captured))
            }
        };
        let others = dropped.saturating_add(left_out).saturating_add(cut_off);
        let unwritten = matched.saturating_sub(others).saturating_sub(captured);
        Summary { captured, matched, dropped, unwritten, left_out, cut_off, aged_out: 0 }
            .lines(least, &missing)
    }
}

/// Where packets were seen whose two ends are captured on one node, in all; nothing when no node tells.
fn seen(nodes: impl Iterator<Item = Seen>) -> String {
    let add = |one: Seen, other: Seen| Seen {
        at_both: one.at_both.saturating_add(other.at_both),
        only_sent: one.only_sent.saturating_add(other.only_sent),
        forgotten: one.forgotten.saturating_add(other.forgotten),
    };
    let in_all = nodes.reduce(add);
    in_all.map(|seen| summary::seen(seen, ", between pods of one node")).unwrap_or_default()
}

/// What the end of a capture waits for: `left` packets, and what the nodes `yet_to_tell` have beyond that.
pub(super) fn still_left(left: u64, yet_to_tell: &[&str]) -> String {
    let nodes = sanitize_line(&yet_to_tell.join(", "));
    match (left, yet_to_tell.is_empty()) {
        (0, true) => "waiting for the output to end".to_owned(),
        (_, true) => format!("{left} packets are still to be written"),
        (0, false) => format!("waiting for the last word of node {nodes}"),
        (_, false) => format!(
            "at least {left} packets are still on their way, how many more node {nodes} tells behind them"
        ),
    }
}

/// What is left out when a person insists on the end. How much that is, is known afterwards, if at all.
pub(super) fn left_out(yet_to_tell: &[&str]) -> String {
    if yet_to_tell.is_empty() {
        return "ended early: what is not written soon is left out".to_owned();
    }
    let nodes = sanitize_line(&yet_to_tell.join(", "));
    format!("ended early: packets that were on their way are left out; node {nodes} has not told how many")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(captured: u64, matched: u64, dropped: u64, silent: &[&str]) -> String {
        Counts { captured, matched, dropped, left_out: 0, cut_off: 0 }.say(silent)
    }

    #[test]
    fn counts_that_are_not_final_are_said_to_be_the_least() {
        assert_eq!(
            counts(8, 9, 1, &[]),
            "8 packets captured\n9 packets received by filter\n1 packets dropped by kernel\n"
        );
        assert_eq!(
            counts(8, 12, 1, &[]),
            "8 packets captured\n12 packets received by filter\n1 packets dropped by kernel\n\
             3 packets received but not written\n"
        );
        assert_eq!(
            counts(8, 0, 0, &["a", "b"]),
            "8 packets captured; no final counts from node a, b\nat least 8 packets received by filter\n\
             at least 0 packets dropped by kernel\n"
        );
        assert!(counts(8, 22, 3, &["a"]).contains("at least 22 packets received"));
        assert!(counts(8, 22, 3, &["a"]).ends_with("\nat least 11 packets received but not written\n"));
    }

    #[test]
    fn what_is_left_out_is_no_packet_that_was_not_written() {
        let counts = Counts { captured: 8, matched: 20, dropped: 1, left_out: 6, cut_off: 5 };
        let said = counts.say(&[]);
        assert!(
            said.ends_with(
                "\n6 packets left out, which are here where they were sent\n5 packets left out by the cutoff\n"
            ),
            "{said}"
        );
        assert!(!said.contains("not written"), "{said}");
        assert!(Counts { matched: 21, ..counts }.say(&[]).contains("\n1 packets received but not written\n"));
    }

    #[test]
    fn packets_at_both_ends_are_those_of_all_nodes() {
        assert_eq!(seen([].into_iter()), "");
        let node = |at_both, only_sent| Seen { at_both, only_sent, forgotten: 0 };
        let both = [node(7, 0), node(2, 1)];
        assert_eq!(
            seen(both.into_iter()),
            "9 packets seen at both ends, 1 only where sent, between pods of one node\n"
        );
        let hostile = Seen { at_both: u64::MAX, only_sent: 0, forgotten: 3 };
        let said = seen(both.into_iter().chain([hostile]));
        assert!(said.ends_with("\n3 sent packets were not followed: too many were on their way\n"));
    }

    #[test]
    fn what_is_left_is_said_as_far_as_it_is_known() {
        assert_eq!(still_left(0, &[]), "waiting for the output to end");
        assert_eq!(still_left(80, &[]), "80 packets are still to be written");
        assert_eq!(still_left(0, &["a", "b"]), "waiting for the last word of node a, b");
        assert_eq!(
            still_left(80, &["a"]),
            "at least 80 packets are still on their way, how many more node a tells behind them"
        );
        assert_eq!(
            left_out(&["a"]),
            "ended early: packets that were on their way are left out; node a has not told how many"
        );
        assert!(!left_out(&[]).contains("node"));
    }
}
