//! What a pod sends, and what sends it.

use std::{
    iter,
    net::UdpSocket,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use nix::sys::socket::{setsockopt, sockopt::UdpGsoSegment};

use super::{
    frame,
    packet::{self, BATCH},
};
use crate::{
    net::{POD, POD_INTERFACE, SINK},
    netns::Netns,
    scenario::{Filter, Load, PORT, Payload, RARE_PORT},
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
    /// As they are on the wire, in turn; so many a second.
    Frames(Vec<Vec<u8>>, Option<u32>),
    /// So many a second.
    SuperPackets(Option<u32>),
}

/// Sends packets from one pod.
pub enum Sender<'traffic> {
    /// As they are on the wire.
    Frames(packet::Sender<'traffic>, Option<Pace>),
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
            Load::Frames { len, ipv6, count, senders, per_second, payload } => {
                let is_rare = |number| filter == Filter::OnePercent && number % BATCH == BATCH - 1;
                let port = |number| if is_rare(number) { RARE_PORT } else { PORT };
                let frame = |number| frame::udp(len, ipv6, port(number), payload, number);
                let frames = (0..different(payload)).map(frame).collect::<Result<_>>()?;
                Self { kind: Kind::Frames(frames, per_second), senders, share: count / senders as u64 }
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
        steps(self.share, turn)
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
            Kind::Frames(frames, per_second) => {
                let sender = packet::Sender::new(POD_INTERFACE, frames.iter().map(Vec::as_slice))?;
                Sender::Frames(sender, per_second.map(Pace::of))
            }
            Kind::SuperPackets(per_second) => {
                Sender::SuperPackets(super_packet_socket()?, per_second.map(Pace::of))
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
            Self::Frames(frames, None) => frames.send(count),
            Self::Frames(frames, Some(pace)) => {
                for step in steps(count, PACED_BATCH) {
                    pace.wait(step);
                    frames.send(step)?;
                }
                Ok(())
            }
            Self::SuperPackets(socket, pace) => send_super_packets(socket, pace.as_mut(), count),
        }
    }
}

impl Pace {
    fn of(per_second: u32) -> Self {
        Self { per_second, start: None, passed: 0 }
    }

    /// Waits until so many packets more may go.
    fn wait(&mut self, packets: u64) {
        let start = *self.start.get_or_insert_with(Instant::now);
        let due = start + Duration::from_secs_f64(self.passed as f64 / f64::from(self.per_second));
        thread::sleep(due.saturating_duration_since(Instant::now()));
        self.passed += packets;
    }
}

/// `count` in pieces of `step`.
fn steps(count: u64, step: u64) -> impl Iterator<Item = u64> {
    let mut left = count;
    iter::from_fn(move || {
        let next = left.min(step);
        left -= next;
        (next > 0).then_some(next)
    })
}

/// How many frames differ. What comes again must be further away than compression looks back.
fn different(payload: Payload) -> usize {
    match payload {
        Payload::Zeros => BATCH,
        Payload::Text | Payload::Random => 20 * BATCH,
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
    for step in steps(count, PACED_BATCH) {
        if let Some(pace) = &mut pace {
            pace.wait(step);
        }
        for _ in 0..step {
            socket.send(&data).context("cannot send")?;
        }
    }
    Ok(())
}
