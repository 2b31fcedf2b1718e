//! A release: an archive of each program, checksums, and the manifest for krew, kubectl's plugin manager
//! (<https://krew.sigs.k8s.io/docs/developer-guide/plugin-manifest/>).

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};

use crate::archive::{Archive, gzip, sha256};

const VERSION: &str = env!("CARGO_PKG_VERSION");
/// What a program goes together with.
const TEXTS: [&str; 5] = ["README.md", "CHANGELOG.md", "LICENSE-MIT", "LICENSE-APACHE", "LICENSE-GPL2"];
/// Shells, and what each calls a file of completions for sniff.
const SHELLS: [(&str, &str); 3] = [("bash", "sniff"), ("zsh", "_sniff"), ("fish", "sniff.fish")];

/// Makes the release's folder anew, and says what is in it.
///
/// # Errors
/// Something that belongs into it is not there, or it cannot be written.
pub fn write(programs: &Path, output: &Path, url: &str, project: &Path) -> Result<String> {
    if output.exists() {
        fs::remove_dir_all(output).with_context(|| format!("cannot remove {}", output.display()))?;
    }
    fs::create_dir_all(output).with_context(|| format!("cannot make {}", output.display()))?;
    let mut files = Vec::new();
    let platform = format!("{VERSION}-{}-{}", env::consts::OS, architecture());
    files.push((format!("sniff-{platform}.tar.gz"), sniff(&programs.join("sniff"), project)?));
    let plugin = programs.join("kubectl-sniff");
    if plugin.exists() {
        let archive = format!("kubectl-sniff-{platform}.tar.gz");
        let content = packed("kubectl-sniff", &plugin, project, Vec::new())?;
        files.push(("krew-sniff.yaml".to_owned(), krew(url, &archive, &sha256(&content)).into_bytes()));
        files.push((archive, content));
    }
    let sums: String = files.iter().map(|(name, content)| format!("{}  {name}\n", sha256(content))).collect();
    files.push(("SHA256SUMS".to_owned(), sums.into_bytes()));
    for (name, content) in &files {
        fs::write(output.join(name), content).with_context(|| format!("cannot write {name}"))?;
    }
    let names: Vec<&str> = files.iter().map(|(name, _)| name.as_str()).collect();
    Ok(format!("{}: {}", output.display(), names.join(", ")))
}

/// The archive of sniff, with its completions and manual pages, which it writes itself.
fn sniff(program: &Path, project: &Path) -> Result<Vec<u8>> {
    let mut files = Vec::new();
    for (shell, file) in SHELLS {
        files.push((format!("completions/{file}"), run(program, &["completions", shell])?));
    }
    let folder = env::temp_dir().join(format!("sniff-manual-{}", std::process::id()));
    fs::create_dir(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let pages = manual(program, &folder);
    fs::remove_dir_all(&folder).with_context(|| format!("cannot remove {}", folder.display()))?;
    files.extend(pages?);
    packed("sniff", program, project, files)
}

fn manual(program: &Path, folder: &Path) -> Result<Vec<(String, Vec<u8>)>> {
    run(program, &["manual", &folder.to_string_lossy()])?;
    let mut paths: Vec<PathBuf> =
        fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?;
    paths.sort();
    let page = |path: PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        Ok((format!("man/man1/{name}"), fs::read(&path)?))
    };
    paths.into_iter().map(page).collect()
}

fn run(program: &Path, args: &[&str]) -> Result<Vec<u8>> {
    let output = Command::new(program).args(args).output();
    let output = output.with_context(|| format!("cannot run {}", program.display()))?;
    ensure!(output.status.success(), "{} {}: {}", program.display(), args.join(" "), output.status);
    Ok(output.stdout)
}

/// An archive of a program with the project's texts and `more`.
fn packed(name: &str, program: &Path, project: &Path, more: Vec<(String, Vec<u8>)>) -> Result<Vec<u8>> {
    let mut archive = Archive::new();
    archive.copy(name, 0o755, program)?;
    for text in TEXTS {
        archive.copy(text, 0o644, &project.join(text))?;
    }
    for (path, content) in more {
        archive.file(&path, 0o644, &content)?;
    }
    gzip(&archive.finish()?)
}

fn krew(url: &str, archive: &str, digest: &str) -> String {
    let url = url.trim_end_matches('/');
    let architecture = architecture();
    format!(
        "apiVersion: krew.googlecontainertools.github.com/v1alpha2
kind: Plugin
metadata:
  name: sniff
spec:
  version: v{VERSION}
  homepage: {url}
  shortDescription: Capture the packets of pods with eBPF
  description: |
    Captures the packets of pods on any node, with nothing put into the pods, and shows them in Wireshark, as lines,
    or writes them as pcapng. Follows deployments, selectors and services as their pods come and go.
  caveats: |
    Works at once where sniff's DaemonSet is installed; elsewhere it needs the right to create a privileged pod for
    as long as a capture runs. `kubectl sniff doctor` tells what is missing.
  platforms:
    - selector:
        matchLabels:
          os: linux
          arch: {architecture}
      uri: {url}/{archive}
      sha256: {digest}
      bin: kubectl-sniff
"
    )
}

/// As Go and the container world call it.
fn architecture() -> &'static str {
    match env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn project() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
    }

    /// A folder with programs that only know how to write their manual.
    fn programs(names: &[&str]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().expect("a folder");
        for name in names {
            let path = folder.path().join(name);
            fs::write(&path, "#!/bin/sh\n[ \"$1\" = manual ] && echo page > \"$2/sniff.1\"\necho \"$@\"\n")
                .expect("a script");
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("a program");
        }
        folder
    }

    fn contents(output: &Path) -> Vec<(String, Vec<u8>)> {
        let entries = fs::read_dir(output).expect("a folder").flatten();
        let read = |entry: fs::DirEntry| {
            (entry.file_name().to_string_lossy().into_owned(), fs::read(entry.path()).expect("a file"))
        };
        let mut contents: Vec<_> = entries.map(read).collect();
        contents.sort();
        contents
    }

    #[test]
    fn a_release_is_the_same_each_time_and_its_checksums_hold() {
        let programs = programs(&["sniff", "kubectl-sniff"]);
        let output = programs.path().join("dist");
        let make = || {
            write(programs.path(), &output, "https://example.com/v1/", &project()).expect("a release");
            contents(&output)
        };
        let release = make();
        assert!(release == make());
        let file = |part: &str| &release.iter().find(|(name, _)| name.contains(part)).expect(part).1;
        let sums = String::from_utf8_lossy(file("SHA256SUMS"));
        assert_eq!(sums.lines().count(), release.len() - 1);
        for (name, content) in release.iter().filter(|(name, _)| name != "SHA256SUMS") {
            assert!(sums.contains(&format!("{}  {name}\n", sha256(content))), "{name}");
        }
        let krew = String::from_utf8_lossy(file("krew"));
        let digest = sha256(file("kubectl-sniff"));
        assert!(krew.contains(&format!("sha256: {digest}\n")) && !krew.contains("//kubectl"), "{krew}");
    }

    #[test]
    fn without_the_plugin_there_is_no_krew_manifest() {
        let programs = programs(&["sniff"]);
        let output = programs.path().join("dist");
        write(programs.path(), &output, "https://example.com", &project()).expect("a release");
        assert!(contents(&output).iter().all(|(name, _)| !name.contains("krew")));
    }
}
