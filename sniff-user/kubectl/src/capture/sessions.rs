//! The nodes' sessions: what they are told, and what they say.

use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::{Result, ensure};
use bytes::Bytes;
use log::{error, info, warn};
use sniff_cli::alarm::{Alarm, Alert};
use sniff_kubernetes::pods::By;
use sniff_pcapng::{
    InterfaceDescription,
    merge::{Merger, StreamId},
};
use sniff_protocol::message::{
    Awaited, AwaitedBy, CapturePlan, Code, End, Event, Level, NodeHello, Reason, Seen, Stats, Target,
    TargetId, Targets,
};

use super::{
    Capture,
    losses::Cause,
    members::{Loss, Member, facts_of, name},
    remit::Remit,
};
use crate::{
    args::Args,
    door::Wanted,
    rejoin::Ending,
    session::{KnowsNoPast, Number, Orders, PodKind, Session, Start, Update},
};

/// How far a node's clock may be from that of others before that is worth words.
const CLOCKS_AGREE: Duration = Duration::from_secs(2);
/// A session of this many milliseconds may end earlier by this much, by the clock here.
const ROUGHLY: Duration = Duration::from_millis(500);
/// Between two questions for watermarks, to whichever node: all go through the API server.
const BETWEEN_ASKS: Duration = Duration::from_millis(10);
/// A node that has sent no packet for so long is asked how far it is: should it be lost, all before was quiet.
const QUIET: Duration = Duration::from_secs(2);
/// An output that has had no room for so long past is what holds up the nodes: their counts come about once a second.
const LATELY: Duration = Duration::from_secs(3);

/// A session with what it said last.
pub(super) struct Running {
    pub(super) session: Session,
    pub(super) stream: StreamId,
    remit: Remit,
    /// Packets and time after which it ends by itself.
    limits: (Option<u64>, Option<Duration>),
    /// Whether it was said that its clock is wrong.
    is_clock_told: bool,
    pub(super) stats: Stats,
    /// Where packets between its pods were seen, once it has ended.
    pub(super) seen: Option<Seen>,
    pub(super) accounts: Accounts,
    /// When it may be asked for a watermark next, if it answers.
    next_ask: Option<Instant>,
    /// When packets or a watermark came last.
    spoke: Instant,
    /// Where it runs; not known before it has greeted, unless its node is joined again.
    pod: Option<PodKind>,
    /// Whether a limit of the node refused it at its start.
    is_over_limit: bool,
    pub(super) listening_since: Option<Instant>,
    /// Whether it was said that it loses packets, and that its buffer was nearly full.
    alarm: Alarm,
    /// Whether it has said what was not its to say, and is not heard any more.
    is_dropped: bool,
    pub(super) ended: bool,
}

/// How far a session's counts can be relied on.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Accounts {
    /// It has not begun: there is nothing to count.
    NotBegun,
    /// More may have come since.
    Open,
    /// They are its last.
    Final,
}

impl Running {
    /// Packets that it has captured and that have not come, as far as it has told.
    pub(super) fn left(&self, merger: &Merger) -> u64 {
        let never_sent = self.stats.never_sent();
        self.stats.matched.saturating_sub(never_sent).saturating_sub(merger.received(self.stream))
    }

    /// Packets that matched; at least, before its accounts are final: its counts come behind its packets.
    pub(super) fn matched(&self, merger: &Merger) -> u64 {
        let matched = self.stats.matched;
        match self.accounts {
            Accounts::Open => {
                let received = merger.received(self.stream);
                matched.max(received.saturating_add(self.stats.never_sent()))
            }
            Accounts::NotBegun | Accounts::Final => matched,
        }
    }

    /// When it is to be asked for a watermark: soon if a packet of another waits for it, otherwise when it is quiet.
    fn ask_due(&self, is_awaited: bool) -> Option<Instant> {
        let may = self.next_ask.filter(|_| !self.ended)?;
        Some(if is_awaited { may } else { may.max(self.spoke) + QUIET })
    }

