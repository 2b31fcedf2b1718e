//! Where recordings are kept that triggers had saved: a folder of bounded size, from which the oldest files go first.
//!
//! What is in the folder is looked at whenever it matters, and nothing of it is remembered: somebody may have removed files, or
//! the agent may have been killed at any time. A file comes into sight with its name when it is whole. Until then it has no
//! name, or, where a file system knows no such files, that of a draft, which the next agent removes.

use std::{
    fmt,
    fs::{self, DirBuilder, File, OpenOptions, TryLockError},
    io::{self, ErrorKind},
    os::{
        fd::{AsFd, AsRawFd as _, BorrowedFd},
        unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _},
    },
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, UNIX_EPOCH},
};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use bytesize::ByteSize;
use nix::{
    fcntl::{AT_FDCWD, AtFlags},
    unistd::{geteuid, linkat},
};
use sha2::{Digest as _, Sha256};
use sniff_protocol::message::Recording;

use super::triggers::{Reason, is_of_event};
use crate::{system::clock, targets::Target};

/// What names end with.
const ENDING: &str = ".pcapng";
/// What names of drafts consist of, around a number.
const DRAFT: (&str, &str) = ("draft-", ".part");
/// Most files: a list of them fits in one message.
const MAX_FILES: usize = 1000;
/// Most characters of a pod's name in a file's, which has 255 at most. Of a longer one stand its first ones, what no pod's name
/// has, and eight digits that tell it from others.
const MAX_POD: usize = 140;
const SHORTENED: char = '~';
/// Characters of a reason that there is room for beside that, a namespace, a time and a number. What is more of it, a pod's name has
/// less.
const ROOM_FOR_REASON: usize = 21;
/// How far in the future the time of a file may be. One beyond was made when the clock was wrong, and nobody knows when.
const MAX_AHEAD: Duration = Duration::from_secs(3600);

/// The folder. This agent is the only one that has it, as long as this or a draft lives.
#[derive(Clone, Debug)]
pub struct Shelf(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    /// For people.
    path: PathBuf,
    /// The folder itself, locked. What is in it is reached by way of it, whatever becomes of its path.
    folder: File,
    max_bytes: u64,
    /// Whether there can be files without a name.
    has_unnamed: bool,
    books: Mutex<Books>,
}

#[derive(Debug, Default)]
struct Books {
    /// Bytes that there is room for, for the sake of drafts.
    promised: u64,
    drafts: u64,
    evicted: u64,
    refused: u64,
}

/// What becomes a file's name.
#[derive(Clone, Debug)]
pub struct Label {
    /// Namespace of the pod.
    pub namespace: String,
    /// Its name.
    pub pod: String,
    /// Why it is saved.
    pub reason: Reason,
    /// When, in nanoseconds since the epoch.
    pub time: u64,
}

/// What a shelf has and had.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Files that are there.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Files that have made room for others.
    pub evicted: u64,
    /// Files for which there was no room.
    pub refused: u64,
}

/// A file that is in a shelf's folder, by its name, to read.
///
/// # Errors
///
/// When there is none of this name, or it is no name that [`Shelf::list`] could give.
pub fn open_saved(folder: &Path, name: &str) -> Result<(Recording, File)> {
    let none = || {
        anyhow!(
            "there is no recording of this name on the node (any more): the oldest ones make room for others; `kubectl sniff \
             recordings` lists them"
        )
    };
    let parsed = Name::parse(name).ok_or_else(none)?;
    // Whatever else could be called so would not be waited for.
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
    let file = match OpenOptions::new().read(true).custom_flags(flags).open(folder.join(name)) {
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ELOOP)) => {
            return Err(none());
        }
        file => file.with_context(|| format!("cannot read the recording {name}"))?,
    };
    let about = file.metadata()?;
    ensure!(about.is_file(), none());
    Ok((Kept { name: parsed, bytes: about.len() }.recording(), file))
}

impl Shelf {
    /// Takes the folder, which is made where there is none. Drafts of an agent that was killed go, and the oldest files if there
    /// are more than `max_bytes` of them.
    ///
    /// # Errors
    ///
    /// When it cannot be made or written to, others may write to it, or another agent has it.
    pub fn open(path: &Path, max_bytes: u64) -> Result<Self> {
        Self::take(path, max_bytes)
            .with_context(|| format!("recordings cannot be kept in {}", path.display()))
    }

