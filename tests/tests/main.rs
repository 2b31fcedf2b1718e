//! Integration tests: each builds a topology, runs the built `sniff` in it, and checks what it did.
//!
//! `cargo xtask test` runs them; they need root and the tools that it installs, and fail, never
//! skip, without.

mod accounts;
mod against_tcpdump;
mod attach;
mod bad_input;
mod file;
mod frames;
mod stopping;
mod targets;
mod text;

use std::path::{Path, PathBuf};

use sniff_tests::pcap::{self, Direction, Packet, PcapNg};
use tempfile::TempDir;

/// A directory with room for one capture file; removed on drop.
struct Capture {
    _directory: TempDir,
    file: PathBuf,
}

impl Capture {
    fn new() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        Self { file: directory.path().join("sniff.pcapng"), _directory: directory }
    }

    /// The file's name, for the command line.
    fn arg(&self) -> &str {
        self.file.to_str().expect("a plain path")
    }

    fn path(&self) -> &Path {
        &self.file
    }

    fn read(&self) -> PcapNg {
        pcap::read_pcapng(&self.file)
    }
}

/// Counts packets that went `direction` and hold an ICMP echo request or reply.
///
/// Payloads of `size` bytes only, so that one test can tell its pings apart.
fn echoes(packets: &[Packet], direction: Direction, size: u32) -> usize {
    const ETHERNET_IPV4_ICMP: u32 = 14 + 20 + 8;
    const PROTOCOL: usize = 14 + 9;
    let wanted = |packet: &&Packet| {
        packet.direction == Some(direction)
            && packet.original_len == ETHERNET_IPV4_ICMP + size
            && packet.data[12..14] == [0x08, 0x00]
            && packet.data[PROTOCOL] == 1
    };
    packets.iter().filter(wanted).count()
}
