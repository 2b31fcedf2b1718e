//! The Kubernetes API as a node needs it, for what its container runtime cannot tell: which node a pod runs on, and a
//! pod's UID where no runtime answers.

use std::{fmt, future::Future, time::Duration};

use anyhow::{Context, Result, bail};
use k8s_openapi::api::core::v1;
use kube::{Api, Client, Config, ResourceExt, api::ListParams};

use super::{cluster::root, config};

/// How long the API server may take for one answer.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Carries the UID by which the kubelet knows a static pod; the API's object has another
/// (kubernetes `pkg/kubelet/types/pod_update.go`).
const MIRROR: &str = "kubernetes.io/config.mirror";

/// A client of the cluster's API server.
#[derive(Clone)]
pub struct Kubernetes {
    client: Client,
    server: String,
}

/// What the API knows of a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pod {
    /// The pod's namespace.
    pub namespace: String,
    /// The pod's name.
    pub name: String,
    /// The UID by which the node knows the pod.
    pub uid: String,
    /// The node it runs on, once it is scheduled.
    pub node: Option<String>,
    /// `Pending`, `Running`, `Succeeded`, `Failed` or `Unknown`.
    pub phase: String,
    /// Whether it has a sandbox, and with that a network: so it has while its init containers run, when its phase is
    /// `Pending` still.
    pub has_sandbox: bool,
    /// Whether it uses the node's network namespace.
    pub host_network: bool,
    /// The ids of its containers, without `containerd://` and the like.
    pub container_ids: Vec<String>,
    /// The names of its containers, those of init and debug containers included.
    pub containers: Vec<String>,
}

/// The client tells no secrets.
impl fmt::Debug for Kubernetes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Kubernetes").field("server", &self.server).finish_non_exhaustive()
    }
}

impl Kubernetes {
    /// A client as the environment configures it: by `$KUBECONFIG` or `~/.kube/config`, or
    /// by the service account of the pod this runs in. `None` when there is neither.
    ///
    /// Contacts nobody yet.
    ///
    /// # Errors
    /// When there is a configuration that cannot be used.
    pub async fn configured() -> Result<Option<Self>> {
        let Some(config) = config::find(None, None).await? else { return Ok(None) };
        Self::new(config).map(Some)
    }

    fn new(mut config: Config) -> Result<Self> {
        config.connect_timeout = Some(TIMEOUT);
        config.default_retry = false;
        let server = config.cluster_url.to_string();
        let client = Client::try_from(config).context("setting up the Kubernetes client")?;
        Ok(Self { client, server })
    }

    /// The pod of this name; `None` when there is none.
    ///
    /// # Errors
    /// When the API server refuses, or does not answer within 5 seconds.
    pub async fn pod(&self, namespace: &str, name: &str) -> Result<Option<Pod>> {
        let api = Api::<v1::Pod>::namespaced(self.client.clone(), namespace);
        Ok(self.ask(api.get_opt(name)).await?.map(Pod::from))
    }

    /// The names of the pods of a namespace; empty when there is no such namespace.
    ///
    /// # Errors
    /// When the API server refuses, or does not answer within 5 seconds.
    pub async fn pod_names(&self, namespace: &str) -> Result<Vec<String>> {
        let api = Api::<v1::Pod>::namespaced(self.client.clone(), namespace);
        let pods = self.ask(api.list_metadata(&ListParams::default())).await?;
        Ok(pods.iter().map(ResourceExt::name_any).collect())
    }

    /// The pods that are assigned to a node.
    ///
    /// # Errors
    /// When the API server refuses, or does not answer within 5 seconds.
    pub async fn pods_on(&self, node: &str) -> Result<Vec<Pod>> {
        let api = Api::<v1::Pod>::all(self.client.clone());
        let here = ListParams::default().fields(&format!("spec.nodeName={node}"));
        let pods = self.ask(api.list(&here)).await?;
        Ok(pods.into_iter().map(Pod::from).collect())
    }

    async fn ask<T>(&self, question: impl Future<Output = kube::Result<T>>) -> Result<T> {
        let server = &self.server;
        match tokio::time::timeout(TIMEOUT, question).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(kube::Error::Api(status))) => {
                bail!("Kubernetes API at {server}: {} ({})", status.message, status.code)
            }
            Ok(Err(error)) => bail!("Kubernetes API at {server}: {}", root(&error.into())),
            Err(_) => bail!("Kubernetes API at {server}: no answer within 5 s"),
        }
    }
}

