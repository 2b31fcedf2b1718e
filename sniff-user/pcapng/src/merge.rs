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
//! A stream of the past ([`Merger::join_past`]) sends what somebody has had for minutes, as fast as it comes through: how late
//! its packets are says nothing. So the others wait for it as long as it takes, and what is held is bounded by whoever reads
//! them: [`Merger::must_wait`] says whose next packets may stay where they are. Its clock is not known from its packets. A
//! watermark that comes soon after it was asked for tells that it has caught up with the present, and is a stream like others
//! from then on; one that ends was of the past to its end.
//!
//! No packet is from the future: one whose time is beyond what the clocks say that it can be, when it comes, is put
//! where it came ([`AHEAD`]). What the clocks say is the middle one's word, so that one node with a wrong clock, or with
//! a packet of the year 2554, does not decide about the order of the others' packets.
//!
//! Interfaces are numbered anew as they come, and their descriptions written at once; what refers to them is
//! renumbered. Statistics are read and written anew, with comments [marked](Merger::mark) as the node's. Everything else
//! about packets goes through untouched, drop counts among it: what a packet
//! tells was lost since the one before of its interface, and those of a stream keep their order. Where packets are left
//! out at the end, beyond the limit, the statistics say so, and of how many losses those told.
//!
//! Memory is bounded: what is held is at most [`MAX_HELD`], plus one pushed piece for each stream; and of what waits for the
//! past, those pieces that were on their way when their streams had to wait. What is held keeps the
//! pieces that it came in, and so those may have little else in them: descriptions, which `introduce` bounds, one block of
//! statistics for each interface, and as many watermarks as were [asked for](Merger::expect_watermark). Nothing here does
//! I/O or asks for the time; [`Merger::awaited`] tells whom to ask for a watermark.

use std::{
    collections::{HashMap, VecDeque},
    fmt,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use bytes::{Buf as _, Bytes};
use sniff_common::{MAX_SNAPLEN, epb};

use crate::{
    AnyBlock, BlockType, EnhancedPacket, InterfaceDescription, InterfaceStatistics, SectionHeader, Watermark,
    heads,
};

/// How long a packet waits for older ones of other nodes.
pub const HOLD: Duration = Duration::from_millis(250);
/// How many bytes of packets wait at most.
pub const MAX_HELD: usize = 64 << 20;
/// How far a packet's time may be ahead of the middle clock when it comes. Less than [`HOLD`], so that the others' older
/// ones are there before its time is up.
pub const AHEAD: Duration = Duration::from_millis(100);
/// A stream of the past that answers with a watermark within this time has caught up. The packets of the others that wait
/// for it are then held for [`HOLD`] once more, in which what it has sent behind the watermark comes.
const CAUGHT_UP: Duration = Duration::from_secs(1);
/// Most interfaces of one stream: a node that describes more is not to be believed.
const MAX_INTERFACES: usize = 1 << 16;
/// Most bytes of statistics: numbers, and a comment.
const MAX_STATISTICS: usize = 4096;
/// [`AHEAD`] in nanoseconds.
const AHEAD_NS: i128 = AHEAD.as_nanos() as i128;
/// The latest time that a Linux clock shows, in nanoseconds since the epoch: `ktime_t` is signed (include/linux/ktime.h).
const LATEST: u64 = i64::MAX as u64;
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
    /// Packets among what is held.
    waiting: u64,
    limit: Option<u64>,
    /// What was left out of each merged interface.
    left_out: HashMap<u32, LeftOut>,
    written: u64,
    late: u64,
    /// Time of the youngest packet that was written, as it was sorted and as it says.
    youngest: u64,
    youngest_said: u64,
    /// When the first thing came; leads count from here.
    began: Option<Instant>,
    /// The lead of the clock here.
    own_lead: Option<i128>,
    /// When a stream of the past last caught up.
    caught_up: Option<Instant>,
}

/// Packets of an interface beyond the limit.
#[derive(Default)]
struct LeftOut {
    packets: u64,
    /// Lost packets that they tell of.
    dropcounts: u64,
}

