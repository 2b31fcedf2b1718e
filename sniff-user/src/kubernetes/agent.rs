//! The pods that capture: those of the DaemonSet, and short-lived ones where there is none.
//!
//! A short-lived pod is made to go away whatever happens to its client. Its main process ends when its session does,
//! and its session when the client is not heard of. And as soon as the session stands, the pod is deleted with a long
//! grace period: the kubelet lets it run until its process ends, and then removes it without anybody's help.

use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime},
};

use anyhow::{Result, bail};
use k8s_openapi::{
    api::core::v1,
    apimachinery::pkg::{api::resource::Quantity, apis::meta::v1::ObjectMeta},
};
use kube::{
    Api, ResourceExt as _,
    api::{DeleteParams, ListParams, PostParams},
};
use tokio::time::{Instant, sleep};

use super::{Cluster, Forbidden, Request};

/// The container that sniff runs in, in pods of both kinds.
pub const CONTAINER: &str = "sniff";
/// Namespace of the DaemonSet, unless another is named.
pub const NAMESPACE: &str = "sniff";

const NAME_LABEL: &str = "app.kubernetes.io/name";
const MANAGED_BY_LABEL: &str = "app.kubernetes.io/managed-by";
/// The name of the DaemonSet's pods.
const SNIFF: &str = "sniff";
/// The name of short-lived pods. It is another, lest the DaemonSet takes them for its own.
const SESSION: &str = "sniff-session";
const MANAGER: &str = "kubectl-sniff";
const WHO: &str = "sniff/who";
const WHAT: &str = "sniff/what";
const UNTIL: &str = "sniff/until";

/// The node's folder with the container runtimes' sockets, and the files that network namespaces are bound to.
const RUN: &str = "/run";
/// Where the main process keeps its socket.
const STATE: &str = "/var/lib/sniff";
/// Between two looks at a pod that starts: at first, and at most.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const MAX_PAUSE: Duration = Duration::from_millis(500);
/// Seconds that the kubelet waits for the main process at the end.
const GRACE_SECONDS: u32 = 3;

/// A pod that captures on a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AgentPod {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

/// A short-lived pod to be made.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// The node to run on.
    pub node: String,
    /// The namespace to be in.
    pub namespace: String,
    /// The image with sniff in it.
    pub image: String,
    /// Who asks, for the annotation.
    pub who: String,
    /// What for, for the annotation.
    pub what: String,
    /// How long it may live.
    pub lifetime: Duration,
}

/// A pod of ours that `cleanup` finds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leftover {
    /// Which.
    pub pod: AgentPod,
    /// Its node.
    pub node: String,
    /// Who made it, and what for.
    pub who: String,
    /// What it captured.
    pub what: String,
    /// When it was to end.
    pub until: String,
}

impl Cluster {
    /// The DaemonSet's pod on a node that is ready to run commands.
    ///
    /// # Errors
    ///
    /// When the server refuses, or does not answer.
    pub async fn installed_agent(&self, namespace: &str, node: &str) -> Result<Option<AgentPod>> {
        let request = Request { verb: "list", resource: "pods", namespace: Some(namespace), name: None };
        let of_node = ListParams::default()
            .labels(&format!("{NAME_LABEL}={SNIFF}"))
            .fields(&format!("spec.nodeName={node},status.phase=Running"));
        let api = Api::<v1::Pod>::namespaced(self.client.clone(), namespace);
        let pods = self.ask(request, api.list(&of_node)).await?;
        let usable = |pod: &v1::Pod| pod.metadata.deletion_timestamp.is_none() && is_running(pod);
        Ok(pods
            .into_iter()
            .flatten()
            .find(usable)
            .map(|pod| AgentPod { namespace: namespace.into(), name: pod.name_any() }))
    }

