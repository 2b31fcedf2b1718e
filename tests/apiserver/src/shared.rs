//! What the threads of all connections share.

use std::{
    sync::{Condvar, Mutex, MutexGuard},
    time::Duration,
};

use crate::{
    exec::Execs, jobs::Jobs, kubelet::Kubelets, objects::Objects, rights::Rights, tokens::Tokens,
    users::Users,
};

const NOT_POISONED: &str = "no test thread has panicked with it";

#[derive(Default)]
pub(crate) struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

/// Each part is described where it is used.
#[derive(Default)]
pub(crate) struct State {
    pub(crate) objects: Objects,
    /// What the definition of recordings does not have.
    pub(crate) pruned: Vec<&'static str>,
    pub(crate) rights: Rights,
    pub(crate) users: Users,
    pub(crate) tokens: Tokens,
    pub(crate) kubelets: Kubelets,
    pub(crate) jobs: Jobs,
    pub(crate) execs: Execs,
    pub(crate) log: Vec<String>,
    /// Whether the server answers nobody, and how many requests it has left without an answer.
    pub(crate) is_down: bool,
    pub(crate) unanswered: usize,
    /// Whether the test is over.
    pub(crate) has_ended: bool,
}

impl Shared {
    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect(NOT_POISONED)
    }

    /// Changes what watches may wait for.
    pub(crate) fn update<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let result = change(&mut self.lock());
        self.changed.notify_all();
        result
    }

    /// The state once `is_due`, or after a second.
    pub(crate) fn wait_until(&self, is_due: impl Fn(&State) -> bool) -> MutexGuard<'_, State> {
        let wait =
            self.changed.wait_timeout_while(self.lock(), Duration::from_secs(1), |state| !is_due(state));
        wait.expect(NOT_POISONED).0
    }
}

impl State {
    /// Whether a request is left without an answer.
    pub(crate) fn leaves_unanswered(&mut self) -> bool {
        self.unanswered += usize::from(self.is_down);
        self.is_down
    }
}
