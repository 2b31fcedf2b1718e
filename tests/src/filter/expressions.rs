//! The table of expressions, `expressions.txt`, and what it says of each.

use super::LinkType;

const TABLE: &str = include_str!("expressions.txt");

/// What becomes of an expression with one link type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expected {
    /// Matches packets of the corpus and rejects others.
    Some,
    /// Matches all of them.
    All,
    /// Matches none of them.
    None,
    /// libpcap refuses it.
    Refused,
    /// libpcap compiles it to a program that the kernel refuses, and so does sniff.
    NotForKernel,
    /// The kernel's classic BPF and libpcap's interpreter disagree about some packets.
    Disputed,
    /// Asks for what is not in the packet's bytes.
    MetaData,
}

/// A line of the table.
#[derive(Clone, Copy, Debug)]
pub struct Entry {
    /// The expression.
    pub text: &'static str,
    ethernet: Expected,
    raw_ip: Expected,
}

impl Expected {
    /// Whether a program comes of it that all engines can run.
    pub fn runs(self) -> bool {
        !matches!(self, Self::Refused | Self::NotForKernel | Self::MetaData)
    }
}

impl Entry {
    /// What becomes of it.
    pub fn expected(&self, link_type: LinkType) -> Expected {
        match link_type {
            LinkType::Ethernet => self.ethernet,
            LinkType::Raw => self.raw_ip,
        }
    }
}

/// The whole table.
///
/// # Panics
///
/// When a line of it cannot be read.
pub fn table() -> Vec<Entry> {
    TABLE.lines().filter(|line| !line.is_empty() && !line.starts_with('#')).map(parse).collect()
}

fn parse(line: &'static str) -> Entry {
    let parsed = line.split_at_checked(2).and_then(|(marks, text)| {
        let [ethernet, raw_ip] = *marks.as_bytes() else {
            return None;
        };
        Some(Entry { text: text.trim(), ethernet: expected(ethernet)?, raw_ip: expected(raw_ip)? })
    });
    parsed.unwrap_or_else(|| panic!("not a line of the table: {line:?}"))
}

fn expected(mark: u8) -> Option<Expected> {
    Some(match mark {
        b's' => Expected::Some,
        b'a' => Expected::All,
        b'n' => Expected::None,
        b'-' => Expected::Refused,
        b'k' => Expected::NotForKernel,
        b'd' => Expected::Disputed,
        b'm' => Expected::MetaData,
        _ => return None,
    })
}
