//! The nodes' sessions: what they are told, and what they say.

use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use anyhow::Result;
use bytes::Bytes;
use log::{error, info, warn};

use super::{Capture, members::name};
use crate::{
    kubectl::{
        args::Args,
        rejoin::Ending,
        session::{Number, PodKind, Session, Start, Update},
    },
    merge::StreamId,
    stream::message::{CapturePlan, Code, End, Event, Level, Reason, Stats, Targets},
};

/// Between two questions for watermarks, to whichever node: all go through the API server.
const BETWEEN_ASKS: Duration = Duration::from_millis(10);

/// A session with what it said last.
pub(super) struct Running {
    pub(super) session: Session,
    stream: StreamId,
    pub(super) stats: Stats,
    pub(super) accounts: Accounts,
    /// When it may be asked for a watermark next, if it answers.
    next_ask: Option<Instant>,
    /// Where it runs; not known before it has greeted, unless its node is joined again.
    pod: Option<PodKind>,
    /// Whether a limit of the node refused it at its start.
    is_over_limit: bool,
    is_listening: bool,
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

impl Capture {
    /// Tells the sessions who joins; a node without one gets one.
    pub(super) fn tell_sessions(&mut self) {
        for (node, targets) in std::mem::take(&mut self.joining) {
            // One that is lost is told in time, of all its targets.
            if targets.is_empty() || self.rejoins.is_waiting(&node) {
                continue;
            }
            if let Some(session) = self.session_of(&node) {
                session.change(Targets { add: targets, remove: Vec::new() });
                continue;
            }
            let (number, orders) = (self.sessions.len(), self.orders.subscribe());
            let updates = self.updating.clone();
            let again = self.rejoins.pod(&node);
            let start = Start { plan: self.plan(), targets, again };
            let session = Session::start(Arc::clone(&self.common), node, start, orders, number, updates);
            let stream = self.merger.join();
            let stats = Stats::default();
            let accounts = Accounts::NotBegun;
            self.sessions.push(Running {
                session,
                stream,
                stats,
                accounts,
                next_ask: None,
                pod: again,
                is_over_limit: false,
                is_listening: false,
                ended: false,
            });
        }
    }

    pub(super) fn session_of(&self, node: &str) -> Option<&Session> {
        let mut live = self.sessions.iter().filter(|running| !running.ended).map(|running| &running.session);
        live.find(|session| session.node == node)
    }

    /// The plan of a session that begins now: what limits the capture holds over all of it.
    fn plan(&self) -> CapturePlan {
        let mut plan = plan(&self.args);
        // None is no limit of a session's.
        plan.count = plan.count.map(|count| count.saturating_sub(self.merger.written()).max(1));
        if let Some(deadline) = self.deadline() {
            let left = deadline.saturating_duration_since(Instant::now());
            plan.duration_ms = Some(left.as_millis() as u64);
        }
        plan
    }

    /// Asks the nodes that packets wait for how far they are; returns when that is due again, if nothing comes.
    pub(super) fn ask(&mut self, now: Instant) -> Option<Instant> {
        let awaited: Vec<StreamId> = self.merger.awaited().collect();
        let pause = BETWEEN_ASKS * self.sessions.len() as u32;
        let sessions = self.sessions.iter_mut().filter(|it| awaited.contains(&it.stream));
        let asked = sessions.filter_map(|Running { session, next_ask, .. }| {
            let at = next_ask.as_mut()?;
            if *at <= now {
                session.ask_for_watermark();
                *at = now + pause;
            }
            Some(*at)
        });
        asked.min()
    }

    /// What a session says.
    pub(super) fn update(&mut self, number: Number, update: Update) {
        let node = self.sessions[number].session.node.clone();
        match update {
            Update::Hello(hello, pod) => {
                self.has_begun = true;
                self.sessions[number].accounts = Accounts::Open;
                self.sessions[number].pod = Some(pod);
                self.sessions[number].next_ask = hello.has_watermarks.then(Instant::now);
                if hello.version != env!("CARGO_PKG_VERSION") {
                    let ours = env!("CARGO_PKG_VERSION");
                    info!("node {node} has sniff {}, this is {ours}", hello.version);
                }
            }
            Update::Packets(blocks) => self.packets(number, blocks),
            Update::Event(event) => self.event(number, &node, event),
            Update::Stats(stats) => self.sessions[number].stats = stats,
            Update::Error(error) => {
                self.failed = true;
                let running = &mut self.sessions[number];
                // One that has listened has used up what it may have.
                running.is_over_limit |= error.code == Code::RefusedLimit && !running.is_listening;
                error!("node {node}: {}", error.message);
            }
            Update::Ended(outcome) => self.ended(number, &node, outcome),
        }
    }

