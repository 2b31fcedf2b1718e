//! Whatever comes in whatever pieces at whatever time: each packet comes out once, with its interface, in order.

use std::collections::HashMap;

use pcap_parser::{Block, OptionCode, parse_block_le};
use sniff_common::epb;

use super::*;
use crate::{InterfaceStatistics, LinkType};

/// What an independent reader finds in a merged stream: names of interfaces, packets, and statistics.
#[derive(Default)]
struct Read {
    names: Vec<String>,
    packets: Vec<(String, u64, Vec<u8>)>,
    dropcounts: Vec<u64>,
    statistics: Vec<(String, u64)>,
    comments: Vec<String>,
}

fn header() -> SectionHeader {
    SectionHeader { application: "test".into(), ..SectionHeader::default() }
}

fn section() -> Vec<u8> {
    let mut out = Vec::new();
    header().write(&mut out);
    out
}

fn interface(name: &str) -> Vec<u8> {
    let mut out = Vec::new();
    let description = InterfaceDescription::new(LinkType::Ethernet, 0, name);
    description.write(&mut out);
    out
}

/// A packet that lost `dropcount` before it.
fn packet_after(dropcount: u64, interface: u32, time: u64, data: &[u8]) -> Vec<u8> {
    let padded = data.len().next_multiple_of(4);
    let len = (epb::DATA_OFFSET + padded + 12 + 4 + 4) as u32;
    let mut out = Vec::new();
    let words = [
        epb::BLOCK_TYPE,
        len,
        interface,
        (time >> 32) as u32,
        time as u32,
        data.len() as u32,
        data.len() as u32,
    ];
    words.iter().for_each(|word| out.extend(word.to_ne_bytes()));
    out.extend(data);
    out.resize(epb::DATA_OFFSET + padded, 0);
    out.extend(4_u16.to_ne_bytes());
    out.extend(8_u16.to_ne_bytes());
    out.extend(dropcount.to_ne_bytes());
    out.extend([0; 4]);
    out.extend(len.to_ne_bytes());
    out
}

fn packet(interface: u32, time: u64, data: &[u8]) -> Vec<u8> {
    packet_after(0, interface, time, data)
}

fn statistics(interface: u32, osdrop: u64) -> Vec<u8> {
    let mut out = Vec::new();
    InterfaceStatistics { interface, osdrop: Some(osdrop), ..InterfaceStatistics::default() }.write(&mut out);
    out
}

fn read(mut rest: &[u8]) -> Read {
    let mut read = Read::default();
    let mut sections = 0;
    while !rest.is_empty() {
        let (after, block) = parse_block_le(rest).expect("a whole block");
        match block {
            Block::SectionHeader(_) => sections += 1,
            Block::InterfaceDescription(block) => {
                read.names.push(block.if_name().unwrap().unwrap().to_owned());
            }
            Block::EnhancedPacket(block) => {
                let name = read.names[block.if_id as usize].clone();
                let time = u64::from(block.ts_high) << 32 | u64::from(block.ts_low);
                read.packets.push((name, time, block.data[..block.caplen as usize].to_vec()));
                read.dropcounts.push(block.options[0].as_u64_le().unwrap());
            }
            Block::InterfaceStatistics(block) => {
                let osdrop = block.isb_osdrop().unwrap().unwrap();
                read.statistics.push((read.names[block.if_id as usize].clone(), osdrop));
                let comments = block.options.iter().filter(|option| option.code == OptionCode(1));
                read.comments.extend(comments.map(|it| it.as_str().unwrap().to_owned()));
            }
            other => panic!("{other:?}"),
        }
        rest = after;
    }
    assert_eq!(sections, 1);
    read
}

/// Lets every interface through as it is.
fn pass(_: &mut InterfaceDescription) -> Result<()> {
    Ok(())
}

fn merger(out: &mut Vec<u8>) -> Merger {
    Merger::new(&header(), None, out)
}

/// A stream begins with one interface and a packet of the time 10.
fn begin(merger: &mut Merger, stream: StreamId, now: Instant, out: &mut Vec<u8>) {
    let blocks = [section(), interface("a"), packet(0, 10, b"a")].concat();
    merger.push(stream, blocks.into(), now, pass, out).unwrap();
}

