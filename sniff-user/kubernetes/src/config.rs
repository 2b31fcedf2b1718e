//! Where the API server is and as whom to ask it, found as kubectl finds it: by the kubeconfig that is named, those of
//! `KUBECONFIG`, the one in the home folder, or the service account of the pod that this runs in.

use std::{
    env,
    io::ErrorKind,
    path::{Path, PathBuf},
};

use anyhow::{Result, bail};
use kube::{
    Config,
    config::{KubeConfigOptions, Kubeconfig, KubeconfigError},
};

use crate::refusal::root;

/// What to do about a kubeconfig that cannot be used.
const ADVICE: &str = "kubectl config get-contexts shows what there is";

/// The configuration; `None` when there is none, here or of a pod.
///
/// # Errors
///
/// When there is one that cannot be used.
pub(crate) async fn find(named: Option<&Path>, context: Option<&str>) -> Result<Option<Config>> {
    let read = match named {
        Some(path) => Some(Kubeconfig::read_from(path)),
        None => read().transpose(),
    };
    let Some(read) = read else {
        return match (env::var_os("KUBERNETES_SERVICE_HOST"), context) {
            (Some(_), None) => match Config::incluster() {
                Ok(config) => Ok(Some(config)),
                Err(error) => bail!(
                    "there is no kubeconfig, and the service account of this pod: {} (/var/run/secrets/kubernetes.io)",
                    root(&error.into())
                ),
            },
            (_, Some(context)) => bail!("there is no kubeconfig that context {context} could be in"),
            (None, None) => Ok(None),
        };
    };
    let options = KubeConfigOptions { context: context.map(str::to_owned), ..KubeConfigOptions::default() };
    let config = async { Config::from_custom_kubeconfig(read?, &options).await };
    match config.await {
        Ok(config) => Ok(Some(config)),
        // The outer errors repeat what the root says.
        Err(error) => bail!("kubeconfig: {}; {ADVICE}", root(&error.into())),
    }
}

/// What is in the files that are read when none is named.
fn read() -> Result<Option<Kubeconfig>, KubeconfigError> {
    let paths: Vec<PathBuf> = env::var_os("KUBECONFIG").iter().flat_map(env::split_paths).collect();
    let paths: Vec<PathBuf> = paths.into_iter().filter(|path| !path.as_os_str().is_empty()).collect();
    if !paths.is_empty() {
        return merge(&paths).map(Some);
    }
    match Kubeconfig::read() {
        Err(KubeconfigError::FindPath) => Ok(None),
        Err(KubeconfigError::ReadConfig(error, _)) if error.kind() == ErrorKind::NotFound => Ok(None),
        read => read.map(Some),
    }
}

/// The files one after the other: the first that says something has its way. Of several, some may be missing.
fn merge(paths: &[PathBuf]) -> Result<Kubeconfig, KubeconfigError> {
    let mut merged = None;
    let mut missing = None;
    for path in paths {
        let mut next = match Kubeconfig::read_from(path) {
            Ok(next) => next,
            Err(error @ KubeconfigError::ReadConfig(..)) if !path.exists() => {
                missing = Some(error);
                continue;
            }
            Err(error) => return Err(error),
        };
        // Which says nothing.
        let _ = next.current_context.take_if(|context| context.is_empty());
        merged = Some(match merged {
            None => next,
            Some(before) => Kubeconfig::merge(before, next)?,
        });
    }
    match (merged, missing) {
        (Some(merged), _) => Ok(merged),
        (None, Some(missing)) => Err(missing),
        (None, None) => Ok(Kubeconfig::default()),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn files_are_merged_as_kubectl_does() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str, context: &str| {
            let path = folder.path().join(name);
            let text = format!(
                "apiVersion: v1\nkind: Config\ncurrent-context: \"{context}\"\ncontexts:\n- name: of-{name}\n  context:\n    \
                 cluster: {name}\n    user: {name}\n"
            );
            fs::write(&path, text).unwrap();
            path
        };
        let (empty, first, second) = (file("a", ""), file("b", "of-b"), file("c", "of-c"));
        let none = folder.path().join("none");
        let of = |paths: &[&PathBuf]| {
            let merged = merge(&paths.iter().map(|path| (*path).clone()).collect::<Vec<_>>()).unwrap();
            let names: Vec<String> = merged.contexts.iter().map(|it| it.name.clone()).collect();
            (merged.current_context.unwrap_or_default(), names.join(" "))
        };
        assert_eq!(of(&[&empty, &first]), ("of-b".to_owned(), "of-a of-b".to_owned()));
        assert_eq!(of(&[&first, &second]).0, "of-b");
        assert_eq!(of(&[&none, &second, &first]), ("of-c".to_owned(), "of-c of-b".to_owned()));
        let error = merge(&[none.clone(), none]).unwrap_err().to_string();
        assert!(error.contains("none"), "{error}");
    }
}
