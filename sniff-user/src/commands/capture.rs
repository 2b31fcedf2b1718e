//! `sniff` without a subcommand: captures, lists what could be captured, or shows a compiled filter.

use std::{
    io::{self, Write as _},
    iter,
    path::PathBuf,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use clap::{ArgAction, CommandFactory as _, Parser};
use sniff_cli::{
    files::{FileArgs, packing},
    options::{CaptureArgs, LinesArgs, Printing},
    profile, status_line,
};
use sniff_filter::{
    Filters, Source,
    cbpf::Encoded,
    compile::{self, Surroundings},
    expression,
};
use sniff_output::{
    Destination, To,
    file::{Manner, Packing},
    lines::Style,
};
use sniff_pcapng::LinkType;
use sniff_protocol::{Build, request::Compress};

use super::{Command, block_on, conditions::Condition, filter_words::is_a_filter, recording::Recording};
use crate::{
    agent,
    bpf::{attach::Mechanism, ring},
    capture::{Detail, Plan, tap::link_type},
    front::{self, Work},
    halves::{self, Halves},
    system::{System, owner::Owner, privileges, signals::Signals},
    targets::{self, FilteredTarget, PodsToCome, Selector, Target},
};

/// Interfaces that may be there at a time besides those of the start.
const MOST_TO_COME: u32 = 4096;

const AFTER_HELP: &str = "\
Examples:
  sniff --list                                        the pods of this node
  sniff --pod shop/web-0                              print the packets of a pod
  sniff --pod shop/web-0 -w web.pcapng tcp port 443   write some of them to a file
  sniff --pod shop/web-0 -w - | wireshark -k -i -     watch them in Wireshark
  sniff -l app=web -n shop -w shop.pcapng             pods by their labels, and those that come
  sniff -i eth0 --duration 30s -- host 10.0.0.7       an interface of this node

Commands, each with a --help of its own:
  sniff save         write what a recorder (--record) holds
  sniff serve        the node's side of kubectl sniff
  sniff agent        the main process of sniff's pod on a node
  sniff completions  print the completions of sniff's options for a shell
  sniff manual       write sniff's manual pages into a folder

Exit status: 0 when the capture ended as asked (Ctrl-C and a closed pipe included), 1 when something failed, \
2 when the command line is wrong.";

/// Captures the packets of Kubernetes pods from the node, and writes pcapng.
///
/// Name one target or many; they are captured together. Without --write, packets are printed as lines.
#[derive(Debug, Parser)]
#[command(name = "sniff", version = Build::this(), max_term_width = 100)]
#[command(after_help = AFTER_HELP)]
pub struct Args {
    /// A pod on this node, with a filter of its own if need be; without a namespace, in `default`
    #[arg(long = "pod", value_name = "NS/POD[=EXPR]", value_parser = pod, help_heading = "Targets")]
    pub pods: Vec<FilteredTarget>,

    /// The pods on this node with such labels, and those that come, as in app=web,tier!=cache; -l SELECTOR is the same
    #[arg(long, value_name = "SELECTOR", help_heading = "Targets")]
    pub selector: Option<Selector>,

    /// Their namespace (default: `default`); behind -l SELECTOR, -n NAMESPACE is the same
    #[arg(long, value_name = "NAMESPACE", value_parser = targets::check_namespace, requires = "selector",
        conflicts_with = "all_namespaces", help_heading = "Targets")]
    pub namespace: Option<String>,

    /// The pods of all namespaces
    #[arg(long, requires = "selector", help_heading = "Targets")]
    pub all_namespaces: bool,

    /// Keep to the pods that are there at the start: one that is created again is another
    #[arg(long, help_heading = "Targets")]
    pub no_follow: bool,

    /// A container by id or the start of it, `docker://`, `containerd://` and the like allowed
    #[arg(long = "container-id", value_name = "ID[=EXPR]", value_parser = container, help_heading = "Targets")]
    pub containers: Vec<FilteredTarget>,

    /// The network namespace of a process
    #[arg(long = "pid", value_name = "PID[=EXPR]", value_parser = pid, help_heading = "Targets")]
    pub pids: Vec<FilteredTarget>,

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

    /// List the pods of this node with their interfaces, and its own interfaces
    #[arg(short = 'D', long = "list", alias = "list-interfaces", help_heading = "Targets",
        conflicts_with_all = ["pods", "selector", "containers", "pids", "netns", "interfaces", "expression", "filter", "filter_file",
        "dump", "dump_ebpf", "write"])]
    pub list: bool,

    /// Which packets to capture, in tcpdump's language; the words are joined
    #[arg(value_name = "EXPRESSION", help_heading = "Filter")]
    pub expression: Vec<String>,

    /// The filter from a file, which is read again on SIGUSR2
    #[arg(short = 'F', long, value_name = "FILE", conflicts_with_all = ["expression", "filter"],
        help_heading = "Filter")]
    pub filter_file: Option<PathBuf>,

    /// Print the compiled filter and end: as a listing; -dd: for a C program; -ddd: as numbers
    #[arg(short, action = ArgAction::Count, help_heading = "Filter")]
    pub dump: u8,

    /// Print the filter as the eBPF that runs, and end
    #[arg(long, help_heading = "Filter", conflicts_with = "dump")]
    pub dump_ebpf: bool,

    /// Do not run libpcap's optimiser
    #[arg(short = 'O', long, help_heading = "Filter")]
    pub no_optimize: bool,

    /// What to capture, and how much
    #[command(flatten)]
    pub capture: CaptureArgs,

    /// Socket of sniff agent, in whose pod this runs and which then must be there (default: one is asked if there is one)
    #[arg(long, value_name = "PATH", env = "SNIFF_AGENT_SOCKET", hide = true)]
    pub agent_socket: Option<PathBuf>,

    /// Let the process that reads packets keep its rights, to debug it
    #[arg(long, hide = true)]
    pub no_sandbox: bool,

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
    pub ring: ring::Kind,

    /// Keep the last packets in this much memory, as in 256MiB, for `sniff save`; with --write, the end (Ctrl-C) writes them,
    /// too. A time, as in 30m, has it told how much memory that takes
    #[arg(long, value_name = "SIZE|TIME", value_parser = Recording::parse, help_heading = "Capture",
        conflicts_with_all = ["ring", "ring_bytes", "count", "packets"])]
    pub record: Option<Recording>,

    /// Do not sort the packets of several CPUs by time; they have no ids then that tell the two ends' copies
    #[arg(long, help_heading = "Output")]
    pub unsorted: bool,

    /// Write packets to a file, or to standard output with `-`: pcapng, or what the name ends with of .pcap, .zst and .gz
    #[arg(short, long = "write", visible_short_alias = 'o', value_name = "FILE|-", help_heading = "Output")]
    pub write: Option<To>,

    /// How packets are printed
    #[command(flatten)]
    pub lines: LinesArgs,

    /// Print the bytes of each packet in hexadecimal; twice: with the link-level header
    #[arg(short = 'x', long, action = ArgAction::Count, help_heading = "Lines")]
    pub hex: u8,

    /// Print the bytes of each packet as text; twice: with the link-level header
    #[arg(short = 'A', long, action = ArgAction::Count, help_heading = "Lines")]
    pub ascii: u8,

    /// What the files are, and when another is begun
    #[command(flatten)]
    pub files: FileArgs,

    /// Compress the file (default: as its name says)
    #[arg(long, value_name = "HOW", value_parser = packing(), requires = "write", help_heading = "Files")]
    pub compress: Option<Packing>,

    /// Hand on each packet at once instead of in batches; costs CPU
    #[arg(short = 'U', long, help_heading = "Output")]
    pub packet_buffered: bool,

    /// tcpdump's options
    #[command(flatten)]
    pub tcpdump: TcpdumpArgs,

    /// Say more, of packets too; twice: still more
    #[arg(short, long, action = ArgAction::Count, help_heading = "Output")]
    pub verbose: u8,

    /// Say only what is wrong, and the counts at the end; of packets only who sends how much to whom
    #[arg(short, long, conflicts_with = "verbose", help_heading = "Output")]
    pub quiet: bool,
}

