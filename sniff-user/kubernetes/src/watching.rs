//! A watch of objects, as whoever listens reads them: kube's watcher lists once, goes on from there, resumes where it has
//! ended, and lists again when the server has forgotten that place (410 Gone). After an outage another one takes its place,
//! whose list tells that the outage is over.

use std::{fmt::Debug, future, mem, time::Duration};

use futures_util::{Stream, StreamExt as _};
use kube::{
    Api, Resource,
    runtime::watcher::{self, Event, watcher},
};
use serde::de::DeserializeOwned;

use crate::Backoff;

/// The longest pause between two tries of a watch.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// The code of an answer from a server that has forgotten where a watch was.
pub(crate) const EXPIRED: u16 = 410;

/// What is heard of objects.
#[derive(Debug)]
pub(crate) enum Heard<T> {
    /// These are all of them: at first, and after the server has lost track.
    All(Vec<T>),
    /// One is new, or is not as it was.
    Applied(T),
    /// One is gone.
    Gone(T),
}

/// Lists and watches until something goes wrong, which comes last. Of each object is held only what `of` makes of it.
pub(crate) fn hear<K, T>(
    api: Api<K>,
    config: watcher::Config,
    of: impl Fn(K) -> T,
) -> impl Stream<Item = Result<Heard<T>, watcher::Error>>
where
    K: Resource + Clone + Debug + DeserializeOwned + Send + 'static,
{
    let mut listed = Vec::new();
    watcher(api, config).filter_map(move |event| {
        future::ready(match event {
            Ok(Event::Init) => {
                listed.clear();
                None
            }
            Ok(Event::InitApply(object)) => {
                listed.push(of(object));
                None
            }
            Ok(Event::InitDone) => Some(Ok(Heard::All(mem::take(&mut listed)))),
            Ok(Event::Apply(object)) => Some(Ok(Heard::Applied(of(object)))),
            Ok(Event::Delete(object)) => Some(Ok(Heard::Gone(of(object)))),
            // It lists again by itself.
            Err(watcher::Error::WatchError(status)) if status.code == EXPIRED => None,
            Err(error) => Some(Err(error)),
        })
    })
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
