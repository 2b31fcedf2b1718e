//! From what a person names to the pods that are meant, now and later.
//!
//! One selection is one watch, narrowed by the server to what matters: kube's watcher lists once, goes on from there,
//! resumes where it has ended, and lists again when the server has forgotten that place (410 Gone). After an outage
//! another one takes its place, whose list tells that the outage is over; pauses between tries are longer each time, and
//! never are two clients in step.

use std::{collections::HashMap, time::Duration};

use anyhow::{Context as _, Result, bail};
use futures_util::StreamExt as _;
use k8s_openapi::{
    api::{
        apps::v1::{DaemonSet, Deployment, ReplicaSet, StatefulSet},
        batch::v1::Job,
        core::v1,
    },
    apimachinery::pkg::apis::meta::v1::LabelSelector,
};
use kube::{
    Api, ResourceExt as _,
    api::ListParams,
    core::Selector,
    runtime::watcher::{self, Event, watcher},
};
use serde::de::DeserializeOwned;
use tokio::{sync::mpsc, task::AbortHandle, time::sleep};

use super::{Backoff, Cluster, Forbidden, Pod, Request};

/// The longest pause between two tries of a watch.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// The code of an answer from a server that has forgotten where a watch was.
const EXPIRED: u16 = 410;

/// Where a kubelet serves unless told otherwise.
const KUBELET_PORT: u16 = 10250;

/// Pods that are meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Selection {
    /// Their namespace; `None` for all.
    pub namespace: Option<String>,
    /// Which of them.
    pub by: By,
    /// The node that they must be on.
    pub node: Option<String>,
}

/// How pods are told apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum By {
    /// The pod of this name.
    Name(String),
    /// Those with labels that match; an empty selector matches all.
    Labels(String),
}

/// The kinds of objects that own or choose pods.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Workload {
    /// A Deployment.
    Deployment,
    /// A StatefulSet.
    StatefulSet,
    /// A DaemonSet.
    DaemonSet,
    /// A ReplicaSet.
    ReplicaSet,
    /// A Job.
    Job,
    /// A Service.
    Service,
}

/// What happens to the pods of a selection.
#[derive(Debug)]
pub enum Change {
    /// These are all of them: at first, after [`Change::Trouble`], and after the server has lost track.
    All(Vec<Pod>),
    /// One is new, or is not as it was.
    Applied(Pod),
    /// One is gone.
    Gone(Pod),
    /// The server does not answer, or refuses; tries go on.
    Trouble(anyhow::Error),
    /// The server does not let this user watch: this is all there will be.
    NotAllowed(Forbidden),
}

/// A watch that goes on until this is dropped.
pub struct Follow(AbortHandle);

impl Drop for Follow {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// What the API knows of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeFacts {
    /// Its name.
    pub name: String,
    /// Release of its kernel.
    pub kernel: String,
    /// `linux` or `windows`.
    pub os: String,
    /// The port that its kubelet serves.
    pub kubelet_port: u16,
}

impl Cluster {
    /// The pods of a workload, or those that a service chooses.
    ///
    /// # Errors
    ///
    /// When there is no such object, it chooses no pods by labels, or the server refuses.
    pub async fn pods_of(&self, workload: Workload, namespace: &str, name: &str) -> Result<Selection> {
        let selector = match workload {
            Workload::Deployment => self
                .object::<Deployment>("deployments.apps", namespace, name)
                .await?
                .spec
                .map(|it| it.selector),
            Workload::StatefulSet => self
                .object::<StatefulSet>("statefulsets.apps", namespace, name)
                .await?
                .spec
                .map(|it| it.selector),
            Workload::DaemonSet => {
                self.object::<DaemonSet>("daemonsets.apps", namespace, name).await?.spec.map(|it| it.selector)
            }
            Workload::ReplicaSet => self
                .object::<ReplicaSet>("replicasets.apps", namespace, name)
                .await?
                .spec
                .map(|it| it.selector),
            Workload::Job => {
                self.object::<Job>("jobs.batch", namespace, name).await?.spec.and_then(|it| it.selector)
            }
            Workload::Service => {
                let service = self.object::<v1::Service>("services", namespace, name).await?;
                let match_labels = service.spec.and_then(|it| it.selector);
                match_labels.map(|it| LabelSelector { match_labels: Some(it), match_expressions: None })
            }
        };
        let labels = labels(selector.unwrap_or_default())?;
        if labels.is_empty() {
            bail!("{namespace}/{name} chooses no pods by labels: name the pods, or use -l");
        }
        Ok(Selection { namespace: Some(namespace.into()), by: By::Labels(labels), node: None })
    }

