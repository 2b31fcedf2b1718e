//! The `kubectl-sniff` command, which kubectl runs as `kubectl sniff`: parse, run, exit status.

use std::process::ExitCode;

use clap::Parser as _;
use kubectl_sniff::args::Args;
use sniff_cli::{exit, habits, logging};

#[tokio::main]
async fn main() -> ExitCode {
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(error) => return exit::usage("kubectl sniff", &error, habits::instead_in_a_cluster),
    };
    if let Err(wrong) = args.check() {
        return exit::misuse("kubectl sniff", wrong);
    }
    logging::start(args.quiet, args.verbose);
    exit::status(kubectl_sniff::run(args).await)
}
