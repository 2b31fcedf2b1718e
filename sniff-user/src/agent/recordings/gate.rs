//! When what triggers ask for is saved: not at once, not too often, and one file for what happens together. Pure.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use tokio::time::Instant;

use super::triggers::{Reason, Trigger};
use crate::agent::{FOREVER, audit::PodId};

/// Most triggers that a file names.
const MAX_NAMED: usize = 8;
/// What the node's limit is counted over.
const HOUR: Duration = Duration::from_secs(3600);

/// How often something is saved.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// How far apart saves of a pod begin, at least.
    pub interval: Duration,
    /// How many saves of all pods begin within an hour, at most.
    pub per_hour: usize,
    /// How many of them one pod may have: others in need shall have some, whatever its packets and events have saved.
    pub per_pod: usize,
    /// How long after a trigger its save begins, at least: what follows is told, too.
    pub settle: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self { interval: Duration::from_secs(60), per_hour: 60, per_pod: 20, settle: Duration::from_secs(2) }
    }
}

/// What becomes of a trigger.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heard {
    /// The pod is saved at this time.
    Saves(Instant),
    /// It belongs to a save of the pod that is about to begin, or runs.
    Joins,
    /// As many saves as there may be within an hour have begun, of the pod or of all.
    Refused,
}

/// What has become of triggers, all in all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Saves that have begun.
    pub saves: u64,
    /// Triggers that have joined one.
    pub joined: u64,
    /// Triggers that were refused.
    pub refused: u64,
}

/// Something that is to be saved, or was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Save {
    /// Whose recording.
    pub pod: PodId,
    /// Why: that which tells most, and then the others as they came, up to 8.
    pub triggers: Vec<Trigger>,
    /// How many more there were.
    pub more: u64,
}

impl Save {
    fn new(pod: PodId, trigger: Trigger) -> Self {
        Self { pod, triggers: vec![trigger], more: 0 }
    }

    fn join(&mut self, trigger: Trigger) {
        let at = if trigger.reason > self.reason() { 0 } else { self.triggers.len() };
        self.triggers.insert(at, trigger);
        if self.triggers.len() > MAX_NAMED {
            self.triggers.pop();
            self.more += 1;
        }
    }

    /// The reason that tells most.
    pub fn reason(&self) -> Reason {
        self.triggers[0].reason.clone()
    }

    /// What the file says of why it was saved.
    pub fn comment(&self) -> String {
        let (first, joined) = self.triggers.split_first().expect("there is one from the beginning");
        let mut comment = format!("saved by a trigger ({}): {first}", first.reason.name());
        let count = joined.len() as u64 + self.more;
        if count > 0 {
            let named: Vec<String> = joined.iter().map(ToString::to_string).collect();
            comment += &format!("; and {count} more: {}", named.join(", "));
        }
        if self.more > 0 {
            comment += &format!(", and {} that are not named", self.more);
        }
        comment
    }
}

/// Hears triggers, and says what is to be saved when.
#[derive(Debug)]
pub struct Gate {
    limits: Limits,
    pods: BTreeMap<PodId, Case>,
    /// When saves have begun within the last hour, and whose.
    begun: VecDeque<(Instant, PodId)>,
    counts: Counts,
}

/// What is the matter with a pod.
#[derive(Debug, Default)]
struct Case {
    /// What is about to be saved, and when.
    waiting: Option<(Instant, Save)>,
    /// What is being saved. Nothing waits meanwhile.
    running: Option<Save>,
    last_begun: Option<Instant>,
}

impl Gate {
    /// One that has heard nothing.
    pub fn new(limits: Limits) -> Self {
        let Limits { interval, settle, .. } = limits;
        let limits = Limits { interval: interval.min(FOREVER), settle: settle.min(FOREVER), ..limits };
        Self { limits, pods: BTreeMap::new(), begun: VecDeque::new(), counts: Counts::default() }
    }

    /// Hears a trigger. One that comes before the pod may be saved again waits until then.
    pub fn hear(&mut self, pod: &PodId, trigger: Trigger, now: Instant) -> Heard {
        self.forget(now);
        let taken = self.begun.len() + self.pods.values().filter(|case| case.waiting.is_some()).count();
        let its_own = self.begun.iter().filter(|(_, begun)| begun == pod).count();
        let Limits { interval, per_hour, per_pod, settle } = self.limits;
        let case = self.pods.get_mut(pod);
        let last_begun = case.as_ref().and_then(|case| case.last_begun);
        if let Some(save) = case.and_then(Case::save) {
            save.join(trigger);
            self.counts.joined += 1;
            return Heard::Joins;
        }
        if taken >= per_hour || its_own >= per_pod {
            self.counts.refused += 1;
            return Heard::Refused;
        }
        let due = (now + settle).max(last_begun.map_or(now, |last| last + interval));
        let save = Save::new(pod.clone(), trigger);
        self.pods.entry(pod.clone()).or_default().waiting = Some((due, save));
        Heard::Saves(due)
    }

