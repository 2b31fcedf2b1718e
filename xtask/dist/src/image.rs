//! The image: sniff and what it needs, and nothing else, as an OCI image layout in a tar archive
//! (<https://github.com/opencontainers/image-spec/blob/main/image-layout.md>); for one platform, or for several with an
//! index of them.
//!
//! The libraries come with the distribution, and are copied as they are, loader included, with what the distribution says
//! of their copyright: a new image takes their security fixes along.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use crate::{
    archive::{Archive, Entry, folders, gzip, sha256},
    platform::Platform,
    root::Root,
};

const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

/// Nobody in particular. A capture needs root, which the DaemonSet asks for; nothing else does.
const USER: &str = "65532:65532";

/// How names are looked up: in files, and hosts by DNS too.
const NSSWITCH: &str = "hosts: files dns\nprotocols: files\nservices: files\n";
const PASSWD: &str = "root:x:0:0:root:/:/sbin/nologin\nnonroot:x:65532:65532:nonroot:/:/sbin/nologin\n";
const GROUP: &str = "root:x:0:\nnonroot:x:65532:\n";

/// A platform's part of an image.
pub struct Part {
    /// What it runs on.
    pub platform: Platform,
    /// The program.
    pub sniff: PathBuf,
    /// What else is in it.
    pub root: Root,
    /// What is to be said of the program, by places in the image.
    pub texts: Vec<Entry>,
}

impl Part {
    /// With what is on this machine, and for it.
    ///
    /// # Errors
    /// A library of the program is missing.
    pub fn here(sniff: &Path) -> Result<Self> {
        Ok(Self {
            platform: Platform::here()?,
            sniff: sniff.to_owned(),
            root: Root::here(sniff)?,
            texts: Vec::new(),
        })
    }
}

/// Writes the archive of the image called `name`, and says what it is.
///
/// # Errors
/// Something that belongs into it is not there, or it cannot be written.
pub fn write(sniff: &Path, output: &Path, name: &str) -> Result<String> {
    let Image { archive, digest, .. } = make(&[Part::here(sniff)?], name)?;
    fs::write(output, archive).with_context(|| format!("cannot write {}", output.display()))?;
    Ok(format!("{}: {name}@sha256:{digest}", output.display()))
}

/// An image, and the digest of its manifest or index, which is its name.
#[derive(PartialEq, Eq)]
pub struct Image {
    /// The archive.
    pub archive: Vec<u8>,
    /// SHA-256 in hexadecimal digits.
    pub digest: String,
    /// The same of the manifest of each platform.
    pub manifests: Vec<(Platform, String)>,
}

impl Image {
    /// The digest of a platform's manifest; `None` for one that it is not for.
    pub fn manifest_of(&self, platform: Platform) -> Option<&str> {
        self.manifests.iter().find(|(of, _)| *of == platform).map(|(_, digest)| digest.as_str())
    }
}

/// SHA-256 as a descriptor has it, in hexadecimal digits.
fn digest(descriptor: &Value) -> String {
    descriptor["digest"].as_str().unwrap_or_default().trim_start_matches("sha256:").to_owned()
}

