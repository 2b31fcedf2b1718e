//! The kernel side's object: loaded once, which creates its maps; its capture function then serves as the body
//! of every classifier.

use std::{
    collections::{HashMap, HashSet, hash_map::Entry},
    io,
    os::fd::{AsFd as _, AsRawFd as _, OwnedFd, RawFd},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use aya::{
    Ebpf, EbpfError, EbpfLoader,
    maps::{IterableMap as _, Map, MapData, MapError, PerCpuArray, Queue, Stack},
    util::{KernelVersion, nr_cpus, online_cpus},
};
use aya_log::EbpfLogger;
use aya_obj::{
    Object,
    generated::{BPF_DW, BPF_IMM, BPF_LD, BPF_PSEUDO_MAP_FD, bpf_insn, bpf_map_type},
};
use bytesize::ByteSize;
use log::{Log, debug};
use sniff_common::{
    ABI_VERSION, Counters, Direction,
    flow::{self, FLOW_BYTES},
    recorder,
    regions::{self, REGION_BYTES},
};

use super::{
    ring::{self, Gauge, Maps, Shape, gauge::Room, records::Records},
    syscall,
};
use crate::system;

/// Built from sniff-ebpf by the build script.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/sniff-ebpf"));

/// Bytes of a ring buffer that holds only wake-ups: a page, the smallest there is.
const WAKE_UP_BYTES: u32 = 4096;
/// The maps that an interface's own stand in for: its counters, and the count of its lost packets.
const COUNTERS: &str = "SNIFF_COUNTERS";
const LOST: &str = "SNIFF_LOST";
/// The first kernel with `BPF_MAP_TYPE_RINGBUF`.
const RINGBUF_SINCE: KernelVersion = KernelVersion::new(5, 8, 0);

/// What decides about the maps.
#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    pub ring: ring::Kind,
    /// Memory for it in bytes, over all CPUs; [`sniff_common::MIN_RING_BYTES`] at least.
    pub ring_bytes: u32,
    /// How much wakes the reader.
    pub batch: ring::Batch,
    /// Whether flows are told apart. What that takes is part of the memory.
    pub has_cutoff: bool,
}

/// A ring that the kernel can have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Chosen {
    Regions,
    /// Regions that are written over.
    Recorder,
    Buffer,
}

/// The ring that was chosen, and how large its maps are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Layout {
    kind: Chosen,
    /// Regions; one where there are none, since a map has an entry at least.
    region_count: u32,
    /// Bytes of the BPF ring buffer: all of the ring, or room for wake-ups.
    buffer_bytes: u32,
    /// Bytes that a CPU writes before it wakes the reader.
    wake_bytes: u64,
    /// Regions that a recorder's reader leaves to CPUs.
    spare: u32,
    /// Flows that are told apart; one where none are, since a map has an entry at least.
    flows: u32,
}

impl Layout {
    /// `cpus` is how many CPUs are online.
    fn of(sizes: &Sizes, kind: Chosen, cpus: usize) -> Self {
        let Sizes { ring_bytes: memory, batch, has_cutoff, .. } = *sizes;
        let flows = if has_cutoff { flow::count(memory) } else { 1 };
        let ring_bytes = match kind {
            Chosen::Regions | Chosen::Recorder if has_cutoff => memory - flow::bytes(memory),
            // Less would be half of it.
            _ => memory,
        };
        // All CPUs together may fill half the ring before they have woken the reader.
        let share = u64::from(ring_bytes) / (2 * cpus as u64);
        let wake_bytes = share.min(batch.bytes());
        let fewest = if kind == Chosen::Recorder { recorder::fewest(cpus) } else { regions::fewest(cpus) };
        let count = (ring_bytes as usize / REGION_BYTES).max(fewest);
        let (region_count, buffer_bytes) = match kind {
            Chosen::Regions | Chosen::Recorder => (count as u32, WAKE_UP_BYTES),
            // The kernel takes only powers of two.
            Chosen::Buffer => (1, 1 << ring_bytes.ilog2()),
        };
        let spare = recorder::spare(count, cpus) as u32;
        Self { kind, region_count, buffer_bytes, wake_bytes, spare, flows }
    }

