//! Where packets go: a pcapng file or pipe, lines on the terminal, or both.

use std::{
    fs::File,
    io::{self, BufWriter, IsTerminal as _, Seek as _, SeekFrom, Stdout, Write as _},
    os::fd::{AsFd as _, BorrowedFd},
    path::Path,
};

use anyhow::{Context as _, Result, ensure};
use bytes::{BufMut as _, BytesMut};

use crate::{
    pcapng::{EnhancedPacket, InterfaceDescription, LinkType},
    text,
};

/// Blocks are collected up to this many bytes before they are written at once.
const BATCH_BYTES: usize = 1 << 20;
/// And up to this many packets, where only lines are printed.
const BATCH_PACKETS: usize = 1 << 14;

/// What became of the packets of one interface.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Delivery {
    /// Packets that were written or printed.
    pub delivered: u64,
    /// Packets that came out of the ring and were not: beyond `--count`, or the output failed.
    pub discarded: u64,
}

/// The outputs of one capture.
pub struct Output {
    pcapng: Option<Pcapng>,
    lines: Option<BufWriter<Stdout>>,
    /// Each interface's name and link type, by pcapng interface id.
    interfaces: Vec<(String, LinkType)>,
    deliveries: Vec<Delivery>,
    /// Interfaces of the packets that are collected and not handed on yet.
    pending: Vec<u32>,
}

impl Output {
    /// Opens the outputs. With no `path`, packets are printed.
    ///
    /// # Errors
    ///
    /// When the file cannot be made, or packets would go to a terminal as pcapng.
    pub fn open(path: Option<&Path>, print: bool) -> Result<Self> {
        let pcapng = path.map(Pcapng::open).transpose()?;
        let lines = (print || path.is_none()).then(|| BufWriter::new(io::stdout()));
        Ok(Self { pcapng, lines, interfaces: Vec::new(), deliveries: Vec::new(), pending: Vec::new() })
    }

    /// Writes a block that is not a packet: section header, statistics.
    ///
    /// # Errors
    ///
    /// When the output fails.
    pub fn block(&mut self, block: &[u8]) -> io::Result<()> {
        self.make_room_for(block)?;
        if let Some(pcapng) = &mut self.pcapng {
            pcapng.batch.put_slice(block);
        }
        Ok(())
    }

    /// Writes the description of an interface, whose id is the number of those before it. It comes before the
    /// first packet of the interface.
    ///
    /// # Errors
    ///
    /// When the output fails.
    pub fn interface(&mut self, description: &InterfaceDescription) -> io::Result<()> {
        self.interfaces.push((description.name.clone(), description.link_type));
        self.deliveries.push(Delivery::default());
        let mut block = Vec::new();
        description.write(&mut block);
        self.block(&block)
    }

    /// Whether the interface was described.
    pub fn knows(&self, interface: u32) -> bool {
        (interface as usize) < self.interfaces.len()
    }

    /// Writes and prints a packet of an interface that was described.
    ///
    /// # Errors
    ///
    /// When the output fails; the packet then counts as discarded.
    pub fn packet(&mut self, packet: &EnhancedPacket<'_>, block: &[u8]) -> io::Result<()> {
        if let Err(error) = self.make_room_for(block) {
            self.discard(packet.interface);
            return Err(error);
        }
        self.pending.push(packet.interface);
        if let Some(pcapng) = &mut self.pcapng {
            pcapng.batch.put_slice(block);
            pcapng.ends.push(pcapng.batch.len());
        }
        self.print(packet)
    }

    /// Counts a packet that is not to be written.
    pub fn discard(&mut self, interface: u32) {
        self.deliveries[interface as usize].discarded += 1;
    }

    /// Hands on what was collected.
    ///
    /// # Errors
    ///
    /// When the output fails. Printed lines that nobody reads any more are no failure while there is a file.
    pub fn flush(&mut self) -> io::Result<()> {
        let (written, result) = match &mut self.pcapng {
            Some(pcapng) => pcapng.flush(),
            None => (self.pending.len(), Ok(())),
        };
        let printed = self.lines.as_mut().map_or(Ok(()), BufWriter::flush);
        let printed = self.lines_result(printed);
        let lost_with_lines = self.pcapng.is_none() && printed.is_err();
        for (i, interface) in self.pending.drain(..).enumerate() {
            let delivery = &mut self.deliveries[interface as usize];
            if i < written && !lost_with_lines {
                delivery.delivered += 1;
            } else {
                delivery.discarded += 1;
            }
        }
        result.and(printed)
    }

