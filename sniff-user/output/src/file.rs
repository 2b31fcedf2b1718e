//! pcapng to a file or a reader: how files are made, how they stay whole, and what can read them.

#[cfg(unix)]
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
#[cfg(windows)]
use std::os::windows::io::{AsHandle as _, OwnedHandle};
use std::{
    fs::{File, OpenOptions},
    io::{self, IsTerminal as _, Seek as _, SeekFrom, Write as _},
    path::Path,
};

use anyhow::{Context as _, Result, ensure};
use log::warn;
use sniff_pcapng::{InterfaceDescription, LinkType, blocks};

use crate::{Sink, cannot_write};

/// A pcapng file, or a pipe.
pub struct Pcapng {
    file: File,
    name: String,
    /// Of a file; whoever reads a pipe is there to say what it cannot read.
    link_types: Option<LinkTypes>,
    /// Bytes in the file, all of them whole blocks; unknown where others write too.
    written: Option<u64>,
}

impl Pcapng {
    /// A file, made or emptied by [`create`]; or a pipe or device that is there.
    ///
    /// # Errors
    ///
    /// When it cannot be written, or is a terminal.
    pub fn create(path: &Path) -> Result<Self> {
        Self::to(create(path)?, path.display().to_string(), Some(0))
    }

    /// Standard output, of which others may write to the same file.
    ///
    /// # Errors
    ///
    /// When it is a terminal.
    pub fn standard_output() -> Result<Self> {
        #[cfg(unix)]
        let file = io::stdout().as_fd().try_clone_to_owned()?;
        #[cfg(windows)]
        let file = io::stdout().as_handle().try_clone_to_owned()?;
        Self::to(file.into(), "standard output".to_owned(), None)
    }

    /// The pipe to a program's standard input.
    #[cfg(unix)]
    pub fn pipe(to: impl Into<OwnedFd>, program: String) -> Self {
        Self { file: to.into().into(), name: program, link_types: None, written: None }
    }

    /// The pipe to a program's standard input.
    #[cfg(windows)]
    pub fn pipe(to: impl Into<OwnedHandle>, program: String) -> Self {
        Self { file: to.into().into(), name: program, link_types: None, written: None }
    }

    fn to(file: File, name: String, written: Option<u64>) -> Result<Self> {
        ensure!(
            !file.is_terminal(),
            "pcapng is not for a terminal: write to a file or a pipe, as in `-w - | wireshark -k -i -`"
        );
        let link_types = file.metadata()?.is_file().then(LinkTypes::default);
        Ok(Self { file, name, link_types, written })
    }

    /// Ends the file behind its last whole block, if it is ours alone: what is in a pipe cannot be taken back.
    fn cut(&mut self) {
        if let Some(written) = self.written {
            // If even that fails, the file has a torn block at its end, which readers report.
            let _ = self.file.set_len(written);
            let _ = self.file.seek(SeekFrom::Start(written));
        }
    }
}

impl Sink for Pcapng {
    fn interface(&mut self, description: &InterfaceDescription) {
        if let Some(link_types) = &mut self.link_types {
            link_types.meet(description.link_type, &self.name);
        }
    }

    fn write(&mut self, bytes: &[u8]) -> (usize, io::Result<()>) {
        let (done, result) = write_as_much(&mut self.file, bytes);
        let whole = if result.is_ok() { done } else { whole_blocks(bytes, done) };
        self.written = self.written.map(|before| before + whole as u64);
        if result.is_err() {
            self.cut();
        }
        (whole, result.map_err(|error| cannot_write(&self.name, &error)))
    }

    #[cfg(unix)]
    fn reader(&self) -> Option<BorrowedFd<'_>> {
        Some(self.file.as_fd())
    }
}

/// As `write_all`, and tells how far it came.
fn write_as_much(file: &mut File, bytes: &[u8]) -> (usize, io::Result<()>) {
    let mut done = 0;
    while done < bytes.len() {
        match file.write(&bytes[done..]) {
            Ok(0) => return (done, Err(io::ErrorKind::WriteZero.into())),
            Ok(n) => done += n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return (done, Err(error)),
        }
    }
    (done, Ok(()))
}

/// Bytes of the whole blocks among the first `done` bytes of blocks.
fn whole_blocks(bytes: &[u8], done: usize) -> usize {
    blocks(&bytes[..done]).map(<[u8]>::len).sum()
}

