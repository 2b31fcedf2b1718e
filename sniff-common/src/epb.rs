//! The Enhanced Packet Block as the kernel side writes it (draft-ietf-opsawg-pcapng, section 4.3).
//!
//! ```text
//!  0  block type = 6          16  timestamp, low half
//!  4  block total length      20  captured length
//!  8  interface id            24  original length
//! 12  timestamp, high half    28  packet data, padded to 4 bytes
//!
//! then  epb_flags (8 bytes), after a gap epb_dropcount (12 bytes), opt_endofopt (4), block total length (4)
//! ```
//!
//! In the ring, `epb_dropcount` does not yet hold what the draft says, the packets lost since the one before, but all that
//! the interface has lost so far: only userspace knows which packet is the one before in the file.

/// Block type of an Enhanced Packet Block.
pub const BLOCK_TYPE: u32 = 6;
/// Offset of the packet's data in the block, in bytes.
pub const DATA_OFFSET: usize = 28;
/// Option `epb_flags`: 4 bytes.
pub const OPT_FLAGS: u16 = 2;
/// Option `epb_dropcount`: 8 bytes, packets lost on this interface between this packet and the one before; in the ring,
/// since the capture began.
pub const OPT_DROPCOUNT: u16 = 4;

/// Bits of `epb_flags` that hold the direction: 1 in, 2 out.
pub const FLAGS_DIRECTION: u32 = 0b11;
/// Bit of `epb_flags`: the checksum is still to be filled in by the device.
pub const FLAGS_CHECKSUM_NOT_READY: u32 = 1 << 9;
/// Bit of `epb_flags`: the packet is still to be cut into segments by the device.
pub const FLAGS_SEGMENTATION_OFFLOADED: u32 = 1 << 11;

/// Length of everything behind the data: `epb_flags`, `opt_endofopt`, block total length.
const TRAILER: u32 = 8 + 4 + 4;
/// Length of `epb_dropcount` with its header, in bytes.
const DROPCOUNT: u32 = 12;

/// How far before a block's end the value of `epb_dropcount` begins: itself, `opt_endofopt`, block total length.
const DROPCOUNT_FROM_END: usize = 8 + 4 + 4;

/// Most that a block has beyond the packet's bytes: header, padding, and all options.
pub const OVERHEAD: u32 = DATA_OFFSET as u32 + 3 + DROPCOUNT + TRAILER;

/// Total length of a block with `captured` bytes of a packet, in bytes; a multiple of 4.
pub const fn block_len(captured: u32, with_dropcount: bool) -> u32 {
    let padded = (captured + 3) & !3;
    DATA_OFFSET as u32 + padded + TRAILER + if with_dropcount { DROPCOUNT } else { 0 }
}

/// Where the value of `epb_dropcount` is in a block of this total length with so many bytes captured; `None` when the
/// block has none. As the kernel side writes blocks, not as others may.
#[inline]
pub const fn dropcount_at(total_len: usize, captured: u32) -> Option<usize> {
    if total_len == block_len(captured, true) as usize { Some(total_len - DROPCOUNT_FROM_END) } else { None }
}

/// Where the value of `epb_flags` is in a block with so many bytes captured. As the kernel side writes blocks.
#[inline]
pub const fn flags_at(captured: u32) -> usize {
    DATA_OFFSET + ((captured as usize + 3) & !3) + 4
}

/// An option's header, code and length, as one host-endian word.
pub const fn option_header(code: u16, len: u16) -> u32 {
    let (code, len) = (code.to_ne_bytes(), len.to_ne_bytes());
    u32::from_ne_bytes([code[0], code[1], len[0], len[1]])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn block_lengths_follow_the_draft() {
        // 28 header + data + pad + 8 epb_flags + 4 opt_endofopt + 4 length.
        assert_eq!(block_len(0, false), 44);
        assert_eq!(block_len(1, false), 48);
        assert_eq!(block_len(4, false), 48);
        assert_eq!(block_len(60, false), 104);
        assert_eq!(block_len(60, true), 116);
    }

    #[test]
    fn overhead_bounds_every_block() {
        for captured in 0..64 {
            assert!(block_len(captured, true) <= captured + OVERHEAD);
            assert_eq!(block_len(captured, true) % 4, 0);
        }
    }

    #[test]
    fn a_block_with_a_dropcount_is_told_by_its_length() {
        for captured in 0..64 {
            let (with, without) = (block_len(captured, true) as usize, block_len(captured, false) as usize);
            assert_eq!(dropcount_at(without, captured), None);
            // Behind the data: epb_flags, and the option's header.
            let at = DATA_OFFSET + (captured as usize).next_multiple_of(4) + 8 + 4;
            assert_eq!(dropcount_at(with, captured), Some(at));
        }
    }

    #[test]
    fn option_header_is_code_then_length() {
        let bytes = option_header(OPT_FLAGS, 4).to_ne_bytes();
        assert_eq!(u16::from_ne_bytes([bytes[0], bytes[1]]), OPT_FLAGS);
        assert_eq!(u16::from_ne_bytes([bytes[2], bytes[3]]), 4);
    }
}
