//! Signals: what they ask for, and what that means at each stage of a capture.
//!
//! They are blocked in every thread and read from a descriptor (signalfd(2)), so that none of them ends the process
//! while a classifier is attached or a block half written, whatever its default action is.

use std::{
    future,
    os::fd::AsFd as _,
    process,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use log::{info, warn};
use nix::{
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::{
        signal::{SigSet, Signal},
        signalfd::{SfdFlags, SignalFd},
    },
};
use sniff_cli::exit;
use tokio::sync::mpsc;

use crate::{halves::Board, targets::proc};

/// Signals that keep their meaning: those that cannot be taken over or say that the program is broken, job control, and
/// those that do nothing by default.
const LEFT_ALONE: [Signal; 13] = [
    Signal::SIGKILL,
    Signal::SIGSTOP,
    Signal::SIGILL,
    Signal::SIGFPE,
    Signal::SIGSEGV,
    Signal::SIGBUS,
    Signal::SIGTSTP,
    Signal::SIGCONT,
    Signal::SIGTTIN,
    Signal::SIGTTOU,
    Signal::SIGCHLD,
    Signal::SIGURG,
    Signal::SIGWINCH,
];
/// Taken over even where the parent ignores them: shells ignore SIGINT for what a script starts in the background, and
/// `kill -INT` is how such a script ends a capture.
const ALWAYS: [Signal; 4] = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGUSR1, Signal::SIGUSR2];
/// Those by which a person insists.
const INSISTENT: [Signal; 3] = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGQUIT];
/// How long after the first signal another one is a person who insists. Until then it is the same wish told twice:
/// `timeout` signals the process and then its group, and a terminal's Ctrl-C reaches sniff and the wrapper that hands
/// it on.
const INSISTENCE: Duration = Duration::from_secs(1);
/// How long an output that is told to end at once may take for what it has begun to write.
const LAST_WRITE: Duration = Duration::from_secs(1);

/// What a signal asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// An end.
    End,
    /// The counts so far: SIGUSR1.
    Counts,
    /// To read the filter again: SIGUSR2.
    Filter,
}

/// Signals that a process can be spared: all but `LEFT_ALONE`.
pub fn all() -> SigSet {
    let mut all = SigSet::all();
    LEFT_ALONE.into_iter().for_each(|signal| all.remove(signal));
    all
}

/// All signals but `LEFT_ALONE`, and but those that the parent ignores, as `nohup` does SIGHUP.
pub struct Signals(SignalFd);

impl Signals {
    /// Takes the signals over, for this thread and those that it starts.
    ///
    /// # Errors
    ///
    /// When the system refuses.
    pub fn take_over() -> Result<Self> {
        let status = proc::own_status()?;
        let ignored = ignored(&status).context("cannot tell which signals are ignored")?;
        let is_ignored = |signal: &Signal| ignored & 1 << (*signal as i32 - 1) != 0;
        let stay_ignored = Signal::iterator().filter(|it| is_ignored(it) && !ALWAYS.contains(it));
        let mut taken = all();
        stay_ignored.for_each(|signal| taken.remove(signal));
        taken.thread_block().context("cannot take over the signals")?;
        let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
        SignalFd::with_flags(&taken, flags).map(Self).context("cannot listen for signals")
    }

    /// Has a thread attend to them, whatever else holds up this one; `board` is where an end in a hurry is told. Until [`Stages::capturing`], an end that is asked
    /// for comes at once: there is nothing to clean up.
    ///
    /// # Errors
    ///
    /// When the system has no thread left.
    pub fn attend(self, board: &'static Board) -> Result<Attended> {
        let (sender, asked) = mpsc::unbounded_channel();
        let stages = Stages { shared: Arc::default(), board };
        let attendant = Attendant { fd: self.0, sender, stages: stages.clone(), first: None };
        thread::Builder::new().name("signals".to_owned()).spawn(move || attendant.run())?;
        Ok(Attended { asked, stages })
    }
}

/// What signals ask of a capture.
pub struct Attended {
    asked: mpsc::UnboundedReceiver<Asked>,
    stages: Stages,
}

impl Attended {
    /// What is asked for next; an end only once.
    pub async fn next(&mut self) -> Asked {
        match self.asked.recv().await {
            Some(asked) => asked,
            // Its thread has seen a person insist, and waits for the end.
            None => future::pending().await,
        }
    }

