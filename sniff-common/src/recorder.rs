//! The protocol of a recorder: [regions] that are written over, the oldest first, so that what is held is
//! always what came last. Nobody is woken, and nothing is given back: without a reader it costs what writing costs.
//!
//! A CPU owns one region at a time, as there. When the next block does not fit, it takes another and leaves the full one
//! at the end of a queue (`BPF_MAP_TYPE_QUEUE`). It takes a free one as long as there are any, then the one that was left
//! first, by whichever CPU. So the memory is that of all CPUs, and goes to those that have packets. Each region tells whose
//! it is and which one of that CPU.
//!
//! A reader takes all that are in the queue, but for as many as CPUs need meanwhile ([`spare`]), and puts each, as it has read it, at the end of another queue, which CPUs take
//! from before they take from the first: so what was read stays held until its time has come, and is read again by the next
//! reader.
//!
//! | Word | Written by | Read by |
//! |---|---|---|
//! | [`Cpu::current`], [`Cpu::offset`], [`Cpu::taken`] | the CPU | the CPU |
//! | [`Header::len`] | the CPU that owns the region: [`Used`] | the reader |
//! | [`Header::tag`] | the CPU that owns the region: [`Tag`], or 0 while it is being taken | the reader |
//! | [`Header::before`] | the CPU that owns the region: blocks that it had written into others before | the reader |
//! | the free regions, the queues of those that were left, and read | CPUs, and a reader, under the maps' own locks | |
//!
//! Why it is safe:
//!
//! - *A region has one owner.* It is in a queue, or it is somebody's. A reader that takes it out of one owns it, and
//!   no CPU writes to it until it is put back. The lock orders the last write before the reader's look.
//! - *What a CPU owns can be copied.* The tag is 0, as a full barrier, before the first byte is written over, and a new one
//!   when the header is true again. No tag comes twice. So a reader that sees the same tag before and after its copy has
//!   what was in the region: [`copied`]. A copy that is not whole is not used.
//! - *What is held of a CPU is its last.* Regions are left in order, read in order, and taken back in that order. So
//!   those of a CPU that are still there follow each other up to the one that it writes. Where one is missing all the
//!   same, nothing before it counts: [`unbroken`].
//! - *What aged out is counted.* Bytes and blocks in use are one word, and a region tells how many blocks came before it. So
//!   the oldest one that is held tells how many blocks of its CPU are not.
//!
//! A CPU that changes its region has two for a moment, however long that is on a virtual one. So packets are lost only where a
//! reader leaves less than one region for each CPU that others can take: [`spare`].
//!
//! [`Cpu::current`]: crate::regions::Cpu::current
//! [`Cpu::offset`]: crate::regions::Cpu::offset
//! [`Cpu::taken`]: crate::regions::Cpu::taken
//! [`Header::len`]: crate::regions::Header::len
//! [`Header::tag`]: crate::regions::Header::tag
//! [`Header::before`]: crate::regions::Header::before

use crate::regions::{self, CpuWord as _, FIRST_BLOCK, Region as _, Word, index, word};

/// Of so many regions, CPUs have one at least while others are read.
const SPARE_PART: usize = 32;
/// Where the bits begin that count blocks, in a word that says how much of a region is in use.
const BLOCKS_SHIFT: u32 = 32;
/// Bits of a [`Tag`] that are the CPU's.
const CPU_BITS: u32 = 16;

/// The memory as CPUs see it.
pub trait Memory: regions::Memory<Region: Region> {
    /// Puts a full region behind those that were left before.
    fn leave(&self, region: u32);
}

/// A region, as a place.
pub trait Region: regions::Region {
    /// [`Header::tag`](regions::Header::tag).
    fn tag(self) -> Self::Word;
    /// [`Header::before`](regions::Header::before).
    fn before(self) -> Self::Word;
}

/// How much of a region is in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Used {
    /// Bytes, the header included.
    pub bytes: usize,
    /// Blocks.
    pub blocks: u64,
}

impl Used {
    /// What stands in the word.
    pub const fn of(word: u64) -> Self {
        Self { bytes: word as u32 as usize, blocks: word >> BLOCKS_SHIFT }
    }
}

/// Whose a region is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tag {
    /// The CPU.
    pub cpu: u32,
    /// Which one it is of those that this CPU has taken, from 1 on.
    pub number: u64,
}

impl Tag {
    /// What stands in the word; none of a region that nobody has written to, or that is being taken.
    pub fn of(word: u64) -> Option<Self> {
        let number = word >> CPU_BITS;
        (number > 0).then_some(Self { cpu: word as u32 & ((1 << CPU_BITS) - 1), number })
    }

