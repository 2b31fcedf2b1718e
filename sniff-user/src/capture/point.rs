//! The ends of an interface that can be captured at.

use sniff_common::Direction;

use crate::net::hook::Hook;

/// Where an interface's packets are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Point {
    /// At the host end of the pod's veth or netkit pair.
    HostEnd,
    /// At the interface inside the pod's network namespace.
    InPod,
    /// At an interface of the host, which is a target of its own.
    HostInterface,
}

impl Point {
    /// The hook that packets of a direction pass. What the host end of a pair receives has left the pod.
    pub fn hook(self, direction: Direction) -> Hook {
        match (self, direction) {
            (Self::HostEnd, Direction::Out) | (Self::InPod | Self::HostInterface, Direction::In) => {
                Hook::Ingress
            }
            (Self::HostEnd, Direction::In) | (Self::InPod | Self::HostInterface, Direction::Out) => {
                Hook::Egress
            }
        }
    }
}
