//! `kubectl sniff recordings`: what triggers had saved on the nodes, and how recorders are.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{self, Write as _},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use futures_util::{StreamExt as _, stream};
use log::{error, info, warn};
use sniff_cli::{exit, status_line::size, table::table};
use sniff_kubernetes::{Cluster, Piece, Process, daemonset::DaemonPod, own::SniffPod};
use sniff_protocol::{
    Decoder, PREFACE, ToClient, ToNode, encode,
    message::{
        Awaited, AwaitedBy, ClientHello, Event, Level, Past, Recorder, RecorderState, Recording, Recordings,
    },
};
use tokio::time::timeout;

use crate::{
    args::{Args, GetArgs, RecordingsArgs, RecordingsCommand},
    capture,
    door::Wanted,
    reference::{Reference, dns_name},
    session::{self, KnowsNoPast, LEASE},
};

/// Until a node has told what it has.
const PATIENCE: Duration = Duration::from_secs(60);
/// Nodes asked at a time.
const AT_ONCE: usize = 16;
/// Stands for what does not exist.
const NONE: &str = "-";

/// What the nodes say.
struct Told {
    /// By their names.
    nodes: BTreeMap<String, Recordings>,
    /// Whether some have not said anything, though they may have something.
    is_incomplete: bool,
}

/// Lists saved files or recorders, or fetches a file.
///
/// # Errors
///
/// When the nodes cannot be found, and those of a capture.
pub async fn run(cluster: Cluster, args: Args, asked: RecordingsArgs) -> Result<u8> {
    let RecordingsArgs { command, all_namespaces, node, status } = asked;
    if let Some(RecordingsCommand::Get(get)) = command {
        return fetch(cluster, args, get).await;
    }
    let namespace = namespace(&cluster, &args, all_namespaces);
    let told = ask(&cluster, &args, namespace.as_deref(), node.as_deref()).await?;
    let tables = if status { of_recorders(&told.nodes, SystemTime::now()) } else { of_files(&told.nodes) };
    if told.nodes.values().all(|it| if status { it.recorders.is_empty() } else { it.saved.is_empty() }) {
        let place = namespace.map(|namespace| format!(" in namespace {namespace}")).unwrap_or_default();
        match status {
            true => info!("no pod{place} is recorded: `kubectl sniff record` begins that"),
            false => info!("nothing is saved of pods{place}; --status lists who is recorded"),
        }
    }
    io::stdout().write_all(tables.as_bytes())?;
    Ok(if told.is_incomplete { exit::FAILURE } else { exit::SUCCESS })
}

/// Fetches a file by way of a capture, from the node that has it.
async fn fetch(cluster: Cluster, args: Args, get: GetArgs) -> Result<u8> {
    let GetArgs { name, write, all_namespaces, node } = get;
    let namespace = namespace(&cluster, &args, all_namespaces);
    let told = ask(&cluster, &args, namespace.as_deref(), node.as_deref()).await?;
    let (node, target) = find(&told, &name)?;
    capture::run(cluster, Args { targets: vec![target], node: Some(node), write, ..args }).await
}

/// The node that has a file of this name, and the pod that it is of.
fn find(told: &Told, name: &str) -> Result<(String, Reference)> {
    let has = |of: &Recordings| of.saved.iter().find(|it| it.name == name).cloned();
    let mut found: Vec<(String, Recording)> =
        told.nodes.iter().filter_map(|(node, of)| Some((node.clone(), has(of)?))).collect();
    let Some((node, Recording { namespace, pod, .. })) = found.pop() else {
        bail!("no node has a saved file {name}: `kubectl sniff recordings -A` lists those that there are")
    };
    if !found.is_empty() {
        let nodes: Vec<String> = found.into_iter().map(|(node, _)| node).chain([node]).collect();
        bail!("several nodes have {name}: say which with --node, of {}", nodes.join(", "));
    }
    let checked = |name: &str| dns_name(name).map_err(|error| anyhow!("node {node}: {error}"));
    let target = Reference::Pod { namespace: Some(checked(&namespace)?), name: checked(&pod)? };
    Ok((node, target))
}

/// The namespace that is meant; `None` for all.
fn namespace(cluster: &Cluster, args: &Args, is_any: bool) -> Option<String> {
    let default = || cluster.default_namespace().to_owned();
    (!is_any).then(|| args.cluster.namespace.clone().unwrap_or_else(default))
}

