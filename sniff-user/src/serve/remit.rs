//! What a session may capture, by what was authorised at the agent's door. A client's word counts for nothing here: whose
//! an interface is, the runtime says.

use anyhow::{Context as _, Result, ensure};
use sniff_protocol::{
    door::{NODE_ACCOUNT, POD_ACCOUNT},
    message::TargetId,
};

use crate::{
    agent::wire::{NotAuthorised, Remit},
    targets::{PodRef, Scope, UsesHostNetwork},
};

impl Remit {
    /// Whether such a target may be looked for.
    ///
    /// # Errors
    ///
    /// When it may not; names the right that is missing.
    pub(super) fn check(&self, id: &TargetId) -> Result<()> {
        match id {
            TargetId::Pod { namespace, .. } => self.check_namespace(namespace),
            TargetId::Node if self.node => Ok(()),
            TargetId::Node => {
                let why =
                    format!("this session may not capture interfaces of the node: {}", self.right_to_node());
                Err(NotAuthorised(why).into())
            }
        }
    }

    /// Makes sure that the pods of a namespace may be captured.
    ///
    /// # Errors
    ///
    /// When they may not; names the right that is missing.
    pub(super) fn check_namespace(&self, namespace: &str) -> Result<()> {
        if self.covers(namespace) {
            return Ok(());
        }
        let why = format!(
            "this session may not capture pods of namespace {namespace}: it takes the right to create serviceaccounts/token \
             named {POD_ACCOUNT} in namespace {namespace}, and that account there"
        );
        Err(NotAuthorised(why).into())
    }

    /// Whether what was found may be captured as this target.
    ///
    /// # Errors
    ///
    /// When it is not, by namespace, name and UID, the pod that was asked for, or is no pod of a namespace that may be.
    pub(super) fn check_found(&self, id: &TargetId, found: &[Scope]) -> Result<()> {
        self.check(id)?;
        found.iter().try_for_each(|scope| self.check_pod(id, scope.pod()))
    }

    fn check_pod(&self, id: &TargetId, pod: Option<&PodRef>) -> Result<()> {
        let TargetId::Pod { namespace, name, uid } = id else { return Ok(()) };
        let pod = pod.with_context(|| format!("{id}: nobody knows whose its interfaces are"))?;
        ensure!(
            (&pod.namespace, &pod.name, &pod.uid) == (namespace, name, uid),
            "pod {pod} on this node has the UID {}, and not {uid:?}: it was made anew; ask for it again",
            pod.uid
        );
        self.check_namespace(&pod.namespace)
    }

    /// An error, or which right would help if it is for want of that. It tells nothing of the node then.
    pub(super) fn explain(&self, error: anyhow::Error) -> anyhow::Error {
        match error.downcast_ref() {
            Some(UsesHostNetwork { who, .. }) if !self.node => NotAuthorised(format!(
                "{who} uses the node's network (hostNetwork), which this session may not capture: {}",
                self.right_to_node()
            ))
            .into(),
            _ => error,
        }
    }

    fn right_to_node(&self) -> String {
        format!(
            "it takes the right to create serviceaccounts/token named {NODE_ACCOUNT} in namespace {}",
            self.sniff_namespace
        )
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    const OF_POD: &str = "create serviceaccounts/token named sniff-capture in namespace ";
    const OF_NODE: &str = "create serviceaccounts/token named sniff-node in namespace tools";

    fn remit(namespaces: &[&str], node: bool) -> Remit {
        let namespaces = namespaces.iter().map(|&namespace| namespace.to_owned()).collect();
        Remit { namespaces, node, sniff_namespace: "tools".into() }
    }

    fn pod(namespace: &str, name: &str, uid: &str) -> TargetId {
        TargetId::Pod { namespace: namespace.into(), name: name.into(), uid: uid.into() }
    }

    #[track_caller]
    fn assert_refused(what: &str, result: Result<()>, words: &str) {
        let error = format!("{:#}", result.expect_err(what));
        assert!(error.contains(words), "{what}: {error}");
    }

    #[test]
    fn what_may_be_looked_for_is_what_was_authorised() {
        let (shop, both, node) = (remit(&["shop"], false), remit(&["bank", "shop"], false), remit(&[], true));
        let web = pod("shop", "web-0", "u-1");
        for (what, remit, target, missing) in [
            ("own namespace", &shop, &web, None),
            ("other namespace", &shop, &pod("bank", "web-0", "u-2"), Some(format!("{OF_POD}bank"))),
            (
                "a pod of the agent's namespace",
                &shop,
                &pod("tools", "sniff-x", "u"),
                Some(format!("{OF_POD}tools")),
            ),
            (
                "a namespace that begins alike",
                &shop,
                &pod("shop2", "web-0", "u-1"),
                Some(format!("{OF_POD}shop2")),
            ),
            ("a namespace in capitals", &shop, &pod("Shop", "web-0", "u-1"), Some(format!("{OF_POD}Shop"))),
            ("no namespace", &shop, &pod("", "web-0", "u-1"), Some(OF_POD.to_owned())),
            ("the node, by a namespace's account", &shop, &TargetId::Node, Some(OF_NODE.to_owned())),
            ("one of two", &both, &web, None),
            ("the other of two", &both, &pod("bank", "web-0", "u-2"), None),
            ("the node, by two accounts", &both, &TargetId::Node, Some(OF_NODE.to_owned())),
            ("the node, by the node's account", &node, &TargetId::Node, None),
            ("any pod, by the node's account", &node, &web, None),
            ("anything, by nothing", &remit(&[], false), &web, Some(format!("{OF_POD}shop"))),
        ] {
            match missing {
                None => remit.check(target).expect(what),
                Some(words) => assert_refused(what, remit.check(target), &words),
            }
        }
    }

    #[test]
    fn whose_an_interface_is_the_runtime_says() {
        let shop = remit(&["shop"], false);
        let found = |namespace: &str, name: &str, uid: &str| PodRef {
            namespace: namespace.into(),
            name: name.into(),
            uid: uid.into(),
            facts: Arc::default(),
            capture_label: None,
        };
        let web = found("shop", "web-0", "u-1");
        shop.check_pod(&pod("shop", "web-0", "u-1"), Some(&web)).expect("the same pod");
        for (what, claimed, found) in [
            ("another UID", pod("shop", "web-0", "u-2"), &web),
            ("no UID", pod("shop", "web-0", ""), &web),
            ("the start of a UID", pod("shop", "web-0", "u-"), &web),
            ("another name", pod("shop", "web-1", "u-1"), &web),
            ("a pod of the same name elsewhere", pod("shop", "web-0", "u-1"), &found("bank", "web-0", "u-1")),
        ] {
            assert_refused(what, shop.check_pod(&claimed, Some(found)), "ask for it again");
        }
        assert_refused("nobody's", shop.check_pod(&pod("shop", "web-0", "u-1"), None), "nobody knows whose");
    }

    #[test]
    fn an_error_that_is_not_of_rights_stays_as_it_is() {
        let error = remit(&["shop"], false).explain(anyhow::anyhow!("no pod shop/x"));
        assert_eq!(format!("{error:#}"), "no pod shop/x");
    }
}
