//! What a node may speak of: the targets that it was given, and its own interfaces. Whoever has the node, or the pod that
//! captures there, has no say in what the file tells of others.

use std::collections::HashSet;

use anyhow::{Result, ensure};
use sniff_pcapng::InterfaceDescription;
use sniff_protocol::message::{Awaited, AwaitedBy, NodeHello, Target, TargetId};

use super::members::name;

/// Most bytes of an interface's name: a namespace, a pod's name, and a device's with all of it written out.
const MAX_NAME: usize = 512;
/// Most bytes of a description, and of all descriptions of a session: filters are in them, and may be long.
const MAX_DESCRIPTION: usize = 256 << 10;
const MAX_DESCRIPTIONS: usize = 32 << 20;

/// Most targets of a session, one after the other, and most bytes of each of their names: Kubernetes has at most 253.
const MAX_TARGETS: usize = 1 << 16;
const MAX_WORD: usize = 253;

/// What one session may speak of.
pub(super) struct Remit {
    node: String,
    /// Those that have left may still have packets on their way.
    targets: HashSet<TargetId>,
    /// Those that it may say have come.
    awaited: Vec<Awaited>,
    /// Bytes of descriptions so far.
    described: usize,
}

impl Remit {
    /// That of a session on `node`.
    pub(super) fn new(node: &str, targets: &[Target], awaited: &[Awaited]) -> Self {
        let (node, awaited) = (node.to_owned(), awaited.to_vec());
        let mut remit = Self { node, targets: HashSet::new(), awaited, described: 0 };
        remit.extend(targets);
        remit
    }

    /// Takes in a pod that the node says has come: one that may be awaited there, as far as can be told here.
    pub(super) fn arrive(&mut self, target: &TargetId) -> Result<()> {
        if let TargetId::Pod { namespace, name, uid } = target {
            let longest = [namespace, name, uid].map(String::len).into_iter().max().unwrap_or_default();
            ensure!(longest <= MAX_WORD, "it says that a pod has come with a name of {longest} bytes");
        }
        ensure!(self.targets.len() < MAX_TARGETS, "it says that more than {MAX_TARGETS} pods have come");
        let is_awaited = |awaited: &Awaited| match target {
            TargetId::Pod { namespace, name, .. } => {
                let is_here = awaited.namespace.as_ref().is_none_or(|it| it == namespace);
                is_here && !matches!(&awaited.by, AwaitedBy::Name { name: it } if it != name)
            }
            TargetId::Node => false,
        };
        ensure!(
            self.awaited.iter().any(is_awaited),
            "it says that {} has come, which it was not to look out for",
            name(target, &self.node)
        );
        self.targets.insert(target.clone());
        Ok(())
    }

    /// Takes in targets that join.
    pub(super) fn extend(&mut self, targets: &[Target]) {
        self.targets.extend(targets.iter().map(|target| target.id.clone()));
    }

    /// Whether it is who it should be.
    pub(super) fn check_hello(&self, hello: &NodeHello) -> Result<()> {
        ensure!(
            hello.node == self.node,
            "it calls itself {}: NODE_NAME in its pod is not that of its node",
            hello.node
        );
        Ok(())
    }

    /// Whether a target is one of its own, and interfaces of these names can be that target's.
    pub(super) fn check_target(&self, target: &TargetId, interfaces: &[String]) -> Result<()> {
        ensure!(
            self.targets.contains(target),
            "it speaks of {}, which it was not given",
            name(target, &self.node)
        );
        let foreign = interfaces.iter().find(|interface| !is_of(interface, target));
        ensure!(
            foreign.is_none(),
            "it says that {} has the interface {}",
            name(target, &self.node),
            foreign.map_or("", String::as_str)
        );
        Ok(())
    }

    /// Whether an interface can be one of a target of its own. What the node says of it is marked as the node's word, line by
    /// line.
    pub(super) fn introduce(&mut self, interface: &mut InterfaceDescription) -> Result<()> {
        let InterfaceDescription { name, description, comments, .. } = interface;
        ensure!(name.len() <= MAX_NAME, "the name of an interface has {} bytes", name.len());
        ensure!(
            self.targets.iter().any(|target| is_of(name, target)),
            "it describes the interface {name}, which is none of a target that it was given"
        );
        for text in description.iter_mut().chain(comments) {
            let mark = format!("node {}: ", self.node);
            *text = format!("{mark}{}", text.replace('\n', &format!("\n{mark}")));
        }
        let mut block = Vec::new();
        interface.write(&mut block);
        self.described += block.len();
        ensure!(
            block.len() <= MAX_DESCRIPTION && self.described <= MAX_DESCRIPTIONS,
            "its descriptions of interfaces have {} bytes",
            self.described
        );
        Ok(())
    }
}

/// Whether an interface of this name can be of this target: `NAMESPACE/POD/IFACE`, or the mere name of a node's. The
/// kernel lets no device have a `/` in its name.
pub(super) fn is_of(interface: &str, target: &TargetId) -> bool {
    let device = match target {
        TargetId::Pod { namespace, name, .. } => interface
            .strip_prefix(namespace.as_str())
            .and_then(|rest| rest.strip_prefix('/'))
            .and_then(|rest| rest.strip_prefix(name.as_str()))
            .and_then(|rest| rest.strip_prefix('/')),
        TargetId::Node => Some(interface),
    };
    device.is_some_and(|device| !device.is_empty() && !device.contains('/'))
}

