//! The two forms that a description of a packet takes: text for people, JSON for programs.
//!
//! A packet is described once, as a row of words and fields, from which both forms come: text has the words and the
//! fields' values, JSON the fields' names and values. What is fit for both is a [`Value`].

use std::{
    io::Write as _,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

/// Most bytes that are shown of a text that comes from a packet.
pub(super) const MAX_SHOWN: usize = 255;

/// Takes the description of a packet.
pub(super) trait Out {
    /// Whether all is to be told that is known.
    fn is_verbose(&self) -> bool;

    /// Whether checksums are to be verified.
    fn verifies(&self) -> bool;

    /// Whether as little is to be told as makes sense.
    fn is_brief(&self) -> bool;

    /// Words between fields, for people.
    fn words(&mut self, words: &str);

    /// A field.
    fn field(&mut self, name: &'static str, value: impl Value);

    /// A field that text tells in other words, or not at all.
    fn detail(&mut self, name: &'static str, value: impl Value);

    /// A value that JSON has elsewhere.
    fn aside(&mut self, value: impl Value);

    /// Begins fields that belong together. In a list, of fields or of values, no name matters.
    fn open(&mut self, name: &'static str);

    /// Begins a list.
    fn open_list(&mut self, name: &'static str);

    /// Ends what was begun last.
    fn close(&mut self);

    /// Words and the field that they stand in front of.
    fn say(&mut self, words: &str, name: &'static str, value: impl Value) {
        self.words(words);
        self.field(name, value);
    }

    /// Likewise, when all is to be told.
    fn add(&mut self, words: &str, name: &'static str, value: impl Value) {
        if self.is_verbose() {
            self.say(words, name, value);
        }
    }

    /// Says that a part of a packet was cut off or makes no sense, as tcpdump does.
    fn cut_off(&mut self, part: &'static str) {
        self.words("[|");
        self.field("cut_off", part);
        self.words("]");
    }
}

/// What a field may hold.
pub(super) trait Value {
    /// Appends it as text: printable ASCII.
    fn text(&self, to: &mut Vec<u8>);

    /// Appends it as JSON, in ASCII.
    fn json(&self, to: &mut Vec<u8>) {
        to.push(b'"');
        self.text(to);
        to.push(b'"');
    }
}

macro_rules! numbers {
    ($($number:ty),*) => {$(
        impl Value for $number {
            fn text(&self, to: &mut Vec<u8>) {
                to.extend_from_slice(itoa::Buffer::new().format(*self).as_bytes());
            }

            fn json(&self, to: &mut Vec<u8>) {
                self.text(to);
            }
        }
    )*};
}

numbers!(u8, u16, u32, u64, usize, i8);

impl Value for bool {
    fn text(&self, to: &mut Vec<u8>) {
        to.extend_from_slice(if *self { b"true" } else { b"false" });
    }

    fn json(&self, to: &mut Vec<u8>) {
        self.text(to);
    }
}

/// Words of this program's own.
impl Value for &'static str {
    fn text(&self, to: &mut Vec<u8>) {
        to.extend_from_slice(self.as_bytes());
    }
}

impl Value for Ipv4Addr {
    fn text(&self, to: &mut Vec<u8>) {
        let [a, b, c, d] = self.octets();
        a.text(to);
        for octet in [b, c, d] {
            to.push(b'.');
            octet.text(to);
        }
    }
}

impl Value for Ipv6Addr {
    fn text(&self, to: &mut Vec<u8>) {
        append(to, self);
    }
}

impl Value for IpAddr {
    fn text(&self, to: &mut Vec<u8>) {
        match self {
            Self::V4(address) => address.text(to),
            Self::V6(address) => address.text(to),
        }
    }
}

/// A number in hexadecimal, with `0x` and at least so many digits.
pub(super) struct Hex<const DIGITS: usize>(pub(super) u64);

impl<const DIGITS: usize> Value for Hex<DIGITS> {
    fn text(&self, to: &mut Vec<u8>) {
        append(to, format_args!("{:#0width$x}", self.0, width = DIGITS + 2));
    }
}

/// Bytes in hexadecimal.
pub(super) struct HexBytes<'a>(pub(super) &'a [u8]);

impl Value for HexBytes<'_> {
    fn text(&self, to: &mut Vec<u8>) {
        self.0.iter().for_each(|byte| push_hex(to, *byte));
    }
}

/// A MAC address.
#[derive(Clone, Copy)]
pub(super) struct Mac(pub(super) [u8; 6]);

impl Value for Mac {
    fn text(&self, to: &mut Vec<u8>) {
        for (place, byte) in self.0.into_iter().enumerate() {
            if place > 0 {
                to.push(b':');
            }
            push_hex(to, byte);
        }
    }
}

/// Appends a byte as two digits.
pub(super) fn push_hex(to: &mut Vec<u8>, byte: u8) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    to.extend_from_slice(&[DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 0xf)]]);
}

