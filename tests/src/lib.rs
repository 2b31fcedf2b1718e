//! What the integration tests are built from: a machine of their own, real pods on it, traffic,
//! and second opinions (tcpdump, Wireshark, bpftool) to compare sniff's work with.
//!
//! Everything here panics with a plain message instead of returning an error: a test whose
//! surroundings cannot be built has failed, and the panic shows where. Everything made is removed
//! on drop, and, because it lives in a PID and a mount namespace of its own, also when the test
//! process is killed (see [`machine`]).
#![expect(missing_docs, reason = "no crate but the tests sees it, and most names say it all")]

pub mod bpf;
pub mod cgroup;
pub mod client;
pub mod cluster;
pub mod cpu;
pub mod cri;
pub mod filter;
pub mod frame;
#[cfg(target_arch = "x86_64")]
pub mod intruder;
pub mod kernel;
pub mod leftovers;
pub mod machine;
pub mod netns;
pub mod node;
pub mod pcap;
pub mod proxy;
pub mod serve;
pub mod sniff;
pub mod tcpdump;
pub mod terminal;
pub mod traffic;
pub mod wait;
pub mod wireshark;