    fn take(path: &Path, max_bytes: u64) -> Result<Self> {
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        match DirBuilder::new().mode(0o700).create(path) {
            Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(error.into()),
            _ => {}
        }
        let flags = libc::O_DIRECTORY | libc::O_NOFOLLOW;
        let folder = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
        let about = folder.metadata()?;
        ensure!(
            about.uid() == geteuid().as_raw() && about.mode() & 0o022 == 0,
            "others may write there: it must belong to the agent's user, and be writable for nobody else (chmod 0700), or \
             not be there yet"
        );
        match folder.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => bail!("another agent has this folder: give each its own"),
            Err(TryLockError::Error(error)) => return Err(error.into()),
        }
        let mut inner =
            Inner { path: path.to_owned(), folder, max_bytes, has_unnamed: true, books: Mutex::default() };
        inner.remove_drafts()?;
        inner.has_unnamed = match inner.unnamed() {
            // EISDIR is what kernels say that do not know the flag.
            Err(error) if matches!(error.raw_os_error(), Some(libc::EOPNOTSUPP | libc::EISDIR)) => false,
            tried => tried.map(|_| true)?,
        };
        inner.make_room(&mut inner.books(), 0)?;
        Ok(Self(Arc::new(inner)))
    }

    /// A new file, which is not in sight before it is [finished](Draft::finish). The oldest ones make room for as many bytes as
    /// it is expected to have.
    ///
    /// # Errors
    ///
    /// When that is more than there may be, or the folder cannot be written to.
    pub fn begin(&self, of: &Label, expected_bytes: u64) -> Result<Draft> {
        let name = Name::of(of)?;
        self.0.promise(expected_bytes)?;
        // From here on the promise is taken back where this fails.
        let mut draft = Draft { shelf: self.clone(), name, file: None, part: None, promised: expected_bytes };
        let inner = &*self.0;
        draft.file = Some(if inner.has_unnamed {
            inner.unnamed().with_context(|| inner.cannot())?
        } else {
            let number = inner.books().next_draft();
            let part = format!("{}{number}{}", DRAFT.0, DRAFT.1);
            let mut options = OpenOptions::new();
            let file = options.read(true).write(true).create_new(true).mode(0o600).open(inner.at(&part));
            let file = file.with_context(|| inner.cannot())?;
            draft.part = Some(part);
            file
        });
        Ok(draft)
    }

    /// What there is, the newest first.
    ///
    /// # Errors
    ///
    /// When the folder cannot be read.
    pub fn list(&self) -> Result<Vec<Recording>> {
        Ok(self.0.files()?.into_iter().rev().map(|kept| kept.recording()).collect())
    }

    /// For metrics.
    ///
    /// # Errors
    ///
    /// When the folder cannot be read.
    pub fn counts(&self) -> Result<Counts> {
        let files = self.0.files()?;
        let books = self.0.books();
        Ok(Counts {
            files: files.len() as u64,
            bytes: files.iter().map(|kept| kept.bytes).sum(),
            evicted: books.evicted,
            refused: books.refused,
        })
    }
}

impl Inner {
    fn books(&self) -> MutexGuard<'_, Books> {
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where something in the folder is.
    fn at(&self, name: &str) -> PathBuf {
        in_proc(&self.folder).join(name)
    }

    /// A file without a name.
    fn unnamed(&self) -> io::Result<File> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).mode(0o600).custom_flags(libc::O_TMPFILE).open(in_proc(&self.folder))
    }

    fn cannot(&self) -> String {
        format!("a recording cannot be saved in {}", self.path.display())
    }

    /// What is kept, the oldest first. What is not the agent's, or no file, is passed over.
    fn files(&self) -> Result<Vec<Kept>> {
        let cannot = || format!("the recordings in {} cannot be listed", self.path.display());
        let mut files = Vec::new();
        for entry in fs::read_dir(in_proc(&self.folder)).with_context(cannot)? {
            let entry = entry.with_context(cannot)?;
            let Some(name) = entry.file_name().to_str().and_then(Name::parse) else { continue };
            match entry.metadata() {
                Ok(about) if about.is_file() => files.push(Kept { name, bytes: about.len() }),
                Err(error) if error.kind() != ErrorKind::NotFound => return Err(error).with_context(cannot),
                _ => {}
            }
        }
        let latest = (Duration::from_nanos(clock::now()) + MAX_AHEAD).as_secs();
        files.sort_by(|one, other| one.age(latest).cmp(&other.age(latest)));
        Ok(files)
    }

    /// Promises a draft more room.
    fn promise(&self, bytes: u64) -> Result<()> {
        let mut books = self.books();
        if let Err(error) = self.make_room(&mut books, bytes) {
            books.refused += 1;
            return Err(error);
        }
        books.promised += bytes;
        Ok(())
    }

    /// Removes the oldest files until there is room for what is promised and this much more. Nothing is removed where that
    /// would not do.
    fn make_room(&self, books: &mut Books, more: u64) -> Result<()> {
        let claimed = books.promised.saturating_add(more);
        ensure!(
            claimed <= self.max_bytes,
            "{}: it takes {} of the {} for recordings there, and {} are being written",
            self.cannot(),
            ByteSize(more),
            ByteSize(self.max_bytes),
            ByteSize(books.promised)
        );
        let files = self.files()?;
        let mut total: u64 = files.iter().map(|kept| kept.bytes).sum();
        let mut count = files.len();
        for kept in files {
            if total <= self.max_bytes - claimed && count < MAX_FILES {
                break;
            }
            self.remove(&kept.name.to_string()).with_context(|| self.cannot())?;
            books.evicted += 1;
            total -= kept.bytes;
            count -= 1;
        }
        Ok(())
    }

    fn remove_drafts(&self) -> Result<()> {
        for entry in fs::read_dir(in_proc(&self.folder))? {
            let name = entry?.file_name();
            if let Some(name) = name.to_str().filter(|name| is_draft(name)) {
                self.remove(name)?;
            }
        }
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        match fs::remove_file(self.at(name)) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}

