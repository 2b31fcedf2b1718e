//! A release: an archive of each program for each platform, checksums, and the manifests for krew.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};

use crate::{
    archive::{Entry, sha256, tar_gz, zip},
    krew::{self, Plugin},
    platform::Platform,
};

const VERSION: &str = env!("CARGO_PKG_VERSION");
/// What a program goes together with: the licences, README.md, and what it leads to.
const TEXTS: [&str; 19] = [
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
    "docs/install.md",
    "docs/kernels.md",
    "docs/lines.md",
    "docs/performance.md",
    "docs/wireshark.png",
];
/// Shells, and what each puts around a program's name to call a file of completions for it.
const SHELLS: [(&str, &str, &str); 3] = [("bash", "", ""), ("zsh", "_", ""), ("fish", "", ".fish")];
/// The client.
const CLIENT: &str = "kubectl-sniff";

/// The programs of a release.
pub struct Programs {
    /// The node's, for this machine's platform.
    pub sniff: PathBuf,
    /// The client, for each platform.
    pub clients: Vec<(Platform, PathBuf)>,
}

/// Makes the release's folder anew, and says what is in it.
///
/// # Errors
/// Something that belongs into it is not there, or it cannot be written.
pub fn write(programs: &Programs, output: &Path, url: &str, project: &Path) -> Result<String> {
    if output.exists() {
        fs::remove_dir_all(output).with_context(|| format!("cannot remove {}", output.display()))?;
    }
    fs::create_dir_all(output).with_context(|| format!("cannot make {}", output.display()))?;
    let texts = texts(project)?;
    let here = Platform::here()?;
    let documented = documents("sniff", &programs.sniff, output)?;
    let mut files = vec![packed("sniff", here, &programs.sniff, &[&texts, &documented])?];
    files.extend(clients(&programs.clients, here, &texts, output, url)?);
    let sums: String = files.iter().map(|(name, content)| format!("{}  {name}\n", sha256(content))).collect();
    files.push(("SHA256SUMS".to_owned(), sums.into_bytes()));
    for (name, content) in &files {
        let path = output.join(name);
        path.parent().map_or(Ok(()), fs::create_dir_all)?;
        fs::write(path, content).with_context(|| format!("cannot write {name}"))?;
    }
    let names: Vec<&str> = files.iter().map(|(name, _)| name.as_str()).collect();
    Ok(format!("{}: {}", output.display(), names.join(", ")))
}

/// The client's archives, and the manifests that name them; nothing without clients.
fn clients(
    clients: &[(Platform, PathBuf)],
    here: Platform,
    texts: &[Entry],
    output: &Path,
    url: &str,
) -> Result<Vec<(String, Vec<u8>)>> {
    if clients.is_empty() {
        return Ok(Vec::new());
    }
    let writer = clients.iter().find(|(platform, _)| *platform == here);
    let (_, writer) = writer.context("no client for this machine, to write the manual with")?;
    let documented = documents(CLIENT, writer, output)?;
    let mut files = Vec::new();
    let mut plugins = Vec::new();
    for (platform, program) in clients {
        let (archive, content) = packed(CLIENT, *platform, program, &[texts, &documented])?;
        plugins.push(Plugin { platform: *platform, archive: archive.clone(), digest: sha256(&content) });
        files.push((archive, content));
    }
    files.extend(
        krew::NAMES.map(|name| (krew::path(name), krew::manifest(name, VERSION, url, &plugins).into_bytes())),
    );
    Ok(files)
}

/// The project's texts.
fn texts(project: &Path) -> Result<Vec<Entry>> {
    let read = |text: &str| {
        let path = project.join(text);
        let content = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        Ok((text.to_owned(), 0o644, content))
    };
    TEXTS.into_iter().map(read).collect()
}

/// A program's completions and manual pages, which it writes itself; for the pages, `output` has a folder meanwhile.
fn documents(name: &str, program: &Path, output: &Path) -> Result<Vec<Entry>> {
    let mut files = Vec::new();
    for (shell, before, behind) in SHELLS {
        let path = format!("completions/{before}{name}{behind}");
        files.push((path, 0o644, run(program, &["completions", shell])?));
    }
    let folder = output.join("manual");
    fs::create_dir(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let pages = manual(program, &folder);
    fs::remove_dir_all(&folder).with_context(|| format!("cannot remove {}", folder.display()))?;
    files.extend(pages?);
    Ok(files)
}

fn manual(program: &Path, folder: &Path) -> Result<Vec<Entry>> {
    run(program, &["manual", &folder.to_string_lossy()])?;
    let mut paths: Vec<PathBuf> =
        fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?;
    paths.sort();
    let page = |path: PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        Ok((format!("man/man1/{name}"), 0o644, fs::read(&path)?))
    };
    paths.into_iter().map(page).collect()
}

fn run(program: &Path, args: &[&str]) -> Result<Vec<u8>> {
    let output = Command::new(program).args(args).output();
    let output = output.with_context(|| format!("cannot run {}", program.display()))?;
    ensure!(output.status.success(), "{} {}: {}", program.display(), args.join(" "), output.status);
    Ok(output.stdout)
}

