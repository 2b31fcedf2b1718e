//! `cargo xtask test`: all tests, each with no more rights than it needs.

use std::ffi::OsString;

use anyhow::{Context as _, Result};

use crate::{
    process::{self, cargo, run},
    setup,
};

/// Integration tests at a time: each has a node of its own, and times what it sees.
const THREADS: &str = "2";

/// Runs the unit tests as the caller, then the integration tests as root; `args` goes to both.
///
/// # Errors
/// Something needed is missing, something does not build, or a test fails.
pub fn test(args: &[OsString]) -> Result<()> {
    setup::setup(true)?;
    run(cargo().arg("test").arg("--").args(args))?;

    let sniff = process::build_sniff()?;
    let mut tests = cargo();
    if !process::is_root() {
        // Cargo builds as the caller and has only the test programs run as root.
        tests.env(runner_variable()?, "sudo --preserve-env");
    }
    tests
        .env("SNIFF_BIN", sniff)
        .env("RUST_TEST_THREADS", THREADS);
    run(tests
        .args(["test", "--package", "sniff-tests", "--"])
        .args(args))
}

/// The variable with which cargo is told how to start programs built for this machine.
fn runner_variable() -> Result<String> {
    let version = process::output(std::process::Command::new("rustc").arg("-vV"))?;
    let host = version.lines().find_map(|line| line.strip_prefix("host: "));
    let host = host.with_context(|| format!("no host in {version:?}"))?;
    Ok(format!(
        "CARGO_TARGET_{}_RUNNER",
        host.replace('-', "_").to_uppercase()
    ))
}
