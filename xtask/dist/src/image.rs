//! The image: sniff and what it needs, and nothing else, as an OCI image layout in a tar archive
//! (<https://github.com/opencontainers/image-spec/blob/main/image-layout.md>).
//!
//! libpcap comes with the distribution, and so do the libraries that it is linked against (D-Bus among them): they are
//! copied as they are, loader included, and what the distribution says of their copyright. A static program would need a
//! libpcap of our own making, with nobody but us to mend it; these are the very files that the tests ran with, and a new
//! image takes their security fixes along.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use crate::{
    archive::{Archive, gzip, sha256},
    copyright, libraries,
};

/// Nobody in particular. A capture needs root, which the DaemonSet asks for; nothing else does.
const USER: &str = "65532:65532";

/// How names are looked up: in files, and hosts by DNS too.
const NSSWITCH: &str = "hosts: files dns\nprotocols: files\nservices: files\n";
const PASSWD: &str = "root:x:0:0:root:/:/sbin/nologin\nnonroot:x:65532:65532:nonroot:/:/sbin/nologin\n";
const GROUP: &str = "root:x:0:\nnonroot:x:65532:\n";

/// Files of names that filters may use, as in `port http`.
const NAMES: [&str; 2] = ["/etc/protocols", "/etc/services"];

/// Writes the archive of the image called `name`, and says what it is.
///
/// # Errors
/// Something that belongs into it is not there, or it cannot be written.
pub fn write(sniff: &Path, output: &Path, name: &str) -> Result<String> {
    let Image { archive, digest } = make(sniff, name)?;
    fs::write(output, archive).with_context(|| format!("cannot write {}", output.display()))?;
    Ok(format!("{}: {name}@sha256:{digest}", output.display()))
}

/// An image, and the digest of its manifest, which is its name.
#[derive(PartialEq, Eq)]
struct Image {
    archive: Vec<u8>,
    digest: String,
}

fn make(sniff: &Path, name: &str) -> Result<Image> {
    let layer = layer(sniff)?;
    let packed = gzip(&layer)?;
    let config = config(&sha256(&layer)).to_string().into_bytes();
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": descriptor("application/vnd.oci.image.config.v1+json", &config),
        "layers": [descriptor("application/vnd.oci.image.layer.v1.tar+gzip", &packed)],
    });
    let manifest = manifest.to_string().into_bytes();
    let mut named = descriptor("application/vnd.oci.image.manifest.v1+json", &manifest);
    let tag = name.rsplit_once(':').map_or("latest", |(_, tag)| tag);
    named["annotations"] =
        json!({ "io.containerd.image.name": name, "org.opencontainers.image.ref.name": tag });
    let index = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [named],
    });

    let mut archive = Archive::new();
    archive.file("oci-layout", 0o644, br#"{"imageLayoutVersion":"1.0.0"}"#)?;
    archive.file("index.json", 0o644, index.to_string().as_bytes())?;
    for folder in ["blobs", "blobs/sha256"] {
        archive.folder(folder, 0o755)?;
    }
    for blob in [&config, &manifest, &packed] {
        archive.file(&format!("blobs/sha256/{}", sha256(blob)), 0o644, blob)?;
    }
    Ok(Image { archive: archive.finish()?, digest: sha256(&manifest) })
}

