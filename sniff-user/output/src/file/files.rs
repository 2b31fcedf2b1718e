//! How the files of a capture are made and deleted, by their names. What is in them is elsewhere: whoever writes packets need
//! not be who may make files.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read as _},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, ensure};
use jiff::tz::TimeZone;
use log::{info, warn};

use super::create::create;
use crate::rotate::{Naming, Ring, Rotation};

/// What capture files begin with: pcapng; pcap of either byte order and precision; zstd; gzip.
const MAGICS: [&[u8]; 7] = [
    b"\x0a\x0d\x0d\x0a",
    b"\xa1\xb2\xc3\xd4",
    b"\xd4\xc3\xb2\xa1",
    b"\xa1\xb2\x3c\x4d",
    b"\x4d\x3c\xb2\xa1",
    b"\x28\xb5\x2f\xfd",
    b"\x1f\x8b",
];

/// A file that was made, or was there and is empty; or a pipe or device that is there.
#[derive(Debug)]
pub struct Made {
    /// Open to be written to.
    pub file: File,
    /// For people.
    pub name: String,
}

/// Makes the files that packets go to, one after the other.
pub trait Files: Send {
    /// The next one, whose packets begin at this time, in nanoseconds since the epoch. Those that there is no room for beside
    /// it are deleted.
    ///
    /// # Errors
    ///
    /// When it cannot be made.
    fn next(&mut self, begun_ns: u64) -> Result<Made>;

    /// Deletes the last one that was made: it came to nothing.
    fn abandon(&mut self);
}

/// The files that are called as somebody said.
pub struct NamedFiles {
    path: PathBuf,
    rotation: Rotation,
    /// Of a series, once it has a file.
    series: Option<(Naming, Ring)>,
    last: Option<PathBuf>,
}

impl NamedFiles {
    /// A file called `path`, or a series that is named after it.
    pub fn new(path: PathBuf, rotation: Rotation) -> Self {
        Self { path, rotation, series: None, last: None }
    }

    /// Finds out what a series follows.
    fn begin_series(&self) -> Result<(Naming, Ring)> {
        ensure!(
            !fs::metadata(&self.path).is_ok_and(|metadata| !metadata.is_file()),
            "{} is no file: only a file can be followed by another",
            self.path.display()
        );
        let mut naming = Naming::new(&self.path, self.rotation.time.is_some(), TimeZone::system())?;
        let earlier = earlier(&naming);
        if let Some((number, _)) = earlier.last() {
            naming.go_on_behind(*number);
        }
        let keep = self.rotation.keep;
        let captures =
            earlier.into_iter().map(|(_, path)| path).filter(|path| keep.is_some() && is_capture(path));
        Ok((naming, Ring::new(keep, captures)))
    }

    /// The name of the next file.
    fn next_path(&mut self, begun_ns: u64) -> Result<PathBuf> {
        if !self.rotation.is_asked_for() {
            ensure!(self.last.is_none(), "there is one file only");
            return Ok(self.path.clone());
        }
        let is_first = self.series.is_none();
        if is_first {
            self.series = Some(self.begin_series()?);
        }
        let (naming, ring) = self.series.as_mut().context("there is a series")?;
        let path = naming.next(begun_ns)?;
        let keep = self.rotation.keep.unwrap_or(0);
        if is_first && !ring.is_empty() {
            info!(
                "{} file(s) of an earlier capture are there, and are the oldest of the {keep} that are kept: {} follows \
                 them",
                ring.len(),
                path.display()
            );
        }
        for old in ring.begin(&path) {
            match fs::remove_file(&old) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    warn!("{} stays, though there are {keep} newer files: {error}", old.display());
                }
                _ => {}
            }
        }
        Ok(path)
    }
}

impl Files for NamedFiles {
    fn next(&mut self, begun_ns: u64) -> Result<Made> {
        let path = self.next_path(begun_ns)?;
        let made = Made { file: create(&path)?, name: path.display().to_string() };
        self.last = Some(path);
        Ok(made)
    }

    fn abandon(&mut self) {
        if let Some(path) = &self.last {
            // What cannot be deleted is empty.
            let _ = fs::remove_file(path);
        }
    }
}

/// The files of a series that are there, by their numbers.
fn earlier(naming: &Naming) -> Vec<(u64, PathBuf)> {
    let entries = fs::read_dir(naming.folder()).into_iter().flatten().flatten();
    let of_series =
        |entry: fs::DirEntry| Some((naming.number_of(entry.file_name().to_str()?)?, entry.path()));
    let mut earlier: Vec<_> = entries.filter_map(of_series).collect();
    earlier.sort();
    earlier
}

/// Whether it is a file that a capture has begun: others of such a name are not the ring's, and stay.
fn is_capture(path: &Path) -> bool {
    let begins = || {
        let mut magic = Vec::new();
        open_file(path)?.take(4).read_to_end(&mut magic)?;
        Ok::<_, io::Error>(magic.is_empty() || MAGICS.iter().any(|it| magic.starts_with(it)))
    };
    fs::symlink_metadata(path).is_ok_and(|metadata| metadata.is_file()) && begins().unwrap_or(false)
}

/// Opens what was a file just before, and waits for nobody if it is none any more.
fn open_file(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::custom_flags(&mut options, libc::O_NOFOLLOW | libc::O_NONBLOCK);
    options.open(path)
}
