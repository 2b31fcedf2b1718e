//! The session's talk with its client, while the capture runs: who joins and leaves, keep-alives both ways, counts,
//! and the reasons to end.

use std::{collections::HashSet, future, process, sync::Arc, time::Duration};

use anyhow::{Result, anyhow, ensure};
use log::{debug, info, warn};
use sniff_cli::exit;
use sniff_common::Counters;
use sniff_filter::Filters;
use sniff_kubernetes::consent::LABEL;
use sniff_pcapng::LinkType;
use sniff_protocol::{
    ToClient, ToNode,
    message::{self, Code, Event as Told, Level, NodeError, Reason, Stats, Target, TargetId, Targets},
    request::Alarm,
};
use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, sleep, sleep_until},
};

use super::{
    MAX_INTERFACES,
    consent::NoConsent,
    holding::{Holdings, Moment},
    input::Input,
    members::{Agreed, Member, Members},
    output::ClientWriter,
    rate::Rate,
};
use crate::{
    agent::{
        audit::{Captured, PodId},
        wire::{Grant, Holding, NotAuthorised, Report},
    },
    capture::{Event, Order, Progress, tap::link_type},
    system::{clock, privileges},
    targets::{Arrivals, Awaited, Interface, PodRef, Scope, runtime::Arrival},
};

/// Longest silence towards the client.
const KEEP_ALIVE: Duration = Duration::from_secs(5);
/// Counts come about once a second; those of a capture that has just begun, faster.
const BETWEEN_STATS: Duration = Duration::from_millis(900);
/// Once the client seems to be gone, nothing may move for so long before what is left is given up.
const LAST_WORDS: Duration = Duration::from_secs(5);
/// Interfaces that are attached while nothing else is done: each takes some 40 ms.
const AT_ONCE: usize = 8;
/// Most bytes of a name. Kubernetes has at most 253.
const MAX_WORD: usize = 253;
/// What the file says of interfaces that were not there from the start.
const JOINED: &str = "joined the running capture";
/// What the file and the client are told of a node's interface.
const LEFT_OUT: &str =
    "left out are the kubelet's connections that were there at the start, one of which carries this capture";

/// A pod whose sandbox is not older has been missed for its first packets at most.
const IS_NEW: Duration = Duration::from_secs(60);

/// Everybody who takes part.
pub(super) struct Conversation<'a> {
    input: &'a mut Input,
    output: &'a mut ClientWriter,
    capture: Capture,
    arrivals: Arrivals,
    members: Members,
    /// Everybody who was ever to be captured: those who are not any more left for a reason.
    known: HashSet<TargetId>,
    grant: Grant,
    progress: Arc<Progress>,
    counters: Counters,
    fullest_percent: u8,
    told: Stats,
    told_at: Instant,
    /// When a policy ends it, and the words for that.
    longest: Option<(Instant, String)>,
    /// What was said of policies.
    policies_told: HashSet<String>,
    pace: Pace,
    /// Of a recorder, what it holds.
    holdings: Option<Holdings>,
    held: Option<Holding>,
    /// Of packets that an alarm is about, if there is one.
    rate: Option<Rate>,
    /// How fast they come, until the agent was told.
    alarm: Option<u64>,
}

/// How often something is told at most, and at least.
#[derive(Clone, Copy)]
struct Pace {
    stats: Duration,
    keep_alive: Duration,
}

impl Pace {
    /// To a client.
    const CLIENT: Self = Self { stats: BETWEEN_STATS, keep_alive: KEEP_ALIVE };
    /// To an agent of its own recorder, which is not to wake anybody.
    const AGENT: Self = Self { stats: Duration::from_secs(5), keep_alive: Duration::from_secs(60) };
}

/// The capture, as far as it is talked to.
pub(super) struct Capture {
    /// What it is told.
    pub(super) orders: mpsc::Sender<Order>,
    /// What it tells.
    pub(super) happens: mpsc::UnboundedReceiver<Event>,
    /// Shared with it: what is compiled here, it need not wait for.
    pub(super) filters: Filters,
    /// The filter of every interface without one of its own.
    pub(super) general: Option<String>,
    /// Of a recorder, how many bytes it has room for.
    pub(super) room: Option<u64>,
    /// What the agent is to be told of at once.
    pub(super) alarm: Option<Alarm>,
}

