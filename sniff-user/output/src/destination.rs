//! Outputs as they are named on a command line.

use std::{ffi::OsString, path::PathBuf};

use anyhow::Result;

use crate::{
    Both, Sink,
    file::{CaptureFile, Format, Manner},
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
}

/// Where packets are to go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum To {
    /// Standard output, called `-`.
    StandardOutput,
    /// A file, FIFO or device.
    File(PathBuf),
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
        let (to, manner, print) = match self {
            Self::Lines(style) => return Ok(Box::new(Lines::new(style.clone()))),
            Self::File { to, manner, print } => (to, manner, print),
        };
        let file = CaptureFile::open(to, manner)?;
        Ok(match print {
            Some(style) => Box::new(Both::new(file, Lines::new(style.clone()))),
            None => Box::new(file),
        })
    }
}
