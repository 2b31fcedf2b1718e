//! Who to capture: from what a person names to the interfaces that carry its packets.
//!
//! [`scopes`] and [`interfaces_of`] only look; nothing is attached or changed.

mod arrivals;
mod demands;
mod facts;
mod interfaces;
mod list;
mod names;
mod node;
pub mod proc;
pub mod runtime;
mod scope;
mod selector;
mod to_come;

use std::{
    collections::HashMap,
    fmt,
    net::{Ipv4Addr, Ipv6Addr},
    path::PathBuf,
    slice,
    sync::Arc,
};

use anyhow::{Result, bail, ensure};
use log::{info, warn};
use sniff_pcapng::PodFacts;
use tokio::sync::OnceCell;

pub use self::{
    arrivals::{Arrivals, Awaited, AwaitedBy},
    demands::Demands,
    list::{list, table},
    names::{learn, names_of},
    node::UsesHostNetwork,
    scope::Scope,
    selector::Selector,
    to_come::{PodsToCome, awaited},
};
use self::{interfaces::OwnedNetns, node::Node, scope::Whose};
pub use crate::net::link::LinkLayer;
use crate::net::{
    netns::{Netns, NetnsId},
    side::Side,
};

/// The namespace of a pod that is named without one.
pub const DEFAULT_NAMESPACE: &str = "default";
/// How many digits of a container id are enough, and how many it has.
const CONTAINER_ID_LEN: std::ops::RangeInclusive<usize> = 6..=64;
/// How many digits of a container id name it in the output, as `docker ps` and `crictl` show.
const SHORT_ID_LEN: usize = 12;

/// What a person names to be captured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// A pod of this node.
    Pod { namespace: String, name: String },
    /// The pods of this node with such labels, in one namespace or in all: none may be there.
    Pods { namespace: Option<String>, selector: Selector },
    /// The pod, or the container outside of Kubernetes, with this id: at least six digits.
    ContainerId(String),
    /// The network namespace of a process.
    Pid(u32),
    /// A network namespace.
    Netns {
        /// The name that `ip netns` lists, or a path.
        name: String,
        /// What its interfaces' names start with.
        label: String,
    },
    /// An interface of the network namespace that sniff runs in; every one for `any`.
    Interface(String),
    /// An interface of the node, also where sniff runs in a network namespace of its own; every one for `any`.
    NodeInterface(String),
}

/// A target, and the filter that it has of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FilteredTarget {
    pub target: Target,
    /// A filter for it alone, in place of the general one.
    pub filter: Option<String>,
}

impl FilteredTarget {
    /// Parses `TARGET` or `TARGET=EXPRESSION`, where no target can have a `=` in it.
    ///
    /// # Errors
    ///
    /// Those of `parse`; when the expression is empty.
    pub fn with_filter(text: &str, parse: impl Fn(&str) -> Result<Target>) -> Result<Self> {
        let (target, filter) = match text.split_once('=') {
            Some((target, filter)) => (target, Some(filter.trim())),
            None => (text, None),
        };
        ensure!(filter != Some(""), "a filter follows the =, as in {target}='tcp port 80'");
        Ok(Self { target: parse(target)?, filter: filter.map(str::to_owned) })
    }
}

impl From<Target> for FilteredTarget {
    fn from(target: Target) -> Self {
        Self { target, filter: None }
    }
}

/// What to go by besides the targets.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// The container runtime's socket, a path or a `unix://` address; the usual ones if none.
    pub cri_socket: Option<PathBuf>,
    /// Interfaces to take inside pods and namespaces; all that are up but `lo` when empty, every one for `any`.
    pub interfaces: Vec<String>,
    /// This node's name in Kubernetes; the host's name if none.
    pub node_name: Option<String>,
    /// Whether it is to be found out what a file tells of a pod beyond its name.
    pub with_facts: bool,
    /// Whether nothing is told of pods in other namespaces than those that are named: not even what they are called.
    pub is_discreet: bool,
}

