//! Pods from their creation to their end, as admission and the kubelets see to them.

use std::{
    collections::HashMap,
    io,
    net::TcpStream,
    process::{Child, Command, Stdio},
    sync::{Arc, OnceLock},
    thread,
    time::{Duration, Instant},
};

use k8s_openapi::api::core::v1;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::{Value, json};

use crate::{
    http::Refusal,
    objects::{Key, name_suffix, new_uid},
    shared::Shared,
};

/// Between two looks at what may have come to its end.
pub(crate) const TICK: Duration = Duration::from_millis(20);

/// A machine on which containers' programs run, outside any container.
pub trait Node: Send + Sync {
    /// What runs these words in a container; `None` when there is no such program.
    fn command(&self, words: &[&str], container: &Container<'_>) -> Option<Command>;

    /// Starts a command on the machine.
    fn spawn(&self, command: &mut Command) -> Child;

    /// Connects to a port on the loopback of the pods there, which are all in one network namespace.
    ///
    /// # Errors
    /// Nobody listens there.
    fn connect(&self, port: u16) -> io::Result<TcpStream>;
}

/// Where a command runs, for who plays that.
#[derive(Debug)]
pub struct Container<'a> {
    /// Name of the pod.
    pub pod: &'a str,
    /// Whether the pod has a main process, which those of the DaemonSet have not here.
    pub has_main_process: bool,
    /// The container's environment, names and values.
    pub env: &'a [(String, String)],
}

#[derive(Default)]
pub(crate) struct Kubelets {
    pub(crate) nodes: HashMap<String, Arc<dyn Node>>,
    /// How long a pod takes to start.
    pub(crate) pod_start: Duration,
    /// What is said of an image that cannot be got.
    pub(crate) says: Option<String>,
    /// The namespace that PodSecurity lets no pods of sniff's into.
    pub(crate) restricted: Option<String>,
}

impl Shared {
    /// Creates a pod, and starts its container.
    pub(crate) fn create_pod(self: &Arc<Self>, namespace: &str, mut pod: Value) -> Result<Value, Refusal> {
        let typed: v1::Pod =
            serde_json::from_value(pod.clone()).map_err(|error| Refusal::bad_request(error.to_string()))?;
        let spec = typed.spec.expect("a spec");
        let prefix = typed.metadata.generate_name.unwrap_or_default();
        let name = typed.metadata.name.unwrap_or_else(|| format!("{prefix}{}", name_suffix()));
        self.lock().kubelets.admit(namespace, &name, &spec)?;
        let is_missing = spec.containers[0].image.as_deref() == Some("missing");
        let why = if is_missing { "ImagePullBackOff" } else { "ContainerCreating" };
        pod["metadata"]["name"] = json!(name);
        pod["metadata"]["namespace"] = json!(namespace);
        pod["metadata"]["uid"] = json!(new_uid());
        let key = Key::new("pods", namespace, &name);
        let (pod, node, delay) = self.update(|state| {
            let kubelets = &state.kubelets;
            let says = kubelets.says.as_deref().unwrap_or("test");
            let waiting = json!({"waiting": {"reason": why, "message": says}});
            pod["status"] = json!({"phase": "Pending", "containerStatuses": [container_status(&waiting)]});
            let node = kubelets.nodes.get(spec.node_name.as_deref().unwrap_or_default()).cloned();
            let delay = kubelets.pod_start;
            (state.objects.put(&key, pod), node, delay)
        });
        if let (Some(node), false) = (node, is_missing) {
            let shared = Arc::clone(self);
            thread::spawn(move || shared.run_pod(&key, &*node, &spec.containers[0], delay));
        }
        Ok(pod)
    }

    /// The main process of a pod, from its start to its end.
    fn run_pod(&self, key: &Key, node: &dyn Node, container: &v1::Container, delay: Duration) {
        thread::sleep(delay);
        {
            let state = self.lock();
            if state.has_ended || state.objects.get(key).is_none() {
                return;
            }
        }
        let mut child = node.spawn(&mut main_process(node, &key.name, container));
        self.update(|state| {
            state.objects.change(key, |pod| {
                pod["status"] = running();
                pod["status"]["pid"] = json!(child.id());
            })
        });
        let mut is_killed = false;
        while child.try_wait().expect("a child of ours").is_none() {
            if !is_killed && self.is_to_be_killed(key) {
                is_killed = true;
                // It may end at this very moment.
                let _ = child.kill();
            }
            thread::sleep(TICK);
        }
        // Its Job is finished with it, and not kept.
        self.update(|state| {
            let objects = &mut state.objects;
            let job = objects.get(key).and_then(|pod| pod["metadata"]["labels"]["job-name"].as_str());
            let job = job.map(|name| Key::new("jobs", &key.namespace, name));
            job.into_iter().for_each(|job| objects.remove(&job));
            objects.remove(key);
        });
    }

