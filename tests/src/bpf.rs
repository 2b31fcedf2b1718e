//! What the tests ask of `bpf(2)` themselves: programs of a few instructions, loaded, run on
//! packets of a test's making, and attached through TCX, or clsact where there is no TCX. First of all an eBPF CNI in eight
//! instructions: a program that hands every IPv4 packet of one pod straight to another pod's
//! interface with `bpf_redirect_peer()`, so that the receiving pod's host veth never sees it on
//! egress.
#![expect(unsafe_code, reason = "bpf(2) has no safe wrapper that takes raw instructions")]

use std::{
    ffi::CString,
    fs, io,
    os::{
        fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    path::Path,
};

use sniff_user::system::privileges;

use crate::{kernel, netns::Netns};

// include/uapi/linux/bpf.h
const BPF_MAP_CREATE: libc::c_long = 0;
const BPF_MAP_LOOKUP_ELEM: libc::c_long = 1;
const BPF_PROG_LOAD: libc::c_long = 5;
const BPF_OBJ_PIN: libc::c_long = 6;
const BPF_PROG_TEST_RUN: libc::c_long = 10;
const BPF_PROG_QUERY: libc::c_long = 16;
const BPF_LINK_CREATE: libc::c_long = 28;
const BPF_LINK_UPDATE: libc::c_long = 29;
const BPF_LINK_DETACH: libc::c_long = 34;
const BPF_MAP_TYPE_ARRAY: u32 = 2;
const BPF_PSEUDO_MAP_VALUE: u8 = 2;
const BPF_FUNC_REDIRECT_PEER: i32 = 155;
/// Offset of `protocol` in `struct __sk_buff`.
const SKB_PROTOCOL: i16 = 16;
const TCX_NEXT: i32 = -1;

/// Room for the verifier's log of one program.
const LOG_SIZE: usize = 1 << 20;

/// `struct bpf_insn`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Insn {
    /// Operation, size and mode.
    pub code: u8,
    /// Source register in the high half, destination in the low.
    pub registers: u8,
    /// Jump distance or displacement.
    pub offset: i16,
    /// Immediate operand.
    pub immediate: i32,
}

/// What a program is loaded as (`enum bpf_prog_type`), and so where its packets begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `BPF_PROG_TYPE_SCHED_CLS`: at the link-layer header.
    Classifier = 3,
    /// `BPF_PROG_TYPE_LWT_IN`: behind the link-layer header.
    LightweightTunnel = 10,
}

/// A hook of an interface, as TCX numbers them (`enum bpf_attach_type`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    /// Packets that the interface has received.
    Ingress = 46,
    /// Packets that it is about to send.
    Egress = 47,
}

/// A loaded program.
#[derive(Debug)]
pub struct Program(OwnedFd);

/// A program on a hook; detached on drop.
#[derive(Debug)]
pub enum Link {
    /// By a TCX link.
    Tcx(TcxLink),
    /// By a filter on a clsact qdisc, which other programs may share.
    Clsact(Filter),
}

/// A link, which is detached on drop, rather than when its last descriptor is closed: a program that another
/// test is just starting has all of them until it runs.
#[derive(Debug)]
pub struct TcxLink(OwnedFd);

/// A filter that is there alone with its priority.
#[derive(Debug)]
pub struct Filter {
    netns: Netns,
    /// Interface, direction and priority in the words of tc.
    place: String,
}

/// Where tc finds a program, on the machine.
const PINNED: &str = "/run/bpf/program";

/// Those numbers of `struct __sk_buff` that a test run lets its caller choose freely.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Marks {
    /// `mark`.
    pub mark: u32,
    /// `priority`.
    pub priority: u32,
}

/// Two numbers that programs count with.
#[derive(Debug)]
pub struct Counters(OwnedFd);

impl Insn {
    /// An instruction from its parts.
    pub const fn new(code: u8, registers: u8, offset: i16, immediate: i32) -> Self {
        Self { code, registers, offset, immediate }
    }
}

impl Program {
    /// Loads instructions.
    ///
    /// # Errors
    ///
    /// The kernel refuses them; the error holds its reason and the verifier's log.
    pub fn load(kind: Kind, instructions: &[Insn]) -> Result<Self, String> {
        privileges::raise_limits();
        let mut attr = ProgLoad {
            prog_type: kind as u32,
            insn_cnt: instructions.len().try_into().expect("a bounded program"),
            insns: instructions.as_ptr().expose_provenance() as u64,
            license: c"GPL".as_ptr().expose_provenance() as u64,
            ..ProgLoad::default()
        };
        if let Ok((fd, _)) = bpf(BPF_PROG_LOAD, attr) {
            return Ok(Self(descriptor(fd)));
        }
        // Once more, for the reason: a log slows loading down too much to ask for it always.
        let mut log = vec![0_u8; LOG_SIZE];
        attr.log_level = 1;
        attr.log_size = LOG_SIZE as u32;
        attr.log_buf = log.as_mut_ptr().expose_provenance() as u64;
        let (fd, _) = bpf(BPF_PROG_LOAD, attr).map_err(|error| {
            let length = log.iter().position(|byte| *byte == 0);
            log.truncate(length.unwrap_or(LOG_SIZE));
            format!("{error}\n{}", String::from_utf8_lossy(&log))
        })?;
        Ok(Self(descriptor(fd)))
    }

