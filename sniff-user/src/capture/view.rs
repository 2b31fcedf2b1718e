//! What a classifier at one end of an interface would not see, or would see otherwise than it is on the wire.

use anyhow::Result;
use sniff_common::Direction;

use crate::{
    bpf::attach::{self, Mechanism},
    capture::point::Point,
    net::{
        hook::Hook,
        link::{self, Peer},
        side::Side,
        tc,
    },
};

/// Kinds of devices whose peer is in another network namespace.
const PAIRED: [&str; 2] = ["veth", "netkit"];

/// Whether a place at a device of this kind is the host's end of a pair, which packets can be handed past.
pub fn is_host_end(point: Point, kind: Option<&str>) -> bool {
    match point {
        Point::HostEnd => true,
        Point::InPod => false,
        Point::HostInterface => kind.is_some_and(|kind| PAIRED.contains(&kind)),
    }
}

/// How much of an interface's traffic can be captured at one of its ends.
#[derive(Debug, Default)]
pub struct View {
    /// Why no classifier can be attached there, if none can.
    pub obstacle: Option<String>,
    /// What may be missing, or be otherwise than on the wire.
    pub doubts: Vec<String>,
    /// Whether a doubt tells that packets may be handed past it.
    pub can_be_passed: bool,
}

impl View {
    /// The first reason for looking from somewhere else.
    pub fn reason_against(self) -> Option<String> {
        self.obstacle.into_iter().chain(self.doubts).next()
    }
}

/// Where to look from.
#[derive(Clone, Copy, Debug)]
pub struct Viewpoint<'a> {
    pub point: Point,
    /// The interface that classifiers would sit on.
    pub side: &'a Side,
    /// Its driver kind, that of its peer too.
    pub kind: Option<&'a str>,
    /// What they would be attached by.
    pub mechanism: Mechanism,
}

impl Viewpoint<'_> {
    /// What classifiers for these directions would see there.
    ///
    /// # Errors
    ///
    /// When the interface is gone.
    pub fn view(&self, directions: &[Direction]) -> Result<View> {
        let hooks: Vec<Hook> = directions.iter().map(|&direction| self.point.hook(direction)).collect();
        let obstacle = attach::obstacle(self.side, &hooks, self.mechanism)?;
        let passed_by = self.passed_by(&hooks)?;
        let can_be_passed = passed_by.is_some();
        let doubts = [passed_by, self.queued(&hooks)?, self.changed_later(&hooks)?];
        Ok(View { obstacle, doubts: doubts.into_iter().flatten().collect(), can_be_passed })
    }

    /// Whether it is the host's end of a pair, which packets can be handed past.
    fn is_host_end(&self) -> bool {
        is_host_end(self.point, self.kind)
    }

    fn passed_by(&self, hooks: &[Hook]) -> Result<Option<String>> {
        let side = self.side;
        Ok(if self.is_host_end() && self.kind == Some("netkit") {
            // A redirect by a netkit program skips the host end (netkit_xmit, drivers/net/netkit.c).
            Some(format!("programs of the pair with {side} can redirect packets past it"))
        } else if self.is_host_end() && attach::has_foreign_programs(side, &Hook::BOTH)? {
            // As those of an eBPF CNI, which hand packets over with bpf_redirect_peer.
            Some(format!("other BPF programs are on {side}, which can hand packets past it"))
        } else if self.mechanism == Mechanism::Clsact
            && hooks.iter().any(|&hook| attach::has_foreign_tcx(side, hook))
        {
            Some(format!("other BPF programs on {side} run before clsact's, and can keep packets from them"))
        } else {
            None
        })
    }

    /// What is sent passes the classifiers before it waits. Where a device of the node's has a queue, that is expected.
    fn queued(&self, hooks: &[Hook]) -> Result<Option<String>> {
        if !hooks.contains(&Hook::Egress) || (self.point == Point::HostInterface && !self.is_host_end()) {
            return Ok(None);
        }
        let side = self.side;
        Ok(tc::queue(&side.netns, side.ifindex)?.map(|kind| {
            let kind = kind.escape_debug();
            format!("what {side} sends is captured before its queue ({kind}), which can delay and drop it")
        }))
    }

    /// A program that masquerades, say, runs behind ours at egress.
    fn changed_later(&self, hooks: &[Hook]) -> Result<Option<String>> {
        let side = self.side;
        let concerned = self.point == Point::HostInterface && !self.is_host_end();
        if !concerned
            || !hooks.contains(&Hook::Egress)
            || !attach::has_foreign_programs(side, &[Hook::Egress])?
        {
            return Ok(None);
        }
        let elsewhere = self.below()?.map_or_else(String::new, |name| {
            format!(" (on {}, which it is stacked upon, it is as they leave it)", name.escape_debug())
        });
        Ok(Some(format!(
            "what {side} sends is captured before other BPF programs there, which can change and drop it{elsewhere}"
        )))
    }

    /// The interface of the same namespace that this one is stacked upon.
    fn below(&self) -> Result<Option<String>> {
        let Side { netns, ifindex, .. } = self.side;
        let peer = link::by_index(netns, *ifindex)?.and_then(|link| link.peer);
        let Some(Peer { index, netnsid: None }) = peer else { return Ok(None) };
        Ok(link::by_index(netns, index)?.map(|link| link.name))
    }
}
