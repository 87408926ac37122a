//! What every fake shares: which step was entered how often, which step waits, which step fails next.

use std::collections::{HashMap, HashSet, VecDeque};
use std::fmt;
use std::hash::Hash;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

/// Locks, also after a panic elsewhere: a fake must stay readable for the assertion that follows.
pub(crate) fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The script of one fake: `K` names a step, `F` is a prepared failure of it.
pub(crate) struct Script<K, F> {
    state: Mutex<State<K, F>>,
    changed: watch::Sender<()>,
}

struct State<K, F> {
    entered: HashMap<K, usize>,
    held: HashSet<K>,
    failures: HashMap<K, VecDeque<F>>,
}

impl<K, F> Default for Script<K, F> {
    fn default() -> Self {
        let state = State { entered: HashMap::new(), held: HashSet::new(), failures: HashMap::new() };
        Self { state: Mutex::new(state), changed: watch::Sender::new(()) }
    }
}

impl<K, F> fmt::Debug for Script<K, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Script").finish_non_exhaustive()
    }
}

impl<K: Copy + Eq + Hash, F> Script<K, F> {
    /// Counts an entry, lets others go first as every real call does, waits while the step is held, and takes the failure
    /// that was prepared for it.
    pub(crate) async fn enter(&self, step: K) -> Option<F> {
        *lock(&self.state).entered.entry(step).or_default() += 1;
        self.changed.send_replace(());
        tokio::task::yield_now().await;
        self.until(|state| !state.held.contains(&step)).await;
        lock(&self.state).failures.get_mut(&step)?.pop_front()
    }

    pub(crate) fn hold(&self, step: K) {
        lock(&self.state).held.insert(step);
    }

    pub(crate) fn release(&self, step: K) {
        lock(&self.state).held.remove(&step);
        self.changed.send_replace(());
    }

    pub(crate) fn fail_next(&self, step: K, failure: F) {
        lock(&self.state).failures.entry(step).or_default().push_back(failure);
    }

    pub(crate) fn times(&self, step: K) -> usize {
        lock(&self.state).entered.get(&step).copied().unwrap_or(0)
    }

    /// Returns once the step was entered at least `times` times.
    pub(crate) async fn entered(&self, step: K, times: usize) {
        self.until(|state| state.entered.get(&step).is_some_and(|n| *n >= times)).await;
    }

    async fn until(&self, reached: impl Fn(&State<K, F>) -> bool) {
        let mut changes = self.changed.subscribe();
        while !reached(&lock(&self.state)) {
            // The sender lives as long as `self`, so this cannot fail while we borrow it.
            if changes.changed().await.is_err() {
                return;
            }
        }
    }
}
