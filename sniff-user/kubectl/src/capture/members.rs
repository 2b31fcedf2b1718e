//! Who is captured: pods and nodes that join, leave, and are tried again.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Result, ensure};
use log::{error, info, warn};
use sniff_kubernetes::pods::{By, Change, Pod};
use sniff_pcapng::{Names, PodFacts};
use sniff_protocol::message::{Target, TargetId, Targets};

use super::{Capture, remit::is_of};
use crate::session::Orders;

/// How often a target that a node lost, though its pod runs, is tried again, and after what pause.
const RETRIES: u32 = 5;
const RETRY_PAUSE: Duration = Duration::from_secs(1);

/// Who is captured, told apart over all nodes: each session knows its own node by the same [`TargetId`].
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Who {
    Pod(TargetId),
    Node(String),
}

impl Who {
    /// Whom a session on `node` means by `id`.
    fn of(id: &TargetId, node: &str) -> Self {
        match id {
            TargetId::Pod { .. } => Self::Pod(id.clone()),
            TargetId::Node => Self::Node(node.to_owned()),
        }
    }
}

/// How a node has lost a target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Loss {
    /// It is gone.
    Gone,
    /// It cannot be captured.
    Failed,
    /// It must not be captured: that is final.
    Refused,
}

/// A pod or node that is captured.
pub(super) struct Member {
    pub(super) node: String,
    pub(super) target: Target,
    pub(super) selections: BTreeSet<usize>,
    pub(super) retries: u32,
    /// Whether it ever was captured.
    was_captured: bool,
    /// Why it could not be captured when that was tried last.
    failure: Option<String>,
    /// Whether the API knows of it, too, and not its node alone.
    is_confirmed: bool,
}

impl Member {
    fn new(node: String, target: Target, selections: BTreeSet<usize>, is_confirmed: bool) -> Self {
        Self { node, target, selections, retries: 0, was_captured: false, failure: None, is_confirmed }
    }
}

impl Capture {
    /// A change of what is meant.
    pub(super) fn change(&mut self, selection: usize, change: Change) {
        match change {
            Change::All(pods) => self.all(selection, pods),
            Change::Applied(pod) => self.applied(selection, pod),
            Change::Gone(pod) => {
                self.facts.remove(&who(&pod));
                self.gone(selection, &who(&pod), "deleted");
            }
            Change::Trouble(error) => {
                if self.unwatched.insert(selection) {
                    let selection = &self.selections[selection];
                    warn!(
                        "the watch of {selection} is interrupted, pods that start meanwhile are captured later: \
                         {error:#}; trying again"
                    );
                }
            }
            Change::NotAllowed(forbidden) => {
                warn!("{} is not followed: {forbidden}", self.selections[selection]);
            }
        }
    }

    pub(super) fn all(&mut self, selection: usize, pods: Vec<Pod>) {
        if self.unwatched.remove(&selection) {
            info!("the watch of {} goes on", self.selections[selection]);
            self.rejoins.hurry(Instant::now());
        }
        let there: HashSet<Who> = pods.iter().map(who).collect();
        let of_selection = self.members.iter().filter(|(_, member)| member.selections.contains(&selection));
        let gone: Vec<_> =
            of_selection.map(|(who, _)| who).filter(|who| !there.contains(*who)).cloned().collect();
        gone.iter().for_each(|who| self.gone(selection, who, "deleted"));
        pods.into_iter().for_each(|pod| self.applied(selection, pod));
    }

    fn applied(&mut self, selection: usize, pod: Pod) {
        let (id, who) = (id(&pod), who(&pod));
        if matches!(pod.phase.as_str(), "Succeeded" | "Failed") {
            return self.gone(selection, &who, "ended");
        }
        self.learn(&pod);
        let Some(node) = pod.node.clone() else { return };
        if let Some(member) = self.members.get_mut(&who) {
            if member.node != node {
                error!(
                    "{} runs on node {node}, though node {} has said that it does",
                    name(&id, &node),
                    member.node
                );
                self.failed = true;
                self.leave(&who, "on another node");
                return self.applied(selection, pod);
            }
            member.selections.insert(selection);
            member.is_confirmed = true;
            return;
        }
        if self.refused.contains(&who) {
            return;
        }
        if !pod.has_sandbox {
            // A session that is there by then sees it come.
            if !pod.host_network && !self.args.agentless && !self.follows.is_empty() {
                self.expected.insert(node);
            }
            return;
        }
        let full = format!("{}/{}", pod.namespace, pod.name);
        if pod.host_network {
            if !self.is_asked_for_now(selection) && self.names.insert(full.clone()) {
                warn!("{full} uses the network of its node: capture node/{node} with -i instead");
            }
            return;
        }
        if let Some(container) = &self.args.container
            && !pod.containers.contains(container)
        {
            if !self.is_asked_for_now(selection) && self.names.insert(full.clone()) {
                warn!("{full} has no container {container}, but {}", pod.containers.join(", "));
            }
            return;
        }
        self.join(id, node, Some(selection));
    }

