//! What goes between `kubectl sniff` and `sniff serve` on a node: packets one way, control both ways,
//! over the two pipes of one process.
//!
//! Each direction is a preface and then frames:
//!
//! ```text
//! preface  "SNIFF" 0 0 protocol                                8 bytes
//! frame    kind u8 | flags u8 | 0 u16 | length u32 LE | payload of `length` bytes
//! ```
//!
//! The preface tells a sniff from an error message of whatever else may sit at the other end, and one protocol from
//! another. Bit 0 of the flags says that the payload, which then is packets, is one zstd frame. All other payloads are
//! JSON, or empty. [`ToClient`] and [`ToNode`] list the kinds, [`message`] what they carry.
//!
//! At the [`door`] of an agent, tokens are shown first, in frames of the same kind.
//!
//! Nothing that comes in is trusted: lengths are checked before memory is taken, unknown kinds are errors, and packets
//! are decompressed no further than a frame may be large. Unknown members of JSON objects are passed over, so that
//! neighbouring versions with the same [`PROTOCOL`] understand each other.
//!
//! Nothing here does I/O: [`Decoder`] is fed bytes, and writing appends to a `Vec<u8>`.

mod compression;
pub mod door;
mod frame;
pub mod message;
pub mod request;
mod version;

#[cfg(target_os = "linux")]
pub use compression::Compressor;
#[cfg(target_os = "linux")]
pub use frame::frame_packets;
pub use frame::{
    Broken, Decoder, Frame, HEADER_LEN, MAX_JSON, MAX_PAYLOAD, PREFACE, PROTOCOL, Payload, encode,
};
pub use message::{ToClient, ToNode};
pub use version::Build;

#[cfg(test)]
mod tests;
