//! What a node does with the packets that come out of the ring: collects short runs, hands them to the [`Sink`], and
//! counts for each interface what became of them.

use std::{io, mem, ops::AddAssign, os::fd::BorrowedFd};

use bytes::{BufMut as _, BytesMut};
use sniff_pcapng::{InterfaceDescription, Names, heads};

use crate::{Sink, Written};

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
    /// Packets that came out of the ring and are left out, since another copy of each was written.
    pub left_out: u64,
}

impl AddAssign for Delivery {
    fn add_assign(&mut self, other: Self) {
        let Self { delivered, discarded, left_out } = other;
        self.delivered += delivered;
        self.discarded += discarded;
        self.left_out += left_out;
    }
}

/// The output of one capture.
pub struct Output {
    sink: Box<dyn Sink>,
    /// By pcapng interface id.
    deliveries: Vec<Delivery>,
    written: &'static Written,
    /// What was written of names.
    names: Names,
    /// Blocks that are collected and not handed on yet.
    batch: BytesMut,
}

impl Output {
    /// An output to `sink`, of which nothing was written yet; `written` counts what is.
    pub fn new(sink: Box<dyn Sink>, written: &'static Written) -> Self {
        let batch = BytesMut::with_capacity(BATCH_BYTES);
        Self { sink, deliveries: Vec::new(), written, names: Names::default(), batch }
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
        self.sink.interface(description);
        self.deliveries.push(Delivery::default());
        let mut block = Vec::new();
        description.write(&mut block);
        self.block(&block)
    }

    /// Writes what addresses are called, as far as that is news.
    ///
    /// # Errors
    ///
    /// When the output fails.
    pub fn names(&mut self, names: &Names) -> io::Result<()> {
        let mut block = Vec::new();
        self.names.update(names).write(&mut block);
        self.block(&block)
    }

    /// Writes a run of packets, whose interfaces were described.
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

    /// Counts packets of which another copy is written.
    pub fn leave_out(&mut self, run: &[u8]) {
        let count = self.count(run, |delivery| &mut delivery.left_out);
        self.written.leave_out(count);
    }

    /// Hands on what was collected.
    ///
    /// # Errors
    ///
    /// When the output fails.
    pub fn flush(&mut self) -> io::Result<()> {
        let mut batch = mem::take(&mut self.batch);
        let result = self.hand_on(&batch);
        batch.clear();
        self.batch = batch;
        result
    }

    /// The descriptor that tells when nobody reads any more.
    pub fn reader(&self) -> Option<BorrowedFd<'_>> {
        self.sink.reader()
    }

    /// What became of the packets of each interface, by its id.
    pub fn deliveries(&self) -> &[Delivery] {
        &self.deliveries
    }

    fn collect(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.batch.len() + bytes.len() > BATCH_BYTES {
            self.flush().inspect_err(|_| self.discard(bytes))?;
        }
        self.batch.put_slice(bytes);
        Ok(())
    }

    /// Writes blocks, and counts the packets among them as what became of them.
    fn hand_on(&mut self, bytes: &[u8]) -> io::Result<()> {
        let (written, result) = self.sink.write(bytes);
        let (delivered, discarded) = bytes.split_at(written);
        let count = self.count(delivered, |delivery| &mut delivery.delivered);
        self.written.add(count, written);
        self.discard(discarded);
        result
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
}
