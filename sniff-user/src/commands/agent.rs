//! `sniff agent`.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use anyhow::Result;
use bytesize::ByteSize;
use clap::ArgAction;
use sniff_cli::logging;

use crate::{
    agent::{self, AGENT_SOCKET, Limits, Options, recordings},
    system::System,
};

#[derive(Debug, clap::Args)]
pub struct AgentArgs {
    /// Where to listen for sessions
    #[arg(long, value_name = "PATH", env = "SNIFF_AGENT_SOCKET", default_value = AGENT_SOCKET)]
    pub socket: PathBuf,

    /// Where to serve /metrics and /healthz, or `off`
    #[arg(long, value_name = "IP:PORT|off", env = "SNIFF_METRICS_ADDRESS", default_value = "127.0.0.1:9469",
        value_parser = address)]
    pub metrics_address: Address,

    /// Where to let in who shows tokens of the service accounts sniff-capture or sniff-node, as 127.0.0.1:9470, or `off`
    #[arg(long, value_name = "IP:PORT|off", env = "SNIFF_DOOR", default_value = "off",
        value_parser = loopback)]
    pub door: Address,

    /// Take sessions that are started by exec, too, where there is a door
    #[arg(long, env = "SNIFF_ALLOW_EXEC_SESSIONS")]
    pub allow_exec_sessions: bool,

    /// What sessions may take.
    #[command(flatten)]
    pub limits: Limits,

    /// File that says what captures must keep to, in YAML; it is read anew for each
    #[arg(long, value_name = "FILE", env = "SNIFF_POLICY", help_heading = "Limits")]
    pub policy: Option<PathBuf>,

    /// Whether captured pods get events that tell of it, which `kubectl describe pod` shows
    #[arg(long, value_name = "on|off", env = "SNIFF_EVENTS", default_value = "on", value_parser = on_or_off,
        action = ArgAction::Set)]
    pub events: bool,

    /// What is recorded.
    #[command(flatten)]
    pub recordings: RecordingArgs,

    /// Name of this node, if it is not the host's name
    #[arg(long, value_name = "NAME", env = "NODE_NAME")]
    pub node_name: Option<String>,

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

/// What may be recorded of pods that are to be, and where it is kept.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Recordings")]
pub struct RecordingArgs {
    /// Memory for recordings of this node's pods (default: nothing is recorded)
    #[arg(long, value_name = "SIZE", env = "SNIFF_RECORD_MEMORY")]
    pub record_memory: Option<ByteSize>,

    /// How long what was recorded of a pod that is gone is held, unless the memory is needed before
    #[arg(long, value_name = "TIME", env = "SNIFF_RECORD_KEEP", default_value = "1h",
        value_parser = sniff_cli::options::duration)]
    pub record_keep: Duration,

    /// Folder of its own for what triggers have saved
    #[arg(long, value_name = "DIR", env = "SNIFF_RECORDINGS", default_value = "/var/lib/sniff-recordings")]
    pub recordings: PathBuf,

    /// Most bytes of files there; the oldest go first
    #[arg(long, value_name = "SIZE", env = "SNIFF_RECORDINGS_SIZE", default_value = "1GiB")]
    pub recordings_size: ByteSize,

    /// What has a recording saved: restarted, oom-killed, crash-loop, not-ready, failed, rate and alert, or off
    #[arg(
        long,
        value_name = "LIST",
        env = "SNIFF_RECORD_TRIGGERS",
        default_value_t,
        hide_default_value = true
    )]
    pub record_triggers: recordings::triggers::Wanted,

    /// Reasons of Kubernetes' events that have the recording of their pod saved, too, as Unhealthy,BackOff: at most 8
    #[arg(long, value_name = "LIST", env = "SNIFF_RECORD_EVENTS")]
    pub record_events: Option<recordings::triggers::Events>,

    /// File with the token that whoever posts alerts must show; without one, only this pod and
    /// whoever may forward its ports may post them
    #[arg(long, value_name = "FILE", env = "SNIFF_ALERTS_TOKEN_FILE")]
    pub alerts_token_file: Option<PathBuf>,
}

