//! Classic BPF as typed instructions. A [`Program`] exists only if it passed `decode`'s validation, so whoever
//! reads one need not check again.
//!
//! The machine (McCanne and Jacobson, "The BSD Packet Filter", 1993): two 32-bit registers A and X, which begin
//! as 0, sixteen scratch cells, loads from the packet in network byte order, and jumps that only go forward.

mod decode;
mod interpret;
mod show;

pub use decode::{Encoded, Invalid, Reason};

/// How many scratch cells there are (`BPF_MEMWORDS`).
pub const CELLS: u32 = 16;

/// A valid program: every jump goes forward to an instruction of it, every path ends in a return, no scratch cell
/// is read before it was written, and no constant divides by zero or shifts by more than 31 bits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Program {
    instructions: Vec<Instruction>,
}

/// One of the machine's two registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Register {
    /// The accumulator.
    A,
    /// The index register.
    X,
}

/// How much a load reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Size {
    /// 8 bits.
    Byte,
    /// 16 bits.
    Half,
    /// 32 bits.
    Word,
}

impl Size {
    /// In bytes.
    pub const fn bytes(self) -> u32 {
        match self {
            Self::Byte => 1,
            Self::Half => 2,
            Self::Word => 4,
        }
    }
}

/// The right-hand side of an operation on A.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operand {
    /// A constant.
    Constant(u32),
    /// The index register.
    X,
}

/// `A = A <operation> operand`, unsigned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arithmetic {
    /// Sum, modulo 2^32.
    Add,
    /// Difference, modulo 2^32.
    Subtract,
    /// Product, modulo 2^32.
    Multiply,
    /// Quotient; by 0, the packet does not match.
    Divide,
    /// Remainder; by 0, the packet does not match.
    Modulo,
    /// Bitwise or.
    Or,
    /// Bitwise and.
    And,
    /// Bitwise exclusive or.
    Xor,
    /// Shift to the left; by 32 or more, the result is 0.
    ShiftLeft,
    /// Shift to the right; by 32 or more, the result is 0.
    ShiftRight,
}

/// What a conditional jump asks of A and its operand, unsigned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condition {
    /// Are they equal?
    Equal,
    /// Is A greater?
    Greater,
    /// Is A greater or equal?
    GreaterOrEqual,
    /// Have they a bit in common?
    AnyBit,
}

/// Linux's extensions: loads of meta-data at offsets where no packet has bytes (`SKF_AD_*`, linux/filter.h).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ancillary {
    /// The protocol as the kernel sees it, an Ethernet type.
    Protocol,
    /// To whom the packet is addressed, or that it is outgoing (`PACKET_HOST` and so on, linux/if_packet.h).
    PacketType,
    /// Index of the interface.
    InterfaceIndex,
    /// A netlink attribute.
    NetlinkAttribute,
    /// A nested netlink attribute.
    NestedNetlinkAttribute,
    /// The packet's mark.
    Mark,
    /// Number of the queue.
    Queue,
    /// Hardware type of the interface.
    HardwareType,
    /// The flow's hash.
    Hash,
    /// Number of the CPU.
    Cpu,
    /// Not a load: `A ^= X`.
    XorX,
    /// The VLAN tag's control information, without the Ethernet type in front.
    VlanTag,
    /// Whether there is a VLAN tag.
    VlanTagPresent,
    /// Where the payload begins.
    PayloadOffset,
    /// A random number.
    Random,
    /// The VLAN tag's Ethernet type.
    VlanProtocol,
}

/// An instruction. Jump targets are indices into the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Instruction {
    /// A constant.
    LoadConstant(Register, u32),
    /// The packet's length on the wire.
    LoadLength(Register),
    /// A scratch cell, below [`CELLS`].
    LoadScratch(Register, u8),
    /// Bytes of the packet, to A. Beyond the packet's end, it does not match.
    LoadPacket {
        /// How many.
        size: Size,
        /// Where, from the packet's start; below 2^31.
        offset: u32,
        /// Whether X is added to the offset.
        indexed: bool,
    },
    /// `4 * (byte & 15)` to X: the length of an IPv4 header whose first byte is there.
    LoadHeaderLength {
        /// Where, from the packet's start; below 2^31.
        offset: u32,
    },
    /// Meta-data, to A.
    LoadAncillary {
        /// Says nothing; only kept to show the program as it was.
        size: Size,
        /// Which.
        ancillary: Ancillary,
    },
    /// To a scratch cell, below [`CELLS`].
    StoreScratch(Register, u8),
    /// Changes A.
    Arithmetic(Arithmetic, Operand),
    /// `A = -A`, modulo 2^32.
    Negate,
    /// `X = A`.
    CopyToX,
    /// `A = X`.
    CopyToA,
    /// Goes on elsewhere.
    Jump(usize),
    /// Goes on at one of two places.
    JumpIf {
        /// What is asked.
        condition: Condition,
        /// Of A and this.
        operand: Operand,
        /// Where to, if so.
        then: usize,
        /// Where to, if not.
        otherwise: usize,
    },
    /// Ends. The packet matches unless this is 0.
    ReturnConstant(u32),
    /// Ends. The packet matches unless A is 0.
    ReturnA,
}

impl Program {
    /// Its instructions.
    pub fn instructions(&self) -> &[Instruction] {
        &self.instructions
    }
}

impl Instruction {
    /// Where execution may go on after this instruction, which is at `at`.
    pub fn successors(&self, at: usize) -> impl Iterator<Item = usize> + use<> {
        let (first, second) = match *self {
            Self::ReturnConstant(_) | Self::ReturnA => (None, None),
            Self::Jump(target) => (Some(target), None),
            Self::JumpIf { then, otherwise, .. } => (Some(then), Some(otherwise)),
            _ => (Some(at + 1), None),
        };
        first.into_iter().chain(second)
    }

    /// Whether it gives X a new value.
    pub fn writes_x(&self) -> bool {
        matches!(
            self,
            Self::LoadConstant(Register::X, _)
                | Self::LoadLength(Register::X)
                | Self::LoadScratch(Register::X, _)
                | Self::LoadHeaderLength { .. }
                | Self::CopyToX
        )
    }
}
