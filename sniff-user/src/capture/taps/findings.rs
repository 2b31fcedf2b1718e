//! What is done about what the watch finds.

use anyhow::Result;
use log::{info, warn};

use super::Taps;
use crate::{capture::watch::Finding, targets::Interface};

/// Why an interface that is there is not captured any more.
const MOVED: &str = "the interface was moved to another network namespace: what passes it is another's";

impl Taps {
    /// Helps taps, or takes leave of them; returns the interfaces that were left.
    ///
    /// # Errors
    ///
    /// When the clock fails.
    pub fn act(&mut self, findings: Vec<(u32, Finding)>) -> Result<Vec<Interface>> {
        let mut left = Vec::new();
        for (id, finding) in findings {
            left.extend(match finding {
                Finding::Gone => self.say_goodbye(id)?,
                Finding::Moved => self.leave_moved(id)?,
                Finding::Detached => self.repair_or_give_up(id)?,
                Finding::Blind { blind, fine } => {
                    self.help_blind(id, blind, fine);
                    None
                }
            });
        }
        Ok(left)
    }

    fn say_goodbye(&mut self, id: u32) -> Result<Option<Interface>> {
        let Some(tap) = self.get(id) else { return Ok(None) };
        let interface = tap.interface.clone();
        info!("{}: the interface is gone", interface.name);
        self.leave(id)?;
        Ok(Some(interface))
    }

    fn leave_moved(&mut self, id: u32) -> Result<Option<Interface>> {
        let Some(tap) = self.get(id) else { return Ok(None) };
        let interface = tap.interface.clone();
        warn!("{}: {MOVED}; it is not captured any more", interface.name);
        self.note(id, format!("ended early: {MOVED}"));
        self.leave(id)?;
        Ok(Some(interface))
    }

    /// Where classifiers cannot be attached again, the capture of an interface ends that may be there.
    fn repair_or_give_up(&mut self, id: u32) -> Result<Option<Interface>> {
        let Err(error) = self.repair(id) else { return Ok(None) };
        // It may have gone in between.
        let Some(tap) = self.get(id).filter(|tap| tap.is_alive()) else { return self.say_goodbye(id) };
        let interface = tap.interface.clone();
        warn!("{}: cannot be captured any more: {error:#}", interface.name);
        let span = &mut self.spans[id as usize];
        span.notes.push(format!("ended early: {error:#}"));
        span.has_gap = true;
        self.leave(id)?;
        Ok(Some(interface))
    }
}
