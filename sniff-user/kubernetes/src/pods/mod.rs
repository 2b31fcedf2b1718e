//! Pods: which are meant, what the API knows of them, and [`follow`] for those to come.

mod facts;
pub(crate) mod state;
mod watch;

use std::{fmt, net::IpAddr};

use anyhow::Result;
use k8s_openapi::api::core::v1;
use kube::{Api, ResourceExt as _, api::ListParams};
use sniff_pcapng::PodFacts;

use crate::{Cluster, Request, names::of_pod};

pub use self::{
    facts::owner_by_labels,
    watch::{Change, Follow, follow},
};

/// Carries the UID by which the kubelet knows a static pod; the API's object has another
/// (kubernetes `pkg/kubelet/types/pod_update.go`).
const MIRROR: &str = "kubernetes.io/config.mirror";

/// What the API knows of a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pod {
    /// Namespace of the API's object.
    pub namespace: String,
    /// Name of the API's object.
    pub name: String,
    /// The UID by which the node knows the pod.
    pub uid: String,
    /// The node it runs on, once it is scheduled.
    pub node: Option<String>,
    /// `Pending`, `Running`, `Succeeded`, `Failed` or `Unknown`.
    pub phase: String,
    /// Whether it has a sandbox, and with that a network: so it has while its init containers run, when its phase is
    /// `Pending` still.
    pub has_sandbox: bool,
    /// Whether it uses the node's network namespace.
    pub host_network: bool,
    /// The ids of its containers, without `containerd://` and the like.
    pub container_ids: Vec<String>,
    /// Its addresses; none on its node's network.
    pub addresses: Vec<IpAddr>,
    /// The names of its containers, those of init and debug containers included.
    pub containers: Vec<String>,
    /// What else is known of it.
    pub facts: PodFacts,
}

/// Pods that are meant, as the server can tell them from others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Selection {
    /// `None` for all namespaces.
    pub namespace: Option<String>,
    /// Which pods of the namespace.
    pub by: By,
    /// `None` for all nodes.
    pub node: Option<String>,
}

/// Which pods of a namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum By {
    /// The pod of this name.
    Name(String),
    /// Those with labels that match; an empty selector matches all.
    Labels(String),
}

impl Cluster {
    /// The pod of this name; `None` when there is none.
    ///
    /// # Errors
    ///
    /// When the server refuses, or does not answer.
    pub async fn pod(&self, namespace: &str, name: &str) -> Result<Option<Pod>> {
        let request = Request { verb: "get", resource: "pods", namespace: Some(namespace), name: Some(name) };
        let api = Api::<v1::Pod>::namespaced(self.client.clone(), namespace);
        Ok(self.ask(request, api.get(name)).await?.map(Pod::from))
    }

    /// The names of the pods of a namespace; empty when there is no such namespace.
    ///
    /// # Errors
    ///
    /// When the server refuses, or does not answer.
    pub async fn pod_names(&self, namespace: &str) -> Result<Vec<String>> {
        let request = Request { verb: "list", resource: "pods", namespace: Some(namespace), name: None };
        let api = Api::<v1::Pod>::namespaced(self.client.clone(), namespace);
        let pods = self.ask(request, api.list_metadata(&ListParams::default())).await?;
        Ok(pods.into_iter().flatten().map(|pod| pod.name_any()).collect())
    }

    /// The pods that are assigned to a node.
    ///
    /// # Errors
    ///
    /// When the server refuses, or does not answer.
    pub async fn pods_on(&self, node: &str) -> Result<Vec<Pod>> {
        let here = Selection { namespace: None, by: By::Labels(String::new()), node: Some(node.to_owned()) };
        self.pods(&here).await
    }

