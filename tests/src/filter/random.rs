//! Random programs of classic BPF that the kernel takes: every instruction, forward jumps, loads
//! around the end of a packet.

use fastrand::Rng;

use super::engines::Classic;

// include/uapi/linux/bpf_common.h and filter.h
const LD: u16 = 0x00;
const LDX: u16 = 0x01;
const ST: u16 = 0x02;
const STX: u16 = 0x03;
const ALU: u16 = 0x04;
const JMP: u16 = 0x05;
const RET: u16 = 0x06;
const MISC: u16 = 0x07;
const CLASS: u16 = 0x07;
const MODE: u16 = 0xe0;
const WORD: u16 = 0x00;
const HALF: u16 = 0x08;
const BYTE: u16 = 0x10;
const IMM: u16 = 0x00;
const ABS: u16 = 0x20;
const IND: u16 = 0x40;
const MEM: u16 = 0x60;
const LEN: u16 = 0x80;
const MSH: u16 = 0xa0;
const X: u16 = 0x08;
const RET_A: u16 = 0x10;
const TAX: u16 = 0x00;
const TXA: u16 = 0x80;
const DIV: u16 = 0x30;
const LSH: u16 = 0x60;
const RSH: u16 = 0x70;
const NEG: u16 = 0x80;
const MOD: u16 = 0x90;
/// ADD, SUB, MUL, DIV, OR, AND, LSH, RSH, NEG, MOD, XOR.
const OPERATIONS: [u16; 11] = [0x00, 0x10, 0x20, DIV, 0x40, 0x50, LSH, RSH, NEG, MOD, 0xa0];
const JA: u16 = 0x00;
/// JEQ, JGT, JGE, JSET.
const CONDITIONS: [u16; 4] = [0x10, 0x20, 0x30, 0x40];

/// Scratch cells that every program sets first; the kernel takes loads from no others.
const CELLS: u32 = 3;

/// How far a program goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manners {
    /// Only where the kernel and libpcap's interpreter agree: no shift by a variable, and no
    /// offset that can pass 32 bits.
    Tame,
    /// Wherever the kernel lets it.
    Wild,
}

/// A random program.
pub fn program(rng: &mut Rng, manners: Manners) -> Vec<Classic> {
    let mut program = Vec::new();
    for cell in 0..CELLS {
        program.push(statement(LD | IMM, constant(rng)));
        program.push(statement(ST, cell));
    }
    let end = program.len() + rng.usize(1..40);
    while program.len() < end {
        let left = end - program.len();
        instruction(rng, manners, left, &mut program);
    }
    program.truncate(end);
    if manners == Manners::Tame {
        bound_offsets(&mut program);
    }
    program.push(match rng.u8(..4) {
        0 => statement(RET | RET_A, 0),
        1 => statement(RET, 0),
        _ => statement(RET, 0x4_0000),
    });
    program
}

/// Replaces X as a part of an offset where something else than [`bounded_x`] may come before.
fn bound_offsets(program: &mut [Classic]) {
    let mut targets = vec![false; program.len() + 1];
    targets[0] = true;
    for (place, instruction) in program.iter().enumerate() {
        let next = place + 1;
        match *instruction {
            Classic { code, k, .. } if code == JMP | JA => targets[next + k as usize] = true,
            Classic { code, jt, jf, .. } if code & CLASS == JMP => {
                targets[next + usize::from(jt)] = true;
                targets[next + usize::from(jf)] = true;
            }
            _ => {}
        }
    }
    for (instruction, target) in program.iter_mut().zip(targets) {
        if target && instruction.code & (CLASS | MODE) == LD | IND {
            instruction.code ^= ABS | IND;
        }
    }
}

