//! A Kubernetes API on loopback whose nodes are machines of the tests: what `kubectl sniff` asks of a cluster, answered
//! as the real one does.
//!
//! | What | As described in |
//! |---|---|
//! | get, list, create, patch and delete of objects; label and field selectors | "Kubernetes API Concepts"; "Labels and Selectors"; "Field Selectors" |
//! | watches: chunked JSON lines from a `resourceVersion` on; `410 Gone` for one that is forgotten, as an answer and as an `ERROR` event | "Kubernetes API Concepts", "Efficient detection of changes", "410 Gone responses" |
//! | refusals as `Status` objects; RBAC's words | "Kubernetes API Concepts"; "Using RBAC Authorization" |
//! | `SelfSubjectAccessReview` | API reference, `authorization.k8s.io/v1` |
//! | PodSecurity refuses with 403 and says `violates PodSecurity` | "Pod Security Admission" |
//! | exec: `GET …/pods/NAME/exec`, asked of RBAC as `create pods/exec`, over a WebSocket in `v5.channel.k8s.io` | kubernetes, `apimachinery/pkg/util/remotecommand/constants.go`, `websocket.go` |
//! | a Job's pod is known by its controller; one that lasts longer than `activeDeadlineSeconds` goes | "Jobs", "Job termination and cleanup" |
//! | what is written to a command that has ended resets the connection, and what is on its way is lost | seen in a cluster of version 1.36 |
//! | deletion: SIGTERM, the grace period, SIGKILL; a pod goes when its processes have; a later delete may shorten the period | "Pod Lifecycle", "Termination of Pods" |
//!
//! Commands run as processes of the node's machine, outside any container: the program under test finds there what it
//! would find from its privileged pod.

mod exec;
mod http;

