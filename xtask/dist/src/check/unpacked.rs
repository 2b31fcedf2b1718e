//! A release's folder and the archives in it, read into memory.

use std::{
    collections::BTreeMap,
    fs,
    io::{Cursor, Read},
    path::Path,
};

use anyhow::{Context as _, Result, bail};

use crate::archive::gunzip;

/// Files by their paths.
pub type Files = BTreeMap<String, Vec<u8>>;

/// A file in an archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Who may do what with it.
    pub mode: u32,
    /// What is in it.
    pub content: Vec<u8>,
}

/// What is in an archive, by path.
pub type Members = BTreeMap<String, Member>;

/// All files of a folder and of those in it.
///
/// # Errors
/// One of them cannot be read.
pub fn folder(folder: &Path) -> Result<Files> {
    let mut files = Files::new();
    let mut open = vec![folder.to_owned()];
    while let Some(next) = open.pop() {
        let entries = fs::read_dir(&next).with_context(|| format!("cannot read {}", next.display()))?;
        for entry in entries {
            let path = entry?.path();
            if path.is_dir() {
                open.push(path);
            } else {
                let content = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
                files.insert(path.strip_prefix(folder)?.to_string_lossy().into_owned(), content);
            }
        }
    }
    Ok(files)
}

/// What is in an archive of this name.
///
/// # Errors
/// It cannot be read as what its name says.
pub fn archive(name: &str, content: &[u8]) -> Result<Members> {
    match name {
        _ if name.ends_with(".tar.gz") || name.ends_with(".tgz") => tar_gz(content),
        _ if name.ends_with(".tar") => tar(content),
        _ if name.ends_with(".zip") => zip(content),
        _ => bail!("{name} is no archive"),
    }
}

/// A compressed tar archive.
///
/// # Errors
/// It is none.
pub fn tar_gz(content: &[u8]) -> Result<Members> {
    tar(&gunzip(content)?)
}

/// A tar archive.
///
/// # Errors
/// It is none.
pub fn tar(content: &[u8]) -> Result<Members> {
    let mut members = Members::new();
    for entry in tar::Archive::new(content).entries()? {
        let mut entry = entry?;
        if !entry.header().entry_type().is_file() {
            continue;
        }
        let (path, mode) = (entry.path()?.to_string_lossy().into_owned(), entry.header().mode()?);
        members.insert(path, Member { mode, content: whole(&mut entry)? });
    }
    Ok(members)
}

fn zip(content: &[u8]) -> Result<Members> {
    let mut archive = zip::ZipArchive::new(Cursor::new(content))?;
    let mut members = Members::new();
    for at in 0..archive.len() {
        let mut file = archive.by_index(at)?;
        let (path, mode) = (file.name()?.into_owned(), file.unix_mode().unwrap_or_default());
        members.insert(path, Member { mode: mode & 0o777, content: whole(&mut file)? });
    }
    Ok(members)
}

/// A Debian package: its control archive and its data.
///
/// # Errors
/// It is none.
pub fn deb(content: &[u8]) -> Result<(Members, Members)> {
    let mut package = ar::Archive::new(content);
    let (mut control, mut data) = (None, None);
    while let Some(member) = package.next_entry() {
        let mut member = member?;
        let name = String::from_utf8_lossy(member.header().identifier()).into_owned();
        let content = whole(&mut member)?;
        match name.as_str() {
            "control.tar.gz" => control = Some(tar_gz(&content)?),
            "data.tar.gz" => data = Some(tar_gz(&content)?),
            _ => {}
        }
    }
    Ok((control.context("no control.tar.gz in it")?, data.context("no data.tar.gz in it")?))
}

fn whole(reader: &mut impl Read) -> Result<Vec<u8>> {
    let mut content = Vec::new();
    reader.read_to_end(&mut content)?;
    Ok(content)
}