    /// What is to be saved now. It runs until it has [ended](Self::ended).
    pub fn due(&mut self, now: Instant) -> Vec<Save> {
        let mut saves = Vec::new();
        for case in self.pods.values_mut() {
            if let Some((_, save)) = case.waiting.take_if(|(due, _)| *due <= now) {
                saves.push(save.clone());
                case.running = Some(save);
                case.last_begun = Some(now);
            }
        }
        self.begun.extend(saves.iter().map(|save| (now, save.pod.clone())));
        self.counts.saves += saves.len() as u64;
        saves
    }

    /// When something is due next, if anything is.
    pub fn next(&self) -> Option<Instant> {
        self.pods.values().filter_map(|case| case.waiting.as_ref()).map(|(due, _)| *due).min()
    }

    /// A save has ended, however it has; returns it with all that has joined it.
    pub fn ended(&mut self, pod: &PodId) -> Option<Save> {
        self.pods.get_mut(pod)?.running.take()
    }

    /// What has become of triggers so far.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// Forgets what is too long ago to matter.
    fn forget(&mut self, now: Instant) {
        self.begun.retain(|(begun, _)| *begun + HOUR > now);
        let interval = self.limits.interval;
        self.pods.retain(|_, case| {
            case.save().is_some() || case.last_begun.is_some_and(|begun| begun + interval > now)
        });
    }
}

impl Case {
    /// The one that a trigger joins.
    fn save(&mut self) -> Option<&mut Save> {
        self.running.as_mut().or(self.waiting.as_mut().map(|(_, save)| save))
    }
}

#[cfg(test)]
mod tests {
    use std::hash::{BuildHasher as _, RandomState};

    use super::*;

    fn pod(number: u64) -> PodId {
        let name = format!("web-{number}");
        PodId { namespace: "shop".to_owned(), uid: name.clone(), name }
    }

    fn trigger(reason: Reason) -> Trigger {
        let words = format!("it is {}", reason.name());
        Trigger { reason, words, time: 1_795_754_000_000_000_000 }
    }

    fn seconds(count: u64) -> Duration {
        Duration::from_secs(count)
    }

    #[test]
    fn a_save_waits_for_what_follows_its_trigger_and_is_named_by_what_tells_most() {
        let (mut gate, now) = (Gate::new(Limits::default()), Instant::now());
        let due = now + seconds(2);
        assert_eq!(gate.hear(&pod(0), trigger(Reason::NotReady), now), Heard::Saves(due));
        assert_eq!(gate.hear(&pod(0), trigger(Reason::OomKilled), now + seconds(1)), Heard::Joins);
        assert_eq!(gate.hear(&pod(0), trigger(Reason::Restarted), now + seconds(1)), Heard::Joins);
        assert_eq!((gate.due(now + seconds(1)), gate.next()), (Vec::new(), Some(due)));
        let [save] = gate.due(due).try_into().unwrap();
        assert_eq!((save.pod.clone(), save.reason(), gate.next()), (pod(0), Reason::OomKilled, None));
        assert_eq!(
            save.comment(),
            "saved by a trigger (oom-killed): it is oom-killed at 2026-11-27T04:33:20.000000000Z; and 2 more: it is \
             not-ready at 2026-11-27T04:33:20.000000000Z, it is restarted at 2026-11-27T04:33:20.000000000Z"
        );
        assert_eq!(gate.counts(), Counts { saves: 1, joined: 2, refused: 0 });
    }

    #[test]
    fn what_happens_during_a_save_joins_it_and_is_counted() {
        let (mut gate, now) = (Gate::new(Limits::default()), Instant::now());
        gate.hear(&pod(0), trigger(Reason::Restarted), now);
        let begun = now + seconds(2);
        assert_eq!(gate.due(begun).len(), 1);
        for second in 0..100 {
            let heard = gate.hear(&pod(0), trigger(Reason::CrashLoop), begun + seconds(second));
            assert_eq!(heard, Heard::Joins);
        }
        assert_eq!((gate.due(begun + seconds(100)), gate.next()), (Vec::new(), None));
        let save = gate.ended(&pod(0)).unwrap();
        assert_eq!((save.triggers.len(), save.more), (MAX_NAMED, 93));
        assert!(save.comment().contains("; and 100 more: "), "{}", save.comment());
        assert!(save.comment().ends_with(", and 93 that are not named"));
        assert_eq!((gate.ended(&pod(0)), gate.counts().joined), (None, 100));
        // The next one is another save.
        let heard = gate.hear(&pod(0), trigger(Reason::CrashLoop), begun + seconds(100));
        assert_eq!(heard, Heard::Saves(begun + seconds(102)));
    }

