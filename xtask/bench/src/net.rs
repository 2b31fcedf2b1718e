//! Network namespaces: a pod and its twin, the node that they run on, and a peer behind the node. More pods
//! when they are asked for. All goes away with the process.

use std::{
    fs,
    io::{self, Write as _},
    net::Ipv4Addr,
    path::PathBuf,
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, ensure};

use crate::netns::Netns;

/// The pod's interface, in the pod.
pub const POD_INTERFACE: &str = "eth0";
/// The other end of it, on the node: what is captured.
pub const HOST_INTERFACE: &str = "vethpod";

// Addresses that documentation may use (RFC 5737).
pub const POD: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
/// A neighbour of the pod that is not there: the node's IP drops what is for it, having looked at the
/// Ethernet address alone.
pub const SINK: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 9);
/// The peer behind the node.
pub const PEER: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 2);
const NODE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const NODE_TO_PEER: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);

/// Of [`POD_INTERFACE`].
pub const POD_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];
/// Of nobody.
pub const SINK_MAC: [u8; 6] = [2, 0, 0, 0, 0, 9];
const NODE_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
const PEER_MAC: [u8; 6] = [2, 0, 0, 0, 1, 2];
const NODE_TO_PEER_MAC: [u8; 6] = [2, 0, 0, 0, 1, 1];

/// The namespaces.
pub struct Net {
    /// Where traffic comes from.
    pub pod: Netns,
    /// Like the pod in everything, addresses included, but never captured.
    pub twin: Netns,
    /// Where tools run.
    pub node: Netns,
    /// Where TCP goes to.
    pub peer: Netns,
    /// Pods that are captured and have no traffic.
    pub others: Vec<Netns>,
}

/// What has passed an interface, in packets as the kernel handles them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Passed(u64);

impl Net {
    /// Makes the namespaces, with `pods` pods in all.
    ///
    /// # Errors
    /// Not root, or `ip` fails.
    pub fn new(pods: usize) -> Result<Self> {
        let [pod, twin, node, peer] = [silent_netns()?, silent_netns()?, silent_netns()?, silent_netns()?];
        let others = (1..pods).map(|_| silent_netns()).collect::<Result<_>>()?;
        let net = Self { pod, twin, node, peer, others };
        net.connect().context("cannot connect the network namespaces")?;
        net.connect_others().context("cannot make more pods")?;
        Ok(net)
    }

    /// The namespaces of the first `count` pods, as paths.
    pub fn pods(&self, count: usize) -> Vec<PathBuf> {
        [&self.pod].into_iter().chain(&self.others).take(count).map(Netns::path).collect()
    }

    /// What has passed the pod's interface so far, in both directions.
    pub fn passed(&self) -> Result<Passed> {
        let table = self.node.run(|| Ok(fs::read_to_string("/proc/thread-self/net/dev")?))?;
        passed(&table, HOST_INTERFACE).with_context(|| format!("no {HOST_INTERFACE} in {table}"))
    }

    fn connect(&self) -> Result<()> {
        let Self { pod, twin, node, peer, others: _ } = self;
        let link = |name: &str, mac, netns: &Netns, its_mac| {
            let (mac, its_mac, netns) = (text(mac), text(its_mac), netns.path());
            format!(
                "link add {name} address {mac} type veth peer name {POD_INTERFACE} address {its_mac} netns {}\n\
                 link set {name} up\n",
                netns.display()
            )
        };
        let neighbour = |address, mac, interface: &str| {
            format!("neigh add {address} lladdr {} dev {interface} nud permanent\n", text(mac))
        };
        let end = |address, router, router_mac| {
            format!("link set {POD_INTERFACE} up\naddr add {address}/24 dev {POD_INTERFACE}\n")
                + &format!("route add default via {router}\n")
                + &neighbour(router, router_mac, POD_INTERFACE)
        };
        node.run(|| {
            ip(&(link(HOST_INTERFACE, NODE_MAC, pod, POD_MAC)
                + &link("vethtwin", NODE_MAC, twin, POD_MAC)
                + &link("vethpeer", NODE_TO_PEER_MAC, peer, PEER_MAC)
                + &format!(
                    "addr add {NODE}/24 dev {HOST_INTERFACE}\naddr add {NODE_TO_PEER}/24 dev vethpeer\n"
                )
                + &neighbour(POD, POD_MAC, HOST_INTERFACE)
                + &neighbour(PEER, PEER_MAC, "vethpeer")))?;
            fs::write("/proc/sys/net/ipv4/ip_forward", "1").context("cannot make the node forward")
        })?;
        for pod in [pod, twin] {
            pod.run(|| ip(&(end(POD, NODE, NODE_MAC) + &neighbour(SINK, SINK_MAC, POD_INTERFACE))))?;
        }
        peer.run(|| ip(&end(PEER, NODE_TO_PEER, NODE_TO_PEER_MAC)))
    }

