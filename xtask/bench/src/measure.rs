//! One measurement: a load with a tool that captures it.

use std::{
    fs,
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use nix::sys::statvfs::statvfs;
use serde::Serialize;

use crate::{
    capture_file::{count_lines, count_packets},
    load,
    net::Net,
    scenario::{Filter, Load, Payload, RECORDING, Scenario},
    tools::{Capture, Tool},
};

/// What capture files may take at most, with room to spare.
const ROOM: u64 = 5 << 30;

/// Where and how all measurements of a run are made.
pub struct Bench<'run> {
    /// The network namespaces.
    pub net: Net,
    /// Where capture files are written.
    pub scratch: &'run Path,
    /// Whether the kernel adds softirqs to the sender's CPU time.
    pub softirqs_included: bool,
    /// Set when the run is to end.
    pub interrupted: &'run AtomicBool,
}

/// What one tool did in one round of a scenario.
#[derive(Debug, Serialize)]
pub struct Sample {
    pub scenario: &'static str,
    pub tool: String,
    /// From 1.
    pub round: u32,
    /// The figures, or why there are none.
    #[serde(flatten)]
    pub outcome: Outcome,
}

/// What came out of a measurement.
#[derive(Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It went as planned.
    Measured(Figures),
    /// The tool could not do it.
    Failed(String),
}

/// Figures of one measurement. Those that a scenario does not have are left out.
#[derive(Debug, Default, Serialize)]
pub struct Figures {
    /// From the start of the tool until it captured.
    pub ready_s: f64,
    /// Peak resident memory.
    pub memory_bytes: u64,
    /// For loads of counted packets.
    pub cost: Option<Cost>,
    /// For TCP.
    pub tcp: Option<Tcp>,
    /// What became of the packets.
    pub account: Option<Account>,
    /// For silence: the part of a CPU that the tool uses.
    pub idle: Option<f64>,
    /// Into a pipe.
    pub stream: Option<Stream>,
    /// Where only the last packets are kept: how many there are for each MiB that they may take.
    pub kept_per_mib: Option<f64>,
}

/// A capture that goes into a pipe.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Stream {
    /// CPU time of the tool's process, in ns, for each byte of the packets that passed.
    pub process_ns: f64,
    /// Resident memory at the end of the load.
    pub resident_bytes: u64,
}

/// CPU time of a packet, in ns.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Cost {
    /// In the sender's path of the twin, which nobody captures.
    pub bare_ns: f64,
    /// What the capture adds to it.
    pub in_path_ns: f64,
    /// In the tool's process, for each packet that passed, wanted or not.
    pub process_ns: f64,
}

/// A TCP transfer.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Tcp {
    /// Rate without a capture, just before and just after.
    pub bare_bits_per_s: f64,
    /// Rate with it.
    pub bits_per_s: f64,
    /// CPU time of the tool's process.
    pub process_s: f64,
}

/// What became of the packets that a capture should hold.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Account {
    /// How many passed and were wanted.
    pub offered: u64,
    /// How many are in the file.
    pub kept: u64,
    /// How many the tool says it lost.
    pub reported: Option<u64>,
    /// Size of the file.
    pub file_bytes: u64,
}

impl Cost {
    /// What a capture of a packet costs in all.
    pub fn total_ns(&self) -> f64 {
        self.in_path_ns + self.process_ns
    }
}

impl Account {
    /// Packets that are not in the file.
    pub fn lost(&self) -> u64 {
        self.offered.saturating_sub(self.kept)
    }

    /// Whether each packet was kept or reported as lost.
    pub fn is_exact(&self) -> bool {
        self.reported.is_some_and(|reported| self.kept + reported == self.offered)
    }
}

