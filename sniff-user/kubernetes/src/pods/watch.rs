//! The pods of a selection from here on.
//!
//! One selection is one watch, narrowed by the server to what matters: kube's watcher lists once, goes on from there,
//! resumes where it has ended, and lists again when the server has forgotten that place (410 Gone). After an outage
//! another one takes its place, whose list tells that the outage is over; pauses between tries are longer each time, and
//! never are two clients in step.

use std::{collections::HashMap, time::Duration};

use futures_util::StreamExt as _;
use kube::runtime::watcher::{self, Event, watcher};
use tokio::{sync::mpsc, task::AbortHandle, time::sleep};

use super::{Pod, Selection};
use crate::{Backoff, Cluster, Forbidden, refusal::explain_watch};

/// The longest pause between two tries of a watch.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// The code of an answer from a server that has forgotten where a watch was.
pub(crate) const EXPIRED: u16 = 410;

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

/// Pauses between the tries of a watch: never so long that pods which start after an outage are missed.
#[derive(Default)]
pub(crate) struct Pauses(Backoff);

impl Iterator for Pauses {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        let pause = self.0.next()?;
        // Still no two clients in step.
        Some(if pause <= LONGEST_PAUSE {
            pause
        } else {
            LONGEST_PAUSE.mul_f32(fastrand::f32().midpoint(1.0))
        })
    }
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
    let mut events = watcher(cluster.api(selection), config).boxed();
    let (mut listed, mut known) = (Vec::new(), HashMap::new());
    while let Some(event) = events.next().await {
        let change = match event {
            Ok(Event::Init) => {
                listed.clear();
                continue;
            }
            Ok(Event::InitApply(pod)) => {
                listed.push(Pod::from(pod));
                continue;
            }
            Ok(Event::InitDone) => {
                known = listed.iter().map(|pod| (pod.uid.clone(), pod.clone())).collect();
                Change::All(std::mem::take(&mut listed))
            }
            Ok(Event::Apply(pod)) => {
                let pod = Pod::from(pod);
                // Kubelets report every few seconds; most of that changes nothing here.
                if known.insert(pod.uid.clone(), pod.clone()).as_ref() == Some(&pod) {
                    continue;
                }
                Change::Applied(pod)
            }
            Ok(Event::Delete(pod)) => {
                let pod = Pod::from(pod);
                known.remove(&pod.uid);
                Change::Gone(pod)
            }
            // It lists again by itself.
            Err(watcher::Error::WatchError(status)) if status.code == EXPIRED => continue,
            Err(error) => return Err(error),
        };
        if changes.send(change).await.is_err() {
            break;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_watch_is_never_long_without_a_try() {
        let pauses: Vec<Duration> = Pauses::default().take(50).collect();
        assert_eq!(pauses.len(), 50, "it gives up");
        assert!(pauses.iter().all(|pause| *pause <= LONGEST_PAUSE), "{pauses:?}");
        assert!(pauses[10..].iter().all(|pause| *pause >= LONGEST_PAUSE / 2), "{pauses:?}");
    }
}
