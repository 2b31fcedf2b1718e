//! Measures what a capture costs the pod's traffic and the node, with sniff and with the tools that people
//! use otherwise. `cargo xtask bench` sets the machine up for it and runs it as root.

mod capture_file;
mod chart;
mod client;
mod cpu;
mod goals;
mod limits;
mod load;
mod machine;
mod measure;
mod median;
mod net;
#[path = "../../src/netns.rs"]
mod netns;
mod output;
mod report;
mod scenario;
mod summary;
mod tools;

use std::{
    env,
    path::PathBuf,
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use anyhow::{Context as _, Result, bail, ensure};
use clap::Parser;
use nix::{
    sys::signal::{SIGINT, SIGTERM},
    unistd::geteuid,
};
use tempfile::TempDir;

use crate::{
    limits::Limits,
    machine::Machine,
    measure::{Bench, Figures, Outcome, Sample, Stream},
    net::Net,
    report::Report,
    scenario::Scenario,
    tools::Tool,
};

/// Measures sniff beside tcpdump, dumpcap, netsniff-ng, xdpdump and, where it is on the PATH, ptcpdump
#[derive(Parser)]
#[command(name = "cargo xtask bench", bin_name = "cargo xtask bench")]
struct Args {
    /// About two minutes: three scenarios, with sniff, tcpdump and dumpcap, in three rounds
    #[arg(long)]
    quick: bool,

    /// How often each measurement is made (5, or 3 with --quick)
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    rounds: Option<u32>,

    /// Only these scenarios; `stream` stands for all whose names begin with `stream-`
    #[arg(long = "scenario", value_name = "NAME", num_args = 1.., value_parser = scenarios_named)]
    scenarios: Vec<Named>,

    /// These tools beside sniff, instead of the usual ones: tcpdump, tcpdump-default, tcpdump-immediate, dumpcap, netsniff-ng, xdpdump,
    /// ptcpdump; `none` for sniff alone
    #[arg(long = "tool", value_name = "NAME", num_args = 1..)]
    tools: Vec<String>,

    /// A build of sniff with its arguments, instead of the one just built; may be repeated to compare several
    #[arg(long = "sniff", value_name = "[LABEL=]PROGRAM [ARG…]", env = "SNIFF_BIN")]
    sniffs: Vec<Tool>,

    /// Write the results there: bench.json and bench.svg
    #[arg(long, value_name = "FOLDER")]
    out: Option<PathBuf>,

    /// Write the tables into docs/performance.md, and the chart beside it
    #[arg(long)]
    write_docs: bool,

    /// Where capture files are written meanwhile
    #[arg(long, value_name = "FOLDER", default_value = "/dev/shm")]
    scratch: PathBuf,

    /// Fail when a goal is missed by more than a tenth, or a measurement fails
    #[arg(long)]
    check: bool,
}

/// The scenarios that one name stands for.
type Named = Arc<[&'static Scenario]>;

fn scenarios_named(name: &str) -> Result<Named> {
    let scenarios = scenario::named(name);
    if scenarios.is_empty() {
        let names: Vec<_> = scenario::ALL.iter().map(|scenario| scenario.name).collect();
        bail!("there are {}", names.join(", "));
    }
    Ok(scenarios.into())
}

fn main() -> ExitCode {
    match run(Args::parse()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// What is measured.
struct Plan {
    scenarios: Vec<&'static Scenario>,
    tools: Vec<Tool>,
    rounds: u32,
}

fn run(args: Args) -> Result<ExitCode> {
    let plan = plan(&args)?;
    ensure!(geteuid().is_root(), "run it as root: it makes network namespaces and captures");
    ensure!(
        thread::available_parallelism()?.get() > 1,
        "one CPU is not enough: sender and tool have one each"
    );
    let versions =
        plan.tools.iter().map(|tool| Ok((tool.name.clone(), tool.version()?))).collect::<Result<_>>()?;

    let interrupted = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        signal_hook::flag::register(signal as i32, Arc::clone(&interrupted))?;
    }
    let scratch = TempDir::with_prefix_in("sniff-bench-", &args.scratch)
        .with_context(|| format!("cannot make a folder in {}", args.scratch.display()))?;
    let many_pods = plan.scenarios.iter().any(|scenario| scenario.is_about_pods());
    let net = Net::new(if many_pods { scenario::MANY_PODS } else { 1 })?;
    let softirqs_included = measure::softirqs_included(&net)?;
    let bench = Bench { net, scratch: scratch.path(), softirqs_included, interrupted: &interrupted };
    let (samples, limits) = measure_all(&plan, &bench)?;

    let sniffs: Vec<_> =
        plan.tools.iter().filter(|tool| tool.is_sniff()).map(|tool| tool.name.clone()).collect();
    let machine = Machine::this(softirqs_included)?;
    let report = Report::new(command_line(), machine, versions, &sniffs, &limits, samples);
    print!("{}", report.text());
    if let Some(folder) = &args.out {
        output::write(&report, &sniffs, folder)?;
    }
    if args.write_docs {
        output::write_docs(&report, &sniffs, &output::project())?;
    }
    Ok(if args.check && !report.is_good() { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn plan(args: &Args) -> Result<Plan> {
    let scenarios = match (args.scenarios.is_empty(), args.quick) {
        (false, _) => args.scenarios.iter().flat_map(|named| named.iter().copied()).collect(),
        (true, true) => scenario::QUICK.iter().filter_map(|name| scenario::find(name)).collect(),
        (true, false) => scenario::ALL.iter().collect(),
    };
    let mut tools = args.sniffs.clone();
    ensure!(!tools.is_empty(), "no sniff to measure: name one with --sniff, or use `cargo xtask bench`");
    if args.tools != ["none"] {
        let quick: Vec<String> = tools::QUICK.iter().map(ToString::to_string).collect();
        let named = if args.tools.is_empty() && args.quick { &quick } else { &args.tools };
        tools.extend(tools::others(named)?);
    }
    for (index, tool) in tools.iter().enumerate() {
        if tools[..index].iter().any(|other| other.name == tool.name) {
            bail!(
                "two tools are called {tool}; give each sniff a label of its own, as in --sniff new=PROGRAM"
            );
        }
    }
    Ok(Plan { scenarios, tools, rounds: args.rounds.unwrap_or(if args.quick { 3 } else { 5 }) })
}

/// Makes all measurements. Rounds are interleaved: what else the machine does meets all tools alike.
fn measure_all(plan: &Plan, bench: &Bench) -> Result<(Vec<Sample>, Vec<Limits>)> {
    let (mut samples, mut limits) = (Vec::new(), Vec::new());
    // The first file of a machine that has slept takes longer.
    Limits::measure(bench.scratch)?;
    for round in 1..=plan.rounds {
        limits.push(Limits::measure(bench.scratch)?);
        for scenario in &plan.scenarios {
            let mut bare_rate = bench.bare_rate(scenario)?;
            for tool in plan.tools.iter().filter(|tool| tool.can(scenario)) {
                let sample = bench.measure(scenario, tool, round, &mut bare_rate)?;
                eprintln!(
                    "{round}/{}  {:<12} {tool:<16} {}",
                    plan.rounds,
                    scenario.name,
                    progress(&sample.outcome)
                );
                samples.push(sample);
            }
        }
    }
    ensure!(!bench.interrupted.load(Ordering::Relaxed), "interrupted");
    Ok((samples, limits))
}

fn progress(outcome: &Outcome) -> String {
    let figures = match outcome {
        Outcome::Measured(figures) => figures,
        Outcome::Failed(reason) => return format!("failed: {reason}"),
    };
    let Figures { cost, tcp, account, idle, stream, .. } = figures;
    let cost = cost.map(|cost| {
        let (bare, in_path, process) = (cost.bare_ns, cost.in_path_ns, cost.process_ns);
        format!("bare {bare:5.0} ns, in path {in_path:+5.0}, process {process:5.0}")
    });
    let tcp =
        tcp.map(|tcp| format!("{:.1} of {:.1} Gbit/s", tcp.bits_per_s / 1e9, tcp.bare_bits_per_s / 1e9));
    let idle = idle.map(|idle| format!("{:.3} % of a CPU", idle * 100.0));
    let stream = stream.map(|Stream { process_ns, resident_bytes }| {
        let mib = resident_bytes as f64 / f64::from(1 << 20);
        format!("process {process_ns:.3} ns a byte, {mib:.1} MiB resident")
    });
    let account = account.map(|account| {
        let reported = account.reported.map_or("nothing".into(), |reported| reported.to_string());
        format!("{} of {} kept, {reported} reported lost", account.kept, account.offered)
    });
    [cost, tcp, idle, stream, account].into_iter().flatten().collect::<Vec<_>>().join("; ")
}

fn command_line() -> String {
    let words = env::args().skip(1).map(|word| if word.contains(' ') { format!("'{word}'") } else { word });
    ["cargo xtask bench".to_owned()].into_iter().chain(words).collect::<Vec<_>>().join(" ")
}
