//! What programs are made of, as CycloneDX documents (<https://cyclonedx.org/docs/1.6/json/>). They are read from the
//! programs themselves, in which cargo-auditable leaves the names and versions of the crates that went into them.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, Result};
use auditable_serde::{DependencyKind, Package, Source, VersionInfo};
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::{archive::sha256, crates::Crates};

/// More than the list of any program takes.
const LIMIT: usize = 8 << 20;
/// The crate of the kernel side: built before the program and put into it, for which reason cargo takes it for a tool.
const KERNEL_SIDE: &str = "sniff-ebpf";

/// What documents call Rust's library, which no list in a program names.
const RUST: &str = "rust";
/// What they call the program.
const PROGRAM: &str = "program";
/// How the names of Debian's packages begin in them.
const DEBIAN: &str = "pkg:deb/debian/";

/// What the file is called of a document about what is in an archive whose name begins so.
pub fn file_name(stem: &str) -> String {
    format!("{stem}.cdx.json")
}

/// The crates that a program was built from.
pub struct Parts(VersionInfo);

impl Parts {
    /// Reads them from a program.
    ///
    /// # Errors
    /// It was built without cargo-auditable, or the list is broken.
    pub fn of(program: &[u8]) -> Result<Self> {
        let list = auditable_info::audit_info_from_slice(program, LIMIT);
        Ok(Self(list.context("no list of its crates is in it")?))
    }

    /// What a document about the program must name: all but the crate that is the program.
    pub fn references(&self) -> BTreeSet<String> {
        self.0.packages.iter().filter(|package| !package.root).map(reference).collect()
    }

    /// Where in the list those are that are in the program. The others are tools that built it.
    fn inside(&self) -> BTreeSet<usize> {
        let packages = &self.0.packages;
        let those =
            |wanted: fn(&Package) -> bool| (0..packages.len()).filter(move |&at| wanted(&packages[at]));
        let mut inside: BTreeSet<usize> = those(|package| package.kind == DependencyKind::Runtime).collect();
        let mut open: Vec<usize> = those(|package| package.name == KERNEL_SIDE).collect();
        while let Some(at) = open.pop() {
            if inside.insert(at) {
                open.extend(&packages[at].dependencies);
            }
        }
        inside
    }

    /// The licences of all that is in the program but the project's own, each text once, with the crates that it is of.
    ///
    /// # Errors
    /// A crate's source cannot be read.
    pub fn notices(&self, crates: &Crates) -> Result<String> {
        let mut of_text: BTreeMap<String, Vec<String>> = BTreeMap::new();
        let mut list =
            String::from("sniff is made of these crates, too, under the licences that follow.\n\n");
        let packages = self.inside().into_iter().map(|at| &self.0.packages[at]);
        for Package { name, version, .. } in packages.filter(|package| !is_own(package)) {
            let one = crates.get(name, &version.to_string())?;
            list += &format!("{name} {version}: {}\n", one.licence.as_deref().unwrap_or("see below"));
            for (file, text) in one.notices()? {
                of_text.entry(text).or_default().push(format!("{name} {version}: {file}"));
            }
        }
        let mut texts: Vec<_> = of_text.into_iter().map(|(text, files)| (files, text)).collect();
        texts.sort();
        for (files, text) in texts {
            list += &format!("\n{}\n{}\n\n{}\n", "=".repeat(80), files.join("\n"), text.trim_end());
        }
        Ok(list)
    }
}

fn is_own(package: &Package) -> bool {
    package.source == Source::Local
}

/// What a crate is called in a document.
fn reference(Package { name, version, source, .. }: &Package) -> String {
    match source {
        Source::Local => format!("{name}@{version}"),
        _ => format!("pkg:cargo/{name}@{version}"),
    }
}

/// What a document tells of a program that is not in the program.
pub struct About<'a> {
    /// The program's name.
    pub name: &'a str,
    /// Its version.
    pub version: &'a str,
    /// What it runs on.
    pub platform: String,
    /// When it was made, in seconds since 1970.
    pub date: u64,
    /// The version of Rust, whose library is in it.
    pub rust: &'a str,
}

/// A source package of Debian, of which something is in a program or in an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourcePackage {
    /// Its name.
    pub name: String,
    /// Its version, with Debian's part.
    pub version: String,
}

impl SourcePackage {
    /// The one that a changelog in Debian's form is about: `libpcap (1.10.5-2) unstable; urgency=medium`.
    pub fn of_changelog(changelog: &str) -> Option<Self> {
        let (name, rest) = changelog.split_once(" (")?;
        let (version, _) = rest.split_once(") ")?;
        let is_word = |text: &str| !text.is_empty() && !text.contains(char::is_whitespace);
        (is_word(name) && is_word(version))
            .then(|| Self { name: name.to_owned(), version: version.to_owned() })
    }

