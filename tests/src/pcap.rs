//! Capture files read by a parser that is not sniff's, and packets compared as multisets.

use std::{
    collections::HashMap,
    fmt::{self, Write as _},
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::Path,
};

use pcap_parser::{
    Block, EnhancedPacketBlock, InterfaceDescriptionBlock, InterfaceStatisticsBlock, OptionCode, PcapCapture,
    PcapNGOption, SectionHeaderBlock, nom, parse_block_le,
    pcapng::{NameRecord, NameRecordType, NameResolutionBlock},
};

/// How many differences a failed comparison shows.
const SHOWN: usize = 8;

/// Which way a packet went, from the pod's point of view.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// To the pod.
    In,
    /// From the pod.
    Out,
}

/// A packet of either file format.
#[derive(Clone, PartialEq, Eq)]
pub struct Packet {
    /// Index into [`PcapNg::interfaces`]; 0 in a classic file.
    pub interface: u32,
    /// Nanoseconds since 1970.
    pub timestamp_ns: u64,
    /// Length on the wire.
    pub original_len: u32,
    /// What was captured of it.
    pub data: Vec<u8>,
    /// From `epb_flags`.
    pub direction: Option<Direction>,
    /// Of `epb_flags`: the checksum is still to be filled in.
    pub checksum_not_ready: bool,
    /// `epb_dropcount`: packets lost since the one before.
    pub dropcount: Option<u64>,
    /// `epb_packetid`.
    pub packet_id: Option<u64>,
}

/// A pcapng file of one section.
#[derive(Debug)]
pub struct PcapNg {
    /// The section header.
    pub section: Section,
    /// Interface description blocks, in order.
    pub interfaces: Vec<Interface>,
    /// Enhanced packet blocks, in order.
    pub packets: Vec<Packet>,
    /// Interface statistics blocks, in order.
    pub statistics: Vec<Statistics>,
    /// What addresses are called, in order.
    pub names: Vec<(IpAddr, String)>,
}

/// A section header block.
#[derive(Debug)]
pub struct Section {
    /// `shb_hardware`.
    pub hardware: Option<String>,
    /// `shb_os`.
    pub os: Option<String>,
    /// `shb_userappl`.
    pub application: Option<String>,
    /// `opt_comment`.
    pub comment: Option<String>,
}

/// An interface description block.
#[derive(Debug)]
pub struct Interface {
    /// LINKTYPE value.
    pub link_type: i32,
    /// `SnapLen`.
    pub snaplen: u32,
    /// `if_name`.
    pub name: Option<String>,
    /// `if_description`.
    pub description: Option<String>,
    /// `opt_comment`, but for [`Self::facts`]; several are one here.
    pub comment: Option<String>,
    /// The `opt_comment` that tells of the pod, which is one by itself.
    pub facts: Option<String>,
    /// `if_filter`, when it is an expression of libpcap's.
    pub filter: Option<String>,
    /// `if_os`.
    pub os: Option<String>,
    /// `if_MACaddr`.
    pub mac: Option<Vec<u8>>,
    /// `if_IPv4addr`: addresses and masks.
    pub ipv4: Vec<(Ipv4Addr, Ipv4Addr)>,
    /// `if_IPv6addr`: addresses and prefix lengths.
    pub ipv6: Vec<(Ipv6Addr, u8)>,
    /// `if_tsresol`.
    pub tsresol: Option<u8>,
}

/// An interface statistics block.
#[derive(Debug)]
pub struct Statistics {
    /// Which interface.
    pub interface: u32,
    /// `isb_starttime`, nanoseconds since 1970.
    pub start_ns: Option<u64>,
    /// `isb_endtime`, nanoseconds since 1970.
    pub end_ns: Option<u64>,
    /// `isb_ifrecv`.
    pub ifrecv: Option<u64>,
    /// `isb_ifdrop`.
    pub ifdrop: Option<u64>,
    /// `isb_filteraccept`.
    pub filteraccept: Option<u64>,
    /// `isb_osdrop`.
    pub osdrop: Option<u64>,
    /// `isb_usrdeliv`.
    pub usrdeliv: Option<u64>,
    /// `opt_comment`.
    pub comment: Option<String>,
}

/// Reads a whole pcapng file.
///
/// # Panics
///
/// When anything in it cannot be parsed, the end included.
pub fn read_pcapng(file: &Path) -> PcapNg {
    parse_pcapng(&fs::read(file).unwrap_or_else(|error| panic!("{}: {error}", file.display())))
}

/// Parses pcapng; see [`read_pcapng`].
pub fn parse_pcapng(bytes: &[u8]) -> PcapNg {
    let (parsed, rest) = parse_blocks(bytes);
    assert!(rest.is_empty(), "cut or garbled: {} of {} bytes left", rest.len(), bytes.len());
    parsed
}

