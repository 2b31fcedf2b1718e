//! Who denies captures, by a label: pods and namespaces, followed for as long as somebody captures on a node.
//!
//! The server is asked for those alone that have the label, which are few, and tells of each change. So nothing is asked when
//! a pod joins, however many do, and a label that comes later is heard of at once.

use std::{collections::BTreeMap, fmt::Debug, pin::pin};

use anyhow::{Result, anyhow};
use futures_util::StreamExt as _;
use k8s_openapi::api::core::v1;
use kube::{Api, Resource, ResourceExt as _, core::PartialObjectMeta, runtime::watcher};
use serde::de::DeserializeOwned;
use tokio::{sync::watch, time::sleep};

use crate::{
    Cluster, Request,
    refusal::explain_watch,
    watching::{Heard, Pauses, hear},
};

/// Says of a pod, or of all pods of a namespace, whether they may be captured. A prefix without a dot is no domain that
/// somebody could own.
pub const LABEL: &str = "sniff/capture";

/// What the label says of the pods of a node and of namespaces, as far as it is known.
#[derive(Clone, Debug, Default)]
pub struct CaptureLabels {
    pods: Labels,
    namespaces: Labels,
}

/// The label's values, by the namespaces (empty for what is in none) and names of the objects that have it.
#[derive(Clone, Debug, Default)]
struct Labels {
    values: BTreeMap<(String, String), String>,
    /// Whether these are all; without, why that is not known, as soon as it is known.
    is_whole: bool,
    trouble: Option<String>,
}

impl CaptureLabels {
    /// Whether all is known that can be.
    pub fn is_settled(&self) -> bool {
        [&self.pods, &self.namespaces].iter().all(|it| it.is_whole || it.trouble.is_some())
    }

    /// The label of a pod, and that of its namespace.
    ///
    /// # Errors
    ///
    /// When they are not known: the server refuses, or does not answer.
    pub fn of(&self, namespace: &str, name: &str) -> Result<(Option<&str>, Option<&str>)> {
        Ok((self.pods.of(namespace, name)?, self.namespaces.of("", namespace)?))
    }
}

impl Labels {
    fn of(&self, namespace: &str, name: &str) -> Result<Option<&str>> {
        match (self.is_whole, &self.trouble) {
            (true, _) => Ok(self.values.get(&(namespace.to_owned(), name.to_owned())).map(String::as_str)),
            (false, Some(trouble)) => Err(anyhow!("{trouble}")),
            (false, None) => Err(anyhow!("the Kubernetes API has not answered yet")),
        }
    }
}

impl Cluster {
    /// Follows the labels of the pods that are on `node`, or on any, and of all namespaces, until nobody hears of them.
    pub fn follow_capture_labels(self, node: Option<&str>) -> watch::Receiver<CaptureLabels> {
        let (sender, labels) = watch::channel(CaptureLabels::default());
        let of_node = watcher::Config {
            field_selector: node.map(|node| format!("spec.nodeName={node}")),
            ..labelled()
        };
        tokio::spawn(async move {
            let pods = self.follow_labels::<v1::Pod>("pods", of_node, &sender, |all| &mut all.pods);
            let namespaces = self
                .follow_labels::<v1::Namespace>("namespaces", labelled(), &sender, |all| &mut all.namespaces);
            tokio::select! {
                never = async { tokio::join!(pods, namespaces).0 } => never,
                () = sender.closed() => {}
            }
        });
        labels
    }

    async fn follow_labels<K>(
        &self,
        resource: &'static str,
        config: watcher::Config,
        told: &watch::Sender<CaptureLabels>,
        part: fn(&mut CaptureLabels) -> &mut Labels,
    ) where
        K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + 'static,
    {
        let request = |verb| Request { verb, resource, namespace: None, name: None };
        for pause in Pauses::default() {
            let api = Api::<PartialObjectMeta<K>>::all(self.client.clone());
            let trouble = match watch_labels(api, config.clone(), told, part).await {
                Ok(()) => anyhow!("the watch of {resource} has ended"),
                Err(error) => explain_watch(self.server(), request, error),
            };
            told.send_modify(|all| {
                let part = part(all);
                (part.is_whole, part.trouble) = (false, Some(format!("{trouble:#}")));
            });
            sleep(pause).await;
        }
    }
}

/// Those alone that have the label.
fn labelled() -> watcher::Config {
    watcher::Config { label_selector: Some(LABEL.to_owned()), ..watcher::Config::default() }
}

