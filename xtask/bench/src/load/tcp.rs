//! One TCP connection from the pod through the node to its peer, made by iperf3.

use std::{
    io::Read as _,
    process::{Child, Command, Stdio},
};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::net::{self, Net, output};

/// Sends `bytes` from the pod to the peer; the rate as the receiver saw it, in bits a second.
///
/// # Errors
/// iperf3 is missing or fails.
pub fn transfer(net: &Net, bytes: u64) -> Result<f64> {
    let mut server = Server::start(net)?;
    let bytes = bytes.to_string();
    let result = net.pod.run(|| {
        output(Command::new("iperf3").args(["--json", "--client", &net::PEER.to_string(), "--bytes", &bytes]))
    })?;
    server.wait()?;
    parse(&result)
}

fn parse(result: &str) -> Result<f64> {
    let result: Value = serde_json::from_str(result).context("iperf3 printed other than JSON")?;
    let rate = result["end"]["sum_received"]["bits_per_second"].as_f64();
    let rate = rate.with_context(|| format!("iperf3 tells no rate: {result}"))?;
    ensure!(rate > 0.0, "iperf3 received nothing");
    Ok(rate)
}

/// A server for one client.
struct Server(Child);

impl Server {
    fn start(net: &Net) -> Result<Self> {
        let mut command = Command::new("iperf3");
        command.args(["--server", "--one-off", "--forceflush"]).stdout(Stdio::piped()).stdin(Stdio::null());
        let mut server = Self(net.peer.run(|| command.spawn().context("cannot run iperf3"))?);
        let mut messages = String::new();
        let mut stdout = server.0.stdout.take().context("iperf3 without output")?;
        let mut buffer = [0; 256];
        while !messages.contains("listening") {
            let len = stdout.read(&mut buffer)?;
            ensure!(len > 0, "iperf3 does not listen: {messages}");
            messages.push_str(&String::from_utf8_lossy(&buffer[..len]));
        }
        // Kept open: what the server prints later must go somewhere.
        server.0.stdout = Some(stdout);
        Ok(server)
    }

    fn wait(&mut self) -> Result<()> {
        ensure!(self.0.wait()?.success(), "the iperf3 server failed");
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It has ended already when all went well.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn the_receivers_rate_counts() {
        let json = r#"{"end": {"sum_sent": {"seconds": 1.0, "bits_per_second": 9.0},
            "sum_received": {"seconds": 2.0, "bits_per_second": 8.5}}}"#;
        assert_eq!(parse(json).unwrap(), 8.5);
        assert!(parse(r#"{"error": "no route"}"#).is_err());
        assert!(parse("text").is_err());
    }
}