    /// The pods that are selected now.
    ///
    /// # Errors
    ///
    /// When the server refuses, or does not answer.
    pub async fn pods(&self, selection: &Selection) -> Result<Vec<Pod>> {
        if let (By::Name(name), Some(namespace)) = (&selection.by, &selection.namespace) {
            let pod = self.pod(namespace, name).await?;
            let is_there =
                |pod: &Pod| selection.node.as_ref().is_none_or(|node| pod.node.as_ref() == Some(node));
            return Ok(pod.into_iter().filter(is_there).collect());
        }
        let api = self.api(selection);
        let (labels, fields) = selection.selectors();
        let parameters =
            ListParams { label_selector: labels, field_selector: fields, ..ListParams::default() };
        let mut pods = Vec::new();
        let take = |pod| pods.push(Pod::from(pod));
        self.list_each(selection.request("list"), &api, parameters, take).await?;
        Ok(pods)
    }

    fn api(&self, selection: &Selection) -> Api<v1::Pod> {
        match &selection.namespace {
            Some(namespace) => Api::namespaced(self.client.clone(), namespace),
            None => Api::all(self.client.clone()),
        }
    }
}

impl Selection {
    /// The label selector and the field selector for the server.
    fn selectors(&self) -> (Option<String>, Option<String>) {
        let name = match &self.by {
            By::Name(name) => Some(format!("metadata.name={name}")),
            By::Labels(_) => None,
        };
        let node = self.node.as_ref().map(|node| format!("spec.nodeName={node}"));
        let fields = name.into_iter().chain(node).collect::<Vec<_>>().join(",");
        let labels = match &self.by {
            By::Labels(labels) if !labels.is_empty() => Some(labels.clone()),
            By::Labels(_) | By::Name(_) => None,
        };
        (labels, (!fields.is_empty()).then_some(fields))
    }

    fn request(&self, verb: &'static str) -> Request<'_> {
        let name = match &self.by {
            By::Name(name) => Some(name.as_str()),
            By::Labels(_) => None,
        };
        Request { verb, resource: "pods", namespace: self.namespace.as_deref(), name }
    }
}

impl fmt::Display for Selection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let namespace = self.namespace.as_deref().unwrap_or("*");
        match &self.by {
            By::Name(name) => write!(f, "{namespace}/{name}")?,
            By::Labels(labels) => write!(f, "{namespace}/{labels}")?,
        }
        match &self.node {
            Some(node) => write!(f, " on {node}"),
            None => Ok(()),
        }
    }
}

/// The UID by which its node knows a pod.
pub(crate) fn node_uid(pod: &v1::Pod) -> String {
    let mirrored = pod.annotations().get(MIRROR).or(pod.metadata.uid.as_ref());
    mirrored.cloned().unwrap_or_default()
}

