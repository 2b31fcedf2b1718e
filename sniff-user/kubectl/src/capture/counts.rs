//! The counts at the end.

use std::{
    collections::BTreeSet,
    io::{self, Write as _},
};

use super::{Capture, sessions::Accounts};
use sniff_cli::legible::legible_line;
use sniff_protocol::message::Stats;

impl Capture {
    pub(super) fn say_counts(&self) {
        if self.failed && self.sessions.iter().all(|it| it.accounts == Accounts::NotBegun) {
            return;
        }
        let sum = |count: fn(&Stats) -> u64| {
            self.sessions.iter().map(|it| count(&it.stats)).fold(0, u64::saturating_add)
        };
        let silent = self.sessions.iter().filter(|it| it.accounts == Accounts::Open);
        let silent: BTreeSet<&str> = silent.map(|it| it.session.node.as_str()).collect();
        let counts = counts(
            self.progress.written(),
            sum(|stats| stats.matched),
            sum(|stats| stats.dropped),
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
    let (nodes, matched) = (legible_line(&silent.join(", ")), matched.max(captured));
    format!(
        "{captured} packets captured; no final counts from node {nodes}\nat least {matched} packets received by filter\n\
         at least {dropped} packets dropped by kernel\n"
    )
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
    }
}