impl Drop for Inner {
    /// Closing it does not do while a process that begins, and has not closed what it inherits, has it as well.
    fn drop(&mut self) {
        let _ = self.folder.unlock();
    }
}

impl Books {
    fn next_draft(&mut self) -> u64 {
        self.drafts += 1;
        self.drafts
    }
}

/// A file that is being written, by whoever is given its descriptor. Unless it is finished nothing stays of it.
#[derive(Debug)]
pub struct Draft {
    shelf: Shelf,
    name: Name,
    /// Missing only while it is being made.
    file: Option<File>,
    /// Its name meanwhile, where it has one.
    part: Option<String>,
    promised: u64,
}

impl Draft {
    /// Has it come into sight, whole. Blocks until its bytes are on the disk.
    ///
    /// # Errors
    ///
    /// When it is larger than there is room for, or the disk does not take it.
    pub fn finish(mut self) -> Result<Recording> {
        let inner = Arc::clone(&self.shelf.0);
        self.file().sync_all().with_context(|| inner.cannot())?;
        let bytes = self.file().metadata()?.len();
        // Whoever has its descriptor may have written any number.
        self.grow(bytes)?;
        let mut books = inner.books();
        let mut name = self.name.clone();
        while fs::symlink_metadata(inner.at(&name.to_string())).is_ok() {
            name.number += 1;
        }
        let to = inner.at(&name.to_string());
        match &self.part {
            Some(part) => fs::rename(inner.at(part), to),
            None => {
                let from = in_proc(self.file());
                linkat(AT_FDCWD, &from, AT_FDCWD, &to, AtFlags::AT_SYMLINK_FOLLOW).map_err(Into::into)
            }
        }
        .with_context(|| inner.cannot())?;
        self.part = None;
        books.promised -= std::mem::take(&mut self.promised);
        Ok(Kept { name, bytes }.recording())
    }

    fn file(&self) -> &File {
        self.file.as_ref().expect("nobody has it before it is made")
    }

    /// Sees to it that there is room for this many bytes.
    fn grow(&mut self, bytes: u64) -> Result<()> {
        let more = bytes.saturating_sub(self.promised);
        if more > 0 {
            self.shelf.0.promise(more)?;
            self.promised += more;
        }
        Ok(())
    }
}

impl AsFd for Draft {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file().as_fd()
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        let inner = &self.shelf.0;
        if let Some(part) = &self.part {
            // What cannot be removed is by the next agent.
            let _ = inner.remove(part);
        }
        inner.books().promised -= self.promised;
    }
}

/// A file that is kept.
#[derive(Debug)]
struct Kept {
    name: Name,
    bytes: u64,
}

impl Kept {
    /// What files are sorted by, the oldest first: those from beyond a time, which nobody knows the age of, before all others.
    fn age(&self, latest: u64) -> (bool, &Name) {
        (self.name.time <= latest, &self.name)
    }

    fn recording(&self) -> Recording {
        let Name { time, namespace, pod, reason, .. } = self.name.clone();
        let time = time.saturating_mul(1_000_000_000);
        Recording { name: self.name.to_string(), namespace, pod, reason, time, bytes: self.bytes }
    }
}

