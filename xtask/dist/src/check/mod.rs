//! Whether a release is what it says: asked of its files alone, with nothing of the build at hand.

mod install;
mod programs;
mod unpacked;

use std::{collections::BTreeSet, path::Path};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

use self::unpacked::{Files, Member, Members};
use crate::{
    archive::{gunzip, md5, sha256},
    binary::Binary,
    cluster, debian, krew,
    platform::Platform,
    release::{CLIENT, IMAGE_TEXTS, LIBPCAP, NOTICES, VERSION, written_by},
    sbom,
};

/// The checksums' file, which names all others.
const SUMS: &str = "SHA256SUMS";
/// What must be in each archive besides the program and what the program writes itself.
const TEXTS: [&str; 6] =
    ["LICENSE-APACHE", "LICENSE-GPL2", "LICENSE-MIT", NOTICES, "README.md", "docs/install.md"];
/// A statement's file ends so.
const PROVENANCE: &str = ".provenance.json";
/// How many digits of the commit programs tell.
const SHORT: usize = 12;
/// The longest that a plugin's description may be, in characters: more does not fit in krew's list.
const LONGEST_DESCRIPTION: usize = 50;

/// What a release must have, and what not.
#[derive(clap::Args)]
pub struct Asked {
    /// A platform that `sniff` must be there for, as rustc calls it
    #[arg(long = "node", value_name = "TARGET")]
    nodes: Vec<Platform>,
    /// The same for the client
    #[arg(long = "client", value_name = "TARGET")]
    clients: Vec<Platform>,
    /// A path of this machine, which must be in no program
    #[arg(long, value_name = "PATH")]
    private: Vec<String>,
}

impl Asked {
    /// The programs that must be there, each with its platform.
    fn programs(&self) -> impl Iterator<Item = (&'static str, Platform)> {
        let of = |name, platforms: &[Platform]| {
            platforms.iter().map(move |platform| (name, *platform)).collect::<Vec<_>>()
        };
        of(debian::NAME, &self.nodes).into_iter().chain(of(CLIENT, &self.clients))
    }
}

/// Checks the release in a folder, and that it can be installed as its documentation says.
///
/// # Errors
/// It cannot be read, or something is wrong: the error names all that is.
pub fn check(folder: &Path, asked: &Asked) -> Result<String> {
    let files = unpacked::folder(folder)?;
    let mut faults = Faults::default();
    faults.of_release(&files, asked);
    let installed = install::all(folder, &files, asked, &mut faults)?;
    let Faults(faults) = faults;
    if !faults.is_empty() {
        let rest = if installed.is_empty() { "" } else { "\nwhat could be installed all the same:\n" };
        bail!("{}:\n{}{rest}{}", folder.display(), faults.join("\n"), installed.trim_end());
    }
    Ok(format!("{}: {} files are as they should be\n{installed}", folder.display(), files.len()))
}

/// That the chart is of this version, and makes what the manifest has.
fn of_cluster(files: &Files) -> Result<()> {
    let of = |file: &str| files.get(file).with_context(|| format!("there is no {file}"));
    let manifest = String::from_utf8_lossy(of(cluster::MANIFEST)?);
    let name = cluster::chart_file();
    let members = unpacked::archive(&name, of(&name)?).with_context(|| name.clone())?;
    let folder = cluster::CHART;
    let about =
        members.get(&format!("{folder}/Chart.yaml")).with_context(|| format!("{name} is no chart"))?;
    let about: Value = serde_saphyr::from_slice(&about.content).with_context(|| name.clone())?;
    for (field, expected) in [("name", folder), ("version", VERSION), ("appVersion", VERSION)] {
        ensure!(about[field] == expected, "{name}: {field} is {}", about[field]);
    }
    let base = format!("{folder}/files/base/");
    let objects: Vec<_> = members.iter().filter(|(path, _)| path.starts_with(&base)).collect();
    ensure!(!objects.is_empty(), "{name} has no objects");
    for (path, object) in objects {
        let is_there = manifest.contains(&*String::from_utf8_lossy(&object.content));
        ensure!(is_there, "{name}: {path} is not what {} has", cluster::MANIFEST);
    }
    Ok(())
}

/// All that was found to be wrong, a line each.
#[derive(Default)]
struct Faults(Vec<String>);

impl Faults {
    fn add(&mut self, place: &str, fault: impl std::fmt::Display) {
        self.0.push(format!("{place}: {fault}"));
    }

