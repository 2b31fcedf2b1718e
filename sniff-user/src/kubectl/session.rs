//! One node's part of a capture: a pod there to run in, `sniff serve` in it, and the conversation with that.

use std::{sync::Arc, time::Duration};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use bytes::Bytes;
use log::{debug, info, warn};
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, MissedTickBehavior, interval, sleep_until, timeout},
};

use crate::{
    kubernetes::{
        Cluster, Input, Output, Piece,
        agent::{AgentJob, AgentPod, CONTAINER, Resources, Wanted},
    },
    legible::Lines,
    stream::{
        Decoder, PREFACE, ToClient, ToNode, encode,
        message::{CapturePlan, ClientHello, End, Event, NodeError, NodeHello, Stats, Target, Targets},
    },
};

/// Between two signs of life.
const KEEP_ALIVE: Duration = Duration::from_secs(5);
/// The far side ends when it has heard nothing for this long, and this side likewise.
pub const LEASE: Duration = Duration::from_secs(15);
/// How long the far side may take to send what is left.
const LAST_WORDS: Duration = Duration::from_secs(10);
/// How long a short-lived pod may take to start; images are pulled meanwhile.
const POD_START: Duration = Duration::from_secs(120);

/// What all sessions of a capture have in common.
#[derive(Debug)]
pub struct Common {
    /// The cluster.
    pub cluster: Cluster,
    /// Where sniff's DaemonSet is, and short-lived pods are made.
    pub agent_namespace: String,
    /// Whether the DaemonSet is not looked for.
    pub agentless: bool,
    /// Whether short-lived pods may be made in a namespace that is not sniff's own.
    pub expose_nodes: bool,
    /// Their image.
    pub image: Option<String>,
    /// Whether that was named on the command line.
    pub names_image: bool,
    /// CPU and memory that they ask for, and that they may have, beside what sniff itself asks for.
    pub resources: Resources,
    /// How long they may live.
    pub lifetime: Duration,
    /// `user@host`.
    pub who: String,
    /// What is captured, in words.
    pub what: String,
    /// Bytes of each session's buffer.
    pub buffer_bytes: u32,
}

/// What a session begins with.
#[derive(Debug)]
pub struct Start {
    /// What is captured.
    pub plan: CapturePlan,
    /// Of whom.
    pub targets: Vec<Target>,
    /// Where the session ran that this one is in place of. What was in the DaemonSet's pod waits for another of its pods.
    pub again: Option<PodKind>,
}

/// The pods that sessions run in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PodKind {
    /// The DaemonSet's.
    Installed,
    /// Short-lived ones.
    Made,
}

/// How a session is to go on. Later ones outdo earlier ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Orders {
    /// As it is.
    Run,
    /// To an orderly end.
    Stop,
    /// To its end at once, without what is left. Pods are removed all the same.
    Quit,
}

/// What comes of a session.
#[derive(Debug)]
pub enum Update {
    /// The far side is there.
    Hello(NodeHello, PodKind),
    /// Whole pcapng blocks.
    Packets(Bytes),
    /// Something happened.
    Event(Event),
    /// Counts.
    Stats(Stats),
    /// Something is wrong there.
    Error(NodeError),
    /// It is over; the last update. `None`: it was told to quit.
    Ended(Result<Option<End>>),
}

/// A running session.
pub struct Session {
    /// The node.
    pub node: String,
    changes: mpsc::UnboundedSender<ToNode>,
    orders: watch::Sender<Orders>,
}

/// Number of a session, in the order of their starts.
pub type Number = usize;

impl Session {
    /// Starts a session; `updates` gets what comes of it, with its number.
    pub fn start(
        common: Arc<Common>,
        node: String,
        start: Start,
        number: Number,
        updates: mpsc::Sender<(Number, Update)>,
    ) -> Self {
        let (changes, received) = mpsc::unbounded_channel();
        let (orders, ordered) = watch::channel(Orders::Run);
        let task = Task { common, node: node.clone(), number, orders: ordered, updates };
        tokio::spawn(task.run(start, received));
        Self { node, changes, orders }
    }

    /// Says how it is to go on.
    pub fn order(&self, orders: Orders) {
        self.orders.send_if_modified(|before| std::mem::replace(before, orders.max(*before)) < orders);
    }

    /// Asks for a [`Watermark`](crate::pcapng::Watermark), from a far side that has them.
    pub fn ask_for_watermark(&self) {
        let _ = self.changes.send(ToNode::Watermark);
    }

    /// Has targets join and leave.
    pub fn change(&self, targets: Targets) {
        // A session that is over has said so, or is about to.
        let _ = self.changes.send(ToNode::Targets(targets));
    }
}

