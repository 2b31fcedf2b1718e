//! A machine for tests: runs a fragment on a packet as the kernel would, and panics at what its verifier refuses.

use std::collections::HashMap;

use crate::{
    cbpf::Size,
    ebpf::{Condition, Helper, Instruction, Operand, Operation, Register, Width},
};

/// Where things are in the machine's memory, far from each other.
const CONTEXT: u64 = 0x1000_0000;
const DATA: u64 = 0x2000_0000;
const STACK_END: u64 = 0x3000_0000;
/// As much stack as the compiler says it uses.
const STACK_LEN: u64 = 80;

/// A packet as the kernel holds it.
#[derive(Clone, Copy, Debug)]
pub struct Packet<'a> {
    /// Its bytes without the tag.
    pub bytes: &'a [u8],
    /// How many of them are in its linear part.
    pub linear: usize,
    /// Ethernet type and control information.
    pub tag: Option<(u16, u16)>,
    /// `PACKET_HOST` and so on.
    pub packet_type: u32,
}

/// Whether execution goes on behind the fragment.
pub fn matches(fragment: &[Instruction], packet: Packet<'_>) -> bool {
    let mut machine = Machine { packet, registers: [None; 11], stack: HashMap::new() };
    machine.registers[Register::R1 as usize] = Some(CONTEXT);
    machine.registers[Register::R10 as usize] = Some(STACK_END);
    let mut at = 0;
    while let Some(&instruction) = fragment.get(at) {
        at += 1;
        match instruction {
            Instruction::Exit => {
                assert_eq!(machine.get(Register::R0), u64::MAX, "the verdict is not -1");
                return false;
            }
            Instruction::Jump { distance } => at += usize::try_from(distance).unwrap(),
            Instruction::JumpIf { width, condition, left, right, distance } => {
                let (left, right) = (machine.value(left.into(), width), machine.value(right, width));
                if holds(condition, left, right) {
                    at += usize::try_from(distance).unwrap();
                }
            }
            other => machine.step(other),
        }
    }
    assert_eq!(at, fragment.len(), "a jump beyond the fragment's end");
    assert_eq!(machine.get(Register::R1), CONTEXT, "r1 is not the packet");
    true
}

struct Machine<'a> {
    packet: Packet<'a>,
    /// `None` while there is nothing in it.
    registers: [Option<u64>; 11],
    stack: HashMap<u64, u8>,
}

