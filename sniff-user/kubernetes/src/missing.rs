//! Why what a person named is not there, or cannot be captured, and what may have been meant.
//!
//! Whatever may not be looked at is left out of the answer: these are questions about a question that has failed.

use std::fmt::Debug;

use k8s_openapi::api::core::v1;
use kube::{Api, Resource, ResourceExt as _, api::ListParams};
use serde::de::DeserializeOwned;
use sniff_cli::similar::{did_you_mean, did_you_mean_name};

use crate::{
    Cluster, Request,
    pods::{Pod, state::trouble},
};

impl Cluster {
    /// Why the pod of this name cannot be captured, with the restrictions that a person has made.
    pub async fn why_not(
        &self,
        namespace: &str,
        name: &str,
        node: Option<&str>,
        container: Option<&str>,
    ) -> String {
        let api = Api::<v1::Pod>::namespaced(self.client.clone(), namespace);
        let request = Request { verb: "get", resource: "pods", namespace: Some(namespace), name: Some(name) };
        let found = match self.ask(request, api.get(name)).await {
            Ok(Some(found)) => found,
            Ok(None) => return self.no_such_pod(namespace, name).await,
            Err(error) => return format!("{error:#}"),
        };
        let because = found.status.as_ref().and_then(trouble);
        let pod = Pod::from(found);
        let full = format!("pod {namespace}/{name}");
        match pod.phase.as_str() {
            "Succeeded" => return format!("{full} has completed: it has no network any more"),
            "Failed" => {
                let because = because.unwrap_or_default();
                return format!("{full} has failed ({because}): it has no network any more");
            }
            _ => {}
        }
        if let (Some(asked), Some(there)) = (node, &pod.node)
            && asked != there
        {
            return format!("{full} is on node {there}, not on {asked}");
        }
        if let Some(container) = container
            && !pod.containers.contains(&container.to_owned())
        {
            let containers = pod.containers.join(", ");
            let near = did_you_mean_name(container, pod.containers);
            return format!("{full} has no container {container}, but {containers}{near}");
        }
        if pod.host_network {
            let node = pod.node.unwrap_or_default();
            return format!("{full} uses the network of its node: capture node/{node} with -i instead");
        }
        let phase = pod.phase;
        let because = because.filter(|because| *because != phase);
        let because = because.map(|because| format!(" ({because})")).unwrap_or_default();
        format!("{full} is {phase}{because} and has no network yet; by its labels (-l) it is waited for")
    }

    async fn no_such_pod(&self, namespace: &str, name: &str) -> String {
        let names = self.pod_names(namespace).await.unwrap_or_default();
        if names.is_empty()
            && let Some(why) = self.no_such_namespace(namespace).await
        {
            return why;
        }
        let pods = names.into_iter().map(|name| (namespace.to_owned(), name));
        format!("there is no pod {namespace}/{name}{}", did_you_mean(namespace, name, pods))
    }

    /// That there is no such namespace, if that is so and may be known.
    pub async fn no_such_namespace(&self, namespace: &str) -> Option<String> {
        let api = Api::<v1::Namespace>::all(self.client.clone());
        let request = Request { verb: "get", resource: "namespaces", namespace: None, name: Some(namespace) };
        if !matches!(self.ask(request, api.get(namespace)).await, Ok(None)) {
            return None;
        }
        let near = did_you_mean_name(namespace, self.names(api).await);
        Some(format!(
            "there is no namespace {namespace}{near} (a target is POD, NS/POD, or one of deploy, sts, ds, rs, job, svc and node \
             with /NAME)"
        ))
    }

    /// That there is no object of this name.
    pub(crate) async fn no_such<K>(&self, api: Api<K>, namespace: Option<&str>, name: &str) -> String
    where
        K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug,
    {
        let names = self.names(api).await;
        if let (true, Some(namespace)) = (names.is_empty(), namespace)
            && let Some(why) = self.no_such_namespace(namespace).await
        {
            return why;
        }
        let near = did_you_mean_name(name, names);
        let place = namespace.map(|namespace| format!(" in namespace {namespace}")).unwrap_or_default();
        format!("there is no {} {name}{place}{near}", K::kind(&()).to_lowercase())
    }

    /// The names of all objects, as far as they may be listed.
    async fn names<K>(&self, api: Api<K>) -> Vec<String>
    where
        K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug,
    {
        let request = Request { verb: "list", resource: "objects", namespace: None, name: None };
        let listed = self.ask(request, api.list_metadata(&ListParams::default())).await;
        listed.ok().flatten().into_iter().flatten().map(|it| it.name_any()).collect()
    }
}
