//! Blocks out of the regions, straight from the memory that the kernel side wrote them to. The protocol is in
//! [`sniff_common::regions`], and in [`sniff_common::recorder`] where they are written over.
#![expect(unsafe_code, reason = "memory that is shared with the kernel")]

use std::{
    cell::OnceCell,
    collections::VecDeque,
    hint, io, mem,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering, fence},
    },
};

use anyhow::{Result, ensure};
use sniff_common::regions::{self, Cpu, FIRST_BLOCK, Header, Position, REGION_BYTES, Sight, Span, Word};
use sniff_pcapng::PacketHead;

use super::{Sorting, gauge::Room, recorder::Written, records::Records};
use crate::bpf::mapping::Mapping;

/// How often to look whether a CPU has done with its packet: some microseconds in all.
const PATIENCE: usize = 1000;
/// Most bytes of wake-ups read at a time; they are all the same.
const WAKE_UPS: usize = usize::MAX;

/// The regions and their readers.
pub struct Regions {
    pub(super) memory: Memory,
    pub(super) lanes: Vec<Lane>,
    /// Rings when a CPU has written enough.
    bell: Records,
    /// Most regions that were in use at a time.
    most_used: usize,
}

/// Most regions that are given back at once, where there are enough: as many as are read for one write.
const GIVEN_BACK: usize = 4;
/// Regions that are mapped at once. What is mapped counts as the process's memory, and CPUs take first what was given
/// back last: while little passes, few are ever seen. A multiple of the page size, whichever that is.
const WINDOW: usize = 4;

/// Takes regions that were read, for CPUs to take again.
pub type GiveBack = Box<dyn FnMut(Vec<u32>) -> io::Result<()> + Send>;

/// The mapped memory.
pub(super) struct Memory {
    pub(super) regions: Windows,
    cpus: Mapping,
    give_back: GiveBack,
    /// Those that were read and are not given back yet.
    read: Vec<u32>,
    /// How many regions there are.
    pub(super) count: usize,
    /// How often one was given back.
    given_back: Arc<AtomicU64>,
}

/// The chain of one CPU.
#[derive(Default)]
pub(super) struct Lane {
    /// Up to where it was seen.
    seen: Position,
    /// The same of a recorder's.
    pub(super) written: Written,
    /// What was seen and is not handed out yet, in order.
    pub(super) spans: VecDeque<Part>,
    /// Time of the next block in `spans`.
    pub(super) next: Option<u64>,
}

/// Blocks of one region.
pub(super) struct Part {
    /// Where they are.
    span: Span,
    /// In a copy, if they may not stay where they are.
    copy: Option<Vec<u8>>,
}

impl Part {
    /// Where they were written to.
    pub(super) fn in_place(span: Span) -> Self {
        Self { span, copy: None }
    }

    /// What was copied.
    pub(super) fn copied(region: u32, copy: Vec<u8>) -> Self {
        Self { span: Span { region, start: 0, end: copy.len(), is_last: false }, copy: Some(copy) }
    }

    /// All of the copy, if it is one.
    pub(super) fn copy(&self) -> Option<&[u8]> {
        self.copy.as_deref()
    }

    /// Keeps only as many bytes of a copy.
    pub(super) fn truncate(&mut self, len: usize) {
        self.span.end = len;
    }

    /// Has nobody read them.
    pub(super) fn give_back(self, memory: &mut Memory) -> io::Result<()> {
        if self.span.is_last { memory.give_back(self.span.region) } else { Ok(()) }
    }

    fn blocks<'a>(&'a self, memory: &'a Memory) -> io::Result<&'a [u8]> {
        match &self.copy {
            Some(copy) => Ok(&copy[self.span.start..self.span.end]),
            None => memory.blocks(&self.span),
        }
    }

    fn blocks_mut<'a>(&'a mut self, memory: &'a mut Memory) -> io::Result<&'a mut [u8]> {
        match &mut self.copy {
            Some(copy) => Ok(&mut copy[self.span.start..self.span.end]),
            None => memory.blocks_mut(&self.span),
        }
    }
}

