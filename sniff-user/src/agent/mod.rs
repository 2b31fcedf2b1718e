//! `sniff agent`: the main process of sniff's pod on a node. Captures are `sniff serve` processes, which the agent starts
//! for whoever comes in by its door, or others start beside it by exec, where it has no door or that is allowed. Each asks
//! the agent for permission over a Unix socket, and the connection lives as long as the session does. So the agent notices
//! every end, `kill -9` included, without looking.
//!
//! Without sessions it waits for connections and signals only: nothing wakes it up.

pub mod audit;
mod crowd;
mod door;
mod events;
pub mod guest;
mod http;
mod judge;
mod ledger;
mod metrics;
pub mod policy;
pub mod recordings;
pub mod wire;

use std::{
    fs::{self, Permissions},
    io::ErrorKind,
    net::SocketAddr,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow, bail};
use log::{info, warn};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use sniff_cli::interrupt::Interrupts;
use tokio::{
    net::{TcpListener, UnixListener, UnixStream},
    sync::watch,
    time::{Instant, sleep, sleep_until, timeout},
};

pub use self::ledger::Limits;
use self::{
    audit::{Caller, Ending, Outcome, Record},
    door::{Door, Origin, Started},
    events::{Events, SessionEvents},
    ledger::{Ledger, SessionId},
    policy::Policy,
    recordings::{
        Nursery, Recordings,
        webhook::{Token, Webhook},
    },
    wire::{Cause, Granted, Kind, Recorded, Registration, Remit, Report, ToAgent, ToSession, Wire},
};

/// Where an agent listens unless told otherwise. Not below /run, which in sniff's pods is the node's.
pub const AGENT_SOCKET: &str = "/var/lib/sniff/agent.sock";

/// How long a session may take to end once it was told to, before it is killed.
const GRACE: Duration = Duration::from_secs(10);
/// How long what a session has captured may go out when its time is over, at most.
const TAIL: Duration = Duration::from_secs(300);
/// How long a connection may take to say what it wants.
const PATIENCE: Duration = Duration::from_secs(5);
/// With `--once`: how long to wait for the first session.
const FIRST_SESSION: Duration = Duration::from_secs(20);
/// What is said to sessions that others have started, where they may not.
const NOT_BY_EXEC: &str = "this node's agent takes no sessions that are started by exec (--allow-exec-sessions): come in by its \
     door, with the rights to create pods/portforward in its namespace, and serviceaccounts/token named sniff-capture in the \
     pods' namespace, or sniff-node in the agent's for the node's interfaces";
/// What is said to sessions that record, and are not the agent's.
const NOT_THE_AGENT: &str =
    "it is the agent itself that records: kubectl sniff record, or an annotation of the pod, has it do so";
/// Longest deadline; an `Instant` cannot take all of a `Duration`.
const FOREVER: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

/// How an agent works.
#[derive(Debug)]
pub struct Options {
    /// Where it listens for sessions.
    pub socket: PathBuf,
    /// Where it serves metrics and health, if anywhere.
    pub metrics_address: Option<SocketAddr>,
    /// Where it lets in who shows tokens, if anywhere.
    pub door: Option<SocketAddr>,
    /// Whether there may be sessions that others start, although there is a door.
    pub allow_exec_sessions: bool,
    /// What sessions may take.
    pub limits: Limits,
    /// Whether it ends when the first sessions have ended, or none has come within 20 seconds.
    pub once: bool,
    /// Name of this node.
    pub node: String,
    /// What captures must keep to, if anything.
    pub policy: Option<PathBuf>,
    /// Whether captured pods get events that tell of it.
    pub events: bool,
    /// What may be recorded, if anything.
    pub recordings: Option<recordings::Options>,
    /// A file with the token that whoever posts alerts must show.
    pub alerts_token: Option<PathBuf>,
}

type Shared = Arc<Mutex<Ledger>>;
/// What is measured, in Prometheus' text format.
type Metrics = Arc<dyn Fn() -> String + Send + Sync>;

