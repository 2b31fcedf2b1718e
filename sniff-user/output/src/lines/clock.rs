//! The time in front of a line.

use std::{fmt::Write as _, ops::Range};

use jiff::{Timestamp, civil::DateTime, tz::TimeZone};

use super::style::Time;

const SECOND: u64 = 1_000_000_000;

/// Writes times, each of which is often in the second of the one before.
pub(super) struct Clock {
    zone: TimeZone,
    /// What a time is told from: the packet before, or the first one.
    from: Option<u64>,
    /// A second since 1970, and how it shows.
    second: (u64, String),
}

/// Where the time of day is in a time with its date.
const OF_DAY: Range<usize> = 11..19;

impl Clock {
    pub(super) fn new(zone: TimeZone) -> Self {
        Self { zone, from: None, second: (u64::MAX, String::new()) }
    }

    /// Appends the time of a packet, in nanoseconds since 1970, and a space behind it.
    pub(super) fn write(&mut self, to: &mut Vec<u8>, time: Time, time_ns: u64, nanoseconds: bool) {
        let (mut seconds, mut fraction) = (time_ns / SECOND, time_ns % SECOND);
        match time {
            Time::None => return,
            Time::OfDay => to.extend_from_slice(self.date_and_time(seconds)[OF_DAY].as_bytes()),
            Time::Date => to.extend_from_slice(self.date_and_time(seconds).as_bytes()),
            Time::Epoch => to.extend_from_slice(itoa::Buffer::new().format(seconds).as_bytes()),
            Time::SincePrevious | Time::SinceFirst => {
                let from = *self.from.get_or_insert(time_ns);
                if time == Time::SincePrevious {
                    self.from = Some(time_ns);
                }
                let distance = time_ns.abs_diff(from);
                (seconds, fraction) = (distance / SECOND, distance % SECOND);
                if time_ns < from {
                    to.push(b'-');
                }
                let (hours, minutes) = (seconds / 3600, seconds / 60 % 60);
                to.extend_from_slice(format!("{hours:02}:{minutes:02}:{:02}", seconds % 60).as_bytes());
            }
        }
        to.push(b'.');
        push_digits(to, fraction, if nanoseconds { 9 } else { 6 });
        to.push(b' ');
    }

    /// A second as `2025-10-09 08:53:20`.
    fn date_and_time(&mut self, seconds: u64) -> &str {
        if self.second.0 != seconds {
            self.second.0 = seconds;
            self.second.1.clear();
            let time = i64::try_from(seconds).ok().and_then(|seconds| Timestamp::from_second(seconds).ok());
            let local = time.map_or(DateTime::ZERO, |time| self.zone.to_datetime(time));
            let (date, time) = (local.date(), local.time());
            let (year, month, day) = (date.year(), date.month(), date.day());
            let (hour, minute, second) = (time.hour(), time.minute(), time.second());
            write!(self.second.1, "{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}")
                .expect("writing to memory does not fail");
        }
        &self.second.1
    }
}

/// Appends the first digits of a fraction of a second in nanoseconds.
fn push_digits(to: &mut Vec<u8>, mut nanoseconds: u64, digits: usize) {
    let mut all = [b'0'; 9];
    for digit in all.iter_mut().rev() {
        *digit = b'0' + (nanoseconds % 10) as u8;
        nanoseconds /= 10;
    }
    to.extend_from_slice(&all[..digits]);
}

/// Appends a time in UTC as RFC 3339 has it, to the nanosecond.
pub(super) fn rfc3339(clock_of_utc: &mut Clock, to: &mut Vec<u8>, time_ns: u64) {
    let start = to.len();
    clock_of_utc.write(to, Time::Date, time_ns, true);
    to[start + 10] = b'T';
    if let Some(space) = to.last_mut() {
        *space = b'Z';
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(clock: &mut Clock, time: Time, time_ns: u64, nanoseconds: bool) -> String {
        let mut to = Vec::new();
        clock.write(&mut to, time, time_ns, nanoseconds);
        String::from_utf8(to).unwrap()
    }

    #[test]
    fn each_kind_of_time_is_tcpdumps() {
        let mut clock = Clock::new(TimeZone::posix("NPT-5:45").unwrap());
        let at = 1_760_000_000 * SECOND + 123_456_789;
        for (time, expected) in [
            (Time::OfDay, "14:38:20.123456 "),
            (Time::None, ""),
            (Time::Epoch, "1760000000.123456 "),
            (Time::Date, "2025-10-09 14:38:20.123456 "),
            (Time::SincePrevious, "00:00:00.000000 "),
        ] {
            assert_eq!(shown(&mut clock, time, at, false), expected);
        }
        assert_eq!(
            shown(&mut clock, Time::SincePrevious, at + 3_661 * SECOND + 1, true),
            "01:01:01.000000001 "
        );
        // Packets of several CPUs may come out of order.
        assert_eq!(shown(&mut clock, Time::SincePrevious, at + 3_660 * SECOND, true), "-00:00:01.000000001 ");
        let mut clock = Clock::new(TimeZone::UTC);
        assert_eq!(shown(&mut clock, Time::SinceFirst, at, false), "00:00:00.000000 ");
        for _ in 0..2 {
            let later = at + 100 * 3600 * SECOND + 5_000;
            assert_eq!(shown(&mut clock, Time::SinceFirst, later, false), "100:00:00.000005 ");
        }
    }

    #[test]
    fn a_time_that_no_calendar_has_is_shown() {
        let mut clock = Clock::new(TimeZone::UTC);
        assert_eq!(shown(&mut clock, Time::Date, u64::MAX, true), "2554-07-21 23:34:33.709551615 ");
        let mut utc = Vec::new();
        rfc3339(&mut clock, &mut utc, 1_760_000_000 * SECOND + 7);
        assert_eq!(utc, b"2025-10-09T08:53:20.000000007Z");
    }
}