/// A pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodRef {
    pub namespace: String,
    pub name: String,
    /// Its UID, as the kubelet knows it.
    pub uid: String,
    /// What else a file tells of it.
    pub facts: Arc<PodFacts>,
    /// What it says of captures, by a label that it was made with.
    pub capture_label: Option<String>,
}

impl PodRef {
    /// Whether both are called the same: one may be in the place of the other.
    pub fn is_called_as(&self, other: &Self) -> bool {
        (&self.namespace, &self.name) == (&other.namespace, &other.name)
    }

    /// Whether both are the same pod, whatever is known of it.
    pub fn is(&self, other: &Self) -> bool {
        self.is_called_as(other) && self.uid == other.uid
    }
}

impl fmt::Display for PodRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// One interface to capture, found and described.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interface {
    /// Who it is, fit to be printed: `NS/POD/eth0`, `0123456789ab/eth0`, `pid:12/eth0`,
    /// `netns:blue/eth0`, or `eth0` for an interface of the host; a network namespace may have been given another label.
    pub name: String,
    /// The pod it belongs to, where that is known.
    pub pod: Option<PodRef>,
    /// The interface inside the pod; none for an interface of the host, and for that alone.
    pub pod_side: Option<Side>,
    /// The host's end of the pair, or the interface of the host itself.
    pub host_side: Option<Side>,
    /// Why there is no host side, as in `eth0 is a macvlan`.
    pub host_side_missing: Option<String>,
    /// The driver kind of the pod's side: `veth`, `netkit`, `macvlan`…; none for hardware.
    pub kind: Option<String>,
    /// What its packets begin with.
    pub link_layer: LinkLayer,
    /// Whether it is a loopback device, which receives all that it sends.
    pub is_loopback: bool,
    /// The hardware address of the pod's side.
    pub mac: Option<[u8; 6]>,
    /// IPv4 addresses of the pod's side, with the length of their prefix.
    pub ipv4: Vec<(Ipv4Addr, u8)>,
    /// IPv6 addresses of the pod's side, with the length of their prefix.
    pub ipv6: Vec<(Ipv6Addr, u8)>,
    /// The filter that its target has of its own.
    pub filter: Option<String>,
    /// What is not captured whatever the filter says, as an expression too.
    pub left_out: Option<String>,
    /// What is demanded of its capture.
    pub demands: Demands,
    /// What may be missing, or be otherwise than it seems; of the first interface of a target, also which others are not
    /// captured.
    pub doubts: Vec<String>,
    /// Of the first interface of a target, the names of others that are up and cannot be captured, which a doubt tells.
    pub unfit: Vec<String>,
}

/// An interface that is meant, and cannot be captured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unfit {
    /// Who it is, as [`Interface::name`].
    pub name: String,
    /// What its packets begin with, as in `link-layer type 778 (GRE)`.
    pub link_type: String,
}

impl Interface {
    /// The expression that decides what is captured of it, where `general` is that of interfaces without one of their own.
    pub fn expression(&self, general: Option<&str>) -> Option<String> {
        demands::expression(self.filter.as_deref().or(general), self.left_out.as_deref(), &self.demands)
    }

    /// The expression for packets that an alarm is about: of those that may be captured, and are not left out.
    pub fn alarm(&self, filter: &str) -> Option<String> {
        demands::expression(Some(filter), self.left_out.as_deref(), &self.demands)
    }

    /// Whether both are the same, seen from whichever end.
    pub fn shares_an_end(&self, other: &Self) -> bool {
        let others = other.ends();
        self.ends().iter().any(|end| others.contains(end))
    }

    /// Whether it is still there.
    pub fn is_there(&self) -> bool {
        self.pod_side.as_ref().or(self.host_side.as_ref()).is_some_and(Side::is_there)
    }

    fn ends(&self) -> Vec<(NetnsId, u32)> {
        let sides = [&self.pod_side, &self.host_side].into_iter().flatten();
        sides.map(|side| (side.netns.id(), side.ifindex)).collect()
    }
}

