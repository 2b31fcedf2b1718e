//! Another filter for taps that are attached.

use std::{collections::HashSet, mem};

use anyhow::{Result, ensure};
use log::{info, warn};
use sniff_common::Direction;
use sniff_filter::{Filter, Source};
use sniff_pcapng::LinkType;

use super::{Taps, attaching::load, preparing::with_filters};
use crate::{
    bpf::classifier::Classifier,
    capture::tap::{Tap, link_type},
    net::hook::Hook,
};

/// What a new general filter means for one tap.
struct Change {
    /// The tap, by its place.
    at: usize,
    /// Its id from then on.
    id: u32,
    directions: Vec<(Direction, Filter)>,
}

impl Taps {
    /// Reads the filter's file again, as SIGUSR2 asks for, and compiles what is there, aside: that may take long.
    pub fn read_filter_again(&self) -> impl Future<Output = Result<Option<String>>> + use<> {
        let (source, filters) = (self.plan.filter.clone(), self.plan.filters.clone());
        let mut link_types: HashSet<LinkType> =
            self.attached.iter().map(|tap| link_type(&tap.interface)).collect();
        if link_types.is_empty() {
            // As those that come will have.
            link_types.insert(LinkType::Ethernet);
        }
        async move {
            ensure!(
                matches!(source, Source::File(_)),
                "SIGUSR2 has the file of -F read again, and there is none"
            );
            let general = source.read()?;
            for link_type in link_types {
                if let Some(text) = general.clone() {
                    filters.prepare(text, link_type).await?;
                }
            }
            Ok(general)
        }
    }

    /// Has the filter that was read again at every interface without one of its own.
    pub fn take_filter(&mut self, read: Result<Option<String>>) {
        match read.and_then(|general| self.change_filter(general)) {
            Ok(()) => info!("the filter is now: {}", in_words(self.general.as_deref())),
            Err(error) => warn!("the filter stays as it is: {error:#}"),
        }
    }

    /// Has `general` at every interface that has none of its own: at all of them or, when anything is wrong with it, at
    /// none. Each goes on as one interface more in the file, so that every packet shows by which filter it was judged. An
    /// interface that has gone meanwhile is left to whoever takes leave of it.
    ///
    /// # Errors
    ///
    /// When it cannot be compiled, loaded or attached; the old one then goes on.
    fn change_filter(&mut self, general: Option<String>) -> Result<()> {
        if general != self.general {
            self.repair_all();
            let (changes, classifiers) = self.changes(general.as_deref())?;
            let old = mem::replace(&mut self.general, general);
            if let Err(error) = self.switch(changes, classifiers, old.as_deref()) {
                self.general = old;
                return Err(error);
            }
        }
        Ok(())
    }

    /// What another general filter changes, and the classifiers for all that, in order. Nothing is touched.
    fn changes(&mut self, general: Option<&str>) -> Result<(Vec<Change>, Vec<Option<Classifier>>)> {
        let (mut changes, mut arguments) = (Vec::new(), Vec::new());
        let ids = self.spans.len() as u32..;
        let taps = self.attached.iter().enumerate().filter(|(_, tap)| tap.interface.filter.is_none());
        for (id, (at, tap)) in ids.zip(taps) {
            let mut directions =
                with_filters(&self.plan.filters, &tap.interface, general, self.plan.directions)?;
            directions.retain(|(direction, _)| tap.directions.iter().any(|(has, _)| has == direction));
            arguments.extend(self.arguments(tap, id, &directions));
            changes.push(Change { at, id, directions });
        }
        Ok((changes, load(&self.kernel_side.body(), &arguments, || false)?))
    }

    /// Carries out all `changes`, or takes back those that were.
    fn switch(
        &mut self,
        changes: Vec<Change>,
        classifiers: Vec<Option<Classifier>>,
        old: Option<&str>,
    ) -> Result<()> {
        let since = sniff_pcapng::time(self.clock.now()?);
        let comment = format!("goes on with another filter since {since}; before: {}", in_words(old));
        for change in &changes {
            self.introduce(self.description(&self.attached[change.at], Some(comment.clone())))?;
        }
        let (mut classifiers, mut done) = (classifiers.into_iter(), Vec::new());
        for change in &changes {
            let tap = &mut self.attached[change.at];
            for (&(direction, _), classifier) in change.directions.iter().zip(&mut classifiers) {
                let (hook, Some(attachment)) = (tap.point.hook(direction), &mut tap.attachment) else {
                    continue;
                };
                match attachment.set(hook, classifier) {
                    Ok(before) => done.push((change.at, hook, before)),
                    Err(_) if !attachment.is_alive() => {}
                    Err(error) => {
                        self.take_back(done, &changes)?;
                        return Err(error);
                    }
                }
            }
        }
        let now = self.clock.now()?;
        for Change { at, id, directions } in changes {
            let tap = &mut self.attached[at];
            let before = mem::replace(&mut tap.id, id);
            tap.directions = directions;
            self.close(before, now);
            self.await_packets(at, now);
        }
        Ok(())
    }

    /// Puts back the classifiers that were there before, the last one first.
    fn take_back(&mut self, done: Vec<(usize, Hook, Option<Classifier>)>, changes: &[Change]) -> Result<()> {
        for (at, hook, before) in done.into_iter().rev() {
            let Tap { interface, attachment: Some(attachment), .. } = &mut self.attached[at] else {
                continue;
            };
            if let Err(error) = attachment.set(hook, before)
                && attachment.is_alive()
            {
                warn!("{}: has the new filter, and cannot have the old one again: {error:#}", interface.name);
            }
        }
        let now = self.clock.now()?;
        changes.iter().for_each(|change| self.close(change.id, now));
        Ok(())
    }
}

/// A filter for a person.
fn in_words(filter: Option<&str>) -> &str {
    filter.unwrap_or("every packet")
}
