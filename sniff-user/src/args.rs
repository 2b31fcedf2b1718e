//! The command line as it is typed; nothing is looked up here.

use std::{ffi::OsStr, net::SocketAddr, path::PathBuf, time::Duration};

use bytesize::ByteSize;
use clap::{ArgAction, CommandFactory as _, Parser};
use clap_complete::Shell;

pub use sniff_protocol::request::{AttachAt, Directions};

use sniff_cli::options::{self, CaptureArgs};
use sniff_filter::Source;
use sniff_output::To;

use crate::{
    bpf::{attach::Mechanism, ring},
    targets::{Target, Wanted},
};

/// Where `sniff agent` listens unless told otherwise. Not below /run, which in sniff's pods is the node's.
pub const AGENT_SOCKET: &str = "/var/lib/sniff/agent.sock";

const AFTER_HELP: &str = "\
Examples:
  sniff --list                                        the pods of this node
  sniff --pod shop/web-0                              print the packets of a pod
  sniff --pod shop/web-0 -w web.pcapng tcp port 443   write some of them to a file
  sniff --pod shop/web-0 -w - | wireshark -k -i -     watch them in Wireshark
  sniff -i eth0 --duration 30s -- host 10.0.0.7       an interface of this node

Commands, each with a --help of its own:
  sniff serve        the far side of kubectl sniff
  sniff agent        the main process of sniff's pod on a node
  sniff completions  print the completions of sniff's options for a shell
  sniff manual       write sniff's manual pages into a folder

Exit status: 0 when the capture ended as asked (Ctrl-C and a closed pipe included), 1 when something failed, \
2 when the command line is wrong.";

/// Captures the packets of Kubernetes pods from the node, and writes pcapng.
///
/// Name one target or many; they are captured together. Without --write, packets are printed as lines.
#[derive(Debug, Parser)]
#[command(name = "sniff", version, max_term_width = 100)]
#[command(after_help = AFTER_HELP)]
pub struct Args {
    /// A pod on this node, with a filter of its own if need be; without a namespace, in `default`
    #[arg(long = "pod", value_name = "NS/POD[=EXPR]", value_parser = pod, help_heading = "Targets")]
    pub pods: Vec<Wanted>,

    /// A container by id or the start of it, `docker://`, `containerd://` and the like allowed
    #[arg(long = "container-id", value_name = "ID[=EXPR]", value_parser = container, help_heading = "Targets")]
    pub containers: Vec<Wanted>,

    /// The network namespace of a process
    #[arg(long = "pid", value_name = "PID[=EXPR]", value_parser = pid, help_heading = "Targets")]
    pub pids: Vec<Wanted>,

    /// A network namespace by its name under /run/netns or by path, in the output as LABEL if need be
    #[arg(long = "netns", value_name = "NAME|[LABEL=]PATH", value_parser = Target::netns, help_heading = "Targets")]
    pub netns: Vec<Target>,

    /// An interface, or `any` for every one: of this host, or with a target above, inside it (default there: all but lo)
    #[arg(short, long = "interface", value_name = "IFACE", help_heading = "Targets")]
    pub interfaces: Vec<String>,

    /// Socket of the container runtime (default: the usual places in turn)
    #[arg(long, value_name = "PATH", help_heading = "Targets")]
    pub cri_socket: Option<PathBuf>,

    /// Name of this node, if it is not the host's name
    #[arg(long, value_name = "NAME", env = "NODE_NAME", help_heading = "Targets")]
    pub node_name: Option<String>,

