//! Looking after a running capture: interfaces that went away, classifiers that somebody has taken away, and packets that
//! pass beside the host's end. What is found is returned; what is done about it is decided elsewhere.
//!
//! `bpf_redirect_peer` hands a packet from another device straight to the pod's interface; the host end of the veth
//! pair never sends it. The kernel's own counters tell: the pod's interface then has received more packets than the
//! host end has sent (`veth_get_stats64`, drivers/net/veth.c, counts what came through the pair on both ends at once).
//! Older kernels (5.10 for one) do not count such packets at all (`skb_do_redirect`, net/core/filter.c). So a program that
//! comes to the host end is reason enough, as it is when a capture starts.

use std::{collections::HashMap, fmt, time::Duration};

use anyhow::Result;
use sniff_common::Counters;
use tokio::time::{self, Instant};

/// Time between two looks at first, so that a blind host end is found early.
const FIRST_PAUSE: Duration = Duration::from_millis(20);
/// Time between two looks later, and of a recorder, which goes on for days and is to cost nothing.
pub const LAST_PAUSE: Duration = Duration::from_secs(1);
pub const LAST_PAUSE_OF_RECORDER: Duration = Duration::from_secs(2);
/// How much longer each pause is than the one before it.
const LONGER: u32 = 4;
/// Most taps in one look: many pods must not make idling costly.
const AT_ONCE: usize = 32;
/// Most taps in one look to enter the network namespaces of, in case that a move was not heard of.
const THOROUGH_AT_ONCE: usize = 2;
/// In one look of so many.
const THOROUGH_LOOKS: u32 = 30;

/// Of so many pods that our classifiers see no packets of, each look asks the kernel. Where there are more, each of them
/// waits its turn, but no longer than so many looks.
const SILENT_AT_ONCE: usize = 2;
const SILENT_LOOKS: usize = 20;

/// What is asked about taps, by their pcapng interface ids. One that is not there is neither alive nor whole.
pub trait Watched {
    /// All that are attached.
    fn ids(&self) -> impl ExactSizeIterator<Item = u32>;
    /// Nanoseconds since the epoch, by the clock of the packets.
    fn now(&self) -> Result<u64>;
    /// What our classifiers have counted.
    fn counters(&self, id: u32) -> Result<Counters>;
    /// Whether its interface is there.
    fn is_alive(&self, id: u32) -> bool;
    /// Whether its classifiers are where they were attached.
    fn is_whole(&mut self, id: u32) -> bool;
    /// Whether its classifiers are tied to its interface, which cannot be another by now.
    fn is_bound(&self, id: u32) -> bool;
    /// Whether its interface is in another network namespace by now, where that can be told.
    fn has_moved(&self, id: u32) -> bool;
    /// The same of one that was heard to have left its own.
    fn has_left(&self, id: u32) -> bool;
    /// Whether nothing tells where its interface is.
    fn is_out_of_sight(&self, id: u32) -> bool;
    /// Whether packets into a pod may be handed past it unseen.
    fn may_turn_blind(&self, id: u32) -> bool;
    /// Packets that the pod's interface has received beyond those that the host end has sent; none where the pod is not
    /// known.
    fn excess(&self, id: u32) -> Result<Option<u64>>;
    /// Whether others' programs are at the host end.
    fn has_foreign_programs(&self, id: u32) -> bool;
}

/// What is wrong with a tap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finding {
    /// Its interface is gone.
    Gone,
    /// Its interface is another's by now.
    Moved,
    /// Somebody has taken classifiers of it away.
    Detached,
    /// It misses packets into the pod.
    Blind {
        blind: Blind,
        /// When it was last seen to miss none, by the clock of the packets.
        fine: u64,
    },
}

/// How a host end came to miss packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blind {
    /// So many came past it.
    Missed(u64),
    /// Somebody's BPF program came to it, which may hand packets past it.
    Program,
}

impl fmt::Display for Blind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missed(packets) => write!(f, "{packets} packet(s) came past it unseen"),
            Self::Program => f.write_str("a BPF program came there that may hand packets past it unseen"),
        }
    }
}