#[test]
fn a_single_stream_goes_through_at_once() {
    let (mut out, now) = (Vec::new(), Instant::now());
    let mut merger = merger(&mut out);
    let id = merger.join();
    let stream =
        [section(), interface("a"), packet_after(7, 0, 5, b"x"), packet(0, 3, b"y"), statistics(0, 9)];
    merger.push(id, stream.concat().into(), now, pass, &mut out).unwrap();
    merger.write_due(now, &mut out);
    assert_eq!(out, stream.concat(), "byte for byte");
    assert_eq!((merger.written(), merger.late(), merger.due()), (2, 0, None));
}

#[test]
fn packets_wait_for_the_other_stream_but_not_for_long() {
    let (mut out, start) = (Vec::new(), Instant::now());
    let mut merger = merger(&mut out);
    let [a, b] = [merger.join(), merger.join()];
    begin(&mut merger, a, start, &mut out);
    merger.write_due(start, &mut out);
    assert_eq!(merger.written(), 0, "b may still send an older one");
    merger
        .push(b, [section(), interface("b"), packet(0, 9, b"b")].concat().into(), start, pass, &mut out)
        .unwrap();
    merger.write_due(start, &mut out);
    assert_eq!(merger.written(), 1, "that of b; b may still send one between");
    assert_eq!(merger.due(), Some(start + HOLD));
    merger.write_due(start + HOLD, &mut out);
    let read = read(&out);
    assert_eq!(read.names, ["a", "b"]);
    assert_eq!(read.packets, [("b".into(), 9, b"b".to_vec()), ("a".into(), 10, b"a".to_vec())]);
}

#[test]
fn packets_do_not_wait_for_a_stream_that_is_complete_so_far() {
    let (mut out, now) = (Vec::new(), Instant::now());
    let mut merger = merger(&mut out);
    let [a, b] = [merger.join(), merger.join()];
    assert_eq!(merger.awaited().count(), 0, "nobody waits for anything");
    let packets = [section(), interface("a"), packet(0, 10, b"a"), packet(0, 12, b"c")];
    merger.push(a, packets.concat().into(), now, pass, &mut out).unwrap();
    let awaited = |merger: &Merger| merger.awaited().collect::<Vec<_>>();
    assert_eq!(awaited(&merger), [b]);

    let watermark = |time_ns| Watermark { time_ns }.block();
    (0..4).for_each(|_| merger.expect_watermark(b, now));
    merger.push(b, [section(), watermark(9)].concat().into(), now, pass, &mut out).unwrap();
    merger.write_due(now, &mut out);
    assert_eq!((merger.written(), awaited(&merger)), (0, vec![b]), "b may send one of the time 9");
    // An older watermark takes nothing back.
    merger.push(b, [watermark(11), watermark(8)].concat().into(), now, pass, &mut out).unwrap();
    merger.write_due(now, &mut out);
    assert_eq!((merger.written(), awaited(&merger)), (1, vec![b]));
    merger.push(b, [interface("b"), packet(0, 11, b"b")].concat().into(), now, pass, &mut out).unwrap();
    merger.push(b, watermark(20).into(), now, pass, &mut out).unwrap();
    merger.write_due(now, &mut out);
    assert_eq!((merger.written(), merger.late(), merger.due()), (3, 0, None));
    let times = read(&out).packets.iter().map(|(_, time, _)| *time).collect::<Vec<_>>();
    assert_eq!(times, [10, 11, 12], "and no watermark, which the reader would not know");
}

#[test]
fn a_stream_is_complete_until_its_last_packet_or_watermark() {
    let (mut out, now) = (Vec::new(), Instant::now());
    let mut merger = merger(&mut out);
    let [a, b] = [merger.join(), merger.join()];
    assert_eq!(merger.complete_until(a), None);
    begin(&mut merger, a, now, &mut out);
    assert_eq!(merger.complete_until(a), Some(10));
    (0..2).for_each(|_| merger.expect_watermark(a, now));
    for (said, expected) in [(15, 15), (12, 15)] {
        merger.push(a, Watermark { time_ns: said }.block().to_vec().into(), now, pass, &mut out).unwrap();
        assert_eq!(merger.complete_until(a), Some(expected));
    }
    assert_eq!(merger.complete_until(b), None);
}

