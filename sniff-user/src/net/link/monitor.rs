//! Interfaces that come, change or leave in network namespaces of others, told by the kernel.
//!
//! A netlink socket keeps its namespace alive, so none may stay open in a pod's. But a socket can also hear of other
//! namespaces (`NETLINK_LISTEN_ALL_NSID`): of those that have an id in its own, and an id keeps nothing alive. So the
//! socket is in an empty namespace of its own, where only those that are watched have ids. Both go with the socket.

use std::{
    collections::{HashMap, HashSet},
    fs::File,
    io::{self, IoSliceMut},
    os::fd::{AsRawFd as _, RawFd},
    thread,
};

use anyhow::{Context as _, Result, anyhow};
use futures_util::StreamExt as _;
use nix::{
    errno::Errno,
    sched::{CloneFlags, unshare},
    sys::socket::{ControlMessageOwned, MsgFlags, recvmsg},
};
use rtnetlink::{
    Handle,
    packet_core::{NLM_F_ACK, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload},
    packet_route::{
        RouteNetlinkMessage,
        link::{LinkAttribute, LinkFlags, LinkMessage},
        nsid::{NsidAttribute, NsidMessage},
    },
    sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE},
};
use tokio::io::unix::AsyncFd;

use super::{ask, nsid};
use crate::net::netns::{Netns, NetnsId};

/// The multicast group of interfaces (`RTMGRP_LINK`, linux/rtnetlink.h).
const LINKS: u32 = 1;
/// Message type `RTM_DELLINK` (linux/rtnetlink.h).
const DELETED_LINK: u16 = 17;
/// More than one message of an interface takes; what is cut off is not looked at.
const MESSAGE_ROOM: usize = 32 << 10;

/// A socket that hears of the interfaces of some namespaces.
pub struct Monitor {
    socket: AsyncFd<Socket>,
    /// Where it is, by a path that leads there as long as `_home` is open.
    home: Netns,
    _home: File,
    /// The namespaces that are watched, by their ids there.
    watched: HashMap<i32, NetnsId>,
}

/// An interface that is there, and may be new.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Seen {
    /// Where.
    pub netns: NetnsId,
    /// Its name, where that can be told.
    pub name: Option<String>,
    /// Whether it is administratively up.
    pub up: bool,
}

/// An interface that is not there any more: deleted, or moved to another namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Left {
    /// Where it was.
    pub netns: NetnsId,
    /// Its ifindex there.
    pub ifindex: u32,
}

/// What a [`Monitor`] tells.
#[derive(Debug)]
pub enum News {
    /// Of interfaces that are there, and of some that are not.
    Heard(HashSet<Seen>, HashSet<Left>),
    /// There were more than it could hear: anything may have happened.
    Missed,
}

impl Monitor {
    /// A monitor that watches no namespace yet.
    ///
    /// # Errors
    ///
    /// When a capability is missing: CAP_SYS_ADMIN for the namespace, CAP_NET_BROADCAST to hear of others.
    pub fn new() -> Result<Self> {
        // A thread that has left the process's namespace must not be used for anything else.
        let made = thread::Builder::new().name("monitor".into()).spawn(make)?.join();
        let (socket, home_file) =
            made.map_err(|_| anyhow!("the thread that makes the socket panicked"))??;
        let home = Netns::at(format!("/proc/self/fd/{}", home_file.as_raw_fd()))?;
        #[expect(deprecated, reason = "sound for a socket, which stays open and itself until it is dropped")]
        let socket = AsyncFd::new(socket)?;
        Ok(Self { socket, home, _home: home_file, watched: HashMap::new() })
    }