    /// What it is called in a document.
    pub fn reference(&self) -> String {
        format!("{DEBIAN}{}@{}?arch=source", self.name, self.version)
    }

    fn component(&self) -> Value {
        json!({
            "type": "library",
            "bom-ref": self.reference(),
            "name": self.name,
            "version": self.version,
            "scope": "required",
            "purl": self.reference(),
        })
    }
}

/// The document of a program, in which there is something of these packages, too.
///
/// # Errors
/// It was built without cargo-auditable, or cargo does not know a crate of it.
pub fn of_program(about: &About, program: &[u8], linked: &[SourcePackage], crates: &Crates) -> Result<Value> {
    let Made { program, components, dependencies } = made(about, program, linked, crates)?;
    document(&program, about.date, &components, &dependencies)
}

/// The document of an image for one platform, by the digest of its manifest: with a program, in which there is something of
/// the packages that are `linked`, and files of others.
///
/// # Errors
/// As for [`of_program`].
pub fn of_image(
    about: &About,
    digest: &str,
    program: &[u8],
    linked: &[SourcePackage],
    packages: &[SourcePackage],
    crates: &Crates,
) -> Result<Value> {
    let Made { program, mut components, mut dependencies } = made(about, program, linked, crates)?;
    let known = |package: &&SourcePackage| !linked.contains(package);
    components.extend(packages.iter().filter(known).map(SourcePackage::component));
    let parts: Vec<_> =
        [PROGRAM.to_owned()].into_iter().chain(packages.iter().map(SourcePackage::reference)).collect();
    dependencies.push(json!({ "ref": "image", "dependsOn": parts }));
    components.push(program);
    let image = json!({
        "type": "container",
        "bom-ref": "image",
        "name": about.name,
        "version": about.version,
        "hashes": [{ "alg": "SHA-256", "content": digest }],
        "properties": [{ "name": "sniff:platform", "value": about.platform }],
    });
    document(&image, about.date, &components, &dependencies)
}

/// A program, what is in it, and what of that needs what.
struct Made {
    program: Value,
    components: Vec<Value>,
    dependencies: Vec<Value>,
}

fn made(about: &About, program: &[u8], linked: &[SourcePackage], crates: &Crates) -> Result<Made> {
    let parts = Parts::of(program)?;
    let inside = parts.inside();
    let packages = &parts.0.packages;
    let (mut components, mut dependencies) = (Vec::new(), Vec::new());
    let mut whole = json!({
        "type": "application",
        "bom-ref": PROGRAM,
        "name": about.name,
        "version": about.version,
        "hashes": [{ "alg": "SHA-256", "content": sha256(program) }],
        "properties": [{ "name": "sniff:platform", "value": about.platform }],
    });
    for (at, package) in packages.iter().enumerate() {
        let version = package.version.to_string();
        let known = crates.get(&package.name, &version)?;
        let reference = if package.root { PROGRAM.to_owned() } else { reference(package) };
        let mut depends: Vec<_> =
            package.dependencies.iter().map(|&at| self::reference(&packages[at])).collect();
        if package.root {
            depends.push(RUST.to_owned());
            depends.extend(linked.iter().map(SourcePackage::reference));
        }
        dependencies.push(json!({ "ref": reference, "dependsOn": depends }));
        if package.root {
            license(&mut whole, known.licence.as_deref());
            continue;
        }
        let mut component = json!({
            "type": "library",
            "bom-ref": reference,
            "name": package.name,
            "version": version,
            // What only built it is excluded from what runs.
            "scope": if inside.contains(&at) { "required" } else { "excluded" },
        });
        license(&mut component, known.licence.as_deref());
        if !is_own(package) {
            component["purl"] = reference.into();
        }
        if let Some(checksum) = &known.checksum {
            component["hashes"] = json!([{ "alg": "SHA-256", "content": checksum }]);
        }
        components.push(component);
    }
    let mut library = json!({
        "type": "library",
        "bom-ref": RUST,
        "name": "The Rust Standard Library",
        "version": about.rust,
        "scope": "required",
    });
    license(&mut library, Some("MIT OR Apache-2.0"));
    components.push(library);
    components.extend(linked.iter().map(SourcePackage::component));
    Ok(Made { program: whole, components, dependencies })
}

fn license(component: &mut Value, expression: Option<&str>) {
    if let Some(expression) = expression {
        component["licenses"] = json!([{ "expression": expression }]);
    }
}