impl From<v1::Pod> for Pod {
    fn from(pod: v1::Pod) -> Self {
        let mirrored = pod.annotations().get(MIRROR).cloned();
        let spec = pod.spec.unwrap_or_default();
        let status = pod.status.unwrap_or_default();
        let has_sandbox = has_sandbox(&status);
        let ephemeral = spec.ephemeral_containers.into_iter().flatten().map(|container| container.name);
        let names = spec.containers.into_iter().chain(spec.init_containers.into_iter().flatten());
        let containers =
            [status.init_container_statuses, status.container_statuses, status.ephemeral_container_statuses];
        let container_ids = containers
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(|container| container.container_id)
            .filter_map(|id| Some(id.split_once("://")?.1.to_owned()))
            .collect();
        Self {
            namespace: pod.metadata.namespace.unwrap_or_default(),
            name: pod.metadata.name.unwrap_or_default(),
            uid: mirrored.or(pod.metadata.uid).unwrap_or_default(),
            node: spec.node_name,
            phase: status.phase.unwrap_or_else(|| "Unknown".into()),
            has_sandbox,
            host_network: spec.host_network.unwrap_or_default(),
            container_ids,
            containers: names.map(|container| container.name).chain(ephemeral).collect(),
        }
    }
}

/// Whether the kubelet says of a pod that its sandbox is there. It names the addresses from then on until the sandbox
/// has gone, and starts no container before.
fn has_sandbox(status: &v1::PodStatus) -> bool {
    let containers = [&status.init_container_statuses, &status.container_statuses];
    let states = containers.into_iter().flatten().flatten().filter_map(|container| container.state.as_ref());
    match status.phase.as_deref() {
        Some("Running") => true,
        Some("Pending") => {
            status.pod_ip.as_ref().is_some_and(|address| !address.is_empty())
                || status.pod_ips.as_ref().is_some_and(|addresses| !addresses.is_empty())
                || states.into_iter().any(|state| state.running.is_some())
        }
        _ => false,
    }
}

