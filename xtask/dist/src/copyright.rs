//! What the distribution says of the copyright in the files that are copied from it.

use std::{
    collections::BTreeSet,
    fs,
    io::ErrorKind,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};

/// Where Debian has the licences that its copyright files only name.
const LICENCES: &str = "/usr/share/common-licenses";

/// The copyright files of the Debian packages that these files are of, and the licences that they name, in order. None
/// where there is no dpkg.
///
/// # Errors
/// dpkg or a folder cannot be read.
pub fn of<'a>(files: impl IntoIterator<Item = &'a PathBuf>) -> Result<Vec<PathBuf>> {
    let mut texts = BTreeSet::new();
    for file in files {
        let package = package_of(file)?;
        texts.extend(package.map(|name| format!("/usr/share/doc/{name}/copyright").into()));
    }
    if !texts.is_empty() {
        for licence in fs::read_dir(LICENCES).with_context(|| format!("cannot read {LICENCES}"))? {
            texts.insert(licence?.path());
        }
    }
    Ok(texts.into_iter().collect())
}

/// The Debian package that has a file; `None` when none has, as on other systems.
fn package_of(file: &Path) -> Result<Option<String>> {
    let file = file.canonicalize().with_context(|| format!("cannot find {}", file.display()))?;
    // Packages may name it by where it was before /lib became a link to /usr/lib.
    let before = file.strip_prefix("/usr").ok().map(|rest| Path::new("/").join(rest));
    match Command::new("dpkg").arg("--search").arg(&file).args(before).env("LC_ALL", "C").output() {
        Ok(output) => Ok(parse(&String::from_utf8_lossy(&output.stdout))),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).context("cannot run dpkg"),
    }
}

/// The first package in what `dpkg --search` says: `NAME:ARCHITECTURE, OTHER: FILE`.
fn parse(said: &str) -> Option<String> {
    let line = said.lines().find(|line| !line.starts_with("diversion "))?;
    Some(line.split([':', ',']).next()?.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_package_is_known_by_its_name_alone() {
        let name = |said| parse(said);
        assert_eq!(name("libc6:amd64: /lib/libc.so.6\n").as_deref(), Some("libc6"));
        assert_eq!(name("netbase: /etc/protocols\n").as_deref(), Some("netbase"));
        assert_eq!(name("a:amd64, a:i386: /lib/a\n").as_deref(), Some("a"));
        let diverted =
            "diversion by dash from: /bin/sh\ndiversion by dash to: /bin/sh.distrib\ndash: /bin/sh\n";
        assert_eq!(name(diverted).as_deref(), Some("dash"));
        assert_eq!(name(""), None);
    }

    #[test]
    fn a_file_of_nobody_has_no_copyright_file() {
        let program = std::env::current_exe().expect("this program");
        assert!(of([&program]).expect("an answer").is_empty());
    }
}
