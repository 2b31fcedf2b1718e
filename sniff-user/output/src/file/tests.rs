//! Series of files as they are on disk, and what packets become there.

use std::{collections::BTreeMap, fs, io::Read as _, os::unix::fs::symlink, path::PathBuf, time::Duration};

use sniff_pcapng::{
    AnyBlock, BlockType, EnhancedPacket, InterfaceStatistics, Names, SectionHeader, Watermark, blocks,
    testing::RingPacket,
};
use tempfile::TempDir;

use super::*;

const S: u64 = 1_000_000_000;

fn section() -> Vec<u8> {
    let mut block = Vec::new();
    SectionHeader { application: "sniff".to_owned(), ..SectionHeader::default() }.write(&mut block);
    block
}

fn interface(link_type: LinkType, name: &str) -> Vec<u8> {
    let mut block = Vec::new();
    let description = InterfaceDescription::new(link_type, 262_144, name);
    InterfaceDescription { comments: vec!["labels".to_owned()], ..description }.write(&mut block);
    block
}

/// A packet whose bytes depend on its time, one byte of it cut off.
fn packet(interface: u32, time_ns: u64, len: usize, lost: Option<u64>) -> Vec<u8> {
    let data: Vec<u8> = (0..len).map(|at| (at as u64).wrapping_add(time_ns) as u8).collect();
    RingPacket {
        interface,
        time_ns,
        data: &data,
        cut: 1,
        lost,
        has_packetid: time_ns % 2 == 1,
        ..RingPacket::default()
    }
    .block()
}

fn statistics(interface: u32, delivered: u64, lost: u64) -> Vec<u8> {
    let mut block = Vec::new();
    InterfaceStatistics {
        interface,
        start_ns: Some(1),
        end_ns: Some(2),
        ifrecv: Some(delivered + lost),
        filteraccept: Some(delivered + lost),
        osdrop: Some(lost),
        usrdeliv: Some(delivered),
        comment: Some("what happened".to_owned()),
        ..InterfaceStatistics::default()
    }
    .write(&mut block);
    block
}

fn names(address: &str, name: &str) -> Vec<u8> {
    let (mut names, mut block) = (Names::default(), Vec::new());
    names.insert(address.parse().unwrap(), name);
    names.write(&mut block);
    block
}

fn by_size(bytes: u64) -> Rotation {
    Rotation { bytes: Some(bytes), ..Rotation::default() }
}

fn open(to: &To, manner: &Manner) -> Result<CaptureFile> {
    CaptureFile::open(to, manner, to.files(manner))
}

struct Written {
    dir: TempDir,
    file: CaptureFile,
}

impl Written {
    fn open(name: &str, manner: &Manner) -> Self {
        Self::again(tempfile::tempdir().unwrap(), name, manner)
    }

    fn again(dir: TempDir, name: &str, manner: &Manner) -> Self {
        let file = open(&To::File(dir.path().join(name)), manner).unwrap();
        Self { dir, file }
    }

    /// Writes it in pieces of so many blocks.
    fn write(&mut self, parts: &[Vec<u8>], at_once: usize) -> &mut Self {
        for piece in parts.chunks(at_once) {
            let piece = piece.concat();
            let (written, result) = self.file.write(&piece);
            result.unwrap();
            assert_eq!(written, piece.len());
        }
        self
    }

    fn end(self) -> TempDir {
        self.dir
    }
}

/// What there is, by its name.
fn files(dir: &TempDir) -> BTreeMap<String, Vec<u8>> {
    let entries = fs::read_dir(dir.path()).unwrap().map(Result::unwrap);
    entries.map(|entry| (entry.file_name().into_string().unwrap(), fs::read(entry.path()).unwrap())).collect()
}

fn of_type(file: &[u8], block_type: BlockType) -> Vec<Vec<u8>> {
    let is_it = |block: &&[u8]| AnyBlock::first(block).unwrap().block_type == block_type;
    blocks(file).filter(is_it).map(<[u8]>::to_vec).collect()
}

fn types(file: &[u8]) -> Vec<BlockType> {
    assert_eq!(blocks(file).map(<[u8]>::len).sum::<usize>(), file.len(), "a torn block");
    blocks(file).map(|block| AnyBlock::first(block).unwrap().block_type).collect()
}

