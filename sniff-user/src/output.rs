//! Where packets go: a pcapng file or pipe, lines on the terminal, or both.

use std::{
    fs::File,
    io::{self, IsTerminal as _, Write as _},
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
    lines: Option<io::BufWriter<io::Stdout>>,
    /// Each interface's name and link type, by pcapng interface id.
    interfaces: Vec<(String, LinkType)>,
    deliveries: Vec<Delivery>,
}

impl Output {
    /// Opens the outputs. With no `path`, packets are printed.
    ///
    /// # Errors
    ///
    /// When the file cannot be made, or packets would go to a terminal as pcapng.
    pub fn open(path: Option<&Path>, print: bool) -> Result<Self> {
        let pcapng = path.map(Pcapng::open).transpose()?;
        let lines = (print || path.is_none()).then(|| io::BufWriter::new(io::stdout()));
        Ok(Self {
            pcapng,
            lines,
            interfaces: Vec::new(),
            deliveries: Vec::new(),
        })
    }

    /// Writes a block that is not a packet: section header, statistics.
    ///
    /// # Errors
    ///
    /// When the output fails.
    pub fn block(&mut self, block: &[u8]) -> io::Result<()> {
        match &mut self.pcapng {
            Some(pcapng) => pcapng.put(block, None, &mut self.deliveries),
            None => Ok(()),
        }
    }

    /// Writes the description of an interface, whose id is the number of those before it. It comes before the
    /// first packet of the interface.
    ///
    /// # Errors
    ///
    /// When the output fails.
    pub fn interface(&mut self, description: &InterfaceDescription) -> io::Result<()> {
        self.interfaces
            .push((description.name.clone(), description.link_type));
        let mut block = Vec::new();
        description.write(&mut block);
        self.deliveries.push(Delivery::default());
        self.block(&block)
    }

    /// Writes and prints a packet.
    ///
    /// # Errors
    ///
    /// When the output fails.
    pub fn packet(&mut self, packet: &EnhancedPacket<'_>, block: &[u8]) -> io::Result<()> {
        let interface = packet.interface as usize;
        if let Some(lines) = &mut self.lines {
            let (name, link_type) = &self.interfaces[interface];
            text::write_line(lines, name, *link_type, packet)?;
        }
        match &mut self.pcapng {
            Some(pcapng) => pcapng.put(block, Some(interface), &mut self.deliveries),
            None => {
                self.deliveries[interface].delivered += 1;
                Ok(())
            }
        }
    }

    /// Counts a packet that is not to be written.
    pub fn discard(&mut self, interface: u32) {
        self.deliveries[interface as usize].discarded += 1;
    }

    /// Hands on what was collected.
    ///
    /// # Errors
    ///
    /// When the output fails.
    pub fn flush(&mut self) -> io::Result<()> {
        if let Some(lines) = &mut self.lines {
            lines.flush()?;
        }
        match &mut self.pcapng {
            Some(pcapng) => pcapng.flush(&mut self.deliveries),
            None => Ok(()),
        }
    }

    /// The descriptor that tells when nobody reads any more.
    pub fn reader(&self) -> Option<BorrowedFd<'_>> {
        match (&self.pcapng, &self.lines) {
            (Some(pcapng), _) => Some(pcapng.file.as_fd()),
            (None, Some(lines)) => Some(lines.get_ref().as_fd()),
            (None, None) => None,
        }
    }

    /// What became of the packets, by pcapng interface id.
    pub fn deliveries(&self) -> &[Delivery] {
        &self.deliveries
    }
}

/// A pcapng file or pipe.
struct Pcapng {
    file: File,
    name: String,
    /// Bytes in the file, all of them whole blocks.
    written: u64,
    batch: BytesMut,
    /// The packets in `batch`: end of the block in it, and the interface.
    packets: Vec<(usize, usize)>,
}

impl Pcapng {
    fn open(path: &Path) -> Result<Self> {
        let (file, name) = if path == "-" {
            let stdout = io::stdout();
            ensure!(
                !stdout.is_terminal(),
                "pcapng is not for a terminal: redirect standard output, as in `sniff -w - … | wireshark -k -i -`"
            );
            (
                File::from(stdout.as_fd().try_clone_to_owned()?),
                "standard output".to_owned(),
            )
        } else {
            let name = path.display().to_string();
            (
                File::create(path).with_context(|| format!("cannot write {name}"))?,
                name,
            )
        };
        Ok(Self {
            file,
            name,
            written: 0,
            batch: BytesMut::with_capacity(BATCH_BYTES),
            packets: Vec::new(),
        })
    }

    fn put(
        &mut self,
        block: &[u8],
        packet_of: Option<usize>,
        deliveries: &mut [Delivery],
    ) -> io::Result<()> {
        if self.batch.len() + block.len() > BATCH_BYTES {
            self.flush(deliveries)?;
        }
        self.batch.put_slice(block);
        if let Some(interface) = packet_of {
            self.packets.push((self.batch.len(), interface));
        }
        Ok(())
    }

    /// Writes the batch. If that fails half-way, the file ends behind the last whole packet.
    fn flush(&mut self, deliveries: &mut [Delivery]) -> io::Result<()> {
        let (done, result) = write_as_much(&mut self.file, &self.batch);
        let whole = if result.is_ok() {
            done
        } else {
            self.cut_to_whole_packet(done)
        };
        for (end, interface) in self.packets.drain(..) {
            if end <= whole {
                deliveries[interface].delivered += 1;
            } else {
                deliveries[interface].discarded += 1;
            }
        }
        self.written += whole as u64;
        self.batch.clear();
        result.map_err(|error| {
            io::Error::new(error.kind(), format!("cannot write {}: {error}", self.name))
        })
    }

    /// Returns how much of the batch stays, given that `done` bytes of it were written.
    fn cut_to_whole_packet(&mut self, done: usize) -> usize {
        let whole = self
            .packets
            .iter()
            .map(|&(end, _)| end)
            .take_while(|&end| end <= done)
            .last()
            .unwrap_or(0);
        // A pipe cannot be cut; its reader is gone or has what it has.
        let _ = self.file.set_len(self.written + whole as u64);
        let _ = io::Seek::seek(
            &mut self.file,
            io::SeekFrom::Start(self.written + whole as u64),
        );
        whole
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
