//! What files are written as, and when another is begun.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use nix::sys::signal::Signal;
use sniff_tests::{
    machine::{FakePod, Machine},
    netns::{Netns, tool},
    pcap::{self, PcapNg},
    sniff::{Running, Sniff},
    traffic::{self, UdpFlow},
    wait, wireshark,
};
use tempfile::TempDir;

/// How long something may take that takes no time.
const SOON: Duration = Duration::from_secs(10);
const FILTER: &str = "udp port 7777";

struct Files {
    machine: Machine,
    folder: TempDir,
}

impl Files {
    fn new() -> Self {
        Self { machine: Machine::boot(), folder: tempfile::tempdir().expect("a directory") }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn arg(&self, name: &str) -> String {
        self.path(name).to_str().expect("a plain path").to_owned()
    }

    /// The files there, by name.
    fn all(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.folder.path()).expect("the folder");
        let mut all: Vec<_> = entries.map(|entry| entry.expect("an entry").path()).collect();
        all.sort();
        all
    }
}

fn flow(node: &Netns, pod: &FakePod) -> UdpFlow {
    UdpFlow::open(node, &pod.netns, SocketAddr::new(pod.ipv4.into(), 7777))
}

/// Lines that tcpdump prints of a file.
fn tcpdump_reads(file: &Path) -> usize {
    let output = tool("tcpdump").args(["-nr"]).arg(file).output().expect("tcpdump");
    assert!(output.status.success(), "{}: {output:?}", file.display());
    String::from_utf8_lossy(&output.stdout).lines().count()
}

#[test]
fn the_files_of_a_series_are_the_capture_and_stand_alone() {
    let files = Files::new();
    let node = files.machine.netns();
    let pod = files.machine.fake_pod("blue", 1);
    let (whole, series) = (files.arg("whole"), files.arg("d.pcapng"));
    let start =
        |args: &[&str]| Sniff::in_netns(&node).args(["--netns", "blue", "-f", FILTER]).args(args).start();
    let one = start(&["-w", &whole]);
    let several = start(&["-w", &series, "-C", "20k"]);
    flow(&node, &pod).send(1000, 100);
    let counts = [one.stop().success(), several.stop().success()];
    assert_eq!(counts.map(|it| (it.captured, it.dropped)), [(1000, 0); 2]);
    let data = |file: &PcapNg| file.packets.iter().map(|packet| packet.data.clone()).collect::<Vec<_>>();
    let whole = data(&pcap::read_pcapng(Path::new(&whole)));
    let all: Vec<_> = files.all().into_iter().filter(|file| file.extension().is_some()).collect();
    assert!(all.len() > 5, "{all:?}");
    let (mut together, mut accepted) = (Vec::new(), 0);
    for file in &all {
        wireshark::assert_clean(file);
        let read = pcap::read_pcapng(file);
        let [statistics] = read.statistics.as_slice() else { panic!("not one: {read:?}") };
        assert_eq!(statistics.usrdeliv, Some(read.packets.len() as u64));
        assert_eq!(read.interfaces[0].name.as_deref(), Some("netns:blue/eth0"));
        assert_eq!(tcpdump_reads(file), read.packets.len());
        assert!(fs::metadata(file).expect("the file").len() <= 20 << 10);
        accepted += statistics.filteraccept.expect("a count");
        together.extend(data(&read));
    }
    assert_eq!(accepted, 1000);
    assert!(together == whole, "other packets, or in another order");
}

#[test]
fn a_ring_whose_writer_is_killed_leaves_whole_files() {
    let files = Files::new();
    let node = files.machine.netns();
    let pod = files.machine.fake_pod("blue", 1);
    let args = ["--netns", "blue", "-U", "-f", FILTER, "-C", "20k", "-W", "3", "-w"];
    let sniff = Sniff::in_netns(&node).args(args).args([files.arg("d.pcapng")]).start();
    flow(&node, &pod).send(1000, 100);
    // Behind it there is no other.
    wait::until("the ring to come round", SOON, || files.path("d_00008.pcapng").exists().then_some(()));
    sniff.signal(Signal::SIGKILL);
    sniff.wait();
    let all = files.all();
    // The oldest goes before the next is begun.
    assert!((2..=3).contains(&all.len()), "{all:?}");
    for file in &all[..all.len() - 1] {
        wireshark::assert_clean(file);
        assert_eq!(pcap::read_pcapng(file).statistics.len(), 1);
    }
}

