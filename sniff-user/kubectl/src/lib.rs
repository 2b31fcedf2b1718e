//! `kubectl sniff`: captures pods anywhere in a cluster, from wherever kubectl runs.
//!
//! [`args`] is what is typed and `reference` what it names. `capture` is the whole of a capture: it follows the
//! pods that are meant, keeps one `session` for each node that has any (`rejoin` when it is lost, `door` to come in),
//! merges what they send, and hands that to `output`. `cleanup`, `doctor` and `recordings` are the subcommands.

pub mod args;
mod capture;
mod cleanup;
mod doctor;
mod door;
mod output;
mod record;
mod recordings;
mod reference;
mod rejoin;
mod session;
mod wireshark;

use anyhow::{Context as _, Result};
use clap::CommandFactory as _;
use sniff_cli::{exit, manual, profile};
use sniff_kubernetes::Cluster;

use self::args::{Args, Command};

/// Does what was asked for; the answer is the exit status.
///
/// # Errors
///
/// When something failed; the error says what, and what to do.
pub async fn run(args: Args) -> Result<u8> {
    if let Some(folder) = &args.files.wireshark_profile {
        return profile::write(folder).map(|()| exit::SUCCESS);
    }
    let login = args.cluster.login();
    let cluster = async || {
        let cluster = Cluster::configured(&login).await?;
        cluster.context(
            "there is no kubeconfig: name one with --kubeconfig or KUBECONFIG, or let the pod have a service account",
        )
    };
    match args.command.clone() {
        None => capture::run(cluster().await?, args).await,
        Some(Command::Cleanup { dry_run }) => cleanup::run(&cluster().await?, &args, dry_run).await,
        Some(Command::Record(record)) => record::run(&cluster().await?, &args.cluster, &record).await,
        Some(Command::Doctor) => doctor::run(&cluster().await?, &args).await,
        Some(Command::Recordings(asked)) => recordings::run(cluster().await?, args, asked).await,
        Some(Command::Completions { shell }) => {
            manual::print_completions(Args::command(), shell).map(|()| exit::SUCCESS)
        }
        Some(Command::Manual { folder }) => {
            manual::write_pages(Args::command(), &folder).map(|()| exit::SUCCESS)
        }
    }
}
