//! What the lines of each interface begin with.

use std::collections::HashMap;

use sniff_pcapng::{InterfaceDescription, LinkType};

/// Colours of names, as terminals number them, in turn.
const COLORS: [u8; 6] = [36, 33, 32, 35, 34, 31];
/// Widest name that others are aligned with.
const MAX_ALIGNED: usize = 24;

/// The interfaces of a capture, by pcapng interface id.
///
/// A line names its interface by what tells it apart from the others: `web-0` and `db-0` for `shop/web-0/eth0` and
/// `shop/db-0/eth0`, and nothing where there is only one.
#[derive(Default)]
pub(super) struct Interfaces {
    described: Vec<Described>,
    /// Names in the order in which they came. One that is described anew, as with another filter, is the same.
    names: Vec<Name>,
    numbers: HashMap<String, u32>,
    /// What is to be known of the names, and what was said of it last.
    explanation: Option<String>,
    said: Option<String>,
    is_colored: bool,
}

/// An interface as it was described.
#[derive(Clone, Copy)]
pub(super) struct Described {
    /// Of its name among all.
    pub(super) number: u32,
    pub(super) link_type: LinkType,
}

struct Name {
    whole: String,
    /// What a line begins with, with the space behind it.
    prefix: String,
}

impl Interfaces {
    pub(super) fn new(is_colored: bool) -> Self {
        Self { is_colored, ..Self::default() }
    }

    /// Takes one more.
    pub(super) fn push(&mut self, description: &InterfaceDescription) {
        let next = self.names.len() as u32;
        let number = *self.numbers.entry(description.name.clone()).or_insert(next);
        self.described.push(Described { number, link_type: description.link_type });
        if number == next {
            self.names.push(Name { whole: description.name.clone(), prefix: String::new() });
            self.shorten();
        }
    }

    pub(super) fn get(&self, id: u32) -> Option<Described> {
        self.described.get(id as usize).copied()
    }

    /// The whole name.
    pub(super) fn name(&self, interface: Described) -> &str {
        &self.names[interface.number as usize].whole
    }

    /// What a line begins with.
    pub(super) fn prefix(&self, interface: Described) -> &str {
        &self.names[interface.number as usize].prefix
    }

    /// What is to be known to read the lines from here on, when that has changed.
    pub(super) fn news(&mut self) -> Option<String> {
        let news = self.explanation.take().filter(|news| self.said.as_ref() != Some(news))?;
        self.said = Some(news.clone());
        Some(news)
    }

