//! What both copies have in common: everything but loads.
//!
//! | Register | Direct copy | General copy |
//! |---|---|---|
//! | r0 | A | A |
//! | r1 | for a moment | arguments of helpers |
//! | r2 | start of the packet | ” |
//! | r3 | end of the packet's linear part | ” |
//! | r4 | start of the packet plus X, once checked | ” |
//! | r6 | the packet's `__sk_buff` | the same |
//! | r7 | 0 | by how much a VLAN tag shifts what is behind it: 4 or 0 |
//! | r8 | 0 | the tag: Ethernet type and control information |
//! | r9 | X | X |
//!
//! A and X are always below 2^32: only 32-bit operations and loads write them.

use sniff_pcapng::LinkType;

use super::{
    super::{
        cbpf::{self, Ancillary, Instruction as Classic, Program, Size},
        ebpf::{Condition, Helper, Instruction, Operand, Operation, Register, Width},
    },
    Copy, Error, Surroundings,
    assembler::{Assembler, Label},
    bounds::{self, Access},
};

pub const A: Register = Register::R0;
pub const DATA: Register = Register::R2;
pub const DATA_END: Register = Register::R3;
pub const DATA_AT_X: Register = Register::R4;
pub const PACKET: Register = Register::R6;
pub const SHIFT: Register = Register::R7;
pub const TAG: Register = Register::R8;
pub const X: Register = Register::R9;
/// The frame pointer: stack offsets are from here, downward.
pub const STACK: Register = Register::R10;

/// Where a load's bytes are put, 4 of them.
pub const LOADED: i16 = -4;
/// Where A is kept through a call, 4 bytes.
pub const SAVED_A: i16 = -8;
/// Where an offset is kept through a call, 4 bytes.
pub const SAVED_OFFSET: i16 = -12;
/// Behind the last scratch cell.
const CELLS_END: i16 = -16;

/// `PACKET_OUTGOING` of linux/if_packet.h.
const PACKET_OUTGOING: i32 = 4;
/// The verdict that leaves a packet's fate to others: `TCX_NEXT`, which is `TC_ACT_UNSPEC` too.
const NEXT: i32 = -1;

/// Offsets in `struct __sk_buff` (linux/bpf.h).
#[derive(Clone, Copy, Debug)]
pub enum Field {
    Len = 0,
    PacketType = 4,
    Mark = 8,
    QueueMapping = 12,
    Protocol = 16,
    VlanPresent = 20,
    VlanTci = 24,
    VlanProto = 28,
    InterfaceIndex = 40,
    Hash = 68,
    Data = 76,
    DataEnd = 80,
}

/// A translation that is being made.
pub struct Emitter<'a> {
    program: &'a Program,
    pub surroundings: Surroundings,
    accesses: Vec<Option<Access>>,
    pub code: Assembler,
}

impl<'a> Emitter<'a> {
    pub fn new(program: &'a Program, surroundings: Surroundings) -> Self {
        Self { program, surroundings, accesses: bounds::accesses(program), code: Assembler::default() }
    }

    /// Emits all.
    pub fn run(mut self) -> Result<Vec<Instruction>, Error> {
        self.enter();
        self.copy(Copy::Direct, true)?;
        let tagged = self.code.is_used(Label::Tagged);
        if tagged {
            self.enter_tagged();
        }
        self.copy(Copy::General, tagged)?;
        self.leave()?;
        self.code.finish()
    }

    fn enter(&mut self) {
        self.alu64(Operation::Move, PACKET, Register::R1);
        for register in [A, X, SHIFT, TAG] {
            self.alu64(Operation::Move, register, 0);
        }
        if self.surroundings.link_type == LinkType::Ethernet {
            self.field(Register::R1, Field::VlanPresent);
            self.jump_if64(Register::R1, Condition::NotEqual, 0, Label::Tagged);
        }
        self.field(DATA, Field::Data);
        self.field(DATA_END, Field::DataEnd);
    }