/// What a file is called: `NAMESPACE_POD_20261127T045122Z_REASON.pcapng`, and with `-2` behind the time if another one is called
/// so. Ordered by time.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Name {
    /// In seconds since the epoch.
    time: u64,
    /// Which one of those that would be called the same.
    number: u32,
    namespace: String,
    pod: String,
    reason: String,
}

impl Name {
    fn of(label: &Label) -> Result<Self> {
        let Label { namespace, pod, reason, time } = label;
        Target::pod(&format!("{namespace}/{pod}"))?;
        let max_pod = MAX_POD - reason.name().len().saturating_sub(ROOM_FOR_REASON);
        let pod = if pod.len() > max_pod {
            let digest = Sha256::digest(pod);
            let digits: String = digest[..4].iter().map(|byte| format!("{byte:02x}")).collect();
            format!("{}{SHORTENED}{digits}", &pod[..max_pod - digits.len() - 1])
        } else {
            pod.clone()
        };
        let (time, reason) = (time / 1_000_000_000, reason.name().to_owned());
        Ok(Self { time, number: 1, namespace: namespace.clone(), pod, reason })
    }

    /// Only what is written exactly so is a name.
    fn parse(text: &str) -> Option<Self> {
        let parts: Vec<&str> = text.strip_suffix(ENDING)?.split('_').collect();
        let [namespace, pod, when, reason] = parts.try_into().ok()?;
        let (time, number) = match when.split_once('-') {
            Some((time, number)) => (time, number.parse().ok().filter(|number| *number > 1)?),
            None => (when, 1),
        };
        let may_have = |part: &str, others: &str| {
            let is_one =
                |char: char| char.is_ascii_lowercase() || char.is_ascii_digit() || others.contains(char);
            part.starts_with(|char: char| char.is_ascii_alphanumeric()) && part.chars().all(is_one)
        };
        let is_plain = may_have(namespace, "-") && may_have(pod, "-.~");
        let is_reason = may_have(reason, "-") || is_of_event(reason);
        let name = Self {
            time: parse_time(time)?,
            number,
            namespace: namespace.to_owned(),
            pod: pod.to_owned(),
            reason: reason.to_owned(),
        };
        (is_plain && is_reason && name.to_string() == text).then_some(name)
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { time, number, namespace, pod, reason } = self;
        let time = humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_secs(*time));
        let time = time.to_string().replace(['-', ':'], "");
        let number = if *number > 1 { format!("-{number}") } else { String::new() };
        write!(f, "{namespace}_{pod}_{time}{number}_{reason}{ENDING}")
    }
}

/// Seconds since the epoch, of `20261127T045122Z`.
fn parse_time(text: &str) -> Option<u64> {
    let parts = [0..4, 4..6, 6..11, 11..13, 13..16].map(|part| text.get(part));
    let [Some(year), Some(month), Some(hour_of_day), Some(minute), Some(second)] = parts else { return None };
    let time = humantime::parse_rfc3339(&format!("{year}-{month}-{hour_of_day}:{minute}:{second}")).ok()?;
    time.duration_since(UNIX_EPOCH).ok().map(|since| since.as_secs())
}

fn is_draft(name: &str) -> bool {
    let number = name.strip_prefix(DRAFT.0).and_then(|rest| rest.strip_suffix(DRAFT.1));
    number.is_some_and(|number| !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit()))
}

/// By what path this process reaches an open file, whatever it is called.
fn in_proc(file: &File) -> PathBuf {
    format!("/proc/self/fd/{}", file.as_raw_fd()).into()
}

#[cfg(test)]
mod tests {
    use std::{
        collections::VecDeque,
        env,
        hash::{BuildHasher as _, RandomState},
        io::{Read as _, Write as _},
        mem,
        os::unix::fs::{PermissionsExt as _, symlink},
        process::{Command, Stdio},
        thread,
    };

    use nix::{sys::stat::Mode, unistd::mkfifo};
    use tempfile::{TempDir, tempdir};

    use super::*;

    /// 2026-11-27T04:51:22Z.
    const TIME: u64 = 1_795_755_082;
    /// What a process is told that writes until it is killed.
    const WRITER: &str = "SNIFF_TEST_SHELF";

    fn label(pod: &str, seconds: u64) -> Label {
        Label {
            namespace: "shop".to_owned(),
            pod: pod.to_owned(),
            reason: Reason::OomKilled,
            time: (TIME + seconds) * 1_000_000_000 + 5,
        }
    }