/// A document about a component. Its number is made of what is in it: the same for the same.
///
/// # Errors
/// The date is none.
pub fn document(whole: &Value, date: u64, components: &[Value], dependencies: &[Value]) -> Result<Value> {
    let mut document = json!({
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {
            "timestamp": Timestamp::from_second(i64::try_from(date)?)?.to_string(),
            "component": whole,
        },
        "components": components,
        "dependencies": dependencies,
    });
    document["serialNumber"] = format!("urn:uuid:{}", uuid(document.to_string().as_bytes())).into();
    Ok(document)
}

/// A UUID of the version that is left to whoever makes it, 8: of a digest.
fn uuid(content: &[u8]) -> String {
    let digits = sha256(content);
    // The bits that tell the variant of a UUID are in its ninth byte.
    let ninth = u8::from_str_radix(&digits[16..18], 16).unwrap_or_default() & 0x3f | 0x80;
    format!(
        "{}-{}-8{}-{ninth:02x}{}-{}",
        &digits[..8],
        &digits[8..12],
        &digits[13..16],
        &digits[18..20],
        &digits[20..32]
    )
}

/// The crates that a document names, as [`Parts::references`] has them.
pub fn references(document: &Value) -> BTreeSet<String> {
    all_references(document)
        .filter(|name| ![RUST, PROGRAM].contains(name) && !name.starts_with(DEBIAN))
        .map(str::to_owned)
        .collect()
}

/// The packages of Debian that a document names, as [`SourcePackage::reference`] does.
pub fn packages(document: &Value) -> BTreeSet<String> {
    all_references(document).filter(|name| name.starts_with(DEBIAN)).map(str::to_owned).collect()
}

