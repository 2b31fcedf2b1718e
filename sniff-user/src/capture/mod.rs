//! A capture from its first classifier to its last block.
//!
//! Order is what makes the accounts exact. Start: describe the interfaces in the output, then attach. End: detach,
//! then empty the ring, then read the counters, then write the statistics.

pub mod accounts;
pub mod drain;
pub mod losses;
pub mod newcomers;
pub mod tap;
pub mod view;
pub mod watch;

use std::{
    collections::HashSet,
    future, mem,
    sync::{Arc, mpsc::sync_channel},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use log::{debug, info, warn};
use sniff_cli::{
    alarm::{Alarm, Alert},
    logging,
};
use sniff_common::{Counters, Direction};
use sniff_filter::{Filter, Filters, Source};
use sniff_output::{Output, Sink};
use sniff_pcapng::{InterfaceDescription, LinkType, SectionHeader};
use sniff_protocol::request::AttachAt;
use tokio::{
    sync::{mpsc, oneshot},
    task, time,
};

use crate::{
    bpf::{
        BootClock,
        attach::{Attachment, Hook, Mechanism},
        classifier::{self, Arguments, Classifier},
        object::{Body, Kernel, Sizes},
        ring, wait_for_running_programs,
    },
    capture::{
        accounts::{Accounts, Span},
        drain::{Drain, Drained, End},
        newcomers::{Found, Newcomers},
        tap::{Tap, link_type},
        watch::Watch,
    },
    system::{
        System,
        clock::Clock,
        parallel,
        signals::{Asked, Attended, Stages},
    },
    targets::{Interface, Scope, Unfit},
};

/// Interfaces to attach to before looking whether a signal came.
const ATTACH_AT_ONCE: usize = 16;

/// Opens the place that packets go to, once everything else has been found to work.
pub type OpenOutput = Box<dyn FnOnce() -> Result<Box<dyn Sink>> + Send>;

/// What is to be captured, and how; everything is found, nothing is touched.
#[derive(Debug)]
pub struct Plan {
    /// What to capture.
    pub interfaces: Vec<Interface>,
    /// Where they are, and others may come.
    pub scopes: Vec<Scope>,
    /// How many interfaces may be there besides at a time.
    pub room: u32,
    /// Where to attach.
    pub attach: AttachAt,
    /// How to attach; `None` leaves it to the kernel's abilities.
    pub mechanism: Option<Mechanism>,
    /// Which directions.
    pub directions: &'static [Direction],
    /// Where the filter comes from that holds for every interface without one of its own.
    pub filter: Source,
    /// What compiles the filters, and may have done so already.
    pub filters: Filters,
    /// Most bytes kept of a packet.
    pub snaplen: u32,
    /// Whether only headers are kept.
    pub headers: bool,
    pub ring: ring::Wanted,
    /// Bytes of the ring, over all CPUs.
    pub ring_bytes: u32,
    /// In which order packets are written.
    pub order: ring::Order,
    /// Whether each packet wakes the reader.
    pub packet_buffered: bool,
    /// Packets after which to stop.
    pub count: Option<u64>,
    /// Time after which to stop.
    pub duration: Option<Duration>,
    /// What the file says of this machine.
    pub system: System,
}

/// A running capture.
pub struct Session {
    plan: Plan,
    /// The filter of every interface without one of its own.
    general: Option<String>,
    kernel: Kernel,
    clock: Clock,
    drain: Drain,
    gauge: Arc<ring::Gauge>,
    alarm: Alarm,
    /// Most interfaces that may be attached at a time.
    room: usize,
    /// Those that are attached.
    taps: Vec<Tap>,
    /// When each interface in the file was captured, by its id.
    spans: Vec<Span>,
    /// Who else may come.
    newcomers: Newcomers,
    /// Those that came and cannot be attached to, which was said.
    refused: Vec<Interface>,
    /// The names of those that cannot be captured, which was said.
    unfit: HashSet<String>,
}

/// What a new general filter means for one tap.
struct Change {
    /// The tap, by its place.
    at: usize,
    /// Its id from then on.
    id: u32,
    directions: Vec<(Direction, Filter)>,
}

/// What a running capture can be told. Each order is answered.
#[derive(Debug)]
pub enum Order {
    /// Capture these interfaces too, all or none of them; the file says `comment` of them.
    Join {
        interfaces: Vec<Interface>,
        /// Where they are, and others may come that are to be captured too.
        scopes: Vec<Scope>,
        /// Why they come later than others.
        comment: Option<String>,
        /// Whether that worked.
        done: oneshot::Sender<Result<()>>,
    },
    /// Do not capture these any more.
    Leave {
        interfaces: Vec<Interface>,
        /// Where no others are to be captured either.
        scopes: Vec<Scope>,
        /// Whether that worked.
        done: oneshot::Sender<Result<()>>,
    },
    /// Have a [`Watermark`](sniff_pcapng::Watermark) written, soon. Only a reader that knows of it may be given one.
    Watermark {
        /// Whether it will be.
        done: oneshot::Sender<Result<()>>,
    },
}

/// What a running capture tells.
#[derive(Debug)]
pub enum Event {
    /// An interface went away.
    Gone(Box<Interface>),
    /// One has come to a scope, and is captured.
    Came(Box<Scope>, Box<Interface>),
    /// Counts so far.
    Counted {
        /// Of all interfaces.
        counters: Counters,
        /// The largest part of the ring that was ever in use.
        fullest_percent: u8,
    },
}

/// Somebody who tells a running capture what to do. It goes on without interfaces, and ends when the orders do.
#[derive(Debug)]
pub struct Remote {
    /// What to do.
    pub orders: mpsc::Receiver<Order>,
    /// What happens.
    pub events: mpsc::UnboundedSender<Event>,
}

/// Why a capture ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// A signal.
    Signal,
    /// [`Plan::duration`] was over.
    Duration,
    /// [`Plan::count`] packets were delivered.
    Count,
    /// Nobody reads the output any more.
    Closed,
    /// No interface is left.
    Empty,
    /// There will be no more orders.
    Asked,
}