    async fn object<K>(&self, resource: &'static str, namespace: &str, name: &str) -> Result<K>
    where
        K: kube::Resource<DynamicType = (), Scope = kube::core::NamespaceResourceScope>
            + Clone
            + DeserializeOwned
            + std::fmt::Debug,
    {
        let request = Request { verb: "get", resource, namespace: Some(namespace), name: Some(name) };
        let api = Api::<K>::namespaced(self.client.clone(), namespace);
        match self.ask(request, api.get(name)).await? {
            Some(found) => Ok(found),
            None => bail!(self.no_such(api, Some(namespace), name).await),
        }
    }

    /// The pods that are selected now.
    ///
    /// # Errors
    ///
    /// When the server refuses, or does not answer.
    pub async fn pods(&self, selection: &Selection) -> Result<Vec<Pod>> {
        let api = self.api(selection);
        if let (By::Name(name), Some(_)) = (&selection.by, &selection.namespace) {
            let pod = self.ask(selection.request("get"), api.get(name)).await?.map(Pod::from);
            let is_there =
                |pod: &Pod| selection.node.as_ref().is_none_or(|node| pod.node.as_ref() == Some(node));
            return Ok(pod.into_iter().filter(is_there).collect());
        }
        let (labels, fields) = selection.selectors();
        let mut parameters = ListParams::default().limit(500);
        (parameters.label_selector, parameters.field_selector) = (labels, fields);
        let mut pods = Vec::new();
        loop {
            let page = self.ask(selection.request("list"), api.list(&parameters)).await?;
            let page = page.context("the server knows no pods")?;
            parameters.continue_token = page.metadata.continue_.clone().filter(|token| !token.is_empty());
            pods.extend(page.into_iter().map(Pod::from));
            if parameters.continue_token.is_none() {
                return Ok(pods);
            }
        }
    }

    fn api(&self, selection: &Selection) -> Api<v1::Pod> {
        match &selection.namespace {
            Some(namespace) => Api::namespaced(self.client.clone(), namespace),
            None => Api::all(self.client.clone()),
        }
    }

    /// A node of this name.
    ///
    /// # Errors
    ///
    /// When there is none, or the server refuses.
    pub async fn node(&self, name: &str) -> Result<NodeFacts> {
        let request = Request { verb: "get", resource: "nodes", namespace: None, name: Some(name) };
        let api = Api::<v1::Node>::all(self.client.clone());
        match self.ask(request, api.get(name)).await? {
            Some(node) => Ok(NodeFacts::from(node)),
            None => bail!(self.no_such(api, None, name).await),
        }
    }

    /// All nodes.
    ///
    /// # Errors
    ///
    /// When the server refuses, or does not answer.
    pub async fn nodes(&self) -> Result<Vec<NodeFacts>> {
        let request = Request { verb: "list", resource: "nodes", namespace: None, name: None };
        let api = Api::<v1::Node>::all(self.client.clone());
        let nodes = self.ask(request, api.list(&ListParams::default())).await?;
        Ok(nodes.into_iter().flatten().map(NodeFacts::from).collect())
    }
}

/// Follows a selection: [`Change::All`] comes first, then what changes, until the answer is dropped.
pub fn follow(cluster: Cluster, selection: Selection, changes: mpsc::Sender<Change>) -> Follow {
    Follow(tokio::spawn(watch(cluster, selection, changes)).abort_handle())
}

/// Pauses between the tries of a watch: never so long that pods which start after an outage are missed.
struct Pauses(Backoff);

impl Iterator for Pauses {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        let pause = self.0.next()?;
        // Still no two clients in step.
        Some(if pause <= LONGEST_PAUSE {
            pause
        } else {
            LONGEST_PAUSE.mul_f32(fastrand::f32().midpoint(1.0))
        })
    }
}

