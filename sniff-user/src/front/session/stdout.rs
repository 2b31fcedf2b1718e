//! What goes to the client: stdout, shared by the thread that writes messages and the one that passes packets on.

use std::{
    fs::File,
    io::{self, Write as _},
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use nix::fcntl::{FcntlArg, fcntl};

use crate::halves::Board;

/// Bytes that the pipe is to hold. Writer and reader each lock it while they copy: with room for several regions they
/// seldom meet there.
const PIPE: i32 = 1 << 20;
/// Bytes that are written at once: about a region.
const PIECE: usize = 256 << 10;
/// As many when the reader is slow: so it shows that they move.
const SMALL_PIECE: usize = 16 << 10;
/// A piece that took longer has a slow reader.
const SLOW: Duration = Duration::from_millis(100);

/// Stdout, one whole frame at a time.
#[derive(Clone)]
pub(super) struct Stdout {
    file: Arc<Mutex<Pieces>>,
    /// Held while waiting for the file: whoever has just had it is behind whoever waits.
    turn: Arc<Mutex<()>>,
    board: &'static Board,
    /// The same pipe, for whoever does not write.
    reader: Arc<OwnedFd>,
}

impl Stdout {
    /// That of this process.
    ///
    /// # Errors
    ///
    /// When the system has no descriptor left.
    pub(super) fn new(board: &'static Board) -> io::Result<Self> {
        let stdout = io::stdout();
        let file = File::from(stdout.as_fd().try_clone_to_owned()?);
        let reader = Arc::new(stdout.as_fd().try_clone_to_owned()?);
        Ok(Self { file: Arc::new(Mutex::new(Pieces::new(file))), turn: Arc::default(), board, reader })
    }

    /// Writes a whole frame.
    pub(super) fn write(&self, header: &[u8], payload: &[u8]) -> io::Result<()> {
        let turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        drop(turn);
        file.write(header, self.board)?;
        file.write(payload, self.board)
    }

    /// As [`Self::write`], for packets; returns for how long they were held up. `lost` is how many were lost so far.
    pub(super) fn write_packets(
        &self,
        header: &[u8],
        payload: &[u8],
        lost: impl Fn() -> u64,
    ) -> io::Result<Duration> {
        let start = Instant::now();
        self.board.hold_up(lost());
        let result = self.write(header, payload);
        self.board.let_go(lost());
        result.map(|()| start.elapsed())
    }

    /// The descriptor that tells when nobody reads any more.
    pub(super) fn reader(&self) -> BorrowedFd<'_> {
        self.reader.as_fd()
    }
}

/// A file that is written to in pieces.
struct Pieces {
    file: File,
    /// Bytes of the next piece.
    len: usize,
}

impl Pieces {
    fn new(file: File) -> Self {
        // Stdout may be no pipe, or its user may have all the pages that he may have: it works as it is.
        let _ = fcntl(&file, FcntlArg::F_SETPIPE_SZ(PIPE));
        Self { file, len: PIECE }
    }

    /// Writes it all, and notes what is out.
    fn write(&mut self, mut bytes: &[u8], board: &Board) -> io::Result<()> {
        while !bytes.is_empty() {
            let (piece, rest) = bytes.split_at(self.len.min(bytes.len()));
            let start = Instant::now();
            self.file.write_all(piece)?;
            self.len = if start.elapsed() > SLOW { SMALL_PIECE } else { PIECE };
            board.move_on(piece.len() as u64);
            bytes = rest;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Seek as _};

    use super::*;

    #[test]
    fn a_pipe_has_room_for_regions_and_what_is_no_pipe_is_written_to_as_it_is() {
        let bytes: Vec<u8> = (0..600_000).map(|at| (at % 251) as u8).collect();
        let board = Board::default();
        let (mut reader, writer) = io::pipe().unwrap();
        let mut pieces = Pieces::new(File::from(OwnedFd::from(writer)));
        assert!(fcntl(&pieces.file, FcntlArg::F_GETPIPE_SZ).unwrap() >= PIPE);
        pieces.write(&bytes, &board).unwrap();
        drop(pieces);
        let mut read = Vec::new();
        reader.read_to_end(&mut read).unwrap();
        assert!(read == bytes);

        let mut file = tempfile::tempfile().unwrap();
        Pieces::new(file.try_clone().unwrap()).write(&bytes, &board).unwrap();
        read.clear();
        file.rewind().unwrap();
        file.read_to_end(&mut read).unwrap();
        assert!(read == bytes);
        assert_eq!(board.moved(), 2 * bytes.len() as u64);
    }
}
