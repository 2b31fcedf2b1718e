//! One node's part of a capture: a pod there to run in, `sniff serve` in it, and the conversation with that.

use std::{
    convert::Infallible,
    env, fmt, future,
    pin::pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use bytes::Bytes;
use log::{debug, info, warn};
use sniff_cli::sanitize::Lines;
use sniff_kubernetes::{
    Cluster, CommandOutput, Forbidden, Input, Piece, Process,
    jobs::{NewJob, Resources, SniffJob},
    own::{CONTAINER, SniffPod},
};
use sniff_protocol::{
    Broken, Decoder, PREFACE, ToClient, ToNode,
    door::Admitted,
    encode,
    message::{
        Awaited, CapturePlan, ClientHello, End, Event, NodeError, NodeHello, Past, Stats, Target, Targets,
    },
};
use tokio::{
    sync::{Notify, mpsc, oneshot, watch},
    time::{Instant, MissedTickBehavior, interval, sleep, timeout},
};

use crate::door::{self, Door, Wanted};

/// Between two keep-alives.
const KEEP_ALIVE: Duration = Duration::from_secs(5);
/// The peer ends when it has heard nothing for this long, and this side likewise.
pub const LEASE: Duration = Duration::from_secs(15);
/// How long a peer that was told to stop may go without a packet and without an end. It detaches meanwhile, one
/// interface after the other.
const LAST_WORDS: Duration = Duration::from_secs(60);
/// Bytes that may come from a peer behind its buffer, once it was told to stop: what was on its way.
const ON_THE_WAY: u64 = 64 << 20;
/// How long saying goodbye may take.
const GOODBYE: Duration = Duration::from_secs(2);
/// How long a peer may take from its first word until it captures.
const ATTACHING: Duration = Duration::from_secs(120);
/// How long a short-lived pod may take to start; images are pulled meanwhile.
const POD_START: Duration = Duration::from_secs(120);

/// Between two looks at what a pod's image does.
const BETWEEN_LOOKS: Duration = Duration::from_millis(500);

/// What all sessions of a capture have in common.
#[derive(Debug)]
pub struct Common {
    /// The cluster.
    pub cluster: Cluster,
    /// Where sniff's DaemonSet is.
    pub daemonset_namespace: String,
    /// Where short-lived pods are made.
    pub job_namespace: String,
    /// Whether the DaemonSet is not looked for.
    pub agentless: bool,
    /// Whether short-lived pods may be made in a namespace that is not sniff's own.
    pub expose_nodes: bool,
    /// Whether they are privileged, in place of the capabilities that sniff takes.
    pub privileged: bool,
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
    /// Why, for the nodes' audit.
    pub reason: Option<String>,
    /// Whether pods are captured, too, that deny it.
    pub override_deny: bool,
    /// What is captured, in words.
    pub what: String,
    /// Bytes of each session's buffer.
    pub buffer_bytes: u32,
    /// Whether a terminal shows what is waited for.
    pub is_watched: bool,
}

/// What a session begins with.
#[derive(Debug)]
pub struct Start {
    /// What is captured.
    pub plan: CapturePlan,
    /// Of whom.
    pub targets: Vec<Target>,
    /// And of whom as soon as they come.
    pub awaited: Vec<Awaited>,
    /// What of that which was recorded, in place of what passes.
    pub past: Option<Past>,
    /// What that takes rights to.
    pub wanted: Wanted,
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
    /// The peer is there.
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
    holding: watch::Sender<bool>,
    received: Arc<AtomicU64>,
    waiting: Arc<Waiting>,
}

/// What a session that does not capture yet waits for, and since when.
#[derive(Debug)]
struct Waiting(Mutex<(String, Instant)>);

impl Waiting {
    /// Has it wait for this from now on, unless it does already.
    fn set(&self, what: &str) {
        let mut waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.0 != what {
            *waiting = (what.to_owned(), Instant::now());
        }
    }
}

impl fmt::Display for Waiting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (what, since) = &*self.0.lock().unwrap_or_else(PoisonError::into_inner);
        write!(f, "{what} ({} s)", since.elapsed().as_secs())
    }
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
        let (holding, held) = watch::channel(false);
        let bytes = Arc::<AtomicU64>::default();
        let waiting = Mutex::new(("sniff's pod to be found".to_owned(), Instant::now()));
        let waiting = Arc::new(Waiting(waiting));
        let task = Task {
            common,
            node: node.clone(),
            number,
            orders: ordered,
            held,
            updates,
            received: Arc::clone(&bytes),
            waiting: Arc::clone(&waiting),
        };
        tokio::spawn(task.run(start, received));
        Self { node, changes, orders, holding, received: bytes, waiting }
    }

    /// Says how it is to go on.
    pub fn order(&self, orders: Orders) {
        self.orders.send_if_modified(|before| std::mem::replace(before, orders.max(*before)) < orders);
    }

    /// Has its packets wait where they are, or come.
    pub fn hold(&self, is_held: bool) {
        self.holding.send_if_modified(|before| std::mem::replace(before, is_held) != is_held);
    }

    /// What it waits for as long as it does not capture, as in `its pod: ContainerCreating (3 s)`.
    pub fn waits_for(&self) -> String {
        self.waiting.to_string()
    }

    /// Bytes that came from there, as they were on the wire.
    pub fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    /// Asks for a [`Watermark`](sniff_pcapng::Watermark), from a peer that has them.
    pub fn ask_for_watermark(&self) {
        let _ = self.changes.send(ToNode::Watermark);
    }

    /// Has targets join and leave.
    pub fn change(&self, targets: Targets) {
        // A session that is over has said so, or is about to.
        let _ = self.changes.send(ToNode::Targets(targets));
    }
}