    /// List the pods of this node with their interfaces; without a container runtime, its own interfaces
    #[arg(short = 'D', long = "list", alias = "list-interfaces", help_heading = "Targets",
        conflicts_with_all = ["pods", "containers", "pids", "netns", "interfaces", "expression", "filter", "filter_file",
        "dump", "write"])]
    pub list: bool,

    /// Which packets to capture, in tcpdump's language; the words are joined
    #[arg(value_name = "EXPRESSION", help_heading = "Filter")]
    pub expression: Vec<String>,

    /// The filter from a file, which is read again on SIGUSR2
    #[arg(short = 'F', long, value_name = "FILE", conflicts_with_all = ["expression", "filter"],
        help_heading = "Filter")]
    pub filter_file: Option<PathBuf>,

    /// Print the compiled filter and end: once as classic BPF, twice as the eBPF that runs
    #[arg(short, action = ArgAction::Count, help_heading = "Filter")]
    pub dump: u8,

    /// Do not run libpcap's optimiser
    #[arg(short = 'O', long, help_heading = "Filter")]
    pub no_optimize: bool,

    /// What to capture, and how much
    #[command(flatten)]
    pub capture: CaptureArgs,

    /// Socket of sniff agent, in whose pod this runs and which then must be there (default: one is asked if there is one)
    #[arg(long, value_name = "PATH", env = "SNIFF_AGENT_SOCKET", hide = true)]
    pub agent_socket: Option<PathBuf>,

    /// How to attach (default: TCX, or clsact on a kernel without it)
    #[arg(long, value_enum, hide = true, value_name = "HOW")]
    pub hook: Option<Mechanism>,

    /// The memory's kind (default: regions, or the BPF ring buffer on a kernel that cannot have them)
    #[arg(
        long,
        value_enum,
        default_value_t,
        hide_default_value = true,
        value_name = "KIND",
        help_heading = "Capture"
    )]
    pub ring: ring::Wanted,

    /// Do not sort the packets of several CPUs by time
    #[arg(long, help_heading = "Output")]
    pub unsorted: bool,

    /// Write pcapng to a file, or to standard output with `-`
    #[arg(short, long = "write", visible_short_alias = 'o', value_name = "FILE|-", help_heading = "Output")]
    pub write: Option<To>,

    /// Print packets as lines, also when writing a file
    #[arg(long, help_heading = "Output")]
    pub print: bool,

    /// Hand on each packet at once instead of in batches; costs CPU
    #[arg(short = 'U', long, help_heading = "Output")]
    pub packet_buffered: bool,

    /// Say more; twice: still more
    #[arg(short, long, action = ArgAction::Count, help_heading = "Output")]
    pub verbose: u8,

    /// Say only what is wrong, and the counts at the end
    #[arg(short, long, conflicts_with = "verbose", help_heading = "Output")]
    pub quiet: bool,
}

impl Args {
    /// The whole command line, subcommands included, for completions and manual pages.
    pub fn whole() -> clap::Command {
        let others = Command::command();
        Self::command().disable_help_subcommand(true).subcommands(others.get_subcommands().cloned())
    }

    /// The targets, in the order of their kinds; host interfaces when nothing else is named.
    pub fn targets(&self) -> Vec<Wanted> {
        let named = [&self.pods, &self.containers, &self.pids].into_iter().flatten().cloned();
        let netns = self.netns.iter().cloned().map(Wanted::from);
        let mut targets: Vec<Wanted> = named.chain(netns).collect();
        if targets.is_empty() {
            targets.extend(self.interfaces.iter().cloned().map(|name| Target::Interface(name).into()));
        }
        targets
    }

    /// Where the general filter comes from.
    pub fn filter_source(&self) -> Source {
        match (&self.filter_file, &self.capture.filter) {
            (Some(path), _) => Source::File(path.clone()),
            (None, Some(text)) => Source::Text(text.clone()),
            (None, None) => Source::Text(self.expression.join(" ")),
        }
    }
}

fn pod(text: &str) -> anyhow::Result<Wanted> {
    Wanted::with_filter(text, Target::pod)
}

fn container(text: &str) -> anyhow::Result<Wanted> {
    Wanted::with_filter(text, Target::container)
}

fn pid(text: &str) -> anyhow::Result<Wanted> {
    Wanted::with_filter(text, Target::pid)
}

/// What sniff does instead of a capture of its own, by the first word of the command line.
#[derive(Debug, Parser)]
#[command(name = "sniff", version, max_term_width = 100, disable_help_subcommand = true)]
pub enum Command {
    /// The far side of kubectl sniff: one session on this node, over stdin and stdout
    ///
    /// kubectl sniff runs this in sniff's pod on the node. What goes over stdin and stdout is frames, not pcapng.
    #[command(after_help = "Example: kubectl exec -i -n sniff sniff-x7k2p -- sniff serve")]
    Serve(ServeArgs),
    /// The main process of sniff's pod on a node: grants sessions within limits, and counts for Prometheus
    #[command(after_help = "\
Examples:
  sniff agent --max-sessions 2 --max-duration 1h
  sniff agent --check")]
    Agent(AgentArgs),
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
    /// Whether a command line with this first word is one of these; otherwise it is one of [`Args`].
    pub fn is_meant(first: Option<&OsStr>) -> bool {
        first.is_some_and(|word| Self::command().get_subcommands().any(|known| word == known.get_name()))
    }
}

