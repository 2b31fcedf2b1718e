//! The tools that are compared: how each is started, how one knows that it captures, and what it says
//! about packets that it lost.

use std::{
    env, fmt,
    fs::{self, File},
    io::{self, Write as _},
    path::{Path, PathBuf},
    process::{Child, ChildStdout, Command, ExitStatus, Stdio},
    str::FromStr,
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::{
    client, cpu,
    net::{HOST_INTERFACE, Net},
    scenario::{Filter, Load, RECORDING, Scenario},
};

/// How long a tool may take to start, and to end.
const PATIENCE: Duration = Duration::from_secs(60);
/// Between two looks at a tool.
const POLL: Duration = Duration::from_millis(5);
/// Files that are written in turns where only the last packets are kept.
const RING_FILES: u64 = 4;
/// A tool is idle when it sleeps, and used less than a twentieth of a CPU for so long.
const QUIET: Duration = Duration::from_millis(200);
const QUIET_CPU: Duration = Duration::from_millis(10);
/// What a tool is given to finish at least: libpcap hands on a block that is not full after a second.
const FINISHING: Duration = Duration::from_millis(1200);

/// A capture tool with its settings.
#[derive(Clone, Debug)]
pub struct Tool {
    /// For the command line and the results.
    pub name: String,
    kind: Kind,
    program: PathBuf,
    /// More arguments, before the usual ones.
    args: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Sniff,
    Tcpdump,
    Dumpcap,
    NetsniffNg,
    Xdpdump,
    Ptcpdump,
}

/// A tool that sniff is compared with.
struct Other {
    name: &'static str,
    kind: Kind,
    program: &'static str,
    args: &'static [&'static str],
    unnamed: Unnamed,
}

/// Whether a tool takes part when no tools are named.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Unnamed {
    Yes,
    IfThere,
    No,
}

/// All with a kernel buffer of 64 MiB, as sniff has, where that can be set.
const OTHERS: &[Other] = &[
    Other {
        name: TCPDUMP,
        kind: Kind::Tcpdump,
        program: "tcpdump",
        args: &["-B", "65536"],
        unnamed: Unnamed::Yes,
    },
    Other {
        name: "tcpdump-default",
        kind: Kind::Tcpdump,
        program: "tcpdump",
        args: &[],
        unnamed: Unnamed::No,
    },
    Other {
        name: TCPDUMP_IMMEDIATE,
        kind: Kind::Tcpdump,
        program: "tcpdump",
        args: &["-B", "65536", "--immediate-mode"],
        unnamed: Unnamed::Yes,
    },
    Other {
        name: DUMPCAP,
        kind: Kind::Dumpcap,
        program: "dumpcap",
        args: &["-B", "64"],
        unnamed: Unnamed::Yes,
    },
    Other {
        name: "netsniff-ng",
        kind: Kind::NetsniffNg,
        program: "netsniff-ng",
        args: &["--ring-size", "64MiB"],
        unnamed: Unnamed::Yes,
    },
    Other { name: "xdpdump", kind: Kind::Xdpdump, program: "xdpdump", args: &[], unnamed: Unnamed::Yes },
    // No package has it.
    Other {
        name: "ptcpdump",
        kind: Kind::Ptcpdump,
        program: "ptcpdump",
        args: &[],
        unnamed: Unnamed::IfThere,
    },
];

/// tcpdump with a buffer of 64 MiB.
pub const TCPDUMP: &str = "tcpdump";
/// The same, which hands on each packet at once: for streams only.
pub const TCPDUMP_IMMEDIATE: &str = "tcpdump-immediate";
/// dumpcap with a buffer of 64 MiB.
pub const DUMPCAP: &str = "dumpcap";
/// Those of a short run, beside sniff.
pub const QUICK: &[&str] = &[TCPDUMP, TCPDUMP_IMMEDIATE, DUMPCAP];

