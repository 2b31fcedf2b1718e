//! From a network namespace to its interfaces, and from each to its end on the host.
//!
//! A veth or netkit device knows its peer's ifindex and, by an id, the peer's namespace. An
//! ifindex alone proves nothing: the same number may be in use on the host. So the id must be
//! the host's, and the peer found there must point back.

use std::{error::Error, fmt, iter, time::SystemTime};

use anyhow::{Context, Result, bail};
use strsim::damerau_levenshtein;

use super::{Demands, Interface, PodRef};
use crate::net::{
    link::{self, Link, LinkLayer, Peer},
    netns::Netns,
    side::Side,
};

/// Device kinds that come in pairs, so that one end can be on the host.
const PAIRED: [&str; 2] = ["veth", "netkit"];
/// Stands for every interface of a namespace, as in tcpdump.
pub(super) const ANY: &str = "any";
/// Devices that kernel modules put into every namespace; they stay down.
const FALLBACKS: [&str; 9] =
    ["tunl0", "gre0", "gretap0", "erspan0", "ip_vti0", "ip6_vti0", "sit0", "ip6tnl0", "ip6gre0"];
/// What container runtimes call a pod's own interface.
const POD_INTERFACE: &str = "eth0";
/// How many interfaces an error names.
const NAMES_SHOWN: usize = 10;

/// A network namespace to capture, and whose it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct OwnedNetns {
    /// What its interfaces' names start with: `NS/POD`.
    pub(super) label: String,
    /// The pod whose it is, where that is known.
    pub(super) pod: Option<PodRef>,
    pub(super) netns: Netns,
    /// When the pod's sandbox was made, where that is known.
    pub(super) made: Option<SystemTime>,
}

/// The peer of an interface is neither in the pod's namespace nor in the host's.
#[derive(Debug)]
struct Elsewhere {
    name: String,
    index: u32,
}

impl fmt::Display for Elsewhere {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, index } = self;
        write!(f, "the peer of {name}, index {index}, is in a network namespace that is not the host's")
    }
}

impl Error for Elsewhere {}

/// Namespaces in which host ends may be: the one sniff runs in first, then process 1's.
///
/// They differ where sniff sees the node's processes but has a network of its own.
pub(super) fn hosts() -> Result<Vec<Netns>> {
    let here = Netns::current()?;
    let node = Netns::of_pid(1).ok().filter(|node| *node != here);
    Ok(iter::once(here).chain(node).collect())
}

/// The node's namespace among [`hosts`]: process 1's, and where sniff runs only when that cannot be told or is the same.
///
/// In a pod that sees the node's processes, the namespace sniff runs in is the pod's own.
pub(super) fn node(hosts: &[Netns]) -> Option<&Netns> {
    hosts.last()
}

/// The interfaces of a namespace: those in `wanted`, every one for [`ANY`], or all that are up but `lo`.
///
/// What is left out of the latter two is a doubt of the first.
///
/// # Errors
/// When one that is wanted is not there, or there is none at all.
pub(super) fn of(owned: &OwnedNetns, wanted: &[String], hosts: &[Netns]) -> Result<Vec<Interface>> {
    let OwnedNetns { label, pod, netns, .. } = owned;
    let links = link::links(netns).with_context(|| label.clone())?;
    let picked = if wanted.is_empty() {
        if node(hosts) == Some(netns) {
            bail!("{label} is the node's network namespace: choose interfaces with -i ({})", names(&links));
        }
        all_up(label, &links)?
    } else {
        by_names(label, &links, wanted)?
    };
    let not_captured = not_captured(&links, wanted);
    let describe = |(link, link_layer): (&Link, LinkLayer)| {
        let host_side = host_side(link, netns, hosts);
        let host_side_missing = host_side.as_ref().err().map(|e| format!("{e:#}"));
        let elsewhere = host_side.as_ref().err().filter(|error| error.is::<Elsewhere>());
        let elsewhere = elsewhere.map(|_| {
            "its other end is neither in this namespace nor on the node: what passes it may be made up by the pod".to_owned()
        });
        Interface {
            doubts: elsewhere.into_iter().chain(leads_nowhere(link)).chain(is_down(link, wanted)).collect(),
            pod: pod.clone(),
            pod_side: Some(side(link, netns)),
            host_side: host_side.ok(),
            host_side_missing,
            ..bare(whole_name(label, &link.name), link, link_layer)
        }
    };
    let mut found: Vec<Interface> = picked.into_iter().map(describe).collect();
    add_doubt(&mut found, not_captured.map(|names| format!("not captured of {label}: {names}")));
    let unfit = unfit(&links, wanted).map(|link| whole_name(label, &link.name));
    add_unfit(&mut found, unfit.collect());
    Ok(found)
}

