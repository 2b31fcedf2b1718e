//! From a pod or a container of this node to its network namespace.
//!
//! The container runtime is asked first: it answers when the API server does not. The API
//! knows the pods of other nodes, and with `/proc` finds those of this one without a runtime.

use std::{
    collections::BTreeMap,
    fmt,
    sync::Arc,
    time::{Duration, SystemTime},
};

use anyhow::{Context, Result, anyhow, bail};
use sniff_cli::similar::did_you_mean;
use sniff_kubernetes::{Cluster, Login, consent::LABEL, pods};
use tokio::sync::OnceCell;

use super::{
    Options, PodRef, SHORT_ID_LEN, Selector, facts,
    interfaces::{self, OwnedNetns},
};
use crate::{
    net::netns::Netns,
    system::System,
    targets::{
        proc::{self, ProcFs, Process, without_descendants},
        runtime::{Cri, Runtimes, Sandbox},
    },
};

/// This node, with all that knows about its pods.
pub(super) struct Node {
    name: String,
    /// Whether it is to be found out what a file tells of pods.
    with_facts: bool,
    /// Whether nothing is told of pods in other namespaces than those that are asked about.
    is_discreet: bool,
    runtimes: Runtimes,
    proc: ProcFs,
    /// Where host ends may be; the first is where sniff runs, the last is the node's.
    hosts: Vec<Netns>,
    /// Set up when first needed: a kubeconfig may name a program to log in with.
    cluster: OnceCell<Option<Cluster>>,
}

/// A pod's namespace and name.
type PodName = (String, String);
/// A network namespace that may be a pod's, and what leads to it.
type Candidate = (String, Result<Netns>);

impl Node {
    /// Looks for this node's container runtimes.
    ///
    /// # Errors
    /// When the one that the options name does not answer.
    pub(super) async fn find(options: &Options, hosts: &[Netns]) -> Result<Self> {
        let socket = options.cri_socket.as_deref();
        let socket = socket.map(|path| path.to_str().context("--cri-socket is not UTF-8"));
        Ok(Self {
            name: System::this(options.node_name.as_deref())?.node,
            with_facts: options.with_facts,
            is_discreet: options.is_discreet,
            runtimes: Runtimes::find(socket.transpose()?).await?,
            proc: ProcFs::default(),
            hosts: hosts.to_vec(),
            cluster: OnceCell::new(),
        })
    }

    /// Whether there is no sign of a container runtime on this machine.
    pub(super) fn has_no_runtime(&self) -> bool {
        self.runtimes.answering.is_empty() && self.runtimes.failures.is_empty()
    }

    /// Where the pod's interfaces are.
    ///
    /// # Errors
    /// When it is not there, not running, on another node, or without a network of its own.
    pub(super) async fn pod(&self, namespace: &str, name: &str) -> Result<OwnedNetns> {
        let mut sandboxes = Vec::new();
        for cri in &self.runtimes.answering {
            for sandbox in cri.sandboxes_of(namespace, name).await? {
                sandboxes.push((cri, sandbox));
            }
        }
        let stopped = match newest(sandboxes) {
            Some((cri, sandbox)) if sandbox.ready => return self.of_sandbox(cri, &sandbox).await,
            stopped => stopped.is_some(),
        };
        match self.ask_api(async |api| api.pod(namespace, name).await).await {
            Ok(Some(pod)) => self.of_api_pod(&pod),
            Err(e) if self.runtimes.answering.is_empty() => {
                Err(self.nobody_to_ask(&e).context(format!("cannot look up pod {namespace}/{name}")))
            }
            _ if stopped => bail!("pod {namespace}/{name} is not running: its sandbox has stopped"),
            Ok(_) => {
                let names = self.ask_api(async |api| api.pod_names(namespace).await).await;
                let near = self.did_you_mean(namespace, name, names.unwrap_or_default()).await;
                bail!("no pod {namespace}/{name}{near}")
            }
            Err(e) => {
                // An API that does not answer is not waited for twice.
                let near = self.did_you_mean(namespace, name, Vec::new()).await;
                bail!("no pod {namespace}/{name} on this node{near} (other nodes: {e:#})")
            }
        }
    }

