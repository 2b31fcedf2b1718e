//! `cargo xtask bench`: builds `sniff` and the benchmark, a crate of its own for the sake of xtask's build
//! time, and runs it as root.

use std::{ffi::OsString, process::ExitCode};

use anyhow::Result;

use crate::{
    process::{self, cargo, run},
    run::replace_by,
    setup::{self, Extra},
};

/// Runs the benchmark with `args` in this process's place.
///
/// # Errors
/// Something needed is missing, or does not build or start.
pub fn bench(args: &[OsString]) -> Result<ExitCode> {
    setup::setup(&[Extra::Bench])?;
    run(cargo().args(["build", "--release", "--package", "sniff-bench"]))?;
    let mut bench = process::as_root(process::built("sniff-bench")?);
    if takes_a_build(args) {
        bench.env("SNIFF_BIN", process::build_sniff(None)?);
    }
    Err(replace_by(bench.env("SNIFF_PROJECT", process::root()).args(args)))
}

/// Whether `sniff` must be built: not when builds are named, nor for the help.
fn takes_a_build(args: &[OsString]) -> bool {
    let spares_it = |arg: &OsString| {
        arg == "--help" || arg == "-h" || arg == "--sniff" || arg.to_string_lossy().starts_with("--sniff=")
    };
    !args.iter().any(spares_it)
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;

    use super::takes_a_build;

    #[test]
    fn a_named_sniff_is_not_built() {
        let args = |line: &str| line.split(' ').map(OsString::from).collect::<Vec<_>>();
        assert!(!takes_a_build(&args("--quick --sniff new=/bin/sniff")));
        assert!(!takes_a_build(&args("--sniff=/bin/sniff")));
        assert!(!takes_a_build(&args("--help")));
        assert!(takes_a_build(&args("--quick --out sniff")));
    }
}
