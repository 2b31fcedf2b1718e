//! Packets on their way to the client: the capture's thread frames them and writes them to stdout. When the client is
//! slow, that waits, the ring fills, and what the ring refuses is counted: as with any other output.

use std::{
    io,
    os::fd::BorrowedFd,
    sync::{Arc, OnceLock},
    time::Instant,
};

use sniff_output::Sink;
use sniff_pcapng::{InterfaceDescription, parts};
use sniff_protocol::{Compressor, MAX_PAYLOAD, frame_packets, request::Compress};

use super::{link::Link, stdout::Stdout};
use crate::bpf::ring::Gauge;

/// Frames of packets, to the client.
pub(super) struct Frames {
    stdout: Stdout,
    /// Of the ring, once there is one.
    gauge: Arc<OnceLock<Arc<Gauge>>>,
    compressor: Compressor,
    /// Where it is left to us whether anything is compressed.
    link: Option<Link>,
}

impl Frames {
    /// Frames to `stdout`, compressed as the client wants.
    ///
    /// # Errors
    ///
    /// When there is no memory for a compressor.
    pub(super) fn new(
        stdout: Stdout,
        gauge: Arc<OnceLock<Arc<Gauge>>>,
        compress: Compress,
    ) -> io::Result<Self> {
        let link = (compress == Compress::Auto).then(|| Link::new(Instant::now()));
        Ok(Self { stdout, gauge, compressor: Compressor::new(compress)?, link })
    }

    fn send(&mut self, part: &[u8]) -> io::Result<()> {
        let is_worthwhile = self.link.as_ref().is_none_or(Link::is_short);
        let gauge = Arc::clone(&self.gauge);
        let compressor = is_worthwhile.then_some(&mut self.compressor);
        let (header, payload) = frame_packets(part, compressor).map_err(io::Error::other)?;
        let lost = || gauge.get().map_or(0, |gauge| gauge.lost());
        let held_up = self.stdout.write_packets(&header, payload, lost)?;
        if let Some(link) = &mut self.link {
            link.took(part.len(), payload.len(), held_up, Instant::now());
        }
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
