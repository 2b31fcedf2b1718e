//! Pods that somebody waits for, as the node's runtimes tell of them: before the API does, and before they run.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use anyhow::{Context as _, Result, bail};
use log::{debug, info};
use tokio::{sync::mpsc, time::sleep};

use super::{
    runtime::{Arrival, Cri, Runtimes},
    selector::Selector,
};

/// Until a runtime that was lost is asked again.
const PAUSE: Duration = Duration::from_secs(1);
/// Pods that are older were not missed by being early.
const IS_NEW: Duration = Duration::from_secs(60);
/// No runtime says when it has begun to tell. By then it has.
const TELLS: Duration = Duration::from_secs(1);
/// Arrivals that wait to be looked at; a runtime that tells of more has to wait.
const QUEUED: usize = 64;

/// Pods that are waited for.
#[derive(Clone, Debug)]
pub struct Awaited {
    /// Their namespace; `None` for any.
    pub namespace: Option<String>,
    pub by: AwaitedBy,
    /// Which of their interfaces; all that are up but `lo` when empty.
    pub interfaces: Vec<String>,
    /// The filter that they have of their own.
    pub filter: Option<String>,
}

/// How pods that are waited for are told apart.
#[derive(Clone, Debug)]
pub enum AwaitedBy {
    /// The pod of this name.
    Name(String),
    /// Those with such labels.
    Labels(Selector),
}

impl Awaited {
    /// Whether the pod of this name, and with these labels, is one of them.
    pub fn is_meant(&self, namespace: &str, name: &str, labels: &BTreeMap<String, String>) -> bool {
        let is_here = self.namespace.as_ref().is_none_or(|it| it == namespace);
        is_here
            && match &self.by {
                AwaitedBy::Name(meant) => meant == name,
                AwaitedBy::Labels(selector) => selector.matches(labels),
            }
    }
}

/// The pods to come, of all runtimes.
pub struct Arrivals {
    awaited: Vec<Awaited>,
    arrivals: mpsc::Receiver<Arrival>,
}

impl Arrivals {
    /// Listens for pods of which one is awaited; not at all when none is. Where a runtime does not tell of any, that is
    /// said, and `instead` what becomes of them.
    pub fn listen(awaited: Vec<Awaited>, cri_socket: Option<PathBuf>, instead: &'static str) -> Self {
        let (sender, arrivals) = mpsc::channel(QUEUED);
        if !awaited.is_empty() {
            tokio::spawn(async move {
                match find(cri_socket.as_deref()).await {
                    Ok(runtimes) => runtimes.into_iter().for_each(|cri| {
                        tokio::spawn(pass_on(cri, sender.clone(), instead));
                    }),
                    Err(error) => say_that_none_come(instead, &error),
                }
            });
        }
        Self { awaited, arrivals }
    }

    /// The next pod that is awaited, and by what; `None` when nobody tells any more.
    pub async fn next(&mut self) -> Option<(Arrival, Awaited)> {
        loop {
            let arrival = self.arrivals.recv().await?;
            if let Some(awaited) = self
                .awaited
                .iter()
                .find(|awaited| awaited.is_meant(&arrival.namespace, &arrival.name, &arrival.labels))
            {
                return Some((arrival, awaited.clone()));
            }
        }
    }
}

async fn find(cri_socket: Option<&Path>) -> Result<Vec<Cri>> {
    let socket =
        cri_socket.map(|path| path.to_str().context("the CRI socket's path is not UTF-8")).transpose()?;
    let Runtimes { answering, failures } = Runtimes::find(socket).await?;
    match (answering.is_empty(), failures.is_empty()) {
        (false, _) => Ok(answering),
        (true, true) => bail!("no container runtime has its socket at a usual place"),
        (true, false) => bail!("{}", failures.join("; ")),
    }
}

/// Passes on what one runtime tells, until nobody hears it.
async fn pass_on(cri: Cri, to: mpsc::Sender<Arrival>, instead: &'static str) {
    let mut has_told = false;
    loop {
        let told = tokio::select! {
            told = hear(&cri, &to, &mut has_told) => told,
            () = to.closed() => return,
        };
        match told {
            Err(error) if !has_told => return say_that_none_come(instead, &error),
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

/// Passes on the pods that have come too early to be told of: before anybody listened, and before the runtime began
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

fn say_that_none_come(instead: &str, error: &anyhow::Error) {
    info!("the runtime does not tell of pods to come, {instead}: {error:#}");
}
