//! One program for each direction of each interface: a prologue that sets the capture function's arguments to
//! constants, and the capture function itself behind it. So a packet costs no look-up of where it came from.

use std::{
    ffi::CString,
    fs::File,
    io::Read as _,
    mem,
    os::fd::{AsRawFd as _, OwnedFd, RawFd},
    sync::Arc,
};

use anyhow::{Context as _, Result, anyhow, ensure};
use aya::programs::{ProgramInfo, SchedClassifier, loaded_programs};
use aya_obj::generated::{
    BPF_ADD, BPF_ALU64, BPF_CALL, BPF_DW, BPF_EXIT, BPF_JEQ, BPF_JMP, BPF_JNE, BPF_K, BPF_LDX, BPF_MEM,
    BPF_MOV, BPF_OR, BPF_PSEUDO_MAP_FD, BPF_ST, BPF_STX, BPF_W, BPF_XADD,
    bpf_func_id::BPF_FUNC_map_lookup_elem, bpf_insn,
};
use log::debug;
use sniff_common::{
    CUTOFF_SHIFT, Counters, Direction, SNAP_EVERY_SHIFT, SNAP_HEADERS, SNAP_PACKETID, SNAP_RAW_IP,
};
use sniff_filter::{
    compile::Fragment,
    ebpf::{Encoded, Instruction},
};
use sniff_pcapng::LinkType;
use sniff_protocol::request::Cutoff;

use super::{
    checksum::Summed,
    home::Home,
    instructions::{encoded, insn, instruction, load_u32, load_u64, mov},
    object::Body,
    syscall,
};
use crate::{net::hook::Hook, system::parallel};

/// Name of the programs in the kernel, as bpftool shows it.
pub const NAME: &str = "sniff_capture";
const LICENSE: &str = "Dual MIT/GPL";
/// Bytes of a file in `/proc/self/fdinfo` at most; the kernel shows some hundred.
const FDINFO_ROOM: usize = 4096;

/// What one classifier is told.
#[derive(Clone, Debug)]
pub struct Arguments {
    /// The filter that stands in front; none lets every packet pass.
    pub filter: Option<Arc<Fragment>>,
    /// Which packets an alarm is about, whether the filter lets them pass or not.
    pub alarm: Option<Arc<Fragment>>,
    /// pcapng interface id.
    pub interface: u32,
    /// Direction of the packets at its hook, seen from the pod.
    pub direction: Direction,
    pub hook: Hook,
    /// Most bytes kept of a packet: 1 to [`sniff_common::MAX_SNAPLEN`].
    pub snaplen: u32,
    /// Whether only headers are kept.
    pub headers: bool,
    /// How much is kept of each flow.
    pub cutoff: Option<Cutoff>,
    /// What packets begin with.
    pub link_type: LinkType,
    /// Whether blocks have room for a packet's id.
    pub packetid: bool,
    /// Nanoseconds from the boot clock to the Unix epoch.
    pub clock_offset: u64,
    /// The network namespace whose packets alone are taken, where the interface may be moved to another.
    pub home: Option<Home>,
    /// Where the kernel says whether a packet's checksum is ready, if it does.
    pub summed: Option<Summed>,
}

/// A classifier in the kernel, not yet attached. Dropping it unloads it.
pub struct Classifier {
    pub(super) program: SchedClassifier,
    /// The kernel's id of the program.
    pub id: u32,
}

/// Loads a classifier for each of `arguments`, in order, unless `is_over` says meanwhile that nobody wants them any more.
///
/// # Errors
///
/// When the kernel refuses one, or it is over. What the verifier said is logged at debug level: a refusal is our bug.
pub fn load(
    body: &Body,
    arguments: &[Arguments],
    is_over: impl Fn() -> bool + Sync,
) -> Result<Vec<Classifier>> {
    // Verifying is all that takes time here, and the kernel does that on as many CPUs as ask for it.
    let programs = parallel::map(arguments.iter().collect(), |arguments| {
        ensure!(!is_over(), "nobody wants the classifiers any more");
        load_one(body, arguments)
    });
    let programs = programs.into_iter().collect::<Result<Vec<_>>>()?;
    let ids = programs.iter().map(program_id).collect::<Result<Vec<_>>>()?;
    // aya takes over a program only by the kernel's list of all programs: read it once.
    let mut known: Vec<ProgramInfo> =
        loaded_programs().filter_map(Result::ok).filter(|info| ids.contains(&info.id())).collect();
    ids.into_iter()
        .map(|id| {
            let at = known
                .iter()
                .position(|info| info.id() == id)
                .ok_or_else(|| anyhow!("program {id}, just loaded, is not in the kernel's list"))?;
            let program = SchedClassifier::from_program_info(known.swap_remove(at), NAME.into())?;
            Ok(Classifier { program, id })
        })
        .collect()
}

