//! A release: an archive of each program for each platform, the image, what installs them, and checksums.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
    slice,
};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::{
    archive::{Entry, sha256, tar_gz, zip},
    binary::Binary,
    cluster,
    crates::Crates,
    debian,
    image::{self, Image, Part},
    krew::{self, Plugin},
    platform::Platform,
    provenance::{self, Build},
    root::{self, Root},
    sbom::{self, SourcePackage},
};

/// The version of all that is released.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
/// What a program goes together with: the licences, README.md, and what it leads to.
const TEXTS: [&str; 22] = [
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
    "docs/distributions.md",
    "docs/files.md",
    "docs/how-it-works.md",
    "docs/install.md",
    "docs/kernels.md",
    "docs/lines.md",
    "docs/performance.md",
    "docs/policy.md",
    "docs/security.md",
    "docs/wireshark.png",
];
/// The shells that programs write completions for.
const SHELLS: [&str; 3] = ["bash", "zsh", "fish"];
/// Where an archive has the pages of the manual.
const MANUAL: &str = "man/man1";
/// The licences of the crates that are in a program.
pub const NOTICES: &str = "THIRD-PARTY-LICENSES";
/// What is to be said of the libpcap that is in `sniff`, in the root of packages.
const LIBPCAP_COPYRIGHT: &str = "usr/share/doc/libpcap/copyright";
/// The same in an archive.
pub const LIBPCAP: &str = "LICENSE-libpcap";
/// Where the image has the licences of the program.
pub const IMAGE_TEXTS: &str = "usr/share/doc/sniff";
/// How the names of the image's files begin.
pub const IMAGE: &str = "sniff-image";
/// The client.
pub const CLIENT: &str = "kubectl-sniff";

/// The programs of a release.
pub struct Programs {
    /// The node's for each platform, and the root of the Debian packages that go into the image with it.
    pub nodes: Vec<(PathBuf, PathBuf)>,
    /// The client, for each platform.
    pub clients: Vec<(Platform, PathBuf)>,
}

/// What a release is of, and where it goes.
#[derive(clap::Args)]
pub struct Origin {
    /// Where the archives will be downloaded from
    #[arg(long)]
    pub url: String,
    /// Who answers for the Debian package: a name, and an address of mail in angle brackets
    #[arg(long)]
    pub maintainer: String,
    /// The time of the files in the Debian package, in seconds since 1970
    #[arg(long)]
    pub date: u64,
    /// What the programs were built from
    #[command(flatten)]
    pub build: Build,
}

/// Makes the release's folder anew, and says what is in it.
///
/// # Errors
/// Something that belongs into it is not there, or it cannot be written.
pub fn write(programs: &Programs, origin: &Origin, output: &Path, project: &Path) -> Result<String> {
    if output.exists() {
        fs::remove_dir_all(output).with_context(|| format!("cannot remove {}", output.display()))?;
    }
    fs::create_dir_all(output).with_context(|| format!("cannot make {}", output.display()))?;
    let release = Release { origin, texts: texts(project)?, crates: Crates::of(project)? };
    let here = Platform::here()?;
    let mut files = release.nodes(&programs.nodes, here, output)?;
    files.extend(release.clients(&programs.clients, here, output)?);
    if !programs.nodes.is_empty() {
        files.extend(cluster::files(project)?);
    }
    let statement = provenance::statement(&origin.build, &origin.url, origin.date, &files);
    files.push((provenance::file_name(VERSION), json(&statement)?));
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

/// A file of a release: its name and its content.
pub type File = (String, Vec<u8>);

/// What all archives have in common.
struct Release<'a> {
    origin: &'a Origin,
    texts: Vec<Entry>,
    crates: Crates,
}

