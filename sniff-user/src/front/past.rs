//! What a recorder holds, as a file of its own, which stands alone. The recording goes on, and what was written is held as
//! before.

use std::fs::File;

use anyhow::{Context as _, Result, ensure};
use log::warn;
use sniff_output::{
    Output, Sink, To,
    file::{CaptureFile, Files, Made, Manner},
};
use sniff_pcapng::{InterfaceStatistics, Names, PacketHead, SectionHeader, blocks, time};

use super::delivery::{Delivery, Told};
use crate::{
    bpf::ring::{Held, Ring},
    halves::{
        Board,
        message::{Draining, SaveTo, Saved, Spell},
    },
};

/// What a file begins with that is written at any time.
pub struct Past {
    section: SectionHeader,
    told: Vec<Told>,
    names: Names,
    how: Draining,
    board: &'static Board,
}

impl Past {
    /// Of a recorder that has told of nothing yet.
    pub fn new(section: SectionHeader, names: Names, how: Draining, board: &'static Board) -> Self {
        Self { section, told: Vec::new(), names, how, board }
    }

    /// Keeps what is told.
    pub fn note(&mut self, told: &Told) {
        match told {
            Told::Names(names) => drop(self.names.update(names)),
            told => self.told.push(told.clone()),
        }
    }

    /// Writes what was seen in the ring, of which so much is `held`. What goes wrong with the file is the inner error: the ring
    /// is emptied all the same.
    ///
    /// # Errors
    ///
    /// When the ring does not follow its protocol.
    pub fn save(&self, ring: &mut Ring, held: Held, to: &SaveTo, file: File) -> Result<Result<Saved>> {
        let until = ring.complete_until();
        let wanted_since = to.last_ns.map_or(0, |last| until.saturating_sub(last));
        let window = Window { held, until, wanted_since };
        let mut file = self.open(to, file, &window, ring.lost() > 0);
        let (mut older, mut copy) = (0, Vec::new());
        ring.take(|run| {
            let (before, begin) = before(run, wanted_since);
            older += before;
            if let Ok(delivery) = &mut file {
                // It is changed on its way, and may be wanted again.
                copy.clear();
                copy.extend_from_slice(&run[begin..]);
                if let Err(error) = delivery.deliver(&mut copy) {
                    file = Err(error.into());
                }
            }
            Ok(())
        })?;
        Ok(file.and_then(|delivery| window.end(delivery, older, ring.lost(), &to.spells)))
    }

    fn open(&self, to: &SaveTo, file: File, window: &Window, any_lost: bool) -> Result<Delivery> {
        let sink: Box<dyn Sink> = match to.name.clone() {
            Some(name) => {
                let to = To::File(name.clone().into());
                let files = Box::new(Given(Some(Made { file, name })));
                Box::new(CaptureFile::open(&to, &Manner::default(), Some(files))?)
            }
            None => Box::new(CaptureFile::pipe(file, "standard output".to_owned())),
        };
        let how = Draining { count: None, ..self.how };
        let mut delivery = Delivery::new(Output::new(sink, &self.board.saved), &how, self.board);
        delivery.any_lost = any_lost;
        let mut section = Vec::new();
        SectionHeader { comment: Some(window.describe()), ..self.section.clone() }.write(&mut section);
        delivery.output.block(&section)?;
        self.told.iter().try_for_each(|told| delivery.hear(told))?;
        delivery.output.names(&self.names)?;
        Ok(delivery)
    }
}

/// The file that is there.
struct Given(Option<Made>);

impl Files for Given {
    fn next(&mut self, _begun_ns: u64) -> Result<Made> {
        self.0.take().context("there is one file only")
    }

    fn abandon(&mut self) {}
}

/// What of a recording is in a file.
struct Window {
    held: Held,
    /// In nanoseconds since the epoch.
    until: u64,
    /// Likewise; 0 where all was asked for.
    wanted_since: u64,
}

