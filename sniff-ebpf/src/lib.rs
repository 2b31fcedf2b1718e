//! What the classifier knows of packets, apart from how it gets at them: pure, so that it is tested on the host.
//!
//! The classifier itself is the binary of this crate.
#![no_std]

pub mod headers;
