//! The client for each system, built on this one.

use std::path::PathBuf;

use anyhow::Result;

use super::zig;
use crate::process::{COMMIT, cargo, run, target};

/// The profile, in the workspace's Cargo.toml.
const PROFILE: &str = "client";
/// The oldest macOS that the client runs on: the first for Apple silicon.
const OLDEST_MACOS: &str = "11.0";

/// Builds the client for one of [`CLIENTS`](crate::setup::CLIENTS), and returns where it is.
///
/// # Errors
/// It does not build.
pub fn build(system: &str, commit: &str) -> Result<PathBuf> {
    let mut cargo = cargo();
    zig::link_by(&mut cargo, system)?;
    zig::list_crates(&mut cargo);
    // Programs for Windows tell when they were linked.
    cargo.env("SOURCE_DATE_EPOCH", super::date()?);
    run(cargo.env("MACOSX_DEPLOYMENT_TARGET", OLDEST_MACOS).env(COMMIT, commit).args([
        "zigbuild",
        "--package",
        "kubectl-sniff",
        "--profile",
        PROFILE,
        "--target",
        system,
    ]))?;
    let suffix = if system.contains("windows") { ".exe" } else { "" };
    Ok(target()?.join(system).join(PROFILE).join(format!("kubectl-sniff{suffix}")))
}
