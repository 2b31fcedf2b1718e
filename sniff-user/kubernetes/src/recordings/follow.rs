//! Whom a node is to record, and how its pods are: followed for as long as somebody hears of it.

use std::{
    collections::BTreeMap,
    fmt::Debug,
    pin::pin,
    time::{Duration, UNIX_EPOCH},
};

use futures_util::StreamExt as _;
use k8s_openapi::{api::core::v1, jiff::Timestamp};
use kube::{
    Api, Resource, ResourceExt as _,
    core::{DynamicObject, PartialObjectMeta},
    runtime::watcher,
};
use serde::de::DeserializeOwned;
use tokio::{sync::watch, time::sleep};

use super::{RECORD, Recording, resource};
use crate::{
    Cluster, Request,
    pods::node_uid,
    refusal::explain_watch,
    watching::{Heard, Pauses, hear},
};

/// How long until it is looked again whether recordings are known, where the server does not know what they are.
const NOT_INSTALLED: Duration = Duration::from_secs(60);
/// The answer of such a server.
const NOT_FOUND: u16 = 404;

/// What is known of a node's pods and of who is to be recorded.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct NodePods {
    /// The pods, by the UIDs that the node knows them by; none before the server has answered.
    pub pods: Option<BTreeMap<String, NodePod>>,
    /// What the label [`RECORD`] says of namespaces.
    pub namespaces: BTreeMap<String, String>,
    /// Objects that have pods recorded, by namespace and name.
    pub recordings: BTreeMap<(String, String), Recording>,
}

/// A pod of the node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodePod {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// What its annotation [`RECORD`] says.
    pub record: Option<String>,
    /// Whether it uses the node's network.
    pub host_network: bool,
    /// Whether all of its containers have ended for good.
    pub has_ended: bool,
    /// How it is.
    pub state: PodState,
}

/// How a pod is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodState {
    /// Its containers, those of init and debug containers included.
    pub containers: Vec<ContainerState>,
    /// Its condition `Ready`, where it has one.
    pub is_ready: Option<bool>,
    /// Whether it is being deleted.
    pub is_leaving: bool,
    /// Whether its `restartPolicy` is `Never`.
    pub never_restarts: bool,
}

/// How a container of a pod is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ContainerState {
    /// Its name, which no other one of the pod has.
    pub name: String,
    /// Whether it is an init container.
    pub is_init: bool,
    /// Whether it runs.
    pub is_running: bool,
    /// Whether it is ready.
    pub is_ready: bool,
    /// How often it was restarted.
    pub restarts: u32,
    /// What it waits for, as Kubernetes says it.
    pub waiting: Option<String>,
    /// How it has ended (`state.terminated`), or else had before it was started again (`lastState.terminated`).
    pub ended: Option<Termination>,
}

/// How a container has ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Termination {
    /// Why, as Kubernetes says it.
    pub reason: Option<String>,
    /// The exit status of its first process.
    pub exit_code: i32,
    /// When, in nanoseconds since the epoch.
    pub finished: Option<u64>,
}

impl Cluster {
    /// Follows the pods of a node, and who is to be recorded, until nobody hears of it. What was known stays so in an outage.
    pub fn follow_node_pods(self, node: &str) -> watch::Receiver<NodePods> {
        let (sender, known) = watch::channel(NodePods::default());
        let of_node = watcher::Config {
            field_selector: Some(format!("spec.nodeName={node}")),
            ..watcher::Config::default()
        };
        let labelled =
            watcher::Config { label_selector: Some(RECORD.to_owned()), ..watcher::Config::default() };
        tokio::spawn(async move {
            let client = &self.client;
            let pods = self.follow_all(
                Api::<v1::Pod>::all(client.clone()),
                "pods",
                of_node,
                |pod| (node_uid(&pod), NodePod::of(pod)),
                |pods| sender.send_if_modified(|known| replace(&mut known.pods, Some(pods))),
            );
            let namespaces = self.follow_all(
                Api::<PartialObjectMeta<v1::Namespace>>::all(client.clone()),
                "namespaces",
                labelled,
                |it| (it.name_any(), it.labels().get(RECORD).cloned().unwrap_or_default()),
                |namespaces| sender.send_if_modified(|known| replace(&mut known.namespaces, namespaces)),
            );
            let recordings = self.follow_all(
                Api::<DynamicObject>::all_with(client.clone(), &resource()),
                "recordings.sniff.internal",
                watcher::Config::default(),
                |it| ((it.namespace().unwrap_or_default(), it.name_any()), Recording::of(&it)),
                |recordings| sender.send_if_modified(|known| replace(&mut known.recordings, recordings)),
            );
            tokio::select! {
                ((), (), ()) = async { tokio::join!(pods, namespaces, recordings) } => {}
                () = sender.closed() => {}
            }
        });
        known
    }

