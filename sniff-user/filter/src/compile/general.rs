//! Loads of the general copy: through a helper, which reads the linear part and the fragments alike, and with a VLAN
//! tag at its place.

use super::{
    super::{
        cbpf::{Instruction as Classic, Size},
        ebpf::{Condition, Helper, Instruction, Operand, Operation, Register},
    },
    assembler::Label,
    emit::{A, Emitter, LOADED, PACKET, SAVED_A, SAVED_OFFSET, SHIFT, STACK, TAG, X},
};

/// Where a VLAN tag is in an Ethernet packet, and where it ends.
const TAG_START: u32 = 12;
const TAG_END: u32 = 16;
/// The helper's second argument.
const OFFSET: Register = Register::R2;

impl Emitter<'_> {
    /// Emits a load from the packet.
    pub fn load_general(&mut self, load: Classic) {
        match load {
            Classic::LoadPacket { size, offset, indexed: true } => {
                self.load_indexed(offset, size);
                self.loaded(size, A);
            }
            Classic::LoadPacket { size, offset, .. } => {
                self.load_constant(offset, size);
                self.loaded(size, A);
            }
            Classic::LoadHeaderLength { offset } => {
                self.store(Size::Word, SAVED_A, A);
                self.load_constant(offset, Size::Byte);
                self.loaded(Size::Byte, X);
                self.header_length();
                self.load_memory(Size::Word, A, STACK, SAVED_A);
            }
            _ => unreachable!("no load from the packet"),
        }
    }

    fn loaded(&mut self, size: Size, to: Register) {
        self.load_memory(size, to, STACK, LOADED);
        self.host_order(to, size);
    }

    fn load_constant(&mut self, offset: u32, size: Size) {
        if offset >= TAG_END || offset + size.bytes() <= TAG_START {
            self.offset(offset);
            self.load_bytes(LOADED, size);
            return;
        }
        let (whole, done) = (self.code.local(), self.code.local());
        self.jump_if64(SHIFT, Condition::Equal, 0, whole);
        for (place, offset) in (LOADED..).zip(offset..offset + size.bytes()) {
            if (TAG_START..TAG_END).contains(&offset) {
                let bits = (TAG_END - 1 - offset) * 8;
                self.store_from_tag(place, bits as i32);
            } else {
                self.offset(offset);
                self.load_bytes(place, Size::Byte);
            }
        }
        self.code.jump(done);
        self.code.place(whole);
        self.alu64(Operation::Move, OFFSET, offset as i32);
        self.load_bytes(LOADED, size);
        self.code.place(done);
    }

    /// Sets [`OFFSET`] to where the packet has the byte that is at `offset` with the tag in its place.
    fn offset(&mut self, offset: u32) {
        self.alu64(Operation::Move, OFFSET, offset as i32);
        if offset >= TAG_END {
            self.alu64(Operation::Subtract, OFFSET, SHIFT);
        }
    }

    fn load_indexed(&mut self, offset: u32, size: Size) {
        self.alu64(Operation::Move, OFFSET, X);
        self.alu64(Operation::Add, OFFSET, offset as i32);
        // The helper would take the lower half of what does not fit.
        self.jump_if64(OFFSET, Condition::Greater, i32::MAX, Label::NoMatch);
        if offset >= TAG_END {
            self.alu64(Operation::Subtract, OFFSET, SHIFT);
            self.load_bytes(LOADED, size);
            return;
        }
        let (behind, whole, done) = (self.code.local(), self.code.local(), self.code.local());
        self.jump_if64(SHIFT, Condition::Equal, 0, whole);
        self.jump_if64(OFFSET, Condition::GreaterOrEqual, TAG_END as i32, behind);
        let before = TAG_START - size.bytes();
        self.jump_if64(OFFSET, Condition::LessOrEqual, before as i32, whole);
        self.store(Size::Word, SAVED_OFFSET, OFFSET);
        for index in 0..size.bytes() as i16 {
            self.load_memory(Size::Word, OFFSET, STACK, SAVED_OFFSET);
            self.alu64(Operation::Add, OFFSET, i32::from(index));
            self.load_byte_around_tag(LOADED + index);
        }
        self.code.jump(done);
        self.code.place(behind);
        self.alu64(Operation::Subtract, OFFSET, SHIFT);
        self.code.place(whole);
        self.load_bytes(LOADED, size);
        self.code.place(done);
    }

    /// Loads the byte at [`OFFSET`], which is in or next to the tag. Rare, so it need not be fast.
    fn load_byte_around_tag(&mut self, place: i16) {
        let (behind, packet, done) = (self.code.local(), self.code.local(), self.code.local());
        self.jump_if64(OFFSET, Condition::Less, TAG_START as i32, packet);
        self.jump_if64(OFFSET, Condition::GreaterOrEqual, TAG_END as i32, behind);
        let bits = Register::R3;
        self.alu64(Operation::Move, bits, TAG_END as i32 - 1);
        self.alu64(Operation::Subtract, bits, OFFSET);
        self.alu64(Operation::ShiftLeft, bits, 3);
        self.store_from_tag(place, bits);
        self.code.jump(done);
        self.code.place(behind);
        self.alu64(Operation::Subtract, OFFSET, SHIFT);
        self.code.place(packet);
        self.load_bytes(place, Size::Byte);
        self.code.place(done);
    }

    /// Stores the tag's byte that `bits` follow.
    fn store_from_tag(&mut self, place: i16, bits: impl Into<Operand>) {
        let byte = Register::R1;
        self.alu64(Operation::Move, byte, TAG);
        self.alu64(Operation::ShiftRight, byte, bits);
        self.store(Size::Byte, place, byte);
    }

    /// Calls the helper for bytes from [`OFFSET`]. Where it has none, the packet does not match.
    fn load_bytes(&mut self, to: i16, size: Size) {
        self.alu64(Operation::Move, Register::R1, PACKET);
        self.alu64(Operation::Move, Register::R3, STACK);
        self.alu64(Operation::Add, Register::R3, i32::from(to));
        self.alu64(Operation::Move, Register::R4, size.bytes() as i32);
        self.code.push(Instruction::Call(Helper::SkbLoadBytes));
        self.jump_if64(Register::R0, Condition::NotEqual, 0, Label::NoMatch);
    }
}
