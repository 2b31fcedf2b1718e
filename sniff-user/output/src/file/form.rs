//! What packets become on their way into a file: pcapng as it comes, or classic pcap; compressed or not.
//!
//! Each piece that is written is compressed by itself, as a frame of zstd or a member of gzip, and several are one file: so
//! a file that is being written can be read up to its last piece, and one that was torn has lost no more than that.

use std::{
    borrow::Cow,
    io::{self, Write as _},
};

use flate2::{Compression, write::GzEncoder};
use sniff_common::MAX_SNAPLEN;
use sniff_pcapng::{AnyBlock, BlockType, EnhancedPacket, InterfaceDescription, LinkType, PacketHead, blocks};

use crate::format::{Format, Packing};

/// Makes of blocks what a file has.
pub(super) struct Form {
    pcap: Option<Pcap>,
    packing: Option<Packing>,
}

impl Form {
    pub(super) fn new(format: Format, packing: Option<Packing>) -> Self {
        Self { pcap: (format == Format::Pcap).then(Pcap::default), packing }
    }

    /// Another file begins.
    pub(super) fn begin(&mut self) {
        if let Some(pcap) = &mut self.pcap {
            pcap.begin();
        }
    }

    /// Most bytes that a block takes in the file, but for a few of a compressed piece.
    pub(super) fn len_of(&self, block: &[u8]) -> usize {
        if self.pcap.is_some() { Pcap::len_of(block) } else { block.len() }
    }

    /// Whether there are blocks other than packets in the file.
    pub(super) fn has_blocks(&self) -> bool {
        self.pcap.is_none()
    }

    /// What blocks are in the file.
    ///
    /// # Errors
    ///
    /// When a packet cannot be in the file.
    pub(super) fn of<'a>(&mut self, blocks: &'a [u8]) -> io::Result<Cow<'a, [u8]>> {
        let plain = match &mut self.pcap {
            Some(pcap) => Cow::Owned(pcap.of(blocks)?),
            None => Cow::Borrowed(blocks),
        };
        match self.packing {
            Some(packing) if !plain.is_empty() => Ok(Cow::Owned(pack(packing, &plain)?)),
            _ => Ok(plain),
        }
    }

    /// What a file still lacks that nothing came for.
    pub(super) fn rest(&mut self) -> io::Result<Vec<u8>> {
        let rest = self.pcap.as_mut().map(Pcap::rest).unwrap_or_default();
        match self.packing {
            Some(packing) if !rest.is_empty() => pack(packing, &rest),
            _ => Ok(rest),
        }
    }

    /// Of blocks that have become `len` bytes in the file, of which `done` are there: how many bytes of the blocks are
    /// there whole, and how many bytes those take there.
    pub(super) fn whole(&self, bytes: &[u8], len: usize, done: usize) -> (usize, usize) {
        if self.packing.is_some() {
            return (0, 0);
        }
        // A file's header is in front of all.
        let (mut whole, mut there) = (0, len - blocks(bytes).map(|block| self.len_of(block)).sum::<usize>());
        for block in blocks(bytes) {
            if there + self.len_of(block) > done {
                break;
            }
            whole += block.len();
            there += self.len_of(block);
        }
        if there <= done { (whole, there) } else { (0, 0) }
    }
}

/// The reference library's fastest usual level where it is there, and as fast a one elsewhere: packets do not wait.
#[cfg(target_os = "linux")]
fn zstd(bytes: &[u8]) -> io::Result<Vec<u8>> {
    zstd::bulk::compress(bytes, 1)
}

#[cfg(not(target_os = "linux"))]
fn zstd(bytes: &[u8]) -> io::Result<Vec<u8>> {
    use ruzstd::encoding::{CompressionLevel, compress_to_vec};

    Ok(compress_to_vec(bytes, CompressionLevel::Fastest))
}

fn pack(packing: Packing, bytes: &[u8]) -> io::Result<Vec<u8>> {
    match packing {
        Packing::Zstd => zstd(bytes),
        Packing::Gzip => {
            let mut member = GzEncoder::new(Vec::new(), Compression::fast());
            member.write_all(bytes)?;
            member.finish()
        }
    }
}

/// The file header's length, and a packet header's, in bytes.
const FILE_HEADER: usize = 24;
const PACKET_HEADER: usize = 16;
/// Begins a file of this machine's byte order whose times are in nanoseconds (draft-ietf-opsawg-pcap section 4).
const MAGIC: u32 = 0xa1b2_3c4d;
const VERSION: [u16; 2] = [2, 4];
const NANOSECONDS: u64 = 1_000_000_000;

/// Classic pcap.
#[derive(Default)]
struct Pcap {
    /// Of each interface, by its id.
    link_types: Vec<LinkType>,
    /// Whether the file has its header.
    is_begun: bool,
}

impl Pcap {
    fn begin(&mut self) {
        // All are described anew.
        *self = Self::default();
    }

    /// The file's header comes with the first interface: it has that one's link type.
    fn len_of(block: &[u8]) -> usize {
        PacketHead::parse(block).map_or(0, |head| PACKET_HEADER + head.captured_len as usize)
    }

    fn of(&mut self, bytes: &[u8]) -> io::Result<Vec<u8>> {
        let mut out = Vec::with_capacity(bytes.len());
        for block in blocks(bytes) {
            match AnyBlock::first(block).map(|block| block.block_type) {
                Ok(BlockType::Interface) => {
                    let described = InterfaceDescription::parse(block).map_err(io::Error::other)?;
                    self.link_types.push(described.link_type);
                    out.extend(self.rest());
                }
                Ok(BlockType::Packet) => self.packet(block, &mut out)?,
                _ => {}
            }
        }
        Ok(out)
    }

    fn packet(&self, block: &[u8], out: &mut Vec<u8>) -> io::Result<()> {
        let packet = EnhancedPacket::parse(block).map_err(io::Error::other)?;
        let link_type = self.link_types.get(packet.interface as usize);
        if link_type.is_none() || link_type != self.link_types.first() {
            return Err(io::Error::other(
                "classic pcap has packets of one link type, and these are of two: write pcapng, or capture each kind of \
                 interface into a file of its own (-i)",
            ));
        }
        let EnhancedPacket { timestamp_ns, data, original_len, .. } = packet;
        let (seconds, nanoseconds) = (timestamp_ns / NANOSECONDS, timestamp_ns % NANOSECONDS);
        for word in [seconds as u32, nanoseconds as u32, data.len() as u32, original_len] {
            out.extend(word.to_ne_bytes());
        }
        out.extend(data);
        Ok(())
    }

    /// The file's header, if it has not come; a file without interfaces is one of Ethernet.
    fn rest(&mut self) -> Vec<u8> {
        if std::mem::replace(&mut self.is_begun, true) {
            return Vec::new();
        }
        let link_type = self.link_types.first().copied().unwrap_or(LinkType::Ethernet);
        let mut header = Vec::with_capacity(FILE_HEADER);
        header.extend(MAGIC.to_ne_bytes());
        header.extend(VERSION.map(u16::to_ne_bytes).as_flattened());
        header.extend([0; 8]);
        header.extend(MAX_SNAPLEN.to_ne_bytes());
        header.extend(u32::from(link_type as u16).to_ne_bytes());
        header
    }
}
