//! `bpf(2)`, for what aya cannot do: load a program from instructions instead of from an ELF file, run one, name an
//! interface by its index, since a name may be any bytes, and change a link without putting it at risk.
#![expect(unsafe_code, reason = "a system call that takes pointers")]

use std::{
    ffi::CStr,
    io,
    os::{
        fd::{AsFd as _, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd},
        unix::net::UnixDatagram,
    },
};

use aya::util::KernelVersion;
use aya_obj::generated::{
    BPF_ALU64, BPF_ATOMIC, BPF_CALL, BPF_DW, BPF_EXIT, BPF_F_BEFORE, BPF_JMP, BPF_K, BPF_MEM, BPF_MOV,
    BPF_RSH, BPF_STX, BPF_W, BPF_X, BPF_XCHG, bpf_attach_type, bpf_attr, bpf_cmd, bpf_func_id, bpf_insn,
    bpf_link_info, bpf_prog_info, bpf_prog_type,
};

/// Most programs at one TCX hook (`BPF_MPROG_MAX`, include/linux/bpf_mprog.h).
const MAX_AT_HOOK: usize = 64;
/// From asm-generic/socket.h, which the architectures that Kubernetes runs on go by.
const SO_NETNS_COOKIE: libc::c_int = 71;

/// How much of the verifier's log is kept, in bytes.
const LOG_SIZE: usize = 1 << 20;

/// The first kernel on which the memory of maps and programs is not counted as locked memory.
const UNLOCKED_SINCE: KernelVersion = KernelVersion::new(5, 11, 0);

/// What to do about an error that is one of limits, although it may read like one of privileges.
pub fn advice(error: &io::Error) -> Option<&'static str> {
    match error.raw_os_error() {
        Some(libc::EPERM) if !is_at_least(UNLOCKED_SINCE) => Some(
            "the limit of locked memory, which BPF takes before Linux 5.11, is too low: raise it (ulimit -l unlimited), run \
             with CAP_SYS_RESOURCE, or make the buffer smaller (-B)",
        ),
        Some(libc::ENOMEM) => Some(
            "there is not enough memory: make the buffer smaller (-B), or raise the memory limit of the pod or service \
             that sniff runs in",
        ),
        _ => None,
    }
}

fn is_at_least(version: KernelVersion) -> bool {
    KernelVersion::current().is_ok_and(|current| current >= version)
}

/// A program that the kernel would not load.
#[derive(Debug)]
pub struct Refused {
    /// What the system call said.
    pub error: io::Error,
    /// What the verifier said; empty unless it was asked.
    pub log: String,
}

/// Loads a TC classifier (`BPF_PROG_LOAD`, kernel/bpf/syscall.c).
///
/// The verifier writes its log only on a second try, since it is slower with one.
///
/// # Errors
///
/// When the kernel refuses, by the verifier's decision or for lack of privileges or memory.
pub fn load_classifier(instructions: &[bpf_insn], name: &CStr, license: &CStr) -> Result<OwnedFd, Refused> {
    load(instructions, name, license, &mut []).or_else(|error| {
        // Anything else was not the verifier's decision.
        if !matches!(error.raw_os_error(), Some(libc::EACCES | libc::EINVAL | libc::E2BIG)) {
            return Err(Refused { error, log: String::new() });
        }
        let mut log = vec![0; LOG_SIZE];
        // The second error may be another: that the log did not fit.
        load(instructions, name, license, &mut log).map_err(|_| {
            let end = log.iter().position(|&byte| byte == 0).unwrap_or(log.len());
            Refused { error, log: String::from_utf8_lossy(&log[..end]).into_owned() }
        })
    })
}

/// Has a link run another program from now on (`BPF_LINK_UPDATE`): each packet passes one of the two.
///
/// aya's way closes the link when the kernel refuses, which detaches.
///
/// # Errors
///
/// When the kernel refuses; the link then stays as it is. `ENOLINK` says that its interface is gone.
pub fn update_link(link: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    let mut attr = no_attributes();
    attr.link_update.link_fd = link.as_raw_fd().cast_unsigned();
    attr.link_update.__bindgen_anon_1.new_prog_fd = program.as_raw_fd().cast_unsigned();
    // SAFETY: the attributes hold no pointers.
    unsafe { bpf(bpf_cmd::BPF_LINK_UPDATE, &mut attr) }.map(drop)
}

