//! `sniff serve`: the node's side of `kubectl sniff`. One session on one node: the client at the other end of stdin and
//! stdout says whom to capture and gets the packets, in the frames of [`sniff_protocol`].
//!
//! The session outlives nobody: it ends when the client says so, closes its pipe or is silent for its lease, when
//! nobody takes the packets, at the node's limits and on a signal. It always detaches first; what was captured then
//! goes out as far as somebody takes it.

mod consent;
mod conversation;
mod holding;
mod input;
mod members;
mod output;
mod own_stream;
mod past;
mod rate;
mod remit;

use std::{path::PathBuf, sync::Arc, time::Duration};

use anyhow::{Context as _, Result, ensure};
use log::{info, warn};
use sniff_cli::logging;
use sniff_common::{MAX_SNAPLEN, MIN_RING_BYTES};
use sniff_filter::{Filters, Source};
use sniff_output::Delivery;
use sniff_pcapng::LinkType;
use sniff_protocol::{
    Broken, Build, PROTOCOL, ToClient, ToNode,
    message::{
        Awaited, AwaitedBy, CapturePlan, ClientHello, Code, End, Event as Told, Level, NodeError, NodeHello,
        Past, Reason, Target, TargetId,
    },
    request::{Alarm, Cutoff, Directions},
};
use tokio::{
    sync::{mpsc, oneshot},
    time::timeout,
};

use self::{
    consent::{Consent, Labels},
    conversation::{Capture, Conversation},
    input::Input,
    members::{Asked, Members},
    output::ClientWriter,
};
use crate::{
    agent::{
        audit::{self, Outcome},
        policy::Policy,
        wire::{Grant, Kind, NotAuthorised, Registration, Report},
    },
    bpf::ring::{self, Batch, Sorting},
    capture::{self, Plan, Progress, Remote},
    halves::{Compiler, Halves, Writer},
    system::{
        System, privileges,
        signals::{Attended, Signals},
    },
    targets::Arrivals,
};

/// Interfaces that one session can have at a time.
const MAX_INTERFACES: u32 = 1024;
/// Memory between the kernel and sniff when the client leaves it to us.
const BUFFER_BYTES: u32 = 64 << 20;
/// The largest.
const MAX_BUFFER_BYTES: u32 = 1 << 31;
/// How long the client may take for its first words.
const HELLO_TIME: Duration = Duration::from_secs(10);
/// Shortest and longest lease, in seconds.
const LEASE: (u32, u32) = (2, 300);
/// Most characters of targets or a filter in the node's log.
const MAX_LOGGED: usize = 2000;
/// Most characters of the client's name that are repeated.
const MAX_WHO: usize = 128;
/// Once the client seems to be gone, nothing may move for so long before what is left is given up.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// What becomes of pods to come that no runtime tells of.
const THROUGH_THE_API: &str = "which are captured once the API names them";

/// Where a session finds what it needs.
#[derive(Debug)]
pub struct Options {
    /// Socket of the container runtime; the usual places in turn if there is none.
    pub cri_socket: Option<PathBuf>,
    /// Name of this node, if it is not the host's name.
    pub node_name: Option<String>,
    /// Socket of the agent, which then must be there; one is asked if there is one otherwise.
    pub agent_socket: Option<PathBuf>,
    /// Whether the agent has started this session, and says what it may capture.
    pub is_authorised: bool,
}

/// Why there is no session, or no more, in the client's terms.
struct Failure {
    code: Code,
    error: anyhow::Error,
}

/// For `map_err`.
fn failed(code: Code) -> impl Fn(anyhow::Error) -> Failure {
    move |error| Failure { code, error }
}

/// Runs one session.
///
/// # Errors
///
/// When it failed; the client was told why.
pub async fn run(args: Options, halves: Halves) -> Result<()> {
    let signals = Signals::take_over()?.attend(halves.board)?;
    let (front, (heard, told)) = halves.writer()?;
    let mut input = Input::start(heard, HELLO_TIME)?;
    let mut output = ClientWriter::start(told, front.receipts(), front.board)?;
    let notes = output.sender();
    logging::also_tell(move |text| {
        notes.tell(ToClient::Event(Told::Note { level: Level::Warn, text: text.to_owned() }));
    });
    let (end, result) = match session(args, front, &mut input, &mut output, signals).await {
        Ok(end) => (end, Ok(())),
        Err(Failure { code, error }) => {
            let error = privileges::advise_session(error);
            output.tell(ToClient::Error(NodeError { code, message: format!("{error:#}") }));
            (End { reason: Reason::Failed, ..End::default() }, Err(error))
        }
    };
    info!("the session has ended: {:?}, {} packets captured", end.reason, end.captured);
    let is_heard = !matches!(end.reason, Reason::Lease | Reason::InputClosed);
    output.tell(ToClient::End(end));
    output.close(LAST_WORDS).await;
    if is_heard {
        input.goodbye().await;
    }
    result
}