    /// The word.
    pub const fn word(self) -> u64 {
        self.number << CPU_BITS | self.cpu as u64
    }
}

/// The region that a CPU writes its next block to, of at most `room` bytes: its own, or another. `current`, `offset` and
/// `taken` are [`regions::Cpu`]'s. `None` when there is none to be had.
#[inline(always)]
pub fn region_with_room<M: Memory>(
    memory: &M,
    cpu: u32,
    current: &mut u64,
    offset: &mut u64,
    taken: &mut u64,
    room: u64,
) -> Option<M::Region> {
    let owned = index(*current).and_then(|index| memory.region(index));
    // A number, and not the region, for the verifier's sake: it takes no value along that may not be there.
    let mut before = *offset >> BLOCKS_SHIFT;
    if let Some(owned) = owned {
        if bytes(*offset) + room <= M::REGION_BYTES {
            return Some(owned);
        }
        before += owned.before().load();
    }
    let other = memory.take()?;
    let fresh = memory.region(other)?;
    // First: from here on no copy of what it held is whole.
    fresh.tag().publish(0);
    fresh.used().publish(FIRST_BLOCK as u64);
    fresh.before().publish(before);
    *taken += 1;
    fresh.tag().publish(Tag { cpu, number: *taken }.word());
    if let Some(full) = index(*current) {
        memory.leave(full);
    }
    *current = word(other);
    *offset = FIRST_BLOCK as u64;
    Some(fresh)
}

/// Hands a block over that was written behind `offset`; a CPU's part.
#[inline(always)]
pub fn publish(region: impl regions::Region, offset: &mut u64, len: u64) {
    *offset += 1 << BLOCKS_SHIFT | len;
    region.used().publish(*offset);
}

/// Where the next block begins, in bytes, by [`regions::Cpu::offset`].
#[inline(always)]
pub const fn bytes(offset: u64) -> u64 {
    offset & ((1 << BLOCKS_SHIFT) - 1)
}

/// Copies a region that a CPU owns, or `None` if that is not the one with this tag any more. `copy` is told how much of it
/// is in use, and reads its bytes while they may change; `fence` is one that acquires.
pub fn copied<W: Word, T>(
    expected: Tag,
    tag: &W,
    used: &W,
    copy: impl FnOnce(Used) -> T,
    fence: impl FnOnce(),
) -> Option<T> {
    let is_the_one = || Tag::of(tag.load()) == Some(expected);
    if !is_the_one() {
        return None;
    }
    let copy = copy(Used::of(used.load()));
    fence();
    is_the_one().then_some(copy)
}

/// Fewest regions with which `cpus` CPUs can record: each owns one, [`spare`] are for them to take, and some are held.
pub const fn fewest(cpus: usize) -> usize {
    4 * cpus
}

/// How many of `regions` a reader leaves to be taken by `cpus` CPUs: one for each, and another for what they leave while it
/// takes the rest, and it takes, too.
pub const fn spare(regions: usize, cpus: usize) -> usize {
    let part = regions.div_ceil(SPARE_PART);
    if part > 2 * cpus { part } else { 2 * cpus }
}

/// How many of a CPU's regions count, from the last one back, by their numbers in ascending order.
pub fn unbroken(numbers: impl DoubleEndedIterator<Item = u64>) -> usize {
    let mut next = None;
    let follows = |&number: &u64| next.replace(number).is_none_or(|next| number + 1 == next);
    numbers.rev().take_while(follows).count()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::regions::REGION_BYTES;

    #[test]
    fn a_word_holds_bytes_and_blocks() {
        const { assert!(REGION_BYTES < 1 << BLOCKS_SHIFT) };
        let word = (FIRST_BLOCK as u64 + 100) + (3 << BLOCKS_SHIFT);
        assert_eq!(Used::of(word), Used { bytes: FIRST_BLOCK + 100, blocks: 3 });
        assert_eq!(bytes(word), FIRST_BLOCK as u64 + 100);
    }

    #[test]
    fn a_tag_is_of_one_region_of_one_cpu() {
        assert_eq!(Tag::of(0), None);
        for tag in [Tag { cpu: 0, number: 1 }, Tag { cpu: 8191, number: 1 << 40 }] {
            assert_eq!(Tag::of(tag.word()), Some(tag));
        }
    }

    #[test]
    fn what_is_before_a_gap_does_not_count() {
        let of = |numbers: &[u64]| unbroken(numbers.iter().copied());
        assert_eq!(of(&[]), 0);
        assert_eq!(of(&[7]), 1);
        assert_eq!(of(&[5, 6, 7]), 3);
        assert_eq!(of(&[1, 2, 5, 6, 7]), 3);
        assert_eq!(of(&[5, 7]), 1);
    }
}
