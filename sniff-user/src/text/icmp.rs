//! ICMP (RFC 792) and ICMPv6 (RFC 4443, RFC 4861, RFC 3810).

use std::{
    fmt,
    io::{self, Write},
    net::{Ipv4Addr, Ipv6Addr},
};

use etherparse::{
    Icmpv4Slice, Icmpv4Type, Icmpv6Slice, Icmpv6Type,
    icmpv4::{DestUnreachableHeader, TimeExceededCode},
    icmpv6::{DestUnreachableCode, TimeExceededCode as TimeExceededCodeV6},
    ip_number,
};

use super::ip;

/// Writes the ICMP message at the start of `bytes`, of which `len` were in the kernel.
pub(super) fn write_v4(out: &mut impl Write, bytes: &[u8], len: usize) -> io::Result<()> {
    let Ok(icmp) = Icmpv4Slice::from_slice(bytes) else {
        return write!(out, "[|icmp], length {len}");
    };
    let quoted = Quoted(icmp.payload());
    write!(out, "ICMP ")?;
    match icmp.icmp_type() {
        Icmpv4Type::EchoRequest(echo) => {
            write!(out, "echo request, id {}, seq {}", echo.id, echo.seq)?;
        }
        Icmpv4Type::EchoReply(echo) => {
            write!(out, "echo reply, id {}, seq {}", echo.id, echo.seq)?;
        }
        Icmpv4Type::DestinationUnreachable(why) => match why {
            DestUnreachableHeader::Network => write!(out, "net {quoted} unreachable")?,
            DestUnreachableHeader::Host => write!(out, "host {quoted} unreachable")?,
            DestUnreachableHeader::FragmentationNeeded { next_hop_mtu } => {
                write!(out, "{quoted} unreachable - need to frag (mtu {next_hop_mtu})")?;
            }
            DestUnreachableHeader::NetworkProhibited => {
                write!(out, "net {quoted} unreachable - admin prohibited")?;
            }
            DestUnreachableHeader::HostProhibited => {
                write!(out, "host {quoted} unreachable - admin prohibited")?;
            }
            DestUnreachableHeader::FilterProhibited => {
                write!(out, "host {quoted} unreachable - admin prohibited filter")?;
            }
            DestUnreachableHeader::Port => write!(out, "{quoted} unreachable")?,
            other => write!(out, "{quoted} unreachable, code {}", other.code_u8())?,
        },
        Icmpv4Type::Redirect(redirect) => {
            let gateway = Ipv4Addr::from(redirect.gateway_internet_address);
            write!(out, "redirect {quoted} to {gateway}")?;
        }
        Icmpv4Type::TimeExceeded(TimeExceededCode::TtlExceededInTransit) => {
            write!(out, "time exceeded in-transit")?;
        }
        Icmpv4Type::TimeExceeded(TimeExceededCode::FragmentReassemblyTimeExceeded) => {
            write!(out, "ip reassembly time exceeded")?;
        }
        Icmpv4Type::ParameterProblem(_) => write!(out, "parameter problem")?,
        Icmpv4Type::TimestampRequest(stamp) => {
            write!(out, "time stamp query id {} seq {}", stamp.id, stamp.seq)?;
        }
        Icmpv4Type::TimestampReply(stamp) => {
            write!(out, "time stamp reply id {} seq {}", stamp.id, stamp.seq)?;
        }
        Icmpv4Type::Unknown { type_u8, code_u8, .. } => {
            write!(out, "type {type_u8}, code {code_u8}")?;
        }
    }
    write!(out, ", length {len}")
}

/// Writes the ICMPv6 message at the start of `bytes`, of which `len` were in the kernel.
pub(super) fn write_v6(out: &mut impl Write, bytes: &[u8], len: usize) -> io::Result<()> {
    let Ok(icmp) = Icmpv6Slice::from_slice(bytes) else {
        return write!(out, "[|icmp6], length {len}");
    };
    let quoted = Quoted(icmp.payload());
    write!(out, "ICMP6, ")?;
    match icmp.icmp_type() {
        Icmpv6Type::EchoRequest(echo) => {
            write!(out, "echo request, id {}, seq {}", echo.id, echo.seq)?;
        }
        Icmpv6Type::EchoReply(echo) => {
            write!(out, "echo reply, id {}, seq {}", echo.id, echo.seq)?;
        }
        Icmpv6Type::DestinationUnreachable(why) => {
            let why = match why {
                DestUnreachableCode::NoRoute => "route",
                DestUnreachableCode::Prohibited => "prohibited",
                DestUnreachableCode::BeyondScope => "beyond scope",
                DestUnreachableCode::Address => "address",
                DestUnreachableCode::Port => "port",
                DestUnreachableCode::SourceAddressFailedPolicy => "source address failed policy",
                DestUnreachableCode::RejectRoute => "reject route",
            };
            write!(out, "destination unreachable, unreachable {why}, {quoted}")?;
        }
        Icmpv6Type::PacketTooBig { mtu } => write!(out, "packet too big, mtu {mtu}")?,
        Icmpv6Type::TimeExceeded(TimeExceededCodeV6::HopLimitExceeded) => {
            write!(out, "time exceeded in-transit")?;
        }
        Icmpv6Type::TimeExceeded(TimeExceededCodeV6::FragmentReassemblyTimeExceeded) => {
            write!(out, "ip reassembly time exceeded")?;
        }
        Icmpv6Type::ParameterProblem(_) => write!(out, "parameter problem")?,
        Icmpv6Type::RouterSolicitation => write!(out, "router solicitation")?,
        Icmpv6Type::RouterAdvertisement(_) => write!(out, "router advertisement")?,
        Icmpv6Type::NeighborSolicitation => {
            write!(out, "neighbor solicitation, who has {}", Target(icmp.payload()))?;
        }
        Icmpv6Type::NeighborAdvertisement(_) => {
            write!(out, "neighbor advertisement, tgt is {}", Target(icmp.payload()))?;
        }
        Icmpv6Type::Redirect => write!(out, "redirect")?,
        Icmpv6Type::Unknown { type_u8, code_u8, .. } => match type_u8 {
            130 => write!(out, "multicast listener query")?,
            131 => write!(out, "multicast listener report")?,
            132 => write!(out, "multicast listener done")?,
            143 => write!(out, "multicast listener report v2")?,
            _ => write!(out, "type {type_u8}, code {code_u8}")?,
        },
    }
    write!(out, ", length {len}")
}

/// The packet that an error message quotes: where it went, and to which port.
struct Quoted<'a>(&'a [u8]);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The quote may be cut off, so its length tells nothing; nor does it matter here.
        let Ok(packet) = ip::Packet::of_any_version(self.0, self.0.len()) else {
            return write!(f, "[|ip]");
        };
        write!(f, "{}", packet.destination)?;
        match (packet.protocol, packet.ports()) {
            (ip_number::TCP, Some((_, port))) => write!(f, " tcp port {port}"),
            (ip_number::UDP, Some((_, port))) => write!(f, " udp port {port}"),
            _ => Ok(()),
        }
    }
}

/// The address that a neighbour message is about, which begins its payload.
struct Target<'a>(&'a [u8]);

impl fmt::Display for Target<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.first_chunk::<16>() {
            Some(octets) => write!(f, "{}", Ipv6Addr::from(*octets)),
            None => write!(f, "[|icmp6]"),
        }
    }
}
