//! Whether packets come faster than they should. Pure.

use std::time::{Duration, Instant};

/// Time over which they are counted, at least: few packets that come at once are not many a second.
const LEAST: Duration = Duration::from_millis(900);

/// How many there were at a time.
pub(super) struct Rate {
    /// So many a second are no alarm.
    limit: u64,
    last: Option<(Instant, u64)>,
    is_above: bool,
}

impl Rate {
    pub(super) fn new(limit: u32) -> Self {
        Self { limit: limit.into(), last: None, is_above: false }
    }

    /// Takes in how many there are by now. Returns how many a second come, when they begin to be too many.
    pub(super) fn at(&mut self, now: Instant, count: u64) -> Option<u64> {
        let &mut (since, before) = self.last.get_or_insert((now, count));
        let passed = now.saturating_duration_since(since);
        if passed < LEAST {
            return None;
        }
        self.last = Some((now, count));
        let rate = u128::from(count.saturating_sub(before)) * 1000 / passed.as_millis();
        let (was_above, rate) = (self.is_above, u64::try_from(rate).unwrap_or(u64::MAX));
        self.is_above = rate > self.limit;
        (self.is_above && !was_above).then_some(rate)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_alarm_is_told_once_until_it_was_over() {
        let (mut rate, begin) = (Rate::new(100), Instant::now());
        let mut count = 0;
        let mut at = |millis, more| {
            count += more;
            rate.at(begin + Duration::from_millis(millis), count)
        };
        // Before there is a second to go by.
        assert_eq!([at(0, 1000), at(20, 50), at(100, 30)], [None; 3]);
        assert_eq!([at(1000, 20), at(2000, 100)], [None; 2], "as many as may be");
        assert_eq!([at(3000, 101), at(4000, 500), at(5000, 101)], [Some(101), None, None]);
        assert_eq!([at(6000, 0), at(8000, 300)], [None, Some(150)]);
    }

    #[test]
    fn a_burst_counts_for_the_time_that_it_was_looked_at() {
        let (mut rate, begin) = (Rate::new(100), Instant::now());
        assert_eq!(rate.at(begin, 0), None);
        assert_eq!(rate.at(begin + Duration::from_secs(60), 6000), None);
        assert_eq!(rate.at(begin + Duration::from_secs(120), 12_060), Some(101));
    }
}
