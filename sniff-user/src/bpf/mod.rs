//! Everything that talks BPF to the kernel. No other module imports aya.
//!
//! - [`object`]: the kernel side's object: its maps, and the capture function's instructions.
//! - [`classifier`]: one program a direction of an interface: a prologue in front of the capture function.
//! - [`attach`]: where classifiers hook in, and taking them away again (by TCX, or by clsact).
//! - [`checksum`]: the kernel's word on whether a packet's checksum is filled in.
//! - [`home`]: keeping a classifier to the network namespace that it was attached in.
//! - [`ring`]: reading the blocks.

pub mod attach;
mod btf;
pub mod checksum;
pub mod classifier;
mod clsact;
pub mod home;
mod instructions;
mod mapping;
pub mod object;
pub mod ring;
mod skb;
mod syscall;

pub use syscall::{BootClock, wait_for_running_programs};
