//! What became of every packet that the kernel side matched: for the statistics in the file, and for the person.

use std::io::{self, Write as _};

use anyhow::Result;
use log::warn;
use sniff_cli::{
    logging,
    summary::{self, Summary},
};
use sniff_common::Counters;
use sniff_output::Delivery;
use sniff_pcapng::InterfaceStatistics;
use sniff_protocol::message::Seen;

use crate::{
    bpf::{object::KernelSide, ring::Held},
    halves::message::{Drained, Fate},
    system::clock::Clock,
};

/// Most bytes of what is told of an interface.
const MAX_NOTES: usize = 2048;

/// When an interface was captured, in nanoseconds since the epoch, by the clock of the packets.
#[derive(Clone, Debug)]
pub struct Span {
    /// When it was described in the output, just before its classifiers were attached.
    pub start: u64,
    /// Unknown while it is being captured.
    pub end: Option<u64>,
    /// Whether there is a filter; what it does not accept is not counted anywhere.
    pub filtered: bool,
    /// Whatever else is to be told of it.
    pub notes: Vec<String>,
    /// Whether it was not captured for a while, and packets may be missing.
    pub has_gap: bool,
}

impl Span {
    /// What is to be told of it, as far as a reader of the statistics takes it.
    pub fn describe_notes(&self) -> String {
        let mut notes = self.notes.join("; ");
        notes.truncate(notes.floor_char_boundary(MAX_NOTES));
        notes
    }
}

/// The accounts of one interface in the file.
#[derive(Clone, Debug)]
struct Account {
    span: Span,
    counters: Counters,
    delivery: Delivery,
    /// Recorded, and written over by later ones.
    aged_out: u64,
}

/// The accounts of a capture whose classifiers are detached and whose ring is empty.
pub struct Accounts {
    /// By pcapng interface id.
    each: Vec<Account>,
    /// Where its packets were seen, if that was asked for.
    seen: Option<Seen>,
    /// What a recorder held, which counts by itself what it does not.
    held: Option<Held>,
}

impl Accounts {
    /// Reads the kernel's counters.
    ///
    /// # Errors
    ///
    /// When the kernel does not give them.
    pub fn read(kernel_side: &KernelSide, told: &Drained, spans: &[Span]) -> Result<Self> {
        let each = (0..).zip(spans).map(|(interface, span): (u32, _)| {
            let counters = kernel_side.counters(interface)?;
            let fate = told.interfaces.get(interface as usize).copied().unwrap_or_default();
            let Fate { delivered, discarded, left_out, told_lost } = fate;
            let accounted = delivered + discarded + left_out + counters.lost() + counters.cut_off;
            let aged_out = told.held.map_or(0, |_| counters.matched.saturating_sub(accounted));
            let mut span = span.clone();
            span.notes.extend(of_left_out(left_out));
            span.notes.extend(of_cut_off(counters.cut_off));
            span.notes.extend(of_aged_out(aged_out, told.held));
            let untold_lost = counters.lost().saturating_sub(told_lost);
            span.notes.extend(untold(untold_lost, left_out, aged_out));
            Ok(Account { span, counters, delivery: Delivery { delivered, discarded, left_out }, aged_out })
        });
        Ok(Self { each: each.collect::<Result<_>>()?, seen: told.seen, held: told.held })
    }

    /// A statistics block for each interface, with the time of the packets' clock.
    ///
    /// # Errors
    ///
    /// When the clock fails.
    pub fn statistics(&self, clock: Clock) -> Result<Vec<u8>> {
        let (now, mut blocks) = (clock.now()?, Vec::new());
        for (interface, account) in (0..).zip(&self.each) {
            let Account { span, counters, delivery, .. } = account;
            let statistics = InterfaceStatistics {
                interface,
                timestamp_ns: now,
                start_ns: Some(span.start),
                end_ns: Some(span.end.unwrap_or(now)),
                ifrecv: (!span.filtered).then_some(counters.matched),
                ifdrop: Some(0),
                filteraccept: Some(counters.matched),
                osdrop: Some(counters.lost()),
                usrdeliv: Some(delivery.delivered),
                comment: (!span.notes.is_empty()).then(|| span.describe_notes()),
            };
            statistics.write(&mut blocks);
        }
        Ok(blocks)
    }

