//! QUIC's long headers (RFC 9000, RFC 9369), with which connections begin. Packets of a connection that stands show
//! nothing, and look like any other datagram.

use super::{u32_at, udp::Datagram};
use crate::lines::out::{Hex, HexBytes, Out};

/// Longest connection id.
const MAX_ID: usize = 20;
const NEGOTIATION: u32 = 0;
const V1: u32 = 1;
const V2: u32 = 0x6b33_43cf;
/// Upper bits of the versions of drafts.
const DRAFT: u32 = 0x00ff_0000;

/// Describes a datagram, if it begins with a long header; returns whether it does.
pub(super) fn describe(out: &mut impl Out, datagram: &Datagram<'_>) -> bool {
    const LONG: u8 = 1 << 7;
    const FIXED: u8 = 1 << 6;
    let (Some(first), Some(version)) = (datagram.payload.first(), u32_at(datagram.payload, 1)) else {
        return false;
    };
    let ids = datagram.payload.get(5..).and_then(|rest| {
        let (destination, rest) = connection_id(rest)?;
        let (source, rest) = connection_id(rest)?;
        Some((destination, source, rest))
    });
    let Some((destination, source, rest)) = ids else { return false };
    let is_known = matches!(version, V1 | V2) || version >> 8 == DRAFT;
    // A negotiation lists versions, and says by no number that it is QUIC's.
    let is_negotiation = version == NEGOTIATION && !rest.is_empty() && rest.len() % 4 == 0;
    if first & LONG == 0 || !is_negotiation && (!is_known || first & FIXED == 0) {
        return false;
    }
    if is_negotiation && !datagram.is_of(443) {
        return false;
    }
    out.open("quic");
    out.words("QUIC ");
    match version {
        NEGOTIATION => {}
        V1 => out.say("v", "version", 1_u8),
        V2 => out.say("v", "version", 2_u8),
        draft => out.say("draft-", "draft", (draft & 0xff) as u8),
    }
    let kind = if version == V2 { (first >> 4).wrapping_sub(1) & 3 } else { first >> 4 & 3 };
    out.say(
        if is_negotiation { "" } else { " " },
        "type",
        match kind {
            _ if is_negotiation => "Version Negotiation",
            0 => "Initial",
            1 => "0-RTT",
            2 => "Handshake",
            _ => "Retry",
        },
    );
    for (words, name, id) in [(", dcid ", "dcid", destination), (", scid ", "scid", source)] {
        if !id.is_empty() {
            out.say(words, name, HexBytes(id));
        }
    }
    if is_negotiation {
        out.open_list("versions");
        for (number, version) in rest.as_chunks::<4>().0.iter().take(8).enumerate() {
            out.say(
                if number == 0 { ", versions " } else { " " },
                "",
                Hex::<8>(u32::from_be_bytes(*version).into()),
            );
        }
        out.close();
    }
    out.close();
    out.words(", length ");
    out.aside(datagram.len);
    true
}

fn connection_id(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (len, rest) = bytes.split_first()?;
    rest.split_at_checked((*len).into()).filter(|_| usize::from(*len) <= MAX_ID)
}
