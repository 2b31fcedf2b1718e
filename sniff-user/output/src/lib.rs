//! Where captured packets go. [`Sink`] is the one way out; behind it are capture files and pipes ([`mod@file`]), lines of text
//! ([`lines`]), or both ([`Both`]), and what others put there, as frames for a client.

#[cfg(unix)]
mod accounted;
mod both;
mod destination;
mod dns_names;
pub mod file;
mod format;
pub mod lines;
pub mod rotate;
mod written;

#[cfg(unix)]
use std::os::fd::BorrowedFd;
use std::{error::Error, fmt, io};

use sniff_pcapng::InterfaceDescription;

#[cfg(unix)]
pub use accounted::{Delivery, Output};
pub use both::Both;
pub use destination::{Destination, Prepared, To};
pub use dns_names::DnsNames;
pub use written::Written;

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

/// What Windows says of a pipe whose reader has let go of it (`ERROR_PIPE_NOT_CONNECTED`); std has no kind for it.
const PIPE_NOT_CONNECTED: i32 = 233;

/// Names what could not be written, and keeps the kind of the error.
fn cannot_write(name: &str, error: &io::Error) -> io::Error {
    let is_closed = cfg!(windows) && error.raw_os_error() == Some(PIPE_NOT_CONNECTED);
    let kind = if is_closed { io::ErrorKind::BrokenPipe } else { error.kind() };
    io::Error::new(kind, format!("cannot write {name}: {error}"))
}

/// What [`Sink::write`] says when there is as much as was asked for: no more packets are taken, but what else belongs to the
/// end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

impl fmt::Display for Full {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("there are as many files or bytes as were asked for")
    }
}

impl Error for Full {}

impl Full {
    /// Whether that is what an error says.
    pub fn is(error: &io::Error) -> bool {
        error.get_ref().and_then(|error| error.downcast_ref::<Self>()).is_some()
    }
}
