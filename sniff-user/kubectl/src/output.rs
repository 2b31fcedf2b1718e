//! Where merged packets go: a file, standard output, Wireshark, lines on the terminal.
//!
//! A thread of its own writes, so that an output that stands still holds up the packets and nothing else.

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
};

use anyhow::{Context as _, Result, ensure};
use sniff_cli::exit;
use sniff_output::{Full, Sink, Written, file::CaptureFile};
use sniff_pcapng::{AnyBlock, BlockType, InterfaceDescription, PacketHead, blocks, heads, parts};
use tokio::sync::{mpsc, oneshot};

use super::wireshark;

/// Pieces on their way to the thread. Each is at most what a piece of all sessions brings at once.
const QUEUED: usize = 4;
/// Most bytes that are written at once, but for a larger block.
const STEP: usize = 256 << 10;

/// What was asked for.
#[derive(Clone, Debug)]
pub enum ClientDestination {
    /// What `sniff` has, too.
    Plain(sniff_output::Destination),
    /// Wireshark.
    Wireshark {
        /// The program.
        program: PathBuf,
        /// For its window.
        title: String,
    },
}

impl ClientDestination {
    /// Whether packets are shown as lines on standard output.
    pub fn prints(&self) -> bool {
        use sniff_output::Destination::{File, Lines};
        matches!(self, Self::Plain(Lines(_) | File { print: Some(_), .. }))
    }

    /// Whether packets go to where it was asked for by name.
    pub fn is_file(&self) -> bool {
        matches!(self, Self::Plain(sniff_output::Destination::File { .. }))
    }

    /// Opens it.
    ///
    /// # Errors
    ///
    /// When it cannot be opened.
    pub fn open(&self) -> Result<Box<dyn Sink>> {
        match self {
            Self::Plain(wanted) => wanted.open(),
            Self::Wireshark { program, title } => {
                let pipe = wireshark::open(program, title)?;
                Ok(Box::new(CaptureFile::pipe(pipe, "into Wireshark's pipe".to_owned())))
            }
        }
    }
}

/// An output that is being written to.
pub struct Writer {
    /// To be sent whole blocks, in order.
    pub blocks: mpsc::Sender<Vec<u8>>,
    /// Resolves when nothing more can be written: by an error, or because the reader went away.
    pub broken: oneshot::Receiver<Result<()>>,
    thread: JoinHandle<()>,
}

/// What the thread and its owner tell each other meanwhile.
#[derive(Debug, Default)]
pub struct Progress {
    written: Written,
    is_hurried: AtomicBool,
    is_full: AtomicBool,
}

impl Progress {
    /// What is in the output.
    pub fn written(&self) -> &Written {
        &self.written
    }

    /// Whether the output has as much as was asked for, and takes no more packets.
    pub fn is_full(&self) -> bool {
        self.is_full.load(Ordering::Relaxed)
    }

    /// Has the thread end behind the block that it writes.
    pub fn hurry(&self) {
        self.is_hurried.store(true, Ordering::Relaxed);
    }
}

impl Writer {
    /// Begins to write to a sink.
    ///
    /// # Errors
    ///
    /// When the system has no thread left.
    pub fn start(mut sink: Box<dyn Sink>, progress: Arc<Progress>) -> Result<Self> {
        let (blocks, mut pieces) = mpsc::channel::<Vec<u8>>(QUEUED);
        let (done, broken) = oneshot::channel();
        let write = move || {
            let mut outcome = Ok(());
            while let Some(piece) = pieces.blocking_recv() {
                outcome = write(sink.as_mut(), &piece, &progress);
                if outcome.is_err() {
                    break;
                }
            }
            drop(sink);
            // Nobody waits for it once the capture has ended.
            let _ = done.send(outcome);
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
            Err(error) if exit::is_closed_pipe(&error) => Ok(()),
            outcome => outcome,
        }
    }
}

/// Writes blocks step by step, and counts the packets in those that are written whole.
fn write(sink: &mut dyn Sink, piece: &[u8], progress: &Progress) -> Result<()> {
    for step in parts(piece, STEP) {
        ensure!(!progress.is_hurried.load(Ordering::Relaxed), "ended before all that had come was written");
        for block in blocks(step) {
            let block = AnyBlock::first(block)?;
            if block.block_type == BlockType::Interface {
                sink.interface(&InterfaceDescription::parse(block.bytes)?);
            }
        }
        let (written, result) = sink.write(step);
        progress.written.add(heads(&step[..written]).count() as u64, written);
        match result {
            Err(error) if Full::is(&error) => {
                progress.is_full.store(true, Ordering::Relaxed);
                sink.write(&without_packets(&step[written..])).1?;
            }
            result => result?,
        }
    }
    Ok(())
}

/// The blocks that are not packets.
fn without_packets(bytes: &[u8]) -> Vec<u8> {
    let others = blocks(bytes).filter(|block| PacketHead::parse(block).is_err());
    others.flatten().copied().collect()
}
