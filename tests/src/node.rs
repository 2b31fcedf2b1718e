//! A machine that is a Kubernetes node: containerd with two CNIs, and real CRI pods on it.

use std::{
    collections::HashMap,
    fs,
    io::Write as _,
    net::{Ipv4Addr, Ipv6Addr},
    path::Path,
    process::{Child, Stdio},
    time::Duration,
};

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::{
    cgroup::{self, Cgroup},
    cri::{self, Client},
    machine::Machine,
    netns::{Link, Netns, tool},
    wait,
};

/// Where kubelet, `crictl` and sniff look for containerd by default.
pub const CRI_SOCKET: &str = "/run/containerd/containerd.sock";

/// The one image on a node: busybox, which is pause and shell.
pub const IMAGE: &str = "localhost/sniff-test:1";

/// Debian's path first, upstream's second.
const CNI_BIN_DIRS: [&str; 2] = ["/usr/lib/cni", "/opt/cni/bin"];

/// The CNIs of a node; each is also a runtime handler of that name.
const CNIS: [Cni; 2] = [Cni { name: "ptp", net: 88 }, Cni { name: "bridge", net: 89 }];

/// A CNI and its networks, `10.NET.0.0/24` and `fdNET::/64`.
#[derive(Debug)]
struct Cni {
    name: &'static str,
    net: u8,
}

/// A node. Its fields are dropped in this order: the machine's end is what the last two wait for.
#[derive(Debug)]
pub struct Node {
    /// Where it all runs.
    pub machine: Machine,
    /// The node's network.
    pub netns: Netns,
    client: Client,
    #[expect(dead_code, reason = "held for its drop")]
    containerd: Containerd,
    cgroup: Cgroup,
}

/// A containerd that dies with its machine.
#[derive(Debug)]
struct Containerd(Child);

/// A pod that waits to be started.
#[derive(Debug)]
pub struct PodSpec<'a> {
    node: &'a Node,
    namespace: String,
    name: String,
    cni: &'static str,
    host_pid: bool,
    labels: HashMap<String, String>,
}

/// What every pod has, hostNetwork ones too: a sandbox. Removed on drop.
#[derive(Debug)]
pub struct Sandbox<'a> {
    node: &'a Node,
    config: cri::PodSandboxConfig,
    /// The sandbox's id, 64 hex digits.
    pub id: String,
    /// The pod's UID.
    pub uid: String,
    /// The sandbox's (pause) process, as numbered on the node.
    pub pid: u32,
}

/// A running pod with a network of its own.
#[derive(Debug)]
pub struct Pod<'a> {
    /// The pod as the runtime knows it.
    pub sandbox: Sandbox<'a>,
    /// The pod's network; its path is `/proc/PID/ns/net`.
    pub netns: Netns,
    /// The pod's interface.
    pub eth0: Link,
    /// The host's end of it.
    pub veth: Link,
    /// The pod's IPv4 address.
    pub ipv4: Ipv4Addr,
    /// The pod's global IPv6 address.
    pub ipv6: Ipv6Addr,
    /// The node's IPv4 address in the pod's network.
    pub gateway4: Ipv4Addr,
    /// The node's IPv6 address in the pod's network.
    pub gateway6: Ipv6Addr,
}

/// A container in a pod.
#[derive(Debug)]
pub struct Container {
    /// 64 hex digits.
    pub id: String,
    /// Its first process, as numbered on the node.
    pub pid: u32,
}

impl Node {
    /// Boots a machine, starts containerd on it and waits until it can run pods.
    pub fn start() -> Self {
        let machine = Machine::boot();
        let netns = machine.netns();
        netns.sysctl("net/ipv4/ip_forward", "1");
        netns.sysctl("net/ipv6/conf/all/forwarding", "1");
        configure(&machine);
        let log = fs::File::create(machine.path("/run/containerd.log")).expect("a log file");
        let containerd = netns.spawn(
            tool("containerd")
                .args(["--config", "/run/containerd.toml"])
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(log),
        );
        let client = wait::until("containerd's CRI socket", Duration::from_secs(20), || {
            Client::connect(&machine.path(CRI_SOCKET)).ok()
        });
        netns.run(&format!("ctr -a {CRI_SOCKET} -n k8s.io images import /run/image.tar"));
        let containerd = Containerd(containerd);
        let node = Self { machine, netns, client, containerd, cgroup: Cgroup::named_at_random() };
        wait::until("a runtime that is ready", Duration::from_secs(20), || node.is_ready().then_some(()));
        node
    }