/// What is known from the last looks.
pub struct Watch {
    pause: Duration,
    longest: Duration,
    next: Instant,
    /// Where in the list of taps to go on.
    position: usize,
    /// The same for what takes longer to find out.
    thorough_position: usize,
    /// How many looks there were.
    looks: u32,
    /// Host ends that may be passed by, by pcapng interface id.
    suspects: HashMap<u32, Suspect>,
    /// Taps from this id on are new here.
    next_id: u32,
}

/// A host end, and what was known of it when the capture began.
struct Suspect {
    /// Packets that the pod had received beyond what the host end had sent; unknown where the pod is.
    excess: Option<u64>,
    /// When it was last seen that no more came past it, by the clock of the packets.
    fine: u64,
    /// What our classifiers had counted at the last look.
    seen: Counters,
    /// Looks since then in which they counted nothing.
    silent: usize,
}

/// What to ask the kernel about a host end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Due {
    Nothing,
    /// What both ends of the pair have counted.
    Counts,
    /// That, and what programs there are, which takes longest.
    All,
}

impl Watch {
    /// Looks at the taps again and again, at the `longest` after so long.
    pub fn new(taps: &impl Watched, longest: Duration) -> Self {
        let next = Instant::now() + FIRST_PAUSE;
        let mut watch = Self {
            pause: FIRST_PAUSE,
            longest,
            next,
            position: 0,
            thorough_position: 0,
            looks: 0,
            suspects: HashMap::new(),
            next_id: 0,
        };
        watch.meet(taps);
        watch
    }

    /// Watches the taps that are new too, or have a new id; those at a host's end may miss packets.
    pub fn meet(&mut self, taps: &impl Watched) {
        self.suspects.retain(|id, _| taps.ids().any(|there| there == *id));
        let before = self.suspects.len();
        let new: Vec<u32> = taps.ids().filter(|id| *id >= self.next_id).collect();
        let suspects = new.iter().filter(|id| taps.may_turn_blind(**id));
        self.suspects.extend(suspects.filter_map(|id| Some((*id, Suspect::new(taps, *id).ok()?))));
        self.next_id = new.iter().max().map_or(self.next_id, |last| last + 1);
        if self.suspects.len() > before {
            self.pause = FIRST_PAUSE;
            self.next = Instant::now() + FIRST_PAUSE;
        }
    }

    /// Returns when it is time to look.
    pub async fn tick(&self) {
        time::sleep_until(self.next).await;
    }

    /// Looks at some of the taps. `is_heard_of` tells whether interfaces that leave their namespaces are.
    pub fn look(&mut self, taps: &mut impl Watched, is_heard_of: bool) -> Vec<(u32, Finding)> {
        let mut found = Vec::new();
        let is_thorough = self.looks.is_multiple_of(THOROUGH_LOOKS) || !is_heard_of;
        self.looks = self.looks.wrapping_add(1);
        let count = if is_thorough { THOROUGH_AT_ONCE } else { 0 };
        let thorough = turn(taps, &mut self.thorough_position, count);
        for id in turn(taps, &mut self.position, AT_ONCE) {
            self.look_at(taps, id, &mut found);
        }
        found.extend(thorough.into_iter().filter_map(|id| moved(taps, id, is_heard_of)));
        self.pause = self.longest.min(self.pause * LONGER);
        self.next = Instant::now() + self.pause;
        found
    }

    /// Looks at taps in whose place something may be that was not there before.
    pub fn look_closely(
        &mut self,
        taps: &mut impl Watched,
        ids: Vec<u32>,
        is_heard_of: bool,
    ) -> Vec<(u32, Finding)> {
        let mut found = Vec::new();
        for id in ids {
            self.look_at(taps, id, &mut found);
            found.extend(moved(taps, id, is_heard_of));
        }
        found
    }

    fn look_at(&mut self, taps: &mut impl Watched, id: u32, found: &mut Vec<(u32, Finding)>) {
        if !taps.is_alive(id) {
            found.push((id, Finding::Gone));
            return;
        }
        if !taps.is_whole(id) {
            found.push((id, Finding::Detached));
        }
        if let Some(blind) = self.blind(taps, id) {
            let fine = self.suspects.remove(&id).map_or(0, |suspect| suspect.fine);
            found.push((id, Finding::Blind { blind, fine }));
        }
    }