impl<'a> Conversation<'a> {
    /// Brings them together.
    pub(super) fn new(
        input: &'a mut Input,
        output: &'a mut ClientWriter,
        capture: Capture,
        arrivals: Arrivals,
        members: Members,
        grant: Grant,
        progress: Arc<Progress>,
    ) -> Self {
        let (room, rate) = (capture.room, capture.alarm.as_ref().map(|alarm| Rate::new(alarm.per_second)));
        let pace = if room.is_some() { Pace::AGENT } else { Pace::CLIENT };
        let (counters, told, told_at) = (Counters::default(), Stats::default(), Instant::now());
        Self {
            input,
            output,
            capture,
            arrivals,
            members,
            known: HashSet::new(),
            grant,
            progress,
            counters,
            fullest_percent: 0,
            told,
            told_at,
            longest: None,
            policies_told: HashSet::new(),
            pace,
            holdings: room.map(Holdings::new),
            held: None,
            rate,
            alarm: None,
        }
    }

    /// Has the first targets captured, and talks on until there is a reason to end; `None` when the capture has ended
    /// by itself.
    pub(super) async fn hold(
        &mut self,
        targets: Vec<Target>,
        lease: Duration,
        duration: Option<Duration>,
    ) -> Option<Reason> {
        // Meanwhile the capture prepares itself. A client that goes is noticed below.
        let settled = async {
            self.members.settle().await;
            Ok(())
        };
        let _ = self.input.unless_gone(settled).await;
        for target in targets {
            self.admit(target, None).await;
        }
        let interfaces = self.members.interfaces() as u32;
        info!("listening on {interfaces} interface(s)");
        self.output.tell(ToClient::Event(Told::Listening { interfaces }));
        let over = duration.map(|duration| Instant::now() + duration);
        let mut heard = Instant::now();
        loop {
            tokio::select! {
                // In this order: what the client has said counts before its lease is looked at.
                biased;
                message = self.input.next() => match message {
                    Some(Ok(ToNode::Stop)) => return Some(Reason::Stopped),
                    Some(Ok(message)) => {
                        self.handle(message).await;
                        heard = Instant::now();
                    }
                    Some(Err(broken)) => return Some(self.fail(Code::Usage, &broken.into())),
                    None => return Some(Reason::InputClosed),
                },
                event = self.capture.happens.recv() => match event {
                    Some(Event::Gone(interface)) => {
                        let left = self.members.lose(&interface);
                        self.take_leave().await;
                        if left.is_some_and(|target| self.members.has(&target)) {
                            let text = format!("{} is gone; waiting for another interface there", interface.name);
                            self.output.tell(ToClient::Event(Told::Note { level: Level::Info, text }));
                        }
                    }
                    Some(Event::Came(scope, interface)) => {
                        let interfaces = vec![interface.name.clone()];
                        if let Some(target) = self.members.gain(&scope, *interface) {
                            self.output.tell(ToClient::Event(Told::TargetAdded { target, interfaces }));
                        }
                    }
                    Some(Event::Counted { counters, time, fullest_percent, recorded }) => {
                        self.fullest_percent = fullest_percent;
                        self.hold_by_now(&counters, recorded);
                        self.count(counters, time).await;
                        self.take_leave().await;
                    }
                    None => return None,
                },
                Some((arrival, awaited)) = self.arrivals.next() => self.meet(arrival, awaited).await,
                (cause, why) = self.grant.revoked() => {
                    self.fail(Code::RefusedLimit, &anyhow!(why));
                    return Some(cause.into());
                }
                () = self.members.consent_changes() => self.heed_consent().await,
                () = self.output.broken() => return Some(Reason::Failed),
                () = at(self.longest.as_ref().map(|(at, _)| *at)) => {
                    let why = self.longest.take().map(|(_, why)| why).unwrap_or_default();
                    self.fail(Code::RefusedLimit, &anyhow!(why));
                    return Some(Reason::Deadline);
                }
                () = sleep_until(heard + lease) => return Some(Reason::Lease),
                () = at(over) => return Some(Reason::Duration),
                () = sleep_until(self.told_at + self.pace.keep_alive) => self.tell_stats(),
            }
        }
    }

