//! The command line as it is typed; nothing is looked up here.
//!
//! The options are those of kubectl and of `sniff`. Where the two disagree kubectl has its way: `-c` names a container
//! and `-n` a namespace.

use std::{path::PathBuf, time::Duration};

use clap::{
    ArgAction, Parser, Subcommand, ValueEnum as _,
    builder::{PossibleValue, PossibleValuesParser, TypedValueParser},
};
use clap_complete::Shell;
use sniff_cli::{
    files::{FileArgs, PACKINGS, packing_of},
    options::{self, CaptureArgs, LinesArgs, Printing},
};
use sniff_common::MAX_SNAPLEN;
use sniff_kubernetes::{Login, own};
use sniff_output::{
    To,
    file::{Manner, Packing},
    lines::Style,
};
use sniff_protocol::{
    Build,
    message::Past,
    request::{Compress, Cutoff},
};

use crate::reference::{Reference, dns_name};

const AFTER_HELP: &str = "\
Examples:
  kubectl sniff web-0 -n shop                         in Wireshark, or as lines
  kubectl sniff deploy/web -n shop -w web.pcapng      all pods of a workload, in a file
  kubectl sniff -l app=web -A -- tcp port 443         by labels, with a filter
  kubectl sniff deploy/web --last 5m -w web.pcapng    the minutes before, as far as they were recorded
  kubectl sniff node/n1 -i eth0 -f 'host 10.0.0.7'    an interface of a node
  kubectl sniff web-0 --agentless --image IMAGE       where sniff is not installed

Exit status: 0 when the capture ended as asked (Ctrl-C and closing Wireshark included), 1 when something failed, \
2 when the command line is wrong.";

/// The variable that names the image of short-lived pods.
pub const IMAGE: &str = "SNIFF_IMAGE";

/// Most packets a second that an object can name.
const MAX_SAVE_RATE: i64 = 1_000_000_000;

/// Captures the packets of pods anywhere in a cluster, and shows them in Wireshark.
///
/// A target is POD, NS/POD, deploy/NAME, sts/NAME, ds/NAME, rs/NAME, job/NAME, svc/NAME or node/NAME. Pods that a
/// workload or a selector gets later join the capture. Without --write, Wireshark opens when there is one; otherwise
/// packets are printed as lines.
#[derive(Debug, Parser)]
#[command(name = "kubectl-sniff", bin_name = "kubectl sniff", version = Build::this(), max_term_width = 100)]
#[command(args_conflicts_with_subcommands = true)]
#[command(after_help = AFTER_HELP)]
pub struct Args {
    /// `cleanup`, `doctor` and others; a pod of such a name is written `pod/cleanup`
    #[command(subcommand)]
    pub command: Option<Command>,

    /// What to capture
    #[arg(value_name = "TARGET", value_parser = Reference::parse, help_heading = "Targets")]
    pub targets: Vec<Reference>,

    /// The pods with these labels, in kubectl's language
    #[arg(short = 'l', long, value_name = "LABELS", help_heading = "Targets")]
    pub selector: Option<String>,

    /// The pods of all namespaces
    #[arg(short = 'A', long, help_heading = "Targets", conflicts_with = "targets")]
    pub all_namespaces: bool,

    /// Only pods on this node
    #[arg(long, value_name = "NODE", value_parser = dns_name, help_heading = "Targets")]
    pub node: Option<String>,

    /// The container that is meant; the containers of a pod share its interfaces
    #[arg(short, long, value_name = "NAME", help_heading = "Targets")]
    pub container: Option<String>,

    /// The interfaces of each pod (default: all but lo), or of the node
    #[arg(short, long = "interface", value_name = "IFACE", help_heading = "Targets")]
    pub interfaces: Vec<String>,

    /// Of a node, capture the connection too that carries the packets here: each of them makes another
    #[arg(long, help_heading = "Targets")]
    pub include_own_stream: bool,

    /// Keep to the pods that are there at the start
    #[arg(long, help_heading = "Targets")]
    pub no_follow: bool,

    /// Fetch what was recorded in the last time, as in 5m, or all of it, of pods that are gone too; then end
    #[arg(long, value_name = "TIME|all", value_parser = last, conflicts_with_all = OF_A_CAPTURE, help_heading = "Past")]
    pub last: Option<Last>,

    /// Go on with what passes from then on, without a gap
    #[arg(long, requires = "last", help_heading = "Past")]
    pub follow: bool,

    /// Where and as whom
    #[command(flatten)]
    pub cluster: ClusterArgs,

    /// Which packets to capture, in tcpdump's language; the words behind `--` are joined
    #[arg(value_name = "EXPRESSION", last = true, help_heading = "Filter")]
    pub expression: Vec<String>,

