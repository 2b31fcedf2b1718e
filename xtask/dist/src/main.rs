//! Packs what was built: `cargo xtask image` and `cargo xtask dist` run this, so that xtask itself compiles quickly.
//!
//! The same programs make the same bytes: entries are in one order, and have no owner and no time of their own.

mod archive;
mod binary;
mod check;
mod cluster;
mod copyright;
mod crates;
mod debian;
mod image;
mod krew;
mod libraries;
mod platform;
mod provenance;
mod release;
mod root;
mod sbom;
#[cfg(test)]
mod testing;

use std::{path::PathBuf, process::ExitCode};

use anyhow::{Context as _, Result};
use clap::Parser;

use self::{
    check::Asked,
    platform::Platform,
    release::{Origin, Programs},
};

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
        /// The program of nodes, and what Debian's packages for them were unpacked to; may be repeated
        #[arg(long = "node", value_name = "PROGRAM=FOLDER", value_parser = node)]
        nodes: Vec<(PathBuf, PathBuf)>,
        /// The client for a platform; that for this machine writes the manual of all
        #[arg(long = "client", value_name = "TARGET=PROGRAM", value_parser = client)]
        clients: Vec<(Platform, PathBuf)>,
        /// The folder to make
        #[arg(long)]
        output: PathBuf,
        #[command(flatten)]
        origin: Origin,
        /// The folder of the project, whose texts go along
        #[arg(long)]
        project: PathBuf,
    },
    /// Check that a release is what it says, and that it can be installed
    Check {
        /// Its folder
        folder: PathBuf,
        #[command(flatten)]
        asked: Asked,
    },
}

fn node(text: &str) -> Result<(PathBuf, PathBuf)> {
    let (program, folder) = text.split_once('=').context("PROGRAM=FOLDER is expected")?;
    Ok((program.into(), folder.into()))
}

fn client(text: &str) -> Result<(Platform, PathBuf)> {
    let (target, program) = text.split_once('=').context("TARGET=PROGRAM is expected")?;
    Ok((target.parse()?, program.into()))
}

fn main() -> ExitCode {
    let done = match Cli::parse() {
        Cli::Image { sniff, output, name } => image::write(&sniff, &output, &name),
        Cli::Release { nodes, clients, output, origin, project } => {
            release::write(&Programs { nodes, clients }, &origin, &output, &project)
        }
        Cli::Check { folder, asked } => check::check(&folder, &asked),
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
