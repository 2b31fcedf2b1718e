//! The start of a capture.

use std::{mem, sync::Arc};

use anyhow::{Context as _, Result};
use log::{info, warn};
use sniff_pcapng::{Names, SectionHeader};
use tokio::sync::{mpsc, oneshot};

use crate::{
    bpf::{
        BootClock,
        checksum::Summed,
        object::{KernelSide, Sizes},
        ring::{self, Batch},
    },
    capture::{
        control::Progress,
        plan::Plan,
        recorder::{self, Wish},
        status::Status,
        taps::{Taps, prepare},
    },
    halves::{Writer, message::Draining},
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
    /// Who wants to have what is recorded.
    pub wishes: Option<mpsc::UnboundedReceiver<Wish>>,
    /// Hears when the output has ended by itself.
    pub drained: oneshot::Receiver<()>,
}

/// Attaches to as many interfaces as it can before a signal asks for an end.
///
/// # Errors
///
/// When none can be attached to, the output cannot be opened, or the kernel refuses.
pub fn start(mut plan: Plan, mut front: Writer, progress: &Progress, stages: &Stages) -> Result<Started> {
    let general = plan.filter.read()?;
    let interfaces = mem::take(&mut plan.interfaces);
    let names = interfaces.iter().map(|interface| interface.name.clone());
    let what: Vec<String> = names.chain(plan.to_come.iter().flat_map(PodsToCome::kinds)).collect();
    let (prepared, refused) = prepare(general.as_deref(), &plan, 0, interfaces)?;
    go_on_without(refused, !prepared.is_empty())?;
    let Plan { ring, ring_bytes, sorting, batch, compress, count, both_ends, cutoff, .. } = plan;
    let sizes = Sizes { ring, ring_bytes, batch, has_cutoff: cutoff.is_some() };
    let mut kernel_side = KernelSide::load(sizes)?;
    let mut section = Vec::new();
    section_header(&plan.system).write(&mut section);
    let (mut names, to_come) = (plan.names.take(), plan.to_come.take());
    let what = plan.what.take().unwrap_or_else(|| what.join(", "));
    let wishes = (ring == ring::Kind::Recorder).then(|| recorder::listen(what)).transpose()?;
    // Only here, so that a capture that cannot start leaves an older file as it is; and before anything is attached.
    front.open(compress, section, &names.as_mut().map(known).unwrap_or_default())?;
    stages.capturing();
    let clock = measure_clock()?;
    let (shape, maps) = kernel_side.ring()?;
    let free = kernel_side.take_free()?;
    let gauge = Arc::new(kernel_side.gauge(&free)?);
    // It is the only one.
    let _ = progress.gauge.set(Arc::clone(&gauge));
    let status = Status::new(gauge);
    let how = Draining {
        shape,
        sorting,
        clock,
        count,
        both_ends,
        packet_buffered: batch == Batch::Packet,
        marks_unsummed: Summed::known().is_none(),
    };
    front.drain(how, maps, free)?;
    let drained = front.take_ended();
    let (wanted, room) = (prepared.len(), prepared.len() + plan.room as usize);
    let mut taps = Taps::new(plan, general, room, kernel_side, clock, front);
    let refused = taps.begin(prepared, || stages.is_to_end())?;
    let all_were_tried = taps.iter().len() + refused.len() == wanted;
    go_on_without(refused, !taps.is_empty())?;
    if all_were_tried && (wanted > 0 || to_come.is_some()) {
        info!("listening on {} interface(s)", taps.iter().len());
    }
    if taps.is_recording() {
        let memory = taps.kernel_side.describe_ring();
        let others = if taps.appends_what_is_recorded() {
            "; SIGUSR1 and the end have what is new written"
        } else {
            ""
        };
        info!("recording in memory, {memory}; `sniff save -w FILE` writes what is held{others}");
    }
    Ok(Started { taps, status, names, to_come, wishes, drained })
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

/// What a file says of where it was made.
pub fn section_header(system: &System) -> SectionHeader {
    SectionHeader {
        hardware: Some(system.hardware.clone()),
        os: Some(system.os.clone()),
        application: format!("sniff {}", env!("CARGO_PKG_VERSION")),
        comment: None,
    }
}
