//! A machine of the test's own: PID, mount, UTS and network namespaces with a small init.
//!
//! It has its own `/proc`, `/sys`, `/run` and `/var/lib` (the latter two empty and in memory), so
//! default socket paths, named network namespaces and state directories are private to the test.
//! Its processes see it as their whole system, the way a container that plays a node does. Its
//! init is killed when the machine is dropped or the thread that booted it ends, in whatever way,
//! and every process, mount, namespace and file of the machine goes with it.

use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _},
    net::{Ipv4Addr, Ipv6Addr},
    path::{Path, PathBuf},
    process::Stdio,
    thread,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::{Pid, geteuid},
};

use crate::netns::{Link, Netns, tool};

/// The name a machine gives itself, and so the node's name in captures.
pub const HOSTNAME: &str = "test-node";

/// The init's whole work. It tells its PID as the outer `/proc` knows it, then reaps orphans.
const INIT: &str = r#"
set -e
read -r pid rest < /proc/self/stat
hostname "$0"
mount -t proc proc /proc
mount -t tmpfs -o mode=755 tmpfs /run
mkdir /run/cgroup
mount -o rbind /sys/fs/cgroup /run/cgroup
mount -t sysfs sysfs /sys
mount -o rbind /run/cgroup /sys/fs/cgroup
mount -t tmpfs -o mode=755 tmpfs /var/lib
mkdir /run/bpf
mount -t bpf bpf /run/bpf
ip link set lo up
echo "$pid"
exec > /dev/null
while :; do sleep 1000000 & wait $!; done
"#;

/// A running machine.
#[derive(Debug)]
pub struct Machine {
    init: i32,
}

/// A network namespace with one veth to the machine: a pod as far as the network is concerned.
#[derive(Debug)]
pub struct FakePod {
    /// The pod's namespace, named like the pod (`/run/netns/NAME`).
    pub netns: Netns,
    /// The pod's end, `eth0`.
    pub eth0: Link,
    /// The machine's end.
    pub veth: Link,
    /// The pod's IPv4 address.
    pub ipv4: Ipv4Addr,
    /// The pod's IPv6 address.
    pub ipv6: Ipv6Addr,
    /// The machine's IPv4 address on the pair.
    pub gateway4: Ipv4Addr,
    /// The machine's IPv6 address on the pair.
    pub gateway6: Ipv6Addr,
}

impl Machine {
    /// Boots a machine.
    ///
    /// # Panics
    ///
    /// When not root, or when a namespace or a mount is refused.
    pub fn boot() -> Self {
        assert!(geteuid().is_root(), "these tests need root: run them with `cargo xtask test`");
        let mut launcher = tool("setpriv")
            .args(["--pdeathsig", "KILL", "unshare", "--fork", "--kill-child"])
            .args(["--pid", "--mount", "--uts", "--net", "--"])
            .args(["busybox", "sh", "-c", INIT, HOSTNAME])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("starting setpriv (util-linux)");
        let mut said = String::new();
        let stdout = launcher.stdout.take().expect("a piped stdout");
        BufReader::new(stdout).read_line(&mut said).expect("reading from init");
        let init = said.trim().parse().unwrap_or_else(|_| {
            let mut stderr = launcher.stderr.take().expect("a piped stderr");
            stderr.read_to_string(&mut said).expect("reading init's complaints");
            panic!("a machine does not boot: {said}")
        });
        // Init's end waits for the test's own children on the machine, which may be reaped later
        // than the machine is dropped; so that wait is left to a thread.
        thread::spawn(move || launcher.wait());
        let machine = Self { init };
        machine.netns().skip_duplicate_address_detection();
        machine
    }

    /// The machine's own network namespace.
    pub fn netns(&self) -> Netns {
        Netns::new(self.init, "/proc/1/ns/net")
    }

    /// Makes the named network namespace `/run/netns/NAME`, with `lo` up.
    pub fn add_netns(&self, name: &str) -> Netns {
        self.netns().run(&format!("ip netns add {name}"));
        let netns = self.netns_at(&format!("/run/netns/{name}"));
        netns.skip_duplicate_address_detection();
        netns.run("ip link set lo up");
        netns
    }

