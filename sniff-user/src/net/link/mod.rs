//! Network interfaces, by netlink: what a namespace has, and where peers are.
//!
//! Each question opens a netlink socket inside the namespace, on a short-lived thread, asks
//! and closes it again. Nothing here changes an interface.

pub mod monitor;
mod sanitize;

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::fd::AsRawFd,
    time::Duration,
};

use anyhow::{Context, Result, anyhow, bail};
use futures_util::{StreamExt, TryStreamExt};
use nix::errno::Errno;
use rtnetlink::{
    Handle,
    packet_core::{NLM_F_REQUEST, NetlinkMessage, NetlinkPayload},
    packet_route::{
        RouteNetlinkMessage,
        address::{AddressAttribute, AddressMessage},
        link::{LinkAttribute, LinkFlags, LinkInfo, LinkMessage},
        nsid::{NsidAttribute, NsidMessage},
    },
    sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE},
};

use self::sanitize::SanitizingSocket;
pub use self::sanitize::sanitize_name;
use crate::net::netns::Netns;

/// `ARPHRD_*` values (linux/if_arp.h) of interfaces whose packets start with an Ethernet
/// header: Ethernet, and the loopback device.
const ETHERNET_TYPES: [u16; 2] = [1, ARPHRD_LOOPBACK];
/// Those whose packets start with the IP header: IP tunnels (IPv4, IPv6, sit), raw IP
/// (cellular modems), and devices without a link layer (tun, WireGuard).
const RAW_TYPES: [u16; 5] = [768, 769, 776, 519, 0xfffe];
const ARPHRD_LOOPBACK: u16 = 772;
/// Stands for all that the library does not know; `ARPHRD_VOID` in the kernel.
const UNKNOWN_TYPE: u16 = 0xffff;

/// From linux/rtnetlink.h and linux/if_link.h: message type `RTM_NEWLINK`, bytes of a `nlmsghdr` and an `ifinfomsg`, and
/// attribute `IFLA_STATS64`.
const NEW_LINK: u16 = 16;
const LINK_HEAD: usize = 32;
const STATS_64: u16 = 23;
/// More than what is told of one interface takes.
const ANSWER_ROOM: usize = 32 << 10;

/// How long to wait for the kernel's answer.
const TIMEOUT: Duration = Duration::from_secs(2);

/// What a captured packet begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LinkLayer {
    /// An Ethernet header.
    Ethernet,
    /// The IPv4 or IPv6 header.
    Raw,
}

/// One interface as the kernel describes it in one network namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// The ifindex. Unique only within the namespace.
    pub index: u32,
    /// The name. The kernel forbids no more than `/`, `:` and white space; bytes that make it no UTF-8 are `?` here.
    pub name: String,
    /// The driver kind (`IFLA_INFO_KIND`): `veth`, `netkit`, `macvlan`…; none for hardware.
    pub kind: Option<String>,
    /// The link-layer type, one of `ARPHRD_*` (linux/if_arp.h).
    pub arphrd: u16,
    /// The hardware address, if it has one of six bytes.
    pub mac: Option<[u8; 6]>,
    /// Whether it is administratively up (`IFF_UP`).
    pub up: bool,
    /// The largest packet, in bytes without the link-layer header.
    pub mtu: u32,
    /// The interface that this one is paired with or stacked upon (`IFLA_LINK`).
    pub peer: Option<Peer>,
    /// IPv4 addresses with the length of their prefix.
    pub ipv4: Vec<(Ipv4Addr, u8)>,
    /// IPv6 addresses with the length of their prefix.
    pub ipv6: Vec<(Ipv6Addr, u8)>,
    /// Packets received since the interface was made (`IFLA_STATS64`).
    pub rx_packets: u64,
    /// Packets sent since the interface was made (`IFLA_STATS64`).
    pub tx_packets: u64,
}

/// Where the peer of an interface is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer {
    /// Its ifindex in its own namespace.
    pub index: u32,
    /// The id of its namespace as known in this one; `None` when it is in the same one.
    pub netnsid: Option<i32>,
}

