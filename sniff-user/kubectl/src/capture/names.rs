//! What addresses are called: those of captured pods as they come, those of others as the API tells once.

use std::collections::BTreeSet;

use anyhow::Result;
use log::debug;
use sniff_kubernetes::Cluster;
use sniff_pcapng::Names;
use tokio::sync::mpsc;

use super::Capture;

impl Capture {
    /// Has the API asked for what all addresses are called that this user may know: of the whole cluster, or of the
    /// namespaces that are captured from. Nothing waits for the answer.
    pub(super) fn ask_for_names(&self, told: mpsc::Sender<Names>) {
        if self.args.files.no_names || self.args.dry_run {
            return;
        }
        let cluster = self.common.cluster.clone();
        let namespaces: BTreeSet<String> =
            self.selections.iter().filter_map(|it| it.namespace.clone()).collect();
        tokio::spawn(async move {
            let mut names = Names::default();
            if let Err(error) = ask(&cluster, None, &mut names).await {
                debug!("names of all pods and services: {error:#}");
                for namespace in namespaces {
                    if let Err(error) = ask(&cluster, Some(&namespace), &mut names).await {
                        debug!("names of pods and services of {namespace}: {error:#}");
                    }
                }
            }
            // A capture that has ended needs no names.
            let _ = told.send(names).await;
        });
    }

    /// Has the output tell what addresses are called, as far as that is news.
    pub(super) fn name(&mut self, names: &Names) {
        if !self.args.files.no_names {
            self.addresses.update(names).write(&mut self.pending);
        }
    }
}

async fn ask(cluster: &Cluster, namespace: Option<&str>, names: &mut Names) -> Result<()> {
    for (address, name) in cluster.names_of_addresses(namespace).await? {
        names.insert(address, &name);
    }
    Ok(())
}
