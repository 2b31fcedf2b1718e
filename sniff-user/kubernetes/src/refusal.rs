//! What becomes of the API server's errors: one line, and [`Forbidden`] when rights are missing.

use std::fmt;

use anyhow::anyhow;
use kube::{client::AuthError, config::ExecConfig, core::Status, runtime::watcher};

use crate::Request;

/// The API server does not let this user do something.
#[derive(Debug, PartialEq, Eq)]
pub struct Forbidden {
    missing: String,
    server_says: String,
}

/// An error as one line, [`Forbidden`] when the rights are missing.
pub(crate) fn explain(server: &str, request: Request<'_>, error: kube::Error) -> anyhow::Error {
    match error {
        kube::Error::Api(status) => refusal(server, request, &status),
        kube::Error::Auth(error) => anyhow!("Kubernetes API at {server}: {request}: {}", login(None, &error)),
        other => anyhow!("Kubernetes API at {server}: {request}: {}", root(&other.into())),
    }
}

/// The error of a client that cannot be made, by the kubeconfig's `plugin` or without one.
pub(crate) fn explain_client(plugin: Option<&ExecConfig>, error: kube::Error) -> anyhow::Error {
    match error {
        kube::Error::Auth(error) => anyhow!("kubeconfig: {}", login(plugin, &error)),
        other => anyhow!("setting up the Kubernetes client: {}", root(&other.into())),
    }
}

/// What kept somebody from logging in. What a plugin prints to stdout is secret.
fn login(plugin: Option<&ExecConfig>, error: &AuthError) -> String {
    let name = plugin.and_then(|plugin| plugin.command.as_deref());
    let hint = plugin.and_then(|plugin| plugin.install_hint.as_deref()).unwrap_or("is it on the PATH?");
    match error {
        AuthError::AuthExecStart(error) => {
            let name = name.unwrap_or("what logs in there");
            format!("{name}, by which to log in, cannot be run: {error}; {}", one_line(hint))
        }
        AuthError::AuthExecRun { cmd, out } => {
            let said = one_line(&String::from_utf8_lossy(&out.stderr));
            format!("`{cmd}`, by which to log in, failed ({}): {said}", out.status)
        }
        other => other.to_string(),
    }
}

fn one_line(text: &str) -> String {
    text.lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join(" ")
}

/// The same of a watch; `request` is what is asked with a verb.
pub(crate) fn explain_watch<'a>(
    server: &str,
    request: impl FnOnce(&'static str) -> Request<'a>,
    error: watcher::Error,
) -> anyhow::Error {
    match error {
        watcher::Error::InitialListFailed(error) => explain(server, request("list"), error),
        watcher::Error::WatchStartFailed(error) | watcher::Error::WatchFailed(error) => {
            explain(server, request("watch"), error)
        }
        watcher::Error::WatchError(status) => refusal(server, request("watch"), &status),
        other @ watcher::Error::NoResourceVersion => other.into(),
    }
}

pub(crate) fn refusal(server: &str, request: Request<'_>, status: &Status) -> anyhow::Error {
    match status.code {
        // Admission refuses with the same code as RBAC, but says more than who may do what.
        403 if !is_admission(&status.message) => {
            let missing = request.to_string();
            // To one request can belong several rights.
            let missing = match refused_verb(&status.message) {
                Some(verb) => missing.replacen(request.verb, verb, 1),
                None => missing,
            };
            Forbidden { missing, server_says: status.message.clone() }.into()
        }
        401 => anyhow!(
            "Kubernetes API at {server}: it does not know you ({}): log in again, or choose another context",
            status.message
        ),
        code => anyhow!("Kubernetes API at {server}: {request}: {} ({code})", status.message),
    }
}

/// What is at the bottom of an error: those above repeat it. The TLS library's link into its own documentation is left
/// out.
pub(crate) fn root(error: &anyhow::Error) -> String {
    let root = error.root_cause().to_string();
    match root.split_once(": https://docs.rs/") {
        Some((what, _)) => what.to_owned(),
        None => root,
    }
}

/// The verb that RBAC refuses.
fn refused_verb(message: &str) -> Option<&str> {
    message.split_once(" cannot ")?.1.split(' ').next()
}

/// Whether a 403 comes from PodSecurity or another admission controller. RBAC's own begin alike, and then say
/// `User "…" cannot VERB resource`.
fn is_admission(message: &str) -> bool {
    refused_verb(message).is_none()
}

impl fmt::Display for Forbidden {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { missing, server_says } = self;
        write!(f, "you may not {missing}: ask for a role that allows it (the API server says: {server_says})")
    }
}

impl std::error::Error for Forbidden {}

#[cfg(test)]
mod tests {
    use std::io::{Error, ErrorKind};

    use super::*;

    #[test]
    fn an_error_is_told_once_and_without_links() {
        let cut = "peer closed connection without sending TLS close_notify: https://docs.rs/rustls/latest/rustls/#eof";
        let error = anyhow::Error::from(Error::new(ErrorKind::UnexpectedEof, cut))
            .context(format!("IO error: {cut}"));
        assert_eq!(root(&error), "peer closed connection without sending TLS close_notify");
        assert_eq!(root(&anyhow!("no such host")), "no such host");
    }

    #[test]
    fn missing_rights_are_told_from_other_refusals() {
        let request = Request { verb: "get", resource: "pods", namespace: Some("web"), name: Some("front") };
        let refused = |code, message: &str| {
            let status = Status { code, message: message.into(), ..Status::default() };
            refusal("http://k8s/", request, &status)
        };
        let by_rbac = refused(403, r#"pods "front" is forbidden: User "jane" cannot create resource "pods""#);
        assert!(by_rbac.is::<Forbidden>());
        assert!(by_rbac.to_string().starts_with("you may not create pods front in namespace web: "));
        let by_admission = refused(403, "pods is forbidden");
        assert!(!by_admission.is::<Forbidden>());
        let told = "Kubernetes API at http://k8s/: get pods front in namespace web: pods is forbidden (403)";
        assert_eq!(by_admission.to_string(), told);
        let unknown = refused(401, "Unauthorized").to_string();
        assert!(unknown.contains("it does not know you (Unauthorized): log in again"), "{unknown}");
    }
}