    /// Tells the client how much is left until all has gone out: when `is_over` says so. Ends the process when nobody
    /// takes it: a client that keeps its lease alive may take its time, but without one, the pipe may stay full for ever.
    /// The orders end here, and with them the capture, which detaches first of all.
    pub(super) async fn wind_up(
        mut self,
        lease: Duration,
        is_lost: bool,
        mut is_over: oneshot::Receiver<()>,
    ) -> Grant {
        self.capture.orders = mpsc::channel(1).0;
        let mut lease_ends = (!is_lost).then(|| Instant::now() + lease);
        let mut moved = (self.progress.moved(), Instant::now());
        loop {
            tokio::select! {
                _ = &mut is_over => return self.grant,
                message = self.input.next(), if lease_ends.is_some() => {
                    lease_ends = matches!(message, Some(Ok(_))).then(|| Instant::now() + lease);
                }
                Some(event) = self.capture.happens.recv() => {
                    if let Event::Counted { counters, fullest_percent, .. } = event {
                        (self.counters, self.fullest_percent) = (counters, fullest_percent);
                    }
                }
                () = sleep(BETWEEN_STATS) => {}
            }
            if self.told_at.elapsed() >= BETWEEN_STATS {
                self.tell_stats();
                self.report().await;
            }
            lease_ends = lease_ends.filter(|ends| Instant::now() < *ends);
            if self.progress.moved() != moved.0 || lease_ends.is_some() {
                moved = (self.progress.moved(), Instant::now());
            }
            if moved.1.elapsed() >= LAST_WORDS {
                warn!("ended: nobody takes the packets that are left");
                process::exit(exit::FAILURE.into());
            }
        }
    }

    async fn handle(&mut self, message: ToNode) {
        match message {
            ToNode::Targets(Targets { add, remove }) => {
                if let Err(error) = check(&add) {
                    self.fail(Code::Usage, &error);
                    return;
                }
                for id in remove {
                    self.dismiss(id, "as asked").await;
                }
                for target in add {
                    self.admit(target, Some(JOINED)).await;
                }
            }
            ToNode::Watermark => {
                // A capture that has ended has sent all.
                let _ = self.order(|done| Order::Watermark { done }).await;
            }
            ToNode::Hello(_) => {
                self.fail(Code::Usage, &anyhow!("a second hello, which changes nothing"));
            }
            // Stop is the loop's, and goodbye comes behind the end.
            ToNode::KeepAlive | ToNode::Stop | ToNode::Goodbye => {}
        }
    }

    /// Has a target captured, or says why it cannot be.
    async fn admit(&mut self, target: Target, comment: Option<&str>) {
        if self.members.has(&target.id) && !self.members.waits(&target.id) {
            return;
        }
        self.known.insert(target.id.clone());
        let event = match self.join(&target, comment).await {
            Ok(interfaces) => {
                self.tell_of_capture(&target.id).await;
                Told::TargetAdded { target: target.id, interfaces }
            }
            // It was not even tried to the end.
            Err(_) if self.input.is_told_to_stop() => return,
            Err(error) => {
                let refused = error.is::<NoConsent>() || error.is::<NotAuthorised>();
                let error = format!("{:#}", privileges::advise_session(error));
                if refused {
                    self.grant.denied(target.id.to_string(), &error).await;
                }
                Told::TargetFailed { target: target.id, error, refused }
            }
        };
        self.output.tell(ToClient::Event(event));
    }

