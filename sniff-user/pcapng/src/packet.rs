//! A view of an Enhanced Packet Block (draft section 4.3).
//!
//! The kernel side writes these blocks whole and they go to the file as they are; userspace reads them to count, to
//! choose and to print. What it reads is bounds-checked all the same: nothing in a block is trusted.

use std::fmt;

use anyhow::{Context as _, Result, ensure};
use sniff_common::{
    Direction,
    epb::{self, BLOCK_TYPE, DATA_OFFSET, FLAGS_DIRECTION, OPT_DROPCOUNT, OPT_FLAGS, OPT_PACKETID},
};

use super::block::blocks;

/// Length of the smallest block: no data, no options.
const MIN_LEN: usize = DATA_OFFSET + 4;
/// Ends a list of options.
const OPT_ENDOFOPT: u16 = 0;
/// Where a block says how much of the packet it has.
const CAPTURED_LEN: usize = 20;

/// What a block says at its start: enough to count it, to sort it and to find the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PacketHead {
    /// Length of the whole block in bytes, a multiple of 4.
    pub total_len: usize,
    /// Id of the interface: how many were described before it.
    pub interface: u32,
    /// As [`EnhancedPacket::timestamp_ns`].
    pub timestamp_ns: u64,
    /// Bytes of the packet that the block has.
    pub captured_len: u32,
}

impl PacketHead {
    /// Reads the start of the block at the start of `bytes`, which may go on behind it.
    ///
    /// # Errors
    ///
    /// When `bytes` do not begin with a whole Enhanced Packet Block of the host's byte order.
    #[inline]
    pub fn parse(bytes: &[u8]) -> Result<Self, NoPacket> {
        let Some((head, _)) = bytes.split_first_chunk::<24>() else { return Err(NoPacket) };
        let word = |at: usize| u32::from_ne_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
        let total_len = word(4) as usize;
        if word(0) != BLOCK_TYPE
            || total_len < MIN_LEN
            || !total_len.is_multiple_of(4)
            || total_len > bytes.len()
        {
            return Err(NoPacket);
        }
        let timestamp_ns = u64::from(word(12)) << 32 | u64::from(word(16));
        Ok(Self { total_len, interface: word(8), timestamp_ns, captured_len: word(20) })
    }

    /// Where the value of `epb_dropcount` begins in `block`, which is this one out of the ring; `None` when it has none.
    #[inline]
    pub fn dropcount_at(&self, block: &[u8]) -> Option<usize> {
        epb::dropcount_at(block, self.captured_within(block)?)
    }

    /// The same of `epb_packetid`.
    #[inline]
    pub fn packetid_at(&self, block: &[u8]) -> Option<usize> {
        epb::packetid_at(block, self.captured_within(block)?)
    }

    /// More than the block holds is no length that the kernel side writes.
    fn captured_within(&self, block: &[u8]) -> Option<u32> {
        Some(self.captured_len).filter(|&len| len as usize <= block.len())
    }
}

/// Hands `change` each packet of a run of whole packet blocks, as they come out of the ring, with its head.
pub fn change_each(run: &mut [u8], mut change: impl FnMut(PacketHead, &mut [u8])) {
    let mut rest = run;
    while let Ok(head) = PacketHead::parse(rest) {
        let (block, behind) = rest.split_at_mut(head.total_len);
        change(head, block);
        rest = behind;
    }
}

/// The packets among blocks; what is cut off or no block ends them.
pub fn heads(bytes: &[u8]) -> impl Iterator<Item = PacketHead> {
    blocks(bytes).filter_map(|block| PacketHead::parse(block).ok())
}

/// Bytes that are no Enhanced Packet Block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoPacket;

impl fmt::Display for NoPacket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("what is in the ring is no packet block: that is a bug in sniff")
    }
}

impl std::error::Error for NoPacket {}

/// A packet as it stands in its block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EnhancedPacket<'a> {
    /// Length of the whole block in bytes, a multiple of 4.
    pub total_len: usize,
    /// Id of the interface: how many were described before it.
    pub interface: u32,
    /// When the packet was seen, in nanoseconds since 1970-01-01 UTC (the interface's `if_tsresol` is 9).
    pub timestamp_ns: u64,
    /// Length of the packet as the kernel had it, in bytes. Nothing makes it at least that of `data`.
    pub original_len: u32,
    /// The packet, as far as it was captured.
    pub data: &'a [u8],
    /// `epb_flags` (draft section 4.3.1); 0 when the block has none.
    pub flags: u32,
    /// `epb_dropcount`: packets lost on the interface between the packet before and this one; 0 when not told.
    pub dropcount: u64,
    /// `epb_packetid`: the same for one packet wherever it was seen; `None` when not told.
    pub packet_id: Option<u64>,
    /// Whether the block has options that sniff does not write.
    pub has_foreign_options: bool,
}

