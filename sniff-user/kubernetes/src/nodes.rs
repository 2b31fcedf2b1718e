//! What the API knows of the nodes.

use anyhow::{Result, bail};
use k8s_openapi::api::core::v1;
use kube::{Api, ResourceExt as _, api::ListParams};

use crate::{Cluster, Request};

/// Where a kubelet serves unless told otherwise.
const KUBELET_PORT: u16 = 10250;

/// A node, as the API knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Name of the API's object.
    pub name: String,
    /// Release of its kernel, as `uname -r` has it; empty where the kubelet has not told.
    pub kernel: String,
    /// `linux` or `windows`; empty where the kubelet has not told.
    pub os: String,
    /// The TCP port that its kubelet serves.
    pub kubelet_port: u16,
}

impl Cluster {
    /// The node of this name.
    ///
    /// # Errors
    ///
    /// When there is none, or the server refuses.
    pub async fn node(&self, name: &str) -> Result<Node> {
        let request = Request { verb: "get", resource: "nodes", namespace: None, name: Some(name) };
        let api = Api::<v1::Node>::all(self.client.clone());
        match self.ask(request, api.get(name)).await? {
            Some(node) => Ok(Node::from(node)),
            None => bail!(self.no_such(api, None, name).await),
        }
    }

    /// All nodes.
    ///
    /// # Errors
    ///
    /// When the server refuses, or does not answer.
    pub async fn nodes(&self) -> Result<Vec<Node>> {
        let request = Request { verb: "list", resource: "nodes", namespace: None, name: None };
        let api = Api::<v1::Node>::all(self.client.clone());
        let nodes = self.ask(request, api.list(&ListParams::default())).await?;
        Ok(nodes.into_iter().flatten().map(Node::from).collect())
    }
}

impl From<v1::Node> for Node {
    fn from(node: v1::Node) -> Self {
        let info = node.status.as_ref().and_then(|status| status.node_info.as_ref());
        let (kernel, os) =
            info.map(|info| (info.kernel_version.clone(), info.operating_system.clone())).unwrap_or_default();
        let endpoints = node.status.as_ref().and_then(|status| status.daemon_endpoints.as_ref());
        let port = endpoints.and_then(|it| u16::try_from(it.kubelet_endpoint.as_ref()?.port).ok());
        let kubelet_port = port.filter(|port| *port != 0).unwrap_or(KUBELET_PORT);
        Self { name: node.name_any(), kernel, os, kubelet_port }
    }
}