/// That all has come says no time.
#[test]
fn a_time_that_no_clock_shows_is_nobodys_clock() {
    let (mut out, now) = (Vec::new(), Instant::now());
    let mut merger = merger(&mut out);
    merger.set_clock(now, 1000);
    let [a, b] = [merger.join(), merger.join()];
    for (id, time) in [(a, 1000), (b, 900)] {
        let stream = [section(), interface("a"), packet(0, time, b"x")].concat();
        merger.push(id, stream.into(), now, pass, &mut out).unwrap();
    }
    merger.expect_watermark(b, now);
    merger.push(b, Watermark { time_ns: u64::MAX }.block().to_vec().into(), now, pass, &mut out).unwrap();
    assert_eq!((merger.ahead(b), merger.complete_until(b)), (Some(-100), Some(900)));
    merger.write_due(now, &mut out);
    assert_eq!(merger.written(), 2, "b sends no older one");
    merger.push(b, packet(0, u64::MAX, b"x").into(), now, pass, &mut out).unwrap();
    assert_eq!((merger.ahead(b), merger.complete_until(b)), (Some(-100), Some(900)));
}

#[test]
fn watermarks_that_were_not_asked_for_are_refused() {
    let (mut out, now) = (Vec::new(), Instant::now());
    let mut merger = merger(&mut out);
    let a = merger.join();
    merger.expect_watermark(a, now);
    let watermark = || Watermark { time_ns: 1 }.block().to_vec();
    merger.push(a, [section(), watermark()].concat().into(), now, pass, &mut out).unwrap();
    let error = merger.push(a, watermark().into(), now, pass, &mut out).unwrap_err();
    assert_eq!(error.to_string(), "a watermark that was not asked for");
}

#[test]
fn an_interface_has_statistics_once() {
    let (mut out, now) = (Vec::new(), Instant::now());
    let mut merger = merger(&mut out);
    let a = merger.join();
    let stream = [section(), interface("a"), interface("b"), statistics(0, 1), statistics(1, 1)];
    merger.push(a, stream.concat().into(), now, pass, &mut out).unwrap();
    let error = merger.push(a, statistics(1, 1).into(), now, pass, &mut out).unwrap_err();
    assert_eq!(error.to_string(), "statistics of one interface twice");
}

/// What readers of a file stumble over, from whomever it comes, costs the packets of all.
#[test]
fn packets_and_statistics_are_as_sniff_writes_them() {
    let push = |snaplen: u32, block: Vec<u8>| {
        let (mut out, now) = (Vec::new(), Instant::now());
        let mut merger = merger(&mut out);
        let a = merger.join();
        let mut start = section();
        InterfaceDescription::new(LinkType::Ethernet, snaplen, "a").write(&mut start);
        merger.push(a, [start, block].concat().into(), now, pass, &mut out).map_err(|error| error.to_string())
    };
    let with_option = |code: u16| {
        let mut block = packet(0, 1, b"data");
        let at = epb::DATA_OFFSET + 4;
        block[at..at + 2].copy_from_slice(&code.to_ne_bytes());
        block
    };
    assert_eq!(push(0, packet(0, 1, b"data")), Ok(()));
    assert_eq!(push(4, packet(0, 1, b"data")), Ok(()));
    assert!(push(3, packet(0, 1, b"data")).unwrap_err().contains("a packet of 4 bytes, where at most 3"));
    for comment_or_custom in [1, 2988] {
        assert!(push(0, with_option(comment_or_custom)).unwrap_err().contains("that sniff does not write"));
    }
    let mut longer = packet(0, 1, b"data");
    longer[24..28].copy_from_slice(&3_u32.to_ne_bytes());
    assert_eq!(push(0, longer), Err("4 bytes of a packet of 3".into()));
    let mut broken = statistics(0, 1);
    broken[22..24].copy_from_slice(&u16::MAX.to_ne_bytes());
    assert!(push(0, broken).unwrap_err().contains("exceeds its block"));
}

#[test]
fn comments_of_statistics_are_marked_as_the_nodes() {
    let (mut out, now) = (Vec::new(), Instant::now());
    let mut merger = merger(&mut out);
    let a = merger.join();
    merger.mark(a, "node n1: ".into());
    let comment = Some("all is well".to_owned());
    let mut told = Vec::new();
    InterfaceStatistics { osdrop: Some(0), comment, ..InterfaceStatistics::default() }.write(&mut told);
    merger.push(a, [section(), interface("a"), told].concat().into(), now, pass, &mut out).unwrap();
    merger.write_due(now, &mut out);
    assert_eq!(read(&out).comments, ["node n1: all is well"]);
}

