//! What has a recording saved by itself: changes of a pod, and what else is heard of it. Pure.

use std::{collections::BTreeSet, fmt, str::FromStr, sync::Arc};

use sniff_cli::sanitize::sanitize_line;
use sniff_kubernetes::{
    events::News,
    recordings::{ContainerState, PodState},
};
use sniff_pcapng::time;
use sniff_protocol::request::Alarm;

use crate::agent::events::SAVED;

/// What the option calls none at all.
const NONE: &str = "off";
/// Most characters of a name that somebody else has given.
const MAX_NAME: usize = 64;
/// Most characters of a filter that are told.
const MAX_FILTER: usize = 200;
/// What Kubernetes calls the end of a container that had too much memory (`lastState.terminated.reason`).
const OOM_KILLED: &str = "OOMKilled";
/// And a container that has ended too often to be started at once (`state.waiting.reason`).
const CRASH_LOOP: &str = "CrashLoopBackOff";
/// What names of events' triggers begin with.
const EVENT: &str = "event-";
/// Most reasons of events: each is a watch of its own.
const MAX_EVENTS: usize = 8;
/// Most characters of an event's message.
const MAX_MESSAGE: usize = 256;

/// Why a recording is saved. Of several, the greatest tells most.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// The pod is not ready any more, while its containers run.
    NotReady,
    /// Packets have come too fast.
    Rate,
    /// Kubernetes tells of an event; by the trigger's name.
    Event(Arc<str>),
    /// An alert is firing.
    Alert,
    /// Somebody has signalled the agent.
    Signal,
    /// A container was restarted.
    Restarted,
    /// A container ends again and again.
    CrashLoop,
    /// A container of a pod that is never restarted has ended with an error.
    Failed,
    /// A container was killed since it had too much memory.
    OomKilled,
}

impl Reason {
    /// Those that happen by themselves, which the option chooses from.
    pub(super) const CHOICE: [Self; 7] = [
        Self::Restarted,
        Self::OomKilled,
        Self::CrashLoop,
        Self::NotReady,
        Self::Failed,
        Self::Rate,
        Self::Alert,
    ];

    /// One word, which stays the same.
    pub fn name(&self) -> &str {
        match self {
            Self::NotReady => "not-ready",
            Self::Rate => "rate",
            Self::Event(name) => name,
            Self::Alert => "alert",
            Self::Signal => "signal",
            Self::Restarted => "restarted",
            Self::CrashLoop => "crash-loop",
            Self::Failed => "failed",
            Self::OomKilled => "oom-killed",
        }
    }
}

/// Whether an event's trigger may be called so.
pub(super) fn is_of_event(name: &str) -> bool {
    name.strip_prefix(EVENT).is_some_and(is_reason)
}

/// Whether that is what Kubernetes calls a reason.
fn is_reason(text: &str) -> bool {
    (1..=MAX_NAME).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_alphanumeric())
}

/// Something that has a recording saved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trigger {
    /// What it is.
    pub reason: Reason,
    /// The same for a person: `container app was OOM-killed (exit 137)`.
    pub words: String,
    /// When it happened, in nanoseconds since the epoch.
    pub time: u64,
}

impl fmt::Display for Trigger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at {}", self.words, time(self.time))
    }
}

/// Which triggers are wanted, written `restarted,oom-killed`, or `off`. A signal and events are asked for elsewhere, and always are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted(Vec<Reason>);

impl Wanted {
    /// Whether this one is.
    pub fn has(&self, reason: &Reason) -> bool {
        !Reason::CHOICE.contains(reason) || self.0.contains(reason)
    }
}

impl Default for Wanted {
    fn default() -> Self {
        Self(Reason::CHOICE.to_vec())
    }
}

/// As it is written.
impl fmt::Display for Wanted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = self.0.iter().map(Reason::name).collect();
        f.write_str(if names.is_empty() { NONE.to_owned() } else { names.join(",") }.as_str())
    }
}

