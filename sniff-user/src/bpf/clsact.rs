//! Classifiers as filters of a clsact qdisc, for kernels without TCX (before Linux 6.6).
//!
//! A filter outlives a killed process, and others keep theirs on the same qdisc. So a filter is deleted only while it
//! still holds our program, and the qdisc only if we made it and nothing is left on it.

use std::{fs::File, mem, os::fd::AsRawFd as _};

use anyhow::{Context as _, Result, ensure};
use aya::programs::{
    SchedClassifier,
    links::Link as _,
    tc::{NlOptions, SchedClassifierLink, TcAttachOptions, TcError, TcHandle, qdisc_add_clsact},
};
use log::{debug, warn};
use nix::net::if_::if_nametoindex;

use super::attach::Hook;
use crate::{
    netns::Netns,
    target::Side,
    tc::{self, Filter},
};

/// Handle of our filters: one that neither the kernel's numbering nor another agent is likely to pick.
const HANDLE: TcHandle = TcHandle::new(0x736e, 0x6966);
/// Priority of our filter where no other filter is.
const PRIORITY: u16 = 10;

/// The clsact qdisc of an interface. Dropping it removes the qdisc, if we made it and it is empty.
pub struct Qdisc {
    /// By a path that leads to the network namespace as long as `_netns` is open: what was found by a process may
    /// outlive that process, and the filters must be deleted all the same.
    side: Side,
    made: bool,
    _netns: File,
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
        let made = match qdisc_add_clsact(&side.ifname) {
            Ok(()) => true,
            Err(TcError::NetlinkError(error)) if error.raw_os_error() == Some(libc::EEXIST) => false,
            Err(error) => return Err(error).context("cannot add the clsact qdisc"),
        };
        let held = side.netns.open()?.with_context(|| format!("{side} is gone"))?;
        let netns = Netns::at(format!("/proc/self/fd/{}", held.as_raw_fd()))?;
        Ok(Self { side: Side { netns, ..side.clone() }, made, _netns: held })
    }

    /// Attaches a program in front of the filters that are there. To be called inside the namespace.
    ///
    /// # Errors
    ///
    /// When the kernel refuses.
    pub fn attach(&self, program: &mut SchedClassifier, hook: Hook) -> Result<SchedClassifierLink> {
        let Side { netns, ifindex, ifname } = &self.side;
        let priority = priority_in_front(&tc::filters(netns, *ifindex, hook)?);
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

/// A priority that runs before the filters that are there. Priority 1 can be shared: of two BPF filters with one
/// priority the newer runs first (`cls_bpf_change`, net/sched/cls_bpf.c).
fn priority_in_front(filters: &[Filter]) -> u16 {
    let first = filters.iter().map(|filter| filter.priority).min();
    first.map_or(PRIORITY, |first| first.saturating_sub(1).max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(priority: u16) -> Filter {
        Filter { priority, handle: 1, program: Some(7), name: None }
    }

    #[test]
    fn runs_before_the_filters_that_are_there() {
        assert_eq!(priority_in_front(&[]), PRIORITY);
        assert_eq!(priority_in_front(&[at(49152), at(100)]), 99);
        assert_eq!(priority_in_front(&[at(2)]), 1);
        assert_eq!(priority_in_front(&[at(1)]), 1);
    }
}
