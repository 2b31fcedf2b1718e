//! The pods that capture: those of the DaemonSet, and short-lived ones where there is none.
//!
//! A pod is taken for one of these by its controller's UID alone: whoever may make a pod may give it any labels.
//!
//! A short-lived pod is made to go away whatever happens to its client. Its main process ends when its session does, or
//! when none comes, and its session when the client is not heard of. And it is made by a Job with
//! `ttlSecondsAfterFinished: 0`, which Kubernetes (1.23) removes together with its pod as soon as that has ended. Until
//! the pod runs, the Job itself has a minute, which its client extends while it waits. Whoever deletes the Job, deletes
//! the pod or drains the node ends the capture at once.
//!
//! Whoever may exec into such a pod rules its node. So it is made only in a namespace that is sniff's own, unless a
//! person takes that upon themselves.

use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime},
};

use anyhow::{Context as _, Result, bail, ensure};
use k8s_openapi::{
    api::{
        apps::v1::DaemonSet,
        batch::v1::{Job, JobSpec},
        core::v1,
    },
    apimachinery::pkg::{api::resource::Quantity, apis::meta::v1::ObjectMeta},
};
use kube::{
    Api, ResourceExt as _,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams, Preconditions},
};
use log::warn;
use serde_json::json;
use tokio::time::{Instant, sleep};

use super::{Cluster, Forbidden, Request};

/// The container that sniff runs in, in pods of both kinds.
pub const CONTAINER: &str = "sniff";
/// Namespace of the DaemonSet and of short-lived pods, unless another is named.
pub const NAMESPACE: &str = "sniff";
/// The DaemonSet's name.
const DAEMON_SET: &str = "sniff";

const NAME_LABEL: &str = "app.kubernetes.io/name";
const MANAGED_BY_LABEL: &str = "app.kubernetes.io/managed-by";
/// What the DaemonSet's pods are found by.
pub(super) const DAEMON_PODS: &str = "app.kubernetes.io/name=sniff";
/// The name of short-lived pods. It is not that of the DaemonSet's, lest that takes them for its own.
const SESSION: &str = "sniff-session";
const MANAGER: &str = "kubectl-sniff";
const WHO: &str = "sniff/who";
const WHAT: &str = "sniff/what";
const UNTIL: &str = "sniff/until";

/// The node's folder with the container runtimes' sockets, and the files that network namespaces are bound to.
const RUN: &str = "/run";
/// Where the main process keeps its socket.
const STATE: &str = "/var/lib/sniff";
/// The label that Kubernetes gives to the pods of a Job.
const JOB_LABEL: &str = "job-name";
/// How long a Job may live that has no running pod, after its client was last heard of; and between two such signs.
const STARTING: Duration = Duration::from_secs(60);
const SIGN_OF_LIFE: Duration = Duration::from_secs(15);
/// A Job that has no pod after this long has probably been refused one.
const POD_IS_DUE: Duration = Duration::from_secs(1);
/// Between two looks at a pod that starts: at first, and at most.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const MAX_PAUSE: Duration = Duration::from_millis(500);
/// Memory in MiB that a pod may take besides its capture's buffer. Sniff takes some 30, and a little for each CPU.
const HEADROOM_MIB: u64 = 128;
/// The smallest memory limit of a pod, in MiB.
const LEAST_MIB: u64 = 512;
/// Seconds that the kubelet waits for the main process at the end.
const GRACE_SECONDS: i64 = 3;

/// A pod that captures on a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AgentPod {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

/// A Job with a short-lived pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AgentJob {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its UID, by which its pod is known.
    pub uid: String,
}

/// A short-lived pod to be made.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// The node to run on.
    pub node: String,
    /// The namespace to be in.
    pub namespace: String,
    /// Whether that may be one that is not sniff's own.
    pub exposes_node: bool,
    /// The image with sniff in it.
    pub image: String,
    /// Who asks, for the annotation.
    pub who: String,
    /// What for, for the annotation.
    pub what: String,
    /// What it asks for, and may have, besides.
    pub resources: Resources,
    /// How long it may live.
    pub lifetime: Duration,
    /// Bytes of its capture's buffer.
    pub buffer_bytes: u32,
}

