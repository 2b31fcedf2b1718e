//! What a cluster is given: the manifest, and the chart for Helm.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};

use crate::{
    archive::{Entry, tar_gz},
    release::{File, VERSION, read},
};

/// The manifest in a release.
pub const MANIFEST: &str = "sniff.yaml";
/// The folder in the chart's archive; Helm wants it to be called as the chart is.
pub const CHART: &str = "sniff";

/// The chart in a release, as `helm package` calls it.
pub fn chart_file() -> String {
    format!("{CHART}-{VERSION}.tgz")
}

/// Both, out of the project's folder.
///
/// # Errors
/// They cannot be read.
pub fn files(project: &Path) -> Result<[File; 2]> {
    let deploy = project.join("deploy");
    let mut entries = Vec::new();
    collect(&deploy.join("chart"), CHART, &mut entries)?;
    Ok([(MANIFEST.to_owned(), read(&deploy.join(MANIFEST))?), (chart_file(), tar_gz(&entries)?)])
}

/// All files of a folder and of those in it, in order, as they are called where the folder is `name`.
fn collect(folder: &Path, name: &str, entries: &mut Vec<Entry>) -> Result<()> {
    let found = fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))?;
    let mut paths: Vec<PathBuf> = found.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?;
    paths.sort();
    for path in paths {
        let name = format!("{name}/{}", path.file_name().unwrap_or_default().to_string_lossy());
        if path.is_dir() {
            collect(&path, &name, entries)?;
        } else {
            entries.push((name, 0o644, read(&path)?));
        }
    }
    Ok(())
}
