//! When a person is told that packets are lost, or soon will be: as it begins, once, and not again while it goes on.

use std::time::{Duration, Instant};

/// How full a buffer is, in per cent, when that is told.
const LEVELS: [u8; 2] = [75, 90];
/// Below this, the next time that it fills is another.
const CALM: u8 = 50;
/// Without a loss for so long, the next one is another.
const PAUSE: Duration = Duration::from_secs(10);

/// What there is to tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Alert {
    /// The buffer is so full, in per cent.
    Filling(u8),
    /// Packets are being lost.
    Losing,
    /// They were, so many; none has been for a while.
    Over(u64),
}

/// What was told so far.
#[derive(Debug, Default)]
pub struct Alarm {
    /// How many of [`LEVELS`].
    levels: usize,
    /// Packets lost at the last look.
    lost: u64,
    losing: Option<Losing>,
}

/// Packets are being lost.
#[derive(Debug)]
struct Losing {
    /// How many had been before.
    before: u64,
    /// When more of them were seen last.
    last: Instant,
}

impl Alarm {
    /// What there is to tell when the buffer is so full and so many packets were lost since the start.
    pub fn look(&mut self, full_percent: u8, lost: u64, now: Instant) -> Vec<Alert> {
        let mut alerts = Vec::new();
        let reached = LEVELS.iter().filter(|&&level| full_percent >= level).count();
        if reached > self.levels {
            alerts.push(Alert::Filling(full_percent));
            self.levels = reached;
        } else if full_percent < CALM {
            self.levels = 0;
        }
        let before = std::mem::replace(&mut self.lost, lost);
        match &mut self.losing {
            Some(losing) if lost > before => losing.last = now,
            Some(losing) if now.saturating_duration_since(losing.last) >= PAUSE => {
                alerts.push(Alert::Over(lost - losing.before));
                self.losing = None;
            }
            Some(_) => {}
            None if lost > before => {
                alerts.push(Alert::Losing);
                self.losing = Some(Losing { before, last: now });
            }
            None => {}
        }
        alerts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_level_is_told_once_until_the_buffer_is_calm_again() {
        let (mut alarm, now) = (Alarm::default(), Instant::now());
        let mut look = |percent| alarm.look(percent, 0, now);
        for percent in [0, 74] {
            assert_eq!(look(percent), []);
        }
        assert_eq!(look(75), [Alert::Filling(75)]);
        for percent in [89, 60, 80] {
            assert_eq!(look(percent), [], "{percent}");
        }
        assert_eq!(look(93), [Alert::Filling(93)]);
        assert_eq!(look(100), []);
        assert_eq!(look(49), []);
        assert_eq!(look(99), [Alert::Filling(99)], "once, though two levels are passed");
    }

    #[test]
    fn a_loss_is_told_as_it_begins_and_when_it_is_over() {
        let (mut alarm, start) = (Alarm::default(), Instant::now());
        let mut look = |lost, seconds| alarm.look(0, lost, start + Duration::from_secs(seconds));
        assert_eq!(look(0, 0), []);
        assert_eq!(look(3, 1), [Alert::Losing]);
        assert_eq!(look(9, 2), []);
        assert_eq!(look(9, 11), []);
        assert_eq!(look(9, 12), [Alert::Over(9)]);
        assert_eq!(look(9, 50), []);
        assert_eq!(look(11, 51), [Alert::Losing]);
        assert_eq!(look(11, 70), [Alert::Over(2)]);
    }
}
