//! Messages between the two halves, with descriptors: each is a length of 4 bytes and postcard's bytes, over a Unix socket.

use std::{
    collections::VecDeque,
    io::{self, IoSlice, IoSliceMut, Read as _, Write as _},
    mem::MaybeUninit,
    net::Shutdown,
    os::{
        fd::{AsFd as _, BorrowedFd, OwnedFd},
        unix::net::UnixStream,
    },
    sync::{Mutex, PoisonError},
};

use bytes::{Buf as _, BytesMut};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};
use serde::{Serialize, de::DeserializeOwned};

/// Most bytes of a message: the counts of as many interfaces as a capture can have.
const MAX_LEN: usize = 32 << 20;
/// Bytes that are read at once.
const READ_BYTES: usize = 64 << 10;
/// Most descriptors that go with a message.
const MAX_DESCRIPTORS: usize = 4;

/// Where messages go in.
#[derive(Debug)]
pub struct Sender(Mutex<UnixStream>);

impl Sender {
    /// Of a socket whose other end reads.
    pub fn new(stream: UnixStream) -> Self {
        Self(Mutex::new(stream))
    }

    /// Sends a message, and copies of descriptors with it.
    ///
    /// # Errors
    ///
    /// When the other half has ended.
    pub fn send(&self, message: &impl Serialize, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        let body = postcard::to_stdvec(message).map_err(io::Error::other)?;
        let len = u32::try_from(body.len()).ok().filter(|len| *len as usize <= MAX_LEN);
        let len = len.ok_or_else(|| io::Error::other("a message of too many bytes"))?;
        let bytes = [&len.to_le_bytes()[..], &body].concat();
        let mut stream = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let sent = if descriptors.is_empty() { 0 } else { send_with(&stream, &bytes, descriptors)? };
        stream.write_all(&bytes[sent..])
    }
}

fn send_with(stream: &UnixStream, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !ancillary.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(io::Error::other("too many descriptors for a message"));
    }
    Ok(sendmsg(stream, &[IoSlice::new(bytes)], &mut ancillary, SendFlags::empty())?)
}

/// Where messages come out.
#[derive(Debug)]
pub struct Receiver {
    stream: UnixStream,
    buffered: BytesMut,
    /// Those that have come and were not asked for yet; `None` where none are taken.
    descriptors: Option<VecDeque<OwnedFd>>,
}

impl Receiver {
    /// Of a socket whose other end may send descriptors.
    pub fn new(stream: UnixStream) -> Self {
        Self { stream, buffered: BytesMut::new(), descriptors: Some(VecDeque::new()) }
    }

    /// Of a socket whose other end may not: the kernel drops those that come.
    pub fn without_descriptors(stream: UnixStream) -> Self {
        Self { stream, buffered: BytesMut::new(), descriptors: None }
    }

    /// The next message; `None` when the other half has ended.
    ///
    /// # Errors
    ///
    /// When what comes is no message.
    pub fn next<T: DeserializeOwned>(&mut self) -> io::Result<Option<T>> {
        loop {
            if let Some((len, rest)) = self.buffered.split_first_chunk::<4>() {
                let len = u32::from_le_bytes(*len) as usize;
                if len > MAX_LEN {
                    return Err(io::Error::other(format!("a message of {len} bytes")));
                }
                if rest.len() >= len {
                    self.buffered.advance(4);
                    let body = self.buffered.split_to(len);
                    return postcard::from_bytes(&body).map(Some).map_err(io::Error::other);
                }
            }
            match self.read() {
                Ok(0) => return Ok(None),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(None),
                Err(error) => return Err(error),
            }
        }
    }

    /// Takes nothing more: whoever sends finds that out.
    pub fn close(&self) {
        // The other end may be gone already.
        let _ = self.stream.shutdown(Shutdown::Read);
    }

