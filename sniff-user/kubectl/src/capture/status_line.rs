//! How the capture goes, at the bottom of the terminal, unless that shows the packets themselves.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use anyhow::Result;
use sniff_cli::{
    sanitize::sanitize_line,
    status_line::{Counts, StatusLine, grouped, room, size},
};

use super::{Capture, sessions::Running};
use crate::{args::Args, output::ClientDestination};

/// Whether a terminal shows how a capture goes that comes to this.
pub(super) fn is_shown(args: &Args, wanted: &ClientDestination) -> bool {
    !args.quiet && !wanted.prints() && room().is_some()
}

impl Capture {
    /// Where it is shown, if it is.
    pub(super) fn status_line(&self) -> Option<StatusLine> {
        is_shown(&self.args, &self.wanted).then(|| StatusLine::new(self.began))
    }

    /// Shows how it goes: all nodes together, and with `-v` a line for each.
    pub(super) fn show_status(&self, line: &mut StatusLine) -> Result<()> {
        let counts = Counts {
            packets: self.progress.written().packets(),
            bytes: self.progress.written().bytes(),
            dropped: self.sum(|it| it.stats.dropped),
        };
        let live: Vec<&Running> = self.sessions.iter().filter(|it| !it.ended).collect();
        let rest = [
            format!("{} on the wire", size(self.sum(|it| it.session.received()))),
            format!("{} waiting", grouped(self.merger.waiting())),
            format!("{} node{}", live.len(), if live.len() == 1 { "" } else { "s" }),
        ];
        let each = if self.args.verbose > 0 { live.len() } else { 0 };
        let each = live.iter().take(each).map(|it| self.of_node(it));
        let table: Vec<String> = self.waits_for(&live).into_iter().chain(each).collect();
        line.show(counts, &rest, table.into_iter().map(Ok))
    }

    /// What is waited for at nodes that do not capture yet, or not any more.
    fn waits_for(&self, live: &[&Running]) -> Vec<String> {
        let starting = live.iter().filter(|it| it.listening_since.is_none());
        let starting = starting.map(|it| (it.session.node.as_str(), it.session.waits_for()));
        let now = Instant::now();
        let lost = self.rejoins.waiting().map(|(node, due)| {
            let left = due.saturating_duration_since(now).as_secs() + 1;
            (node, format!("another try in {left} s"))
        });
        let line = |(node, what): (&str, String)| sanitize_line(&format!("node {node}: waiting for {what}"));
        let mut lines: Vec<String> = starting.chain(lost).map(line).collect();
        lines.sort();
        lines
    }

    /// What a node has matched and lost, how far behind what comes from it is, and what came over the wire.
    fn of_node(&self, running: &Running) -> String {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos() as u64;
        let lag = self.merger.complete_until(running.stream).map_or_else(
            || "nothing yet".to_owned(),
            |until| format!("{:.1} s ago", now.saturating_sub(until) as f64 / 1e9),
        );
        format!(
            "{:>15}  {:>9} dropped  {lag:>11}  {:>10}  {}",
            grouped(running.matched(&self.merger)),
            grouped(running.stats.dropped),
            size(running.session.received()),
            sanitize_line(&running.session.node)
        )
    }
}