/// Reads a pcapng file that may end in the middle of a block, because its writer was killed or the
/// disk was full.
pub fn read_cut_pcapng(file: &Path) -> PcapNg {
    parse_blocks(&fs::read(file).expect("a capture file")).0
}

/// Reads a classic pcap file, of microseconds or nanoseconds.
pub fn read_pcap(file: &Path) -> Vec<Packet> {
    let bytes = fs::read(file).expect("a capture file");
    let capture = PcapCapture::from_file(&bytes).expect("a classic pcap file");
    let unit = if capture.header.is_nanosecond_precision() { 1 } else { 1000 };
    let packet = |block: &pcap_parser::LegacyPcapBlock<'_>| Packet {
        interface: 0,
        timestamp_ns: u64::from(block.ts_sec) * 1_000_000_000 + u64::from(block.ts_usec) * unit,
        original_len: block.origlen,
        data: block.data.to_vec(),
        direction: None,
        checksum_not_ready: false,
        dropcount: None,
        packet_id: None,
    };
    capture.blocks.iter().map(packet).collect()
}

/// Checks that two captures hold the same packets, in whatever order, and returns the pairs.
///
/// Packets are the same when their bytes and original lengths are; equal ones are paired in the
/// order of their timestamps.
///
/// # Panics
///
/// When a packet of one is missing in the other; the message shows the first few.
pub fn assert_same<'a>(
    (left_name, left): (&str, &'a [Packet]),
    (right_name, right): (&str, &'a [Packet]),
) -> Vec<(&'a Packet, &'a Packet)> {
    let mut unpaired = HashMap::<_, Vec<_>>::new();
    for packet in by_time(right).into_iter().rev() {
        unpaired.entry(packet.key()).or_default().push(packet);
    }
    let mut pairs = Vec::new();
    let mut only_left = Vec::new();
    for packet in by_time(left) {
        match unpaired.get_mut(&packet.key()).and_then(Vec::pop) {
            Some(twin) => pairs.push((packet, twin)),
            None => only_left.push(packet),
        }
    }
    let only_right: Vec<_> = unpaired.into_values().flatten().collect();
    let mut report = String::new();
    for (name, mut packets) in [(left_name, only_left), (right_name, only_right)] {
        packets.sort_by_key(|packet| packet.timestamp_ns);
        for packet in packets.iter().take(SHOWN) {
            writeln!(report, "only {name} ({} in all): {packet:?}", packets.len()).expect("memory");
        }
    }
    assert!(report.is_empty(), "{left_name} and {right_name} differ\n{report}");
    pairs
}

impl PcapNg {
    /// The packets of the interfaces called `name`: one has another block after a change of the filter.
    ///
    /// # Panics
    ///
    /// When there is none.
    pub fn packets_of(&self, name: &str) -> Vec<Packet> {
        let is_named = |id: u32| self.interfaces[id as usize].name.as_deref() == Some(name);
        assert!(
            (0..self.interfaces.len() as u32).any(is_named),
            "no interface {name} in {:?}",
            self.interfaces
        );
        self.packets.iter().filter(|packet| is_named(packet.interface)).cloned().collect()
    }
}

impl Packet {
    fn key(&self) -> (u32, &[u8]) {
        (self.original_len, &self.data)
    }
}

impl fmt::Debug for Packet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { interface, timestamp_ns, original_len, data, direction, dropcount, packet_id, .. } = self;
        write!(f, "{timestamp_ns} if{interface} {direction:?} {}/{original_len}", data.len())?;
        if let Some(count) = dropcount {
            write!(f, " dropcount {count}")?;
        }
        if let Some(id) = packet_id {
            write!(f, " id {id:#x}")?;
        }
        write!(f, " ")?;
        data.iter().take(64).try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

fn by_time(packets: &[Packet]) -> Vec<&Packet> {
    let mut sorted: Vec<_> = packets.iter().collect();
    sorted.sort_by_key(|packet| packet.timestamp_ns);
    sorted
}

/// Parses as many whole blocks as there are, and returns what follows them.
fn parse_blocks(mut rest: &[u8]) -> (PcapNg, &[u8]) {
    let mut section = None;
    let (mut interfaces, mut packets, mut statistics) = (Vec::new(), Vec::new(), Vec::new());
    let mut names = Vec::new();
    while !rest.is_empty() {
        let (after, block) = match parse_block_le(rest) {
            Ok(parsed) => parsed,
            Err(nom::Err::Incomplete(_)) => break,
            Err(error) => panic!("a bad block after {} packets: {error:?}", packets.len()),
        };
        match block {
            Block::SectionHeader(block) => {
                assert!(section.is_none(), "a second section");
                section = Some(read_section(&block));
            }
            Block::InterfaceDescription(block) => interfaces.push(read_interface(&block)),
            Block::EnhancedPacket(block) => packets.push(read_packet(&block, interfaces.len())),
            Block::InterfaceStatistics(block) => statistics.push(read_statistics(&block)),
            Block::NameResolution(block) => names.extend(read_names(&block)),
            other => panic!("a block that sniff does not write: {other:?}"),
        }
        rest = after;
    }
    let section = section.expect("a section header first");
    (PcapNg { section, interfaces, packets, statistics, names }, rest)
}

fn read_names(block: &NameResolutionBlock<'_>) -> Vec<(IpAddr, String)> {
    let read = |record: &NameRecord<'_>| {
        let (address, name): (IpAddr, _) = match record.record_type {
            NameRecordType::Ipv4 => {
                let (address, name) = record.record_value.split_first_chunk::<4>().expect("an address");
                ((*address).into(), name)
            }
            NameRecordType::Ipv6 => {
                let (address, name) = record.record_value.split_first_chunk::<16>().expect("an address");
                ((*address).into(), name)
            }
            other => panic!("a name of another kind: {other:?}"),
        };
        // Zeros end it, and fill up the record.
        (address, String::from_utf8(name.to_vec()).expect("UTF-8").trim_end_matches('\0').to_owned())
    };
    block.nr.iter().filter(|record| record.record_type != NameRecordType::End).map(read).collect()
}

