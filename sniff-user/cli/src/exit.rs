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
    logging::tell(&format!("{} (see {program} --help)", words(error)));
    ExitCode::from(USAGE)
}

/// What is wrong, in one line. clap's tip to write an unknown option behind `--` is left out: there it would be taken for a
/// part of the filter.
fn words(error: &clap::Error) -> String {
    let rendered = error.render().to_string();
    let lines = rendered.lines().map(str::trim).take_while(|line| !line.starts_with("Usage:"));
    let is_told = |line: &&str| {
        !line.is_empty() && !line.starts_with("For more") && !line.starts_with("tip: to pass '")
    };
    let told: Vec<&str> = lines.filter(is_told).collect();
    told.join("; ").trim_start_matches("error: ").to_owned()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[arg(long, value_parser = crate::options::duration)]
        duration: Option<Duration>,
        filter: Vec<String>,
    }

    #[test]
    fn a_tip_that_does_not_work_is_not_given() {
        let words = |option| words(&Line::try_parse_from(["sniff", "web-0", option, "5s"]).unwrap_err());
        for wrong in ["-z", "--xyzzy", "-z5"] {
            let error = words(wrong);
            assert!(error.starts_with("unexpected argument '-") && !error.contains("tip"), "{error}");
        }
        let error = words("--durations");
        assert!(error.contains("tip: a similar argument exists: '--duration'"), "{error}");
    }
}
