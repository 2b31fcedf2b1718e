//! The node's pods, and which of them are to be recorded: by an annotation of the pod, an object, or a label of its namespace, in
//! this order.

use std::collections::{BTreeMap, BTreeSet};

use log::warn;
use sniff_cli::options;
use sniff_common::MAX_SNAPLEN;
use sniff_kubernetes::{
    Cluster,
    recordings::{NodePod, NodePods, PodState, RECORD, Recording, SaveWhen, memory},
};
use sniff_protocol::request::Alarm;
use tokio::sync::watch;

use super::wanted::{Refused, Wanted};
use crate::{agent::audit::PodId, targets::Selector};

/// What an annotation says of a pod that is not to be recorded.
const OFF: [&str; 2] = ["off", "false"];

/// The pods at a time.
#[derive(Clone, Debug, Default)]
pub(super) struct Sight {
    /// Those that are to be recorded, by their UIDs.
    pub(super) wanted: BTreeMap<String, Result<Wanted, Refused>>,
    /// Those whose containers have not all ended for good.
    pub(super) there: BTreeSet<String>,
    /// How each is.
    pub(super) states: BTreeMap<String, (PodId, PodState)>,
}

/// Follows them, until nobody hears of it.
pub(super) fn follow(cluster: Cluster, node: &str) -> watch::Receiver<Sight> {
    let mut known = cluster.follow_node_pods(node);
    let (sender, sights) = watch::channel(Sight::default());
    tokio::spawn(async move {
        let mut faulty = BTreeSet::new();
        loop {
            tokio::select! {
                changed = known.changed() => if changed.is_err() { return },
                () = sender.closed() => return,
            }
            let sight = {
                let known = known.borrow_and_update();
                faulty = tell_of_faults(&known, &faulty);
                Sight::of(&known)
            };
            sight.into_iter().for_each(|sight| drop(sender.send_replace(sight)));
        }
    });
    sights
}

impl Sight {
    /// None before the pods are known.
    fn of(known: &NodePods) -> Option<Self> {
        let mut sight = Self::default();
        for (uid, pod) in known.pods.as_ref()? {
            let NodePod { namespace, name, .. } = pod;
            let id = PodId { namespace: namespace.clone(), name: name.clone(), uid: uid.clone() };
            sight.states.insert(uid.clone(), (id.clone(), pod.state.clone()));
            if pod.has_ended {
                continue;
            }
            sight.there.insert(uid.clone());
            sight.wanted.extend(wish(id, pod, known).map(|wanted| (uid.clone(), wanted)));
        }
        Some(sight)
    }
}

/// Says which objects make no sense, unless that was said; returns all of them.
fn tell_of_faults(known: &NodePods, told: &BTreeSet<String>) -> BTreeSet<String> {
    let fault = |((namespace, name), recording): (&(String, String), &Recording)| {
        let selector = recording.selector.parse::<Selector>().err().map(|error| error.to_string());
        let why = selector.or_else(|| recording.memory.clone().err())?;
        Some(format!("the recording {namespace}/{name} has nobody recorded: {why}"))
    };
    let faults: BTreeSet<String> = known.recordings.iter().filter_map(fault).collect();
    faults.difference(told).for_each(|fault| warn!("{fault}"));
    faults
}

/// How a pod is to be recorded, if it is.
fn wish(id: PodId, pod: &NodePod, known: &NodePods) -> Option<Result<Wanted, Refused>> {
    let (wanted, bytes) = match &pod.record {
        Some(text) if OFF.contains(&text.as_str()) => return None,
        Some(text) => (Wanted::of(id, &format!("the annotation {RECORD} of the pod")), memory(text)),
        None => match by_object(&id, pod, known) {
            Some(found) => found,
            None => {
                let text = known.namespaces.get(&pod.namespace)?;
                let by = format!("the label {RECORD} of its namespace");
                (Wanted::of(id, &by), memory(text))
            }
        },
    };
    let wanted = Wanted { labels: pod.labels.clone(), ..wanted };
    let refused = |why: String| Refused { wanted: wanted.clone(), why: format!("{why} ({})", wanted.by) };
    Some(match bytes {
        _ if pod.host_network => Err(refused("it uses the node's network".to_owned())),
        Ok(memory) => Ok(Wanted { memory, ..wanted }),
        Err(why) => Err(refused(why)),
    })
}

/// By the object that gives it most memory.
fn by_object(id: &PodId, pod: &NodePod, known: &NodePods) -> Option<(Wanted, Result<u64, String>)> {
    let here = known.recordings.iter().filter(|((namespace, _), _)| *namespace == pod.namespace);
    let meant = here.filter_map(|((namespace, name), recording)| {
        let by = format!("the recording {namespace}/{name}");
        match recording.selector.parse::<Selector>() {
            Ok(selector) => selector.matches(&pod.labels).then_some((by, recording)),
            // It means nobody, which was said when it came.
            Err(_) => None,
        }
    });
    let (by, recording) = meant.max_by_key(|(_, recording)| recording.memory.clone().unwrap_or_default())?;
    let Recording { memory, filter, snaplen, headers, cutoff, save_when, .. } = recording.clone();
    let snaplen = snaplen.filter(|snaplen| (1..=MAX_SNAPLEN).contains(snaplen)).unwrap_or(MAX_SNAPLEN);
    let (cutoff, memory) = match cutoff.as_deref().map(options::cutoff).transpose() {
        Ok(cutoff) => (cutoff, memory),
        Err(why) => (None, Err(why)),
    };
    let (alarm, memory) = match save_when.map(alarm).transpose() {
        Ok(alarm) => (alarm, memory),
        Err(why) => (None, Err(why)),
    };
    Some((Wanted { filter, snaplen, headers, cutoff, alarm, ..Wanted::of(id.clone(), &by) }, memory))
}