fn read_section(block: &SectionHeaderBlock<'_>) -> Section {
    let text = |option: Option<Result<&str, _>>| option.map(|text| text.expect("UTF-8").to_owned());
    Section {
        hardware: text(block.shb_hardware()),
        os: text(block.shb_os()),
        application: text(block.shb_userappl()),
        comment: comments(&block.options).pop(),
    }
}

fn comments(options: &[PcapNGOption<'_>]) -> Vec<String> {
    let comments = options.iter().filter(|option| option.code == OptionCode::Comment);
    let text = |option: &PcapNGOption<'_>| {
        String::from_utf8_lossy(option.as_bytes().expect("an option")).into_owned()
    };
    comments.map(text).collect()
}

/// Comments as one text; `None` when there is none.
fn joined(comments: &[String]) -> Option<String> {
    (!comments.is_empty()).then(|| comments.join("; "))
}

/// Whether a comment is what is known of a pod, and nothing else.
fn is_of_pod(comment: &str) -> bool {
    let items = ["labels: ", "owner: ", "node: ", "images: ", "restarts: "];
    comment.lines().all(|line| items.iter().any(|item| line.starts_with(item)))
}

fn read_interface(block: &InterfaceDescriptionBlock<'_>) -> Interface {
    let (facts, others): (Vec<_>, Vec<_>) =
        comments(&block.options).into_iter().partition(|it| is_of_pod(it));
    assert!(facts.len() <= 1, "a pod is told of twice: {facts:?}");
    let text = |option: Option<Result<&str, _>>| option.map(|text| text.expect("UTF-8").to_owned());
    Interface {
        link_type: block.linktype.0,
        snaplen: block.snaplen,
        name: text(block.if_name()),
        description: text(block.if_description()),
        comment: joined(&others),
        facts: facts.into_iter().next(),
        filter: block
            .options
            .iter()
            .find(|option| option.code == OptionCode(11))
            .and_then(|option| option.as_bytes().expect("an option").strip_prefix(&[0]))
            .map(|text| String::from_utf8(text.to_vec()).expect("UTF-8")),
        os: text(block.if_os()),
        mac: block.if_macaddr().map(|mac| mac.expect("a MAC address").to_vec()),
        ipv4: block.if_ipv4addr().map(|all| all.expect("IPv4 addresses")).unwrap_or_default(),
        // Not by if_ipv6addr(), which in pcap-parser 0.17 looks for if_IPv4addr.
        ipv6: block
            .options
            .iter()
            .filter(|option| option.code == OptionCode(5))
            .map(|option| read_ipv6(option.as_bytes().expect("an option")))
            .collect(),
        tsresol: block.if_tsresol().map(|resolution| resolution.expect("a resolution")),
    }
}

/// `if_IPv6addr`: an address and one octet of prefix length.
fn read_ipv6(octets: &[u8]) -> (Ipv6Addr, u8) {
    let octets: [u8; 17] = octets.try_into().expect("17 octets");
    let [address @ .., prefix] = octets;
    (address.into(), prefix)
}

