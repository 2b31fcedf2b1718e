//! Attaching the classifiers of taps.

use std::{
    net::IpAddr,
    sync::{Arc, mpsc::sync_channel},
    thread,
};

use anyhow::Result;
use sniff_common::Direction;
use sniff_filter::Filter;

use super::Taps;
use crate::{
    bpf::{
        attach::Attachment,
        checksum::Summed,
        classifier::{self, Arguments, Classifier},
        object::Body,
    },
    capture::{
        plan::Plan,
        tap::{Tap, link_type},
    },
    targets::Interface,
};

/// Interfaces to attach to before looking whether a signal came.
const ATTACH_AT_ONCE: usize = 16;

impl Taps {
    /// Attaches the classifiers of all `taps`.
    pub(super) fn attach(&mut self, taps: Vec<Tap>) -> Result<()> {
        match self.attach_until(taps, || false)?.pop() {
            Some((_, error)) => Err(error),
            None => Ok(()),
        }
    }

    /// Attaches the classifiers of all `taps`, or of as many as it can until `is_over`; returns those that cannot be
    /// attached, by their ids, and why. Attaching is waiting, since the kernel lets a grace period pass each time, one
    /// interface after the other; the next classifiers are loaded meanwhile.
    pub(super) fn attach_until(
        &mut self,
        mut taps: Vec<Tap>,
        is_over: impl Fn() -> bool + Copy + Sync + Send,
    ) -> Result<Vec<(u32, anyhow::Error)>> {
        let (mut groups, mut failed) = (Vec::new(), Vec::new());
        while !taps.is_empty() {
            let group: Vec<Tap> = taps.drain(..taps.len().min(ATTACH_AT_ONCE)).collect();
            groups.push((self.all_arguments(&group), group));
        }
        let (arguments, groups): (Vec<_>, Vec<_>) = groups.into_iter().unzip();
        let body = self.kernel_side.body();
        thread::scope(|scope| {
            let (sender, receiver) = sync_channel(1);
            let load = move || {
                // A receiver that is gone has seen enough.
                arguments.iter().map(|it| load(&body, it, is_over)).all(|loaded| sender.send(loaded).is_ok())
            };
            scope.spawn(load);
            for (group, classifiers) in groups.into_iter().zip(receiver) {
                if is_over() {
                    break;
                }
                failed.extend(self.hook_in(group, classifiers?, is_over));
            }
            Ok(failed)
        })
    }

    /// Attaches classifiers that were loaded, one for each direction of each of `taps`, until `is_over`. Returns those
    /// that cannot be attached.
    fn hook_in(
        &mut self,
        taps: Vec<Tap>,
        classifiers: Vec<Option<Classifier>>,
        is_over: impl Fn() -> bool,
    ) -> Vec<(u32, anyhow::Error)> {
        let mut failed = Vec::new();
        let mut classifiers = classifiers.into_iter();
        for mut tap in taps.into_iter().take_while(|_| !is_over()) {
            let classifiers: Vec<_> = classifiers.by_ref().take(tap.directions.len()).collect();
            let hooks = tap.directions.iter().map(|&(direction, _)| tap.point.hook(direction));
            let classifiers = hooks.zip(classifiers).filter_map(|(hook, it)| Some((hook, it?))).collect();
            match Attachment::new(&tap.side, classifiers, self.plan.mechanism, self.clock) {
                Ok(attachment) => {
                    self.note_start(&tap, &attachment);
                    let since = attachment.since(tap.point.hook(Direction::In));
                    tap.attachment = Some(attachment);
                    tap.announce();
                    self.attached.push(tap);
                    if let Some(since) = since {
                        self.await_packets(self.attached.len() - 1, since);
                    }
                }
                Err(error) => failed.push((tap.id, error.context(tap.interface.name))),
            }
        }
        failed
    }

    /// Has packets awaited `since` then that others send to the tap at this place, if it takes what comes in.
    pub(super) fn await_packets(&self, at: usize, since: u64) {
        let Tap { id, interface, directions, .. } = &self.attached[at];
        let takes = |(direction, filter): &(Direction, Filter)| {
            *direction == Direction::In && *filter != Filter::Nothing
        };
        if tells_ends(&self.plan, interface) && directions.iter().any(takes) {
            let ipv4 = interface.ipv4.iter().map(|&(address, _)| IpAddr::from(address));
            let ipv6 = interface.ipv6.iter().map(|&(address, _)| IpAddr::from(address));
            // A thread that has ended needs to know nothing more.
            let _ = self.front.captured(*id, ipv4.chain(ipv6).collect(), since);
        }
    }

    /// Has the file tell from when on each direction is complete: one is attached after the other.
    fn note_start(&mut self, tap: &Tap, attachment: &Attachment) {
        let since = |direction: Direction| {
            let since = attachment.since(tap.point.hook(direction))?;
            let way = if direction == Direction::In { "in" } else { "out" };
            Some(format!("{way} from {}", sniff_pcapng::time(since)))
        };
        let ways: Vec<_> = tap.directions.iter().filter_map(|&(direction, _)| since(direction)).collect();
        if !ways.is_empty() {
            self.note(tap.id, format!("packets are taken {}", ways.join(", ")));
        }
    }

    /// What the classifiers of all directions of all `taps` are told, in order; none where no packet would match.
    fn all_arguments(&self, taps: &[Tap]) -> Vec<Option<Arguments>> {
        taps.iter().flat_map(|tap| self.arguments(tap, tap.id, &tap.directions)).collect()
    }

    /// What the classifiers of a tap are told that is to have this id and these filters.
    pub(super) fn arguments(
        &self,
        tap: &Tap,
        interface: u32,
        directions: &[(Direction, Filter)],
    ) -> impl Iterator<Item = Option<Arguments>> {
        let demands = &tap.interface.demands;
        let (snaplen, headers) = (demands.snaplen(self.plan.snaplen), demands.headers || self.plan.headers);
        let (packetid, cutoff) = (tells_ends(&self.plan, &tap.interface), self.plan.cutoff);
        let (clock_offset, link_type, home) = (self.clock.offset(), link_type(&tap.interface), tap.home);
        directions.iter().map(move |(direction, filter)| {
            let filter = match filter {
                Filter::Everything => None,
                Filter::Matching(fragment) => Some(Arc::clone(fragment)),
                Filter::Nothing => return None,
            };
            let (direction, hook) = (*direction, tap.point.hook(*direction));
            // It was found out that it compiles when the tap was prepared.
            let alarm = self.plan.alarm_at(&tap.interface, direction).ok().flatten();
            Some(Arguments {
                filter,
                alarm,
                interface,
                direction,
                hook,
                snaplen,
                headers,
                cutoff,
                link_type,
                packetid,
                clock_offset,
                home,
                summed: Summed::known(),
            })
        })
    }
}

/// Whether packets of an interface are looked for at other ends.
fn tells_ends(plan: &Plan, interface: &Interface) -> bool {
    plan.both_ends.is_some() && interface.pod_side.is_some() && !interface.is_loopback
}

/// Loads classifiers, unless it `is_over` meanwhile; none where there are no arguments.
pub(super) fn load(
    body: &Body,
    arguments: &[Option<Arguments>],
    is_over: impl Fn() -> bool + Sync,
) -> Result<Vec<Option<Classifier>>> {
    let given: Vec<Arguments> = arguments.iter().flatten().cloned().collect();
    let mut loaded = classifier::load(body, &given, is_over)?.into_iter();
    Ok(arguments.iter().map(|arguments| arguments.as_ref().and_then(|_| loaded.next())).collect())
}
