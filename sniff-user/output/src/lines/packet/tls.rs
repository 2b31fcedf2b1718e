//! TLS (RFC 8446, RFC 5246): the messages of a handshake, and alerts.
//!
//! Done by hand, since a hello is often cut off, by a snaplen or at a segment's end, and half of it is better than none.

use super::{u16_at, u24_at};
use crate::lines::out::{Foreign, Out, Shown};

/// Kinds of records.
const ALERT: u8 = 21;
const HANDSHAKE: u8 = 22;
const RECORD_HEADER: usize = 5;
/// Most bytes of a record (RFC 8446, section 5.2).
const MAX_RECORD: u16 = (1 << 14) + 256;
/// Most records and messages that are looked at.
const MAX_MESSAGES: usize = 8;
/// Most protocols that are told of those that a client offers.
const MAX_PROTOCOLS: usize = 4;

const CLIENT_HELLO: u8 = 1;
const SERVER_HELLO: u8 = 2;

const SERVER_NAME: u16 = 0;
const ALPN: u16 = 16;
const SUPPORTED_VERSIONS: u16 = 43;

/// Describes what a segment carries, if it begins with a record of a handshake or an alert; returns whether it does.
pub(super) fn describe(out: &mut impl Out, payload: &[u8]) -> bool {
    let Some(record @ Record { kind: HANDSHAKE | ALERT, .. }) = Record::first(payload) else { return false };
    out.open("tls");
    out.words(": TLS");
    if record.kind == ALERT {
        alert(out, &record);
    } else {
        handshake(out, payload);
    }
    out.close();
    true
}

/// A record, as far as it was captured.
struct Record<'a> {
    kind: u8,
    /// Of the record layer, which TLS 1.3 leaves at that of TLS 1.2.
    version: u16,
    is_whole: bool,
    content: &'a [u8],
    behind: &'a [u8],
}

impl<'a> Record<'a> {
    fn first(bytes: &'a [u8]) -> Option<Self> {
        let (kind, version, len) = (*bytes.first()?, u16_at(bytes, 1)?, u16_at(bytes, 3)?);
        let is_record = matches!(kind, 20..=23) && matches!(version, 0x0300..=0x0304);
        if !is_record || len == 0 || len > MAX_RECORD {
            return None;
        }
        let rest = &bytes[RECORD_HEADER..];
        let (content, behind) = rest.split_at(rest.len().min(len.into()));
        Some(Self { kind, version, is_whole: content.len() == usize::from(len), content, behind })
    }
}

fn alert(out: &mut impl Out, record: &Record<'_>) {
    match record.content {
        [level @ (1 | 2), description] => {
            out.say(" Alert ", "alert_level", if *level == 1 { "warning" } else { "fatal" });
            match alert_name(*description) {
                Some(name) => out.say(" ", "alert", name),
                None => out.say(" ", "alert", *description),
            }
        }
        _ => out.say(" ", "alert", "encrypted Alert"),
    }
}

/// Tells the messages in records of a handshake, until they are encrypted.
fn handshake(out: &mut impl Out, payload: &[u8]) {
    let mut rest = payload;
    let mut count = 0;
    let mut hello = None;
    out.open_list("handshake");
    for _ in 0..MAX_MESSAGES {
        let Some(record @ Record { kind: HANDSHAKE, .. }) = Record::first(rest) else { break };
        let mut messages = record.content;
        while let (Some(kind), Some(len)) = (messages.first(), u24_at(messages, 1)) {
            let len = len as usize;
            // What is encrypted looks like messages of any kind and length.
            let is_plausible = len <= record.content.len() || count == 0;
            let Some(name) = message_name(*kind).filter(|_| is_plausible && count < MAX_MESSAGES) else {
                break;
            };
            out.say(if count == 0 { " " } else { ", " }, "", name);
            count += 1;
            let body = &messages[4..];
            let body = &body[..body.len().min(len)];
            if matches!(*kind, CLIENT_HELLO | SERVER_HELLO) && hello.is_none() {
                hello = Some((*kind, record.version, body));
            }
            messages = messages.get(4 + len..).unwrap_or_default();
        }
        if !record.is_whole {
            break;
        }
        rest = record.behind;
    }
    out.close();
    if count == 0 {
        out.words(" encrypted Handshake");
    }
    if let Some((kind, version, body)) = hello {
        tell_hello(out, kind, version, body);
    }
}

