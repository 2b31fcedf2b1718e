//! The first line of an HTTP message (RFC 9112), and the start of HTTP/2 (RFC 9113).

use crate::lines::out::{Foreign, Out};

/// Most bytes that are printed of the first line.
const MAX_LINE: usize = 200;
/// How an HTTP message begins: with a method (RFC 9110, RFC 5789; `PRI` is HTTP/2), or as a response.
const STARTS: [&[u8]; 11] = [
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

/// Describes what a segment carries, if it is the start of a message.
pub(super) fn describe(out: &mut impl Out, payload: &[u8]) {
    if STARTS.iter().any(|start| payload.starts_with(start)) {
        out.open("http");
        out.say(": HTTP: ", "first_line", Foreign(first_line(payload)));
        out.close();
    }
}

fn first_line(text: &[u8]) -> &[u8] {
    let text = &text[..text.len().min(MAX_LINE)];
    let end = text.iter().position(|byte| matches!(byte, b'\r' | b'\n'));
    &text[..end.unwrap_or(text.len())]
}