use std::{
    collections::{BTreeMap, HashMap},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    os::fd::AsRawFd as _,
    path::PathBuf,
    sync::{Arc, Condvar, Mutex, MutexGuard},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use k8s_openapi::api::{batch::v1::Job, core::v1};
use nix::{
    sys::{
        signal::{Signal, kill},
        socket,
    },
    unistd::Pid,
};
use serde_json::{Value, json};

use crate::{
    cgroup::random_uuid,
    netns::{Netns, tool},
    sniff,
};

/// Between two pings of a watch's own clock.
const TICK: Duration = Duration::from_millis(20);

/// The API server; ended on drop.
#[derive(Debug)]
pub struct Cluster {
    address: SocketAddr,
    listener: Arc<TcpListener>,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

/// What a user may not do. `pods/exec` and the like are resources.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Denial {
    /// Such as `list`.
    pub verb: &'static str,
    /// Such as `pods`.
    pub resource: &'static str,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    ended: bool,
    version: u64,
    /// Versions up to this one are not known any more.
    forgotten: u64,
    /// By resource, namespace and name.
    objects: BTreeMap<Key, Value>,
    history: Vec<(u64, &'static str, Key, Value)>,
    denials: Vec<Denial>,
    /// The namespace that lets no privileged pods in.
    restricted: Option<String>,
    nodes: HashMap<String, Netns>,
    /// What is said in place of sniff on some nodes: a file.
    impostors: HashMap<String, PathBuf>,
    /// How long a pod takes to start.
    pod_start: Duration,
    /// How long a second of a Job's deadline lasts.
    job_second: Option<Duration>,
    /// What the kubelet says of an image that it cannot get.
    kubelet_says: Option<String>,
    /// Whether each Job is joined by a pod that has all the labels of its own, and runs.
    has_impostors: bool,
    /// What was asked, as `verb resource namespace/name`.
    log: Vec<String>,
    execs: Vec<TcpStream>,
    /// Bytes a second of new connections of exec, and how many may be on their way.
    slow: Option<(u64, usize)>,
    /// How many connections exec has had.
    exec_count: usize,
    /// The first so many of them carry nothing any more, without being closed.
    frozen: usize,
    /// Whether the server answers nobody, and how many requests it has left without an answer.
    is_down: bool,
    unanswered: usize,
}

type Key = (String, String, String);

/// A request, taken apart.
#[derive(Debug)]
struct Asked {
    verb: &'static str,
    resource: String,
    namespace: String,
    name: String,
    query: Vec<(String, String)>,
    body: Value,
}

/// Why something is refused.
struct Refusal {
    code: u16,
    reason: &'static str,
    message: String,
}

impl Cluster {
    /// A cluster with these nodes.
    pub fn start<'a>(nodes: impl IntoIterator<Item = (&'a str, &'a Netns)>) -> Self {
        let listener = Arc::new(TcpListener::bind("127.0.0.1:0").expect("a listener"));
        let address = listener.local_addr().expect("a bound address");
        let shared = Arc::new(Shared::default());
        let cluster = {
            let (listener, shared) = (Arc::clone(&listener), Arc::clone(&shared));
            let serving = Arc::clone(&listener);
            let thread = thread::spawn(move || {
                // It fails once the listener is shut down.
                while let Ok((stream, _)) = serving.accept() {
                    let shared = Arc::clone(&shared);
                    thread::spawn(move || http::serve(stream, &shared));
                }
            });
            (listener, thread)
        };
        let (listener, thread) = cluster;
        let this = Self { address, listener, shared, thread: Some(thread) };
        for (name, netns) in nodes {
            this.state().nodes.insert(name.to_owned(), netns.clone());
            let info = json!({"kernelVersion": "6.18.0-test", "operatingSystem": "linux"});
            this.put("nodes", "", name, json!({"metadata": {"name": name}, "status": {"nodeInfo": info}}));
        }
        for namespace in ["default", "shop", "sniff", "tools"] {
            this.put("namespaces", "", namespace, json!({"metadata": {"name": namespace, "labels": {}}}));
        }
        this
    }

    /// A kubeconfig that leads here. (JSON is YAML.)
    pub fn kubeconfig(&self) -> String {
        let context = json!({ "cluster": "test", "user": "test", "namespace": "tools" });
        json!({
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{ "name": "test", "cluster": { "server": format!("http://{}", self.address) } }],
            "users": [{ "name": "test", "user": {} }],
            "contexts": [{ "name": "test", "context": context }],
            "current-context": "test",
        })
        .to_string()
    }

    /// Lets there be a pod that runs on a node.
    pub fn add_pod(&self, namespace: &str, name: &str, uid: &str, node: &str, labels: &Value) {
        self.put(
            "pods",
            namespace,
            name,
            json!({
                "metadata": {"namespace": namespace, "name": name, "uid": uid, "labels": labels},
                "spec": {"nodeName": node, "containers": [{"name": "app"}]},
                "status": {"phase": "Running"},
            }),
        );
    }

    /// Lets the pod of sniff's DaemonSet run on a node.
    pub fn add_agent(&self, node: &str) {
        let key = ("daemonsets".to_owned(), "sniff".to_owned(), "sniff".to_owned());
        let there = self.state().objects.get(&key).map(|it| it["metadata"]["uid"].clone());
        let uid = there.unwrap_or_else(|| {
            let uid = json!(random_uuid());
            let metadata = json!({"namespace": "sniff", "name": "sniff", "uid": uid});
            self.put("daemonsets", "sniff", "sniff", json!({"metadata": metadata}));
            uid
        });
        self.add_pod_like_agent(&format!("sniff-{node}"), node, &controlled_by("DaemonSet", "sniff", &uid));
    }

    /// Lets a pod run that has the labels of sniff's DaemonSet's, whosever it is.
    pub fn add_pod_like_agent(&self, name: &str, node: &str, owners: &Value) {
        let labels = json!({"app.kubernetes.io/name": "sniff", "app.kubernetes.io/component": "agent"});
        self.put(
            "pods",
            "sniff",
            name,
            json!({
                "metadata": {"namespace": "sniff", "name": name, "uid": random_uuid(), "labels": labels,
                    "ownerReferences": owners},
                "spec": {"nodeName": node, "hostPID": true, "containers": [{"name": "sniff"}]},
                "status": running(),
            }),
        );
    }

    /// Lets there be any object; one of the same name is replaced.
    pub fn put(&self, resource: &str, namespace: &str, name: &str, object: Value) {
        let key = (resource.to_owned(), namespace.to_owned(), name.to_owned());
        self.state().put(key, object);
        self.shared.changed.notify_all();
    }

    /// Removes a pod.
    pub fn remove_pod(&self, namespace: &str, name: &str) {
        self.state().remove(&("pods".to_owned(), namespace.to_owned(), name.to_owned()));
        self.shared.changed.notify_all();
    }

    /// Takes rights away.
    pub fn deny(&self, verb: &'static str, resource: &'static str) {
        self.state().denials.push(Denial { verb, resource });
    }

    /// Lets no privileged pods into a namespace.
    pub fn restrict(&self, namespace: &str) {
        self.state().restricted = Some(namespace.to_owned());
        let labels = json!({"pod-security.kubernetes.io/enforce": "restricted"});
        self.put("namespaces", "", namespace, json!({"metadata": {"name": namespace, "labels": labels}}));
    }

    /// Makes new pods take this long to start.
    pub fn set_pod_start(&self, time: Duration) {
        self.state().pod_start = time;
    }

    /// Makes the seconds of Jobs' deadlines last this long.
    pub fn set_job_second(&self, time: Duration) {
        self.state().job_second = Some(time);
    }

    /// Has the kubelet say this of an image that it cannot get.
    pub fn set_kubelet_words(&self, words: &str) {
        self.state().kubelet_says = Some(words.to_owned());
    }

    /// Gives each Job a second pod from now on, which has all the labels of its own and runs at once.
    pub fn add_impostors(&self) {
        self.state().has_impostors = true;
    }

    /// The Jobs of a namespace, as they are stored.
    pub fn jobs(&self, namespace: &str) -> Vec<Value> {
        let state = self.state();
        let jobs = state.objects.iter().filter(|(key, _)| key.0 == "jobs" && key.1 == namespace);
        jobs.map(|(_, job)| job.clone()).collect()
    }

    /// Forgets all versions so far: watches that go on from one get 410.
    pub fn forget_versions(&self) {
        let mut state = self.state();
        state.version += 1;
        state.forgotten = state.version;
        drop(state);
        self.shared.changed.notify_all();
    }

    /// On this node, whatever is run by exec says what is in the file, and then listens in silence.
    pub fn let_impostor_speak(&self, node: &str, file: PathBuf) {
        self.state().impostors.insert(node.to_owned(), file);
    }

    /// From now on, what new execs write comes to the client at so many bytes a second, with so many on their way.
    pub fn slow_execs(&self, bytes_per_second: u64, on_the_way: usize) {
        self.state().slow = Some((bytes_per_second, on_the_way));
    }

    /// Closes all connections of exec.
    pub fn cut_execs(&self) {
        for stream in self.state().execs.drain(..) {
            // The other end may have closed it already.
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    /// Takes the server down: all connections are closed, watches and those of exec among them, and new ones at once.
    pub fn go_down(&self) {
        self.state().is_down = true;
        self.shared.changed.notify_all();
        self.cut_execs();
    }

    /// Has the server answer again.
    pub fn come_up(&self) {
        self.state().is_down = false;
    }

    /// How many requests found the server down.
    pub fn unanswered(&self) -> usize {
        self.state().unanswered
    }

    /// From now on the connections that exec has carry nothing, and nobody is told.
    pub fn freeze_execs(&self) {
        let mut state = self.state();
        state.frozen = state.exec_count;
    }

    /// Names of the pods in a namespace.
    pub fn pods(&self, namespace: &str) -> Vec<String> {
        let state = self.state();
        let pods = state.objects.keys().filter(|(resource, its, _)| resource == "pods" && its == namespace);
        pods.map(|(_, _, name)| name.clone()).collect()
    }

    /// A pod, as it is stored.
    pub fn pod(&self, namespace: &str, name: &str) -> Option<Value> {
        let key = ("pods".to_owned(), namespace.to_owned(), name.to_owned());
        self.state().objects.get(&key).cloned()
    }

    /// What was asked so far, as `verb resource namespace/name`.
    pub fn log(&self) -> Vec<String> {
        self.state().log.clone()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.shared.lock()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.state().ended = true;
        self.shared.changed.notify_all();
        self.cut_execs();
        // If there is nothing to shut down, the thread has ended.
        let _ = socket::shutdown(self.listener.as_raw_fd(), socket::Shutdown::Both);
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no test thread has panicked with it")
    }

    /// The answer to anything but a watch and an exec.
    fn answer(self: &Arc<Self>, asked: &Asked) -> Result<(u16, Value), Refusal> {
        let Asked { verb, resource, namespace, name, body, .. } = asked;
        self.lock().log.push(format!("{verb} {resource} {namespace}/{name}"));
        if resource == "version" {
            let info = json!({"major": "1", "minor": "36", "gitVersion": "v1.36.0", "gitCommit": "", "gitTreeState": "",
                "buildDate": "", "goVersion": "", "compiler": "", "platform": ""});
            return Ok((200, info));
        }
        if resource == "selfsubjectaccessreviews" {
            return Ok((201, self.review(body)));
        }
        self.lock().check(asked)?;
        let key = (resource.clone(), namespace.clone(), name.clone());
        match *verb {
            "get" => {
                self.lock().objects.get(&key).cloned().map(|it| (200, it)).ok_or_else(|| asked.not_found())
            }
            "list" => Ok((200, self.lock().list(asked))),
            "create" if !self.lock().has_namespace(namespace) => Err(Refusal {
                code: 404,
                reason: "NotFound",
                message: format!("namespaces \"{namespace}\" not found"),
            }),
            "patch" => self.patch(&key, body).ok_or_else(|| asked.not_found()),
            "create" if resource == "jobs" => self.create_job(namespace, body.clone()).map(|job| (201, job)),
            "delete" if resource == "jobs" => self.delete_job(&key).ok_or_else(|| asked.not_found()),
            _ => {
                Err(Refusal { code: 405, reason: "MethodNotAllowed", message: format!("{verb} {resource}") })
            }
        }
    }

    fn review(&self, review: &Value) -> Value {
        let asked = &review["spec"]["resourceAttributes"];
        let text = |key: &str| asked[key].as_str().unwrap_or_default().to_owned();
        let resource = match text("subresource") {
            sub if sub.is_empty() => text("resource"),
            sub => format!("{}/{sub}", text("resource")),
        };
        let verb = text("verb");
        let denied = self.lock().denials.iter().any(|it| it.verb == verb && it.resource == resource);
        json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview", "spec": review["spec"],
            "status": {"allowed": !denied}})
    }

    /// Creates a Job, and plays its controller: there is one pod, which is not made again.
    fn create_job(self: &Arc<Self>, namespace: &str, mut job: Value) -> Result<Value, Refusal> {
        let typed: Job = serde_json::from_value(job.clone()).map_err(|error| Refusal {
            code: 400,
            reason: "BadRequest",
            message: error.to_string(),
        })?;
        let spec = typed.spec.expect("a spec");
        assert_eq!((spec.backoff_limit, spec.ttl_seconds_after_finished), (Some(0), Some(0)));
        let name = format!("{}{}", typed.metadata.generate_name.unwrap_or_default(), &random_uuid()[..5]);
        let uid = json!(random_uuid());
        job["metadata"]["name"] = json!(name);
        job["metadata"]["namespace"] = json!(namespace);
        job["metadata"]["uid"] = uid.clone();
        let key = ("jobs".to_owned(), namespace.to_owned(), name.clone());
        let job = self.lock().put(key.clone(), job);
        let mut pod = job["spec"]["template"].clone();
        pod["metadata"]["labels"]["job-name"] = json!(name);
        if self.lock().has_impostors {
            let mut impostor = pod.clone();
            impostor["metadata"]["name"] = json!("a-pod-like-it");
            impostor["metadata"]["ownerReferences"] = controlled_by("Job", &name, &json!(random_uuid()));
            impostor["status"] = running();
            self.lock().put(("pods".to_owned(), namespace.to_owned(), "a-pod-like-it".to_owned()), impostor);
        }
        pod["metadata"]["generateName"] = json!(format!("{name}-"));
        pod["metadata"]["ownerReferences"] = controlled_by("Job", &name, &uid);
        let shared = Arc::clone(self);
        thread::spawn(move || shared.end_job_in_time(&key));
        if let Err(refusal) = self.create_pod(namespace, pod) {
            let event = json!({"metadata": {"name": format!("{name}.1"), "namespace": namespace},
                "involvedObject": {"kind": "Job", "name": name}, "reason": "FailedCreate",
                "message": format!("Error creating: {}", refusal.message)});
            self.lock().put(("events".to_owned(), namespace.to_owned(), format!("{name}.1")), event);
        }
        Ok(job)
    }

    /// Ends a Job when it has lasted as long as it may.
    fn end_job_in_time(&self, key: &Key) {
        let began = Instant::now();
        loop {
            {
                let state = self.lock();
                let Some(job) = state.objects.get(key).filter(|_| !state.ended) else { return };
                let second = state.job_second.unwrap_or(Duration::from_secs(1));
                let limit = job["spec"]["activeDeadlineSeconds"].as_u64().map(|it| second * it as u32);
                if limit.is_none_or(|limit| began.elapsed() < limit) {
                    drop(state);
                    thread::sleep(TICK);
                    continue;
                }
            }
            self.delete_job(key);
            return;
        }
    }

    /// Changes an object by a merge patch (RFC 7386).
    fn patch(&self, key: &Key, patch: &Value) -> Option<(u16, Value)> {
        let mut state = self.lock();
        let mut object = state.objects.get(key)?.clone();
        merge(&mut object, patch);
        let object = state.put(key.clone(), object);
        drop(state);
        self.changed.notify_all();
        Some((200, object))
    }

    /// Deletes a Job, and as the garbage collector its pod.
    fn delete_job(&self, key: &Key) -> Option<(u16, Value)> {
        let (_, namespace, _) = key;
        let mut state = self.lock();
        let job = state.objects.get(key)?.clone();
        state.remove(key);
        let is_its = |pod: &Value| pod["metadata"]["ownerReferences"][0]["uid"] == job["metadata"]["uid"];
        let pods =
            state.objects.iter().filter(|(key, pod)| key.0 == "pods" && key.1 == *namespace && is_its(pod));
        let pods: Vec<Key> = pods.map(|(key, _)| key.clone()).collect();
        drop(state);
        for pod in pods {
            self.delete_pod(&pod);
        }
        self.changed.notify_all();
        Some((200, job))
    }

    /// Creates a pod, and plays its node's kubelet.
    fn create_pod(self: &Arc<Self>, namespace: &str, mut pod: Value) -> Result<Value, Refusal> {
        let typed: v1::Pod = serde_json::from_value(pod.clone()).map_err(|error| Refusal {
            code: 400,
            reason: "BadRequest",
            message: error.to_string(),
        })?;
        let spec = typed.spec.expect("a spec");
        let mut state = self.lock();
        let prefix = typed.metadata.generate_name.unwrap_or_default();
        let name = typed.metadata.name.unwrap_or_else(|| format!("{prefix}{}", &random_uuid()[..5]));
        let privileged = |container: &v1::Container| {
            container.security_context.as_ref().is_some_and(|it| it.privileged == Some(true))
        };
        if state.restricted.as_deref() == Some(namespace) && spec.containers.iter().any(privileged) {
            let message = format!(
                "pods \"{name}\" is forbidden: violates PodSecurity \"restricted:latest\": privileged"
            );
            return Err(Refusal { code: 403, reason: "Forbidden", message });
        }
        let is_missing = spec.containers[0].image.as_deref() == Some("missing");
        let why = if is_missing { "ImagePullBackOff" } else { "ContainerCreating" };
        let says = state.kubelet_says.as_deref().unwrap_or("test");
        let waiting = json!({"waiting": {"reason": why, "message": says}});
        pod["metadata"]["name"] = json!(name);
        pod["metadata"]["namespace"] = json!(namespace);
        pod["metadata"]["uid"] = json!(random_uuid());
        pod["status"] = json!({"phase": "Pending", "containerStatuses": [container_status(&waiting)]});
        let key = ("pods".to_owned(), namespace.to_owned(), name);
        let pod = state.put(key.clone(), pod);
        let node = state.nodes.get(spec.node_name.as_deref().unwrap_or_default()).cloned();
        let delay = state.pod_start;
        drop(state);
        self.changed.notify_all();
        if let (Some(node), false) = (node, is_missing) {
            let shared = Arc::clone(self);
            thread::spawn(move || shared.run_pod(&key, &node, &spec.containers[0], delay));
        }
        Ok(pod)
    }

    /// The main process of a pod, from its start to its end.
    fn run_pod(&self, key: &Key, node: &Netns, container: &v1::Container, delay: Duration) {
        thread::sleep(delay);
        if self.lock().ended || !self.lock().objects.contains_key(key) {
            return;
        }
        let words = container.command.iter().chain(&container.args).flatten();
        let words: Vec<&str> = words.map(String::as_str).collect();
        let mut command = command(&words, key, true).expect("sniff");
        // Its folders are not those of the real one.
        for variable in container.env.iter().flatten().filter(|it| it.name != "SNIFF_AGENT_SOCKET") {
            command.env(&variable.name, variable.value.as_deref().unwrap_or_default());
        }
        command.stdin(std::process::Stdio::null()).stdout(std::process::Stdio::null());
        let mut child = node.spawn(command.stderr(std::process::Stdio::null()));
        self.change(key, |pod| {
            pod["status"] = running();
            pod["status"]["pid"] = json!(child.id());
        });
        let mut killed = false;
        while child.try_wait().expect("a child of ours").is_none() {
            let state = self.lock();
            let due = state.objects.get(key).and_then(|pod| pod["status"]["killAt"].as_u64());
            let ended = state.ended;
            drop(state);
            if !killed && (ended || due.is_some_and(|due| due <= now_ms())) {
                killed = true;
                // It may end at this very moment.
                let _ = child.kill();
            }
            thread::sleep(TICK);
        }
        // Its Job is finished with it, and not kept.
        let mut state = self.lock();
        let job = state.objects.get(key).and_then(|pod| pod["metadata"]["labels"]["job-name"].as_str());
        let job = job.map(|name| ("jobs".to_owned(), key.1.clone(), name.to_owned()));
        job.into_iter().for_each(|job| state.remove(&job));
        state.remove(key);
        drop(state);
        self.changed.notify_all();
    }

    /// Deletes a pod: at once when it has no process here, otherwise by its grace period.
    fn delete_pod(&self, key: &Key) -> Option<(u16, Value)> {
        let mut state = self.lock();
        let mut pod = state.objects.get(key)?.clone();
        let Some(pid) = pod["status"]["pid"].as_u64() else {
            state.remove(key);
            drop(state);
            self.changed.notify_all();
            return Some((200, pod));
        };
        let grace = pod["spec"]["terminationGracePeriodSeconds"].as_u64().unwrap_or(30);
        let until = now_ms() + grace * 1000;
        let shortest = pod["status"]["killAt"].as_u64().map_or(until, |before| before.min(until));
        pod["status"]["killAt"] = json!(shortest);
        pod["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        pod["metadata"]["deletionGracePeriodSeconds"] = json!(grace);
        let pod = state.put(key.clone(), pod);
        drop(state);
        self.changed.notify_all();
        // It may have ended.
        let _ = kill(Pid::from_raw(pid.try_into().expect("a PID")), Signal::SIGTERM);
        Some((200, pod))
    }

    fn change(&self, key: &Key, change: impl FnOnce(&mut Value)) {
        let mut state = self.lock();
        if let Some(mut object) = state.objects.get(key).cloned() {
            change(&mut object);
            state.put(key.clone(), object);
        }
        drop(state);
        self.changed.notify_all();
    }

    /// The events of a watch after `version`, once there are any; `None` when the version is forgotten.
    fn events_after(&self, version: u64, asked: &Asked) -> Option<(u64, Vec<Value>)> {
        let state = self.lock();
        let (state, _) = self
            .changed
            .wait_timeout_while(state, Duration::from_secs(1), |state| {
                !state.ended && !state.is_down && state.version <= version
            })
            .expect("no test thread has panicked with it");
        if version < state.forgotten {
            return None;
        }
        let new = state.history.iter().filter(|(at, _, key, object)| {
            *at > version && key.0 == asked.resource && asked.selects(&key.1, object)
        });
        let events = new.map(|(_, kind, _, object)| json!({"type": kind, "object": object})).collect();
        Some((state.version, events))
    }
}

impl State {
    /// Whether a request is left without an answer.
    fn leaves_unanswered(&mut self) -> bool {
        self.unanswered += usize::from(self.is_down);
        self.is_down
    }

    fn put(&mut self, key: Key, mut object: Value) -> Value {
        self.version += 1;
        let (api, kind) = kind(&key.0);
        object["apiVersion"] = json!(api);
        object["kind"] = json!(kind);
        object["metadata"]["resourceVersion"] = json!(self.version.to_string());
        let event = if self.objects.contains_key(&key) { "MODIFIED" } else { "ADDED" };
        self.objects.insert(key.clone(), object.clone());
        self.history.push((self.version, event, key, object.clone()));
        object
    }

    fn remove(&mut self, key: &Key) {
        if let Some(mut object) = self.objects.remove(key) {
            self.version += 1;
            object["metadata"]["resourceVersion"] = json!(self.version.to_string());
            self.history.push((self.version, "DELETED", key.clone(), object));
        }
    }

    fn list(&self, asked: &Asked) -> Value {
        let (api, kind) = kind(&asked.resource);
        let of_resource = self.objects.iter().filter(|(key, _)| key.0 == asked.resource);
        let items: Vec<&Value> = of_resource
            .filter(|(key, object)| asked.selects(&key.1, object))
            .map(|(_, object)| object)
            .collect();
        json!({"apiVersion": api, "kind": format!("{kind}List"), "items": items,
            "metadata": {"resourceVersion": self.version.to_string()}})
    }

    /// Whether there is a namespace; what is in none needs none.
    fn has_namespace(&self, name: &str) -> bool {
        name.is_empty()
            || self.objects.contains_key(&("namespaces".to_owned(), String::new(), name.to_owned()))
    }

    /// RBAC.
    fn check(&self, asked: &Asked) -> Result<(), Refusal> {
        self.check_verb(asked.verb, asked)
    }

    fn check_verb(&self, verb: &str, asked: &Asked) -> Result<(), Refusal> {
        let Asked { resource, namespace, name, .. } = asked;
        if !self.denials.iter().any(|denial| denial.verb == verb && denial.resource == resource) {
            return Ok(());
        }
        let scope = match namespace.as_str() {
            "" => "at the cluster scope".to_owned(),
            namespace => format!("in the namespace \"{namespace}\""),
        };
        let object = if name.is_empty() { String::new() } else { format!(" \"{name}\"") };
        let message = format!(
            "{resource}{object} is forbidden: User \"jane\" cannot {verb} resource \"{resource}\" in API group \"\" {scope}"
        );
        Err(Refusal { code: 403, reason: "Forbidden", message })
    }
}

impl Asked {
    fn parameter(&self, key: &str) -> Option<&str> {
        self.query.iter().find(|(its, _)| its == key).map(|(_, value)| value.as_str())
    }

    fn not_found(&self) -> Refusal {
        let Self { resource, name, .. } = self;
        Refusal { code: 404, reason: "NotFound", message: format!("{resource} \"{name}\" not found") }
    }

    /// Whether the namespace and the selectors let an object through.
    fn selects(&self, namespace: &str, object: &Value) -> bool {
        let in_namespace = self.namespace.is_empty() || self.namespace == namespace;
        let fields = self.parameter("fieldSelector").unwrap_or_default();
        let labels = self.parameter("labelSelector").unwrap_or_default();
        in_namespace && fields_match(fields, object) && labels_match(labels, &object["metadata"]["labels"])
    }
}

fn fields_match(selector: &str, object: &Value) -> bool {
    selector.split(',').filter(|term| !term.is_empty()).all(|term| {
        let (field, value) = term.split_once('=').expect("FIELD=VALUE");
        let found = field.split('.').fold(object, |object, step| &object[step]);
        found.as_str().unwrap_or_default() == value.trim_start_matches('=')
    })
}

/// Terms are `KEY=VALUE`, `KEY!=VALUE`, `KEY` and `!KEY`.
fn labels_match(selector: &str, labels: &Value) -> bool {
    selector.split(',').filter(|term| !term.is_empty()).all(|term| {
        let label = |key: &str| labels[key].as_str().map(str::to_owned);
        if let Some((key, value)) = term.split_once("!=") {
            label(key).as_deref() != Some(value)
        } else if let Some((key, value)) = term.split_once('=') {
            label(key).as_deref() == Some(value.trim_start_matches('='))
        } else if let Some(key) = term.strip_prefix('!') {
            label(key).is_none()
        } else {
            label(term).is_some()
        }
    })
}

/// A command of a container: the program under test, whatever its path there, or nothing. Pods of the DaemonSet have no
/// main process here; that of another one is told where its socket is.
fn command(words: &[&str], pod: &Key, has_main_process: bool) -> Option<std::process::Command> {
    let (&program, args) = words.split_first()?;
    if program != "sniff" {
        return None;
    }
    let mut command = tool(sniff::binary());
    command.args(args);
    if has_main_process {
        // Each pod has a folder of its own in the real one.
        command.env("SNIFF_AGENT_SOCKET", format!("/run/{}.sock", pod.2));
    }
    command.env("SNIFF_METRICS_ADDRESS", "off");
    Some(command)
}

fn controlled_by(kind: &str, name: &str, uid: &Value) -> Value {
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

fn running() -> Value {
    let state = json!({"running": {"startedAt": "2026-01-01T00:00:00Z"}});
    json!({"phase": "Running", "containerStatuses": [container_status(&state)]})
}

fn container_status(state: &Value) -> Value {
    json!({"name": "sniff", "image": "", "imageID": "", "ready": true, "restartCount": 0, "state": state})
}

/// API version and kind of a resource.
fn kind(resource: &str) -> (&'static str, &'static str) {
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
        other => panic!("no resource {other}"),
    }
}

fn now_ms() -> u64 {
    static START: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
    START.get_or_init(Instant::now).elapsed().as_millis().try_into().expect("a short test")
}
