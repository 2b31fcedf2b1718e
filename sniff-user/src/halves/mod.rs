//! Two processes. What strangers send is read by the [front half](crate::front), which has no rights: packets, the words of
//! a client, filters on their way through libpcap. What takes rights is done by the other half, which is the process that was
//! started: finding pods, loading and attaching, watching interfaces, making files. It takes the front half's word for
//! nothing but what becomes of packets.
//!
//! - [`fork`]: how one becomes two; [`board`]: memory that both see.
//! - [`link`]: messages and descriptors between them; [`message`]: which ones.
//! - [`writer`]: the front half as the other one sees it.

mod board;
mod fork;
pub mod link;
pub mod message;
mod writer;

pub use self::{
    board::Board,
    fork::{Ends, Halves, split},
    writer::{Compiler, Receipts, SaveEnded, Writer},
};