impl FromStr for Wanted {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == NONE {
            return Ok(Self(Vec::new()));
        }
        let one = |word: &str| {
            let word = word.trim();
            Reason::CHOICE.into_iter().find(|reason| reason.name() == word).ok_or_else(|| {
                let names = Reason::CHOICE.each_ref().map(Reason::name).join(",");
                format!("{word:?} is no trigger: there are {names}, or {NONE}")
            })
        };
        text.split(',').map(one).collect::<Result<_, _>>().map(Self)
    }
}

/// Reasons of events that are triggers, written `Unhealthy,BackOff`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Events(BTreeSet<String>);

impl Events {
    /// Each once.
    pub fn reasons(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(String::as_str)
    }
}

impl FromStr for Events {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let one = |word: &str| match word.trim() {
            SAVED => Err(format!("{SAVED} is what sniff itself tells of each save: there would be no end")),
            word if is_reason(word) => Ok(word.to_owned()),
            word => Err(format!(
                "{word:?} is no reason of an event: it is one word of at most {MAX_NAME} letters and digits, as in Unhealthy"
            )),
        };
        let reasons = text.split(',').map(one).collect::<Result<BTreeSet<_>, _>>()?;
        match reasons.len() {
            ..=MAX_EVENTS => Ok(Self(reasons)),
            count => Err(format!("{count} reasons are too many: there are {MAX_EVENTS} at most")),
        }
    }
}

/// What an event is that was heard of at `now`, in nanoseconds since the epoch.
pub fn of_event(event: &News, now: u64) -> Trigger {
    let News { reason, message, time, .. } = event;
    let message = shown(message.trim(), MAX_MESSAGE);
    Trigger {
        reason: Reason::Event(format!("{EVENT}{reason}").into()),
        words: format!("event {reason}: {message}"),
        time: time.unwrap_or(now),
    }
}

/// What has happened to a pod between two looks at it, of which the later was at `now`, in nanoseconds since the epoch. What
/// was so when it was first seen has not happened since.
pub fn triggers(before: Option<&PodState>, after: &PodState, now: u64) -> Vec<Trigger> {
    let Some(before) = before else { return Vec::new() };
    let new = ContainerState::default();
    let mut triggers = Vec::new();
    for container in &after.containers {
        let of_before = before.containers.iter().find(|it| it.name == container.name);
        triggers.extend(of_container(of_before.unwrap_or(&new), container, after, now));
    }
    triggers.extend(not_ready(before, after).map(|words| Trigger {
        reason: Reason::NotReady,
        words,
        time: now,
    }));
    triggers
}

/// In words, that a pod was ready and is not, though its containers run on.
fn not_ready(before: &PodState, after: &PodState) -> Option<String> {
    if before.is_ready != Some(true) || after.is_ready != Some(false) || after.is_leaving {
        return None;
    }
    let containers = || after.containers.iter().filter(|container| !container.is_init);
    let runs_on = |container: &ContainerState| {
        let of_before = before.containers.iter().find(|it| it.name == container.name);
        container.is_running && of_before.is_some_and(|before| before.restarts == container.restarts)
    };
    containers().all(runs_on).then(|| {
        let failing: Vec<String> =
            containers().filter(|it| !it.is_ready).take(3).map(|it| plain(&it.name)).collect();
        match failing.as_slice() {
            [] => "the pod is not ready any more".to_owned(),
            names => {
                format!("the pod is not ready any more: container {} runs and is not", names.join(", "))
            }
        }
    })
}

/// That so many packets a second that an alarm is about have come.
pub fn too_fast(rate: u64, Alarm { filter, per_second }: &Alarm, now: u64) -> Trigger {
    let filter = shown(filter, MAX_FILTER);
    let words = format!("{rate} packets a second match '{filter}', more than {per_second}");
    Trigger { reason: Reason::Rate, words, time: now }
}

