//! sniff's user side: finds a pod's interfaces, attaches classifiers to them, and writes what they capture as pcapng.
//!
//! ARCHITECTURE.md at the top of the repository maps the modules.

pub mod accounts;
pub mod agent;
pub mod args;
pub mod bpf;
pub mod clock;
pub mod cri;
pub mod drain;
pub mod exit;
pub mod filter;
pub mod kubernetes;
pub mod link;
pub mod logging;
pub mod netns;
pub mod options;
pub mod output;
pub mod parallel;
pub mod pcapng;
pub mod privileges;
pub mod proc;
pub mod serve;
pub mod session;
pub mod signals;
pub mod stream;
pub mod system;
pub mod tap;
pub mod target;
pub mod tc;
pub mod text;
pub mod watch;
