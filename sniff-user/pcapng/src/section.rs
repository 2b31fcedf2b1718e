//! The Section Header Block (draft section 4.1).

use anyhow::{Context as _, Result};

use super::{
    block::{Block, OPT_COMMENT},
    packet::take_option,
};

const BLOCK_TYPE: u32 = 0x0A0D_0D0A;
const BYTE_ORDER_MAGIC: u32 = 0x1A2B_3C4D;
const VERSION: [u16; 2] = [1, 0];
/// The section is written as it grows, so its length is not known.
const SECTION_LENGTH_UNKNOWN: i64 = -1;

/// Where the options are.
const OPTIONS: usize = 24;

const SHB_HARDWARE: u16 = 2;
const SHB_OS: u16 = 3;
const SHB_USERAPPL: u16 = 4;

/// The beginning of a file: on what, under what and by what it was captured.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SectionHeader {
    /// Hardware of the node (`shb_hardware`), such as `x86_64`.
    pub hardware: Option<String>,
    /// Operating system of the node (`shb_os`), such as `Linux 6.18.1`.
    pub os: Option<String>,
    /// Program that captures (`shb_userappl`), with its version.
    pub application: String,
    /// Whatever else is to be told of the capture (`opt_comment`).
    pub comment: Option<String>,
}

impl SectionHeader {
    /// Appends the block to `out`. Strings are cut to 65535 bytes.
    pub fn write(&self, out: &mut Vec<u8>) {
        let Self { hardware, os, application, comment } = self;
        let mut block = Block::begin(out, BLOCK_TYPE);
        block.field(BYTE_ORDER_MAGIC.to_ne_bytes());
        block.field(VERSION[0].to_ne_bytes());
        block.field(VERSION[1].to_ne_bytes());
        block.field(SECTION_LENGTH_UNKNOWN.to_ne_bytes());
        block.comment(comment.as_deref());
        block.optional_text(SHB_HARDWARE, hardware.as_deref());
        block.optional_text(SHB_OS, os.as_deref());
        block.text(SHB_USERAPPL, application);
        block.end();
    }

    /// Reads a block as [`Self::write`] makes it; other options are passed over.
    ///
    /// # Errors
    ///
    /// When it is cut, or its options exceed it.
    pub fn parse(block: &[u8]) -> Result<Self> {
        let end = block.len().saturating_sub(4);
        let mut options = block.get(OPTIONS..end).context("section header is cut off")?;
        let mut read = Self::default();
        while let Some((code, value)) = take_option(&mut options)? {
            let text = String::from_utf8_lossy(value).into_owned();
            match code {
                OPT_COMMENT => read.comment = Some(text),
                SHB_HARDWARE => read.hardware = Some(text),
                SHB_OS => read.os = Some(text),
                SHB_USERAPPL => read.application = text,
                _ => {}
            }
        }
        Ok(read)
    }
}
