//! The pods of a selection from here on.
//!
//! One selection is one watch, narrowed by the server to what matters.

use std::{collections::HashMap, pin::pin};

use futures_util::StreamExt as _;
use kube::runtime::watcher;
use tokio::{sync::mpsc, task::AbortHandle, time::sleep};

use super::{Pod, Selection};
use crate::{
    Cluster, Forbidden,
    refusal::explain_watch,
    watching::{Heard, Pauses, hear},
};

/// What happens to the pods of a selection.
#[derive(Debug)]
pub enum Change {
    /// These are all of them: at first, after [`Change::Trouble`], and after the server has lost track.
    All(Vec<Pod>),
    /// One is new, or is not as it was.
    Applied(Pod),
    /// One is gone.
    Gone(Pod),
    /// The server does not answer, or refuses; tries go on.
    Trouble(anyhow::Error),
    /// The server does not let this user watch: this is all there will be.
    NotAllowed(Forbidden),
}

/// A watch that goes on until this is dropped.
pub struct Follow(AbortHandle);

impl Drop for Follow {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Follows a selection: [`Change::All`] comes first, then what changes, until the answer is dropped.
pub fn follow(cluster: Cluster, selection: Selection, changes: mpsc::Sender<Change>) -> Follow {
    Follow(tokio::spawn(watch(cluster, selection, changes)).abort_handle())
}

async fn watch(cluster: Cluster, selection: Selection, changes: mpsc::Sender<Change>) {
    for pause in Pauses::default() {
        let Err(error) = watch_once(&cluster, &selection, &changes).await else { return };
        let error = explain_watch(cluster.server(), |verb| selection.request(verb), error);
        let (change, is_over) = match error.downcast::<Forbidden>() {
            // Whoever is told this has taken over.
            Ok(forbidden) => (Change::NotAllowed(forbidden), true),
            Err(error) => (Change::Trouble(error), false),
        };
        if changes.send(change).await.is_err() || is_over {
            return;
        }
        sleep(pause).await;
    }
}

/// Lists and watches until something goes wrong, or nobody hears it any more.
async fn watch_once(
    cluster: &Cluster,
    selection: &Selection,
    changes: &mpsc::Sender<Change>,
) -> Result<(), watcher::Error> {
    let (labels, fields) = selection.selectors();
    let config =
        watcher::Config { label_selector: labels, field_selector: fields, ..watcher::Config::default() };
    let mut events = pin!(hear(cluster.api(selection), config, Pod::from));
    let mut known = HashMap::new();
    while let Some(heard) = events.next().await {
        let change = match heard? {
            Heard::All(pods) => {
                known = pods.iter().map(|pod| (pod.uid.clone(), pod.clone())).collect();
                Change::All(pods)
            }
            Heard::Applied(pod) => {
                // Kubelets report every few seconds; most of that changes nothing here.
                if known.insert(pod.uid.clone(), pod.clone()).as_ref() == Some(&pod) {
                    continue;
                }
                Change::Applied(pod)
            }
            Heard::Gone(pod) => {
                known.remove(&pod.uid);
                Change::Gone(pod)
            }
        };
        if changes.send(change).await.is_err() {
            break;
        }
    }
    Ok(())
}