    /// Whether an interface was not captured all the time.
    pub fn have_gaps(&self) -> bool {
        self.each.iter().any(|account| account.span.has_gap)
    }

    /// What was counted, and what became of it, over all interfaces.
    pub fn totals(&self) -> (Counters, Delivery) {
        let (mut counters, mut delivery) = (Counters::default(), Delivery::default());
        for account in &self.each {
            counters += account.counters;
            delivery += account.delivery;
        }
        (counters, delivery)
    }

    /// Where packets between captured pods were seen, if that was asked for.
    pub fn seen(&self) -> Option<Seen> {
        self.seen
    }

    /// Prints tcpdump's three lines, and others where they leave something out.
    pub fn print(&self) {
        let (counters, delivery) = self.totals();
        let (matched, lost, cut_off) = (counters.matched, counters.lost(), counters.cut_off);
        let Delivery { delivered, discarded, left_out } = delivery;
        let aged_out = self.each.iter().map(|account| account.aged_out).sum();
        let summary = Summary {
            captured: delivered,
            matched,
            dropped: lost,
            unwritten: discarded,
            left_out,
            cut_off,
            aged_out,
        };
        let seen = self.seen.map(|seen| summary::seen(seen, "")).unwrap_or_default();
        // A closed stderr is no reason to fail.
        let _ = io::stderr().write_all((summary.lines("", "") + &seen).as_bytes());
        let counted = self.held.map_or(0, |held| held.aged_out);
        let told = delivered + discarded + left_out + lost + cut_off + counted;
        if told != matched {
            warn!("the counts do not add up ({told} of {matched} packets): that is a bug in sniff");
        }
    }
}

/// Prints the counts of a capture that goes on: packets that were delivered by now, and what the kernel side counted.
pub fn print_so_far(delivered: u64, counters: &Counters) {
    let (matched, lost) = (counters.matched, counters.lost());
    let cut_off = match counters.cut_off {
        0 => String::new(),
        count => format!(", {count} left out by the cutoff"),
    };
    logging::tell(&format!(
        "{delivered} packets captured, {matched} received by filter, {lost} dropped by kernel{cut_off} so far"
    ));
}

/// What is told of packets that are left out, if there are any.
fn of_left_out(count: u64) -> Option<String> {
    (count > 0)
        .then(|| format!("{count} of the received packets are left out: they are here where they were sent"))
}

/// What is told of packets that are left out behind the cutoff of their flow, if there are any.
fn of_cut_off(count: u64) -> Option<String> {
    (count > 0).then(|| format!("{count} of the received packets are left out by the cutoff"))
}

/// What is told of packets that a recorder does not hold any more, if there are any.
fn of_aged_out(count: u64, held: Option<Held>) -> Option<String> {
    let since =
        held?.complete_since.map(|since| format!(", which has all since {}", sniff_pcapng::time(since)));
    let since = since.unwrap_or_default();
    (count > 0)
        .then(|| format!("{count} of the received packets were too old to be held for this file{since}"))
}

/// What is told of lost packets that no packet in the file tells of, if there are any. A packet that is left out, or is not
/// held any more, does not tell of those before it.
fn untold(lost: u64, left_out: u64, aged_out: u64) -> Option<String> {
    let place = match (left_out, aged_out) {
        (0, 0) => "behind the last packet in this file",
        (_, 0) => "behind the last packet in this file, or before others that are left out",
        _ => "behind the last packet in this file, or before others that are not in it",
    };
    (lost > 0).then(|| format!("{lost} of the dropped packets were lost {place}"))
}