impl Link {
    /// What its packets begin with; `None` for a type that cannot be captured.
    pub fn link_layer(&self) -> Option<LinkLayer> {
        if ETHERNET_TYPES.contains(&self.arphrd) {
            Some(LinkLayer::Ethernet)
        } else if RAW_TYPES.contains(&self.arphrd) {
            Some(LinkLayer::Raw)
        } else {
            None
        }
    }

    /// Its link-layer type for people, as in `link-layer type 778 (GRE)`. The library knows the usual ones alone.
    pub fn type_name(&self) -> String {
        let name = match self.arphrd {
            32 => " (InfiniBand)",
            280 => " (CAN)",
            512 => " (PPP)",
            513 => " (HDLC)",
            778 => " (GRE)",
            801..=803 => " (802.11)",
            804 | 805 => " (802.15.4)",
            823 => " (GRE over IPv6)",
            824 => " (netlink)",
            825 => " (6LoWPAN)",
            826 => " (vsock)",
            UNKNOWN_TYPE => return "an unknown link-layer type".to_owned(),
            _ => "",
        };
        format!("link-layer type {}{name}", self.arphrd)
    }

    /// Whether it is the namespace's loopback device.
    pub fn is_loopback(&self) -> bool {
        self.arphrd == ARPHRD_LOOPBACK
    }
}

/// All interfaces of a namespace, with their addresses.
///
/// # Errors
/// When the namespace cannot be entered, or netlink refuses.
pub fn links(netns: &Netns) -> Result<Vec<Link>> {
    let links = ask(netns, async |handle| {
        let links: Vec<LinkMessage> = handle.link().get().execute().try_collect().await?;
        with_addresses(&handle, links).await
    });
    listing_of(netns, links?)
}

/// The interface with this index, with its addresses; `None` when there is none.
///
/// # Errors
/// When the namespace cannot be entered, or netlink refuses.
pub fn by_index(netns: &Netns, ifindex: u32) -> Result<Option<Link>> {
    let links = ask(netns, async |handle| match message(&handle, ifindex).await? {
        Some(link) => with_addresses(&handle, vec![link]).await,
        None => Ok(Vec::new()),
    });
    Ok(listing_of(netns, links?)?.pop())
}

/// Packets an interface has received and sent so far; `None` when it is gone.
///
/// # Errors
/// When the namespace cannot be entered, or netlink refuses.
pub fn packet_counts(netns: &Netns, ifindex: u32) -> Result<Option<(u64, u64)>> {
    // Running captures ask each second: by a few bytes, without what other questions take to be convenient.
    let asked = netns.look(|| {
        let mut question = LinkMessage::default();
        question.header.index = ifindex;
        let mut question = NetlinkMessage::from(RouteNetlinkMessage::GetLink(question));
        question.header.flags = NLM_F_REQUEST;
        question.finalize();
        let mut bytes = vec![0; question.buffer_len()];
        question.serialize(&mut bytes);
        let socket = Socket::new(NETLINK_ROUTE).context("opening a netlink socket")?;
        socket.send_to(&bytes, &SocketAddr::new(0, 0), 0)?;
        let mut answer = Vec::with_capacity(ANSWER_ROOM);
        socket.recv(&mut answer, 0)?;
        Ok(counts_in(&answer))
    });
    Ok(asked?.flatten())
}

/// What a message tells of an interface's packets: behind a `nlmsghdr` and an `ifinfomsg`, `IFLA_STATS64` begins with those
/// received and sent (linux/if_link.h). None when it is no such message, but the error that there is none.
fn counts_in(message: &[u8]) -> Option<(u64, u64)> {
    let half = |at: usize| Some(u16::from_ne_bytes(*message.get(at..)?.first_chunk()?));
    let number = |at: usize| Some(u64::from_ne_bytes(*message.get(at..)?.first_chunk()?));
    let mut at = LINK_HEAD;
    while half(4)? == NEW_LINK {
        let (len, kind) = (usize::from(half(at)?), half(at + 2)?);
        if kind == STATS_64 {
            return Some((number(at + 4)?, number(at + 12)?));
        }
        at += len.max(4).next_multiple_of(4);
    }
    None
}

