//! The `sniff` command.

#[cfg(not(target_os = "linux"))]
compile_error!(
    "sniff captures on Linux only; what runs elsewhere is kubectl-sniff: cargo build --package kubectl-sniff"
);

use std::process::ExitCode;

fn main() -> ExitCode {
    sniff_user::commands::main()
}