/// Resources by their names in Kubernetes, with their quantities; they take the place of what sniff asks for by itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resources {
    /// What is asked for.
    pub requests: Vec<(String, String)>,
    /// What it may have.
    pub limits: Vec<(String, String)>,
}

/// A Job of ours that `cleanup` finds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leftover {
    /// Which.
    pub job: AgentJob,
    /// The node of its pod.
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
            .labels(DAEMON_PODS)
            .fields(&format!("spec.nodeName={node},status.phase=Running"));
        let api = Api::<v1::Pod>::namespaced(self.client.clone(), namespace);
        let pods = self.ask(request, api.list(&of_node)).await?;
        let usable = |pod: &v1::Pod| pod.metadata.deletion_timestamp.is_none() && is_running(pod);
        let mut pods = pods.into_iter().flatten().filter(usable).peekable();
        if pods.peek().is_none() {
            return Ok(None);
        }
        let daemon_set = self.daemon_set(namespace).await?;
        let (own, strangers): (Vec<_>, Vec<_>) = pods.partition(|pod| is_of(pod, daemon_set.as_deref()));
        for stranger in strangers {
            warn!(
                "pod {namespace}/{} on node {node} has the labels of sniff's DaemonSet, but is not one of its pods: it is \
                 told nothing",
                stranger.name_any()
            );
        }
        let own = own.into_iter().next();
        Ok(own.map(|pod| AgentPod { namespace: namespace.into(), name: pod.name_any() }))
    }

    /// The UID of sniff's DaemonSet, if there is one.
    pub(super) async fn daemon_set(&self, namespace: &str) -> Result<Option<String>> {
        let request = Request {
            verb: "get",
            resource: "daemonsets.apps",
            namespace: Some(namespace),
            name: Some(DAEMON_SET),
        };
        let api = Api::<DaemonSet>::namespaced(self.client.clone(), namespace);
        let found = self.ask(request, api.get(DAEMON_SET)).await?;
        Ok(found.and_then(|it| it.metadata.uid))
    }

    /// Makes sure that a short-lived pod does not hand its node to people who have nothing to do with sniff.
    ///
    /// # Errors
    ///
    /// When its namespace is not sniff's own, as far as can be told, and nobody has accepted that.
    pub async fn check_namespace(&self, Wanted { node, namespace, exposes_node, .. }: &Wanted) -> Result<()> {
        ensure!(
            *exposes_node || self.is_namespace_of_sniff(namespace).await?,
            "namespace {namespace} is not known to be sniff's own: whoever may exec into pods there, as all with the role \
             edit may, would rule node {node} meanwhile; use the namespace {NAMESPACE}, or one with the label \
             {NAME_LABEL}={NAMESPACE}, or accept that with --expose-nodes"
        );
        Ok(())
    }

    /// Whether a namespace is sniff's own: by its name, or by its label as far as this user may read that.
    ///
    /// # Errors
    ///
    /// When there is no such namespace, or the server does not answer.
    pub async fn is_namespace_of_sniff(&self, namespace: &str) -> Result<bool> {
        if namespace == NAMESPACE {
            return Ok(true);
        }
        let request = Request { verb: "get", resource: "namespaces", namespace: None, name: Some(namespace) };
        let api = Api::<v1::Namespace>::all(self.client.clone());
        let found = match self.ask(request, api.get(namespace)).await {
            Err(error) if error.is::<Forbidden>() => return Ok(false),
            found => found?.with_context(|| no_namespace(namespace))?,
        };
        Ok(found.labels().get(NAME_LABEL).is_some_and(|name| name == NAMESPACE))
    }

    /// Has a short-lived pod made.
    ///
    /// # Errors
    ///
    /// When the server refuses.
    pub async fn create_agent(&self, wanted: &Wanted) -> Result<AgentJob> {
        let namespace = &wanted.namespace;
        let request =
            Request { verb: "create", resource: "jobs.batch", namespace: Some(namespace), name: None };
        let api = Api::<Job>::namespaced(self.client.clone(), namespace);
        self.check_namespace(wanted).await?;
        match self.ask(request, api.create(&PostParams::default(), &wanted.job())).await? {
            Some(job) => Ok(AgentJob::from(&job)),
            None => bail!(no_namespace(namespace)),
        }
    }

    /// Sets or lifts the time that a Job may live from its start, whatever its pod says.
    async fn limit(
        &self,
        AgentJob { namespace, name, .. }: &AgentJob,
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

    /// Waits until a Job's pod runs, which from then on lives as long as it was wanted to; `tell` hears what is waited for,
    /// when that changes.
    ///
    /// # Errors
    ///
    /// When there may be no such pod, it cannot run, does not within `limit`, or is gone.
    pub async fn wait_for_agent(
        &self,
        job: &AgentJob,
        limit: Duration,
        mut tell: impl FnMut(&str),
    ) -> Result<AgentPod> {
        let AgentJob { namespace, name, .. } = job;
        let (began, mut pause, mut told) = (Instant::now(), FIRST_PAUSE, String::new());
        let (mut seen, mut alive) = (None, began);
        loop {
            if alive.elapsed() >= SIGN_OF_LIFE {
                self.limit(job, Some(began.elapsed() + STARTING)).await?;
                alive = Instant::now();
            }
            let waiting = match self.pod_of(job).await? {
                Some(pod) => {
                    let pod_name = pod.name_any();
                    match state(&pod) {
                        State::Running => {
                            self.limit(job, None).await?;
                            return Ok(AgentPod { namespace: namespace.clone(), name: pod_name });
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

    async fn pod_of(&self, AgentJob { namespace, name, uid }: &AgentJob) -> Result<Option<v1::Pod>> {
        let request = Request { verb: "list", resource: "pods", namespace: Some(namespace), name: None };
        let ours = ListParams::default().labels(&format!("{JOB_LABEL}={name}"));
        let api = Api::<v1::Pod>::namespaced(self.client.clone(), namespace);
        let pods = self.ask(request, api.list(&ours)).await?;
        Ok(pods.into_iter().flatten().find(|pod| is_of(pod, Some(uid))))
    }

    /// Why Kubernetes does not let a Job have its pod, as far as its events may be read.
    async fn refusal_of_pod(&self, AgentJob { namespace, name, .. }: &AgentJob) -> Option<String> {
        let request = Request { verb: "list", resource: "events", namespace: Some(namespace), name: None };
        let refused =
            ListParams::default().fields(&format!("involvedObject.name={name},reason=FailedCreate"));
        let api = Api::<v1::Event>::namespaced(self.client.clone(), namespace);
        let events = self.ask(request, api.list(&refused)).await.ok()??;
        let says = events.into_iter().filter_map(|event| event.message).next_back()?;
        let advice = if says.contains("PodSecurity") {
            ": choose a namespace for privileged pods with --agent-namespace, or install the DaemonSet"
        } else {
            ""
        };
        Some(format!("namespace {namespace} takes no pod of job {name}: {says}{advice}"))
    }

    /// Deletes a Job and its pod; one that is gone already is fine.
    ///
    /// # Errors
    ///
    /// When the server refuses, or does not answer.
    pub async fn delete_agent(&self, job: &AgentJob) -> Result<()> {
        let AgentJob { namespace, name, uid } = job;
        let request =
            Request { verb: "delete", resource: "jobs.batch", namespace: Some(namespace), name: Some(name) };
        let api = Api::<Job>::namespaced(self.client.clone(), namespace);
        let this = Preconditions { uid: Some(uid.clone()), resource_version: None };
        self.ask(request, api.delete(name, &DeleteParams::background().preconditions(this))).await?;
        Ok(())
    }

    /// The Jobs with short-lived pods that are there, of whoever; in one namespace or all.
    ///
    /// # Errors
    ///
    /// When the server refuses, or does not answer.
    pub async fn leftovers(&self, namespace: Option<&str>) -> Result<Vec<Leftover>> {
        let request = Request { verb: "list", resource: "jobs.batch", namespace, name: None };
        let ours =
            ListParams::default().labels(&format!("{NAME_LABEL}={SESSION},{MANAGED_BY_LABEL}={MANAGER}"));
        let api = match namespace {
            Some(namespace) => Api::<Job>::namespaced(self.client.clone(), namespace),
            None => Api::all(self.client.clone()),
        };
        let jobs = self.ask(request, api.list(&ours)).await?;
        Ok(jobs.into_iter().flatten().map(Leftover::from).collect())
    }
}

impl Wanted {
    /// The Job, as it would be created.
    pub fn job(&self) -> Job {
        let mut metadata = self.metadata();
        metadata.generate_name = Some("sniff-".into());
        metadata.namespace = Some(self.namespace.clone());
        let template = v1::PodTemplateSpec { metadata: Some(self.metadata()), spec: Some(self.pod()) };
        let spec = JobSpec {
            // Until its client has seen the pod run; from then on the pod's own deadline holds.
            active_deadline_seconds: Some(STARTING.as_secs() as i64),
            // A session that has failed is not to be tried again by anybody but its client.
            backoff_limit: Some(0),
            template,
            ttl_seconds_after_finished: Some(0),
            ..JobSpec::default()
        };
        Job { metadata, spec: Some(spec), ..Job::default() }
    }

    /// What tells whose it is; on the Job and on its pod.
    fn metadata(&self) -> ObjectMeta {
        let until = humantime::format_rfc3339_seconds(SystemTime::now() + self.lifetime).to_string();
        let labels = [(NAME_LABEL, SESSION), (MANAGED_BY_LABEL, MANAGER)];
        let annotations = [(WHO, self.who.clone()), (WHAT, self.what.clone()), (UNTIL, until)];
        ObjectMeta {
            labels: Some(labels.map(|(key, value)| (key.into(), value.into())).into()),
            annotations: Some(annotations.map(|(key, value)| (key.into(), value)).into()),
            ..ObjectMeta::default()
        }
    }

    fn pod(&self) -> v1::PodSpec {
        v1::PodSpec {
            active_deadline_seconds: Some(self.lifetime.as_secs() as i64),
            automount_service_account_token: Some(false),
            containers: vec![self.container()],
            enable_service_links: Some(false),
            host_pid: Some(true),
            node_name: Some(self.node.clone()),
            restart_policy: Some("Never".into()),
            termination_grace_period_seconds: Some(GRACE_SECONDS),
            tolerations: Some(vec![v1::Toleration {
                operator: Some("Exists".into()),
                ..v1::Toleration::default()
            }]),
            volumes: Some(volumes()),
            ..v1::PodSpec::default()
        }
    }

    /// The Job as JSON, which kubectl takes too.
    ///
    /// # Errors
    ///
    /// Never in practice.
    pub fn manifest(&self) -> Result<String> {
        Ok(serde_json::to_string_pretty(&self.job())?)
    }

    /// The memory limit; the kernel counts the buffer towards it.
    fn memory_mib(&self) -> u64 {
        (u64::from(self.buffer_bytes).div_ceil(1 << 20) + HEADROOM_MIB).max(LEAST_MIB)
    }

    fn container(&self) -> v1::Container {
        let pair = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        let requests = [pair("cpu", "10m"), pair("memory", "16Mi")];
        let limits = [pair("memory", &format!("{}Mi", self.memory_mib()))];
        v1::Container {
            name: CONTAINER.into(),
            image: Some(self.image.clone()),
            command: Some(["sniff", "agent", "--once"].map(Into::into).into()),
            env: Some(vec![
                variable("NODE_NAME", self.node.clone()),
                variable("SNIFF_AGENT_SOCKET", format!("{STATE}/agent.sock")),
                // The pod is for one capture.
                variable("SNIFF_MAX_MEMORY", self.buffer_bytes.to_string()),
            ]),
            resources: Some(v1::ResourceRequirements {
                requests: Some(quantities(requests, &self.resources.requests)),
                limits: Some(quantities(limits, &self.resources.limits)),
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

/// The one with what stands in the other, which has its way.
fn quantities<const N: usize>(
    ours: [(String, String); N],
    theirs: &[(String, String)],
) -> BTreeMap<String, Quantity> {
    ours.into_iter().chain(theirs.iter().cloned()).map(|(name, value)| (name, Quantity(value))).collect()
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

impl From<Job> for Leftover {
    fn from(job: Job) -> Self {
        let annotation = |key: &str| job.annotations().get(key).cloned().unwrap_or_else(|| "unknown".into());
        let (who, what, until) = (annotation(WHO), annotation(WHAT), annotation(UNTIL));
        let ours = AgentJob::from(&job);
        let node = job.spec.and_then(|spec| spec.template.spec?.node_name).unwrap_or_default();
        Self { job: ours, node, who, what, until }
    }
}

impl From<&Job> for AgentJob {
    fn from(job: &Job) -> Self {
        let (namespace, name) = (job.namespace().unwrap_or_default(), job.name_any());
        Self { namespace, name, uid: job.uid().unwrap_or_default() }
    }
}

/// Whether the object with this UID controls a pod.
pub(super) fn is_of(pod: &v1::Pod, uid: Option<&str>) -> bool {
    let controller = pod.owner_references().iter().find(|owner| owner.controller == Some(true));
    controller.is_some_and(|owner| !owner.uid.is_empty() && Some(owner.uid.as_str()) == uid)
}

fn no_namespace(namespace: &str) -> String {
    format!(
        "there is no namespace {namespace} for short-lived pods: create it (kubectl create namespace {namespace}), and label \
         it {NAME_LABEL}={NAMESPACE} and pod-security.kubernetes.io/enforce=privileged; or install the DaemonSet"
    )
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
            exposes_node: false,
            resources: Resources::default(),
            image: "sniff:1".into(),
            who: "jane@laptop $(reboot)".into(),
            what: "shop/web-0".into(),
            lifetime: Duration::from_secs(3600),
            buffer_bytes: 64 << 20,
        }
    }

    fn state_of(status: &str) -> State {
        let pod = format!(r#"{{"metadata": {{}}, "status": {status}}}"#);
        state(&serde_json::from_str(&pod).unwrap())
    }

    #[test]
    fn the_pod_is_what_the_node_needs_and_no_more() {
        let job = serde_json::to_value(wanted().job()).unwrap();
        assert_eq!(job["spec"]["ttlSecondsAfterFinished"], 0);
        assert_eq!(job["spec"]["backoffLimit"], 0);
        assert_eq!(job["spec"]["activeDeadlineSeconds"], 60, "its client has not seen the pod run");
        assert_eq!(job["metadata"]["annotations"], job["spec"]["template"]["metadata"]["annotations"]);
        let spec = &job["spec"]["template"]["spec"];
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
        assert_eq!(job["metadata"]["annotations"]["sniff/who"], "jane@laptop $(reboot)");
        assert_eq!(job["metadata"]["labels"][MANAGED_BY_LABEL], "kubectl-sniff");
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

    #[test]
    fn a_pod_has_memory_for_its_buffer() {
        let container = |buffer_bytes| {
            let job = serde_json::to_value(Wanted { buffer_bytes, ..wanted() }.job()).unwrap();
            job["spec"]["template"]["spec"]["containers"][0].clone()
        };
        for (buffer_bytes, limit) in [
            (512 << 10, "512Mi"),
            (384 << 20, "512Mi"),
            ((384 << 20) + 1, "513Mi"),
            (500 << 20, "628Mi"),
            (1 << 31, "2176Mi"),
        ] {
            let container = container(buffer_bytes);
            assert_eq!(container["resources"]["limits"]["memory"], limit);
            let most = serde_json::json!({"name": "SNIFF_MAX_MEMORY", "value": buffer_bytes.to_string()});
            assert!(container["env"].as_array().unwrap().contains(&most), "{container}");
        }
    }

    #[test]
    fn a_pod_has_the_resources_that_a_quota_asks_for() {
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let resources = Resources {
            requests: vec![pair("cpu", "1m"), pair("ephemeral-storage", "1Mi")],
            limits: vec![pair("cpu", "1"), pair("memory", "1Gi")],
        };
        let job = serde_json::to_value(Wanted { resources, ..wanted() }.job()).unwrap();
        let resources = &job["spec"]["template"]["spec"]["containers"][0]["resources"];
        assert_eq!(
            *resources,
            json!({"requests": {"cpu": "1m", "ephemeral-storage": "1Mi", "memory": "16Mi"},
                "limits": {"cpu": "1", "memory": "1Gi"}})
        );
    }

    #[test]
    fn a_leftover_tells_whose_it_is() {
        let leftover = Leftover::from(wanted().job());
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
