//! What a capture can be asked for, wherever it runs: values that are options of both programs, and go over the wire.

use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use sniff_common::Direction;

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