    /// Describes a pod on the `ptp` CNI.
    pub fn pod(&self, namespace: &str, name: &str) -> PodSpec<'_> {
        let (namespace, name) = (namespace.to_owned(), name.to_owned());
        PodSpec { node: self, namespace, name, cni: "ptp", host_pid: false, labels: HashMap::new() }
    }

    /// Runs a pod on the node's own network.
    pub fn host_network_pod(&self, namespace: &str, name: &str) -> Sandbox<'_> {
        self.pod(namespace, name).run(cri::NODE)
    }

    fn is_ready(&self) -> bool {
        let answer: cri::StatusResponse = self.call("Status", cri::StatusRequest {});
        answer.status.is_some_and(|status| status.conditions.iter().all(|c| c.status))
    }

    /// Calls the runtime; a refusal is a panic with the end of containerd's log.
    fn call<Q, A>(&self, method: &str, request: Q) -> A
    where
        Q: cri::Message + 'static,
        A: cri::Message + Default + 'static,
    {
        self.client.call(method, request).unwrap_or_else(|status| {
            let log = fs::read_to_string(self.machine.path("/run/containerd.log"));
            let log = log.unwrap_or_default();
            let tail: Vec<_> = log.lines().rev().take(5).collect();
            panic!("{method}: {}\ncontainerd's last words: {tail:#?}", status.message());
        })
    }

    /// How a container is.
    pub fn status_of(&self, container: &Container) -> cri::ContainerStatus {
        let request = cri::InfoRequest { id: container.id.clone(), verbose: false };
        let answer: cri::ContainerStatusResponse = self.call("ContainerStatus", request);
        answer.status.expect("a status")
    }

    /// The PID under `info` in the verbose status of a sandbox or a container.
    fn pid_of(&self, method: &str, id: &str) -> u32 {
        let request = cri::InfoRequest { id: id.to_owned(), verbose: true };
        let answer: cri::InfoResponse = self.call(method, request);
        let info: Value = serde_json::from_str(&answer.info["info"]).expect("JSON from containerd");
        info["pid"].as_u64().and_then(|pid| pid.try_into().ok()).expect("a PID in the status")
    }
}

impl<'a> PodSpec<'a> {
    /// Chooses the CNI: `ptp` or `bridge`.
    pub fn cni(self, cni: &'static str) -> Self {
        Self { cni, ..self }
    }

    /// Gives it a label.
    pub fn label(mut self, key: &str, value: &str) -> Self {
        self.labels.insert(key.to_owned(), value.to_owned());
        self
    }

    /// Gives it the node's PID namespace, and allows privileged containers.
    pub fn host_pid(self) -> Self {
        Self { host_pid: true, ..self }
    }

