//! The signals that end a capture.

use std::{future, process};

use anyhow::{Context as _, Result};
use log::warn;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::{exit, proc};

/// SIGINT, SIGTERM, and SIGHUP unless the parent ignores it, as `nohup` does. SIGINT is taken over even then: shells
/// ignore it for what a script starts in the background, and `kill -INT` is how such a script ends a capture.
pub struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hangup: Option<Signal>,
}

impl Signals {
    /// Takes the signals over.
    ///
    /// # Errors
    ///
    /// When the system refuses.
    pub fn take_over() -> Result<Self> {
        let status = proc::own_status()?;
        let ignored = ignored(&status).context("cannot tell which signals are ignored")?;
        let hangup = SignalKind::hangup();
        let hangup_is_ignored = ignored & 1 << (hangup.as_raw_value() - 1) != 0;
        let of = |kind| signal(kind).context("cannot listen for signals");
        Ok(Self {
            interrupt: of(SignalKind::interrupt())?,
            terminate: of(SignalKind::terminate())?,
            hangup: (!hangup_is_ignored).then(|| of(hangup)).transpose()?,
        })
    }

    /// Returns when one of them comes.
    pub async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
            () = hung_up(&mut self.hangup) => {}
        }
    }

    /// Ends the process at once when a person insists: SIGINT or SIGTERM `times` more. A terminal that goes away may
    /// send several SIGHUPs, so those do not count.
    pub async fn end_at_once(mut self, times: u32) {
        for _ in 0..times {
            tokio::select! {
                _ = self.interrupt.recv() => {}
                _ = self.terminate.recv() => {}
            }
        }
        warn!("ended at once: packets that were still in the buffer are lost");
        process::exit(exit::FAILURE.into());
    }
}

async fn hung_up(hangup: &mut Option<Signal>) {
    match hangup {
        Some(hangup) => drop(hangup.recv().await),
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
