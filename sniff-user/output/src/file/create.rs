//! How files are made: for their owner alone, and not through somebody else's link.

use std::{
    fs::{File, OpenOptions},
    io,
    path::Path,
};

use anyhow::{Context as _, Result};

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

#[cfg(all(test, unix))]
mod tests {
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
}