    fn event(&mut self, number: Number, node: &str, event: Event) {
        match event {
            Event::TargetAdded { target, interfaces } => {
                info!("capturing {} on node {node}: {}", name(&target, node), interfaces.join(", "));
            }
            Event::TargetGone { target, why } => self.lost(node, target, &why, false),
            Event::TargetFailed { target, error } => self.lost(node, target, &error, true),
            Event::Listening { interfaces } => {
                self.sessions[number].is_listening = true;
                if self.rejoins.pod(node).is_some() {
                    info!("node {node}: joined again");
                }
                info!("node {node}: listening on {interfaces} interface(s)");
                if self.listening_since.is_none()
                    && self.sessions.iter().all(|it| it.is_listening || it.ended)
                {
                    self.listening_since = Some(Instant::now());
                    info!("listening after {:.2} s", self.began.elapsed().as_secs_f64());
                }
            }
            Event::Note { level: Level::Warn, text } => warn!("node {node}: {text}"),
            Event::Note { level: Level::Info, text } => info!("node {node}: {text}"),
            Event::FilterChanged | Event::Unknown => {}
        }
    }

    fn packets(&mut self, number: Number, blocks: Bytes) {
        let stream = self.sessions[number].stream;
        let before = self.merger.written();
        if let Err(error) = self.merger.push(stream, blocks, Instant::now(), &mut self.pending) {
            self.failed = true;
            error!(
                "node {}: {error:#}; its packets are left out from here",
                self.sessions[number].session.node
            );
            self.merger.end(stream);
        }
        self.merger.write_due(Instant::now(), &mut self.pending);
        if before == 0 && self.merger.written() > 0 {
            info!("first packet after {:.2} s", self.began.elapsed().as_secs_f64());
        }
    }

    fn ended(&mut self, number: Number, node: &str, outcome: Result<Option<End>>) {
        let pause = self.pause_before_again(number, node, &outcome);
        let again = pause.map(|it| format!("; joining again in {:.0} s", it.as_secs_f64()));
        let again = again.unwrap_or_default();
        let running = &mut self.sessions[number];
        running.ended = true;
        self.merger.end(running.stream);
        match outcome {
            Ok(Some(end)) => {
                running.accounts = Accounts::Final;
                let stats = &mut running.stats;
                (stats.matched, stats.dropped, stats.delivered) = (end.matched, end.dropped, end.captured);
                if !matches!(end.reason, Reason::Stopped | Reason::Count | Reason::Duration) {
                    self.failed = true;
                    error!("node {node}: the capture has ended: {}{again}", why(end.reason));
                }
            }
            Ok(None) => {}
            Err(error) => {
                self.failed = true;
                error!("{error:#}{again}");
            }
        }
    }

    /// When a session was lost whose targets are still wanted, has its node joined again after this pause.
    fn pause_before_again(
        &mut self,
        number: Number,
        node: &str,
        outcome: &Result<Option<End>>,
    ) -> Option<Duration> {
        let now = Instant::now();
        let &Running { pod, is_over_limit, is_listening, .. } = &self.sessions[number];
        let since_lost = self.rejoins.since_lost(node, now);
        let ending = Ending { outcome, pod, is_over_limit, since_lost };
        if !ending.is_lost() || self.is_ending() {
            return None;
        }
        let mut wanted = self.members.values_mut().filter(|member| member.node == node).peekable();
        wanted.peek()?;
        if is_listening {
            let at = humantime::format_rfc3339_seconds(SystemTime::now());
            for member in wanted {
                let comment =
                    format!("joined again: its node was lost at {at}, packets since then may be missing");
                member.target.comment = Some(comment);
            }
        }
        Some(self.rejoins.lose(node, pod?, is_listening, now))
    }

    /// Has nodes joined again whose pause is over, with whom is still wanted there.
    pub(super) fn rejoin(&mut self) {
        for node in self.rejoins.take_due(Instant::now()) {
            let wanted = self.members.values().filter(|member| member.node == node);
            let mut targets: Vec<_> = wanted.map(|member| member.target.clone()).collect();
            targets.sort_by(|one, other| one.id.cmp(&other.id));
            self.joining.insert(node, targets);
        }
    }
}

fn plan(args: &Args) -> CapturePlan {
    let capture = &args.capture;
    CapturePlan {
        filter: args.filter(),
        snaplen: Some(capture.snaplen),
        headers: capture.headers,
        direction: capture.direction,
        count: capture.count,
        duration_ms: capture.duration.map(|duration| duration.as_millis() as u64),
        buffer_bytes: Some(capture.ring_bytes),
        attach: capture.attach,
        compress: args.compress,
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