    /// Makes a short-lived pod.
    ///
    /// # Errors
    ///
    /// When the server refuses: by RBAC, PodSecurity or a quota.
    pub async fn create_agent(&self, wanted: &Wanted) -> Result<AgentPod> {
        let namespace = &wanted.namespace;
        let request = Request { verb: "create", resource: "pods", namespace: Some(namespace), name: None };
        let api = Api::<v1::Pod>::namespaced(self.client.clone(), namespace);
        match self.ask(request, api.create(&PostParams::default(), &wanted.pod())).await {
            Ok(Some(pod)) => Ok(AgentPod { namespace: namespace.clone(), name: pod.name_any() }),
            Ok(None) => bail!("there is no namespace {namespace}"),
            Err(error) if error.is::<Forbidden>() || !error.to_string().contains("PodSecurity") => Err(error),
            Err(error) => Err(error.context(format!(
                "PodSecurity of namespace {namespace} forbids privileged pods: choose another with --agent-namespace, \
                 or install the DaemonSet"
            ))),
        }
    }

    /// Waits until the pod runs; `tell` hears what is waited for, when that changes.
    ///
    /// # Errors
    ///
    /// When it cannot run, does not within `limit`, or is gone.
    pub async fn wait_for_agent(
        &self,
        pod: &AgentPod,
        limit: Duration,
        mut tell: impl FnMut(&str),
    ) -> Result<()> {
        let AgentPod { namespace, name } = pod;
        let request = Request { verb: "get", resource: "pods", namespace: Some(namespace), name: Some(name) };
        let api = Api::<v1::Pod>::namespaced(self.client.clone(), namespace);
        let (deadline, mut pause, mut told) = (Instant::now() + limit, FIRST_PAUSE, String::new());
        loop {
            let Some(now) = self.ask(request, api.get(name)).await? else {
                bail!("pod {namespace}/{name} was deleted while it started");
            };
            let waiting = match state(&now) {
                State::Running => return Ok(()),
                State::Failed(why) => bail!("pod {namespace}/{name} cannot start: {why}"),
                State::Waiting(why) => why,
            };
            if waiting != told {
                tell(&waiting);
                told = waiting;
            }
            if Instant::now() >= deadline {
                bail!("pod {namespace}/{name} has not started within {} s: {told}", limit.as_secs());
            }
            sleep(pause).await;
            pause = (pause * 2).min(MAX_PAUSE);
        }
    }

    /// Has the pod go away by itself, when its process ends and at the latest when `lifetime` is over. Until then it
    /// goes on.
    ///
    /// # Errors
    ///
    /// When the server refuses, or does not answer.
    pub async fn let_agent_end(&self, pod: &AgentPod, lifetime: Duration) -> Result<()> {
        self.delete(pod, lifetime.as_secs() as u32).await
    }

    /// Deletes the pod; one that is gone already is fine.
    ///
    /// # Errors
    ///
    /// When the server refuses, or does not answer.
    pub async fn delete_agent(&self, pod: &AgentPod) -> Result<()> {
        self.delete(pod, GRACE_SECONDS).await
    }

    async fn delete(&self, pod: &AgentPod, grace_seconds: u32) -> Result<()> {
        let AgentPod { namespace, name } = pod;
        let request =
            Request { verb: "delete", resource: "pods", namespace: Some(namespace), name: Some(name) };
        let parameters =
            DeleteParams { grace_period_seconds: Some(grace_seconds), ..DeleteParams::default() };
        let api = Api::<v1::Pod>::namespaced(self.client.clone(), namespace);
        self.ask(request, api.delete(name, &parameters)).await?;
        Ok(())
    }

    /// The short-lived pods that are there, of whoever; in one namespace or all.
    ///
    /// # Errors
    ///
    /// When the server refuses, or does not answer.
    pub async fn leftovers(&self, namespace: Option<&str>) -> Result<Vec<Leftover>> {
        let request = Request { verb: "list", resource: "pods", namespace, name: None };
        let ours =
            ListParams::default().labels(&format!("{NAME_LABEL}={SESSION},{MANAGED_BY_LABEL}={MANAGER}"));
        let api = match namespace {
            Some(namespace) => Api::<v1::Pod>::namespaced(self.client.clone(), namespace),
            None => Api::all(self.client.clone()),
        };
        let pods = self.ask(request, api.list(&ours)).await?;
        Ok(pods.into_iter().flatten().map(Leftover::from).collect())
    }
}

