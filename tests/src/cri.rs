//! The kubelet's part: a CRI client that runs pods.
//!
//! Messages are written by hand with only the fields used here; the numbers are those of
//! `pkg/apis/runtime/v1/api.proto` in kubernetes/cri-api. An absent field is the default there.

use std::{collections::HashMap, path::Path, time::Duration};

pub use prost::Message;
use tokio::runtime::{Builder, Runtime};
use tonic::{
    Request, Status,
    client::Grpc,
    codegen::http::uri::PathAndQuery,
    transport::{Channel, Endpoint},
};
use tonic_prost::ProstCodec;

/// `NamespaceMode.NODE`: the node's own network.
pub const NODE: i32 = 2;

/// A connection to a runtime's `RuntimeService`.
#[derive(Debug)]
pub struct Client {
    runtime: Runtime,
    channel: Channel,
}

impl Client {
    /// Connects to the socket at `path`.
    ///
    /// # Errors
    ///
    /// When nobody listens there.
    pub fn connect(path: &Path) -> Result<Self, tonic::transport::Error> {
        let runtime = Builder::new_current_thread().enable_all().build().expect("a tokio runtime");
        let endpoint =
            Endpoint::from_shared(format!("unix://{}", path.display()))?.timeout(Duration::from_secs(30));
        let channel = runtime.block_on(endpoint.connect())?;
        Ok(Self { runtime, channel })
    }

    /// Calls one method of the service.
    ///
    /// # Errors
    ///
    /// The runtime's own status.
    pub fn call<Q, A>(&self, method: &str, request: Q) -> Result<A, Status>
    where
        Q: Message + 'static,
        A: Message + Default + 'static,
    {
        let path = format!("/runtime.v1.RuntimeService/{method}");
        let path = PathAndQuery::try_from(path).expect("a method's path");
        let mut grpc = Grpc::new(self.channel.clone());
        self.runtime.block_on(async {
            grpc.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
            let codec = ProstCodec::<Q, A>::default();
            Ok(grpc.unary(Request::new(request), path, codec).await?.into_inner())
        })
    }
}

/// `StatusRequest`.
#[derive(Clone, PartialEq, Message)]
pub struct StatusRequest {}

/// `StatusResponse`.
#[derive(Clone, PartialEq, Message)]
pub struct StatusResponse {
    /// What works.
    #[prost(message, optional, tag = "1")]
    pub status: Option<RuntimeStatus>,
}

/// `RuntimeStatus`.
#[derive(Clone, PartialEq, Message)]
pub struct RuntimeStatus {
    /// `RuntimeReady`, `NetworkReady`.
    #[prost(message, repeated, tag = "1")]
    pub conditions: Vec<RuntimeCondition>,
}

/// `RuntimeCondition`.
#[derive(Clone, PartialEq, Message)]
pub struct RuntimeCondition {
    /// Whether it holds.
    #[prost(bool, tag = "2")]
    pub status: bool,
}

/// `RunPodSandboxRequest`.
#[derive(Clone, PartialEq, Message)]
pub struct RunPodSandboxRequest {
    /// The pod.
    #[prost(message, optional, tag = "1")]
    pub config: Option<PodSandboxConfig>,
    /// Name of a runtime in containerd's configuration.
    #[prost(string, tag = "2")]
    pub runtime_handler: String,
}

/// `PodSandboxConfig`.
#[derive(Clone, PartialEq, Message)]
pub struct PodSandboxConfig {
    /// Who the pod is.
    #[prost(message, optional, tag = "1")]
    pub metadata: Option<PodSandboxMetadata>,
    /// Empty for pods in the node's network.
    #[prost(string, tag = "2")]
    pub hostname: String,
    /// `io.kubernetes.pod.*`, as the kubelet sets them.
    #[prost(map = "string, string", tag = "6")]
    pub labels: HashMap<String, String>,
    /// Linux matters.
    #[prost(message, optional, tag = "8")]
    pub linux: Option<LinuxPodSandboxConfig>,
}

/// `PodSandboxMetadata`.
#[derive(Clone, PartialEq, Message)]
pub struct PodSandboxMetadata {
    /// Pod name.
    #[prost(string, tag = "1")]
    pub name: String,
    /// Pod UID.
    #[prost(string, tag = "2")]
    pub uid: String,
    /// Pod namespace.
    #[prost(string, tag = "3")]
    pub namespace: String,
    /// Counts up when a sandbox of the pod is made again.
    #[prost(uint32, tag = "4")]
    pub attempt: u32,
}

/// `LinuxPodSandboxConfig`.
#[derive(Clone, PartialEq, Message)]
pub struct LinuxPodSandboxConfig {
    /// The pod's cgroup, `…/kubepods/QOS/podUID`.
    #[prost(string, tag = "1")]
    pub cgroup_parent: String,
    /// Namespaces.
    #[prost(message, optional, tag = "2")]
    pub security_context: Option<LinuxSandboxSecurityContext>,
}

