//! What the filters are compared with and on: engines, expressions, packets and random programs.
//!
//! One question, whether a filter matches a packet, is put to libpcap's interpreter, to the
//! kernel's classic BPF on a socket, and to sniff's own eBPF as the kernel runs it.

pub mod corpus;
pub mod engines;
pub mod expressions;
pub mod headers;
pub mod random;

pub use sniff_pcapng::LinkType;
