//! `exec`: a WebSocket (RFC 6455) with the channels of `v5.channel.k8s.io`, and a process.

use std::{
    io::{BufReader, Read, Write},
    net::TcpStream,
    process::{ChildStdin, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
        mpsc::sync_channel,
    },
    thread,
    time::Duration,
};

use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use super::{Asked, Refusal, Shared, command, http};
use crate::netns::tool;

const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const RESULT: u8 = 3;
const CLOSE: u8 = 255;

const BINARY: u8 = 2;
const CLOSING: u8 = 8;
const PING: u8 = 9;
const PONG: u8 = 10;

/// As much as the kubelet's copying takes at once.
const PIECE: usize = 32 * 1024;

/// Runs the command that is asked for, and carries its streams.
pub(super) fn serve(
    stream: &TcpStream,
    mut reader: BufReader<TcpStream>,
    shared: &Arc<Shared>,
    head: &[String],
    asked: &Asked,
) {
    let Asked { namespace, name, .. } = asked;
    let key = ("pods".to_owned(), namespace.clone(), name.clone());
    let words: Vec<&str> =
        asked.query.iter().filter(|(key, _)| key == "command").map(|(_, word)| word.as_str()).collect();
    let found = {
        let mut state = shared.lock();
        state.log.push(format!("create pods/exec {namespace}/{name} {words:?}"));
        let node = |pod: &Value| state.nodes.get(pod["spec"]["nodeName"].as_str()?).cloned();
        let node = state.objects.get(&key).and_then(node);
        // A GET that is upgraded; Kubernetes 1.35 asks for `create`, too.
        let rights = ["get", "create"].iter().try_for_each(|verb| state.check_verb(verb, asked));
        rights.and_then(|()| node.ok_or_else(|| asked.not_found()))
    };
    let node = match found {
        Ok(node) => node,
        Err(refusal) => {
            http::refuse(stream, refusal);
            return;
        }
    };
    let protocols = http::header(head, "sec-websocket-protocol").unwrap_or_default();
    if !protocols.split(',').any(|it| it.trim() == "v5.channel.k8s.io") {
        let message = format!("protocols {protocols}");
        http::refuse(stream, Refusal { code: 400, reason: "BadRequest", message });
        return;
    }
    let accept = derive_accept_key(http::header(head, "sec-websocket-key").unwrap_or_default().as_bytes());
    let upgrade = format!(
        "HTTP/1.1 101 -\r\nupgrade: websocket\r\nconnection: Upgrade\r\nsec-websocket-accept: {accept}\r\n\
         sec-websocket-protocol: v5.channel.k8s.io\r\n\r\n"
    );
    let output = Arc::new(Mutex::new(stream.try_clone().expect("a descriptor")));
    (&*stream).write_all(upgrade.as_bytes()).expect("a client");
    let number = {
        let mut state = shared.lock();
        state.execs.push(stream.try_clone().expect("a descriptor"));
        state.exec_count += 1;
        state.exec_count
    };

    let has_main_process =
        shared.lock().objects.get(&key).is_some_and(|pod| pod["status"]["pid"].is_number());
    let Some(mut command) = command(&words, &key, has_main_process) else {
        let message = format!("exec: {words:?}: executable file not found in $PATH");
        let status =
            json!({"kind": "Status", "status": "Failure", "reason": "InternalError", "message": message});
        send(&output, RESULT, status.to_string().as_bytes());
        return;
    };
    {
        let state = shared.lock();
        if let Some(node) = state.objects.get(&key).and_then(|pod| pod["spec"]["nodeName"].as_str()) {
            if let Some(file) = state.impostors.get(node) {
                command = tool("sh");
                command.args(["-c", "cat \"$0\" && exec cat > /dev/null"]).arg(file);
            }
            command.env("NODE_NAME", node);
        }
    }
    let mut child = node.spawn(command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()));
    let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let slow = shared.lock().slow;
    let copies = [
        copy(stdout.expect("a pipe"), STDOUT, number, slow, &output, shared),
        copy(stderr.expect("a pipe"), STDERR, number, slow, &output, shared),
    ];
    let has_ended = Arc::new(AtomicBool::new(false));
    let carrying = thread::spawn({
        let (output, shared, has_ended) = (Arc::clone(&output), Arc::clone(shared), Arc::clone(&has_ended));
        move || carry_in(&mut reader, stdin, number, &output, &shared, &has_ended)
    });
    let status = child.wait().expect("a child of ours");
    has_ended.store(true, Ordering::SeqCst);
    for copy in copies {
        copy.join().expect("no panic");
    }
    let result = match status.code() {
        Some(0) => json!({"kind": "Status", "status": "Success"}),
        code => json!({"kind": "Status", "status": "Failure", "reason": "NonZeroExitCode",
            "message": format!("command terminated with exit code {}", code.unwrap_or(137))}),
    };
    send(&output, RESULT, result.to_string().as_bytes());
    // The client may be gone.
    let _ = write_frame(&output, CLOSING, &1000_u16.to_be_bytes());
    let _ = stream.shutdown(std::net::Shutdown::Both);
    carrying.join().expect("no panic");
}