/// Captures until something ends it.
///
/// # Errors
///
/// When the capture cannot start, the output fails, or it was not attached all the time.
pub async fn run(plan: Plan, output: OpenOutput, signals: Attended) -> Result<()> {
    let (_, accounts) = drive(plan, output, None, signals).await?;
    ensure!(!accounts.have_gaps(), "packets may be missing, as was warned of above and the file tells");
    Ok(())
}

/// Captures as `remote` orders, until something ends it.
///
/// # Errors
///
/// When the capture cannot start, or the output fails.
pub async fn serve(
    plan: Plan,
    output: OpenOutput,
    remote: Remote,
    signals: Attended,
) -> Result<(Why, Accounts)> {
    drive(plan, output, Some(remote), signals).await
}

async fn drive(
    plan: Plan,
    output: OpenOutput,
    remote: Option<Remote>,
    mut signals: Attended,
) -> Result<(Why, Accounts)> {
    let stages = signals.stages();
    let starting = stages.clone();
    let (mut session, drained) =
        task::spawn_blocking(move || Session::start(plan, output, starting)).await??;
    let events = remote.as_ref().map(|remote| remote.events.clone());
    let outcome = session.wait(&mut signals, drained, remote).await;
    let session = task::spawn_blocking(move || session.detach()).await?;
    // How much there is in all, before what is left of it goes out.
    events.map(|events| session.report(&events, Vec::new())).transpose()?;
    // Only now: a capture that is attached by clsact must be detached first.
    stages.detached();
    let finished = task::spawn_blocking(move || session.finish()).await?;
    let why = outcome?;
    let (end, accounts) = finished?;
    let why = match end {
        End::Count => Why::Count,
        End::Closed => Why::Closed,
        End::Asked | End::Hurried | End::Failed(_) => why,
    };
    Ok((why, accounts))
}

impl Session {
    /// Attaches to as many interfaces as it can before a signal asks for an end.
    fn start(mut plan: Plan, output: OpenOutput, stages: Stages) -> Result<(Self, oneshot::Receiver<()>)> {
        let general = plan.filter.read()?;
        let interfaces = mem::take(&mut plan.interfaces);
        let (taps, refused) = new_taps(general.as_deref(), &plan, 0, interfaces)?;
        go_on_without(refused, !taps.is_empty())?;
        let Plan { ring, ring_bytes, order, packet_buffered, .. } = plan;
        let mut kernel = Kernel::load(Sizes { ring, ring_bytes, packet_buffered })?;
        // Only here, so that a capture that cannot start leaves an older file as it is.
        let mut output = Output::new(output()?);
        let mut block = Vec::new();
        section_header(&plan.system).write(&mut block);
        output.block(&block)?;
        // An output that takes nothing is found out here, before anything is attached.
        output.flush()?;
        stages.capturing();
        let clock = measure_clock()?;
        let ring = kernel.take_ring(order, clock)?;
        let gauge = ring.gauge();
        let (drain, drained) = Drain::start(ring, output, plan.count, packet_buffered, stages.clone())?;
        let (attached, spans, newcomers) = (Vec::new(), Vec::new(), Newcomers::start());
        let room = taps.len() + plan.room as usize;
        let mut session = Self {
            plan,
            general,
            kernel,
            clock,
            drain,
            gauge,
            alarm: Alarm::default(),
            room,
            taps: attached,
            spans,
            newcomers,
            refused: Vec::new(),
            unfit: HashSet::new(),
        };
        for tap in &taps {
            session.describe(tap, None)?;
        }
        let wanted = taps.len();
        let failed = session.attach_until(taps, || stages.is_to_end())?;
        let all_were_tried = session.taps.len() + failed.len() == wanted;
        let mut refused = Vec::new();
        for (id, error) in failed {
            session.note(id, format!("not captured: {error:#}"));
            session.leave(id)?;
            refused.push(error);
        }
        go_on_without(refused, !session.taps.is_empty())?;
        if all_were_tried && wanted > 0 {
            info!("listening on {} interface(s)", session.taps.len());
        }
        Ok((session, drained))
    }

