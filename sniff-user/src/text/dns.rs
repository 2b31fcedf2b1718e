//! A DNS message in a few words (RFC 1035): its question, how many records it carries, and the addresses among them.
//!
//! Done by hand, since a message is often cut off (snaplen) and half a summary is better than none, while DNS
//! libraries give all or nothing. Compression pointers are never followed, so that no message can make the parser loop.

use std::{
    fmt::{self, Write as _},
    net::{Ipv4Addr, Ipv6Addr},
};

/// Most bytes of a name, and of a label in it (RFC 1035, section 2.3.4).
const MAX_NAME: usize = 255;
const MAX_LABEL: u8 = 63;
/// Most answers that are printed.
const MAX_ANSWERS: u16 = 8;

const TYPE_A: u16 = 1;
const TYPE_AAAA: u16 = 28;

const RESPONSE: u16 = 1 << 15;
const AUTHORITATIVE: u16 = 1 << 10;
const TRUNCATED: u16 = 1 << 9;
const RECURSION_DESIRED: u16 = 1 << 8;
const RECURSION_AVAILABLE: u16 = 1 << 7;

/// Describes a message like tcpdump: `ID+ A? NAME.` for a query, `ID q: A? NAME. 1/0/0 A 10.0.0.1` for a response,
/// where the numbers count answers, authorities and additional records. `None` when there is no whole header.
pub(super) fn describe(message: &[u8]) -> Option<String> {
    let mut reader = Reader(message);
    let header = Header {
        id: reader.short()?,
        flags: reader.short()?,
        questions: reader.short()?,
        answers: reader.short()?,
        authorities: reader.short()?,
        additional: reader.short()?,
    };
    let mut text = String::new();
    let written = if header.flags & RESPONSE == 0 {
        header.describe_query(&mut text, &mut reader)
    } else {
        header.describe_response(&mut text, &mut reader)
    };
    written.expect("writing to a String does not fail");
    Some(text)
}

struct Header {
    id: u16,
    flags: u16,
    questions: u16,
    answers: u16,
    authorities: u16,
    additional: u16,
}

impl Header {
    fn is(&self, flag: u16) -> bool {
        self.flags & flag != 0
    }

    fn describe_query(&self, text: &mut String, reader: &mut Reader<'_>) -> fmt::Result {
        let recursion = if self.is(RECURSION_DESIRED) { "+" } else { "" };
        write!(text, "{}{}{recursion}", self.id, Opcode(self.flags))?;
        let counts = [(self.answers, 'a'), (self.authorities, 'n')];
        for (count, letter) in counts.into_iter().filter(|(count, _)| *count > 0) {
            write!(text, " [{count}{letter}]")?;
        }
        if self.additional > 0 {
            write!(text, " [{}au]", self.additional)?;
        }
        self.describe_question(text, reader)
    }

    fn describe_response(&self, text: &mut String, reader: &mut Reader<'_>) -> fmt::Result {
        let Self { id, flags, answers, authorities, additional, .. } = self;
        write!(text, "{id}{}{}", Opcode(*flags), ResponseCode(*flags))?;
        let marks =
            [(self.is(AUTHORITATIVE), '*'), (!self.is(RECURSION_AVAILABLE), '-'), (self.is(TRUNCATED), '|')];
        for (_, mark) in marks.into_iter().filter(|(set, _)| *set) {
            write!(text, "{mark}")?;
        }
        if self.questions > 0 {
            write!(text, " q:")?;
        }
        self.describe_question(text, reader)?;
        write!(text, " {answers}/{authorities}/{additional}")?;
        // Where the answers begin is known behind one question only, as in all messages in use (RFC 9619).
        if self.questions > 1 {
            return Ok(());
        }
        for number in 0..(*answers).min(MAX_ANSWERS) {
            let Some(answer) = reader.record() else {
                return write!(text, " [|domain]");
            };
            write!(text, "{} {answer}", if number > 0 { "," } else { "" })?;
        }
        Ok(())
    }

