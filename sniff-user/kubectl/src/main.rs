//! The `kubectl-sniff` command, which kubectl runs as `kubectl sniff`: parse, run, exit status.

use std::process::ExitCode;

use clap::{CommandFactory as _, Parser as _, error::ErrorKind};
use kubectl_sniff::{args::Args, output::is_closed_pipe};
use sniff_cli::{exit, logging};

#[tokio::main]
async fn main() -> ExitCode {
    let args = match Args::try_parse().and_then(checked) {
        Ok(args) => args,
        Err(error) => return exit::usage("kubectl sniff", &error),
    };
    logging::start(args.quiet, args.verbose);
    match kubectl_sniff::run(args).await {
        Ok(status) => ExitCode::from(status),
        Err(error) if is_closed_pipe(&error) => ExitCode::from(exit::SUCCESS),
        Err(error) => {
            log::error!("{error:#}");
            ExitCode::from(exit::FAILURE)
        }
    }
}

fn checked(args: Args) -> Result<Args, clap::Error> {
    match args.check() {
        Ok(()) => Ok(args),
        Err(wrong) => Err(Args::command().error(ErrorKind::ArgumentConflict, wrong)),
    }
}
