//! From the samples of all rounds to one line for each tool in each scenario.

use serde::Serialize;

use crate::{
    measure::{Account, Cost, Figures, Outcome, Sample},
    median::median,
};

/// A tool in a scenario: medians over the rounds, unless said otherwise.
#[derive(Debug, Serialize)]
pub struct Summary {
    pub scenario: &'static str,
    pub tool: String,
    /// How many rounds gave figures.
    pub rounds: usize,
    /// Why others did not.
    pub failures: Vec<String>,
    /// Of a packet, in ns.
    pub cost: Option<MedianCost>,
    /// Of TCP.
    pub tcp: Option<MedianTcp>,
    /// What became of the packets of all rounds.
    pub loss: Option<Loss>,
    /// Bytes of file for each second of the process's CPU time.
    pub written_bytes_per_cpu_s: Option<f64>,
    /// Part of a CPU without traffic.
    pub idle: Option<f64>,
    /// Into a pipe.
    pub stream: Option<MedianStream>,
    /// Packets kept for each MiB, where only the last are.
    pub kept_per_mib: Option<f64>,
    /// From start to capture, in seconds.
    pub ready_s: f64,
    /// Peak resident memory in bytes.
    pub memory_bytes: f64,
}

/// CPU time of a packet, in ns.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct MedianCost {
    /// In the sender's path without a capture, at the same time.
    pub bare: f64,
    /// What a capture adds there.
    pub in_path: f64,
    /// In the process.
    pub process: f64,
    /// Both. The median of the sums, not the sum of the medians.
    pub total: f64,
}

/// TCP with a capture.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct MedianTcp {
    /// Rate without a capture, in bits a second.
    pub bare_bits_per_s: f64,
    /// Part of the rate that is left with it, each compared with the runs beside it.
    pub kept_rate: f64,
    /// CPU time of the process, in seconds.
    pub process_s: f64,
}

/// A capture that goes into a pipe.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct MedianStream {
    /// CPU time of the process, in ns, for each byte of the packets.
    pub process_ns: f64,
    /// Resident memory at the end of the load.
    pub resident_bytes: f64,
}

/// Packets lost.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Loss {
    /// Part of those offered.
    pub median: f64,
    /// In the worst round.
    pub worst: f64,
    /// In all rounds.
    pub packets: u64,
    /// In all rounds, as the tool tells; `None` when it tells nothing.
    pub reported: Option<u64>,
    /// Rounds in which kept and reported packets did not add up to those offered.
    pub inexact_rounds: usize,
}

/// One line for each pair of scenario and tool, in the order of their first samples.
pub fn summarise(samples: &[Sample]) -> Vec<Summary> {
    let mut pairs: Vec<(&'static str, &str)> = Vec::new();
    for sample in samples {
        let pair = (sample.scenario, sample.tool.as_str());
        if !pairs.contains(&pair) {
            pairs.push(pair);
        }
    }
    pairs.into_iter().map(|(scenario, tool)| one(scenario, tool, samples)).collect()
}

/// The line for `tool` in `scenario`.
pub fn find<'all>(all: &'all [Summary], scenario: &str, tool: &str) -> Option<&'all Summary> {
    all.iter().find(|summary| summary.scenario == scenario && summary.tool == tool)
}

fn one(scenario: &'static str, tool: &str, samples: &[Sample]) -> Summary {
    let mut measured: Vec<&Figures> = Vec::new();
    let mut failures = Vec::new();
    for sample in samples.iter().filter(|sample| sample.scenario == scenario && sample.tool == tool) {
        match &sample.outcome {
            Outcome::Measured(figures) => measured.push(figures),
            Outcome::Failed(reason) => failures.push(reason.clone()),
        }
    }
    let of =
        |figure: fn(&Figures) -> Option<f64>| median(measured.iter().filter_map(|figures| figure(figures)));
    let costs: Vec<Cost> = measured.iter().filter_map(|figures| figures.cost).collect();
    let accounts: Vec<Account> = measured.iter().filter_map(|figures| figures.account).collect();
    Summary {
        scenario,
        tool: tool.into(),
        rounds: measured.len(),
        failures,
        cost: median_cost(&costs),
        tcp: median_tcp(&measured),
        loss: loss(&accounts),
        written_bytes_per_cpu_s: of(written_per_cpu_s),
        idle: of(|figures| figures.idle),
        stream: median_stream(&measured),
        kept_per_mib: of(|figures| figures.kept_per_mib),
        ready_s: of(|figures| Some(figures.ready_s)).unwrap_or_default(),
        memory_bytes: of(|figures| Some(figures.memory_bytes as f64)).unwrap_or_default(),
    }
}

fn median_cost(costs: &[Cost]) -> Option<MedianCost> {
    let of = |figure: fn(&Cost) -> f64| median(costs.iter().map(figure));
    Some(MedianCost {
        bare: of(|cost| cost.bare_ns)?,
        in_path: of(|cost| cost.in_path_ns)?,
        process: of(|cost| cost.process_ns)?,
        total: of(Cost::total_ns)?,
    })
}

