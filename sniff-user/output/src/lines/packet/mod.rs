//! What a packet is: a file for each family of protocols.
//!
//! A packet is never trusted. Whatever it holds, its description is short and the parser does not panic; of what was
//! cut off or makes no sense, `[|tcp]` and the like is told. A packet in a packet is described likewise, up to
//! [`MAX_DEPTH`].

mod checksum;
mod control;
mod dhcp;
mod dns;
mod http;
mod icmp;
mod ip;
mod link;
mod ntp;
mod quic;
mod sctp;
mod tcp;
mod tls;
mod tunnel;
mod udp;

use std::net::IpAddr;

use sniff_pcapng::{LinkType, Names};

use super::{
    connections::Connections,
    out::{Foreign, Out},
    style::Style,
};

pub(super) use link::header_len;

/// Most packets inside each other that are looked at.
const MAX_DEPTH: u32 = 4;

/// What a description depends on besides the packet.
pub(super) struct Context<'a> {
    pub(super) style: &'a Style,
    /// Sequence numbers are shown from where these began.
    pub(super) connections: &'a mut Connections,
    /// Addresses show as these.
    pub(super) names: &'a Names,
    /// Where the packet was seen.
    pub(super) interface: u32,
    /// How many packets this one is in.
    pub(super) depth: u32,
}

/// Describes a packet, of which `len` bytes were in the kernel.
pub(super) fn describe(
    out: &mut impl Out,
    context: &mut Context<'_>,
    link_type: LinkType,
    data: &[u8],
    len: usize,
) {
    match link_type {
        LinkType::Ethernet => link::ethernet(out, context, data, len),
        LinkType::Raw => ip::describe(out, context, ip::Packet::of_any_version(data, len), len),
    }
}

/// What a response of DNS says, if the packet is one that came by UDP and not in a tunnel: the name that was asked for, and
/// its addresses. `len` bytes of it were in the kernel.
pub(crate) fn dns_addresses(link_type: LinkType, data: &[u8], len: usize) -> Option<(String, Vec<IpAddr>)> {
    let header_len = header_len(link_type, data);
    let on_wire = len.checked_sub(header_len)?;
    udp::dns_addresses(&ip::Packet::of_any_version(&data[header_len..], on_wire).ok()?)
}

impl Context<'_> {
    /// Describes a packet that is in another.
    fn inner<O: Out>(&mut self, out: &mut O, describe: impl FnOnce(&mut O, &mut Self)) {
        if self.depth == MAX_DEPTH {
            return out.words("...");
        }
        self.depth += 1;
        out.open("inner");
        describe(out, self);
        out.close();
        self.depth -= 1;
    }

    /// Tells an address, in text by its name if it has one. JSON has both, the name under `name_of`.
    fn address(&self, out: &mut impl Out, name: &'static str, name_of: &'static str, address: IpAddr) {
        match self.names.get(address).filter(|_| !self.style.numeric && !self.names.is_empty()) {
            None => out.field(name, address),
            Some(known) => {
                out.detail(name, address);
                out.field(name_of, Foreign(known.as_bytes()));
            }
        }
    }
}

/// The first so many bytes, as far as they are there, and those behind them.
fn split(bytes: &[u8], at: usize) -> (&[u8], &[u8]) {
    bytes.split_at(at.min(bytes.len()))
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(*bytes.get(at..)?.first_chunk()?))
}

/// A number of three bytes.
fn u24_at(bytes: &[u8], at: usize) -> Option<u32> {
    let [a, b, c] = *bytes.get(at..)?.first_chunk()?;
    Some(u32::from_be_bytes([0, a, b, c]))
}
