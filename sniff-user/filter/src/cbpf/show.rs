//! A program as `tcpdump -d` prints it.

use std::fmt;

use super::{Ancillary, Arithmetic, Condition, Instruction, Operand, Program, Register, Size};

/// One line for each instruction.
impl fmt::Display for Program {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, instruction) in self.instructions.iter().enumerate() {
            let separator = if at == 0 { "" } else { "\n" };
            let name = name(instruction);
            let operand = operand(instruction);
            write!(out, "{separator}({at:03}) {name:<8} ")?;
            match instruction {
                Instruction::JumpIf { then, otherwise, .. } => {
                    write!(out, "{operand:<16} jt {then}\tjf {otherwise}")?;
                }
                _ => out.write_str(&operand)?,
            }
        }
        Ok(())
    }
}

impl Ancillary {
    /// All of them, in the order of their numbers.
    pub(super) const ALL: [Self; 16] = [
        Self::Protocol,
        Self::PacketType,
        Self::InterfaceIndex,
        Self::NetlinkAttribute,
        Self::NestedNetlinkAttribute,
        Self::Mark,
        Self::Queue,
        Self::HardwareType,
        Self::Hash,
        Self::Cpu,
        Self::XorX,
        Self::VlanTag,
        Self::VlanTagPresent,
        Self::PayloadOffset,
        Self::Random,
        Self::VlanProtocol,
    ];

    /// Its name in listings.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Protocol => "proto",
            Self::PacketType => "type",
            Self::InterfaceIndex => "ifidx",
            Self::NetlinkAttribute => "nla",
            Self::NestedNetlinkAttribute => "nlan",
            Self::Mark => "mark",
            Self::Queue => "queue",
            Self::HardwareType => "hatype",
            Self::Hash => "rxhash",
            Self::Cpu => "cpu",
            Self::XorX => "xor_x",
            Self::VlanTag => "vlan_tci",
            Self::VlanTagPresent => "vlanp",
            Self::PayloadOffset => "poff",
            Self::Random => "random",
            Self::VlanProtocol => "vlan_tpid",
        }
    }
}

const fn name(instruction: &Instruction) -> &'static str {
    match instruction {
        Instruction::LoadConstant(to, _) | Instruction::LoadLength(to) | Instruction::LoadScratch(to, _) => {
            match to {
                Register::A => "ld",
                Register::X => "ldx",
            }
        }
        Instruction::LoadPacket { size, .. } | Instruction::LoadAncillary { size, .. } => match size {
            Size::Byte => "ldb",
            Size::Half => "ldh",
            Size::Word => "ld",
        },
        Instruction::LoadHeaderLength { .. } => "ldxb",
        Instruction::StoreScratch(Register::A, _) => "st",
        Instruction::StoreScratch(Register::X, _) => "stx",
        Instruction::Arithmetic(operation, _) => match operation {
            Arithmetic::Add => "add",
            Arithmetic::Subtract => "sub",
            Arithmetic::Multiply => "mul",
            Arithmetic::Divide => "div",
            Arithmetic::Modulo => "mod",
            Arithmetic::Or => "or",
            Arithmetic::And => "and",
            Arithmetic::Xor => "xor",
            Arithmetic::ShiftLeft => "lsh",
            Arithmetic::ShiftRight => "rsh",
        },
        Instruction::Negate => "neg",
        Instruction::CopyToX => "tax",
        Instruction::CopyToA => "txa",
        Instruction::Jump(_) => "ja",
        Instruction::JumpIf { condition, .. } => match condition {
            Condition::Equal => "jeq",
            Condition::Greater => "jgt",
            Condition::GreaterOrEqual => "jge",
            Condition::AnyBit => "jset",
        },
        Instruction::ReturnConstant(_) | Instruction::ReturnA => "ret",
    }
}

/// Numbers that are bits are shown in hexadecimal, others as signed decimals.
fn operand(instruction: &Instruction) -> String {
    match *instruction {
        Instruction::LoadConstant(_, value) => format!("#{value:#x}"),
        Instruction::LoadLength(_) => "#pktlen".into(),
        Instruction::LoadScratch(_, cell) | Instruction::StoreScratch(_, cell) => {
            format!("M[{cell}]")
        }
        Instruction::LoadPacket { offset, indexed: false, .. } => format!("[{offset}]"),
        Instruction::LoadPacket { offset, indexed: true, .. } => format!("[x + {offset}]"),
        Instruction::LoadHeaderLength { offset } => format!("4*([{offset}]&0xf)"),
        Instruction::LoadAncillary { ancillary, .. } => format!("[{}]", ancillary.name()),
        Instruction::Arithmetic(_, Operand::X) | Instruction::JumpIf { operand: Operand::X, .. } => {
            "x".into()
        }
        Instruction::Arithmetic(
            Arithmetic::And | Arithmetic::Or | Arithmetic::Xor,
            Operand::Constant(bits),
        )
        | Instruction::JumpIf { operand: Operand::Constant(bits), .. } => format!("#{bits:#x}"),
        Instruction::Arithmetic(_, Operand::Constant(number)) => format!("#{}", number as i32),
        Instruction::Jump(target) => target.to_string(),
        Instruction::ReturnConstant(value) => format!("#{}", value as i32),
        Instruction::Negate | Instruction::CopyToX | Instruction::CopyToA | Instruction::ReturnA => {
            String::new()
        }
    }
}
