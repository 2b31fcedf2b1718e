//! `/metrics` and `/healthz`, for a monitoring system that asks now and then. As much of HTTP/1.1 (RFC 9112) as that
//! takes: one GET without a body a connection. A whole server would be most of the agent's memory.

use std::{collections::VecDeque, io, sync::Arc, time::Duration};

use log::debug;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    task::AbortHandle,
    time::{sleep, timeout},
};

use super::{Shared, lock};

/// Longest that a connection may last.
const PATIENCE: Duration = Duration::from_secs(5);
/// Most connections at a time. One more takes the place of the oldest: whoever is silent holds nobody up.
const MAX_CONNECTIONS: usize = 16;
/// Most bytes of a request.
const MAX_REQUEST: usize = 8 << 10;

/// Answers connections, of which few are open at a time.
pub(super) async fn serve(listener: TcpListener, ledger: Shared) {
    let mut open: VecDeque<AbortHandle> = VecDeque::new();
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => {
                open.retain(|connection| !connection.is_finished());
                if open.len() == MAX_CONNECTIONS {
                    let _ = open.pop_front().as_ref().map(AbortHandle::abort);
                }
                let ledger = Arc::clone(&ledger);
                let connection = tokio::spawn(async move {
                    if !matches!(timeout(PATIENCE, answer(stream, &ledger)).await, Ok(Ok(()))) {
                        debug!("the HTTP request of {peer} came to nothing");
                    }
                });
                open.push_back(connection.abort_handle());
            }
            // Out of descriptors, say; that passes.
            Err(_) => sleep(Duration::from_secs(1)).await,
        }
    }
}

async fn answer(mut stream: TcpStream, ledger: &Shared) -> io::Result<()> {
    let mut request = Vec::new();
    while !request.windows(4).any(|end| end == b"\r\n\r\n") {
        let is_too_long = request.len() > MAX_REQUEST;
        if is_too_long || stream.read_buf(&mut request).await? == 0 {
            return Err(io::ErrorKind::InvalidData.into());
        }
    }
    let (status, kind, body) = respond(&request, || lock(ledger).metrics());
    let len = body.len();
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len}\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(body.as_bytes()).await?;
    stream.shutdown().await
}

/// Status, content type and body for a request.
fn respond(request: &[u8], metrics: impl FnOnce() -> String) -> (&'static str, &'static str, String) {
    const PLAIN: &str = "text/plain; charset=utf-8";
    let line = request.split(|&byte| byte == b'\r').next().unwrap_or_default();
    let mut words = line.split(|&byte| byte == b' ');
    let (method, target) = (words.next(), words.next().unwrap_or_default());
    let path = target.split(|&byte| byte == b'?').next().unwrap_or_default();
    match (method, path) {
        (Some(b"GET"), b"/healthz") => ("200 OK", PLAIN, "ok\n".to_owned()),
        (Some(b"GET"), b"/metrics") => ("200 OK", "text/plain; version=0.0.4; charset=utf-8", metrics()),
        (Some(b"GET"), _) => ("404 Not Found", PLAIN, "there are /metrics and /healthz\n".to_owned()),
        _ => ("405 Method Not Allowed", PLAIN, "there is only GET\n".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(request: &str) -> &'static str {
        respond(request.as_bytes(), String::new).0
    }

    #[test]
    fn paths_are_told_apart() {
        assert_eq!(status("GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n"), "200 OK");
        assert_eq!(status("GET /metrics?x=1 HTTP/1.1\r\n\r\n"), "200 OK");
        assert_eq!(status("GET /metrics/ HTTP/1.1\r\n\r\n"), "404 Not Found");
        assert_eq!(status("POST /metrics HTTP/1.1\r\n\r\n"), "405 Method Not Allowed");
        for odd in ["\r\n\r\n", " \r\n\r\n", "GET\r\n\r\n", "\u{0}\r\n\r\n"] {
            assert_ne!(status(odd), "200 OK", "{odd:?}");
        }
    }
}
