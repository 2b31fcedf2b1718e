//! The program `sniff`: finds the interfaces of pods on a Linux node, attaches classifiers to them, and writes what they
//! capture as pcapng. ARCHITECTURE.md at the top of the repository maps the modules and the crates beside them.

pub mod agent;
pub mod args;
pub mod bpf;
pub mod capture;
pub mod net;
pub mod serve;
pub mod system;
pub mod targets;