    /// Since when packets of it may be missing, if it is lost.
    pub(super) fn complete_until(&self, merger: &Merger) -> String {
        let time = merger.complete_until(self.stream).map(|time_ns| {
            humantime::format_rfc3339_millis(UNIX_EPOCH + Duration::from_nanos(time_ns)).to_string()
        });
        time.unwrap_or_else(|| "it listened".to_owned())
    }

    /// Warns when packets begin to be lost, and of a buffer that fills.
    fn heed(&mut self, stats: Stats, is_output_slow: bool) {
        let node = &self.session.node;
        let cause = Cause::of(&self.stats, &stats, is_output_slow);
        for alert in self.alarm.look(stats.fullest_percent, stats.dropped, Instant::now()) {
            match alert {
                Alert::Filling(percent) => {
                    warn!(
                        "node {node}: its buffer was {percent} % full: where the connection from there is too slow, \
                         --headers, a smaller -s or a narrower filter helps, and for short bursts a larger -B"
                    );
                }
                Alert::Losing => {
                    warn!(
                        "node {node}: packets are being lost, {} so far: {}",
                        stats.dropped,
                        cause.advice()
                    );
                }
                Alert::Over(lost) => {
                    info!("node {node}: {lost} packets were lost; none has been for a while");
                }
            }
        }
        self.stats = stats;
    }
}

impl Capture {
    /// Tells the sessions who joins; a node without one gets one.
    pub(super) fn tell_sessions(&mut self) {
        for (node, targets) in std::mem::take(&mut self.joining) {
            // One that is lost is told in time, of all its targets.
            if targets.is_empty() || self.rejoins.is_waiting(&node) {
                continue;
            }
            if let Some(running) = self.running_on(&node) {
                running.remit.extend(&targets);
                running.session.change(Targets { add: targets, remove: Vec::new() });
                continue;
            }
            if self.given_up.contains(&node) {
                self.failed = true;
                for target in targets {
                    error!("{} is not captured: node {node} was given up", name(&target.id, &node));
                }
                continue;
            }
            self.begin(node, targets);
        }
        for node in std::mem::take(&mut self.expected) {
            let is_told = self.running_on(&node).is_some() || self.rejoins.is_waiting(&node);
            if !is_told && !self.given_up.contains(&node) {
                self.begin(node, Vec::new());
            }
        }
    }

    /// Whom a node is to look out for by itself. A pod's containers it does not know that early.
    fn awaited(&self, node: &str) -> Vec<Awaited> {
        let is_for_the_api_alone = self.follows.is_empty() || self.args.container.is_some();
        if self.past.is_none() && is_for_the_api_alone {
            return Vec::new();
        }
        let there = self.selections.iter().filter(|it| it.node.as_deref().is_none_or(|it| it == node));
        let awaited = there.map(|selection| Awaited {
            namespace: selection.namespace.clone(),
            by: match selection.by.clone() {
                By::Name(name) => AwaitedBy::Name { name },
                By::Labels(selector) => AwaitedBy::Labels { selector },
            },
            interfaces: self.args.interfaces.clone(),
        });
        awaited.collect()
    }

    /// What a session on a node is to capture, as far as rights go: also of whom that may join later.
    fn wanted(&self, node: &str, targets: &[Target]) -> Wanted {
        let there = self.selections.iter().filter(|it| it.node.as_deref().is_none_or(|it| it == node));
        let mut wanted = Wanted::default();
        for selection in there {
            match &selection.namespace {
                Some(namespace) => drop(wanted.namespaces.insert(namespace.clone())),
                None => wanted.any_namespace = true,
            }
        }
        for target in targets {
            match &target.id {
                TargetId::Pod { namespace, .. } => drop(wanted.namespaces.insert(namespace.clone())),
                TargetId::Node => wanted.node = true,
            }
        }
        wanted
    }

