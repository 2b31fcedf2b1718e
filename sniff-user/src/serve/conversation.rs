//! The session's talk with its client, while the capture runs: who joins and leaves, signs of life both ways, counts,
//! and the reasons to end.

use std::{future, sync::Arc, time::Duration};

use anyhow::{Result, anyhow};
use log::info;
use sniff_common::Counters;
use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, sleep_until},
};

use super::{
    input::Input,
    members::{Member, Members},
    output::Output,
    packets::Sent,
};
use crate::{
    agent::wire::{Cause, Grant, Report},
    filter::{Filters, Source},
    pcapng::LinkType,
    session::{Event, Order},
    stream::{
        ToClient, ToNode,
        message::{Code, Event as Told, Level, NodeError, Reason, Stats, Target, TargetId, Targets},
    },
    tap::link_type,
};

/// Longest silence towards the client.
const SIGN_OF_LIFE: Duration = Duration::from_secs(5);
/// Counts come about once a second; those of a capture that has just begun, faster.
const BETWEEN_STATS: Duration = Duration::from_millis(900);
/// What the file says of interfaces that were not there from the start.
const JOINED: &str = "joined the running capture";
/// What the file and the client are told of a node's interface.
const LEFT_OUT: &str =
    "left out are the kubelet's connections that were there at the start, one of which carries this capture";

/// Everybody who takes part.
pub(super) struct Conversation<'a> {
    input: Input,
    output: &'a mut Output,
    capture: Capture,
    members: Members,
    grant: Grant,
    sent: Arc<Sent>,
    counters: Counters,
    fullest_percent: u8,
    told: Stats,
    told_at: Instant,
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
}

impl<'a> Conversation<'a> {
    /// Brings them together.
    pub(super) fn new(
        input: Input,
        output: &'a mut Output,
        capture: Capture,
        members: Members,
        grant: Grant,
        sent: Arc<Sent>,
    ) -> Self {
        let (counters, told, told_at) = (Counters::default(), Stats::default(), Instant::now());
        Self { input, output, capture, members, grant, sent, counters, fullest_percent: 0, told, told_at }
    }

    /// Has the first targets captured, and talks on until there is a reason to end; `None` when the capture has ended
    /// by itself.
    pub(super) async fn hold(
        &mut self,
        targets: Vec<Target>,
        lease: Duration,
        duration: Option<Duration>,
    ) -> Option<Reason> {
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
                        self.obey(message).await;
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
                    Some(Event::Counted { counters, fullest_percent }) => {
                        self.fullest_percent = fullest_percent;
                        self.count(counters).await;
                        self.take_leave().await;
                    }
                    None => return None,
                },
                (cause, why) = self.grant.revoked() => {
                    self.fail(Code::RefusedLimit, &anyhow!(why));
                    return Some(match cause {
                        Cause::Duration => Reason::Deadline,
                        Cause::Bytes => Reason::Failed,
                        Cause::Shutdown => Reason::Signal,
                    });
                }
                () = self.output.broken() => return Some(Reason::Failed),
                () = sleep_until(heard + lease) => return Some(Reason::Lease),
                () = at(over) => return Some(Reason::Duration),
                () = sleep_until(self.told_at + SIGN_OF_LIFE) => self.tell_stats(),
            }
        }
    }

    /// What is of use afterwards. The orders end here, and with them the capture.
    pub(super) fn into_parts(self) -> (Input, Grant) {
        (self.input, self.grant)
    }

    async fn obey(&mut self, message: ToNode) {
        match message {
            ToNode::Targets(Targets { add, remove }) => {
                for id in remove {
                    self.dismiss(id, "as asked").await;
                }
                for target in add {
                    self.admit(target, Some(JOINED)).await;
                }
            }
            ToNode::Filter(filter) => match self.change_filter(filter.expression).await {
                Ok(()) => self.output.tell(ToClient::Event(Told::FilterChanged)),
                Err(error) => {
                    self.fail(Code::Filter, &error.context("the filter stays as it is"));
                }
            },
            ToNode::Watermark => {
                // A capture that has ended has sent all.
                let _ = self.order(|done| Order::Watermark { done }).await;
            }
            ToNode::Hello(_) => {
                self.fail(Code::Usage, &anyhow!("a second hello, which changes nothing"));
            }
            // Stop is the loop's.
            ToNode::KeepAlive | ToNode::Stop => {}
        }
    }

    /// Has a target captured, or says why it cannot be.
    async fn admit(&mut self, target: Target, comment: Option<&str>) {
        if self.members.has(&target.id) {
            return;
        }
        let event = match self.join(&target, comment).await {
            Ok(interfaces) => {
                self.grant.captures(target.id.to_string()).await;
                Told::TargetAdded { target: target.id, interfaces }
            }
            Err(error) => Told::TargetFailed { target: target.id, error: format!("{error:#}") },
        };
        self.output.tell(ToClient::Event(event));
    }

    async fn join(&mut self, target: &Target, comment: Option<&str>) -> Result<Vec<String>> {
        let found = self.input.unless_gone(self.members.find(target)).await?;
        for interface in &found.interfaces {
            let expression = interface.expression(self.capture.general.as_deref());
            self.compile(expression, link_type(interface)).await?;
        }
        let left_out = found.interfaces.iter().find_map(|interface| interface.left_out.as_deref());
        let left_out = left_out.map(|expression| format!("{LEFT_OUT}: {expression}"));
        if let Some(text) = &left_out {
            let text = format!("{}: {text} (--include-own-stream captures them)", target.id);
            self.output.tell(ToClient::Event(Told::Note { level: Level::Info, text }));
        }
        let comment = target.comment.as_deref().or(comment).map(str::to_owned);
        let comments: Vec<String> = comment.into_iter().chain(left_out).collect();
        let comment = (!comments.is_empty()).then(|| comments.join("; "));
        let (interfaces, scopes) = (found.interfaces.clone(), found.scopes.clone());
        self.order(|done| Order::Join { interfaces, scopes, comment, done }).await?;
        let names = found.interfaces.iter().map(|interface| interface.name.clone()).collect();
        self.members.join(found);
        Ok(names)
    }

    async fn change_filter(&mut self, expression: String) -> Result<()> {
        let source = Source::Text(expression);
        let general = source.read()?;
        for link_type in self.members.link_types() {
            self.compile(general.clone(), link_type).await?;
        }
        self.order(|done| Order::Filter { source, done }).await?;
        self.capture.general = general;
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
        let Some(Member { interfaces, scopes, .. }) = self.members.leave(&target) else {
            return;
        };
        let left = self.order(|done| Order::Leave { interfaces, scopes, done }).await;
        let why = left.map_or_else(|error| format!("{error:#}"), |()| why.to_owned());
        self.output.tell(ToClient::Event(Told::TargetGone { target, why }));
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

    async fn count(&mut self, counters: Counters) {
        self.counters = counters;
        if self.stats() != self.told && self.told_at.elapsed() >= BETWEEN_STATS {
            self.tell_stats();
            let Stats { matched, delivered, dropped, .. } = self.told;
            self.grant.report(&Report { matched, delivered, dropped, bytes: self.sent.bytes() }).await;
        }
    }

    fn stats(&self) -> Stats {
        let (matched, dropped) = (self.counters.matched, self.counters.lost());
        Stats { matched, delivered: self.sent.packets(), dropped, fullest_percent: self.fullest_percent }
    }

    fn tell_stats(&mut self) {
        self.told = self.stats();
        self.told_at = Instant::now();
        self.output.tell(ToClient::Stats(self.told.clone()));
    }
}

/// Never, when there is no such time.
async fn at(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => future::pending().await,
    }
}
