//! `cargo xtask test --windows`: the client for Windows as it is released, run by Wine against the tests' own cluster.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};

use crate::{
    dist::{self, zig},
    process::{self, root, run},
    setup::{self, Extra, WINDOWS, WINE},
    test,
};

/// What Rust's programs ask for randomness; Wine has none before version 9.
const RANDOMNESS: &str = "bcryptprimitives.dll";
/// What stands in for it.
const STAND_IN: &str = "xtask/src/windows/randomness.c";

/// Where the tests are.
const TESTS: &str = "kubectl::windows::";

/// Builds the client and runs its tests; `args` go to the test program.
///
/// # Errors
/// Something needed is missing, something does not build, or a test fails.
pub fn test(args: &[OsString]) -> Result<()> {
    setup::setup(&[Extra::Tests, Extra::Dist, Extra::Windows])?;
    let sniff = process::build_sniff(None)?;
    let client = dist::client(WINDOWS)?;
    let wine = WINE.iter().map(PathBuf::from).find(|path| path.exists()).context("no Wine")?;
    // A Windows machine of the tests' own; made by whom they run as, or Wine would not take it.
    let machine = process::target()?.join("wine");
    run(process::as_root(&wine)
        .env("WINEPREFIX", &machine)
        .env("WINEDEBUG", "-all")
        .args(["wineboot", "--init"]))?;
    add_randomness(&machine)?;
    run(test::as_root()?
        .env("SNIFF_BIN", sniff)
        .env("SNIFF_WINDOWS_CLIENT", client)
        .env("SNIFF_WINE", wine)
        .env("WINEPREFIX", machine)
        .args(["test", "--package", "sniff-tests", "--test", "sniff", "--", "--ignored", TESTS])
        .args(args))
}

/// Sees to it that programs find randomness on a machine of Wine's.
fn add_randomness(machine: &Path) -> Result<()> {
    let library = machine.join("drive_c/windows/system32").join(RANDOMNESS);
    if library.exists() {
        return Ok(());
    }
    run(process::as_root(zig::program()?)
        .args(["cc", "-target", "x86_64-windows-gnu", "-shared", "-o"])
        .arg(library)
        .arg(root().join(STAND_IN))
        .arg("-ladvapi32"))
}
