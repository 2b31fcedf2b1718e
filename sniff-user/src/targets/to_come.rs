//! Pods that come while others are captured: those that are created again under their names, and those with labels that
//! were asked for.

use std::sync::Arc;

use anyhow::Result;
use log::{debug, warn};
use sniff_kubernetes::consent::LABEL;
use tokio::sync::mpsc;

use super::{
    Arrivals, Awaited, AwaitedBy, FilteredTarget, Options, PodRef, Scope, Target, facts, runtime::Arrival,
    scopes,
};
use crate::system::System;

/// Pods that wait to be captured; the runtime has to wait with more.
const QUEUED: usize = 64;
/// What becomes of those that no runtime tells of.
const NOT_CAPTURED: &str = "and none is captured that comes later or is created again";

/// What a capture hears of pods that come.
#[derive(Debug)]
pub struct PodsToCome {
    awaited: Vec<Awaited>,
    scopes: mpsc::Receiver<Scope>,
}

/// Those of the targets that pods may come to.
pub fn awaited(targets: &[FilteredTarget], options: &Options) -> Vec<Awaited> {
    let awaited = |FilteredTarget { target, filter }: &FilteredTarget| {
        let (namespace, by) = match target {
            Target::Pod { namespace, name } => (Some(namespace.clone()), AwaitedBy::Name(name.clone())),
            Target::Pods { namespace, selector } => (namespace.clone(), AwaitedBy::Labels(selector.clone())),
            // Others have a name of their own in each life, or none.
            _ => return None,
        };
        Some(Awaited { namespace, by, interfaces: options.interfaces.clone(), filter: filter.clone() })
    };
    targets.iter().filter_map(awaited).collect()
}

impl PodsToCome {
    /// Listens for pods that are `awaited`, but for those that are `there`.
    pub fn listen(awaited: Vec<Awaited>, there: &[Scope], options: &Options) -> Self {
        let arrivals = Arrivals::listen(awaited.clone(), options.cri_socket.clone(), NOT_CAPTURED);
        let (sender, scopes) = mpsc::channel(QUEUED);
        tokio::spawn(pass_on(arrivals, there.to_vec(), options.clone(), sender));
        Self { awaited, scopes }
    }

    /// Where the interfaces of the next pod will be; `None` when none can come any more.
    pub async fn next(&mut self) -> Option<Scope> {
        self.scopes.recv().await
    }

    /// Whether this pod is waited for by its name, once it is gone.
    pub fn follows(&self, pod: &PodRef) -> bool {
        let is_it = |Awaited { namespace, by, .. }: &Awaited| {
            let is_here = namespace.as_ref() == Some(&pod.namespace);
            is_here && matches!(by, AwaitedBy::Name(name) if *name == pod.name)
        };
        self.awaited.iter().any(is_it)
    }

    /// Which pods are waited for that nobody has named, for a log.
    pub fn kinds(&self) -> impl Iterator<Item = String> {
        self.awaited.iter().filter_map(|Awaited { namespace, by, .. }| match by {
            AwaitedBy::Name(_) => None,
            AwaitedBy::Labels(selector) => {
                Some(format!("pods with {selector} in {}", namespace.as_deref().unwrap_or("all namespaces")))
            }
        })
    }
}

/// Passes on where the pods are that have come, each once, until nobody hears it.
async fn pass_on(mut arrivals: Arrivals, mut known: Vec<Scope>, options: Options, to: mpsc::Sender<Scope>) {
    loop {
        let next = tokio::select! {
            next = arrivals.next() => next,
            () = to.closed() => return,
        };
        let Some((arrival, awaited)) = next else { return };
        let (pod, was_there) = (format!("{}/{}", arrival.namespace, arrival.name), arrival.was_there);
        let scope = match scope_of(arrival, awaited, &options).await {
            Ok(Some(scope)) => scope,
            Ok(None) => {
                warn!(
                    "{pod} has come, and is not captured: it uses the node's network, whose interfaces -i captures"
                );
                continue;
            }
            // It may have gone since it was listed.
            Err(error) if was_there => {
                debug!("{pod}: {error:#}");
                continue;
            }
            Err(error) => {
                warn!("{pod} has come, and is not captured: {error:#}");
                continue;
            }
        };
        // The kernel gives the number of a namespace that is gone to another.
        known.retain(Scope::is_there);
        if known.iter().any(|it| it.is_of_the_same_pod(&scope)) {
            continue;
        }
        known.push(scope.clone());
        if to.send(scope).await.is_err() {
            return;
        }
    }
}

/// `None` for a pod on the node's network.
async fn scope_of(arrival: Arrival, awaited: Awaited, options: &Options) -> Result<Option<Scope>> {
    let Arrival { namespace, name, uid, labels, netns, at, .. } = arrival;
    let Awaited { interfaces, filter, .. } = awaited;
    match netns {
        Some(netns) => {
            let node = System::this(options.node_name.as_deref())?.node;
            let facts = Arc::new(facts::of_new(&name, &labels, &node));
            let pod = PodRef { namespace, name, uid, facts, capture_label: labels.get(LABEL).cloned() };
            let scope = Scope::of_new_pod(pod, &netns, interfaces, at)?;
            Ok(scope.map(|scope| Scope { filter, ..scope }))
        }
        None => {
            let wanted = FilteredTarget { target: Target::Pod { namespace, name }, filter };
            let options = Options { interfaces, ..options.clone() };
            Ok(scopes(&[wanted], &options).await?.pop())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(name: &str) -> PodRef {
        let [namespace, name, uid] = ["shop", name, "u"].map(str::to_owned);
        PodRef { namespace, name, uid, facts: Arc::default(), capture_label: None }
    }

    #[tokio::test]
    async fn none_comes_where_no_runtime_tells_of_any() {
        let selector = "app=web".parse().unwrap();
        let targets = [
            Target::pod("shop/web-0").unwrap(),
            Target::Pods { namespace: Some("shop".into()), selector },
            Target::Pid(1),
        ];
        let options = Options { cri_socket: Some("/no/such.sock".into()), ..Options::default() };
        let awaited = awaited(&targets.map(FilteredTarget::from), &options);
        assert_eq!(awaited.len(), 2, "{awaited:?}");
        let mut to_come = PodsToCome::listen(awaited, &[], &options);
        assert!(to_come.follows(&pod("web-0")) && !to_come.follows(&pod("web-1")));
        assert_eq!(to_come.kinds().collect::<Vec<_>>(), ["pods with app=web in shop"]);
        assert!(to_come.next().await.is_none());
    }
}