/// An interface of one of the [`hosts`], or every one for [`ANY`].
///
/// # Errors
/// When there is none of this name.
pub(super) fn of_host(name: &str, here: &Netns) -> Result<Vec<Interface>> {
    let links = link::links(here)?;
    let wanted = [name.to_owned()];
    let picked = by_names("this host", &links, &wanted)?;
    let describe = |(link, link_layer): (&Link, LinkLayer)| Interface {
        doubts: is_down(link, &wanted).into_iter().collect(),
        host_side: Some(side(link, here)),
        ..bare(shown(&link.name), link, link_layer)
    };
    let mut found: Vec<Interface> = picked.into_iter().map(describe).collect();
    let not_captured = not_captured(&links, &wanted);
    add_doubt(&mut found, not_captured.map(|names| format!("not captured of this host: {names}")));
    add_unfit(&mut found, unfit(&links, &wanted).map(|link| shown(&link.name)).collect());
    Ok(found)
}

/// What the kernel says of an interface; neither end is looked for.
fn bare(name: String, link: &Link, link_layer: LinkLayer) -> Interface {
    Interface {
        name,
        doubts: Vec::new(),
        pod: None,
        pod_side: None,
        host_side: None,
        host_side_missing: None,
        kind: link.kind.clone(),
        link_layer,
        is_loopback: link.is_loopback(),
        mac: link.mac,
        ipv4: link.ipv4.clone(),
        ipv6: link.ipv6.clone(),
        filter: None,
        left_out: None,
        demands: Demands::default(),
        unfit: Vec::new(),
    }
}

/// What an interface of a target that is called `label` is called.
pub(super) fn whole_name(label: &str, name: &str) -> String {
    format!("{}/{}", label.escape_debug(), shown(name))
}

/// Whether an interface may be meant, of those in `wanted`.
pub(super) fn is_meant(wanted: &[String], name: Option<&str>, is_up: bool) -> bool {
    match name {
        _ if wanted.iter().any(|it| it == ANY) => true,
        Some(name) if !wanted.is_empty() => wanted.iter().any(|it| it == name),
        _ => is_up,
    }
}

/// Those that are meant and cannot be captured.
pub(super) fn unfit<'a>(links: &'a [Link], wanted: &'a [String]) -> impl Iterator<Item = &'a Link> {
    links.iter().filter(|link| link.link_layer().is_none() && is_meant(wanted, Some(&link.name), link.up))
}

fn add_unfit(interfaces: &mut [Interface], unfit: Vec<String>) {
    if let Some(first) = interfaces.first_mut() {
        first.unfit = unfit;
    }
}

fn add_doubt(interfaces: &mut [Interface], doubt: Option<String>) {
    if let Some(first) = interfaces.first_mut() {
        first.doubts.extend(doubt);
    }
}

/// The names of a namespace's interfaces, for an error; pairs last, since their host ends
/// are many on a node.
pub(super) fn names_in(netns: &Netns) -> Result<String> {
    Ok(names(&link::links(netns)?))
}

fn all_up<'a>(label: &str, links: &'a [Link]) -> Result<Vec<(&'a Link, LinkLayer)>> {
    let up = links.iter().filter(|link| link.up && !link.is_loopback());
    let picked: Vec<_> = up.filter_map(|link| Some((link, link.link_layer()?))).collect();
    if picked.is_empty() {
        bail!("{label} has no interface that is up, besides lo; it has {}", names(links));
    }
    Ok(picked)
}

fn by_names<'a>(label: &str, links: &'a [Link], wanted: &[String]) -> Result<Vec<(&'a Link, LinkLayer)>> {
    if wanted.iter().any(|name| name == ANY) {
        return Ok(links.iter().filter_map(|link| Some((link, link.link_layer()?))).collect());
    }
    wanted.iter().map(|name| by_name(label, links, name)).collect()
}