/// A build of sniff, given as `[LABEL=]PROGRAM [ARGUMENT…]`.
impl FromStr for Tool {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let first = text.split_whitespace().next().context("no program")?;
        let (name, command) = match first.split_once('=') {
            Some((label, _)) => (label, &text[text.find('=').map_or(0, |at| at + 1)..]),
            None => ("sniff", text),
        };
        let mut words = command.split_whitespace().map(str::to_owned);
        let program = words.next().with_context(|| format!("no program after {name}="))?.into();
        ensure!(!name.is_empty(), "no label in {text:?}");
        Ok(Self { name: name.into(), kind: Kind::Sniff, program, args: words.collect() })
    }
}

/// The tools called `names`; without names, the usual ones.
///
/// # Errors
/// A tool of `names` is not known, or one is not on the `PATH`.
pub fn others(names: &[String]) -> Result<Vec<Tool>> {
    if let Some(unknown) = names.iter().find(|name| OTHERS.iter().all(|other| other.name != *name)) {
        let known: Vec<_> = OTHERS.iter().map(|other| other.name).collect();
        bail!("no tool {unknown:?}; there are {}", known.join(", "));
    }
    let wanted = |other: &&Other| match names {
        [] => other.unnamed != Unnamed::No,
        names => names.iter().any(|name| name == other.name),
    };
    let mut tools = Vec::new();
    for &Other { name, kind, program, args, unnamed } in OTHERS.iter().filter(wanted) {
        match find(program) {
            Some(program) => {
                let args = args.iter().map(ToString::to_string).collect();
                tools.push(Tool { name: name.into(), kind, program, args });
            }
            None if names.is_empty() && unnamed == Unnamed::IfThere => {}
            None => {
                bail!("{program} is not on the PATH (`cargo xtask setup --bench` installs all but ptcpdump)")
            }
        }
    }
    Ok(tools)
}

fn find(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let folders = env::split_paths(&path).chain(["/usr/sbin".into(), "/sbin".into()]);
    folders.map(|folder: PathBuf| folder.join(program)).find(|file| file.is_file())
}

impl Tool {
    /// Whether this is a sniff.
    pub fn is_sniff(&self) -> bool {
        self.kind == Kind::Sniff
    }

    /// Whether the tool can capture what `scenario` asks for.
    pub fn can(&self, scenario: &Scenario) -> bool {
        let frames = matches!(scenario.load, Load::Frames { .. });
        if scenario.is_stream || self.name == TCPDUMP_IMMEDIATE {
            // `serve` takes none of the options that tell builds apart.
            return scenario.is_stream
                && (self.kind == Kind::Tcpdump || self.is_sniff() && self.args.is_empty());
        }
        if scenario.is_recording {
            return match self.kind {
                Kind::Sniff => self.args.is_empty(),
                kind => matches!(kind, Kind::Tcpdump | Kind::Dumpcap),
            };
        }
        let only_sniff = scenario.is_about_pods() || matches!(scenario.load, Load::Silence { .. });
        match self.kind {
            Kind::Sniff => true,
            Kind::Tcpdump => !only_sniff,
            _ if scenario.prints => false,
            Kind::Dumpcap | Kind::Ptcpdump => !only_sniff,
            Kind::NetsniffNg => !only_sniff && scenario.snaplen.is_none(),
            // It sees what XDP sees: no packets that are still to be segmented.
            Kind::Xdpdump => !only_sniff && frames && scenario.filter == Filter::Everything,
        }
    }

    /// The first line in which the tool tells its version.
    pub fn version(&self) -> Result<String> {
        let output = Command::new(&self.program).arg("--version").stdin(Stdio::null()).output();
        let output = output.with_context(|| format!("cannot run {}", self.program.display()))?;
        let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        let line = text.lines().find(|line| line.chars().any(|char| char.is_ascii_digit()));
        Ok(line.with_context(|| format!("{self} tells no version"))?.trim().trim_end_matches('.').into())
    }

