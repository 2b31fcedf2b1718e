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

/// Flags for rustc, as cargo wants them in a variable: no path of this machine gets into what is built.
fn flags(system: &str) -> Result<OsString> {
    let home = env::home_dir().context("there is no home folder")?;
    let cargo_home = env::var_os("CARGO_HOME").map_or_else(|| home.join(".cargo"), PathBuf::from);
    let mut flags = vec![remap(&cargo_home, "/cargo"), remap(root(), "/sniff")];
    if system.ends_with("-darwin") {
        flags.push(format!("-Lframework={}", root().join(FRAMEWORKS).display()).into());
    }
    Ok(flags.join(OsStr::new("\x1f")))
}

fn remap(from: &Path, to: &str) -> OsString {
    [OsStr::new("--remap-path-prefix"), from.as_os_str(), OsStr::new(to)].join(OsStr::new("="))
}
