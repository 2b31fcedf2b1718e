//! Installs a release in each way that docs/install.md in it tells, out of its own folder: with no command on the PATH but
//! those that the lines name, and in a new home. What is for another system is unpacked, and not run.

use std::{
    env,
    fmt::Write as _,
    fs::{self, Permissions},
    io::ErrorKind,
    os::unix::fs::{PermissionsExt as _, symlink},
    path::{Path, PathBuf},
    process::{Command, Output},
    thread,
};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

use super::{
    Asked, Faults, program_of,
    unpacked::{self, Files, Members},
};
use crate::{
    archive::sha256,
    cluster, krew,
    platform::Platform,
    release::{CLIENT, VERSION},
};

/// The page that tells how to install.
const PAGE: &str = "docs/install.md";
/// What its lines may call, besides `sudo`.
const COMMANDS: [&str; 6] = ["curl", "gzip", "install", "sh", "sha256sum", "tar"];
/// Where its lines install to: root's, for which a folder of the test stands in.
const PLACE: &str = "/usr/local/bin";
/// Takes the place of sudo: becomes nobody else.
const SUDO: &str = "env";

/// Installs what is in `folder` in every way, and says which ones were tried and which could not be.
///
/// # Errors
/// This machine lacks something, or has no room.
pub fn all(folder: &Path, files: &Files, asked: &Asked, faults: &mut Faults) -> Result<String> {
    let (scratch, here) = (Scratch::new()?, Platform::here()?);
    let folder = folder.canonicalize()?;
    let mut told = String::new();
    let client = files
        .iter()
        .find(|(file, _)| program_of(file).is_some_and(|(name, of)| name == CLIENT && of == here));
    if let Some((file, content)) = client {
        let members = unpacked::archive(file, content).unwrap_or_default();
        let page = members.get(PAGE).map(|page| String::from_utf8_lossy(&page.content).into_owned());
        for block in blocks(&page.unwrap_or_default()) {
            let place = format!("{PAGE}, {}", block.heading);
            if let Some(done) = faults.keep(&place, by_lines(&scratch, &folder, files, asked, &block)) {
                // Writing to a string does not fail.
                let _ = writeln!(told, "{place}: {done}");
            }
        }
    }
    for (file, _) in files.iter().filter(|(file, _)| file.ends_with(&format!("_{}.deb", here.architecture))) {
        if let Some(done) = faults.keep(file, by_dpkg(&scratch, &folder.join(file))) {
            let _ = writeln!(told, "{file}: {done}");
        }
    }
    for name in krew::NAMES {
        let path = krew::path(name);
        let Some(manifest) = files.get(&path) else { continue };
        if let Some(done) = faults.keep(&path, by_krew(&scratch, name, manifest, files, here)) {
            let _ = writeln!(told, "{path}: {done}");
        }
    }
    Ok(told)
}

/// Lines that are to be typed one after the other.
#[derive(Debug, PartialEq, Eq)]
struct Block {
    /// What they are below.
    heading: String,
    lines: Vec<String>,
}

impl Block {
    /// The files of the release that it names.
    fn named(&self) -> impl Iterator<Item = &str> {
        let words = self.lines.iter().flat_map(|line| line.split_whitespace());
        words.filter_map(|word| word.strip_prefix("$URL/"))
    }
}

/// The blocks of a page whose lines install something from a release.
fn blocks(page: &str) -> Vec<Block> {
    let (mut blocks, mut heading, mut inside) = (Vec::<Block>::new(), "", false);
    for line in page.lines() {
        if let Some(text) = line.strip_prefix("## ") {
            heading = text;
        } else if line.starts_with("```") {
            inside = !inside;
            if inside {
                blocks.push(Block { heading: heading.to_owned(), lines: Vec::new() });
            }
        } else if let (true, Some(command)) = (inside, line.strip_prefix("$ "))
            && let Some(Block { lines, .. }) = blocks.last_mut()
        {
            lines.push(command.to_owned());
        }
    }
    blocks.retain(|block| block.lines.iter().any(|line| line.contains("$URL/")));
    blocks
}

