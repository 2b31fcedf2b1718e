//! The program under test: started in a namespace, watched, signalled and waited for.

use std::{
    ffi::OsString,
    fs,
    io::{BufRead as _, BufReader, Read as _},
    os::unix::process::{CommandExt as _, ExitStatusExt as _},
    path::PathBuf,
    process::{Child, ChildStdout, ExitStatus, Stdio},
    sync::mpsc::{Receiver, RecvTimeoutError, channel},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::{
    netns::{Netns, tool},
    wait,
};

/// How long sniff may take to attach.
const START: Duration = Duration::from_secs(60);

/// How long sniff may take to end once it should.
const END: Duration = Duration::from_secs(60);

/// The binary that was built for the tests.
///
/// # Panics
///
/// When `SNIFF_BIN` does not name it.
pub fn binary() -> PathBuf {
    let path = std::env::var_os("SNIFF_BIN").map(PathBuf::from);
    let path = path.filter(|path| path.is_absolute() && path.is_file());
    path.expect("SNIFF_BIN is not the path of a built sniff: run the tests with `cargo xtask test`")
}

/// A command line that waits to be started.
#[derive(Debug)]
pub struct Sniff<'a> {
    netns: &'a Netns,
    program: PathBuf,
    args: Vec<OsString>,
    env: Vec<(OsString, OsString)>,
    stdout: Option<Stdio>,
    stderr: Option<Stdio>,
    user: Option<u32>,
    without: Option<String>,
}

/// A started sniff; killed on drop.
#[derive(Debug)]
pub struct Running {
    child: Child,
    stderr: Receiver<String>,
    said: Vec<String>,
    stdout: Option<Reader>,
}

type Reader = JoinHandle<Vec<u8>>;

/// How it ended.
#[derive(Debug)]
pub struct Outcome {
    /// Exit code, or the signal that ended it.
    pub status: ExitStatus,
    /// All that it wrote to stdout, unless the test took the pipe.
    pub stdout: Vec<u8>,
    /// Lines on stderr.
    pub stderr: Vec<String>,
}

/// tcpdump's three lines, which sniff prints at the end too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counts {
    /// `N packets captured`: written.
    pub captured: u64,
    /// `N packets received by filter`: wanted, captured or not.
    pub received: u64,
    /// `N packets dropped by kernel`.
    pub dropped: u64,
}

impl<'a> Sniff<'a> {
    /// A sniff that will run in `netns`, with all of that namespace's machine in view.
    pub fn in_netns(netns: &'a Netns) -> Self {
        let (args, env) = (Vec::new(), Vec::new());
        Self { netns, program: binary(), args, env, stdout: None, stderr: None, user: None, without: None }
    }

    /// Runs this copy, a path on the machine.
    pub fn program(self, path: &str) -> Self {
        Self { program: path.into(), ..self }
    }

    /// Adds arguments.
    pub fn args<I>(mut self, args: I) -> Self
    where
        I: IntoIterator<Item: Into<OsString>>,
    {
        self.args.extend(args.into_iter().map(Into::into));
        self
    }

    /// Sets a variable in its environment.
    pub fn env(mut self, key: &str, value: impl Into<OsString>) -> Self {
        self.env.push((key.into(), value.into()));
        self
    }

    /// Gives it this stdout instead of a pipe that is read to its end.
    pub fn stdout(self, stdout: Stdio) -> Self {
        Self { stdout: Some(stdout), ..self }
    }

    /// Gives it this stderr; the test then has to read there what it waits for.
    pub fn stderr(self, stderr: Stdio) -> Self {
        Self { stderr: Some(stderr), ..self }
    }

    /// Runs it as another user, without capabilities.
    pub fn user(self, uid: u32) -> Self {
        Self { user: Some(uid), ..self }
    }

    /// Runs it as root without these capabilities, as setpriv(1) names them.
    pub fn without(self, capabilities: &[&str]) -> Self {
        let each: Vec<_> = capabilities.iter().map(|capability| format!("-{capability}")).collect();
        Self { without: Some(each.join(",")), ..self }
    }

