//! The client's part: a `sniff serve` on a test machine, spoken to in frames.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio},
    sync::mpsc::{Receiver, RecvTimeoutError, channel},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use sniff_pcapng::{AnyBlock, BlockType, Watermark, blocks};
use sniff_protocol::{
    Decoder, PREFACE, ToClient, ToNode, encode,
    message::{Awaited, AwaitedBy, ClientHello, End, Event, NodeError, Target, TargetId, Targets},
};

use crate::{
    netns::{Netns, tool},
    pcap::{self, PcapNg},
    sniff, wait,
};

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// A session with a running `sniff serve`; killed on drop.
#[derive(Debug)]
pub struct Serving {
    child: Child,
    stdin: Option<ChildStdin>,
    messages: Receiver<ToClient>,
    stderr: JoinHandle<Vec<String>>,
    /// All messages so far but packets.
    said: Vec<ToClient>,
    packets: Vec<u8>,
}

/// How a session went.
#[derive(Debug)]
pub struct Outcome {
    /// Exit code, or the signal that ended it.
    pub status: ExitStatus,
    /// All messages but packets.
    pub said: Vec<ToClient>,
    /// All packets' frames, decompressed.
    pub packets: Vec<u8>,
    /// Lines on stderr.
    pub stderr: Vec<String>,
}

/// A hello that asks for these targets, with a short lease.
pub fn hello(targets: Vec<Target>) -> ClientHello {
    let (version, who) = ("test".to_owned(), "ada@laptop".to_owned());
    ClientHello { version, who, targets, lease_seconds: 15, ..ClientHello::default() }
}

/// Pods of a namespace as awaited ones, by their labels.
pub fn awaited(namespace: &str, selector: &str) -> Awaited {
    let by = AwaitedBy::Labels { selector: selector.into() };
    Awaited { namespace: Some(namespace.into()), by, interfaces: Vec::new() }
}

/// A pod as a target.
pub fn pod(namespace: &str, name: &str, uid: &str) -> Target {
    let id = TargetId::Pod { namespace: namespace.into(), name: name.into(), uid: uid.into() };
    Target::new(id)
}

/// Interfaces of the node as a target.
pub fn node_interface(name: &str) -> Target {
    Target { interfaces: vec![name.to_owned()], ..Target::new(TargetId::Node) }
}

impl Serving {
    /// Starts the program under test in a namespace of its machine.
    pub fn start(netns: &Netns) -> Self {
        Self::launch(netns, tool(sniff::binary()).arg("serve"))
    }

    /// Starts a command that speaks as `sniff serve` does.
    pub fn launch(netns: &Netns, command: &mut Command) -> Self {
        let (mut serving, stdout) = Self::launch_unread(netns, command);
        serving.read(stdout);
        serving
    }

    /// Starts it with a stdout that nobody reads until [`Self::read`].
    pub fn launch_unread(netns: &Netns, command: &mut Command) -> (Self, ChildStdout) {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = netns.spawn(command);
        let mut stdin = child.stdin.take().expect("a piped stdin");
        stdin.write_all(&PREFACE).expect("sending the preface");
        let stdout = child.stdout.take().expect("a piped stdout");
        let stderr = child.stderr.take().expect("a piped stderr");
        let stderr = thread::spawn(move || BufReader::new(stderr).lines().map_while(Result::ok).collect());
        let (_, messages) = channel();
        let (said, packets) = (Vec::new(), Vec::new());
        (Self { child, stdin: Some(stdin), messages, stderr, said, packets }, stdout)
    }

    /// Reads what it says from now on.
    pub fn read(&mut self, mut stdout: ChildStdout) {
        let (sender, messages) = channel();
        self.messages = messages;
        thread::spawn(move || {
            let mut decoder = Decoder::new();
            let mut buffer = vec![0; 1 << 16];
            loop {
                match decoder.next().expect("frames") {
                    // The test may have stopped listening.
                    Some(message) => drop(sender.send(message)),
                    None => match stdout.read(&mut buffer).expect("reading a pipe") {
                        0 => break,
                        len => decoder.push(&buffer[..len]),
                    },
                }
            }
            // A killed one may be cut anywhere.
            let _ = decoder.finish();
        });
    }

    /// Its process, as numbered where the tests run.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends a message.
    pub fn send(&mut self, message: &ToNode) {
        let mut frame = Vec::new();
        encode(message, &mut frame).expect("a frame");
        self.send_bytes(&frame);
    }

    /// Sends bytes as they are; it may have ended already.
    pub fn send_bytes(&mut self, bytes: &[u8]) {
        let _ = self.stdin.as_mut().expect("an open stdin").write_all(bytes);
    }

    /// Says hello and waits until all targets are attached or have failed; returns how many interfaces are.
    pub fn begin(&mut self, hello: ClientHello) -> u32 {
        self.send(&ToNode::Hello(Box::new(hello)));
        self.wait_for("listening", |message| match message {
            ToClient::Event(Event::Listening { interfaces }) => Some(*interfaces),
            _ => None,
        })
    }