    /// Begins a session, with all who are to be captured on its node: nobody joins alone where others are owed.
    fn begin(&mut self, node: String, mut targets: Vec<Target>) {
        let number = self.sessions.len();
        let mut owed: Vec<Target> = self.members_on(&node).map(|member| member.target.clone()).collect();
        owed.sort_by(|one, other| one.id.cmp(&other.id));
        owed.retain(|target| !targets.iter().any(|it| it.id == target.id));
        targets.extend(owed);
        // Only the DaemonSet's pods record.
        let again = self.past.as_ref().map(|_| PodKind::Installed).or_else(|| self.rejoins.pod(&node));
        let awaited = self.awaited(&node);
        let remit = Remit::new(&node, &targets, &awaited);
        let plan = self.plan();
        let stream = if self.past.is_some() { self.merger.join_past() } else { self.merger.join() };
        self.merger.mark(stream, format!("node {node}: "));
        let limits = (plan.count, plan.duration_ms.map(Duration::from_millis));
        let wanted = self.wanted(&node, &targets);
        let past = self.past.clone();
        let start = Start { plan, targets, awaited, past, wanted, again };
        let updates = self.updating.clone();
        self.sessions.push(Running {
            session: Session::start(Arc::clone(&self.common), node, start, number, updates),
            stream,
            remit,
            limits,
            is_clock_told: false,
            stats: Stats::default(),
            seen: None,
            accounts: Accounts::NotBegun,
            next_ask: None,
            spoke: Instant::now(),
            pod: again,
            is_over_limit: false,
            listening_since: None,
            alarm: Alarm::default(),
            is_dropped: false,
            ended: false,
        });
    }

    pub(super) fn running_on(&mut self, node: &str) -> Option<&mut Running> {
        self.sessions.iter_mut().find(|running| !running.ended && running.session.node == node)
    }

    /// The plan of a session that begins now: what limits the capture holds over all of it.
    fn plan(&self) -> CapturePlan {
        let mut plan = plan(&self.args);
        // None is no limit of a session's.
        plan.count = plan.count.map(|count| count.saturating_sub(self.merger.written()).max(1));
        if self.past.is_some() {
            // The time here runs from when all nodes have been asked.
            plan.duration_ms = None;
            return plan;
        }
        let is_one = matches!(&self.selections[..], [selection] if matches!(selection.by, By::Name(_)));
        plan.both_ends = self.args.capture.both_ends(!is_one);
        if let Some(deadline) = self.deadline() {
            let left = deadline.saturating_duration_since(Instant::now());
            plan.duration_ms = Some(left.as_millis() as u64);
        }
        plan
    }

    /// Asks the nodes that packets wait for, and those that are quiet, how far they are; returns when that is due again, if
    /// nothing comes.
    pub(super) fn ask(&mut self, now: Instant) -> Option<Instant> {
        let awaited: Vec<StreamId> = self.merger.awaited().collect();
        let pause = BETWEEN_ASKS * self.sessions.len() as u32;
        let Self { sessions, merger, .. } = self;
        let asked = sessions.iter_mut().filter_map(|running| {
            if !merger.may_ask(running.stream) {
                return None;
            }
            let is_awaited = awaited.contains(&running.stream);
            if running.ask_due(is_awaited)? <= now {
                running.session.ask_for_watermark();
                merger.expect_watermark(running.stream, now);
                running.next_ask = Some(now + pause);
            }
            running.ask_due(is_awaited)
        });
        asked.min()
    }

    /// What a session says. One that says what is not its to say is dropped; the others go on.
    pub(super) fn update(&mut self, number: Number, update: Update) {
        let node = self.sessions[number].session.node.clone();
        let heard = match update {
            Update::Ended(outcome) => {
                self.ended(number, &node, outcome);
                Ok(())
            }
            _ if self.sessions[number].is_dropped => Ok(()),
            Update::Hello(hello, pod) => self.greeted(number, &node, &hello, pod),
            Update::Packets(blocks) => self.packets(number, &node, blocks),
            Update::Event(event) => self.event(number, &node, event),
            // What was lost while it was recorded is lost.
            Update::Stats(stats) if self.past.is_some() => {
                self.sessions[number].stats = stats;
                Ok(())
            }
            Update::Stats(stats) => {
                let is_output_slow = self.held_up_at.is_some_and(|at| at.elapsed() < LATELY);
                self.sessions[number].heed(stats, is_output_slow);
                Ok(())
            }
            Update::Error(error) => {
                self.failed = true;
                let running = &mut self.sessions[number];
                // One that has listened has used up what it may have.
                running.is_over_limit |=
                    error.code == Code::RefusedLimit && running.listening_since.is_none();
                error!("node {node}: {}", error.message);
                Ok(())
            }
        };
        if let Err(error) = heard {
            self.failed = true;
            error!("node {node}: {error:#}; nothing more is taken from it");
            self.given_up.insert(node);
            let running = &mut self.sessions[number];
            running.is_dropped = true;
            running.session.order(Orders::Quit);
            self.merger.end(running.stream);
        }
    }

