//! What a capture can be asked for, wherever it runs: values that are options of both programs, and go over the wire.

use std::fmt;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use sniff_common::{
    Direction,
    flow::{MAX_CUTOFF, MAX_EVERY},
};

/// `--attach`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AttachAt {
    /// The host's end, unless that is seen to miss packets
    #[default]
    Auto,
    /// The host's end of the veth pair
    Host,
    /// The interface inside the pod's network namespace
    Pod,
}

/// `--compress`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Compress {
    /// While the connection takes hardly more than is captured, and what gets smaller by it
    #[default]
    Auto,
    /// All packets
    Always,
    /// No packets
    Never,
}

/// What becomes of packets that are seen at both ends of their way, in two captured pods.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BothEnds {
    /// Both copies stay, with one id.
    Marked,
    /// `--one-side`: only the copy stays that is seen where the packet is sent.
    OneSide,
}

/// `--cutoff`: how much is kept of what goes one way in a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cutoff {
    /// So many bytes of its packets, headers included: 1 to [`MAX_CUTOFF`].
    pub bytes: u32,
    /// Of what comes later, only headers, of every so many-th packet, up to [`MAX_EVERY`]; 0 for none.
    pub every: u32,
}

impl Cutoff {
    /// Whether the numbers are ones that a capture takes.
    pub fn is_sound(self) -> bool {
        (1..=MAX_CUTOFF).contains(&self.bytes) && self.every <= MAX_EVERY
    }

    /// As `--cutoff` has it; of its spellings the one that needs least to be understood.
    pub fn spelling(self) -> String {
        let Self { bytes, every } = self;
        match every {
            0 => format!("{bytes},none"),
            1 => format!("{bytes},headers"),
            every => format!("{bytes},every={every}"),
        }
    }
}

impl fmt::Display for Cutoff {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "of each flow the first {} bytes are kept, then ", self.bytes)?;
        match self.every {
            0 => f.write_str("nothing"),
            1 => f.write_str("headers"),
            every => write!(f, "headers of one packet in {every}"),
        }
    }
}

/// Packets that are told of when they come faster than they should.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Alarm {
    /// Which packets, in tcpdump's language.
    pub filter: String,
    /// How many of them a second are none, at least 1.
    pub per_second: u32,
}

/// `--direction`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Directions {
    /// Into the pod
    In,
    /// Out of the pod
    Out,
    /// Both
    #[default]
    Inout,
}

impl Directions {
    /// The directions to attach for.
    pub fn each(self) -> &'static [Direction] {
        match self {
            Self::In => &[Direction::In],
            Self::Out => &[Direction::Out],
            Self::Inout => &Direction::BOTH,
        }
    }
}
