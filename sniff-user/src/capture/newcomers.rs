//! Interfaces that come to a target while it is captured: a VPN's, one that a pod gets later, one that is made anew. And
//! those that leave it.
//!
//! A task of its own hears of them and looks what they are, so that a capture waits for neither.

use std::collections::HashSet;

use anyhow::Result;
use log::{debug, warn};
use tokio::{
    sync::mpsc::{self, UnboundedReceiver, UnboundedSender},
    task,
};

use crate::{
    net::link::monitor::{Left, Monitor, News, Seen},
    targets::{Interface, Scope, Unfit},
};

/// Interfaces that are told of at once: each takes some 40 ms to attach, and nothing else is done meanwhile.
const AT_ONCE: usize = 8;

/// What is told of the interfaces of the scopes.
pub enum Found {
    /// All that a scope has, at a time when some may have come or left, and those that cannot be captured.
    All(Box<Scope>, Vec<Interface>, Vec<Unfit>),
    /// Some of them, which may be new.
    There(Box<Scope>, Vec<Interface>),
    /// Some are not there any more.
    Left(HashSet<Left>),
    /// There were more changes than could be heard of: any may have left.
    Missed,
}

/// The task, and the scopes that it was told of.
pub struct Newcomers {
    scopes: Vec<Scope>,
    told: UnboundedSender<Told>,
    found: UnboundedReceiver<Found>,
}

/// What the task is told.
enum Told {
    Add(Vec<Scope>),
    Remove(Vec<Scope>),
}

impl Newcomers {
    /// Starts to look out for interfaces of nobody yet.
    pub fn start() -> Self {
        let (told, orders) = mpsc::unbounded_channel();
        let (sender, found) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            if let Err(error) = look_out(orders, &sender).await {
                warn!("interfaces that come later are not captured: {error:#}");
            }
        });
        Self { scopes: Vec::new(), told, found }
    }

    /// Looks out for these too, and no more for those that are gone. What they have by now is told first, so that nothing
    /// comes between two looks.
    pub fn add(&mut self, scopes: Vec<Scope>) {
        let gone: Vec<Scope> = self.scopes.extract_if(.., |scope| !scope.is_there()).collect();
        if !gone.is_empty() {
            // A task that has ended has said why.
            let _ = self.told.send(Told::Remove(gone));
        }
        if !scopes.is_empty() {
            self.scopes.extend(scopes.iter().cloned());
            // A task that has ended has said why.
            let _ = self.told.send(Told::Add(scopes));
        }
    }

    /// Looks out for these no more.
    pub fn remove(&mut self, scopes: Vec<Scope>) {
        self.scopes.retain(|scope| !scopes.contains(scope));
        let _ = self.told.send(Told::Remove(scopes));
    }

    /// Whether it looks out for interfaces of this scope.
    pub fn looks_out_for(&self, scope: &Scope) -> bool {
        self.scopes.contains(scope)
    }

    /// Whether somebody looks out.
    pub fn are_heard_of(&self) -> bool {
        !self.told.is_closed()
    }

    /// Whether an interface may still come to anybody: their namespaces are there.
    pub fn may_come(&self) -> bool {
        self.are_heard_of() && self.scopes.iter().any(Scope::is_there)
    }

    /// What is told next; never, when nobody looks out any more.
    pub async fn next(&mut self) -> Found {
        if !self.found.is_empty() {
            // Whoever takes it is busy for a while each time, and others have their turn in between.
            task::yield_now().await;
        }
        match self.found.recv().await {
            Some(found) => found,
            None => std::future::pending().await,
        }
    }
}

/// Looks out until nobody is there to be told.
async fn look_out(mut orders: UnboundedReceiver<Told>, found: &UnboundedSender<Found>) -> Result<()> {
    let mut monitor = None;
    let mut scopes = Vec::<Scope>::new();
    loop {
        let to_look_at = tokio::select! {
            told = orders.recv() => match told {
                Some(Told::Add(new)) => {
                    let monitor = match &mut monitor {
                        Some(monitor) => monitor,
                        none => none.insert(Monitor::new()?),
                    };
                    monitor.watch(new.iter().map(Scope::netns))?;
                    scopes.extend(new.iter().cloned());
                    new
                }
                Some(Told::Remove(gone)) => {
                    scopes.retain(|scope| !gone.contains(scope));
                    continue;
                }
                None => return Ok(()),
            },
            news = next(&mut monitor) => {
                let news = news?;
                let concerned = concerned(&scopes, &news);
                let left = match news {
                    News::Heard(_, left) if left.is_empty() => None,
                    News::Heard(_, left) => Some(Found::Left(left)),
                    News::Missed => Some(Found::Missed),
                };
                if left.is_some_and(|left| found.send(left).is_err()) {
                    return Ok(());
                }
                concerned
            }
        };
        for scope in to_look_at {
            let looked = task::spawn_blocking(|| look_at(scope)).await?;
            if looked.into_iter().any(|news| found.send(news).is_err()) {
                return Ok(());
            }
        }
    }
}

/// What a scope has by now, a few at a time: nothing, where a pod has gone.
fn look_at(scope: Scope) -> Vec<Found> {
    fn or_none<T>(found: Result<Vec<T>>) -> Vec<T> {
        found.unwrap_or_else(|error| {
            debug!("cannot look for new interfaces: {error:#}");
            Vec::new()
        })
    }
    let (interfaces, unfit) = (or_none(scope.interfaces_now()), or_none(scope.unfit()));
    let there = |piece: &[Interface]| Found::There(Box::new(scope.clone()), piece.to_vec());
    let mut told: Vec<Found> = interfaces.chunks(AT_ONCE).map(there).collect();
    told.insert(0, Found::All(Box::new(scope.clone()), interfaces, unfit));
    told
}

async fn next(monitor: &mut Option<Monitor>) -> Result<News> {
    match monitor {
        Some(monitor) => monitor.next().await,
        None => std::future::pending().await,
    }
}

/// The scopes that such news may be about.
fn concerned(scopes: &[Scope], news: &News) -> Vec<Scope> {
    let wants = |scope: &&Scope, seen: &HashSet<Seen>| {
        let here = |seen: &&Seen| seen.netns == scope.netns().id();
        seen.iter().filter(here).any(|seen| scope.wants(seen.name.as_deref(), seen.up))
    };
    match news {
        News::Missed => scopes.to_vec(),
        News::Heard(seen, _) => scopes.iter().filter(|scope| wants(scope, seen)).cloned().collect(),
    }
}
