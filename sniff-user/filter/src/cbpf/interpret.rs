//! An interpreter: the shortest statement of what a program means, for tests, and for packets that are not in the kernel any
//! more.

use super::{Ancillary, Arithmetic, CELLS, Condition, Instruction, Operand, Program, Register, Size};

/// The type of a packet that goes out (include/uapi/linux/if_packet.h).
const PACKET_OUTGOING: u32 = 4;

impl Program {
    /// Whether `packet`, which was `original_len` bytes long on the wire, matches. Of meta-data it is known whether it was
    /// `outgoing`; all else reads as 0.
    pub fn matches(&self, packet: &[u8], original_len: u32, outgoing: bool) -> bool {
        self.run(packet, original_len, outgoing).is_some_and(|value| value != 0)
    }

    /// What the program returns; `None` where it ends early.
    fn run(&self, packet: &[u8], original_len: u32, outgoing: bool) -> Option<u32> {
        let (mut a, mut x) = (0_u32, 0_u32);
        let mut cells = [0; CELLS as usize];
        let mut at = 0;
        loop {
            let instruction = &self.instructions[at];
            at += 1;
            match *instruction {
                Instruction::LoadConstant(Register::A, value) => a = value,
                Instruction::LoadConstant(Register::X, value) => x = value,
                Instruction::LoadLength(Register::A) => a = original_len,
                Instruction::LoadLength(Register::X) => x = original_len,
                Instruction::LoadScratch(Register::A, cell) => a = cells[usize::from(cell)],
                Instruction::LoadScratch(Register::X, cell) => x = cells[usize::from(cell)],
                Instruction::StoreScratch(Register::A, cell) => cells[usize::from(cell)] = a,
                Instruction::StoreScratch(Register::X, cell) => cells[usize::from(cell)] = x,
                Instruction::LoadPacket { size, offset, indexed } => {
                    let index = if indexed { x } else { 0 };
                    a = load(packet, offset as usize + index as usize, size)?;
                }
                Instruction::LoadHeaderLength { offset } => {
                    x = (load(packet, offset as usize, Size::Byte)? & 15) * 4;
                }
                Instruction::LoadAncillary { ancillary: Ancillary::PacketType, .. } if outgoing => {
                    a = PACKET_OUTGOING;
                }
                Instruction::LoadAncillary { .. } => a = 0,
                Instruction::Arithmetic(operation, operand) => {
                    a = compute(operation, a, value(operand, x))?;
                }
                Instruction::Negate => a = a.wrapping_neg(),
                Instruction::CopyToX => x = a,
                Instruction::CopyToA => a = x,
                Instruction::Jump(target) => at = target,
                Instruction::JumpIf { condition, operand, then, otherwise } => {
                    at = if holds(condition, a, value(operand, x)) { then } else { otherwise };
                }
                Instruction::ReturnConstant(value) => return Some(value),
                Instruction::ReturnA => return Some(a),
            }
        }
    }
}

fn value(operand: Operand, x: u32) -> u32 {
    match operand {
        Operand::Constant(value) => value,
        Operand::X => x,
    }
}

fn load(packet: &[u8], offset: usize, size: Size) -> Option<u32> {
    let bytes = packet.get(offset..offset + size.bytes() as usize)?;
    Some(bytes.iter().fold(0, |sum, &byte| sum << 8 | u32::from(byte)))
}

fn compute(operation: Arithmetic, a: u32, b: u32) -> Option<u32> {
    Some(match operation {
        Arithmetic::Add => a.wrapping_add(b),
        Arithmetic::Subtract => a.wrapping_sub(b),
        Arithmetic::Multiply => a.wrapping_mul(b),
        Arithmetic::Divide => a.checked_div(b)?,
        Arithmetic::Modulo => a.checked_rem(b)?,
        Arithmetic::Or => a | b,
        Arithmetic::And => a & b,
        Arithmetic::Xor => a ^ b,
        Arithmetic::ShiftLeft => a.checked_shl(b).unwrap_or(0),
        Arithmetic::ShiftRight => a.checked_shr(b).unwrap_or(0),
    })
}

fn holds(condition: Condition, a: u32, b: u32) -> bool {
    match condition {
        Condition::Equal => a == b,
        Condition::Greater => a > b,
        Condition::GreaterOrEqual => a >= b,
        Condition::AnyBit => a & b != 0,
    }
}
