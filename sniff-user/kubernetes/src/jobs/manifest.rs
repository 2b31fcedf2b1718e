//! The Job as it is given to Kubernetes.

use std::{collections::BTreeMap, time::SystemTime};

use anyhow::Result;
use k8s_openapi::{
    api::{
        batch::v1::{Job, JobSpec},
        core::v1,
    },
    apimachinery::pkg::{api::resource::Quantity, apis::meta::v1::ObjectMeta},
};

use super::{NewJob, start::STARTING};
use crate::own::{CONTAINER, NAME_LABEL};

pub(super) const MANAGED_BY_LABEL: &str = "app.kubernetes.io/managed-by";
pub(super) const MANAGER: &str = "kubectl-sniff";
/// The name of short-lived pods. It is not that of the DaemonSet's, lest that takes them for its own.
pub(super) const SESSION: &str = "sniff-session";
pub(super) const WHO: &str = "sniff/who";
pub(super) const WHAT: &str = "sniff/what";
pub(super) const UNTIL: &str = "sniff/until";

/// The node's folder with the container runtimes' sockets, and the files that network namespaces are bound to.
const RUN: &str = "/run";
/// Where the main process keeps its socket.
const STATE: &str = "/var/lib/sniff";
/// Memory in MiB that a pod may take besides its capture's buffer. Sniff takes some 30, and a little for each CPU.
const HEADROOM_MIB: u64 = 128;
/// The smallest memory limit of a pod, in MiB.
const LEAST_MIB: u64 = 512;
/// What a container takes that is not privileged.
const CAPABILITIES: [&str; 9] =
    ["BPF", "PERFMON", "NET_ADMIN", "NET_BROADCAST", "SYS_PTRACE", "SETUID", "SETGID", "KILL", "SYS_ADMIN"];
/// Seconds that the kubelet waits for the main process at the end.
const GRACE_SECONDS: i64 = 3;

impl NewJob {
    /// The Job, as it would be created.
    pub fn job(&self) -> Job {
        let mut metadata = self.metadata();
        metadata.generate_name = Some("sniff-".into());
        metadata.namespace = Some(self.namespace.clone());
        let template = v1::PodTemplateSpec { metadata: Some(self.metadata()), spec: Some(self.pod()) };
        let spec = JobSpec {
            // Until its client has seen the pod run; from then on the pod's own deadline holds.
            active_deadline_seconds: Some(STARTING.as_secs() as i64),
            // A session that has failed is not to be tried again by anybody but its client.
            backoff_limit: Some(0),
            template,
            ttl_seconds_after_finished: Some(0),
            ..JobSpec::default()
        };
        Job { metadata, spec: Some(spec), ..Job::default() }
    }

    /// What tells whose it is; on the Job and on its pod.
    fn metadata(&self) -> ObjectMeta {
        let until = humantime::format_rfc3339_seconds(SystemTime::now() + self.lifetime).to_string();
        let labels = [(NAME_LABEL, SESSION), (MANAGED_BY_LABEL, MANAGER)];
        let annotations = [(WHO, self.who.clone()), (WHAT, self.what.clone()), (UNTIL, until)];
        ObjectMeta {
            labels: Some(labels.map(|(key, value)| (key.into(), value.into())).into()),
            annotations: Some(annotations.map(|(key, value)| (key.into(), value)).into()),
            ..ObjectMeta::default()
        }
    }

    fn pod(&self) -> v1::PodSpec {
        v1::PodSpec {
            active_deadline_seconds: Some(self.lifetime.as_secs() as i64),
            automount_service_account_token: Some(false),
            containers: vec![self.container()],
            enable_service_links: Some(false),
            host_pid: Some(true),
            node_name: Some(self.node.clone()),
            restart_policy: Some("Never".into()),
            termination_grace_period_seconds: Some(GRACE_SECONDS),
            tolerations: Some(vec![v1::Toleration {
                operator: Some("Exists".into()),
                ..v1::Toleration::default()
            }]),
            volumes: Some(volumes()),
            ..v1::PodSpec::default()
        }
    }

