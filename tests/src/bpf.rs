//! What the tests ask of `bpf(2)` themselves. First of all an eBPF CNI in eight instructions: a TCX program that hands every IPv4 packet of one pod
//! straight to another pod's interface with `bpf_redirect_peer()`, so that the receiving pod's
//! host veth never sees it on egress.
#![expect(unsafe_code, reason = "bpf(2) has no safe wrapper that takes raw instructions")]

use std::{
    io,
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
};

use crate::netns::Netns;

// include/uapi/linux/bpf.h
const BPF_PROG_LOAD: libc::c_long = 5;
const BPF_PROG_QUERY: libc::c_long = 16;
const BPF_LINK_CREATE: libc::c_long = 28;
const BPF_PROG_TYPE_SCHED_CLS: u32 = 3;
const BPF_TCX_INGRESS: u32 = 46;
const BPF_TCX_EGRESS: u32 = 47;
const BPF_FUNC_REDIRECT_PEER: i32 = 155;
/// Offset of `protocol` in `struct __sk_buff`.
const SKB_PROTOCOL: i16 = 16;
const TCX_NEXT: i32 = -1;

/// `bpf_redirect_peer()` on a veth's ingress; detached on drop.
#[derive(Debug)]
pub struct RedirectPeer {
    _link: OwnedFd,
}

impl RedirectPeer {
    /// Hands the IPv4 packets that enter at host veth `from` to the pod behind host veth `to`.
    pub fn attach(node: &Netns, from: u32, to: u32) -> Self {
        let program = load(&instructions(to)).expect("loading the redirect_peer program");
        let link = node.enter(|| attach(&program, from)).expect("attaching it through TCX");
        Self { _link: link }
    }
}

/// The ids of the programs on an interface's TCX hooks, ingress first. (bpftool lists them only
/// since 7.3.)
pub fn tcx_programs(netns: &Netns, ifindex: u32) -> [Vec<u32>; 2] {
    [BPF_TCX_INGRESS, BPF_TCX_EGRESS].map(|hook| {
        let query = netns.enter(|| query(ifindex, hook));
        query.unwrap_or_else(|error| panic!("TCX programs of interface {ifindex}: {error}"))
    })
}

/// `struct bpf_insn`.
#[repr(C)]
#[derive(Clone, Copy)]
struct Insn {
    code: u8,
    /// Source register in the high half, destination in the low.
    registers: u8,
    offset: i16,
    immediate: i32,
}

/// The start of `union bpf_attr` for `BPF_PROG_LOAD`.
#[repr(C)]
struct ProgLoad {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
}

/// The start of `union bpf_attr` for `BPF_LINK_CREATE`.
#[repr(C)]
struct LinkCreate {
    prog_fd: u32,
    target_ifindex: u32,
    attach_type: u32,
    flags: u32,
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
    let insn = |code, registers, offset, immediate| Insn { code, registers, offset, immediate };
    let ipv4 = i32::from(u16::try_from(libc::ETH_P_IP).expect("16 bits").to_be());
    [
        insn(0x61, 0x12, SKB_PROTOCOL, 0),           // r2 = *(u32 *)(r1 + protocol)
        insn(0xb7, 0x00, 0, TCX_NEXT),               // r0 = TCX_NEXT
        insn(0x55, 0x02, 4, ipv4),                   // if r2 != htons(ETH_P_IP) goto exit
        insn(0xb7, 0x01, 0, to.cast_signed()),       // r1 = to
        insn(0xb7, 0x02, 0, 0),                      // r2 = 0 (flags)
        insn(0x85, 0x00, 0, BPF_FUNC_REDIRECT_PEER), // r0 = bpf_redirect_peer(r1, r2)
        insn(0x05, 0x00, 0, 0),                      // goto exit
        insn(0x95, 0x00, 0, 0),                      // exit: return r0
    ]
}

fn load(instructions: &[Insn]) -> io::Result<OwnedFd> {
    let attr = ProgLoad {
        prog_type: BPF_PROG_TYPE_SCHED_CLS,
        insn_cnt: instructions.len().try_into().expect("a few instructions"),
        insns: instructions.as_ptr().expose_provenance() as u64,
        license: c"GPL".as_ptr().expose_provenance() as u64,
    };
    bpf(BPF_PROG_LOAD, attr).map(|(fd, _)| descriptor(fd))
}

fn attach(program: &OwnedFd, ifindex: u32) -> io::Result<OwnedFd> {
    let attr = LinkCreate {
        prog_fd: program.as_raw_fd().cast_unsigned(),
        target_ifindex: ifindex,
        attach_type: BPF_TCX_INGRESS,
        flags: 0,
    };
    bpf(BPF_LINK_CREATE, attr).map(|(fd, _)| descriptor(fd))
}

fn query(ifindex: u32, attach_type: u32) -> io::Result<Vec<u32>> {
    let mut ids = vec![0_u32; 64];
    let attr = ProgQuery {
        target_ifindex: ifindex,
        attach_type,
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
    // licence, the array of ids with its true length) is alive in the caller.
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
        let link = RedirectPeer::attach(&node, pod.veth.index, pod.veth.index);
        let [ingress, egress] = tcx_programs(&node, pod.veth.index);
        assert_eq!((ingress.len(), egress.len()), (1, 0));
        drop(link);
        let none: [Vec<u32>; 2] = Default::default();
        assert_eq!(tcx_programs(&node, pod.veth.index), none);
    }

    #[test]
    fn redirected_packets_pass_the_host_veth_of_the_receiver_by() {
        let machine = Machine::boot();
        let node = machine.netns();
        node.sysctl("net/ipv4/ip_forward", "1");
        let (a, b) = (machine.fake_pod("a", 1), machine.fake_pod("b", 2));
        a.netns.run(&format!("ip route add default via {}", a.gateway4));
        b.netns.run(&format!("ip route add default via {}", b.gateway4));
        let _there = RedirectPeer::attach(&node, a.veth.index, b.veth.index);
        let _back = RedirectPeer::attach(&node, b.veth.index, a.veth.index);
        let tcpdump = Tcpdump::start(&node, &b.veth.name, &["icmp"]);
        traffic::ping(&a.netns, b.ipv4.into(), 3, 56);
        assert_eq!(tcpdump.stop().len(), 3, "the replies, and none of the requests");
    }
}
