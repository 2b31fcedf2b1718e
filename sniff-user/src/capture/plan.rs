//! What is asked of a capture.

use std::{sync::Arc, time::Duration};

use anyhow::{Context as _, Result};

use sniff_common::{Direction, flow};
use sniff_filter::{Filter, Filters, Source, compile::Fragment};
use sniff_pcapng::{LinkType, Names};
use sniff_protocol::request::{Alarm, AttachAt, BothEnds, Compress, Cutoff};
use tokio::sync::mpsc;

use crate::{
    bpf::{attach::Mechanism, ring},
    capture::tap::link_type,
    system::System,
    targets::{Interface, PodsToCome, Scope},
};

/// How much a terminal shows of how it goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Detail {
    /// All interfaces together.
    Sum,
    /// Each interface, too.
    Each,
}

/// What is to be captured, and how; everything is found, nothing is touched.
#[derive(Debug)]
pub struct Plan {
    /// Who is captured, in words; none where the interfaces say it.
    pub what: Option<String>,
    pub interfaces: Vec<Interface>,
    /// Where they are, and others may come.
    pub scopes: Vec<Scope>,
    /// Pods that come while it runs.
    pub to_come: Option<PodsToCome>,
    /// How many interfaces may be there besides at a time.
    pub room: u32,
    pub attach: AttachAt,
    /// How to attach; `None` leaves it to the kernel's abilities.
    pub mechanism: Option<Mechanism>,
    pub directions: &'static [Direction],
    /// Where the filter comes from that holds for every interface without one of its own.
    pub filter: Source,
    /// Whose packets are counted besides.
    pub alarm: Option<Alarm>,
    /// What compiles the filters, and may have done so already.
    pub filters: Filters,
    /// Most bytes kept of a packet.
    pub snaplen: u32,
    /// Whether only headers are kept.
    pub headers: bool,
    /// How much is kept of each flow; `None` is all of it.
    pub cutoff: Option<Cutoff>,
    pub ring: ring::Kind,
    /// Bytes of the ring, over all CPUs.
    pub ring_bytes: u32,
    /// How far back a recording is wished to go.
    pub wished_time: Option<Duration>,
    /// Whether packets go anywhere but to those who ask for what is recorded.
    pub has_output: bool,
    /// In which order packets are written.
    pub sorting: ring::Sorting,
    /// What becomes of packets that are seen at both ends; `None` where they are not told apart. That takes both directions
    /// and the order of time.
    pub both_ends: Option<BothEnds>,
    /// How packets are compressed that go to a client.
    pub compress: Compress,
    /// How much wakes the reader.
    pub batch: ring::Batch,
    /// What addresses are called, as that becomes known; `None` where nobody is to be told.
    pub names: Option<mpsc::UnboundedReceiver<Names>>,
    /// The link type of all packets, where the output takes no others.
    pub only: Option<LinkType>,
    /// Whether a terminal shows how it goes.
    pub status_line: Option<Detail>,
    /// Packets after which to stop.
    pub count: Option<u64>,
    /// Time after which to stop.
    pub duration: Option<Duration>,
    /// What the file says of this machine.
    pub system: System,
}

impl Plan {
    /// Which packets of an interface and direction the alarm is about; none without one, or where it is about none.
    ///
    /// # Errors
    ///
    /// When its filter does not compile.
    pub fn alarm_at(&self, interface: &Interface, direction: Direction) -> Result<Option<Arc<Fragment>>> {
        let Some(Alarm { filter, .. }) = &self.alarm else { return Ok(None) };
        let (text, link_type) = (interface.alarm(filter), link_type(interface));
        match self.filters.of(text.as_deref(), link_type, direction).context("the filter of the alarm")? {
            Filter::Matching(fragment) => Ok(Some(fragment)),
            Filter::Everything | Filter::Nothing => Ok(None),
        }
    }

    /// Bytes of its memory that are for flows.
    pub fn flow_bytes(&self) -> u32 {
        self.cutoff.map_or(0, |_| flow::bytes(self.ring_bytes))
    }
}