    /// Starts it and waits until it listens.
    pub fn start(self) -> Running {
        let mut running = self.launch();
        running.wait_for_line("listening on");
        running
    }

    /// Starts it with a stdout that nobody reads until the test does, and waits until it listens.
    pub fn start_unread(self) -> (Running, ChildStdout) {
        let mut running = self.stdout(Stdio::piped()).launch();
        let stdout = running.child.stdout.take().expect("a piped stdout");
        running.wait_for_line("listening on");
        (running, stdout)
    }

    /// Runs it to its end, which must come by itself.
    pub fn run(self) -> Outcome {
        self.launch().wait()
    }

    /// Starts it and waits for nothing.
    pub fn launch(self) -> Running {
        let Self { netns, program, args, env, stdout, stderr, user, without } = self;
        let mut command = match without {
            Some(set) => {
                let mut setpriv = tool("setpriv");
                setpriv.args(["--bounding-set", &set]).arg(program);
                setpriv
            }
            None => tool(program),
        };
        command.args(args).envs(env).stdin(Stdio::null()).stderr(stderr.unwrap_or_else(Stdio::piped));
        let collect = stdout.is_none();
        command.stdout(stdout.unwrap_or_else(Stdio::piped));
        if let Some(user) = user {
            command.uid(user).gid(user);
        }
        let mut child = netns.spawn(&mut command);
        let stdout = child.stdout.take_if(|_| collect).map(read_aside);
        let (sender, stderr) = channel();
        if let Some(pipe) = child.stderr.take() {
            thread::spawn(move || {
                // The test may have stopped listening.
                BufReader::new(pipe).lines().map_while(Result::ok).try_for_each(|line| sender.send(line))
            });
        }
        Running { child, stderr, said: Vec::new(), stdout }
    }
}

impl Running {
    /// Its process, as numbered where the tests run.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits for a line on stderr that contains `text`, and returns it.
    pub fn wait_for_line(&mut self, text: &str) -> String {
        let deadline = Instant::now() + wait::patience(START);
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.stderr.recv_timeout(left) {
                Ok(line) => {
                    self.said.push(line);
                    let line = self.said.last().filter(|line| line.contains(text));
                    if let Some(line) = line {
                        return line.clone();
                    }
                }
                Err(RecvTimeoutError::Timeout) => panic!("no {text:?} in time: {:#?}", self.said),
                Err(RecvTimeoutError::Disconnected) => {
                    panic!("sniff ended before {text:?}: {:#?}", self.said)
                }
            }
        }
    }

    /// Waits until a thread of it is stuck in writing to a full pipe.
    pub fn wait_for_stuck_output(&self) {
        // `pipe_write`, since Linux 6.15 `anon_pipe_write`.
        self.wait_for_thread_in("an output that is stuck", |function| function.ends_with("pipe_write"));
    }

    /// Waits until a thread of it waits for somebody to open a FIFO's other end.
    pub fn wait_for_fifo(&self) {
        let functions = ["wait_for_partner", "fifo_open"];
        self.wait_for_thread_in("a FIFO being opened", |function| functions.contains(&function));
    }

    /// Waits until a thread of it sleeps in a function of the kernel.
    fn wait_for_thread_in(&self, what: &str, is_meant: impl Fn(&str) -> bool) {
        wait::until(what, START, || {
            let of = |pid| fs::read_dir(format!("/proc/{pid}/task")).expect("a live process").flatten();
            let threads = halves(self.pid()).into_iter().flat_map(of);
            let waits_for = |thread: fs::DirEntry| fs::read_to_string(thread.path().join("wchan"));
            let mut functions = threads.filter_map(|thread| waits_for(thread).ok());
            functions.any(|function| is_meant(&function)).then_some(())
        });
    }

    /// Whether it has ended when `limit` has passed.
    pub fn ends_within(&mut self, limit: Duration) -> bool {
        wait::exit_within(&mut self.child, limit).is_some()
    }

    /// Sends it a signal; it may have ended already.
    pub fn signal(&self, signal: Signal) {
        let _ = kill(Pid::from_raw(self.pid().cast_signed()), signal);
    }

    /// Presses Ctrl-C and waits for the end.
    pub fn stop(self) -> Outcome {
        self.signal(Signal::SIGINT);
        self.wait()
    }

    /// Waits for the end.
    ///
    /// # Panics
    ///
    /// When it does not come.
    pub fn wait(mut self) -> Outcome {
        let Some(status) = wait::exit_within(&mut self.child, END) else {
            self.said.extend(self.stderr.try_iter());
            panic!("sniff has not ended after {END:?}: {:#?}", self.said)
        };
        self.said.extend(self.stderr.iter());
        let stdout = self.stdout.take().map(|reader| reader.join().expect("a reader"));
        let stderr = std::mem::take(&mut self.said);
        Outcome { status, stdout: stdout.unwrap_or_default(), stderr }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            self.signal(Signal::SIGKILL);
            let _ = self.child.wait();
        }
    }
}