    /// Bytes that flows take, where they are told apart.
    fn flow_bytes(&self) -> u64 {
        if self.flows > 1 { u64::from(self.flows) * u64::from(FLOW_BYTES) } else { 0 }
    }

    /// Bytes of memory, and of which kind, for a person.
    fn describe(&self) -> String {
        let ring = match self.kind {
            Chosen::Regions | Chosen::Recorder => {
                let bytes = self.region_count as usize * REGION_BYTES;
                format!("{} in {} regions", ByteSize(bytes as u64), self.region_count)
            }
            Chosen::Buffer => format!("{} in a BPF ring buffer", ByteSize(self.buffer_bytes.into())),
        };
        match self.flow_bytes() {
            0 => ring,
            bytes => format!("{ring}, and {} for {} flows", ByteSize(bytes), self.flows),
        }
    }

    /// The capture function for it.
    fn function(&self) -> &'static str {
        match self.kind {
            Chosen::Regions => "sniff_regions",
            Chosen::Recorder => "sniff_recorder",
            Chosen::Buffer => "sniff_buffer",
        }
    }

    /// How many regions there are, if there are any.
    fn regions(&self) -> Option<u32> {
        (self.kind != Chosen::Buffer).then_some(self.region_count)
    }
}

/// The maps, and what classifiers are made from.
pub struct KernelSide {
    ebpf: Ebpf,
    layout: Layout,
    body: Arc<Body>,
}

/// The capture function, from which all classifiers are made, and where they count.
pub struct Body {
    /// They name the maps by the numbers of these descriptors.
    instructions: Vec<bpf_insn>,
    /// The ones among them that stand for those of the interface: [`COUNTERS`] and [`LOST`].
    stand_ins: [RawFd; 2],
    _maps: Vec<OwnedFd>,
    /// By pcapng interface id: maps for each, so that a capture can have any number of interfaces.
    tallies: Mutex<HashMap<u32, Tally>>,
}

/// What was counted for one interface.
enum Tally {
    /// It is being counted.
    Running(Box<Tallies>),
    /// Nothing more comes.
    Settled(Counters),
}

/// Where the classifiers of one interface count.
struct Tallies {
    counters: PerCpuArray<MapData, Counters>,
    /// The kernel side's own, kept for more classifiers.
    lost: MapData,
}

impl Tallies {
    fn new() -> Result<Self> {
        let make = |kind: bpf_map_type, value, entries, name| {
            let definition =
                aya_obj::Map::new_from_params(kind as u32, size_of::<u32>() as u32, value, entries, 0);
            MapData::create(definition, name, None).context("cannot make an interface's counters")
        };
        let (value, entries) = (size_of::<Counters>() as u32, Direction::BOTH.len() as u32);
        let counters = make(bpf_map_type::BPF_MAP_TYPE_PERCPU_ARRAY, value, entries, COUNTERS)?;
        let lost = make(bpf_map_type::BPF_MAP_TYPE_ARRAY, size_of::<u64>() as u32, 1, LOST)?;
        Ok(Self { counters: Map::PerCpuArray(counters).try_into()?, lost })
    }

    fn sum(&self) -> Result<Counters> {
        let mut sum = Counters::default();
        for direction in Direction::BOTH {
            for &value in self.counters.get(&direction.counters_index(), 0)?.iter() {
                sum += value;
            }
        }
        Ok(sum)
    }
}