/// The pods of the DaemonSet that run, by their nodes, or the one on `node`: what records is in them.
///
/// # Errors
///
/// When there is none, or the server refuses.
pub async fn recording_pods(
    cluster: &Cluster,
    namespace: &str,
    node: Option<&str>,
) -> Result<BTreeMap<String, SniffPod>> {
    let pods = cluster.daemon_pods(namespace).await?;
    let (mut running, mut troubles) = (BTreeMap::new(), BTreeMap::new());
    for DaemonPod { name, node: its, door, trouble, .. } in pods.into_iter().filter(|pod| pod.is_own) {
        let Some(its) = its.filter(|its| node.is_none_or(|node| node == its)) else { continue };
        match trouble {
            None => drop(running.insert(its, SniffPod { namespace: namespace.to_owned(), name, door })),
            Some(why) => drop(troubles.insert(its, why)),
        }
    }
    for (node, why) in troubles.iter().filter(|(node, _)| !running.contains_key(*node)) {
        warn!("node {node}: sniff's pod there does not run ({why}): it holds nothing");
    }
    let there = node.map(|node| format!(" on node {node}")).unwrap_or_default();
    ensure!(
        !running.is_empty(),
        "sniff's DaemonSet has no running pod{there} (in namespace {namespace}), and only its pods record"
    );
    Ok(running)
}

/// Asks the nodes, or one of them, for what they have of a namespace.
async fn ask(cluster: &Cluster, args: &Args, namespace: Option<&str>, node: Option<&str>) -> Result<Told> {
    let pods = recording_pods(cluster, args.cluster.daemonset_namespace(), node).await?;
    let by = AwaitedBy::Labels { selector: String::new() };
    let all = Awaited { namespace: namespace.map(str::to_owned), by, interfaces: Vec::new() };
    let hello = ToNode::Hello(Box::new(ClientHello {
        version: env!("CARGO_PKG_VERSION").into(),
        who: session::who(),
        awaited: vec![all],
        lease_seconds: LEASE.as_secs() as u32,
        says_goodbye: true,
        past: Some(Past::List),
        ..ClientHello::default()
    }));
    let wanted = Wanted {
        namespaces: namespace.map(str::to_owned).into_iter().collect(),
        any_namespace: namespace.is_none(),
        node: false,
    };
    let asking = pods.iter().map(async |(node, pod)| {
        let told = timeout(PATIENCE, async {
            listed(session::come_in(cluster, node, pod, &wanted).await?, node, &hello).await
        });
        (node, told.await.unwrap_or_else(|_| bail!("it has told nothing for {} s", PATIENCE.as_secs())))
    });
    let mut told = Told { nodes: BTreeMap::new(), is_incomplete: false };
    let mut answers = stream::iter(asking).buffer_unordered(AT_ONCE);
    while let Some((node, answer)) = answers.next().await {
        match answer {
            Ok(of) => drop(told.nodes.insert(node.clone(), only_of(namespace, of))),
            Err(error) if error.is::<KnowsNoPast>() => warn!("node {node}: {error:#}"),
            Err(error) => {
                told.is_incomplete = true;
                error!("node {node}: {error:#}");
            }
        }
    }
    Ok(told)
}

/// What a node may speak of that was asked for one namespace.
fn only_of(namespace: Option<&str>, mut of: Recordings) -> Recordings {
    of.saved.retain(|it| namespace.is_none_or(|namespace| namespace == it.namespace));
    of.recorders.retain(|it| namespace.is_none_or(|namespace| namespace == it.namespace));
    of
}

