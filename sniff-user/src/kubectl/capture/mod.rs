//! A capture from the first look-up to the last packet.
//!
//! - `start`: what is meant, before anything is made.
//! - `members`: who is captured.
//! - `sessions`: what the nodes are told, and what they say.
//! - `remit`: what a node may speak of.
//! - `counts`: what is said at the end.

mod counts;
mod members;
mod remit;
mod sessions;
mod start;

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Result;
use log::{error, info, warn};
use tokio::{
    sync::{mpsc, oneshot},
    time,
};

use self::{members::Member, sessions::Running};
use super::{
    args::Args,
    interrupt::Interrupts,
    output::{Output, Wanted, is_closed_pipe},
    rejoin::Rejoins,
    session::{Common, Number, Orders, Update},
};
use crate::{
    exit,
    kubernetes::{Change, Cluster, Follow, Selection},
    merge::Merger,
    stream::message::{Target, TargetId},
};

/// Bytes that wait for the output before sessions are held up.
const MAX_PENDING: usize = 8 << 20;

/// Captures until something ends it; the answer is the exit status.
///
/// # Errors
///
/// When the capture cannot start, or its output fails.
pub async fn run(cluster: Cluster, args: Args) -> Result<u8> {
    let mut interrupts = Interrupts::take_over()?;
    let began = Instant::now();
    let starting = Capture::start(cluster, args, began);
    let mut capture = tokio::select! {
        started = starting => started?,
        () = interrupts.next() => return Ok(exit::SUCCESS),
    };
    if capture.args.dry_run {
        return capture.describe().await;
    }
    let outcome = capture.go(&mut interrupts).await;
    capture.finish(outcome).await
}

struct Capture {
    args: Args,
    common: Arc<Common>,
    began: Instant,
    /// What is meant, by its place here.
    selections: Vec<Selection>,
    follows: Vec<Follow>,
    changes: mpsc::Receiver<(usize, Change)>,
    /// Everybody who is captured, or is to be.
    members: HashMap<TargetId, Member>,
    /// Pods whose names were captured before, to tell the second of a name from a new one.
    names: HashSet<String>,
    /// The kubelets' ports of nodes that are targets themselves.
    kubelet_ports: HashMap<String, u16>,
    /// Targets to join or leave, by node, until the sessions are told.
    joining: BTreeMap<String, Vec<Target>>,
    orders: Orders,
    sessions: Vec<Running>,
    updates: mpsc::Receiver<(Number, Update)>,
    /// Each session gets a copy of it.
    updating: mpsc::Sender<(Number, Update)>,
    retries: Vec<(Instant, TargetId)>,
    rejoins: Rejoins,
    /// Nodes from which nothing more is taken.
    given_up: HashSet<String>,
    merger: Merger,
    pending: Vec<u8>,
    wanted: Wanted,
    has_begun: bool,
    listening_since: Option<Instant>,
    failed: bool,
}

impl Capture {
    /// Captures until the end.
    async fn go(&mut self, interrupts: &mut Interrupts) -> Result<Option<Output>> {
        self.tell_sessions();
        let mut output: Option<Output> = None;
        let mut told_to_end = 0;
        loop {
            if self.sessions.iter().all(|session| session.ended) && (told_to_end > 0 || self.is_over()) {
                return Ok(output);
            }
            if told_to_end == 0 && self.is_complete() {
                told_to_end = 1;
                self.order(Orders::Stop);
            }
            self.merger.write_due(Instant::now(), &mut self.pending);
            let ask = self.ask(Instant::now());
            if output.is_none() && self.has_begun {
                output = Some(Output::open(&self.wanted)?);
            }
            let wake = ask.into_iter().fold(self.next_wake(), Instant::min);
            // What is pending after the output is gone goes nowhere.
            let has_room = self.pending.len() < MAX_PENDING || told_to_end > 1;
            tokio::select! {
                () = interrupts.next() => {
                    told_to_end += 1;
                    if told_to_end > 2 {
                        warn!("ended at once; kubectl sniff cleanup removes what may be left");
                        std::process::exit(exit::FAILURE.into());
                    }
                    self.order(if told_to_end == 1 { Orders::Stop } else { Orders::Quit });
                }
                turn = turn(output.as_mut(), !self.pending.is_empty()) => match (turn, &output) {
                    (Turn::Room, Some(output)) => {
                        // It has room, and nobody else writes.
                        let _ = output.blocks.try_send(std::mem::take(&mut self.pending));
                    }
                    (Turn::Broken(outcome), _) => {
                        output = None;
                        told_to_end = 2;
                        self.give_up(outcome);
                    }
                    (Turn::Room, None) => {}
                },
                Some((number, update)) = self.updates.recv(), if has_room => self.update(number, update),
                Some((selection, change)) = self.changes.recv(), if told_to_end == 0 => self.change(selection, change),
                () = time::sleep_until(wake.into()) => {
                    self.retry();
                    self.rejoin();
                }
            }
            if told_to_end == 0 {
                self.tell_sessions();
            }
        }
    }

