//! `sniff agent`.

use std::{net::SocketAddr, path::PathBuf};

use anyhow::Result;
use clap::ArgAction;
use sniff_cli::logging;

use crate::agent::{self, AGENT_SOCKET, Limits, Options};

#[derive(Debug, clap::Args)]
pub struct AgentArgs {
    /// Where to listen for sessions
    #[arg(long, value_name = "PATH", env = "SNIFF_AGENT_SOCKET", default_value = AGENT_SOCKET)]
    pub socket: PathBuf,

    /// Where to serve /metrics and /healthz, or `off`
    #[arg(long, value_name = "IP:PORT|off", env = "SNIFF_METRICS_ADDRESS", default_value = "127.0.0.1:9469",
        value_parser = metrics_address)]
    pub metrics_address: MetricsAddress,

    /// What sessions may take.
    #[command(flatten)]
    pub limits: Limits,

    /// End when the first sessions have ended, or none has come within 20 seconds
    #[arg(long)]
    pub once: bool,

    /// Ask the agent that runs whether it is well, and end: for probes
    #[arg(long)]
    pub check: bool,

    /// Say more
    #[arg(short, long, action = ArgAction::Count)]
    pub verbose: u8,
}

/// An address, unless it is off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MetricsAddress(pub Option<SocketAddr>);

fn metrics_address(text: &str) -> Result<MetricsAddress, String> {
    match text {
        "off" => Ok(MetricsAddress(None)),
        _ => text.parse().map(|address| MetricsAddress(Some(address))).map_err(|_| {
            "an address is an IP address with a port, as in 127.0.0.1:9469 or [::1]:9469; or off".to_owned()
        }),
    }
}

/// Serves, or asks the agent that runs.
///
/// # Errors
///
/// When it cannot, or no agent answers.
pub(super) async fn run(args: AgentArgs) -> Result<()> {
    let AgentArgs { socket, metrics_address: MetricsAddress(metrics_address), limits, once, check, verbose } =
        args;
    logging::start(false, verbose);
    if check {
        return agent::check(&socket).await;
    }
    agent::run(Options { socket, metrics_address, limits, once }).await
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::{super::Command, *};

    #[test]
    fn metrics_go_to_an_address_or_nowhere() {
        let of = |args: &[&str]| match Command::try_parse_from(args).unwrap() {
            Command::Agent(AgentArgs { metrics_address, .. }) => metrics_address.0,
            other => panic!("{other:?}"),
        };
        assert!(of(&["sniff", "agent"]).unwrap().ip().is_loopback());
        assert_eq!(of(&["sniff", "agent", "--metrics-address", "off"]), None);
        assert!(Command::try_parse_from(["sniff", "agent", "--metrics-address", "9469"]).is_err());
    }
}