impl Target {
    /// A pod, written `NAMESPACE/NAME`; `NAME` alone is in the namespace `default`.
    ///
    /// # Errors
    /// When it breaks Kubernetes' rules for names.
    pub fn pod(text: &str) -> Result<Self> {
        let (namespace, name) = text.split_once('/').unwrap_or((DEFAULT_NAMESPACE, text));
        let namespace = check_namespace(namespace)?;
        // A pod's name is a DNS subdomain: labels with dots between.
        if !name.split('.').all(is_label) || name.len() > 253 {
            bail!("{name:?} is not a pod name: {}", rule(253, " and dots"));
        }
        Ok(Self::Pod { namespace, name: name.into() })
    }

    /// A container's id or the start of it, with or without `containerd://` and the like.
    ///
    /// # Errors
    /// When it is no id, or too short.
    pub fn container(text: &str) -> Result<Self> {
        let id = text.split_once("://").map_or(text, |(_, id)| id).to_ascii_lowercase();
        if !CONTAINER_ID_LEN.contains(&id.len()) || !id.bytes().all(|b| b.is_ascii_hexdigit()) {
            bail!("a container id has 6 to 64 hexadecimal digits");
        }
        Ok(Self::ContainerId(id))
    }

    /// A process id.
    ///
    /// # Errors
    /// When it is not a positive number.
    pub fn pid(text: &str) -> Result<Self> {
        match text.parse() {
            Ok(pid) if pid > 0 => Ok(Self::Pid(pid)),
            _ => bail!("a process id is a positive number"),
        }
    }

    /// The name or the path of a network namespace, or `LABEL=PATH`: an absolute path, and what to call it, written as a
    /// pod is. What starts with `/` or `.` is all path.
    ///
    /// # Errors
    /// When it is empty, or the label breaks Kubernetes' rules for names.
    pub fn netns(text: &str) -> Result<Self> {
        if text.is_empty() {
            bail!("a network namespace is named as `ip netns` does, or by its path");
        }
        // No name that `ip netns` lists has a slash in it.
        match text.split_once('=') {
            Some((label, path)) if path.starts_with('/') && !label.starts_with(['/', '.']) => {
                Self::pod(label)?;
                Ok(Self::Netns { name: path.into(), label: label.into() })
            }
            _ => Ok(Self::Netns { name: text.into(), label: format!("netns:{text}") }),
        }
    }
}

/// The name of a namespace.
///
/// # Errors
/// When it breaks Kubernetes' rules for names.
pub fn check_namespace(text: &str) -> Result<String> {
    if !is_label(text) || text.len() > 63 {
        bail!("{text:?} is not a namespace: {}", rule(63, ""));
    }
    Ok(text.to_owned())
}

/// Finds where the interfaces of all targets are, in the targets' order.
///
/// # Errors
/// When a target is not there; when a capability is missing.
pub async fn scopes(wanted: &[FilteredTarget], options: &Options) -> Result<Vec<Scope>> {
    let hosts = interfaces::hosts()?;
    let node = OnceCell::new();
    let node = || node.get_or_try_init(|| Node::find(options, &hosts));
    let mut scopes = Vec::new();
    for FilteredTarget { target, filter } in wanted {
        let inside = |owned| vec![Whose::Targets(owned)];
        let found = match target {
            Target::Pod { namespace, name } => inside(node().await?.pod(namespace, name).await?),
            Target::Pods { namespace, selector } => {
                selected(node().await?, namespace.as_deref(), selector).await?
            }
            Target::ContainerId(id) => inside(node().await?.container(id).await?),
            Target::Pid(pid) => inside(OwnedNetns {
                label: format!("pid:{pid}"),
                pod: None,
                netns: Netns::of_pid(*pid)?,
                made: None,
            }),
            Target::Netns { name, label } => {
                inside(OwnedNetns { label: label.clone(), pod: None, netns: Netns::named(name)?, made: None })
            }
            Target::Interface(_) => vec![Whose::host(hosts.first())?],
            Target::NodeInterface(_) => vec![Whose::host(interfaces::node(&hosts))?],
        };
        let names = match target {
            Target::Interface(name) | Target::NodeInterface(name) => slice::from_ref(name),
            _ => &options.interfaces[..],
        };
        scopes.extend(found.into_iter().map(|whose| Scope {
            whose,
            names: names.to_vec(),
            may_lack: matches!(target, Target::Pods { .. }),
            filter: filter.clone(),
            left_out: None,
            demands: Demands::default(),
            hosts: hosts.clone(),
        }));
    }
    Ok(scopes)
}

