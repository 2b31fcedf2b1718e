//! Outputs as they are named on a command line.

use std::{ffi::OsString, path::PathBuf};

use anyhow::Result;

use crate::{Both, Sink, file::Pcapng, lines::Lines};

/// What was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// pcapng; and lines on standard output if `print`.
    Pcapng {
        /// Where to.
        to: To,
        /// Whether lines are printed too.
        print: bool,
    },
    /// Lines on standard output.
    Lines,
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
    /// As `--write` and `--print` say; lines without either.
    pub fn of(write: Option<To>, print: bool) -> Self {
        write.map_or(Self::Lines, |to| Self::Pcapng { to, print })
    }

    /// Opens it. A file that is there is emptied.
    ///
    /// # Errors
    ///
    /// When a file cannot be made, or pcapng would go to a terminal.
    pub fn open(&self) -> Result<Box<dyn Sink>> {
        let (to, print) = match self {
            Self::Lines => return Ok(Box::new(Lines::new())),
            Self::Pcapng { to, print } => (to, print),
        };
        let pcapng = match to {
            To::StandardOutput => Pcapng::standard_output()?,
            To::File(path) => Pcapng::create(path)?,
        };
        Ok(if *print { Box::new(Both::new(pcapng, Lines::new())) } else { Box::new(pcapng) })
    }
}
