//! Who is captured in a session: from the targets that a client names to interfaces, and back.

use std::{collections::HashSet, path::PathBuf};

use anyhow::{Result, ensure};

use crate::{
    pcapng::LinkType,
    stream::message::{Target, TargetId},
    tap::link_type,
    target::{self, Interface, Wanted},
};

/// The targets that are captured, with their interfaces.
pub(super) struct Members {
    cri_socket: Option<PathBuf>,
    node_name: Option<String>,
    joined: Vec<(TargetId, Vec<Interface>)>,
}

impl Members {
    /// Nobody yet.
    pub(super) fn new(cri_socket: Option<PathBuf>, node_name: Option<String>) -> Self {
        Self { cri_socket, node_name, joined: Vec::new() }
    }

    /// Whether the target is captured.
    pub(super) fn has(&self, id: &TargetId) -> bool {
        self.joined.iter().any(|(known, _)| known == id)
    }

    /// The interfaces of a target that is to join.
    ///
    /// # Errors
    ///
    /// When it is not on this node, is not what the client takes it for, or is captured as part of another.
    pub(super) async fn find(&self, target: &Target) -> Result<Vec<Interface>> {
        let Target { id, interfaces, filter, .. } = target;
        let with_filter = |target| Wanted { target, filter: filter.clone().filter(|text| !text.is_empty()) };
        let (wanted, options) = match id {
            TargetId::Pod { namespace, name, .. } => {
                let pod = target::Target::pod(&format!("{namespace}/{name}"))?;
                (vec![with_filter(pod)], self.options(interfaces.clone()))
            }
            TargetId::Node => {
                ensure!(!interfaces.is_empty(), "of a node, the interfaces must be named");
                let names = interfaces.iter().cloned();
                let all = names.map(|name| with_filter(target::Target::NodeInterface(name)));
                (all.collect(), self.options(Vec::new()))
            }
        };
        let found = target::resolve(&wanted, &options).await?;
        if let TargetId::Pod { namespace, name, uid } = id {
            check_uid(&format!("{namespace}/{name}"), uid, &found)?;
        }
        for interface in &found {
            let shared =
                self.joined.iter().flat_map(|(_, theirs)| theirs).find(|it| share_an_end(it, interface));
            if let Some(shared) = shared {
                anyhow::bail!("{} is captured already, as {}", interface.name, shared.name);
            }
        }
        Ok(found)
    }

    /// Notes that the target is captured.
    pub(super) fn join(&mut self, id: TargetId, interfaces: Vec<Interface>) {
        self.joined.push((id, interfaces));
    }

    /// Notes that the target is to be captured no more; returns its interfaces.
    pub(super) fn leave(&mut self, id: &TargetId) -> Option<Vec<Interface>> {
        let at = self.joined.iter().position(|(known, _)| known == id)?;
        Some(self.joined.swap_remove(at).1)
    }

    /// Notes that an interface went away; returns the target that has none left now.
    pub(super) fn lose(&mut self, interface: &Interface) -> Option<TargetId> {
        let (at, (_, interfaces)) =
            self.joined.iter_mut().enumerate().find(|(_, (_, interfaces))| interfaces.contains(interface))?;
        interfaces.retain(|it| it != interface);
        interfaces.is_empty().then(|| self.joined.swap_remove(at).0)
    }

    /// What packets begin with at the interfaces that there are.
    pub(super) fn link_types(&self) -> HashSet<LinkType> {
        self.joined.iter().flat_map(|(_, interfaces)| interfaces).map(link_type).collect()
    }

    /// How many interfaces there are.
    pub(super) fn interfaces(&self) -> usize {
        self.joined.iter().map(|(_, interfaces)| interfaces.len()).sum()
    }

    fn options(&self, interfaces: Vec<String>) -> target::Options {
        target::Options { cri_socket: self.cri_socket.clone(), interfaces, node_name: self.node_name.clone() }
    }
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

fn share_an_end(one: &Interface, other: &Interface) -> bool {
    let ends = |it: &Interface| -> Vec<_> {
        [&it.pod_side, &it.host_side]
            .into_iter()
            .flatten()
            .map(|side| (side.netns.id(), side.ifindex))
            .collect()
    };
    let others = ends(other);
    ends(one).iter().any(|end| others.contains(end))
}
