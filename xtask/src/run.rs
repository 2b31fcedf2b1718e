//! `cargo xtask run`: `sniff` built and started as root, or the demo when there is nothing to pass.

use std::{
    env,
    ffi::OsString,
    fs::OpenOptions,
    io::ErrorKind,
    os::unix::{fs::OpenOptionsExt as _, process::CommandExt as _},
    process::{Command, ExitCode},
};

use anyhow::{Context as _, Result};

use crate::{demo, process, setup};

/// Runs `sniff` with `args` in this process's place; without `args`, the demo.
///
/// # Errors
/// Something needed is missing, or sniff does not build or start.
pub fn run(args: &[OsString]) -> Result<ExitCode> {
    setup::setup(&[])?;
    let sniff = process::build_sniff(None)?;
    if !args.is_empty() {
        return Err(replace_by(process::as_root(sniff).args(args)));
    }
    if process::is_root() {
        return demo::demo();
    }
    // Made here, the file belongs to whoever ran the command, and not to root.
    let made = OpenOptions::new().write(true).create_new(true).mode(0o600).open(demo::FILE);
    if let Err(error) = made
        && error.kind() != ErrorKind::AlreadyExists
    {
        return Err(error).context(format!("cannot write {}", demo::FILE));
    }
    let xtask = env::current_exe().context("cannot tell where xtask is")?;
    Err(replace_by(process::as_root(xtask).arg("demo")))
}

/// Becomes `command`, so that signals and the exit code are its own; returns only on failure.
pub fn replace_by(command: &mut Command) -> anyhow::Error {
    let error = command.exec();
    anyhow::Error::new(error).context(format!("cannot run `{}`", process::line(command)))
}
