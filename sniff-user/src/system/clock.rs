//! The one clock of a capture, that of its packets: from the kernel's clock to the wall clock, once.
//!
//! The kernel side stamps packets with the machine's boot clock, which never steps and goes on through suspend. The
//! difference to the wall clock is measured when the capture starts and added to every stamp in the kernel. A step of the
//! wall clock in mid-capture thus moves no packet: intervals stay true, and all are off by the step. Whatever else is
//! compared with packets, or written beside them, has its time from here too, and so agrees with them.
//!
//! In a time namespace, `CLOCK_BOOTTIME` is another clock than the machine's, off by a constant (time_namespaces(7)). What
//! BPF programs see is the machine's, so one of them is asked.

use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Result;
use nix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

/// How often to measure; the tightest measurement wins.
const TRIES: usize = 8;

/// Tells the time as the packets do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Clock {
    /// From this process's boot clock to the Unix epoch, in nanoseconds; wraps, as all here.
    epoch: u64,
    /// How far the machine's boot clock is ahead of this process's.
    ahead: u64,
}

impl Clock {
    /// Measures it. `machine_boot` reads the machine's boot clock, in nanoseconds.
    ///
    /// # Errors
    ///
    /// When a clock cannot be read.
    pub fn measure(machine_boot: impl Fn() -> Result<u64>) -> Result<Self> {
        let epoch = difference(|| Ok(now()))?.middle();
        Ok(Self { epoch, ahead: difference(machine_boot)?.zero_or_middle() })
    }

    /// Nanoseconds to add to the machine's boot clock for the time since the Unix epoch.
    pub fn offset(self) -> u64 {
        self.epoch.wrapping_sub(self.ahead)
    }

    /// Nanoseconds since the Unix epoch, by the clock of the packets.
    ///
    /// # Errors
    ///
    /// When the kernel lacks the boot clock.
    pub fn now(self) -> Result<u64> {
        Ok(own_boot()?.wrapping_add(self.epoch))
    }
}

/// Nanoseconds since the Unix epoch, by the wall clock, which may step.
pub fn now() -> u64 {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since_epoch.as_nanos()).unwrap_or(u64::MAX)
}

/// How far a clock is ahead of this process's boot clock: between these two, which may be negative.
#[derive(Clone, Copy)]
struct Difference {
    least: i64,
    most: i64,
}

impl Difference {
    fn middle(self) -> u64 {
        (self.least + (self.most - self.least) / 2) as u64
    }

    /// Clocks that may be the same are.
    fn zero_or_middle(self) -> u64 {
        if self.least <= 0 && self.most >= 0 { 0 } else { self.middle() }
    }
}

/// Reads the other clock between two looks at this process's boot clock, in the tightest of some tries.
fn difference(other: impl Fn() -> Result<u64>) -> Result<Difference> {
    let once = || -> Result<Difference> {
        let (before, time, after) = (own_boot()?, other()?, own_boot()?);
        Ok(Difference { least: time.wrapping_sub(after) as i64, most: time.wrapping_sub(before) as i64 })
    };
    let mut best = once()?;
    for _ in 1..TRIES {
        let next = once()?;
        if next.most - next.least < best.most - best.least {
            best = next;
        }
    }
    Ok(best)
}

/// Nanoseconds of `CLOCK_BOOTTIME`, in this process's time namespace.
fn own_boot() -> Result<u64> {
    let time = clock_gettime(ClockId::CLOCK_BOOTTIME)?;
    Ok(time.tv_sec() as u64 * 1_000_000_000 + time.tv_nsec() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOLERANCE: u64 = 10_000_000;

    #[test]
    fn the_clock_of_packets_shows_the_wall_clocks_time() {
        let clock = Clock::measure(own_boot).unwrap();
        assert_eq!(clock.ahead, 0, "the same clock");
        assert!(now().abs_diff(clock.now().unwrap()) < TOLERANCE, "off by more than 10 ms");
        let stamp = own_boot().unwrap().wrapping_add(clock.offset());
        assert!(now().abs_diff(stamp) < TOLERANCE, "off by more than 10 ms");
    }

    #[test]
    fn a_machines_clock_that_is_not_this_processs_is_found_out() {
        const DAYS: u64 = 10_000_000_000_000_000;
        for shift in [DAYS, DAYS.wrapping_neg(), 60_000_000_000_u64.wrapping_neg()] {
            let machine_boot = || Ok(own_boot()?.wrapping_add(shift));
            let clock = Clock::measure(machine_boot).unwrap();
            let stamp = machine_boot().unwrap().wrapping_add(clock.offset());
            assert!(now().abs_diff(stamp) < TOLERANCE, "a stamp off by more than 10 ms");
            assert!(stamp.abs_diff(clock.now().unwrap()) < TOLERANCE, "statistics and packets disagree");
        }
    }
}