/// What an object says of when to save, if it makes sense.
fn alarm(SaveWhen { filter, per_second }: SaveWhen) -> Result<Alarm, String> {
    let sound = filter.filter(|filter| !filter.trim().is_empty()).zip(per_second.filter(|&count| count > 0));
    let (filter, per_second) =
        sound.ok_or("saveWhen takes a filter, and in perSecond a number of packets, at least 1")?;
    Ok(Alarm { filter, per_second })
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn pod(record: Option<&str>) -> NodePod {
        NodePod {
            namespace: "shop".into(),
            name: "web-0".into(),
            labels: [("app".to_owned(), "web".to_owned())].into(),
            record: record.map(str::to_owned),
            ..NodePod::default()
        }
    }

    fn recording(selector: &str, mib: u64) -> Recording {
        Recording {
            selector: selector.to_owned(),
            memory: Ok(mib * MIB),
            filter: Some("tcp".to_owned()),
            snaplen: None,
            headers: true,
            cutoff: None,
            save_when: None,
            reason: None,
        }
    }

    /// By what, and in how much memory, a pod is recorded; or why it is not.
    fn wish_of(
        pod: NodePod,
        recordings: &[Recording],
        namespace: Option<&str>,
    ) -> Option<(String, Result<u64, String>)> {
        let known = NodePods {
            pods: Some([("u".to_owned(), pod)].into()),
            namespaces: namespace.map(|text| ("shop".to_owned(), text.to_owned())).into_iter().collect(),
            recordings: (0..)
                .zip(recordings)
                .map(|(at, it)| (("shop".to_owned(), format!("r{at}")), it.clone()))
                .collect(),
        };
        let sight = Sight::of(&known).unwrap();
        assert_eq!(sight.states.len(), 1);
        Some(match sight.wanted.get("u")? {
            Ok(wanted) => (wanted.by.clone(), Ok(wanted.memory / MIB)),
            Err(Refused { wanted, why }) => (wanted.by.clone(), Err(why.clone())),
        })
    }

    #[test]
    fn what_stands_nearest_to_a_pod_has_it_recorded() {
        let by = |pod: Option<&str>, recordings: &[Recording], namespace| {
            wish_of(self::pod(pod), recordings, namespace)
        };
        assert_eq!(by(None, &[], None), None);
        let annotation = "the annotation sniff/record of the pod".to_owned();
        let label = "the label sniff/record of its namespace".to_owned();
        assert_eq!(by(None, &[], Some("16MiB")), Some((label.clone(), Ok(16))));
        let web = [recording("app=web", 32)];
        assert_eq!(by(None, &web, Some("16MiB")), Some(("the recording shop/r0".into(), Ok(32))));
        assert_eq!(by(Some("64MiB"), &web, Some("16MiB")), Some((annotation.clone(), Ok(64))));
        assert_eq!(by(Some("off"), &web, Some("16MiB")), None);
        let others =
            [recording("app=db", 99), recording("app=web", 8), recording("", 9), recording("((", 99)];
        assert_eq!(by(None, &others, None), Some(("the recording shop/r2".into(), Ok(9))));
        let (by, why) = by(Some("much"), &[], None).unwrap();
        assert!(by == annotation && why.unwrap_err().contains("\"much\" is no memory for a recording"));
    }

    #[test]
    fn a_cutoff_that_is_none_is_no_reason_to_record_all() {
        let wish = |text: &str| {
            let cutoff = Some(text.to_owned());
            wish_of(pod(None), &[Recording { cutoff, ..recording("app=web", 8) }], None).unwrap().1
        };
        assert_eq!(wish("16KiB,every=3"), Ok(8));
        let why = wish("16KiB,some").unwrap_err();
        assert!(why.contains("headers, none, or every=N") && why.contains("the recording shop/r0"), "{why}");
    }

    #[test]
    fn an_alarm_has_a_filter_and_a_rate() {
        let wish = |filter: Option<&str>, per_second| {
            let save_when = Some(SaveWhen { filter: filter.map(str::to_owned), per_second });
            wish_of(pod(None), &[Recording { save_when, ..recording("app=web", 8) }], None).unwrap().1
        };
        assert_eq!(wish(Some("icmp"), Some(1)), Ok(8));
        for (filter, per_second) in
            [(None, Some(5)), (Some(" "), Some(5)), (Some("icmp"), None), (Some("icmp"), Some(0))]
        {
            let why = wish(filter, per_second).unwrap_err();
            assert!(why.contains("saveWhen takes a filter"), "{why}");
        }
    }

    #[test]
    fn a_pod_of_the_nodes_network_and_one_that_has_ended_are_not_recorded() {
        let host = NodePod { host_network: true, ..pod(Some("16MiB")) };
        assert!(wish_of(host, &[], None).unwrap().1.unwrap_err().contains("uses the node's network"));
        assert_eq!(wish_of(NodePod { has_ended: true, ..pod(Some("16MiB")) }, &[], None), None);
        assert!(Sight::of(&NodePods::default()).is_none());
    }
}
