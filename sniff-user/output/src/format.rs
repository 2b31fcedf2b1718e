//! What capture files are, and how their names say it.

use std::{ffi::OsStr, path::Path};

/// What a capture file is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// Everything that is known of packets and interfaces.
    #[default]
    Pcapng,
    /// Classic pcap with times in nanoseconds: packets of one link type, and nothing about them.
    Pcap,
}

/// How a file is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Packing {
    /// zstd.
    Zstd,
    /// gzip.
    Gzip,
}

/// What a name says by its endings, as far as they are known.
pub(crate) fn by_name(path: &Path) -> (Option<Format>, Option<Packing>) {
    let ending =
        |path: &Path| path.extension().and_then(OsStr::to_str).unwrap_or_default().to_ascii_lowercase();
    let packing = match ending(path).as_str() {
        "zst" | "zstd" => Some(Packing::Zstd),
        "gz" => Some(Packing::Gzip),
        _ => None,
    };
    let inner = if packing.is_some() { path.with_extension("") } else { path.to_owned() };
    let format = match ending(&inner).as_str() {
        "pcapng" | "ntar" => Some(Format::Pcapng),
        "pcap" | "cap" | "dmp" => Some(Format::Pcap),
        _ => None,
    };
    (format, packing)
}

impl Format {
    /// The ending of a name.
    pub(crate) fn ending(self) -> &'static str {
        match self {
            Self::Pcapng => "pcapng",
            Self::Pcap => "pcap",
        }
    }
}

impl Packing {
    /// The ending of a name.
    pub(crate) fn ending(self) -> &'static str {
        match self {
            Self::Zstd => "zst",
            Self::Gzip => "gz",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_say_what_files_are() {
        for (name, expected) in [
            ("a.pcapng", (Some(Format::Pcapng), None)),
            ("a.pcap", (Some(Format::Pcap), None)),
            ("a.pcap.zstd", (Some(Format::Pcap), Some(Packing::Zstd))),
            ("a", (None, None)),
        ] {
            assert_eq!(by_name(Path::new(name)), expected, "{name}");
        }
    }
}
