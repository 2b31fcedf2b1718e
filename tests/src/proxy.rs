//! A proxy in front of an API server: HTTP's CONNECT (RFC 9110, 9.3.6) and SOCKS 5 without a password (RFC 1928).

use std::{
    io::{self, Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Mutex},
    thread,
};

/// A proxy on loopback that leads to one server, whatever it is asked for. It ends with the test process.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    asked: Arc<Mutex<Vec<u8>>>,
}

impl Proxy {
    /// One that leads to `server`.
    pub fn start(server: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a listener");
        let address = listener.local_addr().expect("a bound address");
        let asked = Arc::<Mutex<Vec<u8>>>::default();
        thread::spawn({
            let asked = Arc::clone(&asked);
            move || {
                for client in listener.incoming().map_while(Result::ok) {
                    let asked = Arc::clone(&asked);
                    // One that breaks off is the client's to tell.
                    thread::spawn(move || pass(&client, server, &asked));
                }
            }
        });
        Self { address, asked }
    }

    /// Its URL, for a scheme.
    pub fn url(&self, scheme: &str) -> String {
        format!("{scheme}://{}", self.address)
    }

    /// All that clients have sent through it.
    pub fn asked(&self) -> String {
        String::from_utf8_lossy(&self.asked.lock().expect("no panic")).into_owned()
    }
}

fn pass(client: &TcpStream, server: SocketAddr, asked: &Mutex<Vec<u8>>) -> io::Result<()> {
    match byte(client)? {
        5 => greet_socks(client)?,
        _ => greet_http(client)?,
    }
    let server = TcpStream::connect(server)?;
    let (mut from_server, mut to_client) = (server.try_clone()?, client.try_clone()?);
    thread::spawn(move || {
        let _ = io::copy(&mut from_server, &mut to_client);
        let _ = to_client.shutdown(Shutdown::Write);
    });
    let mut piece = [0; 1 << 12];
    let (mut client, mut server) = (client, &server);
    while let len @ 1.. = client.read(&mut piece)? {
        asked.lock().expect("no panic").extend(&piece[..len]);
        server.write_all(&piece[..len])?;
    }
    server.shutdown(Shutdown::Write)
}

/// What comes up to an empty line is the request.
fn greet_http(mut client: &TcpStream) -> io::Result<()> {
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        request.push(byte(client)?);
    }
    assert!(request.starts_with(b"ONNECT "), "{}", request.escape_ascii());
    client.write_all(b"HTTP/1.1 200 Connected\r\n\r\n")
}

fn greet_socks(mut client: &TcpStream) -> io::Result<()> {
    let methods = byte(client)?;
    client.read_exact(&mut vec![0; methods.into()])?;
    client.write_all(&[5, 0])?;
    let mut request = [0; 4];
    client.read_exact(&mut request)?;
    let len = match request[3] {
        1 => 4,
        4 => 16,
        _ => byte(client)?.into(),
    };
    client.read_exact(&mut vec![0; len + 2])?;
    client.write_all(&[5, 0, 0, 1, 0, 0, 0, 0, 0, 0])
}

fn byte(mut client: &TcpStream) -> io::Result<u8> {
    let mut byte = [0];
    client.read_exact(&mut byte)?;
    Ok(byte[0])
}
