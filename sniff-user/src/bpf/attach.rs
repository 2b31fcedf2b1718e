//! Hooking classifiers in, and taking them away again.
//!
//! TCX (Linux 6.6) where the kernel has it: the link is a descriptor, so it goes with the process, whatever ends
//! it. Otherwise a filter on the clsact qdisc, which outlives a killed process; it is deleted only when it still
//! holds our program, and the qdisc only when we made it and nothing else uses it.

use std::{fmt, os::fd::AsRawFd as _};

use anyhow::{Context as _, Result, anyhow, ensure};
use aya::{
    programs::{
        LinkOrder, MultiProgLink as _, ProgramError, ProgramInfo, SchedClassifier, TcAttachType,
        links::Link as _,
        tc::{
            NlOptions, SchedClassifierLink, TcAttachOptions, TcError, TcHandle, qdisc_add_clsact,
        },
    },
    sys::SyscallError,
};
use log::{debug, warn};

use super::classifier::{Classifier, fdinfo};
use crate::{
    target::Side,
    tc::{self, Filter},
};

/// Handle of our clsact filters: one that neither the kernel's numbering nor another agent is likely to pick.
const HANDLE: TcHandle = TcHandle::new(0x736e, 0x6966);
/// Priority of our clsact filter where no other filter is.
const PRIORITY: u16 = 10;

/// Which of an interface's two hooks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    /// Packets that the interface receives.
    Ingress,
    /// Packets that the interface sends.
    Egress,
}

impl From<Hook> for TcAttachType {
    fn from(hook: Hook) -> Self {
        match hook {
            Hook::Ingress => Self::Ingress,
            Hook::Egress => Self::Egress,
        }
    }
}

/// The kernel's two ways to run a classifier.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Mechanism {
    /// A TCX link, Linux 6.6 and later.
    Tcx,
    /// A filter on a clsact qdisc.
    Clsact,
}

impl fmt::Display for Mechanism {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcx => "tcx",
            Self::Clsact => "clsact",
        })
    }
}

/// A classifier at its hook. Dropping it takes it away.
pub struct Attachment {
    side: Side,
    hook: Hook,
    /// Keeps the program loaded; a clsact filter alone would do so too, and outlive us.
    _program: SchedClassifier,
    program_id: u32,
    hold: Option<Hold>,
}

/// What holds a classifier at its hook, and has to be undone.
enum Hold {
    Tcx(SchedClassifierLink),
    Clsact {
        filter: SchedClassifierLink,
        made_qdisc: bool,
    },
}

impl Attachment {
    /// Attaches `classifier` in front of whatever is at the hook already.
    ///
    /// With no `mechanism` given: TCX, or clsact on a kernel without TCX.
    ///
    /// # Errors
    ///
    /// When the interface is gone, when privileges lack, or when the kernel has neither mechanism.
    pub fn new(
        classifier: Classifier,
        side: &Side,
        hook: Hook,
        mechanism: Option<Mechanism>,
    ) -> Result<Self> {
        let Classifier { mut program, id } = classifier;
        let attach_inside = || {
            ensure_index(side)?;
            attach(&mut program, side, hook, mechanism)
        };
        let hold = side
            .netns
            .run(attach_inside)
            .with_context(|| format!("cannot attach to {}", side.ifname))?;
        Ok(Self {
            side: side.clone(),
            hook,
            _program: program,
            program_id: id,
            hold: Some(hold),
        })
    }

    /// How it is attached.
    pub fn mechanism(&self) -> Mechanism {
        match self.hold {
            Some(Hold::Clsact { .. }) => Mechanism::Clsact,
            Some(Hold::Tcx(_)) | None => Mechanism::Tcx,
        }
    }

    /// Whether the interface still is there. A link whose interface went away stays, bound to nothing
    /// (`tcx_link_fdinfo`, kernel/bpf/tcx.c).
    pub fn is_alive(&self) -> bool {
        match &self.hold {
            Some(Hold::Tcx(link)) => link
                .fd()
                .is_ok_and(|fd| !matches!(fdinfo(fd.as_raw_fd(), "ifindex:"), Ok(Some(0)))),
            Some(Hold::Clsact { .. }) => is_there(&self.side),
            None => false,
        }
    }

    /// Ids of the TCX programs that run before ours, because somebody put them there after we attached. What they
    /// do not pass on, we do not see.
    ///
    /// # Errors
    ///
    /// When the interface is gone.
    pub fn programs_ahead(&self) -> Result<Vec<u32>> {
        if !matches!(self.hold, Some(Hold::Tcx(_))) {
            return Ok(Vec::new());
        }
        let query = || {
            Ok(SchedClassifier::query_tcx(
                &self.side.ifname,
                self.hook.into(),
            )?)
        };
        let (_, programs) = self.side.netns.run(query)?;
        Ok(programs
            .iter()
            .map(ProgramInfo::id)
            .take_while(|&id| id != self.program_id)
            .collect())
    }

    fn detach(&mut self) -> Result<()> {
        match self.hold.take() {
            None => Ok(()),
            Some(Hold::Tcx(link)) => Ok(link.detach()?),
            Some(Hold::Clsact { filter, made_qdisc }) => self.remove_filter(filter, made_qdisc),
        }
    }

