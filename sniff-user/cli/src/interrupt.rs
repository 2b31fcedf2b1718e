//! The signals that ask for an end, on each system.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use self::system::Signals;

/// Signals that come within this time are one: `timeout` sends each twice, to the process and to its group.
const ONE: Duration = Duration::from_millis(500);

/// SIGINT, SIGTERM, SIGQUIT, SIGALRM, and SIGHUP unless the parent ignores it, as `nohup` does; on Windows Ctrl-C,
/// Ctrl-Break, and the closing of the console.
pub struct Interrupts {
    signals: Signals,
    last: Option<Instant>,
}

impl Interrupts {
    /// Takes the signals over.
    ///
    /// # Errors
    ///
    /// When the system refuses.
    pub fn take_over() -> Result<Self> {
        Ok(Self { signals: Signals::take_over().context("cannot listen for signals")?, last: None })
    }

    /// Returns when one of them comes, a while after the one before.
    pub async fn next(&mut self) {
        loop {
            self.signals.next().await;
            if self.last.is_none_or(|last| last.elapsed() >= ONE) {
                self.last = Some(Instant::now());
                return;
            }
        }
    }
}

#[cfg(unix)]
mod system {
    use std::{
        future::poll_fn,
        io,
        process::{Command, Stdio},
        task::Poll,
    };

    use tokio::signal::unix::{Signal, SignalKind, signal};

    /// SIGXFSZ, on every Unix that sniff is built for. With it taken over, a write beyond a limit on file size fails as
    /// on a full disk.
    const FILE_SIZE: i32 = 25;

    pub(super) struct Signals {
        ends: Vec<Signal>,
        /// Those that would end the process and are not for that.
        _others: Vec<Signal>,
    }

    impl Signals {
        pub(super) fn take_over() -> io::Result<Self> {
            // While it still is as the parent left it.
            let hangup = (!is_hangup_ignored()).then(SignalKind::hangup);
            let ends =
                [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::quit(), SignalKind::alarm()];
            let others =
                [SignalKind::from_raw(FILE_SIZE), SignalKind::user_defined1(), SignalKind::user_defined2()];
            Ok(Self {
                ends: ends.into_iter().chain(hangup).map(signal).collect::<io::Result<_>>()?,
                _others: others.into_iter().map(signal).collect::<io::Result<_>>()?,
            })
        }

        pub(super) async fn next(&mut self) {
            poll_fn(|context| {
                // All of them are asked, so that each wakes this.
                let came = self.ends.iter_mut().filter_map(|signal| match signal.poll_recv(context) {
                    Poll::Ready(came) => came,
                    Poll::Pending => None,
                });
                if came.count() > 0 { Poll::Ready(()) } else { Poll::Pending }
            })
            .await;
        }
    }

    /// What the parent ignores, a child of ours ignores too: whether the signal ends it tells.
    fn is_hangup_ignored() -> bool {
        let survives = Command::new("/bin/sh")
            .args(["-c", "kill -HUP $$"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
        survives.is_ok_and(|status| status.success())
    }
}

#[cfg(windows)]
mod system {
    use std::io;

    use tokio::signal::windows::{CtrlBreak, CtrlC, CtrlClose, ctrl_break, ctrl_c, ctrl_close};

    pub(super) struct Signals {
        ctrl_c: CtrlC,
        ctrl_break: CtrlBreak,
        close: CtrlClose,
    }

    impl Signals {
        pub(super) fn take_over() -> io::Result<Self> {
            Ok(Self { ctrl_c: ctrl_c()?, ctrl_break: ctrl_break()?, close: ctrl_close()? })
        }

        pub(super) async fn next(&mut self) {
            tokio::select! {
                _ = self.ctrl_c.recv() => {}
                _ = self.ctrl_break.recv() => {}
                _ = self.close.recv() => {}
            }
        }
    }
}