/// Options that are tcpdump's or dumpcap's words for others, or for what sniff does anyway.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "As in tcpdump and dumpcap")]
pub struct TcpdumpArgs {
    /// Stop after this many packets, as --count
    #[arg(short = 'c', value_name = "N", value_parser = clap::value_parser!(u64).range(1..), conflicts_with = "count")]
    pub packets: Option<u64>,

    /// Print addresses as numbers, even where the name of a pod is known; ports always are
    #[arg(short = 'n', action = ArgAction::Count)]
    pub numeric: u8,

    /// Hand on each line at once
    #[arg(short = 'l')]
    pub line_buffered: bool,

    /// Hand on each packet at once, as -U
    #[arg(long)]
    pub immediate_mode: bool,

    /// Leave interfaces in the mode that they are in, as sniff always does
    #[arg(short = 'p', long)]
    pub no_promiscuous_mode: bool,

    /// Verify no checksums
    #[arg(short = 'K', long)]
    pub dont_verify_checksums: bool,

    /// Make and write files with this user's rights to files, and no others
    #[arg(short = 'Z', long = "relinquish-privileges", value_name = "USER")]
    pub owner: Option<String>,

    /// Stop when: duration:SECONDS, packets:N, filesize:KB or files:COUNT
    #[arg(short = 'a', long = "autostop", value_name = "KIND:N")]
    pub stop_when: Vec<Condition>,

