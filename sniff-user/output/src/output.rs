//! Where packets go: a pcapng file or pipe, lines on the terminal, or both.

use std::{
    fs::File,
    io::{self, BufWriter, IsTerminal as _, Seek as _, SeekFrom, Stdout, Write as _},
    mem,
    os::fd::{AsFd as _, BorrowedFd},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use anyhow::{Result, ensure};
use bytes::{BufMut as _, BytesMut};
use jiff::tz::TimeZone;
use sniff_pcapng::{EnhancedPacket, InterfaceDescription, LinkType, PacketHead, blocks};

use crate::{
    file::{self, LinkTypes},
    lines,
};

/// Blocks are collected up to this many bytes before they are written at once. Not more: where ext4 has large folios
/// (Linux 6.18), a write of 512 KiB or 1 MiB has cost five times as much a byte as one of 256 KiB.
const BATCH_BYTES: usize = 256 << 10;
/// Runs of this many bytes are not collected but written as they lie in the ring.
const DIRECT_BYTES: usize = 64 << 10;

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
    /// Of the times in the lines.
    zone: TimeZone,
    /// Each interface's name and link type, by pcapng interface id.
    interfaces: Vec<(String, LinkType)>,
    deliveries: Vec<Delivery>,
    /// Packets that were written or printed, of all interfaces.
    delivered: Arc<AtomicU64>,
    /// Blocks that are collected and not handed on yet.
    batch: BytesMut,
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
        let batch = BytesMut::with_capacity(BATCH_BYTES);
        let delivered = Arc::default();
        let (interfaces, deliveries) = (Vec::new(), Vec::new());
        Ok(Self { pcapng, lines, zone: TimeZone::system(), interfaces, deliveries, delivered, batch })
    }

    /// Writes a block that is not a packet: section header, statistics.
    ///
    /// # Errors
    ///
    /// When the output fails.
    pub fn block(&mut self, block: &[u8]) -> io::Result<()> {
        self.collect(block)
    }

    /// Writes the description of an interface, whose id is the number of those before it. It comes before the
    /// first packet of the interface.
    ///
    /// # Errors
    ///
    /// When the output fails.
    pub fn interface(&mut self, description: &InterfaceDescription) -> io::Result<()> {
        self.interfaces.push((description.name.clone(), description.link_type));
        if let Some(Pcapng { name, link_types: Some(link_types), .. }) = &mut self.pcapng {
            link_types.meet(description.link_type, name);
        }
        self.deliveries.push(Delivery::default());
        let mut block = Vec::new();
        description.write(&mut block);
        self.block(&block)
    }

    /// Writes and prints a run of packets, whose interfaces were described.
    ///
    /// # Errors
    ///
    /// When the output fails; what was not written counts as discarded.
    pub fn packets(&mut self, run: &[u8]) -> io::Result<()> {
        if run.len() < DIRECT_BYTES {
            return self.collect(run);
        }
        self.flush().inspect_err(|_| self.discard(run))?;
        self.hand_on(run)
    }

    /// Counts packets that are not to be written.
    pub fn discard(&mut self, run: &[u8]) {
        self.count(run, |delivery| &mut delivery.discarded);
    }

    /// Hands on what was collected.
    ///
    /// # Errors
    ///
    /// When the output fails. Printed lines that nobody reads any more are no failure while there is a file.
    pub fn flush(&mut self) -> io::Result<()> {
        let mut batch = mem::take(&mut self.batch);
        let result = self.hand_on(&batch);
        batch.clear();
        self.batch = batch;
        result
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

    /// How many packets were written or printed, of all interfaces; others may look at it meanwhile.
    pub fn delivered(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.delivered)
    }

    fn collect(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.batch.len() + bytes.len() > BATCH_BYTES {
            self.flush().inspect_err(|_| self.discard(bytes))?;
        }
        self.batch.put_slice(bytes);
        Ok(())
    }

    /// Writes and prints blocks, and counts the packets among them as what became of them.
    fn hand_on(&mut self, bytes: &[u8]) -> io::Result<()> {
        let (written, result) = match &mut self.pcapng {
            Some(pcapng) => pcapng.write(bytes),
            None => (bytes.len(), Ok(())),
        };
        let printed = self.print(&bytes[..written]);
        let lost_with_lines = self.pcapng.is_none() && printed.is_err();
        let (delivered, discarded) = bytes.split_at(if lost_with_lines { 0 } else { written });
        let count = self.count(delivered, |delivery| &mut delivery.delivered);
        self.delivered.fetch_add(count, Ordering::Relaxed);
        self.discard(discarded);
        result.and(printed)
    }

    /// Counts packets, and tells how many there were.
    fn count(&mut self, bytes: &[u8], what: impl Fn(&mut Delivery) -> &mut u64) -> u64 {
        let mut count = 0;
        for head in heads(bytes) {
            if let Some(delivery) = self.deliveries.get_mut(head.interface as usize) {
                *what(delivery) += 1;
                count += 1;
            }
        }
        count
    }

    fn print(&mut self, bytes: &[u8]) -> io::Result<()> {
        let Some(lines) = &mut self.lines else { return Ok(()) };
        let mut print = || {
            for packet in blocks(bytes).filter_map(|block| EnhancedPacket::parse(block).ok()) {
                let (name, link_type) = &self.interfaces[packet.interface as usize];
                lines::write_line(lines, &self.zone, name, *link_type, &packet)?;
            }
            lines.flush()
        };
        let printed = print();
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
    /// Of a file; whoever reads a pipe is there to say what it cannot read.
    link_types: Option<LinkTypes>,
    /// Bytes in the file, all of them whole blocks; unknown where others write too.
    written: Option<u64>,
}

impl Pcapng {
    fn open(path: &Path) -> Result<Self> {
        let (file, name, written) = if path == "-" {
            (File::from(io::stdout().as_fd().try_clone_to_owned()?), "standard output".to_owned(), None)
        } else {
            let name = path.display().to_string();
            (file::create(path)?, name, Some(0))
        };
        ensure!(
            !file.is_terminal(),
            "pcapng is not for a terminal: write to a file or a pipe, as in `sniff -w - … | wireshark -k -i -`"
        );
        let link_types = file.metadata()?.is_file().then(LinkTypes::default);
        Ok(Self { file, name, link_types, written })
    }

    /// Writes blocks, and tells how many bytes of whole ones were. If it fails half-way, the file ends behind the last
    /// whole block.
    fn write(&mut self, bytes: &[u8]) -> (usize, io::Result<()>) {
        let (done, result) = write_as_much(&mut self.file, bytes);
        let Err(error) = result else {
            self.written = self.written.map(|before| before + done as u64);
            return (done, Ok(()));
        };
        let whole = blocks(bytes).map(<[u8]>::len).scan(0, |end, len| {
            *end += len;
            Some(*end)
        });
        let whole = whole.take_while(|&end| end <= done).last().unwrap_or(0);
        // What is in a pipe, or in a file that others write too, cannot be taken back.
        if let Some(written) = &mut self.written {
            *written += whole as u64;
            // If even that fails, the file has a torn block at its end, which readers report.
            let _ = self.file.set_len(*written);
            let _ = self.file.seek(SeekFrom::Start(*written));
        }
        (whole, Err(cannot_write(&self.name, &error)))
    }
}

/// The packets among blocks.
fn heads(bytes: &[u8]) -> impl Iterator<Item = PacketHead> {
    blocks(bytes).filter_map(|block| PacketHead::parse(block).ok())
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
