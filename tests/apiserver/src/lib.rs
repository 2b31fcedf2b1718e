//! A Kubernetes API on loopback, for tests: what sniff and `kubectl sniff` ask of a cluster, answered as the real one
//! does.
//!
//! | What | Where | As described in |
//! |---|---|---|
//! | get, list, create, patch and delete of objects | `router`, `objects` | "Kubernetes API Concepts" |
//! | fields that the definition of an object lacks are dropped in silence | `objects` | "Extend the Kubernetes API with CustomResourceDefinitions", "Field pruning" |
//! | label and field selectors | `selectors` | "Labels and Selectors"; "Field Selectors" |
//! | watches: chunked JSON lines from a `resourceVersion` on; `410 Gone` for one that is forgotten, as an answer and as an `ERROR` event | `watch` | "Kubernetes API Concepts", "Efficient detection of changes", "410 Gone responses" |
//! | refusals as `Status` objects | `http` | "Kubernetes API Concepts" |
//! | RBAC: roles, bindings and subjects, resource names and subresources, its words; `SelfSubjectAccessReview` | `rights` | "Using RBAC Authorization"; API reference, `authorization.k8s.io/v1` |
//! | who asks: bearer tokens of users and of service accounts; 401 for others | `users` | "Authenticating" |
//! | tokens of service accounts: `TokenRequest`, and `TokenReview` with audiences, expiry and the token's id | `tokens` | API reference, `authentication.k8s.io/v1`; "Managing Service Accounts", "TokenReview API"; RFC 7519 |
//! | port-forward: `GET …/pods/NAME/portforward?ports=N`, asked of RBAC as exec is, over a WebSocket in `v4.channel.k8s.io` | `forward`, `websocket` | kubernetes, `kubelet/pkg/cri/streaming/portforward/websocket.go` |
//! | exec: `GET …/pods/NAME/exec`, asked of RBAC as `create pods/exec` too, over a WebSocket in `v5.channel.k8s.io` | `exec`, `websocket` | kubernetes, `apimachinery/pkg/util/remotecommand/constants.go`, `websocket.go` |
//! | what is written to a command that has ended resets the connection, and what is on its way is lost | `exec` | seen in a cluster of version 1.36 |
//! | a Job's pod is known by its controller; one that lasts longer than `activeDeadlineSeconds` goes | `jobs` | "Jobs", "Job termination and cleanup" |
//! | PodSecurity refuses with 403 and says `violates PodSecurity` | `kubelet` | "Pod Security Admission" |
//! | deletion: SIGTERM, the grace period, SIGKILL; a pod goes when its processes have; a later delete may shorten the period | `kubelet` | "Pod Lifecycle", "Termination of Pods" |
//!
//! Everything here panics with a plain message instead of returning an error: a test whose surroundings cannot be built
//! has failed.

mod exec;
mod forward;
mod http;
mod jobs;
mod kubelet;
mod objects;
mod rights;
mod router;
mod selectors;
mod shared;
mod tokens;
mod users;
mod watch;
mod websocket;

use std::{
    fmt, fs,
    net::{SocketAddr, TcpListener},
    os::fd::AsRawFd as _,
    path::Path,
    sync::{Arc, Mutex, MutexGuard},
    thread::{self, JoinHandle},
    time::Duration,
};

use nix::sys::socket;
use serde_json::{Value, json};
use tempfile::NamedTempFile;

pub use self::kubelet::{Container, Node};
use self::{
    kubelet::running,
    objects::{Key, controlled_by, new_uid},
    shared::{Shared, State},
};

/// The server; ended on drop.
pub struct ApiServer {
    address: SocketAddr,
    kubeconfig: NamedTempFile,
    listening: Option<Listening>,
    /// Where else it listens.
    others: Mutex<Vec<Listening>>,
    shared: Arc<Shared>,
}

/// A listener with the thread that answers there; ended on drop.
struct Listening {
    listener: Arc<TcpListener>,
    thread: Option<JoinHandle<()>>,
}

impl Listening {
    fn start(listener: TcpListener, shared: &Arc<Shared>) -> Self {
        let (listener, shared) = (Arc::new(listener), Arc::clone(shared));
        let thread = thread::spawn({
            let listener = Arc::clone(&listener);
            move || {
                // It fails once the listener is shut down.
                while let Ok((stream, _)) = listener.accept() {
                    let shared = Arc::clone(&shared);
                    thread::spawn(move || router::serve(stream, &shared));
                }
            }
        });
        Self { listener, thread: Some(thread) }
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        // If there is nothing to shut down, the thread has ended.
        let _ = socket::shutdown(self.listener.as_raw_fd(), socket::Shutdown::Both);
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

/// A kubeconfig that leads here. (JSON is YAML.)
fn kubeconfig(address: SocketAddr, namespace: &str, user: &Value) -> String {
    let context = json!({ "cluster": "test", "user": "test", "namespace": namespace });
    json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{ "name": "test", "cluster": { "server": format!("http://{address}") } }],
        "users": [{ "name": "test", "user": user }],
        "contexts": [{ "name": "test", "context": context }],
        "current-context": "test",
    })
    .to_string()
}