    /// Begin another file when: duration:SECONDS, packets:N or filesize:KB; files:COUNT are kept
    #[arg(short = 'b', long = "ring-buffer", value_name = "KIND:N")]
    pub rotate_when: Vec<Condition>,
}

impl Args {
    /// The whole command line, subcommands included, for completions and manual pages.
    pub fn whole() -> clap::Command {
        let others = Command::command();
        Self::command().disable_help_subcommand(true).subcommands(others.get_subcommands().cloned())
    }

    /// What clap cannot tell from a single option.
    pub(super) fn check(&self) -> Result<(), String> {
        let TcpdumpArgs { stop_when, rotate_when, .. } = &self.tcpdump;
        let is_of_files =
            |condition: &Condition| matches!(condition, Condition::FileBytes(_) | Condition::Files(_));
        if self.files.wireshark_profile.is_some() {
            Ok(())
        } else if self.targets().is_empty() && !self.list && self.dump == 0 && !self.dump_ebpf {
            Err(match target_meant(&self.expression) {
                Some(meant) => format!("name a target: did you mean {meant}?"),
                None => "name a target: --pod NS/POD, --selector LABELS, --container-id, --pid, --netns or --interface; --list shows the pods of this node".to_owned(),
            })
        } else if self.write.is_none() && (!rotate_when.is_empty() || stop_when.iter().any(is_of_files)) {
            Err("-b, -a filesize and -a files are about files: name one with -w".to_owned())
        } else if self.lines.is_printing() && self.write == Some(To::StandardOutput) {
            Err("--print and --write - would mix lines into the packets: write to a file".to_owned())
        } else if self.lines.is_printing() && self.write.is_none() && self.record.is_some() {
            Err("--record prints nothing unless it writes: name a file with -w, or leave out --print"
                .to_owned())
        } else if self.capture.one_side && self.unsorted {
            Err("--one-side takes packets in the order of time: leave out --unsorted".to_owned())
        } else if self.record.is_some() && self.unsorted {
            Err("--record writes packets in the order of time: leave out --unsorted".to_owned())
        } else if self.record.is_some() && self.count().is_some() {
            Err("--record writes the last packets, and not the first: leave out -a packets".to_owned())
        } else {
            self.capture.check().and_then(|()| self.manner().rotation.check()).map_err(str::to_owned)
        }
    }

    /// How packets are to be written. Of two words for one thing the smaller number holds.
    fn manner(&self) -> Manner {
        let TcpdumpArgs { stop_when, rotate_when, .. } = &self.tcpdump;
        let mut manner = self.files.manner(self.compress);
        let Manner { rotation, max_bytes, .. } = &mut manner;
        for condition in rotate_when {
            match *condition {
                Condition::Duration(time) => rotation.time = least(rotation.time, time),
                Condition::FileBytes(bytes) => rotation.bytes = least(rotation.bytes, bytes),
                Condition::Packets(packets) => rotation.packets = least(rotation.packets, packets),
                Condition::Files(files) => {
                    rotation.keep = least(rotation.keep, usize::try_from(files).unwrap_or(usize::MAX));
                }
            }
        }
        for condition in stop_when {
            match *condition {
                Condition::Files(files) => rotation.files = least(rotation.files, files),
                // As in dumpcap, whose files follow each other by it.
                Condition::FileBytes(bytes) if rotation.is_asked_for() => {
                    rotation.bytes = least(rotation.bytes, bytes);
                }
                Condition::FileBytes(bytes) => *max_bytes = least(*max_bytes, bytes),
                Condition::Duration(_) | Condition::Packets(_) => {}
            }
        }
        manner
    }