    fn connect_others(&self) -> Result<()> {
        let one = |(index, netns): (usize, &Netns)| {
            let path = netns.path();
            format!(
                "link add veth{index} type veth peer name {POD_INTERFACE} netns {}\nlink set veth{index} up\n",
                path.display()
            )
        };
        self.node.run(|| ip(&self.others.iter().enumerate().map(one).collect::<String>()))?;
        self.others.iter().try_for_each(|netns| netns.run(|| ip(&format!("link set {POD_INTERFACE} up\n"))))
    }
}

/// A namespace in which nobody speaks unasked: its IPv6 would announce itself.
fn silent_netns() -> Result<Netns> {
    let netns = Netns::new()?;
    netns.run(|| {
        for conf in ["all", "default"] {
            match fs::write(format!("/proc/sys/net/ipv6/conf/{conf}/disable_ipv6"), "1") {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(error).context("cannot silence IPv6 in a network namespace");
                }
                _ => {}
            }
        }
        Ok(())
    })?;
    Ok(netns)
}

fn text(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

/// Both packet columns of an interface in `/proc/net/dev`.
fn passed(table: &str, interface: &str) -> Option<Passed> {
    let line = table.lines().find_map(|line| line.trim_start().strip_prefix(interface)?.strip_prefix(':'))?;
    let mut columns = line.split_whitespace();
    let received: u64 = columns.nth(1)?.parse().ok()?;
    let sent: u64 = columns.nth(7)?.parse().ok()?;
    Some(Passed(received + sent))
}

impl Passed {
    /// How many packets have passed since `earlier`.
    pub fn since(self, Self(earlier): Self) -> u64 {
        self.0.saturating_sub(earlier)
    }
}

/// Has `ip` do `commands`, a line each.
fn ip(commands: &str) -> Result<()> {
    let mut command = Command::new("ip");
    command.args(["-batch", "-"]).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().context("cannot run ip (Debian's iproute2)")?;
    child.stdin.take().context("ip without input")?.write_all(commands.as_bytes())?;
    let output = child.wait_with_output()?;
    let complaints = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "ip: {}", complaints.trim());
    Ok(())
}

/// Runs a command to its end and returns what it printed.
///
/// # Errors
/// It cannot be started, does not succeed, or prints what is not UTF-8.
pub fn output(command: &mut Command) -> Result<String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("cannot run {program}"))?;
    let complaints = String::from_utf8_lossy(&output.stderr);
    let printed =
        String::from_utf8(output.stdout).with_context(|| format!("{program} printed other than text"))?;
    ensure!(output.status.success(), "{program} failed: {}{}", complaints.trim(), printed.trim());
    Ok(printed)
}

#[cfg(test)]
mod tests {
    use super::{Passed, passed};

    #[test]
    fn both_directions_are_counted() {
        let table = "Inter-|   Receive                   |  Transmit\n \
             face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs\n\
             vethpeer:   9   9    0    0    0     0          0         0    9   9    0    0    0     0       0 0\n\
             vethpod: 1000   7    1    2    3     4          5         6   90  11    0    0    0     0       0 0\n";
        assert_eq!(passed(table, "vethpod"), Some(Passed(18)));
        assert_eq!(passed(table, "veth"), None);
        assert_eq!(Passed(18).since(Passed(7)), 11);
    }
}