/// Lists and watches until something goes wrong.
async fn watch_labels<K>(
    api: Api<PartialObjectMeta<K>>,
    config: watcher::Config,
    told: &watch::Sender<CaptureLabels>,
    part: fn(&mut CaptureLabels) -> &mut Labels,
) -> Result<(), watcher::Error>
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + 'static,
{
    let of = |object: PartialObjectMeta<K>| {
        let key = (object.namespace().unwrap_or_default(), object.name_any());
        (key, object.labels().get(LABEL).cloned())
    };
    let mut events = pin!(hear(api, config, of));
    while let Some(heard) = events.next().await {
        match heard? {
            Heard::All(objects) => {
                let labelled = objects.into_iter().filter_map(|(key, value)| Some((key, value?)));
                let values = labelled.collect();
                told.send_modify(|all| *part(all) = Labels { values, is_whole: true, trouble: None });
            }
            Heard::Applied((key, value)) => told.send_modify(|all| {
                match value {
                    Some(value) => part(all).values.insert(key, value),
                    None => part(all).values.remove(&key),
                };
            }),
            Heard::Gone((key, _)) => told.send_modify(|all| {
                part(all).values.remove(&key);
            }),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use sniff_apiserver::ApiServer;

    use super::*;
    use crate::Login;

    async fn follow(api: &ApiServer) -> watch::Receiver<CaptureLabels> {
        let login = Login { kubeconfig: Some(api.kubeconfig_file().to_owned()), ..Login::default() };
        Cluster::configured(&login).await.unwrap().unwrap().follow_capture_labels(Some("n1"))
    }

    /// Waits until the labels of a pod, and of its namespace, are these.
    async fn wait_for(
        labels: &mut watch::Receiver<CaptureLabels>,
        (namespace, name): (&str, &str),
        wanted: (Option<&str>, Option<&str>),
    ) {
        let is_it = |all: &CaptureLabels| all.of(namespace, name).is_ok_and(|it| it == wanted);
        labels.wait_for(is_it).await.unwrap();
    }

    fn put_namespace(api: &ApiServer, name: &str, labels: &Value) {
        api.put("namespaces", "", name, json!({"metadata": {"name": name, "labels": labels}}));
    }

    #[tokio::test]
    async fn labels_are_known_from_the_start_and_when_they_come_and_go() {
        let api = ApiServer::without_nodes();
        api.add_pod("shop", "db-0", "u1", "n1", &json!({LABEL: "deny"}));
        api.add_pod("shop", "web-0", "u2", "n1", &json!({"app": "web"}));
        put_namespace(&api, "tools", &json!({LABEL: "deny"}));
        let mut labels = follow(&api).await;
        labels.wait_for(CaptureLabels::is_settled).await.unwrap();
        wait_for(&mut labels, ("shop", "db-0"), (Some("deny"), None)).await;
        wait_for(&mut labels, ("shop", "web-0"), (None, None)).await;
        wait_for(&mut labels, ("tools", "any"), (None, Some("deny"))).await;
        api.add_pod("shop", "web-0", "u2", "n1", &json!({"app": "web", LABEL: "no"}));
        wait_for(&mut labels, ("shop", "web-0"), (Some("no"), None)).await;
        put_namespace(&api, "shop", &json!({LABEL: "deny"}));
        wait_for(&mut labels, ("shop", "web-0"), (Some("no"), Some("deny"))).await;
        api.remove_pod("shop", "web-0");
        wait_for(&mut labels, ("shop", "web-0"), (None, Some("deny"))).await;
    }

    #[tokio::test]
    async fn what_the_server_refuses_is_not_known_and_neither_is_what_comes_in_an_outage() {
        let api = ApiServer::without_nodes();
        api.deny("list", "namespaces");
        let mut labels = follow(&api).await;
        labels.wait_for(CaptureLabels::is_settled).await.unwrap();
        let error = labels.borrow().of("shop", "web-0").unwrap_err().to_string();
        assert!(error.starts_with("you may not list namespaces"), "{error}");

        let api = ApiServer::without_nodes();
        let mut labels = follow(&api).await;
        wait_for(&mut labels, ("shop", "web-0"), (None, None)).await;
        api.go_down();
        labels.wait_for(|all| all.of("shop", "web-0").is_err()).await.unwrap();
        put_namespace(&api, "shop", &json!({LABEL: "deny"}));
        api.come_up();
        wait_for(&mut labels, ("shop", "web-0"), (None, Some("deny"))).await;
    }
}