/// Makes the image called `name`.
///
/// # Errors
/// Something that belongs into it is not there.
pub fn make<'a>(parts: impl IntoIterator<Item = &'a Part>, name: &str) -> Result<Image> {
    let mut blobs = Blobs(BTreeMap::new());
    let (mut manifests, mut told) = (Vec::new(), Vec::new());
    for part in parts {
        let manifest = manifest(part, &mut blobs)?;
        told.push((part.platform, digest(&manifest)));
        manifests.push(manifest);
    }
    // A name leads to one thing: for several platforms, to an index of them.
    let mut named =
        if manifests.len() == 1 { manifests.remove(0) } else { blobs.add(INDEX, &index(manifests)) };
    let digest = digest(&named);
    let tag = name.rsplit_once(':').map_or("latest", |(_, tag)| tag);
    named["annotations"] =
        json!({ "io.containerd.image.name": name, "org.opencontainers.image.ref.name": tag });

    let mut archive = Archive::new();
    archive.file("oci-layout", 0o644, br#"{"imageLayoutVersion":"1.0.0"}"#)?;
    archive.file("index.json", 0o644, index(vec![named]).to_string().as_bytes())?;
    for folder in ["blobs", "blobs/sha256"] {
        archive.folder(folder, 0o755)?;
    }
    for (digest, blob) in blobs.0 {
        archive.file(&format!("blobs/sha256/{digest}"), 0o644, &blob)?;
    }
    Ok(Image { archive: archive.finish()?, digest, manifests: told })
}

/// What an image consists of, by digests.
struct Blobs(BTreeMap<String, Vec<u8>>);

impl Blobs {
    /// Adds one, and returns its descriptor.
    fn add(&mut self, kind: &str, content: &Value) -> Value {
        self.add_bytes(kind, content.to_string().into_bytes())
    }

    fn add_bytes(&mut self, kind: &str, content: Vec<u8>) -> Value {
        let digest = sha256(&content);
        let descriptor =
            json!({ "mediaType": kind, "digest": format!("sha256:{digest}"), "size": content.len() });
        self.0.insert(digest, content);
        descriptor
    }
}

fn index(manifests: Vec<Value>) -> Value {
    json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": manifests })
}

/// Adds a part's blobs, and returns the descriptor of its manifest.
fn manifest(part: &Part, blobs: &mut Blobs) -> Result<Value> {
    let layer = layer(part)?;
    let config = blobs.add(CONFIG, &config(part.platform, &sha256(&layer)));
    let layer = blobs.add_bytes(LAYER, gzip(&layer)?);
    let manifest = json!({ "schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": [layer] });
    let mut descriptor = blobs.add(MANIFEST, &manifest);
    let Platform { os, architecture } = part.platform;
    descriptor["platform"] = json!({ "os": os, "architecture": architecture });
    Ok(descriptor)
}

/// The root file system.
fn layer(Part { sniff, root, texts, .. }: &Part) -> Result<Vec<u8>> {
    let mut files = vec![("usr/bin/sniff", 0o755, sniff)];
    files.extend(root.libraries.iter().map(|(place, file)| (place.as_str(), 0o755, file)));
    files.extend(root.texts.iter().map(|(place, file)| (place.as_str(), 0o644, file)));
    let places = files.iter().map(|(path, ..)| *path).chain(texts.iter().map(|(path, ..)| path.as_str()));
    // What is mounted over, and sniff's own state. Kubernetes mounts a token below /var/run, which must not lead to /run,
    // where the node's is mounted read-only.
    let empty = ["etc", "run", "tmp", "var/lib/sniff", "var/run"];

    let mut layer = Archive::new();
    for folder in folders(places, &empty).into_iter().filter(|folder| !folder.as_os_str().is_empty()) {
        let mode = if folder == Path::new("tmp") { 0o1777 } else { 0o755 };
        layer.folder(&folder.to_string_lossy(), mode)?;
    }
    for (path, content) in [("etc/group", GROUP), ("etc/nsswitch.conf", NSSWITCH), ("etc/passwd", PASSWD)] {
        layer.file(path, 0o644, content.as_bytes())?;
    }
    for (path, mode, from) in &files {
        layer.copy(path, *mode, from)?;
    }
    for (path, mode, content) in texts {
        layer.file(path, *mode, content)?;
    }
    layer.finish()
}

fn config(Platform { os, architecture }: Platform, diff_id: &str) -> Value {
    json!({
        // The same for the same content.
        "created": "1970-01-01T00:00:00Z",
        "architecture": architecture,
        "os": os,
        "config": {
            "Entrypoint": ["/usr/bin/sniff"],
            "Env": ["PATH=/usr/bin"],
            "User": USER,
            "WorkingDir": "/",
            "Labels": {
                "org.opencontainers.image.title": "sniff",
                "org.opencontainers.image.description": "eBPF packet capture for Kubernetes pods",
                "org.opencontainers.image.version": env!("CARGO_PKG_VERSION"),
                // sniff, and the classifier in it.
                "org.opencontainers.image.licenses": "(MIT OR Apache-2.0) AND (MIT OR GPL-2.0-only)",
            },
        },
        "rootfs": { "type": "layers", "diff_ids": [format!("sha256:{diff_id}")] },
        "history": [{ "created": "1970-01-01T00:00:00Z", "created_by": "cargo xtask image" }],
    })
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;
    use crate::testing::own_program as program;

    fn entries(archive: &[u8]) -> BTreeMap<String, Vec<u8>> {
        let mut archive = tar::Archive::new(archive);
        let read = |entry: Result<tar::Entry<'_, _>, _>| {
            let mut entry: tar::Entry<'_, &[u8]> = entry.expect("an entry");
            let mut content = Vec::new();
            entry.read_to_end(&mut content).expect("its content");
            (entry.path().expect("its path").to_string_lossy().into_owned(), content)
        };
        archive.entries().expect("entries").map(read).collect()
    }

    fn part() -> Part {
        Part::here(&program()).expect("a part")
    }

    /// What a descriptor leads to.
    fn blob<'a>(entries: &'a BTreeMap<String, Vec<u8>>, descriptor: &Value) -> &'a [u8] {
        let digest = descriptor["digest"].as_str().expect("a digest").trim_start_matches("sha256:");
        let blob = &entries[&format!("blobs/sha256/{digest}")];
        assert_eq!(sha256(blob), digest);
        assert_eq!(descriptor["size"], blob.len());
        blob
    }

    fn json(entries: &BTreeMap<String, Vec<u8>>, descriptor: &Value) -> Value {
        serde_json::from_slice(blob(entries, descriptor)).expect("JSON")
    }

    #[test]
    fn the_same_program_makes_the_same_image() {
        let [first, second] = [(), ()].map(|()| make(&[part()], "localhost/sniff:1").expect("an image"));
        assert_eq!(first.digest, second.digest);
        assert!(first == second);
    }

    #[test]
    fn every_blob_is_what_its_name_says_and_everything_is_found_from_the_index() {
        let Image { archive, digest, .. } = make(&[part()], "localhost/sniff:1").expect("an image");
        let entries = entries(&archive);
        let index: Value = serde_json::from_slice(&entries["index.json"]).expect("JSON");
        assert_eq!(index["manifests"][0]["digest"], format!("sha256:{digest}"));
        let manifest = json(&entries, &index["manifests"][0]);
        let config = json(&entries, &manifest["config"]);
        let mut layer = Vec::new();
        flate2::read::GzDecoder::new(blob(&entries, &manifest["layers"][0]))
            .read_to_end(&mut layer)
            .expect("gzip");
        assert_eq!(config["rootfs"]["diff_ids"][0], format!("sha256:{}", sha256(&layer)));
    }

    #[test]
    fn an_image_for_several_platforms_is_an_index_of_one_for_each() {
        let architectures = ["amd64", "arm64"];
        let parts = architectures
            .map(|architecture| Part { platform: Platform { os: "linux", architecture }, ..part() });
        let Image { archive, digest, .. } = make(&parts, "localhost/sniff:1").expect("an image");
        let entries = entries(&archive);
        let outer: Value = serde_json::from_slice(&entries["index.json"]).expect("JSON");
        let [named] = outer["manifests"].as_array().expect("a list").as_slice() else { panic!("{outer}") };
        assert_eq!(named["mediaType"], INDEX);
        assert_eq!(named["digest"], format!("sha256:{digest}"));
        assert_eq!(named["annotations"]["io.containerd.image.name"], "localhost/sniff:1");
        assert_eq!(named["annotations"]["org.opencontainers.image.ref.name"], "1");
        let inner = json(&entries, named);
        assert_eq!(inner["mediaType"], INDEX);
        let manifests = inner["manifests"].as_array().expect("a list");
        assert_eq!(manifests.len(), architectures.len());
        for (descriptor, architecture) in manifests.iter().zip(architectures) {
            assert_eq!(descriptor["platform"], json!({ "os": "linux", "architecture": architecture }));
            let manifest = json(&entries, descriptor);
            assert_eq!(manifest["mediaType"], MANIFEST);
            let config = json(&entries, &manifest["config"]);
            assert_eq!([&config["os"], &config["architecture"]], ["linux", architecture]);
            assert!(!blob(&entries, &manifest["layers"][0]).is_empty());
        }
    }

    #[test]
    fn the_root_has_the_program_its_libraries_and_their_folders() {
        let layer = layer(&part()).expect("a layer");
        let entries = entries(&layer);
        assert_eq!(entries["usr/bin/sniff"], fs::read(program()).expect("the program"));
        assert!(entries.keys().any(|path| path.contains("/libc.so")), "{:?}", entries.keys());
        for path in entries.keys().map(|path| Path::new(path.trim_end_matches('/'))) {
            let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
            let is_there = |parent: &Path| entries.contains_key(&format!("{}/", parent.display()));
            assert!(parent.is_none_or(is_there), "{} has no folder", path.display());
        }
    }

    #[test]
    fn the_root_has_the_copyright_files_of_debians_packages() {
        let entries = entries(&layer(&part()).expect("a layer"));
        let text = |path: &str| entries.get(path).map(|text| String::from_utf8_lossy(text).into_owned());
        let is_debian = Path::new("/var/lib/dpkg/status").exists();
        let libc = text("usr/share/doc/libc6/copyright");
        assert_eq!(libc.is_some_and(|text| text.contains("/usr/share/common-licenses/LGPL-2.1")), is_debian);
        assert_eq!(text("usr/share/common-licenses/LGPL-2.1").is_some(), is_debian);
    }
}