/// 1000 packets of two interfaces, of which the second comes later, with what belongs to them.
fn capture() -> (Vec<Vec<u8>>, Vec<u8>) {
    let mut parts = vec![section(), interface(LinkType::Ethernet, "a")];
    let mut packets = Vec::new();
    let mut delivered = [0; 2];
    for n in 0..1000 {
        if n == 500 {
            parts.extend([interface(LinkType::Ethernet, "b"), names("10.0.0.1", "web-0.shop")]);
        }
        let of = u64::from(n > 500 && n % 2 == 0);
        delivered[of as usize] += 1;
        let block = packet(of as u32, n * S / 100, 60 + n as usize % 7 * 100, (n % 100 == 7).then_some(3));
        packets.extend(&block);
        parts.push(block);
    }
    // Two of the first interface's were lost behind its last packet.
    parts.extend([statistics(0, delivered[0], 32), statistics(1, delivered[1], 0)]);
    (parts, packets)
}

#[test]
fn the_files_together_are_the_capture() {
    let (parts, packets) = capture();
    for at_once in [1, 7, 2000] {
        let mut written =
            Written::open("d.pcapng", &Manner { rotation: by_size(20_000), ..Manner::default() });
        written.write(&parts, at_once);
        let files = files(&written.end());
        assert!(files.len() > 10, "{}", files.len());
        let together = files.values().flat_map(|file| of_type(file, BlockType::Packet).concat());
        assert!(together.eq(packets.iter().copied()), "{at_once}");
    }
}

#[test]
fn each_file_stands_alone_and_counts_what_it_has() {
    let (parts, _) = capture();
    let mut written = Written::open("d.pcapng", &Manner { rotation: by_size(20_000), ..Manner::default() });
    written.write(&parts, 100);
    let files = files(&written.end());
    let mut sums = BTreeMap::<u32, [u64; 4]>::new();
    for (at, (name, file)) in files.iter().enumerate() {
        assert_eq!(*name, format!("d_{:05}.pcapng", at + 1));
        assert!(file.len() <= 20_000, "{name}: {}", file.len());
        let types = types(file);
        assert_eq!(types[0], BlockType::Section);
        assert_eq!(types.iter().filter(|it| **it == BlockType::Section).count(), 1);
        let packets = of_type(file, BlockType::Packet);
        let packets: Vec<_> = packets.iter().map(|block| EnhancedPacket::parse(block).unwrap()).collect();
        let described = of_type(file, BlockType::Interface);
        let described: Vec<_> =
            described.iter().map(|it| InterfaceDescription::parse(it).unwrap().name).collect();
        assert!(described == ["a"] || described == ["a", "b"], "{described:?}");
        let named = of_type(file, BlockType::Names);
        assert_eq!(named.len(), described.len() - 1, "{name}: names once");
        for block in of_type(file, BlockType::Statistics) {
            let told = InterfaceStatistics::parse(&block).unwrap();
            let of = || packets.iter().filter(|packet| packet.interface == told.interface);
            assert_eq!(told.usrdeliv, Some(of().count() as u64), "{name}");
            let told_lost = of().map(|packet| packet.dropcount).sum::<u64>();
            let untold = if at + 1 == files.len() && told.interface == 0 { 2 } else { 0 };
            assert_eq!(told.osdrop, Some(told_lost + untold), "{name}");
            assert_eq!(told.filteraccept, Some(told.usrdeliv.unwrap() + told.osdrop.unwrap()));
            let sum = sums.entry(told.interface).or_default();
            for (sum, count) in
                sum.iter_mut().zip([told.ifrecv, told.filteraccept, told.osdrop, told.usrdeliv])
            {
                *sum += count.unwrap();
            }
        }
    }
    assert_eq!(sums[&0], [783, 783, 32, 751]);
    assert_eq!(sums[&1], [249, 249, 0, 249]);
    let last = of_type(files.values().last().unwrap(), BlockType::Statistics);
    let comments: Vec<_> =
        last.iter().map(|block| InterfaceStatistics::parse(block).unwrap().comment.unwrap()).collect();
    assert!(comments.iter().all(|it| it.ends_with("of several; what happened")), "{comments:?}");
}