    /// Runs the program once on an Ethernet frame, and returns its answer.
    ///
    /// # Errors
    ///
    /// The kernel makes no packet of `frame`: it is shorter than 14 bytes or longer than about 3.5 KiB.
    pub fn run(&self, frame: &[u8], Marks { mark, priority }: Marks) -> io::Result<i32> {
        let mut context = [0_u32; SK_BUFF_WORDS];
        context[SKB_MARK] = mark;
        context[SKB_PRIORITY] = priority;
        let attr = TestRun {
            prog_fd: self.0.as_raw_fd().cast_unsigned(),
            data_size_in: frame.len().try_into().expect("a packet's length"),
            data_in: frame.as_ptr().expose_provenance() as u64,
            repeat: 1,
            ctx_size_in: size_of_val(&context) as u32,
            ctx_in: context.as_ptr().expose_provenance() as u64,
            ..TestRun::default()
        };
        let (_, attr) = bpf(BPF_PROG_TEST_RUN, attr)?;
        Ok(attr.retval.cast_signed())
    }

    /// Attaches the program to a hook of an interface, behind those that are there.
    pub fn attach(&self, netns: &Netns, ifindex: u32, hook: Hook) -> Link {
        if !kernel::has_tcx() {
            return Link::Clsact(Filter::add(self, netns, ifindex, hook));
        }
        let attr = LinkCreate {
            prog_fd: self.0.as_raw_fd().cast_unsigned(),
            target_ifindex: ifindex,
            attach_type: hook as u32,
            flags: 0,
        };
        let (fd, _) = netns.enter(|| bpf(BPF_LINK_CREATE, attr)).expect("attaching through TCX");
        Link::Tcx(TcxLink(descriptor(fd)))
    }

    fn pin(&self, path: &Path) {
        let path = CString::new(path.as_os_str().as_bytes()).expect("a path");
        let attr = ObjPin {
            pathname: path.as_ptr().expose_provenance() as u64,
            bpf_fd: self.0.as_raw_fd().cast_unsigned(),
            file_flags: 0,
        };
        bpf(BPF_OBJ_PIN, attr).expect("pinning a program");
    }
}

impl Link {
    /// Puts another program in place of the one that is attached.
    pub fn replace(&self, program: &Program) {
        let link = match self {
            Self::Tcx(TcxLink(link)) => link,
            Self::Clsact(filter) => return filter.set(program),
        };
        let attr = LinkUpdate {
            link_fd: link.as_raw_fd().cast_unsigned(),
            new_prog_fd: program.0.as_raw_fd().cast_unsigned(),
            flags: 0,
            old_prog_fd: 0,
        };
        bpf(BPF_LINK_UPDATE, attr).expect("replacing an attached program");
    }
}

impl Drop for TcxLink {
    fn drop(&mut self) {
        bpf(BPF_LINK_DETACH, self.0.as_raw_fd().cast_unsigned()).expect("detaching a link");
    }
}

impl Filter {
    fn add(program: &Program, netns: &Netns, ifindex: u32, hook: Hook) -> Self {
        let links = netns.links();
        let link = links.iter().find(|link| link.index == ifindex).expect("the interface");
        let direction = match hook {
            Hook::Ingress => "ingress",
            Hook::Egress => "egress",
        };
        if !netns.run(&format!("tc qdisc show dev {}", link.name)).contains("clsact") {
            netns.run(&format!("tc qdisc add dev {} clsact", link.name));
        }
        // The larger the number, the further behind.
        let place = format!("dev {} {direction} pref 50000", link.name);
        let filter = Self { netns: netns.clone(), place };
        filter.set(program);
        filter
    }

    fn set(&self, program: &Program) {
        let Self { netns, place } = self;
        let pinned = netns.on_machine(Path::new(PINNED));
        program.pin(&pinned);
        let options = format!("handle 1 bpf direct-action object-pinned {PINNED}");
        netns.run(&format!("tc filter replace {place} {options}"));
        fs::remove_file(pinned).expect("a pinned program");
    }
}

