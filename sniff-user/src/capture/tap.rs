//! One captured interface: where its packets are taken, how the file describes it, and its classifiers.

use anyhow::{Result, bail};
use log::{info, warn};
use sniff_common::Direction;
use sniff_filter::Filter;
use sniff_pcapng::{InterfaceDescription, LinkType};
use sniff_protocol::request::AttachAt;

use crate::{
    bpf::{
        attach::{Attachment, Mechanism, mechanism},
        home::Home,
    },
    capture::{
        point::Point,
        view::{self, View, Viewpoint},
    },
    net::{hook::Hook, side::Side},
    system::System,
    targets::{Interface, LinkLayer},
};

/// Most addresses of a kind that a file tells of an interface. A block has its limits, and so have readers.
const MAX_ADDRESSES: usize = 100;

/// One interface at one point. Dropping it takes its classifiers away.
pub struct Tap {
    /// pcapng interface id.
    pub id: u32,
    /// What is captured.
    pub interface: Interface,
    pub point: Point,
    /// The interface that the classifiers sit on.
    pub side: Side,
    /// Which directions, and the filter of each.
    pub directions: Vec<(Direction, Filter)>,
    /// What may be missing there, or be otherwise than on the wire.
    pub doubts: Vec<String>,
    /// Whether it was told that packets may be handed past it.
    pub can_be_passed: bool,
    /// The network namespace whose packets alone are taken, where the classifiers could follow a device out of it.
    pub home: Option<Home>,
    /// The classifiers, once they are attached.
    pub attachment: Option<Attachment>,
}

