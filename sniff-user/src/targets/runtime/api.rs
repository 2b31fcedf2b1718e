//! The messages of the CRI that sniff uses, with only the fields it reads or sets.
//!
//! Names and field numbers are those of kubernetes/cri-api,
//! `pkg/apis/runtime/v1/api.proto`; a decoder skips all fields that are not listed. Those of containerd's own services are
//! in its `api/services` and `api/events`.

use std::{
    collections::{BTreeMap, HashMap},
    iter,
    net::IpAddr,
    path::PathBuf,
    time::{Duration, SystemTime},
};

use serde_json::Value;

use super::{
    Container, Sandbox, SandboxNetwork,
    arrival::{Arrival, arrival, is_sandbox},
};

/// Under this name, containerd's CRI keeps with a container what it knows of its sandbox.
const SANDBOX_METADATA: &str = "io.cri-containerd.sandbox.metadata";

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct VersionRequest {}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct VersionResponse {}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct ListPodSandboxRequest {
    #[prost(message, optional, tag = "1")]
    pub(super) filter: Option<PodSandboxFilter>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct PodSandboxFilter {
    #[prost(map = "string, string", tag = "3")]
    pub(super) label_selector: HashMap<String, String>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct ListPodSandboxResponse {
    #[prost(message, repeated, tag = "1")]
    pub(super) items: Vec<PodSandbox>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct PodSandbox {
    #[prost(string, tag = "1")]
    id: String,
    #[prost(message, optional, tag = "2")]
    metadata: Option<PodSandboxMetadata>,
    #[prost(enumeration = "PodSandboxState", tag = "3")]
    state: i32,
    #[prost(int64, tag = "4")]
    created_at: i64,
    #[prost(btree_map = "string, string", tag = "5")]
    labels: BTreeMap<String, String>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct PodSandboxMetadata {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    uid: String,
    #[prost(string, tag = "3")]
    namespace: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, prost::Enumeration)]
enum PodSandboxState {
    Ready = 0,
    NotReady = 1,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct PodSandboxStatusRequest {
    #[prost(string, tag = "1")]
    pub(super) pod_sandbox_id: String,
    #[prost(bool, tag = "2")]
    pub(super) verbose: bool,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct PodSandboxStatusResponse {
    #[prost(message, optional, tag = "1")]
    status: Option<PodSandboxStatus>,
    /// What the runtime adds when asked to be verbose: JSON under the key `info`.
    #[prost(map = "string, string", tag = "2")]
    info: HashMap<String, String>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct PodSandboxStatus {
    #[prost(string, tag = "1")]
    id: String,
    #[prost(message, optional, tag = "5")]
    network: Option<PodSandboxNetworkStatus>,
    #[prost(message, optional, tag = "6")]
    linux: Option<LinuxPodSandboxStatus>,
    #[prost(btree_map = "string, string", tag = "7")]
    labels: BTreeMap<String, String>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct PodSandboxNetworkStatus {
    #[prost(string, tag = "1")]
    ip: String,
    #[prost(message, repeated, tag = "2")]
    additional_ips: Vec<PodIp>,
}

/// `PodIP` in api.proto.
#[derive(Clone, PartialEq, prost::Message)]
struct PodIp {
    #[prost(string, tag = "1")]
    ip: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct LinuxPodSandboxStatus {
    #[prost(message, optional, tag = "1")]
    namespaces: Option<Namespace>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Namespace {
    #[prost(message, optional, tag = "2")]
    options: Option<NamespaceOption>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct NamespaceOption {
    #[prost(enumeration = "NamespaceMode", tag = "1")]
    network: i32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, prost::Enumeration)]
enum NamespaceMode {
    Pod = 0,
    Container = 1,
    Node = 2,
    Target = 3,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct ListContainersRequest {
    #[prost(message, optional, tag = "1")]
    pub(super) filter: Option<ContainerFilter>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct ContainerFilter {
    #[prost(string, tag = "3")]
    pub(super) pod_sandbox_id: String,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct ListContainersResponse {
    #[prost(message, repeated, tag = "1")]
    pub(super) containers: Vec<ContainerEntry>,
}

/// `Container` in api.proto.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct ContainerEntry {
    #[prost(string, tag = "1")]
    id: String,
    #[prost(string, tag = "2")]
    pod_sandbox_id: String,
    #[prost(message, optional, tag = "3")]
    metadata: Option<ContainerMetadata>,
    #[prost(message, optional, tag = "4")]
    image: Option<ImageSpec>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct ContainerMetadata {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(uint32, tag = "2")]
    attempt: u32,
}

#[derive(Clone, PartialEq, prost::Message)]
struct ImageSpec {
    /// The kubelet gives the id that it was resolved to.
    #[prost(string, tag = "1")]
    image: String,
    #[prost(string, tag = "18")]
    user_specified_image: String,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct GetEventsRequest {}

/// `ContainerEventResponse`.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct ContainerEvent {
    #[prost(string, tag = "1")]
    container_id: String,
    #[prost(enumeration = "ContainerEventType", tag = "2")]
    kind: i32,
    #[prost(int64, tag = "3")]
    created_at: i64,
    #[prost(message, optional, tag = "4")]
    sandbox: Option<PodSandboxStatus>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, prost::Enumeration)]
enum ContainerEventType {
    Created = 0,
    Started = 1,
    Stopped = 2,
    Deleted = 3,
}

impl ContainerEvent {
    /// The pod, when it is its sandbox that was made.
    pub(super) fn arrival(self) -> Option<Arrival> {
        let is_new = self.kind() == ContainerEventType::Created;
        let at = SystemTime::UNIX_EPOCH + Duration::from_nanos(self.created_at.try_into().ok()?);
        let sandbox = self.sandbox.filter(|sandbox| is_new && sandbox.id == self.container_id)?;
        arrival(sandbox.labels, None, at, false)
    }
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct SubscribeRequest {
    #[prost(string, repeated, tag = "1")]
    pub(super) filters: Vec<String>,
}

/// An event of containerd's.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Envelope {
    #[prost(message, optional, tag = "1")]
    timestamp: Option<Timestamp>,
    #[prost(string, tag = "3")]
    topic: String,
    #[prost(message, optional, tag = "4")]
    event: Option<Any>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Timestamp {
    #[prost(int64, tag = "1")]
    seconds: i64,
    #[prost(int32, tag = "2")]
    nanos: i32,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Any {
    #[prost(bytes = "vec", tag = "2")]
    value: Vec<u8>,
}

/// `containerd.events.ContainerCreate`, `ContainerUpdate` or `ContainerDelete`.
#[derive(Clone, PartialEq, prost::Message)]
struct RecordEvent {
    #[prost(string, tag = "1")]
    id: String,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct GetContainerRequest {
    #[prost(string, tag = "1")]
    pub(super) id: String,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct GetContainerResponse {
    #[prost(message, optional, tag = "1")]
    pub(super) container: Option<ContainerRecord>,
}

/// `containerd.services.containers.v1.Container`.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct ContainerRecord {
    #[prost(btree_map = "string, string", tag = "2")]
    labels: BTreeMap<String, String>,
    /// JSON of the OCI runtime specification.
    #[prost(message, optional, tag = "5")]
    spec: Option<Any>,
    /// JSON of what containerd's CRI notes.
    #[prost(btree_map = "string, message", tag = "10")]
    extensions: BTreeMap<String, Any>,
}

impl Envelope {
    /// What happened.
    pub(super) fn topic(&self) -> &str {
        &self.topic
    }

    /// The id of the container that it happened to.
    pub(super) fn container(&self) -> Option<String> {
        let event = <RecordEvent as prost::Message>::decode(&*self.event.as_ref()?.value);
        event.ok().map(|event| event.id)
    }

    pub(super) fn time(&self) -> SystemTime {
        let told = self.timestamp.as_ref().and_then(|time| {
            let since = Duration::new(time.seconds.try_into().ok()?, time.nanos.try_into().ok()?);
            SystemTime::UNIX_EPOCH.checked_add(since)
        });
        told.unwrap_or_else(SystemTime::now)
    }
}

impl ContainerRecord {
    /// Labels and specification, when it is a sandbox's. The labels are those that the kubelet gave it: of the record's
    /// own, containerd drops the ones without a value (`writeMap`, metadata/boltutil/helpers.go).
    pub(super) fn into_sandbox(self) -> Option<(BTreeMap<String, String>, Value)> {
        let Self { labels, spec, extensions } = self;
        if !is_sandbox(&labels) {
            return None;
        }
        let mut noted: Value = serde_json::from_slice(&extensions.get(SANDBOX_METADATA)?.value).ok()?;
        let labels = serde_json::from_value(noted["Metadata"]["Config"]["labels"].take()).ok()?;
        Some((labels, serde_json::from_slice(&spec?.value).ok()?))
    }
}

impl From<PodSandbox> for Sandbox {
    fn from(sandbox: PodSandbox) -> Self {
        let ready = sandbox.state() == PodSandboxState::Ready;
        let PodSandbox { id, metadata, state: _, created_at, labels } = sandbox;
        let PodSandboxMetadata { name, uid, namespace } = metadata.unwrap_or_default();
        Self { id, namespace, name, uid, ready, created_at, labels }
    }
}

impl From<ContainerEntry> for Container {
    fn from(entry: ContainerEntry) -> Self {
        let ContainerEntry { id, pod_sandbox_id, metadata, image } = entry;
        let ContainerMetadata { name, attempt } = metadata.unwrap_or_default();
        let ImageSpec { image, user_specified_image } = image.unwrap_or_default();
        let image = [user_specified_image, image].into_iter().find(|image| !image.is_empty());
        Self { id, sandbox_id: pod_sandbox_id, name, attempt, image }
    }
}

impl From<PodSandboxStatusResponse> for SandboxNetwork {
    fn from(PodSandboxStatusResponse { status, info }: PodSandboxStatusResponse) -> Self {
        let PodSandboxStatus { network, linux, .. } = status.unwrap_or_default();
        let options = linux.and_then(|linux| linux.namespaces).and_then(|namespaces| namespaces.options);
        let host = options.is_some_and(|options| options.network() == NamespaceMode::Node);
        // Only containerd and CRI-O fill it, each in its own way.
        let info = info.get("info").and_then(|json| serde_json::from_str::<Value>(json).ok());
        let info = info.unwrap_or_default();
        let addresses = network.map(addresses_in).unwrap_or_default();
        Self { host, pid: pid_in(&info), netns: netns_in(&info), addresses }
    }
}

/// The sandbox's addresses; none before it has its network.
fn addresses_in(network: PodSandboxNetworkStatus) -> Vec<IpAddr> {
    let PodSandboxNetworkStatus { ip, additional_ips } = network;
    let all = iter::once(ip).chain(additional_ips.into_iter().map(|it| it.ip));
    all.filter_map(|ip| ip.parse().ok()).collect()
}

/// The sandbox's process; 0 stands for none.
fn pid_in(info: &Value) -> Option<u32> {
    let pid = u32::try_from(info["pid"].as_u64()?).ok()?;
    (pid != 0).then_some(pid)
}

/// The path of the network namespace in the sandbox's OCI configuration, below `/run`: on a node `/var/run` leads there,
/// in sniff's image it does not.
fn netns_in(info: &Value) -> Option<PathBuf> {
    netns_of_spec(&info["runtimeSpec"])
}

/// The same of the configuration itself.
pub(super) fn netns_of_spec(spec: &Value) -> Option<PathBuf> {
    let namespaces = spec["linux"]["namespaces"].as_array()?;
    let network = namespaces.iter().find(|namespace| namespace["type"] == "network")?;
    let path = network["path"].as_str()?;
    let path = path.strip_prefix("/var").filter(|path| path.starts_with("/run/")).unwrap_or(path);
    (!path.is_empty()).then(|| path.into())
}

#[cfg(test)]
mod tests {
    use prost::Message;

    use super::*;

    /// A sandbox status in wire format, as a runtime would send it.
    fn status(network_mode: u8, info: &str) -> SandboxNetwork {
        // status(1) { linux(6) { namespaces(1) { options(2) { network(1) } } } }
        let mut bytes = vec![0x0a, 8, 0x32, 6, 0x0a, 4, 0x12, 2, 0x08, network_mode];
        // info(2) { key(1), value(2) }
        let entry_len = u8::try_from(6 + 2 + info.len()).unwrap();
        bytes.extend([0x12, entry_len, 0x0a, 4]);
        bytes.extend(b"info");
        bytes.extend([0x12, u8::try_from(info.len()).unwrap()]);
        bytes.extend(info.as_bytes());
        PodSandboxStatusResponse::decode(&bytes[..]).unwrap().into()
    }

    #[test]
    fn addresses_are_those_that_are_told() {
        // network(5) { ip(1), additional_ips(2) { ip(1) } }
        let network = b"\x0a\x0810.0.0.7\x12\x09\x0a\x07fd00::7";
        let status = [&[0x2a, network.len() as u8][..], network].concat();
        let bytes = [&[0x0a, status.len() as u8][..], &status].concat();
        let network = SandboxNetwork::from(PodSandboxStatusResponse::decode(&bytes[..]).unwrap());
        assert_eq!(network.addresses, ["10.0.0.7", "fd00::7"].map(|it| it.parse::<IpAddr>().unwrap()));
    }

    #[test]
    fn pid_and_netns_come_from_the_verbose_part() {
        let spec =
            r#""runtimeSpec":{"linux":{"namespaces":[{"type":"pid"},{"type":"network","path":"/n"}]}}"#;
        let network = status(0, &format!(r#"{{"pid":12,{spec}}}"#));
        let expected = SandboxNetwork {
            host: false,
            pid: Some(12),
            netns: Some("/n".into()),
            ..SandboxNetwork::default()
        };
        assert_eq!(network, expected);
        // CRI-O without an infra container.
        assert_eq!(status(0, &format!("{{{spec}}}")).pid, None);
        for (told, meant) in [("/var/run/netns/a", "/run/netns/a"), ("/var/runs", "/var/runs")] {
            let info = format!("{{{}}}", spec.replace("/n", told));
            assert_eq!(status(0, &info).netns, Some(meant.into()));
        }
    }

    #[test]
    fn the_nodes_network_is_recognised() {
        assert!(status(2, "{}").host);
        assert!(!status(0, "{}").host);
    }

    #[test]
    fn a_strange_verbose_part_is_as_good_as_none() {
        let strange = [
            "",
            "[]",
            "not JSON",
            r#"{"pid":0}"#,
            r#"{"pid":-1}"#,
            r#"{"pid":4294967296}"#,
            r#"{"pid":"12"}"#,
            r#"{"runtimeSpec":{"linux":{"namespaces":[{"type":"network"}]}}}"#,
            r#"{"runtimeSpec":{"linux":{"namespaces":{}}}}"#,
        ];
        for info in strange {
            assert_eq!(status(0, info), SandboxNetwork::default(), "{info}");
        }
    }

    #[test]
    fn a_sandbox_is_read_from_the_wire() {
        // id(1), metadata(2) { name(1), uid(2), namespace(3) }, state(3), created_at(4), labels(5), a later field
        let bytes = b"\x0a\x02id\x12\x0c\x0a\x02nm\x12\x02ui\x1a\x02ns\x18\x01\x20\x05\x2a\x06\x0a\x01a\x12\x01b\x3a\x01h";
        let sandbox = Sandbox::from(PodSandbox::decode(&bytes[..]).unwrap());
        let expected = Sandbox {
            id: "id".into(),
            namespace: "ns".into(),
            name: "nm".into(),
            uid: "ui".into(),
            ready: false,
            created_at: 5,
            labels: BTreeMap::from([("a".into(), "b".into())]),
        };
        assert_eq!(sandbox, expected);
    }

    #[test]
    fn a_container_is_read_from_the_wire() {
        let of = |image: &[u8]| {
            // id(1), pod_sandbox_id(2), metadata(3) { name(1), attempt(2) }, image(4)
            let head = b"\x0a\x02id\x12\x02sb\x1a\x06\x0a\x02nm\x10\x03";
            let bytes = [&head[..], &[0x22, image.len() as u8], image].concat();
            Container::from(ContainerEntry::decode(&bytes[..]).unwrap())
        };
        let expected = Container {
            id: "id".into(),
            sandbox_id: "sb".into(),
            name: "nm".into(),
            attempt: 3,
            image: Some("web:1".into()),
        };
        // image(1), user_specified_image(18)
        assert_eq!(of(b"\x0a\x05web:1"), expected);
        assert_eq!(of(b"\x0a\x08sha256:0\x92\x01\x05web:1"), expected);
        assert_eq!(of(b"").image, None);
    }

    #[test]
    fn a_sandbox_that_was_made_is_read_from_the_cris_events() {
        let labels = [("namespace", "ns"), ("name", "nm"), ("uid", "ui")]
            .map(|(key, value)| (format!("io.kubernetes.pod.{key}"), value.to_owned()));
        let labels: BTreeMap<String, String> = labels.into();
        // container_id(1), container_event_type(2), created_at(3), pod_sandbox_status(4) { id(1), labels(7) }
        let event = |container: &str, kind: u8| {
            let mut sandbox = b"\x0a\x02s1".to_vec();
            for (key, value) in &labels {
                let entry =
                    [&[0x0a, key.len() as u8], key.as_bytes(), b"\x12\x02", value.as_bytes()].concat();
                sandbox.extend([0x3a, entry.len() as u8]);
                sandbox.extend(entry);
            }
            let head = [b"\x0a\x02", container.as_bytes(), &[0x10, kind, 0x18, 5, 0x22, sandbox.len() as u8]];
            ContainerEvent::decode(&[&head.concat()[..], &sandbox].concat()[..]).unwrap().arrival()
        };
        let expected = Arrival {
            namespace: "ns".into(),
            name: "nm".into(),
            uid: "ui".into(),
            labels: labels.clone(),
            netns: None,
            at: SystemTime::UNIX_EPOCH + Duration::from_nanos(5),
            was_there: false,
        };
        assert_eq!(event("s1", 0), Some(expected));
        assert_eq!(event("c1", 0), None, "a container in it");
        for started_stopped_deleted in 1..=3 {
            assert_eq!(event("s1", started_stopped_deleted), None);
        }
    }

    #[test]
    fn labels_without_a_value_are_labels_too() {
        let any = |json: &str| Any { value: json.as_bytes().to_vec() };
        let noted = r#"{"Version":"v1","Metadata":{"Config":{"labels":{"app":"web","canary":""}}}}"#;
        let labels = BTreeMap::from([("io.cri-containerd.kind".to_owned(), "sandbox".to_owned())]);
        let record = ContainerRecord {
            labels: labels.clone(),
            spec: Some(any("{}")),
            extensions: BTreeMap::from([(SANDBOX_METADATA.to_owned(), any(noted))]),
        };
        let (found, _) = record.clone().into_sandbox().unwrap();
        let expected = [("app", "web"), ("canary", "")].map(|(key, value)| (key.into(), value.into()));
        assert_eq!(found, BTreeMap::from(expected));
        // What is not known whole is not judged by.
        assert_eq!(ContainerRecord { extensions: BTreeMap::new(), ..record.clone() }.into_sandbox(), None);
        assert_eq!(ContainerRecord { labels: BTreeMap::new(), ..record }.into_sandbox(), None);
    }
}
