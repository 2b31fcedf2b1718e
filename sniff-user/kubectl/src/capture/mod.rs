//! A capture from the first look-up to the last packet.
//!
//! - `start`: what is meant, before anything is made.
//! - `members`: who is captured.
//! - `names`: what addresses are called.
//! - `past`: what was recorded, in place of what passes.
//! - `sessions`: what the nodes are told, and what they say.
//! - `remit`: what a node may speak of.
//! - `losses`: why a node loses packets, and what helps.
//! - `counts`: what is said at the end; `status_line`: what a terminal shows before.

mod counts;
mod losses;
mod members;
mod names;
mod past;
mod remit;
mod sessions;
mod start;
mod status_line;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::{Result, anyhow};
use log::{error, info, warn};
use sniff_cli::{
    exit,
    interrupt::Interrupts,
    status_line::{StatusLine, room},
};
use sniff_kubernetes::{
    Cluster, Named,
    pods::{Change, Follow, Selection},
};
use sniff_pcapng::{Names, PodFacts, merge::Merger};
use sniff_protocol::message::{Past, Target};
use tokio::{
    sync::{mpsc, oneshot},
    time,
};

use self::{
    members::{Member, Who},
    sessions::{Accounts, Running},
};
use super::{
    args::Args,
    output::{ClientDestination, Progress, Writer},
    rejoin::Rejoins,
    session::{Common, Number, Orders, Update},
};

/// Between two words on what is left, at the end.
const BETWEEN_WORDS: Duration = Duration::from_secs(3);
/// How long a person who insists waits for an output that takes nothing.
const LAST_WRITES: Duration = Duration::from_secs(2);
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
    let is_shown = !args.quiet && !args.dry_run && room().is_some();
    let mut finding = is_shown.then(|| StatusLine::new(began));
    let mut starting = Box::pin(Capture::start(cluster, args, began));
    let mut capture = loop {
        tokio::select! {
            started = &mut starting => break started?,
            () = interrupts.next() => return Ok(exit::SUCCESS),
            () = StatusLine::tick(finding.as_mut()) => {
                finding.iter().for_each(|line| line.say("finding what is to be captured"));
            }
        }
    };
    drop(finding);
    if capture.args.dry_run {
        return capture.describe().await;
    }
    let outcome = capture.go(&mut interrupts).await;
    capture.finish(outcome, &mut interrupts).await
}

struct Capture {
    args: Args,
    common: Arc<Common>,
    began: Instant,
    /// What of that which was recorded is fetched, in place of a capture.
    past: Option<Past>,
    /// What is meant, by its place here.
    selections: Vec<Selection>,
    follows: Vec<Follow>,
    changes: mpsc::Receiver<(usize, Change)>,
    /// Selections whose watch is interrupted.
    unwatched: HashSet<usize>,
    /// Everybody who is captured, or is to be.
    members: HashMap<Who, Member>,
    /// Those that a node must not capture: they are not asked for again.
    refused: HashSet<Who>,
    /// What the API knows of pods that are captured, or may be.
    facts: HashMap<Who, PodFacts>,
    /// Pods whose names were captured before, to tell the second of a name from a new one.
    names: HashSet<String>,
    /// What addresses are called, as the output tells.
    addresses: Names,
    named: mpsc::Receiver<Named>,
    /// Whether it was said that some have no names.
    is_nameless_told: bool,
    /// The kubelets' ports of nodes that are targets themselves.
    kubelet_ports: HashMap<String, u16>,
    /// Targets to join or leave, by node, until the sessions are told.
    joining: BTreeMap<String, Vec<Target>>,
    /// Nodes where a pod is about to start, or may have been recorded.
    expected: BTreeSet<String>,
    orders: Orders,
    sessions: Vec<Running>,
    updates: mpsc::Receiver<(Number, Update)>,
    /// Each session gets a copy of it.
    updating: mpsc::Sender<(Number, Update)>,
    retries: Vec<(Instant, Who)>,
    rejoins: Rejoins,
    /// Nodes from which nothing more is taken.
    given_up: HashSet<String>,
    merger: Merger,
    pending: Vec<u8>,
    wanted: ClientDestination,
    progress: Arc<Progress>,
    /// Whether some node captures, or has sent packets.
    has_begun: bool,
    /// Whether anybody was ever captured.
    has_captured: bool,
    /// Whether it was said that all listen, and somebody is captured.
    is_listening_told: bool,
    /// When the time that was asked for began to run.
    listening_since: Option<Instant>,
    /// When it is said what is left, while it ends.
    words_due: Instant,
    /// When the output last had so little room that the sessions were not heard.
    held_up_at: Option<Instant>,
    failed: bool,
}