/// The bearer token of a user.
fn token_of(user: &str) -> String {
    format!("token-of-{user}")
}

impl ApiServer {
    /// A cluster with these nodes.
    pub fn start<'a, N: Node + Clone + 'static>(nodes: impl IntoIterator<Item = (&'a str, &'a N)>) -> Self {
        let this = Self::without_nodes();
        nodes.into_iter().for_each(|(name, node)| this.add_node(name, node.clone()));
        this
    }

    /// A cluster in which nothing runs.
    pub fn without_nodes() -> Self {
        Self::on(TcpListener::bind("127.0.0.1:0").expect("a listener"))
    }

    /// The same, reached by this listener.
    pub fn on(listener: TcpListener) -> Self {
        let address = listener.local_addr().expect("a bound address");
        let shared = Arc::new(Shared::default());
        let listening = Some(Listening::start(listener, &shared));
        let kubeconfig = NamedTempFile::new().expect("a file");
        let this = Self { address, kubeconfig, listening, others: Mutex::default(), shared };
        fs::write(this.kubeconfig_file(), this.kubeconfig()).expect("a kubeconfig");
        for namespace in ["default", "shop", "sniff", "tools"] {
            this.put("namespaces", "", namespace, json!({"metadata": {"name": namespace, "labels": {}}}));
        }
        this
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// A kubeconfig that leads here. (JSON is YAML.)
    pub fn kubeconfig(&self) -> String {
        kubeconfig(self.address, "tools", &json!({}))
    }

    /// The same, as a user whom RBAC knows.
    pub fn kubeconfig_of(&self, user: &str) -> String {
        kubeconfig(self.address, "tools", &json!({"token": token_of(user)}))
    }

    /// Lets there be a user with these groups, who may do what RBAC grants.
    pub fn add_user(&self, user: &str, groups: &[&str]) {
        self.state().users.add(&token_of(user), user, groups);
    }

    /// Has the server listen here, too, and lets there be a service account: a kubeconfig for it, as if a pod of the
    /// namespace had it.
    pub fn kubeconfig_of_account(&self, listener: TcpListener, namespace: &str, account: &str) -> String {
        let address = listener.local_addr().expect("a bound address");
        self.add_account(namespace, account);
        let audiences = [tokens::OF_SERVER.to_owned()];
        let token = self.state().tokens.issue(namespace, account, &audiences, tokens::now(), 24 * 3600);
        self.others.lock().expect("no panic").push(Listening::start(listener, &self.shared));
        kubeconfig(address, namespace, &json!({"token": token}))
    }

    /// Lets there be a service account.
    pub fn add_account(&self, namespace: &str, account: &str) {
        let metadata = json!({"namespace": namespace, "name": account, "uid": new_uid()});
        self.put("serviceaccounts", namespace, account, json!({"metadata": metadata}));
    }

    /// A token of a service account that was issued so many seconds ago for so many.
    pub fn token(&self, namespace: &str, account: &str, audience: &str, age: u64, seconds: u64) -> String {
        let issued_at = tokens::now() - age;
        self.state().tokens.issue(namespace, account, &[audience.to_owned()], issued_at, seconds)
    }

    /// Lets there be the objects of a manifest, roles and bindings among them.
    pub fn apply(&self, objects: impl IntoIterator<Item = Value>) {
        for object in objects {
            let text = |key: &str| object["metadata"][key].as_str().unwrap_or_default().to_owned();
            let resource = format!("{}s", object["kind"].as_str().expect("a kind").to_lowercase());
            self.put(&resource, &text("namespace"), &text("name"), object.clone());
        }
    }

    /// A file with that in it, as long as the server lives.
    pub fn kubeconfig_file(&self) -> &Path {
        self.kubeconfig.path()
    }

    /// Lets there be a node, on which containers' programs run.
    pub fn add_node(&self, name: &str, node: impl Node + 'static) {
        self.state().kubelets.nodes.insert(name.to_owned(), Arc::new(node));
        let info = json!({"kernelVersion": "6.18.0-test", "operatingSystem": "linux"});
        self.put("nodes", "", name, json!({"metadata": {"name": name}, "status": {"nodeInfo": info}}));
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
        let key = Key::new("daemonsets", "sniff", "sniff");
        let there = self.state().objects.get(&key).map(|it| it["metadata"]["uid"].clone());
        let uid = there.unwrap_or_else(|| {
            let uid = json!(new_uid());
            let metadata = json!({"namespace": "sniff", "name": "sniff", "uid": uid});
            self.put("daemonsets", "sniff", "sniff", json!({"metadata": metadata}));
            uid
        });
        self.add_pod_like_agent(&format!("sniff-{node}"), node, &controlled_by("DaemonSet", "sniff", &uid));
    }

    /// Has the agent of a node have a door at this port of its loopback, as its pod's spec tells.
    pub fn add_door(&self, node: &str, port: u16) {
        let key = Key::new("pods", "sniff", &format!("sniff-{node}"));
        let env = json!([{"name": "SNIFF_DOOR", "value": format!("127.0.0.1:{port}")}]);
        self.shared.update(|state| {
            state.objects.change(&key, |pod| pod["spec"]["containers"][0]["env"] = env).expect("an agent");
        });
    }

    /// Lets a pod run that has the labels of sniff's DaemonSet's, whosever it is.
    pub fn add_pod_like_agent(&self, name: &str, node: &str, owners: &Value) {
        let labels = json!({"app.kubernetes.io/name": "sniff", "app.kubernetes.io/component": "agent"});
        self.put(
            "pods",
            "sniff",
            name,
            json!({
                "metadata": {"namespace": "sniff", "name": name, "uid": new_uid(), "labels": labels,
                    "ownerReferences": owners},
                "spec": {"nodeName": node, "hostPID": true, "containers": [{"name": "sniff"}]},
                "status": running(),
            }),
        );
    }

    /// Lets there be any object; one of the same name is replaced.
    pub fn put(&self, resource: &str, namespace: &str, name: &str, object: Value) {
        self.shared.update(|state| state.objects.put(&Key::new(resource, namespace, name), object));
    }

    /// Removes an object.
    pub fn remove(&self, resource: &str, namespace: &str, name: &str) {
        self.shared.update(|state| state.objects.remove(&Key::new(resource, namespace, name)));
    }

    /// Removes a pod.
    pub fn remove_pod(&self, namespace: &str, name: &str) {
        self.shared.update(|state| state.objects.remove(&Key::new("pods", namespace, name)));
    }

    /// Names of the pods in a namespace.
    pub fn pods(&self, namespace: &str) -> Vec<String> {
        let state = self.state();
        state.objects.of("pods", namespace).map(|(key, _)| key.name.clone()).collect()
    }

    /// A pod, as it is stored.
    pub fn pod(&self, namespace: &str, name: &str) -> Option<Value> {
        self.state().objects.get(&Key::new("pods", namespace, name)).cloned()
    }

    /// The events of a namespace, as they are stored.
    pub fn events(&self, namespace: &str) -> Vec<Value> {
        self.state().objects.of("events", namespace).map(|(_, event)| event.clone()).collect()
    }

    /// The Jobs of a namespace, as they are stored.
    pub fn jobs(&self, namespace: &str) -> Vec<Value> {
        self.state().objects.of("jobs", namespace).map(|(_, job)| job.clone()).collect()
    }

    /// What was asked so far, as `verb resource namespace/name`.
    pub fn log(&self) -> Vec<String> {
        self.state().log.clone()
    }

    /// Takes rights away. `pods/exec` and the like are resources.
    pub fn deny(&self, verb: &'static str, resource: &'static str) {
        self.state().rights.deny(verb, resource);
    }

    /// Has the definition of recordings lack these fields of their specs.
    pub fn prune_recordings(&self, fields: &[&'static str]) {
        self.state().pruned = fields.to_vec();
    }

    /// Has PodSecurity let no pod into a namespace that has anything of its node.
    pub fn restrict(&self, namespace: &str) {
        self.state().kubelets.restricted = Some(namespace.to_owned());
        let labels = json!({"pod-security.kubernetes.io/enforce": "restricted"});
        self.put("namespaces", "", namespace, json!({"metadata": {"name": namespace, "labels": labels}}));
    }

    /// Makes new pods take this long to start.
    pub fn set_pod_start(&self, time: Duration) {
        self.state().kubelets.pod_start = time;
    }

    /// Has the kubelet say this of an image that it cannot get.
    pub fn set_kubelet_words(&self, words: &str) {
        self.state().kubelets.says = Some(words.to_owned());
    }

    /// Makes the seconds of Jobs' deadlines last this long.
    pub fn set_job_second(&self, time: Duration) {
        self.state().jobs.second = Some(time);
    }

    /// Gives each Job a second pod from now on, which has all the labels of its own and runs at once.
    pub fn add_impostors(&self) {
        self.state().jobs.have_impostors = true;
    }

    /// Forgets all versions so far: watches that go on from one get 410.
    pub fn forget_versions(&self) {
        self.shared.update(|state| state.objects.forget_versions());
    }

    /// From now on, what new execs and forwarded ports say comes to the client at so many bytes a second, with so many on their way.
    pub fn slow_execs(&self, bytes_per_second: u64, on_the_way: usize) {
        self.state().execs.slow = Some((bytes_per_second, on_the_way));
    }

    /// Closes all connections of exec, and those of forwarded ports.
    pub fn cut_execs(&self) {
        self.state().execs.cut();
    }

    /// From now on the connections that exec has, and forwarded ports, carry nothing, and nobody is told.
    pub fn freeze_execs(&self) {
        self.state().execs.freeze();
    }

    /// Takes the server down: all connections are closed, watches and those of exec among them, and new ones at once.
    pub fn go_down(&self) {
        self.shared.update(|state| state.is_down = true);
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

    fn state(&self) -> MutexGuard<'_, State> {
        self.shared.lock()
    }
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        self.shared.update(|state| state.has_ended = true);
        self.cut_execs();
        self.listening = None;
        self.others.lock().expect("no panic").clear();
    }
}

impl fmt::Debug for ApiServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ApiServer").field("address", &self.address).finish_non_exhaustive()
    }
}