    /// Tells the agent whom the session captures besides and how, and the client what of that a policy demands.
    async fn tell_of_capture(&mut self, id: &TargetId) {
        let Some(Member { pod, agreed, interfaces, .. }) = self.members.get(id) else { return };
        let names: Vec<&str> = interfaces.iter().map(|interface| interface.name.as_str()).collect();
        let what = match id {
            TargetId::Pod { .. } => id.to_string(),
            TargetId::Node => format!("{id} ({})", names.join(", ")),
        };
        let (pod, Agreed { terms, duration }) = (pod.as_ref().map(PodId::from), agreed.clone());
        if let Some(why) = &terms.overridden {
            warn!("{id} is captured though {why} (--override-deny)");
        }
        let whose = pod.as_ref().map_or_else(|| id.to_string(), |pod| format!("pods of {}", pod.namespace));
        if !terms.policy.is_empty() {
            let text = format!("by the policy of this node, of {whose}: {}", terms.policy.join(", "));
            if self.policies_told.insert(text.clone()) {
                self.output.tell(ToClient::Event(Told::Note { level: Level::Info, text }));
            }
        }
        // What is handed out of a recording goes back no further than that.
        if let Some(longest) = duration.filter(|_| self.holdings.is_none()) {
            let ends = Instant::now() + longest;
            if self.longest.as_ref().is_none_or(|(at, _)| ends < *at) {
                let longest = humantime::format_duration(longest);
                let why = format!("the longest capture of {whose} is {longest}, by the policy of this node");
                self.longest = Some((ends, why));
            }
        }
        self.grant.captures(Captured { what, pod, terms }).await;
    }

    /// Takes leave of those that do not consent any more.
    async fn heed_consent(&mut self) {
        for (target, why) in self.members.revoked() {
            let error = format!("it must not be captured any more: {why}");
            warn!("{target}: {error}");
            self.leave(&target).await;
            self.grant.denied(target.to_string(), &error).await;
            self.output.tell(ToClient::Event(Told::TargetFailed { target, error, refused: true }));
        }
    }

    /// Has a pod that was awaited captured as soon as it has an interface, or now if that cannot be told.
    async fn meet(&mut self, arrival: Arrival, awaited: Awaited) {
        let Arrival { namespace, name, uid, labels, netns, at, was_there } = arrival;
        // The client is told why when it names the pod, as it does once the API tells of it.
        if !self.members.may_capture(&namespace) {
            return;
        }
        let id = TargetId::Pod { namespace: namespace.clone(), name: name.clone(), uid: uid.clone() };
        let is_known = !self.known.insert(id.clone());
        if is_known && was_there || self.members.has(&id) && !self.members.waits(&id) {
            return;
        }
        let Some(netns) = netns else {
            self.output.tell_first(ToClient::Event(Told::TargetArrived { target: id.clone() })).await;
            let Awaited { interfaces, .. } = awaited;
            let target = Target { interfaces, ..Target::new(id) };
            return self.admit(target, Some(JOINED)).await;
        };
        let capture_label = labels.get(LABEL).cloned();
        let pod = PodRef { namespace, name, uid, facts: Arc::default(), capture_label };
        match Scope::of_new_pod(pod.clone(), &netns, awaited.interfaces, at) {
            Ok(Some(mut scope)) => {
                let agreed = match self.members.agree(&mut scope) {
                    Ok(agreed) => agreed,
                    // The client names it in its turn, and hears that then.
                    Err(error) => return info!("{id} has come and is not captured: {error:#}"),
                };
                self.output.tell_first(ToClient::Event(Told::TargetArrived { target: id.clone() })).await;
                let (interfaces, scopes) = (Vec::new(), vec![scope]);
                let pod = Some(pod);
                let member =
                    Member { id: id.clone(), interfaces: Vec::new(), scopes: scopes.clone(), pod, agreed };
                // A capture that has ended is noticed elsewhere.
                let _ = self.take_in(member).await;
                self.tell_of_capture(&id).await;
                let _ = self.order(|done| Order::Join { interfaces, scopes, comment: None, done }).await;
            }
            Ok(None) => {}
            Err(error) => debug!("{id} has come and cannot be captured before it runs: {error:#}"),
        }
    }