impl Capture {
    /// Captures until the end.
    async fn go(&mut self, interrupts: &mut Interrupts) -> Result<Option<Writer>> {
        self.tell_sessions();
        self.check_listening();
        let mut output: Option<Writer> = None;
        let mut status_line = self.status_line();
        loop {
            if self.orders == Orders::Run && self.is_complete() {
                self.order(Orders::Stop);
            }
            let is_running = self.orders == Orders::Run;
            if self.sessions.iter().all(|session| session.ended) && (!is_running || self.is_over()) {
                return Ok(output);
            }
            self.merger.write_due(Instant::now(), &mut self.pending);
            self.hold_up();
            let ask = self.ask(Instant::now());
            // A capture that cannot begin leaves an older file as it is.
            if output.is_none() && self.orders != Orders::Quit && (self.has_begun || self.sessions.is_empty())
            {
                output = Some(self.open_output()?);
            }
            let wake = ask.into_iter().fold(self.next_wake(), Instant::min);
            // What is pending after the output is gone goes nowhere.
            let has_room = self.pending.len() < MAX_PENDING || self.orders == Orders::Quit;
            if !has_room {
                self.held_up_at = Some(Instant::now());
            }
            tokio::select! {
                () = interrupts.next() => match self.orders {
                    Orders::Run => self.order(Orders::Stop),
                    Orders::Stop => self.leave_out_what_is_left(),
                    Orders::Quit => end_at_once(),
                },
                turn = turn(output.as_mut(), !self.pending.is_empty()) => match (turn, &output) {
                    (Turn::Room, Some(output)) => {
                        // It has room, and nobody else writes.
                        let _ = output.blocks.try_send(std::mem::take(&mut self.pending));
                    }
                    (Turn::Broken(outcome), _) => {
                        output = None;
                        self.give_up(outcome);
                    }
                    (Turn::Room, None) => {}
                },
                Some((number, update)) = self.updates.recv(), if has_room => self.update(number, update),
                Some(named) = self.named.recv() => self.named(named),
                Some((selection, change)) = self.changes.recv(), if self.orders == Orders::Run => {
                    self.change(selection, change);
                }
                () = StatusLine::tick(status_line.as_mut()) => {
                    if let Some(line) = &mut status_line {
                        self.show_status(line)?;
                    }
                }
                () = time::sleep_until(wake.into()) => match self.orders {
                    Orders::Run => {
                        self.retry();
                        self.rejoin();
                    }
                    Orders::Stop | Orders::Quit => self.say_what_is_left(),
                }
            }
            if self.orders == Orders::Run {
                self.tell_sessions();
            }
        }
    }

    fn open_output(&self) -> Result<Writer> {
        Writer::start(self.args.files.named(self.wanted.open()?), Arc::clone(&self.progress))
    }

    /// Ends everything at once, because nobody takes packets any more.
    fn give_up(&mut self, outcome: Result<()>) {
        match outcome {
            Err(error) if !exit::is_closed_pipe(&error) => {
                self.failed = true;
                error!("{error:#}");
            }
            _ => info!("the reader has gone away"),
        }
        self.order(Orders::Quit);
    }

    /// Ends without what has not come yet, because a person insists.
    fn leave_out_what_is_left(&mut self) {
        self.failed = true;
        warn!("{}", counts::left_out(&self.yet_to_tell()));
        self.order(Orders::Quit);
    }

    /// Packets that were captured and are not in the output: the least that it can be while nodes are
    /// [yet to tell](Self::yet_to_tell), for their counts come behind their packets.
    fn left(&self) -> u64 {
        if self.progress.is_full() {
            return 0;
        }
        let to_write = self.merger.written().saturating_sub(self.progress.written().packets());
        if self.merger.is_full() {
            return to_write;
        }
        let on_nodes =
            self.sessions.iter().filter(|running| !running.ended).map(|running| running.left(&self.merger));
        on_nodes.fold(self.merger.waiting() + to_write, u64::saturating_add)
    }

    /// The nodes that may have more packets for the output than they have told.
    fn yet_to_tell(&self) -> Vec<&str> {
        let live = self.sessions.iter().filter(|running| !running.ended && !self.is_full());
        live.map(|running| running.session.node.as_str()).collect()
    }

    fn say_what_is_left(&mut self) {
        if Instant::now() < self.words_due {
            return;
        }
        self.words_due = Instant::now() + BETWEEN_WORDS;
        let (what, here) =
            (counts::still_left(self.left(), &self.yet_to_tell()), self.progress.written().packets());
        info!("{what}, {here} packets are here; Ctrl-C once more ends without that");
    }

    /// Writes what is left, and tells how it went.
    async fn finish(mut self, outcome: Result<Option<Writer>>, interrupts: &mut Interrupts) -> Result<u8> {
        self.follows.clear();
        let output = match outcome {
            Ok(output) => output,
            Err(error) => {
                self.order(Orders::Quit);
                self.wait_for_sessions().await;
                return Err(error);
            }
        };
        self.say_who_was_never_captured();
        self.say_if_nothing_was_recorded();
        self.merger.write_all(&mut self.pending);
        self.say_who_has_not_counted();
        let output = match output {
            // A file of an earlier capture must not pass for one that went well.
            None if !self.failed && self.orders != Orders::Quit && self.wanted.is_file() => {
                Some(self.open_output()?)
            }
            output => output,
        };
        if self.orders == Orders::Run {
            // It has ended by itself.
            self.words_due = Instant::now() + BETWEEN_WORDS;
        }
        if let Some(output) = output {
            self.write_last(output, interrupts).await;
        }
        self.say_counts();
        Ok(if self.failed { exit::FAILURE } else { exit::SUCCESS })
    }