/// The root file system.
fn layer(sniff: &Path) -> Result<Vec<u8>> {
    let (libraries, names) = (libraries::of(sniff)?, NAMES.map(PathBuf::from));
    let texts = copyright::of(libraries.iter().chain(&names))?;
    let mut files = vec![("usr/bin/sniff".to_owned(), 0o755, sniff.to_owned())];
    let same_place =
        |mode, path: PathBuf| (path.to_string_lossy().trim_start_matches('/').to_owned(), mode, path);
    files.extend(libraries.into_iter().map(|path| same_place(0o755, path)));
    files.extend(names.into_iter().chain(texts).map(|path| same_place(0o644, path)));
    let mut folders: Vec<&Path> =
        files.iter().flat_map(|(path, ..)| Path::new(path).ancestors().skip(1)).collect();
    // What is mounted over, and sniff's own state. Kubernetes mounts a token below /var/run, which must not lead to /run,
    // where the node's is mounted read-only.
    folders.extend(["run", "tmp", "var/lib", "var/lib/sniff", "var/run", "var", "etc"].map(Path::new));
    folders.retain(|folder| !folder.as_os_str().is_empty());
    folders.sort();
    folders.dedup();

    let mut layer = Archive::new();
    for folder in folders {
        let mode = if folder == Path::new("tmp") { 0o1777 } else { 0o755 };
        layer.folder(&folder.to_string_lossy(), mode)?;
    }
    for (path, content) in [("etc/group", GROUP), ("etc/nsswitch.conf", NSSWITCH), ("etc/passwd", PASSWD)] {
        layer.file(path, 0o644, content.as_bytes())?;
    }
    for (path, mode, from) in &files {
        layer.copy(path, *mode, from)?;
    }
    layer.finish()
}

fn config(diff_id: &str) -> Value {
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    json!({
        // The same for the same content.
        "created": "1970-01-01T00:00:00Z",
        "architecture": architecture,
        "os": "linux",
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

fn descriptor(kind: &str, content: &[u8]) -> Value {
    json!({ "mediaType": kind, "digest": format!("sha256:{}", sha256(content)), "size": content.len() })
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, io::Read as _};

    use super::*;

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

    /// The tests' own program: dynamically linked, as sniff is.
    fn program() -> PathBuf {
        std::env::current_exe().expect("this program")
    }

    #[test]
    fn the_same_program_makes_the_same_image() {
        let [first, second] = [(), ()].map(|()| make(&program(), "localhost/sniff:1").expect("an image"));
        assert_eq!(first.digest, second.digest);
        assert!(first == second);
    }

    #[test]
    fn every_blob_is_what_its_name_says_and_everything_is_found_from_the_index() {
        let Image { archive, digest } = make(&program(), "localhost/sniff:1").expect("an image");
        let entries = entries(&archive);
        let blob = |descriptor: &Value| {
            let digest = descriptor["digest"].as_str().expect("a digest").trim_start_matches("sha256:");
            let blob = &entries[&format!("blobs/sha256/{digest}")];
            assert_eq!(sha256(blob), digest);
            assert_eq!(descriptor["size"], blob.len());
            blob
        };
        let index: Value = serde_json::from_slice(&entries["index.json"]).expect("JSON");
        assert_eq!(index["manifests"][0]["digest"], format!("sha256:{digest}"));
        let manifest: Value = serde_json::from_slice(blob(&index["manifests"][0])).expect("JSON");
        let config: Value = serde_json::from_slice(blob(&manifest["config"])).expect("JSON");
        let mut layer = Vec::new();
        flate2::read::GzDecoder::new(&blob(&manifest["layers"][0])[..])
            .read_to_end(&mut layer)
            .expect("gzip");
        assert_eq!(config["rootfs"]["diff_ids"][0], format!("sha256:{}", sha256(&layer)));
    }

    #[test]
    fn the_root_has_the_program_its_libraries_and_their_folders() {
        let layer = layer(&program()).expect("a layer");
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
        let entries = entries(&layer(&program()).expect("a layer"));
        let text = |path: &str| entries.get(path).map(|text| String::from_utf8_lossy(text).into_owned());
        let is_debian = Path::new("/var/lib/dpkg/status").exists();
        let libc = text("usr/share/doc/libc6/copyright");
        assert_eq!(libc.is_some_and(|text| text.contains("/usr/share/common-licenses/LGPL-2.1")), is_debian);
        assert_eq!(text("usr/share/common-licenses/LGPL-2.1").is_some(), is_debian);
    }
}
