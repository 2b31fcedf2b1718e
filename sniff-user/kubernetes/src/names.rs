//! What the addresses of pods and services are called.

use std::{fmt::Debug, net::IpAddr};

use anyhow::Result;
use k8s_openapi::api::core::v1;
use kube::{Api, Resource, api::ListParams, core::NamespaceResourceScope};
use serde::de::DeserializeOwned;

use crate::{Cluster, Request};

/// Most objects of a kind: whoever captures a few pods does not load a whole large cluster.
const MOST: usize = 10_000;

impl Cluster {
    /// What the addresses of the pods and services of a namespace are called, or of all namespaces: `web-0.shop` and
    /// `db.shop.svc`. Pods on their node's network have no address of their own.
    ///
    /// # Errors
    ///
    /// When the server refuses or does not answer, or there are more than 10,000 of either.
    pub async fn names_of_addresses(&self, namespace: Option<&str>) -> Result<Vec<(IpAddr, String)>> {
        let mut names = Vec::new();
        self.each("pods", namespace, |pod: v1::Pod| names.extend(of_pod(&pod))).await?;
        self.each("services", namespace, |service: v1::Service| names.extend(of_service(&service))).await?;
        Ok(names)
    }

    async fn each<K>(
        &self,
        resource: &'static str,
        namespace: Option<&str>,
        take: impl FnMut(K),
    ) -> Result<()>
    where
        K: Clone + Debug + DeserializeOwned + Resource<DynamicType = (), Scope = NamespaceResourceScope>,
    {
        let api: Api<K> = match namespace {
            Some(namespace) => Api::namespaced(self.client.clone(), namespace),
            None => Api::all(self.client.clone()),
        };
        let request = Request { verb: "list", resource, namespace, name: None };
        self.list_each(request, &api, ListParams::default(), MOST, take).await
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

    #[tokio::test]
    async fn addresses_are_called_by_pods_and_services() {
        let api = ApiServer::without_nodes();
        let put = |resource: &str, name: &str, mut object: serde_json::Value| {
            object["metadata"] = json!({"namespace": "shop", "name": name});
            api.put(resource, "shop", name, object);
        };
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
        let login = Login { kubeconfig: Some(api.kubeconfig_file().to_owned()), ..Login::default() };
        let cluster = Cluster::configured(&login).await.unwrap().unwrap();
        for namespace in [Some("shop"), None] {
            let mut names = cluster.names_of_addresses(namespace).await.unwrap();
            names.sort();
            names.dedup();
            let names: Vec<_> = names.iter().map(|(address, name)| format!("{address} {name}")).collect();
            assert_eq!(
                names,
                [
                    "10.0.0.1 web-0.shop",
                    "10.96.0.1 db.shop.svc",
                    "203.0.113.1 db.shop.svc",
                    "fd00::1 web-0.shop",
                    "fd96::1 db.shop.svc"
                ]
            );
        }
        assert!(cluster.names_of_addresses(Some("other")).await.unwrap().is_empty());
        api.deny("list", "services");
        assert!(cluster.names_of_addresses(None).await.is_err());
    }
}
