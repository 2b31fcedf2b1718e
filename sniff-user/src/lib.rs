//! The program `sniff`: finds the interfaces of pods on a Linux node, attaches classifiers to them, and writes what they
//! capture as pcapng. ARCHITECTURE.md at the top of the repository maps the modules and the crates beside them.

pub mod accounts;
pub mod agent;
pub mod args;
pub mod bpf;
pub mod clock;
pub mod cri;
pub mod drain;
pub mod link;
pub mod losses;
pub mod netns;
pub mod newcomers;
pub mod parallel;
pub mod privileges;
pub mod proc;
pub mod selector;
pub mod serve;
pub mod session;
pub mod signals;
pub mod system;
pub mod tap;
pub mod target;
pub mod tc;
pub mod view;
pub mod watch;