    /// Notes what the API knows of a pod.
    pub(super) fn learn(&mut self, pod: &Pod) {
        let mut names = Names::default();
        for address in &pod.addresses {
            names.insert(*address, &format!("{}.{}", pod.name, pod.namespace));
        }
        self.name(&names);
        self.facts.insert(who(pod), pod.facts.clone());
    }

    /// Whether a selection is one pod, and nothing has begun: then it is said in one piece why that is not captured.
    fn is_asked_for_now(&self, selection: usize) -> bool {
        !self.has_begun && matches!(self.selections[selection].by, By::Name(_))
    }

    /// Has a target captured from now on.
    pub(super) fn join(&mut self, id: TargetId, node: String, selection: Option<usize>) {
        let full = name(&id, &node);
        let is_again = !self.names.insert(full.clone());
        let comment = (!self.sessions.is_empty()).then(|| {
            let now = humantime::format_rfc3339_seconds(SystemTime::now());
            match is_again {
                true => {
                    format!("joined the running capture at {now}, in place of an earlier pod of this name")
                }
                false => format!("joined the running capture at {now}"),
            }
        });
        if comment.is_some() {
            info!("{full} on node {node} joins");
        }
        let who = Who::of(&id, &node);
        let target = Target {
            container: self.args.container.clone(),
            interfaces: self.args.interfaces.clone(),
            kubelet_port: self.kubelet_ports.get(&node).copied().filter(|_| !self.args.include_own_stream),
            comment,
            ..Target::new(id)
        };
        self.joining.entry(node.clone()).or_default().push(target.clone());
        let selections = selection.into_iter().collect();
        self.members.insert(who, Member::new(node, target, selections, true));
    }

    /// A node has a pod that it was to look out for, and captures it, or has recorded it.
    pub(super) fn arrived(&mut self, node: &str, id: TargetId) -> Result<()> {
        let who = Who::of(&id, node);
        if let Some(member) = self.members.get(&who) {
            let where_it_is = member.node.clone();
            ensure!(
                where_it_is == node,
                "it says that {} has come, which is on node {where_it_is}",
                name(&id, node)
            );
            return Ok(());
        }
        let full = name(&id, node);
        if self.past.is_none() {
            info!("{full} on node {node} comes");
        }
        let is_it = |member: &&Member| member.is_confirmed && name(&member.target.id, &member.node) == full;
        // It may have been made anew there, and the API may not have told yet.
        if let Some(Member { node: other, .. }) =
            self.members.values().filter(is_it).find(|member| member.node != node)
        {
            warn!(
                "node {node} says that {full} has come, which is on node {other}: one of two may not be it"
            );
        }
        self.names.insert(full);
        let target = Target { interfaces: self.args.interfaces.clone(), ..Target::new(id) };
        let (node, selections) = (node.to_owned(), BTreeSet::new());
        self.members.insert(who, Member::new(node, target, selections, false));
        Ok(())
    }

    fn gone(&mut self, selection: usize, who: &Who, why: &str) {
        let Some(member) = self.members.get_mut(who) else { return };
        member.selections.remove(&selection);
        if !member.selections.is_empty() {
            return;
        }
        self.leave(who, why);
    }

    fn leave(&mut self, who: &Who, why: &str) {
        if let Some(Member { node, target: Target { id, .. }, .. }) = self.members.remove(who) {
            info!("{} leaves: {why}", name(&id, &node));
            if let Some(queued) = self.joining.get_mut(&node) {
                queued.retain(|target| target.id != id);
            }
            if let Some(running) = self.running_on(&node) {
                running.session.change(Targets { add: Vec::new(), remove: vec![id] });
            }
        }
    }