    /// Also hears of these namespaces from now on. One that is gone is passed over.
    ///
    /// # Errors
    ///
    /// When a namespace may not be opened, or netlink refuses.
    pub fn watch<'a>(&mut self, namespaces: impl IntoIterator<Item = &'a Netns>) -> Result<()> {
        let mut open = Vec::new();
        for netns in namespaces {
            open.extend(netns.open()?.map(|file| (file, netns.id())));
        }
        let ids = ask(&self.home, async |mut handle| {
            let mut ids = Vec::new();
            for (file, netns) in &open {
                let fd = file.as_raw_fd();
                assign_id(&mut handle, fd).await?;
                ids.extend(nsid(&mut handle, fd.cast_unsigned()).await?.map(|id| (id, *netns)));
            }
            Ok(ids)
        })?;
        // The kernel gives the id of one that is gone to another.
        self.watched.extend(ids.unwrap_or_default());
        Ok(())
    }

    /// The next news.
    ///
    /// # Errors
    ///
    /// When the socket fails.
    pub async fn next(&mut self) -> Result<News> {
        loop {
            let mut ready = self.socket.readable().await?;
            let (mut seen, mut left) = (HashSet::new(), HashSet::new());
            loop {
                match receive(ready.get_inner().as_raw_fd()) {
                    Ok((nsid, bytes)) => {
                        let Some(&netns) = nsid.and_then(|id| self.watched.get(&id)) else { continue };
                        match deleted(&bytes) {
                            Some(ifindex) => drop(left.insert(Left { netns, ifindex })),
                            None => seen.extend(interface(netns, &bytes)),
                        }
                    }
                    Err(Errno::EAGAIN) => break,
                    Err(Errno::EINTR) => {}
                    Err(Errno::ENOBUFS) => return Ok(News::Missed),
                    Err(error) => return Err(io::Error::from(error)).context("hearing of interfaces"),
                }
            }
            ready.clear_ready();
            if !seen.is_empty() || !left.is_empty() {
                return Ok(News::Heard(seen, left));
            }
        }
    }
}

/// The socket, and the namespace that it is in: the calling thread's own from now on.
fn make() -> Result<(Socket, File)> {
    unshare(CloneFlags::CLONE_NEWNET).context("making a network namespace")?;
    let mut socket = Socket::new(NETLINK_ROUTE).context("opening a netlink socket")?;
    socket.set_listen_all_namespaces(true).map_err(|error| match error.raw_os_error() {
        Some(libc::EPERM) => anyhow!("that takes CAP_NET_BROADCAST"),
        _ => anyhow!(error).context("hearing of other namespaces"),
    })?;
    socket.set_non_blocking(true)?;
    socket.bind(&SocketAddr::new(0, LINKS)).context("joining a multicast group")?;
    Ok((socket, File::open("/proc/thread-self/ns/net")?))
}

/// Gives a namespace an id in the one of `handle`, if it has none there.
async fn assign_id(handle: &mut Handle, fd: RawFd) -> Result<(), rtnetlink::Error> {
    const ANY: i32 = -1;
    let mut message = NsidMessage::default();
    message.attributes = vec![NsidAttribute::Fd(fd.cast_unsigned()), NsidAttribute::Id(ANY)];
    let mut message = NetlinkMessage::from(RouteNetlinkMessage::NewNsId(message));
    message.header.flags = NLM_F_REQUEST | NLM_F_ACK;
    let mut answers = handle.request(message)?;
    while let Some(answer) = answers.next().await {
        match answer.payload {
            NetlinkPayload::Error(error)
                if error.code.is_some() && error.raw_code() != -(Errno::EEXIST as i32) =>
            {
                return Err(rtnetlink::Error::NetlinkError(error));
            }
            _ => {}
        }
    }
    Ok(())
}

/// A message, and the id of the namespace that it is about.
fn receive(socket: RawFd) -> nix::Result<(Option<i32>, Vec<u8>)> {
    let mut bytes = vec![0; MESSAGE_ROOM];
    let mut control = nix::cmsg_space!(libc::c_int);
    let mut into = [IoSliceMut::new(&mut bytes)];
    let message = recvmsg::<()>(socket, &mut into, Some(&mut control), MsgFlags::MSG_DONTWAIT)?;
    let nsid = message.cmsgs()?.find_map(|control| match control {
        ControlMessageOwned::Unknown(it) if it.cmsg_header.cmsg_type == libc::NETLINK_LISTEN_ALL_NSID => {
            Some(i32::from_ne_bytes(*it.data_bytes.first_chunk()?))
        }
        _ => None,
    });
    let len = message.bytes;
    bytes.truncate(len);
    Ok((nsid, bytes))
}

