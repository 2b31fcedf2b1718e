//! Hooking an interface's classifiers in, and taking them away again.
//!
//! TCX (Linux 6.6) where the kernel has it: the link is a descriptor, so it goes with the process, whatever ends it.
//! Otherwise filters on a clsact qdisc (`clsact`).

use std::{
    fmt, io, mem,
    os::fd::{AsFd as _, OwnedFd},
    sync::LazyLock,
};

use anyhow::{Context as _, Result, anyhow};
use aya::programs::{TcAttachType, links::Link as _, tc::SchedClassifierLink};
use aya_obj::generated::bpf_attach_type;
use log::{debug, warn};

use super::{
    classifier::{self, Classifier},
    clsact::{self, Qdisc},
    syscall,
};
use crate::{
    net::{hook::Hook, netns::Netns, side::Side, tc},
    system::clock::Clock,
};

/// Index of `lo`, which every network namespace has.
const LOOPBACK: u32 = 1;

impl From<Hook> for TcAttachType {
    fn from(hook: Hook) -> Self {
        match hook {
            Hook::Ingress => Self::Ingress,
            Hook::Egress => Self::Egress,
        }
    }
}

impl From<Hook> for bpf_attach_type {
    fn from(hook: Hook) -> Self {
        match hook {
            Hook::Ingress => Self::BPF_TCX_INGRESS,
            Hook::Egress => Self::BPF_TCX_EGRESS,
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

/// The classifiers of one interface, at their hooks. Dropping it takes them away.
pub struct Attachment {
    side: Side,
    hooked: Vec<Hooked>,
    /// Only with clsact.
    qdisc: Option<Qdisc>,
    clock: Clock,
    /// When they were all seen at their hooks the last time, by the clock.
    seen: u64,
}

/// One classifier at its hook.
struct Hooked {
    hook: Hook,
    classifier: Classifier,
    link: Link,
    /// When it was attached, by the clock of the attachment.
    since: u64,
}

/// What ties a program to its hook.
enum Link {
    /// Closing it detaches.
    Tcx(OwnedFd),
    Filter(SchedClassifierLink),
}

impl Attachment {
    /// Attaches the classifiers, each in front of whatever is at its hook already.
    ///
    /// With no `mechanism` given: TCX, or clsact on a kernel without TCX. `clock` is that of the packets.
    ///
    /// # Errors
    ///
    /// When the interface is gone, when privileges are missing, or when the kernel has neither mechanism.
    pub fn new(
        side: &Side,
        classifiers: Vec<(Hook, Classifier)>,
        mechanism: Option<Mechanism>,
        clock: Clock,
    ) -> Result<Self> {
        let attach = || {
            side.ensure_there()?;
            let seen = clock.now()?;
            let mut attachment = Self { side: side.clone(), hooked: Vec::new(), qdisc: None, clock, seen };
            if mechanism == Some(Mechanism::Clsact) {
                attachment.qdisc = Some(Qdisc::ensure(side)?);
            }
            for (hook, classifier) in classifiers {
                attachment.attach(hook, classifier, mechanism)?;
            }
            Ok(attachment)
        };
        side.netns.run(attach).with_context(|| format!("cannot attach to {side}"))
    }

    fn attach(&mut self, hook: Hook, mut classifier: Classifier, mechanism: Option<Mechanism>) -> Result<()> {
        let link = hook_in(&self.side, &mut self.qdisc, hook, &mut classifier, mechanism)?;
        self.hooked.push(Hooked { hook, classifier, link, since: self.clock.now()? });
        Ok(())
    }

    /// From now on has this classifier at a hook, in place of the one that is there, which it returns. Every packet is
    /// judged by one of the two. `None` takes the classifier away.
    ///
    /// # Errors
    ///
    /// When the kernel refuses, or the interface is gone; the classifier that is there then stays.
    pub fn set(&mut self, hook: Hook, classifier: Option<Classifier>) -> Result<Option<Classifier>> {
        let there = self.hooked.iter().position(|hooked| hooked.hook == hook);
        let before = match (there, classifier) {
            (Some(at), Some(classifier)) => Some(self.replace(at, classifier)?),
            (None, Some(classifier)) => {
                let side = self.side.clone();
                side.netns.run(|| self.attach(hook, classifier, None))?;
                None
            }
            (Some(at), None) => Some(self.take(at)),
            (None, None) => None,
        };
        Ok(before)
    }

    /// Swaps the program of a link, which the kernel does in one step; with clsact, that of a filter.
    fn replace(&mut self, at: usize, mut classifier: Classifier) -> Result<Classifier> {
        let Self { side, hooked, qdisc, .. } = self;
        let Hooked { hook, classifier: before, link, .. } = &mut hooked[at];
        let program = &mut classifier.program;
        let replaced = match (link, qdisc) {
            (Link::Filter(filter), Some(qdisc)) => qdisc.replace(filter, program, *hook),
            (Link::Filter(_), None) => Err(anyhow!("its qdisc is gone")),
            (Link::Tcx(link), _) => {
                let update = || Ok(syscall::update_link(link.as_fd(), program.fd()?.as_fd())?);
                update()
            }
        };
        replaced.with_context(|| format!("cannot change the filter on {side}"))?;
        Ok(mem::replace(before, classifier))
    }

    /// Since when there is a classifier at a hook, in nanoseconds since the epoch.
    pub fn since(&self, hook: Hook) -> Option<u64> {
        self.hooked.iter().find(|hooked| hooked.hook == hook).map(|hooked| hooked.since)
    }

    /// Takes away the classifier at one hook.
    pub fn unhook(&mut self, hook: Hook) {
        if let Some(at) = self.hooked.iter().position(|hooked| hooked.hook == hook) {
            self.take(at);
        }
    }

    fn take(&mut self, at: usize) -> Classifier {
        let Hooked { hook, classifier, link, .. } = self.hooked.swap_remove(at);
        let detached = match (link, &self.qdisc) {
            (Link::Filter(filter), Some(qdisc)) => qdisc.detach(filter, classifier.id, hook),
            (Link::Filter(filter), None) => filter.detach().map_err(Into::into),
            (Link::Tcx(link), _) => {
                drop(link);
                Ok(())
            }
        };
        // An interface that went away took its hooks with it.
        if let Err(error) = detached
            && self.side.is_there()
        {
            warn!("{}: cannot detach: {error:#}", self.side);
        }
        classifier
    }

    /// How they are attached.
    pub fn mechanism(&self) -> Mechanism {
        if self.qdisc.is_some() { Mechanism::Clsact } else { Mechanism::Tcx }
    }

    /// Whether the interface is still there.
    pub fn is_alive(&self) -> bool {
        match &self.qdisc {
            Some(qdisc) => qdisc.side().is_there(),
            // Cheaper to ask than netlink.
            None => self.is_bound() || self.side.is_there(),
        }
    }

    /// Whether a TCX link is bound to the interface: one stays, bound to nothing, when the interface has gone, or when
    /// somebody has detached it. Of clsact, nothing is known.
    pub fn is_bound(&self) -> bool {
        self.hooked.iter().any(|it| !it.link.is_detached())
    }

    /// Whether all classifiers are where they were attached.
    ///
    /// # Errors
    ///
    /// When the interface is gone.
    pub fn is_whole(&mut self) -> Result<bool> {
        let now = self.clock.now()?;
        let is_whole = self.missing()?.is_empty();
        if is_whole {
            self.seen = now;
        }
        Ok(is_whole)
    }

    /// Attaches classifiers again that somebody has detached, or whose filters somebody has deleted. Returns since when
    /// they may have been missing, if any were, in nanoseconds since the epoch.
    ///
    /// # Errors
    ///
    /// When the kernel refuses, or the interface is gone; classifiers are missing then.
    pub fn repair(&mut self) -> Result<Option<u64>> {
        let now = self.clock.now()?;
        let missing = self.missing()?;
        if missing.is_empty() {
            self.seen = now;
            return Ok(None);
        }
        let mechanism = Some(self.mechanism());
        let Self { side, hooked, qdisc, clock, seen } = self;
        let there = qdisc.as_ref().map_or_else(|| side.clone(), |qdisc| qdisc.side().clone());
        there.netns.run(|| {
            there.ensure_there()?;
            if let Some(qdisc) = qdisc {
                qdisc.restore()?;
            }
            for Hooked { hook, classifier, link, since } in hooked {
                if missing.contains(hook) {
                    let anew = hook_in(side, qdisc, *hook, classifier, mechanism)?;
                    if let Link::Filter(filter) = mem::replace(link, anew) {
                        // Dropping it would delete whatever has its place by now.
                        mem::forget(filter);
                    }
                    *since = clock.now()?;
                }
            }
            Ok(Some(mem::replace(seen, now)))
        })
    }

    /// The hooks where our classifiers are no more.
    fn missing(&mut self) -> Result<Vec<Hook>> {
        let Self { hooked, qdisc: Some(qdisc), .. } = self else {
            return Ok(self.hooked.iter().filter(|it| it.link.is_detached()).map(|it| it.hook).collect());
        };
        let programs: Vec<_> = hooked.iter().map(|it| (it.hook, it.classifier.id)).collect();
        qdisc.missing(&programs)
    }

    /// Whether the interface is in the namespace of process 1, where hardware goes when its own ends, by whatever index.
    pub fn is_on_the_node(&self) -> bool {
        let Some(Hooked { hook, classifier, link: Link::Tcx(link), .. }) = self.hooked.first() else {
            return false;
        };
        let ifindex = syscall::link_ifindex(link.as_fd());
        let there = |ifindex| Netns::of_pid(1)?.run(|| Ok(syscall::tcx_programs(ifindex, (*hook).into())?));
        let programs = ifindex.ok().flatten().map(there).and_then(Result::ok).unwrap_or_default();
        programs.contains(&classifier.id)
    }

    /// Ids of others' TCX programs that run before ours, because somebody put them there after we attached. What they do
    /// not pass on, we do not see.
    ///
    /// # Errors
    ///
    /// When the interface is gone.
    pub fn programs_ahead(&self) -> Result<Vec<u32>> {
        let mut ahead = Vec::new();
        if self.qdisc.is_none() {
            for Hooked { hook, classifier, .. } in &self.hooked {
                let programs = tcx_programs(&self.side, *hook)?;
                let before = programs.into_iter().take_while(|&id| id != classifier.id);
                ahead.extend(before.filter(|&id| is_foreign(id)));
            }
        }
        Ok(ahead)
    }
}

/// Attaches a classifier by `mechanism`, or by what there is. To be called inside the interface's network namespace.
fn hook_in(
    side: &Side,
    qdisc: &mut Option<Qdisc>,
    hook: Hook,
    classifier: &mut Classifier,
    mechanism: Option<Mechanism>,
) -> Result<Link> {
    let program = &mut classifier.program;
    if let Some(qdisc) = qdisc {
        return Ok(Link::Filter(qdisc.attach(program, hook)?));
    }
    match syscall::attach_tcx(program.fd()?.as_fd(), side.ifindex, hook.into()) {
        Err(error) if is_unknown_to_kernel(&error) => {
            let error = anyhow!(error).context("this kernel has no TCX, which takes Linux 6.6 or newer");
            if mechanism.is_some() {
                return Err(error.context("clsact does without"));
            }
            debug!("{side}: {error:#}; using clsact");
            Ok(Link::Filter(qdisc.insert(Qdisc::ensure(side)?).attach(program, hook)?))
        }
        link => Ok(Link::Tcx(link.context("attaching by TCX")?)),
    }
}

impl Link {
    fn is_detached(&self) -> bool {
        match self {
            Self::Tcx(link) => matches!(syscall::link_ifindex(link.as_fd()), Ok(None)),
            Self::Filter(_) => false,
        }
    }
}

impl Drop for Attachment {
    fn drop(&mut self) {
        while !self.hooked.is_empty() {
            self.take(0);
        }
    }
}

/// Whether programs of others are at these hooks of an interface, as those of an eBPF CNI are.
///
/// # Errors
///
/// When the interface is gone.
pub fn has_foreign_programs(side: &Side, hooks: &[Hook]) -> Result<bool> {
    for &hook in hooks {
        let filters = tc::filters(&side.netns, side.ifindex, hook)?;
        if has_foreign_tcx(side, hook) || filters.iter().any(|filter| filter.is_foreign(classifier::NAME)) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Whether TCX programs of others are at a hook of an interface; they run before all clsact filters.
pub fn has_foreign_tcx(side: &Side, hook: Hook) -> bool {
    // A kernel without TCX has no such programs.
    tcx_programs(side, hook).is_ok_and(|programs| programs.into_iter().any(is_foreign))
}

/// What classifiers are attached by when `wanted` is: TCX, or clsact on a kernel without TCX, when nothing is.
pub fn mechanism(wanted: Option<Mechanism>) -> Mechanism {
    static OF_KERNEL: LazyLock<Mechanism> =
        LazyLock::new(|| match syscall::tcx_programs(LOOPBACK, Hook::Ingress.into()) {
            Err(error) if is_unknown_to_kernel(&error) => Mechanism::Clsact,
            _ => Mechanism::Tcx,
        });
    wanted.unwrap_or_else(|| *OF_KERNEL)
}

/// Why no classifiers can be attached to these hooks of an interface, if they cannot.
///
/// # Errors
///
/// When the interface is gone.
pub fn obstacle(side: &Side, hooks: &[Hook], mechanism: Mechanism) -> Result<Option<String>> {
    match mechanism {
        Mechanism::Tcx => Ok(None),
        Mechanism::Clsact => clsact::obstacle(side, hooks),
    }
}

/// A kernel that does not know TCX takes it for a bad attach type (`link_create` and `bpf_prog_query`,
/// kernel/bpf/syscall.c).
fn is_unknown_to_kernel(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::EINVAL)
}

/// Another capture's classifiers hand nothing past anybody, nor does a program that has gone.
fn is_foreign(program: u32) -> bool {
    syscall::program_name(program).is_ok_and(|name| name != classifier::NAME.as_bytes())
}

fn tcx_programs(side: &Side, hook: Hook) -> Result<Vec<u32>> {
    let programs = side.netns.look(|| Ok(syscall::tcx_programs(side.ifindex, hook.into())?))?;
    programs.ok_or_else(|| anyhow!("{side} is gone"))
}
