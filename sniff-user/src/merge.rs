//! Several streams of pcapng blocks become one, in the order of time.
//!
//! Each stream comes from one node, nearly sorted; the nodes' clocks agree as far as they do, and the network between
//! is late by different times. A packet is written when it is the oldest at hand and
//!
//! - every other live stream has a younger one, or has said with a [`Watermark`] that it sends no older one, or
//! - it has been held for [`HOLD`] since it came, or
//! - more than [`MAX_HELD`] bytes are held.
//!
//! One that comes too late for its place, behind a younger one of another stream, is written at once and counted.
//! With a single live stream nothing is held.
//!
//! Interfaces are numbered anew as they come, and their descriptions written at once; what refers to them is
//! renumbered. Everything else about packets and statistics goes through untouched, drop counts among it.
//!
//! Memory is bounded: what is held is at most [`MAX_HELD`], plus one pushed piece for each stream. Nothing here does
//! I/O or asks for the time; [`Merger::awaited`] tells whom to ask for a watermark.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use bytes::{Buf as _, Bytes};

use crate::pcapng::{AnyBlock, BlockType, EnhancedPacket, ReadInterface, SectionHeader, Watermark};

/// How long a packet waits for older ones of other nodes.
pub const HOLD: Duration = Duration::from_millis(250);
/// How many bytes of packets wait at most.
pub const MAX_HELD: usize = 64 << 20;
/// Most interfaces of one stream: a node that describes more is not to be believed.
const MAX_INTERFACES: usize = 1 << 16;
/// `if_tsresol` of sniff's interfaces: times can be compared as they stand.
const NANOSECONDS: u8 = 9;
/// The byte-order magic of a section, in the order of this machine.
const BYTE_ORDER_MAGIC: u32 = 0x1a2b_3c4d;

/// A stream that is being merged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamId(usize);

/// Merges streams.
pub struct Merger {
    streams: Vec<Stream>,
    interfaces: u32,
    held: usize,
    limit: Option<u64>,
    written: u64,
    late: u64,
    /// Time of the youngest packet that was written.
    youngest: u64,
}

/// One of the streams.
#[derive(Default)]
struct Stream {
    has_section: bool,
    ended: bool,
    /// The merged id of each of its interfaces.
    interfaces: Vec<u32>,
    queue: VecDeque<Held>,
    /// Time of its youngest packet. Packets of one stream keep their order.
    youngest: u64,
    /// It sends no packet any more that is older.
    watermark: u64,
}

/// A packet or statistics that wait.
struct Held {
    time: u64,
    arrived: Instant,
    is_packet: bool,
    interface: u32,
    block: Bytes,
}

impl Stream {
    /// Whether a packet older than `time` may come.
    fn may_send_before(&self, time: u64) -> bool {
        !self.ended && self.queue.is_empty() && self.watermark < time
    }
}

impl Merger {
    /// Begins the merged stream with `header` in `out`. No more than `limit` packets are written.
    pub fn new(header: &SectionHeader, limit: Option<u64>, out: &mut Vec<u8>) -> Self {
        header.write(out);
        Self { streams: Vec::new(), interfaces: 0, held: 0, limit, written: 0, late: 0, youngest: 0 }
    }

    /// A stream more.
    pub fn join(&mut self) -> StreamId {
        self.streams.push(Stream::default());
        StreamId(self.streams.len() - 1)
    }

    /// Nothing more comes from this stream; what it holds is still written.
    pub fn end(&mut self, id: StreamId) {
        self.streams[id.0].ended = true;
    }

