//! The protocol of the regions under every interleaving of its CPUs and its reader, as far as the C11 memory model
//! allows them (<https://docs.rs/loom>). The words and the blocks are loom's; the protocol is the one that runs.
//!
//! A block is one word here, and a region has room for two.
#![expect(unsafe_code, reason = "loom hands out its cells' contents as pointers")]

use loom::{
    cell::UnsafeCell,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering, fence},
    },
    thread,
};
use sniff_common::regions::{self, CpuWord, FIRST_BLOCK, Memory, Position, Region, Sight, Span, Word};

/// Bytes of a block.
const BLOCK: u64 = 8;
/// Blocks in a region.
const BLOCKS: usize = 2;

/// What CPUs and reader share.
struct Model {
    regions: Vec<ModelRegion>,
    /// The map's lock is a part of the protocol.
    free: Mutex<Vec<u32>>,
    cpus: Vec<ModelCpu>,
    clock: AtomicU64,
}

struct ModelRegion {
    len: AtomicU64,
    next: AtomicU64,
    /// loom fails the test when a block is read while it is written, or without having been handed over.
    blocks: [UnsafeCell<u64>; BLOCKS],
}

struct ModelCpu {
    first: AtomicU64,
    sequence: AtomicU64,
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
        self.0.swap(value, Ordering::SeqCst);
    }
}

impl<'a> Memory for &'a Model {
    type Word = At<'a>;
    type Region = &'a ModelRegion;

    const REGION_BYTES: u64 = FIRST_BLOCK as u64 + BLOCKS as u64 * BLOCK;

    fn region(&self, index: u32) -> Option<&'a ModelRegion> {
        self.regions.get(index as usize)
    }

    fn take(&self) -> Option<u32> {
        self.free.lock().expect("the stack").pop()
    }
}

impl<'a> Region for &'a ModelRegion {
    type Word = At<'a>;

    fn used(self) -> At<'a> {
        At(&self.len)
    }

    fn next(self) -> At<'a> {
        At(&self.next)
    }
}

impl Model {
    fn new(regions: usize, cpus: usize) -> Arc<Self> {
        let region = || ModelRegion {
            len: AtomicU64::new(0),
            next: AtomicU64::new(0),
            blocks: std::array::from_fn(|_| UnsafeCell::new(0)),
        };
        let cpu = || ModelCpu { first: AtomicU64::new(0), sequence: AtomicU64::new(0) };
        Arc::new(Self {
            regions: (0..regions).map(|_| region()).collect(),
            free: Mutex::new((0..regions as u32).collect()),
            cpus: (0..cpus).map(|_| cpu()).collect(),
            clock: AtomicU64::new(1),
        })
    }

    /// What the classifier does, `packets` times. Returns how many were lost.
    fn write(&self, cpu: usize, packets: usize) -> usize {
        let (mut current, mut offset, mut taken) = (0, 0, 0);
        let mut lost = 0;
        for _ in 0..packets {
            // A sequence that is seen in time: what `SETTLE_NS` grants the real one.
            self.cpus[cpu].sequence.fetch_add(1, Ordering::SeqCst);
            let first = At(&self.cpus[cpu].first);
            match regions::region_with_room(&self, &mut current, &mut offset, &mut taken, first, BLOCK) {
                Some(region) => {
                    let time = self.clock.fetch_add(1, Ordering::SeqCst);
                    let at = (offset as usize - FIRST_BLOCK) / BLOCK as usize;
                    region.blocks[at].with_mut(|block| {
                        // SAFETY: loom checks that nobody else is here.
                        unsafe { *block = time }
                    });
                    regions::publish(region, &mut offset, BLOCK);
                }
                None => lost += 1,
            }
            self.cpus[cpu].sequence.fetch_add(1, Ordering::SeqCst);
        }
        lost
    }
}

/// The reader: what it has read of each CPU, as times.
struct Reader {
    model: Arc<Model>,
    seen: Vec<Position>,
    read: Vec<Vec<u64>>,
}

impl Reader {
    fn new(model: &Arc<Model>) -> Self {
        let cpus = model.cpus.len();
        Self { model: Arc::clone(model), seen: vec![Position::default(); cpus], read: vec![Vec::new(); cpus] }
    }

    /// Reads what is there. Returns the time before which everything was there, if that is known.
    fn look(&mut self) -> Option<u64> {
        let now = self.model.clock.load(Ordering::SeqCst);
        fence(Ordering::SeqCst);
        let is_even = |cpu: &ModelCpu| cpu.sequence.load(Ordering::SeqCst).is_multiple_of(2);
        let settled = self.model.cpus.iter().all(is_even);
        for cpu in 0..self.seen.len() {
            self.look_at(cpu);
        }
        settled.then_some(now)
    }

    fn look_at(&mut self, cpu: usize) {
        let Self { model, seen, read } = self;
        let (seen, read) = (&mut seen[cpu], &mut read[cpu]);
        if seen.region.is_none() {
            *seen = Position::start_of(regions::index(model.cpus[cpu].first.load(Ordering::Acquire)));
        }
        let look = |region: u32| {
            let region = &model.regions[region as usize];
            Ok::<_, ()>(Sight::of(&At(&region.len), &At(&region.next)))
        };
        let visit = |Span { region, start, end, is_last }: Span| {
            for at in (start..end).step_by(BLOCK as usize) {
                let block = &model.regions[region as usize].blocks[(at - FIRST_BLOCK) / BLOCK as usize];
                // SAFETY: loom checks that nobody writes.
                read.push(block.with(|block| unsafe { *block }));
            }
            if is_last {
                model.free.lock().expect("the stack").push(region);
            }
        };
        regions::follow(seen, look, visit).expect("nothing fails here");
    }

    fn total(&self) -> usize {
        self.read.iter().map(Vec::len).sum()
    }

    fn older_than(&self, time: u64) -> usize {
        self.read.iter().flatten().filter(|&&read| read < time).count()
    }
}

/// Runs CPUs with so many packets each beside a reader that looks `looks` times, in all interleavings with up to
/// two preemptions.
fn check(regions: usize, packets: &'static [usize], looks: usize) {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(2);
    model.check(move || {
        let model = Model::new(regions, packets.len());
        let cpus: Vec<_> = (0..packets.len())
            .map(|cpu| {
                let model = Arc::clone(&model);
                thread::spawn(move || model.write(cpu, packets[cpu]))
            })
            .collect();
        let mut reader = Reader::new(&model);
        let mut settled = Vec::new();
        for _ in 0..looks {
            if let Some(time) = reader.look() {
                settled.push((time, reader.older_than(time)));
            }
        }
        let lost: usize = cpus.into_iter().map(|cpu| cpu.join().expect("a CPU")).sum();
        reader.look();

        assert_eq!(reader.total() + lost, packets.iter().sum::<usize>(), "read and lost are all");
        for read in &reader.read {
            assert!(read.is_sorted(), "out of order, or read twice: {read:?}");
        }
        for (time, older) in settled {
            assert_eq!(reader.older_than(time), older, "something older than {time} came later");
        }
    });
}

#[test]
fn one_cpu_changes_regions_while_the_reader_reads() {
    check(2, &[4], 2);
}

#[test]
fn a_region_that_was_given_back_is_written_again() {
    check(2, &[6], 2);
}

#[test]
fn two_cpus_take_regions_from_the_same_stack() {
    check(3, &[2, 1], 1);
}

#[test]
fn without_a_free_region_packets_are_lost_and_counted() {
    check(1, &[3, 1], 1);
}
