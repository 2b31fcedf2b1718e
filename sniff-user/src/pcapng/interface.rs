//! What a file tells of an interface: the Interface Description Block before its first packet (draft section 4.2),
//! and the Interface Statistics Block after its last (section 4.6).

use std::net::{Ipv4Addr, Ipv6Addr};

use super::block::{Block, MAX_OPTION_LEN, cut, timestamp};

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
    /// Whatever else is to be told of it (`opt_comment`).
    pub comment: Option<String>,
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
    /// Appends the block to `out`. Strings are cut to 65535 bytes; timestamps are declared to be nanoseconds.
    pub fn write(&self, out: &mut Vec<u8>) {
        let Self { link_type, snaplen, name, description, comment, ipv4, ipv6, mac, filter, os, hardware } =
            self;
        let mut block = Block::begin(out, DESCRIPTION_TYPE);
        block.field((*link_type as u16).to_ne_bytes());
        block.field([0; 2]); // Reserved.
        block.field(snaplen.to_ne_bytes());
        block.comment(comment.as_deref());
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
}

/// The netmask with `prefix` leading ones; more than 32 count as 32.
fn netmask(prefix: u8) -> [u8; 4] {
    let host_bits = 32 - u32::from(prefix.min(32));
    u32::MAX.checked_shl(host_bits).unwrap_or(0).to_be_bytes()
}
