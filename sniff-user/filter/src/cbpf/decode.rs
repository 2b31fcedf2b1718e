//! From the numbers that libpcap gives to a validated program: the rules of the kernel's `bpf_check_classic`
//! (net/core/filter.c).

use std::{error::Error, fmt, str::FromStr};

use super::{Ancillary, Arithmetic, CELLS, Condition, Instruction, Operand, Program, Register, Size};

/// Offsets from here on are no places in a packet, but name meta-data (`SKF_AD_OFF`, linux/filter.h).
pub(super) const ANCILLARY_BASE: u32 = -0x1000_i32 as u32;
/// Offsets from here on are negative in the kernel.
const OFFSET_LIMIT: u32 = 1 << 31;

/// An instruction as numbers (`struct sock_filter`, linux/filter.h).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Encoded {
    /// What it does.
    pub code: u16,
    /// How many instructions a conditional jump leaves out when its condition holds.
    pub jt: u8,
    /// How many it leaves out otherwise.
    pub jf: u8,
    /// A constant, an offset or a cell.
    pub k: u32,
}

/// Reads the line that `tcpdump -ddd` prints for an instruction: four decimal numbers.
impl FromStr for Encoded {
    type Err = NotFourNumbers;

    fn from_str(line: &str) -> Result<Self, NotFourNumbers> {
        let mut words = line.split_ascii_whitespace();
        let mut next = || words.next().ok_or(NotFourNumbers);
        let encoded = Self {
            code: next()?.parse().map_err(|_| NotFourNumbers)?,
            jt: next()?.parse().map_err(|_| NotFourNumbers)?,
            jf: next()?.parse().map_err(|_| NotFourNumbers)?,
            k: next()?.parse().map_err(|_| NotFourNumbers)?,
        };
        match words.next() {
            None => Ok(encoded),
            Some(_) => Err(NotFourNumbers),
        }
    }
}

/// A line that is no instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotFourNumbers;

impl fmt::Display for NotFourNumbers {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("a classic BPF instruction is four numbers")
    }
}

impl Error for NotFourNumbers {}

/// A program that the kernel's rules forbid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Invalid {
    /// Index of the instruction.
    pub at: usize,
    /// What is wrong with it.
    pub reason: Reason,
}

/// What can be wrong with an instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// No such instruction.
    Opcode(u16),
    /// A jump to an earlier instruction.
    BackwardJump,
    /// A jump beyond the last instruction.
    JumpOutside,
    /// No such scratch cell.
    Cell(u32),
    /// A scratch cell that not every way here has written.
    CellNotWritten(u8),
    /// Division by a constant 0.
    DivisionByZero,
    /// A shift by a constant above 31.
    Shift(u32),
    /// An offset where no packet has bytes.
    Offset(i32),
    /// The last instruction is not a return, or there is none.
    NoReturn,
}

impl fmt::Display for Invalid {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { at, reason } = self;
        write!(out, "instruction {at}: {reason}")
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Opcode(code) => write!(out, "unknown opcode {code:#x}"),
            Self::BackwardJump => out.write_str("a loop, which filters in the kernel cannot have"),
            Self::JumpOutside => out.write_str("a jump out of the program"),
            Self::Cell(cell) => write!(out, "there is no scratch cell {cell}"),
            Self::CellNotWritten(cell) => {
                write!(out, "scratch cell {cell} is read before it is written")
            }
            Self::DivisionByZero => out.write_str("division by zero"),
            Self::Shift(bits) => write!(out, "shift by {bits} of 32 bits"),
            Self::Offset(offset) => write!(out, "offset {offset} is outside of any packet"),
            Self::NoReturn => out.write_str("the program does not end in a return"),
        }
    }
}

impl Error for Invalid {}

impl Program {
    /// Decodes and validates.
    ///
    /// # Errors
    ///
    /// At the first instruction that the kernel would not take as part of a classic filter. There is no limit to the
    /// length here, since the result is not given to the kernel as it is.
    pub fn decode(encoded: &[Encoded]) -> Result<Self, Invalid> {
        let len = encoded.len();
        let instructions = encoded
            .iter()
            .enumerate()
            .map(|(at, one)| decode_one(one, at, len).map_err(|reason| Invalid { at, reason }))
            .collect::<Result<Vec<_>, _>>()?;
        check_end(&instructions)?;
        check_cells(&instructions)?;
        Ok(Self { instructions })
    }
}