    /// aya deletes by priority and handle alone, and in the network namespace that it is called in; so this makes
    /// sure of both.
    fn remove_filter(&self, filter: SchedClassifierLink, made_qdisc: bool) -> Result<()> {
        let (priority, handle) = (filter.priority()?, u32::from(filter.handle()?));
        let ours = Filter {
            priority,
            handle,
            program: Some(self.program_id),
        };
        let Side { netns, ifindex, .. } = &self.side;
        let is_there =
            tc::filters(netns, *ifindex, self.hook).is_ok_and(|filters| filters.contains(&ours));
        if is_there {
            netns.run(|| Ok(filter.detach()?))?;
        } else {
            debug!("{}: our filter is gone already", self.side.ifname);
            // Dropping it would delete whatever has its priority and handle now.
            std::mem::forget(filter);
        }
        if made_qdisc {
            tc::delete_clsact_if_empty(netns, *ifindex)?;
        }
        Ok(())
    }
}

impl Drop for Attachment {
    fn drop(&mut self) {
        if let Err(error) = self.detach() {
            // An interface that went away took the filter with it.
            if is_there(&self.side) {
                warn!("{}: cannot detach: {error:#}", self.side.ifname);
            }
        }
    }
}

/// Whether programs of others are at the hooks of this interface, as those of an eBPF CNI are.
///
/// # Errors
///
/// When the interface is gone.
pub fn has_foreign_programs(side: &Side) -> Result<bool> {
    let at_hook = |hook: Hook| -> Result<bool> {
        // A kernel without TCX has no such programs.
        let query = || Ok(SchedClassifier::query_tcx(&side.ifname, hook.into()).ok());
        let tcx = side
            .netns
            .run(query)?
            .is_some_and(|(_, programs)| programs.iter().any(is_foreign));
        Ok(tcx
            || tc::filters(&side.netns, side.ifindex, hook)?
                .iter()
                .any(|filter| filter.program.is_some()))
    };
    Ok(at_hook(Hook::Ingress)? || at_hook(Hook::Egress)?)
}

/// Another capture's classifiers hand nothing past anybody.
fn is_foreign(program: &ProgramInfo) -> bool {
    program.name() != super::classifier::NAME.as_bytes()
}

/// aya attaches by name; the name must still be that of the interface that was found.
fn ensure_index(side: &Side) -> Result<()> {
    let index = nix::net::if_::if_nametoindex(side.ifname.as_str())
        .map_err(|_| anyhow!("{} is gone", side.ifname))?;
    ensure!(
        index == side.ifindex,
        "{} is another interface now (index {index})",
        side.ifname
    );
    Ok(())
}

fn is_there(side: &Side) -> bool {
    side.netns.run(|| ensure_index(side)).is_ok()
}

fn attach(
    program: &mut SchedClassifier,
    side: &Side,
    hook: Hook,
    mechanism: Option<Mechanism>,
) -> Result<Hold> {
    match mechanism {
        Some(Mechanism::Tcx) => Ok(attach_tcx(program, side, hook)?),
        Some(Mechanism::Clsact) => attach_clsact(program, side, hook),
        None => match attach_tcx(program, side, hook) {
            Err(error) if is_unknown_to_kernel(&error) => attach_clsact(program, side, hook),
            other => Ok(other?),
        },
    }
}

/// In front of all others: a program behind one with a terminal verdict would see nothing.
fn attach_tcx(
    program: &mut SchedClassifier,
    side: &Side,
    hook: Hook,
) -> Result<Hold, ProgramError> {
    let order = TcAttachOptions::TcxOrder(LinkOrder::first());
    let id = program.attach_with_options(&side.ifname, hook.into(), order)?;
    Ok(Hold::Tcx(program.take_link(id)?))
}

/// A kernel that does not know TCX takes it for a bad attach type (`bpf_prog_get_ok`, kernel/bpf/syscall.c).
fn is_unknown_to_kernel(error: &ProgramError) -> bool {
    matches!(error, ProgramError::SyscallError(SyscallError { io_error, .. })
        if io_error.raw_os_error() == Some(libc::EINVAL))
}

fn attach_clsact(program: &mut SchedClassifier, side: &Side, hook: Hook) -> Result<Hold> {
    let made_qdisc = match qdisc_add_clsact(&side.ifname) {
        Ok(()) => true,
        Err(TcError::AlreadyAttached) => false,
        Err(error) => return Err(error).context("cannot add the clsact qdisc"),
    };
    let undo = |error| {
        if made_qdisc && let Err(error) = tc::delete_clsact_if_empty(&side.netns, side.ifindex) {
            warn!("{}: cannot remove the clsact qdisc: {error:#}", side.ifname);
        }
        error
    };
    let priority = priority_in_front(&tc::filters(&side.netns, side.ifindex, hook).map_err(undo)?);
    let options = NlOptions {
        priority,
        handle: HANDLE,
        classid: None,
    };
    let id = program
        .attach_with_options(&side.ifname, hook.into(), TcAttachOptions::Netlink(options))
        .context("cannot add a filter to the clsact qdisc")
        .map_err(undo)?;
    Ok(Hold::Clsact {
        filter: program.take_link(id)?,
        made_qdisc,
    })
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
        Filter {
            priority,
            handle: 1,
            program: Some(7),
        }
    }

    #[test]
    fn runs_before_the_filters_that_are_there() {
        assert_eq!(priority_in_front(&[]), PRIORITY);
        assert_eq!(priority_in_front(&[at(49152), at(100)]), 99);
        assert_eq!(priority_in_front(&[at(2)]), 1);
        assert_eq!(priority_in_front(&[at(1)]), 1);
    }
}
