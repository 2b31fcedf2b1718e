//! From a request's path and method to who answers it.

use std::{io::BufReader, net::TcpStream, sync::Arc};

use serde_json::{Value, json};

use crate::{
    exec, forward,
    http::{Refusal, Request, refuse, respond},
    objects::Key,
    shared::Shared,
    tokens,
    users::User,
    watch::watch,
};

/// A request as RBAC sees it.
#[derive(Debug)]
pub(crate) struct Asked {
    pub(crate) verb: &'static str,
    /// With its subresource.
    pub(crate) resource: String,
    /// Empty for all, and for what is in none.
    pub(crate) namespace: String,
    /// Empty for a list.
    pub(crate) name: String,
    /// Empty for the core's.
    pub(crate) group: String,
    pub(crate) query: Vec<(String, String)>,
    /// Who asks.
    pub(crate) user: User,
}

/// Answers the requests of a connection until it is closed. A client that goes away is its own affair.
pub(crate) fn serve(stream: TcpStream, shared: &Arc<Shared>) {
    stream.set_nodelay(true).expect("a TCP socket");
    let mut reader = BufReader::new(stream.try_clone().expect("a descriptor"));
    while let Some(request) = Request::read(&mut reader) {
        if shared.lock().leaves_unanswered() {
            return;
        }
        let asked = match shared.lock().user(request.header("authorization")) {
            Ok(user) => Asked { user, ..Asked::of(request.line()) },
            Err(refusal) if refuse(&stream, &refusal) => continue,
            Err(_) => return,
        };
        let has_gone_out = match (asked.verb, asked.resource.as_str()) {
            ("watch", _) => watch(&stream, shared, &asked),
            ("get", "pods/exec") => return exec::serve(&stream, reader, shared, &request, &asked),
            ("get", "pods/portforward") => return forward::serve(&stream, reader, shared, &request, &asked),
            _ => match answer(shared, &asked, &request.body) {
                Ok((code, object)) => respond(&stream, code, &object),
                Err(refusal) => refuse(&stream, &refusal),
            },
        };
        if !has_gone_out {
            return;
        }
    }
}

/// The answer to anything but a watch and an exec.
fn answer(shared: &Arc<Shared>, asked: &Asked, body: &Value) -> Result<(u16, Value), Refusal> {
    let Asked { verb, resource, namespace, name, .. } = asked;
    shared.lock().log.push(format!("{verb} {resource} {namespace}/{name}"));
    match resource.as_str() {
        "version" => return Ok((200, version())),
        "selfsubjectaccessreviews" => return Ok((201, shared.lock().review(&asked.user, body))),
        _ => shared.lock().check(verb, asked)?,
    }
    let key = Key::new(resource, namespace, name);
    let found = |object: Option<Value>| object.map(|it| (200, it)).ok_or_else(|| asked.not_found());
    match (*verb, resource.as_str()) {
        ("create", "serviceaccounts/token") => {
            tokens::issue(&mut shared.lock(), asked, body).map(|issued| (201, issued))
        }
        ("create", "tokenreviews") => Ok((201, shared.lock().tokens.review(body))),
        ("get", _) => found(shared.lock().objects.get(&key).cloned()),
        ("list", _) => Ok((200, shared.lock().objects.list(asked))),
        ("create", _) if !shared.lock().objects.has_namespace(namespace) => {
            Err(not_found("namespaces", namespace))
        }
        ("create", "events") => shared.create_event(namespace, body.clone()).map(|event| (201, event)),
        ("create", "jobs") => shared.create_job(namespace, body.clone()).map(|job| (201, job)),
        ("create", "recordings") => shared.create(namespace, body.clone()).map(|made| (201, made)),
        ("delete", "recordings") => {
            let removed = shared.lock().objects.get(&key).cloned();
            shared.update(|state| state.objects.remove(&key));
            found(removed)
        }
        ("patch", _) => found(shared.update(|state| state.objects.patch(&key, body))),
        ("delete", "jobs") => found(shared.delete_job(&key)),
        _ => Err(Refusal { code: 405, reason: "MethodNotAllowed", message: format!("{verb} {resource}") }),
    }
}

fn version() -> Value {
    json!({"major": "1", "minor": "36", "gitVersion": "v1.36.0", "gitCommit": "", "gitTreeState": "", "buildDate": "",
        "goVersion": "", "compiler": "", "platform": ""})
}

pub(crate) fn not_found(resource: &str, name: &str) -> Refusal {
    Refusal { code: 404, reason: "NotFound", message: format!("{resource} \"{name}\" not found") }
}

impl Asked {
    /// Of a request line.
    fn of(line: &str) -> Self {
        let mut words = line.split(' ');
        let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let query: Vec<(String, String)> = query
            .split('&')
            .filter_map(|pair| pair.split_once('='))
            .map(|(key, value)| (decode(key), decode(value)))
            .collect();
        let (group, resource, namespace, name) = place(path);
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
        Self { verb, resource, namespace, name, group, query, user: User::anybody() }
    }

    pub(crate) fn parameter(&self, key: &str) -> Option<&str> {
        self.query.iter().find(|(its, _)| its == key).map(|(_, value)| value.as_str())
    }

    pub(crate) fn not_found(&self) -> Refusal {
        not_found(&self.resource, &self.name)
    }
}

/// API group, resource, namespace and name of what is at a path.
fn place(path: &str) -> (String, String, String, String) {
    let steps: Vec<String> = path.split('/').filter(|step| !step.is_empty()).map(decode).collect();
    let steps: Vec<&str> = steps.iter().map(String::as_str).collect();
    let (group, rest) = match steps.as_slice() {
        ["apis", group, _, rest @ ..] => (*group, rest),
        ["api", "v1", rest @ ..] | rest => ("", rest),
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
    (group.to_owned(), resource, namespace.to_owned(), name.to_owned())
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
