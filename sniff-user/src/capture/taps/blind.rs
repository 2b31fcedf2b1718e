//! What is done about a host end that misses packets into its pod.

use anyhow::Result;
use log::warn;
use sniff_common::Direction;
use sniff_protocol::request::AttachAt;

use super::Taps;
use crate::capture::{tap::Tap, watch::Blind};

impl Taps {
    /// Has what goes into the pod captured inside it, unless somebody asked for the host's end. `fine` is when nothing had
    /// come past it yet.
    pub(super) fn help_blind(&mut self, id: u32, blind: Blind, fine: u64) {
        let since = sniff_pcapng::time(fine);
        let missing = format!("packets into the pod may be missing since {since}");
        let may_go_inside =
            |tap: &Tap| self.plan.attach == AttachAt::Auto && tap.interface.pod_side.is_some();
        if self.get(id).is_some_and(may_go_inside) {
            self.move_inside(id, blind, &missing);
        } else {
            self.warn_of_blind(id, blind, &missing);
        }
    }

    /// Says once that it misses packets.
    fn warn_of_blind(&mut self, id: u32, blind: Blind, missing: &str) {
        let Some(tap) = self.get_mut(id) else { return };
        tap.can_be_passed = true;
        let Tap { interface, side, .. } = tap;
        let way_out = match &interface.pod_side {
            Some(_) => "--attach pod captures them",
            None => "they are in a capture of the pod",
        };
        let told = format!("{blind}; {missing}");
        warn!(
            "{}: capturing at {side} is not enough: {told}, as with a CNI that uses bpf_redirect_peer; {way_out}",
            interface.name
        );
        self.note(id, told);
    }

    fn move_inside(&mut self, id: u32, blind: Blind, missing: &str) {
        let Some(Tap { interface, .. }) = self.get(id) else { return };
        let name = interface.name.clone();
        let host = interface.host_side.as_ref().map_or_else(String::new, ToString::to_string);
        warn!(
            "{name}: capturing at {host} was not enough: {blind}, as with a CNI that uses bpf_redirect_peer; {missing}; \
             from now on, what goes into the pod is captured inside it"
        );
        let comment =
            format!("what goes into the pod, no longer captured at {host}: {blind}; {missing}, until here");
        self.note(id, format!("{blind}; {missing}"));
        if let Err(error) = self.go_inside(id, comment) {
            warn!("{name}: cannot capture inside the pod: {error:#}; packets into it are missing");
        }
    }

    /// From now on takes what goes into the pod at the pod's own interface, as one interface more in the file;
    /// `comment` tells there why. What leaves the pod is taken at the host's end as before.
    ///
    /// # Errors
    ///
    /// When the pod's interface cannot be attached to; the capture then goes on as before.
    fn go_inside(&mut self, id: u32, comment: String) -> Result<()> {
        let Some(at) = self.attached.iter().position(|tap| tap.id == id) else {
            return Ok(());
        };
        let interface = self.attached[at].interface.clone();
        let next = self.spans.len() as u32;
        let directions =
            self.attached[at].directions.iter().filter(|(direction, _)| *direction == Direction::In);
        let directions = directions.cloned().collect();
        let tap = Tap::new(next, interface, AttachAt::Pod, self.plan.mechanism, directions)?;
        self.describe(&tap, Some(comment))?;
        self.attach(vec![tap])?;
        // Last, so that nothing is missed; what passes both ends meanwhile is taken twice.
        let host_end = &mut self.attached[at];
        let hook = host_end.point.hook(Direction::In);
        if let Some(attachment) = &mut host_end.attachment {
            attachment.unhook(hook);
        }
        host_end.directions.retain(|(direction, _)| *direction != Direction::In);
        if host_end.directions.is_empty() {
            self.leave(id)?;
        }
        Ok(())
    }
}
