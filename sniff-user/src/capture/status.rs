//! How a capture goes while it runs: its counts, and the alarm before packets are lost.

use std::{mem, sync::Arc, time::Instant};

use anyhow::Result;
use log::{info, warn};
use sniff_cli::{
    alarm::{Alarm, Alert},
    sanitize::sanitize_line,
    status_line::{Counts, StatusLine, grouped},
};

use crate::{
    bpf::ring::Gauge,
    capture::{accounts, control::Event, plan::Detail, tap::Tap, taps::Taps},
};

/// What is known of the ring.
pub struct Status {
    gauge: Arc<Gauge>,
    alarm: Alarm,
    /// Bytes that were recorded when that was last asked.
    recorded: u64,
}

impl Status {
    /// Of the ring that `gauge` looks at.
    pub fn new(gauge: Arc<Gauge>) -> Self {
        Self { gauge, alarm: Alarm::default(), recorded: 0 }
    }

    /// Tells a person the counts so far.
    ///
    /// # Errors
    ///
    /// When the kernel does not give its counters.
    pub fn print(taps: &Taps) -> Result<()> {
        accounts::print_so_far(taps.front.board.written.packets(), &taps.totals()?);
        Ok(())
    }

    /// The counts so far, for a remote.
    ///
    /// # Errors
    ///
    /// When the kernel does not give its counters.
    pub fn counted(&self, taps: &Taps) -> Result<Event> {
        let (counters, time) = (taps.totals()?, Instant::now());
        // The thread does not know how full it has become while it waits for its output.
        let fullest_percent = taps.front.board.fullest_percent().max(self.full_percent());
        Ok(Event::Counted { counters, time, fullest_percent, recorded: self.gauge.recorded() })
    }

    /// Tells a person of losses as they happen, or before. The kernel is asked only when there are some.
    ///
    /// # Errors
    ///
    /// When the kernel does not give its counters.
    pub fn sound_alarm(&mut self, taps: &Taps) -> Result<()> {
        for alert in self.alarm.look(self.full_percent(), self.gauge.lost(), Instant::now()) {
            match alert {
                Alert::Filling(percent) => warn!(
                    "the buffer is {percent} % full: packets come faster than they are taken, and will be lost when it \
                     is full; a larger -B, a smaller -s or a narrower filter helps"
                ),
                Alert::Losing => {
                    let counters = taps.totals()?;
                    let why = match counters.ring_full {
                        0 => "the kernel does not give their bytes",
                        _ if taps.is_recording() => {
                            "a file is being written for too long; a larger --record helps"
                        }
                        _ => "the buffer is full; a larger -B, a smaller -s or a narrower filter helps",
                    };
                    warn!("packets are being lost, {} so far: {why}", counters.lost());
                }
                Alert::Over(lost) => info!("{lost} packets were lost; none has been for a while"),
            }
        }
        Ok(())
    }

    /// Bytes that were recorded since the last call.
    pub fn recorded_since(&mut self) -> u64 {
        let recorded = self.gauge.recorded();
        recorded.saturating_sub(mem::replace(&mut self.recorded, recorded))
    }

    /// Shows how it goes on a terminal. All of it is in memory that is mapped: but for each interface, the kernel is not
    /// asked.
    ///
    /// # Errors
    ///
    /// When the kernel does not give its counters.
    pub fn show(&self, line: &mut StatusLine, detail: Detail, taps: &Taps) -> Result<()> {
        let written = &taps.front.board.written;
        let counts =
            Counts { packets: written.packets(), bytes: written.bytes(), dropped: self.gauge.lost() };
        let buffer = [format!("buffer {} %", self.full_percent())];
        let row = |tap: &Tap| {
            let counters = taps.kernel_side.counters(tap.id)?;
            let (packets, dropped) = (grouped(counters.matched), grouped(counters.lost()));
            Ok(format!("{packets:>15}  {dropped:>9} dropped  {}", sanitize_line(&tap.interface.name)))
        };
        let each = match detail {
            Detail::Sum => 0,
            Detail::Each => usize::MAX,
        };
        line.show(counts, &buffer, taps.iter().take(each).map(row))
    }

    /// How much of the ring waits to be read, in per cent.
    fn full_percent(&self) -> u8 {
        (self.gauge.fullness() * 100.0) as u8
    }
}