/// What is the same for all sessions.
#[derive(Clone)]
struct Office {
    ledger: Shared,
    node: Arc<str>,
    /// Read anew for each session.
    policy: Option<Arc<Path>>,
    events: Events,
    /// Those that the agent has started itself.
    started: Arc<Started>,
    /// Where something is recorded.
    recordings: Option<Arc<Recordings>>,
    /// Whether others may start them.
    by_exec: bool,
}

/// Serves until a signal, or with `--once` until the sessions are over.
///
/// # Errors
///
/// When the socket or the address cannot be listened on.
pub async fn run(options: Options) -> Result<()> {
    let mut signals = Interrupts::take_over()?;
    let listener = listen(&options.socket).await?;
    let ledger = Arc::new(Mutex::new(Ledger::new(options.limits)));
    let started = Arc::<Started>::default();
    let node: Arc<str> = options.node.as_str().into();
    let events = Events::new(Arc::clone(&node), options.events);
    let recordings = match options.recordings {
        Some(wanted) => {
            let nursery = Nursery {
                node: Arc::clone(&node),
                socket: Arc::new(options.socket.clone()),
                started: Arc::clone(&started),
            };
            Some(recordings::begin(wanted, nursery, events.of_session()).await?)
        }
        None => None,
    };
    if let Some(address) = options.metrics_address {
        let listener = TcpListener::bind(address).await;
        let listener = listener.with_context(|| format!("cannot listen on {address} (--metrics-address)"))?;
        info!("metrics and health on http://{address}");
        let alerts = match &recordings {
            Some(recordings) if recordings.takes_alerts() => {
                let token = options.alerts_token.as_deref().map(Token::read).transpose()?;
                let recordings = Arc::clone(recordings);
                Some(Arc::new(Webhook::new(address.ip(), token, move |alert| recordings.alert(alert))))
            }
            _ => None,
        };
        let (ledger, recordings, webhook) = (Arc::clone(&ledger), recordings.clone(), alerts.clone());
        let metrics = move || {
            let recorded = recordings.as_ref().map(|it| it.metrics()).unwrap_or_default();
            let alerts = webhook.as_ref().map(|it| it.metrics()).unwrap_or_default();
            lock(&ledger).metrics() + &recorded + &alerts
        };
        tokio::spawn(http::serve(listener, Arc::new(metrics), alerts));
    }
    // Without a door there is no other way.
    let by_exec = options.allow_exec_sessions || options.door.is_none();
    if let Some(address) = options.door {
        match Door::new(&options.node, options.socket.clone(), Arc::clone(&started)).await {
            Ok(door) => {
                let listener = TcpListener::bind(address).await;
                let listener = listener.with_context(|| format!("cannot listen on {address} (--door)"))?;
                info!("a door on {address}, for whoever may forward it and shows tokens");
                tokio::spawn(door.serve(listener));
            }
            Err(error) if by_exec => warn!("nobody is let in at the door, only by exec: {error:#}"),
            Err(error) => return Err(error),
        }
    }
    info!("waiting for sessions on {}", options.socket.display());
    let (running, is_running) = watch::channel(true);
    let office = Office {
        started,
        recordings,
        by_exec,
        ledger: Arc::clone(&ledger),
        events,
        node,
        policy: options.policy.map(Into::into),
    };
    let accepting = accept(&listener, &office, &is_running);
    tokio::select! {
        () = signals.next() => info!("a signal: the sessions are being ended"),
        () = over(&ledger), if options.once => info!("the sessions are over"),
        error = accepting => return Err(error),
    }
    // Each session holds one of these receivers until it has ended.
    drop(is_running);
    running.send_replace(false);
    let all_ended = timeout(GRACE + PATIENCE, running.closed()).await;
    // What cannot be removed is found stale by the next agent.
    let _ = fs::remove_file(&options.socket);
    all_ended.map_err(|_| anyhow!("sessions are left that do not end"))
}

