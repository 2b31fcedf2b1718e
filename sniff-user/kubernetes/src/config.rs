//! Where the API server is and as whom to ask it, found as kubectl finds it: by the kubeconfig that is named, those of
//! `KUBECONFIG`, the one in the home folder, or the service account of the pod that this runs in.

use std::{env, fs, io::ErrorKind, path::PathBuf, time::Duration};

use anyhow::{Context as _, Result, bail, ensure};
use http::Uri;
use kube::{
    Config,
    config::{AuthInfo, KubeConfigOptions, Kubeconfig, KubeconfigError},
};

use crate::{proxy, refusal::root};

/// What to do about a kubeconfig that cannot be used.
const ADVICE: &str = "kubectl config get-contexts shows what there is";

/// Where the kubelet puts a pod's service account's token.
const ACCOUNT_TOKEN: &str = "/var/run/secrets/kubernetes.io/serviceaccount/token";

/// Which cluster, and as whom: kubectl's global options. What is left out is as the configuration has it.
#[derive(Clone, Debug, Default)]
pub struct Login {
    /// The kubeconfig.
    pub kubeconfig: Option<PathBuf>,
    /// The context in it.
    pub context: Option<String>,
    /// The cluster in it.
    pub cluster: Option<String>,
    /// The user in it.
    pub user: Option<String>,
    /// URL of the API server.
    pub server: Option<String>,
    /// File with the certificates that the API server's is to be signed by.
    pub certificate_authority: Option<PathBuf>,
    /// Whether whatever certificate the API server has is good enough.
    pub insecure_skip_tls_verify: bool,
    /// The name that its certificate is to have.
    pub tls_server_name: Option<String>,
    /// Bearer token.
    pub token: Option<String>,
    /// File with the client's certificate.
    pub client_certificate: Option<PathBuf>,
    /// File with the key to it.
    pub client_key: Option<PathBuf>,
    /// Whose rights to use.
    pub impersonate: Option<String>,
    /// Which groups' rights to use.
    pub impersonate_groups: Vec<String>,
    /// Whose rights to use, by UID.
    pub impersonate_uid: Option<String>,
    /// How long the API server may take to be reached, and then for one answer.
    pub request_timeout: Option<Duration>,
}

/// The configuration; `None` when there is none, here or of a pod.
///
/// # Errors
///
/// When there is one that cannot be used.
pub(crate) async fn find(login: &Login) -> Result<Option<Config>> {
    let found = match (read_config(login).await?, &login.server) {
        (None, Some(server)) => Some(Found { config: Config::new(url(server)?), proxy: None }),
        (found, _) => found,
    };
    let Some(Found { config, proxy }) = found else { return Ok(None) };
    let mut config = login.in_place_of(config)?;
    config.proxy_url = match proxy {
        Some(proxy) => Some(proxy.parse().with_context(|| format!("kubeconfig: proxy-url {proxy}"))?),
        None => proxy::of_environment(&config.cluster_url, |name| env::var(name).ok())?,
    };
    Ok(Some(config))
}

/// A configuration that is there.
struct Found {
    config: Config,
    /// The proxy that it names itself, whatever the environment says.
    proxy: Option<String>,
}

impl Login {
    /// What is said here, and the configuration where nothing is.
    fn in_place_of(&self, mut config: Config) -> Result<Config> {
        if let Some(server) = &self.server {
            config.cluster_url = url(server)?;
        }
        if let Some(path) = &self.certificate_authority {
            fs::metadata(path).with_context(|| format!("--certificate-authority {}", path.display()))?;
            (config.root_cert, config.root_cert_file) = (None, Some(path.clone()));
        }
        config.accept_invalid_certs |= self.insecure_skip_tls_verify;
        config.tls_server_name = self.tls_server_name.clone().or(config.tls_server_name);
        let who = &mut config.auth_info;
        if let Some(token) = &self.token {
            *who = AuthInfo { token: Some(token.clone().into()), ..only_certificates(who) };
        }
        let path = |path: &Option<PathBuf>| path.as_ref().map(|path| path.display().to_string());
        if self.client_certificate.is_some() {
            (who.client_certificate, who.client_certificate_data) = (path(&self.client_certificate), None);
        }
        if self.client_key.is_some() {
            (who.client_key, who.client_key_data) = (path(&self.client_key), None);
        }
        if self.impersonate.is_some() {
            who.impersonate = self.impersonate.clone();
            who.impersonate_uid = self.impersonate_uid.clone();
            who.impersonate_groups = Some(self.impersonate_groups.clone());
        }
        Ok(config)
    }
}

/// What says who somebody is beside a token, and whose rights are used.
fn only_certificates(who: &AuthInfo) -> AuthInfo {
    AuthInfo {
        client_certificate: who.client_certificate.clone(),
        client_certificate_data: who.client_certificate_data.clone(),
        client_key: who.client_key.clone(),
        client_key_data: who.client_key_data.clone(),
        impersonate: who.impersonate.clone(),
        impersonate_uid: who.impersonate_uid.clone(),
        impersonate_groups: who.impersonate_groups.clone(),
        ..AuthInfo::default()
    }
}

