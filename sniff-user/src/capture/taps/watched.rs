//! What the watch asks about taps.

use std::collections::HashSet;

use anyhow::{Context as _, Result};
use sniff_common::Counters;

use super::Taps;
use crate::{
    bpf::attach,
    capture::{tap::Tap, watch::Watched},
    net::{
        hook::Hook,
        link::{self, monitor::Left},
        netns::Netns,
        side::Side,
    },
    targets::Interface,
};

impl Watched for Taps {
    fn ids(&self) -> impl ExactSizeIterator<Item = u32> {
        self.attached.iter().map(|tap| tap.id)
    }

    fn now(&self) -> Result<u64> {
        self.clock.now()
    }

    fn counters(&self, id: u32) -> Result<Counters> {
        self.kernel_side.counters(id)
    }

    fn is_alive(&self, id: u32) -> bool {
        self.get(id).is_some_and(Tap::is_alive)
    }

    fn is_whole(&mut self, id: u32) -> bool {
        let attachment = self.get_mut(id).and_then(|tap| tap.attachment.as_mut());
        attachment.is_some_and(|attachment| attachment.is_whole().is_ok_and(|is_whole| is_whole))
    }

    fn is_bound(&self, id: u32) -> bool {
        self.get(id).is_some_and(Tap::is_bound)
    }

    fn has_moved(&self, id: u32) -> bool {
        self.get(id).is_some_and(Tap::has_moved)
    }

    fn has_left(&self, id: u32) -> bool {
        self.get(id).is_some_and(Tap::has_left)
    }

    fn is_out_of_sight(&self, id: u32) -> bool {
        self.get(id).is_some_and(Tap::is_out_of_sight)
    }

    fn may_turn_blind(&self, id: u32) -> bool {
        self.get(id).is_some_and(Tap::may_turn_blind)
    }

    fn excess(&self, id: u32) -> Result<Option<u64>> {
        let interface = &self.get(id).context("it is not captured")?.interface;
        let Some(pod) = &interface.pod_side else { return Ok(None) };
        let host = interface.host_side.as_ref().context("it has no host end")?;
        let counts = |side: &Side| {
            let counts = link::packet_counts(&side.netns, side.ifindex)?;
            counts.with_context(|| format!("{side} is gone"))
        };
        // In this order, packets on their way make the difference smaller, never larger.
        let (received, _) = counts(pod)?;
        let (_, sent) = counts(host)?;
        Ok(Some(received.saturating_sub(sent)))
    }

    fn has_foreign_programs(&self, id: u32) -> bool {
        self.get(id)
            .is_some_and(|tap| attach::has_foreign_programs(&tap.side, &Hook::BOTH).is_ok_and(|has| has))
    }
}

impl Taps {
    /// Those whose interfaces are among these.
    pub fn among(&self, left: &HashSet<Left>) -> Vec<u32> {
        self.ids_of(|tap| {
            let Side { netns, ifindex, .. } = tap.captured();
            left.contains(&Left { netns: netns.id(), ifindex: *ifindex })
        })
    }

    /// Those in a namespace that was found to have these interfaces, and not theirs.
    pub fn beside(&self, netns: &Netns, found: &[Interface]) -> Vec<u32> {
        let is_there = |tap: &Tap| found.iter().any(|it| it.shares_an_end(&tap.interface));
        self.ids_of(|tap| tap.captured().netns == *netns && !is_there(tap))
    }

    /// Those that capture these.
    pub fn of(&self, interfaces: &[Interface]) -> Vec<u32> {
        self.ids_of(|tap| interfaces.contains(&tap.interface))
    }

    fn ids_of(&self, is_meant: impl Fn(&Tap) -> bool) -> Vec<u32> {
        self.attached.iter().filter(|tap| is_meant(tap)).map(|tap| tap.id).collect()
    }
}
