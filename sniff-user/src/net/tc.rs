//! An interface's qdiscs and the filters on them, by rtnetlink: what is in the way of ours, and what is not ours to delete.

use std::io;

use anyhow::{Context as _, Result};
use futures_util::{StreamExt as _, TryStreamExt as _};
use rtnetlink::{
    packet_route::{
        link::LinkAttribute,
        tc::{TcAttribute, TcFilterBpfOption, TcHandle, TcMessage, TcOption},
    },
    sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE},
};

use crate::net::{hook::Hook, link, netns::Netns};

/// The multicast group of qdiscs and filters (`RTMGRP_TC`, linux/rtnetlink.h).
const CHANGES: u32 = 8;
/// `RTM_DELQDISC` (linux/rtnetlink.h).
const DELETED_QDISC: u16 = 37;
/// `TC_H_CLSACT` (linux/pkt_sched.h).
const CLSACT: u32 = 0xffff_fff1;
/// Bytes of a `nlmsghdr` and a `tcmsg`.
const HEAD: usize = 36;

/// A filter at one hook of an interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filter {
    /// Lower ones run first.
    pub priority: u16,
    /// What it looks at (`ETH_P_*`, linux/if_ether.h).
    pub protocol: u16,
    /// Its classifier, such as `bpf` or `u32`.
    pub kind: String,
    /// Names the filter within its priority.
    pub handle: u32,
    /// Id of its program, if it is a BPF filter.
    pub program: Option<u32>,
    /// Name that its program was attached by.
    pub name: Option<String>,
}

impl Filter {
    /// Whether it is a BPF filter of another name.
    pub fn is_foreign(&self, ours: &str) -> bool {
        self.program.is_some() && self.name.as_deref() != Some(ours)
    }
}

/// The kind of the qdisc at an interface's ingress: `clsact`, or `ingress`, which has one chain for whatever is put on it.
///
/// # Errors
///
/// When netlink refuses.
pub fn ingress_kind(netns: &Netns, ifindex: u32) -> Result<Option<String>> {
    let kind = link::ask(netns, async |handle| {
        // All interfaces' qdiscs: the kernel has no way to ask for those of one.
        let qdiscs: Vec<TcMessage> = handle.qdisc().get().execute().try_collect().await?;
        let is_it =
            |it: &&TcMessage| (it.header.index, it.header.parent) == (ifindex as i32, TcHandle::INGRESS);
        Ok(qdiscs.iter().find(is_it).and_then(kind))
    });
    Ok(kind.context("cannot list qdiscs")?.flatten())
}

/// The kind of the queue that packets wait in before an interface sends them: its root qdisc; none when they do not wait.
///
/// # Errors
///
/// When the interface is gone.
pub fn queue(netns: &Netns, ifindex: u32) -> Result<Option<String>> {
    let message = link::ask(netns, async |handle| {
        handle.link().get().match_index(ifindex).execute().boxed().try_next().await
    });
    let attributes = message?.flatten().map(|message| message.attributes).unwrap_or_default();
    let qdisc = attributes.into_iter().find_map(|attribute| match attribute {
        LinkAttribute::Qdisc(kind) => Some(kind),
        _ => None,
    });
    // The latter is that of an interface that is down.
    Ok(qdisc.filter(|kind| !["noqueue", "noop"].contains(&kind.as_str())))
}

/// Hears of changes of qdiscs and filters in a network namespace, which it keeps alive.
pub struct Changes(Socket);

/// What there was to hear of an interface.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Heard {
    /// Whether something has changed in the namespace.
    pub any: bool,
    /// Whether the interface's qdisc was deleted.
    pub is_deleted: bool,
}

impl Changes {
    /// Listens, in the calling thread's namespace.
    ///
    /// # Errors
    ///
    /// When no descriptor is left.
    pub fn listen() -> Result<Self> {
        let open = || {
            let mut socket = Socket::new(NETLINK_ROUTE)?;
            socket.set_non_blocking(true)?;
            socket.bind(&SocketAddr::new(0, CHANGES)).map(|()| socket)
        };
        open().map(Self).context("cannot listen to changes of filters")
    }

