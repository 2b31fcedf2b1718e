//! What `sniff` does by itself in an agent's pod, where the node's limits hold for it as for every session.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Result, bail};
use log::warn;
use sniff_protocol::message::Reason;
use tokio::sync::mpsc;

use sniff_common::Counters;

use super::{
    audit::{Captured, Outcome, PodId, Terms},
    wire::{Cause, Grant, Registration, Report},
};
use crate::{
    capture::{self, Event, Plan, Progress, Remote, Why},
    halves::Writer,
    system::signals::Attended,
    targets::{Interface, PodsToCome},
};

/// Asks the agent, if there is one, before the pods of the node are listed. What is returned is to be kept meanwhile.
///
/// # Errors
///
/// When it refuses, or should be there and does not answer.
pub async fn list(socket: Option<&Path>) -> Result<Grant> {
    let what = "the list of this node's pods".to_owned();
    // No packet is in it.
    let registration = Registration { what, keeps_policy: true, ..Registration::of_this_process() };
    Grant::ask(socket, registration).await
}

/// Captures until something ends it, the agent included if there is one.
///
/// # Errors
///
/// When the agent refuses or ends it, it cannot start, or its output fails.
pub async fn capture(plan: Plan, front: Writer, socket: Option<PathBuf>, signals: Attended) -> Result<()> {
    let names = plan.interfaces.iter().map(|interface| interface.name.clone());
    let names: Vec<String> = names.chain(plan.to_come.iter().flat_map(PodsToCome::kinds)).collect();
    let general = plan.filter.read()?;
    let registration = Registration {
        what: names.join(", "),
        filter: general.clone(),
        buffer_bytes: plan.ring_bytes.into(),
        duration: plan.duration,
        snaplen: plan.snaplen,
        headers: plan.headers,
        ..Registration::of_this_process()
    };
    let mut grant = Grant::ask(socket.as_deref(), registration).await?;
    if !grant.is_of_an_agent() {
        return capture::run(plan, front, signals).await;
    }
    if let Some(note) = grant.note() {
        warn!("{note}");
    }
    let (snaplen, headers) = (plan.snaplen, plan.headers);
    let captured = move |interface: &Interface| Captured {
        what: interface.name.clone(),
        pod: interface.pod.as_ref().map(PodId::from),
        terms: Terms {
            filter: interface.expression(general.as_deref()),
            snaplen,
            headers,
            ..Terms::default()
        },
    };
    for interface in &plan.interfaces {
        grant.captures(captured(interface)).await;
    }
    let (orders, ordered) = mpsc::channel(1);
    let (events, happens) = mpsc::unbounded_channel();
    let remote = Remote {
        orders: ordered,
        events,
        progress: Arc::new(Progress::new(front.board)),
        names_others: false,
    };
    let capture = capture::serve(plan, front, remote, signals);
    let watch = async {
        let watched = watch(grant, happens, captured).await;
        // With the orders ends the capture.
        drop(orders);
        watched
    };
    let ((mut grant, revoked), captured) = tokio::join!(watch, capture);
    let (outcome, why) = match &captured {
        Ok((why, accounts)) => {
            let (counters, delivery) = accounts.totals();
            let delivered = delivery.delivered;
            grant.report(&Report { delivered, ..report(&counters) }).await;
            match &revoked {
                Some((cause, why)) => (Reason::from(*cause).into(), why.clone()),
                // Where its last interface was, it has done all that was asked.
                None if *why == Why::Empty => (Outcome::Stopped, "by itself".to_owned()),
                None => (Reason::from(*why).into(), "by itself".to_owned()),
            }
        }
        Err(error) => (Outcome::Failed, format!("it failed: {error:#}")),
    };
    grant.end(outcome, why).await;
    captured?;
    match revoked {
        Some((_, why)) => bail!("{why}"),
        None => Ok(()),
    }
}

/// What was counted. All that is in the ring is said to be delivered.
fn report(counters: &Counters) -> Report {
    let &Counters { matched, cut_off, .. } = counters;
    Report { matched, delivered: counters.recorded(), dropped: counters.lost(), cut_off, ..Report::default() }
}

/// Reports to the agent what is captured, until the capture has ended, or the agent says why it must end.
async fn watch(
    mut grant: Grant,
    mut happens: mpsc::UnboundedReceiver<Event>,
    captured: impl Fn(&Interface) -> Captured,
) -> (Grant, Option<(Cause, String)>) {
    loop {
        tokio::select! {
            event = happens.recv() => match event {
                Some(Event::Came(_, interface)) => grant.captures(captured(&interface)).await,
                Some(Event::Gone(_)) => {}
                Some(Event::Counted { counters, .. }) => {
                    grant.report(&report(&counters)).await;
                }
                None => return (grant, None),
            },
            revoked = grant.revoked() => return (grant, Some(revoked)),
        }
    }
}
