//! The pods of sniff's DaemonSet.
//!
//! A pod is taken for one of them by its controller's UID alone: whoever may make a pod may give it any labels.

use anyhow::Result;
use k8s_openapi::api::{apps::v1::DaemonSet, core::v1};
use kube::{Api, ResourceExt as _, api::ListParams};
use log::warn;

use crate::{
    Cluster, Request,
    own::{SniffPod, door},
    pods::state::{is_of, is_running, trouble},
};

/// Name of the DaemonSet.
pub const NAME: &str = "sniff";
/// The labels that its pods are found by.
const LABELS: &str = "app.kubernetes.io/name=sniff";

/// A pod with the DaemonSet's labels, and whether it runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DaemonPod {
    /// Name of the pod.
    pub name: String,
    /// Its node, once it has one.
    pub node: Option<String>,
    /// Whether the DaemonSet made it. Others are given nothing to do.
    pub is_own: bool,
    /// Why it does not run, in Kubernetes' words; `None` when it does.
    pub trouble: Option<String>,
    /// The port of its agent's door, if it has one.
    pub door: Option<u16>,
}

impl Cluster {
    /// The DaemonSet's pod on a node, when it is ready to run commands.
    ///
    /// # Errors
    ///
    /// When the server refuses, or does not answer.
    pub async fn daemon_pod_on(&self, node: &str, namespace: &str) -> Result<Option<SniffPod>> {
        let running_there =
            ListParams::default().fields(&format!("spec.nodeName={node},status.phase=Running"));
        let pods = self.pods_like_daemons(namespace, running_there).await?;
        let mut pods = pods.into_iter().filter(is_running).peekable();
        if pods.peek().is_none() {
            return Ok(None);
        }
        let daemon_set = self.daemon_set(namespace).await?;
        let (own, strangers): (Vec<_>, Vec<_>) = pods.partition(|pod| is_of(pod, daemon_set.as_deref()));
        for stranger in strangers {
            warn!(
                "pod {namespace}/{} on node {node} has the labels of sniff's DaemonSet, but is not one of its pods: it is \
                 told nothing",
                stranger.name_any()
            );
        }
        let own = own.into_iter().next();
        Ok(own.map(|pod| SniffPod { namespace: namespace.into(), name: pod.name_any(), door: door(&pod) }))
    }

    /// The pods in a namespace that have the DaemonSet's labels, but for those that are being deleted.
    ///
    /// # Errors
    ///
    /// When the server refuses, or does not answer.
    pub async fn daemon_pods(&self, namespace: &str) -> Result<Vec<DaemonPod>> {
        let pods = self.pods_like_daemons(namespace, ListParams::default()).await?;
        if pods.is_empty() {
            return Ok(Vec::new());
        }
        let daemon_set = self.daemon_set(namespace).await?;
        let daemon_pod = |pod: v1::Pod| DaemonPod {
            name: pod.name_any(),
            is_own: is_of(&pod, daemon_set.as_deref()),
            door: door(&pod),
            trouble: pod.status.as_ref().map_or_else(|| Some("Pending".to_owned()), trouble),
            node: pod.spec.and_then(|spec| spec.node_name),
        };
        Ok(pods.into_iter().map(daemon_pod).collect())
    }

    /// Those with the DaemonSet's labels that are to stay, whosever they are.
    async fn pods_like_daemons(&self, namespace: &str, which: ListParams) -> Result<Vec<v1::Pod>> {
        let request = Request { verb: "list", resource: "pods", namespace: Some(namespace), name: None };
        let api = Api::<v1::Pod>::namespaced(self.client.clone(), namespace);
        let pods = self.ask(request, api.list(&which.labels(LABELS))).await?;
        let stays = |pod: &v1::Pod| pod.metadata.deletion_timestamp.is_none();
        Ok(pods.into_iter().flatten().filter(stays).collect())
    }

    /// The DaemonSet's UID, if there is one.
    async fn daemon_set(&self, namespace: &str) -> Result<Option<String>> {
        let request = Request {
            verb: "get",
            resource: "daemonsets.apps",
            namespace: Some(namespace),
            name: Some(NAME),
        };
        let api = Api::<DaemonSet>::namespaced(self.client.clone(), namespace);
        let found = self.ask(request, api.get(NAME)).await?;
        Ok(found.and_then(|it| it.metadata.uid))
    }
}
