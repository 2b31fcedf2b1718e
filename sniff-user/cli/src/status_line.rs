//! What changes at the bottom of a terminal while sniff works: a line, and lines of a table above it. Messages go over it
//! and stay; it moves down behind them.

use std::{
    future,
    io::{self, IsTerminal as _, Write as _},
    mem,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use anyhow::Result;
use bytesize::ByteSize;
use sniff_output::lines::{is_dumb, is_without_colors};
use tokio::time::{self, Interval, MissedTickBehavior};

/// Time between two looks at what is shown.
const INTERVAL: Duration = Duration::from_millis(500);

/// Columns where the terminal does not tell.
const COLUMNS: usize = 80;
const ROWS: usize = 24;
/// Rows that a table leaves free.
const ROWS_LEFT: usize = 4;

/// What stands there, as it was written.
static SHOWN: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// Columns and rows of the terminal that messages go to; none where they go elsewhere, or nothing there can be moved.
pub fn room() -> Option<(usize, usize)> {
    let stderr = io::stderr();
    let size = || terminal_size::terminal_size_of(&stderr);
    (stderr.is_terminal() && !is_dumb()).then(|| {
        size().map_or((COLUMNS, ROWS), |(columns, rows)| (usize::from(columns.0), usize::from(rows.0)))
    })
}

/// How much there is by now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Packets that were written.
    pub packets: u64,
    /// Their blocks' bytes.
    pub bytes: u64,
    /// Packets that were lost.
    pub dropped: u64,
}

/// How a capture goes, on the terminal that messages go to. Dropping it takes it away.
pub struct StatusLine {
    began: Instant,
    interval: Interval,
    before: (Counts, Instant),
}

impl StatusLine {
    /// One that counts time from `began` on; nothing is shown yet.
    pub fn new(began: Instant) -> Self {
        let mut interval = time::interval_at(time::Instant::now() + INTERVAL, INTERVAL);
        interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self { began, interval, before: (Counts::default(), Instant::now()) }
    }

    /// Returns when it is time to show it again; never, when there is none.
    pub async fn tick(shown: Option<&mut Self>) {
        match shown {
            Some(line) => drop(line.interval.tick().await),
            None => future::pending().await,
        }
    }

    /// Shows what there is, with `rest` at the line's end, and above it as much of the table as there is room for.
    ///
    /// # Errors
    ///
    /// That of a line of the table.
    pub fn show(
        &mut self,
        counts: Counts,
        rest: &[String],
        table: impl ExactSizeIterator<Item = Result<String>>,
    ) -> Result<()> {
        let Some((columns, rows)) = room() else { return Ok(()) };
        let now = Instant::now();
        let (before, since) = mem::replace(&mut self.before, (counts, now));
        let mut lines = fitting(table, rows.saturating_sub(ROWS_LEFT), columns)?;
        let is_plain = is_without_colors();
        lines.push(line(counts, now - self.began, (before, now - since), rest, columns, is_plain));
        replace(lines);
        Ok(())
    }

    /// Shows words in place of all that: what is waited for, and how long by now.
    pub fn say(&self, words: &str) {
        let Some((columns, _)) = room() else { return };
        let words = format!("{}  {words}", clock(self.began.elapsed()));
        replace(vec![cut(words, columns)]);
    }
}

impl Drop for StatusLine {
    fn drop(&mut self) {
        replace(Vec::new());
    }
}

/// The lines of a table that there is room for, none longer than a row; the last says how many are left out.
fn fitting(
    table: impl ExactSizeIterator<Item = Result<String>>,
    rows: usize,
    columns: usize,
) -> Result<Vec<String>> {
    let all = table.len();
    let shown = if all > rows { rows.saturating_sub(1) } else { all };
    let mut lines =
        table.take(shown).map(|line| line.map(|line| cut(line, columns))).collect::<Result<Vec<String>>>()?;
    if shown < all {
        lines.push(format!("{:>15}", format!("and {} more", all - shown)));
    }
    Ok(lines)
}

/// As much of a line as there is room for; the last column stays free.
fn cut(line: String, columns: usize) -> String {
    line.chars().take(columns.saturating_sub(1)).collect()
}

/// The line: what there is `elapsed` after the start, how fast it grows since `before`, so long ago, and `rest`. What has
/// no room in `columns` is left out, the last first; without `is_plain`, a loss is red.
fn line(
    counts: Counts,
    elapsed: Duration,
    (before, ago): (Counts, Duration),
    rest: &[String],
    columns: usize,
    is_plain: bool,
) -> String {
    let per_second = (counts.packets - before.packets) as f64 / ago.as_secs_f64().max(0.001);
    let mut parts = vec![
        clock(elapsed),
        format!("{} packets", grouped(counts.packets)),
        format!("{} dropped", grouped(counts.dropped)),
        size(counts.bytes),
        format!("{}/s", grouped(per_second.round() as u64)),
    ];
    let dropped = 2;
    parts.extend_from_slice(rest);
    let length = |parts: &[String]| parts.iter().map(|part| part.chars().count() + 2).sum::<usize>();
    // The last column stays free: a full line would wrap on some terminals.
    while parts.len() > 1 && length(&parts) > columns + 1 {
        parts.pop();
    }
    if let Some(part) = parts.get_mut(dropped).filter(|_| counts.dropped > 0 && !is_plain) {
        *part = format!("\x1b[31m{part}\x1b[0m");
    }
    parts.join("  ")
}