    /// Runs the pod's sandbox and waits for nothing.
    pub fn run_sandbox(self) -> Sandbox<'a> {
        self.run(0)
    }

    /// Runs the pod and waits until its addresses can be used.
    pub fn start(self) -> Pod<'a> {
        let (node, cni) = (self.node, self.cni);
        let net = CNIS.iter().find(|known| known.name == cni).expect("ptp or bridge").net;
        let sandbox = self.run(0);
        let netns = node.machine.netns_at(&format!("/proc/{}/ns/net", sandbox.pid));
        netns.settle();
        node.netns.settle();
        let eth0 = netns.link("eth0");
        let of_net = |address: &Ipv6Addr| address.segments()[0] == network6(net).segments()[0];
        let host = |link: &&Link| Some(link.index) == eth0.peer;
        Pod {
            veth: node.netns.links().iter().find(host).expect("the host's end").clone(),
            ipv4: eth0.ipv4.first().expect("an IPv4 address").0,
            ipv6: eth0.ipv6.iter().map(|a| a.0).find(of_net).expect("an IPv6 address"),
            gateway4: Ipv4Addr::new(10, net, 0, 1),
            gateway6: Ipv6Addr::from(u128::from(network6(net)) + 1),
            sandbox,
            netns,
            eth0,
        }
    }

    fn run(self, network: i32) -> Sandbox<'a> {
        let Self { node, namespace, name, cni, host_pid, mut labels } = self;
        let pid = if host_pid { cri::NODE } else { 0 };
        let uid = cgroup::random_uuid();
        let label = |key: &str, value: &str| (format!("io.kubernetes.pod.{key}"), value.to_owned());
        // As the kubelet does, the pod's own first.
        labels.extend([label("namespace", &namespace), label("name", &name), label("uid", &uid)]);
        let config = cri::PodSandboxConfig {
            hostname: if network == cri::NODE { String::new() } else { name.clone() },
            labels,
            linux: Some(cri::LinuxPodSandboxConfig {
                cgroup_parent: node.cgroup.of_pod(&uid),
                security_context: Some(cri::LinuxSandboxSecurityContext {
                    namespace_options: Some(cri::NamespaceOption { network, pid }),
                    privileged: host_pid,
                }),
            }),
            metadata: Some(cri::PodSandboxMetadata { name, uid: uid.clone(), namespace, attempt: 0 }),
        };
        let request =
            cri::RunPodSandboxRequest { config: Some(config.clone()), runtime_handler: cni.to_owned() };
        let cri::SandboxId { id } = node.call("RunPodSandbox", request);
        let pid = node.pid_of("PodSandboxStatus", &id);
        Sandbox { node, config, id, uid, pid }
    }
}

impl Sandbox<'_> {
    /// Runs a container in the pod that does nothing.
    pub fn container(&self, name: &str) -> Container {
        self.container_again(name, 0)
    }

    /// The same, as the kubelet runs one that has been started again so many times.
    pub fn container_again(&self, name: &str, attempt: u32) -> Container {
        self.run_container(
            name,
            cri::ContainerConfig {
                metadata: Some(cri::ContainerMetadata { name: name.to_owned(), attempt }),
                image: Some(cri::ImageSpec { image: IMAGE.to_owned() }),
                command: vec!["/bin/sleep".to_owned(), "1000000".to_owned()],
                ..cri::ContainerConfig::default()
            },
        )
    }

    /// Runs a container in the pod.
    pub fn run_container(&self, name: &str, config: cri::ContainerConfig) -> Container {
        let mut labels = self.config.labels.clone();
        labels.insert("io.kubernetes.container.name".to_owned(), name.to_owned());
        let metadata = config.metadata.clone();
        let metadata =
            metadata.or_else(|| Some(cri::ContainerMetadata { name: name.to_owned(), attempt: 0 }));
        let request = cri::CreateContainerRequest {
            pod_sandbox_id: self.id.clone(),
            config: Some(cri::ContainerConfig { metadata, labels, ..config }),
            sandbox_config: Some(self.config.clone()),
        };
        let container: cri::ContainerId = self.node.call("CreateContainer", request);
        let _: cri::Done = self.node.call("StartContainer", container.clone());
        let pid = self.node.pid_of("ContainerStatus", &container.id);
        Container { id: container.id, pid }
    }

    /// Runs a command in a container of the pod and returns its stdout.
    pub fn exec(&self, container: &Container, cmd: &[&str]) -> String {
        let request = cri::ExecSyncRequest {
            container_id: container.id.clone(),
            cmd: cmd.iter().map(|&word| word.to_owned()).collect(),
            timeout: 10,
        };
        let answer: cri::ExecSyncResponse = self.node.call("ExecSync", request);
        let stderr = String::from_utf8_lossy(&answer.stderr);
        assert_eq!(answer.exit_code, 0, "{cmd:?} in {}: {stderr}", container.id);
        String::from_utf8(answer.stdout).expect("UTF-8 from a command")
    }

    /// Stops the pod: its processes and its network go, its entry in the runtime stays.
    pub fn stop(&self) {
        let _: cri::Done = self.node.call("StopPodSandbox", cri::SandboxId { id: self.id.clone() });
    }
}

