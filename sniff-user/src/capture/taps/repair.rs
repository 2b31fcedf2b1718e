//! Classifiers that others have taken away, or put theirs in front of.

use anyhow::Result;
use log::{debug, warn};

use super::Taps;
use crate::{bpf::attach::Mechanism, capture::tap::Tap};

impl Taps {
    /// Attaches again what somebody has detached from a tap; the file and a person are told since when packets may be
    /// missing.
    ///
    /// # Errors
    ///
    /// When it cannot be attached again.
    pub(super) fn repair(&mut self, id: u32) -> Result<()> {
        let clock = self.clock;
        let Some(Tap { interface, attachment: Some(attachment), .. }) = self.get_mut(id) else {
            return Ok(());
        };
        let Some(since) = attachment.repair()? else { return Ok(()) };
        let (since, until) = (sniff_pcapng::time(since), sniff_pcapng::time(clock.now()?));
        let deed = match attachment.mechanism() {
            Mechanism::Tcx => "detached sniff's TCX links",
            Mechanism::Clsact => "deleted sniff's clsact filters",
        };
        let told = format!("packets between {since} and {until} may be missing: somebody {deed}");
        warn!("{}: {told}; they are attached again", interface.name);
        let span = &mut self.spans[id as usize];
        span.notes.push(told);
        span.has_gap = true;
        Ok(())
    }

    /// The same for all, before what depends on it. What cannot be repaired has its gap all the same.
    pub(super) fn repair_all(&mut self) {
        let ids: Vec<u32> = self.attached.iter().map(|tap| tap.id).collect();
        for id in ids {
            if let Err(error) = self.repair(id) {
                debug!("interface {id} of the file: {error:#}");
                self.spans[id as usize].has_gap |= self.get(id).is_some_and(Tap::is_alive);
            }
        }
    }

    /// Says whose programs came in front of ours.
    pub(super) fn warn_of_programs_ahead(&self) {
        for Tap { interface, attachment, .. } in &self.attached {
            let ahead = attachment.as_ref().map(|it| it.programs_ahead().unwrap_or_default());
            for id in ahead.unwrap_or_default() {
                warn!(
                    "{}: BPF program {id} was put in front of sniff meanwhile; what it did not pass on is not in the \
                     capture",
                    interface.name
                );
            }
        }
    }
}
