//! What a file tells of a captured pod: what the runtime knows of it.

use std::collections::BTreeMap;

use log::debug;
use sniff_kubernetes::pods::owner_by_labels;
use sniff_pcapng::{ContainerFacts, PodFacts};

use super::runtime::{Container, Cri, Sandbox, own_labels};

/// What a runtime knows of the pod of a sandbox on `node`. Nothing is missing in a capture for want of it.
pub(super) async fn of(cri: &Cri, sandbox: &Sandbox, node: &str) -> PodFacts {
    let containers = cri.containers_of(&sandbox.id).await.unwrap_or_else(|error| {
        debug!("containers of {}/{}: {error:#}", sandbox.namespace, sandbox.name);
        Vec::new()
    });
    facts(sandbox, containers, node)
}

fn facts(sandbox: &Sandbox, containers: Vec<Container>, node: &str) -> PodFacts {
    let mut latest = BTreeMap::<String, Container>::new();
    for container in containers {
        if latest.get(&container.name).is_none_or(|other| other.attempt < container.attempt) {
            latest.insert(container.name.clone(), container);
        }
    }
    let containers = latest.into_values().map(|Container { name, attempt, image, .. }| ContainerFacts {
        name,
        image,
        restarts: Some(attempt),
    });
    PodFacts { containers: containers.collect(), ..of_new(&sandbox.name, &sandbox.labels, node) }
}

/// What is known of a pod on `node` that has no containers yet: its name, and the labels of its sandbox.
pub(super) fn of_new(name: &str, labels: &BTreeMap<String, String>, node: &str) -> PodFacts {
    let labels = own_labels(labels);
    let (owner, node) = (owner_by_labels(name, &labels), Some(node.to_owned()));
    PodFacts { owner, labels, node, containers: Vec::new() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_latest_container_of_a_name_counts() {
        let container = |name: &str, attempt, image: &str| Container {
            id: format!("{name}{attempt}"),
            sandbox_id: "s".into(),
            name: name.into(),
            attempt,
            image: Some(image.into()),
        };
        let labels = [
            ("io.kubernetes.pod.name", "web-5d4f-x7zk2"),
            ("io.kubernetes.container.name", "POD"),
            ("app", "web"),
            ("pod-template-hash", "5d4f"),
        ];
        let sandbox = Sandbox {
            id: "s".into(),
            namespace: "shop".into(),
            name: "web-5d4f-x7zk2".into(),
            uid: "u".into(),
            ready: true,
            created_at: 0,
            labels: labels.map(|(key, value)| (key.into(), value.into())).into(),
        };
        let containers =
            vec![container("web", 2, "web:2"), container("web", 3, "web:3"), container("a", 0, "a:1")];
        let expected = "labels: app=web, pod-template-hash=5d4f\nowner: Deployment/web by its labels\nnode: n1\n\
                        images: a=a:1, web=web:3\nrestarts: web 3";
        assert_eq!(facts(&sandbox, containers, "n1").comment().as_deref(), Some(expected));
    }
}
