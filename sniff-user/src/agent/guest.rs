//! What `sniff` does by itself in an agent's pod, where the node's limits hold for it as for every session.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Result, bail};
use log::warn;
use tokio::sync::mpsc;

use super::wire::{Grant, Registration, Report};
use crate::{
    capture::{self, Event, OpenOutput, Plan, Remote},
    system::signals::Attended,
    targets::PodsToCome,
};

/// Asks the agent, if there is one, before the pods of the node are listed. What is returned is to be kept meanwhile.
///
/// # Errors
///
/// When it refuses, or should be there and does not answer.
pub async fn list(socket: Option<&Path>) -> Result<Grant> {
    let what = "the list of this node's pods".to_owned();
    Grant::ask(socket, Registration { what, ..Registration::of_this_process() }).await
}

/// Captures until something ends it, the agent included if there is one.
///
/// # Errors
///
/// When the agent refuses or ends it, it cannot start, or its output fails.
pub async fn capture(
    plan: Plan,
    output: OpenOutput,
    socket: Option<PathBuf>,
    signals: Attended,
) -> Result<()> {
    let names = plan.interfaces.iter().map(|interface| interface.name.clone());
    let names: Vec<String> = names.chain(plan.to_come.iter().flat_map(PodsToCome::kinds)).collect();
    let registration = Registration {
        what: names.join(", "),
        filter: plan.filter.read()?,
        buffer_bytes: plan.ring_bytes.into(),
        duration: plan.duration,
        ..Registration::of_this_process()
    };
    let grant = Grant::ask(socket.as_deref(), registration).await?;
    if !grant.is_of_an_agent() {
        return capture::run(plan, output, signals).await;
    }
    if let Some(note) = grant.note() {
        warn!("{note}");
    }
    let (orders, ordered) = mpsc::channel(1);
    let (events, happens) = mpsc::unbounded_channel();
    let remote = Remote { orders: ordered, events, progress: Arc::default(), names_others: false };
    let capture = capture::serve(plan, output, remote, signals);
    let watch = async {
        let watched = watch(grant, happens).await;
        // With the orders ends the capture.
        drop(orders);
        watched
    };
    let ((mut grant, revoked), captured) = tokio::join!(watch, capture);
    let ended = match &captured {
        Ok((_, accounts)) => {
            let (counters, delivery) = accounts.totals();
            let (matched, dropped) = (counters.matched, counters.lost());
            grant.report(&Report { matched, delivered: delivery.delivered, dropped, bytes: 0 }).await;
            revoked.clone().unwrap_or_else(|| "by itself".to_owned())
        }
        Err(error) => format!("it failed: {error:#}"),
    };
    grant.end(ended).await;
    captured?;
    match revoked {
        Some(why) => bail!("{why}"),
        None => Ok(()),
    }
}

/// Reports to the agent what is captured, until the capture has ended, or the agent says why it must end.
async fn watch(mut grant: Grant, mut happens: mpsc::UnboundedReceiver<Event>) -> (Grant, Option<String>) {
    loop {
        tokio::select! {
            event = happens.recv() => match event {
                Some(Event::Came(_, interface)) => grant.captures(interface.name).await,
                Some(Event::Gone(_)) => {}
                Some(Event::Counted { counters, .. }) => {
                    let (matched, dropped) = (counters.matched, counters.lost());
                    grant.report(&Report { matched, delivered: matched - dropped, dropped, bytes: 0 }).await;
                }
                None => return (grant, None),
            },
            (_, why) = grant.revoked() => return (grant, Some(why)),
        }
    }
}