/// As many as fit into memory, not as many as their bytes alone would let fit.
#[test]
fn what_holding_a_packet_takes_counts_too() {
    let (mut out, now) = (Vec::new(), Instant::now());
    let mut merger = merger(&mut out);
    let [a, _silent] = [merger.join(), merger.join()];
    merger.push(a, [section(), interface("a")].concat().into(), now, pass, &mut out).unwrap();
    merger.push(a, packet(0, 1, b"").into(), now, pass, &mut out).unwrap();
    assert_eq!(merger.held, packet(0, 1, b"").len() + size_of::<Held>());
    merger.write_all(&mut out);
    assert_eq!(merger.held, 0);
}

#[test]
fn what_comes_too_late_is_written_at_once_and_counted() {
    let (mut out, start) = (Vec::new(), Instant::now());
    let mut merger = merger(&mut out);
    let [a, b] = [merger.join(), merger.join()];
    begin(&mut merger, a, start, &mut out);
    merger.write_due(start + HOLD, &mut out);
    merger
        .push(b, [section(), interface("b"), packet(0, 9, b"b")].concat().into(), start, pass, &mut out)
        .unwrap();
    merger.write_due(start + HOLD, &mut out);
    assert_eq!((merger.written(), merger.late()), (2, 1));
    assert_eq!(read(&out).packets.len(), 2);
}

#[test]
fn a_stream_that_ended_is_not_waited_for() {
    let (mut out, start) = (Vec::new(), Instant::now());
    let mut merger = merger(&mut out);
    let [a, b] = [merger.join(), merger.join()];
    begin(&mut merger, a, start, &mut out);
    merger.end(b);
    merger.write_due(start, &mut out);
    assert_eq!(merger.written(), 1);
}

#[test]
fn statistics_tell_what_was_left_out_beyond_the_limit_and_which_losses_that_told_of() {
    let (mut out, now) = (Vec::new(), Instant::now());
    let mut merger = Merger::new(&header(), Some(2), &mut out);
    let id = merger.join();
    let stream = [
        section(),
        interface("a"),
        interface("b"),
        packet_after(3, 0, 1, b"x"),
        packet_after(1, 1, 2, b"y"),
        packet_after(5, 0, 3, b"z"),
        packet_after(2, 0, 4, b"z"),
        packet(1, 5, b"z"),
        statistics(0, 10),
        statistics(1, 1),
    ];
    merger.push(id, stream.concat().into(), now, pass, &mut out).unwrap();
    merger.write_due(now, &mut out);
    let read = read(&out);
    assert_eq!(read.dropcounts, [3, 1]);
    assert_eq!(read.statistics, [("a".to_owned(), 10), ("b".to_owned(), 1)]);
    let not_here = "of the delivered packets are not in this file, which has as many as it was to have";
    assert_eq!(
        read.comments,
        [format!("2 {not_here}; 7 of the dropped packets were lost between those"), format!("1 {not_here}")]
    );
}

#[test]
fn no_more_than_the_limit_is_held() {
    let (mut out, now) = (Vec::new(), Instant::now());
    let mut merger = merger(&mut out);
    let [a, _silent] = [merger.join(), merger.join()];
    merger.push(a, [section(), interface("a")].concat().into(), now, pass, &mut out).unwrap();
    let data = vec![0; 200_000];
    for time in 0..1000 {
        merger.push(a, packet(0, time, &data).into(), now, pass, &mut out).unwrap();
        merger.write_due(now, &mut out);
        assert!(merger.held <= MAX_HELD);
    }
    let fits = MAX_HELD / packet(0, 0, &data).len();
    assert_eq!(merger.written(), 1000 - fits as u64);
}

#[test]
fn no_more_packets_are_written_than_wanted() {
    let (mut out, now) = (Vec::new(), Instant::now());
    let mut merger = Merger::new(&header(), Some(1), &mut out);
    let a = merger.join();
    let stream =
        [section(), interface("a"), packet(0, 1, b"a"), packet(0, 2, b"b"), statistics(0, 3)].concat();
    merger.push(a, stream.into(), now, pass, &mut out).unwrap();
    merger.write_due(now, &mut out);
    assert!(merger.is_full());
    let read = read(&out);
    assert_eq!((read.packets.len(), read.statistics.len()), (1, 1));
}

