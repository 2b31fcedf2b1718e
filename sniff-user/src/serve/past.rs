//! A session about the past: what recorders of this node hold, or a file that a trigger had saved, goes to the client in place
//! of what passes. Nothing is attached.
//!
//! A recorder is asked for a file, which has no name and is written at once, however slow the client is; from there the front
//! half hands it on. Whoever follows gets one file after the other, each of what came behind the one before.

use std::{
    fs::File,
    io::Seek as _,
    os::fd::AsFd as _,
    path::{Path, PathBuf},
    process,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, Result};
use log::{info, warn};
use sniff_cli::exit;
use sniff_kubernetes::consent::LABEL;
use sniff_pcapng::{Names, time};
use sniff_protocol::{
    ToClient, ToNode,
    message::{Code, End, Event, Level, NodeError, Past, Reason, Recording, Stats, TargetId},
};
use tokio::{
    task,
    time::{Instant, sleep, sleep_until},
};

use super::{
    Failure, LAST_WORDS, Opening,
    consent::{Consent, Labels},
    failed,
    input::Input,
    members,
    output::ClientWriter,
};
use crate::{
    agent::{
        audit::{Captured, Outcome, PodId, Terms},
        policy::{Policy, Whom},
        recordings::shelf::open_saved,
        wire::{Grant, Recorded, Report, Source},
    },
    capture::{
        recorder::{Request, ask},
        section_header,
    },
    halves::{
        Writer,
        message::{Play, Played, Saved},
    },
    targets::{Awaited, PodRef},
};

/// Between two files of those that follow: less than the client waits for the packets of other nodes.
const BETWEEN_FILES: Duration = Duration::from_millis(100);
/// After so many of them the agent is asked who is recorded by now.
const FILES_BETWEEN_LOOKS: u32 = 10;
/// Longest silence towards the client, and between two looks whether it takes what it gets.
const BETWEEN_STATS: Duration = Duration::from_secs(1);

/// Runs the session, whose permission is there.
pub(super) async fn serve(
    opening: Opening,
    labels: Labels,
    front: Writer,
    input: &mut Input,
    output: &mut ClientWriter,
) -> Result<End, Failure> {
    let Opening { plan, awaited, lease, duration, override_deny, past, mut grant, .. } = opening;
    let recorded = grant.recorded().await.map_err(failed(Code::Other))?;
    let Some(past) = past.filter(|past| *past != Past::List) else {
        output.tell_first(ToClient::Recordings(recorded.recordings)).await;
        grant.end(Reason::Stopped.into(), "the list was told".to_owned()).await;
        return Ok(End { reason: Reason::Stopped, ..End::default() });
    };
    let policy = grant.policy().map(Policy::parse).transpose().map_err(failed(Code::Other))?;
    let mut consent = Consent::new(labels, policy.unwrap_or_default(), override_deny, grant.may_override());
    consent.settle().await;
    let filter = plan.filter.read().map_err(failed(Code::Filter))?;
    let mut section = Vec::new();
    section_header(&plan.system).write(&mut section);
    front.open(plan.compress, section, &Names::default()).map_err(failed(Code::Output))?;
    let play = Play { filter: filter.clone(), snaplen: plan.snaplen, headers: plan.headers };
    front.begin_to_play(play).map_err(failed(Code::Output))?;
    let terms = Terms { filter, snaplen: plan.snaplen, headers: plan.headers, ..Terms::default() };
    let mut handing = Handing {
        front: Arc::new(front),
        input,
        output,
        grant,
        consent,
        awaited: awaited.into_iter().filter_map(members::awaited).collect(),
        terms,
        folder: recorded.folder.clone(),
        lease,
        heard: Instant::now(),
        over: duration.map(|duration| Instant::now() + duration),
        ending: None,
        is_cut_short: false,
        holders: Vec::new(),
        lost: 0,
        cut_off: 0,
        told: Stats::default(),
    };
    let reason = match past {
        Past::Held { last_ms, follow } => {
            handing.hand_out_held(recorded, last_ms.map(Duration::from_millis), follow).await
        }
        Past::Saved { name } => handing.hand_out_file(&recorded, &name).await,
        Past::List => Ok(Reason::Stopped),
    };
    handing.finish(reason).await
}