/// Makes a file that nobody else may read, or empties the one that is there; pipes and devices are opened.
///
/// Whoever may write to the file's folder, as everybody may to `/tmp`, could have laid a symbolic link there that leads
/// to somebody's file. So none is followed, but for the system's own, such as `/dev/stdout`.
///
/// # Errors
///
/// When there is such a link, or the file cannot be written.
pub fn create(path: &Path) -> Result<File> {
    let file = open(path).map_err(|error| match path.is_symlink() && !is_of_the_system(path) {
        true => io::Error::other("a symbolic link is not written through: name the file that it leads to"),
        false => error,
    });
    let file = file.and_then(|file| {
        if file.metadata()?.is_file() {
            file.set_len(0)?;
        }
        Ok(file)
    });
    file.with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(unix)]
fn open(path: &Path) -> io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt as _;

    let mut options = OpenOptions::new();
    options.write(true).create(true).mode(0o600);
    if !is_of_the_system(path) {
        options.custom_flags(libc::O_NOFOLLOW);
    }
    options.open(path)
}

#[cfg(not(unix))]
fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create(true).truncate(false).open(path)
}

/// Whether it is in a folder that only the system has links in: `/dev`, and `/dev/fd`, which is in `/proc`.
fn is_of_the_system(path: &Path) -> bool {
    let folder = path.parent().and_then(|folder| folder.canonicalize().ok());
    folder.is_some_and(|folder| folder == Path::new("/dev") || folder.starts_with("/proc"))
}

/// The link types in a file.
#[derive(Debug, Default)]
struct LinkTypes {
    first: Option<LinkType>,
    are_mixed: bool,
}

impl LinkTypes {
    /// Meets that of one more interface; says when the file, called `name`, has become one that few programs read.
    fn meet(&mut self, link_type: LinkType, name: &str) {
        let first = *self.first.get_or_insert(link_type);
        if first != link_type && !self.are_mixed {
            self.are_mixed = true;
            warn!(
                "{name} has interfaces of two link types: Wireshark reads it, tcpdump and what else reads by libpcap does \
                 not; for those, capture each kind of interface into a file of its own (-i)"
            );
        }
    }
}

#[cfg(all(test, unix))]
mod tests {
    use sniff_pcapng::Watermark;
    use std::{
        fs,
        os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink},
    };

    use super::*;

    #[test]
    fn a_new_file_is_for_its_owner_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        create(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
    }

    #[test]
    fn an_older_file_is_emptied_and_keeps_its_mode() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        fs::write(&path, "older").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        create(&path).unwrap();
        let metadata = fs::metadata(&path).unwrap();
        assert_eq!((metadata.len(), metadata.mode() & 0o777), (0, 0o640));
    }

    #[test]
    fn no_link_is_followed() {
        let dir = tempfile::tempdir().unwrap();
        let [there, link, dangling] = ["there", "link", "dangling"].map(|name| dir.path().join(name));
        fs::write(&there, "another's").unwrap();
        symlink(&there, &link).unwrap();
        symlink(dir.path().join("new"), &dangling).unwrap();
        for path in [&link, &dangling] {
            let error = format!("{:#}", create(path).unwrap_err());
            assert!(error.contains("symbolic link") && error.contains(path.to_str().unwrap()), "{error}");
        }
        assert_eq!(fs::read_to_string(&there).unwrap(), "another's");
        assert!(!dir.path().join("new").exists());
    }

    #[test]
    fn the_systems_own_links_are_followed() {
        let dir = tempfile::tempdir().unwrap();
        let held = File::create(dir.path().join("f")).unwrap();
        let fd = std::os::fd::AsRawFd::as_raw_fd(&held);
        for path in ["/dev/null".to_owned(), format!("/dev/fd/{fd}"), format!("/proc/self/fd/{fd}")] {
            create(Path::new(&path)).unwrap();
        }
    }

    #[test]
    fn what_is_torn_does_not_count() {
        let blocks: Vec<u8> = (0..3).flat_map(|time_ns| Watermark { time_ns }.block()).collect();
        assert_eq!(blocks.len(), 60);
        for (done, whole) in [(60, 60), (59, 40), (20, 20), (19, 0), (0, 0)] {
            assert_eq!(whole_blocks(&blocks, done), whole);
        }
    }
}