/// Listens on the socket, in place of an agent that has ended.
async fn listen(path: &Path) -> Result<UnixListener> {
    let cannot = || format!("cannot listen on {}", path.display());
    if UnixStream::connect(path).await.is_ok() {
        bail!("{}: another agent listens there", cannot());
    }
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).with_context(cannot)?;
    }
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error).with_context(cannot),
        _ => {}
    }
    let listener = UnixListener::bind(path).with_context(cannot)?;
    fs::set_permissions(path, Permissions::from_mode(0o600)).with_context(cannot)?;
    Ok(listener)
}

/// Attends to everybody who connects; returns only when that is over for good.
async fn accept(
    listener: &UnixListener,
    office: &Office,
    is_running: &watch::Receiver<bool>,
) -> anyhow::Error {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => drop(tokio::spawn(attend(stream, office.clone(), is_running.clone()))),
            // Out of descriptors, say; that passes.
            Err(error) => {
                warn!("cannot take a connection: {error}");
                sleep(Duration::from_secs(1)).await;
            }
        }
    }
}

/// Returns when there was a session and none is left, or none came in time.
async fn over(ledger: &Shared) {
    let mut changes = lock(ledger).changes();
    let first = changes.wait_for(|sessions| *sessions > 0);
    if timeout(FIRST_SESSION, first).await.is_ok() {
        // It fails when the ledger is gone, and this with it.
        let _ = changes.wait_for(|sessions| *sessions == 0).await;
    }
}

/// One connection, from its first words to its end.
async fn attend(stream: UnixStream, office: Office, is_running: watch::Receiver<bool>) {
    let Some(pid) = stream.peer_cred().ok().and_then(|peer| peer.pid()) else {
        return;
    };
    let mut wire = Wire::new(stream);
    let answer = match timeout(PATIENCE, wire.next()).await {
        Ok(Ok(Some(ToAgent::Check))) => ToSession::Healthy,
        Ok(Ok(Some(ToAgent::Register(registration)))) => {
            let origin = office.started.take(pid);
            let (caller, remit) = match &origin {
                Some(Origin::Door(authority)) => (Caller::door(authority), Some(authority.remit.clone())),
                Some(Origin::Recorder { namespace }) => (Caller::agent(), Some(Remit::of(namespace))),
                None => (Caller::exec(), None),
            };
            let is_recorder = matches!(origin, Some(Origin::Recorder { .. }));
            let refused = match (origin.is_none() && !office.by_exec, registration.kind) {
                (true, _) => Some(NOT_BY_EXEC),
                (false, kind) => ((kind == Kind::Recorder) != is_recorder).then_some(NOT_THE_AGENT),
            };
            if let Some(why) = refused {
                warn!("refused {} (process {pid}): {why}", registration.who);
                let record = Record::new(&office.node, None, pid, caller, &registration);
                note(record.refuse(&registration, why));
                let _ = wire.send(&ToSession::NotAuthorised { why: why.to_owned() }).await;
                return;
            }
            match office.admit(pid, caller, &registration) {
                Ok((id, granted, record)) => {
                    let granted = Granted { remit, ..granted };
                    let Registration { kind, who, what, filter, .. } = &registration;
                    let filter = filter.as_deref().unwrap_or("every packet");
                    info!("session {id} of {who} (process {pid}) begins: {what}; filter: {filter}");
                    let witness = Witness { kind: *kind, record, events: office.events.of_session() };
                    return office.see_through(&mut wire, id, pid, granted, witness, is_running).await;
                }
                Err(why) => {
                    warn!("refused {} (process {pid}): {why}", registration.who);
                    ToSession::Refused { why }
                }
            }
        }
        _ => return,
    };
    // Whoever does not wait for the answer does not want it.
    let _ = wire.send(&answer).await;
}

