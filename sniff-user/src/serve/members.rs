//! Who is captured in a session: from the targets that a client names to interfaces, and back.

use std::{path::PathBuf, time::Duration};

use anyhow::{Result, ensure};
use log::warn;
use sniff_protocol::message::{self, Target, TargetId};

use super::{consent::Consent, own_stream::OwnStream};
use crate::{
    agent::{
        audit::Terms,
        policy::{Demanded, Whom},
        wire::Remit,
    },
    targets::{self, Awaited, AwaitedBy, FilteredTarget, Interface, PodRef, Scope},
};

/// The targets that are captured.
pub(super) struct Members {
    cri_socket: Option<PathBuf>,
    node_name: Option<String>,
    asked: Asked,
    /// What may be captured; `None` is all.
    remit: Option<Remit>,
    consent: Consent,
    joined: Vec<Member>,
}

/// A target that is captured.
#[derive(Clone)]
pub(super) struct Member {
    pub(super) id: TargetId,
    /// Its interfaces; none while it waits for another one.
    pub(super) interfaces: Vec<Interface>,
    /// Where others may come.
    pub(super) scopes: Vec<Scope>,
    /// The pod, as the node knows it, unless it is the node.
    pub(super) pod: Option<PodRef>,
    /// On what terms it is captured.
    pub(super) agreed: Agreed,
}

/// What a capture was agreed to be.
#[derive(Clone, Debug, Default)]
pub(super) struct Agreed {
    /// What is said of that where it is kept.
    pub(super) terms: Terms,
    /// The longest that it may last.
    pub(super) duration: Option<Duration>,
}

/// What a client has asked for, for all of its targets.
#[derive(Clone, Debug)]
pub(super) struct Asked {
    pub(super) filter: Option<String>,
    pub(super) snaplen: u32,
    pub(super) headers: bool,
}

impl Members {
    /// Nobody yet.
    pub(super) fn new(
        cri_socket: Option<PathBuf>,
        node_name: Option<String>,
        asked: Asked,
        remit: Option<Remit>,
        consent: Consent,
    ) -> Self {
        Self { cri_socket, node_name, asked, remit, consent, joined: Vec::new() }
    }

    /// Whether pods of the namespace may be captured.
    pub(super) fn may_capture(&self, namespace: &str) -> bool {
        self.remit.as_ref().is_none_or(|remit| remit.check_namespace(namespace).is_ok())
    }

    /// Waits until it is known who consents, as far as it can be.
    pub(super) async fn settle(&mut self) {
        self.consent.settle().await;
    }

    /// Returns when it may be that somebody does not consent any more.
    pub(super) async fn consent_changes(&mut self) {
        self.consent.changed().await;
    }

    /// The targets that do not consent any more, and why.
    pub(super) fn revoked(&self) -> Vec<(TargetId, String)> {
        let revoked = |member: &Member| {
            let why = self.consent.objection_now(member.pod.as_ref()?)?;
            Some((member.id.clone(), why))
        };
        self.joined.iter().filter_map(revoked).collect()
    }

    /// Has the capture of whatever is at `scope` keep to what is demanded; returns what was agreed to.
    ///
    /// # Errors
    ///
    /// When it is not to be captured so.
    pub(super) fn agree(&self, scope: &mut Scope) -> Result<Agreed> {
        let (whom, overridden) = match scope.pod() {
            Some(pod) => (Whom::Namespace(&pod.namespace), self.consent.ask(pod)?),
            None => (Whom::Node, None),
        };
        let general = self.asked.filter.as_deref();
        let Demanded { demands, duration, .. } = self.consent.demanded(whom, scope.asked_filter(general))?;
        let longest = duration.map(|longest| format!("at most {}", humantime::format_duration(longest)));
        let policy = demands.in_words().chain(longest).collect();
        let (snaplen, headers) = (demands.snaplen(self.asked.snaplen), demands.headers || self.asked.headers);
        scope.demand(demands);
        let terms = Terms { filter: scope.expression(general), snaplen, headers, policy, overridden };
        Ok(Agreed { terms, duration })
    }

    /// The target, if it is captured, or waits for another interface.
    pub(super) fn get(&self, id: &TargetId) -> Option<&Member> {
        self.joined.iter().find(|member| member.id == *id)
    }

    /// Whether the target is captured, or was and waits for another interface.
    pub(super) fn has(&self, id: &TargetId) -> bool {
        self.get(id).is_some()
    }

