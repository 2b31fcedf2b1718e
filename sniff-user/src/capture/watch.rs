//! Looking after a running capture: interfaces that went away, and packets that pass beside the host's end.
//!
//! `bpf_redirect_peer` hands a packet from another device straight to the pod's interface; the host end of the veth
//! pair never sends it. The kernel's own counters tell: the pod's interface then has received more packets than the
//! host end has sent (`veth_get_stats64`, drivers/net/veth.c, counts what came through the pair on both ends at once).
//! Older kernels (5.10 for one) do not count such packets at all (`skb_do_redirect`, net/core/filter.c). So a program that
//! comes to the host end is reason enough, as it is when a capture starts.

use std::{
    collections::{HashMap, HashSet},
    fmt,
    time::Duration,
};

use anyhow::Result;
use log::{info, warn};
use sniff_common::Counters;
use tokio::time::{self, Instant};

use crate::{
    bpf::attach::{self, Hook},
    capture::{Session, tap::Tap},
    net::{
        link::{self, monitor::Left},
        netns::Netns,
    },
    targets::{Interface, Side},
};

/// Time between two looks at first, so that a blind host end is found early.
const FIRST_PAUSE: Duration = Duration::from_millis(20);
/// Time between two looks later.
const LAST_PAUSE: Duration = Duration::from_secs(1);
/// How much longer each pause is than the one before it.
const LONGER: u32 = 4;
/// Most taps in one look: many pods must not make idling costly.
const AT_ONCE: usize = 32;
/// Most taps in one look to enter the network namespaces of, in case that a move was not heard of.
const THOROUGH_AT_ONCE: usize = 2;
/// In one look of so many.
const THOROUGH_LOOKS: u32 = 30;

/// Why an interface that is there is not captured any more.
const MOVED: &str = "the interface was moved to another network namespace: what passes it is another's";

/// Of so many pods that our classifiers see no packets of, each look asks the kernel. Where there are more, each of them
/// waits its turn, but no longer than so many looks.
const SILENT_AT_ONCE: usize = 2;
const SILENT_LOOKS: usize = 20;

