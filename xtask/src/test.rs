//! `cargo xtask test`: all tests, each with no more rights than it needs.

use std::{ffi::OsString, process::Command};

use anyhow::{Context as _, Result};

use crate::{
    dist,
    process::{self, cargo, run},
    setup::{self, Extra},
};

/// Integration tests at a time: each has a node of its own, and most of its time it waits.
const THREADS: &str = "6";

/// Runs the unit tests as the caller where they can be, then the others and the integration tests as root; `args`
/// goes to all of them.
///
/// # Errors
/// Something needed is missing, something does not build, or a test fails.
pub fn test(args: &[OsString]) -> Result<()> {
    setup::setup(&[Extra::Tests])?;
    run(cargo().arg("test").arg("--").args(args))?;
    // Its library alone: the classifier itself is built for BPF.
    run(cargo().args(["test", "--package", "sniff-ebpf", "--lib", "--"]).args(args))?;
    // Those that make network namespaces, or have rights to give up.
    run(as_root()?
        .args(["test", "--package", "sniff-user", "--package", "sniff-sandbox", "--lib", "--", "--ignored"])
        .args(args))?;

    let sniff = process::build_sniff(None)?;
    let image = sniff.with_file_name("sniff-image.tar");
    dist::image(&image, concat!("localhost/sniff:", env!("CARGO_PKG_VERSION")))?;
    run(as_root()?
        .env("SNIFF_BIN", sniff)
        .env("SNIFF_IMAGE_ARCHIVE", image)
        .env("RUST_TEST_THREADS", THREADS)
        .args(["test", "--package", "sniff-tests", "--"])
        .args(args))
}

/// A cargo that builds as the caller and has only the test programs run as root.
///
/// # Errors
/// There is no rustc.
pub fn as_root() -> Result<Command> {
    let mut cargo = cargo();
    if !process::is_root() {
        cargo.env(runner_variable(&host()?), "sudo --preserve-env");
    }
    Ok(cargo)
}

/// The variable with which cargo is told how to start programs built for a system.
pub fn runner_variable(system: &str) -> String {
    format!("CARGO_TARGET_{}_RUNNER", system.replace('-', "_").to_uppercase())
}

/// What rustc calls this machine.
///
/// # Errors
/// There is no rustc.
pub fn host() -> Result<String> {
    let version = process::output(Command::new("rustc").arg("-vV"))?;
    let host = version.lines().find_map(|line| line.strip_prefix("host: "));
    host.map(str::to_owned).with_context(|| format!("no host in {version:?}"))
}
