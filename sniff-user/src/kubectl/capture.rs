//! A capture from the first look-up to the last packet.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    env,
    io::{self, Write as _},
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Context as _, Result, bail, ensure};
use log::{error, info, warn};
use tokio::{
    sync::{mpsc, oneshot, watch},
    time,
};

use super::{
    args::Args,
    interrupt::Interrupts,
    legible::legible,
    output::{Output, Wanted, is_closed_pipe},
    reference::Reference,
    rejoin::{Ending, Rejoins},
    session::{self, Common, Number, Orders, PodKind, Session, Start, Update},
    wireshark,
};
use crate::{
    exit,
    kubernetes::{By, Change, Cluster, Follow, Pod, Selection, follow},
    merge::{Merger, StreamId},
    pcapng::SectionHeader,
    stream::message::{CapturePlan, Code, End, Event, Level, Reason, Stats, Target, TargetId, Targets},
};

/// How long short-lived pods may live, beyond the duration that was asked for, and without one.
const MARGIN: Duration = Duration::from_secs(60);
const MAX_LIFETIME: Duration = Duration::from_secs(8 * 3600);
/// Updates of all sessions on their way; each is at most a frame.
const QUEUED: usize = 8;
/// Bytes that wait for the output before sessions are held up.
const MAX_PENDING: usize = 8 << 20;
/// How often a target that a node lost, though its pod runs, is tried again, and after what pause.
const RETRIES: u32 = 5;
const RETRY_PAUSE: Duration = Duration::from_secs(1);
/// A node is asked for a watermark no sooner again: what it tells is the clock, so that asking faster saves little.
const BETWEEN_ASKS: Duration = Duration::from_millis(20);

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
    /// Targets to join or leave, by node, until the sessions are told.
    joining: BTreeMap<String, Vec<Target>>,
    orders: watch::Sender<Orders>,
    sessions: Vec<Running>,
    updates: mpsc::Receiver<(Number, Update)>,
    /// Each session gets a copy of it.
    updating: mpsc::Sender<(Number, Update)>,
    retries: Vec<(Instant, TargetId)>,
    rejoins: Rejoins,
    merger: Merger,
    pending: Vec<u8>,
    wanted: Wanted,
    has_begun: bool,
    listening_since: Option<Instant>,
    failed: bool,
}

/// A pod or node that is captured.
struct Member {
    node: String,
    target: Target,
    selections: BTreeSet<usize>,
    retries: u32,
}

/// A session with what it said last.
struct Running {
    session: Session,
    stream: StreamId,
    stats: Stats,
    accounts: Accounts,
    /// When it may be asked for a watermark next, if it answers.
    next_ask: Option<Instant>,
    /// Where it runs; not known before it has greeted, unless its node is joined again.
    pod: Option<PodKind>,
    /// Whether a limit of the node refused it at its start.
    is_over_limit: bool,
    is_listening: bool,
    ended: bool,
}

/// How far a session's counts can be relied on.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Accounts {
    /// It has not begun: there is nothing to count.
    NotBegun,
    /// More may have come since.
    Open,
    /// They are its last.
    Final,
}

impl Capture {
    /// Finds out what is meant. Nothing is made yet.
    async fn start(cluster: Cluster, args: Args, began: Instant) -> Result<Self> {
        let what = describe(&args);
        let wanted = wanted_output(&args, &what)?;
        let lifetime = args.capture.duration.map_or(MAX_LIFETIME, |duration| duration + MARGIN);
        let common = Arc::new(Common {
            daemonset_namespace: (!args.agentless).then(|| args.cluster.daemonset_namespace().to_owned()),
            session_namespace: args.cluster.session_namespace(cluster.default_namespace()).to_owned(),
            image: args.image.clone(),
            lifetime,
            who: who(),
            what,
            buffer_bytes: args.capture.ring_bytes,
            cluster,
        });
        let selections = selections(&common.cluster, &args).await?;
        let (sender, changes) = mpsc::channel(64);
        let (updating, updates) = mpsc::channel(QUEUED);
        let mut pending = Vec::new();
        let header = SectionHeader {
            application: concat!("kubectl-sniff ", env!("CARGO_PKG_VERSION")).into(),
            comment: Some(format!("{}, by {}", common.what, common.who)),
            ..SectionHeader::default()
        };
        let merger = Merger::new(&header, args.capture.count, &mut pending);
        let mut capture = Self {
            args,
            common,
            began,
            selections,
            follows: Vec::new(),
            changes,
            members: HashMap::new(),
            names: HashSet::new(),
            joining: BTreeMap::new(),
            orders: watch::channel(Orders::Run).0,
            sessions: Vec::new(),
            updates,
            updating,
            retries: Vec::new(),
            rejoins: Rejoins::default(),
            merger,
            pending,
            wanted,
            has_begun: false,
            listening_since: None,
            failed: false,
        };
        capture.find_nodes().await?;
        capture.find_pods(&sender).await?;
        Ok(capture)
    }