/// What comes between packets must not make a file, or all of them, larger than it may be.
#[test]
fn names_and_descriptions_keep_to_the_size_of_files() {
    let many = |from: u32| {
        let (mut names, mut block) = (Names::default(), Vec::new());
        (from..from + 50).for_each(|n| {
            names.insert(n.to_be_bytes().into(), &format!("name-{n}.example"));
        });
        names.write(&mut block);
        block
    };
    let described = |name: &str| {
        let mut block = Vec::new();
        let description = InterfaceDescription::new(LinkType::Ethernet, 262_144, name);
        InterfaceDescription { comments: vec!["x".repeat(3000)], ..description }.write(&mut block);
        block
    };
    let mut parts = vec![section(), described("a")];
    for n in 0..40 {
        parts.extend((0..n % 5).map(|m| packet(0, u64::from(n * 5 + m + 1), 400, None)));
        parts.push(if n % 10 == 9 { described("b") } else { many(0x0a00_0000 + n % 3 * 50) });
    }
    parts.push(packet(4, 1000, 400, None));
    let packets: Vec<u8> =
        parts.iter().filter(|part| EnhancedPacket::parse(part).is_ok()).flatten().copied().collect();
    for at_once in [1, 7, 2000] {
        let manner = Manner { rotation: by_size(24_000), ..Manner::default() };
        let mut written = Written::open("d.pcapng", &manner);
        written.write(&parts, at_once);
        let files = files(&written.end());
        assert!(files.len() > 2, "{}", files.len());
        for (name, file) in &files {
            assert!(file.len() <= 24_000, "{name}: {}", file.len());
            types(file);
        }
        let together = files.values().flat_map(|file| of_type(file, BlockType::Packet).concat());
        assert!(together.eq(packets.iter().copied()), "{at_once}");
        // Those of the file before are told again, unless they would be too many.
        let last = files.values().last().unwrap();
        let named: Vec<_> =
            of_type(last, BlockType::Names).iter().map(|it| Names::parse(it).unwrap()).collect();
        assert!(named.iter().any(|it| it.get([10, 0, 0, 1].into()) == Some("name-167772161.example")));
        let manner = Manner { max_bytes: Some(24_000), ..Manner::default() };
        let mut written = Written::open("d.pcapng", &manner);
        let full =
            parts.chunks(at_once).map(|piece| written.file.write(&piece.concat()).1).find(Result::is_err);
        assert!(full.is_some_and(|full| Full::is(&full.unwrap_err())));
        let len = self::files(&written.end())["d.pcapng"].len();
        assert!(len <= 24_000, "{len}");
    }
}

#[test]
fn an_interface_that_is_over_keeps_its_id_and_little_else() {
    let mut written = Written::open(
        "d.pcapng",
        &Manner { rotation: Rotation { packets: Some(1), ..Rotation::default() }, ..Manner::default() },
    );
    let [a, b] = ["a", "b"].map(|name| interface(LinkType::Ethernet, name));
    let parts = [section(), a, b, packet(0, 1, 60, None), statistics(0, 1, 0), packet(1, 2, 60, None)];
    written.write(&parts, 1);
    let files = files(&written.end());
    let described = of_type(&files["d_00002.pcapng"], BlockType::Interface);
    let described: Vec<_> = described.iter().map(|it| InterfaceDescription::parse(it).unwrap()).collect();
    assert_eq!(described[0], InterfaceDescription::new(LinkType::Ethernet, 262_144, "a"));
    assert_eq!((described[1].name.as_str(), &described[1].comments[..]), ("b", &["labels".to_owned()][..]));
    // Its counts are in the file that they came in, once.
    let told = of_type(&files["d_00001.pcapng"], BlockType::Statistics);
    let told: Vec<_> = told.iter().map(|it| InterfaceStatistics::parse(it).unwrap()).collect();
    assert_eq!(
        told.iter().map(|it| (it.interface, it.usrdeliv)).collect::<Vec<_>>(),
        [(0, Some(1)), (1, Some(0))]
    );
    assert!(of_type(&files["d_00002.pcapng"], BlockType::Statistics).is_empty());
}