/// There is no way to capture on a node: no pod, or none that starts.
#[derive(Debug)]
pub struct NoPod(anyhow::Error);

impl fmt::Display for NoPod {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#}", self.0)
    }
}

impl std::error::Error for NoPod {}

impl From<anyhow::Error> for NoPod {
    fn from(error: anyhow::Error) -> Self {
        Self(error)
    }
}

/// For `map_err`; what is forbidden stays that.
fn no_pod(error: anyhow::Error) -> anyhow::Error {
    if error.is::<Forbidden>() { error } else { NoPod(error).into() }
}

/// Where to capture.
enum CapturePod<'made> {
    /// In the DaemonSet's pod.
    Installed(SniffPod),
    /// In the pod of this Job, once it runs.
    Made(&'made SniffJob),
}

impl CapturePod<'_> {
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
    held: watch::Receiver<bool>,
    updates: mpsc::Sender<(Number, Update)>,
    received: Arc<AtomicU64>,
    waiting: Arc<Waiting>,
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

    /// From finding a pod to the peer's last word. A Job that was made for one is put into `made`.
    async fn capture(
        &mut self,
        made: &mut Option<SniffJob>,
        Start { plan, targets, awaited, past, wanted, again }: Start,
        changes: mpsc::UnboundedReceiver<ToNode>,
    ) -> Result<Option<End>> {
        let mut orders = self.orders.clone();
        let installed = tokio::select! {
            installed = installed(&self.common, &self.node) => installed?,
            _ = orders.wait_for(|orders| *orders != Orders::Run) => return Ok(None),
        };
        let capturing = match (installed, again) {
            (Some(pod), _) => {
                if self.common.names_image {
                    warn!(
                        "node {}: --image is for short-lived pods, and sniff runs in the DaemonSet's pod here; --agentless \
                         makes one all the same",
                        self.node
                    );
                }
                CapturePod::Installed(pod)
            }
            (None, Some(PodKind::Installed)) => bail!("sniff's DaemonSet has no running pod here"),
            (None, Some(PodKind::Made) | None) => {
                CapturePod::Made(made.insert(self.make().await.map_err(no_pod)?))
            }
        };
        let kind = capturing.kind();
        let process = async {
            let pod = match capturing {
                CapturePod::Installed(pod) => pod,
                CapturePod::Made(job) => {
                    let tell = |what: &str| {
                        info!("node {}: waiting for {what}", self.node);
                        self.waiting.set(&format!("its pod: {what}"));
                    };
                    tokio::select! {
                        pod = self.common.cluster.wait_for_job_pod(job, POD_START, tell) => pod.map_err(no_pod)?,
                        never = self.look_at_image(job) => match never {},
                    }
                }
            };
            self.waiting.set("the connection to its pod");
            come_in(&self.common.cluster, &self.node, &pod, &wanted).await
        };
        let process = tokio::select! {
            process = process => process?,
            _ = orders.wait_for(|orders| *orders != Orders::Run) => return Ok(None),
        };
        let wants_past = past.is_some();
        let hello = ToNode::Hello(Box::new(ClientHello {
            version: env!("CARGO_PKG_VERSION").into(),
            who: self.common.who.clone(),
            plan,
            targets,
            awaited,
            lease_seconds: LEASE.as_secs() as u32,
            says_goodbye: true,
            reason: self.common.reason.clone(),
            override_deny: self.common.override_deny,
            past,
        }));
        let mut stderr = Lines::default();
        let (over, is_over) = oneshot::channel();
        let greeting = Greeting { wants_past, ..Greeting::default() };
        let mut speaking =
            pin!(speak(process.input, hello, changes, self.orders.clone(), is_over, &greeting));
        let outcome = {
            let mut listening = pin!(self.listen(process.output, kind, &mut stderr, &greeting));
            tokio::select! {
                outcome = &mut listening => outcome,
                failed = &mut speaking => match failed {
                    Err(error) if error.is::<Broken>() => Err(error),
                    // What the peer has said may still come.
                    _ => listening.await,
                },
            }
        };
        if matches!(outcome, Ok(Some(_))) && over.send(()).is_ok() {
            // Whatever comes of it, all is here.
            let _ = timeout(GOODBYE, speaking).await;
        }
        self.report(stderr.take());
        outcome
    }

    /// Has a terminal show that an image is being pulled.
    async fn look_at_image(&self, job: &SniffJob) -> Infallible {
        if !self.common.is_watched {
            return future::pending().await;
        }
        loop {
            sleep(BETWEEN_LOOKS).await;
            if let Some(said) = self.common.cluster.image_on_its_way(job).await {
                self.waiting.set(&format!("its pod: {said}"));
            }
        }
    }

    /// What the peer's program writes besides, line by line.
    fn report(&self, stderr: impl IntoIterator<Item = String>) {
        stderr.into_iter().for_each(|line| debug!("node {}: {line}", self.node));
    }

    /// Has a short-lived pod made.
    async fn make(&self) -> Result<SniffJob> {
        let Some(new) = new_job(&self.common, &self.node) else {
            let namespace = &self.common.daemonset_namespace;
            ensure!(
                !self.common.agentless,
                "there is no image for a short-lived pod: name one with --image or SNIFF_IMAGE"
            );
            bail!(
                "sniff's DaemonSet has no running pod here (in namespace {namespace}), and there is no image for a \
                 short-lived one: install the DaemonSet, or name an image with --image or SNIFF_IMAGE"
            );
        };
        let job = self.common.cluster.create_job(&new).await?;
        info!("node {}: made job {}/{} for a pod of {}", self.node, job.namespace, job.name, new.image);
        Ok(job)
    }

    async fn remove(&self, job: &SniffJob) {
        let SniffJob { namespace, name, .. } = job;
        match self.common.cluster.delete_job(job).await {
            Ok(()) => debug!("removed job {namespace}/{name}"),
            Err(error) => {
                warn!(
                    "job {namespace}/{name} is left to go by itself, or by kubectl sniff cleanup: {error:#}"
                );
            }
        }
    }

    /// Hears the peer out, for as long as anything comes.
    async fn listen(
        &self,
        mut output: CommandOutput,
        kind: PodKind,
        stderr: &mut Lines,
        greeting: &Greeting,
    ) -> Result<Option<End>> {
        let mut decoder = Decoder::<ToClient>::new();
        let (mut orders, mut held) = (self.orders.clone(), self.held.clone());
        let (mut greeted, mut is_listening) = (false, false);
        let began = Instant::now();
        let mut tail: Option<Tail> = None;
        loop {
            if tail.is_none() && *orders.borrow() == Orders::Stop {
                tail = Some(Tail::new(self.common.buffer_bytes));
            }
            let piece = tokio::select! {
                biased;
                _ = orders.wait_for(|orders| *orders == Orders::Quit) => return Ok(None),
                piece = timeout(LEASE, output.next()) => piece
                    .map_err(|_| anyhow!("nothing was heard for {} s, the connection was cut", LEASE.as_secs()))?
                    .context("the connection was cut")?,
            };
            match piece {
                Some(Piece::Stdout(bytes)) => {
                    self.received.fetch_add(bytes.len() as u64, Ordering::Relaxed);
                    decoder.push(&bytes);
                }
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
                        greeting.take(&hello)?;
                        self.waiting.set(greeting.waits_for());
                        Update::Hello(hello, kind)
                    }
                    ToClient::Error(error) => Update::Error(error),
                    _ if !greeted => bail!("no hello at the start"),
                    ToClient::Packets(blocks) => {
                        if let Some(tail) = &mut tail {
                            tail.came(blocks.len())?;
                        }
                        tokio::select! {
                            _ = orders.wait_for(|orders| *orders == Orders::Quit) => return Ok(None),
                            _ = held.wait_for(|is_held| !is_held) => {}
                        }
                        Update::Packets(blocks)
                    }
                    ToClient::Event(event) => {
                        is_listening |= matches!(event, Event::Listening { .. });
                        Update::Event(event)
                    }
                    ToClient::Stats(stats) => Update::Stats(stats),
                    ToClient::Recordings(_) => bail!("it tells what it was not asked for"),
                };
                self.tell(update).await;
            }
            let limit = ATTACHING.as_secs();
            ensure!(is_listening || began.elapsed() < ATTACHING, "it does not capture after {limit} s");
            if let Some(tail) = &mut tail {
                // A long frame is on its way for as long.
                tail.check(decoder.finish().is_err())?;
            }
        }
    }

    async fn tell(&self, update: Update) {
        // The capture is over when nobody listens.
        let _ = self.updates.send((self.number, update)).await;
    }
}

