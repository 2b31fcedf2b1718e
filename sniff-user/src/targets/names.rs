//! What the addresses of this node's pods are called, for files and lines.
//!
//! Those of captured pods are known from their interfaces, and others from the runtime: it is asked when a capture starts,
//! when it tells of a pod, and now and then.

use std::{collections::HashSet, net::IpAddr, time::Duration};

use anyhow::{Context as _, Result};
use log::debug;
use sniff_pcapng::Names;
use tokio::{sync::mpsc, time};

use super::{
    Interface, Options, PodRef,
    runtime::{Arrivals, Cri, Runtimes},
};

/// Between two looks at the runtime's list, when it tells of no pod.
const PAUSE: Duration = Duration::from_secs(30);
/// What a pod takes to have its network, after the runtime has told of it.
const NETWORK: Duration = Duration::from_secs(1);

/// What the addresses of captured pods are called.
pub fn names_of<'a>(interfaces: impl IntoIterator<Item = &'a Interface>) -> Names {
    let mut names = Names::default();
    for Interface { pod, ipv4, ipv6, .. } in interfaces {
        let Some(PodRef { namespace, name, .. }) = pod else { continue };
        let ipv6 = ipv6.iter().filter(|(address, _)| !address.is_unicast_link_local());
        let addresses =
            ipv4.iter().map(|(it, _)| IpAddr::from(*it)).chain(ipv6.map(|(it, _)| IpAddr::from(*it)));
        for address in addresses.filter(|address| !address.is_loopback()) {
            names.insert(address, &format!("{name}.{namespace}"));
        }
    }
    names
}

/// Begins to learn what addresses are called; those of these interfaces are told at once.
pub fn learn(interfaces: &[Interface], options: &Options) -> mpsc::UnboundedReceiver<Names> {
    let (told, names) = mpsc::unbounded_channel();
    // It is there, and takes them.
    let _ = told.send(names_of(interfaces));
    let socket = options.cri_socket.clone();
    tokio::spawn(async move {
        let socket = socket.as_deref().map(|path| path.to_str().context("--cri-socket is not UTF-8"));
        // Whoever needs the runtime has heard what is wrong with it.
        let Ok(socket) = socket.transpose() else { return };
        let Ok(runtimes) = Runtimes::find(socket).await else { return };
        for cri in runtimes.answering {
            let told = told.clone();
            tokio::spawn(async move {
                if let Err(error) = ask(&cri, &told).await {
                    debug!("names of pods: {error:#}");
                }
            });
        }
    });
    names
}

/// Asks a runtime until nobody wants to know any more.
async fn ask(cri: &Cri, told: &mpsc::UnboundedSender<Names>) -> Result<()> {
    let mut known = HashSet::new();
    let mut arrivals = None;
    loop {
        if told.send(news(cri, &mut known).await?).is_err() {
            return Ok(());
        }
        // It sends nothing before the first event.
        let waiting = async {
            if arrivals.is_none() {
                arrivals = Some(cri.arrivals().await);
            }
            match arrivals.as_mut() {
                Some(Ok(arrivals)) => next(arrivals).await,
                _ => std::future::pending().await,
            }
        };
        tokio::select! {
            () = waiting => time::sleep(NETWORK).await,
            () = time::sleep(PAUSE) => {}
            () = told.closed() => return Ok(()),
        }
    }
}

/// Returns when a pod comes.
async fn next(arrivals: &mut Arrivals) {
    // A runtime that cannot be heard any more is asked now and then.
    if !matches!(arrivals.next().await, Ok(Some(_))) {
        std::future::pending::<()>().await;
    }
}

/// The names of pods whose sandboxes are not `known` yet.
async fn news(cri: &Cri, known: &mut HashSet<String>) -> Result<Names> {
    let mut names = Names::default();
    let mut sandboxes = cri.sandboxes().await?;
    sandboxes.retain(|sandbox| sandbox.ready);
    // Of two that had one address, the later has it.
    sandboxes.sort_by_key(|sandbox| sandbox.created_at);
    known.retain(|id| sandboxes.iter().any(|sandbox| sandbox.id == *id));
    for sandbox in sandboxes {
        if known.contains(&sandbox.id) {
            continue;
        }
        // One may be gone again, and one may not have its network yet.
        let Ok(network) = cri.network_of(&sandbox.id).await else { continue };
        if network.host || !network.addresses.is_empty() {
            known.insert(sandbox.id);
        }
        for address in network.addresses.into_iter().filter(|_| !network.host) {
            names.insert(address, &format!("{}.{}", sandbox.name, sandbox.namespace));
        }
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::targets::{Demands, LinkLayer};

    #[test]
    fn captured_pods_are_called_by_their_addresses_that_others_can_use() {
        let pod = PodRef {
            namespace: "shop".into(),
            name: "web-0".into(),
            uid: "u".into(),
            facts: Arc::default(),
            capture_label: None,
        };
        let interface = Interface {
            name: "shop/web-0/eth0".into(),
            pod: Some(pod),
            pod_side: None,
            host_side: None,
            host_side_missing: None,
            kind: None,
            link_layer: LinkLayer::Ethernet,
            is_loopback: false,
            mac: None,
            ipv4: vec![([10, 0, 0, 7].into(), 24), ([127, 0, 0, 1].into(), 8)],
            ipv6: vec![("fd00::7".parse().unwrap(), 64), ("fe80::7".parse().unwrap(), 64)],
            filter: None,
            left_out: None,
            demands: Demands::default(),
            doubts: Vec::new(),
            unfit: Vec::new(),
        };
        let nobodys = Interface { pod: None, ipv4: vec![([10, 0, 0, 8].into(), 24)], ..interface.clone() };
        let mut expected = Names::default();
        for address in ["10.0.0.7", "fd00::7"] {
            expected.insert(address.parse().unwrap(), "web-0.shop");
        }
        assert_eq!(names_of([&interface, &nobodys]), expected);
    }
}