impl Release<'_> {
    /// The nodes' archives and Debian packages, the image for all of them, and what each is made of; nothing without nodes.
    fn nodes(&self, nodes: &[(PathBuf, PathBuf)], here: Platform, output: &Path) -> Result<Vec<File>> {
        if nodes.is_empty() {
            return Ok(Vec::new());
        }
        let nodes = nodes.iter().map(|(program, packages)| Node::new(self, program, packages));
        let nodes = nodes.collect::<Result<Vec<_>>>()?;
        let writer = nodes.iter().find(|node| node.part.platform == here);
        let writer = writer.context("no sniff for this machine, to write the manual with")?;
        let documented = documents("sniff", &writer.part.sniff, output)?;
        let mut files = Vec::new();
        for node in &nodes {
            files.extend(self.node(node, &documented)?);
        }
        let image = image::make(nodes.iter().map(|node| &node.part), &format!("localhost/sniff:{VERSION}"))?;
        for node in &nodes {
            files.push(self.sbom_of_image(node, &image)?);
        }
        files.push((format!("{IMAGE}-{VERSION}.tar"), image.archive));
        Ok(files)
    }

    /// The node's program: its archive, what it is made of, and its Debian package.
    fn node(
        &self,
        Node { part, program, texts, libpcap, .. }: &Node,
        documented: &[Entry],
    ) -> Result<Vec<File>> {
        let debian = debian::Release {
            version: VERSION,
            maintainer: &self.origin.maintainer,
            homepage: &self.origin.url,
            date: self.origin.date,
        };
        let package = debian::package(&debian, program, documented, texts)?;
        Ok(vec![
            packed("sniff", part.platform, program, &[texts, documented])?,
            self.sbom("sniff", part.platform, program, slice::from_ref(libpcap))?,
            (debian::file_name(VERSION, part.platform), package),
        ])
    }

    /// The client's archives, what each is made of, and the manifests that name them; nothing without clients.
    fn clients(&self, clients: &[(Platform, PathBuf)], here: Platform, output: &Path) -> Result<Vec<File>> {
        if clients.is_empty() {
            return Ok(Vec::new());
        }
        let writer = clients.iter().find(|(platform, _)| *platform == here);
        let (_, writer) = writer.context("no client for this machine, to write the manual with")?;
        let documented = documents(CLIENT, writer, output)?;
        let mut files = Vec::new();
        let mut plugins = Vec::new();
        for (platform, program) in clients {
            let program = read(program)?;
            let texts = self.texts_of(&program).with_context(|| format!("{CLIENT} for {platform}"))?;
            let (archive, content) = packed(CLIENT, *platform, &program, &[&texts, &documented])?;
            plugins.push(Plugin { platform: *platform, archive: archive.clone(), digest: sha256(&content) });
            files.push((archive, content));
            files.push(self.sbom(CLIENT, *platform, &program, &[])?);
        }
        let url = &self.origin.url;
        files.extend(
            krew::NAMES
                .map(|name| (krew::path(name), krew::manifest(name, VERSION, url, &plugins).into_bytes())),
        );
        Ok(files)
    }

    /// The project's texts, and the licences of the crates in a program.
    fn texts_of(&self, program: &[u8]) -> Result<Vec<Entry>> {
        let notices = sbom::Parts::of(program)?.notices(&self.crates)?;
        let mut texts = self.texts.clone();
        texts.push((NOTICES.to_owned(), 0o644, notices.into_bytes()));
        Ok(texts)
    }

    /// What a program is made of, in which there is something of these packages, too.
    fn sbom(&self, name: &str, platform: Platform, program: &[u8], linked: &[SourcePackage]) -> Result<File> {
        let document = sbom::of_program(&self.about(name, platform)?, program, linked, &self.crates)?;
        Ok((sbom::file_name(&format!("{name}-{VERSION}-{platform}")), json(&document)?))
    }

    /// What a platform's part of the image is made of.
    fn sbom_of_image(&self, node: &Node, image: &Image) -> Result<File> {
        let Node { part, program, packages, libpcap, .. } = node;
        let sources = part.root.packages().map(|name| root::source_package(packages, name));
        let sources = sources.collect::<Result<Vec<_>>>()?;
        let digest = image.manifest_of(part.platform).context("a platform is not in the image")?;
        let (about, linked) = (self.about("sniff", part.platform)?, slice::from_ref(libpcap));
        let document = sbom::of_image(&about, digest, program, linked, &sources, &self.crates)?;
        Ok((sbom::file_name(&format!("{IMAGE}-{VERSION}-{}", part.platform)), json(&document)?))
    }

    fn about<'a>(&'a self, name: &'a str, platform: Platform) -> Result<sbom::About<'a>> {
        let rust = self.origin.build.tools.iter().find(|(tool, _)| tool == "rustc");
        let (_, rust) = rust.context("which rustc it was is not told")?;
        let date = self.origin.date;
        Ok(sbom::About { name, version: VERSION, platform: platform.to_string(), date, rust })
    }
}

