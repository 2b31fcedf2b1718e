//! Blocks out of regions that are written over. The protocol is in [`sniff_common::recorder`].

use std::{
    mem,
    sync::atomic::{Ordering, fence},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use serde::{Deserialize, Serialize};
use sniff_common::{
    recorder::{self, Tag, Used},
    regions::{FIRST_BLOCK, Header, REGION_BYTES, SETTLE_NS, Span, Word as _},
};
use sniff_pcapng::{PacketHead, blocks};

use super::regions::{Lane, Memory, Part, Regions, Shared};

/// How often to look whether all CPUs have done with their packets: a virtual one may be kept from it for long.
const PATIENCE: usize = 10_000;
/// [`SETTLE_NS`], and how long to wait between two looks.
const SETTLE: Duration = Duration::from_nanos(SETTLE_NS);

/// What a recorder has held for those who looked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    /// Packets that were written over before anybody looked, of all interfaces.
    pub aged_out: u64,
    /// From then on none was, in nanoseconds since the epoch; none where none ever was.
    pub complete_since: Option<u64>,
    /// Up to then all is there, likewise.
    pub complete_until: u64,
    /// All packets by then, those included.
    pub recorded: u64,
}

/// How far somebody has seen what a recorder holds; nothing of it at first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Place(Vec<Written>);

impl Place {
    /// Packets that were recorded before it.
    fn recorded(&self) -> u64 {
        self.0.iter().map(|written| written.blocks).sum()
    }
}

/// What of a recorder's memory is wanted.
#[derive(Debug)]
pub enum Wanted<'a> {
    /// What is new since the last look for the same.
    New,
    /// All that is held and is behind this place, which moves on to its end.
    From(&'a mut Place),
}

/// Whose regions a recorder's reader has.
#[derive(Clone, Copy, Debug)]
pub enum Owned<'a> {
    /// These, the oldest first, which the CPUs have filled and are to have again.
    These(&'a [u32]),
    /// All: nobody writes any more.
    All,
}

impl Owned<'_> {
    /// Whether each of `count` regions is to be given back; none of one that somebody else may write to.
    fn gives_back(self, count: usize) -> Vec<Option<bool>> {
        match self {
            Self::All => vec![Some(false); count],
            Self::These(regions) => {
                let mut gives_back = vec![None; count];
                for &region in regions {
                    if let Some(it) = gives_back.get_mut(region as usize) {
                        *it = Some(true);
                    }
                }
                gives_back
            }
        }
    }
}

/// Up to where a CPU's blocks were seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Written {
    /// In which of its regions.
    number: u64,
    /// How much of that.
    bytes: usize,
    /// How many blocks in all.
    blocks: u64,
}

/// The last of a CPU's regions.
#[derive(Clone, Copy, Debug, Default)]
struct Newest {
    any: u64,
    owned: u64,
}

impl Newest {
    fn meet(&mut self, number: u64, is_owned: bool) {
        self.any = self.any.max(number);
        if is_owned {
            self.owned = self.owned.max(number);
        }
    }

    /// Whether a region is looked at. Copies are of those that came behind what the reader owns; what is older is given up.
    fn counts(self, number: u64, is_owned: bool) -> bool {
        number <= self.any && (is_owned || number > self.owned)
    }
}

/// A region that a recorder has written to.
struct Record {
    number: u64,
    /// Blocks that came before it.
    before: u64,
    used: Used,
    /// Whether there is more in it, and later.
    is_cut: bool,
    part: Part,
}

impl Regions {
    /// Waits until everything is in sight that CPUs began before this was called. If one is kept from its packet for long,
    /// that comes with what is held the next time.
    pub fn settle(&self) {
        // The caller has read the clock; the CPUs' sequences are read after that.
        fence(Ordering::SeqCst);
        let is_settled = |_| {
            thread::sleep(SETTLE);
            self.memory.are_settled()
        };
        let _ = (0..PATIENCE).any(is_settled);
    }

    /// Sees what a recorder holds behind a place that is older than `until`, as [`Self::look_at_new`] does, which goes on where
    /// it was. What is told of it counts from that place on.
    ///
    /// # Errors
    ///
    /// When the memory does not follow the protocol.
    pub fn look_from(&mut self, place: &mut Place, owned: Owned<'_>, until: u64) -> Result<Held> {
        let (mut held, before) = (Held::default(), place.recorded());
        place.0.resize(self.lanes.len(), Written::default());
        self.swap(place);
        self.look_at_new(&mut held, owned, until)?;
        self.swap(place);
        held.recorded -= before;
        Ok(held)
    }

    /// Has a place be where the lanes were seen, and the other way round.
    fn swap(&mut self, place: &mut Place) {
        self.lanes.iter_mut().zip(&mut place.0).for_each(|(lane, it)| mem::swap(&mut lane.written, it));
    }

