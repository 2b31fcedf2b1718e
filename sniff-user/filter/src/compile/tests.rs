//! Fragments against the classic program that they come from, on packets in every form the kernel may hold them in.

use super::{
    machine::{self, Packet},
    *,
};
use crate::{
    cbpf::{self, Reason},
    ebpf::{Operand, Operation, Register, Width},
    expression,
};

const ETHERNET: Surroundings = Surroundings { link_type: LinkType::Ethernet, outgoing: false };

const EXPRESSIONS: [&str; 20] = [
    "",
    "tcp port 443",
    "udp portrange 50-60 or icmp",
    "host 10.1.2.3 and not port 80",
    "net fd00::/16",
    "vlan 5",
    "vlan 5 and vlan 6 and udp port 53",
    "mpls 100 and ip",
    "pppoes 7 and ip",
    "less 60",
    "len = 64",
    "tcp[tcpflags] & (tcp-syn|tcp-fin) != 0",
    "ether[10:4] = 0x00018100",
    "ether[14:4] = 0x00050800",
    "ether[ip[8] & 15:4] > 0x10000",
    "ip[8] << ip[9] > 10",
    "ip[0] / ip[1] = 1",
    "ip[0] % ip[9] = 1",
    "-ip[8] = -64",
    "ether[len - 4:4] > 0",
];

fn compiled(text: &str) -> (Program, Fragment) {
    let program = expression::compile(text, LinkType::Ethernet, true).unwrap();
    let fragment = fragment(&program, ETHERNET).unwrap();
    (program, fragment)
}

/// The same bytes as the kernel holds them with a tag and without, and wherever the linear part ends.
fn assert_same(program: &Program, fragment: &Fragment, bytes: &[u8]) {
    for tag in [None, Some((0x8100, 0xe005)), Some((0x88a8, 0))] {
        let mut file = bytes.to_vec();
        if let Some((kind, control)) = tag {
            file.splice(12..12, [u16::to_be_bytes(kind), u16::to_be_bytes(control)].concat());
        }
        let expected = program.matches(&file, file.len() as u32, false);
        for linear in (14..bytes.len()).step_by(3).chain([bytes.len()]) {
            let packet = Packet { bytes, linear, tag, packet_type: 0 };
            let verdict = machine::matches(fragment.instructions(), packet);
            assert_eq!(verdict, expected, "{program}\n{fragment}\n{packet:?}");
            // Packets that match end on the detour, and others come past it.
            let passed = machine::matches(&with_dead_end(fragment), packet);
            assert_eq!(passed, !expected, "{program}\n{fragment}\n{packet:?}");
        }
    }
}

/// A fragment whose detour leads nowhere.
fn with_dead_end(fragment: &Fragment) -> Vec<Instruction> {
    let set =
        |to, operand| Instruction::Alu { width: Width::Bits64, operation: Operation::Move, to, operand };
    let dead_end = [set(Register::R0, Operand::Constant(-1)), Instruction::Exit];
    let mut instructions = fragment.detour(dead_end.len()).unwrap();
    instructions.extend(dead_end);
    instructions.push(set(Register::R1, Operand::Register(Register::R6)));
    instructions
}