    /// What to capture, and how much
    #[command(flatten)]
    pub capture: CaptureArgs,

    /// Write packets to a file, or to standard output with `-`: pcapng, or what the name ends with of .pcap, .zst and .gz
    #[arg(
        short,
        long = "write",
        visible_short_alias = 'o',
        alias = "output-file",
        value_name = "FILE|-",
        help_heading = "Output"
    )]
    pub write: Option<To>,

    /// How packets are printed
    #[command(flatten)]
    pub lines: LinesArgs,

    /// Print the bytes of each packet in hexadecimal; twice: with the link-level header
    #[arg(long, action = ArgAction::Count, help_heading = "Lines")]
    pub hex: u8,

    /// Print the bytes of each packet as text; twice: with the link-level header
    #[arg(long, action = ArgAction::Count, help_heading = "Lines")]
    pub ascii: u8,

    /// The Wireshark to open
    #[arg(long, value_name = "PATH", conflicts_with_all = ["write", "print", "lines"], help_heading = "Output")]
    pub wireshark_path: Option<PathBuf>,

    /// What the files are, and when another is begun
    #[command(flatten)]
    pub files: FileArgs,

    /// Compress the file with zstd or gzip (default: as its name says); or say whether packets are compressed on their way
    /// here: auto, always or never
    #[arg(long, value_name = "HOW", value_parser = compression(), help_heading = "Files")]
    pub compress: Vec<Compression>,

    /// Make a short-lived pod on each node, even where sniff's DaemonSet is
    #[arg(long, help_heading = "Nodes")]
    pub agentless: bool,

    /// Image of short-lived pods
    #[arg(long, value_name = "IMAGE", env = IMAGE, help_heading = "Nodes", global = true)]
    pub image: Option<String>,

    /// CPU and memory that a short-lived pod asks for, as in cpu=10m,memory=16Mi
    #[arg(long, value_name = "NAME=QUANTITY", value_delimiter = ',', value_parser = quantity, help_heading = "Nodes")]
    pub requests: Vec<(String, String)>,

    /// CPU and memory that it may have, where a quota wants that to be said; the memory holds the buffer (-B), too
    #[arg(long, value_name = "NAME=QUANTITY", value_delimiter = ',', value_parser = quantity, help_heading = "Nodes")]
    pub limits: Vec<(String, String)>,

    /// Make short-lived pods privileged, where the capabilities that sniff takes are not enough for it
    #[arg(long, help_heading = "Nodes")]
    pub privileged: bool,

    /// ksniff's privileged mode
    #[arg(short = 'p', hide = true)]
    pub ksniff_privileged: bool,

    /// ksniff's tcpdump in the container
    #[arg(short = 'r', long = "remote-tcpdump-path", value_name = "PATH", hide = true)]
    pub ksniff_remote_tcpdump: Option<String>,

    /// Make short-lived pods in a namespace that is not sniff's own, too: whoever may exec into pods there, as all with
    /// the role edit may, rules the nodes meanwhile
    #[arg(long, help_heading = "Nodes")]
    pub expose_nodes: bool,

    /// Why you capture, for the nodes' audit, the pods' events and the file: one line
    #[arg(long, value_name = "TEXT", value_parser = reason, help_heading = "Nodes")]
    pub reason: Option<String>,

    /// Capture pods, too, that a label denies (sniff/capture): it takes the right to capture the node, and is in the audit
    #[arg(long, help_heading = "Nodes")]
    pub override_deny: bool,

    /// Say what would be captured where, and which pods would be made; make nothing
    #[arg(long, help_heading = "Nodes")]
    pub dry_run: bool,

    /// Say more, of packets too; twice: still more
    #[arg(short, long, action = ArgAction::Count, help_heading = "Output", global = true)]
    pub verbose: u8,

    /// Say only what is wrong, and the counts at the end; of packets only who sends how much to whom
    #[arg(short, long, conflicts_with = "verbose", help_heading = "Output")]
    pub quiet: bool,
}

/// Options that say which cluster, as kubectl has them.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Cluster")]
pub struct ClusterArgs {
    /// Namespace of the targets (default: that of the context)
    #[arg(short, long, value_name = "NS", value_parser = dns_name, global = true)]
    pub namespace: Option<String>,

    /// Context of the kubeconfig
    #[arg(short = 'x', long, value_name = "NAME", global = true)]
    pub context: Option<String>,

    /// Path of the kubeconfig
    #[arg(long, value_name = "PATH", global = true)]
    pub kubeconfig: Option<PathBuf>,

    /// Cluster of the kubeconfig, in place of the context's
    #[arg(long, value_name = "NAME", global = true)]
    pub cluster: Option<String>,

    /// User of the kubeconfig, in place of the context's
    #[arg(long, value_name = "NAME", global = true)]
    pub user: Option<String>,

