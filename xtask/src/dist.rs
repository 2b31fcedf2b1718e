//! `cargo xtask image` and `cargo xtask dist`: the programs built, and the crate `xtask/dist` run over them. What it
//! takes to pack and to hash is in that crate, so that no other command waits for it.

mod client;
pub mod node;
pub mod zig;

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::Result;

use crate::{
    process::{build_sniff, cargo, output, path_with, root, run},
    setup::{self, CLIENTS, Extra, NODES},
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

/// Builds the client for a system as it is released, and returns where it is.
///
/// # Errors
/// It does not build.
pub fn client(system: &str) -> Result<PathBuf> {
    client::build(system, &commit()?)
}

/// Writes the release folder, with the client for these systems, as rustc calls them; for all when none is named.
///
/// # Errors
/// Something needed is missing, or does not build.
pub fn release(url: &str, systems: &[String]) -> Result<()> {
    let systems = or_all(systems);
    setup::setup(&[Extra::Dist])?;
    let commit = commit()?;
    let mut packer = packer();
    packer.arg("release");
    for system in NODES {
        let sniff = node::build(system, Some(&commit))?;
        packer.arg("--node").arg(format!("{}={}", sniff.display(), node::root(system)?.display()));
    }
    for system in &systems {
        packer.arg("--client").arg(format!("{system}={}", client::build(system, &commit)?.display()));
    }
    provenance(&mut packer)?;
    run(packer
        .arg("--output")
        .arg(root().join("target/dist"))
        .arg("--project")
        .arg(root())
        .args(["--url", url, "--maintainer", &last_commit("%an <%ae>")?])
        .args(["--date", &date()?]))
}

/// When what is checked out was committed, in seconds since 1970, unless the environment tells another time
/// (<https://reproducible-builds.org/specs/source-date-epoch/>).
fn date() -> Result<String> {
    env::var("SOURCE_DATE_EPOCH").or_else(|_| last_commit("%ct"))
}

/// Tells the packer what is built, by what and with what.
fn provenance(packer: &mut Command) -> Result<()> {
    packer.args(["--commit", &last_commit("%H")?]);
    if !git(&["status", "--porcelain", "--untracked-files=no"])?.is_empty() {
        packer.arg("--modified");
    }
    for word in ["cargo".to_owned(), "xtask".to_owned()].into_iter().chain(env::args().skip(1)) {
        packer.arg("--word").arg(word);
    }
    for (name, version) in setup::tools()? {
        packer.arg("--tool").arg(format!("{name}={version}"));
    }
    Ok(())
}

/// What git says of the commit that is checked out.
fn last_commit(format: &str) -> Result<String> {
    git(&["log", "-1", &format!("--format={format}")])
}

/// Checks the release in a folder, which must have the client for these systems; for all when none is named.
///
/// # Errors
/// Something is wrong with it: all that is, is told.
pub fn check(folder: &Path, systems: &[String]) -> Result<()> {
    let mut packer = packer();
    packer.arg("check").arg(root().join(folder)).env("PATH", path_with([setup::helm_folder()?])?);
    for system in NODES {
        packer.arg("--node").arg(system);
    }
    for system in or_all(systems) {
        packer.arg("--client").arg(system);
    }
    for private in [env::home_dir().as_deref(), Some(root())].into_iter().flatten() {
        // As a folder: others may begin like it.
        packer.arg("--private").arg(format!("{}/", private.display()));
    }
    run(&mut packer)
}

fn or_all(systems: &[String]) -> Vec<String> {
    if systems.is_empty() { CLIENTS.map(str::to_owned).to_vec() } else { systems.to_vec() }
}

/// What is checked out, so that a program can tell what it was built from.
fn commit() -> Result<String> {
    git(&["describe", "--always", "--exclude=*", "--dirty", "--abbrev=12"])
}

/// What git says of the project.
fn git(args: &[&str]) -> Result<String> {
    Ok(output(Command::new("git").arg("-C").arg(root()).args(args))?.trim().to_owned())
}

fn packer() -> Command {
    let mut cargo = cargo();
    cargo.args(["run", "--quiet", "--package", "sniff-dist", "--"]);
    cargo
}
