//! The objects that the server keeps, and what has happened to them, version by version.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1;
use serde_json::{Value, json};

use crate::{http::Refusal, router::Asked, selectors::selects, shared::Shared};

/// What an object is known by.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Key {
    /// In the plural, as in paths.
    pub(crate) resource: String,
    /// Empty for what is in none.
    pub(crate) namespace: String,
    pub(crate) name: String,
}

#[derive(Debug, Default)]
pub(crate) struct Objects {
    /// Of the last change; `resourceVersion` of what is listed.
    version: u64,
    /// Versions up to this one are not known any more.
    forgotten: u64,
    all: BTreeMap<Key, Value>,
    history: Vec<Change>,
}

/// What a watch tells.
#[derive(Debug)]
struct Change {
    version: u64,
    kind: &'static str,
    key: Key,
    object: Value,
    /// What it was like before.
    before: Option<Value>,
}

impl Key {
    pub(crate) fn new(resource: &str, namespace: &str, name: &str) -> Self {
        Self { resource: resource.to_owned(), namespace: namespace.to_owned(), name: name.to_owned() }
    }
}

impl Objects {
    pub(crate) fn get(&self, key: &Key) -> Option<&Value> {
        self.all.get(key)
    }

    pub(crate) fn of(&self, resource: &str, namespace: &str) -> impl Iterator<Item = (&Key, &Value)> {
        self.all.iter().filter(move |(key, _)| key.resource == resource && key.namespace == namespace)
    }

    /// Stores an object, and returns it as it is stored.
    pub(crate) fn put(&mut self, key: &Key, mut object: Value) -> Value {
        self.version += 1;
        let (api, kind) = api_and_kind(&key.resource);
        object["apiVersion"] = json!(api);
        object["kind"] = json!(kind);
        object["metadata"]["resourceVersion"] = json!(self.version.to_string());
        let kind = if self.all.contains_key(key) { "MODIFIED" } else { "ADDED" };
        let before = self.all.insert(key.clone(), object.clone());
        self.remember(kind, key, object.clone(), before);
        object
    }

    /// Changes an object that is there.
    pub(crate) fn change(&mut self, key: &Key, change: impl FnOnce(&mut Value)) -> Option<Value> {
        let mut object = self.all.get(key)?.clone();
        change(&mut object);
        Some(self.put(key, object))
    }

    /// Changes an object by a merge patch (RFC 7386).
    pub(crate) fn patch(&mut self, key: &Key, patch: &Value) -> Option<Value> {
        self.change(key, |object| merge(object, patch))
    }

    pub(crate) fn remove(&mut self, key: &Key) {
        if let Some(mut object) = self.all.remove(key) {
            self.version += 1;
            object["metadata"]["resourceVersion"] = json!(self.version.to_string());
            self.remember("DELETED", key, object, None);
        }
    }

    fn remember(&mut self, kind: &'static str, key: &Key, object: Value, before: Option<Value>) {
        self.history.push(Change { version: self.version, kind, key: key.clone(), object, before });
    }

    /// The list that is asked for.
    pub(crate) fn list(&self, asked: &Asked) -> Value {
        let (api, kind) = api_and_kind(&asked.resource);
        let of_resource = self.all.iter().filter(|(key, _)| key.resource == asked.resource);
        let items: Vec<&Value> = of_resource
            .filter(|(key, object)| selects(asked, &key.namespace, object))
            .map(|(_, object)| object)
            .collect();
        json!({"apiVersion": api, "kind": format!("{kind}List"), "items": items,
            "metadata": {"resourceVersion": self.version.to_string()}})
    }

    /// Whether there is a namespace; what is in none needs none.
    pub(crate) fn has_namespace(&self, name: &str) -> bool {
        name.is_empty() || self.all.contains_key(&Key::new("namespaces", "", name))
    }

    pub(crate) fn version(&self) -> u64 {
        self.version
    }

    pub(crate) fn knows(&self, version: u64) -> bool {
        version >= self.forgotten
    }

    pub(crate) fn forget_versions(&mut self) {
        self.version += 1;
        self.forgotten = self.version;
    }