fn decode_one(encoded: &Encoded, at: usize, len: usize) -> Result<Instruction, Reason> {
    let &Encoded { code, jt, jf, k } = encoded;
    let unknown = || Reason::Opcode(code);
    Ok(match code {
        0x00 => Instruction::LoadConstant(Register::A, k),
        0x01 => Instruction::LoadConstant(Register::X, k),
        0x80 => Instruction::LoadLength(Register::A),
        0x81 => Instruction::LoadLength(Register::X),
        0x60 => Instruction::LoadScratch(Register::A, cell(k)?),
        0x61 => Instruction::LoadScratch(Register::X, cell(k)?),
        0x02 => Instruction::StoreScratch(Register::A, cell(k)?),
        0x03 => Instruction::StoreScratch(Register::X, cell(k)?),
        0x20 => load_absolute(Size::Word, k)?,
        0x28 => load_absolute(Size::Half, k)?,
        0x30 => load_absolute(Size::Byte, k)?,
        0x40 => load_indexed(Size::Word, k)?,
        0x48 => load_indexed(Size::Half, k)?,
        0x50 => load_indexed(Size::Byte, k)?,
        0xb1 => Instruction::LoadHeaderLength { offset: offset(k)? },
        0x84 => Instruction::Negate,
        0x07 => Instruction::CopyToX,
        0x87 => Instruction::CopyToA,
        0x06 => Instruction::ReturnConstant(k),
        0x16 => Instruction::ReturnA,
        0x05 => Instruction::Jump(target(at, k, len)?),
        _ if code & 0xff07 == 0x04 => {
            let operation = operation(code).ok_or_else(unknown)?;
            let operand = operand(code, k);
            check_operand(operation, operand)?;
            Instruction::Arithmetic(operation, operand)
        }
        _ if code & 0xff07 == 0x05 => Instruction::JumpIf {
            condition: condition(code).ok_or_else(unknown)?,
            operand: operand(code, k),
            then: target(at, jt.into(), len)?,
            otherwise: target(at, jf.into(), len)?,
        },
        _ => return Err(unknown()),
    })
}

fn load_absolute(size: Size, k: u32) -> Result<Instruction, Reason> {
    if let Some(ancillary) = ancillary(k) {
        return Ok(Instruction::LoadAncillary { size, ancillary });
    }
    Ok(Instruction::LoadPacket { size, offset: offset(k)?, indexed: false })
}

fn load_indexed(size: Size, k: u32) -> Result<Instruction, Reason> {
    Ok(Instruction::LoadPacket { size, offset: offset(k)?, indexed: true })
}

fn ancillary(k: u32) -> Option<Ancillary> {
    let index = k.checked_sub(ANCILLARY_BASE)?;
    // Every fourth offset has a meaning.
    if !index.is_multiple_of(4) {
        return None;
    }
    Ancillary::ALL.get(index as usize / 4).copied()
}

fn operation(code: u16) -> Option<Arithmetic> {
    Some(match code & 0xf0 {
        0x00 => Arithmetic::Add,
        0x10 => Arithmetic::Subtract,
        0x20 => Arithmetic::Multiply,
        0x30 => Arithmetic::Divide,
        0x40 => Arithmetic::Or,
        0x50 => Arithmetic::And,
        0x60 => Arithmetic::ShiftLeft,
        0x70 => Arithmetic::ShiftRight,
        0x90 => Arithmetic::Modulo,
        0xa0 => Arithmetic::Xor,
        _ => return None,
    })
}

fn condition(code: u16) -> Option<Condition> {
    Some(match code & 0xf0 {
        0x10 => Condition::Equal,
        0x20 => Condition::Greater,
        0x30 => Condition::GreaterOrEqual,
        0x40 => Condition::AnyBit,
        _ => return None,
    })
}

fn operand(code: u16, k: u32) -> Operand {
    if code & 0x08 == 0 { Operand::Constant(k) } else { Operand::X }
}

