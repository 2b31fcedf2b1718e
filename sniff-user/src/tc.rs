//! What is on an interface's clsact qdisc, by rtnetlink: needed so as to delete nothing that is not ours.

use anyhow::{Context as _, Result};
use futures_util::TryStreamExt as _;
use rtnetlink::packet_route::tc::{TcAttribute, TcFilterBpfOption, TcHandle, TcMessage, TcOption};

use crate::{bpf::attach::Hook, link, netns::Netns};

/// A filter at one hook of an interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filter {
    /// Lower ones run first.
    pub priority: u16,
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

/// Removes the clsact qdisc if no filter is left on it. Somebody may add one between the look and the removal;
/// the kernel has no way to ask for both at once.
///
/// # Errors
///
/// When the interface is gone, or the kernel refuses.
pub fn delete_clsact_if_empty(netns: &Netns, ifindex: u32) -> Result<()> {
    if !filters(netns, ifindex, Hook::Ingress)?.is_empty()
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

/// The kernel sends one message more for each priority, without a handle.
fn filter(message: &TcMessage) -> Option<Filter> {
    let handle = u32::from(message.header.handle);
    // tcm_info: priority in the upper half, protocol in the lower.
    let priority = (message.header.info >> 16) as u16;
    let mut filter = Filter { priority, handle, program: None, name: None };
    for attribute in &message.attributes {
        let TcAttribute::Options(options) = attribute else { continue };
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
