//! How a pod is, as its status and its owners tell.

use k8s_openapi::api::core::v1;
use kube::ResourceExt as _;

use crate::own::CONTAINER;

/// Whether the kubelet says of a pod that its sandbox is there. It names the addresses from then on until the sandbox
/// has gone, and starts no container before.
pub(crate) fn has_sandbox(status: &v1::PodStatus) -> bool {
    let containers = [&status.init_container_statuses, &status.container_statuses];
    let states = containers.into_iter().flatten().flatten().filter_map(|container| container.state.as_ref());
    match status.phase.as_deref() {
        Some("Running") => true,
        Some("Pending") => {
            status.pod_ip.as_ref().is_some_and(|address| !address.is_empty())
                || status.pod_ips.as_ref().is_some_and(|addresses| !addresses.is_empty())
                || states.into_iter().any(|state| state.running.is_some())
        }
        _ => false,
    }
}

/// Whether the object with this UID controls a pod.
pub(crate) fn is_of(pod: &v1::Pod, uid: Option<&str>) -> bool {
    let controller = pod.owner_references().iter().find(|owner| owner.controller == Some(true));
    controller.is_some_and(|owner| !owner.uid.is_empty() && Some(owner.uid.as_str()) == uid)
}

/// Whether sniff's container runs in a pod.
pub(crate) fn is_running(pod: &v1::Pod) -> bool {
    let statuses = pod.status.iter().filter_map(|status| status.container_statuses.as_ref()).flatten();
    let mut ours = statuses.filter(|container| container.name == CONTAINER);
    ours.any(|container| container.state.as_ref().is_some_and(|state| state.running.is_some()))
}

/// Why a pod does not run, in Kubernetes' words.
pub(crate) fn trouble(status: &v1::PodStatus) -> Option<String> {
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

    #[test]
    fn a_sandbox_is_there_from_before_the_init_containers_until_the_end() {
        let has_sandbox = |status: &str| has_sandbox(&serde_json::from_str(status).unwrap());
        let init = |state: &str| {
            format!(
                r#"{{"phase": "Pending", "initContainerStatuses": [{{"name": "wait", "image": "", "imageID": "",
                "ready": false, "restartCount": 0, "state": {state}}}]}}"#
            )
        };
        assert!(has_sandbox(r#"{"phase": "Running"}"#));
        assert!(has_sandbox(r#"{"phase": "Pending", "podIP": "10.0.0.5", "podIPs": [{"ip": "10.0.0.5"}]}"#));
        assert!(has_sandbox(&init(r#"{"running": {}}"#)));
        // One that shall be started, or has been before the node was restarted, is no sign of a network.
        assert!(!has_sandbox(&init(r#"{"waiting": {"reason": "PodInitializing"}}"#)));
        assert!(!has_sandbox(&init(r#"{"terminated": {"exitCode": 255}}"#)));
        assert!(!has_sandbox(r#"{"phase": "Pending"}"#));
        // The addresses of pods that have ended are named, too.
        assert!(!has_sandbox(r#"{"phase": "Succeeded", "podIP": "10.0.0.5"}"#));
        assert!(!has_sandbox("{}"));
    }

    #[test]
    fn a_pod_belongs_to_its_controller_and_to_nobody_else() {
        let check = |owners: &str, uid: Option<&str>| {
            let pod = format!(r#"{{"metadata": {{"ownerReferences": {owners}}}}}"#);
            is_of(&serde_json::from_str(&pod).unwrap(), uid)
        };
        let owner = |uid: &str, controller: bool| {
            format!(
                r#"[{{"apiVersion": "apps/v1", "kind": "DaemonSet", "name": "sniff", "uid": "{uid}", "controller":
                    {controller}}}]"#
            )
        };
        assert!(check(&owner("u-1", true), Some("u-1")));
        assert!(!check(&owner("u-2", true), Some("u-1")));
        assert!(!check(&owner("u-1", false), Some("u-1")));
        assert!(!check(&owner("u-1", true), None) && !check(&owner("", true), Some("")));
        assert!(!check("[]", Some("u-1")));
    }
}
