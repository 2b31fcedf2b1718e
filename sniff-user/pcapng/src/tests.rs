//! Byte layouts against the draft, a reader that is not ours, and blocks that lie.

use std::net::{Ipv4Addr, Ipv6Addr};

use pcap_parser::{Block, PcapNGOption, parse_block_le, pcapng::parse_block_be};
use sniff_common::{Direction, epb};

use super::*;

fn words(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_ne_bytes()).collect()
}

fn shorts(code: u16, len: u16) -> [u8; 4] {
    epb::option_header(code, len).to_ne_bytes()
}

fn section() -> SectionHeader {
    SectionHeader {
        hardware: Some("x86_64".to_owned()),
        os: Some("Linux 6.18".to_owned()),
        application: "sniff 0.1".to_owned(),
        comment: None,
    }
}

fn interface() -> InterfaceDescription {
    InterfaceDescription {
        link_type: LinkType::Ethernet,
        snaplen: 262_144,
        name: "shop/cart-0/eth0".to_owned(),
        description: Some("node a, veth0123 (index 7), host side".to_owned()),
        comments: vec!["erste Zeile\nzweite: größer".to_owned(), "another".to_owned()],
        ipv4: vec![(Ipv4Addr::new(10, 1, 2, 3), 24), (Ipv4Addr::new(192, 168, 7, 9), 30)],
        ipv6: vec![
            (Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 3), 64),
            (Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1), 10),
        ],
        mac: Some([2, 0, 0, 0xab, 0xcd, 0xef]),
        filter: Some("tcp port 80".to_owned()),
        os: Some("Linux 6.18".to_owned()),
        hardware: Some("veth".to_owned()),
    }
}

fn bare_interface() -> InterfaceDescription {
    InterfaceDescription::new(LinkType::Raw, 96, "tun0")
}

#[test]
fn statistics_are_read_as_they_are_written() {
    for told in [statistics(), InterfaceStatistics::default()] {
        let mut block = Vec::new();
        told.write(&mut block);
        assert_eq!(InterfaceStatistics::parse(&block).unwrap(), told);
        for len in 0..block.len() {
            // Whatever comes of it, it is no panic.
            let _ = InterfaceStatistics::parse(&block[..len]);
        }
    }
    let mut block = Vec::new();
    InterfaceStatistics { ifrecv: Some(1), ..InterfaceStatistics::default() }.write(&mut block);
    // The length of the first option.
    for len in [0_u16, 4, 9, u16::MAX] {
        block[22..24].copy_from_slice(&len.to_ne_bytes());
        assert!(InterfaceStatistics::parse(&block).is_err(), "{len}");
    }
}

fn statistics() -> InterfaceStatistics {
    InterfaceStatistics {
        interface: 1,
        timestamp_ns: 0x0102_0304_0506_0708,
        start_ns: Some(0x0102_0304_0000_0000),
        end_ns: Some(0x0102_0304_0000_0001),
        ifrecv: Some(12),
        ifdrop: Some(0),
        filteraccept: Some(10),
        osdrop: Some(3),
        usrdeliv: Some(1 << 40),
        comment: None,
    }
}

fn written(write: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut out = Vec::new();
    write(&mut out);
    out
}

/// An Enhanced Packet Block as the kernel side writes it; options are given with their headers.
fn packet_block(data: &[u8], original_len: u32, options: &[u8]) -> Vec<u8> {
    let padded = data.len().next_multiple_of(4);
    let total_len = (epb::DATA_OFFSET + padded + options.len() + 4) as u32;
    let mut block = words(&[6, total_len, 1, 0x0102_0304, 0x0506_0708, data.len() as u32, original_len]);
    block.extend(data);
    block.resize(epb::DATA_OFFSET + padded, 0);
    block.extend(options);
    block.extend(total_len.to_ne_bytes());
    block
}

fn flags_and_dropcount(flags: u32, dropcount: u64) -> Vec<u8> {
    [&shorts(2, 4)[..], &flags.to_ne_bytes(), &shorts(4, 8), &dropcount.to_ne_bytes(), &shorts(0, 0)].concat()
}

