//! A Debian package of `sniff`, for nodes that are in no cluster (<https://manpages.debian.org/deb.5>).

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, bail};
use jiff::{Timestamp, fmt::rfc2822, tz::TimeZone};

use crate::{
    archive::{Archive, Entry, folders, gzip, gzip_best, md5},
    binary::Binary,
    platform::Platform,
    release::LIBPCAP,
};

/// What the package is called.
pub const NAME: &str = "sniff";
/// Debian's own number behind the version: what is packed is the release of that version.
const REVISION: u32 = 1;

/// What of it is in no program.
pub struct Release<'a> {
    /// The version of sniff.
    pub version: &'a str,
    /// Who answers for the package: a name, and an address of mail in angle brackets.
    pub maintainer: &'a str,
    /// Where sniff is to be found.
    pub homepage: &'a str,
    /// When it was made, in seconds since 1970.
    pub date: u64,
}

/// What the package's file is called.
pub fn file_name(version: &str, platform: Platform) -> String {
    format!("{NAME}_{version}-{REVISION}_{}.deb", platform.architecture)
}

/// The package's bytes.
///
/// `documents` are the program's completions and manual pages, and `texts` those of the project, as in an archive.
///
/// # Errors
/// The program is none for Linux, or needs a library that no package is known for.
pub fn package(release: &Release, program: &[u8], documents: &[Entry], texts: &[Entry]) -> Result<Vec<u8>> {
    let binary = Binary::read(program)?;
    let mut files = BTreeMap::from([("usr/bin/sniff".to_owned(), (0o755, program.to_vec()))]);
    for (path, mode, content) in documents.iter().chain(texts) {
        if let Some(place) = place(path) {
            let content = if place.ends_with(".gz") { gzip_best(content)? } else { content.clone() };
            files.insert(place, (*mode, content));
        }
    }
    let doc = |name: &str| format!("usr/share/doc/{NAME}/{name}");
    files.insert(doc("copyright"), (0o644, copyright(release, texts)?.into_bytes()));
    files.insert(doc("changelog.Debian.gz"), (0o644, gzip_best(changelog(release)?.as_bytes())?));

    let data = data(&files, release.date)?;
    let size: usize = files.values().map(|(_, content)| content.len().div_ceil(1024)).sum();
    let control = control_archive(&control(release, &binary, size)?, &files, release.date)?;
    let mut package = ar::Builder::new(Vec::new());
    for (name, content) in
        [("debian-binary", &b"2.0\n"[..]), ("control.tar.gz", &control), ("data.tar.gz", &data)]
    {
        let mut header = ar::Header::new(name.into(), content.len() as u64);
        header.set_mode(0o100_644);
        header.set_mtime(release.date);
        package.append(&header, content)?;
    }
    Ok(package.into_inner()?)
}

/// Where Debian has a file of the archive; nowhere for sniff's licences, which are in the file on copyright.
pub fn place(path: &str) -> Option<String> {
    let name = path.rsplit('/').next().unwrap_or(path);
    if path.starts_with("LICENSE-") && path != LIBPCAP {
        return None;
    }
    Some(match path.strip_prefix("completions/") {
        Some(_) if name.starts_with('_') => format!("usr/share/zsh/vendor-completions/{name}"),
        Some(_) if name.ends_with(".fish") => format!("usr/share/fish/vendor_completions.d/{name}"),
        Some(_) => format!("usr/share/bash-completion/completions/{name}"),
        None if path.starts_with("man/") => format!("usr/share/{path}.gz"),
        None if path == "CHANGELOG.md" => format!("usr/share/doc/{NAME}/changelog.gz"),
        None => format!("usr/share/doc/{NAME}/{path}"),
    })
}

type Files = BTreeMap<String, (u32, Vec<u8>)>;

fn data(files: &Files, date: u64) -> Result<Vec<u8>> {
    let mut data = Archive::dated(date);
    for folder in folders(files.keys().map(String::as_str), &[]) {
        let folder = folder.to_string_lossy();
        data.folder(if folder.is_empty() { "." } else { &folder }, 0o755)?;
    }
    for (path, (mode, content)) in files {
        data.file(path, *mode, content)?;
    }
    gzip(&data.finish()?)
}

