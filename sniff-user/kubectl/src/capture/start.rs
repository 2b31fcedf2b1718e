//! Finding out what is meant, before anything is made.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    env,
    ffi::OsStr,
    io::{self, Write as _},
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context as _, Result, bail, ensure};
use log::{info, warn};
use sniff_cli::exit;
use sniff_kubernetes::{
    Cluster, Forbidden,
    jobs::Resources,
    pods::{By, Change, Selection, follow},
};
use sniff_pcapng::{Names, SectionHeader, merge::Merger};
use sniff_protocol::message::{Past, TargetId};
use tokio::sync::mpsc;

use super::{Capture, members::name, past, status_line::is_shown};
use crate::{
    args::{Args, IMAGE},
    output::ClientDestination,
    reference::Reference,
    rejoin::Rejoins,
    session::{self, Common, Orders},
    wireshark,
};

/// How long short-lived pods may live, beyond the duration that was asked for, and without one.
const MARGIN: Duration = Duration::from_secs(60);
const MAX_LIFETIME: Duration = Duration::from_secs(8 * 3600);
/// Updates of all sessions on their way; each is at most a frame.
const QUEUED: usize = 8;

impl Capture {
    /// Finds out what is meant. Nothing is made yet.
    pub(super) async fn start(cluster: Cluster, args: Args, began: Instant) -> Result<Self> {
        let what = describe(&args);
        let past = args.past();
        let wanted = wanted_output(&args, &what)?;
        let lifetime = args.capture.duration.map_or(MAX_LIFETIME, |duration| duration + MARGIN);
        let common = Arc::new(Common {
            daemonset_namespace: args.cluster.daemonset_namespace().to_owned(),
            job_namespace: args.cluster.job_namespace().to_owned(),
            agentless: args.agentless,
            expose_nodes: args.expose_nodes,
            privileged: args.privileged,
            image: args.image.clone(),
            names_image: args.image.is_some()
                && args.image.as_deref().map(OsStr::new) != env::var_os(IMAGE).as_deref(),
            resources: Resources { requests: args.requests.clone(), limits: args.limits.clone() },
            lifetime,
            who: session::who(),
            reason: args.reason.clone(),
            override_deny: args.override_deny,
            what,
            // What a node holds it may still send when it is told to stop.
            buffer_bytes: past.as_ref().map_or(args.capture.ring_bytes, |_| u32::MAX),
            is_watched: is_shown(&args, &wanted),
            cluster,
        });
        let selections = selections(&common.cluster, &args).await?;
        let (sender, changes) = mpsc::channel(64);
        let (updating, updates) = mpsc::channel(QUEUED);
        let (told, named) = mpsc::channel(1);
        let mut pending = Vec::new();
        let header = SectionHeader {
            application: concat!("kubectl-sniff ", env!("CARGO_PKG_VERSION")).into(),
            comment: Some(annotation(&common, past.as_ref())),
            ..SectionHeader::default()
        };
        let mut merger = Merger::new(&header, args.capture.count, &mut pending);
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        merger.set_clock(Instant::now(), since_epoch.as_nanos() as u64);
        let mut capture = Self {
            args,
            common,
            began,
            past,
            selections,
            follows: Vec::new(),
            changes,
            unwatched: HashSet::new(),
            members: HashMap::new(),
            refused: HashSet::new(),
            facts: HashMap::new(),
            names: HashSet::new(),
            addresses: Names::default(),
            named,
            is_nameless_told: false,
            kubelet_ports: HashMap::new(),
            joining: BTreeMap::new(),
            expected: BTreeSet::new(),
            orders: Orders::Run,
            sessions: Vec::new(),
            updates,
            updating,
            retries: Vec::new(),
            rejoins: Rejoins::default(),
            given_up: HashSet::new(),
            merger,
            pending,
            wanted,
            progress: Arc::default(),
            has_begun: false,
            has_captured: false,
            is_listening_told: false,
            listening_since: None,
            words_due: began,
            held_up_at: None,
            failed: false,
        };
        if capture.past.is_some() {
            capture.find_recorders().await?;
        } else {
            capture.find_nodes().await?;
            capture.find_pods(&sender).await?;
        }
        capture.ask_for_names(told);
        Ok(capture)
    }

