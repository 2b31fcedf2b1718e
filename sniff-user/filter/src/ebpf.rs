//! eBPF as typed instructions: those that the filter compiler uses, all of which Linux 5.10 has
//! (Documentation/bpf/standardization/instruction-set.rst).

use std::fmt;

use super::cbpf::Size;

/// A register. `R10` is the frame pointer and cannot be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "their names are their numbers")]
pub enum Register {
    R0,
    R1,
    R2,
    R3,
    R4,
    R5,
    R6,
    R7,
    R8,
    R9,
    R10,
}

/// How much of the registers an operation uses. The upper half of the result of a 32-bit one is 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Width {
    /// The lower half.
    Bits32,
    /// All.
    Bits64,
}

/// A right-hand side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operand {
    /// A register.
    Register(Register),
    /// A constant; 64-bit operations extend its sign.
    Constant(i32),
}

impl From<Register> for Operand {
    fn from(register: Register) -> Self {
        Self::Register(register)
    }
}

impl From<i32> for Operand {
    fn from(constant: i32) -> Self {
        Self::Constant(constant)
    }
}

/// `to = to <operation> operand`, unsigned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// The operand alone.
    Move,
    /// Sum.
    Add,
    /// Difference.
    Subtract,
    /// Product.
    Multiply,
    /// Quotient.
    Divide,
    /// Remainder.
    Modulo,
    /// Bitwise or.
    Or,
    /// Bitwise and.
    And,
    /// Bitwise exclusive or.
    Xor,
    /// Shift to the left, by the operand modulo the width.
    ShiftLeft,
    /// Shift to the right, by the operand modulo the width.
    ShiftRight,
}

/// What a conditional jump asks of two values, unsigned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condition {
    /// Are they equal?
    Equal,
    /// Are they not?
    NotEqual,
    /// Is the left one greater?
    Greater,
    /// Is it greater or equal?
    GreaterOrEqual,
    /// Is it less?
    Less,
    /// Is it less or equal?
    LessOrEqual,
    /// Have they a bit in common?
    AnyBit,
}

/// Functions of the kernel (`enum bpf_func_id`, linux/bpf.h).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Helper {
    /// A random number.
    GetPrandomU32 = 7,
    /// The CPU that this runs on.
    GetSmpProcessorId = 8,
    /// Bytes of a packet, to memory: packet, offset, memory, length; 0 if they are there.
    SkbLoadBytes = 26,
}

/// An instruction. A jump's distance counts from the instruction behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Instruction {
    /// Changes a register.
    Alu {
        /// How much of it.
        width: Width,
        /// How.
        operation: Operation,
        /// The register.
        to: Register,
        /// By what.
        operand: Operand,
    },
    /// `to = -to`, 32 bits.
    Negate {
        /// The register.
        to: Register,
    },
    /// From network byte order to the machine's; 64 bits are left.
    FromBigEndian {
        /// The register.
        to: Register,
        /// How many bits of it: not [`Size::Byte`].
        size: Size,
    },
    /// `to = *(base + offset)`.
    Load {
        /// How much.
        size: Size,
        /// Where to.
        to: Register,
        /// Where from.
        base: Register,
        /// Added to the base.
        offset: i16,
    },
    /// `*(base + offset) = from`.
    Store {
        /// How much.
        size: Size,
        /// Where to.
        base: Register,
        /// Added to the base.
        offset: i16,
        /// What.
        from: Register,
    },
    /// Goes on elsewhere.
    Jump {
        /// How far.
        distance: i16,
    },
    /// Goes on elsewhere if a condition holds.
    JumpIf {
        /// How much is compared.
        width: Width,
        /// What is asked.
        condition: Condition,
        /// Of this.
        left: Register,
        /// And this.
        right: Operand,
        /// How far.
        distance: i16,
    },
    /// `r0 = helper(r1, r2, r3, r4, r5)`; these five are lost.
    Call(Helper),
    /// Ends with r0 as the program's verdict.
    Exit,
}

/// An instruction as numbers (`struct bpf_insn`, linux/bpf.h).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Encoded {
    /// What it does.
    pub code: u8,
    /// Number of the register that is changed.
    pub dst: u8,
    /// Number of the register that is used.
    pub src: u8,
    /// A distance or an offset.
    pub off: i16,
    /// A constant or a helper.
    pub imm: i32,
}

// Classes, modes and sources of linux/bpf_common.h and linux/bpf.h.
const LDX: u8 = 0x01;
const STX: u8 = 0x03;
const ALU: u8 = 0x04;
const JMP: u8 = 0x05;
const JMP32: u8 = 0x06;
const ALU64: u8 = 0x07;
const MEM: u8 = 0x60;
const SOURCE_REGISTER: u8 = 0x08;

