//! One open file or pipe.

#[cfg(unix)]
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
#[cfg(windows)]
use std::os::windows::io::{AsHandle as _, OwnedHandle};
use std::{
    fs::File,
    io::{self, IsTerminal as _, Seek as _, SeekFrom, Write as _},
};

use anyhow::{Result, ensure};

use super::files::Made;

/// A file or pipe, and what is in it.
pub(super) struct Place {
    file: File,
    pub(super) name: String,
    /// Whether nobody else writes to it: what is in a pipe cannot be taken back.
    is_ours: bool,
    /// Bytes that were written, all of them whole.
    pub(super) written: u64,
}

impl Place {
    /// What was made, or is there, and is ours.
    pub(super) fn of(made: Made) -> Result<Self> {
        Self::to(made.file, made.name, true)
    }

    /// Standard output, of which others may write to the same file.
    pub(super) fn standard_output() -> Result<Self> {
        #[cfg(unix)]
        let file = io::stdout().as_fd().try_clone_to_owned()?;
        #[cfg(windows)]
        let file = io::stdout().as_handle().try_clone_to_owned()?;
        Self::to(file.into(), "standard output".to_owned(), false)
    }

    /// The pipe to a program's standard input.
    #[cfg(unix)]
    pub(super) fn pipe(to: OwnedFd, program: String) -> Self {
        Self { file: to.into(), name: program, is_ours: false, written: 0 }
    }

    /// The pipe to a program's standard input.
    #[cfg(windows)]
    pub(super) fn pipe(to: OwnedHandle, program: String) -> Self {
        Self { file: to.into(), name: program, is_ours: false, written: 0 }
    }

    fn to(file: File, name: String, is_ours: bool) -> Result<Self> {
        ensure!(
            !file.is_terminal(),
            "packets are not for a terminal: write to a file or a pipe, as in `-w - | wireshark -k -i -`"
        );
        Ok(Self { file, name, is_ours, written: 0 })
    }

    /// Whether it is a file, and no pipe or device.
    pub(super) fn is_file(&self) -> bool {
        self.file.metadata().is_ok_and(|metadata| metadata.is_file())
    }

    /// As `write_all`, and tells how far it came.
    pub(super) fn write(&mut self, bytes: &[u8]) -> (usize, io::Result<()>) {
        let mut done = 0;
        while done < bytes.len() {
            match self.file.write(&bytes[done..]) {
                Ok(0) => return (done, Err(io::ErrorKind::WriteZero.into())),
                Ok(n) => done += n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return (done, Err(error)),
            }
        }
        (done, Ok(()))
    }

    /// Ends the file behind what is whole, if it is ours.
    pub(super) fn cut(&mut self) {
        if self.is_ours {
            // If even that fails, the file is torn at its end, which readers report.
            let _ = self.file.set_len(self.written);
            let _ = self.file.seek(SeekFrom::Start(self.written));
        }
    }

    #[cfg(unix)]
    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}