async fn session(
    args: Options,
    front: Writer,
    input: &mut Input,
    output: &mut ClientWriter,
    signals: Attended,
) -> Result<End, Failure> {
    let system = System::this(args.node_name.as_deref()).map_err(failed(Code::Kernel))?;
    // Meanwhile the API answers.
    let labels = Labels::follow(args.node_name.as_deref()).await;
    let opened = match open(&args, system, front.compiler(), input, output).await {
        Err(_) if input.is_told_to_stop() => {
            return Ok(End { reason: Reason::Stopped, ..End::default() });
        }
        opened => opened?,
    };
    if opened.past.is_some() {
        return past::serve(opened, labels, front, input, output).await;
    }
    let Opening { plan, targets, awaited, lease, duration, override_deny, grant, .. } = opened;
    let room = (plan.ring == ring::Kind::Recorder).then_some((plan.ring_bytes - plan.flow_bytes()).into());
    let progress = Arc::new(Progress::new(front.board));
    let (orders, ordered) = mpsc::channel(1);
    let (events, happens) = mpsc::unbounded_channel();
    let awaited = awaited.into_iter().filter_map(members::awaited).collect();
    let arrivals = Arrivals::listen(awaited, args.cri_socket.clone(), THROUGH_THE_API);
    let general = plan.filter.read().map_err(failed(Code::Filter))?;
    let policy = grant.policy().map(Policy::parse).transpose().map_err(failed(Code::Other))?;
    let consent = Consent::new(labels, policy.unwrap_or_default(), override_deny, grant.may_override());
    let asked = Asked { filter: general.clone(), snaplen: plan.snaplen, headers: plan.headers };
    let remit = grant.remit().cloned();
    let members = Members::new(args.cri_socket, args.node_name, asked, remit, consent);
    let alarm = plan.alarm.clone();
    let capture = Capture { orders, happens, filters: plan.filters.clone(), general, room, alarm };
    let mut conversation =
        Conversation::new(input, output, capture, arrivals, members, grant, Arc::clone(&progress));
    let remote = Remote { orders: ordered, events, progress: Arc::clone(&progress), names_others: true };
    let capture = capture::serve(plan, front, remote, signals);
    let (over, is_over) = oneshot::channel();
    let conversation = async {
        let reason = conversation.hold(targets, lease, duration).await;
        let is_lost = matches!(reason, Some(Reason::Lease | Reason::InputClosed));
        (reason, conversation.wind_up(lease, is_lost, is_over).await)
    };
    let capture = async {
        let captured = capture.await;
        // The conversation may have been cut short.
        let _ = over.send(());
        captured
    };
    let ((reason, mut grant), captured) = tokio::join!(conversation, capture);
    let ended = async {
        let (why, accounts) = captured.map_err(failed(Code::Kernel))?;
        let (counters, Delivery { delivered, left_out, .. }) = accounts.totals();
        let (matched, dropped, cut_off) = (counters.matched, counters.lost(), counters.cut_off);
        let bytes = progress.moved();
        grant.report(&Report { matched, delivered, dropped, cut_off, bytes, ..Report::default() }).await;
        let (reason, seen) = (reason.unwrap_or(why.into()), accounts.seen());
        Ok(End { reason, captured: delivered, matched, dropped, left_out, cut_off, seen })
    };
    let ended: Result<End, Failure> = ended.await;
    match &ended {
        Ok(end) => grant.end(end.reason.into(), in_words(end.reason).to_owned()).await,
        Err(Failure { error, .. }) => grant.end(Outcome::Failed, format!("it failed: {error:#}")).await,
    }
    ended
}

