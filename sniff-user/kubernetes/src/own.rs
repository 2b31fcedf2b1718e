//! What is sniff's own in a cluster: its namespace, and the container of the pods that it captures from.
//!
//! Whoever may exec into such a pod rules its node. So one is made only in a namespace that is sniff's own, unless a
//! person takes that upon themselves.

use std::net::SocketAddr;

use anyhow::{Context as _, Result};
use k8s_openapi::api::core::v1;
use kube::{Api, ResourceExt as _};

use crate::{Cluster, Forbidden, Request, access};

/// The container that sniff runs in, in the DaemonSet's pods and in those of Jobs.
pub const CONTAINER: &str = "sniff";
/// Namespace of the DaemonSet and of Jobs, unless another is named.
pub const NAMESPACE: &str = "sniff";
/// On a namespace with the value [`NAMESPACE`], it says that the namespace is sniff's own.
pub(crate) const NAME_LABEL: &str = "app.kubernetes.io/name";

/// A pod to run sniff in, to capture on its node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SniffPod {
    /// Namespace of the pod.
    pub namespace: String,
    /// Name of the pod.
    pub name: String,
    /// The port of its agent's door, on its loopback, if it has one.
    pub door: Option<u16>,
}

/// The agent's option that says where its door is, as a variable of sniff's container.
const DOOR: &str = "SNIFF_DOOR";

/// The port of a pod's door, if it has one.
pub(crate) fn door(pod: &v1::Pod) -> Option<u16> {
    let containers = pod.spec.iter().flat_map(|spec| &spec.containers);
    let ours = containers.filter(|container| container.name == CONTAINER);
    let mut variables = ours.flat_map(|container| container.env.iter().flatten());
    let address = variables.find(|variable| variable.name == DOOR)?.value.as_deref()?;
    Some(address.parse::<SocketAddr>().ok()?.port())
}

impl Cluster {
    /// Whether a namespace is sniff's own: by its name, or by its label as far as this user may read that.
    ///
    /// # Errors
    ///
    /// When there is no such namespace, or the server does not answer.
    pub async fn is_namespace_of_sniff(&self, namespace: &str) -> Result<bool> {
        if namespace == NAMESPACE {
            return Ok(true);
        }
        let request = Request { verb: "get", resource: "namespaces", namespace: None, name: Some(namespace) };
        let api = Api::<v1::Namespace>::all(self.client.clone());
        let found = match self.ask(request, api.get(namespace)).await {
            Err(error) if error.is::<Forbidden>() => return Ok(false),
            found => found?.with_context(|| no_namespace(namespace))?,
        };
        Ok(found.labels().get(NAME_LABEL).is_some_and(|name| name == NAMESPACE))
    }
}

pub(crate) fn no_namespace(namespace: &str) -> String {
    format!(
        "there is no namespace {namespace} for short-lived pods: create it (kubectl create namespace {namespace}), and label \
         it {NAME_LABEL}={NAMESPACE}; or install the DaemonSet. {}",
        access::how_to_let_in(namespace)
    )
}
