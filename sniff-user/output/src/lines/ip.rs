//! IPv4 and IPv6: addresses, lengths and fragments.

use std::{
    fmt,
    io::{self, Write},
    net::IpAddr,
};

use etherparse::{
    IpNumber, Ipv4HeaderSlice, Ipv6FragmentHeaderSlice, Ipv6HeaderSlice, Ipv6RawExtHeaderSlice, err,
    ip_number,
};

use super::{icmp, transport};

/// Length of an IPv6 header, in bytes.
const IPV6_HEADER: usize = 40;
/// Least payload of an Ethernet frame, in bytes. A shorter packet is followed by padding.
const LEAST_PAYLOAD: usize = 46;
/// Most bytes that a length field of IP can tell of.
const MAX_CLAIM: usize = 65_535;

/// A packet of either version.
pub(super) struct Packet<'a> {
    version: &'static str,
    source: IpAddr,
    pub(super) destination: IpAddr,
    /// What the payload begins with.
    pub(super) protocol: IpNumber,
    /// What was captured behind all headers of IP.
    payload: &'a [u8],
    /// Length of that in the kernel, in bytes.
    payload_len: usize,
    fragment: Option<Fragment>,
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
        let packet = Self {
            version: "IP",
            source: header.source_addr().into(),
            destination: header.destination_addr().into(),
            protocol: header.protocol(),
            payload: bytes,
            payload_len: len,
            fragment,
        };
        Ok(packet.behind(header.slice().len()))
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
            version: "IP6",
            source: header.source_addr().into(),
            destination: header.destination_addr().into(),
            protocol: header.next_header(),
            payload: bytes,
            payload_len: packet_len(claimed, IPV6_HEADER, on_wire),
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

    fn write(&self, out: &mut impl Write) -> io::Result<()> {
        let Self { version, source, destination, .. } = self;
        match self.ports() {
            Some((from, to)) => write!(out, "{version} {source}.{from} > {destination}.{to}: ")?,
            None => write!(out, "{version} {source} > {destination}: ")?,
        }
        if let Some(Fragment { id, offset, more }) = &self.fragment {
            let more = if *more { "+" } else { "" };
            write_protocol(out, self.protocol)?;
            return write!(out, ", frag {id}:{}@{offset}{more}", self.payload_len);
        }
        self.write_payload(out)
    }

    fn write_payload(&self, out: &mut impl Write) -> io::Result<()> {
        let (payload, len) = (self.payload, self.payload_len);
        match self.protocol {
            ip_number::TCP => transport::write_tcp(out, payload, len),
            ip_number::UDP => transport::write_udp(out, payload, len),
            ip_number::ICMP => icmp::write_v4(out, payload, len),
            ip_number::IPV6_ICMP => icmp::write_v6(out, payload, len),
            other => {
                write_protocol(out, other)?;
                write!(out, ", length {len}")
            }
        }
    }
}

/// Writes a packet, or why it cannot be read.
pub(super) fn write(
    out: &mut impl Write,
    packet: Result<Packet<'_>, Unreadable>,
    on_wire: usize,
) -> io::Result<()> {
    match packet {
        Ok(packet) => packet.write(out),
        Err(why) => write!(out, "{why}, length {on_wire}"),
    }
}

fn write_protocol(out: &mut impl Write, protocol: IpNumber) -> io::Result<()> {
    match protocol.keyword_str() {
        // As tcpdump calls it, and as it is called where it is parsed.
        _ if protocol == ip_number::IPV6_ICMP => write!(out, "ICMP6"),
        Some(keyword) => write!(out, "{keyword}"),
        None => write!(out, "ip-proto-{}", protocol.0),
    }
}

/// Length of a packet: as its header says, since Ethernet's padding or a device's trailer may stand behind it; but that of
/// the frame where the header cannot say, as in large super-packets, or says what makes no sense.
fn packet_len(claimed: usize, header_len: usize, on_wire: usize) -> usize {
    if on_wire <= MAX_CLAIM && claimed >= header_len { claimed.min(on_wire) } else { on_wire }
}
