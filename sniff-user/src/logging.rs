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
        let level = metadata.level();
        let ours = metadata.target().starts_with("sniff");
        // Libraries report each of their steps at debug level.
        level <= log::max_level() && (ours || level <= Level::Warn || log::max_level() == LevelFilter::Trace)
    }

    fn log(&self, record: &Record<'_>) {
        if self.enabled(record.metadata()) {
            // A closed stderr is no reason to stop capturing.
            let _ = writeln!(std::io::stderr(), "sniff: {}", record.args());
            if let (Level::Warn, Some(listener)) = (record.level(), LISTENER.get()) {
                listener(&record.args().to_string());
            }
        }
    }

    fn flush(&self) {}
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