/// What has happened to a container of a `pod` that is known as it is by now.
fn of_container(before: &ContainerState, after: &ContainerState, pod: &PodState, now: u64) -> Vec<Trigger> {
    let new_end = after.ended.as_ref().filter(|ended| before.ended.as_ref() != Some(ended));
    let name = plain(&after.name);
    let kind = if after.is_init { "init container" } else { "container" };
    let mut triggers = Vec::new();
    let mut add = |reason, what: String, time| {
        triggers.push(Trigger { reason, words: format!("{kind} {name} {what}"), time });
    };
    if let Some(ended) = new_end {
        let (code, time) = (ended.exit_code, ended.finished.unwrap_or(now));
        if ended.reason.as_deref() == Some(OOM_KILLED) {
            add(Reason::OomKilled, format!("was OOM-killed (exit {code})"), time);
        } else if code != 0 && pod.never_restarts && !pod.is_leaving {
            add(Reason::Failed, format!("has failed (exit {code})"), time);
        }
    }
    if after.restarts > before.restarts {
        let how = new_end.or(after.ended.as_ref()).map(|ended| format!(" (exit {})", ended.exit_code));
        let time = new_end.and_then(|ended| ended.finished).unwrap_or(now);
        let count = after.restarts;
        let what = format!("has ended{} and was restarted, {count} times so far", how.unwrap_or_default());
        add(Reason::Restarted, what, time);
    }
    let is_looping = |it: &ContainerState| it.waiting.as_deref() == Some(CRASH_LOOP);
    if is_looping(after) && !is_looping(before) {
        add(Reason::CrashLoop, "ends again and again (CrashLoopBackOff)".to_owned(), now);
    }
    triggers
}

/// Somebody else's words, as a line of so many characters at most.
fn shown(text: &str, most: usize) -> String {
    sanitize_line(text).chars().take(most).collect()
}

/// Somebody else's name for something, in characters that mean nothing to anybody.
pub(super) fn plain(name: &str) -> String {
    let plain = |char: char| if char.is_ascii_alphanumeric() || "-_.".contains(char) { char } else { '_' };
    name.chars().take(MAX_NAME).map(plain).collect()
}

#[cfg(test)]
mod tests {
    use sniff_kubernetes::recordings::Termination;

    use super::*;

    const NOW: u64 = 1_795_754_000_000_000_000;

    fn running(name: &str) -> ContainerState {
        ContainerState {
            name: name.to_owned(),
            is_running: true,
            is_ready: true,
            ..ContainerState::default()
        }
    }

    fn pod(containers: &[ContainerState]) -> PodState {
        PodState { containers: containers.to_vec(), is_ready: Some(true), ..PodState::default() }
    }

    fn ended(reason: &str, exit_code: i32) -> Option<Termination> {
        Some(Termination { reason: Some(reason.to_owned()), exit_code, finished: Some(NOW - 5) })
    }

    fn reasons(before: &PodState, after: &PodState) -> Vec<Reason> {
        triggers(Some(before), after, NOW).into_iter().map(|trigger| trigger.reason).collect()
    }

    #[test]
    fn what_was_so_at_the_first_sight_of_a_pod_is_no_trigger() {
        let looping = ContainerState {
            restarts: 7,
            is_running: false,
            waiting: Some(CRASH_LOOP.to_owned()),
            ended: ended(OOM_KILLED, 137),
            ..running("app")
        };
        let state = PodState { is_ready: Some(false), ..pod(&[looping]) };
        assert_eq!(triggers(None, &state, NOW), []);
        assert_eq!(triggers(Some(&state), &state, NOW), []);
    }

    #[test]
    fn an_oom_kill_is_told_with_its_container_exit_status_and_time() {
        let killed = ContainerState { is_running: false, ended: ended(OOM_KILLED, 137), ..running("app") };
        let after = PodState { is_ready: Some(false), ..pod(&[running("side"), killed]) };
        let [trigger] =
            triggers(Some(&pod(&[running("side"), running("app")])), &after, NOW).try_into().unwrap();
        assert_eq!(trigger.reason, Reason::OomKilled);
        let at = time(NOW - 5);
        assert_eq!(trigger.to_string(), format!("container app was OOM-killed (exit 137) at {at}"));
    }

    #[test]
    fn init_containers_are_oom_killed_too_also_those_that_were_not_there_before() {
        let killed = ContainerState {
            is_init: true,
            is_running: false,
            ended: ended(OOM_KILLED, 137),
            ..running("migrate")
        };
        let [trigger] = triggers(Some(&PodState::default()), &pod(&[killed]), NOW).try_into().unwrap();
        assert_eq!(trigger.words, "init container migrate was OOM-killed (exit 137)");
    }

