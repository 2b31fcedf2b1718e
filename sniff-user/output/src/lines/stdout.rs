//! Lines on standard output.

use std::io::{self, Stdout, Write as _};
#[cfg(unix)]
use std::os::fd::{AsFd as _, BorrowedFd};

use jiff::tz::TimeZone;
use log::info;
use sniff_pcapng::{EnhancedPacket, InterfaceDescription, blocks};

use super::{Printer, Style};
use crate::{Sink, cannot_write};

/// Bytes of lines that are written at once.
const WRITTEN_AT_ONCE: usize = 64 << 10;

/// Prints the packets among blocks; nothing else is printed.
pub struct Lines {
    stdout: Stdout,
    printer: Printer,
    /// Lines that are not written yet.
    lines: Vec<u8>,
}

impl Lines {
    /// Lines of a style, with times of the system's time zone.
    pub fn new(style: Style) -> Self {
        let is_colored = style.color.is_on();
        let printer = Printer::new(style, TimeZone::system(), is_colored);
        Self { stdout: io::stdout(), printer, lines: Vec::new() }
    }

    fn print(&mut self, bytes: &[u8]) -> io::Result<()> {
        for block in blocks(bytes) {
            let Ok(packet) = EnhancedPacket::parse(block) else {
                self.printer.learn(block);
                continue;
            };
            if let Some(news) = self.printer.news() {
                info!("{news}");
            }
            self.printer.print(&mut self.lines, &packet);
            if self.lines.len() >= WRITTEN_AT_ONCE {
                self.flush()?;
            }
        }
        self.flush()
    }

    fn flush(&mut self) -> io::Result<()> {
        let written = self.stdout.write_all(&self.lines).and_then(|()| self.stdout.flush());
        self.lines.clear();
        written
    }
}

impl Sink for Lines {
    fn interface(&mut self, description: &InterfaceDescription) {
        self.printer.interface(description);
    }

    fn write(&mut self, bytes: &[u8]) -> (usize, io::Result<()>) {
        match self.print(bytes) {
            Ok(()) => (bytes.len(), Ok(())),
            Err(error) => (0, Err(cannot_write("standard output", &error))),
        }
    }

    #[cfg(unix)]
    fn reader(&self) -> Option<BorrowedFd<'_>> {
        Some(self.stdout.as_fd())
    }
}
