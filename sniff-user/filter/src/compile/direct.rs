//! Loads of the direct copy: from memory, with the checks that the verifier asks for.

use super::{
    super::{
        cbpf::{Instruction as Classic, Size},
        ebpf::{Condition, Operation, Register},
    },
    Copy,
    assembler::Label,
    bounds::{Access, LIMIT},
    emit::{A, DATA, DATA_AT_X, DATA_END, Emitter, X},
};

impl Emitter<'_> {
    /// Emits a load from the packet, at `at`, that is not left to the general copy.
    pub fn load_direct(&mut self, at: usize, load: Classic, access: Access) {
        let base = match load {
            Classic::LoadPacket { indexed: true, .. } => DATA_AT_X,
            _ => DATA,
        };
        if let Access::Check { bytes, base_known } = access {
            let general = Label::At(Copy::General, at);
            if base == DATA_AT_X && !base_known {
                self.find_index(general);
            }
            self.check(base, bytes, general);
        }
        match load {
            Classic::LoadPacket { size, offset, .. } => {
                self.load_memory(size, A, base, offset as i16);
                self.host_order(A, size);
            }
            Classic::LoadHeaderLength { offset } => {
                self.load_memory(Size::Byte, X, base, offset as i16);
                self.header_length();
            }
            _ => unreachable!("bounds gives access to loads only"),
        }
    }

    /// Adds X to the packet's start, as far as the verifier lets an unknown number be added.
    fn find_index(&mut self, general: Label) {
        self.jump_if64(X, Condition::Greater, LIMIT as i32, general);
        self.alu64(Operation::Move, DATA_AT_X, DATA);
        self.alu64(Operation::Add, DATA_AT_X, X);
    }

    fn check(&mut self, base: Register, bytes: u32, general: Label) {
        self.alu64(Operation::Move, Register::R1, base);
        self.alu64(Operation::Add, Register::R1, bytes as i32);
        self.jump_if64(Register::R1, Condition::Greater, DATA_END, general);
    }

    /// Makes X, the first byte of an IPv4 header, the header's length.
    pub fn header_length(&mut self) {
        self.alu32(Operation::And, X, 15);
        self.alu32(Operation::ShiftLeft, X, 2);
    }
}
