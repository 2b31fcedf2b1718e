//! Integration tests: each builds a topology, runs the built `sniff` in it, and checks what it did.
//!
//! `cargo xtask test` runs them; they need root and the tools that it installs, and fail, never
//! skip, without.

mod against_tcpdump;
mod agent;
mod bad_input;
mod both_ends;
mod consent;
mod file;
mod files;
mod filter;
mod following;
#[cfg(target_arch = "x86_64")]
mod front;
mod habits;
mod kernel;
mod kubectl;
mod kubernetes_api;
mod names;
mod newcomers;
mod outputs;
mod packaging;
mod privileges;
mod serving;
mod signals;
mod stopping;
mod targets;
mod text;

use std::{
    path::{Path, PathBuf},
    time::UNIX_EPOCH,
};

use sniff_tests::{
    bpf::{self, Link},
    leftovers::Snapshot,
    machine::{FakePod, Machine},
    netns::Netns,
    pcap::{self, Direction, Packet, PcapNg},
    sniff::{self, Outcome, Sniff},
    traffic, wireshark,
};
use tempfile::TempDir;

/// A machine with one fake pod.
struct OnePod {
    machine: Machine,
    node: Netns,
    pod: FakePod,
}

impl OnePod {
    fn new() -> Self {
        let machine = Machine::boot();
        let (node, pod) = (machine.netns(), machine.fake_pod("blue", 1));
        Self { machine, node, pod }
    }

    fn ping(&self, count: u32) {
        traffic::ping(&self.node, self.pod.ipv4.into(), count, 56);
    }

    /// A sniff of the pod, by its namespace.
    fn sniff(&self, args: &[&str]) -> Sniff<'_> {
        Sniff::in_netns(&self.node).args(["--netns", "blue"]).args(args.iter().copied())
    }

    fn snapshot(&self) -> Snapshot<'_> {
        Snapshot::take(&self.machine, &[&self.node, &self.pod.netns], &sniff::binary())
    }
}

/// A directory with room for one capture file; removed on drop.
struct Capture {
    _directory: TempDir,
    file: PathBuf,
}

impl Capture {
    fn new() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        Self { file: directory.path().join("sniff.pcapng"), _directory: directory }
    }

    /// The file's name, for the command line.
    fn arg(&self) -> &str {
        self.file.to_str().expect("a plain path")
    }

    fn path(&self) -> &Path {
        &self.file
    }

    fn read(&self) -> PcapNg {
        pcap::read_pcapng(&self.file)
    }

    /// Reads a file that was ended in good order, and checks it against what sniff said.
    fn read_whole(&self, outcome: &Outcome) -> PcapNg {
        let counts = outcome.success();
        let file = self.read_ended();
        assert_eq!(file.packets.len() as u64, counts.captured);
        file
    }

    /// The same without Wireshark's opinion of the file, which does not depend on the kernel.
    fn read_counted(&self, outcome: &Outcome) -> PcapNg {
        let counts = outcome.success();
        let file = self.read();
        assert_eq!(file.packets.len() as u64, counts.captured);
        file
    }

    /// Reads a file that was ended in good order: each interface has its statistics, and they add up.
    fn read_ended(&self) -> PcapNg {
        wireshark::assert_clean(self.path());
        let file = self.read();
        assert_eq!(file.statistics.len(), file.interfaces.len());
        let delivered: u64 = file.statistics.iter().filter_map(|statistics| statistics.usrdeliv).sum();
        assert_eq!(file.packets.len() as u64, delivered);
        file
    }
}

/// Two pods that reach each other through the machine.
fn two_pods(machine: &Machine) -> (FakePod, FakePod) {
    machine.netns().sysctl("net/ipv4/ip_forward", "1");
    let (a, b) = (machine.fake_pod("a", 1), machine.fake_pod("b", 2));
    for pod in [&a, &b] {
        pod.netns.run(&format!("ip route add default via {}", pod.gateway4));
    }
    // The neighbours are known from here on.
    traffic::ping(&a.netns, b.ipv4.into(), 1, 16);
    (a, b)
}

/// An eBPF CNI that hands packets from one pod straight to the other, both ways.
fn redirect_peer(node: &Netns, a: &FakePod, b: &FakePod) -> [Link; 2] {
    [(a, b), (b, a)].map(|(from, to)| bpf::redirect_peer(node, from.veth.index, to.veth.index))
}

/// The time in a comment behind some words, in nanoseconds since the epoch.
fn time_in(comment: &str, words: &str) -> u64 {
    let (_, behind) = comment.split_once(words).unwrap_or_else(|| panic!("no {words:?}: {comment}"));
    let time = behind.split([' ', ',', ';']).next().unwrap_or_default();
    let time = humantime::parse_rfc3339(time).unwrap_or_else(|error| panic!("{time}: {error}"));
    time.duration_since(UNIX_EPOCH).expect("a time after 1970").as_nanos() as u64
}

/// Counts packets that went `direction` and hold an ICMP echo request or reply.
///
/// Payloads of `size` bytes only, so that one test can tell its pings apart.
fn echoes(packets: &[Packet], direction: Direction, size: u32) -> usize {
    const ETHERNET_IPV4_ICMP: u32 = 14 + 20 + 8;
    const PROTOCOL: usize = 14 + 9;
    let wanted = |packet: &&Packet| {
        packet.direction == Some(direction)
            && packet.original_len == ETHERNET_IPV4_ICMP + size
            && packet.data[12..14] == [0x08, 0x00]
            && packet.data[PROTOCOL] == 1
    };
    packets.iter().filter(wanted).count()
}