impl Tap {
    /// A tap at the point that `wanted` leads to, to be attached by `by`. Nothing is attached yet.
    ///
    /// # Errors
    ///
    /// When the interface has no such point, or classifiers cannot be attached there.
    pub fn new(
        id: u32,
        interface: Interface,
        wanted: AttachAt,
        by: Option<Mechanism>,
        directions: Vec<(Direction, Filter)>,
    ) -> Result<Self> {
        let captured: Vec<Direction> = directions
            .iter()
            .filter(|(_, filter)| *filter != Filter::Nothing)
            .map(|&(direction, _)| direction)
            .collect();
        let mechanism = mechanism(by);
        let (point, side, view) = choose(&interface, wanted, mechanism, &captured)?;
        let doubts = interface.doubts.iter().cloned().chain(view.doubts).collect();
        let can_be_passed = view.can_be_passed;
        let home = match (mechanism, point) {
            // Whoever has the other end, what passes the host's is that one's.
            (Mechanism::Clsact, _) | (_, Point::HostEnd) => None,
            (Mechanism::Tcx, Point::InPod | Point::HostInterface) => Home::of(&side.netns)?,
        };
        Ok(Self { id, interface, point, side, directions, doubts, can_be_passed, home, attachment: None })
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
        let left_out = [ipv4.len(), ipv6.len()].map(|count| count.saturating_sub(MAX_ADDRESSES));
        let left_out = match left_out.iter().sum() {
            0_usize => None,
            count => Some(format!("{count} more addresses are not named here")),
        };
        let demands: Vec<String> = self.interface.demands.in_words().collect();
        let demands = (!demands.is_empty()).then(|| format!("by the node's policy {}", demands.join(", ")));
        let comments: Vec<String> =
            comment.into_iter().chain(demands).chain(self.doubts.iter().cloned()).chain(left_out).collect();
        let comment = (!comments.is_empty()).then(|| comments.join("; "));
        let facts = self.interface.pod.as_ref().and_then(|pod| pod.facts.comment());
        InterfaceDescription {
            link_type: link_type(&self.interface),
            snaplen: self.interface.demands.snaplen(snaplen),
            name: name.clone(),
            description: Some(self.description(system)),
            comments: comment.into_iter().chain(facts).collect(),
            ipv4: ipv4.iter().take(MAX_ADDRESSES).copied().collect(),
            ipv6: ipv6.iter().take(MAX_ADDRESSES).copied().collect(),
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
        let once = match self.directions.as_slice() {
            [(direction, _)] if self.interface.is_loopback => {
                let way = if *direction == Direction::In { "comes in" } else { "goes out" };
                format!(", each packet once, as it {way}")
            }
            _ => String::new(),
        };
        let host_end = match (self.point, host_side) {
            (Point::InPod, Some(side)) => format!(", whose host end is {side} (index {})", side.ifindex),
            _ => String::new(),
        };
        format!("{who}on node {}, captured {}{host_end}{once}", system.node, self.place())
    }

    /// As in "at the host veth veth1a2b (index 7)".
    fn place(&self) -> String {
        let point = match self.point {
            // The two ends of a pair are of one kind.
            Point::HostEnd => format!("at the host {}", self.interface.kind.as_deref().unwrap_or("end")),
            Point::InPod => "inside the pod".to_owned(),
            Point::HostInterface => "at the host interface".to_owned(),
        };
        format!("{point} {} (index {})", self.side, self.side.ifindex)
    }

    /// Tells a person where the packets are taken.
    pub fn announce(&self) {
        let mechanism = self.attachment.as_ref().map_or(Mechanism::Tcx, Attachment::mechanism);
        let name = &self.interface.name;
        info!("{name}: {}, {mechanism}", self.place());
        for doubt in &self.doubts {
            warn!("{name}: {doubt}");
        }
    }

    /// Whether the interface is still there.
    pub fn is_alive(&self) -> bool {
        self.attachment.as_ref().is_some_and(Attachment::is_alive)
    }

    /// Whether it takes what goes into a pod at the host's end of a pair, where nothing is known yet to be handed past it.
    pub fn may_turn_blind(&self) -> bool {
        let takes = |direction| self.point.hook(direction) == Hook::Egress;
        let takes_into =
            self.directions.iter().any(|(direction, filter)| takes(*direction) && *filter != Filter::Nothing);
        takes_into && !self.can_be_passed && view::is_host_end(self.point, self.interface.kind.as_deref())
    }

    /// Whether its classifiers are tied to the interface that they were attached to, which cannot be another by now; not
    /// when it is gone, or somebody has taken all of them away.
    pub fn is_bound(&self) -> bool {
        self.attachment.as_ref().is_some_and(|it| it.is_bound() && it.is_alive())
    }

    /// Whether what is captured is in another network namespace by now, where that can be told. That takes longer to find
    /// out than [`Self::is_alive`].
    pub fn has_moved(&self) -> bool {
        // Hardware goes back to the node when its namespace ends. The host's end of a pair is always there, and stays a
        // while when the pod ends.
        self.captured().is_in_place().map_or_else(
            || {
                self.point != Point::HostEnd
                    && self.attachment.as_ref().is_some_and(Attachment::is_on_the_node)
            },
            |in_place| !in_place,
        )
    }

    /// Whether nothing tells where what is captured is: it is not what the classifiers sit on, and no path leads to its
    /// network namespace any more.
    pub fn is_out_of_sight(&self) -> bool {
        self.point == Point::HostEnd && self.captured().is_in_place().is_none()
    }

    /// Whether what is captured is in another network namespace by now, when it was heard that it has left its own and
    /// [`Self::is_alive`] says that it is still there. Of a namespace that has ended meanwhile, nothing else could tell.
    pub fn has_left(&self) -> bool {
        self.captured().is_in_place() != Some(true)
    }

    /// The interface whose packets are meant, wherever they are taken.
    pub fn captured(&self) -> &Side {
        self.interface.pod_side.as_ref().unwrap_or(&self.side)
    }
}

/// The directions to capture of those that are wanted. Whatever a loopback device sends it receives again, so that one
/// direction has every packet; tcpdump, too, shows them as they come in.
pub fn directions(interface: &Interface, wanted: &'static [Direction]) -> &'static [Direction] {
    if interface.is_loopback && wanted.contains(&Direction::In) { &[Direction::In] } else { wanted }
}

/// What the packets of an interface begin with.
pub fn link_type(interface: &Interface) -> LinkType {
    match interface.link_layer {
        LinkLayer::Ethernet => LinkType::Ethernet,
        LinkLayer::Raw => LinkType::Raw,
    }
}

/// Where to take an interface's packets, and how much of them there is to see.
fn choose(
    interface: &Interface,
    wanted: AttachAt,
    mechanism: Mechanism,
    directions: &[Direction],
) -> Result<(Point, Side, View)> {
    let Interface { name, pod_side, host_side, host_side_missing, kind, .. } = interface;
    let why = || host_side_missing.clone().unwrap_or_else(|| "it has no host end".to_owned());
    let viewpoint = |point, side| Viewpoint { point, side, kind: kind.as_deref(), mechanism };
    let viewpoint = match (pod_side, host_side, wanted) {
        (None, Some(host), AttachAt::Auto | AttachAt::Host) => viewpoint(Point::HostInterface, host),
        (None, Some(_), AttachAt::Pod) => {
            bail!("{name} is an interface of the host: it has no pod side for --attach pod")
        }
        (None, None, _) => bail!("{name} has no interface to attach to"),
        (Some(pod), _, AttachAt::Pod) => viewpoint(Point::InPod, pod),
        (Some(_), Some(host), AttachAt::Host) => viewpoint(Point::HostEnd, host),
        (Some(_), None, AttachAt::Host) => {
            bail!("{name} cannot be captured from the host: {}; use --attach pod", why())
        }
        (Some(pod), None, AttachAt::Auto) => {
            info!("{name}: capturing inside the pod: {}", why());
            viewpoint(Point::InPod, pod)
        }
        (Some(pod), Some(host), AttachAt::Auto) => {
            let host = viewpoint(Point::HostEnd, host);
            match host.view(directions)?.reason_against() {
                None => host,
                Some(reason) => {
                    info!("{name}: capturing inside the pod: {reason}");
                    viewpoint(Point::InPod, pod)
                }
            }
        }
    };
    let view = viewpoint.view(directions)?;
    if let Some(obstacle) = &view.obstacle {
        bail!("{name}: {obstacle}; {}", way_out(interface, wanted, &viewpoint, directions)?);
    }
    Ok((viewpoint.point, viewpoint.side.clone(), view))
}

/// What to do where classifiers cannot be attached.
fn way_out(
    interface: &Interface,
    wanted: AttachAt,
    viewpoint: &Viewpoint<'_>,
    directions: &[Direction],
) -> Result<String> {
    let mut ways = Vec::new();
    match (wanted, viewpoint.point) {
        (AttachAt::Host, Point::HostEnd) => ways.push("use --attach pod".to_owned()),
        (AttachAt::Pod, Point::InPod) if interface.host_side.is_some() => {
            ways.push("use --attach host".to_owned());
        }
        _ => {}
    }
    for (direction, option) in [(Direction::In, "in"), (Direction::Out, "out")] {
        if directions.len() > 1 && viewpoint.view(&[direction])?.obstacle.is_none() {
            ways.push(format!("-Q {option} captures one direction"));
        }
    }
    ways.push("TCX, which Linux 6.6 brought, does without clsact".to_owned());
    Ok(ways.join(", or "))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use sniff_pcapng::PodFacts;

    use super::*;
    use crate::{
        net::netns::Netns,
        targets::{Demands, PodRef},
    };

    fn tap(point: Point, kind: &str) -> Tap {
        let side = Side { netns: Netns::current().unwrap(), ifindex: 7, ifname: "dev0".to_owned() };
        let interface = Interface {
            name: "shop/web-0/eth0".to_owned(),
            pod: None,
            pod_side: None,
            host_side: Some(side.clone()),
            host_side_missing: None,
            kind: Some(kind.to_owned()),
            link_layer: LinkLayer::Ethernet,
            is_loopback: false,
            mac: None,
            ipv4: Vec::new(),
            ipv6: Vec::new(),
            filter: None,
            left_out: None,
            demands: Demands::default(),
            doubts: Vec::new(),
            unfit: Vec::new(),
        };
        let (directions, doubts) = (Vec::new(), Vec::new());
        let can_be_passed = false;
        Tap { id: 0, interface, point, side, directions, doubts, can_be_passed, home: None, attachment: None }
    }

    #[test]
    fn a_place_is_called_what_it_is() {
        assert_eq!(tap(Point::HostEnd, "veth").place(), "at the host veth dev0 (index 7)");
        assert_eq!(tap(Point::HostEnd, "netkit").place(), "at the host netkit dev0 (index 7)");
        assert_eq!(tap(Point::InPod, "netkit").place(), "inside the pod dev0 (index 7)");
        assert_eq!(tap(Point::HostInterface, "veth").place(), "at the host interface dev0 (index 7)");
    }

    #[test]
    fn directions_are_those_of_the_pod() {
        assert_eq!(Point::HostEnd.hook(Direction::Out), Hook::Ingress);
        assert_eq!(Point::HostEnd.hook(Direction::In), Hook::Egress);
        assert_eq!(Point::InPod.hook(Direction::In), Hook::Ingress);
        assert_eq!(Point::HostInterface.hook(Direction::Out), Hook::Egress);
    }

    #[test]
    fn addresses_in_a_description_are_bounded() {
        let mut tap = tap(Point::HostEnd, "veth");
        tap.interface.ipv4 = vec![([10, 0, 0, 1].into(), 32); 45_000];
        tap.interface.ipv6 = vec![([0; 16].into(), 128); 101];
        let system = System::this(None).unwrap();
        let description = tap.describe(&system, 0, None, Some("joined".into()));
        assert_eq!((description.ipv4.len(), description.ipv6.len()), (MAX_ADDRESSES, MAX_ADDRESSES));
        assert_eq!(description.comments, ["joined; 44901 more addresses are not named here"]);
    }

    #[test]
    fn what_is_known_of_a_pod_is_a_comment_behind_what_may_be_missing() {
        let mut tap = tap(Point::HostEnd, "veth");
        let system = System::this(None).unwrap();
        let comments = |tap: &Tap| tap.describe(&system, 0, None, None).comments;
        assert!(comments(&tap).is_empty());
        let facts = Arc::new(PodFacts { node: Some("n1".into()), ..PodFacts::default() });
        let [namespace, name, uid] = ["shop", "web-0", "u"].map(str::to_owned);
        tap.interface.pod = Some(PodRef { namespace, name, uid, facts, capture_label: None });
        assert_eq!(comments(&tap), ["node: n1"]);
        tap.doubts = vec!["some".into(), "others".into()];
        assert_eq!(comments(&tap), ["some; others", "node: n1"]);
    }
}