impl Window {
    /// From when on all is there; `None` where nothing is missing.
    fn since(&self) -> Option<u64> {
        let wanted = (self.wanted_since > 0).then_some(self.wanted_since);
        self.held.complete_since.max(wanted)
    }

    fn describe(&self) -> String {
        let since = self.since().map_or_else(|| "the recording began".to_owned(), time);
        let aged_out = match self.held.aged_out {
            0 => String::new(),
            count => format!("; {count} older ones were not held any more"),
        };
        format!(
            "saved from a recording in memory: the packets since {since} up to {}{aged_out}",
            time(self.until)
        )
    }

    /// Writes the statistics behind all packets.
    fn end(
        &self,
        Delivery { mut output, hurried, .. }: Delivery,
        older: u64,
        lost: u64,
        spells: &[Spell],
    ) -> Result<Saved> {
        output.flush()?;
        let (mut packets, mut left_out) = (0, 0);
        for delivery in output.deliveries() {
            packets += delivery.delivered;
            left_out += delivery.left_out;
        }
        ensure!(!hurried, "the recorder was ended at once: not all is in the file");
        let Held { aged_out, recorded, .. } = self.held;
        let seen = packets + left_out + older + aged_out;
        if seen != recorded {
            warn!("the counts do not add up ({seen} of {recorded} packets): that is a bug in sniff");
        }
        let saved =
            Saved { packets, left_out, older, aged_out, lost, since: self.since(), until: self.until };
        let mut statistics = Vec::new();
        for ((interface, spell), delivery) in (0..).zip(spells).zip(output.deliveries()) {
            // Which interface had those that are not here is not known of several.
            let is_only = spells.len() == 1;
            let comment = [saved.describe_missing(), spell.notes.clone()];
            let comment: Vec<_> = comment.into_iter().filter(|it| !it.is_empty()).collect();
            InterfaceStatistics {
                interface,
                timestamp_ns: self.until,
                start_ns: Some(spell.start),
                end_ns: Some(spell.end.unwrap_or(self.until)),
                filteraccept: is_only.then(|| saved.matched()),
                osdrop: Some(if is_only { lost } else { spell.lost }),
                usrdeliv: Some(delivery.delivered),
                comment: (!comment.is_empty()).then(|| comment.join("; ")),
                ..InterfaceStatistics::default()
            }
            .write(&mut statistics);
        }
        output.block(&statistics)?;
        output.flush()?;
        Ok(saved)
    }
}

/// How many packets of a run were before a time, and where those are that were not.
fn before(run: &[u8], time_ns: u64) -> (u64, usize) {
    let (mut count, mut begin) = (0, 0);
    let is_before = |block: &&[u8]| PacketHead::parse(block).is_ok_and(|head| head.timestamp_ns < time_ns);
    for block in blocks(run).take_while(is_before) {
        count += 1;
        begin += block.len();
    }
    (count, begin)
}

#[cfg(test)]
mod tests {
    use sniff_pcapng::testing::RingPacket;

    use super::*;

    #[test]
    fn what_is_older_than_wanted_is_counted_and_passed_over() {
        let block = |time_ns| RingPacket { time_ns, data: b"abc", ..RingPacket::default() }.block();
        let run: Vec<u8> = [5, 6, 8].into_iter().flat_map(block).collect();
        let len = run.len() / 3;
        for (since, count) in [(0, 0), (5, 0), (6, 1), (7, 2), (8, 2), (9, 3)] {
            assert_eq!(before(&run, since), (count, count as usize * len), "{since}");
        }
    }

    #[test]
    fn a_file_begins_where_nothing_is_missing_that_was_wanted() {
        for (complete_since, wanted_since, since) in [
            (None, 0, None),
            (None, 7, Some(7)),
            (Some(9), 0, Some(9)),
            (Some(9), 7, Some(9)),
            (Some(9), 12, Some(12)),
        ] {
            let held = Held { complete_since, ..Held::default() };
            assert_eq!(Window { held, until: 20, wanted_since }.since(), since);
        }
    }
}
