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
    /// Write what a recorder holds, whose CPUs have filled these regions: what is new to the output, or all that is held to a
    /// file of its own, which comes with this.
    Save { filled: Vec<u32>, to: Option<SaveTo> },
    /// What was recorded is to go to the client, as it wants it.
    Play(Play),
    /// The next file of a source comes with this.
    Source(u32),
    /// Hand on the packets of all sources before this time, in nanoseconds since the epoch.
    PlayUntil(u64),
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

/// What of recorded packets a client wants.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Play {
    /// Those that match this expression.
    pub filter: Option<String>,
    /// Most bytes of each.
    pub snaplen: u32,
    /// Whether only headers are wanted.
    pub headers: bool,
}

/// What became of recorded packets so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Played {
    /// Packets that have gone to the client.
    pub delivered: u64,
    /// Packets that do not match.
    pub passed_over: u64,
}

/// A file for what a recorder holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SaveTo {
    /// What it is called, whose ending tells the format; none of standard output.
    pub name: Option<String>,
    /// How far back it is to go, in nanoseconds, if not as far as it can.
    pub last_ns: Option<u64>,
    /// Only what is behind this [`Saved::place`].
    pub after: Option<u64>,
    /// What the file says of itself besides.
    pub note: Option<String>,
    /// What is known of each interface in the file, by its id.
    pub spells: Vec<Spell>,
}

/// When an interface was captured, as of now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spell {
    /// In nanoseconds since the epoch.
    pub start: u64,
    /// Likewise; none while it is.
    pub end: Option<u64>,
    /// Its packets that were lost.
    pub lost: u64,
    /// Whatever else is to be told of it.
    pub notes: String,
}

/// What became of the packets that were recorded up to a moment, when they were saved to a file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Saved {
    /// Written.
    pub packets: u64,
    /// Left out, since another copy of each is written.
    pub left_out: u64,
    /// Left out behind the cutoff of their flow.
    pub cut_off: u64,
    /// Held, and older than what was wanted.
    pub older: u64,
    /// Not held any more.
    pub aged_out: u64,
    /// Lost on their way out of the kernel.
    pub lost: u64,
    /// From then on all is there, in nanoseconds since the epoch; none where it is since the beginning.
    pub since: Option<u64>,
    /// The moment, likewise.
    pub until: u64,
    /// Stands for that moment where what comes behind it is to be saved.
    pub place: u64,
}

impl Saved {
    /// All packets that the filter had accepted by then.
    pub fn matched(&self) -> u64 {
        self.packets + self.left_out + self.cut_off + self.older + self.aged_out + self.lost
    }

    /// Those that are not in the file, in words.
    pub fn describe_missing(&self) -> String {
        let counts = [
            (self.left_out, "left out, which are here where they were sent"),
            (self.cut_off, "left out by the cutoff"),
            (self.older, "older than what was asked for"),
            (self.aged_out, "too old to be held"),
            (self.lost, "dropped by kernel"),
        ];
        let some = counts.into_iter().filter(|(count, _)| *count > 0);
        some.map(|(count, what)| format!("{count} packets {what}")).collect::<Vec<_>>().join(", ")
    }
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
    /// What a recorder held is written, or why not. What became of the packets is told of a file of its own.
    Saved(Result<Option<Saved>, Fault>),
    /// Recorded packets have gone to the client, or why not.
    Played(Result<Played, Fault>),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_in_a_saved_file_adds_up() {
        let saved = Saved { packets: 100, cut_off: 9, older: 20, aged_out: 3, lost: 1, ..Saved::default() };
        assert_eq!(saved.matched(), 133);
        assert_eq!(
            saved.describe_missing(),
            "9 packets left out by the cutoff, 20 packets older than what was asked for, \
             3 packets too old to be held, 1 packets dropped by kernel"
        );
        assert_eq!(Saved { packets: 100, ..Saved::default() }.describe_missing(), "");
    }
}