/// Whether programs may use `BPF_XCHG`, found out by loading one.
pub fn has_atomic_exchange() -> bool {
    let program = [
        // r0 = 0; *(u64 *)(r10 - 8) = r0; r0 = xchg_64(r10 - 8, r0); r0 = 0; exit
        instruction(BPF_ALU64 | BPF_MOV | BPF_K, (0, 0), 0, 0),
        instruction(BPF_STX | BPF_MEM | BPF_DW, (10, 0), -8, 0),
        instruction(BPF_STX | BPF_ATOMIC | BPF_DW, (10, 0), -8, BPF_XCHG as i32),
        instruction(BPF_ALU64 | BPF_MOV | BPF_K, (0, 0), 0, 0),
        instruction(BPF_JMP | BPF_EXIT, (0, 0), 0, 0),
    ];
    load(&program, c"sniff_probe", c"Dual MIT/GPL", &mut []).is_ok()
}

/// Bytes of the packet that a program is run on: more than an Ethernet header, which the kernel takes away.
const PACKET_BYTES: usize = 64;
/// Room for what the kernel shows of a packet beside its bytes (`struct __sk_buff`, include/uapi/linux/bpf.h): 192 bytes so
/// far.
const CONTEXT_BYTES: usize = 512;
/// Where programs may leave something there (`cb`).
const CONTROL_BLOCK: usize = 48;

/// The machine's boot clock as BPF programs see it, whatever time namespace this process is in.
pub struct BootClock {
    /// Writes the clock's time to the context.
    program: OwnedFd,
}

impl BootClock {
    /// Loads the program.
    ///
    /// # Errors
    ///
    /// When the kernel refuses it.
    pub fn load() -> io::Result<Self> {
        let program = [
            // r6 = r1; r0 = bpf_ktime_get_boot_ns(); cb[0] = r0; r0 >>= 32; cb[1] = r0; r0 = 0; exit
            instruction(BPF_ALU64 | BPF_MOV | BPF_X, (6, 1), 0, 0),
            instruction(BPF_JMP | BPF_CALL, (0, 0), 0, bpf_func_id::BPF_FUNC_ktime_get_boot_ns as i32),
            instruction(BPF_STX | BPF_MEM | BPF_W, (6, 0), CONTROL_BLOCK as i16, 0),
            instruction(BPF_ALU64 | BPF_RSH | BPF_K, (0, 0), 0, 32),
            instruction(BPF_STX | BPF_MEM | BPF_W, (6, 0), CONTROL_BLOCK as i16 + 4, 0),
            instruction(BPF_ALU64 | BPF_MOV | BPF_K, (0, 0), 0, 0),
            instruction(BPF_JMP | BPF_EXIT, (0, 0), 0, 0),
        ];
        Ok(Self { program: load(&program, c"sniff_clock", c"Dual MIT/GPL", &mut [])? })
    }

    /// Nanoseconds of it.
    ///
    /// # Errors
    ///
    /// When the kernel does not run the program.
    pub fn read(&self) -> io::Result<u64> {
        let packet = [0_u8; PACKET_BYTES];
        let mut context = [0_u8; CONTEXT_BYTES];
        let mut attr = no_attributes();
        attr.test.prog_fd = self.program.as_raw_fd() as u32;
        attr.test.data_size_in = PACKET_BYTES as u32;
        attr.test.data_in = packet.as_ptr() as u64;
        attr.test.ctx_size_out = CONTEXT_BYTES as u32;
        attr.test.ctx_out = context.as_mut_ptr() as u64;
        // SAFETY: packet and context are as long as the attributes say.
        unsafe { bpf(bpf_cmd::BPF_PROG_TEST_RUN, &mut attr) }?;
        let word = |at: usize| u32::from_ne_bytes(std::array::from_fn(|byte| context[at + byte]));
        Ok(u64::from(word(CONTROL_BLOCK + 4)) << 32 | u64::from(word(CONTROL_BLOCK)))
    }
}

fn instruction(code: u32, registers: (u8, u8), off: i16, imm: i32) -> bpf_insn {
    bpf_insn {
        code: code as u8,
        _bitfield_align_1: [],
        _bitfield_1: bpf_insn::new_bitfield_1(registers.0, registers.1),
        off,
        imm,
    }
}