/// Adds an instruction, or two that belong together, where `left` more follow before the last.
fn instruction(rng: &mut Rng, manners: Manners, left: usize, program: &mut Vec<Classic>) {
    let size = pick(rng, &[WORD, HALF, BYTE]);
    match rng.u8(..20) {
        0..4 => program.push(statement(LD | size | ABS, offset(rng))),
        4..6 => {
            if manners == Manners::Tame {
                program.push(bounded_x(rng));
            }
            program.push(statement(LD | size | IND, offset(rng)));
        }
        6 => program.push(statement(LDX | BYTE | MSH, offset(rng))),
        7 => program.push(statement(pick(rng, &[LD, LDX]) | IMM, constant(rng))),
        8 => program.push(statement(pick(rng, &[LD, LDX]) | LEN, 0)),
        9 => program.push(statement(pick(rng, &[LD, LDX]) | MEM, rng.u32(..CELLS))),
        10 => program.push(statement(pick(rng, &[ST, STX]), rng.u32(..16))),
        11 | 12 => program.push(statement(MISC | pick(rng, &[TAX, TXA]), 0)),
        13..16 => program.push(arithmetic(rng, manners)),
        16..19 => program.push(jump(rng, left)),
        _ => program.push(match rng.u8(..8) {
            0 => statement(RET, pick(rng, &[0, 0x4_0000])),
            1 => statement(RET | RET_A, 0),
            _ => statement(ALU | NEG, 0),
        }),
    }
}

/// Something that leaves a small number in X.
fn bounded_x(rng: &mut Rng) -> Classic {
    match rng.u8(..3) {
        0 => statement(LDX | BYTE | MSH, offset(rng)),
        1 => statement(LDX | LEN, 0),
        _ => statement(LDX | IMM, pick(rng, &[0, 1, 3, 7, 12, 14, 33, 60])),
    }
}

fn arithmetic(rng: &mut Rng, manners: Manners) -> Classic {
    let operation = pick(rng, &OPERATIONS);
    let shift = matches!(operation, LSH | RSH);
    if operation == NEG {
        return statement(ALU | NEG, 0);
    }
    if rng.bool() && !(shift && manners == Manners::Tame) {
        return statement(ALU | operation | X, 0);
    }
    let operand = match operation {
        LSH | RSH => rng.u32(..32),
        DIV | MOD => constant(rng).max(1),
        _ => constant(rng),
    };
    statement(ALU | operation, operand)
}

fn jump(rng: &mut Rng, left: usize) -> Classic {
    // `left` counts this one; the farthest target is the last instruction of the program.
    let farthest = u8::try_from(left - 1).expect("a short program");
    if rng.u8(..8) == 0 {
        return statement(JMP | JA, rng.u8(..=farthest).into());
    }
    let source = pick(rng, &[0, 0, X]);
    Classic {
        code: JMP | pick(rng, &CONDITIONS) | source,
        jt: rng.u8(..=farthest),
        jf: rng.u8(..=farthest),
        k: if source == X { 0 } else { constant(rng) },
    }
}

/// Numbers with which something happens.
fn constant(rng: &mut Rng) -> u32 {
    match rng.u8(..4) {
        0 => rng.u32(..8),
        1 => rng.u32(..256),
        2 => pick(rng, &[0x800, 0x86dd, 0xffff, 0x7fff_ffff, 0x8000_0000, 0xffff_ffff]),
        _ => rng.u32(..),
    }
}

/// Offsets in a packet and just behind it.
fn offset(rng: &mut Rng) -> u32 {
    match rng.u8(..16) {
        0 => rng.u32(..4000),
        1 => 0x7fff_fff0 + rng.u32(..16),
        2 => 0x7ff0 + rng.u32(..32),
        // Around a VLAN tag.
        3..6 => rng.u32(6..20),
        _ => rng.u32(..90),
    }
}

fn statement(code: u16, k: u32) -> Classic {
    Classic { code, jt: 0, jf: 0, k }
}

fn pick<T: Copy>(rng: &mut Rng, choices: &[T]) -> T {
    choices[rng.usize(..choices.len())]
}