fn control_archive(control: &str, files: &Files, date: u64) -> Result<Vec<u8>> {
    let sums: String =
        files.iter().map(|(path, (_, content))| format!("{}  {path}\n", md5(content))).collect();
    let mut archive = Archive::dated(date);
    archive.folder(".", 0o755)?;
    archive.file("control", 0o644, control.as_bytes())?;
    archive.file("md5sums", 0o644, sums.as_bytes())?;
    gzip(&archive.finish()?)
}

fn control(release: &Release, binary: &Binary, size: usize) -> Result<String> {
    let Release { version, maintainer, homepage, .. } = release;
    let depends = depends(binary)?;
    let depends = if depends.is_empty() { String::new() } else { format!("Depends: {depends}\n") };
    Ok(format!(
        "Package: {NAME}
Version: {version}-{REVISION}
Architecture: {}
Maintainer: {maintainer}
Installed-Size: {size}
{depends}Section: net
Priority: optional
Homepage: {homepage}
Description: eBPF packet capture for Kubernetes pods
 sniff captures the packets of pods, containers and processes of a node, with
 nothing put into them. It filters in the kernel, in libpcap's language, and
 writes pcapng, or packets as lines.
",
        binary.platform.architecture
    ))
}

/// What a program needs of Debian: the packages of its libraries, no older than the symbols that it asks for.
///
/// # Errors
/// It needs a library that no package is known for.
pub fn depends(binary: &Binary) -> Result<String> {
    let mut packages: BTreeMap<&str, Option<Vec<u32>>> = BTreeMap::new();
    for library in &binary.libraries {
        packages.entry(package_of(library)?).or_default();
    }
    for (library, version) in &binary.versions {
        let least = packages.entry(package_of(library)?).or_default();
        *least = number(version)?.max(least.take());
    }
    let names = packages.into_iter().map(|(name, least)| match least {
        Some(least) => {
            let least: Vec<String> = least.iter().map(u32::to_string).collect();
            format!("{name} (>= {})", least.join("."))
        }
        None => name.to_owned(),
    });
    Ok(names.collect::<Vec<_>>().join(", "))
}

/// The Debian package of a library: the same from the oldest release that sniff runs on to the newest.
///
/// # Errors
/// It is none that sniff may need.
pub fn package_of(library: &str) -> Result<&'static str> {
    Ok(match library.rsplit('/').next().unwrap_or(library) {
        "libc.so.6" | "libm.so.6" | "libdl.so.2" | "libpthread.so.0" | "librt.so.1" => "libc6",
        loader if loader.starts_with("ld-linux-") => "libc6",
        "libgcc_s.so.1" => "libgcc-s1",
        // Also what Debian 13 calls libpcap0.8t64 provides.
        "libpcap.so.0.8" => "libpcap0.8",
        _ => bail!("no Debian package is known for {library}"),
    })
}

/// The number of a version of symbols, as in `GLIBC_2.34`.
fn number(version: &str) -> Result<Option<Vec<u32>>> {
    // What relative relocations take came with this one.
    if version == "GLIBC_ABI_DT_RELR" {
        return Ok(Some(vec![2, 36]));
    }
    let Some((_, number)) = version.split_once('_') else { return Ok(None) };
    let parts: Result<_, _> = number.split('.').map(str::parse).collect();
    parts.map(Some).with_context(|| format!("{version} is no version of a library's symbols"))
}

