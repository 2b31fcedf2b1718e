//! The controller of Jobs, as far as sniff's go: there is one pod, which is not made again.

use std::{
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use k8s_openapi::api::batch::v1::Job;
use serde_json::{Value, json};

use crate::{
    http::Refusal,
    kubelet::{TICK, running},
    objects::{Key, controlled_by, name_suffix, new_uid},
    shared::Shared,
};

#[derive(Debug, Default)]
pub(crate) struct Jobs {
    /// How long a second of a Job's deadline lasts.
    pub(crate) second: Option<Duration>,
    /// Whether each Job is joined by a pod that has all the labels of its own, and runs.
    pub(crate) have_impostors: bool,
}

impl Shared {
    pub(crate) fn create_job(self: &Arc<Self>, namespace: &str, mut job: Value) -> Result<Value, Refusal> {
        let typed: Job =
            serde_json::from_value(job.clone()).map_err(|error| Refusal::bad_request(error.to_string()))?;
        let spec = typed.spec.expect("a spec");
        assert_eq!((spec.backoff_limit, spec.ttl_seconds_after_finished), (Some(0), Some(0)));
        let name = format!("{}{}", typed.metadata.generate_name.unwrap_or_default(), name_suffix());
        let uid = json!(new_uid());
        job["metadata"]["name"] = json!(name);
        job["metadata"]["namespace"] = json!(namespace);
        job["metadata"]["uid"] = uid.clone();
        let key = Key::new("jobs", namespace, &name);
        let job = self.update(|state| state.objects.put(&key, job));
        let mut pod = job["spec"]["template"].clone();
        pod["metadata"]["labels"]["job-name"] = json!(name);
        if self.lock().jobs.have_impostors {
            self.add_impostor(namespace, &name, pod.clone());
        }
        pod["metadata"]["generateName"] = json!(format!("{name}-"));
        pod["metadata"]["ownerReferences"] = controlled_by("Job", &name, &uid);
        let shared = Arc::clone(self);
        thread::spawn(move || shared.end_job_in_time(&key));
        if let Err(refusal) = self.create_pod(namespace, pod) {
            let event = json!({"metadata": {"name": format!("{name}.1"), "namespace": namespace},
                "involvedObject": {"kind": "Job", "name": name}, "reason": "FailedCreate",
                "message": format!("Error creating: {}", refusal.message)});
            let key = Key::new("events", namespace, &format!("{name}.1"));
            self.update(|state| state.objects.put(&key, event));
        }
        Ok(job)
    }

    fn add_impostor(&self, namespace: &str, job: &str, mut pod: Value) {
        pod["metadata"]["name"] = json!("a-pod-like-it");
        pod["metadata"]["ownerReferences"] = controlled_by("Job", job, &json!(new_uid()));
        pod["status"] = running();
        self.update(|state| state.objects.put(&Key::new("pods", namespace, "a-pod-like-it"), pod));
    }

    /// Ends a Job when it has lasted as long as it may.
    fn end_job_in_time(&self, key: &Key) {
        let began = Instant::now();
        loop {
            {
                let state = self.lock();
                let Some(job) = state.objects.get(key).filter(|_| !state.has_ended) else { return };
                let second = state.jobs.second.unwrap_or(Duration::from_secs(1));
                let limit = job["spec"]["activeDeadlineSeconds"].as_u64().map(|it| second * it as u32);
                if limit.is_some_and(|limit| began.elapsed() >= limit) {
                    break;
                }
            }
            thread::sleep(TICK);
        }
        self.delete_job(key);
    }

    /// Deletes a Job, and as the garbage collector its pod.
    pub(crate) fn delete_job(&self, key: &Key) -> Option<Value> {
        let (job, pods) = self.update(|state| {
            let job = state.objects.get(key)?.clone();
            state.objects.remove(key);
            let is_its = |pod: &Value| pod["metadata"]["ownerReferences"][0]["uid"] == job["metadata"]["uid"];
            let pods = state.objects.of("pods", &key.namespace).filter(|(_, pod)| is_its(pod));
            let pods: Vec<Key> = pods.map(|(key, _)| key.clone()).collect();
            Some((job, pods))
        })?;
        for pod in pods {
            self.delete_pod(&pod);
        }
        Some(job)
    }
}
