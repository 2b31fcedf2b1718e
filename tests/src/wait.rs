//! Waiting for something to become true, by asking again and again rather than by sleeping.

use std::{
    env,
    process::{Child, ExitStatus},
    sync::LazyLock,
    thread,
    time::{Duration, Instant},
};

/// Time between two questions.
const PAUSE: Duration = Duration::from_millis(5);

/// The variable that says how many times as long things may take here as on a machine that is not emulated.
const SLOWNESS: &str = "SNIFF_TEST_SLOWNESS";

/// How long to wait here for what takes no longer than `limit` on a machine that is not emulated.
///
/// # Panics
///
/// When that variable is no number.
pub fn patience(limit: Duration) -> Duration {
    static FACTOR: LazyLock<u32> = LazyLock::new(|| {
        env::var(SLOWNESS).map_or(1, |factor| factor.parse().expect("SNIFF_TEST_SLOWNESS is a number"))
    });
    limit * *FACTOR
}

/// Asks `probe` until it answers, and returns the answer.
///
/// # Panics
///
/// When `limit` has passed without an answer; the message says what was waited for.
pub fn until<T>(what: &str, limit: Duration, mut probe: impl FnMut() -> Option<T>) -> T {
    let limit = patience(limit);
    let deadline = Instant::now() + limit;
    loop {
        if let Some(answer) = probe() {
            return answer;
        }
        assert!(Instant::now() < deadline, "waited {limit:?} in vain: {what}");
        thread::sleep(PAUSE);
    }
}

/// Waits until `child` has ended; `None` when it still runs after `limit`.
pub fn exit_within(child: &mut Child, limit: Duration) -> Option<ExitStatus> {
    let deadline = Instant::now() + patience(limit);
    loop {
        if let Some(status) = child.try_wait().expect("waiting for a child of ours") {
            return Some(status);
        }
        if Instant::now() >= deadline {
            return None;
        }
        thread::sleep(PAUSE);
    }
}