    /// A target that is to join, with its interfaces.
    ///
    /// # Errors
    ///
    /// When it must not be captured, is not on this node, is not what the client takes it for, or is captured as part of
    /// another.
    pub(super) async fn find(&self, target: &Target) -> Result<Member> {
        let Target { id, interfaces, filter, .. } = target;
        if let Some(remit) = &self.remit {
            remit.check(id)?;
        }
        let with_filter =
            |target| FilteredTarget { target, filter: filter.clone().filter(|text| !text.is_empty()) };
        let (wanted, options) = match id {
            TargetId::Pod { namespace, name, .. } => {
                let pod = targets::Target::pod(&format!("{namespace}/{name}"))?;
                (vec![with_filter(pod)], self.options(interfaces.clone()))
            }
            TargetId::Node => {
                ensure!(!interfaces.is_empty(), "of a node, the interfaces must be named");
                let names = interfaces.iter().cloned();
                let all = names.map(|name| with_filter(targets::Target::NodeInterface(name)));
                (all.collect(), self.options(Vec::new()))
            }
        };
        let found = targets::scopes(&wanted, &options).await;
        let mut scopes = found.map_err(|error| match &self.remit {
            Some(remit) => remit.explain(error),
            None => error,
        })?;
        if let Some(remit) = &self.remit {
            remit.check_found(id, &scopes)?;
        }
        let mut agreed = Agreed::default();
        for scope in &mut scopes {
            agreed = self.agree(scope)?;
        }
        let mut found = targets::interfaces_of(&scopes)?;
        if let (TargetId::Node, Some(port)) = (id, target.kubelet_port) {
            // Whatever it was asked for as.
            let is_loopback = found.iter().any(|interface| interface.is_loopback);
            for (name, scope) in interfaces.iter().zip(&mut scopes) {
                leave_out_own_stream(name, scope, is_loopback, port)?;
            }
            found = targets::interfaces_of(&scopes)?;
        }
        if let TargetId::Pod { namespace, name, uid } = id {
            check_uid(&format!("{namespace}/{name}"), uid, &found)?;
        }
        for interface in &found {
            let shared = self
                .joined
                .iter()
                .flat_map(|member| &member.interfaces)
                .find(|it| it.shares_an_end(interface));
            if let Some(shared) = shared {
                anyhow::bail!("{} is captured already, as {}", interface.name, shared.name);
            }
        }
        // What is left out of it is known only here.
        agreed.terms.filter = scopes.first().and_then(|scope| scope.expression(self.asked.filter.as_deref()));
        let pod = scopes.iter().find_map(Scope::pod).cloned();
        Ok(Member { id: id.clone(), interfaces: found, scopes, pod, agreed })
    }

    /// Whether the target is one, without an interface.
    pub(super) fn waits(&self, id: &TargetId) -> bool {
        self.joined.iter().any(|member| member.id == *id && member.interfaces.is_empty())
    }

    /// Notes that the target is captured, or is to be once it has an interface.
    pub(super) fn join(&mut self, member: Member) {
        self.joined.push(member);
    }

    /// Notes that the target is to be captured no more; returns it.
    pub(super) fn leave(&mut self, id: &TargetId) -> Option<Member> {
        let at = self.joined.iter().position(|member| member.id == *id)?;
        Some(self.joined.swap_remove(at))
    }

    /// Notes that an interface went away; returns the target that has none left.
    pub(super) fn lose(&mut self, interface: &Interface) -> Option<TargetId> {
        let member = self.joined.iter_mut().find(|member| member.interfaces.contains(interface))?;
        member.interfaces.retain(|it| it != interface);
        member.interfaces.is_empty().then(|| member.id.clone())
    }

    /// Notes that an interface has come to a scope; returns whose it is.
    pub(super) fn gain(&mut self, scope: &Scope, interface: Interface) -> Option<TargetId> {
        let member = self.joined.iter_mut().find(|member| member.scopes.contains(scope))?;
        let is_new = !member.interfaces.contains(&interface);
        is_new.then(|| {
            member.interfaces.push(interface);
            member.id.clone()
        })
    }

    /// The targets without interfaces that can get none any more.
    pub(super) fn ended(&self) -> Vec<TargetId> {
        let has_ended =
            |member: &&Member| member.interfaces.is_empty() && !member.scopes.iter().any(Scope::is_there);
        self.joined.iter().filter(has_ended).map(|member| member.id.clone()).collect()
    }

    /// How many interfaces there are.
    pub(super) fn interfaces(&self) -> usize {
        self.joined.iter().map(|member| member.interfaces.len()).sum()
    }

    fn options(&self, interfaces: Vec<String>) -> targets::Options {
        targets::Options {
            cri_socket: self.cri_socket.clone(),
            interfaces,
            node_name: self.node_name.clone(),
            // The client knows more.
            with_facts: false,
            is_discreet: self.remit.as_ref().is_some_and(|remit| !remit.node),
        }
    }
}

/// Whom a client waits for; none, where its selector is no selector.
pub(super) fn awaited(asked: message::Awaited) -> Option<Awaited> {
    let message::Awaited { namespace, by, interfaces } = asked;
    let by = match by {
        message::AwaitedBy::Name { name } => AwaitedBy::Name(name),
        message::AwaitedBy::Labels { selector } => AwaitedBy::Labels(selector.parse().ok()?),
    };
    Some(Awaited { namespace, by, interfaces, filter: None })
}

/// Keeps the session's own packets, on their way to the client, out of the capture of a node's interface; also those that
/// pass a loopback interface, if that is captured.
fn leave_out_own_stream(name: &str, scope: &mut Scope, is_loopback: bool, kubelet_port: u16) -> Result<()> {
    let Some(own) = OwnStream::find(scope.netns(), is_loopback, kubelet_port)? else {
        warn!(
            "{name}: the kubelet has no connection at port {kubelet_port} that would carry this capture to its client: where \
             it passes here it is captured too, unless a filter leaves it out"
        );
        return Ok(());
    };
    if own.goes_on_from_here {
        warn!(
            "{name}: the API server, or what stands for it, is on this node: what it sends on to the client is captured \
             where it passes here, unless a filter leaves it out, such as 'not port 6443'"
        );
    }
    scope.leave_out(own.expression);
    Ok(())
}

/// A pod that was deleted and made anew keeps its name alone.
fn check_uid(pod: &str, uid: &str, found: &[Interface]) -> Result<()> {
    for here in found.iter().filter_map(|interface| interface.pod.as_ref()) {
        ensure!(
            uid.is_empty() || here.uid == uid,
            "pod {pod} on this node is not the one with the UID {uid}: it was made anew; ask for it again",
        );
    }
    Ok(())
}
