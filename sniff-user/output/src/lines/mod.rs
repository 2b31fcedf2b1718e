//! A line for each packet, in the manner of tcpdump.
//!
//! ```text
//! 13:59:04.123456 Out IP 10.1.2.3.40312 > 10.1.2.9.80: Flags [S], seq 7, win 64240, options [mss 1460], length 0
//! ```
//!
//! `docs/lines.md` tells what differs from `tcpdump -nn`. What is behind a line is a description of the packet
//! (in `packet`) that can also be had as JSON (`out`).
//!
//! A packet is never trusted: whatever it holds, the line is printable ASCII of bounded length and the parser does not
//! panic.

mod clock;
mod connections;
mod dump;
mod interfaces;
mod out;
mod packet;
mod stdout;
mod style;

use jiff::tz::TimeZone;
use sniff_common::Direction;
use sniff_pcapng::{AnyBlock, BlockType, EnhancedPacket, InterfaceDescription, Names};

pub(crate) use self::packet::dns_addresses;
use self::{
    clock::Clock,
    connections::Connections,
    interfaces::{Described, Interfaces},
    out::{HexBytes, Json, Out as _, Shown, Text},
    packet::Context,
};
pub use self::{
    stdout::Lines,
    style::{Color, Dump, DumpForm, Form, Style, Time, is_dumb, is_without_colors},
};

/// Longest line of text, dumped bytes aside.
const MAX_LINE: usize = 1900;

/// Makes lines, and keeps what they refer to.
struct Printer {
    style: Style,
    clock: Clock,
    connections: Connections,
    interfaces: Interfaces,
    names: Names,
}

impl Printer {
    /// One that shows times of a zone, and colours if asked for.
    fn new(style: Style, zone: TimeZone, is_colored: bool) -> Self {
        let zone = if style.form == Form::Json { TimeZone::UTC } else { zone };
        Self {
            style,
            clock: Clock::new(zone),
            connections: Connections::new(),
            interfaces: Interfaces::new(is_colored),
            names: Names::default(),
        }
    }

    /// Takes one more interface.
    fn interface(&mut self, description: &InterfaceDescription) {
        self.interfaces.push(description);
    }

    /// Learns from a block what addresses are called, if it says so.
    fn learn(&mut self, block: &[u8]) {
        if AnyBlock::first(block).is_ok_and(|block| block.block_type == BlockType::Names)
            && let Ok(names) = Names::parse(block)
        {
            self.names.update(&names);
        }
    }

    /// What people are to be told before the next line, in a line elsewhere.
    fn news(&mut self) -> Option<String> {
        self.interfaces.news().filter(|_| self.style.form == Form::Text)
    }

    /// Appends the line of a packet, unless its interface was never described.
    fn print(&mut self, to: &mut Vec<u8>, packet: &EnhancedPacket<'_>) {
        let Some(interface) = self.interfaces.get(packet.interface) else { return };
        match self.style.form {
            Form::Text => self.print_text(to, packet, interface),
            Form::Json => self.print_json(to, packet, interface),
        }
        to.push(b'\n');
        if let (Form::Text, Some(dump)) = (self.style.form, self.style.dump) {
            dump::write(to, dump.as_what, shown_bytes(dump, packet, interface));
        }
    }

    fn print_text(&mut self, to: &mut Vec<u8>, packet: &EnhancedPacket<'_>, interface: Described) {
        let start = to.len();
        let Self { style, clock, connections, interfaces, names } = self;
        clock.write(to, style.time, packet.timestamp_ns, style.nanoseconds);
        to.extend_from_slice(interfaces.prefix(interface).as_bytes());
        to.extend_from_slice(match packet.direction() {
            Some(Direction::In) => b"In  ",
            Some(Direction::Out) => b"Out ",
            None => b"?   ",
        });
        let mut text =
            Text { to, is_verbose: style.verbose, verifies: !style.unverified, is_brief: style.brief };
        let mut context = Context { style, connections, names, interface: interface.number, depth: 0 };
        packet::describe(&mut text, &mut context, interface.link_type, packet.data, len_on_wire(packet));
        if to.len() - start > MAX_LINE {
            to.truncate(start + MAX_LINE);
            to.extend_from_slice(b"...");
        }
    }

    fn print_json(&mut self, to: &mut Vec<u8>, packet: &EnhancedPacket<'_>, interface: Described) {
        let Self { style, clock, connections, interfaces, names } = self;
        let mut time = Vec::new();
        clock::rfc3339(clock, &mut time, packet.timestamp_ns);
        let mut json = Json::new(to, !style.unverified);
        json.field("time", Shown(time.escape_ascii()));
        json.field("interface", out::Foreign(interfaces.name(interface).as_bytes()));
        json.field(
            "direction",
            match packet.direction() {
                Some(Direction::In) => "in",
                Some(Direction::Out) => "out",
                None => "unknown",
            },
        );
        json.field("length", len_on_wire(packet));
        json.field("captured", packet.data.len());
        if let Some(id) = packet.packet_id {
            // More than a number of JavaScript holds, or jq's.
            json.field("packet_id", out::Hex::<16>(id));
        }
        let mut context = Context { style, connections, names, interface: interface.number, depth: 0 };
        packet::describe(&mut json, &mut context, interface.link_type, packet.data, len_on_wire(packet));
        if let Some(dump) = style.dump {
            json.field("bytes", HexBytes(shown_bytes(dump, packet, interface)));
        }
        json.end();
    }
}

/// What a dump shows of a packet.
fn shown_bytes<'a>(dump: Dump, packet: &EnhancedPacket<'a>, interface: Described) -> &'a [u8] {
    let header_len = packet::header_len(interface.link_type, packet.data);
    if dump.link_header { packet.data } else { &packet.data[header_len..] }
}

/// The packet's length in the kernel, which is never less than what was captured of it.
fn len_on_wire(packet: &EnhancedPacket<'_>) -> usize {
    packet.data.len().max(packet.original_len as usize)
}

#[cfg(test)]
mod tests;