/// The running pods with such labels, but for those that cannot be captured, which is said.
async fn selected(node: &Node, namespace: Option<&str>, selector: &Selector) -> Result<Vec<Whose>> {
    let mut found = Vec::new();
    for ((namespace, name), owned) in node.selected(namespace, selector).await? {
        match owned {
            Ok(owned) => found.push(Whose::Targets(owned)),
            Err(error) => warn!("{namespace}/{name} is not captured: {error:#}"),
        }
    }
    if found.is_empty() {
        let place = namespace.map_or_else(String::new, |namespace| format!(" in the namespace {namespace}"));
        info!("no pod of this node has labels that match {selector}{place} so far");
    }
    Ok(found)
}

/// The interfaces of all these scopes, each once, in order.
///
/// # Errors
/// When an interface that there should be is not there.
pub fn interfaces_of(scopes: &[Scope]) -> Result<Vec<Interface>> {
    let mut all = Vec::new();
    for scope in scopes {
        all.extend(scope.interfaces()?);
    }
    each_once(all)
}

/// Drops interfaces that an earlier target has named, by either end.
fn each_once(all: Vec<Interface>) -> Result<Vec<Interface>> {
    let mut seen = HashMap::new();
    let mut once = Vec::new();
    for interface in all {
        let ends = interface.ends();
        match ends.iter().find_map(|end| seen.get(end)) {
            None => {
                seen.extend(ends.into_iter().map(|end| (end, interface.filter.clone())));
                once.push(interface);
            }
            Some(filter) => {
                ensure!(*filter == interface.filter, "{} is named twice, with two filters", interface.name);
            }
        }
    }
    Ok(once)
}

/// Whether it is a DNS label as in RFC 1123, but of any length.
fn is_label(text: &str) -> bool {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    !text.is_empty() && text.bytes().all(inner) && !text.starts_with('-') && !text.ends_with('-')
}

