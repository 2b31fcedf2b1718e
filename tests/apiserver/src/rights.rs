//! What the user may do: everything but what a test denies.

use serde_json::{Value, json};

use crate::{http::Refusal, router::Asked};

#[derive(Debug, Default)]
pub(crate) struct Rights {
    /// Verbs and resources.
    denials: Vec<(&'static str, &'static str)>,
}

impl Rights {
    pub(crate) fn deny(&mut self, verb: &'static str, resource: &'static str) {
        self.denials.push((verb, resource));
    }

    /// Refuses in RBAC's words. A verb may be asked of it that is not the request's.
    pub(crate) fn check(&self, verb: &str, asked: &Asked) -> Result<(), Refusal> {
        let Asked { resource, namespace, name, .. } = asked;
        if self.allow(verb, resource) {
            return Ok(());
        }
        let scope = match namespace.as_str() {
            "" => "at the cluster scope".to_owned(),
            namespace => format!("in the namespace \"{namespace}\""),
        };
        let object = if name.is_empty() { String::new() } else { format!(" \"{name}\"") };
        Err(Refusal {
            code: 403,
            reason: "Forbidden",
            message: format!(
                "{resource}{object} is forbidden: User \"jane\" cannot {verb} resource \"{resource}\" in API group \"\" \
                 {scope}"
            ),
        })
    }

    /// The answer to a `SelfSubjectAccessReview`.
    pub(crate) fn review(&self, review: &Value) -> Value {
        let asked = &review["spec"]["resourceAttributes"];
        let text = |key: &str| asked[key].as_str().unwrap_or_default().to_owned();
        let resource = match text("subresource") {
            sub if sub.is_empty() => text("resource"),
            sub => format!("{}/{sub}", text("resource")),
        };
        json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview", "spec": review["spec"],
            "status": {"allowed": self.allow(&text("verb"), &resource)}})
    }

    fn allow(&self, verb: &str, resource: &str) -> bool {
        !self.denials.contains(&(verb, resource))
    }
}