/// Tells the extensions that say what the connection is to be.
fn tell_hello(out: &mut impl Out, kind: u8, record_version: u16, body: &[u8]) {
    let own_version = u16_at(body, 0).unwrap_or(record_version);
    let mut version = own_version;
    let mut protocols = None;
    for (extension, value) in extensions(kind, body) {
        match extension {
            // A list of names, of which there is one, and it is a host's (RFC 6066, section 3).
            SERVER_NAME if kind == CLIENT_HELLO => {
                let name = u16_at(value, 3).and_then(|len| value.get(5..5 + usize::from(len)));
                if let Some(name) = name {
                    out.say(", SNI ", "sni", Foreign(name));
                }
            }
            ALPN => protocols = value.get(2..),
            SUPPORTED_VERSIONS if kind == SERVER_HELLO => version = u16_at(value, 0).unwrap_or(version),
            // A list: the client's best. Values of the form 0x?a?a keep servers from being choosy (RFC 8701).
            SUPPORTED_VERSIONS => {
                let offered = value.get(1..).unwrap_or_default().as_chunks::<2>().0;
                let offered = offered.iter().map(|bytes| u16::from_be_bytes(*bytes));
                version = offered.filter(|version| version & 0x0f0f != 0x0a0a).max().unwrap_or(version);
            }
            _ => {}
        }
    }
    if let Some(mut rest) = protocols {
        out.open_list("alpn");
        for number in 0..MAX_PROTOCOLS {
            let Some((len, behind)) = rest.split_first() else { break };
            let Some((name, behind)) = behind.split_at_checked((*len).into()) else { break };
            out.say(if number == 0 { ", ALPN " } else { "," }, "", Foreign(name));
            rest = behind;
        }
        out.close();
    }
    match version {
        0x0300..=0x0304 => {
            let name = ["SSL 3.0", "1.0", "1.1", "1.2", "1.3"][usize::from(version - 0x0300)];
            out.say(", version ", "version", name);
        }
        other => out.say(", version ", "version", Shown(format_args!("{other:#06x}"))),
    }
}

/// The extensions of a hello, each with its type, as far as they are whole.
fn extensions(kind: u8, body: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    /// Version and random.
    const START: usize = 34;
    let begin = || {
        let rest = body.get(START..)?;
        let rest = rest.get(1 + usize::from(*rest.first()?)..)?; // Session id.
        let rest = if kind == CLIENT_HELLO {
            let rest = rest.get(2 + usize::from(u16_at(rest, 0)?)..)?; // Cipher suites.
            rest.get(1 + usize::from(*rest.first()?)..)? // Compression methods.
        } else {
            rest.get(3..)? // The chosen ones.
        };
        rest.get(2..) // Length of all.
    };
    let mut rest = begin().unwrap_or_default();
    std::iter::from_fn(move || {
        let (kind, len) = (u16_at(rest, 0)?, u16_at(rest, 2)?);
        let value = rest.get(4..4 + usize::from(len))?;
        rest = &rest[4 + value.len()..];
        Some((kind, value))
    })
}

fn message_name(kind: u8) -> Option<&'static str> {
    Some(match kind {
        0 => "HelloRequest",
        CLIENT_HELLO => "ClientHello",
        SERVER_HELLO => "ServerHello",
        4 => "NewSessionTicket",
        11 => "Certificate",
        12 => "ServerKeyExchange",
        13 => "CertificateRequest",
        14 => "ServerHelloDone",
        15 => "CertificateVerify",
        16 => "ClientKeyExchange",
        20 => "Finished",
        22 => "CertificateStatus",
        _ => return None,
    })
}

fn alert_name(description: u8) -> Option<&'static str> {
    Some(match description {
        0 => "close_notify",
        10 => "unexpected_message",
        20 => "bad_record_mac",
        22 => "record_overflow",
        40 => "handshake_failure",
        42 => "bad_certificate",
        43 => "unsupported_certificate",
        44 => "certificate_revoked",
        45 => "certificate_expired",
        46 => "certificate_unknown",
        47 => "illegal_parameter",
        48 => "unknown_ca",
        49 => "access_denied",
        50 => "decode_error",
        51 => "decrypt_error",
        70 => "protocol_version",
        71 => "insufficient_security",
        80 => "internal_error",
        86 => "inappropriate_fallback",
        90 => "user_canceled",
        109 => "missing_extension",
        110 => "unsupported_extension",
        112 => "unrecognized_name",
        113 => "bad_certificate_status_response",
        115 => "unknown_psk_identity",
        116 => "certificate_required",
        120 => "no_application_protocol",
        _ => return None,
    })
}