/// From the process to the client. When the client is gone the pipe is closed, and the process finds out by writing.
fn copy(
    mut pipe: impl Read + Send + 'static,
    channel: u8,
    number: usize,
    slow: Option<(u64, usize)>,
    output: &Arc<Mutex<TcpStream>>,
    shared: &Arc<Shared>,
) -> thread::JoinHandle<()> {
    let (output, shared) = (Arc::clone(output), Arc::clone(shared));
    let (sender, pieces) = sync_channel::<Vec<u8>>(slow.map_or(0, |(_, on_the_way)| on_the_way / PIECE));
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
            shared.wait_while_frozen(number);
            if let Some((rate, _)) = slow {
                thread::sleep(Duration::from_secs(1) * piece.len() as u32 / rate as u32);
            }
            if !send(&output, channel, &piece) {
                return;
            }
        }
    })
}

/// From the client to the process, until one of them closes.
fn carry_in(
    reader: &mut BufReader<TcpStream>,
    mut stdin: Option<ChildStdin>,
    number: usize,
    output: &Arc<Mutex<TcpStream>>,
    shared: &Shared,
    has_ended: &AtomicBool,
) {
    while let Some((opcode, data)) = read_frame(reader) {
        shared.wait_while_frozen(number);
        match (opcode, data.split_first()) {
            (BINARY, Some((&STDIN, [_, ..]))) if has_ended.load(Ordering::SeqCst) => {
                // The other end may have closed it already.
                let _ = reader.get_ref().shutdown(std::net::Shutdown::Both);
                return;
            }
            (BINARY, Some((&STDIN, data)))
                if stdin.as_mut().is_some_and(|stdin| stdin.write_all(data).is_err()) =>
            {
                stdin = None;
            }
            (BINARY, Some((&CLOSE, &[STDIN]))) => stdin = None,
            (PING, _) => drop(write_frame(output, PONG, &data)),
            (CLOSING, _) => return,
            _ => {}
        }
    }
}

impl Shared {
    /// Does not return while the connection of this number carries nothing.
    fn wait_while_frozen(&self, number: usize) {
        let is_frozen = || {
            let state = self.lock();
            number <= state.frozen && !state.ended
        };
        while is_frozen() {
            thread::sleep(Duration::from_millis(50));
        }
    }
}

/// Whether the message has gone out.
fn send(output: &Mutex<TcpStream>, channel: u8, data: &[u8]) -> bool {
    let mut message = Vec::with_capacity(data.len() + 1);
    message.push(channel);
    message.extend(data);
    write_frame(output, BINARY, &message).is_ok()
}

/// A whole message in one frame; a server's are not masked (section 5.1).
fn write_frame(output: &Mutex<TcpStream>, opcode: u8, data: &[u8]) -> std::io::Result<()> {
    let mut frame = vec![0x80 | opcode];
    match data.len() {
        len @ ..126 => frame.push(len as u8),
        len @ ..0x1_0000 => {
            frame.push(126);
            frame.extend((len as u16).to_be_bytes());
        }
        len => {
            frame.push(127);
            frame.extend((len as u64).to_be_bytes());
        }
    }
    frame.extend(data);
    output.lock().expect("no test thread has panicked with it").write_all(&frame)
}

/// A client's frame, whose data is masked (section 5.3).
fn read_frame(reader: &mut impl Read) -> Option<(u8, Vec<u8>)> {
    let mut head = [0; 2];
    reader.read_exact(&mut head).ok()?;
    let mut long = [0; 8];
    let len = match head[1] & 0x7f {
        126 => {
            reader.read_exact(&mut long[6..]).ok()?;
            u64::from_be_bytes(long)
        }
        127 => {
            reader.read_exact(&mut long).ok()?;
            u64::from_be_bytes(long)
        }
        len => len.into(),
    };
    assert!(head[0] & 0x80 != 0, "messages of several frames are not expected");
    assert!(head[1] & 0x80 != 0, "a client masks");
    let mut mask = [0; 4];
    reader.read_exact(&mut mask).ok()?;
    let mut data = vec![0; len.try_into().expect("a length")];
    reader.read_exact(&mut data).ok()?;
    data.iter_mut().zip(mask.iter().cycle()).for_each(|(byte, mask)| *byte ^= mask);
    Some((head[0] & 0x0f, data))
}
