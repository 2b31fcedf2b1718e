//! What a person writes for a target.
//!
//! Names go into the paths of requests, so only what Kubernetes allows in names gets through here.

use std::fmt;

use sniff_kubernetes::Workload;

/// Longest name of an object (RFC 1123 subdomain, as the API's documentation of names has it).
const MAX_NAME: usize = 253;

/// A target by its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reference {
    /// A pod.
    Pod {
        /// Its namespace, when it is named.
        namespace: Option<String>,
        /// Its name.
        name: String,
    },
    /// The pods of a workload or service.
    Workload(Workload, String),
    /// A node.
    Node(String),
}

impl Reference {
    /// Reads `POD`, `NS/POD` or `KIND/NAME`. A namespace that is called like a kind needs `-n`.
    ///
    /// # Errors
    ///
    /// When it is none of those; says why.
    pub fn parse(text: &str) -> Result<Self, String> {
        let Some((kind, name)) = text.split_once('/') else {
            return Ok(Self::Pod { namespace: None, name: dns_name(text)? });
        };
        let name = dns_name(name)?;
        let workload = |workload| Ok(Self::Workload(workload, name.clone()));
        match kind {
            "pod" | "pods" | "po" => Ok(Self::Pod { namespace: None, name }),
            "deploy" | "deployment" | "deployments" | "deployment.apps" => workload(Workload::Deployment),
            "sts" | "statefulset" | "statefulsets" | "statefulset.apps" => workload(Workload::StatefulSet),
            "ds" | "daemonset" | "daemonsets" | "daemonset.apps" => workload(Workload::DaemonSet),
            "rs" | "replicaset" | "replicasets" | "replicaset.apps" => workload(Workload::ReplicaSet),
            "job" | "jobs" | "job.batch" => workload(Workload::Job),
            "svc" | "service" | "services" => workload(Workload::Service),
            "node" | "nodes" | "no" => Ok(Self::Node(name)),
            namespace => Ok(Self::Pod { namespace: Some(dns_name(namespace)?), name }),
        }
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pod { namespace: Some(namespace), name } => write!(f, "{namespace}/{name}"),
            Self::Pod { namespace: None, name } => write!(f, "{name}"),
            Self::Workload(workload, name) => write!(f, "{workload}/{name}"),
            Self::Node(name) => write!(f, "node/{name}"),
        }
    }
}

/// A name as Kubernetes allows it: letters, digits, `-` and `.`, and letters or digits at both ends.
///
/// # Errors
///
/// When it is something else; says so.
pub fn dns_name(text: &str) -> Result<String, String> {
    let is_plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let inner = text.bytes().all(|byte| is_plain(byte) || byte == b'-' || byte == b'.');
    let ends = text.bytes().next().is_some_and(is_plain) && text.bytes().next_back().is_some_and(is_plain);
    if inner && ends && text.len() <= MAX_NAME && !text.contains("..") {
        Ok(text.to_owned())
    } else {
        Err(format!("\"{}\" is no name in Kubernetes", text.escape_debug()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_read_as_kubectl_writes_them() {
        let pod = |namespace: Option<&str>, name: &str| Reference::Pod {
            namespace: namespace.map(Into::into),
            name: name.into(),
        };
        for (text, means) in [
            ("web-0", pod(None, "web-0")),
            ("shop/web-0", pod(Some("shop"), "web-0")),
            ("pod/cleanup", pod(None, "cleanup")),
            ("deploy/web", Reference::Workload(Workload::Deployment, "web".into())),
            ("statefulsets/db", Reference::Workload(Workload::StatefulSet, "db".into())),
            ("svc/web", Reference::Workload(Workload::Service, "web".into())),
            ("node/n-1.example", Reference::Node("n-1.example".into())),
        ] {
            assert_eq!(Reference::parse(text), Ok(means), "{text}");
        }
    }

    #[test]
    fn what_is_no_name_does_not_reach_a_path() {
        let long = "x".repeat(254);
        for bad in [
            "", "/", "a/", "/b", "a/b/c", "..", "a/..", "../x", "a?b", "a%2fb", "A", "-a", "a\n", "$(a)",
            "a b", &long,
        ] {
            assert!(Reference::parse(bad).is_err(), "{bad:?}");
        }
    }
}