fn on_or_off(text: &str) -> Result<bool, String> {
    match text {
        "on" => Ok(true),
        "off" => Ok(false),
        _ => Err("it is on or off".to_owned()),
    }
}

/// An address, unless it is off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Address(pub Option<SocketAddr>);

fn address(text: &str) -> Result<Address, String> {
    match text {
        "off" => Ok(Address(None)),
        _ => text.parse().map(|address| Address(Some(address))).map_err(|_| {
            "an address is an IP address with a port, as in 127.0.0.1:9469 or [::1]:9469; or off".to_owned()
        }),
    }
}

/// What is said at the door is not encrypted: a forwarded port, which is, leads to the loopback.
fn loopback(text: &str) -> Result<Address, String> {
    match address(text)? {
        Address(Some(address)) if !address.ip().is_loopback() => {
            Err("a door is on the loopback, where forwarded ports lead: 127.0.0.1:9470, or off".to_owned())
        }
        address => Ok(address),
    }
}

/// Serves, or asks the agent that runs.
///
/// # Errors
///
/// When it cannot, or no agent answers.
pub(super) async fn run(args: AgentArgs) -> Result<()> {
    let AgentArgs {
        socket,
        metrics_address: Address(metrics_address),
        door: Address(door),
        allow_exec_sessions,
        limits,
        policy,
        events,
        recordings,
        node_name,
        once,
        check,
        verbose,
    } = args;
    logging::start(false, verbose);
    if check {
        return agent::check(&socket).await;
    }
    let node = System::this(node_name.as_deref())?.node;
    let RecordingArgs {
        record_memory,
        record_keep: keep,
        recordings: folder,
        recordings_size,
        record_triggers: triggers,
        record_events: events_of_pods,
        alerts_token_file: alerts_token,
    } = recordings;
    let recordings = record_memory.map(|memory| recordings::Options {
        memory: memory.as_u64(),
        keep,
        folder,
        folder_bytes: recordings_size.as_u64(),
        triggers,
        events: events_of_pods.unwrap_or_default(),
    });
    let options = Options {
        socket,
        metrics_address,
        door,
        allow_exec_sessions,
        limits,
        once,
        node,
        policy,
        events,
        recordings,
        alerts_token,
    };
    agent::run(options).await
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::super::Command;

    #[test]
    fn a_door_is_on_the_loopback_or_there_is_none() {
        let of = |args: &[&str]| match Command::try_parse_from(args) {
            Ok(Command::Agent(args)) => Some(args.door.0),
            _ => None,
        };
        assert_eq!(of(&["sniff", "agent"]), Some(None));
        assert_eq!(of(&["sniff", "agent", "--door", "off"]), Some(None));
        assert!(of(&["sniff", "agent", "--door", "127.0.0.1:9470"]).flatten().is_some());
        assert!(of(&["sniff", "agent", "--door", "[::1]:9470"]).flatten().is_some());
        for elsewhere in ["0.0.0.0:9470", "10.0.0.1:9470", "[::]:9470", "9470"] {
            assert_eq!(of(&["sniff", "agent", "--door", elsewhere]), None, "{elsewhere}");
        }
    }

    #[test]
    fn metrics_go_to_an_address_or_nowhere() {
        let of = |args: &[&str]| match Command::try_parse_from(args).unwrap() {
            Command::Agent(args) => args.metrics_address.0,
            other => panic!("{other:?}"),
        };
        assert!(of(&["sniff", "agent"]).unwrap().ip().is_loopback());
        assert_eq!(of(&["sniff", "agent", "--metrics-address", "off"]), None);
        assert!(Command::try_parse_from(["sniff", "agent", "--metrics-address", "9469"]).is_err());
    }
}
