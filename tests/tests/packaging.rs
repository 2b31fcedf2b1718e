//! The manifests and the image: what Kubernetes would take, and what runs in real containers with just those rights.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use k8s_openapi::{
    api::{
        admissionregistration::v1::{ValidatingAdmissionPolicy, ValidatingAdmissionPolicyBinding},
        apps::v1::DaemonSet,
        core::v1::{ConfigMap, Container as ContainerSpec, Namespace, SecurityContext, ServiceAccount},
        networking::v1::NetworkPolicy,
        rbac::v1::{ClusterRole, ClusterRoleBinding, PolicyRule, Role, RoleBinding},
        scheduling::v1::PriorityClass,
    },
    serde::{Serialize, de::DeserializeOwned},
};
use serde_json::{Value, json};
use sniff_protocol::{
    Build,
    message::{CapturePlan, ClientHello, Reason},
    request::AttachAt,
};
use sniff_tests::{
    cri,
    netns::tool,
    node::{CRI_SOCKET, Container, Node, Pod},
    pcap::Direction,
    serve::{Outcome, Serving, hello, node_interface, pod},
    traffic, wait,
};

use crate::echoes;

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

fn documents(path: &str) -> Vec<Value> {
    let text =
        fs::read_to_string(Path::new(ROOT).join(path)).unwrap_or_else(|error| panic!("{path}: {error}"));
    serde_saphyr::from_multiple(&text).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// What Helm or kubectl prints, as set-up has installed it.
fn cluster_tool(name: &str, args: &[&str]) -> Result<String, String> {
    let installed = Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("helm").join(name);
    let mut command = if installed.is_file() { tool(installed) } else { tool(name) };
    let output = command.current_dir(ROOT).args(args).output().unwrap_or_else(|error| {
        panic!("{name}: {error}: `cargo xtask setup --tests` installs it");
    });
    let text = |bytes| String::from_utf8(bytes).expect("text");
    if output.status.success() { Ok(text(output.stdout)) } else { Err(text(output.stderr)) }
}

/// Objects by kind and name, with lists whose items have names in the order of those.
type Objects = BTreeMap<(String, String), Value>;

fn objects(yaml: &str) -> Objects {
    let documents: Vec<Value> =
        serde_saphyr::from_multiple(yaml).unwrap_or_else(|error| panic!("{error}: {yaml}"));
    let text = |value: &Value| value.as_str().expect("a string").to_owned();
    let documents = documents.into_iter().filter(|object| !object.is_null());
    let by_name = documents.map(|mut object| {
        sort_by_name(&mut object);
        ((text(&object["kind"]), text(&object["metadata"]["name"])), object)
    });
    by_name.collect()
}

fn sort_by_name(value: &mut Value) {
    match value {
        Value::Object(fields) => fields.values_mut().for_each(sort_by_name),
        Value::Array(items) => {
            items.iter_mut().for_each(sort_by_name);
            items.sort_by_key(|item| item["name"].as_str().map(str::to_owned));
        }
        _ => {}
    }
}

fn kustomize(folder: &str) -> Objects {
    objects(&cluster_tool("kubectl", &["kustomize", folder]).expect("a rendered kustomization"))
}

/// What the chart makes of these values, or what Helm says of them.
fn chart(values: &[&str]) -> Result<Objects, String> {
    let values = values.iter().flat_map(|value| ["--set", value]);
    let args: Vec<_> = ["template", "sniff", "deploy/chart"].into_iter().chain(values).collect();
    cluster_tool("helm", &args).map(|yaml| objects(&yaml))
}

/// What kustomize's strategic merge makes of `base` and `patch`, as far as the overlays use it: objects are merged,
/// lists whose items have names are merged by name, all else is replaced.
fn merge(base: &mut Value, patch: &Value) {
    match (base, patch) {
        (Value::Object(base), Value::Object(patch)) => {
            for (key, value) in patch {
                merge(base.entry(key.clone()).or_insert(Value::Null), value);
            }
        }
        (Value::Array(base), Value::Array(patch)) if patch.iter().all(|item| item["name"].is_string()) => {
            for item in patch {
                match base.iter_mut().find(|known| known["name"] == item["name"]) {
                    Some(known) => merge(known, item),
                    None => base.push(item.clone()),
                }
            }
        }
        (base, patch) => *base = patch.clone(),
    }
}

/// The DaemonSet of an overlay; without one, of the base.
pub fn daemon_set(overlay: Option<&str>) -> Value {
    let documents_of_base = documents("deploy/sniff.yaml");
    let mut daemon_set =
        documents_of_base.into_iter().find(|object| object["kind"] == "DaemonSet").expect("a DaemonSet");
    if let Some(overlay) = overlay {
        merge(&mut daemon_set, &documents(&format!("deploy/overlays/{overlay}/daemonset.yaml"))[0]);
    }
    daemon_set
}

/// What lets a group capture the pods of the namespace `shop`.
pub fn of_namespace() -> Vec<Value> {
    ["capture", "door"].iter().flat_map(|file| documents(&format!("deploy/namespace/{file}.yaml"))).collect()
}

/// The role of sniff's own account, with its binding.
pub fn role_of_agent() -> Vec<Value> {
    documents("deploy/base/rbac.yaml")
}

/// What lets it hear of what is to be recorded.
pub fn role_of_recorder() -> Vec<Value> {
    documents("deploy/overlays/record/rbac.yaml")
}

fn container_of(daemon_set: &Value) -> ContainerSpec {
    let daemon_set: DaemonSet = typed(daemon_set);
    let spec = daemon_set.spec.and_then(|spec| spec.template.spec).expect("a pod's spec");
    assert_eq!(spec.host_pid, Some(true));
    assert_ne!(spec.host_network, Some(true));
    let [container] = <[_; 1]>::try_from(spec.containers).expect("one container");
    container
}

/// The object as its type has it; a field that the type does not know, or knows otherwise, is a panic.
fn typed<T: DeserializeOwned + Serialize>(object: &Value) -> T {
    let typed: T =
        serde_json::from_value(object.clone()).unwrap_or_else(|error| panic!("{error}: {object:#}"));
    let kept = serde_json::to_value(&typed).expect("JSON");
    assert_kept(object, &kept, &mut Vec::new());
    typed
}

fn assert_kept(original: &Value, kept: &Value, path: &mut Vec<String>) {
    match (original, kept) {
        (Value::Object(fields), _) => {
            for (key, value) in fields {
                path.push(key.clone());
                assert_kept(value, &kept[key], path);
                path.pop();
            }
        }
        (Value::Array(items), Value::Array(others)) => {
            assert_eq!(items.len(), others.len(), "{}", path.join("."));
            items.iter().zip(others).for_each(|(item, other)| assert_kept(item, other, path));
        }
        _ => assert_eq!(original, kept, "{} is not known to Kubernetes", path.join(".")),
    }
}

#[test]
fn kubernetes_knows_every_field_of_every_object() {
    let mut kinds = Vec::new();
    for object in documents("deploy/sniff.yaml") {
        let kind = object["kind"].as_str().expect("a kind").to_owned();
        match kind.as_str() {
            "Namespace" => drop(typed::<Namespace>(&object)),
            "ServiceAccount" => drop(typed::<ServiceAccount>(&object)),
            "ClusterRole" => drop(typed::<ClusterRole>(&object)),
            "ClusterRoleBinding" => drop(typed::<ClusterRoleBinding>(&object)),
            "PriorityClass" => drop(typed::<PriorityClass>(&object)),
            "DaemonSet" => drop(typed::<DaemonSet>(&object)),
            _ => panic!("{object:#}"),
        }
        kinds.push(kind);
    }
    let all = [
        "Namespace",
        "ServiceAccount",
        "ServiceAccount",
        "ClusterRole",
        "ClusterRoleBinding",
        "PriorityClass",
        "DaemonSet",
    ];
    assert_eq!(kinds, all);
    typed::<ConfigMap>(&documents("deploy/overlays/policy/configmap.yaml")[0]);
    for overlay in ["exec-only", "least-privilege", "metrics", "policy", "record"] {
        typed::<DaemonSet>(&daemon_set(Some(overlay)));
    }
    for object in of_namespace() {
        match object["kind"].as_str().expect("a kind") {
            "ServiceAccount" => drop(typed::<ServiceAccount>(&object)),
            "Role" => drop(typed::<Role>(&object)),
            "RoleBinding" => drop(typed::<RoleBinding>(&object)),
            _ => panic!("{object:#}"),
        }
    }
}

/// What the API server lets through is decided by CEL there; here it is pinned, with what it is asked of.
#[test]
fn an_overlay_lets_execs_capture_and_do_nothing_else() {
    let [policy, binding] = &documents("deploy/overlays/exec-only/policy.yaml")[..] else {
        panic!("not two")
    };
    let namespace = &documents("deploy/sniff.yaml")[0]["metadata"]["name"];
    let binding = typed::<ValidatingAdmissionPolicyBinding>(binding).spec.expect("a spec");
    assert_eq!(binding.policy_name.as_deref(), policy["metadata"]["name"].as_str());
    assert_eq!(binding.validation_actions, Some(vec!["Deny".to_owned()]));
    let selector = binding.match_resources.and_then(|it| it.namespace_selector).expect("a selector");
    let labels = selector.match_labels.expect("labels");
    assert_eq!(labels.get("kubernetes.io/metadata.name").map(String::as_str), namespace.as_str());

    let policy = typed::<ValidatingAdmissionPolicy>(policy).spec.expect("a spec");
    assert_eq!(policy.failure_policy.as_deref(), Some("Fail"));
    let rules = policy.match_constraints.and_then(|it| it.resource_rules).expect("rules");
    let resources: Vec<(String, String)> = rules
        .into_iter()
        .flat_map(|rule| {
            let operations = rule.operations.expect("operations").join(" ");
            rule.resources.expect("resources").into_iter().map(move |it| (operations.clone(), it))
        })
        .collect();
    let of = |operation: &str, resource: &str| (operation.to_owned(), format!("pods/{resource}"));
    let ways_in = [
        of("CONNECT", "exec"),
        of("CONNECT", "attach"),
        of("CONNECT", "portforward"),
        of("UPDATE", "ephemeralcontainers"),
    ];
    assert_eq!(resources, ways_in);
    let validations = policy.validations.expect("validations");
    let [validation] = &validations[..] else { panic!("{validations:#?}") };
    let expression = "request.subResource == 'exec' && has(object.command) && object.command == ['sniff', 'serve'] || \
                      request.subResource == 'portforward' && has(object.ports) && object.ports == [9470]";
    assert_eq!(validation.expression, expression);
}

#[test]
fn metrics_are_for_the_monitoring_system_alone() {
    let [policy] = &documents("deploy/overlays/metrics/networkpolicy.yaml")[..] else { panic!("not one") };
    let daemon_set = daemon_set(Some("metrics"));
    let spec = typed::<NetworkPolicy>(policy).spec.expect("a spec");
    let selected = serde_json::to_value(spec.pod_selector).expect("JSON");
    assert_eq!(selected["matchLabels"], daemon_set["spec"]["template"]["metadata"]["labels"]);
    assert_eq!(policy["metadata"]["namespace"], daemon_set["metadata"]["namespace"]);
    assert_eq!(spec.policy_types, Some(vec!["Ingress".to_owned()]));
    let ports = &policy["spec"]["ingress"][0]["ports"];
    let container = &daemon_set["spec"]["template"]["spec"]["containers"][0];
    assert_eq!(ports, &serde_json::json!([{"port": container["ports"][0]["name"], "protocol": "TCP"}]));
    assert!(policy["spec"]["ingress"][0]["from"][0]["namespaceSelector"]["matchLabels"].is_object());
}

#[test]
fn the_chart_makes_the_objects_of_kustomize() {
    assert_eq!(chart(&[]).expect("objects"), kustomize("deploy/base"));
    for (overlay, value) in [
        ("least-privilege", "privilege=leastPrivilege"),
        ("metrics", "metrics.enabled=true"),
        ("exec-only", "execOnly=true"),
        ("policy", "policy.enabled=true"),
        ("record", "record.enabled=true"),
    ] {
        let objects = kustomize(&format!("deploy/overlays/{overlay}"));
        assert_eq!(chart(&[value]).expect("objects"), objects, "{overlay}");
        // What is merged here, too, is merged as kustomize does it.
        let mut merged = daemon_set(Some(overlay));
        sort_by_name(&mut merged);
        assert_eq!(objects[&("DaemonSet".to_owned(), "sniff".to_owned())], merged, "{overlay}");
    }
    cluster_tool("helm", &["lint", "--strict", "deploy/chart"]).expect("a clean chart");
    let version = |key: &str| documents("deploy/chart/Chart.yaml")[0][key].clone();
    assert_eq!([version("version"), version("appVersion")], [env!("CARGO_PKG_VERSION"); 2]);
}

#[test]
fn each_value_of_the_chart_is_where_it_belongs() {
    let digest = format!("sha256:{:064}", 7);
    let objects = chart(&[
        "namespace.name=tools",
        "image.repository=registry.example.com/sniff",
        &format!("image.digest={digest}"),
        "image.pullPolicy=Always",
        "image.pullSecrets[0].name=key",
        "privilege=leastPrivilege",
        "execOnly=true",
        "policy.enabled=true",
        "policy.rules[0].namespaces[0]=*",
        "policy.rules[0].snaplen=96",
        "record.enabled=true",
        "record.memory=1GiB",
        "record.keep=2h",
        "record.triggers=oom-killed",
        "record.events[0]=Unhealthy",
        "record.events[1]=BackOff",
        "events=false",
        "metrics.enabled=true",
        "metrics.address=[::]",
        "metrics.from=prometheus",
        "limits.sessions=4",
        "limits.memory=1GiB",
        "limits.bytes=2GiB",
        "limits.duration=1h",
        "resources.limits.memory=2Gi",
        "tolerations[0].key=dedicated",
        "tolerations[0].operator=Exists",
        "nodeSelector.pool=web",
        "priorityClass.name=system-node-critical",
        "priorityClass.create=false",
        "labels.team=net",
    ])
    .expect("objects");
    let of = |kind: &str, name: &str| &objects[&(kind.to_owned(), name.to_owned())];
    assert!(objects.keys().all(|(kind, _)| kind != "PriorityClass"));
    for object in objects.values() {
        assert_eq!(object["metadata"]["labels"]["team"], "net", "{object:#}");
        assert_eq!(object["metadata"]["labels"]["app.kubernetes.io/name"], "sniff", "{object:#}");
        let namespace = &object["metadata"]["namespace"];
        assert!(namespace.is_null() || namespace == "tools", "{object:#}");
    }
    assert_eq!(of("ClusterRoleBinding", "sniff")["subjects"][0]["namespace"], "tools");
    let selected = |selector: &Value| selector["matchLabels"]["kubernetes.io/metadata.name"].clone();
    let binding = of("ValidatingAdmissionPolicyBinding", "sniff-exec-only");
    assert_eq!(selected(&binding["spec"]["matchResources"]["namespaceSelector"]), "tools");
    let ingress = &of("NetworkPolicy", "sniff")["spec"]["ingress"][0];
    assert_eq!(selected(&ingress["from"][0]["namespaceSelector"]), "prometheus");
    assert_eq!(
        of("Namespace", "tools")["metadata"]["labels"]["pod-security.kubernetes.io/enforce"],
        "privileged"
    );

    let daemon_set = of("DaemonSet", "sniff");
    typed::<DaemonSet>(daemon_set);
    let selector = &daemon_set["spec"]["selector"]["matchLabels"];
    let template = &daemon_set["spec"]["template"];
    assert!(selector["team"].is_null(), "a selector cannot be changed");
    assert_eq!(template["metadata"]["labels"]["team"], "net");
    let spec = &template["spec"];
    assert_eq!(spec["imagePullSecrets"], json!([{"name": "key"}]));
    assert_eq!(spec["tolerations"], json!([{"key": "dedicated", "operator": "Exists"}]));
    assert_eq!(spec["nodeSelector"], json!({"kubernetes.io/os": "linux", "pool": "web"}));
    assert_eq!(spec["priorityClassName"], "system-node-critical");
    let container = &spec["containers"][0];
    assert_eq!(container["image"], format!("registry.example.com/sniff@{digest}"));
    assert_eq!(container["imagePullPolicy"], "Always");
    assert_eq!(container["resources"]["limits"], json!({"memory": "2Gi"}));
    assert_eq!(container["securityContext"]["privileged"], false);
    let env = container["env"].as_array().expect("a list").iter();
    let env: BTreeMap<_, _> =
        env.filter_map(|it| Some((it["name"].as_str()?, it["value"].as_str()?))).collect();
    let wanted = [
        ("SNIFF_AGENT_SOCKET", "/var/lib/sniff/agent.sock"),
        ("SNIFF_ALLOW_EXEC_SESSIONS", "true"),
        ("SNIFF_DOOR", "127.0.0.1:9470"),
        ("SNIFF_EVENTS", "off"),
        ("SNIFF_MAX_BYTES", "2GiB"),
        ("SNIFF_MAX_DURATION", "1h"),
        ("SNIFF_MAX_MEMORY", "1GiB"),
        ("SNIFF_MAX_SESSIONS", "4"),
        ("SNIFF_METRICS_ADDRESS", "[::]:9469"),
        ("SNIFF_POLICY", "/etc/sniff/policy.yaml"),
        ("SNIFF_RECORDINGS", "/var/lib/sniff-recordings"),
        ("SNIFF_RECORDINGS_SIZE", "1GiB"),
        ("SNIFF_RECORD_EVENTS", "Unhealthy,BackOff"),
        ("SNIFF_RECORD_KEEP", "2h"),
        ("SNIFF_RECORD_MEMORY", "1GiB"),
        ("SNIFF_RECORD_TRIGGERS", "oom-killed"),
    ];
    assert_eq!(env, wanted.into());
    let policy = of("ConfigMap", "sniff-policy")["data"]["policy.yaml"].as_str().expect("a text");
    let policy: Value = serde_saphyr::from_str(policy).expect("YAML");
    assert_eq!(policy, json!({"rules": [{"namespaces": ["*"], "snaplen": 96}]}));
}

#[test]
fn what_the_chart_does_not_know_is_refused() {
    for (value, part) in [
        ("recorder.enabled=true", "'recorder' not allowed"),
        ("record.memory=much", "/record/memory"),
        ("record.events[0]=a=b", "/record/events/0"),
        ("record.events[0]=PacketRecordingSaved", "/record/events/0"),
        ("image.tga=1", "'tga' not allowed"),
        ("privilege=none", "/privilege"),
        ("limits.sessions=many", "/limits/sessions"),
        ("image.digest=sha256:1", "/image/digest"),
        ("policy.rules[0].heders=true", "'heders' not allowed"),
    ] {
        let said = chart(&[value]).expect_err(value);
        assert!(said.contains(part), "{value}: {said}");
    }
    let args = ["template", "sniff", "deploy/chart", "--namespace", "sniff"];
    let said = cluster_tool("helm", &args).expect_err("a namespace that is there");
    assert!(said.contains("namespace.create=false"), "{said}");
}

/// An overlay without one of its files is refused by kustomize, and one that is not listed does nothing.
#[test]
fn overlays_list_all_their_files() {
    for (overlay, base) in [
        ("exec-only", "../../base"),
        ("least-privilege", "../../base"),
        ("metrics", "../../base"),
        ("policy", "../../base"),
        ("record", "../../base"),
        ("openshift", "../least-privilege"),
    ] {
        let folder = format!("deploy/overlays/{overlay}");
        let kustomization = &documents(&format!("{folder}/kustomization.yaml"))[0];
        let names = |list: &Value| list.as_array().cloned().unwrap_or_default();
        let resources = names(&kustomization["resources"]);
        let patches = names(&kustomization["patches"]).into_iter().map(|patch| patch["path"].clone());
        let mut listed: Vec<Value> = resources.into_iter().chain(patches).collect();
        assert_eq!(listed.remove(0), base);
        listed.push("kustomization.yaml".into());
        let mut listed: Vec<String> =
            listed.iter().map(|it| it.as_str().expect("a name").to_owned()).collect();
        let files = fs::read_dir(Path::new(ROOT).join(folder)).expect("a folder");
        let mut files: Vec<String> =
            files.map(|file| file.expect("a file").file_name().into_string().expect("text")).collect();
        listed.sort_unstable();
        files.sort_unstable();
        assert_eq!(listed, files, "{overlay}");
    }
}

/// OpenShift lets a pod in when each field is allowed by one of the constraints that its account may use.
#[test]
fn openshifts_constraints_allow_what_the_pods_take_and_no_more() {
    let [scc] = &documents("deploy/overlays/openshift/scc.yaml")[..] else { panic!("not one") };
    let daemon_set = daemon_set(Some("least-privilege"));
    let spec = &daemon_set["spec"]["template"]["spec"];
    let context = &spec["containers"][0]["securityContext"];
    assert_eq!(scc["allowHostPID"], spec["hostPID"]);
    assert_eq!(scc["allowedCapabilities"], context["capabilities"]["add"]);
    assert_eq!(scc["requiredDropCapabilities"], context["capabilities"]["drop"]);
    assert_eq!(scc["allowPrivilegedContainer"], context["privileged"]);
    assert_eq!(scc["allowPrivilegeEscalation"], context["allowPrivilegeEscalation"]);
    assert_eq!(scc["readOnlyRootFilesystem"], context["readOnlyRootFilesystem"]);
    for volume in spec["volumes"].as_array().expect("volumes") {
        let kinds = scc["volumes"].as_array().expect("kinds");
        assert!(kinds.iter().any(|kind| !volume[kind.as_str().expect("a kind")].is_null()), "{volume}");
    }
    let account = |name: &Value| format!("system:serviceaccount:sniff:{}", name.as_str().expect("a name"));
    assert_eq!(scc["users"], json!([account(&spec["serviceAccountName"]), account(&json!("default"))]));
    for refused in ["allowHostIPC", "allowHostNetwork", "allowHostPorts"] {
        assert_eq!(scc[refused], false, "{refused}");
    }
}

#[test]
fn the_role_reads_pods_and_namespaces_writes_events_has_tokens_reviewed_and_nothing_else() {
    let role = documents("deploy/sniff.yaml").into_iter().find(|object| object["kind"] == "ClusterRole");
    let rules = typed::<ClusterRole>(&role.expect("a role")).rules.expect("rules");
    let of = |rule: &PolicyRule| (rule.resources.clone().unwrap_or_default().join(","), rule.verbs.join(","));
    let rules: Vec<_> = rules.iter().map(of).collect();
    let wanted = [
        ("pods", "get,list,watch"),
        ("namespaces", "list,watch"),
        ("events", "create"),
        ("tokenreviews", "create"),
    ];
    assert_eq!(rules, wanted.map(|(resources, verbs)| (resources.to_owned(), verbs.to_owned())));
}

/// What the client reads of a pod, what the policy lets through, and what the agent listens on are one port.
#[test]
fn the_door_is_on_the_pods_loopback() {
    let env = container_of(&daemon_set(None)).env.expect("variables");
    let value = |name: &str| env.iter().find(|it| it.name == name).and_then(|it| it.value.as_deref());
    assert_eq!(value("SNIFF_DOOR"), Some("127.0.0.1:9470"));
    assert_eq!(value("SNIFF_ALLOW_EXEC_SESSIONS"), None);
    let env = container_of(&daemon_set(Some("exec-only"))).env.expect("variables");
    assert!(
        env.iter().any(|it| it.name == "SNIFF_ALLOW_EXEC_SESSIONS" && it.value.as_deref() == Some("true"))
    );
}

#[test]
fn the_image_is_that_of_this_version() {
    let container = container_of(&daemon_set(None));
    assert_eq!(container.image.as_deref(), Some(concat!("localhost/sniff:", env!("CARGO_PKG_VERSION"))));
}

/// The archive that was made for the tests.
fn image() -> PathBuf {
    let path = std::env::var_os("SNIFF_IMAGE_ARCHIVE").map(PathBuf::from).filter(|path| path.is_file());
    path.expect(
        "SNIFF_IMAGE_ARCHIVE is not the path of an image archive: run the tests with `cargo xtask test`",
    )
}

/// Sniff's pod on a node, with the rights and settings that a DaemonSet gives it.
struct Agent<'a> {
    node: &'a Node,
    pod: Pod<'a>,
    container: Container,
}