impl Machine<'_> {
    fn get(&self, register: Register) -> u64 {
        self.registers[register as usize].unwrap_or_else(|| panic!("{register:?} holds nothing"))
    }

    fn set(&mut self, register: Register, value: u64) {
        assert_ne!(register, Register::R10);
        self.registers[register as usize] = Some(value);
    }

    fn value(&self, operand: Operand, width: Width) -> u64 {
        let value = match operand {
            Operand::Register(register) => self.get(register),
            Operand::Constant(constant) => i64::from(constant) as u64,
        };
        match width {
            Width::Bits32 => u64::from(value as u32),
            Width::Bits64 => value,
        }
    }

    fn step(&mut self, instruction: Instruction) {
        match instruction {
            Instruction::Alu { width, operation, to, operand } => {
                let right = self.value(operand, width);
                let result = match operation {
                    Operation::Move => right,
                    _ => compute(operation, width, self.value(to.into(), width), right),
                };
                self.set(to, result);
            }
            Instruction::Negate { to } => {
                let value = self.get(to) as u32;
                self.set(to, value.wrapping_neg().into());
            }
            Instruction::FromBigEndian { to, size } => {
                let value = self.get(to);
                let swapped = match size {
                    Size::Byte => unreachable!("one byte has no order"),
                    Size::Half => u16::from_be(value as u16).into(),
                    Size::Word => u32::from_be(value as u32).into(),
                };
                self.set(to, swapped);
            }
            Instruction::Load { size, to, base, offset } => {
                let address = self.get(base).wrapping_add_signed(offset.into());
                let value = self.read(address, u64::from(size.bytes()));
                self.set(to, value);
            }
            Instruction::Store { size, base, offset, from } => {
                let address = self.get(base).wrapping_add_signed(offset.into());
                let value = self.get(from).to_le_bytes();
                self.write_stack(address, &value[..size.bytes() as usize]);
            }
            Instruction::Call(Helper::SkbLoadBytes) => self.skb_load_bytes(),
            Instruction::Call(_) => self.return_from_call(0),
            Instruction::Jump { .. } | Instruction::JumpIf { .. } | Instruction::Exit => {
                unreachable!("the caller's")
            }
        }
    }

    fn read(&self, address: u64, len: u64) -> u64 {
        if (CONTEXT..CONTEXT + 192).contains(&address) {
            return self.field(address - CONTEXT);
        }
        let bytes: Vec<u8> = if address < DATA + 0x10_0000 {
            let start = usize::try_from(address - DATA).unwrap();
            let linear = &self.packet.bytes[..self.packet.linear];
            linear[start..start + len as usize].to_vec()
        } else {
            assert_eq!(address % len, 0, "not aligned on the stack");
            (address..address + len).map(|at| self.stack[&at]).collect()
        };
        bytes.iter().rev().fold(0, |sum, &byte| sum << 8 | u64::from(byte))
    }

    /// `struct __sk_buff` of linux/bpf.h.
    fn field(&self, offset: u64) -> u64 {
        let Packet { bytes, linear, tag, packet_type } = self.packet;
        match offset {
            0 => bytes.len() as u64,
            4 => packet_type.into(),
            20 => tag.is_some().into(),
            24 => tag.map_or(0, |(_, control)| control).into(),
            28 => tag.map_or(0, |(kind, _)| kind.to_be()).into(),
            76 => DATA,
            80 => DATA + linear as u64,
            _ => 0,
        }
    }

    fn write_stack(&mut self, address: u64, bytes: &[u8]) {
        for (at, &byte) in (address..).zip(bytes) {
            assert!((STACK_END - STACK_LEN..STACK_END).contains(&at), "not on the stack");
            self.stack.insert(at, byte);
        }
    }

    fn skb_load_bytes(&mut self) {
        assert_eq!(self.get(Register::R1), CONTEXT);
        let offset = self.get(Register::R2) as u32 as usize;
        let (to, len) = (self.get(Register::R3), self.get(Register::R4) as usize);
        match self.packet.bytes.get(offset..offset + len) {
            Some(bytes) => {
                self.write_stack(to, bytes);
                self.return_from_call(0);
            }
            None => {
                // The kernel clears the memory.
                self.write_stack(to, &vec![0; len]);
                self.return_from_call(-14_i64 as u64);
            }
        }
    }

    fn return_from_call(&mut self, value: u64) {
        self.registers[..6].fill(None);
        self.set(Register::R0, value);
    }
}

fn compute(operation: Operation, width: Width, left: u64, right: u64) -> u64 {
    let (bits, mask) = match width {
        Width::Bits32 => (32, u64::from(u32::MAX)),
        Width::Bits64 => (64, u64::MAX),
    };
    let result = match operation {
        Operation::Move => right,
        Operation::Add => left.wrapping_add(right),
        Operation::Subtract => left.wrapping_sub(right),
        Operation::Multiply => left.wrapping_mul(right),
        Operation::Divide => left / right,
        Operation::Modulo => left % right,
        Operation::Or => left | right,
        Operation::And => left & right,
        Operation::Xor => left ^ right,
        Operation::ShiftLeft => left << (right % bits),
        Operation::ShiftRight => left >> (right % bits),
    };
    result & mask
}

fn holds(condition: Condition, left: u64, right: u64) -> bool {
    match condition {
        Condition::Equal => left == right,
        Condition::NotEqual => left != right,
        Condition::Greater => left > right,
        Condition::GreaterOrEqual => left >= right,
        Condition::Less => left < right,
        Condition::LessOrEqual => left <= right,
        Condition::AnyBit => left & right != 0,
    }
}
