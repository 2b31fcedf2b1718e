//! Lines on standard output.

use std::io::{self, BufWriter, Stdout, Write as _};
#[cfg(unix)]
use std::os::fd::{AsFd as _, BorrowedFd};

use jiff::tz::TimeZone;
use sniff_pcapng::{EnhancedPacket, InterfaceDescription, LinkType, blocks};

use super::write_line;
use crate::{Sink, cannot_write};

/// Prints the packets among blocks; nothing else is printed.
pub struct Lines {
    stdout: BufWriter<Stdout>,
    /// Of the times.
    zone: TimeZone,
    /// Each interface's name and link type, by pcapng interface id.
    interfaces: Vec<(String, LinkType)>,
}

impl Default for Lines {
    fn default() -> Self {
        Self::new()
    }
}

impl Lines {
    /// Lines with times of the system's time zone.
    pub fn new() -> Self {
        Self { stdout: BufWriter::new(io::stdout()), zone: TimeZone::system(), interfaces: Vec::new() }
    }

    fn print(&mut self, bytes: &[u8]) -> io::Result<()> {
        for packet in blocks(bytes).filter_map(|block| EnhancedPacket::parse(block).ok()) {
            if let Some((name, link_type)) = self.interfaces.get(packet.interface as usize) {
                write_line(&mut self.stdout, &self.zone, name, *link_type, &packet)?;
            }
        }
        self.stdout.flush()
    }
}

impl Sink for Lines {
    fn interface(&mut self, description: &InterfaceDescription) {
        self.interfaces.push((description.name.clone(), description.link_type));
    }

    fn write(&mut self, bytes: &[u8]) -> (usize, io::Result<()>) {
        match self.print(bytes) {
            Ok(()) => (bytes.len(), Ok(())),
            Err(error) => (0, Err(cannot_write("standard output", &error))),
        }
    }

    #[cfg(unix)]
    fn reader(&self) -> Option<BorrowedFd<'_>> {
        Some(self.stdout.get_ref().as_fd())
    }
}