fn foreign(bytes: &[u8]) -> (&[u8], Block<'_>) {
    let parse = if cfg!(target_endian = "little") { parse_block_le } else { parse_block_be };
    parse(bytes).unwrap()
}

/// What pcap-parser sees of an option, without the padding.
fn values(options: &[PcapNGOption<'_>], code: u16) -> Vec<Vec<u8>> {
    let chosen = options.iter().filter(|option| option.code.0 == code);
    chosen.map(|option| option.as_bytes().unwrap().to_vec()).collect()
}

fn ends_with_endofopt(options: &[PcapNGOption<'_>]) -> bool {
    options.last().is_some_and(|option| option.code.0 == 0 && option.len == 0)
}

#[test]
fn section_header_follows_section_4_1() {
    let header = SectionHeader { application: "sniff".to_owned(), ..SectionHeader::default() };
    let expected = [
        &words(&[0x0A0D_0D0A, 44, 0x1A2B_3C4D])[..],
        &1u16.to_ne_bytes(),
        &0u16.to_ne_bytes(),
        &(-1i64).to_ne_bytes(),
        &shorts(4, 5),
        b"sniff\0\0\0",
        &shorts(0, 0),
        &words(&[44]),
    ]
    .concat();
    assert_eq!(written(|out| header.write(out)), expected);
}

#[test]
fn a_section_header_is_read_as_it_was_written() {
    for header in
        [section(), SectionHeader { comment: Some("größer".to_owned()), ..SectionHeader::default() }]
    {
        let block = written(|out| header.write(out));
        assert_eq!(SectionHeader::parse(&block).unwrap(), header);
        assert!(SectionHeader::parse(&block[..27]).is_err(), "cut off");
    }
}

#[test]
fn interface_description_follows_section_4_2() {
    let description = InterfaceDescription {
        name: "eth0".to_owned(),
        ipv4: vec![(Ipv4Addr::new(10, 1, 2, 3), 20)],
        ipv6: vec![(Ipv6Addr::new(0x2001, 0xdb8, 0x85a3, 0x08d3, 0x1319, 0x8a2e, 0x0370, 0x7344), 64)],
        mac: Some([0, 1, 2, 3, 4, 5]),
        filter: Some("tcp".to_owned()),
        ..bare_interface()
    };
    let expected = [
        &words(&[1, 96])[..],
        &101u16.to_ne_bytes(),
        &0u16.to_ne_bytes(),
        &words(&[96]),
        &shorts(2, 4),
        b"eth0",
        &shorts(4, 8),
        &[10, 1, 2, 3, 255, 255, 240, 0],
        // The draft's own example of if_IPv6addr.
        &shorts(5, 17),
        b"\x20\x01\x0d\xb8\x85\xa3\x08\xd3\x13\x19\x8a\x2e\x03\x70\x73\x44\x40\0\0\0",
        &shorts(6, 6),
        &[0, 1, 2, 3, 4, 5, 0, 0],
        &shorts(9, 1),
        &[9, 0, 0, 0],
        &shorts(11, 4),
        b"\0tcp",
        &shorts(0, 0),
        &words(&[96]),
    ]
    .concat();
    assert_eq!(written(|out| description.write(out)), expected);
}

#[test]
fn a_description_is_read_as_it_was_written() {
    for description in [interface(), bare_interface()] {
        let block = written(|out| description.write(out));
        assert_eq!(InterfaceDescription::parse(&block).unwrap(), description);
        for len in 0..block.len() {
            assert!(InterfaceDescription::parse(&block[..len]).is_err() || len >= 16, "{len} bytes");
        }
    }
}

#[test]
fn interface_statistics_follow_section_4_6() {
    let expected = [
        &words(&[5, 112, 1, 0x0102_0304, 0x0506_0708])[..],
        &shorts(2, 8),
        &words(&[0x0102_0304, 0]),
        &shorts(3, 8),
        &words(&[0x0102_0304, 1]),
        &shorts(4, 8),
        &12u64.to_ne_bytes(),
        &shorts(5, 8),
        &0u64.to_ne_bytes(),
        &shorts(6, 8),
        &10u64.to_ne_bytes(),
        &shorts(7, 8),
        &3u64.to_ne_bytes(),
        &shorts(8, 8),
        &(1u64 << 40).to_ne_bytes(),
        &shorts(0, 0),
        &words(&[112]),
    ]
    .concat();
    assert_eq!(written(|out| statistics().write(out)), expected);
}

#[test]
fn unknown_counts_are_left_out() {
    let statistics = InterfaceStatistics { interface: 3, ..InterfaceStatistics::default() };
    let expected = [words(&[5, 28, 3, 0, 0]), shorts(0, 0).to_vec(), words(&[28])].concat();
    assert_eq!(written(|out| statistics.write(out)), expected);
}

#[test]
fn another_reader_sees_every_option() {
    let mut file = Vec::new();
    section().write(&mut file);
    interface().write(&mut file);
    bare_interface().write(&mut file);
    file.extend(packet_block(b"packet", 60, &flags_and_dropcount(1, 7)));
    statistics().write(&mut file);

    let (rest, Block::SectionHeader(header)) = foreign(&file) else {
        panic!("no section header");
    };
    assert_eq!(header.major_version, 1);
    assert_eq!(header.minor_version, 0);
    assert_eq!(header.section_len, -1);
    assert_eq!(values(&header.options, 2), [b"x86_64"]);
    assert_eq!(values(&header.options, 3), [b"Linux 6.18"]);
    assert_eq!(values(&header.options, 4), [b"sniff 0.1"]);
    assert!(ends_with_endofopt(&header.options));

    let (rest, Block::InterfaceDescription(description)) = foreign(rest) else {
        panic!("no interface description");
    };
    assert_eq!(description.linktype.0, 1);
    assert_eq!(description.snaplen, 262_144);
    assert_eq!(description.ts_resolution(), Some(1_000_000_000));
    let options = &description.options;
    assert_eq!(values(options, 1), ["erste Zeile\nzweite: größer".as_bytes(), b"another"]);
    assert_eq!(values(options, 2), [b"shop/cart-0/eth0"]);
    assert_eq!(values(options, 3), [b"node a, veth0123 (index 7), host side"]);
    assert_eq!(
        description.if_ipv4addr().unwrap().unwrap(),
        [
            (Ipv4Addr::new(10, 1, 2, 3), Ipv4Addr::new(255, 255, 255, 0)),
            (Ipv4Addr::new(192, 168, 7, 9), Ipv4Addr::new(255, 255, 255, 252)),
        ]
    );
    let ipv6 = values(options, 5);
    assert_eq!(ipv6.len(), 2);
    assert_eq!(ipv6[0][..2], [0xfd, 0]);
    assert_eq!(ipv6[0][15..], [3, 64]);
    assert_eq!(ipv6[1][15..], [1, 10]);
    assert_eq!(values(options, 6), [[2, 0, 0, 0xab, 0xcd, 0xef]]);
    assert_eq!(values(options, 11), [b"\0tcp port 80"]);
    assert_eq!(values(options, 12), [b"Linux 6.18"]);
    assert_eq!(values(options, 15), [b"veth"]);
    assert!(ends_with_endofopt(options));

    let (rest, Block::InterfaceDescription(bare)) = foreign(rest) else {
        panic!("no second interface description");
    };
    assert_eq!(bare.linktype.0, 101);
    assert_eq!(bare.snaplen, 96);
    let codes: Vec<_> = bare.options.iter().map(|option| option.code.0).collect();
    assert_eq!(codes, [2, 9, 0]);

    let (rest, Block::EnhancedPacket(packet)) = foreign(rest) else {
        panic!("no packet");
    };
    assert_eq!(packet.if_id, 1);

    let (rest, Block::InterfaceStatistics(statistics)) = foreign(rest) else {
        panic!("no statistics");
    };
    assert!(rest.is_empty());
    assert_eq!(statistics.if_id, 1);
    assert_eq!((statistics.ts_high, statistics.ts_low), (0x0102_0304, 0x0506_0708));
    assert_eq!(statistics.isb_starttime(), Some(Ok((0x0102_0304, 0))));
    assert_eq!(statistics.isb_endtime(), Some(Ok((0x0102_0304, 1))));
    assert_eq!(statistics.isb_ifrecv(), Some(Ok(12)));
    assert_eq!(statistics.isb_ifdrop(), Some(Ok(0)));
    assert_eq!(statistics.isb_filteraccept(), Some(Ok(10)));
    assert_eq!(statistics.isb_osdrop(), Some(Ok(3)));
    assert_eq!(statistics.isb_usrdeliv(), Some(Ok(1 << 40)));
}

#[test]
fn long_strings_are_cut_between_characters() {
    // Two bytes a character, so that 65535 falls inside one.
    let long = "ß".repeat(40_000);
    let description =
        InterfaceDescription { name: long.clone(), filter: Some(long.clone()), ..bare_interface() };
    let block = written(|out| description.write(out));
    assert!(block.len().is_multiple_of(4));
    let (rest, Block::InterfaceDescription(read)) = foreign(&block) else {
        panic!("no interface description");
    };
    assert!(rest.is_empty());
    assert_eq!(values(&read.options, 2), [&long.as_bytes()[..65_534]]);
    let filter = &values(&read.options, 11)[0];
    assert_eq!(filter[0], 0);
    assert_eq!(filter[1..], long.as_bytes()[..65_534]);
}

#[test]
fn netmask_of_every_prefix() {
    let masks: Vec<Ipv4Addr> = [0, 1, 24, 32, 33, 255]
        .map(|prefix| {
            let description =
                InterfaceDescription { ipv4: vec![(Ipv4Addr::LOCALHOST, prefix)], ..bare_interface() };
            let block = written(|out| description.write(out));
            let (_, Block::InterfaceDescription(read)) = foreign(&block) else {
                panic!("no interface description");
            };
            read.if_ipv4addr().unwrap().unwrap()[0].1
        })
        .to_vec();
    let all = Ipv4Addr::BROADCAST;
    assert_eq!(
        masks,
        [Ipv4Addr::UNSPECIFIED, Ipv4Addr::new(128, 0, 0, 0), Ipv4Addr::new(255, 255, 255, 0), all, all, all]
    );
}

#[test]
fn packet_is_read_as_it_was_written() {
    let id = [&shorts(5, 8)[..], &(7_u64 << 60).to_ne_bytes()].concat();
    let options = [id, flags_and_dropcount(0x202, 1 << 33)].concat();
    let block = packet_block(b"a packet!", 1514, &options);
    let record = [&block[..], &[0xee; 40]].concat();
    let packet = EnhancedPacket::parse(&record).unwrap();
    assert_eq!(
        packet,
        EnhancedPacket {
            total_len: block.len(),
            interface: 1,
            timestamp_ns: 0x0102_0304_0506_0708,
            original_len: 1514,
            data: b"a packet!",
            flags: 0x202,
            dropcount: 1 << 33,
            packet_id: Some(7 << 60),
            has_foreign_options: false,
        }
    );
    assert_eq!(packet.direction(), Some(Direction::Out));
}

#[test]
fn packet_without_options_has_no_direction() {
    for options in [&[][..], &shorts(0, 0)] {
        let block = packet_block(b"", 0, options);
        let packet = EnhancedPacket::parse(&block).unwrap();
        assert_eq!(packet.data, b"");
        assert_eq!((packet.flags, packet.dropcount), (0, 0));
        assert_eq!(packet.direction(), None);
    }
    let both = packet_block(b"", 0, &flags_and_dropcount(3, 0));
    assert_eq!(EnhancedPacket::parse(&both).unwrap().direction(), None);
}

#[test]
fn unknown_options_are_passed_over() {
    let options =
        [&shorts(1, 5)[..], b"hello\0\0\0", &flags_and_dropcount(1, 2), b"after the end", &[0; 3]].concat();
    let block = packet_block(b"abcd", 4, &options);
    let packet = EnhancedPacket::parse(&block).unwrap();
    assert_eq!(packet.direction(), Some(Direction::In));
    assert_eq!(packet.dropcount, 2);
}

#[test]
fn lying_blocks_are_refused() {
    let good = packet_block(b"abcdef", 6, &flags_and_dropcount(1, 0));
    let with_word = |at: usize, value: u32| {
        let mut block = good.clone();
        block[at..at + 4].copy_from_slice(&value.to_ne_bytes());
        block
    };
    let refused = |block: &[u8], why: &str| {
        let error = EnhancedPacket::parse(block).unwrap_err().to_string();
        assert!(error.contains(why), "{error:?} does not say {why:?}");
    };
    EnhancedPacket::parse(&good).unwrap();
    refused(&with_word(0, 5), "block type");
    refused(&with_word(4, 0), "block length 0");
    refused(&with_word(4, 28), "block length 28");
    refused(&with_word(4, good.len() as u32 - 1), "block length");
    refused(&with_word(4, good.len() as u32 + 4), "cut off");
    refused(&with_word(4, u32::MAX - 3), "cut off");
    refused(&with_word(good.len() - 4, 12), "repeated");
    refused(&with_word(20, u32::MAX), "captured length");
    refused(&with_word(20, good.len() as u32), "captured length");
    let mut odd = words(&[6, 33, 0, 0, 0, 1, 1]);
    odd.push(0xab);
    odd.extend(33u32.to_ne_bytes());
    refused(&odd, "block length 33");
    let options_at = epb::DATA_OFFSET + 8;
    refused(&with_word(options_at, epb::option_header(9, 0xffff)), "exceeds");
    refused(&with_word(options_at, epb::option_header(2, 3)), "option 2");
    refused(&with_word(options_at, epb::option_header(4, 4)), "option 4");
}

/// A small generator (xorshift), so that a failure can be repeated.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}

#[test]
fn truncated_blocks_are_refused_and_garbled_ones_do_not_panic() {
    let good = packet_block(&[0xab; 61], 61, &flags_and_dropcount(2, 5));
    for len in 0..good.len() {
        assert!(EnhancedPacket::parse(&good[..len]).is_err(), "{len} bytes");
    }

    let mut random = Random(0x5eed);
    let mut read = 0;
    for _ in 0..200_000 {
        let mut block = good.clone();
        for _ in 0..1 + random.next() % 4 {
            let at = random.next() as usize % block.len();
            block[at] = random.next() as u8;
        }
        if let Ok(packet) = EnhancedPacket::parse(&block) {
            assert!(packet.total_len <= block.len());
            assert!(packet.data.len() <= packet.total_len);
            read += 1;
        }
    }
    // Most of the bytes are the packet's own: garbling those must not make the block unreadable.
    assert!(read > 50_000, "{read} blocks read");
}

#[test]
fn parts_are_whole_blocks() {
    /// Blocks of 20 bytes.
    fn twenty(count: u64) -> Vec<u8> {
        (0..count).flat_map(|time_ns| Watermark { time_ns }.block()).collect()
    }
    let lens = |bytes: &[u8], most| parts(bytes, most).map(<[u8]>::len).collect::<Vec<_>>();
    assert_eq!(lens(&twenty(3), 1000), [60]);
    assert_eq!(lens(&twenty(7), 50), [40, 40, 40, 20]);
    let mut long = Vec::new();
    SectionHeader { comment: Some("x".repeat(60_000)), ..SectionHeader::default() }.write(&mut long);
    let large = [&long[..], &twenty(2)].concat();
    assert_eq!(lens(&large, 1000), [long.len(), 40]);
    assert_eq!(lens(b"no block", 1000), [8]);
    assert_eq!(lens(&[], 1000), [0; 0]);
}
