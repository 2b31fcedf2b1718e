//! The demo: a node and a pod made of two network namespaces and a veth pair, some HTTP and DNS
//! between them over IPv4 and IPv6, and `sniff` in between, run as it would be for a real pod.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    path::Path,
    process::{Child, Command, ExitCode, Stdio},
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};

use crate::{netns::Netns, process};

/// What the demo writes, in the folder it is run in.
pub const FILE: &str = "demo.pcapng";

// Addresses that documentation may use (RFC 5737, RFC 3849).
const NODE: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1))];
const POD: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(192, 0, 2, 2)), IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 2))];

/// What the pod is called. No container runtime knows of it, so sniff is told.
const NAME: &str = "demo/web-0";

const CAPTURE: &str = "3s";
const ROUNDS: u32 = 5;
const BETWEEN_ROUNDS: Duration = Duration::from_millis(500);
const PATIENCE: Duration = Duration::from_secs(2);

/// Captures a pod of its own with the built `sniff`, whose exit code it returns.
///
/// # Errors
/// Not root, the pod cannot be made, or its traffic fails.
pub fn demo() -> Result<ExitCode> {
    let sniff = process::built_sniff()?;
    let (node, pod) = (Netns::new()?, Netns::new()?);
    connect(&node, &pod)?;
    serve_http(&pod)?;
    serve_dns(&node)?;

    let mut capture = start(&sniff, &node, &pod)?;
    let messages = wait_until_listening(&mut capture);
    let traffic = if messages.is_some() { exchange(&node, &pod) } else { Ok(()) };
    let status = capture.wait().context("cannot wait for sniff")?;
    messages.map(JoinHandle::join);
    traffic?;

    if status.success() {
        let size = Path::new(FILE).metadata().with_context(|| format!("no {FILE}"))?.len();
        eprintln!("demo: wrote {FILE} ({size} bytes); open it with `wireshark {FILE}`");
    }
    Ok(status.code().map_or(ExitCode::FAILURE, |code| ExitCode::from(code as u8)))
}

/// A veth pair between the two namespaces, as a CNI plugin makes it: `eth0` is the pod's end.
fn connect(node: &Netns, pod: &Netns) -> Result<()> {
    node.run(|| {
        ip("link add vethdemo type veth peer name eth0")?;
        ip(&format!("link set eth0 netns {}", pod.path().display()))
    })?;
    node.run(|| configure("vethdemo", NODE))?;
    pod.run(|| configure("eth0", POD))
}

fn configure(interface: &str, [ipv4, ipv6]: [IpAddr; 2]) -> Result<()> {
    ip(&format!("addr add {ipv4}/24 dev {interface}"))?;
    // Nobody else has the address: without the check it can be used at once.
    ip(&format!("addr add {ipv6}/64 dev {interface} nodad"))?;
    ip(&format!("link set {interface} up"))
}

fn ip(args: &str) -> Result<()> {
    process::output(Command::new("ip").args(args.split(' '))).map(drop)
}

/// Starts `sniff` on the node.
fn start(sniff: &Path, node: &Netns, pod: &Netns) -> Result<Child> {
    let mut command = Command::new(sniff);
    command
        .args(["--netns", &format!("{NAME}={}", pod.path().display())])
        .args(["--write", FILE, "--print", "--duration", CAPTURE])
        .stderr(Stdio::piped());
    node.run(|| command.spawn().with_context(|| format!("cannot run `{}`", process::line(&command))))
}

/// Waits for the line with which `sniff` says that it captures; until then and after it, passes all
/// its messages on. `None` when `sniff` ended without that line.
fn wait_until_listening(capture: &mut Child) -> Option<JoinHandle<()>> {
    let messages = BufReader::new(capture.stderr.take()?).lines();
    let mut messages = messages.map_while(Result::ok).inspect(|message| eprintln!("{message}"));
    messages
        .any(|message| message.contains("listening on"))
        .then(|| thread::spawn(move || messages.for_each(drop)))
}

/// A few rounds in which the node gets a page from the pod, and the pod asks the node for a name.
fn exchange(node: &Netns, pod: &Netns) -> Result<()> {
    for _ in 0..ROUNDS {
        for address in POD {
            node.run(|| get_page(address)).with_context(|| format!("HTTP with {address}"))?;
        }
        for address in NODE {
            pod.run(|| look_up(address)).with_context(|| format!("DNS with {address}"))?;
        }
        thread::sleep(BETWEEN_ROUNDS);
    }
    Ok(())
}

/// Answers every connection with a page, until this process ends.
fn serve_http(pod: &Netns) -> Result<()> {
    let listener = pod.run(|| Ok(TcpListener::bind((Ipv6Addr::UNSPECIFIED, 80))?))?;
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            // A page that could not be sent shows as the client's error.
            let _ = send_page(stream);
        }
    });
    Ok(())
}

fn send_page(mut stream: TcpStream) -> Result<()> {
    const RESPONSE: &str = "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n\
        Content-Length: 20\r\nConnection: close\r\n\r\nHello from the pod.\n";
    let request = BufReader::new(&stream).lines().map_while(Result::ok);
    request.take_while(|line| !line.is_empty()).for_each(drop);
    Ok(stream.write_all(RESPONSE.as_bytes())?)
}

fn get_page(address: IpAddr) -> Result<()> {
    let server = SocketAddr::new(address, 80);
    let mut stream = TcpStream::connect_timeout(&server, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    // One write, one packet.
    let request = "GET / HTTP/1.1\r\nHost: web.demo.example\r\nConnection: close\r\n\r\n";
    stream.write_all(request.as_bytes())?;
    let mut page = String::new();
    stream.read_to_string(&mut page)?;
    ensure!(page.starts_with("HTTP/1.1 200 "), "unexpected answer {page:?}");
    Ok(())
}

/// Answers every query, until this process ends.
fn serve_dns(node: &Netns) -> Result<()> {
    let socket = node.run(|| Ok(UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 53))?))?;
    thread::spawn(move || {
        let mut query = [0; 512];
        while let Ok((len, client)) = socket.recv_from(&mut query) {
            // A lost answer shows as the client's time-out.
            let _ = socket.send_to(&dns::answer(&query[..len]), client);
        }
    });
    Ok(())
}

fn look_up(server: IpAddr) -> Result<()> {
    let any: IpAddr =
        if server.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0))?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.send_to(&dns::query(), (server, 53))?;
    let mut answer = [0; 512];
    let (len, _) = socket.recv_from(&mut answer)?;
    ensure!(answer[..len] == dns::answer(&dns::query()), "unexpected answer {:02x?}", &answer[..len]);
    Ok(())
}

/// One question and its answer (RFC 1035 section 4).
mod dns {
    /// ID, "recursion desired", one question; then the name, type A, class IN.
    pub fn query() -> Vec<u8> {
        let header = [0x73, 0x6e, 0x01, 0x00, 0, 1, 0, 0, 0, 0, 0, 0];
        [&header[..], b"\x03web\x04demo\x07example\0", &[0, 1, 0, 1]].concat()
    }

    /// The query again as a response with one answer: the name as in the question, type A, class
    /// IN, 60 s, 192.0.2.2.
    pub fn answer(query: &[u8]) -> Vec<u8> {
        const RECORD: [u8; 16] = [0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 192, 0, 2, 2];
        let mut answer = query.to_vec();
        if let Some(header) = answer.first_chunk_mut::<12>() {
            (header[2], header[3], header[7]) = (0x81, 0x80, 1);
        }
        answer.extend(RECORD);
        answer
    }
}
