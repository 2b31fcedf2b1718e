//! `cargo xtask`: what sniff needs beyond plain cargo. Sets a machine up, runs `sniff` as root,
//! runs the tests that need root, and lints the crates that cargo cannot lint together.

mod demo;
mod lint;
mod netns;
mod process;
mod run;
mod setup;
mod test;
mod tidy;

use std::{ffi::OsString, process::ExitCode};

use anyhow::Result;
use clap::{Parser, Subcommand};

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
        /// Also what the tests need: containerd, runc, CNI plugins, tshark, tcpdump and others
        #[arg(long)]
        tests: bool,
    },
    /// Build sniff and run it as root; without arguments, capture a made-up pod as a demo
    Run {
        /// Arguments for sniff
        #[arg(last = true)]
        args: Vec<OsString>,
    },
    /// Run the unit tests, then the integration tests as root
    Test {
        /// Arguments for the test programs, such as a part of a test's name
        #[arg(last = true)]
        args: Vec<OsString>,
    },
    /// Check format, clippy, documentation and the project's own rules
    Lint,
    /// The demo alone, for `run` to start as root
    #[command(hide = true)]
    Demo,
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
        Command::Setup { tests } => {
            if !setup::setup(tests)? {
                eprintln!("setup: everything is there");
            }
        }
        Command::Run { args } => return run::run(&args),
        Command::Test { args } => test::test(&args)?,
        Command::Lint => lint::lint()?,
        Command::Demo => return demo::demo(),
    }
    Ok(ExitCode::SUCCESS)
}
