//! The API server's part, as far as sniff asks it: pods by name, and the names of a namespace's pods,
//! over plain HTTP.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    os::fd::AsRawFd as _,
    sync::Arc,
    thread::{self, JoinHandle},
    time::Duration,
};

use nix::sys::socket::{Shutdown, shutdown};
use serde_json::{Value, json};

use crate::netns::Netns;

/// How long a client may take to ask.
const PATIENCE: Duration = Duration::from_secs(5);

/// A pod as the API describes it.
#[derive(Clone, Debug)]
pub struct Pod {
    pub namespace: &'static str,
    pub name: &'static str,
    pub uid: String,
    /// The node it runs on.
    pub node: &'static str,
}

/// A server on loopback; ended on drop.
#[derive(Debug)]
pub struct ApiServer {
    address: SocketAddr,
    listener: Arc<TcpListener>,
    thread: Option<JoinHandle<()>>,
}

impl ApiServer {
    /// Starts a server that knows these pods, all of them running.
    pub fn start(netns: &Netns, pods: Vec<Pod>) -> Self {
        let listener = netns.enter(|| TcpListener::bind("127.0.0.1:0")).expect("a listener");
        let address = listener.local_addr().expect("a bound address");
        let listener = Arc::new(listener);
        let thread = thread::spawn({
            let listener = Arc::clone(&listener);
            move || {
                // It fails once the listener is shut down.
                while let Ok((stream, _)) = listener.accept() {
                    serve(&stream, &pods);
                }
            }
        });
        Self { address, listener, thread: Some(thread) }
    }

    /// A kubeconfig that leads here. (JSON is YAML.)
    pub fn kubeconfig(&self) -> String {
        let config = json!({
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{ "name": "test", "cluster": { "server": format!("http://{}", self.address) } }],
            "users": [{ "name": "test", "user": {} }],
            "contexts": [{ "name": "test", "context": { "cluster": "test", "user": "test" } }],
            "current-context": "test",
        });
        config.to_string()
    }
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        // If there is nothing to shut down, the thread has ended.
        let _ = shutdown(self.listener.as_raw_fd(), Shutdown::Both);
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

/// Answers one request. A client that goes away is its own affair.
fn serve(mut stream: &TcpStream, pods: &[Pod]) {
    stream.set_read_timeout(Some(PATIENCE)).expect("a time-out");
    let lines = BufReader::new(stream).lines().map_while(Result::ok);
    let request: Vec<String> = lines.take_while(|line| !line.is_empty()).collect();
    let Some(request) = request.first() else {
        return;
    };
    let (status, body) = answer(request, pods);
    let body = body.to_string();
    let _ = write!(
        stream,
        "HTTP/1.1 {status} -\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\
         connection: close\r\n\r\n{body}",
        body.len()
    );
}

/// The status and the object for a request line.
fn answer(request: &str, pods: &[Pod]) -> (u16, Value) {
    let path = request.strip_prefix("GET /api/v1/").and_then(|rest| rest.split([' ', '?']).next());
    let words: Vec<&str> = path.unwrap_or_default().split('/').collect();
    match words.as_slice() {
        ["namespaces", namespace, "pods"] => {
            let there = pods.iter().filter(|pod| pod.namespace == *namespace);
            let items: Vec<Value> = there.map(|pod| json!({ "metadata": pod.metadata() })).collect();
            let kind = "PartialObjectMetadataList";
            (200, json!({ "kind": kind, "apiVersion": "meta.k8s.io/v1", "metadata": {}, "items": items }))
        }
        ["namespaces", namespace, "pods", name] => {
            let pod = pods.iter().find(|pod| (pod.namespace, pod.name) == (*namespace, *name));
            pod.map_or_else(|| refusal(404, "NotFound"), |pod| (200, pod.object()))
        }
        _ => refusal(403, "Forbidden"),
    }
}

fn refusal(code: u16, reason: &str) -> (u16, Value) {
    let status = json!({ "kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code,
        "reason": reason, "message": reason });
    (code, status)
}

impl Pod {
    fn metadata(&self) -> Value {
        let Self { namespace, name, uid, .. } = self;
        json!({ "namespace": namespace, "name": name, "uid": uid })
    }

    fn object(&self) -> Value {
        json!({
            "kind": "Pod",
            "apiVersion": "v1",
            "metadata": self.metadata(),
            "spec": { "nodeName": self.node, "containers": [] },
            "status": { "phase": "Running" },
        })
    }
}
