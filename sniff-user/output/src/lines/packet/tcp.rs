//! TCP (RFC 9293) and what is recognised inside it.

use etherparse::{TcpHeader, TcpSlice, ip_number};

use super::{Context, checksum, dns, http, ip, tls, u16_at, u32_at, udp};
use crate::lines::{
    connections::Origin,
    out::{Hex, HexBytes, Out, Value},
};

/// Where a segment has its checksum.
const CHECKSUM: usize = 16;

/// Describes the segment in a packet.
pub(super) fn describe(out: &mut impl Out, context: &mut Context<'_>, packet: &ip::Packet<'_>) {
    let (bytes, len) = (packet.payload, packet.payload_len);
    let mut room = [0; TcpHeader::MAX_LEN];
    let Ok(tcp) = TcpSlice::from_slice(with_options(bytes, &mut room)) else {
        out.cut_off("tcp");
        return out.say(", length ", "length", len);
    };
    let payload_len = len.saturating_sub(tcp.header_len());
    out.open("tcp");
    out.detail("src_port", tcp.source_port());
    out.detail("dst_port", tcp.destination_port());
    if out.is_brief() {
        out.say("tcp ", "length", payload_len);
        return out.close();
    }
    out.say("Flags [", "flags", Flags(&tcp));
    out.words("]");
    if out.is_verbose() {
        out.say(", cksum ", "checksum", Hex::<4>(tcp.checksum().into()));
        checksum::verify(out, || checksum::judge(packet.ends(), ip_number::TCP.0, bytes, len, CHECKSUM));
    }
    let seq = tcp.sequence_number();
    let origin = if tcp.ack() && !context.style.absolute_numbers {
        let ends = ((packet.source, tcp.source_port()), (packet.destination, tcp.destination_port()));
        context.connections.origin(context.interface, ends, (seq, tcp.acknowledgment_number()), tcp.syn())
    } else {
        Origin::default()
    };
    let shown = seq.wrapping_sub(origin.seq);
    if payload_len > 0 || tcp.syn() || tcp.fin() || tcp.rst() {
        out.say(", seq ", "seq", shown);
    }
    if payload_len > 0 {
        // Sequence numbers wrap, and a super-packet is far shorter than their range.
        out.say(":", "seq_end", shown.wrapping_add(payload_len as u32));
    }
    out.detail("seq_raw", seq);
    if tcp.ack() {
        out.say(", ack ", "ack", tcp.acknowledgment_number().wrapping_sub(origin.ack));
        out.detail("ack_raw", tcp.acknowledgment_number());
    }
    out.say(", win ", "win", tcp.window_size());
    if tcp.urg() {
        out.say(", urg ", "urg", tcp.urgent_pointer());
    }
    let captured = bytes.len().min(tcp.header_len()).max(TcpHeader::MIN_LEN);
    options(out, &tcp.slice()[TcpHeader::MIN_LEN..captured], captured < tcp.header_len(), origin);
    out.say(", length ", "length", payload_len);
    out.close();
    describe_payload(out, &tcp);
}

/// Tells the options (RFC 9293, RFC 7323, RFC 2018) but for the padding between them.
fn options(out: &mut impl Out, bytes: &[u8], are_cut_off: bool, origin: Origin) {
    const END: u8 = 0;
    const PADDING: u8 = 1;
    let mut rest = bytes;
    let mut count = 0;
    loop {
        let option = match rest {
            [PADDING, behind @ ..] => {
                rest = behind;
                continue;
            }
            [END, ..] => break,
            [] if !are_cut_off => break,
            [_, len, ..] if (2..=rest.len()).contains(&usize::from(*len)) => &rest[..usize::from(*len)],
            _ => &[],
        };
        out.words(if count == 0 { ", options [" } else { "," });
        if count == 0 {
            out.open("options");
        }
        count += 1;
        if option.is_empty() {
            out.cut_off("tcp");
            break;
        }
        describe_option(out, option, origin);
        rest = &rest[option.len()..];
    }
    if count > 0 {
        out.words("]");
        out.close();
    }
}

