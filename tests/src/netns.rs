//! A network namespace of a test [`Machine`](crate::machine::Machine), and ways to do things in it.

use std::{
    fs::{self, File},
    net::{Ipv4Addr, Ipv6Addr},
    path::{Path, PathBuf},
    process::{Child, Command},
    sync::{Arc, Once, atomic::AtomicBool},
    thread,
    time::Duration,
};

use nix::{
    sched::{CloneFlags, setns, unshare},
    sys::signal::Signal,
};
use serde_json::Value;

use crate::{machine::inside, wait};

/// Where the tools are, whatever `PATH` the tests were started with.
const TOOLS: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A command with the tools' `PATH`, no other environment, an English, UTF-8 locale, and no signal ignored.
pub fn tool(program: impl AsRef<std::ffi::OsStr>) -> Command {
    catch_ignored_signals();
    let mut command = Command::new(program);
    command.env_clear().env("PATH", TOOLS).env("LC_ALL", "C.UTF-8");
    command
}

/// Puts a copy of a program where anybody may run it.
///
/// By a process of its own: a file that the tests themselves write, a program that another thread starts at that moment has
/// open as well, until it is loaded; and a file that is open for writing cannot be run (`ETXTBSY`).
pub fn install(program: &Path, to: &Path) {
    let status = tool("install").args(["-m", "755"]).args([program, to]).status();
    assert!(status.expect("install").success(), "cannot install {}", to.display());
}

/// A program inherits what its parent ignores, as `nohup` and shells in the background have it, and not what it catches.
fn catch_ignored_signals() {
    static CAUGHT: Once = Once::new();
    CAUGHT.call_once(|| {
        let status = fs::read_to_string("/proc/self/status").expect("the tests' own status");
        let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:")).expect("a mask");
        let ignored = u64::from_str_radix(mask.trim(), 16).expect("a mask");
        for signal in [Signal::SIGHUP, Signal::SIGINT, Signal::SIGQUIT] {
            if ignored & 1 << (signal as i32 - 1) != 0 {
                let unread = Arc::new(AtomicBool::new(false));
                signal_hook::flag::register(signal as i32, unread).expect("a handler");
            }
        }
    });
}

/// A network namespace, named by a path that is valid on its machine.
#[derive(Clone, Debug)]
pub struct Netns {
    init: i32,
    path: PathBuf,
}

/// An interface as `ip -json -details address` shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Name in its own namespace.
    pub name: String,
    /// Index in its own namespace.
    pub index: u32,
    /// Index of the other end of a veth pair, in the other end's namespace (`IFLA_LINK`).
    pub peer: Option<u32>,
    /// Ethernet address.
    pub mac: [u8; 6],
    /// IPv4 addresses with prefix lengths.
    pub ipv4: Vec<(Ipv4Addr, u8)>,
    /// IPv6 addresses with prefix lengths, link-local ones included.
    pub ipv6: Vec<(Ipv6Addr, u8)>,
}

impl Netns {
    /// The namespace at `path` on the machine whose first process is `init`.
    pub(crate) fn new(init: i32, path: impl Into<PathBuf>) -> Self {
        Self { init, path: path.into() }
    }

