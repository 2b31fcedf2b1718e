//! How the API server is reached, and as whom: what a company's kubeconfig asks for.

use std::{fs, process::Output};

use serde_json::{Value, json};
use sniff_tests::{
    client::{self, write_script},
    netns::tool,
    proxy::Proxy,
};
use tempfile::TempDir;

use super::Shop;

/// A cluster behind a proxy, and a folder for kubeconfigs and programs.
struct Office {
    place: Shop,
    proxy: Proxy,
    folder: TempDir,
}

impl Office {
    fn new() -> Self {
        let place = Shop::new();
        let proxy = Proxy::start(place.cluster.address());
        Self { place, proxy, folder: tempfile::tempdir().expect("a folder") }
    }

    fn file(&self, name: &str, content: &Value) -> String {
        let path = self.folder.path().join(name);
        fs::write(&path, content.to_string()).expect("a file");
        path.display().to_string()
    }

    /// The part of a kubeconfig that says where, by a proxy of this scheme.
    fn clusters(&self, scheme: &str) -> Value {
        // A name that only the proxy knows.
        let port = self.place.cluster.address().port();
        let cluster =
            json!({"server": format!("http://api.example.com:{port}"), "proxy-url": self.proxy.url(scheme)});
        json!({"apiVersion": "v1", "kind": "Config", "clusters": [{"name": "c", "cluster": cluster}]})
    }

    fn doctor(&self, kubeconfig: &str) -> Output {
        let mut command = tool(client::binary());
        let path = format!("{}:/usr/bin:/bin", self.folder.path().display());
        // What a kubeconfig says is not for the environment to take back.
        command.env("NO_PROXY", "127.0.0.1,api.example.com");
        command.arg("doctor").env("KUBECONFIG", kubeconfig).env("PATH", path).env("HOME", self.folder.path());
        command.output().expect("kubectl-sniff")
    }
}

/// The part of a kubeconfig that says who.
fn users(user: &Value) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Config", "users": [{"name": "u", "user": user}], "current-context": "x",
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u", "namespace": "tools"}}],
    })
}

#[track_caller]
fn assert_all_is_well(output: &Output) {
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    // What was asked of the agent came over an exec.
    assert!(said.contains(") in 1 pod(s)"), "{said}");
}

#[test]
fn a_plugin_of_one_file_logs_in_at_the_proxy_of_another() {
    let office = Office::new();
    let plugin = json!({"exec": {
        "apiVersion": "client.authentication.k8s.io/v1", "command": "cloud-auth", "args": ["--cluster", "shop"],
        "env": [{"name": "CLOUD_PROFILE", "value": "ops"}], "interactiveMode": "Never",
    }});
    write_script(
        &office.folder.path().join("cloud-auth"),
        "echo '{\"apiVersion\": \"client.authentication.k8s.io/v1\", \"kind\": \"ExecCredential\",\
         \"status\": {\"token\": \"'$CLOUD_PROFILE-$2'\"}}'\n",
    );
    let (users, clusters) =
        (office.file("users", &users(&plugin)), office.file("clusters", &office.clusters("http")));
    assert_all_is_well(&office.doctor(&format!("{users}:{clusters}")));
    let asked = office.proxy.asked();
    let requests = asked.matches(" HTTP/1.1\r\n").count();
    let with_token = asked.to_lowercase().matches("authorization: bearer ops-shop\r\n").count();
    assert!(requests > 2 && with_token == requests, "{with_token} of {requests}: {asked}");
}

#[test]
fn a_plugin_that_is_not_there_or_fails_is_named() {
    let office = Office::new();
    let login = |command: &str| {
        let plugin = json!({"exec": {"apiVersion": "client.authentication.k8s.io/v1", "command": command,
            "installHint": "Get it:\napt install no-such-auth", "interactiveMode": "Never"}});
        let config =
            [office.file("users", &users(&plugin)), office.file("clusters", &office.clusters("http"))];
        let output = office.doctor(&config.join(":"));
        assert_eq!(output.status.code(), Some(1));
        String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
    };
    let said = login("no-such-auth");
    assert!(said.contains("no-such-auth, by which to log in, cannot be run"), "{said}");
    assert!(said.contains("apt install no-such-auth"), "{said}");
    write_script(&office.folder.path().join("broken-auth"), "echo 'run cloud login' >&2\nexit 3\n");
    let said = login("broken-auth");
    assert!(said.contains("broken-auth") && said.contains("run cloud login"), "{said}");
}

#[test]
fn a_socks_proxy_leads_to_the_api_server() {
    let office = Office::new();
    let config = [
        office.file("users", &users(&json!({"token": "t"}))),
        office.file("clusters", &office.clusters("socks5")),
    ];
    assert_all_is_well(&office.doctor(&config.join(":")));
    assert!(office.proxy.asked().contains("Bearer t"));
}