/// As in 1:02:03, or 2:03.
fn clock(elapsed: Duration) -> String {
    let seconds = elapsed.as_secs();
    let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    match hours {
        0 => format!("{minutes}:{seconds:02}"),
        _ => format!("{hours}:{minutes:02}:{seconds:02}"),
    }
}

/// Bytes, as in 5.0 MiB.
pub fn size(bytes: u64) -> String {
    ByteSize(bytes).to_string()
}

/// As in 38,893.
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut grouped = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

/// Shows these lines in place of those before. None of them is longer than the terminal is wide.
fn replace(lines: Vec<String>) {
    let mut shown = shown();
    write(&replaced(&shown, "", &lines));
    *shown = lines;
}

/// Writes whole lines to stderr, over what stands there.
pub(crate) fn write_above(text: &str) {
    let shown = shown();
    write(&replaced(&shown, text, &shown));
}

fn shown() -> MutexGuard<'static, Vec<String>> {
    SHOWN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What takes `before` away, writes `text` there, and `after` below it. All at once, so that nobody sees it half done.
fn replaced(before: &[String], text: &str, after: &[String]) -> String {
    let up = match before.len() {
        0 => String::new(),
        1 => "\r\x1b[J".to_owned(),
        count => format!("\r\x1b[{}A\x1b[J", count - 1),
    };
    [&up, text, &after.join("\n")].concat()
}

fn write(text: &str) {
    // A closed stderr is no reason to stop capturing.
    let _ = io::stderr().write_all(text.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(lines: &[&str]) -> Vec<String> {
        lines.iter().map(|&line| line.to_owned()).collect()
    }

    #[test]
    fn a_line_tells_what_it_has_room_for() {
        let counts = Counts { packets: 38_893, bytes: 5 << 20, dropped: 0 };
        let before = (Counts { packets: 38_000, ..counts }, Duration::from_millis(500));
        let rest = ["buffer 1 %".to_owned()];
        let of = |counts, columns| line(counts, Duration::from_secs(3723), before, &rest, columns, false);
        let whole = "1:02:03  38,893 packets  0 dropped  5.0 MiB  1,786/s  buffer 1 %";
        assert_eq!(of(counts, 80), whole);
        assert_eq!(of(counts, whole.len() + 1), whole);
        assert_eq!(of(counts, whole.len()), whole.trim_end_matches("  buffer 1 %"));
        assert_eq!(of(counts, 5), "1:02:03");
        let lossy = Counts { dropped: 1000, ..counts };
        assert_eq!(of(lossy, 40), "1:02:03  38,893 packets  \x1b[31m1,000 dropped\x1b[0m");
        assert_eq!(line(lossy, Duration::ZERO, before, &[], 40, true), "0:00  38,893 packets  1,000 dropped");
    }

    #[test]
    fn a_table_takes_the_room_that_there_is_and_says_what_is_left_out() {
        let table = |rows| fitting((1..5_usize).map(|n| Ok("x".repeat(n * 3))), rows, 10).unwrap();
        assert_eq!(table(4), ["xxx", "xxxxxx", "xxxxxxxxx", "xxxxxxxxx"]);
        assert_eq!(table(3), ["xxx", "xxxxxx", "     and 2 more"]);
        assert!(fitting((0..0_usize).map(|_| Ok(String::new())), 3, 10).unwrap().is_empty());
        let failing = (0..2_usize).map(|_| Err(anyhow::anyhow!("no counters")));
        assert!(fitting(failing, 3, 10).is_err());
    }

    #[test]
    fn messages_stay_above_what_changes() {
        let (none, one, three) = (lines(&[]), lines(&["12 packets"]), lines(&["a", "b", "12 packets"]));
        assert_eq!(replaced(&none, "", &one), "12 packets");
        assert_eq!(replaced(&one, "", &one), "\r\x1b[J12 packets");
        assert_eq!(replaced(&one, "sniff: hello\n", &one), "\r\x1b[Jsniff: hello\n12 packets");
        assert_eq!(replaced(&three, "", &one), "\r\x1b[2A\x1b[J12 packets");
        assert_eq!(replaced(&one, "", &none), "\r\x1b[J");
        assert_eq!(replaced(&none, "sniff: hello\n", &none), "sniff: hello\n");
    }
}
