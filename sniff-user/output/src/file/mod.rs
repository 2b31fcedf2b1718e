//! Packets to a file, a series of files, or a reader: how files are made, how they stay whole, and what can read them.

mod contents;
mod create;
mod files;
mod form;
mod place;
mod series;

#[cfg(unix)]
use std::os::fd::{BorrowedFd, OwnedFd};
#[cfg(windows)]
use std::os::windows::io::OwnedHandle;
use std::{io, path::Path};

use anyhow::{Context as _, Result, bail, ensure};
use log::{info, warn};
use sniff_pcapng::{InterfaceDescription, LinkType};

pub use self::{
    create::create,
    files::{Files, Made, NamedFiles},
};
use self::{form::Form, place::Place, series::Series};
pub use crate::format::{Format, Packing};
use crate::{Full, Sink, To, cannot_write, format::by_name, rotate::Rotation};

/// How packets are written to a file or pipe.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Manner {
    /// What the file is; its name says if it is not given, or else it is pcapng.
    pub format: Option<Format>,
    /// How it is compressed; its name says if it is not given.
    pub packing: Option<Packing>,
    /// When another file is begun.
    pub rotation: Rotation,
    /// Most bytes of all files together.
    pub max_bytes: Option<u64>,
}

impl Manner {
    /// What is to be written to a place: what was asked for, or what its name says.
    pub fn of(&self, to: &To) -> (Format, Option<Packing>) {
        let (format, packing) = match to {
            To::StandardOutput => (None, None),
            To::File(path) => by_name(path),
        };
        (self.format.or(format).unwrap_or_default(), self.packing.or(packing))
    }

    /// Says what a name does not tell, or a file has not.
    fn say_what_is_unexpected(&self, name: &str) {
        let path = Path::new(name);
        let (format, packing) = self.of(&To::File(path.to_owned()));
        let (said, is_said_packed) = by_name(path);
        if said.is_some_and(|said| said != format) || packing != is_said_packed {
            let packing = packing.map(|packing| format!(".{}", packing.ending())).unwrap_or_default();
            warn!(
                "{name} is written as .{}{packing}, as was asked for, which is not what its name says",
                format.ending()
            );
        }
    }
}

/// A capture file, a series of them, or a pipe.
pub struct CaptureFile {
    place: Place,
    form: Form,
    /// Of a file; whoever reads a pipe is there to say what it cannot read.
    link_types: Option<LinkTypes>,
    /// What limits and series take; without them, blocks are not looked at.
    series: Option<Series>,
    /// Where another file comes from.
    files: Option<Box<dyn Files>>,
}

impl CaptureFile {
    /// A file, which is emptied if it is there, or a series of them; or a pipe or device that is there. Its `files` are made
    /// by somebody else.
    ///
    /// # Errors
    ///
    /// When it cannot be written, is a terminal, or what was asked for does not go together.
    pub fn open(to: &To, manner: &Manner, files: Option<Box<dyn Files>>) -> Result<Self> {
        let (format, packing) = manner.of(to);
        let Manner { rotation, max_bytes, .. } = manner;
        rotation.check().map_err(anyhow::Error::msg)?;
        let series = (rotation.is_asked_for() || max_bytes.is_some())
            .then(|| Series::new(rotation.clone(), *max_bytes, packing.is_some()));
        let begun_ns = series.as_ref().map_or(0, Series::begun_ns);
        let (place, files) = match to {
            To::StandardOutput if rotation.is_asked_for() => {
                bail!("standard output cannot be followed by another file: name one with -w")
            }
            To::StandardOutput => (Place::standard_output()?, None),
            To::File(_) => {
                let mut files = files.context("nobody makes the file")?;
                let place = Place::of(files.next(begun_ns)?)?;
                manner.say_what_is_unexpected(&place.name);
                (place, Some(files))
            }
        };
        let is_file = place.is_file();
        ensure!(
            !rotation.is_asked_for() || is_file,
            "{} is no file: only a file can be followed by another",
            place.name
        );
        if format == Format::Pcap {
            info!(
                "{} is classic pcap: which pod a packet is of, its direction and what was lost are not in it; .pcapng has \
                 them",
                place.name
            );
        }
        let link_types = (is_file && format == Format::Pcapng).then(LinkTypes::default);
        Ok(Self { place, form: Form::new(format, packing), link_types, series, files })
    }