    /// Why the host end misses packets, if it does or may do so.
    fn blind(&mut self, taps: &impl Watched, id: u32) -> Option<Blind> {
        let suspects = self.suspects.len();
        let suspect = self.suspects.get_mut(&id)?;
        let due = match suspect.due(taps.counters(id).ok()?, suspects) {
            _ if self.pause < LAST_PAUSE => Due::All,
            Due::Nothing => return None,
            due => due,
        };
        // Before the counts are asked for: what they do not show yet comes later.
        let now = taps.now().ok()?;
        let missed = match (suspect.excess, taps.excess(id)) {
            (None, _) => 0,
            (Some(before), Ok(Some(excess))) => excess.saturating_sub(before),
            // Not to be asked again and again: the kernel's answer can take its time-out.
            (Some(_), Ok(None) | Err(_)) => {
                self.suspects.remove(&id);
                return None;
            }
        };
        let blind = match missed {
            0 if due == Due::Counts => None,
            0 => taps.has_foreign_programs(id).then_some(Blind::Program),
            missed => Some(Blind::Missed(missed)),
        };
        if blind.is_none() && due == Due::All {
            suspect.fine = now;
        }
        blind
    }
}

/// What became of taps of whose interfaces it was heard that they are where they were no more.
pub fn left(taps: &impl Watched, ids: Vec<u32>) -> Vec<(u32, Finding)> {
    let found = |id: u32| {
        if !taps.is_bound(id) {
            // One that has its place by now, by the same index, is another.
            return Some((id, Finding::Gone));
        }
        // In this order: an interface that is deleted meanwhile has not moved.
        (taps.has_left(id) && taps.is_alive(id)).then_some((id, Finding::Moved))
    };
    ids.into_iter().filter_map(found).collect()
}

/// Whether a tap's interface has moved to another namespace. One that is out of sight stays if its leaving would be heard
/// of; otherwise it may be another's by now.
fn moved(taps: &impl Watched, id: u32, is_heard_of: bool) -> Option<(u32, Finding)> {
    if !is_heard_of && taps.is_out_of_sight(id) {
        return Some((id, Finding::Gone));
    }
    (taps.has_moved(id) && taps.is_alive(id)).then_some((id, Finding::Moved))
}

/// The taps to look at now: so many from `position` on, which moves on behind them.
fn turn(taps: &impl Watched, position: &mut usize, count: usize) -> Vec<u32> {
    let start = if *position < taps.ids().len() { *position } else { 0 };
    *position = start + count;
    taps.ids().skip(start).take(count).collect()
}

impl Suspect {
    fn new(taps: &impl Watched, id: u32) -> Result<Self> {
        Ok(Self { fine: taps.now()?, excess: taps.excess(id)?, seen: Counters::default(), silent: 0 })
    }

