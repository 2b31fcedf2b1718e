//! Where packets go: pcapng files and pipes, and lines of text.

pub mod file;
pub mod lines;
#[cfg(target_os = "linux")]
mod output;

#[cfg(target_os = "linux")]
pub use output::{Delivery, Output};