fn check_operand(operation: Arithmetic, operand: Operand) -> Result<(), Reason> {
    match (operation, operand) {
        (Arithmetic::Divide | Arithmetic::Modulo, Operand::Constant(0)) => Err(Reason::DivisionByZero),
        (Arithmetic::ShiftLeft | Arithmetic::ShiftRight, Operand::Constant(bits @ 32..)) => {
            Err(Reason::Shift(bits))
        }
        _ => Ok(()),
    }
}

fn cell(k: u32) -> Result<u8, Reason> {
    match u8::try_from(k) {
        Ok(cell) if k < CELLS => Ok(cell),
        _ => Err(Reason::Cell(k)),
    }
}

fn offset(k: u32) -> Result<u32, Reason> {
    if k < OFFSET_LIMIT { Ok(k) } else { Err(Reason::Offset(k as i32)) }
}

/// Where a jump by `distance` goes; the last instruction of `len` cannot be a jump.
fn target(at: usize, distance: u32, len: usize) -> Result<usize, Reason> {
    if (distance as i32) < 0 {
        return Err(Reason::BackwardJump);
    }
    let target = at + 1 + distance as usize;
    if target < len { Ok(target) } else { Err(Reason::JumpOutside) }
}

fn check_end(instructions: &[Instruction]) -> Result<(), Invalid> {
    match instructions.last() {
        Some(Instruction::ReturnConstant(_) | Instruction::ReturnA) => Ok(()),
        _ => Err(Invalid { at: instructions.len().saturating_sub(1), reason: Reason::NoReturn }),
    }
}