    /// What is there if all is well; the fault is kept if not.
    fn keep<T>(&mut self, place: &str, done: Result<T>) -> Option<T> {
        done.map_err(|error| self.add(place, format!("{error:#}"))).ok()
    }

    fn of_release(&mut self, files: &Files, asked: &Asked) {
        self.of_sums(files);
        let commit = self.of_provenance(files).unwrap_or_default();
        let mut programs = Vec::new();
        for (file, content) in files {
            if let Some((name, platform)) = program_of(file) {
                let program = self.of_archive(files, file, content, &name, platform, &commit, &asked.private);
                programs.extend(program.map(|program| (name, platform, program)));
            }
        }
        for (name, platform) in asked.programs() {
            if !programs.iter().any(|(own, of, _)| own == name && *of == platform) {
                self.add("release", format!("there is no {name} for {platform}"));
            }
        }
        for (name, platform, program) in programs.iter().filter(|(name, ..)| name != CLIENT) {
            let packages = files.iter().filter(|(file, _)| {
                file.ends_with(&format!("_{}.deb", platform.architecture))
                    && file.starts_with(&format!("{name}_"))
            });
            let mut packages = packages.peekable();
            if packages.peek().is_none() {
                self.add("release", format!("there is no Debian package of {name} for {platform}"));
            }
            for (file, package) in packages {
                let done = self.of_deb(file, package, *platform, program);
                self.keep(file, done);
            }
        }
        for name in krew::NAMES {
            let path = krew::path(name);
            match files.get(&path) {
                Some(manifest) => {
                    let done = self.of_manifest(&path, name, manifest, files);
                    self.keep(&path, done);
                }
                None => self.add(&path, "it is not there"),
            }
        }
        if !asked.nodes.is_empty() {
            if !files.keys().any(|file| file.ends_with(".tar")) {
                self.add("release", "there is no image");
            }
            let done = of_cluster(files);
            self.keep("release", done);
        }
        for (file, content) in files.iter().filter(|(file, _)| file.ends_with(".tar")) {
            let done = self.of_image(file, content, files, &programs, asked);
            self.keep(file, done);
        }
    }

    fn of_sums(&mut self, files: &Files) {
        let Some(sums) = files.get(SUMS) else { return self.add(SUMS, "it is not there") };
        let sums = String::from_utf8_lossy(sums);
        let mut named = BTreeSet::new();
        for line in sums.lines() {
            let Some((digest, name)) = line.split_once("  ") else {
                self.add(SUMS, format!("not understood: {line}"));
                continue;
            };
            if !named.insert(name) {
                self.add(SUMS, format!("{name} is named twice"));
            }
            match files.get(name) {
                None => self.add(name, format!("{SUMS} names it, and it is not there")),
                Some(content) if sha256(content) != digest => {
                    self.add(name, format!("it has not the digest in {SUMS}"));
                }
                Some(_) => {}
            }
        }
        for name in files.keys().filter(|name| *name != SUMS && !named.contains(name.as_str())) {
            self.add(name, format!("{SUMS} does not name it"));
        }
    }

