//! The shared libraries that a program needs.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail, ensure};

/// The libraries of a program and the loader, where this system has them; the system's own loader is asked.
///
/// # Errors
/// A library is missing, or the program is for another system.
pub fn of(program: &Path) -> Result<Vec<PathBuf>> {
    let output = Command::new("ldd").arg(program).env("LC_ALL", "C").output().context("cannot run ldd")?;
    let (said, complaints) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    ensure!(output.status.success(), "ldd {}: {}", program.display(), complaints.trim());
    parse(&said)
}

fn parse(said: &str) -> Result<Vec<PathBuf>> {
    let mut libraries = Vec::new();
    for line in said.lines().map(str::trim) {
        let path = line.split_once(" => ").map_or(line, |(_, path)| path);
        match path.split_once(" (") {
            Some((path, _)) if path.starts_with('/') => libraries.push(path.into()),
            // The kernel's own, which is in no file.
            Some((name, _)) if name.starts_with("linux-vdso") => {}
            _ => bail!("ldd says: {line}"),
        }
    }
    // The order that they are found in is the loader's affair.
    libraries.sort();
    libraries.dedup();
    Ok(libraries)
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn the_loader_counts_and_the_kernels_part_does_not() {
        let said = "\tlinux-vdso.so.1 (0x00007ffc)\n\tlibpcap.so.0.8 => /lib/x86/libpcap.so.0.8 (0x00007f)\n\
                    \t/lib64/ld-linux-x86-64.so.2 (0x00007f)\n";
        let paths = parse(said).expect("libraries");
        assert_eq!(
            paths,
            ["/lib/x86/libpcap.so.0.8", "/lib64/ld-linux-x86-64.so.2"].map(Into::<std::path::PathBuf>::into)
        );
    }

    #[test]
    fn a_library_that_is_missing_is_an_error() {
        let error = parse("\tlibpcap.so.0.8 => not found\n").expect_err("missing").to_string();
        assert!(error.contains("libpcap.so.0.8 => not found"), "{error}");
    }
}
