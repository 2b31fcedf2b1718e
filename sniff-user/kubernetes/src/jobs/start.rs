//! From a Job to its pod that runs.

use std::time::Duration;

use anyhow::{Result, bail, ensure};
use k8s_openapi::api::{batch::v1::Job, core::v1};
use kube::{
    Api, ResourceExt as _,
    api::{ListParams, Patch, PatchParams},
};
use serde_json::json;
use tokio::time::{Instant, sleep};

use super::SniffJob;
use crate::{
    Cluster, Request,
    access::RefusedPod,
    own::SniffPod,
    pods::state::{is_of, is_running},
};

/// The label that Kubernetes gives to the pods of a Job.
const JOB_LABEL: &str = "job-name";
/// How long a Job without a running pod may live after its client has made or extended it.
pub(super) const STARTING: Duration = Duration::from_secs(60);
/// Between two times that a waiting client extends that.
const EXTENSION: Duration = Duration::from_secs(15);
/// A Job that has no pod after this long has probably been refused one.
const POD_IS_DUE: Duration = Duration::from_secs(1);
/// What to do where a container with named capabilities is not enough.
const GIVE_ALL: &str = "--privileged makes the pod without naming any";
/// Between two looks at a pod that starts: at first, and at most.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const MAX_PAUSE: Duration = Duration::from_millis(500);

impl Cluster {
    /// Waits until a Job's pod runs, which from then on lives as long as it was wanted to; `tell` hears what is waited for,
    /// when that changes.
    ///
    /// # Errors
    ///
    /// When there may be no such pod, it cannot run, does not within `limit`, or is gone.
    pub async fn wait_for_job_pod(
        &self,
        job: &SniffJob,
        limit: Duration,
        mut tell: impl FnMut(&str),
    ) -> Result<SniffPod> {
        let SniffJob { namespace, name, .. } = job;
        let (began, mut pause, mut told) = (Instant::now(), FIRST_PAUSE, String::new());
        let (mut seen, mut extended) = (None, began);
        loop {
            if extended.elapsed() >= EXTENSION {
                self.limit(job, Some(began.elapsed() + STARTING)).await?;
                extended = Instant::now();
            }
            let waiting = match self.pod_of(job).await? {
                Some(pod) => {
                    let pod_name = pod.name_any();
                    match state(&pod) {
                        State::Running => {
                            self.limit(job, None).await?;
                            return Ok(SniffPod { namespace: namespace.clone(), name: pod_name, door: None });
                        }
                        State::Failed(why) => bail!("pod {namespace}/{pod_name} cannot start: {why}"),
                        State::Waiting(why) => {
                            seen = Some(pod_name);
                            why
                        }
                    }
                }
                None if let Some(pod_name) = &seen => {
                    bail!("pod {namespace}/{pod_name} was deleted while it started")
                }
                None => {
                    if began.elapsed() >= POD_IS_DUE
                        && let Some(why) = self.refusal_of_pod(job).await
                    {
                        bail!("{why}");
                    }
                    format!("a pod of job {name}")
                }
            };
            if waiting != told {
                tell(&waiting);
                told = waiting;
            }
            if began.elapsed() >= limit {
                bail!("job {namespace}/{name} has no running pod after {} s: {told}", limit.as_secs());
            }
            sleep(pause).await;
            pause = (pause * 2).min(MAX_PAUSE);
        }
    }

    /// What the kubelet says of an image that it pulls for a Job's pod; `None` when it does not, or says it nowhere that may be
    /// read.
    pub async fn image_on_its_way(&self, job: &SniffJob) -> Option<String> {
        let pulling = self.said_of_pod(job, "Pulling").await?;
        self.said_of_pod(job, "Pulled").await.is_none().then_some(pulling)
    }

    /// The message of the last event with this reason of a Job's pod.
    async fn said_of_pod(&self, SniffJob { namespace, name, .. }: &SniffJob, reason: &str) -> Option<String> {
        let events = self.events(namespace, &format!("involvedObject.kind=Pod,reason={reason}")).await?;
        let is_its = |event: &v1::Event| {
            let pod = event.involved_object.name.as_deref();
            pod.and_then(|pod| pod.strip_prefix(name.as_str())).is_some_and(|rest| rest.starts_with('-'))
        };
        events.filter(is_its).filter_map(|event| event.message).last()
    }

