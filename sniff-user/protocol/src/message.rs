//! The messages: what they say, and their kinds in frames.
//!
//! Names, labels and filters come from anywhere; they are data here and stay data, down to the argument of a system
//! call. Kinds differ between the directions, so that a stream that is looped back is seen for what it is.

use std::fmt;

use bytes::Bytes;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::frame::{Frame, MAX_JSON, PACKETS, Payload};
use crate::request::{Alarm, AttachAt, BothEnds, Compress, Cutoff, Directions};

const HELLO: u8 = 0x01;
const EVENT: u8 = 0x03;
const STATS: u8 = 0x04;
const ERROR: u8 = 0x05;
const END: u8 = 0x06;
const RECORDINGS: u8 = 0x07;

const CLIENT_HELLO: u8 = 0x81;
const TARGETS: u8 = 0x82;
const KEEP_ALIVE: u8 = 0x84;
const STOP: u8 = 0x85;
const WATERMARK: u8 = 0x86;
const GOODBYE: u8 = 0x87;

/// From the node to the client. The first is `Hello` or `Error`; the last is `End`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ToClient {
    /// Who speaks.
    Hello(NodeHello),
    /// Whole pcapng blocks of the session's one section, in its byte order and in order. A
    /// watermark (`pcapng::Watermark`) may be among them for each that was asked for.
    Packets(Bytes),
    /// Something happened.
    Event(Event),
    /// Counts so far: when they changed, at most once a second; and every 5 seconds at least, as a keep-alive.
    Stats(Stats),
    /// Something is wrong; without an `End` behind it the session goes on.
    Error(NodeError),
    /// What is recorded, for whoever asks for [`Past::List`].
    Recordings(Recordings),
    /// The session is over.
    End(End),
}

/// From the client to the node. The first is `Hello`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ToNode {
    /// Who asks, and for what.
    Hello(Box<ClientHello>),
    /// Targets that join and leave the running capture.
    Targets(Targets),
    /// Keeps the session's lease alive; every 5 seconds.
    KeepAlive,
    /// Send a watermark (`pcapng::Watermark`) soon; of a past that is followed, behind all that was recorded by now. Only for a
    /// node whose hello says that it does.
    Watermark,
    /// Detach, send what is left, and end.
    Stop,
    /// Your `End` has come. Only for a node whose hello says that it waits for that.
    Goodbye,
}

/// The node's first message.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeHello {
    /// Version of sniff there.
    pub version: String,
    /// The commit that it was built from, where that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub commit: Option<String>,
    /// Name of the node in Kubernetes.
    pub node: String,
    /// Release of its kernel, as `uname -r` has it.
    pub kernel: String,
    /// Whether it answers [`ToNode::Watermark`].
    #[serde(default)]
    pub has_watermarks: bool,
    /// Whether it goes on until it hears [`ToNode::Goodbye`], from a client that says it: what is written to a command
    /// that has ended makes the API server reset the connection, with what is on its way.
    #[serde(default)]
    pub waits_for_goodbye: bool,
    /// Whether it knows [`CapturePlan::both_ends`].
    #[serde(default)]
    pub has_both_ends: bool,
    /// Whether it knows [`CapturePlan::cutoff`].
    #[serde(default)]
    pub has_cutoffs: bool,
    /// Whether it knows [`ClientHello::reason`] and [`ClientHello::override_deny`].
    #[serde(default)]
    pub knows_reasons: bool,
    /// Whether it knows [`ClientHello::past`].
    #[serde(default)]
    pub knows_the_past: bool,
}