#[test]
fn a_ring_keeps_the_newest_also_beside_older_ones() {
    let rotation = Rotation { keep: Some(3), ..by_size(20_000) };
    let manner = Manner { rotation, ..Manner::default() };
    let dir = tempfile::tempdir().unwrap();
    let place = |name: &str| dir.path().join(name);
    for name in ["d_00001.pcapng", "d_00002.pcapng", "d_00007.pcapng", "d_00009.pcapng"] {
        fs::write(place(name), section()).unwrap();
    }
    let others = ["d.pcapng", "d_00003.pcap", "d_1.pcapng", "e_00001.pcapng", "d_00005.pcapng"];
    for name in others {
        fs::write(place(name), "somebody's").unwrap();
    }
    symlink(place("d.pcapng"), place("d_00004.pcapng")).unwrap();
    let (parts, packets) = capture();
    let mut written = Written::again(dir, "d.pcapng", &manner);
    let is_ours = |name: &str| {
        name.starts_with("d_000")
            && name.ends_with(".pcapng")
            && !["d_00004.pcapng", "d_00005.pcapng"].contains(&name)
    };
    let ours = |dir: &TempDir| files(dir).into_keys().filter(|name| is_ours(name)).collect::<Vec<_>>();
    assert_eq!(ours(&written.dir), ["d_00007.pcapng", "d_00009.pcapng", "d_00010.pcapng"]);
    for part in parts.chunks(10) {
        written.write(part, 10);
        assert!(ours(&written.dir).len() <= 3);
    }
    let dir = written.end();
    let there = ours(&dir);
    assert_eq!(there.len(), 3);
    assert!(there.is_sorted() && there[0].as_str() > "d_00015.pcapng", "{there:?}");
    let files = files(&dir);
    let last: Vec<u8> =
        there.iter().flat_map(|name| of_type(&files[name], BlockType::Packet).concat()).collect();
    assert!(packets.ends_with(&last) && !last.is_empty());
    assert!(others.iter().all(|name| files[*name] == b"somebody's"));
    assert!(dir.path().join("d_00004.pcapng").is_symlink());
}

#[test]
fn files_go_by_the_times_of_packets() {
    let rotation = Rotation { time: Some(Duration::from_secs(10)), ..Rotation::default() };
    let manner = Manner { rotation, ..Manner::default() };
    let mut written = Written::open("d.pcapng", &manner);
    let begun = written.file.series.as_ref().unwrap().begun_ns();
    let now = begun - 3600 * S;
    // An hour ago, then after: only what is not from the future begins a file.
    let times = [now, begun + 1, begun + 9 * S, u64::MAX, begun + 2];
    let packets: Vec<_> = times.map(|time| packet(0, time, 60, None)).into();
    written.write(&[section(), interface(LinkType::Ethernet, "a")], 1).write(&packets, 2);
    assert_eq!(files(&written.end()).into_keys().collect::<Vec<_>>(), ["d_00001.pcapng"]);
}

#[test]
fn names_with_times_are_those_of_packets() {
    let rotation = Rotation { time: Some(Duration::from_millis(10)), ..Rotation::default() };
    let manner = Manner { rotation, ..Manner::default() };
    let mut written = Written::open("d-%s.pcapng", &manner);
    let begun = written.file.series.as_ref().unwrap().begun_ns();
    let packets: Vec<_> =
        [begun, begun + S / 100, begun + S / 50].map(|time| packet(0, time, 60, None)).into();
    written.write(&[section(), interface(LinkType::Ethernet, "a")], 1).write(&packets, 2);
    let files = files(&written.end());
    assert_eq!(files.len(), 3);
    assert!(files.contains_key(&format!("d-{}.pcapng", begun / S)), "{:?}", files.keys());
    assert!(files.values().all(|file| of_type(file, BlockType::Packet).len() == 1));
}

#[test]
fn there_are_no_more_bytes_or_files_than_were_asked_for() {
    let (parts, packets) = capture();
    let all = |max_bytes, rotation: Rotation| {
        let mut written = Written::open("d.pcapng", &Manner { max_bytes, rotation, ..Manner::default() });
        let piece = parts[..parts.len() - 2].concat();
        let (done, result) = written.file.write(&piece);
        assert!(Full::is(&result.unwrap_err()));
        let got = of_type(&piece[..done], BlockType::Packet);
        // A smaller one would leave a hole, but what belongs to the end is there.
        let (done, result) = written.file.write(&packet(0, 0, 4, None));
        assert!(done == 0 && Full::is(&result.unwrap_err()));
        let (first, second) =
            (got.iter().filter(|it| it[8] == 0).count(), got.iter().filter(|it| it[8] == 1).count());
        written.write(&[statistics(0, first as u64, 0), statistics(1, second as u64, 0)], 1);
        let files = files(&written.end());
        let together: Vec<u8> =
            files.values().flat_map(|file| of_type(file, BlockType::Packet).concat()).collect();
        assert_eq!(together, got.concat());
        assert!(packets.starts_with(&together) && !together.is_empty());
        assert!(files.values().all(|file| types(file).ends_with(&[BlockType::Statistics])));
        files
    };
    let one = all(Some(50_000), Rotation::default());
    assert_eq!(one.keys().collect::<Vec<_>>(), ["d.pcapng"]);
    let len = one["d.pcapng"].len();
    assert!((49_000..=50_000).contains(&len), "{len}");
    let several = all(Some(50_000), by_size(20_000));
    assert_eq!(several.len(), 3);
    assert!(several.values().map(Vec::len).sum::<usize>() <= 50_000);
    let two = all(None, Rotation { files: Some(2), ..by_size(20_000) });
    assert_eq!(two.len(), 2);
}