    /// URL of the API server
    #[arg(long, value_name = "URL", global = true)]
    pub server: Option<String>,

    /// File with the certificates that the API server's is signed by
    #[arg(long, value_name = "PATH", global = true, conflicts_with = "insecure_skip_tls_verify")]
    pub certificate_authority: Option<PathBuf>,

    /// Trust whatever certificate the API server has: anybody may then be in between
    #[arg(long, global = true)]
    pub insecure_skip_tls_verify: bool,

    /// The name that the API server's certificate is to have
    #[arg(long, value_name = "NAME", global = true)]
    pub tls_server_name: Option<String>,

    /// Bearer token for the API server; other users of this machine see it in the list of processes
    #[arg(long, value_name = "TOKEN", global = true)]
    pub token: Option<String>,

    /// File with your certificate
    #[arg(long, value_name = "PATH", global = true)]
    pub client_certificate: Option<PathBuf>,

    /// File with the key to it
    #[arg(long, value_name = "PATH", global = true)]
    pub client_key: Option<PathBuf>,

    /// Whose rights to use in place of your own
    #[arg(long = "as", value_name = "USER", global = true)]
    pub impersonate: Option<String>,

    /// Which groups' rights to use; may be repeated
    #[arg(long = "as-group", value_name = "GROUP", global = true)]
    pub impersonate_groups: Vec<String>,

    /// Whose rights to use, by UID
    #[arg(long = "as-uid", value_name = "UID", global = true)]
    pub impersonate_uid: Option<String>,

    /// How long the API server may take for one answer, as in 30s; 0 is for ever (default: 10s)
    #[arg(long, value_name = "TIME", value_parser = request_timeout, global = true)]
    pub request_timeout: Option<Duration>,

    /// Namespace of sniff's DaemonSet (default: sniff)
    #[arg(long, value_name = "NS", value_parser = dns_name, global = true)]
    pub daemonset_namespace: Option<String>,

    /// Namespace that short-lived pods, and the Jobs that make them, are in (default: sniff)
    #[arg(long, value_name = "NS", value_parser = dns_name, global = true)]
    pub job_namespace: Option<String>,

    /// Both of these namespaces, as far as they are not named
    #[arg(long, value_name = "NS", value_parser = dns_name, global = true)]
    pub agent_namespace: Option<String>,
}

/// As kubectl reads it: 0 is for ever.
fn request_timeout(text: &str) -> Result<Duration, String> {
    const FOR_EVER: Duration = Duration::from_secs(365 * 24 * 3600);
    let is_none = matches!(text, "0" | "0s");
    if is_none { Ok(FOR_EVER) } else { options::duration(text) }
}

/// What has no meaning for that which was recorded already, in the DaemonSet's pods.
const OF_A_CAPTURE: [&str; 14] = [
    "no_follow",
    "container",
    "interfaces",
    "include_own_stream",
    "attach",
    "direction",
    "one_side",
    "ring_bytes",
    "agentless",
    "privileged",
    "expose_nodes",
    "requests",
    "cutoff",
    "limits",
];

/// How far back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Last {
    /// As long as this.
    Time(Duration),
    /// As far as it goes.
    All,
}

fn last(text: &str) -> Result<Last, String> {
    match text {
        "all" => Ok(Last::All),
        _ => options::duration(text).map(Last::Time),
    }
}

/// What is to be compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// The file.
    File(Packing),
    /// Packets on their way here.
    Way(Compress),
}

fn compression() -> impl TypedValueParser<Value = Compression> {
    let way = Compress::value_variants().iter().filter_map(clap::ValueEnum::to_possible_value);
    let words = PACKINGS.iter().map(|(word, _)| PossibleValue::new(*word)).chain(way);
    PossibleValuesParser::new(words).map(|word| match packing_of(&word) {
        Some(packing) => Compression::File(packing),
        None => Compression::Way(Compress::from_str(&word, false).unwrap_or_default()),
    })
}

/// Most characters of a reason.
const MAX_REASON: usize = 256;

/// Nobody's words make a line of their own in an audit.
fn reason(text: &str) -> Result<String, String> {
    let text = text.trim();
    if text.is_empty() || text.contains(char::is_control) || text.chars().count() > MAX_REASON {
        return Err(format!("a reason is one line of 1 to {MAX_REASON} characters"));
    }
    Ok(text.to_owned())
}

fn quantity(text: &str) -> Result<(String, String), String> {
    let is_quantity = |value: &str| {
        value.starts_with(|char: char| char.is_ascii_digit())
            && value.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'.')
    };
    match text.split_once('=') {
        Some((name, value)) if is_quantity(value) => Ok((name.to_owned(), value.to_owned())),
        _ => Err("a resource is written as in cpu=100m or memory=600Mi".to_owned()),
    }
}