/// No cell is read unless every way there has written it.
fn check_cells(instructions: &[Instruction]) -> Result<(), Invalid> {
    // A bit for each cell, set while all ways so far have written it.
    let mut written = vec![u16::MAX; instructions.len()];
    written[0] = 0;
    for (at, instruction) in instructions.iter().enumerate() {
        let mut cells = written[at];
        match *instruction {
            Instruction::StoreScratch(_, cell) => cells |= 1 << cell,
            Instruction::LoadScratch(_, cell) if cells & 1 << cell == 0 => {
                let reason = Reason::CellNotWritten(cell);
                return Err(Invalid { at, reason });
            }
            _ => {}
        }
        for next in instruction.successors(at) {
            written[next] &= cells;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const ACCEPT: Encoded = encoded(0x06, 0, 0, 1);

    const fn encoded(code: u16, jt: u8, jf: u8, k: u32) -> Encoded {
        Encoded { code, jt, jf, k }
    }

    fn refusal(program: &[Encoded]) -> (usize, Reason) {
        let Invalid { at, reason } = Program::decode(program).unwrap_err();
        (at, reason)
    }

    #[test]
    fn lines_of_numbers() {
        assert_eq!("21 0 4 2048".parse(), Ok(encoded(21, 0, 4, 2048)));
        for line in ["", "21 0 4", "21 0 4 2048 1", "21 0 256 1", "6 0 0 -1"] {
            assert_eq!(line.parse::<Encoded>(), Err(NotFourNumbers), "{line}");
        }
    }

    #[test]
    fn every_opcode_the_kernel_knows_and_no_other() {
        // `chk_code_allowed` of net/core/filter.c, written out.
        let known = [
            0x04, 0x0c, 0x14, 0x1c, 0x24, 0x2c, 0x34, 0x3c, 0x44, 0x4c, 0x54, 0x5c, 0x64, 0x6c, 0x74, 0x7c,
            0x84, 0x94, 0x9c, 0xa4, 0xac, 0x20, 0x28, 0x30, 0x40, 0x48, 0x50, 0x80, 0x00, 0x60, 0x81, 0x01,
            0x61, 0xb1, 0x02, 0x03, 0x07, 0x87, 0x06, 0x16, 0x05, 0x15, 0x1d, 0x25, 0x2d, 0x35, 0x3d, 0x45,
            0x4d,
        ];
        for code in 0..=u16::MAX {
            // A cell is written first, for the loads from it.
            let program = [encoded(0x02, 0, 0, 1), encoded(code, 0, 0, 1), ACCEPT];
            let decoded = Program::decode(&program[..]);
            let expected = if code == 0x05 {
                Err(Invalid { at: 1, reason: Reason::JumpOutside })
            } else if known.contains(&code) {
                assert!(decoded.is_ok(), "{code:#x}: {decoded:?}");
                continue;
            } else {
                Err(Invalid { at: 1, reason: Reason::Opcode(code) })
            };
            assert_eq!(decoded, expected, "{code:#x}");
        }
    }

    #[test]
    fn jumps_stay_inside_and_go_forward() {
        assert_eq!(refusal(&[encoded(0x05, 0, 0, 1), ACCEPT]), (0, Reason::JumpOutside));
        assert_eq!(refusal(&[encoded(0x15, 0, 1, 1), ACCEPT]), (0, Reason::JumpOutside));
        assert_eq!(refusal(&[encoded(0x15, 1, 0, 1), ACCEPT]), (0, Reason::JumpOutside));
        let back = encoded(0x05, 0, 0, -2_i32 as u32);
        assert_eq!(refusal(&[encoded(0x00, 0, 0, 1), back, ACCEPT]), (1, Reason::BackwardJump));
        assert!(Program::decode(&[encoded(0x05, 0, 0, 0), ACCEPT]).is_ok());
    }

    #[test]
    fn it_ends_in_a_return() {
        assert_eq!(refusal(&[]), (0, Reason::NoReturn));
        assert_eq!(refusal(&[ACCEPT, encoded(0x00, 0, 0, 1)]), (1, Reason::NoReturn));
    }

    #[test]
    fn cells_exist_and_are_written_on_every_way() {
        for code in [0x02, 0x03, 0x60, 0x61] {
            assert_eq!(refusal(&[encoded(code, 0, 0, 16), ACCEPT]), (0, Reason::Cell(16)));
        }
        let load = encoded(0x60, 0, 0, 3);
        assert_eq!(refusal(&[load, ACCEPT]), (0, Reason::CellNotWritten(3)));
        let store = encoded(0x02, 0, 0, 3);
        assert!(Program::decode(&[store, load, ACCEPT]).is_ok());
        // One of two ways leaves the store out.
        let around = encoded(0x15, 0, 1, 7);
        assert_eq!(refusal(&[around, store, load, ACCEPT]), (2, Reason::CellNotWritten(3)));
        // A way that cannot be taken does not count.
        assert!(Program::decode(&[ACCEPT, load, ACCEPT]).is_ok());
    }

    #[test]
    fn constants_that_have_no_result() {
        for code in [0x34, 0x94] {
            assert_eq!(refusal(&[encoded(code, 0, 0, 0), ACCEPT]), (0, Reason::DivisionByZero));
        }
        for code in [0x64, 0x74] {
            assert_eq!(refusal(&[encoded(code, 0, 0, 32), ACCEPT]), (0, Reason::Shift(32)));
            assert!(Program::decode(&[encoded(code, 0, 0, 31), ACCEPT]).is_ok());
        }
    }

    #[test]
    fn offsets_are_in_a_packet_or_name_meta_data() {
        for code in [0x20, 0x28, 0x30, 0x40, 0x48, 0x50, 0xb1] {
            let load = |k| Program::decode(&[encoded(code, 0, 0, k), ACCEPT]);
            assert!(load(i32::MAX as u32).is_ok());
            for outside in [i32::MIN, -0x10_0000, -0x1001, -0xfff, -0xfc0, -1] {
                let reason = Reason::Offset(outside);
                assert_eq!(load(outside as u32), Err(Invalid { at: 0, reason }), "{code:#x}");
            }
        }
        let load = encoded(0x28, 0, 0, ANCILLARY_BASE + 4);
        assert_eq!(
            Program::decode(&[load, ACCEPT]).unwrap().instructions()[0],
            Instruction::LoadAncillary { size: Size::Half, ancillary: Ancillary::PacketType }
        );
        // Meta-data has no index.
        let indexed = encoded(0x48, 0, 0, ANCILLARY_BASE + 4);
        assert_eq!(refusal(&[indexed, ACCEPT]), (0, Reason::Offset(-0xffc)));
    }
}
