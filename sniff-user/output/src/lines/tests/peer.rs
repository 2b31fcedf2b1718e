//! The lines of a file of one packet of each kind, beside those that tcpdump prints of it.

use std::collections::BTreeSet;

use super::*;

/// Packets of many protocols, from and to a pod's interface.
const PACKETS: &[u8] = include_bytes!("../data/lines.pcap");
/// What `tcpdump -nn -r lines.pcap` printed of them, version 4.99.3 with libpcap 1.10.3, with times in UTC.
const TCPDUMP: &str = include_str!("../data/lines.tcpdump.txt");
/// Where it is listed what is told otherwise, or left out.
const LISTED: &str = include_str!("../../../../../docs/lines.md");

/// The packets of a file in libpcap's format, little-endian with microseconds: time, length, bytes.
fn packets(mut file: &[u8]) -> Vec<(u64, usize, &[u8])> {
    let word = |bytes: &[u8], at: usize| u32::from_le_bytes(*bytes[at..].first_chunk().unwrap());
    assert_eq!(word(file, 0), 0xa1b2_c3d4);
    file = &file[24..];
    let mut packets = Vec::new();
    while !file.is_empty() {
        let (seconds, microseconds) = (u64::from(word(file, 0)), u64::from(word(file, 4)));
        let (captured, len) = (word(file, 8) as usize, word(file, 12) as usize);
        packets.push((seconds * 1_000_000_000 + microseconds * 1_000, len, &file[16..][..captured]));
        file = &file[16 + captured..];
    }
    packets
}

/// What is printed of each packet.
fn lines(style: Style) -> Vec<String> {
    let mut printer = printer(style, TimeZone::UTC, LinkType::Ethernet, &["eth0"]);
    let print = |(timestamp_ns, len, data)| {
        print(&mut printer, &EnhancedPacket { timestamp_ns, ..packet(data, len) })
    };
    packets(PACKETS).into_iter().map(print).collect()
}

/// What tcpdump printed of each packet: a line, and further ones that begin with no time.
fn lines_of_tcpdump() -> Vec<String> {
    let mut packets: Vec<String> = Vec::new();
    for line in TCPDUMP.lines() {
        match packets.last_mut() {
            Some(packet) if !line.starts_with("19:35:") => *packet += &format!(" {line}"),
            _ => packets.push(line.to_owned()),
        }
    }
    packets
}

/// Words and values, without what separates them.
fn words(line: &str) -> impl Iterator<Item = &str> {
    line.split([' ', ',', '[', ']', '{', '}', '(', ')', '|', '\t', '\n'])
        .map(|word| word.trim_end_matches(':'))
        .filter(|word| !word.is_empty())
}

/// Rows of the list: what tcpdump's line has in it, and the words that are not in ours.
fn listed() -> Vec<(String, Vec<&'static str>)> {
    let rows = LISTED.lines().filter_map(|line| line.strip_prefix("| `")?.split_once("` | `"));
    let words = |rest: &'static str| rest.split_once(" | ").unwrap().0.split('`').step_by(2).collect();
    // Rows of options have text behind the option.
    rows.map(|(kind, rest)| (kind.replace("\\|", "|"), words(rest))).collect()
}

#[test]
fn each_field_that_tcpdump_prints_is_there_or_in_the_list() {
    let (ours, theirs) = (lines(Style::default()), lines_of_tcpdump());
    assert_eq!(ours.len(), theirs.len());
    let listed = listed();
    let mut used = BTreeSet::new();
    for (our, their) in ours.iter().zip(&theirs) {
        let known: Vec<&str> = words(our).collect();
        for word in words(their).filter(|word| !known.contains(word)) {
            let mut rows =
                listed.iter().filter(|(kind, left_out)| their.contains(kind) && left_out.contains(&word));
            let (kind, _) = rows.next().unwrap_or_else(|| panic!("{word} of\n{their}\nis not in\n{our}"));
            used.insert((kind, word));
        }
    }
    for (kind, left_out) in &listed {
        for word in left_out {
            assert!(used.contains(&(kind, *word)), "{word} is in the list for {kind}, and nowhere left out");
        }
    }
}

/// The packets of protocols that are nowhere else in these tests.
pub(super) fn samples() -> Vec<Vec<u8>> {
    const FIRST: usize = 46;
    packets(PACKETS).into_iter().skip(FIRST).map(|(.., data)| data[..data.len().min(150)].to_vec()).collect()
}
