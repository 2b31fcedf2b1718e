//! One captured interface: where its packets are taken, how the file describes it, and its classifiers.

use std::fmt;

use anyhow::{Result, bail};
use log::info;
use sniff_common::Direction;

use crate::{
    args::AttachAt,
    bpf::attach::{Attachment, Hook, Mechanism, has_foreign_programs},
    filter::Filter,
    pcapng::{InterfaceDescription, LinkType},
    system::System,
    target::{Interface, LinkLayer, Side},
};

/// Where an interface's packets are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Point {
    /// At the host end of the pod's veth pair.
    HostVeth,
    /// At the interface inside the pod's network namespace.
    InPod,
    /// At an interface of the host, which is a target of its own.
    HostInterface,
}

impl Point {
    /// The hook that packets of a direction pass. What the host end of a veth pair receives has left the pod.
    pub fn hook(self, direction: Direction) -> Hook {
        match (self, direction) {
            (Self::HostVeth, Direction::Out) | (Self::InPod | Self::HostInterface, Direction::In) => {
                Hook::Ingress
            }
            (Self::HostVeth, Direction::In) | (Self::InPod | Self::HostInterface, Direction::Out) => {
                Hook::Egress
            }
        }
    }
}

impl fmt::Display for Point {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::HostVeth => "at the host veth",
            Self::InPod => "inside the pod",
            Self::HostInterface => "at the host interface",
        })
    }
}

/// One interface at one point. Dropping it takes its classifiers away.
pub struct Tap {
    /// pcapng interface id.
    pub id: u32,
    /// What is captured.
    pub interface: Interface,
    /// Where.
    pub point: Point,
    /// The interface that the classifiers sit on.
    pub side: Side,
    /// Which directions, and the filter of each.
    pub directions: Vec<(Direction, Filter)>,
    /// The classifiers, once they are attached.
    pub attachment: Option<Attachment>,
}

impl Tap {
    /// A tap at the point that `wanted` leads to. Nothing is attached yet.
    ///
    /// # Errors
    ///
    /// When the interface has no such point.
    pub fn new(
        id: u32,
        interface: Interface,
        wanted: AttachAt,
        directions: Vec<(Direction, Filter)>,
    ) -> Result<Self> {
        let (point, side) = choose(&interface, wanted)?;
        Ok(Self { id, interface, point, side, directions, attachment: None })
    }

    /// The block that introduces the interface in the file.
    pub fn describe(
        &self,
        system: &System,
        snaplen: u32,
        filter: Option<String>,
        comment: Option<String>,
    ) -> InterfaceDescription {
        let Interface { name, mac, ipv4, ipv6, .. } = &self.interface;
        InterfaceDescription {
            link_type: link_type(&self.interface),
            snaplen,
            name: name.clone(),
            description: Some(self.description(system)),
            comment,
            ipv4: ipv4.clone(),
            ipv6: ipv6.clone(),
            mac: *mac,
            filter,
            os: Some(system.os.clone()),
            hardware: None,
        }
    }

    fn description(&self, system: &System) -> String {
        let Interface { pod, host_side, .. } = &self.interface;
        let who = pod
            .as_ref()
            .map_or_else(String::new, |pod| format!("pod {}/{} (uid {}) ", pod.namespace, pod.name, pod.uid));
        let host_end = match (self.point, host_side) {
            (Point::InPod, Some(side)) => format!(", whose host end is {side} (index {})", side.ifindex),
            _ => String::new(),
        };
        format!("{who}on node {}, captured {}{host_end}", system.node, self.place())
    }

    /// As in "at the host veth veth1a2b (index 7)".
    fn place(&self) -> String {
        format!("{} {} (index {})", self.point, self.side, self.side.ifindex)
    }

    /// Tells a person where the packets are taken.
    pub fn announce(&self) {
        let mechanism = self.attachment.as_ref().map_or(Mechanism::Tcx, Attachment::mechanism);
        info!("{}: {}, {mechanism}", self.interface.name, self.place());
    }

    /// Whether the interface still is there.
    pub fn is_alive(&self) -> bool {
        self.attachment.as_ref().is_some_and(Attachment::is_alive)
    }
}

/// What the packets of an interface begin with.
pub fn link_type(interface: &Interface) -> LinkType {
    match interface.link_layer {
        LinkLayer::Ethernet => LinkType::Ethernet,
        LinkLayer::Raw => LinkType::Raw,
    }
}

/// Where to take an interface's packets.
fn choose(interface: &Interface, wanted: AttachAt) -> Result<(Point, Side)> {
    let Interface { name, pod_side, host_side, host_side_missing, kind, .. } = interface;
    let why = || host_side_missing.clone().unwrap_or_else(|| "it has no host end".to_owned());
    let (point, side) = match (pod_side, host_side, wanted) {
        (None, Some(host), AttachAt::Auto | AttachAt::Host) => (Point::HostInterface, host),
        (None, Some(_), AttachAt::Pod) => {
            bail!("{name} is an interface of the host: it has no pod side for --attach pod")
        }
        (None, None, _) => bail!("{name} has no interface to attach to"),
        (Some(pod), _, AttachAt::Pod) => (Point::InPod, pod),
        (Some(_), Some(host), AttachAt::Host) => (Point::HostVeth, host),
        (Some(_), None, AttachAt::Host) => {
            bail!("{name} cannot be captured from the host: {}; use --attach pod", why())
        }
        (Some(pod), None, AttachAt::Auto) => {
            info!("{name}: capturing inside the pod: {}", why());
            (Point::InPod, pod)
        }
        (Some(pod), Some(host), AttachAt::Auto) => match passed_by(kind.as_deref(), host)? {
            None => (Point::HostVeth, host),
            Some(reason) => {
                info!("{name}: capturing inside the pod: {reason}");
                (Point::InPod, pod)
            }
        },
    };
    Ok((point, side.clone()))
}

/// Why packets may pass by the host end, if they may.
fn passed_by(kind: Option<&str>, host: &Side) -> Result<Option<String>> {
    Ok(if kind == Some("netkit") {
        // A redirect by a netkit program skips the host end (netkit_xmit, drivers/net/netkit.c).
        Some(format!("programs of the pair with {host} can redirect packets past it"))
    } else if has_foreign_programs(host)? {
        // As those of an eBPF CNI, which hand packets over with bpf_redirect_peer.
        Some(format!("other BPF programs are on {host}, which can hand packets past it"))
    } else {
        None
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directions_are_those_of_the_pod() {
        assert_eq!(Point::HostVeth.hook(Direction::Out), Hook::Ingress);
        assert_eq!(Point::HostVeth.hook(Direction::In), Hook::Egress);
        assert_eq!(Point::InPod.hook(Direction::In), Hook::Ingress);
        assert_eq!(Point::HostInterface.hook(Direction::Out), Hook::Egress);
    }
}