    /// Captures more interfaces, all that are not captured already: or none when something is wrong.
    fn join(&mut self, interfaces: Vec<Interface>, comment: Option<&str>) -> Result<()> {
        let captures = |interface: &Interface| self.captures(interface);
        let interfaces: Vec<_> = interfaces.into_iter().filter(|interface| !captures(interface)).collect();
        let first = self.spans.len() as u32;
        ensure!(
            self.taps.len() + interfaces.len() <= self.room,
            "this capture has as many interfaces as it has room for ({}): start another",
            self.taps.len()
        );
        let (taps, refused) = new_taps(self.general.as_deref(), &self.plan, first, interfaces)?;
        if let Some(error) = refused.into_iter().next() {
            return Err(error);
        }
        for tap in &taps {
            self.describe(tap, comment.map(str::to_owned))?;
        }
        let joined = self.attach(taps);
        if joined.is_err() {
            for id in first..self.spans.len() as u32 {
                self.leave(id)?;
            }
        }
        joined
    }

    /// Whether an interface is captured, by whichever end.
    fn captures(&self, interface: &Interface) -> bool {
        self.taps.iter().any(|tap| tap.interface.shares_an_end(interface) && tap.is_alive())
    }

    /// Captures those of these interfaces of a scope that have come since it was looked at last, and returns them.
    fn welcome(&mut self, scope: &Scope, interfaces: Vec<Interface>) -> Vec<Interface> {
        let mut joined = Vec::new();
        // They may have been found while the scope was left.
        let is_wanted = self.newcomers.looks_out_for(scope);
        for interface in interfaces.into_iter().filter(|_| is_wanted) {
            let is_known = self.captures(&interface) || self.refused.contains(&interface);
            // One that is seen may be on its way out.
            if is_known || !interface.is_there() {
                continue;
            }
            let name = interface.name.clone();
            let now = self.clock.now();
            match now.and_then(|now| self.join(vec![interface.clone()], Some(&came(scope, now)))) {
                Ok(()) => {
                    info!("{name}: has come, and is captured too");
                    joined.push(interface);
                }
                Err(error) => {
                    warn!("{name}: has come, and is not captured: {error:#}");
                    self.refused.push(interface);
                }
            }
        }
        joined
    }

    /// Says of interfaces of a scope that they cannot be captured, once of each.
    fn pass_over(&mut self, scope: &Scope, unfit: Vec<Unfit>) -> Result<()> {
        let is_wanted = self.newcomers.looks_out_for(scope);
        for Unfit { name, link_type } in unfit.into_iter().filter(|_| is_wanted) {
            if !self.unfit.insert(name.clone()) {
                continue;
            }
            warn!("{name}: has come, and is not captured: it has {link_type}, which sniff cannot capture");
            let beside = self.taps.iter().find(|tap| tap.captured().netns == *scope.netns());
            if let Some(id) = beside.map(|tap| tap.id) {
                let since = sniff_pcapng::time(self.clock.now()?);
                self.note(id, format!("not captured beside it since {since}: {name} ({link_type})"));
            }
        }
        Ok(())
    }

    fn carry_out(&mut self, order: Order) {
        let (done, result) = match order {
            Order::Join { interfaces, scopes, comment, done } => {
                let joined = self.join(interfaces, comment.as_deref());
                if joined.is_ok() {
                    self.newcomers.add(scopes);
                }
                (done, joined)
            }
            Order::Leave { interfaces, scopes, done } => {
                self.newcomers.remove(scopes);
                let ids =
                    self.taps.iter().filter(|tap| interfaces.contains(&tap.interface)).map(|tap| tap.id);
                let ids: Vec<u32> = ids.collect();
                (done, ids.into_iter().try_for_each(|id| self.leave(id)))
            }
            Order::Watermark { done } => (done, self.drain.watermark()),
        };
        // Whoever gave the order may have gone.
        let _ = done.send(result);
    }

    /// Describes an interface in the output, before its packets come.
    fn describe(&mut self, tap: &Tap, comment: Option<String>) -> Result<()> {
        self.unfit.extend(tap.interface.unfit.iter().cloned());
        self.introduce(self.description(tap, comment))
    }

    fn description(&self, tap: &Tap, comment: Option<String>) -> InterfaceDescription {
        let filter = tap.interface.expression(self.general.as_deref());
        tap.describe(&self.plan.system, self.plan.snaplen, filter, comment)
    }

    fn introduce(&mut self, description: InterfaceDescription) -> Result<()> {
        let filtered = description.filter.is_some();
        self.drain.add_interface(description)?;
        self.spans.push(Span {
            start: self.clock.now()?,
            end: None,
            filtered,
            notes: Vec::new(),
            has_gap: false,
        });
        Ok(())
    }