    /// The next descriptor, in the order of the messages that they came with: each message's are to be asked for. Those of a
    /// later one may have come already.
    ///
    /// # Errors
    ///
    /// When there is none.
    pub fn descriptor(&mut self) -> io::Result<OwnedFd> {
        let descriptor = self.descriptors.as_mut().and_then(VecDeque::pop_front);
        descriptor.ok_or_else(|| io::Error::other("a descriptor has not come"))
    }

    fn read(&mut self) -> io::Result<usize> {
        let mut bytes = [0; READ_BYTES];
        let len = match &mut self.descriptors {
            None => self.stream.read(&mut bytes)?,
            Some(descriptors) => {
                let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
                let mut ancillary = RecvAncillaryBuffer::new(&mut space);
                let flags = RecvFlags::CMSG_CLOEXEC;
                let got =
                    recvmsg(self.stream.as_fd(), &mut [IoSliceMut::new(&mut bytes)], &mut ancillary, flags)?;
                for message in ancillary.drain() {
                    if let RecvAncillaryMessage::ScmRights(came) = message {
                        descriptors.extend(came);
                    }
                }
                got.bytes
            }
        };
        self.buffered.extend_from_slice(&bytes[..len]);
        Ok(len)
    }
}

/// Both directions of a socket that carries no descriptors.
///
/// # Errors
///
/// When the system has no descriptor left.
pub fn without_descriptors(stream: UnixStream) -> io::Result<(Receiver, Sender)> {
    Ok((Receiver::without_descriptors(stream.try_clone()?), Sender::new(stream)))
}

#[cfg(test)]
mod tests {
    use std::{fs::File, io::Seek as _, thread};

    use super::*;

    #[test]
    fn messages_come_as_they_went_with_their_descriptors() {
        let (here, there) = UnixStream::pair().unwrap();
        let (sender, mut receiver) = (Sender::new(here), Receiver::new(there));
        let sent: Vec<(u32, Vec<u8>)> = (0..50).map(|n| (n, vec![n as u8; n as usize * 10_000])).collect();
        let expected = sent.clone();
        let sending = thread::spawn(move || {
            for message in &sent {
                let mut file = tempfile::tempfile().unwrap();
                file.write_all(&message.0.to_le_bytes()).unwrap();
                let with = if message.0.is_multiple_of(3) { &[file.as_fd()][..] } else { &[] };
                sender.send(message, with).unwrap();
            }
        });
        for expected in expected {
            let got: (u32, Vec<u8>) = receiver.next().unwrap().expect("a message");
            assert_eq!(got, expected);
            if got.0.is_multiple_of(3) {
                let mut file = File::from(receiver.descriptor().unwrap());
                let mut bytes = [0; 4];
                file.rewind().unwrap();
                file.read_exact(&mut bytes).unwrap();
                assert_eq!(u32::from_le_bytes(bytes), got.0);
            }
        }
        sending.join().unwrap();
        assert!(receiver.next::<u32>().unwrap().is_none());
        assert!(receiver.descriptor().is_err());
    }

    #[test]
    fn what_is_no_message_is_refused() {
        for bytes in [&[0xff; 4][..], &[1, 0, 0, 0, 0xff], &[5, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0xff]] {
            let (mut here, there) = UnixStream::pair().unwrap();
            here.write_all(bytes).unwrap();
            assert!(Receiver::new(there).next::<bool>().is_err(), "{bytes:?}");
        }
    }

    #[test]
    fn descriptors_of_whoever_may_send_none_are_dropped() {
        let (here, there) = UnixStream::pair().unwrap();
        let mut receiver = Receiver::without_descriptors(there);
        let (mut end, other_end) = io::pipe().unwrap();
        Sender::new(here).send(&7_u32, &[other_end.as_fd()]).unwrap();
        drop(other_end);
        assert_eq!(receiver.next::<u32>().unwrap(), Some(7));
        assert!(receiver.descriptor().is_err());
        // Nobody holds the pipe open.
        assert_eq!(end.read(&mut [0]).unwrap(), 0);
    }
}
