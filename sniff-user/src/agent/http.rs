//! `/metrics` and `/healthz`, for a monitoring system that asks now and then: one request a connection.

use std::{convert::Infallible, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header::CONTENT_TYPE};
use http_body_util::Full;
use hyper::{server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use log::debug;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpListener,
};

use super::{Shared, crowd, lock};

/// Longest that a connection may last.
const PATIENCE: Duration = Duration::from_secs(5);
/// Most bytes of a request that are held.
const MAX_REQUEST: usize = 8 << 10;

/// Answers connections, of which few are open at a time.
pub(super) async fn serve(listener: TcpListener, ledger: Shared) {
    let attend = |stream, peer| {
        let ledger = Arc::clone(&ledger);
        async move {
            if answer(stream, &ledger).await.is_err() {
                debug!("the HTTP request of {peer} came to nothing");
            }
        }
    };
    crowd::attend(listener, PATIENCE, attend).await;
}

async fn answer(stream: impl AsyncRead + AsyncWrite + Unpin, ledger: &Shared) -> hyper::Result<()> {
    let respond =
        service_fn(async |request| Ok::<_, Infallible>(respond(&request, || lock(ledger).metrics())));
    let mut connection = http1::Builder::new();
    connection.half_close(true).keep_alive(false).max_buf_size(MAX_REQUEST);
    connection.serve_connection(TokioIo::new(stream), respond).await
}

fn respond<B>(request: &Request<B>, metrics: impl FnOnce() -> String) -> Response<Full<Bytes>> {
    const PLAIN: &str = "text/plain; charset=utf-8";
    let (status, kind, body) = match (request.method(), request.uri().path()) {
        (&Method::GET, "/healthz") => (StatusCode::OK, PLAIN, "ok\n".to_owned()),
        (&Method::GET, "/metrics") => (StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", metrics()),
        (&Method::GET, _) => (StatusCode::NOT_FOUND, PLAIN, "there are /metrics and /healthz\n".to_owned()),
        _ => (StatusCode::METHOD_NOT_ALLOWED, PLAIN, "there is only GET\n".to_owned()),
    };
    let mut response = Response::new(Full::from(body));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use bytesize::ByteSize;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};

    use super::*;
    use crate::agent::{Limits, ledger::Ledger};

    /// What comes back for what is sent, until the connection is closed.
    async fn ask(request: &str) -> String {
        let limits = Limits {
            max_sessions: 1,
            max_memory: ByteSize::mib(1),
            max_bytes: None,
            max_duration: Duration::from_secs(1),
        };
        let ledger: Shared = Arc::new(Mutex::new(Ledger::new(limits)));
        let (mut client, agent) = duplex(1 << 20);
        client.write_all(request.as_bytes()).await.unwrap();
        client.shutdown().await.unwrap();
        let _ = answer(agent, &ledger).await;
        let mut response = String::new();
        client.read_to_string(&mut response).await.unwrap();
        response
    }

    #[tokio::test]
    async fn paths_and_methods_are_told_apart() {
        for (request, status) in [
            ("GET /healthz HTTP/1.1\r\nHost: a", "200"),
            ("GET /metrics?x=1 HTTP/1.0", "200"),
            ("GET /metrics/ HTTP/1.1", "404"),
            ("POST /metrics HTTP/1.1", "405"),
        ] {
            let response = ask(&format!("{request}\r\n\r\n")).await;
            assert!(
                response.starts_with("HTTP/1.") && response[8..].starts_with(&format!(" {status} ")),
                "{response}"
            );
        }
    }

    #[tokio::test]
    async fn a_connection_has_one_request_of_limited_length() {
        let twice = "GET /healthz HTTP/1.1\r\n\r\n".repeat(2);
        assert_eq!(ask(&twice).await.matches("HTTP/1.1 200 ").count(), 1);
        for odd in ["\r\n\r\n", " \r\n\r\n", "GET\r\n\r\n", "\u{0}\r\n\r\n"] {
            assert!(!ask(odd).await.contains(" 200 "), "{odd:?}");
        }
        let long = format!("GET /healthz HTTP/1.1\r\nX: {}\r\n\r\n", "x".repeat(MAX_REQUEST));
        assert!(ask(&long).await.starts_with("HTTP/1.1 431 "));
    }
}