impl Body {
    /// The instructions for a classifier of this interface.
    ///
    /// # Errors
    ///
    /// When the system has no memory or descriptor left for its counters.
    pub(super) fn counting_for(&self, interface: u32, prologue: &[bpf_insn]) -> Result<Vec<bpf_insn>> {
        let mut tallies = self.tallies.lock().unwrap_or_else(PoisonError::into_inner);
        let tally = match tallies.entry(interface) {
            Entry::Occupied(there) => there.into_mut(),
            Entry::Vacant(free) => free.insert(Tally::Running(Box::new(Tallies::new()?))),
        };
        let Tally::Running(tallies) = tally else { bail!("interface {interface} of the file is over") };
        let Tallies { counters, lost } = &**tallies;
        let own = [counters.map(), lost].map(|map| map.fd().as_fd().as_raw_fd());
        let loads_map = (BPF_LD | BPF_IMM | BPF_DW) as u8;
        let with_own = |&instruction: &bpf_insn| {
            let is_map =
                instruction.code == loads_map && u32::from(instruction.src_reg()) == BPF_PSEUDO_MAP_FD;
            let stand_in = self.stand_ins.iter().position(|&fd| is_map && instruction.imm == fd);
            bpf_insn { imm: stand_in.map_or(instruction.imm, |at| own[at]), ..instruction }
        };
        Ok(prologue.iter().chain(&self.instructions).map(with_own).collect())
    }

    /// Stands for the counters of an interface in what is put in front.
    pub(super) fn stand_in_of_counters(&self) -> RawFd {
        self.stand_ins[0]
    }

    /// What was counted so far for an interface, over both directions and all CPUs.
    fn counters(&self, interface: u32) -> Result<Counters> {
        let tallies = self.tallies.lock().unwrap_or_else(PoisonError::into_inner);
        match tallies.get(&interface) {
            Some(Tally::Running(tallies)) => tallies.sum(),
            Some(Tally::Settled(counters)) => Ok(*counters),
            // None of its own has an interface that no classifier was ever made for.
            None => Ok(Counters::default()),
        }
    }

    /// Keeps what was counted for an interface, and lets the kernel's memory go.
    fn settle(&self, interface: u32) -> Result<()> {
        let counters = self.counters(interface)?;
        let mut tallies = self.tallies.lock().unwrap_or_else(PoisonError::into_inner);
        tallies.insert(interface, Tally::Settled(counters));
        Ok(())
    }
}

impl KernelSide {
    /// Creates the maps.
    ///
    /// # Errors
    ///
    /// Without privileges, on a kernel without `BPF_MAP_TYPE_RINGBUF` (5.8), or without memory for the maps.
    pub fn load(sizes: Sizes) -> Result<Self> {
        check_abi(OBJECT)?;
        let layout = choose(&sizes)?;
        debug!("the ring is {}", layout.describe());
        let ebpf = EbpfLoader::new()
            .map_max_entries("SNIFF_RING", layout.buffer_bytes)
            .map_max_entries("SNIFF_REGIONS", layout.region_count)
            .map_max_entries("SNIFF_FREE", layout.region_count)
            .map_max_entries("SNIFF_LEFT", layout.region_count)
            .map_max_entries("SNIFF_READ", layout.region_count)
            .map_max_entries("SNIFF_CPUS", possible_cpus()?)
            .map_max_entries("SNIFF_FLOWS", layout.flows)
            .override_global("SNIFF_WAKE_BYTES", &layout.wake_bytes, true)
            .load(OBJECT)
            .map_err(|error| explain(error, KernelVersion::current().ok()))?;
        let body = Arc::new(capture_function(&ebpf, layout.function())?);
        Ok(Self { layout, body, ebpf })
    }

    /// What the ring's reader is told of it.
    ///
    /// # Errors
    ///
    /// When the system has no descriptor left, or does not tell its CPUs.
    pub fn ring(&self) -> Result<(Shape, Maps)> {
        let Layout { kind, buffer_bytes, .. } = self.layout;
        let (regions, records) = (self.layout.regions(), kind == Chosen::Recorder);
        let shape = Shape { buffer_bytes, regions, records, cpus: possible_cpus()? };
        let descriptor = |name| {
            let map = data_of(self.ebpf.map(name).ok_or_else(|| missing(name))?)?;
            Ok::<_, anyhow::Error>(map.fd().as_fd().try_clone_to_owned()?)
        };
        let maps = Maps {
            buffer: descriptor("SNIFF_RING")?,
            cpus: descriptor("SNIFF_CPUS")?,
            regions: descriptor("SNIFF_REGIONS")?,
        };
        Ok((shape, maps))
    }