/// Waits until every program that ran when this was called has ended: after a detach, no packet is on its way into
/// the ring any more. BPF programs run under RCU, and `MEMBARRIER_CMD_GLOBAL` is `synchronize_rcu`
/// (`SYSCALL_DEFINE3(membarrier)`, kernel/sched/membarrier.c).
///
/// A kernel with `nohz_full` CPUs refuses; removing a TCX link waits by itself there.
pub fn wait_for_running_programs() {
    // SAFETY: the call takes no pointers.
    unsafe { libc::syscall(libc::SYS_membarrier, libc::MEMBARRIER_CMD_GLOBAL, 0, 0) };
}

/// Attaches a classifier in front of all others at a TCX hook of an interface of the calling thread's network namespace
/// (`BPF_LINK_CREATE`). The link keeps the program loaded; closing it detaches.
///
/// # Errors
///
/// When the kernel refuses; one before Linux 6.6, with EINVAL.
pub fn attach_tcx(program: BorrowedFd<'_>, ifindex: u32, hook: bpf_attach_type) -> io::Result<OwnedFd> {
    let mut attr = no_attributes();
    attr.link_create.__bindgen_anon_1.prog_fd = program.as_raw_fd().cast_unsigned();
    attr.link_create.__bindgen_anon_2.target_ifindex = ifindex;
    // SAFETY: both are numbers, whatever was in the union before.
    let link = unsafe { &mut attr.link_create };
    link.attach_type = hook as u32;
    // Before no program in particular: before all.
    link.flags = BPF_F_BEFORE;
    // SAFETY: the attributes hold no pointers.
    descriptor(unsafe { bpf(bpf_cmd::BPF_LINK_CREATE, &mut attr) }?)
}

/// Ids of the programs at a TCX hook of an interface of the calling thread's network namespace, in the order in which
/// they run (`BPF_PROG_QUERY`).
///
/// # Errors
///
/// When the interface is gone, or the kernel refuses; one before Linux 6.6, with EINVAL.
pub fn tcx_programs(ifindex: u32, hook: bpf_attach_type) -> io::Result<Vec<u32>> {
    let mut ids = vec![0_u32; MAX_AT_HOOK];
    let mut attr = no_attributes();
    attr.query.__bindgen_anon_1.target_ifindex = ifindex;
    attr.query.__bindgen_anon_2.prog_cnt = ids.len() as u32;
    // SAFETY: both are numbers, whatever was in the union before.
    let query = unsafe { &mut attr.query };
    query.attach_type = hook as u32;
    query.prog_ids = ids.as_mut_ptr() as u64;
    // SAFETY: there is room for as many ids as the attributes say.
    unsafe { bpf(bpf_cmd::BPF_PROG_QUERY, &mut attr) }?;
    // SAFETY: the kernel has set this number.
    ids.truncate(unsafe { attr.query.__bindgen_anon_2.prog_cnt } as usize);
    Ok(ids)
}

/// The index of the interface that a TCX link is bound to, in whatever network namespace that is; none when the interface is
/// gone, or somebody has detached the link (`tcx_link_fill_info`, kernel/bpf/tcx.c).
///
/// # Errors
///
/// When it is no link.
pub fn link_ifindex(link: BorrowedFd<'_>) -> io::Result<Option<u32>> {
    // SAFETY: bpf_link_info is plain data.
    let info: bpf_link_info = unsafe { info(link) }?;
    // SAFETY: a number, which is what a TCX link has there.
    let ifindex = unsafe { info.__bindgen_anon_1.tcx.ifindex };
    Ok((ifindex != 0).then_some(ifindex))
}

/// The name of a program, as the kernel knows it.
///
/// # Errors
///
/// When there is no program with this id any more.
pub fn program_name(id: u32) -> io::Result<Vec<u8>> {
    let mut attr = no_attributes();
    attr.__bindgen_anon_6.__bindgen_anon_1.prog_id = id;
    // SAFETY: the attributes hold no pointers.
    let program = descriptor(unsafe { bpf(bpf_cmd::BPF_PROG_GET_FD_BY_ID, &mut attr) }?)?;
    // SAFETY: bpf_prog_info is plain data.
    let info: bpf_prog_info = unsafe { info(program.as_fd()) }?;
    Ok(info.name.iter().take_while(|&&byte| byte != 0).map(|&byte| byte as u8).collect())
}