    async fn join(&mut self, target: &Target, comment: Option<&str>) -> Result<Vec<String>> {
        let found = self.input.unless_gone(self.members.find(target)).await?;
        for interface in &found.interfaces {
            if interface.demands.filter.is_some() {
                // What is demanded besides must not mend what is no filter.
                let asked = interface.filter.clone().or_else(|| self.capture.general.clone());
                self.compile(asked, link_type(interface)).await?;
            }
            let expression = interface.expression(self.capture.general.as_deref());
            self.compile(expression, link_type(interface)).await?;
            let alarm = self.capture.alarm.as_ref().and_then(|alarm| interface.alarm(&alarm.filter));
            self.compile(alarm, link_type(interface)).await?;
        }
        let left_out = found.interfaces.iter().find_map(|interface| interface.left_out.as_deref());
        let left_out = left_out.map(|expression| format!("{LEFT_OUT}: {expression}"));
        if let Some(text) = &left_out {
            let text = format!("{}: {text} (--include-own-stream captures them)", target.id);
            self.output.tell(ToClient::Event(Told::Note { level: Level::Info, text }));
        }
        let late = if target.again { String::new() } else { late(&found) };
        let told = target.comment.as_ref().map(|told| format!("{told}{late}"));
        let comment = told.or_else(|| comment.map(str::to_owned));
        let comments: Vec<String> = comment.into_iter().chain(left_out).collect();
        let comment = (!comments.is_empty()).then(|| comments.join("; "));
        let comment = comment.as_deref();
        let (last, steps) = match found.interfaces.chunks(AT_ONCE).collect::<Vec<_>>().split_last() {
            Some((last, steps)) => (last.to_vec(), steps.concat()),
            None => (Vec::new(), Vec::new()),
        };
        let joined = async {
            for step in steps.chunks(AT_ONCE) {
                self.attach(step.to_vec(), Vec::new(), comment).await?;
            }
            self.attach(last, found.scopes.clone(), comment).await
        };
        if let Err(error) = joined.await {
            let interfaces = found.interfaces;
            // Those that were attached go as they came.
            let _ = self.order(|done| Order::Leave { interfaces, scopes: Vec::new(), done }).await;
            return Err(error);
        }
        let names = found.interfaces.iter().map(|interface| interface.name.clone()).collect();
        self.take_in(found).await?;
        Ok(names)
    }

    /// Has some of a target's interfaces captured: as many as the capture does not stand still for.
    async fn attach(
        &mut self,
        interfaces: Vec<Interface>,
        scopes: Vec<Scope>,
        comment: Option<&str>,
    ) -> Result<()> {
        if self.told_at.elapsed() >= KEEP_ALIVE {
            self.tell_stats();
        }
        let comment = comment.map(str::to_owned);
        let (done, is_done) = oneshot::channel();
        let ended = || anyhow!("the capture has ended");
        let orders = self.capture.orders.clone();
        let attached = async move {
            orders.send(Order::Join { interfaces, scopes, comment, done }).await.map_err(|_| ended())?;
            is_done.await.map_err(|_| ended())?
        };
        self.input.unless_gone(attached).await
    }

    /// Notes that a target is captured, in place of what it was before if it has waited for an interface.
    async fn take_in(&mut self, member: Member) -> Result<()> {
        if let Some(Member { scopes, .. }) = self.members.leave(&member.id) {
            self.order(|done| Order::Leave { interfaces: Vec::new(), scopes, done }).await?;
        }
        self.members.join(member);
        Ok(())
    }

    async fn compile(&mut self, text: Option<String>, link_type: LinkType) -> Result<()> {
        match text {
            Some(text) => self.input.unless_gone(self.capture.filters.prepare(text, link_type)).await,
            None => Ok(()),
        }
    }

    /// Dismisses the targets whose interfaces are gone for ever.
    async fn take_leave(&mut self) {
        for target in self.members.ended() {
            self.dismiss(target, "its interface is gone: the pod has ended").await;
        }
    }

    async fn dismiss(&mut self, target: TargetId, why: &str) {
        let Some(left) = self.leave(&target).await else { return };
        let why = left.map_or_else(|error| format!("{error:#}"), |()| why.to_owned());
        self.output.tell(ToClient::Event(Told::TargetGone { target, why }));
    }

    /// Has a target captured no more, if it is.
    async fn leave(&mut self, target: &TargetId) -> Option<Result<()>> {
        let Member { interfaces, scopes, pod, .. } = self.members.leave(target)?;
        let left = self.order(|done| Order::Leave { interfaces, scopes, done }).await;
        if let Some(pod) = &pod {
            self.grant.leaves(PodId::from(pod)).await;
        }
        Some(left)
    }