    fn is_to_be_killed(&self, key: &Key) -> bool {
        let state = self.lock();
        let due = state.objects.get(key).and_then(|pod| pod["status"]["killAt"].as_u64());
        state.has_ended || due.is_some_and(|due| due <= now_ms())
    }

    /// Deletes a pod: at once when it has no process here, otherwise by its grace period.
    pub(crate) fn delete_pod(&self, key: &Key) {
        let pid = self.update(|state| {
            let objects = &mut state.objects;
            let pid = objects.get(key)?["status"]["pid"].as_u64();
            match pid {
                Some(_) => drop(objects.change(key, terminate)),
                None => objects.remove(key),
            }
            pid
        });
        if let Some(pid) = pid {
            // It may have ended.
            let _ = kill(Pid::from_raw(pid.try_into().expect("a PID")), Signal::SIGTERM);
        }
    }
}

impl Kubelets {
    /// PodSecurity, as far as it looks at what sniff's pods have.
    fn admit(&self, namespace: &str, name: &str, spec: &v1::PodSpec) -> Result<(), Refusal> {
        let is_privileged = |container: &v1::Container| {
            container.security_context.as_ref().is_some_and(|it| it.privileged == Some(true))
        };
        let is_of_node = |volume: &v1::Volume| volume.host_path.is_some();
        let violated = [
            (spec.host_pid == Some(true), "host namespaces (hostPID=true)"),
            (spec.volumes.iter().flatten().any(is_of_node), "hostPath volumes"),
            (spec.containers.iter().any(is_privileged), "privileged"),
        ];
        let violated: Vec<_> = violated.into_iter().filter_map(|(is, what)| is.then_some(what)).collect();
        if self.restricted.as_deref() != Some(namespace) || violated.is_empty() {
            return Ok(());
        }
        let message = format!(
            "pods \"{name}\" is forbidden: violates PodSecurity \"restricted:latest\": {}",
            violated.join(", ")
        );
        Err(Refusal { code: 403, reason: "Forbidden", message })
    }
}

fn main_process(node: &dyn Node, pod: &str, container: &v1::Container) -> Command {
    let words = container.command.iter().chain(&container.args).flatten();
    let words: Vec<&str> = words.map(String::as_str).collect();
    let env = container.env.iter().flatten();
    let env: Vec<(String, String)> =
        env.map(|it| (it.name.clone(), it.value.clone().unwrap_or_default())).collect();
    let container = Container { pod, has_main_process: true, env: &env };
    let mut command = node.command(&words, &container).expect("a program of the node");
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command
}

/// Has a pod end, at the latest when its grace period is over.
fn terminate(pod: &mut Value) {
    let grace = pod["spec"]["terminationGracePeriodSeconds"].as_u64().unwrap_or(30);
    let until = now_ms() + grace * 1000;
    let shortest = pod["status"]["killAt"].as_u64().map_or(until, |before| before.min(until));
    pod["status"]["killAt"] = json!(shortest);
    pod["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    pod["metadata"]["deletionGracePeriodSeconds"] = json!(grace);
}

/// The status of a pod whose container runs.
pub(crate) fn running() -> Value {
    let state = json!({"running": {"startedAt": "2026-01-01T00:00:00Z"}});
    json!({"phase": "Running", "containerStatuses": [container_status(&state)]})
}

fn container_status(state: &Value) -> Value {
    json!({"name": "sniff", "image": "", "imageID": "", "ready": true, "restartCount": 0, "state": state})
}

fn now_ms() -> u64 {
    static START: OnceLock<Instant> = OnceLock::new();
    START.get_or_init(Instant::now).elapsed().as_millis().try_into().expect("a short test")
}