/// In the form of <https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/>.
fn copyright(release: &Release, texts: &[Entry]) -> Result<String> {
    let text = |name: &str| {
        let found = texts.iter().find(|(path, ..)| path == name).with_context(|| format!("no {name}"))?;
        Ok::<_, anyhow::Error>(String::from_utf8_lossy(&found.2).into_owned())
    };
    let mit = text("LICENSE-MIT")?;
    let holder = mit.lines().find_map(|line| line.strip_prefix("Copyright (c) "));
    let holder = holder.context("LICENSE-MIT names nobody")?;
    let (_, mit) = mit.split_once(holder).unwrap_or_default();
    Ok(format!(
        "Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/
Upstream-Name: sniff
Source: {}
Comment: libpcap is in usr/bin/sniff; {LIBPCAP} is about that.

Files: *
Copyright: {holder}
License: Expat or Apache-2.0

Files: sniff-ebpf/*
Copyright: {holder}
License: Expat or GPL-2

License: Expat
{}
License: Apache-2.0
 On Debian systems, the text of the Apache License, version 2.0, is in
 /usr/share/common-licenses/Apache-2.0.

License: GPL-2
 On Debian systems, the text of the GNU General Public License, version 2, is in
 /usr/share/common-licenses/GPL-2.
",
        release.homepage,
        indented(mit.trim())
    ))
}

/// As the text of a field: behind a blank, and empty lines as a dot.
fn indented(text: &str) -> String {
    let line = |line: &str| if line.trim().is_empty() { " .\n".to_owned() } else { format!(" {line}\n") };
    text.lines().map(line).collect()
}

fn changelog(Release { version, maintainer, date, .. }: &Release) -> Result<String> {
    let date = Timestamp::from_second(i64::try_from(*date)?)?.to_zoned(TimeZone::UTC);
    Ok(format!(
        "{NAME} ({version}-{REVISION}) unstable; urgency=medium\n\n  * Release {version}: what is new is in \
         changelog.gz.\n\n -- {maintainer}  {}\n",
        rfc2822::to_string(&date)?
    ))
}

#[cfg(test)]
mod tests {
    use std::{io::Read as _, path::Path, sync::LazyLock};

    use flate2::read::GzDecoder;

    use super::*;
    use crate::testing;

    const RELEASE: Release = Release {
        version: "1.2.3",
        maintainer: "Ann <ann@example.com>",
        homepage: "https://example.com/sniff",
        date: 1_700_000_000,
    };

    /// One of this machine's platform, linked against its C library.
    fn program() -> Vec<u8> {
        static PROGRAM: LazyLock<Vec<u8>> = LazyLock::new(|| {
            let folder = tempfile::tempdir().expect("a folder");
            testing::program(folder.path(), NAME, None, &[]);
            std::fs::read(folder.path().join(NAME)).expect("a program")
        });
        PROGRAM.clone()
    }

    fn entry(path: &str, content: &str) -> Entry {
        (path.to_owned(), 0o644, content.as_bytes().to_vec())
    }

    fn made() -> Vec<u8> {
        let documents = [
            entry("completions/sniff", "bash"),
            entry("completions/_sniff", "zsh"),
            entry("completions/sniff.fish", "fish"),
            entry("man/man1/sniff.1", "page"),
        ];
        let texts = [
            entry("CHANGELOG.md", "# Changelog\n"),
            entry("LICENSE-MIT", "MIT License\n\nCopyright (c) 2026 somebody\n\nPermission\n\nAS IS\n"),
            entry("docs/cli.md", "cli"),
            entry(LIBPCAP, "whose"),
        ];
        package(&RELEASE, &program(), &documents, &texts).expect("a package")
    }

    /// A member of the package: what is in it, by path.
    fn member(package: &[u8], name: &str) -> BTreeMap<String, (u64, u64, Vec<u8>)> {
        let mut package = ar::Archive::new(package);
        while let Some(member) = package.next_entry() {
            let member = member.expect("a member");
            if member.header().identifier() != name.as_bytes() {
                continue;
            }
            let mut archive = tar::Archive::new(GzDecoder::new(member));
            let entry = |entry: Result<tar::Entry<'_, _>, _>| {
                let mut entry: tar::Entry<'_, GzDecoder<ar::Entry<'_, &[u8]>>> = entry.expect("an entry");
                let path = entry.path().expect("a path").to_string_lossy().into_owned();
                let header = entry.header();
                let (owner, time) = (header.uid().expect("an owner"), header.mtime().expect("a time"));
                let mut content = Vec::new();
                entry.read_to_end(&mut content).expect("its content");
                (path, (owner, time, content))
            };
            return archive.entries().expect("entries").map(entry).collect();
        }
        panic!("no {name}");
    }

    #[test]
    fn a_package_has_everything_in_debians_places() {
        let package = made();
        let data = member(&package, "data.tar.gz");
        let unpacked = |path: &str| {
            let mut text = String::new();
            GzDecoder::new(&data[path].2[..]).read_to_string(&mut text).expect("gzip");
            text
        };
        assert_eq!(data["usr/bin/sniff"].2, program());
        assert_eq!(unpacked("usr/share/man/man1/sniff.1.gz"), "page");
        assert_eq!(data["usr/share/bash-completion/completions/sniff"].2, b"bash");
        assert_eq!(data["usr/share/zsh/vendor-completions/_sniff"].2, b"zsh");
        assert_eq!(data["usr/share/fish/vendor_completions.d/sniff.fish"].2, b"fish");
        assert_eq!(data["usr/share/doc/sniff/docs/cli.md"].2, b"cli");
        assert_eq!(data["usr/share/doc/sniff/LICENSE-libpcap"].2, b"whose");
        assert!(!data.contains_key("usr/share/doc/sniff/LICENSE-MIT"));
        assert_eq!(unpacked("usr/share/doc/sniff/changelog.gz"), "# Changelog\n");
        let changelog = unpacked("usr/share/doc/sniff/changelog.Debian.gz");
        assert!(changelog.starts_with("sniff (1.2.3-1) unstable; "), "{changelog}");
        let trailer = "\n -- Ann <ann@example.com>  Tue, 14 Nov 2023 22:13:20 +0000\n";
        assert!(changelog.ends_with(trailer), "{changelog}");
        let copyright = String::from_utf8_lossy(&data["usr/share/doc/sniff/copyright"].2).into_owned();
        assert!(
            copyright.contains("\nCopyright: 2026 somebody\nLicense: Expat or Apache-2.0\n"),
            "{copyright}"
        );
        assert!(copyright.contains("\nLicense: Expat\n Permission\n .\n AS IS\n\n"), "{copyright}");
        assert!(data.values().all(|(owner, time, _)| *owner == 0 && *time == RELEASE.date));
        // Each folder is there, and before what is in it.
        for path in data.keys() {
            for folder in Path::new(path).ancestors().skip(1).filter(|folder| !folder.as_os_str().is_empty())
            {
                assert!(data.contains_key(&format!("{}/", folder.display())), "{}", folder.display());
            }
        }
    }

    #[test]
    fn the_control_file_says_what_the_package_is_and_needs() {
        let package = made();
        let control = member(&package, "control.tar.gz");
        let text = |name: &str| String::from_utf8_lossy(&control[name].2).into_owned();
        let fields = text("control");
        let architecture = Platform::here().expect("a platform").architecture;
        assert!(fields.contains(&format!(
            "Package: sniff\nVersion: 1.2.3-1\nArchitecture: {architecture}\nMaintainer: Ann <ann@example.com>\n"
        )));
        assert!(fields.contains("\nDepends: libc6 (>= 2."), "{fields}");
        let data = member(&package, "data.tar.gz");
        let sums = text("md5sums");
        assert_eq!(sums.lines().count(), data.keys().filter(|path| !path.ends_with('/')).count());
        assert!(
            sums.contains("\n0898b22730d57afcd394d8e4889ece4a  usr/share/doc/sniff/docs/cli.md\n"),
            "{sums}"
        );
    }

    #[test]
    fn a_package_is_the_same_each_time() {
        assert!(made() == made());
    }

    fn needing(libraries: &[&str], versions: &[(&str, &str)]) -> Result<String> {
        let owned = |text: &&str| (*text).to_owned();
        depends(&Binary {
            platform: Platform { os: "linux", architecture: "arm64" },
            libraries: libraries.iter().map(owned).collect(),
            versions: versions.iter().map(|(library, version)| (owned(library), owned(version))).collect(),
            oldest: None,
            stripped: true,
        })
    }

    #[test]
    fn it_depends_on_the_packages_of_its_libraries_by_the_newest_symbols() {
        let libraries = ["/lib/ld-linux-aarch64.so.1", "libc.so.6", "libgcc_s.so.1", "libpcap.so.0.8"];
        let versions = [
            ("libc.so.6", "GLIBC_2.9"),
            ("libc.so.6", "GLIBC_2.34"),
            ("ld-linux-aarch64.so.1", "GLIBC_2.17"),
            ("libgcc_s.so.1", "GCC_4.2.0"),
        ];
        assert_eq!(
            needing(&libraries, &versions).expect("packages"),
            "libc6 (>= 2.34), libgcc-s1 (>= 4.2.0), libpcap0.8"
        );
        assert_eq!(
            needing(&["libc.so.6"], &[("libc.so.6", "GLIBC_ABI_DT_RELR")]).expect("packages"),
            "libc6 (>= 2.36)"
        );
        assert_eq!(needing(&[], &[]).expect("packages"), "");
        let unknown = needing(&["libfoo.so.1"], &[]).expect_err("unknown").to_string();
        assert_eq!(unknown, "no Debian package is known for libfoo.so.1");
        assert!(needing(&["libc.so.6"], &[("libc.so.6", "GLIBC_PRIVATE")]).is_err());
    }
}