impl Regions {
    /// Reads `count` regions that are free, which are mapped as they are needed; `cpus` has an entry for each possible CPU.
    pub fn new(regions: OwnedFd, count: usize, cpus: Mapping, bell: Records, give_back: GiveBack) -> Self {
        let lanes = (0..cpus.len() / size_of::<Cpu>()).map(|_| Lane::default()).collect();
        let regions = Windows::new(regions, count);
        let memory = Memory { regions, cpus, give_back, read: Vec::new(), count, given_back: Arc::default() };
        Self { memory, lanes, bell, most_used: 0 }
    }

    /// Sees what CPUs have written. Returns whether that is all that is older than the moment before.
    ///
    /// # Errors
    ///
    /// When the memory does not follow the protocol.
    pub fn look(&mut self) -> Result<bool> {
        self.bell.read(WAKE_UPS, |_| {})?;
        // The caller has read the clock; the CPUs' sequences are read after that.
        fence(Ordering::SeqCst);
        let memory = &mut self.memory;
        let settled = memory.are_settled();
        for (cpu, lane) in self.lanes.iter_mut().enumerate() {
            lane.look(memory, cpu)?;
        }
        let used = self.lanes.iter().map(Lane::regions).sum();
        self.most_used = self.most_used.max(used);
        Ok(settled)
    }

    /// Hands out the blocks before `horizon`, in order of time if that is wanted.
    ///
    /// # Errors
    ///
    /// That of `deliver`, or when a block is broken.
    pub fn take(
        &mut self,
        sorting: Sorting,
        horizon: u64,
        deliver: impl FnMut(&mut [u8]) -> io::Result<()>,
    ) -> io::Result<bool> {
        let taken = self.hand_out(sorting, horizon, deliver);
        self.memory.give_back_all()?;
        taken
    }

    fn hand_out(
        &mut self,
        sorting: Sorting,
        horizon: u64,
        mut deliver: impl FnMut(&mut [u8]) -> io::Result<()>,
    ) -> io::Result<bool> {
        if sorting == Sorting::Unsorted {
            for lane in &mut self.lanes {
                lane.take_all(&mut self.memory, &mut deliver)?;
            }
            return Ok(false);
        }
        while let Some((lane, limit)) = earliest(&self.lanes, horizon) {
            self.lanes[lane].take_until(&mut self.memory, limit, &mut deliver)?;
        }
        Ok(self.lanes.iter().any(|lane| lane.next.is_some()))
    }

    /// Where to see how full it is.
    pub fn room(&self) -> Room {
        let Memory { given_back, count, .. } = &self.memory;
        Room::Regions { given_back: Arc::clone(given_back), count: *count }
    }

    /// The largest part of the regions that was ever in use.
    pub fn fullest(&self) -> f64 {
        self.most_used as f64 / self.memory.count as f64
    }
}

impl AsFd for Regions {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.bell.as_fd()
    }
}

/// The lane whose next block is the oldest and before `horizon`, and up to which time it may go on alone.
fn earliest(lanes: &[Lane], horizon: u64) -> Option<(usize, u64)> {
    let (mut first, mut limit) = (None, horizon);
    for (at, lane) in lanes.iter().enumerate() {
        let Some(time) = lane.next.filter(|&time| time < horizon) else { continue };
        match first {
            Some((_, earliest)) if time >= earliest => limit = limit.min(time + 1),
            _ => {
                if let Some((_, before)) = first.replace((at, time)) {
                    limit = limit.min(before + 1);
                }
            }
        }
    }
    first.map(|(at, _)| (at, limit))
}

impl Lane {
    fn look(&mut self, memory: &mut Memory, cpu: usize) -> Result<()> {
        if self.seen.region.is_none() {
            self.seen = Position::start_of(memory.first(cpu)?);
        }
        regions::follow(
            &mut self.seen,
            |region| memory.look(region),
            |span| self.spans.push_back(Part::in_place(span)),
        )?;
        self.clear_up(memory)?;
        Ok(())
    }

    /// Regions that this CPU has taken and that are not given back, as far as they were seen.
    fn regions(&self) -> usize {
        usize::from(self.seen.region.is_some()) + self.spans.iter().filter(|part| part.span.is_last).count()
    }

    /// Hands out everything.
    fn take_all(
        &mut self,
        memory: &mut Memory,
        deliver: &mut impl FnMut(&mut [u8]) -> io::Result<()>,
    ) -> io::Result<()> {
        while let Some(part) = self.spans.front_mut() {
            let result = deliver(part.blocks_mut(memory)?);
            part.span.start = part.span.end;
            self.clear_up(memory)?;
            result?;
        }
        Ok(())
    }