    /// Sets or lifts the time that a Job may live from its start, whatever its pod says.
    async fn limit(
        &self,
        SniffJob { namespace, name, .. }: &SniffJob,
        limit: Option<Duration>,
    ) -> Result<()> {
        let request =
            Request { verb: "patch", resource: "jobs.batch", namespace: Some(namespace), name: Some(name) };
        let api = Api::<Job>::namespaced(self.client.clone(), namespace);
        let patch =
            Patch::Merge(json!({"spec": {"activeDeadlineSeconds": limit.map(|limit| limit.as_secs())}}));
        let patched = self.ask(request, api.patch(name, &PatchParams::default(), &patch)).await?;
        ensure!(patched.is_some(), "job {namespace}/{name} was deleted while its pod started");
        Ok(())
    }

    async fn pod_of(&self, SniffJob { namespace, name, uid }: &SniffJob) -> Result<Option<v1::Pod>> {
        let request = Request { verb: "list", resource: "pods", namespace: Some(namespace), name: None };
        let ours = ListParams::default().labels(&format!("{JOB_LABEL}={name}"));
        let api = Api::<v1::Pod>::namespaced(self.client.clone(), namespace);
        let pods = self.ask(request, api.list(&ours)).await?;
        Ok(pods.into_iter().flatten().find(|pod| is_of(pod, Some(uid))))
    }

    /// Why Kubernetes does not let a Job have its pod, as far as its events may be read.
    async fn refusal_of_pod(&self, SniffJob { namespace, name, .. }: &SniffJob) -> Option<String> {
        let RefusedPod { says, remedy } = self.refused_pod(namespace, name).await?;
        let remedy = remedy.map(|it| format!("; {it}, or choose another namespace with --job-namespace"));
        Some(format!(
            "namespace {namespace} takes no pod of job {name}: {says}{}",
            remedy.unwrap_or_default()
        ))
    }
}

fn is_privileged(pod: &v1::Pod) -> bool {
    let containers = pod.spec.iter().flat_map(|spec| &spec.containers);
    let mut contexts = containers.filter_map(|container| container.security_context.as_ref());
    contexts.any(|context| context.privileged == Some(true))
}

/// How far a starting pod has come.
#[derive(Debug, PartialEq, Eq)]
enum State {
    Running,
    Waiting(String),
    Failed(String),
}

/// What a pod says of itself. Some reasons never go away (kubernetes `pkg/kubelet/images/types.go`), and waiting for
/// them would be vain.
fn state(pod: &v1::Pod) -> State {
    if is_running(pod) {
        return State::Running;
    }
    let Some(status) = &pod.status else {
        return State::Waiting("the node to notice it".into());
    };
    let because = |reason: &Option<String>, message: &Option<String>| {
        let said = [reason, message].into_iter().flatten().filter(|text| !text.is_empty());
        said.cloned().collect::<Vec<_>>().join(": ")
    };
    if matches!(status.phase.as_deref(), Some("Failed" | "Succeeded")) {
        let ended =
            status.container_statuses.iter().flatten().filter_map(|container| container.state.as_ref());
        let ended = ended.filter_map(|state| state.terminated.as_ref()).next();
        let why =
            ended.map(|it| format!("{} with exit code {}", because(&it.reason, &it.message), it.exit_code));
        return State::Failed(why.unwrap_or_else(|| because(&status.reason, &status.message)));
    }
    let waiting = status.container_statuses.iter().flatten().filter_map(|container| container.state.as_ref());
    if let Some(waiting) = waiting.filter_map(|state| state.waiting.as_ref()).next() {
        let why = because(&waiting.reason, &waiting.message);
        return match waiting.reason.as_deref() {
            Some("ErrImagePull" | "ImagePullBackOff" | "InvalidImageName" | "ErrImageNeverPull") => {
                State::Failed(format!("{why}; is the image right, and may the node pull it?"))
            }
            Some("CreateContainerError" | "RunContainerError") if !is_privileged(pod) => {
                State::Failed(format!("{why}; does the node know the capabilities that it takes? {GIVE_ALL}"))
            }
            Some(
                "CreateContainerConfigError"
                | "CreateContainerError"
                | "RunContainerError"
                | "CrashLoopBackOff",
            ) => State::Failed(why),
            _ => State::Waiting(if why.is_empty() { "its container to start".into() } else { why }),
        };
    }
    let scheduled = status.conditions.iter().flatten().find(|condition| condition.type_ == "PodScheduled");
    match scheduled {
        Some(condition) if condition.reason.as_deref() == Some("Unschedulable") => {
            State::Failed(because(&condition.reason, &condition.message))
        }
        _ => State::Waiting("its container to start".into()),
    }
}