/// The node's program for a platform, and what goes with it.
struct Node<'a> {
    part: Part,
    program: Vec<u8>,
    /// What goes into its archive.
    texts: Vec<Entry>,
    /// The Debian packages that go into the image, unpacked.
    packages: &'a Path,
    /// The source of the libpcap that is in the program.
    libpcap: SourcePackage,
}

impl<'a> Node<'a> {
    fn new(release: &Release, sniff: &Path, packages: &'a Path) -> Result<Self> {
        let program = read(sniff)?;
        let mut texts = release.texts_of(&program)?;
        let of_program = texts.iter().filter(|(path, ..)| path.contains("LICENSE"));
        let in_image = |(path, mode, text): &Entry| (format!("{IMAGE_TEXTS}/{path}"), *mode, text.clone());
        let part = Part {
            platform: Binary::read(&program)?.platform,
            sniff: sniff.to_owned(),
            root: Root::unpacked(sniff, packages)?,
            texts: of_program.map(in_image).collect(),
        };
        // The image has it with the other packages'.
        texts.push((LIBPCAP.to_owned(), 0o644, read(&packages.join(LIBPCAP_COPYRIGHT))?));
        let libpcap = root::source_package(packages, "libpcap")?;
        Ok(Self { part, program, texts, packages, libpcap })
    }
}

fn json(value: &Value) -> Result<Vec<u8>> {
    let mut text = serde_json::to_vec_pretty(value)?;
    text.push(b'\n');
    Ok(text)
}

/// The project's texts.
fn texts(project: &Path) -> Result<Vec<Entry>> {
    let text = |text: &str| Ok((text.to_owned(), 0o644, read(&project.join(text))?));
    TEXTS.into_iter().map(text).collect()
}

/// What is in a file.
///
/// # Errors
/// It cannot be read.
pub fn read(file: &Path) -> Result<Vec<u8>> {
    fs::read(file).with_context(|| format!("cannot read {}", file.display()))
}

/// Where an archive has what a program writes itself, at the least: its completions, and the first page of its manual.
pub fn written_by(name: &str) -> Vec<String> {
    let page = format!("{MANUAL}/{name}.1");
    SHELLS.map(|shell| completions(shell, name)).into_iter().chain([page]).collect()
}

/// The file of completions for a program, called as the shell looks for it.
fn completions(shell: &str, name: &str) -> String {
    match shell {
        "zsh" => format!("completions/_{name}"),
        "fish" => format!("completions/{name}.fish"),
        _ => format!("completions/{name}"),
    }
}

/// A program's completions and manual pages, which it writes itself; for the pages, `output` has a folder meanwhile.
fn documents(name: &str, program: &Path, output: &Path) -> Result<Vec<Entry>> {
    let mut files = Vec::new();
    for shell in SHELLS {
        files.push((completions(shell, name), 0o644, run(program, &["completions", shell])?));
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
        Ok((format!("{MANUAL}/{name}"), 0o644, fs::read(&path)?))
    };
    paths.into_iter().map(page).collect()
}

fn run(program: &Path, args: &[&str]) -> Result<Vec<u8>> {
    let output = Command::new(program).args(args).output();
    let output = output.with_context(|| format!("cannot run {}", program.display()))?;
    ensure!(output.status.success(), "{} {}: {}", program.display(), args.join(" "), output.status);
    Ok(output.stdout)
}