/// The client's first message.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClientHello {
    /// Version of `kubectl sniff`.
    pub version: String,
    /// Who asks, for the node's log: `user@host`.
    pub who: String,
    /// What is to be captured, for all targets.
    pub plan: CapturePlan,
    /// Of whom. More may come, and an empty list is fine.
    pub targets: Vec<Target>,
    /// Pods that join as soon as the node makes them, before the client can name them. Told by
    /// [`Event::TargetArrived`].
    #[serde(default)]
    pub awaited: Vec<Awaited>,
    /// The node ends the session when it has heard nothing for this many seconds.
    pub lease_seconds: u32,
    /// Whether it says [`ToNode::Goodbye`].
    #[serde(default)]
    pub says_goodbye: bool,
    /// Why, for the node's audit.
    #[serde(default)]
    pub reason: Option<String>,
    /// Whether pods are captured, too, that a label denies: where the node lets whoever asks.
    #[serde(default)]
    pub override_deny: bool,
    /// What was recorded, in place of what passes: of the pods that are [awaited](Self::awaited), those included that are gone
    /// by now; nobody else is captured. Only for a node whose hello says that it knows this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub past: Option<Past>,
}

/// What of that which was recorded is wanted. Of the plan, the filter, the snaplen, the headers, the count and the compression
/// hold for it. Once all has come the node ends the session, for [`Reason::Stopped`], unless it is followed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "past", rename_all = "snake_case")]
pub enum Past {
    /// What there is: one [`ToClient::Recordings`].
    List,
    /// What recorders hold. Each pod that has any is told by [`Event::TargetArrived`] and [`Event::TargetAdded`].
    Held {
        /// How far back, in milliseconds; none is as far as it goes.
        last_ms: Option<u64>,
        /// Whether it goes on with what is recorded from then on, without a gap.
        follow: bool,
    },
    /// A file that a trigger had saved, by its name. It is told as what is held.
    Saved {
        /// [`Recording::name`].
        name: String,
    },
}

/// What of the packets is captured; the options of `sniff` of the same names.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct CapturePlan {
    /// Expression in tcpdump's language, for targets without one of their own.
    pub filter: Option<String>,
    /// Most bytes kept of a packet; `None` keeps all.
    pub snaplen: Option<u32>,
    /// Whether only headers are kept.
    pub headers: bool,
    /// How much is kept of each flow; `None` is all of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cutoff: Option<Cutoff>,
    /// Which way packets go.
    pub direction: Directions,
    /// Packets after which the session ends.
    pub count: Option<u64>,
    /// Milliseconds after which it ends, from when it listens.
    pub duration_ms: Option<u64>,
    /// Bytes between the kernel and sniff; `None` leaves it to the node.
    pub buffer_bytes: Option<u32>,
    /// Where to attach.
    pub attach: AttachAt,
    /// What becomes of packets between two pods of the node, which are seen at both; `None` leaves them as they are. Only
    /// whoever takes `epb_packetid` in packets may ask for it.
    pub both_ends: Option<BothEnds>,
    /// What packets to compress.
    pub compress: Compress,
    /// Record in this many bytes of memory, in place of sending packets; for sessions that an agent holds with itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub record_bytes: Option<u32>,
    /// What the agent is to be told of at once, of such a session.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub alarm: Option<Alarm>,
}

/// Who is captured. A target joins once; it leaves by the same value.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum TargetId {
    /// A pod. One that was made anew under its old name has another UID, and is another target.
    Pod {
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
        /// Its UID, as the node knows it.
        uid: String,
    },
    /// The node itself.
    Node,
}

impl fmt::Display for TargetId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pod { namespace, name, .. } => write!(f, "{namespace}/{name}"),
            Self::Node => f.write_str("the node itself"),
        }
    }
}

/// A target with what holds for it alone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Target {
    /// Who.
    #[serde(flatten)]
    pub id: TargetId,
    /// The container that was asked for, among several of a pod; they share its interfaces.
    #[serde(default)]
    pub container: Option<String>,
    /// Which interfaces; of a pod, an empty list means all but `lo`. A node's must be named.
    #[serde(default)]
    pub interfaces: Vec<String>,
    /// Expression in place of the plan's.
    #[serde(default)]
    pub filter: Option<String>,
    /// Of a node: the port that its kubelet serves. One of the connections to it carries this session, and so they are left
    /// out; `None` leaves nothing out.
    #[serde(default)]
    pub kubelet_port: Option<u16>,
    /// What the descriptions of its interfaces are to tell besides (`opt_comment`), such as why it joined later.
    #[serde(default)]
    pub comment: Option<String>,
    /// Whether the capture has had it before: what it sent when it was young is not missing.
    #[serde(default)]
    pub again: bool,
}

