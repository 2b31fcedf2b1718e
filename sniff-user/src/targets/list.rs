//! The pods of this node with their interfaces, as `--list` prints them.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use log::info;

use super::{
    Interface, Options,
    interfaces::{self, ANY, shown},
    node::Node,
};

/// The heading of the table.
const COLUMNS: [&str; 7] = ["NAMESPACE", "POD", "INTERFACE", "HOST-INTERFACE", "INDEX", "MAC", "ADDRESSES"];
/// Stands for what does not exist.
const NONE: &str = "-";

/// One interface of a pod, or what is to be said of a pod without one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    pub namespace: String,
    pub pod: String,
    /// What there is to capture.
    pub detail: Detail,
}

/// What there is to capture of a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Detail {
    /// An interface of its own.
    Interface(Box<Interface>),
    /// The pod uses the node's network.
    HostNetwork,
    /// Nothing could be found out, for this reason.
    Unknown(String),
}

/// The pods that run on this node, by namespace and name, a row for each interface that is up; then the interfaces of
/// the node itself but for those that are the host's ends of the pods'. On a machine without a container runtime there
/// are only these.
///
/// A pod that cannot be looked into has a row that says why.
///
/// # Errors
/// When there is a container runtime, and neither that nor the Kubernetes API can be asked.
pub async fn list(options: &Options) -> Result<Vec<Row>> {
    let hosts = interfaces::hosts()?;
    let node = Node::find(options, &hosts).await?;
    let mut rows = Vec::new();
    let pods = match node.pods().await {
        Err(error) if node.has_no_runtime() => {
            info!("{error:#}; these are the interfaces of this machine");
            BTreeMap::default()
        }
        pods => pods?,
    };
    for ((namespace, pod), owned) in pods {
        let details = match owned {
            Ok(None) => vec![Detail::HostNetwork],
            Ok(Some(owned)) => match interfaces::of(&owned, &[], &hosts) {
                Ok(found) => found.into_iter().map(|i| Detail::Interface(i.into())).collect(),
                Err(e) => vec![Detail::Unknown(format!("{e:#}"))],
            },
            Err(e) => vec![Detail::Unknown(format!("{e:#}"))],
        };
        rows.extend(details.into_iter().map(|detail| Row {
            namespace: namespace.clone(),
            pod: pod.clone(),
            detail,
        }));
    }
    let here = interfaces::node(&hosts).context("no network namespace to run in")?;
    rows.extend(of_node(interfaces::of_host(ANY, here)?, &rows));
    Ok(rows)
}

/// Rows for the node's interfaces that none of the `pods`' rows names.
fn of_node(mut interfaces: Vec<Interface>, pods: &[Row]) -> Vec<Row> {
    let is_told = |interface: &Interface| {
        pods.iter()
            .any(|row| matches!(&row.detail, Detail::Interface(of_pod) if of_pod.shares_an_end(interface)))
    };
    interfaces.retain(|interface| !is_told(interface));
    let row = |interface: Interface| Row {
        namespace: NONE.to_owned(),
        pod: NONE.to_owned(),
        detail: Detail::Interface(interface.into()),
    };
    interfaces.into_iter().map(row).collect()
}

/// The rows as an aligned table with a heading, one line each and as many cells in each.
pub fn table(rows: &[Row]) -> String {
    sniff_cli::table::table(COLUMNS, rows.iter().map(cells))
}

fn cells(row: &Row) -> [String; 7] {
    let none = || NONE.to_owned();
    let [interface, host_interface, index, mac, addresses] = match &row.detail {
        Detail::Interface(interface) => interface_cells(interface),
        Detail::HostNetwork => [none(), none(), none(), none(), "host network".to_owned()],
        Detail::Unknown(why) => [none(), none(), none(), none(), why.clone()],
    };
    [shown(&row.namespace), shown(&row.pod), interface, host_interface, index, mac, addresses]
}

fn interface_cells(interface: &Interface) -> [String; 5] {
    let Interface { pod_side, host_side, host_side_missing, mac, ipv4, ipv6, .. } = interface;
    let or_none = |text: Option<String>| text.unwrap_or_else(|| NONE.into());
    let ipv4 = ipv4.iter().map(|(address, _)| address.to_string());
    let ipv6 = ipv6.iter().map(|(address, _)| address.to_string());
    let addresses: Vec<String> = ipv4.chain(ipv6).collect();
    let host_name = host_side.as_ref().map(|side| shown(&side.ifname));
    let missing = host_side_missing.as_ref().map(|why| format!("{NONE} ({why})"));
    [
        or_none(pod_side.as_ref().map(|side| shown(&side.ifname))),
        or_none(host_name.or(missing)),
        or_none(host_side.as_ref().map(|side| side.ifindex.to_string())),
        or_none(mac.map(|mac| mac.map(|byte| format!("{byte:02x}")).join(":"))),
        or_none((!addresses.is_empty()).then(|| addresses.join(","))),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::{link::LinkLayer, netns::Netns, side::Side};

    fn row(pod: &str, detail: Detail) -> Row {
        Row { namespace: "web".into(), pod: pod.into(), detail }
    }

    fn interface() -> Interface {
        let side = |ifindex, ifname: &str| {
            Some(Side { netns: Netns::current().unwrap(), ifindex, ifname: ifname.into() })
        };
        Interface {
            name: "web/front/eth0".into(),
            pod: None,
            pod_side: side(2, "eth0"),
            host_side: side(17, "veth0a1b2c3d"),
            host_side_missing: None,
            kind: Some("veth".into()),
            link_layer: LinkLayer::Ethernet,
            is_loopback: false,
            mac: Some([2, 0, 0, 0, 0, 0x1f]),
            ipv4: vec![([10, 0, 0, 5].into(), 24)],
            ipv6: vec![("fd00::5".parse().unwrap(), 64)],
            filter: None,
            left_out: None,
            demands: crate::targets::Demands::default(),
            doubts: vec![],
            unfit: vec![],
        }
    }

    #[test]
    fn the_table_is_aligned() {
        let macvlan = Interface {
            host_side: None,
            host_side_missing: Some("eth0 is a macvlan".into()),
            mac: None,
            ipv4: vec![],
            ipv6: vec![],
            ..interface()
        };
        let rows = [
            row("front", Detail::Interface(interface().into())),
            row("b", Detail::Interface(macvlan.into())),
            row("proxy", Detail::HostNetwork),
            row("lost", Detail::Unknown("a reason that is longer than the column is wide".into())),
        ];
        let expected = "\
NAMESPACE  POD    INTERFACE  HOST-INTERFACE         INDEX  MAC                ADDRESSES
web        front  eth0       veth0a1b2c3d           17     02:00:00:00:00:1f  10.0.0.5,fd00::5
web        b      eth0       - (eth0 is a macvlan)  -      -                  -
web        proxy  -          -                      -      -                  host network
web        lost   -          -                      -      -                  a reason that is longer than the column is wide
";
        assert_eq!(table(&rows), expected);
    }

    #[test]
    fn an_empty_table_has_its_heading() {
        assert_eq!(table(&[]).lines().count(), 1);
    }
}