/// What else there is to do.
#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    /// Remove the short-lived pods that are left over, whoever made them
    #[command(after_help = "Example: kubectl sniff cleanup --dry-run")]
    Cleanup {
        /// Only list them
        #[arg(long)]
        dry_run: bool,
    },
    /// Have pods recorded in their nodes' memory, so that the minutes before are there when something happens
    #[command(after_help = "\
Examples:
  kubectl sniff record deploy/web -n shop --memory 256MiB
  kubectl sniff record -l app=web -n shop -f 'tcp port 443' --cutoff 16KiB
  kubectl sniff record deploy/web --save-when 'tcp[tcpflags] & tcp-rst != 0' --save-rate 50
  kubectl sniff record --list -A
  kubectl sniff record --stop web-0c0de -n shop")]
    Record(RecordArgs),
    /// Say what works here, what does not, and what to do about it
    #[command(after_help = "Example: kubectl sniff doctor --context prod")]
    Doctor,
    /// List what triggers had saved on the nodes, or who is recorded there; or fetch a file
    #[command(
        after_help = "Examples:\n  kubectl sniff recordings -A\n  kubectl sniff recordings get NAME -w web.pcapng"
    )]
    Recordings(RecordingsArgs),
    /// Print the completions of kubectl-sniff's options for a shell
    #[command(after_help = "Example: kubectl sniff completions bash > /etc/bash_completion.d/kubectl-sniff")]
    Completions {
        /// Which shell
        shell: Shell,
    },
    /// Write the manual pages of kubectl-sniff into a folder
    #[command(after_help = "Example: kubectl sniff manual /usr/local/share/man/man1")]
    Manual {
        /// A folder that is there
        folder: PathBuf,
    },
}

/// Whom to record, and how.
#[derive(Clone, Debug, clap::Args)]
pub struct RecordArgs {
    /// deploy/NAME, sts/NAME, ds/NAME, rs/NAME, job/NAME or svc/NAME
    #[arg(value_name = "TARGET", value_parser = Reference::parse)]
    pub target: Option<Reference>,

    /// The pods with these labels, in kubectl's language
    #[arg(short = 'l', long, value_name = "LABELS", conflicts_with = "target")]
    pub selector: Option<String>,

    /// Memory for each pod
    #[arg(long, value_name = "SIZE", default_value = "64MiB", value_parser = record_memory)]
    pub memory: String,

    /// Only packets that match this, in tcpdump's language
    #[arg(short, long, value_name = "EXPR")]
    pub filter: Option<String>,

    /// Most bytes kept of a packet
    #[arg(short, long, value_name = "BYTES", value_parser = clap::value_parser!(u32).range(1..=i64::from(MAX_SNAPLEN)))]
    pub snaplen: Option<u32>,

    /// Keep only headers
    #[arg(long)]
    pub headers: bool,

    /// Keep the first bytes of what goes each way in a connection, and then less, as `sniff --cutoff` does
    #[arg(long, value_name = "SIZE[,THEN]", value_parser = options::cutoff)]
    pub cutoff: Option<Cutoff>,

    /// Have what is recorded saved when packets that match this come too fast, whether they are recorded or not
    #[arg(long, value_name = "EXPR", requires = "save_rate")]
    pub save_when: Option<String>,

    /// How many of them a second are not too fast
    #[arg(long, value_name = "N", requires = "save_when", value_parser = clap::value_parser!(u32).range(1..=MAX_SAVE_RATE))]
    pub save_rate: Option<u32>,

    /// Name of the object (default: that of the workload, with something behind it)
    #[arg(long, value_name = "NAME", value_parser = dns_name)]
    pub name: Option<String>,

    /// Why, for whoever finds the object: one line
    #[arg(long, value_name = "TEXT", value_parser = reason)]
    pub reason: Option<String>,

    /// List what has pods recorded
    #[arg(long, conflicts_with_all = ["target", "selector", "stop"])]
    pub list: bool,

    /// Those of all namespaces
    #[arg(short = 'A', long, requires = "list", conflicts_with_all = ["target", "selector", "stop"])]
    pub all_namespaces: bool,

    /// Remove the object of this name: its pods are not recorded any more, and what was recorded of them goes
    #[arg(long, value_name = "NAME", value_parser = dns_name, conflicts_with_all = ["target", "selector"])]
    pub stop: Option<String>,
}

fn record_memory(text: &str) -> Result<String, String> {
    sniff_kubernetes::recordings::memory(text).map(|_| text.to_owned())
}