fn describe_option(out: &mut impl Out, option: &[u8], origin: Origin) {
    match option {
        [2, 4, ..] => out.say("mss ", "mss", u16_at(option, 2).unwrap_or_default()),
        [3, 3, scale] => out.say("wscale ", "wscale", *scale),
        [4, 2] => {
            out.words("sackOK");
            out.detail("sack_ok", true);
        }
        [5, _, blocks @ ..] if blocks.len() % 8 == 0 => {
            out.words("sack ");
            out.aside(blocks.len() / 8);
            out.words(" ");
            out.open_list("sack");
            for block in blocks.chunks_exact(8) {
                let edge = |at| u32_at(block, at).unwrap_or_default().wrapping_sub(origin.ack);
                out.open_list("");
                out.say("{", "", edge(0));
                out.say(":", "", edge(4));
                out.words("}");
                out.close();
            }
            out.close();
        }
        [8, 10, ..] => {
            out.say("TS val ", "ts_val", u32_at(option, 2).unwrap_or_default());
            out.say(" ecr ", "ts_ecr", u32_at(option, 6).unwrap_or_default());
        }
        [19, 18, digest @ ..] => out.say("md5 ", "md5", HexBytes(digest)),
        [28, 4, ..] => {
            let timeout = u16_at(option, 2).unwrap_or_default();
            out.say("uto ", "user_timeout", timeout & 0x7fff);
            out.words(if timeout >> 15 == 0 { "s" } else { "m" });
        }
        [30, _, subtype, ..] => {
            // By their numbers (RFC 8684, section 8).
            const SUBTYPES: [&str; 9] =
                ["capable", "join", "dss", "add-addr", "rem-addr", "prio", "fail", "fast-close", "rst"];
            match SUBTYPES.get(usize::from(subtype >> 4)) {
                Some(name) => out.say("mptcp ", "mptcp", *name),
                None => out.say("mptcp ", "mptcp", *subtype >> 4),
            }
        }
        [34, _, cookie @ ..] => {
            out.words("tfo ");
            match cookie {
                [] => out.say("", "fast_open", "cookiereq"),
                cookie => out.say("cookie ", "fast_open", HexBytes(cookie)),
            }
        }
        [kind, _, value @ ..] => {
            out.say("unknown-", "unknown", *kind);
            if !value.is_empty() {
                out.say(" 0x", "unknown_value", HexBytes(value));
            }
        }
        // Each option has a length.
        [_] => {}
        [] => {}
    }
}

fn describe_payload(out: &mut impl Out, tcp: &TcpSlice<'_>) {
    let payload = tcp.payload();
    if udp::is_dns(tcp.source_port(), tcp.destination_port()) {
        // Over TCP a message is preceded by its length (RFC 1035, section 4.2.2).
        if let Some(message) = payload.get(2..) {
            dns::describe(out, ": ", message);
        }
    } else if !tls::describe(out, payload) {
        http::describe(out, payload);
    }
}

/// A segment whose header is whole: where a snaplen cut off its options, zeros take their place.
fn with_options<'a>(segment: &'a [u8], room: &'a mut [u8; TcpHeader::MAX_LEN]) -> &'a [u8] {
    if segment.len() < TcpHeader::MIN_LEN {
        return segment;
    }
    let header_len = usize::from(segment[12] >> 4) * 4;
    if segment.len() >= header_len {
        return segment;
    }
    room[..segment.len()].copy_from_slice(segment);
    &room[..header_len]
}

/// The flags as tcpdump has them: a letter each, `.` for ACK.
struct Flags<'a, 'b>(&'a TcpSlice<'b>);

impl Value for Flags<'_, '_> {
    fn text(&self, to: &mut Vec<u8>) {
        let tcp = self.0;
        let flags = [
            (tcp.fin(), b'F'),
            (tcp.syn(), b'S'),
            (tcp.rst(), b'R'),
            (tcp.psh(), b'P'),
            (tcp.ack(), b'.'),
            (tcp.urg(), b'U'),
            (tcp.ece(), b'E'),
            (tcp.cwr(), b'W'),
        ];
        let start = to.len();
        to.extend(flags.iter().filter(|(set, _)| *set).map(|(_, letter)| *letter));
        if to.len() == start {
            to.extend_from_slice(b"none");
        }
    }
}