impl Target {
    /// One of which nothing more is asked.
    pub fn new(id: TargetId) -> Self {
        Self {
            id,
            container: None,
            interfaces: Vec::new(),
            filter: None,
            kubelet_port: None,
            comment: None,
            again: false,
        }
    }
}

/// Pods that are to be captured when they come.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Awaited {
    /// Their namespace; `None` for any.
    #[serde(default)]
    pub namespace: Option<String>,
    /// Which of them.
    #[serde(flatten)]
    pub by: AwaitedBy,
    /// Which interfaces; an empty list means all but `lo`.
    #[serde(default)]
    pub interfaces: Vec<String>,
}

/// How pods that are awaited are told apart.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "by", rename_all = "snake_case")]
pub enum AwaitedBy {
    /// The pod of this name.
    Name {
        /// The name.
        name: String,
    },
    /// Those with labels that match.
    Labels {
        /// A selector as kubectl takes it; an empty one matches all.
        selector: String,
    },
}

/// A change of the targets.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Targets {
    /// Those that join; one that is there already stays as it is.
    #[serde(default)]
    pub add: Vec<Target>,
    /// Those that leave; one that is not there is passed over.
    #[serde(default)]
    pub remove: Vec<TargetId>,
}

/// What happened to a session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// A pod that was awaited has come and is captured; [`Event::TargetAdded`] says more. It is a target like those that the
    /// client has named.
    TargetArrived {
        /// Who.
        target: TargetId,
    },
    /// A target is captured from now on, or one that is captured already has got more interfaces.
    TargetAdded {
        /// Who.
        target: TargetId,
        /// Names of its interfaces, as in the packets' interface descriptions; of those that are new.
        interfaces: Vec<String>,
    },
    /// A target is not captured any more.
    TargetGone {
        /// Who.
        target: TargetId,
        /// Why.
        why: String,
    },
    /// A target cannot be captured; the others are.
    TargetFailed {
        /// Who.
        target: TargetId,
        /// What is wrong, and what to do.
        error: String,
        /// Whether it is not to be captured, which does not change by trying again.
        #[serde(default)]
        refused: bool,
    },
    /// All targets of the hello are attached, or have failed.
    Listening {
        /// How many interfaces are attached.
        interfaces: u32,
    },
    /// Something a person should read.
    Note {
        /// How important it is.
        level: Level,
        /// One line.
        text: String,
    },
    /// One that a newer node sends.
    #[serde(other)]
    Unknown,
}

/// How important a note is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// Packets may be missing, or something is not as asked.
    Warn,
    /// Worth knowing.
    #[default]
    #[serde(other)]
    Info,
}

/// What was counted so far, over all interfaces of a session.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stats {
    /// Packets that matched.
    pub matched: u64,
    /// Of those, sent to the client.
    pub delivered: u64,
    /// Of those, lost.
    pub dropped: u64,
    /// The largest part of the buffer that was ever in use, in per cent.
    #[serde(default)]
    pub fullest_percent: u8,
    /// Of those that were lost, those whose bytes the kernel did not give. For the others there was no room in the buffer.
    #[serde(default)]
    pub unreadable: u64,
    /// Of those that were lost, those that were while others were held up on their way to the client.
    #[serde(default)]
    pub held_up: u64,
    /// Of those that matched, those left out since another copy of each was sent to the client.
    #[serde(default)]
    pub left_out: u64,
    /// Of those that matched, those left out behind the cutoff of their flow.
    #[serde(default)]
    pub cut_off: u64,
}

impl Stats {
    /// Packets that matched and are never sent to the client.
    pub fn never_sent(&self) -> u64 {
        let &Self { dropped, left_out, cut_off, .. } = self;
        dropped.saturating_add(left_out).saturating_add(cut_off)
    }
}