#[cfg(any(test, feature = "testing"))]
pub mod testing {
    //! An API server for tests: answers plain HTTP on loopback from a table.

    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::{TcpListener, TcpStream},
    };

    use super::*;

    /// What to answer: `(start of the path with its query, status, body)`.
    pub type Answer = (&'static str, u16, String);

    /// A client of a server that gives these answers, and 404 otherwise.
    pub async fn serving(answers: Vec<Answer>) -> Kubernetes {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a server for tests");
        let address = listener.local_addr().expect("a server for tests");
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.expect("a server for tests");
                answer(stream, &answers).await;
            }
        });
        client_of(&format!("http://{address}"))
    }

    pub(crate) fn client_of(url: &str) -> Kubernetes {
        Kubernetes::new(Config::new(url.parse().expect("a server for tests"))).expect("a server for tests")
    }

    async fn answer(mut stream: TcpStream, answers: &[Answer]) {
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n") {
            request.push(stream.read_u8().await.expect("a server for tests"));
        }
        let request = String::from_utf8(request).expect("a server for tests");
        let path = request.strip_prefix("GET ").expect("only reads are allowed");
        let answer = answers.iter().find(|(prefix, ..)| path.starts_with(prefix));
        let not_found = r#"{"kind":"Status","code":404,"reason":"NotFound","message":"not found"}"#;
        let (status, body) = answer.map_or((404, not_found), |(_, status, body)| (*status, body));
        let len = body.len();
        let response = format!(
            "HTTP/1.1 {status} X\r\ncontent-type: application/json\r\ncontent-length: {len}\r\n\
             connection: close\r\n\r\n{body}"
        );
        stream.write_all(response.as_bytes()).await.expect("a server for tests");
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;

    use super::{testing::*, *};

    const POD: &str = r#"{
        "kind": "Pod", "apiVersion": "v1",
        "metadata": {"namespace": "web", "name": "front", "uid": "u-1"},
        "spec": {"nodeName": "node-2", "containers": [{"name": "a"}, {"name": "b"}]},
        "status": {"phase": "Running", "containerStatuses": [
            {"name": "a", "image": "i", "imageID": "", "ready": true, "restartCount": 0,
             "containerID": "containerd://abc"},
            {"name": "b", "image": "i", "imageID": "", "ready": false, "restartCount": 0}
        ]}
    }"#;

    fn front() -> Pod {
        Pod {
            namespace: "web".into(),
            name: "front".into(),
            uid: "u-1".into(),
            node: Some("node-2".into()),
            phase: "Running".into(),
            has_sandbox: true,
            host_network: false,
            container_ids: vec!["abc".into()],
            containers: vec!["a".into(), "b".into()],
        }
    }

    #[test]
    fn a_sandbox_is_there_from_before_the_init_containers_until_the_end() {
        let has_sandbox = |status: &str| has_sandbox(&serde_json::from_str(status).unwrap());
        let init = |state: &str| {
            format!(
                r#"{{"phase": "Pending", "initContainerStatuses": [{{"name": "wait", "image": "", "imageID": "",
                "ready": false, "restartCount": 0, "state": {state}}}]}}"#
            )
        };
        assert!(has_sandbox(r#"{"phase": "Running"}"#));
        assert!(has_sandbox(r#"{"phase": "Pending", "podIP": "10.0.0.5", "podIPs": [{"ip": "10.0.0.5"}]}"#));
        assert!(has_sandbox(&init(r#"{"running": {}}"#)));
        // One that shall be started, or has been before the node was restarted, is no sign of a network.
        assert!(!has_sandbox(&init(r#"{"waiting": {"reason": "PodInitializing"}}"#)));
        assert!(!has_sandbox(&init(r#"{"terminated": {"exitCode": 255}}"#)));
        assert!(!has_sandbox(r#"{"phase": "Pending"}"#));
        // The addresses of pods that have ended are named, too.
        assert!(!has_sandbox(r#"{"phase": "Succeeded", "podIP": "10.0.0.5"}"#));
        assert!(!has_sandbox("{}"));
    }

    #[tokio::test]
    async fn a_pod_is_described() {
        let api = serving(vec![("/api/v1/namespaces/web/pods/front ", 200, POD.into())]).await;
        assert_eq!(api.pod("web", "front").await.unwrap(), Some(front()));
        assert_eq!(api.pod("web", "back").await.unwrap(), None);
    }

    #[tokio::test]
    async fn a_static_pod_has_the_uid_that_the_kubelet_gave_it() {
        let pod = POD.replace(
            r#""uid": "u-1""#,
            r#""uid": "u-1", "annotations": {"kubernetes.io/config.mirror": "0123"}"#,
        );
        let api = serving(vec![("/api/v1/namespaces/web/pods/front ", 200, pod)]).await;
        assert_eq!(api.pod("web", "front").await.unwrap().unwrap().uid, "0123");
    }

    #[tokio::test]
    async fn pods_are_listed_by_namespace_and_by_node() {
        let names = r#"{"kind":"PartialObjectMetadataList","apiVersion":"meta.k8s.io/v1","metadata":{},
            "items":[{"metadata":{"name":"front"}},{"metadata":{"name":"back"}}]}"#;
        let pods = format!(r#"{{"kind":"PodList","apiVersion":"v1","metadata":{{}},"items":[{POD}]}}"#);
        let api = serving(vec![
            ("/api/v1/namespaces/web/pods?", 200, names.into()),
            ("/api/v1/pods?&fieldSelector=spec.nodeName%3Dnode-2", 200, pods),
        ])
        .await;
        assert_eq!(api.pod_names("web").await.unwrap(), ["front", "back"]);
        assert_eq!(api.pods_on("node-2").await.unwrap(), [front()]);
    }

    #[tokio::test]
    async fn a_refusal_is_one_line() {
        let status = r#"{"kind":"Status","status":"Failure","code":403,"reason":"Forbidden",
            "message":"pods is forbidden"}"#;
        let api = serving(vec![("/", 403, status.into())]).await;
        let error = format!("{:#}", api.pod("web", "front").await.unwrap_err());
        assert!(error.ends_with("/: pods is forbidden (403)"), "{error}");
    }

    #[tokio::test]
    async fn a_server_that_is_away_is_named() {
        let port = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let api = client_of(&format!("http://{port}"));
        let error = format!("{:#}", api.pod("web", "front").await.unwrap_err());
        assert!(error.contains(&port.to_string()) && error.contains("Connection refused"), "{error}");
    }

    #[tokio::test]
    async fn a_server_that_hangs_is_given_up() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let api = client_of(&format!("http://{}", listener.local_addr().unwrap()));
        tokio::time::pause();
        let error = format!("{:#}", api.pod("web", "front").await.unwrap_err());
        assert!(error.contains("no answer within 5 s"), "{error}");
    }

    #[tokio::test]
    async fn encrypted_servers_are_spoken_to_in_tls() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let api = client_of(&format!("https://{}", listener.local_addr().unwrap()));
        let first_byte = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            stream.read_u8().await.unwrap()
        });
        api.pod("web", "front").await.unwrap_err();
        // A TLS record of type "handshake".
        assert_eq!(first_byte.await.unwrap(), 22);
    }
}
