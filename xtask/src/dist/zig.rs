//! zig, which links programs and compiles the C code in them, for all systems on this one.

use std::{
    env,
    ffi::{OsStr, OsString},
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};

use crate::{
    process::{path_with, root},
    setup,
};

/// What leaves the names of crates in the programs that are made of them, by name: cargo hashes what it is told of it, and
/// `cargo auditable` would tell it a path of this machine, so that each folder had another program.
const CRATE_LISTER: [(&str, &str); 2] = [
    ("RUSTC_WORKSPACE_WRAPPER", "cargo-auditable"),
    ("CARGO_AUDITABLE_ORIG_ARGS", r#"{"offline":false,"locked":false,"frozen":false,"config":[]}"#),
];
/// What the client uses of macOS's own libraries: text that tells the linker which names they have.
const FRAMEWORKS: &str = "xtask/src/dist/frameworks";

/// Its program.
///
/// # Errors
/// There is no target folder.
pub fn program() -> Result<PathBuf> {
    Ok(setup::zig_folder()?.join("ziglang/zig"))
}

/// Tells cargo where zig and the others are, and has it build the same wherever it does.
///
/// # Errors
/// There is no home folder.
pub fn link_by(cargo: &mut Command, system: &str) -> Result<()> {
    let tools = setup::zig_folder()?;
    let path = path_with([tools.join("bin"), setup::auditable_folder()?.join("bin")])?;
    cargo.env("PATH", path).env("PYTHONPATH", &tools).env("CARGO_ENCODED_RUSTFLAGS", flags(system)?);
    Ok(())
}

/// Has a cargo that links by zig leave the names of crates in what it builds.
pub fn list_crates(cargo: &mut Command) -> &mut Command {
    cargo.envs(CRATE_LISTER)
}

/// Flags for rustc, as cargo wants them in a variable: no path of this machine gets into what is built.
fn flags(system: &str) -> Result<OsString> {
    let home = env::home_dir().context("there is no home folder")?;
    let cargo_home = env::var_os("CARGO_HOME").map_or_else(|| home.join(".cargo"), PathBuf::from);
    let mut flags = vec![remap(&cargo_home, "/cargo"), remap(root(), "/sniff")];
    if system.ends_with("-darwin") {
        flags.push(format!("-Lframework={}", root().join(FRAMEWORKS).display()).into());
        // Stripped as it is linked: a program's UUID is made of what it then holds, and that would be paths of this machine.
        flags.push("-Clink-arg=-s".into());
    }
    Ok(flags.join(OsStr::new("\x1f")))
}

fn remap(from: &Path, to: &str) -> OsString {
    [OsStr::new("--remap-path-prefix"), from.as_os_str(), OsStr::new(to)].join(OsStr::new("="))
}