impl Office {
    /// Lets a session begin; the error says why not. Either is in the audit.
    fn admit(
        &self,
        pid: i32,
        caller: Caller,
        registration: &Registration,
    ) -> Result<(SessionId, Granted, Record), String> {
        let admitted = self.policy_for(registration).and_then(|policy| {
            let (id, granted) = lock(&self.ledger).admit(pid, registration)?;
            Ok((id, Granted { policy, ..granted }))
        });
        let id = admitted.as_ref().ok().map(|(id, _)| *id);
        let record = Record::new(&self.node, id, pid, caller, registration);
        match admitted {
            Ok((id, granted)) => match record.start(registration) {
                Ok(()) => Ok((id, granted, record)),
                Err(error) => {
                    lock(&self.ledger).leave(id);
                    Err(format!("the audit on this node cannot be written: {error}"))
                }
            },
            Err(why) => {
                note(record.refuse(registration, &why));
                Err(why)
            }
        }
    }

    /// The policy that is to be kept to; the error says that there is none which could be.
    fn policy_for(&self, registration: &Registration) -> Result<Option<String>, String> {
        let Some(path) = &self.policy else { return Ok(None) };
        let policy = Policy::read(path).map_err(|error| {
            format!("nothing is captured on this node until its policy is mended (--policy): {error:#}")
        })?;
        if !registration.keeps_policy {
            return Err("this node has a policy (--policy), which kubectl sniff keeps to and sniff by itself does not: \
                        capture by kubectl sniff"
                .to_owned());
        }
        Ok(Some(policy))
    }

    /// A session from its permission to its end.
    async fn see_through(
        &self,
        wire: &mut Wire,
        id: SessionId,
        pid: i32,
        granted: Granted,
        mut witness: Witness,
        is_running: watch::Receiver<bool>,
    ) {
        let mut ending = None;
        if wire.send(&ToSession::Granted(granted.clone())).await.is_ok() {
            let (ledger, recordings) = (&self.ledger, self.recordings.as_deref());
            let session = Session { id, pid, granted, ledger, recordings };
            ending = session.follow(wire, &mut witness, is_running).await;
        }
        let Witness { kind, record, events } = witness;
        record.pods().iter().for_each(|pod| events.ended(kind, pod, &record.on_whose_behalf()));
        let ending = ending.unwrap_or_else(|| Ending {
            outcome: Outcome::Vanished,
            why: "its process has gone without a word".to_owned(),
        });
        let report = {
            let mut ledger = lock(&self.ledger);
            ledger.count_end(record.namespaces(), ending.outcome);
            ledger.leave(id)
        };
        note(record.end(report, &ending));
        let Report { matched, delivered, dropped, bytes, .. } = report;
        info!(
            "session {id} has ended: {}; {matched} packets received by filter, {delivered} delivered, {dropped} dropped, \
             {bytes} bytes sent",
            ending.why
        );
    }
}

/// Who hears of what a session captures.
struct Witness {
    kind: Kind,
    record: Record,
    events: SessionEvents,
}

impl Witness {
    /// Tells of a change.
    fn take_down(&mut self, id: SessionId, change: ToAgent) {
        let Self { kind, record, events } = self;
        match change {
            ToAgent::Captures(captured) => {
                info!("session {id} captures {}", captured.what);
                let is_new = captured.pod.as_ref().filter(|pod| !record.pods().contains(*pod));
                is_new.into_iter().for_each(|pod| events.begun(*kind, pod, &record.on_whose_behalf()));
                note(record.joined(&captured));
            }
            ToAgent::Leaves(pod) => {
                if record.pods().contains(&pod) {
                    events.ended(*kind, &pod, &record.on_whose_behalf());
                }
                note(record.left(&pod));
            }
            ToAgent::Denied { what, why } => {
                info!("session {id} does not capture {what}: {why}");
                note(record.denied(&what, &why));
            }
            ToAgent::Check
            | ToAgent::Register(_)
            | ToAgent::Recorded
            | ToAgent::Report(_)
            | ToAgent::End { .. } => {}
        }
    }
}

/// Says that something is missing in the audit.
fn note(written: std::io::Result<()>) {
    if let Err(error) = written {
        warn!("the audit cannot be written, and something is missing there: {error}");
    }
}

/// A session that has its permission.
struct Session<'a> {
    id: SessionId,
    pid: i32,
    granted: Granted,
    ledger: &'a Shared,
    recordings: Option<&'a Recordings>,
}