/// What the peer's hello is to say, and says.
#[derive(Default)]
struct Greeting {
    wants_past: bool,
    waits_for_goodbye: AtomicBool,
    has_come: Notify,
}

impl Greeting {
    fn take(&self, hello: &NodeHello) -> Result<()> {
        if self.wants_past {
            KnowsNoPast::check(hello)?;
        }
        self.waits_for_goodbye.store(hello.waits_for_goodbye, Ordering::Relaxed);
        self.has_come.notify_one();
        Ok(())
    }

    /// What a session waits for that has come so far.
    fn waits_for(&self) -> &'static str {
        if self.wants_past { "what was recorded to be found" } else { "its interfaces to be attached to" }
    }
}

/// A node's sniff is older than recorders are there.
#[derive(Debug)]
pub struct KnowsNoPast {
    version: String,
}

impl KnowsNoPast {
    /// Whether a node's sniff is such a one.
    ///
    /// # Errors
    ///
    /// When it is.
    pub fn check(hello: &NodeHello) -> Result<(), Self> {
        match hello.knows_the_past {
            true => Ok(()),
            false => Err(Self { version: hello.version.clone() }),
        }
    }
}

impl fmt::Display for KnowsNoPast {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sniff {} there does not record pods: nothing comes from there", self.version)
    }
}

