//! Packets on their way: the capture writes pcapng into a pipe, a thread takes it out, cuts it into whole blocks and
//! frames them. When the client is slow, the pipe fills, then the ring, and what the ring refuses is counted: as with
//! any other output.

use std::{
    fs::File,
    io::{self, Read as _},
    os::fd::{AsRawFd as _, OwnedFd},
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow};
use nix::{
    fcntl::{FcntlArg, OFlag, fcntl},
    unistd::pipe2,
};
use sniff_common::epb;
use tokio::task;

use super::output::{Output, Stdout};
use sniff_pcapng::MIN_BLOCK_LEN;
use sniff_protocol::{Compressor, encode_packets, request::Compress};

/// What the pipe holds: the most that the kernel gives without further ado (`/proc/sys/fs/pipe-max-size`).
const PIPE_BYTES: i32 = 1 << 20;
/// Having found so many bytes waiting, the thread has come late.
const LATE_BYTES: usize = 256 << 10;
/// An output that takes this long for a MiB is slower than packing is.
const SLOW_MIB: Duration = Duration::from_millis(4);

/// What has gone to the client.
#[derive(Debug, Default)]
pub(super) struct Sent {
    packets: AtomicU64,
    bytes: AtomicU64,
}

impl Sent {
    /// Packets.
    pub(super) fn packets(&self) -> u64 {
        self.packets.load(Ordering::Relaxed)
    }

    /// Bytes on the wire, packed ones as packed.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }
}

/// The thread and its pipe.
pub(super) struct Packets {
    /// Kept to be opened once more by its path.
    writer: OwnedFd,
    thread: JoinHandle<io::Result<()>>,
    sent: Arc<Sent>,
}

impl Packets {
    /// Starts the thread.
    pub(super) fn start(output: &Output, compress: Compress) -> Result<Self> {
        let (reader, writer) = pipe2(OFlag::O_CLOEXEC).context("cannot make a pipe")?;
        // A smaller one works too.
        let _ = fcntl(&writer, FcntlArg::F_SETPIPE_SZ(PIPE_BYTES));
        let sent = Arc::new(Sent::default());
        let mut forwarder = Forwarder {
            stdout: output.stdout(),
            packer: Packer::new(compress)?,
            sent: Arc::clone(&sent),
            frames: Vec::new(),
        };
        let thread = thread::Builder::new()
            .name("packets".to_owned())
            .spawn(move || forwarder.run(&mut File::from(reader)))?;
        Ok(Self { writer, thread, sent })
    }

    /// The path that a capture writes to.
    pub(super) fn path(&self) -> PathBuf {
        format!("/proc/self/fd/{}", self.writer.as_raw_fd()).into()
    }

    /// What has gone out so far.
    pub(super) fn sent(&self) -> Arc<Sent> {
        Arc::clone(&self.sent)
    }

    /// Waits until all that was written has gone out. The capture has closed its end.
    pub(super) async fn finish(self) -> Result<()> {
        let Self { writer, thread, .. } = self;
        drop(writer);
        let ended = task::spawn_blocking(move || thread.join()).await?;
        let ended = ended.map_err(|_| anyhow!("the thread that sends the packets panicked"))?;
        match ended {
            // The session has ended for it, and nobody is left to be told.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            other => other.context("cannot send the packets"),
        }
    }
}

/// What the thread works with.
struct Forwarder {
    stdout: Stdout,
    packer: Packer,
    sent: Arc<Sent>,
    frames: Vec<u8>,
}

