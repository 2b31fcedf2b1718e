//! One running capture, in its order from start to end ([`capture`]).
//!
//! - [`plan`]: what is asked; [`control`]: what a running capture is told, and what it tells.
//! - [`taps`]: the interfaces that are captured, and changes of them; [`tap`]: one of them, at which end ([`view`]).
//! - [`watch`] and [`newcomers`]: who goes and who comes.
//! - [`recorder`]: who asks for what is held of a recording.
//! - What becomes of the packets is [the front half's](crate::front).
//! - [`status`]: counts while it runs; [`accounts`]: those at the end.

pub mod accounts;
#[expect(clippy::module_inception, reason = "the folder is what a capture is made of, the module its order")]
mod capture;
mod control;
mod newcomers;
mod plan;
mod point;
pub mod recorder;
mod start;
mod status;
pub mod tap;
mod taps;
mod view;
mod watch;

pub use self::{
    capture::{run, serve},
    control::{Event, Order, Progress, Remote, Why},
    plan::{Detail, Plan},
    start::section_header,
};