/// The name and the bytes of an archive of a program, with what goes along.
fn packed(name: &str, platform: Platform, program: &Path, along: &[&[Entry]]) -> Result<(String, Vec<u8>)> {
    let content = fs::read(program).with_context(|| format!("cannot read {}", program.display()))?;
    let mut entries = vec![(platform.program(name), 0o755, content)];
    entries.extend(along.concat());
    let (bytes, ending) =
        if platform.has_zip() { (zip(&entries)?, "zip") } else { (tar_gz(&entries)?, "tar.gz") };
    Ok((format!("{name}-{VERSION}-{platform}.{ending}"), bytes))
}

#[cfg(test)]
mod tests {
    use std::{io::Read as _, os::unix::fs::PermissionsExt as _};

    use super::*;

    fn project() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
    }

    const ELSEWHERE: Platform = Platform { os: "windows", architecture: "amd64" };

    /// Programs that only know how to write their manual, and one that does not run here.
    fn programs(folder: &Path) -> Programs {
        for name in ["sniff", "kubectl-sniff"] {
            let path = folder.join(name);
            let script = format!(
                "#!/bin/sh\n[ \"$1\" = manual ] && echo page > \"$2/{name}.1\"\necho {name} \"$@\"\n"
            );
            fs::write(&path, script).expect("a script");
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("a program");
        }
        let elsewhere = folder.join("elsewhere");
        fs::write(&elsewhere, "MZ").expect("a program");
        let here = Platform::here().expect("a platform");
        Programs {
            sniff: folder.join("sniff"),
            clients: vec![(here, folder.join("kubectl-sniff")), (ELSEWHERE, elsewhere)],
        }
    }

    fn contents(output: &Path) -> Vec<(String, Vec<u8>)> {
        let entries = [output.to_owned(), output.join("plugins")]
            .into_iter()
            .filter_map(|folder| folder.read_dir().ok());
        let files = entries.flatten().flatten().map(|entry| entry.path()).filter(|path| path.is_file());
        let read = |path: PathBuf| {
            let name = path.strip_prefix(output).expect("a file of it").to_string_lossy().into_owned();
            (name, fs::read(path).expect("a file"))
        };
        let mut contents: Vec<_> = files.map(read).collect();
        contents.sort();
        contents
    }

    #[test]
    fn a_release_is_the_same_each_time_and_its_checksums_hold() {
        let folder = tempfile::tempdir().expect("a folder");
        let (programs, output) = (programs(folder.path()), folder.path().join("dist"));
        let make = || {
            write(&programs, &output, "https://example.com/v1/", &project()).expect("a release");
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
        for name in krew::NAMES {
            let krew = String::from_utf8_lossy(file(&krew::path(name)));
            assert!(krew.contains(&format!("  name: {name}\n")) && !krew.contains("//kubectl"), "{krew}");
            for (platform, _) in &programs.clients {
                let digest = sha256(file(&format!("kubectl-sniff-{VERSION}-{platform}")));
                assert!(krew.contains(&format!("sha256: {digest}\n")), "{krew}");
            }
            assert!(krew.contains("      bin: kubectl-sniff.exe\n"), "{krew}");
        }
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
        let folder = tempfile::tempdir().expect("a folder");
        let (programs, output) = (programs(folder.path()), folder.path().join("dist"));
        write(&programs, &output, "https://example.com", &project()).expect("a release");
        for name in ["sniff", "kubectl-sniff"] {
            let (archive, _) = contents(&output)
                .into_iter()
                .find(|(file, _)| file.starts_with(&format!("{name}-")) && file.ends_with(".tar.gz"))
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
    fn windows_gets_a_zip_with_a_program_that_it_can_run() {
        let folder = tempfile::tempdir().expect("a folder");
        let (programs, output) = (programs(folder.path()), folder.path().join("dist"));
        write(&programs, &output, "https://example.com", &project()).expect("a release");
        let archive = fs::File::open(output.join(format!("kubectl-sniff-{VERSION}-{ELSEWHERE}.zip")));
        let mut archive = zip::ZipArchive::new(archive.expect("an archive")).expect("a ZIP archive");
        let mut program = String::new();
        archive.by_name("kubectl-sniff.exe").expect("it").read_to_string(&mut program).expect("text");
        assert_eq!(program, "MZ");
        assert!(
            archive.by_name("LICENSE-MIT").is_ok() && archive.by_name("man/man1/kubectl-sniff.1").is_ok()
        );
    }

    #[test]
    fn without_the_client_there_is_no_manifest() {
        let folder = tempfile::tempdir().expect("a folder");
        let (programs, output) = (programs(folder.path()), folder.path().join("dist"));
        let programs = Programs { clients: Vec::new(), ..programs };
        write(&programs, &output, "https://example.com", &project()).expect("a release");
        assert!(contents(&output).iter().all(|(name, _)| !name.ends_with(".yaml")));
    }
}
