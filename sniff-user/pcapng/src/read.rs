//! Reading of whole streams of blocks (draft section 3.1), as far as merging and printing them takes. What is read
//! comes from another machine: it is checked, and nothing in it is trusted.

use anyhow::{Context as _, Result, ensure};

use super::{block::MIN_BLOCK_LEN, names, packet::word, watermark};

/// Where the body of a block begins.
const BODY: usize = 8;

/// The kinds of blocks that matter here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlockType {
    /// Section Header Block.
    Section,
    /// Interface Description Block.
    Interface,
    /// Enhanced Packet Block.
    Packet,
    /// Interface Statistics Block.
    Statistics,
    /// Name Resolution Block.
    Names,
    /// A [`super::Watermark`], which no file has.
    Watermark,
    /// Any other.
    Other(u32),
}

/// A whole block of any kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AnyBlock<'a> {
    /// Its kind.
    pub block_type: BlockType,
    /// All of it, frame included.
    pub bytes: &'a [u8],
}

impl<'a> AnyBlock<'a> {
    /// The block at the start of `bytes`, which may go on behind it.
    ///
    /// # Errors
    ///
    /// When `bytes` do not begin with a whole block of this machine's byte order.
    pub fn first(bytes: &'a [u8]) -> Result<Self> {
        let block_type = match word(bytes, 0)? {
            0x0a0d_0d0a => BlockType::Section,
            1 => BlockType::Interface,
            6 => BlockType::Packet,
            5 => BlockType::Statistics,
            names::BLOCK_TYPE => BlockType::Names,
            watermark::BLOCK_TYPE => BlockType::Watermark,
            other => BlockType::Other(other),
        };
        let len = word(bytes, 4)? as usize;
        ensure!(len >= MIN_BLOCK_LEN && len.is_multiple_of(4), "block length {len} is impossible");
        let block = bytes
            .get(..len)
            .with_context(|| format!("block of {len} bytes is cut off after {}", bytes.len()))?;
        ensure!(
            word(block, len - 4)? as usize == len,
            "block length {len} is not the one repeated at its end"
        );
        Ok(Self { block_type, bytes: block })
    }

    /// The 32 bits at the start of the body: the interface's id in packets and statistics, the byte-order magic of a
    /// section.
    ///
    /// # Errors
    ///
    /// When the body is empty.
    pub fn first_word(&self) -> Result<u32> {
        ensure!(self.bytes.len() > MIN_BLOCK_LEN, "block without a body");
        word(self.bytes, BODY)
    }

    /// Appends the block to `out`, with another 32 bits at the start of its body.
    pub fn write_with_first_word(&self, first_word: u32, out: &mut Vec<u8>) {
        let (before, body) = self.bytes.split_at(BODY);
        out.extend(before);
        out.extend(first_word.to_ne_bytes());
        out.extend(&body[4..]);
    }
}