    /// What has changed since this was asked the last time.
    pub fn heard(&self, ifindex: u32) -> Heard {
        let mut heard = Heard::default();
        loop {
            // The rest of a message is not looked at.
            let mut head = Vec::with_capacity(HEAD);
            match self.0.recv(&mut head, 0) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return heard,
                // There was more than the socket has room for.
                Err(_) => {}
                Ok(_) => heard.is_deleted |= is_deleted(&head, ifindex),
            }
            heard.any = true;
        }
    }
}

/// Whether a message, a `nlmsghdr` and a `tcmsg` (linux/rtnetlink.h), tells that the interface's clsact was deleted.
fn is_deleted(message: &[u8], ifindex: u32) -> bool {
    let word =
        |at: usize| message.get(at..).and_then(|rest| rest.first_chunk()).map(|it| u32::from_ne_bytes(*it));
    // The type is the lower half in the host's order; behind family and padding are index, handle and parent.
    let kind = message.get(4..).and_then(|rest| rest.first_chunk()).map(|it| u16::from_ne_bytes(*it));
    (kind, word(20), word(28)) == (Some(DELETED_QDISC), Some(ifindex), Some(CLSACT))
}

/// The filters at a hook; none when the interface has no clsact qdisc.
///
/// # Errors
///
/// When the interface is gone.
pub fn filters(netns: &Netns, ifindex: u32, hook: Hook) -> Result<Vec<Filter>> {
    let messages: Option<Vec<TcMessage>> = link::ask(netns, async |handle| {
        let mut filters = handle.traffic_filter(ifindex as i32);
        let request = match hook {
            Hook::Ingress => filters.get().ingress(),
            Hook::Egress => filters.get().egress(),
        };
        request.execute().try_collect().await
    })
    .context("cannot list TC filters")?;
    Ok(messages.unwrap_or_default().iter().filter_map(filter).collect())
}

/// Removes the clsact qdisc if it is there and no filter is left on it. Somebody may add one between the look and the removal;
/// the kernel has no way to ask for both at once.
///
/// # Errors
///
/// When the interface is gone, or the kernel refuses.
pub fn delete_clsact_if_empty(netns: &Netns, ifindex: u32) -> Result<()> {
    // Whoever deleted ours may have put an ingress qdisc in its place.
    if ingress_kind(netns, ifindex)?.as_deref() != Some("clsact")
        || !filters(netns, ifindex, Hook::Ingress)?.is_empty()
        || !filters(netns, ifindex, Hook::Egress)?.is_empty()
    {
        return Ok(());
    }
    link::ask(netns, async |handle| {
        let mut request = handle.qdisc().del(ifindex as i32);
        request.message_mut().header.parent = TcHandle::CLSACT;
        request.execute().await
    })
    .context("cannot delete the clsact qdisc")?;
    Ok(())
}

fn kind(message: &TcMessage) -> Option<String> {
    message.attributes.iter().find_map(|attribute| match attribute {
        TcAttribute::Kind(kind) => Some(kind.clone()),
        _ => None,
    })
}

/// The kernel sends one message more for each priority, without a handle.
fn filter(message: &TcMessage) -> Option<Filter> {
    let handle = u32::from(message.header.handle);
    // tcm_info: priority in the upper half, protocol in the lower, as it is on the wire.
    let info = message.header.info;
    let (priority, protocol) = ((info >> 16) as u16, u16::from_be(info as u16));
    let kind = kind(message).unwrap_or_default();
    let mut filter = Filter { priority, protocol, kind, handle, program: None, name: None };
    for attribute in &message.attributes {
        let options = match attribute {
            TcAttribute::Options(options) => options,
            // Only the first chain runs by itself.
            TcAttribute::Chain(chain) if *chain != 0 => return None,
            _ => continue,
        };
        for option in options {
            match option {
                TcOption::Bpf(TcFilterBpfOption::ProgId(id)) => filter.program = Some(*id),
                TcOption::Bpf(TcFilterBpfOption::ProgName(name)) => filter.name = Some(name.clone()),
                _ => {}
            }
        }
    }
    (handle != 0).then_some(filter)
}