    fn open(folder: &TempDir, max_bytes: u64, has_unnamed: bool) -> Shelf {
        let mut shelf = Shelf::open(folder.path(), max_bytes).unwrap();
        let inner = Arc::get_mut(&mut shelf.0).unwrap();
        assert!(inner.has_unnamed, "the test's file system knows files without a name");
        inner.has_unnamed = has_unnamed;
        shelf
    }

    /// As somebody does who makes sure that there is room first.
    fn write(draft: &mut Draft, bytes: &[u8]) -> Result<()> {
        draft.grow(draft.file().metadata()?.len() + bytes.len() as u64)?;
        Ok(draft.file().write_all(bytes)?)
    }

    fn save(shelf: &Shelf, label: &Label, bytes: usize) -> Recording {
        let mut draft = shelf.begin(label, bytes as u64).unwrap();
        write(&mut draft, &vec![b'x'; bytes]).unwrap();
        draft.finish().unwrap()
    }

    /// All that is in the folder.
    fn names(folder: &TempDir) -> Vec<String> {
        let names = fs::read_dir(folder.path()).unwrap();
        let mut names: Vec<_> = names.map(|it| it.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    fn listed(shelf: &Shelf) -> Vec<String> {
        shelf.list().unwrap().into_iter().map(|recording| recording.name).collect()
    }

    #[test]
    fn a_recording_is_called_by_pod_time_and_reason_and_read_by_that_name() {
        for has_unnamed in [true, false] {
            let folder = tempdir().unwrap();
            let shelf = open(&folder, 1000, has_unnamed);
            let saved = save(&shelf, &label("web-0", 0), 10);
            assert_eq!(
                saved,
                Recording {
                    name: "shop_web-0_20261127T045122Z_oom-killed.pcapng".to_owned(),
                    namespace: "shop".to_owned(),
                    pod: "web-0".to_owned(),
                    reason: "oom-killed".to_owned(),
                    time: TIME * 1_000_000_000,
                    bytes: 10,
                }
            );
            let again = save(&shelf, &label("web-0", 0), 20);
            assert_eq!(again.name, "shop_web-0_20261127T045122Z-2_oom-killed.pcapng");
            let later = save(&shelf, &label("db.a", 1), 30);
            assert_eq!(shelf.list().unwrap(), [later, again, saved.clone()]);
            let (recording, mut file) = open_saved(&shelf.0.path, &saved.name).unwrap();
            let mut bytes = Vec::new();
            file.read_to_end(&mut bytes).unwrap();
            assert_eq!((recording, bytes), (saved.clone(), vec![b'x'; 10]));
            let mode = fs::metadata(folder.path().join(&saved.name)).unwrap().mode();
            assert_eq!(mode & 0o777, 0o600);
            // Somebody has removed it.
            fs::remove_file(folder.path().join(&saved.name)).unwrap();
            assert!(open_saved(&shelf.0.path, &saved.name).is_err());
            assert_eq!(shelf.counts().unwrap(), Counts { files: 2, bytes: 50, ..Counts::default() });
        }
    }

    #[test]
    fn a_draft_is_out_of_sight_and_leaves_nothing() {
        for has_unnamed in [true, false] {
            let folder = tempdir().unwrap();
            let shelf = open(&folder, 100, has_unnamed);
            let mut draft = shelf.begin(&label("web", 0), 80).unwrap();
            write(&mut draft, &[0; 80]).unwrap();
            assert_eq!((listed(&shelf).len(), names(&folder).len()), (0, usize::from(!has_unnamed)));
            assert!(shelf.begin(&label("web", 0), 30).is_err(), "there is no room for both");
            drop(draft);
            assert_eq!(names(&folder), Vec::<String>::new());
            save(&shelf, &label("web", 0), 100);
        }
    }

    #[test]
    fn the_oldest_make_room_and_what_cannot_fit_removes_nothing() {
        let folder = tempdir().unwrap();
        let shelf = open(&folder, 100, true);
        let saved: Vec<_> =
            [3, 1, 2].into_iter().map(|at| save(&shelf, &label("web", at), 30).name).collect();
        let why = shelf.begin(&label("web", 9), 101).unwrap_err().to_string();
        assert!(why.contains("it takes 101 B of the 100 B"), "{why}");
        assert_eq!(listed(&shelf).len(), 3);
        let draft = shelf.begin(&label("web", 4), 40).unwrap();
        assert_eq!(listed(&shelf), [saved[0].clone(), saved[2].clone()]);
        drop(draft);
        let counts = Counts { files: 2, bytes: 60, evicted: 1, refused: 1 };
        assert_eq!(shelf.counts().unwrap(), counts);
        // A smaller one makes do with what is left.
        drop(shelf);
        assert_eq!(listed(&open(&folder, 59, true)), [saved[0].clone()]);
    }

    #[test]
    fn more_than_was_expected_makes_room_or_is_refused() {
        let folder = tempdir().unwrap();
        let shelf = open(&folder, 100, true);
        save(&shelf, &label("old", 0), 60);
        let mut draft = shelf.begin(&label("web", 1), 10).unwrap();
        write(&mut draft, &[0; 40]).unwrap();
        assert_eq!(listed(&shelf).len(), 1);
        write(&mut draft, &[0; 40]).unwrap();
        assert_eq!(listed(&shelf).len(), 0);
        assert!(write(&mut draft, &[0; 40]).is_err());
        drop(draft);
        // Whoever has the descriptor asks nobody.
        let draft = shelf.begin(&label("web", 2), 10).unwrap();
        File::from(draft.as_fd().try_clone_to_owned().unwrap()).write_all(&[0; 101]).unwrap();
        draft.finish().unwrap_err();
        assert_eq!(shelf.counts().unwrap(), Counts { evicted: 1, refused: 2, ..Counts::default() });
        assert_eq!(names(&folder), Vec::<String>::new());
        save(&shelf, &label("web", 3), 100);
    }

    #[test]
    fn names_are_bounded_and_only_names_that_were_given_are_taken() {
        let folder = tempdir().unwrap();
        let shelf = open(&folder, 1000, true);
        let long = |last: &str| {
            Label { namespace: "n".repeat(63), ..label(&("p".repeat(62) + ".").repeat(4)[..252], 0) }
                .with_pod(last)
        };
        let [one, other] = ["a", "b"].map(|last| save(&shelf, &long(last), 1));
        assert!(one.name.len() <= 250 && one.pod.contains('~') && one.pod != other.pod, "{}", one.name);
        assert_eq!(open_saved(&shelf.0.path, &one.name).unwrap().0, one);
        let [one, other] = ["a", "b"].map(|last| {
            let reason = Reason::Event(format!("event-{}", "R".repeat(64)).into());
            save(&shelf, &Label { reason, ..long(last) }, 1)
        });
        assert!(one.name.len() <= 250 && one.pod.contains('~') && one.pod != other.pod, "{}", one.name);
        assert_eq!(open_saved(&shelf.0.path, &one.name).unwrap().0, one);
        for (namespace, pod) in
            [("", "web"), ("shop", ""), ("shop", "../web"), ("a_b", "web"), ("shop", "a/b")]
        {
            let label = Label { namespace: namespace.to_owned(), pod: pod.to_owned(), ..label("", 0) };
            assert!(shelf.begin(&label, 1).is_err(), "{namespace}/{pod}");
        }
        let good = "shop_web_20261127T045122Z-2_oom-killed.pcapng";
        assert_eq!(Name::parse(good).unwrap().to_string(), good);
        assert!(Name::parse("shop_web_20261127T045122Z_event-Unhealthy.pcapng").is_some());
        for wrong in [
            "",
            ".",
            "..",
            "../shop_web_20261127T045122Z_oom-killed.pcapng",
            "shop_../web_20261127T045122Z_oom-killed.pcapng",
            "shop_.._20261127T045122Z_oom-killed.pcapng",
            "shop_web_20261127T045122Z_oom-killed.pcap",
            "shop_web_20261127T045122Z_oom_killed.pcapng",
            "shop_web_20261127T045122Z_OOM.pcapng",
            "shop_web_20261127T045122Z_event-Un-healthy.pcapng",
            "shop_web_20261127T045122Z-1_oom-killed.pcapng",
            "shop_web_20261127T045122Z-02_oom-killed.pcapng",
            "shop_web_20261127T045122Z-+2_oom-killed.pcapng",
            "shop_web_20261327T045122Z_oom-killed.pcapng",
            "shop_web_2026112XT045122Z_oom-killed.pcapng",
            "shop_web_2026-1127T045122Z_oom-killed.pcapng",
            "shop_web_20261127T0451\u{e9}2Z_oom-killed.pcapng",
            "shop_w\u{e9}b_20261127T045122Z_oom-killed.pcapng",
            "shop_web\0_20261127T045122Z_oom-killed.pcapng",
        ] {
            assert!(Name::parse(wrong).is_none() && open_saved(&shelf.0.path, wrong).is_err(), "{wrong:?}");
        }
    }

    impl Label {
        fn with_pod(mut self, last: &str) -> Self {
            self.pod += last;
            self
        }
    }

    #[test]
    fn what_others_have_put_there_is_passed_over_and_stays() {
        let (folder, elsewhere) = (tempdir().unwrap(), tempdir().unwrap());
        let secret = elsewhere.path().join("secret");
        fs::write(&secret, "secret").unwrap();
        let name = |pod| Name::of(&label(pod, 0)).unwrap().to_string();
        let at = |name: &str| folder.path().join(name);
        symlink(&secret, at(&name("link"))).unwrap();
        symlink(&secret, at("draft-1.part")).unwrap();
        fs::create_dir(at(&name("folder"))).unwrap();
        mkfifo(&at(&name("fifo")), Mode::S_IRWXU).unwrap();
        fs::write(at("notes.txt"), [0; 500]).unwrap();
        fs::write(at("notes.part"), [0; 500]).unwrap();
        let before = names(&folder);
        for has_unnamed in [true, false] {
            let shelf = open(&folder, 100, has_unnamed);
            assert_eq!((listed(&shelf), shelf.counts().unwrap().bytes), (Vec::new(), 0));
            for pod in ["link", "folder", "fifo"] {
                assert!(open_saved(&shelf.0.path, &name(pod)).is_err(), "{pod}");
                let saved = save(&shelf, &label(pod, 0), 60);
                assert!(saved.name.contains("T045122Z-2_"), "{}", saved.name);
                fs::remove_file(at(&saved.name)).unwrap();
            }
        }
        let left: Vec<_> = before.into_iter().filter(|name| name != "draft-1.part").collect();
        assert_eq!((names(&folder), fs::read_to_string(secret).unwrap()), (left, "secret".to_owned()));
    }

    #[test]
    fn a_folder_is_one_agents_alone() {
        let folder = tempdir().unwrap();
        let own = folder.path().join("of/recordings");
        let shelf = Shelf::open(&own, 100).unwrap();
        assert_eq!(fs::metadata(&own).unwrap().mode() & 0o777, 0o700);
        let why = format!("{:#}", Shelf::open(&own, 100).unwrap_err());
        assert!(why.contains("another agent has this folder"), "{why}");
        // A draft may outlive it.
        let draft = shelf.begin(&label("web", 0), 1).unwrap();
        drop(shelf);
        assert!(Shelf::open(&own, 100).is_err());
        drop(draft);
        Shelf::open(&own, 100).unwrap();
        let link = folder.path().join("link");
        symlink(&own, &link).unwrap();
        assert!(Shelf::open(&link, 100).is_err());
        fs::set_permissions(&own, fs::Permissions::from_mode(0o770)).unwrap();
        let why = format!("{:#}", Shelf::open(&own, 100).unwrap_err());
        assert!(why.contains("others may write there"), "{why}");
        for cannot in ["/proc/recordings", "/dev/null"] {
            let why = format!("{:#}", Shelf::open(Path::new(cannot), 100).unwrap_err());
            assert!(why.contains(cannot), "{why}");
        }
    }

    #[test]
    fn what_a_clock_made_that_was_wrong_goes_first() {
        let folder = tempdir().unwrap();
        let shelf = open(&folder, 100, true);
        let now = Duration::from_nanos(clock::now()).as_secs();
        let at = |time: u64| Label { time: time * 1_000_000_000, ..label("web", 0) };
        let ahead = save(&shelf, &at(now + 10 * 365 * 86400), 40);
        let old = save(&shelf, &at(now - 1000), 40);
        // A step back of a few seconds does not matter.
        let new = save(&shelf, &at(now + 5), 40);
        assert_eq!(listed(&shelf), [new.name.clone(), old.name]);
        assert!(open_saved(&shelf.0.path, &ahead.name).is_err());
        let newer = save(&shelf, &at(now), 50);
        assert_eq!(listed(&shelf), [new.name, newer.name]);
    }

    #[test]
    fn there_are_so_many_files() {
        let folder = tempdir().unwrap();
        for second in 0..MAX_FILES as u64 + 5 {
            let name = Name::of(&label("web", second)).unwrap().to_string();
            fs::write(folder.path().join(name), "x").unwrap();
        }
        let shelf = open(&folder, u64::MAX, true);
        save(&shelf, &label("web", 5000), 1);
        save(&shelf, &label("web", 5001), 1);
        assert_eq!(listed(&shelf).len(), MAX_FILES);
        assert!(!listed(&shelf).iter().any(|name| name.contains("_20261127T045122Z_")));
    }

    #[test]
    fn whatever_is_done_the_bound_holds_and_the_newest_stay() {
        const MAX: u64 = 1000;
        let random = RandomState::new();
        for has_unnamed in [true, false] {
            let folder = tempdir().unwrap();
            let mut shelf = open(&folder, MAX, has_unnamed);
            let mut drafts: VecDeque<Draft> = VecDeque::new();
            for step in 0..1500_u64 {
                let dice = random.hash_one((has_unnamed, step));
                let amount = (dice >> 16) % 400;
                match dice % 16 {
                    0..5 => drafts.extend(shelf.begin(&label("web", step), amount)),
                    5..9 => {
                        if let Some(draft) = drafts.front_mut() {
                            // It may be more than fits.
                            let _ = write(draft, &vec![0; amount as usize]);
                        }
                    }
                    9..14 => {
                        let newest = listed(&shelf).into_iter().next();
                        if let Some(Ok(saved)) = drafts.pop_front().map(Draft::finish) {
                            assert!(listed(&shelf).contains(&saved.name));
                            assert!(newest.is_none_or(|it| listed(&shelf).contains(&it)));
                        }
                    }
                    14 => drop(drafts.pop_back()),
                    _ => {
                        // The agent is killed: nothing is tidied up, and the system closes all descriptors.
                        drafts.drain(..).for_each(|mut draft| drop(draft.part.take()));
                        drop(mem::replace(&mut shelf, open(&tempdir().unwrap(), MAX, has_unnamed)));
                        shelf = open(&folder, MAX, has_unnamed);
                        assert!(!names(&folder).iter().any(|name| is_draft(name)));
                    }
                }
                let sizes = names(&folder)
                    .into_iter()
                    .map(|name| fs::metadata(folder.path().join(name)).unwrap().len());
                let sum: u64 = sizes.sum();
                assert!(sum <= MAX && shelf.counts().unwrap().bytes <= MAX, "{sum} bytes");
                let promised: u64 = drafts.iter().map(|draft| draft.promised).sum();
                assert_eq!(shelf.0.books().promised, promised);
            }
            drop(drafts);
            assert_eq!(listed(&shelf).len(), names(&folder).len());
        }
    }

    /// Not a test, but what the next one kills.
    #[test]
    #[ignore = "it writes until it is killed"]
    fn writer() {
        let Ok(told) = env::var(WRITER) else { return };
        let (has_unnamed, path) = told.split_once(':').unwrap();
        let mut shelf = Shelf::open(Path::new(path), 1 << 20).unwrap();
        Arc::get_mut(&mut shelf.0).unwrap().has_unnamed = has_unnamed == "true";
        for second in 0.. {
            let bytes = 1 + (second * 7919) % (300 << 10);
            let mut draft = shelf.begin(&label("web", second), bytes).unwrap();
            for piece in vec![second as u8; bytes as usize].chunks(10_000) {
                write(&mut draft, piece).unwrap();
            }
            draft.finish().unwrap();
        }
    }

    #[test]
    fn an_agent_that_is_killed_at_any_time_leaves_whole_files_within_the_bound() {
        let random = RandomState::new();
        for has_unnamed in [true, false] {
            let folder = tempdir().unwrap();
            for round in 0..8 {
                let mut writer = Command::new(env::current_exe().unwrap());
                let writer = writer
                    .args(["--ignored", "--exact", "agent::recordings::shelf::tests::writer"])
                    .env(WRITER, format!("{has_unnamed}:{}", folder.path().display()))
                    .stdout(Stdio::null());
                let mut writer = writer.spawn().unwrap();
                while names(&folder).is_empty() {
                    assert!(writer.try_wait().unwrap().is_none(), "it writes");
                    thread::yield_now();
                }
                thread::sleep(Duration::from_micros(random.hash_one(round) % 50_000));
                writer.kill().unwrap();
                writer.wait().unwrap();
                let shelf = Shelf::open(folder.path(), 1 << 20).unwrap();
                assert!(shelf.counts().unwrap().bytes <= 1 << 20);
                assert_eq!(listed(&shelf).len(), names(&folder).len(), "no drafts are left");
                for recording in shelf.list().unwrap() {
                    let second = recording.time / 1_000_000_000 - TIME;
                    assert_eq!(recording.bytes, 1 + (second * 7919) % (300 << 10));
                    let (_, mut file) = open_saved(&shelf.0.path, &recording.name).unwrap();
                    let mut bytes = Vec::new();
                    file.read_to_end(&mut bytes).unwrap();
                    assert!(bytes.iter().all(|byte| *byte == second as u8));
                }
            }
        }
    }
}
