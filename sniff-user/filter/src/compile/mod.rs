//! From classic BPF to eBPF: a fragment that stands in front of a classifier's own code.
//!
//! The fragment expects the packet's `struct __sk_buff *` in r1. If the packet matches, execution goes on behind the
//! fragment's last instruction with the same pointer in r1. If it does not, the program ends with the verdict -1
//! (`TCX_NEXT`, `TC_ACT_UNSPEC`).
//!
//! # The packet that is judged
//!
//! It is the packet as a file has it, so the verdict is the one that libpcap has for that file. The kernel keeps a
//! VLAN tag beside the packet; the fragment sees it at its place in bytes 12 to 15, with what follows 4 bytes later,
//! and counts it in the length. On a device without Ethernet headers there is no such place, and a tag is not seen.
//!
//! # What the output guarantees
//!
//! - Every load is checked against the packet's end; beyond it, the packet does not match.
//! - A and X begin as 0. No scratch cell is read that was not written ([`Program`] sees to that).
//! - Division and remainder by X are guarded: by 0, the packet does not match.
//! - There is one exit at most, and its verdict is -1; a fragment that lets every packet pass has none.
//! - All jumps go forward, and every instruction can be reached.
//! - The packet and its meta-data are not written. r6 holds the packet in the fragment; r2 to r9 and 80 bytes of the
//!   stack have no meaning behind it.
//! - Linux 5.10 has every instruction and helper in it.
//!
//! # Two copies
//!
//! The program is emitted twice. The *direct* copy reads from memory between `data` and `data_end`, without any call;
//! `bounds` gives it few checks. When a check fails, the bytes may still be in fragments of the packet: the direct copy
//! then jumps to the same instruction of the *general* copy, which keeps A, X and the scratch cells in the same places
//! and reads through `bpf_skb_load_bytes`. A packet with a VLAN tag takes the general copy from the start.
//!
//! # Where the kernel and libpcap differ
//!
//! The fragment follows libpcap's interpreter (`bpf_filter.c`), for the sake of files:
//!
//! - A shift by X of 32 bits or more gives 0. The kernel uses the lower five bits of X.
//! - X plus an offset that passes 2^32 is beyond the packet. The kernel goes on at 0.
//!
//! It follows the kernel (`net/core/filter.c`) in meta-data, which libpcap has none of: `inbound` and `outbound` look
//! at it. See [`Surroundings::outgoing`]. In older kernels, Linux 5.10 among them,
//! `bpf_skb_load_bytes` reads nothing from offsets above 65,535; packets do not match there.

mod assembler;
mod bounds;
mod direct;
mod emit;
mod general;
#[cfg(test)]
mod machine;
#[cfg(test)]
mod tests;

use std::fmt;

use sniff_pcapng::LinkType;

use super::{
    cbpf::{Ancillary, Program},
    ebpf::Instruction,
};
use emit::Emitter;

/// Where the fragment will run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Surroundings {
    /// What packets begin with there.
    pub link_type: LinkType,
    /// Whether packets are on their way out, which is what `outbound` asks and `inbound` denies. The kernel marks
    /// only copies of packets as outgoing, and never those that a classifier sees.
    pub outgoing: bool,
}

/// Which of the two translations of a classic program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Copy {
    /// Reads memory.
    Direct,
    /// Reads through a helper.
    General,
}

/// Instructions to be put in front of a classifier's own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fragment {
    instructions: Vec<Instruction>,
}

impl Fragment {
    /// Its instructions.
    pub fn instructions(&self) -> &[Instruction] {
        &self.instructions
    }

    /// The same in front of `len` instructions that are run for packets that match, and passed over for all others: behind those
    /// execution goes on in any case, with the packet in r6.
    ///
    /// # Errors
    ///
    /// When they are more than a jump can pass.
    pub fn detour(&self, len: usize) -> Result<Vec<Instruction>, Error> {
        let whole = self.instructions.len() + len;
        let distance = |at: usize| i16::try_from(whole - (at + 1)).map_err(|_| Error::TooLong(whole));
        let over = |(at, instruction): (usize, &Instruction)| match instruction {
            Instruction::Exit => Ok(Instruction::Jump { distance: distance(at)? }),
            other => Ok(*other),
        };
        self.instructions.iter().enumerate().map(over).collect()
    }
}

/// A line for each instruction.
impl fmt::Display for Fragment {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, instruction) in self.instructions.iter().enumerate() {
            let separator = if at == 0 { "" } else { "\n" };
            write!(out, "{separator}{at:4}: {instruction}")?;
        }
        Ok(())
    }
}

/// Why a program cannot be translated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// It has this many instructions, and a jump over too many of them.
    TooLong(usize),
    /// A classifier is not told this.
    NotAvailable(Ancillary),
    /// No packet matches it.
    NeverMatches,
}

impl fmt::Display for Error {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLong(len) => write!(
                out,
                "the filter is too long: it takes {len} eBPF instructions, and no jump can pass more than 32,767"
            ),
            Self::NotAvailable(ancillary) => write!(
                out,
                "the filter asks for [{}], which the kernel does not tell classifiers",
                ancillary.name()
            ),
            Self::NeverMatches => out.write_str("the filter matches no packet"),
        }
    }
}

impl std::error::Error for Error {}

/// Translates `program` for packets in `surroundings`.
///
/// # Errors
///
/// When it is too long, asks for meta-data that `__sk_buff` does not have, or matches no packet.
pub fn fragment(program: &Program, surroundings: Surroundings) -> Result<Fragment, Error> {
    let instructions = Emitter::new(program, surroundings).run()?;
    Ok(Fragment { instructions })
}
