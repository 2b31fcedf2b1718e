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
const BATCH: usize = 100;

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
}

impl<'frame> Sender<'frame> {
    /// A sender of `usual` on `interface` of the calling thread's network namespace; each 100th is `rare`.
    ///
    /// # Errors
    /// Not root, or no such interface.
    pub fn new(interface: &str, usual: &'frame [u8], rare: Option<&'frame [u8]>) -> Result<Self> {
        let socket = socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, None)
            .context("cannot open a packet socket")?;
        setsockopt(&socket, QdiscBypass, &true).context("cannot set PACKET_QDISC_BYPASS")?;
        // Protocol 0: bound for sending only.
        bind(socket.as_raw_fd(), &link_address(interface)?)
            .with_context(|| format!("cannot bind to {interface}"))?;
        let mut frames = vec![[IoSlice::new(usual)]; BATCH];
        if let Some(rare) = rare {
            frames[BATCH - 1] = [IoSlice::new(rare)];
        }
        Ok(Self { socket, frames })
    }

    /// Sends exactly `count` frames.
    ///
    /// # Errors
    /// The interface refuses frames, or takes none for too long.
    pub fn send(&mut self, count: u64) -> Result<()> {
        let Self { socket, frames } = self;
        let mut headers = MultiHeaders::preallocate(BATCH, None);
        let no_addresses = [None::<LinkAddr>; BATCH];
        let (start, mut sent) = (Instant::now(), 0);
        while sent < count {
            let first = (sent % BATCH as u64) as usize;
            let end = BATCH.min(first + usize::try_from(count - sent).unwrap_or(BATCH));
            let batch = &frames[first..end];
            match sendmmsg(
                socket.as_raw_fd(),
                &mut headers,
                batch,
                &no_addresses[first..end],
                [],
                MsgFlags::empty(),
            ) {
                Ok(results) => sent += results.count() as u64,
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
