//! Which program `kubectl sniff` runs: the first `kubectl-sniff` on the PATH, which may be another project's.

use std::{
    env,
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
};

use super::Finding;

/// What kubectl looks for.
const NAME: &str = "kubectl-sniff";

/// What is wrong with where this program is, if anything is.
pub(super) fn look() -> Option<Finding> {
    let this = env::current_exe().ok()?;
    let first = first_on(&env::var_os("PATH")?)?;
    is_another(&first, &this).then(|| {
        Finding::Bad(
            format!("kubectl sniff runs {}, which is not this program, {}", first.display(), this.display()),
            "put this one's folder before the other's on the PATH, or remove the other, which may be ksniff \
             (kubectl krew uninstall sniff)"
                .to_owned(),
        )
    })
}

/// The plugin that kubectl finds on such a PATH.
fn first_on(path: &OsStr) -> Option<PathBuf> {
    let name = format!("{NAME}{}", env::consts::EXE_SUFFIX);
    env::split_paths(path).map(|folder| folder.join(&name)).find(|file| file.is_file())
}

/// Whether two paths lead to different programs. Plugin managers make links, and copies where there are none.
fn is_another(first: &Path, this: &Path) -> bool {
    let leads_to = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let same_bytes = || Some(fs::read(first).ok()? == fs::read(this).ok()?);
    leads_to(first) != leads_to(this) && same_bytes() != Some(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_on_the_path_is_the_one_that_kubectl_runs() {
        let folder = tempfile::tempdir().expect("a folder");
        let [ours, theirs, copy, none] =
            ["ours", "theirs", "copy", "none"].map(|name| folder.path().join(name));
        let file = format!("{NAME}{}", env::consts::EXE_SUFFIX);
        for (folder, content) in [(&ours, "sniff"), (&theirs, "ksniff"), (&copy, "sniff")] {
            fs::create_dir(folder).expect("a folder");
            fs::write(folder.join(&file), content).expect("a file");
        }
        let first = |folders: &[&PathBuf]| first_on(&env::join_paths(folders).expect("a PATH"));
        let this = ours.join(&file);
        assert_eq!(first(&[&none]), None);
        assert_eq!(first(&[&none, &ours, &theirs]), Some(this.clone()));
        assert!(!is_another(&this, &this) && !is_another(&copy.join(&file), &this));
        assert!(is_another(&first(&[&theirs, &ours]).expect("a program"), &this));
    }
}