/// The index of the interface of whose end a message tells: a `nlmsghdr` and an `ifinfomsg` (linux/rtnetlink.h). A bridge
/// tells in the same way of a port that leaves it, by another address family.
fn deleted(message: &[u8]) -> Option<u32> {
    let kind = u16::from_ne_bytes(*message.get(4..)?.first_chunk()?);
    let family = i32::from(*message.get(16)?);
    let ifindex = u32::from_ne_bytes(*message.get(20..)?.first_chunk()?);
    (kind == DELETED_LINK && family == libc::AF_UNSPEC).then_some(ifindex)
}

/// The interface that a message tells of, if it tells that there is one.
fn interface(netns: NetnsId, bytes: &[u8]) -> Option<Seen> {
    match NetlinkMessage::deserialize(bytes).map(|message| message.payload) {
        Ok(NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewLink(LinkMessage {
            header,
            attributes,
            ..
        }))) => {
            let name = attributes.into_iter().find_map(|attribute| match attribute {
                LinkAttribute::IfName(name) => Some(name),
                _ => None,
            });
            Some(Seen { netns, name, up: header.flags.contains(LinkFlags::Up) })
        }
        Ok(_) => None,
        // Whatever cannot be decoded may be of interest.
        Err(_) => Some(Seen { netns, name: None, up: true }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::netns::testing::TestNetns;

    async fn names(monitor: &mut Monitor) -> Vec<(NetnsId, String, bool)> {
        let News::Heard(seen, _) = monitor.next().await.unwrap() else { panic!("too much news") };
        seen.into_iter().map(|seen| (seen.netns, seen.name.unwrap(), seen.up)).collect()
    }

    #[tokio::test]
    #[ignore = "needs root; `cargo xtask test` runs it"]
    async fn only_what_is_watched_is_heard_of_and_whose_it_is() {
        let [one, other, stranger] = [TestNetns::new(), TestNetns::new(), TestNetns::new()];
        let mut monitor = Monitor::new().unwrap();
        monitor.watch([&*one, &*other]).unwrap();
        // Twice is once.
        monitor.watch([&*one]).unwrap();
        stranger.ip("link add br0 type bridge");
        one.ip("link add br1 type bridge");
        assert_eq!(names(&mut monitor).await, [(one.id(), "br1".to_owned(), false)]);
        other.ip("link add br2 type bridge");
        other.ip("link set br2 up");
        let news = names(&mut monitor).await;
        assert!(news.contains(&(other.id(), "br2".to_owned(), true)), "{news:?}");
        assert!(news.iter().all(|(netns, name, _)| (*netns, name.as_str()) == (other.id(), "br2")));
    }

    #[tokio::test]
    #[ignore = "needs root; `cargo xtask test` runs it"]
    async fn an_interface_that_leaves_is_told_of_and_a_port_that_leaves_its_bridge_is_not() {
        let [one, other] = [TestNetns::new(), TestNetns::new()];
        one.veth("veth0", &other, "eth0");
        one.ip("link add br0 type bridge");
        one.ip("link set veth0 master br0");
        let index = |name: &str| {
            let links = super::super::links(&one).unwrap();
            links.into_iter().find(|link| link.name == name).unwrap().index
        };
        let wanted = ["veth0", "br0"].map(|name| Left { netns: one.id(), ifindex: index(name) });
        let mut monitor = Monitor::new().unwrap();
        monitor.watch([&*one]).unwrap();
        one.ip("link set veth0 nomaster");
        let path = other.path().display();
        one.ip(&format!("link set veth0 netns {path}"));
        one.ip("link del br0");
        let mut all = HashSet::new();
        while all.len() < wanted.len() {
            let News::Heard(_, left) = monitor.next().await.unwrap() else { panic!("too much news") };
            all.extend(left);
        }
        assert_eq!(all, wanted.into());
    }

    #[tokio::test]
    #[ignore = "needs root; `cargo xtask test` runs it"]
    async fn a_namespace_that_is_watched_can_go() {
        let host = TestNetns::new();
        let pod = TestNetns::new();
        host.veth("veth0", &pod, "eth0");
        let mut monitor = Monitor::new().unwrap();
        monitor.watch([&*pod, &*host]).unwrap();
        drop(pod);
        // With the namespace goes its end of the pair, and with that the host's.
        let is_gone = || super::super::links(&host).unwrap().iter().all(|link| link.name != "veth0");
        for _ in 0..500 {
            if is_gone() {
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
        panic!("the namespace is still there");
    }
}