impl Wanted {
    /// The pod, as it would be created.
    pub fn pod(&self) -> v1::Pod {
        let until = humantime::format_rfc3339_seconds(SystemTime::now() + self.lifetime).to_string();
        let labels = [(NAME_LABEL, SESSION), (MANAGED_BY_LABEL, MANAGER)];
        let annotations = [(WHO, self.who.clone()), (WHAT, self.what.clone()), (UNTIL, until)];
        let mut pod = v1::Pod {
            metadata: ObjectMeta {
                generate_name: Some("sniff-".into()),
                namespace: Some(self.namespace.clone()),
                labels: Some(labels.map(|(key, value)| (key.into(), value.into())).into()),
                annotations: Some(annotations.map(|(key, value)| (key.into(), value)).into()),
                ..ObjectMeta::default()
            },
            ..v1::Pod::default()
        };
        pod.spec = Some(v1::PodSpec {
            active_deadline_seconds: Some(self.lifetime.as_secs() as i64),
            automount_service_account_token: Some(false),
            containers: vec![self.container()],
            enable_service_links: Some(false),
            host_pid: Some(true),
            node_name: Some(self.node.clone()),
            restart_policy: Some("Never".into()),
            termination_grace_period_seconds: Some(GRACE_SECONDS.into()),
            tolerations: Some(vec![v1::Toleration {
                operator: Some("Exists".into()),
                ..v1::Toleration::default()
            }]),
            volumes: Some(volumes()),
            ..v1::PodSpec::default()
        });
        pod
    }

    /// The pod as JSON, which kubectl takes too.
    ///
    /// # Errors
    ///
    /// Never in practice.
    pub fn manifest(&self) -> Result<String> {
        Ok(serde_json::to_string_pretty(&self.pod())?)
    }

    fn container(&self) -> v1::Container {
        let quantities = |pairs: [(&str, &str); 2]| {
            pairs.map(|(key, value)| (key.to_owned(), Quantity(value.to_owned()))).into_iter().collect()
        };
        let limits = BTreeMap::from([("memory".to_owned(), Quantity("512Mi".to_owned()))]);
        v1::Container {
            name: CONTAINER.into(),
            image: Some(self.image.clone()),
            command: Some(["sniff", "agent", "--once"].map(Into::into).into()),
            env: Some(vec![
                variable("NODE_NAME", self.node.clone()),
                variable("SNIFF_AGENT_SOCKET", format!("{STATE}/agent.sock")),
            ]),
            resources: Some(v1::ResourceRequirements {
                requests: Some(quantities([("cpu", "10m"), ("memory", "16Mi")])),
                limits: Some(limits),
                ..v1::ResourceRequirements::default()
            }),
            security_context: Some(v1::SecurityContext {
                privileged: Some(true),
                run_as_user: Some(0),
                ..v1::SecurityContext::default()
            }),
            volume_mounts: Some(mounts()),
            ..v1::Container::default()
        }
    }
}

fn variable(name: &str, value: String) -> v1::EnvVar {
    v1::EnvVar { name: name.into(), value: Some(value), ..v1::EnvVar::default() }
}

fn volumes() -> Vec<v1::Volume> {
    let run = v1::HostPathVolumeSource { path: RUN.into(), type_: Some("Directory".into()) };
    let state = v1::EmptyDirVolumeSource {
        medium: Some("Memory".into()),
        size_limit: Some(Quantity("1Mi".to_owned())),
    };
    vec![
        v1::Volume { name: "run".into(), host_path: Some(run), ..v1::Volume::default() },
        v1::Volume { name: "state".into(), empty_dir: Some(state), ..v1::Volume::default() },
    ]
}

