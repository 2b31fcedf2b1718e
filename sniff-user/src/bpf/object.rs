//! The kernel side's object: loaded once, which creates its maps; its capture function then serves as the body
//! of every classifier.

use std::{
    collections::HashSet,
    os::fd::{AsFd as _, AsRawFd as _, OwnedFd},
};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use aya::{
    Ebpf, EbpfError, EbpfLoader,
    maps::{Map, MapData, PerCpuArray},
    util::{KernelVersion, nr_cpus},
};
use aya_log::EbpfLogger;
use aya_obj::{Object, generated::bpf_insn};
use log::Log;
use sniff_common::{ABI_VERSION, Counters, Direction};

use super::ring::Ring;

/// Built from sniff-ebpf by the build script.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/sniff-ebpf"));

/// Bytes that a CPU writes between two wake-ups of the reader, in a ring large enough.
const WAKE_BYTES: u64 = 1 << 20;
/// The first kernel with `BPF_MAP_TYPE_RINGBUF`.
const RINGBUF_SINCE: KernelVersion = KernelVersion::new(5, 8, 0);

/// Name of the capture function in the object.
const CAPTURE: &str = "sniff_capture";

/// What decides how large the maps are.
#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    /// Bytes of the ring; a power of two, [`sniff_common::MIN_RING_BYTES`] at least.
    pub ring_bytes: u32,
    /// Whether each packet wakes the reader.
    pub packet_buffered: bool,
    /// Most interfaces that this capture can have.
    pub interfaces: u32,
}

impl Sizes {
    /// Bytes that a CPU writes before it wakes the reader: all CPUs together may fill half the ring meanwhile.
    fn wake_bytes(&self) -> Result<u64> {
        let cpus =
            nr_cpus().map_err(|(path, error)| anyhow!(error).context(format!("cannot read {path}")))?;
        let share = u64::from(self.ring_bytes) / (2 * cpus as u64);
        Ok(if self.packet_buffered { 1 } else { share.min(WAKE_BYTES) })
    }
}

/// The maps, and what classifiers are made from.
pub struct Kernel {
    ebpf: Ebpf,
    counters: PerCpuArray<MapData, Counters>,
    /// The capture function. Its instructions name the maps by the numbers of these descriptors.
    pub(super) body: Vec<bpf_insn>,
    _body_maps: Vec<OwnedFd>,
}

impl Kernel {
    /// Creates the maps.
    ///
    /// # Errors
    ///
    /// Without privileges, on a kernel without `BPF_MAP_TYPE_RINGBUF` (5.8), or without memory for the maps.
    pub fn load(sizes: Sizes) -> Result<Self> {
        check_abi(OBJECT)?;
        let mut ebpf = EbpfLoader::new()
            .map_max_entries("SNIFF_RING", sizes.ring_bytes)
            .map_max_entries("SNIFF_COUNTERS", sizes.interfaces * 2)
            .override_global("SNIFF_WAKE_BYTES", &sizes.wake_bytes()?, true)
            .load(OBJECT)
            .map_err(|error| explain(error, KernelVersion::current().ok()))?;
        let (body, body_maps) = capture_function(&ebpf)?;
        let counters = ebpf.take_map("SNIFF_COUNTERS").ok_or_else(|| missing("SNIFF_COUNTERS"))?;
        Ok(Self { counters: counters.try_into()?, body, _body_maps: body_maps, ebpf })
    }

    /// The reader's end of the ring; there is only one.
    ///
    /// # Errors
    ///
    /// When it was taken before, or cannot be mapped.
    pub fn take_ring(&mut self) -> Result<Ring> {
        let ring = self.ebpf.take_map("SNIFF_RING").ok_or_else(|| missing("SNIFF_RING"))?;
        Ok(Ring::new(ring.try_into()?))
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
    /// When the interface is beyond [`Sizes::interfaces`].
    pub fn counters(&self, interface: u32) -> Result<Counters> {
        let mut sum = Counters::default();
        for direction in Direction::BOTH {
            let values = self.counters.get(&direction.counters_index(interface), 0)?;
            for &value in values.iter() {
                sum += value;
            }
        }
        Ok(sum)
    }
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
fn capture_function(ebpf: &Ebpf) -> Result<(Vec<bpf_insn>, Vec<OwnedFd>)> {
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
    let text: HashSet<usize> = object.functions.keys().map(|&(section, _)| section).collect();
    object.relocate_maps(maps.into_iter(), &text)?;
    object.relocate_calls(&text)?;
    let program = object.programs.get(CAPTURE).ok_or_else(|| missing(CAPTURE))?;
    let function = &object.functions[&program.function_key()];
    Ok((function.instructions.clone(), descriptors))
}

fn explain(error: EbpfError, kernel: Option<KernelVersion>) -> anyhow::Error {
    let told = anyhow!(error).context("cannot create the capture's BPF maps");
    match kernel {
        Some(kernel) if kernel < RINGBUF_SINCE => {
            told.context("this kernel has no BPF ring buffer: sniff needs Linux 5.8 or newer")
        }
        _ => told,
    }
}

/// aya keeps a map's descriptor behind its type; the object has only these.
fn data_of(map: &Map) -> Result<&MapData> {
    match map {
        Map::Array(data) | Map::PerCpuArray(data) | Map::RingBuf(data) => Ok(data),
        _ => bail!("the kernel side has a map of a kind that the loader does not know"),
    }
}

fn missing(name: &str) -> anyhow::Error {
    anyhow!("the kernel side's object lacks {name}: build it again")
}