    /// Hands out the blocks of the first span that are before `limit`: at least one is.
    fn take_until(
        &mut self,
        memory: &mut Memory,
        limit: u64,
        deliver: &mut impl FnMut(&mut [u8]) -> io::Result<()>,
    ) -> io::Result<()> {
        let Some(part) = self.spans.front_mut() else { return Ok(()) };
        let blocks = part.blocks(memory)?;
        // Mostly all of them are, which the last one tells: a CPU's blocks are in order.
        let newest = last_block(blocks).map(PacketHead::parse).transpose().map_err(io::Error::other)?;
        let all = newest.is_some_and(|head| head.timestamp_ns < limit);
        let mut len = if all { blocks.len() } else { 0 };
        while len < blocks.len() {
            let head = PacketHead::parse(&blocks[len..]).map_err(io::Error::other)?;
            if head.timestamp_ns >= limit && len > 0 {
                break;
            }
            len += head.total_len;
        }
        let result = deliver(&mut part.blocks_mut(memory)?[..len]);
        part.span.start += len;
        self.clear_up(memory)?;
        result
    }

    /// The time of the last block in `spans`.
    pub(super) fn last(&self, memory: &Memory) -> io::Result<Option<u64>> {
        let Some(part) = self.spans.back() else { return Ok(None) };
        let last = last_block(part.blocks(memory)?).map(PacketHead::parse).transpose();
        Ok(last.map_err(io::Error::other)?.map(|head| head.timestamp_ns))
    }

    /// Gives back the regions that are read to their end, and sees what comes next.
    pub(super) fn clear_up(&mut self, memory: &mut Memory) -> io::Result<()> {
        while let Some(Part { span, .. }) = self.spans.pop_front_if(|part| part.span.start == part.span.end) {
            if span.is_last {
                memory.give_back(span.region)?;
            }
        }
        let head = |part: &Part| PacketHead::parse(part.blocks(memory)?).map_err(io::Error::other);
        self.next = self.spans.front().map(head).transpose()?.map(|head| head.timestamp_ns);
        Ok(())
    }
}

impl Memory {
    fn look(&self, region: u32) -> Result<Sight> {
        let (window, at) = self.regions.of(region)?;
        let len = Shared(window.u64(at + mem::offset_of!(Header, len)));
        let next = Shared(window.u64(at + mem::offset_of!(Header, next)));
        let sight = Sight::of(&len, &next);
        ensure!((FIRST_BLOCK..=REGION_BYTES).contains(&sight.len), "region {region} has an odd length");
        self.known(sight.next)?;
        Ok(sight)
    }

    fn first(&self, cpu: usize) -> Result<Option<u32>> {
        let word = self.cpus.u64(cpu * size_of::<Cpu>() + mem::offset_of!(Cpu, first));
        self.known(regions::index(Shared(word).load()))
    }

    fn known(&self, region: Option<u32>) -> Result<Option<u32>> {
        ensure!(region.is_none_or(|region| (region as usize) < self.count), "there is no region {region:?}");
        Ok(region)
    }

    /// Whether no CPU has a packet in work that it began before this was called.
    pub(super) fn are_settled(&self) -> bool {
        (0..self.cpus.len() / size_of::<Cpu>()).all(|cpu| self.is_settled(cpu))
    }

    /// Whether a CPU has no packet in work that it began before this was called.
    fn is_settled(&self, cpu: usize) -> bool {
        let sequence = self.cpus.u64(cpu * size_of::<Cpu>() + mem::offset_of!(Cpu, sequence));
        let before = sequence.load(Ordering::Acquire);
        before.is_multiple_of(2)
            || (0..PATIENCE).any(|_| {
                hint::spin_loop();
                sequence.load(Ordering::Acquire) != before
            })
    }

    fn blocks(&self, span: &Span) -> io::Result<&[u8]> {
        let (window, at) = self.regions.of(span.region)?;
        // SAFETY: published, so the CPU does not touch it any more; and the region is given back after the last look.
        Ok(unsafe { window.bytes(at + span.start..at + span.end) })
    }

    fn blocks_mut(&mut self, span: &Span) -> io::Result<&mut [u8]> {
        let (window, at) = self.regions.of_mut(span.region)?;
        // SAFETY: as above; mapped writable; and the CPU never reads there.
        Ok(unsafe { window.bytes_mut(at + span.start..at + span.end) })
    }

