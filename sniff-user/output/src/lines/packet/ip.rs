//! IPv4 and IPv6: addresses, lengths and fragments.

use std::{fmt, net::IpAddr};

use etherparse::{
    IpNumber, Ipv4HeaderSlice, Ipv6FragmentHeaderSlice, Ipv6HeaderSlice, Ipv6RawExtHeaderSlice, err,
    ip_number,
};

use super::{Context, checksum, control, icmp, sctp, tcp, tunnel, udp};
use crate::lines::out::{Hex, Out, Shown, Value};

/// Length of an IPv6 header, in bytes.
const IPV6_HEADER: usize = 40;
/// Where an IPv4 header has its checksum.
const CHECKSUM: usize = 10;
/// Least payload of an Ethernet frame, in bytes. A shorter packet is followed by padding.
const LEAST_PAYLOAD: usize = 46;
/// Most bytes that a length field of IP can tell of.
const MAX_CLAIM: usize = 65_535;

/// A packet of either version.
pub(super) struct Packet<'a> {
    pub(super) source: IpAddr,
    pub(super) destination: IpAddr,
    /// What the payload begins with.
    pub(super) protocol: IpNumber,
    /// What was captured behind all headers of IP.
    pub(super) payload: &'a [u8],
    /// Length of that in the kernel, in bytes.
    pub(super) payload_len: usize,
    header: Header<'a>,
    fragment: Option<Fragment>,
}

enum Header<'a> {
    V4(Ipv4HeaderSlice<'a>),
    V6(Ipv6HeaderSlice<'a>),
}

/// Where a fragment belongs.
struct Fragment {
    id: u32,
    /// In bytes.
    offset: usize,
    more: bool,
}

/// Why a packet cannot be read.
#[derive(Clone, Copy)]
pub(super) enum Unreadable {
    /// Too little of it was captured.
    CutOff(Version),
    /// Its header makes no sense.
    BadHeader(Version),
}

/// What kind of packet is meant.
#[derive(Clone, Copy)]
pub(super) enum Version {
    V4,
    V6,
    Unknown,
}

/// With the name of the protocol, as in lines of packets that can be read.
impl fmt::Display for Unreadable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::CutOff(Version::V4 | Version::Unknown) => "IP, [|ip]",
            Self::CutOff(Version::V6) => "IP6, [|ip6]",
            Self::BadHeader(Version::V4 | Version::Unknown) => "IP, bad header",
            Self::BadHeader(Version::V6) => "IP6, bad header",
        })
    }
}

impl<'a> Packet<'a> {
    /// The packet at the start of `bytes`, of which `on_wire` bytes (padding included) were in the kernel.
    pub(super) fn of_any_version(bytes: &'a [u8], on_wire: usize) -> Result<Self, Unreadable> {
        match bytes.first().map(|byte| byte >> 4) {
            Some(4) => Self::v4(bytes, on_wire),
            Some(6) => Self::v6(bytes, on_wire),
            Some(_) => Err(Unreadable::BadHeader(Version::Unknown)),
            None => Err(Unreadable::CutOff(Version::Unknown)),
        }
    }

    /// Likewise, for IPv4.
    pub(super) fn v4(bytes: &'a [u8], on_wire: usize) -> Result<Self, Unreadable> {
        let header = Ipv4HeaderSlice::from_slice(bytes).map_err(|error| match error {
            err::ipv4::HeaderSliceError::Len(_) => Unreadable::CutOff(Version::V4),
            err::ipv4::HeaderSliceError::Content(_) => Unreadable::BadHeader(Version::V4),
        })?;
        let len = packet_len(header.total_len().into(), header.slice().len(), on_wire);
        let fragment = header.is_fragmenting_payload().then(|| Fragment {
            id: header.identification().into(),
            offset: usize::from(header.fragments_offset().value()) * 8,
            more: header.more_fragments(),
        });
        let header_len = header.slice().len();
        let packet = Self {
            source: header.source_addr().into(),
            destination: header.destination_addr().into(),
            protocol: header.protocol(),
            payload: bytes,
            payload_len: len,
            header: Header::V4(header),
            fragment,
        };
        Ok(packet.behind(header_len))
    }

