//! The exit status, in one place.

use std::{io, process::ExitCode};

use crate::logging;

/// The capture ended as asked: by `--count`, `--duration`, a signal, or a reader that has seen enough.
pub const SUCCESS: u8 = 0;
/// Something failed; stderr says what.
pub const FAILURE: u8 = 1;
/// The command line is wrong. clap uses the same number.
pub const USAGE: u8 = 2;

/// What becomes of a command that has ended. An error is told; a reader that has seen enough is none.
pub fn status(result: anyhow::Result<u8>) -> ExitCode {
    ExitCode::from(match result {
        Ok(status) => status,
        Err(error) if is_closed_pipe(&error) => SUCCESS,
        Err(error) => {
            log::error!("{error:#}");
            FAILURE
        }
    })
}

/// Whether an error says that nobody reads an output any more.
pub fn is_closed_pipe(error: &anyhow::Error) -> bool {
    let mut causes = error.chain().filter_map(|cause| cause.downcast_ref::<io::Error>());
    causes.any(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

/// What becomes of a command line that is not one to run: help and version go out as they are, an error as one line
/// that names `program`.
pub fn usage(program: &str, error: &clap::Error) -> ExitCode {
    if !error.use_stderr() {
        error.exit();
    }
    logging::tell(&format!("{} (see {program} --help)", words(error)));
    ExitCode::from(USAGE)
}

/// What is wrong, in one line. clap's tip to write an unknown option behind `--` is left out: there it would be taken for a
/// part of the filter.
pub fn words(error: &clap::Error) -> String {
    let rendered = error.render().to_string();
    let lines = rendered.lines().map(str::trim).take_while(|line| !line.starts_with("Usage:"));
    let is_told = |line: &&str| {
        !line.is_empty() && !line.starts_with("For more") && !line.starts_with("tip: to pass '")
    };
    let told: Vec<&str> = lines.filter(is_told).collect();
    told.join("; ").trim_start_matches("error: ").to_owned()
}
