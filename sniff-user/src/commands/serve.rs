//! `sniff serve`.

use std::path::PathBuf;

use anyhow::Result;
use clap::ArgAction;
use sniff_cli::logging;

use super::block_on;
use crate::{
    front::{self, Work},
    halves,
    serve::{self, Options},
};

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

    /// Capture nothing unless the agent says what may be: for sessions that it starts
    #[arg(long, hide = true)]
    pub authorised: bool,

    /// Let the process that reads what the client says keep its rights, to debug it
    #[arg(long, hide = true)]
    pub no_sandbox: bool,

    /// Say more on stderr
    #[arg(short, long, action = ArgAction::Count)]
    pub verbose: u8,
}

/// Runs one session.
///
/// # Errors
///
/// When it failed; the client was told why.
pub(super) fn run(args: ServeArgs) -> Result<()> {
    let ServeArgs { cri_socket, node_name, agent_socket, authorised, no_sandbox, verbose } = args;
    logging::start(false, verbose);
    let halves = halves::split(|ends| front::run(ends, Work::Session, no_sandbox))?;
    let options = Options { cri_socket, node_name, agent_socket, is_authorised: authorised };
    block_on(serve::run(options, halves))
}
