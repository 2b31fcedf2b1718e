//! Programs for the tests to pack.

use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::Command,
};

use flate2::{Compression, write::ZlibEncoder};

use crate::{
    archive::gzip,
    libraries,
    provenance::Build,
    release::{Origin, VERSION},
};

/// Writes what it was called with, and a page for its manual, as sniff's programs do.
const SOURCE: &str = r#"
#include <stdio.h>
#include <string.h>
int main(int count, char **words) {
    if (count == 3 && !strcmp(words[1], "manual")) {
        char path[4096];
        snprintf(path, sizeof path, "%s/" NAME ".1", words[2]);
        FILE *page = fopen(path, "w");
        fputs("page\n", page);
        return fclose(page);
    }
    if (count == 2 && !strcmp(words[1], "--version")) {
        puts(NAME " " VERSION " (0123456789ab)");
        return 0;
    }
    fputs(NAME, stdout);
    for (int i = 1; i < count; i++) printf(" %s", words[i]);
    puts("");
}
"#;

/// What the programs are made of: nothing but a crate of the project.
pub const LIST: &str =
    r#"{"packages":[{"name":"sniff-common","version":"0.1.0","source":"local","root":true}]}"#;

/// What the programs of a release are said to be built from.
pub fn origin() -> Origin {
    Origin {
        url: "https://example.com/v1/".to_owned(),
        maintainer: "Ann <ann@example.com>".to_owned(),
        date: 1_700_000_000,
        build: Build {
            commit: "0123456789abcdef0123456789abcdef01234567".to_owned(),
            modified: false,
            command: vec!["cargo".to_owned()],
            tools: vec![("rustc".to_owned(), "1.95.0".to_owned())],
        },
    }
}

/// The tests' own program: dynamically linked, as sniff is.
pub fn own_program() -> PathBuf {
    std::env::current_exe().expect("this program")
}

/// The project's folder.
pub fn project() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// Compiles one of that name for this machine, with these options for the C compiler, and with a list of crates in it as
/// cargo-auditable leaves it.
pub fn program(folder: &Path, name: &str, crates: Option<&str>, options: &[&str]) {
    let path = |ending: &str| folder.join(format!("{name}{ending}"));
    fs::write(path(".c"), SOURCE).expect("its source");
    let mut cc = Command::new("cc");
    cc.args([format!("-DNAME=\"{name}\""), format!("-DVERSION=\"{VERSION}\"")])
        .args(options)
        .arg("-s")
        .arg("-o")
        .arg(path(""))
        .arg(path(".c"));
    if let Some(crates) = crates {
        let mut packed = ZlibEncoder::new(Vec::new(), Compression::default());
        packed.write_all(crates.as_bytes()).expect("it packed");
        fs::write(path(".list"), packed.finish().expect("it packed")).expect("a list");
        let list = format!(".section .dep-v0,\"a\"\n.incbin \"{}\"\n", path(".list").display());
        fs::write(path(".S"), list).expect("a section");
        cc.arg(path(".S")).arg("-Wl,-znoexecstack");
    }
    assert!(cc.status().expect("a C compiler").success());
}

/// Leaves in `folder` what Debian's packages have of what `program` needs: this machine's libraries, where they have them.
pub fn packages(folder: &Path, program: &Path) {
    let write = |place: &Path, content: &[u8]| {
        let path = folder.join(place);
        fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
        fs::write(path, content).expect("a file");
    };
    for library in libraries::of(program).expect("libraries") {
        let place = library.strip_prefix("/").expect("an absolute path");
        let place = Path::new("usr").join(place.strip_prefix("usr").unwrap_or(place));
        write(&place, &fs::read(&library).expect("a library"));
    }
    for name in ["etc/protocols", "etc/services"] {
        write(name.as_ref(), b"names");
    }
    for (package, source, changelog) in [
        ("libc6", "glibc (2.41-12)", "changelog.Debian.gz"),
        ("libpcap", "libpcap (1.10.5-2)", "changelog.gz"),
    ] {
        let place = |name: &str| Path::new("usr/share/doc").join(package).join(name);
        write(&place("copyright"), format!("whose: {package}").as_bytes());
        let text = format!("{source} unstable; urgency=medium\n");
        write(&place(changelog), &gzip(text.as_bytes()).expect("gzip"));
    }
    write("usr/share/common-licenses/GPL-2".as_ref(), b"licence");
}
