//! What is wanted to be recorded.

use std::collections::BTreeMap;

use sniff_common::MAX_SNAPLEN;
use sniff_protocol::request::{Alarm, Cutoff};

use crate::agent::audit::PodId;

/// A pod that is to be recorded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Wanted {
    pub(super) pod: PodId,
    pub(super) labels: BTreeMap<String, String>,
    /// Bytes of memory to record in.
    pub(super) memory: u64,
    /// Only packets that match this.
    pub(super) filter: Option<String>,
    /// Most bytes kept of a packet.
    pub(super) snaplen: u32,
    /// Whether only headers are kept.
    pub(super) headers: bool,
    /// How much is kept of each flow, if not all.
    pub(super) cutoff: Option<Cutoff>,
    /// What has what is recorded saved at once.
    pub(super) alarm: Option<Alarm>,
    /// What has it recorded, in words.
    pub(super) by: String,
}

/// One that cannot be recorded like that.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refused {
    pub(super) wanted: Wanted,
    /// Why not.
    pub(super) why: String,
}

impl Wanted {
    /// A pod of which nothing is left out; no memory is named.
    pub(super) fn of(pod: PodId, by: &str) -> Self {
        Self {
            pod,
            labels: BTreeMap::new(),
            memory: 0,
            filter: None,
            snaplen: MAX_SNAPLEN,
            headers: false,
            cutoff: None,
            alarm: None,
            by: by.to_owned(),
        }
    }

    /// Whether a recorder for the one is one for the other.
    pub(super) fn is_as(&self, other: &Self) -> bool {
        let same = |wanted: &Self| Self { labels: BTreeMap::new(), by: String::new(), ..wanted.clone() };
        same(self) == same(other)
    }
}