    /// What is worth asking the kernel, which costs far more than reading our own counters.
    ///
    /// A pod that is silent among `suspects` is asked for in its turn: nothing passes its host end, or all that it
    /// receives comes past it. So is a host end whose pod is not known, since its counts tell nothing.
    fn due(&mut self, seen: Counters, suspects: usize) -> Due {
        if self.excess.is_some() && seen != self.seen {
            (self.seen, self.silent) = (seen, 0);
            return Due::All;
        }
        self.silent += 1;
        let turns = suspects.div_ceil(SILENT_AT_ONCE).min(SILENT_LOOKS);
        let is_its_turn = self.silent.is_multiple_of(turns.max(1));
        if self.silent.is_multiple_of(SILENT_LOOKS) || (is_its_turn && self.excess.is_none()) {
            Due::All
        } else if is_its_turn {
            Due::Counts
        } else {
            Due::Nothing
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A tap as a test sets it up; attached, at a host's end whose pod is known, and nothing wrong.
    #[derive(Clone, Copy)]
    struct Fake {
        id: u32,
        is_alive: bool,
        is_whole: bool,
        is_bound: bool,
        has_moved: bool,
        is_out_of_sight: bool,
        matched: u64,
        /// Unknown where the kernel does not tell.
        excess: Option<u64>,
        has_foreign_programs: bool,
    }

    const FINE: Fake = Fake {
        id: 0,
        is_alive: true,
        is_whole: true,
        is_bound: true,
        has_moved: false,
        is_out_of_sight: false,
        matched: 0,
        excess: Some(3),
        has_foreign_programs: false,
    };

    struct Fakes {
        now: u64,
        taps: Vec<Fake>,
    }

    impl Fakes {
        fn of(taps: &[Fake]) -> Self {
            let taps = (0..).zip(taps).map(|(id, tap)| Fake { id, ..*tap }).collect();
            Self { now: 100, taps }
        }

        fn get(&self, id: u32) -> Option<&Fake> {
            self.taps.iter().find(|tap| tap.id == id)
        }
    }

    impl Watched for Fakes {
        fn ids(&self) -> impl ExactSizeIterator<Item = u32> {
            self.taps.iter().map(|tap| tap.id)
        }

        fn now(&self) -> Result<u64> {
            Ok(self.now)
        }

        fn counters(&self, id: u32) -> Result<Counters> {
            let matched = self.get(id).map_or(0, |tap| tap.matched);
            Ok(Counters { matched, ..Counters::default() })
        }

        fn is_alive(&self, id: u32) -> bool {
            self.get(id).is_some_and(|tap| tap.is_alive)
        }

        fn is_whole(&mut self, id: u32) -> bool {
            self.get(id).is_some_and(|tap| tap.is_whole)
        }

        fn is_bound(&self, id: u32) -> bool {
            self.get(id).is_some_and(|tap| tap.is_bound)
        }

        fn has_moved(&self, id: u32) -> bool {
            self.get(id).is_some_and(|tap| tap.has_moved)
        }

        fn has_left(&self, id: u32) -> bool {
            self.has_moved(id)
        }

        fn is_out_of_sight(&self, id: u32) -> bool {
            self.get(id).is_some_and(|tap| tap.is_out_of_sight)
        }

        fn may_turn_blind(&self, _: u32) -> bool {
            true
        }

        fn excess(&self, id: u32) -> Result<Option<u64>> {
            let excess = self.get(id).and_then(|tap| tap.excess);
            excess.map(Some).ok_or_else(|| anyhow::anyhow!("the kernel does not answer"))
        }

        fn has_foreign_programs(&self, id: u32) -> bool {
            self.get(id).is_some_and(|tap| tap.has_foreign_programs)
        }
    }

    /// What the first look finds, where moves are heard of and where they are not.
    fn first_look(tap: Fake) -> [Vec<Finding>; 2] {
        [true, false].map(|is_heard_of| {
            let mut taps = Fakes::of(&[tap]);
            let found = Watch::new(&taps, LAST_PAUSE).look(&mut taps, is_heard_of);
            found.into_iter().map(|(_, finding)| finding).collect()
        })
    }

    #[test]
    fn nothing_is_found_where_nothing_is_wrong() {
        assert_eq!(first_look(FINE), [vec![], vec![]]);
    }

    #[test]
    fn an_interface_that_is_gone_has_not_moved() {
        let gone = Fake { is_alive: false, has_moved: true, is_whole: false, ..FINE };
        assert_eq!(first_look(gone), [vec![Finding::Gone], vec![Finding::Gone]]);
        let moved = Fake { has_moved: true, ..FINE };
        assert_eq!(first_look(moved), [vec![Finding::Moved], vec![Finding::Moved]]);
    }

    #[test]
    fn an_interface_out_of_sight_is_given_up_where_its_leaving_would_not_be_heard_of() {
        let out_of_sight = Fake { is_out_of_sight: true, ..FINE };
        assert_eq!(first_look(out_of_sight), [vec![], vec![Finding::Gone]]);
    }

    #[test]
    fn classifiers_that_are_gone_do_not_hide_what_else_is_wrong() {
        let mut taps = Fakes::of(&[Fake { is_whole: false, ..FINE }]);
        let mut watch = Watch::new(&taps, LAST_PAUSE);
        taps.taps[0].excess = Some(8);
        let blind = Finding::Blind { blind: Blind::Missed(5), fine: 100 };
        assert_eq!(watch.look(&mut taps, true), [(0, Finding::Detached), (0, blind)]);
    }

    #[test]
    fn what_was_heard_to_have_left_has_moved_or_is_gone() {
        let moved = Fake { has_moved: true, ..FINE };
        let replaced = Fake { is_bound: false, ..FINE };
        let taps = Fakes::of(&[moved, replaced, FINE, Fake { is_alive: false, ..moved }]);
        assert_eq!(left(&taps, vec![0, 1, 2, 3]), [(0, Finding::Moved), (1, Finding::Gone)]);
    }

    #[test]
    fn a_host_end_is_found_blind_once_and_since_it_was_last_fine() {
        let mut taps = Fakes::of(&[FINE]);
        let mut watch = Watch::new(&taps, LAST_PAUSE);
        taps.now = 200;
        assert_eq!(watch.look(&mut taps, true), []);
        (taps.now, taps.taps[0].excess) = (300, Some(5));
        let blind = Finding::Blind { blind: Blind::Missed(2), fine: 200 };
        assert_eq!(watch.look(&mut taps, true), [(0, blind)]);
        taps.taps[0].excess = Some(9);
        assert_eq!(watch.look(&mut taps, true), []);
    }

    #[test]
    fn a_program_at_a_host_end_is_reason_enough() {
        let mut taps = Fakes::of(&[FINE]);
        let mut watch = Watch::new(&taps, LAST_PAUSE);
        taps.taps[0].has_foreign_programs = true;
        let blind = Finding::Blind { blind: Blind::Program, fine: 100 };
        assert_eq!(watch.look(&mut taps, true), [(0, blind)]);
    }

    #[test]
    fn a_host_end_that_the_kernel_does_not_tell_of_is_not_asked_for_again() {
        let mut taps = Fakes::of(&[FINE]);
        let mut watch = Watch::new(&taps, LAST_PAUSE);
        taps.taps[0].excess = None;
        assert_eq!(watch.look(&mut taps, true), []);
        taps.taps[0].excess = Some(8);
        assert_eq!(watch.look(&mut taps, true), []);
    }

    #[test]
    fn each_look_has_so_many_taps_and_all_have_their_turn() {
        let gone = Fake { is_alive: false, ..FINE };
        let mut taps = Fakes::of(&[gone; AT_ONCE + 1]);
        let mut watch = Watch::new(&taps, LAST_PAUSE);
        let ids = |found: Vec<(u32, Finding)>| found.into_iter().map(|(id, _)| id).collect::<Vec<_>>();
        let at_once = AT_ONCE as u32;
        assert_eq!(ids(watch.look(&mut taps, true)), (0..at_once).collect::<Vec<_>>());
        assert_eq!(ids(watch.look(&mut taps, true)), [at_once]);
        assert_eq!(ids(watch.look(&mut taps, true))[..2], [0, 1]);
    }

    #[test]
    fn a_tap_that_is_new_is_looked_at_soon() {
        let mut taps = Fakes::of(&[FINE]);
        let mut watch = Watch::new(&taps, LAST_PAUSE);
        (0..9).for_each(|_| drop(watch.look(&mut taps, true)));
        assert_eq!(watch.pause, LAST_PAUSE);
        watch.meet(&taps);
        assert_eq!(watch.pause, LAST_PAUSE, "none is new");
        taps.taps.push(Fake { id: 1, ..FINE });
        watch.meet(&taps);
        assert_eq!(watch.pause, FIRST_PAUSE);
    }

    /// What is asked of a pod in the next looks that stays silent among so many.
    fn due(suspects: usize) -> Vec<Due> {
        let seen = Counters::default();
        let mut suspect = Suspect { excess: Some(0), fine: 0, seen, silent: 0 };
        (0..40).map(|_| suspect.due(seen, suspects)).collect()
    }

    #[test]
    fn a_silent_pod_is_asked_for_as_often_as_any_where_there_are_few() {
        for suspects in [1, 2] {
            let due = due(suspects);
            assert!(!due.contains(&Due::Nothing), "{due:?}");
            assert_eq!(due.iter().filter(|&&it| it == Due::All).count(), 2);
        }
        assert_eq!(due(5)[..6], [Due::Nothing, Due::Nothing, Due::Counts].repeat(2));
        assert_eq!(due(1000)[..20], [[Due::Nothing; 19].as_slice(), &[Due::All]].concat());
    }

    #[test]
    fn a_pod_with_packets_is_always_due() {
        let mut suspect = Suspect { excess: Some(0), fine: 0, seen: Counters::default(), silent: 0 };
        for matched in 1..10 {
            assert_eq!(suspect.due(Counters { matched, ..Counters::default() }, 1000), Due::All);
        }
    }
}
