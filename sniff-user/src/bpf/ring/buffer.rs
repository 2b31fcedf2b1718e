//! Blocks out of the BPF ring buffer: each in a record of its size class, to be copied out of its padding.

use std::{
    io,
    ops::Range,
    os::fd::{AsFd, BorrowedFd},
};

use sniff_pcapng::PacketHead;

use super::{
    Sorting,
    gauge::Room,
    records::{Pause, Records},
};

/// Most bytes of records taken at a time, so that the ones who wait for their turn are heard.
const ENOUGH: usize = 4 << 20;

/// The ring buffer's blocks.
pub struct Buffer {
    records: Records,
    /// Blocks that are taken and not handed out, without padding.
    window: Vec<u8>,
    /// Where each lies in `window`, and its time.
    blocks: Vec<(u64, Range<usize>)>,
    most_used: usize,
}

impl Buffer {
    pub fn new(records: Records) -> Self {
        Self { records, window: Vec::new(), blocks: Vec::new(), most_used: 0 }
    }

    /// Takes what is there. Returns whether everything is in sight that had been reserved, and whether there is more.
    ///
    /// # Errors
    ///
    /// When the ring is broken.
    pub fn look(&mut self, sorting: Sorting) -> io::Result<(bool, bool)> {
        self.most_used = self.most_used.max(self.records.used());
        let Self { records, window, blocks, .. } = self;
        let mut broken = Ok(());
        let pause = records.read(ENOUGH, |record| match PacketHead::parse(record) {
            Ok(head) => {
                let start = window.len();
                window.extend_from_slice(&record[..head.total_len]);
                blocks.push((head.timestamp_ns, start..window.len()));
            }
            Err(error) => broken = Err(io::Error::other(error)),
        })?;
        broken?;
        if sorting == Sorting::Time && !self.blocks.is_sorted_by_key(|(time, _)| *time) {
            self.sort();
        }
        Ok((pause == Pause::Empty, pause == Pause::Enough))
    }

    /// Hands out the blocks before `horizon`.
    ///
    /// # Errors
    ///
    /// That of `deliver`.
    pub fn take(
        &mut self,
        horizon: u64,
        mut deliver: impl FnMut(&mut [u8]) -> io::Result<()>,
    ) -> io::Result<bool> {
        let ready = match horizon {
            u64::MAX => self.blocks.len(),
            horizon => self.blocks.partition_point(|(time, _)| *time < horizon),
        };
        let end = self.blocks[..ready].last().map_or(0, |(_, range)| range.end);
        let result = if end > 0 { deliver(&mut self.window[..end]) } else { Ok(()) };
        self.window.drain(..end);
        self.blocks.drain(..ready);
        for (_, range) in &mut self.blocks {
            *range = range.start - end..range.end - end;
        }
        result.map(|()| !self.blocks.is_empty())
    }

    /// Where to see how full it is.
    pub fn room(&self) -> Room {
        self.records.room()
    }

    /// The largest part that was ever in use.
    pub fn fullest(&self) -> f64 {
        self.most_used as f64 / self.records.size() as f64
    }

    /// CPUs read the clock after they have their place, so their blocks may be a little out of order.
    fn sort(&mut self) {
        self.blocks.sort_by_key(|(time, _)| *time);
        let mut sorted = Vec::with_capacity(self.window.len());
        for (_, range) in &mut self.blocks {
            let start = sorted.len();
            sorted.extend_from_slice(&self.window[range.clone()]);
            *range = start..sorted.len();
        }
        self.window = sorted;
    }
}

impl AsFd for Buffer {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.records.as_fd()
    }
}