    /// The nodes that are targets themselves.
    async fn find_nodes(&mut self) -> Result<()> {
        let targets = self.args.targets.clone();
        for name in targets.iter().filter_map(|target| match target {
            Reference::Node(name) => Some(name),
            Reference::Pod { .. } | Reference::Workload(..) => None,
        }) {
            let facts = self.common.cluster.node(name).await?;
            ensure!(facts.os != "windows", "node {name} runs Windows, sniff captures on Linux");
            self.kubelet_ports.insert(name.clone(), facts.kubelet_port);
            self.join(TargetId::Node, name.clone(), None);
        }
        Ok(())
    }

    /// The pods that are there now. Where pods are followed, those are what the watch begins with.
    async fn find_pods(&mut self, sender: &mpsc::Sender<(usize, Change)>) -> Result<()> {
        for (at, selection) in self.selections.clone().into_iter().enumerate() {
            if self.args.no_follow || self.args.dry_run {
                let pods = self.common.cluster.pods(&selection).await?;
                self.all(at, pods);
                continue;
            }
            let (changes, mut own) = mpsc::channel(16);
            self.follows.push(follow(self.common.cluster.clone(), selection.clone(), changes));
            match own.recv().await.context("the watch has ended")? {
                Change::All(pods) => self.all(at, pods),
                Change::NotAllowed(forbidden) if matches!(selection.by, By::Name(_)) => {
                    let pods = self.common.cluster.pods(&selection).await?;
                    warn!("{selection} is not followed: {forbidden}");
                    self.all(at, pods);
                }
                Change::NotAllowed(forbidden) => return Err(forbidden.into()),
                Change::Trouble(error) => return Err(error),
                Change::Applied(pod) | Change::Gone(pod) => {
                    bail!("{}/{} before the list", pod.namespace, pod.name)
                }
            }
            let sender = sender.clone();
            tokio::spawn(async move {
                while let Some(change) = own.recv().await {
                    if sender.send((at, change)).await.is_err() {
                        return;
                    }
                }
            });
        }
        self.say_what_was_found().await
    }

    async fn say_what_was_found(&self) -> Result<()> {
        for (node, targets) in &self.joining {
            let names: Vec<_> = targets.iter().map(|target| name(&target.id, node)).collect();
            info!("on node {node}: {}", names.join(", "));
        }
        let nothing = self.joining.is_empty();
        let absent = self.absent().await;
        if nothing && !absent.is_empty() {
            bail!(absent.join("; "));
        }
        if let Some(node) = &self.args.node
            && !self.joining.contains_key(node)
        {
            check_node(&self.common.cluster, node).await?;
        }
        absent.iter().for_each(|why| warn!("{why}"));
        ensure!(!nothing || !(self.args.no_follow || self.args.dry_run), "no pod matches that runs");
        if nothing {
            info!("no pod matches that runs; waiting for one");
        }
        Ok(())
    }

    /// Why pods that were named are not captured, and namespaces that are not there.
    async fn absent(&self) -> Vec<String> {
        let mut all = Vec::new();
        for (at, selection) in self.selections.iter().enumerate() {
            let Some(namespace) = &selection.namespace else { continue };
            if self.members.values().any(|member| member.selections.contains(&at)) {
                continue;
            }
            match &selection.by {
                By::Name(name) => {
                    let (node, container) = (selection.node.as_deref(), self.args.container.as_deref());
                    all.push(self.common.cluster.why_not(namespace, name, node, container).await);
                }
                By::Labels(_) => all.extend(self.common.cluster.no_such_namespace(namespace).await),
            }
        }
        all
    }

