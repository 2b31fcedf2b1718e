//! `kubectl sniff doctor`: what works here, what does not, and what to do about it.

mod agents;
mod plugin;
mod ways;

use std::{
    fmt,
    io::{self, Write as _},
};

use anyhow::Result;
use sniff_cli::{exit, sanitize::sanitize_line};
use sniff_kubernetes::{
    Cluster, Node, Permission, RefusedPod, Request,
    daemonset::{self, DaemonPod},
    how_to_let_in,
};

use sniff_protocol::Build;

use super::args::Args;

/// The oldest kernel that has what sniff cannot do without, and the one that has TCX.
const OLDEST: (u32, u32) = (5, 8);
const TCX: (u32, u32) = (6, 6);

/// What an exec by WebSocket takes: the first, and from Kubernetes 1.35 on the second too.
const EXEC: &[(&str, &str)] = &[("get", "pods/exec"), ("create", "pods/exec")];

/// One line of the answer.
enum Finding {
    /// This works.
    Good(String),
    /// This works, with a limit.
    Note(String),
    /// This does not; and what to do.
    Bad(String, String),
}

/// Looks at everything that a capture needs, and prints what it finds.
///
/// # Errors
///
/// When the cluster cannot be reached.
pub async fn run(cluster: &Cluster, args: &Args) -> Result<u8> {
    let mut findings = vec![Finding::Good(format!(
        "API server {} at {}, this is kubectl sniff {}",
        cluster.version().await?,
        cluster.server(),
        Build::THIS
    ))];
    findings.extend(plugin::look());
    let namespace = args.cluster.namespace.as_deref().unwrap_or_else(|| cluster.default_namespace());
    findings.extend(
        permissions(cluster, namespace, "targets", &[("get", "pods"), ("list", "pods"), ("watch", "pods")])
            .await?,
    );
    let nodes = nodes(cluster, &mut findings).await;
    let missing =
        daemon_pods(cluster, namespace, args.cluster.daemonset_namespace(), &nodes, &mut findings).await?;
    if missing {
        findings.extend(short_lived(cluster, args).await?);
    }
    let mut stdout = io::stdout();
    for finding in &findings {
        writeln!(stdout, "{}", sanitize_line(&finding.to_string()))?;
    }
    let is_fine = !findings.iter().any(|finding| matches!(finding, Finding::Bad(..)));
    Ok(if is_fine { exit::SUCCESS } else { exit::FAILURE })
}

async fn permissions(
    cluster: &Cluster,
    namespace: &str,
    what: &str,
    needed: &[(&'static str, &'static str)],
) -> Result<Vec<Finding>> {
    let mut findings = Vec::new();
    for &(verb, resource) in needed {
        let request = Request { verb, resource, namespace: Some(namespace), name: None };
        findings.push(match cluster.may(request).await? {
            Permission::Granted => Finding::Good(format!("{what}: you may {request}")),
            Permission::Denied => Finding::Bad(
                format!("{what}: you may not {request}"),
                format!("ask for a role with verb {verb} on {resource} in namespace {namespace}"),
            ),
        });
    }
    Ok(findings)
}

/// The nodes and their kernels, as far as this user may see them.
async fn nodes(cluster: &Cluster, findings: &mut Vec<Finding>) -> Vec<Node> {
    let nodes = match cluster.nodes().await {
        Ok(nodes) => nodes,
        Err(error) => {
            findings.push(Finding::Note(format!("nodes and their kernels are not looked at: {error:#}")));
            return Vec::new();
        }
    };
    for Node { name, kernel, os, .. } in &nodes {
        let told = format!("node {name}: {os}, kernel {kernel}");
        findings.push(match version(kernel) {
            _ if os == "windows" => Finding::Note(format!("{told}: sniff captures on Linux nodes")),
            Some(version) if version < OLDEST => {
                Finding::Bad(told, "sniff needs Linux 5.8 or newer there".to_owned())
            }
            Some(version) if version < TCX => Finding::Good(format!("{told}: attaches by clsact")),
            Some(_) => Finding::Good(format!("{told}: attaches by TCX")),
            None => Finding::Note(format!("{told}: its version is not understood")),
        });
    }
    nodes.into_iter().filter(|node| node.os != "windows").collect()
}

/// Whether the DaemonSet's pods run; `true` when some are missing, as far as can be told.
async fn daemon_pods(
    cluster: &Cluster,
    meant: &str,
    namespace: &str,
    nodes: &[Node],
    findings: &mut Vec<Finding>,
) -> Result<bool> {
    for (verb, resource, name) in [("list", "pods", None), ("get", "daemonsets.apps", Some(daemonset::NAME))]
    {
        let request = Request { verb, resource, namespace: Some(namespace), name };
        if cluster.may(request).await? == Permission::Denied {
            findings.push(Finding::Bad(
                format!("DaemonSet: you may not {request}"),
                format!(
                    "ask for a role with verb {verb} on {resource} in namespace {namespace}, or use --agentless"
                ),
            ));
            return Ok(true);
        }
    }
    let (own, strangers): (Vec<_>, Vec<_>) =
        cluster.daemon_pods(namespace).await?.into_iter().partition(|pod| pod.is_own);
    findings.extend(strangers.iter().map(|pod| is_strange(namespace, pod)));
    let (running, stuck): (Vec<_>, Vec<_>) = own.into_iter().partition(|pod| pod.trouble.is_none());
    findings.extend(stuck.iter().map(|pod| does_not_run(namespace, pod)));
    if running.is_empty() && stuck.is_empty() {
        if let Some(refused) = cluster.refused_pod(namespace, daemonset::NAME).await {
            findings.push(is_refused(namespace, refused));
            return Ok(true);
        }
        findings.push(Finding::Note(format!(
            "DaemonSet: none in namespace {namespace}, short-lived pods take its place"
        )));
        return Ok(true);
    }
    if !running.is_empty() {
        findings.push(Finding::Good(runs_on(&running, nodes)));
        let (looked_at, way) = ways::look(cluster, meant, namespace, &running).await?;
        findings.extend(looked_at);
        if let Some(way) = way {
            findings.extend(agents::ask(cluster, namespace, &running, &way).await);
        }
    }
    let has_pod = |node: &&Node| running.iter().chain(&stuck).any(|pod| is_on(pod, node));
    let without: Vec<_> = nodes.iter().filter(|node| !has_pod(node)).map(|node| node.name.as_str()).collect();
    if !without.is_empty() {
        findings.push(Finding::Note(format!("DaemonSet: not on {}", without.join(", "))));
    }
    Ok(!stuck.is_empty() || !without.is_empty())
}

