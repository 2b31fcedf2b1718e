//! The proxy that the environment names, as kubectl takes it from there (Go's `net/http`, `ProxyFromEnvironment`): for
//! all but this machine and what `NO_PROXY` lists.

use std::net::IpAddr;

use anyhow::{Context as _, Result};
use http::Uri;
use hyper_util::client::proxy::matcher::Matcher;

/// What leads to `server`; `variable` is the environment.
///
/// # Errors
///
/// When what the variable says is no URL.
pub(crate) fn of_environment(server: &Uri, variable: impl Fn(&str) -> Option<String>) -> Result<Option<Uri>> {
    let value = |name: &str| {
        let set = variable(name).or_else(|| variable(&name.to_lowercase()));
        set.filter(|value| !value.is_empty())
    };
    let name = if server.scheme_str() == Some("https") { "HTTPS_PROXY" } else { "HTTP_PROXY" };
    let Some(proxy) = value(name) else { return Ok(None) };
    if is_this_machine(server) || is_left_out(server, &value("NO_PROXY").unwrap_or_default()) {
        return Ok(None);
    }
    let url = if proxy.contains("://") { proxy } else { format!("http://{proxy}") };
    url.parse().map(Some).with_context(|| format!("{name} is no URL"))
}

fn is_this_machine(server: &Uri) -> bool {
    let host = server.host().unwrap_or_default().trim_matches(['[', ']']);
    host == "localhost" || host.parse().is_ok_and(|address: IpAddr| address.is_loopback())
}

fn is_left_out(server: &Uri, list: &str) -> bool {
    // It is asked for what it leaves out alone; which proxy it would take does not matter.
    Matcher::builder().all("http://any").no(list).build().intercept(server).is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proxy(server: &str, variables: &[(&str, &str)]) -> Option<String> {
        let variable = |wanted: &str| {
            variables.iter().find(|(name, _)| *name == wanted).map(|(_, value)| (*value).to_owned())
        };
        of_environment(&server.parse().unwrap(), variable).unwrap().map(|url| url.to_string())
    }

    #[test]
    fn the_environments_proxy_is_for_its_scheme_and_not_for_this_machine() {
        let both = [("HTTPS_PROXY", "http://u:p@a:1"), ("http_proxy", "b:2")];
        assert_eq!(proxy("https://k:6443", &both).as_deref(), Some("http://u:p@a:1/"));
        assert_eq!(proxy("http://k:8080", &both).as_deref(), Some("http://b:2/"));
        assert_eq!(proxy("https://k", &[("https_proxy", "socks5://c:3")]).as_deref(), Some("socks5://c:3/"));
        for server in ["https://localhost:6443", "https://127.0.0.1:6443", "https://[::1]:6443"] {
            assert_eq!(proxy(server, &both), None, "{server}");
        }
        assert_eq!(proxy("https://k", &[("HTTPS_PROXY", "")]), None);
    }

    #[test]
    fn what_is_left_out_is_the_server_and_not_the_proxy() {
        let left_out = |server: &str, list: &str| {
            proxy(server, &[("HTTPS_PROXY", "http://10.0.0.5:3128"), ("NO_PROXY", list)]).is_none()
        };
        assert!(left_out("https://10.1.2.3:6443", "10.0.0.0/8,.corp"));
        assert!(left_out("https://k8s.corp", "10.0.0.0/8, .corp"));
        assert!(left_out("https://k8s.corp", "*"));
        assert!(!left_out("https://k8s.example.com", "10.0.0.0/8,.corp"), "though the proxy is in it");
        assert!(!left_out("https://k8s.example.com", "*.corp,10.0.0.5:3128"));
    }
}