    /// Sets all regions free; there is only one who takes those that were read.
    ///
    /// # Errors
    ///
    /// When it was taken before, or the kernel refuses.
    pub fn take_free(&mut self) -> Result<FreeRegions> {
        let mut take = |name| self.ebpf.take_map(name).ok_or_else(|| missing(name));
        let (free, read, left) = (take("SNIFF_FREE")?, take("SNIFF_READ")?, take("SNIFF_LEFT")?);
        let records = self.layout.kind == Chosen::Recorder;
        let mut free = FreeRegions {
            free: free.try_into()?,
            read: read.try_into()?,
            left: left.try_into()?,
            records,
            spare: self.layout.spare,
            count: self.layout.regions().unwrap_or(0),
            given_back: Arc::default(),
        };
        let count = free.count;
        // The first is on top.
        (0..count).rev().try_for_each(|region| free.set_free(region)).context("cannot set the ring free")?;
        Ok(free)
    }

    /// What anybody can see of the ring.
    ///
    /// # Errors
    ///
    /// When it cannot be mapped.
    pub fn gauge(&self, free: &FreeRegions) -> Result<Gauge> {
        let (shape, maps) = self.ring()?;
        let gauge = || {
            let cpus = shape.map_cpus(&maps, false)?;
            let room = match shape.regions {
                Some(_) if shape.records => Room::Recorder,
                Some(count) => {
                    Room::Regions { given_back: Arc::clone(&free.given_back), count: count as usize }
                }
                None => Records::new(maps.buffer, shape.buffer_bytes as usize)?.room(),
            };
            Ok::<_, io::Error>(Gauge::new(cpus, room))
        };
        gauge().context("cannot map the ring")
    }

    /// What classifiers are made from.
    pub fn body(&self) -> Arc<Body> {
        Arc::clone(&self.body)
    }

    /// The ring's memory, for a person.
    pub fn describe_ring(&self) -> String {
        self.layout.describe()
    }

    /// Reader of what the kernel side logs.
    ///
    /// # Errors
    ///
    /// When the log's map cannot be mapped.
    pub fn take_logger<T: Log>(&mut self, logger: T) -> Result<EbpfLogger<T>> {
        Ok(EbpfLogger::init_with_logger(&mut self.ebpf, logger)?)
    }

    /// What the classifiers of one interface counted so far, over both directions and all CPUs.
    ///
    /// # Errors
    ///
    /// When the kernel does not give them.
    pub fn counters(&self, interface: u32) -> Result<Counters> {
        self.body.counters(interface)
    }

    /// Nothing more is counted for this interface: no program of its classifiers runs any more. What was counted stays.
    ///
    /// # Errors
    ///
    /// When the kernel refuses.
    pub fn settle(&self, interface: u32) -> Result<()> {
        self.body.settle(interface)
    }
}

/// The regions that CPUs can take.
pub struct FreeRegions {
    free: Stack<MapData, u32>,
    /// Of a recorder, those that are held and were read, the oldest first; they are taken next.
    read: Queue<MapData, u32>,
    /// And those that were not, likewise.
    left: Queue<MapData, u32>,
    records: bool,
    /// How many a reader leaves to CPUs.
    spare: u32,
    count: u32,
    /// How often one was given back.
    given_back: Arc<AtomicU64>,
}

impl FreeRegions {
    /// For CPUs to take again; of a recorder, when what is in it is the oldest that is held.
    ///
    /// # Errors
    ///
    /// When there is no such region, or the kernel refuses.
    pub fn give_back(&mut self, region: u32) -> Result<()> {
        ensure!(region < self.count, "there is no region {region}");
        self.given_back.fetch_add(1, Ordering::Relaxed);
        if self.records { Ok(self.read.push(region, 0)?) } else { self.set_free(region) }
    }