/// The id by which `other` is known inside `netns`; `None` when it has none there.
///
/// The kernel gives ids only to namespaces that are in some relation, so two ends of a pair
/// always have one.
///
/// # Errors
/// When a namespace cannot be opened or entered, or netlink refuses.
pub fn nsid_of(netns: &Netns, other: &Netns) -> Result<Option<i32>> {
    let Some(other) = other.open()? else {
        return Ok(None);
    };
    let fd = u32::try_from(other.as_raw_fd()).context("a negative file descriptor")?;
    Ok(ask(netns, async |mut handle| nsid(&mut handle, fd).await)?.flatten())
}

/// The id by which the namespace that `fd` stands for is known in the one of `handle`.
async fn nsid(handle: &mut Handle, fd: u32) -> Result<Option<i32>, rtnetlink::Error> {
    let mut question = NsidMessage::default();
    question.attributes = vec![NsidAttribute::Fd(fd)];
    let mut question = NetlinkMessage::from(RouteNetlinkMessage::GetNsId(question));
    question.header.flags = NLM_F_REQUEST;
    let mut answers = handle.request(question)?;
    let attributes = match answers.next().await.map(|answer| answer.payload) {
        Some(NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewNsId(nsid))) => nsid.attributes,
        Some(NetlinkPayload::Error(e)) => return Err(rtnetlink::Error::NetlinkError(e)),
        _ => return Err(rtnetlink::Error::RequestFailed),
    };
    Ok(attributes.into_iter().find_map(|attribute| match attribute {
        // -1 is NETNSA_NSID_NOT_ASSIGNED.
        NsidAttribute::Id(id) => (id >= 0).then_some(id),
        _ => None,
    }))
}

/// Asks one question over a netlink socket inside the namespace; `None` when it is gone.
pub(crate) fn ask<T: Send>(
    netns: &Netns,
    question: impl AsyncFnOnce(Handle) -> Result<T, rtnetlink::Error> + Send,
) -> Result<Option<T>> {
    netns.run_if_there(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            let (connection, handle, _) = rtnetlink::new_connection_with_socket::<SanitizingSocket>()
                .context("opening a netlink socket")?;
            tokio::spawn(connection);
            // The kernel answers at once, but an answer that cannot be decoded is dropped.
            match tokio::time::timeout(TIMEOUT, question(handle)).await {
                Ok(answer) => answer.map_err(explain),
                Err(_) => bail!("netlink gave no answer that could be read"),
            }
        })
    })
}

async fn message(handle: &Handle, index: u32) -> Result<Option<LinkMessage>, rtnetlink::Error> {
    let answers = handle.link().get().match_index(index).execute();
    match std::pin::pin!(answers).try_next().await {
        Err(rtnetlink::Error::NetlinkError(e)) if e.raw_code() == -(Errno::ENODEV as i32) => Ok(None),
        answer => answer,
    }
}

async fn with_addresses(handle: &Handle, links: Vec<LinkMessage>) -> Result<Vec<Link>, rtnetlink::Error> {
    let addresses: Vec<AddressMessage> = handle.address().get().execute().try_collect().await?;
    let mut links: Vec<Link> = links.into_iter().map(describe).collect();
    for address in addresses {
        let index = address.header.index;
        if let Some(link) = links.iter_mut().find(|link| link.index == index) {
            add_address(link, address);
        }
    }
    Ok(links)
}

fn describe(message: LinkMessage) -> Link {
    let header = message.header;
    let mut link = Link {
        index: header.index,
        name: String::new(),
        kind: None,
        arphrd: header.link_layer_type.into(),
        mac: None,
        up: header.flags.contains(LinkFlags::Up),
        mtu: 0,
        peer: None,
        ipv4: Vec::new(),
        ipv6: Vec::new(),
        rx_packets: 0,
        tx_packets: 0,
    };
    let mut peer_index = None;
    let mut netnsid = None;
    for attribute in message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name = name,
            LinkAttribute::Address(bytes) => link.mac = bytes.try_into().ok(),
            LinkAttribute::Mtu(mtu) => link.mtu = mtu,
            // 0 stands for "none", as with tunnels that are bound to no device.
            LinkAttribute::Link(index) => peer_index = (index != 0).then_some(index),
            LinkAttribute::LinkNetNsId(id) => netnsid = Some(id),
            LinkAttribute::LinkInfo(infos) => {
                link.kind = infos.into_iter().find_map(|info| match info {
                    LinkInfo::Kind(kind) => Some(kind.to_string()),
                    _ => None,
                });
            }
            LinkAttribute::Stats64(stats) => {
                link.rx_packets = stats.rx_packets;
                link.tx_packets = stats.tx_packets;
            }
            _ => {}
        }
    }
    link.peer = peer_index.map(|index| Peer { index, netnsid });
    link
}

