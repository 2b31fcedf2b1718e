//! What a recorder holds, as a file of its own, which stands alone. The recording goes on, and what was written is held as
//! before.

use std::{collections::VecDeque, fs::File, io, mem};

use anyhow::{Context as _, Result, anyhow, ensure};
use log::warn;
use sniff_output::{
    Delivery as Delivered, DnsNames, Output, Sink, To, Written,
    file::{CaptureFile, Files, Made, Manner},
};
use sniff_pcapng::{InterfaceStatistics, Names, PacketHead, SectionHeader, blocks, time};

use super::{
    delivery::{Delivery, Told},
    losses::Losses,
};
use crate::{
    bpf::ring::{Held, Place, Ring},
    halves::{
        Board,
        message::{Draining, SaveTo, Saved, Spell},
    },
};

/// Most ends of files that are remembered, for others to begin there.
const MAX_ENDS: usize = 64;

/// What is known when a recording begins.
pub struct Beginning {
    pub section: SectionHeader,
    pub names: Names,
    /// Whether addresses are called by what DNS answers among the packets say.
    pub dns_names: bool,
}

/// What a file begins with that is written at any time.
pub struct Past {
    beginning: Beginning,
    told: Vec<Told>,
    how: Draining,
    board: &'static Board,
    /// By all saves.
    written: &'static Written,
    /// Where the last files ended, by their numbers; the newest is at the end.
    ends: VecDeque<(u64, Begin)>,
}

/// Where a file begins.
#[derive(Clone, Debug, Default)]
pub struct Begin {
    place: Place,
    /// What was lost of each interface by then, and in all.
    lost: Vec<u64>,
    all_lost: u64,
    /// What was left out by then behind the cutoff of its flow.
    all_cut_off: u64,
    /// What packets before it have told of that.
    losses: Losses,
    /// Whether it is where it should be, and not at the beginning since that is not known any more.
    is_known: bool,
}

impl Begin {
    /// To be looked from; it moves on to where that ends.
    pub fn place(&mut self) -> &mut Place {
        &mut self.place
    }
}

/// What was counted when the ring was looked at.
pub struct Moment {
    pub held: Held,
    /// Packets that were lost by then.
    pub lost: u64,
    /// And left out behind the cutoff of their flow.
    pub cut_off: u64,
}

impl Past {
    /// Of a recorder that has told of nothing yet.
    pub fn new(beginning: Beginning, how: Draining, board: &'static Board) -> Self {
        // There is one of it.
        let written = Box::leak(Box::default());
        Self { beginning, told: Vec::new(), how, board, written, ends: VecDeque::new() }
    }

    /// Keeps what is told.
    pub fn note(&mut self, told: &Told) {
        match told {
            Told::Names(names) => drop(self.beginning.names.update(names)),
            told => self.told.push(told.clone()),
        }
    }

    /// Where a file is to begin that has only what is behind another.
    pub fn begin(&self, after: Option<u64>) -> Begin {
        let Some(after) = after else { return Begin { is_known: true, ..Begin::default() } };
        let end = self.ends.iter().find(|(number, _)| *number == after);
        end.map(|(_, end)| end.clone()).unwrap_or_default()
    }

    /// Writes what was seen in the ring at a moment, since `begin`. What goes wrong with the file is the inner error: the ring is
    /// emptied all the same.
    ///
    /// # Errors
    ///
    /// When the ring does not follow its protocol.
    pub fn save(
        &mut self,
        ring: &mut Ring,
        mut begin: Begin,
        moment: Moment,
        to: &SaveTo,
        file: File,
    ) -> Result<Result<Saved>> {
        let Moment { held, lost: all_lost, cut_off: all_cut_off } = moment;
        let (lost, cut_off) = (all_lost - begin.all_lost, all_cut_off - begin.all_cut_off);
        let moment = Moment { held, lost, cut_off };
        let window = Window::of(moment, ring.complete_until(), to);
        let mut file = match begin.is_known {
            true => self.open(to, file, &window, mem::take(&mut begin.losses)),
            false => Err(anyhow!("it is not known any more where the file before has ended")),
        };
        let (mut older, mut copy) = (0, Vec::new());
        ring.take(|run| {
            let (before, begin) = before(run, window.wanted_since.unwrap_or(0));
            older += before;
            if let Ok(delivery) = &mut file {
                // It is changed on its way, and may be wanted again.
                copy.clear();
                copy.extend_from_slice(&run[begin..]);
                if let Err(error) = delivery.deliver(&mut copy) {
                    file = Err(in_words(error));
                }
            }
            Ok(())
        })?;
        let saved = file.and_then(|delivery| {
            let losses = delivery.losses.clone();
            let before = mem::take(&mut begin.lost);
            let lost_before = |interface: usize| before.get(interface).copied().unwrap_or_default();
            let since = |(interface, spell): (usize, &Spell)| Spell {
                lost: spell.lost.saturating_sub(lost_before(interface)),
                ..spell.clone()
            };
            let spells: Vec<Spell> = to.spells.iter().enumerate().map(since).collect();
            let saved = window.end(delivery, older, &spells)?;
            let lost = to.spells.iter().map(|spell| spell.lost).collect();
            let place = self.remember(Begin { lost, all_lost, all_cut_off, losses, ..begin });
            Ok(Saved { place, ..saved })
        });
        Ok(saved)
    }

