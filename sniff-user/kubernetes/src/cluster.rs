//! The connection to a cluster's API server, and how each request goes over it.

use std::{fmt, time::Duration};

use anyhow::{Context as _, Result, anyhow};
use kube::{Api, Client, Config, api::ListParams};
use serde::de::DeserializeOwned;

use crate::{
    config::{self, Login},
    refusal,
};

/// How long the API server may take to be reached, and then for one answer, unless told otherwise.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Objects of a list that are asked for at once.
const PAGE: u32 = 500;

/// A connection to a cluster's API server, with the rights of whoever the configuration names.
#[derive(Clone)]
pub struct Cluster {
    pub(crate) client: Client,
    server: String,
    namespace: String,
    timeout: Duration,
}

/// What is asked of the API server, as RBAC rules name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request<'a> {
    /// `get`, `list`, `watch`, `create`, `patch` or `delete`.
    pub verb: &'static str,
    /// Resource, with its subresource and group: `pods`, `pods/exec`, `deployments.apps`.
    pub resource: &'static str,
    /// Namespace; `None` for all, and for what is in none.
    pub namespace: Option<&'a str>,
    /// Name of the object, when it is about one.
    pub name: Option<&'a str>,
}

impl Cluster {
    /// The cluster that kubectl would speak to: that of the kubeconfig named, of those of `KUBECONFIG`, of
    /// `~/.kube/config`, or of the service account of the pod that this runs in, with what is said instead. `None` when
    /// there is none of them.
    ///
    /// Contacts nobody yet.
    ///
    /// # Errors
    ///
    /// When there is a configuration that cannot be used.
    pub async fn configured(login: &Login) -> Result<Option<Self>> {
        let timeout = login.request_timeout.unwrap_or(TIMEOUT);
        config::find(login).await?.map(|config| Self::new(config, timeout)).transpose()
    }

    /// As [`Self::configured`], for a program on a node: in a pod that was given no service account there is none.
    ///
    /// # Errors
    ///
    /// When there is a configuration that cannot be used.
    pub async fn of_node() -> Result<Option<Self>> {
        match config::has_account() {
            true => Self::configured(&Login::default()).await,
            false => Ok(None),
        }
    }

    /// With the longest that an answer may take.
    fn new(mut config: Config, timeout: Duration) -> Result<Self> {
        config.connect_timeout = Some(timeout);
        config.default_retry = false;
        let (server, namespace) = (config.cluster_url.to_string(), config.default_namespace.clone());
        let plugin = config.auth_info.exec.clone();
        let client =
            Client::try_from(config).map_err(|error| refusal::explain_client(plugin.as_ref(), error))?;
        Ok(Self { client, server, namespace, timeout })
    }

    /// The namespace of the kubeconfig's context.
    pub fn default_namespace(&self) -> &str {
        &self.namespace
    }

    /// Where the API server is.
    pub fn server(&self) -> &str {
        &self.server
    }

    /// Waits for an answer; `None` when there is no such object, or nothing to create one in.
    pub(crate) async fn ask<T>(
        &self,
        request: Request<'_>,
        answer: impl Future<Output = kube::Result<T>>,
    ) -> Result<Option<T>> {
        match tokio::time::timeout(self.timeout, answer).await {
            Ok(Ok(answer)) => Ok(Some(answer)),
            Ok(Err(kube::Error::Api(status)))
                if status.is_not_found() && (request.name.is_some() || request.verb == "create") =>
            {
                Ok(None)
            }
            Ok(Err(error)) => Err(refusal::explain(&self.server, request, error)),
            Err(_) => Err(anyhow!(
                "Kubernetes API at {}: no answer within {} s to {request}",
                self.server,
                self.timeout.as_secs_f64()
            )),
        }
    }

    /// Hands `take` each object of a list, which comes page by page.
    ///
    /// # Errors
    ///
    /// When the server refuses or does not answer.
    pub(crate) async fn list_each<K: Clone + fmt::Debug + DeserializeOwned>(
        &self,
        request: Request<'_>,
        api: &Api<K>,
        mut parameters: ListParams,
        mut take: impl FnMut(K),
    ) -> Result<()> {
        parameters.limit = Some(PAGE);
        loop {
            let page = self.ask(request, api.list(&parameters)).await?;
            let page = page.with_context(|| format!("the server knows no {}", request.resource))?;
            parameters.continue_token = page.metadata.continue_.clone().filter(|token| !token.is_empty());
            page.into_iter().for_each(&mut take);
            if parameters.continue_token.is_none() {
                return Ok(());
            }
        }
    }
}

impl fmt::Display for Request<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { verb, resource, namespace, name } = self;
        write!(f, "{verb} {resource}")?;
        if let Some(name) = name {
            write!(f, " {name}")?;
        }
        match (namespace, *resource) {
            (Some(namespace), _) => write!(f, " in namespace {namespace}"),
            (None, "nodes" | "namespaces" | "tokenreviews.authentication.k8s.io") => Ok(()),
            (None, _) => write!(f, " in all namespaces"),
        }
    }
}

/// Without the client, which knows secrets.
impl fmt::Debug for Cluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cluster").field("server", &self.server).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use tokio::{io::AsyncReadExt as _, net::TcpListener};

    use super::*;

    fn client_of(url: &str) -> Cluster {
        Cluster::new(Config::new(url.parse().unwrap()), TIMEOUT).unwrap()
    }

    #[tokio::test]
    async fn a_server_that_is_away_is_named() {
        let port = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let api = client_of(&format!("http://{port}"));
        let error = format!("{:#}", api.pod("web", "front").await.unwrap_err());
        assert!(error.contains(&port.to_string()) && error.contains("Connection refused"), "{error}");
    }

    #[tokio::test]
    async fn a_server_that_hangs_is_given_up() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let api = client_of(&format!("http://{}", listener.local_addr().unwrap()));
        tokio::time::pause();
        let error = format!("{:#}", api.pod("web", "front").await.unwrap_err());
        assert!(error.contains("no answer within 10 s"), "{error}");
    }

    #[tokio::test]
    async fn encrypted_servers_are_spoken_to_in_tls() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let api = client_of(&format!("https://{}", listener.local_addr().unwrap()));
        let first_byte = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            stream.read_u8().await.unwrap()
        });
        api.pod("web", "front").await.unwrap_err();
        // A TLS record of type "handshake".
        assert_eq!(first_byte.await.unwrap(), 22);
    }
}