#[test]
fn garbage_is_refused_and_what_came_before_is_kept() {
    let sections_twice = [section(), section()].concat();
    let undescribed = [section(), interface("a"), packet(1, 1, b"x")].concat();
    let mut lies = [section(), interface("a"), packet(0, 1, b"x")].concat();
    let at = lies.len() - 4;
    lies[at] ^= 4;
    let mut swapped = section();
    swapped[8..12].reverse();
    let other = [section(), [10_u32, 12, 12].map(u32::to_ne_bytes).concat()].concat();
    let cut = section()[..20].to_vec();
    let microseconds = {
        let mut interface = interface("a");
        let at = interface.windows(4).position(|bytes| bytes == [9, 0, 1, 0]).unwrap();
        interface[at + 4] = 6;
        [section(), interface].concat()
    };
    for bad in
        [sections_twice, undescribed, lies, swapped, other, cut, microseconds, interface("a"), vec![0; 3]]
    {
        let (mut out, now) = (Vec::new(), Instant::now());
        let mut merger = merger(&mut out);
        let [good, evil] = [merger.join(), merger.join()];
        let stream = [section(), interface("good"), packet(0, 1, b"x")].concat();
        merger.push(good, stream.into(), now, pass, &mut out).unwrap();
        merger.push(evil, bad.into(), now, pass, &mut out).unwrap_err();
        merger.end(evil);
        merger.write_due(now, &mut out);
        let read = read(&out);
        assert_eq!(read.packets.len(), 1);
    }
}

/// Streams made at random, in random pieces and at random times.
#[test]
fn every_packet_comes_out_once_and_in_order() {
    for seed in 0..60 {
        let mut random = fastrand::Rng::with_seed(seed);
        let streams = random.usize(1..6);
        let (mut out, mut now) = (Vec::new(), Instant::now());
        let mut merger = merger(&mut out);
        let ids: Vec<_> = (0..streams).map(|_| merger.join()).collect();
        let mut sent = HashMap::new();
        let mut queues: Vec<VecDeque<Bytes>> = Vec::new();
        for stream in 0..streams {
            let mut pieces = VecDeque::from([section()]);
            let (mut interfaces, mut time) = (0, 1_000_000);
            for number in 0..random.u64(0..200) {
                if interfaces == 0 || random.u8(..) < 10 {
                    pieces.push_back(interface(&format!("{stream}/{interfaces}")));
                    interfaces += 1;
                }
                time += random.u64(0..1_000_000);
                let (of, dropped) = (random.u32(0..interfaces), random.u64(0..5));
                let data = [stream as u64, number].map(u64::to_ne_bytes).concat();
                pieces.push_back(packet_after(dropped, of, time, &data));
                sent.insert(data, (format!("{stream}/{of}"), time, dropped));
            }
            (0..interfaces).for_each(|id| pieces.push_back(statistics(id, u64::from(id) + 100)));
            // Several blocks in a piece.
            let mut joined = VecDeque::new();
            while !pieces.is_empty() {
                let n = random.usize(1..=pieces.len().min(9));
                joined.push_back(Bytes::from(pieces.drain(..n).flatten().collect::<Vec<u8>>()));
            }
            queues.push(joined);
        }
        while queues.iter().any(|queue| !queue.is_empty()) {
            let stream = random.usize(0..streams);
            match queues[stream].pop_front() {
                Some(blocks) => merger.push(ids[stream], blocks, now, pass, &mut out).unwrap(),
                None => merger.end(ids[stream]),
            }
            now += Duration::from_micros(random.u64(0..20_000));
            merger.write_due(now, &mut out);
            assert!(merger.due().is_none_or(|due| due > now), "nothing is held for longer");
        }
        merger.write_all(&mut out);

        let read = read(&out);
        assert_eq!(read.packets.len(), sent.len());
        let (mut youngest, mut late) = (0, 0);
        for ((name, time, data), dropcount) in read.packets.iter().zip(&read.dropcounts) {
            let was = sent.remove(data).expect("each once");
            assert_eq!((name.clone(), *time, *dropcount), was);
            late += u64::from(*time < youngest);
            youngest = youngest.max(*time);
        }
        assert_eq!(merger.late(), late);
        assert!(read.statistics.iter().all(|(name, osdrop)| {
            name.split_once('/').unwrap().1.parse::<u64>().unwrap() + 100 == *osdrop
        }));
        assert_eq!(read.statistics.len(), read.names.len());
    }
}

#[test]
fn an_interface_without_statistics_says_why() {
    let (mut out, now) = (Vec::new(), Instant::now());
    let mut merger = merger(&mut out);
    let id = merger.join();
    let stream = [section(), interface("a"), interface("b"), packet(0, 1, b"x"), statistics(1, 9)].concat();
    merger.push(id, stream.into(), now, pass, &mut out).unwrap();
    assert_eq!(merger.waiting(), 1);
    merger.write_all(&mut out);
    assert_eq!((merger.waiting(), merger.written()), (0, 1));
    let before = out.len();
    merger.say_why_not_counted(id, 7, "the node was lost", &mut out);
    let expected = {
        let comment = Some("the node was lost".to_owned());
        let mut out = Vec::new();
        InterfaceStatistics { interface: 0, timestamp_ns: 7, comment, ..InterfaceStatistics::default() }
            .write(&mut out);
        out
    };
    assert_eq!(out[before..], expected);
}

