//! Classifiers as filters of a clsact qdisc, for kernels without TCX (before Linux 6.6).
//!
//! A filter outlives a killed process, and others keep theirs on the same qdisc. So a filter is deleted only while it
//! still holds our program, and the qdisc only if we made it and nothing is left on it.
//!
//! An `ingress` qdisc is in its way: it stands where a clsact would, and takes a filter for egress without a word, into
//! the one chain that it has.

use std::{fs::File, mem, os::fd::AsRawFd as _};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use aya::programs::{
    SchedClassifier,
    links::Link as _,
    tc::{NlOptions, SchedClassifierLink, TcAttachOptions, TcError, TcHandle, qdisc_add_clsact},
};
use log::{debug, warn};
use nix::net::if_::if_nametoindex;

use crate::net::{
    hook::Hook,
    netns::Netns,
    side::Side,
    tc::{self, Changes, Filter},
};

/// Handle of our filters: one that neither the kernel's numbering nor another agent is likely to pick.
const HANDLE: TcHandle = TcHandle::new(0x736e, 0x6966);
/// Priority of our filter where no other filter is.
const PRIORITY: u16 = 10;
/// What our filter looks at: every packet (`ETH_P_ALL`).
const PROTOCOL: u16 = libc::ETH_P_ALL as u16;

/// The clsact qdisc of an interface, or an ingress qdisc that was there. Dropping it removes the qdisc, if we made it and
/// it is empty.
pub struct Qdisc {
    /// By a path that leads to the network namespace as long as `_netns` is open: what was found by a process may
    /// outlive that process, and the filters must be deleted all the same.
    side: Side,
    made: bool,
    /// Whether what the interface sends passes it.
    has_egress: bool,
    _netns: File,
    changes: Changes,
    /// Whether our filters have to be looked for.
    is_doubted: bool,
}

impl Qdisc {
    /// The interface that it is on.
    pub fn side(&self) -> &Side {
        &self.side
    }

    /// Makes sure of the qdisc. To be called inside the interface's network namespace.
    ///
    /// # Errors
    ///
    /// When the kernel refuses.
    pub fn ensure(side: &Side) -> Result<Self> {
        // aya names the interface.
        ensure!(
            if_nametoindex(side.ifname.as_str()).is_ok_and(|index| index == side.ifindex),
            "clsact takes an interface whose name is UTF-8: rename {side}, or use Linux 6.6 or newer"
        );
        let changes = Changes::listen()?;
        let made = add(side)?;
        let has_egress = made || !is_ingress_alone(side)?;
        let held = side.netns.open()?.with_context(|| format!("{side} is gone"))?;
        let netns = Netns::at(format!("/proc/self/fd/{}", held.as_raw_fd()))?;
        let side = Side { netns, ..side.clone() };
        Ok(Self { side, made, has_egress, _netns: held, changes, is_doubted: false })
    }

    /// Which of these programs are at their hooks no more, since somebody has deleted their filters.
    ///
    /// # Errors
    ///
    /// When netlink refuses.
    pub fn missing(&mut self, programs: &[(Hook, u32)]) -> Result<Vec<Hook>> {
        let Side { netns, ifindex, .. } = &self.side;
        let heard = self.changes.heard(*ifindex);
        // Whatever is there now, it is not what we made.
        self.made &= !heard.is_deleted;
        self.is_doubted |= heard.any;
        let mut missing = Vec::new();
        for &(hook, program) in programs.iter().filter(|_| self.is_doubted) {
            let is_there = |filters: Vec<Filter>| filters.iter().any(|it| it.program == Some(program));
            if !is_there(tc::filters(netns, *ifindex, hook)?) {
                missing.push(hook);
            }
        }
        self.is_doubted = !missing.is_empty();
        Ok(missing)
    }

    /// Makes sure of the qdisc once more. To be called inside the namespace.
    ///
    /// # Errors
    ///
    /// When the kernel refuses.
    pub fn restore(&mut self) -> Result<()> {
        let made = add(&self.side)?;
        self.made |= made;
        self.has_egress = made || !is_ingress_alone(&self.side)?;
        Ok(())
    }

    /// Attaches a program in front of the filters that are there. To be called inside the namespace.
    ///
    /// # Errors
    ///
    /// When the kernel refuses.
    pub fn attach(&self, program: &mut SchedClassifier, hook: Hook) -> Result<SchedClassifierLink> {
        let Side { netns, ifindex, ifname } = &self.side;
        if hook == Hook::Egress && !self.has_egress {
            bail!(ingress_alone(&self.side));
        }
        let priority = priority_in_front(&tc::filters(netns, *ifindex, hook)?)
            .map_err(|first| anyhow!(before_all(first, &self.side)))?;
        let options = NlOptions { priority, handle: HANDLE, classid: None };
        let id = program
            .attach_with_options(ifname, hook.into(), TcAttachOptions::Netlink(options))
            .context("cannot add a filter to the clsact qdisc")?;
        Ok(program.take_link(id)?)
    }

