//! A DNS message in a few words (RFC 1035): its question, how many records it carries, what the answers say, and why
//! there are none (RFC 6891, RFC 8914).
//!
//! Done by hand, since a message is often cut off (snaplen) and half a summary is better than none, while DNS
//! libraries give all or nothing. A compression pointer is followed only to before the place where it was met, so that
//! no message can make the parser loop.

use std::{
    fmt::Write as _,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use crate::lines::out::{Foreign, MAX_SHOWN, Out, Shown, Value};

/// Most bytes of a name, and of a label in it (RFC 1035, section 2.3.4).
const MAX_NAME: usize = 255;
const MAX_LABEL: u8 = 63;
/// Most pointers of a name: it has no more labels, and two pointers need not follow each other.
const MAX_POINTERS: usize = 127;
/// Length of a message's header, which no name is in.
const HEADER_LEN: usize = 12;
/// Most answers that are printed, and how long a line may get before another one.
const MAX_ANSWERS: u16 = 8;
const MAX_LINE: usize = 600;
/// Most answers that are looked at for addresses.
const MAX_LOOKED_AT: u16 = 64;
/// Most errors that are printed of those that a server adds.
const MAX_ERRORS: usize = 2;

/// The Internet's class of records.
const INTERNET: u16 = 1;

const TYPE_A: u16 = 1;
const TYPE_NS: u16 = 2;
const TYPE_CNAME: u16 = 5;
const TYPE_PTR: u16 = 12;
const TYPE_MX: u16 = 15;
const TYPE_TXT: u16 = 16;
const TYPE_AAAA: u16 = 28;
const TYPE_SRV: u16 = 33;
const TYPE_DNAME: u16 = 39;
const TYPE_OPT: u16 = 41;
const TYPE_SVCB: u16 = 64;
const TYPE_HTTPS: u16 = 65;
/// The option of an OPT record that says what went wrong (RFC 8914).
const EXTENDED_ERROR: u16 = 15;

const RESPONSE: u16 = 1 << 15;
const AUTHORITATIVE: u16 = 1 << 10;
const TRUNCATED: u16 = 1 << 9;
const RECURSION_DESIRED: u16 = 1 << 8;
const RECURSION_AVAILABLE: u16 = 1 << 7;

/// Describes a message like tcpdump: `ID+ A? NAME.` for a query, `ID q: A? NAME. 1/0/0 A 10.0.0.1` for a response,
/// where the numbers count answers, authorities and additional records. `words` come before. Returns whether there is a
/// whole header, without which nothing is told.
pub(super) fn describe(out: &mut impl Out, words: &str, message: &[u8]) -> bool {
    let mut reader = Reader { message, at: 0, end: message.len() };
    let Some(header) = Header::read(&mut reader) else { return false };
    out.open("dns");
    out.words(words);
    if header.flags & RESPONSE == 0 {
        header.describe_query(out, &mut reader);
    } else {
        header.describe_response(out, reader);
    }
    out.close();
    true
}

/// The name that was asked for, in small letters and without the dot at its end, and the addresses that a response says it
/// has, be it by way of aliases. Of a message that is cut off, those that are there. `None` for any other message.
pub(super) fn addresses(message: &[u8]) -> Option<(String, Vec<IpAddr>)> {
    let mut reader = Reader { message, at: 0, end: message.len() };
    let header = Header::read(&mut reader)?;
    // A response to an ordinary query, without an error.
    if header.flags & (RESPONSE | 0xf << 11 | 0xf) != RESPONSE || header.questions != 1 {
        return None;
    }
    let asked = reader.plain_name()?;
    let (kind, class) = (reader.short()?, reader.short()?);
    if !matches!(kind, TYPE_A | TYPE_AAAA) || class != INTERNET {
        return None;
    }
    let (mut aliases, mut found) = (Vec::new(), Vec::new());
    for _ in 0..header.answers.min(MAX_LOOKED_AT) {
        let Some((owner, Record { kind, class, mut data, .. })) = reader.owned_record() else { break };
        match (class, kind) {
            (INTERNET, TYPE_CNAME) => aliases.extend(data.plain_name().map(|of| (owner, of))),
            (INTERNET, TYPE_A) if data.len() == 4 => found.extend(data.ipv4().map(|it| (owner, it.into()))),
            (INTERNET, TYPE_AAAA) if data.len() == 16 => {
                found.extend(data.ipv6().map(|it| (owner, it.into())));
            }
            _ => {}
        }
    }
    let mut names = vec![asked];
    while let Some(at) = aliases.iter().position(|(owner, _)| Some(owner) == names.last()) {
        names.push(aliases.swap_remove(at).1);
    }
    found.retain(|(owner, _)| names.contains(owner));
    Some((names.swap_remove(0), found.into_iter().map(|(_, address)| address).collect()))
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
    fn read(reader: &mut Reader<'_>) -> Option<Self> {
        Some(Self {
            id: reader.short()?,
            flags: reader.short()?,
            questions: reader.short()?,
            answers: reader.short()?,
            authorities: reader.short()?,
            additional: reader.short()?,
        })
    }

    fn is(&self, flag: u16) -> bool {
        self.flags & flag != 0
    }

    fn describe_query(&self, out: &mut impl Out, reader: &mut Reader<'_>) {
        out.field("id", self.id);
        out.detail("kind", "query");
        out.field("opcode", Opcode(self.flags));
        if self.is(RECURSION_DESIRED) {
            out.words("+");
            out.detail("recursion_desired", true);
        }
        let counts = [
            (self.answers, "answer_count", "a]"),
            (self.authorities, "authority_count", "n]"),
            (self.additional, "additional_count", "au]"),
        ];
        for (count, name, letter) in counts.into_iter().filter(|(count, ..)| *count > 0) {
            out.say(" [", name, count);
            out.words(letter);
        }
        self.describe_question(out, reader);
    }

    fn describe_response(&self, out: &mut impl Out, mut reader: Reader<'_>) {
        let Self { id, flags, answers, authorities, additional, .. } = *self;
        let edns = self.edns(reader).unwrap_or_default();
        out.field("id", id);
        out.detail("kind", "response");
        out.field("opcode", Opcode(flags));
        out.field("rcode", ResponseCode(edns.upper_code << 4 | flags & 0xf));
        let marks = [
            (AUTHORITATIVE, true, "*", "authoritative"),
            (RECURSION_AVAILABLE, false, "-", "recursion_unavailable"),
            (TRUNCATED, true, "|", "truncated"),
        ];
        for (_, _, mark, name) in marks.into_iter().filter(|(flag, set, ..)| self.is(*flag) == *set) {
            out.words(mark);
            out.detail(name, true);
        }
        if self.questions > 0 {
            out.words(" q:");
        }
        self.describe_question(out, &mut reader);
        out.say(" ", "answer_count", answers);
        out.say("/", "authority_count", authorities);
        out.say("/", "additional_count", additional);
        if self.has_one_question_at_most() {
            out.open_list("answers");
            self.describe_answers(out, &mut reader);
            out.close();
        }
        out.open_list("errors");
        for error in edns.errors {
            out.words(" ");
            error.describe(out);
        }
        out.close();
    }

    /// Where the answers begin is known behind one question only, as in all messages in use (RFC 9619).
    fn has_one_question_at_most(&self) -> bool {
        self.questions <= 1
    }

    fn describe_answers(&self, out: &mut impl Out, reader: &mut Reader<'_>) {
        let mut len = 0;
        for number in 0..self.answers {
            if number > 0 {
                out.words(",");
            }
            out.words(" ");
            if number == MAX_ANSWERS || len > MAX_LINE {
                return out.words("...");
            }
            let answer = reader.record().and_then(|record| Some((record.kind, record.describe()?)));
            out.open("");
            let Some((kind, data)) = &answer else {
                out.cut_off("domain");
                return out.close();
            };
            out.field("type", Type(*kind));
            if !data.is_empty() {
                out.say(" ", "data", Ascii(data));
            }
            len += data.len();
            out.close();
        }
    }

    /// What the OPT record says, which is among the additional ones; `reader` is behind the header.
    fn edns(&self, mut reader: Reader<'_>) -> Option<Edns> {
        if !self.has_one_question_at_most() {
            return None;
        }
        if self.questions == 1 {
            reader.question()?;
        }
        for _ in 0..u32::from(self.answers) + u32::from(self.authorities) {
            reader.record()?;
        }
        for _ in 0..self.additional {
            let record = reader.record()?;
            if record.kind == TYPE_OPT {
                return Some(Edns::read(record));
            }
        }
        None
    }

    /// Tells the first question, if there is any.
    fn describe_question(&self, out: &mut impl Out, reader: &mut Reader<'_>) {
        /// The top bit of a class: in Multicast DNS, that the answer may come to the asker alone (RFC 6762, section 5.4).
        const UNICAST: u16 = 1 << 15;
        if self.questions == 0 {
            return;
        }
        out.words(" ");
        match reader.question() {
            Some(Question { name, kind, class }) => {
                out.field("type", Type(kind));
                if class & UNICAST != 0 {
                    out.words(" (QU)");
                    out.detail("unicast", true);
                }
                out.say("? ", "name", Ascii(&name));
            }
            None => out.cut_off("domain"),
        }
    }
}

/// The first question.
struct Question {
    name: String,
    kind: u16,
    class: u16,
}

/// What was escaped as it was read.
struct Ascii<'a>(&'a str);

