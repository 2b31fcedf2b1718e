//! Whether a packet's checksum is still to be filled in, by the kernel's own word: `ip_summed` is `CHECKSUM_PARTIAL`
//! (include/linux/skbuff.h).

use std::sync::LazyLock;

use aya_obj::generated::{BPF_ADD, BPF_ALU64, BPF_AND, BPF_B, BPF_K, BPF_LSH, BPF_RSH, bpf_insn};
use sniff_common::{INTERFACE_FLAGS_SHIFT, epb::FLAGS_CHECKSUM_NOT_READY};

use super::{
    btf::Btf,
    instructions::{insn, load, mov},
    skb::{self, Cast},
};

/// `CHECKSUM_PARTIAL`, the largest value of the two bits.
const PARTIAL: i32 = 3;
/// Width of `ip_summed`, in bits.
const WIDTH: u32 = 2;

/// Where the kernel's word is.
#[derive(Clone, Copy, Debug)]
pub struct Summed {
    cast: Cast,
    /// Byte of `struct sk_buff` that has the bits.
    byte: i16,
    /// Bits of that byte below them.
    shift: i32,
}

impl Summed {
    /// That of the running kernel, if it lets classifiers look.
    pub fn known() -> Option<Self> {
        static KNOWN: LazyLock<Option<Summed>> = LazyLock::new(|| {
            let summed = skb::fields()?.summed?;
            let probe = summed.instructions().to_vec();
            skb::takes(probe, "whether a checksum is ready").then_some(summed)
        });
        *KNOWN
    }

    pub(super) fn find(cast: Cast, btf: &Btf<'_>) -> Option<Self> {
        let bit = btf.bit_offset_of("sk_buff", "ip_summed")?;
        // Bit fields are laid out from the least significant bit up only on little-endian machines.
        let is_whole = cfg!(target_endian = "little") && bit % 8 + WIDTH <= 8;
        let byte = i16::try_from(bit / 8).ok().filter(|_| is_whole)?;
        Some(Self { cast, byte, shift: (bit % 8) as i32 })
    }

    /// Instructions that set r2 to the flag of a packet whose checksum is not ready, where the interface argument has it, and
    /// to 0 for any other. The packet is in r1, before and after; r0 and r6 are lost. There is no jump in it, which would
    /// have the verifier look at all that follows twice.
    pub(super) fn instructions(self) -> [bpf_insn; 9] {
        let [keep, cast] = self.cast.instructions();
        let operation = |code: u32, value| insn(BPF_ALU64 | code | BPF_K, 2, 0, 0, value);
        let flag = INTERFACE_FLAGS_SHIFT + FLAGS_CHECKSUM_NOT_READY.trailing_zeros();
        [
            keep,
            cast,
            load(BPF_B, 2, 0, self.byte),
            operation(BPF_RSH, self.shift),
            operation(BPF_AND, PARTIAL),
            // One more than the largest value is the only one with the bit above.
            operation(BPF_ADD, 1),
            operation(BPF_RSH, WIDTH as i32),
            operation(BPF_LSH, flag as i32),
            mov(1, 6),
        ]
    }
}