    /// Attaches the classifiers of all `taps`, or of as many as it can until `is_over`; returns those that cannot be
    /// attached, by their ids, and why. Attaching is waiting, since the kernel lets a grace period pass each time, one
    /// interface after the other; the next classifiers are loaded meanwhile.
    fn attach_until(
        &mut self,
        mut taps: Vec<Tap>,
        is_over: impl Fn() -> bool + Copy + Sync + Send,
    ) -> Result<Vec<(u32, anyhow::Error)>> {
        let (mut groups, mut failed) = (Vec::new(), Vec::new());
        while !taps.is_empty() {
            let group: Vec<Tap> = taps.drain(..taps.len().min(ATTACH_AT_ONCE)).collect();
            groups.push((self.all_arguments(&group), group));
        }
        let (arguments, groups): (Vec<_>, Vec<_>) = groups.into_iter().unzip();
        let body = self.kernel.body();
        thread::scope(|scope| {
            let (sender, receiver) = sync_channel(1);
            let load = move || {
                // A receiver that is gone has seen enough.
                arguments.iter().map(|it| load(&body, it, is_over)).all(|loaded| sender.send(loaded).is_ok())
            };
            scope.spawn(load);
            for (group, classifiers) in groups.into_iter().zip(receiver) {
                if is_over() {
                    break;
                }
                failed.extend(self.hook_in(group, classifiers?, is_over));
            }
            Ok(failed)
        })
    }

    /// Attaches the classifiers of all `taps`.
    fn attach(&mut self, taps: Vec<Tap>) -> Result<()> {
        match self.attach_until(taps, || false)?.pop() {
            Some((_, error)) => Err(error),
            None => Ok(()),
        }
    }

    /// Attaches classifiers that were loaded, one for each direction of each of `taps`, until `is_over`. Returns those
    /// that cannot be attached.
    fn hook_in(
        &mut self,
        taps: Vec<Tap>,
        classifiers: Vec<Option<Classifier>>,
        is_over: impl Fn() -> bool,
    ) -> Vec<(u32, anyhow::Error)> {
        let mut failed = Vec::new();
        let mut classifiers = classifiers.into_iter();
        for mut tap in taps.into_iter().take_while(|_| !is_over()) {
            let classifiers: Vec<_> = classifiers.by_ref().take(tap.directions.len()).collect();
            let hooks = tap.directions.iter().map(|&(direction, _)| tap.point.hook(direction));
            let classifiers = hooks.zip(classifiers).filter_map(|(hook, it)| Some((hook, it?))).collect();
            match Attachment::new(&tap.side, classifiers, self.plan.mechanism, self.clock) {
                Ok(attachment) => {
                    self.note_start(&tap, &attachment);
                    tap.attachment = Some(attachment);
                    tap.announce();
                    self.taps.push(tap);
                }
                Err(error) => failed.push((tap.id, error.context(tap.interface.name))),
            }
        }
        failed
    }

    /// Has the file tell from when on each direction is complete: one is attached after the other.
    fn note_start(&mut self, tap: &Tap, attachment: &Attachment) {
        let since = |direction: Direction| {
            let since = attachment.since(tap.point.hook(direction))?;
            let way = if direction == Direction::In { "in" } else { "out" };
            Some(format!("{way} from {}", sniff_pcapng::time(since)))
        };
        let ways: Vec<_> = tap.directions.iter().filter_map(|&(direction, _)| since(direction)).collect();
        if !ways.is_empty() {
            self.note(tap.id, format!("packets are taken {}", ways.join(", ")));
        }
    }

    /// What the classifiers of all directions of all `taps` are told, in order; none where no packet would match.
    fn all_arguments(&self, taps: &[Tap]) -> Vec<Option<Arguments>> {
        taps.iter().flat_map(|tap| self.arguments(tap, tap.id, &tap.directions)).collect()
    }

    /// What the classifiers of a tap are told that is to have this id and these filters.
    fn arguments(
        &self,
        tap: &Tap,
        interface: u32,
        directions: &[(Direction, Filter)],
    ) -> impl Iterator<Item = Option<Arguments>> {
        let Plan { snaplen, headers, .. } = self.plan;
        let (clock_offset, link_type, home) = (self.clock.offset(), link_type(&tap.interface), tap.home);
        directions.iter().map(move |(direction, filter)| {
            let filter = match filter {
                Filter::All => None,
                Filter::Some(fragment) => Some(Arc::clone(fragment)),
                Filter::None => return None,
            };
            let (direction, hook) = (*direction, tap.point.hook(*direction));
            Some(Arguments {
                filter,
                interface,
                direction,
                hook,
                snaplen,
                headers,
                link_type,
                clock_offset,
                home,
            })
        })
    }

