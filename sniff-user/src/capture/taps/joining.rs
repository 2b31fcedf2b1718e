//! Interfaces that join: those of the start, those that somebody names later, and those that come.

use anyhow::{Result, ensure};
use log::{info, warn};

use super::{MOST, Parted, Taps, preparing::prepare};
use crate::{
    capture::tap::Tap,
    targets::{Interface, PodRef, Scope, Unfit},
};

impl Taps {
    /// Attaches what a capture begins with, or as many of it as it can until `is_over`. Returns why others are not
    /// attached.
    ///
    /// # Errors
    ///
    /// When the output has ended, the clock fails, or no classifier can be loaded.
    pub fn begin(
        &mut self,
        taps: Vec<Tap>,
        is_over: impl Fn() -> bool + Copy + Sync + Send,
    ) -> Result<Vec<anyhow::Error>> {
        for tap in &taps {
            self.describe(tap, None)?;
        }
        let mut refused = Vec::new();
        for (id, error) in self.attach_until(taps, is_over)? {
            self.note(id, format!("not captured: {error:#}"));
            self.leave(id)?;
            refused.push(error);
        }
        Ok(refused)
    }

    /// Captures more interfaces, all that are not captured already: or none when something is wrong.
    ///
    /// # Errors
    ///
    /// When one cannot be attached to, or there are too many.
    pub fn join(&mut self, interfaces: Vec<Interface>, comment: Option<&str>) -> Result<()> {
        let captures = |interface: &Interface| self.captures(interface);
        let interfaces: Vec<_> = interfaces.into_iter().filter(|interface| !captures(interface)).collect();
        let first = self.spans.len() as u32;
        ensure_room(self.attached.len(), self.spans.len(), interfaces.len(), self.room)?;
        let (taps, refused) = prepare(self.general.as_deref(), &self.plan, first, interfaces)?;
        if let Some(error) = refused.into_iter().next() {
            return Err(error);
        }
        for tap in &taps {
            self.describe(tap, comment.map(str::to_owned))?;
        }
        let joined = self.attach(taps);
        if joined.is_err() {
            for id in first..self.spans.len() as u32 {
                self.leave(id)?;
            }
        }
        joined
    }

    /// Captures those of these interfaces of a scope that have come since it was looked at last, and returns them.
    pub fn welcome(&mut self, scope: &Scope, interfaces: Vec<Interface>) -> Vec<Interface> {
        let mut joined = Vec::new();
        for interface in interfaces {
            let is_known = self.captures(&interface) || self.refused.contains(&interface);
            // One that is seen may be on its way out.
            if is_known || !interface.is_there() {
                continue;
            }
            let name = interface.name.clone();
            match self.join_late(scope, &interface) {
                Ok(earlier) => {
                    info!("{name}: has come, and is captured too{earlier}");
                    joined.push(interface);
                }
                Err(error) => {
                    warn!("{name}: has come, and is not captured: {error:#}");
                    self.refused.retain(Interface::is_there);
                    self.refused.push(interface);
                }
            }
        }
        joined
    }

    /// Captures an interface that has come to a scope; returns what of its pod's name was captured earlier, in words.
    fn join_late(&mut self, scope: &Scope, interface: &Interface) -> Result<String> {
        let now = self.clock.now()?;
        let earlier = interface.pod.as_ref().map_or_else(String::new, |pod| self.earlier(pod, now));
        self.join(vec![interface.clone()], Some(&format!("{}{earlier}", came(scope, now))))?;
        Ok(earlier)
    }

    /// Behind what is told of a pod that has come: in whose place it is, if it was created again.
    fn earlier(&self, pod: &PodRef, now: u64) -> String {
        let is_other = |it: &&PodRef| it.is_called_as(pod) && it.uid != pod.uid;
        let mut there = self.attached.iter().filter_map(|tap| tap.interface.pod.as_ref());
        if let Some(other) = there.find(is_other) {
            return format!("; {pod} was created again: the one with the UID {} is still there", other.uid);
        }
        let name = (pod.namespace.clone(), pod.name.clone());
        match self.parted.get(&name).filter(|parted| parted.uid != pod.uid) {
            Some(Parted { uid, at }) => format!(
                "; {pod} was created again: the one with the UID {uid} was captured until {}, {} ms before",
                sniff_pcapng::time(*at),
                now.saturating_sub(*at) / 1_000_000
            ),
            None => String::new(),
        }
    }

    /// Says of interfaces of a scope that they cannot be captured, once of each.
    ///
    /// # Errors
    ///
    /// When the clock fails.
    pub fn pass_over(&mut self, scope: &Scope, unfit: Vec<Unfit>) -> Result<()> {
        for Unfit { name, link_type } in unfit {
            if !self.unfit.insert(name.clone()) {
                continue;
            }
            warn!("{name}: has come, and is not captured: it has {link_type}, which sniff cannot capture");
            let beside = self.attached.iter().find(|tap| tap.captured().netns == *scope.netns());
            if let Some(id) = beside.map(|tap| tap.id) {
                let since = sniff_pcapng::time(self.clock.now()?);
                self.note(id, format!("not captured beside it since {since}: {name} ({link_type})"));
            }
        }
        Ok(())
    }

    /// Whether an interface is captured, by whichever end.
    fn captures(&self, interface: &Interface) -> bool {
        self.attached.iter().any(|tap| tap.interface.shares_an_end(interface) && tap.is_alive())
    }
}

/// Refuses more interfaces than there is `room` for beside those that are `attached`, or for in the file beside all that it
/// `has`.
fn ensure_room(attached: usize, has: usize, more: usize, room: usize) -> Result<()> {
    ensure!(
        attached + more <= room,
        "this capture has as many interfaces as it has room for ({attached}): start another"
    );
    ensure!(
        has + more <= MOST,
        "this capture has had as many interfaces as it can have, one after the other ({has}): start another"
    );
    Ok(())
}

/// What the file says of an interface that has come to a scope at this time, in nanoseconds since the epoch.
fn came(scope: &Scope, now: u64) -> String {
    let since = sniff_pcapng::time(now);
    let behind = scope
        .age()
        .map_or_else(String::new, |age| format!(", {} ms after the pod's sandbox was made", age.as_millis()));
    format!("joined the running capture at {since}{behind}; its packets before that are not here")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interfaces_have_room_at_a_time_and_one_after_the_other() {
        let refusal = |attached, has, more| ensure_room(attached, has, more, 10).unwrap_err().to_string();
        assert!(ensure_room(8, 8, 2, 10).is_ok() && ensure_room(0, MOST - 2, 2, 10).is_ok());
        assert!(refusal(9, 9, 2).contains("room for (9): start another"));
        assert!(refusal(0, MOST - 1, 2).contains("one after the other (65535): start another"));
    }
}
