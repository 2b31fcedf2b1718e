//! Frames: their header, their limits, and the decoder that takes them out of a stream of bytes.

use std::{fmt, marker::PhantomData};

use bytes::{Buf as _, Bytes, BytesMut};
use serde::{Deserialize, Serialize};

#[cfg(target_os = "linux")]
use super::compression::Compressor;
use super::compression::decompress;

/// Number of the protocol. It changes when a peer of another number could misunderstand, not when something is added.
pub const PROTOCOL: u8 = 1;

/// What each direction begins with.
pub const PREFACE: [u8; 8] = [b'S', b'N', b'I', b'F', b'F', 0, 0, PROTOCOL];

/// Most bytes of a payload, compressed as well as not.
pub const MAX_PAYLOAD: usize = 4 << 20;

/// Most bytes of a payload of JSON.
pub const MAX_JSON: usize = 1 << 20;

/// Bytes in front of each payload.
pub const HEADER_LEN: usize = 8;

/// The kind of the frames whose payload may be compressed: those of packets.
pub(super) const PACKETS: u8 = 0x02;

/// In the flags: the payload is one zstd frame.
const COMPRESSED: u8 = 1;

/// Most of foreign text that an error repeats.
const SHOWN: usize = 200;

/// What a message carries.
pub enum Payload<'a> {
    /// A JSON object.
    Json(Vec<u8>),
    /// pcapng blocks.
    Packets(&'a [u8]),
    /// Nothing.
    Empty,
}

/// A message that travels in frames; [`super::ToClient`] and [`super::ToNode`] are the two sets of them.
pub trait Frame: Sized {
    /// Kind and payload of the message.
    fn payload(&self) -> (u8, Payload<'_>);

    /// The message of this kind and payload.
    ///
    /// # Errors
    ///
    /// When there is no such kind in this direction, or the payload is not what the kind carries; says what is wrong.
    fn from_payload(kind: u8, payload: Bytes) -> Result<Self, String>;
}

/// Why a stream cannot be read on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Broken {
    /// The other end is no sniff; the start of what it says instead, as printable ASCII.
    Foreign(String),
    /// The other end is a sniff that speaks the protocol of this number.
    Protocol(u8),
    /// The stream ended inside a frame, or before the preface.
    Cut,
    /// A frame is not as it should be.
    Malformed(String),
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Foreign(text) => write!(f, "the other end is not sniff, it says: {text}"),
            Self::Protocol(theirs) => write!(
                f,
                "the other end speaks protocol {theirs}, this sniff {} speaks {PROTOCOL}: update {}",
                env!("CARGO_PKG_VERSION"),
                if *theirs < PROTOCOL { "the other end" } else { "this one" }
            ),
            Self::Cut => write!(f, "the stream was cut off"),
            Self::Malformed(what) => write!(f, "the stream is garbled: {what}"),
        }
    }
}

impl std::error::Error for Broken {}

/// Appends the frame of a message to `out`. The [`PREFACE`] comes once, before the first one.
///
/// # Errors
///
/// [`Broken::Malformed`] when the payload exceeds its limit.
pub fn encode(message: &impl Frame, out: &mut Vec<u8>) -> Result<(), Broken> {
    match message.payload() {
        (kind, Payload::Json(json)) => {
            check(json.len() <= MAX_JSON, || format!("{} bytes of JSON are too many", json.len()))?;
            append(out, kind, 0, &json)
        }
        (kind, Payload::Packets(packets)) => append(out, kind, 0, packets),
        (kind, Payload::Empty) => append(out, kind, 0, &[]),
    }
}

/// The frame of whole pcapng blocks, its header and its payload, which is compressed where `compressor` finds it worth that.
///
/// # Errors
///
/// When they are more than [`MAX_PAYLOAD`].
#[cfg(target_os = "linux")]
pub fn frame_packets<'a>(
    blocks: &'a [u8],
    compressor: Option<&'a mut Compressor>,
) -> Result<([u8; HEADER_LEN], &'a [u8]), Broken> {
    check(blocks.len() <= MAX_PAYLOAD, || format!("{} bytes of packets are too many", blocks.len()))?;
    let (flags, payload) = match compressor.and_then(|it| it.compress(blocks)) {
        Some(compressed) => (COMPRESSED, compressed),
        None => (0, blocks),
    };
    Ok((header(PACKETS, flags, payload)?, payload))
}