    /// Takes the regions that a recorder's CPUs have filled, to be given back as they are read, the oldest first. CPUs then go
    /// on with free ones. Where there are hardly any, the oldest are such, unread.
    ///
    /// # Errors
    ///
    /// When the kernel refuses.
    pub fn take_filled(&mut self) -> Result<Vec<u32>> {
        let spare = self.spare as usize;
        let mut free = take_up_to(spare, || self.free.pop(0))?;
        free.extend(take_up_to(spare - free.len(), || self.read.pop(0))?);
        free.extend(take_up_to(spare - free.len(), || self.left.pop(0))?);
        // What was on top is again.
        free.into_iter().rev().try_for_each(|region| self.set_free(region))?;
        let mut filled = take_up_to(self.count as usize, || self.read.pop(0))?;
        filled.extend(take_up_to(self.count as usize, || self.left.pop(0))?);
        Ok(filled)
    }

    fn set_free(&mut self, region: u32) -> Result<()> {
        Ok(self.free.push(region, 0)?)
    }
}

/// Takes regions out of a map until it is empty, `most` of them at most.
fn take_up_to(most: usize, mut pop: impl FnMut() -> Result<u32, MapError>) -> Result<Vec<u32>> {
    let mut taken = Vec::new();
    while taken.len() < most {
        match pop() {
            Ok(region) => taken.push(region),
            Err(MapError::ElementNotFound) => break,
            Err(error) => return Err(error.into()),
        }
    }
    Ok(taken)
}

/// The ring that is wanted, where it can be had.
fn choose(sizes: &Sizes) -> Result<Layout> {
    let cpus =
        online_cpus().map_err(|(path, error)| anyhow!(error).context(format!("cannot read {path}")))?;
    let obstacle = match sizes.ring {
        ring::Kind::Ringbuf => None,
        ring::Kind::Auto | ring::Kind::Regions | ring::Kind::Recorder => obstacle_to_regions(),
    };
    match (sizes.ring, &obstacle) {
        (ring::Kind::Regions, Some(why)) => bail!("no --ring regions on this kernel: {why}"),
        (ring::Kind::Recorder, Some(why)) => bail!("no --record on this kernel: {why}"),
        (ring::Kind::Auto, Some(why)) => debug!("no regions: {why}"),
        _ => {}
    }
    let kind = match (sizes.ring, obstacle) {
        (ring::Kind::Recorder, _) => Chosen::Recorder,
        (ring::Kind::Ringbuf, _) | (_, Some(_)) => Chosen::Buffer,
        (ring::Kind::Auto | ring::Kind::Regions, None) => Chosen::Regions,
    };
    let layout = Layout::of(sizes, kind, cpus.len());
    // A budget is not to be exceeded.
    let takes = u64::from(layout.region_count) * REGION_BYTES as u64 + layout.flow_bytes();
    ensure!(
        kind != Chosen::Recorder || takes <= sizes.ring_bytes.into(),
        "--record takes {} at least on a machine of {} CPUs",
        ByteSize(takes),
        cpus.len()
    );
    Ok(layout)
}

/// Why this kernel cannot have regions, if it cannot.
fn obstacle_to_regions() -> Option<&'static str> {
    if system::is_preempt_rt() {
        // Two classifiers may then run on one CPU at a time.
        Some("it is a PREEMPT_RT kernel")
    } else if !syscall::has_atomic_exchange() {
        Some("it has no atomic exchange for BPF programs, which Linux 5.12 brought")
    } else {
        None
    }
}

fn possible_cpus() -> Result<u32> {
    let cpus = nr_cpus().map_err(|(path, error)| anyhow!(error).context(format!("cannot read {path}")))?;
    Ok(cpus as u32)
}