    /// Sees what a recorder holds that is older than `until` and that nobody has seen. What is in those regions that it owns
    /// is.
    ///
    /// # Errors
    ///
    /// When the memory does not follow the protocol.
    pub fn look_at_new(&mut self, held: &mut Held, owned: Owned<'_>, until: u64) -> Result<()> {
        let Self { memory, lanes, .. } = self;
        let gives_back = owned.gives_back(memory.count);
        held.complete_until = until;
        let mut newest = vec![Newest::default(); lanes.len()];
        for region in 0..memory.count as u32 {
            if let Some(Tag { cpu, number }) = memory.tag(region)? {
                let newest = newest.get_mut(cpu as usize).context("a region of a CPU that there is not")?;
                newest.meet(number, gives_back[region as usize].is_some());
            }
        }
        let mut records: Vec<Vec<Record>> = lanes.iter().map(|_| Vec::new()).collect();
        let mut is_known = vec![false; memory.count];
        // Up to the last, regions are full.
        for region in 0..memory.count as u32 {
            let Some(tag) = memory.tag(region)? else { continue };
            let cpu = tag.cpu as usize;
            let (seen, gives_back) = (&lanes[cpu].written, gives_back[region as usize]);
            if tag.number >= seen.number && newest[cpu].counts(tag.number, gives_back.is_some()) {
                let record = memory.record(region, tag, seen, gives_back)?;
                records[cpu].extend(record.map(|record| record.cut(until)).transpose()?);
            } else if gives_back == Some(true) {
                is_known[region as usize] = true;
            }
        }
        if let Owned::These(regions) = owned {
            // Before those that are new, since they are older.
            let mut known = regions.iter().filter(|&&region| is_known[region as usize]);
            known.try_for_each(|&region| memory.give_back(region))?;
        }
        for ((lane, mut records), newest) in lanes.iter_mut().zip(records).zip(newest) {
            records.sort_by_key(|record| record.number);
            give_up_what_does_not_follow(&mut records);
            let reached = records.last().is_some_and(|last| last.is_cut || last.number == newest.any);
            let aged_out = lane.take_records(records, memory)?;
            held.aged_out += aged_out;
            held.complete_since = held.complete_since.max(lane.next.filter(|_| aged_out > 0));
            if newest.any > 0 && !reached {
                // The rest was written over while it was copied.
                match lane.last(memory)? {
                    Some(last) => held.complete_until = held.complete_until.min(last),
                    None => held.complete_since = Some(until),
                }
            }
        }
        held.recorded = self.lanes.iter().map(|lane| lane.written.blocks).sum();
        Ok(())
    }
}

impl Lane {
    /// Takes what is new of a CPU, in order; returns how many blocks of it were written over.
    fn take_records(&mut self, mut records: Vec<Record>, memory: &mut Memory) -> Result<u64> {
        let whole = records.iter().position(|record| record.is_cut).unwrap_or(records.len());
        records.truncate(whole + 1);
        let count = recorder::unbroken(records.iter().map(|record| record.number));
        let broken = records.len() - count;
        // They are not held any more, as far as anybody sees.
        records.drain(..broken).try_for_each(|record| record.part.give_back(memory))?;
        let (Some(first), Some(last)) = (records.first(), records.last()) else { return Ok(0) };
        let seen = mem::replace(
            &mut self.written,
            Written { number: last.number, bytes: last.used.bytes, blocks: last.before + last.used.blocks },
        );
        let aged_out = if first.number == seen.number { 0 } else { first.before - seen.blocks };
        self.spans.extend(records.into_iter().map(|record| record.part));
        self.clear_up(memory)?;
        Ok(aged_out)
    }
}

/// Of a CPU's records in order, gives up the copies that do not follow what the reader owns: of a CPU that has written over
/// what came between, that is more, and the next look has them.
fn give_up_what_does_not_follow(records: &mut Vec<Record>) {
    let Some(last_owned) = records.iter().rposition(|record| record.part.copy().is_none()) else { return };
    let follows = |copy: &Record| copy.number == records[last_owned].number + 1;
    if records.get(last_owned + 1).is_some_and(|copy| !follows(copy)) {
        records.truncate(last_owned + 1);
    }
}

impl Record {
    /// Only what is older than `until`, of a copy.
    fn cut(mut self, until: u64) -> Result<Self> {
        let Some(copy) = self.part.copy() else { return Ok(self) };
        let (mut kept, mut later) = (0, 0);
        for block in blocks(copy) {
            if later > 0 || PacketHead::parse(block)?.timestamp_ns >= until {
                later += 1;
            } else {
                kept += block.len();
            }
        }
        self.used = Used { bytes: self.used.bytes - (copy.len() - kept), blocks: self.used.blocks - later };
        self.is_cut = later > 0;
        self.part.truncate(kept);
        Ok(self)
    }
}