    /// For CPUs to take again.
    pub(super) fn give_back(&mut self, region: u32) -> io::Result<()> {
        self.given_back.fetch_add(1, Ordering::Relaxed);
        self.read.push(region);
        // A small ring has none to spare.
        if self.read.len() < GIVEN_BACK.min(self.count / 8) { Ok(()) } else { self.give_back_all() }
    }

    fn give_back_all(&mut self) -> io::Result<()> {
        if self.read.is_empty() { Ok(()) } else { (self.give_back)(mem::take(&mut self.read)) }
    }
}

/// The regions' map, of which those parts are mapped that somebody has asked for.
pub(super) struct Windows {
    map: OwnedFd,
    count: usize,
    mapped: Vec<OnceCell<Mapping>>,
}

impl Windows {
    fn new(map: OwnedFd, count: usize) -> Self {
        let mapped = (0..count.div_ceil(WINDOW)).map(|_| OnceCell::new()).collect();
        Self { map, count, mapped }
    }

    /// What is mapped there, and where in it a region begins.
    pub(super) fn of(&self, region: u32) -> io::Result<(&Mapping, usize)> {
        let (at, offset) = place(region);
        let cell = &self.mapped[at];
        let mapping = match cell.get() {
            Some(mapping) => mapping,
            None => {
                let regions = (self.count - at * WINDOW).min(WINDOW);
                let start = at * WINDOW * REGION_BYTES;
                let mapping = Mapping::new(&self.map, start, regions * REGION_BYTES, true)?;
                cell.get_or_init(|| mapping)
            }
        };
        Ok((mapping, offset))
    }

    fn of_mut(&mut self, region: u32) -> io::Result<(&mut Mapping, usize)> {
        self.of(region)?;
        let (at, offset) = place(region);
        let mapping = self.mapped[at].get_mut().ok_or(io::ErrorKind::NotFound)?;
        Ok((mapping, offset))
    }
}

/// A region's window, and where in it the region begins.
fn place(region: u32) -> (usize, usize) {
    let region = region as usize;
    (region / WINDOW, region % WINDOW * REGION_BYTES)
}

/// The last of whole blocks: each ends with its length.
fn last_block(blocks: &[u8]) -> Option<&[u8]> {
    let len = u32::from_ne_bytes(*blocks.last_chunk()?);
    blocks.get(blocks.len().checked_sub(len as usize)?..)
}

/// A word of the mapped memory.
pub(super) struct Shared<'a>(pub(super) &'a AtomicU64);

impl Word for Shared<'_> {
    fn load(&self) -> u64 {
        self.0.load(Ordering::Acquire)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lanes(next: &[Option<u64>]) -> Vec<Lane> {
        next.iter().map(|&next| Lane { next, ..Lane::default() }).collect()
    }

    #[test]
    fn the_oldest_goes_on_until_another_is_older() {
        assert_eq!(earliest(&lanes(&[None, None]), 100), None);
        assert_eq!(earliest(&lanes(&[Some(7), None]), 100), Some((0, 100)));
        // Up to and with the time of the others: what is as old may come in any order.
        assert_eq!(earliest(&lanes(&[Some(9), Some(7), Some(8)]), 100), Some((1, 9)));
        assert_eq!(earliest(&lanes(&[Some(7), Some(7)]), 100), Some((0, 8)));
    }

    #[test]
    fn nothing_goes_beyond_the_horizon() {
        assert_eq!(earliest(&lanes(&[Some(100), Some(101)]), 100), None);
        assert_eq!(earliest(&lanes(&[Some(100), Some(99)]), 100), Some((1, 100)));
        assert_eq!(earliest(&lanes(&[Some(u64::MAX - 1)]), u64::MAX), Some((0, u64::MAX)));
    }

    #[test]
    fn the_last_block_is_found_by_its_length() {
        let block = |len: u32| [vec![0; len as usize - 4], len.to_ne_bytes().to_vec()].concat();
        let blocks = [block(32), block(48)].concat();
        assert_eq!(last_block(&blocks), Some(&blocks[32..]));
        assert_eq!(last_block(&block(32)).map(<[u8]>::len), Some(32));
        assert_eq!(last_block(&[]), None);
        assert_eq!(last_block(&block(32)[16..]), None);
    }
}