    /// Reads the filter's file again, as SIGUSR2 asks for, and compiles what is there, aside: that may take long.
    fn read_filter_again(&self) -> impl Future<Output = Result<Option<String>>> + use<> {
        let (source, filters) = (self.plan.filter.clone(), self.plan.filters.clone());
        let link_types: HashSet<LinkType> = self.taps.iter().map(|tap| link_type(&tap.interface)).collect();
        async move {
            ensure!(
                matches!(source, Source::File(_)),
                "SIGUSR2 has the file of -F read again, and there is none"
            );
            let general = source.read()?;
            for link_type in link_types {
                if let Some(text) = general.clone() {
                    filters.prepare(text, link_type).await?;
                }
            }
            Ok(general)
        }
    }

    /// Has the filter that was read again at every interface without one of its own.
    fn take_filter(&mut self, read: Result<Option<String>>) {
        match read.and_then(|general| self.change_filter(general)) {
            Ok(()) => info!("the filter is now: {}", in_words(self.general.as_deref())),
            Err(error) => warn!("the filter stays as it is: {error:#}"),
        }
    }

    /// Has `general` at every interface that has none of its own: at all of them or, when
    /// anything is wrong with it, at none. Each goes on as one interface more in the file, so that every packet shows by
    /// which filter it was judged. An interface that has gone meanwhile is left to whoever takes leave of it.
    ///
    /// # Errors
    ///
    /// When it cannot be compiled, loaded or attached; the old one then goes on.
    fn change_filter(&mut self, general: Option<String>) -> Result<()> {
        if general != self.general {
            self.repair_all();
            let (changes, classifiers) = self.changes(general.as_deref())?;
            let old = mem::replace(&mut self.general, general);
            if let Err(error) = self.switch(changes, classifiers, old.as_deref()) {
                self.general = old;
                return Err(error);
            }
        }
        Ok(())
    }

    /// What another general filter changes, and the classifiers for all that, in order. Nothing is touched.
    fn changes(&mut self, general: Option<&str>) -> Result<(Vec<Change>, Vec<Option<Classifier>>)> {
        let (mut changes, mut arguments) = (Vec::new(), Vec::new());
        let ids = self.spans.len() as u32..;
        let taps = self.taps.iter().enumerate().filter(|(_, tap)| tap.interface.filter.is_none());
        for (id, (at, tap)) in ids.zip(taps) {
            let mut directions =
                with_filters(&self.plan.filters, &tap.interface, general, self.plan.directions)?;
            directions.retain(|(direction, _)| tap.directions.iter().any(|(has, _)| has == direction));
            arguments.extend(self.arguments(tap, id, &directions));
            changes.push(Change { at, id, directions });
        }
        Ok((changes, load(&self.kernel.body(), &arguments, || false)?))
    }

    /// Carries out all `changes`, or takes back those that were.
    fn switch(
        &mut self,
        changes: Vec<Change>,
        classifiers: Vec<Option<Classifier>>,
        old: Option<&str>,
    ) -> Result<()> {
        let since = sniff_pcapng::time(self.clock.now()?);
        let comment = format!("goes on with another filter since {since}; before: {}", in_words(old));
        for change in &changes {
            self.introduce(self.description(&self.taps[change.at], Some(comment.clone())))?;
        }
        let (mut classifiers, mut done) = (classifiers.into_iter(), Vec::new());
        for change in &changes {
            let tap = &mut self.taps[change.at];
            for (&(direction, _), classifier) in change.directions.iter().zip(&mut classifiers) {
                let (hook, Some(attachment)) = (tap.point.hook(direction), &mut tap.attachment) else {
                    continue;
                };
                match attachment.set(hook, classifier) {
                    Ok(before) => done.push((change.at, hook, before)),
                    Err(_) if !attachment.is_alive() => {}
                    Err(error) => {
                        self.take_back(done, &changes)?;
                        return Err(error);
                    }
                }
            }
        }
        let now = self.clock.now()?;
        for Change { at, id, directions } in changes {
            let tap = &mut self.taps[at];
            self.spans[tap.id as usize].end = Some(now);
            (tap.id, tap.directions) = (id, directions);
        }
        Ok(())
    }

    /// Puts back the classifiers that were there before, the last one first.
    fn take_back(&mut self, done: Vec<(usize, Hook, Option<Classifier>)>, changes: &[Change]) -> Result<()> {
        for (at, hook, before) in done.into_iter().rev() {
            let Tap { interface, attachment: Some(attachment), .. } = &mut self.taps[at] else { continue };
            if let Err(error) = attachment.set(hook, before)
                && attachment.is_alive()
            {
                warn!("{}: has the new filter, and cannot have the old one again: {error:#}", interface.name);
            }
        }
        let now = self.clock.now()?;
        changes.iter().for_each(|change| self.spans[change.id as usize].end = Some(now));
        Ok(())
    }

    /// Whether a capture at the host's end of `tap` may go on inside the pod: nobody asked for the host's end.
    pub fn may_go_inside(&self, tap: &Tap) -> bool {
        self.plan.attach == AttachAt::Auto && tap.interface.pod_side.is_some()
    }

