//! `cargo xtask deploy`: what is made from `deploy/base` and `deploy/overlays`.
//!
//! `deploy/sniff.yaml` is one file for `kubectl apply -f`. The base needs no merging: its kustomization lists files and
//! nothing else, so one after the other is what `kubectl kustomize` would make of it, comments kept.
//!
//! `deploy/chart/files` are the files of kustomize's as they are, since Helm reads nothing outside of a chart. The
//! chart's templates read objects and overlays from there, and change what values are for.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail, ensure};

const HEAD: &str = "\
# sniff on every node: kubectl apply -f sniff.yaml
# Made from deploy/base by `cargo xtask deploy`; changes go there.
";

/// Where the file is, from the workspace's folder.
const FILE: &str = "deploy/sniff.yaml";
const BASE: &str = "deploy/base";
/// The overlays that the chart has values for.
const OVERLAYS: [&str; 5] = ["exec-only", "least-privilege", "metrics", "policy", "record"];
/// Where the chart has the files of these.
const CHART: &str = "deploy/chart/files";
/// What only kustomize reads.
const KUSTOMIZATION: &str = "kustomization.yaml";

/// What a kustomization may hold here.
const KNOWN: [&str; 3] = ["apiVersion:", "kind:", "resources:"];

/// Writes the file, and those of the chart.
///
/// # Errors
/// What they are made from cannot be read, or they cannot be written; the base does more than list files.
pub fn write(root: &Path) -> Result<()> {
    let text = make(&root.join(BASE))?;
    fs::write(root.join(FILE), text).with_context(|| format!("cannot write {FILE}"))?;
    let chart = root.join(CHART);
    if chart.exists() {
        fs::remove_dir_all(&chart).with_context(|| format!("cannot remove {CHART}"))?;
    }
    for (path, text) in of_kustomize(root)? {
        let path = chart.join(path);
        fs::create_dir_all(path.parent().unwrap_or(&chart))?;
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

/// Makes sure that all is what [`write()`] would write.
///
/// # Errors
/// It is not, or cannot be read.
pub fn check(root: &Path) -> Result<()> {
    ensure!(
        read(&root.join(FILE))? == make(&root.join(BASE))?,
        "{FILE} is not what {BASE} makes: run `cargo xtask deploy`"
    );
    let mut of_chart = BTreeMap::new();
    for folder in names(&root.join(CHART))? {
        of_chart.extend(files(&root.join(CHART).join(&folder), &folder)?);
    }
    let of_kustomize = of_kustomize(root)?;
    let differs = |path: &&PathBuf| of_chart.get(*path) != of_kustomize.get(*path);
    if let Some(path) = of_chart.keys().chain(of_kustomize.keys()).find(differs) {
        bail!("{CHART}/{} is not what kustomize has: run `cargo xtask deploy`", path.display());
    }
    Ok(())
}

/// The files that the chart is to have, by their paths in [`CHART`].
fn of_kustomize(root: &Path) -> Result<BTreeMap<PathBuf, String>> {
    let mut all = files(&root.join(BASE), "base")?;
    for overlay in OVERLAYS {
        all.extend(files(&root.join("deploy/overlays").join(overlay), overlay)?);
    }
    all.retain(|path, _| !path.ends_with(KUSTOMIZATION));
    Ok(all)
}

/// What the files in a folder hold, by their paths in the one that calls it `name`.
fn files(folder: &Path, name: &str) -> Result<BTreeMap<PathBuf, String>> {
    let one = |file: String| Ok((Path::new(name).join(&file), read(&folder.join(file))?));
    names(folder)?.into_iter().map(one).collect()
}

fn names(folder: &Path) -> Result<Vec<String>> {
    let entries = fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))?;
    entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
}

fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}

fn make(base: &Path) -> Result<String> {
    let mut text = HEAD.to_owned();
    for resource in resources(&read(&base.join(KUSTOMIZATION))?)? {
        text += "---\n";
        text += &read(&base.join(resource))?;
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
            None => bail!("{BASE}/{KUSTOMIZATION} does more than list files: {line}"),
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
    fn all_is_up_to_date() {
        check(crate::process::root()).expect("no drift");
    }
}
