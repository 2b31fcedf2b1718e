//! A client of the Container Runtime Interface, for the few calls that find a pod's processes.
//!
//! The runtime labels each sandbox with its pod's namespace, name and UID, so a pod is found
//! here without the Kubernetes API. Speaks `runtime.v1` over the runtime's unix socket.

mod api;
mod arrival;
mod events;

use std::{
    collections::BTreeMap,
    net::IpAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, anyhow};
use http::uri::PathAndQuery;
use tonic::{
    Request,
    client::Grpc,
    transport::{Channel, Endpoint},
};
use tonic_prost::ProstCodec;

pub use self::{arrival::Arrival, events::Arrivals};

/// Where runtimes listen unless told otherwise. What is not in `/run`, which sniff's pods have of their node, is reached
/// through the node's first process.
pub const SOCKETS: [&str; 7] = [
    // containerd; so in Talos, Bottlerocket, GKE, EKS, AKS and kind
    "/run/containerd/containerd.sock",
    // CRI-O
    "/run/crio/crio.sock",
    // cri-dockerd
    "/run/cri-dockerd.sock",
    // k3s and RKE2
    "/run/k3s/containerd/containerd.sock",
    // k3s with Docker
    "/run/k3s/cri-dockerd/cri-dockerd.sock",
    // k0s
    "/run/k0s/containerd.sock",
    // MicroK8s
    "/proc/1/root/var/snap/microk8s/common/run/containerd.sock",
];

/// How long a runtime may take for one answer.
const TIMEOUT: Duration = Duration::from_secs(5);
/// The largest answer taken, in bytes; the kubelet's own limit.
const MAX_ANSWER: usize = 16 << 20;

/// Labels that the kubelet gives to each sandbox and container
/// (kubernetes `pkg/kubelet/types/labels.go`).
const POD_NAMESPACE: &str = "io.kubernetes.pod.namespace";
const POD_NAME: &str = "io.kubernetes.pod.name";
const POD_UID: &str = "io.kubernetes.pod.uid";
/// What the keys begin with of all labels that the kubelet and runtimes add to a pod's own.
const ADDED: [&str; 3] = ["io.kubernetes.pod.", "io.kubernetes.container.", "io.cri-containerd."];

/// A connection to one container runtime.
#[derive(Clone)]
pub struct Cri {
    socket: PathBuf,
    channel: Channel,
}

/// The runtimes of this node, as far as they answer.
#[derive(Clone, Default)]
pub struct Runtimes {
    /// Those that answered.
    pub answering: Vec<Cri>,
    /// For each socket that is there but did not: which one, and why.
    pub failures: Vec<String>,
}

/// A pod's sandbox: the environment, network namespace included, that its containers share.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sandbox {
    /// The sandbox's id; 64 hexadecimal digits with all known runtimes.
    pub id: String,
    pub namespace: String,
    pub name: String,
    /// The pod's UID as the kubelet knows it (for a static pod, not the API's).
    pub uid: String,
    /// Whether it is running.
    pub ready: bool,
    /// When it was made, in nanoseconds since 1970.
    pub created_at: i64,
    /// The pod's labels, with others that the runtime and the kubelet add.
    pub labels: BTreeMap<String, String>,
}

/// A pod's labels, of those of its sandbox, without what others add.
pub fn own_labels(labels: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    let is_own = |(key, _): &(&String, _)| !ADDED.iter().any(|added| key.starts_with(added));
    labels.iter().filter(is_own).map(|(key, value)| (key.clone(), value.clone())).collect()
}

/// Where a sandbox's network is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SandboxNetwork {
    /// Whether the pod uses the node's network namespace (`hostNetwork`).
    pub host: bool,
    /// The sandbox's process, as the runtime numbers it; CRI-O may have none.
    pub pid: Option<u32>,
    /// The file that the network namespace is bound to.
    pub netns: Option<PathBuf>,
    /// The pod's addresses; none before it has its network.
    pub addresses: Vec<IpAddr>,
}

/// A container in a sandbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Container {
    /// The container's id.
    pub id: String,
    /// The id of the sandbox it is in.
    pub sandbox_id: String,
    /// Its name in the pod.
    pub name: String,
    /// How many containers of this name the pod had before.
    pub attempt: u32,
    /// What it was made from, as in `docker.io/library/nginx:1.27`.
    pub image: Option<String>,
}

impl Runtimes {
    /// Connects to the runtime at `socket`, or without one to all at the usual [`SOCKETS`].
    ///
    /// More than one may run: next to a Kubernetes distribution's own there often is one
    /// that came with the system or with Docker.
    ///
    /// # Errors
    /// When the named runtime does not answer. The usual ones may all be missing.
    pub async fn find(socket: Option<&str>) -> Result<Self> {
        if let Some(socket) = socket {
            let cri = Cri::connect(socket).await?;
            return Ok(Self { answering: vec![cri], failures: Vec::new() });
        }
        let mut runtimes = Self::default();
        for socket in SOCKETS {
            match Cri::connect(socket).await {
                Ok(cri) => runtimes.answering.push(cri),
                Err(_) if !Path::new(socket).exists() => {}
                Err(e) => runtimes.failures.push(format!("{e:#}")),
            }
        }
        Ok(runtimes)
    }
}

