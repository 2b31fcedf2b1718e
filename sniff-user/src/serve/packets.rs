//! Packets on their way to the client: the capture's thread frames them and writes them to stdout. When the client is
//! slow, that waits, the ring fills, and what the ring refuses is counted: as with any other output.

use std::{
    io,
    os::fd::BorrowedFd,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::Result;
use sniff_output::Sink;
use sniff_pcapng::{InterfaceDescription, heads, parts};
use sniff_protocol::{Compressor, HEADER_LEN, MAX_PAYLOAD, frame_packets, request::Compress};

use super::output::Stdout;

/// Having so many bytes at once, the thread has come late.
const LATE_BYTES: usize = 64 << 10;
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

/// Frames of packets, to the client.
pub(super) struct Frames {
    stdout: Stdout,
    packer: Packer,
    sent: Arc<Sent>,
}

impl Frames {
    /// Frames to `stdout`, packed as the client wants.
    pub(super) fn new(stdout: Stdout, compress: Compress) -> Result<Self> {
        let packer = Packer::new(compress)?;
        Ok(Self { stdout, packer, sent: Arc::default() })
    }

    /// What has gone out so far.
    pub(super) fn sent(&self) -> Arc<Sent> {
        Arc::clone(&self.sent)
    }

    fn send(&mut self, part: &[u8]) -> io::Result<()> {
        let (header, payload) = self.packer.pack(part)?;
        let start = Instant::now();
        self.stdout.write(&header, payload)?;
        let len = header.len() + payload.len();
        self.packer.slow = is_slow(start.elapsed(), len);
        let packets = heads(part).count();
        self.sent.packets.fetch_add(packets as u64, Ordering::Relaxed);
        self.sent.bytes.fetch_add(len as u64, Ordering::Relaxed);
        Ok(())
    }
}

impl Sink for Frames {
    fn interface(&mut self, _: &InterfaceDescription) {}

    fn write(&mut self, bytes: &[u8]) -> (usize, io::Result<()>) {
        let mut sent = 0;
        for part in parts(bytes, MAX_PAYLOAD) {
            if let Err(error) = self.send(part) {
                let error = io::Error::new(error.kind(), format!("cannot send the packets: {error}"));
                return (sent, Err(error));
            }
            sent += part.len();
        }
        (sent, Ok(()))
    }

    fn reader(&self) -> Option<BorrowedFd<'_>> {
        Some(self.stdout.reader())
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

    /// A frame of these blocks: its header, and its payload.
    fn pack<'a>(&'a mut self, blocks: &'a [u8]) -> io::Result<([u8; HEADER_LEN], &'a [u8])> {
        let wanted = self.policy != Compress::Auto || self.slow && blocks.len() >= LATE_BYTES;
        let compressor = if wanted { &mut self.packing } else { &mut self.plain };
        frame_packets(blocks, compressor).map_err(io::Error::other)
    }
}

/// Whether the output is slower than packing is, having taken so long for so many bytes.
fn is_slow(time: Duration, bytes: usize) -> bool {
    time * (1 << 20) > SLOW_MIB * bytes as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packing_is_left_alone_until_the_output_is_slow() {
        let blocks = vec![0; LATE_BYTES];
        let mut packer = Packer::new(Compress::Auto).unwrap();
        let mut sizes = Vec::new();
        for took in [Duration::from_micros(10), Duration::from_millis(50), Duration::ZERO] {
            let (_, payload) = packer.pack(&blocks).unwrap();
            sizes.push(payload.len() == blocks.len());
            packer.slow = is_slow(took, 1 << 20);
        }
        assert_eq!(sizes, [true, true, false]);
    }
}
