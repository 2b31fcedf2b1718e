//! What addresses are called: those of captured pods as they come, those of others as the API tells.

use std::collections::BTreeSet;

use log::{debug, info};
use sniff_kubernetes::{Named, follow_names};
use sniff_pcapng::Names;
use tokio::sync::mpsc;

use super::Capture;

impl Capture {
    /// Has the API tell what all addresses are called that this user may know: of the whole cluster, or of the namespaces that
    /// are captured from. Nothing waits for it.
    pub(super) fn ask_for_names(&self, told: mpsc::Sender<Named>) {
        if self.args.files.no_names || self.args.dry_run {
            return;
        }
        let namespaces: BTreeSet<String> =
            self.selections.iter().filter_map(|it| it.namespace.clone()).collect();
        follow_names(self.common.cluster.clone(), namespaces.into_iter().collect(), told);
    }

    /// Passes on what is heard of names; says once why some will not be heard of.
    pub(super) fn named(&mut self, named: Named) {
        let why = match named {
            Named::Names(told) => {
                let mut names = Names::default();
                for (address, name) in told {
                    names.insert(address, &name);
                }
                return self.name(&names);
            }
            Named::Trouble(error) => format!("are named later: {error:#}; trying again"),
            Named::Over(error) => format!("have no names: {error:#}"),
        };
        if std::mem::replace(&mut self.is_nameless_told, true) {
            debug!("some pods or services {why}");
        } else {
            info!("some pods or services {why} (--no-names asks for none)");
        }
    }

    /// Has the output tell what addresses are called, as far as that is news.
    pub(super) fn name(&mut self, names: &Names) {
        if !self.args.files.no_names {
            self.addresses.update(names).write(&mut self.pending);
        }
    }
}
