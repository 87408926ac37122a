//! Which thread carries a desktop: the runtimes that the embedder gave for it, and the least laden of them.
//!
//! What comes before and behind a desktop's stream (TLS handshakes, logins, the database) stays on the runtime that
//! the router was bound on. So a burst of logins costs the desktops no more than the kernel's share of a core.

use std::sync::Arc;

use tokio::runtime::Handle;

/// The runtimes for sessions; none means the router's own.
#[derive(Debug)]
pub(crate) struct Workers(Vec<Worker>);

#[derive(Debug)]
struct Worker {
    runtime: Handle,
    /// Each session on it holds one more.
    load: Arc<()>,
}

/// One session's place on a worker.
#[derive(Debug)]
pub(crate) struct Seat {
    pub(crate) runtime: Handle,
    _load: Arc<()>,
}

impl Workers {
    pub(crate) fn new(runtimes: Vec<Handle>) -> Self {
        Self(runtimes.into_iter().map(|runtime| Worker { runtime, load: Arc::default() }).collect())
    }

    /// A place on the worker that has the fewest sessions; none without workers.
    pub(crate) fn seat(&self) -> Option<Seat> {
        let least = self.0.iter().min_by_key(|worker| Arc::strong_count(&worker.load))?;
        Some(Seat { runtime: least.runtime.clone(), _load: least.load.clone() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_laden_worker_is_next() {
        let runtimes: Vec<_> =
            (0..2).map(|_| tokio::runtime::Builder::new_current_thread().build().unwrap()).collect();
        let workers = Workers::new(runtimes.iter().map(|runtime| runtime.handle().clone()).collect());
        let (first, second) = (workers.seat().unwrap(), workers.seat().unwrap());
        assert_ne!(first.runtime.id(), second.runtime.id());
        let gone = second.runtime.id();
        drop(second);
        assert_eq!(workers.seat().unwrap().runtime.id(), gone, "where somebody left");
        assert!(Workers::new(Vec::new()).seat().is_none());
    }
}
