//! Whether who is to be captured lets that be, and on what terms: by a label that says no, and by the agent's policy.

use std::{error::Error, fmt, time::Duration};

use log::warn;
use sniff_kubernetes::{
    Cluster,
    consent::{CaptureLabels, LABEL},
};
use tokio::{sync::watch, time::timeout};

use crate::{
    agent::policy::{Demanded, Policy, Whom},
    targets::PodRef,
};

/// What the label says to whom nobody may capture, and to whom anybody may.
const DENY: &str = "deny";
const ALLOW: &str = "allow";
/// How long the API server may take at the start of a session; what is not known then is refused.
const PATIENCE: Duration = Duration::from_secs(10);

/// Somebody is not to be captured, which trying again does not change.
#[derive(Debug)]
pub(super) struct NoConsent(String);

impl fmt::Display for NoConsent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Error for NoConsent {}

/// Who decides what a session may capture.
pub(super) struct Consent {
    labels: Labels,
    policy: Policy,
    /// Whether labels that deny are overridden: the client asks for it, and may.
    overrides: bool,
    /// Whether the client asks for that and may not.
    asks_in_vain: bool,
}

/// Where labels are known from beside the runtime.
pub(super) enum Labels {
    /// There is no API on this node: what a pod was made with is all there is.
    Made,
    /// The API, which tells of each change.
    Followed(watch::Receiver<CaptureLabels>),
    /// An API that cannot be asked at all.
    Unknown(String),
}

impl Labels {
    /// Begins to ask the API, if there is one on this node.
    pub(super) async fn follow(node: Option<&str>) -> Self {
        match Cluster::of_node().await {
            Ok(Some(cluster)) => Self::Followed(cluster.follow_capture_labels(node)),
            Ok(None) => Self::Made,
            Err(error) => Self::Unknown(format!("{error:#}")),
        }
    }

    /// Waits until the API has answered, or does not in time: then nobody's consent is known.
    async fn settle(&mut self) {
        if let Self::Followed(labels) = self
            && timeout(PATIENCE, labels.wait_for(CaptureLabels::is_settled)).await.is_err()
        {
            warn!("the Kubernetes API does not say within {PATIENCE:?} who denies captures");
        }
    }

    /// Why a pod is not to be captured, if it is not.
    fn objection(&self, pod: &PodRef) -> Option<String> {
        let made_with = || objection(pod.capture_label.as_deref(), "it was made with");
        let (own, namespaces) = match self {
            Self::Made => (None, None),
            Self::Unknown(why) => return Some(unknown(why)),
            Self::Followed(labels) => match labels.borrow().of(&pod.namespace, &pod.name) {
                Ok((own, namespaces)) => (own.map(str::to_owned), namespaces.map(str::to_owned)),
                Err(why) => return Some(unknown(&format!("{why:#}"))),
            },
        };
        objection(own.as_deref(), "it has")
            .or_else(|| objection(namespaces.as_deref(), &format!("its namespace {} has", pod.namespace)))
            .or_else(made_with)
    }
}

impl Consent {
    /// By these labels and this policy. A label that denies is overridden where the client asks for that, and may.
    pub(super) fn new(labels: Labels, policy: Policy, asks: bool, may: bool) -> Self {
        Self { labels, policy, overrides: asks && may, asks_in_vain: asks && !may }
    }

    /// Waits until it is known what can be.
    pub(super) async fn settle(&mut self) {
        self.labels.settle().await;
    }

    /// What denies the capture of a pod, and is overridden.
    ///
    /// # Errors
    ///
    /// When it is not.
    pub(super) fn ask(&self, pod: &PodRef) -> Result<Option<String>, NoConsent> {
        let Some(why) = self.labels.objection(pod) else { return Ok(None) };
        if self.overrides {
            return Ok(Some(why));
        }
        let advice = match self.asks_in_vain {
            true => "--override-deny takes the right to capture the node, which you have not",
            false => {
                "whoever may capture the node can override that by --override-deny, which the audit says"
            }
        };
        Err(NoConsent(format!("pod {pod} must not be captured: {why}; {advice}")))
    }

    /// Why a pod that is captured must not be any more.
    pub(super) fn objection_now(&self, pod: &PodRef) -> Option<String> {
        let Labels::Followed(labels) = &self.labels else { return None };
        // What was known is not forgotten in an outage.
        let is_known = labels.borrow().of(&pod.namespace, &pod.name).is_ok();
        if self.overrides || !is_known {
            return None;
        }
        self.labels.objection(pod)
    }

