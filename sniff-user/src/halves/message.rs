//! What the halves say to each other. pcapng blocks go as they are in a file.

use std::{io, net::IpAddr};

use serde::{Deserialize, Serialize};
use sniff_cli::exit;
use sniff_protocol::{
    Broken,
    message::Seen,
    request::{BothEnds, Compress},
};

use crate::{
    bpf::ring::{Held, Shape, Sorting},
    system::clock::Clock,
};

/// To the front half.
#[derive(Debug, Serialize, Deserialize)]
pub enum ToFront {
    /// Open the output, whose packets are compressed like that if they go to a client, and write these blocks.
    Open { compress: Compress, section: Vec<u8>, names: Vec<u8> },
    /// Empty the ring, whose maps come with this: the BPF ring buffer, the CPUs, the regions.
    Drain(Draining),
    /// This is the next interface.
    Interface(Vec<u8>),
    /// Packets come in at an interface that go to these addresses, since then in nanoseconds since the epoch.
    Captured { interface: u32, addresses: Vec<IpAddr>, since: u64 },
    /// And until then.
    Left { interface: u32, until: u64 },
    /// What addresses are called.
    Names(Vec<u8>),
    /// Write how far all is there.
    Watermark,
    /// Write what a recorder holds, whose CPUs have filled these regions.
    Save(Vec<u32>),
    /// Empty the ring once more, and tell what became of the packets.
    Stop,
    /// Write these blocks behind all others, and end.
    End(Vec<u8>),
    /// The file that was asked for, of this name, which comes with this; or why there is none.
    Made(Result<String, String>),
    /// Compile an expression.
    Compile { id: u64, text: String, link_type: u16, optimise: bool },
}

/// What is wrong with an output.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Fault {
    /// Whether its reader has closed it.
    is_closed: bool,
    text: String,
}

impl From<anyhow::Error> for Fault {
    fn from(error: anyhow::Error) -> Self {
        Self { is_closed: exit::is_closed_pipe(&error), text: format!("{error:#}") }
    }
}

impl From<Fault> for anyhow::Error {
    fn from(Fault { is_closed, text }: Fault) -> Self {
        if is_closed { io::Error::new(io::ErrorKind::BrokenPipe, text).into() } else { Self::msg(text) }
    }
}

/// How a ring is emptied.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Draining {
    pub shape: Shape,
    pub sorting: Sorting,
    pub clock: Clock,
    /// Most packets that are delivered.
    pub count: Option<u64>,
    pub both_ends: Option<BothEnds>,
    /// Whether each packet goes on at once.
    pub packet_buffered: bool,
    /// Whether packets are to be marked whose checksum is not ready.
    pub marks_unsummed: bool,
}

/// From the front half.
#[derive(Debug, Serialize, Deserialize)]
pub enum FromFront {
    /// The output is open, or why not.
    Opened(Result<(), Fault>),
    /// The ring is being emptied, or why not.
    Draining(Result<(), String>),
    /// These regions were read.
    Read(Vec<u32>),
    /// The next file is wanted, whose packets begin at this time, in nanoseconds since the epoch.
    NextFile { begun_ns: u64 },
    /// The last file came to nothing.
    Abandon,
    /// No more packets are taken.
    Ended,
    /// What became of them.
    Drained(Drained),
    /// All is written, or why not.
    Finished(Result<(), Fault>),
    /// What became of an expression: classic BPF's numbers.
    Compiled { id: u64, program: Result<Vec<(u16, u8, u8, u32)>, String> },
    /// One more message has gone out to the client.
    Told,
}

/// What became of the packets in the ring.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Drained {
    pub end: End,
    /// By pcapng interface id.
    pub interfaces: Vec<Fate>,
    /// Where they were seen, if that was asked for.
    pub seen: Option<Seen>,
    /// What a recorder held of all packets.
    pub held: Option<Held>,
}

/// What became of the packets of an interface.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fate {
    /// Written or printed.
    pub delivered: u64,
    /// Taken from the ring and not written.
    pub discarded: u64,
    /// Not written, since another copy of each is.
    pub left_out: u64,
    /// Lost before, as packets in the output tell.
    pub told_lost: u64,
}

/// Why no more packets are taken.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum End {
    /// As asked.
    Asked,
    /// As asked, and in a hurry: packets were left.
    Hurried,
    /// As many packets or bytes were delivered as were asked for.
    Count,
    /// Nobody reads the output any more.
    Closed,
    /// The output, or the ring, failed.
    Failed(String),
}

/// What a client says.
#[derive(Debug, Serialize, Deserialize)]
pub enum Heard {
    /// A message: its frame's kind and payload.
    Said(u8, Vec<u8>),
    /// Something that is none; there is nothing behind it.
    Broken(Broken),
    /// Nothing more.
    Closed,
}

/// What a client is told: a whole frame.
#[derive(Debug, Serialize, Deserialize)]
pub struct Tell(pub Vec<u8>);