impl std::error::Error for KnowsNoPast {}

/// `user@host`, as far as the environment tells.
pub fn who() -> String {
    let first =
        |names: &[&str]| names.iter().find_map(|name| env::var(name).ok().filter(|it| !it.is_empty()));
    let user = first(&["USER", "LOGNAME", "USERNAME"]).unwrap_or_else(|| "unknown".into());
    match first(&["HOSTNAME", "COMPUTERNAME", "NAME"]) {
        Some(host) => format!("{user}@{host}"),
        None => user,
    }
}

/// The DaemonSet's pod on a node, if it is to be looked for and is there.
///
/// # Errors
///
/// When the API server refuses, or does not answer.
pub async fn installed(common: &Common, node: &str) -> Result<Option<SniffPod>> {
    match common.agentless {
        true => Ok(None),
        false => common.cluster.daemon_pod_on(node, &common.daemonset_namespace).await,
    }
}

/// What comes from a peer that was told to stop.
struct Tail {
    bytes_left: u64,
    moved: Instant,
}

impl Tail {
    fn new(buffer_bytes: u32) -> Self {
        Self { bytes_left: u64::from(buffer_bytes) + ON_THE_WAY, moved: Instant::now() }
    }

    /// So many bytes of packets have come.
    fn came(&mut self, bytes: usize) -> Result<()> {
        let left = self.bytes_left.checked_sub(bytes as u64);
        self.bytes_left = left.context("it was told to stop and goes on sending packets")?;
        self.moved = Instant::now();
        Ok(())
    }

