//! What files tell of a pod, as far as the API or the pod's labels know it.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1;
use kube::ResourceExt as _;
use sniff_pcapng::{ContainerFacts, Owner, PodFacts};

/// Set by the Deployment's controller, and by others that do as it does.
const TEMPLATE_HASH: &str = "pod-template-hash";
/// Set by the controllers of StatefulSets and DaemonSets alike.
const REVISION_HASH: &str = "controller-revision-hash";
/// Set by the DaemonSet's controller alone.
const TEMPLATE_GENERATION: &str = "pod-template-generation";
/// Set by the StatefulSet's controller: the pod's name.
const STATEFUL_POD: &str = "statefulset.kubernetes.io/pod-name";
/// Set by the Job's controller.
const JOB_NAME: &str = "batch.kubernetes.io/job-name";
/// Random letters behind a name that is generated (kubernetes `apiserver/pkg/storage/names/generate.go`).
const RANDOM_LEN: usize = 5;
/// A generated name that is as long as this may have lost a part of what it was made from (there, too).
const LONGEST_GENERATED: usize = 63;

/// What the API knows of a pod.
pub(super) fn of(pod: &v1::Pod) -> PodFacts {
    let owners = pod.owner_references().iter();
    let owner = owners.filter(|owner| owner.controller == Some(true)).map(|owner| {
        let (kind, name) = workload(&owner.kind, &owner.name, pod.labels());
        Owner { kind: kind.to_owned(), name: name.to_owned(), is_by_labels: false }
    });
    PodFacts {
        labels: pod.labels().clone(),
        owner: owner.into_iter().next(),
        node: pod.spec.as_ref().and_then(|spec| spec.node_name.clone()),
        containers: containers(pod),
    }
}

/// The workload that a pod's own labels tell it is of, with nobody else to ask.
pub fn owner_by_labels(pod: &str, labels: &BTreeMap<String, String>) -> Option<Owner> {
    let owner = |kind: &str, name: &str| Owner { kind: kind.into(), name: name.into(), is_by_labels: true };
    let label = |key: &str| labels.get(key).map(String::as_str).filter(|value| !value.is_empty());
    if let Some(job) = label(JOB_NAME) {
        return Some(owner("Job", job));
    }
    if label(STATEFUL_POD) == Some(pod) {
        let (name, ordinal) = pod.rsplit_once('-')?;
        return ordinal.bytes().all(|byte| byte.is_ascii_digit()).then(|| owner("StatefulSet", name));
    }
    let (generator, random) = pod.rsplit_once('-')?;
    if random.len() != RANDOM_LEN || pod.len() >= LONGEST_GENERATED {
        return None;
    }
    if label(TEMPLATE_HASH).is_some() {
        let (kind, name) = workload("ReplicaSet", generator, labels);
        return Some(owner(kind, name));
    }
    let is_of_daemonset = label(REVISION_HASH).and(label(TEMPLATE_GENERATION)).is_some();
    is_of_daemonset.then(|| owner("DaemonSet", generator))
}

/// The Deployment in place of its ReplicaSet: that one is called by the Deployment's name and the hash that the pod's label
/// repeats (kubernetes `pkg/controller/deployment/sync.go`).
fn workload<'a>(kind: &'a str, name: &'a str, labels: &BTreeMap<String, String>) -> (&'a str, &'a str) {
    let hash = labels.get(TEMPLATE_HASH).filter(|hash| kind == "ReplicaSet" && !hash.is_empty());
    let deployment = hash.and_then(|hash| name.strip_suffix(hash.as_str())?.strip_suffix('-'));
    deployment.map_or((kind, name), |deployment| ("Deployment", deployment))
}

