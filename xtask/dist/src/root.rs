//! What an image needs beside sniff, and where that is: this machine's, or what another one's packages were unpacked to.

use std::{
    collections::{BTreeMap, VecDeque},
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};

use crate::{archive::gunzip, binary::Binary, copyright, libraries, sbom::SourcePackage};

/// Files of names that filters may use, as in `port http`.
const NAMES: [&str; 2] = ["etc/protocols", "etc/services"];
/// Where Debian's packages say whose they are.
const DOCUMENTS: &str = "usr/share/doc";
/// What their changelogs are called: Debian's own comes first, where there is another one.
const CHANGELOGS: [&str; 3] = ["changelog.Debian.gz", "changelog.gz", "changelog"];
const LICENCES: &str = "usr/share/common-licenses";

/// Files by their places in the image.
pub struct Root {
    /// Shared libraries and the loader.
    pub libraries: BTreeMap<String, PathBuf>,
    /// Names, and what is to be said of the copyright.
    pub texts: BTreeMap<String, PathBuf>,
}

impl Root {
    /// This machine's, with what `program` needs.
    ///
    /// # Errors
    /// A library is missing.
    pub fn here(program: &Path) -> Result<Self> {
        let (libraries, names) = (libraries::of(program)?, NAMES.map(|name| Path::new("/").join(name)));
        let texts = copyright::of(libraries.iter().chain(&names))?;
        let in_place = |path: PathBuf| (path.to_string_lossy().trim_start_matches('/').to_owned(), path);
        Ok(Self {
            libraries: libraries.into_iter().map(in_place).collect(),
            texts: names.into_iter().chain(texts).map(in_place).collect(),
        })
    }

    /// That of the Debian packages unpacked to `folder`, with what `program` needs and what all of them say of their
    /// copyright.
    ///
    /// # Errors
    /// A library is missing.
    pub fn unpacked(program: &Path, folder: &Path) -> Result<Self> {
        let mut libraries = BTreeMap::new();
        let mut wanted = VecDeque::from(needs(program)?);
        while let Some(name) = wanted.pop_front() {
            // The C library asks for the loader by name, the program by its path, and first.
            if libraries.keys().any(|place: &String| place.ends_with(&format!("/{name}"))) {
                continue;
            }
            let (place, file) = find(&name, folder)?;
            wanted.extend(needs(&file)?);
            libraries.insert(place, file);
        }
        let mut texts: BTreeMap<_, _> =
            NAMES.iter().map(|name| ((*name).to_owned(), folder.join(name))).collect();
        for package in list(&folder.join(DOCUMENTS))? {
            let text = package.join("copyright");
            if text.exists() {
                texts.insert(below(folder, &text), text);
            }
        }
        texts.extend(list(&folder.join(LICENCES))?.into_iter().map(|text| (below(folder, &text), text)));
        Ok(Self { libraries, texts })
    }
}

impl Root {
    /// The packages that say whose they are.
    pub fn packages(&self) -> impl Iterator<Item = &str> {
        self.texts
            .keys()
            .filter_map(|place| place.strip_prefix(DOCUMENTS)?.strip_prefix('/')?.strip_suffix("/copyright"))
    }
}

/// The source of a Debian package that was unpacked to `folder`, by its changelog.
///
/// # Errors
/// It has none in Debian's form.
pub fn source_package(folder: &Path, package: &str) -> Result<SourcePackage> {
    for name in CHANGELOGS {
        let Ok(content) = fs::read(folder.join(DOCUMENTS).join(package).join(name)) else { continue };
        let is_packed = name.ends_with(".gz");
        let text = if is_packed { gunzip(&content) } else { Ok(content) };
        let text = text.with_context(|| format!("{package}: {name}"))?;
        if let Some(source) = SourcePackage::of_changelog(&String::from_utf8_lossy(&text)) {
            return Ok(source);
        }
    }
    bail!("{}: {package} has no changelog that tells its version", folder.display())
}

fn needs(program: &Path) -> Result<Vec<String>> {
    let binary = fs::read(program).map_err(Into::into).and_then(|file| Binary::read(&file));
    Ok(binary.with_context(|| format!("cannot read {}", program.display()))?.libraries)
}

