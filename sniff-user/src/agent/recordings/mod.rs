//! Recorders for pods of this node, so that the minutes before an incident are there: each is a session that the agent holds with
//! itself, in memory of its own, within a budget.
//!
//! - [`sight`]: the node's pods, and which are to be [recorded](wanted); [`book`]: who is, and what that takes; [`child`]: one recorder.
//! - [`triggers`]: what has a recording saved by itself, events, and alerts of a [`webhook`]; [`gate`]: how often; [`shelf`]: where such
//!   files are kept.

mod book;
mod child;
mod gate;
pub mod shelf;
mod sight;
pub mod triggers;
mod wanted;
pub(super) mod webhook;

use std::{
    collections::HashMap,
    os::fd::AsFd as _,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use anyhow::{Context as _, Result};
use bytesize::ByteSize;
use log::{error, info, warn};
use sniff_kubernetes::{Cluster, events::News};
use sniff_protocol::message::Recording;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::{Notify, mpsc, oneshot, watch},
    task::JoinSet,
    time::{Instant, sleep_until},
};

pub use self::child::Nursery;
use self::{
    book::{Book, Number, Order},
    gate::{Gate, Heard, Save},
    shelf::{Label, Shelf},
    sight::Sight,
    triggers::{Reason, Trigger},
    wanted::Wanted,
    webhook::{Alert, Fate},
};
use super::{
    FOREVER,
    audit::PodId,
    events::SessionEvents,
    metrics::Text,
    wire::{Recorded, Remit, Report},
};
use crate::{
    capture::recorder::{Request, ask},
    system::clock,
};

/// Most files of which a list tells.
const MAX_LISTED: usize = 2000;

/// What may be recorded, and where what triggers save is kept.
#[derive(Clone, Debug)]
pub struct Options {
    /// Bytes of memory for all recorders.
    pub memory: u64,
    /// How long what was recorded of a pod that is gone is held at most.
    pub keep: Duration,
    /// The folder for files, and their bytes at most.
    pub folder: PathBuf,
    pub folder_bytes: u64,
    /// What has a recording saved by itself.
    pub triggers: triggers::Wanted,
    /// What events do, too.
    pub events: triggers::Events,
}

/// Recorders of a node.
pub(super) struct Recordings {
    options: Options,
    book: Mutex<Book>,
    gate: Mutex<Gate>,
    shelf: Shelf,
    events: SessionEvents,
    /// Something is due earlier than it was.
    is_due: Notify,
}

/// What runs on behalf of them.
#[derive(Default)]
struct Running {
    recorders: JoinSet<(Number, Result<()>)>,
    /// How each is told to end.
    stops: HashMap<Number, oneshot::Sender<()>>,
    saves: JoinSet<PodId>,
}

/// Opens the folder, and has pods recorded from here on.
///
/// # Errors
///
/// When there can be no files in the folder, or no Kubernetes API is configured that says who is to be recorded.
pub(super) async fn begin(
    options: Options,
    nursery: Nursery,
    events: SessionEvents,
) -> Result<Arc<Recordings>> {
    let cluster = Cluster::of_node().await?;
    let cluster = cluster.context(
        "recording (SNIFF_RECORD_MEMORY) takes a Kubernetes API that says which pods are to be recorded, and none is configured",
    )?;
    let news = cluster.clone().follow_events(options.events.reasons().map(str::to_owned).collect());
    let sights = sight::follow(cluster, &nursery.node, options.triggers.has(&Reason::Rate));
    let recordings = Arc::new(Recordings::open(options, events)?);
    tokio::spawn(Arc::clone(&recordings).hear_events(news));
    let running = Arc::clone(&recordings).run(nursery, sights);
    tokio::spawn(async move {
        if let Err(error) = running.await {
            error!("nothing is recorded any more: {error:#}");
        }
    });
    Ok(recordings)
}

impl Recordings {
    /// None yet. Files of earlier times are there.
    ///
    /// # Errors
    ///
    /// When there can be no files in the folder.
    fn open(options: Options, events: SessionEvents) -> Result<Self> {
        let shelf = Shelf::open(&options.folder, options.folder_bytes)?;
        let book = Mutex::new(Book::new(options.memory, options.keep));
        let gate = Mutex::new(Gate::new(gate::Limits::default()));
        Ok(Self { options, book, gate, shelf, events, is_due: Notify::new() })
    }

