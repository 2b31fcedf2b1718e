//! What addresses are called: the Name Resolution Block (draft section 4.4).
//!
//! Names come from a runtime, an API server or a packet, and end up in files and on terminals: what is kept of one is what a
//! DNS name may have.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use anyhow::{Context as _, Result, ensure};

use super::{
    block::Block,
    packet::{fixed, take_option},
};

pub(super) const BLOCK_TYPE: u32 = 4;

const RECORD_IPV4: u16 = 1;
const RECORD_IPV6: u16 = 2;

/// Where the records of a block begin.
const RECORDS: usize = 8;
/// Longest name: that of DNS.
const MAX_NAME: usize = 253;
/// What a name may have besides letters and digits.
const IN_NAMES: &[char] = &['-', '_', '.'];
/// Most addresses that have a name. Large clusters have 150,000 pods; a table costs some 100 bytes for each.
pub const MAX_NAMES: usize = 1 << 18;
/// Names in a block. A longest one takes 276 bytes, so a block has at most 141 KiB, which a reader takes.
const IN_A_BLOCK: usize = 512;

/// A table of names, by address.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Names(BTreeMap<IpAddr, String>);

impl Names {
    /// Has an address be called `name` from now on, and returns whether that is news. Of a name, ASCII letters, digits, `-`,
    /// `_` and `.` are kept, 253 at most, and anything else is an `_`; an empty one is none.
    pub fn insert(&mut self, address: IpAddr, name: &str) -> bool {
        let (address, name) = (address.to_canonical(), keep(name, IN_NAMES, MAX_NAME));
        let is_news = self.get(address) != Some(&name);
        let has_room = self.0.len() < MAX_NAMES || self.0.contains_key(&address);
        if name.is_empty() || address.is_unspecified() || !is_news || !has_room {
            return false;
        }
        self.0.insert(address, name);
        true
    }

    /// What an address is called.
    pub fn get(&self, address: IpAddr) -> Option<&str> {
        self.0.get(&address.to_canonical()).map(String::as_str)
    }

    /// Takes over all that another table has; returns what of it is news.
    pub fn update(&mut self, others: &Self) -> Self {
        let news = others.0.iter().filter(|(address, name)| self.insert(**address, name));
        Self(news.map(|(address, name)| (*address, name.clone())).collect())
    }

    /// The addresses that have a name.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.0.keys().copied()
    }

    /// Whether no address has a name.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Appends blocks with all names to `out`: none when there is no name.
    pub fn write(&self, out: &mut Vec<u8>) {
        let mut names = self.0.iter().peekable();
        while names.peek().is_some() {
            let mut block = Block::begin(out, BLOCK_TYPE);
            for (address, name) in names.by_ref().take(IN_A_BLOCK) {
                let name = [name.as_bytes(), &[0]].concat();
                // A record is laid out as an option is.
                match address {
                    IpAddr::V4(address) => {
                        block.option(RECORD_IPV4, &[&address.octets()[..], &name].concat());
                    }
                    IpAddr::V6(address) => {
                        block.option(RECORD_IPV6, &[&address.octets()[..], &name].concat());
                    }
                }
            }
            block.end_records();
            block.end();
        }
    }

    /// Reads a block. Of an address with several names, it is the first; records of other kinds are passed over.
    ///
    /// # Errors
    ///
    /// When it is cut, or its records exceed it or are not what they should be.
    pub fn parse(block: &[u8]) -> Result<Self> {
        let end = block.len().saturating_sub(4);
        let mut records = block.get(RECORDS..end).context("names are cut off")?;
        let mut read = Self::default();
        while let Some((kind, value)) = take_option(&mut records)? {
            let address_len = match kind {
                RECORD_IPV4 => size_of::<Ipv4Addr>(),
                RECORD_IPV6 => size_of::<Ipv6Addr>(),
                _ => continue,
            };
            ensure!(value.len() > address_len, "a name without an address");
            let (address, names) = value.split_at(address_len);
            let address: IpAddr = match kind {
                RECORD_IPV4 => fixed::<4>(kind, address)?.into(),
                _ => fixed::<16>(kind, address)?.into(),
            };
            let first = names.split(|byte| *byte == 0).next().unwrap_or_default();
            read.insert(address, &String::from_utf8_lossy(first));
        }
        Ok(read)
    }
}