    /// Where the interfaces are that the container with this id, or start of an id, uses.
    ///
    /// # Errors
    /// When there is no such container, there are several, or it has no network of its own.
    pub(super) async fn container(&self, prefix: &str) -> Result<OwnedNetns> {
        let mut found = BTreeMap::new();
        for cri in &self.runtimes.answering {
            let sandboxes = cri.sandboxes().await?;
            let of_containers = cri.containers().await?.into_iter().map(|c| (c.id, c.sandbox_id));
            let of_sandboxes = sandboxes.iter().map(|s| (s.id.clone(), s.id.clone()));
            for (id, sandbox_id) in of_containers.chain(of_sandboxes) {
                if id.starts_with(prefix)
                    && let Some(sandbox) = sandboxes.iter().find(|s| s.id == sandbox_id)
                {
                    found.insert(id, (cri, sandbox.clone()));
                }
            }
        }
        let Some((id, (cri, sandbox))) = proc::only_match(prefix, found)? else {
            return self.container_by_processes(prefix);
        };
        if !sandbox.ready {
            let Sandbox { namespace, name, .. } = sandbox;
            bail!("container {id} is not running: the sandbox of pod {namespace}/{name} has stopped");
        }
        let owned = self.of_sandbox(cri, &sandbox).await?;
        Ok(OwnedNetns { label: short(&id), ..owned })
    }

    /// The pods that run on this node, in order, with where their interfaces are: `None` for
    /// those that use the node's network.
    ///
    /// # Errors
    /// When neither a runtime nor the API can be asked.
    pub(super) async fn pods(&self) -> Result<BTreeMap<PodName, Result<Option<OwnedNetns>>>> {
        if self.runtimes.answering.is_empty() {
            let pods = self.ask_api(async |api| api.pods_on(&self.name).await).await;
            let pods = pods.map_err(|e| self.nobody_to_ask(&e).context("cannot list pods"))?;
            return Ok(self.netns_of_api_pods(pods));
        }
        let mut found = BTreeMap::new();
        for (pod, (cri, sandbox)) in self.running().await? {
            found.insert(pod, self.netns_of_sandbox(cri, &sandbox).await);
        }
        Ok(found)
    }

    /// Where the interfaces are of those pods that run, of one namespace or all, whose labels match: in order, with their
    /// names.
    ///
    /// # Errors
    /// When there is no runtime, or it fails: nobody else knows labels here.
    pub(super) async fn selected(
        &self,
        namespace: Option<&str>,
        selector: &Selector,
    ) -> Result<Vec<(PodName, Result<OwnedNetns>)>> {
        if self.runtimes.answering.is_empty() {
            bail!("only a container runtime knows pods by their labels, and {}", self.no_runtime());
        }
        let mut found = Vec::new();
        for (pod, (cri, sandbox)) in self.running().await? {
            if namespace.is_none_or(|namespace| namespace == pod.0) && selector.matches(&sandbox.labels) {
                found.push((pod, self.of_sandbox(cri, &sandbox).await));
            }
        }
        Ok(found)
    }

    /// The newest sandboxes of the pods that run, as their runtimes know them.
    async fn running(&self) -> Result<BTreeMap<PodName, (&Cri, Sandbox)>> {
        let mut sandboxes = BTreeMap::<PodName, Vec<_>>::new();
        for cri in &self.runtimes.answering {
            for sandbox in cri.sandboxes().await? {
                let pod = (sandbox.namespace.clone(), sandbox.name.clone());
                sandboxes.entry(pod).or_default().push((cri, sandbox));
            }
        }
        let newest = sandboxes.into_iter().filter_map(|(pod, sandboxes)| Some((pod, newest(sandboxes)?)));
        Ok(newest.filter(|(_, (_, sandbox))| sandbox.ready).collect())
    }

