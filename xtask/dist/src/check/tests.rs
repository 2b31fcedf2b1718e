//! A small release that is as it should be, and what is found where something of it is not.

use std::sync::LazyLock;

use serde_json::json;

use super::*;
use crate::{
    archive::{self, Archive},
    image,
    release::{self, IMAGE, Programs, VERSION},
    testing::{self, LIST, origin, project},
};

/// The files of a release of two programs for this machine.
fn release() -> Files {
    static RELEASE: LazyLock<Files> = LazyLock::new(|| {
        let folder = tempfile::tempdir().expect("a folder");
        testing::program(folder.path(), "sniff", Some(LIST), &[]);
        testing::program(folder.path(), CLIENT, Some(LIST), &["-static"]);
        let clients = vec![(here(), folder.path().join(CLIENT))];
        let (sniff, root) = (folder.path().join("sniff"), folder.path().join("root"));
        testing::packages(&root, &sniff);
        let programs = Programs { nodes: vec![(sniff, root)], clients };
        let output = folder.path().join("dist");
        release::write(&programs, &origin(), &output, &project()).expect("a release");
        unpacked::folder(&output).expect("its files")
    });
    RELEASE.clone()
}

fn here() -> Platform {
    Platform::here().expect("a platform")
}

fn asked() -> Asked {
    Asked { nodes: vec![here()], clients: vec![here()], private: Vec::new() }
}

fn client() -> String {
    format!("{CLIENT}-{VERSION}-{}.tar.gz", here())
}

fn node(ending: &str) -> String {
    format!("sniff-{VERSION}-{}{ending}", here())
}

fn package() -> String {
    debian::file_name(VERSION, here())
}

fn image() -> String {
    format!("{IMAGE}-{VERSION}.tar")
}

fn faults(files: &Files) -> Vec<String> {
    let mut faults = Faults::default();
    faults.of_release(files, &asked());
    faults.0
}

/// Has the statement and the sums tell what is there, as whoever changed something would.
fn told_anew(files: &mut Files) {
    let statement = format!("sniff-{VERSION}{PROVENANCE}");
    let others: Vec<_> = files
        .iter()
        .filter(|(name, _)| **name != statement && *name != SUMS)
        .map(|(name, content)| (name.clone(), content.clone()))
        .collect();
    let told = crate::provenance::statement(&origin().build, &origin().url, 1, &others);
    files.insert(statement, told.to_string().into_bytes());
    summed_anew(files);
}

fn summed_anew(files: &mut Files) {
    files.remove(SUMS);
    let sums: String = files.iter().map(|(name, content)| format!("{}  {name}\n", sha256(content))).collect();
    files.insert(SUMS.to_owned(), sums.into_bytes());
}

/// What is found when a file is another, and all that names it knows.
#[track_caller]
fn assert_found(file: &str, change: impl FnOnce(&mut Vec<u8>), expected: &[&str]) {
    let mut files = release();
    change(files.get_mut(file).expect(file));
    told_anew(&mut files);
    let found = faults(&files);
    for expected in expected {
        assert!(found.iter().any(|fault| fault.contains(expected)), "{expected}: {found:#?}");
    }
    assert_eq!(found.len(), expected.len(), "{found:#?}");
}

/// The same for what is in an archive, whose digest in the manifests is then another, too.
#[track_caller]
fn assert_found_inside(file: &str, change: impl FnOnce(&mut Members), expected: &[&str]) {
    let change = |content: &mut Vec<u8>| {
        let mut members = unpacked::archive(file, content).expect("an archive");
        change(&mut members);
        *content = packed(&members);
    };
    let manifests = krew::NAMES.map(|name| format!("{}: {file}: it has another digest", krew::path(name)));
    let of_client = file.starts_with(CLIENT);
    let named = manifests.iter().map(String::as_str).filter(|_| of_client);
    let expected: Vec<_> = expected.iter().copied().chain(named).collect();
    assert_found(file, change, &expected);
}

fn packed(members: &Members) -> Vec<u8> {
    let entries: Vec<_> =
        members.iter().map(|(path, member)| (path.clone(), member.mode, member.content.clone())).collect();
    archive::tar_gz(&entries).expect("an archive")
}