#[test]
fn classic_pcap_is_what_libpcap_reads() {
    let mut written = Written::open("x.pcap", &Manner::default());
    let blocks = [packet(0, 5 * S + 7, 3, None), names("10.0.0.1", "a"), packet(0, 6 * S, 4, Some(1))];
    written.write(&[section()], 1).write(&[interface(LinkType::Raw, "a")], 1).write(&blocks, 3);
    let mut expected: Vec<u8> = [0xa1b2_3c4d, u32::from_ne_bytes([2, 0, 4, 0]), 0, 0, 262_144, 101]
        .into_iter()
        .flat_map(u32::to_ne_bytes)
        .collect();
    let record = |seconds: u32, nanoseconds: u32, data: &[u8]| {
        let len = data.len() as u32;
        let head: Vec<u8> =
            [seconds, nanoseconds, len, len + 1].into_iter().flat_map(u32::to_ne_bytes).collect();
        [&head[..], data].concat()
    };
    let data = |time: u64, len: usize| (0..len).map(|at| (at as u64 + time) as u8).collect::<Vec<_>>();
    expected.extend(record(5, 7, &data(5 * S + 7, 3)));
    expected.extend(record(6, 0, &data(6 * S, 4)));
    let (written_of, result) =
        written.file.write(&[interface(LinkType::Ethernet, "b"), packet(1, 0, 9, None)].concat());
    assert!(written_of == 0 && result.unwrap_err().to_string().contains("one link type"));
    assert_eq!(files(&written.end())["x.pcap"], expected);
}

#[test]
fn classic_pcap_begins_again_in_each_file() {
    let (parts, _) = capture();
    let mut written = Written::open("x.pcap", &Manner { rotation: by_size(20_000), ..Manner::default() });
    written.write(&parts, 33);
    let files = files(&written.end());
    assert!(files.len() > 10);
    let mut count = 0;
    for (name, file) in &files {
        assert!(file.len() <= 20_000 && name.ends_with(".pcap"), "{name}");
        let mut rest = &file[24..];
        assert_eq!(file[..4], 0xa1b2_3c4d_u32.to_ne_bytes());
        while !rest.is_empty() {
            let len = u32::from_ne_bytes(rest[8..12].try_into().unwrap()) as usize;
            rest = &rest[16 + len..];
            count += 1;
        }
    }
    assert_eq!(count, 1000);
}

#[test]
fn nothing_captured_is_a_whole_file_too() {
    let mut written = Written::open("x.pcap", &Manner::default());
    written.write(&[section()], 1);
    let Written { dir, file } = written;
    drop(file);
    assert_eq!(files(&dir)["x.pcap"].len(), 24);
}

#[test]
fn compressed_files_can_be_read_at_any_time_and_are_within_their_size() {
    let (parts, packets) = capture();
    for (name, unpack) in [
        ("x.pcapng.zst", (|packed: &[u8]| zstd::decode_all(packed).unwrap()) as fn(&[u8]) -> Vec<u8>),
        ("x.pcapng.gz", |packed| {
            let mut unpacked = Vec::new();
            flate2::read::MultiGzDecoder::new(packed).read_to_end(&mut unpacked).unwrap();
            unpacked
        }),
    ] {
        let mut written = Written::open(name, &Manner { rotation: by_size(8_000), ..Manner::default() });
        for part in parts.chunks(100) {
            written.write(part, 100);
            let so_far: Vec<u8> = files(&written.dir).values().flat_map(|file| unpack(file)).collect();
            let so_far = of_type(&so_far, BlockType::Packet).concat();
            assert!(packets.starts_with(&so_far));
        }
        let files = files(&written.end());
        assert!(files.len() > 2, "{name}: {}", files.len());
        let together: Vec<u8> =
            files.values().flat_map(|file| of_type(&unpack(file), BlockType::Packet).concat()).collect();
        assert_eq!(together, packets);
        assert!(files.values().all(|file| file.len() <= 8_000), "{name}");
        let plain: usize = files.values().map(|file| unpack(file).len()).sum();
        assert!(plain > 2 * files.values().map(Vec::len).sum::<usize>());
    }
}