/// What is listed, or fetched.
#[derive(Clone, Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct RecordingsArgs {
    /// A file, in place of a list
    #[command(subcommand)]
    pub command: Option<RecordingsCommand>,

    /// Of the pods of all namespaces
    #[arg(short = 'A', long)]
    pub all_namespaces: bool,

    /// Only of this node
    #[arg(long, value_name = "NODE", value_parser = dns_name)]
    pub node: Option<String>,

    /// Who is recorded, what is held of them, and what memory the nodes have for that
    #[arg(long)]
    pub status: bool,
}

/// What there is to do with a saved file.
#[derive(Clone, Debug, Subcommand)]
pub enum RecordingsCommand {
    /// Fetch a saved file
    #[command(after_help = "Example: kubectl sniff recordings get NAME -n shop -w web.pcapng")]
    Get(GetArgs),
}

/// A saved file, and where to.
#[derive(Clone, Debug, clap::Args)]
pub struct GetArgs {
    /// Its name, as the list has it
    #[arg(value_name = "NAME", value_parser = recording)]
    pub name: String,

    /// Write it to a file, or to standard output with `-` (default: into Wireshark, or as lines)
    #[arg(short, long, visible_short_alias = 'o', value_name = "FILE|-")]
    pub write: Option<To>,

    /// Of whatever namespace its pod is
    #[arg(short = 'A', long)]
    pub all_namespaces: bool,

    /// The node that has it, where several have one of this name
    #[arg(long, value_name = "NODE", value_parser = dns_name)]
    pub node: Option<String>,
}

/// The name of a saved file.
fn recording(text: &str) -> Result<String, String> {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_' | b'~');
    match text.bytes().all(is_plain) && !text.starts_with('.') && !text.is_empty() {
        true => Ok(text.to_owned()),
        false => {
            Err("a saved file has a name of letters, digits, '.', '-', '_' and '~', and no folder".to_owned())
        }
    }
}

impl ClusterArgs {
    /// Which cluster, and as whom.
    pub fn login(&self) -> Login {
        let Self {
            namespace: _,
            context,
            kubeconfig,
            cluster,
            user,
            server,
            certificate_authority,
            insecure_skip_tls_verify,
            tls_server_name,
            token,
            client_certificate,
            client_key,
            impersonate,
            impersonate_groups,
            impersonate_uid,
            request_timeout,
            daemonset_namespace: _,
            job_namespace: _,
            agent_namespace: _,
        } = self.clone();
        Login {
            kubeconfig,
            context,
            cluster,
            user,
            server,
            certificate_authority,
            insecure_skip_tls_verify,
            tls_server_name,
            token,
            client_certificate,
            client_key,
            impersonate,
            impersonate_groups,
            impersonate_uid,
            request_timeout,
        }
    }

    /// The namespace that sniff's DaemonSet is looked for in.
    pub fn daemonset_namespace(&self) -> &str {
        self.own_namespace(self.daemonset_namespace.as_deref())
    }

    /// The namespace that short-lived pods are made in.
    pub fn job_namespace(&self) -> &str {
        self.own_namespace(self.job_namespace.as_deref())
    }

    fn own_namespace<'a>(&'a self, named: Option<&'a str>) -> &'a str {
        named.or(self.agent_namespace.as_deref()).unwrap_or(own::NAMESPACE)
    }
}

impl Args {
    /// The filter, when there is one.
    pub fn filter(&self) -> Option<String> {
        self.capture
            .filter
            .clone()
            .or_else(|| Some(self.expression.join(" ")))
            .filter(|filter| !filter.trim().is_empty())
    }

    /// What of that which was recorded is wanted, if it is not what passes.
    pub fn past(&self) -> Option<Past> {
        if let Some(Command::Recordings(RecordingsArgs {
            command: Some(RecordingsCommand::Get(get)), ..
        })) = &self.command
        {
            return Some(Past::Saved { name: get.name.clone() });
        }
        let last_ms = match self.last? {
            Last::Time(time) => Some(u64::try_from(time.as_millis()).unwrap_or(u64::MAX)),
            Last::All => None,
        };
        Some(Past::Held { last_ms, follow: self.follow })
    }

    /// What lines are to look like.
    pub fn style(&self) -> Style {
        self.lines.style(Printing {
            hex: self.hex,
            ascii: self.ascii,
            verbose: self.verbose > 0,
            brief: self.quiet,
            unverified: false,
            numeric: false,
        })
    }

    /// How packets are to be written.
    pub fn manner(&self) -> Manner {
        let of_file =
            |it: &Compression| if let Compression::File(packing) = it { Some(*packing) } else { None };
        self.files.manner(self.compress.iter().rev().find_map(of_file))
    }

    /// What packets are compressed on their way here.
    pub fn compress_on_the_way(&self) -> Compress {
        let of_way =
            |it: &Compression| if let Compression::Way(compress) = it { Some(*compress) } else { None };
        self.compress.iter().rev().find_map(of_way).unwrap_or_default()
    }

