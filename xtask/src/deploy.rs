//! `cargo xtask deploy`: `deploy/sniff.yaml`, one file for `kubectl apply -f`, made from `deploy/base`.
//!
//! The base needs no merging: its kustomization lists files and nothing else, so one after the other is what
//! `kubectl kustomize` would make of it, comments kept.

use std::{fs, path::Path};

use anyhow::{Context as _, Result, bail, ensure};

const HEAD: &str = "\
# sniff on every node: kubectl apply -f sniff.yaml
# Made from deploy/base by `cargo xtask deploy`; changes go there.
";

/// Where the file is, from the workspace's folder.
const FILE: &str = "deploy/sniff.yaml";
const BASE: &str = "deploy/base";

/// What a kustomization may hold here.
const KNOWN: [&str; 3] = ["apiVersion:", "kind:", "resources:"];

/// Writes the file.
///
/// # Errors
/// The base cannot be read, or does more than list files.
pub fn write(root: &Path) -> Result<()> {
    let text = make(&root.join(BASE))?;
    fs::write(root.join(FILE), text).with_context(|| format!("cannot write {FILE}"))
}

/// Makes sure that the file is what [`write()`] would write.
///
/// # Errors
/// It is not, or cannot be read.
pub fn check(root: &Path) -> Result<()> {
    let there = fs::read_to_string(root.join(FILE)).with_context(|| format!("cannot read {FILE}"))?;
    ensure!(there == make(&root.join(BASE))?, "{FILE} is not what {BASE} makes: run `cargo xtask deploy`");
    Ok(())
}

fn make(base: &Path) -> Result<String> {
    let read = |name: &str| {
        let path = base.join(name);
        fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
    };
    let mut text = HEAD.to_owned();
    for resource in resources(&read("kustomization.yaml")?)? {
        text += "---\n";
        text += &read(resource)?;
    }
    Ok(text)
}

/// The files that a kustomization lists.
fn resources(kustomization: &str) -> Result<Vec<&str>> {
    let mut resources = Vec::new();
    for line in kustomization.lines().filter(|line| !line.starts_with('#') && !line.is_empty()) {
        match line.strip_prefix("  - ") {
            Some(resource) => resources.push(resource),
            None if KNOWN.iter().any(|known| line.starts_with(known)) => {}
            None => bail!("{BASE}/kustomization.yaml does more than list files: {line}"),
        }
    }
    Ok(resources)
}

#[cfg(test)]
mod tests {
    use super::{check, resources};

    #[test]
    fn files_are_listed_and_anything_else_is_refused() {
        let kustomization = "# Words.\nkind: Kustomization\nresources:\n  - a.yaml\n  - b.yaml\n";
        assert_eq!(resources(kustomization).expect("a list"), ["a.yaml", "b.yaml"]);
        let error = resources("namePrefix: x-\n").expect_err("more than a list").to_string();
        assert!(error.contains("namePrefix"), "{error}");
    }

    #[test]
    fn the_file_is_up_to_date() {
        check(crate::process::root()).expect("no drift");
    }
}