    fn netns_of_api_pods(&self, pods: Vec<pods::Pod>) -> BTreeMap<PodName, Result<Option<OwnedNetns>>> {
        let owned = |pod: &pods::Pod| {
            if pod.host_network { Ok(None) } else { self.of_api_pod(pod).map(Some) }
        };
        let running = pods.into_iter().filter(|pod| pod.has_sandbox);
        running
            .map(|pod| {
                let owned = owned(&pod);
                ((pod.namespace, pod.name), owned)
            })
            .collect()
    }

    async fn of_sandbox(&self, cri: &Cri, sandbox: &Sandbox) -> Result<OwnedNetns> {
        let owned = self.netns_of_sandbox(cri, sandbox).await?;
        let mut owned = owned
            .ok_or_else(|| self.uses_host_network(&format!("pod {}/{}", sandbox.namespace, sandbox.name)))?;
        if let Some(pod) = owned.pod.as_mut().filter(|_| self.with_facts) {
            pod.facts = Arc::new(facts::of(cri, sandbox, &self.name).await);
        }
        Ok(owned)
    }

    /// `None` for a pod that uses the node's network.
    async fn netns_of_sandbox(&self, cri: &Cri, sandbox: &Sandbox) -> Result<Option<OwnedNetns>> {
        let Sandbox { id, namespace, name, uid, created_at, labels, .. } = sandbox;
        let network = cri.network_of(id).await?;
        if network.host {
            return Ok(None);
        }
        let by_pid =
            network.pid.map(|pid| (format!("process {pid}"), self.netns_of_sandbox_process(pid, uid, id)));
        let by_path =
            network.netns.map(|path| (format!("the runtime's {}", path.display()), Netns::at(path)));
        let told: Vec<Candidate> = by_pid.into_iter().chain(by_path).collect();
        let is_told = told.iter().any(|(_, netns)| self.is_own(netns));
        let netns = self.agreed(told).or_else(|error| {
            let processes = if is_told { Vec::new() } else { self.proc.of_pod(uid)? };
            if processes.is_empty() { Err(error) } else { self.netns_of(&processes) }
        });
        let netns =
            netns.with_context(|| format!("pod {namespace}/{name}: finding its network namespace"))?;
        let made =
            u64::try_from(*created_at).ok().map(|ns| SystemTime::UNIX_EPOCH + Duration::from_nanos(ns));
        let pod = PodRef {
            namespace: namespace.clone(),
            name: name.clone(),
            uid: uid.clone(),
            facts: Arc::default(),
            capture_label: labels.get(LABEL).cloned(),
        };
        Ok(Some(OwnedNetns { made, ..owned(pod, netns) }))
    }

    fn netns_of_sandbox_process(&self, pid: u32, uid: &str, sandbox_id: &str) -> Result<Netns> {
        if !self.proc.belongs_to(pid, uid, sandbox_id) {
            bail!(
                "the runtime names process {pid}, which here is not the pod's: run sniff in the \
                 node's pid namespace (hostPID)"
            );
        }
        Netns::of_pid(pid)
    }

    /// Where the interfaces are of a pod that no runtime knows.
    fn of_api_pod(&self, pod: &pods::Pod) -> Result<OwnedNetns> {
        let pods::Pod { namespace, name, uid, node, host_network, container_ids, facts, .. } = pod;
        let who = format!("pod {namespace}/{name}");
        let mut processes = self.proc.of_pod(uid)?;
        // The kubelet can be told to make no cgroups for pods; containers always have theirs.
        for id in container_ids {
            if processes.is_empty() {
                processes = self.proc.of_container(id)?.map(|found| found.processes).unwrap_or_default();
            }
        }
        match node {
            Some(node) if processes.is_empty() && *node != self.name => {
                bail!("{who} runs on node {node}, and this is node {}: run sniff there", self.name)
            }
            _ if !pod.has_sandbox && processes.is_empty() => {
                bail!("{who} is not running: its phase is {}", pod.phase)
            }
            _ if *host_network => return Err(self.uses_host_network(&who)),
            _ if processes.is_empty() => bail!(
                "{who} runs on this node, but none of its processes is seen here: run sniff in \
                 the node's pid namespace (hostPID)"
            ),
            _ => {}
        }
        let netns = self.netns_of(&processes);
        let netns = netns.with_context(|| format!("{who}: finding its network namespace"))?;
        let pod = PodRef {
            namespace: namespace.clone(),
            name: name.clone(),
            uid: uid.clone(),
            facts: Arc::new(facts.clone()),
            capture_label: facts.labels.get(LABEL).cloned(),
        };
        Ok(owned(pod, netns))
    }