    /// The namespace's path on its machine: what a program that runs there is given.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Runs `work` on a thread that is in the namespace.
    ///
    /// A socket opened by `work` stays in the namespace, whoever uses it later.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let network = self.open();
        in_thread(move || {
            setns(network, CloneFlags::CLONE_NEWNET).expect("entering a network namespace");
            work()
        })
    }

    /// Starts `command` in the namespace, as a process of its machine (it dies with the machine).
    pub fn spawn(&self, command: &mut Command) -> Child {
        let program = command.get_program().to_owned();
        let started = in_thread(|| {
            enter_machine(self.init, self.open());
            command.spawn()
        });
        started.unwrap_or_else(|error| panic!("cannot start {}: {error}", program.display()))
    }

    /// Runs a command line (split at white space, no quoting) to its end and returns its stdout.
    ///
    /// # Panics
    ///
    /// When it fails; the message holds its stderr.
    pub fn run(&self, line: &str) -> String {
        let mut words = line.split_whitespace();
        let mut command = tool(words.next().expect("a command"));
        command.args(words);
        let output = in_thread(|| {
            enter_machine(self.init, self.open());
            command.output()
        })
        .unwrap_or_else(|error| panic!("cannot run `{line}`: {error}"));
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "`{line}` failed ({}): {stderr}", output.status);
        String::from_utf8(output.stdout).expect("UTF-8 from a tool")
    }

    /// Sets a kernel parameter of the namespace, such as `net/ipv4/ip_forward`.
    pub fn sysctl(&self, name: &str, value: &str) {
        let written = self.enter(|| fs::write(Path::new("/proc/sys").join(name), value));
        written.unwrap_or_else(|error| panic!("cannot set {name}: {error}"));
    }

    /// Every interface in the namespace.
    pub fn links(&self) -> Vec<Link> {
        let json = self.run("ip -json -details address show");
        let json: Value = serde_json::from_str(&json).expect("JSON from ip");
        json.as_array().expect("an array from ip").iter().map(parse_link).collect()
    }

    /// The interface called `name`.
    ///
    /// # Panics
    ///
    /// When there is none.
    pub fn link(&self, name: &str) -> Link {
        let links = self.links();
        let found = links.iter().find(|link| link.name == name).cloned();
        found.unwrap_or_else(|| panic!("no interface {name} in {}: {links:?}", self.path.display()))
    }

    /// The packets `interface` has received and sent, by the kernel's own counters.
    pub fn packet_counts(&self, interface: &str) -> (u64, u64) {
        let json = self.run(&format!("ip -json -statistics link show dev {interface}"));
        let json: Value = serde_json::from_str(&json).expect("JSON from ip");
        let count = |way: &str| json[0]["stats64"][way]["packets"].as_u64().expect("a counter");
        (count("rx"), count("tx"))
    }

    /// Makes addresses of interfaces that are still to come usable at once.
    pub(crate) fn skip_duplicate_address_detection(&self) {
        for interfaces in ["all", "default"] {
            self.sysctl(&format!("net/ipv6/conf/{interfaces}/accept_dad"), "0");
        }
    }

    /// Waits until no address is tentative any more (IPv6 duplicate address detection is over).
    pub fn settle(&self) {
        wait::until("addresses that are not tentative", Duration::from_secs(10), || {
            self.run("ip -6 address show tentative").trim().is_empty().then_some(())
        });
    }

    /// A path of the namespace's machine, as the test reaches it.
    pub(crate) fn on_machine(&self, path: &Path) -> PathBuf {
        inside(self.init, path)
    }

    fn open(&self) -> File {
        let path = inside(self.init, &self.path);
        File::open(&path).unwrap_or_else(|error| panic!("no netns at {}: {error}", path.display()))
    }
}

/// Runs `work` on a thread that ends with it, so that nothing need be restored afterwards.
fn in_thread<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    thread::scope(|scope| scope.spawn(work).join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
}

/// Puts the calling thread's future children onto the machine of `init`, in `network`.
fn enter_machine(init: i32, network: File) {
    let open = |kind: &str| File::open(format!("/proc/{init}/ns/{kind}")).expect("a live machine");
    let (pid, uts, mount) = (open("pid"), open("uts"), open("mnt"));
    // A mount namespace cannot be entered while root and cwd are shared with other threads.
    unshare(CloneFlags::CLONE_FS).expect("a cwd of the thread's own");
    setns(network, CloneFlags::CLONE_NEWNET).expect("entering a network namespace");
    setns(uts, CloneFlags::CLONE_NEWUTS).expect("entering a UTS namespace");
    setns(pid, CloneFlags::CLONE_NEWPID).expect("entering a PID namespace");
    setns(mount, CloneFlags::CLONE_NEWNS).expect("entering a mount namespace");
}

fn parse_link(json: &Value) -> Link {
    let addresses = || json["addr_info"].as_array().into_iter().flatten();
    let of_family = |family: &'static str| addresses().filter(move |a| a["family"] == family);
    Link {
        name: json["ifname"].as_str().expect("a name").to_owned(),
        index: number(&json["ifindex"]).expect("an index"),
        peer: number(&json["link_index"]),
        mac: parse_mac(json["address"].as_str().unwrap_or_default()),
        ipv4: of_family("inet").map(parse_address).collect(),
        ipv6: of_family("inet6").map(parse_address).collect(),
    }
}

fn parse_address<A: std::str::FromStr>(json: &Value) -> (A, u8) {
    let address = json["local"].as_str().and_then(|text| text.parse().ok()).expect("an address");
    (address, number(&json["prefixlen"]).expect("a prefix length"))
}

fn number<N: TryFrom<u64>>(json: &Value) -> Option<N> {
    json.as_u64().and_then(|number| N::try_from(number).ok())
}

fn parse_mac(text: &str) -> [u8; 6] {
    let mut mac = [0; 6];
    for (byte, hex) in mac.iter_mut().zip(text.split(':')) {
        *byte = u8::from_str_radix(hex, 16).unwrap_or_default();
    }
    mac
}