/// The times that two streams' packets have in the merged one, beside a third with a clock that is wrong. Those of the
/// second come later than those of the first.
fn times_beside_a_clock_that_says(wrong: impl Fn(u64) -> u64) -> Vec<u64> {
    const MS: u64 = 1_000_000;
    const EPOCH: u64 = 1_700_000_000_000 * MS;
    let (mut out, start) = (Vec::new(), Instant::now());
    let mut merger = merger(&mut out);
    merger.set_clock(start, EPOCH);
    let [wild, a, b] = [merger.join(), merger.join(), merger.join()];
    for (id, name) in [(wild, "wild"), (a, "a"), (b, "b")] {
        let beginning = [section(), interface(name)].concat();
        merger.push(id, beginning.into(), start, pass, &mut out).unwrap();
    }
    for ms in (0..2000).step_by(10) {
        let now = start + Duration::from_millis(ms);
        let time = EPOCH + ms * MS;
        for (id, time) in [(wild, wrong(time)), (a, time), (b, time.saturating_sub(55 * MS))] {
            merger.push(id, packet(0, time, b"x").into(), now, pass, &mut out).unwrap();
            merger.write_due(now, &mut out);
        }
    }
    merger.write_all(&mut out);
    assert_eq!(merger.written(), 600);
    let read = read(&out);
    read.packets.iter().filter(|(name, ..)| name != "wild").map(|(_, time, _)| *time).collect()
}

#[test]
fn a_wrong_clock_does_not_decide_about_the_order_of_others() {
    const HOUR: u64 = 3_600_000_000_000;
    type Clock = fn(u64) -> u64;
    let clocks: [(&str, Clock); 5] = [
        ("right", |time| time),
        ("an hour ahead", |time| time + HOUR),
        ("an hour behind", |time| time - HOUR),
        ("the end of time", |_| u64::MAX),
        ("now and then wild", |time| if time % 7 == 0 { u64::MAX } else { time }),
    ];
    for (clock, wrong) in clocks {
        let times = times_beside_a_clock_that_says(wrong);
        assert_eq!(times.len(), 400, "{clock}");
        assert!(times.is_sorted(), "{clock}");
    }
}

#[test]
fn a_clock_that_is_ahead_of_the_others_is_noticed() {
    let (mut out, now) = (Vec::new(), Instant::now());
    let mut merger = merger(&mut out);
    merger.set_clock(now, 1000);
    let streams = [merger.join(), merger.join()];
    for (id, time) in streams.into_iter().zip([1_000, 5_000_001_000]) {
        let stream = [section(), interface("a"), packet(0, time, b"x")].concat();
        assert_eq!(merger.ahead(id), None, "nothing was heard");
        merger.push(id, stream.into(), now, pass, &mut out).unwrap();
    }
    assert_eq!(streams.map(|id| merger.ahead(id)), [Some(0), Some(5_000_000_000)]);
    assert_eq!(streams.map(|id| merger.received(id)), [1, 1]);
}

#[test]
fn what_no_node_sends_is_refused() {
    let long_statistics = {
        let mut out = Vec::new();
        let comment = Some("x".repeat(MAX_STATISTICS));
        InterfaceStatistics { comment, ..InterfaceStatistics::default() }.write(&mut out);
        out
    };
    let large = packet(0, 1, &vec![0; MAX_SNAPLEN as usize + 1]);
    let mut linked = interface("a");
    linked[8..10].copy_from_slice(&147_u16.to_ne_bytes());
    for (bad, why) in [(long_statistics, "statistics of"), (large, "a packet of"), (linked, "link type 147")]
    {
        let (mut out, now) = (Vec::new(), Instant::now());
        let mut merger = merger(&mut out);
        let id = merger.join();
        let stream = [section(), interface("a"), bad].concat();
        let error = merger.push(id, stream.into(), now, pass, &mut out).unwrap_err().to_string();
        assert!(error.contains(why), "{error}");
    }
}