impl Value for Ascii<'_> {
    fn text(&self, to: &mut Vec<u8>) {
        to.extend_from_slice(self.0.as_bytes());
    }

    fn json(&self, to: &mut Vec<u8>) {
        Foreign(self.0.as_bytes()).json(to);
    }
}

/// What is left of a part of a message.
#[derive(Clone, Copy)]
struct Reader<'a> {
    message: &'a [u8],
    at: usize,
    end: usize,
}

impl<'a> Reader<'a> {
    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let rest = self.message.get(self.at..self.end)?;
        self.at += len;
        rest.get(..len)
    }

    fn byte(&mut self) -> Option<u8> {
        self.take(1).map(|byte| byte[0])
    }

    fn short(&mut self) -> Option<u16> {
        Some(u16::from_be_bytes(self.take(2)?.try_into().ok()?))
    }

    fn len(&self) -> usize {
        self.end.saturating_sub(self.at)
    }

    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The next so many bytes by themselves.
    fn part(&mut self, len: usize) -> Option<Self> {
        let part = Self { end: self.at + len, ..*self };
        self.take(len).map(|_| part)
    }

    fn question(&mut self) -> Option<Question> {
        Some(Question { name: self.name()?, kind: self.short()?, class: self.short()? })
    }

    /// A resource record.
    fn record(&mut self) -> Option<Record<'a>> {
        self.skip_name()?;
        self.rest_of_record()
    }

    /// A resource record, with whose it is.
    fn owned_record(&mut self) -> Option<(String, Record<'a>)> {
        Some((self.plain_name()?, self.rest_of_record()?))
    }

    fn rest_of_record(&mut self) -> Option<Record<'a>> {
        let (kind, class) = (self.short()?, self.short()?);
        let time_to_live = self.take(4)?;
        let len = self.short()?;
        let data = self.part(len.into())?;
        Some(Record { kind, class, upper_code: time_to_live[0], data })
    }

    /// A name, with its escapes (RFC 4343), as far as it is shown.
    fn name(&mut self) -> Option<String> {
        let mut name = self.whole_name()?;
        shorten(&mut name);
        Some(name)
    }

    /// A name as it can be compared: in small letters, and without the dot at its end.
    fn plain_name(&mut self) -> Option<String> {
        let mut name = self.whole_name()?.to_ascii_lowercase();
        name.pop();
        Some(name)
    }

    /// A name, with its escapes.
    fn whole_name(&mut self) -> Option<String> {
        let mut name = String::new();
        let mut pointers = 0;
        let mut room = MAX_NAME;
        let mut here = *self;
        let mut earlier = self.at;
        let mut behind = None;
        loop {
            match here.byte()? {
                0 => break,
                len @ 1..=MAX_LABEL => {
                    let label = here.take(len.into())?;
                    room = room.checked_sub(label.len() + 1)?;
                    for &byte in label {
                        match byte {
                            b'.' => name.push_str("\\."),
                            byte => write!(name, "{}", byte.escape_ascii()).ok()?,
                        }
                    }
                    name.push('.');
                }
                high @ 0xc0.. => {
                    let to = usize::from(high & 0x3f) << 8 | usize::from(here.byte()?);
                    behind = behind.or(Some(here.at));
                    pointers += 1;
                    if !(HEADER_LEN..earlier).contains(&to) || pointers > MAX_POINTERS {
                        return None;
                    }
                    earlier = to;
                    here = Reader { at: to, end: self.message.len(), ..*self };
                }
                _ => return None,
            }
        }
        self.at = behind.unwrap_or(here.at);
        if name.is_empty() {
            name.push('.');
        }
        Some(name)
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

/// Cuts what is too long to be shown.
fn shorten(text: &mut String) {
    if text.len() > MAX_SHOWN {
        text.truncate(MAX_SHOWN);
        text.push_str("...");
    }
}

/// Bytes that are meant to be read, in quotes.
fn quoted(bytes: &[u8]) -> String {
    let mut text = bytes.escape_ascii().to_string();
    shorten(&mut text);
    format!("\"{text}\"")
}

/// A record, not looked into.
struct Record<'a> {
    kind: u16,
    class: u16,
    /// Of an OPT record: the upper bits of the response code. Of others, part of the time to live.
    upper_code: u8,
    data: Reader<'a>,
}

