//! How a capture goes, at the bottom of the terminal while a file is written. All of it is in memory that is mapped: but
//! for the table, the kernel is not asked.

use std::time::{Duration, Instant};

use anyhow::Result;
use sniff_cli::{
    sanitize::sanitize_line,
    status_line::{self, Counts, INTERVAL},
};
use tokio::time::{self, Interval, MissedTickBehavior};

use crate::capture::{plan::Detail, status::Status, taps::Taps};

/// Lines of a terminal that the table leaves free.
const ROWS_LEFT: usize = 4;

/// The line, and above it, if asked for, a line for each interface. Dropping it takes them away.
pub struct StatusLine {
    begun: Instant,
    interval: Interval,
    before: (Counts, Instant),
    detail: Detail,
}

impl StatusLine {
    /// One that is first shown after the interval.
    pub fn new(detail: Detail) -> Self {
        let now = Instant::now();
        let mut interval = time::interval_at(time::Instant::now() + INTERVAL, INTERVAL);
        interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self { begun: now, interval, before: (Counts::default(), now), detail }
    }

    /// Returns when it is time to show it again.
    pub async fn tick(&mut self) {
        self.interval.tick().await;
    }

    /// Shows how it goes.
    ///
    /// # Errors
    ///
    /// When the kernel does not give its counters.
    pub fn show(&mut self, status: &Status, taps: &Taps) -> Result<()> {
        let Some((columns, rows)) = status_line::room() else { return Ok(()) };
        let now = Instant::now();
        let counts = status.counts(taps);
        let (before, since) = std::mem::replace(&mut self.before, (counts, now));
        let mut lines = Vec::new();
        if self.detail == Detail::Each {
            lines = table(taps, rows.saturating_sub(ROWS_LEFT), columns)?;
        }
        let buffer = [format!("buffer {} %", status.full_percent())];
        let ago: Duration = now - since;
        let plain = status_line::is_plain();
        lines.push(status_line::line(counts, now - self.begun, (before, ago), &buffer, columns, plain));
        status_line::show(lines);
        Ok(())
    }
}

impl Drop for StatusLine {
    fn drop(&mut self) {
        status_line::clear();
    }
}

/// A line for each interface, as far as there is room.
fn table(taps: &Taps, rows: usize, columns: usize) -> Result<Vec<String>> {
    let all = taps.iter().len();
    let shown = if all > rows { rows.saturating_sub(1) } else { all };
    let mut lines = Vec::new();
    for tap in taps.iter().take(shown) {
        let counters = taps.kernel_side.counters(tap.id)?;
        let (packets, dropped) =
            (status_line::grouped(counters.matched), status_line::grouped(counters.lost()));
        let name = sanitize_line(&tap.interface.name);
        let line = format!("{packets:>15}  {dropped:>9} dropped  {name}");
        lines.push(line.chars().take(columns.saturating_sub(1)).collect());
    }
    if shown < all {
        lines.push(format!("{:>15}", format!("and {} more", all - shown)));
    }
    Ok(lines)
}