    /// Returns the commit that the statement names, as short as programs tell it.
    fn of_provenance(&mut self, files: &Files) -> Option<String> {
        let statements: Vec<_> = files.iter().filter(|(name, _)| name.ends_with(PROVENANCE)).collect();
        let [(file, content)] = statements[..] else {
            self.add(
                "provenance",
                format!("there must be one statement, and there are {}", statements.len()),
            );
            return None;
        };
        let statement: Value = self.keep(file, serde_json::from_slice(content).context("it is no JSON"))?;
        for (field, expected) in [
            ("_type", "https://in-toto.io/Statement/v1"),
            ("predicateType", "https://slsa.dev/provenance/v1"),
        ] {
            if statement[field] != expected {
                self.add(file, format!("{field} is {}", statement[field]));
            }
        }
        let mut named = BTreeSet::new();
        for subject in statement["subject"].as_array().into_iter().flatten() {
            let (name, digest) = (&subject["name"], &subject["digest"]["sha256"]);
            let name = name.as_str().unwrap_or_default();
            named.insert(name);
            match files.get(name) {
                None => self.add(name, format!("{file} names it, and it is not there")),
                Some(content) if *digest != sha256(content) => {
                    self.add(name, format!("it has not the digest in {file}"));
                }
                Some(_) => {}
            }
        }
        let others = files.keys().filter(|name| *name != file && *name != SUMS);
        for name in others.filter(|name| !named.contains(name.as_str())) {
            self.add(name, format!("{file} does not name it"));
        }
        let build = &statement["predicate"]["buildDefinition"];
        let source = &build["resolvedDependencies"][0];
        if source["annotations"]["modified"] != false {
            self.add(file, "it was made with changes that are in no commit");
        }
        let tools = &statement["predicate"]["runDetails"]["builder"]["version"];
        if build["externalParameters"]["command"].as_array().is_none_or(Vec::is_empty)
            || tools["rustc"].is_null()
        {
            self.add(file, "it does not tell the command and the tools that it was made by");
        }
        let commit = source["digest"]["gitCommit"].as_str().unwrap_or_default();
        if commit.len() != 40 || !commit.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            self.add(file, format!("{commit:?} is no commit"));
            return None;
        }
        Some(commit[..SHORT].to_owned())
    }

    /// Returns the program.
    #[expect(clippy::too_many_arguments, reason = "all of it is about one archive")]
    fn of_archive(
        &mut self,
        files: &Files,
        file: &str,
        content: &[u8],
        name: &str,
        platform: Platform,
        commit: &str,
        private: &[String],
    ) -> Option<Vec<u8>> {
        let members = self.keep(file, unpacked::archive(file, content))?;
        let of_node = (name == debian::NAME).then_some(LIBPCAP);
        let texts = TEXTS.into_iter().chain(of_node).map(str::to_owned);
        for expected in written_by(name).into_iter().chain(texts) {
            if members.get(&expected).is_none_or(|member| member.content.is_empty()) {
                self.add(file, format!("{expected} is not in it"));
            }
        }
        let own = platform.program(name);
        let Some(Member { mode, content: program }) = members.get(&own) else {
            self.add(file, format!("{own} is not in it"));
            return None;
        };
        if *mode != 0o755 {
            self.add(file, format!("{own} has the mode {mode:o}"));
        }
        for fault in programs::faults(name, platform, program, commit, private) {
            self.add(&format!("{file}: {own}"), fault);
        }
        let document = sbom::file_name(stem(file));
        match files.get(&document) {
            Some(content) => {
                let done = self.of_sbom(&document, content, program);
                self.keep(&document, done);
            }
            None => self.add(&document, "it is not there"),
        }
        Some(program.clone())
    }

    fn of_sbom(&mut self, file: &str, content: &[u8], program: &[u8]) -> Result<()> {
        let document: Value = serde_json::from_slice(content).context("it is no JSON")?;
        ensure!(document["bomFormat"] == "CycloneDX", "it is no CycloneDX document");
        if document["metadata"]["component"]["hashes"][0]["content"] != sha256(program) {
            self.add(file, "it is about another program: the digest is not that of the one in the archive");
        }
        self.of_crates(file, &document, program)
    }

    fn of_crates(&mut self, file: &str, document: &Value, program: &[u8]) -> Result<()> {
        let (told, inside) = (sbom::references(document), sbom::Parts::of(program)?.references());
        for name in inside.difference(&told) {
            self.add(file, format!("{name} is in the program, and the document does not name it"));
        }
        for name in told.difference(&inside) {
            self.add(file, format!("the document names {name}, which is not in the program"));
        }
        Ok(())
    }

    fn of_deb(&mut self, file: &str, package: &[u8], platform: Platform, program: &[u8]) -> Result<()> {
        let (control, data) = unpacked::deb(package)?;
        let text = |name: &str| {
            let member = control.get(name).with_context(|| format!("no {name} in it"))?;
            Ok::<_, anyhow::Error>(String::from_utf8_lossy(&member.content).into_owned())
        };
        let (fields, sums) = (text("control")?, text("md5sums")?);
        let field = |name: &str| {
            fields.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": ")).unwrap_or_default()
        };
        let depends = debian::depends(&Binary::read(program)?)?;
        for (name, expected) in
            [("Package", debian::NAME), ("Architecture", platform.architecture), ("Depends", &depends)]
        {
            if field(name) != expected {
                self.add(file, format!("{name} is {:?}, and should be {expected:?}", field(name)));
            }
        }
        if data.get("usr/bin/sniff").is_none_or(|member| member.content != program) {
            self.add(file, "its program is another than the archive's");
        }
        let expected: String =
            data.iter().map(|(path, member)| format!("{}  {path}\n", md5(&member.content))).collect();
        if sums != expected {
            self.add(file, "md5sums is not about what is in it");
        }
        let texts = [NOTICES, LIBPCAP].map(str::to_owned);
        let places = written_by(debian::NAME).into_iter().chain(texts);
        let places = places.filter_map(|path| debian::place(&path));
        for place in places.chain(["usr/share/doc/sniff/copyright".to_owned()]) {
            if !data.contains_key(&place) {
                self.add(file, format!("{place} is not in it"));
            }
        }
        Ok(())
    }

    fn of_image(
        &mut self,
        file: &str,
        content: &[u8],
        files: &Files,
        programs: &[(String, Platform, Vec<u8>)],
        asked: &Asked,
    ) -> Result<()> {
        let parts = parts(content)?;
        for platform in &asked.nodes {
            if !parts.iter().any(|part| part.platform == *platform) {
                self.add(file, format!("there is no image for {platform} in it"));
            }
        }
        for Part { platform, digest, program, packages } in parts {
            let packed = programs.iter().find(|(name, of, _)| name == debian::NAME && *of == platform);
            if packed.is_none_or(|(.., packed)| *packed != program) {
                self.add(file, format!("its program for {platform} is another than the archive's"));
            }
            let name = sbom::file_name(&format!("{}-{platform}", file.trim_end_matches(".tar")));
            let Some(document) = files.get(&name) else {
                self.add(&name, "it is not there");
                continue;
            };
            let document: Value = serde_json::from_slice(document).context("it is no JSON")?;
            if document["metadata"]["component"]["hashes"][0]["content"] != digest {
                self.add(&name, format!("it is about another image than {digest}"));
            }
            self.of_crates(&name, &document, &program)?;
            let told = sbom::packages(&document).len();
            if told != packages.len() {
                let in_it: Vec<_> = packages.into_iter().collect();
                self.add(
                    &name,
                    format!("it names {told} packages of Debian, and in the image are: {}", in_it.join(", ")),
                );
            }
        }
        Ok(())
    }

    fn of_manifest(&mut self, file: &str, name: &str, manifest: &[u8], files: &Files) -> Result<()> {
        let manifest: Value = serde_saphyr::from_slice(manifest).context("it is no YAML")?;
        let spec = &manifest["spec"];
        if manifest["metadata"]["name"] != name {
            self.add(file, format!("its plugin is called {}", manifest["metadata"]["name"]));
        }
        let description = spec["shortDescription"].as_str().unwrap_or_default();
        if description.is_empty() || description.chars().count() > LONGEST_DESCRIPTION {
            self.add(file, format!("its short description has {} characters", description.chars().count()));
        }
        let mut named = BTreeSet::new();
        for platform in spec["platforms"].as_array().into_iter().flatten() {
            let archive = platform["uri"].as_str().unwrap_or_default().rsplit('/').next().unwrap_or_default();
            let place = format!("{file}: {archive}");
            let Some(content) = files.get(archive) else {
                self.add(&place, "it is not there");
                continue;
            };
            if !named.insert(archive) {
                self.add(&place, "it is named twice");
            }
            if platform["sha256"] != sha256(content) {
                self.add(&place, "it has another digest");
            }
            let labels = &platform["selector"]["matchLabels"];
            let selected = format!(
                "{}-{}",
                labels["os"].as_str().unwrap_or_default(),
                labels["arch"].as_str().unwrap_or_default()
            );
            if program_of(archive).is_none_or(|(_, own)| own.to_string() != selected) {
                self.add(&place, format!("it is selected for {selected}"));
            }
            let bin = platform["bin"].as_str().unwrap_or_default();
            let members = unpacked::archive(archive, content).unwrap_or_default();
            let taken = install::taken_by_krew(&members, &platform["files"])?;
            for needed in [bin, "LICENSE-MIT", "LICENSE-APACHE"] {
                if !taken.contains_key(needed) {
                    self.add(&place, format!("krew finds no {needed} in it"));
                }
            }
        }
        let clients = files.keys().filter(|file| program_of(file).is_some_and(|(name, _)| name == CLIENT));
        for client in clients.filter(|client| !named.contains(client.as_str())) {
            self.add(file, format!("{client} is not named"));
        }
        Ok(())
    }
}

