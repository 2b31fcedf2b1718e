//! The protocol of the regions: how packets get from the kernel side to the user side without a lock.
//!
//! The ring's memory is cut into regions of equal size. A CPU owns one region at a time and appends blocks to it; when
//! the next block does not fit, it takes a free region and leaves the full one to the reader. So each CPU leaves a
//! chain of regions, in order. The reader follows the chain of each CPU, and gives a region back when it has read it to
//! its end. Free regions are on a stack (`BPF_MAP_TYPE_STACK`): the one that was given back last, and is still in the
//! cache, is taken first, so that under light load the same few regions are used over and over.
//!
//! | Word | Written by | Read by |
//! |---|---|---|
//! | [`Cpu::sequence`] | the CPU: odd while a packet is in work | the reader, to know when nothing older can follow |
//! | [`Cpu::first`] | the CPU, once | the reader |
//! | [`Cpu::current`], [`Cpu::offset`], [`Cpu::unwoken`] | the CPU | the CPU |
//! | [`Cpu::taken`], [`Cpu::lost`], [`Cpu::cut_off`] | the CPU | whoever wants to know how it goes |
//! | [`Cpu::asleep`] | the reader when it goes to sleep, the CPU that then wakes it | the CPU |
//! | [`Header::len`] | the CPU that owns the region: bytes in use, header included | the reader |
//! | [`Header::next`] | the CPU that owned it: the region that follows, plus 1 | the reader |
//! | the stack of free regions | CPUs pop, the reader pushes, under the map's own lock | |
//!
//! Why it is safe:
//!
//! - *One writer a CPU.* Classifiers run with bottom halves off, which on a kernel without `PREEMPT_RT` means that no
//!   other classifier can run on this CPU in between. With `PREEMPT_RT` that does not hold, and the ring buffer is used.
//! - *A block is whole before it is seen.* It is written first; then the new length is published with an exchange,
//!   which is a full barrier on every architecture (BPF has plain stores otherwise). The reader loads the length with
//!   acquire and touches nothing beyond it.
//! - *A closed region does not grow.* `next` is published after the last length. The reader that has seen `next` loads
//!   the length once more.
//! - *A region has one owner.* The stack hands it out once. Its lock orders the reader's last look before the push,
//!   and the new owner's writes after the pop.
//! - *Nothing older can follow.* A CPU makes its sequence odd before it reads the clock, and even after it has
//!   published. A reader that reads the clock first, and then sees an even sequence or one that moved, has every
//!   block in sight that is older than that reading, less the time that a store takes to become visible
//!   ([`SETTLE_NS`]).
//!
//! A CPU that finds no free region loses the packet and counts it. Nobody ever waits.

/// Size of a region in bytes: whole pages, and room for one block of the largest size behind the header.
///
/// Small enough that the regions in use stay in a CPU's cache, large enough that changing them costs nothing.
pub const REGION_BYTES: usize = 68 * 4096;
/// Where the blocks of a region begin, in bytes: behind the [`Header`].
pub const FIRST_BLOCK: usize = size_of::<Header>();
/// The room that a block may ask for, in bytes, ascending. The verifier must see a constant; what is not used is not
/// lost, except at the end of a region.
pub const ROOMS: [usize; 4] = [2048, 9216, 66_560, 262_272];
/// Longest that a store may take to become visible to other CPUs, in nanoseconds, with generous reserve.
pub const SETTLE_NS: u64 = 100_000;

/// The state of one CPU; cache lines of its own. The BPF ring buffer uses only what decides about wake-ups, and the
/// counts of what is lost and left out.
#[repr(C, align(64))]
#[derive(Clone, Copy, Debug, Default)]
pub struct Cpu {
    /// Odd while this CPU works on a packet.
    pub sequence: u64,
    /// The first region of this CPU's chain, plus 1; 0 before there is one.
    pub first: u64,
    /// The region that this CPU owns, plus 1; 0 for none.
    pub current: u64,
    /// Bytes in use in that region.
    pub offset: u64,
    /// Bytes written since the reader was last woken from this CPU.
    pub unwoken: u64,
    /// Not 0 while the reader sleeps until it is woken.
    pub asleep: u64,
    /// Regions that this CPU has taken so far.
    pub taken: u64,
    /// Packets that were lost on this CPU so far.
    pub lost: u64,
    /// Packets that were left out on this CPU so far behind the cutoff of their [flow](crate::flow).
    pub cut_off: u64,
}

/// What a region begins with; a cache line of its own.
#[repr(C, align(64))]
#[derive(Clone, Copy, Debug, Default)]
pub struct Header {
    /// Bytes in use, this header included.
    pub len: u64,
    /// The region that comes after this one in the chain, plus 1; 0 while this one is still written.
    pub next: u64,
    /// Whose it is; only in a [recorder](crate::recorder).
    pub tag: u64,
    /// Blocks that its owner had written into others before; only there.
    pub before: u64,
}

/// A word in memory that both sides share. A value of such a type is a place: all methods act on the same word.
pub trait Word {
    /// Reads, and nothing that follows is read earlier (acquire).
    fn load(&self) -> u64;
}

/// A word as CPUs use it.
pub trait CpuWord: Word {
    /// Writes a new value, as a full barrier.
    fn publish(&self, value: u64);
}

/// The memory as CPUs see it.
pub trait Memory {
    /// A word of it.
    type Word: CpuWord;
    /// A region of it.
    type Region: Region<Word = Self::Word>;