    /// Follows all objects of a kind: `tell` hears of all of them, as `of` reads them, at each change.
    async fn follow_all<K, Key, Value>(
        &self,
        api: Api<K>,
        resource: &'static str,
        config: watcher::Config,
        of: impl Fn(K) -> (Key, Value),
        tell: impl Fn(BTreeMap<Key, Value>) -> bool,
    ) where
        K: Resource + Clone + Debug + DeserializeOwned + Send + 'static,
        Key: Ord + Clone,
        Value: Clone,
    {
        let request = |verb| Request { verb, resource, namespace: None, name: None };
        for pause in Pauses::default() {
            let Err(error) = watch_all(api.clone(), config.clone(), &of, &tell).await else { continue };
            let is_unknown = matches!(&error, watcher::Error::InitialListFailed(kube::Error::Api(status))
                if status.code == NOT_FOUND);
            log::info!("{:#}", explain_watch(self.server(), request, error));
            sleep(if is_unknown { NOT_INSTALLED } else { pause }).await;
        }
    }
}

/// Lists and watches until something goes wrong.
async fn watch_all<K, Key, Value>(
    api: Api<K>,
    config: watcher::Config,
    of: &impl Fn(K) -> (Key, Value),
    tell: &impl Fn(BTreeMap<Key, Value>) -> bool,
) -> Result<(), watcher::Error>
where
    K: Resource + Clone + Debug + DeserializeOwned + Send + 'static,
    Key: Ord + Clone,
    Value: Clone,
{
    let mut known = BTreeMap::new();
    let mut events = pin!(hear(api, config, of));
    while let Some(heard) = events.next().await {
        match heard? {
            Heard::All(objects) => known = objects.into_iter().collect(),
            Heard::Applied((key, value)) => drop(known.insert(key, value)),
            Heard::Gone((key, _)) => drop(known.remove(&key)),
        }
        tell(known.clone());
    }
    Ok(())
}

/// Returns whether that is a change: a kubelet reports often what is as it was.
fn replace<T: PartialEq>(known: &mut T, by: T) -> bool {
    let is_news = *known != by;
    *known = by;
    is_news
}

impl NodePod {
    fn of(pod: v1::Pod) -> Self {
        let (namespace, name) = (pod.namespace().unwrap_or_default(), pod.name_any());
        let record = pod.annotations().get(RECORD).cloned();
        let is_leaving = pod.metadata.deletion_timestamp.is_some();
        let labels = pod.metadata.labels.unwrap_or_default();
        let spec = pod.spec.unwrap_or_default();
        let status = pod.status.unwrap_or_default();
        let mut conditions = status.conditions.iter().flatten();
        let is_ready = conditions.find(|it| it.type_ == "Ready").map(|it| it.status == "True");
        let of = |is_init| move |status| ContainerState::of(status, is_init);
        let init = status.init_container_statuses.into_iter().flatten().map(of(true));
        let main = status.container_statuses.into_iter().flatten().map(of(false));
        let debug = status.ephemeral_container_statuses.into_iter().flatten().map(of(false));
        Self {
            namespace,
            name,
            labels,
            record,
            host_network: spec.host_network.unwrap_or_default(),
            has_ended: matches!(status.phase.as_deref(), Some("Succeeded" | "Failed")),
            state: PodState {
                containers: init.chain(main).chain(debug).collect(),
                is_ready,
                is_leaving,
                never_restarts: spec.restart_policy.as_deref() == Some("Never"),
            },
        }
    }
}

