//! What a person reads while sniff works: lines on stderr that start with `sniff:`. Standard output is for packets.

use std::{io::Write as _, sync::OnceLock};

use log::{Level, LevelFilter, Log, Metadata, Record};

type Listener = Box<dyn Fn(&str) + Send + Sync>;

/// Who else hears of what a person should read.
static LISTENER: OnceLock<Listener> = OnceLock::new();

/// Writes log lines to stderr. aya-log writes the kernel side's through it too.
pub struct Stderr;

impl Log for Stderr {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= limit(metadata.target().starts_with("sniff"), log::max_level())
    }

    fn log(&self, record: &Record<'_>) {
        if self.enabled(record.metadata()) {
            // Stderr has no buffer: only what is written at once arrives as a line where it leads far away.
            let line = format!("sniff: {}\n", record.args());
            // A closed stderr is no reason to stop capturing.
            let _ = std::io::stderr().write_all(line.as_bytes());
            if let (Level::Warn, Some(listener)) = (record.level(), LISTENER.get()) {
                listener(&record.args().to_string());
            }
        }
    }

    fn flush(&self) {}
}

/// The least important level that is written when `wanted` is.
///
/// Libraries warn of what is dealt with here, in words for those who use the library, and report each of their steps
/// at debug level.
fn limit(ours: bool, wanted: LevelFilter) -> LevelFilter {
    match wanted {
        wanted if ours => wanted,
        LevelFilter::Trace => LevelFilter::Trace,
        LevelFilter::Debug => LevelFilter::Warn,
        wanted => wanted.min(LevelFilter::Error),
    }
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
    fn warnings_of_libraries_are_for_those_who_ask_for_more() {
        for (wanted, foreign) in [
            (LevelFilter::Off, LevelFilter::Off),
            (LevelFilter::Warn, LevelFilter::Error),
            (LevelFilter::Info, LevelFilter::Error),
            (LevelFilter::Debug, LevelFilter::Warn),
            (LevelFilter::Trace, LevelFilter::Trace),
        ] {
            assert_eq!((limit(true, wanted), limit(false, wanted)), (wanted, foreign));
        }
    }
}