    /// Returns when something ends the capture.
    async fn wait(
        &mut self,
        signals: &mut Attended,
        mut drained: oneshot::Receiver<()>,
        mut remote: Option<Remote>,
    ) -> Result<Why> {
        let mut watch = Watch::new(self);
        self.newcomers.add(mem::take(&mut self.plan.scopes));
        let mut logger = self.kernel.take_logger(logging::Stderr)?;
        let deadline = time::sleep(self.plan.duration.unwrap_or(Duration::MAX));
        tokio::pin!(deadline);
        let mut reading = None;
        let ended = loop {
            tokio::select! {
                asked = signals.next() => match asked {
                    Asked::End => break Why::Signal,
                    Asked::Counts => accounts::print_so_far(self.drain.delivered(), &self.totals()?),
                    Asked::Filter => reading = Some(Box::pin(self.read_filter_again())),
                },
                read = of(&mut reading) => {
                    reading = None;
                    self.take_filter(read);
                    watch.meet(self);
                }
                order = next_order(&mut remote) => match order {
                    Some(order) => {
                        self.carry_out(order);
                        watch.meet(self);
                    }
                    None => break Why::Asked,
                },
                found = self.newcomers.next() => {
                    let gone = match found {
                        Found::All(scope, interfaces, unfit) => {
                            self.pass_over(&scope, unfit)?;
                            watch.look_beside(self, scope.netns(), &interfaces)?
                        }
                        Found::There(scope, interfaces) => {
                            let joined = self.welcome(&scope, interfaces);
                            watch.meet(self);
                            if let Some(Remote { events, .. }) = &remote {
                                let came = |it| Event::Came(scope.clone(), Box::new(it));
                                // It may have gone.
                                joined.into_iter().for_each(|it| drop(events.send(came(it))));
                            }
                            Vec::new()
                        }
                        Found::Left(left) => watch.look_for(self, &left)?,
                        Found::Missed => watch.look_at_all(self)?,
                    };
                    if !gone.is_empty() && let Some(why) = self.part_with(gone, remote.as_ref())? {
                        break why;
                    }
                }
                () = &mut deadline => break Why::Duration,
                _ = &mut drained => break Why::Closed,
                () = watch.tick() => {
                    logger.flush();
                    if remote.is_none() {
                        self.sound_alarm()?;
                    }
                    let gone = watch.look(self)?;
                    if let Some(why) = self.part_with(gone, remote.as_ref())? {
                        break why;
                    }
                }
            }
        };
        logger.flush();
        Ok(ended)
    }

    /// Tells of interfaces that were left, and whether the capture ends with them. A remote hears how it goes each time.
    fn part_with(&self, gone: Vec<Interface>, remote: Option<&Remote>) -> Result<Option<Why>> {
        let has_lost = !gone.is_empty();
        if let Some(Remote { events, .. }) = remote {
            self.report(events, gone)?;
        } else if self.taps.is_empty() && !self.newcomers.may_come() {
            info!("no interface is left to capture");
            return Ok(Some(Why::Empty));
        } else if self.taps.is_empty() && has_lost {
            info!("no interface is left to capture; waiting for one to come");
        }
        Ok(None)
    }

    /// Tells a remote what has happened; it may have gone.
    fn report(&self, events: &mpsc::UnboundedSender<Event>, gone: Vec<Interface>) -> Result<()> {
        for interface in gone {
            let _ = events.send(Event::Gone(Box::new(interface)));
        }
        let counters = self.totals()?;
        // The thread does not know how full it has become while it waits for its output.
        let fullest_percent = self.drain.fullest_percent().max(self.full_percent());
        let _ = events.send(Event::Counted { counters, fullest_percent });
        Ok(())
    }

    /// Tells of losses as they happen, or before; a remote is told the counts, and sees for itself. The kernel is asked only when there are some.
    fn sound_alarm(&mut self) -> Result<()> {
        for alert in self.alarm.look(self.full_percent(), self.gauge.lost(), Instant::now()) {
            match alert {
                Alert::Filling(percent) => warn!(
                    "the buffer is {percent} % full: packets come faster than they are taken, and will be lost when it \
                     is full; a larger -B, a smaller -s or a narrower filter helps"
                ),
                Alert::Losing => {
                    let counters = self.totals()?;
                    let why = match counters.ring_full {
                        0 => "the kernel does not give their bytes",
                        _ => "the buffer is full; a larger -B, a smaller -s or a narrower filter helps",
                    };
                    warn!("packets are being lost, {} so far: {why}", counters.lost());
                }
                Alert::Over(lost) => info!("{lost} packets were lost; none has been for a while"),
            }
        }
        Ok(())
    }

    /// How much of the ring waits to be read, in per cent.
    fn full_percent(&self) -> u8 {
        (self.gauge.fullness() * 100.0) as u8
    }

