//! What a file tells of an interface: the Interface Description Block before its first packet (draft section 4.2),
//! and the Interface Statistics Block after its last (section 4.6).

use std::net::{Ipv4Addr, Ipv6Addr};

use anyhow::{Context as _, Result, bail, ensure};

use super::{
    block::{Block, MAX_OPTION_LEN, OPT_COMMENT, cut, timestamp},
    packet::{fixed, take_option, word},
};

const DESCRIPTION_TYPE: u32 = 1;
const STATISTICS_TYPE: u32 = 5;

const IF_NAME: u16 = 2;
const IF_DESCRIPTION: u16 = 3;
const IF_IPV4ADDR: u16 = 4;
const IF_IPV6ADDR: u16 = 5;
const IF_MACADDR: u16 = 6;
const IF_TSRESOL: u16 = 9;
const IF_FILTER: u16 = 11;
const IF_OS: u16 = 12;
const IF_HARDWARE: u16 = 15;

/// Where the link type, the snaplen and the options of a description are.
const LINK_TYPE: usize = 8;
const SNAPLEN: usize = 12;
const OPTIONS: usize = 16;
/// Where the options of statistics are.
const STATISTICS_OPTIONS: usize = 20;
/// `if_tsresol` of interfaces that do not tell: microseconds.
const DEFAULT_RESOLUTION: u8 = 6;

/// Timestamps count 10^-9 seconds.
const NANOSECONDS: u8 = 9;
/// First byte of `if_filter`: a libpcap filter expression follows.
const LIBPCAP_STRING: u8 = 0;

const ISB_STARTTIME: u16 = 2;
const ISB_ENDTIME: u16 = 3;
const ISB_IFRECV: u16 = 4;
const ISB_IFDROP: u16 = 5;
const ISB_FILTERACCEPT: u16 = 6;
const ISB_OSDROP: u16 = 7;
const ISB_USRDELIV: u16 = 8;

/// What a packet of an interface begins with. The values are those of draft-ietf-opsawg-pcaplinktype.
#[repr(u16)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LinkType {
    /// An Ethernet header (`LINKTYPE_ETHERNET`).
    Ethernet = 1,
    /// An IPv4 or IPv6 header, told apart by its version (`LINKTYPE_RAW`).
    Raw = 101,
}

impl LinkType {
    /// The one of this value, when sniff has it.
    pub fn of(value: u16) -> Option<Self> {
        [Self::Ethernet, Self::Raw].into_iter().find(|it| *it as u16 == value)
    }
}

/// An interface, described before its first packet. The first one written has interface id 0, and so on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InterfaceDescription {
    /// What its packets begin with.
    pub link_type: LinkType,
    /// Most bytes kept of a packet.
    pub snaplen: u32,
    /// Name (`if_name`), such as `NS/POD/eth0`.
    pub name: String,
    /// Where it was captured (`if_description`).
    pub description: Option<String>,
    /// Whatever else is to be told of it (`opt_comment`, each). Some readers show the first alone.
    pub comments: Vec<String>,
    /// IPv4 addresses with their prefix lengths, in bits (`if_IPv4addr`).
    pub ipv4: Vec<(Ipv4Addr, u8)>,
    /// IPv6 addresses with their prefix lengths, in bits (`if_IPv6addr`).
    pub ipv6: Vec<(Ipv6Addr, u8)>,
    /// MAC address (`if_MACaddr`).
    pub mac: Option<[u8; 6]>,
    /// libpcap expression that chose the packets (`if_filter`).
    pub filter: Option<String>,
    /// Operating system of the machine that has the interface (`if_os`).
    pub os: Option<String>,
    /// Kind of device (`if_hardware`).
    pub hardware: Option<String>,
}

impl InterfaceDescription {
    /// An interface of which no more is told.
    pub fn new(link_type: LinkType, snaplen: u32, name: &str) -> Self {
        Self {
            link_type,
            snaplen,
            name: name.to_owned(),
            description: None,
            comments: Vec::new(),
            ipv4: Vec::new(),
            ipv6: Vec::new(),
            mac: None,
            filter: None,
            os: None,
            hardware: None,
        }
    }

