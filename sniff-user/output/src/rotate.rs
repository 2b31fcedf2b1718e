//! When another file is begun, what it is called, and which file goes for it. Nothing here touches a file.

use std::{
    collections::VecDeque,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use jiff::{Timestamp, fmt::strtime, tz::TimeZone};

use crate::format::by_name;

/// Digits of a number that is a file's; more when there are more files.
const DIGITS: usize = 5;
/// Most digits: a longer number is nobody's count of files.
const MOST_DIGITS: usize = 9;

/// When another file is begun, and how many there are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rotation {
    /// Most bytes of a file (`-C`).
    pub bytes: Option<u64>,
    /// For how long a file takes packets (`-G`), by the packets' own times.
    pub time: Option<Duration>,
    /// Most packets of a file.
    pub packets: Option<u64>,
    /// Files that are kept (`-W`): the oldest goes when another is begun.
    pub keep: Option<usize>,
    /// Files after which the capture ends.
    pub files: Option<u64>,
}

impl Rotation {
    /// Whether there can be more than one file.
    pub fn is_asked_for(&self) -> bool {
        self.bytes.is_some() || self.time.is_some() || self.packets.is_some()
    }

    /// What does not go together.
    ///
    /// # Errors
    ///
    /// Says so.
    pub fn check(&self) -> Result<(), &'static str> {
        if self.is_asked_for() || self.keep.is_none() && self.files.is_none() {
            return Ok(());
        }
        Err("a number of files says nothing without -C SIZE or -G SECONDS, which begin another file")
    }
}

/// The file that takes packets, and what is in it so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Filled {
    /// When it was begun, in nanoseconds since the epoch.
    pub begun_ns: u64,
    /// Bytes, with what is still to be written at its end.
    pub bytes: u64,
    /// Packets.
    pub packets: u64,
}

impl Rotation {
    /// Whether a packet of this time that takes so many bytes is for the next file. Each file has one packet at least.
    pub fn is_due(&self, file: &Filled, time_ns: u64, bytes: u64) -> bool {
        let is_full = !self.takes(file, bytes) || self.packets.is_some_and(|most| file.packets >= most);
        file.packets > 0 && is_full || self.time_is_over(file, time_ns)
    }

    /// Whether so many bytes more leave a file within its size.
    pub fn takes(&self, file: &Filled, bytes: u64) -> bool {
        self.bytes.is_none_or(|most| file.bytes + bytes <= most)
    }

    /// When the file begins that is next for a packet of this time: where the times of files meet, if they have any.
    pub fn begin_of_next(&self, file: &Filled, time_ns: u64) -> u64 {
        let since = time_ns.saturating_sub(file.begun_ns);
        file.begun_ns + self.nanoseconds().map_or(since, |time| since - since % time)
    }

    fn time_is_over(&self, file: &Filled, time_ns: u64) -> bool {
        self.nanoseconds().is_some_and(|time| time_ns.saturating_sub(file.begun_ns) >= time)
    }

    fn nanoseconds(&self) -> Option<u64> {
        Some(u64::try_from(self.time?.as_nanos()).unwrap_or(u64::MAX).max(1))
    }
}

/// What the files are called.
///
/// A number stands before the ending, as dumpcap has it, and not behind it as tcpdump has: what opens files by their endings
/// goes on to do so, and files sort by name as they were written. Numbers are not used again, so that the order of
/// names is that of the packets also when a ring has come round. Times are as strftime(3) has them, in the name where the
/// person put them; a number comes to a name that the file before has, too.
#[derive(Clone, Debug)]
pub struct Naming {
    path: String,
    has_time: bool,
    zone: TimeZone,
    number: u64,
    last: String,
}

impl Naming {
    /// Names after `path`; with times in it if files are `by_time`.
    ///
    /// # Errors
    ///
    /// When the path is not UTF-8, or what stands behind a `%` in it is no part of a time.
    pub fn new(path: &Path, by_time: bool, zone: TimeZone) -> Result<Self> {
        let path = path.to_str().context("the name of a series of files must be UTF-8")?.to_owned();
        let has_time = by_time && path.contains('%');
        let naming = Self { path, has_time, zone, number: 0, last: String::new() };
        naming.at(0).with_context(|| format!("{} is not as strftime(3) has it", naming.path))?;
        Ok(naming)
    }

    /// Goes on behind the file with this number.
    pub fn go_on_behind(&mut self, number: u64) {
        self.number = number;
    }

