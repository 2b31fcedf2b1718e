//! What was recorded, on its way to a client: files of several recorders, or several of one, become one stream in the order
//! of time. The filter that the client has asked for is judged here, and packets are cut.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap, VecDeque, hash_map::Entry},
    fs::File,
    io::{self, BufReader, Read},
    mem,
};

use anyhow::{Context as _, Result, bail, ensure};
use sniff_common::Direction;
use sniff_ebpf::headers::{self, Bytes};
use sniff_filter::{cbpf::Program, expression};
use sniff_output::Output;
use sniff_pcapng::{
    AnyBlock, BlockType, EnhancedPacket, InterfaceDescription, InterfaceStatistics, LinkType, Watermark,
    cut_packet,
};

use crate::halves::{
    Board,
    message::{Play, Played},
};

/// Bytes that are read of a file at once.
const READ_BYTES: usize = 256 << 10;
/// Most bytes of a block: the longest packet, or the longest description.
const MAX_BLOCK: usize = 1 << 20;
/// Where a block has its length, and how long both are.
const BLOCK_HEAD: usize = 8;
/// Where the body of a packet's block begins, with the interface.
const INTERFACE: std::ops::Range<usize> = 8..12;
/// Most bytes of what several files say of one interface.
const MAX_COMMENT: usize = 2048;

/// The files, and what is known of them.
pub struct Player {
    play: Play,
    sources: Vec<Source>,
    /// The filter, by the interfaces' link types.
    programs: HashMap<LinkType, Program>,
    /// How many interfaces the client was told of.
    described: u32,
    board: &'static Board,
    played: Played,
    /// Watermarks that the client has asked for.
    watermarks: u32,
}

/// A recorder, or a file of its own: interfaces that go on through all of its files.
#[derive(Default)]
struct Source {
    files: VecDeque<Blocks>,
    interfaces: Vec<Interface>,
    /// How many interfaces its first file has described so far.
    described: usize,
    /// The next packet.
    next: Vec<u8>,
}

/// An interface of a source.
struct Interface {
    /// Its id at the client.
    id: u32,
    link_type: LinkType,
    statistics: Option<InterfaceStatistics>,
}

impl Player {
    /// Of what is wanted; no file is there yet.
    pub fn new(play: Play, board: &'static Board) -> Self {
        let (sources, programs) = (Vec::new(), HashMap::new());
        Self { play, sources, programs, described: 0, board, played: Played::default(), watermarks: 0 }
    }

    /// Takes the next file of a source, which comes behind those before.
    pub fn take(&mut self, source: u32, file: File) {
        let source = source as usize;
        if self.sources.len() <= source {
            self.sources.resize_with(source + 1, Source::default);
        }
        self.sources[source].files.push_back(Blocks(BufReader::with_capacity(READ_BYTES, file)));
    }

    /// Tells the client with what comes next how far all has come.
    pub fn promise_watermark(&mut self) {
        self.watermarks += 1;
    }

    /// Hands on all packets before `horizon`, in nanoseconds since the epoch. Returns what became of all so far.
    ///
    /// # Errors
    ///
    /// When a file is not what a recorder writes, or nobody takes the packets.
    pub fn play(&mut self, horizon: u64, output: &mut Output) -> Result<Played> {
        let mut heads = BinaryHeap::new();
        for at in 0..self.sources.len() {
            heads.extend(self.head(at, output)?.map(|time| Reverse((time, at))));
        }
        while let Some(Reverse((time, at))) = heads.pop() {
            if time >= horizon || self.board.is_in_a_hurry() {
                break;
            }
            self.hand_on(at, output)?;
            heads.extend(self.head(at, output)?.map(|time| Reverse((time, at))));
        }
        for _ in 0..mem::take(&mut self.watermarks) {
            output.block(&Watermark { time_ns: horizon }.block())?;
        }
        output.flush()?;
        self.played.delivered = output.deliveries().iter().map(|it| it.delivered).sum();
        Ok(self.played)
    }

    /// The statistics of all interfaces, behind their packets.
    pub fn statistics(self, output: &Output) -> Vec<u8> {
        let mut blocks = Vec::new();
        for Interface { id, statistics, .. } in self.sources.into_iter().flat_map(|it| it.interfaces) {
            let Some(statistics) = statistics else { continue };
            let delivered = output.deliveries().get(id as usize).map_or(0, |it| it.delivered);
            InterfaceStatistics { interface: id, usrdeliv: Some(delivered), ..statistics }.write(&mut blocks);
        }
        blocks
    }

    /// The time of a source's next packet; none where there is none yet.
    fn head(&mut self, at: usize, output: &mut Output) -> Result<Option<u64>> {
        loop {
            let source = &mut self.sources[at];
            if !source.next.is_empty() {
                return Ok(Some(EnhancedPacket::parse(&source.next)?.timestamp_ns));
            }
            let Some(file) = source.files.front_mut() else { return Ok(None) };
            let mut block = Vec::new();
            if !file.next(&mut block)? {
                source.files.pop_front();
                source.described = 0;
                continue;
            }
            let kind = AnyBlock::first(&block)?;
            match kind.block_type {
                BlockType::Packet => source.next = block,
                BlockType::Interface => self.describe(at, &block, output)?,
                BlockType::Statistics => source.count(InterfaceStatistics::parse(&block)?)?,
                BlockType::Section | BlockType::Names => {}
                BlockType::Watermark | BlockType::Other(_) => {
                    bail!("a recording has a block that is none of sniff's")
                }
            }
        }
    }

