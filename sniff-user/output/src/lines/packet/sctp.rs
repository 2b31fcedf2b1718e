//! SCTP: the chunks of a packet (RFC 9260).

use std::net::Ipv4Addr;

use super::{u16_at, u32_at};
use crate::lines::out::{Hex, Out, Shown};

const HEADER: usize = 12;
const CHUNK_HEADER: usize = 4;
/// Most chunks that are listed.
const MAX_CHUNKS: usize = 8;

/// Describes the packet at the start of `bytes`, of which `len` were in the kernel.
pub(super) fn describe(out: &mut impl Out, bytes: &[u8], len: usize) {
    out.open("sctp");
    out.words("SCTP");
    if let (Some(source), Some(destination)) = (u16_at(bytes, 0), u16_at(bytes, 2)) {
        out.detail("src_port", source);
        out.detail("dst_port", destination);
    }
    if let Some(tag) = u32_at(bytes, 4) {
        out.add(" tag ", "tag", Hex::<8>(tag.into()));
    }
    out.open_list("chunks");
    let mut rest = bytes.get(HEADER..).unwrap_or_default();
    for number in 0..=MAX_CHUNKS {
        let (Some([kind, flags]), Some(chunk_len)) = (rest.first_chunk(), u16_at(rest, 2)) else { break };
        let chunk_len = usize::from(chunk_len);
        if chunk_len < CHUNK_HEADER {
            break;
        }
        out.words(if number == 0 { " " } else { ", " });
        if number == MAX_CHUNKS {
            out.words("...");
            break;
        }
        out.open("");
        chunk(out, (*kind, *flags), &rest[CHUNK_HEADER..chunk_len.min(rest.len())], chunk_len);
        out.close();
        rest = rest.get(chunk_len.next_multiple_of(4)..).unwrap_or_default();
    }
    out.close();
    out.say(", length ", "length", len);
    out.close();
}

/// Describes one chunk, which is `len` bytes long with its header.
fn chunk(out: &mut impl Out, (kind, flags): (u8, u8), value: &[u8], len: usize) {
    out.words("[");
    match name(kind) {
        Some(name) => out.field("chunk", name),
        None => out.field("chunk", Shown(format_args!("type {kind}"))),
    }
    let mut number = |words: &str, name, value: Option<u32>| {
        if let Some(value) = value {
            out.say(words, name, value);
        }
    };
    match kind {
        // DATA.
        0 => {
            number(" TSN ", "tsn", u32_at(value, 0));
            number(" SID ", "stream", u16_at(value, 4).map(u32::from));
            number(" SSEQ ", "stream_seq", u16_at(value, 6).map(u32::from));
            number(" PPID ", "ppid", u32_at(value, 8));
            const HEADER: usize = 16;
            out.say(" length ", "length", len.saturating_sub(HEADER));
            if flags & 3 != 3 {
                out.say(
                    " ",
                    "fragment",
                    match flags & 3 {
                        2 => "first",
                        1 => "last",
                        _ => "middle",
                    },
                );
            }
        }
        // INIT and INIT ACK.
        1 | 2 => {
            number(" tag ", "init_tag", u32_at(value, 0));
            number(" rwnd ", "rwnd", u32_at(value, 4));
            number(" OS ", "outbound_streams", u16_at(value, 8).map(u32::from));
            number(" MIS ", "inbound_streams", u16_at(value, 10).map(u32::from));
            number(" TSN ", "tsn", u32_at(value, 12));
            addresses(out, value.get(16..).unwrap_or_default());
        }
        // SACK.
        3 => {
            number(" TSN ", "tsn", u32_at(value, 0));
            number(" rwnd ", "rwnd", u32_at(value, 4));
            number(" gaps ", "gaps", u16_at(value, 8).map(u32::from));
            number(" dups ", "duplicates", u16_at(value, 10).map(u32::from));
        }
        // ABORT and ERROR.
        6 | 9 => number(" cause ", "cause", u16_at(value, 0).map(u32::from)),
        // SHUTDOWN.
        7 => number(" TSN ", "tsn", u32_at(value, 0)),
        _ => {}
    }
    out.words("]");
}

/// Further addresses of an end, among the parameters of its INIT.
fn addresses(out: &mut impl Out, parameters: &[u8]) {
    const IPV4: u16 = 5;
    out.open_list("addresses");
    let mut rest = parameters;
    for _ in 0..MAX_CHUNKS {
        let (Some(kind), Some(len @ 4..)) = (u16_at(rest, 0), u16_at(rest, 2)) else { break };
        if let (IPV4, Some(address)) = (kind, u32_at(rest, 4)) {
            out.say(" ", "", Ipv4Addr::from(address));
        }
        rest = rest.get(usize::from(len).next_multiple_of(4)..).unwrap_or_default();
    }
    out.close();
}

fn name(kind: u8) -> Option<&'static str> {
    Some(match kind {
        0 => "DATA",
        1 => "INIT",
        2 => "INIT ACK",
        3 => "SACK",
        4 => "HB REQ",
        5 => "HB ACK",
        6 => "ABORT",
        7 => "SHUTDOWN",
        8 => "SHUTDOWN ACK",
        9 => "ERROR",
        10 => "COOKIE ECHO",
        11 => "COOKIE ACK",
        14 => "SHUTDOWN COMPLETE",
        15 => "AUTH",
        64 => "I-DATA",
        130 => "RE-CONFIG",
        192 => "FORWARD TSN",
        _ => return None,
    })
}
