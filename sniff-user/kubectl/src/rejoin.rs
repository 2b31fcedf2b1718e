//! Joining a node again whose session was lost, or could not begin: when there is a point in that, and after what pause.
//! What was announced is owed: only what is refused or meant to end is not tried again.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use anyhow::Result;
use sniff_kubernetes::{Backoff, Forbidden};
use sniff_protocol::{
    Broken,
    message::{End, Reason},
};

use super::{
    door,
    session::{LEASE, NoPod, PodKind},
};

/// How long a lost session may go on at its node, and count towards the limits there: its lease, and time to end.
const LINGERS: Duration = LEASE.saturating_add(Duration::from_secs(10));

/// The end of a session, which was not told to end.
pub struct Ending<'a> {
    /// How it ended.
    pub outcome: &'a Result<Option<End>>,
    /// Where it ran, or was to run again; `None` when nothing was ever heard of this node.
    pub pod: Option<PodKind>,
    /// Whether a limit of the node refused it at its start.
    pub is_over_limit: bool,
    /// Time since the session before it was lost.
    pub since_lost: Option<Duration>,
}

impl Ending<'_> {
    /// Whether it was lost, as another one may not be. A refusal is final.
    pub fn is_lost(&self) -> bool {
        match self.outcome {
            Ok(None) => false,
            Ok(Some(end)) => match end.reason {
                // The DaemonSet makes its pod anew; whoever deletes a Job wants the capture to end.
                Reason::Signal => self.pod == Some(PodKind::Installed),
                Reason::Lease | Reason::InputClosed => true,
                Reason::Failed => self.is_over_limit && self.since_lost.is_some_and(|time| time < LINGERS),
                Reason::Stopped | Reason::Count | Reason::Duration | Reason::Deadline | Reason::Other => {
                    false
                }
            },
            Err(error) => {
                let is_nonsense = error.downcast_ref().is_some_and(|broken| !matches!(broken, Broken::Cut));
                !is_nonsense && !error.is::<Forbidden>() && !door::is_refused(error)
            }
        }
    }

    /// Whether there is no pod to capture in, which waiting alone does not change.
    pub fn has_no_pod(&self) -> bool {
        self.outcome.as_ref().is_err_and(anyhow::Error::is::<NoPod>)
    }
}

/// The nodes that were lost in the course of a capture, or could not be captured from its start.
#[derive(Default)]
pub struct Rejoins(HashMap<String, Lost>);

struct Lost {
    pod: Option<PodKind>,
    pauses: Backoff,
    /// When its last session was lost that had listened, or the first that could not begin.
    at: Instant,
    /// Whether there ever was one that had listened.
    has_listened: bool,
    has_no_pod: bool,
    /// When it is tried again; `None` once it is.
    due: Option<Instant>,
}

impl Rejoins {
    /// Notes that a node was lost, or could not be joined again; returns the pause until it is tried.
    pub fn lose(&mut self, node: &str, ending: &Ending<'_>, was_listening: bool, now: Instant) -> Duration {
        let new = || Lost {
            pod: ending.pod,
            pauses: Backoff::default(),
            at: now,
            has_listened: false,
            has_no_pod: false,
            due: None,
        };
        let lost = self.0.entry(node.to_owned()).or_insert_with(new);
        if was_listening {
            (lost.pod, lost.at, lost.has_listened) = (ending.pod, now, true);
            lost.pauses = Backoff::default();
        }
        lost.has_no_pod = ending.has_no_pod();
        let pause = lost.pauses.next().unwrap_or_default();
        lost.due = Some(now + pause);
        pause
    }

    /// Where a session is to run on a node that was lost before.
    pub fn pod(&self, node: &str) -> Option<PodKind> {
        self.0.get(node)?.pod
    }

    /// Whether a node was lost, or could not be captured at first; and whether it had been captured before.
    pub fn was_lost(&self, node: &str) -> Option<bool> {
        self.0.get(node).map(|lost| lost.has_listened)
    }

    /// Whether nobody of those that wait has a pod to be captured in.
    pub fn have_no_pods(&self) -> bool {
        self.0.values().filter(|lost| lost.due.is_some()).all(|lost| lost.has_no_pod)
    }

    /// Time since a node was lost, if it was.
    pub fn since_lost(&self, node: &str, now: Instant) -> Option<Duration> {
        self.0.get(node).map(|lost| now.saturating_duration_since(lost.at))
    }

    /// Whether a node is to be tried again later.
    pub fn is_waiting(&self, node: &str) -> bool {
        self.0.get(node).is_some_and(|lost| lost.due.is_some())
    }

    /// The nodes that wait to be tried again, and when each is.
    pub fn waiting(&self) -> impl Iterator<Item = (&str, Instant)> {
        self.0.iter().filter_map(|(node, lost)| Some((node.as_str(), lost.due?)))
    }

    /// When the next node is tried again.
    pub fn due(&self) -> Option<Instant> {
        self.0.values().filter_map(|lost| lost.due).min()
    }

    /// Has all nodes that wait tried at the time `now`: what was in the way may be gone.
    pub fn hurry(&mut self, now: Instant) {
        self.0.values_mut().filter_map(|lost| lost.due.as_mut()).for_each(|due| *due = now);
    }

    /// The nodes to be tried at the time `now`; they wait no more.
    pub fn take_due(&mut self, now: Instant) -> Vec<String> {
        let due = self.0.iter_mut().filter(|(_, lost)| lost.due.is_some_and(|due| due <= now));
        due.map(|(node, lost)| {
            lost.due = None;
            node.clone()
        })
        .collect()
    }
}