impl Record<'_> {
    /// What it says, which for some types is not told; `None` when that makes no sense.
    fn describe(self) -> Option<String> {
        let Self { kind, mut data, .. } = self;
        Some(match kind {
            TYPE_A if data.len() == 4 => data.ipv4()?.to_string(),
            TYPE_AAAA if data.len() == 16 => data.ipv6()?.to_string(),
            TYPE_A | TYPE_AAAA => return None,
            TYPE_CNAME | TYPE_NS | TYPE_PTR | TYPE_DNAME => data.name()?,
            TYPE_MX => {
                let preference = data.short()?;
                format!("{} {preference}", data.name()?)
            }
            TYPE_SRV => {
                let (priority, weight, port) = (data.short()?, data.short()?, data.short()?);
                format!("{}:{port} {priority} {weight}", data.name()?)
            }
            TYPE_TXT => {
                let mut texts = Vec::new();
                let mut len = 0;
                while !data.is_empty() && len <= MAX_SHOWN {
                    let text_len = data.byte()?;
                    texts.push(quoted(data.take(text_len.into())?));
                    len += texts.last().map_or(0, String::len);
                }
                texts.join(" ")
            }
            TYPE_SVCB | TYPE_HTTPS => {
                let priority = data.short()?;
                let mut text = format!("{priority} {}", data.name()?);
                while !data.is_empty() && text.len() <= MAX_SHOWN {
                    write!(text, " {}", data.parameter()?).ok()?;
                }
                text
            }
            _ => String::new(),
        })
    }
}