/// A generator of numbers (xorshift64, Marsaglia 2003), so that failures can be had again.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, limit: u32) -> u32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 32) as u32 % limit
    }

    fn one_of<T: std::marker::Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u32) as usize]
    }

    fn packet(&mut self) -> Vec<u8> {
        let len = 14 + self.below(80);
        let mut packet: Vec<u8> = (0..len).map(|_| self.below(256) as u8).collect();
        let kind = self.one_of(&[0x0800_u16, 0x86dd, 0x8100, 0x8847, 0x8864, 0x0806]);
        packet[12..14].copy_from_slice(&kind.to_be_bytes());
        if let Some(header) = packet.get_mut(14..24) {
            header[0] = self.one_of(&[0x45, 0x46, 0x60]);
            header[6..8].fill(0);
            header[9] = self.one_of(&[1, 6, 17]);
        }
        packet
    }

    /// A program of which nothing is known but that it is valid.
    fn program(&mut self) -> Program {
        loop {
            let len = 2 + self.below(25);
            let mut encoded: Vec<_> = (0..len).map(|at| self.instruction(len - at)).collect();
            let (code, k) = (self.one_of(&[0x06, 0x16]), self.below(2));
            encoded.push(cbpf::Encoded { code, jt: 0, jf: 0, k });
            match Program::decode(&encoded) {
                Ok(program) => return program,
                Err(invalid) => {
                    assert!(matches!(invalid.reason, Reason::CellNotWritten(_)), "{invalid}");
                }
            }
        }
    }

    /// `left` says how many instructions there are to come, for jumps.
    fn instruction(&mut self, left: u32) -> cbpf::Encoded {
        let constant = match self.below(3) {
            0 => 1 << self.below(32),
            1 => u32::MAX - self.below(20),
            _ => 1 + self.below(70),
        };
        let operation = self.one_of(&[0x00, 0x10, 0x20, 0x30, 0x40, 0x50, 0x90, 0xa0]);
        let condition = self.one_of(&[0x10, 0x20, 0x30, 0x40]);
        let size = self.one_of(&[0x00, 0x08, 0x10]);
        let (code, k) = match self.below(17) {
            0 => (self.one_of(&[0x00, 0x01]), constant),
            1 => (self.one_of(&[0x80, 0x81]), 0),
            2 => (self.one_of(&[0x60, 0x61]), self.below(3)),
            3..5 => (self.one_of(&[0x02, 0x03]), self.below(3)),
            5..8 => (0x20 | size, self.below(60)),
            8..10 => (0x40 | size, self.below(24)),
            10 => (0xb1, self.below(40)),
            11 => (0x04 | operation | self.one_of(&[0, 8]), constant),
            12 => (self.one_of(&[0x64, 0x74, 0x6c, 0x7c]), self.below(32)),
            13 => (self.one_of(&[0x84, 0x07, 0x87]), 0),
            14 => (0x05, self.below(left)),
            _ => (0x05 | condition | self.one_of(&[0, 8]), constant),
        };
        cbpf::Encoded { code, jt: self.below(left.min(256)) as u8, jf: self.below(left.min(256)) as u8, k }
    }
}

#[test]
fn expressions_mean_the_same() {
    let mut numbers = Numbers(0x5eed);
    for text in EXPRESSIONS {
        let (program, fragment) = compiled(text);
        for _ in 0..60 {
            assert_same(&program, &fragment, &numbers.packet());
        }
    }
}

#[test]
fn random_programs_mean_the_same() {
    let mut numbers = Numbers(0xbadc_0ffe);
    let mut compared = 0;
    while compared < 1_000 {
        let program = numbers.program();
        match fragment(&program, ETHERNET) {
            Ok(fragment) => assert_same(&program, &fragment, &numbers.packet()),
            Err(Error::NeverMatches) => continue,
            Err(error) => panic!("{error}\n{program}"),
        }
        compared += 1;
    }
}

#[test]
fn one_exit_and_only_forward_jumps_that_reach_everything() {
    for text in EXPRESSIONS {
        let (_, fragment) = compiled(text);
        let code = fragment.instructions();
        let exits = code.iter().filter(|&&instruction| instruction == Instruction::Exit).count();
        assert_eq!(exits, usize::from(!text.is_empty()), "{text}");
        let mut reached = vec![false; code.len() + 1];
        reached[0] = true;
        for (at, &instruction) in code.iter().enumerate() {
            assert!(reached[at], "{text}: {at} cannot be reached\n{fragment}");
            match instruction {
                Instruction::Exit => {}
                Instruction::Jump { distance } => {
                    reached[at + 1 + usize::try_from(distance).unwrap()] = true;
                }
                Instruction::JumpIf { distance, .. } => {
                    reached[at + 1 + usize::try_from(distance).unwrap()] = true;
                    reached[at + 1] = true;
                }
                _ => reached[at + 1] = true,
            }
        }
        assert!(reached[code.len()], "{text}");
    }
}