/// `LinuxSandboxSecurityContext`.
#[derive(Clone, PartialEq, Message)]
pub struct LinuxSandboxSecurityContext {
    /// Namespaces.
    #[prost(message, optional, tag = "1")]
    pub namespace_options: Option<NamespaceOption>,
    /// Whether there may be privileged containers.
    #[prost(bool, tag = "6")]
    pub privileged: bool,
}

/// `NamespaceOption`.
#[derive(Clone, PartialEq, Message)]
pub struct NamespaceOption {
    /// 0 is a network of the pod's own, [`NODE`] the node's.
    #[prost(int32, tag = "1")]
    pub network: i32,
    /// 0 is a PID namespace of the pod's own, [`NODE`] the node's (`hostPID`).
    #[prost(int32, tag = "2")]
    pub pid: i32,
}

/// `RunPodSandboxResponse`, `StopPodSandboxRequest` and `RemovePodSandboxRequest`: all have the
/// sandbox's id as field 1.
#[derive(Clone, PartialEq, Message)]
pub struct SandboxId {
    /// 64 hex digits.
    #[prost(string, tag = "1")]
    pub id: String,
}

/// `PodSandboxStatusRequest` and `ContainerStatusRequest`.
#[derive(Clone, PartialEq, Message)]
pub struct InfoRequest {
    /// Id of the sandbox or container.
    #[prost(string, tag = "1")]
    pub id: String,
    /// Whether `info` is wanted.
    #[prost(bool, tag = "2")]
    pub verbose: bool,
}

/// `ContainerStatusResponse`.
#[derive(Clone, PartialEq, Message)]
pub struct ContainerStatusResponse {
    /// How it is.
    #[prost(message, optional, tag = "1")]
    pub status: Option<ContainerStatus>,
}

/// `ContainerStatus`.
#[derive(Clone, PartialEq, Message)]
pub struct ContainerStatus {
    /// 2 is `CONTAINER_EXITED`.
    #[prost(int32, tag = "3")]
    pub state: i32,
    /// When it ended, in nanoseconds since the epoch.
    #[prost(int64, tag = "6")]
    pub finished_at: i64,
    /// The exit status of its first process.
    #[prost(int32, tag = "7")]
    pub exit_code: i32,
    /// Why it ended: `OOMKilled`.
    #[prost(string, tag = "10")]
    pub reason: String,
}

/// `PodSandboxStatusResponse` and `ContainerStatusResponse`.
#[derive(Clone, PartialEq, Message)]
pub struct InfoResponse {
    /// The runtime's own JSON under `info`, with the PID.
    #[prost(map = "string, string", tag = "2")]
    pub info: HashMap<String, String>,
}

/// `CreateContainerRequest`.
#[derive(Clone, PartialEq, Message)]
pub struct CreateContainerRequest {
    /// The pod it goes into.
    #[prost(string, tag = "1")]
    pub pod_sandbox_id: String,
    /// The container.
    #[prost(message, optional, tag = "2")]
    pub config: Option<ContainerConfig>,
    /// The pod again.
    #[prost(message, optional, tag = "3")]
    pub sandbox_config: Option<PodSandboxConfig>,
}

/// `ContainerConfig`.
#[derive(Clone, PartialEq, Message)]
pub struct ContainerConfig {
    /// Its name.
    #[prost(message, optional, tag = "1")]
    pub metadata: Option<ContainerMetadata>,
    /// Its image.
    #[prost(message, optional, tag = "2")]
    pub image: Option<ImageSpec>,
    /// What it runs, in place of the image's entry point.
    #[prost(string, repeated, tag = "3")]
    pub command: Vec<String>,
    /// Arguments.
    #[prost(string, repeated, tag = "4")]
    pub args: Vec<String>,
    /// Variables.
    #[prost(message, repeated, tag = "6")]
    pub envs: Vec<KeyValue>,
    /// What of the node it sees.
    #[prost(message, repeated, tag = "7")]
    pub mounts: Vec<Mount>,
    /// `io.kubernetes.pod.*` and `io.kubernetes.container.name`.
    #[prost(map = "string, string", tag = "9")]
    pub labels: HashMap<String, String>,
    /// Linux matters.
    #[prost(message, optional, tag = "15")]
    pub linux: Option<LinuxContainerConfig>,
}

/// `KeyValue`.
#[derive(Clone, PartialEq, Message)]
pub struct KeyValue {
    /// Name.
    #[prost(string, tag = "1")]
    pub key: String,
    /// Value.
    #[prost(string, tag = "2")]
    pub value: String,
}