fn replaced(content: &mut Vec<u8>, old: &str, new: &str) {
    let text = String::from_utf8(content.clone()).expect("text");
    assert!(text.contains(old), "{text}");
    *content = text.replace(old, new).into_bytes();
}

#[test]
fn a_release_is_as_it_should_be_and_is_installed() {
    let files = release();
    assert_eq!(faults(&files), [""; 0]);
    let folder = tempfile::tempdir().expect("a folder");
    for (name, content) in &files {
        let path = folder.path().join(name);
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("it made");
        std::fs::write(path, content).expect("a file");
    }
    let said = check(folder.path(), &asked()).expect("no faults");
    std::fs::write(folder.path().join("more"), "").expect("a file");
    let error = check(folder.path(), &asked()).expect_err("a fault").to_string();
    assert!(error.contains("\nmore: SHA256SUMS does not name it\n"), "{error}");
    assert!(error.contains(said.split_once('\n').expect("lines").1.trim_end()), "{error}");
    for (place, done) in [
        ("docs/install.md, The client on Linux", format!("{CLIENT} {VERSION} (0123456789ab)")),
        ("plugins/sniff.yaml", format!("{CLIENT} {VERSION} (0123456789ab)")),
        ("docs/install.md, In a cluster", "not tried: it takes a cluster".to_owned()),
    ] {
        assert!(said.contains(&format!("{place}: {done}")), "{said}");
    }
}

#[test]
fn what_is_damaged_added_or_missing_is_found() {
    let mut files = release();
    files.get_mut(&package()).expect("a package").push(0);
    files.remove(&client());
    files.insert("more".to_owned(), Vec::new());
    let found = faults(&files);
    for expected in [
        format!("{}: it has not the digest in SHA256SUMS", package()),
        format!("{}: it has not the digest in sniff-{VERSION}{PROVENANCE}", package()),
        format!("{}: SHA256SUMS names it, and it is not there", client()),
        format!("{}: sniff-{VERSION}{PROVENANCE} names it, and it is not there", client()),
        "more: SHA256SUMS does not name it".to_owned(),
        format!("more: sniff-{VERSION}{PROVENANCE} does not name it"),
        format!("plugins/sniff.yaml: {}: it is not there", client()),
    ] {
        assert!(found.contains(&expected), "{expected}: {found:#?}");
    }
}

#[test]
fn what_is_no_release_is_found() {
    let found = faults(&Files::new());
    for expected in [
        "SHA256SUMS: it is not there",
        "provenance: there must be one statement, and there are 0",
        &format!("release: there is no sniff for {}", here()),
        &format!("release: there is no kubectl-sniff for {}", here()),
        "release: there is no image",
        "release: there is no sniff.yaml",
        "plugins/sniff.yaml: it is not there",
        "plugins/sniff-pods.yaml: it is not there",
    ] {
        assert!(found.iter().any(|fault| fault == expected), "{expected}: {found:#?}");
    }
    let folder = tempfile::tempdir().expect("a folder");
    let error = check(folder.path(), &asked()).expect_err("faults").to_string();
    assert_eq!(error.lines().count(), 1 + found.len(), "{error}");
}

#[test]
fn the_chart_is_the_releases_and_makes_what_the_manifest_has() {
    let chart = cluster::chart_file();
    let change = |path: &'static str, old: &'static str, new: &'static str| {
        move |members: &mut Members| {
            replaced(&mut members.get_mut(path).expect(path).content, old, new);
        }
    };
    let is = format!("release: {chart}: version is \"9.9.9\"");
    assert_found_inside(&chart, change("sniff/Chart.yaml", "\nversion: 0.1.0", "\nversion: 9.9.9"), &[&is]);
    let is = format!("release: {chart}: sniff/files/base/daemonset.yaml is not what sniff.yaml has");
    let path = "sniff/files/base/daemonset.yaml";
    assert_found_inside(&chart, change(path, "hostPID: true", "hostPID: false"), &[&is]);
}

#[test]
fn an_archive_lacks_nothing() {
    for member in
        ["LICENSE-MIT", NOTICES, "docs/install.md", "completions/_kubectl-sniff", "man/man1/kubectl-sniff.1"]
    {
        let mut expected = vec![format!("{}: {member} is not in it", client())];
        if member == "LICENSE-MIT" {
            let of =
                |name: &&str| format!("{}: {}: krew finds no LICENSE-MIT in it", krew::path(name), client());
            expected.extend(krew::NAMES.iter().map(of));
        }
        let expected: Vec<_> = expected.iter().map(String::as_str).collect();
        assert_found_inside(&client(), |members| drop(members.remove(member)), &expected);
    }
    assert_found(
        &node(".tar.gz"),
        |content| content.truncate(100),
        &[&node(".tar.gz"), "there is no sniff for", "another than the archive's"],
    );
}

