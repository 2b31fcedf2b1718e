//! Wireshark's opinion of a file, through `tshark` and `capinfos`.

use std::{path::Path, process::Command};

use crate::netns::tool;

/// The one line on stderr that says something about us and not about the file.
const ROOT: &str = "Running as user \"root\" and group \"root\". This could be dangerous.";

/// Checks that both programs read the file to its end without a word of complaint.
pub fn assert_clean(file: &Path) {
    run(tool("tshark").arg("-r").arg(file));
    run(tool("capinfos").arg(file));
}

/// Number of packets in `file` that a display filter matches.
pub fn count(file: &Path, display_filter: &str) -> usize {
    run(tool("tshark").arg("-r").arg(file).args(["-Y", display_filter])).lines().count()
}

/// Runs a command and returns its stdout; a failure or anything on stderr is a panic.
fn run(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let stderr = String::from_utf8_lossy(&output.stderr);
    let complaints: Vec<_> = stderr.lines().filter(|&line| line != ROOT).collect();
    assert!(output.status.success() && complaints.is_empty(), "{command:?}: {complaints:#?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}