impl<'a> Agent<'a> {
    fn start(node: &'a Node, daemon_set: &Value) -> Self {
        node.netns.run(&format!("ctr -a {CRI_SOCKET} -n k8s.io images import {}", image().display()));
        // As systemd has it on a node.
        node.netns.run("mount --make-shared /run");
        let pod = node.pod("sniff", "sniff-1").host_pid().start();
        let container = pod.sandbox.run_container("sniff", config(container_of(daemon_set)));
        let agent = Self { node, pod, container };
        wait::until("an agent that is well", Duration::from_secs(20), || agent.is_well().then_some(()));
        agent
    }

    fn is_well(&self) -> bool {
        let mut check = self.exec("check", &["sniff", "agent", "--check"]);
        self.node.netns.spawn(check.stderr(std::process::Stdio::null())).wait().expect("its end").success()
    }

    /// A command in the container, with stdin and stdout, as exec gives it.
    fn exec(&self, id: &str, args: &[&str]) -> std::process::Command {
        let mut command = tool("ctr");
        command.args(["-a", CRI_SOCKET, "-n", "k8s.io", "tasks", "exec", "--exec-id", id]);
        command.arg(&self.container.id).args(args);
        command
    }

    /// A line of the agent's `/proc/PID/status`.
    fn status(&self, key: &str) -> String {
        let status = self.node.netns.run(&format!("cat /proc/{}/status", self.container.pid));
        let value = status.lines().find_map(|line| line.strip_prefix(key));
        value.unwrap_or_else(|| panic!("no {key} in {status}")).trim().to_owned()
    }
}

