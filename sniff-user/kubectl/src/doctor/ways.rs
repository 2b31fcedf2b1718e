//! By which ways this user may capture in the pods of a DaemonSet, namespace by namespace.

use anyhow::Result;
use sniff_kubernetes::{Cluster, Permission, Request, daemonset::DaemonPod};
use sniff_protocol::door::{NODE_ACCOUNT, POD_ACCOUNT};

use super::{EXEC, Finding, agents::Way, permissions};
use crate::door::Wanted;

/// What a forwarded port takes: as an exec.
const FORWARD: &[(&str, &str)] = &[("get", "pods/portforward"), ("create", "pods/portforward")];
/// Most namespaces that are looked at.
const MOST: usize = 50;

/// The ways to the pods of a DaemonSet in namespace `sniffs`, for whoever wants pods of `namespace`; and the one that is to
/// be taken, if any.
pub(super) async fn look(
    cluster: &Cluster,
    namespace: &str,
    sniffs: &str,
    running: &[DaemonPod],
) -> Result<(Vec<Finding>, Option<Way>)> {
    let exec = permissions(cluster, sniffs, "DaemonSet", EXEC).await?;
    let may_exec = all_good(&exec);
    if running.iter().all(|pod| pod.door.is_none()) {
        return Ok((exec, may_exec.then_some(Way::Exec)));
    }
    let mut findings = permissions(cluster, sniffs, "door", FORWARD).await?;
    let may_forward = all_good(&findings);
    let mut wanted = Wanted::default();
    for namespace in namespaces(cluster, namespace).await {
        let (finding, is_open) = of_namespace(cluster, &namespace, may_forward).await?;
        findings.push(finding);
        if is_open {
            wanted.namespaces.insert(namespace);
        }
    }
    let (finding, node) = of_node(cluster, sniffs, may_forward).await?;
    findings.push(finding);
    let is_open = node || !wanted.namespaces.is_empty();
    wanted.node = node;
    // One way is enough.
    let mut exec = exec;
    for (is_spare, findings) in [(may_exec, &mut findings), (is_open, &mut exec)] {
        if is_spare {
            findings.iter_mut().for_each(forgive);
        }
    }
    findings.extend(exec);
    if !is_open && may_exec {
        findings.push(Finding::Note(
            "exec: its agents take sessions that are started by exec only with --allow-exec-sessions"
                .to_owned(),
        ));
    }
    let way = if is_open { Some(Way::Door(wanted)) } else { may_exec.then_some(Way::Exec) };
    Ok((findings, way))
}

fn all_good(findings: &[Finding]) -> bool {
    findings.iter().all(|finding| matches!(finding, Finding::Good(_)))
}

/// What is bad is only worth knowing where there is another way.
fn forgive(finding: &mut Finding) {
    if let Finding::Bad(what, remedy) = finding {
        *finding = Finding::Note(format!("{what}: {remedy}"));
    }
}

/// The namespace that is meant, and those that let their pods be captured as far as this user may list that.
async fn namespaces(cluster: &Cluster, meant: &str) -> Vec<String> {
    let mut all = vec![meant.to_owned()];
    let known = cluster.namespaces_with_account(POD_ACCOUNT).await.unwrap_or_default();
    all.extend(known.into_iter().filter(|namespace| namespace != meant).take(MOST));
    all
}

async fn of_namespace(cluster: &Cluster, namespace: &str, may_forward: bool) -> Result<(Finding, bool)> {
    let (is_granted, request) = token(cluster, namespace, POD_ACCOUNT).await?;
    Ok(if is_granted {
        (Finding::Good(format!("door: pods of namespace {namespace}: you may {request}")), may_forward)
    } else {
        let what = format!("door: pods of namespace {namespace}: you may not {request}");
        let remedy = "ask whoever rules that namespace for that role (deploy/namespace)".to_owned();
        (Finding::Bad(what, remedy), false)
    })
}

async fn of_node(cluster: &Cluster, sniffs: &str, may_forward: bool) -> Result<(Finding, bool)> {
    let (is_granted, request) = token(cluster, sniffs, NODE_ACCOUNT).await?;
    Ok(if is_granted {
        let what = format!("door: nodes, and pods of all namespaces: you may {request}");
        (Finding::Good(what), may_forward)
    } else {
        (Finding::Note(format!("door: not the interfaces of nodes: you may not {request}")), false)
    })
}

/// Whether this user may have tokens of an account issued, and that in words.
async fn token(cluster: &Cluster, namespace: &str, account: &str) -> Result<(bool, String)> {
    let request = Request {
        verb: "create",
        resource: "serviceaccounts/token",
        namespace: Some(namespace),
        name: Some(account),
    };
    Ok((cluster.may(request).await? == Permission::Granted, request.to_string()))
}