impl Session<'_> {
    /// Hears a session's reports, and sees to it that it ends in time. Returns when it has, with the reason if that is known.
    async fn follow(
        &self,
        wire: &mut Wire,
        witness: &mut Witness,
        mut is_running: watch::Receiver<bool>,
    ) -> Option<Ending> {
        let &Self { id, pid, ref granted, ledger, recordings } = self;
        let limit = granted.limit;
        let deadline = Instant::now() + limit.unwrap_or(FOREVER);
        let mut killing = None;
        let mut sent = 0;
        loop {
            let ending = tokio::select! {
                message = wire.next() => match message {
                    Ok(Some(ToAgent::Report(report))) => {
                        // What it captured in its time may still go out, for as long as it does.
                        if deadline <= Instant::now() && killing.is_some() && report.bytes > sent {
                            killing = Some((Instant::now() + GRACE).min(deadline + TAIL));
                        }
                        sent = report.bytes;
                        if let Some(recordings) = recordings.filter(|_| witness.kind == Kind::Recorder) {
                            recordings.report(pid, &report);
                        }
                        lock(ledger).report(id, &report).err().map(|why| (Cause::Bytes, why))
                    }
                    Ok(Some(change @ (ToAgent::Captures(_) | ToAgent::Leaves(_) | ToAgent::Denied { .. }))) => {
                        witness.take_down(id, change);
                        None
                    }
                    Ok(Some(ToAgent::Recorded)) => {
                        let recorded = self.recorded();
                        if wire.send(&ToSession::Recorded(Box::new(recorded))).await.is_err() {
                            return None;
                        }
                        None
                    }
                    Ok(Some(ToAgent::End { outcome, why })) => return Some(Ending { outcome, why }),
                    // It has ended, or speaks nonsense.
                    _ => return None,
                },
                () = sleep_until(deadline), if killing.is_none() => {
                    let limit = humantime::format_duration(limit.unwrap_or(FOREVER));
                    Some((Cause::Duration, format!("the longest capture on this node is {limit} (--max-duration)")))
                }
                _ = async { is_running.wait_for(|running| !running).await.is_ok() }, if killing.is_none() => {
                    Some((Cause::Shutdown, "sniff's agent on this node is being ended".to_owned()))
                }
                () = sleep_until(killing.unwrap_or(deadline)), if killing.is_some() => {
                    warn!("session {id} (process {pid}) does not end: killed");
                    // Its connection is open, so the number is still its own.
                    let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
                    let why = "it did not end when it was told to, and was killed".to_owned();
                    return Some(Ending { outcome: Outcome::Killed, why });
                }
            };
            if let Some((cause, why)) = ending
                && killing.is_none()
            {
                info!("session {id} is told to end: {why}");
                lock(ledger).cut_short();
                killing = Some(Instant::now() + GRACE);
                if wire.send(&ToSession::End { cause, why }).await.is_err() {
                    return None;
                }
            }
        }
    }

    /// What is recorded that it may have.
    fn recorded(&self) -> Recorded {
        self.recordings.map(|recordings| recordings.recorded(self.granted.remit.as_ref())).unwrap_or_default()
    }
}

/// Asks the agent at the socket whether it is well.
pub async fn check(socket: &Path) -> Result<()> {
    let asking = async {
        let mut wire = Wire::new(UnixStream::connect(socket).await?);
        wire.send(&ToAgent::Check).await?;
        wire.next().await
    };
    match timeout(PATIENCE, asking).await {
        Ok(Ok(Some(ToSession::Healthy))) => Ok(()),
        Ok(Ok(_)) => bail!("what answers on {} is not sniff agent", socket.display()),
        Ok(Err(error)) => Err(error).with_context(|| format!("no sniff agent on {}", socket.display())),
        Err(_) => bail!("sniff agent on {} does not answer within {PATIENCE:?}", socket.display()),
    }
}

/// The ledger is consistent between any two statements.
fn lock(ledger: &Shared) -> std::sync::MutexGuard<'_, Ledger> {
    ledger.lock().unwrap_or_else(PoisonError::into_inner)
}
