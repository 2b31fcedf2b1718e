//! `sniff` as it is released: zig links it, for nodes with an older C library than this machine's, and libpcap is in it,
//! without what Debian's has beyond filters (D-Bus, and systemd with it).
//!
//! Its source is Debian's, so that what Debian mends is mended in the next release.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};

use super::zig;
use crate::{
    debian::{Apt, Suite},
    process::{COMMIT, cargo, cargo_by, run, target},
    setup,
};

/// The oldest C library that the programs run with: that of Debian 10, RHEL 8 and Ubuntu 20.04.
const GLIBC: &str = "2.28";

/// The Debian that libpcap's source is from, and what else goes into the image.
const DEBIAN: &str = "trixie";

/// The C library, the names that filters may use, and the licences that the others name.
const PACKAGES: [&str; 3] = ["libc6", "netbase", "base-files"];

/// What stays out of libpcap: sniff has it compile filters, and captures itself.
const CONFIGURE: [&str; 8] = [
    "--disable-shared",
    "--with-pcap=null",
    "--disable-bluetooth",
    "--disable-dbus",
    "--disable-rdma",
    "--disable-usb",
    "--without-dpdk",
    "--without-libnl",
];

/// What libpcap's crate looks for; the last thing that is made.
const LIBRARY: &str = "libpcap.so";

/// Builds `sniff` for a system of [`setup::NODES`], with the names of its crates inside and nothing for debuggers, and
/// returns where it is.
///
/// # Errors
/// It does not build.
pub fn build(system: &str, commit: Option<&str>) -> Result<PathBuf> {
    let mut cargo = cargo();
    with_libpcap(&mut cargo, system)?;
    run(zig::list_crates(&mut cargo)
        .envs(commit.map(|commit| (COMMIT, commit)))
        .env("CARGO_PROFILE_RELEASE_STRIP", "symbols")
        .args(["zigbuild", "--release", "--package", "sniff-user", "--bin", "sniff", "--target"])
        .arg(target_of(system)))?;
    built(system)
}

/// What [`build`] builds.
pub fn built(system: &str) -> Result<PathBuf> {
    Ok(target()?.join(system).join("release/sniff"))
}

/// A cargo that builds and runs tests for a system of [`setup::NODES`].
///
/// # Errors
/// libpcap does not build.
pub fn tests(system: &str) -> Result<Command> {
    let mut cargo = cargo_by(setup::zig_folder()?.join("bin/cargo-zigbuild"));
    with_libpcap(&mut cargo, system)?;
    // What they share with `sniff` is built once, and emulated processors are slow.
    cargo.args(["test", "--release", "--target"]).arg(target_of(system));
    Ok(cargo)
}

/// Has cargo link libpcap into programs.
fn with_libpcap(cargo: &mut Command, system: &str) -> Result<()> {
    let source = source()?;
    let version = fs::read_to_string(source.join("VERSION")).context("libpcap has no version")?;
    zig::link_by(cargo, system)?;
    cargo.env("LIBPCAP_LIBDIR", libpcap(&source, version.trim(), system)?).env("LIBPCAP_VER", version.trim());
    Ok(())
}

/// As cargo-zigbuild calls a system with an older C library.
fn target_of(system: &str) -> String {
    format!("{system}.{GLIBC}")
}

/// The root of the packages that go into the image for a system, with what libpcap's says of itself; fetched unless
/// that was done before.
///
/// # Errors
/// They cannot be fetched.
pub fn root(system: &str) -> Result<PathBuf> {
    let architecture = if system.starts_with("aarch64-") { "arm64" } else { "amd64" };
    let folder = target()?.join("packages").join(architecture);
    let about = source()?.join("debian");
    let debian = Suite { name: DEBIAN, architecture };
    let unpack = |apt: &Apt, to: &Path| {
        apt.unpack(&PACKAGES, to)?;
        let libpcap = to.join("usr/share/doc/libpcap");
        fs::create_dir(&libpcap)?;
        for text in ["changelog", "copyright"] {
            fs::copy(about.join(text), libpcap.join(text))?;
        }
        Ok(())
    };
    debian.once(&folder, unpack).with_context(|| format!("cannot fetch packages for {architecture}"))?;
    Ok(folder)
}

/// libpcap's source, fetched unless that was done before.
fn source() -> Result<PathBuf> {
    let folder = folder()?.join("source");
    let debian = Suite { name: DEBIAN, architecture: "amd64" };
    debian.once(&folder, |apt, to| apt.unpack_source("libpcap", to)).context("cannot fetch libpcap")?;
    Ok(folder)
}

/// The folder with the static library for a system, built unless that was done before.
fn libpcap(source: &Path, version: &str, system: &str) -> Result<PathBuf> {
    let folder = folder()?.join(system);
    if folder.join(LIBRARY).exists() {
        return Ok(folder);
    }
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let zig = zig::program()?;
    let zig = |command: &str| format!("{} {command}", zig.display());
    let abi = format!("{}.{GLIBC}", system.replace("-unknown", ""));
    run(Command::new(source.join("configure"))
        .args(CONFIGURE)
        .arg(format!("--host={system}"))
        .env("CC", zig(&format!("cc -target {abi}")))
        // Without that zig has debuggers told where the source was.
        .env("CFLAGS", "-O2 -g0")
        .env("AR", zig("ar"))
        .env("RANLIB", zig("ranlib"))
        .current_dir(&folder)
        .arg("--quiet"))?;
    // Debian's patches have make look for the version where the source is.
    let version = format!("LIBVERSION={version}");
    run(Command::new("make").args(["--silent", &version, "libpcap.a"]).current_dir(&folder))?;
    // rustc asks for a shared library, and zig takes it at its word: this linker script is one, and leads to the other.
    fs::write(folder.join(LIBRARY), "INPUT(libpcap.a)\n").context("cannot write a linker script")?;
    Ok(folder)
}

fn folder() -> Result<PathBuf> {
    Ok(target()?.join("libpcap"))
}
