//! Pods that a client waits for, as the node's runtimes tell of them: before the API does, and before they run.

use std::{
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use anyhow::{Context as _, Result};
use log::{debug, info};
use sniff_protocol::message::{Awaited, AwaitedBy};
use tokio::{sync::mpsc, time::sleep};

use crate::{
    serve::selector::Selector,
    targets::runtime::{Arrival, Cri, Runtimes},
};

/// Until a runtime that was lost is asked again.
const PAUSE: Duration = Duration::from_secs(1);
/// Pods that are older were not missed by being early.
const IS_NEW: Duration = Duration::from_secs(60);
/// No runtime says when it has begun to tell. By then it has.
const TELLS: Duration = Duration::from_secs(1);
/// Arrivals that wait to be looked at; a runtime that tells of more has to wait.
const QUEUED: usize = 64;

/// The pods to come, of all runtimes.
pub(super) struct Arrivals {
    awaited: Vec<(Awaited, Option<Selector>)>,
    arrivals: mpsc::Receiver<Arrival>,
}

impl Arrivals {
    /// Listens for pods of which one is awaited; not at all when none is.
    pub(super) fn listen(awaited: Vec<Awaited>, cri_socket: Option<PathBuf>) -> Self {
        let (sender, arrivals) = mpsc::channel(QUEUED);
        let with_selector = |awaited: Awaited| {
            let selector = match &awaited.by {
                AwaitedBy::Name { .. } => None,
                AwaitedBy::Labels { selector } => Some(selector.parse().ok()?),
            };
            Some((awaited, selector))
        };
        let awaited: Vec<_> = awaited.into_iter().filter_map(with_selector).collect();
        if !awaited.is_empty() {
            tokio::spawn(async move {
                match find(cri_socket.as_deref()).await {
                    Ok(runtimes) => runtimes.into_iter().for_each(|cri| {
                        tokio::spawn(pass_on(cri, sender.clone()));
                    }),
                    Err(error) => say_that_none_come(&error),
                }
            });
        }
        Self { awaited, arrivals }
    }

    /// The next pod that is awaited, and by what; never, when nobody tells.
    pub(super) async fn next(&mut self) -> (Arrival, Awaited) {
        while let Some(arrival) = self.arrivals.recv().await {
            let is_meant = |(awaited, selector): &&(Awaited, Option<Selector>)| {
                let is_here = awaited.namespace.as_ref().is_none_or(|it| *it == arrival.namespace);
                let is_it = match (&awaited.by, selector) {
                    (AwaitedBy::Name { name }, _) => *name == arrival.name,
                    (AwaitedBy::Labels { .. }, Some(selector)) => selector.matches(&arrival.labels),
                    (AwaitedBy::Labels { .. }, None) => false,
                };
                is_here && is_it
            };
            if let Some((awaited, _)) = self.awaited.iter().find(is_meant) {
                return (arrival, awaited.clone());
            }
        }
        std::future::pending().await
    }
}

async fn find(cri_socket: Option<&Path>) -> Result<Vec<Cri>> {
    let socket =
        cri_socket.map(|path| path.to_str().context("the CRI socket's path is not UTF-8")).transpose()?;
    Ok(Runtimes::find(socket).await?.answering)
}

/// Passes on what one runtime tells, until nobody hears it.
async fn pass_on(cri: Cri, to: mpsc::Sender<Arrival>) {
    let mut has_told = false;
    loop {
        let told = tokio::select! {
            told = hear(&cri, &to, &mut has_told) => told,
            () = to.closed() => return,
        };
        match told {
            Err(error) if !has_told => return say_that_none_come(&error),
            Err(error) => debug!("the runtime's events: {error:#}"),
            Ok(()) => {}
        }
        sleep(PAUSE).await;
    }
}

async fn hear(cri: &Cri, to: &mpsc::Sender<Arrival>, has_told: &mut bool) -> Result<()> {
    let told = async {
        let mut arrivals = cri.arrivals().await?;
        *has_told = true;
        while let Some(arrival) = arrivals.next().await? {
            if to.send(arrival).await.is_err() {
                break;
            }
        }
        Ok(())
    };
    tokio::join!(told, catch_up(cri, to)).0
}

/// Passes on the pods that have come too early to be told of: before there was a session, and before the runtime began
/// to tell.
async fn catch_up(cri: &Cri, to: &mpsc::Sender<Arrival>) {
    let since = SystemTime::now() - IS_NEW;
    for pause in [Duration::ZERO, TELLS] {
        sleep(pause).await;
        match cri.arrived_since(since).await {
            Ok(arrived) => {
                for arrival in arrived {
                    // Nobody hears it when all is over.
                    let _ = to.send(arrival).await;
                }
            }
            Err(error) => debug!("the runtime's sandboxes: {error:#}"),
        }
    }
}

fn say_that_none_come(error: &anyhow::Error) {
    info!("the runtime does not tell of pods to come, which are captured once the API names them: {error:#}");
}
