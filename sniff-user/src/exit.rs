//! The exit status, in one place.

use std::process::ExitCode;

use crate::logging;

/// The capture ended as asked: by `--count`, `--duration`, a signal, or a reader that has seen enough.
pub const SUCCESS: u8 = 0;
/// Something failed; stderr says what.
pub const FAILURE: u8 = 1;
/// The command line is wrong. clap uses the same number.
pub const USAGE: u8 = 2;

/// What becomes of a command line that is not one to run: help and version go out as they are, an error as one line
/// that names `program`.
pub fn usage(program: &str, error: &clap::Error) -> ExitCode {
    if !error.use_stderr() {
        error.exit();
    }
    let rendered = error.render().to_string();
    let lines = rendered.lines().map(str::trim).take_while(|line| !line.starts_with("Usage:"));
    let told: Vec<&str> = lines.filter(|line| !line.is_empty() && !line.starts_with("For more")).collect();
    let told = told.join("; ");
    logging::tell(&format!("{} (see {program} --help)", told.trim_start_matches("error: ")));
    ExitCode::from(USAGE)
}