    /// Returns when a label has come or gone.
    pub(super) async fn changed(&mut self) {
        if let Labels::Followed(labels) = &mut self.labels
            && labels.changed().await.is_ok()
        {
            return;
        }
        std::future::pending::<()>().await;
    }

    /// What the policy demands, which a capture with this filter meets.
    ///
    /// # Errors
    ///
    /// When it does not.
    pub(super) fn demanded(&self, whom: Whom<'_>, filter: Option<&str>) -> Result<Demanded, NoConsent> {
        let demanded = self.policy.of(whom);
        let has_filter = filter.is_some_and(|filter| !filter.trim().is_empty());
        let whose = match whom {
            Whom::Namespace(namespace) => format!("pods of {namespace} are"),
            Whom::Node => "the node is".to_owned(),
        };
        match demanded.require_filter && !has_filter {
            true => Err(NoConsent(format!(
                "{whose} captured with a filter only, by the policy of this node: name one with -f"
            ))),
            false => Ok(demanded),
        }
    }

    /// The longest that a capture of them may last, by the policy.
    pub(super) fn longest(&self, whom: Whom<'_>) -> Option<Duration> {
        self.policy.of(whom).duration
    }
}

fn unknown(why: &str) -> String {
    format!("it is not known whether it denies that (label {LABEL}): {why}")
}

/// What a label says against a capture. Words that are not known are no consent.
fn objection(label: Option<&str>, whose: &str) -> Option<String> {
    match label? {
        ALLOW => None,
        DENY => Some(format!("{whose} the label {LABEL}: {DENY}")),
        other => Some(format!("{whose} the label {LABEL}: {other:?}, which is neither {ALLOW} nor {DENY}")),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn pod(label: Option<&str>) -> PodRef {
        let [namespace, name, uid] = ["shop", "db-0", "u"].map(str::to_owned);
        PodRef { namespace, name, uid, facts: Arc::default(), capture_label: label.map(str::to_owned) }
    }

    fn consent(labels: Labels, asks: bool, may: bool) -> Consent {
        Consent::new(labels, Policy::default(), asks, may)
    }

    #[test]
    fn a_label_denies_unless_it_allows() {
        assert_eq!(objection(None, "it has"), None);
        assert_eq!(objection(Some("allow"), "it has"), None);
        assert_eq!(objection(Some("deny"), "it has").unwrap(), "it has the label sniff/capture: deny");
        for other in ["", "Deny", "no", "true", "allow "] {
            let why = objection(Some(other), "it has").expect(other);
            assert!(why.ends_with("which is neither allow nor deny"), "{why}");
        }
    }

    #[test]
    fn who_denies_is_captured_by_whoever_may_override_that_and_asks_for_it() {
        let denies = pod(Some("deny"));
        let ask = |asks, may| consent(Labels::Made, asks, may).ask(&denies);
        let why = "it was made with the label sniff/capture: deny";
        assert_eq!(ask(true, true).unwrap().as_deref(), Some(why));
        for (asks, may, advice) in [
            (false, true, "whoever may capture the node can override that by --override-deny"),
            (false, false, "whoever may capture the node"),
            (true, false, "--override-deny takes the right to capture the node, which you have not"),
        ] {
            let error = ask(asks, may).unwrap_err().to_string();
            assert!(error.contains(why) && error.contains(advice), "{error}");
        }
        assert_eq!(consent(Labels::Made, false, false).ask(&pod(None)).unwrap(), None);
    }

    #[test]
    fn what_is_not_known_is_no_consent() {
        let labels = || Labels::Unknown("no such cluster".into());
        let error = consent(labels(), false, true).ask(&pod(Some("allow"))).unwrap_err().to_string();
        assert!(
            error.contains("not known whether it denies that (label sniff/capture): no such cluster"),
            "{error}"
        );
        assert!(consent(labels(), true, true).ask(&pod(None)).unwrap().is_some());
        let (_sender, followed) = watch::channel(CaptureLabels::default());
        let consent = consent(Labels::Followed(followed), false, true);
        assert!(consent.ask(&pod(None)).is_err());
        // Who is captured goes on through an outage.
        assert_eq!(consent.objection_now(&pod(None)), None);
    }
}
