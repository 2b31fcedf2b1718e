//! The same work on many things, on all CPUs.

use std::{num::NonZero, panic, thread};

/// `work` on each of `items`, in their order. Panics of `work` go on in the caller.
pub fn map<T: Send, R: Send>(items: Vec<T>, work: impl Fn(T) -> R + Sync) -> Vec<R> {
    let threads = thread::available_parallelism().map_or(1, NonZero::get);
    let share = items.len().div_ceil(threads).max(1);
    let mut items = items.into_iter();
    let shares = std::iter::from_fn(|| Some(items.by_ref().take(share).collect::<Vec<T>>()));
    let shares = shares.take_while(|share| !share.is_empty()).collect::<Vec<_>>();
    let work = &work;
    thread::scope(|scope| {
        let start = |share: Vec<T>| scope.spawn(move || share.into_iter().map(work).collect::<Vec<R>>());
        let threads: Vec<_> = shares.into_iter().map(start).collect();
        let join = |thread: thread::ScopedJoinHandle<'_, _>| {
            thread.join().unwrap_or_else(|payload| panic::resume_unwind(payload))
        };
        threads.into_iter().flat_map(join).collect()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_in_the_order_of_the_items() {
        for count in [0, 1, 2, 3, 7, 100] {
            let results = map((0..count).collect(), |item: usize| item * 2);
            assert_eq!(results, (0..count).map(|item| item * 2).collect::<Vec<_>>());
        }
    }
}