/// CPU time of all threads of a process.
pub fn cpu_time(pid: u32) -> Duration {
    let ticks = |pid| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("a live process");
        // Behind the name, which may hold anything: user and system time, in ticks of 10 ms (proc_pid_stat(5)).
        let fields = stat.rsplit_once(')').expect("a name").1.split_whitespace();
        fields.skip(11).take(2).map(|ticks| ticks.parse::<u64>().expect("a number")).sum::<u64>()
    };
    Duration::from_millis(10 * halves(pid).into_iter().map(ticks).sum::<u64>())
}

/// A running sniff's process, and its front half's.
fn halves(pid: u32) -> Vec<u32> {
    [pid].into_iter().chain(children_of(pid)).collect()
}

/// The children of a process, whichever of its threads has made them.
pub fn children_of(pid: u32) -> Vec<u32> {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).expect("a live process").flatten();
    // A thread may have ended meanwhile.
    let children = threads.filter_map(|thread| fs::read_to_string(thread.path().join("children")).ok());
    let children: Vec<String> = children.collect();
    let children = children.iter().flat_map(|children| children.split_whitespace());
    children.map(|child| child.parse().expect("a process")).collect()
}

/// Reads a pipe to its end, while the test goes on.
pub fn read_aside(mut pipe: ChildStdout) -> JoinHandle<Vec<u8>> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        pipe.read_to_end(&mut bytes).expect("reading stdout");
        bytes
    })
}

impl Outcome {
    /// Checks that all went well and returns the counts.
    pub fn success(&self) -> Counts {
        assert_eq!(self.status.code(), Some(0), "{self:#?}");
        self.counts()
    }

    /// The counts at the end.
    pub fn counts(&self) -> Counts {
        let number = |what: &str| -> u64 {
            let mut numbers = self.stderr.iter().filter_map(|line| line.strip_suffix(what));
            match (numbers.next().map(str::parse), numbers.next()) {
                (Some(Ok(number)), None) => number,
                _ => panic!("not one line with a number and {what:?}: {self:#?}"),
            }
        };
        Counts {
            captured: number(" packets captured"),
            received: number(" packets received by filter"),
            dropped: number(" packets dropped by kernel"),
        }
    }

    /// Checks that it refused with `code` and exactly one line, and returns the line.
    pub fn refusal(&self, code: i32) -> &str {
        assert_eq!(self.status.code(), Some(code), "{self:#?}");
        assert!(self.stdout.is_empty(), "only packets belong on stdout: {self:#?}");
        match self.stderr.as_slice() {
            [line] if line.starts_with("sniff: ") => line,
            _ => panic!("not one line that starts with `sniff: `: {self:#?}"),
        }
    }

    /// The signal that ended it.
    pub fn signal(&self) -> Option<i32> {
        self.status.signal()
    }
}