impl Instruction {
    /// As the kernel takes it.
    pub fn encode(self) -> Encoded {
        match self {
            Self::Alu { width, operation, to, operand } => {
                let class = match width {
                    Width::Bits32 => ALU,
                    Width::Bits64 => ALU64,
                };
                let (source, src, imm) = encode_operand(operand);
                encoded(class | operation.code() | source, to as u8, src, 0, imm)
            }
            Self::Negate { to } => encoded(ALU | 0x80, to as u8, 0, 0, 0),
            Self::FromBigEndian { to, size } => {
                let bits = size.bytes() as i32 * 8;
                encoded(ALU | 0xd0 | SOURCE_REGISTER, to as u8, 0, 0, bits)
            }
            Self::Load { size, to, base, offset } => {
                encoded(LDX | MEM | size_code(size), to as u8, base as u8, offset, 0)
            }
            Self::Store { size, base, offset, from } => {
                encoded(STX | MEM | size_code(size), base as u8, from as u8, offset, 0)
            }
            Self::Jump { distance } => encoded(JMP, 0, 0, distance, 0),
            Self::JumpIf { width, condition, left, right, distance } => {
                let class = match width {
                    Width::Bits32 => JMP32,
                    Width::Bits64 => JMP,
                };
                let (source, src, imm) = encode_operand(right);
                encoded(class | condition.code() | source, left as u8, src, distance, imm)
            }
            Self::Call(helper) => encoded(JMP | 0x80, 0, 0, 0, helper as i32),
            Self::Exit => encoded(JMP | 0x90, 0, 0, 0, 0),
        }
    }
}

fn encoded(code: u8, dst: u8, src: u8, off: i16, imm: i32) -> Encoded {
    Encoded { code, dst, src, off, imm }
}

fn encode_operand(operand: Operand) -> (u8, u8, i32) {
    match operand {
        Operand::Register(register) => (SOURCE_REGISTER, register as u8, 0),
        Operand::Constant(constant) => (0, 0, constant),
    }
}

fn size_code(size: Size) -> u8 {
    match size {
        Size::Word => 0x00,
        Size::Half => 0x08,
        Size::Byte => 0x10,
    }
}

impl Operation {
    fn code(self) -> u8 {
        match self {
            Self::Add => 0x00,
            Self::Subtract => 0x10,
            Self::Multiply => 0x20,
            Self::Divide => 0x30,
            Self::Or => 0x40,
            Self::And => 0x50,
            Self::ShiftLeft => 0x60,
            Self::ShiftRight => 0x70,
            Self::Modulo => 0x90,
            Self::Xor => 0xa0,
            Self::Move => 0xb0,
        }
    }

    fn sign(self) -> &'static str {
        match self {
            Self::Add => "+=",
            Self::Subtract => "-=",
            Self::Multiply => "*=",
            Self::Divide => "/=",
            Self::Or => "|=",
            Self::And => "&=",
            Self::ShiftLeft => "<<=",
            Self::ShiftRight => ">>=",
            Self::Modulo => "%=",
            Self::Xor => "^=",
            Self::Move => "=",
        }
    }
}

impl Condition {
    fn code(self) -> u8 {
        match self {
            Self::Equal => 0x10,
            Self::Greater => 0x20,
            Self::GreaterOrEqual => 0x30,
            Self::AnyBit => 0x40,
            Self::NotEqual => 0x50,
            Self::Less => 0xa0,
            Self::LessOrEqual => 0xb0,
        }
    }

    fn sign(self) -> &'static str {
        match self {
            Self::Equal => "==",
            Self::Greater => ">",
            Self::GreaterOrEqual => ">=",
            Self::AnyBit => "&",
            Self::NotEqual => "!=",
            Self::Less => "<",
            Self::LessOrEqual => "<=",
        }
    }
}

/// As the kernel's verifier and bpftool write it.
impl fmt::Display for Instruction {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Alu { width, operation, to, operand } => {
                let (to, sign) = (Named(to.into(), width), operation.sign());
                write!(out, "{to} {sign} {}", Named(operand, width))
            }
            Self::Negate { to } => {
                let to = Named(to.into(), Width::Bits32);
                write!(out, "{to} = -{to}")
            }
            Self::FromBigEndian { to, size } => {
                let (to, bits) = (Named(to.into(), Width::Bits64), size.bytes() * 8);
                write!(out, "{to} = be{bits} {to}")
            }
            Self::Load { size, to, base, offset } => {
                let to = Named(to.into(), Width::Bits64);
                write!(out, "{to} = {}", Cell(size, base, offset))
            }
            Self::Store { size, base, offset, from } => {
                let from = Named(from.into(), Width::Bits64);
                write!(out, "{} = {from}", Cell(size, base, offset))
            }
            Self::Jump { distance } => write!(out, "goto {distance:+}"),
            Self::JumpIf { width, condition, left, right, distance } => {
                let (left, sign) = (Named(left.into(), width), condition.sign());
                write!(out, "if {left} {sign} {} goto {distance:+}", Named(right, width))
            }
            Self::Call(helper) => {
                let name = match helper {
                    Helper::GetPrandomU32 => "bpf_get_prandom_u32",
                    Helper::GetSmpProcessorId => "bpf_get_smp_processor_id",
                    Helper::SkbLoadBytes => "bpf_skb_load_bytes",
                };
                write!(out, "call {name}#{}", helper as u32)
            }
            Self::Exit => out.write_str("exit"),
        }
    }
}