/// An archive of a program, with what goes along.
fn packed(name: &str, platform: Platform, program: &[u8], along: &[&[Entry]]) -> Result<File> {
    let mut entries = vec![(platform.program(name), 0o755, program.to_vec())];
    entries.extend(along.concat());
    let (bytes, ending) =
        if platform.has_zip() { (zip(&entries)?, "zip") } else { (tar_gz(&entries)?, "tar.gz") };
    Ok((format!("{name}-{VERSION}-{platform}.{ending}"), bytes))
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;
    use crate::testing::{self, LIST, origin, project};

    const ELSEWHERE: Platform = Platform { os: "windows", architecture: "amd64" };

    /// Programs that only know how to write their manual, and one that does not run here.
    fn programs(folder: &Path) -> Programs {
        for name in ["sniff", "kubectl-sniff"] {
            testing::program(folder, name, Some(LIST), &[]);
        }
        let elsewhere = folder.join("elsewhere");
        testing::program(folder, "elsewhere", Some(LIST), &[]);
        let here = Platform::here().expect("a platform");
        let (sniff, root) = (folder.join("sniff"), folder.join("root"));
        testing::packages(&root, &sniff);
        Programs {
            nodes: vec![(sniff, root)],
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
            write(&programs, &origin(), &output, &project()).expect("a release");
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
                let ending = if platform.has_zip() { "zip" } else { "tar.gz" };
                let digest = sha256(file(&format!("kubectl-sniff-{VERSION}-{platform}.{ending}")));
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
        write(&programs, &origin(), &output, &project()).expect("a release");
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
    fn a_release_tells_what_each_program_is_made_of_and_where_everything_comes_from() {
        let folder = tempfile::tempdir().expect("a folder");
        let (programs, output) = (programs(folder.path()), folder.path().join("dist"));
        write(&programs, &origin(), &output, &project()).expect("a release");
        let release = contents(&output);
        let json = |name: &str| {
            let (_, content) = release.iter().find(|(file, _)| file == name).expect(name);
            serde_json::from_slice::<Value>(content).expect("JSON")
        };
        let here = Platform::here().expect("a platform");
        for (name, platform) in [("sniff", here), (CLIENT, here), (CLIENT, ELSEWHERE)] {
            let sbom = json(&format!("{name}-{VERSION}-{platform}.cdx.json"));
            assert_eq!(sbom["metadata"]["component"]["name"], name);
        }
        let statement = json(&provenance::file_name(VERSION));
        let told = statement["subject"].as_array().expect("subjects").iter();
        let mut told: Vec<_> = told.map(|subject| subject["name"].as_str().expect("a name")).collect();
        told.sort_unstable();
        let others = release.iter().map(|(name, _)| name.as_str());
        let others = others.filter(|name| *name != "SHA256SUMS" && !name.ends_with("provenance.json"));
        assert_eq!(told, others.collect::<Vec<_>>());
    }

    #[test]
    fn windows_gets_a_zip_with_a_program_that_it_can_run() {
        let folder = tempfile::tempdir().expect("a folder");
        let (programs, output) = (programs(folder.path()), folder.path().join("dist"));
        write(&programs, &origin(), &output, &project()).expect("a release");
        let archive = fs::File::open(output.join(format!("kubectl-sniff-{VERSION}-{ELSEWHERE}.zip")));
        let mut archive = zip::ZipArchive::new(archive.expect("an archive")).expect("a ZIP archive");
        let mut program = Vec::new();
        archive.by_name("kubectl-sniff.exe").expect("it").read_to_end(&mut program).expect("its bytes");
        assert_eq!(program, read(&folder.path().join("elsewhere")).expect("the program"));
        assert!(archive.by_name(NOTICES).is_ok());
        assert!(
            archive.by_name("LICENSE-MIT").is_ok() && archive.by_name("man/man1/kubectl-sniff.1").is_ok()
        );
    }

    #[test]
    fn a_release_has_the_image_and_says_whose_libpcap_is() {
        let folder = tempfile::tempdir().expect("a folder");
        let (programs, output) = (programs(folder.path()), folder.path().join("dist"));
        write(&programs, &origin(), &output, &project()).expect("a release");
        let archive = |name: &str, member: &str| {
            run(Path::new("tar"), &["-xOf", &output.join(name).to_string_lossy(), member]).expect(member)
        };
        let index = archive(&format!("sniff-image-{VERSION}.tar"), "index.json");
        assert!(String::from_utf8_lossy(&index).contains(&format!("localhost/sniff:{VERSION}")));
        let here = Platform::here().expect("a platform");
        let sniff = format!("sniff-{VERSION}-{here}.tar.gz");
        assert_eq!(archive(&sniff, "LICENSE-libpcap"), b"whose: libpcap");
    }

    #[test]
    fn without_the_client_there_is_no_manifest() {
        let folder = tempfile::tempdir().expect("a folder");
        let (programs, output) = (programs(folder.path()), folder.path().join("dist"));
        let programs = Programs { clients: Vec::new(), ..programs };
        write(&programs, &origin(), &output, &project()).expect("a release");
        assert!(contents(&output).iter().all(|(name, _)| !name.starts_with("plugins")));
    }
}
