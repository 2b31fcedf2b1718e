//! Where merged packets go: a file, standard output, Wireshark, lines on the terminal.
//!
//! A thread of its own writes, so that an output that stands still holds up the packets and nothing else.

use std::{
    fs::File,
    io::{self, BufWriter, IsTerminal as _, Seek as _, SeekFrom, Write},
    path::{Path, PathBuf},
    process::Child,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
};

use anyhow::{Context as _, Result, ensure};
use jiff::tz::TimeZone;
use log::info;
use tokio::sync::{mpsc, oneshot};

use super::wireshark;
use sniff_output::{
    file::{self, LinkTypes},
    lines,
};
use sniff_pcapng::{AnyBlock, BlockType, EnhancedPacket, InterfaceDescription, LinkType, PacketHead, blocks};

/// Pieces on their way to the thread. Each is at most what a piece of all sessions brings at once.
const QUEUED: usize = 4;
/// Most bytes that are written at once, but for a larger block.
const STEP: usize = 256 << 10;

/// What was asked for.
#[derive(Clone, Debug)]
pub enum Wanted {
    /// pcapng to a file or, as `-`, to standard output; and lines if `print`.
    Write {
        /// The file.
        path: PathBuf,
        /// Whether lines are printed too.
        print: bool,
    },
    /// Wireshark.
    Wireshark {
        /// The program.
        program: PathBuf,
        /// For its window.
        title: String,
    },
    /// Lines on standard output.
    Lines,
}

/// An output that is being written to.
pub struct Output {
    /// To be sent whole blocks, in order.
    pub blocks: mpsc::Sender<Vec<u8>>,
    /// Resolves when nothing more can be written: by an error, or because the reader went away.
    pub broken: oneshot::Receiver<Result<()>>,
    progress: Arc<Progress>,
    thread: JoinHandle<()>,
}

/// What the thread and its owner tell each other meanwhile.
#[derive(Debug, Default)]
pub struct Progress {
    written: AtomicU64,
    is_hurried: AtomicBool,
}

impl Progress {
    /// Packets that are in the output.
    pub fn written(&self) -> u64 {
        self.written.load(Ordering::Relaxed)
    }

    /// Has the thread end behind the block that it writes.
    pub fn hurry(&self) {
        self.is_hurried.store(true, Ordering::Relaxed);
    }
}

impl Output {
    /// Opens what was asked for.
    ///
    /// # Errors
    ///
    /// When it cannot be opened.
    pub fn open(wanted: &Wanted, progress: Arc<Progress>) -> Result<Self> {
        let mut sink = Sink::open(wanted)?;
        let (blocks, mut pieces) = mpsc::channel::<Vec<u8>>(QUEUED);
        let (done, broken) = oneshot::channel();
        let write = {
            let progress = Arc::clone(&progress);
            move || {
                let mut outcome = Ok(());
                while let Some(piece) = pieces.blocking_recv() {
                    outcome = sink.write(&piece, &progress);
                    if outcome.is_err() {
                        break;
                    }
                }
                // Nobody waits for it once the capture has ended.
                let _ = done.send(outcome.and_then(|()| sink.close()));
            }
        };
        let thread = thread::Builder::new().name("output".into()).spawn(write)?;
        Ok(Self { blocks, broken, progress, thread })
    }

    /// How far it is.
    pub fn progress(&self) -> &Progress {
        &self.progress
    }

    /// Writes what is queued, and closes.
    ///
    /// # Errors
    ///
    /// When not everything could be written. A reader that went away is no error.
    pub async fn close(self) -> Result<()> {
        drop(self.blocks);
        let outcome = self.broken.await.context("the output's thread has ended")?;
        // The thread has said its last.
        drop(self.thread);
        match outcome {
            Err(error) if is_closed_pipe(&error) => Ok(()),
            outcome => outcome,
        }
    }
}