fn by_name<'a>(label: &str, links: &'a [Link], name: &str) -> Result<(&'a Link, LinkLayer)> {
    let Some(link) = links.iter().find(|link| link.name == name) else {
        let mut near = links.to_vec();
        if near.len() > NAMES_SHOWN {
            near.sort_by_cached_key(|link| damerau_levenshtein(name, &link.name));
        }
        bail!("{label} has no interface {name:?}; it has {}", names(&near));
    };
    let Some(link_layer) = link.link_layer() else {
        bail!("{label}: {} has {}, which sniff cannot capture", shown(name), link.type_name());
    };
    Ok((link, link_layer))
}

/// The interfaces that are not captured although none in particular were `wanted`, with the reason of each.
fn not_captured(links: &[Link], wanted: &[String]) -> Option<String> {
    let is_any = wanted.iter().any(|name| name == ANY);
    let why_not = |link: &Link| match link.link_layer() {
        None if is_any || link.up => Some(link.type_name()),
        Some(_) if is_any || link.up || link.is_loopback() => None,
        _ => (!FALLBACKS.contains(&link.name.as_str())).then(|| "down".to_owned()),
    };
    let told = links.iter().filter_map(|link| Some(format!("{} ({})", shown(&link.name), why_not(link)?)));
    let told: Vec<String> = told.collect();
    (!told.is_empty() && (is_any || wanted.is_empty())).then(|| told.join(", "))
}

/// The doubt about what is called as a pod's way to the network, and is none: somebody may have put it in its place.
fn leads_nowhere(link: &Link) -> Option<String> {
    let paired_here = link.peer.is_some_and(|peer| peer.netnsid.is_none());
    let why = match link.kind.as_deref().filter(|_| link.name == POD_INTERFACE)? {
        "dummy" => "it is a dummy: what is sent through it goes nowhere",
        "tun" => "it is a tun: what passes it comes from and goes to a process, which may be the pod's",
        kind if PAIRED.contains(&kind) && paired_here => {
            "its other end is in the same network namespace: what passes it stays there"
        }
        _ => return None,
    };
    Some(why.to_owned())
}

/// The doubt about an interface that was asked for by its name and is down.
fn is_down(link: &Link, wanted: &[String]) -> Option<String> {
    (!link.up && wanted.contains(&link.name))
        .then(|| "it is down: no packets come before it is up".to_owned())
}

/// The end on the host of a pod's interface; the error says why there is none.
fn host_side(link: &Link, netns: &Netns, hosts: &[Netns]) -> Result<Side> {
    let name = shown(&link.name);
    match link.kind.as_deref() {
        Some(kind) if PAIRED.contains(&kind) => {}
        Some(kind) => bail!("{name} is a {kind}"),
        None if link.is_loopback() => bail!("{name} is the loopback device"),
        None => bail!("{name} is a hardware device"),
    }
    let Peer { index, netnsid } = link.peer.with_context(|| format!("{name} shows no peer"))?;
    if netnsid.is_none() {
        bail!("the peer of {name} is in the same network namespace");
    }
    for host in hosts {
        if link::nsid_of(netns, host)? == netnsid {
            let peer = link::by_index(host, index)?;
            let peer = peer.with_context(|| format!("the peer of {name} is gone"))?;
            let back = Peer { index: link.index, netnsid: link::nsid_of(host, netns)? };
            if peer.peer != Some(back) {
                bail!("the peer of {name}, {}, does not point back to it", shown(&peer.name));
            }
            return Ok(side(&peer, host));
        }
    }
    Err(Elsewhere { name, index }.into())
}

fn side(link: &Link, netns: &Netns) -> Side {
    Side { netns: netns.clone(), ifindex: link.index, ifname: link.name.clone() }
}

/// A name as it may be printed: the kernel lets control characters through.
pub(super) fn shown(name: &str) -> String {
    name.escape_debug().to_string()
}

fn names(links: &[Link]) -> String {
    let is_pair = |link: &&Link| link.kind.as_deref().is_some_and(|kind| PAIRED.contains(&kind));
    let (pairs, others): (Vec<_>, Vec<_>) = links.iter().partition(is_pair);
    let mut texts: Vec<String> = others.into_iter().chain(pairs).map(name_and_state).collect();
    if texts.len() > NAMES_SHOWN {
        let more = texts.split_off(NAMES_SHOWN).len();
        texts.push(format!("{more} more"));
    }
    texts.join(", ")
}

