//! TCP and UDP, and a glance at HTTP and DNS inside them.

use std::io::{self, Write};

use etherparse::{TcpHeader, TcpSlice, UdpSlice};

use super::dns;

const DNS_PORT: u16 = 53;
/// Length of a UDP header, in bytes.
const UDP_HEADER: usize = 8;
/// Most bytes that a datagram's length field can tell of.
const MAX_DATAGRAM: usize = 65_535;
/// Most bytes that are printed of the first line of an HTTP message.
const MAX_HTTP_LINE: usize = 200;
/// How an HTTP message begins: with a method (RFC 9110, RFC 5789; `PRI` is HTTP/2, RFC 9113), or as a response.
const HTTP_STARTS: [&[u8]; 11] = [
    b"GET ",
    b"HEAD ",
    b"POST ",
    b"PUT ",
    b"DELETE ",
    b"CONNECT ",
    b"OPTIONS ",
    b"TRACE ",
    b"PATCH ",
    b"PRI ",
    b"HTTP/1.",
];

/// Writes the segment at the start of `bytes`, of which `len` were in the kernel.
pub(super) fn write_tcp(out: &mut impl Write, bytes: &[u8], len: usize) -> io::Result<()> {
    let mut room = [0; TcpHeader::MAX_LEN];
    let Ok(tcp) = TcpSlice::from_slice(with_options(bytes, &mut room)) else {
        return write!(out, "[|tcp], length {len}");
    };
    let len = len.saturating_sub(tcp.header_len());
    write!(out, "Flags [")?;
    write_flags(out, &tcp)?;
    write!(out, "]")?;
    let seq = tcp.sequence_number();
    if len > 0 {
        // Sequence numbers wrap, and a super-packet is far shorter than their range.
        write!(out, ", seq {seq}:{}", seq.wrapping_add(len as u32))?;
    } else if tcp.syn() || tcp.fin() || tcp.rst() {
        write!(out, ", seq {seq}")?;
    }
    if tcp.ack() {
        write!(out, ", ack {}", tcp.acknowledgment_number())?;
    }
    write!(out, ", win {}", tcp.window_size())?;
    if tcp.urg() {
        write!(out, ", urg {}", tcp.urgent_pointer())?;
    }
    write!(out, ", length {len}")?;

    let payload = tcp.payload();
    if is_dns(tcp.source_port(), tcp.destination_port()) {
        // Over TCP a message is preceded by its length (RFC 1035, section 4.2.2).
        if let Some(message) = payload.get(2..).and_then(dns::describe) {
            write!(out, ": {message}")?;
        }
    } else if HTTP_STARTS.iter().any(|start| payload.starts_with(start)) {
        write!(out, ": HTTP: {}", first_line(payload).escape_ascii())?;
    }
    Ok(())
}

/// Writes the datagram at the start of `bytes`, of which `len` were in the kernel.
pub(super) fn write_udp(out: &mut impl Write, bytes: &[u8], len: usize) -> io::Result<()> {
    let Ok(udp) = UdpSlice::from_slice_lax(bytes) else {
        return write!(out, "[|udp], length {len}");
    };
    // What stands behind the datagram in its packet is not its payload.
    let len = match usize::from(udp.length()) {
        claimed @ UDP_HEADER.. if claimed < len && len <= MAX_DATAGRAM => claimed - UDP_HEADER,
        _ => len.saturating_sub(UDP_HEADER),
    };
    if is_dns(udp.source_port(), udp.destination_port())
        && let Some(message) = dns::describe(udp.payload())
    {
        return write!(out, "{message} ({len})");
    }
    write!(out, "UDP, length {len}")
}

/// A segment whose header is whole: where a snaplen cut off its options, which are not printed, zeros take their place.
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

/// Writes the flags as tcpdump does: a letter each, `.` for ACK.
fn write_flags(out: &mut impl Write, tcp: &TcpSlice<'_>) -> io::Result<()> {
    let flags = [
        (tcp.fin(), 'F'),
        (tcp.syn(), 'S'),
        (tcp.rst(), 'R'),
        (tcp.psh(), 'P'),
        (tcp.ack(), '.'),
        (tcp.urg(), 'U'),
        (tcp.ece(), 'E'),
        (tcp.cwr(), 'W'),
    ];
    if flags.iter().all(|(set, _)| !set) {
        return write!(out, "none");
    }
    for (_, letter) in flags.iter().filter(|(set, _)| *set) {
        write!(out, "{letter}")?;
    }
    Ok(())
}

fn is_dns(source_port: u16, destination_port: u16) -> bool {
    source_port == DNS_PORT || destination_port == DNS_PORT
}

fn first_line(text: &[u8]) -> &[u8] {
    let text = &text[..text.len().min(MAX_HTTP_LINE)];
    let end = text.iter().position(|byte| matches!(byte, b'\r' | b'\n'));
    &text[..end.unwrap_or(text.len())]
}