    /// The targets, in the order of their kinds; host interfaces when nothing else is named.
    pub fn targets(&self) -> Vec<FilteredTarget> {
        let named = [&self.pods, &self.containers, &self.pids].into_iter().flatten().cloned();
        let selected = self.selector.clone().map(|selector| Target::Pods {
            namespace: (!self.all_namespaces).then(|| self.namespace().to_owned()),
            selector,
        });
        let netns = self.netns.iter().cloned();
        let others = selected.into_iter().chain(netns).map(FilteredTarget::from);
        let mut targets: Vec<FilteredTarget> = named.chain(others).collect();
        if targets.is_empty() {
            targets.extend(self.interfaces.iter().cloned().map(|name| Target::Interface(name).into()));
        }
        targets
    }

    /// Whether there may be packets between two of the targets.
    fn has_several_targets(&self) -> bool {
        let Self { pods, containers, pids, netns, selector, .. } = self;
        selector.is_some() || pods.len() + containers.len() + pids.len() + netns.len() > 1
    }

    fn namespace(&self) -> &str {
        self.namespace.as_deref().unwrap_or(targets::DEFAULT_NAMESPACE)
    }

    /// After how many packets to stop.
    fn count(&self) -> Option<u64> {
        let conditions = self.tcpdump.stop_when.iter().filter_map(|condition| match condition {
            Condition::Packets(count) => Some(*count),
            _ => None,
        });
        conditions.chain(self.capture.count).chain(self.tcpdump.packets).min()
    }

    /// After which time to stop.
    fn duration(&self) -> Option<Duration> {
        let conditions = self.tcpdump.stop_when.iter().filter_map(|condition| match condition {
            Condition::Duration(time) => Some(*time),
            _ => None,
        });
        conditions.chain(self.capture.duration).min()
    }

    /// How much wakes whoever writes.
    fn batch(&self) -> ring::Batch {
        match self.write {
            _ if self.is_packet_buffered() => ring::Batch::Packet,
            Some(To::StandardOutput) => ring::Batch::Small,
            Some(To::File(_)) | None => ring::Batch::Large,
        }
    }

    /// Whether packets are printed.
    fn prints(&self) -> bool {
        self.lines.is_printing() || self.write.is_none() && self.record.is_none()
    }

    /// Whether each packet goes on at once.
    fn is_packet_buffered(&self) -> bool {
        self.packet_buffered || self.tcpdump.immediate_mode || self.tcpdump.line_buffered && self.prints()
    }

    /// How much a terminal shows of how it goes: where packets are printed, they show it.
    fn status_line(&self) -> Option<Detail> {
        let detail = if self.verbose > 0 { Detail::Each } else { Detail::Sum };
        let is_shown = !self.prints() && self.record.is_none() && !self.quiet;
        (is_shown && status_line::room().is_some()).then_some(detail)
    }

    /// What lines are to look like.
    fn style(&self) -> Style {
        self.lines.style(Printing {
            hex: self.hex,
            ascii: self.ascii,
            verbose: self.verbose > 0,
            brief: self.quiet,
            unverified: self.tcpdump.dont_verify_checksums,
            numeric: self.tcpdump.numeric > 0,
        })
    }

