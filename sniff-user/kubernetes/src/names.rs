//! What the addresses of pods and services are called, from the start of a capture to its end.

use std::{collections::HashMap, fmt::Debug, net::IpAddr};

use anyhow::{Result, anyhow};
use futures_util::{StreamExt as _, future::join_all};
use k8s_openapi::api::core::v1;
use kube::{
    Api, Resource,
    core::NamespaceResourceScope,
    runtime::watcher::{self, Event, watcher},
};
use log::debug;
use serde::de::DeserializeOwned;
use tokio::{sync::mpsc, time::sleep};

use crate::{
    Cluster, Forbidden, Request,
    refusal::explain_watch,
    watching::{EXPIRED, Pauses},
};

/// Most objects of a kind: whoever captures a few pods does not load a whole large cluster.
const MOST: usize = 10_000;

/// What is heard of names.
#[derive(Debug)]
pub enum Named {
    /// These addresses are called so: `web-0.shop` and `db.shop.svc`.
    Names(Vec<(IpAddr, String)>),
    /// The server does not answer; tries go on.
    Trouble(anyhow::Error),
    /// Some will not be heard of, or no more of them: the server refuses, or there are more than 10,000 of a kind.
    Over(anyhow::Error),
}

/// Follows what the addresses of pods and services are called, until nobody hears it any more: in the whole cluster, or in
/// these namespaces if that cannot be had. Pods on their node's network have no address of their own.
pub fn follow_names(cluster: Cluster, namespaces: Vec<String>, told: mpsc::Sender<Named>) {
    tokio::spawn(async move {
        let each = async {
            tokio::join!(
                follow_kind::<v1::Pod>(&cluster, &namespaces, &told),
                follow_kind::<v1::Service>(&cluster, &namespaces, &told),
            )
        };
        tokio::select! {
            _ = each => {}
            () = told.closed() => {}
        }
    });
}

/// Objects that addresses are called by.
trait Kind:
    Clone + Debug + DeserializeOwned + Resource<DynamicType = (), Scope = NamespaceResourceScope> + Send + 'static
{
    /// As requests and rules name it.
    const RESOURCE: &'static str;

    /// What its addresses are called.
    fn names(&self) -> Vec<(IpAddr, String)>;
}

impl Kind for v1::Pod {
    const RESOURCE: &'static str = "pods";

    fn names(&self) -> Vec<(IpAddr, String)> {
        of_pod(self)
    }
}

impl Kind for v1::Service {
    const RESOURCE: &'static str = "services";

    fn names(&self) -> Vec<(IpAddr, String)> {
        of_service(self)
    }
}

async fn follow_kind<K: Kind>(cluster: &Cluster, namespaces: &[String], told: &mpsc::Sender<Named>) {
    let follow = |namespace| Followed { cluster, namespace, told }.follow::<K>();
    let over = follow(None).await;
    let over = if namespaces.is_empty() {
        vec![over]
    } else {
        debug!("names of all {}: {over:#}", K::RESOURCE);
        join_all(namespaces.iter().map(|namespace| follow(Some(namespace)))).await
    };
    for error in over {
        // Whoever does not hear it has ended.
        let _ = told.send(Named::Over(error)).await;
    }
}

/// Objects of a kind that are followed.
struct Followed<'a> {
    cluster: &'a Cluster,
    /// `None` for all.
    namespace: Option<&'a str>,
    told: &'a mpsc::Sender<Named>,
}

impl Followed<'_> {
    /// Lists and watches, again and again; returns why that cannot go on.
    async fn follow<K: Kind>(self) -> anyhow::Error {
        let mut pauses = Pauses::default();
        loop {
            let error = match self.once::<K>().await {
                Ok(too_many) => return too_many,
                Err(error) => explain_watch(self.cluster.server(), |verb| self.request::<K>(verb), error),
            };
            if error.is::<Forbidden>() {
                return error;
            }
            // Whoever does not hear it has ended.
            let _ = self.told.send(Named::Trouble(error)).await;
            sleep(pauses.next().unwrap_or_default()).await;
        }
    }

    /// The same until something goes wrong; says that there are too many.
    async fn once<K: Kind>(&self) -> Result<anyhow::Error, watcher::Error> {
        let api: Api<K> = match self.namespace {
            Some(namespace) => Api::namespaced(self.cluster.client.clone(), namespace),
            None => Api::all(self.cluster.client.clone()),
        };
        let mut events = watcher(api, watcher::Config::default()).boxed();
        let (mut listed, mut count) = (Vec::new(), 0);
        let mut known = HashMap::new();
        while let Some(event) = events.next().await {
            let names = match event {
                Ok(Event::Init) => {
                    (listed, count) = (Vec::new(), 0);
                    continue;
                }
                Ok(Event::InitApply(object)) => {
                    listed.extend(object.names());
                    count += 1;
                    if count > MOST {
                        return Ok(anyhow!("there are more than {MOST} {}", K::RESOURCE));
                    }
                    continue;
                }
                Ok(Event::InitDone) => std::mem::take(&mut listed),
                Ok(Event::Apply(object)) => object.names(),
                Ok(Event::Delete(_)) => continue,
                // It lists again by itself.
                Err(watcher::Error::WatchError(status)) if status.code == EXPIRED => continue,
                Err(error) => return Err(error),
            };
            // Kubelets report often; most of that changes nothing here.
            let is_news = |(address, name): &(IpAddr, String)| {
                known.insert(*address, name.clone()).as_ref() != Some(name)
            };
            let news: Vec<_> = names.into_iter().filter(is_news).collect();
            if !news.is_empty() {
                // Whoever does not hear it has ended.
                let _ = self.told.send(Named::Names(news)).await;
            }
        }
        Ok(anyhow!("the watch of {} has ended", K::RESOURCE))
    }

    fn request<K: Kind>(&self, verb: &'static str) -> Request<'_> {
        Request { verb, resource: K::RESOURCE, namespace: self.namespace, name: None }
    }
}