fn median_tcp(measured: &[&Figures]) -> Option<MedianTcp> {
    let runs: Vec<_> = measured.iter().filter_map(|figures| figures.tcp).collect();
    Some(MedianTcp {
        bare_bits_per_s: median(runs.iter().map(|tcp| tcp.bare_bits_per_s))?,
        kept_rate: median(runs.iter().map(|tcp| tcp.bits_per_s / tcp.bare_bits_per_s))?,
        process_s: median(runs.iter().map(|tcp| tcp.process_s))?,
    })
}

fn median_stream(measured: &[&Figures]) -> Option<MedianStream> {
    let streams: Vec<_> = measured.iter().filter_map(|figures| figures.stream).collect();
    Some(MedianStream {
        process_ns: median(streams.iter().map(|stream| stream.process_ns))?,
        resident_bytes: median(streams.iter().map(|stream| stream.resident_bytes as f64))?,
    })
}

fn loss(accounts: &[Account]) -> Option<Loss> {
    let shares = accounts.iter().map(|account| {
        if account.offered == 0 { 0.0 } else { account.lost() as f64 / account.offered as f64 }
    });
    Some(Loss {
        median: median(shares.clone())?,
        worst: shares.fold(0.0, f64::max),
        packets: accounts.iter().map(Account::lost).sum(),
        reported: accounts.iter().map(|account| account.reported).sum(),
        inexact_rounds: accounts.iter().filter(|account| !account.is_exact()).count(),
    })
}

fn written_per_cpu_s(figures: &Figures) -> Option<f64> {
    let (account, cost) = (figures.account?, figures.cost?);
    let cpu_s = cost.process_ns * account.offered as f64 / 1e9;
    (cpu_s > 0.0).then(|| account.file_bytes as f64 / cpu_s)
}

#[cfg(test)]
mod tests {
    use super::{find, summarise};
    use crate::measure::{Account, Cost, Figures, Outcome, Sample, Tcp};

    fn sample(tool: &str, round: u32, figures: Figures) -> Sample {
        Sample { scenario: "64", tool: tool.into(), round, outcome: Outcome::Measured(figures) }
    }

    fn packets(tool: &str, round: u32, in_path_ns: f64, process_ns: f64, lost: u64) -> Sample {
        let account =
            Account { offered: 1_000, kept: 1_000 - lost, reported: Some(lost), file_bytes: 100_000 };
        let cost = Cost { bare_ns: 1_400.0, in_path_ns, process_ns };
        sample(tool, round, Figures { cost: Some(cost), account: Some(account), ..Figures::default() })
    }

    #[test]
    fn rounds_of_a_pair_become_one_line() {
        let samples = [
            packets("sniff", 1, 200.0, 100.0, 0),
            packets("tcpdump", 1, 500.0, 120.0, 0),
            packets("sniff", 2, 100.0, 300.0, 100),
            packets("sniff", 3, 300.0, 50.0, 10),
            Sample { scenario: "64", tool: "sniff".into(), round: 4, outcome: Outcome::Failed("no".into()) },
        ];
        let summaries = summarise(&samples);
        assert_eq!(summaries.len(), 2);
        let sniff = find(&summaries, "64", "sniff").unwrap();
        assert_eq!((sniff.rounds, sniff.failures.len()), (3, 1));
        let cost = sniff.cost.unwrap();
        assert_eq!((cost.in_path, cost.process, cost.total), (200.0, 100.0, 350.0));
        let loss = sniff.loss.unwrap();
        assert_eq!((loss.median, loss.worst, loss.packets, loss.reported), (0.01, 0.1, 110, Some(110)));
        assert_eq!(loss.inexact_rounds, 0);
        assert_eq!(sniff.written_bytes_per_cpu_s, Some(1e9));
        assert!(find(&summaries, "1514", "sniff").is_none());
    }

    #[test]
    fn a_rate_is_compared_with_that_of_its_own_round() {
        let tcp = |round, bare, rate| {
            let tcp = Tcp { bare_bits_per_s: bare, bits_per_s: rate, process_s: 1.0 };
            sample("sniff", round, Figures { tcp: Some(tcp), ..Figures::default() })
        };
        let summaries = summarise(&[tcp(1, 10.0, 9.0), tcp(2, 20.0, 10.0), tcp(3, 10.0, 7.0)]);
        assert_eq!(summaries[0].tcp.unwrap().kept_rate, 0.7);
        assert!(summaries[0].cost.is_none() && summaries[0].loss.is_none());
    }

    #[test]
    fn a_tool_that_reports_nothing_is_not_exact() {
        let account = Account { offered: 10, kept: 10, reported: None, file_bytes: 0 };
        let figures = Figures { account: Some(account), ..Figures::default() };
        let loss = summarise(&[sample("mute", 1, figures)])[0].loss.unwrap();
        assert_eq!((loss.packets, loss.reported, loss.inexact_rounds), (0, None, 1));
    }
}