/// Pushes blocks at the time `now`, and has written what is due.
fn push(merger: &mut Merger, id: StreamId, blocks: &[Vec<u8>], now: Instant, out: &mut Vec<u8>) {
    merger.push(id, blocks.concat().into(), now, pass, out).unwrap();
    merger.write_due(now, out);
}

fn times(out: &[u8]) -> Vec<u64> {
    read(out).packets.iter().map(|(_, time, _)| *time).collect()
}

/// What somebody has had for minutes, from streams that come as fast or slowly as they do, beside whatever clock.
#[test]
fn what_was_recorded_is_sorted_over_all_streams_however_late_they_are() {
    const NOW: u64 = 1_700_000_000_000_000_000;
    const HOUR: u64 = 3_600_000_000_000;
    for (seed, clock) in (0..60).zip([NOW, NOW - HOUR, NOW + HOUR].into_iter().cycle()) {
        let mut random = fastrand::Rng::with_seed(seed);
        let (mut out, mut now) = (Vec::new(), Instant::now());
        let mut merger = merger(&mut out);
        merger.set_clock(now, clock);
        let mut streams: Vec<(StreamId, VecDeque<Vec<u8>>)> = Vec::new();
        let mut sent = Vec::new();
        for _ in 0..random.usize(1..6) {
            let mut pieces = VecDeque::from([section(), interface("a")]);
            let mut time = NOW - random.u64(0..HOUR);
            for _ in 0..random.u64(0..200) {
                time += random.u64(0..HOUR / 100);
                pieces.push_back(packet(0, time, b"x"));
                sent.push(time);
            }
            pieces.push_back(statistics(0, 0));
            streams.push((merger.join_past(), pieces));
        }
        while !streams.is_empty() {
            let at = random.usize(0..streams.len());
            let (id, pieces) = &mut streams[at];
            match pieces.pop_front() {
                Some(piece) => push(&mut merger, *id, &[piece], now, &mut out),
                None => {
                    merger.end(*id);
                    merger.write_due(now, &mut out);
                    streams.swap_remove(at);
                }
            }
            assert_eq!(merger.due(), None, "no time is waited for");
            now += Duration::from_millis(random.u64(0..2000));
        }
        sent.sort_unstable();
        assert_eq!((times(&out), merger.late(), merger.waiting()), (sent, 0, 0), "seed {seed}");
    }
}

#[test]
fn whoever_is_far_ahead_of_the_past_of_another_must_wait() {
    let (mut out, now) = (Vec::new(), Instant::now());
    let mut merger = merger(&mut out);
    let [a, b] = [merger.join_past(), merger.join_past()];
    push(&mut merger, a, &[section(), interface("a")], now, &mut out);
    push(&mut merger, b, &[section(), interface("b")], now, &mut out);
    let data = vec![0; 200_000];
    let mut time = 10;
    while !merger.must_wait(a) {
        push(&mut merger, a, &[packet(0, time, &data)], now + HOLD * 10, &mut out);
        time += 1;
    }
    assert!(!merger.must_wait(b), "it is what is waited for");
    assert!(merger.held > MAX_HELD && merger.held < MAX_HELD + 2 * data.len(), "{}", merger.held);
    assert_eq!(merger.written(), 0);
    push(&mut merger, b, &[packet(0, 5, b"b"), packet(0, 40, b"b")], now, &mut out);
    assert_eq!((merger.written(), merger.must_wait(a)), (33, false));
    merger.end(b);
    merger.write_due(now, &mut out);
    assert_eq!((merger.written(), merger.late()), (time - 10 + 2, 0));
    assert!(times(&out).is_sorted());
}

#[test]
fn whoever_has_caught_up_with_the_present_is_waited_for_as_all_are() {
    let (mut out, start) = (Vec::new(), Instant::now());
    let mut merger = merger(&mut out);
    let [a, b] = [merger.join_past(), merger.join_past()];
    let at = |seconds: u64| start + Duration::from_secs(seconds);
    let watermark = |time_ns| Watermark { time_ns }.block();
    merger.expect_watermark(b, at(0));
    push(&mut merger, b, &[section(), interface("b"), packet(0, 10, b"b"), watermark(100)], at(1), &mut out);
    assert_eq!(merger.written(), 0, "b is of the present, a has sent nothing of the past yet");

    // Long on its way: there was much of the past before it, and so there may be as much behind it.
    assert!(merger.may_ask(a));
    merger.expect_watermark(a, at(0));
    assert!(!merger.may_ask(a), "another one comes in its turn");
    push(&mut merger, b, &[packet(0, 110, b"b"), packet(0, 130, b"b")], at(1), &mut out);
    push(&mut merger, a, &[section(), interface("a"), packet(0, 20, b"a"), watermark(100)], at(60), &mut out);
    assert_eq!((times(&out), merger.due()), (vec![10, 20], None));
    assert_eq!(merger.awaited().collect::<Vec<_>>(), [a]);

    assert!(merger.may_ask(a));
    merger.expect_watermark(a, at(61));
    push(&mut merger, a, &[watermark(120)], at(61), &mut out);
    assert_eq!((times(&out), merger.due()), (vec![10, 20, 110], Some(at(61) + HOLD)));
    assert!(merger.may_ask(a));
    push(&mut merger, a, &[packet(0, 125, b"a")], at(61), &mut out);
    merger.write_due(at(61) + HOLD, &mut out);
    assert_eq!((times(&out), merger.late()), (vec![10, 20, 110, 125, 130], 0));
}