/// Types the lines of a block, and tells what came of it.
fn by_lines(scratch: &Scratch, folder: &Path, files: &Files, asked: &Asked, block: &Block) -> Result<String> {
    let lines = block.lines.join("\n");
    if lines.contains("apt install") {
        return Ok("by dpkg, in a root of its own".to_owned());
    }
    if lines.starts_with("kubectl apply") {
        return Ok("not tried: it takes a cluster".to_owned());
    }
    if lines.starts_with("helm install") {
        return by_helm(scratch, folder);
    }
    for file in block.named() {
        let program = program_of(file);
        if !files.contains_key(file)
            && program.is_some_and(|(name, of)| !asked.programs().any(|asked| asked == (&name, of)))
        {
            return Ok(format!("not tried: {file} was not asked for"));
        }
    }
    let home = scratch.folder()?;
    let place = home.join("local");
    fs::create_dir(&place)?;
    let mut sh = scratch.command("sh", &COMMANDS)?;
    sh.args(["-e", "-c", &lines.replace(PLACE, &place.to_string_lossy())])
        .env("URL", format!("file://{}", folder.display()))
        .env("HOME", &home)
        .current_dir(&home);
    output(&mut sh).with_context(|| lines.clone())?;
    let Some((file, (name, platform))) = block.named().find_map(|file| Some((file, program_of(file)?)))
    else {
        bail!("{lines}: no program is installed by it");
    };
    if !lines.contains(PLACE) {
        return Ok("done".to_owned());
    }
    let program = place.join(&name);
    let packed = unpacked::archive(file, &files[file])?;
    let packed = packed.get(&name).with_context(|| format!("no {name} in {file}"))?;
    ensure!(
        fs::read(&program).is_ok_and(|installed| installed == packed.content),
        "{name} is not what is in {file}"
    );
    if platform != Platform::here()? {
        return Ok(format!("installed {file}, which does not run here"));
    }
    run(scratch, &place, &name, &home)
}

/// Has a program that was installed tell its version, with no other folder on the PATH.
fn run(scratch: &Scratch, path: &Path, name: &str, home: &Path) -> Result<String> {
    let mut program = scratch.command("sh", &["sh"])?;
    program.args(["-c", &format!("{name} --version")]).env("PATH", path).env("HOME", home).current_dir(home);
    let said = output(&mut program)?;
    let said = said.lines().next().unwrap_or_default();
    ensure!(said.contains(VERSION), "{name} --version says {said:?}, and not {VERSION}");
    Ok(said.to_owned())
}

/// Installs a package into a root of its own, with the list of the packages that this machine has, and removes it.
fn by_dpkg(scratch: &Scratch, package: &Path) -> Result<String> {
    let status = Path::new("/var/lib/dpkg/status");
    if !status.exists() {
        return Ok("not tried: this machine has no dpkg".to_owned());
    }
    let root = scratch.folder()?;
    for folder in ["info", "updates", "triggers"] {
        fs::create_dir_all(root.join("var/lib/dpkg").join(folder))?;
    }
    let list = root.join("var/lib/dpkg/status");
    fs::copy(status, &list)?;
    let dpkg = |arguments: &[&str]| {
        // Whoever is not root is so in a namespace, where files become root's own.
        let mut unshare = Command::new("unshare");
        let mut command = if is_root()? {
            Command::new("dpkg")
        } else {
            unshare.args(["--map-root-user", "dpkg"]);
            unshare
        };
        let root = format!("--root={}", root.display());
        output(command.arg(root).args(["--force-script-chrootless"]).args(arguments).env("LC_ALL", "C"))
    };
    dpkg(&["--install", &package.to_string_lossy()])?;
    dpkg(&["--verify", "sniff"])?;
    let home = scratch.folder()?;
    let said = run(scratch, &root.join("usr/bin"), "sniff", &home)?;
    dpkg(&["--purge", "sniff"])?;
    ensure!(!root.join("usr").exists(), "purging it leaves {} behind", root.join("usr").display());
    Ok(format!("{said}; removed without a trace"))
}

/// Has Helm make the chart's objects: without a cluster there is nothing to install them into.
fn by_helm(scratch: &Scratch, folder: &Path) -> Result<String> {
    if find("helm").is_none() {
        return Ok("not tried: this machine has no helm".to_owned());
    }
    let home = scratch.folder()?;
    let mut helm = scratch.command("helm", &["helm"])?;
    helm.args(["template", "sniff"]).arg(folder.join(cluster::chart_file())).env("HOME", &home);
    let objects = output(&mut helm)?;
    for expected in ["kind: DaemonSet", &format!("image: localhost/sniff:{VERSION}")] {
        ensure!(objects.contains(expected), "Helm makes nothing with {expected:?}");
    }
    Ok("rendered by Helm, without a cluster".to_owned())
}

fn is_root() -> Result<bool> {
    Ok(output(Command::new("id").arg("--user"))?.trim() == "0")
}

/// What krew takes out of an archive, by where it puts it: `files` as a manifest has it, or all.
///
/// # Errors
/// `files` asks for something that is more than a file, which no manifest of sniff does.
pub fn taken_by_krew(members: &Members, files: &Value) -> Result<Members> {
    let Some(files) = files.as_array() else { return Ok(members.clone()) };
    let mut taken = Members::new();
    for file in files {
        let text = |field: &str| file[field].as_str().unwrap_or_default().trim_matches('/').to_owned();
        let (from, to) = (text("from"), text("to"));
        if from.contains('*') {
            bail!("{from} is a pattern");
        }
        if let Some(member) = members.get(&from) {
            let name = from.rsplit('/').next().unwrap_or(&from);
            let to = if to == "." { name.to_owned() } else { format!("{to}/{name}") };
            taken.insert(to, member.clone());
        }
    }
    Ok(taken)
}

