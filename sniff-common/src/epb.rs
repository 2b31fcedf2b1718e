//! The Enhanced Packet Block as the kernel side writes it (draft-ietf-opsawg-pcapng, section 4.3).
//!
//! ```text
//!  0  block type = 6          16  timestamp, low half
//!  4  block total length      20  captured length
//!  8  interface id            24  original length
//! 12  timestamp, high half    28  packet data, padded to 4 bytes
//!
//! then  epb_flags (8 bytes), where ids are wanted epb_packetid (12), after a gap epb_dropcount (12), opt_endofopt (4),
//! block total length (4)
//! ```
//!
//! In the ring, `epb_dropcount` does not yet hold what the draft says, the packets lost since the one before, but all that
//! the interface has lost so far: only userspace knows which packet is the one before in the file. `epb_packetid` is 0
//! there: room for what only userspace knows, which packets are the same.

/// Block type of an Enhanced Packet Block.
pub const BLOCK_TYPE: u32 = 6;
/// Offset of the packet's data in the block, in bytes.
pub const DATA_OFFSET: usize = 28;
/// Option `epb_flags`: 4 bytes.
pub const OPT_FLAGS: u16 = 2;
/// Option `epb_dropcount`: 8 bytes, packets lost on this interface between this packet and the one before; in the ring,
/// since the capture began.
pub const OPT_DROPCOUNT: u16 = 4;
/// Option `epb_packetid`: 8 bytes, the same for one packet wherever it is seen.
pub const OPT_PACKETID: u16 = 5;

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
/// Length of `epb_packetid` with its header, in bytes.
pub const PACKETID: u32 = 12;

/// Most that a block has beyond the packet's bytes, but for [`PACKETID`]: header, padding, and options.
pub const OVERHEAD: u32 = DATA_OFFSET as u32 + 3 + DROPCOUNT + TRAILER;

/// Total length of a block with `captured` bytes of a packet, in bytes; a multiple of 4.
pub const fn block_len(captured: u32, with_packetid: bool, with_dropcount: bool) -> u32 {
    let padded = (captured + 3) & !3;
    let packetid = if with_packetid { PACKETID } else { 0 };
    let dropcount = if with_dropcount { DROPCOUNT } else { 0 };
    DATA_OFFSET as u32 + padded + packetid + dropcount + TRAILER
}

/// Where the value of `epb_flags` is in a block with so many bytes captured. As the kernel side writes blocks.
#[inline]
pub const fn flags_at(captured: u32) -> usize {
    DATA_OFFSET + ((captured as usize + 3) & !3) + 4
}

/// Where the value of `epb_packetid` is in a block with so many bytes captured; `None` when it has none. As the kernel
/// side writes blocks, not as others may.
#[inline]
pub fn packetid_at(block: &[u8], captured: u32) -> Option<usize> {
    value_at(block, flags_at(captured) + 4, OPT_PACKETID)
}

/// Where the value of `epb_dropcount` is, as [`packetid_at`] tells of the other.
#[inline]
pub fn dropcount_at(block: &[u8], captured: u32) -> Option<usize> {
    // Most blocks have neither, which their length tells.
    if block.len() == block_len(captured, false, false) as usize {
        return None;
    }
    let behind_flags = flags_at(captured) + 4;
    let behind = packetid_at(block, captured).map_or(behind_flags, |at| at + 8);
    value_at(block, behind, OPT_DROPCOUNT)
}

/// Where the value of an option of 8 bytes begins whose header is at `at`; `None` when another stands there.
#[inline]
fn value_at(block: &[u8], at: usize, code: u16) -> Option<usize> {
    let header = block.get(at..)?.first_chunk()?;
    (u32::from_ne_bytes(*header) == option_header(code, 8)).then_some(at + 4)
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
        assert_eq!(block_len(0, false, false), 44);
        assert_eq!(block_len(1, false, false), 48);
        assert_eq!(block_len(4, false, false), 48);
        assert_eq!(block_len(60, false, false), 104);
        assert_eq!(block_len(60, false, true), 116);
        assert_eq!(block_len(60, true, false), 116);
        assert_eq!(block_len(60, true, true), 128);
    }

    #[test]
    fn overhead_bounds_every_block() {
        for captured in 0..64 {
            assert!(block_len(captured, false, true) <= captured + OVERHEAD);
            assert!(block_len(captured, true, true) <= captured + OVERHEAD + PACKETID);
            assert_eq!(block_len(captured, true, true) % 4, 0);
        }
    }

    #[test]
    fn options_are_found_by_their_headers() {
        let mut block = [0; 160];
        for captured in 0..64 {
            for (packetid, dropcount) in [(false, false), (false, true), (true, false), (true, true)] {
                let len = block_len(captured, packetid, dropcount) as usize;
                let mut at = flags_at(captured) + 4;
                block.fill(0);
                let mut put = |code| {
                    block[at..at + 4].copy_from_slice(&option_header(code, 8).to_ne_bytes());
                    at += 12;
                    at - 8
                };
                let packetid = packetid.then(|| put(OPT_PACKETID));
                let dropcount = dropcount.then(|| put(OPT_DROPCOUNT));
                assert_eq!(at + 8, len);
                assert_eq!(packetid_at(&block[..len], captured), packetid);
                assert_eq!(dropcount_at(&block[..len], captured), dropcount);
            }
        }
        // Lengths that no block has.
        for captured in [64, u32::MAX / 2] {
            assert_eq!(
                (packetid_at(&block[..44], captured), dropcount_at(&block[..44], captured)),
                (None, None)
            );
        }
    }

    #[test]
    fn option_header_is_code_then_length() {
        let bytes = option_header(OPT_FLAGS, 4).to_ne_bytes();
        assert_eq!(u16::from_ne_bytes([bytes[0], bytes[1]]), OPT_FLAGS);
        assert_eq!(u16::from_ne_bytes([bytes[2], bytes[3]]), 4);
    }
}