    fn command(&self, scenario: &Scenario, pods: &[PathBuf], file: &Path) -> Command {
        let mut command = Command::new(&self.program);
        command.args(&self.args);
        if scenario.is_stream && self.is_sniff() {
            command.arg("serve");
            return command;
        }
        let snaplen = scenario.snaplen.map(|snaplen| snaplen.to_string());
        let filter = scenario.filter.expression();
        let mut option = |name: &str, value: Option<&str>| {
            if let Some(value) = value {
                command.args([name, value]);
            }
        };
        match self.kind {
            Kind::Sniff => {
                option("-s", snaplen.as_deref());
                option("-f", filter.as_deref());
                for pod in pods {
                    command.arg("--netns").arg(pod);
                }
                if scenario.prints {
                    return command;
                }
                if scenario.is_recording {
                    command.args(["--record", &format!("{}MiB", RECORDING >> 20)]);
                }
                command.arg("-w");
            }
            Kind::Tcpdump => {
                option("-i", Some(HOST_INTERFACE));
                option("-s", snaplen.as_deref());
                // It would give root up, and could not write the file then.
                command.args(["-nn", "-Z", "root"]);
                if scenario.is_recording {
                    // In millions of bytes.
                    let (files, size) = (RING_FILES.to_string(), RECORDING / RING_FILES / 1_000_000);
                    command.args(["-W", &files, "-C", &size.to_string()]);
                }
                if !scenario.prints {
                    command.arg("-w").arg(if scenario.is_stream { Path::new("-") } else { file });
                }
                command.args(filter);
                return command;
            }
            Kind::Dumpcap => {
                option("-i", Some(HOST_INTERFACE));
                option("-s", snaplen.as_deref());
                option("-f", filter.as_deref());
                if scenario.is_recording {
                    // In thousands of bytes.
                    let size = RECORDING / RING_FILES / 1000;
                    command.args(["-b", &format!("files:{RING_FILES}"), "-b", &format!("filesize:{size}")]);
                }
                command.args(["-q", "-w"]);
            }
            Kind::NetsniffNg => {
                option("--in", Some(HOST_INTERFACE));
                option("--filter", filter.as_deref());
                // It would change settings of the whole machine.
                command.args(["--no-sock-mem", "--notouch-irq", "--silent", "--out"]);
            }
            Kind::Xdpdump => {
                option("-i", Some(HOST_INTERFACE));
                option("-s", snaplen.as_deref());
                command.args(["--load-xdp-program", "-w"]);
            }
            Kind::Ptcpdump => {
                option("-i", Some(HOST_INTERFACE));
                option("-s", snaplen.as_deref());
                command.arg("-w");
                command.arg(file);
                command.args(filter);
                return command;
            }
        }
        command.arg(file);
        command
    }

    /// Starts the tool on the node and waits until it captures; all of it stays on [`cpu::TOOL`] when
    /// `pinned`.
    ///
    /// # Errors
    /// It ends, or does not say in time that it captures.
    pub fn start(
        &self,
        scenario: &Scenario,
        net: &Net,
        file: &Path,
        log: &Path,
        pinned: bool,
    ) -> Result<Capture> {
        let messages = File::create(log).with_context(|| format!("cannot write {}", log.display()))?;
        let mut command = self.command(scenario, &net.pods(scenario.pods), file);
        let stdout = match scenario {
            Scenario { is_stream: true, .. } => Stdio::piped(),
            Scenario { prints: true, .. } => File::create(file)?.into(),
            Scenario { .. } => messages.try_clone()?.into(),
        };
        let is_asked = scenario.is_stream && self.is_sniff();
        let stdin = if is_asked { Stdio::piped() } else { Stdio::null() };
        command.stdin(stdin).stdout(stdout).stderr(messages);
        let start = Instant::now();
        let mut child = net.node.run(|| {
            if pinned {
                cpu::pin(cpu::TOOL)?;
            }
            command.spawn().with_context(|| format!("cannot run {}", self.program.display()))
        })?;
        if is_asked && let Some(stdin) = &mut child.stdin {
            stdin.write_all(&client::hello(HOST_INTERFACE)?)?;
        }
        let reader = child.stdout.take().map(|stdout| read(stdout, stream_of(file))).transpose()?;
        let ready_after = Duration::ZERO;
        let mut capture = Capture { child, kind: self.kind, log: log.into(), reader, ready_after };
        while !capture.messages()?.contains(self.kind.ready_sign()) {
            capture.still_runs()?;
            ensure!(start.elapsed() < PATIENCE, "{self} does not start: {}", capture.messages()?.trim());
            thread::sleep(POLL);
        }
        capture.ready_after = start.elapsed();
        Ok(capture)
    }
}

