//! ICMP (RFC 792, RFC 1122, RFC 1812) and ICMPv6 (RFC 4443, RFC 4861, RFC 3810).

use std::{
    fmt,
    io::{self, Write},
    net::{Ipv4Addr, Ipv6Addr},
};

use etherparse::{
    Icmpv4Slice, Icmpv4Type, Icmpv6Slice, Icmpv6Type,
    icmpv4::{DestUnreachableHeader as Why, ParameterProblemHeader, RedirectCode, TimeExceededCode},
    icmpv6::{DestUnreachableCode, ParameterProblemCode, TimeExceededCode as TimeExceededCodeV6},
    ip_number,
};

use super::ip;

/// Writes the ICMP message at the start of `bytes`, of which `len` were in the kernel.
pub(super) fn write_v4(out: &mut impl Write, bytes: &[u8], len: usize) -> io::Result<()> {
    let Ok(icmp) = Icmpv4Slice::from_slice(bytes) else {
        return write!(out, "[|icmp], length {len}");
    };
    let quoted = Quoted::read(icmp.payload());
    write!(out, "ICMP ")?;
    match icmp.icmp_type() {
        Icmpv4Type::EchoRequest(echo) => {
            write!(out, "echo request, id {}, seq {}", echo.id, echo.seq)?;
        }
        Icmpv4Type::EchoReply(echo) => {
            write!(out, "echo reply, id {}, seq {}", echo.id, echo.seq)?;
        }
        Icmpv4Type::DestinationUnreachable(why) => {
            let to = quoted.to();
            match why {
                Why::Network => write!(out, "net {to} unreachable")?,
                Why::Host => write!(out, "host {to} unreachable")?,
                Why::Protocol => write!(out, "{to} protocol {} unreachable", quoted.protocol())?,
                Why::Port => write!(out, "{quoted} unreachable")?,
                Why::FragmentationNeeded { next_hop_mtu } => {
                    write!(out, "{quoted} unreachable - need to frag (mtu {next_hop_mtu})")?;
                }
                Why::SourceRouteFailed => write!(out, "{to} unreachable - source route failed")?,
                Why::NetworkUnknown => write!(out, "net {to} unreachable - unknown")?,
                Why::HostUnknown => write!(out, "host {to} unreachable - unknown")?,
                Why::Isolated => write!(out, "{to} unreachable - source host isolated")?,
                Why::NetworkProhibited => write!(out, "net {to} unreachable - admin prohibited")?,
                Why::HostProhibited => write!(out, "host {to} unreachable - admin prohibited")?,
                Why::TosNetwork => write!(out, "net {to} unreachable - tos prohibited")?,
                Why::TosHost => write!(out, "host {to} unreachable - tos prohibited")?,
                Why::FilterProhibited => write!(out, "host {to} unreachable - admin prohibited filter")?,
                Why::HostPrecedenceViolation => {
                    write!(out, "host {to} unreachable - host precedence violation")?;
                }
                Why::PrecedenceCutoff => write!(out, "host {to} unreachable - precedence cutoff")?,
            }
        }
        Icmpv4Type::Redirect(redirect) => {
            let (kind, of) = match redirect.code {
                RedirectCode::RedirectForNetwork => ("redirect", "net"),
                RedirectCode::RedirectForHost => ("redirect", "host"),
                RedirectCode::RedirectForTypeOfServiceAndNetwork => ("redirect-tos", "net"),
                RedirectCode::RedirectForTypeOfServiceAndHost => ("redirect-tos", "host"),
            };
            let gateway = Ipv4Addr::from(redirect.gateway_internet_address);
            write!(out, "{kind} {} to {of} {gateway}", quoted.to())?;
        }
        Icmpv4Type::TimeExceeded(TimeExceededCode::TtlExceededInTransit) => {
            write!(out, "time exceeded in-transit")?;
        }
        Icmpv4Type::TimeExceeded(TimeExceededCode::FragmentReassemblyTimeExceeded) => {
            write!(out, "ip reassembly time exceeded")?;
        }
        Icmpv4Type::ParameterProblem(why) => match why {
            ParameterProblemHeader::PointerIndicatesError(octet) => {
                write!(out, "parameter problem - octet {octet}")?;
            }
            ParameterProblemHeader::MissingRequiredOption => {
                write!(out, "parameter problem - required option missing")?;
            }
            ParameterProblemHeader::BadLength => write!(out, "parameter problem - bad length")?,
        },
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
    let quoted = Quoted::read(icmp.payload());
    write!(out, "ICMP6, ")?;
    match icmp.icmp_type() {
        Icmpv6Type::EchoRequest(echo) => {
            write!(out, "echo request, id {}, seq {}", echo.id, echo.seq)?;
        }
        Icmpv6Type::EchoReply(echo) => {
            write!(out, "echo reply, id {}, seq {}", echo.id, echo.seq)?;
        }
        Icmpv6Type::DestinationUnreachable(DestUnreachableCode::Port) => {
            write!(out, "destination unreachable, unreachable port, {quoted}")?;
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
            let to = quoted.to();
            write!(out, "destination unreachable, unreachable {why}, {to}")?;
        }
        Icmpv6Type::PacketTooBig { mtu } => write!(out, "packet too big, mtu {mtu}")?,
        Icmpv6Type::TimeExceeded(TimeExceededCodeV6::HopLimitExceeded) => {
            write!(out, "time exceeded in-transit")?;
        }
        Icmpv6Type::TimeExceeded(TimeExceededCodeV6::FragmentReassemblyTimeExceeded) => {
            write!(out, "ip reassembly time exceeded")?;
        }
        Icmpv6Type::ParameterProblem(problem) => {
            let octet = problem.pointer;
            match problem.code {
                ParameterProblemCode::ErroneousHeaderField => {
                    write!(out, "parameter problem, erroneous header - octet {octet}")?;
                }
                ParameterProblemCode::UnrecognizedNextHeader => {
                    write!(out, "parameter problem, next header - octet {octet}")?;
                }
                ParameterProblemCode::UnrecognizedIpv6Option => {
                    write!(out, "parameter problem, option - octet {octet}")?;
                }
                code => write!(out, "parameter problem, code {} - octet {octet}", code as u8)?,
            }
        }
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

/// The packet that an error message quotes. It shows as where that went, and to which port.
struct Quoted<'a>(Result<ip::Packet<'a>, ip::Unreadable>);

impl<'a> Quoted<'a> {
    fn read(bytes: &'a [u8]) -> Self {
        // The quote may be cut off, so its length tells nothing; nor does it matter here.
        Self(ip::Packet::of_any_version(bytes, bytes.len()))
    }

    /// The address, for errors that are not a port's.
    fn to(&self) -> String {
        self.0.as_ref().map_or_else(|_| "[|ip]".to_owned(), |packet| packet.destination.to_string())
    }

    /// What the packet carried.
    fn protocol(&self) -> String {
        self.0.as_ref().map_or_else(|_| "[|ip]".to_owned(), |packet| packet.protocol.0.to_string())
    }
}

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.to())?;
        let Ok(packet) = &self.0 else { return Ok(()) };
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