    /// Has targets join and leave, and waits until the last of them has.
    pub fn change(&mut self, add: Vec<Target>, remove: Vec<TargetId>) {
        let last = add.last().map(|target| target.id.clone()).or_else(|| remove.last().cloned());
        let last = last.expect("a target");
        self.send(&ToNode::Targets(Targets { add, remove }));
        self.wait_for("the change", |message| match message {
            ToClient::Event(
                Event::TargetAdded { target, .. }
                | Event::TargetGone { target, .. }
                | Event::TargetFailed { target, .. },
            ) if *target == last => Some(()),
            _ => None,
        });
    }

    /// Waits for a message that `wanted` takes something from; packets are collected meanwhile.
    ///
    /// # Panics
    ///
    /// When it does not come.
    pub fn wait_for<T>(&mut self, what: &str, wanted: impl Fn(&ToClient) -> Option<T>) -> T {
        let deadline = Instant::now() + wait::patience(PATIENCE);
        loop {
            match self.messages.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(ToClient::Packets(blocks)) => self.packets.extend(blocks),
                Ok(message) => {
                    let found = wanted(&message);
                    self.said.push(message);
                    if let Some(found) = found {
                        return found;
                    }
                }
                Err(error) => panic!("{what}: {error}: {:#?}", self.said),
            }
        }
    }

    /// Asks how far in time the packets are complete, and waits for the answer among them: nanoseconds since 1970.
    ///
    /// # Panics
    ///
    /// When it does not come.
    pub fn ask_for_watermark(&mut self) -> u64 {
        self.send(&ToNode::Watermark);
        let deadline = Instant::now() + wait::patience(PATIENCE);
        loop {
            match self.messages.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(ToClient::Packets(new)) => {
                    let last = blocks(&new).filter_map(watermark).last();
                    self.packets.extend(&new);
                    if let Some(time) = last {
                        return time;
                    }
                }
                Ok(message) => self.said.push(message),
                Err(error) => panic!("no watermark: {error}: {:#?}", self.said),
            }
        }
    }

    /// Sends a signal; it may have ended already.
    pub fn signal(&self, signal: Signal) {
        let _ = kill(Pid::from_raw(self.pid().cast_signed()), signal);
    }

    /// Closes its stdin.
    pub fn close_input(&mut self) {
        self.stdin = None;
    }

    /// Whether it has ended when `limit` has passed.
    pub fn ends_within(&mut self, limit: Duration) -> bool {
        wait::exit_within(&mut self.child, limit).is_some()
    }

    /// Says stop and waits for the end.
    pub fn stop(mut self) -> Outcome {
        self.send(&ToNode::Stop);
        self.wait()
    }

    /// Waits for the end, with its stdin open.
    ///
    /// # Panics
    ///
    /// When it does not come.
    pub fn wait(mut self) -> Outcome {
        let deadline = Instant::now() + wait::patience(PATIENCE);
        loop {
            match self.messages.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(ToClient::Packets(blocks)) => self.packets.extend(blocks),
                Ok(message) => self.said.push(message),
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => panic!("no end: {:#?}", self.said),
            }
        }
        let status = wait::exit_within(&mut self.child, PATIENCE).expect("the end of the process");
        let stderr = std::mem::replace(&mut self.stderr, thread::spawn(Vec::new));
        Outcome {
            status,
            said: std::mem::take(&mut self.said),
            packets: std::mem::take(&mut self.packets),
            stderr: stderr.join().expect("a reader"),
        }
    }
}

/// The time of a block that is a watermark.
fn watermark(block: &[u8]) -> Option<u64> {
    let is_watermark = AnyBlock::first(block).expect("a block").block_type == BlockType::Watermark;
    is_watermark.then(|| Watermark::parse(block).expect("a watermark").time_ns)
}

impl Drop for Serving {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            self.signal(Signal::SIGKILL);
            let _ = self.child.wait();
        }
    }
}

impl Outcome {
    /// The last message, which must say how it ended.
    ///
    /// # Panics
    ///
    /// When it is another.
    pub fn end(&self) -> &End {
        match self.said.last() {
            Some(ToClient::End(end)) => end,
            _ => panic!("no end: {self:#?}"),
        }
    }

    /// The packets as a file, without watermarks. It must be whole and hold as many as the end says.
    pub fn file(&self) -> PcapNg {
        let lasting = blocks(&self.packets).filter(|block| watermark(block).is_none());
        let file = pcap::parse_pcapng(&lasting.flatten().copied().collect::<Vec<u8>>());
        assert_eq!(file.packets.len() as u64, self.end().captured);
        assert_eq!(file.statistics.len(), file.interfaces.len());
        file
    }

    /// The kinds of the blocks, in order.
    pub fn block_types(&self) -> Vec<BlockType> {
        blocks(&self.packets).map(|block| AnyBlock::first(block).expect("a block").block_type).collect()
    }

    /// The errors.
    pub fn errors(&self) -> Vec<&NodeError> {
        let errors = self.said.iter().filter_map(|message| match message {
            ToClient::Error(error) => Some(error),
            _ => None,
        });
        errors.collect()
    }

    /// The events.
    pub fn events(&self) -> Vec<&Event> {
        let events = self.said.iter().filter_map(|message| match message {
            ToClient::Event(event) => Some(event),
            _ => None,
        });
        events.collect()
    }
}
