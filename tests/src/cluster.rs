//! Nodes of a cluster, for [`ApiServer`](sniff_apiserver::ApiServer).
//!
//! Commands run as processes of the node's machine, outside any container: the program under test finds there what it
//! would find from its privileged pod.

use std::{
    io,
    net::{Ipv4Addr, TcpStream},
    path::PathBuf,
    process::{Child, Command},
};

use sniff_apiserver::{Container, Node};

use crate::{
    netns::{Netns, tool},
    sniff,
};

/// Where a pod's main process has its socket.
const SOCKET: &str = "SNIFF_AGENT_SOCKET";

impl Node for Netns {
    /// The program under test, whatever its path in the container; there is no other.
    fn command(&self, words: &[&str], container: &Container<'_>) -> Option<Command> {
        let (&"sniff", args) = words.split_first()? else { return None };
        let mut command = tool(sniff::binary());
        // Its folders are not those of the real one.
        let env = container.env.iter().filter(|(name, _)| name != SOCKET);
        command.args(args).envs(env.cloned()).env("SNIFF_METRICS_ADDRESS", "off");
        if container.has_main_process {
            // Each pod has a folder of its own in the real one.
            command.env(SOCKET, format!("/run/{}.sock", container.pod));
        }
        Some(command)
    }

    fn spawn(&self, command: &mut Command) -> Child {
        Self::spawn(self, command)
    }

    fn connect(&self, port: u16) -> io::Result<TcpStream> {
        self.enter(|| TcpStream::connect((Ipv4Addr::LOCALHOST, port)))
    }
}

/// A node on which whatever is run says what is in a file, and then listens in silence.
#[derive(Debug)]
pub struct Impostor {
    pub netns: Netns,
    pub says: PathBuf,
}

impl Node for Impostor {
    fn command(&self, _: &[&str], _: &Container<'_>) -> Option<Command> {
        let mut command = tool("sh");
        command.args(["-c", "cat \"$0\" && exec cat > /dev/null"]).arg(&self.says);
        Some(command)
    }

    fn spawn(&self, command: &mut Command) -> Child {
        self.netns.spawn(command)
    }

    fn connect(&self, port: u16) -> io::Result<TcpStream> {
        self.netns.connect(port)
    }
}