/// A pod's addresses, each with the pod's name.
pub(crate) fn of_pod(pod: &v1::Pod) -> Vec<(IpAddr, String)> {
    let name = format!(
        "{}.{}",
        pod.metadata.name.as_deref().unwrap_or_default(),
        pod.metadata.namespace.as_deref().unwrap_or_default()
    );
    let is_nodes = pod.spec.as_ref().is_some_and(|spec| spec.host_network == Some(true));
    let Some(status) = pod.status.as_ref().filter(|_| !is_nodes) else { return Vec::new() };
    // Those of a pod that has ended are another's by now.
    if matches!(status.phase.as_deref(), Some("Succeeded" | "Failed")) {
        return Vec::new();
    }
    let several = status.pod_ips.iter().flatten().map(|it| it.ip.as_str());
    let addresses = several.chain(status.pod_ip.as_deref()).filter_map(|ip| ip.parse().ok());
    addresses.map(|address| (address, name.clone())).collect()
}

/// A service's addresses; a headless one says `None`.
fn of_service(service: &v1::Service) -> Vec<(IpAddr, String)> {
    let name = format!(
        "{}.{}.svc",
        service.metadata.name.as_deref().unwrap_or_default(),
        service.metadata.namespace.as_deref().unwrap_or_default()
    );
    let Some(spec) = &service.spec else { return Vec::new() };
    let balanced = service.status.iter().flat_map(|status| &status.load_balancer);
    let balanced = balanced.flat_map(|it| it.ingress.iter().flatten()).filter_map(|it| it.ip.as_deref());
    let own = spec.cluster_ips.iter().flatten().map(String::as_str).chain(spec.cluster_ip.as_deref());
    let addresses = own.chain(balanced).filter_map(|ip| ip.parse().ok());
    addresses.map(|address| (address, name.clone())).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use sniff_apiserver::ApiServer;

    use super::*;
    use crate::Login;

    async fn follow(api: &ApiServer, namespaces: &[&str]) -> mpsc::Receiver<Named> {
        let login = Login { kubeconfig: Some(api.kubeconfig_file().to_owned()), ..Login::default() };
        let cluster = Cluster::configured(&login).await.unwrap().unwrap();
        let (told, named) = mpsc::channel(16);
        follow_names(cluster, namespaces.iter().map(|it| (*it).to_owned()).collect(), told);
        named
    }

    /// The next so many names, in order.
    async fn names(named: &mut mpsc::Receiver<Named>, count: usize) -> Vec<String> {
        let mut names = Vec::new();
        while names.len() < count {
            match named.recv().await {
                Some(Named::Names(more)) => {
                    names.extend(more.iter().map(|(address, name)| format!("{address} {name}")));
                }
                other => panic!("{other:?}: {names:?}"),
            }
        }
        names.sort();
        names
    }

    fn put(api: &ApiServer, resource: &str, name: &str, mut object: serde_json::Value) {
        object["metadata"] = json!({"namespace": "shop", "name": name});
        api.put(resource, "shop", name, object);
    }

    fn pod(api: &ApiServer, name: &str, address: &str) {
        put(api, "pods", name, json!({"status": {"podIP": address}}));
    }

    #[tokio::test]
    async fn addresses_are_called_by_pods_and_services() {
        let api = ApiServer::without_nodes();
        let put = |resource: &str, name: &str, object| put(&api, resource, name, object);
        let several = json!([{"ip": "10.0.0.1"}, {"ip": "fd00::1"}]);
        put("pods", "web-0", json!({"status": {"podIP": "10.0.0.1", "podIPs": several}}));
        let on_node = json!({"hostNetwork": true, "containers": []});
        put("pods", "on-node", json!({"spec": on_node, "status": {"podIP": "192.168.0.1"}}));
        put("pods", "over", json!({"status": {"phase": "Failed", "podIP": "10.0.0.2"}}));
        put("pods", "to-come", json!({"status": {"phase": "Pending"}}));
        let ingress =
            json!({"loadBalancer": {"ingress": [{"ip": "203.0.113.1"}, {"hostname": "db.example"}]}});
        let spec = json!({"clusterIP": "10.96.0.1", "clusterIPs": ["10.96.0.1", "fd96::1"]});
        put("services", "db", json!({"spec": spec, "status": ingress}));
        put("services", "headless", json!({"spec": {"clusterIP": "None"}}));
        let mut named = follow(&api, &[]).await;
        assert_eq!(
            names(&mut named, 5).await,
            [
                "10.0.0.1 web-0.shop",
                "10.96.0.1 db.shop.svc",
                "203.0.113.1 db.shop.svc",
                "fd00::1 web-0.shop",
                "fd96::1 db.shop.svc"
            ]
        );
    }

    #[tokio::test]
    async fn what_comes_or_changes_later_is_told_once() {
        let api = ApiServer::without_nodes();
        pod(&api, "web-0", "10.0.0.1");
        let mut named = follow(&api, &["shop"]).await;
        assert_eq!(names(&mut named, 1).await, ["10.0.0.1 web-0.shop"]);
        pod(&api, "web-0", "10.0.0.1");
        pod(&api, "web-1", "10.0.0.2");
        assert_eq!(names(&mut named, 1).await, ["10.0.0.2 web-1.shop"]);
        // Another pod has the address of one that is gone, and gives it back.
        api.remove_pod("shop", "web-1");
        pod(&api, "db-0", "10.0.0.2");
        assert_eq!(names(&mut named, 1).await, ["10.0.0.2 db-0.shop"]);
        put(&api, "services", "db", json!({"spec": {"clusterIP": "10.96.0.1"}}));
        assert_eq!(names(&mut named, 1).await, ["10.96.0.1 db.shop.svc"]);
        put(&api, "services", "db", json!({"spec": {"clusterIP": "10.96.0.2"}}));
        assert_eq!(names(&mut named, 1).await, ["10.96.0.2 db.shop.svc"]);
    }

    #[tokio::test]
    async fn what_comes_in_an_outage_is_told_behind_it() {
        let api = ApiServer::without_nodes();
        pod(&api, "web-0", "10.0.0.1");
        let mut named = follow(&api, &[]).await;
        assert_eq!(names(&mut named, 1).await, ["10.0.0.1 web-0.shop"]);
        api.go_down();
        pod(&api, "web-1", "10.0.0.2");
        assert!(matches!(named.recv().await, Some(Named::Trouble(_))));
        api.come_up();
        loop {
            match named.recv().await {
                Some(Named::Names(names)) if names.iter().any(|(_, name)| name == "web-1.shop") => break,
                Some(Named::Over(error)) => panic!("{error:#}"),
                None => panic!("it has ended"),
                _ => {}
            }
        }
    }

    #[tokio::test]
    async fn what_is_refused_is_said_of_each_and_the_rest_is_told() {
        for (verb, namespaces, refused) in [
            ("list", &[][..], &["you may not list services in all namespaces"][..]),
            (
                "list",
                &["shop", "tools"],
                &[
                    "you may not list services in namespace shop",
                    "you may not list services in namespace tools",
                ],
            ),
            ("watch", &["shop"], &["you may not watch services in namespace shop"]),
        ] {
            let api = ApiServer::without_nodes();
            pod(&api, "web-0", "10.0.0.1");
            api.deny(verb, "services");
            let mut named = follow(&api, namespaces).await;
            let (mut over, mut is_named) = (Vec::new(), false);
            while over.len() < refused.len() || !is_named {
                match named.recv().await.unwrap() {
                    Named::Names(names) => is_named |= names.iter().any(|(_, name)| name == "web-0.shop"),
                    Named::Over(error) => over.push(format!("{error:#}")),
                    Named::Trouble(error) => panic!("{error:#}"),
                }
            }
            assert!(over.iter().zip(refused).all(|(said, why)| said.starts_with(why)), "{over:?}");
            // The others go on.
            pod(&api, "web-1", "10.0.0.2");
            assert_eq!(names(&mut named, 1).await, ["10.0.0.2 web-1.shop"]);
        }
    }

    #[tokio::test]
    async fn too_many_are_not_loaded() {
        let api = ApiServer::without_nodes();
        (0..=MOST).for_each(|n| pod(&api, &format!("web-{n}"), "10.0.0.1"));
        put(&api, "services", "db", json!({"spec": {"clusterIP": "10.96.0.1"}}));
        let mut named = follow(&api, &[]).await;
        let mut over = None;
        let mut told = Vec::new();
        while over.is_none() || told.is_empty() {
            match named.recv().await.unwrap() {
                Named::Names(names) => told.extend(names),
                Named::Over(error) => over = Some(error.to_string()),
                Named::Trouble(error) => panic!("{error:#}"),
            }
        }
        assert_eq!(over.as_deref(), Some("there are more than 10000 pods"));
        assert_eq!(told, [([10, 96, 0, 1].into(), "db.shop.svc".to_owned())]);
    }
}