impl Reader<'_> {
    fn ipv4(&mut self) -> Option<Ipv4Addr> {
        let octets: [u8; 4] = self.take(4)?.try_into().ok()?;
        Some(octets.into())
    }

    fn ipv6(&mut self) -> Option<Ipv6Addr> {
        let octets: [u8; 16] = self.take(16)?.try_into().ok()?;
        Some(octets.into())
    }

    /// A parameter of a SVCB or HTTPS record (RFC 9460, section 14.3.2).
    fn parameter(&mut self) -> Option<String> {
        let (key, len) = (self.short()?, self.short()?);
        let mut value = self.part(len.into())?;
        let mut values = Vec::new();
        while !value.is_empty() && values.len() < MAX_ANSWERS.into() {
            values.push(match key {
                1 => {
                    let len = value.byte()?;
                    value.take(len.into())?.escape_ascii().to_string()
                }
                3 => value.short()?.to_string(),
                4 => value.ipv4()?.to_string(),
                6 => value.ipv6()?.to_string(),
                _ => break,
            });
        }
        let mut text = match key {
            1 => "alpn".to_owned(),
            2 => "no-default-alpn".to_owned(),
            3 => "port".to_owned(),
            4 => "ipv4hint".to_owned(),
            5 => "ech".to_owned(),
            6 => "ipv6hint".to_owned(),
            other => format!("key{other}"),
        };
        if !values.is_empty() {
            write!(text, "={}", values.join(",")).ok()?;
        }
        shorten(&mut text);
        Some(text)
    }
}

/// What an OPT record says about a response (RFC 6891).
#[derive(Default)]
struct Edns {
    /// What stands above the four bits of the header's response code.
    upper_code: u16,
    errors: Vec<ExtendedError>,
}

impl Edns {
    fn read(record: Record<'_>) -> Self {
        let mut edns = Self { upper_code: record.upper_code.into(), errors: Vec::new() };
        let mut options = record.data;
        while edns.errors.len() < MAX_ERRORS
            && let Some(option) = ExtendedError::next(&mut options)
        {
            edns.errors.extend(option);
        }
        edns
    }
}

/// What went wrong, in a server's words (RFC 8914).
struct ExtendedError {
    code: u16,
    text: String,
}

