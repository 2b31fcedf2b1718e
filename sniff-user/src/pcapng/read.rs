//! Reading of whole streams of blocks (draft section 3.1), as far as merging and printing them takes. What is read
//! comes from another machine: it is checked, and nothing in it is trusted.

use anyhow::{Context as _, Result, ensure};

use super::{
    block::{MIN_BLOCK_LEN, OPT_COMMENT},
    packet::word,
    watermark,
};

/// Where the body of a block begins.
const BODY: usize = 8;
/// Where the options of an Interface Statistics Block begin.
const STATISTICS_OPTIONS: usize = 20;

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

impl AnyBlock<'_> {
    /// Appends a statistics block to `out` as one of another interface, with one comment more, of at most some KiB.
    pub fn write_statistics(&self, interface: u32, comment: &str, out: &mut Vec<u8>) {
        let start = out.len();
        self.write_with_first_word(interface, out);
        let header = [OPT_COMMENT.to_ne_bytes(), (comment.len() as u16).to_ne_bytes()].concat();
        let mut option = [&header, comment.as_bytes()].concat();
        option.resize(option.len().next_multiple_of(4), 0);
        let len = ((self.bytes.len() + option.len()) as u32).to_ne_bytes();
        // A block without options may have been too short for them.
        let at = (start + STATISTICS_OPTIONS).min(out.len() - len.len());
        out.splice(at..at, option);
        out[start + 4..start + 8].copy_from_slice(&len);
        let end = out.len() - len.len();
        out[end..].copy_from_slice(&len);
    }
}