/// Refuses an object that was built against another version of sniff-common.
fn check_abi(object: &[u8]) -> Result<()> {
    let parsed = Object::parse(object).context("the kernel side's object is broken")?;
    let (_, map) = parsed
        .maps
        .iter()
        .find(|(name, _)| name.ends_with("SNIFF_ABI_VERSION"))
        .ok_or_else(|| missing("SNIFF_ABI_VERSION"))?;
    let bytes = map.data().get(..4).ok_or_else(|| missing("SNIFF_ABI_VERSION"))?;
    let version = u32::from_ne_bytes(bytes.try_into()?);
    ensure!(
        version == ABI_VERSION,
        "the kernel side speaks version {version}, this binary {ABI_VERSION}: build both again"
    );
    Ok(())
}

/// The capture function with the maps' descriptors in place. The descriptors are copies, since the maps themselves are
/// handed out to others who may close them.
fn capture_function(ebpf: &Ebpf, name: &str) -> Result<Body> {
    let mut object = Object::parse(OBJECT)?;
    let definitions = std::mem::take(&mut object.maps);
    let mut descriptors = Vec::new();
    let mut maps = Vec::new();
    for (name, definition) in &definitions {
        let map = ebpf.map(name).ok_or_else(|| missing(name))?;
        let descriptor = data_of(map)?.fd().as_fd().try_clone_to_owned()?;
        maps.push((name.as_str(), descriptor.as_raw_fd(), definition));
        descriptors.push(descriptor);
    }
    let number = |wanted| {
        let map = maps.iter().find(|(name, ..)| *name == wanted);
        map.map(|&(_, descriptor, _)| descriptor).ok_or_else(|| missing(wanted))
    };
    let stand_ins = [number(COUNTERS)?, number(LOST)?];
    let text: HashSet<usize> = object.functions.keys().map(|&(section, _)| section).collect();
    object.relocate_maps(maps.into_iter(), &text)?;
    object.relocate_calls(&text)?;
    let program = object.programs.get(name).ok_or_else(|| missing(name))?;
    let function = &object.functions[&program.function_key()];
    let instructions = function.instructions.clone();
    Ok(Body { instructions, stand_ins, _maps: descriptors, tallies: Mutex::default() })
}

fn explain(error: EbpfError, kernel: Option<KernelVersion>) -> anyhow::Error {
    let told = anyhow!(error).context("cannot create the capture's BPF maps");
    match kernel {
        Some(kernel) if kernel < RINGBUF_SINCE => {
            told.context("this kernel has no BPF ring buffer: sniff needs Linux 5.8 or newer")
        }
        _ => match told.chain().find_map(|cause| syscall::advice(cause.downcast_ref()?)) {
            Some(advice) => told.context(advice),
            None => told,
        },
    }
}

/// aya keeps a map's descriptor behind its type; the object has only these.
fn data_of(map: &Map) -> Result<&MapData> {
    match map {
        Map::Array(data)
        | Map::LruHashMap(data)
        | Map::PerCpuArray(data)
        | Map::Queue(data)
        | Map::RingBuf(data)
        | Map::Stack(data) => Ok(data),
        _ => bail!("the kernel side has a map of a kind that the loader does not know"),
    }
}

fn missing(name: &str) -> anyhow::Error {
    anyhow!("the kernel side's object lacks {name}: build it again")
}

#[cfg(test)]
mod tests {
    use super::{ring::Batch, *};

    fn layout(ring_bytes: u32, batch: Batch, regions: bool, cpus: usize) -> Layout {
        layout_of(if regions { Chosen::Regions } else { Chosen::Buffer }, ring_bytes, batch, cpus)
    }

    fn layout_of(kind: Chosen, ring_bytes: u32, batch: Batch, cpus: usize) -> Layout {
        let sizes = Sizes { ring: ring::Kind::Auto, ring_bytes, batch, has_cutoff: false };
        Layout::of(&sizes, kind, cpus)
    }