    /// A container that no CRI runtime knows, as those of Docker and Podman.
    fn container_by_processes(&self, prefix: &str) -> Result<OwnedNetns> {
        let found = self.proc.of_container(prefix)?;
        let found = found.with_context(|| format!("no container {prefix} runs on this node"))?;
        let netns = self.netns_of(&found.processes);
        let netns = netns.with_context(|| format!("container {}", short(&found.id)))?;
        Ok(OwnedNetns { label: short(&found.id), pod: None, netns, made: None })
    }

    /// The network namespace that the processes of a pod or a container are in. One that another of them has made
    /// does not count: a sandboxed part of a program has a network of its own.
    fn netns_of(&self, processes: &[Process]) -> Result<Netns> {
        let found: Vec<_> = processes.iter().map(|process| (process, Netns::of_pid(process.pid))).collect();
        let own = found.iter().filter(|(_, netns)| self.is_own(netns)).map(|(process, _)| **process);
        let own: Vec<Process> = own.collect();
        let first: Vec<u32> = without_descendants(&own).map(|process| process.pid).collect();
        let counts = |(process, netns): &(&Process, _)| !self.is_own(netns) || first.contains(&process.pid);
        let named = |(process, netns): (&Process, _)| (format!("process {}", process.pid), netns);
        self.agreed(found.into_iter().filter(counts).map(named).collect())
    }

    /// The one namespace that is not the node's: among a pod's processes there may be the runtime's monitor, which runs
    /// in the node's.
    ///
    /// # Errors
    /// When there is none, or there are several: which of them is the pod's cannot be told.
    fn agreed(&self, candidates: Vec<Candidate>) -> Result<Netns> {
        let mut found = Vec::<(String, Netns)>::new();
        let mut why_not = None;
        for (by, candidate) in candidates {
            match candidate {
                Ok(netns) if self.is_nodes(&netns) => {
                    why_not.get_or_insert_with(|| self.uses_host_network("it"));
                }
                Ok(netns) if found.iter().any(|(_, known)| *known == netns) => {}
                Ok(netns) => found.push((by, netns)),
                Err(e) => {
                    why_not.get_or_insert(e);
                }
            }
        }
        if found.len() > 1 {
            let each: Vec<_> = found.iter().map(|(by, netns)| format!("{by} is in {}", netns.id())).collect();
            bail!(
                "it has several network namespaces: {}; name the one to capture with --pid",
                each.join(", ")
            );
        }
        let found = found.pop().map(|(_, netns)| netns);
        found.ok_or_else(|| why_not.unwrap_or_else(|| anyhow!("the runtime names no process of it")))
    }

    fn is_own(&self, netns: &Result<Netns>) -> bool {
        netns.as_ref().is_ok_and(|netns| !self.is_nodes(netns))
    }

    fn is_nodes(&self, netns: &Netns) -> bool {
        interfaces::node(&self.hosts) == Some(netns)
    }

    async fn ask_api<T>(&self, question: impl AsyncFnOnce(&Cluster) -> Result<T>) -> Result<T> {
        let login = Login::default();
        match self.cluster.get_or_try_init(|| Cluster::configured(&login)).await? {
            Some(cluster) => question(cluster).await,
            None => bail!("no Kubernetes API is configured"),
        }
    }

