//! The protocol of a recorder under every interleaving of its CPUs and of a reader that saves what is held, as far as the
//! C11 memory model allows them (<https://docs.rs/loom>). The words and the blocks are loom's; the protocol is the one that
//! runs.
//!
//! A block is two words here, each of which says which one of its CPU it is, and a region has room for two.

use std::{collections::VecDeque, iter};

use loom::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering, fence},
    },
    thread,
};
use sniff_common::{
    recorder::{self, Tag, Used},
    regions::{self, CpuWord, FIRST_BLOCK, Word},
};

/// Bytes of a block.
const BLOCK: usize = 8;
/// Blocks in a region.
const BLOCKS: usize = 2;

/// What CPUs and reader share.
struct Model {
    regions: Vec<ModelRegion>,
    /// The maps' locks are a part of the protocol.
    free: Mutex<Vec<u32>>,
    read: Mutex<VecDeque<u32>>,
    left: Mutex<VecDeque<u32>>,
}

#[derive(Default)]
struct ModelRegion {
    len: AtomicU64,
    next: AtomicU64,
    tag: AtomicU64,
    before: AtomicU64,
    /// They may be read while they are written over.
    blocks: [[AtomicU64; 2]; BLOCKS],
}

/// A word, as a place.
struct At<'a>(&'a AtomicU64);

impl Word for At<'_> {
    fn load(&self) -> u64 {
        self.0.load(Ordering::Acquire)
    }
}

impl CpuWord for At<'_> {
    fn publish(&self, value: u64) {
        // A full barrier, which C11's exchange alone is not.
        fence(Ordering::SeqCst);
        self.0.swap(value, Ordering::SeqCst);
        fence(Ordering::SeqCst);
    }
}

impl<'a> regions::Memory for &'a Model {
    type Word = At<'a>;
    type Region = &'a ModelRegion;

    const REGION_BYTES: u64 = (FIRST_BLOCK + BLOCKS * BLOCK) as u64;

    fn region(&self, index: u32) -> Option<&'a ModelRegion> {
        self.regions.get(index as usize)
    }

    fn take(&self) -> Option<u32> {
        let first = |queue: &Mutex<VecDeque<u32>>| queue.lock().expect("a queue").pop_front();
        let free = self.free.lock().expect("the stack").pop();
        free.or_else(|| first(&self.read)).or_else(|| first(&self.left))
    }
}

impl recorder::Memory for &Model {
    fn leave(&self, region: u32) {
        self.left.lock().expect("a queue").push_back(region);
    }
}

impl<'a> regions::Region for &'a ModelRegion {
    type Word = At<'a>;

    fn used(self) -> At<'a> {
        At(&self.len)
    }

    fn next(self) -> At<'a> {
        At(&self.next)
    }
}

impl<'a> recorder::Region for &'a ModelRegion {
    fn tag(self) -> At<'a> {
        At(&self.tag)
    }

    fn before(self) -> At<'a> {
        At(&self.before)
    }
}

/// A region that a reader has, or its copy.
struct Held {
    number: u64,
    before: u64,
    blocks: Vec<[u64; 2]>,
}

impl ModelRegion {
    /// What is in it, which may be torn where somebody writes to it.
    fn read(&self, number: u64, used: Used) -> Held {
        let block = |at: usize| self.blocks[at].each_ref().map(|word| word.load(Ordering::Relaxed));
        let before = self.before.load(Ordering::Relaxed);
        // What a length is that was read too late is found out afterwards.
        let blocks = (used.bytes - FIRST_BLOCK) / BLOCK;
        Held { number, before, blocks: (0..blocks).map(block).collect() }
    }
}

impl Model {
    fn new(regions: usize) -> Arc<Self> {
        Arc::new(Self {
            regions: (0..regions).map(|_| ModelRegion::default()).collect(),
            free: Mutex::new((0..regions as u32).collect()),
            read: Mutex::new(VecDeque::new()),
            left: Mutex::new(VecDeque::new()),
        })
    }

    /// What the classifier does, `packets` times. Returns how many were lost.
    fn write(&self, cpu: u32, packets: usize) -> u64 {
        let (mut current, mut offset, mut taken) = (0, 0, 0);
        let (mut lost, mut written) = (0, 0);
        for _ in 0..packets {
            let room = BLOCK as u64;
            match recorder::region_with_room(&self, cpu, &mut current, &mut offset, &mut taken, room) {
                Some(region) => {
                    let at = (recorder::bytes(offset) as usize - FIRST_BLOCK) / BLOCK;
                    region.blocks[at].iter().for_each(|word| word.store(written, Ordering::Relaxed));
                    recorder::publish(region, &mut offset, room);
                    written += 1;
                }
                None => lost += 1,
            }
        }
        lost
    }
}

/// A reader, and what it has seen of a CPU.
#[derive(Clone, Default)]
struct Seen {
    /// Of which region it saw a part last, and how many blocks of that.
    number: u64,
    of_it: usize,
    /// How many blocks there were in all, seen or not.
    blocks: u64,
    /// How many aged out unseen.
    aged_out: u64,
}

