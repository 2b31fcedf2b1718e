//! The order of a capture, from its first classifier to its last block.
//!
//! It is what makes the accounts exact. Start: describe the interfaces in the output, then attach. End: detach, then
//! empty the ring, then read the counters, then write the statistics.

use std::{
    future, mem,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use log::{info, warn};
use sniff_cli::{logging, status_line::StatusLine};
use sniff_pcapng::Names;
use tokio::{
    sync::{mpsc, oneshot},
    task, time,
};

use crate::{
    bpf::ring::Held,
    capture::{
        accounts::Accounts,
        control::{Event, Order, Progress, Remote, Why},
        newcomers::{Found, Newcomers},
        plan::{Detail, Plan},
        recorder::{Due, OBSERVATION, Request, Saves, Wish, estimate},
        start::{Started, start},
        status::Status,
        tap::Tap,
        taps::Taps,
        watch::{self, LAST_PAUSE, LAST_PAUSE_OF_RECORDER, Watch, Watched as _},
    },
    halves::{
        Writer,
        message::{End, SaveTo},
    },
    net::netns::Netns,
    system::signals::{Asked, Attended},
    targets::{Interface, PodRef, PodsToCome, Scope, names_of},
};

/// Captures until something ends it.
///
/// # Errors
///
/// When the capture cannot start, the output fails, or it was not attached all the time.
pub async fn run(plan: Plan, front: Writer, signals: Attended) -> Result<()> {
    let (_, accounts) = drive(plan, front, None, signals).await?;
    ensure!(!accounts.have_gaps(), "packets may be missing, as was warned of above and the file tells");
    Ok(())
}

/// Captures as `remote` orders, until something ends it.
///
/// # Errors
///
/// When the capture cannot start, or the output fails.
pub async fn serve(plan: Plan, front: Writer, remote: Remote, signals: Attended) -> Result<(Why, Accounts)> {
    drive(plan, front, Some(remote), signals).await
}

async fn drive(
    mut plan: Plan,
    front: Writer,
    remote: Option<Remote>,
    mut signals: Attended,
) -> Result<(Why, Accounts)> {
    let stages = signals.stages();
    let starting = stages.clone();
    let (scopes, duration) = (mem::take(&mut plan.scopes), plan.duration);
    let detail = plan.status_line;
    let progress = remote.as_ref().map(|remote| Arc::clone(&remote.progress));
    let progress = progress.unwrap_or_else(|| Arc::new(Progress::new(front.board)));
    let Started { taps, status, names, to_come, wishes, drained } =
        task::spawn_blocking(move || start(plan, front, &progress, &starting)).await??;
    let outlives_all = remote.as_ref().is_some_and(|remote| remote.names_others);
    let (orders, events) = remote.map(|Remote { orders, events, .. }| (orders, events)).unzip();
    let shown = detail.map(|detail| (StatusLine::new(Instant::now()), detail));
    let (newcomers, bereft) = (Newcomers::start(), Vec::new());
    let saves = Saves::of(wishes);
    let mut running =
        Running { taps, status, shown, newcomers, to_come, bereft, names, saves, events, outlives_all };
    running.newcomers.add(scopes);
    let outcome = running.wait(&mut signals, drained, orders, duration).await;
    let Running { taps, status, saves, events, shown, .. } = running;
    drop(shown);
    let taps = task::spawn_blocking(move || taps.detach()).await?;
    // How much there is in all, before what is left of it goes out.
    events.map(|events| status.counted(&taps).map(|counted| events.send(counted))).transpose()?;
    // Only now: a capture that is attached by clsact must be detached first.
    stages.detached();
    let finished = task::spawn_blocking(move || finish(taps)).await?;
    saves.end();
    let why = outcome?;
    let (end, accounts) = finished?;
    let why = match end {
        End::Count => Why::Count,
        End::Closed => Why::Closed,
        End::Asked | End::Hurried | End::Failed(_) => why,
    };
    Ok((why, accounts))
}

/// A capture that runs.
struct Running {
    taps: Taps,
    status: Status,
    /// Where a terminal shows it, and how much of it.
    shown: Option<(StatusLine, Detail)>,
    /// Who else may come to those that are there.
    newcomers: Newcomers,
    /// Pods that may come; `None` when none can any more.
    to_come: Option<PodsToCome>,
    /// Pods to come again that have lost an interface, and where they were.
    bereft: Vec<(PodRef, Netns)>,
    /// What addresses are called, as that becomes known.
    names: Option<mpsc::UnboundedReceiver<Names>>,
    /// What is to be written of a recording.
    saves: Saves,
    /// Where a remote hears what happens; it may have gone.
    events: Option<mpsc::UnboundedSender<Event>>,
    /// Whether it goes on without interfaces, whoever may come.
    outlives_all: bool,
}

impl Running {
    /// Returns when something ends the capture.
    async fn wait(
        &mut self,
        signals: &mut Attended,
        mut drained: oneshot::Receiver<()>,
        mut orders: Option<mpsc::Receiver<Order>>,
        duration: Option<Duration>,
    ) -> Result<Why> {
        let longest = if self.taps.may_rest() { LAST_PAUSE_OF_RECORDER } else { LAST_PAUSE };
        let mut watch = Watch::new(&self.taps, longest);
        let mut logger = self.taps.kernel_side.take_logger(logging::Stderr)?;
        let deadline = time::sleep(duration.unwrap_or(Duration::MAX));
        tokio::pin!(deadline);
        let mut reading = None;
        let mut observed = self.taps.wished_time().map(|_| Box::pin(time::sleep(OBSERVATION)));
        let ended = loop {
            tokio::select! {
                asked = signals.next() => match asked {
                    Asked::End => break Why::Signal,
                    Asked::Counts if self.taps.appends_what_is_recorded() => self.saves.want_new(),
                    Asked::Counts => Status::print(&self.taps)?,
                    Asked::Filter => reading = Some(Box::pin(self.taps.read_filter_again())),
                },
                read = of(&mut reading) => {
                    reading = None;
                    self.taps.take_filter(read);
                    watch.meet(&self.taps);
                }
                due = self.saves.due() => self.save(due)?,
                () = of(&mut observed) => {
                    observed = (!self.tell_what_time_takes()).then(|| Box::pin(time::sleep(OBSERVATION)));
                }
                order = next_order(&mut orders) => match order {
                    Some(order) => {
                        self.carry_out(order);
                        watch.meet(&self.taps);
                    }
                    None => break Why::Asked,
                },
                found = self.newcomers.next() => {
                    let gone = self.look_into(found, &mut watch)?;
                    if !gone.is_empty() && let Some(why) = self.part_with(gone)? {
                        break why;
                    }
                }
                scope = next_pod(&mut self.to_come) => if let Some(why) = self.await_interfaces(scope)? {
                    break why;
                },
                names = next_names(&mut self.names) => self.name(names),
                () = &mut deadline => break Why::Duration,
                _ = &mut drained => break Why::Closed,
                () = StatusLine::tick(self.shown.as_mut().map(|(line, _)| line)) => {
                    if let Some((line, detail)) = &mut self.shown {
                        self.status.show(line, *detail, &self.taps)?;
                    }
                }
                () = watch.tick() => {
                    logger.flush();
                    if self.events.is_none() {
                        self.status.sound_alarm(&self.taps)?;
                    }
                    let findings = watch.look(&mut self.taps, self.newcomers.are_heard_of());
                    let gone = self.taps.act(findings)?;
                    if let Some(why) = self.part_with(gone)? {
                        break why;
                    }
                    self.taps.settle()?;
                }
            }
        };
        logger.flush();
        Ok(ended)
    }

    /// Has what a recorder holds written.
    fn save(&mut self, due: Due) -> Result<()> {
        let (to, asker) = match due {
            Due::New => (None, None),
            Due::All(Wish { request, file, asker }) => {
                let last_ns = request.last.map(|last| u64::try_from(last.as_nanos()).unwrap_or(u64::MAX));
                let Request { name, after, note, .. } = request;
                let to = SaveTo { name, last_ns, after, note, spells: self.taps.spells()? };
                (Some((to, file)), Some(asker))
            }
        };
        self.saves.begun(self.taps.front.save(to)?, asker);
        Ok(())
    }

    /// Says how far back the memory goes, by what has come since the last time. Returns whether enough has.
    fn tell_what_time_takes(&mut self) -> bool {
        let Some((time, room)) = self.taps.wished_time() else { return true };
        match estimate(time, room, self.status.recorded_since()) {
            Some((true, text)) => info!("{text}"),
            Some((false, text)) => warn!("{text}"),
            None => return false,
        }
        true
    }

    /// Has the output tell what addresses are called, if it is to.
    fn name(&self, names: Names) {
        if self.names.is_some() {
            // An output that has ended needs no names.
            let _ = self.taps.front.name(&names);
        }
    }

    fn carry_out(&mut self, order: Order) {
        let (done, result) = match order {
            Order::Join { interfaces, scopes, comment, done } => {
                let joined = self.taps.join(interfaces, comment.as_deref());
                if joined.is_ok() {
                    self.newcomers.add(scopes);
                }
                (done, joined)
            }
            Order::Leave { interfaces, scopes, done } => {
                self.newcomers.remove(scopes);
                (done, self.taps.of(&interfaces).into_iter().try_for_each(|id| self.taps.leave(id)))
            }
            Order::Watermark { done } => (done, self.taps.front.watermark()),
        };
        // Whoever gave the order may have gone.
        let _ = done.send(result);
    }

    /// Captures those that have come, and takes leave of those that have gone, which it returns.
    fn look_into(&mut self, found: Found, watch: &mut Watch) -> Result<Vec<Interface>> {
        let taps = &mut self.taps;
        let findings = match found {
            Found::All(scope, interfaces, unfit) => {
                // They may have been found while the scope was left.
                if self.newcomers.looks_out_for(&scope) {
                    taps.pass_over(&scope, unfit)?;
                }
                // One may have left before it was listened to.
                watch.look_closely(taps, taps.beside(scope.netns(), &interfaces), true)
            }
            Found::There(scope, interfaces) if self.newcomers.looks_out_for(&scope) => {
                let joined = taps.welcome(&scope, interfaces);
                watch.meet(taps);
                self.name(names_of(&joined));
                joined.into_iter().for_each(|it| self.tell(Event::Came(scope.clone(), Box::new(it))));
                return Ok(Vec::new());
            }
            Found::There(..) => return Ok(Vec::new()),
            Found::Left(left) => watch::left(taps, taps.among(&left)),
            // News of some that left was missed.
            Found::Missed => watch.look_closely(taps, taps.ids().collect(), false),
        };
        self.taps.act(findings)
    }

    /// Has the interfaces of a pod captured that has come, as soon as it has them; `None` when none can come any more.
    /// Returns whether the capture ends with that.
    fn await_interfaces(&mut self, scope: Option<Scope>) -> Result<Option<Why>> {
        match scope {
            Some(scope) => {
                self.newcomers.add(vec![scope]);
                Ok(None)
            }
            None => {
                self.to_come = None;
                ensure!(!self.taps.spans.is_empty(), "there is nothing to capture, and nothing will come");
                self.part_with(Vec::new())
            }
        }
    }

    /// Tells of interfaces that were left, and whether the capture ends with them. A remote hears how it goes each time.
    fn part_with(&mut self, gone: Vec<Interface>) -> Result<Option<Why>> {
        let has_lost = !gone.is_empty();
        self.tell_of_pods_left(&gone);
        if self.events.is_some() {
            gone.into_iter().for_each(|interface| self.tell(Event::Gone(Box::new(interface))));
            self.tell(self.status.counted(&self.taps)?);
        }
        if !self.taps.is_empty() || self.outlives_all {
            Ok(None)
        } else if self.to_come.is_none() && !self.newcomers.may_come() {
            info!("no interface is left to capture");
            Ok(Some(Why::Empty))
        } else {
            if has_lost {
                info!("no interface is left to capture; waiting for one to come");
            }
            Ok(None)
        }
    }

    /// Says of pods that have gone that they are waited for. A pod loses its interfaces before its namespace ends.
    fn tell_of_pods_left(&mut self, gone: &[Interface]) {
        let Some(to_come) = &self.to_come else { return };
        let lost = gone.iter().filter_map(|it| Some((it.pod.clone()?, it.pod_side.as_ref()?.netns.clone())));
        for (pod, netns) in lost.filter(|(pod, _)| to_come.follows(pod)) {
            if !self.bereft.iter().any(|(it, _)| it.is(&pod)) {
                self.bereft.push((pod, netns));
            }
        }
        let taps = &self.taps;
        self.bereft.retain(|(pod, netns)| {
            // It has another one, or one of its name has come by now.
            let has_one = |it: &Tap| it.interface.pod.as_ref().is_some_and(|it| it.is_called_as(pod));
            if taps.iter().any(has_one) {
                return false;
            }
            let has_gone = !netns.is_there();
            if has_gone {
                warn!(
                    "{pod} is gone; waiting for it to be created again (--no-follow ends instead, Ctrl-C ends now)"
                );
            }
            !has_gone
        });
    }

    /// Tells a remote, if there is one.
    fn tell(&self, event: Event) {
        if let Some(events) = &self.events {
            // It may have gone.
            let _ = events.send(event);
        }
    }
}

/// Writes what is left, and tells how it went.
fn finish(taps: Taps) -> Result<(End, Accounts)> {
    let Taps { front, kernel_side, clock, spans, .. } = taps;
    let told = front.stop()?;
    let accounts = Accounts::read(&kernel_side, &told, &spans)?;
    let written = accounts.statistics(clock).and_then(|blocks| front.end(blocks));
    accounts.print();
    let (fullest_percent, ring) = (front.board.fullest_percent(), kernel_side.describe_ring());
    match told.held {
        None => info!("the buffer was at most {fullest_percent} % full ({ring})"),
        Some(Held { complete_since: None, .. }) => info!("all packets were held ({ring})"),
        Some(Held { complete_since: Some(since), .. }) => {
            info!("all packets since {} were held ({ring})", sniff_pcapng::time(since));
        }
    }
    match told.end {
        End::Failed(error) => Err(anyhow::Error::msg(error)),
        End::Hurried => {
            written.context("cannot write the statistics at the end")?;
            bail!("ended at once: what was still in the buffer is not in the capture")
        }
        // A reader that is gone needs no statistics.
        End::Closed => Ok((told.end, accounts)),
        End::Asked | End::Count => {
            written.context("cannot write the statistics at the end").map(|()| (told.end, accounts))
        }
    }
}

/// Never, when there is no such future.
async fn of<F: Future + Unpin>(future: &mut Option<F>) -> F::Output {
    match future {
        Some(future) => future.await,
        None => future::pending().await,
    }
}

/// Where the next pod is that has come; never, when none can come.
async fn next_pod(to_come: &mut Option<PodsToCome>) -> Option<Scope> {
    match to_come {
        Some(to_come) => to_come.next().await,
        None => future::pending().await,
    }
}

/// Never, when nobody is to be told, or there is nothing more to tell.
async fn next_names(names: &mut Option<mpsc::UnboundedReceiver<Names>>) -> Names {
    if let Some(names) = names
        && let Some(names) = names.recv().await
    {
        return names;
    }
    future::pending().await
}

/// Never, when there is no remote.
async fn next_order(orders: &mut Option<mpsc::Receiver<Order>>) -> Option<Order> {
    match orders {
        Some(orders) => orders.recv().await,
        None => future::pending().await,
    }
}
