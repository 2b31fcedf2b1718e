//! Where merged packets go: a file, standard output, Wireshark, lines on the terminal.
//!
//! A thread of its own writes, so that an output that stands still holds up the packets and nothing else.

use std::{
    fs::File,
    io::{self, BufWriter, IsTerminal as _, Write},
    path::{Path, PathBuf},
    process::Child,
    thread::{self, JoinHandle},
};

use anyhow::{Context as _, Result, ensure};
use jiff::tz::TimeZone;
use tokio::sync::{mpsc, oneshot};

use super::wireshark;
use crate::{
    pcapng::{AnyBlock, BlockType, EnhancedPacket, InterfaceDescription, LinkType},
    text,
};

/// Pieces on their way to the thread. Each is at most what a piece of all sessions brings at once.
const QUEUED: usize = 4;

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
    thread: JoinHandle<()>,
}

impl Output {
    /// Opens what was asked for.
    ///
    /// # Errors
    ///
    /// When it cannot be opened.
    pub fn open(wanted: &Wanted) -> Result<Self> {
        let mut sink = Sink::open(wanted)?;
        let (blocks, mut pieces) = mpsc::channel::<Vec<u8>>(QUEUED);
        let (done, broken) = oneshot::channel();
        let write = move || {
            let mut outcome = Ok(());
            while let Some(piece) = pieces.blocking_recv() {
                outcome = sink.write(&piece);
                if outcome.is_err() {
                    break;
                }
            }
            // Nobody waits for it once the capture has ended.
            let _ = done.send(outcome.and_then(|()| sink.close()));
        };
        let thread = thread::Builder::new().name("output".into()).spawn(write)?;
        Ok(Self { blocks, broken, thread })
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
    pcapng: Option<Box<dyn Write + Send>>,
    lines: Option<Lines>,
    wireshark: Option<Child>,
}

impl Sink {
    fn open(wanted: &Wanted) -> Result<Self> {
        let mut sink = Self { pcapng: None, lines: None, wireshark: None };
        match wanted {
            Wanted::Write { path, print } => {
                sink.pcapng = Some(open_file(path)?);
                sink.lines = print.then(Lines::new);
            }
            Wanted::Wireshark { program, title } => {
                let mut child = wireshark::open(program, title)?;
                let pipe = child.stdin.take().context("Wireshark without a pipe")?;
                sink.pcapng = Some(Box::new(pipe));
                sink.wireshark = Some(child);
            }
            Wanted::Lines => sink.lines = Some(Lines::new()),
        }
        Ok(sink)
    }

    fn write(&mut self, blocks: &[u8]) -> Result<()> {
        if let Some(pcapng) = &mut self.pcapng {
            pcapng.write_all(blocks).and_then(|()| pcapng.flush()).context("cannot write")?;
        }
        if let Some(lines) = &mut self.lines {
            lines.write(blocks)?;
        }
        Ok(())
    }

    fn close(&mut self) -> Result<()> {
        self.pcapng = None;
        // Wireshark goes on showing what it got.
        self.wireshark = None;
        Ok(())
    }
}

fn open_file(path: &Path) -> Result<Box<dyn Write + Send>> {
    if path == Path::new("-") {
        let stdout = io::stdout();
        ensure!(!stdout.is_terminal(), "packets are not for a terminal: write to a file, or into a pipe");
        return Ok(Box::new(stdout));
    }
    let file = File::create(path).with_context(|| format!("cannot create {}", path.display()))?;
    Ok(Box::new(file))
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
        text::write_line(&mut self.stdout, &self.zone, name, *link_type, packet)
            .context("cannot write to standard output")
    }
}
