//! Watches: what happens, as chunks of one line each.

use std::{io::Write as _, net::TcpStream};

use serde_json::{Value, json};

use crate::{
    http::{Refusal, refuse},
    router::Asked,
    shared::Shared,
};

/// Behind it, nothing of a watch comes.
const LAST_CHUNK: &[u8] = b"0\r\n\r\n";

/// What there is for a watch.
enum News {
    /// Up to this version.
    Events(u64, Vec<Value>),
    /// The server has forgotten where the watch was.
    Gone,
    /// The server is down.
    Down,
    /// The test is over.
    Over,
}

/// Tells what happens until the client goes away. Whether the connection goes on: a client asks the next thing on one that
/// it was not told will be closed.
pub(crate) fn watch(mut stream: &TcpStream, shared: &Shared, asked: &Asked) -> bool {
    let mut version = asked.parameter("resourceVersion").and_then(|it| it.parse().ok()).unwrap_or(0);
    if let Err(refusal) = begin(shared, asked, version) {
        return refuse(stream, &refusal);
    }
    let head = "HTTP/1.1 200 -\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n";
    if stream.write_all(head.as_bytes()).is_err() {
        return false;
    }
    loop {
        let (events, is_over) = match news(shared, version, asked) {
            News::Events(now, events) => {
                version = now;
                (events, false)
            }
            News::Gone => (vec![json!({"type": "ERROR", "object": gone().status()})], true),
            News::Over => {
                let _ = stream.write_all(LAST_CHUNK);
                return false;
            }
            News::Down => return false,
        };
        for event in events {
            let line = format!("{event}\n");
            if write!(stream, "{:x}\r\n{line}\r\n", line.len()).is_err() {
                return false;
            }
        }
        if is_over {
            return stream.write_all(LAST_CHUNK).is_ok();
        }
    }
}

fn begin(shared: &Shared, asked: &Asked, version: u64) -> Result<(), Refusal> {
    let mut state = shared.lock();
    state.log.push(format!("watch {} {}/", asked.resource, asked.namespace));
    state.check(asked.verb, asked)?;
    if state.objects.knows(version) { Ok(()) } else { Err(gone()) }
}

fn gone() -> Refusal {
    Refusal { code: 410, reason: "Expired", message: "too old resource version".to_owned() }
}

/// What there is to tell after `version`, once there is anything.
fn news(shared: &Shared, version: u64, asked: &Asked) -> News {
    let is_due =
        |state: &crate::shared::State| state.has_ended || state.is_down || state.objects.version() > version;
    let state = shared.wait_until(is_due);
    match () {
        () if state.is_down => News::Down,
        () if !state.objects.knows(version) => News::Gone,
        () if state.has_ended => News::Over,
        () => News::Events(state.objects.version(), state.objects.events_after(version, asked)),
    }
}