    /// Hands the output what is left, for as long as that takes; less so for a person who insists.
    async fn write_last(&mut self, output: Writer, interrupts: &mut Interrupts) {
        let rest = std::mem::take(&mut self.pending);
        let closing = async {
            // What is wrong with it, closing tells.
            let _ = output.blocks.send(rest).await;
            output.close().await
        };
        tokio::pin!(closing);
        let outcome = loop {
            let has_time = self.orders != Orders::Quit;
            tokio::select! {
                outcome = &mut closing => break outcome,
                () = interrupts.next(), if has_time => self.leave_out_what_is_left(),
                () = time::sleep_until(self.words_due.into()), if has_time => self.say_what_is_left(),
                () = time::sleep(LAST_WRITES), if !has_time => {
                    self.progress.hurry();
                    break match time::timeout(LAST_WRITES, &mut closing).await {
                        Ok(outcome) => outcome,
                        Err(_) => Err(anyhow!("the output takes nothing any more")),
                    };
                }
            }
        };
        if let Err(error) = outcome {
            self.failed = true;
            error!("{error:#}");
        }
    }

    /// Says in the file whose counts are missing there.
    fn say_who_has_not_counted(&mut self) {
        let time_ns = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos() as u64;
        for running in self.sessions.iter().filter(|running| running.accounts == Accounts::Open) {
            let why = format!(
                "no counts: nothing more was heard of node {}, packets since {} may be missing",
                running.session.node,
                running.complete_until(&self.merger)
            );
            self.merger.say_why_not_counted(running.stream, time_ns, &why, &mut self.pending);
        }
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
        self.words_due = Instant::now() + BETWEEN_WORDS;
        self.sessions.iter().for_each(|running| running.session.order(orders));
    }

    /// Whether there is nothing left to wait for, though nobody said so.
    fn is_over(&self) -> bool {
        let is_fixed = self.follows.is_empty();
        // Where nobody is captured and no node has a pod to do it in, waiting is in vain.
        let is_hopeless = !self.has_captured && self.rejoins.have_no_pods();
        let is_waiting = !self.joining.is_empty() || self.rejoins.due().is_some() && !is_hopeless;
        !self.sessions.is_empty() && (self.failed || is_fixed) && !is_waiting
    }

    /// Whether there are as many packets or bytes as were asked for.
    fn is_full(&self) -> bool {
        self.merger.is_full() || self.progress.is_full()
    }

    /// Whether there is as much as was asked for.
    fn is_complete(&self) -> bool {
        self.is_full() || self.deadline().is_some_and(|deadline| Instant::now() >= deadline)
    }

    fn is_ending(&self) -> bool {
        self.orders != Orders::Run || self.is_complete()
    }

    /// Lets the time that was asked for run when all nodes listen, or are not waited for.
    fn check_listening(&mut self) {
        let mut nodes = self.sessions.iter();
        if !nodes.all(|running| running.ended || running.listening_since.is_some()) {
            return;
        }
        self.listening_since.get_or_insert_with(Instant::now);
        if self.past.is_some() && !self.has_captured && self.orders == Orders::Run {
            return self.order(Orders::Stop);
        }
        // A node may wait for its first pod.
        if self.has_captured && !self.is_listening_told && !self.ends_by_itself() {
            self.is_listening_told = true;
            info!("listening after {:.2} s", self.began.elapsed().as_secs_f64());
        }
    }

    /// When the duration that was asked for is over. Nodes count for themselves; some may have begun later.
    fn deadline(&self) -> Option<Instant> {
        self.listening_since?.checked_add(self.args.capture.duration?)
    }

    fn next_wake(&self) -> Instant {
        let retry = self.retries.iter().map(|(at, _)| *at).min();
        let times = match self.orders {
            Orders::Run => [self.merger.due(), retry, self.rejoins.due(), self.deadline()],
            Orders::Stop | Orders::Quit => [self.merger.due(), Some(self.words_due), None, None],
        };
        times.into_iter().flatten().min().unwrap_or_else(|| Instant::now() + Duration::from_secs(1))
    }
}

fn end_at_once() -> ! {
    warn!("ended at once; kubectl sniff cleanup removes what may be left");
    std::process::exit(exit::FAILURE.into());
}

/// What an output does next.
enum Turn {
    /// It takes a piece more.
    Room,
    /// It cannot go on, or nobody reads it any more.
    Broken(Result<()>),
}

/// Resolves when there is something to do about the output.
async fn turn(output: Option<&mut Writer>, has_pending: bool) -> Turn {
    let Some(Writer { blocks, broken, .. }) = output else {
        return std::future::pending().await;
    };
    tokio::select! {
        outcome = broken => Turn::Broken(outcome.unwrap_or_else(|oneshot::error::RecvError { .. }| Ok(()))),
        Ok(_) = blocks.reserve(), if has_pending => Turn::Room,
    }
}
