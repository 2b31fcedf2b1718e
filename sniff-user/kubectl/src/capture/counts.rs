//! The counts at the end.

use std::{
    collections::BTreeSet,
    io::{self, Write as _},
};

use sniff_cli::sanitize::sanitize_line;

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
        let counts = counts(
            self.progress.written().packets(),
            self.sum(|it| it.matched(&self.merger)),
            self.sum(|it| it.stats.dropped),
            &Vec::from_iter(silent),
        );
        let mut stderr = io::stderr();
        // A closed stderr is no reason to fail.
        let _ = stderr.write_all(counts.as_bytes());
        if self.merger.late() > 0 {
            let _ = writeln!(stderr, "{} packets written out of order", self.merger.late());
        }
    }
}

/// The counts at the end, as tcpdump has them. What `silent` nodes said before they broke off is the least that it was;
/// so is what came from them.
fn counts(captured: u64, matched: u64, dropped: u64, silent: &[&str]) -> String {
    if silent.is_empty() {
        let counts = format!(
            "{captured} packets captured\n{matched} packets received by filter\n{dropped} packets dropped by kernel\n"
        );
        return match matched.saturating_sub(dropped).saturating_sub(captured) {
            0 => counts,
            left => format!("{counts}{left} packets received but not written\n"),
        };
    }
    let (nodes, matched) = (sanitize_line(&silent.join(", ")), matched.max(captured));
    let counts = format!(
        "{captured} packets captured; no final counts from node {nodes}\nat least {matched} packets received by filter\n\
         at least {dropped} packets dropped by kernel\n"
    );
    match matched.saturating_sub(dropped).saturating_sub(captured) {
        0 => counts,
        left => format!("{counts}at least {left} packets received but not written\n"),
    }
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
