//! Outputs as they are named on a command line.

use std::{ffi::OsString, path::PathBuf};

use anyhow::Result;

use crate::{
    Both, Sink,
    file::Pcapng,
    lines::{Lines, Style},
};

/// What was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// pcapng; and lines on standard output if `print` says how.
    Pcapng {
        /// Where to.
        to: To,
        /// How lines are printed too.
        print: Option<Style>,
    },
    /// Lines on standard output.
    Lines(Style),
}

/// Where pcapng is to go.
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

impl Wanted {
    /// As `--write` and `--print` say; lines of a style without either.
    pub fn of(write: Option<To>, print: bool, style: Style) -> Self {
        match write {
            None => Self::Lines(style),
            Some(to) => Self::Pcapng { to, print: print.then_some(style) },
        }
    }

    /// Opens it. A file that is there is emptied.
    ///
    /// # Errors
    ///
    /// When a file cannot be made, or pcapng would go to a terminal.
    pub fn open(&self) -> Result<Box<dyn Sink>> {
        let (to, print) = match self {
            Self::Lines(style) => return Ok(Box::new(Lines::new(style.clone()))),
            Self::Pcapng { to, print } => (to, print),
        };
        let pcapng = match to {
            To::StandardOutput => Pcapng::standard_output()?,
            To::File(path) => Pcapng::create(path)?,
        };
        Ok(match print {
            Some(style) => Box::new(Both::new(pcapng, Lines::new(style.clone()))),
            None => Box::new(pcapng),
        })
    }
}