impl Bench<'_> {
    /// Measures `tool` once. `bare_rate` is what [`Self::bare_rate`] said just before, and says anew just after: the
    /// tool is compared with the mean of both.
    ///
    /// # Errors
    /// The load fails, or the run is interrupted. What the tool does wrong is part of the result.
    pub fn measure(
        &self,
        scenario: &'static Scenario,
        tool: &Tool,
        round: u32,
        bare_rate: &mut f64,
    ) -> Result<Sample> {
        let (folder, log) = (self.scratch.join("captures"), self.scratch.join("log"));
        self.check_room()?;
        fs::create_dir(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        let measured = self.with_tool(scenario, tool, &folder.join("capture"), &log);
        fs::remove_dir_all(&folder).with_context(|| format!("cannot remove {}", folder.display()))?;
        let after = self.bare_rate(scenario)?;
        let outcome = match measured {
            Ok(figures) => Outcome::Measured(figures.beside(f64::midpoint(*bare_rate, after))),
            Err(error) => Outcome::Failed(format!("{error:#}")),
        };
        *bare_rate = after;
        Ok(Sample { scenario: scenario.name, tool: tool.name.clone(), round, outcome })
    }

    /// The rate of a TCP transfer without a capture, in bits a second; other loads have none.
    ///
    /// # Errors
    /// The transfer fails, or the run is interrupted.
    pub fn bare_rate(&self, scenario: &Scenario) -> Result<f64> {
        ensure!(!self.interrupted.load(Ordering::Relaxed), "interrupted");
        match scenario.load {
            Load::Tcp { bytes } => load::transfer(&self.net, bytes),
            Load::Frames { .. } | Load::SuperPackets { .. } | Load::Silence { .. } => Ok(0.0),
        }
    }

    fn check_room(&self) -> Result<()> {
        let file_system = statvfs(self.scratch)?;
        let free = file_system.blocks_available() * file_system.fragment_size();
        let folder = self.scratch.display();
        ensure!(free >= ROOM, "{folder} has {} MiB free; captures take up to {}", free >> 20, ROOM >> 20);
        Ok(())
    }

    fn with_tool(&self, scenario: &Scenario, tool: &Tool, file: &Path, log: &Path) -> Result<Figures> {
        // Where TCP's two ends and the tool run is left to the scheduler, as it would be.
        let pinned = !matches!(scenario.load, Load::Tcp { .. });
        let mut capture = tool.start(scenario, &self.net, file, log, pinned)?;
        capture.settle()?;
        let before = capture.cpu()?;
        let mut figures = Figures::default();
        match scenario.load {
            Load::Frames { len, .. } if scenario.is_stream => {
                let packets = load::send(&self.net, scenario.load, scenario.filter)?.packets;
                let resident_bytes = capture.resident_memory()?;
                let process_ns = cpu_since(before, &mut capture)?.as_secs_f64() * 1e9;
                let process_ns = process_ns / (packets * len as u64) as f64;
                figures.stream = Some(Stream { process_ns, resident_bytes });
                figures.account = Some(Account::offered(scenario.filter.wanted(packets)));
            }
            Load::Frames { .. } | Load::SuperPackets { .. } => {
                let Scenario { load, filter, .. } = *scenario;
                let compared = load::compare(&self.net, load, filter, self.softirqs_included)?;
                let packets = compared.packets + load::send(&self.net, load, filter)?.packets;
                let process_ns = cpu_since(before, &mut capture)?.as_secs_f64() * 1e9 / packets as f64;
                let load::Compared { bare_ns, more_ns, .. } = compared;
                figures.cost = Some(Cost { bare_ns, in_path_ns: more_ns, process_ns });
                figures.account = Some(Account::offered(filter.wanted(packets)));
            }
            Load::Tcp { bytes } => {
                let passed = self.net.passed()?;
                let bits_per_s = load::transfer(&self.net, bytes)?;
                let process_s = cpu_since(before, &mut capture)?.as_secs_f64();
                figures.tcp = Some(Tcp { bare_bits_per_s: 0.0, bits_per_s, process_s });
                figures.account = Some(Account::offered(self.net.passed()?.since(passed)));
            }
            Load::Silence { time } => {
                thread::sleep(time);
                let used = capture.cpu()?.saturating_sub(before);
                figures.idle = Some(used.as_secs_f64() / time.as_secs_f64());
            }
        }
        figures.ready_s = capture.ready_after.as_secs_f64();
        figures.memory_bytes = capture.peak_memory()?;
        let reported = capture.interrupt(file)?;
        if scenario.is_recording {
            // What is not kept was not wanted.
            figures.account = None;
            figures.kept_per_mib = Some(count_all(file)? as f64 / (RECORDING >> 20) as f64);
        }
        if let Some(account) = &mut figures.account {
            account.reported = reported;
            account.kept = if scenario.prints { count_lines(file)? } else { count_packets(file)? };
            account.file_bytes = fs::metadata(file)?.len();
        }
        Ok(figures)
    }
}

impl Figures {
    /// The figures beside the rate without a capture.
    fn beside(mut self, bare_rate: f64) -> Self {
        if let Some(tcp) = &mut self.tcp {
            tcp.bare_bits_per_s = bare_rate;
        }
        self
    }
}

impl Account {
    fn offered(offered: u64) -> Self {
        Self { offered, kept: 0, reported: None, file_bytes: 0 }
    }
}

/// Whether the kernel of this machine adds softirqs to the CPU time of a sender.
///
/// # Errors
/// The load fails.
pub fn softirqs_included(net: &Net) -> Result<bool> {
    let load = Load::Frames {
        len: 64,
        ipv6: false,
        count: 400_000,
        senders: 1,
        per_second: None,
        payload: Payload::Zeros,
    };
    let sent = load::send(net, load, Filter::Everything)?;
    sent.spent.iter().try_fold(true, |all, spent| Ok(all && spent.includes_softirqs()?))
}

/// CPU time of the tool since `before`, once it has done all its work.
fn cpu_since(before: Duration, capture: &mut Capture) -> Result<Duration> {
    capture.finish()?;
    Ok(capture.cpu()?.saturating_sub(before))
}

/// How many packets there are in a file and in those beside it.
fn count_all(file: &Path) -> Result<u64> {
    let folder = file.parent().context("a file in a folder")?;
    fs::read_dir(folder)?.map(|entry| count_packets(&entry?.path())).sum()
}

#[cfg(test)]
mod tests {
    use super::Account;

    #[test]
    fn an_account_is_exact_when_nothing_is_missing_and_nothing_twice() {
        let account = |kept, reported| Account { offered: 10, kept, reported, file_bytes: 0 };
        assert!(account(10, Some(0)).is_exact());
        assert!(account(7, Some(3)).is_exact());
        assert!(!account(7, Some(2)).is_exact());
        assert!(!account(10, Some(1)).is_exact());
        assert!(!account(10, None).is_exact());
        assert_eq!((account(7, None).lost(), account(11, None).lost()), (3, 0));
    }
}