    /// Ends everything at once, because nobody takes packets any more.
    fn give_up(&mut self, outcome: Result<()>) {
        match outcome {
            Err(error) if !is_closed_pipe(&error) => {
                self.failed = true;
                error!("{error:#}");
            }
            _ => info!("the reader has gone away"),
        }
        self.has_begun = false;
        self.order(Orders::Quit);
    }

    /// Writes what is left, and tells how it went.
    async fn finish(mut self, outcome: Result<Option<Output>>) -> Result<u8> {
        self.follows.clear();
        let output = match outcome {
            Ok(output) => output,
            Err(error) => {
                self.order(Orders::Quit);
                self.wait_for_sessions().await;
                return Err(error);
            }
        };
        self.merger.write_all(&mut self.pending);
        if let Some(output) = output {
            let rest = std::mem::take(&mut self.pending);
            // What is wrong with it, closing tells.
            let _ = output.blocks.send(rest).await;
            if let Err(error) = output.close().await {
                self.failed = true;
                error!("{error:#}");
            }
        }
        self.say_counts();
        Ok(if self.failed { exit::FAILURE } else { exit::SUCCESS })
    }

    async fn wait_for_sessions(&mut self) {
        while !self.sessions.iter().all(|session| session.ended) {
            if let Some((number, update)) = self.updates.recv().await {
                self.update(number, update);
            }
        }
    }

    fn order(&mut self, orders: Orders) {
        self.orders = orders;
        self.sessions.iter().for_each(|running| running.session.order(orders));
    }

    /// Whether there is nothing left to wait for, though nobody said so.
    fn is_over(&self) -> bool {
        let is_fixed = self.follows.is_empty();
        let is_waiting = !self.joining.is_empty() || self.rejoins.due().is_some();
        !self.sessions.is_empty() && (self.failed || is_fixed) && !is_waiting
    }

    /// Whether there is as much as was asked for.
    fn is_complete(&self) -> bool {
        self.merger.is_full() || self.deadline().is_some_and(|deadline| Instant::now() >= deadline)
    }

    fn is_ending(&self) -> bool {
        self.orders != Orders::Run || self.is_complete()
    }

    /// When the duration that was asked for is over. Nodes count for themselves; some may have begun later.
    fn deadline(&self) -> Option<Instant> {
        self.listening_since?.checked_add(self.args.capture.duration?)
    }

    fn next_wake(&self) -> Instant {
        let retry = self.retries.iter().map(|(at, _)| *at).min();
        let times = [self.merger.due(), retry, self.rejoins.due(), self.deadline()].into_iter().flatten();
        times.min().unwrap_or_else(|| Instant::now() + Duration::from_secs(1))
    }
}

/// What an output does next.
enum Turn {
    /// It takes a piece more.
    Room,
    /// It cannot go on, or nobody reads it any more.
    Broken(Result<()>),
}

/// Resolves when there is something to do about the output.
async fn turn(output: Option<&mut Output>, has_pending: bool) -> Turn {
    let Some(Output { blocks, broken, .. }) = output else {
        return std::future::pending().await;
    };
    tokio::select! {
        outcome = broken => Turn::Broken(outcome.unwrap_or_else(|oneshot::error::RecvError { .. }| Ok(()))),
        Ok(_) = blocks.reserve(), if has_pending => Turn::Room,
    }
}