    /// A node captures a target.
    pub(super) fn captured(&mut self, node: &str, id: &TargetId) {
        self.has_captured = true;
        if let Some(member) = self.members.get_mut(&Who::of(id, node)) {
            member.was_captured = true;
        }
    }

    /// Says who was to be tried again when the capture ended, and was never captured.
    pub(super) fn say_who_was_never_captured(&mut self) {
        let never = self.members.values().filter(|member| !member.was_captured);
        let failures = never.filter_map(|Member { node, target, failure, .. }| {
            Some(format!("{} on node {node} was not captured: {}", name(&target.id, node), failure.as_ref()?))
        });
        let failures: BTreeSet<String> = failures.collect();
        self.failed |= !failures.is_empty();
        failures.iter().for_each(|failure| error!("{failure}"));
    }

    /// A node does not capture a target any more, or cannot.
    pub(super) fn lost(&mut self, node: &str, id: TargetId, why: &str, loss: Loss) {
        let can_retry = !self.follows.is_empty() && loss != Loss::Refused;
        let is_failure = loss != Loss::Gone;
        if self.past.is_some() {
            // What was recorded of it may still be on its way, and nobody else has any.
            return match is_failure {
                true => {
                    self.failed = true;
                    error!("{} on node {node}: {why}", name(&id, node));
                }
                false => info!("{} on node {node} is gone: {why}", name(&id, node)),
            };
        }
        let who = Who::of(&id, node);
        if loss == Loss::Refused {
            self.refused.insert(who.clone());
        }
        match self.members.get_mut(&who) {
            // It was told to.
            None => {}
            // It ended before anybody else heard of it.
            Some(member) if !member.is_confirmed && loss != Loss::Refused => {
                self.members.remove(&who);
                info!("{} on node {node} has not started: {why}", name(&id, node));
            }
            Some(member) if can_retry && member.retries < RETRIES => {
                member.retries += 1;
                member.failure = is_failure.then(|| why.to_owned());
                info!("{} on node {node}: {why}; trying again if it still runs", name(&id, node));
                self.retries.push((Instant::now() + RETRY_PAUSE, who));
            }
            Some(_) => {
                self.members.remove(&who);
                if is_failure {
                    self.failed = true;
                    error!("{} on node {node}: {why}", name(&id, node));
                } else {
                    info!("{} on node {node} is gone: {why}", name(&id, node));
                }
                if self.members.is_empty() && !self.has_captured {
                    error!("nobody who is there can be captured");
                    self.order(Orders::Stop);
                } else if self.members.is_empty() && self.follows.is_empty() {
                    info!("nothing is left to capture");
                    self.order(Orders::Stop);
                }
            }
        }
    }

    /// Has targets join once more whose pause is over, and whose pods are still there.
    pub(super) fn retry(&mut self) {
        let now = Instant::now();
        let (due, later) = std::mem::take(&mut self.retries).into_iter().partition(|(at, _)| *at <= now);
        self.retries = later;
        let due: Vec<(Instant, Who)> = due;
        for (_, who) in due {
            if let Some(member) = self.members.get(&who) {
                self.joining.entry(member.node.clone()).or_default().push(member.target.clone());
            }
        }
    }
}

/// What the API knows of the pod that an interface on `node` is of; `None` where two pods of one name may be meant.
pub(super) fn facts_of(
    interface: &str,
    node: &str,
    members: &HashMap<Who, Member>,
    facts: &HashMap<Who, PodFacts>,
) -> Option<PodFacts> {
    let is_its = |member: &Member| member.node == node && is_of(interface, &member.target.id);
    let mut owners = members.iter().filter(|(_, member)| is_its(member));
    let (who, _) = owners.next().filter(|_| owners.next().is_none())?;
    facts.get(who).cloned()
}

fn id(pod: &Pod) -> TargetId {
    let Pod { namespace, name, uid, .. } = pod.clone();
    TargetId::Pod { namespace, name, uid }
}

fn who(pod: &Pod) -> Who {
    Who::Pod(id(pod))
}

pub(super) fn name(id: &TargetId, node: &str) -> String {
    match id {
        TargetId::Pod { namespace, name, .. } => {
            format!("{}/{}", namespace.escape_debug(), name.escape_debug())
        }
        TargetId::Node => format!("node/{node}"),
    }
}
