//! Pods that a runtime tells of.

use std::{collections::BTreeMap, path::PathBuf, time::SystemTime};

use super::{POD_NAME, POD_NAMESPACE, POD_UID};

/// The label by which containerd's CRI tells sandboxes from containers, and its value for sandboxes.
const KIND: (&str, &str) = ("io.cri-containerd.kind", "sandbox");

/// A pod whose sandbox is being made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Arrival {
    pub namespace: String,
    pub name: String,
    pub uid: String,
    /// Its labels, with others that the runtime and the kubelet add.
    pub labels: BTreeMap<String, String>,
    /// Its network namespace; `None` where that is told later than this.
    pub netns: Option<PathBuf>,
    /// When the runtime told of it, or has made it.
    pub at: SystemTime,
    /// Whether it was there before it was told of.
    pub was_there: bool,
}

/// A pod by what the kubelet writes onto its sandbox.
pub(super) fn arrival(
    labels: BTreeMap<String, String>,
    netns: Option<PathBuf>,
    at: SystemTime,
    was_there: bool,
) -> Option<Arrival> {
    let label = |key| labels.get(key).cloned();
    let (namespace, name, uid) = (label(POD_NAMESPACE)?, label(POD_NAME)?, label(POD_UID)?);
    Some(Arrival { namespace, name, uid, labels, netns, at, was_there })
}

/// Whether containerd's labels are those of a sandbox.
pub(super) fn is_sandbox(labels: &BTreeMap<String, String>) -> bool {
    labels.get(KIND.0).is_some_and(|kind| kind == KIND.1)
}
