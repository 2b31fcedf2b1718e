//! Packets between two captured pods are seen where they are sent and where they come in. Here the two are found to be
//! one packet, by their bytes alone: both then have the same `epb_packetid`, and the copy may be left out.
//!
//! A packet that a pod sends is remembered for [`WINDOW_NS`]. One that comes into another pod is the oldest of those with the
//! same bytes that has not come in there yet; every other has an id of its own. What bridges and routers of one node change
//! does not count: the link-layer header, the hop limit with IPv4's checksum, and the traffic class, where marks of
//! congestion are. Nor does the transport's checksum where the whole packet is there, for it may be filled in on the way,
//! and says nothing that the rest does not. All else does: a packet with another address (NAT), or cut into segments
//! on the way, is another packet. Nothing is guessed: whose headers are not all there is no other's copy.

use std::{
    collections::{HashMap, VecDeque, hash_map::Entry},
    hash::{BuildHasher as _, Hasher as _, RandomState},
    net::{IpAddr, Ipv4Addr},
};

use sniff_common::{
    Direction,
    epb::{self, DATA_OFFSET, FLAGS_DIRECTION},
};
use sniff_pcapng::{InterfaceDescription, LinkType, PacketHead};
use sniff_protocol::message::Seen;

use super::network_layer;

/// Longest that a packet is on its way, by the times of the packets.
const WINDOW_NS: u64 = 1_000_000_000;
/// Most packets that are remembered.
const MOST_SENT: usize = 1 << 16;
/// How many of those that are alike are looked at: who sends the same again and again does not keep us busy.
const MOST_ALIKE: usize = 64;
/// For how long after its end an interface is remembered: its packets may still wait.
const LEFT_NS: u64 = 60 * WINDOW_NS;

/// Length of the longest IPv4 header.
const LONGEST_HEADER: usize = 60;
/// How much behind the IP header must be there: ports with TCP's sequence number, UDP's header, an echo's identifier.
const TRANSPORT: usize = 8;
/// Offset and "more fragments" in the word of IPv4 that has them (RFC 791, section 3.1).
const FRAGMENT: u16 = 0x3fff;

/// Finds them.
pub struct Ends {
    /// By pcapng id.
    interfaces: Vec<Interface>,
    /// Who is captured by these addresses.
    addresses: HashMap<IpAddr, Vec<Captured>>,
    state: foldhash::quality::RandomState,
    next_id: u64,
    /// In the order in which they were sent; the first one has the number `first`, and so on.
    sent: VecDeque<Sent>,
    first: u64,
    /// Those that are alike, by their fingerprints.
    alike: HashMap<u64, Chain, foldhash::fast::RandomState>,
    seen: Seen,
}

struct Interface {
    link_type: LinkType,
    filter: Option<String>,
}

/// For how long an interface was captured, in nanoseconds since the epoch.
struct Captured {
    interface: u32,
    since: u64,
    until: u64,
}

/// A packet that a pod has sent.
struct Sent {
    fingerprint: u64,
    id: u64,
    time_ns: u64,
    interface: u32,
    /// Whether it is to come in at another captured interface.
    is_awaited: bool,
    /// Whether it may come in at more than one.
    is_for_many: bool,
    has_come: bool,
    /// Where it has, when there may be more.
    at: Vec<u32>,
    /// The number of the next one that is alike.
    next: Option<u64>,
}

impl Sent {
    /// Whether no copy of it is to come any more.
    fn is_done(&self) -> bool {
        self.has_come && !self.is_for_many
    }

    /// Whether it is this one that comes in at an interface.
    fn may_come_to(&self, interface: u32) -> bool {
        !self.is_done() && self.interface != interface && !self.at.contains(&interface)
    }
}

/// Packets that are alike, by the numbers of the first one that is not done and the last.
struct Chain {
    oldest: u64,
    newest: u64,
}

/// What a packet is told by, and where it goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Print {
    hash: u64,
    to: IpAddr,
    is_for_many: bool,
}

impl Default for Ends {
    fn default() -> Self {
        Self {
            interfaces: Vec::new(),
            addresses: HashMap::new(),
            state: foldhash::quality::RandomState::default(),
            // Files of several nodes are put together, where ids must not be the same either.
            next_id: RandomState::new().build_hasher().finish(),
            sent: VecDeque::new(),
            first: 0,
            alike: HashMap::default(),
            seen: Seen::default(),
        }
    }
}

impl Ends {
    /// Learns of the next interface.
    pub fn interface(&mut self, description: &InterfaceDescription) {
        let InterfaceDescription { link_type, filter, .. } = description;
        self.interfaces.push(Interface { link_type: *link_type, filter: filter.clone() });
    }

