//! What a pod sends, and what sends it.

use std::{
    iter,
    net::UdpSocket,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use nix::sys::socket::{setsockopt, sockopt::UdpGsoSegment};

use super::{frame, packet};
use crate::{
    net::{POD, POD_INTERFACE, SINK},
    netns::Netns,
    scenario::{Filter, Load, PORT, RARE_PORT},
};

/// Bytes of a datagram, and how many of them make a super packet.
const SEGMENT: i32 = 1400;
const SEGMENTS: usize = 44;

/// Packets between two looks at the clock.
const PACED_BATCH: u64 = 20;

/// A load of counted packets, which some senders share.
pub struct Traffic {
    kind: Kind,
    senders: usize,
    share: u64,
}

enum Kind {
    /// As they are on the wire: the usual one, and each 100th.
    Frames(Vec<u8>, Option<Vec<u8>>),
    /// So many a second.
    SuperPackets(Option<u32>),
}

/// Sends packets from one pod.
pub enum Sender<'traffic> {
    /// As they are on the wire.
    Frames(packet::Sender<'traffic>),
    /// At the pace of this clock.
    SuperPackets(UdpSocket, Option<Pace>),
}

/// A clock that lets so many packets pass in a second.
pub struct Pace {
    per_second: u32,
    start: Option<Instant>,
    passed: u64,
}

impl Traffic {
    /// The packets of `load`, some of which `filter` wants.
    ///
    /// # Errors
    /// Not a load of counted packets.
    pub fn of(load: Load, filter: Filter) -> Result<Self> {
        Ok(match load {
            Load::Frames { len, ipv6, count, senders } => {
                let rare = (filter == Filter::OnePercent).then(|| frame::udp(len, ipv6, RARE_PORT));
                let kind = Kind::Frames(frame::udp(len, ipv6, PORT)?, rare.transpose()?);
                Self { kind, senders, share: count / senders as u64 }
            }
            Load::SuperPackets { count, per_second } => {
                Self { kind: Kind::SuperPackets(per_second), senders: 1, share: count }
            }
            Load::Tcp { .. } | Load::Silence { .. } => bail!("not a load of counted packets"),
        })
    }

    /// Half of it.
    pub fn halved(self) -> Self {
        Self { share: self.share / 2, ..self }
    }

    /// Of each sender.
    pub fn share(&self) -> u64 {
        self.share
    }

    /// Of all senders.
    pub fn packets(&self) -> u64 {
        self.share * self.senders as u64
    }

    /// A sender's share in pieces of `turn` packets.
    pub fn turns(&self, turn: u64) -> impl Iterator<Item = u64> {
        let mut left = self.share;
        iter::from_fn(move || {
            let next = left.min(turn);
            left -= next;
            (next > 0).then_some(next)
        })
    }

    /// The senders, in `pod`.
    ///
    /// # Errors
    /// Not root, or the kernel has no UDP segmentation offload.
    pub fn senders(&self, pod: &Netns) -> Result<Vec<Sender<'_>>> {
        pod.run(|| (0..self.senders).map(|_| self.sender()).collect())
    }

    fn sender(&self) -> Result<Sender<'_>> {
        Ok(match &self.kind {
            Kind::Frames(usual, rare) => {
                Sender::Frames(packet::Sender::new(POD_INTERFACE, usual, rare.as_deref())?)
            }
            Kind::SuperPackets(per_second) => {
                let pace = per_second.map(|per_second| Pace { per_second, start: None, passed: 0 });
                Sender::SuperPackets(super_packet_socket()?, pace)
            }
        })
    }
}

impl Sender<'_> {
    /// Sends exactly `count` packets.
    ///
    /// # Errors
    /// The kernel refuses them.
    pub fn send(&mut self, count: u64) -> Result<()> {
        match self {
            Self::Frames(frames) => frames.send(count),
            Self::SuperPackets(socket, pace) => send_super_packets(socket, pace.as_mut(), count),
        }
    }
}

impl Pace {
    /// Waits until the next packet may go.
    fn wait(&mut self) {
        let start = *self.start.get_or_insert_with(Instant::now);
        if self.passed.is_multiple_of(PACED_BATCH) {
            let due = start + Duration::from_secs_f64(self.passed as f64 / f64::from(self.per_second));
            thread::sleep(due.saturating_duration_since(Instant::now()));
        }
        self.passed += 1;
    }
}

fn super_packet_socket() -> Result<UdpSocket> {
    let socket = UdpSocket::bind((POD, 0)).context("cannot open a socket in the pod")?;
    socket.connect((SINK, PORT))?;
    setsockopt(&socket, UdpGsoSegment, &SEGMENT)
        .context("no UDP segmentation offload (Linux 4.18 has it)")?;
    Ok(socket)
}

fn send_super_packets(socket: &UdpSocket, mut pace: Option<&mut Pace>, count: u64) -> Result<()> {
    let data = [0; SEGMENT as usize * SEGMENTS];
    for _ in 0..count {
        if let Some(pace) = &mut pace {
            pace.wait();
        }
        socket.send(&data).context("cannot send")?;
    }
    Ok(())
}