    /// Finds out what tells the names apart.
    fn shorten(&mut self) {
        let parts: Vec<Vec<&str>> = self.names.iter().map(|name| name.whole.split('/').collect()).collect();
        let [first, others @ ..] = &parts[..] else { return };
        let whole = first.join("/");
        let is_common = |in_front: bool, count: usize| {
            others.iter().all(|other| match in_front {
                true => other.len() > count && other[..count] == first[..count],
                false => other.len() > count && other[other.len() - count..] == first[first.len() - count..],
            })
        };
        let most = |in_front, limit: usize| (0..=limit).rev().find(|&count| is_common(in_front, count));
        let in_front = most(true, first.len() - 1).unwrap_or(0);
        let shortest = parts.iter().map(Vec::len).min().unwrap_or(0);
        let behind = most(false, shortest - 1 - in_front).unwrap_or(0);
        let labels: Vec<String> = if others.is_empty() {
            self.explanation = Some(format!("these are the packets of {whole}"));
            vec![String::new()]
        } else {
            let star = [&first[..in_front], &["*"], &first[first.len() - behind..]].concat().join("/");
            self.explanation = (in_front + behind > 0)
                .then(|| format!("each line names what stands for the star in {star}"));
            let label = |parts: &Vec<&str>| parts[in_front..parts.len() - behind].join("/");
            parts.iter().map(|parts| label(parts).as_bytes().escape_ascii().to_string()).collect()
        };
        let width = labels.iter().map(String::len).filter(|len| *len <= MAX_ALIGNED).max().unwrap_or(0);
        for (number, (name, label)) in self.names.iter_mut().zip(&labels).enumerate() {
            let color = COLORS[number % COLORS.len()];
            name.prefix = match (label.is_empty(), self.is_colored) {
                (true, _) => String::new(),
                (false, true) => format!("\x1b[{color}m{label:<width$}\x1b[0m "),
                (false, false) => format!("{label:<width$} "),
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn interfaces(names: &[&str], is_colored: bool) -> Interfaces {
        let mut interfaces = Interfaces::new(is_colored);
        for name in names {
            interfaces.push(&InterfaceDescription::new(LinkType::Ethernet, 0, name));
        }
        interfaces
    }

    fn prefixes(names: &[&str]) -> Vec<String> {
        let interfaces = interfaces(names, false);
        let of = |id| interfaces.prefix(interfaces.get(id).unwrap()).to_owned();
        (0..names.len() as u32).map(of).collect()
    }

    #[test]
    fn lines_are_told_apart_by_what_differs() {
        assert_eq!(prefixes(&["shop/web-0/eth0"]), [""]);
        assert_eq!(prefixes(&["shop/web-0/eth0", "shop/db/eth0"]), ["web-0 ", "db    "]);
        assert_eq!(prefixes(&["shop/web-0/eth0", "pay/web-0/eth0"]), ["shop ", "pay  "]);
        assert_eq!(prefixes(&["shop/web-0/eth0", "shop/web-0/net1"]), ["eth0 ", "net1 "]);
        let three = ["shop/web-0/eth0", "shop/web-0/net1", "shop/db/eth0"];
        assert_eq!(prefixes(&three), ["web-0/eth0 ", "web-0/net1 ", "db/eth0    "]);
        assert_eq!(prefixes(&["eth0", "shop/web-0/eth0"]), ["eth0            ", "shop/web-0/eth0 "]);
        assert_eq!(prefixes(&["eth0", "eth1"]), ["eth0 ", "eth1 "]);
        assert_eq!(prefixes(&["a/a/a", "a/a/a/a"]), ["a   ", "a/a "]);
        let long = "x".repeat(60);
        assert_eq!(prefixes(&["a/b/eth0", &format!("a/{long}/eth0")]), ["b ", &format!("{long} ")]);
        assert_eq!(prefixes(&["a/x\x1b\n/e", "a/y/e"])[0], "x\\x1b\\n ");
    }

    #[test]
    fn an_interface_that_is_described_anew_is_no_other() {
        let interfaces = interfaces(&["shop/web-0/eth0", "shop/web-0/eth0"], false);
        assert_eq!(interfaces.get(1).unwrap().number, 0);
        assert_eq!(interfaces.prefix(interfaces.get(1).unwrap()), "");
        assert!(interfaces.get(2).is_none());
    }

    #[test]
    fn what_is_left_out_is_said_once() {
        let mut one = interfaces(&["shop/web-0/eth0"], false);
        assert_eq!(one.news().unwrap(), "these are the packets of shop/web-0/eth0");
        assert_eq!(one.news(), None);
        one.push(&InterfaceDescription::new(LinkType::Ethernet, 0, "shop/db/eth0"));
        assert_eq!(one.news().unwrap(), "each line names what stands for the star in shop/*/eth0");
        // One more that changes nothing.
        one.push(&InterfaceDescription::new(LinkType::Ethernet, 0, "shop/cart/eth0"));
        assert_eq!(one.news(), None);
        assert_eq!(interfaces(&["eth0", "eth1"], false).news(), None);
    }

    #[test]
    fn names_are_aligned_in_color_too() {
        let colored = interfaces(&["a/web-0/e", "a/b/e"], true);
        assert_eq!(colored.prefix(colored.get(1).unwrap()), "\x1b[33mb    \x1b[0m ");
    }
}
