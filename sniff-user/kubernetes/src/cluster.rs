//! A connection to a cluster as kubectl has it, and what becomes of refusals.

use std::{fmt, path::Path, time::Duration};

use anyhow::{Context as _, Result, anyhow};
use kube::{Client, Config, core::Status};

use super::config;

/// How long the API server may take to be reached, and then for one answer.
const TIMEOUT: Duration = Duration::from_secs(10);

/// A connection to a cluster's API server, with the rights of whoever runs kubectl.
#[derive(Clone)]
pub struct Cluster {
    pub(super) client: Client,
    server: String,
    namespace: String,
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

/// The API server does not let this user do something.
#[derive(Debug, PartialEq, Eq)]
pub struct Forbidden {
    /// What is missing.
    missing: String,
    /// The server's words.
    says: String,
}

impl Cluster {
    /// Reads the configuration as kubectl does. Contacts nobody yet.
    ///
    /// # Errors
    ///
    /// When there is no configuration, or it cannot be used.
    pub async fn configured(kubeconfig: Option<&Path>, context: Option<&str>) -> Result<Self> {
        let config = config::find(kubeconfig, context).await?;
        Self::new(config.context(
            "there is no kubeconfig: name one with --kubeconfig or KUBECONFIG, or let the pod have a service account",
        )?)
    }

    pub(super) fn new(mut config: Config) -> Result<Self> {
        config.connect_timeout = Some(TIMEOUT);
        config.default_retry = false;
        let (server, namespace) = (config.cluster_url.to_string(), config.default_namespace.clone());
        let client = Client::try_from(config).context("setting up the Kubernetes client")?;
        Ok(Self { client, server, namespace })
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
    pub(super) async fn ask<T>(
        &self,
        request: Request<'_>,
        answer: impl Future<Output = kube::Result<T>>,
    ) -> Result<Option<T>> {
        match tokio::time::timeout(TIMEOUT, answer).await {
            Ok(Ok(answer)) => Ok(Some(answer)),
            Ok(Err(kube::Error::Api(status)))
                if status.is_not_found() && (request.name.is_some() || request.verb == "create") =>
            {
                Ok(None)
            }
            Ok(Err(error)) => Err(self.explain(request, error)),
            Err(_) => Err(anyhow!("Kubernetes API at {}: no answer within 10 s to {request}", self.server)),
        }
    }

    /// An error as one line, [`Forbidden`] when the rights are missing.
    pub(super) fn explain(&self, request: Request<'_>, error: kube::Error) -> anyhow::Error {
        let server = &self.server;
        match error {
            kube::Error::Api(status) => self.refusal(request, &status),
            other => anyhow!("Kubernetes API at {server}: {request}: {}", root(&other.into())),
        }
    }

    pub(super) fn refusal(&self, request: Request<'_>, status: &Status) -> anyhow::Error {
        match status.code {
            // Admission refuses with the same code as RBAC, but says more than who may do what.
            403 if !is_admission(&status.message) => {
                let missing = request.to_string();
                // To one request can belong several rights.
                let missing = match refused_verb(&status.message) {
                    Some(verb) => missing.replacen(request.verb, verb, 1),
                    None => missing,
                };
                Forbidden { missing, says: status.message.clone() }.into()
            }
            401 => anyhow!(
                "Kubernetes API at {}: it does not know you ({}): log in again, or choose another context with -x",
                self.server,
                status.message
            ),
            code => anyhow!("Kubernetes API at {}: {request}: {} ({code})", self.server, status.message),
        }
    }
}

/// What is at the bottom of an error: those above repeat it. The TLS library's link into its own documentation is left
/// out.
pub(super) fn root(error: &anyhow::Error) -> String {
    let root = error.root_cause().to_string();
    match root.split_once(": https://docs.rs/") {
        Some((what, _)) => what.to_owned(),
        None => root,
    }
}

/// The verb that RBAC refuses.
fn refused_verb(message: &str) -> Option<&str> {
    message.split_once(" cannot ")?.1.split(' ').next()
}

/// Whether a 403 comes from PodSecurity or another admission controller. RBAC's own begin alike, and then say
/// `User "…" cannot VERB resource`.
fn is_admission(message: &str) -> bool {
    refused_verb(message).is_none()
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
            (None, "nodes" | "namespaces") => Ok(()),
            (None, _) => write!(f, " in all namespaces"),
        }
    }
}

impl fmt::Display for Forbidden {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { missing, says } = self;
        write!(f, "you may not {missing}: ask for a role that allows it (the API server says: {says})")
    }
}

impl std::error::Error for Forbidden {}

/// The client tells no secrets.
impl fmt::Debug for Cluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cluster").field("server", &self.server).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Error, ErrorKind};

    use super::*;

    #[test]
    fn an_error_is_told_once_and_without_links() {
        let cut = "peer closed connection without sending TLS close_notify: https://docs.rs/rustls/latest/rustls/#eof";
        let error = anyhow::Error::from(Error::new(ErrorKind::UnexpectedEof, cut))
            .context(format!("IO error: {cut}"));
        assert_eq!(root(&error), "peer closed connection without sending TLS close_notify");
        assert_eq!(root(&anyhow!("no such host")), "no such host");
    }
}