    /// Describes an interface to the client, unless an earlier file of the source has.
    fn describe(&mut self, at: usize, block: &[u8], output: &mut Output) -> Result<()> {
        let source = &mut self.sources[at];
        source.described += 1;
        if source.described <= source.interfaces.len() {
            return Ok(());
        }
        let mut description = InterfaceDescription::parse(block)?;
        let link_type = description.link_type;
        if let Some(filter) = &self.play.filter {
            if let Entry::Vacant(place) = self.programs.entry(link_type) {
                place.insert(expression::compile(filter, link_type, true)?);
            }
            description.filter = Some(match description.filter {
                Some(recorded) => format!("({recorded}) and ({filter})"),
                None => filter.clone(),
            });
        }
        let most = self.play.snaplen;
        description.snaplen = if description.snaplen == 0 { most } else { description.snaplen.min(most) };
        source.interfaces.push(Interface { id: self.described, link_type, statistics: None });
        self.described += 1;
        Ok(output.interface(&description)?)
    }

    /// Hands on a source's next packet, if it is wanted.
    fn hand_on(&mut self, at: usize, output: &mut Output) -> Result<()> {
        let source = &mut self.sources[at];
        let mut block = mem::take(&mut source.next);
        let packet = EnhancedPacket::parse(&block)?;
        let interface = source.interfaces.get(packet.interface as usize);
        let Interface { id, link_type, .. } = interface.context("a recorded packet of no interface")?;
        if let Some(program) = self.programs.get(link_type) {
            let outgoing = packet.direction() == Some(Direction::Out);
            if !program.matches(packet.data, packet.original_len, outgoing) {
                self.played.passed_over += 1;
                return Ok(());
            }
        }
        let keep = self.play.keeps(packet.data, *link_type);
        if keep < packet.data.len() {
            let mut cut = Vec::with_capacity(block.len());
            cut_packet(&block, keep, &mut cut)?;
            block = cut;
        }
        block[INTERFACE].copy_from_slice(&id.to_ne_bytes());
        Ok(output.packets(&block)?)
    }
}

impl Play {
    /// How many bytes of a packet are wanted.
    fn keeps(&self, data: &[u8], link_type: LinkType) -> usize {
        let headers = match self.headers {
            true => headers::find(&Data(data), link_type == LinkType::Ethernet).len as usize,
            false => usize::MAX,
        };
        data.len().min(self.snaplen as usize).min(headers)
    }
}

/// A packet's bytes.
struct Data<'a>(&'a [u8]);

impl Bytes for Data<'_> {
    fn u8(&self, offset: u32) -> Option<u8> {
        self.0.get(offset as usize).copied()
    }

    fn u16(&self, offset: u32) -> Option<u16> {
        let bytes = self.0.get(offset as usize..)?.first_chunk()?;
        Some(u16::from_be_bytes(*bytes))
    }
}

impl Source {
    /// Takes in what the next file counts: each counts from where the one before has ended.
    fn count(&mut self, counted: InterfaceStatistics) -> Result<()> {
        let interface = self.interfaces.get_mut(counted.interface as usize);
        let interface = interface.context("statistics of no interface")?;
        interface.statistics = Some(match interface.statistics.take() {
            Some(before) => add(before, counted),
            None => counted,
        });
        Ok(())
    }
}

fn add(before: InterfaceStatistics, counted: InterfaceStatistics) -> InterfaceStatistics {
    let sum =
        |one: Option<u64>, other: Option<u64>| one.zip(other).map(|(one, other)| one.saturating_add(other));
    let comment = match (before.comment, counted.comment) {
        (Some(before), Some(counted)) if before != counted && before.len() + counted.len() < MAX_COMMENT => {
            Some(format!("{before}; {counted}"))
        }
        (before, counted) => before.or(counted),
    };
    InterfaceStatistics {
        start_ns: before.start_ns,
        ifrecv: None,
        ifdrop: None,
        filteraccept: sum(before.filteraccept, counted.filteraccept),
        osdrop: sum(before.osdrop, counted.osdrop),
        comment,
        ..counted
    }
}

/// The blocks of a file.
struct Blocks(BufReader<File>);

