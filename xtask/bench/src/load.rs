//! The traffic: an exact number of packets from a thread that stays on one CPU, which so pays for the
//! whole path of each packet, from its socket through the veth pair to the node's IP.

mod frame;
mod packet;
mod tcp;

use std::{
    net::UdpSocket,
    sync::Barrier,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow};
use nix::sys::socket::{setsockopt, sockopt::UdpGsoSegment};

pub use self::tcp::transfer;
use crate::{
    cpu::{self, Spent, ThreadTimes},
    net::{self, Net},
    scenario::{Filter, Load, PORT},
};

/// Bytes of a datagram, and how many of them make a super packet.
const SEGMENT: i32 = 1400;
const SEGMENTS: usize = 44;

/// Packets between two looks at the clock.
const PACED_BATCH: u64 = 20;

/// What was sent, and what that took.
pub struct Sent {
    /// As many as were asked for.
    pub packets: u64,
    /// Of each sender.
    pub spent: Vec<Spent>,
}

impl Sent {
    /// CPU time of a packet in the senders' path, in ns.
    pub fn ns_per_packet(&self, softirqs_included: bool) -> f64 {
        let spent: Duration = self.spent.iter().map(|spent| spent.with_softirqs(softirqs_included)).sum();
        spent.as_secs_f64() * 1e9 / self.packets as f64
    }
}

/// Sends the packets of `load` from the first pod.
///
/// # Errors
/// A socket fails, or `load` is none that consists of counted packets.
pub fn send(net: &Net, load: Load, filter: Filter) -> Result<Sent> {
    match load {
        Load::Frames { len, ipv6, count, senders } => {
            let usual = frame::udp(len, ipv6, PORT)?;
            let rare = frame::udp(len, ipv6, crate::scenario::RARE_PORT)?;
            let rare = (filter == Filter::OnePercent).then_some(&rare[..]);
            let share = count / senders as u64;
            let start = Barrier::new(senders);
            let spent = on_cpus(net, senders, || {
                let mut sender = packet::Sender::new(net::POD_INTERFACE, &usual, rare)?;
                start.wait();
                timed(|| sender.send(share))
            })?;
            Ok(Sent { packets: share * senders as u64, spent })
        }
        Load::SuperPackets { count, per_second } => {
            let spent = on_cpus(net, 1, || {
                let socket = super_packet_socket()?;
                timed(|| send_super_packets(&socket, count, per_second))
            })?;
            Ok(Sent { packets: count, spent })
        }
        Load::Tcp { .. } | Load::Silence { .. } => Err(anyhow!("not a load of counted packets")),
    }
}

/// Runs `work` on each of the first CPUs, inside the first pod.
fn on_cpus(net: &Net, cpus: usize, work: impl Fn() -> Result<Spent> + Sync) -> Result<Vec<Spent>> {
    let pinned = |cpu| {
        net.pod.run(|| {
            cpu::pin(cpu)?;
            work()
        })
    };
    thread::scope(|scope| {
        let threads: Vec<_> =
            (0..cpus).map(|index| scope.spawn(move || pinned(cpu::SENDER + index))).collect();
        threads.into_iter().map(|thread| thread.join().map_err(|_| anyhow!("a sender panicked"))?).collect()
    })
}

fn timed(work: impl FnOnce() -> Result<()>) -> Result<Spent> {
    let start = ThreadTimes::now()?;
    work()?;
    start.spent()
}

fn super_packet_socket() -> Result<UdpSocket> {
    let socket = UdpSocket::bind((net::POD, 0)).context("cannot open a socket in the pod")?;
    socket.connect((net::SINK, PORT))?;
    setsockopt(&socket, UdpGsoSegment, &SEGMENT)
        .context("no UDP segmentation offload (Linux 4.18 has it)")?;
    Ok(socket)
}

fn send_super_packets(socket: &UdpSocket, count: u64, per_second: Option<u32>) -> Result<()> {
    let data = [0; SEGMENT as usize * SEGMENTS];
    let start = Instant::now();
    for index in 0..count {
        if let Some(rate) = per_second
            && index % PACED_BATCH == 0
        {
            let due = start + Duration::from_secs_f64(index as f64 / f64::from(rate));
            thread::sleep(due.saturating_duration_since(Instant::now()));
        }
        socket.send(&data).context("cannot send")?;
    }
    Ok(())
}