async fn watch(cluster: Cluster, selection: Selection, changes: mpsc::Sender<Change>) {
    for pause in Pauses(Backoff::default()) {
        let Err(error) = watch_once(&cluster, &selection, &changes).await else { return };
        let (change, is_over) = match trouble(&cluster, &selection, error).downcast::<Forbidden>() {
            // Whoever is told this has taken over.
            Ok(forbidden) => (Change::NotAllowed(forbidden), true),
            Err(error) => (Change::Trouble(error), false),
        };
        if changes.send(change).await.is_err() || is_over {
            return;
        }
        sleep(pause).await;
    }
}

/// Lists and watches until something goes wrong, or nobody hears it any more.
async fn watch_once(
    cluster: &Cluster,
    selection: &Selection,
    changes: &mpsc::Sender<Change>,
) -> Result<(), watcher::Error> {
    let (labels, fields) = selection.selectors();
    let config =
        watcher::Config { label_selector: labels, field_selector: fields, ..watcher::Config::default() };
    let mut events = watcher(cluster.api(selection), config).boxed();
    let (mut listed, mut known) = (Vec::new(), HashMap::new());
    while let Some(event) = events.next().await {
        let change = match event {
            Ok(Event::Init) => {
                listed.clear();
                continue;
            }
            Ok(Event::InitApply(pod)) => {
                listed.push(Pod::from(pod));
                continue;
            }
            Ok(Event::InitDone) => {
                known = listed.iter().map(|pod| (pod.uid.clone(), pod.clone())).collect();
                Change::All(std::mem::take(&mut listed))
            }
            Ok(Event::Apply(pod)) => {
                let pod = Pod::from(pod);
                // Kubelets report every few seconds; most of that changes nothing here.
                if known.insert(pod.uid.clone(), pod.clone()).as_ref() == Some(&pod) {
                    continue;
                }
                Change::Applied(pod)
            }
            Ok(Event::Delete(pod)) => {
                let pod = Pod::from(pod);
                known.remove(&pod.uid);
                Change::Gone(pod)
            }
            // It lists again by itself.
            Err(watcher::Error::WatchError(status)) if status.code == EXPIRED => continue,
            Err(error) => return Err(error),
        };
        if changes.send(change).await.is_err() {
            break;
        }
    }
    Ok(())
}

fn trouble(cluster: &Cluster, selection: &Selection, error: watcher::Error) -> anyhow::Error {
    match error {
        watcher::Error::InitialListFailed(error) => cluster.explain(selection.request("list"), error),
        watcher::Error::WatchStartFailed(error) | watcher::Error::WatchFailed(error) => {
            cluster.explain(selection.request("watch"), error)
        }
        watcher::Error::WatchError(status) => cluster.refusal(selection.request("watch"), &status),
        other @ watcher::Error::NoResourceVersion => other.into(),
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

/// As kubectl abbreviates it.
impl std::fmt::Display for Workload {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Deployment => "deploy",
            Self::StatefulSet => "sts",
            Self::DaemonSet => "ds",
            Self::ReplicaSet => "rs",
            Self::Job => "job",
            Self::Service => "svc",
        })
    }
}

impl std::fmt::Display for Selection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
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

/// A selector as the text that the server takes in a query.
fn labels(selector: LabelSelector) -> Result<String> {
    let selector =
        Selector::try_from(selector).context("a label selector that this sniff does not understand")?;
    Ok(selector.to_string())
}

impl From<v1::Node> for NodeFacts {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn selectors_become_what_the_server_takes() {
        let selector: LabelSelector = serde_json::from_str(
            r#"{"matchLabels": {"app": "web"}, "matchExpressions": [
                {"key": "tier", "operator": "In", "values": ["a", "b"]},
                {"key": "canary", "operator": "DoesNotExist"}]}"#,
        )
        .unwrap();
        assert_eq!(labels(selector).unwrap(), "app=web,tier in (a,b),!canary");
        assert_eq!(labels(LabelSelector::default()).unwrap(), "");
    }

    #[test]
    fn a_watch_is_never_long_without_a_try() {
        let pauses: Vec<Duration> = Pauses(Backoff::default()).take(50).collect();
        assert_eq!(pauses.len(), 50, "it gives up");
        assert!(pauses.iter().all(|pause| *pause <= LONGEST_PAUSE), "{pauses:?}");
        assert!(pauses[10..].iter().all(|pause| *pause >= LONGEST_PAUSE / 2), "{pauses:?}");
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