impl ContainerState {
    fn of(status: v1::ContainerStatus, is_init: bool) -> Self {
        let state = status.state.unwrap_or_default();
        let ended = state.terminated.or(status.last_state.and_then(|last| last.terminated));
        Self {
            name: status.name,
            is_init,
            is_running: state.running.is_some(),
            is_ready: status.ready,
            restarts: u32::try_from(status.restart_count).unwrap_or_default(),
            waiting: state.waiting.and_then(|waiting| waiting.reason),
            ended: ended.map(|ended| Termination {
                reason: ended.reason,
                exit_code: ended.exit_code,
                finished: ended.finished_at.and_then(|it| nanoseconds(it.0)),
            }),
        }
    }
}

pub(crate) fn nanoseconds(time: Timestamp) -> Option<u64> {
    let since_epoch = std::time::SystemTime::from(time).duration_since(UNIX_EPOCH).ok()?;
    u64::try_from(since_epoch.as_nanos()).ok()
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use sniff_apiserver::ApiServer;

    use super::*;
    use crate::Login;

    async fn follow(api: &ApiServer) -> watch::Receiver<NodePods> {
        let login = Login { kubeconfig: Some(api.kubeconfig_file().to_owned()), ..Login::default() };
        Cluster::configured(&login).await.unwrap().unwrap().follow_node_pods("n1")
    }

    #[tokio::test]
    async fn who_is_to_be_recorded_is_heard_of_as_it_comes_and_goes() {
        let api = ApiServer::without_nodes();
        api.add_pod("shop", "web-0", "u1", "n1", &json!({"app": "web"}));
        let mut known = follow(&api).await;
        let has = |it: &NodePods| it.pods.as_ref().is_some_and(|pods| pods.contains_key("u1"));
        known.wait_for(has).await.unwrap();
        assert_eq!(known.borrow().pods.as_ref().unwrap()["u1"].labels["app"], "web");
        api.put("namespaces", "", "shop", json!({"metadata": {"name": "shop", "labels": {RECORD: "16MiB"}}}));
        known.wait_for(|it| it.namespaces.get("shop").is_some_and(|it| it == "16MiB")).await.unwrap();
        let spec = json!({"selector": "app=web", "memory": "64Mi"});
        api.put(
            "recordings",
            "shop",
            "web",
            json!({"metadata": {"name": "web", "namespace": "shop"}, "spec": spec}),
        );
        let key = ("shop".to_owned(), "web".to_owned());
        known.wait_for(|it| it.recordings.contains_key(&key)).await.unwrap();
        assert_eq!(known.borrow().recordings[&key].memory, Ok(64 << 20));
        api.remove("recordings", "shop", "web");
        api.remove_pod("shop", "web-0");
        known.wait_for(|it| it.recordings.is_empty() && !has(it)).await.unwrap();
    }

    #[test]
    fn how_containers_have_ended_is_known() {
        let status = json!({"name": "app", "ready": false, "restartCount": 3, "image": "", "imageID": "",
            "state": {"waiting": {"reason": "CrashLoopBackOff"}},
            "lastState": {"terminated": {"reason": "OOMKilled", "exitCode": 137, "finishedAt": "1970-01-01T00:00:02Z"}}});
        let pod: v1::Pod = serde_json::from_value(json!({
            "metadata": {"name": "a", "namespace": "b", "annotations": {RECORD: "1Mi"}},
            "spec": {"containers": [], "restartPolicy": "Never", "hostNetwork": true},
            "status": {"phase": "Running", "containerStatuses": [status],
                "conditions": [{"type": "Ready", "status": "False"}]}}))
        .unwrap();
        let pod = NodePod::of(pod);
        assert!(pod.host_network && pod.state.never_restarts && !pod.has_ended);
        assert_eq!((pod.state.is_ready, pod.record.as_deref()), (Some(false), Some("1Mi")));
        let ended =
            Termination { reason: Some("OOMKilled".into()), exit_code: 137, finished: Some(2_000_000_000) };
        let app = &pod.state.containers[0];
        assert_eq!((app.restarts, app.waiting.as_deref()), (3, Some("CrashLoopBackOff")));
        assert_eq!(app.ended, Some(ended));
    }
}