    /// The network namespace at a path of the machine, such as `/proc/PID/ns/net`.
    pub fn netns_at(&self, path: &str) -> Netns {
        Netns::new(self.init, path)
    }

    /// Makes a namespace `name` with a veth pair to the machine and addresses on both ends.
    ///
    /// `net` makes the networks `10.77.NET.0/24` and `fd77:NET::/64`; the machine has `.1`, the
    /// pod `.2`.
    pub fn fake_pod(&self, name: &str, net: u8) -> FakePod {
        let node = self.netns();
        let pod = self.add_netns(name);
        let veth = format!("veth-{name}");
        node.run(&format!("ip link add {veth} type veth peer name eth0 netns {name}"));
        for (place, link, host) in [(&node, veth.as_str(), 1), (&pod, "eth0", 2)] {
            place.run(&format!("ip address add 10.77.{net}.{host}/24 dev {link}"));
            place.run(&format!("ip address add fd77:{net:x}::{host}/64 dev {link}"));
            place.run(&format!("ip link set {link} up"));
        }
        node.settle();
        pod.settle();
        let address = |host| Ipv4Addr::new(10, 77, net, host);
        let address6 = |host| Ipv6Addr::new(0xfd77, net.into(), 0, 0, 0, 0, 0, host);
        FakePod {
            eth0: pod.link("eth0"),
            veth: node.link(&veth),
            netns: pod,
            ipv4: address(2),
            ipv6: address6(2),
            gateway4: address(1),
            gateway6: address6(1),
        }
    }

    /// The number on the machine of a process that was started there and has the number `pid` here.
    pub fn pid_inside(&self, pid: u32) -> u32 {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("a live process");
        let numbers = status.lines().find_map(|line| line.strip_prefix("NSpid:"));
        let innermost = numbers.and_then(|numbers| numbers.split_whitespace().last());
        innermost.and_then(|number| number.parse().ok()).expect("a number on the machine")
    }

    /// A path of the machine, as the test reaches it.
    pub fn path(&self, path: impl AsRef<Path>) -> PathBuf {
        inside(self.init, path.as_ref())
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // An error means that it is gone already.
        let _ = kill(Pid::from_raw(self.init), Signal::SIGKILL);
    }
}

/// `path` of the machine whose first process is `init`, as seen from outside.
pub(crate) fn inside(init: i32, path: &Path) -> PathBuf {
    let path = path.strip_prefix("/").expect("an absolute path");
    Path::new("/proc").join(init.to_string()).join("root").join(path)
}

#[cfg(test)]
mod tests {
    use std::{os::unix::process::ExitStatusExt as _, time::Duration};

    use super::*;
    use crate::{traffic, wait};

    /// Says so when a process has ended, whether or not somebody has waited for it.
    fn gone(pid: i32) -> Option<()> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat"));
        stat.map_or(true, |stat| stat.contains(") Z ")).then_some(())
    }

    #[test]
    fn a_machine_sees_only_itself_and_leaves_nothing() {
        let machine = Machine::boot();
        let netns = machine.netns();
        assert_eq!(netns.run("hostname").trim(), HOSTNAME);
        assert_eq!(netns.links().len(), 1, "only lo");
        assert!(netns.run("ls /sys/class/net").trim() == "lo");
        let mut child = netns.spawn(tool("sleep").arg("1000"));
        let init = machine.init;
        drop(machine);
        assert_eq!(child.wait().expect("our child").signal(), Some(9));
        wait::until("death of init", Duration::from_secs(5), || gone(init));
    }

    #[test]
    fn a_machine_dies_with_the_thread_that_booted_it() {
        let init = thread::spawn(|| {
            let machine = Machine::boot();
            let init = machine.init;
            std::mem::forget(machine);
            init
        })
        .join()
        .expect("a machine");
        wait::until("death of init", Duration::from_secs(5), || gone(init));
    }

    #[test]
    fn a_fake_pod_answers_over_both_protocols() {
        let machine = Machine::boot();
        let pod = machine.fake_pod("blue", 1);
        assert_eq!(pod.eth0.peer, Some(pod.veth.index));
        traffic::ping(&machine.netns(), pod.ipv4.into(), 2, 56);
        traffic::ping(&pod.netns, pod.gateway6.into(), 2, 56);
    }
}
