//! What this user may do, what a namespace lets in, and what the server is.

use anyhow::Result;
use k8s_openapi::api::{
    authorization::v1::{ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec},
    core::v1,
};
use kube::{Api, api::PostParams};

use crate::{Cluster, Request};

/// Label of a namespace that says which pods PodSecurity lets in.
const ENFORCE: &str = "pod-security.kubernetes.io/enforce";

/// RBAC's answer to a question about a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Permission {
    /// The request would be allowed.
    Granted,
    /// It would not.
    Denied,
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
}