    /// Appends the block to `out`. Strings are cut to 65535 bytes; timestamps are declared to be nanoseconds.
    pub fn write(&self, out: &mut Vec<u8>) {
        let Self { link_type, snaplen, name, description, comments, ipv4, ipv6, mac, filter, os, hardware } =
            self;
        let mut block = Block::begin(out, DESCRIPTION_TYPE);
        block.field((*link_type as u16).to_ne_bytes());
        block.field([0; 2]); // Reserved.
        block.field(snaplen.to_ne_bytes());
        comments.iter().for_each(|comment| block.comment(Some(comment)));
        block.text(IF_NAME, name);
        block.optional_text(IF_DESCRIPTION, description.as_deref());
        for (address, prefix) in ipv4 {
            block.option(IF_IPV4ADDR, &[address.octets(), netmask(*prefix)].concat());
        }
        for (address, prefix) in ipv6 {
            let prefix = (*prefix).min(128);
            block.option(IF_IPV6ADDR, &[&address.octets()[..], &[prefix]].concat());
        }
        if let Some(mac) = mac {
            block.option(IF_MACADDR, mac);
        }
        block.option(IF_TSRESOL, &[NANOSECONDS]);
        if let Some(filter) = filter {
            let expression = cut(filter, MAX_OPTION_LEN - 1).as_bytes();
            block.option(IF_FILTER, &[&[LIBPCAP_STRING], expression].concat());
        }
        block.optional_text(IF_OS, os.as_deref());
        block.optional_text(IF_HARDWARE, hardware.as_deref());
        block.end();
    }

    /// Reads a block as [`Self::write`] makes it; other options are passed over.
    ///
    /// # Errors
    ///
    /// When it is cut, its options exceed it or are not what they should be, its times are not in nanoseconds, or its
    /// packets are of a kind that sniff does not capture.
    pub fn parse(block: &[u8]) -> Result<Self> {
        let end = block.len().saturating_sub(4);
        let mut options = block.get(OPTIONS..end).context("interface description is cut off")?;
        let link_type = u16::from_ne_bytes([block[LINK_TYPE], block[LINK_TYPE + 1]]);
        let link_type = LinkType::of(link_type)
            .with_context(|| format!("link type {link_type}, which this sniff does not capture"))?;
        let mut read = Self::new(link_type, word(block, SNAPLEN)?, "");
        let mut resolution = DEFAULT_RESOLUTION;
        while let Some((code, value)) = take_option(&mut options)? {
            match code {
                OPT_COMMENT => read.comments.push(text(value)),
                IF_NAME => read.name = text(value),
                IF_DESCRIPTION => read.description = Some(text(value)),
                IF_IPV4ADDR => {
                    let [a, b, c, d, mask @ ..] = fixed::<8>(code, value)?;
                    let prefix = u32::from_be_bytes(mask).leading_ones() as u8;
                    read.ipv4.push(([a, b, c, d].into(), prefix));
                }
                IF_IPV6ADDR => {
                    let [address @ .., prefix] = fixed::<17>(code, value)?;
                    read.ipv6.push((address.into(), prefix));
                }
                IF_MACADDR => read.mac = Some(fixed(code, value)?),
                IF_TSRESOL => [resolution] = fixed(code, value)?,
                IF_FILTER => match value.split_first() {
                    Some((&LIBPCAP_STRING, expression)) => read.filter = Some(text(expression)),
                    _ => bail!("a filter that is no text"),
                },
                IF_OS => read.os = Some(text(value)),
                IF_HARDWARE => read.hardware = Some(text(value)),
                _ => {}
            }
        }
        ensure!(resolution == NANOSECONDS, "{}: times not in nanoseconds", read.name);
        Ok(read)
    }
}

