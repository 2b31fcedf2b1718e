//! The exit status, in one place.

use std::{error::Error as _, io, process::ExitCode};

use clap::error::{ContextKind, ContextValue, ErrorKind};

use crate::logging;

/// The capture ended as asked: by `--count`, `--duration`, a signal, or a reader that has seen enough.
pub const SUCCESS: u8 = 0;
/// Something failed; stderr says what.
pub const FAILURE: u8 = 1;
/// The command line is wrong. clap uses the same number.
pub const USAGE: u8 = 2;

/// What becomes of a command that has ended. An error is told; a reader that has seen enough is none.
pub fn status(result: anyhow::Result<u8>) -> ExitCode {
    ExitCode::from(match result {
        Ok(status) => status,
        Err(error) if is_closed_pipe(&error) => SUCCESS,
        Err(error) => {
            log::error!("{error:#}");
            FAILURE
        }
    })
}

/// Whether an error says that nobody reads an output any more.
pub fn is_closed_pipe(error: &anyhow::Error) -> bool {
    let mut causes = error.chain().filter_map(|cause| cause.downcast_ref::<io::Error>());
    causes.any(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

/// What becomes of a command line that clap refuses: help and version go out as they are, an error as one line that names
/// `program`. `instead` knows what to type in place of options that other programs have, by their name with its dashes.
pub fn usage(program: &str, error: &clap::Error, instead: impl Fn(&str) -> Option<String>) -> ExitCode {
    if !error.use_stderr() {
        error.exit();
    }
    misuse(program, &words(error, instead))
}

/// What becomes of a command line that asks for what makes no sense, for the reason given.
pub fn misuse(program: &str, why: &str) -> ExitCode {
    logging::tell(&format!("{why} (see {program} --help)"));
    ExitCode::from(USAGE)
}

/// What is wrong with a command line, in one line, and what to type instead.
pub fn words(error: &clap::Error, instead: impl Fn(&str) -> Option<String>) -> String {
    let invalid = || one(error, ContextKind::InvalidArg);
    match error.kind() {
        ErrorKind::UnknownArgument => match instead(&invalid()) {
            Some(instead) => format!("{} is not offered: {instead}", invalid()),
            None => {
                format!("unexpected argument '{}'{}", invalid(), similar(error, ContextKind::SuggestedArg))
            }
        },
        ErrorKind::InvalidSubcommand => {
            let command = one(error, ContextKind::InvalidSubcommand);
            format!("there is no command '{command}'{}", similar(error, ContextKind::SuggestedSubcommand))
        }
        ErrorKind::InvalidValue if one(error, ContextKind::InvalidValue).is_empty() => {
            format!("'{}' wants a value{}", invalid(), possible(error))
        }
        ErrorKind::InvalidValue | ErrorKind::ValueValidation => {
            let value = one(error, ContextKind::InvalidValue);
            let why = error.source().map_or_else(|| possible(error), |why| format!(": {why}"));
            let similar = similar(error, ContextKind::SuggestedValue);
            format!("'{value}' is no value for '{}'{why}{similar}", invalid())
        }
        ErrorKind::ArgumentConflict => {
            let others = all(error, ContextKind::PriorArg);
            if others.iter().all(|other| *other == invalid()) {
                format!("'{}' is there twice", invalid())
            } else {
                format!("'{}' cannot be used with '{}'", invalid(), others.join("', '"))
            }
        }
        ErrorKind::MissingRequiredArgument => {
            format!("'{}' is missing", all(error, ContextKind::InvalidArg).join("', '"))
        }
        ErrorKind::TooManyValues => {
            format!("'{}' takes no value '{}'", invalid(), one(error, ContextKind::InvalidValue))
        }
        ErrorKind::MissingSubcommand | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            format!("say what to do: {}", all(error, ContextKind::ValidSubcommand).join(", "))
        }
        kind => kind.as_str().unwrap_or("the command line cannot be read").to_owned(),
    }
}

/// The words of a kind that clap gives for its error.
fn all(error: &clap::Error, kind: ContextKind) -> Vec<String> {
    match error.get(kind) {
        Some(ContextValue::String(word)) => vec![word.clone()],
        Some(ContextValue::Strings(words)) => words.clone(),
        _ => Vec::new(),
    }
}

/// The word of a kind, where there is one at most.
fn one(error: &clap::Error, kind: ContextKind) -> String {
    all(error, kind).into_iter().next().unwrap_or_default()
}

fn similar(error: &clap::Error, kind: ContextKind) -> String {
    let words = all(error, kind);
    if words.is_empty() { String::new() } else { format!("; did you mean '{}'?", words.join("' or '")) }
}

fn possible(error: &clap::Error) -> String {
    let values = all(error, ContextKind::ValidValue);
    if values.is_empty() { String::new() } else { format!(": it is one of {}", values.join(", ")) }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use clap::{Parser, Subcommand, ValueEnum};

    use super::*;

    #[derive(Clone, Debug, ValueEnum)]
    enum Way {
        In,
        Out,
    }

    #[derive(Debug, Parser)]
    struct Args {
        #[arg(short, long, value_enum)]
        way: Option<Way>,
        #[arg(long)]
        count: Option<u64>,
        #[arg(long, conflicts_with = "way")]
        list: bool,
        #[command(subcommand)]
        command: Option<Command>,
    }

    #[derive(Debug, Subcommand)]
    enum Command {
        Manual { folder: PathBuf },
    }

    #[track_caller]
    fn refused(line: &[&str]) -> String {
        let error = Args::try_parse_from([&["sniff"], line].concat()).expect_err("an error");
        words(&error, |option| (option == "-z").then(|| "type -y".to_owned()))
    }

    #[test]
    fn each_error_says_what_is_wrong_and_what_to_type() {
        for (line, expected) in [
            (&["--wai", "in"][..], "unexpected argument '--wai'; did you mean '--way'?"),
            (&["--xyzzy"], "unexpected argument '--xyzzy'"),
            (&["-z"], "-z is not offered: type -y"),
            (
                &["-w", "outt"],
                "'outt' is no value for '--way <WAY>': it is one of in, out; did you mean 'out'?",
            ),
            (&["--count", "x"], "'x' is no value for '--count <COUNT>': invalid digit found in string"),
            (&["--count"], "'--count <COUNT>' wants a value"),
            (&["--way"], "'--way <WAY>' wants a value: it is one of in, out"),
            (&["--list", "-w", "in"], "'--list' cannot be used with '--way <WAY>'"),
            (&["--list", "--list"], "'--list' is there twice"),
            (&["--list=x"], "'--list' takes no value 'x'"),
            (&["manul"], "there is no command 'manul'; did you mean 'manual'?"),
            (&["manual"], "'<FOLDER>' is missing"),
        ] {
            assert_eq!(refused(line), expected, "{line:?}");
        }
    }

    #[test]
    fn what_a_word_looks_like_does_not_matter() {
        for (line, expected) in [
            (
                &["--count", "a\nUsage: b"][..],
                "'a\nUsage: b' is no value for '--count <COUNT>': invalid digit found in string",
            ),
            (&["--error: x"], "unexpected argument '--error: x'"),
        ] {
            assert_eq!(refused(line), expected, "{line:?}");
        }
    }
}