impl cri::ContainerConfig {
    /// A container that sends three pings with so many bytes as soon as it runs.
    pub fn pinging(gateway: Ipv4Addr, size: u32) -> Self {
        let command = format!("/bin/busybox ping -c 3 -s {size} {gateway}; sleep 1000000");
        Self {
            image: Some(cri::ImageSpec { image: IMAGE.to_owned() }),
            command: vec!["/bin/sh".to_owned(), "-c".to_owned(), command],
            ..Self::default()
        }
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        // Nothing to do about a failure, and nothing hangs on it.
        let _ = self.0.wait();
    }
}

impl Drop for Sandbox<'_> {
    fn drop(&mut self) {
        // The machine takes everything with it when this fails.
        for method in ["StopPodSandbox", "RemovePodSandbox"] {
            let id = cri::SandboxId { id: self.id.clone() };
            let _: Result<cri::Done, _> = self.node.client.call(method, id);
        }
    }
}

/// Writes containerd's and the CNIs' configuration and the image onto the machine.
fn configure(machine: &Machine) {
    let write = |path: &str, content: &[u8]| {
        let path = machine.path(path);
        fs::create_dir_all(path.parent().expect("a directory")).expect("making a directory");
        fs::write(path, content).expect("writing configuration");
    };
    write("/run/containerd.toml", containerd_config().as_bytes());
    for cni in CNIS {
        let path = format!("/run/cni/{}/10.conflist", cni.name);
        write(&path, cni.config().to_string().as_bytes());
    }
    write("/run/image.tar", &image());
}

fn containerd_config() -> String {
    let bin_dir = CNI_BIN_DIRS.iter().find(|dir| Path::new(dir).join("ptp").exists());
    let bin_dir = bin_dir.unwrap_or_else(|| panic!("no CNI plugins in {CNI_BIN_DIRS:?}"));
    let cri = r#"plugins."io.containerd.grpc.v1.cri""#;
    let runtimes: String = CNIS
        .iter()
        .map(|Cni { name, .. }| {
            format!(
                "[{cri}.containerd.runtimes.{name}]\n\
                 runtime_type = \"io.containerd.runc.v2\"\n\
                 cni_conf_dir = \"/run/cni/{name}\"\n"
            )
        })
        .collect();
    // Without restrict_oom_score_adj sandboxes fail where CAP_SYS_RESOURCE is missing.
    format!(
        r#"version = 2
root = "/var/lib/containerd"
state = "/run/containerd/state"
[grpc]
address = "{CRI_SOCKET}"
[{cri}]
sandbox_image = "{IMAGE}"
restrict_oom_score_adj = true
disable_apparmor = true
disable_tcp_service = true
[{cri}.cni]
bin_dir = "{bin_dir}"
conf_dir = "/run/cni/ptp"
[{cri}.containerd]
default_runtime_name = "ptp"
{runtimes}"#
    )
}

impl Cni {
    fn config(&self) -> Value {
        let Self { name, net } = self;
        let range = |subnet: String| json!([{ "subnet": subnet }]);
        let ipam = json!({
            "type": "host-local",
            "dataDir": "/run/cni/addresses",
            "ranges": [range(format!("10.{net}.0.0/24")), range(format!("{}/64", network6(*net)))],
            "routes": [{ "dst": "0.0.0.0/0" }, { "dst": "::/0" }],
        });
        // The two plugins ignore what is meant for the other.
        let plugin = json!({
            "type": name, "bridge": "cni0", "isGateway": true, "ipMasq": false, "ipam": ipam,
        });
        json!({ "cniVersion": "0.4.0", "name": name, "plugins": [plugin] })
    }
}

