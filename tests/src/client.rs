//! `kubectl sniff` as a person runs it, away from all nodes.

use std::{
    env,
    ffi::OsString,
    fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    os::unix::process::ExitStatusExt as _,
    path::{Path, PathBuf},
    process::{Child, ChildStdout, Command, Stdio},
    sync::mpsc::{Receiver, channel},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use sniff_apiserver::ApiServer;
use tempfile::{NamedTempFile, TempDir};

use crate::{
    netns::{install, tool},
    pcap, sniff, wait,
};

/// The variable that names the client for Windows, which then is under test in place of this machine's.
pub const WINDOWS_CLIENT: &str = "SNIFF_WINDOWS_CLIENT";
/// What has to be told to Wine: itself, and the folder that stands for a Windows machine.
const WINE: &str = "SNIFF_WINE";
const WINE_FOLDER: &str = "WINEPREFIX";

/// The client for Windows, if that is under test.
pub fn windows_client() -> Option<PathBuf> {
    env::var_os(WINDOWS_CLIENT).map(PathBuf::from)
}

/// This machine's client.
pub fn binary() -> PathBuf {
    sniff::binary().with_file_name("kubectl-sniff")
}

/// The program under test.
fn program() -> Command {
    let Some(client) = windows_client() else { return tool(binary()) };
    let mut wine = tool(env::var_os(WINE).expect(WINE));
    wine.arg(client).env(WINE_FOLDER, env::var_os(WINE_FOLDER).expect(WINE_FOLDER)).env("WINEDEBUG", "-all");
    wine
}

/// Writes a program of these lines of shell.
pub fn write_script(path: &Path, lines: &str) {
    let mut script = NamedTempFile::new().expect("a file");
    script.write_all(format!("#!/bin/sh\n{lines}").as_bytes()).expect("a script");
    install(script.path(), path);
}

/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(40);

/// A started `kubectl sniff`; killed on drop.
#[derive(Debug)]
pub struct Client {
    child: Child,
    stderr: Receiver<String>,
    said: Vec<String>,
    stdout: Option<JoinHandle<Vec<u8>>>,
    folder: TempDir,
    began: Instant,
}

/// How it ended.
#[derive(Debug)]
pub struct Outcome {
    /// Its exit code; `None` when a signal ended it.
    pub code: Option<i32>,
    /// All that it wrote to stdout.
    pub stdout: Vec<u8>,
    /// Lines on stderr.
    pub stderr: Vec<String>,
    folder: TempDir,
}

impl Client {
    /// Starts it with a kubeconfig of the cluster. `FILE` among the arguments is a file of its own.
    pub fn start(cluster: &ApiServer, args: &[&str]) -> Self {
        Self::start_with(cluster, args, |_| {})
    }

    /// Starts it as a user whom RBAC knows.
    pub fn start_as(cluster: &ApiServer, user: &str, args: &[&str]) -> Self {
        Self::start_with(cluster, args, |folder| {
            fs::write(folder.join("config"), cluster.kubeconfig_of(user)).expect("a kubeconfig");
        })
    }

    /// Starts it with a Wireshark on its PATH that writes what it gets to the file, and its arguments beside.
    pub fn start_with_wireshark(cluster: &ApiServer, args: &[&str], reads: &str) -> Self {
        Self::start_with(cluster, args, |folder| {
            let (script, file) = (folder.join("wireshark"), folder.join("file"));
            let text = format!("printf '%s\\n' \"$@\" > {0}.args\nexec {reads} > {0}\n", file.display());
            write_script(&script, &text);
        })
    }

    /// Starts it as `nohup` does.
    pub fn start_under_nohup(cluster: &ApiServer, args: &[&str]) -> Self {
        let mut command = tool("nohup");
        command.arg(binary());
        let (client, stdout) = Self::launch(command, cluster, args, None, |_| {});
        client.read(stdout)
    }

    /// Starts it with a terminal as stderr.
    pub fn start_on_terminal(cluster: &ApiServer, args: &[&str], stderr: Stdio) -> Self {
        let (client, stdout) = Self::launch(program(), cluster, args, Some(stderr), |_| {});
        client.read(stdout)
    }

    /// Starts it with a stdout that is read at so many bytes a second.
    pub fn start_read_slowly(cluster: &ApiServer, args: &[&str], bytes_per_second: u32) -> Self {
        const PIECE: usize = 64 << 10;
        let (mut client, mut stdout) = Self::launch(program(), cluster, args, None, |_| {});
        client.stdout = Some(thread::spawn(move || {
            let (mut read, mut piece) = (Vec::new(), vec![0; PIECE]);
            while let Ok(len @ 1..) = stdout.read(&mut piece) {
                read.extend(&piece[..len]);
                thread::sleep(Duration::from_secs(1) * len as u32 / bytes_per_second);
            }
            read
        }));
        client
    }

    /// Starts it with a stdout that nobody reads, and that is closed.
    pub fn start_unread(cluster: &ApiServer, args: &[&str]) -> Self {
        let (mut client, stdout) = Self::launch(program(), cluster, args, None, |_| {});
        drop(stdout);
        client.stdout = Some(thread::spawn(Vec::new));
        client
    }

    fn start_with(cluster: &ApiServer, args: &[&str], prepare: impl FnOnce(&Path)) -> Self {
        let (client, stdout) = Self::launch(program(), cluster, args, None, prepare);
        client.read(stdout)
    }

    fn launch(
        mut command: Command,
        cluster: &ApiServer,
        args: &[&str],
        stderr: Option<Stdio>,
        prepare: impl FnOnce(&Path),
    ) -> (Self, ChildStdout) {
        let folder = tempfile::tempdir().expect("a folder");
        let config = folder.path().join("config");
        fs::write(&config, cluster.kubeconfig()).expect("a kubeconfig");
        prepare(folder.path());
        let file = folder.path().join("file");
        let args =
            args.iter().map(|arg| if *arg == "FILE" { file.clone().into() } else { OsString::from(arg) });
        let path = format!("{}:/usr/bin:/bin", folder.path().display());
        command
            .args(args)
            .env("KUBECONFIG", config)
            .env("PATH", path)
            .env("DISPLAY", ":none")
            .env("USER", "jane");
        let began = Instant::now();
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(stderr.unwrap_or_else(Stdio::piped))
            .spawn()
            .expect("kubectl-sniff");
        let (sender, stderr) = channel();
        if let Some(pipe) = child.stderr.take() {
            let lines = BufReader::new(pipe).lines();
            thread::spawn(move || lines.map_while(Result::ok).try_for_each(|line| sender.send(line)));
        }
        let stdout = child.stdout.take().expect("a pipe");
        (Self { child, stderr, said: Vec::new(), stdout: None, folder, began }, stdout)
    }

    fn read(mut self, stdout: ChildStdout) -> Self {
        self.stdout = Some(sniff::read_aside(stdout));
        self
    }

    /// Lets its files have at most so many bytes, as on a disk that is full then.
    pub fn limit_file_size(&self, bytes: u64) {
        let mut command = tool("prlimit");
        command.args([format!("--pid={}", self.child.id()), format!("--fsize={bytes}")]);
        assert!(command.status().expect("prlimit").success());
    }

    /// Waits until it says something with `part` in it, from now on or before, and returns that line.
    pub fn wait_for(&mut self, part: &str) -> String {
        if let Some(line) = self.said.iter().find(|line| line.contains(part)) {
            return line.clone();
        }
        let deadline = Instant::now() + wait::patience(PATIENCE);
        while let Ok(line) = self.stderr.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            self.said.push(line.clone());
            if line.contains(part) {
                return line;
            }
        }
        panic!("waited in vain for {part:?}: {:#?}", self.said);
    }

    /// Waits until so many packets are in its file.
    pub fn wait_for_packets(&self, count: usize) {
        let has_them = || packets_in(&fs::read(self.file()).unwrap_or_default()) >= count;
        wait::until(&format!("{count} packets in the file"), PATIENCE, || has_them().then_some(()));
    }

    /// Time since it was started.
    pub fn age(&self) -> Duration {
        self.began.elapsed()
    }

    /// The file that stands for `FILE`.
    pub fn file(&self) -> PathBuf {
        self.folder.path().join("file")
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.child.id().try_into().expect("a PID"));
        kill(pid, signal).expect("a process of ours");
    }

    /// Ends it as Ctrl-C does.
    pub fn stop(self) -> Outcome {
        self.signal(Signal::SIGINT);
        self.outcome()
    }

    /// Waits for its end.
    pub fn outcome(mut self) -> Outcome {
        let status = wait::exit_within(&mut self.child, PATIENCE);
        let Some(status) = status else {
            self.said.extend(self.stderr.try_iter());
            panic!("it does not end: {:#?}", self.said);
        };
        let stdout = self.stdout.take().expect("once").join().expect("no panic");
        let mut stderr = std::mem::take(&mut self.said);
        stderr.extend(self.stderr.iter());
        assert!(
            status.signal().is_none_or(|signal| signal == Signal::SIGKILL as i32),
            "{status}: {stderr:#?}"
        );
        let folder = std::mem::replace(&mut self.folder, tempfile::tempdir().expect("a folder"));
        Outcome { code: status.code(), stdout, stderr, folder }
    }
}

