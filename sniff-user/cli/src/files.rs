//! Options that say what files are, and when another is begun.

use std::{path::PathBuf, time::Duration};

use clap::{
    Args,
    builder::{PossibleValuesParser, TypedValueParser},
};
use sniff_output::{
    DnsNames, Sink,
    file::{Format, Manner, Packing},
    rotate::Rotation,
};

use crate::options::{duration, size};

/// Least bytes of a file: what a file says at its beginning and end takes some hundred for each interface.
const MIN_FILE_BYTES: u64 = 4096;

/// Options that say what the files are, and when another is begun.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Files")]
pub struct FileArgs {
    /// Begin another file before one is larger than so many millions of bytes, or as in 500k or 64MiB
    #[arg(short = 'C', long, value_name = "SIZE", value_parser = file_bytes, requires = "write")]
    pub file_size: Option<u64>,

    /// Begin another file after so many seconds, or as in 5m; names may have strftime's %H and the like
    #[arg(short = 'G', long, value_name = "SECONDS", value_parser = duration, requires = "write")]
    pub file_time: Option<Duration>,

    /// Begin another file after so many packets
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..), requires = "write")]
    pub file_packets: Option<u64>,

    /// Keep so many files, the newest: the oldest is deleted when another is begun
    #[arg(short = 'W', long, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..), requires = "write")]
    pub keep_files: Option<u32>,

    /// Stop after so many files
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u64).range(1..), requires = "write")]
    pub max_files: Option<u64>,

    /// Stop before there are more bytes than this in all files
    #[arg(long, value_name = "SIZE", value_parser = bytes, requires = "write")]
    pub max_bytes: Option<u64>,

    /// Do not tell what addresses are called
    #[arg(long)]
    pub no_names: bool,

    /// Call addresses by the names that DNS answers among the captured packets have for them, too
    #[arg(long, conflicts_with = "no_names")]
    pub dns_names: bool,

    /// Write a profile for Wireshark into a folder, and end: columns for pod and direction, colours, names from the file
    #[arg(long, value_name = "FOLDER")]
    pub wireshark_profile: Option<PathBuf>,

    /// What to write: pcapng, or classic pcap with nanoseconds (default: what the name says, or pcapng)
    #[arg(long, value_name = "FORMAT", value_parser = format(), requires = "write")]
    pub format: Option<Format>,
}

impl FileArgs {
    /// The place that packets go to, which is told names from DNS answers if that was asked for.
    pub fn named(&self, sink: Box<dyn Sink>) -> Box<dyn Sink> {
        if self.dns_names { Box::new(DnsNames::new(sink)) } else { sink }
    }

    /// What clap cannot tell from a single option; says what is wrong.
    ///
    /// # Errors
    ///
    /// When options do not go together.
    pub fn check(&self) -> Result<(), &'static str> {
        self.rotation().check()
    }

    /// How packets are to be written; compressed as the name says, if `packing` does not.
    pub fn manner(&self, packing: Option<Packing>) -> Manner {
        Manner { format: self.format, packing, rotation: self.rotation(), max_bytes: self.max_bytes }
    }

    fn rotation(&self) -> Rotation {
        Rotation {
            bytes: self.file_size,
            time: self.file_time,
            packets: self.file_packets,
            keep: self.keep_files.map(|files| files as usize),
            files: self.max_files,
        }
    }
}

/// The words for what a file is.
fn format() -> impl TypedValueParser<Value = Format> {
    let words = PossibleValuesParser::new(["pcapng", "pcap"]);
    words.map(|word| if word == "pcap" { Format::Pcap } else { Format::Pcapng })
}

/// The words for how a file is compressed.
pub const PACKINGS: [(&str, Packing); 2] = [("zstd", Packing::Zstd), ("gzip", Packing::Gzip)];

/// What one of them stands for.
pub fn packing_of(word: &str) -> Option<Packing> {
    PACKINGS.iter().find(|(its, _)| *its == word).map(|(_, packing)| *packing)
}

/// One of these words.
pub fn packing() -> impl TypedValueParser<Value = Packing> {
    let words = PossibleValuesParser::new(PACKINGS.map(|(word, _)| word));
    words.try_map(|word| packing_of(&word).ok_or("it is none of these"))
}

/// A size as tcpdump's `-C` takes it: a number is millions of bytes, and `k`, `m` and `g` are powers of 1024.
fn file_bytes(text: &str) -> Result<u64, String> {
    let bytes = match text.parse::<u64>() {
        Ok(millions) => millions.checked_mul(1_000_000).ok_or("that is more than a file can have")?,
        Err(_) => bytes(text)?,
    };
    if bytes < MIN_FILE_BYTES {
        return Err(format!("a file has {MIN_FILE_BYTES} bytes at least"));
    }
    Ok(bytes)
}

/// A size that is more than none.
fn bytes(text: &str) -> Result<u64, String> {
    match size(text)? {
        0 => Err("a size is more than 0".to_owned()),
        bytes => Ok(bytes),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_of_files_are_tcpdumps() {
        assert_eq!(file_bytes("1"), Ok(1_000_000));
        assert_eq!(file_bytes("500k"), Ok(500 << 10));
        assert_eq!(file_bytes("2M"), Ok(2 << 20));
        assert_eq!(file_bytes("1g"), Ok(1 << 30));
        assert_eq!(file_bytes("64MiB"), Ok(64 << 20));
        assert_eq!(file_bytes("50MB"), Ok(50_000_000));
        for bad in ["0", "1k", "99999999999999999999", "-1", "", "k", "x"] {
            assert!(file_bytes(bad).is_err(), "{bad}");
        }
        assert_eq!(bytes("1500"), Ok(1500));
        assert!(bytes("0").is_err());
    }

    #[test]
    fn a_number_of_seconds_needs_no_unit() {
        assert_eq!(duration("90"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("5m"), Ok(Duration::from_secs(300)));
        for bad in ["0", "", "-1", "soon"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }
}