    /// What a dry run says.
    pub(super) async fn describe(&self) -> Result<u8> {
        let mut stdout = io::stdout();
        for node in self.joining.keys().chain(&self.expected) {
            match (session::installed(&self.common, node).await?, session::new_job(&self.common, node)) {
                (Some(pod), _) => info!("node {node}: would run in pod {}/{}", pod.namespace, pod.name),
                (None, Some(new)) => {
                    self.common.cluster.check_namespace(&new).await?;
                    info!("node {node}: would make this job:");
                    writeln!(stdout, "{}", new.manifest()?)?;
                }
                (None, None) => {
                    bail!("node {node}: neither a DaemonSet's pod nor an --image for a short-lived one")
                }
            }
        }
        Ok(exit::SUCCESS)
    }
}

/// Whether there is such a node, as far as this user may ask.
async fn check_node(cluster: &Cluster, node: &str) -> Result<()> {
    match cluster.node(node).await {
        Err(error) if !error.is::<Forbidden>() => Err(error),
        _ => Ok(()),
    }
}

/// What is meant by the command line, but for nodes.
async fn selections(cluster: &Cluster, args: &Args) -> Result<Vec<Selection>> {
    let default = args.cluster.namespace.clone().unwrap_or_else(|| cluster.default_namespace().to_owned());
    let node = args.node.clone();
    let mut selections = Vec::new();
    for target in &args.targets {
        let mut selection = match target {
            Reference::Pod { namespace, name } => Selection {
                namespace: Some(namespace.clone().unwrap_or_else(|| default.clone())),
                by: By::Name(name.clone()),
                node: None,
            },
            Reference::Workload(workload, name) => {
                let selection = cluster.pods_of(*workload, &default, name).await;
                match args.past() {
                    Some(_) => selection.context("pods that were recorded are found by -l LABELS, too")?,
                    None => selection?,
                }
            }
            Reference::Node(_) => continue,
        };
        selection.node.clone_from(&node);
        selections.push(selection);
    }
    if args.selector.is_some() || args.targets.is_empty() {
        let by = By::Labels(args.selector.clone().unwrap_or_default());
        // Pods of a node are of any namespace, unless one is named.
        let is_any = args.all_namespaces
            || args.selector.is_none() && args.node.is_some() && args.cluster.namespace.is_none();
        selections.push(Selection { namespace: (!is_any).then_some(default), by, node });
    }
    Ok(selections)
}

fn wanted_output(args: &Args, what: &str) -> Result<ClientDestination> {
    let output = sniff_output::Destination::of(
        args.write.clone(),
        args.manner(),
        args.lines.is_printing(),
        args.style(),
    );
    let plain = ClientDestination::Plain(output);
    if args.write.is_some() || args.lines.is_printing() || args.dry_run {
        return Ok(plain);
    }
    Ok(match wireshark::find(args.wireshark_path.as_deref())? {
        Some(program) => ClientDestination::Wireshark { program, title: what.to_owned() },
        None => plain,
    })
}

/// The targets in words, for titles and annotations.
fn describe(args: &Args) -> String {
    let namespace = args.cluster.namespace.as_deref().map(|it| format!("{it}/")).unwrap_or_default();
    let mut words: Vec<String> = Vec::new();
    words.extend(args.targets.iter().map(|target| match target {
        Reference::Pod { namespace: Some(_), .. } | Reference::Node(_) => target.to_string(),
        Reference::Pod { namespace: None, .. } | Reference::Workload(..) => format!("{namespace}{target}"),
    }));
    words.extend(args.selector.as_ref().map(|selector| format!("{namespace}{selector}")));
    words.extend(args.node.as_ref().map(|node| format!("on {node}")));
    if words.is_empty() {
        words.push("all pods".to_owned());
    }
    words.join(" ")
}

/// What a file says of its capture: what, who, and why.
fn annotation(common: &Common, past: Option<&Past>) -> String {
    let past = past.map(|past| format!(", {}", past::in_words(past))).unwrap_or_default();
    let reason = common.reason.as_deref().map(|reason| format!(", because of: {reason}")).unwrap_or_default();
    let overriding = if common.override_deny { ", pods that deny it included" } else { "" };
    format!("{}{past}, by {}{reason}{overriding}", common.what, common.who)
}