/// Does what krew does with a manifest (<https://krew.sigs.k8s.io/docs/developer-guide/plugin-manifest/>).
fn by_krew(scratch: &Scratch, name: &str, manifest: &[u8], files: &Files, here: Platform) -> Result<String> {
    let manifest: Value = serde_saphyr::from_slice(manifest).context("it is no YAML")?;
    let spec = &manifest["spec"];
    let root = scratch.folder()?;
    let bin = root.join("bin");
    fs::create_dir(&bin)?;
    // kubectl looks for a hyphen in a plugin's name as for this.
    let plugin = format!("kubectl-{}", name.replace('-', "_"));
    for platform in spec["platforms"].as_array().into_iter().flatten() {
        let archive = platform["uri"].as_str().unwrap_or_default().rsplit('/').next().unwrap_or_default();
        let content = files.get(archive).with_context(|| format!("no {archive}"))?;
        ensure!(platform["sha256"] == sha256(content), "{archive} has another digest");
        let store = root.join("store").join(name).join(archive);
        for (path, member) in taken_by_krew(&unpacked::archive(archive, content)?, &platform["files"])? {
            let path = store.join(path);
            fs::create_dir_all(path.parent().unwrap_or(&store))?;
            fs::write(&path, member.content)?;
            fs::set_permissions(&path, Permissions::from_mode(member.mode))?;
        }
        let program = store.join(platform["bin"].as_str().unwrap_or_default());
        ensure!(program.is_file(), "there is no {}", program.display());
        let labels = &platform["selector"]["matchLabels"];
        if labels["os"] == here.os && labels["arch"] == here.architecture {
            symlink(program, bin.join(&plugin))?;
        }
    }
    let Some(kubectl) = find("kubectl") else {
        let said = run(scratch, &bin, &plugin, &root)?;
        return Ok(format!("{said}; without kubectl, which this machine has not"));
    };
    symlink(kubectl, bin.join("kubectl"))?;
    let said = run(scratch, &bin, &format!("kubectl {name}"), &root)?;
    Ok(format!("{said}; by what krew does, and kubectl, without krew"))
}

/// A folder for everything that is installed, gone with this value.
struct Scratch(tempfile::TempDir);

impl Scratch {
    fn new() -> Result<Self> {
        Ok(Self(tempfile::tempdir().context("cannot make a folder")?))
    }

    /// An empty folder.
    fn folder(&self) -> Result<PathBuf> {
        Ok(tempfile::tempdir_in(&self.0)?.keep())
    }

    /// A command that finds these alone, and `sudo`.
    fn command(&self, program: &str, found: &[&str]) -> Result<Command> {
        let path = self.folder()?;
        for (name, is) in found.iter().map(|name| (*name, *name)).chain([("sudo", SUDO)]) {
            symlink(find(is).with_context(|| format!("this machine has no {is}"))?, path.join(name))?;
        }
        let mut command = Command::new(path.join(program));
        command.env_clear().env("PATH", &path);
        Ok(command)
    }
}

/// The file of a command on the PATH.
fn find(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path).map(|folder| folder.join(name)).find(|file| file.is_file())
}

fn output(command: &mut Command) -> Result<String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = loop {
        match command.output() {
            // What was written here, a program that another thread starts has open too, until it is loaded.
            Err(error) if error.kind() == ErrorKind::ExecutableFileBusy => thread::yield_now(),
            other => break other,
        }
    };
    let Output { status, stdout, stderr } = output.with_context(|| format!("cannot run {name}"))?;
    ensure!(status.success(), "{name}: {status}: {}", String::from_utf8_lossy(&stderr).trim());
    Ok(String::from_utf8_lossy(&stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lines_that_install_are_found_on_the_page() {
        let page = "# Installing\n\n```console\n$ cargo xtask dist\n```\n## One\n\n```console\n$ curl $URL/a |\n$ b\n```\n\
                    Text.\n```console\n$ curl -O $URL/c\n> not a shell's\n```\n";
        let block = |lines: &[&str]| Block {
            heading: "One".to_owned(),
            lines: lines.iter().map(|line| (*line).to_owned()).collect(),
        };
        assert_eq!(blocks(page), [block(&["curl $URL/a |", "b"]), block(&["curl -O $URL/c"])]);
    }

    #[test]
    fn every_way_for_unix_is_on_the_projects_page() {
        let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(PAGE);
        let headings: Vec<_> =
            blocks(&fs::read_to_string(page).expect(PAGE)).into_iter().map(|block| block.heading).collect();
        for heading in ["The client on Linux", "The client on macOS", "sniff on a node without a cluster"] {
            assert!(headings.iter().any(|found| found == heading), "{heading}: {headings:?}");
        }
    }
}