/// How many Enhanced Packet Blocks are whole in a file that is being written.
fn packets_in(mut file: &[u8]) -> usize {
    const PACKET: u32 = 6;
    let mut count = 0;
    while let Some((head, _)) = file.split_first_chunk::<8>() {
        let [kind, len] =
            [0, 4].map(|at| u32::from_ne_bytes(head[at..at + 4].try_into().expect("four bytes")));
        let Some((_, rest)) = file.split_at_checked(len as usize).filter(|_| len > 0) else { break };
        count += usize::from(kind == PACKET);
        file = rest;
    }
    count
}

impl Drop for Client {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Outcome {
    /// The file that stands for `FILE`.
    pub fn file(&self) -> pcap::PcapNg {
        pcap::read_pcapng(&self.path())
    }

    pub fn path(&self) -> PathBuf {
        self.folder.path().join("file")
    }

    /// Whether it said something with `part` in it.
    pub fn said(&self, part: &str) -> bool {
        self.stderr.iter().any(|line| line.contains(part))
    }

    /// Checks that it ended well.
    #[track_caller]
    pub fn assert_success(&self) {
        assert_eq!(self.code, Some(0), "{:#?}", self.stderr);
    }

    /// Checks that it failed, and said all of `parts` in one line.
    #[track_caller]
    pub fn assert_failure(&self, parts: &[&str]) {
        assert_eq!(self.code, Some(1), "{:#?}", self.stderr);
        let said = self.stderr.iter().any(|line| parts.iter().all(|part| line.contains(part)));
        assert!(said, "no line with {parts:?}: {:#?}", self.stderr);
    }
}