    /// Bytes of a region: [`REGION_BYTES`], but for models.
    const REGION_BYTES: u64 = REGION_BYTES as u64;

    /// The region with this number.
    fn region(&self, index: u32) -> Option<Self::Region>;
    /// Takes a region from the stack of free ones.
    fn take(&self) -> Option<u32>;
}

/// A region, as a place.
pub trait Region: Copy {
    /// A word of its header.
    type Word: CpuWord;

    /// [`Header::len`].
    fn used(self) -> Self::Word;
    /// [`Header::next`].
    fn next(self) -> Self::Word;
}

/// The region that a CPU writes its next block to, of at most `room` bytes: its own, or a fresh one. `first` is
/// [`Cpu::first`]; what is taken counts in `taken`. `None` when none is free.
#[inline(always)]
pub fn region_with_room<M: Memory>(
    memory: &M,
    current: &mut u64,
    offset: &mut u64,
    taken: &mut u64,
    first: M::Word,
    room: u64,
) -> Option<M::Region> {
    let owned = index(*current).and_then(|index| memory.region(index));
    if let Some(owned) = owned
        && *offset + room <= M::REGION_BYTES
    {
        return Some(owned);
    }
    let free = memory.take()?;
    *taken += 1;
    let fresh = memory.region(free)?;
    fresh.used().publish(FIRST_BLOCK as u64);
    fresh.next().publish(0);
    let link = owned.map_or(first, Region::next);
    // Last: the reader goes on to the fresh region as soon as it sees this.
    link.publish(word(free));
    *current = word(free);
    *offset = FIRST_BLOCK as u64;
    Some(fresh)
}

/// Hands a block over that was written behind `offset`; a CPU's part.
#[inline(always)]
pub fn publish(region: impl Region, offset: &mut u64, len: u64) {
    *offset += len;
    region.used().publish(*offset);
}

/// Where a reader is in the chain of one CPU.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Position {
    /// The region, or none before the CPU's first packet.
    pub region: Option<u32>,
    /// Bytes seen of it, its header included.
    pub offset: usize,
}

impl Position {
    /// The start of a chain, or of a region in it.
    pub const fn start_of(region: Option<u32>) -> Self {
        Self { region, offset: FIRST_BLOCK }
    }
}

/// What a reader sees of one region.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sight {
    /// Bytes in use, the header included.
    pub len: usize,
    /// The region after this one, if this one is full.
    pub next: Option<u32>,
}

impl Sight {
    /// Looks at a region's header.
    pub fn of<W: Word>(len: &W, next: &W) -> Self {
        let next = index(next.load());
        // In this order: with `next` in sight, this is the last length.
        Self { len: len.load() as usize, next }
    }
}

/// A part of a region with whole blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// The region.
    pub region: u32,
    /// Where the blocks begin in it, in bytes.
    pub start: usize,
    /// Where they end.
    pub end: usize,
    /// Whether nothing follows in this region.
    pub is_last: bool,
}

/// Follows a chain from `seen` to its end: the reader's part. `visit` gets what is new; a region's last span may be
/// empty.
///
/// # Errors
///
/// That of `look`.
pub fn follow<E>(
    seen: &mut Position,
    mut look: impl FnMut(u32) -> Result<Sight, E>,
    mut visit: impl FnMut(Span),
) -> Result<(), E> {
    while let Some(region) = seen.region {
        let Sight { len, next } = look(region)?;
        let is_last = next.is_some();
        if seen.offset < len || is_last {
            visit(Span { region, start: seen.offset, end: len, is_last });
        }
        seen.offset = len;
        if !is_last {
            break;
        }
        *seen = Position::start_of(next);
    }
    Ok(())
}

/// A region's number as it stands in a word, where 0 is none.
pub fn index(word: u64) -> Option<u32> {
    word.checked_sub(1).map(|index| index as u32)
}

/// The word of a region.
pub const fn word(index: u32) -> u64 {
    index as u64 + 1
}

/// Fewest regions with which `cpus` CPUs can each own one while the reader holds another.
pub const fn fewest(cpus: usize) -> usize {
    cpus + 1
}

#[cfg(test)]
mod tests {
    use core::mem::{align_of, offset_of};

    use super::*;
    use crate::{MAX_SNAPLEN, epb};

    #[test]
    fn the_layout_is_what_the_kernel_side_writes() {
        assert_eq!((size_of::<Cpu>(), align_of::<Cpu>()), (128, 64));
        assert_eq!(size_of::<Header>(), 64);
        assert_eq!((offset_of!(Header, len), offset_of!(Header, next)), (0, 8));
        assert_eq!((offset_of!(Header, tag), offset_of!(Header, before)), (16, 24));
        assert_eq!((offset_of!(Cpu, sequence), offset_of!(Cpu, first)), (0, 8));
        assert_eq!((offset_of!(Cpu, lost), offset_of!(Cpu, cut_off)), (56, 64));
    }

    #[test]
    fn the_largest_block_fits_in_an_empty_region() {
        let largest = ROOMS[ROOMS.len() - 1];
        assert!(ROOMS.is_sorted());
        assert!(largest >= epb::block_len(MAX_SNAPLEN, true, true) as usize);
        assert!(FIRST_BLOCK + largest <= REGION_BYTES);
        assert_eq!(REGION_BYTES % 4096, 0);
    }

    #[test]
    fn a_word_holds_a_region_plus_one() {
        assert_eq!(index(0), None);
        assert_eq!(index(1), Some(0));
        assert_eq!(index(64), Some(63));
    }
}