/// A reader that has seen enough is no failure.
pub fn is_closed_pipe(error: &anyhow::Error) -> bool {
    let causes = error.chain().filter_map(|cause| cause.downcast_ref::<io::Error>());
    causes.into_iter().any(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

/// The open ends.
struct Sink {
    pcapng: Option<Pcapng>,
    lines: Option<Lines>,
    wireshark: Option<Child>,
}

impl Sink {
    fn open(wanted: &Wanted) -> Result<Self> {
        let mut sink = Self { pcapng: None, lines: None, wireshark: None };
        match wanted {
            Wanted::Write { path, print } => {
                sink.pcapng = Some(Pcapng::open(path)?);
                sink.lines = print.then(Lines::new);
            }
            Wanted::Wireshark { program, title } => {
                let mut child = wireshark::open(program, title)?;
                let pipe = child.stdin.take().context("Wireshark without a pipe")?;
                sink.pcapng = Some(Pcapng::to_reader(Box::new(pipe)));
                sink.wireshark = Some(child);
            }
            Wanted::Lines => sink.lines = Some(Lines::new()),
        }
        Ok(sink)
    }

    /// Writes blocks step by step, and counts the packets in those that it has written whole.
    fn write(&mut self, mut rest: &[u8], progress: &Progress) -> Result<()> {
        while !rest.is_empty() {
            ensure!(
                !progress.is_hurried.load(Ordering::Relaxed),
                "ended before all that had come was written"
            );
            let (step, later) = rest.split_at(first_step(rest));
            let (written, outcome) = match &mut self.pcapng {
                Some(pcapng) => pcapng.write(step),
                None => (step.len(), Ok(())),
            };
            let printed = self.print(&step[..written]);
            if self.pcapng.is_some() || printed.is_ok() {
                let packets = blocks(&step[..written]).filter(|block| PacketHead::parse(block).is_ok());
                progress.written.fetch_add(packets.count() as u64, Ordering::Relaxed);
            }
            outcome.and(printed)?;
            rest = later;
        }
        Ok(())
    }

    /// Prints packets. Without a reader of the lines, a file goes on alone.
    fn print(&mut self, blocks: &[u8]) -> Result<()> {
        let Some(lines) = &mut self.lines else { return Ok(()) };
        match lines.write(blocks) {
            Err(error) if self.pcapng.is_some() && is_closed_pipe(&error) => {
                info!("nobody reads the lines any more; the file goes on");
                self.lines = None;
                Ok(())
            }
            outcome => outcome,
        }
    }

    fn close(&mut self) -> Result<()> {
        self.pcapng = None;
        // Wireshark goes on showing what it got.
        self.wireshark = None;
        Ok(())
    }
}

/// How many bytes at the start of `bytes` to write at once: whole blocks.
fn first_step(bytes: &[u8]) -> usize {
    let ends = blocks(bytes).scan(0, |end, block| {
        *end += block.len();
        Some(*end)
    });
    let mut ends = ends.peekable();
    let first = ends.peek().copied().unwrap_or(bytes.len());
    ends.take_while(|&end| end <= STEP).last().unwrap_or(first)
}

/// Where pcapng goes.
struct Pcapng {
    to: Box<dyn Write + Send>,
    /// The same once more, if it is a file of ours alone, and how many bytes are in it: all of them whole blocks.
    file: Option<(File, u64)>,
    /// Of a file, with its name; whoever reads a pipe is there to say what it cannot read.
    link_types: Option<(LinkTypes, String)>,
}

impl Pcapng {
    fn open(path: &Path) -> Result<Self> {
        if path == Path::new("-") {
            let stdout = io::stdout();
            ensure!(!stdout.is_terminal(), "packets are not for a terminal: write to a file, or into a pipe");
            return Ok(Self::to_reader(Box::new(stdout)));
        }
        let file = file::create(path)?;
        let is_file = file.metadata()?.is_file();
        let link_types = is_file.then(|| (LinkTypes::default(), path.display().to_string()));
        Ok(Self { to: Box::new(file.try_clone()?), file: Some((file, 0)), link_types })
    }

    /// To a reader.
    fn to_reader(to: Box<dyn Write + Send>) -> Self {
        Self { to, file: None, link_types: None }
    }

    /// Writes blocks, and tells how many bytes of whole ones were. If it fails half-way, a file ends behind the last
    /// whole block.
    fn write(&mut self, bytes: &[u8]) -> (usize, Result<()>) {
        let (done, outcome) = write_as_much(&mut self.to, bytes);
        let whole = match &outcome {
            Ok(()) => done,
            Err(_) => whole_blocks(&bytes[..done]),
        };
        if let Some((file, written)) = &mut self.file {
            *written += whole as u64;
            if outcome.is_err() {
                // If even that fails, the file has a torn block at its end, which readers report.
                let _ = file.set_len(*written);
                let _ = file.seek(SeekFrom::Start(*written));
            }
        }
        (whole, outcome.context("cannot write").and_then(|()| self.meet_link_types(bytes)))
    }

    fn meet_link_types(&mut self, bytes: &[u8]) -> Result<()> {
        let Some((link_types, name)) = &mut self.link_types else { return Ok(()) };
        for block in blocks(bytes) {
            let block = AnyBlock::first(block)?;
            if block.block_type == BlockType::Interface {
                link_types.meet(InterfaceDescription::parse(block.bytes)?.link_type, name);
            }
        }
        Ok(())
    }
}

/// Bytes of the whole blocks at the start of `bytes`.
fn whole_blocks(bytes: &[u8]) -> usize {
    blocks(bytes).map(<[u8]>::len).sum()
}

/// As `write_all` and `flush`, and tells how far it came.
fn write_as_much(to: &mut impl Write, bytes: &[u8]) -> (usize, io::Result<()>) {
    let mut done = 0;
    while done < bytes.len() {
        match to.write(&bytes[done..]) {
            Ok(0) => return (done, Err(io::ErrorKind::WriteZero.into())),
            Ok(len) => done += len,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return (done, Err(error)),
        }
    }
    (done, to.flush())
}

/// Prints packets.
struct Lines {
    stdout: BufWriter<io::Stdout>,
    zone: TimeZone,
    /// Name and link type of each interface.
    interfaces: Vec<(String, LinkType)>,
}

impl Lines {
    fn new() -> Self {
        Self { stdout: BufWriter::new(io::stdout()), zone: TimeZone::system(), interfaces: Vec::new() }
    }

    fn write(&mut self, mut blocks: &[u8]) -> Result<()> {
        while !blocks.is_empty() {
            let block = AnyBlock::first(blocks)?;
            match block.block_type {
                BlockType::Interface => {
                    let InterfaceDescription { link_type, name, .. } =
                        InterfaceDescription::parse(block.bytes)?;
                    self.interfaces.push((name, link_type));
                }
                BlockType::Packet => self.packet(&EnhancedPacket::parse(block.bytes)?)?,
                BlockType::Section | BlockType::Statistics | BlockType::Watermark | BlockType::Other(_) => {}
            }
            blocks = &blocks[block.bytes.len()..];
        }
        self.stdout.flush().context("cannot write to standard output")
    }

    fn packet(&mut self, packet: &EnhancedPacket<'_>) -> Result<()> {
        let Some((name, link_type)) = self.interfaces.get(packet.interface as usize) else {
            return Ok(());
        };
        lines::write_line(&mut self.stdout, &self.zone, name, *link_type, packet)
            .context("cannot write to standard output")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sniff_pcapng::{SectionHeader, Watermark};

    /// Blocks of 20 bytes.
    fn twenty(count: u64) -> Vec<u8> {
        (0..count).flat_map(|time_ns| Watermark { time_ns }.block()).collect()
    }

    #[test]
    fn steps_are_whole_blocks() {
        assert_eq!(first_step(&twenty(3)), 60);
        assert_eq!(first_step(&twenty(20_000)), STEP / 20 * 20);
        let mut long = Vec::new();
        SectionHeader { comment: Some("x".repeat(60_000)), ..SectionHeader::default() }.write(&mut long);
        let large: Vec<u8> = [&long[..], &twenty(2)].concat();
        assert_eq!(first_step(&large), large.len());
        assert_eq!(first_step(b"no block"), 8);
    }

    #[test]
    fn what_is_torn_is_not_counted() {
        assert_eq!(whole_blocks(&twenty(3)[..59]), 40);
        assert_eq!(whole_blocks(&[]), 0);
    }
}