    /// Remembers where a file ended; returns its number.
    fn remember(&mut self, end: Begin) -> u64 {
        let number = self.ends.back().map_or(0, |(number, _)| number + 1);
        if self.ends.len() == MAX_ENDS {
            self.ends.pop_front();
        }
        self.ends.push_back((number, end));
        number
    }

    fn open(&self, to: &SaveTo, file: File, window: &Window, losses: Losses) -> Result<Delivery> {
        let Beginning { section, names, dns_names } = &self.beginning;
        let sink: Box<dyn Sink> = match to.name.clone() {
            Some(name) => {
                let to = To::File(name.clone().into());
                let files = Box::new(Given(Some(Made { file, name })));
                Box::new(CaptureFile::open(&to, &Manner::default(), Some(files))?)
            }
            None => Box::new(CaptureFile::pipe(file, "standard output".to_owned())),
        };
        let sink = if *dns_names { Box::new(DnsNames::new(sink)) } else { sink };
        let how = Draining { count: None, ..self.how };
        let mut delivery = Delivery::new(Output::new(sink, self.written), &how, self.board);
        delivery.any_lost = window.lost > 0;
        delivery.losses = losses;
        let mut header = Vec::new();
        let note = to.note.as_ref().map(|note| format!("{note}; ")).unwrap_or_default();
        let comment = Some(note + &window.describe());
        SectionHeader { comment, ..section.clone() }.write(&mut header);
        delivery.output.block(&header).map_err(in_words)?;
        self.told.iter().try_for_each(|told| delivery.hear(told)).map_err(in_words)?;
        delivery.output.names(names).map_err(in_words)?;
        Ok(delivery)
    }
}

/// What went wrong with a file, where the kernel's word for it says little.
fn in_words(error: io::Error) -> anyhow::Error {
    let is_stuck = error.kind() == io::ErrorKind::WouldBlock;
    if is_stuck { anyhow!("nobody takes what is written: the reader stands still") } else { error.into() }
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
    lost: u64,
    cut_off: u64,
    /// In nanoseconds since the epoch.
    until: u64,
    /// Likewise; none where all that was recorded is wanted.
    wanted_since: Option<u64>,
}

impl Window {
    /// As of `now`, in nanoseconds since the epoch.
    fn of(Moment { held, lost, cut_off }: Moment, now: u64, to: &SaveTo) -> Self {
        let begun = to.spells.iter().map(|spell| spell.start).min().unwrap_or(0);
        let wanted = to.last_ns.map(|last| now.saturating_sub(last));
        let until = held.complete_until.min(now);
        Self { held, lost, cut_off, until, wanted_since: wanted.filter(|&since| since > begun) }
    }