    /// The nodes that are targets themselves.
    async fn find_nodes(&mut self) -> Result<()> {
        let targets = self.args.targets.clone();
        for name in targets.iter().filter_map(|target| match target {
            Reference::Node(name) => Some(name),
            Reference::Pod { .. } | Reference::Workload(..) => None,
        }) {
            let facts = self.common.cluster.node(name).await?;
            ensure!(facts.os != "windows", "node {name} runs Windows, sniff captures on Linux");
            self.join(TargetId::Node, name.clone(), None);
        }
        Ok(())
    }

    /// The pods that are there now. Where pods are followed, those are what the watch begins with.
    async fn find_pods(&mut self, sender: &mpsc::Sender<(usize, Change)>) -> Result<()> {
        for (at, selection) in self.selections.clone().into_iter().enumerate() {
            if self.args.no_follow || self.args.dry_run {
                let pods = self.common.cluster.pods(&selection).await?;
                self.all(at, pods);
                continue;
            }
            let (changes, mut own) = mpsc::channel(16);
            self.follows.push(follow(self.common.cluster.clone(), selection.clone(), changes));
            match own.recv().await.context("the watch has ended")? {
                Change::All(pods) => self.all(at, pods),
                Change::NotAllowed(forbidden) if matches!(selection.by, By::Name(_)) => {
                    let pods = self.common.cluster.pods(&selection).await?;
                    warn!("{selection} is not followed: {forbidden}");
                    self.all(at, pods);
                }
                Change::NotAllowed(forbidden) => return Err(forbidden.into()),
                Change::Trouble(error) => return Err(error),
                Change::Applied(pod) | Change::Gone(pod) => {
                    bail!("{}/{} before the list", pod.namespace, pod.name)
                }
            }
            let sender = sender.clone();
            tokio::spawn(async move {
                while let Some(change) = own.recv().await {
                    if sender.send((at, change)).await.is_err() {
                        return;
                    }
                }
            });
        }
        self.say_what_was_found()
    }

    fn say_what_was_found(&self) -> Result<()> {
        for (node, targets) in &self.joining {
            let names: Vec<_> = targets.iter().map(|target| name(&target.id, node)).collect();
            info!("on node {node}: {}", names.join(", "));
        }
        let nothing = self.joining.is_empty();
        let by_name = self.selections.iter().find(|selection| matches!(selection.by, By::Name(_)));
        if let (true, Some(selection)) = (nothing, by_name) {
            bail!("there is no pod {selection} that runs and has a network of its own");
        }
        ensure!(!nothing || !(self.args.no_follow || self.args.dry_run), "no pod matches that runs");
        if nothing {
            info!("no pod matches that runs; waiting for one");
        }
        Ok(())
    }

    /// What a dry run says.
    async fn describe(&self) -> Result<u8> {
        let mut stdout = io::stdout();
        for node in self.joining.keys() {
            let installed = match &self.common.daemonset_namespace {
                Some(namespace) => self.common.cluster.installed_agent(namespace, node).await?,
                None => None,
            };
            match (installed, session::wanted(&self.common, node)) {
                (Some(pod), _) => info!("node {node}: would run in pod {}/{}", pod.namespace, pod.name),
                (None, Some(wanted)) => {
                    info!("node {node}: would make this job:");
                    writeln!(stdout, "{}", wanted.manifest()?)?;
                }
                (None, None) => {
                    bail!("node {node}: neither a DaemonSet's pod nor an --image for a short-lived one")
                }
            }
        }
        Ok(exit::SUCCESS)
    }

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