/// All containers: those of the spec, with what their status tells.
fn containers(pod: &v1::Pod) -> Vec<ContainerFacts> {
    let Some(spec) = &pod.spec else { return Vec::new() };
    let ephemeral = spec.ephemeral_containers.iter().flatten().map(|it| (&it.name, &it.image));
    let several = spec.init_containers.iter().flatten().chain(&spec.containers);
    let status = pod.status.as_ref();
    let statuses = status.into_iter().flat_map(|it| {
        [&it.init_container_statuses, &it.container_statuses, &it.ephemeral_container_statuses]
    });
    let restarts: BTreeMap<&str, u32> = statuses
        .flatten()
        .flatten()
        .filter_map(|it| Some((it.name.as_str(), u32::try_from(it.restart_count).ok()?)))
        .collect();
    let containers =
        several.map(|it| (&it.name, &it.image)).chain(ephemeral).map(|(name, image)| ContainerFacts {
            name: name.clone(),
            image: image.clone(),
            restarts: restarts.get(name.as_str()).copied(),
        });
    containers.collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn labels(labels: &[(&str, &str)]) -> BTreeMap<String, String> {
        labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn a_deployment_stands_for_its_replica_set() {
        let of = |kind: &str, name: &str, hash: &str| {
            let labels = labels(&[(TEMPLATE_HASH, hash)]);
            let (kind, name) = workload(kind, name, &labels);
            format!("{kind}/{name}")
        };
        assert_eq!(of("ReplicaSet", "web-5d4f", "5d4f"), "Deployment/web");
        assert_eq!(of("ReplicaSet", "web-5d4f", "77aa"), "ReplicaSet/web-5d4f");
        assert_eq!(of("ReplicaSet", "web-", ""), "ReplicaSet/web-");
        assert_eq!(of("Rollout", "web-5d4f", "5d4f"), "Rollout/web-5d4f");
    }

    #[test]
    fn labels_tell_the_owner_as_far_as_they_do() {
        let of = |pod: &str, told: &[(&str, &str)]| {
            let owner = owner_by_labels(pod, &labels(told))?;
            assert!(owner.is_by_labels);
            Some(format!("{}/{}", owner.kind, owner.name))
        };
        let is = |owner: &str| Some(owner.to_owned());
        assert_eq!(of("web-5d4f-x7zk2", &[(TEMPLATE_HASH, "5d4f")]), is("Deployment/web"));
        assert_eq!(of("web-x7zk2", &[(TEMPLATE_HASH, "5d4f")]), is("ReplicaSet/web"));
        let of_set = [(STATEFUL_POD, "db-2"), (REVISION_HASH, "db-77aa")];
        assert_eq!(of("db-2", &of_set), is("StatefulSet/db"));
        assert_eq!(of("other-2", &of_set), None);
        let of_daemonset = [(REVISION_HASH, "77aa"), (TEMPLATE_GENERATION, "1")];
        assert_eq!(of("agent-x7zk2", &of_daemonset), is("DaemonSet/agent"));
        assert_eq!(of("agent-x7zk2", &of_daemonset[..1]), None);
        assert_eq!(of("move-x7zk2", &[(JOB_NAME, "move")]), is("Job/move"));
        assert_eq!(of("web-0", &[("app", "web")]), None);
        // What was cut cannot be told.
        let cut = format!("{}-x7zk2", "w".repeat(57));
        assert_eq!(of(&cut, &[(TEMPLATE_HASH, "5d4f")]), None);
    }

    #[test]
    fn the_api_tells_all_of_a_pod() {
        let owners = json!([
            {"apiVersion": "v1", "kind": "ConfigMap", "name": "config", "uid": "o-1"},
            {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web-5d4f", "uid": "o-2", "controller": true},
        ]);
        let status = |name: &str, restarts: i32| json!({"name": name, "image": "sha256:0", "imageID": "", "ready": true, "restartCount": restarts});
        let pod = json!({
            "metadata": {"labels": {"app": "web", "pod-template-hash": "5d4f"}, "ownerReferences": owners},
            "spec": {
                "nodeName": "n1",
                "initContainers": [{"name": "init", "image": "init:1"}],
                "containers": [{"name": "web", "image": "web:2"}, {"name": "new"}],
                "ephemeralContainers": [{"name": "debug", "image": "debug:3"}],
            },
            "status": {"initContainerStatuses": [status("init", 0)], "containerStatuses": [status("web", 3)]},
        });
        let told = of(&serde_json::from_value(pod).unwrap()).comment();
        let expected = "labels: app=web, pod-template-hash=5d4f\nowner: Deployment/web\nnode: n1\n\
                        images: init=init:1, web=web:2, debug=debug:3\nrestarts: web 3";
        assert_eq!(told.as_deref(), Some(expected));
    }
}
