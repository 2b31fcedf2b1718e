//! What a person reads while sniff works: lines on stderr that start with `sniff:`. Standard output is for packets.

use std::sync::OnceLock;

use log::{Level, LevelFilter, Log, Metadata, Record};

use crate::{sanitize::sanitize, status_line};

type Listener = Box<dyn Fn(&str) + Send + Sync>;

/// Who else hears of what a person should read.
static LISTENER: OnceLock<Listener> = OnceLock::new();

/// Writes log lines to stderr. aya-log writes the kernel side's through it too.
pub struct Stderr;

impl Log for Stderr {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= limit(is_ours(metadata.target()), log::max_level())
    }

    fn log(&self, record: &Record<'_>) {
        if self.enabled(record.metadata()) {
            tell(&record.args().to_string());
            if let (Level::Warn, Some(listener)) = (record.level(), LISTENER.get()) {
                listener(&record.args().to_string());
            }
        }
    }

    fn flush(&self) {}
}

/// Tells a person something, in whose words ever: nothing else writes messages to stderr.
pub fn tell(text: &str) {
    // Stderr has no buffer: only what is written at once arrives as a line where it leads far away.
    status_line::write_above(&message(text));
}

/// A message as it is written. Lines after the first are indented: none of them can pass for a message of its own, or
/// for the counts.
fn message(text: &str) -> String {
    format!("sniff: {}\n", sanitize(text).replace('\n', "\n  "))
}

/// Whether a record is from one of sniff's crates.
fn is_ours(target: &str) -> bool {
    target.starts_with("sniff") || target.starts_with("kubectl_sniff")
}

/// The least important level that is written when `wanted` is. What libraries say is never written: it is for those who
/// use the library, may hold what a connection carries, and what matters of it is an error of ours in better words.
fn limit(ours: bool, wanted: LevelFilter) -> LevelFilter {
    if ours { wanted } else { LevelFilter::Off }
}

/// From now on, `listener` hears of each warning too; one listener in a process.
pub fn also_tell(listener: impl Fn(&str) + Send + Sync + 'static) {
    let _ = LISTENER.set(Box::new(listener));
}

/// Starts logging: `quiet` leaves warnings and errors; each `verbose` adds a level.
pub fn start(quiet: bool, verbose: u8) {
    log::set_max_level(match (quiet, verbose) {
        (true, _) => LevelFilter::Warn,
        (false, 0) => LevelFilter::Info,
        (false, 1) => LevelFilter::Debug,
        (false, _) => LevelFilter::Trace,
    });
    // Fails only when a test has set a logger before.
    let _ = log::set_logger(&Stderr);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_cannot_pass_for_another_or_move_the_cursor() {
        assert_eq!(message("pod shop/web-0 is gone"), "sniff: pod shop/web-0 is gone\n");
        assert_eq!(
            message("a\u{1b}[1A\u{1b}[2K\nsniff: all is well\r\n0 packets dropped by kernel"),
            "sniff: a\\u{1b}[1A\\u{1b}[2K\n  sniff: all is well\\r\n  0 packets dropped by kernel\n"
        );
    }

    #[test]
    fn both_programs_are_ours() {
        for target in ["sniff", "kubectl_sniff", "sniff_user::capture"] {
            assert!(is_ours(target), "{target}");
        }
        assert!(!is_ours("kube_client::client::builder"));
    }

    #[test]
    fn only_our_own_words_are_written() {
        let levels =
            [LevelFilter::Off, LevelFilter::Warn, LevelFilter::Info, LevelFilter::Debug, LevelFilter::Trace];
        for wanted in levels {
            assert_eq!((limit(true, wanted), limit(false, wanted)), (wanted, LevelFilter::Off));
        }
    }
}