    /// pcapng into the pipe to a program's standard input.
    #[cfg(unix)]
    pub fn pipe(to: impl Into<OwnedFd>, program: String) -> Self {
        Self::to(Place::pipe(to.into(), program))
    }

    /// pcapng into the pipe to a program's standard input.
    #[cfg(windows)]
    pub fn pipe(to: impl Into<OwnedHandle>, program: String) -> Self {
        Self::to(Place::pipe(to.into(), program))
    }

    fn to(place: Place) -> Self {
        Self { place, form: Form::new(Format::Pcapng, None), link_types: None, series: None, files: None }
    }

    /// Writes blocks to the file that there is.
    fn append(&mut self, blocks: &[u8]) -> (usize, io::Result<()>) {
        let Self { place, form, .. } = self;
        let bytes = match form.of(blocks) {
            Ok(bytes) => bytes,
            Err(error) => return (0, Err(cannot_write(&place.name, &error))),
        };
        let (done, result) = place.write(&bytes);
        let (whole, there) = match &result {
            Ok(()) => (blocks.len(), done),
            Err(_) => form.whole(blocks, bytes.len(), done),
        };
        place.written += there as u64;
        if result.is_err() {
            place.cut();
        }
        (whole, result.map_err(|error| cannot_write(&place.name, &error)))
    }

    /// Writes blocks that are looked at one by one.
    fn append_in_series(&mut self, blocks: &[u8]) -> (usize, io::Result<()>) {
        let mut done = 0;
        while done < blocks.len() {
            let (written, result) = self.step(&blocks[done..]);
            done += written;
            if result.is_err() {
                return (done, result);
            }
        }
        (done, Ok(()))
    }

    /// Writes as many of the blocks as come next in one file, after what there is to be done in front of the first.
    fn step(&mut self, blocks: &[u8]) -> (usize, io::Result<()>) {
        let Some(series) = &mut self.series else { return self.append(blocks) };
        match series.next(blocks, &self.form, self.place.written) {
            series::Next::Run(len) => self.append(&blocks[..len]),
            series::Next::Instead(len, block) => {
                let (written, result) = self.append(&block);
                (if written == block.len() { len } else { 0 }, result)
            }
            series::Next::File(time_ns) => (0, self.begin_file(time_ns)),
            series::Next::Full => (0, Err(io::Error::other(Full))),
        }
    }

    /// Ends the file, and begins the next one, for a packet of this time.
    fn begin_file(&mut self, time_ns: u64) -> io::Result<()> {
        let Some(series) = &mut self.series else { return Ok(()) };
        let ending = series.ending();
        let begun_ns = series.follow(time_ns, self.place.written + ending.len() as u64);
        self.append(&ending).1?;
        let Some(files) = &mut self.files else { return Ok(()) };
        self.place = files.next(begun_ns).and_then(Place::of).map_err(io::Error::other)?;
        self.form.begin();
        let beginning = self.series.as_mut().map(Series::beginning).unwrap_or_default();
        let begun = self.append(&beginning).1;
        // A file without so much would be none.
        if let (Err(_), Some(files)) = (&begun, &mut self.files) {
            files.abandon();
        }
        begun
    }
}

impl Sink for CaptureFile {
    fn interface(&mut self, description: &InterfaceDescription) {
        if let Some(link_types) = &mut self.link_types {
            link_types.meet(description.link_type, &self.place.name);
        }
    }

    fn write(&mut self, blocks: &[u8]) -> (usize, io::Result<()>) {
        if self.series.is_some() { self.append_in_series(blocks) } else { self.append(blocks) }
    }

    #[cfg(unix)]
    fn reader(&self) -> Option<BorrowedFd<'_>> {
        Some(self.place.fd())
    }
}

impl Drop for CaptureFile {
    fn drop(&mut self) {
        // There is nobody left to tell.
        if let Ok(rest) = self.form.rest() {
            let _ = self.place.write(&rest);
        }
    }
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

#[cfg(test)]
#[cfg(unix)]
mod tests;