fn all_references(document: &Value) -> impl Iterator<Item = &str> {
    let components = document["components"].as_array().into_iter().flatten();
    components.filter_map(|component| component["bom-ref"].as_str())
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use super::*;
    use crate::testing;

    const ABOUT: About = About {
        name: "sniff",
        version: "1.2.3",
        platform: String::new(),
        date: 1_700_000_000,
        rust: "1.95.0",
    };
    /// A program of one crate and the kernel side, with a tool that built it and one that built that.
    const LIST: &str = r#"{"packages":[
        {"name":"aya-ebpf","version":"0.2.1","source":"crates.io","kind":"build"},
        {"name":"aya-build","version":"0.2.0","source":"crates.io","kind":"build"},
        {"name":"itoa","version":"1.0.19","source":"crates.io"},
        {"name":"sniff-ebpf","version":"1.2.3","source":"local","kind":"build","dependencies":[0]},
        {"name":"sniff-user","version":"1.2.3","source":"local","dependencies":[1,2,3],"root":true}
    ]}"#;

    fn crates(folder: &Path) -> Crates {
        let ids = [
            ("aya-ebpf", "0.2.1"),
            ("aya-build", "0.2.0"),
            ("itoa", "1.0.19"),
            ("sniff-ebpf", "1.2.3"),
            ("sniff-user", "1.2.3"),
        ];
        Crates::made_up(&ids, "MIT", folder)
    }

    fn program(folder: &Path, list: Option<&str>) -> Vec<u8> {
        testing::program(folder, "sniff", list, &[]);
        fs::read(folder.join("sniff")).expect("a program")
    }

    #[test]
    fn a_document_names_all_that_a_program_was_built_from() {
        let folder = tempfile::tempdir().expect("a folder");
        let program = program(folder.path(), Some(LIST));
        let document = of_program(&ABOUT, &program, &[], &crates(folder.path())).expect("a document");
        let scopes: Vec<_> = document["components"]
            .as_array()
            .expect("components")
            .iter()
            .map(|part| (part["bom-ref"].as_str().expect("a name"), part["scope"].as_str().expect("a scope")))
            .collect();
        assert_eq!(
            scopes,
            [
                ("pkg:cargo/aya-ebpf@0.2.1", "required"),
                ("pkg:cargo/aya-build@0.2.0", "excluded"),
                ("pkg:cargo/itoa@1.0.19", "required"),
                ("sniff-ebpf@1.2.3", "required"),
                ("rust", "required"),
            ]
        );
        let itoa = &document["components"][2];
        assert_eq!(itoa["purl"], "pkg:cargo/itoa@1.0.19");
        assert_eq!(itoa["licenses"][0]["expression"], "MIT");
        assert_eq!(itoa["hashes"][0]["content"], "c0ffee");
        assert_eq!(document["components"][3]["purl"], Value::Null);
        let whole = &document["metadata"]["component"];
        assert_eq!(whole["hashes"][0]["content"], sha256(&program));
        assert_eq!(document["metadata"]["timestamp"], "2023-11-14T22:13:20Z");
        let of_program = &document["dependencies"][4];
        assert_eq!(of_program["ref"], whole["bom-ref"]);
        assert_eq!(of_program["dependsOn"][1], "pkg:cargo/itoa@1.0.19");
        assert_eq!(references(&document), Parts::of(&program).expect("parts").references());
    }

    fn source_package(name: &str, version: &str) -> SourcePackage {
        SourcePackage { name: name.to_owned(), version: version.to_owned() }
    }

    #[test]
    fn a_source_package_is_known_by_its_changelog() {
        let of = |text: &str| SourcePackage::of_changelog(text).map(|package| package.reference());
        let libpcap = of("libpcap (1.10.5-2) unstable; urgency=medium\n\n  * Mended (again)\n");
        assert_eq!(libpcap.as_deref(), Some("pkg:deb/debian/libpcap@1.10.5-2?arch=source"));
        for other in ["", "# Changelog\n", "a release (1.0) was made", "libpcap (1.0"] {
            assert_eq!(of(other), None, "{other}");
        }
    }

    #[test]
    fn a_document_names_what_is_linked_and_what_is_beside_a_program_in_an_image() {
        let folder = tempfile::tempdir().expect("a folder");
        let (program, crates) = (program(folder.path(), Some(LIST)), crates(folder.path()));
        let (libpcap, glibc) = (source_package("libpcap", "1.10.5-2"), source_package("glibc", "2.41-12"));
        let linked = [libpcap.clone()];
        let names = |packages: &[&SourcePackage]| {
            packages.iter().map(|package| package.reference()).collect::<BTreeSet<_>>()
        };
        let alone = of_program(&ABOUT, &program, &linked, &crates).expect("a document");
        assert_eq!(packages(&alone), names(&[&libpcap]));
        let beside = [libpcap.clone(), glibc.clone()];
        let image = of_image(&ABOUT, "d1", &program, &linked, &beside, &crates).expect("a document");
        assert_eq!(packages(&image), names(&[&libpcap, &glibc]));
        assert_eq!(references(&image), Parts::of(&program).expect("parts").references());
        assert_eq!(image["metadata"]["component"]["hashes"][0]["content"], "d1");
        let all: Vec<_> = all_references(&image).collect();
        assert_eq!(all.len(), all.iter().collect::<BTreeSet<_>>().len(), "{all:?}");
        for needed in image["dependencies"].as_array().expect("them").iter().flat_map(|one| {
            one["dependsOn"].as_array().expect("names").iter().filter_map(Value::as_str).collect::<Vec<_>>()
        }) {
            assert!(all.contains(&needed), "{needed}");
        }
    }

    #[test]
    fn a_document_and_its_number_are_the_same_for_the_same_program() {
        let folder = tempfile::tempdir().expect("a folder");
        let crates = crates(folder.path());
        let make = |list: &str| {
            let program = program(folder.path(), Some(list));
            of_program(&ABOUT, &program, &[], &crates).expect("a document")
        };
        let (first, second) = (make(LIST), make(&LIST.replace(",3],", "],")));
        assert_eq!(first, make(LIST));
        assert_ne!(first["serialNumber"], second["serialNumber"]);
        let number = first["serialNumber"].as_str().expect("a number");
        let groups: Vec<_> = number.trim_start_matches("urn:uuid:").split('-').map(str::len).collect();
        assert_eq!(groups, [8, 4, 4, 4, 12], "{number}");
    }

    #[test]
    fn the_licences_of_what_is_inside_are_told_once_each() {
        let folder = tempfile::tempdir().expect("a folder");
        fs::write(folder.path().join("LICENSE-MIT"), "You may.\n").expect("a licence");
        let parts = Parts::of(&program(folder.path(), Some(LIST))).expect("parts");
        let notices = parts.notices(&crates(folder.path())).expect("notices");
        assert_eq!(notices.matches("You may.").count(), 1, "{notices}");
        assert!(
            notices.contains("\naya-ebpf 0.2.1: LICENSE-MIT\nitoa 1.0.19: LICENSE-MIT\n\nYou may."),
            "{notices}"
        );
        assert!(!notices.contains("aya-build") && !notices.contains("sniff-user"), "{notices}");
    }

    #[test]
    fn a_program_without_a_list_is_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        let error = Parts::of(&program(folder.path(), None)).err().expect("no list").to_string();
        assert_eq!(error, "no list of its crates is in it");
    }
}
