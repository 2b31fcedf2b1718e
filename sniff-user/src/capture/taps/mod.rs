//! All that is captured at a time, what was captured before, and who joins and leaves.

mod attaching;
mod blind;
mod filtering;
mod findings;
mod joining;
mod preparing;
mod repair;
mod watched;

use std::{
    collections::{HashMap, HashSet},
    slice,
    time::Duration,
};

use anyhow::Result;
use sniff_common::Counters;
use sniff_pcapng::InterfaceDescription;

pub use self::preparing::prepare;
use crate::{
    bpf::{object::KernelSide, ring, wait_for_running_programs},
    capture::{accounts::Span, plan::Plan, recorder, tap::Tap},
    halves::{Writer, message::Spell},
    system::clock::Clock,
    targets::{Interface, PodRef},
};

/// Most interfaces in the course of a capture: the file tells of each, and their numbers are not used again.
const MOST: usize = 1 << 16;

/// A pod whose interface was left.
struct Parted {
    uid: String,
    /// When that was, in nanoseconds since the epoch, by the clock of the packets.
    at: u64,
}

/// The interfaces of a capture. Dropping it takes all classifiers away.
pub struct Taps {
    plan: Plan,
    /// The filter of every interface without one of its own.
    general: Option<String>,
    pub kernel_side: KernelSide,
    pub clock: Clock,
    /// What writes their packets.
    pub front: Writer,
    /// Most interfaces that may be attached at a time.
    room: usize,
    /// Those that are attached.
    attached: Vec<Tap>,
    /// When each interface in the file was captured, by its id.
    pub spans: Vec<Span>,
    /// Those that are over, and whose counts are still the kernel's.
    unsettled: Vec<u32>,
    /// Pods whose interfaces were left, by what they were called.
    parted: HashMap<(String, String), Parted>,
    /// Those that came and cannot be attached to, which was said.
    refused: Vec<Interface>,
    /// The names of those that cannot be captured, which was said.
    unfit: HashSet<String>,
}

impl Taps {
    /// None yet, of a capture whose output and ring are there.
    pub fn new(
        plan: Plan,
        general: Option<String>,
        room: usize,
        kernel_side: KernelSide,
        clock: Clock,
        front: Writer,
    ) -> Self {
        Self {
            plan,
            general,
            kernel_side,
            clock,
            front,
            room,
            attached: Vec::new(),
            spans: Vec::new(),
            unsettled: Vec::new(),
            parted: HashMap::new(),
            refused: Vec::new(),
            unfit: HashSet::new(),
        }
    }

    /// Whether packets are held until somebody wants them.
    pub fn is_recording(&self) -> bool {
        self.plan.ring == ring::Kind::Recorder
    }

    /// Whether some of that goes to the output.
    pub fn appends_what_is_recorded(&self) -> bool {
        self.is_recording() && self.plan.has_output
    }

    /// Whether nobody has to hear at once of what is counted.
    pub fn may_rest(&self) -> bool {
        self.is_recording() && self.plan.alarm.is_none()
    }

    /// How far back a recording is wished to go, and what it has for that.
    pub fn wished_time(&self) -> Option<(Duration, recorder::Room)> {
        let (bytes, of_flows) = (self.plan.ring_bytes.into(), self.plan.flow_bytes().into());
        let room = recorder::Room { bytes, of_flows };
        self.plan.wished_time.map(|time| (time, room))
    }

    /// When each interface in the file was captured, by its id, and what was counted of it by now.
    ///
    /// # Errors
    ///
    /// When the kernel does not give its counters.
    pub fn spells(&self) -> Result<Vec<Spell>> {
        let spell = |(id, span): (u32, &Span)| {
            let lost = self.kernel_side.counters(id)?.lost();
            Ok(Spell { start: span.start, end: span.end, lost, notes: span.describe_notes() })
        };
        (0..).zip(&self.spans).map(spell).collect()
    }

    /// Those that are attached.
    pub fn iter(&self) -> slice::Iter<'_, Tap> {
        self.attached.iter()
    }

    /// Whether none is attached.
    pub fn is_empty(&self) -> bool {
        self.attached.is_empty()
    }

    /// The tap with this id, while it is attached.
    pub fn get(&self, id: u32) -> Option<&Tap> {
        self.attached.iter().find(|tap| tap.id == id)
    }

    /// The same, to be changed.
    fn get_mut(&mut self, id: u32) -> Option<&mut Tap> {
        self.attached.iter_mut().find(|tap| tap.id == id)
    }

    /// What was counted for all interfaces so far.
    ///
    /// # Errors
    ///
    /// When the kernel does not give its counters.
    pub fn totals(&self) -> Result<Counters> {
        let mut totals = Counters::default();
        for id in 0..self.spans.len() as u32 {
            totals += self.kernel_side.counters(id)?;
        }
        Ok(totals)
    }

    /// Has the statistics of an interface in the file tell something of it.
    pub fn note(&mut self, id: u32, text: String) {
        self.spans[id as usize].notes.push(text);
    }

    /// Ends the capture of one interface; the others go on.
    ///
    /// # Errors
    ///
    /// When the clock fails.
    pub fn leave(&mut self, id: u32) -> Result<()> {
        let now = self.clock.now()?;
        for tap in self.attached.extract_if(.., |tap| tap.id == id) {
            if let Some(PodRef { namespace, name, uid, .. }) = tap.interface.pod {
                self.parted.insert((namespace, name), Parted { uid, at: now });
            }
        }
        self.close(id, now);
        Ok(())
    }

    /// Nothing comes of this interface of the file from now on; its classifiers are detached.
    fn close(&mut self, id: u32, now: u64) {
        self.spans[id as usize].end = Some(now);
        self.unsettled.push(id);
        // A thread that has ended needs to know nothing more.
        let _ = self.front.left(id, now);
    }

    /// Takes the counts of interfaces that are over from the kernel, whose memory they hold: there can be many, one after
    /// the other.
    ///
    /// # Errors
    ///
    /// When the kernel does not give them.
    pub fn settle(&mut self) -> Result<()> {
        if !self.unsettled.is_empty() {
            wait_for_running_programs();
        }
        self.unsettled.drain(..).try_for_each(|id| self.kernel_side.settle(id))
    }

    /// Takes all classifiers away; when this returns, no packet is on its way into the ring any more.
    pub fn detach(mut self) -> Self {
        self.repair_all();
        self.warn_of_programs_ahead();
        self.attached.clear();
        wait_for_running_programs();
        self
    }

    /// Describes an interface in the output, before its packets come.
    fn describe(&mut self, tap: &Tap, comment: Option<String>) -> Result<()> {
        self.unfit.extend(tap.interface.unfit.iter().cloned());
        self.introduce(self.description(tap, comment))
    }

    fn description(&self, tap: &Tap, comment: Option<String>) -> InterfaceDescription {
        let filter = tap.interface.expression(self.general.as_deref());
        let cutoff = self.plan.cutoff.map(|cutoff| cutoff.to_string());
        let comment = comment.into_iter().chain(cutoff).reduce(|one, other| format!("{one}; {other}"));
        tap.describe(&self.plan.system, self.plan.snaplen, filter, comment)
    }

    fn introduce(&mut self, description: InterfaceDescription) -> Result<()> {
        let filtered = description.filter.is_some();
        self.front.add_interface(&description)?;
        self.spans.push(Span {
            start: self.clock.now()?,
            end: None,
            filtered,
            notes: Vec::new(),
            has_gap: false,
        });
        Ok(())
    }
}
