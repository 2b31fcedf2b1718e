//! `kubectl sniff cleanup`: the Jobs of short-lived pods.

use std::io::{self, Write as _};

use anyhow::Result;
use log::{error, warn};
use sniff_cli::{exit, sanitize::sanitize_line};
use sniff_kubernetes::{Cluster, Forbidden, jobs::Leftover};

use super::args::Args;

/// Lists the Jobs of short-lived pods, those that still capture too, and removes them unless `dry_run`.
///
/// # Errors
///
/// When they cannot be listed.
pub async fn run(cluster: &Cluster, args: &Args, dry_run: bool) -> Result<u8> {
    let leftovers = leftovers(cluster, args).await?;
    let mut stdout = io::stdout();
    if leftovers.is_empty() {
        writeln!(stdout, "nothing of sniff is left over")?;
    }
    let mut status = exit::SUCCESS;
    for Leftover { job, node, who, what, until } in leftovers {
        let done = match dry_run {
            true => "would remove",
            false => match cluster.delete_job(&job).await {
                Ok(()) => "removed",
                Err(error) => {
                    error!("{}/{}: {error:#}", job.namespace, job.name);
                    status = exit::FAILURE;
                    continue;
                }
            },
        };
        let line =
            format!("{done} {}/{} on {node}: {what}, by {who}, until {until}", job.namespace, job.name);
        writeln!(stdout, "{}", sanitize_line(&line))?;
    }
    Ok(status)
}

/// Those of all namespaces; where that is not allowed, those of the namespace that this user makes them in.
async fn leftovers(cluster: &Cluster, args: &Args) -> Result<Vec<Leftover>> {
    let namespace = args.cluster.namespace.as_deref();
    match cluster.leftovers(namespace).await {
        Err(error) if error.is::<Forbidden>() && namespace.is_none() => {
            let ours = args.cluster.job_namespace();
            warn!("{error:#}; looking in namespace {ours} only");
            cluster.leftovers(Some(ours)).await
        }
        found => found,
    }
}