/// The node's mounts below [`RUN`] come and go: each pod's namespace may be one.
fn mounts() -> Vec<v1::VolumeMount> {
    let run = v1::VolumeMount {
        name: "run".into(),
        mount_path: RUN.into(),
        mount_propagation: Some("HostToContainer".into()),
        read_only: Some(true),
        ..v1::VolumeMount::default()
    };
    let state =
        v1::VolumeMount { name: "state".into(), mount_path: STATE.into(), ..v1::VolumeMount::default() };
    vec![run, state]
}

impl From<v1::Pod> for Leftover {
    fn from(pod: v1::Pod) -> Self {
        let annotation = |key: &str| pod.annotations().get(key).cloned().unwrap_or_else(|| "unknown".into());
        let (who, what, until) = (annotation(WHO), annotation(WHAT), annotation(UNTIL));
        let (namespace, name) = (pod.namespace().unwrap_or_default(), pod.name_any());
        let node = pod.spec.and_then(|spec| spec.node_name).unwrap_or_default();
        Self { pod: AgentPod { namespace, name }, node, who, what, until }
    }
}

/// How far a starting pod has come.
#[derive(Debug, PartialEq, Eq)]
enum State {
    Running,
    Waiting(String),
    Failed(String),
}

fn is_running(pod: &v1::Pod) -> bool {
    let statuses = pod.status.iter().filter_map(|status| status.container_statuses.as_ref()).flatten();
    let mut ours = statuses.filter(|container| container.name == CONTAINER);
    ours.any(|container| container.state.as_ref().is_some_and(|state| state.running.is_some()))
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
    use super::*;

    fn wanted() -> Wanted {
        Wanted {
            node: "n-1".into(),
            namespace: "tools".into(),
            image: "sniff:1".into(),
            who: "jane@laptop $(reboot)".into(),
            what: "shop/web-0".into(),
            lifetime: Duration::from_secs(3600),
        }
    }

    fn state_of(status: &str) -> State {
        let pod = format!(r#"{{"metadata": {{}}, "status": {status}}}"#);
        state(&serde_json::from_str(&pod).unwrap())
    }

    #[test]
    fn the_pod_is_what_the_node_needs_and_no_more() {
        let pod = serde_json::to_value(wanted().pod()).unwrap();
        let spec = &pod["spec"];
        assert_eq!(spec["nodeName"], "n-1");
        assert_eq!(spec["restartPolicy"], "Never");
        assert_eq!(spec["hostPID"], true);
        assert_eq!(spec["hostNetwork"], serde_json::Value::Null);
        assert_eq!(spec["automountServiceAccountToken"], false);
        assert_eq!(spec["activeDeadlineSeconds"], 3600);
        assert_eq!(spec["tolerations"], serde_json::json!([{"operator": "Exists"}]));
        let container = &spec["containers"][0];
        assert_eq!(container["securityContext"]["privileged"], true);
        assert_eq!(container["resources"]["limits"]["memory"], "512Mi");
        assert_eq!(container["command"], serde_json::json!(["sniff", "agent", "--once"]));
        assert_eq!(pod["metadata"]["annotations"]["sniff/who"], "jane@laptop $(reboot)");
        assert_eq!(pod["metadata"]["labels"][MANAGED_BY_LABEL], "kubectl-sniff");
    }

    #[test]
    fn a_leftover_tells_whose_it_is() {
        let leftover = Leftover::from(wanted().pod());
        assert_eq!((leftover.who.as_str(), leftover.what.as_str()), ("jane@laptop $(reboot)", "shop/web-0"));
        assert!(leftover.until.starts_with("20"), "{leftover:?}");
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
        let ended =
            container(r#"{"terminated": {"exitCode": 3, "reason": "Error"}}"#).replace("Pending", "Failed");
        assert_eq!(state_of(&ended), State::Failed("Error with exit code 3".into()));
        let full = r#"{"phase": "Pending", "conditions": [{"type": "PodScheduled", "status": "False",
            "reason": "Unschedulable", "message": "0/3 nodes"}]}"#;
        assert_eq!(state_of(full), State::Failed("Unschedulable: 0/3 nodes".into()));
    }
}