    /// Puts the tag together as it stands in the packet. Execution goes on in the general copy.
    fn enter_tagged(&mut self) {
        self.code.place(Label::Tagged);
        self.field(TAG, Field::VlanProto);
        self.host_order(TAG, Size::Half);
        self.alu64(Operation::ShiftLeft, TAG, 16);
        self.field(Register::R1, Field::VlanTci);
        self.alu64(Operation::Or, TAG, Register::R1);
        self.alu64(Operation::Move, SHIFT, 4);
    }

    fn leave(&mut self) -> Result<(), Error> {
        if !self.code.is_used(Label::Match) {
            return Err(Error::NeverMatches);
        }
        if self.code.is_used(Label::NoMatch) {
            self.code.place(Label::NoMatch);
            self.alu64(Operation::Move, Register::R0, NEXT);
            self.code.push(Instruction::Exit);
        }
        self.code.place(Label::Match);
        self.alu64(Operation::Move, Register::R1, PACKET);
        Ok(())
    }

    /// Emits a copy of what can be reached in it. As jumps only go forward, all that lead to an instruction are
    /// there before it is its turn. `entered` says whether execution reaches the first from above.
    fn copy(&mut self, copy: Copy, entered: bool) -> Result<(), Error> {
        let mut reached = entered;
        for (at, &instruction) in self.program.instructions().iter().enumerate() {
            let here = Label::At(copy, at);
            if reached || self.code.is_used(here) {
                self.code.place(here);
                reached = self.instruction(copy, at, instruction)?;
            }
        }
        Ok(())
    }