/// The network `fdNN::` of a CNI, where NN reads like its number in decimal.
fn network6(net: u8) -> Ipv6Addr {
    format!("fd{net}::").parse().expect("an IPv6 network")
}

/// The image as a docker-archive: one layer with busybox and the links to it.
fn image() -> Vec<u8> {
    let busybox = ["/usr/bin/busybox", "/bin/busybox"].iter().find_map(|path| fs::read(path).ok());
    let busybox = busybox.expect("busybox (package busybox-static)");
    let mut layer = tar::Builder::new(Vec::new());
    add(&mut layer, "bin/busybox", 0o755, &busybox);
    for name in ["cat", "sh", "sleep"] {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Symlink);
        header.set_size(0);
        layer.append_link(&mut header, format!("bin/{name}"), "busybox").expect("a link");
    }
    let layer = layer.into_inner().expect("a layer");

    let digest: String = Sha256::digest(&layer).iter().map(|byte| format!("{byte:02x}")).collect();
    let arch = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    let config = json!({
        "architecture": arch,
        "os": "linux",
        "config": { "Entrypoint": ["/bin/sleep", "1000000"] },
        "rootfs": { "type": "layers", "diff_ids": [format!("sha256:{digest}")] },
    });
    let manifest = json!([{ "Config": "config.json", "RepoTags": [IMAGE], "Layers": ["layer.tar"] }]);

    let mut archive = tar::Builder::new(Vec::new());
    add(&mut archive, "layer.tar", 0o644, &layer);
    add(&mut archive, "config.json", 0o644, config.to_string().as_bytes());
    add(&mut archive, "manifest.json", 0o644, manifest.to_string().as_bytes());
    archive.into_inner().expect("an archive")
}

fn add(archive: &mut tar::Builder<Vec<u8>>, path: &str, mode: u32, data: &[u8]) {
    let mut header = tar::Header::new_gnu();
    header.set_mode(mode);
    header.set_size(data.len().try_into().expect("a size"));
    archive.append_data(&mut header, path, data).expect("a file in an archive");
    archive.get_mut().flush().expect("writing to memory");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::traffic;

    #[test]
    fn pods_run_on_both_cnis_and_answer_over_both_protocols() {
        let node = Node::start();
        for cni in ["ptp", "bridge"] {
            let pod = node.pod("shop", "web").cni(cni).start();
            assert_eq!(pod.eth0.peer, Some(pod.veth.index), "{cni}");
            traffic::ping(&node.netns, pod.ipv4.into(), 1, 56);
            traffic::ping(&pod.netns, pod.gateway6.into(), 1, 56);
            assert_eq!(pod.sandbox.uid.len(), 36);
        }
        assert!(node.netns.links().iter().all(|link| !link.name.starts_with("veth")), "removed");
    }

    #[test]
    fn containers_share_the_pods_network_and_show_its_uid_in_their_cgroup() {
        let node = Node::start();
        let pod = node.pod("shop", "web").start();
        let container = pod.sandbox.container("main");
        let route = pod.sandbox.exec(&container, &["/bin/cat", "/proc/net/dev"]);
        assert!(route.contains("eth0"), "{route}");
        let cgroups = node.netns.run(&format!("cat /proc/{}/cgroup", container.pid));
        assert!(cgroups.contains(&format!("kubepods/besteffort/pod{}", pod.sandbox.uid)));
        let host = node.host_network_pod("kube-system", "proxy");
        let name = |pid| node.netns.run(&format!("readlink /proc/{pid}/ns/net"));
        assert_eq!(name(host.pid), name(1));
        assert_ne!(name(pod.sandbox.pid), name(1));
    }

    #[test]
    fn a_node_leaves_no_cgroup_behind() {
        let node = Node::start();
        let name = node.cgroup.name().to_owned();
        std::mem::forget(node.pod("shop", "web").start());
        drop(node);
        let find = format!("find /sys/fs/cgroup -maxdepth 2 -name {name}");
        assert_eq!(Machine::boot().netns().run(&find), "");
    }
}