fn name_and_state(link: &Link) -> String {
    let unknown = link.link_layer().is_none().then(|| link.type_name());
    let down = (!link.up).then(|| "down".to_owned());
    let state: Vec<String> = down.into_iter().chain(unknown).collect();
    if state.is_empty() { shown(&link.name) } else { format!("{} ({})", shown(&link.name), state.join(", ")) }
}

#[cfg(test)]
mod tests {
    use std::slice;

    use super::*;
    use crate::net::netns::testing::TestNetns;

    fn owned(netns: &Netns) -> OwnedNetns {
        OwnedNetns { label: "ns/pod".into(), pod: None, netns: netns.clone(), made: None }
    }

    fn all(netns: &Netns, hosts: &[Netns]) -> Vec<Interface> {
        of(&owned(netns), &[], hosts).unwrap()
    }

    fn refusal(netns: &Netns, wanted: &[&str], hosts: &[Netns]) -> String {
        let wanted: Vec<String> = wanted.iter().map(ToString::to_string).collect();
        of(&owned(netns), &wanted, hosts).unwrap_err().to_string()
    }

    #[test]
    #[ignore = "needs root; `cargo xtask test` runs it"]
    fn a_pods_interface_leads_to_its_end_on_the_host() {
        let [host, pod, other] = [TestNetns::new(), TestNetns::new(), TestNetns::new()];
        host.ip("link add br0 type bridge");
        host.veth("veth0", &pod, "eth0");
        pod.ip("address add 10.1.2.3/24 dev eth0");

        // The host is the second candidate here.
        let hosts = [other.clone(), host.clone()];
        let [eth0] = &all(&pod, &hosts)[..] else { panic!("one interface") };
        assert_eq!(eth0.name, "ns/pod/eth0");
        assert_eq!(eth0.kind.as_deref(), Some("veth"));
        assert_eq!(eth0.ipv4, [([10, 1, 2, 3].into(), 24)]);
        assert_eq!(eth0.host_side_missing, None);
        let [inside, outside] = [&eth0.pod_side, &eth0.host_side].map(|side| side.clone().unwrap());
        assert_eq!((&inside.netns, inside.ifname.as_str()), (&*pod, "eth0"));
        assert_eq!((&outside.netns, outside.ifname.as_str()), (&*host, "veth0"));
        assert_eq!(link::by_index(&host, outside.ifindex).unwrap().unwrap().name, "veth0");
    }

    #[test]
    #[ignore = "needs root; `cargo xtask test` runs it"]
    fn an_equal_index_on_the_host_is_not_taken_for_the_peer() {
        let [host, elsewhere, pod] = [TestNetns::new(), TestNetns::new(), TestNetns::new()];
        let path = pod.path().display();
        elsewhere.ip(&format!("link add veth0 index 42 type veth peer name eth0 index 42 netns {path}"));
        pod.ip("link set eth0 up");
        // The host has another pair to the same pod, and an unrelated interface 42.
        host.veth("veth1", &pod, "eth1");
        host.ip("link add veth2 index 42 type veth peer name veth3");

        let found = all(&pod, slice::from_ref(&*host));
        let by_name = |name: &str| found.iter().find(|found| found.name.ends_with(name)).unwrap();
        let eth0 = by_name("eth0");
        assert_eq!(eth0.host_side, None);
        assert_eq!(
            eth0.host_side_missing.as_deref(),
            Some("the peer of eth0, index 42, is in a network namespace that is not the host's")
        );
        assert_eq!(by_name("eth1").host_side.as_ref().unwrap().ifname, "veth1");
    }

    #[test]
    #[ignore = "needs root; `cargo xtask test` runs it"]
    fn interfaces_without_an_end_on_the_host_say_why() {
        let [host, pod] = [TestNetns::new(), TestNetns::new()];
        let path = pod.path().display();
        host.ip("link add veth0 type veth peer name veth1");
        host.ip("link set veth0 up");
        host.ip(&format!("link add link veth0 name net1 netns {path} type macvlan"));
        pod.ip("link add net2 type veth peer name net3");
        pod.ip("tuntap add tun0 mode tun");
        for name in ["net1", "net2", "net3", "tun0"] {
            pod.ip(&format!("link set {name} up"));
        }
        let found = all(&pod, slice::from_ref(&*host));
        let why = |name: &str| {
            let found = found.iter().find(|found| found.name.ends_with(name)).unwrap();
            assert!(found.host_side.is_none() && found.pod_side.is_some());
            found.host_side_missing.clone().unwrap()
        };
        assert_eq!(why("net1"), "net1 is a macvlan");
        assert_eq!(why("net2"), "the peer of net2 is in the same network namespace");
        assert_eq!(why("tun0"), "tun0 is a tun");
        assert_eq!(found.len(), 4);
    }