/// What something of this program's own shows as: printable ASCII without quotes and backslashes.
pub(super) struct Shown<T>(pub(super) T);

impl<T: std::fmt::Display> Value for Shown<T> {
    fn text(&self, to: &mut Vec<u8>) {
        append(to, &self.0);
    }
}

/// Text that comes from a packet: escaped, and no longer than is shown.
pub(super) struct Foreign<'a>(pub(super) &'a [u8]);

impl Value for Foreign<'_> {
    fn text(&self, to: &mut Vec<u8>) {
        let shown = &self.0[..self.0.len().min(MAX_SHOWN)];
        append(to, shown.escape_ascii());
        if shown.len() < self.0.len() {
            to.extend_from_slice(b"...");
        }
    }

    fn json(&self, to: &mut Vec<u8>) {
        let shown = &self.0[..self.0.len().min(MAX_SHOWN)];
        to.push(b'"');
        String::from_utf8_lossy(shown).encode_utf16().for_each(|unit| match u8::try_from(unit) {
            Ok(byte @ (b'"' | b'\\')) => to.extend_from_slice(&[b'\\', byte]),
            Ok(byte @ b' '..=b'~') => to.push(byte),
            _ => append(to, format_args!("\\u{unit:04x}")),
        });
        to.push(b'"');
    }
}

fn append(to: &mut Vec<u8>, shown: impl std::fmt::Display) {
    write!(to, "{shown}").expect("writing to memory does not fail");
}

/// Makes text.
pub(super) struct Text<'a> {
    /// What it is appended to.
    pub(super) to: &'a mut Vec<u8>,
    /// Whether all is to be told.
    pub(super) is_verbose: bool,
    /// Whether checksums are to be verified.
    pub(super) verifies: bool,
    /// Whether little is to be told.
    pub(super) is_brief: bool,
}

