//! Events that tell of a capture where its pod is described. They are a courtesy, which the capture does not wait for; the
//! audit is what counts.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use log::warn;
use sniff_kubernetes::{Cluster, events::PodEvent};
use tokio::sync::mpsc::{self, Sender};

use super::audit::PodId;

/// Events of a session that wait to be written; more at once are left out.
const QUEUED: usize = 1024;

/// What events say happened.
const BEGUN: &str = "PacketCapture";
const ENDED: &str = "PacketCaptureEnded";

/// Who writes events, if they are wanted.
#[derive(Clone)]
pub(super) struct Events {
    node: Arc<str>,
    is_wanted: bool,
    /// Whether it was said that some cannot be written.
    is_told: Arc<AtomicBool>,
}

/// Those of one session, which end with this, once all are written.
pub(super) struct SessionEvents {
    node: Arc<str>,
    events: Option<Sender<PodEvent>>,
    is_told: Arc<AtomicBool>,
}

impl Events {
    /// For the pods of a node.
    pub(super) fn new(node: Arc<str>, is_wanted: bool) -> Self {
        Self { node, is_wanted, is_told: Arc::default() }
    }

    /// Those of a session that begins.
    pub(super) fn of_session(&self) -> SessionEvents {
        let events = self.is_wanted.then(|| {
            let (sender, mut receiver) = mpsc::channel(QUEUED);
            let is_told = Arc::clone(&self.is_told);
            tokio::spawn(async move {
                let mut cluster = None;
                while let Some(event) = receiver.recv().await {
                    if let Err(error) = write(&mut cluster, event).await {
                        say_once(&is_told, &format!("{error:#}"));
                    }
                }
            });
            sender
        });
        SessionEvents { node: Arc::clone(&self.node), events, is_told: Arc::clone(&self.is_told) }
    }
}

impl SessionEvents {
    /// A pod is captured from now on, for whom.
    pub(super) fn begun(&self, pod: &PodId, for_whom: &str) {
        self.send(
            pod,
            BEGUN,
            format!("Packets of this pod are captured by sniff on node {}, {for_whom}", self.node),
        );
    }

    /// It is captured no more.
    pub(super) fn ended(&self, pod: &PodId, for_whom: &str) {
        let message =
            format!("Packets of this pod are not captured any more on node {}, {for_whom}", self.node);
        self.send(pod, ENDED, message);
    }

    fn send(&self, pod: &PodId, reason: &'static str, message: String) {
        let Some(events) = &self.events else { return };
        let PodId { namespace, name, uid } = pod.clone();
        let node = self.node.to_string();
        if events.try_send(PodEvent { namespace, pod: name, uid, reason, message, node }).is_err() {
            say_once(&self.is_told, "too many at once");
        }
    }
}

/// Writes to the cluster, which is looked for when there is something to write. Where there is none, nobody could read it.
async fn write(cluster: &mut Option<Option<Cluster>>, event: PodEvent) -> anyhow::Result<()> {
    if cluster.is_none() {
        *cluster = Some(Cluster::of_node().await?);
    }
    match cluster.as_ref().and_then(Option::as_ref) {
        Some(cluster) => cluster.write_event(event).await,
        None => Ok(()),
    }
}

fn say_once(is_told: &AtomicBool, why: &str) {
    if !is_told.swap(true, Ordering::Relaxed) {
        warn!("captured pods have no events that tell of it (SNIFF_EVENTS=off has none written): {why}");
    }
}
