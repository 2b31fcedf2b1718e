//! sniff's user side: finds a pod's interfaces, attaches classifiers to them, and writes what they capture as pcapng;
//! and `kubectl sniff`, which has that done on the nodes of a cluster.
//!
//! The modules without a condition are what `kubectl sniff` is made of; they build wherever kubectl runs.
//! ARCHITECTURE.md at the top of the repository maps the modules.

#[cfg(target_os = "linux")]
pub mod accounts;
#[cfg(target_os = "linux")]
pub mod agent;
#[cfg(target_os = "linux")]
pub mod args;
#[cfg(target_os = "linux")]
pub mod bpf;
#[cfg(target_os = "linux")]
pub mod clock;
#[cfg(target_os = "linux")]
pub mod cri;
#[cfg(target_os = "linux")]
pub mod drain;
#[cfg(target_os = "linux")]
pub mod link;
#[cfg(target_os = "linux")]
pub mod losses;
#[cfg(target_os = "linux")]
pub mod netns;
#[cfg(target_os = "linux")]
pub mod newcomers;
#[cfg(target_os = "linux")]
pub mod parallel;
#[cfg(target_os = "linux")]
pub mod privileges;
#[cfg(target_os = "linux")]
pub mod proc;
pub mod selector;
#[cfg(target_os = "linux")]
pub mod serve;
#[cfg(target_os = "linux")]
pub mod session;
#[cfg(target_os = "linux")]
pub mod signals;
#[cfg(target_os = "linux")]
pub mod system;
#[cfg(target_os = "linux")]
pub mod tap;
#[cfg(target_os = "linux")]
pub mod target;
#[cfg(target_os = "linux")]
pub mod tc;
#[cfg(target_os = "linux")]
pub mod view;
#[cfg(target_os = "linux")]
pub mod watch;