/// One of the streams.
#[derive(Default)]
struct Stream {
    has_section: bool,
    ended: bool,
    /// Whether it sends what was recorded, and has not caught up with the present.
    is_past: bool,
    /// What the comments that it sends begin with.
    mark: String,
    interfaces: Vec<Interface>,
    queue: VecDeque<Held>,
    /// Time of its youngest packet, as it is sorted and as it says. Packets of one stream keep their order.
    youngest: u64,
    youngest_said: u64,
    /// It sends no packet any more that is older, as that is sorted.
    watermark: u64,
    /// The latest time by its own clock that a packet or a watermark said.
    complete_until: u64,
    /// Watermarks that it was asked for and has not sent.
    owed_watermarks: u32,
    /// When it was last asked for one.
    asked: Option<Instant>,
    /// Packets that have come.
    received: u64,
    /// How far its clock is ahead of the time since [`Merger::began`], in nanoseconds: at least by as much as the
    /// packet that came with the least delay says.
    lead: Option<i128>,
}

/// An interface of a stream.
struct Interface {
    /// Its id in the merged stream.
    id: u32,
    /// Most bytes of its packets.
    snaplen: u32,
    /// Whether statistics of it came.
    has_statistics: bool,
}

/// A packet or statistics that wait.
struct Held {
    /// What it is sorted by.
    time: u64,
    /// The time that it says, or a packet before it.
    said: u64,
    arrived: Instant,
    is_packet: bool,
    interface: u32,
    block: Bytes,
}

impl fmt::Display for LeftOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { packets, dropcounts } = self;
        write!(
            f,
            "{packets} of the delivered packets are not in this file, which has as many as it was to have"
        )?;
        if *dropcounts > 0 {
            write!(f, "; {dropcounts} of the dropped packets were lost between those")?;
        }
        Ok(())
    }
}

impl Held {
    /// Bytes that it takes.
    fn size(&self) -> usize {
        size_of::<Self>() + self.block.len()
    }
}

impl Stream {
    /// Learns from a time that it says what its clock shows. No clock shows one that is later than all.
    fn hear(&mut self, said: u64, elapsed: i128) {
        if said <= LATEST {
            // What is past is no time of a clock.
            if !self.is_past {
                self.lead = self.lead.max(Some(i128::from(said) - elapsed));
            }
            self.complete_until = self.complete_until.max(said);
        }
    }

    /// Whether a watermark that comes at the time `now` is all that it owed, and has not been long on its way.
    fn has_caught_up(&self, now: Instant) -> bool {
        let is_soon = |asked| now.saturating_duration_since(asked) <= CAUGHT_UP;
        self.is_past && self.owed_watermarks == 0 && self.asked.is_some_and(is_soon)
    }

    /// Whether a packet older than `time` may come.
    fn may_send_before(&self, time: u64) -> bool {
        !self.ended && self.queue.is_empty() && self.watermark < time
    }
}

impl Merger {
    /// Begins the merged stream with `header` in `out`. No more than `limit` packets are written.
    pub fn new(header: &SectionHeader, limit: Option<u64>, out: &mut Vec<u8>) -> Self {
        header.write(out);
        Self {
            streams: Vec::new(),
            interfaces: 0,
            held: 0,
            waiting: 0,
            limit,
            left_out: HashMap::new(),
            written: 0,
            late: 0,
            youngest: 0,
            youngest_said: 0,
            began: None,
            own_lead: None,
            caught_up: None,
        }
    }

    /// Lets the clock here have a say in what time it is: `time_ns`, since the epoch, at `now`.
    pub fn set_clock(&mut self, now: Instant, time_ns: u64) {
        let elapsed = self.elapsed(now);
        self.own_lead = Some(i128::from(time_ns) - elapsed);
    }

    /// A stream more.
    pub fn join(&mut self) -> StreamId {
        self.streams.push(Stream::default());
        StreamId(self.streams.len() - 1)
    }

    /// A stream more, which begins with what was recorded.
    pub fn join_past(&mut self) -> StreamId {
        let id = self.join();
        self.streams[id.0].is_past = true;
        id
    }

    /// Has the comments that a stream sends begin with `mark`: they are somebody's word.
    pub fn mark(&mut self, id: StreamId, mark: String) {
        self.streams[id.0].mark = mark;
    }

