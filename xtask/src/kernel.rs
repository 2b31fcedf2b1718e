//! `cargo xtask test --kernel`: the kernel-facing tests in virtual machines that run Debian's kernels.
//!
//! Nothing is installed: a kernel is taken out of its packages ([`package`]), packed with the programs under test and
//! what they need into an initramfs ([`initramfs`]), and booted ([`machine`]).

mod initramfs;
mod machine;
mod package;

use std::{
    env,
    ffi::OsString,
    path::{Path, PathBuf},
    process::Command,
    time::Instant,
};

use anyhow::{Context as _, Result, ensure};

use crate::{
    process::{self, cargo, run},
    setup::{self, Extra},
    test,
};

/// Where the tests that ask something of the kernel are: the module of that name.
const TESTS: &str = "kernel::";

/// The program that boots kernels instead of running the tests here; cargo tells it which tests it has built.
const RUNNER: &str = "boot";

/// Builds everything and runs the kernel tests on each of `kernels`, by their names; `args`, if there are any, choose
/// among all tests.
///
/// # Errors
/// A kernel's name is unknown, something needed is missing or does not build, or a test fails on one of the kernels.
pub fn test(kernels: &[String], args: &[OsString]) -> Result<()> {
    for name in kernels {
        package::named(name)?;
    }
    setup::setup(&[Extra::Tests, Extra::Kernels])?;
    process::build_sniff(None)?;
    let xtask = env::current_exe().context("cannot tell where xtask is")?;
    let runner = format!("{} {RUNNER} {} --", xtask.display(), kernels.join(" "));
    run(cargo()
        .env(test::runner_variable()?, runner)
        .args(["test", "--package", "sniff-tests", "--test", "sniff", "--"])
        .args(args))
}

/// Runs a test program on each of `kernels`; `command` is its path and its arguments.
///
/// # Errors
/// A kernel cannot be had or booted, or a test failed on it; the error names all such kernels.
pub fn boot(kernels: &[String], command: &[OsString]) -> Result<()> {
    let (tests, args) = command.split_first().context("no test program")?;
    let args = if args.is_empty() { &[TESTS.into()] } else { args };
    let mut failed = Vec::new();
    for name in kernels {
        if let Err(error) = test_on(name, tests.as_ref(), args) {
            eprintln!("kernel {name}: {error:#}");
            failed.push(name.as_str());
        }
    }
    ensure!(failed.is_empty(), "the tests failed on kernel {}", failed.join(", "));
    Ok(())
}

fn test_on(name: &str, tests: &Path, args: &[OsString]) -> Result<()> {
    let kernel = package::named(name)?.fetch()?;
    let sniff = process::built_sniff()?;
    let initramfs = initramfs::make(&kernel, &initramfs::Programs { sniff: &sniff, tests, args })
        .with_context(|| format!("cannot make an initramfs for {}", kernel.release))?;
    eprintln!("kernel {name}: booting {}", kernel.release);
    let start = Instant::now();
    machine::run(&kernel, &initramfs)?;
    eprintln!("kernel {name}: all passed on {} in {} s", kernel.release, start.elapsed().as_secs());
    Ok(())
}

/// The folder that keeps what belongs to a kernel, below the target folder.
fn folder(name: &str) -> Result<PathBuf> {
    Ok(process::target()?.join("kernels").join(name))
}

/// Makes `link` a symbolic link.
fn symlink(to: &str, link: &Path) -> Result<()> {
    std::os::unix::fs::symlink(to, link).with_context(|| format!("cannot make the link {}", link.display()))
}

/// A command that must be on the PATH, or in the folders that only root's PATH has.
fn tool(name: &str) -> Result<Command> {
    setup::find_command(name).map(Command::new).with_context(|| format!("no {name} on the PATH"))
}
