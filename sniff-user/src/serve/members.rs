//! Who is captured in a session: from the targets that a client names to interfaces, and back.

use std::path::PathBuf;

use anyhow::{Result, ensure};
use log::warn;
use sniff_protocol::message::{self, Target, TargetId};

use super::own_stream::OwnStream;
use crate::targets::{self, Awaited, AwaitedBy, FilteredTarget, Interface, Scope};

/// The targets that are captured.
pub(super) struct Members {
    cri_socket: Option<PathBuf>,
    node_name: Option<String>,
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
}

impl Members {
    /// Nobody yet.
    pub(super) fn new(cri_socket: Option<PathBuf>, node_name: Option<String>) -> Self {
        Self { cri_socket, node_name, joined: Vec::new() }
    }

    /// Whether the target is captured, or was and waits for another interface.
    pub(super) fn has(&self, id: &TargetId) -> bool {
        self.joined.iter().any(|member| member.id == *id)
    }

    /// A target that is to join, with its interfaces.
    ///
    /// # Errors
    ///
    /// When it is not on this node, is not what the client takes it for, or is captured as part of another.
    pub(super) async fn find(&self, target: &Target) -> Result<Member> {
        let Target { id, interfaces, filter, .. } = target;
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
        let mut scopes = targets::scopes(&wanted, &options).await?;
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
        Ok(Member { id: id.clone(), interfaces: found, scopes })
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
