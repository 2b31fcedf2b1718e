//! Outputs as they are named on a command line.

#[cfg(unix)]
use std::os::fd::BorrowedFd;
use std::{ffi::OsString, io, path::PathBuf};

use anyhow::Result;
use sniff_pcapng::InterfaceDescription;

use crate::{
    Both, Sink,
    file::{CaptureFile, Files, Format, Manner, NamedFiles},
    lines::{Lines, Style},
};

/// What was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Destination {
    /// A capture file, or several; and lines on standard output if `print` says how.
    File {
        /// Where to.
        to: To,
        /// How.
        manner: Manner,
        /// How lines are printed too.
        print: Option<Style>,
    },
    /// Lines on standard output.
    Lines(Style),
    /// Nowhere: what comes is counted as not written.
    Nowhere,
}

/// Where packets are to go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum To {
    /// Standard output, called `-`.
    StandardOutput,
    /// A file, FIFO or device.
    File(PathBuf),
}

impl To {
    /// What makes the files there; `None` where there are none to be made.
    pub(crate) fn files(&self, manner: &Manner) -> Option<Box<dyn Files>> {
        match self {
            Self::StandardOutput => None,
            Self::File(path) => Some(Box::new(NamedFiles::new(path.clone(), manner.rotation.clone()))),
        }
    }
}

impl From<OsString> for To {
    fn from(name: OsString) -> Self {
        if name == "-" { Self::StandardOutput } else { Self::File(name.into()) }
    }
}

impl Destination {
    /// As `--write` and `--print` say; lines of a style without either.
    pub fn of(write: Option<To>, manner: Manner, print: bool, style: Style) -> Self {
        match write {
            None => Self::Lines(style),
            Some(to) => Self::File { to, manner, print: print.then_some(style) },
        }
    }

    /// Whether it has packets of one link type only.
    pub fn has_one_link_type(&self) -> bool {
        matches!(self, Self::File { to, manner, .. } if manner.of(to).0 == Format::Pcap)
    }

    /// Opens it. A file that is there is emptied.
    ///
    /// # Errors
    ///
    /// When a file cannot be made, or packets would go to a terminal.
    pub fn open(&self) -> Result<Box<dyn Sink>> {
        self.prepare().open(self.files())
    }

    /// What makes its files; `None` where there are none.
    pub fn files(&self) -> Option<Box<dyn Files>> {
        match self {
            Self::File { to, manner, .. } => to.files(manner),
            Self::Lines(_) | Self::Nowhere => None,
        }
    }

    /// Reads what it takes to print lines.
    pub fn prepare(&self) -> Prepared {
        match self.clone() {
            Self::Lines(style) => Prepared { file: None, lines: Some(Lines::new(style)) },
            Self::Nowhere => Prepared { file: None, lines: None },
            Self::File { to, manner, print } => {
                Prepared { file: Some((to, manner)), lines: print.map(Lines::new) }
            }
        }
    }
}

/// An output that is still to be opened.
pub struct Prepared {
    file: Option<(To, Manner)>,
    lines: Option<Lines>,
}

impl Prepared {
    /// Opens it, by what makes its files.
    ///
    /// # Errors
    ///
    /// As [`Destination::open`].
    pub fn open(self, files: Option<Box<dyn Files>>) -> Result<Box<dyn Sink>> {
        let Self { file, lines } = self;
        let file = file.map(|(to, manner)| CaptureFile::open(&to, &manner, files)).transpose()?;
        Ok(match (file, lines) {
            (Some(file), Some(lines)) => Box::new(Both::new(file, lines)),
            (Some(file), None) => Box::new(file),
            (None, Some(lines)) => Box::new(lines),
            (None, None) => Box::new(Nowhere),
        })
    }
}

/// Takes nothing.
struct Nowhere;

impl Sink for Nowhere {
    fn interface(&mut self, _description: &InterfaceDescription) {}

    fn write(&mut self, _blocks: &[u8]) -> (usize, io::Result<()>) {
        (0, Ok(()))
    }

    #[cfg(unix)]
    fn reader(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}
