//! Packs what was built: `cargo xtask image` and `cargo xtask dist` run this, so that xtask itself compiles quickly.
//!
//! The same programs make the same bytes: entries are in one order, and have no owner and no time of their own.

mod archive;
mod copyright;
mod image;
mod krew;
mod libraries;
mod platform;
mod release;

use std::{path::PathBuf, process::ExitCode};

use anyhow::{Context as _, Result};
use clap::Parser;

use self::{platform::Platform, release::Programs};

#[derive(Parser)]
enum Cli {
    /// Make the image
    Image {
        /// The program
        #[arg(long)]
        sniff: PathBuf,
        /// The archive to write
        #[arg(long)]
        output: PathBuf,
        /// What it is called where it is imported
        #[arg(long)]
        name: String,
    },
    /// Make the archives of a release
    Release {
        /// The program of this machine's nodes
        #[arg(long)]
        sniff: PathBuf,
        /// The client for a platform; that for this machine writes the manual of all
        #[arg(long = "client", value_name = "TARGET=PROGRAM", value_parser = client)]
        clients: Vec<(Platform, PathBuf)>,
        /// The folder to make
        #[arg(long)]
        output: PathBuf,
        /// Where the archives will be downloaded from
        #[arg(long)]
        url: String,
        /// The folder of the project, whose texts go along
        #[arg(long)]
        project: PathBuf,
    },
}

fn client(text: &str) -> Result<(Platform, PathBuf)> {
    let (target, program) = text.split_once('=').context("TARGET=PROGRAM is expected")?;
    Ok((target.parse()?, program.into()))
}

fn main() -> ExitCode {
    let done = match Cli::parse() {
        Cli::Image { sniff, output, name } => image::write(&sniff, &output, &name),
        Cli::Release { sniff, clients, output, url, project } => {
            release::write(&Programs { sniff, clients }, &output, &url, &project)
        }
    };
    match done {
        Ok(said) => {
            println!("{said}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}