    fn say_counts(&self) {
        let sum = |count: fn(&Stats) -> u64| self.sessions.iter().map(|it| count(&it.stats)).sum::<u64>();
        let silent = self.sessions.iter().filter(|it| it.accounts == Accounts::Open);
        let silent: BTreeSet<&str> = silent.map(|it| it.session.node.as_str()).collect();
        let counts = counts(
            self.merger.written(),
            sum(|stats| stats.matched),
            sum(|stats| stats.dropped),
            &Vec::from_iter(silent),
        );
        let mut stderr = io::stderr();
        // A closed stderr is no reason to fail.
        let _ = stderr.write_all(counts.as_bytes());
        if self.merger.late() > 0 {
            let _ = writeln!(stderr, "{} packets written out of order", self.merger.late());
        }
    }

    fn order(&self, orders: Orders) {
        self.orders.send_replace(orders);
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
        *self.orders.borrow() != Orders::Run || self.is_complete()
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

    /// Asks the nodes that packets wait for how far they are; returns when that is due again, if nothing comes.
    fn ask(&mut self, now: Instant) -> Option<Instant> {
        let awaited: Vec<StreamId> = self.merger.awaited().collect();
        let sessions = self.sessions.iter_mut().filter(|it| awaited.contains(&it.stream));
        let asked = sessions.filter_map(|Running { session, next_ask, .. }| {
            let at = next_ask.as_mut()?;
            if *at <= now {
                session.ask_for_watermark();
                *at = now + BETWEEN_ASKS;
            }
            Some(*at)
        });
        asked.min()
    }

    /// A change of what is meant.
    fn change(&mut self, selection: usize, change: Change) {
        match change {
            Change::All(pods) => self.all(selection, pods),
            Change::Applied(pod) => self.applied(selection, pod),
            Change::Gone(pod) => self.gone(selection, &id(&pod), "deleted"),
            Change::Trouble(error) => {
                warn!("the watch of {}: {error:#}; trying again", self.selections[selection]);
            }
            Change::NotAllowed(forbidden) => {
                warn!("{} is not followed: {forbidden}", self.selections[selection]);
            }
        }
    }

    fn all(&mut self, selection: usize, pods: Vec<Pod>) {
        let there: HashSet<TargetId> = pods.iter().map(id).collect();
        let of_selection = self.members.iter().filter(|(_, member)| member.selections.contains(&selection));
        let gone: Vec<_> =
            of_selection.map(|(id, _)| id).filter(|id| !there.contains(*id)).cloned().collect();
        gone.iter().for_each(|id| self.gone(selection, id, "deleted"));
        pods.into_iter().for_each(|pod| self.applied(selection, pod));
    }

    fn applied(&mut self, selection: usize, pod: Pod) {
        let id = id(&pod);
        if matches!(pod.phase.as_str(), "Succeeded" | "Failed") {
            return self.gone(selection, &id, "ended");
        }
        if !pod.has_sandbox {
            return;
        }
        if let Some(member) = self.members.get_mut(&id) {
            member.selections.insert(selection);
            return;
        }
        let Some(node) = pod.node.clone() else { return };
        let full = format!("{}/{}", pod.namespace, pod.name);
        if pod.host_network {
            if self.names.insert(full.clone()) {
                warn!("{full} uses the network of its node: capture node/{node} with -i instead");
            }
            return;
        }
        if let Some(container) = &self.args.container
            && !pod.containers.contains(container)
        {
            if self.names.insert(full.clone()) {
                warn!("{full} has no container {container}, but {}", pod.containers.join(", "));
            }
            return;
        }
        self.join(id, node, Some(selection));
    }

    /// Has a target captured from now on.
    fn join(&mut self, id: TargetId, node: String, selection: Option<usize>) {
        let full = name(&id, &node);
        let is_again = !self.names.insert(full.clone());
        let comment = (!self.sessions.is_empty()).then(|| {
            let now = humantime::format_rfc3339_seconds(SystemTime::now());
            match is_again {
                true => {
                    format!("joined the running capture at {now}, in place of an earlier pod of this name")
                }
                false => format!("joined the running capture at {now}"),
            }
        });
        if comment.is_some() {
            info!("{full} on node {node} joins");
        }
        let target = Target {
            id: id.clone(),
            container: self.args.container.clone(),
            interfaces: self.args.interfaces.clone(),
            filter: None,
            comment,
        };
        self.joining.entry(node.clone()).or_default().push(target.clone());
        let selections = selection.into_iter().collect();
        self.members.insert(id, Member { node, target, selections, retries: 0 });
    }

    fn gone(&mut self, selection: usize, id: &TargetId, why: &str) {
        let Some(member) = self.members.get_mut(id) else { return };
        member.selections.remove(&selection);
        if !member.selections.is_empty() {
            return;
        }
        if let Some(Member { node, .. }) = self.members.remove(id) {
            info!("{} leaves: {why}", name(id, &node));
            if let Some(queued) = self.joining.get_mut(&node) {
                queued.retain(|target| target.id != *id);
            }
            if let Some(session) = self.session_of(&node) {
                session.change(Targets { add: Vec::new(), remove: vec![id.clone()] });
            }
        }
    }

    fn session_of(&self, node: &str) -> Option<&Session> {
        let mut live = self.sessions.iter().filter(|running| !running.ended).map(|running| &running.session);
        live.find(|session| session.node == node)
    }

    /// Tells the sessions who joins; a node without one gets one.
    fn tell_sessions(&mut self) {
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

    /// What a session says.
    fn update(&mut self, number: Number, update: Update) {
        let node = self.sessions[number].session.node.clone();
        match update {
            Update::Hello(hello, pod) => {
                self.has_begun = true;
                self.sessions[number].accounts = Accounts::Open;
                self.sessions[number].pod = Some(pod);
                self.sessions[number].next_ask = hello.has_watermarks.then(Instant::now);
                if hello.version != env!("CARGO_PKG_VERSION") {
                    let ours = env!("CARGO_PKG_VERSION");
                    info!("node {node} has sniff {}, this is {ours}", legible(&hello.version));
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
                error!("node {node}: {}", legible(&error.message));
            }
            Update::Ended(outcome) => self.ended(number, &node, outcome),
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

    fn packets(&mut self, number: Number, blocks: bytes::Bytes) {
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

    fn event(&mut self, number: Number, node: &str, event: Event) {
        match event {
            Event::TargetAdded { target, interfaces } => {
                let interfaces: Vec<_> = interfaces.iter().map(|it| legible(it)).collect();
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
            Event::Note { level: Level::Warn, text } => warn!("node {node}: {}", legible(&text)),
            Event::Note { level: Level::Info, text } => info!("node {node}: {}", legible(&text)),
            Event::FilterChanged | Event::Unknown => {}
        }
    }

    /// A node does not capture a target any more, or cannot.
    fn lost(&mut self, node: &str, id: TargetId, why: &str, is_failure: bool) {
        let why = legible(why);
        let can_retry = !self.follows.is_empty();
        match self.members.get_mut(&id) {
            // It was told to.
            None => {}
            Some(member) if can_retry && member.retries < RETRIES => {
                member.retries += 1;
                info!("{} on node {node}: {why}; trying again if it still runs", name(&id, node));
                self.retries.push((Instant::now() + RETRY_PAUSE, id));
            }
            Some(_) => {
                self.members.remove(&id);
                if is_failure {
                    self.failed = true;
                    error!("{} on node {node}: {why}", name(&id, node));
                } else {
                    info!("{} on node {node} is gone: {why}", name(&id, node));
                }
                if self.members.is_empty() && self.follows.is_empty() {
                    info!("nothing is left to capture");
                    self.order(Orders::Stop);
                }
            }
        }
    }

    /// Has targets join once more whose pause is over, and whose pods are still there.
    fn retry(&mut self) {
        let now = Instant::now();
        let (due, later) = std::mem::take(&mut self.retries).into_iter().partition(|(at, _)| *at <= now);
        self.retries = later;
        let due: Vec<(Instant, TargetId)> = due;
        for (_, id) in due {
            if let Some(member) = self.members.get(&id) {
                self.joining.entry(member.node.clone()).or_default().push(member.target.clone());
            }
        }
    }

    /// Has nodes joined again whose pause is over, with whom is still wanted there.
    fn rejoin(&mut self) {
        for node in self.rejoins.take_due(Instant::now()) {
            let wanted = self.members.values().filter(|member| member.node == node);
            let mut targets: Vec<_> = wanted.map(|member| member.target.clone()).collect();
            targets.sort_by(|one, other| one.id.cmp(&other.id));
            self.joining.insert(node, targets);
        }
    }
}

/// The counts at the end, as tcpdump has them. What `silent` nodes said before they broke off is the least that it was;
/// so is what came from them.
fn counts(captured: u64, matched: u64, dropped: u64, silent: &[&str]) -> String {
    if silent.is_empty() {
        return format!(
            "{captured} packets captured\n{matched} packets received by filter\n{dropped} packets dropped by kernel\n"
        );
    }
    let (nodes, matched) = (silent.join(", "), matched.max(captured));
    format!(
        "{captured} packets captured; no final counts from node {nodes}\nat least {matched} packets received by filter\n\
         at least {dropped} packets dropped by kernel\n"
    )
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

/// What is meant by the command line, but for nodes.
async fn selections(cluster: &Cluster, args: &Args) -> Result<Vec<Selection>> {
    let default = args.cluster.namespace.clone().unwrap_or_else(|| cluster.default_namespace().to_owned());
    let node = args.node.clone();
    let mut selections = Vec::new();
    for target in &args.targets {
        let mut selection = match target {
            Reference::Pod { namespace, name } => Selection {
                namespace: Some(namespace.clone().unwrap_or_else(|| default.clone())),
                by: By::Name(name.clone()),
                node: None,
            },
            Reference::Workload(workload, name) => cluster.pods_of(*workload, &default, name).await?,
            Reference::Node(_) => continue,
        };
        selection.node.clone_from(&node);
        selections.push(selection);
    }
    if args.selector.is_some() || args.targets.is_empty() {
        let by = By::Labels(args.selector.clone().unwrap_or_default());
        // Pods of a node are of any namespace, unless one is named.
        let is_any = args.all_namespaces
            || args.selector.is_none() && args.node.is_some() && args.cluster.namespace.is_none();
        selections.push(Selection { namespace: (!is_any).then_some(default), by, node });
    }
    Ok(selections)
}

fn wanted_output(args: &Args, what: &str) -> Result<Wanted> {
    if let Some(path) = &args.write {
        return Ok(Wanted::Write { path: path.clone(), print: args.print });
    }
    if args.print || args.dry_run {
        return Ok(Wanted::Lines);
    }
    Ok(match wireshark::find(args.wireshark_path.as_deref())? {
        Some(program) => Wanted::Wireshark { program, title: what.to_owned() },
        None => Wanted::Lines,
    })
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

/// The targets in words, for titles and annotations.
fn describe(args: &Args) -> String {
    let namespace = args.cluster.namespace.as_deref().map(|it| format!("{it}/")).unwrap_or_default();
    let mut words: Vec<String> = Vec::new();
    words.extend(args.targets.iter().map(|target| match target {
        Reference::Pod { namespace: Some(_), .. } | Reference::Node(_) => target.to_string(),
        Reference::Pod { namespace: None, .. } | Reference::Workload(..) => format!("{namespace}{target}"),
    }));
    words.extend(args.selector.as_ref().map(|selector| format!("{namespace}{selector}")));
    words.extend(args.node.as_ref().map(|node| format!("on {node}")));
    if words.is_empty() {
        words.push("all pods".to_owned());
    }
    words.join(" ")
}

/// `user@host`, as far as the environment tells.
fn who() -> String {
    let first =
        |names: &[&str]| names.iter().find_map(|name| env::var(name).ok().filter(|it| !it.is_empty()));
    let user = first(&["USER", "LOGNAME", "USERNAME"]).unwrap_or_else(|| "unknown".into());
    match first(&["HOSTNAME", "COMPUTERNAME", "NAME"]) {
        Some(host) => format!("{user}@{host}"),
        None => user,
    }
}

fn id(pod: &Pod) -> TargetId {
    let Pod { namespace, name, uid, .. } = pod.clone();
    TargetId::Pod { namespace, name, uid }
}

fn name(id: &TargetId, node: &str) -> String {
    match id {
        TargetId::Pod { namespace, name, .. } => {
            format!("{}/{}", namespace.escape_debug(), name.escape_debug())
        }
        TargetId::Node => format!("node/{node}"),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_that_are_not_final_are_said_to_be_the_least() {
        assert_eq!(
            counts(8, 9, 1, &[]),
            "8 packets captured\n9 packets received by filter\n1 packets dropped by kernel\n"
        );
        assert_eq!(
            counts(8, 0, 0, &["a", "b"]),
            "8 packets captured; no final counts from node a, b\nat least 8 packets received by filter\n\
             at least 0 packets dropped by kernel\n"
        );
        assert!(counts(8, 22, 3, &["a"]).contains("at least 22 packets received"));
    }
}
