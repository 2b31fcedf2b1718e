//! `kubectl sniff`: captures pods anywhere in a cluster, from wherever kubectl runs.
//!
//! [`args`] is what is typed and [`mod@reference`] what it names. [`capture`] is the whole of a capture: it follows the
//! pods that are meant, keeps one [`session`] for each node that has any ([`rejoin`] when it is lost), merges what they
//! send, and hands that to [`output`]. [`cleanup`] and [`doctor`] are the subcommands.

pub mod args;
pub mod capture;
pub mod cleanup;
pub mod doctor;
pub mod interrupt;
pub mod output;
pub mod reference;
pub mod rejoin;
pub mod session;
pub mod wireshark;

use anyhow::Result;

use self::args::{Args, Command};
use crate::kubernetes::Cluster;

/// Does what was asked for; the answer is the exit status.
///
/// # Errors
///
/// When something failed; the error says what, and what to do.
pub async fn run(args: Args) -> Result<u8> {
    let cluster =
        Cluster::configured(args.cluster.kubeconfig.as_deref(), args.cluster.context.as_deref()).await?;
    match &args.command {
        None => capture::run(cluster, args).await,
        Some(Command::Cleanup { dry_run }) => cleanup::run(&cluster, &args, *dry_run).await,
        Some(Command::Doctor) => doctor::run(&cluster, &args).await,
    }
}