/// Sees what is held of each CPU, all of it and what is new. Regions that were taken out of the queues are read then.
/// Returns how much of all has aged out.
fn save(model: &Model, seen: &mut [Seen]) -> u64 {
    let all = |queue: &Mutex<VecDeque<u32>>| queue.lock().expect("a queue").drain(..).collect::<Vec<u32>>();
    let owned = [all(&model.read), all(&model.left)].concat();
    // This is the moment: what has a number up to this is full, but for the last.
    let tags = || model.regions.iter().map(|region| Tag::of(region.tag.load(Ordering::Acquire)));
    let mut last = vec![0; seen.len()];
    tags().flatten().for_each(|tag| last[tag.cpu as usize] = tag.number.max(last[tag.cpu as usize]));
    let mut held: Vec<Vec<Held>> = seen.iter().map(|_| Vec::new()).collect();
    for ((index, region), tag) in (0..).zip(&model.regions).zip(tags()) {
        let Some(tag) = tag else { continue };
        let cpu = tag.cpu as usize;
        if tag.number > last[cpu] {
            continue;
        }
        let copy = |used| region.read(tag.number, used);
        let (word, len) = (At(&region.tag), At(&region.len));
        let copy = recorder::copied(tag, &word, &len, copy, || fence(Ordering::Acquire));
        assert!(copy.is_some() || !owned.contains(&index), "what a reader owns is not written over");
        held[cpu].extend(copy);
    }
    let mut aged_out = 0;
    for (seen, mut held) in seen.iter_mut().zip(held) {
        held.sort_by_key(|held| held.number);
        let counts = recorder::unbroken(held.iter().map(|held| held.number));
        held.drain(..held.len() - counts);
        let mut all = Seen::default();
        all.take(&held);
        aged_out += all.aged_out;
        held.retain(|held| held.number >= seen.number);
        seen.take(&held);
    }
    model.read.lock().expect("a queue").extend(owned);
    aged_out
}

impl Seen {
    /// What is new of a CPU is one run of blocks, of which none was seen before.
    fn take(&mut self, held: &[Held]) {
        let Some(first) = held.first() else { return };
        let part = if first.number == self.number { self.of_it } else { 0 };
        let mut next = first.before + part as u64;
        self.aged_out += next - self.blocks;
        for (Held { before, blocks, .. }, part) in held.iter().zip(iter::once(part).chain(iter::repeat(0))) {
            assert_eq!(*before + part as u64, next, "a region tells how many blocks came before it");
            for block in &blocks[part..] {
                assert_eq!(*block, [next; 2], "a block that is torn, missing or there twice");
                next += 1;
            }
            *self = Self { number: held[held.len() - 1].number, of_it: blocks.len(), blocks: next, ..*self };
        }
    }
}

/// Runs CPUs with so many packets each beside a reader that saves so many times, and once more at the end, in all
/// interleavings with up to two preemptions.
fn check(regions: usize, packets: &'static [usize], saves: usize) {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(2);
    model.check(move || {
        let model = Model::new(regions);
        let cpus: Vec<_> = (0..packets.len())
            .map(|cpu| {
                let model = Arc::clone(&model);
                thread::spawn(move || model.write(cpu as u32, packets[cpu]))
            })
            .collect();
        let mut seen = vec![Seen::default(); packets.len()];
        for _ in 0..saves {
            save(&model, &mut seen);
        }
        let lost: Vec<u64> = cpus.into_iter().map(|cpu| cpu.join().expect("a CPU")).collect();
        let aged_out = save(&model, &mut seen);

        if saves == 0 && regions >= 2 * packets.len() {
            assert_eq!(lost.iter().sum::<u64>(), 0, "each CPU can have two");
        }
        for ((seen, lost), packets) in seen.iter().zip(&lost).zip(packets) {
            assert_eq!(seen.blocks + lost, *packets as u64, "seen, aged out and lost are all");
        }
        // What there is room for does not age out, whoever has read it, but for what each CPU's last region has left.
        let room = ((regions - packets.len()) * BLOCKS) as u64;
        let written = seen.iter().map(|seen| seen.blocks).sum::<u64>();
        assert!(aged_out <= written.saturating_sub(room), "too much aged out: {aged_out}");
    });
}

#[test]
fn the_oldest_region_is_taken_back_whosever_it_is() {
    check(3, &[3, 3], 0);
}

#[test]
fn cpus_that_change_their_regions_at_the_same_time_lose_nothing() {
    check(4, &[5, 3], 0);
}

#[test]
fn what_two_cpus_write_meanwhile_is_seen_the_next_time() {
    check(3, &[3, 1], 1);
}

#[test]
fn a_copy_of_what_is_written_over_meanwhile_is_not_used() {
    check(2, &[5], 1);
}

#[test]
fn without_a_region_to_be_had_packets_are_lost_and_counted() {
    check(1, &[4], 1);
}