    /// What clap cannot tell from a single option; says what is wrong.
    pub fn check(&self) -> Result<(), &'static str> {
        let ClusterArgs { impersonate, impersonate_groups, impersonate_uid, .. } = &self.cluster;
        if impersonate.is_none() && !(impersonate_groups.is_empty() && impersonate_uid.is_none()) {
            return Err("--as-group and --as-uid take --as USER, too");
        }
        if self.command.is_some() || self.files.wireshark_profile.is_some() {
            return Ok(());
        }
        if self.ksniff_privileged {
            return Err(
                "-p is ksniff's: nothing of a pod is needed here; --agentless makes a pod on the node, which is privileged \
                 with --privileged",
            );
        }
        if self.ksniff_remote_tcpdump.is_some() {
            return Err("-r is ksniff's: no tcpdump is used here, and nothing is put into pods");
        }
        if self.selector.as_deref().is_some_and(|selector| selector.starts_with(['/', '.', '~'])) {
            return Err("-l is for labels, as in -l app=web, and not for a tcpdump, which is not used here");
        }
        let nodes = self.targets.iter().any(|target| matches!(target, Reference::Node(_)));
        if self.targets.is_empty() && self.selector.is_none() && !self.all_namespaces && self.node.is_none() {
            Err(
                "name a target: POD, deploy/NAME and the like, node/NAME, or pods by -l LABELS, -A or --node NODE",
            )
        } else if nodes && self.last.is_some() {
            Err("what is recorded is of pods: leave out --last, or the node")
        } else if self.last.is_some() && !self.follow && self.capture.duration.is_some() {
            Err("--last ends by itself: --duration is for what comes after that, with --follow")
        } else if nodes && self.interfaces.is_empty() {
            Err("name the interfaces of the node with -i")
        } else if self.lines.is_printing() && self.write == Some(To::StandardOutput) {
            Err("--print and --write - would mix lines into the packets: write to a file")
        } else if self.write.is_none() && self.manner().packing.is_some() {
            Err("--compress zstd and gzip are of a file: name one with -w")
        } else {
            self.capture.check().and_then(|()| self.files.check())
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;
    use sniff_cli::{exit, habits};
    use sniff_output::lines::{Dump, DumpForm, Form, Time};

    use super::*;

    fn parse(args: &[&str]) -> Args {
        Args::try_parse_from([&["kubectl-sniff"], args].concat()).unwrap()
    }

    #[test]
    fn the_command_line_is_sound() {
        Args::command().debug_assert();
    }

    #[test]
    fn a_rate_is_one_that_an_object_can_name() {
        let of = |rate: &str| {
            let record =
                ["kubectl-sniff", "record", "-l", "app=web", "--save-when", "icmp", "--save-rate", rate];
            Args::try_parse_from(record)
        };
        for rate in ["1", "1000000000"] {
            of(rate).unwrap();
        }
        for rate in ["0", "1000000001", "-1", "x"] {
            of(rate).unwrap_err();
        }
        let crd = include_str!("../../../deploy/overlays/record/crd.yaml");
        assert!(crd.contains(&format!("maximum: {MAX_SAVE_RATE}\n")));
    }

    #[test]
    fn help_tells_of_all_there_is() {
        let mut command = Args::command().term_width(80);
        let help = command.render_long_help().to_string();
        for name in ["cleanup", "doctor", "recordings", "completions", "manual"] {
            assert!(help.contains(&format!("\n  {name} ")), "{help}");
            let about = command.find_subcommand_mut(name).unwrap().render_long_help().to_string();
            assert!(
                about.contains("Example: kubectl sniff") || about.contains("Examples:\n  kubectl sniff"),
                "{about}"
            );
        }
        assert!(help.contains("Examples:\n  kubectl sniff "), "{help}");
        let longest = help.lines().map(|line| line.chars().count()).max();
        assert!(longest <= Some(80), "{longest:?}: {help}");
    }

    #[test]
    fn what_ksniff_takes_is_taken() {
        let line =
            ["web-0", "-n", "shop", "-c", "app", "-i", "eth0", "-f", "port 80", "-o", "f", "-x", "prod"];
        let args = parse(&line);
        assert_eq!(args.targets, [Reference::Pod { namespace: None, name: "web-0".into() }]);
        assert_eq!(args.filter(), Some("port 80".into()));
        assert_eq!(args.cluster.context, Some("prod".into()));
        assert_eq!(args.write, Some(To::File("f".into())));
    }

    #[test]
    fn lines_look_as_tcpdumps_letters_say_but_for_those_of_kubectl() {
        let args = parse(&["web-0", "-n", "shop", "-x", "prod", "-eSttt", "-X", "--nano", "--lines", "json"]);
        let style = args.style();
        assert!(style.link_header && style.absolute_numbers && style.nanoseconds && !style.numeric);
        assert_eq!((style.time, style.form), (Time::SincePrevious, Form::Json));
        let dump = |as_what, link_header| Some(Dump { as_what, link_header });
        assert_eq!(style.dump, dump(DumpForm::HexAndAscii, false));
        assert_eq!(parse(&["a", "--hex", "--hex"]).style().dump, dump(DumpForm::Hex, true));
        assert_eq!(parse(&["a", "--ascii"]).style().dump, dump(DumpForm::Ascii, false));
        assert!(args.lines.is_printing() && !parse(&["a", "-e"]).lines.is_printing());
    }

    #[test]
    fn an_expression_stands_behind_two_dashes() {
        let args = parse(
            &["deploy/web", "-A", "--", "tcp", "port", "443"].map(|arg| if arg == "-A" { "-v" } else { arg }),
        );
        assert_eq!(args.filter(), Some("tcp port 443".into()));
        assert_eq!(parse(&["web-0"]).filter(), None);
    }

    #[test]
    fn each_option_of_tcpdump_and_dumpcap_is_there_or_answered() {
        let offered = habits::testing::offered_by(Args::command());
        for option in habits::testing::of_tcpdump_and_dumpcap() {
            let is_answered = habits::instead_in_a_cluster(&option).is_some();
            assert!(offered.contains(&option) || is_answered, "{option}");
        }
        for (line, part) in [("-D", "kubectl get pods"), ("-z", "inotifywait"), ("-b", "-C SIZE")] {
            let error = Args::try_parse_from(["kubectl-sniff", "web-0", line]).unwrap_err();
            let words = exit::words(&error, habits::instead_in_a_cluster);
            assert!(
                words.starts_with(&format!("{line} is not offered: ")) && words.contains(part),
                "{words}"
            );
        }
    }

    #[test]
    fn kubectls_global_options_say_which_cluster_and_as_whom() {
        let line = "web-0 --cluster c --user u --server https://s --token t --as eve --as-group a --as-group b \
                    --request-timeout 30 --tls-server-name n";
        let args = parse(&line.split_whitespace().collect::<Vec<_>>());
        assert_eq!(args.check(), Ok(()));
        let login = args.cluster.login();
        assert_eq!((login.cluster.as_deref(), login.user.as_deref()), (Some("c"), Some("u")));
        assert_eq!((login.server.as_deref(), login.token.as_deref()), (Some("https://s"), Some("t")));
        assert_eq!(
            (login.impersonate.as_deref(), login.impersonate_groups),
            (Some("eve"), vec!["a".into(), "b".into()])
        );
        assert_eq!(login.request_timeout, Some(Duration::from_secs(30)));
        assert!(parse(&["web-0", "--as-group", "a"]).check().is_err());
        let of = |time: &str| parse(&["doctor", "--request-timeout", time]).cluster.request_timeout;
        assert!(of("0") > of("1000s"));
    }

    #[test]
    fn subcommands_take_the_cluster_too() {
        let args = parse(&["cleanup", "--dry-run", "-x", "prod"]);
        assert!(matches!(args.command, Some(Command::Cleanup { dry_run: true })));
        assert_eq!(args.cluster.context, Some("prod".into()));
        assert_eq!(parse(&["pod/cleanup"]).targets.len(), 1);
    }

    #[test]
    fn each_namespace_of_sniff_is_named_by_itself_or_both_at_once() {
        let namespaces = |line: &[&str]| {
            let cluster = parse(&[&["web-0"], line].concat()).cluster;
            (cluster.daemonset_namespace().to_owned(), cluster.job_namespace().to_owned())
        };
        for (line, daemonset, job) in [
            (&[][..], "sniff", "sniff"),
            (&["--job-namespace", "tools"], "sniff", "tools"),
            (&["--daemonset-namespace", "tools"], "tools", "sniff"),
            (&["--agent-namespace", "tools"], "tools", "tools"),
            (&["--agent-namespace", "tools", "--job-namespace", "mine"], "tools", "mine"),
        ] {
            assert_eq!(namespaces(line), (daemonset.to_owned(), job.to_owned()), "{line:?}");
        }
    }

    #[test]
    fn what_ksniff_means_by_a_letter_is_told_apart() {
        for (line, part) in [
            (&["web-0", "-p"][..], "-p is ksniff's"),
            (&["web-0", "-r", "/usr/bin/tcpdump"], "-r is ksniff's"),
            (&["web-0", "-l", "/usr/bin/tcpdump"], "-l is for labels"),
        ] {
            let wrong = parse(line).check().unwrap_err();
            assert!(wrong.contains(part), "{line:?}: {wrong}");
        }
        let line = ["kubectl-sniff", "web-0", "-s", "/run/containerd/containerd.sock"];
        let wrong = Args::try_parse_from(line).unwrap_err().to_string();
        assert!(wrong.contains("no runtime's socket"), "{wrong}");
        assert!(parse(&["-l", "app.kubernetes.io/name=web"]).check().is_ok());
    }

    #[test]
    fn resources_are_read_as_kubectl_takes_them() {
        let args = parse(&["web-0", "--requests", "cpu=10m,memory=16Mi", "--limits", "cpu=1"]);
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        assert_eq!(args.requests, [pair("cpu", "10m"), pair("memory", "16Mi")]);
        assert_eq!(args.limits, [pair("cpu", "1")]);
        for bad in ["cpu", "cpu=", "cpu=-1", "cpu=a b", "cpu=\n"] {
            assert!(Args::try_parse_from(["kubectl-sniff", "web-0", "--limits", bad]).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn what_makes_no_sense_is_said() {
        assert!(parse(&[]).check().is_err());
        assert!(parse(&["node/a"]).check().is_err());
        assert!(parse(&["node/a", "-i", "eth0"]).check().is_ok());
        assert!(parse(&["a", "--print", "-w", "-"]).check().is_err());
        assert!(parse(&["a", "--one-side", "-Q", "in"]).check().unwrap_err().contains("leave out -Q"));
        assert!(parse(&["a", "--one-side"]).check().is_ok());
    }

    #[test]
    fn the_past_is_asked_for_by_time_or_as_far_as_it_goes() {
        let past = |line: &[&str]| parse(&[&["web-0"], line].concat()).past();
        let held = |last_ms, follow| Some(Past::Held { last_ms, follow });
        assert_eq!(past(&[]), None);
        assert_eq!(past(&["--last", "5m"]), held(Some(300_000), false));
        assert_eq!(past(&["--last", "all", "--follow"]), held(None, true));
        for bad in ["0", "ever", ""] {
            assert!(Args::try_parse_from(["kubectl-sniff", "web-0", "--last", bad]).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_has_no_meaning_for_the_past_is_refused() {
        for option in [
            "-c app",
            "-i eth0",
            "-Q in",
            "-B 1MiB",
            "--attach pod",
            "--one-side",
            "--no-follow",
            "--agentless",
            "--limits cpu=1",
            "--cutoff 16KiB",
        ] {
            let line: Vec<&str> = option.split(' ').collect();
            let line = [&["kubectl-sniff", "web-0", "--last", "5m"], &line[..]].concat();
            let error = Args::try_parse_from(line).unwrap_err().to_string();
            assert!(error.contains("'--last <TIME|all>' cannot be used with"), "{option}: {error}");
        }
        assert!(Args::try_parse_from(["kubectl-sniff", "web-0", "--follow"]).is_err());
        let check = |line: &[&str]| parse(&[line, &["--last", "5m"]].concat()).check();
        assert!(check(&["node/a"]).unwrap_err().contains("of pods"));
        assert!(check(&["a", "--duration", "5s"]).unwrap_err().contains("--follow"));
        assert_eq!(check(&["a", "--duration", "5s", "--follow"]), Ok(()));
        assert_eq!(
            check(&["-A", "-f", "tcp", "-s", "96", "--headers", "--count", "5", "-w", "f", "-C", "1"]),
            Ok(())
        );
    }

    #[test]
    fn saved_files_are_listed_or_fetched() {
        let asked = |line: &[&str]| match parse(&[&["recordings"], line].concat()).command {
            Some(Command::Recordings(asked)) => asked,
            other => panic!("{other:?}"),
        };
        assert!(asked(&["-A", "--status"]).status && asked(&["-A"]).all_namespaces && !asked(&[]).status);
        let name = "shop_web-0_20261127T045122Z_oom-killed.pcapng";
        let args = parse(&["recordings", "get", name, "-n", "shop", "-w", "f"]);
        assert_eq!(args.past(), Some(Past::Saved { name: name.into() }));
        assert_eq!(args.cluster.namespace.as_deref(), Some("shop"));
        for bad in ["", "../x", "a/b", ".hidden", "a b", "a\n"] {
            assert!(Args::try_parse_from(["kubectl-sniff", "recordings", "get", bad]).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_tip_that_does_not_work_is_not_given() {
        let words = |line: &[&str]| exit::words(&Args::try_parse_from(line).unwrap_err(), |_| None);
        for wrong in ["-z", "--xyzzy", "-z5"] {
            let error = words(&["kubectl-sniff", "web-0", wrong]);
            assert!(error.starts_with("unexpected argument '-") && !error.contains("tip"), "{error}");
        }
        let error = words(&["kubectl-sniff", "web-0", "--durations", "5s"]);
        assert!(error.contains("did you mean '--duration'"), "{error}");
    }
}