fn is_on(pod: &DaemonPod, node: &Node) -> bool {
    pod.node.as_ref() == Some(&node.name)
}

/// Where the DaemonSet's pods run. The nodes may be unknown: not everybody may list them.
fn runs_on(running: &[DaemonPod], nodes: &[Node]) -> String {
    if nodes.is_empty() {
        return format!("DaemonSet: {} pod(s) run", running.len());
    }
    let with = nodes.iter().filter(|node| running.iter().any(|pod| is_on(pod, node))).count();
    format!("DaemonSet: runs on {with} of {} nodes", nodes.len())
}

fn does_not_run(namespace: &str, pod: &DaemonPod) -> Finding {
    let DaemonPod { name, node, trouble, .. } = pod;
    let node = node.as_ref().map(|node| format!(" on node {node}")).unwrap_or_default();
    let trouble = trouble.as_deref().unwrap_or("unknown");
    Finding::Bad(
        format!("DaemonSet: pod {namespace}/{name}{node} does not run ({trouble})"),
        format!("kubectl describe pod -n {namespace} {name} says more"),
    )
}

fn is_refused(namespace: &str, RefusedPod { says, remedy }: RefusedPod) -> Finding {
    let says_more = || format!("kubectl describe daemonset -n {namespace} {} says more", daemonset::NAME);
    Finding::Bad(
        format!("DaemonSet: namespace {namespace} takes none of its pods ({says})"),
        remedy.unwrap_or_else(says_more),
    )
}

fn is_strange(namespace: &str, pod: &DaemonPod) -> Finding {
    let name = &pod.name;
    Finding::Bad(
        format!("DaemonSet: pod {namespace}/{name} has its labels, but is not one of its pods"),
        format!("it is told nothing; kubectl get pod -n {namespace} {name} -o yaml may say who made it"),
    )
}

/// What short-lived pods need.
async fn short_lived(cluster: &Cluster, args: &Args) -> Result<Vec<Finding>> {
    let namespace = args.cluster.job_namespace();
    let needed = [
        &[("create", "jobs.batch"), ("patch", "jobs.batch"), ("delete", "jobs.batch"), ("list", "pods")],
        EXEC,
    ]
    .concat();
    let mut findings = permissions(cluster, namespace, "short-lived pods", &needed).await?;
    findings.push(match &args.image {
        Some(image) => Finding::Good(format!("short-lived pods: image {image}")),
        None => Finding::Bad(
            "short-lived pods: no image".to_owned(),
            "name one with --image or SNIFF_IMAGE, or install the DaemonSet".to_owned(),
        ),
    });
    if let Ok(false) = cluster.is_namespace_of_sniff(namespace).await {
        findings.push(Finding::Bad(
            format!("short-lived pods: namespace {namespace} is not known to be sniff's own"),
            "whoever may exec into pods there would rule nodes: leave --job-namespace out, or see --expose-nodes"
                .to_owned(),
        ));
    }
    findings.push(match cluster.pod_security(namespace).await {
        Ok(Some(Some(level))) if level != "privileged" => Finding::Bad(
            format!("short-lived pods: PodSecurity of namespace {namespace} enforces {level}"),
            format!("{}, or choose another with --job-namespace", how_to_let_in(namespace)),
        ),
        Ok(Some(Some(_))) => Finding::Good(format!(
            "short-lived pods: namespace {namespace} lets them in by its PodSecurity label"
        )),
        Ok(Some(None)) => Finding::Note(format!(
            "short-lived pods: namespace {namespace} has no PodSecurity label, so the cluster's default applies"
        )),
        Ok(None) => Finding::Bad(
            format!("short-lived pods: there is no namespace {namespace}"),
            "create it, or choose another with --job-namespace".to_owned(),
        ),
        Err(error) => {
            Finding::Note(format!("PodSecurity of namespace {namespace} is not looked at: {error:#}"))
        }
    });
    Ok(findings)
}

/// The first two numbers of a kernel's release.
fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|char: char| !char.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Good(what) => write!(f, "ok    {what}"),
            Self::Note(what) => write!(f, "note  {what}"),
            Self::Bad(what, remedy) => write!(f, "BAD   {what}: {remedy}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_are_told_apart() {
        assert_eq!(version("6.18.1-cloud-amd64"), Some((6, 18)));
        assert_eq!(version("5.4"), Some((5, 4)));
        assert_eq!(version("unknown"), None);
    }
}
