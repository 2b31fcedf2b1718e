//! `cargo xtask test --kernel`: the kernel-facing tests in virtual machines that run Debian's kernels.
//!
//! Nothing is installed: a kernel is taken out of its packages ([`package`]), packed with the programs under test and
//! what they need into an initramfs ([`initramfs`]), and booted ([`machine`]).

mod initramfs;
mod machine;
mod package;
mod processor;

use std::{
    env,
    ffi::OsString,
    path::{Path, PathBuf},
    process::Command,
    time::Instant,
};

use anyhow::{Context as _, Result, ensure};

use self::processor::Processor;
use crate::{
    process::{self, run},
    setup,
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
    let kernels = kernels.iter().map(|name| package::named(name)).collect::<Result<Vec<_>>>()?;
    let xtask = env::current_exe().context("cannot tell where xtask is")?;
    let mut tested = Ok(());
    for processor in Processor::ALL {
        let of_it = kernels.iter().filter(|kernel| kernel.processor == processor);
        let names: Vec<_> = of_it.map(|kernel| kernel.name).collect();
        if names.is_empty() {
            continue;
        }
        setup::setup(processor.extras())?;
        let runner = format!("{} {RUNNER} {} --", xtask.display(), names.join(" "));
        let mut tests = processor.tests(&runner)?;
        tests.args(["--package", "sniff-tests", "--test", "sniff", "--"]).args(args);
        tested = tested.and(run(&mut tests));
    }
    tested
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
    let named = package::named(name)?;
    let kernel = named.fetch()?;
    let sniff = named.processor.sniff()?;
    let tools = named.tools()?;
    let programs = initramfs::Programs { sniff: &sniff, tests, args, tools: tools.as_deref() };
    let initramfs = initramfs::make(&kernel, &programs)
        .with_context(|| format!("cannot make an initramfs for {}", kernel.release))?;
    eprintln!("kernel {name}: booting {}", kernel.release);
    let start = Instant::now();
    machine::run(named.processor, &kernel, &initramfs)?;
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