    /// The end of an error that suggests pods; what cannot be asked here suggests nothing.
    async fn did_you_mean(&self, namespace: &str, name: &str, api_knows: Vec<String>) -> String {
        let mut pods: Vec<PodName> = api_knows.into_iter().map(|name| (namespace.to_owned(), name)).collect();
        for cri in &self.runtimes.answering {
            let sandboxes = cri.sandboxes().await.unwrap_or_default();
            pods.extend(sandboxes.into_iter().map(|s| (s.namespace, s.name)));
        }
        pods.retain(|(its_namespace, _)| !self.is_discreet || its_namespace == namespace);
        did_you_mean(namespace, name, pods)
    }

    /// The error where no runtime answers, and the API neither.
    fn nobody_to_ask(&self, api_error: &anyhow::Error) -> anyhow::Error {
        anyhow!("{}, and {api_error:#}", self.no_runtime())
    }

    /// Why no runtime answers.
    fn no_runtime(&self) -> String {
        let failures = &self.runtimes.failures;
        if failures.is_empty() {
            "no container runtime has its socket at a usual place (name it with --cri-socket)".into()
        } else {
            failures.join("; ")
        }
    }

    fn uses_host_network(&self, who: &str) -> anyhow::Error {
        let there = interfaces::node(&self.hosts).map(interfaces::names_in);
        let there = there.transpose().ok().flatten().unwrap_or_default();
        UsesHostNetwork { who: who.to_owned(), there }.into()
    }
}

/// A pod has no network of its own.
#[derive(Debug)]
pub struct UsesHostNetwork {
    /// The pod, in words.
    pub who: String,
    /// The node's interfaces.
    there: String,
}

impl fmt::Display for UsesHostNetwork {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { who, there } = self;
        write!(
            f,
            "{who} uses the node's network (hostNetwork) and has no interface of its own: capture the node's with -i \
             ({there})"
        )
    }
}

impl std::error::Error for UsesHostNetwork {}

/// The newest of a pod's sandboxes, a ready one if there is any.
fn newest<C>(sandboxes: Vec<(C, Sandbox)>) -> Option<(C, Sandbox)> {
    sandboxes.into_iter().max_by_key(|(_, sandbox)| (sandbox.ready, sandbox.created_at))
}

pub(super) fn owned(pod: PodRef, netns: Netns) -> OwnedNetns {
    OwnedNetns { label: pod.to_string(), pod: Some(pod), netns, made: None }
}

