//! Between a node and `kubectl sniff`, a stream of blocks also tells how far in time it is complete.

use anyhow::{Context as _, Result};

use super::block::MIN_BLOCK_LEN;

/// No file has such blocks: the type is one of those for local use, from 0x80000000 (the draft's "Block Type Codes").
/// Others have taken 0x80000001; this is "snf".
pub(super) const BLOCK_TYPE: u32 = 0x8073_6e66;
/// Where the time is.
const TIME: usize = 8;

/// Says that no packet that is older comes behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Watermark {
    /// In nanoseconds since the epoch, by the clock of the packets.
    pub time_ns: u64,
}

impl Watermark {
    /// The block.
    pub fn block(&self) -> Vec<u8> {
        let len = ((MIN_BLOCK_LEN + size_of::<u64>()) as u32).to_ne_bytes();
        [&BLOCK_TYPE.to_ne_bytes()[..], &len, &self.time_ns.to_ne_bytes(), &len].concat()
    }

    /// Reads the block.
    ///
    /// # Errors
    ///
    /// When it is cut.
    pub fn parse(block: &[u8]) -> Result<Self> {
        let time = block.get(TIME..).and_then(|rest| rest.first_chunk()).context("watermark is cut off")?;
        Ok(Self { time_ns: u64::from_ne_bytes(*time) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{AnyBlock, BlockType};

    #[test]
    fn a_watermark_is_a_block() {
        let watermark = Watermark { time_ns: 0x0102_0304_0506_0708 };
        let block = watermark.block();
        let read = AnyBlock::first(&block).unwrap();
        assert_eq!((read.block_type, read.bytes.len()), (BlockType::Watermark, 20));
        assert_eq!(Watermark::parse(read.bytes).unwrap(), watermark);
        assert!(Watermark::parse(&block[..12]).is_err());
    }
}
