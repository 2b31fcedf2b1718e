//! From a workload or service to the pods that it chooses.

use std::fmt;

use anyhow::{Context as _, Result, bail};
use k8s_openapi::{
    api::{
        apps::v1::{DaemonSet, Deployment, ReplicaSet, StatefulSet},
        batch::v1::Job,
        core::v1,
    },
    apimachinery::pkg::apis::meta::v1::LabelSelector,
};
use kube::{
    Api, Resource,
    core::{NamespaceResourceScope, Selector},
};
use serde::de::DeserializeOwned;

use crate::{
    Cluster, Request,
    pods::{By, Selection},
};

/// The kinds of objects that own or choose pods.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "they are called what Kubernetes calls them")]
pub enum Workload {
    Deployment,
    StatefulSet,
    DaemonSet,
    ReplicaSet,
    Job,
    Service,
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
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + DeserializeOwned + fmt::Debug,
    {
        let request = Request { verb: "get", resource, namespace: Some(namespace), name: Some(name) };
        let api = Api::<K>::namespaced(self.client.clone(), namespace);
        match self.ask(request, api.get(name)).await? {
            Some(found) => Ok(found),
            None => bail!(self.no_such(api, Some(namespace), name).await),
        }
    }
}

/// As kubectl abbreviates it.
impl fmt::Display for Workload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
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

/// A selector as the text that the server takes in a query.
fn labels(selector: LabelSelector) -> Result<String> {
    let selector =
        Selector::try_from(selector).context("a label selector that this sniff does not understand")?;
    Ok(selector.to_string())
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
}