    #[test]
    fn a_trigger_soon_after_a_save_waits_until_the_pod_may_be_saved_again() {
        let (mut gate, now) = (Gate::new(Limits::default()), Instant::now());
        gate.hear(&pod(0), trigger(Reason::NotReady), now);
        let begun = now + seconds(2);
        gate.due(begun);
        gate.ended(&pod(0));
        let heard = gate.hear(&pod(0), trigger(Reason::OomKilled), begun + seconds(5));
        assert_eq!(heard, Heard::Saves(begun + seconds(60)));
        assert_eq!(gate.hear(&pod(0), trigger(Reason::Restarted), begun + seconds(30)), Heard::Joins);
        // Other pods do not wait for it.
        let heard = gate.hear(&pod(1), trigger(Reason::NotReady), begun + seconds(30));
        assert_eq!(heard, Heard::Saves(begun + seconds(32)));
    }

    #[test]
    fn the_node_has_so_many_saves_in_an_hour() {
        let limits = Limits { per_hour: 3, ..Limits::default() };
        let (mut gate, now) = (Gate::new(limits), Instant::now());
        for number in 0..5 {
            let heard = gate.hear(&pod(number), trigger(Reason::Alert), now);
            assert_eq!(heard == Heard::Refused, number >= 3, "{number}");
        }
        // Whoever is refused holds no place.
        assert_eq!(gate.pods.len(), 3);
        let begun = now + seconds(2);
        assert_eq!(gate.due(begun).len(), 3);
        let last = begun + HOUR - seconds(1);
        assert_eq!(gate.hear(&pod(9), trigger(Reason::Alert), last), Heard::Refused);
        assert_eq!(gate.counts(), Counts { saves: 3, joined: 0, refused: 3 });
        let heard = gate.hear(&pod(9), trigger(Reason::Alert), begun + HOUR);
        assert_eq!(heard, Heard::Saves(begun + HOUR + seconds(2)));
    }

    #[test]
    fn one_pod_leaves_saves_to_others() {
        let limits = Limits { per_pod: 2, per_hour: 3, ..Limits::default() };
        let (mut gate, mut now) = (Gate::new(limits), Instant::now());
        let begin = now;
        for number in 0..4 {
            let heard = gate.hear(&pod(0), trigger(Reason::Rate), now);
            assert_eq!(heard == Heard::Refused, number >= 2, "{number}");
            now += seconds(100);
            gate.due(now);
            gate.ended(&pod(0));
        }
        assert!(matches!(gate.hear(&pod(1), trigger(Reason::OomKilled), now), Heard::Saves(_)));
        let later = begin + seconds(100) + HOUR;
        assert!(matches!(gate.hear(&pod(0), trigger(Reason::Rate), later), Heard::Saves(_)));
    }

    #[test]
    fn whatever_comes_limits_hold_and_each_trigger_is_accounted_for() {
        let random = RandomState::new();
        let limits = Limits { interval: seconds(60), per_hour: 20, per_pod: 4, settle: seconds(2) };
        let (mut gate, start) = (Gate::new(limits), Instant::now());
        let (mut now, mut heard, mut in_files) = (start, 0, 0);
        let mut begun: Vec<(Instant, PodId)> = Vec::new();
        let mut running: Vec<PodId> = Vec::new();
        for step in 0..20_000_u64 {
            let dice = random.hash_one(step);
            now += Duration::from_millis(dice % 5000);
            match dice >> 32 & 3 {
                0 | 1 => {
                    heard += 1;
                    let reason = Reason::CHOICE[(dice >> 40) as usize % Reason::CHOICE.len()].clone();
                    if let Heard::Saves(due) = gate.hear(&pod(dice >> 48 & 7), trigger(reason), now) {
                        assert!(due >= now + limits.settle);
                    }
                }
                2 => {
                    for save in gate.due(now) {
                        assert!(!running.contains(&save.pod), "one save of a pod at a time");
                        running.push(save.pod.clone());
                        begun.push((now, save.pod));
                    }
                    assert!(gate.next().is_none_or(|next| next > now));
                }
                _ => {
                    if let Some(pod) = running.pop() {
                        let save = gate.ended(&pod).expect("it runs");
                        assert!(save.triggers.iter().all(|it| it.reason <= save.reason()));
                        in_files += save.triggers.len() as u64 + save.more;
                    }
                }
            }
        }
        let still: u64 = gate
            .pods
            .values_mut()
            .filter_map(Case::save)
            .map(|save| save.triggers.len() as u64 + save.more)
            .sum();
        assert_eq!(in_files + still + gate.counts().refused, heard);
        assert!(gate.counts().refused > 0 && gate.counts().joined > 0 && begun.len() > 100);
        assert_eq!(gate.counts().saves, begun.len() as u64);
        for (at, (time, pod)) in begun.iter().enumerate() {
            let before = || begun[..at].iter();
            assert!(before().filter(|(it, _)| *it + HOUR > *time).count() < limits.per_hour);
            assert!(before().all(|(it, other)| other != pod || *it + limits.interval <= *time));
        }
        gate.forget(now + HOUR);
        assert!(gate.pods.len() <= 8 && gate.begun.is_empty());
    }
}