/// A library's place in the image, and its file below `folder`. A loader is asked for by its path, and looks for libraries
/// in the folder of its processor.
fn find(name: &str, folder: &Path) -> Result<(String, PathBuf)> {
    let is_path = name.starts_with('/');
    let mut places = vec![name.trim_start_matches('/').to_owned()];
    if is_path {
        // Packages have it where /lib, which is a link, leads to.
        places.push(format!("usr{name}"));
    } else {
        let processors = list(&folder.join("usr/lib"))?;
        let folders = processors.into_iter().filter(|path| path.to_string_lossy().ends_with("-linux-gnu"));
        places.extend(folders.map(|path| below(folder, &path.join(name))));
    }
    let Some(found) = places.iter().find(|place| folder.join(place).is_file()) else {
        bail!("no {name} in {}", folder.display());
    };
    let place = if is_path { &places[0] } else { found };
    Ok((place.clone(), folder.join(found)))
}

/// What is in a folder, in order.
fn list(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))?;
    let mut paths = entries.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
    paths.sort();
    Ok(paths)
}

fn below(folder: &Path, path: &Path) -> String {
    path.strip_prefix(folder).unwrap_or(path).to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{self, own_program as program};

    #[test]
    fn packages_unpacked_are_as_good_as_installed() {
        let folder = tempfile::tempdir().expect("a folder");
        testing::packages(folder.path(), &program());
        let [here, unpacked] = [Root::here(&program()), Root::unpacked(&program(), folder.path())]
            .map(|root| root.expect("a root").libraries);
        let names = |libraries: &BTreeMap<String, PathBuf>| {
            let name = |place: &String| Path::new(place).file_name().expect("a name").to_owned();
            libraries.keys().map(name).collect::<std::collections::BTreeSet<_>>()
        };
        assert_eq!(names(&here), names(&unpacked));
        let loader = here.keys().find(|place| place.contains("/ld-linux")).expect("a loader");
        assert!(unpacked.contains_key(loader), "{unpacked:?}");
        assert!(unpacked.values().all(|file| file.starts_with(folder.path())), "{unpacked:?}");
    }

    #[test]
    fn packages_bring_what_they_say_of_their_copyright_and_names() {
        let folder = tempfile::tempdir().expect("a folder");
        testing::packages(folder.path(), &program());
        let root = Root::unpacked(&program(), folder.path()).expect("a root");
        assert_eq!(
            root.texts.keys().collect::<Vec<_>>(),
            [
                "etc/protocols",
                "etc/services",
                "usr/share/common-licenses/GPL-2",
                "usr/share/doc/libc6/copyright",
                "usr/share/doc/libpcap/copyright",
            ]
        );
    }

    #[test]
    fn packages_tell_their_sources() {
        let folder = tempfile::tempdir().expect("a folder");
        testing::packages(folder.path(), &program());
        let root = Root::unpacked(&program(), folder.path()).expect("a root");
        let sources: Vec<_> = root
            .packages()
            .map(|name| source_package(folder.path(), name).expect("a source").reference())
            .collect();
        assert_eq!(
            sources,
            ["pkg:deb/debian/glibc@2.41-12?arch=source", "pkg:deb/debian/libpcap@1.10.5-2?arch=source"]
        );
        let error = source_package(folder.path(), "other").expect_err("no package").to_string();
        assert!(error.ends_with(": other has no changelog that tells its version"), "{error}");
    }

    #[test]
    fn a_library_that_no_package_has_is_named() {
        let folder = tempfile::tempdir().expect("a folder");
        testing::packages(folder.path(), &program());
        let root = Root::unpacked(&program(), folder.path()).expect("a root");
        let libc = root.libraries.iter().find(|(place, _)| place.ends_with("/libc.so.6")).expect("libc");
        fs::remove_file(libc.1).expect("a library");
        let error = Root::unpacked(&program(), folder.path()).err().expect("an error");
        assert!(error.to_string().starts_with("no libc.so.6 in "), "{error}");
    }
}
