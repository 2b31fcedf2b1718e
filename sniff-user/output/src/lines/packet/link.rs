//! Ethernet, VLAN tags, ARP, and what bridges and switches say to each other: STP (IEEE 802.1D) and LLDP (IEEE 802.1AB).

use std::net::Ipv4Addr;

use etherparse::{ArpOperation, ArpPacketSlice, EtherType, Ethernet2Slice, SingleVlanSlice, ether_type};
use sniff_pcapng::LinkType;

use super::{Context, ip, u16_at, u32_at};
use crate::lines::out::{Foreign, Hex, Mac, Out, Shown, Value};

/// Most VLAN tags that are looked through.
const MAX_TAGS: usize = 4;
/// Ether types below this one are lengths of IEEE 802.3 frames.
const FIRST_ETHER_TYPE: u16 = 0x0600;
/// How an 802.3 frame with STP goes on (IEEE 802.2): the service access point of STP, twice, and unnumbered information.
const STP: [u8; 3] = [0x42, 0x42, 3];
const LLDP: EtherType = EtherType(0x88cc);
/// Most parts of an LLDP message that are looked at.
const MAX_PARTS: usize = 32;

/// Describes a frame, of which `len` bytes were in the kernel.
pub(super) fn ethernet(out: &mut impl Out, context: &mut Context<'_>, data: &[u8], len: usize) {
    let Ok(frame) = Ethernet2Slice::from_slice_without_fcs(data) else {
        out.cut_off("ether");
        return out.say(", length ", "length", len);
    };
    let (mut ether_type, mut payload) = (frame.ether_type(), frame.payload_slice());
    let shows_header = context.style.link_header;
    header(out, shows_header, &frame, len);
    out.open_list("vlan");
    for _ in 0..MAX_TAGS {
        if !matches!(ether_type, ether_type::VLAN_TAGGED_FRAME | ether_type::PROVIDER_BRIDGING) {
            break;
        }
        let Ok(tag) = SingleVlanSlice::from_slice(payload) else {
            break;
        };
        out.say("vlan ", "", tag.vlan_identifier().value());
        (ether_type, payload) = (tag.ether_type(), tag.payload_slice());
        if shows_header {
            let priority = tag.priority_code_point().value();
            out.words(&format!(", p {priority}, {}", type_name(ether_type)));
        }
        out.words(", ");
    }
    out.close();
    let on_wire = len.saturating_sub(data.len() - payload.len());
    match ether_type {
        ether_type::ARP => arp(out, context, payload, on_wire),
        ether_type::IPV4 => ip::describe(out, context, ip::Packet::v4(payload, on_wire), on_wire),
        ether_type::IPV6 => ip::describe(out, context, ip::Packet::v6(payload, on_wire), on_wire),
        LLDP => lldp(out, payload, on_wire),
        EtherType(length) if length < FIRST_ETHER_TYPE => {
            let payload = &payload[..payload.len().min(length.into())];
            match payload.strip_prefix(&STP) {
                Some(message) => stp(out, message, length),
                None => unknown(out, shows_header, &frame, len, "802.3"),
            }
        }
        EtherType(other) => {
            out.detail("ether_type", Hex::<4>(other.into()));
            unknown(out, shows_header, &frame, len, &format!("ethertype {other:#06x}"));
        }
    }
}

/// Bytes in front of what a line describes, VLAN tags included.
pub(in crate::lines) fn header_len(link_type: LinkType, data: &[u8]) -> usize {
    const ADDRESSES: usize = 12;
    const TAG: usize = 4;
    if link_type == LinkType::Raw {
        return 0;
    }
    let tags = (0..MAX_TAGS)
        .take_while(|tag| {
            let ether_type = u16_at(data, ADDRESSES + tag * TAG).map(EtherType);
            matches!(ether_type, Some(ether_type::VLAN_TAGGED_FRAME | ether_type::PROVIDER_BRIDGING))
        })
        .count();
    (ADDRESSES + tags * TAG + size_of::<u16>()).min(data.len())
}

fn header(out: &mut impl Out, is_shown: bool, frame: &Ethernet2Slice<'_>, len: usize) {
    let (source, destination) = (Mac(frame.source()), Mac(frame.destination()));
    out.open("eth");
    if is_shown {
        out.field("src", source);
        out.say(" > ", "dst", destination);
        let len = match frame.ether_type() {
            EtherType(length) if length < FIRST_ETHER_TYPE => length.into(),
            _ => len,
        };
        out.words(&format!(", {}, length {len}: ", type_name(frame.ether_type())));
    } else {
        out.detail("src", source);
        out.detail("dst", destination);
    }
    out.close();
}

/// What a frame holds, as tcpdump names it.
fn type_name(ether_type: EtherType) -> String {
    let name = match ether_type {
        ether_type::IPV4 => "IPv4",
        ether_type::IPV6 => "IPv6",
        ether_type::ARP => "ARP",
        ether_type::VLAN_TAGGED_FRAME => "802.1Q",
        ether_type::PROVIDER_BRIDGING => "802.1Q-QinQ",
        LLDP => "LLDP",
        EtherType(length) if length < FIRST_ETHER_TYPE => return "802.3".to_owned(),
        EtherType(other) => return format!("ethertype Unknown ({other:#06x})"),
    };
    format!("ethertype {name} ({:#06x})", ether_type.0)
}

/// A frame that is not looked into.
fn unknown(out: &mut impl Out, has_header: bool, frame: &Ethernet2Slice<'_>, len: usize, what: &str) {
    if has_header {
        return out.words("not looked into");
    }
    out.open("eth");
    out.field("src", Mac(frame.source()));
    out.say(" > ", "dst", Mac(frame.destination()));
    out.close();
    out.words(&format!(", {what}, length {len}"));
}

