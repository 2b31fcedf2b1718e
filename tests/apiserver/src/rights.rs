//! What a user may do: all that a test does not deny, and of that what RBAC grants to those whom it knows.
//!
//! Roles and bindings are objects like others. A rule grants a request when its verbs, API groups and resources, with
//! the subresource, have it, and its resource names, if it has any, name the object. A list or a watch is about one
//! object when its field selector names that.

use serde_json::{Value, json};

use crate::{http::Refusal, router::Asked, shared::State, users::User};

/// What is in every namespace, or in none.
const EVERYWHERE: &str = "";

#[derive(Debug, Default)]
pub(crate) struct Rights {
    /// Verbs and resources.
    denials: Vec<(&'static str, &'static str)>,
}

/// What RBAC looks at.
#[derive(Clone, Copy)]
struct Attributes<'a> {
    verb: &'a str,
    group: &'a str,
    resource: &'a str,
    namespace: &'a str,
    name: &'a str,
}

impl Rights {
    pub(crate) fn deny(&mut self, verb: &'static str, resource: &'static str) {
        self.denials.push((verb, resource));
    }
}

impl State {
    /// Refuses in RBAC's words. A verb may be asked of it that is not the request's.
    pub(crate) fn check(&self, verb: &str, asked: &Asked) -> Result<(), Refusal> {
        let Asked { resource, namespace, name, group, user, .. } = asked;
        let selected = asked.parameter("fieldSelector").and_then(|it| it.strip_prefix("metadata.name="));
        let object_name = if name.is_empty() { selected.unwrap_or_default() } else { name };
        if self.allow(user, &Attributes { verb, group, resource, namespace, name: object_name }) {
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
                "{resource}{object} is forbidden: User \"{}\" cannot {verb} resource \"{resource}\" in API group \"{group}\" \
                 {scope}",
                user.name()
            ),
        })
    }

    /// The answer to a `SelfSubjectAccessReview`.
    pub(crate) fn review(&self, user: &User, review: &Value) -> Value {
        let asked = &review["spec"]["resourceAttributes"];
        let text = |key: &str| asked[key].as_str().unwrap_or_default().to_owned();
        let resource = match text("subresource") {
            sub if sub.is_empty() => text("resource"),
            sub => format!("{}/{sub}", text("resource")),
        };
        let (verb, group, namespace, name) = (text("verb"), text("group"), text("namespace"), text("name"));
        let attributes = Attributes {
            verb: &verb,
            group: &group,
            resource: &resource,
            namespace: &namespace,
            name: &name,
        };
        json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview", "spec": review["spec"],
            "status": {"allowed": self.allow(user, &attributes)}})
    }

    fn allow(&self, user: &User, asked: &Attributes<'_>) -> bool {
        let is_denied = self.rights.denials.contains(&(asked.verb, asked.resource));
        !is_denied && (user.is_above_rbac() || self.granted(user, asked))
    }

    fn granted(&self, user: &User, asked: &Attributes<'_>) -> bool {
        let everywhere = self.objects.of("clusterrolebindings", EVERYWHERE);
        let here = self.objects.of("rolebindings", asked.namespace).filter(|_| !asked.namespace.is_empty());
        everywhere.chain(here).any(|(key, binding)| {
            let role = &binding["roleRef"];
            let (resource, namespace) = match role["kind"].as_str() {
                Some("ClusterRole") => ("clusterroles", EVERYWHERE),
                _ => ("roles", key.namespace.as_str()),
            };
            let mut roles = self.objects.of(resource, namespace);
            list(&binding["subjects"]).any(|subject| is_of(user, subject))
                && roles
                    .find(|(key, _)| role["name"] == json!(key.name))
                    .is_some_and(|(_, role)| list(&role["rules"]).any(|rule| grants(rule, asked)))
        })
    }
}

fn is_of(user: &User, subject: &Value) -> bool {
    let text = |key: &str| subject[key].as_str().unwrap_or_default();
    match text("kind") {
        "User" => user.name() == text("name"),
        "Group" => user.groups().iter().any(|group| group == text("name")),
        "ServiceAccount" => {
            user.name() == format!("system:serviceaccount:{}:{}", text("namespace"), text("name"))
        }
        _ => false,
    }
}

fn grants(rule: &Value, asked: &Attributes<'_>) -> bool {
    let has = |key: &str, wanted: &str| list(&rule[key]).any(|it| it == "*" || it == wanted);
    let names = list(&rule["resourceNames"]).collect::<Vec<_>>();
    has("verbs", asked.verb)
        && has("apiGroups", asked.group)
        && has("resources", asked.resource)
        && (names.is_empty() || names.iter().any(|name| *name == asked.name))
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_grants_what_it_names_and_nothing_else() {
        let rule = json!({"apiGroups": [""], "resources": ["serviceaccounts/token"], "verbs": ["create"],
            "resourceNames": ["sniff-capture"]});
        let asked = Attributes {
            verb: "create",
            group: "",
            resource: "serviceaccounts/token",
            namespace: "shop",
            name: "sniff-capture",
        };
        assert!(grants(&rule, &asked));
        assert!(!grants(&rule, &Attributes { name: "default", ..asked }));
        assert!(!grants(&rule, &Attributes { name: "", ..asked }), "a name is asked for");
        assert!(!grants(&rule, &Attributes { resource: "serviceaccounts", ..asked }));
        assert!(!grants(&rule, &Attributes { verb: "get", ..asked }));
        assert!(!grants(&rule, &Attributes { group: "apps", ..asked }));
        let all = json!({"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]});
        assert!(grants(&all, &Attributes { group: "apps", name: "", ..asked }));
    }
}