    /// The name of the next file, which begins at this time.
    ///
    /// # Errors
    ///
    /// When the time is none that has a name.
    pub fn next(&mut self, begun_ns: u64) -> Result<PathBuf> {
        let name = self.at(begun_ns)?;
        let is_other = self.has_time && name != self.last;
        self.number = if is_other { 1 } else { self.number + 1 };
        self.last.clone_from(&name);
        let (stem, ending) = split(&name);
        Ok(match self.number {
            1 if self.has_time => name,
            number => format!("{stem}_{number:0DIGITS$}{ending}"),
        }
        .into())
    }

    /// The number of a file of this name; none when it is not of this series, or the series goes by times.
    pub fn number_of(&self, file_name: &str) -> Option<u64> {
        let (stem, ending) = split(Path::new(&self.path).file_name()?.to_str()?);
        let number = file_name.strip_prefix(stem)?.strip_prefix('_')?.strip_suffix(ending)?;
        let is_number = (DIGITS..=MOST_DIGITS).contains(&number.len())
            && number.bytes().all(|byte| byte.is_ascii_digit());
        let number = number.parse().ok().filter(|_| is_number && !self.has_time)?;
        // As we would write it.
        (format!("{number:0DIGITS$}") == file_name[stem.len() + 1..file_name.len() - ending.len()])
            .then_some(number)
    }

    /// The folder of the files.
    pub fn folder(&self) -> PathBuf {
        let folder = Path::new(&self.path).parent().filter(|folder| *folder != Path::new(""));
        folder.unwrap_or(Path::new(".")).to_owned()
    }

    fn at(&self, time_ns: u64) -> Result<String> {
        if !self.has_time {
            return Ok(self.path.clone());
        }
        let time = Timestamp::from_nanosecond(time_ns.into())?.to_zoned(self.zone.clone());
        let name = strtime::format(&self.path, &time)?;
        if name.contains('\0') {
            bail!("a zero byte");
        }
        Ok(name)
    }
}

/// A name's stem, and its ending: the last part behind a dot, and with what is compressed the one before, too.
fn split(name: &str) -> (&str, &str) {
    let begin = name.rfind('/').map_or(0, |at| at + 1);
    let (_, packing) = by_name(Path::new(name));
    let end = packing.and_then(|_| name.rfind('.')).unwrap_or(name.len());
    let dot = name[begin..end].rfind('.').filter(|at| *at > 0);
    name.split_at(dot.map_or(end, |at| begin + at))
}

/// Files that are kept: at most so many, the oldest goes first.
#[derive(Clone, Debug)]
pub struct Ring {
    keep: Option<usize>,
    files: VecDeque<PathBuf>,
}

impl Ring {
    /// A ring that has these files, the oldest first.
    pub fn new(keep: Option<usize>, files: impl IntoIterator<Item = PathBuf>) -> Self {
        Self { keep, files: files.into_iter().collect() }
    }

    /// How many files there are.
    pub fn len(&self) -> usize {
        self.files.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.files.is_empty()
    }