    /// Has pods recorded as they are to be, until the agent ends.
    ///
    /// # Errors
    ///
    /// When the system does not tell of signals.
    async fn run(self: Arc<Self>, nursery: Nursery, mut sights: watch::Receiver<Sight>) -> Result<()> {
        let mut running = Running::default();
        let mut saves_all = signal(SignalKind::user_defined1())?;
        let mut sight = Sight::default();
        info!("recordings may take {} of memory", ByteSize(self.options.memory));
        loop {
            let orders = self.book().heed(&sight.wanted, &sight.there, Instant::now());
            orders.into_iter().for_each(|order| self.carry_out(order, &nursery, &mut running));
            let due = self.gate().due(Instant::now());
            due.into_iter().for_each(|save| self.begin_to_save(save, &mut running));
            let next = [self.book().next(), self.gate().next()].into_iter().flatten().min();
            tokio::select! {
                changed = sights.changed() => {
                    // What follows the pods goes on as long as somebody hears of them.
                    changed.context("nobody tells of pods any more")?;
                    let after = sights.borrow_and_update().clone();
                    self.compare(&sight, &after);
                    sight = after;
                }
                Some(Ok((number, ended))) = running.recorders.join_next() => {
                    running.stops.remove(&number);
                    let orders = match ended {
                        Ok(()) => Vec::new(),
                        Err(error) => self.book().failed(number, format!("{error:#}"), Instant::now()),
                    };
                    orders.into_iter().for_each(|order| self.carry_out(order, &nursery, &mut running));
                }
                Some(Ok(pod)) = running.saves.join_next() => {
                    if let Some(Save { triggers, more, .. }) = self.gate().ended(&pod)
                        && triggers.len() > 1
                    {
                        let PodId { namespace, name, .. } = pod;
                        info!("{} more triggers have joined the save of {namespace}/{name}", triggers.len() as u64 - 1 + more);
                    }
                }
                Some(()) = saves_all.recv() => self.save_all(),
                () = self.is_due.notified() => {}
                () = sleep_until(next.unwrap_or_else(|| Instant::now() + FOREVER)) => {}
            }
        }
    }

    fn carry_out(self: &Arc<Self>, order: Order, nursery: &Nursery, running: &mut Running) {
        match order {
            Order::Start(wanted) => {
                let Some(number) = self.book().number(&wanted.pod.uid) else { return };
                let (stop, stopped) = oneshot::channel();
                running.stops.insert(number, stop);
                let (this, nursery) = (Arc::clone(self), nursery.clone());
                running.recorders.spawn(async move {
                    let recorded = this.record(&nursery, number, &wanted, stopped).await;
                    (number, recorded)
                });
            }
            Order::End(number) => {
                // One that has ended by itself is about to be heard of.
                let _ = running.stops.remove(&number).map(|stop| stop.send(()));
            }
            Order::Tell(pod, why) => {
                warn!("{}/{} is not recorded: {why}", pod.namespace, pod.name);
                self.events.not_recorded(&pod, &why);
            }
        }
    }

    /// One recorder from its start to its end.
    async fn record(
        &self,
        nursery: &Nursery,
        number: Number,
        wanted: &Wanted,
        stop: oneshot::Receiver<()>,
    ) -> Result<()> {
        let (recorder, pid) = nursery.start(wanted).await?;
        self.book().runs(number, pid);
        recorder.attend(stop, || self.book().records(number, clock::now())).await
    }

    /// Finds out what has happened to pods that are recorded.
    fn compare(&self, before: &Sight, after: &Sight) {
        for (uid, (pod, state)) in &after.states {
            let before = before.states.get(uid).map(|(_, state)| state);
            let wanted = triggers::triggers(before, state, clock::now()).into_iter();
            for trigger in wanted.filter(|trigger| self.options.triggers.has(&trigger.reason)) {
                self.hear(pod, trigger);
            }
        }
    }

    /// Hears of something that has the recording of a pod saved, if there is one.
    fn hear(&self, pod: &PodId, trigger: Trigger) -> Fate {
        if self.book().process(&pod.uid).is_none() {
            return Fate::Elsewhere;
        }
        info!("{}/{}: {trigger}", pod.namespace, pod.name);
        match self.gate().hear(pod, trigger, Instant::now()) {
            Heard::Saves(_) => {
                self.is_due.notify_one();
                Fate::Saves
            }
            Heard::Joins => Fate::Joins,
            Heard::Refused => {
                warn!("{}/{} is not saved: as many were within an hour as may be", pod.namespace, pod.name);
                Fate::Refused
            }
        }
    }

    /// Whether alerts have anything saved.
    pub(super) fn takes_alerts(&self) -> bool {
        self.options.triggers.has(&Reason::Alert)
    }

    /// Hears of an alert.
    pub(super) fn alert(&self, alert: Alert) -> Fate {
        let Alert { namespace, pod, trigger } = alert;
        let pod = self.book().called(&namespace, &pod);
        pod.map_or(Fate::Elsewhere, |pod| self.hear(&pod, trigger))
    }