/// The URL of an API server; `http` is what kubectl takes one without a scheme for.
fn url(server: &str) -> Result<Uri> {
    let whole = if server.contains("://") { server.to_owned() } else { format!("http://{server}") };
    let url: Uri = whole.parse().with_context(|| format!("--server {server}"))?;
    ensure!(matches!(url.scheme_str(), Some("http" | "https")), "--server {server}: type https://HOST:PORT");
    Ok(url)
}

/// Whether somebody has told as whom to ask: a kubeconfig, or the service account of the pod that this runs in.
pub(crate) fn has_account() -> bool {
    let is_there = |path: &str| PathBuf::from(path).exists();
    env::var_os("KUBERNETES_SERVICE_HOST").is_none() || is_there(ACCOUNT_TOKEN) || !matches!(read(), Ok(None))
}

/// What is there without what is said instead.
async fn read_config(login: &Login) -> Result<Option<Found>> {
    let Login { context, cluster, user, .. } = login;
    let read = match login.kubeconfig.as_deref() {
        Some(path) => Some(Kubeconfig::read_from(path)),
        None => read().transpose(),
    };
    let Some(read) = read else {
        return match (env::var_os("KUBERNETES_SERVICE_HOST"), context) {
            (Some(_), None) => match Config::incluster() {
                Ok(config) => Ok(Some(Found { config, proxy: None })),
                Err(error) => bail!(
                    "there is no kubeconfig, and the service account of this pod: {} (/var/run/secrets/kubernetes.io)",
                    root(&error.into())
                ),
            },
            (_, Some(context)) => bail!("there is no kubeconfig that context {context} could be in"),
            (None, None) => Ok(None),
        };
    };
    let options =
        KubeConfigOptions { context: context.clone(), cluster: cluster.clone(), user: user.clone() };
    let found = async {
        let read = read?;
        let proxy = proxy_of(&read, &options);
        Config::from_custom_kubeconfig(read, &options).await.map(|config| Found { config, proxy })
    };
    match found.await {
        Ok(found) => Ok(Some(found)),
        // The outer errors repeat what the root says.
        Err(error) => bail!("kubeconfig: {}; {ADVICE}", root(&error.into())),
    }
}

/// The proxy that the cluster that is meant names.
fn proxy_of(kubeconfig: &Kubeconfig, options: &KubeConfigOptions) -> Option<String> {
    let context = options.context.as_ref().or(kubeconfig.current_context.as_ref());
    let context = kubeconfig.contexts.iter().find(|it| Some(&it.name) == context);
    let of_context = context.and_then(|it| it.context.as_ref()).map(|context| &context.cluster);
    let cluster = options.cluster.as_ref().or(of_context);
    let cluster = kubeconfig.clusters.iter().find(|it| Some(&it.name) == cluster);
    let proxy = cluster?.cluster.as_ref()?.proxy_url.clone()?;
    (!proxy.is_empty()).then_some(proxy)
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
    use super::*;

    #[tokio::test]
    async fn what_is_said_stands_in_place_of_the_configuration() {
        let folder = tempfile::tempdir().unwrap();
        let kubeconfig = folder.path().join("config");
        let text = "{apiVersion: v1, kind: Config, current-context: a, \
            contexts: [{name: a, context: {cluster: a, user: a}}], \
            clusters: [{name: a, cluster: {server: https://a:1}}, {name: b, cluster: {server: https://b:2}}], \
            users: [{name: a, user: {username: ada, password: x}}, {name: b, user: {tokenFile: /t}}]}";
        fs::write(&kubeconfig, text).unwrap();
        let login = Login { kubeconfig: Some(kubeconfig), ..Login::default() };
        let config = async |login: Login| find(&login).await.unwrap().unwrap();
        let plain = config(login.clone()).await;
        assert_eq!(plain.cluster_url.to_string(), "https://a:1/");
        assert_eq!(plain.auth_info.username.as_deref(), Some("ada"));
        let other = Login { cluster: Some("b".into()), user: Some("b".into()), ..login.clone() };
        let other = config(other).await;
        assert_eq!(other.cluster_url.to_string(), "https://b:2/");
        assert_eq!(other.auth_info.token_file.as_deref(), Some("/t"));
        let said = config(Login {
            server: Some("https://c:3".into()),
            token: Some("t".into()),
            impersonate: Some("eve".into()),
            impersonate_groups: vec!["admins".into()],
            insecure_skip_tls_verify: true,
            tls_server_name: Some("d".into()),
            ..login.clone()
        });
        let said = said.await;
        assert_eq!(said.cluster_url.to_string(), "https://c:3/");
        assert!(
            said.accept_invalid_certs && said.auth_info.token.is_some() && said.auth_info.username.is_none()
        );
        assert_eq!(said.tls_server_name.as_deref(), Some("d"));
        assert_eq!(said.auth_info.impersonate.as_deref(), Some("eve"));
        assert_eq!(said.auth_info.impersonate_groups.as_deref(), Some(&["admins".to_owned()][..]));
        for bad in ["ftp://a", "https://a b", ""] {
            let bad = Login { server: Some(bad.into()), ..login.clone() };
            assert!(find(&bad).await.is_err(), "{bad:?}");
        }
        let missing = Login { certificate_authority: Some("/none.pem".into()), ..login };
        assert!(
            format!("{:#}", find(&missing).await.unwrap_err()).contains("--certificate-authority /none.pem")
        );
    }

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