/// What the kernel tells of an object (`BPF_OBJ_GET_INFO_BY_FD`), without what pointers would lead to.
///
/// # Safety
///
/// `T` must be the kernel's structure for objects of this kind, of numbers alone.
unsafe fn info<T>(object: BorrowedFd<'_>) -> io::Result<T> {
    // SAFETY: zeroes are numbers, as the caller promises; they ask for nothing that a pointer would lead to.
    let mut info: T = unsafe { std::mem::zeroed() };
    let mut attr = no_attributes();
    attr.info.bpf_fd = object.as_raw_fd().cast_unsigned();
    attr.info.info_len = size_of::<T>() as u32;
    attr.info.info = &raw mut info as u64;
    // SAFETY: there is room for as much information as the attributes say.
    unsafe { bpf(bpf_cmd::BPF_OBJ_GET_INFO_BY_FD, &mut attr) }?;
    Ok(info)
}

/// The cookie of the calling thread's network namespace (`SO_NETNS_COOKIE`, net/core/sock.c).
///
/// # Errors
///
/// On a kernel before Linux 5.14; when no descriptor is left.
pub fn netns_cookie() -> io::Result<u64> {
    // A socket of any kind.
    let socket = UnixDatagram::unbound()?;
    let mut cookie = 0_u64;
    let mut len = size_of_val(&cookie) as libc::socklen_t;
    // SAFETY: there is room for as much as the length says.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut len,
        )
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(cookie) }
}

fn no_attributes() -> bpf_attr {
    // SAFETY: bpf_attr is plain data for which all zeroes is "not given".
    unsafe { std::mem::zeroed() }
}

/// # Safety
///
/// Pointers in the attributes must be valid until the call returns, for as much as the attributes say. Some commands write
/// to the attributes, too.
unsafe fn bpf(command: bpf_cmd, attr: &mut bpf_attr) -> io::Result<libc::c_long> {
    // SAFETY: the attributes are as the caller promises, and as long as is said here.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, &raw mut *attr, size_of::<bpf_attr>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// Takes over a descriptor that the kernel has just returned.
fn descriptor(result: libc::c_long) -> io::Result<OwnedFd> {
    let fd = i32::try_from(result).map_err(io::Error::other)?;
    // SAFETY: the kernel has given us this descriptor, and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn load(instructions: &[bpf_insn], name: &CStr, license: &CStr, log: &mut [u8]) -> io::Result<OwnedFd> {
    let mut attr = no_attributes();
    // SAFETY: BPF_PROG_LOAD uses this variant of the union.
    let program = unsafe { &mut attr.__bindgen_anon_3 };
    program.prog_type = bpf_prog_type::BPF_PROG_TYPE_SCHED_CLS as u32;
    program.insn_cnt = instructions.len() as u32;
    program.insns = instructions.as_ptr() as u64;
    program.license = license.as_ptr() as u64;
    for (to, &from) in program.prog_name.iter_mut().zip(name.to_bytes().iter().take(15)) {
        *to = from as _;
    }
    if !log.is_empty() {
        program.log_level = 1;
        program.log_size = log.len() as u32;
        program.log_buf = log.as_mut_ptr() as u64;
    }
    let fd = retry_when_interrupted(|| {
        // SAFETY: all pointers in attr live until the call returns, and their lengths are right.
        unsafe {
            libc::syscall(libc::SYS_bpf, bpf_cmd::BPF_PROG_LOAD, &raw const attr, size_of::<bpf_attr>())
        }
    });
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just given us this descriptor.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// The verifier gives up with EAGAIN when a signal comes (`do_check`, kernel/bpf/verifier.c).
fn retry_when_interrupted(call: impl Fn() -> libc::c_long) -> libc::c_long {
    const TRIES: usize = 8;
    let is_interrupted = |&result: &libc::c_long| {
        result < 0 && io::Error::last_os_error().raw_os_error() == Some(libc::EAGAIN)
    };
    for _ in 1..TRIES {
        let result = call();
        if !is_interrupted(&result) {
            return result;
        }
    }
    call()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::{hook::Hook, netns::testing::TestNetns};

    #[test]
    #[ignore = "needs root; `cargo xtask test` runs it"]
    fn no_programs_are_told_of_where_none_are() {
        const LOOPBACK: u32 = 1;
        let at_loopback = || match tcx_programs(LOOPBACK, Hook::Ingress.into()) {
            // A kernel without TCX.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => Ok(Vec::new()),
            programs => Ok(programs?),
        };
        assert_eq!(TestNetns::new().run(at_loopback).unwrap(), [0; 0]);
    }
}