/// What was counted on an interface; counts start at the beginning of the capture. What is not known is left out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct InterfaceStatistics {
    /// Id of the interface: how many were described before it.
    pub interface: u32,
    /// When the counts were taken, in nanoseconds since 1970-01-01 UTC.
    pub timestamp_ns: u64,
    /// When the capture began on this interface, likewise (`isb_starttime`).
    pub start_ns: Option<u64>,
    /// When it ended (`isb_endtime`).
    pub end_ns: Option<u64>,
    /// Packets that the interface saw (`isb_ifrecv`).
    pub ifrecv: Option<u64>,
    /// Packets that the interface lost for want of resources (`isb_ifdrop`).
    pub ifdrop: Option<u64>,
    /// Packets that the filter accepted (`isb_filteraccept`).
    pub filteraccept: Option<u64>,
    /// Accepted packets that the kernel side lost (`isb_osdrop`).
    pub osdrop: Option<u64>,
    /// Packets that reached userspace (`isb_usrdeliv`).
    pub usrdeliv: Option<u64>,
    /// Whatever else is to be told of the counts (`opt_comment`).
    pub comment: Option<String>,
}

impl InterfaceStatistics {
    /// Appends the block to `out`.
    pub fn write(&self, out: &mut Vec<u8>) {
        let Self {
            interface,
            timestamp_ns,
            start_ns,
            end_ns,
            ifrecv,
            ifdrop,
            filteraccept,
            osdrop,
            usrdeliv,
            comment,
        } = self;
        let mut block = Block::begin(out, STATISTICS_TYPE);
        block.field(interface.to_ne_bytes());
        block.field(timestamp(*timestamp_ns));
        block.comment(comment.as_deref());
        for (code, time) in [(ISB_STARTTIME, start_ns), (ISB_ENDTIME, end_ns)] {
            if let Some(time) = time {
                block.option(code, &timestamp(*time));
            }
        }
        let counts = [
            (ISB_IFRECV, ifrecv),
            (ISB_IFDROP, ifdrop),
            (ISB_FILTERACCEPT, filteraccept),
            (ISB_OSDROP, osdrop),
            (ISB_USRDELIV, usrdeliv),
        ];
        for (code, count) in counts {
            if let Some(count) = count {
                block.option(code, &count.to_ne_bytes());
            }
        }
        block.end();
    }

    /// Reads a block as [`Self::write`] makes it; other options are passed over.
    ///
    /// # Errors
    ///
    /// When it is cut, or its options exceed it or are not what they should be.
    pub fn parse(block: &[u8]) -> Result<Self> {
        let end = block.len().saturating_sub(4);
        let mut options = block.get(STATISTICS_OPTIONS..end).context("statistics are cut off")?;
        let time = |high: u32, low: u32| u64::from(high) << 32 | u64::from(low);
        let mut read = Self {
            interface: word(block, 8)?,
            timestamp_ns: time(word(block, 12)?, word(block, 16)?),
            ..Self::default()
        };
        while let Some((code, value)) = take_option(&mut options)? {
            let count = || fixed(code, value).map(u64::from_ne_bytes).map(Some);
            let moment =
                || fixed::<8>(code, value).and_then(|it| Ok(Some(time(word(&it, 0)?, word(&it, 4)?))));
            match code {
                OPT_COMMENT => read.comment = Some(text(value)),
                ISB_STARTTIME => read.start_ns = moment()?,
                ISB_ENDTIME => read.end_ns = moment()?,
                ISB_IFRECV => read.ifrecv = count()?,
                ISB_IFDROP => read.ifdrop = count()?,
                ISB_FILTERACCEPT => read.filteraccept = count()?,
                ISB_OSDROP => read.osdrop = count()?,
                ISB_USRDELIV => read.usrdeliv = count()?,
                _ => {}
            }
        }
        Ok(read)
    }
}

fn text(value: &[u8]) -> String {
    String::from_utf8_lossy(value).into_owned()
}

/// The netmask with `prefix` leading ones; more than 32 count as 32.
fn netmask(prefix: u8) -> [u8; 4] {
    let host_bits = 32 - u32::from(prefix.min(32));
    u32::MAX.checked_shl(host_bits).unwrap_or(0).to_be_bytes()
}