impl Forwarder {
    fn run(&mut self, pipe: &mut File) -> io::Result<()> {
        let mut buffer = vec![0; 2 * PIPE_BYTES as usize];
        let mut filled = 0;
        loop {
            let len = match pipe.read(&mut buffer[filled..]) {
                Ok(0) => return Ok(()),
                Ok(len) => len,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            filled += len;
            let Blocks { whole, packets } = blocks(&buffer[..filled])?;
            if whole > 0 {
                self.send(&buffer[..whole], packets)?;
                buffer.copy_within(whole..filled, 0);
                filled -= whole;
            }
        }
    }

    fn send(&mut self, blocks: &[u8], packets: u64) -> io::Result<()> {
        self.frames.clear();
        self.packer.pack(blocks, &mut self.frames)?;
        let start = Instant::now();
        self.stdout.write(&self.frames)?;
        self.packer.took(start.elapsed(), self.frames.len());
        self.sent.packets.fetch_add(packets, Ordering::Relaxed);
        self.sent.bytes.fetch_add(self.frames.len() as u64, Ordering::Relaxed);
        Ok(())
    }
}

/// Decides what is packed: where it is left to us, what piles up before an output that is slower than packing.
struct Packer {
    policy: Compress,
    packing: Compressor,
    plain: Compressor,
    slow: bool,
}

impl Packer {
    fn new(policy: Compress) -> io::Result<Self> {
        let (packing, plain) = (Compressor::new(policy)?, Compressor::new(Compress::Never)?);
        Ok(Self { policy, packing, plain, slow: false })
    }

    fn pack(&mut self, blocks: &[u8], frames: &mut Vec<u8>) -> io::Result<()> {
        let wanted = self.policy != Compress::Auto || self.slow && blocks.len() >= LATE_BYTES;
        let compressor = if wanted { &mut self.packing } else { &mut self.plain };
        encode_packets(blocks, compressor, frames).map_err(io::Error::other)
    }

    /// Notes how long the output took for so many bytes.
    fn took(&mut self, time: Duration, bytes: usize) {
        self.slow = time * (1 << 20) > SLOW_MIB * bytes as u32;
    }
}

/// How much of some bytes are whole blocks, and how many packets are in them.
#[derive(Debug, PartialEq, Eq)]
struct Blocks {
    whole: usize,
    packets: u64,
}

fn blocks(bytes: &[u8]) -> io::Result<Blocks> {
    let mut blocks = Blocks { whole: 0, packets: 0 };
    while let Some(&[a, b, c, d, e, f, g, h]) = bytes[blocks.whole..].first_chunk::<8>() {
        let kind = u32::from_ne_bytes([a, b, c, d]);
        let len = u32::from_ne_bytes([e, f, g, h]) as usize;
        if len < MIN_BLOCK_LEN || len > PIPE_BYTES as usize {
            return Err(io::Error::other(format!("a block of {len} bytes: that is a bug in sniff")));
        }
        if bytes.len() - blocks.whole < len {
            break;
        }
        blocks.whole += len;
        blocks.packets += u64::from(kind == epb::BLOCK_TYPE);
    }
    Ok(blocks)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(kind: u32, len: u32) -> Vec<u8> {
        let mut block = [kind.to_ne_bytes(), len.to_ne_bytes()].concat();
        block.resize(len as usize - 4, 0);
        block.extend(len.to_ne_bytes());
        block
    }

    #[test]
    fn a_stream_is_cut_between_blocks_wherever_it_is_cut() {
        let stream = [block(0x0a0d_0d0a, 28), block(1, 20), block(6, 64), block(6, 32)].concat();
        let ends = [(0, 0), (28, 0), (48, 0), (112, 1), (144, 2)];
        for len in 0..=stream.len() {
            let (whole, packets) = *ends.iter().rev().find(|(end, _)| *end <= len).unwrap();
            assert_eq!(blocks(&stream[..len]).unwrap(), Blocks { whole, packets }, "{len}");
        }
    }

    #[test]
    fn what_is_no_block_is_an_error() {
        assert!(blocks(&[0; 8]).is_err());
        assert!(blocks(&[0xff; 8]).is_err());
    }

    #[test]
    fn packing_is_left_alone_until_the_output_is_slow() {
        let blocks = vec![0; LATE_BYTES];
        let mut packer = Packer::new(Compress::Auto).unwrap();
        let mut sizes = Vec::new();
        for took in [Duration::from_micros(10), Duration::from_millis(50), Duration::ZERO] {
            let mut frames = Vec::new();
            packer.pack(&blocks, &mut frames).unwrap();
            sizes.push(frames.len() > blocks.len());
            packer.took(took, 1 << 20);
        }
        assert_eq!(sizes, [true, true, false]);
    }
}
