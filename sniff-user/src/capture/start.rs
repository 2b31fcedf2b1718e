//! The start of a capture.

use std::{mem, sync::Arc};

use anyhow::{Context as _, Result};
use log::{info, warn};
use sniff_output::Output;
use sniff_pcapng::{Names, SectionHeader};
use tokio::sync::{mpsc, oneshot};

use crate::{
    bpf::{
        BootClock,
        object::{KernelSide, Sizes},
        ring::Batch,
    },
    capture::{
        control::Progress,
        drain::Drain,
        plan::{OpenOutput, Plan},
        status::Status,
        taps::{Taps, prepare},
    },
    system::{System, clock::Clock, signals::Stages},
    targets::PodsToCome,
};

/// A capture whose classifiers are attached.
pub struct Started {
    pub taps: Taps,
    pub status: Status,
    /// What addresses are called, as that becomes known.
    pub names: Option<mpsc::UnboundedReceiver<Names>>,
    /// Pods that come.
    pub to_come: Option<PodsToCome>,
    /// Hears when the output has ended by itself.
    pub drained: oneshot::Receiver<()>,
}

/// Attaches to as many interfaces as it can before a signal asks for an end.
///
/// # Errors
///
/// When none can be attached to, the output cannot be opened, or the kernel refuses.
pub fn start(mut plan: Plan, output: OpenOutput, progress: &Progress, stages: &Stages) -> Result<Started> {
    let general = plan.filter.read()?;
    let interfaces = mem::take(&mut plan.interfaces);
    let (prepared, refused) = prepare(general.as_deref(), &plan, 0, interfaces)?;
    go_on_without(refused, !prepared.is_empty())?;
    let Plan { ring, ring_bytes, sorting, batch, count, both_ends, .. } = plan;
    let mut kernel_side = KernelSide::load(Sizes { ring, ring_bytes, batch })?;
    // Only here, so that a capture that cannot start leaves an older file as it is.
    let mut output = Output::new(output()?, Arc::clone(&progress.written));
    let mut block = Vec::new();
    section_header(&plan.system).write(&mut block);
    output.block(&block)?;
    let (mut names, to_come) = (plan.names.take(), plan.to_come.take());
    output.names(&names.as_mut().map(known).unwrap_or_default())?;
    // An output that takes nothing is found out here, before anything is attached.
    output.flush()?;
    stages.capturing();
    let clock = measure_clock()?;
    let ring = kernel_side.take_ring(sorting, clock)?;
    let gauge = ring.gauge();
    // It is the only one.
    let _ = progress.gauge.set(Arc::clone(&gauge));
    let status = Status::new(gauge);
    let (drain, drained) =
        Drain::start(ring, output, count, both_ends, batch == Batch::Packet, stages.clone())?;
    let (wanted, room) = (prepared.len(), prepared.len() + plan.room as usize);
    let mut taps = Taps::new(plan, general, room, kernel_side, clock, drain);
    let refused = taps.begin(prepared, || stages.is_to_end())?;
    let all_were_tried = taps.iter().len() + refused.len() == wanted;
    go_on_without(refused, !taps.is_empty())?;
    if all_were_tried && (wanted > 0 || to_come.is_some()) {
        info!("listening on {} interface(s)", taps.iter().len());
    }
    Ok(Started { taps, status, names, to_come, drained })
}

/// What is known by now.
fn known(names: &mut mpsc::UnboundedReceiver<Names>) -> Names {
    let mut known = Names::default();
    while let Ok(names) = names.try_recv() {
        known.update(&names);
    }
    known
}

/// Says who is not captured; an error when nobody is.
fn go_on_without(refused: Vec<anyhow::Error>, are_any_left: bool) -> Result<()> {
    let mut refused = refused.into_iter();
    if !are_any_left && let Some(first) = refused.next() {
        return Err(first);
    }
    for error in refused {
        warn!("not captured: {error:#}");
    }
    Ok(())
}

/// The clock of the packets.
fn measure_clock() -> Result<Clock> {
    let boot = BootClock::load();
    let boot = boot.context("the kernel does not load the program that reads its clock")?;
    Clock::measure(|| boot.read().context("the kernel does not tell its clock"))
}

fn section_header(system: &System) -> SectionHeader {
    SectionHeader {
        hardware: Some(system.hardware.clone()),
        os: Some(system.os.clone()),
        application: format!("sniff {}", env!("CARGO_PKG_VERSION")),
        comment: None,
    }
}