    /// Emits an instruction; tells whether execution can go on right behind it.
    fn instruction(&mut self, copy: Copy, at: usize, instruction: Classic) -> Result<bool, Error> {
        match instruction {
            Classic::LoadPacket { .. } | Classic::LoadHeaderLength { .. } => {
                return Ok(self.load(copy, at, instruction));
            }
            Classic::LoadAncillary { ancillary, .. } => {
                return self.load_ancillary(copy, at, ancillary);
            }
            Classic::LoadConstant(to, value) => {
                self.alu32(Operation::Move, register(to), value as i32);
            }
            Classic::LoadLength(to) => {
                self.field(register(to), Field::Len);
                self.alu32(Operation::Add, register(to), SHIFT);
            }
            Classic::LoadScratch(to, cell) => {
                self.load_memory(Size::Word, register(to), STACK, cell_at(cell));
            }
            Classic::StoreScratch(from, cell) => {
                self.store(Size::Word, cell_at(cell), register(from));
            }
            Classic::Arithmetic(operation, operand) => self.arithmetic(operation, operand),
            Classic::Negate => self.code.push(Instruction::Negate { to: A }),
            Classic::CopyToX => self.alu32(Operation::Move, X, A),
            Classic::CopyToA => self.alu32(Operation::Move, A, X),
            Classic::Jump(target) => return Ok(self.go_on(copy, at, target)),
            Classic::JumpIf { condition, operand, then, otherwise } => {
                let question = (condition_of(condition), operand_of(operand));
                return Ok(self.branch(copy, at, question, then, otherwise));
            }
            Classic::ReturnConstant(value) => {
                self.code.jump(verdict(value));
                return Ok(false);
            }
            Classic::ReturnA => {
                self.jump_if32(A, Condition::Equal, 0, Label::NoMatch);
                self.code.jump(Label::Match);
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn load(&mut self, copy: Copy, at: usize, instruction: Classic) -> bool {
        match (copy, self.accesses[at]) {
            (Copy::Direct, Some(Access::Leave)) => {
                self.code.jump(Label::At(Copy::General, at));
                return false;
            }
            (Copy::Direct, Some(access)) => self.load_direct(at, instruction, access),
            _ => self.load_general(instruction),
        }
        true
    }

    fn arithmetic(&mut self, operation: cbpf::Arithmetic, operand: cbpf::Operand) {
        use cbpf::{Arithmetic, Operand::X as ByX};
        match (operation, operand) {
            (Arithmetic::Divide | Arithmetic::Modulo, ByX) => {
                self.jump_if32(X, Condition::Equal, 0, Label::NoMatch);
            }
            (Arithmetic::ShiftLeft | Arithmetic::ShiftRight, ByX) => {
                // 0 stays 0, by whatever the kernel shifts it then.
                let shift = self.code.local();
                self.jump_if32(X, Condition::Less, 32, shift);
                self.alu32(Operation::Move, A, 0);
                self.code.place(shift);
            }
            _ => {}
        }
        self.alu32(operation_of(operation), A, operand_of(operand));
    }

    /// Goes to `target`, unless that comes next anyway; tells whether it does.
    fn go_on(&mut self, copy: Copy, at: usize, target: usize) -> bool {
        let target = self.target(copy, target);
        let next = target == Label::At(copy, at + 1);
        if !next {
            self.code.jump(target);
        }
        next
    }

    fn branch(
        &mut self,
        copy: Copy,
        at: usize,
        (condition, operand): (Condition, Operand),
        then: usize,
        otherwise: usize,
    ) -> bool {
        match opposite(condition) {
            // One jump is enough if one of the two ways goes on below.
            Some(opposite) if self.target(copy, then) == Label::At(copy, at + 1) => {
                let target = self.target(copy, otherwise);
                self.jump_if32(A, opposite, operand, target);
                true
            }
            _ => {
                let target = self.target(copy, then);
                self.jump_if32(A, condition, operand, target);
                // A condition without an opposite may have come here to jump to the next instruction.
                self.go_on(copy, at, otherwise) || target == Label::At(copy, at + 1)
            }
        }
    }

    /// Where a jump to an instruction leads in the end.
    fn target(&self, copy: Copy, mut at: usize) -> Label {
        loop {
            match self.program.instructions()[at] {
                Classic::Jump(target) => at = target,
                Classic::ReturnConstant(value) => return verdict(value),
                _ => return Label::At(copy, at),
            }
        }
    }

    /// Ancillary data is in the general copy only: some of it takes a helper, and libpcap rarely asks for any.
    fn load_ancillary(&mut self, copy: Copy, at: usize, ancillary: Ancillary) -> Result<bool, Error> {
        if copy == Copy::Direct {
            self.code.jump(Label::At(Copy::General, at));
            return Ok(false);
        }
        match ancillary {
            Ancillary::PacketType if self.surroundings.outgoing => {
                self.alu32(Operation::Move, A, PACKET_OUTGOING);
            }
            Ancillary::PacketType => self.field(A, Field::PacketType),
            Ancillary::Protocol => self.network_order_field(Field::Protocol),
            Ancillary::VlanProtocol => self.network_order_field(Field::VlanProto),
            Ancillary::VlanTag => self.field(A, Field::VlanTci),
            Ancillary::VlanTagPresent => self.field(A, Field::VlanPresent),
            Ancillary::InterfaceIndex => self.field(A, Field::InterfaceIndex),
            Ancillary::Mark => self.field(A, Field::Mark),
            Ancillary::Queue => self.field(A, Field::QueueMapping),
            Ancillary::Hash => self.field(A, Field::Hash),
            Ancillary::Cpu => self.code.push(Instruction::Call(Helper::GetSmpProcessorId)),
            Ancillary::Random => self.code.push(Instruction::Call(Helper::GetPrandomU32)),
            Ancillary::XorX => self.alu32(Operation::Xor, A, X),
            Ancillary::NetlinkAttribute
            | Ancillary::NestedNetlinkAttribute
            | Ancillary::HardwareType
            | Ancillary::PayloadOffset => return Err(Error::NotAvailable(ancillary)),
        }
        Ok(true)
    }

    fn network_order_field(&mut self, field: Field) {
        self.field(A, field);
        self.host_order(A, Size::Half);
    }

    pub fn alu32(&mut self, operation: Operation, to: Register, operand: impl Into<Operand>) {
        self.alu(Width::Bits32, operation, to, operand.into());
    }

    pub fn alu64(&mut self, operation: Operation, to: Register, operand: impl Into<Operand>) {
        self.alu(Width::Bits64, operation, to, operand.into());
    }

    fn alu(&mut self, width: Width, operation: Operation, to: Register, operand: Operand) {
        self.code.push(Instruction::Alu { width, operation, to, operand });
    }

    pub fn jump_if32(&mut self, left: Register, condition: Condition, right: impl Into<Operand>, to: Label) {
        self.code.jump_if(Width::Bits32, left, condition, right.into(), to);
    }

    pub fn jump_if64(&mut self, left: Register, condition: Condition, right: impl Into<Operand>, to: Label) {
        self.code.jump_if(Width::Bits64, left, condition, right.into(), to);
    }

    pub fn host_order(&mut self, to: Register, size: Size) {
        if size != Size::Byte {
            self.code.push(Instruction::FromBigEndian { to, size });
        }
    }

    fn field(&mut self, to: Register, field: Field) {
        self.load_memory(Size::Word, to, PACKET, field as i16);
    }

    pub fn load_memory(&mut self, size: Size, to: Register, base: Register, offset: i16) {
        self.code.push(Instruction::Load { size, to, base, offset });
    }

    /// Stores on the stack.
    pub fn store(&mut self, size: Size, offset: i16, from: Register) {
        self.code.push(Instruction::Store { size, base: STACK, offset, from });
    }
}

/// Where a packet goes for which a program returns `value`.
fn verdict(value: u32) -> Label {
    if value == 0 { Label::NoMatch } else { Label::Match }
}

fn register(register: cbpf::Register) -> Register {
    match register {
        cbpf::Register::A => A,
        cbpf::Register::X => X,
    }
}

fn cell_at(cell: u8) -> i16 {
    CELLS_END - 4 * (i16::from(cell) + 1)
}

/// Operands of 32-bit operations, so a constant's sign does not matter.
fn operand_of(operand: cbpf::Operand) -> Operand {
    match operand {
        cbpf::Operand::Constant(value) => Operand::Constant(value as i32),
        cbpf::Operand::X => X.into(),
    }
}

fn operation_of(operation: cbpf::Arithmetic) -> Operation {
    match operation {
        cbpf::Arithmetic::Add => Operation::Add,
        cbpf::Arithmetic::Subtract => Operation::Subtract,
        cbpf::Arithmetic::Multiply => Operation::Multiply,
        cbpf::Arithmetic::Divide => Operation::Divide,
        cbpf::Arithmetic::Modulo => Operation::Modulo,
        cbpf::Arithmetic::Or => Operation::Or,
        cbpf::Arithmetic::And => Operation::And,
        cbpf::Arithmetic::Xor => Operation::Xor,
        cbpf::Arithmetic::ShiftLeft => Operation::ShiftLeft,
        cbpf::Arithmetic::ShiftRight => Operation::ShiftRight,
    }
}

fn condition_of(condition: cbpf::Condition) -> Condition {
    match condition {
        cbpf::Condition::Equal => Condition::Equal,
        cbpf::Condition::Greater => Condition::Greater,
        cbpf::Condition::GreaterOrEqual => Condition::GreaterOrEqual,
        cbpf::Condition::AnyBit => Condition::AnyBit,
    }
}

/// The condition that holds when this one does not, if there is one.
fn opposite(condition: Condition) -> Option<Condition> {
    Some(match condition {
        Condition::Equal => Condition::NotEqual,
        Condition::NotEqual => Condition::Equal,
        Condition::Greater => Condition::LessOrEqual,
        Condition::GreaterOrEqual => Condition::Less,
        Condition::Less => Condition::GreaterOrEqual,
        Condition::LessOrEqual => Condition::Greater,
        Condition::AnyBit => return None,
    })
}
