//! Events that tell of a capture where its pod is described. They are a courtesy, which the capture does not wait for; the
//! audit is what counts.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use log::warn;
use sniff_kubernetes::{Cluster, events::PodEvent};
use tokio::sync::mpsc::{self, Sender};

use super::{audit::PodId, wire::Kind};

/// Events of a session that wait to be written; more at once are left out.
const QUEUED: usize = 1024;

/// What events say happened.
const BEGUN: &str = "PacketCapture";
const ENDED: &str = "PacketCaptureEnded";
const RECORDED: &str = "PacketRecording";
const RECORDED_NO_MORE: &str = "PacketRecordingEnded";
const NOT_RECORDED: &str = "PacketRecordingFailed";
const HANDED_OUT: &str = "PacketRecordingRead";
pub(super) const SAVED: &str = "PacketRecordingSaved";

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
    /// A session begins with a pod, for whom.
    pub(super) fn begun(&self, kind: Kind, pod: &PodId, for_whom: &str) {
        let node = &self.node;
        let (reason, message) = match kind {
            Kind::Capture => {
                (BEGUN, format!("Packets of this pod are captured by sniff on node {node}, {for_whom}"))
            }
            Kind::Recorder => (
                RECORDED,
                format!(
                    "Packets of this pod are recorded in memory by sniff on node {node} from now on, and none from before \
                     are held; {for_whom}"
                ),
            ),
            Kind::Past => (
                HANDED_OUT,
                format!("Recorded packets of this pod are handed out by sniff on node {node}, {for_whom}"),
            ),
        };
        self.send(pod, reason, message, false);
    }

    /// It has ended with it.
    pub(super) fn ended(&self, kind: Kind, pod: &PodId, for_whom: &str) {
        let node = &self.node;
        let (reason, message) = match kind {
            Kind::Capture => {
                (ENDED, format!("Packets of this pod are not captured any more on node {node}, {for_whom}"))
            }
            Kind::Recorder => (
                RECORDED_NO_MORE,
                format!(
                    "Packets of this pod are not recorded any more on node {node}, and those that were are gone"
                ),
            ),
            Kind::Past => return,
        };
        self.send(pod, reason, message, false);
    }

    /// A pod that is to be recorded is not.
    pub(super) fn not_recorded(&self, pod: &PodId, why: &str) {
        let message = format!("Packets of this pod are not recorded by sniff on node {}: {why}", self.node);
        self.send(pod, NOT_RECORDED, message, true);
    }

    /// What was recorded of a pod is saved in a file.
    pub(super) fn saved(&self, pod: &PodId, file: &str, why: &str) {
        let message = format!(
            "Recorded packets of this pod are saved on node {} ({why}): kubectl sniff recordings get {file}",
            self.node
        );
        self.send(pod, SAVED, message, false);
    }

    fn send(&self, pod: &PodId, reason: &'static str, message: String, is_warning: bool) {
        let Some(events) = &self.events else { return };
        let PodId { namespace, name, uid } = pod.clone();
        let node = self.node.to_string();
        if events.try_send(PodEvent { namespace, pod: name, uid, reason, message, node, is_warning }).is_err()
        {
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