/// What is on its way to a client.
struct Handing<'a> {
    front: Arc<Writer>,
    input: &'a mut Input,
    output: &'a mut ClientWriter,
    grant: Grant,
    consent: Consent,
    awaited: Vec<Awaited>,
    terms: Terms,
    /// Where files are.
    folder: Option<PathBuf>,
    lease: Duration,
    /// When the client was heard last.
    heard: Instant,
    /// When the time that was asked for is over.
    over: Option<Instant>,
    /// Why it is to end.
    ending: Option<Reason>,
    /// Whether what is left is not wanted.
    is_cut_short: bool,
    /// Those that were asked, by the numbers of their files' source.
    holders: Vec<Holder>,
    /// Packets that were lost before they were recorded, or before they were handed out.
    lost: u64,
    /// Those that the recorders have left out behind the cutoff of their flow since the first of their files.
    cut_off: u64,
    told: Stats,
}

/// A recorder that has something for the client.
struct Holder {
    source: Source,
    /// How far back it is to go.
    last: Option<Duration>,
    /// Where its last file has ended; none before the first.
    saved: Option<Saved>,
    is_gone: bool,
}

impl Handing<'_> {
    /// Hands out what recorders hold, and follows them if that is wanted.
    async fn hand_out_held(
        &mut self,
        recorded: Recorded,
        last: Option<Duration>,
        follow: bool,
    ) -> Result<Reason> {
        self.meet(recorded, last).await;
        let interfaces = self.holders.len() as u32;
        self.output.tell(ToClient::Event(Event::Listening { interfaces }));
        self.is_cut_short = !follow;
        self.round(!follow).await?;
        let mut rounds = 0;
        while follow && self.ending.is_none() {
            self.attend(sleep(BETWEEN_FILES)).await;
            rounds += 1;
            if rounds % FILES_BETWEEN_LOOKS == 0 {
                let recorded = self.grant.recorded().await?;
                self.meet(recorded, None).await;
            }
            self.round(false).await?;
        }
        if follow {
            // Whatever was recorded when it was told to end.
            self.round(true).await?;
        }
        Ok(self.ending.unwrap_or(Reason::Stopped))
    }

    /// Hands out a file that a trigger had saved.
    async fn hand_out_file(&mut self, recorded: &Recorded, name: &str) -> Result<Reason> {
        let saved = recorded.recordings.saved.iter().find(|saved| saved.name == name);
        let saved =
            saved.with_context(|| format!("there is no recording {name} here, or none that you may have"))?;
        let folder = self.folder.as_deref().context("no recordings are kept on this node")?;
        let (Recording { namespace, pod: name, .. }, file) = open_saved(folder, &saved.name)?;
        let id = PodId { namespace, name, uid: String::new() };
        self.arrive(&id).await;
        self.output.tell(ToClient::Event(Event::Listening { interfaces: 1 }));
        self.is_cut_short = true;
        self.play(vec![(0, file)], u64::MAX).await?;
        Ok(self.ending.unwrap_or(Reason::Stopped))
    }

    /// Takes in recorders that the client may want, which were not met before.
    async fn meet(&mut self, recorded: Recorded, last: Option<Duration>) {
        for source in recorded.sources {
            let Source { pid, pod: PodId { namespace, name, .. }, labels } = &source;
            let is_known = self.holders.iter().any(|holder| holder.source.pid == *pid);
            if is_known || !self.awaited.iter().any(|it| it.is_meant(namespace, name, labels)) {
                continue;
            }
            if let Err(error) = self.agree(&source) {
                let error = format!("{error:#}");
                self.grant.denied(format!("{namespace}/{name}"), &error).await;
                let target = target(&source.pod);
                self.output.tell(ToClient::Event(Event::TargetFailed { target, error, refused: true }));
                continue;
            }
            let longest = self.consent.longest(Whom::Namespace(namespace));
            let last = match (last, longest) {
                (Some(last), Some(longest)) => Some(last.min(longest)),
                (last, longest) => last.or(longest),
            };
            self.arrive(&source.pod).await;
            self.holders.push(Holder { source, last, saved: None, is_gone: false });
        }
    }

    /// Makes sure that the past of a pod may be handed out.
    fn agree(&self, source: &Source) -> Result<()> {
        if let Some(remit) = self.grant.remit() {
            remit.check_namespace(&source.pod.namespace)?;
        }
        let Source { pod: PodId { namespace, name, uid }, labels, .. } = source;
        let [namespace, name, uid] = [namespace, name, uid].map(String::clone);
        let capture_label = labels.get(LABEL).cloned();
        self.consent.ask(&PodRef { namespace, name, uid, facts: Arc::default(), capture_label })?;
        Ok(())
    }

    /// Tells the client, before its first packet, and the agent that a pod's past is handed out.
    async fn arrive(&mut self, pod: &PodId) {
        let captured = Captured {
            what: format!("what was recorded of {}/{}", pod.namespace, pod.name),
            pod: Some(pod.clone()),
            terms: self.terms.clone(),
        };
        self.grant.captures(captured).await;
        let added = Event::TargetAdded { target: target(pod), interfaces: Vec::new() };
        self.output.tell(ToClient::Event(Event::TargetArrived { target: target(pod) }));
        self.output.tell_first(ToClient::Event(added)).await;
    }

    /// Has each recorder write what is new since the last time, and hands that on; all of it, if it is the last round. Otherwise
    /// what is newer than the oldest of these moments waits, since others may have older packets then.
    async fn round(&mut self, is_last: bool) -> Result<()> {
        let Some(folder) = self.folder.clone() else { return Ok(()) };
        let mut files = Vec::new();
        for number in 0..self.holders.len() {
            let holder = &self.holders[number];
            if holder.is_gone {
                continue;
            }
            let Holder { source: Source { pid, pod, .. }, last, saved, .. } = holder;
            let (pid, pod, last, before) = (*pid, pod.clone(), *last, *saved);
            let folder = folder.clone();
            let saving = task::spawn_blocking(move || save(pid, &folder, last, before));
            match self.attend(saving).await? {
                Ok((file, saved)) => {
                    self.tell_of_missing(&pod, &saved, last, before.is_some());
                    self.holders[number].saved = Some(saved);
                    files.push((number as u32, file));
                }
                Err(error) => self.lose(number, &error).await,
            }
        }
        let live = self.holders.iter().filter(|holder| !holder.is_gone);
        let horizon = live.filter_map(|holder| holder.saved).map(|saved| saved.until).min();
        let horizon = horizon.filter(|_| !is_last).unwrap_or(u64::MAX);
        self.play(files, horizon).await
    }

    /// Notes that a recorder has nothing more.
    async fn lose(&mut self, number: usize, error: &anyhow::Error) {
        let Holder { source, saved, is_gone, .. } = &mut self.holders[number];
        *is_gone = true;
        let (target, why) = (target(&source.pod), format!("what is recorded cannot be had: {error:#}"));
        self.output.tell(ToClient::Event(match saved {
            Some(saved) => {
                let why = format!("{why}; what is here ends at {}", time(saved.until));
                Event::TargetGone { target, why }
            }
            None => Event::TargetFailed { target, error: why, refused: false },
        }));
        self.grant.leaves(source.pod.clone()).await;
    }

    /// Says what is not in a file of a recorder, and counts it.
    fn tell_of_missing(&mut self, pod: &PodId, saved: &Saved, last: Option<Duration>, is_following: bool) {
        let PodId { namespace, name, .. } = pod;
        self.lost += saved.lost;
        let note = |level, text| self.output.tell(ToClient::Event(Event::Note { level, text }));
        if is_following {
            self.lost += saved.aged_out;
            self.cut_off += saved.cut_off;
            if saved.aged_out > 0 {
                let count = saved.aged_out;
                note(
                    Level::Warn,
                    format!("{namespace}/{name}: {count} packets were gone before they could be handed out"),
                );
            }
            return;
        }
        let since = saved.since.map_or_else(|| "the recording began".to_owned(), time);
        let missing = match saved.describe_missing() {
            missing if missing.is_empty() => String::new(),
            missing => format!("; {missing}"),
        };
        let text =
            format!("{namespace}/{name}: the packets since {since} up to {}{missing}", time(saved.until));
        note(Level::Info, text);
        let wanted =
            last.map(|last| saved.until.saturating_sub(u64::try_from(last.as_nanos()).unwrap_or(u64::MAX)));
        if let (Some(wanted), Some(since)) = (wanted, saved.since)
            && since > wanted
        {
            let wanted = time(wanted);
            note(
                Level::Warn,
                format!("{namespace}/{name}: what was wanted begins at {wanted}, which is not held any more"),
            );
        }
    }

    /// Hands on packets of these files.
    async fn play(&mut self, files: Vec<(u32, File)>, horizon: u64) -> Result<()> {
        let files = files.into_iter().map(|(source, file)| (source, file.into())).collect();
        let front = Arc::clone(&self.front);
        let playing = task::spawn_blocking(move || front.play(files, horizon));
        let Played { delivered, passed_over } = self.attend(playing).await??;
        info!("{delivered} recorded packets are handed out, {passed_over} do not match");
        Ok(())
    }

    /// Does something, and heeds the client and the agent meanwhile. Where one of them wants an end, it is cut short.
    async fn attend<T>(&mut self, work: impl Future<Output = T>) -> T {
        tokio::pin!(work);
        let mut moved = (self.front.board.moved(), Instant::now());
        loop {
            let is_live = !matches!(self.ending, Some(Reason::Lease | Reason::InputClosed));
            let reason = tokio::select! {
                biased;
                done = &mut work => return done,
                message = self.input.next(), if is_live => {
                    self.heard = Instant::now();
                    match message {
                        Some(Ok(ToNode::Stop)) => Some(Reason::Stopped),
                        Some(Ok(ToNode::Watermark)) => {
                            // With what comes next.
                            let _ = self.front.watermark();
                            None
                        }
                        Some(Ok(_)) => None,
                        Some(Err(_)) | None => Some(Reason::InputClosed),
                    }
                }
                (cause, why) = self.grant.revoked(), if self.ending.is_none() => {
                    let error = NodeError { code: Code::RefusedLimit, message: why };
                    self.output.tell(ToClient::Error(error));
                    Some(cause.into())
                }
                () = sleep_until(self.over.unwrap_or_else(far)), if self.ending.is_none() => Some(Reason::Duration),
                () = sleep_until(self.heard + self.lease), if is_live => Some(Reason::Lease),
                () = sleep(BETWEEN_STATS) => {
                    self.tell_stats().await;
                    None
                }
            };
            if let Some(reason) = reason {
                let is_lost = matches!(reason, Reason::Lease | Reason::InputClosed);
                if self.is_cut_short || is_lost {
                    self.front.board.hurry();
                }
                if self.ending.is_none() || is_lost {
                    self.ending = Some(reason);
                }
            }
            if self.front.board.moved() != moved.0 || is_live {
                moved = (self.front.board.moved(), Instant::now());
            }
            if moved.1.elapsed() >= LAST_WORDS {
                warn!("ended: nobody takes the packets that are left");
                process::exit(exit::FAILURE.into());
            }
        }
    }

    async fn tell_stats(&mut self) {
        let stats = self.stats();
        let Stats { matched, delivered, dropped, cut_off, .. } = stats;
        let bytes = self.front.board.moved();
        if stats != self.told {
            self.grant
                .report(&Report { matched, delivered, dropped, cut_off, bytes, ..Report::default() })
                .await;
        }
        self.told = stats.clone();
        self.output.tell(ToClient::Stats(stats));
    }

    fn stats(&self) -> Stats {
        let delivered = self.front.board.written.packets();
        let &Self { lost: dropped, cut_off, .. } = self;
        Stats { matched: delivered + dropped + cut_off, delivered, dropped, cut_off, ..Stats::default() }
    }

    /// Writes the statistics, and tells the agent how it went.
    async fn finish(mut self, reason: Result<Reason>) -> Result<End, Failure> {
        let front = Arc::clone(&self.front);
        let ended = match &reason {
            Ok(_) => {
                self.attend(task::spawn_blocking(move || front.end(Vec::new()))).await.map_err(Into::into)
            }
            Err(_) => Ok(Ok(())),
        };
        let ended = reason.and_then(|reason| ended.and_then(|ended| ended).map(|()| reason));
        let Stats { matched, delivered, dropped, cut_off, .. } = self.stats();
        let bytes = self.front.board.moved();
        self.grant.report(&Report { matched, delivered, dropped, cut_off, bytes, ..Report::default() }).await;
        match ended {
            Ok(reason) => {
                self.grant.end(reason.into(), super::in_words(reason).to_owned()).await;
                Ok(End { reason, captured: delivered, matched, dropped, cut_off, ..End::default() })
            }
            Err(error) => {
                self.grant.end(Outcome::Failed, format!("it failed: {error:#}")).await;
                Err(failed(Code::Other)(error))
            }
        }
    }
}

/// Has a recorder write what it holds behind an earlier file into one that has no name.
fn save(pid: i32, folder: &Path, last: Option<Duration>, before: Option<Saved>) -> Result<(File, Saved)> {
    let mut file = tempfile::tempfile_in(folder)
        .with_context(|| format!("no file can be made in {}", folder.display()))?;
    let (last, after) = match before {
        Some(saved) => (None, Some(saved.place)),
        None => (last, None),
    };
    let saved = ask::of(pid)?.save(Request { last, after, ..Request::default() }, file.as_fd())?;
    file.rewind()?;
    Ok((file, saved))
}

fn target(pod: &PodId) -> TargetId {
    let PodId { namespace, name, uid } = pod.clone();
    TargetId::Pod { namespace, name, uid }
}

/// Later than any session lasts.
fn far() -> Instant {
    Instant::now() + Duration::from_secs(365 * 24 * 3600)
}
