//! `portforward`: the channels of `v4.channel.k8s.io` over a WebSocket, and a TCP connection on the pod's loopback.

use std::{
    io::{BufReader, Read as _, Write as _},
    net::{Shutdown, TcpStream},
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

use crate::{
    exec::open,
    http::{Refusal, Request},
    kubelet::Node,
    router::Asked,
    shared::{Shared, State},
    websocket::{BINARY, CLOSING, PING, PONG, read_frame, write_frame},
};

const PROTOCOL: &str = "v4.channel.k8s.io";

const DATA: u8 = 0;
const ERROR: u8 = 1;

/// As much as the kubelet's copying takes at once.
const PIECE: usize = 32 * 1024;

/// Connects to the port that is asked for, and carries what goes there and comes from there.
pub(crate) fn serve(
    stream: &TcpStream,
    mut reader: BufReader<TcpStream>,
    shared: &Arc<Shared>,
    request: &Request,
    asked: &Asked,
) {
    let found = find(&mut shared.lock(), asked);
    let Some(((node, port), number, slow)) = open(stream, shared, request, PROTOCOL, found) else { return };
    let output = Arc::new(Mutex::new(stream.try_clone().expect("a descriptor")));
    let send = move |output: &Mutex<TcpStream>, channel: u8, data: &[u8]| {
        write_frame(output, BINARY, &[&[channel], data].concat()).is_ok()
    };
    for channel in [DATA, ERROR] {
        send(&output, channel, &port.to_le_bytes());
    }
    let target = match node.connect(port) {
        Ok(target) => target,
        Err(error) => {
            send(
                &output,
                ERROR,
                format!("failed to connect to localhost:{port} inside namespace: {error}").as_bytes(),
            );
            // The client may be gone.
            let _ = stream.shutdown(Shutdown::Both);
            return;
        }
    };
    let to_client = thread::spawn({
        let (shared, output) = (Arc::clone(shared), Arc::clone(&output));
        let mut target = target.try_clone().expect("a descriptor");
        move || {
            let mut buffer = vec![0; PIECE];
            while let Ok(len @ 1..) = target.read(&mut buffer) {
                shared.wait_while_frozen(number);
                if let Some((rate, _)) = slow {
                    thread::sleep(Duration::from_secs(1) * len as u32 / rate as u32);
                }
                if !send(&output, DATA, &buffer[..len]) {
                    break;
                }
            }
            let _ = target.shutdown(Shutdown::Both);
            let _ = write_frame(&output, CLOSING, &1000_u16.to_be_bytes());
            let stream = output.lock().expect("no test thread has panicked with it");
            let _ = stream.shutdown(Shutdown::Both);
        }
    });
    while let Some((opcode, data)) = read_frame(&mut reader) {
        shared.wait_while_frozen(number);
        match (opcode, data.split_first()) {
            (BINARY, Some((&DATA, data))) if (&target).write_all(data).is_err() => break,
            (PING, _) => drop(write_frame(&output, PONG, &data)),
            (CLOSING, _) => break,
            _ => {}
        }
    }
    // Either end may be gone.
    let _ = target.shutdown(Shutdown::Both);
    to_client.join().expect("no panic");
}

/// The pod's node, and the port.
fn find(state: &mut State, asked: &Asked) -> Result<(Arc<dyn Node>, u16), Refusal> {
    let Asked { namespace, name, .. } = asked;
    let port = asked.parameter("ports").and_then(|ports| ports.parse().ok());
    let port =
        port.ok_or_else(|| Refusal::bad_request("query parameter \"ports\" is required".to_owned()))?;
    state.log.push(format!("create pods/portforward {namespace}/{name} {port}"));
    // As with exec.
    ["get", "create"].iter().try_for_each(|verb| state.check(verb, asked))?;
    let (_, _, node) = state.pod_and_node(namespace, name).ok_or_else(|| asked.not_found())?;
    Ok((Arc::clone(node), port))
}