    /// Takes the next whole blocks of a stream at the time `now`; descriptions of interfaces go to `out` at once.
    ///
    /// # Errors
    ///
    /// When the blocks are not what the far side of sniff sends. The stream cannot be read on then, and should be
    /// [ended](Self::end); what came before is kept.
    pub fn push(&mut self, id: StreamId, mut blocks: Bytes, now: Instant, out: &mut Vec<u8>) -> Result<()> {
        let stream = &mut self.streams[id.0];
        while !blocks.is_empty() {
            let block = AnyBlock::first(&blocks)?;
            let len = block.bytes.len();
            if block.block_type == BlockType::Section {
                ensure!(!stream.has_section, "a second section in one stream");
                ensure!(block.first_word()? == BYTE_ORDER_MAGIC, "the node has another byte order");
                stream.has_section = true;
            } else {
                ensure!(stream.has_section, "no section header at the start");
            }
            match block.block_type {
                BlockType::Interface => {
                    let interface = ReadInterface::parse(block.bytes)?;
                    ensure!(
                        interface.resolution == NANOSECONDS,
                        "{}: times not in nanoseconds",
                        interface.name
                    );
                    ensure!(
                        stream.interfaces.len() < MAX_INTERFACES,
                        "more than {MAX_INTERFACES} interfaces"
                    );
                    stream.interfaces.push(self.interfaces);
                    self.interfaces += 1;
                    out.extend(block.bytes);
                }
                BlockType::Packet | BlockType::Statistics => {
                    let is_packet = block.block_type == BlockType::Packet;
                    if is_packet {
                        stream.youngest =
                            stream.youngest.max(EnhancedPacket::parse(block.bytes)?.timestamp_ns);
                    }
                    let interface = block.first_word()? as usize;
                    let interface = *stream
                        .interfaces
                        .get(interface)
                        .with_context(|| format!("interface {interface} is not described"))?;
                    let (time, block) = (stream.youngest, blocks.slice(..len));
                    stream.queue.push_back(Held { time, arrived: now, is_packet, interface, block });
                    self.held += len;
                }
                BlockType::Watermark => {
                    stream.watermark = stream.watermark.max(Watermark::parse(block.bytes)?.time_ns);
                }
                BlockType::Section => {}
                BlockType::Other(block_type) => bail!("block of type {block_type:#x}"),
            }
            blocks.advance(len);
        }
        Ok(())
    }

    /// Appends to `out` what is due at the time `now`.
    pub fn write_due(&mut self, now: Instant, out: &mut Vec<u8>) {
        while let Some(stream) = self.oldest() {
            if !self.is_due(stream, now) {
                return;
            }
            self.write_next(stream, out);
        }
    }

    /// Appends to `out` everything that is held.
    pub fn write_all(&mut self, out: &mut Vec<u8>) {
        while let Some(stream) = self.oldest() {
            self.write_next(stream, out);
        }
    }

    /// When [`Self::write_due`] has something to write, if nothing more comes.
    pub fn due(&self) -> Option<Instant> {
        self.oldest().and_then(|stream| self.streams[stream].queue.front()).map(|held| held.arrived + HOLD)
    }

    /// The streams that the oldest packet at hand waits for.
    pub fn awaited(&self) -> impl Iterator<Item = StreamId> {
        let oldest = self.oldest().and_then(|stream| self.streams[stream].queue.front());
        let time = oldest.map_or(0, |held| held.time);
        let streams = self.streams.iter().enumerate();
        streams.filter(move |(_, stream)| stream.may_send_before(time)).map(|(at, _)| StreamId(at))
    }

    /// Packets written.
    pub fn written(&self) -> u64 {
        self.written
    }

    /// Packets written behind younger ones of another stream.
    pub fn late(&self) -> u64 {
        self.late
    }

    /// Whether as many packets are written as were wanted.
    pub fn is_full(&self) -> bool {
        self.limit.is_some_and(|limit| self.written >= limit)
    }

    /// The stream whose next block is the oldest.
    fn oldest(&self) -> Option<usize> {
        let next = |stream: &Stream| stream.queue.front().map(|held| held.time);
        let times = self.streams.iter().enumerate().filter_map(|(at, stream)| Some((next(stream)?, at)));
        times.min().map(|(_, at)| at)
    }

    fn is_due(&self, oldest: usize, now: Instant) -> bool {
        let Some(held) = self.streams[oldest].queue.front() else {
            return false;
        };
        !held.is_packet
            || held.time <= self.youngest
            || self.held > MAX_HELD
            || now.saturating_duration_since(held.arrived) >= HOLD
            || !self.streams.iter().any(|stream| stream.may_send_before(held.time))
    }

    fn write_next(&mut self, stream: usize, out: &mut Vec<u8>) {
        let Some(Held { time, is_packet, interface, block, .. }) = self.streams[stream].queue.pop_front()
        else {
            return;
        };
        self.held -= block.len();
        if is_packet {
            if self.is_full() {
                return;
            }
            self.written += 1;
            self.late += u64::from(time < self.youngest);
            self.youngest = self.youngest.max(time);
        }
        if let Ok(block) = AnyBlock::first(&block) {
            block.write_with_first_word(interface, out);
        }
    }
}

#[cfg(test)]
mod tests;