    #[test]
    #[ignore = "needs root; `cargo xtask test` runs it"]
    fn what_has_the_place_of_a_pods_interface_and_leads_to_no_network_is_doubted() {
        let [host, pod] = [TestNetns::new(), TestNetns::new()];
        let doubts = || {
            pod.ip("link set eth0 up");
            let found = all(&pod, slice::from_ref(&*host));
            found.into_iter().find(|it| it.name == "ns/pod/eth0").unwrap().doubts
        };
        host.veth("veth0", &pod, "eth0");
        assert_eq!(doubts(), Vec::<String>::new());
        pod.ip("link set eth0 down");
        pod.ip("link set eth0 name old");
        pod.ip("tuntap add eth0 mode tun");
        assert!(doubts()[0].starts_with("it is a tun"), "{:?}", doubts());
        pod.ip("link del eth0");
        pod.ip("link add eth0 type veth peer name net3");
        assert!(doubts()[0].starts_with("its other end is in the same network namespace"), "{:?}", doubts());
    }

    #[test]
    #[ignore = "needs root; `cargo xtask test` runs it"]
    fn interfaces_are_picked_by_name() {
        let [host, pod] = [TestNetns::new(), TestNetns::new()];
        host.veth("veth0", &pod, "eth0");
        host.veth("veth1", &pod, "eth1");
        let hosts = [host.clone()];
        let [eth1] = &of(&owned(&pod), &["eth1".into()], &hosts).unwrap()[..] else {
            panic!("one interface")
        };
        assert_eq!(eth1.name, "ns/pod/eth1");
        assert_eq!(of(&owned(&pod), &["lo".into()], &hosts).unwrap()[0].name, "ns/pod/lo");
        assert_eq!(
            refusal(&pod, &["eth1", "eth9"], &hosts),
            "ns/pod has no interface \"eth9\"; it has lo (down), eth0, eth1"
        );
    }

    #[test]
    #[ignore = "needs root; `cargo xtask test` runs it"]
    fn a_namespace_with_nothing_to_capture_is_an_error() {
        let [host, pod] = [TestNetns::new(), TestNetns::new()];
        pod.ip("link add br0 type bridge");
        assert_eq!(
            refusal(&pod, &[], slice::from_ref(&*host)),
            "ns/pod has no interface that is up, besides lo; it has lo (down), br0 (down)"
        );
    }

    #[test]
    #[ignore = "needs root; `cargo xtask test` runs it"]
    fn names_are_fit_to_be_printed() {
        let [host, pod] = [TestNetns::new(), TestNetns::new()];
        pod.ip("link add e\u{1b}[31m type bridge");
        pod.ip("link set e\u{1b}[31m up");
        let found = all(&pod, slice::from_ref(&*host));
        assert_eq!(found[0].name, "ns/pod/e\\u{1b}[31m");
        assert_eq!(found[0].pod_side.as_ref().unwrap().ifname, "e\u{1b}[31m");
    }

    #[test]
    #[ignore = "needs root; `cargo xtask test` runs it"]
    fn where_sniff_runs_in_a_pod_that_pod_is_captured_like_any_other() {
        let [host, pod] = [TestNetns::new(), TestNetns::new()];
        host.veth("veth0", &pod, "eth0");
        let found = all(&pod, &[pod.clone(), host.clone()]);
        let [eth0] = &found[..] else { panic!("one interface, not {found:?}") };
        assert_eq!(eth0.name, "ns/pod/eth0");
        assert_eq!(
            eth0.host_side.as_ref().map(|side| (&side.netns, side.ifname.as_str())),
            Some((&*host, "veth0"))
        );
    }

    #[test]
    fn the_nodes_namespace_is_not_captured_as_a_whole() {
        let hosts = [Netns::current().unwrap()];
        let error = refusal(&hosts[0], &[], &hosts);
        assert!(error.contains("choose interfaces with -i (lo"), "{error}");
        assert!(refusal(&hosts[0], &["no-such"], &hosts).contains("no interface \"no-such\""));
    }
}
