//! Where captured packets go. [`Sink`] is the one way out; behind it are a pcapng file or pipe ([`mod@file`]), lines of text
//! ([`lines`]), or both ([`Both`]), and what others put there, as frames for a client.

#[cfg(unix)]
mod accounted;
mod both;
pub mod file;
pub mod lines;
mod wanted;

use std::io;
#[cfg(unix)]
use std::os::fd::BorrowedFd;

use sniff_pcapng::InterfaceDescription;

#[cfg(unix)]
pub use accounted::{Delivery, Output};
pub use both::Both;
pub use wanted::{To, Wanted};

/// A place that pcapng blocks go to, in order.
pub trait Sink: Send {
    /// Learns of an interface before its description comes as a block: its id is the number of those before it.
    fn interface(&mut self, description: &InterfaceDescription);

    /// Writes whole blocks. Returns how many bytes of whole ones are written, which is all of them unless something is
    /// wrong.
    fn write(&mut self, blocks: &[u8]) -> (usize, io::Result<()>);

    /// The descriptor that tells when nobody reads any more, if there is one: it then has an error to report to poll(2).
    #[cfg(unix)]
    fn reader(&self) -> Option<BorrowedFd<'_>>;
}

/// Names what could not be written, and keeps the kind of the error.
fn cannot_write(name: &str, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("cannot write {name}: {error}"))
}
