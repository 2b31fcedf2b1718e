//! ICMP (RFC 792, RFC 1122, RFC 1812) and ICMPv6 (RFC 4443, RFC 4861, RFC 3810).

use std::{
    fmt,
    net::{Ipv4Addr, Ipv6Addr},
};

use etherparse::{
    Icmpv4Slice, Icmpv4Type, Icmpv6Slice, Icmpv6Type,
    icmpv4::{DestUnreachableHeader as Why, ParameterProblemHeader, RedirectCode, TimeExceededCode},
    icmpv6::{DestUnreachableCode, ParameterProblemCode, TimeExceededCode as TimeExceededCodeV6},
    ip_number,
};

use super::{checksum, ip, u16_at};
use crate::lines::out::{Hex, Out, Shown};

/// Where a message has its checksum.
const CHECKSUM: usize = 2;

/// Describes the ICMP message at the start of `bytes`, of which `len` were in the kernel.
pub(super) fn describe_v4(out: &mut impl Out, bytes: &[u8], len: usize) {
    let Ok(icmp) = Icmpv4Slice::from_slice(bytes) else {
        out.cut_off("icmp");
        return out.say(", length ", "length", len);
    };
    let quoted = Quoted::read(icmp.payload());
    out.open("icmp");
    out.words("ICMP ");
    out.detail("type", icmp.type_u8());
    out.detail("code", icmp.code_u8());
    match icmp.icmp_type() {
        Icmpv4Type::EchoRequest(echo) => {
            echo_message(out, "echo request", echo.id, echo.seq);
        }
        Icmpv4Type::EchoReply(echo) => {
            echo_message(out, "echo reply", echo.id, echo.seq);
        }
        Icmpv4Type::DestinationUnreachable(why) => {
            let to = quoted.to();
            let told = match why {
                Why::Network => format!("net {to} unreachable"),
                Why::Host => format!("host {to} unreachable"),
                Why::Protocol => {
                    format!("{to} protocol {} unreachable", quoted.protocol())
                }
                Why::Port => format!("{quoted} unreachable"),
                Why::FragmentationNeeded { next_hop_mtu } => {
                    format!("{quoted} unreachable - need to frag (mtu {next_hop_mtu})")
                }
                Why::SourceRouteFailed => {
                    format!("{to} unreachable - source route failed")
                }
                Why::NetworkUnknown => format!("net {to} unreachable - unknown"),
                Why::HostUnknown => format!("host {to} unreachable - unknown"),
                Why::Isolated => format!("{to} unreachable - source host isolated"),
                Why::NetworkProhibited => {
                    format!("net {to} unreachable - admin prohibited")
                }
                Why::HostProhibited => format!("host {to} unreachable - admin prohibited"),
                Why::TosNetwork => format!("net {to} unreachable - tos prohibited"),
                Why::TosHost => format!("host {to} unreachable - tos prohibited"),
                Why::FilterProhibited => {
                    format!("host {to} unreachable - admin prohibited filter")
                }
                Why::HostPrecedenceViolation => {
                    format!("host {to} unreachable - host precedence violation")
                }
                Why::PrecedenceCutoff => {
                    format!("host {to} unreachable - precedence cutoff")
                }
            };
            message(out, format_args!("{told}"));
        }
        Icmpv4Type::Redirect(redirect) => {
            let (kind, of) = match redirect.code {
                RedirectCode::RedirectForNetwork => ("redirect", "net"),
                RedirectCode::RedirectForHost => ("redirect", "host"),
                RedirectCode::RedirectForTypeOfServiceAndNetwork => ("redirect-tos", "net"),
                RedirectCode::RedirectForTypeOfServiceAndHost => ("redirect-tos", "host"),
            };
            let gateway = Ipv4Addr::from(redirect.gateway_internet_address);
            message(out, format_args!("{kind} {} to {of} {gateway}", quoted.to()));
        }
        Icmpv4Type::TimeExceeded(TimeExceededCode::TtlExceededInTransit) => {
            message(out, format_args!("time exceeded in-transit"));
        }
        Icmpv4Type::TimeExceeded(TimeExceededCode::FragmentReassemblyTimeExceeded) => {
            message(out, format_args!("ip reassembly time exceeded"));
        }
        Icmpv4Type::ParameterProblem(why) => match why {
            ParameterProblemHeader::PointerIndicatesError(octet) => {
                message(out, format_args!("parameter problem - octet {octet}"));
            }
            ParameterProblemHeader::MissingRequiredOption => {
                message(out, format_args!("parameter problem - required option missing"));
            }
            ParameterProblemHeader::BadLength => message(out, format_args!("parameter problem - bad length")),
        },
        Icmpv4Type::TimestampRequest(stamp) => {
            message(out, format_args!("time stamp query id {} seq {}", stamp.id, stamp.seq));
        }
        Icmpv4Type::TimestampReply(stamp) => {
            message(out, format_args!("time stamp reply id {} seq {}", stamp.id, stamp.seq));
        }
        Icmpv4Type::Unknown { type_u8, code_u8, .. } => match type_u8 {
            9 => message(out, format_args!("router advertisement")),
            10 => message(out, format_args!("router solicitation")),
            17 => message(out, format_args!("address mask request")),
            18 => message(out, format_args!("address mask reply")),
            _ => message(out, format_args!("type {type_u8}, code {code_u8}")),
        },
    }
    if out.is_verbose() {
        out.say(", cksum ", "checksum", Hex::<4>(icmp.checksum().into()));
        checksum::verify(out, || checksum::judge_plain(bytes, len, CHECKSUM));
    }
    out.say(", length ", "length", len);
    out.close();
}
/// Describes the ICMPv6 message in a packet.
pub(super) fn describe_v6(out: &mut impl Out, packet: &ip::Packet<'_>) {
    let (bytes, len) = (packet.payload, packet.payload_len);
    let Ok(icmp) = Icmpv6Slice::from_slice(bytes) else {
        out.cut_off("icmp6");
        return out.say(", length ", "length", len);
    };
    let quoted = Quoted::read(icmp.payload());
    out.open("icmp6");
    if out.is_verbose() {
        out.say("[cksum ", "checksum", Hex::<4>(icmp.checksum().into()));
        checksum::verify(out, || {
            checksum::judge(packet.ends(), ip_number::IPV6_ICMP.0, bytes, len, CHECKSUM)
        });
        out.words("] ");
    }
    out.words("ICMP6, ");
    out.detail("type", icmp.type_u8());
    out.detail("code", icmp.code_u8());
    match icmp.icmp_type() {
        Icmpv6Type::EchoRequest(echo) => {
            echo_message(out, "echo request", echo.id, echo.seq);
        }
        Icmpv6Type::EchoReply(echo) => {
            echo_message(out, "echo reply", echo.id, echo.seq);
        }
        Icmpv6Type::DestinationUnreachable(DestUnreachableCode::Port) => {
            message(out, format_args!("destination unreachable, unreachable port, {quoted}"));
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
            message(out, format_args!("destination unreachable, unreachable {why}, {to}"));
        }
        Icmpv6Type::PacketTooBig { mtu } => message(out, format_args!("packet too big, mtu {mtu}")),
        Icmpv6Type::TimeExceeded(TimeExceededCodeV6::HopLimitExceeded) => {
            message(out, format_args!("time exceeded in-transit"));
        }
        Icmpv6Type::TimeExceeded(TimeExceededCodeV6::FragmentReassemblyTimeExceeded) => {
            message(out, format_args!("ip reassembly time exceeded"));
        }
        Icmpv6Type::ParameterProblem(problem) => {
            let octet = problem.pointer;
            match problem.code {
                ParameterProblemCode::ErroneousHeaderField => {
                    message(out, format_args!("parameter problem, erroneous header - octet {octet}"));
                }
                ParameterProblemCode::UnrecognizedNextHeader => {
                    message(out, format_args!("parameter problem, next header - octet {octet}"));
                }
                ParameterProblemCode::UnrecognizedIpv6Option => {
                    message(out, format_args!("parameter problem, option - octet {octet}"));
                }
                code => message(out, format_args!("parameter problem, code {} - octet {octet}", code as u8)),
            }
        }
        Icmpv6Type::RouterSolicitation => message(out, format_args!("router solicitation")),
        Icmpv6Type::RouterAdvertisement(_) => message(out, format_args!("router advertisement")),
        Icmpv6Type::NeighborSolicitation => {
            message(out, format_args!("neighbor solicitation, who has {}", Target(icmp.payload())));
        }
        Icmpv6Type::NeighborAdvertisement(_) => {
            message(out, format_args!("neighbor advertisement, tgt is {}", Target(icmp.payload())));
        }
        Icmpv6Type::Redirect => {
            let (via, to) = icmp.payload().split_at(icmp.payload().len().min(16));
            message(out, format_args!("redirect, {} to {}", Target(to), Target(via)));
        }
        Icmpv6Type::Unknown { type_u8, code_u8, .. } => match type_u8 {
            // From the message's beginning, the address is behind delay and room for more (RFC 2710, section 3).
            130 => listener(out, "query", bytes),
            131 => listener(out, "report", bytes),
            132 => listener(out, "done", bytes),
            143 => {
                out.field("message", "multicast listener report v2");
                if let Some(records) = u16_at(bytes, 6).filter(|records| *records > 0) {
                    out.say(", ", "records", records);
                    out.words(" group record(s)");
                }
            }
            _ => message(out, format_args!("type {type_u8}, code {code_u8}")),
        },
    }
    out.say(", length ", "length", len);
    out.close();
}

/// Tells of a group that has listeners (RFC 2710), none for all groups.
fn listener(out: &mut impl Out, kind: &str, bytes: &[u8]) {
    message(out, format_args!("multicast listener {kind}"));
    let group =
        bytes.get(8..).and_then(|rest| rest.first_chunk::<16>()).map(|octets| Ipv6Addr::from(*octets));
    if let Some(group) = group.filter(|group| !group.is_unspecified()) {
        out.say(", addr ", "group", group);
    }
}

/// Tells what a message says.
fn message(out: &mut impl Out, words: fmt::Arguments<'_>) {
    out.field("message", Shown(words));
}

fn echo_message(out: &mut impl Out, kind: &'static str, id: u16, seq: u16) {
    out.field("message", kind);
    out.say(", id ", "id", id);
    out.say(", seq ", "seq", seq);
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
