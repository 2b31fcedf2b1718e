//! A concurrent `tcpdump`: the second opinion on what crossed an interface.

use std::{
    io::{BufRead as _, BufReader, Read as _},
    process::{Child, ChildStderr, Stdio},
    time::Duration,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tempfile::TempDir;

use crate::{
    netns::{Netns, tool},
    pcap::{self, Packet},
    wait,
};

/// A running `tcpdump`.
#[derive(Debug)]
pub struct Tcpdump {
    child: Child,
    stderr: BufReader<ChildStderr>,
    directory: TempDir,
}

impl Tcpdump {
    /// Starts it on `interface` and waits until it listens; `rest` are more options (`-Q in`) and
    /// a filter.
    pub fn start(netns: &Netns, interface: &str, rest: &[&str]) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let mut child = netns.spawn(
            tool("tcpdump")
                .args(["-i", interface, "--immediate-mode", "-U", "-B", "65536", "-s", "0"])
                .args(["--time-stamp-precision=nano", "-Z", "root", "-w"])
                .arg(directory.path().join("tcpdump.pcap"))
                .args(rest)
                .stdin(Stdio::null())
                .stderr(Stdio::piped()),
        );
        let mut stderr = BufReader::new(child.stderr.take().expect("a piped stderr"));
        let mut said = String::new();
        while !said.contains("listening on") {
            let length = stderr.read_line(&mut said).expect("reading from tcpdump");
            assert!(length > 0, "tcpdump ended: {said}");
        }
        Self { child, stderr, directory }
    }

    /// Stops it and returns what it saw.
    ///
    /// # Panics
    ///
    /// When it has lost packets: then it is no measure for others.
    pub fn stop(mut self) -> Vec<Packet> {
        self.signal(Signal::SIGINT);
        let mut said = String::new();
        self.stderr.read_to_string(&mut said).expect("reading from tcpdump");
        let ended = wait::exit_within(&mut self.child, Duration::from_secs(10));
        assert!(ended.is_some_and(|status| status.success()), "tcpdump failed: {said}");
        assert!(said.lines().any(|line| line == "0 packets dropped by kernel"), "tcpdump: {said}");
        pcap::read_pcap(&self.directory.path().join("tcpdump.pcap"))
    }

    fn signal(&self, signal: Signal) {
        // It may have ended already.
        let _ = kill(Pid::from_raw(self.child.id().cast_signed()), signal);
    }
}

impl Drop for Tcpdump {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            self.signal(Signal::SIGKILL);
            let _ = self.child.wait();
        }
    }
}
