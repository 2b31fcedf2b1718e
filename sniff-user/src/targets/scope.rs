//! Where the interfaces of a target are looked for: when a capture starts, and whenever one may have come.

use std::{
    path::Path,
    time::{Duration, SystemTime},
};

use anyhow::{Context as _, Result};
use log::warn;

use super::{
    Demands, Interface, PodRef, Unfit, demands,
    interfaces::{self, OwnedNetns},
    node,
};
use crate::net::{
    link::{self, Link},
    netns::Netns,
};

/// Where the interfaces of a target are, and which of them are meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scope {
    pub(super) whose: Whose,
    /// Those that were named, every one for `any`; all that are up but `lo` when empty.
    pub(super) names: Vec<String>,
    /// Whether it may be without them at first: nobody has named the pod.
    pub(super) may_lack: bool,
    /// The filter that the target has of its own.
    pub(super) filter: Option<String>,
    /// What is not captured of them whatever the filter says.
    pub(super) left_out: Option<String>,
    /// What is demanded of their capture.
    pub(super) demands: Demands,
    /// Where host ends may be.
    pub(super) hosts: Vec<Netns>,
}

/// Whose interfaces they are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Whose {
    /// A pod's, or another target's with a network namespace.
    Targets(OwnedNetns),
    /// The host's; they are named.
    Hosts(Netns),
}

impl Whose {
    pub(super) fn host(netns: Option<&Netns>) -> Result<Self> {
        netns.cloned().map(Self::Hosts).context("no network namespace to run in")
    }
}

impl Scope {
    /// Of a pod whose sandbox was `made` just now, with this network namespace: those interfaces of `names`, or all but
    /// `lo`. `None` for a pod on the node's network.
    ///
    /// # Errors
    /// When there is no such namespace any more.
    pub fn of_new_pod(
        pod: PodRef,
        netns: &Path,
        names: Vec<String>,
        made: SystemTime,
    ) -> Result<Option<Self>> {
        let (hosts, netns) = (interfaces::hosts()?, Netns::at(netns)?);
        let owned = OwnedNetns { made: Some(made), ..node::owned(pod, netns) };
        let (whose, demands) = (Whose::Targets(owned), Demands::default());
        let scope = Self { whose, names, may_lack: true, filter: None, left_out: None, demands, hosts };
        Ok((interfaces::node(&scope.hosts) != Some(scope.netns())).then_some(scope))
    }

    /// How long ago the pod's sandbox was made, where that is known. Packets of that time may be missing.
    pub fn age(&self) -> Option<Duration> {
        match &self.whose {
            Whose::Targets(owned) => SystemTime::now().duration_since(owned.made?).ok(),
            Whose::Hosts(_) => None,
        }
    }

    /// The pod whose they are, where that is known.
    pub fn pod(&self) -> Option<&PodRef> {
        match &self.whose {
            Whose::Targets(owned) => owned.pod.as_ref(),
            Whose::Hosts(_) => None,
        }
    }

    /// Whether both are of one sandbox of one pod.
    pub(super) fn is_of_the_same_pod(&self, other: &Self) -> bool {
        let is_it = |(one, other): (&PodRef, &PodRef)| one.is(other);
        self.netns() == other.netns() && self.pod().zip(other.pod()).is_some_and(is_it)
    }

    /// The network namespace that they are in.
    pub fn netns(&self) -> &Netns {
        match &self.whose {
            Whose::Targets(owned) => &owned.netns,
            Whose::Hosts(netns) => netns,
        }
    }

    /// Has packets that match this expression left out of what is captured of them.
    pub fn leave_out(&mut self, expression: String) {
        self.left_out = Some(expression);
    }

    /// Has their capture keep to this.
    pub fn demand(&mut self, demands: Demands) {
        self.demands = demands;
    }

    /// The filter that was asked for, where `general` is that of interfaces without one of their own.
    pub fn asked_filter<'a>(&'a self, general: Option<&'a str>) -> Option<&'a str> {
        self.filter.as_deref().or(general)
    }

    /// The expression that decides what is captured of them, where `general` is that of interfaces without one of their own.
    pub fn expression(&self, general: Option<&str>) -> Option<String> {
        demands::expression(self.asked_filter(general), self.left_out.as_deref(), &self.demands)
    }

    /// Whether that is still there.
    pub fn is_there(&self) -> bool {
        self.netns().is_there()
    }

    /// Whether an interface may be meant that has this name, if it can be told.
    pub fn wants(&self, name: Option<&str>, is_up: bool) -> bool {
        interfaces::is_meant(&self.names, name, is_up)
    }

    /// Those of the interfaces that are meant that cannot be captured.
    ///
    /// # Errors
    /// When the namespace cannot be entered, or netlink refuses.
    pub fn unfit(&self) -> Result<Vec<Unfit>> {
        let links = link::links(self.netns())?;
        let describe = |link: &Link| Unfit {
            name: match &self.whose {
                Whose::Targets(owned) => interfaces::whole_name(&owned.label, &link.name),
                Whose::Hosts(_) => interfaces::shown(&link.name),
            },
            link_type: link.type_name(),
        };
        Ok(interfaces::unfit(&links, &self.names).map(describe).collect())
    }

    /// The interfaces that are meant.
    ///
    /// # Errors
    /// When one that was named is not there, or there is none at all, unless it may lack them.
    pub(super) fn interfaces(&self) -> Result<Vec<Interface>> {
        if !self.may_lack {
            return self.find(&self.names);
        }
        Ok(self.interfaces_now().unwrap_or_else(|error| {
            warn!("not captured so far: {error:#}");
            Vec::new()
        }))
    }

    /// Those of the interfaces that are meant that are there.
    ///
    /// # Errors
    /// When there is none.
    pub fn interfaces_now(&self) -> Result<Vec<Interface>> {
        if self.names.is_empty() {
            return self.find(&[]);
        }
        let each = self.names.iter().map(|name| self.find(std::slice::from_ref(name)));
        let (found, missing): (Vec<_>, Vec<_>) = each.partition(Result::is_ok);
        let found: Vec<Interface> = found.into_iter().flatten().flatten().collect();
        match missing.into_iter().find_map(Result::err) {
            Some(error) if found.is_empty() => Err(error),
            _ => Ok(found),
        }
    }

    fn find(&self, names: &[String]) -> Result<Vec<Interface>> {
        let found = match &self.whose {
            Whose::Targets(owned) => interfaces::of(owned, names, &self.hosts)?,
            Whose::Hosts(netns) => {
                let each = names.iter().map(|name| interfaces::of_host(name, netns));
                each.collect::<Result<Vec<_>>>()?.into_iter().flatten().collect()
            }
        };
        Ok(found
            .into_iter()
            .map(|interface| Interface {
                filter: self.filter.clone(),
                left_out: self.left_out.clone(),
                demands: self.demands.clone(),
                ..interface
            })
            .collect())
    }
}
