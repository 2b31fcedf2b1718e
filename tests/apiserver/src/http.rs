//! Requests as they come over a connection, and answers as they go back.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::TcpStream,
};

use serde_json::{Value, json};

/// A request, not yet taken apart.
pub(crate) struct Request {
    /// The request line, and the header's.
    head: Vec<String>,
    /// JSON; null when there is none.
    pub(crate) body: Value,
}

/// Why something is refused.
pub(crate) struct Refusal {
    pub(crate) code: u16,
    pub(crate) reason: &'static str,
    pub(crate) message: String,
}

impl Request {
    /// The next request of a connection; `None` when it is over.
    pub(crate) fn read(reader: &mut BufReader<TcpStream>) -> Option<Self> {
        let mut head = Vec::new();
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line).ok()? == 0 {
                return None;
            }
            match line.trim_end() {
                "" if head.is_empty() => return None,
                "" => break,
                line => head.push(line.to_owned()),
            }
        }
        let mut request = Self { head, body: Value::Null };
        let len = request.header("content-length").map_or(0, |len| len.parse().expect("a length"));
        let mut body = vec![0; len];
        reader.read_exact(&mut body).ok()?;
        if !body.is_empty() {
            request.body = serde_json::from_slice(&body).expect("JSON");
        }
        Some(request)
    }

    /// Method, target and protocol.
    pub(crate) fn line(&self) -> &str {
        &self.head[0]
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let mut pairs = self.head.iter().skip(1).filter_map(|line| line.split_once(':'));
        pairs.find(|(its, _)| its.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim())
    }
}

impl Refusal {
    pub(crate) fn bad_request(message: String) -> Self {
        Self { code: 400, reason: "BadRequest", message }
    }

    /// As an object, which events of watches hold, too.
    pub(crate) fn status(&self) -> Value {
        let Self { code, reason, message } = self;
        json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "code": code,
            "reason": reason, "message": message})
    }
}

/// Whether the answer has gone out.
pub(crate) fn respond(mut stream: &TcpStream, code: u16, object: &Value) -> bool {
    let body = object.to_string();
    let head = format!(
        "HTTP/1.1 {code} -\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all((head + &body).as_bytes()).is_ok()
}

/// Whether the answer has gone out.
pub(crate) fn refuse(stream: &TcpStream, refusal: &Refusal) -> bool {
    respond(stream, refusal.code, &refusal.status())
}