    /// From `since` on, in nanoseconds since the epoch, what goes to these addresses is seen where it comes in.
    pub fn captured(&mut self, interface: u32, addresses: impl IntoIterator<Item = IpAddr>, since: u64) {
        for address in addresses {
            let captured = Captured { interface, since, until: u64::MAX };
            self.addresses.entry(address).or_default().push(captured);
        }
    }

    /// From `until` on, that is over.
    pub fn left(&mut self, interface: u32, until: u64) {
        self.addresses.retain(|_, all| {
            all.iter_mut().filter(|it| it.interface == interface).for_each(|it| it.until = until);
            all.retain(|it| it.until.saturating_add(LEFT_NS) > until);
            !all.is_empty()
        });
    }

    /// Puts its id into the next block out of the ring, if there is room for one. Returns whether a copy of the packet has
    /// come before: where it was sent.
    pub fn mark(&mut self, head: PacketHead, block: &mut [u8]) -> bool {
        let Some(at) = head.packetid_at(block) else { return false };
        let (id, is_copy) = self.id_of(head, block);
        if let Some(value) = block.get_mut(at..).and_then(|rest| rest.first_chunk_mut()) {
            *value = id.to_ne_bytes();
        }
        is_copy
    }

    /// What was seen when nothing more comes.
    pub fn all_seen(mut self) -> Seen {
        self.expire(u64::MAX);
        self.seen
    }

    /// What was seen so far. Of packets that were on their way nothing is known.
    pub fn seen(&self) -> Seen {
        self.seen
    }

    fn id_of(&mut self, head: PacketHead, block: &[u8]) -> (u64, bool) {
        self.expire(head.timestamp_ns);
        let print = self.print_of(head, block);
        let is_sent = flags(head, block).map(|flags| flags & FLAGS_DIRECTION == Direction::Out as u32);
        match (print, is_sent) {
            (Some(print), Some(true)) => (self.remember(head, print), false),
            (Some(Print { hash, .. }), Some(false)) => match self.take(hash, head.interface) {
                Some(id) => (id, true),
                None => (self.new_id(), false),
            },
            _ => (self.new_id(), false),
        }
    }

    fn new_id(&mut self) -> u64 {
        let id = self.next_id;
        self.next_id = id.wrapping_add(1);
        id
    }

    fn print_of(&self, head: PacketHead, block: &[u8]) -> Option<Print> {
        // There is no other end.
        if self.interfaces.len() < 2 {
            return None;
        }
        let Interface { link_type, .. } = self.interfaces.get(head.interface as usize)?;
        let packet = block.get(DATA_OFFSET..)?.get(..head.captured_len as usize)?;
        print(packet, *link_type, &self.state)
    }

    /// Remembers a packet that a pod sends, with a new id.
    fn remember(&mut self, head: PacketHead, print: Print) -> u64 {
        if self.sent.len() >= MOST_SENT {
            let forgotten = self.forget_first().is_some_and(|sent| sent.is_awaited && !sent.has_come);
            self.seen.forgotten += u64::from(forgotten);
        }
        let (id, number) = (self.new_id(), self.first + self.sent.len() as u64);
        let Print { hash: fingerprint, is_for_many, .. } = print;
        let PacketHead { interface, timestamp_ns: time_ns, .. } = head;
        self.sent.push_back(Sent {
            fingerprint,
            id,
            time_ns,
            interface,
            is_awaited: self.is_awaited(head, print),
            is_for_many,
            has_come: false,
            at: Vec::new(),
            next: None,
        });
        match self.alike.entry(fingerprint) {
            Entry::Vacant(free) => {
                free.insert(Chain { oldest: number, newest: number });
            }
            Entry::Occupied(mut there) => {
                let chain = there.get_mut();
                self.sent[(chain.newest - self.first) as usize].next = Some(number);
                chain.newest = number;
            }
        }
        id
    }

    /// Whether a packet goes to another captured pod, where the same is captured as here.
    fn is_awaited(&self, head: PacketHead, print: Print) -> bool {
        let PacketHead { interface, timestamp_ns: time, .. } = head;
        let filter = |interface: u32| self.interfaces.get(interface as usize).map(|it| &it.filter);
        let is_there = |it: &Captured| {
            it.interface != interface
                && (it.since..it.until).contains(&time)
                && filter(it.interface) == filter(interface)
        };
        !print.is_for_many && self.addresses.get(&print.to).is_some_and(|all| all.iter().any(is_there))
    }