    /// Has another program in our filter, in one step.
    ///
    /// # Errors
    ///
    /// When the kernel refuses, or the interface is gone; the filter then stays as it is.
    pub fn replace(
        &self,
        filter: &SchedClassifierLink,
        program: &mut SchedClassifier,
        hook: Hook,
    ) -> Result<()> {
        let Side { netns, ifname, .. } = &self.side;
        netns.run(|| {
            self.side.ensure_there()?;
            // aya takes the link that it replaces, and loses it when that fails.
            let (priority, handle) = (filter.priority()?, filter.handle()?);
            let same = SchedClassifierLink::attached(ifname, hook.into(), priority, handle, None)?;
            let id = program.attach_to_link(same)?;
            // Dropping it would delete the filter.
            mem::forget(program.take_link(id)?);
            Ok(())
        })
    }

    /// Deletes our filter. aya would delete whatever has its priority and handle by now, and in whatever namespace it
    /// is called in; this makes sure of both.
    ///
    /// # Errors
    ///
    /// When the kernel refuses.
    pub fn detach(&self, filter: SchedClassifierLink, program_id: u32, hook: Hook) -> Result<()> {
        let Side { netns, ifindex, .. } = &self.side;
        let (priority, handle) = (filter.priority()?, u32::from(filter.handle()?));
        let is_ours =
            |it: &Filter| (it.priority, it.handle, it.program) == (priority, handle, Some(program_id));
        if tc::filters(netns, *ifindex, hook).is_ok_and(|filters| filters.iter().any(is_ours)) {
            return netns.run(|| Ok(filter.detach()?));
        }
        debug!("{}: our filter is gone already", self.side);
        // Dropping it would delete the other's.
        mem::forget(filter);
        Ok(())
    }
}

impl Drop for Qdisc {
    fn drop(&mut self) {
        let Side { netns, ifindex, .. } = &self.side;
        if self.made
            && let Err(error) = tc::delete_clsact_if_empty(netns, *ifindex)
            && self.side.is_there()
        {
            warn!("{}: cannot remove the clsact qdisc: {error:#}", self.side);
        }
    }
}

/// Adds a clsact qdisc; returns whether there was none, nor an ingress qdisc.
fn add(side: &Side) -> Result<bool> {
    match qdisc_add_clsact(&side.ifname) {
        Ok(()) => Ok(true),
        Err(TcError::NetlinkError(error)) if error.raw_os_error() == Some(libc::EEXIST) => Ok(false),
        Err(error) => Err(error).context("cannot add the clsact qdisc"),
    }
}

/// Why classifiers cannot be attached to these hooks of an interface by clsact, if they cannot.
///
/// # Errors
///
/// When the interface is gone.
pub fn obstacle(side: &Side, hooks: &[Hook]) -> Result<Option<String>> {
    if hooks.contains(&Hook::Egress) && is_ingress_alone(side)? {
        return Ok(Some(ingress_alone(side)));
    }
    for &hook in hooks {
        if let Err(first) = priority_in_front(&tc::filters(&side.netns, side.ifindex, hook)?) {
            return Ok(Some(before_all(first, side)));
        }
    }
    Ok(None)
}

/// Whether an ingress qdisc is where a clsact would be.
fn is_ingress_alone(side: &Side) -> Result<bool> {
    Ok(tc::ingress_kind(&side.netns, side.ifindex)?.as_deref() == Some("ingress"))
}

fn ingress_alone(side: &Side) -> String {
    format!(
        "an ingress qdisc is on {side}, beside which there is no place for clsact: what {side} sends cannot be captured there"
    )
}

fn before_all(first: &Filter, side: &Side) -> String {
    let kind = first.kind.escape_debug();
    format!("a {kind} filter of priority 1 is on {side}, before which no other filter can be")
}

/// A priority that runs before the filters that are there, or the filter that nothing can run before. Priority 1 can be
/// shared by filters of one kind and protocol: of two BPF filters, the newer runs first (`cls_bpf_change`,
/// net/sched/cls_bpf.c).
fn priority_in_front(filters: &[Filter]) -> Result<u16, &Filter> {
    match filters.iter().min_by_key(|filter| filter.priority) {
        None => Ok(PRIORITY),
        Some(first) if first.priority > 1 => Ok(first.priority - 1),
        Some(first) if first.kind == "bpf" && first.protocol == PROTOCOL => Ok(1),
        Some(first) => Err(first),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(priority: u16) -> Filter {
        let kind = "bpf".to_owned();
        Filter { priority, protocol: PROTOCOL, kind, handle: 1, program: Some(7), name: None }
    }

    #[test]
    fn runs_before_the_filters_that_are_there() {
        assert_eq!(priority_in_front(&[]), Ok(PRIORITY));
        assert_eq!(priority_in_front(&[at(49152), at(100)]), Ok(99));
        assert_eq!(priority_in_front(&[at(2)]), Ok(1));
        assert_eq!(priority_in_front(&[at(1)]), Ok(1));
    }

    #[test]
    fn priority_1_is_shared_only_with_a_filter_of_the_same_kind_and_protocol() {
        let u32 = Filter { kind: "u32".to_owned(), ..at(1) };
        let ip = Filter { protocol: libc::ETH_P_IP as u16, ..at(1) };
        for first in [u32, ip] {
            assert_eq!(priority_in_front(&[at(7), first.clone()]), Err(&first));
            assert_eq!(priority_in_front(&[Filter { priority: 2, ..first }]), Ok(1));
        }
    }
}
