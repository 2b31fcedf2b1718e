//! A series of files, of which each takes packets until the next is due, and limits of all together.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use sniff_pcapng::{AnyBlock, BlockType, PacketHead, blocks};

use super::{contents::Contents, form::Form};
use crate::rotate::{Filled, Rotation};

/// How far a packet's time may be ahead of what it is here: no packet is from the future, and one that says so does not
/// begin a file.
const AHEAD: Duration = Duration::from_secs(1);
/// Bytes of a file that need not be filled by what is compressed, whose length is known only afterwards: else the pieces
/// would become smaller and smaller there.
const SLACK: u64 = 64 << 10;
/// What is to be done with blocks.
pub(super) enum Next {
    /// So many bytes of them come next in this file.
    Run(usize),
    /// So many bytes of them are to be written as this block.
    Instead(usize, Vec<u8>),
    /// Another file is due first, for a packet of this time.
    File(u64),
    /// There is as much as was asked for: the packet in front is not to be written.
    Full,
}

/// The file that is being written, of how ever many.
pub(super) struct Series {
    rotation: Rotation,
    max_bytes: Option<u64>,
    is_packed: bool,
    contents: Contents,
    /// Bytes of files before this one.
    finished: u64,
    /// Files so far.
    files: u64,
    /// Without the bytes.
    file: Filled,
    /// When it was opened, by two clocks.
    opened: (Instant, Duration),
    is_full: bool,
}

impl Series {
    /// A series that begins at present; compressed, if it `is_packed`.
    pub(super) fn new(rotation: Rotation, max_bytes: Option<u64>, is_packed: bool) -> Self {
        let now = since_epoch();
        Self {
            rotation,
            max_bytes,
            is_packed,
            contents: Contents::default(),
            finished: 0,
            files: 1,
            file: Filled { begun_ns: now.as_nanos() as u64, ..Filled::default() },
            opened: (Instant::now(), now),
            is_full: false,
        }
    }

    /// What comes next of these blocks, where the file has so many bytes.
    pub(super) fn next(&mut self, bytes: &[u8], form: &Form, written: u64) -> Next {
        let (mut run, mut len) = (0, written);
        for block in blocks(bytes) {
            let block_len = form.len_of(block) as u64;
            if let Ok(head) = PacketHead::parse(block) {
                let verdict = self.verdict(head.timestamp_ns, len, block_len);
                if let Some(verdict) = verdict {
                    return if run > 0 { Next::Run(run) } else { verdict };
                }
                self.file.packets += 1;
                self.contents.note_packet(head, block);
            } else {
                if form.has_blocks() && run > 0 {
                    return Next::Run(run);
                }
                if form.has_blocks()
                    && let Some(next) = self.in_place_of(block, len)
                {
                    return next;
                }
                self.contents.note(block);
            }
            run += block.len();
            len += block_len;
        }
        // What is no block is not ours to judge.
        Next::Run(if run > 0 { run } else { bytes.len() })
    }

    /// What is to be done in place of writing a block that is no packet, in a file of so many bytes.
    fn in_place_of(&mut self, block: &[u8], written: u64) -> Option<Next> {
        let kind = AnyBlock::first(block).ok()?.block_type;
        let len = block.len() as u64;
        let ending = self.contents.ending_len();
        let of = |bytes| Filled { bytes: bytes + self.slack(), ..self.file };
        match kind {
            BlockType::Statistics => Some(self.statistics(block, written)),
            BlockType::Names => {
                let has_room = self.rotation.takes(&of(written + ending), len)
                    && self.max_bytes.is_none_or(|most| self.finished + written + ending + len <= most);
                // The next file begins with them.
                (!has_room).then(|| {
                    self.contents.note(block);
                    Next::Instead(block.len(), Vec::new())
                })
            }
            BlockType::Interface => {
                let takes = self.rotation.takes(&of(written + ending + Contents::STATISTICS_LEN), len);
                let is_due = !takes && self.file.packets > 0 && self.may_begin_file();
                is_due.then_some(Next::File(self.file.begun_ns))
            }
            _ => None,
        }
    }

    /// What is in the way of a packet of so many bytes, in a file of so many.
    fn verdict(&mut self, time_ns: u64, written: u64, len: u64) -> Option<Next> {
        let written = written + self.contents.ending_len();
        let file = Filled { bytes: written + self.slack(), ..self.file };
        let is_due = |time_ns| self.rotation.is_due(&file, time_ns, len);
        let time_ns = if is_due(time_ns) { time_ns.min(self.latest()) } else { time_ns };
        self.is_full |= self.max_bytes.is_some_and(|most| self.finished + written + len > most);
        let is_due = is_due(time_ns);
        self.is_full |= is_due && !self.may_begin_file();
        if self.is_full {
            return Some(Next::Full);
        }
        is_due.then_some(Next::File(time_ns))
    }

    /// What comes of an interface's counts, in a file of so many bytes.
    fn statistics(&mut self, block: &[u8], written: u64) -> Next {
        let settled = self.contents.settle(block);
        let len = settled.as_ref().map_or(block.len(), Vec::len) as u64;
        let others = self.contents.ending_len().saturating_sub(Contents::STATISTICS_LEN);
        let file = Filled { bytes: written + others, ..self.file };
        if file.packets > 0 && !self.rotation.takes(&file, len) && self.may_begin_file() {
            return Next::File(self.file.begun_ns);
        }
        self.contents.end(block);
        settled.map_or(Next::Run(block.len()), |settled| Next::Instead(block.len(), settled))
    }

    fn slack(&self) -> u64 {
        if self.is_packed { self.rotation.bytes.map_or(0, |bytes| SLACK.min(bytes / 8)) } else { 0 }
    }

    fn may_begin_file(&self) -> bool {
        self.rotation.is_asked_for() && self.rotation.files.is_none_or(|files| self.files < files)
    }

    /// The latest time that a packet can have. The wall clock may be set, and the other stands still while the machine
    /// sleeps: the later of them counts.
    fn latest(&self) -> u64 {
        let (instant, time) = self.opened;
        let now = since_epoch().max(time + instant.elapsed()) + AHEAD;
        u64::try_from(now.as_nanos()).unwrap_or(u64::MAX)
    }

    /// What the file ends with.
    pub(super) fn ending(&self) -> Vec<u8> {
        self.contents.ending()
    }

    /// What the file begins with.
    pub(super) fn beginning(&mut self) -> Vec<u8> {
        let names = self.rotation.bytes.map_or(u64::MAX, |bytes| bytes / 4);
        self.contents.beginning(names)
    }

    /// The file of `len` bytes is over; returns when the next begins, which has a packet of this time.
    pub(super) fn follow(&mut self, time_ns: u64, len: u64) -> u64 {
        let begun_ns = self.rotation.begin_of_next(&self.file, time_ns);
        self.finished += len;
        self.files += 1;
        self.file = Filled { begun_ns, ..Filled::default() };
        begun_ns
    }

    /// When the file begins that is being written, in nanoseconds since the epoch.
    pub(super) fn begun_ns(&self) -> u64 {
        self.file.begun_ns
    }
}

/// The wall clock.
pub(super) fn since_epoch() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}
