//! Short-lived pods, where there is no DaemonSet: each the pod of a Job.
//!
//! Such a pod is made to go away whatever happens to its client. Its main process ends when its session does, or
//! when none comes, and its session when the client is not heard of. And it is made by a Job with
//! `ttlSecondsAfterFinished: 0`, which Kubernetes (1.23) removes together with its pod as soon as that has ended. Until
//! the pod runs, the Job itself has a minute, which its client extends while it waits. Whoever deletes the Job, deletes
//! the pod or drains the node ends the capture at once.
//!
//! A pod is taken for a Job's by its controller's UID alone: whoever may make a pod may give it any labels.

mod manifest;
mod start;

use std::time::Duration;

use anyhow::{Result, bail, ensure};
use k8s_openapi::api::batch::v1::Job;
use kube::{
    Api, ResourceExt as _,
    api::{DeleteParams, ListParams, PostParams, Preconditions},
};

use self::manifest::{MANAGED_BY_LABEL, MANAGER, SESSION, UNTIL, WHAT, WHO};
use crate::{
    Cluster, Request,
    own::{self, NAME_LABEL, NAMESPACE},
};

/// A Job with a short-lived pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SniffJob {
    /// Namespace of the Job and of its pod.
    pub namespace: String,
    /// Name of the Job; its pod's is another.
    pub name: String,
    /// The UID by which its pod is known.
    pub uid: String,
}

/// A Job to be made, for one capture on one node.
#[derive(Clone, Debug)]
pub struct NewJob {
    /// The node to capture on; no scheduler is asked.
    pub node: String,
    /// Namespace of the Job and of its pod.
    pub namespace: String,
    /// Whether the namespace may be one that is not sniff's own.
    pub exposes_node: bool,
    /// Whether the container is privileged, in place of the capabilities that sniff takes.
    pub is_privileged: bool,
    /// Reference of an image that has sniff on its `PATH`.
    pub image: String,
    /// `user@host`, for whoever finds the Job.
    pub who: String,
    /// The targets in words, likewise.
    pub what: String,
    /// What the pod asks for and may have, besides.
    pub resources: Resources,
    /// How long the pod may run.
    pub lifetime: Duration,
    /// Bytes of the capture's buffer, which the pod's memory has to hold.
    pub buffer_bytes: u32,
}

/// Resources by their names in Kubernetes, with their quantities; they take the place of what sniff asks for by itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resources {
    /// Such as `("cpu", "10m")`: what the node must have left.
    pub requests: Vec<(String, String)>,
    /// Such as `("memory", "600Mi")`: where the node draws the line.
    pub limits: Vec<(String, String)>,
}

/// A Job that is there, whoever made it. What its annotations do not tell is `unknown`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leftover {
    /// The Job itself.
    pub job: SniffJob,
    /// The node that it captures on.
    pub node: String,
    /// [`NewJob::who`] of the one that made it.
    pub who: String,
    /// [`NewJob::what`] likewise.
    pub what: String,
    /// When its lifetime ends, in UTC (RFC 3339).
    pub until: String,
}

impl Cluster {
    /// Makes sure that a short-lived pod does not hand its node to people who have nothing to do with sniff.
    ///
    /// # Errors
    ///
    /// When its namespace is not sniff's own, as far as can be told, and nobody has accepted that.
    pub async fn check_namespace(&self, NewJob { node, namespace, exposes_node, .. }: &NewJob) -> Result<()> {
        ensure!(
            *exposes_node || self.is_namespace_of_sniff(namespace).await?,
            "namespace {namespace} is not known to be sniff's own: whoever may exec into pods there, as all with the role \
             edit may, would rule node {node} meanwhile; use the namespace {NAMESPACE}, or one with the label \
             {NAME_LABEL}={NAMESPACE}, or accept that with --expose-nodes"
        );
        Ok(())
    }

    /// Has a short-lived pod made.
    ///
    /// # Errors
    ///
    /// When the server refuses.
    pub async fn create_job(&self, new: &NewJob) -> Result<SniffJob> {
        let namespace = &new.namespace;
        let request =
            Request { verb: "create", resource: "jobs.batch", namespace: Some(namespace), name: None };
        let api = Api::<Job>::namespaced(self.client.clone(), namespace);
        self.check_namespace(new).await?;
        match self.ask(request, api.create(&PostParams::default(), &new.job())).await? {
            Some(job) => Ok(SniffJob::from(&job)),
            None => bail!(own::no_namespace(namespace)),
        }
    }

    /// Deletes a Job and its pod; one that is gone already is fine.
    ///
    /// # Errors
    ///
    /// When the server refuses, or does not answer.
    pub async fn delete_job(&self, job: &SniffJob) -> Result<()> {
        let SniffJob { namespace, name, uid } = job;
        let request =
            Request { verb: "delete", resource: "jobs.batch", namespace: Some(namespace), name: Some(name) };
        let api = Api::<Job>::namespaced(self.client.clone(), namespace);
        let this = Preconditions { uid: Some(uid.clone()), resource_version: None };
        self.ask(request, api.delete(name, &DeleteParams::background().preconditions(this))).await?;
        Ok(())
    }

    /// The Jobs with short-lived pods that are there, of whoever; in one namespace or all.
    ///
    /// # Errors
    ///
    /// When the server refuses, or does not answer.
    pub async fn leftovers(&self, namespace: Option<&str>) -> Result<Vec<Leftover>> {
        let request = Request { verb: "list", resource: "jobs.batch", namespace, name: None };
        let ours =
            ListParams::default().labels(&format!("{NAME_LABEL}={SESSION},{MANAGED_BY_LABEL}={MANAGER}"));
        let api = match namespace {
            Some(namespace) => Api::<Job>::namespaced(self.client.clone(), namespace),
            None => Api::all(self.client.clone()),
        };
        let jobs = self.ask(request, api.list(&ours)).await?;
        Ok(jobs.into_iter().flatten().map(Leftover::from).collect())
    }
}

impl From<Job> for Leftover {
    fn from(job: Job) -> Self {
        let annotation = |key: &str| job.annotations().get(key).cloned().unwrap_or_else(|| "unknown".into());
        let (who, what, until) = (annotation(WHO), annotation(WHAT), annotation(UNTIL));
        let ours = SniffJob::from(&job);
        let node = job.spec.and_then(|spec| spec.template.spec?.node_name).unwrap_or_default();
        Self { job: ours, node, who, what, until }
    }
}

impl From<&Job> for SniffJob {
    fn from(job: &Job) -> Self {
        let (namespace, name) = (job.namespace().unwrap_or_default(), job.name_any());
        Self { namespace, name, uid: job.uid().unwrap_or_default() }
    }
}

#[cfg(test)]
mod tests {
    use super::{manifest::tests::new_job, *};

    #[test]
    fn a_leftover_tells_whose_it_is() {
        let leftover = Leftover::from(new_job().job());
        assert_eq!((leftover.who.as_str(), leftover.what.as_str()), ("jane@laptop $(reboot)", "shop/web-0"));
        assert!(leftover.until.starts_with("20"), "{leftover:?}");
    }
}