#[test]
fn a_name_says_what_is_written_unless_an_option_does() {
    let of = |name: &str, manner: &Manner| manner.of(&To::from(std::ffi::OsString::from(name)));
    let plain = Manner::default();
    for (name, expected) in [
        ("a.pcap", (Format::Pcap, None)),
        ("a.PCAP.GZ", (Format::Pcap, Some(Packing::Gzip))),
        ("a.cap.zst", (Format::Pcap, Some(Packing::Zstd))),
        ("a.pcapng.zst", (Format::Pcapng, Some(Packing::Zstd))),
        ("a.zst", (Format::Pcapng, Some(Packing::Zstd))),
        ("a", (Format::Pcapng, None)),
        ("a.trace", (Format::Pcapng, None)),
        ("pcap", (Format::Pcapng, None)),
        ("-", (Format::Pcapng, None)),
    ] {
        assert_eq!(of(name, &plain), expected, "{name}");
    }
    let asked = Manner { format: Some(Format::Pcapng), packing: Some(Packing::Zstd), ..plain };
    assert_eq!(of("a.pcap.gz", &asked), (Format::Pcapng, Some(Packing::Zstd)));
}

#[test]
fn what_cannot_be_followed_by_another_file_is_refused() {
    let manner = Manner { rotation: by_size(20_000), ..Manner::default() };
    let no_size = Manner { rotation: Rotation { keep: Some(2), ..Rotation::default() }, ..Manner::default() };
    let file = |name: &str| To::File(PathBuf::from(name));
    for (to, manner, part) in [
        (To::StandardOutput, &manner, "standard output cannot be followed"),
        (file("/dev/null"), &manner, "/dev/null is no file"),
        (file("x"), &no_size, "says nothing without -C SIZE"),
    ] {
        let error = open(&to, manner).err().unwrap().to_string();
        assert!(error.contains(part), "{error}");
    }
}

#[test]
fn what_is_torn_does_not_count() {
    let watermarks: Vec<u8> = (0..3).flat_map(|time_ns| Watermark { time_ns }.block()).collect();
    let form = Form::new(Format::Pcapng, None);
    for (done, whole) in [(60, 60), (59, 40), (20, 20), (19, 0), (0, 0)] {
        assert_eq!(form.whole(&watermarks, 60, done), (whole, whole));
    }
    let mut form = Form::new(Format::Pcap, None);
    let blocks = [interface(LinkType::Raw, "a"), packet(0, 0, 3, None), packet(0, 0, 5, None)];
    let [described, first, second] = blocks.each_ref().map(Vec::len);
    let blocks = blocks.concat();
    let len = form.of(&blocks).unwrap().len();
    assert_eq!(len, 24 + 19 + 21);
    let all = described + first + second;
    for (done, whole) in [
        (64, (all, 64)),
        (63, (described + first, 43)),
        (43, (described + first, 43)),
        (42, (described, 24)),
        (23, (0, 0)),
    ] {
        assert_eq!(form.whole(&blocks, len, done), whole, "{done}");
    }
    assert_eq!(Form::new(Format::Pcapng, Some(Packing::Gzip)).whole(&watermarks, 20, 19), (0, 0));
}

#[test]
fn a_file_that_cannot_be_made_ends_it_behind_a_whole_one() {
    let (parts, _) = capture();
    let mut written = Written::open("d.pcapng", &Manner { rotation: by_size(20_000), ..Manner::default() });
    // Its name is taken by what is no file.
    fs::create_dir(written.dir.path().join("d_00002.pcapng")).unwrap();
    let piece = parts.concat();
    let (done, result) = written.file.write(&piece);
    let error = format!("{:#}", anyhow::Error::from(result.unwrap_err()));
    assert!(error.contains("cannot write") && error.contains("d_00002.pcapng"), "{error}");
    let first = fs::read(written.dir.path().join("d_00001.pcapng")).unwrap();
    assert!(types(&first).ends_with(&[BlockType::Packet, BlockType::Statistics]));
    assert_eq!(of_type(&piece[..done], BlockType::Packet), of_type(&first, BlockType::Packet));
}