#[cfg(test)]
mod tests {
    use sniff_apiserver::ApiServer;

    use super::*;
    use crate::Login;

    fn state_of(status: &str) -> State {
        let pod = format!(r#"{{"metadata": {{}}, "status": {status}}}"#);
        state(&serde_json::from_str(&pod).unwrap())
    }

    #[tokio::test]
    async fn an_image_is_on_its_way_from_pulling_to_pulled() {
        let api = ApiServer::without_nodes();
        let login = Login { kubeconfig: Some(api.kubeconfig_file().to_owned()), ..Login::default() };
        let cluster = Cluster::configured(&login).await.unwrap().unwrap();
        let job = SniffJob { namespace: "sniff".into(), name: "sniff-x".into(), uid: "u".into() };
        let event = |pod: &str, reason: &str| {
            let name = format!("{pod}.{reason}");
            let event = json!({
                "metadata": {"namespace": "sniff", "name": name},
                "involvedObject": {"kind": "Pod", "name": pod},
                "reason": reason,
                "message": format!("{reason} image of {pod}"),
            });
            api.put("events", "sniff", &name, event);
        };
        event("sniff-xy-1", "Pulling");
        assert_eq!(cluster.image_on_its_way(&job).await, None);
        event("sniff-x-1", "Pulling");
        event("sniff-xy-1", "Pulled");
        let said = cluster.image_on_its_way(&job).await;
        assert_eq!(said.as_deref(), Some("Pulling image of sniff-x-1"));
        event("sniff-x-1", "Pulled");
        assert_eq!(cluster.image_on_its_way(&job).await, None);
        api.deny("list", "events");
        assert_eq!(cluster.image_on_its_way(&job).await, None);
    }

    #[test]
    fn it_is_said_what_a_pod_waits_for() {
        assert_eq!(state_of("{}"), State::Waiting("its container to start".into()));
        let container = |state: &str| {
            format!(
                r#"{{"phase": "Pending", "containerStatuses": [{{"name": "sniff", "image": "", "imageID": "",
                    "ready": false, "restartCount": 0, "state": {state}}}]}}"#
            )
        };
        assert_eq!(state_of(&container(r#"{"running": {}}"#)), State::Running);
        let creating = container(r#"{"waiting": {"reason": "ContainerCreating"}}"#);
        assert_eq!(state_of(&creating), State::Waiting("ContainerCreating".into()));
        let pull = container(r#"{"waiting": {"reason": "ImagePullBackOff", "message": "no such host"}}"#);
        assert!(matches!(state_of(&pull), State::Failed(why) if why.contains("no such host")));
        let unknown = container(r#"{"waiting": {"reason": "RunContainerError", "message": "CAP_BPF?"}}"#);
        assert!(matches!(state_of(&unknown), State::Failed(why) if why.contains("--privileged")));
        let ended =
            container(r#"{"terminated": {"exitCode": 3, "reason": "Error"}}"#).replace("Pending", "Failed");
        assert_eq!(state_of(&ended), State::Failed("Error with exit code 3".into()));
        let full = r#"{"phase": "Pending", "conditions": [{"type": "PodScheduled", "status": "False",
            "reason": "Unschedulable", "message": "0/3 nodes"}]}"#;
        assert_eq!(state_of(full), State::Failed("Unschedulable: 0/3 nodes".into()));
    }
}