    #[test]
    fn flows_are_part_of_the_memory_where_they_are_told_apart() {
        let of = |kind, ring_bytes, has_cutoff| {
            let sizes = Sizes { ring: ring::Kind::Auto, ring_bytes, batch: Batch::Large, has_cutoff };
            Layout::of(&sizes, kind, 2)
        };
        for memory in [8 << 20, 256 << 20] {
            let [with, without] = [true, false].map(|has_cutoff| of(Chosen::Recorder, memory, has_cutoff));
            let takes = with.region_count as usize * REGION_BYTES + with.flow_bytes() as usize;
            assert!((memory as usize - REGION_BYTES..=memory as usize).contains(&takes), "{with:?}");
            assert_eq!((without.flows, without.flow_bytes()), (1, 0));
            assert!(with.flows >= 4096, "{with:?}");
        }
        assert_eq!(of(Chosen::Buffer, 64 << 20, true).buffer_bytes, 64 << 20);
    }

    #[test]
    fn the_object_tells_no_path_of_the_machine_that_built_it() {
        let workspace = env!("CARGO_MANIFEST_DIR").trim_end_matches("sniff-user");
        for part in [workspace, "/registry/src/", "/lib/rustlib/src/"] {
            let found = OBJECT.windows(part.len()).any(|window| window == part.as_bytes());
            assert!(!found, "{part} is in it");
        }
        let own = b"sniff-ebpf/src/";
        assert!(OBJECT.windows(own.len()).any(|window| window == own), "the sources are not named");
    }

    #[test]
    fn the_buffer_is_a_budget_for_all_cpus() {
        for cpus in [1, 2, 128] {
            let regions = layout(64 << 20, Batch::Large, true, cpus);
            let bytes = regions.region_count as usize * REGION_BYTES;
            assert!((63 << 20..=64 << 20).contains(&bytes), "{cpus} CPUs: {bytes}");
            assert_eq!(layout(64 << 20, Batch::Large, false, cpus).buffer_bytes, 64 << 20, "{cpus} CPUs");
        }
        assert_eq!(layout(100 << 20, Batch::Large, false, 2).buffer_bytes, 64 << 20);
    }

    #[test]
    fn each_cpu_can_own_a_region_however_small_the_budget() {
        assert_eq!(layout(sniff_common::MIN_RING_BYTES, Batch::Large, true, 128).region_count, 129);
        assert_eq!(layout(sniff_common::MIN_RING_BYTES, Batch::Large, true, 1).region_count, 2);
    }

    #[test]
    fn each_cpu_of_a_recorder_can_take_a_region_while_all_others_are_read() {
        for (bytes, cpus) in [(8 << 20, 2), (8 << 20, 7), (256 << 20, 2), (256 << 20, 128)] {
            let Layout { region_count, spare, .. } =
                layout_of(Chosen::Recorder, bytes, Batch::Large, cpus as usize);
            assert!(spare >= 2 * cpus && cpus + spare < region_count, "{bytes} bytes, {cpus} CPUs: {spare}");
        }
        let large = layout_of(Chosen::Recorder, 256 << 20, Batch::Large, 2);
        assert_eq!((large.region_count, large.spare), (963, 31));
    }

    #[test]
    fn the_reader_is_woken_before_all_cpus_together_have_filled_the_buffer() {
        for regions in [true, false] {
            assert_eq!(layout(64 << 20, Batch::Large, regions, 2).wake_bytes, 1 << 20);
            assert_eq!(layout(64 << 20, Batch::Small, regions, 2).wake_bytes, 256 << 10);
            assert_eq!(layout(1 << 20, Batch::Large, regions, 8).wake_bytes, 64 << 10);
            assert_eq!(layout(64 << 20, Batch::Packet, regions, 2).wake_bytes, 1);
        }
    }

    #[test]
    fn a_kernel_that_is_too_old_is_named_as_the_reason() {
        let told = |kernel| format!("{:#}", explain(EbpfError::NoBTF, Some(kernel)));
        let needs = "this kernel has no BPF ring buffer: sniff needs Linux 5.8 or newer: ";
        assert!(told(KernelVersion::new(4, 19, 0)).starts_with(needs));
        assert!(told(KernelVersion::new(5, 7, 19)).starts_with(needs));
        assert!(!told(KernelVersion::new(5, 8, 0)).contains(needs));
    }
}
