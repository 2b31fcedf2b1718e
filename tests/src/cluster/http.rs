//! Requests as they come over a connection, and answers as they go back.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::TcpStream,
    sync::Arc,
};

use serde_json::{Value, json};

use super::{Asked, Refusal, Shared, exec};

/// Answers the requests of a connection until it is closed. A client that goes away is its own affair.
pub(super) fn serve(stream: TcpStream, shared: &Arc<Shared>) {
    stream.set_nodelay(true).expect("a TCP socket");
    let mut reader = BufReader::new(stream.try_clone().expect("a descriptor"));
    while let Some((head, asked)) = read(&mut reader) {
        if shared.lock().leaves_unanswered() {
            return;
        }
        let done = match (asked.verb, asked.resource.as_str()) {
            ("watch", _) => {
                watch(&stream, shared, &asked);
                return;
            }
            ("get", "pods/exec") => {
                exec::serve(&stream, reader, shared, &head, &asked);
                return;
            }
            _ => match shared.answer(&asked) {
                Ok((code, object)) => respond(&stream, code, &object),
                Err(refusal) => refuse(&stream, refusal),
            },
        };
        if !done {
            return;
        }
    }
}

/// The next request: its header lines, and what it asks.
fn read(reader: &mut BufReader<TcpStream>) -> Option<(Vec<String>, Asked)> {
    let mut head = Vec::new();
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).ok()? == 0 {
            return None;
        }
        match line.trim_end() {
            "" => break,
            line => head.push(line.to_owned()),
        }
    }
    let len = header(&head, "content-length").map_or(0, |len| len.parse().expect("a length"));
    let mut body = vec![0; len];
    reader.read_exact(&mut body).ok()?;
    let body = if body.is_empty() { Value::Null } else { serde_json::from_slice(&body).expect("JSON") };
    let asked = take_apart(head.first()?, body);
    Some((head, asked))
}

pub(super) fn header<'a>(head: &'a [String], name: &str) -> Option<&'a str> {
    let mut pairs = head.iter().skip(1).filter_map(|line| line.split_once(':'));
    pairs.find(|(its, _)| its.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim())
}

/// A request line as RBAC sees it.
fn take_apart(line: &str, body: Value) -> Asked {
    let mut words = line.split(' ');
    let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let query: Vec<(String, String)> = query
        .split('&')
        .filter_map(|pair| pair.split_once('='))
        .map(|(key, value)| (decode(key), decode(value)))
        .collect();
    let steps: Vec<String> = path.split('/').filter(|step| !step.is_empty()).map(decode).collect();
    let steps: Vec<&str> = steps.iter().map(String::as_str).collect();
    let rest = match steps.as_slice() {
        ["api", "v1", rest @ ..] | ["apis", _, _, rest @ ..] => rest,
        rest => rest,
    };
    let (namespace, rest) = match rest {
        ["namespaces", namespace, rest @ ..] if !rest.is_empty() => (*namespace, rest),
        rest => ("", rest),
    };
    let (resource, name) = match rest {
        [resource] => ((*resource).to_owned(), ""),
        [resource, name] => ((*resource).to_owned(), *name),
        [resource, name, sub] => (format!("{resource}/{sub}"), *name),
        _ => panic!("not a path of the API: {path}"),
    };
    let is_watch = query.iter().any(|(key, value)| key == "watch" && (value == "true" || value == "1"));
    let verb = match method {
        "GET" if is_watch => "watch",
        "GET" if name.is_empty() => "list",
        "GET" => "get",
        "POST" => "create",
        "PATCH" => "patch",
        "DELETE" => "delete",
        other => panic!("a method that sniff does not use: {other}"),
    };
    let (namespace, name) = (namespace.to_owned(), name.to_owned());
    Asked { verb, resource, namespace, name, query, body }
}

fn decode(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        match byte {
            b'+' => bytes.push(b' '),
            b'%' => {
                let digits: String = rest.by_ref().take(2).map(char::from).collect();
                bytes.push(u8::from_str_radix(&digits, 16).expect("two hex digits"));
            }
            byte => bytes.push(byte),
        }
    }
    String::from_utf8(bytes).expect("UTF-8")
}

/// Whether the answer has gone out.
pub(super) fn respond(mut stream: &TcpStream, code: u16, object: &Value) -> bool {
    let body = object.to_string();
    let head = format!(
        "HTTP/1.1 {code} -\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all((head + &body).as_bytes()).is_ok()
}

pub(super) fn refuse(stream: &TcpStream, refusal: Refusal) -> bool {
    respond(stream, refusal.code, &status(refusal))
}

fn status(Refusal { code, reason, message }: Refusal) -> Value {
    json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "code": code,
        "reason": reason, "message": message})
}

fn gone() -> Refusal {
    Refusal { code: 410, reason: "Expired", message: "too old resource version".to_owned() }
}

/// Sends what happens, as chunks of one line each, until the client goes away.
fn watch(mut stream: &TcpStream, shared: &Arc<Shared>, asked: &Asked) {
    {
        let mut state = shared.lock();
        state.log.push(format!("watch {} {}/", asked.resource, asked.namespace));
        if let Err(refusal) = state.check(asked) {
            drop(state);
            refuse(stream, refusal);
            return;
        }
    }
    let mut version = asked.parameter("resourceVersion").and_then(|it| it.parse().ok()).unwrap_or(0);
    if version < shared.lock().forgotten {
        refuse(stream, gone());
        return;
    }
    let head = "HTTP/1.1 200 -\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n";
    if stream.write_all(head.as_bytes()).is_err() {
        return;
    }
    loop {
        let (events, is_over) = match shared.events_after(version, asked) {
            Some((now, events)) => {
                version = now;
                (events, shared.lock().ended)
            }
            None => (vec![json!({"type": "ERROR", "object": status(gone())})], true),
        };
        if shared.lock().is_down {
            return;
        }
        for event in events {
            let line = format!("{event}\n");
            if write!(stream, "{:x}\r\n{line}\r\n", line.len()).is_err() {
                return;
            }
        }
        if is_over {
            // Nothing hangs on the end of what has ended.
            let _ = stream.write_all(b"0\r\n\r\n");
            return;
        }
    }
}