impl fmt::Display for Tool {
    fn fmt(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        formatter.pad(&self.name)
    }
}

impl Kind {
    /// What the tool prints once it captures.
    fn ready_sign(self) -> &'static str {
        match self {
            Self::Sniff | Self::Tcpdump | Self::Xdpdump => "listening on",
            Self::Dumpcap => "File: ",
            Self::NetsniffNg => "Running!",
            Self::Ptcpdump => "capturing on",
        }
    }

    /// How many packets the tool says it lost, from all that it printed.
    fn dropped(self, messages: &str) -> Option<u64> {
        let number_before = |words: &str| {
            let line = messages.lines().find_map(|line| line.split_once(words))?.0;
            line.split_whitespace().next_back()?.parse().ok()
        };
        match self {
            Self::Sniff | Self::Tcpdump | Self::Ptcpdump => number_before(" packets dropped by kernel")
                .or_else(|| number_before(" packet dropped by kernel")),
            Self::NetsniffNg => number_before("  packets failed filter (out of space)"),
            Self::Xdpdump => number_before(" packets dropped by perf ring"),
            Self::Dumpcap => {
                let counts =
                    messages.lines().find_map(|line| line.split_once("received/dropped on interface"))?;
                let dropped = counts.1.split_once(": ")?.1.split_once('/')?.1;
                dropped.split_once(' ')?.0.parse().ok()
            }
        }
    }
}

/// Where what comes out of the pipe is put that stands for the capture file `file`.
pub fn stream_of(file: &Path) -> PathBuf {
    file.with_extension("stream")
}

/// Takes what comes out of a pipe, as fast as it comes; beside the sender, which leaves the tool its CPU.
fn read(mut pipe: ChildStdout, into: PathBuf) -> Result<Reader> {
    let mut file = File::create(&into).with_context(|| format!("cannot write {}", into.display()))?;
    Ok(thread::spawn(move || {
        cpu::pin(cpu::SENDER)?;
        io::copy(&mut pipe, &mut file)?;
        Ok(into)
    }))
}

/// Reads until the pipe is closed; returns where it is all put.
type Reader = JoinHandle<Result<PathBuf>>;

/// A running tool.
pub struct Capture {
    child: Child,
    kind: Kind,
    log: PathBuf,
    /// At the other end of the pipe, if the capture goes into one.
    reader: Option<Reader>,
    /// From its start until it captured.
    pub ready_after: Duration,
}