#[test]
fn a_program_can_be_run_and_is_the_one_that_the_documents_are_about() {
    let mode = |members: &mut Members| members.get_mut("sniff").expect("it").mode = 0o644;
    assert_found_inside(&node(".tar.gz"), mode, &["sniff has the mode 644"]);
    let other = |members: &mut Members| {
        members.get_mut("sniff").expect("it").content.push(0);
    };
    assert_found_inside(
        &node(".tar.gz"),
        other,
        &[
            "it is about another program",
            &format!("{}: its program is another than the archive's", package()),
            &format!("{}: its program for {} is another than the archive's", image(), here()),
        ],
    );
}

#[test]
fn a_document_names_just_what_is_in_the_program() {
    let add = |content: &mut Vec<u8>| {
        let mut document: Value = serde_json::from_slice(content).expect("JSON");
        document["components"][0]["bom-ref"] = "pkg:cargo/evil@1.0.0".into();
        *content = document.to_string().into_bytes();
    };
    let found = ["the document names pkg:cargo/evil@1.0.0, which is not in the program"];
    assert_found(&node(".cdx.json"), add, &found);
    assert_found(&node(".cdx.json"), Vec::clear, &["it is no JSON"]);
    let mut files = release();
    files.remove(&node(".cdx.json"));
    told_anew(&mut files);
    assert_eq!(faults(&files), [format!("{}: it is not there", node(".cdx.json"))]);
}

#[test]
fn a_package_is_about_the_program_in_the_archive() {
    let mut files = release();
    files.remove(&package());
    told_anew(&mut files);
    assert_eq!(faults(&files), [format!("release: there is no Debian package of sniff for {}", here())]);

    let (control, data) = unpacked::deb(&release()[&package()]).expect("a package");
    let with = |control: &Members, data: &Members| {
        let mut package = ar::Builder::new(Vec::new());
        for (name, members) in [("control.tar.gz", control), ("data.tar.gz", data)] {
            let content = packed(members);
            let header = ar::Header::new(name.into(), content.len() as u64);
            package.append(&header, &content[..]).expect("a member");
        }
        package.into_inner().expect("a package")
    };
    let mut other = control.clone();
    replaced(&mut other.get_mut("control").expect("it").content, "Depends: libc6", "Depends: libc7");
    assert_found(&package(), |content| *content = with(&other, &data), &["Depends is \"libc7"]);
    let mut other = data.clone();
    other.remove("usr/share/man/man1/sniff.1.gz");
    let found = ["md5sums is not about what is in it", "usr/share/man/man1/sniff.1.gz is not in it"];
    assert_found(&package(), |content| *content = with(&control, &other), &found);
    assert_found(&package(), |content| *content = b"!<arch>\n".to_vec(), &["no control.tar.gz in it"]);
}

#[test]
fn a_manifest_leads_to_what_krew_installs() {
    let manifest = krew::path("sniff");
    for (old, new, expected) in [
        ("sha256: ", "sha256: 0", "it has another digest"),
        ("      bin: kubectl-sniff", "      bin: sniff", "krew finds no sniff in it"),
        ("          os: linux", "          os: darwin", "it is selected for darwin-"),
        ("  name: sniff", "  name: ksniff", "its plugin is called \"ksniff\""),
        (
            "shortDescription: ",
            "shortDescription: A text that is longer ",
            "its short description has 59 characters",
        ),
    ] {
        assert_found(&manifest, |content| replaced(content, old, new), &[expected]);
    }
    let elsewhere = format!("/kubectl-sniff-9-{}.tar.gz", here());
    let old = format!("/{}", client());
    let found = [&elsewhere[1..], &format!("{} is not named", client())];
    assert_found(&manifest, |content| replaced(content, &old, &elsewhere), &found);
}