/// Something is wrong at the node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeError {
    /// What kind of thing.
    pub code: Code,
    /// One line: what happened, to whom, and what to do.
    pub message: String,
}

/// The kinds of errors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Code {
    /// The client asked for something that makes no sense.
    Usage,
    /// A limit of the node refuses the session.
    RefusedLimit,
    /// The node does not let sessions begin in this way.
    NotAuthorised,
    /// The versions do not go together.
    VersionSkew,
    /// A target cannot be captured.
    Target,
    /// A filter does not compile.
    Filter,
    /// The kernel refuses.
    Kernel,
    /// The stream to the client fails.
    Output,
    /// Anything else.
    #[serde(other)]
    Other,
}

/// The last message of a session.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct End {
    /// Why it ended.
    pub reason: Reason,
    /// Packets sent to the client.
    pub captured: u64,
    /// Packets that matched.
    pub matched: u64,
    /// Packets lost.
    pub dropped: u64,
    /// Packets left out since another copy of each was sent to the client.
    #[serde(default)]
    pub left_out: u64,
    /// Packets left out behind the cutoff of their flow.
    #[serde(default)]
    pub cut_off: u64,
    /// Where packets between captured pods were seen, where the plan asks for that.
    #[serde(default)]
    pub seen: Option<Seen>,
}

/// How many packets between captured pods of one node were seen where.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen {
    /// Seen where they were sent and where they came in.
    pub at_both: u64,
    /// Seen only where they were sent, though another captured pod has the address that they went to.
    pub only_sent: u64,
    /// Not followed from where they were sent, since too many were on their way.
    pub forgotten: u64,
}

/// What a node records and has recorded, of the namespaces that whoever asks may capture.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recordings {
    /// Bytes of memory that recorders of the node may have in all; none where nothing is recorded.
    pub budget: Option<u64>,
    /// Bytes of it that they have.
    pub used: u64,
    /// Bytes of files that are kept at most.
    pub disk: u64,
    /// Pods that are recorded, were until they ended, or are to be.
    pub recorders: Vec<Recorder>,
    /// Files that triggers had saved, the newest first.
    pub saved: Vec<Recording>,
}

/// A pod that is recorded, or is to be.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Recorder {
    /// Namespace of the pod.
    pub namespace: String,
    /// Its name.
    pub pod: String,
    /// Its UID.
    pub uid: String,
    /// What has it recorded, in words: `annotation of the pod`, `recording shop/web`.
    pub by: String,
    /// How it is: recording, ended (the pod is gone, and what was recorded is held), or why it is not recorded.
    pub state: RecorderState,
    /// Bytes of memory for it.
    pub memory: u64,
    /// Bytes of packets that are held.
    pub held: u64,
    /// When it began, in nanoseconds since the epoch; nothing is held from before.
    pub since: Option<u64>,
    /// The oldest time from which on all is held, likewise.
    pub oldest: Option<u64>,
    /// Packets that matched.
    pub matched: u64,
    /// Of those, packets that are not held any more, about, and their bytes.
    pub aged_out: u64,
    /// Bytes of these.
    pub aged_out_bytes: u64,
    /// Of those that matched, packets that were lost.
    pub dropped: u64,
    /// Of those that matched, packets left out behind the cutoff of their flow.
    pub cut_off: u64,
    /// When a trigger last had it saved, in nanoseconds since the epoch.
    pub last_saved: Option<u64>,
}

/// How a recorder is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", content = "why", rename_all = "snake_case")]
pub enum RecorderState {
    /// It begins.
    #[default]
    Starting,
    /// It records.
    Recording,
    /// The pod is gone; what was recorded of it is held.
    Ended,
    /// It does not record, for this reason.
    Refused(String),
}

