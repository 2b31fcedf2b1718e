//! `/metrics` and `/healthz`, for a monitoring system that asks now and then, and where alerts are posted by one that tells of
//! them: one request a connection.

use std::{convert::Infallible, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header::CONTENT_TYPE};
use http_body_util::Full;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use log::debug;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpListener,
};

use super::{
    Metrics, crowd,
    recordings::webhook::{PATH as ALERTS, Webhook},
};

/// Longest that a connection may last.
const PATIENCE: Duration = Duration::from_secs(5);
/// Most bytes of a request that are held, but for alerts.
const MAX_REQUEST: usize = 8 << 10;

/// Answers connections, of which few are open at a time. Alerts are taken where something is recorded.
pub(super) async fn serve(listener: TcpListener, metrics: Metrics, alerts: Option<Arc<Webhook>>) {
    let attend = |stream, peer| {
        let (metrics, alerts) = (Arc::clone(&metrics), alerts.clone());
        async move {
            if answer(stream, &metrics, alerts.as_deref()).await.is_err() {
                debug!("the HTTP request of {peer} came to nothing");
            }
        }
    };
    crowd::attend(listener, PATIENCE, attend).await;
}

async fn answer(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    metrics: &Metrics,
    alerts: Option<&Webhook>,
) -> hyper::Result<()> {
    let respond = service_fn(async |request| Ok::<_, Infallible>(respond(request, metrics, alerts).await));
    let mut connection = http1::Builder::new();
    connection.half_close(true).keep_alive(false).max_buf_size(MAX_REQUEST);
    connection.serve_connection(TokioIo::new(stream), respond).await
}

async fn respond(
    request: Request<Incoming>,
    metrics: &Metrics,
    alerts: Option<&Webhook>,
) -> Response<Full<Bytes>> {
    const PLAIN: &str = "text/plain; charset=utf-8";
    let plain = |status, text: &str| (status, PLAIN, text.to_owned());
    let (status, kind, body) = match (request.method(), request.uri().path(), alerts) {
        (&Method::GET, "/healthz", _) => plain(StatusCode::OK, "ok\n"),
        (&Method::GET, "/metrics", _) => {
            (StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", metrics())
        }
        (&Method::POST, ALERTS, Some(alerts)) => {
            let (status, body) = alerts.answer(request).await;
            (status, if status.is_success() { "application/json" } else { PLAIN }, body)
        }
        (&Method::POST, ALERTS, None) => plain(
            StatusCode::NOT_FOUND,
            "alerts are not taken here: nothing is recorded, or they are no triggers\n",
        ),
        (&Method::GET, ..) => plain(StatusCode::NOT_FOUND, "there are /metrics and /healthz\n"),
        _ => plain(StatusCode::METHOD_NOT_ALLOWED, "there is only GET\n"),
    };
    let mut response = Response::new(Full::from(body));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use bytesize::ByteSize;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};

    use super::*;
    use crate::agent::{Limits, ledger::Ledger, recordings::webhook::Fate};

    /// What comes back for what is sent, until the connection is closed.
    async fn ask(request: &str) -> String {
        ask_with(None, request).await
    }

    async fn ask_with(alerts: Option<&Webhook>, request: &str) -> String {
        let limits = Limits {
            max_sessions: 1,
            max_memory: ByteSize::mib(1),
            max_bytes: None,
            max_duration: Duration::from_secs(1),
        };
        let ledger = Ledger::new(limits);
        let metrics: Metrics = Arc::new(move || ledger.metrics());
        let (mut client, agent) = duplex(1 << 20);
        client.write_all(request.as_bytes()).await.unwrap();
        client.shutdown().await.unwrap();
        let _ = answer(agent, &metrics, alerts).await;
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
    async fn alerts_are_posted_where_something_is_recorded() {
        let body =
            r#"{"version":"4","alerts":[{"status":"firing","labels":{"namespace":"shop","pod":"web"}}]}"#;
        let post =
            |body: &str| format!("POST /alerts HTTP/1.1\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        assert!(ask(&post(body)).await.starts_with("HTTP/1.1 404 "));
        let alerts = Webhook::new(Ipv4Addr::LOCALHOST.into(), None, |_| Fate::Saves);
        let response = ask_with(Some(&alerts), &post(body)).await;
        assert!(response.starts_with("HTTP/1.1 200 ") && response.contains("{\"saves\":1,"), "{response}");
        // More than is held of other requests, and more than is taken.
        let long = format!("{}{body}", " ".repeat(200 << 10));
        let response = ask_with(Some(&alerts), &post(&long)).await;
        assert!(response.starts_with("HTTP/1.1 200 "), "{response}");
        let response = ask_with(Some(&alerts), &post(&" ".repeat(300 << 10))).await;
        assert!(response.starts_with("HTTP/1.1 413 "), "{response}");
        let response = ask_with(Some(&alerts), "GET /alerts HTTP/1.1\r\n\r\n").await;
        assert!(response.starts_with("HTTP/1.1 404 "), "{response}");
        assert_eq!(alerts.counts().saves, 2);
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