    /// The id of the packet that comes in, if it is one that is remembered.
    fn take(&mut self, fingerprint: u64, interface: u32) -> Option<u64> {
        let Self { sent, first, alike, seen, .. } = self;
        let Entry::Occupied(mut there) = alike.entry(fingerprint) else { return None };
        let mut number = Some(there.get().oldest);
        let mut id = None;
        for _ in 0..MOST_ALIKE {
            let Some(one) = number.and_then(|it| sent.get_mut((it - *first) as usize)) else { break };
            if one.may_come_to(interface) {
                seen.at_both += u64::from(!one.has_come);
                one.has_come = true;
                if one.is_for_many {
                    one.at.push(interface);
                }
                id = Some(one.id);
                break;
            }
            number = one.next;
        }
        // Those at the start that are done are not looked at again.
        let mut oldest = Some(there.get().oldest);
        while let Some(number) = oldest
            && let one = &sent[(number - *first) as usize]
            && one.is_done()
        {
            oldest = one.next;
        }
        match oldest {
            Some(number) => there.get_mut().oldest = number,
            None => {
                there.remove();
            }
        }
        id
    }

    /// Forgets those of which no copy is to come any more.
    fn expire(&mut self, now: u64) {
        while let Some(sent) = self.sent.front()
            && (sent.is_done() || now.saturating_sub(sent.time_ns) > WINDOW_NS)
        {
            let only_sent = self.forget_first().is_some_and(|sent| sent.is_awaited && !sent.has_come);
            self.seen.only_sent += u64::from(only_sent);
        }
    }

    fn forget_first(&mut self) -> Option<Sent> {
        let (sent, number) = (self.sent.pop_front()?, self.first);
        self.first += 1;
        if let Entry::Occupied(mut there) = self.alike.entry(sent.fingerprint)
            && there.get().oldest == number
        {
            match sent.next {
                Some(next) => there.get_mut().oldest = next,
                None => {
                    there.remove();
                }
            }
        }
        Some(sent)
    }
}

/// A block's `epb_flags`.
fn flags(head: PacketHead, block: &[u8]) -> Option<u32> {
    let value = block.get(epb::flags_at(head.captured_len)..)?.first_chunk()?;
    Some(u32::from_ne_bytes(*value))
}

/// What a captured packet is told by; none when it is no IP packet, or too little of it is there.
fn print(packet: &[u8], link_type: LinkType, state: &foldhash::quality::RandomState) -> Option<Print> {
    let ip = network_layer::of(packet, link_type)?;
    let mut header = [0; LONGEST_HEADER];
    let (header_len, len, protocol, to) = match ip.first()? >> 4 {
        4 => {
            let header_len = usize::from(ip[0] & 0xf) * 4;
            let len = usize::from(network_layer::u16_at(ip, 2)?);
            let own = header.get_mut(..header_len.max(20))?;
            own.copy_from_slice(ip.get(..header_len).filter(|it| it.len() >= 20)?);
            // Type of service, time to live and checksum.
            (own[1], own[8], own[10], own[11]) = (0, 0, 0, 0);
            let is_whole = u16::from_be_bytes([own[6], own[7]]) & FRAGMENT == 0;
            let to: [u8; 4] = own[16..].first_chunk().copied()?;
            (header_len, len, is_whole.then_some(own[9]), IpAddr::from(to))
        }
        6 => {
            let own = header.first_chunk_mut::<40>()?;
            own.copy_from_slice(ip.get(..40)?);
            // Traffic class and hop limit.
            own[0] &= 0xf0;
            own[1] &= 0x0f;
            own[7] = 0;
            let payload = usize::from(u16::from_be_bytes([own[4], own[5]]));
            let len = if payload == 0 { 0 } else { 40 + payload };
            let to: [u8; 16] = own[24..].first_chunk().copied()?;
            (40, len, Some(own[6]), IpAddr::from(to))
        }
        _ => return None,
    };
    // Super-packets that are too long for the field leave it at 0. What is behind the packet is padding of its link.
    let len = if len == 0 { ip.len() } else { len };
    let there = &ip[..len.min(ip.len())];
    if len < header_len || there.len() < len.min(header_len + TRANSPORT) {
        return None;
    }
    let payload = &there[header_len..];
    let mut hasher = state.build_hasher();
    hasher.write(&header[..header_len]);
    let checksum = protocol.filter(|_| there.len() == len).and_then(checksum);
    match checksum.and_then(|(at, len)| Some((payload.get(..at)?, payload.get(at + len..)?))) {
        Some((before, behind)) => {
            hasher.write(before);
            hasher.write(behind);
        }
        None => hasher.write(payload),
    }
    let is_for_many = match to {
        IpAddr::V4(to) => to.is_multicast() || to == Ipv4Addr::BROADCAST,
        IpAddr::V6(to) => to.is_multicast(),
    };
    // As the first bit of an Ethernet address says.
    let is_group = link_type == LinkType::Ethernet && packet[0] & 1 == 1;
    Some(Print { hash: hasher.finish(), to, is_for_many: is_for_many || is_group })
}

/// Where a transport header has a checksum that may be filled in later, and its length, in bytes.
fn checksum(protocol: u8) -> Option<(usize, usize)> {
    match protocol {
        6 => Some((16, 2)),
        17 => Some((6, 2)),
        // SCTP.
        132 => Some((8, 4)),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
