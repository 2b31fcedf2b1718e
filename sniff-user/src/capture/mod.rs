//! One running capture, in its order from start to end ([`capture`]).
//!
//! - [`plan`]: what is asked; [`control`]: what a running capture is told, and what it tells.
//! - [`taps`]: the interfaces that are captured, and changes of them; [`tap`]: one of them, at which end ([`view`]).
//! - [`watch`] and [`newcomers`]: who goes and who comes.
//! - [`drain`]: from the ring to the output; [`losses`]: packets of which only the count is there; [`ends`]: packets that two
//!   pods have; [`unsummed`]: packets whose checksum is still to be filled in, where the kernel does not tell;
//!   [`network_layer`]: where both find the IP header.
//! - [`status`]: counts while it runs; [`accounts`]: those at the end.

pub mod accounts;
#[expect(clippy::module_inception, reason = "the folder is what a capture is made of, the module its order")]
mod capture;
mod control;
mod drain;
mod ends;
mod losses;
mod network_layer;
mod newcomers;
mod plan;
mod point;
mod start;
mod status;
pub mod tap;
mod taps;
mod unsummed;
mod view;
mod watch;

pub use self::{
    capture::{run, serve},
    control::{Event, Order, Progress, Remote, Why},
    plan::{Detail, OpenOutput, Plan},
};