/// `Mount`.
#[derive(Clone, PartialEq, Message)]
pub struct Mount {
    /// Where in the container.
    #[prost(string, tag = "1")]
    pub container_path: String,
    /// Where on the node.
    #[prost(string, tag = "2")]
    pub host_path: String,
    /// Whether it cannot be written.
    #[prost(bool, tag = "3")]
    pub readonly: bool,
    /// 1 is `PROPAGATION_HOST_TO_CONTAINER`.
    #[prost(int32, tag = "5")]
    pub propagation: i32,
}

/// `LinuxContainerConfig`.
#[derive(Clone, PartialEq, Message)]
pub struct LinuxContainerConfig {
    /// What it may use.
    #[prost(message, optional, tag = "1")]
    pub resources: Option<LinuxContainerResources>,
    /// What it may do.
    #[prost(message, optional, tag = "2")]
    pub security_context: Option<LinuxContainerSecurityContext>,
}

/// `LinuxContainerResources`.
#[derive(Clone, PartialEq, Message)]
pub struct LinuxContainerResources {
    /// Bytes of memory.
    #[prost(int64, tag = "4")]
    pub memory_limit_in_bytes: i64,
}

/// `LinuxContainerSecurityContext`.
#[derive(Clone, PartialEq, Message)]
pub struct LinuxContainerSecurityContext {
    /// Capabilities besides, and without, those of every container.
    #[prost(message, optional, tag = "1")]
    pub capabilities: Option<Capability>,
    /// Whether it may do everything.
    #[prost(bool, tag = "2")]
    pub privileged: bool,
    /// As the pod's.
    #[prost(message, optional, tag = "3")]
    pub namespace_options: Option<NamespaceOption>,
    /// `runAsUser`; the image's when absent.
    #[prost(message, optional, tag = "5")]
    pub run_as_user: Option<Int64Value>,
    /// Whether the root file system cannot be written.
    #[prost(bool, tag = "7")]
    pub readonly_rootfs: bool,
    /// `!allowPrivilegeEscalation`.
    #[prost(bool, tag = "11")]
    pub no_new_privs: bool,
    /// `runAsGroup`.
    #[prost(message, optional, tag = "12")]
    pub run_as_group: Option<Int64Value>,
    /// System calls: the runtime's default when there is an empty profile.
    #[prost(message, optional, tag = "15")]
    pub seccomp: Option<SecurityProfile>,
}

/// `Capability`.
#[derive(Clone, PartialEq, Message)]
pub struct Capability {
    /// Names without `CAP_`.
    #[prost(string, repeated, tag = "1")]
    pub add: Vec<String>,
    /// Names without `CAP_`, or `ALL`.
    #[prost(string, repeated, tag = "2")]
    pub drop: Vec<String>,
}

/// `Int64Value`.
#[derive(Clone, PartialEq, Message)]
pub struct Int64Value {
    /// The number.
    #[prost(int64, tag = "1")]
    pub value: i64,
}

/// `SecurityProfile`; absent fields are the runtime's default profile.
#[derive(Clone, PartialEq, Message)]
pub struct SecurityProfile {}

/// `ContainerMetadata`.
#[derive(Clone, PartialEq, Message)]
pub struct ContainerMetadata {
    /// Container name.
    #[prost(string, tag = "1")]
    pub name: String,
    /// Counts up when a container of the pod is made again.
    #[prost(uint32, tag = "2")]
    pub attempt: u32,
}

/// `ImageSpec`.
#[derive(Clone, PartialEq, Message)]
pub struct ImageSpec {
    /// A reference.
    #[prost(string, tag = "1")]
    pub image: String,
}

/// `CreateContainerResponse` and `StartContainerRequest`.
#[derive(Clone, PartialEq, Message)]
pub struct ContainerId {
    /// 64 hex digits.
    #[prost(string, tag = "1")]
    pub id: String,
}

/// `ExecSyncRequest`.
#[derive(Clone, PartialEq, Message)]
pub struct ExecSyncRequest {
    /// Where.
    #[prost(string, tag = "1")]
    pub container_id: String,
    /// What.
    #[prost(string, repeated, tag = "2")]
    pub cmd: Vec<String>,
    /// Seconds it may take.
    #[prost(int64, tag = "3")]
    pub timeout: i64,
}

/// `ExecSyncResponse`.
#[derive(Clone, PartialEq, Message)]
pub struct ExecSyncResponse {
    /// What it wrote.
    #[prost(bytes = "vec", tag = "1")]
    pub stdout: Vec<u8>,
    /// Its complaints.
    #[prost(bytes = "vec", tag = "2")]
    pub stderr: Vec<u8>,
    /// How it ended.
    #[prost(int32, tag = "3")]
    pub exit_code: i32,
}

/// The answer of a method that only says that it is done.
#[derive(Clone, PartialEq, Message)]
pub struct Done {}