impl Drop for Filter {
    fn drop(&mut self) {
        let Self { netns, place } = self;
        netns.run(&format!("tc filter delete {place}"));
    }
}

impl Counters {
    /// Makes two that are zero.
    pub fn new() -> Self {
        let attr = MapCreate { map_type: BPF_MAP_TYPE_ARRAY, key_size: 4, value_size: 16, max_entries: 1 };
        let (fd, _) = bpf(BPF_MAP_CREATE, attr).expect("an array of one element");
        Self(descriptor(fd))
    }

    /// Instructions that add one to a counter (0 or 1); they change `r2` and `r3` only.
    pub fn add_one(&self, counter: u8) -> [Insn; 4] {
        let map = self.0.as_raw_fd();
        [
            // r2 = &value[counter], an instruction of two words
            Insn::new(0x18, BPF_PSEUDO_MAP_VALUE << 4 | 2, 0, map),
            Insn::new(0, 0, 0, i32::from(counter) * 8),
            Insn::new(0xb7, 0x03, 0, 1), // r3 = 1
            Insn::new(0xdb, 0x32, 0, 0), // lock *(u64 *)r2 += r3
        ]
    }

    /// Their values.
    pub fn read(&self) -> [u64; 2] {
        let key = 0_u32;
        let mut value = [0_u64; 2];
        let attr = MapElement {
            map_fd: self.0.as_raw_fd().cast_unsigned().into(),
            key: (&raw const key).expose_provenance() as u64,
            value: value.as_mut_ptr().expose_provenance() as u64,
            flags: 0,
        };
        bpf(BPF_MAP_LOOKUP_ELEM, attr).expect("the only element of a map of ours");
        value
    }
}

impl Default for Counters {
    fn default() -> Self {
        Self::new()
    }
}

/// Hands the IPv4 packets that enter at host veth `from` to the pod behind host veth `to`, by `bpf_redirect_peer()`.
pub fn redirect_peer(node: &Netns, from: u32, to: u32) -> Link {
    let program =
        Program::load(Kind::Classifier, &instructions(to)).expect("loading the redirect_peer program");
    program.attach(node, from, Hook::Ingress)
}

/// The ids of the programs on an interface's TCX hooks, ingress first. (bpftool lists them only
/// since 7.3.)
pub fn tcx_programs(netns: &Netns, ifindex: u32) -> [Vec<u32>; 2] {
    [Hook::Ingress, Hook::Egress].map(|hook| {
        let query = netns.enter(|| query(ifindex, hook));
        query.unwrap_or_else(|error| panic!("TCX programs of interface {ifindex}: {error}"))
    })
}

/// The start of `union bpf_attr` for `BPF_PROG_LOAD`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct ProgLoad {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
}

/// The start of `union bpf_attr` for `BPF_PROG_TEST_RUN`; the kernel writes to it.
#[repr(C)]
#[derive(Default)]
struct TestRun {
    prog_fd: u32,
    retval: u32,
    data_size_in: u32,
    data_size_out: u32,
    data_in: u64,
    data_out: u64,
    repeat: u32,
    duration: u32,
    ctx_size_in: u32,
    ctx_size_out: u32,
    ctx_in: u64,
    ctx_out: u64,
}

/// Words of `struct __sk_buff` up to the end of `priority`; a shorter context than the kernel's
/// is taken for one with zeros at its end.
const SK_BUFF_WORDS: usize = 9;
const SKB_MARK: usize = 2;
const SKB_PRIORITY: usize = 8;

/// The start of `union bpf_attr` for `BPF_MAP_CREATE`.
#[repr(C)]
struct MapCreate {
    map_type: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
}

/// The start of `union bpf_attr` for `BPF_MAP_LOOKUP_ELEM`.
#[repr(C)]
struct MapElement {
    map_fd: u64,
    key: u64,
    value: u64,
    flags: u64,
}

/// The start of `union bpf_attr` for `BPF_OBJ_PIN`.
#[repr(C)]
struct ObjPin {
    pathname: u64,
    bpf_fd: u32,
    file_flags: u32,
}

/// The start of `union bpf_attr` for `BPF_LINK_CREATE`.
#[repr(C)]
struct LinkCreate {
    prog_fd: u32,
    target_ifindex: u32,
    attach_type: u32,
    flags: u32,
}

/// The start of `union bpf_attr` for `BPF_LINK_UPDATE`.
#[repr(C)]
struct LinkUpdate {
    link_fd: u32,
    new_prog_fd: u32,
    flags: u32,
    old_prog_fd: u32,
}