/// One without a recorder has nothing to come, until it has one.
#[test]
fn whoever_has_nothing_of_the_past_may_have_something_of_the_present() {
    const NOW: u64 = 1_700_000_000_000_000_000;
    let (mut out, now) = (Vec::new(), Instant::now());
    let mut merger = merger(&mut out);
    merger.set_clock(now, NOW);
    let [a, b] = [merger.join_past(), merger.join_past()];
    for (id, time_ns) in [(a, NOW), (b, u64::MAX)] {
        merger.expect_watermark(id, now);
        push(&mut merger, id, &[section(), interface("a"), Watermark { time_ns }.block()], now, &mut out);
    }
    let later = now + Duration::from_secs(10);
    push(&mut merger, a, &[packet(0, NOW + 10_000_000_000, b"a")], later, &mut out);
    push(&mut merger, b, &[packet(0, NOW + 9_900_000_000, b"b")], later, &mut out);
    merger.write_all(&mut out);
    assert_eq!((merger.written(), merger.late()), (2, 0));
}

#[test]
fn a_recorded_packet_tells_nothing_of_a_clock() {
    const NOW: u64 = 1_700_000_000_000_000_000;
    const MINUTE: u64 = 60_000_000_000;
    let (mut out, now) = (Vec::new(), Instant::now());
    let mut merger = merger(&mut out);
    merger.set_clock(now, NOW);
    let streams = [merger.join_past(), merger.join_past()];
    for (id, time) in streams.into_iter().zip([NOW - MINUTE, NOW - 9 * MINUTE]) {
        push(&mut merger, id, &[section(), interface("a"), packet(0, time, b"x")], now, &mut out);
        assert_eq!(merger.complete_until(id), Some(time));
    }
    assert_eq!(streams.map(|id| merger.ahead(id)), [None, None]);
    for (id, time_ns) in streams.into_iter().zip([NOW, NOW - MINUTE]) {
        merger.expect_watermark(id, now);
        push(&mut merger, id, &[Watermark { time_ns }.block()], now, &mut out);
    }
    assert_eq!(streams.map(|id| merger.ahead(id)), [Some(0), Some(-(MINUTE as i64))], "but a watermark does");
}

#[test]
fn a_recorded_packet_from_the_future_does_not_decide_about_the_order_of_others() {
    let (mut out, start) = (Vec::new(), Instant::now());
    let mut merger = merger(&mut out);
    merger.set_clock(start, 1_000_000_000);
    let [wild, a, b] = [merger.join_past(), merger.join_past(), merger.join_past()];
    for (id, name) in [(wild, "wild"), (a, "a"), (b, "b")] {
        merger.expect_watermark(id, start);
        let watermark = Watermark { time_ns: 1_000_000_000 }.block();
        let future = if id == wild { packet(0, u64::MAX, b"x") } else { Vec::new() };
        push(&mut merger, id, &[section(), interface(name), future, watermark], start, &mut out);
    }
    merger.write_due(start + HOLD, &mut out);
    assert_eq!(merger.written(), 1);
    for ms in (300..900).step_by(20) {
        let (now, time) = (start + Duration::from_millis(ms), 1_000_000_000 + ms * 1_000_000);
        push(&mut merger, a, &[packet(0, time, b"a")], now, &mut out);
        push(&mut merger, b, &[packet(0, time - 10_000_000, b"b")], now, &mut out);
    }
    merger.write_all(&mut out);
    assert_eq!(merger.written(), 61);
    assert!(times(&out)[1..].is_sorted(), "{:?}", times(&out));
}
