//! Whose packets a classifier takes. A TCX link follows its device into another network namespace, as a device of
//! hardware that is handed to a pod does. The classifier itself then takes no more: it looks into which namespace the
//! packet's device is, which no packet of the new owner can come before.
//!
//! clsact needs none of that, since a device that moves loses its qdiscs (`dev_change_net_namespace`, net/core/dev.c).

use std::{fs, sync::LazyLock};

use anyhow::Result;
use aya_obj::generated::{
    BPF_ALU64, BPF_CALL, BPF_DW, BPF_EXIT, BPF_JEQ, BPF_JMP, BPF_K, BPF_LDX, BPF_MEM, BPF_MOV,
    BPF_PSEUDO_KFUNC_CALL, BPF_X, bpf_insn,
};
use log::debug;
use sniff_filter::ebpf::Encoded;

use super::{
    btf::Btf,
    instructions::{encoded, instruction, load_u64},
    syscall,
};
use crate::net::netns::Netns;

/// Where the running kernel describes its types.
const KERNEL_BTF: &str = "/sys/kernel/btf/vmlinux";

/// A network namespace as the kernel side knows it: a number that is never given to another one (`SO_NETNS_COOKIE`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Home(u64);

impl Home {
    /// That of a namespace; none on a kernel where a classifier cannot find out where it is.
    ///
    /// # Errors
    ///
    /// When the namespace is gone.
    pub fn of(netns: &Netns) -> Result<Option<Self>> {
        if way().is_none() {
            return Ok(None);
        }
        netns.run(|| Ok(Some(Self(syscall::netns_cookie()?))))
    }

    /// Instructions that go on only with a packet whose device is at home, and end the program with any other. The packet
    /// is in r1, before and after; r6 is not.
    pub(super) fn check(self) -> Vec<bpf_insn> {
        way().map_or_else(Vec::new, |way| way.check(self))
    }
}

/// From a packet to its namespace.
#[derive(Clone, Copy, Debug)]
struct Way {
    /// Id of `bpf_cast_to_kern_ctx`.
    cast: u32,
    /// Offset of `dev` in `struct sk_buff`.
    dev: u32,
    /// Offset of `nd_net` in `struct net_device`; a pointer is all that is in it.
    net: u32,
    /// Offset of `net_cookie` in `struct net`.
    cookie: u32,
}

impl Way {
    fn check(self, home: Home) -> Vec<bpf_insn> {
        let Self { cast, dev, net, cookie } = self;
        let load = |offset: u32| insn(BPF_LDX | BPF_MEM | BPF_DW, 0, 0, offset as i16, 0);
        let mut check = vec![
            insn(BPF_ALU64 | BPF_MOV | BPF_X, 6, 1, 0, 0),
            insn(BPF_JMP | BPF_CALL, 0, BPF_PSEUDO_KFUNC_CALL as u8, 0, cast as i32),
            load(dev),
            load(net),
            load(cookie),
        ];
        check.extend(load_u64(2, home.0));
        check.extend([
            insn(BPF_JMP | BPF_JEQ | BPF_X, 0, 2, 2, 0),
            insn(BPF_ALU64 | BPF_MOV | BPF_K, 0, 0, 0, -1),
            instruction((BPF_JMP | BPF_EXIT) as u8, 0, 0),
            insn(BPF_ALU64 | BPF_MOV | BPF_X, 1, 6, 0, 0),
        ]);
        check
    }
}

/// That of the running kernel, which must have BTF, and `bpf_cast_to_kern_ctx` (Linux 6.2).
fn way() -> Option<Way> {
    static WAY: LazyLock<Option<Way>> = LazyLock::new(|| {
        let way = fs::read(KERNEL_BTF).ok().and_then(|blob| find(&Btf::parse(&blob)?));
        let way = way.filter(|way| {
            let mut program = way.check(Home(0));
            program.push(insn(BPF_ALU64 | BPF_MOV | BPF_K, 0, 0, 0, -1));
            program.push(instruction((BPF_JMP | BPF_EXIT) as u8, 0, 0));
            syscall::load_classifier(&program, c"sniff_probe", c"Dual MIT/GPL").is_ok()
        });
        if way.is_none() {
            debug!("this kernel does not tell classifiers where they are");
        }
        way
    });
    *WAY
}

fn find(btf: &Btf<'_>) -> Option<Way> {
    let way = Way {
        cast: btf.function("bpf_cast_to_kern_ctx")?,
        dev: btf.offset_of("sk_buff", "dev")?,
        net: btf.offset_of("net_device", "nd_net")?,
        cookie: btf.offset_of("net", "net_cookie")?,
    };
    let is_in_reach = |offset: u32| i16::try_from(offset).is_ok();
    [way.dev, way.net, way.cookie].into_iter().all(is_in_reach).then_some(way)
}

fn insn(code: u32, dst: u8, src: u8, off: i16, imm: i32) -> bpf_insn {
    encoded(Encoded { code: code as u8, dst, src, off, imm })
}
