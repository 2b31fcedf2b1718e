//! From the kernel's clock to the wall clock, once.
//!
//! The kernel side stamps packets with `CLOCK_BOOTTIME`, which never steps and goes on through suspend. The
//! difference to `CLOCK_REALTIME` is measured when the capture starts and added to every time stamp in the kernel.
//! A clock step in mid-capture thus moves no packet: intervals stay true, and all are off by the step.

use anyhow::Result;
use nix::time::{ClockId, clock_gettime};

/// How often to measure; the tightest measurement wins.
const TRIES: usize = 8;

/// Nanoseconds to add to `CLOCK_BOOTTIME` for the time since the Unix epoch.
///
/// # Errors
///
/// When the kernel lacks one of the clocks.
pub fn boot_to_epoch() -> Result<u64> {
    let mut best = (u64::MAX, 0);
    for _ in 0..TRIES {
        let before = boot()?;
        let epoch = now()?;
        let after = boot()?;
        let window = after - before;
        best = best.min((window, epoch.saturating_sub(before + window / 2)));
    }
    Ok(best.1)
}

/// Nanoseconds of `CLOCK_BOOTTIME`, by which the kernel side stamps packets.
///
/// # Errors
///
/// When the kernel lacks this clock.
pub fn boot() -> Result<u64> {
    nanoseconds(ClockId::CLOCK_BOOTTIME)
}

/// Nanoseconds since the Unix epoch.
///
/// # Errors
///
/// Never in practice: every kernel has this clock.
pub fn now() -> Result<u64> {
    nanoseconds(ClockId::CLOCK_REALTIME)
}

fn nanoseconds(clock: ClockId) -> Result<u64> {
    let time = clock_gettime(clock)?;
    Ok(time.tv_sec() as u64 * 1_000_000_000 + time.tv_nsec() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offset_turns_boot_time_into_wall_clock_time() {
        let offset = boot_to_epoch().unwrap();
        let converted = boot().unwrap() + offset;
        assert!(now().unwrap().abs_diff(converted) < 10_000_000, "off by more than 10 ms");
    }
}
