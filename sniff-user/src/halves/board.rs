//! What the front half counts, and is to do at once: in memory that both halves see at any time, also while an output stands
//! still.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use sniff_output::Written;

/// What nothing was lost before: no packets are held up.
const NONE: u64 = u64::MAX;

/// The counts. All zero to begin with.
#[derive(Debug, Default)]
#[repr(C)]
pub struct Board {
    /// What was written or printed so far.
    pub written: Written,
    /// Interfaces that the front half was told of, or is about to be.
    announced: AtomicU64,
    fullest_percent: AtomicU64,
    /// Bytes that have gone out to a client.
    moved: AtomicU64,
    /// One more than what had been lost before those packets were held up that are still to go out; 0 when there are none.
    held_up_since: AtomicU64,
    /// Packets that were lost while others were held up.
    held_up: AtomicU64,
    /// Whether a person insists: what is not written is not to be written any more.
    hurry: AtomicBool,
}

impl Board {
    /// Notes that one more interface is described: its packets may come as soon as this returns.
    pub fn announce(&self) {
        self.announced.fetch_add(1, Ordering::SeqCst);
    }

    /// Interfaces whose packets may have come by now: their descriptions are on their way.
    pub fn announced(&self) -> u64 {
        self.announced.load(Ordering::SeqCst)
    }

    /// The largest part of the ring that was ever in use, in per cent.
    pub fn fullest_percent(&self) -> u8 {
        u8::try_from(self.fullest_percent.load(Ordering::Relaxed)).unwrap_or(100)
    }

    /// Notes that.
    pub fn note_fullest(&self, percent: u8) {
        self.fullest_percent.store(percent.into(), Ordering::Relaxed);
    }

    /// Bytes that have gone out to a client.
    pub fn moved(&self) -> u64 {
        self.moved.load(Ordering::Relaxed)
    }

    /// Notes that more have.
    pub fn move_on(&self, bytes: u64) {
        self.moved.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Packets are about to go out; `lost` is how many were lost so far.
    pub fn hold_up(&self, lost: u64) {
        self.held_up_since.store(lost.saturating_add(1), Ordering::Relaxed);
    }

    /// They have gone out.
    pub fn let_go(&self, lost: u64) {
        let meanwhile = self.lost_meanwhile(lost);
        self.held_up.store(meanwhile, Ordering::Relaxed);
        self.held_up_since.store(0, Ordering::Relaxed);
    }

    /// Of `lost` packets, how many were lost while others were held up on their way out.
    pub fn lost_meanwhile(&self, lost: u64) -> u64 {
        let before = self.held_up_since.load(Ordering::Relaxed).checked_sub(1).unwrap_or(NONE);
        self.held_up.load(Ordering::Relaxed).saturating_add(lost.saturating_sub(before))
    }

    /// Has what is not written yet not be written any more.
    pub fn hurry(&self) {
        self.hurry.store(true, Ordering::Relaxed);
    }

    /// Whether that is wanted.
    pub fn is_in_a_hurry(&self) -> bool {
        self.hurry.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_lost_counts_as_held_up_only_meanwhile() {
        let board = Board::default();
        assert_eq!(board.lost_meanwhile(7), 0);
        board.hold_up(7);
        assert_eq!((board.lost_meanwhile(7), board.lost_meanwhile(9)), (0, 2));
        board.let_go(10);
        assert_eq!(board.lost_meanwhile(50), 3);
        board.hold_up(50);
        board.let_go(51);
        assert_eq!(board.lost_meanwhile(99), 4);
    }
}