    /// Where packets go.
    fn destination(&self) -> Destination {
        match (&self.write, self.record) {
            (None, Some(_)) => Destination::Nowhere,
            (write, _) => {
                Destination::of(write.clone(), self.manner(), self.lines.is_printing(), self.style())
            }
        }
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

/// The option that was left out, if words in the place of a filter are a target.
fn target_meant(words: &[String]) -> Option<String> {
    let [word] = words else { return None };
    let is_name = |char: char| char.is_ascii_alphanumeric() || "-_.".contains(char);
    if word.contains('/') && Target::pod(word).is_ok() {
        Some(format!("--pod {word}"))
    } else if !word.is_empty() && word.chars().all(is_name) && !is_a_filter(word) {
        Some(format!("-i {word}, or --pod {word}"))
    } else {
        None
    }
}

fn pod(text: &str) -> Result<FilteredTarget> {
    FilteredTarget::with_filter(text, Target::pod)
}

fn container(text: &str) -> Result<FilteredTarget> {
    FilteredTarget::with_filter(text, Target::container)
}

fn pid(text: &str) -> Result<FilteredTarget> {
    FilteredTarget::with_filter(text, Target::pid)
}

/// Does what was asked for.
///
/// # Errors
///
/// When it fails.
pub(super) fn run(args: Args) -> Result<()> {
    if let Some(folder) = &args.files.wireshark_profile {
        return profile::write(folder);
    }
    if args.dump > 0 || args.dump_ebpf {
        return block_on(dump(&args));
    }
    privileges::check()?;
    privileges::raise_limits();
    if args.list {
        return block_on(list(&args));
    }
    let owner = args.tcpdump.owner.as_deref().map(Owner::find).transpose()?;
    let to = args.destination();
    let work = Work::Capture { to: to.clone(), dns_names: args.files.dns_names, owner: owner.clone() };
    let halves = halves::split(|ends| front::run(ends, work, args.no_sandbox))?;
    block_on(capture(args, &to, owner, halves))
}

async fn list(args: &Args) -> Result<()> {
    let _grant = agent::guest::list(args.agent_socket.as_deref()).await?;
    let rows = targets::list(&options(args)).await?;
    Ok(io::stdout().write_all(targets::table(&rows).as_bytes())?)
}

async fn capture(args: Args, to: &Destination, owner: Option<Owner>, halves: Halves) -> Result<()> {
    let signals = Signals::take_over()?.attend(halves.board)?;
    let (wanted, options) = (args.targets(), options(&args));
    let scopes = targets::scopes(&wanted, &options).await?;
    let interfaces = targets::interfaces_of(&scopes)?;
    let awaited = if args.no_follow { Vec::new() } else { targets::awaited(&wanted, &options) };
    let to_come = (!awaited.is_empty()).then(|| PodsToCome::listen(awaited, &scopes, &options));
    ensure!(!interfaces.is_empty() || to_come.is_some(), "there is nothing to capture");
    let agent_socket = args.agent_socket.clone();
    let only = interfaces.first().map_or(LinkType::Ethernet, link_type);
    let only = to.has_one_link_type().then_some(only);
    let (front, _) = halves.writer()?;
    let front = front.with_files(match (to.files(), owner) {
        (Some(files), Some(owner)) => Some(owner.files(files)),
        (files, _) => files,
    });
    let names = (!args.files.no_names).then(|| targets::learn(&interfaces, &options));
    let plan = Plan { names, only, to_come, ..plan(args, scopes, interfaces)? };
    if plan.interfaces.is_empty()
        && let Some(text) = plan.filter.read()?
    {
        // Nobody else finds out before the first pod comes.
        plan.filters.prepare(text, LinkType::Ethernet).await.context("the filter")?;
    }
    agent::guest::capture(plan, front, agent_socket, signals).await
}

fn least<T: Ord>(given: Option<T>, other: T) -> Option<T> {
    given.into_iter().chain([other]).min()
}

/// Prints the filter as it is compiled for the interfaces, or for Ethernet without any; a remark goes before each
/// program when there are several.
async fn dump(args: &Args) -> Result<()> {
    let text = args.filter_source().read()?.unwrap_or_default();
    let interfaces = targets::interfaces_of(&targets::scopes(&args.targets(), &options(args)).await?)?;
    let mut link_types: Vec<LinkType> = interfaces.iter().map(link_type).collect();
    link_types.sort_by_key(|link_type| *link_type as u16);
    link_types.dedup();
    if link_types.is_empty() {
        link_types.push(LinkType::Ethernet);
    }
    for link_type in &link_types {
        let program = expression::compile(&text, *link_type, !args.no_optimize)?;
        let encoded = || expression::encode(&text, *link_type, !args.no_optimize);
        let shown = match args.dump {
            _ if args.dump_ebpf => {
                compile::fragment(&program, Surroundings { link_type: *link_type, outgoing: false })?
                    .to_string()
            }
            1 => program.to_string(),
            2 => for_c(&encoded()?),
            _ => numbers(&encoded()?),
        };
        if link_types.len() > 1 {
            writeln!(io::stdout(), "; {link_type:?}")?;
        }
        writeln!(io::stdout(), "{shown}")?;
    }
    Ok(())
}

/// Instructions as `tcpdump -dd` prints them.
fn for_c(program: &[Encoded]) -> String {
    let line = |Encoded { code, jt, jf, k }: &Encoded| format!("{{ {code:#x}, {jt}, {jf}, {k:#010x} }},");
    program.iter().map(line).collect::<Vec<_>>().join("\n")
}

/// Instructions as `tcpdump -ddd` prints them, behind their number.
fn numbers(program: &[Encoded]) -> String {
    let line = |Encoded { code, jt, jf, k }: &Encoded| format!("{code} {jt} {jf} {k}");
    iter::once(program.len().to_string()).chain(program.iter().map(line)).collect::<Vec<_>>().join("\n")
}

fn options(args: &Args) -> targets::Options {
    targets::Options {
        cri_socket: args.cri_socket.clone(),
        interfaces: args.interfaces.clone(),
        node_name: args.node_name.clone(),
        with_facts: true,
        is_discreet: false,
    }
}

fn plan(args: Args, scopes: Vec<targets::Scope>, interfaces: Vec<targets::Interface>) -> Result<Plan> {
    let (filter, batch) = (args.filter_source(), args.batch());
    let (count, duration, status_line) = (args.count(), args.duration(), args.status_line());
    let both_ends = args.capture.both_ends(args.has_several_targets()).filter(|_| !args.unsorted);
    let CaptureArgs { attach, direction, snaplen, headers, cutoff, ring_bytes, .. } = args.capture;
    Ok(Plan {
        interfaces,
        scopes,
        to_come: None,
        room: MOST_TO_COME,
        attach,
        mechanism: args.hook,
        directions: direction.each(),
        filter,
        alarm: None,
        filters: Filters::new(args.no_optimize),
        headers,
        cutoff,
        snaplen,
        what: None,
        ring: args.record.map_or(args.ring, |_| ring::Kind::Recorder),
        ring_bytes: args.record.map_or(ring_bytes, |recording| recording.bytes),
        wished_time: args.record.and_then(|recording| recording.time),
        has_output: args.write.is_some() || args.record.is_none(),
        sorting: if args.unsorted { ring::Sorting::Unsorted } else { ring::Sorting::Time },
        both_ends,
        compress: Compress::Never,
        batch,
        names: None,
        only: None,
        status_line,
        count,
        duration,
        system: System::this(args.node_name.as_deref())?,
    })
}

#[cfg(test)]
mod tests {
    use sniff_cli::{exit, habits};
    use sniff_output::lines::{Dump, DumpForm, Form, Time};
    use sniff_protocol::request::BothEnds;

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
    fn a_target_can_have_a_filter_of_its_own() {
        let args =
            Args::try_parse_from(["sniff", "--pod", "a/b=tcp[13] = 2", "--pod", "a/c", "port 53"]).unwrap();
        let filters: Vec<_> = args.targets().into_iter().map(|wanted| wanted.filter).collect();
        assert_eq!(filters, [Some("tcp[13] = 2".to_owned()), None]);
        assert_eq!(args.filter_source(), Source::Text("port 53".to_owned()));
        assert!(Args::try_parse_from(["sniff", "--pod", "a/b= "]).is_err());
    }

    #[test]
    fn a_word_that_is_a_target_is_asked_back() {
        let wrong = |line: &[&str]| {
            Args::try_parse_from([&["sniff"], line].concat()).unwrap().check().expect_err("no target")
        };
        assert_eq!(wrong(&["shop/web-0"]), "name a target: did you mean --pod shop/web-0?");
        assert_eq!(wrong(&["eth0"]), "name a target: did you mean -i eth0, or --pod eth0?");
        for filter in
            [&["tcp"][..], &["vlan"], &["port", "80"], &["port 80"], &["ip[8] > 1"], &["shop/Web"], &[]]
        {
            assert!(wrong(filter).starts_with("name a target: --pod NS/POD, "), "{filter:?}");
        }
    }

    #[test]
    fn the_first_condition_that_is_met_ends_a_capture() {
        let of = |line: &[&str]| {
            let args = Args::try_parse_from([&["sniff", "-i", "lo"], line].concat()).unwrap();
            args.check().map(|()| (args.count(), args.duration()))
        };
        let seconds = |seconds| Some(Duration::from_secs(seconds));
        assert_eq!(of(&[]), Ok((None, None)));
        assert_eq!(of(&["-c", "5"]), Ok((Some(5), None)));
        assert_eq!(of(&["-c5", "-a", "packets:3", "--duration", "9"]), Ok((Some(3), seconds(9))));
        assert_eq!(of(&["-a", "duration:7", "--count", "2", "--duration", "9s"]), Ok((Some(2), seconds(7))));
        for line in
            [&["-a", "files:2"][..], &["-b", "duration:3600"], &["-a", "duration:1", "-a", "filesize:9"]]
        {
            assert!(of(line).unwrap_err().contains("name one with -w"), "{line:?}");
        }
        assert!(Args::try_parse_from(["sniff", "-i", "lo", "-c", "1", "--count", "2"]).is_err());
    }

    #[test]
    fn one_side_takes_what_tells_the_ends_apart() {
        let of = |line: &[&str]| {
            let args =
                Args::try_parse_from([&["sniff", "--netns", "a", "--one-side"], line].concat()).unwrap();
            args.check().map(|()| args.capture.both_ends(false))
        };
        assert_eq!(of(&[]), Ok(Some(BothEnds::OneSide)));
        assert_eq!(of(&["-Q", "inout"]), Ok(Some(BothEnds::OneSide)));
        for (line, out) in [(["-Q", "in"], "leave out -Q"), (["-Q", "out"], "leave out -Q")] {
            assert!(of(&line).unwrap_err().contains(out), "{line:?}");
        }
        assert!(of(&["--unsorted"]).unwrap_err().contains("leave out --unsorted"));
        let args = Args::try_parse_from(["sniff", "-i", "a", "-Q", "in"]).unwrap();
        assert_eq!(args.capture.both_ends(true), None);
        for (line, are_several) in [
            (&["--pod", "a/b"][..], false),
            (&["-i", "eth0", "-i", "eth1"], false),
            (&["--pod", "a/b", "--pid", "7"], true),
            (&["--netns", "a", "--netns", "b"], true),
            (&["--selector", "app=web"], true),
        ] {
            let args = Args::try_parse_from([&["sniff"], line].concat()).unwrap();
            assert_eq!(args.has_several_targets(), are_several, "{line:?}");
        }
    }

    #[test]
    fn files_follow_each_other_as_dumpcap_has_it() {
        let of = |line: &[&str]| {
            let args = Args::try_parse_from([&["sniff", "-i", "lo", "-w", "f"], line].concat()).unwrap();
            args.check().map(|()| args.manner())
        };
        let manner = of(&["-b", "filesize:100", "-b", "files:3", "-C", "1", "-a", "files:9"]).unwrap();
        let rotation = &manner.rotation;
        assert_eq!((rotation.bytes, rotation.keep, rotation.files), (Some(100_000), Some(3), Some(9)));
        let manner = of(&["-b", "duration:5", "-a", "filesize:7", "-b", "packets:4"]).unwrap();
        let rotation = &manner.rotation;
        assert_eq!((rotation.time, rotation.packets), (Some(Duration::from_secs(5)), Some(4)));
        assert_eq!((rotation.bytes, manner.max_bytes), (Some(7000), None));
        assert_eq!(of(&["-a", "filesize:7"]).unwrap().max_bytes, Some(7000));
        assert!(of(&["-b", "files:3"]).is_err() && of(&["-W", "3"]).is_err());
    }

    #[test]
    fn lines_go_out_at_once_where_they_are_printed() {
        let of = |line: &[&str]| {
            Args::try_parse_from([&["sniff", "-i", "lo"], line].concat()).unwrap().is_packet_buffered()
        };
        assert!(
            of(&["-l"])
                && of(&["-U"])
                && of(&["--immediate-mode", "-w", "f"])
                && of(&["-l", "--print", "-w", "f"])
        );
        assert!(!of(&[]) && !of(&["-l", "-w", "f"]));
    }

    #[test]
    fn each_option_of_tcpdump_and_dumpcap_is_there_or_answered() {
        let offered = habits::testing::offered_by(Args::command());
        for option in habits::testing::of_tcpdump_and_dumpcap() {
            let (is_offered, instead) = (offered.contains(&option), habits::instead(&option));
            assert!(is_offered != instead.is_some(), "{option}: offered: {is_offered}, instead: {instead:?}");
        }
        for (line, part) in [(&["-r", "f"][..], "tcpdump -r FILE"), (&["-zgzip"], "inotifywait")] {
            let error = Args::try_parse_from([&["sniff", "-i", "lo"], line].concat()).unwrap_err();
            let words = exit::words(&error, habits::instead);
            assert!(
                words.starts_with(&format!("{} is not offered: ", &line[0][..2])) && words.contains(part),
                "{words}"
            );
        }
    }

    #[test]
    fn lines_look_as_tcpdumps_letters_say() {
        let of = |letters: &str| Args::try_parse_from(["sniff", "-i", "lo", letters]).unwrap().style();
        let style = of("-nnvveSttttXX");
        assert!(
            style.numeric && style.verbose && style.link_header && style.absolute_numbers && !style.brief
        );
        assert_eq!(style.time, Time::Date);
        let dump = |as_what, link_header| Some(Dump { as_what, link_header });
        assert_eq!(style.dump, dump(DumpForm::HexAndAscii, true));
        assert_eq!(of("-x").dump, dump(DumpForm::Hex, false));
        assert_eq!(of("-AA").dump, dump(DumpForm::Ascii, true));
        assert_eq!(of("-xA").dump, dump(DumpForm::HexAndAscii, false));
        assert!(of("-q").brief);
        assert_eq!(of("-U"), Style::default());
        let args = Args::try_parse_from(["sniff", "-i", "lo", "-w", "f", "--lines", "json"]).unwrap();
        assert!(args.lines.is_printing() && args.style().form == Form::Json);
        assert!(!Args::try_parse_from(["sniff", "-i", "lo", "-e"]).unwrap().lines.is_printing());
        for mixed in ["--print", "--lines=text"] {
            let args = Args::try_parse_from(["sniff", "-i", "lo", "-w", "-", mixed]).unwrap();
            assert!(args.check().is_err(), "{mixed}");
        }
    }

    #[test]
    fn a_recording_may_go_nowhere_and_has_no_first_packets() {
        let of = |args: &[&str]| {
            let args = Args::try_parse_from([&["sniff", "-i", "lo", "--record", "256MiB"], args].concat());
            args.map_err(|error| error.to_string()).and_then(|args| args.check().map(|()| args))
        };
        let args = of(&["-w", "f", "--duration", "1h"]).unwrap();
        assert_eq!(args.record, Some(Recording { bytes: 256 << 20, time: None }));
        assert!(matches!(args.destination(), Destination::File { .. }));
        let args = of(&[]).unwrap();
        assert_eq!((args.destination(), args.prints()), (Destination::Nowhere, false));
        assert!(of(&["--print"]).is_err() && of(&["--unsorted"]).is_err());
        for wrong in [["-c", "5"], ["--count", "5"], ["-a", "packets:5"], ["-B", "1MiB"], ["--ring", "auto"]]
        {
            assert!(of(&[&["-w", "f"], &wrong[..]].concat()).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn an_interface_is_a_target_only_by_itself() {
        let of = |args: &[&str]| Args::try_parse_from(args).unwrap().targets();
        assert_eq!(of(&["sniff", "-i", "eth0"]), [Target::Interface("eth0".to_owned()).into()]);
        assert_eq!(of(&["sniff", "--pid", "7", "-i", "eth0"]), [Target::Pid(7).into()]);
    }

    #[test]
    fn a_tip_that_does_not_work_is_not_given() {
        for wrong in ["-?", "--xyzzy", "-?5"] {
            let error =
                exit::words(&Args::try_parse_from(["sniff", "-i", "lo", wrong]).unwrap_err(), |_| None);
            assert!(error.starts_with("unexpected argument '-") && !error.contains("tip"), "{error}");
        }
    }
}