#[cfg(test)]
mod tests {
    use anyhow::{Context as _, anyhow};

    use super::*;

    const LATER: Duration = Duration::from_secs(3600);

    fn ended(reason: Reason) -> Result<Option<End>> {
        Ok(Some(End { reason, ..End::default() }))
    }

    /// As a session reports it.
    fn failed(error: impl Into<anyhow::Error>) -> Result<Option<End>> {
        Err(error.into()).context("node n1")
    }

    fn is_lost(outcome: &Result<Option<End>>, pod: PodKind) -> bool {
        Ending { outcome, pod: Some(pod), is_over_limit: false, since_lost: None }.is_lost()
    }

    #[test]
    fn what_broke_off_is_lost_and_what_was_refused_or_meant_is_not() {
        let cut = || failed(anyhow!("the connection was cut"));
        for outcome in [cut(), failed(Broken::Cut), ended(Reason::Lease), ended(Reason::InputClosed)] {
            assert!(is_lost(&outcome, PodKind::Installed), "{outcome:?}");
            assert!(is_lost(&outcome, PodKind::Made), "{outcome:?}");
            let unknown = Ending { outcome: &outcome, pod: None, is_over_limit: false, since_lost: None };
            assert!(unknown.is_lost(), "at the start, too: {outcome:?}");
        }
        let (foreign, skewed) = (failed(Broken::Foreign("oh".into())), failed(Broken::Protocol(9)));
        let meant = [Reason::Stopped, Reason::Count, Reason::Duration, Reason::Deadline, Reason::Failed];
        for outcome in meant.map(ended).into_iter().chain([Ok(None), foreign, skewed]) {
            assert!(!is_lost(&outcome, PodKind::Installed), "{outcome:?}");
        }
    }

    #[test]
    fn a_pod_that_goes_is_joined_again_where_another_takes_its_place() {
        assert!(is_lost(&ended(Reason::Signal), PodKind::Installed));
        assert!(!is_lost(&ended(Reason::Signal), PodKind::Made));
    }

    #[test]
    fn a_limit_is_tried_again_while_the_lost_session_may_count_towards_it() {
        let outcome = ended(Reason::Failed);
        let ending = |is_over_limit, since_lost| Ending {
            outcome: &outcome,
            pod: Some(PodKind::Installed),
            is_over_limit,
            since_lost,
        };
        assert!(ending(true, Some(Duration::from_secs(1))).is_lost());
        assert!(!ending(true, Some(LATER)).is_lost());
        assert!(!ending(true, None).is_lost());
        assert!(!ending(false, Some(Duration::from_secs(1))).is_lost());
    }

    #[test]
    fn pauses_become_longer_while_a_node_cannot_be_joined() {
        let (mut rejoins, start) = (Rejoins::default(), Instant::now());
        let outcome = ended(Reason::Lease);
        let (pod, since_lost) = (Some(PodKind::Installed), None);
        let ending = Ending { outcome: &outcome, pod, is_over_limit: false, since_lost };
        let first = rejoins.lose("n1", &ending, true, start);
        assert!(first < Duration::from_secs(3), "{first:?}");
        assert!(rejoins.is_waiting("n1") && !rejoins.is_waiting("n2"));
        assert_eq!(rejoins.due(), Some(start + first));
        assert!(rejoins.take_due(start).is_empty());
        assert_eq!(rejoins.take_due(start + first), ["n1"]);
        assert!(!rejoins.is_waiting("n1") && rejoins.due().is_none());
        for _ in 0..3 {
            rejoins.lose("n1", &ending, false, start + LATER);
        }
        let later = rejoins.lose("n1", &ending, false, start + LATER);
        assert!(later > first * 2, "{first:?}, {later:?}");
        assert_eq!(rejoins.since_lost("n1", start + LATER), Some(LATER), "that is no new loss");
        assert_eq!(rejoins.pod("n1"), Some(PodKind::Installed));
    }

    #[test]
    fn pauses_are_short_again_once_a_node_was_joined() {
        let (mut rejoins, now) = (Rejoins::default(), Instant::now());
        let outcome = ended(Reason::Lease);
        let (pod, since_lost) = (Some(PodKind::Installed), None);
        let ending = Ending { outcome: &outcome, pod, is_over_limit: false, since_lost };
        let mut lose = |was_listening| rejoins.lose("n1", &ending, was_listening, now);
        lose(true);
        let long = (0..5).map(|_| lose(false)).last().expect("a pause");
        let short = lose(true);
        assert!(short < Duration::from_secs(3) && short < long / 2, "{long:?}, {short:?}");
        let next = lose(false);
        assert!(next < long / 2, "{long:?}, {next:?}");
    }

    #[test]
    fn nodes_without_a_pod_are_told_from_those_that_may_come_back() {
        let (mut rejoins, now) = (Rejoins::default(), Instant::now());
        let lose = |rejoins: &mut Rejoins, node: &str, outcome: Result<Option<End>>| {
            let ending = Ending { outcome: &outcome, pod: None, is_over_limit: false, since_lost: None };
            assert!(ending.is_lost());
            rejoins.lose(node, &ending, false, now);
        };
        let no_pod = || NoPod::from(anyhow!("no image"));
        lose(&mut rejoins, "n1", failed(no_pod()));
        assert!(rejoins.have_no_pods());
        assert_eq!((rejoins.was_lost("n1"), rejoins.was_lost("n2")), (Some(false), None));
        lose(&mut rejoins, "n2", failed(anyhow!("the connection was cut")));
        assert!(!rejoins.have_no_pods());
        lose(&mut rejoins, "n2", failed(no_pod()));
        assert!(rejoins.have_no_pods());
    }
}