#[cfg(test)]
mod tests {
    use std::slice;

    use super::*;
    use sniff_pcapng::LinkType;

    fn pod(name: &str) -> Target {
        let id = TargetId::Pod { namespace: "shop".into(), name: name.into(), uid: "u-1".into() };
        Target::new(id)
    }

    fn interface(name: &str) -> InterfaceDescription {
        InterfaceDescription {
            description: Some("pod shop/web-0 on node n2".into()),
            ..InterfaceDescription::new(LinkType::Ethernet, 0, name)
        }
    }

    fn is_let_through(targets: &[Target], name: &str) -> bool {
        Remit::new("n1", targets, &[]).introduce(&mut interface(name)).is_ok()
    }

    #[test]
    fn interfaces_are_of_targets_that_were_given() {
        let web = [pod("web-0")];
        assert!(is_let_through(&web, "shop/web-0/eth0"));
        for foreign in [
            "shop/db-0/eth0",
            "shop/web-01/eth0",
            "shop/web-0",
            "shop/web-0/",
            "shop/web-0/a/b",
            "other/web-0/eth0",
            "eth0",
            "",
        ] {
            assert!(!is_let_through(&web, foreign), "{foreign}");
        }
        let node = [Target { id: TargetId::Node, ..pod("") }];
        assert!(is_let_through(&node, "eth0"));
        assert!(!is_let_through(&node, "shop/web-0/eth0"));
        assert!(!is_let_through(&[], "eth0"));
    }

    #[test]
    fn what_a_node_says_is_marked_as_its_word() {
        let mut told = interface("shop/web-0/eth0");
        Remit::new("n1", &[pod("web-0")], &[]).introduce(&mut told).unwrap();
        assert_eq!(told.description.as_deref(), Some("node n1: pod shop/web-0 on node n2"));
        assert!(told.comments.is_empty());
        told.comments = ["owner: x\nowner: Deployment/web", "another"].map(str::to_owned).into();
        Remit::new("n1", &[pod("web-0")], &[]).introduce(&mut told).unwrap();
        assert_eq!(told.comments, ["node n1: owner: x\nnode n1: owner: Deployment/web", "node n1: another"]);
    }

    #[test]
    fn targets_and_names_of_others_are_refused() {
        let remit = Remit::new("n1", &[pod("web-0")], &[]);
        let (own, other) = (pod("web-0").id, pod("db-0").id);
        assert!(remit.check_target(&own, &["shop/web-0/eth0".into()]).is_ok());
        let why = remit.check_target(&other, &[]).unwrap_err().to_string();
        assert_eq!(why, "it speaks of shop/db-0, which it was not given");
        let why = remit.check_target(&own, &["shop/db-0/eth0".into()]).unwrap_err().to_string();
        assert_eq!(why, "it says that shop/web-0 has the interface shop/db-0/eth0");
        let hello = |node: &str| NodeHello { node: node.into(), ..NodeHello::default() };
        assert!(remit.check_hello(&hello("n1")).is_ok());
        assert!(remit.check_hello(&hello("n2")).is_err());
    }

    #[test]
    fn descriptions_are_bounded() {
        let mut remit = Remit::new("n1", &[pod("web-0")], &[]);
        assert!(remit.introduce(&mut interface(&format!("shop/web-0/{}", "x".repeat(MAX_NAME)))).is_err());
        let long =
            || InterfaceDescription { filter: Some("x".repeat(60_000)), ..interface("shop/web-0/eth0") };
        let let_through = (0..10_000).take_while(|_| remit.introduce(&mut long()).is_ok()).count();
        assert!((500..600).contains(&let_through), "{let_through}");
    }

    #[test]
    fn pods_that_come_are_bounded() {
        let all = Awaited {
            namespace: None,
            by: AwaitedBy::Labels { selector: String::new() },
            interfaces: Vec::new(),
        };
        let mut remit = Remit::new("n1", &[], &[all]);
        assert!(remit.arrive(&pod(&"x".repeat(MAX_WORD)).id).is_ok());
        assert!(remit.arrive(&pod(&"x".repeat(MAX_WORD + 1)).id).is_err());
        let came = (0..).take_while(|number| remit.arrive(&pod(&format!("web-{number}")).id).is_ok()).count();
        assert_eq!(came, MAX_TARGETS - 1);
    }

    #[test]
    fn pods_that_come_are_those_that_are_awaited() {
        let by_name = Awaited {
            namespace: Some("shop".into()),
            by: AwaitedBy::Name { name: "web-0".into() },
            interfaces: Vec::new(),
        };
        let by_labels = Awaited { by: AwaitedBy::Labels { selector: "app=web".into() }, ..by_name.clone() };
        let may_come = |awaited: &[Awaited], target: &TargetId| {
            let mut remit = Remit::new("n1", &[], awaited);
            remit.arrive(target).is_ok() && remit.check_target(target, &[]).is_ok()
        };
        let elsewhere = TargetId::Pod { namespace: "other".into(), name: "web-0".into(), uid: "u".into() };
        for awaited in [&by_name, &by_labels] {
            assert!(may_come(slice::from_ref(awaited), &pod("web-0").id));
            assert!(!may_come(slice::from_ref(awaited), &elsewhere));
            assert!(!may_come(slice::from_ref(awaited), &TargetId::Node));
        }
        assert!(!may_come(&[by_name], &pod("db-0").id));
        assert!(!may_come(&[], &pod("web-0").id));
    }
}
