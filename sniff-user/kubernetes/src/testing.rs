//! An API server for tests: answers plain HTTP on loopback from a table.

use kube::Config;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use crate::{Cluster, cluster::TIMEOUT};

/// What to answer: `(start of the path with its query, status, body)`.
pub type Answer = (&'static str, u16, String);

/// A client of a server that gives these answers, and 404 otherwise.
pub async fn serving(answers: Vec<Answer>) -> Cluster {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a server for tests");
    let address = listener.local_addr().expect("a server for tests");
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.expect("a server for tests");
            answer(stream, &answers).await;
        }
    });
    client_of(&format!("http://{address}"))
}

pub(crate) fn client_of(url: &str) -> Cluster {
    Cluster::new(Config::new(url.parse().expect("a server for tests")), TIMEOUT).expect("a server for tests")
}

async fn answer(mut stream: TcpStream, answers: &[Answer]) {
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        request.push(stream.read_u8().await.expect("a server for tests"));
    }
    let request = String::from_utf8(request).expect("a server for tests");
    let path = request.strip_prefix("GET ").expect("only reads are allowed");
    let answer = answers.iter().find(|(prefix, ..)| path.starts_with(prefix));
    let not_found = r#"{"kind":"Status","code":404,"reason":"NotFound","message":"not found"}"#;
    let (status, body) = answer.map_or((404, not_found), |(_, status, body)| (*status, body));
    let len = body.len();
    let response = format!(
        "HTTP/1.1 {status} X\r\ncontent-type: application/json\r\ncontent-length: {len}\r\n\
         connection: close\r\n\r\n{body}"
    );
    stream.write_all(response.as_bytes()).await.expect("a server for tests");
}