fn add_address(link: &mut Link, message: AddressMessage) {
    let mut own = None;
    for attribute in message.attributes {
        match attribute {
            // On a point-to-point link, IFA_ADDRESS is the other end's.
            AddressAttribute::Local(address) => own = Some(address),
            AddressAttribute::Address(address) => own = own.or(Some(address)),
            _ => {}
        }
    }
    match own {
        Some(IpAddr::V4(address)) => link.ipv4.push((address, message.header.prefix_len)),
        Some(IpAddr::V6(address)) => link.ipv6.push((address, message.header.prefix_len)),
        None => {}
    }
}

fn listing_of(netns: &Netns, links: Option<Vec<Link>>) -> Result<Vec<Link>> {
    links.ok_or_else(|| anyhow!("network namespace {} is gone", netns.path().display()))
}

fn explain(error: rtnetlink::Error) -> anyhow::Error {
    match error {
        rtnetlink::Error::NetlinkError(e) => anyhow!("netlink refused: {}", e.to_io()),
        other => anyhow!("netlink: {other}"),
    }
}

#[cfg(test)]
mod tests {
    use std::{ffi::OsStr, os::unix::ffi::OsStrExt, process::Command};

    use super::*;
    use crate::net::netns::testing::TestNetns;

    fn named(netns: &Netns, name: &str) -> Link {
        let mut links = links(netns).unwrap();
        links.retain(|link| link.name == name);
        links.pop().unwrap()
    }

    #[test]
    fn the_loopback_device_is_described() {
        let here = Netns::current().unwrap();
        let lo = by_index(&here, 1).unwrap().unwrap();
        assert_eq!(lo.name, "lo");
        assert!(lo.is_loopback());
        assert_eq!(lo.link_layer(), Some(LinkLayer::Ethernet));
        assert_eq!(lo.peer, None);
        assert!(links(&here).unwrap().iter().any(|link| link.index == 1 && link.name == "lo"));
    }

    #[test]
    fn no_interface_is_not_an_error() {
        let here = Netns::current().unwrap();
        assert_eq!(by_index(&here, i32::MAX as u32).unwrap(), None);
        assert_eq!(packet_counts(&here, i32::MAX as u32).unwrap(), None);
    }

    #[test]
    #[ignore = "needs root; `cargo xtask test` runs it"]
    fn both_ends_of_a_pair_name_each_other() {
        let [host, pod] = [TestNetns::new(), TestNetns::new()];
        // Another interface first, so that the indexes differ.
        host.ip("link add br0 type bridge");
        host.veth("veth0", &pod, "eth0");
        pod.ip("address add 10.1.2.3/24 dev eth0");
        pod.ip("address add fd00::3/64 dev eth0 nodad");

        let [veth0, eth0] = [named(&host, "veth0"), named(&pod, "eth0")];
        assert_eq!(eth0.kind.as_deref(), Some("veth"));
        assert_eq!(eth0.link_layer(), Some(LinkLayer::Ethernet));
        assert!(eth0.up && eth0.mac.is_some() && eth0.mtu == 1500);
        assert_eq!(eth0.ipv4, [([10, 1, 2, 3].into(), 24)]);
        assert!(eth0.ipv6.contains(&("fd00::3".parse().unwrap(), 64)));

        let host_in_pod = nsid_of(&pod, &host).unwrap();
        let pod_in_host = nsid_of(&host, &pod).unwrap();
        assert!(host_in_pod.is_some() && pod_in_host.is_some());
        assert_eq!(eth0.peer, Some(Peer { index: veth0.index, netnsid: host_in_pod }));
        assert_eq!(veth0.peer, Some(Peer { index: eth0.index, netnsid: pod_in_host }));
        assert_eq!(by_index(&host, veth0.index).unwrap().unwrap().name, "veth0");
    }

