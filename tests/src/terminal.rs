//! A terminal that a program writes to, and what came there.

use std::{
    fs::File,
    io::Read as _,
    process::Stdio,
    sync::{Arc, Mutex, PoisonError},
    thread::{self, JoinHandle},
    time::Duration,
};

use nix::pty::{Winsize, openpty};

use crate::wait;

/// How long something may take to come.
const PATIENCE: Duration = Duration::from_secs(20);

/// A terminal of 80 columns and 24 rows.
#[derive(Debug)]
pub struct Terminal {
    came: Arc<Mutex<String>>,
    /// Ends when nobody has the other end any more.
    reader: JoinHandle<()>,
}

impl Terminal {
    /// One, and the end that a program is to have.
    ///
    /// # Panics
    ///
    /// When the system has none left.
    pub fn open() -> (Self, Stdio) {
        let size = Winsize { ws_row: 24, ws_col: 80, ws_xpixel: 0, ws_ypixel: 0 };
        let pair = openpty(Some(&size), None).expect("a terminal");
        let came = Arc::<Mutex<String>>::default();
        let (mut screen, seen) = (File::from(pair.master), Arc::clone(&came));
        let reader = thread::spawn(move || {
            let mut bytes = [0; 4096];
            // It fails when the program has ended.
            while let Ok(len @ 1..) = screen.read(&mut bytes) {
                let text = String::from_utf8_lossy(&bytes[..len]);
                seen.lock().unwrap_or_else(PoisonError::into_inner).push_str(&text);
            }
        });
        (Self { came, reader }, pair.slave.into())
    }

    fn came(&self) -> String {
        self.came.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// All that came there of a program that is ending, with what moves the cursor.
    ///
    /// # Panics
    ///
    /// When it does not end.
    pub fn all(&self) -> String {
        wait::until("the end of a program on a terminal", PATIENCE, || {
            self.reader.is_finished().then(|| self.came())
        })
    }

    /// Waits until `text` has come.
    ///
    /// # Panics
    ///
    /// When it does not.
    pub fn wait_for(&self, text: &str) {
        wait::until(text, PATIENCE, || self.came().contains(text).then_some(()));
    }
}
