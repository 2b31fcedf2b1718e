//! Whose packets a classifier takes. A TCX link follows its device into another network namespace, as a device of
//! hardware that is handed to a pod does. The classifier itself then takes no more: it looks into which namespace the
//! packet's device is, which no packet of the new owner can come before.
//!
//! clsact needs none of that, since a device that moves loses its qdiscs (`dev_change_net_namespace`, net/core/dev.c).

use std::sync::LazyLock;

use anyhow::Result;
use aya_obj::generated::{BPF_ALU64, BPF_DW, BPF_EXIT, BPF_JEQ, BPF_JMP, BPF_K, BPF_MOV, BPF_X, bpf_insn};

use super::{
    btf::Btf,
    instructions::{insn, instruction, load, load_u64, mov},
    skb::{self, Cast},
    syscall,
};
use crate::net::netns::Netns;

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
pub(super) struct Way {
    cast: Cast,
    /// Offset of `dev` in `struct sk_buff`.
    dev: i16,
    /// Offset of `nd_net` in `struct net_device`; a pointer is all that is in it.
    net: i16,
    /// Offset of `net_cookie` in `struct net`.
    cookie: i16,
}

impl Way {
    fn check(self, home: Home) -> Vec<bpf_insn> {
        let Self { cast, dev, net, cookie } = self;
        let mut check = cast.instructions().to_vec();
        check.extend([dev, net, cookie].map(|offset| load(BPF_DW, 0, 0, offset)));
        check.extend(load_u64(2, home.0));
        check.extend([
            insn(BPF_JMP | BPF_JEQ | BPF_X, 0, 2, 2, 0),
            insn(BPF_ALU64 | BPF_MOV | BPF_K, 0, 0, 0, -1),
            instruction((BPF_JMP | BPF_EXIT) as u8, 0, 0),
            mov(1, 6),
        ]);
        check
    }

    pub(super) fn find(cast: Cast, btf: &Btf<'_>) -> Option<Self> {
        let offset = |structure, field| i16::try_from(btf.offset_of(structure, field)?).ok();
        Some(Self {
            cast,
            dev: offset("sk_buff", "dev")?,
            net: offset("net_device", "nd_net")?,
            cookie: offset("net", "net_cookie")?,
        })
    }
}

/// That of the running kernel.
fn way() -> Option<Way> {
    static WAY: LazyLock<Option<Way>> = LazyLock::new(|| {
        let way = skb::fields()?.home?;
        skb::takes(way.check(Home(0)), "where they are").then_some(way)
    });
    *WAY
}