    /// What was counted for all interfaces so far.
    fn totals(&self) -> Result<Counters> {
        let mut totals = Counters::default();
        for id in 0..self.spans.len() as u32 {
            totals += self.kernel.counters(id)?;
        }
        Ok(totals)
    }

    /// The taps that are attached.
    pub fn taps(&self) -> &[Tap] {
        &self.taps
    }

    /// Whether it is told of interfaces that leave their network namespaces.
    pub fn hears_of_moves(&self) -> bool {
        self.newcomers.are_heard_of()
    }

    /// The tap with this id, while it is attached.
    pub fn tap(&self, id: u32) -> Option<&Tap> {
        self.taps.iter().find(|tap| tap.id == id)
    }

    /// What was counted for an interface so far.
    ///
    /// # Errors
    ///
    /// When the kernel does not give its counters.
    pub fn counters(&self, interface: u32) -> Result<Counters> {
        self.kernel.counters(interface)
    }

    /// Attaches again what somebody has detached from a tap; the file and a person are told since when packets may be
    /// missing.
    ///
    /// # Errors
    ///
    /// When it cannot be attached again.
    pub fn repair(&mut self, id: u32) -> Result<()> {
        let tap = self.taps.iter_mut().find(|tap| tap.id == id);
        let Some(Tap { interface, attachment: Some(attachment), .. }) = tap else { return Ok(()) };
        let Some(since) = attachment.repair()? else { return Ok(()) };
        let (since, until) = (sniff_pcapng::time(since), sniff_pcapng::time(self.clock.now()?));
        let deed = match attachment.mechanism() {
            Mechanism::Tcx => "detached sniff's TCX links",
            Mechanism::Clsact => "deleted sniff's clsact filters",
        };
        let told = format!("packets between {since} and {until} may be missing: somebody {deed}");
        warn!("{}: {told}; they are attached again", interface.name);
        let span = &mut self.spans[id as usize];
        span.notes.push(told);
        span.has_gap = true;
        Ok(())
    }

    /// The same for all, before what depends on it. What cannot be repaired has its gap all the same.
    fn repair_all(&mut self) {
        let ids: Vec<u32> = self.taps.iter().map(|tap| tap.id).collect();
        for id in ids {
            if let Err(error) = self.repair(id) {
                debug!("interface {id} of the file: {error:#}");
                self.spans[id as usize].has_gap |= self.tap(id).is_some_and(Tap::is_alive);
            }
        }
    }

    /// Nanoseconds since the epoch, by the clock of the packets.
    ///
    /// # Errors
    ///
    /// When the clock fails.
    pub fn now(&self) -> Result<u64> {
        self.clock.now()
    }

    /// Has the statistics of an interface in the file tell something of it.
    pub fn note(&mut self, id: u32, text: String) {
        self.spans[id as usize].notes.push(text);
    }

    /// The same of packets that are handed past a tap, which is told once.
    pub fn note_passed(&mut self, id: u32, text: String) {
        self.note(id, text);
        if let Some(tap) = self.taps.iter_mut().find(|tap| tap.id == id) {
            tap.can_be_passed = true;
        }
    }

    /// Ends the capture of one interface, which may be there, since classifiers of it cannot be attached again.
    ///
    /// # Errors
    ///
    /// When the clock fails.
    pub fn give_up(&mut self, id: u32, why: &anyhow::Error) -> Result<()> {
        let span = &mut self.spans[id as usize];
        span.notes.push(format!("ended early: {why:#}"));
        span.has_gap = true;
        self.leave(id)
    }

    /// Ends the capture of one interface; the others go on.
    ///
    /// # Errors
    ///
    /// When the clock fails.
    pub fn leave(&mut self, id: u32) -> Result<()> {
        self.taps.retain(|tap| tap.id != id);
        self.spans[id as usize].end = Some(self.clock.now()?);
        Ok(())
    }

    /// From now on takes what goes into the pod at the pod's own interface, as one interface more in the file;
    /// `comment` tells there why. What leaves the pod is taken at the host's end as before.
    ///
    /// # Errors
    ///
    /// When the pod's interface cannot be attached to; the capture then goes on as before.
    pub fn go_inside(&mut self, id: u32, comment: String) -> Result<()> {
        let Some(at) = self.taps.iter().position(|tap| tap.id == id) else {
            return Ok(());
        };
        let interface = self.taps[at].interface.clone();
        let next = self.spans.len() as u32;
        let directions = self.taps[at].directions.iter().filter(|(direction, _)| *direction == Direction::In);
        let directions = directions.cloned().collect();
        let tap = Tap::new(next, interface, AttachAt::Pod, self.plan.mechanism, directions)?;
        self.describe(&tap, Some(comment))?;
        self.attach(vec![tap])?;
        // Last, so that nothing is missed; what passes both ends meanwhile is taken twice.
        let host_end = &mut self.taps[at];
        let hook = host_end.point.hook(Direction::In);
        if let Some(attachment) = &mut host_end.attachment {
            attachment.unhook(hook);
        }
        host_end.directions.retain(|(direction, _)| *direction != Direction::In);
        if host_end.directions.is_empty() {
            self.leave(id)?;
        }
        Ok(())
    }