impl Out for Text<'_> {
    fn is_verbose(&self) -> bool {
        self.is_verbose
    }

    fn verifies(&self) -> bool {
        self.verifies
    }

    fn is_brief(&self) -> bool {
        self.is_brief
    }

    fn words(&mut self, words: &str) {
        self.to.extend_from_slice(words.as_bytes());
    }

    fn field(&mut self, _: &'static str, value: impl Value) {
        value.text(self.to);
    }

    fn detail(&mut self, _: &'static str, _: impl Value) {}

    fn aside(&mut self, value: impl Value) {
        value.text(self.to);
    }

    fn open(&mut self, _: &'static str) {}

    fn open_list(&mut self, _: &'static str) {}

    fn close(&mut self) {}
}

/// Makes a JSON object. A field that was there before is left out: of one that a packet has twice, the first counts.
pub(super) struct Json<'a> {
    to: &'a mut Vec<u8>,
    /// What is open, outermost first.
    open: Vec<Open>,
    /// Names of the fields of all objects that are open.
    names: Vec<&'static str>,
    /// Whether checksums are to be verified.
    verifies: bool,
    /// How many of the things that are open inside one that is left out.
    left_out: usize,
}

struct Open {
    is_list: bool,
    /// Where its names begin.
    names: usize,
    /// Where it begins, with its name and the comma before it.
    start: usize,
}

impl<'a> Json<'a> {
    /// Begins an object behind what is in `to`.
    pub(super) fn new(to: &'a mut Vec<u8>, verifies: bool) -> Self {
        let mut json = Self { to, open: Vec::new(), names: Vec::new(), verifies, left_out: 0 };
        json.begin(false, json.to.len());
        json
    }

    /// Ends the object.
    pub(super) fn end(mut self) {
        while !self.open.is_empty() {
            self.close();
        }
    }

    fn begin(&mut self, is_list: bool, start: usize) {
        self.to.push(if is_list { b'[' } else { b'{' });
        self.open.push(Open { is_list, names: self.names.len(), start });
    }

    /// Gets ready for a value; returns whether it is to be written.
    fn name(&mut self, name: &'static str) -> bool {
        let Some(open) = self.open.last() else { return false };
        if self.left_out > 0 || !open.is_list && self.names[open.names..].contains(&name) {
            return false;
        }
        if !self.is_at_start() {
            self.to.push(b',');
        }
        if !open.is_list {
            self.names.push(name);
            name.json(self.to);
            self.to.push(b':');
        }
        true
    }

    /// Whether nothing is yet in what was opened last: no value ends as one begins.
    fn is_at_start(&self) -> bool {
        matches!(self.to.last(), Some(b'{' | b'['))
    }

    fn open_any(&mut self, name: &'static str, is_list: bool) {
        let start = self.to.len();
        if self.name(name) {
            self.begin(is_list, start);
        } else {
            self.left_out += 1;
        }
    }
}

impl Out for Json<'_> {
    fn is_verbose(&self) -> bool {
        true
    }

    fn verifies(&self) -> bool {
        self.verifies
    }

    fn is_brief(&self) -> bool {
        false
    }

    fn words(&mut self, _: &str) {}

    fn field(&mut self, name: &'static str, value: impl Value) {
        if self.name(name) {
            value.json(self.to);
        }
    }

    fn detail(&mut self, name: &'static str, value: impl Value) {
        self.field(name, value);
    }

    fn aside(&mut self, _: impl Value) {}

    fn open(&mut self, name: &'static str) {
        self.open_any(name, false);
    }

    fn open_list(&mut self, name: &'static str) {
        self.open_any(name, true);
    }

    fn close(&mut self) {
        if self.left_out > 0 {
            self.left_out -= 1;
            return;
        }
        let Some(open) = self.open.pop() else { return };
        self.names.truncate(open.names);
        match self.open.last() {
            // What has nothing in it is left out.
            Some(around) if self.is_at_start() => {
                self.to.truncate(open.start);
                if !around.is_list {
                    self.names.pop();
                }
            }
            _ => self.to.push(if open.is_list { b']' } else { b'}' }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_row_of_words_and_fields_gives_text_and_json() {
        fn row(out: &mut impl Out) {
            out.say("id ", "id", 7_u16);
            out.detail("only_json", true);
            out.aside(5_u8);
            out.open("name");
            out.say(" is ", "of", Foreign(b"a\"\n\xc3\xa4\x1b[\xff"));
            out.open("nothing");
            out.close();
            out.close();
            out.open_list("list");
            out.say(" ", "", Ipv4Addr::new(10, 255, 0, 1));
            out.open("");
            out.say(" ", "deep", Hex::<4>(0x1f));
            out.close();
            out.close();
        }
        let mut text = Vec::new();
        row(&mut Text { to: &mut text, is_verbose: false, verifies: true, is_brief: false });
        assert_eq!(text, br#"id 75 is a\"\n\xc3\xa4\x1b[\xff 10.255.0.1 0x001f"#);
        let mut to = Vec::new();
        let mut json = Json::new(&mut to, true);
        row(&mut json);
        json.end();
        let expected = r#"{"id":7,"only_json":true,"name":{"of":"a\"\u000a\u00e4\u001b[\ufffd"},"list":["10.255.0.1",{"deep":"0x001f"}]}"#;
        assert_eq!(String::from_utf8(to).unwrap(), expected);
    }

    #[test]
    fn of_fields_with_one_name_json_has_the_first() {
        let mut to = Vec::new();
        let mut json = Json::new(&mut to, true);
        json.field("a", 1_u8);
        json.open("a");
        json.open_list("b");
        json.field("", 2_u8);
        json.close();
        json.close();
        json.open("c");
        json.field("a", 3_u8);
        json.end();
        assert_eq!(to, br#"{"a":1,"c":{"a":3}}"#);
    }
}
