//! The client for each system, built on this one: zig links it and compiles the C code in it, for all of them.

use std::{
    env,
    ffi::OsString,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};

use crate::{
    process::{COMMIT, cargo, root, run, target},
    setup,
};

/// The profile, in the workspace's Cargo.toml.
const PROFILE: &str = "client";
/// What the client uses of macOS's own libraries: text that tells the linker which names they have.
const FRAMEWORKS: &str = "xtask/src/dist/frameworks";
/// The oldest macOS that the client runs on: the first for Apple silicon.
const OLDEST_MACOS: &str = "11.0";

/// Builds the client for one of [`setup::CLIENTS`], and returns where it is.
///
/// # Errors
/// It does not build.
pub fn build(system: &str, commit: &str) -> Result<PathBuf> {
    let tools = setup::zig_folder()?;
    let path = env::var_os("PATH").unwrap_or_default();
    let folders = [tools.join("bin")].into_iter().chain(env::split_paths(&path));
    run(cargo()
        .env("PATH", env::join_paths(folders)?)
        .env("PYTHONPATH", &tools)
        .env("CARGO_ENCODED_RUSTFLAGS", flags(system)?)
        .env("MACOSX_DEPLOYMENT_TARGET", OLDEST_MACOS)
        .env(COMMIT, commit)
        .args(["zigbuild", "--package", "kubectl-sniff", "--profile", PROFILE, "--target", system]))?;
    let suffix = if system.contains("windows") { ".exe" } else { "" };
    Ok(target()?.join(system).join(PROFILE).join(format!("kubectl-sniff{suffix}")))
}

/// Flags for rustc, as cargo wants them in a variable: no path of this machine gets into what is built.
fn flags(system: &str) -> Result<OsString> {
    let home = env::home_dir().context("there is no home folder")?;
    let cargo_home = env::var_os("CARGO_HOME").map_or_else(|| home.join(".cargo"), PathBuf::from);
    let mut flags = OsString::new();
    for (from, to) in [(cargo_home.as_path(), "/cargo"), (root(), "/sniff")] {
        push(&mut flags, "--remap-path-prefix", from, to);
    }
    if system.ends_with("-darwin") {
        flags.push(format!("\x1f-Lframework={}", root().join(FRAMEWORKS).display()));
    }
    Ok(flags)
}

fn push(flags: &mut OsString, option: &str, from: &Path, to: &str) {
    if !flags.is_empty() {
        flags.push("\x1f");
    }
    flags.push(option);
    flags.push("=");
    flags.push(from);
    flags.push("=");
    flags.push(to);
}
