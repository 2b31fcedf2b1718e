//! Events of pods, which `kubectl describe pod` shows: written, and [heard](Cluster::follow_events) of others.

mod follow;

use anyhow::Result;
use k8s_openapi::{
    api::core::v1::{self, EventSource, ObjectReference},
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time},
    jiff::Timestamp,
};
use kube::{Api, api::PostParams};

pub use self::follow::News;
use crate::{Cluster, Request};

/// Most bytes of a message, as the API server has it.
const MAX_MESSAGE: usize = 1024;
/// Most bytes of the pod's name in an event's own, which may have 253 with the time behind it.
const MAX_NAME: usize = 230;

/// Something that happened to a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodEvent {
    /// The pod's namespace, which the event is in, too.
    pub namespace: String,
    /// Its name.
    pub pod: String,
    /// Its UID, by which events are told from those of earlier pods of its name.
    pub uid: String,
    /// What happened, as one word: `PacketCapture`.
    pub reason: &'static str,
    /// The same for people; cut to 1 KiB.
    pub message: String,
    /// The node that tells.
    pub node: String,
    /// Whether it is something to look after.
    pub is_warning: bool,
}

impl Cluster {
    /// Writes an event.
    ///
    /// # Errors
    ///
    /// When the server refuses, or does not answer.
    pub async fn write_event(&self, event: PodEvent) -> Result<()> {
        let PodEvent { namespace, pod, uid, reason, mut message, node, is_warning } = event;
        let now = Timestamp::now();
        let name = &pod[..pod.floor_char_boundary(MAX_NAME)];
        message.truncate(message.floor_char_boundary(MAX_MESSAGE));
        let metadata = ObjectMeta {
            name: Some(format!("{name}.{:x}", now.as_nanosecond())),
            namespace: Some(namespace.clone()),
            ..ObjectMeta::default()
        };
        let involved_object = ObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("Pod".to_owned()),
            namespace: Some(namespace.clone()),
            name: Some(pod),
            uid: Some(uid),
            ..ObjectReference::default()
        };
        let event = v1::Event {
            metadata,
            involved_object,
            type_: Some(if is_warning { "Warning" } else { "Normal" }.to_owned()),
            reason: Some(reason.to_owned()),
            message: Some(message),
            source: Some(EventSource { component: Some("sniff".to_owned()), host: Some(node) }),
            first_timestamp: Some(Time(now)),
            last_timestamp: Some(Time(now)),
            count: Some(1),
            ..v1::Event::default()
        };
        let request = Request { verb: "create", resource: "events", namespace: Some(&namespace), name: None };
        let api = Api::<v1::Event>::namespaced(self.client.clone(), &namespace);
        self.ask(request, api.create(&PostParams::default(), &event)).await?;
        Ok(())
    }
}
