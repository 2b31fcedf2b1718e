//! The other end of `sniff serve`, as `kubectl sniff` would have it: what it asks for, and what it makes of the answer.

use std::{
    fs::File,
    io::{BufWriter, Read as _, Write as _},
    path::Path,
};

use anyhow::{Context as _, Result, bail};
use sniff_protocol::{
    Decoder, PREFACE, ToClient, ToNode, encode,
    message::{CapturePlan, ClientHello, Target, TargetId},
};

/// Longer than any measurement: nobody keeps the session alive.
const LEASE_SECONDS: u32 = 300;
/// Bytes read at a time.
const READ: usize = 1 << 20;

/// What asks for everything that passes `interface`.
///
/// # Errors
/// The protocol has no room for it.
pub fn hello(interface: &str) -> Result<Vec<u8>> {
    let node = Target { interfaces: vec![interface.to_owned()], ..Target::new(TargetId::Node) };
    let hello = ClientHello {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        who: "bench".to_owned(),
        plan: CapturePlan::default(),
        targets: vec![node],
        lease_seconds: LEASE_SECONDS,
        ..ClientHello::default()
    };
    let mut bytes = PREFACE.to_vec();
    encode(&ToNode::Hello(Box::new(hello)), &mut bytes)?;
    Ok(bytes)
}

/// Writes the packets of `stream`, which is all that was said, into the pcapng file `file`; how many were lost, as the node
/// tells.
///
/// # Errors
/// The stream is broken, tells of an error, or has no end.
pub fn unwrap(stream: &Path, file: &Path) -> Result<u64> {
    let mut stream = File::open(stream)?;
    let mut file = BufWriter::new(File::create(file)?);
    let mut decoder = Decoder::<ToClient>::new();
    let mut buffer = vec![0; READ];
    loop {
        let len = stream.read(&mut buffer)?;
        decoder.push(&buffer[..len]);
        while let Some(message) = decoder.next()? {
            match message {
                ToClient::Packets(blocks) => file.write_all(&blocks)?,
                ToClient::Error(error) => bail!("it tells of an error: {}", error.message),
                ToClient::End(end) => {
                    file.flush().context("cannot write the packets")?;
                    return Ok(end.dropped);
                }
                ToClient::Hello(_) | ToClient::Event(_) | ToClient::Stats(_) | ToClient::Recordings(_) => {}
            }
        }
        if len == 0 {
            bail!("the stream has no end");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use sniff_protocol::message::{End, Reason};
    use tempfile::TempDir;

    use super::*;

    #[test]
    fn packets_and_losses_come_out_of_a_stream() {
        let folder = TempDir::new().unwrap();
        let (stream, file) = (folder.path().join("stream"), folder.path().join("file"));
        let mut bytes = PREFACE.to_vec();
        for blocks in ["first ", "second"] {
            encode(&ToClient::Packets(blocks.into()), &mut bytes).unwrap();
        }
        fs::write(&stream, &bytes).unwrap();
        assert!(unwrap(&stream, &file).is_err(), "it has no end");
        let end = End { reason: Reason::Signal, captured: 2, matched: 5, dropped: 3, ..End::default() };
        encode(&ToClient::End(end), &mut bytes).unwrap();
        fs::write(&stream, &bytes).unwrap();
        assert_eq!(unwrap(&stream, &file).unwrap(), 3);
        assert_eq!(fs::read(&file).unwrap(), b"first second");
    }
}