    /// A file more is begun. Returns those that must go before.
    pub fn begin(&mut self, file: &Path) -> Vec<PathBuf> {
        let Some(keep) = self.keep else { return Vec::new() };
        // Names of times come again.
        self.files.retain(|it| it != file);
        let leave = (self.files.len() + 1).saturating_sub(keep);
        let leave = self.files.drain(..leave.min(self.files.len())).collect();
        self.files.push_back(file.to_owned());
        leave
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: u64 = 1_000_000_000;

    fn naming(path: &str, by_time: bool) -> Naming {
        Naming::new(Path::new(path), by_time, TimeZone::UTC).unwrap()
    }

    fn names(naming: &mut Naming, times: &[u64]) -> Vec<String> {
        times.iter().map(|time| naming.next(*time * S).unwrap().to_str().unwrap().to_owned()).collect()
    }

    #[test]
    fn numbers_stand_before_the_ending() {
        for (path, first) in [
            ("dump.pcapng", "dump_00001.pcapng"),
            ("/a.b/dump", "/a.b/dump_00001"),
            ("x/web.v1.pcap.zst", "x/web.v1_00001.pcap.zst"),
            ("x.gz", "x_00001.gz"),
            ("x.pcap.zstd", "x_00001.pcap.zstd"),
            ("x.PCAPNG.GZ", "x_00001.PCAPNG.GZ"),
            (".hidden", ".hidden_00001"),
            ("100%.pcapng", "100%_00001.pcapng"),
        ] {
            assert_eq!(names(&mut naming(path, false), &[0]), [first]);
        }
        let mut naming = naming("d.pcapng", true);
        naming.go_on_behind(99_998);
        assert_eq!(names(&mut naming, &[0, 0]), ["d_99999.pcapng", "d_100000.pcapng"]);
    }

    #[test]
    fn times_stand_where_they_were_put() {
        let mut naming = naming("d-%H%M.pcapng", true);
        let got = names(&mut naming, &[0, 59, 60, 61, 119, 3600, 0]);
        assert_eq!(
            got,
            [
                "d-0000.pcapng",
                "d-0000_00002.pcapng",
                "d-0001.pcapng",
                "d-0001_00002.pcapng",
                "d-0001_00003.pcapng",
                "d-0100.pcapng",
                "d-0000.pcapng"
            ]
        );
        for wrong in ["d-%", "d-%!.pcapng"] {
            assert!(Naming::new(Path::new(wrong), true, TimeZone::UTC).is_err(), "{wrong}");
        }
    }

    #[test]
    fn only_names_of_the_series_have_a_number() {
        let by_number = naming("x/dump.pcapng", false);
        for (name, number) in [
            ("dump_00001.pcapng", Some(1)),
            ("dump_123456.pcapng", Some(123_456)),
            ("dump_012345.pcapng", None),
            ("dump_1.pcapng", None),
            ("dump_0000a.pcapng", None),
            ("dump_+0001.pcapng", None),
            ("dump_00001.pcapng.zst", None),
            ("dump_00001_00002.pcapng", None),
            ("dump.pcapng", None),
            ("dump_18446744073709551615.pcapng", None),
            ("adump_00001.pcapng", None),
        ] {
            assert_eq!(by_number.number_of(name), number, "{name}");
        }
        assert_eq!(naming("%H_.pcapng", true).number_of("%H__00001.pcapng"), None);
        assert_eq!((by_number.folder(), naming("d", false).folder()), ("x".into(), ".".into()));
    }

    #[test]
    fn a_file_is_within_its_size_and_has_a_packet() {
        let rotation = Rotation { bytes: Some(1000), ..Rotation::default() };
        let file = |bytes, packets| Filled { begun_ns: 0, bytes, packets };
        assert!(!rotation.is_due(&file(900, 1), 0, 100));
        assert!(rotation.is_due(&file(900, 1), 0, 101));
        assert!(!rotation.is_due(&file(900, 0), 0, 5000));
        let rotation = Rotation { packets: Some(2), ..Rotation::default() };
        assert!(!rotation.is_due(&file(0, 1), 0, 1));
        assert!(rotation.is_due(&file(0, 2), 0, 1));
    }

    #[test]
    fn times_of_files_meet() {
        let rotation = Rotation { time: Some(Duration::from_secs(10)), ..Rotation::default() };
        let file = Filled { begun_ns: 5 * S, bytes: 0, packets: 1 };
        for (time, is_due, begin) in [
            (0, false, 5),
            (14, false, 5),
            (15, true, 15),
            (24, true, 15),
            (25, true, 25),
            (1234, true, 1225),
        ] {
            assert_eq!(rotation.is_due(&file, time * S, 1), is_due, "{time}");
            assert_eq!(rotation.begin_of_next(&file, time * S), begin * S, "{time}");
        }
        // A file without packets, too: its name tells a time.
        assert!(rotation.is_due(&Filled { packets: 0, ..file }, 15 * S, 1));
        assert!(!rotation.is_due(&file, 15 * S - 1, 1));
    }

    #[test]
    fn a_ring_never_exceeds_its_size() {
        let path = |n: u32| PathBuf::from(n.to_string());
        let mut ring = Ring::new(Some(3), [path(1), path(2)]);
        assert!(ring.begin(&path(3)).is_empty());
        assert_eq!(ring.begin(&path(4)), [path(1)]);
        // A name that comes again is written over, and is the youngest then.
        assert!(ring.begin(&path(2)).is_empty());
        assert_eq!(ring.begin(&path(5)), [path(3)]);
        let mut smaller = Ring::new(Some(2), (1..=4).map(path));
        assert_eq!(smaller.begin(&path(5)), [path(1), path(2), path(3)]);
        let mut one = Ring::new(Some(1), []);
        assert!(one.begin(&path(1)).is_empty());
        assert_eq!(one.begin(&path(2)), [path(1)]);
        let mut all = Ring::new(None, [path(1)]);
        assert!((2..100).all(|n| all.begin(&path(n)).is_empty()));
    }
}