/// `sniff serve`.
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

/// `sniff agent`.
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

/// What the sessions of a node may take.
#[derive(Clone, Copy, Debug, clap::Args)]
pub struct Limits {
    /// Most sessions at a time
    #[arg(long, value_name = "N", env = "SNIFF_MAX_SESSIONS", default_value_t = 8, help_heading = "Limits")]
    pub max_sessions: u32,

    /// Most memory of all sessions' buffers together
    #[arg(
        long,
        value_name = "SIZE",
        env = "SNIFF_MAX_MEMORY",
        default_value = "512MiB",
        help_heading = "Limits"
    )]
    pub max_memory: ByteSize,

    /// Most bytes that one session may send (default: any number)
    #[arg(long, value_name = "SIZE", env = "SNIFF_MAX_BYTES", help_heading = "Limits")]
    pub max_bytes: Option<ByteSize>,

    /// Longest time that a session may last
    #[arg(long, value_name = "TIME", env = "SNIFF_MAX_DURATION", default_value = "24h",
        value_parser = options::duration, help_heading = "Limits")]
    pub max_duration: Duration,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Args::command().debug_assert();
    }

    #[test]
    fn help_tells_of_all_there_is_in_a_sensible_order() {
        let help = Args::command().term_width(80).render_long_help().to_string();
        for command in Command::command().get_subcommands() {
            let about = command.clone().render_long_help().to_string();
            assert!(help.contains(&format!("\n  sniff {} ", command.get_name())), "{help}");
            assert!(about.contains("Example"), "{about}");
        }
        let place = |text: &str| help.find(text).unwrap_or_else(|| panic!("no {text}: {help}"));
        let order =
            ["Targets:", "Filter:", "-f, --filter", "-F, --filter-file", "Capture:", "Output:", "Examples:"];
        assert!(order.map(place).is_sorted(), "{help}");
        let longest = help.lines().map(|line| line.chars().count()).max();
        assert!(longest <= Some(80), "{longest:?}: {help}");
        Args::whole().debug_assert();
    }

    #[test]
    fn a_filter_may_begin_with_a_minus() {
        let args = Args::try_parse_from(["sniff", "-i", "lo", "-f", "-ip[8] > 1"]).unwrap();
        assert_eq!(args.filter_source(), Source::Text("-ip[8] > 1".to_owned()));
        let args = Args::try_parse_from(["sniff", "-i", "lo", "--", "-ip[8]", ">", "1"]).unwrap();
        assert_eq!(args.filter_source(), Source::Text("-ip[8] > 1".to_owned()));
        assert!(Args::try_parse_from(["sniff", "-i", "lo", "-f", "-w", "f"]).is_err());
    }

    #[test]
    fn the_first_word_decides_whose_command_line_it_is() {
        Command::command().debug_assert();
        let is_meant = |word: &str| Command::is_meant(Some(OsStr::new(word)));
        assert!(is_meant("serve") && is_meant("agent") && !Command::is_meant(None));
        for capture in ["--pod", "-h", "tcp", "help", "server", "--version"] {
            assert!(!is_meant(capture), "{capture}");
        }
    }

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

    #[test]
    fn a_target_can_have_a_filter_of_its_own() {
        let args =
            Args::try_parse_from(["sniff", "--pod", "a/b=tcp[13] = 2", "--pod", "a/c", "port 53"]).unwrap();
        let filters: Vec<_> = args.targets().into_iter().map(|wanted| wanted.filter).collect();
        assert_eq!(filters, [Some("tcp[13] = 2".to_owned()), None]);
        assert_eq!(args.filter_source(), Source::Text("port 53".to_owned()));
        assert!(Args::try_parse_from(["sniff", "--pod", "a/b= "]).is_err());
    }

    #[test]
    fn an_interface_is_a_target_only_by_itself() {
        let of = |args: &[&str]| Args::try_parse_from(args).unwrap().targets();
        assert_eq!(of(&["sniff", "-i", "eth0"]), [Target::Interface("eth0".to_owned()).into()]);
        assert_eq!(of(&["sniff", "--pid", "7", "-i", "eth0"]), [Target::Pid(7).into()]);
    }
}
