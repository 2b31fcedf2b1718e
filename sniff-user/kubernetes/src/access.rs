//! What this user may do, what a namespace lets in, and what the server is.

use anyhow::Result;
use k8s_openapi::api::{
    authorization::v1::{ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec},
    core::v1,
};
use kube::{
    Api,
    api::{ListParams, PostParams},
};

use crate::{Cluster, Request};

/// Label of a namespace that says which pods PodSecurity lets in.
const ENFORCE: &str = "pod-security.kubernetes.io/enforce";
/// The only level that lets in what sniff's pods take: the node's processes and folders.
const LEVEL: &str = "privileged";

/// RBAC's answer to a question about a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Permission {
    /// The request would be allowed.
    Granted,
    /// It would not.
    Denied,
}

/// A pod that an admission controller has not let in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RefusedPod {
    /// What the API server says.
    pub says: String,
    /// What to do about that, where it is known.
    pub remedy: Option<String>,
}

/// Version of the API server, such as `v1.36.1`.
pub type ServerVersion = String;

/// What has PodSecurity let sniff's pods into a namespace, and who may do that.
pub fn how_to_let_in(namespace: &str) -> String {
    format!(
        "PodSecurity lets pods with hostPID and host paths into namespaces with the label {ENFORCE}: {LEVEL} alone; have \
         whoever may patch namespaces, as cluster administrators, run `kubectl label --overwrite namespace {namespace} \
         {ENFORCE}={LEVEL}`"
    )
}

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

    /// Why Kubernetes does not let a Job or a DaemonSet have its pods, as far as its events may be read.
    pub async fn refused_pod(&self, namespace: &str, owner: &str) -> Option<RefusedPod> {
        let refused = format!("involvedObject.name={owner},reason=FailedCreate");
        let says = self.events(namespace, &refused).await?.filter_map(|event| event.message).last()?;
        Some(RefusedPod { remedy: remedy(&says, namespace), says })
    }

    /// The events that a field selector picks, if they may be read.
    pub(crate) async fn events(
        &self,
        namespace: &str,
        fields: &str,
    ) -> Option<impl Iterator<Item = v1::Event> + use<>> {
        let request = Request { verb: "list", resource: "events", namespace: Some(namespace), name: None };
        let api = Api::<v1::Event>::namespaced(self.client.clone(), namespace);
        let picked = ListParams::default().fields(fields);
        Some(self.ask(request, api.list(&picked)).await.ok()??.into_iter())
    }
}

/// What to do about an admission controller that has refused a pod with these words.
fn remedy(says: &str, namespace: &str) -> Option<String> {
    if says.contains("PodSecurity") {
        Some(how_to_let_in(namespace))
    } else if says.contains("security context constraint") {
        Some(format!(
            "OpenShift lets in what constraints allow that the pod's account may use; have a cluster administrator apply \
             deploy/overlays/openshift/scc.yaml, or, for --privileged, run `oc adm policy add-scc-to-user privileged -z sniff -z \
             default -n {namespace}`"
        ))
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_refuses_a_pod_is_told_from_its_words() {
        let of = |says| remedy(says, "tools").unwrap_or_default();
        let label = "namespace tools pod-security.kubernetes.io/enforce=privileged`";
        assert!(of("violates PodSecurity \"baseline:latest\": hostPath volumes").contains(label));
        let by_openshift =
            "unable to validate against any security context constraint: [provider \"anyuid\"]";
        assert!(of(by_openshift).contains("add-scc-to-user privileged -z sniff -z default -n tools`"));
        assert_eq!(of("exceeded quota"), "");
    }
}