    #[test]
    fn a_life_that_ends_in_a_crash_loop_is_told_step_by_step() {
        let fine = pod(&[running("app")]);
        let mut container = running("app");
        (container.is_running, container.is_ready, container.ended) = (false, false, ended("Error", 1));
        let down = PodState { is_ready: Some(false), ..pod(&[container.clone()]) };
        // The restart is what counts, which comes soon.
        assert_eq!(reasons(&fine, &down), []);
        (container.is_running, container.restarts) = (true, 1);
        let again = PodState { is_ready: Some(false), ..pod(&[container.clone()]) };
        assert_eq!(reasons(&down, &again), [Reason::Restarted]);
        // What was between two looks was not seen.
        assert_eq!(reasons(&fine, &again), [Reason::Restarted]);
        container.is_running = false;
        container.ended.as_mut().unwrap().finished = Some(NOW);
        container.waiting = Some(CRASH_LOOP.to_owned());
        let looping = PodState { is_ready: Some(false), ..pod(&[container.clone()]) };
        assert_eq!(reasons(&again, &looping), [Reason::CrashLoop]);
        assert_eq!(reasons(&looping, &looping), []);
        (container.restarts, container.waiting, container.is_running) = (2, None, true);
        let third = PodState { is_ready: Some(false), ..pod(&[container.clone()]) };
        assert_eq!(reasons(&looping, &third), [Reason::Restarted]);
        // The kubelet has forgotten what was before.
        (container.restarts, container.ended) = (0, None);
        assert_eq!(reasons(&third, &pod(&[container])), []);
    }

    #[test]
    fn one_step_may_be_several_triggers() {
        let after = ContainerState { restarts: 1, ended: ended(OOM_KILLED, 137), ..running("app") };
        let after = PodState { is_ready: Some(false), ..pod(&[after]) };
        assert_eq!(reasons(&pod(&[running("app")]), &after), [Reason::OomKilled, Reason::Restarted]);
    }

    #[test]
    fn a_pod_that_is_not_ready_is_told_while_its_containers_run_on() {
        let before = pod(&[running("app"), running("side")]);
        let failing = ContainerState { is_ready: false, ..running("app") };
        let after = PodState { is_ready: Some(false), ..pod(&[failing.clone(), running("side")]) };
        let [trigger] = triggers(Some(&before), &after, NOW).try_into().unwrap();
        assert_eq!((trigger.reason, trigger.time), (Reason::NotReady, NOW));
        assert_eq!(trigger.words, "the pod is not ready any more: container app runs and is not");
        // A readiness gate.
        let after = PodState { is_ready: Some(false), ..before.clone() };
        assert_eq!(reasons(&before, &after), [Reason::NotReady]);
        // One that has ended.
        let done =
            ContainerState { is_running: false, is_ready: false, ended: ended("Completed", 0), ..failing };
        let after = PodState { is_ready: Some(false), ..pod(&[done, running("side")]) };
        assert_eq!(reasons(&before, &after), []);
        // A pod that is deleted.
        let after = PodState { is_ready: Some(false), is_leaving: true, ..before.clone() };
        assert_eq!(reasons(&before, &after), []);
        // One that never was ready.
        let starting = PodState { is_ready: None, ..before.clone() };
        assert_eq!(reasons(&starting, &PodState { is_ready: Some(false), ..before }), []);
    }

    #[test]
    fn a_pod_that_is_never_restarted_fails_unless_it_is_deleted_or_ends_well() {
        let of = |exit_code, never_restarts, is_leaving| {
            let ended = ended("Error", exit_code);
            let after =
                pod(&[ContainerState { is_running: false, is_ready: false, ended, ..running("job") }]);
            reasons(&pod(&[running("job")]), &PodState { never_restarts, is_leaving, ..after })
        };
        assert_eq!(of(3, true, false), [Reason::Failed]);
        assert_eq!(of(0, true, false), []);
        assert_eq!(of(3, false, false), []);
        assert_eq!(of(143, true, true), []);
    }