    /// The Job as JSON, which kubectl takes too.
    ///
    /// # Errors
    ///
    /// Never in practice.
    pub fn manifest(&self) -> Result<String> {
        Ok(serde_json::to_string_pretty(&self.job())?)
    }

    /// The memory limit; the kernel counts the buffer towards it.
    fn memory_mib(&self) -> u64 {
        (u64::from(self.buffer_bytes).div_ceil(1 << 20) + HEADROOM_MIB).max(LEAST_MIB)
    }

    fn container(&self) -> v1::Container {
        let pair = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        let requests = [pair("cpu", "10m"), pair("memory", "16Mi")];
        let limits = [pair("memory", &format!("{}Mi", self.memory_mib()))];
        v1::Container {
            name: CONTAINER.into(),
            image: Some(self.image.clone()),
            command: Some(["sniff", "agent", "--once"].map(Into::into).into()),
            env: Some(vec![
                variable("NODE_NAME", self.node.clone()),
                variable("SNIFF_AGENT_SOCKET", format!("{STATE}/agent.sock")),
                // The pod is for one capture.
                variable("SNIFF_MAX_MEMORY", self.buffer_bytes.to_string()),
            ]),
            resources: Some(v1::ResourceRequirements {
                requests: Some(quantities(requests, &self.resources.requests)),
                limits: Some(quantities(limits, &self.resources.limits)),
                ..v1::ResourceRequirements::default()
            }),
            security_context: Some(v1::SecurityContext {
                read_only_root_filesystem: Some(true),
                run_as_group: Some(0),
                run_as_user: Some(0),
                ..if self.is_privileged { privileged() } else { least_privilege() }
            }),
            volume_mounts: Some(mounts()),
            ..v1::Container::default()
        }
    }
}

fn privileged() -> v1::SecurityContext {
    v1::SecurityContext { privileged: Some(true), ..v1::SecurityContext::default() }
}

/// What the overlay `least-privilege` gives to the DaemonSet's pods, which says what each is for.
fn least_privilege() -> v1::SecurityContext {
    v1::SecurityContext {
        allow_privilege_escalation: Some(false),
        app_armor_profile: Some(v1::AppArmorProfile {
            type_: "Unconfined".into(),
            ..v1::AppArmorProfile::default()
        }),
        capabilities: Some(v1::Capabilities {
            add: Some(CAPABILITIES.map(Into::into).into()),
            drop: Some(vec!["ALL".into()]),
        }),
        privileged: Some(false),
        se_linux_options: Some(v1::SELinuxOptions {
            type_: Some("spc_t".into()),
            ..v1::SELinuxOptions::default()
        }),
        seccomp_profile: Some(v1::SeccompProfile {
            type_: "RuntimeDefault".into(),
            ..v1::SeccompProfile::default()
        }),
        ..v1::SecurityContext::default()
    }
}

/// The one with what stands in the other, which has its way.
fn quantities<const N: usize>(
    ours: [(String, String); N],
    theirs: &[(String, String)],
) -> BTreeMap<String, Quantity> {
    ours.into_iter().chain(theirs.iter().cloned()).map(|(name, value)| (name, Quantity(value))).collect()
}

fn variable(name: &str, value: String) -> v1::EnvVar {
    v1::EnvVar { name: name.into(), value: Some(value), ..v1::EnvVar::default() }
}

fn volumes() -> Vec<v1::Volume> {
    let run = v1::HostPathVolumeSource { path: RUN.into(), type_: Some("Directory".into()) };
    let state = v1::EmptyDirVolumeSource {
        medium: Some("Memory".into()),
        size_limit: Some(Quantity("1Mi".to_owned())),
    };
    vec![
        v1::Volume { name: "run".into(), host_path: Some(run), ..v1::Volume::default() },
        v1::Volume { name: "state".into(), empty_dir: Some(state), ..v1::Volume::default() },
    ]
}

