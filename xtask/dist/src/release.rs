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
/// What a program goes together with: the licences, README.md, and what it leads to.
const TEXTS: [&str; 17] = [
    "ARCHITECTURE.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "LICENSE-APACHE",
    "LICENSE-GPL2",
    "LICENSE-MIT",
    "README.md",
    "SECURITY.md",
    "docs/bench.svg",
    "docs/both-ends.md",
    "docs/cli.md",
    "docs/cluster.md",
    "docs/files.md",
    "docs/how-it-works.md",
    "docs/kernels.md",
    "docs/lines.md",
    "docs/performance.md",
    "docs/wireshark.png",
];
/// Shells, and what each puts around a program's name to call a file of completions for it.
const SHELLS: [(&str, &str, &str); 3] = [("bash", "", ""), ("zsh", "_", ""), ("fish", "", ".fish")];

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
    files.push((format!("sniff-{platform}.tar.gz"), packed("sniff", programs, project, output)?));
    if programs.join("kubectl-sniff").exists() {
        let archive = format!("kubectl-sniff-{platform}.tar.gz");
        let content = packed("kubectl-sniff", programs, project, output)?;
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

/// A program's completions and manual pages, which it writes itself; for the pages, `output` has a folder meanwhile.
fn documents(name: &str, program: &Path, output: &Path) -> Result<Vec<(String, Vec<u8>)>> {
    let mut files = Vec::new();
    for (shell, before, behind) in SHELLS {
        files.push((format!("completions/{before}{name}{behind}"), run(program, &["completions", shell])?));
    }
    let folder = output.join("manual");
    fs::create_dir(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let pages = manual(program, &folder);
    fs::remove_dir_all(&folder).with_context(|| format!("cannot remove {}", folder.display()))?;
    files.extend(pages?);
    Ok(files)
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

/// An archive of a program with the project's texts and its own documents.
fn packed(name: &str, programs: &Path, project: &Path, output: &Path) -> Result<Vec<u8>> {
    let program = programs.join(name);
    let mut archive = Archive::new();
    archive.copy(name, 0o755, &program)?;
    for text in TEXTS {
        archive.copy(text, 0o644, &project.join(text))?;
    }
    for (path, content) in documents(name, &program, output)? {
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
            let script = format!(
                "#!/bin/sh\n[ \"$1\" = manual ] && echo page > \"$2/{name}.1\"\necho {name} \"$@\"\n"
            );
            fs::write(&path, script).expect("a script");
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

    /// Of the project's folder: where the links of a text lead to, without those that name a site or a heading.
    fn links(text: &str) -> Vec<PathBuf> {
        let markdown = fs::read_to_string(project().join(text)).expect(text);
        let targets = markdown.split("](").skip(1).filter_map(|rest| rest.split([')', '#']).next());
        let own = targets.filter(|target| !target.is_empty() && !target.contains("://"));
        let in_docs = text.starts_with("docs/");
        own.map(|target| match target.strip_prefix("../") {
            Some(above) if in_docs => above.into(),
            _ if in_docs => Path::new("docs").join(target),
            _ => target.into(),
        })
        .collect()
    }

    #[test]
    fn every_link_in_a_release_leads_to_something_in_it() {
        let documents: Vec<_> = TEXTS.into_iter().filter(|text| text.ends_with(".md")).collect();
        assert!(!links("README.md").is_empty() && !links("docs/kernels.md").is_empty());
        for document in documents {
            for link in links(document) {
                assert!(TEXTS.iter().any(|text| link == Path::new(text)), "{document}: {}", link.display());
            }
        }
    }

    #[test]
    fn each_program_comes_with_its_own_completions_and_manual_pages() {
        let programs = programs(&["sniff", "kubectl-sniff"]);
        let output = programs.path().join("dist");
        write(programs.path(), &output, "https://example.com", &project()).expect("a release");
        for name in ["sniff", "kubectl-sniff"] {
            let (archive, _) = contents(&output)
                .into_iter()
                .find(|(file, _)| file.starts_with(&format!("{name}-")))
                .expect("an archive");
            let read = |member: &str| {
                run(Path::new("tar"), &["-xOzf", &output.join(&archive).to_string_lossy(), member])
                    .map(|text| String::from_utf8(text).expect("text"))
                    .expect(member)
            };
            for (shell, file) in
                [("bash", name.to_owned()), ("zsh", format!("_{name}")), ("fish", format!("{name}.fish"))]
            {
                assert_eq!(read(&format!("completions/{file}")), format!("{name} completions {shell}\n"));
            }
            assert_eq!(read(&format!("man/man1/{name}.1")), "page\n");
        }
    }

    #[test]
    fn without_the_plugin_there_is_no_krew_manifest() {
        let programs = programs(&["sniff"]);
        let output = programs.path().join("dist");
        write(programs.path(), &output, "https://example.com", &project()).expect("a release");
        assert!(contents(&output).iter().all(|(name, _)| !name.contains("krew")));
    }
}
