//! The program `sniff`: finds the interfaces of pods on a Linux node, attaches classifiers to them, and writes what they
//! capture as pcapng. ARCHITECTURE.md at the top of the repository maps the modules and the crates beside them.

#![expect(missing_docs, reason = "no crate but the tests sees it, and most names say it all")]

mod agent;
pub mod bpf;
mod capture;
pub mod commands;
mod front;
mod halves;
pub mod net;
mod serve;
pub mod system;
mod targets;
