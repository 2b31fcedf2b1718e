//! Known traffic: each function sends a known, bounded number of packets and returns when the far
//! end has them, or says that it does not care whether it has.

use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    process::Stdio,
    time::Duration,
};

use crate::{
    netns::{Netns, tool},
    wait,
};

/// How long an answer may take before the test has failed.
const PATIENCE: Duration = Duration::from_secs(10);

/// A state of a connection, as `/proc/net/tcp` has it (`include/net/tcp_states.h` in Linux).
const LAST_ACK: &str = "09";

/// A sender in one namespace and a receiver in another that keeps its port open but reads only
/// when asked: every datagram crosses, no ICMP error comes back, and nobody waits for a reader.
#[derive(Debug)]
pub struct UdpFlow {
    sender: UdpSocket,
    /// Kept open so that the datagrams are wanted.
    receiver: UdpSocket,
    to: SocketAddr,
}

impl UdpFlow {
    /// Opens both sockets; `to` is an address of `receiver`.
    pub fn open(sender: &Netns, receiver: &Netns, to: SocketAddr) -> Self {
        let bind = |netns: &Netns, address: SocketAddr| {
            netns.enter(|| UdpSocket::bind(address)).expect("a UDP socket")
        };
        let any = SocketAddr::new(unspecified(to.ip()), 0);
        Self { sender: bind(sender, any), receiver: bind(receiver, to), to }
    }

    /// Sends `count` numbered datagrams of `size` bytes; the number takes 4.
    pub fn send(&self, count: u32, size: usize) {
        let mut payload = vec![0x5a; size];
        for number in 0..count {
            payload[..4].copy_from_slice(&number.to_be_bytes());
            self.send_payload(&payload);
        }
    }

    /// Sends one datagram of up to 2 KiB, and returns when it has arrived.
    pub fn deliver(&self, payload: &[u8]) {
        self.receiver.set_read_timeout(Some(wait::patience(PATIENCE))).expect("a time-out");
        self.send_payload(payload);
        let mut buffer = [0; 2048];
        let length = self.receiver.recv(&mut buffer).expect("the datagram");
        assert!(buffer[..length] == *payload, "another datagram");
    }

    /// Sends one datagram.
    pub fn send_payload(&self, payload: &[u8]) {
        let sent = self.sender.send_to(payload, self.to).expect("sending a datagram");
        assert_eq!(sent, payload.len());
    }
}

/// Sends `count` echo requests of `size` bytes each and checks that all are answered.
pub fn ping(from: &Netns, to: IpAddr, count: u32, size: u32) {
    from.run(&format!("ping -n -q -c {count} -i 0.01 -W 5 -s {size} {to}"));
}

/// Moves 20 MB over TCP from `client` to `server`, whose address is `address`, and back.
pub fn iperf3(server: &Netns, client: &Netns, address: IpAddr) {
    for direction in ["", "--reverse"] {
        let mut daemon =
            server.spawn(tool("iperf3").args(["-s", "-1", "--forceflush"]).stdout(Stdio::piped()));
        let lines = BufReader::new(daemon.stdout.take().expect("a piped stdout")).lines();
        let listening = |line: String| line.contains("listening");
        assert!(lines.map_while(Result::ok).any(listening), "iperf3 does not listen");
        client.run(&format!("iperf3 -c {address} -n 20M -b 400M {direction}"));
        let status = wait::exit_within(&mut daemon, PATIENCE).expect("the end of iperf3 -s -1");
        assert!(status.success(), "iperf3 -s: {status}");
    }
}

/// Asks `server`, which has this address, for the A record of `name` on port 53, and has it answered.
pub fn dns(server: &Netns, client: &Netns, address: IpAddr, name: &str, answer: Ipv4Addr) {
    let UdpFlow { sender, receiver, to } = UdpFlow::open(client, server, SocketAddr::new(address, 53));
    for socket in [&sender, &receiver] {
        socket.set_read_timeout(Some(wait::patience(PATIENCE))).expect("a time-out");
    }
    let mut buffer = [0; 512];
    let query = dns_query(name);
    sender.send_to(&query, to).expect("asking");
    let (length, asker) = receiver.recv_from(&mut buffer).expect("the question");
    assert_eq!(buffer[..length], query);
    receiver.send_to(&dns_answer(&query, answer), asker).expect("answering");
    let length = sender.recv(&mut buffer).expect("the answer");
    assert_eq!(buffer[..length], dns_answer(&query, answer));
}

/// One HTTP/1.0 request and its answer over TCP port 80.
pub fn http(server: &Netns, client: &Netns, address: IpAddr) {
    let address = SocketAddr::new(address, 80);
    let listener = server.enter(|| TcpListener::bind(address)).expect("a listener");
    let mut asking = client.enter(|| TcpStream::connect(address)).expect("a connection");
    let (mut answering, _) = listener.accept().expect("the connection");
    for stream in [&asking, &answering] {
        stream.set_read_timeout(Some(wait::patience(PATIENCE))).expect("a time-out");
    }
    let request = b"GET /hello HTTP/1.0\r\nHost: pod\r\n\r\n";
    asking.write_all(request).expect("asking");
    answering.read_exact(&mut vec![0; request.len()]).expect("the question");
    answering.write_all(b"HTTP/1.0 200 OK\r\n\r\nhello\n").expect("answering");
    drop(answering);
    let mut answer = String::new();
    asking.read_to_string(&mut answer).expect("the answer");
    assert!(answer.ends_with("hello\n"), "{answer}");
    drop(asking);
    wait::until("the connection's last packet", PATIENCE, || client.enter(nobody_awaits_it).then_some(()));
}

/// Whether all connections that this namespace has closed last have the answer to their FIN.
fn nobody_awaits_it() -> bool {
    ["/proc/thread-self/net/tcp", "/proc/thread-self/net/tcp6"].iter().all(|path| {
        let connections = fs::read_to_string(path).expect("the namespace's connections");
        connections.lines().all(|line| line.split_whitespace().nth(3) != Some(LAST_ACK))
    })
}

fn unspecified(like: IpAddr) -> IpAddr {
    if like.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { std::net::Ipv6Addr::UNSPECIFIED.into() }
}

/// A query (RFC 1035, section 4.1) for the A record of `name`, with recursion desired.
fn dns_query(name: &str) -> Vec<u8> {
    let mut query = vec![0x12, 0x34, 0x01, 0x00, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        query.push(label.len().try_into().expect("a short label"));
        query.extend(label.as_bytes());
    }
    query.extend([0, 0, 1, 0, 1]);
    query
}

/// The answer to `query`: one A record that points back at the name in the question.
fn dns_answer(query: &[u8], address: Ipv4Addr) -> Vec<u8> {
    let mut answer = query.to_vec();
    answer[2..4].copy_from_slice(&[0x81, 0x80]);
    answer[7] = 1;
    answer.extend([0xc0, 0x0c, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4]);
    answer.extend(address.octets());
    answer
}
