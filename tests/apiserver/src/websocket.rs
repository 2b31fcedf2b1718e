//! Frames of a WebSocket (RFC 6455), the server's side.

use std::{
    io::{self, Read, Write as _},
    net::TcpStream,
    sync::Mutex,
};

pub(crate) const BINARY: u8 = 2;
pub(crate) const CLOSING: u8 = 8;
pub(crate) const PING: u8 = 9;
pub(crate) const PONG: u8 = 10;

/// A whole message in one frame; a server's are not masked (section 5.1).
pub(crate) fn write_frame(output: &Mutex<TcpStream>, opcode: u8, data: &[u8]) -> io::Result<()> {
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

/// Opcode and data of a client's frame, whose data is masked (section 5.3).
pub(crate) fn read_frame(reader: &mut impl Read) -> Option<(u8, Vec<u8>)> {
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
