//! Frames through a packet socket: many with one system call, and past the queueing discipline.

use std::{
    io::IoSlice,
    os::fd::{AsRawFd as _, OwnedFd},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use nix::{
    errno::Errno,
    ifaddrs::getifaddrs,
    setsockopt_impl,
    sys::socket::{
        AddressFamily, LinkAddr, MsgFlags, MultiHeaders, SockFlag, SockType, bind, sendmmsg, setsockopt,
        socket, sockopt::SetBool,
    },
};

/// Frames of one system call. Each 100th frame may be of another flow.
pub const BATCH: usize = 100;

/// How long all frames may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// `PACKET_QDISC_BYPASS` of packet(7).
#[derive(Clone, Copy)]
struct QdiscBypass;
setsockopt_impl!(QdiscBypass, libc::SOL_PACKET, libc::PACKET_QDISC_BYPASS, bool, SetBool);

/// Sends frames on one interface.
pub struct Sender<'frame> {
    socket: OwnedFd,
    frames: Vec<[IoSlice<'frame>; 1]>,
    /// The frame whose turn it is.
    next: usize,
}

impl<'frame> Sender<'frame> {
    /// A sender of `frames` in turn, a multiple of [`BATCH`], on `interface` of the calling thread's network namespace.
    ///
    /// # Errors
    /// Not root, or no such interface.
    pub fn new(interface: &str, frames: impl Iterator<Item = &'frame [u8]>) -> Result<Self> {
        let socket = socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, None)
            .context("cannot open a packet socket")?;
        setsockopt(&socket, QdiscBypass, &true).context("cannot set PACKET_QDISC_BYPASS")?;
        // Protocol 0: bound for sending only.
        bind(socket.as_raw_fd(), &link_address(interface)?)
            .with_context(|| format!("cannot bind to {interface}"))?;
        let frames = frames.map(|frame| [IoSlice::new(frame)]).collect();
        Ok(Self { socket, frames, next: 0 })
    }

    /// Sends exactly `count` frames.
    ///
    /// # Errors
    /// The interface refuses frames, or takes none for too long.
    pub fn send(&mut self, count: u64) -> Result<()> {
        let Self { socket, frames, next } = self;
        let mut headers = MultiHeaders::preallocate(BATCH, None);
        let no_addresses = [None::<LinkAddr>; BATCH];
        let (start, mut sent) = (Instant::now(), 0);
        while sent < count {
            let end =
                (*next - *next % BATCH + BATCH).min(*next + usize::try_from(count - sent).unwrap_or(BATCH));
            let batch = &frames[*next..end];
            match sendmmsg(
                socket.as_raw_fd(),
                &mut headers,
                batch,
                &no_addresses[..batch.len()],
                [],
                MsgFlags::empty(),
            ) {
                Ok(results) => {
                    let taken = results.count();
                    sent += taken as u64;
                    *next = (*next + taken) % frames.len();
                }
                // With an XDP program on it, a veth pair has a queue, which may be full. The frame is not sent then.
                Err(Errno::ENOBUFS) if start.elapsed() < PATIENCE => thread::yield_now(),
                Err(error) => return Err(error).context("cannot send"),
            }
        }
        Ok(())
    }
}

fn link_address(interface: &str) -> Result<LinkAddr> {
    getifaddrs()
        .context("cannot list interfaces")?
        .filter(|entry| entry.interface_name == interface)
        .find_map(|entry| entry.address?.as_link_addr().copied())
        .with_context(|| format!("no interface {interface}"))
}
