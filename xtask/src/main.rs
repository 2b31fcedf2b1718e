//! `cargo xtask`: what sniff needs beyond plain cargo. Sets a machine up, runs `sniff` as root,
//! runs the tests and the benchmark that need root, and lints the crates that cargo cannot lint together.

mod bench;
mod debian;
mod demo;
mod deploy;
mod dist;
mod kernel;
mod lint;
mod netns;
mod process;
mod run;
mod setup;
mod test;
mod tidy;
mod windows;

use std::{ffi::OsString, path::PathBuf, process::ExitCode};

use anyhow::Result;
use clap::{Parser, Subcommand, builder::PossibleValuesParser};

use crate::setup::Extra;

#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", about = "Build, run and test sniff")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Install what is missing to build and run sniff; do nothing when all is there
    Setup {
        /// Also what the lints need: the standard library for Windows and macOS
        #[arg(long)]
        lint: bool,
        /// Also what the tests need: containerd, runc, CNI plugins, tshark, tcpdump, Helm and others
        #[arg(long)]
        tests: bool,
        /// Also what the benchmark compares with: tcpdump, dumpcap, netsniff-ng, xdpdump and iperf3
        #[arg(long)]
        bench: bool,
        /// Also what the tests in virtual machines need: QEMU and others
        #[arg(long)]
        kernels: bool,
        /// And those with a kernel for arm64
        #[arg(long)]
        arm64: bool,
        /// And for `dist`
        #[arg(long)]
        dist: bool,
        /// And Wine, which runs the client for Windows
        #[arg(long)]
        windows: bool,
    },
    /// Build sniff and run it as root; without arguments, capture a made-up pod as a demo
    Run {
        /// Arguments for sniff
        #[arg(last = true)]
        args: Vec<OsString>,
    },
    /// Run the unit tests, then the integration tests as root
    Test {
        /// Instead, run the kernel-facing tests in virtual machines with these kernels of Debian: 5.10, 6.1, 6.12,
        /// 6.12-rt, 7, 6.12-arm64
        #[arg(long, value_name = "KERNEL", num_args = 1..)]
        kernel: Vec<String>,
        /// Instead, run the tests of the client for Windows, under Wine
        #[arg(long, conflicts_with = "kernel")]
        windows: bool,
        /// Arguments for the test programs, such as a part of a test's name
        #[arg(last = true)]
        args: Vec<OsString>,
    },
    /// Build sniff and measure it beside tcpdump, dumpcap and others, as root; `--help` says what and how
    #[command(disable_help_flag = true)]
    Bench {
        /// Arguments for the benchmark
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<OsString>,
    },
    /// Check format, clippy, the client for Windows and macOS, documentation, generated files and the project's own rules
    Lint,
    /// Make deploy/sniff.yaml, one file for `kubectl apply -f`, and the chart's files from those of kustomize
    Deploy,
    /// Make sniff's image, an OCI archive for `ctr images import`, `podman load` or a registry
    Image {
        /// Where to write it
        #[arg(short, long, default_value = "target/sniff-image.tar")]
        output: PathBuf,
        /// The name that it goes by where it is imported
        #[arg(long, default_value = concat!("localhost/sniff:", env!("CARGO_PKG_VERSION")))]
        name: String,
    },
    /// Make a release in target/dist: archives for each system, checksums, krew manifests
    Dist {
        /// Where the archives will be downloaded from
        #[arg(long, default_value = "https://example.com/sniff")]
        url: String,
        /// Only the client for this system, as rustc calls it; may be repeated
        #[arg(long = "client", value_name = "TARGET", value_parser = PossibleValuesParser::new(setup::CLIENTS))]
        clients: Vec<String>,
        /// Instead, check what is there: all of it against each other, and that it can be installed
        #[arg(long, value_name = "FOLDER", num_args = 0..=1, default_missing_value = "target/dist")]
        check: Option<PathBuf>,
    },
    /// The demo alone, for `run` to start as root
    #[command(hide = true)]
    Demo,
    /// Run a test program in virtual machines, for cargo to start in the test program's place
    #[command(hide = true)]
    Boot {
        kernels: Vec<String>,
        /// The test program and its arguments
        #[arg(last = true)]
        tests: Vec<OsString>,
    },
}

fn main() -> ExitCode {
    match run(Cli::parse()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(Cli { command }: Cli) -> Result<ExitCode> {
    match command {
        Command::Setup { lint, tests, bench, kernels, arm64, dist, windows } => {
            let extras = [
                (lint, Extra::Lint),
                (tests, Extra::Tests),
                (bench, Extra::Bench),
                (kernels, Extra::Kernels),
                (arm64, Extra::Arm64),
                (dist, Extra::Dist),
                (windows, Extra::Windows),
            ];
            let extras: Vec<_> =
                extras.into_iter().filter_map(|(wanted, extra)| wanted.then_some(extra)).collect();
            if !setup::setup(&extras)? {
                eprintln!("setup: everything is there");
            }
        }
        Command::Run { args } => return run::run(&args),
        Command::Test { windows: true, args, .. } => windows::test(&args)?,
        Command::Test { kernel, args, .. } if kernel.is_empty() => test::test(&args)?,
        Command::Test { kernel, args, .. } => kernel::test(&kernel, &args)?,
        Command::Boot { kernels, tests } => kernel::boot(&kernels, &tests)?,
        Command::Bench { args } => return bench::bench(&args),
        Command::Lint => lint::lint()?,
        Command::Deploy => deploy::write(process::root())?,
        Command::Image { output, name } => dist::image(&output, &name)?,
        Command::Dist { check: Some(folder), clients, .. } => dist::check(&folder, &clients)?,
        Command::Dist { url, clients, check: None } => dist::release(&url, &clients)?,
        Command::Demo => return demo::demo(),
    }
    Ok(ExitCode::SUCCESS)
}