    /// Whether there is still something to wait for.
    fn check(&mut self, is_moving: bool) -> Result<()> {
        if is_moving {
            self.moved = Instant::now();
        }
        let limit = LAST_WORDS.as_secs();
        ensure!(self.moved.elapsed() < LAST_WORDS, "it was told to stop and has not ended within {limit} s");
        Ok(())
    }
}

/// Begins a session in a pod: by its agent's door where it has one that this user may come in by, otherwise by exec.
///
/// # Errors
///
/// When there is no way in, or nobody answers.
pub async fn come_in(cluster: &Cluster, node: &str, pod: &SniffPod, wanted: &Wanted) -> Result<Process> {
    let by_exec = cluster.exec(&pod.namespace, &pod.name, CONTAINER, &["sniff", "serve"]);
    let Some(port) = pod.door else {
        debug!("node {node}: by exec, since its agent has no door");
        return by_exec.await;
    };
    let shut = match door::enter(cluster, Door { pod, port, node }, wanted).await {
        Ok((process, Admitted { namespaces, node: all })) => {
            let what = if all { "all that it has".to_owned() } else { namespaces.join(", ") };
            debug!("node {node}: by its agent's door, which is open to {what}");
            return Ok(process);
        }
        Err(shut) if door::lacks_right(&shut) => shut,
        Err(error) => return Err(error),
    };
    match by_exec.await {
        Ok(process) => {
            info!("node {node}: by exec, since its agent's door is shut: {shut:#}");
            Ok(process)
        }
        Err(error) if error.is::<Forbidden>() => {
            Err(error.context(format!("there is no way in; by its agent's door: {shut:#}; by exec")))
        }
        Err(error) => Err(error),
    }
}

/// The Job that makes a short-lived pod on a node, when there is an image.
pub fn new_job(common: &Common, node: &str) -> Option<NewJob> {
    Some(NewJob {
        node: node.into(),
        namespace: common.job_namespace.clone(),
        exposes_node: common.expose_nodes,
        is_privileged: common.privileged,
        image: common.image.clone()?,
        who: common.who.clone(),
        what: common.what.clone(),
        resources: common.resources.clone(),
        lifetime: common.lifetime,
        buffer_bytes: common.buffer_bytes,
    })
}

/// Says what there is to say, keeps the lease alive, and says goodbye when it `is_over`; returns earlier only when that
/// fails. To a peer that does not wait for a goodbye, nothing is said once it was told to stop: what is written to a
/// command that has ended makes the API server reset the connection, and lose what is on its way here. A peer that does not
/// know what was recorded would take a question for that for one of a capture, and so it greets first.
async fn speak(
    mut input: Input,
    hello: ToNode,
    mut changes: mpsc::UnboundedReceiver<ToNode>,
    mut orders: watch::Receiver<Orders>,
    mut is_over: oneshot::Receiver<()>,
    greeting: &Greeting,
) -> Result<()> {
    if greeting.wants_past {
        greeting.has_come.notified().await;
    }
    let mut first = PREFACE.to_vec();
    encode(&hello, &mut first)?;
    write(&mut input, &first).await?;
    let mut alive = interval(KEEP_ALIVE);
    alive.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut is_stopped = false;
    loop {
        let waits = greeting.waits_for_goodbye.load(Ordering::Relaxed);
        let may_speak = waits || !is_stopped;
        let message = tokio::select! {
            Ok(()) = &mut is_over => if waits { ToNode::Goodbye } else { return Ok(()) },
            Some(change) = changes.recv(), if may_speak => change,
            _ = alive.tick(), if may_speak => ToNode::KeepAlive,
            Ok(_) = orders.wait_for(|orders| *orders != Orders::Run), if !is_stopped => {
                is_stopped = true;
                ToNode::Stop
            }
        };
        let mut frame = Vec::new();
        encode(&message, &mut frame)?;
        write(&mut input, &frame).await?;
        if message == ToNode::Goodbye {
            return Ok(());
        }
    }
}

async fn write(input: &mut Input, bytes: &[u8]) -> Result<()> {
    let written = timeout(LEASE, input.write(bytes)).await;
    written.context("nothing is taken any more")?.context("the connection was cut")
}