impl From<v1::Pod> for Pod {
    fn from(pod: v1::Pod) -> Self {
        let addresses = of_pod(&pod).into_iter().map(|(address, _)| address).collect();
        let facts = facts::of(&pod);
        let uid = node_uid(&pod);
        let spec = pod.spec.unwrap_or_default();
        let status = pod.status.unwrap_or_default();
        let has_sandbox = state::has_sandbox(&status);
        let ephemeral = spec.ephemeral_containers.into_iter().flatten().map(|container| container.name);
        let names = spec.containers.into_iter().chain(spec.init_containers.into_iter().flatten());
        let containers =
            [status.init_container_statuses, status.container_statuses, status.ephemeral_container_statuses];
        let container_ids = containers
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(|container| container.container_id)
            .filter_map(|id| Some(id.split_once("://")?.1.to_owned()))
            .collect();
        Self {
            namespace: pod.metadata.namespace.unwrap_or_default(),
            name: pod.metadata.name.unwrap_or_default(),
            uid,
            node: spec.node_name,
            phase: status.phase.unwrap_or_else(|| "Unknown".into()),
            has_sandbox,
            host_network: spec.host_network.unwrap_or_default(),
            container_ids,
            addresses,
            containers: names.map(|container| container.name).chain(ephemeral).collect(),
            facts,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use sniff_apiserver::ApiServer;
    use sniff_pcapng::ContainerFacts;

    use super::*;
    use crate::Login;

    async fn cluster_of(api: &ApiServer) -> Cluster {
        let login = Login { kubeconfig: Some(api.kubeconfig_file().to_owned()), ..Login::default() };
        Cluster::configured(&login).await.unwrap().unwrap()
    }

    fn front_in_api() -> Value {
        json!({
            "metadata": {"namespace": "web", "name": "front", "uid": "u-1"},
            "spec": {"nodeName": "node-2", "containers": [{"name": "a", "image": "i:1"}, {"name": "b"}]},
            "status": {"phase": "Running", "containerStatuses": [
                {"name": "a", "image": "i", "imageID": "", "ready": true, "restartCount": 2,
                 "containerID": "containerd://abc"},
                {"name": "b", "image": "i", "imageID": "", "ready": false, "restartCount": 0}
            ]},
        })
    }

    fn front() -> Pod {
        Pod {
            namespace: "web".into(),
            name: "front".into(),
            uid: "u-1".into(),
            node: Some("node-2".into()),
            phase: "Running".into(),
            has_sandbox: true,
            host_network: false,
            container_ids: vec!["abc".into()],
            addresses: Vec::new(),
            containers: vec!["a".into(), "b".into()],
            facts: PodFacts {
                node: Some("node-2".into()),
                containers: vec![
                    ContainerFacts { name: "a".into(), image: Some("i:1".into()), restarts: Some(2) },
                    ContainerFacts { name: "b".into(), image: None, restarts: Some(0) },
                ],
                ..PodFacts::default()
            },
        }
    }

    #[tokio::test]
    async fn a_pod_is_described() {
        let api = ApiServer::without_nodes();
        api.put("pods", "web", "front", front_in_api());
        let cluster = cluster_of(&api).await;
        assert_eq!(cluster.pod("web", "front").await.unwrap(), Some(front()));
        assert_eq!(cluster.pod("web", "back").await.unwrap(), None);
    }

    #[tokio::test]
    async fn a_static_pod_has_the_uid_that_the_kubelet_gave_it() {
        let api = ApiServer::without_nodes();
        let mut pod = front_in_api();
        pod["metadata"]["annotations"] = json!({"kubernetes.io/config.mirror": "0123"});
        api.put("pods", "web", "front", pod);
        let pod = cluster_of(&api).await.pod("web", "front").await.unwrap().unwrap();
        assert_eq!(pod.uid, "0123");
    }

    #[tokio::test]
    async fn pods_are_listed_by_namespace_and_by_node() {
        let api = ApiServer::without_nodes();
        api.put("pods", "web", "front", front_in_api());
        api.add_pod("web", "back", "u-2", "node-1", &json!({}));
        api.add_pod("shop", "other", "u-3", "node-1", &json!({}));
        let cluster = cluster_of(&api).await;
        assert_eq!(cluster.pod_names("web").await.unwrap(), ["back", "front"]);
        assert_eq!(cluster.pods_on("node-2").await.unwrap(), [front()]);
    }

    #[tokio::test]
    async fn a_refusal_is_one_line() {
        let api = ApiServer::without_nodes();
        api.deny("get", "pods");
        let error = format!("{:#}", cluster_of(&api).await.pod("web", "front").await.unwrap_err());
        assert!(error.starts_with("you may not get pods front in namespace web: "), "{error}");
        assert!(error.contains("pods \"front\" is forbidden") && !error.contains('\n'), "{error}");
    }

    #[test]
    fn the_server_narrows_what_it_sends() {
        let named =
            Selection { namespace: Some("a".into()), by: By::Name("b".into()), node: Some("n".into()) };
        assert_eq!(named.selectors(), (None, Some("metadata.name=b,spec.nodeName=n".into())));
        let labelled = Selection { namespace: None, by: By::Labels("app=web".into()), node: None };
        assert_eq!(labelled.selectors(), (Some("app=web".into()), None));
        assert_eq!(labelled.request("watch").to_string(), "watch pods in all namespaces");
    }
}