    /// How far the capture is.
    pub fn stages(&self) -> Stages {
        self.stages.clone()
    }
}

/// How far a capture is, which decides what becomes of a signal. Clones are of the same capture.
#[derive(Clone)]
pub struct Stages {
    shared: Arc<Shared>,
    board: &'static Board,
}

#[derive(Default)]
struct Shared {
    stage: Mutex<Stage>,
    changed: Condvar,
    end: AtomicBool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Stage {
    /// The process may end at any time.
    #[default]
    Preparing,
    /// What is attached must be taken away, and what is written must be whole.
    Capturing,
    /// Nothing is attached any more.
    Detached,
}

impl Stages {
    /// From now on no signal ends the process: something is going to be written or attached.
    pub fn capturing(&self) {
        *self.stage() = Stage::Capturing;
    }

    /// Nothing is attached any more.
    pub fn detached(&self) {
        *self.stage() = Stage::Detached;
        self.shared.changed.notify_all();
    }

    /// Whether a signal has asked for an end.
    pub fn is_to_end(&self) -> bool {
        self.shared.end.load(Ordering::Relaxed)
    }

    fn stage(&self) -> MutexGuard<'_, Stage> {
        self.shared.stage.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The thread that attends to signals.
struct Attendant {
    fd: SignalFd,
    sender: mpsc::UnboundedSender<Asked>,
    stages: Stages,
    /// When the first one asked for an end.
    first: Option<Instant>,
}

impl Attendant {
    fn run(mut self) {
        loop {
            // It fails when a debugger interrupts it.
            let _ = poll(&mut [PollFd::new(self.fd.as_fd(), PollFlags::POLLIN)], PollTimeout::NONE);
            while let Ok(Some(signal)) = self.fd.read_signal() {
                match asks(signal.ssi_signo) {
                    Some(Asked::End) if self.is_insistent(signal.ssi_signo) => return self.hurry(),
                    Some(asked) => self.pass_on(asked),
                    None => {}
                }
            }
        }
    }

    fn pass_on(&mut self, asked: Asked) {
        let stage = self.stages.stage();
        match (*stage, asked) {
            // With the lock held, so that nothing is attached meanwhile.
            (Stage::Preparing, Asked::End) => {
                warn!("ended before it listened: nothing was captured");
                process::exit(exit::FAILURE.into());
            }
            (Stage::Preparing, _) => info!("nothing is captured yet"),
            (_, Asked::End) if self.first.is_some() => {}
            (..) => {
                if asked == Asked::End {
                    self.first = Some(Instant::now());
                    self.stages.shared.end.store(true, Ordering::Relaxed);
                }
                // The capture may have ended by itself.
                let _ = self.sender.send(asked);
            }
        }
    }

    /// Whether a person has asked for an end before, and sees that it takes its time. A terminal that goes away may send
    /// several SIGHUPs, so those do not count.
    fn is_insistent(&self, signal: u32) -> bool {
        let by_a_person = INSISTENT.iter().any(|it| *it as u32 == signal);
        by_a_person && self.first.is_some_and(|first| first.elapsed() >= INSISTENCE)
    }

    /// Ends the process soon, in one way or the other.
    fn hurry(self) {
        let shared = &self.stages.shared;
        self.stages.board.hurry();
        // A capture that is attached by clsact must be detached first.
        let stage = shared.changed.wait_while(self.stages.stage(), |stage| *stage != Stage::Detached);
        drop(stage);
        thread::sleep(LAST_WRITE);
        warn!("ended at once: packets that were still in the buffer are lost");
        process::exit(exit::FAILURE.into());
    }
}

/// What a signal asks for; nothing when it only says how the output is.
fn asks(signal: u32) -> Option<Asked> {
    match Signal::try_from(signal as i32) {
        Ok(Signal::SIGUSR1) => Some(Asked::Counts),
        Ok(Signal::SIGUSR2) => Some(Asked::Filter),
        // Whoever writes gets an error.
        Ok(Signal::SIGPIPE | Signal::SIGXFSZ) => None,
        // Real-time signals, too.
        _ => Some(Asked::End),
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
