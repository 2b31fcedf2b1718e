//! Which loads of the direct copy need a check of the packet's end before them, and for how many bytes.
//!
//! Two passes over the program, whose jumps only go forward. The first goes backward and finds how many bytes every
//! way to a match still needs: so one check does for many loads. The second goes forward and finds how many bytes
//! every way here has checked already.

use super::super::cbpf::{Instruction, Program, Size};

/// Furthest end of a load that is done directly. It keeps within an instruction's 16-bit offset and, added to an
/// index of the same size, within what the verifier follows in a packet (`MAX_PACKET_OFF`, kernel/bpf/verifier.c).
pub const LIMIT: u32 = 0x7fff;

/// From where an offset counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Base {
    /// The packet's start.
    Start,
    /// The packet's start plus X.
    Index,
}

/// What a load of the direct copy has to do before it reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Nothing: these bytes were checked on every way here.
    Checked,
    /// Check this many bytes from its base.
    Check {
        /// How many.
        bytes: u32,
        /// Whether the base is known from an earlier check.
        base_known: bool,
    },
    /// Leave it to the general copy.
    Leave,
}

/// Bytes from the two bases.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Bytes {
    start: u32,
    index: u32,
}

impl Bytes {
    const NONE: Self = Self { start: 0, index: 0 };
    /// More than any: for a place that no way leads to or from.
    const ALL: Self = Self { start: u32::MAX, index: u32::MAX };

    fn get(self, base: Base) -> u32 {
        match base {
            Base::Start => self.start,
            Base::Index => self.index,
        }
    }

    fn get_mut(&mut self, base: Base) -> &mut u32 {
        match base {
            Base::Start => &mut self.start,
            Base::Index => &mut self.index,
        }
    }

    fn least(self, other: Self) -> Self {
        Self { start: self.start.min(other.start), index: self.index.min(other.index) }
    }
}

/// For each instruction, how it gets at the packet; `None` where it does not.
pub fn accesses(program: &Program) -> Vec<Option<Access>> {
    let instructions = program.instructions();
    let needed = needed(instructions);
    let mut checked = vec![Bytes::ALL; instructions.len()];
    checked[0] = Bytes::NONE;
    let mut accesses = Vec::with_capacity(instructions.len());
    for (at, instruction) in instructions.iter().enumerate() {
        let mut known = checked[at];
        let access = load(instruction).map(|(base, end)| {
            let access = access(known.get(base), end, needed[at].get(base));
            if let Access::Check { bytes, .. } = access {
                *known.get_mut(base) = bytes;
            }
            access
        });
        if instruction.writes_x() {
            known.index = 0;
        }
        // A way that leaves the direct copy says nothing of what is known in it.
        if access != Some(Access::Leave) {
            for next in instruction.successors(at) {
                checked[next] = checked[next].least(known);
            }
        }
        accesses.push(access);
    }
    accesses
}

fn access(known: u32, end: u32, needed: u32) -> Access {
    if end > LIMIT {
        Access::Leave
    } else if end <= known {
        Access::Checked
    } else {
        Access::Check {
            // On a way that cannot match, what it still needs says nothing.
            bytes: if needed > LIMIT { end } else { needed },
            base_known: known > 0,
        }
    }
}

/// For each instruction, how many bytes every way from it to a match needs.
fn needed(instructions: &[Instruction]) -> Vec<Bytes> {
    let mut needed = vec![Bytes::ALL; instructions.len()];
    for (at, instruction) in instructions.iter().enumerate().rev() {
        let mut here = match instruction {
            Instruction::ReturnConstant(0) => Bytes::ALL,
            Instruction::ReturnConstant(_) | Instruction::ReturnA => Bytes::NONE,
            _ => instruction.successors(at).map(|next| needed[next]).fold(Bytes::ALL, Bytes::least),
        };
        if instruction.writes_x() {
            // What is loaded from there on has another base.
            here.index = 0;
        }
        match load(instruction) {
            Some((base, end)) if end <= LIMIT => *here.get_mut(base) = end.max(here.get(base)),
            Some(_) => here = Bytes::NONE,
            None => {}
        }
        needed[at] = here;
    }
    needed
}

/// Where a load ends.
fn load(instruction: &Instruction) -> Option<(Base, u32)> {
    match *instruction {
        Instruction::LoadPacket { size, offset, indexed } => {
            let base = if indexed { Base::Index } else { Base::Start };
            Some((base, offset + size.bytes()))
        }
        Instruction::LoadHeaderLength { offset } => Some((Base::Start, offset + Size::Byte.bytes())),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sniff_pcapng::LinkType;

    use crate::expression;

    fn checks(expression: &str) -> Vec<(usize, u32, bool)> {
        let program = expression::compile(expression, LinkType::Ethernet, true).unwrap();
        accesses(&program)
            .into_iter()
            .enumerate()
            .filter_map(|(at, access)| match access? {
                Access::Check { bytes, base_known } => Some((at, bytes, base_known)),
                Access::Checked => None,
                Access::Leave => Some((at, u32::MAX, false)),
            })
            .collect()
    }

    #[test]
    fn one_check_for_all_that_a_match_needs() {
        // Type and UDP's number are read apart; the check at the first covers both.
        assert_eq!(checks("ip proto 17"), [(0, 24, false)]);
    }

    #[test]
    fn ways_that_differ_check_what_they_share_first() {
        // IPv6 reads up to 58, IPv4 up to 24 and then from an index.
        assert_eq!(
            checks("tcp port 443"),
            [(0, 24, false), (4, 56, true), (6, 58, true), (14, 16, false), (16, 18, true)]
        );
    }

    #[test]
    fn a_new_index_is_a_new_base() {
        let program = "ip[ip[0]] = 1 and ip[ip[1]:4] = 2";
        assert_eq!(checks(program), [(0, 16, false), (4, 15, false), (8, 18, false)]);
    }

    #[test]
    fn far_loads_are_left() {
        assert_eq!(checks("ether[32766] = 1"), [(0, 32_767, false)]);
        assert_eq!(checks("ether[32767] = 1"), [(0, u32::MAX, false)]);
    }
}