    /// Likewise, for IPv6.
    pub(super) fn v6(bytes: &'a [u8], on_wire: usize) -> Result<Self, Unreadable> {
        let header = Ipv6HeaderSlice::from_slice(bytes).map_err(|error| match error {
            err::ipv6::HeaderSliceError::Len(_) => Unreadable::CutOff(Version::V6),
            err::ipv6::HeaderSliceError::Content(_) => Unreadable::BadHeader(Version::V6),
        })?;
        // 0 may be a packet that is too long for the field.
        let claimed = match usize::from(header.payload_length()) {
            0 if on_wire > LEAST_PAYLOAD => 0,
            payload => IPV6_HEADER + payload,
        };
        let packet = Self {
            source: header.source_addr().into(),
            destination: header.destination_addr().into(),
            protocol: header.next_header(),
            payload: bytes,
            payload_len: packet_len(claimed, IPV6_HEADER, on_wire),
            header: Header::V6(header),
            fragment: None,
        };
        Ok(packet.behind(IPV6_HEADER).behind_extensions())
    }

    /// Source and destination port, of protocols that begin with them, at the packet's beginning.
    pub(super) fn ports(&self) -> Option<(u16, u16)> {
        let has_ports = matches!(self.protocol, ip_number::TCP | ip_number::UDP | ip_number::SCTP);
        if !has_ports || self.fragment.as_ref().is_some_and(|at| at.offset != 0) {
            return None;
        }
        let [s0, s1, d0, d1] = *self.payload.first_chunk()?;
        Some((u16::from_be_bytes([s0, s1]), u16::from_be_bytes([d0, d1])))
    }

    /// Takes a header off the payload, and padding off its end.
    fn behind(mut self, header_len: usize) -> Self {
        self.payload_len = self.payload_len.saturating_sub(header_len);
        self.payload = &self.payload[header_len..];
        self.payload = &self.payload[..self.payload.len().min(self.payload_len)];
        self
    }

    /// Takes IPv6 extension headers off the payload (RFC 8200, section 4), as far as they can be read.
    fn behind_extensions(mut self) -> Self {
        loop {
            let (next, header_len) = match self.protocol {
                ip_number::IPV6_HOP_BY_HOP | ip_number::IPV6_ROUTE | ip_number::IPV6_DEST_OPTIONS => {
                    let Ok(header) = Ipv6RawExtHeaderSlice::from_slice(self.payload) else {
                        return self;
                    };
                    (header.next_header(), header.slice().len())
                }
                ip_number::IPV6_FRAG => {
                    let Ok(header) = Ipv6FragmentHeaderSlice::from_slice(self.payload) else {
                        return self;
                    };
                    self.fragment = header.is_fragmenting_payload().then(|| Fragment {
                        id: header.identification(),
                        offset: usize::from(header.fragment_offset().value()) * 8,
                        more: header.more_fragments(),
                    });
                    (header.next_header(), header.slice().len())
                }
                _ => return self,
            };
            self.protocol = next;
            self = self.behind(header_len);
            if self.fragment.is_some() {
                return self;
            }
        }
    }

    fn describe(&self, out: &mut impl Out, context: &mut Context<'_>) {
        let ports = self.ports();
        out.open("ip");
        let version = match self.header {
            Header::V4(_) => "IP",
            Header::V6(_) => "IP6",
        };
        // tcpdump leaves it out behind the type of the frame.
        let is_named = !context.style.link_header || context.depth > 0;
        if is_named {
            out.words(version);
            out.words(" ");
        }
        if out.is_verbose() {
            match &self.header {
                Header::V4(header) => describe_v4(out, header),
                Header::V6(header) => describe_v6(out, header),
            }
        }
        context.address(out, "src", "src_name", self.source);
        if let Some((from, _)) = ports {
            out.words(".");
            out.aside(from);
        }
        out.words(" > ");
        context.address(out, "dst", "dst_name", self.destination);
        if let Some((_, to)) = ports {
            out.words(".");
            out.aside(to);
        }
        out.words(": ");
        out.detail("protocol", Protocol(self.protocol));
        if let Some(Fragment { id, offset, more }) = &self.fragment {
            out.open("fragment");
            out.field("protocol", Protocol(self.protocol));
            out.say(", frag ", "id", *id);
            out.say(":", "length", self.payload_len);
            out.say("@", "offset", *offset);
            out.words(if *more { "+" } else { "" });
            out.detail("more", *more);
            out.close();
            return out.close();
        }
        out.close();
        self.describe_payload(out, context);
    }