/// The start of `union bpf_attr` for `BPF_PROG_QUERY`; the kernel writes to it.
#[repr(C)]
#[derive(Default)]
struct ProgQuery {
    target_ifindex: u32,
    attach_type: u32,
    query_flags: u32,
    attach_flags: u32,
    prog_ids: u64,
    count: u32,
    padding: u32,
    prog_attach_flags: u64,
    link_ids: u64,
    link_attach_flags: u64,
    revision: u64,
}

fn instructions(to: u32) -> [Insn; 8] {
    let ipv4 = i32::from(u16::try_from(libc::ETH_P_IP).expect("16 bits").to_be());
    [
        Insn::new(0x61, 0x12, SKB_PROTOCOL, 0), // r2 = *(u32 *)(r1 + protocol)
        Insn::new(0xb7, 0x00, 0, TCX_NEXT),     // r0 = TCX_NEXT
        Insn::new(0x55, 0x02, 4, ipv4),         // if r2 != htons(ETH_P_IP) goto exit
        Insn::new(0xb7, 0x01, 0, to.cast_signed()), // r1 = to
        Insn::new(0xb7, 0x02, 0, 0),            // r2 = 0 (flags)
        Insn::new(0x85, 0x00, 0, BPF_FUNC_REDIRECT_PEER), // r0 = bpf_redirect_peer(r1, r2)
        Insn::new(0x05, 0x00, 0, 0),            // goto exit
        Insn::new(0x95, 0x00, 0, 0),            // exit: return r0
    ]
}

fn query(ifindex: u32, hook: Hook) -> io::Result<Vec<u32>> {
    let mut ids = vec![0_u32; 64];
    let attr = ProgQuery {
        target_ifindex: ifindex,
        attach_type: hook as u32,
        prog_ids: ids.as_mut_ptr().expose_provenance() as u64,
        count: ids.len().try_into().expect("a small count"),
        ..ProgQuery::default()
    };
    let (_, attr) = bpf(BPF_PROG_QUERY, attr)?;
    ids.truncate(attr.count as usize);
    Ok(ids)
}

/// Calls `bpf(2)` with one of the attributes above, and returns its answer and the attribute.
fn bpf<A>(command: libc::c_long, mut attr: A) -> io::Result<(i32, A)> {
    // SAFETY: `attr` is valid for the size that is passed. What it points to (instructions,
    // licence, path, log, packet, context, key, value and the array of ids, each with its true length)
    // is alive in the caller.
    let answer = unsafe { libc::syscall(libc::SYS_bpf, command, &raw mut attr, size_of::<A>()) };
    match i32::try_from(answer) {
        Ok(answer) if answer >= 0 => Ok((answer, attr)),
        _ => Err(io::Error::last_os_error()),
    }
}

fn descriptor(fd: i32) -> OwnedFd {
    // SAFETY: the kernel has just returned this descriptor to us, and nobody else has it.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{machine::Machine, tcpdump::Tcpdump, traffic};

    #[test]
    fn programs_on_tcx_hooks_are_found() {
        let machine = Machine::boot();
        let pod = machine.fake_pod("blue", 1);
        let node = machine.netns();
        let _link = redirect_peer(&node, pod.veth.index, pod.veth.index);
        let [ingress, egress] = tcx_programs(&node, pod.veth.index);
        assert_eq!((ingress.len(), egress.len()), (1, 0));
    }

    #[test]
    fn a_link_is_detached_on_drop_whoever_else_has_its_descriptor() {
        let machine = Machine::boot();
        let pod = machine.fake_pod("blue", 1);
        let node = machine.netns();
        let link = redirect_peer(&node, pod.veth.index, pod.veth.index);
        let _copy = match &link {
            Link::Tcx(TcxLink(descriptor)) => descriptor.try_clone().ok(),
            Link::Clsact(_) => None,
        };
        drop(link);
        assert!(tcx_programs(&node, pod.veth.index).concat().is_empty());
    }

    #[test]
    fn redirected_packets_pass_the_host_veth_of_the_receiver_by() {
        let machine = Machine::boot();
        let node = machine.netns();
        node.sysctl("net/ipv4/ip_forward", "1");
        let (a, b) = (machine.fake_pod("a", 1), machine.fake_pod("b", 2));
        a.netns.run(&format!("ip route add default via {}", a.gateway4));
        b.netns.run(&format!("ip route add default via {}", b.gateway4));
        let _there = redirect_peer(&node, a.veth.index, b.veth.index);
        let _back = redirect_peer(&node, b.veth.index, a.veth.index);
        let tcpdump = Tcpdump::start(&node, &b.veth.name, &["icmp"]);
        traffic::ping(&a.netns, b.ipv4.into(), 3, 56);
        assert_eq!(tcpdump.stop().len(), 3, "the replies, and none of the requests");
    }
}
