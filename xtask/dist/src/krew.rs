//! Manifests for krew, kubectl's plugin manager (<https://krew.sigs.k8s.io/docs/developer-guide/plugin-manifest/>).

use std::fmt::Write as _;

use crate::platform::Platform;

/// In an index of sniff's own, and in the public one, where another project has the first name.
pub const NAMES: [&str; 2] = ["sniff", "sniff-pods"];

/// The client for one platform.
pub struct Plugin {
    /// Where it runs.
    pub platform: Platform,
    /// The file that it is in.
    pub archive: String,
    /// The SHA-256 of that.
    pub digest: String,
}

/// Where an index has the manifest of a plugin.
pub fn path(name: &str) -> String {
    format!("plugins/{name}.yaml")
}

/// The manifest under such a name, of archives at `url`.
pub fn manifest(name: &str, version: &str, url: &str, plugins: &[Plugin]) -> String {
    let url = url.trim_end_matches('/');
    let mut text = format!(
        "apiVersion: krew.googlecontainertools.github.com/v1alpha2
kind: Plugin
metadata:
  name: {name}
spec:
  version: v{version}
  homepage: {url}
  shortDescription: Capture the packets of pods with eBPF
  description: |
    Captures the packets of pods on any node, with nothing put into the pods, and shows them in Wireshark, as lines,
    or writes them as pcapng. Follows deployments, selectors and services as their pods come and go.
  caveats: |
    Works at once where sniff's DaemonSet is installed; elsewhere it needs the right to create a pod on each
    node, with something of the node's, for as long as a capture runs. `kubectl {name} doctor` tells what is missing.
  platforms:
"
    );
    for Plugin { platform, archive, digest } in plugins {
        let Platform { os, architecture } = platform;
        let program = platform.program("kubectl-sniff");
        // Writing to a string does not fail.
        let _ = write!(
            text,
            "    - selector:
        matchLabels:
          os: {os}
          arch: {architecture}
      uri: {url}/{archive}
      sha256: {digest}
      bin: {program}
"
        );
    }
    text
}