/// An operand: a register by the name that it has in operations of a width.
struct Named(Operand, Width);

impl fmt::Display for Named {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self(Operand::Register(register), Width::Bits32) => write!(out, "w{}", register as u8),
            Self(Operand::Register(register), Width::Bits64) => write!(out, "r{}", register as u8),
            Self(Operand::Constant(constant), _) if constant < 0 => write!(out, "{constant}"),
            Self(Operand::Constant(constant), _) => write!(out, "{constant:#x}"),
        }
    }
}

/// A place in memory.
struct Cell(Size, Register, i16);

impl fmt::Display for Cell {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(size, base, offset) = *self;
        let bits = size.bytes() * 8;
        write!(out, "*(u{bits} *)(r{} {offset:+})", base as u8)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_words() {
        use Register::{R0, R1, R2, R6, R9, R10};
        let alu = |width, operation, to, operand| Instruction::Alu { width, operation, to, operand };
        let (bits32, bits64) = (Width::Bits32, Width::Bits64);
        // The numbers are those of LLVM's assembler (llvm-mc).
        for (instruction, numbers, words) in [
            (alu(bits64, Operation::Move, R6, R1.into()), (0xbf, 6, 1, 0, 0), "r6 = r1"),
            (alu(bits64, Operation::Move, R0, (-1).into()), (0xb7, 0, 0, 0, -1), "r0 = -1"),
            (alu(bits32, Operation::Move, R0, 5.into()), (0xb4, 0, 0, 0, 5), "w0 = 0x5"),
            (alu(bits32, Operation::Add, R0, R9.into()), (0x0c, 0, 9, 0, 0), "w0 += w9"),
            (alu(bits32, Operation::Subtract, R0, 1.into()), (0x14, 0, 0, 0, 1), "w0 -= 0x1"),
            (alu(bits32, Operation::Multiply, R0, R9.into()), (0x2c, 0, 9, 0, 0), "w0 *= w9"),
            (alu(bits32, Operation::Divide, R0, R9.into()), (0x3c, 0, 9, 0, 0), "w0 /= w9"),
            (alu(bits32, Operation::Modulo, R0, R9.into()), (0x9c, 0, 9, 0, 0), "w0 %= w9"),
            (alu(bits32, Operation::Or, R0, R9.into()), (0x4c, 0, 9, 0, 0), "w0 |= w9"),
            (alu(bits32, Operation::And, R0, 15.into()), (0x54, 0, 0, 0, 15), "w0 &= 0xf"),
            (alu(bits32, Operation::Xor, R0, R9.into()), (0xac, 0, 9, 0, 0), "w0 ^= w9"),
            (alu(bits32, Operation::ShiftLeft, R0, 2.into()), (0x64, 0, 0, 0, 2), "w0 <<= 0x2"),
            (alu(bits64, Operation::ShiftRight, R0, R1.into()), (0x7f, 0, 1, 0, 0), "r0 >>= r1"),
            (Instruction::Negate { to: R0 }, (0x84, 0, 0, 0, 0), "w0 = -w0"),
            (Instruction::FromBigEndian { to: R0, size: Size::Half }, (0xdc, 0, 0, 0, 16), "r0 = be16 r0"),
            (
                Instruction::Load { size: Size::Byte, to: R0, base: R2, offset: 23 },
                (0x71, 0, 2, 23, 0),
                "r0 = *(u8 *)(r2 +23)",
            ),
            (
                Instruction::Store { size: Size::Word, base: R10, offset: -8, from: R0 },
                (0x63, 10, 0, -8, 0),
                "*(u32 *)(r10 -8) = r0",
            ),
            (Instruction::Jump { distance: 7 }, (0x05, 0, 0, 7, 0), "goto +7"),
            (
                Instruction::JumpIf {
                    width: bits32,
                    condition: Condition::NotEqual,
                    left: R0,
                    right: 0x800.into(),
                    distance: 3,
                },
                (0x56, 0, 0, 3, 0x800),
                "if w0 != 0x800 goto +3",
            ),
            (
                Instruction::JumpIf {
                    width: bits64,
                    condition: Condition::Greater,
                    left: R1,
                    right: R2.into(),
                    distance: 3,
                },
                (0x2d, 1, 2, 3, 0),
                "if r1 > r2 goto +3",
            ),
            (Instruction::Call(Helper::SkbLoadBytes), (0x85, 0, 0, 0, 26), "call bpf_skb_load_bytes#26"),
            (Instruction::Exit, (0x95, 0, 0, 0, 0), "exit"),
        ] {
            let Encoded { code, dst, src, off, imm } = instruction.encode();
            assert_eq!((code, dst, src, off, imm), numbers, "{words}");
            assert_eq!(instruction.to_string(), words);
        }
    }
}