    fn greeted(&mut self, number: Number, node: &str, hello: &NodeHello, pod: PodKind) -> Result<()> {
        // One that ends by itself tells with that how far it is.
        let is_asked = hello.has_watermarks && !self.ends_by_itself();
        let running = &mut self.sessions[number];
        running.accounts = Accounts::Open;
        running.pod = Some(pod);
        running.next_ask = is_asked.then(Instant::now);
        running.remit.check_hello(hello)?;
        if self.args.capture.one_side && !hello.has_both_ends {
            warn!(
                "node {node} has sniff {}, which does not know --one-side: packets between two pods there are here twice",
                hello.version
            );
        }
        if self.args.capture.cutoff.is_some() && !hello.has_cutoffs {
            warn!(
                "node {node} has sniff {}, which does not know --cutoff: all of its packets come",
                hello.version
            );
        }
        if (self.args.reason.is_some() || self.args.override_deny) && !hello.knows_reasons {
            warn!(
                "node {node} has sniff {}, which knows neither --reason nor --override-deny: there is no audit there",
                hello.version
            );
        }
        if hello.version != env!("CARGO_PKG_VERSION") {
            let ours = env!("CARGO_PKG_VERSION");
            info!("node {node} has sniff {}, this is {ours}", hello.version);
        }
        Ok(())
    }

    fn event(&mut self, number: Number, node: &str, event: Event) -> Result<()> {
        let running = &mut self.sessions[number];
        match event {
            Event::TargetAdded { target, interfaces } => {
                running.remit.check_target(&target, &interfaces)?;
                self.captured(node, &target);
                let whom = name(&target, node);
                match self.past {
                    Some(_) => info!("{whom} was recorded on node {node}"),
                    None => info!("capturing {whom} on node {node}: {}", interfaces.join(", ")),
                }
                self.check_listening();
            }
            Event::TargetArrived { target } => {
                running.remit.arrive(&target)?;
                self.arrived(node, target)?;
            }
            Event::TargetGone { target, why } => {
                running.remit.check_target(&target, &[])?;
                self.lost(node, target, &why, Loss::Gone);
            }
            Event::TargetFailed { target, error, refused } => {
                running.remit.check_target(&target, &[])?;
                self.lost(node, target, &error, if refused { Loss::Refused } else { Loss::Failed });
            }
            Event::Listening { interfaces } => {
                running.listening_since = Some(Instant::now());
                if self.past.is_some() {
                    self.has_begun |= self.has_captured;
                    self.check_listening();
                    return Ok(());
                }
                self.has_begun = true;
                match self.rejoins.was_lost(node) {
                    Some(true) => info!("node {node}: joined again"),
                    Some(false) => info!("node {node}: joined at last"),
                    None => {}
                }
                let waits = interfaces == 0 && self.orders == Orders::Run;
                let waits = if waits { "; waiting for one" } else { "" };
                info!("node {node}: listening on {interfaces} interface(s){waits}");
                self.check_listening();
            }
            Event::Note { level: Level::Warn, text } => warn!("node {node}: {text}"),
            Event::Note { level: Level::Info, text } => info!("node {node}: {text}"),
            Event::Unknown => {}
        }
        Ok(())
    }