    /// Writes the first question, if there is any.
    fn describe_question(&self, text: &mut String, reader: &mut Reader<'_>) -> fmt::Result {
        if self.questions == 0 {
            return Ok(());
        }
        match reader.question() {
            Some((name, kind)) => write!(text, " {}? {name}", Type(kind)),
            None => write!(text, " [|domain]"),
        }
    }
}

/// What is left of a message.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(taken)
    }

    fn byte(&mut self) -> Option<u8> {
        self.take(1).map(|byte| byte[0])
    }

    fn short(&mut self) -> Option<u16> {
        let (bytes, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(u16::from_be_bytes(*bytes))
    }

    /// A question's name and type. Nothing stands before its name that a pointer could point to.
    fn question(&mut self) -> Option<(String, u16)> {
        let mut name = String::new();
        let mut room = MAX_NAME;
        loop {
            match self.byte()? {
                0 => break,
                len @ 1..=MAX_LABEL => {
                    let label = self.take(len.into())?;
                    room = room.checked_sub(label.len() + 1)?;
                    write!(name, "{}.", label.escape_ascii()).ok()?;
                }
                _ => return None,
            }
        }
        if name.is_empty() {
            name.push('.');
        }
        let kind = self.short()?;
        self.short()?; // Class.
        Some((name, kind))
    }

    /// A resource record.
    fn record(&mut self) -> Option<Record> {
        self.skip_name()?;
        let kind = self.short()?;
        self.take(2 + 4)?; // Class, time to live.
        let len = self.short()?;
        let data = self.take(len.into())?;
        Some(match kind {
            TYPE_A => Record::A(<[u8; 4]>::try_from(data).ok()?.into()),
            TYPE_AAAA => Record::Aaaa(<[u8; 16]>::try_from(data).ok()?.into()),
            kind => Record::Other(Type(kind)),
        })
    }

    fn skip_name(&mut self) -> Option<()> {
        loop {
            match self.byte()? {
                0 => return Some(()),
                len @ 1..=MAX_LABEL => {
                    self.take(len.into())?;
                }
                // A pointer ends the name; its second byte follows (RFC 1035, section 4.1.4).
                0xc0.. => return self.byte().map(|_| ()),
                _ => return None,
            }
        }
    }
}

/// A record of the answer, as far as it is looked into.
enum Record {
    A(Ipv4Addr),
    Aaaa(Ipv6Addr),
    Other(Type),
}

impl fmt::Display for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::A(address) => write!(f, "A {address}"),
            Self::Aaaa(address) => write!(f, "AAAA {address}"),
            Self::Other(kind) => write!(f, "{kind}"),
        }
    }
}

/// A record's type, by its mnemonic in IANA's registry, or as RFC 3597 has it.
struct Type(u16);

impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            TYPE_A => "A",
            2 => "NS",
            5 => "CNAME",
            6 => "SOA",
            12 => "PTR",
            15 => "MX",
            16 => "TXT",
            TYPE_AAAA => "AAAA",
            33 => "SRV",
            35 => "NAPTR",
            39 => "DNAME",
            43 => "DS",
            46 => "RRSIG",
            48 => "DNSKEY",
            64 => "SVCB",
            65 => "HTTPS",
            251 => "IXFR",
            252 => "AXFR",
            255 => "ANY",
            other => return write!(f, "TYPE{other}"),
        })
    }
}

/// The operation in a header's flags; nothing for an ordinary query.
struct Opcode(u16);

impl fmt::Display for Opcode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 >> 11 & 0xf {
            0 => Ok(()),
            4 => f.write_str(" notify"),
            5 => f.write_str(" update"),
            other => write!(f, " op{other}"),
        }
    }
}

/// The outcome in a header's flags; nothing when there was no error.
struct ResponseCode(u16);

impl fmt::Display for ResponseCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 & 0xf {
            0 => Ok(()),
            1 => f.write_str(" FormErr"),
            2 => f.write_str(" ServFail"),
            3 => f.write_str(" NXDomain"),
            4 => f.write_str(" NotImp"),
            5 => f.write_str(" Refused"),
            other => write!(f, " Resp{other}"),
        }
    }
}