fn short(id: &str) -> String {
    id.chars().take(SHORT_ID_LEN).collect()
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        io::{BufRead as _, BufReader},
        process::{Command, Stdio},
    };

    use nix::{
        sys::signal::{Signal, kill},
        unistd::Pid,
    };

    use serde_json::{Value, json};
    use sniff_apiserver::ApiServer;
    use tempfile::TempDir;

    use super::*;
    use crate::net::netns::testing::TestNetns;

    const UID: &str = "0a1b2c3d-1111-2222-3333-444455556666";

    /// What a node is asked about lives here.
    struct Around {
        proc: TempDir,
        _api: ApiServer,
    }

    /// A node without a runtime, where the API knows one pod, and `/proc` these processes.
    async fn node(pod: Value, processes: &[(u32, String)]) -> (Around, Node) {
        let dir = tempfile::tempdir().unwrap();
        for (pid, cgroup) in processes {
            let process = dir.path().join(pid.to_string());
            fs::create_dir(&process).unwrap();
            fs::write(process.join("cgroup"), cgroup).unwrap();
        }
        let api = ApiServer::without_nodes();
        api.put("pods", "web", "front", pod);
        let login = Login { kubeconfig: Some(api.kubeconfig_file().to_owned()), ..Login::default() };
        let cluster = Cluster::configured(&login).await.unwrap();
        let node = Node {
            name: "here".into(),
            with_facts: false,
            is_discreet: false,
            runtimes: Runtimes::default(),
            proc: ProcFs::at(dir.path()),
            hosts: vec![Netns::current().unwrap()],
            cluster: OnceCell::new_with(Some(cluster)),
        };
        (Around { proc: dir, _api: api }, node)
    }

    fn pod(node: &str, phase: &str, host_network: bool) -> Value {
        json!({
            "metadata": {"namespace": "web", "name": "front", "uid": UID},
            "spec": {"nodeName": node, "hostNetwork": host_network, "containers": []},
            "status": {"phase": phase},
        })
    }

    async fn refusal(node: &Node, name: &str) -> String {
        format!("{:#}", node.pod("web", name).await.unwrap_err())
    }

    #[tokio::test]
    async fn a_pod_on_another_node_is_an_error_that_names_the_node() {
        let (_around, node) = node(pod("there", "Running", false), &[]).await;
        assert_eq!(
            refusal(&node, "front").await,
            "pod web/front runs on node there, and this is node here: run sniff there"
        );
    }

    #[tokio::test]
    async fn a_pod_that_does_not_run_is_an_error_with_its_phase() {
        let (_around, node) = node(pod("here", "Pending", false), &[]).await;
        let error = refusal(&node, "front").await;
        assert_eq!(error, "pod web/front is not running: its phase is Pending");
    }

    #[tokio::test]
    async fn a_pod_in_its_init_containers_has_a_network() {
        let mut pod = pod("here", "Pending", false);
        pod["status"]["podIP"] = json!("10.0.0.5");
        let (_around, node) = node(pod, &[]).await;
        assert!(refusal(&node, "front").await.contains("hostPID"));
        let listed = node.pods().await.unwrap();
        assert!(listed.contains_key(&("web".into(), "front".into())), "{:?}", listed.keys());
    }

    #[tokio::test]
    async fn a_pod_on_the_nodes_network_leads_to_the_nodes_interfaces() {
        let (_around, node) = node(pod("here", "Running", true), &[]).await;
        let error = refusal(&node, "front").await;
        assert!(error.starts_with("pod web/front uses the node's network"), "{error}");
        assert!(error.contains("with -i (lo"), "{error}");
    }

    #[tokio::test]
    async fn a_pod_without_visible_processes_asks_for_the_nodes_pid_namespace() {
        let (_around, node) = node(pod("here", "Running", false), &[]).await;
        assert!(refusal(&node, "front").await.contains("hostPID"));
    }

    #[tokio::test]
    async fn no_such_pod_suggests_others() {
        let (_around, node) = node(pod("here", "Running", false), &[]).await;
        assert_eq!(refusal(&node, "frnot").await, "no pod web/frnot; did you mean web/front?");
    }

    #[tokio::test]
    async fn processes_on_the_nodes_network_are_not_the_pods() {
        let own = std::process::id();
        let cgroup = format!("0::/kubepods/pod{UID}/crio-conmon");
        let (_around, node) = node(pod("here", "Running", false), &[(own, cgroup)]).await;
        assert!(refusal(&node, "front").await.contains("uses the node's network"));
    }

    #[tokio::test]
    #[ignore = "needs root; `cargo xtask test` runs it"]
    async fn the_pod_that_sniff_runs_in_has_a_network_of_its_own() {
        let cgroup = format!("0::/kubepods/pod{UID}/x");
        let (_around, mut node) = node(pod("here", "Running", false), &[(std::process::id(), cgroup)]).await;
        // Where sniff runs is the pod's namespace, the node's is another.
        node.hosts.push(TestNetns::new().clone());
        let owned = node.pod("web", "front").await.unwrap();
        assert_eq!(owned.netns, Netns::current().unwrap());
    }

    #[tokio::test]
    #[ignore = "needs root; `cargo xtask test` runs it"]
    async fn a_pod_is_found_by_its_uid_in_the_cgroups() {
        let netns = TestNetns::new();
        // A process inside, after one of the host's that is older.
        let mut process = netns.run(|| Ok(Command::new("sleep").arg("60").spawn()?)).unwrap();
        let cgroup = format!("0::/kubepods/pod{UID}/x");
        let processes = [(std::process::id(), cgroup.clone()), (process.id(), cgroup)];
        // Its name differs from the node's own: the processes are proof enough.
        let (_around, node) = node(pod("there", "Running", false), &processes).await;
        let owned = node.pod("web", "front").await;
        process.kill().unwrap();
        process.wait().unwrap();
        let owned = owned.unwrap();
        assert_eq!((owned.label.as_str(), &owned.netns), ("web/front", &*netns));
        assert_eq!(owned.pod.unwrap().uid, UID);
    }

    #[tokio::test]
    #[ignore = "needs root; `cargo xtask test` runs it"]
    async fn processes_that_disagree_about_the_network_are_refused() {
        let sleep = || Command::new("sleep").arg("60").spawn();
        let [one, other] = [TestNetns::new(), TestNetns::new()];
        let [mut first, mut second] = [&one, &other].map(|netns| netns.run(|| Ok(sleep()?)).unwrap());
        let pids = [first.id(), second.id()];
        let of_pod = pids.map(|pid| (pid, format!("0::/kubepods/pod{UID}/x")));
        let (_around, of_pod) = node(pod("here", "Running", false), &of_pod).await;
        let of_container = pids.map(|pid| (pid, format!("0::/docker/{}", "a".repeat(64))));
        let (_around, of_container) = node(pod("here", "Running", false), &of_container).await;
        let errors = [
            refusal(&of_pod, "front").await,
            format!("{:#}", of_container.container("aaaaaa").await.unwrap_err()),
        ];
        for process in [&mut first, &mut second] {
            process.kill().unwrap();
            process.wait().unwrap();
        }
        for error in errors {
            for (pid, netns) in pids.iter().zip([&one, &other]) {
                assert!(error.contains(&format!("process {pid} is in {}", netns.id())), "{error}");
            }
        }
    }

    #[tokio::test]
    #[ignore = "needs root; `cargo xtask test` runs it"]
    async fn a_network_that_a_pods_process_made_for_itself_is_not_the_pods() {
        let netns = TestNetns::new();
        let script = "unshare --net sleep 60 & echo $!; wait";
        let mut shell = netns
            .run(|| Ok(Command::new("sh").args(["-c", script]).stdout(Stdio::piped()).spawn()?))
            .unwrap();
        let mut line = String::new();
        BufReader::new(shell.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let sandboxed: u32 = line.trim().parse().unwrap();
        let is_apart = || Netns::of_pid(sandboxed).unwrap() != *netns;
        while !is_apart() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let processes = [sandboxed, shell.id()].map(|pid| (pid, format!("0::/kubepods/pod{UID}/x")));
        let (around, node) = node(pod("here", "Running", false), &processes).await;
        for (pid, _) in &processes {
            fs::copy(format!("/proc/{pid}/stat"), around.proc.path().join(format!("{pid}/stat"))).unwrap();
        }
        let owned = node.pod("web", "front").await;
        kill(Pid::from_raw(sandboxed.cast_signed()), Signal::SIGKILL).unwrap();
        shell.wait().unwrap();
        assert_eq!(owned.unwrap().netns, *netns);
    }

    #[tokio::test]
    async fn with_nobody_to_ask_the_way_out_is_named() {
        let (_around, mut node) = node(pod("here", "Running", false), &[]).await;
        node.cluster = OnceCell::new_with(Some(None));
        node.runtimes.failures = vec!["CRI socket /x: no".into()];
        let error = refusal(&node, "front").await;
        assert_eq!(
            error,
            "cannot look up pod web/front: CRI socket /x: no, and no Kubernetes API is configured"
        );
        node.runtimes.failures.clear();
        assert!(refusal(&node, "front").await.contains("--cri-socket"));
    }

    #[test]
    fn the_newest_ready_sandbox_is_taken() {
        let sandbox = |id: &str, ready, created_at| {
            let [namespace, name, uid] = [(); 3].map(|()| String::new());
            ((), Sandbox { id: id.into(), namespace, name, uid, ready, created_at, labels: BTreeMap::new() })
        };
        let all = vec![sandbox("a", true, 1), sandbox("b", true, 2), sandbox("c", false, 3)];
        assert_eq!(newest(all).unwrap().1.id, "b");
        assert_eq!(newest(vec![sandbox("c", false, 3)]).unwrap().1.id, "c");
        assert!(newest::<()>(Vec::new()).is_none());
    }
}
