//! How the capture goes, at the bottom of the terminal, unless that shows the packets themselves.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use sniff_cli::{
    sanitize::sanitize_line,
    status_line::{self, Counts, INTERVAL, grouped, size},
};
use tokio::time::{self, Interval, MissedTickBehavior};

use super::{Capture, sessions::Running};

/// Lines of a terminal that the nodes leave free.
const ROWS_LEFT: usize = 4;

/// What was shown last. Dropping it takes it away.
pub(super) struct StatusLine {
    interval: Interval,
    before: (Counts, Instant),
}

impl StatusLine {
    fn new() -> Self {
        let mut interval = time::interval(INTERVAL);
        interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self { interval, before: (Counts::default(), Instant::now()) }
    }

    /// Returns when it is time to show it again; never, when nothing is shown.
    pub(super) async fn tick(shown: &mut Option<Self>) {
        match shown {
            Some(line) => drop(line.interval.tick().await),
            None => std::future::pending().await,
        }
    }
}

impl Drop for StatusLine {
    fn drop(&mut self) {
        status_line::clear();
    }
}

impl Capture {
    /// Where it is shown, if it is.
    pub(super) fn status_line(&self) -> Option<StatusLine> {
        let is_shown = !self.args.quiet && !self.wanted.prints() && status_line::room().is_some();
        is_shown.then(StatusLine::new)
    }

    /// Shows how it goes: all nodes together, and with `-v` a line for each.
    pub(super) fn show_status(&self, line: &mut StatusLine) {
        let Some((columns, rows)) = status_line::room() else { return };
        let now = Instant::now();
        let sum =
            |count: &dyn Fn(&Running) -> u64| self.sessions.iter().map(count).fold(0, u64::saturating_add);
        let counts = Counts {
            packets: self.progress.written(),
            bytes: self.progress.bytes(),
            dropped: sum(&|it| it.stats.dropped),
        };
        let (before, since) = std::mem::replace(&mut line.before, (counts, now));
        let live: Vec<&Running> = self.sessions.iter().filter(|it| !it.ended).collect();
        let rest = [
            format!("{} on the wire", size(sum(&|it| it.session.received()))),
            format!("{} waiting", grouped(self.merger.waiting())),
            format!("{} node{}", live.len(), if live.len() == 1 { "" } else { "s" }),
        ];
        let rows = if self.args.verbose > 0 { rows.saturating_sub(ROWS_LEFT) } else { 0 };
        let mut lines: Vec<String> = live.iter().take(rows).map(|it| self.of_node(it, columns)).collect();
        let (elapsed, plain) = (now - self.began, status_line::is_plain());
        lines.push(status_line::line(counts, elapsed, (before, now - since), &rest, columns, plain));
        status_line::show(lines);
    }

    /// What a node has matched and lost, how far behind what comes from it is, and what came over the wire.
    fn of_node(&self, running: &Running, columns: usize) -> String {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos() as u64;
        let lag = self.merger.complete_until(running.stream).map_or_else(
            || "nothing yet".to_owned(),
            |until| format!("{:.1} s ago", now.saturating_sub(until) as f64 / 1e9),
        );
        let line = format!(
            "{:>15}  {:>9} dropped  {lag:>11}  {:>10}  {}",
            grouped(running.matched(&self.merger)),
            grouped(running.stats.dropped),
            size(running.session.received()),
            sanitize_line(&running.session.node)
        );
        line.chars().take(columns.saturating_sub(1)).collect()
    }
}
