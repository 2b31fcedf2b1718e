//! Which CPU a thread runs on, and how long threads and processes have run.

use std::{fs, time::Duration};

use anyhow::{Context as _, Result, bail, ensure};
use nix::{
    sched::{CpuSet, sched_setaffinity},
    time::ClockId,
    unistd::Pid,
};

/// Where packets are sent from.
pub const SENDER: usize = 0;
/// Where the tools run, and the second sender.
pub const TOOL: usize = 1;

/// Keeps the calling thread, and what it starts, on one CPU.
pub fn pin(cpu: usize) -> Result<()> {
    let mut set = CpuSet::new();
    set.set(cpu)?;
    sched_setaffinity(Pid::from_raw(0), &set).with_context(|| format!("cannot run on cpu {cpu}"))
}

/// CPU time of all threads of a process, user and system, ended threads included.
pub fn of_process(pid: Pid) -> Result<Duration> {
    let clock = ClockId::pid_cpu_clock_id(pid).with_context(|| format!("process {pid} has ended"))?;
    Ok(clock.now().with_context(|| format!("process {pid} has ended"))?.into())
}

/// A process and those that its first thread has started.
pub fn family(pid: Pid) -> Result<Vec<Pid>> {
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"))
        .with_context(|| format!("process {pid} has ended"))?;
    let children = children.split_whitespace().map(|word| Ok(Pid::from_raw(word.parse()?)));
    [Ok(pid)].into_iter().chain(children).collect()
}

/// Whether all threads of a process sleep. One that waits for a CPU does not, nor one that waits for memory or a disk.
pub fn sleeps(pid: Pid) -> Result<bool> {
    for task in
        fs::read_dir(format!("/proc/{pid}/task")).with_context(|| format!("process {pid} has ended"))?
    {
        // A thread may end meanwhile.
        if let Ok(stat) = fs::read_to_string(task?.path().join("stat"))
            && parse_state(&stat)? != 'S'
        {
            return Ok(false);
        }
    }
    Ok(true)
}

/// The state of a thread, from its `stat` (proc_pid_stat(5)); its name may hold anything.
fn parse_state(stat: &str) -> Result<char> {
    let state = stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next());
    state.with_context(|| format!("unexpected stat {stat:?}"))
}

/// The time that a thread ran, and the time that it waited for a CPU
/// (Documentation/scheduler/sched-stats.rst).
fn parse_schedstat(schedstat: &str) -> Result<[Duration; 2]> {
    let mut fields = schedstat.split_whitespace().map(|field| field.parse().map(Duration::from_nanos));
    match (fields.next(), fields.next()) {
        (Some(Ok(ran)), Some(Ok(waited))) => Ok([ran, waited]),
        _ => bail!("unexpected schedstat {schedstat:?}"),
    }
}

/// What the calling thread has used so far.
#[derive(Clone, Copy, Debug)]
pub struct ThreadTimes {
    ran: Duration,
    waited: Duration,
    clock: Duration,
}

/// What a thread used for a piece of work.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spent {
    /// CPU time of the thread.
    pub ran: Duration,
    /// Ready to run, while others had the CPU.
    pub waited: Duration,
    /// On the clock at the wall.
    pub wall: Duration,
}

impl ThreadTimes {
    /// Of the calling thread, now.
    pub fn now() -> Result<Self> {
        let schedstat = fs::read_to_string("/proc/thread-self/schedstat")
            .context("no /proc/thread-self/schedstat; the kernel lacks CONFIG_SCHED_INFO")?;
        let [_, waited] = parse_schedstat(&schedstat)?;
        Ok(Self {
            ran: ClockId::CLOCK_THREAD_CPUTIME_ID.now()?.into(),
            waited,
            clock: ClockId::CLOCK_MONOTONIC.now()?.into(),
        })
    }

    /// What the thread has used since.
    pub fn spent(&self) -> Result<Spent> {
        let now = Self::now()?;
        Ok(Spent {
            ran: now.ran.saturating_sub(self.ran),
            waited: now.waited.saturating_sub(self.waited),
            wall: now.clock.saturating_sub(self.clock),
        })
    }
}

impl Spent {
    /// Whether the kernel adds the time of softirqs to the thread that they interrupt, judged from a
    /// thread that never slept: what is then missing from its clocks went to softirqs.
    ///
    /// It does not with `CONFIG_IRQ_TIME_ACCOUNTING`.
    ///
    /// # Errors
    /// The thread did not run at all.
    pub fn includes_softirqs(&self) -> Result<bool> {
        ensure!(!self.wall.is_zero() && !self.ran.is_zero(), "the sender took no time");
        Ok((self.ran + self.waited).as_secs_f64() >= 0.85 * self.wall.as_secs_f64())
    }

    /// The time that the work took on its CPU, softirqs included.
    pub fn with_softirqs(&self, included: bool) -> Duration {
        if included { self.ran } else { self.wall.saturating_sub(self.waited) }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{Spent, parse_schedstat, parse_state};

    fn spent(ran: u64, waited: u64, wall: u64) -> Spent {
        let [ran, waited, wall] = [ran, waited, wall].map(Duration::from_millis);
        Spent { ran, waited, wall }
    }

    #[test]
    fn schedstat_tells_two_times() {
        let times = parse_schedstat("1000 20 3\n").unwrap();
        assert_eq!(times, [1000, 20].map(Duration::from_nanos));
        assert!(parse_schedstat("1000\n").is_err() && parse_schedstat("a b c").is_err());
    }

    #[test]
    fn a_thread_has_a_state_whatever_its_name() {
        assert_eq!(parse_state("7 (a) S (b) R 1 7 7 0").unwrap(), 'R');
        assert_eq!(parse_state("7 (drain) S 1 7 7 0").unwrap(), 'S');
        assert!(parse_state("7").is_err());
    }

    #[test]
    fn softirqs_are_told_from_other_processes() {
        let alone = spent(995, 0, 1000);
        assert!(alone.includes_softirqs().unwrap());
        assert_eq!(alone.with_softirqs(true), alone.ran);

        let beside_another = spent(500, 480, 1000);
        assert!(beside_another.includes_softirqs().unwrap());

        let irq_time_accounting = spent(300, 100, 1000);
        assert!(!irq_time_accounting.includes_softirqs().unwrap());
        assert_eq!(irq_time_accounting.with_softirqs(false), Duration::from_millis(900));

        assert!(spent(0, 0, 0).includes_softirqs().is_err());
    }
}
