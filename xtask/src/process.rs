//! Other programs: how they are named, run, and made root.

use std::{
    env,
    ffi::{OsStr, OsString},
    io,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::LazyLock,
};

use anyhow::{Context as _, Result, ensure};
use nix::unistd::geteuid;

/// The toolchain that compiles the eBPF crate; sniff-user's `build.rs` asks aya-build for the same.
pub const NIGHTLY: &str = "nightly";

/// The workspace's folder: the one that cargo was called in. A tree that was copied with its target folder runs a program
/// that was built in another one.
pub fn root() -> &'static Path {
    static ROOT: LazyLock<PathBuf> = LazyLock::new(|| {
        let package = env::var_os("CARGO_MANIFEST_DIR").unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into());
        workspace_of(package.as_ref())
    });
    &ROOT
}

/// The folder of the workspace that a package is in.
fn workspace_of(package: &Path) -> PathBuf {
    let is_workspace = |folder: &&Path| folder.join("Cargo.lock").is_file();
    package.ancestors().find(is_workspace).unwrap_or(package).to_owned()
}

/// The target folder, in which this program was built.
pub fn target() -> Result<PathBuf> {
    let xtask = env::current_exe().context("cannot tell where xtask is")?;
    let target = xtask.ancestors().nth(2).context("xtask is not in a target folder")?;
    Ok(target.to_owned())
}

/// The release build of `sniff`.
pub fn built_sniff() -> Result<PathBuf> {
    built("sniff")
}

/// The release build of a program.
pub fn built(program: &str) -> Result<PathBuf> {
    Ok(target()?.join("release").join(program))
}

/// `PATH` with these folders in front.
///
/// # Errors
/// One of them has a colon in its name.
pub fn path_with<const N: usize>(folders: [PathBuf; N]) -> Result<OsString> {
    let path = env::var_os("PATH").unwrap_or_default();
    Ok(env::join_paths(folders.into_iter().chain(env::split_paths(&path)))?)
}

/// The variable from which the compiler knows what a release is built from; `Build` in sniff-protocol reads it.
pub const COMMIT: &str = "SNIFF_COMMIT";

/// What `.cargo/config.toml` sets for the cargo that sniff-user's build script runs; programs that cargo runs inherit it.
const OF_BUILD_SCRIPTS: [&str; 3] =
    ["CARGO_TERM_QUIET", "CARGO_PROFILE_RELEASE_TRIM_PATHS", "CARGO_UNSTABLE_TRIM_PATHS"];

/// Builds what [`built_sniff`] names, and kubectl-sniff beside it; they tell the commit, if there is one to tell.
pub fn build_sniff(commit: Option<&str>) -> Result<PathBuf> {
    run(cargo().envs(commit.map(|commit| (COMMIT, commit))).args([
        "build",
        "--release",
        "--package",
        "sniff-user",
        "--package",
        "kubectl-sniff",
        "--bins",
    ]))?;
    built_sniff()
}

/// The cargo that runs this program, in the workspace's folder.
///
/// It says what it does, and has no unstable options: what `.cargo/config.toml` sets is for the one that a build script
/// runs.
///
/// It is not told that it runs on behalf of this package: build scripts that look at such variables (ring's) would be
/// run again, and all that depends on them be compiled again, each time cargo is called the other way.
pub fn cargo() -> Command {
    cargo_by(env::var_os("CARGO").unwrap_or("cargo".into()))
}

/// The same, by a program that runs cargo.
pub fn cargo_by(program: impl AsRef<OsStr>) -> Command {
    let mut cargo = Command::new(program);
    let of_this_package = |name: &str| name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_");
    for (name, _) in env::vars_os() {
        if name.to_str().is_some_and(of_this_package) {
            cargo.env_remove(name);
        }
    }
    for name in OF_BUILD_SCRIPTS {
        cargo.env_remove(name);
    }
    cargo.current_dir(root());
    cargo
}

/// A program of the nightly toolchain, in the workspace's folder.
pub fn nightly(program: &str) -> Command {
    let mut command = Command::new("rustup");
    command.args(["run", NIGHTLY, program]).current_dir(root());
    command
}

/// A program run as root: as it is for root, through sudo for others.
pub fn as_root(program: impl AsRef<Path>) -> Command {
    let program = program.as_ref();
    if is_root() {
        return Command::new(program);
    }
    let mut command = Command::new("sudo");
    command.arg("--preserve-env").arg(program);
    command
}

/// Whether this program may do all that root may.
pub fn is_root() -> bool {
    geteuid().is_root()
}

/// Runs a command to its end.
///
/// # Errors
/// It cannot be started, or does not succeed.
pub fn run(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("cannot run `{}`", line(command)))?;
    ensure!(status.success(), "`{}` failed: {status}", line(command));
    Ok(())
}

/// Runs a command to its end and returns what it printed; its complaints become the error.
///
/// # Errors
/// It cannot be started, does not succeed, or prints what is not UTF-8.
pub fn output(command: &mut Command) -> Result<String> {
    let output =
        command.stdin(Stdio::null()).output().with_context(|| format!("cannot run `{}`", line(command)))?;
    let complaints = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "`{}` failed: {}", line(command), complaints.trim());
    String::from_utf8(output.stdout).with_context(|| format!("`{}` printed other than text", line(command)))
}

/// Says what is about to run, and runs it with stdout kept free for packets.
///
/// # Errors
/// As for [`run`].
pub fn step(command: &mut Command) -> Result<()> {
    eprintln!("setup: {}", line(command));
    run(command.stdin(Stdio::null()).stdout(io::stderr()))
}

/// The command as a person would type it.
pub fn line(command: &Command) -> String {
    let variables = command
        .get_envs()
        .filter_map(|(key, value)| Some(format!("{}={}", key.to_string_lossy(), value?.to_string_lossy())));
    let words = [command.get_program()].into_iter().chain(command.get_args());
    variables.chain(words.map(|word| word.to_string_lossy().into_owned())).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use std::{env, fs, process};

    use anyhow::Result;

    use super::workspace_of;

    #[test]
    fn a_package_is_in_the_nearest_workspace() -> Result<()> {
        let copy = env::temp_dir().join(format!("sniff-copy-{}", process::id()));
        let package = copy.join("xtask/bench");
        fs::create_dir_all(&package)?;
        fs::write(copy.join("Cargo.lock"), "")?;
        let found = [workspace_of(&package), workspace_of(&copy.join("xtask"))];
        fs::remove_dir_all(&copy)?;
        assert_eq!(found, [copy.clone(), copy]);
        Ok(())
    }
}