fn load_one(body: &Body, arguments: &Arguments) -> Result<OwnedFd> {
    let prologue = prologue(arguments, body.stand_in_of_counters())?;
    let instructions = body.counting_for(arguments.interface, &prologue)?;
    syscall::load_classifier(&instructions, &CString::new(NAME)?, &CString::new(LICENSE)?).map_err(|refused| {
        if refused.log.is_empty() {
            let advice = syscall::advice(&refused.error);
            let told = anyhow!(refused.error).context("cannot load the classifier");
            return advice.into_iter().fold(told, anyhow::Error::context);
        }
        debug!("the verifier's log:\n{}", refused.log);
        anyhow!(refused.error).context(
            "the kernel's verifier refused the classifier: that is a bug in sniff; please report it with the output of -v",
        )
    })
}

/// Where a packet's `pkt_type` is in the context (`struct __sk_buff`, include/uapi/linux/bpf.h).
const PKT_TYPE: i16 = 4;
/// That of a packet that came back to its sender (`PACKET_LOOPBACK`, include/uapi/linux/if_packet.h).
const PACKET_LOOPBACK: i32 = 5;
/// Where on the stack the index of the counters is, for the helper that looks them up.
const INDEX: i16 = -4;
/// The only verdict, `TC_ACT_UNSPEC`.
const PASS_ON: i32 = -1;

/// The filter, behind it what keeps to the namespace, and then what sets r2 to r5; r1 is the packet already, and still is
/// behind the filter. `counters` stands for the map of the interface's counters.
fn prologue(arguments: &Arguments, counters: RawFd) -> Result<Vec<bpf_insn>> {
    let Arguments { filter, alarm, interface, direction, hook, cutoff, clock_offset, home, summed, .. } =
        arguments;
    let filter = filter.iter().flat_map(|fragment| as_they_are(fragment.instructions()));
    let mut ours = Vec::new();
    if *hook == Hook::Ingress {
        ours.extend(pass_over_returned());
    }
    ours.extend(home.iter().flat_map(|home| home.check()));
    let mut instructions: Vec<bpf_insn> = match alarm {
        None => filter.chain(ours).collect(),
        // What comes past the filter counts as well, but not what is somebody else's.
        Some(alarm) => ours.into_iter().chain(count(alarm, *direction, counters)?).chain(filter).collect(),
    };
    match summed {
        Some(summed) => {
            instructions.extend(summed.instructions());
            instructions.push(instruction((BPF_ALU64 | BPF_OR | BPF_K) as u8, 2, *interface as i32));
        }
        None => instructions.push(load_u32(2, *interface)),
    }
    match cutoff {
        Some(cutoff) => {
            let direction = u64::from(cutoff.bytes) << CUTOFF_SHIFT | *direction as u64;
            instructions.extend(load_u64(3, direction));
        }
        None => instructions.push(load_u32(3, *direction as u32)),
    }
    instructions.extend(load_u64(4, snaplen(arguments)));
    instructions.extend(load_u64(5, *clock_offset));
    Ok(instructions)
}

fn as_they_are(instructions: &[Instruction]) -> impl Iterator<Item = bpf_insn> {
    instructions.iter().map(|instruction| encoded(instruction.encode()))
}

/// Counts packets that an alarm is about. The packet is in r1, before and after.
fn count(alarm: &Fragment, direction: Direction, counters: RawFd) -> Result<Vec<bpf_insn>> {
    let [load_map, rest] = load_u64(1, counters as u64);
    let count = [
        bpf_insn { _bitfield_1: bpf_insn::new_bitfield_1(1, BPF_PSEUDO_MAP_FD as u8), ..load_map },
        rest,
        // r0 = the counters of the direction; if there are none goto +2; their alarms += 1
        insn(BPF_ST | BPF_MEM | BPF_W, 10, 0, INDEX, direction as i32 - 1),
        mov(2, 10),
        insn(BPF_ALU64 | BPF_ADD | BPF_K, 2, 0, 0, INDEX.into()),
        insn(BPF_JMP | BPF_CALL, 0, 0, 0, BPF_FUNC_map_lookup_elem as i32),
        insn(BPF_JMP | BPF_JEQ | BPF_K, 0, 0, 2, 0),
        load_u32(1, 1),
        insn(BPF_STX | BPF_XADD | BPF_DW, 0, 1, mem::offset_of!(Counters, alarms) as i16, 0),
    ];
    let mut instructions: Vec<bpf_insn> = as_they_are(&alarm.detour(count.len())?).collect();
    instructions.extend(count);
    instructions.push(mov(1, 6));
    Ok(instructions)
}