fn rule(max: usize, more: &str) -> String {
    format!("1 to {max} lower-case letters, digits, dashes{more}, with a letter or digit at both ends")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::netns::testing::TestNetns;

    async fn resolve(wanted: &[FilteredTarget], options: &Options) -> Result<Vec<Interface>> {
        interfaces_of(&scopes(wanted, options).await?)
    }

    #[test]
    fn pods_are_named_with_or_without_a_namespace() {
        let pod =
            |namespace: &str, name: &str| Target::Pod { namespace: namespace.into(), name: name.into() };
        assert_eq!(Target::pod("web/front-1").unwrap(), pod("web", "front-1"));
        assert_eq!(Target::pod("front.1").unwrap(), pod("default", "front.1"));
    }

    #[test]
    fn hostile_pod_names_are_refused() {
        let long = format!("a/{}", "b".repeat(254));
        let long_namespace = format!("{}/b", "a".repeat(64));
        let bad = [
            "",
            "/",
            "a/",
            "/b",
            "a/b/c",
            "A/b",
            "a/B",
            "a/..",
            "../b",
            "a/-b",
            "a/b-",
            "a/b..c",
            "a.b/c",
            "a/b c",
            "a/\u{1b}[2J",
            "a/b\n",
            "a/ü",
            &long,
            &long_namespace,
        ];
        for text in bad {
            let error = Target::pod(text).expect_err(text).to_string();
            assert!(!error.contains(char::is_control), "{error}");
        }
        assert_eq!(
            Target::pod("Web/x").unwrap_err().to_string(),
            "\"Web\" is not a namespace: 1 to 63 lower-case letters, digits, dashes, with a letter \
             or digit at both ends"
        );
    }

    #[test]
    fn container_ids_are_taken_as_the_tools_print_them() {
        let id = |text: &str| Target::ContainerId(text.into());
        for text in ["docker://abcdef", "containerd://abcdef", "cri-o://abcdef", "ABCDEF"] {
            assert_eq!(Target::container(text).unwrap(), id("abcdef"), "{text}");
        }
        let (whole, longer) = ("a".repeat(64), "a".repeat(65));
        assert_eq!(Target::container(&whole).unwrap(), id(&whole));
        for bad in ["", "abcde", "docker://", "abcdeg", "../../a", &longer] {
            assert!(Target::container(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn an_interface_that_is_not_there_is_gone() {
        let netns = Netns::current().unwrap();
        let side = |ifindex| Side { netns: netns.clone(), ifindex, ifname: "lo".into() };
        assert!(side(1).ensure_there().is_ok());
        assert_eq!(side(1).is_in_place(), Some(true));
        let gone = side(i32::MAX as u32);
        assert_eq!(gone.ensure_there().unwrap_err().to_string(), "lo is gone");
        assert_eq!(gone.is_in_place(), Some(false));
    }

    #[test]
    fn process_ids_are_positive() {
        assert_eq!(Target::pid("12").unwrap(), Target::Pid(12));
        for bad in ["", "0", "-1", "4294967296", "x"] {
            assert!(Target::pid(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn network_namespaces_may_be_given_a_label() {
        let named = |text| match Target::netns(text) {
            Ok(Target::Netns { name, label }) => (name, label),
            other => panic!("{text}: {other:?}"),
        };
        let plain = |text: &str| (text.to_owned(), format!("netns:{text}"));
        for text in ["blue", "a=b", "/proc/12/ns/net", "/run/a=/b", "./a=/b", "../a=/b"] {
            assert_eq!(named(text), plain(text));
        }
        let path = "/proc/12/fd/4".to_owned();
        assert_eq!(named("demo/web-0=/proc/12/fd/4"), (path.clone(), "demo/web-0".to_owned()));
        assert_eq!(named("web-0=/proc/12/fd/4"), (path, "web-0".to_owned()));
        for bad in ["", "=/a", "Web=/a", "a/b/c=/a", "netns:a=/a", "pid:1=/a"] {
            assert!(Target::netns(bad).is_err(), "{bad}");
        }
    }

    #[tokio::test]
    #[ignore = "needs root; `cargo xtask test` runs it"]
    async fn an_interface_named_twice_is_captured_once() {
        let pod = TestNetns::new();
        pod.ip("link add veth0 type veth peer name veth1");
        pod.ip("link set veth0 up");
        pod.ip("link set veth1 up");
        let path = Target::netns(&pod.path().display().to_string()).unwrap();
        let found = resolve(&[path.clone().into(), path.into()], &Options::default()).await.unwrap();
        let mut names: Vec<_> = found.iter().map(|found| found.name.rsplit('/').next()).collect();
        names.sort_unstable();
        assert_eq!(names, [Some("veth0"), Some("veth1")]);
    }

    #[tokio::test]
    async fn a_host_interface_needs_nothing_else() {
        let lo = resolve(&[Target::Interface("lo".into()).into()], &Options::default()).await.unwrap();
        let [lo] = &lo[..] else { panic!("{lo:?}") };
        assert_eq!((lo.name.as_str(), lo.pod_side.as_ref()), ("lo", None));
        assert_eq!(lo.host_side.as_ref().unwrap().ifindex, 1);
    }
}