/// The container as the kubelet would have it made.
fn config(spec: ContainerSpec) -> cri::ContainerConfig {
    let security: SecurityContext = spec.security_context.expect("a security context");
    let capabilities = security.capabilities.map(|capabilities| cri::Capability {
        add: capabilities.add.unwrap_or_default(),
        drop: capabilities.drop.unwrap_or_default(),
    });
    let number = |value: Option<i64>| value.map(|value| cri::Int64Value { value });
    let envs = spec.env.unwrap_or_default().into_iter().map(|variable| cri::KeyValue {
        value: variable.value.unwrap_or_else(|| "test-node".to_owned()),
        key: variable.name,
    });
    // There is no API here that could issue tokens and review them.
    let by_exec = cri::KeyValue { key: "SNIFF_ALLOW_EXEC_SESSIONS".to_owned(), value: "true".to_owned() };
    let mount = |mount: k8s_openapi::api::core::v1::VolumeMount| cri::Mount {
        host_path: if mount.name == "run" { "/run".to_owned() } else { "/var/lib/sniff-test".to_owned() },
        container_path: mount.mount_path,
        readonly: mount.read_only.unwrap_or_default(),
        propagation: i32::from(mount.mount_propagation.as_deref() == Some("HostToContainer")),
    };
    // The token of the service account, which the kubelet mounts unasked.
    let token = cri::Mount {
        host_path: "/var/lib/sniff-test".to_owned(),
        container_path: "/var/run/secrets/kubernetes.io/serviceaccount".to_owned(),
        readonly: true,
        propagation: 0,
    };
    cri::ContainerConfig {
        image: Some(cri::ImageSpec { image: spec.image.expect("an image") }),
        args: spec.args.expect("arguments"),
        envs: envs.chain([by_exec]).collect(),
        mounts: spec.volume_mounts.expect("mounts").into_iter().map(mount).chain([token]).collect(),
        linux: Some(cri::LinuxContainerConfig {
            resources: None,
            security_context: Some(cri::LinuxContainerSecurityContext {
                capabilities,
                privileged: security.privileged.unwrap_or_default(),
                namespace_options: Some(cri::NamespaceOption { network: 0, pid: cri::NODE }),
                run_as_user: number(security.run_as_user),
                run_as_group: number(security.run_as_group),
                readonly_rootfs: security.read_only_root_filesystem.unwrap_or_default(),
                no_new_privs: security.allow_privilege_escalation == Some(false),
                seccomp: security.seccomp_profile.map(|profile| {
                    assert_eq!(profile.type_, "RuntimeDefault");
                    cri::SecurityProfile {}
                }),
            }),
        }),
        ..cri::ContainerConfig::default()
    }
}