/// Lets packets go on that the kernel hands back to the interface that they are leaving by: multicast and broadcast for
/// listeners of the same machine (`dev_loopback_xmit`, net/core/dev.c), without a link-layer header. They are taken on their
/// way out; no packet socket sees them come back either.
fn pass_over_returned() -> [bpf_insn; 4] {
    let code = |code: u32| code as u8;
    [
        // r0 = pkt_type; if r0 != PACKET_LOOPBACK goto +2; r0 = -1; exit
        encoded(Encoded { code: code(BPF_LDX | BPF_MEM | BPF_W), dst: 0, src: 1, off: PKT_TYPE, imm: 0 }),
        encoded(Encoded {
            code: code(BPF_JMP | BPF_JNE | BPF_K),
            dst: 0,
            src: 0,
            off: 2,
            imm: PACKET_LOOPBACK,
        }),
        instruction(code(BPF_ALU64 | BPF_MOV | BPF_K), 0, PASS_ON),
        instruction(code(BPF_JMP | BPF_EXIT), 0, 0),
    ]
}

fn snaplen(arguments: &Arguments) -> u64 {
    let headers = if arguments.headers { SNAP_HEADERS } else { 0 };
    let raw_ip = if arguments.link_type == LinkType::Raw { SNAP_RAW_IP } else { 0 };
    let packetid = if arguments.packetid { SNAP_PACKETID } else { 0 };
    let every = arguments.cutoff.map_or(0, |cutoff| u64::from(cutoff.every) << SNAP_EVERY_SHIFT);
    u64::from(arguments.snaplen) | headers | raw_ip | packetid | every
}

/// A program's id, from what the kernel shows of its descriptor (`bpf_prog_show_fdinfo`, kernel/bpf/syscall.c).
fn program_id(fd: &OwnedFd) -> Result<u32> {
    fdinfo(fd.as_raw_fd(), "prog_id:")?.context("the kernel shows no prog_id")
}

/// A number out of `/proc/self/fdinfo`.
fn fdinfo(fd: i32, key: &str) -> Result<Option<u32>> {
    let path = format!("/proc/self/fdinfo/{fd}");
    // Room for all at once: idle captures look each second, and growing a string costs more than asking.
    let mut text = String::with_capacity(FDINFO_ROOM);
    let file = File::open(&path).with_context(|| format!("cannot open {path}"))?;
    file.take(FDINFO_ROOM as u64).read_to_string(&mut text).with_context(|| format!("cannot read {path}"))?;
    let value = text.lines().find_map(|line| line.strip_prefix(key));
    value.map(|value| value.trim().parse().with_context(|| format!("{path}: odd {key}"))).transpose()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prologue_sets_the_four_arguments() {
        let arguments = Arguments {
            filter: None,
            alarm: None,
            interface: 3,
            direction: Direction::Out,
            hook: Hook::Egress,
            snaplen: 96,
            headers: true,
            cutoff: None,
            link_type: LinkType::Raw,
            packetid: true,
            clock_offset: 0x0102_0304_f5f6_f7f8,
            home: None,
            summed: None,
        };
        let set: Vec<(u8, i32)> =
            prologue(&arguments, 7).unwrap().iter().map(|insn| (insn.dst_reg(), insn.imm)).collect();
        let clock_offset = [(5, 0xf5f6_f7f8_u32 as i32), (0, 0x0102_0304)];
        assert_eq!(set[..2], [(2, 3), (3, 2)]);
        assert_eq!(set[2..4], [(4, 96), (0, 7)]);
        assert_eq!(set[4..], clock_offset);
        let arguments = Arguments { cutoff: Some(Cutoff { bytes: 4096, every: 5 }), ..arguments };
        let set: Vec<(u8, i32)> =
            prologue(&arguments, 7).unwrap().iter().map(|insn| (insn.dst_reg(), insn.imm)).collect();
        assert_eq!(set[..3], [(2, 3), (3, 2), (0, 4096)]);
        assert_eq!(set[3..5], [(4, 96), (0, 7 | 5 << 8)]);
    }
}