/// Hears what a node has, once it has said that it knows what is asked.
async fn listed(mut process: Process, node: &str, hello: &ToNode) -> Result<Recordings> {
    let mut decoder = Decoder::<ToClient>::new();
    let (mut waits_for_goodbye, mut recordings) = (false, None);
    loop {
        match process.output.next().await? {
            Some(Piece::Stdout(bytes)) => decoder.push(&bytes),
            Some(Piece::Stderr(_)) => {}
            Some(Piece::Ended(Err(why))) => bail!("sniff has ended: {why}"),
            Some(Piece::Ended(Ok(()))) | None => bail!("it ended before it told what it has"),
        }
        while let Some(message) = decoder.next()? {
            match message {
                ToClient::Hello(theirs) => {
                    ensure!(theirs.node == node, "it calls itself {}", theirs.node);
                    KnowsNoPast::check(&theirs)?;
                    waits_for_goodbye = theirs.waits_for_goodbye;
                    let mut first = PREFACE.to_vec();
                    encode(hello, &mut first)?;
                    process.input.write(&first).await?;
                }
                ToClient::Recordings(told) => recordings = Some(told),
                ToClient::Event(Event::Note { level: Level::Warn, text }) => warn!("node {node}: {text}"),
                ToClient::Event(Event::Note { level: Level::Info, text }) => info!("node {node}: {text}"),
                ToClient::Event(_) | ToClient::Stats(_) => {}
                ToClient::Error(error) => bail!(error.message),
                ToClient::Packets(_) => bail!("it sends packets that it was not asked for"),
                ToClient::End(_) => {
                    if waits_for_goodbye {
                        let mut goodbye = Vec::new();
                        encode(&ToNode::Goodbye, &mut goodbye)?;
                        // Whatever comes of it, all is here.
                        let _ = process.input.write(&goodbye).await;
                    }
                    return recordings.context("it ended without a word on what it has");
                }
            }
        }
    }
}

/// Saved files, the newest first.
fn of_files(nodes: &BTreeMap<String, Recordings>) -> String {
    let mut files: Vec<(&String, &Recording)> =
        nodes.iter().flat_map(|(node, of)| of.saved.iter().map(move |it| (node, it))).collect();
    files.sort_by(|(_, one), (_, other)| other.time.cmp(&one.time).then_with(|| one.name.cmp(&other.name)));
    let rows = files.into_iter().map(|(node, it)| {
        [
            node.clone(),
            it.namespace.clone(),
            it.pod.clone(),
            it.reason.clone(),
            time(it.time),
            size(it.bytes),
            it.name.clone(),
        ]
    });
    table(["NODE", "NAMESPACE", "POD", "REASON", "TIME", "SIZE", "NAME"], rows)
}

/// Recorders, and what memory the nodes have for them.
fn of_recorders(nodes: &BTreeMap<String, Recordings>, now: SystemTime) -> String {
    let each = nodes.iter().flat_map(|(node, of)| of.recorders.iter().map(move |it| (node, it)));
    let recorders: BTreeSet<[String; 13]> = each.map(|(node, it)| of_recorder(node, it, now)).collect();
    let recorders = table(
        [
            "NODE",
            "NAMESPACE",
            "POD",
            "STATE",
            "MEMORY",
            "HELD",
            "WINDOW",
            "MATCHED",
            "CUT-OFF",
            "AGED-OUT",
            "DROPPED",
            "LAST-SAVED",
            "BY",
        ],
        recorders.into_iter(),
    );
    let of_node = |(node, of): (&String, &Recordings)| {
        [node.clone(), of.budget.map_or_else(|| NONE.to_owned(), size), size(of.used), size(of.disk)]
    };
    let nodes = table(["NODE", "BUDGET", "USED", "DISK"], nodes.iter().map(of_node));
    format!("{recorders}\n{nodes}")
}

fn of_recorder(node: &str, it: &Recorder, now: SystemTime) -> [String; 13] {
    let state = match &it.state {
        RecorderState::Starting => "starting".to_owned(),
        RecorderState::Recording => "recording".to_owned(),
        RecorderState::Ended => "ended".to_owned(),
        RecorderState::Refused(why) => format!("refused: {why}"),
    };
    let window = it.oldest.map(|oldest| {
        let held = now.duration_since(UNIX_EPOCH + Duration::from_nanos(oldest)).unwrap_or_default();
        humantime::format_duration(Duration::from_secs(held.as_secs())).to_string()
    });
    let or_none = |text: Option<String>| text.unwrap_or_else(|| NONE.to_owned());
    [
        node.to_owned(),
        it.namespace.clone(),
        it.pod.clone(),
        state,
        size(it.memory),
        size(it.held),
        or_none(window),
        it.matched.to_string(),
        it.cut_off.to_string(),
        it.aged_out.to_string(),
        it.dropped.to_string(),
        or_none(it.last_saved.map(time)),
        it.by.clone(),
    ]
}