    /// Takes all classifiers away; when this returns, no packet is on its way into the ring any more.
    fn detach(mut self) -> Self {
        self.repair_all();
        self.warn_of_programs_ahead();
        self.taps.clear();
        wait_for_running_programs();
        self
    }

    /// Writes what is left, and tells how it went.
    fn finish(self) -> Result<(End, Accounts)> {
        let Self { drain, kernel, clock, spans, .. } = self;
        drain.stop();
        let Drained { mut output, losses, end, fullest_percent } = drain.join()?;
        let accounts = Accounts::read(&kernel, &output, &losses, &spans)?;
        let written = accounts.write(&mut output, clock);
        accounts.print();
        info!("the buffer was at most {fullest_percent} % full ({})", kernel.describe_ring());
        match end {
            End::Failed(error) => Err(error),
            End::Hurried => {
                written.context("cannot write the statistics at the end")?;
                bail!("ended at once: what was still in the buffer is not in the capture")
            }
            // A reader that is gone needs no statistics.
            End::Closed => Ok((end, accounts)),
            End::Asked | End::Count => {
                written.context("cannot write the statistics at the end").map(|()| (end, accounts))
            }
        }
    }

    fn warn_of_programs_ahead(&self) {
        for Tap { interface, attachment, .. } in &self.taps {
            let ahead = attachment.as_ref().map(|it| it.programs_ahead().unwrap_or_default());
            for id in ahead.unwrap_or_default() {
                warn!(
                    "{}: BPF program {id} was put in front of sniff meanwhile; what it did not pass on is not in the \
                     capture",
                    interface.name
                );
            }
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

/// Never, when there is no remote.
async fn next_order(remote: &mut Option<Remote>) -> Option<Order> {
    match remote {
        Some(remote) => remote.orders.recv().await,
        None => future::pending().await,
    }
}

/// What the file says of an interface that has come to a scope at this time, in nanoseconds since the epoch.
fn came(scope: &Scope, now: u64) -> String {
    let since = sniff_pcapng::time(now);
    let behind = scope
        .age()
        .map_or_else(String::new, |age| format!(", {} ms after the pod's sandbox was made", age.as_millis()));
    format!("joined the running capture at {since}{behind}; its packets before that are not here")
}

/// A filter for a person.
fn in_words(filter: Option<&str>) -> &str {
    filter.unwrap_or("every packet")
}

/// Loads classifiers, unless it `is_over` meanwhile; none where there are no arguments.
fn load(
    body: &Body,
    arguments: &[Option<Arguments>],
    is_over: impl Fn() -> bool + Sync,
) -> Result<Vec<Option<Classifier>>> {
    let given: Vec<Arguments> = arguments.iter().flatten().cloned().collect();
    let mut loaded = classifier::load(body, &given, is_over)?.into_iter();
    Ok(arguments.iter().map(|arguments| arguments.as_ref().and_then(|_| loaded.next())).collect())
}

/// Taps for interfaces, with ids from `first` on, or why there can be none for one. Nothing is attached yet.
fn new_taps(
    general: Option<&str>,
    plan: &Plan,
    first: u32,
    interfaces: Vec<Interface>,
) -> Result<(Vec<Tap>, Vec<anyhow::Error>)> {
    let directions = |interface: Interface| {
        let wanted = tap::directions(&interface, plan.directions);
        let directions = with_filters(&plan.filters, &interface, general, wanted)?;
        Ok((interface, directions))
    };
    let filtered = interfaces.into_iter().map(directions).collect::<Result<Vec<_>>>()?;
    // Each asks the kernel what else is at its hooks.
    let tap = |(interface, directions)| Tap::new(0, interface, plan.attach, plan.mechanism, directions);
    let mut refused = Vec::new();
    let taps = parallel::map(filtered, tap).into_iter();
    let taps = taps.filter_map(|tap| tap.map_err(|error| refused.push(error)).ok());
    let taps = (first..).zip(taps).map(|(id, tap)| Tap { id, ..tap }).collect();
    Ok((taps, refused))
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

/// Each direction with the interface's own filter, or the general one.
fn with_filters(
    filters: &Filters,
    interface: &Interface,
    general: Option<&str>,
    directions: &[Direction],
) -> Result<Vec<(Direction, Filter)>> {
    let text = interface.expression(general);
    let of = |&direction: &Direction| {
        Ok((direction, filters.of(text.as_deref(), link_type(interface), direction)?))
    };
    let with_filters = directions.iter().map(of).collect::<Result<Vec<_>>>()?;
    ensure!(
        with_filters.iter().any(|(_, filter)| *filter != Filter::None),
        "{}: no packet matches the filter",
        interface.name
    );
    Ok(with_filters)
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