    /// The descriptor that tells when nobody reads any more.
    pub fn reader(&self) -> Option<BorrowedFd<'_>> {
        match (&self.pcapng, &self.lines) {
            (Some(pcapng), _) => Some(pcapng.file.as_fd()),
            (None, Some(lines)) => Some(lines.get_ref().as_fd()),
            (None, None) => None,
        }
    }

    /// What became of the packets of an interface.
    pub fn delivery(&self, interface: u32) -> Delivery {
        self.deliveries.get(interface as usize).copied().unwrap_or_default()
    }

    fn make_room_for(&mut self, block: &[u8]) -> io::Result<()> {
        let is_full = |pcapng: &Pcapng| pcapng.batch.len() + block.len() > BATCH_BYTES;
        if self.pcapng.as_ref().is_some_and(is_full) || self.pending.len() == BATCH_PACKETS {
            self.flush()?;
        }
        Ok(())
    }

    fn print(&mut self, packet: &EnhancedPacket<'_>) -> io::Result<()> {
        let Some(lines) = &mut self.lines else { return Ok(()) };
        let (name, link_type) = &self.interfaces[packet.interface as usize];
        let printed = text::write_line(lines, name, *link_type, packet);
        self.lines_result(printed)
    }

    /// Without a reader of the lines, a file goes on alone.
    fn lines_result(&mut self, result: io::Result<()>) -> io::Result<()> {
        match result {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe && self.pcapng.is_some() => {
                self.lines = None;
                Ok(())
            }
            other => other.map_err(|error| cannot_write("standard output", &error)),
        }
    }
}

/// A pcapng file or pipe.
struct Pcapng {
    file: File,
    name: String,
    /// Bytes in the file, all of them whole blocks; unknown where others write too.
    written: Option<u64>,
    batch: BytesMut,
    /// Where the packets in `batch` end.
    ends: Vec<usize>,
}

impl Pcapng {
    fn open(path: &Path) -> Result<Self> {
        let (file, name, written) = if path == "-" {
            (File::from(io::stdout().as_fd().try_clone_to_owned()?), "standard output".to_owned(), None)
        } else {
            let name = path.display().to_string();
            let file = File::create(path).with_context(|| format!("cannot write {name}"))?;
            (file, name, Some(0))
        };
        ensure!(
            !file.is_terminal(),
            "pcapng is not for a terminal: write to a file or a pipe, as in `sniff -w - … | wireshark -k -i -`"
        );
        Ok(Self { file, name, written, batch: BytesMut::with_capacity(BATCH_BYTES), ends: Vec::new() })
    }

    /// Writes the batch, and tells how many of its packets were. If it fails half-way, the file ends behind the
    /// last whole packet.
    fn flush(&mut self) -> (usize, io::Result<()>) {
        let (done, result) = write_as_much(&mut self.file, &self.batch);
        let packets = self.ends.iter().take_while(|&&end| end <= done).count();
        match (&result, &mut self.written) {
            (Ok(()), Some(written)) => *written += done as u64,
            (Err(_), Some(written)) => {
                *written += self.ends[..packets].last().map_or(0, |&end| end as u64);
                // If even that fails, the file has a torn block at its end, which readers report.
                let _ = self.file.set_len(*written);
                let _ = self.file.seek(SeekFrom::Start(*written));
            }
            // What is in a pipe, or in a file that others write too, cannot be taken back.
            (_, None) => {}
        }
        self.batch.clear();
        self.ends.clear();
        (packets, result.map_err(|error| cannot_write(&self.name, &error)))
    }
}

/// As `write_all`, and tells how far it came.
fn write_as_much(file: &mut File, bytes: &[u8]) -> (usize, io::Result<()>) {
    let mut done = 0;
    while done < bytes.len() {
        match file.write(&bytes[done..]) {
            Ok(0) => return (done, Err(io::ErrorKind::WriteZero.into())),
            Ok(n) => done += n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return (done, Err(error)),
        }
    }
    (done, Ok(()))
}

fn cannot_write(name: &str, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("cannot write {name}: {error}"))
}