    /// What a watch is told of the time after `version`. What is not selected any more is deleted, as far as it is told.
    pub(crate) fn events_after(&self, version: u64, asked: &Asked) -> Vec<Value> {
        let new = self.history.iter().filter(|it| it.version > version && it.key.resource == asked.resource);
        let told = new.filter_map(|change| {
            let is_selected = |object: &Value| selects(asked, &change.key.namespace, object);
            let was_selected = change.before.as_ref().is_some_and(is_selected);
            let kind = match (is_selected(&change.object), was_selected) {
                (true, _) => change.kind,
                (false, true) => "DELETED",
                (false, false) => return None,
            };
            Some(json!({"type": kind, "object": change.object}))
        });
        told.collect()
    }
}

impl Shared {
    /// Creates an object of the resource `recordings`.
    pub(crate) fn create(&self, namespace: &str, mut object: Value) -> Result<Value, Refusal> {
        let name = object["metadata"]["name"].as_str().map(str::to_owned);
        let name = name.ok_or_else(|| Refusal::bad_request("a name is required".to_owned()))?;
        if let Some(spec) = object["spec"].as_object_mut() {
            spec.retain(|field, _| !self.lock().pruned.contains(&field.as_str()));
        }
        Ok(self.update(|state| state.objects.put(&Key::new("recordings", namespace, &name), object)))
    }

    /// Creates an event, which has a name of its own.
    pub(crate) fn create_event(&self, namespace: &str, event: Value) -> Result<Value, Refusal> {
        let typed: v1::Event =
            serde_json::from_value(event.clone()).map_err(|error| Refusal::bad_request(error.to_string()))?;
        if typed.involved_object.namespace.as_deref() != Some(namespace) {
            let message = "involvedObject.namespace: does not match event.namespace".to_owned();
            return Err(Refusal { code: 422, reason: "Invalid", message });
        }
        let name =
            typed.metadata.name.ok_or_else(|| Refusal::bad_request("a name is required".to_owned()))?;
        Ok(self.update(|state| state.objects.put(&Key::new("events", namespace, &name), event)))
    }
}

/// A UID that no other object has.
pub(crate) fn new_uid() -> String {
    let [a, b, c, d, e] = [32, 16, 16, 16, 48].map(|bits| fastrand::u64(..1 << bits));
    format!("{a:08x}-{b:04x}-{c:04x}-{d:04x}-{e:012x}")
}

/// What the server puts behind a `generateName`.
pub(crate) fn name_suffix() -> String {
    format!("{:05x}", fastrand::u32(..1 << 20))
}

/// The owner references of what a controller has made.
pub(crate) fn controlled_by(kind: &str, name: &str, uid: &Value) -> Value {
    json!([{"apiVersion": "v1", "kind": kind, "name": name, "uid": uid, "controller": true}])
}

fn merge(object: &mut Value, patch: &Value) {
    let Value::Object(changes) = patch else {
        *object = patch.clone();
        return;
    };
    for (key, change) in changes {
        match change {
            Value::Null => drop(object.as_object_mut().expect("an object").remove(key)),
            change => merge(&mut object[key], change),
        }
    }
}

fn api_and_kind(resource: &str) -> (&'static str, &'static str) {
    match resource {
        "pods" => ("v1", "Pod"),
        "nodes" => ("v1", "Node"),
        "namespaces" => ("v1", "Namespace"),
        "services" => ("v1", "Service"),
        "deployments" => ("apps/v1", "Deployment"),
        "statefulsets" => ("apps/v1", "StatefulSet"),
        "daemonsets" => ("apps/v1", "DaemonSet"),
        "replicasets" => ("apps/v1", "ReplicaSet"),
        "jobs" => ("batch/v1", "Job"),
        "events" => ("v1", "Event"),
        "recordings" => ("sniff.internal/v1alpha1", "Recording"),
        "serviceaccounts" => ("v1", "ServiceAccount"),
        "roles" => ("rbac.authorization.k8s.io/v1", "Role"),
        "rolebindings" => ("rbac.authorization.k8s.io/v1", "RoleBinding"),
        "clusterroles" => ("rbac.authorization.k8s.io/v1", "ClusterRole"),
        "clusterrolebindings" => ("rbac.authorization.k8s.io/v1", "ClusterRoleBinding"),
        other => panic!("no resource {other}"),
    }
}
