//! What a running capture is told, and what it tells.

use std::{
    sync::{Arc, OnceLock},
    time::Instant,
};

use anyhow::Result;
use sniff_common::Counters;
use sniff_protocol::message::Reason;
use tokio::sync::{mpsc, oneshot};

use crate::{
    bpf::ring::Gauge,
    halves::Board,
    targets::{Interface, Scope},
};

/// Somebody who tells a running capture what to do. It ends when the orders do.
pub struct Remote {
    pub orders: mpsc::Receiver<Order>,
    pub events: mpsc::UnboundedSender<Event>,
    pub progress: Arc<Progress>,
    /// Whether it may name others to capture: the capture then goes on without interfaces.
    pub names_others: bool,
}

/// What can be seen of a capture at any time and from any thread.
pub struct Progress {
    board: &'static Board,
    pub(super) gauge: OnceLock<Arc<Gauge>>,
}

impl Progress {
    /// Of a capture whose front half counts there.
    pub fn new(board: &'static Board) -> Self {
        Self { board, gauge: OnceLock::new() }
    }

    /// Bytes that have gone out to a client.
    pub fn moved(&self) -> u64 {
        self.board.moved()
    }

    /// Packets that were lost while others were held up on their way to a client.
    pub fn lost_meanwhile(&self) -> u64 {
        self.board.lost_meanwhile(self.lost())
    }

    /// Packets that were written or printed so far, of all interfaces.
    pub fn delivered(&self) -> u64 {
        self.board.written.packets()
    }

    /// Packets that were left out so far, since another copy of each was delivered.
    pub fn left_out(&self) -> u64 {
        self.board.written.left_out()
    }

    /// Packets that were lost so far.
    pub fn lost(&self) -> u64 {
        self.gauge.get().map_or(0, |gauge| gauge.lost())
    }
}

/// What a running capture can be told. Each order is answered.
#[derive(Debug)]
pub enum Order {
    /// Capture these interfaces too, all or none of them; the file says `comment` of them.
    Join {
        interfaces: Vec<Interface>,
        /// Where they are, and others may come that are to be captured too.
        scopes: Vec<Scope>,
        /// Why they come later than others.
        comment: Option<String>,
        /// Whether that worked.
        done: oneshot::Sender<Result<()>>,
    },
    /// Do not capture these any more.
    Leave {
        interfaces: Vec<Interface>,
        /// Where no others are to be captured either.
        scopes: Vec<Scope>,
        /// Whether that worked.
        done: oneshot::Sender<Result<()>>,
    },
    /// Have a [`Watermark`](sniff_pcapng::Watermark) written, soon. Only a reader that knows of it may be given one.
    Watermark {
        /// Whether it will be.
        done: oneshot::Sender<Result<()>>,
    },
}

/// What a running capture tells.
#[derive(Debug)]
pub enum Event {
    /// An interface went away.
    Gone(Box<Interface>),
    /// One has come to a scope, and is captured.
    Came(Box<Scope>, Box<Interface>),
    /// Counts so far.
    Counted {
        /// Of all interfaces.
        counters: Counters,
        /// When they were counted.
        time: Instant,
        /// The largest part of the ring that was ever in use.
        fullest_percent: u8,
        /// Bytes that were recorded.
        recorded: u64,
    },
}

/// Why a capture ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// A signal.
    Signal,
    /// [`Plan::duration`] was over.
    Duration,
    /// [`Plan::count`] packets were delivered.
    Count,
    /// Nobody reads the output any more.
    Closed,
    /// No interface is left, and none can come.
    Empty,
    /// There will be no more orders.
    Asked,
}

impl From<Why> for Reason {
    fn from(why: Why) -> Self {
        match why {
            Why::Signal => Self::Signal,
            Why::Count => Self::Count,
            Why::Duration => Self::Duration,
            Why::Asked => Self::Stopped,
            Why::Closed | Why::Empty => Self::Failed,
        }
    }
}
