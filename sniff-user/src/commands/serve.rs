//! `sniff serve`.

use std::path::PathBuf;

use anyhow::Result;
use clap::ArgAction;
use sniff_cli::logging;

use crate::serve::{self, Options};

#[derive(Debug, clap::Args)]
pub struct ServeArgs {
    /// Socket of the container runtime (default: the usual places in turn)
    #[arg(long, value_name = "PATH", env = "SNIFF_CRI_SOCKET")]
    pub cri_socket: Option<PathBuf>,

    /// Name of this node, if it is not the host's name
    #[arg(long, value_name = "NAME", env = "NODE_NAME")]
    pub node_name: Option<String>,

    /// Socket of sniff agent, which then must be there (default: the agent is asked if there is one)
    #[arg(long, value_name = "PATH", env = "SNIFF_AGENT_SOCKET")]
    pub agent_socket: Option<PathBuf>,

    /// Say more on stderr
    #[arg(short, long, action = ArgAction::Count)]
    pub verbose: u8,
}

/// Runs one session.
///
/// # Errors
///
/// When it failed; the client was told why.
pub(super) async fn run(args: ServeArgs) -> Result<()> {
    let ServeArgs { cri_socket, node_name, agent_socket, verbose } = args;
    logging::start(false, verbose);
    serve::run(Options { cri_socket, node_name, agent_socket }).await
}
