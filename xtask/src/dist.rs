//! `cargo xtask image` and `cargo xtask dist`: the programs built, and the crate `xtask/dist` run over them. What it
//! takes to pack and to hash is in that crate, so that no other command waits for it.

mod client;

use std::{path::Path, process::Command};

use anyhow::Result;

use crate::{
    process::{build_sniff, cargo, output, root, run},
    setup::{self, CLIENTS, Extra},
};

/// Writes an OCI image archive of that name.
///
/// # Errors
/// Something does not build, or a library of the program is not found.
pub fn image(output: &Path, name: &str) -> Result<()> {
    let sniff = build_sniff(None)?;
    run(packer()
        .arg("image")
        .arg("--sniff")
        .arg(sniff)
        .arg("--output")
        .arg(root().join(output))
        .args(["--name", name]))
}

/// Writes the release folder, with the client for these systems, as rustc calls them; for all when none is named.
///
/// # Errors
/// Something needed is missing, or does not build.
pub fn release(url: &str, systems: &[String]) -> Result<()> {
    let all = CLIENTS.map(str::to_owned);
    let systems = if systems.is_empty() { &all[..] } else { systems };
    setup::setup(&[Extra::Dist])?;
    let commit = commit()?;
    let sniff = build_sniff(Some(&commit))?;
    let mut packer = packer();
    packer.arg("release").arg("--sniff").arg(sniff);
    for system in systems {
        packer.arg("--client").arg(format!("{system}={}", client::build(system, &commit)?.display()));
    }
    run(packer
        .arg("--output")
        .arg(root().join("target/dist"))
        .arg("--project")
        .arg(root())
        .args(["--url", url]))
}

/// What is checked out, so that a program can tell what it was built from.
fn commit() -> Result<String> {
    let describe = ["describe", "--always", "--exclude=*", "--dirty", "--abbrev=12"];
    Ok(output(Command::new("git").arg("-C").arg(root()).args(describe))?.trim().to_owned())
}

fn packer() -> Command {
    let mut cargo = cargo();
    cargo.args(["run", "--quiet", "--package", "sniff-dist", "--"]);
    cargo
}
