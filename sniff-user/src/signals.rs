//! The signals that end a capture.

use std::{fs, future, process};

use anyhow::{Context as _, Result};
use log::warn;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::exit;

/// SIGINT, SIGTERM and SIGHUP, but for those that the parent ignores, as `nohup` and shells in scripts do.
pub struct Signals {
    interrupt: Option<Signal>,
    terminate: Option<Signal>,
    hangup: Option<Signal>,
}

impl Signals {
    /// Takes the signals over.
    ///
    /// # Errors
    ///
    /// When the system refuses.
    pub fn take_over() -> Result<Self> {
        let path = "/proc/self/status";
        let status = fs::read_to_string(path).with_context(|| format!("cannot read {path}"))?;
        let ignored = ignored(&status).context("cannot tell which signals are ignored")?;
        let of = |kind: SignalKind| {
            let is_ignored = ignored & 1 << (kind.as_raw_value() - 1) != 0;
            (!is_ignored).then(|| signal(kind).context("cannot listen for signals")).transpose()
        };
        Ok(Self {
            interrupt: of(SignalKind::interrupt())?,
            terminate: of(SignalKind::terminate())?,
            hangup: of(SignalKind::hangup())?,
        })
    }

    /// Returns when one of them comes.
    pub async fn next(&mut self) {
        tokio::select! {
            () = one(&mut self.interrupt) => {}
            () = one(&mut self.terminate) => {}
            () = one(&mut self.hangup) => {}
        }
    }

    /// Ends the process at once when a person insists: SIGINT or SIGTERM `times` more. A terminal that goes away may
    /// send several SIGHUPs, so those do not count.
    pub async fn end_at_once(mut self, times: u32) {
        for _ in 0..times {
            tokio::select! {
                () = one(&mut self.interrupt) => {}
                () = one(&mut self.terminate) => {}
            }
        }
        warn!("ended at once: packets that were still in the buffer are lost");
        process::exit(exit::FAILURE.into());
    }
}

async fn one(signal: &mut Option<Signal>) {
    match signal {
        Some(signal) => drop(signal.recv().await),
        None => future::pending().await,
    }
}

/// The mask of ignored signals, signal 1 lowest, out of `/proc/PID/status`.
fn ignored(status: &str) -> Option<u64> {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"))?;
    u64::from_str_radix(mask.trim(), 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ignored_signals_are_read_from_the_mask() {
        assert_eq!(ignored("SigBlk:\t0\nSigIgn:\t0000000000001001\n"), Some(0x1001));
        assert_eq!(ignored("Name:\tsniff\n"), None);
    }
}