fn read_packet(block: &EnhancedPacketBlock<'_>, interfaces: usize) -> Packet {
    assert!((block.if_id as usize) < interfaces, "a packet of interface {}", block.if_id);
    // Options of an enhanced packet block: epb_flags is 2, epb_dropcount is 4, epb_packetid is 5.
    let option = |code| block.options.iter().find(|option| option.code == OptionCode(code));
    let flags = option(2).map(|flags| flags.as_u32_le().expect("32 bits of flags"));
    Packet {
        interface: block.if_id,
        timestamp_ns: u64::from(block.ts_high) << 32 | u64::from(block.ts_low),
        original_len: block.origlen,
        data: block.data[..block.caplen as usize].to_vec(),
        direction: match flags.unwrap_or_default() & 3 {
            1 => Some(Direction::In),
            2 => Some(Direction::Out),
            _ => None,
        },
        checksum_not_ready: flags.unwrap_or_default() >> 9 & 1 == 1,
        dropcount: option(4).map(|count| count.as_u64_le().expect("64 bits of drops")),
        packet_id: option(5).map(|id| id.as_u64_le().expect("64 bits of an id")),
    }
}

fn read_statistics(block: &InterfaceStatisticsBlock<'_>) -> Statistics {
    let number = |option: Option<Result<u64, _>>| option.map(|number| number.expect("64 bits"));
    let time = |option: Option<Result<(u32, u32), _>>| {
        option
            .map(|time| time.expect("a timestamp"))
            .map(|(high, low)| u64::from(high) << 32 | u64::from(low))
    };
    Statistics {
        interface: block.if_id,
        start_ns: time(block.isb_starttime()),
        end_ns: time(block.isb_endtime()),
        ifrecv: number(block.isb_ifrecv()),
        ifdrop: number(block.isb_ifdrop()),
        filteraccept: number(block.isb_filteraccept()),
        osdrop: number(block.isb_osdrop()),
        usrdeliv: number(block.isb_usrdeliv()),
        comment: joined(&comments(&block.options)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{machine::Machine, netns::tool, tcpdump::Tcpdump, traffic, wireshark};

    fn packet(timestamp_ns: u64, data: &[u8]) -> Packet {
        let original_len = data.len().try_into().expect("short");
        let data = data.to_vec();
        Packet {
            interface: 0,
            timestamp_ns,
            original_len,
            data,
            direction: None,
            checksum_not_ready: false,
            dropcount: None,
            packet_id: None,
        }
    }

    #[test]
    fn equal_packets_are_paired_in_the_order_of_time() {
        let left = [packet(3, b"a"), packet(1, b"a"), packet(2, b"b")];
        let right = [packet(10, b"a"), packet(20, b"b"), packet(30, b"a")];
        let pairs = assert_same(("left", &left), ("right", &right));
        let times: Vec<_> = pairs.iter().map(|(l, r)| (l.timestamp_ns, r.timestamp_ns)).collect();
        assert_eq!(times, [(1, 10), (2, 20), (3, 30)]);
    }

    #[test]
    #[should_panic(expected = "only right (1 in all): 2 if0 None 1/1 61")]
    fn a_packet_that_one_side_has_once_more_is_shown() {
        assert_same(("left", &[packet(1, b"a")]), ("right", &[packet(1, b"a"), packet(2, b"a")]));
    }

    /// Wireshark writes the same packets as pcapng, with an interface and statistics of its own.
    #[test]
    fn both_formats_of_one_capture_hold_the_same_packets() {
        let machine = Machine::boot();
        let pod = machine.fake_pod("blue", 1);
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("f.pcapng");
        let tcpdump = Tcpdump::start(&machine.netns(), &pod.veth.name, &["icmp"]);
        let mut dumpcap = machine.netns().spawn(
            tool("dumpcap")
                .args(["-q", "-i", &pod.veth.name, "-f", "icmp", "-c", "6", "-w"])
                .arg(&file)
                .stderr(std::process::Stdio::null()),
        );
        crate::wait::until("dumpcap's file", std::time::Duration::from_secs(5), || {
            fs::metadata(&file).is_ok_and(|file| file.len() > 0).then_some(())
        });
        traffic::ping(&machine.netns(), pod.ipv4.into(), 3, 56);
        assert!(dumpcap.wait().expect("dumpcap").success());
        wireshark::assert_clean(&file);
        assert_eq!(wireshark::count(&file, "icmp.type == 8"), 3);
        let parsed = read_pcapng(&file);
        assert_eq!(parsed.interfaces[0].name.as_deref(), Some(pod.veth.name.as_str()));
        assert_eq!(parsed.statistics[0].ifdrop, Some(0));
        assert_same(("tcpdump", &tcpdump.stop()), ("dumpcap", &parsed.packets));
    }
}
