//! Whether compressing pays on the way to the client, judged by how long the way has taken what was sent.
//!
//! A way that has room gets packets as they are: compressing would only take CPU time from the node's pods. One that is
//! nearly full loses packets soon, and fewer bytes are what helps. Over an exec that is the network to the client, the
//! API server, or the client itself.

use std::time::{Duration, Instant};

/// How long is looked at before it is decided anew. The buffer between the kernel and sniff takes what comes meanwhile.
const PERIOD: Duration = Duration::from_millis(250);
/// Bytes a second from which on the way is as fast as compressing is, and better left to itself.
const FAST: f64 = (256 << 20) as f64;
/// How long it is remembered how much the way has taken; it may be another one by then.
const MEMORY: Duration = Duration::from_secs(60);

/// The way to the client, as it has been lately.
pub(super) struct Link {
    /// Begin of the period that is being looked at.
    since: Instant,
    /// Bytes of packets in it, and of them as they were sent.
    wanted: usize,
    sent: usize,
    /// For how long the way has held them up.
    held_up: Duration,
    /// Bytes a second that it took when it was last busy half of the time, and when that was.
    known: Option<(f64, Instant)>,
    is_short: bool,
}

impl Link {
    /// One of which nothing is known yet.
    pub(super) fn new(now: Instant) -> Self {
        Self { since: now, wanted: 0, sent: 0, held_up: Duration::ZERO, known: None, is_short: false }
    }

    /// Whether it takes less than is wanted, or hardly more.
    pub(super) fn is_short(&self) -> bool {
        self.is_short
    }

    /// Notes that `wanted` bytes went out as `sent` bytes, which took `held_up` until `now`.
    pub(super) fn took(&mut self, wanted: usize, sent: usize, held_up: Duration, now: Instant) {
        self.wanted += wanted;
        self.sent += sent;
        self.held_up += held_up;
        let period = now.saturating_duration_since(self.since);
        if period >= PERIOD {
            self.decide(period, now);
            *self = Self { known: self.known, is_short: self.is_short, ..Self::new(now) };
        }
    }

    fn decide(&mut self, period: Duration, now: Instant) {
        if self.held_up >= period / 2 {
            self.known = Some((self.sent as f64 / self.held_up.as_secs_f64(), now));
        }
        self.known = self.known.filter(|(_, then)| now.saturating_duration_since(*then) < MEMORY);
        // Uncompressed. While that is compressed the way may well be idle, which does not make it a faster one.
        let wanted = self.wanted as f64 / period.as_secs_f64();
        self.is_short = self.known.is_some_and(|(rate, _)| rate < FAST && wanted > rate / 2.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: usize = 1 << 20;

    /// A link, with packets that compress to a third.
    struct Trial {
        link: Link,
        now: Instant,
    }

    impl Trial {
        fn new() -> Self {
            let now = Instant::now();
            Self { link: Link::new(now), now }
        }

        /// Has so many MiB of packets come in each of so many seconds, to a link that takes `rate` MiB a second. Returns for
        /// how many hundredths of a second they were compressed.
        fn pass(&mut self, seconds: u32, offered: usize, rate: usize) -> u32 {
            const TICK: Duration = Duration::from_millis(10);
            let (mut compressed, mut left) = (0, 0);
            for _ in 0..seconds * 100 {
                left += offered * MIB / 100;
                let is_short = self.link.is_short();
                compressed += u32::from(is_short);
                // What the link does not take in this tick waits in the ring.
                let most = rate * MIB / 100 * if is_short { 3 } else { 1 };
                let wanted = left.min(most);
                let sent = if is_short { wanted / 3 } else { wanted };
                left -= wanted;
                self.now += TICK;
                let held_up = TICK.mul_f64(sent as f64 / (rate * MIB / 100) as f64);
                self.link.took(wanted, sent, held_up, self.now);
            }
            compressed
        }
    }

    #[test]
    fn a_link_with_room_gets_packets_as_they_are() {
        assert_eq!(Trial::new().pass(10, 10, 100), 0);
        assert_eq!(Trial::new().pass(10, 0, 100), 0);
    }

    #[test]
    fn a_link_that_is_full_gets_them_compressed_and_goes_on_so() {
        let mut trial = Trial::new();
        let compressed = trial.pass(20, 90, 50);
        assert!(compressed >= 1_960, "all but the first period, though compressed it has room: {compressed}");
    }

    #[test]
    fn a_link_has_room_again_when_less_is_wanted() {
        let mut trial = Trial::new();
        trial.pass(5, 90, 50);
        assert!(trial.pass(5, 10, 50) <= 26, "one period more at most");
        assert!(trial.pass(5, 90, 50) >= 470, "what it takes is known by then");
    }

    #[test]
    fn a_link_that_has_become_faster_is_found_out() {
        let mut trial = Trial::new();
        trial.pass(5, 90, 50);
        assert_eq!(trial.pass(50, 90, 200), 5_000, "it is not tried while it is known");
        trial.pass(10, 90, 200);
        assert_eq!(trial.pass(10, 90, 200), 0);
    }

    #[test]
    fn a_link_as_fast_as_compressing_is_left_alone() {
        assert_eq!(Trial::new().pass(10, 900, 400), 0);
    }
}
