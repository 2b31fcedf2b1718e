//! A capture of the node sees the connection that carries its own packets to the client, and grows by what it says.
//!
//! That connection comes to the kubelet's port, from the API server or what stands in between, and is there before this
//! process: it is one of those that are there at the start. Which one cannot be told from here, so all of those are left
//! out, by their addresses and ports; what connects later is captured. On its way to the container runtime the stream
//! goes over the loopback interface, and leaves the kubelet by connections of its own.

use std::{
    collections::HashSet,
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use anyhow::{Context as _, Result};

use crate::net::netns::Netns;

/// More connections than these are left out by the port alone: long filters take long to compile.
const MAX_CONNECTIONS: usize = 32;
/// States of TCP (include/net/tcp_states.h).
const ESTABLISHED: u8 = 1;
const LISTEN: u8 = 10;

/// A TCP socket of a network namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Socket {
    local: SocketAddr,
    remote: SocketAddr,
    state: u8,
    inode: u64,
}

/// What is to be left out of a capture of the node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct OwnStream {
    /// The packets that are meant, in libpcap's language.
    pub expression: String,
    /// Whether whoever sends them on to the client is on this node, too.
    pub goes_on_from_here: bool,
}

impl OwnStream {
    /// Finds the connections of the kubelet that serves this port; `None` when it has none there. Those that it has made
    /// to the container runtime are looked for where they could be seen, at the loopback interface.
    ///
    /// # Errors
    ///
    /// When the namespace cannot be entered, or the kernel does not tell its sockets.
    pub(super) fn find(node: &Netns, is_loopback: bool, kubelet_port: u16) -> Result<Option<Self>> {
        let sockets = node.run(sockets).context("the node's connections")?;
        let is_kubelets = |it: &&Socket| it.state == ESTABLISHED && it.local.port() == kubelet_port;
        let served: Vec<Socket> = sockets.iter().filter(is_kubelets).copied().collect();
        if served.is_empty() {
            return Ok(None);
        }
        let other_end =
            |it: &Socket| sockets.iter().any(|other| other.local == it.remote && other.remote == it.local);
        let goes_on_from_here = served.iter().any(other_end);
        let mut all = served;
        if is_loopback {
            all.extend(to_the_runtime(&sockets, kubelet_port));
        }
        Ok(Some(Self { expression: expression(&all, kubelet_port), goes_on_from_here }))
    }
}

/// The connections that the kubelet has made itself over the loopback interface.
fn to_the_runtime(sockets: &[Socket], kubelet_port: u16) -> Vec<Socket> {
    let listening = sockets.iter().find(|it| it.state == LISTEN && it.local.port() == kubelet_port);
    let Some(owned) = listening.and_then(|listening| sockets_of_owner(listening.inode)) else {
        return Vec::new();
    };
    let is_meant = |it: &&Socket| {
        it.state == ESTABLISHED
            && it.remote.ip().is_loopback()
            && it.local.port() != kubelet_port
            && owned.contains(&it.inode)
    };
    sockets.iter().filter(is_meant).copied().collect()
}

/// The inodes of all sockets of the process that has this one.
fn sockets_of_owner(inode: u64) -> Option<HashSet<u64>> {
    let processes = fs::read_dir("/proc").ok()?.filter_map(|entry| {
        let name = entry.ok()?.file_name();
        name.to_str()?.bytes().all(|byte| byte.is_ascii_digit()).then_some(name)
    });
    let sockets = |process: std::ffi::OsString| {
        let files = fs::read_dir(std::path::Path::new("/proc").join(process).join("fd")).ok()?;
        let targets = files.filter_map(|file| fs::read_link(file.ok()?.path()).ok());
        let inodes = targets
            .filter_map(|target| target.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok());
        Some(inodes.collect::<HashSet<u64>>())
    };
    processes.filter_map(sockets).find(|sockets| sockets.contains(&inode))
}