    /// Gives the capture an order and waits until it is carried out.
    async fn order(&self, order: impl FnOnce(oneshot::Sender<Result<()>>) -> Order) -> Result<()> {
        let ended = || anyhow!("the capture has ended");
        let (done, is_done) = oneshot::channel();
        self.capture.orders.send(order(done)).await.map_err(|_| ended())?;
        is_done.await.map_err(|_| ended())?
    }

    /// Tells the client of an error; the reason is for where the session ends with it.
    fn fail(&self, code: Code, error: &anyhow::Error) -> Reason {
        self.output.tell(ToClient::Error(NodeError { code, message: format!("{error:#}") }));
        Reason::Failed
    }

    async fn count(&mut self, counters: Counters, time: std::time::Instant) {
        self.counters = counters;
        self.alarm = self.rate.as_mut().and_then(|rate| rate.at(time, counters.alarms));
        if self.alarm.is_some() {
            self.report().await;
        }
        if self.stats() != self.told && self.told_at.elapsed() >= self.pace.stats {
            self.tell_stats();
            self.report().await;
        }
    }

    /// Tells the agent what the client was told, and how many bytes have gone there.
    async fn report(&mut self) {
        let Stats { matched, delivered, dropped, cut_off, .. } = self.told;
        let (bytes, held, alarm) = (self.progress.moved(), self.held, self.alarm.take());
        self.grant.report(&Report { matched, delivered, dropped, cut_off, bytes, held, alarm }).await;
    }

    /// Finds out what is held, of a recorder.
    fn hold_by_now(&mut self, counters: &Counters, bytes: u64) {
        let Some(holdings) = &mut self.holdings else { return };
        let packets = counters.recorded();
        self.held = Some(holdings.at(Moment { time: clock::now(), bytes, packets }));
    }

    fn stats(&self) -> Stats {
        let (delivered, dropped) = (self.progress.delivered(), self.counters.lost());
        let stats = Stats {
            matched: self.counters.matched,
            delivered,
            dropped,
            fullest_percent: self.fullest_percent,
            unreadable: self.counters.unreadable,
            held_up: self.progress.lost_meanwhile().min(dropped),
            left_out: self.progress.left_out(),
            cut_off: self.counters.cut_off,
        };
        // Those were counted a while ago; what has been sent meanwhile was matched.
        let matched = stats.matched.max(delivered.saturating_add(stats.never_sent()));
        Stats { matched, ..stats }
    }

    fn tell_stats(&mut self) {
        self.told = self.stats();
        self.told_at = Instant::now();
        self.output.tell(ToClient::Stats(self.told.clone()));
    }
}

/// Refuses more than anybody waits for.
pub(super) fn check_awaited(awaited: &[message::Awaited]) -> Result<()> {
    ensure!(awaited.len() <= MAX_INTERFACES as usize, "{} selections of pods at once", awaited.len());
    Ok(())
}

/// Refuses what no pod can be called, and more at once than there is room for.
pub(super) fn check(targets: &[Target]) -> Result<()> {
    ensure!(targets.len() <= MAX_INTERFACES as usize, "{} targets at once", targets.len());
    let is_long = |text: &str| text.len() > MAX_WORD;
    let has_long = |target: &Target| {
        let words = target.interfaces.iter().chain(&target.container);
        words.map(String::as_str).any(is_long)
            || match &target.id {
                TargetId::Pod { namespace, name, uid } => {
                    [namespace, name, uid].into_iter().any(|it| is_long(it))
                }
                TargetId::Node => false,
            }
    };
    ensure!(!targets.iter().any(has_long), "a target with a name of more than {MAX_WORD} bytes");
    Ok(())
}

/// What of a pod that has just come may be missing, to be told behind why it comes later than others.
fn late(found: &Member) -> String {
    let age = found.scopes.iter().find_map(Scope::age).filter(|age| *age < IS_NEW);
    let text = |age: Duration| {
        let ms = age.as_millis();
        format!("; the pod's sandbox was made {ms} ms before, packets of that time may be missing")
    };
    age.map_or_else(String::new, text)
}

/// Never, when there is no such time.
async fn at(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => future::pending().await,
    }
}
