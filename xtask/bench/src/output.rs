//! Where results go: a folder, and the project's page about its speed.

use std::{
    env, fs,
    os::unix::fs::chown,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, ensure};

use crate::{chart, report::Report};

/// Between these lines of the page stands what a run found out.
const BEGIN: &str = "<!-- Written by `cargo xtask bench --write-docs`: -->";
const END: &str = "<!-- End of what is written. -->";

/// Writes `bench.json`, and `bench.svg` when there is something to draw, into `folder`.
///
/// # Errors
/// The folder cannot be made or written to.
pub fn write(report: &Report, sniffs: &[String], folder: &Path) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    put(&folder.join("bench.json"), &(serde_json::to_string_pretty(report)? + "\n"))?;
    write_chart(report, sniffs, folder)
}

/// Writes the chart into the project's `docs`, and the tables into `docs/performance.md`.
///
/// # Errors
/// The files cannot be written, or the page has no place for the tables.
pub fn write_docs(report: &Report, sniffs: &[String], project: &Path) -> Result<()> {
    let docs = project.join("docs");
    let page = docs.join("performance.md");
    let text = fs::read_to_string(&page).with_context(|| format!("cannot read {}", page.display()))?;
    let text = replace(&text, &report.text()).with_context(|| format!("cannot update {}", page.display()))?;
    write_chart(report, sniffs, &docs)?;
    put(&page, &text)
}

/// The workspace that `cargo xtask` was called in; without it, the one that this program was built from.
pub fn project() -> PathBuf {
    let built_from = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    env::var_os("SNIFF_PROJECT").map_or_else(built_from, PathBuf::from)
}

fn write_chart(report: &Report, sniffs: &[String], folder: &Path) -> Result<()> {
    match chart::svg(&report.summaries, sniffs)? {
        Some(svg) => put(&folder.join("bench.svg"), &svg),
        None => Ok(()),
    }
}

fn put(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))?;
    // Made through sudo, a file still belongs to whoever asked for it.
    let id = |name: &str| env::var(name).ok()?.parse::<u32>().ok();
    if let (Some(user), Some(group)) = (id("SUDO_UID"), id("SUDO_GID")) {
        chown(path, Some(user), Some(group))
            .with_context(|| format!("cannot give {} away", path.display()))?;
    }
    Ok(())
}

fn replace(page: &str, tables: &str) -> Result<String> {
    let (before, rest) = page.split_once(BEGIN).with_context(|| format!("no line {BEGIN:?}"))?;
    let (_, after) = rest.split_once(END).with_context(|| format!("no line {END:?}"))?;
    ensure!(!tables.contains(END), "the tables contain the line that ends them");
    Ok(format!("{before}{BEGIN}\n\n{tables}\n{END}{after}"))
}

#[cfg(test)]
mod tests {
    use super::{BEGIN, END, project, replace};

    #[test]
    fn only_what_is_between_the_lines_is_replaced() {
        let page = format!("above\n{BEGIN}\nold\n{END}\nbelow\n");
        let new = replace(&page, "new\n").unwrap();
        assert_eq!(new, format!("above\n{BEGIN}\n\nnew\n\n{END}\nbelow\n"));
        assert_eq!(replace(&new, "new\n").unwrap(), new);
        assert!(replace("above\n", "new").is_err());
        assert!(replace(&format!("{END}\n{BEGIN}"), "new").is_err());
    }

    #[test]
    fn the_projects_page_has_the_lines() {
        let page = std::fs::read_to_string(project().join("docs/performance.md")).unwrap();
        assert!(replace(&page, "new").is_ok());
    }
}