/// Whom a client asks for, each once; in words.
fn asked_for(targets: &[Target], awaited: &[Awaited]) -> String {
    let target = |Target { id, interfaces, .. }: &Target| match id {
        TargetId::Pod { .. } => id.to_string(),
        TargetId::Node => format!("{id} ({})", interfaces.join(", ")),
    };
    let to_come = |Awaited { namespace, by, .. }: &Awaited| match (by, namespace) {
        (AwaitedBy::Name { name }, Some(namespace)) => format!("{namespace}/{name}"),
        (AwaitedBy::Name { name }, None) => format!("{name} in any namespace"),
        (AwaitedBy::Labels { selector }, Some(namespace)) => format!("pods of {namespace} with '{selector}'"),
        (AwaitedBy::Labels { selector }, None) => format!("pods of any namespace with '{selector}'"),
    };
    let mut all: Vec<String> = Vec::new();
    for words in targets.iter().map(target).chain(awaited.iter().map(to_come)) {
        if !all.contains(&words) {
            all.push(words);
        }
    }
    all.join(", ")
}

/// As much of a text as the node's log takes.
fn logged(text: &str) -> String {
    match text.char_indices().nth(MAX_LOGGED) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text.to_owned(),
    }
}

/// For the node's log.
fn in_words(reason: Reason) -> &'static str {
    match reason {
        Reason::Stopped => "its client said so",
        Reason::Count => "as many packets as its client asked for",
        Reason::Duration => "as long as its client asked for",
        Reason::Lease => "its client was not heard of",
        Reason::InputClosed => "its client has closed the connection",
        Reason::Deadline => "the node's limit of time",
        Reason::Signal => "a signal",
        Reason::Failed | Reason::Other => "it failed",
    }
}

/// What was agreed on.
struct Opening {
    plan: Plan,
    targets: Vec<Target>,
    awaited: Vec<Awaited>,
    lease: Duration,
    duration: Option<Duration>,
    override_deny: bool,
    /// In place of a capture.
    past: Option<Past>,
    grant: Grant,
}

/// Greets, hears what the client wants, and gets the agent's permission.
async fn open(
    args: &Options,
    system: System,
    compiler: Compiler,
    input: &mut Input,
    output: &ClientWriter,
) -> Result<Opening, Failure> {
    output.tell(ToClient::Hello(NodeHello {
        version: Build::THIS.version.to_owned(),
        commit: Build::THIS.commit.map(str::to_owned),
        node: system.node.clone(),
        kernel: system.os.rsplit(' ').next().unwrap_or_default().to_owned(),
        has_watermarks: true,
        waits_for_goodbye: true,
        has_both_ends: true,
        has_cutoffs: true,
        knows_reasons: true,
        knows_the_past: true,
    }));
    let ClientHello {
        version,
        who,
        plan,
        targets,
        awaited,
        lease_seconds,
        says_goodbye,
        reason,
        override_deny,
        past,
    } = greeting(input).await?;
    let who: String = who.chars().take(MAX_WHO).collect();
    let lease = Duration::from_secs(lease_seconds.clamp(LEASE.0, LEASE.1).into());
    input.agree(lease, says_goodbye);
    info!("{who} captures with kubectl sniff {version}");
    privileges::check().map_err(failed(Code::Kernel))?;
    privileges::raise_limits();
    let duration = plan.duration_ms.map(Duration::from_millis);
    let mut plan = plan_of(plan, system, compiler).map_err(failed(Code::Usage))?;
    conversation::check(&targets).map_err(failed(Code::Usage))?;
    conversation::check_awaited(&awaited).map_err(failed(Code::Usage))?;
    input.unless_gone(check_filter(&plan)).await.map_err(failed(Code::Filter))?;
    let kind = match (&past, plan.ring) {
        (Some(_), _) => Kind::Past,
        (None, ring::Kind::Recorder) => Kind::Recorder,
        (None, _) => Kind::Capture,
    };
    let asked_for = asked_for(&targets, &awaited);
    let registration = Registration {
        kind,
        who,
        what: logged(&match &past {
            None => asked_for.clone(),
            Some(Past::List) => "the list of what is recorded".to_owned(),
            Some(Past::Held { .. }) => format!("what was recorded of {asked_for}"),
            Some(Past::Saved { name }) => format!("the recording {name}"),
        }),
        filter: plan.filter.read().map_err(failed(Code::Filter))?.map(|filter| logged(&filter)),
        buffer_bytes: if kind == Kind::Past { 0 } else { plan.ring_bytes.into() },
        duration,
        reason: reason.as_deref().map(audit::claim),
        snaplen: plan.snaplen,
        headers: plan.headers,
        override_deny,
        keeps_policy: true,
    };
    let asked = Grant::ask(args.agent_socket.as_deref(), registration).await;
    let grant = asked.map_err(|error| {
        let code = if error.is::<NotAuthorised>() { Code::NotAuthorised } else { Code::RefusedLimit };
        Failure { code, error }
    })?;
    if args.is_authorised && grant.remit().is_none() {
        let error =
            anyhow::anyhow!("the agent of this node has started anew, and does not know this session");
        return Err(Failure { code: Code::NotAuthorised, error });
    }
    if let Some(note) = grant.note() {
        warn!("{note}");
    }
    plan.what = Some(asked_for);
    Ok(Opening { plan, targets, awaited, lease, duration, override_deny, past, grant })
}