fn header(kind: u8, flags: u8, payload: &[u8]) -> Result<[u8; HEADER_LEN], Broken> {
    check(payload.len() <= MAX_PAYLOAD, || format!("{} bytes are too many for a frame", payload.len()))?;
    let [a, b, c, d] = (payload.len() as u32).to_le_bytes();
    Ok([kind, flags, 0, 0, a, b, c, d])
}

fn append(out: &mut Vec<u8>, kind: u8, flags: u8, payload: &[u8]) -> Result<(), Broken> {
    let header = header(kind, flags, payload)?;
    out.reserve(HEADER_LEN + payload.len());
    out.extend(header);
    out.extend(payload);
    Ok(())
}

/// Takes messages out of a stream of bytes, however the bytes are cut.
pub struct Decoder<M> {
    buffered: BytesMut,
    greeted: bool,
    messages: PhantomData<M>,
}

impl<M: Frame> Decoder<M> {
    /// A decoder at the start of a stream.
    pub fn new() -> Self {
        Self { buffered: BytesMut::new(), greeted: false, messages: PhantomData }
    }

    /// Takes the next bytes of the stream. Whoever calls [`Self::next`] until it has nothing more keeps what is
    /// buffered below one frame and `bytes`.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffered.extend_from_slice(bytes);
    }

    /// The next message; `None` when more bytes are needed.
    ///
    /// # Errors
    ///
    /// When the stream is not what it should be; it cannot be read on then.
    #[expect(clippy::should_implement_trait, reason = "it fails, and it has no end of its own")]
    pub fn next(&mut self) -> Result<Option<M>, Broken> {
        if !self.greeted {
            if !self.take_preface()? {
                return Ok(None);
            }
            self.greeted = true;
        }
        let Some((header, rest)) = self.buffered.split_first_chunk::<HEADER_LEN>() else {
            return Ok(None);
        };
        let &[kind, flags, reserved0, reserved1, len @ ..] = header;
        let len = u32::from_le_bytes(len) as usize;
        check(flags & !COMPRESSED == 0 && reserved0 == 0 && reserved1 == 0, || {
            format!("frame of kind {kind:#04x} with unknown flags")
        })?;
        check(flags & COMPRESSED == 0 || kind == PACKETS, || {
            format!("frame of kind {kind:#04x} is compressed")
        })?;
        check(len <= MAX_PAYLOAD, || format!("frame of kind {kind:#04x} claims {len} bytes"))?;
        if rest.len() < len {
            return Ok(None);
        }
        self.buffered.advance(HEADER_LEN);
        let payload = self.buffered.split_to(len).freeze();
        let payload =
            if flags & COMPRESSED != 0 { decompress(&payload).map_err(Broken::Malformed)? } else { payload };
        M::from_payload(kind, payload).map(Some).map_err(Broken::Malformed)
    }

    /// What has come behind the last message, where somebody else reads on.
    pub fn rest(self) -> Bytes {
        self.buffered.freeze()
    }

    /// To be asked at the end of the stream.
    ///
    /// # Errors
    ///
    /// When the stream ended inside a frame, or before there was a preface.
    pub fn finish(&self) -> Result<(), Broken> {
        match (self.greeted, self.buffered.is_empty()) {
            (true, true) => Ok(()),
            (false, false) => Err(Broken::Foreign(shown(&self.buffered))),
            _ => Err(Broken::Cut),
        }
    }

    /// Whether the preface has come and is gone from the buffer.
    fn take_preface(&mut self) -> Result<bool, Broken> {
        let (magic, protocol) = PREFACE.split_at(PREFACE.len() - 1);
        let have = self.buffered.len().min(magic.len());
        if self.buffered[..have] != magic[..have] {
            return Err(Broken::Foreign(shown(&self.buffered)));
        }
        if self.buffered.len() < PREFACE.len() {
            return Ok(false);
        }
        let theirs = self.buffered.split_to(PREFACE.len())[magic.len()];
        if [theirs] == protocol { Ok(true) } else { Err(Broken::Protocol(theirs)) }
    }
}

impl<M: Frame> Default for Decoder<M> {
    fn default() -> Self {
        Self::new()
    }
}

fn check(holds: bool, otherwise: impl FnOnce() -> String) -> Result<(), Broken> {
    if holds { Ok(()) } else { Err(Broken::Malformed(otherwise())) }
}

/// The start of foreign bytes, fit for a terminal.
fn shown(bytes: &[u8]) -> String {
    bytes.trim_ascii().iter().take(SHOWN).copied().collect::<Vec<u8>>().escape_ascii().to_string()
}