    fn packets(&mut self, number: Number, node: &str, blocks: Bytes) -> Result<()> {
        let Running { stream, remit, is_clock_told, spoke, .. } = &mut self.sessions[number];
        *spoke = Instant::now();
        let before = self.merger.written();
        let (members, facts) = (&self.members, &self.facts);
        let snaplen = self.args.capture.snaplen;
        let introduce = |interface: &mut InterfaceDescription| {
            // Some readers want one for the whole file.
            interface.snaplen = snaplen;
            remit.introduce(interface)?;
            let facts = facts_of(&interface.name, node, members, facts);
            interface.comments.extend(facts.and_then(|facts| facts.comment()));
            Ok(())
        };
        self.merger.push(*stream, blocks, Instant::now(), introduce, &mut self.pending)?;
        self.merger.write_due(Instant::now(), &mut self.pending);
        self.has_begun |= self.merger.written() > 0;
        let ahead = self
            .merger
            .ahead(*stream)
            .filter(|ahead| !*is_clock_told && Duration::from_nanos(ahead.unsigned_abs()) > CLOCKS_AGREE);
        if let Some(ahead) = ahead {
            *is_clock_told = true;
            let (seconds, where_to) =
                (ahead.unsigned_abs() / 1_000_000_000, if ahead > 0 { "ahead of" } else { "behind" });
            warn!(
                "node {node}: its clock is {seconds} s {where_to} that of others: the times of its packets do not \
                 compare with theirs"
            );
        }
        if before == 0 && self.merger.written() > 0 {
            info!("first packet after {:.2} s", self.began.elapsed().as_secs_f64());
        }
        Ok(())
    }

    /// Whether a session has not begun, and nobody is to be captured there yet.
    fn was_early(&self, number: Number, node: &str) -> bool {
        let Running { listening_since, is_dropped, .. } = &self.sessions[number];
        let is_wanted = self.members.values().any(|member| member.node == node);
        self.past.is_none() && listening_since.is_none() && !is_dropped && !is_wanted && !self.is_ending()
    }

    fn ended(&mut self, number: Number, node: &str, outcome: Result<Option<End>>) {
        let outcome = match outcome {
            Ok(Some(end)) => self.check_end(number, &end).map(|()| Some(end)).map_err(|error| {
                self.given_up.insert(node.to_owned());
                error.context(format!("node {node}"))
            }),
            other => other,
        };
        if let Err(error) = &outcome
            && error.is::<KnowsNoPast>()
        {
            warn!("{error:#}");
            let running = &mut self.sessions[number];
            (running.ended, running.listening_since) = (true, Some(Instant::now()));
            self.merger.end(running.stream);
            return self.check_listening();
        }
        if let Err(error) = &outcome
            && self.was_early(number, node)
        {
            info!("{error:#}; it is tried again once a pod there is to be captured");
            self.sessions[number].ended = true;
            self.merger.end(self.sessions[number].stream);
            return self.check_listening();
        }
        let pause = self.pause_before_again(number, node, &outcome);
        let again = pause.map(|it| format!("; joining again in {:.0} s", it.as_secs_f64()));
        let again = again.unwrap_or_default();
        let running = &self.sessions[number];
        let missing = running
            .listening_since
            .map(|_| format!("; packets since {} may be missing", running.complete_until(&self.merger)));
        let running = &mut self.sessions[number];
        running.ended = true;
        self.merger.end(running.stream);
        match outcome {
            Ok(Some(end)) => {
                running.accounts = Accounts::Final;
                let stats = &mut running.stats;
                (stats.matched, stats.dropped, stats.delivered) = (end.matched, end.dropped, end.captured);
                (stats.left_out, stats.cut_off, running.seen) = (end.left_out, end.cut_off, end.seen);
                if !matches!(end.reason, Reason::Stopped | Reason::Count | Reason::Duration) {
                    self.failed = true;
                    error!("node {node}: the capture has ended: {}{again}", why(end.reason));
                }
            }
            Ok(None) => {}
            Err(error) => {
                self.failed = true;
                error!("{error:#}{}{again}", missing.unwrap_or_default());
            }
        }
        self.check_listening();
    }

