//! A file, and lines of what is written there.

use std::io;
#[cfg(unix)]
use std::os::fd::BorrowedFd;

use log::info;
use sniff_pcapng::InterfaceDescription;

use crate::{Sink, file::CaptureFile, lines::Lines};

/// Writes blocks, and prints the packets that are written. When nobody reads the lines any more, the file goes on alone.
pub struct Both {
    file: CaptureFile,
    lines: Option<Lines>,
}

impl Both {
    /// One and the other.
    pub fn new(file: CaptureFile, lines: Lines) -> Self {
        Self { file, lines: Some(lines) }
    }

    fn print(&mut self, blocks: &[u8]) -> io::Result<()> {
        let Some(lines) = &mut self.lines else { return Ok(()) };
        match lines.write(blocks).1 {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                info!("nobody reads the lines any more; the file goes on");
                self.lines = None;
                Ok(())
            }
            other => other,
        }
    }
}

impl Sink for Both {
    fn interface(&mut self, description: &InterfaceDescription) {
        self.file.interface(description);
        if let Some(lines) = &mut self.lines {
            lines.interface(description);
        }
    }

    fn write(&mut self, blocks: &[u8]) -> (usize, io::Result<()>) {
        let (written, result) = self.file.write(blocks);
        let printed = self.print(&blocks[..written]);
        (written, result.and(printed))
    }

    #[cfg(unix)]
    fn reader(&self) -> Option<BorrowedFd<'_>> {
        self.file.reader()
    }
}