impl ExtendedError {
    /// Reads an option, which may be another one; `None` when there is no whole one.
    fn next(options: &mut Reader<'_>) -> Option<Option<Self>> {
        let (option, len) = (options.short()?, options.short()?);
        let mut data = options.part(len.into())?;
        if option != EXTENDED_ERROR {
            return Some(None);
        }
        let code = data.short()?;
        let text = data.take(data.len())?;
        Some(Some(Self { code, text: if text.is_empty() { String::new() } else { quoted(text) } }))
    }
}

impl ExtendedError {
    fn describe(&self, out: &mut impl Out) {
        out.open("");
        out.say("EDE ", "code", self.code);
        if let Some(name) = EXTENDED_ERRORS.get(usize::from(self.code)) {
            out.say(" (", "name", *name);
            out.words(")");
        }
        if !self.text.is_empty() {
            out.say(" ", "text", Ascii(&self.text));
        }
        out.close();
    }
}

/// By their codes (RFC 8914, section 4, and IANA's registry).
const EXTENDED_ERRORS: [&str; 28] = [
    "Other Error",
    "Unsupported DNSKEY Algorithm",
    "Unsupported DS Digest Type",
    "Stale Answer",
    "Forged Answer",
    "DNSSEC Indeterminate",
    "DNSSEC Bogus",
    "Signature Expired",
    "Signature Not Yet Valid",
    "DNSKEY Missing",
    "RRSIGs Missing",
    "No Zone Key Bit Set",
    "NSEC Missing",
    "Cached Error",
    "Not Ready",
    "Blocked",
    "Censored",
    "Filtered",
    "Prohibited",
    "Stale NXDomain Answer",
    "Not Authoritative",
    "Not Supported",
    "No Reachable Authority",
    "Network Error",
    "Invalid Data",
    "Signature Expired before Valid",
    "Too Early",
    "Unsupported NSEC3 Iterations Value",
];

/// A record's type, by its mnemonic in IANA's registry, or as RFC 3597 has it.
struct Type(u16);

impl Value for Type {
    fn text(&self, to: &mut Vec<u8>) {
        let name = match self.0 {
            TYPE_A => "A",
            TYPE_NS => "NS",
            TYPE_CNAME => "CNAME",
            6 => "SOA",
            TYPE_PTR => "PTR",
            TYPE_MX => "MX",
            TYPE_TXT => "TXT",
            TYPE_AAAA => "AAAA",
            TYPE_SRV => "SRV",
            35 => "NAPTR",
            TYPE_DNAME => "DNAME",
            TYPE_OPT => "OPT",
            43 => "DS",
            46 => "RRSIG",
            47 => "NSEC",
            48 => "DNSKEY",
            TYPE_SVCB => "SVCB",
            TYPE_HTTPS => "HTTPS",
            251 => "IXFR",
            252 => "AXFR",
            255 => "ANY",
            other => return Shown(format_args!("TYPE{other}")).text(to),
        };
        name.text(to);
    }
}

/// The operation in a header's flags; in text nothing for an ordinary query.
struct Opcode(u16);

impl Value for Opcode {
    fn text(&self, to: &mut Vec<u8>) {
        match self.0 >> 11 & 0xf {
            0 => {}
            4 => " notify".text(to),
            5 => " update".text(to),
            other => Shown(format_args!(" op{other}")).text(to),
        }
    }

    fn json(&self, to: &mut Vec<u8>) {
        (self.0 >> 11 & 0xf).json(to);
    }
}

/// The outcome, with what an OPT record adds to it; in text nothing when there was no error.
struct ResponseCode(u16);

impl Value for ResponseCode {
    fn text(&self, to: &mut Vec<u8>) {
        if self.0 > 0 {
            to.push(b' ');
            self.name(to);
        }
    }

    fn json(&self, to: &mut Vec<u8>) {
        to.push(b'"');
        self.name(to);
        to.push(b'"');
    }
}

impl ResponseCode {
    fn name(&self, to: &mut Vec<u8>) {
        let name = match self.0 {
            0 => "NoError",
            1 => "FormErr",
            2 => "ServFail",
            3 => "NXDomain",
            4 => "NotImp",
            5 => "Refused",
            6 => "YXDomain",
            7 => "YXRRSet",
            8 => "NXRRSet",
            9 => "NotAuth",
            10 => "NotZone",
            16 => "BadVers",
            23 => "BadCookie",
            other => return Shown(format_args!("Resp{other}")).text(to),
        };
        name.text(to);
    }
}