fn arp(out: &mut impl Out, context: &Context<'_>, payload: &[u8], on_wire: usize) {
    out.open("arp");
    if !context.style.link_header {
        out.words("ARP, ");
    }
    if let Ok(arp) = ArpPacketSlice::from_slice(payload) {
        let addresses = (
            arp.sender_hw_addr().try_into().map(Mac),
            arp.sender_protocol_addr().try_into().map(|octets: [u8; 4]| Ipv4Addr::from(octets)),
            arp.target_protocol_addr().try_into().map(|octets: [u8; 4]| Ipv4Addr::from(octets)),
        );
        let target_mac = mac_of(arp.target_hw_addr());
        match (arp.operation(), addresses) {
            (ArpOperation::REQUEST, (Ok(mac), Ok(sender), Ok(target))) => {
                out.detail("operation", "request");
                out.words("Request who-has ");
                context.address(out, "target", "target_name", target.into());
                // One that asks whether somebody is still there says whom it means.
                if target_mac.0 != [0; 6] {
                    out.say(" (", "target_mac", target_mac);
                    out.words(")");
                }
                out.words(" tell ");
                context.address(out, "sender", "sender_name", sender.into());
                out.detail("sender_mac", mac);
            }
            (ArpOperation::REPLY, (Ok(mac), Ok(sender), Ok(_))) => {
                out.detail("operation", "reply");
                out.words("Reply ");
                context.address(out, "sender", "sender_name", sender.into());
                out.say(" is-at ", "sender_mac", mac);
            }
            (ArpOperation(operation), _) => out.say("operation ", "operation", operation),
        }
    } else {
        out.cut_off("arp");
    }
    out.say(", length ", "length", on_wire);
    out.close();
}

/// Describes a bridge's message.
fn stp(out: &mut impl Out, message: &[u8], length: u16) {
    out.open("stp");
    let kind = message.first_chunk().copied().map(|[_, _, version, kind]: [u8; 4]| (version, kind));
    let name = match kind {
        Some((0, _)) => "STP 802.1d",
        Some((2, _)) => "STP 802.1w",
        Some((3, _)) => "STP 802.1s",
        _ => "STP",
    };
    out.field("version", name);
    match (kind, message) {
        (Some((_, 0x80)), _) => out.say(", ", "kind", "Topology Change"),
        (Some((_, 0 | 2)), [_, _, _, kind, flags, root @ ..]) if root.len() >= 22 => {
            out.say(", ", "kind", if *kind == 0 { "Config" } else { "Rapid STP" });
            out.say(", Flags [", "flags", StpFlags(*flags));
            out.words("]");
            bridge_id(out, ", bridge-id ", "bridge", &root[12..]);
            let port = u16_at(root, 20).unwrap_or_default();
            out.say(".", "port", Shown(format_args!("{port:04x}")));
            bridge_id(out, ", root ", "root", root);
            out.say(", cost ", "cost", u32_at(root, 8).unwrap_or_default());
        }
        _ => {
            out.words(" ");
            out.cut_off("stp");
        }
    }
    out.say(", length ", "length", length.saturating_sub(STP.len() as u16));
    out.close();
}

/// What a bridge says of a port, by the names that tcpdump has for the bits.
struct StpFlags(u8);

impl Value for StpFlags {
    fn text(&self, to: &mut Vec<u8>) {
        const NAMES: [(u8, &str); 6] = [
            (0x01, "Topology change"),
            (0x02, "Proposal"),
            (0x10, "Learn"),
            (0x20, "Forward"),
            (0x40, "Agreement"),
            (0x80, "Topology change ACK"),
        ];
        let names: Vec<&str> =
            NAMES.into_iter().filter(|(bit, _)| self.0 & bit != 0).map(|(_, name)| name).collect();
        to.extend_from_slice(if names.is_empty() { "none".to_owned() } else { names.join(", ") }.as_bytes());
    }
}

/// A bridge: its priority and MAC address.
fn bridge_id(out: &mut impl Out, words: &str, name: &'static str, bytes: &[u8]) {
    let Some([high, low, mac @ ..]) = bytes.first_chunk::<8>() else { return };
    let mut shown = format!("{high:02x}{low:02x}.").into_bytes();
    Mac(*mac).text(&mut shown);
    out.say(words, name, Foreign(&shown));
}

/// Describes what a switch or host says of itself: chassis, port, name.
fn lldp(out: &mut impl Out, message: &[u8], on_wire: usize) {
    out.open("lldp");
    out.words("LLDP");
    let mut rest = message;
    for _ in 0..MAX_PARTS {
        let Some(head) = u16_at(rest, 0) else { break };
        let (kind, len) = (head >> 9, usize::from(head & 0x1ff));
        let Some(value) = rest.get(2..2 + len) else {
            out.words(" ");
            out.cut_off("lldp");
            break;
        };
        match (kind, value) {
            (0, _) => break,
            // A MAC address, or a name of its own.
            (1, [4, mac @ ..]) if mac.len() == 6 => out.say(", chassis ", "chassis", mac_of(mac)),
            (1, [_, name @ ..]) => out.say(", chassis ", "chassis", Foreign(name)),
            (2, [3, mac @ ..]) if mac.len() == 6 => out.say(", port ", "port", mac_of(mac)),
            (2, [_, name @ ..]) => out.say(", port ", "port", Foreign(name)),
            (5, name) => out.say(", name ", "name", Foreign(name)),
            _ => {}
        }
        rest = &rest[2 + len..];
    }
    out.say(", length ", "length", on_wire);
    out.close();
}

fn mac_of(bytes: &[u8]) -> Mac {
    Mac(bytes.try_into().unwrap_or_default())
}