/// Where to capture.
enum Place<'made> {
    /// In the DaemonSet's pod.
    Installed(AgentPod),
    /// In the pod of this Job, once it runs.
    Made(&'made AgentJob),
}

impl Place<'_> {
    fn kind(&self) -> PodKind {
        match self {
            Self::Installed(_) => PodKind::Installed,
            Self::Made(_) => PodKind::Made,
        }
    }
}

struct Task {
    common: Arc<Common>,
    node: String,
    number: Number,
    orders: watch::Receiver<Orders>,
    updates: mpsc::Sender<(Number, Update)>,
}

impl Task {
    async fn run(mut self, start: Start, changes: mpsc::UnboundedReceiver<ToNode>) {
        let mut made = None;
        let outcome = self.capture(&mut made, start, changes).await;
        if let Some(job) = made {
            self.remove(&job).await;
        }
        let node = &self.node;
        let outcome = outcome.with_context(|| format!("node {node}"));
        self.tell(Update::Ended(outcome)).await;
    }

    /// From finding a pod to the far side's last word. A Job that was made for one is put into `made`.
    async fn capture(
        &mut self,
        made: &mut Option<AgentJob>,
        Start { plan, targets, again }: Start,
        changes: mpsc::UnboundedReceiver<ToNode>,
    ) -> Result<Option<End>> {
        let mut orders = self.orders.clone();
        let installed = tokio::select! {
            installed = installed(&self.common, &self.node) => installed?,
            _ = orders.wait_for(|orders| *orders != Orders::Run) => return Ok(None),
        };
        let place = match (installed, again) {
            (Some(pod), _) => {
                if self.common.names_image {
                    warn!(
                        "node {}: --image is for short-lived pods, and sniff runs in the DaemonSet's pod here; --agentless \
                         makes one all the same",
                        self.node
                    );
                }
                Place::Installed(pod)
            }
            (None, Some(PodKind::Installed)) => bail!("sniff's DaemonSet has no running pod here"),
            (None, Some(PodKind::Made) | None) => Place::Made(made.insert(self.make().await?)),
        };
        let kind = place.kind();
        let process = async {
            let pod = match place {
                Place::Installed(pod) => pod,
                Place::Made(job) => {
                    let tell = |what: &str| info!("node {}: waiting for {what}", self.node);
                    self.common.cluster.wait_for_agent(job, POD_START, tell).await?
                }
            };
            let command = ["sniff", "serve"];
            self.common.cluster.exec(&pod.namespace, &pod.name, CONTAINER, &command).await
        };
        let process = tokio::select! {
            process = process => process?,
            _ = orders.wait_for(|orders| *orders != Orders::Run) => return Ok(None),
        };
        let hello = ToNode::Hello(Box::new(ClientHello {
            version: env!("CARGO_PKG_VERSION").into(),
            who: self.common.who.clone(),
            plan,
            targets,
            lease_seconds: LEASE.as_secs() as u32,
        }));
        let mut stderr = Lines::default();
        let outcome = tokio::select! {
            outcome = self.listen(process.output, kind, &mut stderr) => outcome,
            failed = speak(process.input, hello, changes, self.orders.clone()) => Err(failed),
        };
        self.report(stderr.take());
        outcome
    }

    /// What the far side's program writes besides, line by line.
    fn report(&self, stderr: impl IntoIterator<Item = String>) {
        stderr.into_iter().for_each(|line| debug!("node {}: {line}", self.node));
    }

    /// Has a short-lived pod made.
    async fn make(&self) -> Result<AgentJob> {
        let Some(wanted) = wanted(&self.common, &self.node) else {
            let namespace = &self.common.agent_namespace;
            ensure!(
                !self.common.agentless,
                "there is no image for a short-lived pod: name one with --image or SNIFF_IMAGE"
            );
            bail!(
                "sniff's DaemonSet has no running pod here (in namespace {namespace}), and there is no image for a \
                 short-lived one: install the DaemonSet, or name an image with --image or SNIFF_IMAGE"
            );
        };
        let job = self.common.cluster.create_agent(&wanted).await?;
        info!("node {}: made job {}/{} for a pod of {}", self.node, job.namespace, job.name, wanted.image);
        Ok(job)
    }

    async fn remove(&self, job: &AgentJob) {
        let AgentJob { namespace, name, .. } = job;
        match self.common.cluster.delete_agent(job).await {
            Ok(()) => debug!("removed job {namespace}/{name}"),
            Err(error) => {
                warn!(
                    "job {namespace}/{name} is left to go by itself, or by kubectl sniff cleanup: {error:#}"
                );
            }
        }
    }

