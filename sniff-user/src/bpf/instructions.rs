//! Instructions as aya takes them.

use aya_obj::generated::{
    BPF_ALU64, BPF_DW, BPF_IMM, BPF_K, BPF_LD, BPF_LDX, BPF_MEM, BPF_MOV, BPF_X, bpf_insn,
};
use sniff_filter::ebpf::Encoded;

pub(super) fn encoded(instruction: Encoded) -> bpf_insn {
    let Encoded { code, dst, src, off, imm } = instruction;
    bpf_insn { code, _bitfield_align_1: [], _bitfield_1: bpf_insn::new_bitfield_1(dst, src), off, imm }
}

/// `register = value`; values here are below 2^31, so that the sign extension of BPF_K does nothing.
pub(super) fn load_u32(register: u8, value: u32) -> bpf_insn {
    instruction((BPF_ALU64 | BPF_MOV | BPF_K) as u8, register, value as i32)
}

/// `register = value`, which takes the room of two instructions.
pub(super) fn load_u64(register: u8, value: u64) -> [bpf_insn; 2] {
    [
        instruction((BPF_LD | BPF_IMM | BPF_DW) as u8, register, value as u32 as i32),
        instruction(0, 0, (value >> 32) as u32 as i32),
    ]
}

pub(super) fn instruction(code: u8, dst: u8, imm: i32) -> bpf_insn {
    encoded(Encoded { code, dst, src: 0, off: 0, imm })
}

/// `to = *(size *)(from + offset)`
pub(super) fn load(size: u32, to: u8, from: u8, offset: i16) -> bpf_insn {
    insn(BPF_LDX | BPF_MEM | size, to, from, offset, 0)
}

/// `to = from`
pub(super) fn mov(to: u8, from: u8) -> bpf_insn {
    insn(BPF_ALU64 | BPF_MOV | BPF_X, to, from, 0, 0)
}

pub(super) fn insn(code: u32, dst: u8, src: u8, off: i16, imm: i32) -> bpf_insn {
    encoded(Encoded { code: code as u8, dst, src, off, imm })
}
