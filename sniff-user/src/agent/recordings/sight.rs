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
use sniff_protocol::request::{Alarm, Cutoff};
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

/// Follows them, until nobody hears of it. Where no alarm has anything saved, there is none.
pub(super) fn follow(cluster: Cluster, node: &str, heeds_alarms: bool) -> watch::Receiver<Sight> {
    let mut known = cluster.follow_node_pods(node);
    let (sender, sights) = watch::channel(Sight::default());
    tokio::spawn(async move {
        let mut told = BTreeSet::new();
        loop {
            tokio::select! {
                changed = known.changed() => if changed.is_err() { return },
                () = sender.closed() => return,
            }
            let sight = {
                let known = known.borrow_and_update();
                let faults = faults(&known, heeds_alarms);
                faults.difference(&told).for_each(|fault| warn!("{fault}"));
                told = faults;
                Sight::of(&known)
            };
            let sight = sight.map(|sight| if heeds_alarms { sight } else { sight.without_alarms() });
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

    /// Without what would cost packets and recorders something, and do nothing.
    fn without_alarms(mut self) -> Self {
        self.wanted.values_mut().flatten().for_each(|wanted| wanted.alarm = None);
        self
    }
}

/// Which objects make no sense, or ask for alarms that are not heeded, in words.
fn faults(known: &NodePods, heeds_alarms: bool) -> BTreeSet<String> {
    let fault = |((namespace, name), recording): (&(String, String), &Recording)| {
        let fault = match Sound::of(recording) {
            Err(why) => format!("has nobody recorded: {why}"),
            Ok(Sound { alarm: Some(_), .. }) if !heeds_alarms => {
                "has nothing saved by its saveWhen on this node: SNIFF_RECORD_TRIGGERS lacks rate".to_owned()
            }
            Ok(_) => return None,
        };
        Some(format!("the recording {namespace}/{name} {fault}"))
    };
    known.recordings.iter().filter_map(fault).collect()
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

/// By the object that gives it most memory, of those that make sense; by one that makes none if there is no other.
fn by_object(id: &PodId, pod: &NodePod, known: &NodePods) -> Option<(Wanted, Result<u64, String>)> {
    let here = known.recordings.iter().filter(|((namespace, _), _)| *namespace == pod.namespace);
    let meant = here.filter_map(|((namespace, name), recording)| {
        // One whose selector makes no sense means nobody, which was said when it came.
        let is_meant = selector(recording).is_ok_and(|selector| selector.matches(&pod.labels));
        is_meant.then(|| (format!("the recording {namespace}/{name}"), recording, Sound::of(recording)))
    });
    let (by, recording, sound) =
        meant.max_by_key(|(.., sound)| sound.as_ref().ok().map(|sound| sound.memory))?;
    let wanted = Wanted::of(id.clone(), &by);
    Some(match sound {
        Ok(Sound { memory, cutoff, alarm }) => {
            let Recording { filter, snaplen, headers, .. } = recording.clone();
            let snaplen =
                snaplen.filter(|snaplen| (1..=MAX_SNAPLEN).contains(snaplen)).unwrap_or(MAX_SNAPLEN);
            (Wanted { filter, snaplen, headers, cutoff, alarm, ..wanted }, Ok(memory))
        }
        Err(why) => (wanted, Err(why)),
    })
}

/// What an object asks for, where all of it makes sense.
struct Sound {
    memory: u64,
    cutoff: Option<Cutoff>,
    alarm: Option<Alarm>,
}

impl Sound {
    /// Or why it makes none.
    fn of(recording: &Recording) -> Result<Self, String> {
        selector(recording)?;
        let Recording { memory, cutoff, save_when, .. } = recording.clone();
        Ok(Self {
            memory: memory?,
            cutoff: cutoff.as_deref().map(options::cutoff).transpose()?,
            alarm: save_when.map(alarm).transpose()?,
        })
    }
}

fn selector(recording: &Recording) -> Result<Selector, String> {
    recording.selector.parse::<Selector>().map_err(|error| error.to_string())
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

    /// Objects of the pod's namespace: `r0`, `r1` and so on.
    fn named(recordings: &[Recording]) -> BTreeMap<(String, String), Recording> {
        let name = |at| ("shop".to_owned(), format!("r{at}"));
        (0..).zip(recordings).map(|(at, it)| (name(at), it.clone())).collect()
    }

    /// An object with each of the faults that there can be, and a word of what is said of it.
    fn faulty(mib: u64) -> [(Recording, &'static str); 5] {
        let sound = || recording("app=web", mib);
        let save_when = |filter: &str| SaveWhen { filter: Some(filter.to_owned()), per_second: Some(5) };
        [
            (Recording { selector: "((".to_owned(), ..sound() }, "labels are selected as in"),
            (Recording { memory: Err("no memory".to_owned()), ..sound() }, "no memory"),
            (Recording { cutoff: Some("0".to_owned()), ..sound() }, "a cutoff has 1 byte to"),
            (Recording { cutoff: Some("2GiB".to_owned()), ..sound() }, "a cutoff has 1 byte to"),
            (Recording { save_when: Some(save_when(" ")), ..sound() }, "saveWhen takes a filter"),
        ]
    }

    #[test]
    fn each_object_that_makes_no_sense_is_told_of_though_it_means_no_pod() {
        let (objects, words): (Vec<_>, Vec<_>) = faulty(8).into_iter().unzip();
        let objects = [&objects[..], &[recording("app=web", 8)]].concat();
        let told = faults(&NodePods { recordings: named(&objects), ..NodePods::default() }, true);
        assert_eq!(told.len(), words.len(), "{told:?}");
        for (at, (told, words)) in told.iter().zip(words).enumerate() {
            let whose = format!("the recording shop/r{at} has nobody recorded: ");
            assert!(told.starts_with(&whose) && told.contains(words), "{told}");
        }
    }

    #[test]
    fn an_object_that_makes_sense_goes_before_all_that_make_none() {
        let sound = recording("app=web", 64);
        for (faulty, words) in faulty(128) {
            for objects in [[sound.clone(), faulty.clone()], [faulty.clone(), sound.clone()]] {
                assert_eq!(wish_of(pod(None), &objects, None).unwrap().1, Ok(64), "{words}");
            }
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
            recordings: named(recordings),
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
    fn an_alarm_that_a_node_does_not_heed_is_told_of_and_nobody_counts_for_it() {
        let save_when = Some(SaveWhen { filter: Some("icmp".to_owned()), per_second: Some(1) });
        let alarming = Recording { save_when, ..recording("app=web", 8) };
        let known = NodePods {
            pods: Some([("u".to_owned(), pod(None))].into()),
            recordings: named(&[alarming, recording("app=db", 8)]),
            ..NodePods::default()
        };
        assert_eq!(faults(&known, true), BTreeSet::new());
        let told = faults(&known, false);
        assert!(
            told.len() == 1 && told.first().unwrap().starts_with("the recording shop/r0 has nothing saved")
        );
        let alarm = |sight: Sight| sight.wanted["u"].clone().unwrap().alarm;
        let sight = Sight::of(&known).unwrap();
        assert!(alarm(sight.clone()).is_some());
        assert_eq!(alarm(sight.without_alarms()), None);
    }

    #[test]
    fn a_pod_of_the_nodes_network_and_one_that_has_ended_are_not_recorded() {
        let host = NodePod { host_network: true, ..pod(Some("16MiB")) };
        assert!(wish_of(host, &[], None).unwrap().1.unwrap_err().contains("uses the node's network"));
        assert_eq!(wish_of(NodePod { has_ended: true, ..pod(Some("16MiB")) }, &[], None), None);
        assert!(Sight::of(&NodePods::default()).is_none());
    }
}
