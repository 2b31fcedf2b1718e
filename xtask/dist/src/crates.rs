//! What cargo knows of the crates that the programs are made of, beyond what is in the programs.

use std::{
    collections::BTreeMap,
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

/// How the names of files begin that hold a licence, or what a licence wants told.
const NOTICES: [&str; 5] = ["copying", "copyright", "licence", "license", "notice"];

/// All crates that the workspace could be built from, by name and version.
#[derive(Default)]
pub struct Crates(BTreeMap<(String, String), Crate>);

/// One of them.
#[derive(Default)]
pub struct Crate {
    /// An SPDX expression.
    pub licence: Option<String>,
    /// The SHA-256 of what the registry has; `None` for the project's own.
    pub checksum: Option<String>,
    /// Where its source is.
    folder: PathBuf,
}

impl Crates {
    /// Those of a workspace, as its Cargo.lock has them.
    ///
    /// # Errors
    /// cargo cannot tell, or a file cannot be read.
    pub fn of(project: &Path) -> Result<Self> {
        let mut cargo = Command::new(env::var_os("CARGO").unwrap_or("cargo".into()));
        cargo.args(["metadata", "--locked", "--format-version", "1"]).current_dir(project);
        let output = cargo.output().context("cannot run cargo")?;
        let complaints = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "cargo metadata: {}", complaints.trim());
        let lock = project.join("Cargo.lock");
        let lock = fs::read_to_string(&lock).with_context(|| format!("cannot read {}", lock.display()))?;
        Ok(Self::from(&serde_json::from_slice(&output.stdout)?, &lock))
    }

    fn from(metadata: &Value, lock: &str) -> Self {
        let checksums = checksums(lock);
        let packages = metadata["packages"].as_array().into_iter().flatten();
        let one = |package: &Value| {
            let text = |field: &str| package[field].as_str().map(str::to_owned);
            let id = (text("name")?, text("version")?);
            let manifest = PathBuf::from(text("manifest_path")?);
            let own = Crate {
                // Older crates have a slash for it.
                licence: text("license").map(|licence| licence.replace('/', " OR ")),
                checksum: checksums.get(&id).cloned(),
                folder: manifest.parent()?.to_owned(),
            };
            Some((id, own))
        };
        Self(packages.filter_map(one).collect())
    }

    /// One of them.
    ///
    /// # Errors
    /// It is not there.
    pub fn get(&self, name: &str, version: &str) -> Result<&Crate> {
        let found = self.0.get(&(name.to_owned(), version.to_owned()));
        found.with_context(|| format!("{name} {version} is in a program, and cargo does not know it"))
    }
}

impl Crate {
    /// The texts of its licences and notices, by the names of their files.
    ///
    /// # Errors
    /// Its source cannot be read.
    pub fn notices(&self) -> Result<BTreeMap<String, String>> {
        let mut notices = BTreeMap::new();
        let folder = &self.folder;
        for file in fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))? {
            let file = file?;
            let name = file.file_name().to_string_lossy().into_owned();
            let lower = name.to_lowercase();
            if file.file_type()?.is_file() && NOTICES.iter().any(|start| lower.starts_with(start)) {
                notices.insert(name, String::from_utf8_lossy(&fs::read(file.path())?).into_owned());
            }
        }
        Ok(notices)
    }
}

/// The checksums in a Cargo.lock, by name and version.
fn checksums(lock: &str) -> BTreeMap<(String, String), String> {
    let mut found = BTreeMap::new();
    for package in lock.split("[[package]]") {
        let field = |name: &str| {
            let values = package.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix(" = \""));
            values.filter_map(|value| value.strip_suffix('"')).map(str::to_owned).next()
        };
        if let (Some(name), Some(version), Some(checksum)) =
            (field("name"), field("version"), field("checksum"))
        {
            found.insert((name, version), checksum);
        }
    }
    found
}

#[cfg(test)]
impl Crates {
    /// Some, by name and version; all have this licence, and their sources are in this folder.
    pub fn made_up(ids: &[(&str, &str)], licence: &str, folder: &Path) -> Self {
        let one = |&(name, version): &(&str, &str)| {
            let licence = Some(licence.to_owned());
            let own = Crate { licence, checksum: Some("c0ffee".to_owned()), folder: folder.to_owned() };
            ((name.to_owned(), version.to_owned()), own)
        };
        Self(ids.iter().map(one).collect())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_crate_is_known_by_name_and_version() {
        let folder = tempfile::tempdir().expect("a folder");
        for (name, text) in [("LICENSE-MIT", "may"), ("NOTICE", "told"), ("lib.rs", "//!")] {
            fs::write(folder.path().join(name), text).expect("a file");
        }
        let metadata = json!({ "packages": [
            { "name": "a", "version": "1.0.0", "license": "MIT/Apache-2.0",
              "manifest_path": folder.path().join("Cargo.toml") },
            { "name": "a", "version": "2.0.0", "license": null, "manifest_path": "/none/Cargo.toml" },
        ]});
        let lock = "version = 4\n\n[[package]]\nname = \"a\"\nversion = \"1.0.0\"\nsource = \"registry\"\n\
                    checksum = \"abc\"\n\n[[package]]\nname = \"a\"\nversion = \"2.0.0\"\n";
        let crates = Crates::from(&metadata, lock);
        let a = crates.get("a", "1.0.0").expect("it");
        assert_eq!(a.licence.as_deref(), Some("MIT OR Apache-2.0"));
        assert_eq!(a.checksum.as_deref(), Some("abc"));
        let notices = a.notices().expect("notices");
        assert_eq!(
            notices.into_iter().map(|(name, text)| name + "=" + &text).collect::<Vec<_>>(),
            ["LICENSE-MIT=may", "NOTICE=told"]
        );
        let newer = crates.get("a", "2.0.0").expect("it");
        assert_eq!((&newer.licence, &newer.checksum), (&None, &None));
        assert!(crates.get("a", "3.0.0").is_err());
    }
}