/// The node's mounts below [`RUN`] come and go: each pod's namespace may be one.
fn mounts() -> Vec<v1::VolumeMount> {
    let run = v1::VolumeMount {
        name: "run".into(),
        mount_path: RUN.into(),
        mount_propagation: Some("HostToContainer".into()),
        read_only: Some(true),
        ..v1::VolumeMount::default()
    };
    let state =
        v1::VolumeMount { name: "state".into(), mount_path: STATE.into(), ..v1::VolumeMount::default() };
    vec![run, state]
}

#[cfg(test)]
pub(super) mod tests {
    use std::time::Duration;

    use serde_json::json;

    use super::{super::Resources, *};

    pub(in super::super) fn new_job() -> NewJob {
        NewJob {
            node: "n-1".into(),
            namespace: "tools".into(),
            exposes_node: false,
            is_privileged: false,
            resources: Resources::default(),
            image: "sniff:1".into(),
            who: "jane@laptop $(reboot)".into(),
            what: "shop/web-0".into(),
            lifetime: Duration::from_secs(3600),
            buffer_bytes: 64 << 20,
        }
    }

    #[test]
    fn the_pod_is_what_the_node_needs_and_no_more() {
        let job = serde_json::to_value(new_job().job()).unwrap();
        assert_eq!(job["spec"]["ttlSecondsAfterFinished"], 0);
        assert_eq!(job["spec"]["backoffLimit"], 0);
        assert_eq!(job["spec"]["activeDeadlineSeconds"], 60, "its client has not seen the pod run");
        assert_eq!(job["metadata"]["annotations"], job["spec"]["template"]["metadata"]["annotations"]);
        let spec = &job["spec"]["template"]["spec"];
        assert_eq!(spec["nodeName"], "n-1");
        assert_eq!(spec["restartPolicy"], "Never");
        assert_eq!(spec["hostPID"], true);
        assert_eq!(spec["hostNetwork"], serde_json::Value::Null);
        assert_eq!(spec["automountServiceAccountToken"], false);
        assert_eq!(spec["activeDeadlineSeconds"], 3600);
        assert_eq!(spec["tolerations"], json!([{"operator": "Exists"}]));
        let container = &spec["containers"][0];
        assert_eq!(container["resources"]["limits"]["memory"], "512Mi");
        assert_eq!(container["command"], json!(["sniff", "agent", "--once"]));
        assert_eq!(job["metadata"]["annotations"]["sniff/who"], "jane@laptop $(reboot)");
        assert_eq!(job["metadata"]["labels"][MANAGED_BY_LABEL], "kubectl-sniff");
    }

    #[test]
    fn a_pod_has_memory_for_its_buffer() {
        let container = |buffer_bytes| {
            let job = serde_json::to_value(NewJob { buffer_bytes, ..new_job() }.job()).unwrap();
            job["spec"]["template"]["spec"]["containers"][0].clone()
        };
        for (buffer_bytes, limit) in [
            (512 << 10, "512Mi"),
            (384 << 20, "512Mi"),
            ((384 << 20) + 1, "513Mi"),
            (500 << 20, "628Mi"),
            (1 << 31, "2176Mi"),
        ] {
            let container = container(buffer_bytes);
            assert_eq!(container["resources"]["limits"]["memory"], limit);
            let most = json!({"name": "SNIFF_MAX_MEMORY", "value": buffer_bytes.to_string()});
            assert!(container["env"].as_array().unwrap().contains(&most), "{container}");
        }
    }

    #[test]
    fn a_pod_has_the_resources_that_a_quota_asks_for() {
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let resources = Resources {
            requests: vec![pair("cpu", "1m"), pair("ephemeral-storage", "1Mi")],
            limits: vec![pair("cpu", "1"), pair("memory", "1Gi")],
        };
        let job = serde_json::to_value(NewJob { resources, ..new_job() }.job()).unwrap();
        let resources = &job["spec"]["template"]["spec"]["containers"][0]["resources"];
        assert_eq!(
            *resources,
            json!({"requests": {"cpu": "1m", "ephemeral-storage": "1Mi", "memory": "16Mi"},
                "limits": {"cpu": "1", "memory": "1Gi"}})
        );
    }
}
