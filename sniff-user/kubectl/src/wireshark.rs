//! Wireshark, fed through a pipe.

use std::{
    env,
    ffi::OsString,
    path::{Path, PathBuf},
    process::{ChildStdin, Command, Stdio},
};

use anyhow::{Context as _, Result, ensure};

/// Where installers put it, beyond the PATH.
#[cfg(target_os = "macos")]
const PLACES: &[&str] = &["/Applications/Wireshark.app/Contents/MacOS/Wireshark"];
/// Where installers put it, beyond the PATH.
#[cfg(windows)]
const PLACES: &[&str] =
    &[r"C:\Program Files\Wireshark\Wireshark.exe", r"C:\Program Files (x86)\Wireshark\Wireshark.exe"];
/// Where installers put it, beyond the PATH.
#[cfg(not(any(target_os = "macos", windows)))]
const PLACES: &[&str] = &[];

/// The Wireshark to open: the one that is named, or one that is installed and has a screen to open on.
///
/// # Errors
///
/// When the one that is named is not there.
pub fn find(named: Option<&Path>) -> Result<Option<PathBuf>> {
    if let Some(path) = named {
        ensure!(path.is_file(), "there is no Wireshark at {}", path.display());
        return Ok(Some(path.to_owned()));
    }
    if !has_screen() {
        return Ok(None);
    }
    let name = format!("wireshark{}", env::consts::EXE_SUFFIX);
    let path = env::var_os("PATH").unwrap_or_default();
    let on_path = env::split_paths(&path).map(|folder| folder.join(&name));
    Ok(on_path.chain(PLACES.iter().map(PathBuf::from)).find(|file| file.is_file()))
}

/// Opens it; returns the pipe that it captures from. It stays open when that ends, and shows what it got.
///
/// # Errors
///
/// When it does not start.
pub fn open(program: &Path, title: &str) -> Result<ChildStdin> {
    let mut command = Command::new(program);
    command.args(["-k", "-i", "-", "-o"]).arg(OsString::from(format!("gui.window_title:{title}")));
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
    // Ctrl-C in the terminal ends the capture, not the view of it.
    #[cfg(unix)]
    std::os::unix::process::CommandExt::process_group(&mut command, 0);
    let child = command.spawn().with_context(|| format!("cannot open {}", program.display()))?;
    child.stdin.context("Wireshark without a pipe")
}

/// Whether a window can be opened. Over ssh to a Linux machine it usually cannot.
fn has_screen() -> bool {
    let is_x11_or_wayland = cfg!(all(unix, not(target_os = "macos")));
    !is_x11_or_wayland
        || ["DISPLAY", "WAYLAND_DISPLAY"]
            .iter()
            .any(|name| env::var_os(name).is_some_and(|it| !it.is_empty()))
}