/// A file that a trigger had saved.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Recording {
    /// Its name, which tells it from others of its node: `shop_web-0_20261127T045122Z_oom-killed.pcapng`.
    pub name: String,
    /// Namespace of the pod.
    pub namespace: String,
    /// The pod's name.
    pub pod: String,
    /// What had it saved, as one word: `oom-killed`.
    pub reason: String,
    /// When it was saved, in nanoseconds since the epoch.
    pub time: u64,
    /// Its bytes.
    pub bytes: u64,
}

/// Why a session ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reason {
    /// The client said so.
    Stopped,
    /// As many packets as asked for.
    Count,
    /// As long as asked for.
    Duration,
    /// The client was not heard of.
    Lease,
    /// The client's pipe was closed.
    InputClosed,
    /// The node's limit of time.
    Deadline,
    /// A signal to `sniff serve`: its pod is going away.
    Signal,
    /// Something failed; an error said what.
    Failed,
    /// Anything else.
    #[default]
    #[serde(other)]
    Other,
}

impl Frame for ToClient {
    fn payload(&self) -> (u8, Payload<'_>) {
        match self {
            Self::Hello(hello) => (HELLO, json(hello)),
            Self::Packets(blocks) => (PACKETS, Payload::Packets(blocks)),
            Self::Event(event) => (EVENT, json(event)),
            Self::Stats(stats) => (STATS, json(stats)),
            Self::Error(error) => (ERROR, json(error)),
            Self::Recordings(recordings) => (RECORDINGS, json(recordings)),
            Self::End(end) => (END, json(end)),
        }
    }

    fn from_payload(kind: u8, payload: Bytes) -> Result<Self, String> {
        Ok(match kind {
            HELLO => Self::Hello(parse(kind, &payload)?),
            PACKETS => Self::Packets(payload),
            EVENT => Self::Event(parse(kind, &payload)?),
            STATS => Self::Stats(parse(kind, &payload)?),
            ERROR => Self::Error(parse(kind, &payload)?),
            RECORDINGS => Self::Recordings(parse(kind, &payload)?),
            END => Self::End(parse(kind, &payload)?),
            _ => return Err(unknown(kind)),
        })
    }
}

impl Frame for ToNode {
    fn payload(&self) -> (u8, Payload<'_>) {
        match self {
            Self::Hello(hello) => (CLIENT_HELLO, json(hello)),
            Self::Targets(targets) => (TARGETS, json(targets)),
            Self::KeepAlive => (KEEP_ALIVE, Payload::Empty),
            Self::Stop => (STOP, Payload::Empty),
            Self::Watermark => (WATERMARK, Payload::Empty),
            Self::Goodbye => (GOODBYE, Payload::Empty),
        }
    }

    fn from_payload(kind: u8, payload: Bytes) -> Result<Self, String> {
        Ok(match kind {
            CLIENT_HELLO => Self::Hello(parse(kind, &payload)?),
            TARGETS => Self::Targets(parse(kind, &payload)?),
            KEEP_ALIVE => empty(kind, &payload, Self::KeepAlive)?,
            STOP => empty(kind, &payload, Self::Stop)?,
            WATERMARK => empty(kind, &payload, Self::Watermark)?,
            GOODBYE => empty(kind, &payload, Self::Goodbye)?,
            _ => return Err(unknown(kind)),
        })
    }
}

pub(crate) fn json<'a>(value: &impl Serialize) -> Payload<'a> {
    Payload::Json(serde_json::to_vec(value).expect("plain structures of strings and numbers"))
}

pub(crate) fn parse<T: DeserializeOwned>(kind: u8, payload: &[u8]) -> Result<T, String> {
    if payload.len() > MAX_JSON {
        return Err(format!("frame of kind {kind:#04x} has {} bytes of JSON", payload.len()));
    }
    serde_json::from_slice(payload).map_err(|e| format!("frame of kind {kind:#04x}: {e}"))
}

fn empty<T>(kind: u8, payload: &[u8], message: T) -> Result<T, String> {
    if payload.is_empty() { Ok(message) } else { Err(format!("frame of kind {kind:#04x} is not empty")) }
}

pub(crate) fn unknown(kind: u8) -> String {
    format!("unknown frame of kind {kind:#04x}")
}