#[test]
fn compressed_files_open_while_the_capture_runs() {
    let files = Files::new();
    let node = files.machine.netns();
    let pod = files.machine.fake_pod("blue", 1);
    let names = ["x.pcapng.zst", "x.pcap.gz"].map(|name| files.arg(name));
    let start =
        |name: &String| Sniff::in_netns(&node).args(["--netns", "blue", "-w", name, "-f", "icmp"]).start();
    let running = names.each_ref().map(start);
    for round in 1..=2 {
        traffic::ping(&node, pod.ipv4.into(), 3, 56);
        for name in &names {
            let there = || wireshark::count(Path::new(name), "icmp.type == 8");
            wait::until("the packets to be in the file", SOON, || (there() == 3 * round).then_some(()));
        }
    }
    for (sniff, name) in running.into_iter().zip(&names) {
        sniff.stop().success();
        wireshark::assert_clean(Path::new(name));
    }
    let magic = |name: &str| fs::read(name).expect("the file")[..2].to_vec();
    assert_eq!(names.each_ref().map(|name| magic(name)), [vec![0x28, 0xb5], vec![0x1f, 0x8b]]);
}

#[test]
fn a_file_is_what_its_name_says_or_it_is_said() {
    let files = Files::new();
    let node = files.machine.netns();
    let pod = files.machine.fake_pod("blue", 1);
    let (classic, odd) = (files.arg("x.pcap"), files.arg("odd.pcap"));
    let start =
        |args: &[&str]| Sniff::in_netns(&node).args(["--netns", "blue", "-f", "icmp"]).args(args).start();
    let running = [start(&["-w", &classic]), start(&["-w", &odd, "--format", "pcapng"])];
    traffic::ping(&node, pod.ipv4.into(), 3, 56);
    let [first, second] = running.map(Running::stop);
    let counts = first.success();
    assert!(first.stderr.iter().any(|line| line.contains("x.pcap is classic pcap")), "{first:#?}");
    assert!(second.stderr.iter().any(|line| line.contains("not what its name says")), "{second:#?}");
    let packets = pcap::read_pcap(Path::new(&classic));
    let others = pcap::read_pcapng(Path::new(&odd)).packets;
    assert_eq!((packets.len() as u64, packets.len()), (counts.captured, others.len()));
    for (packet, other) in packets.iter().zip(&others) {
        assert_eq!((&packet.data, packet.original_len), (&other.data, other.original_len));
    }
    assert_eq!(tcpdump_reads(Path::new(&classic)), packets.len());
    wireshark::assert_clean(Path::new(&classic));
    let capinfos: &mut Command = &mut tool("capinfos");
    let said = capinfos.arg("-t").arg(&classic).output().expect("capinfos").stdout;
    assert!(String::from_utf8_lossy(&said).contains("nanosecond"), "{said:?}");
}

#[test]
fn a_capture_ends_with_the_bytes_that_were_asked_for() {
    let files = Files::new();
    let node = files.machine.netns();
    let pod = files.machine.fake_pod("blue", 1);
    let name = files.arg("x.pcapng");
    let args = ["--netns", "blue", "-f", FILTER, "--max-bytes", "50000", "-w", &name];
    let sniff = Sniff::in_netns(&node).args(args).start();
    flow(&node, &pod).send(1000, 100);
    let counts = sniff.wait().success();
    wireshark::assert_clean(Path::new(&name));
    let file = pcap::read_pcapng(Path::new(&name));
    assert_eq!(file.packets.len() as u64, counts.captured);
    assert!(counts.captured < counts.received, "{counts:?}");
    assert_eq!(file.statistics[0].usrdeliv, Some(counts.captured));
    let len = fs::metadata(&name).expect("the file").len();
    // The statistics tell more than what room was left for.
    assert!((49_000..50_500).contains(&len), "{len}");
}
