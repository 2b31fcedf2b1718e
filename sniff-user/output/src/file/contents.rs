//! What a file has to have so that it stands alone: what the packets in it refer to, and its own counts.
//!
//! Interfaces keep their ids over all files of a series: packets come with them, and go to the file as they are. So each
//! file describes all interfaces that the capture has had; those that are over, briefly.

use sniff_pcapng::{AnyBlock, BlockType, InterfaceDescription, InterfaceStatistics, Names, PacketHead};

/// Stands beside counts.
const OF_THIS_FILE: &str = "counts of this file alone, of several";

/// Everything that files of a series share, and what was counted of the one that is being written.
#[derive(Default)]
pub(super) struct Contents {
    section: Vec<u8>,
    interfaces: Vec<Interface>,
    /// Those that are not over; asked for with each packet.
    live: u64,
    names: Names,
    /// Times of the first packet and the last one in this file.
    first_ns: Option<u64>,
    last_ns: u64,
}

struct Interface {
    description: InterfaceDescription,
    /// In files before.
    before: Counts,
    /// In this file.
    here: Counts,
    /// Whether its counts came, behind which there is nothing of it.
    is_over: bool,
}

/// Counts of an interface, as far as its packets tell.
#[derive(Clone, Copy, Default)]
struct Counts {
    packets: u64,
    lost: u64,
}

impl Counts {
    fn plus(self, other: Self) -> Self {
        Self { packets: self.packets + other.packets, lost: self.lost.saturating_add(other.lost) }
    }

    fn matched(self) -> u64 {
        self.packets.saturating_add(self.lost)
    }
}

impl Contents {
    /// Bytes of an interface's counts in a file that is not the last.
    pub(super) const STATISTICS_LEN: u64 = 116 + OF_THIS_FILE.len().next_multiple_of(4) as u64;

    /// Learns from a block that is about to be written, and is no packet; statistics are for [`Self::settle`].
    pub(super) fn note(&mut self, block: &[u8]) {
        match AnyBlock::first(block).map(|block| block.block_type) {
            Ok(BlockType::Section) => self.section = block.to_owned(),
            Ok(BlockType::Interface) => {
                if let Ok(description) = InterfaceDescription::parse(block) {
                    self.interfaces.push(Interface::new(description));
                    self.live += 1;
                }
            }
            Ok(BlockType::Names) => {
                self.names.update(&Names::parse(block).unwrap_or_default());
            }
            _ => {}
        }
    }

    /// The same of a packet, which begins like that.
    pub(super) fn note_packet(&mut self, head: PacketHead, block: &[u8]) {
        let Some(interface) = self.interfaces.get_mut(head.interface as usize) else { return };
        interface.here.packets += 1;
        let lost = head.dropcount_at(block).and_then(|at| block.get(at..)?.first_chunk());
        interface.here.lost += lost.map_or(0, |lost| u64::from_ne_bytes(*lost));
        self.first_ns.get_or_insert(head.timestamp_ns);
        self.last_ns = self.last_ns.max(head.timestamp_ns);
    }

    /// What a file begins with. Names have at most `room` bytes, or are left out.
    pub(super) fn beginning(&mut self, room: u64) -> Vec<u8> {
        let mut blocks = self.section.clone();
        for interface in &mut self.interfaces {
            interface.before = interface.before.plus(interface.here);
            interface.here = Counts::default();
            interface.description.write(&mut blocks);
        }
        self.first_ns = None;
        let mut names = Vec::new();
        self.names.write(&mut names);
        if names.len() as u64 <= room {
            blocks.extend(names);
        }
        blocks
    }

    /// What a file ends with that is not the last: the counts of interfaces that are not over.
    pub(super) fn ending(&self) -> Vec<u8> {
        let mut blocks = Vec::new();
        for (id, interface) in (0..).zip(&self.interfaces).filter(|(_, interface)| !interface.is_over) {
            let Interface { description, here, .. } = interface;
            let statistics = InterfaceStatistics {
                interface: id,
                timestamp_ns: self.last_ns,
                start_ns: self.first_ns,
                end_ns: Some(self.last_ns),
                ifrecv: description.filter.is_none().then_some(here.matched()),
                ifdrop: Some(0),
                filteraccept: Some(here.matched()),
                osdrop: Some(here.lost),
                usrdeliv: Some(here.packets),
                comment: Some(OF_THIS_FILE.to_owned()),
            };
            statistics.write(&mut blocks);
        }
        blocks
    }

    /// Most bytes of [`Self::ending`], and of what comes there in the last file but for what else that tells.
    pub(super) fn ending_len(&self) -> u64 {
        self.live * Self::STATISTICS_LEN
    }

    /// From an interface's counts of the whole capture, those of this file, which are the last of it; `None` when there are
    /// none to be told apart, since there was no other file.
    pub(super) fn settle(&self, block: &[u8]) -> Option<Vec<u8>> {
        let mut told = InterfaceStatistics::parse(block).ok()?;
        let before = self.interfaces.get(told.interface as usize)?.before;
        if before.matched() == 0 {
            return None;
        }
        let less = |count: &mut Option<u64>, before: u64| {
            *count = count.map(|count| count.saturating_sub(before));
        };
        less(&mut told.ifrecv, before.matched());
        less(&mut told.filteraccept, before.matched());
        less(&mut told.osdrop, before.lost);
        less(&mut told.usrdeliv, before.packets);
        told.start_ns = self.first_ns.or(told.end_ns);
        told.comment =
            Some(told.comment.map_or(OF_THIS_FILE.to_owned(), |it| format!("{OF_THIS_FILE}; {it}")));
        let mut settled = Vec::new();
        told.write(&mut settled);
        Some(settled)
    }

    /// Nothing comes of an interface behind its counts.
    pub(super) fn end(&mut self, statistics: &[u8]) {
        let id = InterfaceStatistics::parse(statistics).ok().map(|it| it.interface as usize);
        if let Some(interface) = id.and_then(|id| self.interfaces.get_mut(id)) {
            self.live -= u64::from(!interface.is_over);
            interface.is_over = true;
            let InterfaceDescription { link_type, snaplen, name, .. } = &interface.description;
            interface.description = InterfaceDescription::new(*link_type, *snaplen, name);
        }
    }
}

impl Interface {
    fn new(description: InterfaceDescription) -> Self {
        Self { description, before: Counts::default(), here: Counts::default(), is_over: false }
    }
}
