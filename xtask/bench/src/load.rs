//! The traffic: an exact number of packets from threads that stay on their CPUs, each of which so pays for the whole
//! path of its packets, from its socket through the veth pair to the node's IP.

mod frame;
mod packet;
mod tcp;
mod traffic;

use std::{sync::Barrier, thread};

use anyhow::{Context as _, Result, anyhow};

pub use self::tcp::transfer;
use self::traffic::{Sender, Traffic};
use crate::{
    cpu::{self, Spent, ThreadTimes},
    median::median,
    net::Net,
    scenario::{Filter, Load},
};

/// Packets from one pod before it is the other's turn: some milliseconds, in which the machine stays the same.
const TURN: u64 = 2_000;

/// What was sent, and what that took.
pub struct Sent {
    /// As many as were asked for.
    pub packets: u64,
    /// Of each sender.
    pub spent: Vec<Spent>,
}

/// A packet of the first pod beside one of its twin: CPU time in the senders' path, in ns.
pub struct Compared {
    /// Sent from the first pod, and from the twin too.
    pub packets: u64,
    /// Of a packet of the twin.
    pub bare_ns: f64,
    /// What one of the first pod takes more.
    pub more_ns: f64,
}

/// Sends the packets of `load` from the first pod.
///
/// # Errors
/// A socket fails, or `load` is none that consists of counted packets.
pub fn send(net: &Net, load: Load, filter: Filter) -> Result<Sent> {
    let traffic = Traffic::of(load, filter)?;
    let spent = on_cpus(traffic.senders(&net.pod)?, |mut sender| timed(|| sender.send(traffic.share())))?;
    Ok(Sent { packets: traffic.packets(), spent })
}

/// Sends half of the packets of `load` from the first pod and as many from its twin, in turns. What else the machine
/// does meets both alike; what meets one alone, the medians leave out.
///
/// # Errors
/// As for [`send`].
pub fn compare(net: &Net, load: Load, filter: Filter, softirqs_included: bool) -> Result<Compared> {
    let traffic = Traffic::of(load, filter)?.halved();
    let (pods, twins) = (traffic.senders(&net.pod)?, traffic.senders(&net.twin)?);
    let together = Barrier::new(pods.len());
    let cost = |sender: &mut Sender<'_>, count: u64| -> Result<f64> {
        // All send for the same pod at the same time.
        together.wait();
        let spent = timed(|| sender.send(count))?.with_softirqs(softirqs_included);
        Ok(spent.as_secs_f64() * 1e9 / count as f64)
    };
    let turns = on_cpus(pods.into_iter().zip(twins).collect(), |(mut pod, mut twin)| {
        let counts = traffic.turns(TURN);
        // Nothing ends early: somebody may wait for this sender.
        Ok(counts.map(|count| (cost(&mut pod, count), cost(&mut twin, count))).collect::<Vec<_>>())
    })?;
    let turns = turns.into_iter().flatten().map(|(pod, twin)| Ok((pod?, twin?)));
    let turns: Vec<(f64, f64)> = turns.collect::<Result<_>>()?;
    let bare_ns = median(turns.iter().map(|(_, twin)| *twin)).context("nothing was sent")?;
    let more_ns = median(turns.iter().map(|(pod, twin)| pod - twin)).context("nothing was sent")?;
    Ok(Compared { packets: traffic.packets(), bare_ns, more_ns })
}

/// Runs `work` with each of `senders`, on a CPU of its own.
fn on_cpus<S: Send, T: Send>(senders: Vec<S>, work: impl Fn(S) -> Result<T> + Sync) -> Result<Vec<T>> {
    let pinned = |cpu, sender| {
        cpu::pin(cpu)?;
        work(sender)
    };
    thread::scope(|scope| {
        let spawn = |(cpu, sender)| scope.spawn(move || pinned(cpu, sender));
        let threads: Vec<_> = (cpu::SENDER..).zip(senders).map(spawn).collect();
        threads.into_iter().map(|thread| thread.join().map_err(|_| anyhow!("a sender panicked"))?).collect()
    })
}

fn timed(work: impl FnOnce() -> Result<()>) -> Result<Spent> {
    let start = ThreadTimes::now()?;
    work()?;
    start.spent()
}