impl<'a> EnhancedPacket<'a> {
    /// Reads the block at the start of `bytes`, which may go on behind it.
    ///
    /// # Errors
    ///
    /// When `bytes` do not begin with a whole Enhanced Packet Block of the host's byte order.
    pub fn parse(bytes: &'a [u8]) -> Result<Self> {
        let block_type = word(bytes, 0)?;
        ensure!(
            block_type == BLOCK_TYPE,
            "block type is {block_type:#x}, not {BLOCK_TYPE} of an Enhanced Packet Block"
        );
        let total_len = word(bytes, 4)? as usize;
        ensure!(
            total_len >= MIN_LEN && total_len.is_multiple_of(4),
            "block length {total_len} is not that of an Enhanced Packet Block"
        );
        let block = bytes
            .get(..total_len)
            .with_context(|| format!("block of {total_len} bytes is cut off after {}", bytes.len()))?;
        let (body, trailer) = block.split_at(total_len - 4);
        ensure!(
            word(trailer, 0)? as usize == total_len,
            "block length {total_len} is not the one repeated at its end"
        );

        let captured_len = word(body, 20)? as usize;
        let data = body[DATA_OFFSET..].get(..captured_len).with_context(|| {
            format!("captured length {captured_len} exceeds the block's {total_len} bytes")
        })?;
        // The block's length is a multiple of 4, so the padding is inside when the data is.
        let mut options = &body[(DATA_OFFSET + captured_len).next_multiple_of(4)..];
        let (mut flags, mut dropcount, mut packet_id, mut has_foreign_options) = (0, 0, None, false);
        while let Some((code, value)) = take_option(&mut options)? {
            match code {
                OPT_FLAGS => flags = u32::from_ne_bytes(fixed(code, value)?),
                OPT_DROPCOUNT => dropcount = u64::from_ne_bytes(fixed(code, value)?),
                OPT_PACKETID => packet_id = Some(u64::from_ne_bytes(fixed(code, value)?)),
                _ => has_foreign_options = true,
            }
        }

        Ok(Self {
            total_len,
            interface: word(body, 8)?,
            timestamp_ns: u64::from(word(body, 12)?) << 32 | u64::from(word(body, 16)?),
            original_len: word(body, 24)?,
            data,
            flags,
            dropcount,
            packet_id,
            has_foreign_options,
        })
    }

    /// Where the packet went, seen from the pod; `None` when the flags do not tell.
    pub fn direction(&self) -> Option<Direction> {
        Direction::BOTH.into_iter().find(|direction| self.flags & FLAGS_DIRECTION == *direction as u32)
    }
}

/// Appends the block of a packet with at most `keep` bytes of it, and its options, to `out`.
///
/// # Errors
///
/// When `block` is no Enhanced Packet Block of the host's byte order.
pub fn cut_packet(block: &[u8], keep: usize, out: &mut Vec<u8>) -> Result<()> {
    let EnhancedPacket { total_len, data, .. } = EnhancedPacket::parse(block)?;
    let kept = &data[..keep.min(data.len())];
    let options = &block[(DATA_OFFSET + data.len()).next_multiple_of(4)..total_len - 4];
    let len = ((DATA_OFFSET + kept.len()).next_multiple_of(4) + options.len() + 4) as u32;
    let start = out.len();
    out.extend(&block[..DATA_OFFSET]);
    out[start + 4..start + 8].copy_from_slice(&len.to_ne_bytes());
    out[start + CAPTURED_LEN..][..4].copy_from_slice(&(kept.len() as u32).to_ne_bytes());
    out.extend(kept);
    out.resize(start + (DATA_OFFSET + kept.len()).next_multiple_of(4), 0);
    out.extend(options);
    out.extend(len.to_ne_bytes());
    Ok(())
}

/// The host-endian word at an offset.
pub(super) fn word(bytes: &[u8], at: usize) -> Result<u32> {
    let word = bytes.get(at..).and_then(|rest| rest.first_chunk());
    let word = word.with_context(|| format!("block is cut off after {} bytes", bytes.len()))?;
    Ok(u32::from_ne_bytes(*word))
}

/// Takes an option off the front of a list: its code and value. `None` at the end of the list.
pub(super) fn take_option<'a>(list: &mut &'a [u8]) -> Result<Option<(u16, &'a [u8])>> {
    let Some((&[code0, code1, len0, len1], rest)) = list.split_first_chunk() else {
        return Ok(None);
    };
    let code = u16::from_ne_bytes([code0, code1]);
    if code == OPT_ENDOFOPT {
        return Ok(None);
    }
    let len = usize::from(u16::from_ne_bytes([len0, len1]));
    let value = rest.get(..len).with_context(|| format!("option {code} of {len} bytes exceeds its block"))?;
    *list = rest.get(len.next_multiple_of(4)..).unwrap_or_default();
    Ok(Some((code, value)))
}

/// The value of an option of fixed length.
pub(super) fn fixed<const N: usize>(code: u16, value: &[u8]) -> Result<[u8; N]> {
    value.try_into().with_context(|| format!("option {code} has {} bytes, not {N}", value.len()))
}