/// The TCP sockets of the calling thread's network namespace.
fn sockets() -> Result<Vec<Socket>> {
    let mut all = Vec::new();
    for file in ["tcp", "tcp6"] {
        let path = format!("/proc/thread-self/net/{file}");
        match fs::read_to_string(&path) {
            Ok(text) => all.extend(text.lines().skip(1).filter_map(socket)),
            // A kernel may be without IPv6.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(error).with_context(|| format!("cannot read {path}")),
        }
    }
    Ok(all)
}

/// A line of `/proc/net/tcp` (proc_pid_net(5)): slot, local, remote, state, and the inode as the tenth.
fn socket(line: &str) -> Option<Socket> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let &[_, local, remote, state, _, _, _, _, _, inode, ..] = &words[..] else { return None };
    Some(Socket {
        local: address(local)?,
        remote: address(remote)?,
        state: u8::from_str_radix(state, 16).ok()?,
        inode: inode.parse().ok()?,
    })
}

/// An address in hexadecimal digits, each 32 bits of it in the host's byte order; and a port.
fn address(text: &str) -> Option<SocketAddr> {
    let (ip, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let word = |at: usize| Some(u32::from_str_radix(ip.get(at..at + 8)?, 16).ok()?.to_ne_bytes());
    let ip = match ip.len() {
        8 => IpAddr::V4(Ipv4Addr::from(word(0)?)),
        32 => {
            let octets = [word(0)?, word(8)?, word(16)?, word(24)?].concat();
            let octets: [u8; 16] = octets.try_into().ok()?;
            // A socket for both versions has IPv4 addresses in IPv6's.
            Ipv6Addr::from(octets).to_canonical()
        }
        _ => return None,
    };
    Some(SocketAddr::new(ip, port))
}

fn expression(connections: &[Socket], kubelet_port: u16) -> String {
    if connections.len() > MAX_CONNECTIONS {
        return format!("tcp port {kubelet_port}");
    }
    let one = |Socket { local, remote, .. }: &Socket| {
        let [(here, port), (there, other)] = [local, remote].map(|it| (it.ip(), it.port()));
        format!("(host {here} and port {port} and host {there} and port {other})")
    };
    format!("tcp and ({})", connections.iter().map(one).collect::<Vec<_>>().join(" or "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use sniff_filter::expression::compile;
    use sniff_pcapng::LinkType;

    const TCP: &str =
        "   0: 0100007F:280A 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 21 1 0";
    const TCP6: &str = "   1: 0000000000000000FFFF00000100000A:280A 0000000000000000FFFF00000200000A:C001 01 \
                        00000000:00000000 00:00000000 00000000     0        0 22 1 0";

    #[test]
    #[cfg(target_endian = "little")]
    fn sockets_are_read_from_the_kernels_table() {
        let listening = socket(TCP).unwrap();
        assert_eq!((listening.local, listening.state), ("127.0.0.1:10250".parse().unwrap(), LISTEN));
        let connected = socket(TCP6).unwrap();
        assert_eq!(connected.local, "10.0.0.1:10250".parse().unwrap());
        assert_eq!(connected.remote, "10.0.0.2:49153".parse().unwrap());
        assert_eq!((connected.state, connected.inode), (ESTABLISHED, 22));
        for bad in ["", "  sl  local_address", "0: 0100007F 0: 01", "0: XX00007F:280A 0:0 01 0 0 0 0 0 1"] {
            assert_eq!(socket(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn libpcap_takes_what_is_left_out() {
        let socket = |remote: &str| Socket {
            local: "10.0.0.1:10250".parse().unwrap(),
            remote: remote.parse().unwrap(),
            state: ESTABLISHED,
            inode: 1,
        };
        let few = expression(&[socket("10.0.0.2:1"), socket("[fd00::2]:2")], 10250);
        assert_eq!(
            few,
            "tcp and ((host 10.0.0.1 and port 10250 and host 10.0.0.2 and port 1) or (host 10.0.0.1 and port 10250 and \
             host fd00::2 and port 2))"
        );
        let many = expression(&vec![socket("10.0.0.2:1"); MAX_CONNECTIONS], 10250);
        compile(&many, LinkType::Ethernet, true).unwrap();
        assert_eq!(expression(&vec![socket("10.0.0.2:1"); MAX_CONNECTIONS + 1], 10250), "tcp port 10250");
    }
}
