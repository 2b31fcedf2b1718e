//! `cargo xtask lint`: every check that needs no running program.

use std::process::Command;

use anyhow::Result;

use crate::{
    deploy,
    process::{cargo, nightly, root, run},
    setup::{self, Extra, OTHER_SYSTEMS},
    tidy,
};

/// Checks format, both halves with clippy, the client for other systems, the documentation, the project's own rules,
/// and that generated files are up to date.
///
/// # Errors
/// The first check that fails.
pub fn lint() -> Result<()> {
    setup::setup(&[Extra::Lint])?;
    tidy::tidy(root())?;
    deploy::check(root())?;
    run(cargo().args(["fmt", "--all", "--check"]))?;
    run(cargo()
        .args(["clippy", "--workspace", "--exclude", "sniff-ebpf", "--all-targets"])
        .args(["--", "--deny", "warnings"]))?;
    // A crate for another target, with a panic handler of its own, cannot be linted with the rest.
    run(nightly("cargo")
        .args(["clippy", "--package", "sniff-ebpf"])
        .args(["--target", "bpfel-unknown-none", "-Zbuild-std=core"])
        .args(["--", "--deny", "warnings"]))?;
    run(&mut client_elsewhere())?;
    run(cargo().env("RUSTDOCFLAGS", "--deny warnings").args([
        "doc",
        "--no-deps",
        "--workspace",
        "--exclude",
        "sniff-ebpf",
    ]))
}

/// Clippy for the client as other systems have it. Nothing is linked, so `true` can play the compiler of the C code in
/// it (ring's): Debian has none for macOS.
fn client_elsewhere() -> Command {
    let mut cargo = cargo();
    cargo
        .envs([("TARGET_CC", "true"), ("TARGET_AR", "true"), ("SDKROOT", "/")])
        .args(["clippy", "--package", "kubectl-sniff", "--all-targets"])
        .args(OTHER_SYSTEMS.map(|target| ["--target", target]).concat())
        .args(["--", "--deny", "warnings"]);
    cargo
}