/// Captures a pod, at its own end or at the host's, and an interface of the node, with a session in sniff's pod.
fn capture(agent: &Agent<'_>, target: &Pod<'_>, attach: AttachAt) -> Outcome {
    let Agent { node, pod: own, .. } = agent;
    let mut targets = vec![pod("shop", "web", &target.sandbox.uid)];
    if attach != AttachAt::Pod {
        targets.push(node_interface(&own.veth.name));
    }
    let interfaces = targets.len();
    let mut serving = Serving::launch(&node.netns, &mut agent.exec("session", &["sniff", "serve"]));
    let plan = CapturePlan { filter: Some("icmp".to_owned()), attach, ..CapturePlan::default() };
    assert_eq!(serving.begin(ClientHello { plan, ..hello(targets) }) as usize, interfaces);
    traffic::ping(&node.netns, target.ipv4.into(), 3, 56);
    traffic::ping(&node.netns, own.ipv4.into(), 2, 57);
    let outcome = serving.stop();
    assert_eq!(outcome.end().reason, Reason::Stopped, "{outcome:#?}");
    let file = outcome.file();
    assert_eq!(echoes(&file.packets_of("shop/web/eth0"), Direction::In, 56), 3);
    assert_eq!(echoes(&file.packets_of("shop/web/eth0"), Direction::Out, 56), 3);
    assert_eq!(file.packets.len(), 6 + 4 * (interfaces - 1), "2 of the pings went to the other target");
    outcome
}