impl Cri {
    /// Connects to the runtime whose socket is at `socket`, a path or a `unix://` address,
    /// and makes sure that it speaks `runtime.v1`.
    ///
    /// # Errors
    /// When there is no such socket, it may not be used, or its owner does not answer as a
    /// runtime does within 5 seconds.
    pub async fn connect(socket: &str) -> Result<Self> {
        let path = socket.strip_prefix("unix://").unwrap_or(socket);
        let connect = async {
            let endpoint = Endpoint::from_shared(format!("unix://{path}"))?;
            endpoint.connect().await
        };
        let channel = match tokio::time::timeout(TIMEOUT, connect).await {
            Ok(Ok(channel)) => channel,
            // The outer errors say no more than "transport error".
            Ok(Err(e)) => {
                let cause = anyhow::Error::from(e);
                return Err(anyhow!("CRI socket {path}: {}", cause.root_cause()));
            }
            Err(_) => return Err(anyhow!("CRI socket {path}: no connection within 5 s")),
        };
        let cri = Self { socket: path.into(), channel };
        let _: api::VersionResponse = cri.call("Version", api::VersionRequest {}).await?;
        Ok(cri)
    }

    /// The sandboxes of one pod, stopped ones included, in no particular order.
    ///
    /// # Errors
    /// When the runtime fails or does not answer within 5 seconds.
    pub async fn sandboxes_of(&self, namespace: &str, name: &str) -> Result<Vec<Sandbox>> {
        let labels = [(POD_NAMESPACE, namespace), (POD_NAME, name)];
        let label_selector = labels.map(|(key, value)| (key.into(), value.into())).into();
        self.list(Some(api::PodSandboxFilter { label_selector })).await
    }

    /// All sandboxes, stopped ones included, in no particular order.
    ///
    /// # Errors
    /// When the runtime fails or does not answer within 5 seconds.
    pub async fn sandboxes(&self) -> Result<Vec<Sandbox>> {
        self.list(None).await
    }

    /// Where the network of the sandbox with this id is.
    ///
    /// # Errors
    /// When there is none, or the runtime fails or does not answer within 5 seconds.
    pub async fn network_of(&self, sandbox_id: &str) -> Result<SandboxNetwork> {
        let request = api::PodSandboxStatusRequest { pod_sandbox_id: sandbox_id.into(), verbose: true };
        let response: api::PodSandboxStatusResponse = self.call("PodSandboxStatus", request).await?;
        Ok(response.into())
    }

    /// All containers, stopped ones included, without the sandboxes' own.
    ///
    /// # Errors
    /// When the runtime fails or does not answer within 5 seconds.
    pub async fn containers(&self) -> Result<Vec<Container>> {
        self.list_containers(None).await
    }

    /// The containers of the sandbox with this id, likewise.
    ///
    /// # Errors
    /// When the runtime fails or does not answer within 5 seconds.
    pub async fn containers_of(&self, sandbox_id: &str) -> Result<Vec<Container>> {
        self.list_containers(Some(api::ContainerFilter { pod_sandbox_id: sandbox_id.into() })).await
    }

    async fn list_containers(&self, filter: Option<api::ContainerFilter>) -> Result<Vec<Container>> {
        let request = api::ListContainersRequest { filter };
        let response: api::ListContainersResponse = self.call("ListContainers", request).await?;
        Ok(response.containers.into_iter().map(Container::from).collect())
    }

    async fn list(&self, filter: Option<api::PodSandboxFilter>) -> Result<Vec<Sandbox>> {
        let request = api::ListPodSandboxRequest { filter };
        let response: api::ListPodSandboxResponse = self.call("ListPodSandbox", request).await?;
        Ok(response.items.into_iter().map(Sandbox::from).collect())
    }

    async fn call<Q, A>(&self, method: &str, request: Q) -> Result<A>
    where
        Q: prost::Message + 'static,
        A: prost::Message + Default + 'static,
    {
        let context = || format!("CRI socket {}: {method}", self.socket.display());
        let path: PathAndQuery = format!("/runtime.v1.RuntimeService/{method}").parse()?;
        let mut client = Grpc::new(self.channel.clone()).max_decoding_message_size(MAX_ANSWER);
        let call = async {
            client.ready().await?;
            client
                .unary(Request::new(request), path, ProstCodec::default())
                .await
                .map_err(|status| anyhow!("{} ({})", status.message(), status.code()))
        };
        let answer = tokio::time::timeout(TIMEOUT, call)
            .await
            .map_err(|_| anyhow!("no answer within 5 s"))
            .flatten()
            .with_context(context)?;
        Ok(answer.into_inner())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn refusal(socket: &str) -> String {
        let Err(error) = Cri::connect(socket).await else { panic!("{socket} answered") };
        format!("{error:#}")
    }

    /// What the DaemonSet's pods and short-lived ones have of their node.
    #[test]
    fn sockets_are_where_a_pod_of_sniffs_sees_them() {
        for socket in SOCKETS {
            assert!(socket.starts_with("/run/") || socket.starts_with("/proc/1/root/"), "{socket}");
        }
    }

    #[tokio::test]
    async fn a_socket_that_is_not_there_is_named() {
        let error = refusal("unix:///no/such.sock").await;
        assert_eq!(error, "CRI socket /no/such.sock: No such file or directory (os error 2)");
    }

    #[tokio::test]
    async fn a_socket_without_a_listener_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("stale.sock");
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        let error = refusal(path.to_str().unwrap()).await;
        assert!(error.contains("Connection refused"), "{error}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_runtime_that_hangs_is_given_up() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("hung.sock");
        // Connections wait in the backlog of this one for ever.
        let _listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let error = refusal(path.to_str().unwrap()).await;
        assert!(error.contains("no answer within 5 s"), "{error}");
    }

    #[tokio::test]
    async fn the_named_socket_must_answer() {
        assert!(Runtimes::find(Some("/no/such.sock")).await.is_err());
    }
}
