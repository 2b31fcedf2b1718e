//! Names from the DNS answers among the packets, for those who ask for them.
//!
//! They go to the sink as blocks of names, in front of the packet that has the answer. Addresses whose names come from
//! elsewhere, those of pods and services, keep them: anybody whose packets are captured can send an answer, and so these names
//! are worth as much as the packets.

#[cfg(unix)]
use std::os::fd::BorrowedFd;
use std::{collections::HashSet, io, net::IpAddr};

use log::warn;
use sniff_pcapng::{
    AnyBlock, BlockType, EnhancedPacket, InterfaceDescription, LinkType, MAX_NAMES, Names, blocks,
};

use crate::{Sink, lines::dns_addresses};

/// Most addresses that are named by answers: the rest is for pods and services.
const MOST: usize = MAX_NAMES / 4;

/// A sink that is told what DNS answers call addresses.
pub struct DnsNames {
    sink: Box<dyn Sink>,
    /// By pcapng interface id.
    link_types: Vec<LinkType>,
    /// Addresses that have their names from elsewhere.
    known: HashSet<IpAddr>,
    /// What answers said of others.
    learned: Names,
    /// How many there are.
    count: usize,
    is_full: bool,
}

impl DnsNames {
    /// In front of another sink.
    pub fn new(sink: Box<dyn Sink>) -> Self {
        let (link_types, known, learned) = (Vec::new(), HashSet::new(), Names::default());
        Self { sink, link_types, known, learned, count: 0, is_full: false }
    }

    /// What is news in blocks, and where the packet is that tells the first of it.
    fn news(&mut self, bytes: &[u8]) -> Option<(usize, Names)> {
        let (mut first, mut news, mut at) = (None, Names::default(), 0);
        for block in blocks(bytes) {
            if let Ok(packet) = EnhancedPacket::parse(block) {
                if self.learn(&packet, &mut news) {
                    first.get_or_insert(at);
                }
            } else if AnyBlock::first(block).is_ok_and(|block| block.block_type == BlockType::Names) {
                self.known.extend(Names::parse(block).unwrap_or_default().addresses());
            }
            at += block.len();
        }
        first.map(|first| (first, news))
    }

    /// Learns from a packet, and returns whether that is news, which is added to `news`.
    fn learn(&mut self, packet: &EnhancedPacket<'_>, news: &mut Names) -> bool {
        let Some(&link_type) = self.link_types.get(packet.interface as usize) else { return false };
        let len = packet.data.len().max(packet.original_len as usize);
        let Some((name, addresses)) = dns_addresses(link_type, packet.data, len) else { return false };
        // An address that is called as another is would be taken for that.
        if name.parse::<IpAddr>().is_ok() {
            return false;
        }
        let mut is_news = false;
        for address in addresses.into_iter().map(|it| it.to_canonical()).filter(|it| can_be_named(*it)) {
            let is_new = self.learned.get(address).is_none();
            if self.known.contains(&address) || is_new && !self.has_room() {
                continue;
            }
            if self.learned.insert(address, &name) {
                self.count += usize::from(is_new);
                news.insert(address, &name);
                is_news = true;
            }
        }
        is_news
    }

    /// Whether one more address can have a name; says once when it cannot.
    fn has_room(&mut self) -> bool {
        let has_room = self.count < MOST;
        if !has_room && !self.is_full {
            self.is_full = true;
            warn!("DNS answers have named {MOST} addresses: others that they tell of get no names");
        }
        has_room
    }
}

impl Sink for DnsNames {
    fn interface(&mut self, description: &InterfaceDescription) {
        self.link_types.push(description.link_type);
        self.sink.interface(description);
    }

