//! One captured interface: where its packets are taken, how the file describes it, and its classifiers.

use std::fmt;

use anyhow::{Context as _, Result, anyhow};
use log::info;
use sniff_common::Direction;

use crate::{
    args,
    bpf::attach::{Attachment, Hook, Mechanism, has_foreign_programs},
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
            (Self::HostVeth, Direction::Out)
            | (Self::InPod | Self::HostInterface, Direction::In) => Hook::Ingress,
            (Self::HostVeth, Direction::In)
            | (Self::InPod | Self::HostInterface, Direction::Out) => Hook::Egress,
        }
    }
}

impl fmt::Display for Point {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::HostVeth => "host veth",
            Self::InPod => "inside the pod",
            Self::HostInterface => "host interface",
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
    /// Which directions.
    pub directions: &'static [Direction],
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
        wanted: args::Side,
        directions: &'static [Direction],
    ) -> Result<Self> {
        let point = choose(&interface, wanted)?;
        Ok(Self {
            id,
            interface,
            point,
            directions,
            attachment: None,
        })
    }

    /// The interface that the classifiers sit on.
    ///
    /// # Errors
    ///
    /// Never for a tap made by [`Self::new`], which has made sure of it.
    pub fn side(&self) -> Result<&Side> {
        let Interface {
            pod_side,
            host_side,
            name,
            ..
        } = &self.interface;
        let side = if self.point == Point::InPod {
            pod_side
        } else {
            host_side
        };
        side.as_ref()
            .with_context(|| format!("{name} has no {}", self.point))
    }

    /// The block that introduces the interface in the file.
    ///
    /// # Errors
    ///
    /// As [`Self::side`].
    pub fn describe(
        &self,
        system: &System,
        snaplen: u32,
        comment: Option<String>,
    ) -> Result<InterfaceDescription> {
        let Interface {
            name,
            pod,
            link_layer,
            mac,
            ipv4,
            ipv6,
            ..
        } = &self.interface;
        let side = self.side()?;
        let who = pod.as_ref().map_or(String::new(), |pod| {
            format!("pod {}/{} (uid {}) ", pod.namespace, pod.name, pod.uid)
        });
        Ok(InterfaceDescription {
            link_type: match link_layer {
                LinkLayer::Ethernet => LinkType::Ethernet,
                LinkLayer::Raw => LinkType::Raw,
            },
            snaplen,
            name: name.clone(),
            description: Some(format!(
                "{who}on node {}, captured at {} {side} (index {})",
                system.node, self.point, side.ifindex
            )),
            comment,
            ipv4: ipv4.clone(),
            ipv6: ipv6.clone(),
            mac: *mac,
            filter: None,
            os: Some(system.os.clone()),
            hardware: None,
        })
    }

    /// What a person reads when the capture starts.
    ///
    /// # Errors
    ///
    /// As [`Self::side`].
    pub fn announce(&self) -> Result<()> {
        let side = self.side()?;
        let mechanism = self
            .attachment
            .as_ref()
            .map_or(Mechanism::Tcx, Attachment::mechanism);
        info!(
            "{}: {} {side} (index {}), {mechanism}",
            self.interface.name, self.point, side.ifindex
        );
        Ok(())
    }

    /// Whether the interface still is there.
    pub fn is_alive(&self) -> bool {
        self.attachment.as_ref().is_some_and(Attachment::is_alive)
    }
}

fn choose(interface: &Interface, wanted: args::Side) -> Result<Point> {
    let Interface {
        name,
        pod_side,
        host_side,
        host_side_missing,
        ..
    } = interface;
    let why = || {
        host_side_missing
            .clone()
            .unwrap_or_else(|| "it has no host end".to_owned())
    };
    match (pod_side, host_side, wanted) {
        (None, Some(_), args::Side::Auto | args::Side::Host) => Ok(Point::HostInterface),
        (None, Some(_), args::Side::Pod) => Err(anyhow!(
            "{name} is an interface of the host: it has no pod side for --attach pod"
        )),
        (None, None, _) => Err(anyhow!("{name} has no interface to attach to")),
        (Some(_), _, args::Side::Pod) => Ok(Point::InPod),
        (Some(_), Some(_), args::Side::Host) => Ok(Point::HostVeth),
        (Some(_), None, args::Side::Host) => Err(anyhow!(
            "{name} cannot be captured from the host: {}; use --attach pod",
            why()
        )),
        (Some(_), None, args::Side::Auto) => {
            info!("{name}: capturing inside the pod: {}", why());
            Ok(Point::InPod)
        }
        (Some(_), Some(host), args::Side::Auto) => {
            // An eBPF CNI's programs hand packets past the host end (bpf_redirect_peer).
            if !has_foreign_programs(host)? {
                return Ok(Point::HostVeth);
            }
            info!(
                "{name}: capturing inside the pod: other BPF programs are on {host}, which can hand packets past it"
            );
            Ok(Point::InPod)
        }
    }
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