    #[test]
    #[ignore = "needs root; `cargo xtask test` runs it"]
    fn equal_indexes_on_both_sides_are_told_apart() {
        let [host, pod] = [TestNetns::new(), TestNetns::new()];
        let path = pod.path().display();
        host.ip(&format!("link add veth0 index 42 type veth peer name eth0 index 42 netns {path}"));
        let eth0 = named(&pod, "eth0");
        let peer = Peer { index: 42, netnsid: nsid_of(&pod, &host).unwrap() };
        assert_eq!((eth0.index, eth0.peer), (42, Some(peer)));
        assert!(peer.netnsid.is_some());
    }

    #[test]
    #[ignore = "needs root; `cargo xtask test` runs it"]
    fn a_pair_within_one_namespace_has_no_namespace_id() {
        let pod = TestNetns::new();
        pod.ip("link add veth0 index 10 type veth peer name veth1 index 11");
        assert_eq!(named(&pod, "veth0").peer, Some(Peer { index: 11, netnsid: None }));
    }

    #[test]
    #[ignore = "needs root; `cargo xtask test` runs it"]
    fn a_name_that_is_no_text_spoils_nothing_else() {
        let pod = TestNetns::new();
        pod.ip("link add br0 index 10 type bridge");
        pod.run(|| {
            let name = OsStr::from_bytes(b"br\xff");
            let ip = Command::new("ip").args(["link", "set", "br0", "name"]).arg(name).status()?;
            assert!(ip.success());
            Ok(())
        })
        .unwrap();
        assert_eq!(named(&pod, "lo").index, 1);
        assert_eq!(named(&pod, "br?").index, 10);
        assert!(packet_counts(&pod, 10).unwrap().is_some());
    }

    #[test]
    #[ignore = "needs root; `cargo xtask test` runs it"]
    fn a_macvlan_is_no_pair_and_a_tun_device_has_no_link_layer() {
        let [host, pod] = [TestNetns::new(), TestNetns::new()];
        host.ip("link add veth0 type veth peer name veth1");
        let path = pod.path().display();
        host.ip(&format!("link add link veth0 name eth0 netns {path} type macvlan"));
        pod.ip("tuntap add tun0 mode tun");
        assert_eq!(named(&pod, "eth0").kind.as_deref(), Some("macvlan"));
        let tun0 = named(&pod, "tun0");
        assert_eq!((tun0.link_layer(), tun0.mac), (Some(LinkLayer::Raw), None));
    }

    #[test]
    #[ignore = "needs root; `cargo xtask test` runs it"]
    fn strangers_have_no_id() {
        let [one, two] = [TestNetns::new(), TestNetns::new()];
        assert_eq!(nsid_of(&one, &two).unwrap(), None);
    }

    #[test]
    #[ignore = "needs root; `cargo xtask test` runs it"]
    fn counts_follow_the_traffic_until_the_interface_is_gone() {
        let [host, pod] = [TestNetns::new(), TestNetns::new()];
        host.veth("veth0", &pod, "eth0");
        pod.ip("address add 10.1.2.3/24 dev eth0");
        host.ip("address add 10.1.2.4/24 dev veth0");
        let index = named(&host, "veth0").index;
        let (_, before) = packet_counts(&host, index).unwrap().unwrap();
        host.run(|| {
            let socket = std::net::UdpSocket::bind("10.1.2.4:0")?;
            socket.send_to(b"x", "10.1.2.3:9")?;
            Ok(())
        })
        .unwrap();
        let (_, after) = packet_counts(&host, index).unwrap().unwrap();
        assert!(after > before, "{after} > {before}");
        host.ip("link del veth0");
        assert_eq!(packet_counts(&host, index).unwrap(), None);
    }
}