impl Blocks {
    /// Reads the next one; there may be none.
    fn next(&mut self, block: &mut Vec<u8>) -> Result<bool> {
        block.resize(BLOCK_HEAD, 0);
        match self.0.read_exact(block) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(false),
            read => read?,
        }
        let len = block[4..].first_chunk().copied().map_or(0, u32::from_ne_bytes) as usize;
        ensure!((BLOCK_HEAD..=MAX_BLOCK).contains(&len), "a recording has a block of {len} bytes");
        block.resize(len, 0);
        self.0.read_exact(&mut block[BLOCK_HEAD..]).context("a recording is cut off")?;
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Seek as _, Write as _};

    use sniff_output::{Sink, Written};
    use sniff_pcapng::{SectionHeader, blocks, testing::RingPacket};

    use super::*;

    /// A file with one interface of this name, and packets at these times.
    fn file(name: &str, times: &[u64], matched: u64) -> File {
        let mut bytes = Vec::new();
        SectionHeader::default().write(&mut bytes);
        InterfaceDescription::new(LinkType::Ethernet, 0, name).write(&mut bytes);
        for &time_ns in times {
            bytes.extend(RingPacket { time_ns, data: &[7; 40], ..RingPacket::default() }.block());
        }
        InterfaceStatistics {
            filteraccept: Some(matched),
            comment: Some("a note".into()),
            ..Default::default()
        }
        .write(&mut bytes);
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&bytes).unwrap();
        file.rewind().unwrap();
        file
    }

    /// What a client gets.
    #[derive(Clone, Default)]
    struct Got(std::sync::Arc<std::sync::Mutex<Vec<u8>>>);

    impl Sink for Got {
        fn interface(&mut self, _: &InterfaceDescription) {}

        fn write(&mut self, bytes: &[u8]) -> (usize, io::Result<()>) {
            self.0.lock().unwrap().extend_from_slice(bytes);
            (bytes.len(), Ok(()))
        }

        fn reader(&self) -> Option<std::os::fd::BorrowedFd<'_>> {
            None
        }
    }

    impl Got {
        /// Interface and time of each packet so far.
        fn packets(&self) -> Vec<(u32, u64, usize)> {
            let bytes = self.0.lock().unwrap();
            let packet = |block| {
                EnhancedPacket::parse(block).ok().map(|it| (it.interface, it.timestamp_ns, it.data.len()))
            };
            blocks(&bytes).filter_map(packet).collect()
        }
    }

    fn player(play: Play) -> (Player, Output, Got) {
        let got = Got::default();
        let output = Output::new(Box::new(got.clone()), Box::leak(Box::<Written>::default()));
        (Player::new(play, Box::leak(Box::default())), output, got)
    }

    fn all() -> Play {
        Play { filter: None, snaplen: 1000, headers: false }
    }

    #[test]
    fn files_of_several_sources_become_one_in_the_order_of_time_as_far_as_all_have_come() {
        let (mut player, mut output, got) = player(all());
        player.take(0, file("a", &[1, 5, 9], 3));
        player.take(1, file("b", &[2, 3, 12], 4));
        assert_eq!(player.play(9, &mut output).unwrap().delivered, 4);
        assert_eq!(got.packets(), [(0, 1, 40), (1, 2, 40), (1, 3, 40), (0, 5, 40)]);
        player.take(0, file("a", &[10, 11], 2));
        player.take(1, file("b", &[13], 1));
        assert_eq!(player.play(u64::MAX, &mut output).unwrap().delivered, 9);
        assert_eq!(got.packets()[4..], [(0, 9, 40), (0, 10, 40), (0, 11, 40), (1, 12, 40), (1, 13, 40)]);
        let statistics = player.statistics(&output);
        let counted: Vec<_> = blocks(&statistics).map(|it| InterfaceStatistics::parse(it).unwrap()).collect();
        let counts = |it: &InterfaceStatistics| (it.interface, it.filteraccept, it.usrdeliv);
        assert_eq!(
            counted.iter().map(counts).collect::<Vec<_>>(),
            [(0, Some(5), Some(5)), (1, Some(5), Some(4))]
        );
        assert_eq!(counted[0].comment.as_deref(), Some("a note"));
    }

    #[test]
    fn packets_are_chosen_and_cut() {
        let (mut player, mut output, got) =
            player(Play { filter: Some("greater 40".into()), snaplen: 14, ..all() });
        player.take(0, file("a", &[1, 2], 2));
        player.play(u64::MAX, &mut output).unwrap();
        assert_eq!(got.packets(), [(0, 1, 14), (0, 2, 14)]);
        let (mut player, mut output, got) = self::player(Play { filter: Some("greater 41".into()), ..all() });
        player.take(0, file("a", &[1, 2], 2));
        assert_eq!(player.play(u64::MAX, &mut output).unwrap(), Played { delivered: 0, passed_over: 2 });
        assert_eq!(got.packets(), []);
    }

    #[test]
    fn what_is_no_recording_is_an_error() {
        for bytes in [&b"\x01\0\0\0\xff\xff\xff\xffab"[..], b"\x06\0\0\0\x20\0\0\0abc"] {
            let mut file = tempfile::tempfile().unwrap();
            file.write_all(bytes).unwrap();
            file.rewind().unwrap();
            let (mut player, mut output, _) = player(all());
            player.take(0, file);
            assert!(player.play(u64::MAX, &mut output).is_err());
        }
    }
}