    #[test]
    fn triggers_are_chosen_by_their_names() {
        let all: Wanted = "restarted,oom-killed,crash-loop,not-ready,failed,rate,alert".parse().unwrap();
        assert_eq!(all, Wanted::default());
        let some: Wanted = "oom-killed, alert".parse().unwrap();
        assert!(some.has(&Reason::OomKilled) && some.has(&Reason::Alert) && !some.has(&Reason::Restarted));
        let none: Wanted = "off".parse().unwrap();
        assert!(!none.has(&Reason::OomKilled) && none.has(&Reason::Signal));
        assert!(none.has(&of_event(&event("Unhealthy", ""), NOW).reason));
        for wrong in ["", "oom", "off,alert", "signal", "alert,", "Alert"] {
            let why = wrong.parse::<Wanted>().unwrap_err();
            assert!(why.contains("restarted,oom-killed,"), "{why}");
        }
    }

    fn event(reason: &str, message: &str) -> News {
        let (reason, message) = (reason.to_owned(), message.to_owned());
        let (namespace, pod, pod_uid) = ("shop".to_owned(), "web-0".to_owned(), "u".to_owned());
        News { namespace, pod, pod_uid, reason, message, time: None }
    }

    #[test]
    fn an_event_is_a_trigger_by_its_reason_and_its_message_is_one_short_line() {
        let told = News { time: Some(NOW - 5), ..event("Unhealthy", "Liveness probe failed: HTTP 503\n") };
        let trigger = of_event(&told, NOW);
        assert_eq!(trigger.reason.name(), "event-Unhealthy");
        let at = time(NOW - 5);
        assert_eq!(trigger.to_string(), format!("event Unhealthy: Liveness probe failed: HTTP 503 at {at}"));
        let wild = of_event(&event("BackOff", &"\u{1b}[2J\n".repeat(1000)), NOW);
        assert_eq!((wild.time, wild.words.chars().count()), (NOW, "event BackOff: ".len() + MAX_MESSAGE));
        assert!(wild.words.starts_with("event BackOff: \\u{1b}[2J\\n"), "{}", wild.words);
        // It tells more than that the pod is not ready, and less than what has come of it.
        assert!(Reason::NotReady < trigger.reason && trigger.reason < Reason::Restarted);
    }

    #[test]
    fn reasons_of_events_are_words_and_few() {
        let some: Events = "Unhealthy, BackOff,Unhealthy".parse().unwrap();
        assert!(some.reasons().eq(["BackOff", "Unhealthy"]));
        let long = "R".repeat(MAX_NAME);
        for reason in ["Evicted", "A1", &long] {
            assert!(reason.parse::<Events>().unwrap().reasons().eq([reason]));
            assert!(is_of_event(of_event(&event(reason, ""), NOW).reason.name()));
        }
        for wrong in
            ["", "a,", "Un healthy", "../Evicted", "a=b", "Zurück", "a_b", "a-b", "a\u{1b}", &(long + "R")]
        {
            let why = wrong.parse::<Events>().unwrap_err();
            assert!(why.contains("is no reason of an event") && !why.contains('\u{1b}'), "{why}");
            assert!(!is_of_event(&format!("{EVENT}{wrong}")), "{wrong}");
        }
        let many = |count: u8| (0..count).map(|it| format!("R{it}")).collect::<Vec<_>>().join(",");
        assert_eq!(many(8).parse::<Events>().unwrap().reasons().count(), MAX_EVENTS);
        assert!(many(9).parse::<Events>().unwrap_err().contains("9 reasons are too many"));
        assert!("PacketRecordingSaved".parse::<Events>().unwrap_err().contains("no end"));
    }

    #[test]
    fn what_comes_too_fast_is_told_with_what_it_is() {
        let alarm = Alarm { filter: "icmp\u{1b}[2J".to_owned(), per_second: 100 };
        let trigger = too_fast(250, &alarm, NOW);
        assert_eq!(trigger.words, "250 packets a second match 'icmp\\u{1b}[2J', more than 100");
        let long = Alarm { filter: "x".repeat(10_000), ..alarm };
        assert!(too_fast(250, &long, NOW).words.len() < 300);
    }

    #[test]
    fn names_of_others_are_plain_and_short() {
        assert_eq!(plain("High \u{1b}[2J latency\n"), "High___2J_latency_");
        assert_eq!(plain(&"ü".repeat(1000)).len(), MAX_NAME);
    }
}