    fn describe_payload(&self, out: &mut impl Out, context: &mut Context<'_>) {
        let (payload, len) = (self.payload, self.payload_len);
        match self.protocol {
            ip_number::TCP => tcp::describe(out, context, self),
            ip_number::UDP => udp::describe(out, context, self),
            ip_number::ICMP => icmp::describe_v4(out, payload, len),
            ip_number::IPV6_ICMP => icmp::describe_v6(out, self),
            ip_number::IGMP => control::igmp(out, payload, len),
            ip_number::SCTP => sctp::describe(out, payload, len),
            ip_number::GRE => tunnel::gre(out, context, payload, len),
            ip_number::IPV4 | ip_number::IPV6 => tunnel::ip(out, context, self.protocol, payload, len),
            ip_number::ENCAP_SEC => control::esp(out, payload, len),
            ip_number::AUTH => control::ah(out, payload, len),
            ip_number::VRRP => control::vrrp(out, self),
            other => {
                out.open("payload");
                out.field("protocol", Protocol(other));
                out.say(", length ", "length", len);
                out.close();
            }
        }
    }

    /// The addresses, as checksums cover them.
    pub(super) fn ends(&self) -> (IpAddr, IpAddr) {
        (self.source, self.destination)
    }

    /// How many more hops it may take.
    pub(super) fn hops(&self) -> u8 {
        match &self.header {
            Header::V4(header) => header.ttl(),
            Header::V6(header) => header.hop_limit(),
        }
    }
}

/// Tells all that an IPv4 header says but addresses.
fn describe_v4(out: &mut impl Out, header: &Ipv4HeaderSlice<'_>) {
    out.detail("version", 4_u8);
    let tos = header.dcp().value() << 2 | header.ecn().value();
    out.say("(tos ", "tos", Hex::<1>(tos.into()));
    out.say(", ttl ", "ttl", header.ttl());
    out.say(", id ", "id", header.identification());
    out.say(", offset ", "offset", usize::from(header.fragments_offset().value()) * 8);
    let flags = match (header.dont_fragment(), header.more_fragments()) {
        (true, true) => "+, DF",
        (true, false) => "DF",
        (false, true) => "+",
        (false, false) => "none",
    };
    out.say(", flags [", "flags", flags);
    out.say("], proto ", "protocol", Protocol(header.protocol()));
    out.say(" (", "proto", header.protocol().0);
    out.say("), length ", "length", header.total_len());
    let bytes = header.slice();
    if out.verifies()
        && let checksum::Verdict::Incorrect(expected) = checksum::judge_plain(bytes, bytes.len(), CHECKSUM)
    {
        out.say(", bad cksum ", "checksum", Hex::<4>(header.header_checksum().into()));
        out.say(" (-> ", "checksum_expected", Hex::<4>(expected.into()));
        out.words(")");
    }
    out.words(")\n    ");
}

/// Likewise, for IPv6.
fn describe_v6(out: &mut impl Out, header: &Ipv6HeaderSlice<'_>) {
    out.detail("version", 6_u8);
    out.words("(");
    if header.traffic_class() != 0 {
        out.say("class ", "class", Hex::<2>(header.traffic_class().into()));
        out.words(", ");
    }
    if header.flow_label().value() != 0 {
        out.say("flowlabel ", "flowlabel", Hex::<5>(header.flow_label().value().into()));
        out.words(", ");
    }
    out.say("hlim ", "hlim", header.hop_limit());
    out.say(", next-header ", "next_protocol", Protocol(header.next_header()));
    out.say(" (", "next_header", header.next_header().0);
    out.say(") payload length: ", "payload_length", header.payload_length());
    out.words(") ");
}

/// Describes a packet, or why it cannot be read.
pub(super) fn describe(
    out: &mut impl Out,
    context: &mut Context<'_>,
    packet: Result<Packet<'_>, Unreadable>,
    on_wire: usize,
) {
    match packet {
        Ok(packet) => packet.describe(out, context),
        Err(why) => {
            out.field("unreadable", Shown(why));
            out.say(", length ", "length", on_wire);
        }
    }
}

/// The name of a protocol.
struct Protocol(IpNumber);

impl Protocol {
    /// As tcpdump calls it, and as it is called where it is looked into; of those without a name, what stands in front
    /// of the number.
    fn keyword(&self) -> &'static str {
        match self.0 {
            ip_number::IPV6_ICMP => "ICMP6",
            other => other.keyword_str().unwrap_or("ip-proto-"),
        }
    }
}

impl Value for Protocol {
    fn text(&self, to: &mut Vec<u8>) {
        self.keyword().text(to);
        if self.0.keyword_str().is_none() {
            self.0.0.text(to);
        }
    }
}

/// Length of a packet: as its header says, since Ethernet's padding or a device's trailer may stand behind it; but that of
/// the frame where the header cannot say, as in large super-packets, or says what makes no sense.
fn packet_len(claimed: usize, header_len: usize, on_wire: usize) -> usize {
    if on_wire <= MAX_CLAIM && claimed >= header_len { claimed.min(on_wire) } else { on_wire }
}
