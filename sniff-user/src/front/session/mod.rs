//! A client at the other end of stdin and stdout: its frames are read here, and what it is told goes out between packets.

mod link;
mod packets;
mod stdout;

use std::{
    io::{self, Read as _},
    sync::{Arc, OnceLock},
    thread,
};

use anyhow::Result;
use sniff_output::Sink;
use sniff_protocol::{Broken, Decoder, Frame as _, Payload, ToNode, request::Compress};

use self::{packets::Frames, stdout::Stdout};
use crate::{
    bpf::ring::Gauge,
    halves::{
        Board,
        link::{Receiver, Sender},
        message::{FromFront, Heard, Tell},
    },
};

/// Bytes read at a time.
const READ_BYTES: usize = 64 << 10;

/// The way to the client.
pub(super) struct Client(Stdout);

impl Client {
    /// Reads what the client says, and writes what it is told, each on a thread of its own. `news` hears of each message that
    /// is out.
    ///
    /// # Errors
    ///
    /// When the system has no thread or descriptor left.
    pub(super) fn attend(
        (told, said): (Receiver, Sender),
        news: Arc<Sender>,
        board: &'static Board,
    ) -> Result<Self> {
        let stdout = Stdout::new(board)?;
        thread::Builder::new().name("input".to_owned()).spawn(move || listen(&said))?;
        let out = stdout.clone();
        thread::Builder::new().name("control".to_owned()).spawn(move || tell(told, &out, &news))?;
        Ok(Self(stdout))
    }

    /// Where packets go.
    ///
    /// # Errors
    ///
    /// When there is no memory for a compressor.
    pub(super) fn packets(
        &self,
        gauge: Arc<OnceLock<Arc<Gauge>>>,
        compress: Compress,
    ) -> io::Result<Box<dyn Sink>> {
        Ok(Box::new(Frames::new(self.0.clone(), gauge, compress)?))
    }
}

/// Passes on what the client says, frame by frame.
fn listen(said: &Sender) {
    let last = match read(|message| said.send(&message, &[])) {
        Ok(()) => Heard::Closed,
        Err(broken) => Heard::Broken(broken),
    };
    // The other half may have ended.
    let _ = said.send(&last, &[]);
}

fn read(mut take: impl FnMut(Heard) -> io::Result<()>) -> Result<(), Broken> {
    let mut decoder = Decoder::<ToNode>::new();
    let mut buffer = vec![0; READ_BYTES];
    let mut stdin = io::stdin().lock();
    loop {
        while let Some(message) = decoder.next()? {
            let (kind, payload) = message.payload();
            let payload = match payload {
                Payload::Json(json) => json,
                Payload::Packets(packets) => packets.to_vec(),
                Payload::Empty => Vec::new(),
            };
            if take(Heard::Said(kind, payload)).is_err() {
                return Ok(());
            }
        }
        match stdin.read(&mut buffer) {
            Ok(0) => break,
            Ok(len) => decoder.push(&buffer[..len]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            // As good as closed.
            Err(_) => break,
        }
    }
    match decoder.finish() {
        // A pipe that breaks in the middle of a frame was closed, too; only what never was a client is worth words.
        Err(broken @ Broken::Foreign(_)) => Err(broken),
        _ => Ok(()),
    }
}

/// Writes what the client is told.
fn tell(mut told: Receiver, stdout: &Stdout, news: &Sender) {
    while let Ok(Some(Tell(frame))) = told.next() {
        let is_out = stdout.write(&frame, &[]).and_then(|()| news.send(&FromFront::Told, &[]));
        if is_out.is_err() {
            // So the other half finds out that nobody reads.
            return told.close();
        }
    }
}