async fn greeting(input: &mut Input) -> Result<ClientHello, Failure> {
    match timeout(HELLO_TIME, input.next()).await {
        Ok(Some(Ok(ToNode::Hello(hello)))) => Ok(*hello),
        Ok(Some(Err(broken @ Broken::Protocol(_)))) => Err(failed(Code::VersionSkew)(broken.into())),
        Ok(Some(Err(broken))) => Err(failed(Code::Usage)(broken.into())),
        Ok(Some(Ok(_))) => Err(failed(Code::Usage)(anyhow::anyhow!("the client does not say hello"))),
        Ok(None) => Err(failed(Code::Usage)(anyhow::anyhow!(
            "nobody is at the other end: sniff serve is for kubectl sniff, which speaks protocol {PROTOCOL}"
        ))),
        Err(_) => Err(failed(Code::Usage)(anyhow::anyhow!("the client has said nothing for {HELLO_TIME:?}"))),
    }
}

/// The plan of a session that begins without interfaces; numbers from outside are checked.
fn plan_of(asked: CapturePlan, system: System, compiler: Compiler) -> Result<Plan> {
    let CapturePlan {
        filter,
        snaplen,
        headers,
        cutoff,
        direction,
        count,
        buffer_bytes,
        attach,
        both_ends,
        compress,
        record_bytes,
        alarm,
        ..
    } = asked;
    let snaplen = snaplen.unwrap_or(MAX_SNAPLEN);
    ensure!(
        (1..=MAX_SNAPLEN).contains(&snaplen),
        "a snapshot length of {snaplen} bytes: it is 1 to {MAX_SNAPLEN}"
    );
    let buffer = record_bytes.or(buffer_bytes).unwrap_or(BUFFER_BYTES);
    ensure!(
        (MIN_RING_BYTES..=MAX_BUFFER_BYTES).contains(&buffer),
        "a buffer of {buffer} bytes: it is {MIN_RING_BYTES} to {MAX_BUFFER_BYTES}"
    );
    ensure!(count != Some(0), "a count of 0 packets");
    ensure!(cutoff.is_none_or(Cutoff::is_sound), "a cutoff of a size, or of an every, that there is not");
    let is_sound = |alarm: &Alarm| alarm.per_second > 0 && record_bytes.is_some();
    ensure!(alarm.as_ref().is_none_or(is_sound), "an alarm at nothing, or of a session that records nothing");
    ensure!(
        both_ends.is_none() || direction == Directions::Inout,
        "one direction of packets that are to be seen at both ends"
    );
    Ok(Plan {
        what: None,
        interfaces: Vec::new(),
        scopes: Vec::new(),
        to_come: None,
        room: MAX_INTERFACES,
        attach,
        mechanism: None,
        directions: direction.each(),
        filter: Source::Text(filter.unwrap_or_default()),
        alarm,
        filters: Filters::compiled_by(move |text, link_type| compiler.compile(text, link_type, true)),
        headers,
        cutoff,
        snaplen,
        ring: record_bytes.map_or(ring::Kind::Auto, |_| ring::Kind::Recorder),
        ring_bytes: buffer,
        wished_time: None,
        has_output: record_bytes.is_none(),
        sorting: Sorting::Time,
        both_ends,
        compress,
        batch: Batch::Small,
        // The client knows better, and would not believe a node.
        names: None,
        only: None,
        status_line: None,
        count,
        duration: None,
        system,
    })
}

/// Finds out before anything starts whether the filter compiles.
async fn check_filter(plan: &Plan) -> Result<()> {
    if let Some(text) = plan.filter.read()? {
        plan.filters.prepare(text, LinkType::Ethernet).await.context("the filter")?;
    }
    if let Some(Alarm { filter, .. }) = plan.alarm.clone() {
        plan.filters.prepare(filter, LinkType::Ethernet).await.context("the filter of the alarm")?;
    }
    Ok(())
}