/// The program that is in an archive of this name, and its platform; `None` for what is no archive of a program.
fn program_of(file: &str) -> Option<(String, Platform)> {
    let stem = stem(file);
    if stem == file {
        return None;
    }
    let mut parts = stem.rsplitn(4, '-');
    let (architecture, os, _, name) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    Some((name.to_owned(), Platform::named(os, architecture)?))
}

/// The name of an archive of a program without its ending; as it is if that is none.
fn stem(file: &str) -> &str {
    file.strip_suffix(".tar.gz").or_else(|| file.strip_suffix(".zip")).unwrap_or(file)
}

/// A platform's part of an image.
#[derive(Debug)]
struct Part {
    platform: Platform,
    /// That of its manifest.
    digest: String,
    program: Vec<u8>,
    /// The packages of Debian that something is there of.
    packages: BTreeSet<String>,
}

/// What is in an image archive, if it holds together: every blob is what its name says, and everything leads from the
/// index to layers that are what their images say.
fn parts(archive: &[u8]) -> Result<Vec<Part>> {
    let members = unpacked::tar(archive)?;
    let index: Value = serde_json::from_slice(&member(&members, "index.json")?.content)?;
    ensure!(members.contains_key("oci-layout"), "there is no oci-layout in it");
    let mut reached = BTreeSet::new();
    let mut open: Vec<Value> = index["manifests"].as_array().cloned().unwrap_or_default();
    ensure!(!open.is_empty(), "there is no image in it");
    let mut parts = Vec::new();
    while let Some(descriptor) = open.pop() {
        let manifest: Value = serde_json::from_slice(blob(&members, &descriptor, &mut reached)?)?;
        if let Some(manifests) = manifest["manifests"].as_array() {
            open.extend(manifests.iter().cloned());
            continue;
        }
        let config: Value = serde_json::from_slice(blob(&members, &manifest["config"], &mut reached)?)?;
        let layers = manifest["layers"].as_array().map(Vec::as_slice).unwrap_or_default();
        let digests = config["rootfs"]["diff_ids"].as_array().map(Vec::as_slice).unwrap_or_default();
        ensure!(layers.len() == digests.len() && !layers.is_empty(), "not every layer has its digest");
        let mut all = Members::new();
        for (layer, digest) in layers.iter().zip(digests) {
            let layer = gunzip(blob(&members, layer, &mut reached)?)?;
            ensure!(*digest == format!("sha256:{}", sha256(&layer)), "a layer is not {digest}");
            all.extend(unpacked::tar(&layer)?);
        }
        let program = all.remove("usr/bin/sniff").context("there is no sniff in an image")?.content;
        let platform = Binary::read(&program)?.platform;
        if config["os"] != platform.os || config["architecture"] != platform.architecture {
            bail!("an image for {}-{} has a program for {platform}", config["os"], config["architecture"]);
        }
        for licence in ["LICENSE-APACHE", "LICENSE-GPL2", "LICENSE-MIT", NOTICES] {
            member(&all, &format!("{IMAGE_TEXTS}/{licence}"))?;
        }
        let texts = all.keys().filter_map(|path| path.strip_prefix("usr/share/doc/"));
        let packages = texts.filter_map(|path| path.strip_suffix("/copyright")).map(str::to_owned).collect();
        let digest =
            descriptor["digest"].as_str().unwrap_or_default().trim_start_matches("sha256:").to_owned();
        parts.push(Part { platform, digest, program, packages });
    }
    let blobs = members.keys().filter_map(|path| path.strip_prefix("blobs/sha256/"));
    for name in blobs {
        ensure!(reached.contains(name), "nothing leads to the blob {name}");
    }
    Ok(parts)
}

/// What a descriptor leads to; its digest is then among those reached.
fn blob<'a>(members: &'a Members, descriptor: &Value, reached: &mut BTreeSet<String>) -> Result<&'a [u8]> {
    let digest = descriptor["digest"].as_str().and_then(|digest| digest.strip_prefix("sha256:"));
    let digest = digest.with_context(|| format!("no digest in {descriptor}"))?;
    let Member { content, .. } = member(members, &format!("blobs/sha256/{digest}"))?;
    ensure!(sha256(content) == digest, "the blob {digest} is another");
    ensure!(descriptor["size"] == content.len(), "the blob {digest} has not the size of its descriptor");
    reached.insert(digest.to_owned());
    Ok(content)
}

fn member<'a>(members: &'a Members, path: &str) -> Result<&'a Member> {
    members.get(path).with_context(|| format!("there is no {path} in it"))
}

#[cfg(test)]
mod tests;