    /// Hears the far side out.
    async fn listen(&self, mut output: Output, kind: PodKind, stderr: &mut Lines) -> Result<Option<End>> {
        let mut decoder = Decoder::<ToClient>::new();
        let mut orders = self.orders.clone();
        let mut greeted = false;
        let mut ending: Option<Instant> = None;
        loop {
            let last = ending.unwrap_or_else(|| Instant::now() + LEASE);
            let piece = tokio::select! {
                piece = output.next() => piece.context("the connection was cut")?,
                () = sleep_until(last), if ending.is_some() => bail!("it did not end in time, packets are missing"),
                () = sleep_until(last) => bail!("nothing was heard for {} s, the connection was cut", LEASE.as_secs()),
                _ = orders.changed() => {
                    match *orders.borrow_and_update() {
                        Orders::Run => {}
                        Orders::Stop => ending = Some(Instant::now() + LAST_WORDS),
                        Orders::Quit => return Ok(None),
                    }
                    continue;
                }
            };
            match piece {
                Some(Piece::Stdout(bytes)) => decoder.push(&bytes),
                Some(Piece::Stderr(bytes)) => self.report(stderr.push(&bytes)),
                Some(Piece::Ended(Err(why))) if !greeted => {
                    bail!("sniff does not run in its pod: {why}")
                }
                Some(Piece::Ended(Err(why))) => bail!("sniff has ended: {why}"),
                Some(Piece::Ended(Ok(()))) | None => {
                    decoder.finish()?;
                    bail!("sniff's pod has ended, packets may be missing");
                }
            }
            while let Some(message) = decoder.next()? {
                let update = match message {
                    ToClient::End(end) => return Ok(Some(end)),
                    ToClient::Hello(hello) => {
                        ensure!(!greeted, "a second hello");
                        greeted = true;
                        Update::Hello(hello, kind)
                    }
                    ToClient::Error(error) => Update::Error(error),
                    _ if !greeted => bail!("no hello at the start"),
                    ToClient::Packets(blocks) => Update::Packets(blocks),
                    ToClient::Event(event) => Update::Event(event),
                    ToClient::Stats(stats) => Update::Stats(stats),
                };
                self.tell(update).await;
            }
        }
    }

    async fn tell(&self, update: Update) {
        // The capture is over when nobody listens.
        let _ = self.updates.send((self.number, update)).await;
    }
}

/// The DaemonSet's pod on a node, if it is to be looked for and is there.
///
/// # Errors
///
/// When the API server refuses, or does not answer.
pub async fn installed(common: &Common, node: &str) -> Result<Option<AgentPod>> {
    match common.agentless {
        true => Ok(None),
        false => common.cluster.installed_agent(&common.agent_namespace, node).await,
    }
}

/// The short-lived pod for a node, when there is an image.
pub fn wanted(common: &Common, node: &str) -> Option<Wanted> {
    Some(Wanted {
        node: node.into(),
        namespace: common.agent_namespace.clone(),
        exposes_node: common.expose_nodes,
        image: common.image.clone()?,
        who: common.who.clone(),
        what: common.what.clone(),
        resources: common.resources.clone(),
        lifetime: common.lifetime,
        buffer_bytes: common.buffer_bytes,
    })
}

/// Says what there is to say, and gives signs of life; returns only when that fails.
async fn speak(
    mut input: Input,
    hello: ToNode,
    mut changes: mpsc::UnboundedReceiver<ToNode>,
    mut orders: watch::Receiver<Orders>,
) -> anyhow::Error {
    let mut first = PREFACE.to_vec();
    let spoken = async {
        encode(&hello, &mut first)?;
        write(&mut input, &first).await?;
        let mut alive = interval(KEEP_ALIVE);
        alive.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut is_stopped = false;
        loop {
            let message = tokio::select! {
                Some(change) = changes.recv() => change,
                _ = alive.tick() => ToNode::KeepAlive,
                Ok(_) = orders.wait_for(|orders| *orders != Orders::Run), if !is_stopped => {
                    is_stopped = true;
                    ToNode::Stop
                }
            };
            let mut frame = Vec::new();
            encode(&message, &mut frame)?;
            write(&mut input, &frame).await?;
        }
    };
    let outcome: Result<()> = spoken.await;
    outcome.err().unwrap_or_else(|| anyhow!("the connection was cut"))
}

async fn write(input: &mut Input, bytes: &[u8]) -> Result<()> {
    let written = timeout(LEASE, input.write(bytes)).await;
    written.context("nothing is taken any more")?.context("the connection was cut")
}
