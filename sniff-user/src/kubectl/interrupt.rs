//! The signals that ask for an end, on each system.

use anyhow::{Context as _, Result};

/// SIGINT, SIGTERM and SIGHUP; on Windows Ctrl-C, Ctrl-Break, and the closing of the console.
#[cfg(unix)]
pub struct Interrupts([tokio::signal::unix::Signal; 3]);

#[cfg(unix)]
impl Interrupts {
    /// Takes the signals over.
    ///
    /// # Errors
    ///
    /// When the system refuses.
    pub fn take_over() -> Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        let of = |kind| signal(kind).context("cannot listen for signals");
        Ok(Self([of(SignalKind::interrupt())?, of(SignalKind::terminate())?, of(SignalKind::hangup())?]))
    }

    /// Returns when one of them comes.
    pub async fn next(&mut self) {
        let [interrupt, terminate, hangup] = &mut self.0;
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hangup.recv() => {}
        }
    }
}

/// SIGINT, SIGTERM and SIGHUP; on Windows Ctrl-C, Ctrl-Break, and the closing of the console.
#[cfg(windows)]
pub struct Interrupts {
    ctrl_c: tokio::signal::windows::CtrlC,
    ctrl_break: tokio::signal::windows::CtrlBreak,
    close: tokio::signal::windows::CtrlClose,
}

#[cfg(windows)]
impl Interrupts {
    /// Takes the signals over.
    ///
    /// # Errors
    ///
    /// When the system refuses.
    pub fn take_over() -> Result<Self> {
        use tokio::signal::windows::{ctrl_break, ctrl_c, ctrl_close};
        let refused = "cannot listen for signals";
        Ok(Self {
            ctrl_c: ctrl_c().context(refused)?,
            ctrl_break: ctrl_break().context(refused)?,
            close: ctrl_close().context(refused)?,
        })
    }

    /// Returns when one of them comes.
    pub async fn next(&mut self) {
        tokio::select! {
            _ = self.ctrl_c.recv() => {}
            _ = self.ctrl_break.recv() => {}
            _ = self.close.recv() => {}
        }
    }
}
