//! The `kubectl-sniff` command, which kubectl runs as `kubectl sniff`: parse, run, exit status.

use std::process::ExitCode;

use clap::{CommandFactory as _, Parser as _, error::ErrorKind};
use kubectl_sniff::args::Args;
use sniff_cli::{exit, logging};

#[tokio::main]
async fn main() -> ExitCode {
    let args = match Args::try_parse().and_then(checked) {
        Ok(args) => args,
        Err(error) => return exit::usage("kubectl sniff", &error),
    };
    logging::start(args.quiet, args.verbose);
    exit::status(kubectl_sniff::run(args).await)
}

fn checked(args: Args) -> Result<Args, clap::Error> {
    match args.check() {
        Ok(()) => Ok(args),
        Err(wrong) => Err(Args::command().error(ErrorKind::ArgumentConflict, wrong)),
    }
}