    /// From when on all is there; `None` where nothing is missing.
    fn since(&self) -> Option<u64> {
        self.held.complete_since.max(self.wanted_since)
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
    fn end(&self, delivery: Delivery, older: u64, spells: &[Spell]) -> Result<Saved> {
        let Delivery { mut output, hurried, .. } = delivery;
        output.flush().map_err(in_words)?;
        ensure!(!hurried, "the recorder was ended at once: not all is in the file");
        let (mut packets, mut left_out) = (0, 0);
        for delivery in output.deliveries() {
            packets += delivery.delivered;
            left_out += delivery.left_out;
        }
        let &Self { held: Held { aged_out, recorded, .. }, lost, cut_off, until, .. } = self;
        let seen = packets + left_out + older + aged_out;
        if seen != recorded {
            warn!("the counts do not add up ({seen} of {recorded} packets): that is a bug in sniff");
        }
        let since = self.since();
        let saved =
            Saved { packets, left_out, cut_off, older, aged_out, lost, since, until, ..Saved::default() };
        output.block(&statistics(&saved, spells, output.deliveries())).map_err(in_words)?;
        output.flush().map_err(in_words)?;
        Ok(saved)
    }
}

/// What is told of each interface. Which of several had the packets that are not in the file is not known.
fn statistics(saved: &Saved, spells: &[Spell], deliveries: &[Delivered]) -> Vec<u8> {
    let mut blocks = Vec::new();
    let is_only = deliveries.len() == 1;
    let mut missing = saved.describe_missing();
    if !is_only && !missing.is_empty() {
        missing += " (of all interfaces)";
    }
    for (interface, delivery) in (0..).zip(deliveries) {
        // One that has come just now is not known yet.
        let spell = spells.get(interface as usize);
        let notes = spell.map(|spell| spell.notes.as_str()).unwrap_or_default();
        let comment: Vec<&str> = [&missing, notes].into_iter().filter(|it| !it.is_empty()).collect();
        InterfaceStatistics {
            interface,
            timestamp_ns: saved.until,
            start_ns: spell.map(|spell| spell.start),
            end_ns: Some(spell.and_then(|spell| spell.end).unwrap_or(saved.until)),
            filteraccept: is_only.then(|| saved.matched()),
            osdrop: if is_only { Some(saved.lost) } else { spell.map(|spell| spell.lost) },
            usrdeliv: Some(delivery.delivered),
            comment: (!comment.is_empty()).then(|| comment.join("; ")),
            ..InterfaceStatistics::default()
        }
        .write(&mut blocks);
    }
    blocks
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
    use std::slice;

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
        let spell = Spell { start: 5, end: None, lost: 0, notes: String::new() };
        for (complete_since, last_ns, since) in [
            (None, None, None),
            (None, Some(13), Some(7)),
            // It had not begun by then.
            (None, Some(15), None),
            (None, Some(99), None),
            (Some(9), None, Some(9)),
            (Some(9), Some(13), Some(9)),
            (Some(9), Some(8), Some(12)),
        ] {
            let held = Held { complete_since, complete_until: 20, ..Held::default() };
            let to = SaveTo { name: None, last_ns, after: None, note: None, spells: vec![spell.clone()] };
            let window = Window::of(Moment { held, lost: 0, cut_off: 0 }, 20, &to);
            assert_eq!((window.since(), window.until), (since, 20), "{complete_since:?} {last_ns:?}");
        }
    }

    #[test]
    fn each_interface_has_its_own_counts_and_those_of_all_are_called_so() {
        let saved = Saved { packets: 7, older: 2, lost: 1, until: 20, ..Saved::default() };
        let spell = Spell { start: 5, end: None, lost: 0, notes: "a note".to_owned() };
        let delivered = |delivered| Delivered { delivered, ..Delivered::default() };
        let of = |spells: &[Spell], deliveries: &[Delivered]| {
            let blocks = statistics(&saved, spells, deliveries);
            sniff_pcapng::blocks(&blocks)
                .map(|it| InterfaceStatistics::parse(it).unwrap())
                .collect::<Vec<_>>()
        };
        let [only] = of(slice::from_ref(&spell), &[delivered(7)]).try_into().unwrap();
        assert_eq!((only.filteraccept, only.osdrop, only.usrdeliv), (Some(10), Some(1), Some(7)));
        assert_eq!(
            only.comment.as_deref(),
            Some("2 packets older than what was asked for, 1 packets dropped by kernel; a note")
        );
        // The other one has come after it was asked what is known.
        let [first, second] = of(&[spell], &[delivered(3), delivered(4)]).try_into().unwrap();
        assert_eq!((first.filteraccept, first.osdrop, first.usrdeliv), (None, Some(0), Some(3)));
        assert!(first.comment.unwrap().contains(" (of all interfaces); a note"));
        assert_eq!((second.start_ns, second.osdrop, second.usrdeliv), (None, None, Some(4)));
    }
}
