//! Completions and manual pages, which each program writes of itself.

use std::{
    io::{self, Write as _},
    path::Path,
};

use anyhow::{Context as _, Result};
use clap::Command;
use clap_complete::{Shell, generate};

/// Prints the completions of `command` for a shell.
///
/// # Errors
///
/// When standard output fails.
pub fn print_completions(mut command: Command, shell: Shell) -> Result<()> {
    let name = command.get_name().to_owned();
    let mut script = Vec::new();
    generate(shell, &mut command, name, &mut script);
    Ok(io::stdout().write_all(&script)?)
}

/// Writes a page for `command`, and one for each of its subcommands, into a folder that is there.
///
/// # Errors
///
/// When they cannot be written.
pub fn write_pages(command: Command, folder: &Path) -> Result<()> {
    clap_mangen::generate_to(command, folder)
        .with_context(|| format!("cannot write manual pages into {}", folder.display()))
}
