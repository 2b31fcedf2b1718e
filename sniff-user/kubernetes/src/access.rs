//! What this user may do, and what the server is: the questions of `kubectl sniff doctor`.

use anyhow::Result;
use k8s_openapi::api::{
    authorization::v1::{ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec},
    core::v1,
};
use kube::{
    Api, ResourceExt as _,
    api::{ListParams, PostParams},
};

use super::{
    Cluster, Request,
    agent::{DAEMON_PODS, is_of},
};

/// Label of a namespace that says which pods PodSecurity lets in.
const ENFORCE: &str = "pod-security.kubernetes.io/enforce";

/// Whether a request would be allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Permission {
    /// It would.
    Granted,
    /// It would not.
    Denied,
}

/// A pod with the DaemonSet's labels, and whether it runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DaemonPod {
    /// Its name.
    pub name: String,
    /// Its node, once it has one.
    pub node: Option<String>,
    /// Whether the DaemonSet made it. Others are given nothing to do.
    pub is_own: bool,
    /// Why it does not run; `None` when it does.
    pub trouble: Option<String>,
}

/// Version of the API server, such as `v1.36.1`.
pub type ServerVersion = String;

impl Cluster {
    /// Version of the API server, which also shows that it can be reached.
    ///
    /// # Errors
    ///
    /// When it cannot.
    pub async fn version(&self) -> Result<ServerVersion> {
        let request = Request { verb: "get", resource: "version", namespace: None, name: None };
        let info = self.ask(request, self.client.apiserver_version()).await?;
        Ok(info.map(|info| info.git_version).unwrap_or_default())
    }

    /// Whether RBAC lets this user make a request (SelfSubjectAccessReview).
    ///
    /// # Errors
    ///
    /// When the server does not answer.
    pub async fn may(&self, request: Request<'_>) -> Result<Permission> {
        let (resource, group) = request.resource.split_once('.').unwrap_or((request.resource, ""));
        let (resource, subresource) =
            resource.split_once('/').map_or((resource, None), |(resource, sub)| (resource, Some(sub)));
        let attributes = ResourceAttributes {
            verb: Some(request.verb.into()),
            group: Some(group.into()),
            resource: Some(resource.into()),
            subresource: subresource.map(Into::into),
            namespace: request.namespace.map(Into::into),
            name: request.name.map(Into::into),
            ..ResourceAttributes::default()
        };
        let spec =
            SelfSubjectAccessReviewSpec { resource_attributes: Some(attributes), ..Default::default() };
        let review = SelfSubjectAccessReview { spec, ..SelfSubjectAccessReview::default() };
        let asking = Request {
            verb: "create",
            resource: "selfsubjectaccessreviews.authorization.k8s.io",
            namespace: None,
            name: None,
        };
        let api = Api::<SelfSubjectAccessReview>::all(self.client.clone());
        let answer = self.ask(asking, api.create(&PostParams::default(), &review)).await?;
        let is_allowed = answer.and_then(|review| review.status).is_some_and(|status| status.allowed);
        Ok(if is_allowed { Permission::Granted } else { Permission::Denied })
    }

    /// The PodSecurity level that a namespace enforces: `privileged`, `baseline`, `restricted`, or `None` when it has
    /// no label of its own. The outer `None`: there is no such namespace.
    ///
    /// # Errors
    ///
    /// When the server refuses, or does not answer.
    pub async fn pod_security(&self, namespace: &str) -> Result<Option<Option<String>>> {
        let request = Request { verb: "get", resource: "namespaces", namespace: None, name: Some(namespace) };
        let api = Api::<v1::Namespace>::all(self.client.clone());
        let found = self.ask(request, api.get(namespace)).await?;
        Ok(found.map(|namespace| namespace.metadata.labels.unwrap_or_default().remove(ENFORCE)))
    }

    /// The pods in a namespace that have the DaemonSet's labels, but for those that are being deleted.
    ///
    /// # Errors
    ///
    /// When the server refuses, or does not answer.
    pub async fn daemon_pods(&self, namespace: &str) -> Result<Vec<DaemonPod>> {
        let request = Request { verb: "list", resource: "pods", namespace: Some(namespace), name: None };
        let api = Api::<v1::Pod>::namespaced(self.client.clone(), namespace);
        let pods = self.ask(request, api.list(&ListParams::default().labels(DAEMON_PODS))).await?;
        let mut stay =
            pods.into_iter().flatten().filter(|pod| pod.metadata.deletion_timestamp.is_none()).peekable();
        if stay.peek().is_none() {
            return Ok(Vec::new());
        }
        let daemon_set = self.daemon_set(namespace).await?;
        let daemon_pod = |pod: v1::Pod| DaemonPod {
            name: pod.name_any(),
            is_own: is_of(&pod, daemon_set.as_deref()),
            trouble: pod.status.as_ref().map_or_else(|| Some("Pending".to_owned()), trouble),
            node: pod.spec.and_then(|spec| spec.node_name),
        };
        Ok(stay.map(daemon_pod).collect())
    }
}

/// Why a pod does not run, in Kubernetes' words.
pub(super) fn trouble(status: &v1::PodStatus) -> Option<String> {
    let phase = status.phase.as_deref().unwrap_or("Pending");
    let containers: Vec<_> = status.container_statuses.iter().flatten().collect();
    let states = containers.iter().filter_map(|container| container.state.as_ref());
    let stopped = states.filter(|state| state.running.is_none()).find_map(|state| {
        let waiting = state.waiting.as_ref().and_then(|waiting| waiting.reason.clone());
        waiting.or_else(|| state.terminated.as_ref().and_then(|ended| ended.reason.clone()))
    });
    let unmet = status.conditions.iter().flatten().filter(|condition| condition.status == "False");
    let unscheduled = unmet.filter(|it| it.type_ == "PodScheduled").find_map(|it| it.reason.clone());
    let is_running = |container: &&v1::ContainerStatus| {
        container.state.as_ref().is_some_and(|state| state.running.is_some())
    };
    let runs = phase == "Running" && !containers.is_empty() && containers.iter().all(is_running);
    (!runs).then(|| stopped.or(unscheduled).unwrap_or_else(|| phase.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trouble_of(phase: &str, rest: &str) -> Option<String> {
        let status = format!(r#"{{"phase": "{phase}", {rest}}}"#);
        trouble(&serde_json::from_str(&status).unwrap())
    }

    #[test]
    fn it_is_told_why_a_pod_does_not_run() {
        let container = |state: &str| {
            format!(
                r#""containerStatuses": [{{"name": "sniff", "image": "", "imageID": "", "ready": false,
                    "restartCount": 7, "state": {state}}}]"#
            )
        };
        assert_eq!(trouble_of("Running", &container(r#"{"running": {}}"#)), None);
        let crashed = container(r#"{"waiting": {"reason": "CrashLoopBackOff"}}"#);
        assert_eq!(trouble_of("Running", &crashed).as_deref(), Some("CrashLoopBackOff"));
        let ended = container(r#"{"terminated": {"exitCode": 1, "reason": "Error"}}"#);
        assert_eq!(trouble_of("Running", &ended).as_deref(), Some("Error"));
        let full =
            r#""conditions": [{"type": "PodScheduled", "status": "False", "reason": "Unschedulable"}]"#;
        assert_eq!(trouble_of("Pending", full).as_deref(), Some("Unschedulable"));
        assert_eq!(trouble_of("Pending", r#""conditions": []"#).as_deref(), Some("Pending"));
    }
}