    /// Whether a session had a reason to end well, and all that it has sent is here.
    fn check_end(&self, number: Number, end: &End) -> Result<()> {
        let &Running { stream, limits: (count, duration), listening_since, .. } = &self.sessions[number];
        let received = self.merger.received(stream);
        let is_due = match end.reason {
            Reason::Stopped => self.orders != Orders::Run || self.ends_by_itself(),
            Reason::Count => count.is_some_and(|count| received >= count),
            Reason::Duration => duration
                .zip(listening_since)
                .is_some_and(|(duration, since)| since.elapsed() + ROUGHLY >= duration),
            _ => true,
        };
        ensure!(is_due, "the capture has ended, as it says {}, but it was not told to", why(end.reason));
        let missing = end.captured.saturating_sub(received);
        ensure!(missing == 0, "{missing} of its {} packets have not come", end.captured);
        Ok(())
    }

    /// When a session was lost whose targets are still wanted, has its node joined again after this pause.
    fn pause_before_again(
        &mut self,
        number: Number,
        node: &str,
        outcome: &Result<Option<End>>,
    ) -> Option<Duration> {
        let now = Instant::now();
        let &Running { pod, is_over_limit, listening_since, is_dropped, .. } = &self.sessions[number];
        let is_listening = listening_since.is_some();
        let since_lost = self.rejoins.since_lost(node, now);
        let ending = Ending { outcome, pod, is_over_limit, since_lost };
        // What was recorded would come twice.
        if is_dropped || self.past.is_some() || self.given_up.contains(node) || self.is_ending() {
            return None;
        }
        if !ending.is_lost() {
            self.given_up.insert(node.to_owned());
            return None;
        }
        let is_alone = self.sessions.iter().enumerate().all(|(at, it)| it.ended || at == number);
        if is_alone && !self.has_captured && ending.has_no_pod() && self.rejoins.have_no_pods() {
            return None;
        }
        let mut wanted = self.members.values_mut().filter(|member| member.node == node).peekable();
        wanted.peek()?;
        if is_listening {
            let at = humantime::format_rfc3339_seconds(SystemTime::now());
            // A loss is noticed late.
            let since = self.sessions[number].complete_until(&self.merger);
            for member in wanted {
                let comment =
                    format!("joined again: its node was lost at {at}, packets since {since} may be missing");
                member.target.comment = Some(comment);
                member.target.again = true;
            }
        }
        Some(self.rejoins.lose(node, &ending, is_listening, now))
    }

    /// Has nodes joined again whose pause is over, with whom is still wanted there.
    pub(super) fn rejoin(&mut self) {
        for node in self.rejoins.take_due(Instant::now()) {
            if self.rejoins.was_lost(&node) == Some(false) {
                let now = humantime::format_rfc3339_seconds(SystemTime::now());
                for member in self.members.values_mut().filter(|member| member.node == node) {
                    let comment = format!("joined at {now}: its node could not be captured before");
                    member.target.comment = Some(comment);
                }
            }
            let targets = self.members_on(&node).map(|member| member.target.clone()).collect();
            self.joining.insert(node, targets);
        }
    }

    fn members_on<'a>(&'a self, node: &'a str) -> impl Iterator<Item = &'a Member> {
        self.members.values().filter(move |member| member.node == node)
    }
}

fn plan(args: &Args) -> CapturePlan {
    let capture = &args.capture;
    CapturePlan {
        filter: args.filter(),
        snaplen: Some(capture.snaplen),
        headers: capture.headers,
        cutoff: capture.cutoff,
        direction: capture.direction,
        count: capture.count,
        duration_ms: capture.duration.map(|duration| duration.as_millis() as u64),
        buffer_bytes: Some(capture.ring_bytes),
        attach: capture.attach,
        both_ends: None,
        compress: args.compress_on_the_way(),
        record_bytes: None,
        alarm: None,
    }
}

fn why(reason: Reason) -> &'static str {
    match reason {
        Reason::Stopped => "as asked",
        Reason::Count => "as many packets as asked for",
        Reason::Duration => "as long as asked for",
        Reason::Lease => "the node has not heard of this client for too long",
        Reason::InputClosed => "the connection was closed",
        Reason::Deadline => "the node's limit of time",
        Reason::Signal => "the pod that captures is going away",
        Reason::Failed => "it failed there",
        Reason::Other => "for a reason that this version does not know",
    }
}