#[test]
fn the_image_runs_and_serves_in_a_privileged_container() {
    let node = Node::start();
    let web = node.pod("shop", "web").start();
    let agent = Agent::start(&node, &daemon_set(None));
    let version = agent.pod.sandbox.exec(&agent.container, &["sniff", "--version"]);
    assert_eq!(version.trim(), format!("sniff {}", Build::THIS));
    // Names of services are known there, too.
    let filter = agent.pod.sandbox.exec(&agent.container, &["sniff", "-d", "udp", "port", "domain"]);
    assert!(filter.contains("#0x35"), "{filter}");
    let outcome = capture(&agent, &web, AttachAt::Auto);
    assert!(
        outcome.file().interfaces[0].description.as_deref().expect("words").contains("on node test-node")
    );
}

#[test]
fn the_named_capabilities_are_enough() {
    let node = Node::start();
    let web = node.pod("shop", "web").start();
    let agent = Agent::start(&node, &daemon_set(Some("least-privilege")));
    // BPF 39, PERFMON 38, SYS_ADMIN 21, SYS_PTRACE 19, NET_ADMIN 12, NET_BROADCAST 11, SETUID 7, SETGID 6, KILL 5
    // (include/uapi/linux/capability.h).
    let wanted: u64 = [39, 38, 21, 19, 12, 11, 7, 6, 5].iter().map(|bit| 1 << bit).sum();
    for set in ["CapEff:", "CapPrm:", "CapBnd:"] {
        assert_eq!(u64::from_str_radix(&agent.status(set), 16), Ok(wanted), "{set}");
    }
    // Runtimes whose sockets are not in /run are reached through process 1.
    let socket = format!("/proc/1/root{CRI_SOCKET}");
    let pods = agent.pod.sandbox.exec(&agent.container, &["sniff", "--list", "--cri-socket", &socket]);
    assert!(pods.lines().any(|line| line.split_whitespace().take(2).eq(["shop", "web"])), "{pods}");
    assert_eq!((agent.status("NoNewPrivs:").as_str(), agent.status("Seccomp:").as_str()), ("1", "2"));
    for attach in [AttachAt::Host, AttachAt::Pod] {
        capture(&agent, &web, attach);
    }
}