impl Capture {
    fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id() as i32)
    }

    fn messages(&self) -> Result<String> {
        let bytes = fs::read(&self.log).with_context(|| format!("cannot read {}", self.log.display()))?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    fn still_runs(&mut self) -> Result<()> {
        match self.child.try_wait()? {
            None => Ok(()),
            Some(status) => Err(anyhow!("it ended ({status}): {}", self.messages()?.trim())),
        }
    }

    /// CPU time of the tool's processes so far.
    pub fn cpu(&self) -> Result<Duration> {
        cpu::family(self.pid())?.into_iter().map(cpu::of_process).sum()
    }

    fn sleeps(&self) -> Result<bool> {
        let sleeping: Vec<_> =
            cpu::family(self.pid())?.into_iter().map(cpu::sleeps).collect::<Result<_>>()?;
        Ok(sleeping.into_iter().all(|sleeps| sleeps))
    }

    /// Waits until the tool has done what it does at its start.
    ///
    /// # Errors
    /// It ends, or stays busy for too long.
    pub fn settle(&mut self) -> Result<()> {
        self.wait_until_idle(Duration::ZERO)
    }

    /// Waits until the tool has nothing more to do for the packets that it got.
    ///
    /// # Errors
    /// It ends, or stays busy for too long.
    pub fn finish(&mut self) -> Result<()> {
        self.wait_until_idle(FINISHING)
    }

    fn wait_until_idle(&mut self, at_least: Duration) -> Result<()> {
        let start = Instant::now();
        loop {
            let before = self.cpu()?;
            thread::sleep(QUIET);
            self.still_runs()?;
            let used = self.cpu()?.saturating_sub(before);
            // One that is kept from running uses little, and has not finished.
            if start.elapsed() >= at_least && used < QUIET_CPU && self.sleeps()? {
                return Ok(());
            }
            ensure!(start.elapsed() < PATIENCE, "it is still busy after {} s", PATIENCE.as_secs());
        }
    }

    /// The most memory that each of the tool's processes had so far, added up, in bytes; what it shares with the kernel
    /// included.
    pub fn peak_memory(&self) -> Result<u64> {
        self.memory("status", "VmHWM:")
    }

    /// The memory that it has; what its processes share counts once.
    pub fn resident_memory(&self) -> Result<u64> {
        self.memory("smaps_rollup", "Pss:")
    }

    /// What a file of each of its processes says below this name, added up.
    fn memory(&self, file: &str, name: &str) -> Result<u64> {
        let of = |pid: Pid| {
            let text = fs::read_to_string(format!("/proc/{pid}/{file}"))?;
            let line = text.lines().find_map(|line| line.strip_prefix(name));
            let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
            Ok(kib.with_context(|| format!("no {name} in {file} of process {pid}"))? * 1024)
        };
        cpu::family(self.pid())?.into_iter().map(of).sum()
    }

    /// Ends the tool as Ctrl-C does; how many packets it says it lost. The capture then is in `file`.
    ///
    /// # Errors
    /// It does not end in time, or fails.
    pub fn interrupt(mut self, file: &Path) -> Result<Option<u64>> {
        let status = self.end()?;
        let messages = self.messages()?;
        ensure!(status.success(), "it failed ({status}): {}", messages.trim());
        let Some(reader) = self.reader.take() else { return Ok(self.kind.dropped(&messages)) };
        let stream = reader.join().map_err(|_| anyhow!("the reader panicked"))??;
        if self.kind == Kind::Sniff {
            return client::unwrap(&stream, file).map(Some);
        }
        fs::rename(stream, file)?;
        Ok(self.kind.dropped(&messages))
    }

    fn end(&mut self) -> Result<ExitStatus> {
        kill(self.pid(), Signal::SIGINT)?;
        let start = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            ensure!(start.elapsed() < PATIENCE, "it does not end");
            thread::sleep(POLL);
        }
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        // It has ended already when all went well. Otherwise it may have things on the interface to take away:
        // killed, xdpdump would leave its XDP program there.
        if matches!(self.child.try_wait(), Ok(None)) && self.end().is_err() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};

    use super::{Kind, Tool, others};
    use crate::scenario;

    #[test]
    fn what_a_tool_lost_is_found_in_what_it_says() {
        let dumpcap = "Capturing on 'a/b'\nFile: f\nPackets captured: 7\n\
            Packets received/dropped on interface 'a/b': 7/12 (pcap:12/dumpcap:0/flushed:0/ps_ifdrop:0) (36.8%)\n";
        assert_eq!(Kind::Dumpcap.dropped(dumpcap), Some(12));
        let tcpdump = "1 packet captured\n4 packets received by filter\n3 packets dropped by kernel\n";
        assert_eq!(Kind::Tcpdump.dropped(tcpdump), Some(3));
        assert_eq!(Kind::Sniff.dropped("sniff: 1 packet dropped by kernel"), Some(1));
        let netsniff = "           6  packets incoming (0 unread on exit)\n           6  packets passed filter\n\
                       \x20          2  packets failed filter (out of space)\n      0.0000% packet droprate\n";
        assert_eq!(Kind::NetsniffNg.dropped(netsniff), Some(2));
        assert_eq!(Kind::Xdpdump.dropped("4 packets captured\n5 packets dropped by perf ring"), Some(5));
        assert_eq!(Kind::Ptcpdump.dropped("killed"), None);
    }

    #[test]
    fn a_build_has_a_label_and_arguments() {
        let tool: Tool = "regions=/bin/sniff --ring regions".parse().unwrap();
        assert_eq!((tool.name.as_str(), tool.program), ("regions", PathBuf::from("/bin/sniff")));
        assert_eq!(tool.args, ["--ring", "regions"]);
        let tool: Tool = "/bin/sniff --key=value".parse().unwrap();
        assert_eq!((tool.name.as_str(), tool.args), ("sniff", vec!["--key=value".to_owned()]));
        for wrong in ["", "label=", "=/bin/sniff"] {
            assert!(wrong.parse::<Tool>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn unknown_tools_are_refused() {
        assert!(others(&["wiredump".to_owned()]).is_err());
    }

    #[test]
    fn a_filter_and_a_snaplen_reach_each_tool() {
        let words = |kind, scenario: &str| {
            let tool = Tool { name: "tool".into(), kind, program: "tool".into(), args: Vec::new() };
            let scenario = scenario::find(scenario).unwrap();
            assert!(tool.can(scenario));
            let command = tool.command(scenario, &["/pod".into()], Path::new("/file"));
            command.get_args().map(|arg| arg.to_string_lossy().into_owned()).collect::<Vec<_>>().join(" ")
        };
        for kind in [Kind::Sniff, Kind::Tcpdump, Kind::Dumpcap, Kind::NetsniffNg, Kind::Ptcpdump] {
            assert!(words(kind, "no-match").contains("tcp port 443"), "{kind:?}");
        }
        for kind in [Kind::Sniff, Kind::Tcpdump, Kind::Dumpcap, Kind::Xdpdump, Kind::Ptcpdump] {
            assert!(words(kind, "1514-snap96").contains("-s 96"), "{kind:?}");
        }
        assert_eq!(words(Kind::Sniff, "64"), "--netns /pod -w /file");
        assert_eq!(words(Kind::Sniff, "stream-text"), "serve");
        assert!(words(Kind::Tcpdump, "stream-text").ends_with("-w -"));
    }

    #[test]
    fn a_stream_is_for_those_that_have_one() {
        let tool = |name: &str, kind, args: &[&str]| Tool {
            name: name.into(),
            kind,
            program: name.into(),
            args: args.iter().map(ToString::to_string).collect(),
        };
        let (stream, file) = (scenario::find("stream-text").unwrap(), scenario::find("64").unwrap());
        let can = |tool: Tool| (tool.can(stream), tool.can(file));
        assert_eq!(can(tool("sniff", Kind::Sniff, &[])), (true, true));
        assert_eq!(can(tool("sniff", Kind::Sniff, &["--ring", "ringbuf"])), (false, true));
        assert_eq!(can(tool("tcpdump", Kind::Tcpdump, &[])), (true, true));
        assert_eq!(can(tool("tcpdump-immediate", Kind::Tcpdump, &[])), (true, false));
        assert_eq!(can(tool("dumpcap", Kind::Dumpcap, &[])), (false, true));
    }
}