#[test]
fn the_direct_copy_calls_nothing() {
    for text in EXPRESSIONS {
        let (_, fragment) = compiled(text);
        let shift = Instruction::Alu {
            width: Width::Bits64,
            operation: Operation::Move,
            to: Register::R7,
            operand: Operand::Constant(4),
        };
        let mut direct = fragment.instructions().split(|&instruction| instruction == shift);
        let calls =
            direct.next().unwrap().iter().filter(|instruction| matches!(instruction, Instruction::Call(_)));
        assert_eq!(calls.count(), 0, "{text}");
        assert!(direct.next().is_some(), "{text}: no general copy");
    }
}

#[test]
fn direction_is_the_hooks() {
    let bytes = &[0; 60];
    for (text, outgoing, expected) in [
        ("inbound", false, true),
        ("inbound", true, false),
        ("outbound", false, false),
        ("outbound", true, true),
    ] {
        let program = expression::compile(text, LinkType::Ethernet, true).unwrap();
        let fragment = fragment(&program, Surroundings { outgoing, ..ETHERNET }).unwrap();
        let packet = Packet { bytes, linear: 60, tag: None, packet_type: 0 };
        assert_eq!(machine::matches(fragment.instructions(), packet), expected, "{text}");
    }
}

fn decode(numbers: &[(u16, u32)]) -> Program {
    let encoded: Vec<_> = numbers.iter().map(|&(code, k)| cbpf::Encoded { code, jt: 0, jf: 0, k }).collect();
    Program::decode(&encoded).unwrap()
}

#[test]
fn meta_data_that_classifiers_have_and_have_not() {
    for index in 0..16 {
        let program = decode(&[(0x20, 0xffff_f000 + 4 * index), (0x16, 0)]);
        let refused = fragment(&program, ETHERNET).err();
        let expected = match index {
            3 => Some(Error::NotAvailable(Ancillary::NetlinkAttribute)),
            4 => Some(Error::NotAvailable(Ancillary::NestedNetlinkAttribute)),
            7 => Some(Error::NotAvailable(Ancillary::HardwareType)),
            13 => Some(Error::NotAvailable(Ancillary::PayloadOffset)),
            _ => None,
        };
        assert_eq!(refused, expected);
    }
}

#[test]
fn shifts_beyond_the_width_give_0() {
    for (value, shift) in [(1, 0x6c), (1 << 31, 0x7c)] {
        for bits in [0, 31, 32, 33, 64, u32::MAX] {
            let program = decode(&[(0x00, value), (0x01, bits), (shift, 0), (0x16, 0)]);
            assert_eq!(program.matches(&[0; 14], 14, false), bits < 32);
            assert_same(&program, &fragment(&program, ETHERNET).unwrap(), &[0; 14]);
        }
    }
}

#[test]
fn what_never_matches_is_an_error() {
    assert_eq!(fragment(&decode(&[(0x06, 0)]), ETHERNET), Err(Error::NeverMatches));
}

#[test]
fn what_is_too_long_is_an_error() {
    let mut numbers = vec![(0x28, 20); 4_000];
    numbers.push((0x16, 0));
    let refused = fragment(&decode(&numbers), ETHERNET);
    assert!(matches!(refused, Err(Error::TooLong(_))), "{refused:?}");
}

#[test]
fn the_whole_of_a_small_one() {
    let raw = Surroundings { link_type: LinkType::Raw, ..ETHERNET };
    let program = expression::compile("less 100", LinkType::Raw, true).unwrap();
    assert_eq!(
        fragment(&program, raw).unwrap().to_string(),
        "   0: r6 = r1
   1: r0 = 0x0
   2: r9 = 0x0
   3: r7 = 0x0
   4: r8 = 0x0
   5: r2 = *(u32 *)(r6 +76)
   6: r3 = *(u32 *)(r6 +80)
   7: r0 = *(u32 *)(r6 +0)
   8: w0 += w7
   9: if w0 > 0x64 goto +1
  10: goto +2
  11: r0 = -1
  12: exit
  13: r1 = r6"
    );
}