    fn write(&mut self, bytes: &[u8]) -> (usize, io::Result<()>) {
        let Some((at, news)) = self.news(bytes) else { return self.sink.write(bytes) };
        let (before, behind) = bytes.split_at(at);
        if !before.is_empty() {
            let (written, result) = self.sink.write(before);
            if result.is_err() {
                return (written, result);
            }
        }
        let mut names = Vec::new();
        news.write(&mut names);
        if let (_, Err(error)) = self.sink.write(&names) {
            return (at, Err(error));
        }
        let (written, result) = self.sink.write(behind);
        (at + written, result)
    }

    #[cfg(unix)]
    fn reader(&self) -> Option<BorrowedFd<'_>> {
        self.sink.reader()
    }
}

/// Whether it is the address of one machine that others can reach.
fn can_be_named(address: IpAddr) -> bool {
    !address.is_unspecified() && !address.is_loopback() && !address.is_multicast()
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use sniff_pcapng::{SectionHeader, testing::RingPacket};

    use super::*;

    const A: u16 = 1;
    const CNAME: u16 = 5;
    const AAAA: u16 = 28;

    /// A sink that keeps what it gets.
    #[derive(Clone, Default)]
    struct Kept(Arc<Mutex<Vec<u8>>>);

    impl Sink for Kept {
        fn interface(&mut self, _: &InterfaceDescription) {}

        fn write(&mut self, blocks: &[u8]) -> (usize, io::Result<()>) {
            self.0.lock().unwrap().extend(blocks);
            (blocks.len(), Ok(()))
        }

        #[cfg(unix)]
        fn reader(&self) -> Option<BorrowedFd<'_>> {
            None
        }
    }

    impl Kept {
        /// Names and packets as they came.
        fn told(&self) -> Vec<String> {
            let kept = self.0.lock().unwrap();
            let told = blocks(&kept).map(|block| match AnyBlock::first(block).unwrap().block_type {
                BlockType::Names => {
                    let names = Names::parse(block).unwrap();
                    let named = names.addresses().map(|it| format!("{it} {}", names.get(it).unwrap()));
                    named.collect::<Vec<_>>().join(", ")
                }
                BlockType::Packet => "packet".to_owned(),
                other => format!("{other:?}"),
            });
            told.collect()
        }
    }

    fn label(name: &str) -> Vec<u8> {
        let labels = name.split('.').map(|label| [&[label.len() as u8], label.as_bytes()].concat());
        [labels.collect::<Vec<_>>().concat(), vec![0]].concat()
    }

    fn record(owner: &[u8], kind: u16, data: &[u8]) -> Vec<u8> {
        let head = [&kind.to_be_bytes()[..], &1_u16.to_be_bytes(), &60_u32.to_be_bytes()].concat();
        [owner, &head, &(data.len() as u16).to_be_bytes(), data].concat()
    }

    fn response(flags: u16, asked: &str, kind: u16, answers: &[Vec<u8>]) -> Vec<u8> {
        let counts = [7, flags, 1, answers.len() as u16, 0, 0];
        let head: Vec<u8> = counts.into_iter().flat_map(u16::to_be_bytes).collect();
        [&head[..], &label(asked), &kind.to_be_bytes(), &1_u16.to_be_bytes(), &answers.concat()].concat()
    }

    /// A packet block on interface 0, which is of raw IP, from this port.
    fn packet_from(port: u16, message: &[u8], cut: u32) -> Vec<u8> {
        let len = 28 + message.len() as u16;
        let ip = [&[0x45, 0][..], &len.to_be_bytes(), &[0, 1, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]];
        let udp = [port, 4711, len - 20, 0].map(u16::to_be_bytes).concat();
        let data = [&ip.concat()[..], &udp, message].concat();
        let data = &data[..data.len() - cut as usize];
        RingPacket { time_ns: 1, data, cut, ..RingPacket::default() }.block()
    }

    fn packet(message: &[u8]) -> Vec<u8> {
        packet_from(53, message, 0)
    }

    fn names(address: [u8; 4], name: &str) -> Vec<u8> {
        let (mut names, mut block) = (Names::default(), Vec::new());
        names.insert(address.into(), name);
        names.write(&mut block);
        block
    }

    /// What comes of these blocks, given at once, behind what a file begins with.
    fn told(given: &[Vec<u8>]) -> Vec<String> {
        let kept = Kept::default();
        let mut sink = DnsNames::new(Box::new(kept.clone()));
        let description = InterfaceDescription::new(LinkType::Raw, 0, "a");
        sink.interface(&description);
        let mut all = Vec::new();
        SectionHeader::default().write(&mut all);
        description.write(&mut all);
        all.extend(given.concat());
        assert_eq!((sink.write(&all).0, all.len()), (all.len(), all.len()));
        let told = kept.told();
        assert_eq!(told[..2], ["Section", "Interface"]);
        told[2..].to_vec()
    }

    fn query(message: &[u8]) -> Vec<u8> {
        packet_from(4711, message, 0)
    }

    #[test]
    fn answers_name_addresses_in_front_of_their_packets() {
        // A pointer to the question, and one to a name in an answer's data.
        let chain = [
            record(&[0xc0, 12], CNAME, &[&[4][..], b"edge", &[0xc0, 16]].concat()),
            record(&[0xc0, 12 + 17 + 12], A, &[192, 0, 2, 1]),
            record(&label("edge.example"), A, &[192, 0, 2, 2]),
        ];
        // wWw.example: the question takes 13 bytes of a name and 4 more.
        let message = response(0x8180, "wWw.example", A, &chain);
        let expected = ["packet", "192.0.2.1 www.example, 192.0.2.2 www.example", "packet", "packet"];
        assert_eq!(told(&[query(&message), packet(&message), packet(&message)]), expected);
        let address: [u8; 16] = "2001:db8::1".parse::<std::net::Ipv6Addr>().unwrap().octets();
        let message = response(0x8580, "six.example", AAAA, &[record(&[0xc0, 12], AAAA, &address)]);
        assert_eq!(told(&[packet(&message)]), ["2001:db8::1 six.example", "packet"]);
    }

    #[test]
    fn an_address_is_called_what_was_said_last() {
        let of = |name: &str| packet(&response(0x8180, name, A, &[record(&[0xc0, 12], A, &[192, 0, 2, 1])]));
        let kept = Kept::default();
        let mut sink = DnsNames::new(Box::new(kept.clone()));
        sink.interface(&InterfaceDescription::new(LinkType::Raw, 0, "a"));
        for name in ["a.example", "b.example", "b.example", "a.example"] {
            assert!(sink.write(&of(name)).1.is_ok());
        }
        let [a, b] = ["192.0.2.1 a.example", "192.0.2.1 b.example"];
        assert_eq!(kept.told(), [a, "packet", b, "packet", "packet", a, "packet"]);
    }

    #[test]
    fn pods_and_services_keep_their_names() {
        let message = response(
            0x8180,
            "evil.example",
            A,
            &[1, 2].map(|last| record(&[0xc0, 12], A, &[10, 0, 0, last])),
        );
        let pod = names([10, 0, 0, 1], "web-0.shop");
        assert_eq!(
            told(&[pod.clone(), packet(&message)]),
            ["10.0.0.1 web-0.shop", "10.0.0.2 evil.example", "packet"]
        );
        // One that becomes known later is called by its name from then on.
        let told = told(&[packet(&message), pod, packet(&message)]);
        assert_eq!(told[1..], ["packet", "10.0.0.1 web-0.shop", "packet"]);
    }

    #[test]
    fn what_is_no_answer_names_nothing() {
        let own = [record(&[0xc0, 12], A, &[192, 0, 2, 1])];
        let of = |flags, asked: &str, kind, answers: &[Vec<u8>]| response(flags, asked, kind, answers);
        let other_class = {
            let mut answer = own[0].clone();
            answer[5] = 3;
            of(0x8180, "a.example", A, &[answer])
        };
        let nothing = [
            of(0x0100, "a.example", A, &own),   // a query
            of(0x8183, "a.example", A, &own),   // an error
            of(0xa800, "a.example", A, &own),   // an update
            of(0x8180, "a.example", 255, &own), // any type
            of(0x8180, "a.example", A, &[record(&label("b.example"), A, &[192, 0, 2, 1])]), // another's
            of(0x8180, "a.example", A, &[record(&[0xc0, 12], A, &[192, 0, 2])]),
            of(0x8180, "a.example", A, &[record(&[0xc0, 12], AAAA, &[0; 4])]),
            of(0x8180, "10.0.0.9", A, &own),
            of(0x8180, "a.example", A, &[record(&[0xc0, 12], A, &[127, 0, 0, 1])]),
            of(0x8180, "a.example", A, &[record(&[0xc0, 12], A, &[0, 0, 0, 0])]),
            of(0x8180, "a.example", A, &[record(&[0xc0, 12], A, &[224, 0, 0, 1])]),
            other_class,
        ];
        for message in nothing {
            assert_eq!(told(&[packet(&message)]), ["packet"], "{message:?}");
        }
        let message = of(0x8180, "a.example", A, &own);
        assert_eq!(told(&[packet_from(5353, &message, 0)]), ["packet"]);
    }

    #[test]
    fn of_what_is_cut_off_or_lies_there_is_what_is_there() {
        let answers = [1, 2].map(|last| record(&[0xc0, 12], A, &[192, 0, 2, last]));
        let message = response(0x8380, "a.example", A, &answers);
        assert_eq!(told(&[packet_from(53, &message, 1)]), ["192.0.2.1 a.example", "packet"]);
        for cut in 17..message.len() as u32 + 28 {
            let told = told(&[packet_from(53, &message, cut)]);
            assert_eq!(told.last().map(String::as_str), Some("packet"));
        }
        for at in 0..message.len() {
            for byte in [0, 12, 0x3f, 0xc0, 0xff] {
                let mut lying = message.clone();
                lying[at] = byte;
                let told = told(&[packet(&lying)]);
                assert_eq!(told.last().map(String::as_str), Some("packet"));
            }
        }
        // Aliases in a circle, and pointers that only lead to pointers.
        let circle = ["a.example", "b.example"];
        let circle = [[0, 1], [1, 0]].map(|[of, to]| record(&label(circle[of]), CNAME, &label(circle[to])));
        assert_eq!(told(&[packet(&response(0x8180, "a.example", A, &circle))]), ["packet"]);
        let pointers: Vec<u8> = (0..200_u16).flat_map(|n| (0xc00c + 2 * n).to_be_bytes()).collect();
        let long = [record(&[0], 16, &pointers), record(&[0xc1, 0x80], A, &[192, 0, 2, 1])];
        assert_eq!(told(&[packet(&response(0x8180, "a.example", A, &long))]), ["packet"]);
        let hostile = response(0x8180, "a\x1b[31m b.\0x", A, &[record(&[0xc0, 12], A, &[192, 0, 2, 1])]);
        let told = told(&[packet(&hostile)]);
        assert_eq!(told, ["192.0.2.1 a_x1b_31m_b._x00x", "packet"]);
    }

    #[test]
    fn no_more_addresses_are_named_than_there_is_room_for() {
        let kept = Kept::default();
        let mut sink = DnsNames::new(Box::new(kept.clone()));
        sink.interface(&InterfaceDescription::new(LinkType::Raw, 0, "a"));
        for part in 0..=(MOST / 64) as u32 {
            let address = |n: u32| (0x0a00_0000 + part * 64 + n).to_be_bytes();
            let answers: Vec<_> = (1..=64).map(|n| record(&[0xc0, 12], A, &address(n))).collect();
            assert!(sink.write(&packet(&response(0x8180, "a.example", A, &answers))).1.is_ok());
        }
        let kept = kept.told();
        let named: usize = kept.iter().map(|told| told.matches("a.example").count()).sum();
        assert_eq!((named, kept.len()), (MOST, 2 * MOST / 64 + 1));
    }
}