    /// Nothing more comes from this stream; what it holds is still written.
    pub fn end(&mut self, id: StreamId) {
        self.streams[id.0].ended = true;
    }

    /// Takes the next whole blocks of a stream at the time `now`; descriptions of interfaces go to `out` at once, if
    /// `introduce` lets them through, and as it leaves them.
    ///
    /// # Errors
    ///
    /// When the blocks are not what `sniff serve` sends, and those of `introduce`. The stream cannot be read on
    /// then, and should be [ended](Self::end); what came before is kept.
    pub fn push(
        &mut self,
        id: StreamId,
        mut blocks: Bytes,
        now: Instant,
        mut introduce: impl FnMut(&mut InterfaceDescription) -> Result<()>,
        out: &mut Vec<u8>,
    ) -> Result<()> {
        let elapsed = self.elapsed(now);
        if let Some(time) = first_time(&blocks) {
            self.streams[id.0].hear(time, elapsed);
        }
        let horizon = self.horizon(elapsed);
        let stream = &mut self.streams[id.0];
        // Those of the past wait for each other, whatever time they say.
        let latest = |stream: &Stream| if stream.is_past { u64::MAX } else { horizon };
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
                    let mut interface = InterfaceDescription::parse(block.bytes)?;
                    ensure!(
                        stream.interfaces.len() < MAX_INTERFACES,
                        "more than {MAX_INTERFACES} interfaces"
                    );
                    introduce(&mut interface)?;
                    // None is no limit.
                    let snaplen = Some(interface.snaplen).filter(|it| *it > 0).unwrap_or(MAX_SNAPLEN);
                    stream.interfaces.push(Interface { id: self.interfaces, snaplen, has_statistics: false });
                    self.interfaces += 1;
                    interface.write(out);
                }
                BlockType::Packet | BlockType::Statistics => {
                    let is_packet = block.block_type == BlockType::Packet;
                    let interface = block.first_word()? as usize;
                    let of = stream
                        .interfaces
                        .get_mut(interface)
                        .with_context(|| format!("interface {interface} is not described"))?;
                    let said = if is_packet { time_of(block.bytes, of.snaplen)? } else { 0 };
                    if !is_packet {
                        ensure!(len <= MAX_STATISTICS, "statistics of {len} bytes");
                        InterfaceStatistics::parse(block.bytes)?;
                        ensure!(!of.has_statistics, "statistics of one interface twice");
                        of.has_statistics = true;
                    }
                    let interface = of.id;
                    if is_packet {
                        self.waiting += 1;
                        stream.received += 1;
                        stream.hear(said, elapsed);
                        stream.youngest = stream.youngest.max(said.min(latest(stream)));
                        stream.youngest_said = stream.youngest_said.max(said);
                    }
                    let (time, said, block) = (stream.youngest, stream.youngest_said, blocks.slice(..len));
                    let held = Held { time, said, arrived: now, is_packet, interface, block };
                    self.held += held.size();
                    stream.queue.push_back(held);
                }
                BlockType::Watermark => {
                    let said = Watermark::parse(block.bytes)?.time_ns;
                    let left = stream.owed_watermarks.checked_sub(1);
                    stream.owed_watermarks = left.context("a watermark that was not asked for")?;
                    if stream.has_caught_up(now) {
                        stream.is_past = false;
                        stream.youngest = stream.youngest.min(horizon);
                        self.caught_up = Some(now);
                    }
                    stream.hear(said, elapsed);
                    stream.watermark = stream.watermark.max(said.min(latest(stream)));
                }
                BlockType::Section => {}
                // Nobody is asked what addresses are called who may only speak of their own.
                BlockType::Names => bail!("names of addresses"),
                BlockType::Other(block_type) => bail!("block of type {block_type:#x}"),
            }
            blocks.advance(len);
        }
        Ok(())
    }

    /// By how many nanoseconds the clock of a stream is ahead of the middle one of all, if there are several to compare.
    pub fn ahead(&self, id: StreamId) -> Option<i64> {
        let heard = self.streams.iter().filter(|stream| stream.lead.is_some()).count();
        let difference = self.streams[id.0].lead? - self.middle_lead()?;
        (heard > 1).then(|| difference.clamp(i64::MIN.into(), i64::MAX.into()) as i64)
    }

    /// The time up to which all packets of a stream have come, by its own clock, in nanoseconds since the epoch: that of
    /// its youngest packet or watermark. `None` before the first of either.
    pub fn complete_until(&self, id: StreamId) -> Option<u64> {
        Some(self.streams[id.0].complete_until).filter(|time| *time > 0)
    }

    /// A stream was asked for one watermark at the time `now`, and may send it.
    pub fn expect_watermark(&mut self, id: StreamId, now: Instant) {
        let stream = &mut self.streams[id.0];
        stream.owed_watermarks = stream.owed_watermarks.saturating_add(1);
        stream.asked = Some(now);
    }

    /// Whether there is a point in asking a stream for a watermark: from one of the past another comes in its turn, behind all
    /// that was recorded.
    pub fn may_ask(&self, id: StreamId) -> bool {
        let Stream { is_past, owed_watermarks, .. } = self.streams[id.0];
        !is_past || owed_watermarks == 0
    }

    /// Whether no more is to be taken from a stream for now: as much is held as may be, until one of the past has sent more.
    pub fn must_wait(&self, id: StreamId) -> bool {
        self.held > MAX_HELD && !self.streams[id.0].queue.is_empty() && self.waits_for_the_past()
    }

    /// Packets that have come in a stream.
    pub fn received(&self, id: StreamId) -> u64 {
        self.streams[id.0].received
    }

    /// Nanoseconds since the first thing came.
    fn elapsed(&mut self, now: Instant) -> i128 {
        let began = *self.began.get_or_insert(now);
        now.saturating_duration_since(began).as_nanos() as i128
    }

    /// The latest time that a packet can have that comes at this time, as far as the clocks say.
    fn horizon(&self, elapsed: i128) -> u64 {
        self.middle_lead().map_or(u64::MAX, |lead| nanoseconds(lead + elapsed + AHEAD_NS))
    }

    /// What the middle one of all clocks says: that of each stream, and the one here. Of two, the one that is behind.
    fn middle_lead(&self) -> Option<i128> {
        let live = self.streams.iter().filter(|stream| !stream.ended).filter_map(|stream| stream.lead);
        let mut leads: Vec<i128> = live.chain(self.own_lead).collect();
        let middle = leads.len().checked_sub(1)? / 2;
        Some(*leads.select_nth_unstable(middle).1)
    }

    /// Appends to `out` what is due at the time `now`.
    pub fn write_due(&mut self, now: Instant, out: &mut Vec<u8>) {
        let elapsed = self.elapsed(now);
        let horizon = self.horizon(elapsed);
        while let Some(stream) = self.oldest() {
            if !self.is_due(stream, now) {
                return;
            }
            self.write_next(stream, horizon, out);
        }
    }

    /// Appends to `out` everything that is held.
    pub fn write_all(&mut self, out: &mut Vec<u8>) {
        while let Some(stream) = self.oldest() {
            self.write_next(stream, u64::MAX, out);
        }
    }

    /// When [`Self::write_due`] has something to write, if nothing more comes.
    pub fn due(&self) -> Option<Instant> {
        if self.waits_for_the_past() {
            return None;
        }
        self.oldest().and_then(|stream| self.streams[stream].queue.front()).map(|held| self.until(held))
    }

    /// The streams that the oldest packet at hand waits for.
    pub fn awaited(&self) -> impl Iterator<Item = StreamId> {
        let oldest = self.oldest().and_then(|stream| self.streams[stream].queue.front());
        let time = oldest.map_or(0, |held| held.time);
        let streams = self.streams.iter().enumerate();
        streams.filter(move |(_, stream)| stream.may_send_before(time)).map(|(at, _)| StreamId(at))
    }

    /// Says of each interface of a stream of which no statistics came why that is: `time_ns` and `why` stand for them.
    pub fn say_why_not_counted(&self, id: StreamId, time_ns: u64, why: &str, out: &mut Vec<u8>) {
        for interface in self.streams[id.0].interfaces.iter().filter(|interface| !interface.has_statistics) {
            let comment = Some(why.to_owned());
            let statistics = InterfaceStatistics {
                interface: interface.id,
                timestamp_ns: time_ns,
                comment,
                ..InterfaceStatistics::default()
            };
            statistics.write(out);
        }
    }

    /// Packets that wait.
    pub fn waiting(&self) -> u64 {
        self.waiting
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
        let is_let_go = || self.held > MAX_HELD || now >= self.until(held);
        !held.is_packet
            || held.time <= self.youngest
            || !self.waits_for_the_past() && is_let_go()
            || !self.streams.iter().any(|stream| stream.may_send_before(held.time))
    }

    /// How long a packet is held for streams of the present.
    fn until(&self, held: &Held) -> Instant {
        self.caught_up.map_or(held.arrived, |at| at.max(held.arrived)) + HOLD
    }

    /// Whether the oldest packet at hand is to be held until a stream of the past has sent more.
    fn waits_for_the_past(&self) -> bool {
        let oldest = self.oldest().and_then(|stream| self.streams[stream].queue.front());
        let waits = |held: &Held| {
            let mut past = self.streams.iter().filter(|stream| stream.is_past);
            held.is_packet && held.time > self.youngest && past.any(|it| it.may_send_before(held.time))
        };
        oldest.is_some_and(waits)
    }

    /// Writes the next block of a stream. A time beyond the `horizon` does not decide about what comes later.
    fn write_next(&mut self, stream: usize, horizon: u64, out: &mut Vec<u8>) {
        let Some(held) = self.streams[stream].queue.pop_front() else { return };
        self.held -= held.size();
        let Held { time, said, is_packet, interface, block, .. } = held;
        if is_packet {
            self.waiting -= 1;
            if self.is_full() {
                return self.leave_out(interface, &block);
            }
            self.written += 1;
            self.late += u64::from(said < self.youngest_said);
            self.youngest_said = self.youngest_said.max(said);
            if time <= horizon {
                self.youngest = self.youngest.max(time);
            }
        }
        if !is_packet {
            return self.write_statistics(stream, interface, &block, out);
        }
        let Ok(block) = AnyBlock::first(&block) else { return };
        block.write_with_first_word(interface, out);
    }

    /// Writes statistics of a stream as those of a merged interface.
    fn write_statistics(&self, stream: usize, interface: u32, block: &[u8], out: &mut Vec<u8>) {
        let Ok(mut statistics) = InterfaceStatistics::parse(block) else { return };
        let said = statistics.comment.map(|comment| format!("{}{comment}", self.streams[stream].mark));
        let left_out = self.left_out.get(&interface).map(LeftOut::to_string);
        let comments: Vec<String> = left_out.into_iter().chain(said).collect();
        statistics.comment = (!comments.is_empty()).then(|| comments.join("; "));
        InterfaceStatistics { interface, ..statistics }.write(out);
    }

    fn leave_out(&mut self, interface: u32, block: &[u8]) {
        let left_out = self.left_out.entry(interface).or_default();
        left_out.packets += 1;
        left_out.dropcounts += EnhancedPacket::parse(block).map_or(0, |packet| packet.dropcount);
    }
}

/// The time of the first packet among blocks.
fn first_time(bytes: &[u8]) -> Option<u64> {
    heads(bytes).next().map(|head| head.timestamp_ns)
}

/// The time that a packet says; checks its block: what is not as it should be, readers of the whole file stumble over.
fn time_of(block: &[u8], snaplen: u32) -> Result<u64> {
    let EnhancedPacket { timestamp_ns, data, original_len, has_foreign_options, .. } =
        EnhancedPacket::parse(block)?;
    let len = data.len();
    ensure!(
        len <= snaplen.min(MAX_SNAPLEN) as usize,
        "a packet of {len} bytes, where at most {snaplen} are kept"
    );
    ensure!(len <= original_len as usize, "{len} bytes of a packet of {original_len}");
    let around = block.len() - len;
    ensure!(
        !has_foreign_options && around <= (epb::OVERHEAD + epb::PACKETID) as usize,
        "a packet with {around} bytes around it that sniff does not write"
    );
    Ok(timestamp_ns)
}

fn nanoseconds(time: i128) -> u64 {
    time.clamp(0, u64::MAX.into()) as u64
}

#[cfg(test)]
mod tests;