/// What is known from the last looks.
pub struct Watch {
    pause: Duration,
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

/// How a host end came to miss packets.
enum Blind {
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

impl Suspect {
    fn new(session: &Session, tap: &Tap) -> Option<Self> {
        let fine = session.now().ok()?;
        let excess = match &tap.interface.pod_side {
            Some(_) => Some(excess(tap)?),
            None => None,
        };
        Some(Self { excess, fine, seen: Counters::default(), silent: 0 })
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
    /// Starts watching the session's taps.
    pub fn new(session: &Session) -> Self {
        let next = Instant::now() + FIRST_PAUSE;
        let mut watch = Self {
            pause: FIRST_PAUSE,
            next,
            position: 0,
            thorough_position: 0,
            looks: 0,
            suspects: HashMap::new(),
            next_id: 0,
        };
        watch.meet(session);
        watch
    }

    /// Watches the taps that are new too, or have a new id; those at a host's end may miss packets.
    pub fn meet(&mut self, session: &Session) {
        let taps = session.taps().iter().filter(|tap| tap.id >= self.next_id);
        self.suspects.retain(|id, _| session.taps().iter().any(|tap| tap.id == *id));
        let before = self.suspects.len();
        let suspects = taps.clone().filter(|tap| tap.may_turn_blind());
        self.suspects.extend(suspects.filter_map(|tap| Some((tap.id, Suspect::new(session, tap)?))));
        self.next_id = taps.map(|tap| tap.id + 1).max().unwrap_or(self.next_id);
        if self.suspects.len() > before {
            self.pause = FIRST_PAUSE;
            self.next = Instant::now() + FIRST_PAUSE;
        }
    }

    /// Returns when it is time to look.
    pub async fn tick(&self) {
        time::sleep_until(self.next).await;
    }

    /// Looks at some of the taps: takes leave of those whose interface is gone or another's, which it returns, and helps
    /// those that miss packets.
    ///
    /// # Errors
    ///
    /// When the clock fails.
    pub fn look(&mut self, session: &mut Session) -> Result<Vec<Interface>> {
        let mut lost = Vec::new();
        let is_thorough = self.looks.is_multiple_of(THOROUGH_LOOKS) || !session.hears_of_moves();
        self.looks = self.looks.wrapping_add(1);
        let count = if is_thorough { THOROUGH_AT_ONCE } else { 0 };
        let thorough = turn(session, &mut self.thorough_position, count);
        for id in turn(session, &mut self.position, AT_ONCE) {
            lost.extend(self.look_at(session, id)?);
        }
        for id in thorough {
            lost.extend(leave_moved(session, id, session.hears_of_moves())?);
        }
        self.pause = LAST_PAUSE.min(self.pause * LONGER);
        self.next = Instant::now() + self.pause;
        Ok(lost)
    }

    /// The same for the taps of interfaces of which it was heard that they are where they were no more.
    ///
    /// # Errors
    ///
    /// When the clock fails.
    pub fn look_for(&mut self, session: &mut Session, left: &HashSet<Left>) -> Result<Vec<Interface>> {
        let has_left = |tap: &&Tap| {
            let Side { netns, ifindex, .. } = tap.captured();
            left.contains(&Left { netns: netns.id(), ifindex: *ifindex })
        };
        let ids: Vec<u32> = session.taps().iter().filter(has_left).map(|tap| tap.id).collect();
        let mut lost = Vec::new();
        for id in ids {
            // One that has its place by now, by the same index, is another.
            lost.extend(match session.tap(id).is_some_and(Tap::is_bound) {
                true => leave_if(session, id, Tap::has_left)?,
                false => say_goodbye(session, id)?,
            });
        }
        Ok(lost)
    }

    /// The same for all, after news of some that left was missed.
    ///
    /// # Errors
    ///
    /// When the clock fails.
    pub fn look_at_all(&mut self, session: &mut Session) -> Result<Vec<Interface>> {
        self.look_closely(session, |_| true, false)
    }

    /// The same for those in a namespace that was found to have these interfaces: one may have left before it was listened
    /// to.
    ///
    /// # Errors
    ///
    /// When the clock fails.
    pub fn look_beside(
        &mut self,
        session: &mut Session,
        netns: &Netns,
        found: &[Interface],
    ) -> Result<Vec<Interface>> {
        let is_there = |tap: &Tap| found.iter().any(|it| it.shares_an_end(&tap.interface));
        self.look_closely(session, |tap| tap.captured().netns == *netns && !is_there(tap), true)
    }

    fn look_closely(
        &mut self,
        session: &mut Session,
        at: impl Fn(&Tap) -> bool,
        are_heard_of: bool,
    ) -> Result<Vec<Interface>> {
        let ids: Vec<u32> = session.taps().iter().filter(|tap| at(tap)).map(|tap| tap.id).collect();
        let mut lost = Vec::new();
        for id in ids {
            lost.extend(self.look_at(session, id)?);
            lost.extend(leave_moved(session, id, are_heard_of)?);
        }
        Ok(lost)
    }

    fn look_at(&mut self, session: &mut Session, id: u32) -> Result<Option<Interface>> {
        let Some(tap) = session.tap(id) else { return Ok(None) };
        if !tap.is_alive() {
            return say_goodbye(session, id);
        }
        if let Err(error) = session.repair(id) {
            // It may have gone in between.
            let Some(tap) = session.tap(id).filter(|tap| tap.is_alive()) else {
                return say_goodbye(session, id);
            };
            let interface = tap.interface.clone();
            warn!("{}: cannot be captured any more: {error:#}", interface.name);
            session.give_up(id, &error)?;
            return Ok(Some(interface));
        }
        let Some(tap) = session.tap(id) else { return Ok(None) };
        if let Some(blind) = self.blind(session, tap) {
            let fine = self.suspects.remove(&id).map_or(0, |suspect| suspect.fine);
            if session.tap(id).is_some_and(|tap| session.may_go_inside(tap)) {
                go_inside(session, id, &blind, fine);
            } else {
                warn_of(session, id, &blind, fine);
            }
        }
        Ok(None)
    }

    /// Why the host end misses packets, if it does or may do so.
    fn blind(&mut self, session: &Session, tap: &Tap) -> Option<Blind> {
        let suspects = self.suspects.len();
        let suspect = self.suspects.get_mut(&tap.id)?;
        let due = match suspect.due(session.counters(tap.id).ok()?, suspects) {
            _ if self.pause < LAST_PAUSE => Due::All,
            Due::Nothing => return None,
            due => due,
        };
        // Before the counts are asked for: what they do not show yet comes later.
        let now = session.now().ok()?;
        let missed = match (suspect.excess, excess(tap)) {
            (None, _) => 0,
            (Some(before), Some(excess)) => excess.saturating_sub(before),
            // Not to be asked again and again: the kernel's answer can take its time-out.
            (Some(_), None) => {
                self.suspects.remove(&tap.id);
                return None;
            }
        };
        let blind = match missed {
            0 if due == Due::Counts => None,
            0 => attach::has_foreign_programs(&tap.side, &Hook::BOTH)
                .is_ok_and(|has| has)
                .then_some(Blind::Program),
            missed => Some(Blind::Missed(missed)),
        };
        if blind.is_none() && due == Due::All {
            suspect.fine = now;
        }
        blind
    }
}

/// Ends the capture of a tap whose interface has moved to another namespace, and returns the interface.
fn leave_if(session: &mut Session, id: u32, has_moved: fn(&Tap) -> bool) -> Result<Option<Interface>> {
    // In this order: an interface that is deleted meanwhile has not moved.
    let Some(tap) = session.tap(id).filter(|tap| has_moved(tap) && tap.is_alive()) else { return Ok(None) };
    warn!("{}: {MOVED}; it is not captured any more", tap.interface.name);
    session.note(id, format!("ended early: {MOVED}"));
    leave(session, id)
}

/// The same where nothing was heard of it. One that is out of sight stays if its leaving would be heard of; otherwise
/// it may be another's by now.
fn leave_moved(session: &mut Session, id: u32, is_heard_of: bool) -> Result<Option<Interface>> {
    match session.tap(id).is_some_and(|tap| !is_heard_of && tap.is_out_of_sight()) {
        true => say_goodbye(session, id),
        false => leave_if(session, id, Tap::has_moved),
    }
}

/// Ends the capture of a tap whose interface is gone, and returns the interface.
fn say_goodbye(session: &mut Session, id: u32) -> Result<Option<Interface>> {
    if let Some(tap) = session.tap(id) {
        info!("{}: the interface is gone", tap.interface.name);
    }
    leave(session, id)
}

fn leave(session: &mut Session, id: u32) -> Result<Option<Interface>> {
    let interface = session.tap(id).map(|tap| tap.interface.clone());
    session.leave(id)?;
    Ok(interface)
}

/// The ids of the taps to look at now: so many from `position` on, which moves on behind them.
fn turn(session: &Session, position: &mut usize, count: usize) -> Vec<u32> {
    let taps = session.taps();
    let start = if *position < taps.len() { *position } else { 0 };
    *position = start + count;
    taps.iter().skip(start).take(count).map(|tap| tap.id).collect()
}

/// Packets that the pod's interface has received beyond those that the host end has sent.
fn excess(tap: &Tap) -> Option<u64> {
    let pod = tap.interface.pod_side.as_ref()?;
    let host = tap.interface.host_side.as_ref()?;
    // In this order, packets on their way make the difference smaller, never larger.
    let (received, _) = link::packet_counts(&pod.netns, pod.ifindex).ok()??;
    let (_, sent) = link::packet_counts(&host.netns, host.ifindex).ok()??;
    Some(received.saturating_sub(sent))
}

/// Says that a host's end that was asked for misses packets, once. `fine` is when nothing had come past it yet.
fn warn_of(session: &mut Session, id: u32, blind: &Blind, fine: u64) {
    let Some(Tap { interface, side, .. }) = session.tap(id) else { return };
    let way_out = match &interface.pod_side {
        Some(_) => "--attach pod captures them",
        None => "they are in a capture of the pod",
    };
    let told = format!("{blind}; packets into the pod may be missing since {}", sniff_pcapng::time(fine));
    warn!(
        "{}: capturing at {side} is not enough: {told}, as with a CNI that uses bpf_redirect_peer; {way_out}",
        interface.name
    );
    session.note_passed(id, told);
}

/// `fine` is when nothing had come past the host's end yet.
fn go_inside(session: &mut Session, id: u32, blind: &Blind, fine: u64) {
    let Some(Tap { interface, .. }) = session.tap(id) else { return };
    let name = interface.name.clone();
    let host = interface.host_side.as_ref().map_or_else(String::new, ToString::to_string);
    let missing = format!("packets into the pod may be missing since {}", sniff_pcapng::time(fine));
    warn!(
        "{name}: capturing at {host} was not enough: {blind}, as with a CNI that uses bpf_redirect_peer; {missing}; from \
         now on, what goes into the pod is captured inside it"
    );
    let comment =
        format!("what goes into the pod, no longer captured at {host}: {blind}; {missing}, until here");
    session.note(id, format!("{blind}; {missing}"));
    if let Err(error) = session.go_inside(id, comment) {
        warn!("{name}: cannot capture inside the pod: {error:#}; packets into it are missing");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
