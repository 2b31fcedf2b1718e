//! The command line: what `sniff` and its subcommands are asked for. A file a command, with its options.

mod agent;
mod capture;
mod conditions;
mod filter_words;
mod letters;
mod recording;
mod save;
mod serve;

use std::{env, ffi::OsStr, path::PathBuf, process::ExitCode};

use anyhow::Result;
use clap::{CommandFactory as _, Parser};
use clap_complete::Shell;
use sniff_cli::{exit, habits, logging, manual};
use sniff_protocol::Build;
use tokio::runtime;

use self::{agent::AgentArgs, capture::Args, save::SaveArgs, serve::ServeArgs};
use crate::system::privileges;

/// What sniff does instead of a capture of its own, by the first word of the command line.
#[derive(Debug, Parser)]
#[command(name = "sniff", version = Build::this(), max_term_width = 100, disable_help_subcommand = true)]
pub(crate) enum Command {
    /// The node's side of kubectl sniff: one session on this node, over stdin and stdout
    ///
    /// kubectl sniff runs this in sniff's pod on the node. What goes over stdin and stdout is frames, not pcapng.
    #[command(after_help = "Example: kubectl exec -i -n sniff sniff-x7k2p -- sniff serve")]
    Serve(ServeArgs),
    /// Write what a recorder (sniff --record) holds to a file, while it goes on
    ///
    /// What is written stays held, so that the next file may have it, too.
    #[command(after_help = "\
Examples:
  sniff save -w web.pcapng
  sniff save --last 5m -w - | wireshark -k -i -")]
    Save(SaveArgs),
    /// The main process of sniff's pod on a node: grants sessions within limits, and counts for Prometheus
    #[command(after_help = "\
Examples:
  sniff agent --max-sessions 2 --max-duration 1h
  sniff agent --check")]
    Agent(Box<AgentArgs>),
    /// Print the completions of sniff's options for a shell
    #[command(after_help = "Example: sniff completions bash > /etc/bash_completion.d/sniff")]
    Completions {
        /// Which shell
        shell: Shell,
    },
    /// Write sniff's manual pages into a folder
    #[command(after_help = "Example: sniff manual /usr/local/share/man/man1")]
    Manual {
        /// A folder that is there
        folder: PathBuf,
    },
}

impl Command {
    fn run(self) -> Result<()> {
        match self {
            Self::Serve(args) => serve::run(args),
            Self::Save(args) => save::run(args),
            Self::Agent(args) => block_on(agent::run(*args)),
            Self::Completions { shell } => manual::print_completions(Args::whole(), shell),
            Self::Manual { folder } => manual::write_pages(Args::whole(), &folder),
        }
    }

    /// Whether a command line with this first word is one of these; otherwise it is one of [`Args`].
    fn is_meant(first: Option<&OsStr>) -> bool {
        first.is_some_and(|word| Self::command().get_subcommands().any(|known| word == known.get_name()))
    }
}

/// Parses the command line, does what it says, and tells how that went.
pub fn main() -> ExitCode {
    if Command::is_meant(env::args_os().nth(1).as_deref()) {
        return match Command::try_parse() {
            Ok(command) => status(command.run()),
            Err(error) => exit::usage("sniff", &error, |_| None),
        };
    }
    let words = match letters::told_apart(env::args_os().collect()) {
        Ok(words) => words,
        Err(wrong) => return exit::misuse("sniff", &wrong),
    };
    let args = match Args::try_parse_from(words) {
        Ok(args) => args,
        Err(error) => return exit::usage("sniff", &error, habits::instead),
    };
    if let Err(wrong) = args.check() {
        return exit::misuse("sniff", &wrong);
    }
    logging::start(args.quiet, args.verbose);
    status(capture::run(args))
}

/// Runs it in a runtime, whose open files are among those that it takes to begin.
fn block_on(task: impl Future<Output = Result<()>>) -> Result<()> {
    privileges::ensure_open_files()?;
    runtime::Builder::new_current_thread().enable_all().build()?.block_on(task)
}

fn status(result: Result<()>) -> ExitCode {
    exit::status(result.map(|()| exit::SUCCESS).map_err(privileges::advise))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_word_decides_whose_command_line_it_is() {
        Command::command().debug_assert();
        let is_meant = |word: &str| Command::is_meant(Some(OsStr::new(word)));
        assert!(is_meant("serve") && is_meant("agent") && is_meant("save") && !Command::is_meant(None));
        for capture in ["--pod", "-h", "tcp", "help", "server", "--version"] {
            assert!(!is_meant(capture), "{capture}");
        }
    }
}