/// What is kept of a word: ASCII letters, digits and these others, `most` of them. Anything else is an `_`.
pub(super) fn keep(word: &str, others: &[char], most: usize) -> String {
    let is_kept = |char: &char| char.is_ascii_alphanumeric() || others.contains(char);
    word.chars().take(most).map(|char| Some(char).filter(is_kept).unwrap_or('_')).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{AnyBlock, BlockType, blocks};

    fn table(names: &[(&str, &str)]) -> Names {
        let mut table = Names::default();
        names.iter().for_each(|(address, name)| {
            table.insert(address.parse().unwrap(), name);
        });
        table
    }

    fn blocks_of(names: &Names) -> Vec<u8> {
        let mut out = Vec::new();
        names.write(&mut out);
        out
    }

    #[test]
    fn names_are_laid_out_as_the_draft_has_it() {
        let block = blocks_of(&table(&[("10.1.2.3", "web-0.shop"), ("fd00::3", "db")]));
        let expected = [
            &4_u32.to_ne_bytes()[..],
            &64_u32.to_ne_bytes(),
            &[1_u16.to_ne_bytes(), 15_u16.to_ne_bytes()].concat(),
            b"\x0a\x01\x02\x03web-0.shop\0\0",
            &[2_u16.to_ne_bytes(), 19_u16.to_ne_bytes()].concat(),
            b"\xfd\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x03db\0\0",
            &[0; 4],
            &[0; 4],
            &64_u32.to_ne_bytes(),
        ]
        .concat();
        assert_eq!(block, expected);
    }

    #[test]
    fn names_are_read_as_they_are_written() {
        let mut many = table(&[("fd00::1", "a.b"), ("255.255.255.255", "all")]);
        for n in 0..2_000_u32 {
            many.insert(IpAddr::from(n.to_be_bytes()), &format!("pod-{n}.shop"));
        }
        let written = blocks_of(&many);
        let mut read = Names::default();
        for block in blocks(&written) {
            assert_eq!(AnyBlock::first(block).unwrap().block_type, BlockType::Names);
            read.update(&Names::parse(block).unwrap());
        }
        assert_eq!(read, many);
        assert!(blocks_of(&Names::default()).is_empty());
    }

    #[test]
    fn a_name_that_lies_does_no_harm() {
        let names = table(&[("10.0.0.1", "a\0b\n\x1b[31mö"), ("10.0.0.2", &"x".repeat(70_000)), ("::", "y")]);
        assert_eq!(names.get("10.0.0.1".parse().unwrap()), Some("a_b___31m_"));
        assert_eq!(names.get("10.0.0.2".parse().unwrap()).map(str::len), Some(253));
        assert_eq!(names.0.len(), 2);
        let block = blocks_of(&names);
        for at in 8..block.len() {
            let mut lying = block.clone();
            lying[at] = 0xff;
            // Whatever comes of these, it is no panic.
            let _ = Names::parse(&lying);
            let _ = Names::parse(&block[..at]);
        }
    }

    #[test]
    fn only_news_are_told() {
        let mut names = table(&[("10.0.0.1", "a"), ("10.0.0.2", "b")]);
        let news = names.update(&table(&[("10.0.0.1", "a"), ("::ffff:10.0.0.2", "c"), ("10.0.0.3", "d")]));
        assert_eq!(news, table(&[("10.0.0.2", "c"), ("10.0.0.3", "d")]));
        assert_eq!(names, table(&[("10.0.0.1", "a"), ("10.0.0.2", "c"), ("10.0.0.3", "d")]));
    }
}