#[test]
fn a_statement_tells_what_was_built_and_by_what() {
    let statement = format!("sniff-{VERSION}{PROVENANCE}");
    let found = |field: &str, value: Value| {
        let mut files = release();
        let mut told: Value = serde_json::from_slice(&files[&statement]).expect("JSON");
        *told.pointer_mut(field).expect(field) = value;
        files.insert(statement.clone(), told.to_string().into_bytes());
        summed_anew(&mut files);
        faults(&files)
    };
    let source = "/predicate/buildDefinition/resolvedDependencies/0";
    assert_eq!(
        found(&format!("{source}/annotations/modified"), json!(true)),
        [format!("{statement}: it was made with changes that are in no commit")]
    );
    assert_eq!(
        found("/predicate/runDetails/builder/version", json!({})),
        [format!("{statement}: it does not tell the command and the tools that it was made by")]
    );
    assert_eq!(found("/_type", json!("https://in-toto.io/Statement/v0.1")).len(), 1);
    assert_eq!(
        found(&format!("{source}/digest/gitCommit"), json!("main")),
        [format!("{statement}: \"main\" is no commit")]
    );
    let other = found(&format!("{source}/digest/gitCommit"), json!("f".repeat(40)));
    assert_eq!(other.len(), 2, "{other:#?}");
    assert!(
        other.iter().all(|fault| fault.ends_with("it does not tell the commit ffffffffffff")),
        "{other:#?}"
    );
}

#[test]
fn an_image_holds_together() {
    let image = release()[&image()].clone();
    parts(&image).expect("it holds together");
    let folder = tempfile::tempdir().expect("a folder");
    testing::program(folder.path(), "sniff", None, &[]);
    let bare = image::Part::here(&folder.path().join("sniff")).expect("a part");
    let bare = image::make(&[bare], "localhost/sniff:1").expect("an image").archive;
    let unlicensed = parts(&bare).expect_err("no licences").to_string();
    assert_eq!(unlicensed, "there is no usr/share/doc/sniff/LICENSE-APACHE in it");
    let mut faults = Faults::default();
    let elsewhere = Platform { os: "linux", architecture: "other" };
    let asked = Asked { nodes: vec![elsewhere], ..asked() };
    faults.of_release(&release(), &asked);
    assert!(
        faults.0.contains(&format!("{}: there is no image for {elsewhere} in it", self::image())),
        "{:#?}",
        faults.0
    );
    let members = unpacked::tar(&image).expect("an archive");
    let with = |change: &dyn Fn(&str, &mut Vec<u8>)| {
        let mut archive = Archive::new();
        for (path, member) in &members {
            let mut content = member.content.clone();
            change(path, &mut content);
            archive.file(path, 0o644, &content).expect("a file");
        }
        archive.file("blobs/sha256/more", 0o644, b"more").expect("a file");
        parts(&archive.finish().expect("an archive")).expect_err("a fault").to_string()
    };
    assert_eq!(with(&|_, _| {}), "nothing leads to the blob more");
    for part in [&b"\x1f\x8b"[..], b"{\"architecture\"", b"{\"config\""] {
        let damage = |_: &str, content: &mut Vec<u8>| {
            if content.starts_with(part) {
                content.push(b' ');
            }
        };
        let fault = with(&damage);
        assert!(fault.starts_with("the blob ") && fault.ends_with(" is another"), "{fault}");
    }
    let unindexed = with(&|path, content| {
        if path == "index.json" {
            *content = b"{}".to_vec();
        }
    });
    assert_eq!(unindexed, "there is no image in it");
}

#[test]
fn a_document_about_an_image_names_its_packages() {
    let file = sbom::file_name(&format!("{IMAGE}-{VERSION}-{}", here()));
    let without = |content: &mut Vec<u8>| {
        let mut document: Value = serde_json::from_slice(content).expect("JSON");
        let components = document["components"].as_array_mut().expect("components");
        components.retain(|component| component["name"] != "glibc");
        document["metadata"]["component"]["hashes"][0]["content"] = "0".into();
        *content = document.to_string().into_bytes();
    };
    let found = [
        "it is about another image than ",
        "it names 1 packages of Debian, and in the image are: libc6, libpcap",
    ];
    assert_found(&file, without, &found);
    let mut files = release();
    files.remove(&file);
    told_anew(&mut files);
    assert_eq!(faults(&files), [format!("{file}: it is not there")]);
}
