//! What changes at the bottom of a terminal while sniff works: a line, and lines of a table above it. Messages go over it
//! and stay; it moves down behind them.

use std::{
    env,
    io::{self, IsTerminal as _, Write as _},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytesize::ByteSize;

/// Time between two looks at what is shown.
pub const INTERVAL: Duration = Duration::from_millis(500);

/// Columns where the terminal does not tell.
const COLUMNS: usize = 80;
const ROWS: usize = 24;

/// What stands there, as it was written.
static SHOWN: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// Columns and rows of the terminal that messages go to; none where they go elsewhere.
pub fn room() -> Option<(usize, usize)> {
    let stderr = io::stderr();
    let size = || terminal_size::terminal_size_of(&stderr);
    stderr.is_terminal().then(|| {
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

/// The line that tells how it goes: what there is `elapsed` after the start, how fast it grows since `before`, so long
/// ago, and `rest`. What has no room in `columns` is left out, the last first; without `is_plain`, a loss is red.
pub fn line(
    counts: Counts,
    elapsed: Duration,
    (before, ago): (Counts, Duration),
    rest: &[String],
    columns: usize,
    is_plain: bool,
) -> String {
    let per_second = (counts.packets - before.packets) as f64 / ago.as_secs_f64().max(0.001);
    let mut parts = vec![
        time(elapsed),
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

/// Whether nothing is to be in colour (no-color.org).
pub fn is_plain() -> bool {
    env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty())
}

/// As in 1:02:03, or 2:03.
fn time(elapsed: Duration) -> String {
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
pub fn show(lines: Vec<String>) {
    let mut shown = shown();
    write(&replaced(&shown, "", &lines));
    *shown = lines;
}

/// Takes it away.
pub fn clear() {
    show(Vec::new());
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