impl Memory {
    fn tag(&self, region: u32) -> Result<Option<Tag>> {
        let (window, at) = self.regions.of(region)?;
        Ok(Tag::of(Shared(window.u64(at + mem::offset_of!(Header, tag))).load()))
    }

    /// What is in a region with this tag and was not seen; none if it has another by now. `gives_back` is what
    /// [`Owned::gives_back`] says of it.
    fn record(
        &self,
        region: u32,
        expected: Tag,
        seen: &Written,
        gives_back: Option<bool>,
    ) -> Result<Option<Record>> {
        let (window, at) = self.regions.of(region)?;
        let word = |offset| Shared(window.u64(at + offset));
        let tag = word(mem::offset_of!(Header, tag));
        let before = word(mem::offset_of!(Header, before));
        let start = if expected.number == seen.number { seen.bytes } else { FIRST_BLOCK };
        let is_sound = |used: Used| (start..=REGION_BYTES).contains(&used.bytes);
        let copy = |used: Used| {
            let end = if is_sound(used) { used.bytes } else { start };
            let part = match gives_back {
                Some(is_last) => Part::in_place(Span { region, start, end, is_last }),
                None => Part::copied(region, window.copy(at + start..at + end)),
            };
            Record { number: expected.number, before: before.load(), used, is_cut: false, part }
        };
        let used = word(mem::offset_of!(Header, len));
        let record = recorder::copied(expected, &tag, &used, copy, || fence(Ordering::Acquire));
        ensure!(record.as_ref().is_none_or(|it| is_sound(it.used)), "region {region} has an odd length");
        Ok(record)
    }
}

#[cfg(test)]
mod tests {
    use sniff_pcapng::testing::RingPacket;

    use super::*;

    /// A copy of packets at these times.
    fn record(times: &[u64]) -> Record {
        let block = |&time_ns: &u64| RingPacket { time_ns, data: b"abc", ..RingPacket::default() }.block();
        let copy = times.iter().flat_map(block).collect::<Vec<u8>>();
        let used = Used { bytes: FIRST_BLOCK + copy.len(), blocks: 10 + times.len() as u64 };
        Record { number: 1, before: 7, used, is_cut: false, part: Part::copied(0, copy) }
    }

    #[test]
    fn a_copy_ends_before_what_is_too_late() {
        let len = record(&[1]).used.bytes - FIRST_BLOCK;
        for (until, kept) in [(5, 0), (6, 1), (7, 2), (8, 2), (9, 3), (u64::MAX, 3)] {
            let record = record(&[5, 6, 8]).cut(until).unwrap();
            assert_eq!(
                record.used,
                Used { bytes: FIRST_BLOCK + kept * len, blocks: 10 + kept as u64 },
                "{until}"
            );
            assert_eq!(record.is_cut, kept < 3, "{until}");
        }
    }

    #[test]
    fn what_stays_in_place_is_not_cut() {
        let span = Span { region: 0, start: FIRST_BLOCK, end: 300, is_last: true };
        let owned = Record { part: Part::in_place(span), ..record(&[5, 6]) };
        let used = owned.used;
        let owned = owned.cut(0).unwrap();
        assert_eq!((owned.used, owned.is_cut), (used, false));
    }

    #[test]
    fn what_a_reader_owns_goes_back_but_at_the_end() {
        assert_eq!(Owned::These(&[2, 0]).gives_back(4), [Some(true), None, Some(true), None]);
        assert_eq!(Owned::All.gives_back(2), [Some(false); 2]);
    }

    #[test]
    fn copies_that_do_not_follow_what_is_owned_are_given_up() {
        let of = |owned: &[u64], copies: &[u64]| {
            let span = Span { region: 0, start: FIRST_BLOCK, end: 300, is_last: true };
            let owned =
                owned.iter().map(|&number| Record { number, part: Part::in_place(span), ..record(&[5]) });
            let copies = copies.iter().map(|&number| Record { number, ..record(&[6]) });
            let mut records: Vec<Record> = owned.chain(copies).collect();
            give_up_what_does_not_follow(&mut records);
            records.iter().map(|record| record.number).collect::<Vec<_>>()
        };
        assert_eq!(of(&[1, 2], &[3, 4]), [1, 2, 3, 4]);
        assert_eq!(of(&[1, 2], &[4, 5]), [1, 2]);
        assert_eq!(of(&[1, 2], &[]), [1, 2]);
        // Nothing is owned: what is newest counts.
        assert_eq!(of(&[], &[4, 6]), [4, 6]);
    }
}
