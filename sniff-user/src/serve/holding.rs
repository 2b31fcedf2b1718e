//! What a recorder holds, without a look at it: what was recorded since as many bytes as it has room for ago. Pure.

use std::collections::VecDeque;

use crate::agent::wire::Holding;

/// Most moments that are remembered; of more, every second one is forgotten.
const MAX_MOMENTS: usize = 512;

/// What was recorded by when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Moment {
    /// In nanoseconds since the epoch.
    pub(super) time: u64,
    /// Bytes of packets in all.
    pub(super) bytes: u64,
    /// Packets in all.
    pub(super) packets: u64,
}

/// Moments of a recording.
pub(super) struct Holdings {
    room: u64,
    moments: VecDeque<Moment>,
    /// How long ago the last one is to be before another is remembered, in nanoseconds.
    between: u64,
}

impl Holdings {
    /// Of a recorder with `room` bytes.
    pub(super) fn new(room: u64) -> Self {
        Self { room, moments: VecDeque::new(), between: 0 }
    }

    /// Takes in a moment, and says what is held then.
    pub(super) fn at(&mut self, now: Moment) -> Holding {
        if self.moments.back().is_none_or(|last| now.time.saturating_sub(last.time) >= self.between) {
            self.moments.push_back(now);
        }
        if self.moments.len() > MAX_MOMENTS {
            let mut is_kept = false;
            self.moments.retain(|_| {
                is_kept = !is_kept;
                is_kept
            });
            self.between =
                (2 * self.between).max(now.time.saturating_sub(self.moments[0].time) / MAX_MOMENTS as u64);
        }
        let gone = now.bytes.saturating_sub(self.room);
        // From the first moment on by which as much was recorded as is gone, all is held.
        let is_gone = |moment: &Moment| moment.bytes < gone;
        while self.moments.len() > 1 && is_gone(&self.moments[0]) {
            self.moments.pop_front();
        }
        let oldest = self.moments[0];
        let aged_out = if gone > 0 { oldest.packets } else { 0 };
        Holding { bytes: now.bytes - gone, oldest: oldest.time, aged_out, aged_out_bytes: gone }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_held_is_what_was_recorded_last() {
        let mut holdings = Holdings::new(100);
        let mut at = |time, bytes, packets| holdings.at(Moment { time, bytes, packets });
        assert_eq!(at(10, 0, 0), Holding { bytes: 0, oldest: 10, aged_out: 0, aged_out_bytes: 0 });
        assert_eq!(at(20, 60, 6), Holding { bytes: 60, oldest: 10, aged_out: 0, aged_out_bytes: 0 });
        assert_eq!(at(30, 150, 15), Holding { bytes: 100, oldest: 20, aged_out: 6, aged_out_bytes: 50 });
        assert_eq!(at(40, 900, 90), Holding { bytes: 100, oldest: 40, aged_out: 90, aged_out_bytes: 800 });
    }

    #[test]
    fn what_is_remembered_has_a_bound_and_goes_back_as_far_as_what_is_held() {
        let mut holdings = Holdings::new(1_000_000);
        let mut held = Holding::default();
        for time in 0..100_000 {
            held = holdings.at(Moment { time, bytes: time * 100, packets: time });
            assert!(holdings.moments.len() <= MAX_MOMENTS);
        }
        // A million bytes are ten thousand moments.
        assert!((89_000..91_000).contains(&held.oldest), "{held:?}");
    }
}
