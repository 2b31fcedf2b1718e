//! DHCP (RFC 2131, RFC 2132) and DHCPv6 (RFC 8415): who asks for which address, and what comes of it.

use std::net::Ipv4Addr;

use super::{u16_at, u24_at, u32_at, udp::Datagram};
use crate::lines::out::{Foreign, Hex, Mac, Out};

const SERVER_PORT: u16 = 67;
const CLIENT_PORT: u16 = 68;
const V6_PORTS: [u16; 2] = [546, 547];
/// Where the fields of a message are.
const XID: usize = 4;
const OWN_ADDRESS: usize = 12;
const OFFERED_ADDRESS: usize = 16;
const MAC: usize = 28;
const COOKIE: usize = 236;
/// What stands in front of the options.
const MAGIC: u32 = 0x6382_5363;
/// Most options that are looked at.
const MAX_OPTIONS: usize = 64;

/// Describes a datagram, if it is DHCP's; returns whether it is.
pub(super) fn describe(out: &mut impl Out, datagram: &Datagram<'_>) -> bool {
    if datagram.is_of(SERVER_PORT) || datagram.is_of(CLIENT_PORT) {
        v4(out, datagram)
    } else if V6_PORTS.contains(&datagram.destination_port) {
        v6(out, datagram)
    } else {
        false
    }
}

fn v4(out: &mut impl Out, datagram: &Datagram<'_>) -> bool {
    let message = datagram.payload;
    let what = match message.first() {
        Some(1) => "Request",
        Some(2) => "Reply",
        _ => return false,
    };
    let (Some(xid), Some(mac)) =
        (u32_at(message, XID), message.get(MAC..).and_then(|bytes| bytes.first_chunk()))
    else {
        return false;
    };
    out.open("dhcp");
    out.say("BOOTP/DHCP, ", "op", what);
    out.say(if what == "Request" { " from " } else { " to " }, "mac", Mac(*mac));
    out.say(", xid ", "xid", Hex::<8>(xid.into()));
    for (words, name, at) in
        [(", ciaddr ", "own_address", OWN_ADDRESS), (", yiaddr ", "offered_address", OFFERED_ADDRESS)]
    {
        if let Some(address) = u32_at(message, at).filter(|address| *address != 0) {
            out.say(words, name, Ipv4Addr::from(address));
        }
    }
    if u32_at(message, COOKIE) == Some(MAGIC) {
        options(out, &message[COOKIE + 4..]);
    }
    out.close();
    out.words(", length ");
    out.aside(datagram.len);
    true
}

fn options(out: &mut impl Out, bytes: &[u8]) {
    const PADDING: u8 = 0;
    const END: u8 = 255;
    let mut rest = bytes;
    for _ in 0..MAX_OPTIONS {
        let (kind, value) = match rest {
            [PADDING, behind @ ..] => {
                rest = behind;
                continue;
            }
            [END, ..] | [_] | [] => return,
            [kind, len, behind @ ..] => match behind.split_at_checked((*len).into()) {
                Some((value, behind)) => {
                    rest = behind;
                    (*kind, value)
                }
                None => return,
            },
        };
        let address = u32_at(value, 0).map(Ipv4Addr::from);
        match (kind, value, address) {
            (53, [message], _) => out.say(", ", "message", message_name(*message)),
            (12, name, _) => out.say(", hostname ", "hostname", Foreign(name)),
            (50, _, Some(address)) => out.say(", requested ", "requested_address", address),
            (54, _, Some(address)) => out.say(", server ", "server", address),
            (51, _, Some(_)) => {
                out.say(", lease ", "lease_s", u32_at(value, 0).unwrap_or_default());
                out.words("s");
            }
            _ => {}
        }
    }
}

fn message_name(message: u8) -> &'static str {
    match message {
        1 => "Discover",
        2 => "Offer",
        3 => "Request",
        4 => "Decline",
        5 => "ACK",
        6 => "NAK",
        7 => "Release",
        8 => "Inform",
        _ => "unknown message",
    }
}

fn v6(out: &mut impl Out, datagram: &Datagram<'_>) -> bool {
    let Some(kind) = datagram.payload.first() else { return false };
    let name = match kind {
        1 => "solicit",
        2 => "advertise",
        3 => "request",
        4 => "confirm",
        5 => "renew",
        6 => "rebind",
        7 => "reply",
        8 => "release",
        9 => "decline",
        10 => "reconfigure",
        11 => "information request",
        12 => "relay forward",
        13 => "relay reply",
        _ => return false,
    };
    out.open("dhcp6");
    out.say("DHCPv6, ", "message", name);
    // A relay's message has no transaction.
    if let Some(xid) = u24_at(datagram.payload, 1).filter(|_| *kind < 12) {
        out.say(", xid ", "xid", Hex::<6>(xid.into()));
    }
    if let Some(status) = status(datagram.payload) {
        out.say(", status ", "status", status);
    }
    out.close();
    out.words(", length ");
    out.aside(datagram.len);
    true
}

/// The status among the options of a message, when there is one.
fn status(message: &[u8]) -> Option<u16> {
    const STATUS: u16 = 13;
    let mut rest = message.get(4..)?;
    for _ in 0..MAX_OPTIONS {
        let (kind, len) = (u16_at(rest, 0)?, u16_at(rest, 2)?);
        if kind == STATUS {
            return u16_at(rest, 4);
        }
        rest = rest.get(4 + usize::from(len)..)?;
    }
    None
}