    /// Hears of events of all pods of the cluster. Whoever may write them in a namespace can name any UID, but reaches pods of
    /// that namespace alone.
    async fn hear_events(self: Arc<Self>, mut news: mpsc::Receiver<News>) {
        while let Some(event) = news.recv().await {
            let [namespace, name, uid] = [&event.namespace, &event.pod, &event.pod_uid].map(String::clone);
            let pod = PodId { namespace, name, uid };
            let is_recorded = self.book().has(&pod);
            if is_recorded {
                self.hear(&pod, triggers::of_event(&event, clock::now()));
            }
        }
    }

    /// Has all that is held saved.
    fn save_all(&self) {
        let pods: Vec<PodId> = self.book().sources(None).into_iter().map(|source| source.pod).collect();
        for pod in pods {
            let words = "somebody has signalled the agent (SIGUSR1)".to_owned();
            self.hear(&pod, Trigger { reason: Reason::Signal, words, time: clock::now() });
        }
    }

    fn begin_to_save(self: &Arc<Self>, save: Save, running: &mut Running) {
        let this = Arc::clone(self);
        running.saves.spawn_blocking(move || {
            let PodId { namespace, name, uid } = save.pod.clone();
            match this.save(&save) {
                Ok(file) => {
                    info!("what was recorded of {namespace}/{name} is saved: {file}");
                    this.book().saved(&uid, clock::now());
                    this.events.saved(&save.pod, &file, save.reason().name());
                }
                Err(error) => warn!("what was recorded of {namespace}/{name} cannot be saved: {error:#}"),
            }
            save.pod
        });
    }

    /// Saves what is held of a pod; returns the file's name. Blocks.
    fn save(&self, save: &Save) -> Result<String> {
        let PodId { namespace, name, uid } = save.pod.clone();
        let (pid, held) = self.book().process(&uid).context("its recorder has ended")?;
        // Before others make room for it.
        let recorder = ask::of(pid)?;
        let label = Label { namespace, pod: name, reason: save.reason(), time: clock::now() };
        let draft = self.shelf.begin(&label, held)?;
        let request = Request { note: Some(save.comment()), ..Request::default() };
        recorder.save(request, draft.as_fd())?;
        Ok(draft.finish()?.name)
    }

    /// What is recorded, and was saved, that whoever has this remit may have.
    pub(super) fn recorded(&self, remit: Option<&Remit>) -> Recorded {
        let (mut recordings, sources) = {
            let book = self.book();
            (book.recordings(remit), book.sources(remit))
        };
        recordings.disk = self.options.folder_bytes;
        match self.shelf.list() {
            Ok(saved) => {
                let mine = |it: &Recording| remit.is_none_or(|remit| remit.covers(&it.namespace));
                recordings.saved = saved.into_iter().filter(mine).take(MAX_LISTED).collect();
            }
            Err(error) => warn!("{error:#}"),
        }
        Recorded { recordings, sources, folder: Some(self.options.folder.clone()) }
    }

    /// Takes in what a recorder's process reports.
    pub(super) fn report(&self, pid: i32, report: &Report) {
        self.book().report(pid, report);
        let Some(rate) = report.alarm else { return };
        let alarming = self.book().alarm(pid);
        if let Some((pod, alarm)) = alarming {
            self.hear(&pod, triggers::too_fast(rate, &alarm, clock::now()));
        }
    }

    /// All in Prometheus' text format.
    pub(super) fn metrics(&self) -> String {
        let mut text = Text::default();
        let gate::Counts { saves, joined, refused } = self.gate().counts();
        text.counter("sniff_record_saves_total", "Times that a trigger had a recording saved.")
            .sample(&[], saves);
        text.counter("sniff_record_triggers_joined_total", "Triggers that have joined such a save.")
            .sample(&[], joined);
        text.counter("sniff_record_triggers_refused_total", "Triggers that a limit has refused.")
            .sample(&[], refused);
        match self.shelf.counts() {
            Ok(shelf::Counts { files, bytes, evicted, refused }) => {
                text.gauge("sniff_recordings", "Files that triggers had saved.").sample(&[], files);
                text.gauge("sniff_recordings_bytes", "Their bytes.").sample(&[], bytes);
                text.counter("sniff_recordings_evicted_total", "Files that made room for others.")
                    .sample(&[], evicted);
                text.counter("sniff_recordings_refused_total", "Files for which there was no room.")
                    .sample(&[], refused);
            }
            Err(error) => warn!("{error:#}"),
        }
        self.book().metrics(clock::now()) + &text.finish()
    }

    /// It is consistent between any two statements.
    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// As above.
    fn gate(&self) -> MutexGuard<'_, Gate> {
        self.gate.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
