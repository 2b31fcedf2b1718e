//! `cargo xtask lint`: every check that needs no running program.

use anyhow::Result;

use crate::{
    deploy,
    process::{cargo, nightly, root, run},
    tidy,
};

/// Checks format, both halves with clippy, the documentation, the project's own rules, and that generated files are
/// up to date.
///
/// # Errors
/// The first check that fails.
pub fn lint() -> Result<()> {
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
    run(cargo().env("RUSTDOCFLAGS", "--deny warnings").args([
        "doc",
        "--no-deps",
        "--workspace",
        "--exclude",
        "sniff-ebpf",
    ]))
}
