//! Counts the packets of a capture file with a parser that no tool here uses; and those that were printed, a line each.

use std::{
    fs::File,
    io::{BufRead as _, BufReader},
    path::Path,
};

use anyhow::{Context as _, Result, bail, ensure};
use pcap_parser::{Block, PcapBlockOwned, PcapError, create_reader};

/// Room for the largest block.
const BUFFER: usize = 4 << 20;

/// How many packets a pcap or pcapng file holds.
///
/// # Errors
/// The file cannot be read, is neither, or ends within a block.
pub fn count_packets(path: &Path) -> Result<u64> {
    count(path).with_context(|| format!("cannot count the packets of {}", path.display()))
}

/// How many lines a file has.
///
/// # Errors
/// The file cannot be read.
pub fn count_lines(path: &Path) -> Result<u64> {
    let lines =
        || BufReader::new(File::open(path)?).split(b'\n').try_fold(0, |lines, line| line.map(|_| lines + 1));
    lines().with_context(|| format!("cannot count the lines of {}", path.display()))
}

fn count(path: &Path) -> Result<u64> {
    let file = File::open(path)?;
    let mut reader = match create_reader(BUFFER, file) {
        Ok(reader) => reader,
        Err(error) => bail!("not a capture file: {error:?}"),
    };
    let mut packets = 0;
    loop {
        match reader.next() {
            Ok((len, block)) => {
                packets += u64::from(is_packet(&block));
                reader.consume(len);
            }
            Err(PcapError::Eof) => return Ok(packets),
            Err(PcapError::Incomplete(_)) => {
                ensure!(!reader.reader_exhausted(), "it ends within a block, after {packets} packets");
                if let Err(error) = reader.refill() {
                    bail!("after {packets} packets: {error:?}");
                }
            }
            Err(error) => bail!("after {packets} packets: {error:?}"),
        }
    }
}

fn is_packet(block: &PcapBlockOwned) -> bool {
    match block {
        PcapBlockOwned::Legacy(_) => true,
        PcapBlockOwned::LegacyHeader(_) => false,
        PcapBlockOwned::NG(block) => matches!(block, Block::EnhancedPacket(_) | Block::SimplePacket(_)),
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, path::PathBuf};

    use tempfile::TempDir;

    use super::{count_lines, count_packets};

    fn file(folder: &TempDir, words: &[u32]) -> PathBuf {
        let path = folder.path().join("file");
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        fs::write(&path, bytes).unwrap();
        path
    }

    #[test]
    fn each_line_counts() {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("file");
        for (text, lines) in [("", 0), ("a\n", 1), ("a\n\nb\n", 3)] {
            fs::write(&path, text).unwrap();
            assert_eq!(count_lines(&path).unwrap(), lines);
        }
    }

    // draft-ietf-opsawg-pcapng: section header, interface description, enhanced packet, statistics.
    const SHB: &[u32] = &[0x0a0d_0d0a, 28, 0x1a2b_3c4d, 1, u32::MAX, u32::MAX, 28];
    const IDB: &[u32] = &[1, 20, 1, 0, 20];
    const EPB: &[u32] = &[6, 36, 0, 0, 0, 4, 4, 0, 36];
    const ISB: &[u32] = &[5, 24, 0, 0, 0, 24];

    #[test]
    fn packets_of_pcapng_are_counted_and_other_blocks_are_not() {
        let folder = TempDir::new().unwrap();
        let packets: Vec<u32> = [EPB; 1000].concat();
        assert_eq!(count_packets(&file(&folder, &[SHB, IDB, &packets, ISB].concat())).unwrap(), 1000);
        assert_eq!(count_packets(&file(&folder, &[SHB, IDB].concat())).unwrap(), 0);
    }

    #[test]
    fn packets_of_pcap_are_counted() {
        let folder = TempDir::new().unwrap();
        let header = [0xa1b2_c3d4, 0x0004_0002, 0, 0, 65_535, 1];
        let packets = [[0u32, 0, 4, 4, 0]; 7].concat();
        assert_eq!(count_packets(&file(&folder, &[&header[..], &packets].concat())).unwrap(), 7);
    }

    #[test]
    fn a_broken_file_is_an_error() {
        let folder = TempDir::new().unwrap();
        let whole = [SHB, IDB, EPB, EPB].concat();
        let error = count_packets(&file(&folder, &whole[..whole.len() - 3])).unwrap_err();
        assert!(format!("{error:#}").contains("after 1 packets"), "{error:#}");
        assert!(count_packets(&file(&folder, &[])).is_err());
        assert!(count_packets(&file(&folder, &[1, 2, 3, 4, 5, 6, 7, 8])).is_err());
    }
}
