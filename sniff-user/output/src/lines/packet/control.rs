//! What hosts and routers tell each other right above IP: IGMP (RFC 3376), VRRP (RFC 9568, RFC 3768); and IPsec's
//! envelopes (RFC 4302, RFC 4303).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{ip, u16_at, u32_at};
use crate::lines::out::{Hex, Out};

/// Most groups and addresses that are listed.
const MAX_LISTED: usize = 8;

/// Describes an IGMP message, of which `len` bytes were in the kernel.
pub(super) fn igmp(out: &mut impl Out, bytes: &[u8], len: usize) {
    /// Length of a message without sources, which a version 3 query is longer than.
    const PLAIN: usize = 8;
    out.open("igmp");
    let group = u32_at(bytes, 4).map(Ipv4Addr::from);
    match (bytes, group) {
        ([0x11, code, ..], Some(group)) => {
            let version = match (len, code) {
                (PLAIN, 0) => 1_u8,
                (PLAIN, _) => 2,
                _ => 3,
            };
            out.say("IGMP ", "message", "query");
            out.say(" v", "version", version);
            if !group.is_unspecified() {
                out.say(" for ", "group", group);
            }
        }
        ([0x12, ..], Some(group)) => report(out, 1, group),
        ([0x16, ..], Some(group)) => report(out, 2, group),
        ([0x17, ..], Some(group)) => {
            out.say("IGMP ", "message", "leave");
            out.say(" ", "group", group);
        }
        ([0x22, ..], _) => {
            out.say("IGMP ", "message", "report");
            out.say(" v", "version", 3_u8);
            records(out, bytes);
        }
        _ => out.words("IGMP"),
    }
    out.say(", length ", "length", len);
    out.close();
}

fn report(out: &mut impl Out, version: u8, group: Ipv4Addr) {
    out.say("IGMP ", "message", "report");
    out.say(" v", "version", version);
    out.say(" ", "group", group);
}

/// Tells the records of a version 3 report (RFC 3376, section 4.2.12).
fn records(out: &mut impl Out, bytes: &[u8]) {
    let Some(count) = u16_at(bytes, 6) else { return };
    out.open_list("records");
    let mut rest = bytes.get(8..).unwrap_or_default();
    for number in 0..usize::from(count) {
        let (Some(group), Some(sources)) = (u32_at(rest, 4), u16_at(rest, 2)) else { break };
        if number == MAX_LISTED {
            out.words(", ...");
            break;
        }
        out.open("");
        out.say(", ", "group", Ipv4Addr::from(group));
        out.say(
            " ",
            "kind",
            match rest[0] {
                1 => "is_in",
                2 => "is_ex",
                3 => "to_in",
                4 => "to_ex",
                5 => "allow",
                6 => "block",
                _ => "unknown",
            },
        );
        if sources > 0 {
            out.say(", sources ", "sources", sources);
        }
        out.close();
        let record_len = 8 + 4 * usize::from(sources) + 4 * usize::from(rest[1]);
        rest = rest.get(record_len..).unwrap_or_default();
    }
    out.close();
}

/// Describes a VRRP packet.
pub(super) fn vrrp(out: &mut impl Out, packet: &ip::Packet<'_>) {
    let (bytes, len) = (packet.payload, packet.payload_len);
    out.open("vrrp");
    match bytes {
        [head, id, priority, count, a, b, ..] if head & 0xf == 1 => {
            out.say("VRRPv", "version", head >> 4);
            out.say(", ", "message", "Advertisement");
            // What comes from farther than a neighbour is another's (RFC 9568, section 5.1.1.3).
            if packet.hops() != u8::MAX {
                out.say(", (ttl ", "ttl", packet.hops());
                out.words(")");
            }
            out.say(", vrid ", "vrid", *id);
            out.say(", prio ", "priority", *priority);
            if head >> 4 == 2 {
                out.say(
                    ", authtype ",
                    "authentication",
                    match a {
                        0 => "none",
                        1 => "simple",
                        2 => "ah",
                        _ => "unknown",
                    },
                );
                out.say(", intvl ", "interval_s", *b);
                out.words("s");
            } else {
                let interval = u32::from(u16::from_be_bytes([*a, *b]) & 0xfff) * 10;
                out.say(", intvl ", "interval_ms", interval);
                out.words("ms");
            }
            addresses(out, packet.source, usize::from(*count), bytes.get(8..).unwrap_or_default());
        }
        _ => {
            out.words("VRRP, ");
            out.cut_off("vrrp");
        }
    }
    out.say(", length ", "length", len);
    out.close();
}

/// The addresses of a virtual router, of the kind that its packets have.
fn addresses(out: &mut impl Out, like: IpAddr, count: usize, bytes: &[u8]) {
    out.open_list("addresses");
    let shown = count.min(MAX_LISTED);
    out.words(if shown > 0 { ", addrs" } else { "" });
    match like {
        IpAddr::V4(_) => bytes
            .as_chunks::<4>()
            .0
            .iter()
            .take(shown)
            .for_each(|octets| out.say(" ", "", Ipv4Addr::from(*octets))),
        IpAddr::V6(_) => bytes
            .as_chunks::<16>()
            .0
            .iter()
            .take(shown)
            .for_each(|octets| out.say(" ", "", Ipv6Addr::from(*octets))),
    }
    out.close();
}

/// Describes an encrypted packet.
pub(super) fn esp(out: &mut impl Out, bytes: &[u8], len: usize) {
    secured(out, ("esp", "ESP"), bytes, len);
}

/// Describes an authenticated packet, what is in it aside. In front is what the packet in it is, and how long this is.
pub(super) fn ah(out: &mut impl Out, bytes: &[u8], len: usize) {
    secured(out, ("ah", "AH"), bytes.get(4..).unwrap_or_default(), len);
}

/// Both have the index and number of a security association (RFC 4303, section 2; RFC 4302, section 2).
fn secured(out: &mut impl Out, (name, title): (&'static str, &str), bytes: &[u8], len: usize) {
    out.open(name);
    out.words(title);
    match (u32_at(bytes, 0), u32_at(bytes, 4)) {
        (Some(spi), Some(seq)) => {
            out.say("(spi=", "spi", Hex::<8>(spi.into()));
            out.say(",seq=", "seq", Hex::<1>(seq.into()));
            out.words(")");
        }
        _ => {
            out.words(", ");
            out.cut_off(name);
        }
    }
    out.say(", length ", "length", len);
    out.close();
}
