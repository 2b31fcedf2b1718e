//! `cargo xtask image` and `cargo xtask dist`: the programs built, and the crate `xtask/dist` run over them. What it
//! takes to pack and to hash is in that crate, so that no other command waits for it.

use std::{path::Path, process::Command};

use anyhow::Result;

use crate::process::{build_sniff, cargo, root, run};

/// Writes an OCI image archive of that name.
///
/// # Errors
/// Something does not build, or a library of the program is not found.
pub fn image(output: &Path, name: &str) -> Result<()> {
    let sniff = build_sniff()?;
    run(packer()
        .arg("image")
        .arg("--sniff")
        .arg(sniff)
        .arg("--output")
        .arg(root().join(output))
        .args(["--name", name]))
}

/// Writes the release folder.
///
/// # Errors
/// Something does not build.
pub fn release(url: &str) -> Result<()> {
    let sniff = build_sniff()?;
    let folder = sniff.with_file_name("");
    run(packer()
        .arg("release")
        .arg("--programs")
        .arg(folder)
        .arg("--output")
        .arg(root().join("target/dist"))
        .arg("--project")
        .arg(root())
        .args(["--url", url]))
}

fn packer() -> Command {
    let mut cargo = cargo();
    cargo.args(["run", "--quiet", "--package", "sniff-dist", "--"]);
    cargo
}
