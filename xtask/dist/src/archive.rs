//! Archives that are the same whenever they are made, and digests.

use std::{
    fs,
    io::{self, Cursor, Read as _, Write as _},
    path::Path,
};

use anyhow::{Context as _, Result};
use flate2::{Compression, read::GzDecoder, write::GzEncoder};
use md5::Md5;
use sha2::{Digest, Sha256};
use zip::{DateTime, ZipWriter, write::SimpleFileOptions};

/// An archive in memory. Entries stay in the order that they are added in.
pub struct Archive {
    builder: tar::Builder<Vec<u8>>,
    date: u64,
}

impl Archive {
    /// An empty one, of files that are as old as can be.
    pub fn new() -> Self {
        Self::dated(0)
    }

    /// An empty one, of files that are of this time, in seconds since 1970.
    pub fn dated(date: u64) -> Self {
        Self { builder: tar::Builder::new(Vec::new()), date }
    }

    /// Adds a folder.
    ///
    /// # Errors
    /// The path does not fit.
    pub fn folder(&mut self, path: &str, mode: u32) -> Result<()> {
        let mut header = self.header(tar::EntryType::Directory, mode, 0);
        self.builder
            .append_data(&mut header, format!("{path}/"), io::empty())
            .with_context(|| path.to_owned())
    }

    /// Adds a file.
    ///
    /// # Errors
    /// The path does not fit.
    pub fn file(&mut self, path: &str, mode: u32, content: &[u8]) -> Result<()> {
        let mut header = self.header(tar::EntryType::Regular, mode, content.len() as u64);
        self.builder.append_data(&mut header, path, content).with_context(|| path.to_owned())
    }

    /// Adds a copy of a file.
    ///
    /// # Errors
    /// It cannot be read, or the path does not fit.
    pub fn copy(&mut self, path: &str, mode: u32, from: &Path) -> Result<()> {
        self.file(path, mode, &fs::read(from).with_context(|| format!("cannot read {}", from.display()))?)
    }

    /// The archive's bytes.
    ///
    /// # Errors
    /// Never: it is in memory.
    pub fn finish(self) -> Result<Vec<u8>> {
        Ok(self.builder.into_inner()?)
    }

    /// Owned by root.
    fn header(&self, kind: tar::EntryType, mode: u32, size: u64) -> tar::Header {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_size(size);
        header.set_mtime(self.date);
        header.set_uid(0);
        header.set_gid(0);
        header
    }
}

/// A file to be packed: its path in the archive, its mode, and what is in it.
pub type Entry = (String, u32, Vec<u8>);

/// A tar archive, compressed.
///
/// # Errors
/// A path does not fit.
pub fn tar_gz(entries: &[Entry]) -> Result<Vec<u8>> {
    let mut archive = Archive::new();
    for (path, mode, content) in entries {
        archive.file(path, *mode, content)?;
    }
    gzip(&archive.finish()?)
}

/// A ZIP archive, as Windows opens them. The time of all that is in it is the oldest that there is.
///
/// # Errors
/// A path does not fit.
pub fn zip(entries: &[Entry]) -> Result<Vec<u8>> {
    let mut archive = ZipWriter::new(Cursor::new(Vec::new()));
    for (path, mode, content) in entries {
        let options =
            SimpleFileOptions::DEFAULT.unix_permissions(*mode).last_modified_time(DateTime::DEFAULT);
        archive.start_file(path.as_str(), options).with_context(|| path.clone())?;
        archive.write_all(content)?;
    }
    Ok(archive.finish()?.into_inner())
}

/// Compressed as gzip does, without a name and a time.
///
/// # Errors
/// Never: it is in memory.
pub fn gzip(bytes: &[u8]) -> Result<Vec<u8>> {
    gzip_at(Compression::default(), bytes)
}

/// Compressed as `gzip --best --no-name` does.
///
/// # Errors
/// Never: it is in memory.
pub fn gzip_best(bytes: &[u8]) -> Result<Vec<u8>> {
    gzip_at(Compression::best(), bytes)
}

fn gzip_at(level: Compression, bytes: &[u8]) -> Result<Vec<u8>> {
    let mut encoder = GzEncoder::new(Vec::new(), level);
    encoder.write_all(bytes)?;
    Ok(encoder.finish()?)
}

/// What was compressed by gzip.
///
/// # Errors
/// It is broken.
pub fn gunzip(content: &[u8]) -> Result<Vec<u8>> {
    let mut unpacked = Vec::new();
    GzDecoder::new(content).read_to_end(&mut unpacked)?;
    Ok(unpacked)
}

/// SHA-256 in hexadecimal digits.
pub fn sha256(bytes: &[u8]) -> String {
    digits::<Sha256>(bytes)
}

/// MD5 in hexadecimal digits.
pub fn md5(bytes: &[u8]) -> String {
    digits::<Md5>(bytes)
}

fn digits<D: Digest>(bytes: &[u8]) -> String {
    D::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// All folders that files are in, and these others, which may have nothing in them: each before what is in it. The one that
/// all are in has no name.
pub fn folders<'a>(files: impl Iterator<Item = &'a str>, others: &'a [&'a str]) -> Vec<&'a Path> {
    let of_files = files.flat_map(|file| Path::new(file).ancestors().skip(1));
    let others = others.iter().flat_map(|folder| Path::new(folder).ancestors());
    let mut folders: Vec<_> = of_files.chain(others).collect();
    folders.sort();
    folders.dedup();
    folders
}