/// Nanoseconds since the epoch, to the second.
fn time(time_ns: u64) -> String {
    humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_nanos(time_ns)).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 2023-11-14T22:13:20Z.
    const THEN: u64 = 1_700_000_000_000_000_000;

    fn saved(namespace: &str, pod: &str, time: u64, name: &str) -> Recording {
        Recording {
            name: name.into(),
            namespace: namespace.into(),
            pod: pod.into(),
            reason: "oom-killed".into(),
            time,
            bytes: 5 << 20,
        }
    }

    fn node(name: &str, saved: Vec<Recording>) -> (String, Recordings) {
        (name.to_owned(), Recordings { saved, ..Recordings::default() })
    }

    #[test]
    fn files_of_all_nodes_are_listed_the_newest_first() {
        let nodes = [
            node("n1", vec![saved("shop", "web-0", THEN, "a.pcapng")]),
            node("n2", vec![saved("shop", "web-1", THEN + 9_000_000_000, "b\u{1b}[2J\n.pcapng")]),
        ];
        let expected = r"
NODE  NAMESPACE  POD    REASON      TIME                  SIZE     NAME
n2    shop       web-1  oom-killed  2023-11-14T22:13:29Z  5.0 MiB  b\u{1b}[2J\n.pcapng
n1    shop       web-0  oom-killed  2023-11-14T22:13:20Z  5.0 MiB  a.pcapng
";
        assert_eq!(of_files(&nodes.into()), expected[1..]);
    }

    #[test]
    fn recorders_are_listed_with_what_they_hold_and_what_their_nodes_may() {
        let recorder = |pod: &str, state| Recorder {
            namespace: "shop".into(),
            pod: pod.into(),
            by: "annotation of the pod".into(),
            state,
            ..Recorder::default()
        };
        let recording = Recorder {
            memory: 64 << 20,
            held: 61 << 20,
            oldest: Some(THEN),
            matched: 1234,
            cut_off: 100,
            aged_out: 34,
            dropped: 1,
            last_saved: Some(THEN),
            ..recorder("web-0", RecorderState::Recording)
        };
        let refused = recorder("db-0", RecorderState::Refused("no memory".into()));
        let of = Recordings {
            budget: Some(256 << 20),
            used: 64 << 20,
            disk: 1 << 30,
            recorders: vec![recording, refused],
            saved: Vec::new(),
        };
        let nodes = [("n1".to_owned(), of), node("n2", Vec::new())];
        let now = UNIX_EPOCH + Duration::from_nanos(THEN) + Duration::from_secs(277);
        let expected = r"
NODE  NAMESPACE  POD    STATE               MEMORY    HELD      WINDOW  MATCHED  CUT-OFF  AGED-OUT  DROPPED  LAST-SAVED            BY
n1    shop       db-0   refused: no memory  0 B       0 B       -       0        0        0         0        -                     annotation of the pod
n1    shop       web-0  recording           64.0 MiB  61.0 MiB  4m 37s  1234     100      34        1        2023-11-14T22:13:20Z  annotation of the pod

NODE  BUDGET     USED      DISK
n1    256.0 MiB  64.0 MiB  1.0 GiB
n2    -          0 B       0 B
";
        assert_eq!(of_recorders(&nodes.into(), now), expected[1..]);
    }

    #[test]
    fn a_file_is_found_on_the_one_node_that_has_it() {
        let find = |nodes: &[(String, Recordings)], name: &str| {
            let told = Told { nodes: nodes.iter().cloned().collect(), is_incomplete: false };
            find(&told, name).map_err(|error| error.to_string())
        };
        let nodes = [
            node("n1", vec![saved("shop", "web-0", 1, "a"), saved("shop", "web-0", 2, "b")]),
            node("n2", vec![saved("shop", "web-1", 1, "b"), saved("../x", "web-1", 1, "c")]),
        ];
        let web = Reference::Pod { namespace: Some("shop".into()), name: "web-0".into() };
        assert_eq!(find(&nodes, "a"), Ok(("n1".to_owned(), web)));
        assert!(find(&nodes, "d").unwrap_err().starts_with("no node has a saved file d"));
        assert!(find(&nodes, "b").unwrap_err().ends_with("--node, of n1, n2"));
        assert!(find(&nodes, "c").unwrap_err().starts_with("node n2: "), "no namespace is called so");
    }

    #[test]
    fn of_another_namespace_a_node_has_no_say() {
        let of = || node("n1", vec![saved("shop", "web-0", 1, "a"), saved("bank", "db-0", 1, "b")]).1;
        assert_eq!(only_of(Some("shop"), of()).saved.len(), 1);
        assert_eq!(only_of(None, of()).saved.len(), 2);
    }
}
