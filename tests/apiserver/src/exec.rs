//! `exec`: the channels of `v5.channel.k8s.io` over a WebSocket, and a process.

use std::{
    io::{BufReader, Read, Write as _},
    net::{Shutdown, TcpStream},
    process::{Child, ChildStdin, Command, ExitStatus, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
        mpsc::sync_channel,
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use crate::{
    http::{Refusal, Request, refuse},
    kubelet::{Container, Node},
    objects::Key,
    router::Asked,
    shared::{Shared, State},
    websocket::{BINARY, CLOSING, PING, PONG, read_frame, write_frame},
};

const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const RESULT: u8 = 3;
const CLOSE: u8 = 255;

const PROTOCOL: &str = "v5.channel.k8s.io";

/// Bytes a second that come to the client, and how many may be on their way; `None` is as fast as it goes.
pub(crate) type Slowness = Option<(u64, usize)>;

/// As much as the kubelet's copying takes at once.
const PIECE: usize = 32 * 1024;

/// The connections that exec has and has had.
#[derive(Debug, Default)]
pub(crate) struct Execs {
    streams: Vec<TcpStream>,
    count: usize,
    /// The first so many of them carry nothing any more, without being closed.
    frozen: usize,
    /// Bytes a second of new connections, and how many may be on their way.
    pub(crate) slow: Slowness,
}

/// One connection.
struct Exec {
    shared: Arc<Shared>,
    output: Mutex<TcpStream>,
    number: usize,
    slow: Slowness,
    has_ended: AtomicBool,
}

impl Execs {
    pub(crate) fn cut(&mut self) {
        for stream in self.streams.drain(..) {
            // The other end may have closed it already.
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    pub(crate) fn freeze(&mut self) {
        self.frozen = self.count;
    }

    /// Its number among all connections.
    pub(crate) fn add(&mut self, stream: &TcpStream) -> usize {
        self.streams.push(stream.try_clone().expect("a descriptor"));
        self.count += 1;
        self.count
    }
}

/// Runs the command that is asked for, and carries its streams.
pub(crate) fn serve(
    stream: &TcpStream,
    reader: BufReader<TcpStream>,
    shared: &Arc<Shared>,
    request: &Request,
    asked: &Asked,
) {
    let words: Vec<&str> =
        asked.query.iter().filter(|(key, _)| key == "command").map(|(_, word)| word.as_str()).collect();
    let found = find(&mut shared.lock(), asked, &words);
    let Some(((node, command), number, slow)) = open(stream, shared, request, PROTOCOL, found) else {
        return;
    };
    let output = Mutex::new(stream.try_clone().expect("a descriptor"));
    let exec = Exec { shared: Arc::clone(shared), output, number, slow, has_ended: AtomicBool::new(false) };
    let exec = Arc::new(exec);
    let Some(mut command) = command else {
        let message = format!("exec: {words:?}: executable file not found in $PATH");
        exec.send_result(
            &json!({"kind": "Status", "status": "Failure", "reason": "InternalError", "message": message}),
        );
        return;
    };
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = node.spawn(&mut command);
    let carrying = exec.carry(&mut child, reader);
    let status = child.wait().expect("a child of ours");
    exec.has_ended.store(true, Ordering::SeqCst);
    let [stdin, outputs @ ..] = carrying;
    outputs.into_iter().for_each(|output| output.join().expect("no panic"));
    exec.send_result(&result(status));
    // The client may be gone.
    let _ = write_frame(&exec.output, CLOSING, &1000_u16.to_be_bytes());
    let _ = stream.shutdown(Shutdown::Both);
    stdin.join().expect("no panic");
}

type Found = (Arc<dyn Node>, Option<Command>);

/// The pod's node, and what to run there, when there is such a program.
fn find(state: &mut State, asked: &Asked, words: &[&str]) -> Result<Found, Refusal> {
    let Asked { namespace, name, .. } = asked;
    state.log.push(format!("create pods/exec {namespace}/{name} {words:?}"));
    // A GET that is upgraded; Kubernetes 1.35 asks for `create`, too.
    ["get", "create"].iter().try_for_each(|verb| state.check(verb, asked))?;
    let (pod, node_name, node) = state.pod_and_node(namespace, name).ok_or_else(|| asked.not_found())?;
    let env = [("NODE_NAME".to_owned(), node_name.to_owned())];
    let container = Container { pod: name, has_main_process: pod["status"]["pid"].is_number(), env: &env };
    Ok((Arc::clone(node), node.command(words, &container)))
}

impl State {
    /// A pod, and its node with its name.
    pub(crate) fn pod_and_node(&self, namespace: &str, name: &str) -> Option<(&Value, &str, &Arc<dyn Node>)> {
        let pod = self.objects.get(&Key::new("pods", namespace, name))?;
        let node = pod["spec"]["nodeName"].as_str()?;
        Some((pod, node, self.kubelets.nodes.get(node)?))
    }
}

/// Upgrades the connection to what is spoken over it, if what it is for was `found`; otherwise refuses. Returns that, its
/// number among all, and how slow it is.
pub(crate) fn open<T>(
    mut stream: &TcpStream,
    shared: &Shared,
    request: &Request,
    protocol: &str,
    found: Result<T, Refusal>,
) -> Option<(T, usize, Slowness)> {
    let accepted = found.and_then(|found| Ok((found, accept(request, protocol)?)));
    let accepted = accepted.map_err(|refusal| refuse(stream, &refusal));
    let (found, upgrade) = accepted.ok()?;
    stream.write_all(upgrade.as_bytes()).expect("a client");
    let mut state = shared.lock();
    Some((found, state.execs.add(stream), state.execs.slow))
}

/// The answer that upgrades the connection, to what is spoken over it.
fn accept(request: &Request, protocol: &str) -> Result<String, Refusal> {
    let protocols = request.header("sec-websocket-protocol").unwrap_or_default();
    if !protocols.split(',').any(|it| it.trim() == protocol) {
        return Err(Refusal::bad_request(format!("protocols {protocols}")));
    }
    let key = derive_accept_key(request.header("sec-websocket-key").unwrap_or_default().as_bytes());
    Ok(format!(
        "HTTP/1.1 101 -\r\nupgrade: websocket\r\nconnection: Upgrade\r\nsec-websocket-accept: {key}\r\n\
         sec-websocket-protocol: {protocol}\r\n\r\n"
    ))
}

fn result(status: ExitStatus) -> Value {
    match status.code() {
        Some(0) => json!({"kind": "Status", "status": "Success"}),
        code => json!({"kind": "Status", "status": "Failure", "reason": "NonZeroExitCode",
            "message": format!("command terminated with exit code {}", code.unwrap_or(137))}),
    }
}

impl Shared {
    /// Does not return while the connection of this number carries nothing.
    pub(crate) fn wait_while_frozen(&self, number: usize) {
        let is_frozen = || {
            let state = self.lock();
            number <= state.execs.frozen && !state.has_ended
        };
        while is_frozen() {
            thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Exec {
    /// Carries stdin, stdout and stderr, each in a thread.
    fn carry(self: &Arc<Self>, child: &mut Child, reader: BufReader<TcpStream>) -> [JoinHandle<()>; 3] {
        let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let exec = Arc::clone(self);
        [
            thread::spawn(move || exec.carry_in(reader, stdin)),
            self.carry_out(stdout.expect("a pipe"), STDOUT),
            self.carry_out(stderr.expect("a pipe"), STDERR),
        ]
    }

    /// From the process to the client. When the client is gone the pipe is closed, and the process finds out by
    /// writing.
    fn carry_out(self: &Arc<Self>, mut pipe: impl Read + Send + 'static, channel: u8) -> JoinHandle<()> {
        let exec = Arc::clone(self);
        let on_the_way = self.slow.map_or(0, |(_, on_the_way)| on_the_way / PIECE);
        let (sender, pieces) = sync_channel::<Vec<u8>>(on_the_way);
        thread::spawn(move || {
            let mut buffer = vec![0; PIECE];
            while let Ok(len @ 1..) = pipe.read(&mut buffer) {
                if sender.send(buffer[..len].to_vec()).is_err() {
                    return;
                }
            }
        });
        thread::spawn(move || {
            for piece in pieces {
                exec.wait_while_frozen();
                if let Some((rate, _)) = exec.slow {
                    thread::sleep(Duration::from_secs(1) * piece.len() as u32 / rate as u32);
                }
                if !exec.send(channel, &piece) {
                    return;
                }
            }
        })
    }

    /// From the client to the process, until one of them closes.
    fn carry_in(&self, mut reader: BufReader<TcpStream>, mut stdin: Option<ChildStdin>) {
        while let Some((opcode, data)) = read_frame(&mut reader) {
            self.wait_while_frozen();
            match (opcode, data.split_first()) {
                (BINARY, Some((&STDIN, [_, ..]))) if self.has_ended.load(Ordering::SeqCst) => {
                    // The other end may have closed it already.
                    let _ = reader.get_ref().shutdown(Shutdown::Both);
                    return;
                }
                (BINARY, Some((&STDIN, data)))
                    if stdin.as_mut().is_some_and(|stdin| stdin.write_all(data).is_err()) =>
                {
                    stdin = None;
                }
                (BINARY, Some((&CLOSE, &[STDIN]))) => stdin = None,
                (PING, _) => drop(write_frame(&self.output, PONG, &data)),
                (CLOSING, _) => return,
                _ => {}
            }
        }
    }

    /// Does not return while the connection carries nothing.
    fn wait_while_frozen(&self) {
        self.shared.wait_while_frozen(self.number);
    }

    fn send_result(&self, status: &Value) {
        // The client may be gone.
        let _ = self.send(RESULT, status.to_string().as_bytes());
    }

    /// Whether the message has gone out.
    fn send(&self, channel: u8, data: &[u8]) -> bool {
        let mut message = Vec::with_capacity(data.len() + 1);
        message.push(channel);
        message.extend(data);
        write_frame(&self.output, BINARY, &message).is_ok()
    }
}
