//! `kubectl sniff record`: whom the nodes record, so that the minutes before an incident are there.

use std::{
    borrow::Cow,
    io::{self, Write as _},
};

use anyhow::{Context as _, Result, bail};
use log::info;
use sniff_cli::{exit, status_line::size, table::table};
use sniff_kubernetes::{
    Cluster,
    pods::{By, Selection},
    recordings::{NamedRecording, RECORD, Recording, SaveWhen, memory},
};
use sniff_protocol::request::Cutoff;

use super::{
    args::{ClusterArgs, RecordArgs},
    reference::Reference,
    session::who,
};

/// Most names of pods that are told.
const MAX_NAMED: usize = 10;
/// The heading of a list.
const COLUMNS: [&str; 6] = ["NAMESPACE", "NAME", "SELECTOR", "MEMORY", "FILTER", "BY"];

/// Makes an object that has pods recorded, lists those that are there, or removes one.
///
/// # Errors
///
/// When it is not clear what is meant, or the server refuses.
pub async fn run(cluster: &Cluster, of: &ClusterArgs, args: &RecordArgs) -> Result<u8> {
    let default = of.namespace.clone().unwrap_or_else(|| cluster.default_namespace().to_owned());
    if args.list {
        let namespace = (!args.all_namespaces).then_some(default.as_str());
        return list(&cluster.recordings(namespace).await?);
    }
    if let Some(name) = &args.stop {
        let was_there = cluster.delete_recording(&default, name).await?;
        anyhow::ensure!(was_there, "there is no recording {default}/{name}: kubectl sniff record --list");
        info!("{default}/{name} is removed: what was recorded by it is gone with it");
        return Ok(exit::SUCCESS);
    }
    make(cluster, &default, args).await
}

async fn make(cluster: &Cluster, default: &str, args: &RecordArgs) -> Result<u8> {
    let selection = selection(cluster, default, args).await?;
    let namespace = selection.namespace.clone().unwrap_or_else(|| default.to_owned());
    let By::Labels(selector) = &selection.by else { bail!("pods are recorded by their labels") };
    let bytes = memory(&args.memory).map_err(anyhow::Error::msg)?;
    let recording = recording(args, selector, bytes);
    let prefix = match (&args.name, &args.target) {
        (Some(name), _) => Cow::Borrowed(name.as_str()),
        (None, Some(Reference::Workload(_, name))) => Cow::Owned(format!("{name}-")),
        (None, _) => Cow::Borrowed("pods-"),
    };
    let name = cluster.create_recording(&namespace, &prefix, &recording, &args.memory, &who()).await?;
    let mut names: Vec<String> = cluster.pods(&selection).await?.into_iter().map(|pod| pod.name).collect();
    names.sort_unstable();
    let count = names.len();
    names.truncate(MAX_NAMED);
    let pods = match names.len() {
        0 => "no pods by now".to_owned(),
        named if named < count => format!("{count} pods by now, {} among them", names.join(", ")),
        _ => format!("{count} pods by now: {}", names.join(", ")),
    };
    info!("{namespace}/{name} has pods recorded, each in {} of its node's memory; {pods}", size(bytes));
    let what = match &args.target {
        Some(target) => target.to_string(),
        None if selector.is_empty() => "-l ''".to_owned(),
        None => format!("-l '{selector}'"),
    };
    info!(
        "`kubectl sniff {what} -n {namespace} --last 5m -w FILE` fetches what was; `kubectl sniff recordings --status` says how it goes"
    );
    Ok(exit::SUCCESS)
}

fn recording(args: &RecordArgs, selector: &str, bytes: u64) -> Recording {
    let save_when = |filter| SaveWhen { filter: Some(filter), per_second: args.save_rate };
    Recording {
        selector: selector.to_owned(),
        memory: Ok(bytes),
        filter: args.filter.clone(),
        snaplen: args.snaplen,
        headers: args.headers,
        // The definition of the objects takes fewer spellings than a command line.
        cutoff: args.cutoff.map(Cutoff::spelling),
        save_when: args.save_when.clone().map(save_when),
        reason: args.reason.clone(),
    }
}

/// Which pods are meant: objects know them by their labels alone.
async fn selection(cluster: &Cluster, default: &str, args: &RecordArgs) -> Result<Selection> {
    match (&args.target, &args.selector) {
        (Some(Reference::Workload(workload, name)), None) => cluster.pods_of(*workload, default, name).await,
        (Some(Reference::Pod { namespace, name }), _) => bail!(
            "a single pod is recorded by its annotation: kubectl annotate pod {name} -n {} {RECORD}={}",
            namespace.as_deref().unwrap_or(default),
            args.memory
        ),
        (Some(Reference::Node(_)), _) => bail!("the interfaces of a node are not recorded"),
        (None, Some(selector)) => Ok(Selection {
            namespace: Some(default.to_owned()),
            by: By::Labels(selector.clone()),
            node: None,
        }),
        (Some(_), Some(_)) => bail!("name a workload or labels, not both"),
        (None, None) => bail!("name whom to record: deploy/NAME, or -l LABELS (all of the namespace: -l '')"),
    }
}

fn list(all: &[NamedRecording]) -> Result<u8> {
    let table = table(COLUMNS, all.iter().map(cells));
    io::stdout().write_all(table.as_bytes()).context("cannot write the list")?;
    Ok(exit::SUCCESS)
}

fn cells(NamedRecording { namespace, name, recording, by }: &NamedRecording) -> [String; 6] {
    let or_none = |text: Option<&String>| text.filter(|it| !it.is_empty()).cloned().unwrap_or("-".into());
    [
        namespace.clone(),
        name.clone(),
        or_none(Some(&recording.selector)),
        recording.memory.clone().map_or_else(|why| why, size),
        or_none(recording.filter.as_ref()),
        or_none(by.as_ref()),
    ]
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;
    use regex::Regex;
    use sniff_cli::options;

    use super::*;
    use crate::args::{Args, Command};

    const CRD: &str = include_str!("../../../deploy/overlays/record/crd.yaml");

    /// What the definition of the objects takes for a cutoff.
    fn pattern() -> Regex {
        let (_, field) = CRD.split_once("\n                cutoff:\n").unwrap();
        let (_, pattern) = field.split_once("pattern: '").unwrap();
        Regex::new(pattern.split_once('\'').unwrap().0).unwrap()
    }

    fn sent(cutoff: &str) -> String {
        let args = ["kubectl-sniff", "record", "-l", "app=web", "--cutoff", cutoff];
        let command = Args::try_parse_from(args).unwrap().command;
        let Some(Command::Record(args)) = command else { panic!("{command:?}") };
        recording(&args, "app=web", 64 << 20).cutoff.unwrap()
    }

    #[test]
    fn a_cutoff_is_sent_in_a_spelling_that_the_cluster_takes() {
        let (pattern, most) = (pattern(), 32);
        for text in [
            "16KiB",
            "16kib",
            "16kb",
            "16k",
            "100B",
            "100",
            "1.5 KiB",
            "16k,headers",
            "16k,none",
            "16k,every=1",
            "16k,every=+5",
            "16k,every=05",
            "1GiB,every=1000000",
        ] {
            let sent = sent(text);
            assert_eq!(options::cutoff(&sent), options::cutoff(text), "{text}");
            assert!(pattern.is_match(&sent) && sent.len() <= most, "{text}: {sent}");
        }
        assert_eq!(sent("16KiB"), "16384,headers");
        assert!(!pattern.is_match("16kib"));
    }
}
