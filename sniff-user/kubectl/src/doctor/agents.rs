//! Which sniff runs in the DaemonSet's pods: each is asked, the way that a capture goes.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Result, bail};
use futures_util::{StreamExt as _, stream};
use sniff_kubernetes::{
    Cluster, Piece,
    daemonset::DaemonPod,
    own::{CONTAINER, SniffPod},
};
use sniff_protocol::{Broken, Build, Decoder, PROTOCOL, ToClient};
use tokio::time::timeout;

use super::Finding;
use crate::door::{self, Door, Wanted};

/// Until a pod has said who it is.
const PATIENCE: Duration = Duration::from_secs(10);
/// Pods asked at a time.
const AT_ONCE: usize = 16;

/// How to come to a pod that has a door; one without is come to by exec.
#[derive(Clone, Debug)]
pub(super) enum Way {
    /// By its door, with these rights.
    Door(Wanted),
    /// By exec all the same.
    Exec,
}

/// What the pods say that they run, the same answers together.
pub(super) async fn ask(cluster: &Cluster, namespace: &str, pods: &[DaemonPod], way: &Way) -> Vec<Finding> {
    let answers = stream::iter(pods).map(|pod| async move {
        let asked = timeout(PATIENCE, hello(cluster, namespace, pod, way));
        asked.await.unwrap_or_else(|_| bail!("it says nothing for {PATIENCE:?}"))
    });
    let mut counts = BTreeMap::new();
    for answer in answers.buffered(AT_ONCE).collect::<Vec<_>>().await {
        *counts.entry(answer.map_err(|error| format!("{error:#}"))).or_insert(0) += 1;
    }
    counts.into_iter().map(|(answer, pods)| finding(answer, pods)).collect()
}

fn finding(answer: Result<String, String>, pods: usize) -> Finding {
    match answer {
        Ok(build) => Finding::Good(format!("DaemonSet: sniff {build} in {pods} pod(s)")),
        Err(error) => Finding::Bad(format!("DaemonSet: {pods} pod(s) cannot be captured from"), error),
    }
}

/// The build that a pod runs, in its own words.
async fn hello(cluster: &Cluster, namespace: &str, pod: &DaemonPod, way: &Way) -> Result<String> {
    let mut process = match (way, pod.door, &pod.node) {
        (Way::Door(wanted), Some(port), Some(node)) => {
            let pod = SniffPod { namespace: namespace.to_owned(), name: pod.name.clone(), door: Some(port) };
            door::enter(cluster, Door { pod: &pod, port, node }, wanted).await?.0
        }
        _ => cluster.exec(namespace, &pod.name, CONTAINER, &["sniff", "serve"]).await?,
    };
    let mut decoder = Decoder::<ToClient>::new();
    while let Some(piece) = process.output.next().await? {
        match piece {
            Piece::Stdout(bytes) => decoder.push(&bytes),
            Piece::Stderr(_) => continue,
            Piece::Ended(result) => {
                result.map_err(anyhow::Error::msg)?;
                bail!("it ended before it said what it is");
            }
        }
        match decoder.next().map_err(which_to_update)? {
            Some(ToClient::Hello(hello)) => {
                let build =
                    Build { version: &hello.version, commit: hello.commit.as_deref(), protocol: PROTOCOL };
                return Ok(build.to_string());
            }
            Some(_) => bail!("it does not begin with who it is"),
            None => {}
        }
    }
    bail!("the connection was closed before it said what it is")
}

/// The error of one that cannot be understood, with what helps.
fn which_to_update(broken: Broken) -> anyhow::Error {
    let advice = match broken {
        Broken::Protocol(theirs) if theirs < PROTOCOL => "update the DaemonSet",
        Broken::Protocol(_) => "update this kubectl sniff",
        _ => return broken.into(),
    };
    anyhow::Error::new(broken).context(advice)
}
